//! The serving side: services by name, listeners, graceful end.

mod connection;

pub use connection::MAX_CALLS;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::context::until;
use crate::{Client, MethodKind, Peer, Service};

/// Connections served at once by one listener; further ones wait in the kernel's backlog. A shim
/// has a handful, the daemon one per shim.
pub const MAX_CONNECTIONS: usize = 4096;

/// Pause after a failed `accept`, so that running out of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How far a server is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Takes calls.
    Running,
    /// Takes none any more; running ones finish.
    Draining,
    /// Waits for nothing.
    Closed,
}

/// Services under their names. Cheap to clone; all clones share the phase.
#[derive(Clone)]
pub struct Server {
    services: Arc<Vec<(String, Arc<dyn Service>)>>,
    phase: Arc<watch::Sender<Phase>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.services.iter().map(|(name, _)| name)).finish()
    }
}

impl Default for Server {
    fn default() -> Self {
        Server::new()
    }
}

/// Who may connect to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ListenOptions {
    /// Only processes of this user, as the kernel tells (`SO_PEERCRED`); `None` lets everyone in
    /// who can open the socket.
    pub require_uid: Option<u32>,
}

impl Server {
    /// A server without services.
    #[must_use]
    pub fn new() -> Self {
        Server {
            services: Arc::new(Vec::new()),
            phase: Arc::new(watch::Sender::new(Phase::Running)),
        }
    }

    /// Adds a service under its full name, e.g. `containerd.task.v3.Task`. A service may be
    /// registered under several names; a later one of the same name replaces the earlier.
    #[must_use]
    pub fn register(mut self, name: impl Into<String>, service: Arc<dyn Service>) -> Self {
        let name = name.into();
        // Registration happens before the first clone, so this does not copy.
        let mut services = (*self.services).clone();
        services.retain(|(known, _)| *known != name);
        services.push((name, service));
        self.services = Arc::new(services);
        self
    }

    /// Names of all services.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(|(name, _)| name.as_str())
    }

    fn find(&self, name: &str) -> Option<&Arc<dyn Service>> {
        self.services.iter().find(|(known, _)| known == name).map(|(_, service)| service)
    }

    fn lookup(&self, name: &str, method: &str) -> Result<(&Arc<dyn Service>, MethodKind), String> {
        // The texts are those of Go's server.
        let service = self.find(name).ok_or_else(|| format!("service {name}"))?;
        let kind = service.kind(method).ok_or_else(|| format!("method {method}"))?;
        Ok((service, kind))
    }

    /// Serves one connection until the other side leaves or the server ends. Handlers that run
    /// when the other side leaves are told through their context and waited for.
    ///
    /// CANCEL: not cancel-safe. Dropping the future drops running handlers where they wait.
    ///
    /// # Errors
    /// The connection's, when reading or writing fails.
    pub async fn serve_connection<S>(&self, stream: S, peer: Option<Peer>) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        connection::serve(self, stream, peer).await
    }

    /// Accepts and serves connections until [`shutdown`](Self::shutdown) or
    /// [`close`](Self::close); returns when the last connection has ended. After a shutdown that
    /// is when the last running call has ended: bound it with a timeout and [`close`](Self::close)
    /// where a call may wait for ever.
    ///
    /// CANCEL: as [`serve_connection`](Self::serve_connection).
    ///
    /// # Errors
    /// None at present: a failed `accept` is logged and tried again.
    pub async fn serve(&self, listener: UnixListener, options: ListenOptions) -> io::Result<()> {
        let mut phase = self.phase.subscribe();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = until(&mut phase, |phase| *phase > Phase::Running) => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                    match accepted {
                        Ok((stream, _)) => {
                            if let Some(peer) = admit(&stream, options) {
                                let server = self.clone();
                                connections.spawn(async move {
                                    if let Err(error) =
                                        server.serve_connection(stream, peer).await
                                    {
                                        tracing::debug!(%error, "ttrpc connection ended");
                                    }
                                });
                            }
                        }
                        Err(error) => {
                            tracing::warn!(%error, "ttrpc accept failed");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
        Ok(())
    }

    /// Begins the end: no new connections and calls; running calls finish and are answered.
    pub fn shutdown(&self) {
        self.advance(Phase::Draining);
    }

    /// Ends at once: connections close, and running handlers are dropped where they wait. For a
    /// process that ends anyway.
    pub fn close(&self) {
        self.advance(Phase::Closed);
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            if later {
                *phase = to;
            }
            later
        });
    }
}

/// The peer of an accepted connection, `None` if it may not connect.
#[expect(clippy::option_option, reason = "the peer may be unknown, and yet be let in")]
fn admit(stream: &UnixStream, options: ListenOptions) -> Option<Option<Peer>> {
    let peer = match stream.peer_cred() {
        Ok(credentials) => {
            Some(Peer { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() })
        }
        Err(error) => {
            tracing::debug!(%error, "ttrpc peer is unknown");
            None
        }
    };
    match (options.require_uid, peer) {
        (Some(uid), Some(peer)) if peer.uid == uid => Some(Some(peer)),
        (Some(_), peer) => {
            tracing::warn!(?peer, "ttrpc connection refused: another user");
            None
        }
        (None, peer) => Some(peer),
    }
}

/// Binds a unix socket at `path`. A socket left there by a dead process is replaced, one that
/// answers is not.
///
/// # Errors
/// `AddrInUse` if somebody listens there; the system's otherwise.
pub async fn bind(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if Client::connect(path).await.is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        result => result,
    }
}
