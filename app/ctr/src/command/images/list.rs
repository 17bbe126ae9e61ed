//! `images list` and `images check`.

use api_grpc::images::{Image, ListImagesRequest};
use base_errors::Result;
use client::Client;
use client::image::Platform;

use crate::command::{FirstError, body};
use crate::connection::Connection;
use crate::format::{self, TabWriter};
use crate::{Outcome, log, say};

/// Lists images.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Print only the image refs
    #[arg(long, short)]
    quiet: bool,
    /// Filters
    filters: Vec<String>,
}

async fn images(client: &Client, filters: Vec<String>) -> Result<Vec<Image>> {
    let request = ListImagesRequest { filters };
    Ok(body(client.images().list(request).await)?.images)
}

impl List {
    pub(super) async fn run(self, connection: &Connection) -> Outcome {
        let client = connection.connect().await?;
        let images = images(&client, self.filters).await?;
        if self.quiet {
            for image in &images {
                say!("{}", image.name);
            }
            return Ok(0);
        }
        let host = Platform::host();
        let mut table = TabWriter::narrow();
        table.line("REF\tTYPE\tDIGEST\tSIZE\tPLATFORMS\tLABELS\t");
        for image in &images {
            let target = image.target.clone().unwrap_or_default();
            let size = client.image_size(&target, &host).await.unwrap_or_else(|error| {
                log::error(format!("failed calculating size for image {}", image.name), &error);
                0
            });
            let platforms = match client.image_platforms(&target).await {
                Ok(platforms) if platforms.is_empty() => "-".to_owned(),
                Ok(platforms) => platforms.into_iter().collect::<Vec<_>>().join(","),
                Err(error) => {
                    let text = format!("failed resolving platform for image {}", image.name);
                    log::error(text, &error);
                    "-".to_owned()
                }
            };
            table.line(&format!(
                "{}\t{}\t{}\t{}\t{platforms}\t{}\t",
                image.name,
                target.media_type,
                target.digest,
                format::bytes(size),
                format::labels(&image.labels, "-")
            ));
        }
        table.print()?;
        Ok(0)
    }
}

/// Checks images.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Print only the ready image refs (fully downloaded and unpacked)
    #[arg(long, short)]
    quiet: bool,
    /// Snapshotter name. Empty value stands for the default value.
    #[arg(long, value_name = "value", env = "CONTAINERD_SNAPSHOTTER", default_value = "")]
    snapshotter: String,
    /// Filters
    filters: Vec<String>,
}

/// One line of the table.
struct State {
    status: String,
    size: String,
    complete: bool,
    unpacked: bool,
}

impl Check {
    pub(super) async fn run(self, connection: &Connection) -> Outcome {
        let client = connection.connect().await?;
        let images = images(&client, self.filters.clone()).await?;
        if images.is_empty() {
            return Ok(0);
        }
        let mut table = TabWriter::narrow();
        if !self.quiet {
            table.line("REF\tTYPE\tDIGEST\tSTATUS\tSIZE\tUNPACKED\t");
        }
        let mut first = FirstError::default();
        for image in &images {
            let state = self.state(&client, image).await.unwrap_or_else(|error| {
                log::error(format!("unable to check {}", image.name), &error);
                first.keep(error.context(format!("unable to check {}", image.name)));
                let (status, size) = ("error".to_owned(), "-".to_owned());
                State { status, size, complete: false, unpacked: false }
            });
            if self.quiet {
                if state.complete {
                    say!("{}", image.name);
                }
                continue;
            }
            let target = image.target.clone().unwrap_or_default();
            table.line(&format!(
                "{}\t{}\t{}\t{}\t{}\t{}",
                image.name,
                target.media_type,
                target.digest,
                state.status,
                state.size,
                state.unpacked
            ));
        }
        table.print()?;
        first.outcome()
    }

    async fn state(&self, client: &Client, image: &Image) -> Result<State> {
        let target = image.target.clone().unwrap_or_default();
        let check = client.image_check(&target, &Platform::host()).await?;
        let total = |list: &[client::image::Descriptor]| list.iter().map(|part| part.size).sum();
        let (present, required) = (check.present.len(), check.required.len());
        if !check.available {
            return Ok(State {
                status: format!("unavailable ({present}/?)"),
                size: String::new(),
                complete: false,
                unpacked: false,
            });
        }
        let complete = check.missing.is_empty();
        let word = if complete { "complete" } else { "incomplete" };
        let snapshotter = client.snapshotter_or_default(&self.snapshotter).await?;
        let unpacked = match client.resolve_image(image, &Platform::host()).await {
            Ok(resolved) => client.is_unpacked(&resolved, &snapshotter).await?,
            Err(error) if error.is_not_found() => false,
            Err(error) => return Err(error),
        };
        Ok(State {
            status: format!("{word} ({present}/{required})"),
            size: format!(
                "{}/{}",
                format::bytes(total(&check.present)),
                format::bytes(total(&check.required))
            ),
            complete,
            unpacked,
        })
    }
}
