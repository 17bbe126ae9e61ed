//! From the name of a runtime to the program of its shim.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::ShimError;

/// Runtimes of older containerds that mean the runc shim of today.
///
/// COMPAT: clients of 1.0 name the runtime `io.containerd.runtime.v1.linux`, those of 1.2 to 1.4
/// `io.containerd.runc.v1`.
const RENAMED: [&str; 2] = ["io.containerd.runtime.v1.linux", "io.containerd.runc.v1"];

/// The runtime of today.
pub(crate) const RUNC: &str = "io.containerd.runc.v2";

/// The program's name: `containerd-shim-` and the last two parts of the runtime's name.
fn binary_name(runtime: &str) -> Option<String> {
    let mut parts = runtime.rsplit('.');
    let version = parts.next()?;
    let name = parts.next()?;
    if runtime.starts_with('.') || name.is_empty() || version.is_empty() {
        return None;
    }
    Some(format!("containerd-shim-{name}-{version}"))
}

/// The program of the shim for `runtime`: itself if it is an absolute path, else by its name in
/// the search path, then beside `daemon`.
///
/// # Errors
/// [`ShimError`] if the name makes no sense or there is no such program.
pub(crate) fn shim_program(runtime: &str, daemon: &Path) -> Result<PathBuf, ShimError> {
    shim_program_in(runtime, daemon, &env::var_os("PATH").unwrap_or_default())
}

fn shim_program_in(
    runtime: &str,
    daemon: &Path,
    search: &std::ffi::OsStr,
) -> Result<PathBuf, ShimError> {
    if runtime.is_empty() {
        return Err(ShimError::RuntimeMissing);
    }
    let path = Path::new(runtime);
    if path.is_absolute() {
        return match fs::metadata(path) {
            Ok(_) => Ok(path.to_owned()),
            Err(source) => Err(ShimError::RuntimePath { path: path.to_owned(), source }),
        };
    }
    let invalid = || ShimError::RuntimeName(runtime.to_owned());
    if runtime.contains('/') {
        return Err(invalid());
    }
    let known = if RENAMED.contains(&runtime) { RUNC } else { runtime };
    let binary = binary_name(known).ok_or_else(invalid)?;
    env::split_paths(search)
        // A relative entry would depend on where the daemon happens to stand.
        .filter(|folder| folder.is_absolute())
        .chain(daemon.parent().map(Path::to_owned))
        .map(|folder| folder.join(&binary))
        .find(|candidate| is_program(candidate))
        .ok_or_else(|| ShimError::NotInstalled { runtime: runtime.to_owned(), binary })
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn names_become_programs() {
        assert_eq!(binary_name("io.containerd.runc.v2").unwrap(), "containerd-shim-runc-v2");
        assert_eq!(binary_name("kata.v2").unwrap(), "containerd-shim-kata-v2");
        for bad in ["runc", "", ".v2", "a..v2", "io."] {
            assert_eq!(binary_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_search_path_comes_before_the_daemons_folder() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let (first, beside) = (folder.path().join("path"), folder.path().join("bin"));
        let program = |dir: &Path, name: &str| {
            fs::create_dir_all(dir).unwrap();
            fs::write(dir.join(name), "").unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        };
        program(&beside, "containerd-shim-runc-v2");
        let daemon = beside.join("containerd");
        let find = |name: &str| shim_program_in(name, &daemon, first.as_os_str());
        assert_eq!(find("io.containerd.runc.v2").unwrap(), beside.join("containerd-shim-runc-v2"));
        program(&first, "containerd-shim-runc-v2");
        for name in
            ["io.containerd.runc.v2", "io.containerd.runtime.v1.linux", "io.containerd.runc.v1"]
        {
            assert_eq!(find(name).unwrap(), first.join("containerd-shim-runc-v2"), "{name}");
        }
        let absolute = first.join("containerd-shim-runc-v2");
        assert_eq!(find(absolute.to_str().unwrap()).unwrap(), absolute);
        assert!(find("io.containerd.none.v1").unwrap_err().to_string().ends_with(
            "runtime \"io.containerd.none.v1\" binary not installed \"containerd-shim-none-v1\": \
             file does not exist"
        ));
        assert!(matches!(find("a/b.c"), Err(ShimError::RuntimeName(_))));
        assert!(matches!(find("/no/such"), Err(ShimError::RuntimePath { .. })));
        assert!(matches!(find(""), Err(ShimError::RuntimeMissing)));
    }
}
