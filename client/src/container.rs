//! Containers: a record, a snapshot of an image, a spec.

mod checkpoint;
mod remap;
mod rootfs;
mod unpack;

use std::collections::BTreeMap;
use std::path::Path;

use api_grpc::containers::{
    Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest, container,
};
use api_grpc::leases::{CreateRequest as CreateLease, DeleteRequest as DeleteLease};
use api_grpc::snapshots::{MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest};
use api_shim::Any;
use api_shim::types::Mount;
use base_errors::Result;

pub use checkpoint::{Checkpoint, Parts};
pub use remap::IdMap;

use crate::image::Resolved;
use crate::{Client, body, missing};

/// The longest label, key and value together, that the daemon takes.
const MAX_LABEL: usize = 4096;

/// How long a lease of ours lives if nobody deletes it, as containerd's clients ask.
const LEASE_EXPIRY: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// Makes a spec; the argument is a folder with the container's `etc`, if there is one.
pub type MakeSpec<'a> = Box<dyn FnOnce(Option<&Path>) -> Result<Any> + Send + 'a>;

/// What a new container needs.
pub struct NewContainer<'a> {
    /// Its name.
    pub id: &'a str,
    /// Its image, and what it holds; without one the spec names a root file system.
    pub image: Option<(&'a str, &'a Resolved)>,
    /// Where the snapshot is made; the namespace's default if empty.
    pub snapshotter: &'a str,
    /// Labels of the snapshot.
    pub snapshot_labels: BTreeMap<String, String>,
    /// Gives the files of the root file system to other ids, for a user namespace.
    pub owners: Option<IdMap>,
    /// Labels of the container.
    pub labels: BTreeMap<String, String>,
    /// Its runtime; the namespace's default if empty.
    pub runtime: &'a str,
    /// Options of the runtime.
    pub runtime_options: Option<Any>,
    /// The sandbox that it belongs to; mostly empty.
    pub sandbox: &'a str,
    /// Records of other makers.
    pub extensions: BTreeMap<String, Any>,
    /// Makes the spec.
    pub spec: MakeSpec<'a>,
}

/// A lease that this client made.
#[derive(Debug)]
pub struct Lease {
    client: Client,
    id: String,
}

impl Lease {
    /// The client whose calls are held by the lease.
    ///
    /// # Errors
    /// As [`Client::with_lease`].
    pub fn client(&self) -> Result<Client> {
        self.client.with_lease(&self.id)
    }

    /// Gives it back. One that is not given back expires after a day.
    pub async fn release(self) {
        let request = DeleteLease { id: self.id, sync: false };
        let _ = self.client.leases().delete(request).await;
    }
}

impl Client {
    /// A lease for what is made on the way to something that holds it.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn lease(&self) -> Result<Lease> {
        let now = std::time::SystemTime::now();
        let expires = base_ident::timestamp::format(now + LEASE_EXPIRY);
        let request = CreateLease {
            id: unique_id(now),
            labels: [("containerd.io/gc.expire".to_owned(), expires)].into(),
        };
        let lease = body(self.leases().create(request).await)?.lease;
        let id = lease.ok_or_else(|| missing("lease"))?.id;
        Ok(Lease { client: self.clone(), id })
    }

    /// Makes a container; gives its record, and the mounts of its root file system.
    ///
    /// # Errors
    /// AlreadyExists, NotFound, InvalidArgument, those of the spec; then nothing is left.
    pub async fn create_container(&self, new: NewContainer<'_>) -> Result<(Container, Vec<Mount>)> {
        let NewContainer { id, image, snapshotter, spec, runtime, .. } = new;
        let mut record = Container {
            id: id.to_owned(),
            labels: new.labels,
            runtime: Some(container::Runtime {
                name: self.runtime_or_default(runtime).await?,
                options: new.runtime_options,
            }),
            extensions: new.extensions,
            sandbox: new.sandbox.to_owned(),
            ..Container::default()
        };
        let Some((name, resolved)) = image else {
            record.spec = Some(spec(None)?);
            return Ok((self.create_record(record).await?, Vec::new()));
        };
        // The snapshot is held by the lease until the record refers to it.
        let (snapshotter, lease) =
            tokio::join!(self.snapshotter_or_default(snapshotter), self.lease());
        let lease = lease?;
        let snapshotter = match snapshotter {
            Ok(name) => name,
            Err(error) => {
                lease.release().await;
                return Err(error);
            }
        };
        let snapshotter = snapshotter.as_str();
        name.clone_into(&mut record.image);
        snapshotter.clone_into(&mut record.snapshotter);
        id.clone_into(&mut record.snapshot_key);
        let made = async {
            let leased = lease.client()?;
            let labels = new.snapshot_labels;
            let mounts =
                leased.prepare_rootfs(snapshotter, id, resolved, labels, new.owners).await?;
            let created = async {
                let rootfs = rootfs::Rootfs::of(&mounts)?;
                record.spec = Some(spec(Some(rootfs.path()))?);
                rootfs.close()?;
                self.create_record(record).await
            };
            match created.await {
                Ok(record) => Ok((record, mounts)),
                Err(error) => {
                    // Best effort: the error that counts is the first one.
                    let _ = self.remove_snapshot(snapshotter, id).await;
                    Err(error)
                }
            }
        };
        let made = made.await;
        lease.release().await;
        made
    }

    async fn create_record(&self, record: Container) -> Result<Container> {
        let request = CreateContainerRequest { container: Some(record) };
        let answer = body(self.containers().create(request).await)?;
        answer.container.ok_or_else(|| missing("container"))
    }

    /// A writable snapshot of an image; the image's layers are unpacked where they are not yet.
    async fn prepare_rootfs(
        &self,
        snapshotter: &str,
        key: &str,
        image: &Resolved,
        labels: BTreeMap<String, String>,
        owners: Option<IdMap>,
    ) -> Result<Vec<Mount>> {
        let prepare = async || {
            let mut parent = image.chain_id();
            if let Some(owners) = &owners {
                if !self.snapshot_exists(snapshotter, &parent).await? {
                    self.unpack(image, snapshotter).await?;
                }
                parent = self.remapped(snapshotter, &parent, owners).await?;
            }
            let request = PrepareSnapshotRequest {
                snapshotter: snapshotter.to_owned(),
                key: key.to_owned(),
                parent,
                labels: labels.clone(),
            };
            body(self.snapshots().prepare(request).await).map(|answer| answer.mounts)
        };
        match prepare().await {
            // Not unpacked; or the tree with other ids, which nobody needed any more, was collected
            // after it had been found. What is made now is held by the lease.
            Err(error) if error.is_not_found() => {}
            answer => return answer,
        }
        self.unpack(image, snapshotter).await?;
        prepare().await
    }

    /// The record of a container.
    ///
    /// # Errors
    /// NotFound.
    pub async fn container(&self, id: &str) -> Result<Container> {
        let request = GetContainerRequest { id: id.to_owned() };
        body(self.containers().get(request).await)?.container.ok_or_else(|| missing("container"))
    }

    /// Removes a container, and its snapshot unless that is to stay.
    ///
    /// # Errors
    /// NotFound.
    pub async fn delete_container(&self, record: &Container, keep_snapshot: bool) -> Result<()> {
        if !keep_snapshot && !record.snapshot_key.is_empty() {
            match self.remove_snapshot(&record.snapshotter, &record.snapshot_key).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        let request = DeleteContainerRequest { id: record.id.clone() };
        body(self.containers().delete(request).await)
    }

    /// The mounts that make a snapshot's tree; none for a container without a snapshot.
    ///
    /// # Errors
    /// NotFound.
    pub async fn rootfs_mounts(&self, record: &Container) -> Result<Vec<Mount>> {
        if record.snapshot_key.is_empty() {
            return Ok(Vec::new());
        }
        let request = MountsRequest {
            snapshotter: record.snapshotter.clone(),
            key: record.snapshot_key.clone(),
        };
        Ok(body(self.snapshots().mounts(request).await)?.mounts)
    }

    /// Calls `look` with a folder that has a container's `etc`, if the container has a snapshot.
    ///
    /// # Errors
    /// NotFound, and those of `look`.
    pub async fn with_rootfs<R>(
        &self,
        record: &Container,
        look: impl FnOnce(Option<&Path>) -> Result<R>,
    ) -> Result<R> {
        let mounts = self.rootfs_mounts(record).await?;
        if mounts.is_empty() {
            return look(None);
        }
        let rootfs = rootfs::Rootfs::of(&mounts)?;
        let result = look(Some(rootfs.path()))?;
        rootfs.close()?;
        Ok(result)
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// NotFound; FailedPrecondition if others are made on it.
    pub async fn remove_snapshot(&self, snapshotter: &str, key: &str) -> Result<()> {
        let request =
            RemoveSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
        body(self.snapshots().remove(request).await)
    }
}

/// The labels that a container takes from the image's configuration and record; the caller's win.
/// Labels that the daemon would refuse are left out.
#[must_use]
pub fn image_labels(
    config: &BTreeMap<String, String>,
    record: &BTreeMap<String, String>,
    stop_signal: &str,
    own: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let fits = |(key, value): &(&String, &String)| key.len() + value.len() <= MAX_LABEL;
    let mut labels: BTreeMap<String, String> = config
        .iter()
        .chain(record)
        .filter(fits)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.extend(own);
    let signal = if stop_signal.is_empty() { "SIGTERM" } else { stop_signal };
    labels.insert("io.containerd.image.config.stop-signal".to_owned(), signal.to_owned());
    labels
}

/// A name that nobody else makes: the time's nanoseconds and four random letters.
#[must_use]
pub fn unique_id(now: std::time::SystemTime) -> String {
    use std::hash::{BuildHasher as _, RandomState};
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let nanos = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |passed| passed.subsec_nanos());
    let mut random = RandomState::new().hash_one(nanos);
    let mut name = format!("{nanos}-");
    for place in 0..4 {
        let letter = LETTERS[usize::try_from(random & 63).unwrap_or(0)];
        random >>= 6;
        // An identifier must end with a letter or a digit.
        let letter = if place == 3 && !letter.is_ascii_alphanumeric() { b'x' } else { letter };
        let letter = if place == 0 && !letter.is_ascii_alphanumeric() { b'y' } else { letter };
        // Two separators in a row are no identifier.
        let doubled = !letter.is_ascii_alphanumeric() && !name.ends_with(char::is_alphanumeric);
        name.push(if doubled { 'z' } else { char::from(letter) });
    }
    name
}
