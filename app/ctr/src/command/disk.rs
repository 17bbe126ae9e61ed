//! `disk`: where the space is.

use client::disk::Holder;

use crate::connection::Connection;
use crate::format::{self, TabWriter};
use crate::{Outcome, say};

/// Explains the disk: what each image, container, sandbox and lease needs, and what nobody does.
#[derive(Debug, clap::Args)]
pub(crate) struct Disk {
    /// Display sizes in bytes
    #[arg(short)]
    bytes: bool,
    /// Only what has no owner: kept by a label alone, or for the next collection
    #[arg(long)]
    orphans: bool,
}

impl Disk {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        let report = connection.connect().await?.inventory().await?.report();
        let size = |bytes: u64| {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            if self.bytes { bytes.to_string() } else { format::bytes(bytes) }
        };
        let mut table = TabWriter::narrow();
        table.line("KIND\tNAME\tCONTENT\tSNAPSHOTS\tSHARED\tEXCLUSIVE\t");
        for usage in &report.usages {
            let orphan = matches!(usage.holder, Holder::Label | Holder::Ingest | Holder::Orphan);
            if self.orphans && !orphan {
                continue;
            }
            let (kind, name) = (usage.holder.as_str(), &usage.name);
            let sizes = [usage.content, usage.snapshots, usage.shared, usage.exclusive].map(size);
            table.line(&format!("{kind}\t{name}\t{}\t", sizes.join("\t")));
        }
        table.print()?;
        let (total, orphaned) = (size(report.total), size(report.orphaned));
        say!("total {total}, of which the next collection frees {orphaned}");
        Ok(0)
    }
}
