//! The decision on a volume.

use std::fmt;
use std::time::Duration;

use crate::decide::scope::Scope;
use crate::model::class::Class;
use crate::model::exports::{Elsewhere, Exports, Location};
use crate::model::parameters::{BadParameter, FATE, Fate, RETENTION};
use crate::model::volume::{Phase, ReclaimPolicy, Volume, annotation};
use crate::values::names::ClassName;
use crate::values::path::PathError;
use crate::values::retention::{Keep, Retention};

/// The plan for a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumePlan {
    /// Do nothing, and tell nobody.
    Ignore(VolumeIgnored),
    /// Do nothing, and tell an admin why.
    Refuse(VolumeRefusal),
    /// Add our finalizer to the volume.
    Protect,
    /// Remove our finalizer from the volume.
    Unprotect,
    /// Remove our finalizer from a volume that an admin has deleted while no claim had it, and leave its directory.
    LetGo,
    /// Do to the directory what `fate` says, then delete the volume.
    Reclaim {
        /// The place of the directory.
        at: Location,
        /// The directory's fate.
        fate: Fate,
        /// How long what is left of it is kept.
        retentions: Retentions,
        /// A doubt about the fate, for an admin to know.
        doubt: Option<Doubt>,
    },
    /// Delete the volume: its directory has been dealt with before, and what lies at its path now is another's.
    Delete,
}

/// How long a volume's directory is kept after its claim has gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retentions {
    /// If it is deleted: in the trash; `None` if it is not kept there.
    pub trash: Option<Keep>,
    /// If it is archived; `None` for ever.
    pub archive: Option<Retention>,
}

/// The longest life of a volume that is not believed to have been in use, if nobody has seen it bound: long enough
/// for a volume that was restored from a backup to be found without its claim.
const RESTORED: Duration = Duration::from_secs(30);

/// Reasons to leave a volume alone in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeIgnored {
    /// The volume is another provisioner's.
    Foreign,
    /// The volume's claim still exists, or the volume never had one.
    NotReleased,
    /// The volume's `claimRef` names no claim by its uid: somebody is giving the volume to another claim.
    Offered,
    /// The volume's reclaim policy is not `Delete`.
    Kept,
    /// An admin deleted the volume after its claim was gone: that is none of our business.
    Deleted,
}

/// Reasons why a released volume of ours cannot be reclaimed. The text is the event on the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeRefusal {
    /// The volume has no `spec.nfs`.
    NotNfs,
    /// The volume is on another server.
    OtherServer {
        /// The volume's server.
        server: Box<str>,
        /// Our exports.
        exports: Box<str>,
    },
    /// The volume's path is not that of a directory beneath the export.
    Path {
        /// The volume's `nfs.path`.
        path: Box<str>,
        /// The exports on its server.
        exports: Box<str>,
        /// The problem with the path.
        error: PathError,
    },
}

impl VolumeRefusal {
    /// Returns the refusal's name in metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotNfs => "not_nfs",
            Self::OtherServer { .. } => "other_server",
            Self::Path { .. } => "path",
        }
    }
}

impl fmt::Display for VolumeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNfs => {
                write!(f, "not reclaimed: the volume has no spec.nfs, so this provisioner did not make it")?;
            }
            Self::OtherServer { server, exports } => {
                write!(f, "not reclaimed: spec.nfs.server is {server:?}, but this provisioner serves {exports}")?;
            }
            Self::Path { path, exports, error } => write!(
                f,
                "not reclaimed: spec.nfs.path {path:?} {error}, and this provisioner touches nothing but \
                 directories beneath {exports}"
            )?,
        }
        let again = if *self == Self::NotNfs { "" } else { "have its export served again, or " };
        write!(f, ": {again}remove its data by hand if it is to go, then delete the volume")
    }
}

/// A doubt about a reclaimed volume's fate, for an admin to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// The class is gone, and the volume does not record what it said.
    NoClass(ClassName),
    /// The volume has an annotation with an invalid value.
    Annotation {
        /// The annotation's key.
        annotation: &'static str,
        /// The annotation's value.
        value: Box<str>,
        /// The valid values, in words.
        expected: &'static str,
    },
    /// The class has an invalid parameter.
    Parameter(BadParameter),
    /// The volume was released as soon as it was created, and was not seen to be bound. That is what a volume is
    /// like that was restored from a backup without its claim.
    NeverBound,
    /// The volume has gone while nothing was heard of the API server, so nobody knows whether it was to be kept by then.
    Unseen,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClass(name) => write!(f, "there is no StorageClass {name:?} to say what happens to the data"),
            Self::Annotation { annotation, value, expected } => {
                write!(f, "the volume's annotation {annotation} is {value:?}, but must be {expected}")
            }
            Self::Parameter(bad) => write!(f, "the StorageClass's {bad}"),
            Self::Unseen => f.write_str(
                "the volume has gone while the API server could not be heard, so what was said of it last is not known",
            ),
            Self::NeverBound => write!(
                f,
                "the volume was created and released within {} s and was not seen to have a claim, like one that was \
                 restored from a backup. To have its data removed, remove the archive; to have that done for such \
                 volumes, annotate them with {}: delete",
                RESTORED.as_secs(),
                annotation::ON_DELETE
            ),
        }
    }
}

/// The facts on which a volume is decided.
#[derive(Debug, Clone, Copy)]
pub struct VolumeFacts<'a> {
    /// The volume.
    pub volume: &'a Volume,
    /// The class that the volume names, if it exists now.
    pub class: Option<&'a Class>,
}

/// Decides what to do for a volume.
#[must_use]
pub fn for_volume(facts: &VolumeFacts<'_>, scope: &Scope) -> VolumePlan {
    let VolumeFacts { volume, class } = *facts;
    if !volume.is_of(&scope.provisioner) {
        return VolumePlan::Ignore(VolumeIgnored::Foreign);
    }
    if volume.reclaim != ReclaimPolicy::Delete {
        let off = volume.finalizer && scope.may_patch.is_granted();
        return if off { VolumePlan::Unprotect } else { VolumePlan::Ignore(VolumeIgnored::Kept) };
    }
    match volume.phase {
        Phase::Bound if needs_protection(volume, scope) => return VolumePlan::Protect,
        Phase::Other if is_to_be_let_go(volume, scope) => return VolumePlan::LetGo,
        Phase::Bound | Phase::Other => return VolumePlan::Ignore(VolumeIgnored::NotReleased),
        Phase::Released => {}
    }
    if volume.own_claim().is_none() {
        return VolumePlan::Ignore(VolumeIgnored::Offered);
    }
    if volume.deleting && !volume.finalizer && !volume.deleted_while_bound {
        return VolumePlan::Ignore(VolumeIgnored::Deleted);
    }
    if volume.disposed.is_some() {
        return VolumePlan::Delete;
    }
    match located(volume, &scope.exports) {
        Err(refusal) => VolumePlan::Refuse(refusal),
        Ok(at) => {
            let (fate, doubt, retentions) = fate_and_retentions(volume, class);
            VolumePlan::Reclaim { at, fate, retentions, doubt }
        }
    }
}

/// Tells whether a bound volume is to get our finalizer: only if we could reclaim the volume, and remove the
/// finalizer again.
fn needs_protection(volume: &Volume, scope: &Scope) -> bool {
    scope.may_patch.is_granted()
        && !volume.deleting
        && !volume.finalizer
        && located(volume, &scope.exports).is_ok()
}

/// Tells whether a volume that is not bound is being deleted, and only our finalizer keeps it. It has no claim whose
/// end would have its directory reclaimed. One that names a claim by uid is bound or released in a moment.
fn is_to_be_let_go(volume: &Volume, scope: &Scope) -> bool {
    let names_claim = volume.claim.as_ref().is_some_and(|claim| !claim.uid.as_str().is_empty());
    scope.may_patch.is_granted() && volume.deleting && volume.finalizer && !names_claim
}

/// Tells whether there is anything to do for a volume as it is. Other volumes need not be remembered.
#[must_use]
pub fn is_work(volume: &Volume, scope: &Scope) -> bool {
    !matches!(for_volume(&VolumeFacts { volume, class: None }, scope), VolumePlan::Ignore(_))
}

/// Finds the place of a volume's directory on these exports.
///
/// # Errors
/// Returns the reason if the directory is on none of them.
pub fn located(volume: &Volume, exports: &Exports) -> Result<Location, VolumeRefusal> {
    let source = volume.source.as_ref().ok_or(VolumeRefusal::NotNfs)?;
    exports.locate(&source.server, &source.path).map_err(|elsewhere| match elsewhere {
        Elsewhere::OtherServer => {
            VolumeRefusal::OtherServer { server: source.server.clone(), exports: exports.to_string().into() }
        }
        Elsewhere::Path(error, exports) => VolumeRefusal::Path { path: source.path.clone(), exports, error },
    })
}

/// Decides the fate of a volume's directory, and how long what is left of it is kept: by whatever the fate was
/// decided, the retentions are those of its class as it is now; or, if the class is gone, those that it had when the
/// volume was made. As long as the class is there, what the volume records does not count.
///
/// If that is in doubt, the directory is archived where it would be deleted. What is archived in doubt is kept for
/// ever.
fn fate_and_retentions(volume: &Volume, class: Option<&Class>) -> (Fate, Option<Doubt>, Retentions) {
    let (fate, doubt) = fate(volume, class);
    match retentions(volume, class) {
        Ok(Retentions { trash, archive }) => {
            let archive = archive.filter(|_| doubt.is_none());
            (fate, doubt, Retentions { trash, archive })
        }
        Err(why) if fate == Fate::Delete => (Fate::Archive, Some(why), Retentions::default()),
        Err(_) => (fate, doubt, Retentions::default()),
    }
}

/// Finds how long a volume's directory is kept. A value that cannot be read has it kept for longer.
///
/// # Errors
/// Returns the doubt if it is not clear for how long it is kept when it is deleted.
fn retentions(volume: &Volume, class: Option<&Class>) -> Result<Retentions, Doubt> {
    if let Some(class) = own(class, volume) {
        let of = &class.parameters;
        return match of.doubt_of_retention() {
            Some(bad) => Err(Doubt::Parameter(bad.clone())),
            None => Ok(Retentions { trash: of.keep.clone(), archive: of.archive_retention }),
        };
    }
    let recorded = &volume.retention;
    let trash = recorded.delete.as_ref().map(|value| {
        let unclear = || {
            let annotation = annotation::DELETE_RETENTION;
            Doubt::Annotation { annotation, value: value.clone(), expected: RETENTION }
        };
        let min_free = recorded.delete_min_free.as_ref().and_then(|text| text.parse().ok());
        value.parse().map(|retention| Keep::new(retention, min_free.as_ref())).map_err(|()| unclear())
    });
    let archive = recorded.archive.as_ref().and_then(|text| text.parse().ok());
    Ok(Retentions { trash: trash.transpose()?, archive })
}

/// Returns the class that the volume names, unless it is another provisioner's and so a different class of that name.
fn own<'a>(class: Option<&'a Class>, volume: &Volume) -> Option<&'a Class> {
    class.filter(|class| volume.is_of(&class.provisioner))
}

/// Decides the fate of a volume's directory: by an admin's annotation on the volume; else by what its claim wanted
/// when the volume was made; else by its class as it is now; else, if the class is gone, by what the class said
/// when the volume was made. If nothing tells, the directory is archived, which destroys nothing: a deleted class
/// never leaves its volumes stuck.
#[must_use]
pub fn fate(volume: &Volume, class: Option<&Class>) -> (Fate, Option<Doubt>) {
    let annotations =
        [(annotation::ON_DELETE, &volume.on_delete), (annotation::ON_DELETE_OF_CLAIM, &volume.on_delete_of_claim)];
    if let Some((annotation, value)) =
        annotations.into_iter().find_map(|(key, value)| Some((key, value.as_ref()?)))
    {
        let unclear =
            || (Fate::Archive, Some(Doubt::Annotation { annotation, value: value.clone(), expected: FATE }));
        let (fate, doubt) = value.parse().map_or_else(|()| unclear(), |fate| (fate, None));
        let is_order = annotation == annotation::ON_DELETE;
        let is_sure = is_order && !volume.is_unseen_gone;
        return if is_sure { (fate, doubt) } else { kinder(volume, fate, doubt) };
    }
    if let Some(class) = own(class, volume) {
        return kinder(volume, class.parameters.fate, class.parameters.doubt().cloned().map(Doubt::Parameter));
    }
    match volume.on_delete_of_class {
        Some(recorded) => kinder(volume, recorded, None),
        None => (Fate::Archive, Some(Doubt::NoClass(volume.class.clone()))),
    }
}

/// Archives what would be removed if the volume seems to have been restored from a backup, so that its claim may come
/// yet, or if nobody knows what it was like in the end.
fn kinder(volume: &Volume, fate: Fate, doubt: Option<Doubt>) -> (Fate, Option<Doubt>) {
    let is_young = volume.lived().is_some_and(|lived| lived <= RESTORED);
    // Whoever deletes a volume means it.
    let is_restored = is_young && !volume.seen_bound && !volume.deleting;
    match fate {
        Fate::Delete if volume.is_unseen_gone => (Fate::Archive, Some(Doubt::Unseen)),
        Fate::Delete if is_restored => (Fate::Archive, Some(Doubt::NeverBound)),
        Fate::Delete | Fate::Archive | Fate::Retain => (fate, doubt),
    }
}
