//! What is to be done for a claim that asks for more than it has.

use std::fmt;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::identity::Identity;
use super::volume::located;
use crate::growth::Growth;
use crate::quantity::exceeds;
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
        /// Whether its volume is to be given it first. If not, that has as much already.
        volume_too: bool,
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
}

impl GrowthRefusal {
    /// Whether it may pass without the claim changing.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Elsewhere { .. } => false,
            Self::Forbidden(_) => true,
        }
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
        }
    }
}

/// Decides what is to be done for a bound claim that asks for more than it has. `volume` is the one it names; `lacking`
/// are the rights to grow volumes that we do not have. Capacity is a number in two places and no more: the directory
/// is as large as the export lets it be.
#[must_use]
pub fn for_growth(growth: &Growth, volume: &Volume, lacking: &str, identity: &Identity) -> GrowthStep {
    if !volume.was_made_for(&growth.uid, &identity.provisioner) {
        return GrowthStep::Ignore(GrowthIgnored::Foreign);
    }
    if growth.deleting {
        return GrowthStep::Ignore(GrowthIgnored::Deleting);
    }
    if located(volume, &identity.exports).is_err() {
        return GrowthStep::Refuse(GrowthRefusal::Elsewhere { exports: identity.exports.to_string().into() });
    }
    if !lacking.is_empty() {
        return GrowthStep::Refuse(GrowthRefusal::Forbidden(lacking.into()));
    }
    // It has grown already if a round was cut short, or more than this if the claim has asked for less since. It never
    // shrinks.
    match volume.capacity.as_ref().filter(|capacity| !exceeds(&growth.request, capacity)) {
        Some(enough) => GrowthStep::Grow { capacity: enough.clone(), volume_too: false },
        None => GrowthStep::Grow { capacity: growth.request.clone(), volume_too: true },
    }
}
