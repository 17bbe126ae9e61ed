//! Shims that lived before the daemon did: found by their bundles, adopted or buried.

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api_shim::process::Status;
use api_shim::task::{DeleteResponse, StateRequest, StateResponse};
use base_ident::{Namespace, validate_identifier};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::ShimError;
use crate::bundle::Bundle;
use crate::connection::{CallError, Connection, socket_path};
use crate::resolve::{RUNC, runtime_options, shim_program};
use crate::slots::{Claim, Slot};
use crate::supervisor::{Inner, Runtime, Supervisor, blocking};
use crate::task::{Exit, Task};

/// How many shims are looked for at once. Waiting for a socket costs nothing; a dead shim costs a
/// process, and the start queue bounds those. One that hangs holds its place for the time limit, so
/// there are more places than shims that hang.
const WIDTH: usize = 512;
/// The pause before a shim that did not accept a connection is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// The pause between two tries to connect within the time limit.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);
/// How long a dying shim may still accept connections.
const DYING: Duration = Duration::from_millis(500);
/// How often a shim without a task is asked for one before it is given up: once more after it was
/// told to leave and did not is enough.
const QUESTIONS: u32 = 3;
/// Which boot of the machine the bundles are of. containerd looks at folders alone.
const BOOT_FILE: &str = ".boot-id";
/// Where the kernel tells the boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What became of the bundles that were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Tasks whose shim answers, or at least accepts connections.
    pub adopted: usize,
    /// Bundles whose shim was dead, or had no task; they are gone.
    pub cleaned: usize,
    /// Bundles whose shim does not accept connections just now; they are tried again.
    pub waiting: usize,
}

pub(crate) enum Outcome {
    Adopted,
    Cleaned,
    Waiting,
}

/// A bundle that was found, and the claim on its name.
pub(crate) struct Found {
    pub(crate) bundle: Bundle,
    pub(crate) claim: Claim,
    /// Dropped when the name is settled.
    pub(crate) settled: watch::Sender<()>,
}

impl Supervisor {
    /// Finds the bundles of an earlier daemon, and adopts their shims.
    ///
    /// When the call returns, each name that was found is taken; calls on it wait until the future
    /// that it gives has come to it. That future may run while the sockets serve. Nothing that lives
    /// is killed.
    pub fn adopt_all(&self) -> impl Future<Output = Adoption> + Send + 'static {
        let inner = Arc::clone(&self.inner);
        let bundles = inner.config.bundles();
        let rebooted = record_boot(&bundles);
        let mut found = Vec::new();
        inner.settled.send_replace(Instant::now());
        for (namespace, id) in names(&bundles) {
            let (settled, settling) = watch::channel(());
            if let Ok(claim) = inner.slots.claim(&namespace, &id, Slot::Adopting(settling)) {
                let bundle = Bundle::new(&inner.config, &namespace, &id);
                found.push(Found { bundle, claim, settled });
            }
        }
        let name = |found: &Found| (found.bundle.namespace.to_string(), found.bundle.id.clone());
        inner.returning.begin(found.iter().map(name).collect());
        let leftovers = leftovers(&inner.config.bundles(), &inner.config.work(), &found);
        async move {
            let mut adoption = Adoption::default();
            let mut outcomes = futures_util::stream::iter(found)
                .map(|found| Inner::adopt(&inner, found, rebooted))
                .buffer_unordered(WIDTH);
            while let Some(outcome) = outcomes.next().await {
                match outcome {
                    Outcome::Adopted => adoption.adopted += 1,
                    Outcome::Cleaned => adoption.cleaned += 1,
                    Outcome::Waiting => adoption.waiting += 1,
                }
            }
            for path in leftovers {
                let shown = path.clone();
                let removed = blocking("removal", move || Ok(base_fs::remove_all(&path)?)).await;
                if let Err(error) = removed {
                    tracing::warn!(path = %shown.display(), %error, "removing a leftover");
                }
            }
            if adoption != Adoption::default() {
                let Adoption { adopted, cleaned, waiting } = adoption;
                tracing::info!(adopted, cleaned, waiting, "shims of an earlier daemon");
            }
            inner.reconcile_forever();
            adoption
        }
    }
}

/// Where a shim stands.
pub(crate) enum Contact {
    Connected(Connection),
    Dead,
    /// Alive for all we know, but not to be spoken to.
    Silent(ShimError),
}

impl Inner {
    /// Boxed, because a retry starts the next one.
    pub(crate) fn adopt(
        this: &Arc<Inner>,
        found: Found,
        rebooted: bool,
    ) -> BoxFuture<'static, Outcome> {
        let this = Arc::clone(this);
        Box::pin(async move {
            let outcome = this.adopt_one(found, rebooted).await;
            this.settled.send_replace(Instant::now());
            outcome
        })
    }

    async fn adopt_one(self: &Arc<Self>, found: Found, rebooted: bool) -> Outcome {
        let this = self;
        let Found { bundle, claim, settled } = found;
        let limit = this.config.timeouts.shim_load;
        let operation = this.operation("adopt", &bundle.namespace, &bundle.id, Some(limit));
        if fs::remove_dir(&bundle.path).is_ok() {
            // An empty folder: the daemon died right after it made it.
            return Outcome::Cleaned;
        }
        let runtime = this.containers.runtime(&bundle.namespace, &bundle.id).await;
        let mut runtime = runtime.unwrap_or_default();
        runtime.options = runtime_options(runtime.options);
        operation.phase("connecting");
        let contact = if rebooted { Contact::Dead } else { this.contact(&bundle).await };
        match contact {
            Contact::Connected(connection) => {
                operation.phase("asking for the state");
                this.adopt_connected(&bundle, claim, runtime, connection).await
            }
            Contact::Dead => {
                operation.phase("cleaning up");
                this.bury_unknown(&bundle, &runtime).await;
                Outcome::Cleaned
            }
            Contact::Silent(error) => {
                tracing::error!(task = %bundle.object(), %error, "shim cannot be reached");
                let found = Found { bundle, claim, settled };
                this.watch_forever(|weak| async move {
                    sleep(RETRY_PAUSE).await;
                    if let Some(inner) = weak.upgrade() {
                        let again = Inner::adopt(&inner, found, false);
                        inner.job(async move {
                            again.await;
                        });
                    }
                });
                Outcome::Waiting
            }
        }
    }

    /// Connects to the shim of a bundle, or finds out that it is dead.
    pub(crate) async fn contact(&self, bundle: &Bundle) -> Contact {
        let Some(bootstrap) = bundle.read_bootstrap() else {
            // The daemon died before the shim had answered.
            return Contact::Dead;
        };
        let limit = self.config.timeouts.shim_load;
        let deadline = Instant::now() + limit;
        loop {
            let error = match Connection::open(&bootstrap, &bundle.namespace, limit).await {
                Ok(connection) => return Contact::Connected(connection),
                Err(error) => error,
            };
            let ShimError::Connect { source, .. } = &error else { return Contact::Silent(error) };
            match source.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => return Contact::Dead,
                // It is just dying, or has no place for one more connection just now.
                io::ErrorKind::ConnectionReset | io::ErrorKind::WouldBlock
                    if Instant::now() < deadline =>
                {
                    sleep(CONNECT_PAUSE).await;
                }
                _ => return Contact::Silent(error),
            }
        }
    }

    /// Removes the socket that a dead shim left; nobody else does.
    pub(crate) async fn remove_dead_socket(&self, bundle: &Bundle) {
        let Some(bootstrap) = bundle.read_bootstrap() else { return };
        let Ok(path) = socket_path(&bootstrap) else { return };
        let socket = || {
            let file = fs::symlink_metadata(path).ok()?;
            file.file_type().is_socket().then(|| (file.dev(), file.ino()))
        };
        let found = socket();
        if found.is_none() {
            return;
        }
        let deadline = Instant::now() + DYING;
        let dead = loop {
            match self.contact(bundle).await {
                Contact::Dead => break true,
                // A process that dies closes one descriptor after the other.
                Contact::Connected(connection) => {
                    if timeout_at(deadline, connection.closed()).await.is_err() {
                        break false;
                    }
                }
                Contact::Silent(_) => break false,
            }
        };
        // Not one that has come meanwhile.
        if dead
            && socket() == found
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "removing a dead socket");
        }
    }

    async fn adopt_connected(
        self: &Arc<Self>,
        bundle: &Bundle,
        claim: Claim,
        runtime: Runtime,
        connection: Connection,
    ) -> Outcome {
        let request = StateRequest { id: bundle.id.clone(), exec_id: String::new() };
        let limit = Some(self.config.timeouts.shim_load);
        let mut questions = 0;
        let state = loop {
            let state: Result<StateResponse, CallError> =
                connection.call_any_version("State", &request, limit).await;
            let missing = state.as_ref().is_err_and(CallError::is_not_found);
            if !missing {
                break state;
            }
            // A shim whose task was never created, or is deleted already.
            tracing::info!(task = %bundle.object(), "cleaning leaked shim process");
            if !bundle.shares_shim() {
                self.shut_down_shim(&connection, bundle).await;
                let grace = self.config.timeouts.shim_shutdown;
                questions += 1;
                if timeout(grace, connection.closed()).await.is_err() && questions < QUESTIONS {
                    // It stays: the create that the dead daemon had asked for came in between.
                    continue;
                }
            }
            if !bundle.shares_shim() && connection.is_closed() {
                // It may have been killed before it came to that.
                self.remove_dead_socket(bundle).await;
            }
            self.remove_bundle(bundle).await;
            return Outcome::Cleaned;
        };
        let state = match state {
            Ok(state) => Some(state),
            Err(CallError::Closed) => {
                self.bury_unknown(bundle, &runtime).await;
                return Outcome::Cleaned;
            }
            Err(error) => {
                let timeout = error.is_timeout();
                let error = base_errors::Error::from(error);
                tracing::error!(task = %bundle.object(), %error, timeout, "state of a shim");
                None
            }
        };
        let program = bundle
            .read_program()
            .or_else(|| self.runtime_program(&runtime).ok())
            .unwrap_or_default();
        let shared = bundle.shares_shim();
        let answered = state.is_some();
        let pid = state.as_ref().map_or(0, |state| state.pid);
        let task = Task::new(bundle.clone(), connection, program, runtime.options, shared, pid);
        if let Some(state) = state.filter(|state| state.status() == Status::Stopped) {
            // Whoever listens now did not listen then: the state tells it, not an event.
            task.note_exit_event();
            task.set_exit(Exit {
                id: String::new(),
                pid: state.pid,
                status: state.exit_status,
                exited_at: state.exited_at,
            });
        }
        if !shared {
            match self.copy_log(bundle) {
                Ok(log) => task.add_helper(log),
                Err(error) => tracing::warn!(task = %bundle.object(), %error, "shim log"),
            }
        }
        let task = Arc::new(task);
        claim.give(Arc::clone(&task));
        Inner::watch_task(self, &task);
        if !answered {
            Inner::expect_answer(self, &task);
        }
        Outcome::Adopted
    }

    /// Cleans up after a shim that died while no daemon watched.
    async fn bury_unknown(self: &Arc<Self>, bundle: &Bundle, runtime: &Runtime) {
        tracing::warn!(task = %bundle.object(), "cleaning up dead shim");
        if bundle.read_bootstrap().is_none() && !bundle.shares_shim() {
            // The daemon died while it was started: it has no task, and nobody can ask it for one.
            self.end_abandoned(bundle).await;
        }
        let program = match bundle.read_program() {
            Some(program) if program.exists() => Ok(program),
            _ => self.runtime_program(runtime),
        };
        let options = runtime.options.as_ref();
        let deleted = match program {
            Ok(program) => {
                // Each is a process or several; a node full of dead shims must not start them all
                // at once.
                let _place = self.starts.acquire().await;
                self.programs.delete(&program, bundle, options).await
            }
            Err(error) => Err(error),
        };
        let deleted = deleted.unwrap_or_else(|error| {
            tracing::warn!(task = %bundle.object(), %error, "failed to clean up dead shim");
            DeleteResponse { pid: 0, exit_status: 255, exited_at: None }
        });
        self.publish_end(bundle, &deleted);
        self.remove_cgroup(bundle).await;
        self.remove_dead_socket(bundle).await;
        self.remove_bundle(bundle).await;
    }

    fn runtime_program(&self, runtime: &Runtime) -> Result<PathBuf, ShimError> {
        let name = if runtime.name.is_empty() { RUNC } else { &runtime.name };
        shim_program(name, &self.config.containerd_binary)
    }
}

/// Writes down the boot of the machine; true if the bundles are of an earlier one. Then every shim
/// is dead, and its socket's name may belong to somebody else.
fn record_boot(bundles: &Path) -> bool {
    let Ok(boot) = fs::read(BOOT_ID) else { return false };
    let file = bundles.join(BOOT_FILE);
    let known = fs::read(&file).ok();
    if known.as_deref() == Some(&*boot) {
        return false;
    }
    if let Err(error) = base_fs::write_atomic(&file, &boot, 0o644, false) {
        tracing::warn!(%error, "recording the boot");
    }
    known.is_some()
}

/// The namespaces and ids that have a folder below `root`.
pub(crate) fn names(root: &Path) -> Vec<(Namespace, String)> {
    let mut names = Vec::new();
    for namespace in folders(root) {
        let Ok(valid) = Namespace::new(&namespace) else { continue };
        for id in folders(&root.join(&namespace)) {
            if validate_identifier(&id).is_ok() {
                names.push((valid.clone(), id));
            }
        }
    }
    names
}

/// Half removed bundles, and work folders without a bundle. The latter get a name that no task can
/// have, so that they can be removed while tasks are created.
fn leftovers(bundles: &Path, work: &Path, found: &[Found]) -> Vec<PathBuf> {
    let known: BTreeSet<(&str, &str)> = found
        .iter()
        .map(|found| (found.bundle.namespace.as_str(), found.bundle.id.as_str()))
        .collect();
    let mut leftovers = Vec::new();
    for root in [bundles, work] {
        for namespace in folders(root) {
            let folder = root.join(&namespace);
            for id in folders(&folder) {
                let hidden = folder.join(format!(".{id}"));
                if id.starts_with('.') {
                    leftovers.push(folder.join(id));
                } else if root == work
                    && !known.contains(&(&*namespace, &*id))
                    && fs::rename(folder.join(&id), &hidden).is_ok()
                {
                    leftovers.push(hidden);
                }
            }
        }
    }
    leftovers
}

/// The names of all folders in `path` that are text.
fn folders(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
