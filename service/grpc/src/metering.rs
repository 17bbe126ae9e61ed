//! `grpc_server_*`: what every call is counted by, as grpc-go's Prometheus interceptor does.
//!
//! A layer around all services. It reads frame headers and trailers as they pass and copies nothing.

mod frames;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Instant;

use base_telemetry::metrics::{Family, Registry, SECONDS, Series};
use tonic::body::Body;
use tonic::codegen::http;
use tower::{Layer, Service};

use frames::Metered;

/// Calls that are not unary: path, and what grpc-go calls their kind.
const STREAMS: [(&str, &str); 10] = [
    ("/containerd.services.containers.v1.Containers/ListStream", "server_stream"),
    ("/containerd.services.content.v1.Content/List", "server_stream"),
    ("/containerd.services.content.v1.Content/Read", "server_stream"),
    ("/containerd.services.content.v1.Content/Write", "bidi_stream"),
    ("/containerd.services.events.v1.Events/Subscribe", "server_stream"),
    ("/containerd.services.mounts.v1.Mounts/List", "server_stream"),
    ("/containerd.services.snapshots.v1.Snapshots/List", "server_stream"),
    ("/containerd.services.streaming.v1.Streaming/Stream", "bidi_stream"),
    ("/grpc.health.v1.Health/Watch", "server_stream"),
    ("/types.API/Events", "server_stream"),
];

/// The labels of all families but the handled one.
const LABELS: &[&str] = &["grpc_method", "grpc_service", "grpc_type"];

/// The most paths whose series are kept at hand. There are some hundred methods; a client that makes
/// up names finds no more room, and its calls are looked up one by one.
const MAX_METHODS: usize = 1024;

/// The families, and what was looked up in them.
pub(crate) struct Families {
    methods: RwLock<HashMap<String, Arc<Method>>>,
    started: Family,
    handled: Family,
    received: Family,
    sent: Family,
    seconds: Option<Family>,
}

/// Counts the calls of everything inside of it.
#[derive(Clone)]
pub struct MeteringLayer(Arc<Families>);

impl MeteringLayer {
    /// Counts into `registry`; with `histogram`, the time of calls too.
    #[must_use]
    pub fn new(registry: &Registry, histogram: bool) -> Self {
        let started = "Total number of RPCs started on the server.";
        let handled =
            "Total number of RPCs completed on the server, regardless of success or failure.";
        let received = "Total number of RPC stream messages received on the server.";
        let sent = "Total number of gRPC stream messages sent by the server.";
        let seconds = "Histogram of response latency (seconds) of gRPC that had been \
                       application-level handled by the server.";
        MeteringLayer(Arc::new(Families {
            methods: RwLock::default(),
            started: registry.counter("grpc_server_started_total", started, LABELS),
            handled: registry.counter(
                "grpc_server_handled_total",
                handled,
                &["grpc_code", "grpc_method", "grpc_service", "grpc_type"],
            ),
            received: registry.counter("grpc_server_msg_received_total", received, LABELS),
            sent: registry.counter("grpc_server_msg_sent_total", sent, LABELS),
            seconds: histogram.then(|| {
                registry.histogram("grpc_server_handling_seconds", seconds, LABELS, &SECONDS)
            }),
        }))
    }
}

impl<S> Layer<S> for MeteringLayer {
    type Service = Metering<S>;

    fn layer(&self, inner: S) -> Metering<S> {
        Metering { inner, families: self.0.clone() }
    }
}

/// A service whose calls are counted.
#[derive(Clone)]
pub struct Metering<S> {
    inner: S,
    families: Arc<Families>,
}

/// A method with its series.
struct Method {
    method: String,
    service: String,
    kind: &'static str,
    started: Arc<Series>,
    received: Arc<Series>,
    sent: Arc<Series>,
}

impl Method {
    fn labels(&self) -> [&str; 3] {
        [&self.method, &self.service, self.kind]
    }
}

impl Families {
    /// The method at `path`.
    fn method(&self, path: &str) -> Arc<Method> {
        // Entries are whole before they are put in, so a panic cannot have torn the map.
        let methods = self.methods.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(method) = methods.get(path) {
            return Arc::clone(method);
        }
        drop(methods);
        let (service, method) =
            path.trim_start_matches('/').split_once('/').unwrap_or(("unknown", "unknown"));
        let kind =
            STREAMS.iter().find(|(stream, _)| *stream == path).map_or("unary", |(_, kind)| kind);
        let labels = [method, service, kind];
        let found = Arc::new(Method {
            method: method.to_owned(),
            service: service.to_owned(),
            kind,
            started: self.started.with(&labels),
            received: self.received.with(&labels),
            sent: self.sent.with(&labels),
        });
        let mut methods = self.methods.write().unwrap_or_else(PoisonError::into_inner);
        if methods.len() < MAX_METHODS {
            methods.insert(path.to_owned(), Arc::clone(&found));
        }
        found
    }
}

/// One call, from its start to its end, however it ends.
pub(crate) struct Call {
    families: Arc<Families>,
    method: Arc<Method>,
    begun: Instant,
    code: Option<i32>,
}

impl Call {
    fn new(families: Arc<Families>, path: &str) -> Self {
        let method = families.method(path);
        method.started.increment();
        Call { families, method, begun: Instant::now(), code: None }
    }

    pub(crate) fn sent(&self, messages: u64) {
        self.method.sent.add(messages);
    }

    /// Notes the status in `headers`, which may be trailers.
    pub(crate) fn note_status(&mut self, headers: &http::HeaderMap) {
        let code = headers.get("grpc-status").and_then(|value| value.to_str().ok());
        if let Some(code) = code.and_then(|code| code.parse().ok()) {
            self.code = Some(code);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // A call without a status was let go by the client.
        let code = code_name(self.code.unwrap_or(1));
        let [method, service, kind] = self.method.labels();
        self.families.handled.with(&[code, method, service, kind]).increment();
        if let Some(seconds) = &self.families.seconds {
            seconds.observe(&self.method.labels(), self.begun.elapsed().as_secs_f64());
        }
    }
}

/// The codes as grpc-go prints them.
fn code_name(code: i32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    usize::try_from(code).ok().and_then(|code| NAMES.get(code).copied()).unwrap_or("Unknown")
}

impl<S> Service<http::Request<Body>> for Metering<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = Call::new(Arc::clone(&self.families), request.uri().path());
        let received = Arc::clone(&call.method.received);
        let request = request.map(|body| Body::new(Metered::incoming(body, received)));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut call = call;
            let response = answer.await?;
            call.note_status(response.headers());
            Ok(response.map(|body| Body::new(Metered::outgoing(body, call))))
        })
    }
}
