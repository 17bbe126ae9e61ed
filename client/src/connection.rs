//! The connection to a daemon, and who is calling.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_grpc::{LEASE_HEADER, MAX_MESSAGE_SIZE, NAMESPACE_HEADER};
use base_errors::{Error, Result};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

/// How long a daemon that does not accept is tried, where nobody says; as containerd's clients.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two tries: a daemon that starts is found quickly.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Bytes in flight on one stream: several blocks of content, so that neither end waits.
const STREAM_WINDOW: u32 = 2 << 20;

/// Bytes in flight on the connection: several busy streams.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Bytes of one frame that the daemon may send: a whole message of a read. In frames of 16 KiB,
/// which is what a client allows that says nothing, both ends do sixty times as many system calls.
pub const MAX_FRAME: u32 = 1 << 20;

/// A channel that adds the headers of its client.
pub type Service = InterceptedService<Channel, Headers>;

/// What each call carries.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    namespace: Option<MetadataValue<Ascii>>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let headers = request.metadata_mut();
        if let Some(namespace) = &self.namespace {
            headers.insert(NAMESPACE_HEADER, namespace.clone());
        }
        if let Some(lease) = &self.lease {
            headers.insert(LEASE_HEADER, lease.clone());
        }
        Ok(request)
    }
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct Connect {
    /// The most that the first connection may take.
    pub timeout: Duration,
}

impl Default for Connect {
    fn default() -> Self {
        Connect { timeout: CONNECT_TIMEOUT }
    }
}

/// A connection to a daemon in one namespace. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    headers: Headers,
    namespace: String,
    address: PathBuf,
}

macro_rules! services {
    ($($(#[$doc:meta])* $name:ident => $module:ident :: $inner:ident :: $client:ident;)*) => {
        impl Client {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(&self) -> api_grpc::$module::$inner::$client<Service> {
                api_grpc::$module::$inner::$client::new(self.service())
                    .max_decoding_message_size(MAX_MESSAGE_SIZE)
                    .max_encoding_message_size(MAX_MESSAGE_SIZE)
            })*
        }
    };
}

services! {
    /// Container records.
    containers => containers::containers_client::ContainersClient;
    /// Blobs.
    contents => content::content_client::ContentClient;
    /// Layers from and to snapshots.
    diff => diff::diff_client::DiffClient;
    /// Events.
    events => events::events_client::EventsClient;
    /// Image records.
    images => images::images_client::ImagesClient;
    /// Plugins and the daemon itself.
    introspection => introspection::introspection_client::IntrospectionClient;
    /// Leases.
    leases => leases::leases_client::LeasesClient;
    /// Namespaces.
    namespaces => namespaces::namespaces_client::NamespacesClient;
    /// Sandbox records.
    sandboxes => sandbox::store_client::StoreClient;
    /// Running sandboxes.
    sandbox_controller => sandbox::controller_client::ControllerClient;
    /// Snapshots.
    snapshots => snapshots::snapshots_client::SnapshotsClient;
    /// Byte streams for other services.
    streaming => streaming::streaming_client::StreamingClient;
    /// Running containers.
    tasks => tasks::tasks_client::TasksClient;
    /// Images from anywhere to anywhere.
    transfers => transfer::transfer_client::TransferClient;
    /// The daemon's version.
    version => version::version_client::VersionClient;
}

impl Client {
    /// Connects to the daemon at the socket `address`, for calls in `namespace` (empty for none).
    ///
    /// # Errors
    /// Unknown if there is no socket, Unavailable if nobody answered in time, InvalidArgument if
    /// the namespace cannot be sent.
    pub async fn connect(address: impl AsRef<Path>, namespace: &str) -> Result<Client> {
        Self::connect_with(address, namespace, &Connect::default()).await
    }

    /// As [`Client::connect`], with options.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_with(
        address: impl AsRef<Path>,
        namespace: &str,
        options: &Connect,
    ) -> Result<Client> {
        let text = address.as_ref().as_os_str();
        let path = match text.to_str().and_then(|text| text.strip_prefix("unix://")) {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(text),
        };
        let first = dial(&path, options.timeout).await?;
        // The stream that proved that somebody listens is the first one to be used.
        let first = Arc::new(Mutex::new(Some(first)));
        let target = path.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let target = target.clone();
            async move {
                let stream = match ready {
                    Some(stream) => stream,
                    None => UnixStream::connect(target).await?,
                };
                io::Result::Ok(TokioIo::new(stream))
            }
        });
        let channel = Endpoint::from_static("http://containerd")
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .connect_with_connector(connector)
            .await
            .map_err(|error| Error::unavailable(format!("dial {:?}: {error}", path.display())))?;
        let mut client = Client {
            channel,
            headers: Headers::default(),
            namespace: String::new(),
            address: path,
        };
        client.set_namespace(namespace)?;
        Ok(client)
    }

    /// The same connection for calls in another namespace.
    ///
    /// # Errors
    /// InvalidArgument if the name cannot be sent in a header.
    pub fn with_namespace(&self, namespace: &str) -> Result<Client> {
        let mut client = self.clone();
        client.set_namespace(namespace)?;
        Ok(client)
    }

    fn set_namespace(&mut self, namespace: &str) -> Result<()> {
        self.headers.namespace = header(namespace)?;
        namespace.clone_into(&mut self.namespace);
        Ok(())
    }

    /// The same connection; what its calls make is held by `lease`.
    ///
    /// # Errors
    /// InvalidArgument if the id cannot be sent in a header.
    pub fn with_lease(&self, lease: &str) -> Result<Client> {
        let mut client = self.clone();
        client.headers.lease = header(lease)?;
        Ok(client)
    }

    /// The namespace of the calls.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The daemon's socket.
    #[must_use]
    pub fn address(&self) -> &Path {
        &self.address
    }

    /// The channel with this client's headers, for services that have no method here.
    #[must_use]
    pub fn service(&self) -> Service {
        InterceptedService::new(self.channel.clone(), self.headers.clone())
    }
}

fn header(value: &str) -> Result<Option<MetadataValue<Ascii>>> {
    if value.is_empty() {
        return Ok(None);
    }
    MetadataValue::try_from(value)
        .map(Some)
        .map_err(|_| Error::invalid_argument(format!("{value:?} cannot be sent in a header")))
}

/// A stream to the socket. One that exists but does not accept yet is tried again.
async fn dial(path: &Path, timeout: Duration) -> Result<UnixStream> {
    let deadline = Instant::now() + timeout;
    loop {
        let failure = match tokio::time::timeout_at(deadline, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => io::Error::from(io::ErrorKind::TimedOut),
        };
        let shown = path.display();
        match failure.kind() {
            io::ErrorKind::NotFound => {
                // COMPAT: containerd's text, which has no class.
                let text = format!(
                    "cannot access socket {shown}: stat {shown}: no such file or directory"
                );
                return Err(Error::unknown(text)
                    .with_hint("is containerd running, and is this its address?"));
            }
            io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
                if Instant::now() + RETRY_INTERVAL < deadline =>
            {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            _ => return Err(Error::from(failure).context(format!("failed to dial \"{shown}\""))),
        }
    }
}
