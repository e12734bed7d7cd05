//! Finds out how much the volumes hold, one after the other and for ever, with so many calls a second and no more.
//!
//! A volume whose server keeps count itself (a quota) is asked for that count; in the others every entry is looked at. Each
//! export is gone through on its own, in slices of a few calls between which claims and volumes that have become due have
//! their turn first. What holds a slice up (a server that does not answer, a leadership that is lost) holds up no more
//! than this: it goes on where it was. A process that starts begins anywhere, so that none is always the last.

use std::collections::BTreeMap;
use std::time::Duration;

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
use crate::storage::{Begun, Found, StorageError};
use crate::values::names::{ClaimRef, VolumeName};
use crate::values::quantity;

/// How many calls are made at a time.
const SLICE: u64 = 50;

/// What a question to the API server counts as.
const QUESTION: u64 = 10;

/// The shortest time from one time through an export to the next.
const ROUND: Duration = Duration::from_secs(10);

/// How long to let others go first, and how often to look whether they have.
const GIVE_WAY: Duration = Duration::from_millis(200);

/// How often volumes that have gone are forgotten.
const FORGET: Duration = Duration::from_secs(5);

/// How often to say again that a claim's directory holds too much: before the last event about it is forgotten.
const SAY_AGAIN: Duration = Duration::from_mins(50);

/// At how much of the request a directory that held too much is said to be back, in percent.
const BACK_AT: u64 = 95;

/// Whether a claim's directory holds more than was asked for, as far as has been said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Said {
    #[default]
    Within,
    Exceeds,
}

/// What is to be said of a directory that holds `bytes` of the `request` that its claim asked for.
fn to_say(said: Said, bytes: u64, request: u64) -> Said {
    let within = u128::from(bytes) * 100 <= u128::from(request) * u128::from(BACK_AT);
    match said {
        _ if bytes > request => Said::Exceeds,
        Said::Exceeds if !within => Said::Exceeds,
        Said::Within | Said::Exceeds => Said::Within,
    }
}

/// Goes through all exports while we lead, for ever, with so many calls a second on each.
pub async fn watch_forever(context: Context, leadership: Leadership, calls: u32) {
    let walking = context.exports.iter().map(|(id, export)| {
        let walker =
            Walker { context: &context, export, id, pace: Pace::new(calls), leadership: leadership.clone() };
        walker.walk()
    });
    futures::future::join(futures::future::join_all(walking), forget(&context, leadership.clone())).await;
}

/// Forgets volumes that have gone, and all of them while we do not lead: then another one knows better.
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

    /// Waits until so many calls more may be made. What was not made earlier is not made up for.
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
                sleep((begun + ROUND).saturating_duration_since(Instant::now())).await;
                (position, begun) = (None, Instant::now());
                continue;
            };
            position = Some(next);
            if let Err(error) = self.visit(&volume, &mut said).await {
                self.context.metrics.usages.known().remove(&volume);
                debug!(volume = volume.as_str(), %error, "failed to find out how much it holds");
            }
        }
    }

    /// Waits for the turn to make so many calls.
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
        // Of volumes that have a claim nothing is kept but where they are.
        let volume = match self.context.cluster.volume(name).await {
            Ok(volume) => volume,
            Err(error) => {
                debug!(volume = name.as_str(), %error, "failed to read the volume");
                return Ok(());
            }
        };
        let Some((volume, claim, location)) = volume.and_then(|volume| self.is_to_be_counted(volume)) else {
            self.context.metrics.usages.known().remove(name);
            return Ok(());
        };
        if let Some(found) = self.count(&location).await? {
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

    /// The claim of a volume of ours, and where it lies, if it is in use here.
    fn is_to_be_counted(&self, volume: Volume) -> Option<(Volume, ClaimRef, Location)> {
        let scope = &self.context.scope;
        let is_ours = volume.phase == Phase::Bound && volume.is_of(&scope.provisioner);
        let location = located(&volume, &scope.exports).ok().filter(|at| is_ours && at.export == self.id)?;
        let claim = volume.claim.clone()?;
        Some((volume, claim, location))
    }

    async fn count(&mut self, location: &Location) -> Result<Option<Found>, StorageError> {
        self.turn(3).await;
        let mut survey = match self.export.storage.survey(&location.path).await? {
            None => return Ok(None),
            Some(Begun::Known(found)) => return Ok(Some(found)),
            Some(Begun::DiskUsage(survey)) => survey,
        };
        loop {
            self.turn(SLICE).await;
            let (rest, found) = self.export.storage.advance(survey, SLICE, &location.path).await?;
            if found.is_some() {
                return Ok(found);
            }
            survey = rest;
        }
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
                    format!("the volume holds no more than the {} that the claim asks for again", capacity.0);
                self.say(claim, Reason::UsageWithinRequest, message).await;
                return;
            }
        };
        *at = Instant::now();
        self.say(claim, Reason::UsageExceedsRequest, message).await;
    }

    async fn say(&self, claim: &ClaimRef, reason: Reason, message: String) {
        info!(%claim, message, "usage");
        self.context.recorder.record(claim, reason, message).await;
    }
}

/// In steps, so that the same event does not come with many numbers.
fn exceeds(bytes: u64, request: u64, shown: &str) -> String {
    let tenths = u128::from(bytes) * 10 / u128::from(request.max(1));
    let much = match tenths {
        10 => "more than".to_owned(),
        11..20 => format!("more than 1.{} times", tenths - 10),
        _ => format!("more than {} times", tenths / 10),
    };
    format!(
        "the volume holds {much} the {shown} that the claim asks for. NFS does not hold it back, and others on the export \
         lack the room: delete what is not needed, or have the claim ask for as much as it needs"
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
