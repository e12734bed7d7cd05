//! Settings: what was typed or set in the environment, and what it means.

use std::path::{Path, PathBuf};

use crate::cluster::lock::{LockChoice, LockKind};
use crate::model::exports::{DEFAULT_NAME, Exports, NamedExport, PerExport};
use crate::observe::http::Address;
use crate::storage::{ExportSpec, MustBeNfs, Reach};
use crate::values::address::ExportAddress;
use crate::values::text::go_bool;

mod commands;
mod args;
mod glog;
mod exports_file;
mod settings;

use args::IN_CLUSTER;
pub use args::{Args, LogFormat};
pub use commands::{
    AdoptArgs, Command, FilterArgs, Format, KeptAction, ListArgs, ListOnly, OrphansAction, Output, Rehome,
    RemoveArgs, RestoreArgs, WishArgs,
};
use exports_file::{Mounted, read_exports};
pub use glog::without_glog;
pub use settings::BadSettings;
use settings::Settings;

/// The port of HTTP, unless another one is set.
const HTTP_PORT: u16 = 8080;

/// The settings, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The name of this provisioner.
    pub provisioner: String,
    /// The exports that are served.
    pub exports: Exports,
    /// Where the exports are mounted, and how strictly that is checked.
    pub specs: PerExport<ExportSpec>,
    /// The kubeconfig file, if one is named.
    pub kubeconfig: Option<PathBuf>,
    /// Where HTTP is to be served, if it is.
    pub http: Option<Http>,
    /// The lock to hold while working.
    pub lock: LockChoice,
    /// Whether claims of all classes may share directories across namespaces.
    pub share: bool,
    /// How many calls a second to spend, on each export, on finding out how much volumes hold; 0 for none.
    pub usage_calls: u32,
    /// Whether a note of each volume is kept on the export, unless its class says otherwise.
    pub record: bool,
    /// The namespace of the lock, if one is named.
    pub namespace: Option<String>,
}

/// Where HTTP is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http {
    /// The address and port.
    pub address: Address,
    /// Whether somebody asked for it. If not, it is done without where the port is taken: upstream opens none.
    pub is_asked_for: bool,
}

impl Args {
    /// Returns what [`Command::RemoveFinalizers`] and [`Command::Rehome`] need: the provisioner's name, and the
    /// kubeconfig if one is named.
    ///
    /// # Errors
    /// Returns what is wrong with them.
    pub fn name_and_kubeconfig(&self) -> Result<(String, Option<PathBuf>), BadSettings> {
        let mut settings = Settings::default();
        let name = settings.required("PROVISIONER_NAME", self.provisioner_name.as_deref(), provisioner_name);
        settings.take(name.map(|name| (name, self.kubeconfig())))
    }

    /// Returns the exports that are set, if any are: people run some commands where none is.
    ///
    /// # Errors
    /// Returns what is wrong with them.
    pub fn exports(&self) -> Result<Option<Exports>, BadSettings> {
        let is_set = |set: &Option<String>| set.as_ref().is_some_and(|text| !text.is_empty());
        let has_file = self.exports_file.as_ref().is_some_and(|file| !file.is_empty());
        if !has_file && !is_set(&self.nfs_server) && !is_set(&self.nfs_path) {
            return Ok(None);
        }
        let mut settings = Settings::default();
        let exports = mounted_exports(self, &mut settings).map(|(exports, _)| exports);
        settings.take(exports).map(Some)
    }

    fn kubeconfig(&self) -> Option<PathBuf> {
        self.kubeconfig.clone().filter(|file| !file.is_empty()).map(PathBuf::from)
    }
}

impl TryFrom<Args> for Config {
    type Error = BadSettings;

    fn try_from(args: Args) -> Result<Self, BadSettings> {
        let kubeconfig = args.kubeconfig();
        let in_cluster = kubeconfig.is_none() && std::env::var_os(IN_CLUSTER).is_some();
        let mut all = Settings::default();
        let provisioner = all.required("PROVISIONER_NAME", args.provisioner_name.as_deref(), provisioner_name);
        let elect = all.or_default("ENABLE_LEADER_ELECTION", &args.enable_leader_election, "true", boolean);
        let lock = all.or_default("LEADER_ELECTION_LOCK", &args.leader_election_lock, "auto", lock_choice);
        let share = all.or_default("SHARE_ACROSS_NAMESPACES", &args.share_across_namespaces, "false", boolean);
        let usage_calls =
            all.or_default("USAGE_CALLS_PER_SECOND", &args.usage_calls_per_second, "0", calls_per_second);
        let record = all.or_default("RECORD_VOLUMES", &args.record_volumes, "true", boolean);
        let check = |text: &str| mount_check(text, in_cluster);
        let must_be_nfs = all.or_default("NFS_MOUNT_CHECK", &args.nfs_mount_check, "auto", check);
        let http = match args.http_addr.as_deref() {
            None => Some(Some(Http { address: Address::All(HTTP_PORT), is_asked_for: false })),
            Some("") => Some(None),
            text => all
                .required("HTTP_ADDR", text, Address::parse)
                .map(|address| Some(Http { address, is_asked_for: true })),
        };
        let mounted = mounted_exports(&args, &mut all);
        let namespace = args.pod_namespace.filter(|namespace| !namespace.is_empty());
        let config = || {
            let (exports, mounts) = mounted?;
            let must_be_nfs = must_be_nfs?;
            let specs = exports.map(|(id, NamedExport { name, address })| ExportSpec {
                name: name.clone(),
                address: address.clone(),
                reach: Reach::Mounted { at: mounts.get(id).clone(), must_be_nfs },
            });
            Some(Self {
                provisioner: provisioner?,
                exports,
                specs,
                kubeconfig,
                http: http?,
                lock: if elect? { lock? } else { LockChoice::None },
                share: share?,
                usage_calls: usage_calls?,
                record: record?,
                namespace,
            })
        };
        all.take(config())
    }
}

/// Reads the exports, and where they are mounted. What is wrong with them is noted.
fn mounted_exports(args: &Args, settings: &mut Settings) -> Option<(Exports, PerExport<PathBuf>)> {
    let given = |setting: &Option<String>| setting.as_ref().is_some_and(|text| !text.is_empty());
    let file = args.exports_file.as_ref().filter(|file| !file.is_empty()).map(Path::new);
    let (mut all, faults) = (Vec::new(), settings.faults());
    if file.is_none() || given(&args.nfs_server) || given(&args.nfs_path) {
        all.extend(default_export(args, settings));
    }
    if let Some(file) = file {
        match read_exports(file) {
            Ok(read) => all.extend(read),
            Err(words) => settings.wrong(format!("EXPORTS_FILE {}: {words}", file.display())),
        }
    }
    for (number, (export, mount)) in all.iter().enumerate() {
        if let Some((other, _)) = all.iter().take(number).find(|(_, other)| other == mount) {
            let (mount, other, name) = (mount.display(), &other.name, &export.name);
            let words =
                format!("EXPORTS_FILE has the exports {other:?} and {name:?} mounted at one path, {mount}");
            settings.wrong(words);
        }
    }
    if settings.faults() > faults {
        return None;
    }
    Exports::new(all).map_err(|words| settings.wrong(format!("EXPORTS_FILE {words}"))).ok()
}

/// Reads the export that upstream's environment variables name.
fn default_export(args: &Args, settings: &mut Settings) -> Option<Mounted> {
    let server = settings.required("NFS_SERVER", args.nfs_server.as_deref(), ExportAddress::server);
    let path = settings.required("NFS_PATH", args.nfs_path.as_deref(), ExportAddress::path);
    let mount = &args.nfs_mount_path;
    if !mount.is_absolute() {
        settings.wrong(format!("NFS_MOUNT_PATH must be an absolute path, not \"{}\"", mount.display()));
    }
    let export = ExportAddress::new(server?, path?);
    Some((NamedExport { name: DEFAULT_NAME.into(), address: export }, mount.clone()))
}

/// Reads when an export must be an NFS mount.
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

fn calls_per_second(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("must be a number of calls, or 0 for none, not {text:?}"))
}

fn boolean(text: &str) -> Result<bool, String> {
    go_bool(text).ok_or_else(|| format!("must be true or false, not {text:?}"))
}

/// Reads a provisioner's name: what the API server takes in a StorageClass, an optional DNS name and `/`, then a
/// word.
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
    use std::fs;

    use clap::Parser as _;

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
    fn http_is_on_all_addresses_unless_it_is_said_where_or_that_it_is_not_wanted() {
        let asked = |address| Some(Http { address, is_asked_for: true });
        let rows = [
            (None, Some(Http { address: Address::All(8080), is_asked_for: false })),
            (Some(""), None),
            (Some(":81"), asked(Address::All(81))),
            (Some("0.0.0.0:81"), asked(Address::One("0.0.0.0:81".parse().unwrap()))),
            (Some("[::1]:81"), asked(Address::One("[::1]:81".parse().unwrap()))),
        ];
        for (text, expected) in rows {
            let given = text.map(|text| ["--http-addr", text]);
            assert_eq!(config(given.as_ref().map_or(&[], |given| given)).unwrap().http, expected, "{text:?}");
        }
        let wrong = config(&["--http-addr", "8080"]).unwrap_err().to_string();
        assert!(wrong.contains("HTTP_ADDR") && wrong.contains("\":8080\""), "{wrong}");
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
