//! The shim's socket: where it is, and how one of a dead shim is told from a live one.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base_errors::{Error, Result, ResultExt};
use sha2::{Digest, Sha256};

/// Where sockets are unless the daemon says otherwise.
pub const DEFAULT_FOLDER: &str = "/run/containerd/s";

/// The file of a bundle with the address of its shim; daemons of 1.x read nothing else.
pub const ADDRESS_FILE: &str = "address";

/// The scheme of addresses.
const SCHEME: &str = "unix://";

/// The longest path of a socket, as containerd counts.
const MAX_PATH: usize = 106;

/// How often a socket that refuses is tried before it is taken for a dead one: another `start` of
/// the same group may be between its `bind` and its `listen`.
const TRIES: u32 = 3;

/// The pause between these tries.
const PAUSE: Duration = Duration::from_millis(5);

/// A bound socket, or the address of the group's shim that lives already.
#[derive(Debug)]
pub enum Bound {
    /// Ours.
    New(UnixListener),
    /// Another shim serves this group.
    Existing,
}

/// The socket that this process has bound, to be removed once.
///
/// Its path is that of every shim of the group: as soon as it is free, the next one may bind it.
/// So it is removed while somebody still listens there, and never when it is another's already.
#[derive(Debug)]
pub struct Own {
    path: PathBuf,
    identity: Option<Identity>,
    removed: AtomicBool,
}

/// Device and inode.
type Identity = (u64, u64);

impl Own {
    /// The socket at `path`, which has just been bound here.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Own { path: path.to_owned(), identity: identity(path), removed: AtomicBool::new(false) }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, if it is there and this one; does nothing from the second call on.
    pub fn remove(&self) {
        if !self.removed.swap(true, Ordering::Relaxed)
            && self.identity.is_some()
            && identity(&self.path) == self.identity
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What tells the file at `path` from the next one there; `None`: there is none.
fn identity(path: &Path) -> Option<Identity> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// The path of a group's socket: the folder, and the hash of the daemon's address, the namespace,
/// the group and the word `debug` if that is on.
#[must_use]
pub fn path(folder: &Path, daemon: &str, namespace: &str, group: &str, debug: bool) -> PathBuf {
    let mut name = Path::new(daemon).join(namespace).join(group);
    if debug {
        name.push("debug");
    }
    let digest = Sha256::digest(name.as_os_str().as_encoded_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    folder.join(hex)
}

/// The address of the socket at `path`.
#[must_use]
pub fn address(path: &Path) -> String {
    format!("{SCHEME}{}", path.display())
}

/// Binds, or finds a live shim there. The socket of a dead shim is replaced.
///
/// # Errors
/// The system's, with the path.
pub fn bind(path: &Path) -> Result<Bound> {
    let name = || path.display().to_string();
    if path.as_os_str().len() > MAX_PATH {
        let reason = format!("socket path {:?} is longer than {MAX_PATH} bytes", name());
        return Err(Error::invalid_argument(reason));
    }
    if let Some(folder) = path.parent() {
        // COMPAT: containerd gives this folder mode 0600.
        let made = fs::DirBuilder::new().recursive(true).mode(0o600).create(folder);
        made.with_context(name).context("create new shim socket")?;
    }
    for attempt in 0..TRIES {
        match UnixListener::bind(path) {
            Ok(listener) => {
                fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(name)?;
                return Ok(Bound::New(listener));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if is_alive(path) {
                    return Ok(Bound::Existing);
                }
                if attempt + 1 < TRIES {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(error).context("remove pre-existing socket");
                    }
                    _ => {}
                }
            }
            Err(error) => return Err(error).with_context(name).context("create new shim socket"),
        }
    }
    let listener =
        UnixListener::bind(path).with_context(name).context("try create new shim socket 2x")?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(name)?;
    Ok(Bound::New(listener))
}

/// True if somebody listens there.
#[must_use]
pub fn is_alive(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Writes the address into the bundle, whole or not at all.
///
/// # Errors
/// The system's, with the path.
pub fn write_address(bundle: &Path, address: &str) -> Result<()> {
    let path = bundle.join(ADDRESS_FILE);
    let temporary = bundle.join(".address");
    fs::write(&temporary, address)
        .and_then(|()| fs::rename(&temporary, &path))
        .with_context(|| format!("write {}", path.display()))
}

/// Removes the socket that the bundle's address names, if nobody listens there any more.
pub fn remove_stale(bundle: &Path) {
    let Ok(address) = fs::read_to_string(bundle.join(ADDRESS_FILE)) else { return };
    if let Some(path) = address.trim().strip_prefix(SCHEME) {
        let path = Path::new(path);
        let found = identity(path);
        // Not one that has come meanwhile.
        if path.is_absolute() && !is_alive(path) && found.is_some() && identity(path) == found {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_hash_that_containerd_uses() {
        let path = path(
            Path::new(DEFAULT_FOLDER),
            "/run/containerd/containerd.sock",
            "default",
            "a",
            false,
        );
        // printf /run/containerd/containerd.sock/default/a | sha256sum
        let name = path.file_name().unwrap().to_str().unwrap();
        let digest = Sha256::digest(b"/run/containerd/containerd.sock/default/a");
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(name, hex);
        assert_eq!(path.as_os_str().len(), DEFAULT_FOLDER.len() + 65);
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_found() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = folder.path().join("s/x");
        let Bound::New(listener) = bind(&path).unwrap() else { panic!("nobody was there") };
        assert!(matches!(bind(&path).unwrap(), Bound::Existing));
        write_address(folder.path(), &address(&path)).unwrap();
        remove_stale(folder.path());
        assert!(path.exists(), "a live socket stays");
        drop(listener);
        let Bound::New(listener) = bind(&path).unwrap() else { panic!("the other one is dead") };
        drop(listener);
        remove_stale(folder.path());
        assert!(!path.exists());
    }

    #[test]
    fn the_socket_of_the_next_shim_stays() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = folder.path().join("x");
        let Bound::New(first) = bind(&path).unwrap() else { panic!("nobody was there") };
        let own = Own::new(&path);
        own.remove();
        assert!(!path.exists());
        // The first one still drains its connections.
        let Bound::New(second) = bind(&path).unwrap() else { panic!("the path is free") };
        own.remove();
        drop(first);
        own.remove();
        assert!(is_alive(&path), "removed once");

        let own = Own::new(&path);
        drop(second);
        let Bound::New(third) = bind(&path).unwrap() else { panic!("the second one is dead") };
        own.remove();
        assert!(is_alive(&path), "another one is there");
        drop(third);
    }
}
