//! Measures how much each volume holds, one after the other and for ever, within a limit of calls per second.
//!
//! If the server keeps count itself (a quota), it is asked for that count; otherwise every entry of the volume is
//! looked at. Each export is scanned on its own, in slices of a few calls; between slices, claims and volumes that
//! have become due go first. A volume that takes longer than its turn is gone on with in its next one, so that one in
//! which files come faster than they are counted keeps no other waiting. Whatever holds up a slice (a server that does not answer, a leadership that is lost)
//! holds up nothing else, and the scan then continues where it was. A new process starts anywhere, so that no
//! volume is always the last.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, interval, sleep};
use tracing::{debug, info};

use crate::cluster::election::Leadership;
use crate::cluster::events::Reason;
use crate::controllers::context::Context;
use crate::decide::volume::located;
use crate::export::Export;
use crate::model::exports::{ExportId, Location};
use crate::model::volume::{Phase, Volume};
use crate::observe::metrics::{self, HeldByClaim};
use crate::storage::{Begun, DiskUsage, Found, StorageError};
use crate::values::names::{ClaimRef, VolumeName};
use crate::values::quantity;

/// The number of calls that are made at a time.
const SLICE: u64 = 50;

/// The number of calls that a question to the API server counts as.
const QUESTION: u64 = 10;

/// How long one volume is looked at, at the pace of the export's calls, before the next one has its turn.
const TURN: Duration = Duration::from_secs(15);

/// How many volumes of an export may be looked at in part at a time: each takes open directories and memory. More are
/// begun anew in their next turn.
const ASIDE_MAX: usize = 4;

/// How long a volume is gone on with, before it is given up and begun anew: others may need its place among those.
const ASIDE_FOR: Duration = Duration::from_hours(24);

/// The shortest time from the start of one scan of an export to the next.
const ROUND: Duration = Duration::from_secs(10);

/// The time for which to let others go first, before looking whether they have.
const GIVE_WAY: Duration = Duration::from_millis(200);

/// The time between two looks for volumes that have gone, to forget them.
const FORGET: Duration = Duration::from_secs(5);

/// The time after which to repeat that a claim's directory holds too much: before the API server forgets the last
/// event about it.
const SAY_AGAIN: Duration = Duration::from_mins(50);

/// The part of the request, in percent, at which a directory that held too much is said to be back within it.
const BACK_AT: u64 = 95;

/// The last word of the events on whether a claim's directory holds more than was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Said {
    #[default]
    Within,
    Exceeds,
}

/// Decides what to say of a directory that holds `bytes` of the `request` that its claim asked for.
fn to_say(said: Said, bytes: u64, request: u64) -> Said {
    let within = u128::from(bytes) * 100 <= u128::from(request) * u128::from(BACK_AT);
    match said {
        _ if bytes > request => Said::Exceeds,
        Said::Exceeds if !within => Said::Exceeds,
        Said::Within | Said::Exceeds => Said::Within,
    }
}

/// Scans all exports while we lead, for ever, with at most `calls` calls per second on each.
pub async fn watch_forever(context: Context, leadership: Leadership, calls: u32) {
    let walking = context.exports.iter().map(|(id, export)| {
        let walker = Walker {
            context: &context,
            export,
            id,
            pace: Pace::new(calls),
            leadership: leadership.clone(),
            aside: Mutex::default(),
        };
        walker.walk()
    });
    futures::future::join(futures::future::join_all(walking), forget(&context, leadership.clone())).await;
}

/// Forgets volumes that have gone, and all volumes while we do not lead: the leader knows better.
async fn forget(context: &Context, leadership: Leadership) {
    let mut ticks = interval(FORGET);
    loop {
        ticks.tick().await;
        let leads = leadership.is_held();
        context.metrics.usages.known().retain(|volume, _| leads && context.state.ledger().exists(volume));
    }
}

/// Spreads calls over time.
struct Pace {
    calls: u32,
    free_at: Instant,
}

impl Pace {
    fn new(calls: u32) -> Self {
        Self { calls: calls.max(1), free_at: Instant::now() }
    }

    /// Waits until `calls` more calls may be made. Calls that were not made earlier are not made up for.
    async fn spend(&mut self, calls: u64) {
        let took = Duration::from_secs(1)
            .mul_f64(f64::from(u32::try_from(calls).unwrap_or(u32::MAX)) / f64::from(self.calls));
        self.free_at = self.free_at.max(Instant::now()) + took;
        tokio::time::sleep_until(self.free_at).await;
    }
}

struct Walker<'a> {
    context: &'a Context,
    export: &'a Export,
    id: ExportId,
    pace: Pace,
    leadership: Leadership,
    /// Behind a lock for the compiler only: a listing is never used by two threads.
    aside: Mutex<Aside<VolumeName, Box<DiskUsage>>>,
}

/// Surveys that are to be gone on with, and since when each has been under way.
struct Aside<K, S>(BTreeMap<K, (S, Instant)>);

impl<K: Ord, S> Default for Aside<K, S> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, S> Aside<K, S> {
    fn take(&mut self, key: &K) -> Option<(S, Instant)> {
        self.0.remove(key)
    }

    /// Puts a survey aside that was begun at `begun`; returns false if it is given up instead.
    fn put(&mut self, key: K, survey: S, begun: Instant) -> bool {
        let is_kept = self.0.len() < ASIDE_MAX && begun.elapsed() < ASIDE_FOR;
        if is_kept {
            self.0.insert(key, (survey, begun));
        }
        is_kept
    }
}

impl Walker<'_> {
    async fn walk(mut self) {
        let mut said = BTreeMap::new();
        let mut position = self.context.state.ledger().somewhere(self.id);
        let mut begun = Instant::now();
        loop {
            self.turn(0).await;
            let Some((volume, next)) = self.context.state.ledger().next(self.id, position.as_deref()) else {
                said.retain(|volume: &VolumeName, _| self.context.state.ledger().exists(volume));
                self.aside.get_mut().0.retain(|volume, _| self.context.state.ledger().exists(volume));
                sleep((begun + ROUND).saturating_duration_since(Instant::now())).await;
                (position, begun) = (None, Instant::now());
                continue;
            };
            position = Some(next);
            if let Err(error) = self.visit(&volume, &mut said).await {
                self.context.metrics.usages.known().remove(&volume);
                debug!(volume = volume.as_str(), %error, "failed to measure how much the volume holds");
            }
        }
    }

    /// Waits for the turn to make `calls` calls, and counts them.
    async fn turn(&mut self, calls: u64) {
        self.pace.spend(calls).await;
        self.leadership.held().await;
        while self.context.state.is_busy() {
            sleep(GIVE_WAY).await;
        }
        let label = metrics::export_label(&self.export.name);
        self.context.metrics.usage_calls.get_or_create(&label).inc_by(calls);
    }

    async fn visit(
        &mut self,
        name: &VolumeName,
        said: &mut BTreeMap<VolumeName, (Said, Instant)>,
    ) -> Result<(), StorageError> {
        self.turn(QUESTION).await;
        // Of a volume that has a claim nothing is kept but where it is, so the API server is asked.
        let volume = match self.context.cluster.volume(name).await {
            Ok(volume) => volume,
            Err(error) => {
                debug!(volume = name.as_str(), %error, "failed to read the volume");
                return Ok(());
            }
        };
        let Some((volume, claim, location)) = volume.and_then(|volume| self.is_to_be_counted(volume)) else {
            self.context.metrics.usages.known().remove(name);
            self.aside.get_mut().take(name);
            return Ok(());
        };
        if let Some(found) = self.count(name, &location).await? {
            self.record(
                &volume,
                &claim,
                found,
                said.entry(name.clone()).or_insert_with(|| (Said::Within, Instant::now())),
            )
            .await;
        }
        Ok(())
    }

    /// Returns a volume with its claim and location; `None` if it is not ours, not bound, or not on this export.
    fn is_to_be_counted(&self, volume: Volume) -> Option<(Volume, ClaimRef, Location)> {
        let scope = &self.context.scope;
        let is_ours = volume.phase == Phase::Bound && volume.is_of(&scope.provisioner);
        let location = located(&volume, &scope.exports).ok().filter(|at| is_ours && at.export == self.id)?;
        let claim = volume.claim.clone()?;
        Some((volume, claim, location))
    }

    /// Counts what a volume holds; `None` if it has no directory, or its turn has ended before all was counted.
    async fn count(&mut self, name: &VolumeName, location: &Location) -> Result<Option<Found>, StorageError> {
        let (mut count, begun) = if let Some(aside) = self.aside.get_mut().take(name) {
            aside
        } else {
            self.turn(3).await;
            match self.export.storage.survey(&location.path).await? {
                None => return Ok(None),
                Some(Begun::Known(found)) => return Ok(Some(found)),
                Some(Begun::DiskUsage(count)) => (count, Instant::now()),
            }
        };
        for _ in 0..(TURN.as_secs() * u64::from(self.pace.calls)).div_ceil(SLICE) {
            self.turn(SLICE).await;
            let (rest, found) = self.export.storage.advance(count, SLICE, &location.path).await?;
            if found.is_some() {
                return Ok(found);
            }
            count = rest;
        }
        if self.aside.get_mut().put(name.clone(), count, begun) {
            debug!(volume = name.as_str(), "the volume is counted in part, will go on in its next turn");
        } else {
            self.context.metrics.usages.known().remove(name);
            info!(
                volume = name.as_str(),
                "how much the volume holds is not known: it was not counted within a day, or too many large volumes \
                 are being counted; it is begun anew. See USAGE_CALLS_PER_SECOND"
            );
        }
        Ok(None)
    }

    async fn record(&self, volume: &Volume, claim: &ClaimRef, found: Found, (said, at): &mut (Said, Instant)) {
        let held = HeldByClaim {
            namespace: claim.namespace.clone(),
            claim: claim.name.clone(),
            bytes: found.bytes,
            inodes: found.inodes,
        };
        self.context.metrics.usages.known().insert(volume.name.clone(), held);
        let Some(capacity) = &volume.capacity else { return };
        let request = quantity::bytes(capacity);
        let before = std::mem::replace(said, to_say(*said, found.bytes, request));
        let message = match (before, *said) {
            (Said::Within, Said::Within) => return,
            (Said::Exceeds, Said::Exceeds) if at.elapsed() < SAY_AGAIN => return,
            (_, Said::Exceeds) => exceeds(found.bytes, request, &capacity.0),
            (Said::Exceeds, Said::Within) => {
                let message =
                    format!("the volume again holds no more than the {} that the claim asks for", capacity.0);
                self.say(claim, Reason::UsageWithinRequest, message).await;
                return;
            }
        };
        *at = Instant::now();
        self.say(claim, Reason::UsageExceedsRequest, message).await;
    }

    async fn say(&self, claim: &ClaimRef, reason: Reason, message: String) {
        info!(%claim, "{message}");
        self.context.recorder.record(claim, reason, message).await;
    }
}

/// Says by how much a volume holds too much: in steps, so that one event does not come with ever new numbers.
fn exceeds(bytes: u64, request: u64, shown: &str) -> String {
    let tenths = u128::from(bytes) * 10 / u128::from(request.max(1));
    let much = match tenths {
        10 => "more than".to_owned(),
        11..20 => format!("more than 1.{} times", tenths - 10),
        _ => format!("more than {} times", tenths / 10),
    };
    format!(
        "the volume holds {much} the {shown} that the claim asks for. NFS does not enforce that size, and the \
         export has less space for others: delete what is not needed, or have the claim ask for what is needed"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_back_when_it_is_well_below_what_was_asked_for() {
        let rows = [
            (Said::Within, 100, Said::Within),
            (Said::Within, 101, Said::Exceeds),
            (Said::Exceeds, 100, Said::Exceeds),
            (Said::Exceeds, 96, Said::Exceeds),
            (Said::Exceeds, 95, Said::Within),
            (Said::Within, 96, Said::Within),
            (Said::Within, u64::MAX, Said::Exceeds),
        ];
        for (said, bytes, expected) in rows {
            assert_eq!(to_say(said, bytes, 100), expected, "{said:?} {bytes}");
        }
    }

    #[test]
    fn how_much_too_much_it_is_is_said_in_steps() {
        for (bytes, words) in [
            (101, "more than the 1Gi"),
            (119, "1.1 times the 1Gi"),
            (199, "1.9 times"),
            (200, "2 times"),
            (3099, "30 times"),
        ] {
            let message = exceeds(bytes, 100, "1Gi");
            assert!(message.contains(words), "{message}");
        }
        assert!(exceeds(5, 0, "0").contains("5 times"), "no division by it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_put_aside_is_bounded_in_number_and_time() {
        let mut aside = Aside::default();
        let begun = Instant::now();
        for number in 0..ASIDE_MAX {
            assert!(aside.put(number, number, begun));
        }
        assert!(!aside.put(ASIDE_MAX, 0, begun), "no more fit");
        assert_eq!((aside.take(&1), aside.take(&1)), (Some((1, begun)), None));
        sleep(ASIDE_FOR).await;
        assert!(!aside.put(1, 1, begun), "it has taken too long");
        assert!(aside.put(1, 1, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_spread_over_time_and_a_pause_is_not_made_up_for() {
        let begun = Instant::now();
        let mut pace = Pace::new(100);
        for _ in 0..10 {
            pace.spend(50).await;
        }
        assert_eq!(begun.elapsed().as_secs(), 5);
        sleep(Duration::from_mins(1)).await;
        pace.spend(200).await;
        assert_eq!(begun.elapsed().as_secs(), 67);
    }
}
