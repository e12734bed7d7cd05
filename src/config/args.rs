//! What is typed, or set in the environment: flags and commands.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::values::address::ExportAddress;

/// The variable that Kubernetes sets in each Pod.
pub(super) const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// The settings as they are given. Each is a flag, and an environment variable: the one that upstream reads, where
/// it has the setting.
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
    pub(super) provisioner_name: Option<String>,

    /// Host name or address of the NFS server, as the nodes reach it. Not needed with `EXPORTS_FILE`.
    #[arg(long, env = "NFS_SERVER", value_name = "HOST")]
    pub(super) nfs_server: Option<String>,

    /// Path of the export on the NFS server. Not needed with `EXPORTS_FILE`.
    #[arg(long, env = "NFS_PATH", value_name = "PATH")]
    pub(super) nfs_path: Option<String>,

    /// Directory where the export is mounted here.
    #[arg(long, env = "NFS_MOUNT_PATH", value_name = "DIR", default_value = "/persistentvolumes")]
    pub(super) nfs_mount_path: PathBuf,

    /// YAML file with more exports, as "exports: [{name: …, server: …, path: …, mount: …}]". The first one serves
    /// classes that name none; that of `NFS_SERVER`, if it is set, is before them, and is called "default".
    #[arg(long, env = "EXPORTS_FILE", value_name = "FILE")]
    pub(super) exports_file: Option<OsString>,

    /// Whether exports must be NFS mounts: "on" refuses to work on anything else, "off" only warns; "auto" is "on"
    /// in a cluster, and elsewhere as soon as it was an NFS mount once.
    #[arg(long, env = "NFS_MOUNT_CHECK", value_name = "auto|on|off", default_value = "auto")]
    pub(super) nfs_mount_check: String,

    /// Address and port of /metrics, /livez and /readyz, or a port on all addresses; empty for none [default: :8080,
    /// and none if that port is taken].
    #[arg(long, env = "HTTP_ADDR", value_name = "[ADDRESS]:PORT")]
    pub(super) http_addr: Option<String>,

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
    pub(super) kubeconfig: Option<OsString>,

    /// Whether claims of all classes may have directories at, in or above those of other namespaces: true or
    /// false.
    #[arg(long, env = "SHARE_ACROSS_NAMESPACES", value_name = "BOOL", default_value = "false")]
    pub(super) share_across_namespaces: String,

    /// How many calls a second to spend, on each export, on finding out how much each volume holds; 0 for none.
    #[arg(long, env = "USAGE_CALLS_PER_SECOND", value_name = "NUMBER", default_value = "0")]
    pub(super) usage_calls_per_second: String,

    /// Whether to work only while holding a lock that one provisioner of this name can hold: true or false.
    #[arg(long, env = "ENABLE_LEADER_ELECTION", value_name = "BOOL", default_value = "true")]
    pub(super) enable_leader_election: String,

    /// What kind of object the lock is: leases, endpoints (as nfs-subdir-external-provisioner has it), or auto,
    /// which is leases where these are allowed.
    #[arg(long, env = "LEADER_ELECTION_LOCK", value_name = "auto|leases|endpoints", default_value = "auto")]
    pub(super) leader_election_lock: String,

    /// Namespace of the lock [default: the Pod's own, or without one "default"].
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub(super) pod_namespace: Option<String>,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// JSON in a Pod, else text.
    Auto,
    /// Lines for people.
    Text,
    /// One object of JSON a line.
    Json,
}

impl LogFormat {
    /// Returns whether the log is JSON. `on_terminal` tells whether it goes to a terminal.
    #[must_use]
    pub fn is_json(self, on_terminal: bool) -> bool {
        match self {
            Self::Auto => !on_terminal && std::env::var_os(IN_CLUSTER).is_some(),
            Self::Text => false,
            Self::Json => true,
        }
    }
}

/// Subcommands: what the program does instead of serving.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Take this provisioner's finalizer off its volumes, before an uninstall or a rollback. Stop it first: it
    /// puts them back.
    RemoveFinalizers,

    /// Have volumes point at another server or path, when the NFS server has moved or got another name. It copies no
    /// files.
    ///
    /// A PersistentVolume cannot be edited, so each is made anew under its name; its claim stays, and is bound to
    /// it again. Without --yes it only prints what it would do, and what stands in the way. It may be run again
    /// after it was interrupted, and finishes first what was begun.
    Rehome(Rehome),

    /// Check settings, API server, rights, classes and the export, and say what is wrong and how to mend it. It
    /// ends with 1 if anything is that keeps the provisioner from its work. A provisioner may run meanwhile.
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

/// What [`Command::Rehome`] is to do.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Rehome {
    /// Where the volumes are now: those of this provisioner at this path or beneath it are moved.
    #[arg(long, value_name = "SERVER:PATH", value_parser = ExportAddress::parse)]
    pub from: ExportAddress,

    /// Where they are to be: the same directories beneath this path.
    #[arg(long, value_name = "SERVER:PATH", value_parser = ExportAddress::parse)]
    pub to: ExportAddress,

    /// Only volumes of this StorageClass.
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,

    /// Also volumes whose claims Pods use. These Pods keep the old server mounted until they are started anew.
    #[arg(long)]
    pub in_use: bool,

    /// Do it.
    #[arg(long)]
    pub yes: bool,
}

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A line for each check.
    Text,
    /// One object of JSON.
    Json,
}
