//! Checkpoints in a folder of the client.
//!
//! ```text
//! <folder>/<name>/                0755; the folder is the client's, or <bundle>/checkpoints
//!   config.json                   name, when it was made, and how
//!   ...                           CRIU's image
//! ```

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use api_grpc::v0;
use api_shim::{runc, typeurl};
use base_ident::timestamp;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::ApiError;
use crate::engine::{Engine, blocking};
use crate::legacy::live;

/// Mode of a checkpoint's folder; as in 0.2.
const MODE: u32 = 0o755;
/// The largest `config.json` that is read.
const MAX_CONFIG: u64 = 1 << 20;
const CONFIG_FILE: &str = "config.json";
/// CRIU's own folder in that of a checkpoint.
const WORK: &str = "criu.work";

/// `config.json` of 0.2.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Stored {
    created: String,
    name: String,
    tcp: bool,
    unix_sockets: bool,
    shell: bool,
    exit: bool,
    #[serde(rename = "emptyNS")]
    empty_ns: Option<Vec<String>>,
}

/// The folder with the checkpoints of the container in `bundle`.
pub(crate) fn folder(bundle: &str, asked: &str) -> PathBuf {
    if asked.is_empty() { Path::new(bundle).join("checkpoints") } else { PathBuf::from(asked) }
}

/// The folder of a checkpoint that is there.
///
/// # Errors
/// [`ApiError::File`] `open ...: no such file or directory`.
pub(crate) fn image(folder: &Path, name: &str) -> Result<PathBuf, ApiError> {
    let image = folder.join(checked(name)?);
    let config = image.join(CONFIG_FILE);
    fs::metadata(&config).map_err(|error| ApiError::file("open", &config, error))?;
    std::path::absolute(&image).map_err(|error| ApiError::file("open", &image, error))
}

/// A name that is one entry of a folder.
fn checked(name: &str) -> Result<&str, ApiError> {
    match name {
        "" => Err(ApiError::CheckpointNameEmpty),
        "." | ".." => Err(ApiError::file("mkdir", name, Errno::EXIST)),
        _ if name.contains('/') => Err(ApiError::file("mkdir", name, Errno::NOENT)),
        _ => Ok(name),
    }
}

impl Engine {
    /// Writes a checkpoint of a container that runs.
    pub(crate) async fn create_checkpoint(
        &self,
        request: v0::CreateCheckpointRequest,
    ) -> Result<(), ApiError> {
        let asked = request.checkpoint.unwrap_or_default();
        if asked.name.is_empty() {
            return Err(ApiError::CheckpointNameEmpty);
        }
        let container = self.container(&request.id)?;
        let folder = folder(&container.stored.bundle, &request.checkpoint_dir);
        let path = folder.join(checked(&asked.name)?);
        let path =
            std::path::absolute(&path).map_err(|error| ApiError::file("open", &path, error))?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let options = runc::CheckpointOptions {
            exit: asked.exit,
            open_tcp: asked.tcp,
            external_unix_sockets: asked.unix_sockets,
            terminal: asked.shell,
            empty_namespaces: asked.empty_ns.clone(),
            image_path: text(&path),
            work_path: text(&path.join(WORK)),
            ..runc::CheckpointOptions::default()
        };
        let place = path.clone();
        blocking(move || make(&place, &asked)).await?;
        let made = if container.is_old() {
            let words = words(&options, &container.id);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            live::command(&container.stored, &words, Vec::new()).await.map(drop)
        } else {
            let options = Some(typeurl::encode(&options));
            self.supervisor
                .checkpoint(self.namespace(), &container.id, &text(&path), options)
                .await
                .map(drop)
                .map_err(|error| ApiError::of_command(&error))
        };
        if let Err(error) = made {
            blocking(move || {
                crate::state::remove(&path);
                Ok(())
            })
            .await?;
            return Err(error);
        }
        Ok(())
    }

    /// Removes a checkpoint; one that is not there is no error, as in 0.2.
    pub(crate) async fn delete_checkpoint(
        &self,
        request: v0::DeleteCheckpointRequest,
    ) -> Result<(), ApiError> {
        let name = checked(&request.name)?;
        let container = self.container(&request.id)?;
        let folder = folder(&container.stored.bundle, &request.checkpoint_dir);
        let path = folder.join(name);
        blocking(move || {
            let is_folder = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
            if !is_folder {
                return Ok(());
            }
            fs::remove_dir_all(&path).map_err(|error| ApiError::file("remove", &path, error))
        })
        .await
    }

    /// The checkpoints in the folder of a container.
    pub(crate) async fn list_checkpoints(
        &self,
        request: v0::ListCheckpointRequest,
    ) -> Result<Vec<v0::Checkpoint>, ApiError> {
        let container = self.container(&request.id).map_err(|_| ApiError::NoSuchContainers)?;
        let folder = folder(&container.stored.bundle, &request.checkpoint_dir);
        blocking(move || list(&folder)).await
    }
}

/// The runtime's words for a checkpoint with `options`, for a container below a shim of 0.2.
fn words(options: &runc::CheckpointOptions, id: &str) -> Vec<String> {
    let mut words = ["checkpoint", "--image-path", &options.image_path, "--work-path"]
        .map(str::to_owned)
        .to_vec();
    words.push(options.work_path.clone());
    let flags = [
        (!options.exit, "--leave-running"),
        (options.terminal, "--shell-job"),
        (options.open_tcp, "--tcp-established"),
        (options.external_unix_sockets, "--ext-unix-sk"),
    ];
    words.extend(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| (*flag).to_owned()));
    for namespace in &options.empty_namespaces {
        words.extend(["--empty-ns".to_owned(), namespace.clone()]);
    }
    words.push(id.to_owned());
    words
}

/// Makes the folder of a checkpoint, with what is known about it.
fn make(path: &Path, asked: &v0::Checkpoint) -> Result<(), ApiError> {
    if let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(MODE)
            .create(parent)
            .map_err(|error| ApiError::file("mkdir", parent, error))?;
    }
    DirBuilder::new()
        .mode(MODE)
        .create(path)
        .map_err(|error| ApiError::file("mkdir", path, error))?;
    let stored = Stored {
        created: timestamp::format(SystemTime::now()),
        name: asked.name.clone(),
        tcp: asked.tcp,
        unix_sockets: asked.unix_sockets,
        shell: asked.shell,
        exit: asked.exit,
        empty_ns: Some(asked.empty_ns.clone()),
    };
    let config = path.join(CONFIG_FILE);
    let json = serde_json::to_vec(&stored).map_err(ApiError::Spec)?;
    let work = path.join(WORK);
    DirBuilder::new().mode(MODE).create(&work).and_then(|()| fs::write(&config, json)).map_err(
        |error| {
            crate::state::remove(path);
            ApiError::file("open", config, error)
        },
    )
}

/// All checkpoints in `folder`, by name. What is none is left out.
fn list(folder: &Path) -> Result<Vec<v0::Checkpoint>, ApiError> {
    let failed = |error| ApiError::file("open", folder, error);
    let mut checkpoints = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path().join(CONFIG_FILE);
        let small = fs::metadata(&path).is_ok_and(|file| file.len() <= MAX_CONFIG);
        let text = if small { fs::read(&path).ok() } else { None };
        match text.and_then(|text| serde_json::from_slice::<Stored>(&text).ok()) {
            // COMPAT: `exit` and `emptyNS` are not told.
            Some(stored) => checkpoints.push(v0::Checkpoint {
                name: stored.name,
                tcp: stored.tcp,
                unix_sockets: stored.unix_sockets,
                shell: stored.shell,
                exit: false,
                empty_ns: Vec::new(),
            }),
            None => tracing::warn!(path = %path.display(), "no checkpoint"),
        }
    }
    checkpoints.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(checkpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_made_once_and_listed() {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let folder = folder(root.path().to_str().unwrap(), "");
        assert_eq!(folder, root.path().join("checkpoints"));
        let missing = list(&folder).unwrap_err().to_string();
        assert_eq!(missing, format!("open {}: no such file or directory", folder.display()));
        let asked = v0::Checkpoint {
            name: "one".to_owned(),
            tcp: true,
            exit: true,
            empty_ns: vec!["network".to_owned()],
            ..v0::Checkpoint::default()
        };
        make(&folder.join("one"), &asked).unwrap();
        let twice = make(&folder.join("one"), &asked).unwrap_err().to_string();
        assert_eq!(twice, format!("mkdir {}/one: file exists", folder.display()));
        fs::create_dir(folder.join("foreign")).unwrap();
        let listed = list(&folder).unwrap();
        assert_eq!(listed.len(), 1);
        assert!(listed[0].tcp && !listed[0].exit && listed[0].empty_ns.is_empty());
        assert!(image(&folder, "one").unwrap().is_absolute());
        for bad in ["", ".", "..", "a/b", "none"] {
            assert!(image(&folder, bad).is_err(), "{bad}");
        }
    }
}
