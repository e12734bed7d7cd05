//! What the commands share that work on exports and volumes: the connection, the exports, and the cluster's mark.

use std::io::Write;

use anyhow::{Context as _, Result, anyhow};
use kube::Client;
use nix::sys::stat::{Mode, umask};
use tokio::time::sleep;

use crate::cluster::api::Cluster;
use crate::cluster::connect::{Connection, connection};
use crate::config::Config;
use crate::decide::volume::located;
use crate::export::{self, Export};
use crate::layout::ClusterMark;
use crate::ledger::{Entry, Ledger};
use crate::model::exports::{ExportId, Exports, Location, PerExport};
use crate::model::volume::Volume;
use crate::storage::{STUCK_AFTER, State};

/// What a command works with. It takes no lock: a provisioner may work meanwhile.
#[expect(missing_debug_implementations, reason = "the client has none")]
pub struct Session {
    /// The API server.
    pub client: Client,
    /// The API server, as the provisioner uses it.
    pub cluster: Cluster,
    /// The name of this provisioner.
    pub provisioner: String,
    /// The exports' names and addresses.
    pub served: Exports,
    /// The exports.
    pub exports: PerExport<Export>,
    /// The mark of this cluster's notes.
    pub mark: ClusterMark,
}

impl Session {
    /// Connects, and opens the exports. One that does not answer is waited for by who uses it.
    ///
    /// # Errors
    /// If the kubeconfig cannot be used, the API server does not answer, or an export is not where the settings say.
    pub async fn open(config: &Config) -> Result<Self> {
        // A directory that is made has the mode that it is to have.
        umask(Mode::empty());
        let Connection { client, .. } = connection(config.kubeconfig.as_deref()).await?;
        let cluster = Cluster::new(client.clone(), &config.provisioner);
        let mark = match cluster.mark().await {
            Ok(mark) => mark,
            Err(error) if error.is_forbidden() => ClusterMark::unknown(),
            Err(error) => return Err(error).context("the API server does not tell which cluster this is"),
        };
        let exports = export::open_all(&config.exports, &config.specs, |_| |_, _| {}).await?;
        for (id, export) in exports.iter() {
            let (storage, spec) = (export.storage.clone(), config.specs.get(id).clone());
            tokio::spawn(async move { storage.keep(&spec).await });
            tokio::spawn(say_silence(export.clone()));
        }
        let (provisioner, served) = (config.provisioner.clone(), config.exports.clone());
        Ok(Self { client, cluster, provisioner, served, exports, mark })
    }

    /// Returns the exports of this name, or all of them if none is named.
    ///
    /// # Errors
    /// If there is no export of that name; the text lists those that there are.
    pub fn chosen(&self, name: Option<&str>) -> Result<Vec<(ExportId, &Export)>> {
        let chosen: Vec<_> =
            self.exports.iter().filter(|(_, export)| name.is_none_or(|name| name == &*export.name)).collect();
        if chosen.is_empty() {
            let names: Vec<&str> = self.exports.values().map(|export| &*export.name).collect();
            let name = name.unwrap_or_default();
            return Err(anyhow!("there is no export {name:?}; the exports are {}", names.join(", ")));
        }
        Ok(chosen)
    }

    /// Returns the export that a directory is on.
    #[must_use]
    pub fn export(&self, at: &Location) -> &Export {
        self.exports.get(at.export)
    }

    /// Reads where all volumes of the cluster lie.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn ledger(&self) -> Result<Ledger> {
        let ledger = Ledger::default();
        let learn = |volume: Volume| {
            let at = located(&volume, &self.served).ok();
            ledger.settle(&volume.name, Entry { at: at.as_ref(), namespace: None, bytes: 0, gid: None });
        };
        self.cluster.volumes(learn).await.context("the volumes of the cluster cannot be listed")?;
        Ok(ledger)
    }
}

/// Says that an export does not answer, to whoever waits for the command.
async fn say_silence(export: Export) {
    loop {
        sleep(STUCK_AFTER).await;
        let is_open = matches!(export.storage.state(), State::Open(_) | State::Unusable(_));
        if !is_open || export.storage.silent_for().is_some_and(|silent| silent >= STUCK_AFTER) {
            let _ = writeln!(
                std::io::stderr(),
                "the export {} does not answer; this goes on when it does",
                export.address
            );
        }
    }
}
