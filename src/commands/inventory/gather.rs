//! Where items come from: the API server, and what lies on an export.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use anyhow::Result;
use jiff::Timestamp;

use crate::background::orphans;
use crate::commands::inventory::item::{Item, Kind};
use crate::commands::session::Session;
use crate::decide::volume::{fate, located};
use crate::export::Export;
use crate::layout::{ARCHIVE_PREFIX, ClusterMark, Note, RootEntry, TrashName, TrashPlace, classify};
use crate::ledger::Ledger;
use crate::model::class::Class;
use crate::model::exports::ExportId;
use crate::model::parameters::Fate;
use crate::model::volume::{Phase, ReclaimPolicy, Volume};
use crate::storage::{Entries, ListOf, Storage};
use crate::values::names::{ClassName, VolumeName};
use crate::values::path::RelPath;
use crate::values::time::timestamp;

/// The status of an orphan that was a volume's of this cluster, and that no other cluster has noted.
pub const GONE: &str = "its volume is gone";

/// How many orphans are shown at a time.
const PAGE: usize = 256;

/// The items of one kind, one export after the other.
#[expect(missing_debug_implementations, reason = "a listing has none that helps")]
pub struct Source {
    kind: Kind,
    export: Option<ExportId>,
    /// What is still to be listed of the export, after what is just being listed.
    to_list: VecDeque<(ListOf, Option<TrashPlace>)>,
    listing: Option<(Entries, Option<TrashPlace>)>,
    notes: Notes,
    volumes: Volumes,
    orphans: VecDeque<Item>,
}

/// The volumes of the cluster that are listed, and what is known of all for orphans.
#[derive(Default)]
struct Volumes {
    has_begun: bool,
    token: Option<String>,
    classes: HashMap<ClassName, Option<Class>>,
    ledger: Ledger,
}

/// The clusters that have notes on an export, this one first.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    /// The marks of the clusters.
    pub marks: Vec<ClusterMark>,
    /// Whether there may be more, or notes of theirs, in directories of other users.
    pub is_partial: bool,
}

impl Notes {
    /// Finds the clusters that have notes on an export.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub async fn find(storage: &Storage, own: &ClusterMark) -> Result<Self> {
        let mut marks = vec![own.clone()];
        let mut is_partial = false;
        for number in ListOf::NUMBERS {
            is_partial |= storage.is_closed(&ListOf::Clusters(number)).await?;
            let add = |name: String, is_directory: bool| {
                marks.extend(ClusterMark::parse(&name).filter(|_| is_directory));
            };
            storage.each_entry(&ListOf::Clusters(number), add).await?;
        }
        let mut seen = HashSet::new();
        marks.retain(|mark| seen.insert(mark.clone()));
        for (number, mark) in ListOf::NUMBERS.flat_map(|number| marks.iter().map(move |mark| (number, mark))) {
            // A directory above that is closed has been met already.
            is_partial |= storage.is_closed(&ListOf::Volumes(number, mark.clone())).await.unwrap_or(true);
        }
        Ok(Self { marks, is_partial })
    }

    /// Reads the note of a volume, of whichever cluster. A note that cannot be read is none.
    pub async fn of_volume(&self, storage: &Storage, volume: &str) -> Option<(&ClusterMark, Note)> {
        for mark in &self.marks {
            if let Ok(Some(Ok(note))) = storage.note_of_volume(mark, volume).await {
                return Some((mark, note));
            }
        }
        None
    }
}

impl Source {
    /// Prepares to list one kind.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn open(session: &Session, kind: Kind) -> Result<Self> {
        let mut volumes = Volumes::default();
        if kind == Kind::Orphans {
            volumes.ledger = session.ledger().await?;
        }
        let (to_list, notes, orphans) = (VecDeque::new(), Notes::default(), VecDeque::new());
        Ok(Self { kind, export: None, to_list, listing: None, notes, volumes, orphans })
    }

    /// Begins with an export.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub async fn begin(&mut self, session: &Session, id: ExportId) -> Result<()> {
        self.export = Some(id);
        self.listing = None;
        let storage = &session.exports.get(id).storage;
        let trash = || ListOf::NUMBERS.map(|number| (ListOf::Trash(number), Some(TrashPlace::Directory(number))));
        self.to_list = match self.kind {
            // The API server has no exports.
            Kind::Volumes => return Ok(()),
            Kind::Archives => VecDeque::from([(ListOf::Root, None)]),
            Kind::Trash => trash().chain([(ListOf::Root, Some(TrashPlace::Root))]).collect(),
            Kind::Orphans => VecDeque::new(),
        };
        self.notes = Notes::find(storage, &session.mark).await?;
        if self.kind == Kind::Orphans {
            self.orphans = self.find_orphans(session, id).await?.into();
        }
        Ok(())
    }

    /// Returns more items; `None` at the end.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub async fn next(&mut self, session: &Session) -> Result<Option<Vec<Item>>> {
        let Some(export) = self.export.map(|id| session.exports.get(id)) else { return Ok(None) };
        match self.kind {
            Kind::Volumes => self.volumes.next(session).await,
            Kind::Archives | Kind::Trash => self.next_entries(session, export).await,
            Kind::Orphans => {
                let page: Vec<Item> = self.orphans.drain(..self.orphans.len().min(PAGE)).collect();
                Ok((!page.is_empty()).then_some(page))
            }
        }
    }

    async fn next_entries(&mut self, session: &Session, export: &Export) -> Result<Option<Vec<Item>>> {
        loop {
            let Some((entries, place)) = self.listing.take() else {
                let Some((of, place)) = self.to_list.pop_front() else { return Ok(None) };
                self.listing = export.storage.entries(&of).await?.map(|entries| (entries, place));
                continue;
            };
            let (rest, page) = export.storage.page(entries).await?;
            if page.is_empty() {
                continue;
            }
            self.listing = Some((rest, place));
            let mut items = Vec::new();
            for (name, is_directory) in page {
                items.extend(match (self.kind, place) {
                    (Kind::Trash, Some(place)) => trashed(export, &self.notes, &name, place).await,
                    _ if is_directory => archive(session, export, &name).await,
                    _ => None,
                });
            }
            return Ok(Some(items));
        }
    }

    async fn find_orphans(&self, session: &Session, id: ExportId) -> Result<Vec<Item>> {
        let export = session.exports.get(id);
        let found = orphans::find(&export.storage, id, &self.volumes.ledger).await?;
        let (mut noted, is_complete) = self.notes_on(export, found.iter().map(String::as_str).collect()).await?;
        let mut items = Vec::new();
        for name in found {
            let lies_at = RelPath::parse(&name).ok();
            let seen = match &lies_at {
                Some(path) => export.storage.look(path).await.ok().flatten(),
                None => None,
            };
            let at = seen.and_then(|seen| Timestamp::try_from(seen.changed).ok());
            let noted = noted.remove(&name).unwrap_or_default();
            let others =
                noted.iter().map(|(mark, _)| mark).find(|mark| **mark != session.mark || !mark.is_known());
            let status = match others {
                Some(mark) => format!("noted by the cluster {mark}"),
                None if noted.is_empty() => "not noted".to_owned(),
                // Such a note is written first, and has no owners before the volume has been seen.
                None if noted.iter().any(|(_, note)| note.restored_from.is_some() && note.owners.is_none()) => {
                    "is being restored for a claim, or was to be".to_owned()
                }
                None if !is_complete => format!("{GONE}, but some notes cannot be read"),
                None => GONE.to_owned(),
            };
            let note = noted.into_iter().next().map(|(_, note)| note);
            let item = Item { name, export: export.name.to_string(), status: Some(status), ..Item::default() };
            let item = Item { kept_until: None, ..note.iter().fold(item, told) };
            items.push(Item { at, lies_at, ..item });
        }
        Ok(items)
    }

    /// Reads the notes of these directories, by whichever cluster, and tells whether there certainly are no others. Those
    /// of volumes that this cluster has are left out.
    async fn notes_on(
        &self,
        export: &Export,
        directories: HashSet<&str>,
    ) -> Result<(BTreeMap<String, Vec<(ClusterMark, Note)>>, bool)> {
        let mut is_complete = !self.notes.is_partial;
        let mut noted = BTreeMap::<String, Vec<_>>::new();
        if directories.is_empty() {
            return Ok((noted, is_complete));
        }
        for (number, mark) in
            ListOf::NUMBERS.flat_map(|number| self.notes.marks.iter().map(move |mark| (number, mark)))
        {
            let of = ListOf::Volumes(number, mark.clone());
            let Some(mut entries) = export.storage.entries(&of).await? else { continue };
            loop {
                let (rest, page) = export.storage.page(entries).await?;
                if page.is_empty() {
                    break;
                }
                let is_there = |name: &str| self.volumes.ledger.exists(&VolumeName::from(name));
                for (volume, _) in page.iter().filter(|(name, _)| !is_there(name)) {
                    match export.storage.note_of_volume(mark, volume).await {
                        Ok(Some(Ok(note))) if directories.contains(note.directory.as_str()) => {
                            // This cluster's own are read first.
                            noted.entry(note.directory.to_string()).or_default().push((mark.clone(), note));
                        }
                        Ok(Some(Ok(_)) | None) => {}
                        // It may be of any of them.
                        Ok(Some(Err(_))) | Err(_) => is_complete = false,
                    }
                }
                entries = rest;
            }
        }
        Ok((noted, is_complete))
    }
}

impl Volumes {
    async fn next(&mut self, session: &Session) -> Result<Option<Vec<Item>>> {
        if self.has_begun && self.token.is_none() {
            return Ok(None);
        }
        let (page, token) = session.cluster.volumes_from(self.token.take()).await?;
        (self.has_begun, self.token) = (true, token);
        let mut items = Vec::new();
        for volume in page.into_iter().filter(|volume| volume.is_of(&session.provisioner)) {
            if !self.classes.contains_key(&volume.class) {
                let class = session.cluster.class(&volume.class).await?;
                self.classes.insert(volume.class.clone(), class);
            }
            let class = self.classes.get(&volume.class).and_then(Option::as_ref);
            items.push(of_volume(session, &volume, class));
        }
        Ok(Some(items))
    }
}

/// Describes a volume of ours.
fn of_volume(session: &Session, volume: &Volume, class: Option<&Class>) -> Item {
    let at = located(volume, &session.served).ok();
    let export = at.as_ref().map(|at| session.export(at).name.to_string());
    let phase = match volume.phase {
        _ if at.is_none() => "on none of the exports",
        _ if volume.deleting => "Terminating",
        Phase::Bound => "Bound",
        Phase::Released => "Released",
        Phase::Other => "Available",
    };
    let end = if volume.reclaim == ReclaimPolicy::Delete { fate(volume, class).0 } else { Fate::Retain };
    Item {
        name: volume.name.to_string(),
        export: export.unwrap_or_default(),
        directory: at.as_ref().map(|at| at.path.to_string()),
        namespace: volume.claim.as_ref().map(|claim| claim.namespace.to_string()),
        claim: volume.claim.as_ref().map(|claim| claim.name.to_string()),
        volume: Some(volume.name.to_string()),
        class: Some(volume.class.to_string()).filter(|name| !name.is_empty()),
        requested: volume.capacity.as_ref().map(|capacity| capacity.0.clone()),
        status: Some(phase.to_owned()),
        fate: Some(end.to_string()),
        at: volume.created,
        lies_at: at.map(|at| at.path),
        ..Item::default()
    }
}

/// Describes an archive; `None` if an entry of the export's root is none. What is not noted, its name may tell.
async fn archive(session: &Session, export: &Export, name: &str) -> Option<Item> {
    let path = RelPath::parse(name).ok().filter(|_| classify(name) == RootEntry::Archive)?;
    let item = Item { name: name.to_owned(), export: export.name.to_string(), ..Item::default() };
    let item = match export.storage.note_of_archive(name).await {
        Ok(Some(Ok(note))) => {
            let is_other = note.cluster.as_deref().is_some_and(|mark| mark != session.mark.as_str());
            let status = is_other.then(|| "of another cluster".to_owned());
            Item { status, ..told(item, &note) }
        }
        found => {
            let status = match found {
                Ok(Some(Err(error))) => format!("its note {error}"),
                Err(error) => format!("its note cannot be read: {error}"),
                _ => "not noted".to_owned(),
            };
            let seen = export.storage.look(&path).await.ok().flatten();
            let at = seen.and_then(|seen| Timestamp::try_from(seen.changed).ok());
            let (directory, volume) = told_by_name(name);
            Item { directory, volume, at, status: Some(status), ..item }
        }
    };
    Some(Item { lies_at: Some(path), ..item })
}

/// Finds what has this name, an archive or an entry of the trash, on each export where there is one.
///
/// # Errors
/// If an export cannot be looked at.
pub async fn by_name(
    session: &Session,
    kind: Kind,
    exports: &[(ExportId, &Export)],
    name: &str,
) -> Result<Vec<(ExportId, Item)>> {
    let mut found = Vec::new();
    for (id, export) in exports.iter().copied() {
        let item = match kind {
            Kind::Trash => {
                let notes = Notes::find(&export.storage, &session.mark).await?;
                let mut found = None;
                for place in ListOf::NUMBERS.map(TrashPlace::Directory).chain([TrashPlace::Root]) {
                    found =
                        found.or(trashed(export, &notes, name, place).await.filter(|item| item.lies_at.is_some()));
                    if let Some(path) = found.as_ref().and_then(|item| item.lies_at.as_ref())
                        && export.storage.look(path).await?.is_some()
                    {
                        break;
                    }
                    found = None;
                }
                found
            }
            Kind::Archives | Kind::Volumes | Kind::Orphans => {
                let Ok(path) = RelPath::parse(name) else { break };
                if export.storage.look(&path).await?.is_none() {
                    None
                } else {
                    archive(session, export, name).await
                }
            }
        };
        found.extend(item.map(|item| (id, item)));
    }
    Ok(found)
}

/// Reads from an archive's name what that tells: the directory, and the volume if its name is a claim's uid.
fn told_by_name(name: &str) -> (Option<String>, Option<String>) {
    const UID: usize = 36;
    const VOLUME: &str = "pvc-";
    let directory = name.strip_prefix(ARCHIVE_PREFIX);
    let volume = directory.and_then(|rest| rest.get(rest.len().checked_sub(UID + VOLUME.len())?..));
    let is_uid = |uid: &str| uid.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    let volume = volume.filter(|volume| volume.strip_prefix(VOLUME).is_some_and(is_uid));
    // Without the volume's name in it, it may be the last part of a longer path.
    (directory.filter(|_| volume.is_some()).map(str::to_owned), volume.map(str::to_owned))
}

/// Describes an entry of the trash; `None` if its name is none of ours.
async fn trashed(export: &Export, notes: &Notes, entry: &str, place: TrashPlace) -> Option<Item> {
    let name = match place {
        TrashPlace::Root => TrashName::at_root(entry)?,
        TrashPlace::Directory(_) => entry.parse::<TrashName>().ok()?.found_in(place),
    };
    let item = Item {
        name: entry.to_owned(),
        export: export.name.to_string(),
        directory: name.directory().map(ToString::to_string),
        volume: Some(name.volume().to_owned()),
        ..Item::default()
    };
    let found = notes.of_volume(&export.storage, name.volume()).await;
    let item = found.iter().fold(item, |item, (_, note)| told(item, note));
    let kept_until = name.kept_until().map(timestamp).filter(|until| *until > Timestamp::now());
    Some(Item {
        status: Some(if kept_until.is_some() { "is kept" } else { "is being removed" }.to_owned()),
        kept_until,
        at: Some(timestamp(name.at())),
        lies_at: RelPath::parse(&name.path()).ok(),
        ..item
    })
}

/// Adds to an item what a note tells of it.
fn told(item: Item, note: &Note) -> Item {
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    Item {
        directory: Some(note.directory.to_string()),
        namespace: text(&note.namespace),
        claim: text(&note.claim),
        volume: Some(note.volume.to_string()),
        class: Some(note.class.to_string()).filter(|name| !name.is_empty()),
        requested: text(&note.capacity),
        cluster: text(&note.cluster),
        at: note.archived,
        kept_until: note.kept_until,
        ..item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_archive_of_the_old_program_tells_its_volume() {
        let volume = "pvc-7b0ddc22-5a1c-4a39-9a0b-3f1f6cbb8b5e";
        let directory = format!("shop-data-{volume}");
        let both = (Some(directory.clone()), Some(volume.to_owned()));
        assert_eq!(told_by_name(&format!("archived-{directory}")), both);
        for name in
            ["archived-", "archived-data", "archived-é", "archived-pvc-zb0ddc22-5a1c-4a39-9a0b-3f1f6cbb8b5e"]
        {
            assert_eq!(told_by_name(name), (None, None), "{name}");
        }
    }
}
