//! The HTTP port: `/metrics` for Prometheus, `/livez` and `/readyz` for the kubelet.
//!
//! It stands on hyper, which the API client brings anyway: for three routes a web framework would be more code
//! than this.
//!
//! Anybody in the cluster may connect, so each connection has one request, little time and little room, and there are
//! only so many: a new one takes the place of the oldest. A probe asks as soon as it is connected, and has its answer
//! long before a flood has taken all places.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::observe::health::{Check, Health};
use crate::observe::metrics::Metrics;

/// The content type of the text format of Prometheus.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What connections may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// How many there may be at a time.
    connections: usize,
    /// How long one may last, from the first byte of the request to the last of the answer.
    time: Duration,
}

const LIMITS: Limits = Limits { connections: 64, time: Duration::from_secs(10) };

/// How much of a request is taken in, in bytes. Those that we answer have a few hundred.
const REQUEST_MAX: usize = 16 << 10;

/// How many connections may wait to be accepted, as the standard library has it.
const BACKLOG: u32 = 128;

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// This port on all addresses, of IPv6 and IPv4, whichever there are.
    All(u16),
    /// One address, or all of one family.
    One(SocketAddr),
}

impl Address {
    /// Reads an address and a port, or, as Go has it, `:` and a port.
    ///
    /// # Errors
    /// Returns what is wrong with it, in words that follow a setting's name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let all = text.strip_prefix(':').and_then(|port| port.parse().ok()).map(Self::All);
        all.or_else(|| text.parse().ok().map(Self::One)).ok_or_else(|| {
            format!("must be an address and a port like \"10.0.0.1:8080\", \":8080\", or empty, not {text:?}")
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(port) => write!(f, "port {port}"),
            Self::One(address) => address.fmt(f),
        }
    }
}

/// Begins to listen.
///
/// # Errors
/// Returns an error if the address is in use, or is not one of this machine's.
pub async fn listen(address: Address) -> io::Result<TcpListener> {
    match address {
        Address::One(address) => TcpListener::bind(address).await,
        Address::All(port) => match on_both_families(port) {
            // This machine has no IPv6, or another program has the port there.
            Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
            listener => listener,
        },
    }
}

/// Listens on all addresses of IPv6, which takes in those of IPv4 whatever the machine's default is.
fn on_both_families(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv6Addr::UNSPECIFIED, port).into())?;
    socket.listen(BACKLOG)
}

/// Answers requests, for ever.
pub async fn serve(listener: TcpListener, metrics: Metrics, health: Health) {
    serve_within(LIMITS, listener, metrics, health).await;
}

async fn serve_within(limits: Limits, listener: TcpListener, metrics: Metrics, health: Health) {
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // For example because descriptors have run out: other tasks may give some back.
                debug!(%error, "failed to accept a connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= limits.connections
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        let connection = tokio::spawn(converse(limits.time, stream, metrics.clone(), health.clone()));
        connections.push_back(connection.abort_handle());
        // So that those that were just accepted, and that one, have their turn.
        tokio::task::yield_now().await;
    }
}

/// Answers the one request of a connection, in `time` at the most.
async fn converse(time: Duration, stream: TcpStream, metrics: Metrics, health: Health) {
    let answer = service_fn(move |request| {
        let response = respond(&request, &metrics, &health);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(time / 2);
    http.keep_alive(false).max_buf_size(REQUEST_MAX);
    match timeout(time, http.serve_connection(TokioIo::new(stream), answer)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "an HTTP connection broke"),
        Err(_) => debug!("an HTTP connection has lasted too long"),
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

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpStream;
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::cluster::election::Leadership;
    use crate::cluster::watch_health::WatchHealth;
    use crate::export::Export;
    use crate::model::exports::Exports;
    use crate::observe::metrics::Durations;
    use crate::storage::{Root, Storage};
    use crate::values::address::ExportAddress;

    /// How long a connection waits for what is to come.
    const PATIENCE: Duration = Duration::from_mins(1);

    async fn served(limits: Limits) -> (SocketAddr, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let exports = Exports::single(ExportAddress::new("nas".into(), "/export".into()));
        let storage = Storage::from(Root::open(dir.path()).unwrap());
        let exports = exports.map(|(_, export)| Export::new(export, storage.clone()));
        let (_, leadership) = Leadership::new();
        let metrics = Metrics::new(exports.clone(), &Durations::default(), leadership.clone());
        let health = Health::new(exports, Arc::new(WatchHealth::default()), leadership);
        let listener = listen(Address::parse("127.0.0.1:0").unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve_within(limits, listener, metrics, health));
        (address, dir)
    }

    /// Connects, sends a text, and reads until the other side has closed.
    fn answer(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = Vec::new();
        // Who is refused may be so before everything is sent.
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_port_on_all_addresses_is_of_both_families() {
        let listener = listen(Address::All(0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        } else {
            eprintln!("this machine has no IPv6");
        }
        assert_eq!(listen(Address::All(port)).await.unwrap_err().kind(), ErrorKind::AddrInUse);
    }

    const PROBE: &str = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";

    /// Connects so many times and asks for nothing, or not to the end.
    fn flood(address: SocketAddr, connections: usize) -> Vec<TcpStream> {
        let connect = |number| {
            let mut stream = TcpStream::connect(address).unwrap();
            if number % 2 == 0 {
                let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nhost");
            }
            stream
        };
        (0..connections).map(connect).collect()
    }

    /// Waits until the other side has closed a connection without an answer, and tells whether it has.
    fn is_closed(stream: &mut TcpStream) -> bool {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
        !read.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }

    fn is_open(stream: &mut TcpStream) -> bool {
        stream.set_nonblocking(true).unwrap();
        stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_flood_of_connections_is_bounded_and_keeps_no_probe_waiting() {
        // Whatever is closed here is closed to make room: the time of none is ever up.
        let limits = Limits { connections: 8, time: Duration::from_hours(1) };
        let (address, _dir) = served(limits).await;
        let mut flood = flood(address, limits.connections * 4);
        let answered = answer(address, PROBE);
        assert!(answered.starts_with("HTTP/1.1 200") && answered.ends_with("ok\n"), "{answered}");
        // The probe has taken the place of one more.
        let (oldest, newest) = flood.split_at_mut(limits.connections * 3 + 1);
        assert!(oldest.iter_mut().all(is_closed));
        assert!(newest.iter_mut().all(is_open));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_connection_that_asks_for_nothing_is_closed_when_its_time_is_up() {
        let limits = Limits { connections: 8, time: Duration::from_secs(1) };
        let (address, _dir) = served(limits).await;
        let begun = Instant::now();
        let mut connections = flood(address, limits.connections);
        assert!(connections.iter_mut().all(is_closed));
        assert!(begun.elapsed() >= limits.time / 2, "{:?}", begun.elapsed());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_that_is_too_large_is_refused_and_a_connection_has_one() {
        let (address, _dir) = served(LIMITS).await;
        let large = format!("GET /livez HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(REQUEST_MAX * 2));
        let refused = answer(address, &large);
        assert!(!refused.starts_with("HTTP/1.1 200"), "{refused}");
        let both = answer(address, &PROBE.repeat(2));
        assert_eq!(both.matches("HTTP/1.1 200").count(), 1, "{both}");
    }
}
