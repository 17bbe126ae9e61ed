//! `oci`.

use base_errors::{Error, Result};
use clap::Subcommand;
use runtime_spec::SpecBuilder;

use crate::{Outcome, format, say};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See the output of the default OCI spec
    Spec {
        /// Platform of the spec to print (Examples: 'linux/arm64', 'windows/amd64')
        #[arg(long, value_name = "value")]
        platform: Option<String>,
    },
}

impl Command {
    pub(crate) fn run(self) -> Outcome {
        let Command::Spec { platform } = self;
        if let Some(platform) = platform {
            let platform = client::image::Platform::parse(&platform)?;
            if platform.os != "linux" {
                let text = format!("no spec for operating system {:?}", platform.os);
                return Err(Error::not_implemented(text));
            }
        }
        say!("{}", default_spec()?);
        Ok(0)
    }
}

fn default_spec() -> Result<String> {
    // COMPAT: without a container there is no name in the group's path, and devices come later.
    let builder = SpecBuilder::new("default", "").edit(|spec| {
        spec.linux.resources.devices.truncate(1);
        "/default".clone_into(&mut spec.linux.cgroups_path);
    });
    let (_, json) = builder.build_any();
    let json = String::from_utf8(json).map_err(|error| Error::internal(error.to_string()))?;
    Ok(format::indented(&json, "    "))
}
