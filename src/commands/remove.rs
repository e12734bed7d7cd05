//! `nfs-provisioner archives remove` and `orphans remove`: what nobody needs any more goes into the trash, from where a
//! provisioner that works removes it in the background.
//!
//! Each is proven right before it is moved: no volume of the cluster has anything to do with its path.

use std::io::Write;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use jiff::Timestamp;

use crate::commands::inventory::{Item, Kind, Query, each};
use crate::commands::session::Session;
use crate::layout::ARCHIVE_PREFIX;
use crate::ledger::Ledger;
use crate::model::exports::{ExportId, Location};
use crate::storage::{FoundNote, Storage};
use crate::values::path::RelPath;
use crate::values::time::seconds_now;

/// How old an orphan must be: a younger one may be the directory of a volume in the making.
const YOUNG: Duration = Duration::from_hours(1);

/// What is to be removed.
#[derive(Debug, Clone)]
pub struct Order {
    /// Archives or orphans.
    pub kind: Kind,
    /// Which of them.
    pub query: Query,
    /// Whether orphans of which no note of this cluster tells that their volume is gone are removed, too.
    pub foreign: bool,
    /// Whether to do it, and not only to say what would go.
    pub yes: bool,
}

/// Removes archives or orphans, or says what would go.
///
/// # Errors
/// If nothing was said to choose by, a name is that of nothing, or one of them is not removed; the text says why. All
/// others are removed.
pub async fn remove(session: &Session, order: &Order) -> Result<()> {
    let Order { kind, query, .. } = order;
    if query.names.is_empty() && query.older_than.is_none() {
        bail!("say what is to be removed: by name, or all that is older than --older-than");
    }
    let mut found = Vec::new();
    let now = Timestamp::now();
    each(session, *kind, query.export.as_deref(), |id, item| {
        if query.asks_for(&item, now) {
            found.push((id, item));
        }
    })
    .await?;
    let mut kept = Vec::new();
    for name in &query.names {
        match found.iter().filter(|(_, item)| item.name == *name).count() {
            0 => kept.push(format!("{name}: there is none of this name")),
            1 => {}
            _ => bail!("{name} is on several exports: say which by --export"),
        }
    }
    let ledger = session.ledger().await?;
    let mut out = std::io::stdout().lock();
    for (id, item) in &found {
        match prove(session, order, *id, item, &ledger).await {
            Err(error) => kept.push(format!("{}: {error:#}", item.name)),
            Ok((path, volume)) if order.yes => {
                let storage = &session.exports.get(*id).storage;
                match put_away(session, storage, *kind, &path, &volume).await {
                    Ok(()) => writeln!(out, "removed {}", item.name)?,
                    Err(error) => kept.push(format!("{}: {error:#}", item.name)),
                }
            }
            Ok(_) => writeln!(out, "would remove {} on the export {}", item.name, item.export)?,
        }
    }
    if !order.yes && !found.is_empty() {
        writeln!(std::io::stderr(), "nothing is removed yet: run this with --yes to do it")?;
    }
    if !kept.is_empty() {
        bail!("not removed: {}", kept.join("; "));
    }
    Ok(())
}

/// Makes sure that an archive or an orphan is what it seems to be, and may go. Returns its path, and the name of the
/// volume that it was of.
async fn prove(
    session: &Session,
    order: &Order,
    id: ExportId,
    item: &Item,
    ledger: &Ledger,
) -> Result<(RelPath, String)> {
    let Some(path) = item.lies_at.clone() else { bail!("its name is no path") };
    let storage = &session.exports.get(id).storage;
    let at = Location { export: id, path: path.clone() };
    if !ledger.is_alone(&"".into(), &at) {
        bail!("a volume of the cluster has this directory, one above it or one in it");
    }
    let is_named = order.query.names.contains(&item.name);
    match order.kind {
        Kind::Archives => {
            let note = storage.note_of_archive(&item.name).await?.and_then(FoundNote::ok);
            let Some(note) = note else {
                if is_named {
                    return Ok((path, item.volume.clone().unwrap_or_else(|| item.name.clone())));
                }
                bail!("no note tells whose it is: name it to have it removed");
            };
            let is_ours = note.cluster.is_none() || note.cluster.as_deref() == Some(session.mark.as_str());
            if !is_ours && !is_named {
                bail!("it is another cluster's: name it to have it removed");
            }
            Ok((path, note.volume.to_string()))
        }
        Kind::Orphans => {
            let seen = storage.look(&path).await?;
            let Some(seen) = seen else { bail!("it has gone meanwhile") };
            let changed = seen.changed.max(seen.modified);
            if SystemTime::now().duration_since(changed).is_ok_and(|age| age > YOUNG) {
                let volume = item.volume.clone();
                let is_noted = match &volume {
                    Some(volume) => is_of_gone(session, storage, volume, &path).await?,
                    None => false,
                };
                if !is_noted && !order.foreign {
                    bail!(
                        "no note of this cluster tells that its volume is gone; it may be another cluster's, or somebody's \
                         own: --foreign removes it nevertheless"
                    );
                }
                return Ok((path, volume.unwrap_or_else(|| item.name.clone())));
            }
            bail!("it was changed less than an hour ago: it may be a volume in the making");
        }
        Kind::Volumes | Kind::Trash => bail!("only archives and orphans are removed so"),
    }
}

/// Tells whether this cluster has noted the directory as that of a volume, which is gone.
async fn is_of_gone(session: &Session, storage: &Storage, volume: &str, path: &RelPath) -> Result<bool> {
    if !session.mark.is_known() {
        return Ok(false);
    }
    let note = storage.note_of_volume(&session.mark, volume).await?.and_then(FoundNote::ok);
    let is_noted = note.is_some_and(|note| note.directory == *path && &*note.volume == volume);
    Ok(is_noted && session.cluster.volume(&volume.into()).await?.is_none())
}

/// Renames it into the trash, then removes its note.
async fn put_away(session: &Session, storage: &Storage, kind: Kind, path: &RelPath, volume: &str) -> Result<()> {
    if storage.trash(path, volume, seconds_now()).await?.is_none() {
        bail!("it has gone meanwhile");
    }
    match kind {
        Kind::Archives => storage.forget_archive(path.as_str()).await?,
        Kind::Orphans | Kind::Volumes | Kind::Trash => storage.forget(&session.mark, volume).await?,
    }
    debug_assert!(kind != Kind::Archives || path.as_str().starts_with(ARCHIVE_PREFIX), "it is one");
    Ok(())
}
