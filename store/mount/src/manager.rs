//! Activating, deactivating, and giving up.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use base_errors::{Error, Result};
use base_ident::Labels;
use base_ident::filter::{Adaptor, Filter, map_field};
use kernel_mount::{ActiveMount, Mount, UnmountFlags, activate_one, steps, transform};
use store_bolt::{Db, Options};
use store_metadata::Scope;
use tokio::sync::Notify;

use crate::error::MountError;
use crate::owner::Owner;
use crate::records::{self, Activation, Record};

/// The most mounts of one list: an image's layers and what stands on them.
const MAX_MOUNTS: usize = 255;
/// What follows a mount's folder in the name of the file that says its kind.
const TYPE_SUFFIX: &str = "-type";
/// The kinds that are mounted here in a way of their own.
const HANDLED: [&str; 1] = ["erofs"];

/// How a list is activated.
#[derive(Clone, Debug, Default)]
pub struct ActivateOptions {
    /// Labels of the activation.
    pub labels: Labels,
    /// Mount everything here; the caller gets a bind of the last one.
    pub temporary: bool,
    /// Kinds, or steps of kinds, that the caller can do itself.
    pub allowed: Vec<String>,
}

/// The mount manager. Cloning gives another handle of the same.
#[derive(Clone)]
pub struct MountManager {
    shared: Arc<Shared>,
}

struct Shared {
    db: Db,
    /// `t`: a folder for each activation, by its id.
    targets: PathBuf,
    /// Below these, folders and images may be made.
    roots: Vec<PathBuf>,
    /// Names that are being activated or deactivated, by namespace.
    busy: Mutex<BTreeSet<(String, String)>>,
    free: Notify,
}

/// The right to change one name.
struct Busy {
    shared: Arc<Shared>,
    name: (String, String),
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shared.busy().remove(&self.name);
        self.shared.free.notify_waiters();
    }
}

impl Shared {
    fn busy(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        // Holders add or take one entry, so a panic cannot have torn the set.
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else works on the name.
    async fn enter(self: &Arc<Self>, namespace: &str, name: &str) -> Busy {
        let name = (namespace.to_owned(), name.to_owned());
        loop {
            let free = self.free.notified();
            tokio::pin!(free);
            // Before the look, so that an end in between is not missed.
            free.as_mut().enable();
            if self.busy().insert(name.clone()) {
                return Busy { shared: Arc::clone(self), name };
            }
            free.await;
        }
    }

    fn folder(&self, id: u64) -> PathBuf {
        self.targets.join(id.to_string())
    }
}

impl MountManager {
    /// Opens the manager in `state`, a folder that a reboot empties: `mounts.db` and `t`. Mounts
    /// without a record, and records without mounts, are taken away. Folders and images are made
    /// below `roots` alone. Blocks.
    ///
    /// # Errors
    /// Those of the folders and of the database.
    pub fn open(state: &Path, roots: &[PathBuf]) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let targets = state.join("t");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&targets)
            .map_err(|error| base_fs::Error::io("mkdir", &targets, &error))?;
        let options = Options { store_freelist: true, mode: 0o600, ..Options::default() };
        let db = Db::open(state.join("mounts.db"), options)?;
        let mut roots = roots.to_vec();
        roots.push(targets.clone());
        let (busy, free) = (Mutex::default(), Notify::new());
        let shared = Shared { db, targets, roots, busy, free };
        shared.settle()?;
        Ok(MountManager { shared: Arc::new(shared) })
    }

    /// Mounts what the caller of `mounts` cannot mount itself, under a name of the scope's
    /// namespace; the scope's lease, and owners that labels name, keep it.
    ///
    /// CANCEL: an activation that is given up is made to its end, and stays until it is
    /// deactivated or loses its owners.
    ///
    /// # Errors
    /// NotImplemented if there is nothing to do: the caller mounts the list as it is.
    /// AlreadyExists if the name is active; InvalidArgument for lists that make no sense; those of
    /// the mounts. Nothing of a failed activation stays.
    pub async fn activate(
        &self,
        scope: &Scope,
        name: &str,
        mounts: &[Mount],
        options: ActivateOptions,
    ) -> Result<Activation> {
        if name.is_empty() {
            return Err(MountError::NameEmpty.into());
        }
        if mounts.len() > MAX_MOUNTS {
            return Err(MountError::TooMany(mounts.len()).into());
        }
        let count = count_here(mounts, &options).ok_or(MountError::NothingToDo)?;
        let busy = self.shared.enter(scope.namespace.as_str(), name).await;
        let work =
            Work { busy, lease: scope.lease.clone(), mounts: mounts.to_vec(), count, options };
        // Of its own, so that a caller who goes away leaves no half of it.
        tokio::spawn(work.run()).await.map_err(MountError::from)?
    }

    /// Unmounts what an activation mounted, and forgets it.
    ///
    /// # Errors
    /// NotFound; those of the unmounts: then the record is gone all the same, and what stayed is
    /// tried again by the next [`MountManager::collect`].
    pub async fn deactivate(&self, scope: &Scope, name: &str) -> Result<()> {
        let namespace = scope.namespace.as_str().to_owned();
        let busy = self.shared.enter(&namespace, name).await;
        let name = name.to_owned();
        let work = async move {
            let shared = Arc::clone(&busy.shared);
            let wanted = name.clone();
            let removed =
                shared.db.update_async(move |tx| records::remove(tx, &namespace, &wanted)).await?;
            let record = removed.ok_or(MountError::NotFound(name))?;
            let result = blocking(move || shared.take_away(&record)).await;
            drop(busy);
            result
        };
        tokio::spawn(work).await.map_err(MountError::from)?
    }

    /// An activation.
    ///
    /// # Errors
    /// NotFound; those of the database.
    pub fn info(&self, scope: &Scope, name: &str) -> Result<Activation> {
        let tx = self.shared.db.view()?;
        let found = records::find(tx.root(), scope.namespace.as_str(), name)?;
        Ok(found.ok_or_else(|| MountError::NotFound(name.to_owned()))?.activation)
    }

    /// The activations of the namespace that `filters` take (over `name` and `labels.*`).
    ///
    /// # Errors
    /// InvalidArgument for bad filters; those of the database.
    pub fn list(&self, scope: &Scope, filters: &[String]) -> Result<Vec<Activation>> {
        let filter = Filter::parse_all(filters)?;
        let tx = self.shared.db.view()?;
        let all = records::list(tx.root(), scope.namespace.as_str())?;
        let activations = all.into_iter().map(|record| record.activation);
        Ok(activations.filter(|activation| filter.matches(&Fields(activation))).collect())
    }

    /// Gives up activations that had owners and have none any more: `is_alive` is asked for each,
    /// with its namespace. Then takes away what has no record.
    ///
    /// Activations without a lease and without labels that name owners stay until they are
    /// deactivated. One that lost its owners stays as long as an object refers to it by a label
    /// [`LABEL_REFERENCE`](crate::LABEL_REFERENCE).
    ///
    /// # Errors
    /// Those of the database; mounts that stay are logged, and tried again the next time.
    pub async fn collect(
        &self,
        is_alive: impl Fn(&str, &Owner) -> Result<bool> + Send,
    ) -> Result<Vec<(String, String)>> {
        let all = {
            let tx = self.shared.db.view()?;
            records::all(tx.root())?
        };
        let mut given_up = Vec::new();
        for (namespace, record) in all {
            let owners = record.owners();
            let referrer = Owner::Referrer(record.activation.name.clone());
            // An error counts as life: nothing is taken away on a guess. References to it are
            // looked for last: that takes longest.
            let keep = owners.is_empty()
                || owners
                    .iter()
                    .chain([&referrer])
                    .any(|owner| is_alive(&namespace, owner).unwrap_or(true));
            if keep || !record.is_complete {
                continue;
            }
            let name = record.activation.name.clone();
            let busy = self.shared.enter(&namespace, &name).await;
            let (of, wanted, id) = (namespace.clone(), name.clone(), record.id);
            let removed = self
                .shared
                .db
                .update_async(move |tx| -> Result<_> {
                    // Another one of that name may have come meanwhile.
                    match records::find(tx.read(), &of, &wanted)? {
                        Some(record) if record.id == id => records::remove(tx, &of, &wanted),
                        _ => Ok(None),
                    }
                })
                .await?;
            if let Some(record) = removed {
                let shared = Arc::clone(&self.shared);
                let gone = blocking(move || shared.take_away(&record)).await;
                if let Err(error) = gone {
                    tracing::warn!(namespace, name, %error, "failed to unmount");
                }
                given_up.push((namespace, name));
            }
            drop(busy);
        }
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.sweep()).await?;
        Ok(given_up)
    }
}

/// How many of a list are mounted here, from its first; none if the caller can do all of it.
fn count_here(mounts: &[Mount], options: &ActivateOptions) -> Option<usize> {
    let mut count = None;
    for (index, mount) in mounts.iter().enumerate() {
        let allowed = |name: &str| options.allowed.iter().any(|allowed| allowed == name);
        let (steps, kind) = steps(&mount.kind);
        if steps.iter().any(|step| !allowed(step.name()) && !allowed(&mount.kind)) {
            // What stands before it has to be there; it is itself given back, filled in.
            count = Some(index);
        }
        if options.temporary || (HANDLED.contains(&kind) && !allowed(kind)) {
            count = Some(index + 1);
        }
    }
    count
}

/// An activation on its way.
struct Work {
    busy: Busy,
    lease: Option<String>,
    mounts: Vec<Mount>,
    count: usize,
    options: ActivateOptions,
}

impl Work {
    async fn run(self) -> Result<Activation> {
        let shared = Arc::clone(&self.busy.shared);
        let (namespace, name) = self.busy.name.clone();
        let (lease, labels) = (self.lease.clone(), self.options.labels.clone());
        // DURABILITY: the record before the first mount: what is mounted then has an owner, or is
        // known to be left over.
        let (id, stale) = shared
            .db
            .update_async(move |tx| {
                let now = SystemTime::now();
                records::begin(tx, &namespace, &name, lease.as_deref(), &labels, now)
            })
            .await?;
        let (namespace, name) = self.busy.name.clone();
        let busy = self.busy;
        let (mounts, count, options) = (self.mounts, self.count, self.options);
        let at = Arc::clone(&shared);
        let mounted = blocking(move || {
            if let Some(stale) = stale {
                at.clear(&at.folder(stale))?;
            }
            at.mount_list(id, &mounts, count, options.temporary)
        })
        .await;
        let done = match mounted {
            Ok((active, system)) => {
                let labels = options.labels;
                let made = Activation { name: name.clone(), active, system, labels };
                let stored = made.clone();
                let of = namespace.clone();
                let recorded =
                    shared.db.update_async(move |tx| records::complete(tx, &of, id, &stored)).await;
                recorded.map(|()| made)
            }
            Err(error) => Err(error),
        };
        if done.is_err() {
            let (of, wanted) = (namespace.clone(), name.clone());
            let undone = shared.db.update_async(move |tx| records::remove(tx, &of, &wanted)).await;
            if let Err(error) = undone {
                tracing::warn!(namespace, name, %error, "failed to remove the record of a mount");
            }
            let at = Arc::clone(&shared);
            let cleared = blocking(move || at.clear(&at.folder(id))).await;
            if let Err(error) = cleared {
                tracing::warn!(namespace, name, %error, "failed to take back mounts");
            }
        }
        drop(busy);
        done
    }
}

impl Shared {
    /// Mounts the first `count` of a list in the folder of `id`; gives them, and the rest.
    fn mount_list(
        &self,
        id: u64,
        mounts: &[Mount],
        count: usize,
        temporary: bool,
    ) -> Result<(Vec<ActiveMount>, Vec<Mount>)> {
        use std::os::unix::fs::DirBuilderExt as _;
        let folder = self.folder(id);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|error| base_fs::Error::io("mkdir", &folder, &error))?;
        // COMPAT: numbers go down, so that names in their order are in the order of unmounting.
        let width = match count {
            0..=10 => 1,
            11..=100 => 2,
            _ => 3,
        };
        let mut active: Vec<ActiveMount> = Vec::new();
        for (index, mount) in mounts[..count].iter().enumerate() {
            let made = transform(mount, &active, &self.roots)?;
            let name = format!("{:0width$}", count - index);
            let kind = folder.join(format!("{name}{TYPE_SUFFIX}"));
            std::fs::write(&kind, &made.kind)
                .map_err(|error| base_fs::Error::io("write", &kind, &error))?;
            let one = activate_one(&made, &folder.join(name))
                .map_err(|error| error.context("mount failed"))?;
            active.push(one);
        }
        let mut system = mounts[count..].to_vec();
        if let Some(first) = system.first_mut() {
            *first = transform(first, &active, &self.roots)?;
        }
        if temporary && let Some(last) = active.last() {
            system.push(Mount {
                kind: "bind".to_owned(),
                source: last.mount_point.to_string_lossy().into_owned(),
                target: String::new(),
                options: vec!["rbind".to_owned()],
            });
        }
        Ok((active, system))
    }

    /// Unmounts what a record says, the last first, and removes its folder.
    fn take_away(&self, record: &Record) -> Result<()> {
        let mut failed = None;
        for active in record.activation.active.iter().rev() {
            // Names in a record are paths that we made, but a file can say anything.
            if !active.mount_point.starts_with(&self.targets) {
                continue;
            }
            let gone = kernel_mount::unmount(&active.mount_point, UnmountFlags::empty());
            if let Err(error) = gone {
                failed.get_or_insert(error);
            }
        }
        match failed {
            Some(error) => Err(error.into()),
            None => self.clear(&self.folder(record.id)),
        }
    }

    /// Takes away a folder with all mounts in it. One that is not there is fine.
    fn clear(&self, folder: &Path) -> Result<()> {
        kernel_mount::unmount_recursive(folder, UnmountFlags::DETACH)?;
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(base_fs::Error::io("read", folder, &error).into()),
        };
        let fail = |path: &Path, error: &std::io::Error| {
            Error::from(base_fs::Error::io("remove", path, error))
        };
        for entry in entries {
            let path = entry.map_err(|error| fail(folder, &error))?.path();
            // Never with its content: that would be behind a mount that did not go away.
            let removed = match path.symlink_metadata() {
                Ok(metadata) if metadata.is_dir() => std::fs::remove_dir(&path),
                _ => std::fs::remove_file(&path),
            };
            removed.map_err(|error| fail(&path, &error))?;
        }
        std::fs::remove_dir(folder).map_err(|error| fail(folder, &error))
    }

    /// After a start: records whose mounts are not there, or were never all made, are forgotten;
    /// then mounts without a record are taken away.
    fn settle(&self) -> Result<()> {
        let all = {
            let tx = self.db.view()?;
            records::all(tx.root())?
        };
        let mounted: BTreeSet<PathBuf> = kernel_mount::mountinfo::mounts_below(&self.targets)?
            .into_iter()
            .map(|mount| mount.mount_point)
            .collect();
        let real = std::fs::canonicalize(&self.targets).unwrap_or_else(|_| self.targets.clone());
        for (namespace, record) in all {
            let there = |active: &ActiveMount| {
                active
                    .mount_point
                    .strip_prefix(&self.targets)
                    .is_ok_and(|below| mounted.contains(&real.join(below)))
            };
            if record.is_complete && record.activation.active.iter().all(there) {
                continue;
            }
            let name = record.activation.name.clone();
            tracing::info!(namespace, name, "forgetting a mount that is not there");
            self.db.update(move |tx| records::remove(tx, &namespace, &name))?;
        }
        self.sweep()
    }

    /// Takes away the folders of activations that have no record.
    fn sweep(&self) -> Result<()> {
        // The folders first: one that is seen here has had its record before it.
        let mut ids = BTreeSet::new();
        let fail = |error| base_fs::Error::io("read", &self.targets, &error);
        for entry in std::fs::read_dir(&self.targets).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        if ids.is_empty() {
            return Ok(());
        }
        let tx = self.db.view()?;
        for (_, record) in records::all(tx.root())? {
            ids.remove(&record.id);
        }
        drop(tx);
        for id in ids {
            if let Err(error) = self.clear(&self.folder(id)) {
                tracing::warn!(id, %error, "failed to take away mounts without a record");
            }
        }
        Ok(())
    }
}

/// What filters see.
struct Fields<'a>(&'a Activation);

impl Adaptor for Fields<'_> {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["name", ..] => Some(self.0.name.clone()),
            ["labels", key @ ..] => map_field(&self.0.labels, key),
            _ => None,
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(MountError::from)?
}
