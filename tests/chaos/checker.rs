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

/// How long after a change something may still be done that the change forbids.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tolerance {
    /// After a change of the volume itself.
    pub(crate) own: Time,
    /// After another volume has come.
    pub(crate) others: Time,
}

/// What a volume is, as far as its directory depends on it, from one change to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) begin: When,
    pub(crate) end: When,
    pub(crate) path: String,
    /// Whether it is the provisioner's, with the policy Delete.
    pub(crate) is_taken_along: bool,
    pub(crate) is_released: bool,
    /// Whether it says that its directory has been dealt with.
    pub(crate) is_disposed: bool,
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
    /// Which volume each claim was bound to first, by uid, and when.
    pub(crate) claims_bound: BTreeMap<String, (When, String)>,
    /// When claims were Bound or on their way out, by uid: whichever came first.
    pub(crate) claims_served: BTreeMap<String, When>,
}

/// Where a directory went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum To {
    Trash,
    Archive(String),
    Elsewhere(String),
    /// It was empty, and was removed.
    Nowhere,
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
    /// The directories that it is in in the end: its own or archives, those of copies among them.
    pub(crate) found: Vec<String>,
    /// Whether the claim is Bound in the end.
    pub(crate) is_bound: bool,
}

/// A directory that a claim was given, and in which files of earlier claims of the same name were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gift {
    /// The uid of the claim, which its volume is named after.
    pub(crate) claim: String,
    pub(crate) path: String,
    /// When the claim was made.
    pub(crate) since: Time,
    /// The uids of the earlier claims.
    pub(crate) earlier: Vec<String>,
}

/// A claim that is a copy of the directory, which was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Promise {
    /// The uid of the claim that is a copy.
    pub(crate) claim: String,
    /// The directory that it is a copy of.
    pub(crate) path: String,
    /// When it was known to be accepted.
    pub(crate) since: Time,
}

/// Whether two directories are the same, or one is in the other.
fn meet(one: &str, other: &str) -> bool {
    is_at_or_in(one, other) || is_at_or_in(other, one)
}

fn is_at_or_in(inner: &str, outer: &str) -> bool {
    inner == outer || inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
}

impl State {
    fn may_hold_at(&self, time: Time) -> bool {
        self.begin.0 <= time && time <= self.end.1
    }

    fn may_go(&self) -> bool {
        self.is_taken_along && self.is_released && !self.is_disposed
    }
}

/// Those of a volume's states that may have been at some time in this span, if it was there all the time.
fn throughout(states: &[State], from: Time, until: Time) -> Option<impl Iterator<Item = &State>> {
    let (first, last) = (states.first()?, states.last()?);
    let is_there = first.begin.1 <= from && until <= last.end.0;
    is_there.then(|| states.iter().filter(move |state| state.begin.0 <= until && from <= state.end.1))
}

impl History {
    /// Whether the volume could lose its directory to there at some time.
    fn lets_go(&self, name: &str, path: &str, to: &To, time: Time) -> Result<(), String> {
        let states = self.volumes[name].iter().filter(|state| state.path == path && state.may_hold_at(time));
        let mut why = format!("{name} does not exist");
        for state in states {
            let claim_gone = state.claim.as_ref().is_some_and(|uid| self.is_gone_from(name, uid, time));
            let fate_fits = match to {
                To::Trash => state.fate == Fate::Delete,
                To::Archive(_) => state.fate != Fate::Retain,
                To::Elsewhere(_) | To::Nowhere => false,
            };
            why = match (state.may_go(), claim_gone, fate_fits) {
                (true, true, true) => return Ok(()),
                (false, ..) if state.is_disposed => format!("{name} has been reclaimed before"),
                (false, ..) => format!("{name} is not to be reclaimed"),
                (_, false, _) => format!("{name} has a claim, or none that was"),
                _ => format!("{name} is to have the fate {:?}", state.fate),
            };
        }
        Err(why)
    }

    /// Whether a volume's claim had gone by then, or else had got another volume than the one that was made for it.
    fn is_gone_from(&self, name: &str, uid: &str, time: Time) -> bool {
        let is_gone = self.claims_gone.get(uid).is_some_and(|gone| gone.0 <= time);
        let is_elsewhere = |(when, volume): &(When, String)| when.0 <= time && volume != name;
        let is_its_own = name.strip_prefix("pvc-") == Some(uid);
        is_gone || is_its_own && self.claims_bound.get(uid).is_some_and(is_elsewhere)
    }

    /// Another volume that had a part in a directory all through a span of time. One that was to go, too, may have left
    /// it already: the last of them decides.
    fn part_owner(&self, name: Option<&str>, path: &str, from: Time, until: Time) -> Option<&str> {
        let has_part = |states: &[State]| {
            let mut held = throughout(states, from, until)?;
            held.all(|state| meet(&state.path, path) && !state.may_go() && !state.is_disposed).then_some(())
        };
        let mut others = self.volumes.iter().filter(|(other, _)| Some(other.as_str()) != name);
        others.find(|(_, states)| has_part(states).is_some()).map(|(other, _)| other.as_str())
    }

    /// The times of changes of volumes and claims.
    fn changes(&self) -> impl Iterator<Item = Time> {
        let of_volumes = self.volumes.values().flatten().flat_map(|state| [state.begin, state.end]);
        of_volumes.chain(self.claims_gone.values().copied()).flat_map(|when| [when.0, when.1])
    }

    /// Whether nothing allowed a move at any time from the tolerance before.
    fn forbids(&self, a_move: &Move, tolerance: Tolerance) -> Option<String> {
        let Move { path, to, at } = a_move;
        let of_path = self.volumes.iter().filter(|(_, states)| states.iter().any(|state| state.path == *path));
        let names: Vec<&str> = of_path.map(|(name, _)| name.as_str()).collect();
        let has_owner = |name: Option<&str>| self.part_owner(name, path, at - tolerance.others, *at);
        if *to == To::Nowhere {
            // What is made for a claim and not needed may go, empty as it is.
            return has_owner(None).map(|owner| format!("{owner} has a part in it"));
        }
        let span = at - tolerance.own..=*at;
        let mut times: Vec<Time> = self.changes().filter(|time| span.contains(time)).collect();
        times.extend([*at, at - tolerance.own]);
        // Between two changes nothing changes, but right at one both the old and the new may hold.
        times.extend(times.clone().iter().flat_map(|time| [time - 1, time + 1]));
        times.retain(|time| span.contains(time));
        let is_let_go = |name: &&str| times.iter().any(|time| self.lets_go(name, path, to, *time).is_ok());
        let Some(leaver) = names.iter().find(|name| is_let_go(name)) else {
            let why = names.iter().filter_map(|name| self.lets_go(name, path, to, *at).err());
            return Some(why.collect::<Vec<_>>().join("; "));
        };
        has_owner(Some(leaver)).map(|owner| format!("{owner} has a part in it"))
    }
}

/// The moves for which nothing was true, at any time from the tolerance before, that allowed them.
pub(crate) fn wrong_moves(history: &History, moves: &[Move], tolerance: Tolerance) -> Vec<String> {
    let wrong = moves.iter().filter_map(|a_move| Some((a_move, history.forbids(a_move, tolerance)?)));
    wrong.map(|(Move { path, to, at }, why)| format!("{path} went to {to:?} at {at}: {why}")).collect()
}

/// The moves of what was to be copied first.
pub(crate) fn broken_promises(history: &History, moves: &[Move], promises: &[Promise]) -> Vec<String> {
    let mut wrong = Vec::new();
    for Promise { claim, path, since } in promises {
        let served = history.claims_served.get(claim).copied().unwrap_or(NEVER);
        let is_early = |at: Time| *since < at && at < served.0;
        let broken = moves.iter().find(|a_move| is_at_or_in(path, &a_move.path) && is_early(a_move.at));
        if let Some(Move { to, at, .. }) = broken {
            wrong.push(format!("{path} went to {to:?} at {at}, while {claim} waited to be a copy of it"));
        }
    }
    wrong
}

/// The directories that were given while an earlier volume was about to take them away: one whose claim had gone before
/// the new one was made, which alone had a part in the directory, and was to take it along the whole time.
pub(crate) fn wrong_gifts(history: &History, gifts: &[Gift]) -> Vec<String> {
    let mut wrong = Vec::new();
    for Gift { claim, path, since, earlier } in gifts {
        let own = format!("pvc-{claim}");
        let Some(given) = history.volumes.get(&own).and_then(|states| states.first()).map(|state| state.begin.0)
        else {
            continue;
        };
        for uid in earlier {
            let name = format!("pvc-{uid}");
            let Some(states) = history.volumes.get(&name) else { continue };
            let takes = |state: &State| {
                let is_its = state.path == *path && state.claim.as_ref() == Some(uid);
                is_its && state.is_taken_along && !state.is_disposed && state.fate != Fate::Retain
            };
            let is_about_to_take = throughout(states, *since, given).is_some()
                && states.iter().all(|state| takes(state) || given < state.begin.0);
            let mut others = history.volumes.iter().filter(|(other, _)| **other != name && **other != own);
            let is_shared = others.any(|(_, states)| {
                states
                    .iter()
                    .any(|state| meet(&state.path, path) && state.begin.0 <= given && *since <= state.end.1)
            });
            if is_about_to_take && !is_shared {
                wrong.push(format!(
                    "{path} was given to {claim} at {given}, while {name} was about to take it away"
                ));
            }
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
        let first = moves.iter().find(|a_move| a_move.at >= *at && is_at_or_in(path, &a_move.path));
        let is_at_home = found.contains(path);
        let is_in = |archive: &String| found.iter().any(|place| is_at_or_in(place, archive));
        let problem = match first.map(|first| &first.to) {
            _ if *is_bound && !is_at_home => Some("its claim is Bound"),
            None | Some(To::Nowhere) if !is_at_home => Some("it was not moved"),
            Some(To::Archive(archive)) if !is_in(archive) => Some("it was archived"),
            Some(To::Trash) if is_at_home => Some("it was removed"),
            None if !is_bound => history.must_be_gone(path).then_some("it was to be removed"),
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
        let released: Vec<&State> =
            states.iter().filter(|state| state.is_taken_along && state.is_released).collect();
        let Some(first) = released.first() else { return false };
        let was_kept = released.iter().any(|state| state.fate == Fate::Retain);
        let others = self.volumes.iter().any(|(other, states)| {
            let (Some(begun), Some(ended)) = (states.first(), states.last()) else { return false };
            let overlap = begun.begin.0 <= last.end.1 && first.begin.0 <= ended.end.1;
            other != name && overlap && states.iter().any(|state| meet(&state.path, path))
        });
        let is_taken = last.is_taken_along && last.is_released;
        last.end != NEVER && is_taken && !was_kept && !others
    }
}

#[cfg(test)]
mod tests;
