//! What may become of directories, judged by what was true at the time. Pure: from what has happened to what was wrong.

use std::collections::BTreeMap;

/// Microseconds since 1970.
pub(crate) type Time = i64;

/// What becomes of a directory whose claim has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Retain,
    Archive,
    Delete,
}

/// When a change was made: not before the first, not after the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct When(pub(crate) Time, pub(crate) Time);

/// For ever.
pub(crate) const NEVER: When = When(Time::MAX, Time::MAX);

/// A volume from one change to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) begin: When,
    pub(crate) end: When,
    pub(crate) path: String,
    /// Whether it is Released, with the policy Delete, and the provisioner's.
    pub(crate) may_go: bool,
    /// Whether it says that its directory has been dealt with.
    pub(crate) disposed: bool,
    /// The uid of its claim.
    pub(crate) claim: Option<String>,
    pub(crate) fate: Fate,
}

/// All that was known of the cluster's objects.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// By name; no name is used twice.
    pub(crate) volumes: BTreeMap<String, Vec<State>>,
    /// When claims have gone, by uid. Those that are still there are not here.
    pub(crate) claims_gone: BTreeMap<String, When>,
}

/// Where a directory went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum To {
    Trash,
    Archive(String),
    Elsewhere(String),
}

/// A directory that was there, and then was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) path: String,
    pub(crate) to: To,
    pub(crate) at: Time,
}

/// A file with a text that no other has, written for a claim when it was Bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marker {
    /// The uid of the claim.
    pub(crate) claim: String,
    pub(crate) path: String,
    pub(crate) at: Time,
    /// Where it is in the end: beneath the export.
    pub(crate) found: Option<String>,
    /// Whether the claim is Bound in the end.
    pub(crate) is_bound: bool,
}

/// Whether two directories are the same, or one is in the other.
fn meet(one: &str, other: &str) -> bool {
    let is_in = |inner: &str, outer: &str| inner == outer || inner.starts_with(&format!("{outer}/"));
    is_in(one, other) || is_in(other, one)
}

impl State {
    fn may_hold_at(&self, time: Time) -> bool {
        self.begin.0 <= time && time <= self.end.1
    }

    fn holds_at(&self, time: Time) -> bool {
        self.begin.1 <= time && time <= self.end.0
    }
}

impl History {
    /// Whether the volume could lose its directory to there at some time.
    fn lets_go(&self, name: &str, path: &str, to: &To, time: Time) -> Result<(), String> {
        let states = self.volumes[name].iter().filter(|state| state.path == path && state.may_hold_at(time));
        let mut why = format!("{name} does not exist");
        for state in states {
            let claim_gone =
                state.claim.as_ref().and_then(|uid| self.claims_gone.get(uid)).is_some_and(|gone| gone.0 <= time);
            let fate_fits = match to {
                To::Trash => state.fate == Fate::Delete,
                To::Archive(_) => state.fate != Fate::Retain,
                To::Elsewhere(_) => false,
            };
            why = match (state.may_go && !state.disposed, claim_gone, fate_fits) {
                (true, true, true) => return self.is_alone(name, path, time),
                (false, ..) => format!("{name} is not to be reclaimed, or has been"),
                (_, false, _) => format!("{name} has a claim, or none that was"),
                _ => format!("{name} is to have the fate {:?}", state.fate),
            };
        }
        Err(why)
    }

    /// Whether no other volume had a part in the directory. One that is to go, too, may have left it already: the last
    /// of them decides.
    fn is_alone(&self, name: &str, path: &str, time: Time) -> Result<(), String> {
        let stays = |state: &State| state.holds_at(time) && !state.may_go && meet(&state.path, path);
        let other = self.volumes.iter().find(|(other, states)| *other != name && states.iter().any(stays));
        other.map_or(Ok(()), |(other, _)| Err(format!("{other} has a part in it")))
    }

    /// The times of changes of volumes and claims.
    fn changes(&self) -> impl Iterator<Item = Time> {
        let of_volumes = self.volumes.values().flatten().flat_map(|state| [state.begin, state.end]);
        of_volumes.chain(self.claims_gone.values().copied()).flat_map(|when| [when.0, when.1])
    }
}

/// The moves for which nothing was true, at any time from `tolerance` before, that allowed them.
pub(crate) fn wrong_moves(history: &History, moves: &[Move], tolerance: Time) -> Vec<String> {
    let mut wrong = Vec::new();
    for a_move in moves {
        let Move { path, to, at } = a_move;
        let mut times: Vec<Time> =
            history.changes().filter(|time| (at - tolerance..=*at).contains(time)).collect();
        times.extend([*at, at - tolerance]);
        // Between two changes nothing changes, but right at one both the old and the new may hold.
        times.extend(times.clone().iter().flat_map(|time| [time - 1, time + 1]));
        times.retain(|time| (at - tolerance..=*at).contains(time));
        let of_path = history.volumes.iter().filter(|(_, states)| states.iter().any(|state| state.path == *path));
        let names: Vec<&String> = of_path.map(|(name, _)| name).collect();
        let allowed = |name: &&String| times.iter().any(|time| history.lets_go(name, path, to, *time).is_ok());
        if !names.iter().any(allowed) {
            let why: Vec<String> =
                names.iter().filter_map(|name| history.lets_go(name, path, to, *at).err()).collect();
            wrong.push(format!("{path} went to {to:?} at {at}: {}", why.join("; ")));
        }
    }
    wrong
}

/// The markers that are not where they must be in the end.
pub(crate) fn lost_markers(history: &History, moves: &[Move], markers: &[Marker]) -> Vec<String> {
    let mut wrong = Vec::new();
    for marker in markers {
        let Marker { claim, path, at, found, is_bound } = marker;
        // What was done to its directory, or to one above; later moves from there were of other directories.
        let is_above = |upper: &str| upper == path || path.starts_with(&format!("{upper}/"));
        let first = moves.iter().find(|a_move| a_move.at >= *at && is_above(&a_move.path));
        let problem = match (first.map(|first| &first.to), found) {
            _ if *is_bound && found.as_deref() != Some(path) => Some("its claim is Bound"),
            (None, None) => Some("it was not moved"),
            (Some(To::Archive(_)), None) => Some("it was archived"),
            (Some(To::Archive(archive)), Some(found)) if !found.starts_with(archive) => Some("it was archived"),
            (Some(To::Trash), Some(_)) => Some("it was removed"),
            (None, Some(found)) if found != path => Some("it was not moved"),
            (None, Some(_)) if !is_bound => history.must_be_gone(path).then_some("it was to be removed"),
            _ => None,
        };
        if let Some(problem) = problem {
            wrong.push(format!("the marker of {claim} in {path} is at {found:?}, but {problem}"));
        }
    }
    wrong
}

impl History {
    /// Whether nothing has kept a directory: all its volumes have gone, the last of them was to take it, and there was no
    /// other with a part in it while that one was Released.
    fn must_be_gone(&self, path: &str) -> bool {
        let of_path = self.volumes.iter().filter(|(_, states)| states.iter().any(|state| state.path == path));
        let Some((name, states)) = of_path.max_by_key(|(_, states)| states.last().map(|state| state.end)) else {
            return false;
        };
        let Some(last) = states.last() else { return false };
        let released: Vec<&State> = states.iter().filter(|state| state.may_go).collect();
        let Some(first) = released.first() else { return false };
        let was_kept = released.iter().any(|state| state.fate == Fate::Retain);
        let others = self.volumes.iter().any(|(other, states)| {
            let (Some(begun), Some(ended)) = (states.first(), states.last()) else { return false };
            let overlap = begun.begin.0 <= last.end.1 && first.begin.0 <= ended.end.1;
            other != name && overlap && states.iter().any(|state| meet(&state.path, path))
        });
        last.end != NEVER && last.may_go && !was_kept && !others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(begin: Time, end: Time, may_go: bool, fate: Fate) -> State {
        let ends = if end == Time::MAX { NEVER } else { When(end, end + 1) };
        State {
            begin: When(begin, begin + 1),
            end: ends,
            path: "a/x".to_owned(),
            may_go,
            disposed: false,
            claim: Some("uid".to_owned()),
            fate,
        }
    }

    /// A volume that is Released at 100 and gone at 200; its claim goes at 90.
    fn history(fate: Fate) -> History {
        let states = vec![state(0, 100, false, fate), state(100, 200, true, fate)];
        History {
            volumes: BTreeMap::from([("v".to_owned(), states)]),
            claims_gone: BTreeMap::from([("uid".to_owned(), When(90, 91))]),
        }
    }

    fn moved(to: To, at: Time) -> Move {
        Move { path: "a/x".to_owned(), to, at }
    }

    fn archive() -> To {
        To::Archive("archived-x".to_owned())
    }

    fn wrong(history: &History, to: To, at: Time) -> bool {
        !wrong_moves(history, &[moved(to, at)], 10).is_empty()
    }

    #[test]
    fn a_directory_may_go_as_its_fate_says_once_its_volume_is_released() {
        use Fate::{Archive, Delete, Retain};
        let rows = [
            (Delete, To::Trash, 150, false),
            (Delete, archive(), 150, false),
            (Archive, archive(), 150, false),
            (Archive, To::Trash, 150, true),
            (Retain, To::Trash, 150, true),
            (Retain, archive(), 150, true),
            (Delete, To::Elsewhere("b".to_owned()), 150, true),
            (Delete, To::Trash, 99, true),
            (Delete, To::Trash, 205, false),
            (Delete, To::Trash, 215, true),
        ];
        for (fate, to, at, expected) in rows {
            assert_eq!(wrong(&history(fate), to.clone(), at), expected, "{fate:?} {to:?} {at}");
        }
        let mut other = history(Delete);
        other.volumes.get_mut("v").unwrap().iter_mut().for_each(|state| state.path = "a/y".to_owned());
        assert!(wrong(&other, To::Trash, 150), "nobody's");
    }

    #[test]
    fn what_an_admin_has_changed_counts_after_a_while() {
        for kept in [state(120, 200, false, Fate::Delete), state(120, 200, true, Fate::Retain)] {
            let mut history = history(Fate::Delete);
            let states = history.volumes.get_mut("v").unwrap();
            states[1].end = When(120, 121);
            states.push(kept);
            assert!(!wrong(&history, To::Trash, 125));
            assert!(wrong(&history, To::Trash, 140));
        }
    }

    #[test]
    fn a_volume_that_is_claimed_anew_or_by_nobody_keeps_its_directory() {
        for claim in [None, Some("another".to_owned())] {
            let mut history = history(Fate::Delete);
            history.volumes.get_mut("v").unwrap()[1].claim = claim;
            assert!(wrong(&history, To::Trash, 150));
        }
    }

    #[test]
    fn a_volume_whose_directory_was_dealt_with_takes_no_other() {
        let mut history = history(Fate::Delete);
        history.volumes.get_mut("v").unwrap()[1].disposed = true;
        assert!(wrong(&history, To::Trash, 150));
    }

    #[test]
    fn of_two_volumes_that_are_both_to_go_either_may_be_the_last() {
        let mut history = history(Fate::Delete);
        let other = history.volumes["v"].clone();
        history.volumes.insert("w".to_owned(), other);
        assert!(!wrong(&history, To::Trash, 150));
        history.volumes.get_mut("w").unwrap()[1].may_go = false;
        assert!(wrong(&history, To::Trash, 150));
    }

    #[test]
    fn a_directory_in_which_another_volume_has_a_part_stays() {
        for (path, expected) in [("a/x", true), ("a", true), ("a/x/y", true), ("a/xy", false), ("b", false)] {
            let mut history = history(Fate::Delete);
            let mut there = state(50, Time::MAX, false, Fate::Retain);
            there.path = path.to_owned();
            history.volumes.insert("w".to_owned(), vec![there.clone()]);
            assert_eq!(wrong(&history, To::Trash, 150), expected, "{path}");
            // It has gone by then, or has come a moment before only.
            there.end = When(120, 121);
            history.volumes.insert("w".to_owned(), vec![there.clone()]);
            assert!(!wrong(&history, To::Trash, 150), "{path}");
            (there.begin, there.end) = (When(144, 145), NEVER);
            history.volumes.insert("w".to_owned(), vec![there]);
            assert!(!wrong(&history, To::Trash, 150), "{path}");
        }
    }

    #[test]
    fn every_marker_must_be_where_its_directory_went() {
        let at_home = Some("a/x");
        let rows = [
            (None, at_home, true, Fate::Delete, false),
            (None, None, true, Fate::Delete, true),
            (Some(archive()), Some("archived-x"), true, Fate::Archive, true),
            (None, None, false, Fate::Retain, true),
            (None, at_home, false, Fate::Retain, false),
            (None, at_home, false, Fate::Delete, true),
            (Some(To::Trash), None, false, Fate::Delete, false),
            (Some(To::Trash), at_home, false, Fate::Delete, true),
            (Some(archive()), Some("archived-x"), false, Fate::Archive, false),
            (Some(archive()), None, false, Fate::Archive, true),
        ];
        for (to, found, is_bound, fate, expected) in rows {
            let moves: Vec<Move> = to.into_iter().map(|to| moved(to, 150)).collect();
            let (claim, path) = ("uid".to_owned(), "a/x".to_owned());
            let marker = Marker { claim, path, at: 50, found: found.map(str::to_owned), is_bound };
            let lost = lost_markers(&history(fate), &moves, std::slice::from_ref(&marker));
            assert_eq!(!lost.is_empty(), expected, "{moves:?} {marker:?} {fate:?}");
        }
    }
}
