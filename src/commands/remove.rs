//! `nfs-provisioner archives remove`, `trash remove` and `orphans remove`: what nobody needs any more goes into the trash, from where a
//! provisioner that works removes it in the background.
//!
//! Each is proven right before it is moved: no volume of the cluster has anything to do with its path.

use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};
use jiff::Timestamp;

use crate::background::notes::trashed;
use crate::commands::inventory::{GONE, Item, Kind, Notes, Query, Source, by_name};
use crate::commands::session::Session;
use crate::layout::{Note, TRASH, TrashName, TrashPlace, numbered};
use crate::ledger::Ledger;
use crate::model::exports::{ExportId, Location};
use crate::storage::{FoundNote, ListOf, Storage};
use crate::values::path::RelPath;
use crate::values::time::seconds_now;

/// How old an orphan must be: a younger one may be the directory of a volume in the making.
const YOUNG: Duration = Duration::from_hours(1);

/// What is to be removed.
#[derive(Debug, Clone)]
pub struct Order {
    /// Archives, entries of the trash, or orphans.
    pub kind: Kind,
    /// Which of them.
    pub query: Query,
    /// Whether orphans of which no note of this cluster tells that their volume is gone are removed, too.
    pub foreign: bool,
    /// Whether to do it, and not only to say what would go.
    pub yes: bool,
}

/// How old what is known of the cluster's volumes may be when something is moved.
const KNOWN_FOR: Duration = Duration::from_secs(2);

/// Where all volumes of the cluster lie, as of a moment ago.
struct Known {
    ledger: Ledger,
    read: Instant,
}

impl Known {
    async fn read(session: &Session) -> Result<Self> {
        let read = Instant::now();
        Ok(Self { ledger: session.ledger().await?, read })
    }

    /// Reads them anew if that is too long ago.
    async fn refresh(&mut self, session: &Session) -> Result<()> {
        if self.read.elapsed() > KNOWN_FOR {
            *self = Self::read(session).await?;
        }
        Ok(())
    }
}

/// Removes archives, kept entries of the trash or orphans, or says what would go.
///
/// # Errors
/// If nothing was said to choose by, a name is that of nothing, or one of them is not removed; the text says why. All
/// others are removed.
pub async fn remove(session: &Session, order: &Order) -> Result<()> {
    let Order { kind, query, .. } = order;
    if query.names.is_empty() && query.older_than.is_none() {
        bail!("say what is to be removed: by name, or all that is older than --older-than");
    }
    let now = Timestamp::now();
    let chosen = session.chosen(query.export.as_deref())?;
    let mut tally = Tally { known: Known::read(session).await?, met: Vec::new(), kept: Vec::new() };
    if query.names.is_empty() || *kind == Kind::Orphans {
        let mut source = Source::open(session, *kind).await?;
        for (id, _) in chosen {
            source.begin(session, id).await?;
            while let Some(page) = source.next(session).await? {
                for item in page.into_iter().filter(|item| query.asks_for(item, now)) {
                    one(session, order, id, &item, &mut tally).await?;
                }
            }
        }
    } else {
        for name in &query.names {
            match &*by_name(session, *kind, &chosen, name).await? {
                [] => {}
                [(id, item)] if query.asks_for(item, now) => one(session, order, *id, item, &mut tally).await?,
                [_] => tally.met.push(name.clone()),
                _ => bail!("{name} is on several exports: say which by --export"),
            }
        }
    }
    let Tally { met, mut kept, .. } = tally;
    let missing = query.names.iter().filter(|name| !met.contains(name));
    kept.extend(missing.map(|name| format!("{name}: there is none of this name")));
    if !order.yes && !met.is_empty() {
        writeln!(std::io::stderr(), "nothing is removed yet: run this with --yes to do it")?;
    }
    if !kept.is_empty() {
        bail!("not removed: {}", kept.join("; "));
    }
    Ok(())
}

/// What a run knows, has met, and has not removed, with the reasons.
struct Tally {
    known: Known,
    met: Vec<String>,
    kept: Vec<String>,
}

/// Removes one, or says that it would.
async fn one(session: &Session, order: &Order, id: ExportId, item: &Item, tally: &mut Tally) -> Result<()> {
    if tally.met.is_empty() || !order.query.names.is_empty() {
        tally.met.push(item.name.clone());
    }
    tally.known.refresh(session).await?;
    let storage = &session.exports.get(id).storage;
    let removed = match prove(session, order, id, item, &tally.known.ledger).await {
        Ok((path, volume)) if order.yes => {
            put_away(session, storage, order.kind, &path, &volume).await.map(|()| true)
        }
        Ok(_) => Ok(false),
        Err(error) => Err(error),
    };
    match removed {
        Ok(true) => writeln!(std::io::stdout(), "removed {}", item.name)?,
        Ok(false) => writeln!(std::io::stdout(), "would remove {} on the export {}", item.name, item.export)?,
        Err(error) => tally.kept.push(format!("{}: {error:#}", item.name)),
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
            if !is_own(session, &note) && !is_named {
                bail!("its note does not tell that it is this cluster's: name it to have it removed");
            }
            Ok((path, note.volume.to_string()))
        }
        Kind::Orphans => prove_orphan(session, order, storage, item, path).await,
        Kind::Trash if item.kept_until.is_none() => bail!("it is being removed already"),
        Kind::Trash => {
            let note = Notes::find(storage, &session.mark).await?;
            let volume = item.volume.clone().unwrap_or_default();
            let noted = note.of_volume(storage, &volume).await;
            if !noted.is_some_and(|(_, note)| is_own(session, &note)) && !is_named {
                bail!("its note does not tell that it is this cluster's: name it to have it removed");
            }
            Ok((path, volume))
        }
        Kind::Volumes => bail!("a volume is removed by deleting its claim"),
    }
}

/// Makes sure that an orphan is old enough, and that a note of this cluster alone tells that its volume is gone, or that
/// it was said to go nevertheless.
async fn prove_orphan(
    session: &Session,
    order: &Order,
    storage: &Storage,
    item: &Item,
    path: RelPath,
) -> Result<(RelPath, String)> {
    let is_named = order.query.names.contains(&item.name);
    let Some(seen) = storage.look(&path).await? else { bail!("it has gone meanwhile") };
    let changed = seen.changed.max(seen.modified);
    if !SystemTime::now().duration_since(changed).is_ok_and(|age| age > YOUNG) {
        bail!("it was changed less than an hour ago: it may be a volume in the making");
    }
    // Noted by this cluster and by no other.
    let is_noted = match &item.volume {
        Some(volume) if item.status.as_deref() == Some(GONE) => {
            is_of_gone(session, storage, volume, &path).await?
        }
        _ => false,
    };
    if !is_noted && !is_named {
        bail!("no note tells that it was a volume's of this cluster alone: name it to have it removed");
    }
    if !is_noted && !order.foreign {
        bail!(
            "no note tells that it was a volume's of this cluster alone, which is gone; it may be another cluster's, or \
             somebody's own: --foreign removes it nevertheless"
        );
    }
    Ok((path, item.volume.clone().unwrap_or_else(|| item.name.clone())))
}

/// Tells whether this provisioner has noted, for this cluster, that the directory is what a volume has left there. What
/// the volume has in the trash is that; what lies at its path by then is not.
async fn is_of_gone(session: &Session, storage: &Storage, volume: &str, path: &RelPath) -> Result<bool> {
    let note = storage.note_of_volume(&session.mark, volume).await?.and_then(FoundNote::ok);
    let is_noted = note.is_some_and(|note| {
        is_own(session, &note) && note.directory == *path && &*note.volume == volume && note.released.is_some()
    });
    let is_left = is_noted && !trashed(storage).await?.contains(volume);
    Ok(is_left && session.cluster.volume(&volume.into()).await?.is_none())
}

/// Tells whether a note is of this cluster and this provisioner, and certainly of no other.
fn is_own(session: &Session, note: &Note) -> bool {
    session.mark.is_known()
        && note.cluster.as_deref() == Some(session.mark.as_str())
        && note.provisioner.as_deref() == Some(&*session.provisioner)
}

/// Renames it into the trash, or within the trash to a name that says that it is not kept; then removes its note.
async fn put_away(session: &Session, storage: &Storage, kind: Kind, path: &RelPath, volume: &str) -> Result<()> {
    if kind == Kind::Trash {
        let is_there = match released(path) {
            Some(to) => storage.bring_back(path, &to).await?,
            None => bail!("its name is none that the provisioner gives"),
        };
        if !is_there {
            bail!("it has gone meanwhile");
        }
        return Ok(storage.forget(&session.mark, volume).await?);
    }
    if storage.trash(path, volume, seconds_now(), None).await?.is_none() {
        bail!("it has gone meanwhile");
    }
    match kind {
        Kind::Archives => storage.forget_archive(path.as_str()).await?,
        Kind::Orphans | Kind::Volumes | Kind::Trash => storage.forget(&session.mark, volume).await?,
    }
    Ok(())
}

/// Returns the path of an entry of the trash under the name of one that is not kept.
fn released(path: &RelPath) -> Option<RelPath> {
    let leaf = path.leaf();
    let (name, place) = if let Some(name) = TrashName::at_root(leaf.as_str()) {
        (name, TrashPlace::Root)
    } else {
        let top = path.parents().next()?;
        let number = ListOf::NUMBERS.into_iter().find(|number| numbered(TRASH, *number) == top.as_str())?;
        (leaf.as_str().parse::<TrashName>().ok()?, TrashPlace::Directory(number))
    };
    RelPath::parse(&name.found_in(place).released().path()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::retention::Keep;

    #[test]
    fn what_is_kept_in_the_trash_gets_the_name_of_what_is_not() {
        let directory = RelPath::parse("shop/data").unwrap();
        let keep = Keep::new("30d".parse().unwrap(), None);
        for place in [TrashPlace::Directory(1), TrashPlace::Directory(3), TrashPlace::Root] {
            let kept = TrashName::new_in(place, 7, Some(&keep), "pvc-1", &directory);
            let free = TrashName::new_in(place, 7, None, "pvc-1", &directory);
            assert_ne!(kept.path(), free.path());
            let path = RelPath::parse(&kept.path()).unwrap();
            assert_eq!(released(&path).map(|path| path.to_string()), Some(free.path()));
        }
        for path in ["archived-a", "a/b", ".nfs-provisioner-trash/x"] {
            assert_eq!(released(&RelPath::parse(path).unwrap()), None, "{path}");
        }
    }
}
