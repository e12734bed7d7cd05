//! Which export a new volume is made on.

use crate::model::exports::{Choice, ExportId, Exports, PerExport};
use crate::values::headroom::{Headroom, Requirements};

/// What a new volume demands of its export.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// The exports that the volume's class means.
    pub choice: &'a Choice,
    /// What the class requires of an export.
    pub requirements: &'a Requirements,
    /// How many bytes the volume asks for.
    pub request: u64,
    /// The export that is preferred, because what is to be copied is there.
    pub near: Option<ExportId>,
}

/// Why no export is chosen for a new volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotChosen {
    /// The class means an export that is not served, in words.
    NotServed(Box<str>),
    /// The exports that the class means lack what it requires, in words.
    NoHeadroom(Box<str>),
}

/// Chooses the export that a volume is made on: the one where it has been begun; else the preferred one, if the class
/// means it, it can be used and has what is required; else, of those that have what is required, the one with most free
/// space, and one that cannot be used now only if none can be.
///
/// # Errors
/// Says why there is none.
pub fn choose(
    exports: &Exports,
    demand: &Demand<'_>,
    headrooms: &PerExport<Headroom>,
) -> Result<ExportId, NotChosen> {
    let meant = exports.meant_by(demand.choice).map_err(|words| NotChosen::NotServed(words.into()))?;
    let any_is_usable = meant.iter().any(|id| headrooms.get(*id).usable);
    let is_worth_a_try = |id: &ExportId| {
        let Headroom { usable, begun, .. } = *headrooms.get(*id);
        usable || begun || !any_is_usable
    };
    let candidates: Vec<ExportId> = meant.into_iter().filter(is_worth_a_try).collect();
    let shortage = |id: ExportId| demand.requirements.shortage(headrooms.get(id), demand.request);
    let rank = |id: &ExportId| {
        let Headroom { usable, begun, usage, .. } = *headrooms.get(*id);
        (begun, usable && demand.near == Some(*id), usable, usage.map(|usage| usage.bytes_free))
    };
    // Of several of the same rank the first.
    let best = candidates.iter().rev().copied().filter(|id| shortage(*id).is_none()).max_by_key(rank);
    best.ok_or_else(|| {
        let shortages = candidates.iter().filter_map(|id| Some((*id, shortage(*id)?)));
        NotChosen::NoHeadroom(exports.in_words(shortages))
    })
}
