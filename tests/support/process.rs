//! The provisioner as a process of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// The settings of one provisioner.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) binary: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) provisioner: String,
    pub(crate) server: String,
    pub(crate) path: String,
    pub(crate) mount: PathBuf,
    pub(crate) namespace: String,
    pub(crate) log: PathBuf,
    /// More of its environment.
    pub(crate) environment: Vec<(String, String)>,
}

impl Settings {
    /// The program with these settings, and with no others in its environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        self.set(command.env_clear());
        command
    }

    fn set(&self, command: &mut Command) {
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("PROVISIONER_NAME", &self.provisioner)
            .env("NFS_SERVER", &self.server)
            .env("NFS_PATH", &self.path)
            .env("NFS_MOUNT_PATH", &self.mount)
            .env("POD_NAMESPACE", &self.namespace)
            .envs(self.environment.iter().cloned());
    }
}

/// The program: the one that NFS_PROVISIONER names, else what cargo has built for the tests, or beside this one.
pub(crate) fn provisioner() -> PathBuf {
    if let Some(given) = std::env::var_os("NFS_PROVISIONER") {
        return given.into();
    }
    option_env!("CARGO_BIN_EXE_nfs-provisioner").map_or_else(
        || {
            let own = std::env::current_exe().expect("a program");
            own.ancestors().nth(2).expect("a build directory").join("nfs-provisioner")
        },
        PathBuf::from,
    )
}

/// A running provisioner. It is killed when this value goes.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(settings: &Settings) -> Self {
        let log = File::options().create(true).append(true).open(&settings.log).expect("a log file");
        // Should this program be killed, the provisioner is too.
        let with_parent = Path::new("/usr/bin/setpriv").exists();
        let mut command =
            if with_parent { Command::new("/usr/bin/setpriv") } else { Command::new(&settings.binary) };
        if with_parent {
            command.args(["--pdeathsig", "KILL", "--"]).arg(&settings.binary);
        }
        command
            .env_clear()
            // Many run at a time.
            .env("HTTP_ADDR", "")
            .env("RUST_LOG", "warn,nfs_provisioner=debug,kube_client=off,kube_runtime=off");
        settings.set(&mut command);
        let child = command.stderr(log).spawn().expect("the provisioner starts");
        Self { child, log: settings.log.clone() }
    }

    /// What it has logged so far, and those before it with the same log.
    pub(crate) fn log(&self) -> String {
        whole_lines(std::fs::read(&self.log).unwrap_or_default())
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Asks it to end, and waits; panics if it takes longer than a Pod is given by us.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "the provisioner does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Its resident memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that its resident memory has ever been, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The CPU time that it has used.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = self.read("stat");
        // Its name, in brackets, may have blanks in it.
        let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
        // In user mode and in the kernel, in hundredths of a second on every Linux.
        let hundredths: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(hundredths * 10)
    }

    fn memory(&self, name: &str) -> u64 {
        let status = self.read("status");
        let line = status.lines().find(|line| line.starts_with(name)).expect("a line");
        let kibibytes: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
        kibibytes * 1024
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("a process")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the provisioner's log ---\n{}", self.log());
        }
    }
}

/// What has been written into a log so far, without the last line if that is just being written.
pub(crate) fn whole_lines(mut written: Vec<u8>) -> String {
    written.truncate(written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
    String::from_utf8_lossy(&written).into_owned()
}
