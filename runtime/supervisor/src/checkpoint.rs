//! Checkpoints: the folders that their files pass through.
//!
//! Both folders are below the task's work folder (see [`crate::bundle`]), on disk: the memory of a
//! container does not belong on tmpfs, and what a daemon that dies leaves goes with the task.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api_shim::Any;
use base_ident::Namespace;
use futures_util::future::BoxFuture;

use crate::BundleError;
use crate::bundle::Bundle;
use crate::supervisor::{Inner, Supervisor, blocking};
use crate::task::Task;

/// Memory of containers is nobody's business but the owner's.
const FOLDER_MODE: u32 = 0o700;

type Work = BoxFuture<'static, base_errors::Result<()>>;

/// Brings the files of a checkpoint into a folder, which is made before and removed afterwards.
#[derive(Clone)]
pub struct Unpack(Arc<dyn Fn(PathBuf) -> Work + Send + Sync>);

impl Unpack {
    /// `unpack` is called once for a create, with an empty folder.
    pub fn new(unpack: impl Fn(PathBuf) -> Work + Send + Sync + 'static) -> Self {
        Unpack(Arc::new(unpack))
    }
}

impl fmt::Debug for Unpack {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Unpack")
    }
}

impl PartialEq for Unpack {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Supervisor {
    /// Writes a checkpoint of a task into a folder that lives as long as `read` needs it.
    ///
    /// CANCEL: the folder goes when the future is dropped. A checkpoint that is under way then
    /// fails, and the task runs on.
    ///
    /// # Errors
    /// Not found; what shim and runtime say; those of `read`.
    pub async fn checkpoint_with<T, F>(
        &self,
        namespace: &Namespace,
        id: &str,
        options: Option<Any>,
        read: impl FnOnce(PathBuf) -> F,
    ) -> base_errors::Result<T>
    where
        F: Future<Output = base_errors::Result<T>>,
    {
        let task = self.inner.task(namespace, id).await?;
        let folder = Folder::new(&self.inner, &task.bundle).await?;
        let path = folder.path.to_string_lossy().into_owned();
        self.checkpoint(namespace, id, &path, options).await?;
        read(folder.path.clone()).await
    }
}

impl Inner {
    /// Makes the folder that a new task is restored from; gives its path for the shim.
    pub(crate) async fn unpack_checkpoint(
        &self,
        bundle: &Bundle,
        unpack: &Unpack,
    ) -> base_errors::Result<String> {
        let folder = bundle.restored_from();
        let path = folder.to_string_lossy().into_owned();
        let ours = folder.clone();
        blocking("checkpoint", move || Ok(make(&ours)?)).await?;
        (unpack.0)(folder).await.map_err(|error| error.context("unpack checkpoint"))?;
        Ok(path)
    }

    /// Removes what a task was restored from: nothing of it is read once the task runs.
    pub(crate) fn forget_checkpoint(&self, task: &Task) {
        let folder = task.bundle.restored_from();
        if fs::symlink_metadata(&folder).is_ok() {
            self.remove_later(folder);
        }
    }

    fn remove_later(&self, folder: PathBuf) {
        self.job(async move {
            let removed = blocking("checkpoint", move || Ok(base_fs::remove_all(&folder)?)).await;
            if let Err(error) = removed {
                tracing::warn!(%error, "cannot remove the files of a checkpoint");
            }
        });
    }
}

/// A folder of its own, removed when it is dropped.
struct Folder {
    inner: Arc<Inner>,
    path: PathBuf,
}

impl Folder {
    async fn new(inner: &Arc<Inner>, bundle: &Bundle) -> base_errors::Result<Folder> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // The process id tells it from what an earlier daemon has left.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = bundle.checkpoint(&format!("{}-{number}", std::process::id()));
        let ours = path.clone();
        blocking("checkpoint", move || {
            base_fs::remove_all(&ours)?;
            Ok(make(&ours)?)
        })
        .await?;
        Ok(Folder { inner: Arc::clone(inner), path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.inner.remove_later(std::mem::take(&mut self.path));
    }
}

fn make(folder: &Path) -> Result<(), BundleError> {
    DirBuilder::new()
        .mode(FOLDER_MODE)
        .create(folder)
        .map_err(|error| BundleError::path("mkdir", folder, error))
}
