//! What is particular to exports that are reached without a mount: connections that break in the middle of a call, and
//! servers that restart.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use fastrand::Rng;
use nfs_provisioner::storage::{Minor, Root, Servers};
use nfs_provisioner::values::address::ExportAddress;

use crate::skip::skips;
use crate::{VOLUME, ganesha, note, rel};

/// What happens to a call on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The connection breaks before the server has got it.
    CutBefore,
    /// The server carries it out, and the connection breaks before the answer has come.
    CutAfter,
    /// The server gets it twice, as from a network that repeats.
    Twice,
}

/// A way to the server on which calls meet faults, one call after the other.
struct Proxy {
    port: u16,
    faults: Arc<Mutex<Box<dyn FnMut() -> Fault + Send>>>,
    met: Arc<AtomicUsize>,
}

impl Proxy {
    fn new(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let none: Box<dyn FnMut() -> Fault + Send> = Box::new(|| Fault::None);
        let proxy = Self { port, faults: Arc::new(Mutex::new(none)), met: Arc::default() };
        let (faults, met) = (Arc::clone(&proxy.faults), Arc::clone(&proxy.met));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, faults, met) = (client.unwrap(), Arc::clone(&faults), Arc::clone(&met));
                let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
                thread::spawn(move || {
                    while pass(&client, &server, &faults, &met).is_some() {}
                    let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
                });
            }
        });
        proxy
    }

    fn faults(&self, fault: impl FnMut() -> Fault + Send + 'static) {
        *self.faults.lock().unwrap() = Box::new(fault);
    }

    fn open(&self, directory: &std::path::Path) -> Root {
        let address = ExportAddress::parse(&format!("127.0.0.1:{}", ganesha::path_of(directory))).unwrap();
        Root::open_direct(&Servers::default(), &address, self.port, Minor::Newest).unwrap()
    }
}

/// Passes on a call and its answer; `None` at the end of the connection.
fn pass(
    mut client: &TcpStream,
    mut server: &TcpStream,
    faults: &Mutex<Box<dyn FnMut() -> Fault + Send>>,
    met: &AtomicUsize,
) -> Option<()> {
    let call = record(client)?;
    let fault = (faults.lock().unwrap())();
    met.fetch_add(usize::from(fault != Fault::None), Ordering::Relaxed);
    if fault == Fault::CutBefore {
        return None;
    }
    server.write_all(&call).ok()?;
    let answer = record(server)?;
    match fault {
        Fault::CutAfter => None,
        Fault::Twice => {
            server.write_all(&call).ok()?;
            let again = record(server)?;
            client.write_all(&answer).and_then(|()| client.write_all(&again)).ok()
        }
        Fault::None | Fault::CutBefore => client.write_all(&answer).ok(),
    }
}

/// Reads a record of one fragment, its header included.
fn record(mut from: &TcpStream) -> Option<Vec<u8>> {
    let mut header = [0; 4];
    from.read_exact(&mut header).ok()?;
    let length = u32::from_be_bytes(header) & 0x7fff_ffff;
    let mut record = header.to_vec();
    from.take(length.into()).read_to_end(&mut record).ok()?;
    (record.len() == 4 + usize::try_from(length).unwrap()).then_some(record)
}

#[test]
fn each_change_is_made_once_whatever_becomes_of_the_connection() {
    let port = match ganesha::port() {
        Ok(port) => port,
        Err(missing) => return assert!(skips(Some(missing))),
    };
    let seed = std::env::var("PROPERTY_SEED").ok().map_or(1, |text| text.parse().unwrap());
    eprintln!("the seed is {seed}");
    let base = tempfile::tempdir().unwrap();
    let proxy = Proxy::new(port);
    let export = proxy.open(base.path());
    let mut random = Rng::with_seed(seed);
    proxy.faults(move || match random.usize(..12) {
        0 => Fault::CutBefore,
        1 | 2 => Fault::CutAfter,
        3 => Fault::Twice,
        _ => Fault::None,
    });
    for number in 0..40 {
        let directory = rel(&format!("ns/claim-{number}"));
        let made = export.create(&directory).unwrap().made;
        assert_eq!(made, if number == 0 { 2 } else { 1 }, "{number}: one that is made again was there before");
        fs::write(base.path().join(format!("ns/claim-{number}/f")), "x").unwrap();
        if number % 2 == 0 {
            let archived = export.archive(&directory, VOLUME, &note("ns")).unwrap();
            assert_eq!(archived.unwrap().to_string(), format!("archived-claim-{number}"), "not by another name");
        } else {
            let name = export.trash(&directory, VOLUME, 1, None).unwrap().unwrap();
            assert_eq!(export.reap(&name, 1, &|| true).unwrap().entries, 2, "{number}");
        }
        assert!(!base.path().join(directory.as_str()).exists());
    }
    let met = proxy.met.load(Ordering::Relaxed);
    eprintln!("{met} faults");
    assert!(met > 50, "there were faults");
}
