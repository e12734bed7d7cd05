//! What is noted on the export of a volume.

use jiff::Timestamp;

use crate::layout::{ClusterMark, Note};
use crate::model::class::Class;
use crate::model::exports::Location;
use crate::model::volume::{NewVolume, Phase, Volume};

/// Tells whether a volume of this class gets a note: as the class's parameter `recordVolume` says, else as the setting
/// `RECORD_VOLUMES` does.
#[must_use]
pub fn is_wanted(class: Option<&Class>, setting: bool) -> bool {
    class.and_then(|class| class.parameters.record).unwrap_or(setting)
}

/// Returns the note of a volume that is about to be made. Its directory's mode and owners are not known
/// yet.
#[must_use]
pub fn of_new(volume: &NewVolume, at: &Location, cluster: &ClusterMark, now: Timestamp) -> Note {
    Note { created: Some(now), ..of_volume(&Volume::read(&volume.object()), at, cluster) }
}

/// Returns the note of a volume that exists.
#[must_use]
pub fn of_volume(volume: &Volume, at: &Location, cluster: &ClusterMark) -> Note {
    let claim = volume.claim.as_ref();
    Note {
        directory: at.path.clone(),
        volume: volume.name.as_str().into(),
        class: volume.class.as_str().into(),
        namespace: claim.map(|claim| claim.namespace.clone()),
        claim: claim.map(|claim| claim.name.clone()),
        claim_uid: volume.own_claim().map(|claim| claim.uid.as_str().into()),
        archived: None,
        created: volume.created,
        released: volume.since.filter(|_| volume.phase == Phase::Released),
        kept_until: None,
        capacity: volume.capacity.as_ref().map(|capacity| capacity.0.as_str().into()),
        access_modes: volume.access_modes.clone(),
        mount_options: volume.mount_options.clone(),
        reclaim_policy: Some(volume.reclaim.as_str().into()),
        on_delete: volume.on_delete_of_class.map(|fate| fate.as_str().into()),
        on_delete_of_claim: volume.on_delete_of_claim.clone(),
        gid: volume.gid,
        on_delete_of_volume: volume.on_delete.clone(),
        delete_retention: volume.retention.delete.clone(),
        delete_retention_min_free: volume.retention.delete_min_free.clone(),
        archive_retention: volume.retention.archive.clone(),
        owners: None,
        inode: None,
        provisioner: volume.provisioned_by.clone(),
        restored_from: volume.restored_from.clone(),
        cluster: known(cluster),
    }
}

/// Tells whether a note says the same of a volume as `now`, what only the export tells left out, and when it was made.
#[must_use]
pub fn is_current(found: &Note, now: &Note) -> bool {
    let known = |note: &Note| Note { owners: None, inode: None, created: None, ..note.clone() };
    known(found) == known(now)
}

/// Returns the note of the archive that a volume's directory becomes.
#[must_use]
pub fn of_archive(volume: &Volume, at: &Location, cluster: &ClusterMark, now: Timestamp) -> Note {
    Note { archived: Some(now), released: None, ..of_volume(volume, at, cluster) }
}

fn known(cluster: &ClusterMark) -> Option<Box<str>> {
    cluster.is_known().then(|| cluster.as_str().into())
}
