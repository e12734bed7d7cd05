//! The HTTP port: `/metrics` for Prometheus, `/livez` and `/readyz` for the kubelet.
//!
//! It stands on hyper, which the API client brings anyway: for three routes a web framework would be more code
//! than this.

use std::convert::Infallible;
use std::net::SocketAddr;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tracing::debug;

use crate::observe::health::{Check, Health};
use crate::observe::metrics::Metrics;

/// The content type of the text format of Prometheus.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Begins to listen.
///
/// # Errors
/// Returns an error if the address is in use, or is not one of this machine's.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers requests, for ever.
pub async fn serve(listener: TcpListener, metrics: Metrics, health: Health) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // For example because descriptors have run out: other tasks may give some back.
                debug!(%error, "failed to accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let (metrics, health) = (metrics.clone(), health.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let response = respond(&request, &metrics, &health);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = connection.await {
                debug!(%error, "an HTTP connection broke");
            }
        });
    }
}

/// Answers one request.
fn respond(request: &Request<Incoming>, metrics: &Metrics, health: &Health) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, METRICS_TYPE, metrics.text()),
        // Alive is what answers. No other check belongs here: a restart does not bring back a server that is away.
        (&Method::GET, "/livez") => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        (&Method::GET, "/readyz") => {
            let (status, body) = readiness(health, request.uri().query() == Some("verbose"));
            (status, "text/plain; charset=utf-8", body)
        }
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "text/plain", "try /metrics, /livez or /readyz\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

/// Returns whether all checks pass, and a line for each that fails; with `verbose`, for each check.
fn readiness(health: &Health, verbose: bool) -> (StatusCode, String) {
    let checks = health.checks();
    let is_ready = checks.iter().all(|check| check.state.is_ok());
    let mut lines = Vec::new();
    for Check { name, state } in checks {
        match state {
            Err(problem) => lines.push(format!("[-]{name} failed: {problem}")),
            Ok(state) if verbose => lines.push(format!("[+]{name} ok: {state}")),
            Ok(_) => {}
        }
    }
    lines.push(if is_ready { "ok\n" } else { "not ready\n" }.to_owned());
    (if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, lines.join("\n"))
}
