//! Brings back for a claim what was archived, or deleted and kept.
//!
//! The note of the claim's volume says first what is about to be brought back; then the directory is renamed to the
//! claim's path, which is the proof that no other claim gets it; then the volume is made. A round that finds such a note
//! goes on where an earlier one was cut: by the name that the note tells, or with what lies at its path already. If the
//! claim goes before it has its volume, the directory is put away again; if nobody leads by then, it stays where it is, and
//! is listed among the orphans with its note.
//!
//! A name proves nothing: a directory is known by the number of its inode, which its note tells.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::cluster::api::ApiError;
use crate::cluster::election::Leadership;
use crate::controllers::batch::Batch;
use crate::controllers::claim_outcome::{ClaimOutcome, Unread, awaited};
use crate::controllers::context::Context;
use crate::controllers::records::NOTE_MAX;
use crate::controllers::restorable::{Finder, note, read_note};
use crate::controllers::there::{is_of_earlier, takes_directory};
use crate::decide::claim::Provision;
use crate::decide::record;
use crate::decide::refusal::{ClaimRefusal, Passing};
use crate::decide::restore::{Entry, KEPT_MARGIN, LATEST, RestoreProblem, Wish, may_have};
use crate::failpoint::Failpoint;
use crate::layout::{ClusterMark, Note, RootEntry, TrashName, TrashPlace, classify};
use crate::model::claim::Claim;
use crate::model::exports::{ExportId, Location};
use crate::model::volume::Volume;
use crate::storage::{FoundNote, ListOf, StorageError, explain};
use crate::values::names::{ClaimRef, ClaimUid, VolumeName};
use crate::values::path::RelPath;
use crate::values::time::{BootTime, seconds_now, timestamp};

/// How long it may take from the last look at what is brought back to the rename.
const PROOF_FOR: Duration = Duration::from_secs(10);

/// Brings back for claims what was put away.
#[derive(Debug)]
pub(super) struct Restores {
    context: Context,
    leadership: Leadership,
    finder: Finder,
    /// Lists of all volumes, for claims.
    lists: Batch<ClaimRef, Others>,
    /// Under which leadership the finder has learned what it knows.
    reign: parking_lot::Mutex<Option<Instant>>,
}

/// What is wanted, and by whom.
struct Search<'a> {
    claim: &'a Claim,
    wish: &'a Wish,
    mark: ClusterMark,
    failures: u32,
}

/// What a claim is to get back.
pub(super) enum Found {
    /// Nothing: it gets an empty directory, or what lies at its path.
    Nothing,
    /// This.
    Entry(Entry),
    /// What was brought back for it lies at its path, and it asks for something else by now.
    Unwanted(Entry),
}

/// What an earlier round has begun to bring back.
enum Begun {
    /// It lies where it was put away.
    NotYet(Entry),
    /// It lies at the claim's path.
    There(Entry),
}

/// The volumes that a list has shown, as far as they matter for a claim.
#[derive(Debug, Default)]
struct Others {
    /// The volumes of earlier claims of its name.
    earlier: Vec<Volume>,
    /// What is being brought back for somebody else.
    in_revival: Arc<HashSet<Box<str>>>,
}

impl Restores {
    /// Puts it together from its parts.
    pub(super) fn new(context: Context, leadership: Leadership) -> Self {
        let finder = Finder::new(context.exports.clone(), context.restorable.clone());
        Self { context, leadership, finder, lists: Batch::default(), reign: parking_lot::Mutex::default() }
    }

    /// Finds what a claim is to get back, on one of these exports.
    ///
    /// # Errors
    /// Returns how the round ends if it cannot have what it asks for, or not yet.
    pub(super) async fn find(
        &self,
        claim: &Claim,
        wish: &Wish,
        path: &RelPath,
        exports: &[ExportId],
        failures: u32,
    ) -> Result<Found, ClaimOutcome> {
        self.begin_reign();
        let mark = self.mark().await?;
        let search = Search { claim, wish, mark, failures };
        if !search.mark.is_known() {
            return Err(search.refused(RestoreProblem::NoMark));
        }
        for id in exports {
            let begun = self.begun(&search, *id).await.map_err(|error| self.failed(*id, &error))?;
            match begun {
                None => {}
                // It asks for something else by now.
                Some(Begun::NotYet(entry)) if !self.is_wanted(&search, &entry) => {}
                Some(Begun::There(entry)) if !self.is_wanted(&search, &entry) => {
                    return Ok(Found::Unwanted(entry));
                }
                Some(Begun::NotYet(entry) | Begun::There(entry)) => return Ok(Found::Entry(entry)),
            }
        }
        let others = self.others(claim).await;
        let others = others.map_err(|error| ClaimOutcome::FailedToRead(Unread::Predecessor, error))?;
        if !matches!(wish, Wish::Named(_)) {
            self.wait_for_latest(&search, &others)?;
        }
        for id in exports {
            let there = self.context.exports.get(*id).storage.look(path).await;
            if there.map_err(|error| self.failed(*id, &error))?.is_some() {
                return match wish {
                    // That is what it gets. Nobody takes it away, or that would have been waited for.
                    Wish::LatestIfAny => Ok(Found::Nothing),
                    Wish::Named(_) | Wish::Latest => Err(search.refused(RestoreProblem::PathTaken(path.clone()))),
                };
            }
        }
        match wish {
            Wish::Named(name) => self.named(&search, name, exports, &others).await.map(Found::Entry),
            Wish::Latest | Wish::LatestIfAny => {
                Ok(self.latest(&search, exports, &others).await?.map_or(Found::Nothing, Found::Entry))
            }
        }
    }

    /// Finds what an earlier round has begun to bring back for the claim.
    async fn begun(&self, search: &Search<'_>, id: ExportId) -> Result<Option<Begun>, StorageError> {
        let storage = &self.context.exports.get(id).storage;
        let volume = search.claim.volume_name();
        let own = read_note(storage.note_of_volume(&search.mark, volume.as_str()).await)?;
        let Some(Ok(own)) = own else { return Ok(None) };
        let (Some(name), Some(inode)) = (own.restored_from.clone(), own.inode) else { return Ok(None) };
        // Where it came from is looked at first: it goes from there to here, and never back.
        if let Some(entry) = self.read(search, id, &name).await?
            && entry.inode == inode
        {
            return Ok(Some(Begun::NotYet(entry)));
        }
        let seen = storage.look(&own.directory).await?;
        if seen.is_none_or(|seen| seen.inode != inode) {
            return Ok(None);
        }
        let trash = trash_name(&name);
        let noted = read_note(note(storage, &search.mark, &name, trash.as_ref()).await)?;
        let noted = noted.and_then(FoundNote::ok).filter(|noted| noted.inode == Some(inode));
        let at = match (&trash, &noted) {
            (Some(trash), _) => Some(timestamp(trash.at())),
            (None, noted) => noted.as_ref().and_then(|noted| noted.archived),
        };
        let lies_at = Location { export: id, path: own.directory.clone() };
        // What is lost of the note, that of the volume says as well.
        let note = noted.unwrap_or(own);
        let keep = trash.and_then(|trash| trash.keep().cloned());
        let claim = search.claim.claim.clone();
        Ok(Some(Begun::There(Entry { name, lies_at, inode, at, note, keep, claim })))
    }

    async fn named(
        &self,
        search: &Search<'_>,
        name: &str,
        exports: &[ExportId],
        others: &Others,
    ) -> Result<Entry, ClaimOutcome> {
        let mut found = Vec::new();
        for id in exports {
            let read = self.read(search, *id, name).await;
            let read = read.map_err(|error| self.failed(*id, &error))?;
            found.extend(read.filter(|entry| self.may_have(search, &entry.note)));
        }
        let names = found.iter().map(|entry| &*self.context.export(&entry.lies_at).name);
        let names = names.collect::<Vec<_>>().join(", ");
        match (found.pop(), found.is_empty()) {
            (None, _) => Err(search.refused(RestoreProblem::NotFound)),
            (Some(_), false) => Err(search.refused(RestoreProblem::Several(names.into()))),
            (Some(entry), true) if self.is_free(&entry, others) => Ok(entry),
            (Some(_), true) => Err(search.refused(RestoreProblem::InUse)),
        }
    }

    async fn latest(
        &self,
        search: &Search<'_>,
        exports: &[ExportId],
        others: &Others,
    ) -> Result<Option<Entry>, ClaimOutcome> {
        let mut found = Vec::new();
        for id in exports {
            let names = self.finder.names(*id, &search.claim.claim, &search.mark).await;
            for name in names.map_err(|error| self.failed(*id, &error))? {
                let read = self.read(search, *id, &name).await;
                found.extend(read.map_err(|error| self.failed(*id, &error))?);
            }
        }
        let latest = found
            .into_iter()
            .filter(|entry| self.may_have(search, &entry.note) && self.is_free(entry, others))
            .max_by_key(|entry| entry.at);
        match (latest, search.wish) {
            (Some(entry), _) => Ok(Some(entry)),
            (None, Wish::LatestIfAny) => Ok(None),
            (None, _) => Err(search.refused(RestoreProblem::NotFound)),
        }
    }

    /// Lets the volumes of earlier claims of the name be reclaimed first: what is about to be put away is the latest.
    fn wait_for_latest(&self, search: &Search<'_>, others: &Others) -> Result<(), ClaimOutcome> {
        // A volume may have gone already, though its directory has not.
        let own = &search.claim.claim;
        let recorded = self.context.state.volumes_where(|volume| is_of_earlier(volume, own));
        let all = others.earlier.iter().chain(recorded.iter().map(|volume| &**volume));
        match all.into_iter().find(|earlier| takes_directory(&self.context, Volume::clone(earlier))) {
            Some(Volume { name, .. }) => {
                Err(ClaimOutcome::WaitsForData { volume: name.clone(), failures: search.failures })
            }
            None => Ok(()),
        }
    }

    /// Reads an archive, or a kept entry of the trash, with its note; `None` if there is none that is certainly whole, or
    /// no note that is certainly of it.
    async fn read(&self, search: &Search<'_>, id: ExportId, name: &str) -> Result<Option<Entry>, StorageError> {
        let storage = &self.context.exports.get(id).storage;
        let trash = trash_name(name);
        if trash.as_ref().is_some_and(|trash| !is_whole(trash)) {
            return Ok(None);
        }
        for home in homes(name) {
            let Some(seen) = storage.look(&home).await? else { continue };
            let found = note(storage, &search.mark, name, trash.as_ref()).await;
            let Some(Ok(note)) = read_note(found)? else { break };
            let is_of_it =
                note.inode == Some(seen.inode) && trash.as_ref().is_none_or(|trash| is_of(trash, &note));
            let at = trash.as_ref().map_or(note.archived, |trash| Some(timestamp(trash.at())));
            let lies_at = Location { export: id, path: home };
            let keep = trash.and_then(|trash| trash.keep().cloned());
            let claim = search.claim.claim.clone();
            let entry = Entry { name: name.into(), lies_at, inode: seen.inode, at, note, keep, claim };
            return Ok(is_of_it.then_some(entry));
        }
        Ok(None)
    }

    /// Tells whether what was begun is what the claim asks for now, and still its own.
    fn is_wanted(&self, search: &Search<'_>, entry: &Entry) -> bool {
        let is_named = !matches!(search.wish, Wish::Named(name) if *name != entry.name);
        is_named && self.may_have(search, &entry.note)
    }

    fn may_have(&self, search: &Search<'_>, note: &Note) -> bool {
        may_have(search.claim, search.wish, note, &search.mark, &self.context.scope)
    }

    /// Tells whether no volume has anything to do with an entry.
    fn is_free(&self, entry: &Entry, others: &Others) -> bool {
        let is_alone = self.context.state.ledger().is_alone(&VolumeName::from(""), &entry.lies_at);
        is_alone && !others.in_revival.contains(&entry.name)
    }

    /// Lists all volumes, so that what the ledger says is true, and returns those that matter for a claim. Claims that ask
    /// while volumes are being listed share the next list.
    async fn others(&self, claim: &Claim) -> Result<Others, ApiError> {
        self.lists.ask(claim.claim.clone(), |claims| self.list(claims)).await
    }

    async fn list(&self, claims: Vec<ClaimRef>) -> Result<Vec<Others>, ApiError> {
        let mut earlier: HashMap<ClaimUid, Vec<Volume>> = HashMap::new();
        let mut in_revival = HashSet::new();
        let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
        for claim in &claims {
            by_name.entry((&*claim.namespace, &*claim.name)).or_default().push(claim);
        }
        let provisioner = &self.context.scope.provisioner;
        let learn = |volume: &Volume| {
            let namesakes = volume.own_claim().and_then(|own| by_name.get(&(&*own.namespace, &*own.name)));
            for claim in namesakes.into_iter().flatten() {
                if is_of_earlier(volume, claim) && volume.is_of(provisioner) {
                    earlier.entry(claim.uid.clone()).or_default().push(volume.clone());
                }
            }
            // A command makes the volume first.
            if volume.own_claim().is_none() {
                in_revival.extend(volume.restored_from.clone());
            }
        };
        self.context.read_volumes(learn).await?;
        let in_revival = Arc::new(in_revival);
        let others = claims.iter().map(|claim| Others {
            earlier: earlier.remove(&claim.uid).unwrap_or_default(),
            in_revival: Arc::clone(&in_revival),
        });
        Ok(others.collect())
    }

    /// Renames what the claim gets back to its path, unless that was done.
    ///
    /// # Errors
    /// Returns how the round ends if that is not done, or not certainly.
    pub(super) async fn bring_back(
        &self,
        claim: &Claim,
        provision: &Provision,
        entry: &Entry,
    ) -> Result<(), ClaimOutcome> {
        let (at, from) = (&provision.at, &entry.lies_at);
        let until = BootTime::now() + PROOF_FOR;
        let storage = &self.context.export(at).storage;
        let failed = |error: StorageError| self.failed(at.export, &error);
        let is_alone = self.context.state.ledger().is_alone(&claim.volume_name(), from);
        if !is_alone || from.export != at.export {
            return Err(refused(&entry.name, RestoreProblem::InUse, 0));
        }
        if from == at {
            let seen = storage.look(&at.path).await.map_err(failed)?;
            let is_there = seen.is_some_and(|seen| seen.inode == entry.inode);
            return if is_there { Ok(()) } else { Err(ClaimOutcome::WaitsForMove) };
        }
        let lies_in = from.path.as_str().split('/').next().map(classify);
        if lies_in == Some(RootEntry::Trash) && !trash_name(&entry.name).is_some_and(|trash| is_whole(&trash)) {
            return Err(ClaimOutcome::WaitsForMove);
        }
        let mark = self.context.records.mark();
        // Without it nobody could tell what lies at the claim's path.
        let note = record::of_new(&provision.volume, at, &mark, Timestamp::now());
        storage.record(&mark, Note { inode: Some(entry.inode), ..note }).await.map_err(failed)?;
        Failpoint::RestoreNoted.passed();
        let back = storage.clone().until(until).bring_back(&from.path, &at.path).await;
        // If it has gone meanwhile, it is looked for anew.
        if back.map_err(failed)? { Ok(()) } else { Err(ClaimOutcome::WaitsForMove) }
    }

    /// Puts what was brought back for a claim away again, as of now, because the claim has gone. Tells whether nothing of it
    /// lies at the claim's path any more.
    pub(super) async fn put_back(&self, volume: &VolumeName, at: &Location, entry: &Entry) -> bool {
        let export = self.context.export(at);
        let (path, name) = (at.path.as_str(), &*export.name);
        if !export.is_usable() {
            return false;
        }
        match self.put_away(volume, at, entry).await {
            Ok(()) => {
                if *entry.note.volume != *volume.as_str() {
                    self.context.records.remove(export, volume.as_str()).await;
                }
                true
            }
            Err(error) => {
                warn!(path, export = name, %error, "failed to put away again what was restored");
                false
            }
        }
    }

    async fn put_away(&self, volume: &VolumeName, at: &Location, entry: &Entry) -> Result<(), StorageError> {
        let export = self.context.export(at);
        let seen = export.storage.look(&at.path).await?;
        if seen.is_none_or(|seen| seen.inode != entry.inode) {
            // Another one lies there, or none.
            return Ok(());
        }
        let note = entry.note_again(&at.path, Timestamp::now());
        let storage = export.storage.clone().until(BootTime::now() + PROOF_FOR);
        if let Some(keep) = &entry.keep {
            let volume = note.volume.clone();
            storage.record(&self.context.records.mark(), note).await?;
            storage.trash(&at.path, &volume, seconds_now(), Some(keep)).await?;
            export.backlog.pushed();
        } else if let Some(archive) = storage.archive(&at.path, volume.as_str(), &note).await? {
            self.context.restorable.forget(at.export, archive.as_str());
        }
        Ok(())
    }

    /// Forgets the notes that decide nothing any more once the volume is there: that of what has been brought back, and that
    /// of the volume if it is to have none. What is left of them does no harm.
    pub(super) async fn forget(&self, provision: &Provision, entry: &Entry) {
        let export = self.context.export(&provision.at);
        let Context { state, records, .. } = &self.context;
        let class = state.class(&provision.volume.class);
        if !record::is_wanted(class.as_deref(), records.wanted) {
            records.remove(export, provision.volume.name().as_str()).await;
        }
        if entry.keep.is_none() {
            if let Some(home) = homes(&entry.name).first() {
                let _ = timeout(NOTE_MAX, export.storage.forget_archive_of(home, &entry.note)).await;
            }
        } else if !state.ledger().exists(&VolumeName::from(&*entry.note.volume)) {
            records.remove(export, &entry.note.volume).await;
        }
    }

    /// Forgets what was learned under an earlier leadership: another leader may have put anything away since.
    fn begin_reign(&self) {
        let since = self.leadership.since();
        if std::mem::replace(&mut *self.reign.lock(), since) != since {
            self.context.restorable.forget_all();
        }
    }

    async fn mark(&self) -> Result<ClusterMark, ClaimOutcome> {
        let records = &self.context.records;
        if !records.mark().is_known() {
            match self.context.cluster.mark().await {
                Ok(mark) => records.learn(mark),
                Err(error) if error.is_forbidden() => {}
                Err(error) => return Err(ClaimOutcome::FailedToRead(Unread::Mark, error)),
            }
        }
        Ok(records.mark())
    }

    fn failed(&self, id: ExportId, error: &StorageError) -> ClaimOutcome {
        ClaimOutcome::failed_to_make(error, &explain(error, &self.context.exports.get(id).address))
    }
}

impl Search<'_> {
    fn refused(&self, problem: RestoreProblem) -> ClaimOutcome {
        let name = if let Wish::Named(name) = self.wish { name } else { LATEST };
        refused(name, problem, self.failures)
    }
}

pub(super) fn refused(name: &str, problem: RestoreProblem, failures: u32) -> ClaimOutcome {
    let is_said = awaited(Passing::Export).is_worth_saying(failures);
    let refusal = ClaimRefusal::Restore { name: name.into(), problem };
    ClaimOutcome::Refused { refusal, by_neighbour: false, is_said }
}

/// Tells whether an entry of the trash is kept for long enough for nobody to remove it now.
fn is_whole(trash: &TrashName) -> bool {
    trash.kept_until() > Some(seconds_now().saturating_add_signed(KEPT_MARGIN))
}

/// Tells whether a note is of an entry of the trash, as far as its name and the note tell.
fn is_of(trash: &TrashName, note: &Note) -> bool {
    note.released.is_some() && trash.directory().is_none_or(|directory| *directory == note.directory)
}

/// Reads the name of an entry of the trash, wherever it lies.
fn trash_name(name: &str) -> Option<TrashName> {
    TrashName::at_root(name).or_else(|| name.parse().ok())
}

/// Returns the paths at which an archive, or an entry of the trash, of this name can lie. None if it is the name of
/// neither.
fn homes(name: &str) -> Vec<RelPath> {
    let paths = match (TrashName::at_root(name), name.parse::<TrashName>()) {
        (Some(trash), _) => vec![trash.path()],
        (None, Ok(trash)) => {
            ListOf::NUMBERS.map(|number| trash.clone().found_in(TrashPlace::Directory(number)).path()).collect()
        }
        (None, Err(_)) if classify(name) == RootEntry::Archive && !name.contains('/') => vec![name.to_owned()],
        (None, Err(_)) => Vec::new(),
    };
    paths.iter().filter_map(|path| RelPath::parse(path).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_archives_and_entries_of_the_trash_can_be_brought_back() {
        let paths = |name: &str| homes(name).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(paths("archived-shop-data"), ["archived-shop-data"]);
        let name = "1700000000+3600~pvc-1~shop%2Fdata";
        let found = paths(name);
        assert_eq!(found.len(), ListOf::NUMBERS.count());
        assert_eq!(found[0], format!(".nfs-provisioner-trash/{name}"));
        let at_root = format!(".nfs-provisioner-trash~{name}");
        assert_eq!(paths(&at_root), [&*at_root]);
        for name in [
            "",
            "shop-data",
            "archived-a/b",
            "archived-/../x",
            "../archived-x",
            ".nfs-provisioner-notes",
            ".nfs-provisioner-trash",
            "1+1~v",
        ] {
            assert_eq!(paths(name), [""; 0], "{name}");
        }
    }
}
