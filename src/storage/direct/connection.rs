//! A connection to a server: where it comes from, which calls are under way on it, and its end.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::storage::direct::rpc;

/// The ports from which servers take calls whose exports are `secure`: below 1024, and of those the ones that
/// translation of addresses leaves in this range.
const PORTS: std::ops::RangeInclusive<u16> = 600..=1023;

/// How many such ports are tried that others seem to use with the same server.
const PORTS_TRIED: usize = 16;

/// How long one attempt to connect may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long it may take that the network takes a call.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// How long the other end may leave unsaid that it has got what was sent, or that it is there.
const UNHEARD_MAX: Duration = Duration::from_secs(10);

/// How long a connection on which nothing happens stays open.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// How long an answer may be.
pub(crate) const RECORD_MAX: usize = (1 << 20) + (64 << 10);

/// How much of the stack the thread takes that reads answers.
const STACK: usize = 128 << 10;

/// A connection, and those who wait for answers on it.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    sending: Mutex<()>,
    waiting: Arc<Waiting>,
    next: AtomicU32,
}

/// Who waits for the answer to which call; nobody can any more when the connection is over.
#[derive(Debug, Default)]
struct Waiting(Mutex<Calls>);

#[derive(Debug, Default)]
struct Calls {
    is_over: bool,
    answers: HashMap<u32, SyncSender<Vec<u8>>>,
}

impl Waiting {
    fn add(&self, xid: u32, answer: SyncSender<Vec<u8>>) -> Result<(), Broken> {
        let mut calls = self.0.lock();
        if calls.is_over {
            return Err(Broken::Closed);
        }
        calls.answers.insert(xid, answer);
        Ok(())
    }

    fn remove(&self, xid: u32) -> Option<SyncSender<Vec<u8>>> {
        self.0.lock().answers.remove(&xid)
    }

    fn is_empty(&self) -> bool {
        self.0.lock().answers.is_empty()
    }

    fn end(&self) {
        let mut calls = self.0.lock();
        calls.is_over = true;
        calls.answers.clear();
    }

    fn is_over(&self) -> bool {
        self.0.lock().is_over
    }
}

/// Why a call has no answer. Whether the server has carried it out is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The connection has ended.
    Closed,
    /// There was no answer in time.
    Silent,
}

impl Connection {
    /// Connects to a server by its name or address, from a port that servers trust if this process may have one.
    ///
    /// # Errors
    /// What the last of the server's addresses said.
    pub(crate) fn open(host: &str, port: u16, deadline: Instant) -> io::Result<Self> {
        let mut last = io::ErrorKind::HostUnreachable.into();
        for address in (host, port).to_socket_addrs()? {
            match connect(address, deadline) {
                Ok(stream) => return Self::begin(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn begin(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_MAX))?;
        stream.set_read_timeout(Some(IDLE_MAX))?;
        let waiting = Arc::<Waiting>::default();
        let reading = Reading { stream: stream.try_clone()?, waiting: Arc::clone(&waiting) };
        thread::Builder::new().name("nfs".into()).stack_size(STACK).spawn(move || reading.run())?;
        Ok(Self { stream, sending: Mutex::new(()), waiting, next: AtomicU32::new(fastrand::u32(..)) })
    }

    /// Sends a call, which `write` writes with the number it is given, and waits for the answer.
    pub(crate) fn call(&self, write: impl FnOnce(u32) -> Vec<u8>, deadline: Instant) -> Result<Vec<u8>, Broken> {
        let xid = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answers) = mpsc::sync_channel(1);
        self.waiting.add(xid, answer)?;
        let call = write(xid);
        let sent = {
            let _turn = self.sending.lock();
            (&self.stream).write_all(&call)
        };
        if sent.is_err() {
            self.close();
        }
        let left = deadline.saturating_duration_since(Instant::now());
        answers.recv_timeout(left).map_err(|error| {
            self.waiting.remove(xid);
            match error {
                RecvTimeoutError::Timeout => Broken::Silent,
                RecvTimeoutError::Disconnected => Broken::Closed,
            }
        })
    }

    /// Ends the connection. Whoever waits is told.
    pub(crate) fn close(&self) {
        self.waiting.end();
        // It may have ended by itself.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Tells whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.waiting.is_over()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

/// What reads the answers.
struct Reading {
    stream: TcpStream,
    waiting: Arc<Waiting>,
}

impl Reading {
    /// Reads answers and hands them out, until the connection ends or nobody has used it for a while.
    fn run(mut self) {
        while let Ok(Some(record)) = self.next() {
            let Ok(xid) = rpc::xid(&record) else { break };
            // Whoever has asked may not wait any more.
            if let Some(answer) = self.waiting.remove(xid) {
                let _ = answer.try_send(record);
            }
        }
        self.waiting.end();
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut header = [0; 4];
        let read = loop {
            match self.stream.read(&mut header) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.waiting.is_empty() => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Ok(0) => return Ok(None),
                read => break read?,
            }
        };
        self.stream.read_exact(header.get_mut(read..).unwrap_or_default())?;
        rpc::read_record(&mut self.stream, header, RECORD_MAX).map(Some)
    }
}

/// Connects from a trusted port if there is one, else from any.
fn connect(address: SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
    // All of them, from one in the middle on.
    let first = fastrand::u16(PORTS);
    let mut tried = 0;
    for port in (first..=*PORTS.end()).chain(*PORTS.start()..first) {
        let socket = socket(address)?;
        match socket.bind(&from(address, port).into()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
            // This process may not have any such port.
            Err(_) => break,
        }
        match connect_from(socket, address, deadline) {
            // What is in use is this port with that server: a connection that has just ended.
            Err(error) if is_taken(&error) && tried < PORTS_TRIED => tried += 1,
            connected => return connected,
        }
    }
    connect_from(socket(address)?, address, deadline)
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    let interval = Duration::from_secs(5);
    let keepalive = TcpKeepalive::new().with_time(UNHEARD_MAX).with_interval(interval).with_retries(2);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNHEARD_MAX))?;
    Ok(socket)
}

fn from(address: SocketAddr, port: u16) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}

fn connect_from(socket: Socket, address: SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    socket.connect_timeout(&address.into(), left.min(CONNECT_MAX))?;
    Ok(socket.into())
}
