//! Measures how much each volume holds, one after the other and for ever, within a limit of calls per second.
//!
//! If the server keeps count itself (a quota), it is asked for that count; otherwise every entry of the volume is
//! looked at. Each export is scanned on its own, in slices of a few calls; between slices, claims and volumes that
//! have become due go first. Whose turn it is, and what becomes of a volume that takes longer than its turn, is
//! decided in [`turns`](crate::background::turns). Whatever holds up a slice (a server that does not answer, a
//! leadership that is lost) holds up nothing else, and the scan then continues where it was. A new process starts
//! anywhere, so that no volume is always the last.
//!
//! What a volume was found to hold stays known until something newer is known of it, or it goes.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, interval, sleep};
use tracing::{debug, info, warn};

use crate::background::turns::{Paused, Surveyed, Turns};
use crate::cluster::election::Leadership;
use crate::cluster::events::Reason;
use crate::controllers::context::Context;
use crate::decide::volume::located;
use crate::export::Export;
use crate::model::exports::ExportId;
use crate::model::volume::{Phase, Volume};
use crate::observe::metrics::{self, HeldByClaim};
use crate::storage::{Begun, Found, StorageError, Survey};
use crate::values::names::{ClaimRef, VolumeName};
use crate::values::quantity;

/// The number of calls that are made at a time.
const SLICE: u64 = 50;

/// The number of calls that a question to the API server counts as.
const QUESTION: u64 = 10;

/// How long one volume is looked at, at the pace of the export's calls, before the next one has its turn.
const TURN: Duration = Duration::from_secs(15);

/// The shortest time from the start of one scan of an export to the next, but for volumes that take long.
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
            spent: 0,
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
    /// How many calls have been made.
    spent: u64,
}

/// The last word on each volume.
type Recorded = BTreeMap<VolumeName, Record>;

#[derive(Debug)]
struct Record {
    uid: Box<str>,
    said: Said,
    at: Instant,
}

/// A volume that is to be counted.
struct Counted {
    volume: Volume,
    claim: ClaimRef,
    surveyed: Surveyed,
}

/// How a volume's turn has ended.
enum Ended {
    /// Everything has been counted.
    Complete { found: Found, in_one_turn: bool },
    /// The volume has no directory.
    Absent,
    /// Not everything has been counted.
    InPart(Survey),
}

impl Walker<'_> {
    async fn walk(mut self) {
        let mut turns = Turns::new((TURN.as_secs() * u64::from(self.pace.calls)).div_ceil(SLICE) * SLICE);
        let mut recorded = Recorded::new();
        let mut position = self.context.state.ledger().somewhere(self.id);
        let mut begun = Instant::now();
        loop {
            self.turn(0).await;
            let next = turns.next(|| {
                let (volume, next) = self.context.state.ledger().next(self.id, position.as_deref())?;
                position = Some(next);
                Some(volume)
            });
            if let Some(volume) = next {
                self.visit(&volume, &mut turns, &mut recorded).await;
                continue;
            }
            recorded.retain(|volume, _| self.context.state.ledger().exists(volume));
            turns.retain(|volume| self.context.state.ledger().exists(volume));
            self.rest(begun + ROUND, &mut turns, &mut recorded).await;
            (position, begun) = (None, Instant::now());
        }
    }

    /// Spends the time until the next round on those that take long, as far as they can be counted now.
    async fn rest(&mut self, until: Instant, turns: &mut Turns<Survey>, recorded: &mut Recorded) {
        while Instant::now() < until {
            let Some(volume) = turns.first().cloned() else { break };
            if !self.visit(&volume, turns, recorded).await {
                break;
            }
        }
        sleep(until.saturating_duration_since(Instant::now())).await;
    }

    /// Waits for the turn to make `calls` calls, and counts them.
    async fn turn(&mut self, calls: u64) {
        self.pace.spend(calls).await;
        self.leadership.held().await;
        while self.context.state.is_busy() {
            sleep(GIVE_WAY).await;
        }
        self.spent += calls;
        let label = metrics::export_label(&self.export.name);
        self.context.metrics.usage_calls.get_or_create(&label).inc_by(calls);
    }

    /// Gives a volume its turn; returns whether it could be looked at.
    async fn visit(&mut self, name: &VolumeName, turns: &mut Turns<Survey>, recorded: &mut Recorded) -> bool {
        let before = self.spent;
        self.turn(QUESTION).await;
        // Of a volume that has a claim nothing is kept but where it is, so the API server is asked.
        let volume = match self.context.cluster.volume(name).await {
            Ok(volume) => volume,
            Err(error) => {
                debug!(volume = name.as_str(), %error, "failed to read the volume");
                turns.spent(name, self.spent - before);
                said_of(turns.miss(name, Instant::now()), name);
                return false;
            }
        };
        let Some(counted) = volume.and_then(|volume| self.is_to_be_counted(volume)) else {
            self.context.metrics.usages.known().remove(name);
            turns.leave(name);
            return true;
        };
        self.forget_former(&counted, recorded);
        if turns.drop_surveys(|survey| self.export.storage.is_current(survey)) > 0 {
            info!(export = %self.export.address, "the export was mounted anew: what was counted in part is begun anew");
        }
        let survey = turns.take(name, &counted.surveyed);
        let is_resumed = survey.is_some();
        let ended = self.count(&counted.surveyed, survey, turns.turn()).await;
        turns.spent(name, self.spent - before);
        match ended {
            Ok(Ended::Complete { found, in_one_turn }) => {
                turns.complete(name, in_one_turn);
                self.record(&counted.volume, &counted.claim, found, recorded);
            }
            Ok(Ended::Absent) => {
                turns.leave(name);
                self.context.metrics.usages.known().remove(name);
            }
            Ok(Ended::InPart(survey)) => {
                said_of(turns.pause(name, counted.surveyed, survey, Instant::now()), name);
            }
            Err(error) => {
                debug!(volume = name.as_str(), %error, "failed to measure how much the volume holds");
                // One that cannot be gone on with is begun anew in its next turn, at once.
                if !is_resumed {
                    turns.leave(name);
                }
                return is_resumed;
            }
        }
        true
    }

    /// Returns what is to be counted of a volume; `None` if it is not ours, not bound, or not on this export.
    fn is_to_be_counted(&self, volume: Volume) -> Option<Counted> {
        let scope = &self.context.scope;
        let is_ours = volume.phase == Phase::Bound && volume.is_of(&scope.provisioner);
        let location = located(&volume, &scope.exports).ok().filter(|at| is_ours && at.export == self.id)?;
        let claim = volume.claim.clone()?;
        let surveyed = Surveyed { uid: volume.uid.clone(), path: location.path };
        Some(Counted { volume, claim, surveyed })
    }

    /// Forgets what is known of a former volume of the same name, or of the volume for another claim.
    fn forget_former(&self, Counted { volume, claim, .. }: &Counted, recorded: &mut Recorded) {
        let is_former = recorded.get(&volume.name).is_some_and(|record| record.uid != volume.uid);
        if is_former {
            recorded.remove(&volume.name);
        }
        let mut known = self.context.metrics.usages.known();
        let is_others = |held: &HeldByClaim| held.namespace != claim.namespace || held.claim != claim.name;
        if is_former || known.get(&volume.name).is_some_and(is_others) {
            known.remove(&volume.name);
        }
    }

    /// Counts what a volume holds, for a turn of so many calls at the most.
    async fn count(
        &mut self,
        surveyed: &Surveyed,
        survey: Option<Survey>,
        turn: u64,
    ) -> Result<Ended, StorageError> {
        let in_one_turn = survey.is_none();
        let mut survey = if let Some(survey) = survey {
            survey
        } else {
            self.turn(3).await;
            match self.export.storage.survey(&surveyed.path).await? {
                None => return Ok(Ended::Absent),
                Some(Begun::Known(found)) => return Ok(Ended::Complete { found, in_one_turn }),
                Some(Begun::DiskUsage(survey)) => survey,
            }
        };
        for _ in 0..turn / SLICE {
            self.turn(SLICE).await;
            let (rest, found) = self.export.storage.advance(survey, SLICE).await?;
            if let Some(found) = found {
                return Ok(Ended::Complete { found, in_one_turn });
            }
            survey = rest;
        }
        Ok(Ended::InPart(survey))
    }

    fn record(&self, volume: &Volume, claim: &ClaimRef, found: Found, recorded: &mut Recorded) {
        let held = HeldByClaim {
            namespace: claim.namespace.clone(),
            claim: claim.name.clone(),
            bytes: found.bytes,
            inodes: found.inodes,
        };
        self.context.metrics.usages.known().insert(volume.name.clone(), held);
        let new = || Record { uid: volume.uid.clone(), said: Said::Within, at: Instant::now() };
        let record = recorded.entry(volume.name.clone()).or_insert_with(new);
        let Some(capacity) = &volume.capacity else { return };
        let request = quantity::bytes(capacity);
        let before = record.said;
        record.said = to_say(before, found.bytes, request);
        let message = match (before, record.said) {
            (Said::Within, Said::Within) => return,
            (Said::Exceeds, Said::Exceeds) if record.at.elapsed() < SAY_AGAIN => return,
            (_, Said::Exceeds) => exceeds(found.bytes, request, &capacity.0),
            (Said::Exceeds, Said::Within) => {
                let message =
                    format!("the volume again holds no more than the {} that the claim asks for", capacity.0);
                self.say(claim, Reason::UsageWithinRequest, &message);
                return;
            }
        };
        record.at = Instant::now();
        self.say(claim, Reason::UsageExceedsRequest, &message);
    }

    fn say(&self, claim: &ClaimRef, reason: Reason, message: &str) {
        info!(%claim, "{message}");
        self.context.recorder.record(claim, reason, message);
    }
}

/// Says what becomes of a volume that was not counted to the end in its turn.
fn said_of(paused: Paused, volume: &VolumeName) {
    let volume = volume.as_str();
    match paused {
        Paused::Kept => debug!(volume, "the volume is counted in part, will go on in its next turn"),
        Paused::NoPlace => info!(volume, "the volume is large, is counted after those that are counted in part"),
        Paused::GivenUp => warn!(
            volume,
            "how much the volume holds was not found out within a day: it is counted anew after the other large \
             volumes, and what was last known of it is shown until then. A larger USAGE_CALLS_PER_SECOND helps"
        ),
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
