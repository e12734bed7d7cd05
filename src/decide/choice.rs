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
    /// The volume's directory may exist on an export that does not say. The text says which, and why.
    NotSaid(Box<str>),
}

/// What is known to be at a new volume's path on an export, where its class allows several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum There {
    /// Nothing; or it does not matter, because no other volume can have the path.
    #[default]
    Nothing,
    /// A directory that no volume has: what an earlier volume has left behind, or somebody has put there.
    Directory,
    /// The directory of another volume.
    Volume,
    /// It cannot be known now, for this reason.
    Unknown(Box<str>),
}

/// Finds the export that is certain before any is chosen: where the volume was begun; else where another volume has
/// the path; else where a directory is at it, the first that the class names. Data must not be left on one export while
/// its claim gets an empty directory on another.
///
/// # Errors
/// Returns why, if there may be a directory on an export that does not say.
fn certain(
    exports: &Exports,
    meant: &[ExportId],
    headroom: &PerExport<Headroom>,
    there: &PerExport<There>,
) -> Result<Option<ExportId>, NotChosen> {
    let first = |is_it: &dyn Fn(ExportId) -> bool| meant.iter().copied().find(|id| is_it(*id));
    let known = first(&|id| headroom.get(id).begun).or_else(|| first(&|id| *there.get(id) == There::Volume));
    if known.is_some() {
        return Ok(known);
    }
    for id in meant {
        if let There::Unknown(why) = there.get(*id) {
            return Err(NotChosen::NotSaid(format!("{}: {why}", exports.get(*id).address).into()));
        }
    }
    Ok(first(&|id| *there.get(id) == There::Directory))
}

/// Chooses the export for a volume, among those that the class allows and that have what it requires. If the volume
/// was begun on one, or its path is there already, only that one comes into question. Else it is the preferred one, if
/// that is usable; then the usable one with most free space. An unusable export is chosen only if none is usable.
///
/// # Errors
/// Returns the reason if there is no such export.
pub fn choose(
    exports: &Exports,
    demand: &Demand<'_>,
    headroom: &PerExport<Headroom>,
    there: &PerExport<There>,
) -> Result<ExportId, NotChosen> {
    let meant = exports.meant_by(demand.choice).map_err(|words| NotChosen::NotServed(words.into()))?;
    let meant = certain(exports, &meant, headroom, there)?.map_or(meant, |id| vec![id]);
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
