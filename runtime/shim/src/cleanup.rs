//! `delete`: what is left to do for a container whose shim has died.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use api_shim::Message;
use api_shim::task::DeleteResponse;
use base_errors::{Result, ResultExt};
use base_ident::validate_identifier;
use runtime_runc::{OciRuntime, Reaper, RuncProgram};

use crate::bootstrap::arguments::Arguments;
use crate::bootstrap::{self, socket};
use crate::container::{INIT_PID_FILE, unmount_rootfs};
use crate::exit_record::ExitRecord;
use crate::options::Options;
use crate::{create, log, serve, stragglers};

/// The status of a container of which nothing is known: killed.
const KILLED: u32 = 128 + 9;

/// Removes the container from its runtime, unmounts its rootfs, removes a dead shim's socket, and
/// answers with an encoded `DeleteResponse` on standard output. What cannot be removed is logged.
pub(crate) fn delete(arguments: &Arguments) -> Result<()> {
    validate_identifier(&arguments.id)?;
    let bundle = bundle(arguments)?;
    log::install(&bundle, arguments.debug, &arguments.namespace, &arguments.id);
    let options = Options::read(&bundle).unwrap_or_else(|error| {
        tracing::warn!(%error, "failed to read runtime options");
        Options::default()
    });
    stragglers::wait(&bundle);
    serve::runtime()?.block_on(async {
        // What is killed here becomes an orphan of this process, and is collected.
        if let Err(error) = kernel_process::set_subreaper(true) {
            tracing::warn!(%error, "failed to become a subreaper");
        }
        let program = RuncProgram::new(
            &options.binary_name,
            options.runtime_root(&arguments.namespace),
            Some(bundle.join("log.json")),
            options.systemd_cgroup,
            Reaper::install()?,
        )
        .with_limits(create::limits());
        if program.is_gone(&arguments.id) {
            return Ok(());
        }
        if let Some(other) = other_bundle(&program, &arguments.id, &bundle).await {
            tracing::warn!(
                bundle = %other.display(),
                "the runtime keeps a container of this id for another bundle: it is left alone"
            );
        } else if let Err(error) = program.delete(&arguments.id, true).await {
            tracing::warn!(%error, "failed to remove runc container");
        }
        Ok::<_, base_errors::Error>(())
    })?;
    if let Err(error) = unmount_rootfs(&bundle.join("rootfs")) {
        tracing::warn!(%error, "failed to cleanup rootfs mount");
    }
    socket::remove_stale(&bundle);
    bootstrap::answer(&ended(&bundle).encode_to_vec())
}

/// The bundle: told, or the one of this id beside the working directory.
fn bundle(arguments: &Arguments) -> Result<PathBuf> {
    if !arguments.bundle.is_empty() {
        return Ok(PathBuf::from(&arguments.bundle));
    }
    let here = std::env::current_dir().context("get working directory")?;
    Ok(here.parent().unwrap_or(&here).join(&arguments.id))
}

/// The bundle of the container that the runtime keeps, if that is another one and is still there:
/// then a create has failed because of it, and it is not the dead shim's.
async fn other_bundle(program: &RuncProgram, id: &str, bundle: &Path) -> Option<PathBuf> {
    let state = program.state(id).await.ok()?;
    let kept = fs::canonicalize(&state.bundle).ok()?;
    (fs::canonicalize(bundle).ok().as_ref() != Some(&kept)).then_some(kept)
}

/// How the container ended: by its record, or killed just now.
fn ended(bundle: &Path) -> DeleteResponse {
    let record = ExitRecord::read(bundle).unwrap_or_else(|error| {
        tracing::warn!(%error, "failed to read exit record");
        None
    });
    let pid_file = || {
        let text = fs::read_to_string(bundle.join(INIT_PID_FILE)).ok()?;
        text.trim().parse::<u32>().ok()
    };
    match record {
        Some(record) => DeleteResponse {
            pid: record.pid,
            exit_status: record.exit_status,
            exited_at: Some(record.exited_at.into()),
        },
        None => DeleteResponse {
            pid: pid_file().unwrap_or_else(|| {
                tracing::warn!("failed to read init pid file");
                0
            }),
            exit_status: KILLED,
            exited_at: Some(SystemTime::now().into()),
        },
    }
}
