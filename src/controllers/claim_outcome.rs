//! Outcomes of a round for a pending claim, and how each is reported.

use std::borrow::Cow;
use std::time::Duration;

use tracing::Level;

use crate::cluster::api::ApiError;
use crate::cluster::events::Reason;
use crate::controllers::report::{Count, Fields, Report};
use crate::decide::claim::ClaimIgnored;
use crate::decide::refusal::{ClaimRefusal, Passing};
use crate::decide::restore::Entry;
use crate::model::claim::{Claim, DataSource};
use crate::model::parameters::{BadParameter, Fate};
use crate::model::volume::annotation;
use crate::queue::{Next, RetryReason};
use crate::storage::{Problem, StorageError};
use crate::values::names::VolumeName;
use crate::values::time::milliseconds;

/// The outcome of a round for a pending claim.
#[derive(Debug)]
pub(super) enum ClaimOutcome {
    /// The claim has its volume, and only has to be bound to it.
    AwaitsBinding,
    /// The claim is left alone.
    Ignored(ClaimIgnored),
    /// The claim's author has to change something, or to wait.
    Refused {
        /// The reason.
        refusal: ClaimRefusal,
        /// Whether another volume stands in the way, so that the refusal can pass without a change to the claim.
        by_neighbour: bool,
        /// Whether to report the refusal: one that passes by itself is not reported at each try.
        is_said: bool,
    },
    /// The claim waits until what is in its place has been moved away.
    WaitsForMove,
    /// The claim waits until a volume with the same directory, whose claim has gone, has been reclaimed.
    WaitsForRelease {
        /// The volume.
        volume: VolumeName,
        /// How often the claim has waited for it in a row.
        failures: u32,
    },
    /// The claim waits until a volume, whose data it is to get back, has been reclaimed.
    WaitsForData {
        /// The volume.
        volume: VolumeName,
        /// How often the claim has waited for it in a row.
        failures: u32,
    },
    /// The volumes have been listed anew meanwhile, so that who has the directory has to be found out again.
    WaitsForList,
    /// Other claims were promised the export's capacity first.
    WaitsForPromise,
    /// The claim's volume exists, but in another place than the claim is to have now.
    ExistsElsewhere,
    /// A copy for the claim is being made, or stopped.
    Copying,
    /// This process does not lead.
    NotLeading,
    /// The API server did not tell what the round needs to know.
    FailedToRead(Unread, ApiError),
    /// The directory could not be made.
    FailedToMake {
        /// The error and its remedy, in words.
        words: String,
        /// The path that the error is about.
        path: String,
    },
    /// The volume could not be created.
    FailedToCreate(ApiError),
    /// The claim's volume has been created.
    Provisioned(Directory),
}

/// A question that the API server did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    /// The claim's class.
    Class,
    /// The claim to copy.
    Source,
    /// The volumes that have the claim's directory.
    Predecessor,
    /// The groups of all volumes.
    Gids,
    /// The volume in the place that the claim had before.
    Elsewhere,
    /// The cluster's mark.
    Mark,
}

/// The origin of a volume's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Directory {
    /// The directory was made.
    New,
    /// The directory existed before.
    Adopted,
    /// The directory is a copy.
    Copied,
    /// The directory was archived or deleted, and brought back.
    Restored(Box<Entry>),
}

/// The facts about a round that its report names.
#[derive(Debug)]
pub(super) struct ClaimRound<'a> {
    /// The claim.
    pub(super) claim: &'a Claim,
    /// The provisioner's name.
    pub(super) provisioner: &'a str,
    /// Whether the claim's class exists: only then is it a label in metrics.
    pub(super) class_exists: bool,
    /// The name of the chosen export, and the path on it.
    pub(super) at: Option<(&'a str, &'a str)>,
    /// The class's parameter that leaves the fate of the directory in doubt, and what that fate is until it is put
    /// right.
    pub(super) doubt: Option<&'a (BadParameter, Fate)>,
    /// The duration of the round.
    pub(super) took: Duration,
}

impl ClaimRound<'_> {
    /// Names the claim and its class.
    fn who(&self) -> Fields {
        let class = Some(self.claim.class.to_string());
        Fields { claim: Some(self.claim.claim.to_string()), class, ..Fields::default() }
    }

    /// Names the claim, its class, its volume and the volume's place.
    fn whole(&self) -> Fields {
        Fields {
            volume: Some(self.claim.volume_name().to_string()),
            export: self.at.map(|(export, _)| export.to_owned()),
            path: self.at.map(|(_, path)| path.to_owned()),
            milliseconds: Some(milliseconds(self.took)),
            ..self.who()
        }
    }

    /// Returns the kind of the claim's data source, as upstream's library counts it.
    fn source(&self) -> &'static str {
        match self.claim.source {
            Some(DataSource::Claim(_) | DataSource::Abroad { .. }) => "PersistentVolumeClaim",
            Some(DataSource::Snapshot(_)) => "VolumeSnapshot",
            Some(DataSource::Other) | None => "",
        }
    }

    fn not_provisioned(&self) -> Count {
        Count::NotProvisioned { class: self.claim.class.clone(), source: self.source() }
    }

    fn warning(&self, message: &'static str, error: &ApiError) -> Report {
        let fields = Fields { error: Some(error.to_string()), ..self.who() };
        Report::warning(message, fields, Next::Retry(RetryReason::ApiServer))
    }
}

impl ClaimOutcome {
    /// Returns the outcome of a round in which the export has refused something, `words` being the error and its remedy.
    pub(super) fn failed_to_make(error: &StorageError, words: &str) -> Self {
        if error.problem == Problem::NotLeading {
            return Self::NotLeading;
        }
        Self::FailedToMake { words: words.to_owned(), path: error.path.clone() }
    }

    /// Returns the report of the outcome.
    pub(super) fn report(&self, round: &ClaimRound<'_>) -> Report {
        let quiet = |message: &'static str, next| Report::quiet(message, round.who(), next);
        match self {
            // If the volume goes before the claim is bound to it, the claim comes back.
            Self::AwaitsBinding => quiet("already has its volume and waits to be bound to it", Next::Done),
            Self::Ignored(why) => {
                let fields = Fields { reason: Some(format!("{why:?}")), ..round.who() };
                Report::quiet("ignored", fields, Next::Done)
            }
            Self::Refused { refusal, by_neighbour, is_said } => {
                let next = after_refusal(refusal, *by_neighbour);
                if *is_said { refused(refusal, next, round) } else { quiet("still refused", next) }
            }
            Self::WaitsForMove => {
                quiet("waits until what is at its path has been moved away", Next::Retry(RetryReason::Neighbour))
            }
            Self::WaitsForRelease { volume, failures } => {
                let advice = format!(
                    ". To keep its data for this claim instead, annotate the volume with {}: retain",
                    annotation::ON_DELETE
                );
                waits_for_release(volume, ("and which has the same directory", &advice), *failures, round)
            }
            Self::WaitsForData { volume, failures } => {
                waits_for_release(volume, ("and whose data this claim is to get back", ""), *failures, round)
            }
            Self::WaitsForList => quiet("waits for a list of all volumes", Next::Retry(RetryReason::Changed)),
            Self::WaitsForPromise => {
                let message = "other claims were promised the free capacity first; will look again";
                quiet(message, Next::Retry(RetryReason::Headroom))
            }
            Self::ExistsElsewhere => {
                quiet("already has a volume at another path", Next::Retry(RetryReason::Neighbour))
            }
            Self::Copying => quiet("waits for its copy", Next::Done),
            Self::NotLeading => quiet("left to the leader", Next::PutBack),
            Self::FailedToRead(what, error) => round.warning(what.message(), error),
            Self::FailedToMake { words, path } => failed_to_make(words, path, round),
            Self::FailedToCreate(error) => failed_to_create(error, round),
            Self::Provisioned(directory) => provisioned(directory, round),
        }
    }
}

impl ClaimOutcome {
    /// Returns the event that warns the claim's author, beside that of the report, of what its class leaves in doubt.
    pub(super) fn warning(&self, round: &ClaimRound<'_>) -> Option<(Reason, String)> {
        let (bad, fate) = round.doubt.filter(|_| matches!(self, Self::Provisioned(_)))?;
        let class = round.claim.class.as_str();
        let message = format!(
            "the StorageClass {class:?} does not say clearly what happens to the data when this claim is deleted: {bad}. \
             Until that is put right, it is {fate}: delete the StorageClass and create it again with a valid value",
            fate = match fate {
                Fate::Retain => "kept where it is",
                Fate::Archive | Fate::Delete => "archived",
            },
        );
        Some((Reason::ReclaimUnclear, message))
    }
}

impl Unread {
    fn message(self) -> &'static str {
        match self {
            Self::Class => "failed to read the StorageClass",
            Self::Source => "failed to read the claim to copy",
            Self::Predecessor => "failed to find out whose directory the claim is to have",
            Self::Gids => "failed to read which groups are in use",
            Self::Mark => "failed to read the namespace kube-system, which marks this cluster's notes",
            Self::Elsewhere => "failed to find out whether the claim has a volume at another path",
        }
    }
}

/// Returns why a refused claim is tried again that is served once there is such a change.
pub(super) fn awaited(passing: Passing) -> RetryReason {
    match passing {
        Passing::Headroom => RetryReason::Headroom,
        Passing::Source => RetryReason::Source,
        Passing::Export => RetryReason::Export,
    }
}

/// Decides when a refused claim is looked at again. If the cause does not pass by itself, the claim comes back
/// when it or its class changes, and to say so again.
fn after_refusal(refusal: &ClaimRefusal, by_neighbour: bool) -> Next {
    match refusal.passes_with() {
        Some(passing) => Next::Retry(awaited(passing)),
        None if by_neighbour => Next::Retry(RetryReason::Neighbour),
        None => Next::SayAgain,
    }
}

fn refused(refusal: &ClaimRefusal, next: Next, round: &ClaimRound<'_>) -> Report {
    let message = refusal.message(&round.claim.class, round.provisioner);
    let not_provisioned = round.class_exists.then(|| round.not_provisioned());
    Report {
        event: Some((Reason::ProvisioningFailed, message.clone())),
        counts: not_provisioned.into_iter().chain([Count::ClaimRefused(refusal.reason())]).collect(),
        ..Report::warning("refused", Fields { reason: Some(message), ..round.who() }, next)
    }
}

/// Reports a wait for another volume: as a rule it is over within a second, and not worth an event.
fn waits_for_release(
    volume: &VolumeName,
    (why, advice): (&str, &str),
    failures: u32,
    round: &ClaimRound<'_>,
) -> Report {
    const SHORT: u32 = 3;
    let next = Next::Retry(RetryReason::Neighbour);
    if failures < SHORT || !RetryReason::Neighbour.is_worth_saying(failures) {
        return Report::quiet("waits for a volume whose claim has gone to be reclaimed", round.who(), next);
    }
    let message = format!(
        "waits for the volume {:?}, whose claim has gone {why}, to be reclaimed: kubectl describe pv tells what is in its \
         way{advice}",
        volume.as_str(),
    );
    let fields = Fields { reason: Some(message.clone()), ..round.who() };
    Report {
        event: Some((Reason::ProvisioningFailed, message)),
        counts: vec![round.not_provisioned()],
        ..Report::warning("waits for another volume", fields, next)
    }
}

fn failed_to_make(words: &str, path: &str, round: &ClaimRound<'_>) -> Report {
    let (class, fields) = (&round.claim.class, round.whole());
    let cause = format!("unable to create directory to provision new pv: {words}");
    let message = format!("failed to provision volume with StorageClass {:?}: {cause}", class.as_str());
    Report {
        level: Level::ERROR,
        message: Cow::Borrowed("failed to make the directory"),
        fields: Fields { path: Some(path.to_owned()), error: Some(words.to_owned()), ..fields },
        event: Some((Reason::ProvisioningFailed, message)),
        counts: vec![round.not_provisioned()],
        next: Next::Retry(RetryReason::Export),
    }
}

fn failed_to_create(error: &ApiError, round: &ClaimRound<'_>) -> Report {
    let message = format!(
        "Error creating provisioned PV object for claim {}: {error}. The provisioner will try again; a \
         directory that existed before is left as it was.",
        round.claim.claim
    );
    Report {
        level: Level::ERROR,
        message: Cow::Borrowed("failed to create the volume"),
        fields: Fields { error: Some(error.to_string()), ..round.whole() },
        event: Some((Reason::ProvisioningFailed, message)),
        counts: vec![round.not_provisioned()],
        next: Next::Retry(RetryReason::ApiServer),
    }
}

fn provisioned(directory: &Directory, round: &ClaimRound<'_>) -> Report {
    let how = match directory {
        Directory::New => Cow::Borrowed(""),
        Directory::Adopted => Cow::Borrowed(" in a directory that was there before"),
        Directory::Copied => Cow::Borrowed(" as a copy"),
        Directory::Restored(entry) => Cow::Owned(entry.in_words()),
    };
    let message = format!("Successfully provisioned volume {}{how}", round.claim.volume_name());
    let (class, source, took) = (round.claim.class.clone(), round.source(), round.took);
    Report {
        level: Level::INFO,
        message: Cow::Borrowed("provisioned"),
        fields: Fields { adopted: Some(*directory == Directory::Adopted), ..round.whole() },
        event: Some((Reason::ProvisioningSucceeded, message)),
        counts: vec![Count::Provisioned { class, source, took }],
        next: Next::Done,
    }
}
