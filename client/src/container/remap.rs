//! Root file systems for user namespaces: an image's tree whose files belong to other ids.

use std::collections::HashMap;
use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::Path;

use api_grpc::snapshots::{CommitSnapshotRequest, PrepareSnapshotRequest};
use api_shim::types::Mount;
use base_errors::{Error, Result, ResultExt as _};
use kernel_mount::TempMount;
use runtime_spec::IdMapping;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::rootfs::mount_of;
use crate::{Client, body};

/// Bits that the kernel takes from a file whose owner changes.
const SPECIAL_BITS: u32 = 0o6000;

/// File capabilities, which go in the same way.
const CAPABILITY: &str = "security.capability";

/// The most that the attribute can hold; the kernel's structure has 24 bytes.
const MAX_CAPABILITY: usize = 64;

/// How deep folders may nest: a path has at most 4096 bytes.
const MAX_DEPTH: usize = 2048;

/// How the ids of a container are those of the host.
#[derive(Clone, Debug, Default)]
pub struct IdMap {
    /// Users.
    pub users: Vec<IdMapping>,
    /// Groups.
    pub groups: Vec<IdMapping>,
}

impl IdMap {
    /// The labels that ask a snapshotter for a tree with these ids.
    #[must_use]
    pub fn labels(&self) -> [(String, String); 2] {
        let text = |mappings: &[IdMapping]| {
            let one = |map: &IdMapping| format!("{}:{}:{}", map.container, map.host, map.size);
            mappings.iter().map(one).collect::<Vec<_>>().join(",")
        };
        [
            ("containerd.io/snapshot/uidmapping".to_owned(), text(&self.users)),
            ("containerd.io/snapshot/gidmapping".to_owned(), text(&self.groups)),
        ]
    }

    /// The name of the tree `parent` with these ids.
    // COMPAT: the name that clients of containerd 2 give it, so that both find the other's.
    fn key(&self, parent: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Remapped<'a> {
            parent: &'a str,
            #[serde(rename = "IDMap")]
            map: Map,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Map {
            uid_map: Vec<Mapping>,
            gid_map: Vec<Mapping>,
        }
        #[derive(Serialize)]
        struct Mapping {
            #[serde(rename = "containerID")]
            container: u32,
            #[serde(rename = "hostID")]
            host: u32,
            size: u32,
        }
        let sorted = |mappings: &[IdMapping]| {
            let mut sorted: Vec<Mapping> = mappings
                .iter()
                .map(|map| Mapping { container: map.container, host: map.host, size: map.size })
                .collect();
            sorted.sort_by_key(|map| (map.container, map.host, map.size));
            sorted
        };
        let map = Map { uid_map: sorted(&self.users), gid_map: sorted(&self.groups) };
        let json = serde_json::to_vec(&Remapped { parent, map }).unwrap_or_default();
        let digest = Sha256::digest(json);
        digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
    }
}

/// The host's id for `id`.
fn to_host(id: u32, mappings: &[IdMapping]) -> Result<u32> {
    let found = mappings.iter().find_map(|map| {
        let offset = id.checked_sub(map.container).filter(|offset| *offset < map.size)?;
        map.host.checked_add(offset)
    });
    found.ok_or_else(|| Error::invalid_argument(format!("container id {id} cannot be mapped")))
}

impl Client {
    /// The snapshot of the tree `parent` with other ids, made if it is not there; gives its name.
    ///
    /// # Errors
    /// InvalidArgument for files whose ids are not mapped; those of the snapshotter.
    pub(super) async fn remapped(
        &self,
        snapshotter: &str,
        parent: &str,
        map: &IdMap,
    ) -> Result<String> {
        let name = map.key(parent);
        if self.snapshot_exists(snapshotter, &name).await? {
            return Ok(name);
        }
        let key = format!("{name}-remap");
        let request = PrepareSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.clone(),
            parent: parent.to_owned(),
            ..PrepareSnapshotRequest::default()
        };
        let mounts = match body(self.snapshots().prepare(request.clone()).await) {
            // Somebody did not finish: half a tree is of no use.
            Err(error) if error.is_already_exists() => {
                self.remove_snapshot(snapshotter, &key).await?;
                body(self.snapshots().prepare(request).await)?.mounts
            }
            answer => answer?.mounts,
        };
        let ids = map.clone();
        let changed = tokio::task::spawn_blocking(move || change_owners(&mounts, &ids)).await;
        let changed = changed.unwrap_or_else(|error| Err(Error::internal(error.to_string())));
        let committed = match changed {
            Ok(()) => {
                let request = CommitSnapshotRequest {
                    snapshotter: snapshotter.to_owned(),
                    name: name.clone(),
                    key: key.clone(),
                    ..CommitSnapshotRequest::default()
                };
                body(self.snapshots().commit(request).await)
            }
            Err(error) => Err(error),
        };
        match committed {
            Ok(()) => Ok(name),
            Err(error) => {
                // Best effort: the error that counts is the first one.
                let _ = self.remove_snapshot(snapshotter, &key).await;
                Err(error)
            }
        }
    }
}

/// Gives all files of the tree that `mounts` make to the host's ids.
fn change_owners(mounts: &[Mount], map: &IdMap) -> Result<()> {
    let mounts: Vec<_> = mounts.iter().map(mount_of).collect();
    let mounted = TempMount::new(&mounts, None)?;
    let mut owners = Owners { map, linked: HashMap::new() };
    owners.change(mounted.path(), 0)?;
    Ok(mounted.close()?)
}

struct Owners<'a> {
    map: &'a IdMap,
    /// The new owners of files with several names, which are changed once.
    linked: HashMap<(u64, u64), (u32, u32)>,
}

impl Owners<'_> {
    fn change(&mut self, path: &Path, depth: usize) -> Result<()> {
        let shown = || path.display().to_string();
        if depth > MAX_DEPTH {
            return Err(Error::invalid_argument(format!("{} nests too deep", shown())));
        }
        let metadata = fs::symlink_metadata(path).with_context(shown)?;
        self.change_one(path, &metadata).with_context(shown)?;
        // A link is never followed: it may name a file of the host.
        if metadata.is_dir() {
            for entry in fs::read_dir(path).with_context(shown)? {
                self.change(&entry.with_context(shown)?.path(), depth + 1)?;
            }
        }
        Ok(())
    }

    fn change_one(&mut self, path: &Path, metadata: &Metadata) -> Result<()> {
        let now = (metadata.uid(), metadata.gid());
        let file = (metadata.dev(), metadata.ino());
        let has_names = metadata.nlink() > 1 && !metadata.is_dir();
        if has_names && self.linked.get(&file) == Some(&now) {
            return Ok(());
        }
        let new = (to_host(now.0, &self.map.users)?, to_host(now.1, &self.map.groups)?);
        let capability = match metadata.is_file() {
            true => capability(path)?,
            false => None,
        };
        lchown(path, Some(new.0), Some(new.1))?;
        if !metadata.is_symlink() && metadata.mode() & SPECIAL_BITS != 0 {
            fs::set_permissions(path, Permissions::from_mode(metadata.mode() & 0o7777))?;
        }
        if let Some(capability) = capability {
            rustix::fs::lsetxattr(path, CAPABILITY, &capability, XattrFlags::empty())
                .map_err(std::io::Error::from)?;
        }
        if has_names {
            self.linked.insert(file, new);
        }
        Ok(())
    }
}

fn capability(path: &Path) -> Result<Option<Vec<u8>>> {
    let mut value = vec![0; MAX_CAPABILITY];
    match rustix::fs::lgetxattr(path, CAPABILITY, value.as_mut_slice()) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(std::io::Error::from(errno).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(container: u32, host: u32, size: u32) -> IdMapping {
        IdMapping { container, host, size }
    }

    #[test]
    fn ids_labels_and_names() {
        let map = IdMap {
            users: vec![mapping(0, 1000, 1), mapping(1, 5000, 10)],
            groups: vec![mapping(0, 2000, 5)],
        };
        assert_eq!(to_host(0, &map.users).unwrap(), 1000);
        assert_eq!(to_host(10, &map.users).unwrap(), 5009);
        assert!(to_host(11, &map.users).is_err());
        let [users, groups] = map.labels();
        assert_eq!((users.1.as_str(), groups.1.as_str()), ("0:1000:1,1:5000:10", "0:2000:5"));
        let mut other = map.clone();
        other.users.reverse();
        assert_eq!(map.key("sha256:1"), other.key("sha256:1"));
        assert_ne!(map.key("sha256:1"), map.key("sha256:2"));
    }

    #[test]
    fn owners_change_once_and_bits_stay() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "").unwrap();
        fs::set_permissions(path("file"), Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(path("file"), path("same")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path("link")).unwrap();
        let owner = fs::metadata("/etc/passwd").unwrap().uid();
        let map = IdMap { users: vec![mapping(0, 1, 65536)], groups: vec![mapping(0, 2, 65536)] };
        Owners { map: &map, linked: HashMap::new() }.change(folder.path(), 0).unwrap();
        for name in ["file", "same", "link", "."] {
            let metadata = fs::symlink_metadata(path(name)).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (1, 2), "{name}");
        }
        assert_eq!(fs::metadata(path("file")).unwrap().mode() & 0o7777, 0o4755);
        assert_eq!(fs::metadata("/etc/passwd").unwrap().uid(), owner);
    }
}
