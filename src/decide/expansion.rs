//! What is to be done for a claim that asks for more than it has.

use std::fmt;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::decide::scope::Scope;
use crate::decide::volume::located;
use crate::model::expansion::Expansion;
use crate::model::exports::{Location, PerExport};
use crate::model::volume::Volume;
use crate::values::headroom::{Headroom, Requirements};
use crate::values::quantity::{bytes, exceeds};

/// What is to be done for a bound claim that asks for more than it has.
#[derive(Debug, Clone, PartialEq)]
pub enum ExpansionPlan {
    /// Nothing, and nobody need know.
    Ignore(ExpansionIgnored),
    /// Nothing, and its author must know why.
    Refuse(ExpansionRefusal),
    /// Give the claim this capacity.
    Grow {
        /// What the claim has then.
        capacity: Quantity,
        /// That its volume is to be given it first, in bytes, and how many all on its export may have together. If not,
        /// it has as much already.
        volume_too: Option<(u64, Option<u128>)>,
    },
}

/// Why a claim that asks for more is left alone in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpansionIgnored {
    /// Its volume is another's, or another claim's.
    Foreign,
    /// It is being deleted.
    Deleting,
}

/// Why a volume of ours cannot grow. Its text is the event on the claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpansionRefusal {
    /// It is on none of our exports.
    Elsewhere {
        /// Our exports.
        exports: Box<str>,
    },
    /// We are not allowed to, for lack of these rights.
    Forbidden(Box<str>),
    /// Its export has not the room that its class demands, in words.
    NoRoom(Box<str>),
}

impl ExpansionRefusal {
    /// Whether it may pass without the claim changing.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Elsewhere { .. } => false,
            Self::Forbidden(_) | Self::NoRoom(_) => true,
        }
    }

    /// Whether it is for lack of room.
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
                "there is no room: {what}. The volume grows when there is: make the export larger, or delete what is \
                 not needed"
            ),
        }
    }
}

/// What is known of a claim that asks for more when it is decided on.
#[derive(Debug)]
pub struct ExpansionFacts<'a> {
    /// The claim.
    pub expansion: &'a Expansion,
    /// The volume that the claim names.
    pub volume: &'a Volume,
    /// The rights to grow volumes that we do not have, in words.
    pub lacking: &'a str,
    /// What the claim's class requires of the export.
    pub requirements: &'a Requirements,
    /// How the exports stand, the volume's own capacity left out.
    pub headrooms: &'a PerExport<Headroom>,
}

/// Decides what is to be done for a bound claim that asks for more than it has. Capacity is a number in two places and no
/// more: the directory is as large as the export lets it be.
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
    // It has grown already if a round was cut short, or more than this if the claim has asked for less since. It never
    // shrinks.
    if let Some(enough) = volume.capacity.as_ref().filter(|capacity| !exceeds(&expansion.request, capacity)) {
        return ExpansionPlan::Grow { capacity: enough.clone(), volume_too: None };
    }
    let (request, room) = (bytes(&expansion.request), headrooms.get(export));
    if let Some(lack) = requirements.shortage(room, request) {
        let words = scope.exports.in_words([(export, lack)].into_iter());
        return ExpansionPlan::Refuse(ExpansionRefusal::NoRoom(words));
    }
    ExpansionPlan::Grow {
        capacity: expansion.request.clone(),
        volume_too: Some((request, requirements.limit(room))),
    }
}
