//! `nfs-provisioner remove-finalizers`: what an uninstall, or a rollback to upstream, needs.

use std::path::Path;

use anyhow::Result;
use tracing::info;

use crate::cluster::api::{ApiError, Cluster};
use crate::cluster::connect::{Connection, connection};
use crate::model::volume::Volume;
use crate::values::names::VolumeName;

/// Removes this program's finalizer from all volumes of the provisioner of this name, and logs each.
///
/// The provisioner must not be running: it would put the finalizers back. May be run twice, and cut at any point.
///
/// # Errors
/// Returns an error if the kubeconfig cannot be used, or the API server refuses. Volumes that were done until then
/// stay done.
pub async fn remove_finalizers(provisioner: &str, kubeconfig: Option<&Path>) -> Result<()> {
    let Connection { client, .. } = connection(kubeconfig).await?;
    let released = released(&Cluster::new(client, provisioner), provisioner).await?;
    for volume in &released {
        info!(volume = volume.as_str(), "took the finalizer off");
    }
    info!("took the finalizer off {} volumes", released.len());
    Ok(())
}

/// Removes the finalizers, and returns the names of the volumes that had one.
async fn released(cluster: &Cluster, provisioner: &str) -> Result<Vec<VolumeName>, ApiError> {
    let mut held: Vec<Volume> = Vec::new();
    cluster
        .volumes(|volume| held.extend(Some(volume).filter(|volume| volume.finalizer && volume.is_of(provisioner))))
        .await?;
    let mut released = Vec::new();
    for volume in held {
        cluster.unprotect(&volume).await?;
        released.push(volume.name);
    }
    Ok(released)
}
