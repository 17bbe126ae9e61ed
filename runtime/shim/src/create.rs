//! Making a container out of a bundle.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use api_shim::task::CreateTaskRequest;
use api_shim::types;
use base_errors::{Error, Result, ResultExt};
use base_ident::validate_identifier;
use kernel_mount::Mount;
use runtime_runc::{CheckpointOptions, CreateOptions, ExitWatch, Limits, Reaper, RuncProgram};

use crate::container::{Container, INIT_PID_FILE, unmount_rootfs};
use crate::exit_record::ExitRecord;
use crate::process::Process;
use crate::spec::Spec;
use crate::stdio::{self, Endpoints};
use crate::{idle, options};

/// The variable that says how many seconds a command of the runtime may take.
const USUAL_VARIABLE: &str = "IRONHULL_RUNTIME_LIMIT";

/// The one for checkpoints and restorations.
const LONG_VARIABLE: &str = "IRONHULL_CHECKPOINT_LIMIT";

/// The variable that leaves every exec to the runtime.
const EXEC_VARIABLE: &str = "IRONHULL_RUNTIME_EXEC";

/// Makes a container; gives the watch on its exit unless it is to be restored at its start.
///
/// # Errors
/// Whatever fails. No mount, no process and no state of the runtime is left then.
pub(crate) async fn create(
    namespace: &str,
    reaper: &Reaper,
    request: CreateTaskRequest,
) -> Result<(Container, Option<ExitWatch>)> {
    validate_identifier(&request.id)?;
    let bundle = PathBuf::from(&request.bundle);
    let leads_up = bundle.components().any(|part| part == Component::ParentDir);
    if !bundle.is_absolute() || leads_up || !bundle.is_dir() {
        let text = format!("bundle {:?} is not an absolute path of a folder", request.bundle);
        return Err(Error::invalid_argument(text));
    }
    let options = options::decode(request.options.as_ref())?;
    options.write(&bundle)?;
    ExitRecord::reserve(&bundle)?;
    let rootfs = mount_rootfs(&bundle, &request.rootfs)?;
    let runtime = RuncProgram::new(
        &options.binary_name,
        options.runtime_root(namespace),
        Some(bundle.join("log.json")),
        options.systemd_cgroup,
        reaper.clone(),
    )
    .with_limits(limits())
    .with_enter(enters());
    let endpoints = Endpoints {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        terminal: request.terminal,
    };
    // The runtime says what is wrong with a spec.
    let spec = Spec::read(&bundle).ok();
    let container = Container {
        init: Process::new(request.id.clone(), endpoints, Vec::new()),
        id: request.id,
        namespace: namespace.to_owned(),
        rootfs,
        options,
        runtime: Arc::new(runtime),
        reaper: reaper.clone(),
        // Unknown is treated as shared: then nothing is left running.
        own_pid_namespace: spec.as_ref().is_some_and(Spec::has_own_pid_namespace),
        start_has_hooks: spec.as_ref().is_none_or(Spec::has_poststart_hooks),
        end_has_hooks: spec.as_ref().is_none_or(Spec::has_poststop_hooks),
        execs: Mutex::default(),
        group: Mutex::default(),
        restore: Mutex::default(),
        bundle,
    };
    let checkpoint = Some(request.checkpoint).filter(|path| !path.is_empty()).map(|image| {
        let work = Some(&container.options.criu_work_path).filter(|path| !path.is_empty());
        CheckpointOptions {
            image_path: image.into(),
            parent_path: request.parent_checkpoint.into(),
            work_path: work.map_or_else(|| container.bundle.join("work"), PathBuf::from),
            ..CheckpointOptions::default()
        }
    });
    match begin(&container, checkpoint).await {
        Ok(exit) => Ok((container, exit)),
        Err(error) => {
            if let Some(rootfs) = &container.rootfs
                && let Err(error) = unmount_rootfs(rootfs)
            {
                tracing::warn!(%error, "failed to cleanup rootfs mount");
            }
            Err(error)
        }
    }
}

/// How long commands of the runtime may take: as usual, or as the environment says.
pub(crate) fn limits() -> Limits {
    let Limits { usual, long } = Limits::default();
    Limits {
        usual: idle::seconds(USUAL_VARIABLE).unwrap_or(usual),
        long: idle::seconds(LONG_VARIABLE).unwrap_or(long),
    }
}

/// Whether execs may do without the runtime: yes, unless the environment says otherwise.
fn enters() -> bool {
    std::env::var_os(EXEC_VARIABLE).is_none_or(|value| value.is_empty())
}

/// Runs the runtime, unless the container is to be restored.
async fn begin(
    container: &Container,
    checkpoint: Option<CheckpointOptions>,
) -> Result<Option<ExitWatch>> {
    let owner = container.owner(&container.id);
    let (io, prepared) = stdio::prepare(&container.init.endpoints, &owner).await?;
    if let Some(checkpoint) = checkpoint {
        *crate::lock(&container.restore) = Some((checkpoint, io, prepared));
        return Ok(None);
    }
    let pid_file = container.bundle.join(INIT_PID_FILE);
    // One that was left there would be taken for the new container's.
    let _ = fs::remove_file(&pid_file);
    let create = CreateOptions {
        pid_file: &pid_file,
        no_pivot: container.options.no_pivot_root,
        no_new_keyring: container.options.no_new_keyring,
    };
    let hold = container.reaper.hold().await;
    let made = container.runtime.create(&container.id, &container.bundle, create, io).await;
    let taken = container.take_new(made, prepared, &pid_file).await;
    drop(hold);
    taken.map(Some)
}

/// Mounts what a snapshotter has answered; gives the rootfs if there is anything to mount.
fn mount_rootfs(bundle: &Path, mounts: &[types::Mount]) -> Result<Option<PathBuf>> {
    if mounts.is_empty() {
        return Ok(None);
    }
    let rootfs = bundle.join("rootfs");
    match DirBuilder::new().mode(0o711).create(&rootfs) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("mkdir {}", rootfs.display()));
        }
        _ => {}
    }
    // A rootfs that is a link would be mounted somewhere else.
    if !fs::symlink_metadata(&rootfs).context("rootfs")?.is_dir() {
        return Err(Error::invalid_argument(format!("{} is not a folder", rootfs.display())));
    }
    let mounts: Vec<Mount> = mounts
        .iter()
        .map(|mount| Mount {
            kind: mount.r#type.clone(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            options: mount.options.clone(),
        })
        .collect();
    kernel_mount::mount_all(&mounts, &rootfs).context("failed to mount rootfs component")?;
    Ok(Some(rootfs))
}
