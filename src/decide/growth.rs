//! What is to be done for a claim that asks for more than it has.

use std::fmt;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::identity::Identity;
use super::volume::located;
use crate::exports::{Location, PerExport};
use crate::growth::Growth;
use crate::quantity::{bytes, exceeds};
use crate::room::{Needs, Room};
use crate::volume::Volume;

/// What is to be done for a bound claim that asks for more than it has.
#[derive(Debug, Clone, PartialEq)]
pub enum GrowthStep {
    /// Nothing, and nobody need know.
    Ignore(GrowthIgnored),
    /// Nothing, and its author must know why.
    Refuse(GrowthRefusal),
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
pub enum GrowthIgnored {
    /// Its volume is another's, or another claim's.
    Foreign,
    /// It is being deleted.
    Deleting,
}

/// Why a volume of ours cannot grow. Its text is the event on the claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrowthRefusal {
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

impl GrowthRefusal {
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

impl fmt::Display for GrowthRefusal {
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

/// What there is to grow with.
#[derive(Debug)]
pub struct Means<'a> {
    /// The rights to grow volumes that we do not have.
    pub lacking: &'a str,
    /// What the claim's class demands of the export.
    pub needs: &'a Needs,
    /// How the exports stand, the volume's own capacity left out.
    pub rooms: &'a PerExport<Room>,
}

/// Decides what is to be done for a bound claim that asks for more than it has. `volume` is the one it names. Capacity is
/// a number in two places and no more: the directory is as large as the export lets it be.
#[must_use]
pub fn for_growth(
    growth: &Growth,
    volume: &Volume,
    Means { lacking, needs, rooms }: &Means<'_>,
    identity: &Identity,
) -> GrowthStep {
    if !volume.was_made_for(&growth.uid, &identity.provisioner) {
        return GrowthStep::Ignore(GrowthIgnored::Foreign);
    }
    if growth.deleting {
        return GrowthStep::Ignore(GrowthIgnored::Deleting);
    }
    let Ok(Location { export, .. }) = located(volume, &identity.exports) else {
        return GrowthStep::Refuse(GrowthRefusal::Elsewhere { exports: identity.exports.to_string().into() });
    };
    if !lacking.is_empty() {
        return GrowthStep::Refuse(GrowthRefusal::Forbidden((*lacking).into()));
    }
    // It has grown already if a round was cut short, or more than this if the claim has asked for less since. It never
    // shrinks.
    if let Some(enough) = volume.capacity.as_ref().filter(|capacity| !exceeds(&growth.request, capacity)) {
        return GrowthStep::Grow { capacity: enough.clone(), volume_too: None };
    }
    let (request, room) = (bytes(&growth.request), rooms.get(export));
    if let Some(lack) = needs.lack(room, request) {
        let words = identity.exports.in_words([(export, lack)].into_iter());
        return GrowthStep::Refuse(GrowthRefusal::NoRoom(words));
    }
    GrowthStep::Grow { capacity: growth.request.clone(), volume_too: Some((request, needs.most(room))) }
}
