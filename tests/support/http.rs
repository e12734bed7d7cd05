//! The least of HTTP.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A port of this machine that nobody listens on, and that no other test of this program gets. It is none of those that
/// the kernel gives to outgoing connections: before a process listens there, one of them could have got it.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run at the same time begin at different places.
    let first = 10_000 + 100 * u16::try_from(std::process::id() % 200).expect("a small number");
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What a server on this machine answers, headers included; empty if it does not.
pub(crate) fn get(port: u16, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    // One that is stopped is asked again, as one that does not listen yet.
    stream.set_read_timeout(Some(ANSWER_MAX)).expect("a time");
    let mut answer = String::new();
    let asked = write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n");
    if asked.and_then(|()| stream.read_to_string(&mut answer)).is_err() {
        answer.clear();
    }
    answer
}

/// A text as a part of a path or query.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
