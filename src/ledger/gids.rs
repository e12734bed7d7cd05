//! Tracks which volume has which group (`pv.beta.kubernetes.io/gid`), so that a new volume gets a group that no
//! other has.
//!
//! Pure bookkeeping, like `placements.rs`, and like it about every volume of the cluster, whoever made it, and
//! every volume that is being made here.

use std::collections::HashMap;

use crate::ledger::generation::Generation;
use crate::values::names::VolumeName;
use crate::values::ownership::GidRange;

/// A volume's name, in as little memory as possible: there may be a hundred thousand, and nearly all are
/// `pvc-<uuid>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Name {
    OfClaim([u8; 16]),
    Other(Box<str>),
}

impl Name {
    fn new(name: &str) -> Self {
        let number =
            name.strip_prefix("pvc-").and_then(|uid| u128::from_str_radix(&uid.replace('-', ""), 16).ok());
        match number {
            // The same number can be written in other ways, too.
            Some(number) if written(number) == name => Self::OfClaim(number.to_be_bytes()),
            _ => Self::Other(name.into()),
        }
    }
}

/// Returns the name that stands for a number.
fn written(number: u128) -> String {
    let digits = format!("{number:032x}");
    let part = |from, to| digits.get(from..to).unwrap_or_default();
    format!("pvc-{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

#[derive(Debug, Clone, Copy)]
struct Held {
    gid: u32,
    /// The list that last showed the volume; `None` while the volume is being made.
    listed: Option<Generation>,
}

/// The groups of all volumes.
#[derive(Debug, Default)]
pub struct Gids {
    held: HashMap<Name, Held>,
    /// The number of volumes that have each group.
    used: HashMap<u32, u32>,
    /// The group given out last. The search for the next one begins after it, so that a freed group is not reused
    /// at once.
    last: u32,
    list: Generation,
}

impl Gids {
    /// Notes the group of an existing volume, if it has one.
    pub fn settle(&mut self, volume: &VolumeName, gid: Option<u32>) {
        match gid {
            Some(gid) => self.hold(volume, Held { gid, listed: Some(self.list) }),
            None => self.leave(volume),
        }
    }

    /// Notes that a volume does not exist.
    pub fn leave(&mut self, volume: &VolumeName) {
        if self.find(volume).is_some()
            && let Some(held) = self.held.remove(&Name::new(volume.as_str()))
        {
            self.release(held.gid);
        }
    }

    /// Begins a list of all volumes.
    pub fn begin_list(&mut self) {
        self.list.advance();
    }

    /// Ends the list: volumes that it has not shown do not exist, except those that are being made.
    pub fn end_list(&mut self) {
        let list = self.list;
        let gone: Vec<u32> = self
            .held
            .extract_if(|_, held| held.listed.is_some_and(|listed| listed != list))
            .map(|(_, held)| held.gid)
            .collect();
        for gid in gone {
            self.release(gid);
        }
    }

    /// Returns the group that a volume has, or is to have.
    #[must_use]
    pub fn of(&self, volume: &VolumeName) -> Option<u32> {
        self.find(volume).map(|held| held.gid)
    }

    /// Tells whether a volume is known to exist and to have a group.
    #[must_use]
    pub fn exists(&self, volume: &VolumeName) -> bool {
        self.find(volume).is_some_and(|held| held.listed.is_some())
    }

    /// Gives a group to a volume that is about to be made, always one of `range` that no other volume has: the one
    /// that the volume was given before, else `wanted`, else the next. Returns `None` if there is none.
    pub fn give(&mut self, volume: &VolumeName, range: GidRange, wanted: Option<u32>) -> Option<u32> {
        // Another leader may have given the same group to another volume since.
        let is_alone = |gid: &u32| range.contains(*gid) && self.used.get(gid) == Some(&1);
        if let Some(gid) = self.of(volume).filter(is_alone) {
            return Some(gid);
        }
        let is_free = |gid: &u32| range.contains(*gid) && !self.used.contains_key(gid);
        // Of one more group than are in use, one is free.
        let next = || range.behind(self.last).take(self.used.len() + 1).find(is_free);
        let gid = wanted.filter(is_free).or_else(next)?;
        self.last = gid;
        self.share(volume, gid);
        Some(gid)
    }

    /// Gives a volume that is about to be made a group that other volumes may have.
    pub fn share(&mut self, volume: &VolumeName, gid: u32) {
        self.hold(volume, Held { gid, listed: None });
    }

    /// Notes that a volume that was given a group has been made. Does nothing if the volume is known to be gone by
    /// now.
    pub fn made(&mut self, volume: &VolumeName) {
        if let Some(held) = self.held.get_mut(&Name::new(volume.as_str())) {
            held.listed = Some(self.list);
        }
    }

    /// Takes back the group of a volume that was not made after all.
    pub fn give_up(&mut self, volume: &VolumeName) {
        if !self.exists(volume) {
            self.leave(volume);
        }
    }

    fn find(&self, volume: &VolumeName) -> Option<&Held> {
        // Where no volume has a group, this is all that volumes cost.
        if self.held.is_empty() { None } else { self.held.get(&Name::new(volume.as_str())) }
    }

    fn hold(&mut self, volume: &VolumeName, held: Held) {
        *self.used.entry(held.gid).or_insert(0) += 1;
        if let Some(before) = self.held.insert(Name::new(volume.as_str()), held) {
            self.release(before.gid);
        }
    }

    fn release(&mut self, gid: u32) {
        if let Some(count) = self.used.get_mut(&gid) {
            *count -= 1;
            if *count == 0 {
                self.used.remove(&gid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> VolumeName {
        name.into()
    }

    fn range(text: &str) -> GidRange {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_told_apart_however_they_are_written() {
        let uid = "0dbb0d7c-1c25-4b1f-8f5c-3f3c3e8b0b0a";
        let name = format!("pvc-{uid}");
        assert!(matches!(Name::new(&name), Name::OfClaim(_)));
        let others = [
            uid.to_owned(),
            name.to_uppercase(),
            name.replace("-8f5c", "8f5c-"),
            format!("{name}-"),
            name.replace("0dbb", "+dbb"),
            name.replacen('0', "", 1),
            "pvc-".to_owned(),
            String::new(),
        ];
        for other in others {
            assert_eq!(Name::new(&other), Name::Other(other.as_str().into()));
        }
        assert_ne!(Name::new(&name), Name::new(&name.replace("0b0a", "0b0b")));
    }

    #[test]
    fn no_two_volumes_are_given_the_same_group_and_a_free_one_comes_last() {
        let mut gids = Gids::default();
        gids.settle(&key("by-hand"), Some(11));
        assert_eq!(gids.give(&key("a"), range("10-13"), None), Some(10));
        assert_eq!(gids.give(&key("b"), range("10-13"), None), Some(12));
        assert_eq!(gids.give(&key("a"), range("10-13"), None), Some(10), "it has one");
        gids.leave(&key("a"));
        assert_eq!(gids.give(&key("c"), range("10-13"), None), Some(13));
        assert_eq!(gids.give(&key("d"), range("10-13"), None), Some(10));
        assert_eq!(gids.give(&key("e"), range("10-13"), None), None);
        gids.settle(&key("by-hand"), None);
        assert_eq!(gids.give(&key("e"), range("10-13"), None), Some(11));
        assert_eq!(gids.give(&key("f"), range("20-20"), None), Some(20));
        assert_eq!(gids.give(&key("g"), range("20-20"), None), None);
    }

    #[test]
    fn the_group_that_is_wanted_is_given_if_it_is_free_and_in_the_range() {
        let mut gids = Gids::default();
        let rows = [("a", Some(13), Some(13)), ("b", Some(13), Some(14)), ("c", Some(9), Some(10))];
        for (volume, wanted, expected) in rows {
            assert_eq!(gids.give(&key(volume), range("10-14"), wanted), expected, "{volume}");
        }
        // A group of another range is exchanged for one of this range.
        assert_eq!(gids.give(&key("a"), range("20-29"), None), Some(20));
        assert_eq!(gids.give(&key("d"), range("10-14"), Some(13)), Some(13));
    }

    #[test]
    fn what_was_given_counts_no_more_once_a_volume_has_come_to_be_with_it() {
        let mut gids = Gids::default();
        assert_eq!(gids.give(&key("a"), range("10-14"), None), Some(10));
        gids.settle(&key("of-another-leader"), Some(10));
        assert_eq!(gids.give(&key("a"), range("10-14"), None), Some(11));
        assert_eq!(gids.of(&key("of-another-leader")), Some(10));
    }

    #[test]
    fn a_group_is_free_when_the_last_that_shares_it_has_gone() {
        let mut gids = Gids::default();
        gids.give(&key("a"), range("10-10"), None);
        gids.share(&key("b"), 10);
        gids.made(&key("a"));
        gids.made(&key("b"));
        gids.leave(&key("a"));
        assert_eq!(gids.give(&key("c"), range("10-10"), None), None);
        gids.leave(&key("b"));
        assert_eq!(gids.give(&key("c"), range("10-10"), None), Some(10));
        gids.give_up(&key("c"));
        assert!(gids.used.is_empty() && gids.held.is_empty());
    }

    #[test]
    fn a_list_frees_what_it_does_not_show_but_not_what_is_being_made() {
        let mut gids = Gids::default();
        gids.settle(&key("stays"), Some(10));
        gids.settle(&key("goes"), Some(11));
        gids.give(&key("given"), range("12-12"), None);
        gids.give(&key("made"), range("13-13"), None);
        gids.made(&key("made"));
        gids.begin_list();
        gids.settle(&key("stays"), Some(10));
        gids.end_list();
        let found = ["stays", "goes", "given", "made"].map(|volume| gids.of(&key(volume)));
        assert_eq!(found, [Some(10), None, Some(12), None]);
        assert!(gids.exists(&key("stays")) && !gids.exists(&key("given")));
        gids.give_up(&key("stays"));
        assert_eq!(gids.of(&key("stays")), Some(10), "it exists");
        assert_eq!(gids.used.len(), 2);
    }

    #[test]
    fn a_volume_that_has_gone_before_it_is_said_to_be_made_has_none() {
        let mut gids = Gids::default();
        gids.give(&key("a"), range("10-10"), None);
        gids.leave(&key("a"));
        gids.made(&key("a"));
        assert_eq!((gids.of(&key("a")), gids.exists(&key("a"))), (None, false));
    }

    /// One record, together with the spare room in a table of a hundred thousand, must stay below 64 bytes.
    #[test]
    fn a_volumes_record_is_small() {
        assert_eq!(size_of::<(Name, Held)>(), 32);
        assert_eq!(size_of::<(u32, u32)>(), 8);
    }
}
