//! The serving process: one thread, from the first connection to the last event.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api_shim::sandbox::{SANDBOX_SERVICE, SandboxServer};
use api_shim::task::{self, TaskServer};
use api_ttrpc::Server;
use base_errors::{Error, Result, ResultExt};
use runtime_runc::Reaper;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::bootstrap::arguments::Arguments;
use crate::bootstrap::socket::{self, Bound, Own};
use crate::events::Publisher;
use crate::idle::{Idle, Limits, Noticed};
use crate::log;
use crate::sandbox::Sandboxes;
use crate::service::Service;

/// How long the last events and the last answers may take to leave. As in containerd.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections at once: a daemon has one for each task of the group.
const MAX_CONNECTIONS: usize = 1024;

/// The pause after a failed `accept`, so that a lack of descriptors is no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a serving shim knows from its start.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) namespace: String,
    pub(crate) id: String,
    pub(crate) debug: bool,
    /// The bundle of the first container.
    pub(crate) bundle: PathBuf,
    /// The socket, removed before the end is told.
    pub(crate) socket: Arc<Own>,
    /// The daemon's ttrpc socket; empty: nobody wants events.
    pub(crate) ttrpc_address: String,
    /// What went wrong before there was a log.
    pub(crate) warnings: Vec<String>,
}

/// A runtime of one thread.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Serves in the foreground, on the socket that was told.
pub(crate) fn serve_socket(arguments: &Arguments) -> Result<()> {
    if arguments.socket.is_empty() {
        let text = "nothing to do: expected start, delete, or -socket with the path to serve on";
        return Err(Error::invalid_argument(text));
    }
    let path = arguments.socket.strip_prefix("unix://").unwrap_or(&arguments.socket);
    let Bound::New(listener) = socket::bind(Path::new(path))? else {
        return Err(Error::already_exists(format!("a shim on {path}")));
    };
    let settings = Settings {
        namespace: arguments.namespace.clone(),
        id: arguments.id.clone(),
        debug: arguments.debug,
        bundle: std::env::current_dir().context("get working directory")?,
        socket: Arc::new(Own::new(Path::new(path))),
        ttrpc_address: std::env::var("TTRPC_ADDRESS").unwrap_or_default(),
        warnings: Vec::new(),
    };
    serve(settings, listener)
}

/// Serves until the last container has gone and the daemon says so, or a signal ends it.
///
/// # Errors
/// What keeps it from serving. The socket is gone in any case.
pub(crate) fn serve(settings: Settings, listener: UnixListener) -> Result<()> {
    // One thread needs one arena.
    kernel_process::tune_malloc(1);
    log::install(&settings.bundle, settings.debug, &settings.namespace, &settings.id);
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let served = kernel_process::set_subreaper(true)
        .map_err(Error::from)
        .context("failed to become a subreaper")
        .and_then(|()| runtime()?.block_on(run(&settings, listener)));
    // After a failure; otherwise it has gone, and the path may be the next shim's.
    settings.socket.remove();
    if let Err(error) = &served {
        tracing::error!(%error, "shim failed");
    }
    served
}

async fn run(settings: &Settings, listener: UnixListener) -> Result<()> {
    let reaper = Reaper::install()?;
    let publisher = Publisher::start(&settings.ttrpc_address, &settings.namespace);
    let idle = Idle::new();
    let socket = Arc::clone(&settings.socket);
    let service =
        Service::new(&settings.namespace, socket, reaper, publisher.clone(), Arc::clone(&idle));
    let service = Arc::new(service);
    let mut leaving = service.leaving();
    let sandboxes = SandboxServer::new(Sandboxes::new(Arc::clone(&service)));
    let sandboxes = Arc::new(Noticed::new(sandboxes, &idle));
    let tasks = Arc::new(Noticed::new(TaskServer::from_arc(Arc::clone(&service)), &idle));
    let server = Server::new()
        .register(task::SERVICE_V2, tasks.clone())
        .register(task::SERVICE_V3, tasks)
        .register(SANDBOX_SERVICE, sandboxes);
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let mut connections = JoinSet::new();
    tokio::select! {
        () = accept(&server, &listener, &idle, &mut connections) => {}
        _ = leaving.wait_for(|leave| *leave) => {}
        () = idle.outlived(&service, &publisher, Limits::from_environment()) => {
            tracing::info!("nothing is left to do, the shim leaves");
        }
        _ = terminate.recv() => tracing::debug!("caught exit signal"),
        _ = interrupt.recv() => tracing::debug!("caught exit signal"),
    }
    // Nobody shall find this shim any more and give it another container.
    settings.socket.remove();
    drop(listener);
    server.shutdown();
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(LEAVE_TIMEOUT, drained).await.is_err() {
        server.close();
    }
    publisher.flush(LEAVE_TIMEOUT).await;
    service.remainders.wait().await;
    Ok(())
}

/// Takes connections and serves them in the background.
async fn accept(
    server: &Server,
    listener: &tokio::net::UnixListener,
    idle: &Arc<Idle>,
    connections: &mut JoinSet<()>,
) {
    loop {
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                match accepted {
                    Ok((stream, _)) => {
                        let (server, connected) = (server.clone(), idle.connected());
                        connections.spawn(async move {
                            if let Err(error) = server.serve_connection(stream, None).await {
                                tracing::debug!(%error, "connection ended");
                            }
                            drop(connected);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accept failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }
}
