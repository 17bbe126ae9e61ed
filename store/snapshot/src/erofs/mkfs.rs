//! Images from folders, by `mkfs.erofs`.

use std::ffi::OsStr;
use std::path::Path;

use base_errors::{Error, Result};

use crate::error::{failed, io_error};
use crate::program;

const PROGRAM: &str = "mkfs.erofs";

/// Makes the image `layer` of what is in `folder`: under another name first, so that a crash
/// leaves none that is half made. Its data is durable, its name is not. Blocks.
///
/// # Errors
/// Those of the program and of the files.
pub fn from_folder(folder: &Path, layer: &Path) -> Result<()> {
    let temporary = layer.with_extension("erofs.new");
    base_fs::remove_all(&temporary)?;
    let arguments: [&OsStr; 4] = [
        "--quiet".as_ref(),
        // Data beside inodes cannot be mapped into memory by pages.
        "-Enoinline_data".as_ref(),
        temporary.as_os_str(),
        folder.as_os_str(),
    ];
    if let Err(error) = program::run(PROGRAM, &arguments) {
        let _ = base_fs::remove_all(&temporary);
        return Err(Error::from(error).context("failed to convert upper to erofs layer"));
    }
    // DURABILITY: what has the name is whole, as another try takes it for the layer.
    base_fs::failpoint::hit("erofs.image")
        .map_err(failed(&temporary))
        .and_then(|()| {
            let synced = std::fs::File::open(&temporary).and_then(|file| file.sync_all());
            synced.map_err(|error| io_error("sync", &temporary, &error))
        })
        .inspect_err(|_| drop(base_fs::remove_all(&temporary)))?;
    std::fs::rename(&temporary, layer).map_err(|error| io_error("rename", layer, &error).into())
}
