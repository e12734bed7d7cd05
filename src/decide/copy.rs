//! The decisions on copies: what a claim is to be a copy of, which volumes stay because claims are to be copies of
//! them, and when a copy that found no space is worth another try.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::decide::scope::Scope;
use crate::decide::volume::located;
use crate::ledger::Judged;
use crate::model::claim::{Claim, DataSource, SourceClaim};
use crate::model::class::{Binding, Class};
use crate::model::exports::Location;
use crate::model::volume::{Phase, Volume};
use crate::values::headroom::FsUsage;
use crate::values::names::{ClaimRef, ClaimUid, VolumeName};
use crate::values::quantity::exceeds;

/// The facts about the source that a claim names.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The source that was decided on before, if it is being copied already.
    pub known: Option<CopySource>,
    /// A volume that stays for the claim though its own claim is gone; see [`holds`].
    pub kept: Option<Volume>,
    /// The source claim, if it exists.
    pub claim: Option<SourceClaim>,
    /// The source claim's volume, if it has one.
    pub volume: Option<Volume>,
}

/// The source of a copy: a volume, and not only a place, where another volume may lie by the time of the copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopySource {
    /// The name of the source's volume.
    pub volume: VolumeName,
    /// The uid of the source's volume.
    pub uid: Box<str>,
    /// The claim that the source's volume was made for.
    pub claim: ClaimUid,
    /// The place of the source's directory.
    pub at: Location,
    /// The group of the source's volume.
    pub gid: Option<u32>,
}

impl CopySource {
    /// Tells whether a volume, as it is now, is this source: the same object, of the same claim, in the same place.
    #[must_use]
    pub fn is(&self, volume: &Volume, scope: &Scope) -> bool {
        volume.uid == self.uid
            && volume.was_made_for(&self.claim, &scope.provisioner)
            && located(volume, &scope.exports).is_ok_and(|at| at == self.at)
    }
}

/// Reasons why a claim's source cannot be copied. The text ends a sentence that begins with the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadSource {
    /// The source does not exist.
    Missing,
    /// The source has no volume yet.
    NotBound,
    /// The source was being deleted already when the claim was made.
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
            Self::Deleting => f.write_str(
                "was being deleted before this claim was made: make the claim again with another source",
            ),
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
///
/// A source that goes after the claim was made is copied all the same: its volume stays until then.
pub(super) fn copy_source(
    origin: &Origin,
    claim: &Claim,
    request: &Quantity,
    scope: &Scope,
) -> Result<CopySource, BadSource> {
    if let Some(known) = &origin.known {
        return Ok(known.clone());
    }
    let kept = origin.kept.as_ref().and_then(|volume| Some((volume, &volume.claim.as_ref()?.uid)));
    // The one whose volume stays was there first; if it will not do, a later one may.
    match kept.map(|(volume, of)| source(volume, of, request, scope)) {
        Some(Ok(source)) => return Ok(source),
        Some(Err(bad)) if origin.claim.is_none() => return Err(bad),
        Some(Err(_)) | None => {}
    }
    let found = origin.claim.as_ref().ok_or(BadSource::Missing)?;
    let was_gone = |since: Timestamp| claim.created.is_none_or(|created| created > since);
    if found.deleting.is_some_and(was_gone) {
        return Err(BadSource::Deleting);
    }
    let volume = origin.volume.as_ref().filter(|_| found.volume.is_some()).ok_or(BadSource::NotBound)?;
    source(volume, &found.uid, request, scope)
}

/// Judges the volume of a claim to copy.
fn source(volume: &Volume, of: &ClaimUid, request: &Quantity, scope: &Scope) -> Result<CopySource, BadSource> {
    if !volume.was_made_for(of, &scope.provisioner) {
        return Err(BadSource::Foreign);
    }
    let at = located(volume, &scope.exports).map_err(|_| BadSource::Elsewhere)?;
    match &volume.capacity {
        Some(capacity) if exceeds(capacity, request) => Err(BadSource::Larger(capacity.0.as_str().into())),
        _ => Ok(CopySource {
            volume: volume.name.clone(),
            uid: volume.uid.clone(),
            claim: of.clone(),
            at,
            gid: volume.gid,
        }),
    }
}

/// Tells whether a claim that waits may be a copy of a volume whose own claim is gone, so that the volume has to
/// stay. `judged` is what this process has found out about the claim's source, if anything: what it does not know, a
/// process before it may have known, so doubt keeps.
///
/// A claim that was made after the volume was released cannot have been promised it, and one that is refused for
/// good needs it no more: neither keeps it.
#[must_use]
pub fn holds(
    claim: &Claim,
    class: Option<&Class>,
    judged: Option<&Judged>,
    volume: &Volume,
    scope: &Scope,
) -> bool {
    let is_waiting = |class: &Class| {
        let is_wanted = class.binding == Binding::Immediate || claim.node_selected;
        class.is_of(&scope.provisioner) && is_wanted && !claim.deleting
    };
    volume.claim.as_ref().is_some_and(|of| names(claim, of))
        && class.is_some_and(is_waiting)
        && match judged {
            Some(Judged::CopyOf { uid, .. }) => *uid == volume.uid,
            Some(Judged::NoCopy) => false,
            None => was_there_before(claim, volume),
        }
}

/// Tells whether a claim names this one as the source of a copy.
#[must_use]
pub fn names(claim: &Claim, source: &ClaimRef) -> bool {
    let is_named = matches!(&claim.source, Some(DataSource::Claim(name)) if *name == source.name);
    is_named && claim.claim.namespace == source.namespace
}

/// Tells whether a volume had its claim still when another claim was made, as far as times tell, which are in whole
/// seconds.
fn was_there_before(claim: &Claim, volume: &Volume) -> bool {
    let released = volume.since.filter(|_| volume.phase == Phase::Released);
    claim.created.zip(released).is_none_or(|(created, released)| created <= released)
}

/// The space that there was for a copy that found too little.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Full {
    /// How many bytes were not enough.
    pub bytes: u64,
    /// How many files and directories may not have been enough.
    pub inodes: u64,
}

/// After this time a copy that found too little space is tried again, whatever the export says: a quota is not
/// among what it tells.
const FULL_MAX: Duration = Duration::from_hours(1);

impl Full {
    /// Notes what was free when a copy began, as far as known, and what had been copied when there was no more
    /// space. What the copy itself has taken is free again by the next try, so that alone tells nothing.
    #[must_use]
    pub fn new(before: Option<FsUsage>, bytes: u64, files: u64) -> Self {
        let (free, inodes_free) = before.map_or((0, 0), |usage| (usage.bytes_free, usage.inodes_free));
        Self { bytes: bytes.max(free), inodes: files.max(inodes_free) }
    }

    /// Tells whether the copy may find more space now than it did, so that another try is no waste.
    #[must_use]
    pub fn has_passed(&self, now: Option<FsUsage>, waited: Duration) -> bool {
        // Others write meanwhile: a little more is no more.
        let is_more = |now: u64, then: u64| now > then.saturating_add(then / 64);
        let is_roomier =
            |usage: FsUsage| is_more(usage.bytes_free, self.bytes) || is_more(usage.inodes_free, self.inodes);
        waited >= FULL_MAX || now.is_some_and(is_roomier)
    }
}
