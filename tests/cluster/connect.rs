//! How the API server is reached: proxies, and kubeconfigs that cannot be used.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use kube::config::Kubeconfig;
use serde_json::json;

use crate::support::process::{Process, Settings};
use crate::support::space::Space;

/// A name of the API server that only the proxy knows.
const API_SERVER: &str = "kubernetes.default.svc";

/// An HTTP proxy as companies have it: it connects for whoever gives the password.
struct Tunnels {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Tunnels {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, asked) = (listener.local_addr().unwrap().port(), Arc::default());
        let noted = Arc::clone(&asked);
        thread::spawn(move || {
            for client in listener.incoming() {
                let noted = Arc::clone(&noted);
                thread::spawn(move || tunnel(client.unwrap(), &noted));
            }
        });
        Self { port, asked }
    }

    /// The first lines of all requests so far.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn url(&self) -> String {
        format!("http://somebody:secret%21@127.0.0.1:{}", self.port)
    }

    fn shown(&self) -> String {
        format!("through the proxy http://127.0.0.1:{}", self.port)
    }
}

fn tunnel(mut client: TcpStream, asked: &Mutex<Vec<String>>) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if client.read(&mut byte).unwrap() == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    asked.lock().unwrap().push(head.lines().next().unwrap().to_owned());
    // "somebody:secret!", in base 64.
    if !head.contains("proxy-authorization: basic c29tzwjvzhk6c2vjcmv0iq==") {
        client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").unwrap();
        return;
    }
    let port = head.split(' ').nth(1).unwrap().rsplit_once(':').unwrap().1;
    let mut server = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    thread::spawn(move || std::io::copy(&mut from, &mut to));
    let _ = std::io::copy(&mut client, &mut server);
}

/// Changes the cluster in a test's kubeconfig.
fn edit(settings: &Settings, change: impl Fn(&mut kube::config::Cluster)) {
    let mut config = Kubeconfig::read_from(&settings.kubeconfig).unwrap();
    change(config.clusters[0].cluster.as_mut().unwrap());
    fs::write(&settings.kubeconfig, json!(config).to_string()).unwrap();
}

/// Has the API server called by a name that only the proxy knows.
fn behind_the_proxy(settings: &Settings) {
    edit(settings, |cluster| {
        let server = cluster.server.take().unwrap();
        let port = server.rsplit_once(':').unwrap().1;
        cluster.server = Some(format!("https://{API_SERVER}:{port}"));
    });
}

fn set(settings: &mut Settings, variables: &[(&str, &str)]) {
    settings.environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
}

/// What a command of the program says, and its exit status.
fn said(settings: &Settings, arguments: &[&str]) -> (String, Option<i32>) {
    let output = command(settings, arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.code())
}

/// The program, with HTTP where it is by default.
fn command(settings: &Settings, arguments: &[&str]) -> Command {
    let mut command = settings.command();
    command.args(arguments);
    command
}

#[tokio::test]
async fn the_api_server_is_reached_through_the_proxy_of_the_environment() {
    let space = Space::new().await;
    let (proxy, mut settings) = (Tunnels::start(), space.settings());
    behind_the_proxy(&settings);
    set(
        &mut settings,
        &[("HTTPS_PROXY", &proxy.url()), ("NO_PROXY", "127.0.0.1,localhost,10.0.0.0/8,.cluster.local")],
    );
    let provisioner = Process::start(&settings);
    let class = space.class("nfs", json!({})).await;
    space.claim("data", &class, json!({})).await;
    space.bound("data").await;
    let asked = proxy.asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|line| line.starts_with("connect kubernetes.default.svc:")),
        "{asked:?}"
    );
    let log = provisioner.log();
    assert!(
        log.contains(&format!("connected to the API server {}", proxy.shown())) && !log.contains("secret"),
        "{log}"
    );
    drop(provisioner);

    let (report, _) = said(&settings, &["doctor"]);
    assert!(report.contains(&format!("answers {}", proxy.shown())) && !report.contains("secret"), "{report}");
    let (text, code) = said(&settings, &["remove-finalizers"]);
    assert!(code == Some(0) && text.contains("took the finalizer off"), "{text}");
}

#[tokio::test]
async fn what_no_proxy_names_and_this_machine_are_reached_directly() {
    let space = Space::new().await;
    let (proxy, mut settings) = (Tunnels::start(), space.settings());
    // As the tests' kubeconfig has it, the API server is this machine.
    set(&mut settings, &[("HTTPS_PROXY", &proxy.url())]);
    let (text, _) = said(&settings, &["remove-finalizers"]);
    assert!(text.contains("took the finalizer off"), "{text}");
    behind_the_proxy(&settings);
    set(&mut settings, &[("NO_PROXY", "10.0.0.0/8, .svc")]);
    let (text, code) = said(&settings, &["remove-finalizers"]);
    assert!(code == Some(1) && !text.contains("proxy"), "{text}");
    assert_eq!(proxy.asked(), [""; 0]);
}

#[tokio::test]
async fn a_proxy_in_the_kubeconfig_wins_and_is_used_for_this_machine_too() {
    let space = Space::new().await;
    let (proxy, mut settings) = (Tunnels::start(), space.settings());
    edit(&settings, |cluster| cluster.proxy_url = Some(proxy.url()));
    set(&mut settings, &[("HTTPS_PROXY", "http://no.such.host.invalid:1"), ("NO_PROXY", "127.0.0.1")]);
    let (text, code) = said(&settings, &["remove-finalizers"]);
    assert!(code == Some(0) && proxy.asked().len() == 1, "{text} {:?}", proxy.asked());
    // Which is of no account then, however it is spelled.
    settings.environment = vec![("NO_PROXY".to_owned(), "127.0.0.1,,".to_owned())];
    let (text, code) = said(&settings, &["remove-finalizers"]);
    assert!(code == Some(0) && proxy.asked().len() == 2, "{text} {:?}", proxy.asked());
}

#[tokio::test]
async fn a_proxy_that_cannot_be_used_is_named_with_its_setting() {
    let space = Space::new().await;
    let mut settings = space.settings();
    behind_the_proxy(&settings);
    let rows = [
        ("gopher://somebody:secret@proxy", "HTTPS_PROXY must be a URL", "going on without a proxy"),
        ("socks5://somebody:secret@proxy", "HTTPS_PROXY has a user or password", "use an HTTP proxy"),
    ];
    for (proxy, what, then) in rows {
        set(&mut settings, &[("HTTPS_PROXY", proxy)]);
        for arguments in ["remove-finalizers", "doctor"] {
            let (text, code) = said(&settings, &[arguments]);
            let is_said = text.contains(what) && text.contains(then);
            assert!(code == Some(1) && is_said && !text.contains("secret"), "{text}");
        }
    }
    set(&mut settings, &[("HTTPS_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "localhost,,.svc")]);
    let (text, code) = said(&settings, &["remove-finalizers"]);
    assert!(code == Some(1) && text.contains("NO_PROXY has an entry"), "{text}");
}

/// Made by `openssl x509 -req` without extensions, for nobody.
const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBHDCBwwIUVPA7cwDH6zvpSGfAyCHhOn730aswCgYIKoZIzj0EAwIwEDEOMAwG
A1UEAwwFYWRtaW4wIBcNMjYxMTMwMDkxNDE5WhgPMjEyNjExMDYwOTE0MTlaMBAx
DjAMBgNVBAMMBWFkbWluMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE+VjwPz2x
oRDymCXDI1VTZ2ib1juw5i5OLlc1NkY1bWAoNsG6Zq2PfY17cOIexeUEy6a10JCh
fqSBlmAmSwTpNTAKBggqhkjOPQQDAgNIADBFAiBlLfUpA9SVs7OrwTdqLnEHi2QP
zbVgAtZhTy9Y8eYsBAIhAPT52BkBaQwnYauos5OAurorg36gIPQKvTzupefNDRkD
-----END CERTIFICATE-----
";
const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgu0/9ju82Sc0tFSrh
RBMH9ij86j3sMLJ+9MO83H7sfPWhRANCAAT5WPA/PbGhEPKYJcMjVVNnaJvWO7Dm
Lk4uVzU2RjVtYCg2wbpmrY99jXtw4h7F5QTLprXQkKF+pIGWYCZLBOk1
-----END PRIVATE KEY-----
";

#[tokio::test]
async fn a_certificate_of_version_1_is_explained() {
    let space = Space::new().await;
    let settings = space.settings();
    let mut config = Kubeconfig::read_from(&settings.kubeconfig).unwrap();
    let user = config.auth_infos[0].auth_info.as_mut().unwrap();
    let write = |name: &str, text: &str| {
        let file = settings.kubeconfig.with_file_name(name);
        fs::write(&file, text).unwrap();
        Some(file.to_str().unwrap().to_owned())
    };
    (user.token, user.client_certificate, user.client_key) = (None, write("crt", VERSION_1), write("key", KEY));
    fs::write(&settings.kubeconfig, json!(config).to_string()).unwrap();
    for arguments in [&["remove-finalizers"][..], &["doctor"], &[]] {
        let (text, code) = said(&settings, arguments);
        let is_explained = text.contains("version 1 of X.509") && text.contains("ServiceAccount's token");
        assert!(code == Some(1) && is_explained && !text.contains("invalid private key"), "{text}");
    }
}

/// The port is taken by this test, or by whatever else has it.
#[tokio::test]
async fn a_port_that_is_taken_is_done_without_unless_somebody_asked_for_it() {
    let space = Space::new().await;
    let _taken = TcpListener::bind("0.0.0.0:8080");
    let mut settings = space.settings();
    let mut provisioner =
        command(&settings, &[]).stderr(fs::File::create(&settings.log).unwrap()).spawn().unwrap();
    let class = space.class("nfs", json!({})).await;
    space.claim("data", &class, json!({})).await;
    space.bound("data").await;
    provisioner.kill().unwrap();
    provisioner.wait().unwrap();
    let log = fs::read_to_string(&settings.log).unwrap();
    assert!(log.contains("cannot listen on port 8080") && log.contains("HTTP_ADDR"), "{log}");
    set(&mut settings, &[("HTTP_ADDR", ":8080")]);
    let (text, code) = said(&settings, &[]);
    assert!(code == Some(1) && text.contains("HTTP_ADDR") && text.contains("in use"), "{text}");
}
