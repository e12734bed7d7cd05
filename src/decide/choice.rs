//! The choice of an export for a new volume.

use crate::model::exports::{Choice, ExportId, Exports, PerExport};
use crate::values::headroom::{Headroom, Requirements};

/// The demands of a new volume on its export.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// The exports that the volume's class allows.
    pub choice: &'a Choice,
    /// The class's requirements of an export.
    pub requirements: &'a Requirements,
    /// The number of bytes that the volume asks for.
    pub request: u64,
    /// The export to prefer, because the directory to copy is there.
    pub near: Option<ExportId>,
}

/// Reasons why no export is chosen for a new volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotChosen {
    /// The class names an export that is not served. The text says which.
    NotServed(Box<str>),
    /// The exports that the class allows lack what it requires. The text says what.
    NoHeadroom(Box<str>),
}

/// Chooses the export for a volume, among those that the class allows and that have what it requires: first the
/// one where the volume was begun; then the preferred one, if it is usable; then the usable one with most free
/// space. An unusable export is chosen only if none is usable.
///
/// # Errors
/// Returns the reason if there is no such export.
pub fn choose(
    exports: &Exports,
    demand: &Demand<'_>,
    headroom: &PerExport<Headroom>,
) -> Result<ExportId, NotChosen> {
    let meant = exports.meant_by(demand.choice).map_err(|words| NotChosen::NotServed(words.into()))?;
    let any_is_usable = meant.iter().any(|id| headroom.get(*id).usable);
    let is_worth_a_try = |id: &ExportId| {
        let Headroom { usable, begun, .. } = *headroom.get(*id);
        usable || begun || !any_is_usable
    };
    let candidates: Vec<ExportId> = meant.into_iter().filter(is_worth_a_try).collect();
    let shortage = |id: ExportId| demand.requirements.shortage(headroom.get(id), demand.request);
    let rank = |id: &ExportId| {
        let Headroom { usable, begun, usage, .. } = *headroom.get(*id);
        (begun, usable && demand.near == Some(*id), usable, usage.map(|usage| usage.bytes_free))
    };
    // Of several exports of the same rank, the first.
    let best = candidates.iter().rev().copied().filter(|id| shortage(*id).is_none()).max_by_key(rank);
    best.ok_or_else(|| {
        let shortages = candidates.iter().filter_map(|id| Some((*id, shortage(*id)?)));
        NotChosen::NoHeadroom(exports.in_words(shortages))
    })
}
