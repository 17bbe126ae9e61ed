//! The OCI runtime of 0.2, a program and its global arguments, as options of our shim.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use api_shim::runc;

use crate::ApiError;

/// Arguments that take a value and that a shim gives by itself.
const OURS: [&str; 2] = ["--log", "--log-format"];

/// The options for `program` with `arguments`.
///
/// The shim knows the folder of the runtime's state and whether systemd makes control groups; in
/// that folder it has one of its own for each namespace. For other arguments a program is kept in
/// `root` that adds them.
///
/// # Errors
/// [`ApiError::Shim`] if the runtime is not installed, in 0.2's words; [`ApiError::File`].
pub(crate) fn options(
    program: &str,
    arguments: &[String],
    no_pivot_root: bool,
    root: &Path,
) -> Result<runc::Options, ApiError> {
    let found = self::program(program)
        .ok_or_else(|| ApiError::Shim(format!("{program} not installed on system")))?;
    let mut options = runc::Options {
        binary_name: program.to_owned(),
        no_pivot_root,
        ..runc::Options::default()
    };
    let mut others = Vec::new();
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let long = word.trim_start_matches('-');
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        let flag = format!("--{name}");
        if !word.starts_with('-') {
            others.push(word.to_owned());
        } else if name == "root" {
            let value = value.or_else(|| words.next());
            value.unwrap_or_default().clone_into(&mut options.root);
        } else if name == "systemd-cgroup" {
            options.systemd_cgroup = value.is_none_or(|value| value == "true");
        } else if OURS.contains(&flag.as_str()) {
            // The shim reads the log to explain failures.
            if value.is_none() {
                words.next();
            }
        } else {
            others.push(word.to_owned());
        }
    }
    if !others.is_empty() {
        options.binary_name = wrapper(root, &found, &others)?.to_string_lossy().into_owned();
    }
    Ok(options)
}

/// The file of a program that is installed.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    find(name, &env::var_os("PATH").unwrap_or_default())
}

/// The file of a program: as it is if it has a slash, else in the folders of `search`.
fn find(program: &str, search: &OsStr) -> Option<PathBuf> {
    let is_program = |path: &Path| {
        fs::metadata(path)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    if program.is_empty() || program.contains('\0') {
        return None;
    }
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| is_program(path));
    }
    env::split_paths(search).map(|folder| folder.join(program)).find(|path| is_program(path))
}

/// A program that runs `program` with `arguments` before its own; made once for each such list.
fn wrapper(root: &Path, program: &Path, arguments: &[String]) -> Result<PathBuf, ApiError> {
    let quoted = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
    let mut line = quoted(&program.to_string_lossy());
    for argument in arguments {
        line.push(' ');
        line.push_str(&quoted(argument));
    }
    let text = format!("#!/bin/sh\nexec {line} \"$@\"\n");
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let path = root.join("runtimes").join(format!("{:016x}", hasher.finish()));
    if fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return Ok(path);
    }
    let write = || -> io::Result<()> {
        fs::create_dir_all(root.join("runtimes"))?;
        let new = path.with_extension(std::process::id().to_string());
        fs::write(&new, &text)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
        fs::rename(&new, &path)
    };
    write().map_err(|error| ApiError::file("write", &path, error))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn known_arguments_become_options() {
        let root = Path::new("/nowhere");
        let get = |text: &str| options("sh", &words(text), true, root).unwrap();
        let plain = get("");
        assert_eq!((plain.binary_name.as_str(), plain.no_pivot_root), ("sh", true));
        assert_eq!(get("--root=/r").root, "/r");
        assert_eq!(get("-root /r --log /x --log-format=json").root, "/r");
        assert!(get("--systemd-cgroup").systemd_cgroup);
        assert!(get("--systemd-cgroup=true --root /r").systemd_cgroup);
        assert!(!get("--systemd-cgroup=false").systemd_cgroup);
        assert_eq!(get("--root").root, "");
    }

    #[test]
    fn other_arguments_are_kept_in_a_program() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let arguments = ["-c", "echo it\\'s \"$@\"", "sh"].map(str::to_owned);
        let made = options("sh", &arguments, false, folder.path()).unwrap();
        let again = options("sh", &arguments, false, folder.path()).unwrap();
        assert_eq!(made.binary_name, again.binary_name);
        let output = std::process::Command::new(&made.binary_name).args(["a b", "c"]).output();
        let output = output.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "it's a b c");
    }

    #[test]
    fn a_missing_runtime_is_told_in_0_2s_words() {
        for missing in ["no-such-runtime", "/no/such", "", "/etc/passwd", "a\0b"] {
            let error = options(missing, &[], false, Path::new("/")).unwrap_err();
            assert_eq!(error.to_string(), format!("shim error: {missing} not installed on system"));
        }
    }
}
