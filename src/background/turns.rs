//! Whose turn it is to be counted: pure decisions, without files, clients and clocks.
//!
//! The volumes of an export have their turns one after the other. One that takes longer than a turn is *large*: it
//! stands in a line of its own, and the first of that line is gone on with until it is complete. The line has half of
//! the calls: a turn whenever the others have spent as much, and what is left when all others have been counted. So
//! neither holds the other up for ever:
//!
//! - An ordinary volume is counted again after at most `2 R + 5 T` calls, and the pause between two rounds, where `R` is
//!   what all volumes that do not stand in the line take in a round, each with its question to the API server, and `T`
//!   is a turn. What those in the line take has no part in it, however many they are.
//! - A large volume is counted when all that stand before it have been. One that has been the first for
//!   [`FIRST_FOR`] is begun anew behind all others, so that one that can never be complete, because files come faster
//!   than they are counted, keeps those behind it waiting for no longer than that.
//!
//! Of [`ASIDE_MAX`] in the line what has been counted is kept. A volume that turns out to be large while there is no
//! place has had one turn for nothing. It is known to be large from then on, and begun anew when it is the first.
//! Nothing else that was begun is thrown away.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::values::names::VolumeName;
use crate::values::path::RelPath;

/// How many volumes of an export may be counted in part at a time: each takes open directories and memory. One place
/// is for the first in the line.
pub(super) const ASIDE_MAX: usize = 4;

/// How long the first in the line is gone on with before it is given up, and begun anew behind all others.
pub(super) const FIRST_FOR: Duration = Duration::from_hours(24);

/// What a survey is of. A volume of the same name that is another one, or at another place, is not gone on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Surveyed {
    pub(super) uid: Box<str>,
    pub(super) path: RelPath,
}

/// What becomes of a survey whose turn has ended before it was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paused {
    /// It is kept, and gone on with.
    Kept,
    /// Too many are kept: it is begun anew when it is the first in the line.
    NoPlace,
    /// It has been the first for too long: it is begun anew behind all others.
    GivenUp,
}

/// A large volume that waits to be counted, or is being counted.
#[derive(Debug)]
struct InLine<S> {
    volume: VolumeName,
    /// What has been counted so far, if it is kept.
    survey: Option<(Surveyed, S)>,
    /// Since when it has been the first.
    first: Option<Instant>,
}

impl<S> InLine<S> {
    fn new(volume: VolumeName, survey: Option<(Surveyed, S)>) -> Self {
        Self { volume, survey, first: None }
    }
}

/// The turns of an export's volumes. `S` is a survey that is to be gone on with.
#[derive(Debug)]
pub(super) struct Turns<S> {
    line: VecDeque<InLine<S>>,
    /// Those that took longer than a turn when they were last counted.
    large: HashSet<VolumeName>,
    /// The calls of a turn.
    turn: u64,
    /// How many more calls the others have spent than the line, since there is one.
    ahead: i64,
}

impl<S> Turns<S> {
    /// Begins with an empty line; a turn has so many calls.
    pub(super) fn new(turn: u64) -> Self {
        Self { line: VecDeque::new(), large: HashSet::new(), turn, ahead: 0 }
    }

    /// Returns how many calls a volume has in a turn.
    pub(super) fn turn(&self) -> u64 {
        self.turn
    }

    /// Returns the volume whose turn it is; `None` at the end of a round. `order` gives the volumes one after the
    /// other.
    pub(super) fn next(&mut self, mut order: impl FnMut() -> Option<VolumeName>) -> Option<VolumeName> {
        if self.ahead >= signed(self.turn)
            && let Some(first) = self.first()
        {
            return Some(first.clone());
        }
        loop {
            let volume = order()?;
            if self.find(&volume).is_some() {
                continue;
            }
            if !self.large.contains(&volume) {
                return Some(volume);
            }
            self.line.push_back(InLine::new(volume, None));
        }
    }

    /// Returns the first of the line, which may be gone on with while there is nothing else to do.
    pub(super) fn first(&self) -> Option<&VolumeName> {
        self.line.front().map(|first| &first.volume)
    }

    /// Takes what has been counted of a volume, if it is kept, and of the same volume at the same place.
    pub(super) fn take(&mut self, volume: &VolumeName, surveyed: &Surveyed) -> Option<S> {
        let waiting = self.find(volume)?;
        let (of, survey) = waiting.survey.take()?;
        if of != *surveyed {
            waiting.first = None;
            return None;
        }
        Some(survey)
    }

    /// Notes how many calls a volume's turn has cost; to be told before how the turn has ended.
    pub(super) fn spent(&mut self, volume: &VolumeName, calls: u64) {
        let is_in_line = self.find(volume).is_some();
        self.ahead = match signed(calls) {
            calls if is_in_line => (self.ahead - calls).max(-signed(self.turn)),
            _ if self.line.is_empty() => 0,
            calls => self.ahead + calls,
        };
    }

    /// Ends the turn of a volume that was not counted to the end.
    pub(super) fn pause(&mut self, volume: &VolumeName, of: Surveyed, survey: S, now: Instant) -> Paused {
        self.large.insert(volume.clone());
        let has_place = self.line.iter().skip(1).filter(|other| other.survey.is_some()).count() < ASIDE_MAX - 1;
        if let Some(waiting) = self.find(volume) {
            waiting.survey = Some((of, survey));
            return self.miss(volume, now);
        }
        self.line.push_back(InLine::new(volume.clone(), has_place.then_some((of, survey))));
        if has_place { Paused::Kept } else { Paused::NoPlace }
    }

    /// Ends the turn of a volume that could not be looked at for now. What was counted of it by then is kept.
    pub(super) fn miss(&mut self, volume: &VolumeName, now: Instant) -> Paused {
        let Some(waiting) = self.find(volume) else { return Paused::Kept };
        if now.saturating_duration_since(*waiting.first.get_or_insert(now)) < FIRST_FOR {
            return Paused::Kept;
        }
        self.leave(volume);
        self.line.push_back(InLine::new(volume.clone(), None));
        Paused::GivenUp
    }

    /// Ends the turn of a volume that was counted to the end: in one turn, or gone on with from an earlier one.
    pub(super) fn complete(&mut self, volume: &VolumeName, in_one_turn: bool) {
        self.leave(volume);
        if in_one_turn {
            self.large.remove(volume);
        }
    }

    /// Takes a volume out of the line, with what was counted of it.
    pub(super) fn leave(&mut self, volume: &VolumeName) {
        self.line.retain(|waiting| waiting.volume != *volume);
        if self.line.is_empty() {
            self.ahead = 0;
        }
    }

    /// Forgets volumes that have gone.
    pub(super) fn retain(&mut self, exists: impl Fn(&VolumeName) -> bool) {
        self.line.retain(|waiting| exists(&waiting.volume));
        self.large.retain(exists);
        if self.line.is_empty() {
            self.ahead = 0;
        }
    }

    /// Forgets surveys that cannot be gone on with, and returns how many. Their volumes keep their places.
    pub(super) fn drop_surveys(&mut self, is_good: impl Fn(&S) -> bool) -> usize {
        let mut dropped = 0;
        for waiting in &mut self.line {
            if waiting.survey.take_if(|(_, survey)| !is_good(survey)).is_some() {
                waiting.first = None;
                dropped += 1;
            }
        }
        dropped
    }

    fn find(&mut self, volume: &VolumeName) -> Option<&mut InLine<S>> {
        self.line.iter_mut().find(|waiting| waiting.volume == *volume)
    }
}

fn signed(calls: u64) -> i64 {
    i64::try_from(calls).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// What a question to the API server, and the first look, cost.
    const LOOK: u64 = 13;

    const SLICE: u64 = 50;

    /// Calls per second.
    const PACE: u64 = 100;

    const TURN: u64 = 15 * PACE;

    const PAUSE: u64 = 10 * PACE;

    fn surveyed(uid: &str, path: &str) -> Surveyed {
        Surveyed { uid: uid.into(), path: RelPath::parse(path).unwrap() }
    }

    /// An export with volumes, of which each takes so many calls to be counted. Time goes on by calls.
    struct Simulated {
        volumes: BTreeMap<String, u64>,
        turns: Turns<u64>,
        begun: Instant,
        calls: u64,
        /// By volume: when each was counted.
        counted: BTreeMap<String, Vec<u64>>,
        /// What was thrown away, with the calls that it had taken.
        lost: Vec<(String, Paused, u64)>,
    }

    impl Simulated {
        fn new(volumes: impl IntoIterator<Item = (String, u64)>) -> Self {
            Self {
                volumes: volumes.into_iter().collect(),
                turns: Turns::new(TURN),
                begun: Instant::now(),
                calls: 0,
                counted: BTreeMap::new(),
                lost: Vec::new(),
            }
        }

        fn visit(&mut self, volume: &VolumeName) {
            let (name, of) = (volume.as_str().to_owned(), surveyed("uid", "path"));
            let taken = self.turns.take(volume, &of);
            let (before, size) = (self.calls, self.volumes.get(&name).copied().unwrap());
            let (mut done, end) = (taken.unwrap_or(0), taken.unwrap_or(0) + TURN);
            self.calls += LOOK;
            let more = (end.min(size) - done).next_multiple_of(SLICE);
            (done, self.calls) = (done + more, self.calls + more);
            self.turns.spent(volume, self.calls - before);
            if done >= size {
                self.turns.complete(volume, taken.is_none());
                self.counted.entry(name).or_default().push(self.calls);
            } else {
                match self.turns.pause(volume, of, done, self.begun + self.elapsed()) {
                    Paused::Kept => {}
                    paused @ (Paused::NoPlace | Paused::GivenUp) => self.lost.push((name, paused, done)),
                }
            }
            let kept = self.turns.line.iter().filter(|waiting| waiting.survey.is_some()).count();
            assert!(kept <= ASIDE_MAX, "{kept} are kept open");
        }

        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.calls / PACE)
        }

        fn run(&mut self, limit: Duration) {
            while self.elapsed() < limit {
                let mut order = self.volumes.keys().cloned().collect::<Vec<_>>().into_iter();
                let began = self.calls;
                while let Some(volume) = self.turns.next(|| order.next().map(|name| (*name).into())) {
                    self.visit(&volume);
                }
                while self.calls < began + PAUSE {
                    let Some(first) = self.turns.first().cloned() else { break };
                    self.visit(&first);
                }
                self.calls = self.calls.max(began + PAUSE);
            }
        }

        /// The longest time from the beginning, or a count of a volume, to the next one, in calls.
        fn longest_wait(&self, volume: &str) -> u64 {
            let counts = self.counted.get(volume).map(Vec::as_slice).unwrap_or_default();
            let ends = counts.iter().copied().chain([self.calls]);
            let begins = std::iter::once(0).chain(counts.iter().copied());
            ends.zip(begins).map(|(end, begin)| end - begin).max().unwrap()
        }

        /// Every ordinary volume is counted again and again within the bound that the module states.
        fn assert_ordinary_are_counted(&self) {
            let in_a_round = |size: u64| LOOK + size.div_ceil(SLICE) * SLICE;
            // In the first round those are tried, too, that turn out to be large.
            let round: u64 = self.volumes.values().map(|size| in_a_round((*size).min(TURN))).sum();
            let bound = 2 * round + 5 * TURN + PAUSE;
            for (volume, _) in self.volumes.iter().filter(|(_, size)| **size <= TURN) {
                let wait = self.longest_wait(volume);
                assert!(wait <= bound, "{volume}: {wait} of {bound}");
            }
        }
    }

    fn named(prefix: &str, count: usize, size: impl Fn(usize) -> u64) -> impl Iterator<Item = (String, u64)> {
        (0..count).map(move |number| (format!("{prefix}{number:04}"), size(number)))
    }

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn twenty_large_volumes_are_all_counted_and_keep_none_of_a_thousand_small_ones_waiting() {
        // Before all others, behind them, and between them; half an hour to an hour each, at the full pace.
        for prefix in ["a", "z", "n0500-"] {
            let large = named(prefix, 20, |number| 180_000 + 9_000 * number as u64);
            let mut simulated = Simulated::new(large.chain(named("n", 1000, |number| (number % 200) as u64)));
            simulated.run(DAY * 7);
            simulated.assert_ordinary_are_counted();
            for number in 0..20 {
                let name = format!("{prefix}{number:04}");
                let counts = simulated.counted.get(&name).map(Vec::len).unwrap_or_default();
                // All together they take fifteen hours, with half of the calls thirty.
                assert!(counts >= 4, "{name}: {counts} times");
            }
            let lost =
                simulated.lost.iter().filter(|(_, paused, calls)| (*paused, *calls) == (Paused::NoPlace, TURN));
            assert_eq!(lost.count(), 20 - ASIDE_MAX, "each that had no place has lost one turn, once");
            assert_eq!(simulated.lost.len(), 20 - ASIDE_MAX, "and nothing else was lost");
        }
    }

    #[test]
    fn volumes_in_which_files_come_faster_than_they_are_counted_keep_no_other_from_being_counted() {
        let endless = named("e", 6, |_| u64::MAX / 2);
        let large = named("l", 6, |_| 400_000);
        let mut simulated = Simulated::new(endless.chain(large).chain(named("n", 300, |_| 90)));
        simulated.run(DAY * 16);
        simulated.assert_ordinary_are_counted();
        for (name, size) in named("l", 6, |_| 400_000) {
            assert!(simulated.counted.get(&name).is_some_and(|counts| counts.len() >= 2), "{name} of {size}");
        }
        let given_up = simulated.lost.iter().filter(|(_, paused, _)| *paused == Paused::GivenUp);
        let (names, calls): (Vec<_>, Vec<_>) = given_up.map(|(name, _, calls)| (name.as_str(), *calls)).unzip();
        assert!(names.len() >= 9 && names.iter().all(|name| name.starts_with('e')), "{names:?}");
        // None is given up before it has had half of the calls of a day.
        assert!(calls.iter().all(|calls| *calls > DAY.as_secs() * PACE * 9 / 20), "{calls:?}");
    }

    #[test]
    fn the_bound_holds_whatever_there_is() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let volumes: Vec<_> = (0..random.usize(1..60))
                .map(|_| {
                    let most = [10, 1_000, TURN + 1, 50_000, 5_000_000][random.usize(0..5)];
                    (format!("{:08x}", random.u32(..)), random.u64(0..most))
                })
                .collect();
            let mut simulated = Simulated::new(volumes);
            simulated.run(DAY);
            simulated.assert_ordinary_are_counted();
        }
    }

    #[test]
    fn a_large_volume_alone_is_gone_on_with_without_a_pause() {
        let mut simulated = Simulated::new([("large".to_owned(), 100_000), ("small".to_owned(), 10)]);
        simulated.run(Duration::from_hours(1));
        let wait = simulated.longest_wait("large");
        assert!(wait < 120_000, "{wait}");
    }

    #[test]
    fn what_was_counted_of_another_volume_of_the_same_name_is_not_gone_on_with() {
        let (volume, now) = (VolumeName::from("data"), Instant::now());
        let of = surveyed("uid", "a");
        for (other, is_same) in [(of.clone(), true), (surveyed("new", "a"), false), (surveyed("uid", "b"), false)]
        {
            let mut turns = Turns::new(TURN);
            assert_eq!(turns.pause(&volume, of.clone(), 7, now), Paused::Kept);
            assert_eq!(turns.take(&volume, &other), is_same.then_some(7), "{other:?}");
            assert_eq!(turns.take(&volume, &of), None, "it is taken once, or dropped");
            assert_eq!(turns.first(), Some(&volume), "its place is kept");
        }
    }

    #[test]
    fn what_was_counted_on_a_former_mount_is_dropped_and_places_are_kept() {
        let now = Instant::now();
        let names: Vec<VolumeName> = ["a", "b", "c"].map(VolumeName::from).into();
        let mut turns = Turns::new(TURN);
        for (number, name) in names.iter().enumerate() {
            turns.pause(name, surveyed("uid", "path"), number, now);
        }
        assert_eq!(turns.drop_surveys(|number| *number == 1), 2);
        assert_eq!(turns.drop_surveys(|number| *number == 1), 0);
        let of = surveyed("uid", "path");
        assert_eq!(names.iter().map(|name| turns.take(name, &of)).collect::<Vec<_>>(), [None, Some(1), None]);
        assert_eq!(turns.first(), names.first());
    }

    #[test]
    fn one_that_cannot_be_looked_at_is_passed_after_a_day_and_one_that_has_shrunk_is_ordinary_again() {
        let now = Instant::now();
        let (a, b): (VolumeName, VolumeName) = ("a".into(), "b".into());
        let mut turns = Turns::new(TURN);
        for name in [&a, &b] {
            turns.pause(name, surveyed("uid", "path"), 0, now);
        }
        assert_eq!(turns.miss(&a, now + FIRST_FOR / 2), Paused::Kept);
        assert_eq!(turns.miss(&a, now + FIRST_FOR), Paused::Kept, "it was the first for half of it");
        assert_eq!((turns.miss(&a, now + FIRST_FOR * 2), turns.first()), (Paused::GivenUp, Some(&b)));
        turns.complete(&b, false);
        turns.complete(&a, true);
        let mut order = [b.clone(), a.clone()].into_iter();
        assert_eq!(turns.next(|| order.next()), Some(a), "it is begun in its turn");
        assert_eq!(turns.first(), Some(&b), "and the other one stands in the line");
        turns.retain(|_| false);
        let mut order = std::iter::once(b.clone());
        assert_eq!(
            (turns.first().cloned(), turns.next(|| order.next())),
            (None, Some(b.clone())),
            "all is forgotten"
        );
    }
}
