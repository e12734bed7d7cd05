//! What one test works with: a disk on a server, its export, a node's mount of that, a provisioner on it, and a corner
//! of the control plane.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::{Value, json};

use crate::rig::{MAIN, Rig, Server};
use crate::support::eventually;
use crate::support::process::{Settings, whole_lines};
use crate::support::space::{Rules, Space};
use crate::talk::{Answer, FileCall, ROOT, Request, Status};

/// The user of the Pods.
pub(crate) const POD: u32 = 1000;
/// Whom servers make of root when they squash it.
pub(crate) const NOBODY: u32 = 65534;

/// What the server keeps its files on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    /// In its memory, of so many mebibytes.
    Tmpfs(u32),
    Ext4,
    /// With quotas for users and for projects.
    Xfs,
}

/// How a site is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) server: Server,
    pub(crate) disk: Disk,
    /// Of the export, beside those that all have.
    pub(crate) options: &'static str,
    /// Of the protocol: "3", "4.0", "4.1", "4.2".
    pub(crate) version: &'static str,
    /// More options of the provisioner's mount, each with a comma before it.
    pub(crate) mount: &'static str,
    /// Who owns the export's root.
    pub(crate) owner: u32,
    /// What the server calls the export, if its root is not where paths begin.
    pub(crate) beneath: Option<&'static str>,
}

impl Setup {
    pub(crate) const DEFAULT: Self = Self {
        server: MAIN,
        disk: Disk::Tmpfs(64),
        options: "rw,no_root_squash",
        version: "4.2",
        mount: "",
        owner: ROOT,
        beneath: None,
    };
}

impl Default for Setup {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Where the guest has the provisioner.
const PROGRAM: &str = "/run/bin/nfs-provisioner";

/// Runs a program as a container with `capabilities: {drop: [ALL]}` does.
pub(crate) const WITHOUT_CAPABILITIES: [&str; 5] =
    ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"];

pub(crate) struct Site {
    pub(crate) rig: &'static Rig,
    pub(crate) space: Space,
    pub(crate) setup: Setup,
    number: u32,
    /// The export's path as clients name it.
    pub(crate) path: String,
    /// The export's root on the server's disk.
    pub(crate) disk: PathBuf,
    /// The provisioner's mount.
    pub(crate) mount: PathBuf,
}

impl Site {
    /// Makes and exports the disk, and mounts it.
    pub(crate) async fn new(rig: &'static Rig, setup: Setup) -> Self {
        let space = Space::on(rig.plane, Rules::Ours).await;
        let number = rig.number();
        let name =
            format!("{}export-{number}", setup.beneath.map(|above| format!("{above}/")).unwrap_or_default());
        let root = PathBuf::from(format!("/run/servers/{}", setup.server.name));
        // Where everything lies beneath the root of NFS v4, clients leave that root's own path out.
        let path = match setup.beneath {
            Some(above) if setup.version != "3" => format!("/{}", &name[above.len() + 1..]),
            _ => format!("/{name}"),
        };
        let mount = PathBuf::from(format!("/run/mnt/{number}"));
        let site = Self { rig, space, setup, number, path, disk: root.join(&name), mount };
        site.make_disk();
        site.export(setup.options);
        site.file(ROOT, FileCall::MakeDir { path: site.mount.clone(), mode: 0o755 });
        site.mount_as_provisioner();
        site
    }

    fn make_disk(&self) {
        let disk = text(&self.disk);
        let image = format!("/run/image-{}", self.number);
        self.file(ROOT, FileCall::MakeDir { path: self.disk.clone(), mode: 0o755 });
        let on_image = |make: &[&str], options: &str| {
            // XFS wants 300 MB; what is not written takes no memory.
            self.rig.run(&["truncate", "--size=320M", &image]);
            self.rig.run(&[make, &[&*image]].concat());
            self.rig.run(&["mount", "-o", &format!("loop{options}"), &image, disk]);
        };
        match self.setup.disk {
            Disk::Tmpfs(size) => {
                self.rig.run(&["mount", "-t", "tmpfs", "-o", &format!("size={size}M,mode=755"), "tmpfs", disk]);
            }
            Disk::Ext4 => on_image(&["mkfs.ext4", "-q"], ""),
            Disk::Xfs => on_image(&["mkfs.xfs", "-q"], ",uquota,prjquota"),
        }
        if self.setup.owner != ROOT {
            self.file(ROOT, FileCall::SetOwner { path: self.disk.clone(), owner: self.setup.owner });
        }
    }

    /// Exports the disk, or changes how it is.
    pub(crate) fn export(&self, options: &str) {
        let options = format!("{options},no_subtree_check,fsid={}", 100 + self.number);
        self.rig.run_on(self.setup.server, &["exportfs", "-o", &options, &self.exported()]);
    }

    pub(crate) fn withdraw(&self) {
        self.rig.run_on(self.setup.server, &["exportfs", "-u", &self.exported()]);
    }

    fn exported(&self) -> String {
        format!(
            "*:{}",
            text(self.disk.strip_prefix("/run/servers").unwrap()).trim_start_matches(self.setup.server.name)
        )
    }

    /// The options by which a node mounts.
    pub(crate) fn mount_options(&self) -> Vec<String> {
        let mut options = vec![format!("nfsvers={}", self.setup.version)];
        if self.setup.version == "3" {
            // Else it would ask the server's rpcbind, and want a daemon for locks beside it.
            options.extend(["nolock", "proto=tcp", "port=2049", "mountport=20048"].map(str::to_owned));
        }
        options
    }

    pub(crate) fn mount_as_provisioner(&self) {
        let options = format!("{}{}", self.mount_options().join(","), self.setup.mount);
        let from = format!("{}:{}", self.setup.server.address, self.path);
        self.rig.run(&["mount", "-t", "nfs", "-o", &options, &from, text(&self.mount)]);
    }

    /// Mounts a volume as a node's kubelet would, and returns where.
    pub(crate) fn mount_volume(&self, volume: &PersistentVolume) -> PathBuf {
        let spec = volume.spec.as_ref().unwrap();
        let nfs = spec.nfs.as_ref().unwrap();
        let at = PathBuf::from(format!("/run/mnt/{}-pod-{}", self.number, self.rig.number()));
        self.file(ROOT, FileCall::MakeDir { path: at.clone(), mode: 0o755 });
        let options = spec.mount_options.clone().unwrap_or_default().join(",");
        let from = format!("{}:{}", nfs.server, nfs.path);
        self.rig.run(&["mount", "-t", "nfs", "-o", &options, &from, text(&at)]);
        at
    }

    pub(crate) fn unmount(&self, at: &Path) {
        self.rig.run(&["umount", text(at)]);
    }

    /// Starts the provisioner on the mount.
    pub(crate) fn start(&self) -> Provisioner {
        self.start_by(&[])
    }

    /// Starts the provisioner on this site's export and on another's, which is called `name`.
    pub(crate) fn start_beside(&self, name: &str, other: &Self) -> Provisioner {
        let file = self.rig.dir.join(format!("exports-{}.yaml", self.number));
        let export = json!({
            "name": name, "server": other.setup.server.address, "path": other.path, "mount": other.mount,
        });
        // JSON is YAML.
        std::fs::write(&file, json!({"exports": [export]}).to_string()).unwrap();
        self.start_with(&[], &[("EXPORTS_FILE", text(&file))])
    }

    /// Starts the provisioner by a program that runs it.
    pub(crate) fn start_by(&self, words: &[&str]) -> Provisioner {
        self.start_with(words, &[])
    }

    pub(crate) fn start_with(&self, words: &[&str], more: &[(&str, &str)]) -> Provisioner {
        let port = 8000 + u16::try_from(self.rig.number()).unwrap();
        let log = self.rig.dir.join(format!("log-{}", self.number));
        let mut environment = self.environment();
        environment.push(("HTTP_ADDR".to_owned(), format!("0.0.0.0:{port}")));
        environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let command = words.iter().chain(&[PROGRAM]).map(|word| (*word).to_owned()).collect();
        match self.rig.ask(&Request::Start { command, environment, log: log.clone() }) {
            Answer::Number(id) => Provisioner { rig: self.rig, id: u32::try_from(id).unwrap(), log, port },
            other => panic!("the provisioner does not start: {other:?}"),
        }
    }

    /// The provisioner's settings, as variables.
    fn environment(&self) -> Vec<(String, String)> {
        let Settings { kubeconfig, provisioner, namespace, .. } = self.space.settings();
        let settings = [
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            ("KUBECONFIG", text(&kubeconfig)),
            ("PROVISIONER_NAME", &provisioner),
            ("NFS_SERVER", self.setup.server.address),
            ("NFS_PATH", &self.path),
            ("NFS_MOUNT_PATH", text(&self.mount)),
            ("NFS_MOUNT_CHECK", "on"),
            ("POD_NAMESPACE", &namespace),
            ("RUST_LOG", "warn,nfs_provisioner=debug,kube_client=off,kube_runtime=off"),
        ];
        settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    /// Runs `nfs-provisioner doctor` on the mount. Its exit status, and what it has printed.
    pub(crate) fn doctor(&self, arguments: &[&str]) -> (i32, String) {
        let settings = self.environment().into_iter().map(|(name, value)| format!("{name}={value}"));
        let mut command = vec!["env".to_owned(), "--ignore-environment".to_owned()];
        command.extend(settings.chain([PROGRAM, "doctor"].map(str::to_owned)));
        command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        match self.rig.ask(&Request::Run(command)) {
            Answer::Ended { status: Some(status), output } => (status, output),
            other => panic!("{other:?}"),
        }
    }

    /// Starts it, and does not wait for it: the number of the process.
    pub(crate) fn start_doctor(&self) -> u32 {
        let command = [PROGRAM, "doctor"].map(str::to_owned).to_vec();
        let log = self.rig.dir.join(format!("log-{}", self.number));
        match self.rig.ask(&Request::Start { command, environment: self.environment(), log }) {
            Answer::Number(id) => u32::try_from(id).unwrap(),
            other => panic!("it does not start: {other:?}"),
        }
    }

    /// Makes a class of volumes that are mounted as the export is.
    pub(crate) async fn class(&self, name: &str, patch: Value) -> String {
        let mut class = json!({"mountOptions": self.mount_options()});
        crate::support::space::merge(&mut class, patch);
        self.space.class(name, class).await
    }

    /// The directory of a volume, beneath the export.
    pub(crate) fn directory(&self, volume: &PersistentVolume) -> String {
        let nfs = volume.spec.as_ref().and_then(|spec| spec.nfs.as_ref()).expect("an NFS volume");
        assert_eq!(nfs.server, self.setup.server.address);
        nfs.path.strip_prefix(&format!("{}/", self.path)).expect("a path beneath the export").to_owned()
    }

    /// The names at the export's root, as the server sees them, without the provisioner's own.
    pub(crate) fn entries(&self) -> Vec<String> {
        let mut names = self.names(&self.disk);
        names.retain(|name| !name.starts_with(".nfs-provisioner") && name != "lost+found");
        names
    }

    /// The names in a directory.
    pub(crate) fn names(&self, path: &Path) -> Vec<String> {
        match self.file(ROOT, FileCall::List { path: path.to_owned() }) {
            Answer::Names(names) => names,
            other => panic!("{}: {other:?}", path.display()),
        }
    }

    /// What lies in the trash, as the server sees it.
    pub(crate) fn trash(&self) -> Vec<String> {
        let path = self.disk.join(".nfs-provisioner-trash");
        match self.rig.file(ROOT, FileCall::List { path }) {
            Ok(Answer::Names(names)) => names,
            _ => Vec::new(),
        }
    }

    pub(crate) async fn trash_is_empty(&self) {
        eventually("the trash to be emptied", || async { self.trash().is_empty().then_some(()) }).await;
    }

    /// A call on files in the guest that must succeed.
    pub(crate) fn file(&self, user: u32, call: FileCall) -> Answer {
        let shown = format!("{call:?}");
        self.rig.file(user, call).unwrap_or_else(|number| panic!("{shown} as {user}: {}", errno(number)))
    }

    pub(crate) fn read(&self, user: u32, path: PathBuf) -> String {
        match self.file(user, FileCall::Read { path }) {
            Answer::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn write(&self, user: u32, path: PathBuf, text: &str) {
        self.file(user, FileCall::Write { path, text: text.to_owned() });
    }

    pub(crate) fn stat(&self, path: PathBuf) -> Status {
        match self.file(ROOT, FileCall::Stat { path }) {
            Answer::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// How long a directory takes to be made and removed through the mount, which are two calls on the server at least.
    pub(crate) fn ping(&self, times: u32) -> Duration {
        let started = Instant::now();
        self.file(ROOT, FileCall::Ping { path: self.mount.join("ping"), times });
        started.elapsed() / times
    }
}

impl Drop for Site {
    /// The next test is to find an idle guest. What hangs, hangs apart.
    fn drop(&mut self) {
        let _ = self.rig.try_run(&["umount", "--lazy", text(&self.mount)]);
        let _ = self.rig.ask(&Request::RunOn(
            self.setup.server.name.to_owned(),
            ["exportfs", "-u", &self.exported()].map(str::to_owned).to_vec(),
        ));
        let _ = self.rig.try_run(&["umount", "--lazy", text(&self.disk)]);
        let _ = self.rig.try_run(&["rm", "-f", &format!("/run/image-{}", self.number)]);
    }
}

/// A running provisioner in the guest. It is killed when this value goes.
pub(crate) struct Provisioner {
    rig: &'static Rig,
    id: u32,
    log: PathBuf,
    port: u16,
}

impl Provisioner {
    pub(crate) fn signal(&self, signal: &str) {
        self.rig.ask(&Request::Signal { id: self.id, signal: signal.to_owned() });
    }

    /// `None` while it runs, else its exit status; -1 after a signal.
    pub(crate) fn ended(&self) -> Option<i32> {
        match self.rig.ask(&Request::Ended { id: self.id }) {
            Answer::Runs => None,
            Answer::Ended { status, .. } => Some(status.unwrap_or(-1)),
            other => panic!("{other:?}"),
        }
    }

    /// Its capabilities, a bit for each.
    pub(crate) fn capabilities(&self) -> u64 {
        let path = format!("/proc/{}/status", self.id).into();
        let Ok(Answer::Text(status)) = self.rig.file(ROOT, FileCall::Read { path }) else {
            panic!("no such process")
        };
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("a line");
        u64::from_str_radix(line.trim(), 16).expect("a number")
    }

    /// What it and those before it on this site have logged.
    pub(crate) fn log(&self) -> String {
        whole_lines(std::fs::read(&self.log).unwrap_or_default())
    }

    /// Asks it to end, and returns how long it took; panics if it takes longer than a Pod is given by us.
    pub(crate) fn stop(self) -> Duration {
        let started = Instant::now();
        self.signal("TERM");
        while self.ended().is_none() {
            assert!(started.elapsed() < Duration::from_secs(10), "the provisioner does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        started.elapsed()
    }

    /// What it answers on its port: the status, and the body.
    pub(crate) fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&Rig::guest(self.port), Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        Ok((status, body))
    }

    /// The value of a metric.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").ok()?;
        let of_the_only_export = format!("{name}{{export=\"default\"}}");
        let is_it = |series: &str| series == name || series == of_the_only_export;
        let line = text.lines().find(|line| line.split(' ').next().is_some_and(is_it))?;
        line.split(' ').nth(1)?.parse().ok()
    }
}

impl Drop for Provisioner {
    fn drop(&mut self) {
        self.signal("KILL");
        if std::thread::panicking() {
            eprintln!("--- the provisioner's log ---\n{}", self.log());
        }
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours")
}

/// What a number of the kernel means.
pub(crate) fn errno(number: i32) -> nix::errno::Errno {
    nix::errno::Errno::from_raw(number)
}
