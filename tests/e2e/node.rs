//! A node of Kubernetes in the guest, with the provisioner on it as `deploy/` installs it.
//!
//! ```text
//! namespaces of this test ──────────────────────────────────────────────────────────────
//!   tests ── control plane ── tap0 ─┬─ vec0 ── guest (User Mode Linux) ──────────────────
//!                 10.0.0.1:443      │   kubelet, containerd ── cni0 ── Pods, 10.79.0.0/24
//!                                   │         └── mounts ── veth ─┬─ eth0 ── server "main"
//! ```
//!
//! Pods reach the API server at the address of its Service: nobody translates addresses here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::rig::{GUEST, MAIN, OUTSIDE, Parts, Rig};
use crate::support::deploy;
use crate::talk::{Answer, FileCall, ROOT, Request, Status};

/// What Kubernetes says is the API server's address, for Pods.
const SERVICE: &str = "10.0.0.1";

/// The Pods' network, as in `pods.conflist`.
const PODS: &str = "10.79.0.0/24";

/// The export's path, as clients name it.
const EXPORT: &str = "/export";

/// The Deployment of `deploy/`, its container and the label of its Pods.
pub(crate) const PROVISIONER: &str = "nfs-client-provisioner";

/// Beside what a rig needs.
const PROGRAMS: &[(&str, &str)] = &[
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    // The package of that name without -static has a program that would find no libraries in an image.
    ("/usr/share/doc/busybox-static", "busybox-static"),
];

pub(crate) fn missing() -> Option<String> {
    crate::rig::missing(PROGRAMS)
}

pub(crate) struct Node {
    pub(crate) rig: Rig,
    /// `deploy/`, edited.
    pub(crate) deploy: PathBuf,
}

/// What must not change while nothing happens to a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodState {
    pub(crate) uid: String,
    pub(crate) restarts: String,
    pub(crate) ready: String,
    /// Since when it has been ready, or not.
    pub(crate) since: String,
}

impl Node {
    /// With `more`, what Kubernetes' own tests need too: the directory of their programs.
    pub(crate) fn start(more: Option<&Path>) -> Self {
        let (programs, image) = (target("node"), target("image/nfs-provisioner.tar"));
        for (path, by) in [(&programs, "make node"), (&image, "make image")] {
            assert!(path.exists(), "{} is missing: run `{by}`", path.display());
        }
        run(Command::new("ip").args(["address", "add", SERVICE, "dev", "tap0"]));
        run(Command::new("ip").args(["route", "add", PODS, "via", &GUEST.to_string()]));
        let host = format!("--host={SERVICE}");
        // Nobody resolves the node's name.
        let by_address = "--apiserver-flag=--kubelet-preferred-address-types=InternalIP";
        let plane: &[&str] = &[&host, "--port=443", "--node=false", by_address];
        let rig = Rig::start(&Parts { plane, memory: "3G", program: None });
        let images = [image, stand_ins(&rig.dir, more), next_version(&rig.dir)];

        let disk = PathBuf::from(format!("/run/servers/{}{EXPORT}", MAIN.name));
        rig.file(ROOT, FileCall::MakeDir { path: disk, mode: 0o755 }).expect("a directory to export");
        let options = "rw,no_root_squash,no_subtree_check,fsid=1";
        rig.run_on(MAIN, &["exportfs", "-o", options, &format!("*:{EXPORT}")]);

        let begun = Instant::now();
        start_kubelet(&rig, &programs, &images);
        let deploy = deploy::edited(&rig.dir, MAIN.address, EXPORT);
        let node = Self { rig, deploy };
        let told = Told(&node);
        within("the node to be ready", Duration::from_mins(2), || {
            let ready = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}";
            (node.kubectl(&["get", "nodes", "-o", ready]) == "True").then_some(())
        });
        eprintln!("node ready in {:.1} s", begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        node.kubectl(&["apply", "-k", node.deploy.to_str().expect("a path")]);
        node.rolled_out(PROVISIONER);
        eprintln!("provisioner ready in {:.1} s", begun.elapsed().as_secs_f64());
        drop(told);
        node
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.rig.plane.kubectl(arguments)
    }

    /// Applies one of the files beside this one, or an example of `deploy/`.
    pub(crate) fn apply(&self, file: &str) {
        let ours = files().join(file);
        let file = if ours.exists() { ours } else { self.deploy.join(file) };
        self.kubectl(&["apply", "-f", file.to_str().expect("a path")]);
    }

    pub(crate) fn rolled_out(&self, deployment: &str) {
        self.kubectl(&["rollout", "status", &format!("deployment/{deployment}"), "--timeout=180s"]);
    }

    /// Waits for a condition or a value, as `kubectl wait` has it.
    pub(crate) fn wait(&self, object: &str, condition: &str) {
        self.kubectl(&["wait", object, &format!("--for={condition}"), "--timeout=180s"]);
    }

    /// One field of an object, empty if it has none.
    pub(crate) fn field(&self, object: &str, path: &str) -> String {
        self.kubectl(&["get", object, "--ignore-not-found", "-o", &format!("jsonpath={{{path}}}")])
    }

    /// The names of the Pods with a label `app`, sorted.
    pub(crate) fn pods(&self, app: &str) -> Vec<String> {
        let names = self.kubectl(&["get", "pods", "-l", &format!("app={app}"), "-o", "name"]);
        let mut names: Vec<String> =
            names.lines().map(|name| name.trim_start_matches("pod/").to_owned()).collect();
        names.sort();
        names
    }

    /// Runs a shell command in a Pod; what it prints.
    pub(crate) fn run_in(&self, pod: &str, command: &str) -> String {
        self.kubectl(&["exec", pod, "--", "sh", "-c", command])
    }

    /// The only Pod of the provisioner.
    pub(crate) fn provisioner(&self) -> PodState {
        let pods = self.pods(PROVISIONER);
        assert_eq!(pods.len(), 1, "{pods:?}");
        let pod = format!("pod/{}", pods[0]);
        let ready = ".status.conditions[?(@.type=='Ready')]";
        PodState {
            uid: self.field(&pod, ".metadata.uid"),
            restarts: self.field(&pod, ".status.containerStatuses[0].restartCount"),
            ready: self.field(&pod, &format!("{ready}.status")),
            since: self.field(&pod, &format!("{ready}.lastTransitionTime")),
        }
    }

    /// The directory of a claim's volume, on the server's disk.
    pub(crate) fn directory(&self, claim: &str) -> PathBuf {
        let volume = self.field(&format!("pvc/{claim}"), ".spec.volumeName");
        let path = self.field(&format!("pv/{volume}"), ".spec.nfs.path");
        assert!(path.starts_with(&format!("{EXPORT}/")), "{claim}: {path}");
        PathBuf::from(format!("/run/servers/{}{path}", MAIN.name))
    }

    /// The names at the export's root, without the provisioner's own.
    pub(crate) fn entries(&self) -> Vec<String> {
        let mut names = self.names(Path::new(&format!("/run/servers/{}{EXPORT}", MAIN.name)));
        names.retain(|name| !name.starts_with(".nfs-provisioner"));
        names
    }

    /// The names in a directory on the server's disk.
    pub(crate) fn names(&self, path: &Path) -> Vec<String> {
        match self.rig.file(ROOT, FileCall::List { path: path.to_owned() }) {
            Ok(Answer::Names(names)) => names,
            other => panic!("{}: {other:?}", path.display()),
        }
    }

    /// The text of a file in the guest.
    pub(crate) fn read(&self, path: PathBuf) -> String {
        let shown = path.display().to_string();
        match self.rig.file(ROOT, FileCall::Read { path }) {
            Ok(Answer::Text(text)) => text,
            other => panic!("{shown}: {other:?}"),
        }
    }

    pub(crate) fn stat(&self, path: PathBuf) -> Status {
        let shown = path.display().to_string();
        match self.rig.file(ROOT, FileCall::Stat { path }) {
            Ok(Answer::Status(status)) => status,
            other => panic!("{shown}: {other:?}"),
        }
    }

    /// Prints what may tell why something does not happen.
    fn tell(&self) {
        let log = fs::read_to_string(self.rig.dir.join("node.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("--- the node's log ---\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        let log = format!("deployment/{PROVISIONER}");
        for what in [&["get", "pods,pvc,pv", "-A", "-o", "wide"][..], &["get", "events", "-A"], &["logs", &log]] {
            let said = self.rig.plane.try_kubectl(what).unwrap_or_else(|error| error);
            eprintln!("--- kubectl {} ---\n{said}", what.join(" "));
        }
    }
}

/// Asks again and again until the answer is there.
pub(crate) fn within<T>(what: &str, patience: Duration, ask: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < patience, "waited in vain for {what}");
        sleep(Duration::from_millis(300));
    }
}

/// Says what may tell why a test fails, when it does.
pub(crate) struct Told<'a>(pub(crate) &'a Node);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.tell();
        }
    }
}

/// In a mount namespace of its own: what it hides is hidden from nobody else.
fn start_kubelet(rig: &Rig, programs: &Path, images: &[PathBuf]) {
    let text = |path: &Path| path.to_str().expect("a path").to_owned();
    let mut command = ["unshare", "--mount", "--propagation", "private", "sh"].map(str::to_owned).to_vec();
    command.extend([text(&files().join("node.sh")), text(&files()), text(&rig.plane.kubeconfig)]);
    command.extend(images.iter().map(|image| text(image)));
    let environment = [
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("PROGRAMS", text(programs)),
        ("OUTSIDE", OUTSIDE.to_string()),
        ("GUEST", GUEST.to_string()),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let log = rig.dir.join("node.log");
    let answer = rig.ask(&Request::Start { command, environment, log });
    assert!(matches!(answer, Answer::Number(_)), "{answer:?}");
}

pub(crate) fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e")
}

/// What make has built.
pub(crate) fn target(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(path)
}

fn stand_ins(dir: &Path, more: Option<&Path>) -> PathBuf {
    let archive = dir.join("stand-ins.tar");
    run(Command::new(files().join("images.sh")).arg(&archive).args(more));
    archive
}

/// The version after this one.
pub(crate) const NEXT: &str = concat!(env!("CARGO_PKG_VERSION"), "-next");

/// The same program, under the next version.
fn next_version(dir: &Path) -> PathBuf {
    let archive = dir.join("next.tar");
    let program = target("static/nfs-provisioner");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/image.sh");
    run(Command::new(script).arg(&archive).arg(NEXT).arg(format!("amd64={}", program.display())));
    archive
}

fn run(command: &mut Command) {
    let status = command.status().expect("a program that starts");
    assert!(status.success(), "{command:?}: {status}");
}
