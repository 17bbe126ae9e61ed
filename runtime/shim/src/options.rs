//! Options of the runc runtime: as they come on the wire, and as they stay in the bundle for
//! `delete`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use api_shim::{Any, Name, linux_runc, runc, runtimeoptions, typeurl};
use base_errors::{Error, Result, ResultExt};
use serde::{Deserialize, Serialize};

/// Where runtimes keep their state unless the options say otherwise.
pub(crate) const DEFAULT_ROOT: &str = "/run/containerd/runc";

/// The file with all options.
const OPTIONS_FILE: &str = "options.json";

/// The file with the name of the runtime program alone; older shims read only this one.
const RUNTIME_FILE: &str = "runtime";

/// The options, under the names that Go's JSON gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Options {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) no_pivot_root: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) no_new_keyring: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) shim_cgroup: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) io_uid: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) io_gid: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) binary_name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) root: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) systemd_cgroup: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) criu_image_path: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) criu_work_path: String,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Options {
    /// The folder of the runtime's state for a namespace.
    pub(crate) fn runtime_root(&self, namespace: &str) -> PathBuf {
        let root = if self.root.is_empty() { DEFAULT_ROOT } else { &self.root };
        Path::new(root).join(namespace)
    }

    /// Leaves the options in the bundle, for `delete`.
    ///
    /// # Errors
    /// The system's, with the path.
    pub(crate) fn write(&self, bundle: &Path) -> Result<()> {
        let json = serde_json::to_vec(self)
            .map_err(|error| Error::internal(format!("encode runtime options: {error}")))?;
        write_private(&bundle.join(OPTIONS_FILE), &json)?;
        write_private(&bundle.join(RUNTIME_FILE), self.binary_name.as_bytes())
    }

    /// Reads what [`Options::write`], or containerd's own shim, has left. A bundle without any has
    /// the defaults.
    ///
    /// # Errors
    /// Data loss if the file is no JSON; the system's.
    pub(crate) fn read(bundle: &Path) -> Result<Self> {
        let path = bundle.join(OPTIONS_FILE);
        let mut options: Options = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| Error::data_loss(format!("{}: {error}", path.display())))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Options::default(),
            Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
        };
        if options.binary_name.is_empty()
            && let Ok(name) = fs::read_to_string(bundle.join(RUNTIME_FILE))
        {
            options.binary_name = name.trim().to_owned();
        }
        Ok(options)
    }
}

impl From<runc::Options> for Options {
    fn from(options: runc::Options) -> Self {
        Options {
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            shim_cgroup: options.shim_cgroup,
            io_uid: options.io_uid,
            io_gid: options.io_gid,
            binary_name: options.binary_name,
            root: options.root,
            systemd_cgroup: options.systemd_cgroup,
            criu_image_path: options.criu_image_path,
            criu_work_path: options.criu_work_path,
        }
    }
}

/// The options in an `Any`; none are the defaults.
///
/// Known: those of `containerd.runc.v1`, the two of `containerd.linux.runc` that clients of 1.0
/// send, and `runtimeoptions.v1`, which has nothing for runc but a configuration file that it would
/// not read.
///
/// # Errors
/// Invalid argument for other types and for damaged bytes.
pub(crate) fn decode(any: Option<&Any>) -> Result<Options> {
    let Some(any) = any.filter(|any| !any.type_url.is_empty()) else {
        return Ok(Options::default());
    };
    let damaged =
        |error: typeurl::TypeUrlError| Error::invalid_argument(format!("runtime options: {error}"));
    let name = typeurl::name(&any.type_url);
    if name == runc::Options::full_name() {
        return Ok(typeurl::decode::<runc::Options>(any).map_err(damaged)?.into());
    }
    if name == linux_runc::CreateOptions::full_name() {
        let old = typeurl::decode::<linux_runc::CreateOptions>(any).map_err(damaged)?;
        return Ok(Options {
            no_pivot_root: old.no_pivot_root,
            no_new_keyring: old.no_new_keyring,
            shim_cgroup: old.shim_cgroup,
            io_uid: old.io_uid,
            io_gid: old.io_gid,
            ..Options::default()
        });
    }
    if name == linux_runc::RuncOptions::full_name() {
        let old = typeurl::decode::<linux_runc::RuncOptions>(any).map_err(damaged)?;
        return Ok(Options {
            binary_name: old.runtime,
            root: old.runtime_root,
            systemd_cgroup: old.systemd_cgroup,
            ..Options::default()
        });
    }
    if name == runtimeoptions::Options::full_name() {
        return Ok(Options::default());
    }
    Err(Error::invalid_argument(format!("unsupported runtime options type {:?}", any.type_url)))
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_back_from_the_bundle() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        assert_eq!(Options::read(folder.path()).unwrap(), Options::default());
        let options = Options {
            binary_name: "crun".to_owned(),
            root: "/r".to_owned(),
            systemd_cgroup: true,
            ..Options::default()
        };
        options.write(folder.path()).unwrap();
        assert_eq!(Options::read(folder.path()).unwrap(), options);
        let text = fs::read_to_string(folder.path().join(OPTIONS_FILE)).unwrap();
        assert_eq!(text, r#"{"binary_name":"crun","root":"/r","systemd_cgroup":true}"#);
        assert_eq!(options.runtime_root("ns"), Path::new("/r/ns"));
        // A bundle of an old shim, and fields of a newer one.
        fs::write(folder.path().join(OPTIONS_FILE), r#"{"task_api_version":3}"#).unwrap();
        fs::write(folder.path().join(RUNTIME_FILE), "youki\n").unwrap();
        assert_eq!(Options::read(folder.path()).unwrap().binary_name, "youki");
    }

    #[test]
    fn types_of_options() {
        assert_eq!(decode(None).unwrap(), Options::default());
        let runc =
            runc::Options { binary_name: "crun".to_owned(), io_uid: 7, ..Default::default() };
        let options = decode(Some(&typeurl::encode(&runc))).unwrap();
        assert_eq!((options.binary_name.as_str(), options.io_uid), ("crun", 7));
        let old = linux_runc::RuncOptions { runtime: "x".to_owned(), ..Default::default() };
        assert_eq!(decode(Some(&typeurl::encode(&old))).unwrap().binary_name, "x");
        let foreign = Any { type_url: "kata.Options".to_owned(), value: Vec::new() };
        let error = decode(Some(&foreign)).unwrap_err();
        assert_eq!(error.class(), base_errors::Class::InvalidArgument);
    }
}
