//! The decision on the source of a copy.

use std::fmt;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::decide::scope::Scope;
use crate::decide::volume::located;
use crate::model::claim::SourceClaim;
use crate::model::exports::Location;
use crate::model::volume::Volume;
use crate::values::quantity::exceeds;

/// The facts about the source that a claim names.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The source that was decided on before, if it is being copied already.
    pub known: Option<CopySource>,
    /// The source claim, if it exists.
    pub claim: Option<SourceClaim>,
    /// The source claim's volume, if it has one.
    pub volume: Option<Volume>,
}

/// The source of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopySource {
    /// The place of the source's directory.
    pub at: Location,
    /// The group of the source's volume.
    pub gid: Option<u32>,
}

/// Reasons why a claim's source cannot be copied. The text ends a sentence that begins with the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadSource {
    /// The source does not exist.
    Missing,
    /// The source has no volume yet.
    NotBound,
    /// The source is being deleted.
    Deleting,
    /// The source's volume was not made by us.
    Foreign,
    /// The source's volume is on none of our exports.
    Elsewhere,
    /// The source is larger than what the copy asks for.
    Larger(Box<str>),
}

impl BadSource {
    /// Tells whether the obstacle may pass without a change to the copy's claim.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Missing | Self::NotBound | Self::Elsewhere => true,
            Self::Deleting | Self::Foreign | Self::Larger(_) => false,
        }
    }
}

impl fmt::Display for BadSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("does not exist in this namespace: the copy is made when it does"),
            Self::NotBound => f.write_str("is not Bound: the copy is made when it is"),
            Self::Deleting => f.write_str("is being deleted: make the claim again with another source"),
            Self::Foreign => f.write_str(
                "has a volume that this provisioner did not make: make the claim again without spec.dataSource, \
                 and copy the files in a Pod that mounts both",
            ),
            Self::Elsewhere => f.write_str("has a volume on an export that this provisioner does not serve"),
            Self::Larger(capacity) => write!(
                f,
                "has {capacity}: make the claim again with at least as much in spec.resources.requests.storage"
            ),
        }
    }
}

/// Decides what a claim with this request is to be a copy of. `origin` is about the source that the claim names.
pub(super) fn copy_source(origin: &Origin, request: &Quantity, scope: &Scope) -> Result<CopySource, BadSource> {
    if let Some(known) = &origin.known {
        return Ok(known.clone());
    }
    let claim = origin.claim.as_ref().ok_or(BadSource::Missing)?;
    if claim.deleting {
        return Err(BadSource::Deleting);
    }
    let volume = origin.volume.as_ref().filter(|_| claim.volume.is_some()).ok_or(BadSource::NotBound)?;
    if !volume.was_made_for(&claim.uid, &scope.provisioner) {
        return Err(BadSource::Foreign);
    }
    let at = located(volume, &scope.exports).map_err(|_| BadSource::Elsewhere)?;
    match &volume.capacity {
        Some(capacity) if exceeds(capacity, request) => Err(BadSource::Larger(capacity.0.as_str().into())),
        _ => Ok(CopySource { at, gid: volume.gid }),
    }
}
