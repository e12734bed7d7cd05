//! The control plane of `tests/controlplane`, as a process.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

/// A control plane of our own. It ends, and its files go, with this value or with the process that holds it,
/// however that ends: the control plane watches its standard input.
#[derive(Debug)]
pub(crate) struct Plane {
    child: Child,
    talk: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    /// The kubeconfig of an admin.
    pub(crate) kubeconfig: PathBuf,
    /// Where its files are, logs among them.
    pub(crate) dir: PathBuf,
    /// How long it took to start, in seconds.
    pub(crate) seconds: f64,
}

/// The program: the one that CONTROLPLANE names, else the one that `make` builds.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("CONTROLPLANE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/controlplane/controlplane"),
        PathBuf::from,
    )
}

impl Plane {
    /// Starts one and waits until it answers.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`Plane::start`], with more flags for `controlplane up`.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        // Its ports are free when it chooses them, and may be another one's when it listens.
        (0..3).find_map(|_| Self::try_start(flags)).expect("the control plane is ready")
    }

    fn try_start(flags: &[&str]) -> Option<Self> {
        let binary = binary();
        assert!(binary.exists(), "{} is missing: run `make controlplane`", binary.display());
        let mut child = Command::new(binary)
            .arg("up")
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the control plane starts");
        let stdin = child.stdin.take().expect("piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let Ok(ready) = serde_json::from_str::<Value>(&next_line(&mut stdout)) else {
            // It has said why.
            let _ = child.wait();
            return None;
        };
        let text = |key: &str| PathBuf::from(ready[key].as_str().expect("a path"));
        Some(Self {
            child,
            talk: Mutex::new((stdin, stdout)),
            kubeconfig: text("kubeconfig"),
            dir: text("dir"),
            seconds: ready["seconds"].as_f64().expect("a number"),
        })
    }

    /// The one that all tests of this program share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Plane> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Tells it to `stop`, `start` or `restart` a component, and waits until that is done.
    pub(crate) fn command(&self, command: &str) {
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(talk.0, "{command}").expect("the control plane listens");
        let answer = next_line(&mut talk.1);
        assert!(answer.starts_with("done"), "{command}: {answer}");
    }

    /// A client of an admin.
    pub(crate) async fn client(&self) -> Client {
        client(&self.kubeconfig).await
    }

    /// Runs kubectl as an admin and returns what it prints; panics if it fails.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }

    /// As [`Plane::kubectl`], or what it says is wrong.
    pub(crate) fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(binary())
            .arg("kubectl")
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .output()
            .expect("kubectl runs");
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(stdout.into_owned()) } else { Err(stderr.into_owned()) }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // Closing its standard input would do; this does not wait for `talk` to be dropped.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// A client with the rights of a kubeconfig.
pub(crate) async fn client(kubeconfig: &Path) -> Client {
    let read = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.expect("a kubeconfig");
    Client::try_from(config).expect("a client")
}

fn next_line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("the control plane speaks");
    line
}
