//! The decision on a claim that asks for more than it has.

use std::fmt;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::decide::scope::Scope;
use crate::decide::volume::located;
use crate::model::expansion::Expansion;
use crate::model::exports::{Location, PerExport};
use crate::model::volume::Volume;
use crate::values::headroom::{Headroom, Requirements};
use crate::values::quantity::{bytes, exceeds};

/// The plan for a bound claim that asks for more than it has.
#[derive(Debug, Clone, PartialEq)]
pub enum ExpansionPlan {
    /// Do nothing, and tell nobody.
    Ignore(ExpansionIgnored),
    /// Do nothing, and tell the claim's author why.
    Refuse(ExpansionRefusal),
    /// Give the claim this capacity.
    Grow {
        /// The claim's new capacity.
        capacity: Quantity,
        /// The number of bytes to give to the volume first, and the most that all volumes on its export may have
        /// together; `None` if the volume has enough already.
        volume_too: Option<(u64, Option<u128>)>,
    },
}

/// Reasons to leave a claim that asks for more alone in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpansionIgnored {
    /// The volume is another provisioner's, or another claim's.
    Foreign,
    /// The claim is being deleted.
    Deleting,
}

/// Reasons why a volume of ours cannot grow. The text is the event on the claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpansionRefusal {
    /// The volume is on none of our exports.
    Elsewhere {
        /// Our exports.
        exports: Box<str>,
    },
    /// We lack these permissions, in words.
    Forbidden(Box<str>),
    /// The volume's export lacks the headroom that the class requires. The text says what.
    NoRoom(Box<str>),
}

impl ExpansionRefusal {
    /// Tells whether the obstacle may pass without a change to the claim.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Elsewhere { .. } => false,
            Self::Forbidden(_) | Self::NoRoom(_) => true,
        }
    }

    /// Tells whether the obstacle is a lack of room.
    #[must_use]
    pub fn is_for_room(&self) -> bool {
        matches!(self, Self::NoRoom(_))
    }
}

impl fmt::Display for ExpansionRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elsewhere { exports } => {
                write!(f, "the volume is not a directory beneath {exports}, which is what this provisioner serves")
            }
            Self::Forbidden(rights) => write!(
                f,
                "the provisioner is not allowed to {rights}: grant it, as in rbac/, and the volume grows by itself"
            ),
            Self::NoRoom(what) => write!(
                f,
                "there is no room: {what}. The volume grows once there is room: make the export larger, or delete \
                 what is not needed"
            ),
        }
    }
}

/// The facts on which an expansion is decided.
#[derive(Debug)]
pub struct ExpansionFacts<'a> {
    /// The claim.
    pub expansion: &'a Expansion,
    /// The volume that the claim names.
    pub volume: &'a Volume,
    /// The permissions to expand volumes that we lack, in words; empty if we lack none.
    pub lacking: &'a str,
    /// The class's requirements of the export.
    pub requirements: &'a Requirements,
    /// The headroom of each export, the volume's own capacity left out.
    pub headrooms: &'a PerExport<Headroom>,
}

/// Decides what to do for a bound claim that asks for more than it has. Capacity is only a number, on the volume
/// and in the claim's status: the directory is as large as the export lets it be.
#[must_use]
pub fn for_expansion(facts: &ExpansionFacts<'_>, scope: &Scope) -> ExpansionPlan {
    let ExpansionFacts { expansion, volume, lacking, requirements, headrooms } = *facts;
    if !volume.was_made_for(&expansion.claim.uid, &scope.provisioner) {
        return ExpansionPlan::Ignore(ExpansionIgnored::Foreign);
    }
    if expansion.deleting {
        return ExpansionPlan::Ignore(ExpansionIgnored::Deleting);
    }
    let Ok(Location { export, .. }) = located(volume, &scope.exports) else {
        return ExpansionPlan::Refuse(ExpansionRefusal::Elsewhere { exports: scope.exports.to_string().into() });
    };
    if !lacking.is_empty() {
        return ExpansionPlan::Refuse(ExpansionRefusal::Forbidden(lacking.into()));
    }
    // The volume may have grown already, if a round was cut short, or have even more, if the claim has asked for
    // less since. Volumes never shrink.
    if let Some(enough) = volume.capacity.as_ref().filter(|capacity| !exceeds(&expansion.request, capacity)) {
        return ExpansionPlan::Grow { capacity: enough.clone(), volume_too: None };
    }
    let (request, headroom) = (bytes(&expansion.request), headrooms.get(export));
    if let Some(shortage) = requirements.shortage(headroom, request) {
        let words = scope.exports.in_words([(export, shortage)].into_iter());
        return ExpansionPlan::Refuse(ExpansionRefusal::NoRoom(words));
    }
    ExpansionPlan::Grow {
        capacity: expansion.request.clone(),
        volume_too: Some((request, requirements.limit(headroom))),
    }
}
