//! The sockets on which the daemon listens.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{Gid, Uid};
use tokio::net::UnixListener;

/// Mode of the daemon's sockets: their owner and group may connect.
const SOCKET_MODE: u32 = 0o660;

/// Mode of a folder that is made for a socket.
const FOLDER_MODE: u32 = 0o770;

/// Listens at `path`, in place of any socket that is there, owned by `uid` and `gid`.
pub fn listen(path: &Path, uid: u32, gid: u32) -> Result<UnixListener> {
    let own = |path: &Path| {
        rustix::fs::chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .with_context(|| format!("chown {} to {uid}:{gid}", path.display()))
    };
    if let Some(folder) = path.parent()
        && !folder.exists()
    {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(FOLDER_MODE))?;
        own(folder)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove the old socket {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))
        .with_context(|| format!("chmod {}", path.display()))?;
    own(path)?;
    Ok(listener)
}
