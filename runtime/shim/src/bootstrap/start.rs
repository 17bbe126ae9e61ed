//! `start`: bind, fork, tell.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base_errors::{Error, Result, ResultExt};
use kernel_process::Fork;

use super::arguments::Arguments;
use super::dialect::Request;
use super::socket::{self, Bound, Own};
use crate::options;
use crate::serve::{self, Settings};
use crate::spec::Spec;

/// The kernel's largest OOM score adjustment.
const MAX_OOM_SCORE_ADJ: i32 = 1000;

/// Begins to serve in the background and answers with the address.
pub(super) fn start(arguments: &Arguments) -> Result<()> {
    let bundle = std::env::current_dir().context("get working directory")?;
    let request = Request::read(
        &super::input()?,
        &arguments.id,
        &arguments.namespace,
        std::env::var("MAX_SHIM_VERSION").ok().as_deref(),
    );
    let debug = arguments.debug || request.debug;
    let group = match Spec::read(&bundle) {
        Ok(spec) => spec.group().unwrap_or(&arguments.id).to_owned(),
        // A sandbox has no spec.
        Err(error) if error.is_not_found() => arguments.id.clone(),
        Err(error) => return Err(error),
    };
    let folder = request.socket_dir.as_deref().unwrap_or(socket::DEFAULT_FOLDER);
    let path =
        socket::path(Path::new(folder), &arguments.address, &arguments.namespace, &group, debug);
    let address = socket::address(&path);
    let answer = request.dialect.answer(&address);
    // First: whoever cleans up after a `start` that was killed finds the socket by it.
    socket::write_address(&bundle, &address)?;
    let listener = match socket::bind(&path) {
        Ok(Bound::New(listener)) => listener,
        Ok(Bound::Existing) => return super::answer(&answer),
        Err(error) => {
            let _ = fs::remove_file(bundle.join(socket::ADDRESS_FILE));
            return Err(error);
        }
    };
    let own = Arc::new(Own::new(&path));
    let begun = begin(arguments, &request, &bundle, &own, debug, listener);
    match begun {
        Ok(Fork::Parent(_)) => super::answer(&answer),
        // The child has served and is done.
        Ok(Fork::Child) => Ok(()),
        Err(error) => {
            own.remove();
            Err(error)
        }
    }
}

/// Prepares what the serving process inherits, and forks it.
fn begin(
    arguments: &Arguments,
    request: &Request,
    bundle: &Path,
    own: &Arc<Own>,
    debug: bool,
    listener: UnixListener,
) -> Result<Fork> {
    if let Some(folder) = &request.socket_dir {
        let link = bundle.join("s");
        let _ = fs::remove_file(&link);
        let _ = std::os::unix::fs::symlink(folder, link);
    }
    let mut warnings = Vec::new();
    for any in &request.options {
        if let Ok(options) = options::decode(Some(any))
            && !options.shim_cgroup.is_empty()
        {
            join_cgroup(&options.shim_cgroup)?;
        }
    }
    if let Err(error) = adjust_oom_score() {
        warnings.push(format!("failed to adjust OOM score for shim: {error}"));
    }
    if std::env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty()) {
        use rustix::thread::{CoreSchedulingScope, create_core_scheduling_cookie};
        create_core_scheduling_cookie(rustix::process::getpid(), CoreSchedulingScope::ProcessGroup)
            .map_err(io::Error::from)
            .context("enable sched core support")?;
    }
    let fork = kernel_process::fork_single_threaded().context("fork the serving process")?;
    if fork == Fork::Child {
        detach().context("leave the session")?;
        let settings = Settings {
            namespace: arguments.namespace.clone(),
            id: arguments.id.clone(),
            debug,
            bundle: bundle.to_owned(),
            socket: Arc::clone(own),
            ttrpc_address: request
                .ttrpc_address
                .clone()
                .or_else(|| std::env::var("TTRPC_ADDRESS").ok())
                .unwrap_or_default(),
            warnings,
        };
        serve::serve(settings, listener)?;
    }
    Ok(fork)
}

/// Leaves the daemon's session and its pipes: it reads them to their end.
fn detach() -> io::Result<()> {
    rustix::process::setsid()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// One more than the daemon's, so that shims go before it when memory runs out.
fn adjust_oom_score() -> Result<()> {
    let parent = rustix::process::getppid().map_or(1, |pid| pid.as_raw_nonzero().get());
    let score = kernel_process::oom_score_adj(parent)?;
    kernel_process::set_oom_score_adj(0, (score + 1).min(MAX_OOM_SCORE_ADJ))?;
    Ok(())
}

/// Moves this process, and so its child, into an existing control group.
fn join_cgroup(group: &str) -> Result<()> {
    let relative = Path::new(group.trim_start_matches('/'));
    if relative.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return Err(Error::invalid_argument(format!("shim cgroup {group:?}")));
    }
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies: Vec<PathBuf> = if root.join("cgroup.controllers").exists() {
        vec![root.to_owned()]
    } else {
        let entries = fs::read_dir(root).context("read /sys/fs/cgroup")?;
        entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
    };
    let mut joined = false;
    for hierarchy in hierarchies {
        let processes = hierarchy.join(relative).join("cgroup.procs");
        if processes.exists() {
            fs::write(&processes, "0").with_context(|| format!("failed to join cgroup {group}"))?;
            joined = true;
        }
    }
    if joined {
        Ok(())
    } else {
        Err(Error::not_found(format!("failed to load cgroup {group}: cgroup")))
    }
}
