//! Tracks which volume uses which directory, so that no directory in use is moved away, and no claim gets a
//! directory at, in or above one of another namespace.
//!
//! Pure bookkeeping. Each question is answered, and the consequence noted, in one step: of two volumes that leave
//! a directory at the same time exactly one is the last.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Bound, Range};
use std::sync::Arc;

use crate::ledger::generation::Generation;
use crate::model::exports::{ExportId, Location};
use crate::values::names::VolumeName;

/// The relation of another volume's directory to the one in question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The other directory is the same.
    Same,
    /// The other directory is above.
    Above,
    /// The other directory is beneath.
    Beneath,
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "the same directory",
            Self::Above => "a directory above it",
            Self::Beneath => "a directory in it",
        })
    }
}

/// Reasons why a new volume cannot have its directory, now or at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// A volume of another namespace has the directory, or one above or in it.
    OtherNamespace(Relation),
    /// The directory, or one above or in it, is being moved away.
    Moving,
}

/// Another volume whose directory is the same, above, or beneath.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The other volume's name.
    pub volume: VolumeName,
    /// The relation of the other volume's directory to ours.
    pub relation: Relation,
    /// Whether the other volume is known to exist. If not, a claim is being given its directory.
    pub exists: bool,
    /// The number under which the other volume was noted last; see [`Placements::leave_as`].
    pub noted: u32,
}

/// Spells a location as one text. The export comes first, like a directory above all others, so that nothing on
/// one export relates to anything on another.
fn text(location: &Location) -> String {
    text_of(location.export, location.path.as_str())
}

fn text_of(export: ExportId, path: &str) -> String {
    format!("{export}/{path}")
}

/// Returns the part of such a text that stands for the export.
fn export_of(text: &str) -> &str {
    text.split_once('/').map_or(text, |(export, _)| export)
}

/// A volume's place, and whose it is: the text of its location, its name, and the namespace of its claim if it
/// names one, with NULs between them. Hashed and compared by the volume's name.
///
/// The text is in one piece, shared by both indexes, because there may be a hundred thousand of them. No directory
/// and no volume's name contains NUL, which sorts before all other characters: so the volumes of one directory are
/// side by side, and those of the directories in it are together.
#[derive(Debug, Clone)]
struct Placed(Arc<str>);

impl Placed {
    fn new(path: &str, volume: &str, namespace: Option<&str>) -> Self {
        let (separator, namespace) = namespace.map_or(("", ""), |namespace| ("\0", namespace));
        Self([path, "\0", volume, separator, namespace].concat().into())
    }

    fn path(&self) -> &str {
        self.part(0).unwrap_or_default()
    }

    fn volume(&self) -> &str {
        self.part(1).unwrap_or_default()
    }

    fn namespace(&self) -> Option<&str> {
        self.part(2)
    }

    fn part(&self, number: usize) -> Option<&str> {
        self.0.splitn(3, '\0').nth(number)
    }
}

impl Borrow<str> for Placed {
    fn borrow(&self) -> &str {
        self.volume()
    }
}

impl Hash for Placed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.volume().hash(state);
    }
}

impl PartialEq for Placed {
    fn eq(&self, other: &Self) -> bool {
        self.volume() == other.volume()
    }
}

impl Eq for Placed {}

/// What a volume held before a reservation.
#[derive(Debug)]
pub struct Before(Option<(Placed, Known)>);

impl Before {
    /// Tells whether the volume held anything.
    #[must_use]
    pub fn is_something(&self) -> bool {
        self.0.is_some()
    }
}

/// The directories of all volumes.
#[derive(Debug, Default)]
pub struct Placements {
    /// The places by volume.
    places: HashMap<Placed, Known>,
    /// The same places by directory.
    by_path: BTreeSet<Arc<str>>,
    /// The volumes that are leaving, and so have no say any more.
    leaving: HashSet<VolumeName>,
    /// The directories that are being moved, with the volumes that they are moved for, which may be gone by now.
    moving: Vec<(VolumeName, Box<str>)>,
    /// The directories that are being copied.
    read: Vec<String>,
    /// The number of bytes that the volumes on each export have been promised together.
    promised: HashMap<Box<str>, u128>,
    list: Generation,
    /// How many times any volume was noted.
    notes: u32,
}

/// The facts known about a volume.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// The list that last showed the volume; `None` while a claim is being given its directory.
    listed: Option<Generation>,
    /// The number of bytes that the volume has been promised.
    bytes: u64,
    /// The number under which the volume was noted last. No two volumes have the same, unless billions were noted
    /// in between.
    noted: u32,
}

impl Placements {
    /// Notes an existing volume.
    pub fn settle(&mut self, volume: &VolumeName, location: &Location, namespace: Option<&str>) {
        self.place(volume, &text(location), namespace, Some(self.list));
    }

    /// Notes that a volume does not exist, or is on none of our exports.
    pub fn leave(&mut self, volume: &VolumeName) {
        self.leaving.remove(volume);
        self.displace(volume);
    }

    /// Notes that a volume does not exist, unless it was noted again since it had this number: it may have been
    /// created anew. Tells whether it was not.
    pub fn leave_as(&mut self, volume: &VolumeName, noted: u32) -> bool {
        let is_it = self.places.get(volume.as_str()).is_some_and(|known| known.noted == noted);
        if is_it {
            self.leave(volume);
        }
        is_it
    }

    /// Begins a list of all volumes.
    pub fn begin_list(&mut self) {
        self.list.advance();
    }

    /// Ends the list: volumes that it has not shown do not exist, and are returned. Directories that are being
    /// given to claims stay noted.
    pub fn end_list(&mut self) -> Vec<VolumeName> {
        let is_gone = |known: &Known| known.listed.is_some_and(|listed| listed != self.list);
        let gone = self.places.iter().filter(|(_, known)| is_gone(known));
        let gone: Vec<VolumeName> = gone.map(|(placed, _)| placed.volume().into()).collect();
        for volume in &gone {
            self.leave(volume);
        }
        gone
    }

    /// Tells whether a volume is known to exist.
    #[must_use]
    pub fn exists(&self, volume: &VolumeName) -> bool {
        self.places.get(volume.as_str()).is_some_and(|known| known.listed.is_some())
    }

    /// Returns the number of the latest note.
    #[must_use]
    pub fn latest(&self) -> u32 {
        self.notes
    }

    /// Tells whether a volume is known to exist, and was noted after the note of this number.
    #[must_use]
    pub fn exists_since(&self, volume: &VolumeName, note: u32) -> bool {
        self.places.get(volume.as_str()).is_some_and(|known| known.listed.is_some() && known.noted > note)
    }

    /// Gives a directory to a volume that is about to be made for a claim in `namespace`. The directory counts as
    /// used from now on.
    ///
    /// # Errors
    /// Returns the conflict if a volume of another namespace has the directory, or one above or in it, unless
    /// `across` allows that; or if something there is being moved away.
    pub fn reserve(
        &mut self,
        volume: &VolumeName,
        location: &Location,
        namespace: &str,
        across: bool,
    ) -> Result<(), Conflict> {
        let path = &text(location);
        if self.moving.iter().any(|(other, moved)| other != volume && related(moved, path)) {
            return Err(Conflict::Moving);
        }
        let foreign = |other: &Placed| other.namespace() != Some(namespace);
        let found = self.around(volume.as_str(), path).find(|(other, _)| !across && foreign(other));
        if let Some((_, relation)) = found {
            return Err(Conflict::OtherNamespace(relation));
        }
        if !self.exists(volume) {
            self.place(volume, path, Some(namespace), None);
        }
        Ok(())
    }

    /// Notes that the volume of a [`Placements::reserve`] has been made. Does nothing if the volume is known to be
    /// gone by now.
    pub fn made(&mut self, volume: &VolumeName) {
        if let Some(known) = self.places.get_mut(volume.as_str()) {
            known.listed = Some(self.list);
        }
    }

    /// Notes what a volume on one of our exports is promised, instead of what was noted before. Returns `false`,
    /// and changes nothing, if that is more than before and all volumes on the export would be promised more than
    /// `most`.
    pub fn promise(&mut self, volume: &VolumeName, bytes: u64, most: Option<u128>) -> bool {
        let Some((placed, known)) = self.places.get_key_value(volume.as_str()) else { return true };
        let (export, before) = (export_of(placed.path()), known.bytes);
        let all = self.promised.get(export).copied().unwrap_or_default();
        let all = all.saturating_sub(before.into()).saturating_add(bytes.into());
        if bytes > before && most.is_some_and(|most| all > most) {
            return false;
        }
        self.promised.insert(export.into(), all);
        if let Some(known) = self.places.get_mut(volume.as_str()) {
            known.bytes = bytes;
        }
        true
    }

    /// Returns the number of bytes that all volumes on an export except `but` have been promised together.
    #[must_use]
    pub fn promised(&self, export: ExportId, but: &VolumeName) -> u128 {
        let export = text_of(export, "");
        let all = self.promised.get(export_of(&export)).copied().unwrap_or_default();
        let own = self.places.get_key_value(but.as_str()).filter(|(placed, _)| placed.path().starts_with(&export));
        all.saturating_sub(own.map_or(0, |(_, known)| known.bytes.into()))
    }

    /// Returns what a volume holds before a [`Placements::reserve`], for [`Placements::put_back`].
    #[must_use]
    pub fn before(&self, volume: &VolumeName) -> Before {
        Before(self.places.get_key_value(volume.as_str()).map(|(placed, known)| (placed.clone(), *known)))
    }

    /// Takes back a [`Placements::reserve`] that came to nothing: the volume holds what it held before.
    pub fn put_back(&mut self, volume: &VolumeName, before: &Before) {
        let Some((placed, known)) = &before.0 else { return self.give_up(volume) };
        self.place(volume, placed.path(), placed.namespace(), known.listed);
        self.promise(volume, known.bytes, None);
    }

    /// Takes back a [`Placements::reserve`] whose volume was not made after all.
    pub fn give_up(&mut self, volume: &VolumeName) {
        if !self.exists(volume) {
            self.leave(volume);
        }
    }

    /// Begins the departure of a volume, which has no say any more in what becomes of its directory. Returns the
    /// volumes that still have a part in it. If there are none, the leaving volume may take the directory with it,
    /// and the directory counts as being moved.
    pub fn depart(&mut self, volume: &VolumeName, location: &Location) -> Vec<Neighbour> {
        let path = &text(location);
        let left: Vec<Neighbour> = self
            .around(volume.as_str(), path)
            .filter(|(other, _)| !self.leaving.contains(other.volume()))
            .map(|(other, relation)| {
                let volume = VolumeName::from(other.volume());
                let known = self.places.get(volume.as_str()).copied().unwrap_or_default();
                Neighbour { exists: known.listed.is_some(), noted: known.noted, volume, relation }
            })
            .collect();
        self.leaving.insert(volume.clone());
        if left.is_empty() {
            self.moving.push((volume.clone(), path.as_str().into()));
        }
        left
    }

    /// Tells whether no other volume has the same directory, one above or one in it.
    #[must_use]
    pub fn is_alone(&self, volume: &VolumeName, location: &Location) -> bool {
        self.around(volume.as_str(), &text(location)).next().is_none()
    }

    /// Tells whether another volume that has the same directory, one above or one in it, is not of this namespace.
    #[must_use]
    pub fn is_shared_abroad(&self, volume: &VolumeName, location: &Location, namespace: &str) -> bool {
        self.around(volume.as_str(), &text(location)).any(|(other, _)| other.namespace() != Some(namespace))
    }

    /// Tells whether a directory, or one above or in it, is being moved away.
    #[must_use]
    pub fn is_moving(&self, location: &Location) -> bool {
        let path = text(location);
        self.moving.iter().any(|(_, moved)| related(moved, &path))
    }

    /// Notes that a directory is being copied. Returns `false`, and notes nothing, if the directory is being moved
    /// away.
    pub fn begin_reading(&mut self, location: &Location) -> bool {
        let is_free = !self.is_moving(location);
        if is_free {
            self.read.push(text(location));
        }
        is_free
    }

    /// Ends a [`Placements::begin_reading`].
    pub fn end_reading(&mut self, location: &Location) {
        let path = text(location);
        if let Some(index) = self.read.iter().position(|read| *read == path) {
            self.read.swap_remove(index);
        }
    }

    /// Tells whether a directory, or one above or in it, is being copied.
    #[must_use]
    pub fn is_read(&self, location: &Location) -> bool {
        let path = text(location);
        self.read.iter().any(|read| related(read, &path))
    }

    /// Notes that the directory of a leaving volume has been dealt with.
    pub fn moved(&mut self, volume: &VolumeName) {
        self.moving.retain(|(moving, _)| moving != volume);
    }

    /// Notes that a volume does not leave after all, or not now.
    pub fn stay(&mut self, volume: &VolumeName) {
        self.moving.retain(|(moving, _)| moving != volume);
        self.leaving.remove(volume);
    }

    /// Returns the other volumes that have this very directory.
    #[must_use]
    pub fn sharers(&self, volume: &VolumeName, location: &Location) -> Vec<VolumeName> {
        let path = text(location);
        let others = self.around(volume.as_str(), &path).take_while(|(_, relation)| *relation == Relation::Same);
        others.map(|(other, _)| other.volume().into()).collect()
    }

    /// Tells whether `path` on an export is a volume's directory, or else whether a volume's directory lies in it.
    #[must_use]
    pub fn at_or_beneath(&self, export: ExportId, path: &str) -> Option<Relation> {
        let path = text_of(export, path);
        let mut around = self.around("", &path).map(|(_, relation)| relation);
        around.find(|relation| *relation != Relation::Above)
    }

    /// Returns the volume on an export that comes next after `position` in the order of directories, and the
    /// volume's own position.
    #[must_use]
    pub fn next(&self, export: ExportId, position: Option<&str>) -> Option<(VolumeName, Arc<str>)> {
        let all = text_of(export, "");
        let from = position.map_or(Bound::Included(all.as_str()), Bound::Excluded);
        let next = self.by_path.range::<str, _>((from, Bound::Unbounded)).next()?;
        next.starts_with(&all).then(|| (Placed(Arc::clone(next)).volume().into(), Arc::clone(next)))
    }

    /// Returns a random position to begin at.
    #[must_use]
    pub fn somewhere(&self, export: ExportId) -> Option<Arc<str>> {
        let all = text_of(export, "");
        let number = fastrand::usize(0..self.by_path.len().max(1));
        self.by_path.iter().filter(|text| text.starts_with(&all)).nth(number).cloned()
    }

    fn place(&mut self, volume: &VolumeName, path: &str, namespace: Option<&str>, listed: Option<Generation>) {
        if let Some((there, _)) = self.places.get_key_value(volume.as_str()) {
            if there.path() != path {
                // A volume's path never changes, but a later volume of the same name may have another path.
                self.leave(volume);
            } else if there.namespace() != namespace {
                self.displace(volume);
            } else if let Some(there) = self.places.get_mut(volume.as_str()) {
                self.notes = self.notes.wrapping_add(1);
                (there.listed, there.noted) = (listed, self.notes);
                return;
            }
        }
        let placed = Placed::new(path, volume.as_str(), namespace);
        self.by_path.insert(Arc::clone(&placed.0));
        self.notes = self.notes.wrapping_add(1);
        self.places.insert(placed, Known { listed, bytes: 0, noted: self.notes });
    }

    fn displace(&mut self, volume: &VolumeName) {
        self.promise(volume, 0, None);
        if let Some((Placed(text), _)) = self.places.remove_entry(volume.as_str()) {
            self.by_path.remove(&text);
        }
    }

    /// Finds the volumes other than `volume` whose directories are `path`, above it, or in it.
    fn around<'a>(&'a self, volume: &'a str, path: &'a str) -> impl Iterator<Item = (Placed, Relation)> + 'a {
        let at = |path: &str| self.following(path, '\0'..'\x01');
        let same = at(path).map(|other| (other, Relation::Same));
        let above = path.match_indices('/').filter_map(|(end, _)| path.get(..end));
        let above = above.flat_map(at).map(|other| (other, Relation::Above));
        // '0' is the character after '/'.
        let beneath = self.following(path, '/'..'0').map(|other| (other, Relation::Beneath));
        let others = same.chain(above).chain(beneath);
        others.filter(move |(other, _)| other.volume() != volume)
    }

    /// Finds the places whose text is `path` followed by one of these characters.
    fn following(&self, path: &str, next: Range<char>) -> impl Iterator<Item = Placed> + use<'_> {
        let (from, to) = (format!("{path}{}", next.start), format!("{path}{}", next.end));
        let bounds = (Bound::Included(from.as_str()), Bound::Excluded(to.as_str()));
        self.by_path.range::<str, _>(bounds).map(|text| Placed(Arc::clone(text)))
    }
}

/// Tells whether two directories are the same, or one lies in the other.
fn related(one: &str, other: &str) -> bool {
    let beneath = |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
    one == other || beneath(one, other) || beneath(other, one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::exports::{Exports, NamedExport};
    use crate::values::address::ExportAddress;

    fn key(name: &str) -> VolumeName {
        name.into()
    }

    fn exports() -> Exports {
        let named = |name: &str| NamedExport {
            name: name.into(),
            address: ExportAddress::new("nas".into(), format!("/{name}").into()),
        };
        Exports::new(vec![(named("one"), ()), (named("other"), ())]).unwrap().0
    }

    fn on(export: &str, path: &str) -> Location {
        exports().locate("nas", &format!("/{export}/{path}")).unwrap()
    }

    fn rel(path: &str) -> Location {
        on("one", path)
    }

    fn placed(rows: &[(&str, &str, &str)]) -> Placements {
        let mut placements = Placements::default();
        for (volume, path, namespace) in rows {
            placements.settle(&key(volume), &rel(path), Some(namespace));
        }
        placements
    }

    fn depart(placements: &mut Placements, volume: &str, path: &str) -> Vec<String> {
        let left = placements.depart(&key(volume), &rel(path));
        left.into_iter().map(|neighbour| neighbour.volume.to_string()).collect()
    }

    #[test]
    fn neighbours_are_those_at_above_and_beneath_and_no_others() {
        let rows: &[(&str, Option<Relation>)] = &[
            ("a/b", Some(Relation::Same)),
            ("a", Some(Relation::Above)),
            ("a/b/c", Some(Relation::Beneath)),
            ("a/b/c/d", Some(Relation::Beneath)),
            ("a/bc", None),
            ("a/b.c", None),
            ("a/b0", None),
            ("a/b-c/d", None),
            ("ab", None),
            ("b", None),
            ("x/a/b", None),
        ];
        for (other, expected) in rows {
            let mut placements = placed(&[("v", "a/b", "ns"), ("other", other, "ns")]);
            let left = placements.depart(&key("v"), &rel("a/b"));
            assert_eq!(left.first().map(|neighbour| neighbour.relation), *expected, "{other}");
        }
    }

    #[test]
    fn a_neighbour_that_was_noted_again_is_not_forgotten() {
        let mut placements = placed(&[("a", "x", "ns"), ("b", "x", "ns")]);
        let found = placements.depart(&key("a"), &rel("x")).remove(0);
        // It has gone, and another of its name has come.
        placements.leave(&found.volume);
        placements.settle(&key("b"), &rel("x"), Some("ns"));
        assert!(!placements.leave_as(&found.volume, found.noted) && placements.exists(&key("b")));
        let found = placements.depart(&key("a"), &rel("x")).remove(0);
        assert!(placements.leave_as(&found.volume, found.noted) && !placements.exists(&key("b")));
    }

    #[test]
    fn what_lies_on_another_export_is_no_neighbour() {
        for path in ["a", "a/b", "a/b/c"] {
            let mut placements = placed(&[("other", path, "them")]);
            let location = on("other", "a/b");
            assert_eq!(placements.reserve(&key("v"), &location, "us", false), Ok(()), "{path}");
            assert!(placements.depart(&key("v"), &location).is_empty(), "{path}");
            assert_eq!(placements.reserve(&key("new"), &rel(path), "them", false), Ok(()), "{path}");
            assert_eq!(placed(&[("other", path, "them")]).at_or_beneath(location.export, path), None);
        }
    }

    #[test]
    fn of_those_that_share_a_directory_exactly_the_last_takes_it() {
        let mut placements = placed(&[("a", "x", "ns"), ("b", "x", "ns"), ("c", "x/y", "ns")]);
        assert_eq!(depart(&mut placements, "a", "x").len(), 2);
        assert_eq!(depart(&mut placements, "c", "x/y"), ["b"]);
        assert!(depart(&mut placements, "b", "x").is_empty());
    }

    #[test]
    fn who_stays_after_all_has_a_say_again() {
        let mut placements = placed(&[("a", "x", "ns"), ("b", "x", "ns")]);
        assert_eq!(depart(&mut placements, "a", "x"), ["b"]);
        placements.stay(&key("a"));
        assert_eq!(depart(&mut placements, "b", "x"), ["a"]);
    }

    #[test]
    fn a_directory_in_another_namespaces_is_given_only_where_that_is_wanted() {
        let rows = [("x", true), ("x/y", true), ("x/y/z", true), ("x/yy", false), ("w", false)];
        for (path, conflicts) in rows {
            let mut placements = placed(&[("theirs", "x/y", "them")]);
            let refused = placements.reserve(&key("ours"), &rel(path), "us", false).is_err();
            assert_eq!(refused, conflicts, "{path}");
            assert_eq!(placements.reserve(&key("ours"), &rel(path), "us", true), Ok(()), "{path}");
            let mut placements = placed(&[("theirs", "x/y", "us")]);
            assert_eq!(placements.reserve(&key("ours"), &rel(path), "us", false), Ok(()), "{path}");
        }
    }

    #[test]
    fn what_is_given_to_a_claim_counts_at_once_and_can_be_taken_back() {
        let mut placements = placed(&[("v", "x", "ns")]);
        placements.reserve(&key("new"), &rel("x"), "ns", false).unwrap();
        let left = placements.depart(&key("v"), &rel("x"));
        assert_eq!(left.iter().map(|neighbour| neighbour.exists).collect::<Vec<_>>(), [false]);
        placements.stay(&key("v"));
        placements.give_up(&key("new"));
        assert!(depart(&mut placements, "v", "x").is_empty());
    }

    #[test]
    fn a_volume_that_was_made_exists_until_it_goes_however_late_that_is_said() {
        let mut placements = Placements::default();
        for gone_before in [false, true] {
            placements.reserve(&key("new"), &rel("x"), "ns", false).unwrap();
            if gone_before {
                placements.leave(&key("new"));
            }
            placements.made(&key("new"));
            assert_eq!(placements.exists(&key("new")), !gone_before);
            placements.leave(&key("new"));
        }
    }

    #[test]
    fn one_that_comes_again_elsewhere_or_for_another_namespace_is_there_once() {
        let mut placements = placed(&[("v", "x", "us"), ("v", "x", "them"), ("w", "y", "them")]);
        assert!(placements.reserve(&key("new"), &rel("x"), "us", false).is_err());
        assert_eq!(placements.reserve(&key("new"), &rel("x"), "them", false), Ok(()));
        placements.give_up(&key("new"));
        placements.settle(&key("v"), &rel("y"), None);
        assert!(depart(&mut placements, "u", "x").is_empty());
        let mut left = depart(&mut placements, "u", "y");
        left.sort();
        assert_eq!(left, ["v", "w"]);
        assert!(placements.reserve(&key("new"), &rel("y"), "them", false).is_err(), "v names no namespace");
    }

    #[test]
    fn what_is_promised_is_counted_by_export_until_the_volume_goes() {
        let (one, other) = (rel("x").export, on("other", "x").export);
        let mut placements = placed(&[("a", "a", "ns"), ("b", "b", "ns")]);
        placements.settle(&key("c"), &on("other", "c"), Some("ns"));
        for (volume, bytes) in [("a", 10), ("b", 20), ("c", 40), ("nobody", 80)] {
            assert!(placements.promise(&key(volume), bytes, None));
        }
        assert_eq!((placements.promised(one, &key("")), placements.promised(other, &key("a"))), (30, 40));
        assert_eq!(placements.promised(one, &key("a")), 20);
        assert!(!placements.promise(&key("a"), 21, Some(40)), "more than all may have");
        assert!(placements.promise(&key("a"), 9, Some(1)), "what has too much already may have less");
        assert!(placements.promise(&key("a"), 20, Some(40)));
        assert_eq!(placements.promised(one, &key("")), 40);
        placements.settle(&key("a"), &rel("a"), Some("ns"));
        assert_eq!(placements.promised(one, &key("")), 40, "it is shown again");
        placements.settle(&key("a"), &rel("a"), Some("another"));
        assert_eq!(placements.promised(one, &key("")), 20, "it is another");
        placements.leave(&key("b"));
        assert_eq!((placements.promised(one, &key("")), placements.promised(other, &key(""))), (0, 40));
    }

    #[test]
    fn volumes_come_one_after_the_other_whatever_comes_or_goes() {
        let mut placements = placed(&[("a", "x", "ns"), ("b", "x", "ns"), ("c", "y", "ns")]);
        placements.settle(&key("other"), &on("other", "x"), Some("ns"));
        let one = rel("x").export;
        let mut met = Vec::new();
        let mut position: Option<Arc<str>> = None;
        while let Some((volume, next)) = placements.next(one, position.as_deref()) {
            placements.leave(&volume);
            met.push(volume);
            position = Some(next);
        }
        assert_eq!(met, ["a", "b", "c"].map(key));
        assert_eq!(placements.somewhere(one), None);
        assert!((0..99).any(|_| placements.somewhere(on("other", "x").export).is_some()));
    }

    #[test]
    fn what_is_being_copied_is_known_until_the_last_copy_is_done() {
        let mut placements = placed(&[("v", "x/y", "ns")]);
        assert!(placements.begin_reading(&rel("x/y")) && placements.begin_reading(&rel("x/y")));
        assert!(["x", "x/y", "x/y/z"].iter().all(|path| placements.is_read(&rel(path))));
        assert!(!placements.is_read(&rel("x/yy")) && !placements.is_read(&on("other", "x/y")));
        placements.end_reading(&rel("x/y"));
        assert!(placements.is_read(&rel("x/y")));
        placements.end_reading(&rel("x/y"));
        assert!(!placements.is_read(&rel("x/y")));
        assert!(depart(&mut placements, "v", "x/y").is_empty());
        assert!(!placements.begin_reading(&rel("x/y/z")), "it is being moved");
    }

    #[test]
    fn nothing_is_given_that_is_being_moved() {
        let mut placements = placed(&[("v", "x", "ns")]);
        assert!(depart(&mut placements, "v", "x").is_empty());
        for path in ["x", "x/y"] {
            assert_eq!(placements.reserve(&key("new"), &rel(path), "ns", true), Err(Conflict::Moving));
        }
        placements.moved(&key("v"));
        assert_eq!(placements.reserve(&key("new"), &rel("x"), "ns", false), Ok(()));
    }

    #[test]
    fn a_list_forgets_what_it_does_not_show_but_not_what_is_being_given() {
        let mut placements = placed(&[("a", "a", "ns"), ("b", "b", "ns")]);
        placements.reserve(&key("new"), &rel("new"), "ns", false).unwrap();
        placements.begin_list();
        placements.settle(&key("a"), &rel("a"), Some("ns"));
        assert_eq!(placements.end_list(), [key("b")]);
        assert!(placements.exists(&key("a")) && !placements.exists(&key("b")));
        assert_eq!(placements.at_or_beneath(rel("new").export, "new"), Some(Relation::Same));
        assert_eq!(placements.at_or_beneath(rel("b").export, "b"), None);
        assert_eq!(placements.by_path.len(), 2);
    }
}
