//! From the name of a runtime to the program of its shim.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use api_shim::{Any, linux_runc, runc, typeurl};

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

/// Options of a container's runtime as shims of today read them.
///
/// COMPAT: clients of 1.0 send `containerd.linux.runc.RuncOptions`, which only old shims know.
/// What cannot be read is passed on: the shim says what is wrong with it.
pub(crate) fn runtime_options(options: Option<Any>) -> Option<Any> {
    let Some(old) = options.as_ref().and_then(old_runtime) else { return options };
    let linux_runc::RuncOptions { runtime, runtime_root, systemd_cgroup, .. } = old;
    let (binary_name, root) = (runtime, runtime_root);
    let new = runc::Options { binary_name, root, systemd_cgroup, ..runc::Options::default() };
    Some(typeurl::encode(&new))
}

fn old_runtime(options: &Any) -> Option<linux_runc::RuncOptions> {
    typeurl::decode(options).ok()
}

/// Options of a task: its own, else those of its runtime.
///
/// COMPAT: `containerd.linux.runc.CreateOptions` of 1.0 stand beside the options of the runtime, they
/// do not take their place.
pub(crate) fn task_options(task: Option<Any>, runtime: Option<&Any>) -> Option<Any> {
    let runtime = runtime_options(runtime.cloned());
    let Some(task) = task.filter(|options| !options.value.is_empty()) else { return runtime };
    let Ok(old) = typeurl::decode::<linux_runc::CreateOptions>(&task) else {
        return runtime_options(Some(task));
    };
    let both = runtime.and_then(|runtime| typeurl::decode::<runc::Options>(&runtime).ok());
    Some(typeurl::encode(&runc::Options {
        no_pivot_root: old.no_pivot_root,
        no_new_keyring: old.no_new_keyring,
        shim_cgroup: old.shim_cgroup,
        io_uid: old.io_uid,
        io_gid: old.io_gid,
        ..both.unwrap_or_default()
    }))
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
    fn options_of_1_0_become_those_of_today() {
        let runtime = typeurl::encode(&linux_runc::RuncOptions {
            runtime: "crun".to_owned(),
            runtime_root: "/run/old".to_owned(),
            systemd_cgroup: true,
            ..linux_runc::RuncOptions::default()
        });
        let task = typeurl::encode(&linux_runc::CreateOptions {
            no_pivot_root: true,
            io_uid: 7,
            ..linux_runc::CreateOptions::default()
        });
        let read = |options: Option<Any>| typeurl::decode::<runc::Options>(&options.unwrap());
        let alone = read(task_options(None, Some(&runtime))).unwrap();
        assert_eq!(alone, read(runtime_options(Some(runtime.clone()))).unwrap());
        assert_eq!((alone.binary_name.as_str(), alone.root.as_str()), ("crun", "/run/old"));
        assert!(alone.systemd_cgroup && !alone.no_pivot_root);
        let both = read(task_options(Some(task.clone()), Some(&runtime))).unwrap();
        assert_eq!((both.binary_name.as_str(), both.no_pivot_root, both.io_uid), ("crun", true, 7));
        assert!(read(task_options(Some(task), None)).unwrap().no_pivot_root);

        // Those of today are passed on as they are, and a task's own take the runtime's place.
        let new = typeurl::encode(&runc::Options { io_gid: 5, ..runc::Options::default() });
        assert_eq!(task_options(Some(new.clone()), Some(&runtime)), Some(new.clone()));
        assert_eq!(runtime_options(Some(new.clone())), Some(new));
        let foreign = Any { type_url: "kata.Options".to_owned(), value: vec![0xff] };
        assert_eq!(task_options(Some(foreign.clone()), None), Some(foreign));
        assert_eq!(task_options(None, None), None);
    }

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
