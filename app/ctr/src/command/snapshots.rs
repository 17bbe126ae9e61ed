//! `snapshots`.

mod diff;
mod prune;

use std::collections::BTreeMap;
use std::time::SystemTime;

use api_grpc::images::ListImagesRequest;
use api_grpc::snapshots::{
    CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    StatSnapshotRequest, UpdateSnapshotRequest, UsageRequest, ViewSnapshotRequest,
};
use api_shim::types::Mount;
use base_errors::Result;
use base_ident::Digest;
use clap::Subcommand;
use client::Client;
use client::image::Platform;
use serde::Serialize;

use super::content::parse_digest;
use super::{body, plain, usage};
use crate::connection::Connection;
use crate::format::{self, TabWriter};
use crate::{Outcome, say};

/// Manages snapshots.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Snapshots {
    /// Snapshotter name. Empty value stands for the default value.
    #[arg(long, value_name = "value", env = "CONTAINERD_SNAPSHOTTER", default_value = "")]
    snapshotter: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Commit an active snapshot into the provided name
    Commit {
        /// Name, then the active snapshot
        words: Vec<String>,
    },
    /// Get the diff of two snapshots. the default second snapshot is the first snapshot's parent.
    Diff(diff::Diff),
    /// Get info about a snapshot
    Info {
        /// Snapshot
        key: Option<String>,
    },
    /// List snapshots
    #[command(visible_alias = "ls")]
    List {
        /// Not used
        words: Vec<String>,
    },
    /// Mount gets mount commands for the snapshots
    #[command(visible_aliases = ["m", "mount"])]
    Mounts {
        /// Target, then the snapshot
        words: Vec<String>,
    },
    /// Prepare a snapshot from a committed snapshot
    Prepare {
        /// Mount target path, will print mount, if provided
        #[arg(long, short, value_name = "value")]
        target: Option<String>,
        /// Print out snapshot mounts as JSON
        #[arg(long)]
        mounts: bool,
        /// Key, then the parent
        words: Vec<String>,
    },
    /// Remove snapshots that no image, container, sandbox or lease needs
    Prune(prune::Prune),
    /// Remove snapshots
    #[command(visible_aliases = ["del", "remove", "rm"], name = "delete")]
    Delete {
        /// Snapshots
        keys: Vec<String>,
    },
    /// Add labels to content
    Label {
        /// Snapshot, then labels `key=value`; without a value the label is cleared
        words: Vec<String>,
    },
    /// Display tree view of snapshot branches
    Tree,
    /// Unpack applies layers from a manifest to a snapshot
    Unpack {
        /// Synchronize the underlying filesystem containing files when unpack images
        #[arg(long)]
        sync_fs: bool,
        /// Digest of a manifest
        digest: Option<String>,
    },
    /// Usage snapshots
    Usage {
        /// Display size in bytes
        #[arg(short)]
        bytes: bool,
        /// Snapshots; all if there are none
        keys: Vec<String>,
    },
    /// Create a read-only snapshot from a committed snapshot
    View {
        /// Mount target path, will print mount, if provided
        #[arg(long, short, value_name = "value")]
        target: Option<String>,
        /// Print out snapshot mounts as JSON
        #[arg(long)]
        mounts: bool,
        /// Key, then the parent
        words: Vec<String>,
    },
}

/// The snapshotter that was asked for, and how to reach it.
struct Reached {
    client: Client,
    snapshotter: String,
}

impl Snapshots {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        let reached = async || -> Result<Reached> {
            let snapshotter = match self.snapshotter.as_str() {
                "" => client::DEFAULT_SNAPSHOTTER,
                name => name,
            };
            let client = connection.connect().await?;
            Ok(Reached { client, snapshotter: snapshotter.to_owned() })
        };
        match &self.command {
            Command::Commit { words } => match &words[..] {
                [name, active] => reached().await?.commit(name, active).await,
                _ => usage(&["snapshots", "commit"]),
            },
            Command::Diff(diff) => diff.run(reached().await?).await,
            Command::Info { key } => match key {
                Some(key) => reached().await?.info(key).await,
                None => usage(&["snapshots", "info"]),
            },
            Command::List { .. } => reached().await?.list().await,
            Command::Mounts { words } => match &words[..] {
                [target, key] => {
                    let reached = reached().await?;
                    print_mounts(target, &reached.mounts(key).await?)
                }
                _ => usage(&["snapshots", "mounts"]),
            },
            Command::Prepare { target, mounts, words } => match &words[..] {
                [key] => reached().await?.prepare(key, "", target.as_deref(), *mounts).await,
                [key, parent] => {
                    reached().await?.prepare(key, parent, target.as_deref(), *mounts).await
                }
                _ => usage(&["snapshots", "prepare"]),
            },
            Command::View { target, mounts, words } => match &words[..] {
                [key] => reached().await?.view(key, "", target.as_deref(), *mounts).await,
                [key, parent] => {
                    reached().await?.view(key, parent, target.as_deref(), *mounts).await
                }
                _ => usage(&["snapshots", "view"]),
            },
            Command::Prune(prune) => prune.run(reached().await?).await,
            Command::Delete { keys } => reached().await?.delete(keys).await,
            Command::Label { words } => reached().await?.label(words).await,
            Command::Tree => reached().await?.tree().await,
            Command::Unpack { sync_fs: _, digest } => {
                let digest = parse_digest(digest.as_deref().unwrap_or_default())?;
                reached().await?.unpack(&digest).await
            }
            Command::Usage { bytes, keys } => reached().await?.usage(*bytes, keys).await,
        }
    }
}

/// What keeps a snapshot that nothing refers to.
fn root_labels() -> BTreeMap<String, String> {
    let now = format::rfc3339_seconds(SystemTime::now());
    [("containerd.io/gc.root".to_owned(), now)].into()
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Unknown => "Unknown",
        Kind::View => "View",
        Kind::Active => "Active",
        Kind::Committed => "Committed",
    }
}

/// The commands that mount at `target`.
fn print_mounts(target: &str, mounts: &[Mount]) -> Outcome {
    for mount in mounts {
        let place = match mount.target.trim_matches('/') {
            "" => target.to_owned(),
            below => format!("{}/{below}", target.trim_end_matches('/')),
        };
        let options = mount.options.join(",");
        say!("mount -t {} {} {place} -o {options}", mount.r#type, mount.source);
    }
    Ok(0)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MountInfo<'a> {
    r#type: &'a str,
    source: &'a str,
    target: &'a str,
    options: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct InfoJson<'a> {
    kind: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    parent: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    created: String,
    updated: String,
}

impl Reached {
    async fn commit(self, name: &str, active: &str) -> Outcome {
        let request = CommitSnapshotRequest {
            snapshotter: self.snapshotter,
            name: name.to_owned(),
            key: active.to_owned(),
            labels: root_labels(),
            ..CommitSnapshotRequest::default()
        };
        body(self.client.snapshots().commit(request).await)?;
        Ok(0)
    }

    async fn stat(&self, key: &str) -> Result<Info> {
        let request =
            StatSnapshotRequest { snapshotter: self.snapshotter.clone(), key: key.to_owned() };
        Ok(body(self.client.snapshots().stat(request).await)?.info.unwrap_or_default())
    }

    async fn info(self, key: &str) -> Outcome {
        let info = self.stat(key).await?;
        format::print_indented(&InfoJson {
            kind: kind_name(info.kind()),
            name: &info.name,
            parent: &info.parent,
            labels: &info.labels,
            created: format::rfc3339(info.created_at.as_ref()),
            updated: format::rfc3339(info.updated_at.as_ref()),
        })?;
        Ok(0)
    }

    async fn all(&self) -> Result<Vec<Info>> {
        let request = ListSnapshotsRequest {
            snapshotter: self.snapshotter.clone(),
            ..ListSnapshotsRequest::default()
        };
        let mut answers = body(self.client.snapshots().list(request).await)?;
        let mut all = Vec::new();
        while let Some(part) = answers.message().await.map_err(api_grpc::status::from_status)? {
            all.extend(part.info);
        }
        Ok(all)
    }

    async fn list(self) -> Outcome {
        let mut table = TabWriter::narrow();
        table.line("KEY\tPARENT\tKIND\t");
        for info in self.all().await? {
            let kind = kind_name(info.kind());
            table.line(&format!("{}\t{}\t{kind}\t", info.name, info.parent));
        }
        table.print()?;
        Ok(0)
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let request = MountsRequest { snapshotter: self.snapshotter.clone(), key: key.to_owned() };
        Ok(body(self.client.snapshots().mounts(request).await)?.mounts)
    }

    async fn prepare(
        self,
        key: &str,
        parent: &str,
        target: Option<&str>,
        as_json: bool,
    ) -> Outcome {
        let request = PrepareSnapshotRequest {
            snapshotter: self.snapshotter,
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: root_labels(),
        };
        let mounts = body(self.client.snapshots().prepare(request).await)?.mounts;
        show(target, as_json, &mounts)
    }

    async fn view(self, key: &str, parent: &str, target: Option<&str>, as_json: bool) -> Outcome {
        let request = ViewSnapshotRequest {
            snapshotter: self.snapshotter,
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: root_labels(),
        };
        let mounts = body(self.client.snapshots().view(request).await)?.mounts;
        show(target, as_json, &mounts)
    }

    async fn delete(self, keys: &[String]) -> Outcome {
        for key in keys {
            self.client
                .remove_snapshot(&self.snapshotter, key)
                .await
                .map_err(|error| error.context(format!("failed to remove {key:?}")))?;
        }
        Ok(0)
    }

    async fn label(self, words: &[String]) -> Outcome {
        let (name, labels) =
            words.split_first().ok_or_else(|| plain("please specify a snapshot"))?;
        let labels = format::parse_labels(labels);
        let info = if labels.is_empty() {
            self.stat(name).await?
        } else {
            let update_mask = Some(format::label_paths(&labels));
            let info = Some(Info { name: name.clone(), labels, ..Info::default() });
            let request =
                UpdateSnapshotRequest { snapshotter: self.snapshotter, info, update_mask };
            body(self.client.snapshots().update(request).await)?.info.unwrap_or_default()
        };
        say!("{}", format::labels(&info.labels, ""));
        Ok(0)
    }

    async fn tree(self) -> Outcome {
        let all = self.all().await?;
        let mut children: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for info in &all {
            children.entry(&info.parent).or_default().push(&info.name);
        }
        // Roots, and those whose parent is not told.
        let known = |name: &str| all.iter().any(|info| info.name == name);
        let mut stack: Vec<(&str, usize)> = all
            .iter()
            .rev()
            .filter(|info| info.parent.is_empty() || !known(&info.parent))
            .map(|info| (info.name.as_str(), 0))
            .collect();
        while let Some((name, level)) = stack.pop() {
            let branch = if level > 0 { "\\_" } else { "" };
            say!("{}{branch} {name}", "  ".repeat(level));
            // Each name is taken once, so that a circle of parents ends.
            for child in children.remove(name).unwrap_or_default().into_iter().rev() {
                stack.push((child, level + 1));
            }
        }
        Ok(0)
    }

    async fn unpack(self, digest: &Digest) -> Outcome {
        use std::io::Write as _;
        let images = body(self.client.images().list(ListImagesRequest::default()).await)?.images;
        let target = images
            .into_iter()
            .filter_map(|image| image.target)
            .find(|target| target.digest == digest.as_str())
            .ok_or_else(|| plain("manifest not found"))?;
        let mut stdout = std::io::stdout();
        write!(stdout, "unpacking {digest} ({})...", target.media_type)?;
        stdout.flush()?;
        let unpacked = async {
            let resolved = self.client.resolve_target(&target.into(), &Platform::host()).await?;
            self.client.unpack(&resolved, &self.snapshotter).await
        };
        if let Err(error) = unpacked.await {
            say!("");
            return Err(error);
        }
        say!("done");
        Ok(0)
    }

    async fn usage(self, in_bytes: bool, keys: &[String]) -> Outcome {
        let listed = keys.is_empty();
        let keys = if listed {
            self.all().await?.into_iter().map(|info| info.name).collect()
        } else {
            keys.to_vec()
        };
        let mut table = TabWriter::narrow();
        table.line("KEY\tSIZE\tINODES\t");
        for key in keys {
            let request = UsageRequest { snapshotter: self.snapshotter.clone(), key: key.clone() };
            let usage = match body(self.client.snapshots().usage(request).await) {
                Ok(usage) => usage,
                // Removed since it was listed.
                Err(error) if error.is_not_found() && listed => continue,
                Err(error) => return Err(error),
            };
            let size = if in_bytes { usage.size.to_string() } else { format::bytes(usage.size) };
            table.line(&format!("{key}\t{size}\t{}\t", usage.inodes));
        }
        table.print()?;
        Ok(0)
    }
}

fn show(target: Option<&str>, as_json: bool, mounts: &[Mount]) -> Outcome {
    if let Some(target) = target.filter(|target| !target.is_empty()) {
        print_mounts(target, mounts)?;
    }
    if as_json {
        let mounts: Vec<_> = mounts
            .iter()
            .map(|mount| MountInfo {
                r#type: &mount.r#type,
                source: &mount.source,
                target: &mount.target,
                options: &mount.options,
            })
            .collect();
        format::print_indented(&mounts)?;
    }
    Ok(0)
}
