//! The folder of a task, as containerd lays it out.
//!
//! ```text
//! <state>/io.containerd.runtime.v2.task/<namespace>/<id>/     0700; 0710 and a group with a user namespace
//!   config.json        the spec, byte for byte as the client gave it
//!   rootfs/            0711; where the shim mounts
//!   work               link to <root>/io.containerd.runtime.v2.task/<namespace>/<id>/, 0711
//!   log                fifo 0700; what the shim logs
//!   bootstrap.json     0644; how the shim can be reached
//!   address            the same, for containerd before 2.0
//!   shim-binary-path   0600; the program of the shim
//!   sandbox            0600; the sandbox whose shim is shared, if so
//! ```
//!
//! Everything in it is state of a running machine, on tmpfs: nothing is synced.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use api_shim::{Any, typeurl};
use base_ident::Namespace;
use kernel_mount::UnmountFlags;
use rustix::io::Errno;
use serde::Deserialize;

use crate::bootstrap::Bootstrap;
use crate::{BundleError, Config};

/// The folder of one container, for the owner only.
const BUNDLE_MODE: u32 = 0o700;
/// With a user namespace, its root may pass through.
const REMAPPED_BUNDLE_MODE: u32 = 0o710;
/// Folders on the way, and those that a container's root may pass through.
const PASS_MODE: u32 = 0o711;
/// The largest of the small files that are read back: an address, a path, a JSON line.
const MAX_FILE: u64 = 64 << 10;
/// The largest spec; a message cannot be larger.
const MAX_SPEC: u64 = 16 << 20;

/// Where a task's files are. Making one touches nothing.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    pub(crate) namespace: Namespace,
    pub(crate) id: String,
    pub(crate) path: PathBuf,
    work: PathBuf,
}

impl Bundle {
    pub(crate) fn new(config: &Config, namespace: &Namespace, id: &str) -> Self {
        let below = |folder: PathBuf| folder.join(namespace.as_str()).join(id);
        Bundle {
            namespace: namespace.clone(),
            id: id.to_owned(),
            path: below(config.bundles()),
            work: below(config.work()),
        }
    }

    /// `namespace/id`, for logs and the table of operations.
    pub(crate) fn object(&self) -> String {
        format!("{}/{}", self.namespace, self.id)
    }

    /// True if the folder is there.
    pub(crate) fn exists(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok()
    }

    /// Makes the folder with spec, `rootfs` and `work`. What failed half way is taken back.
    pub(crate) fn create(&self, spec: Option<&Any>) -> Result<(), BundleError> {
        let group = match spec {
            Some(spec) if spec.type_url == typeurl::SPEC => root_group(&spec.value)?,
            _ => 0,
        };
        make_parents(&self.path)?;
        make_dir(&self.path, BUNDLE_MODE)?;
        self.fill(spec, group).inspect_err(|_| {
            // Best effort: the error that counts is the first one.
            let _ = fs::remove_dir_all(&self.path);
            let _ = fs::remove_dir_all(&self.work);
        })
    }

    fn fill(&self, spec: Option<&Any>, group: u32) -> Result<(), BundleError> {
        if group != 0 {
            std::os::unix::fs::chown(&self.path, None, Some(group))
                .map_err(|error| BundleError::path("chown", &self.path, error))?;
            let mode = fs::Permissions::from_mode(REMAPPED_BUNDLE_MODE);
            fs::set_permissions(&self.path, mode)
                .map_err(|error| BundleError::path("chmod", &self.path, error))?;
        }
        make_parents(&self.work)?;
        make_dir(&self.path.join("rootfs"), PASS_MODE)?;
        match make_dir(&self.work, PASS_MODE) {
            Err(BundleError::Path { source, .. })
                if source.kind() == io::ErrorKind::AlreadyExists =>
            {
                // The work of an earlier task of this name.
                remove_tree(&self.work)?;
                make_dir(&self.work, PASS_MODE)?;
            }
            other => other?,
        }
        let link = self.path.join("work");
        std::os::unix::fs::symlink(&self.work, &link)
            .map_err(|error| BundleError::path("symlink", link, error))?;
        if let Some(spec) = spec.filter(|spec| !spec.value.is_empty()) {
            self.write_new("config.json", &spec.value)?;
        }
        Ok(())
    }

    /// Removes the folder and the work folder, whatever is still mounted on `rootfs` detached.
    ///
    /// The folder gets a name that no task can have first, so that a half removed one is never
    /// taken for a task. Blocks on the file system.
    pub(crate) fn remove(&self) -> base_errors::Result<()> {
        let rootfs = self.path.join("rootfs");
        if let Err(error) = fs::remove_dir(&rootfs)
            && error.kind() != io::ErrorKind::NotFound
        {
            kernel_mount::unmount_recursive(
                &rootfs,
                UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
            )?;
            match fs::remove_dir(&rootfs) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTEMPTY) => {
                    // Never what might be a client's data.
                    return Err(BundleError::RootfsNotEmpty { path: rootfs }.into());
                }
                other => other.map_err(|error| BundleError::path("remove", rootfs, error))?,
            }
        }
        remove_renamed(&self.path)?;
        remove_renamed(&self.work)?;
        Ok(())
    }

    /// The folder that a task is restored from.
    pub(crate) fn restored_from(&self) -> PathBuf {
        self.work.join("restore")
    }

    /// A folder for one checkpoint of the task.
    pub(crate) fn checkpoint(&self, name: &str) -> PathBuf {
        self.work.join(format!("checkpoint-{name}"))
    }

    /// Where the shim logs.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Records how the shim can be reached, and which program it is.
    pub(crate) fn write_bootstrap(
        &self,
        bootstrap: &Bootstrap,
        program: &Path,
    ) -> base_errors::Result<()> {
        use std::os::unix::ffi::OsStrExt as _;
        let path = self.path.join("bootstrap.json");
        base_fs::write_atomic(path, &bootstrap.to_json(), 0o644, false)?;
        // COMPAT: containerd 1.x knows this file alone. Most shims write it themselves.
        let address = self.path.join("address");
        if bootstrap.protocol == "ttrpc" && fs::symlink_metadata(&address).is_err() {
            base_fs::write_atomic(address, bootstrap.address.as_bytes(), 0o644, false)?;
        }
        let path = self.path.join("shim-binary-path");
        base_fs::write_atomic(path, program.as_os_str().as_bytes(), 0o600, false)?;
        Ok(())
    }

    /// How the shim can be reached, from `bootstrap.json`, else from `address`; `None` if neither
    /// is there or makes sense.
    pub(crate) fn read_bootstrap(&self) -> Option<Bootstrap> {
        if let Ok(json) = self.read("bootstrap.json") {
            match Bootstrap::parse_json(&json) {
                Ok(bootstrap) => match bootstrap.checked() {
                    Ok(bootstrap) => return Some(bootstrap),
                    Err(error) => tracing::warn!(task = %self.object(), %error, "bootstrap.json"),
                },
                Err(error) => tracing::warn!(task = %self.object(), %error, "bootstrap.json"),
            }
        }
        let address = String::from_utf8(self.read("address").ok()?).ok()?;
        Bootstrap::legacy(address.trim()).checked().ok()
    }

    /// The program of the shim.
    pub(crate) fn read_program(&self) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStringExt as _;
        let bytes = self.read("shim-binary-path").ok()?;
        let path = PathBuf::from(std::ffi::OsString::from_vec(bytes));
        path.is_absolute().then_some(path)
    }

    /// The control group of the container, if its spec names one.
    pub(crate) fn cgroup(&self) -> Option<String> {
        let spec = base_fs::read_file(self.path.join("config.json"), MAX_SPEC).ok()?;
        crate::reconcile::cgroup_of(&spec)
    }

    /// Records that the shim is that of `sandbox`.
    pub(crate) fn write_sandbox(&self, sandbox: &str) -> base_errors::Result<()> {
        base_fs::write_atomic(self.path.join("sandbox"), sandbox.as_bytes(), 0o600, false)?;
        Ok(())
    }

    /// True if the shim belongs to a sandbox.
    pub(crate) fn shares_shim(&self) -> bool {
        fs::symlink_metadata(self.path.join("sandbox")).is_ok()
    }

    fn read(&self, name: &str) -> base_fs::Result<Vec<u8>> {
        base_fs::read_file(self.path.join(name), MAX_FILE)
    }

    fn write_new(&self, name: &str, content: &[u8]) -> Result<(), BundleError> {
        let path = self.path.join(name);
        fs::write(&path, content).map_err(|error| BundleError::path("write", path, error))
    }
}

/// The group on the host that is root in the container, zero without a user namespace.
fn root_group(spec: &[u8]) -> Result<u32, BundleError> {
    #[derive(Deserialize)]
    struct Spec {
        linux: Option<Linux>,
    }
    #[derive(Deserialize)]
    struct Linux {
        #[serde(default, rename = "gidMappings")]
        gid_mappings: Option<Vec<Mapping>>,
    }
    #[derive(Deserialize)]
    struct Mapping {
        #[serde(rename = "containerID")]
        container: u32,
        #[serde(rename = "hostID")]
        host: u32,
    }
    let spec: Spec = serde_json::from_slice(spec).map_err(BundleError::Spec)?;
    let mappings = spec.linux.and_then(|linux| linux.gid_mappings).unwrap_or_default();
    Ok(mappings.iter().find(|mapping| mapping.container == 0).map_or(0, |mapping| mapping.host))
}

fn make_parents(path: &Path) -> Result<(), BundleError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    DirBuilder::new()
        .recursive(true)
        .mode(PASS_MODE)
        .create(parent)
        .map_err(|error| BundleError::path("mkdir", parent, error))
}

fn make_dir(path: &Path, mode: u32) -> Result<(), BundleError> {
    DirBuilder::new()
        .mode(mode)
        .create(path)
        .map_err(|error| BundleError::path("mkdir", path, error))
}

fn remove_tree(path: &Path) -> Result<(), BundleError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(BundleError::path("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Renames `…/id` to `…/.id`, then removes that.
fn remove_renamed(path: &Path) -> base_errors::Result<()> {
    let Some(name) = path.file_name() else { return Ok(()) };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    let hidden = path.with_file_name(hidden);
    // What an earlier removal left.
    base_fs::remove_all(&hidden)?;
    match fs::rename(path, &hidden) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|error| BundleError::path("rename", path, error))?,
    }
    base_fs::remove_all(&hidden)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn bundle(folder: &tempfile::TempDir) -> Bundle {
        let config =
            Config::new(folder.path().join("root"), folder.path().join("state"), "/g", "/t");
        Bundle::new(&config, &Namespace::new("default").unwrap(), "c1")
    }

    fn spec(json: &str) -> Any {
        typeurl::encode_json(typeurl::SPEC, json)
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_layout_is_containerds() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let bundle = bundle(&folder);
        // Two spaces: the client's bytes, not a copy that was read and written.
        bundle.create(Some(&spec("{\"ociVersion\":  \"1.1.0\"}"))).unwrap();
        let base = folder.path().join("state/io.containerd.runtime.v2.task/default");
        assert_eq!(bundle.path, base.join("c1"));
        assert_eq!(mode(&base), 0o711);
        assert_eq!(mode(&bundle.path), 0o700);
        assert_eq!(mode(&bundle.path.join("rootfs")), 0o711);
        let work = fs::read_link(bundle.path.join("work")).unwrap();
        assert_eq!(work, folder.path().join("root/io.containerd.runtime.v2.task/default/c1"));
        assert_eq!(mode(&work), 0o711);
        let config = fs::read(bundle.path.join("config.json")).unwrap();
        assert_eq!(config, b"{\"ociVersion\":  \"1.1.0\"}");

        assert!(bundle.create(None).is_err(), "a second one of that name");
        assert!(bundle.exists(), "and the first is untouched");

        bundle
            .write_bootstrap(&Bootstrap::new(3, "unix:///s/a", "ttrpc"), Path::new("/bin/shim"))
            .unwrap();
        assert_eq!(mode(&bundle.path.join("bootstrap.json")), 0o644);
        assert_eq!(mode(&bundle.path.join("shim-binary-path")), 0o600);
        assert_eq!(fs::read(bundle.path.join("address")).unwrap(), b"unix:///s/a");
        assert_eq!(bundle.read_bootstrap().unwrap().version, 3);
        assert_eq!(bundle.read_program().unwrap(), Path::new("/bin/shim"));
        fs::write(bundle.path.join("bootstrap.json"), "{torn").unwrap();
        assert_eq!(bundle.read_bootstrap().unwrap(), Bootstrap::legacy("unix:///s/a"));

        bundle.remove().unwrap();
        assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
        assert_eq!(fs::read_dir(work.parent().unwrap()).unwrap().count(), 0);
        bundle.remove().unwrap();
    }

    #[test]
    fn a_user_namespace_opens_the_folder_for_its_root() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let bundle = bundle(&folder);
        let json = r#"{"linux":{"gidMappings":[{"containerID":5,"hostID":7,"size":1},
            {"containerID":0,"hostID":100000,"size":65536}]}}"#;
        bundle.create(Some(&spec(json))).unwrap();
        assert_eq!(mode(&bundle.path), 0o710);
        assert_eq!(fs::metadata(&bundle.path).unwrap().gid(), 100_000);
    }

    #[test]
    fn a_bad_spec_leaves_nothing() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let bundle = bundle(&folder);
        assert!(matches!(bundle.create(Some(&spec("{"))), Err(BundleError::Spec(_))));
        assert!(!bundle.exists());
    }

    #[test]
    fn data_under_rootfs_is_never_removed() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let bundle = bundle(&folder);
        bundle.create(None).unwrap();
        fs::write(bundle.path.join("rootfs/precious"), "x").unwrap();
        let error = bundle.remove().unwrap_err();
        assert!(error.to_string().contains("is not empty"), "{error}");
        assert!(bundle.path.join("rootfs/precious").exists());
    }
}
