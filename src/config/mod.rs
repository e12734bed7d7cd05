//! Settings: what was typed or set in the environment, and what it means.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use serde::Deserialize;

use crate::cluster::election::{LockChoice, LockKind};
use crate::model::exports::{DEFAULT_NAME, Exports, NamedExport, PerExport};
use crate::storage::{ExportSpec, MustBeNfs, Reach};
use crate::values::address::ExportAddress;
use crate::values::text::go_bool;

/// What Kubernetes sets in each Pod.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// The settings as they are given. Each is a flag, and the environment variable that the peer has or would have.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "nfs-provisioner",
    version = env!("NFS_PROVISIONER_VERSION"),
    about = "Dynamic NFS volume provisioner for Kubernetes",
    long_about = "Dynamic NFS volume provisioner for Kubernetes.\n\n\
        Makes a directory on an NFS export and a PersistentVolume that points at it for each \
        PersistentVolumeClaim whose StorageClass names this provisioner, and archives, removes or keeps the \
        directory when the claim has gone, as the class says. The export must be mounted where this runs.",
    after_help = "Every setting can be given as a flag or in the environment; the flag wins. \
        RUST_LOG (for example nfs_provisioner=debug) chooses what is logged."
)]
pub struct Args {
    /// What to do, if not to serve.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Name of this provisioner: the value of "provisioner" in the `StorageClasses` it serves.
    #[arg(long, env = "PROVISIONER_NAME", value_name = "NAME")]
    provisioner_name: Option<String>,

    /// Host name or address of the NFS server, as the nodes reach it. Not needed with `EXPORTS_FILE`.
    #[arg(long, env = "NFS_SERVER", value_name = "HOST")]
    nfs_server: Option<String>,

    /// Path of the export on the NFS server. Not needed with `EXPORTS_FILE`.
    #[arg(long, env = "NFS_PATH", value_name = "PATH")]
    nfs_path: Option<String>,

    /// Directory where the export is mounted here.
    #[arg(long, env = "NFS_MOUNT_PATH", value_name = "DIR", default_value = "/persistentvolumes")]
    nfs_mount_path: PathBuf,

    /// YAML file with more exports, as "exports: [{name: …, server: …, path: …, mount: …}]". The first one serves classes
    /// that name none; that of `NFS_SERVER`, if it is set, is before them, and is called "default".
    #[arg(long, env = "EXPORTS_FILE", value_name = "FILE")]
    exports_file: Option<OsString>,

    /// Whether exports must be NFS mounts: "on" refuses to work on anything else, "off" only warns; "auto" is "on" in
    /// a cluster, and elsewhere as soon as it was an NFS mount once.
    #[arg(long, env = "NFS_MOUNT_CHECK", value_name = "auto|on|off", default_value = "auto")]
    nfs_mount_check: String,

    /// Address and port of /metrics, /livez and /readyz; empty for none.
    #[arg(long, env = "HTTP_ADDR", value_name = "ADDRESS:PORT", default_value = "0.0.0.0:8080")]
    http_addr: String,

    /// How to log: text for people, json for machines, or auto, which is json in a Pod.
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_enum,
        default_value = "auto",
        hide_possible_values = true,
        value_name = "auto|text|json",
        global = true
    )]
    pub log_format: LogFormat,

    /// Kubeconfig file [default: the Pod's `ServiceAccount`, or without one ~/.kube/config].
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<OsString>,

    /// Whether claims of all classes may have directories at, in or above those of other namespaces: true or false.
    #[arg(long, env = "SHARE_ACROSS_NAMESPACES", value_name = "BOOL", default_value = "false")]
    share_across_namespaces: String,

    /// How many calls a second to spend, on each export, on finding out how much each volume holds; 0 for none.
    #[arg(long, env = "USAGE_CALLS_PER_SECOND", value_name = "NUMBER", default_value = "0")]
    usage_calls_per_second: String,

    /// Whether to work only while holding a lock that one provisioner of this name can hold: true or false.
    #[arg(long, env = "ENABLE_LEADER_ELECTION", value_name = "BOOL", default_value = "true")]
    enable_leader_election: String,

    /// What kind of object the lock is: leases, endpoints (as nfs-subdir-external-provisioner has it), or auto, which is
    /// leases where these are allowed.
    #[arg(long, env = "LEADER_ELECTION_LOCK", value_name = "auto|leases|endpoints", default_value = "auto")]
    leader_election_lock: String,

    /// Namespace of the lock [default: the Pod's own, or without one "default"].
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pod_namespace: Option<String>,
}

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// As it suits where we are.
    Auto,
    /// A line for people.
    Text,
    /// An object of JSON on each line.
    Json,
}

impl LogFormat {
    /// Whether it is JSON, with `on_terminal` telling whether the log goes to a terminal.
    #[must_use]
    pub fn is_json(self, on_terminal: bool) -> bool {
        match self {
            Self::Auto => !on_terminal && std::env::var_os(IN_CLUSTER).is_some(),
            Self::Text => false,
            Self::Json => true,
        }
    }
}

/// What can be done besides serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Take this provisioner's finalizer off its volumes, before an uninstall or a rollback. Stop it first: it puts
    /// them back.
    RemoveFinalizers,

    /// Check settings, API server, rights, classes and the export, and say what is wrong and how to mend it. It ends
    /// with 1 if anything is that keeps the provisioner from its work. A provisioner may run meanwhile.
    Doctor {
        /// How to say it: text for people, json for machines.
        #[arg(
            long,
            short,
            value_enum,
            default_value = "text",
            hide_possible_values = true,
            value_name = "text|json"
        )]
        output: Output,
    },
}

/// How to print a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A line for each check.
    Text,
    /// One object of JSON.
    Json,
}

/// The settings as they are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Our name.
    pub provisioner: String,
    /// The exports.
    pub exports: Exports,
    /// Where they are mounted.
    pub specs: PerExport<ExportSpec>,
    /// The kubeconfig to use, if one is named.
    pub kubeconfig: Option<PathBuf>,
    /// Where to answer HTTP, if anywhere.
    pub http: Option<SocketAddr>,
    /// Which lock to hold while working.
    pub lock: LockChoice,
    /// Whether directories may be shared across namespaces, whatever the class says.
    pub share: bool,
    /// How many calls a second, on each export, to find out how much volumes hold; 0 for none.
    pub usage_calls: u32,
    /// The namespace of the lock, if one is named.
    pub namespace: Option<String>,
}

/// Everything that is wrong with the settings, a line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct BadSettings(pub Vec<String>);

impl Args {
    /// What [`Command::RemoveFinalizers`] needs: the provisioner's name, and the kubeconfig if one is named.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn name_and_kubeconfig(&self) -> Result<(String, Option<PathBuf>), BadSettings> {
        let mut wrong = Vec::new();
        let name = required("PROVISIONER_NAME", self.provisioner_name.as_deref(), provisioner_name, &mut wrong);
        name.map(|name| (name, self.kubeconfig())).ok_or(BadSettings(wrong))
    }

    fn kubeconfig(&self) -> Option<PathBuf> {
        self.kubeconfig.clone().filter(|file| !file.is_empty()).map(PathBuf::from)
    }
}

impl TryFrom<Args> for Config {
    type Error = BadSettings;

    fn try_from(args: Args) -> Result<Self, BadSettings> {
        let kubeconfig = args.kubeconfig();
        let mut wrong = Vec::new();
        let provisioner =
            required("PROVISIONER_NAME", args.provisioner_name.as_deref(), provisioner_name, &mut wrong);
        let elect = Some(&*args.enable_leader_election).filter(|text| !text.is_empty()).or(Some("true"));
        let elect = required("ENABLE_LEADER_ELECTION", elect, boolean, &mut wrong);
        let lock = Some(&*args.leader_election_lock).filter(|text| !text.is_empty()).or(Some("auto"));
        let lock = required("LEADER_ELECTION_LOCK", lock, lock_choice, &mut wrong);
        let share = Some(&*args.share_across_namespaces).filter(|text| !text.is_empty()).or(Some("false"));
        let share = required("SHARE_ACROSS_NAMESPACES", share, boolean, &mut wrong);
        let pace = Some(&*args.usage_calls_per_second).filter(|text| !text.is_empty()).or(Some("0"));
        let pace = required("USAGE_CALLS_PER_SECOND", pace, calls_per_second, &mut wrong);
        let in_cluster = kubeconfig.is_none() && std::env::var_os(IN_CLUSTER).is_some();
        let check = Some(&*args.nfs_mount_check).filter(|text| !text.is_empty()).or(Some("auto"));
        let check = required("NFS_MOUNT_CHECK", check, |text| mount_check(text, in_cluster), &mut wrong);
        let http = match args.http_addr.as_str() {
            "" => Some(None),
            text => required("HTTP_ADDR", Some(text), address, &mut wrong).map(Some),
        };
        let mounted = mounted_exports(&args, &mut wrong);
        let (
            Some(provisioner),
            Some((exports, mounts)),
            Some(must_be_nfs),
            Some(http),
            Some(elect),
            Some(lock),
            Some(share),
            Some(usage_calls),
        ) = (provisioner, mounted, check, http, elect, lock, share, pace)
        else {
            return Err(BadSettings(wrong));
        };
        if !wrong.is_empty() {
            return Err(BadSettings(wrong));
        }
        let specs = exports.map(|(id, NamedExport { name, source })| ExportSpec {
            name: name.clone(),
            address: source.clone(),
            reach: Reach::Mounted { at: mounts.get(id).clone(), must_be_nfs },
        });
        Ok(Self {
            provisioner,
            exports,
            specs,
            kubeconfig,
            http,
            lock: if elect { lock } else { LockChoice::None },
            share,
            usage_calls,
            namespace: args.pod_namespace.filter(|namespace| !namespace.is_empty()),
        })
    }
}

/// What [`Args::exports_file`] names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportsFile {
    exports: Vec<ExportEntry>,
}

/// An export in there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportEntry {
    name: String,
    server: String,
    path: String,
    mount: PathBuf,
}

/// An export, and where it is mounted.
type Mounted = (NamedExport, PathBuf);

/// The exports, and where they are mounted, or notes what is wrong with them.
fn mounted_exports(args: &Args, wrong: &mut Vec<String>) -> Option<(Exports, PerExport<PathBuf>)> {
    let given = |setting: &Option<String>| setting.as_ref().is_some_and(|text| !text.is_empty());
    let file = args.exports_file.as_ref().filter(|file| !file.is_empty()).map(Path::new);
    let (mut all, faults) = (Vec::new(), wrong.len());
    if file.is_none() || given(&args.nfs_server) || given(&args.nfs_path) {
        all.extend(default_export(args, wrong));
    }
    if let Some(file) = file {
        match read_exports(file) {
            Ok(read) => all.extend(read),
            Err(words) => wrong.push(format!("EXPORTS_FILE {}: {words}", file.display())),
        }
    }
    for (number, (export, mount)) in all.iter().enumerate() {
        if let Some((other, _)) = all.iter().take(number).find(|(_, other)| other == mount) {
            let (mount, other, name) = (mount.display(), &other.name, &export.name);
            wrong
                .push(format!("EXPORTS_FILE has the exports {other:?} and {name:?} mounted at one path, {mount}"));
        }
    }
    if wrong.len() > faults {
        return None;
    }
    Exports::new(all).map_err(|words| wrong.push(format!("EXPORTS_FILE {words}"))).ok()
}

/// The export of the peer's environment.
fn default_export(args: &Args, wrong: &mut Vec<String>) -> Option<Mounted> {
    let server = required("NFS_SERVER", args.nfs_server.as_deref(), ExportAddress::server, wrong);
    let path = required("NFS_PATH", args.nfs_path.as_deref(), ExportAddress::path, wrong);
    let mount = &args.nfs_mount_path;
    if !mount.is_absolute() {
        wrong.push(format!("NFS_MOUNT_PATH must be an absolute path, not \"{}\"", mount.display()));
    }
    let source = ExportAddress::new(server?, path?);
    Some((NamedExport { name: DEFAULT_NAME.into(), source }, mount.clone()))
}

fn read_exports(file: &Path) -> Result<Vec<Mounted>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("cannot be read: {error}"))?;
    let file: ExportsFile = serde_saphyr::from_str(&text).map_err(|error| error.to_string())?;
    if file.exports.is_empty() {
        return Err("names no export".to_owned());
    }
    file.exports.into_iter().enumerate().map(|(number, entry)| entry.read(number)).collect()
}

impl ExportEntry {
    fn read(self, number: usize) -> Result<Mounted, String> {
        let at = |field: &str, words: String| format!("exports[{number}].{field} {words}");
        if !is_name(&self.name) {
            let words = format!("must be of at most 63 lower case letters, digits and \"-\", not {:?}", self.name);
            return Err(at("name", words));
        }
        if !self.mount.is_absolute() {
            return Err(at("mount", format!("must be an absolute path, not \"{}\"", self.mount.display())));
        }
        let server = ExportAddress::server(&self.server).map_err(|words| at("server", words))?;
        let path = ExportAddress::path(&self.path).map_err(|words| at("path", words))?;
        Ok((NamedExport { name: self.name.into(), source: ExportAddress::new(server, path) }, self.mount))
    }
}

/// Whether a text can be an export's name: what is a name of a volume in a Pod, too.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_end = |c: Option<char>| c.is_some_and(|c| c != '-');
    text.len() <= 63 && text.chars().all(plain) && is_end(text.chars().next()) && is_end(text.chars().next_back())
}

/// Reads a setting that must be there, or notes what is wrong with it.
fn required<T>(
    name: &str,
    value: Option<&str>,
    read: impl Fn(&str) -> Result<T, String>,
    wrong: &mut Vec<String>,
) -> Option<T> {
    let read = match value {
        None | Some("") => Err("is not set".to_owned()),
        Some(text) => read(text),
    };
    let flag = name.to_lowercase().replace('_', "-");
    read.map_err(|error| {
        wrong.push(format!("{name} {error} (environment variable {name} or flag --{flag})"));
    })
    .ok()
}

/// When the export must be an NFS mount.
fn mount_check(text: &str, in_cluster: bool) -> Result<MustBeNfs, String> {
    match text {
        "on" => Ok(MustBeNfs::Always),
        "auto" if in_cluster => Ok(MustBeNfs::Always),
        "auto" => Ok(MustBeNfs::OnceItWas),
        "off" => Ok(MustBeNfs::Never),
        _ => Err(format!("must be \"auto\", \"on\" or \"off\", not {text:?}")),
    }
}

fn lock_choice(text: &str) -> Result<LockChoice, String> {
    match text {
        "auto" => Ok(LockChoice::Auto),
        "leases" => Ok(LockChoice::Only(LockKind::Lease)),
        "endpoints" => Ok(LockChoice::Only(LockKind::Endpoints)),
        _ => Err(format!("must be \"auto\", \"leases\" or \"endpoints\", not {text:?}")),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("must be an address and a port like \"0.0.0.0:8080\", or empty, not {text:?}"))
}

fn calls_per_second(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("must be a number of calls, or 0 for none, not {text:?}"))
}

fn boolean(text: &str) -> Result<bool, String> {
    go_bool(text).ok_or_else(|| format!("must be true or false, not {text:?}"))
}

/// A provisioner's name is what the API server takes in a StorageClass: an optional DNS name and `/`, then a word
/// (behaviour 7.14).
fn provisioner_name(text: &str) -> Result<String, String> {
    let (domain, word) = text.split_once('/').map_or((None, text), |(domain, word)| (Some(domain), word));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let ends_well = |part: &str| {
        let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        alphanumeric(part.chars().next()) && alphanumeric(part.chars().next_back())
    };
    if domain == Some("kubernetes.io") {
        return Err(format!("must not begin with \"kubernetes.io/\", which is for what is built in: {text:?}"));
    }
    let domain_right =
        domain.is_none_or(|domain| domain.len() <= 253 && domain.chars().all(plain) && ends_well(domain));
    let word_right = word.len() <= 63 && word.chars().all(|c| plain(c) || c == '_') && ends_well(word);
    if domain_right && word_right {
        Ok(text.to_owned())
    } else {
        Err(format!("must be a name like \"example.com/nfs\", not {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [&str; 7] = [
        "nfs-provisioner",
        "--provisioner-name",
        "example.com/nfs",
        "--nfs-server",
        "nas",
        "--nfs-path",
        "/export//k/",
    ];

    fn config(more: &[&str]) -> Result<Config, BadSettings> {
        Args::try_parse_from(GOOD.iter().chain(more)).unwrap().try_into()
    }

    #[test]
    fn the_peers_settings_are_enough() {
        let config = config(&[]).unwrap();
        assert_eq!(config.provisioner, "example.com/nfs");
        let specs: Vec<&ExportSpec> = config.specs.values().collect();
        let [ExportSpec { name, address, reach }] = &*specs else { panic!("{specs:?}") };
        assert_eq!((&**name, &*address.to_string()), ("default", "nas:/export/k"));
        assert_eq!(reach.mount_path(), Some(Path::new("/persistentvolumes")));
        assert_eq!(config.lock, LockChoice::Auto);
        assert_eq!((config.kubeconfig, config.namespace), (None, None));
    }

    /// The exports that a file gives, beside those of the environment or alone.
    fn with_file(text: &str, environment: &[&str]) -> Result<String, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, text).unwrap();
        let args = ["x", "--provisioner-name", "a/b", "--exports-file", file.path().to_str().unwrap()];
        let args = Args::try_parse_from(args.iter().chain(environment)).unwrap();
        let config = Config::try_from(args).map_err(|error| error.to_string())?;
        let shown = config
            .specs
            .values()
            .map(|spec| format!("{}={}", spec.name, spec.reach.mount_path().unwrap().display()));
        Ok(shown.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn more_exports_come_from_a_file() {
        let fast = "exports:\n- {name: fast, server: nas, path: /fast, mount: /exports/fast}\n";
        assert_eq!(with_file(fast, &[]).unwrap(), "fast=/exports/fast");
        let environment = ["--nfs-server", "nas", "--nfs-path", "/export"];
        assert_eq!(with_file(fast, &environment).unwrap(), "default=/persistentvolumes fast=/exports/fast");
        assert!(with_file(fast, &environment[..2]).unwrap_err().contains("NFS_PATH is not set"));
    }

    #[test]
    fn what_is_wrong_with_the_file_is_said_by_name() {
        let entry = |changed: &str, to: &str| {
            let entry = "exports:\n- {name: fast, server: nas, path: /fast, mount: /exports/fast}\n";
            assert!(entry.contains(changed));
            entry.replace(changed, to)
        };
        let rows = [
            (entry("name: fast", "name: Fast"), "exports[0].name"),
            (entry("name: fast", "name: ''"), "exports[0].name"),
            (entry("server: nas", "server: n a s"), "exports[0].server"),
            (entry("path: /fast", "path: fast"), "exports[0].path"),
            (entry("mount: /exports", "mount: exports"), "exports[0].mount"),
            (entry("server: nas, ", ""), "server"),
            (entry("server: nas", "sever: nas"), "sever"),
            ("exports: []".to_owned(), "names no export"),
            ("exports: {".to_owned(), "EXPORTS_FILE"),
            (entry("path: /fast", "path: /export/fast"), "at, in or above"),
            (entry("name: fast", "name: default"), "two exports \"default\""),
            (entry("mount: /exports/fast", "mount: /persistentvolumes"), "mounted at one path"),
        ];
        for (text, expected) in rows {
            let wrong = with_file(&text, &["--nfs-server", "nas", "--nfs-path", "/export"]).unwrap_err();
            assert!(wrong.contains(expected) && wrong.contains("EXPORTS_FILE"), "{text}: {wrong}");
        }
        let args = ["x", "--provisioner-name", "a/b", "--exports-file", "/no/such"];
        let wrong = Config::try_from(Args::try_parse_from(args).unwrap()).unwrap_err().to_string();
        assert!(wrong.contains("/no/such: cannot be read"), "{wrong}");
    }

    #[test]
    fn elections_are_switched_by_bools_as_go_reads_them() {
        for (text, expected) in [("true", true), ("1", true), ("F", false), ("False", false)] {
            let found = config(&["--enable-leader-election", text]).unwrap().lock;
            assert_eq!(found != LockChoice::None, expected, "{text}");
        }
    }

    #[test]
    fn only_in_a_cluster_must_the_export_be_an_nfs_mount_unless_it_is_said() {
        let rows = [
            ("auto", true, MustBeNfs::Always),
            ("auto", false, MustBeNfs::OnceItWas),
            ("on", false, MustBeNfs::Always),
            ("off", true, MustBeNfs::Never),
        ];
        for (text, in_cluster, expected) in rows {
            assert_eq!(mount_check(text, in_cluster), Ok(expected), "{text} {in_cluster}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let args = [
            "x",
            "--nfs-server",
            "a b",
            "--nfs-path",
            "export",
            "--nfs-mount-path",
            "here",
            "--enable-leader-election",
            "yes",
            "--nfs-mount-check",
            "maybe",
        ];
        let wrong = Config::try_from(Args::try_parse_from(args).unwrap()).unwrap_err().to_string();
        assert_eq!(wrong.lines().count(), 6, "{wrong}");
        let names = ["NFS_SERVER", "NFS_PATH", "NFS_MOUNT_PATH", "NFS_MOUNT_CHECK", "ENABLE_LEADER_ELECTION"];
        for name in names.into_iter().chain(["PROVISIONER_NAME is not set"]) {
            assert!(wrong.contains(name), "{wrong}");
        }
    }

    #[test]
    fn provisioner_names_are_those_that_a_class_can_have() {
        for good in ["nfs", "k8s-sigs.io/nfs-subdir-external-provisioner", "cluster.local/a_b", "fuseim.pri/ifs"] {
            assert!(provisioner_name(good).is_ok(), "{good}");
        }
        for bad in ["/", "a/", "/b", "a/b/c", "a b", "-a", "kubernetes.io/nfs", "a/b.", "a//b"] {
            assert!(provisioner_name(bad).is_err(), "{bad}");
        }
    }
}
