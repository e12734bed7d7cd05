//! What the tests stand on: namespaces, a control plane in them, and a guest with a kernel that has NFS.
//!
//! ```text
//! namespaces of this test ──────────────────────────────────────────────────────────────
//!   tests ── control plane ── tap0 ─┬─ vec0 ── guest (User Mode Linux) ──────────────────
//!                                   │   agent ── provisioner ── mounts ── veth ─┬─ eth0 ── server "main"
//! ```

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::support::debian;
use crate::support::plane::Plane;
use crate::talk::{Answer, FileCall, PORT, Request};

/// Where the control plane is.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Where the guest is.
pub(crate) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The networks of servers: the client is .1, the server .2.
pub(crate) const MAIN: Server = Server { name: "main", address: "10.78.1.2" };

/// How long the guest may take to start. It takes six seconds on an idle machine.
const BOOT_MAX: Duration = Duration::from_mins(1);

/// How long one request may take, outages included.
const ANSWER_MAX: Duration = Duration::from_mins(5);

/// The programs that must be there, and Debian's packages that have them.
const PROGRAMS: &[(&str, &str)] = &[
    ("linux.uml", "user-mode-linux"),
    ("rpc.nfsd", "nfs-kernel-server"),
    ("mount.nfs", "nfs-common"),
    ("rpcbind", "rpcbind"),
    ("modprobe", "kmod"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("xfs_quota", "xfsprogs"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("cc", "gcc"),
];

/// A server in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) address: &'static str,
}

/// What is missing for tests on a rig that need `more` programs, in words, after an attempt to install it.
pub(crate) fn missing(more: &[(&str, &str)]) -> Option<String> {
    if let Some(packages) = debian::missing(&[PROGRAMS, more].concat()) {
        return Some(packages);
    }
    if fs::File::options().read(true).write(true).open("/dev/net/tun").is_err() {
        return Some("/dev/net/tun, and the right to open it".to_owned());
    }
    let allowed = namespaces().arg("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    (!allowed).then(|| "the right to make namespaces: run it as root".to_owned())
}

/// A command that runs another one in namespaces of its own, and kills all in there when it is killed itself.
fn namespaces() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]);
    command.arg("--mount-proc");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
}

/// Runs this program again, in namespaces. It is waited for and not replaced: a signal ends this one, and with it all
/// in there, where the first process would not heed it.
pub(crate) fn run_inside(marker: &str) -> ExitCode {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nfs");
    fs::create_dir_all(&dir).expect("a directory");
    let path = env::var("PATH").unwrap_or_default();
    let status = namespaces()
        .arg("sh")
        .arg(tests().join("outside.sh"))
        .arg(env::current_exe().expect("a program"))
        .args(env::args_os().skip(1))
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("NFS_DIR", dir)
        .env("NFS_OUTSIDE", OUTSIDE.to_string())
        .env(marker, "yes")
        .status()
        .expect("it starts");
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nfs")
}

/// What a rig is made of, where those of different tests differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    /// Flags for the control plane.
    pub(crate) plane: &'a [&'a str],
    /// The guest's memory, as its kernel takes it.
    pub(crate) memory: &'a str,
    /// A program that the guest is to have in /run/bin.
    pub(crate) program: Option<&'a Path>,
}

/// The guest and the control plane.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) plane: &'static Plane,
    /// Written to by the guest too.
    pub(crate) dir: PathBuf,
    guest: Mutex<Child>,
    number: AtomicU32,
    /// The servers that have been started beside [`MAIN`].
    servers: Mutex<HashMap<&'static str, Server>>,
}

impl Rig {
    /// Starts both.
    pub(crate) fn start(parts: &Parts<'_>) -> Self {
        let dir = PathBuf::from(env::var_os("NFS_DIR").expect("a directory"));
        let (plane, guest) = thread::scope(|scope| {
            let plane = scope.spawn(|| Plane::start_with(parts.plane));
            let guest = boot(&dir, parts);
            (plane.join().expect("a control plane"), guest)
        });
        eprintln!("control plane up in {:.1} s", plane.seconds);
        Self {
            plane: Box::leak(Box::new(plane)),
            dir,
            guest: Mutex::new(guest),
            number: AtomicU32::new(1),
            servers: Mutex::default(),
        }
    }

    /// A number that nobody has had.
    pub(crate) fn number(&self) -> u32 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn ask(&self, request: &Request) -> Answer {
        ask(request).unwrap_or_else(|error| {
            let ended = self.guest.lock().map(|mut guest| guest.try_wait());
            panic!("the guest does not answer: {error}; it has ended: {ended:?}\n{}", boot_log(&self.dir))
        })
    }

    /// Runs a program in the guest. What it has printed, or what was wrong.
    pub(crate) fn try_run(&self, words: &[&str]) -> Result<String, String> {
        Self::output(words, self.ask(&Request::Run(owned(words))))
    }

    /// Runs a program in the guest, which must succeed.
    pub(crate) fn run(&self, words: &[&str]) -> String {
        self.try_run(words).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a program on a server, which must succeed.
    pub(crate) fn run_on(&self, server: Server, words: &[&str]) -> String {
        let answer = self.ask(&Request::RunOn(server.name.to_owned(), owned(words)));
        Self::output(words, answer).unwrap_or_else(|error| panic!("{error}"))
    }

    fn output(words: &[&str], answer: Answer) -> Result<String, String> {
        match answer {
            Answer::Ended { status: Some(0), output } => Ok(output),
            Answer::Ended { status, output } => Err(format!("{words:?} ended with {status:?}: {output}")),
            other => Err(format!("{words:?}: {other:?}")),
        }
    }

    /// Makes a call on files as a user: the answer, or the number of the error.
    pub(crate) fn file(&self, user: u32, call: FileCall) -> Result<Answer, i32> {
        let shown = format!("{call:?}");
        match self.ask(&Request::File { user, call }) {
            Answer::Refused(number) => Err(number),
            Answer::Failed(error) => panic!("{shown}: {error}"),
            answer => Ok(answer),
        }
    }

    /// A server of this name, which is started if it has not been.
    pub(crate) fn server(&self, name: &'static str, address: &'static str) -> Server {
        let mut servers = self.servers.lock().expect("a lock");
        *servers.entry(name).or_insert_with(|| {
            let network = address.rsplit_once('.').expect("an address").0;
            let script = tests().join("server.sh");
            self.run(&["sh", script.to_str().expect("a path"), name, network]);
            Server { name, address }
        })
    }

    /// Where the guest's ports are reached.
    pub(crate) fn guest(port: u16) -> SocketAddr {
        (IpAddr::from(GUEST), port).into()
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn ask(request: &Request) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&Rig::guest(PORT), Duration::from_secs(10))?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

fn boot_log(dir: &Path) -> String {
    fs::read_to_string(dir.join("boot.log")).unwrap_or_default()
}

/// Starts the guest and waits until its agent answers.
fn boot(dir: &Path, parts: &Parts<'_>) -> Child {
    let started = Instant::now();
    let shim = dir.join("xstate.so");
    let built = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&shim)
        .arg(tests().join("xstate.c"))
        .status()
        .expect("cc runs");
    assert!(built.success(), "xstate.c is not built");
    let log = fs::File::create(dir.join("boot.log")).expect("a file");
    let quoted = |name: &str, value: &Path| format!("{name}={}", value.display());
    let mut guest = Command::new("linux.uml")
        .arg(format!("mem={}", parts.memory))
        .args(["rootfstype=hostfs", "rootflags=/", "ro", "con=null", "con0=null,fd:1", "quiet"])
        .args(["vec0:transport=tap,ifname=tap0,depth=64", "panic=-1"])
        .arg("init=/bin/sh")
        // The kernel makes what it does not know into the environment of its first process, up to "--", and into its
        // arguments after that.
        .arg(quoted("NFS_DIR", dir))
        .arg(quoted("NFS_TESTS", &tests()))
        .args(parts.program.map(|program| quoted("NFS_PROVISIONER", program)))
        .arg(format!("NFS_GUEST={GUEST}"))
        .arg("--")
        .arg(tests().join("init.sh"))
        .arg(env::current_exe().expect("a program"))
        .arg("agent")
        .env("LD_PRELOAD", shim)
        .stdin(Stdio::null())
        .stderr(log.try_clone().expect("a file"))
        .stdout(log)
        // It kills all of its group when it ends.
        .process_group(0)
        .spawn()
        .expect("the guest starts");
    loop {
        if TcpStream::connect_timeout(&Rig::guest(PORT), Duration::from_millis(200)).is_ok() {
            break;
        }
        let ended = guest.try_wait().expect("a child");
        assert!(ended.is_none(), "the guest has ended while it started: {ended:?}\n{}", boot_log(dir));
        assert!(started.elapsed() < BOOT_MAX, "the guest does not start\n{}", boot_log(dir));
        thread::sleep(Duration::from_millis(50));
    }
    eprintln!("guest up in {:.1} s", started.elapsed().as_secs_f64());
    guest
}
