//! Who is measured.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::support::process::{Process, Settings, provisioner};
use crate::support::space::Space;

/// The variable that tells this program which part to play.
pub(crate) const PART: &str = "RATES_PART";

/// The variable that names the peer, for the process that becomes it.
const PEER: &str = "RATES_PEER";

/// What this program logs if it is told nothing.
const LOGGED: &str = "warn,nfs_provisioner=info,kube_client=off,kube_runtime=off";

/// Where the peer wants its export.
const PEER_MOUNT: &str = "/persistentvolumes";

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Contestant {
    /// Makes volumes for claims and deletes them, and nothing else.
    Null,
    /// This program.
    Ours,
    /// Another program with the same settings.
    Peer(PathBuf),
}

impl Contestant {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Ours => "ours",
            Self::Peer(_) => "peer",
        }
    }

    /// Starts it for the claims of a class that names `provisioner`.
    pub(crate) fn start(&self, space: &Space, provisioner_name: &str) -> Process {
        let own = std::env::current_exe().expect("a program");
        let part = |part: &str| (PART.to_owned(), part.to_owned());
        let (binary, mut environment) = match self {
            Self::Null => (own, vec![part("null")]),
            Self::Ours => (provisioner(), vec![("RUST_LOG".to_owned(), LOGGED.to_owned())]),
            Self::Peer(peer) => (own, vec![part("peer"), (PEER.to_owned(), peer.display().to_string())]),
        };
        // Every size and pair has a name of its own, and nobody else wants the lock.
        environment.push(("ENABLE_LEADER_ELECTION".to_owned(), "false".to_owned()));
        let mut settings = space.settings();
        if let Self::Peer(_) = self {
            // What it needs is not what we need.
            settings.kubeconfig.clone_from(&space.plane.kubeconfig);
        }
        Process::start(&Settings { binary, environment, provisioner: provisioner_name.to_owned(), ..settings })
    }
}

/// Replaces this process by the peer, for which the export is mounted where it wants it, in a mount namespace of its
/// own.
pub(crate) fn become_peer() {
    let variable = |name: &str| std::env::var(name).expect("a variable that is set");
    assert!(
        std::path::Path::new(PEER_MOUNT).exists(),
        "the peer has its export at {PEER_MOUNT} and nowhere else: make that directory, as root"
    );
    let script = format!("mount --bind \"$NFS_MOUNT_PATH\" {PEER_MOUNT} && exec \"${PEER}\"");
    let error = Command::new("unshare").args(["--mount", "sh", "-ec", &script]).env(PEER, variable(PEER)).exec();
    panic!("the peer does not start: {error}");
}
