//! The two HTTP listeners: metrics for Prometheus, and what a developer wants to see.

mod debug;
mod metrics;
mod operations;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

pub use debug::{Debug, tasks};
pub use metrics::Metrics;
pub use operations::OperationMetrics;

/// Connections that one listener serves at once: scrapers and developers are few.
const MAX_CONNECTIONS: usize = 32;

/// An answer with a body that is at hand.
pub type Answer = Response<Full<Bytes>>;

/// What a listener serves.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Answer> + Send;
}

/// An answer of `status` with a text.
fn text(status: StatusCode, content_type: &str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    if let Ok(value) = content_type.parse() {
        answer.headers_mut().insert(hyper::header::CONTENT_TYPE, value);
    }
    answer
}

fn not_found() -> Answer {
    text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n")
}

/// Serves `handler` at `address`: an absolute path is a unix socket of `owner`, else TCP.
///
/// Returns when it listens; the connections are served by the runtime.
pub async fn serve(address: &str, owner: (u32, u32), handler: impl Handler) -> Result<()> {
    let handler = Arc::new(handler);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    if Path::new(address).is_absolute() {
        let listener = crate::sockets::listen(Path::new(address), owner.0, owner.1)?;
        tokio::spawn(async move {
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(connection(stream, Arc::clone(&handler), place));
            }
        });
    } else {
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address}"))?;
        tokio::spawn(async move {
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(connection(stream, Arc::clone(&handler), place));
            }
        });
    }
    Ok(())
}

async fn connection<S, H>(stream: S, handler: Arc<H>, _place: tokio::sync::OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Handler,
{
    let service = service_fn(|request| {
        let handler = Arc::clone(&handler);
        async move { Ok::<_, Infallible>(handler.answer(request).await) }
    });
    // An error is the client's: it went away, or did not speak HTTP.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
