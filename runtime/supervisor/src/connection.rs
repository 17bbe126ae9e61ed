//! The connection to one shim, for one task.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use api_shim::Message;
use api_ttrpc::{CallOptions, Client, Status, code};
use base_ident::Namespace;
use tokio::time::timeout;

use crate::ShimError;
use crate::bootstrap::Bootstrap;

/// A connection that speaks the task service of a shim.
pub(crate) struct Connection {
    client: Client,
    /// Version of the task service; falls from 3 to 2 if the shim turns out to be older.
    version: AtomicU32,
    namespace: Namespace,
}

/// Why a call gave no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The connection has ended.
    Closed,
    /// The shim answered with an error, or too late.
    Failed(Status),
}

impl CallError {
    /// True if the shim did not answer in time.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, CallError::Failed(status) if status.code == code::DEADLINE_EXCEEDED)
    }

    /// True if the shim does not know the object.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, CallError::Failed(status) if status.code == code::NOT_FOUND)
    }

    /// True if the shim does not have the service.
    pub(crate) fn is_unimplemented(&self) -> bool {
        matches!(self, CallError::Failed(status) if status.code == code::UNIMPLEMENTED)
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        if status == Status::closed() { CallError::Closed } else { CallError::Failed(status) }
    }
}

impl From<CallError> for base_errors::Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Closed => Status::closed().into(),
            CallError::Failed(status) => status.into(),
        }
    }
}

/// Where a shim listens: the path of its socket.
pub(crate) fn socket_path(bootstrap: &Bootstrap) -> Result<&Path, ShimError> {
    if bootstrap.protocol != "ttrpc" {
        let value = bootstrap.protocol.clone();
        return Err(ShimError::Unsupported { what: "protocol", value });
    }
    let address = bootstrap.address.strip_prefix("ttrpc+").unwrap_or(&bootstrap.address);
    let path = Path::new(address.strip_prefix("unix://").unwrap_or(address));
    if path.is_absolute() {
        Ok(path)
    } else {
        let value = bootstrap.address.clone();
        Err(ShimError::Unsupported { what: "address", value })
    }
}

impl Connection {
    /// Connects to a shim.
    pub(crate) async fn open(
        bootstrap: &Bootstrap,
        namespace: &Namespace,
        limit: Duration,
    ) -> Result<Self, ShimError> {
        let path = socket_path(bootstrap)?;
        let connected = timeout(limit, Client::connect(path)).await;
        let client = connected
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| ShimError::Connect { address: bootstrap.address.clone(), source })?;
        let version = AtomicU32::new(bootstrap.version);
        Ok(Connection { client, version, namespace: namespace.clone() })
    }

    /// Version of the task service.
    pub(crate) fn version(&self) -> u32 {
        self.version.load(Ordering::Relaxed)
    }

    /// Takes the shim for one of version 2 from now on; false if it is taken for one already.
    pub(crate) fn downgrade(&self) -> bool {
        self.version.swap(2, Ordering::Relaxed) != 2
    }

    /// Calls a method of the task service. Without a limit it waits as long as the shim lives.
    pub(crate) async fn call<Q: Message, P: Message + Default>(
        &self,
        method: &str,
        request: &Q,
        limit: Option<Duration>,
    ) -> Result<P, CallError> {
        let service = match self.version() {
            2 => "containerd.task.v2.Task",
            _ => "containerd.task.v3.Task",
        };
        let mut options = CallOptions::new().namespace(self.namespace.as_str());
        options.timeout = limit;
        Ok(self.client.call(service, method, request, &options).await?)
    }

    /// As [`call`](Self::call); tries once more as version 2 if the shim does not have version 3.
    pub(crate) async fn call_any_version<Q: Message, P: Message + Default>(
        &self,
        method: &str,
        request: &Q,
        limit: Option<Duration>,
    ) -> Result<P, CallError> {
        match self.call(method, request, limit).await {
            Err(error) if error.is_unimplemented() && self.downgrade() => {
                self.call(method, request, limit).await
            }
            other => other,
        }
    }

    /// Returns once the connection has ended.
    pub(crate) async fn closed(&self) {
        self.client.closed().await;
    }

    /// True once the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_to_sockets() {
        let path = |address: &str, protocol: &str| {
            socket_path(&Bootstrap::new(3, address, protocol))
                .map(|path| path.display().to_string())
                .map_err(|error| error.to_string())
        };
        for good in ["unix:///run/s/a", "ttrpc+unix:///run/s/a", "/run/s/a"] {
            assert_eq!(path(good, "ttrpc").unwrap(), "/run/s/a");
        }
        assert_eq!(
            path("vsock://3:1", "ttrpc").unwrap_err(),
            "unsupported shim address \"vsock://3:1\""
        );
        assert_eq!(path("unix:///a", "grpc").unwrap_err(), "unsupported shim protocol \"grpc\"");
    }
}
