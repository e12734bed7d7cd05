//! What an uninstall, or a rollback to nfs-subdir-external-provisioner, needs: volumes without our finalizer.

use crate::cluster::api::{ApiError, Cluster};
use crate::model::volume::Volume;
use crate::values::names::VolumeName;

/// Takes our finalizer off all volumes of ours, and returns their names.
///
/// The provisioner must not be running: it would put them back. May be run twice, and cut at any point.
///
/// # Errors
/// Those of the API server. Volumes that were done until then stay done.
pub async fn remove_finalizers(cluster: &Cluster, provisioner: &str) -> Result<Vec<VolumeName>, ApiError> {
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
