//! The gRPC server: HTTP/2 over a unix socket, and services by their names.
//!
//! tonic makes the services; this carries them. What a general router would bring (paths with
//! parameters, TLS, connection pools) is not needed on a local socket.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::{Service, ServiceExt as _};

/// Bytes that a client may send on one stream before we have read them. Content is written in
/// messages of up to 1 MiB; a smaller window makes the client wait in the middle of each.
const STREAM_WINDOW: u32 = 2 << 20;

/// The same for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Calls that one connection may have open. Clients wait for tasks and events with open calls, one
/// for each container and exec; dockerd has a single connection for a thousand containers.
const MAX_STREAMS: u32 = 1 << 16;

/// Pause after an accept that failed for want of descriptors, so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a client may take until its connection is a safe one.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Clients that may be on the way there at once; they have not shown yet who they are.
const MAX_HANDSHAKES: usize = 64;

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// One gRPC service, under its name.
#[derive(Clone)]
pub struct GrpcService {
    name: &'static str,
    call: Arc<dyn Fn(Request) -> BoxFuture<'static, Response> + Send + Sync>,
}

impl GrpcService {
    /// The service that tonic generated `server` for.
    pub fn new<S>(server: S) -> Self
    where
        S: Service<Request, Response = Response, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let call = move |request| -> BoxFuture<'static, Response> {
            let answer = server.clone().oneshot(request);
            Box::pin(async move {
                match answer.await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            })
        };
        GrpcService { name: S::NAME, call: Arc::new(call) }
    }
}

/// Calls services by the names in the paths of requests.
#[derive(Clone, Default)]
pub struct Dispatcher {
    services: Arc<BTreeMap<&'static str, GrpcService>>,
}

impl Dispatcher {
    /// Adds a service. All are added before the first request.
    pub fn add(&mut self, service: GrpcService) {
        Arc::make_mut(&mut self.services).insert(service.name, service);
    }
}

impl Service<Request> for Dispatcher {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let path = request.uri().path();
        let name = path.strip_prefix('/').and_then(|path| path.split('/').next());
        match name.and_then(|name| self.services.get(name)) {
            Some(service) => {
                let answer = (service.call)(request);
                Box::pin(async move { Ok(answer.await) })
            }
            None => {
                let status =
                    Status::unimplemented(format!("unknown service {}", name.unwrap_or_default()));
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}

/// What answers requests: the [`Dispatcher`], or layers around it.
pub trait Serve:
    Service<Request, Response = Response, Error = Infallible, Future = <Self as Serve>::Answer>
    + Clone
    + Send
    + 'static
{
    /// The answer that is on its way.
    type Answer: Future<Output = Result<Response, Infallible>> + Send + 'static;
}

impl<S> Serve for S
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Answer = S::Future;
}

/// Serves `service` to all who connect to `listener`, until the future is dropped.
pub async fn serve(listener: UnixListener, service: impl Serve) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        serve_client(stream, service.clone());
    }
}

/// As [`serve`], to all who connect to a TCP socket: nobody is asked who he is, so that it has to be
/// a local one.
pub async fn serve_tcp(listener: TcpListener, service: impl Serve) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => serve_client(stream, service.clone()),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// As [`serve_tcp`], to those whose connection `secure` makes a safe one; it is called once for each,
/// and who takes too long for it is sent away.
pub async fn serve_secured<F, T>(
    listener: TcpListener,
    service: impl Serve,
    secure: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = io::Result<T>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        // Never closed.
        let place = Arc::clone(&places).acquire_owned().await.ok();
        match listener.accept().await {
            Ok((stream, client)) => {
                let (secured, service) = (secure(stream), service.clone());
                // It ends with its time limit at the latest.
                tokio::spawn(async move {
                    let secured = timeout(HANDSHAKE_LIMIT, secured).await;
                    drop(place);
                    match secured.unwrap_or_else(|late| Err(late.into())) {
                        Ok(stream) => serve_client(stream, service),
                        Err(error) => tracing::warn!(%client, %error, "refused a client"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one client until it leaves.
fn serve_client(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, service: impl Serve) {
    let service = service.map_request(|request: http::Request<_>| request.map(Body::new));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    // A connection lives as long as its client.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a client's connection ended");
        }
    });
}
