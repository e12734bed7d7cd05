//! A proxy between one client and the API server, through which chosen requests go wrong.
//!
//! It speaks HTTP/1.1 on both sides and passes everything on as it is, the client's token too. It shows the API
//! server's own certificate, so that a kubeconfig needs no change but the address. It runs on a thread of its own, so
//! that a test that waits for a process does not keep that process waiting.
//!
//! A test says what goes wrong by [`Proxy::fault`]: which requests, and what becomes of them. That holds for requests
//! to come and, where it makes sense, for watches that are under way, until the [`Fault`] is dropped.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{ACCEPT_ENCODING, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kube::config::Kubeconfig;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::plane::Plane;

/// A request of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    /// What it has the API server make or change, as text.
    pub(crate) body: String,
}

impl Asked {
    fn of(request: &Request<Bytes>) -> Self {
        Self {
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            body: String::from_utf8_lossy(request.body()).into_owned(),
        }
    }

    /// Whether the query has this, as in `watch=true`.
    pub(crate) fn says(&self, parameter: &str) -> bool {
        self.query.split('&').any(|part| part == parameter)
    }

    /// Whether it watches objects, all of a kind or some.
    pub(crate) fn is_watch(&self) -> bool {
        self.says("watch=true")
    }

    /// Whether it watches all objects of this kind: `persistentvolumes`.
    pub(crate) fn watches(&self, kind: &str) -> bool {
        self.is_watch() && self.is_of_all(kind)
    }

    /// Whether it lists all objects of this kind, be it as a watch that begins with them, or in pages.
    pub(crate) fn lists(&self, kind: &str) -> bool {
        let streams = self.says("sendInitialEvents=true");
        self.method == "GET" && self.is_of_all(kind) && (streams || !self.is_watch())
    }

    /// Whether it makes an object of this kind.
    pub(crate) fn makes(&self, kind: &str) -> bool {
        self.method == "POST" && self.is_of_all(kind)
    }

    /// Whether it deletes this one object.
    pub(crate) fn deletes(&self, kind: &str, name: &str) -> bool {
        self.method == "DELETE" && self.path.ends_with(&format!("/{kind}/{name}"))
    }

    /// Whether it reads this one object.
    pub(crate) fn reads(&self, kind: &str, name: &str) -> bool {
        self.method == "GET" && self.path.ends_with(&format!("/{kind}/{name}"))
    }

    fn is_of_all(&self, kind: &str) -> bool {
        self.path.ends_with(&format!("/{kind}"))
    }
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// It waits until the fault is lifted, and goes on then; a watch that is under way brings nothing until then.
    Freeze,
    /// The connection is closed without an answer, or in the middle of a watch.
    Cut,
    /// It is passed on later.
    Delay(Duration),
    /// It is passed on once another one that came later has been answered, or after so long at the latest.
    Overtaken(Duration),
    /// It is carried out at once, and answered later, with what was true then.
    Late(Duration),
    /// It is not passed on, but answered with this status.
    Refuse(u16),
    /// It is carried out, and the connection closed without an answer.
    LoseAnswer,
    /// A watch is told that its version is too old, and ends: its objects are listed again.
    Gone,
    /// Each object that a watch brings comes so much after the one before.
    Slowly(Duration),
    /// A watch brings all that comes before the first object with this text, and no more until the fault is lifted.
    HoldAt(String),
    /// A watch that begins with a list brings this older one, and nothing more until the fault is lifted; then it
    /// ends. See [`Proxy::recorded`].
    Stale(Vec<Bytes>),
}

struct Rule {
    id: usize,
    matches: Box<dyn Fn(&Asked) -> bool + Send>,
    action: Action,
    /// How many more requests it is for.
    left: usize,
    hits: Arc<AtomicUsize>,
}

/// What the proxy's connections share.
struct Shared {
    rules: Mutex<Vec<Rule>>,
    /// Counts the changes of the rules.
    changes: watch::Sender<usize>,
    /// Counts the answers to all that is no watch.
    answered: watch::Sender<usize>,
    asked: Mutex<Vec<Asked>>,
    recorded: Mutex<Vec<(String, Vec<Bytes>)>>,
    server: Server,
}

/// The API server.
struct Server {
    address: String,
    connector: TlsConnector,
}

/// Something that goes wrong until this is dropped.
#[must_use]
pub(crate) struct Fault {
    id: usize,
    hits: Arc<AtomicUsize>,
    shared: Arc<Shared>,
}

impl Fault {
    /// How many requests, or watches that were under way, have met it.
    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        self.shared.rules.lock().retain(|rule| rule.id != self.id);
        self.shared.changes.send_modify(|changes| *changes += 1);
    }
}

/// A running proxy. It ends, and closes its connections, with this value.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _end: oneshot::Sender<Infallible>,
}

impl Proxy {
    /// Starts one before a control plane's API server.
    pub(crate) fn start(plane: &Plane) -> Self {
        let kubeconfig = Kubeconfig::read_from(&plane.kubeconfig).expect("a kubeconfig");
        let cluster = kubeconfig.clusters[0].cluster.clone().expect("a cluster");
        let address = cluster.server.expect("an address").replace("https://", "");
        let shared = Arc::new(Shared {
            rules: Mutex::default(),
            changes: watch::Sender::default(),
            answered: watch::Sender::default(),
            asked: Mutex::default(),
            recorded: Mutex::default(),
            server: Server { address, connector: connector(&plane.dir) },
        });
        let acceptor = acceptor(&plane.dir);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (end, ended) = oneshot::channel();
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = accept(listener, acceptor, serving) => {}
                    _ = ended => {}
                }
            });
        });
        Self { address, shared, _end: end }
    }

    /// Where it listens, as a kubeconfig has it.
    pub(crate) fn address(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Has all requests that match go wrong until the fault is dropped. Of several faults, the first holds.
    pub(crate) fn fault(&self, matches: impl Fn(&Asked) -> bool + Send + 'static, action: Action) -> Fault {
        self.fault_of(usize::MAX, matches, action)
    }

    /// As [`Proxy::fault`], for so many requests or watches only.
    pub(crate) fn fault_of(
        &self,
        times: usize,
        matches: impl Fn(&Asked) -> bool + Send + 'static,
        action: Action,
    ) -> Fault {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let id = NUMBER.fetch_add(1, Ordering::SeqCst);
        let hits = Arc::new(AtomicUsize::new(0));
        let rule = Rule { id, matches: Box::new(matches), action, left: times, hits: Arc::clone(&hits) };
        self.shared.rules.lock().push(rule);
        self.shared.changes.send_modify(|changes| *changes += 1);
        Fault { id, hits, shared: Arc::clone(&self.shared) }
    }

    /// How many requests have come that match.
    pub(crate) fn count(&self, matches: impl Fn(&Asked) -> bool) -> usize {
        self.shared.asked.lock().iter().filter(|asked| matches(asked)).count()
    }

    /// The last list of all objects of a kind that a watch has brought, if one has, for [`Action::Stale`].
    pub(crate) fn recorded(&self, kind: &str) -> Option<Vec<Bytes>> {
        let recorded = self.shared.recorded.lock();
        let is_of = |path: &str| path.ends_with(&format!("/{kind}"));
        recorded.iter().rev().find(|(path, _)| is_of(path)).map(|(_, lines)| lines.clone())
    }
}

fn acceptor(dir: &Path) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(dir.join("apiserver.crt")).expect("certificates");
    let chain = chain.collect::<Result<_, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_file(dir.join("apiserver.key")).expect("a key");
    let config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).expect("a certificate");
    TlsAcceptor::from(Arc::new(config))
}

fn connector(dir: &Path) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let authority = fs::read(dir.join("ca.crt")).expect("an authority");
    roots.add(CertificateDer::from_pem_slice(&authority).expect("a certificate")).expect("an authority");
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Why a connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Closed(String);

impl Closed {
    fn by(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

type Body = UnsyncBoxBody<Bytes, Closed>;

fn body(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let upstream = Arc::new(tokio::sync::Mutex::new(None));
            let service = service_fn(move |request| {
                let (shared, upstream) = (Arc::clone(&shared), Arc::clone(&upstream));
                async move { answer(&shared, &mut *upstream.lock().await, request).await }
            });
            let http = hyper::server::conn::http1::Builder::new();
            // A connection that is cut is an error here, which is what it is for.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Upstream = Option<SendRequest<Full<Bytes>>>;

/// Answers one request, by what the faults say.
async fn answer(
    shared: &Arc<Shared>,
    upstream: &mut Upstream,
    request: Request<Incoming>,
) -> Result<Response<Body>, Closed> {
    let (head, made) = request.into_parts();
    let request = Request::from_parts(head, made.collect().await.map_err(Closed::by)?.to_bytes());
    let asked = Asked::of(&request);
    shared.asked.lock().push(asked.clone());
    let mut loses = false;
    let mut late = Duration::ZERO;
    while let Some((id, action)) = shared.met_by(&asked) {
        match action {
            Action::Freeze => {
                shared.lifted(id).await;
                continue;
            }
            Action::Cut => return Err(Closed("cut".to_owned())),
            Action::Delay(time) => tokio::time::sleep(time).await,
            Action::Overtaken(time) => {
                let mut answered = shared.answered.subscribe();
                let _ = tokio::time::timeout(time, answered.changed()).await;
            }
            Action::Late(time) => late = time,
            Action::Refuse(status) => return Ok(refused(status)),
            Action::LoseAnswer => loses = true,
            Action::Gone => return Ok(watched(body(TOO_OLD))),
            Action::Stale(lines) => return Ok(watched(stale(shared, id, lines))),
            Action::Slowly(_) | Action::HoldAt(_) => {}
        }
        break;
    }
    let answer = shared.server.passed_on(upstream, request).await?;
    if !asked.is_watch() {
        shared.answered.send_modify(|answered| *answered += 1);
    }
    tokio::time::sleep(late).await;
    if loses {
        answer.into_body().collect().await.map_err(Closed::by)?;
        return Err(Closed("the answer is lost".to_owned()));
    }
    let shared = Arc::clone(shared);
    Ok(answer.map(|body| BodyExt::boxed_unsync(StreamBody::new(Passing::stream(shared, asked, body)))))
}

impl Server {
    /// Has the API server carry out a request, on the connection that there is or else a new one.
    async fn passed_on(
        &self,
        upstream: &mut Upstream,
        request: Request<Bytes>,
    ) -> Result<Response<Incoming>, Closed> {
        let (mut head, body) = request.into_parts();
        // What is compressed has no lines.
        head.headers.remove(ACCEPT_ENCODING);
        if let Some(sender) = upstream
            && sender.ready().await.is_err()
        {
            *upstream = None;
        }
        if upstream.is_none() {
            *upstream = Some(self.connect().await?);
        }
        let sender = upstream.as_mut().expect("a connection");
        sender.send_request(Request::from_parts(head, Full::new(body))).await.map_err(Closed::by)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Closed> {
        let stream = TcpStream::connect(&self.address).await.map_err(Closed::by)?;
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let stream = self.connector.connect(name, stream).await.map_err(Closed::by)?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Closed::by)?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

impl Shared {
    /// The fault that a request meets.
    fn met_by(&self, asked: &Asked) -> Option<(usize, Action)> {
        let mut rules = self.rules.lock();
        let rule = rules.iter_mut().find(|rule| rule.left > 0 && (rule.matches)(asked))?;
        // These are met later, by what the watch brings.
        if !matches!(rule.action, Action::Slowly(_) | Action::HoldAt(_)) {
            rule.hit();
        }
        Some((rule.id, rule.action.clone()))
    }

    /// The fault that a watch meets which is under way, and which is about to bring `line` if there is one.
    fn met_on_the_way(&self, asked: &Asked, line: Option<&Bytes>) -> Option<(usize, Action)> {
        let mut rules = self.rules.lock();
        let applies = |rule: &Rule| match &rule.action {
            Action::Freeze | Action::Cut | Action::Gone => rule.left > 0,
            Action::Slowly(_) => rule.left > 0 && line.is_some(),
            Action::HoldAt(text) => line.is_some_and(|line| has(line, text)),
            Action::Delay(_)
            | Action::Overtaken(_)
            | Action::Late(_)
            | Action::Refuse(_)
            | Action::LoseAnswer
            | Action::Stale(_) => false,
        };
        let rule = rules.iter_mut().find(|rule| applies(rule) && (rule.matches)(asked))?;
        rule.hit();
        Some((rule.id, rule.action.clone()))
    }

    /// Waits until a fault is lifted.
    async fn lifted(&self, id: usize) {
        let mut changes = self.changes.subscribe();
        while self.rules.lock().iter().any(|rule| rule.id == id) {
            let _ = changes.changed().await;
        }
    }
}

impl Rule {
    fn hit(&mut self) {
        self.left = self.left.saturating_sub(1);
        self.hits.fetch_add(1, Ordering::SeqCst);
    }
}

fn has(line: &[u8], text: &str) -> bool {
    line.windows(text.len()).any(|part| part == text.as_bytes())
}

/// What a watch is told whose version is too old.
const TOO_OLD: &str = concat!(
    r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","#,
    r#""message":"too old resource version","reason":"Expired","code":410}}"#,
    "\n"
);

fn refused(status: u16) -> Response<Body> {
    let said = format!(
        r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","message":"refused by the proxy","reason":"InternalError","code":{status}}}"#
    );
    let mut answer = Response::new(body(said));
    *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
    answer.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a value"));
    answer
}

fn watched(body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a value"));
    answer
}

/// Brings an old list, then nothing until the fault is lifted.
fn stale(shared: &Arc<Shared>, id: usize, lines: Vec<Bytes>) -> Body {
    let shared = Arc::clone(shared);
    let lines = futures::stream::unfold((lines.into_iter(), shared), move |(mut lines, shared)| async move {
        if let Some(line) = lines.next() {
            return Some((Ok(Frame::data(line)), (lines, shared)));
        }
        shared.lifted(id).await;
        None
    });
    BodyExt::boxed_unsync(StreamBody::new(lines))
}

/// An answer on its way to the client: a watch line by line, anything else as it comes.
struct Passing {
    shared: Arc<Shared>,
    asked: Asked,
    body: Incoming,
    /// What has come of a line.
    begun: Vec<u8>,
    /// What is to be passed on next.
    next: Option<Bytes>,
    /// What a list has brought so far, until it ends.
    list: Option<Vec<Bytes>>,
    ended: bool,
}

impl Passing {
    fn stream(
        shared: Arc<Shared>,
        asked: Asked,
        body: Incoming,
    ) -> impl Stream<Item = Result<Frame<Bytes>, Closed>> {
        let list = asked.says("sendInitialEvents=true").then(Vec::new);
        let passing = Self { shared, asked, body, begun: Vec::new(), next: None, list, ended: false };
        futures::stream::unfold(passing, |mut passing| async move {
            let passed = passing.pass().await?;
            Some((passed.map(Frame::data), passing))
        })
    }

    /// The next piece for the client, when the faults let it pass.
    async fn pass(&mut self) -> Option<Result<Bytes, Closed>> {
        if self.ended {
            return None;
        }
        let mut changes = self.shared.changes.subscribe();
        loop {
            match self.shared.met_on_the_way(&self.asked, self.next.as_ref()) {
                Some((id, Action::Freeze | Action::HoldAt(_))) => {
                    self.shared.lifted(id).await;
                    continue;
                }
                Some((_, Action::Slowly(time))) => {
                    tokio::time::sleep(time).await;
                    return self.next.take().map(Ok);
                }
                Some((_, Action::Gone)) if self.asked.is_watch() => {
                    self.ended = true;
                    return Some(Ok(TOO_OLD.into()));
                }
                Some((_, Action::Cut)) => {
                    self.ended = true;
                    return Some(Err(Closed("cut".to_owned())));
                }
                _ => {}
            }
            if let Some(next) = self.next.take() {
                return Some(Ok(next));
            }
            tokio::select! {
                read = self.read() => match read {
                    Ok(Some(piece)) => self.next = Some(piece),
                    Ok(None) => return None,
                    Err(error) => {
                        self.ended = true;
                        return Some(Err(error));
                    }
                },
                _ = changes.changed() => {}
            }
        }
    }

    /// The next piece from the API server; what has come of a line is kept if this is not waited for.
    async fn read(&mut self) -> Result<Option<Bytes>, Closed> {
        loop {
            if !self.asked.is_watch() && !self.begun.is_empty() {
                return Ok(Some(std::mem::take(&mut self.begun).into()));
            }
            if let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
                let rest = self.begun.split_off(end + 1);
                let line = Bytes::from(std::mem::replace(&mut self.begun, rest));
                self.record(&line);
                return Ok(Some(line));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame.map_err(Closed::by)?.into_data() {
                        self.begun.extend_from_slice(&data);
                    }
                }
                None if self.begun.is_empty() => return Ok(None),
                None => return Ok(Some(std::mem::take(&mut self.begun).into())),
            }
        }
    }

    /// Notes a line of a list, and the list once it has ended.
    fn record(&mut self, line: &Bytes) {
        let Some(list) = &mut self.list else { return };
        list.push(line.clone());
        if has(line, "k8s.io/initial-events-end") {
            let list = std::mem::take(list);
            self.list = None;
            self.shared.recorded.lock().push((self.asked.path.clone(), list));
        }
    }
}
