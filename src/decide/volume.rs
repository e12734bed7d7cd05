//! What is to be done for a volume.

use std::fmt;

use crate::decide::scope::Scope;
use crate::model::class::Class;
use crate::model::exports::{Elsewhere, Exports, Location};
use crate::model::parameters::{BadParameter, FATE, Fate};
use crate::model::volume::{Phase, ReclaimPolicy, Volume, annotation};
use crate::values::names::ClassName;
use crate::values::path::PathError;

/// What is to be done for a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumePlan {
    /// Nothing, and nobody need know.
    Ignore(VolumeIgnored),
    /// Nothing, and an admin must know why.
    Refuse(VolumeRefusal),
    /// Put our finalizer on it.
    Protect,
    /// Take our finalizer off it.
    Unprotect,
    /// Do to the directory what `fate` says, then delete the volume.
    Reclaim {
        /// Where the directory is.
        at: Location,
        /// What happens to it.
        fate: Fate,
        /// What an admin should know of how the fate was found.
        doubt: Option<Doubt>,
    },
}

/// Why a volume is left alone in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeIgnored {
    /// It is another's.
    Foreign,
    /// Its claim is still there, or it never had one.
    NotReleased,
    /// Its reclaim policy is not `Delete`.
    Kept,
    /// An admin has deleted it after its claim had gone: that is none of our business.
    Deleted,
}

/// Why a released volume of ours cannot be reclaimed. Its text is the event on the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeRefusal {
    /// It has no `spec.nfs`.
    NotNfs,
    /// It is on another server.
    OtherServer {
        /// The volume's.
        server: Box<str>,
        /// Ours.
        exports: Box<str>,
    },
    /// Its path is not that of a directory beneath the export.
    Path {
        /// The volume's `nfs.path`.
        path: Box<str>,
        /// The exports on its server.
        exports: Box<str>,
        /// What is wrong with it.
        error: PathError,
    },
}

impl VolumeRefusal {
    /// One word for it, for metrics.
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
                write!(f, "not reclaimed: the volume has no spec.nfs, so it is none that this provisioner made")?;
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

/// Something about a reclaimed volume's class that an admin should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// The class has gone, and the volume does not tell what it said.
    NoClass(ClassName),
    /// The volume has an annotation that means nothing.
    Annotation {
        /// Its key.
        annotation: &'static str,
        /// What it is.
        value: Box<str>,
    },
    /// The class has a parameter that means nothing.
    Parameter(BadParameter),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClass(name) => write!(f, "there is no StorageClass {name:?} to say what happens to the data"),
            Self::Annotation { annotation, value } => {
                write!(f, "the volume's annotation {annotation} is {value:?}, but must be {FATE}")
            }
            Self::Parameter(bad) => write!(f, "the StorageClass's {bad}"),
        }
    }
}

/// What is known of a volume when it is decided on.
#[derive(Debug, Clone, Copy)]
pub struct VolumeFacts<'a> {
    /// The volume.
    pub volume: &'a Volume,
    /// The class that the volume names, if that exists now.
    pub class: Option<&'a Class>,
}

/// Decides what is to be done for a volume.
#[must_use]
pub fn for_volume(facts: &VolumeFacts<'_>, scope: &Scope) -> VolumePlan {
    let VolumeFacts { volume, class } = *facts;
    if !volume.is_of(&scope.provisioner) {
        return VolumePlan::Ignore(VolumeIgnored::Foreign);
    }
    if volume.reclaim != ReclaimPolicy::Delete {
        let off = volume.finalizer && scope.may_patch;
        return if off { VolumePlan::Unprotect } else { VolumePlan::Ignore(VolumeIgnored::Kept) };
    }
    match volume.phase {
        Phase::Bound if needs_protection(volume, scope) => return VolumePlan::Protect,
        Phase::Bound | Phase::Other => return VolumePlan::Ignore(VolumeIgnored::NotReleased),
        Phase::Released => {}
    }
    if volume.deleting && !volume.finalizer && !volume.deleted_while_bound {
        return VolumePlan::Ignore(VolumeIgnored::Deleted);
    }
    match located(volume, &scope.exports) {
        Err(refusal) => VolumePlan::Refuse(refusal),
        Ok(at) => {
            let (fate, doubt) = fate(volume, class);
            VolumePlan::Reclaim { at, fate, doubt }
        }
    }
}

/// Whether a volume that has a claim is to get our finalizer: only one that we could reclaim, and take it off again.
fn needs_protection(volume: &Volume, scope: &Scope) -> bool {
    scope.may_patch && !volume.deleting && !volume.finalizer && located(volume, &scope.exports).is_ok()
}

/// Whether a volume gives us anything to do as it is: the others need not be remembered.
#[must_use]
pub fn is_work(volume: &Volume, scope: &Scope) -> bool {
    !matches!(for_volume(&VolumeFacts { volume, class: None }, scope), VolumePlan::Ignore(_))
}

/// Where a volume's directory is, if it is on one of these exports at all.
///
/// # Errors
/// Why it is not.
pub fn located(volume: &Volume, exports: &Exports) -> Result<Location, VolumeRefusal> {
    let source = volume.source.as_ref().ok_or(VolumeRefusal::NotNfs)?;
    exports.locate(&source.server, &source.path).map_err(|elsewhere| match elsewhere {
        Elsewhere::OtherServer => {
            VolumeRefusal::OtherServer { server: source.server.clone(), exports: exports.to_string().into() }
        }
        Elsewhere::Path(error, exports) => VolumeRefusal::Path { path: source.path.clone(), exports, error },
    })
}

/// What is to happen to a volume's directory. An admin's annotation on the volume decides; without one what its claim
/// wanted when it was made; else its class, as that is now; if that has gone, what it said when the volume was made;
/// and if nobody knows, it is archived, which destroys nothing (defects D8 and D8a).
fn fate(volume: &Volume, class: Option<&Class>) -> (Fate, Option<Doubt>) {
    let annotations =
        [(annotation::ON_DELETE, &volume.on_delete), (annotation::ON_DELETE_OF_CLAIM, &volume.on_delete_of_claim)];
    if let Some((annotation, value)) =
        annotations.into_iter().find_map(|(key, value)| Some((key, value.as_ref()?)))
    {
        let unclear = || (Fate::Archive, Some(Doubt::Annotation { annotation, value: value.clone() }));
        return value.parse().map_or_else(|()| unclear(), |fate| (fate, None));
    }
    // A class of this name that is another provisioner's is another class.
    if let Some(class) = class.filter(|class| volume.is_of(&class.provisioner)) {
        let wrong = class.parameters.wrong.iter().find(|bad| bad.concerns_fate());
        return (class.parameters.fate, wrong.cloned().map(Doubt::Parameter));
    }
    let unclear = || (Fate::Archive, Some(Doubt::NoClass(volume.class.clone())));
    volume.on_delete_of_class.map_or_else(unclear, |recorded| (recorded, None))
}
