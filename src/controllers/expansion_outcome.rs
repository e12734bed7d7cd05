//! Outcomes of a round for a claim that asks for more, and how each is reported.

use std::borrow::Cow;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tracing::Level;

use crate::cluster::api::ApiError;
use crate::cluster::events::Reason;
use crate::controllers::report::{Count, Fields, Report};
use crate::decide::expansion::{ExpansionIgnored, ExpansionRefusal};
use crate::model::expansion::Expansion;
use crate::observe::metrics::{FAILED, REFUSED, SUCCEEDED};
use crate::queue::{Next, RetryReason};
use crate::values::time::milliseconds;

/// The outcome of a round for a claim that asks for more.
#[derive(Debug)]
pub(super) enum ExpansionOutcome {
    /// The claim is another provisioner's.
    Foreign,
    /// The claim's volume is gone.
    VolumeGone,
    /// The claim is left alone.
    Ignored(ExpansionIgnored),
    /// The claim's author or an admin has to change something, or to wait.
    Refused {
        /// The reason.
        refusal: ExpansionRefusal,
        /// Whether to report the refusal: one that passes by itself is not reported at each try.
        is_said: bool,
    },
    /// Other claims were promised the export's capacity first.
    WaitsForPromise,
    /// The volume could not be read.
    FailedToRead(ApiError),
    /// The volume or the claim has changed since it was read.
    Changed(ApiError),
    /// The API server did not accept the new capacity.
    Failed(ApiError),
    /// The claim has what it asks for.
    Expanded {
        /// The claim's new capacity.
        to: Quantity,
    },
}

/// The facts about a round that its report names.
#[derive(Debug)]
pub(super) struct ExpansionRound<'a> {
    /// The claim.
    pub(super) expansion: &'a Expansion,
    /// The provisioner's name.
    pub(super) provisioner: &'a str,
    /// The duration of the round.
    pub(super) took: Duration,
}

impl ExpansionRound<'_> {
    fn who(&self) -> Fields {
        let (claim, volume) = (self.expansion.claim.to_string(), self.expansion.volume.to_string());
        Fields { claim: Some(claim), volume: Some(volume), ..Fields::default() }
    }

    /// Spells the event for a failed expansion, as Kubernetes' own resizers do.
    fn failed(&self, cause: &str) -> (Reason, String) {
        let (volume, resizer) = (self.expansion.volume.as_str(), self.provisioner);
        let message = format!("resize volume {volume:?} by resizer {resizer:?} failed: {cause}");
        (Reason::VolumeResizeFailed, message)
    }
}

impl ExpansionOutcome {
    /// Returns the report of the outcome.
    pub(super) fn report(&self, round: &ExpansionRound<'_>) -> Report {
        let quiet = |message: &'static str, next| Report::quiet(message, round.who(), next);
        let with_error = |error: &ApiError| Fields { error: Some(error.to_string()), ..round.who() };
        match self {
            Self::Foreign => quiet("asks for more, but is not ours to expand", Next::Done),
            Self::VolumeGone => quiet("asks for more, but its volume is gone", Next::Done),
            Self::Ignored(why) => {
                let fields = Fields { reason: Some(format!("{why:?}")), ..round.who() };
                Report::quiet("ignored", fields, Next::Done)
            }
            Self::Refused { refusal, is_said } => {
                let next = after_refusal(refusal);
                if *is_said { refused(refusal, next, round) } else { quiet("still refused", next) }
            }
            Self::WaitsForPromise => {
                let message = "other claims were promised the free capacity first; will look again";
                quiet(message, Next::Retry(RetryReason::Headroom))
            }
            Self::FailedToRead(error) => {
                let next = Next::Retry(RetryReason::ApiServer);
                Report::warning("failed to read the volume", with_error(error), next)
            }
            Self::Changed(error) => {
                let next = Next::Retry(RetryReason::Changed);
                Report::quiet("changed while it was being expanded; will try again", with_error(error), next)
            }
            Self::Failed(error) => Report {
                level: Level::ERROR,
                message: Cow::Borrowed("failed to grow the volume"),
                fields: with_error(error),
                event: Some(round.failed(&error.to_string())),
                counts: vec![Count::Expansion(FAILED)],
                next: Next::Retry(RetryReason::ApiServer),
            },
            Self::Expanded { to } => expanded(to, round),
        }
    }
}

fn after_refusal(refusal: &ExpansionRefusal) -> Next {
    match (refusal.may_pass(), refusal.is_for_room()) {
        (false, _) => Next::SayAgain,
        (true, true) => Next::Retry(RetryReason::Headroom),
        (true, false) => Next::Retry(RetryReason::ApiServer),
    }
}

fn refused(refusal: &ExpansionRefusal, next: Next, round: &ExpansionRound<'_>) -> Report {
    let words = refusal.to_string();
    Report {
        event: Some(round.failed(&words)),
        counts: vec![Count::Expansion(REFUSED)],
        ..Report::warning("refused to grow the volume", Fields { reason: Some(words), ..round.who() }, next)
    }
}

fn expanded(to: &Quantity, round: &ExpansionRound<'_>) -> Report {
    let (from, to) = (&round.expansion.capacity.0, &to.0);
    Report {
        level: Level::INFO,
        message: Cow::Borrowed("expanded"),
        fields: Fields {
            class: Some(round.expansion.class.to_string()),
            from: Some(from.clone()),
            to: Some(to.clone()),
            milliseconds: Some(milliseconds(round.took)),
            ..round.who()
        },
        event: Some((Reason::VolumeResizeSuccessful, format!("Resize volume succeeded: from {from} to {to}"))),
        counts: vec![Count::Expansion(SUCCEEDED)],
        next: Next::Done,
    }
}
