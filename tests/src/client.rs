//! Calls to a daemon without `ctr` between, to see codes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use api_grpc::{MAX_MESSAGE_SIZE, NAMESPACE_HEADER, version};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection with its own runtime, for tests that are not async.
#[derive(Debug)]
pub struct Client {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
    namespace: String,
}

macro_rules! services {
    ($($(#[$doc:meta])* $name:ident => $client:path;)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(&self) -> $client {
            type Client = $client;
            Client::new(self.channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_SIZE)
                .max_encoding_message_size(MAX_MESSAGE_SIZE)
        }
    )*};
}

impl Client {
    /// Connects to the daemon at `socket`; calls go to `namespace`.
    ///
    /// # Errors
    ///
    /// Nobody listens.
    pub fn connect(socket: &Path, namespace: &str) -> Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint =
            Endpoint::from_shared(format!("unix://{}", socket.display()))?.connect_timeout(CONNECT);
        let channel = runtime
            .block_on(endpoint.connect())
            .with_context(|| format!("connect to {}", socket.display()))?;
        Ok(Client { runtime, channel, namespace: namespace.to_owned() })
    }

    /// Runs `future` to its end.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// The channel, for other threads and services.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// `message` for the namespace of this client.
    ///
    /// # Panics
    ///
    /// The namespace is not printable ASCII; it comes from the tests themselves.
    pub fn request<T>(&self, message: T) -> tonic::Request<T> {
        request(&self.namespace, message)
    }

    /// The version that the daemon tells.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn version(&self) -> Result<String> {
        let answer = self.block_on(self.version_service().version(()))?;
        Ok(answer.into_inner().version)
    }

    services! {
        /// The version service.
        version_service => version::version_client::VersionClient<Channel>;
        /// The containers service.
        containers => api_grpc::containers::containers_client::ContainersClient<Channel>;
        /// The content service.
        content => api_grpc::content::content_client::ContentClient<Channel>;
        /// The diff service.
        diff => api_grpc::diff::diff_client::DiffClient<Channel>;
        /// The event service.
        events => api_grpc::events::events_client::EventsClient<Channel>;
        /// The images service.
        images => api_grpc::images::images_client::ImagesClient<Channel>;
        /// The introspection service.
        introspection => api_grpc::introspection::introspection_client::IntrospectionClient<Channel>;
        /// The leases service.
        leases => api_grpc::leases::leases_client::LeasesClient<Channel>;
        /// The namespaces service.
        namespaces => api_grpc::namespaces::namespaces_client::NamespacesClient<Channel>;
        /// The snapshots service.
        snapshots => api_grpc::snapshots::snapshots_client::SnapshotsClient<Channel>;
        /// The tasks service.
        tasks => api_grpc::tasks::tasks_client::TasksClient<Channel>;
    }
}

/// `message` for `namespace`.
///
/// # Panics
///
/// The namespace is not printable ASCII; it comes from the tests themselves.
pub fn request<T>(namespace: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    match MetadataValue::try_from(namespace) {
        Ok(value) => request.metadata_mut().insert(NAMESPACE_HEADER, value),
        Err(error) => panic!("namespace {namespace:?}: {error}"),
    };
    request
}
