//! `GET /v1/metrics`.

use base_telemetry::metrics::Registry;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};

use super::{Answer, Handler, not_found, text};

/// Answers Prometheus.
pub struct Metrics(pub Registry);

impl Handler for Metrics {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if request.method() != Method::GET || request.uri().path() != "/v1/metrics" {
            return not_found();
        }
        text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.0.encode())
    }
}
