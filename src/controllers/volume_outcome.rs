//! Outcomes of a round for a volume, and how each is reported.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use tracing::Level;

use crate::cluster::api::ApiError;
use crate::cluster::events::Reason;
use crate::controllers::report::{Count, Fields, Report};
use crate::decide::volume::{Doubt, VolumeIgnored, VolumeRefusal};
use crate::ledger::placements::Neighbour;
use crate::model::parameters::Fate;
use crate::model::volume::Volume;
use crate::queue::{Next, RetryReason};
use crate::values::names::{ClaimRef, ClassName};
use crate::values::path::Name;
use crate::values::time::milliseconds;

/// The outcome of a round for a volume.
#[derive(Debug)]
pub(super) enum VolumeOutcome {
    /// The volume is left alone.
    Ignored(VolumeIgnored),
    /// An admin has to look after the volume.
    Refused(VolumeRefusal),
    /// Our finalizer was added to the volume, or removed from it.
    Patched,
    /// Our finalizer was removed from a volume that an admin has deleted while no claim had it.
    LetGo,
    /// Our finalizer could not be added or removed.
    FailedToPatch(&'static str, ApiError),
    /// The directory is being copied for a claim.
    BeingCopied,
    /// The volume stays until this claim is a copy of it.
    WaitsForCopy {
        /// The claim.
        claim: ClaimRef,
        /// Whether to say so in an event.
        is_said: bool,
    },
    /// A claim is being given the directory, or one above or in it.
    BeingGiven,
    /// The volume is not any more as it was when the round began: the watch has not shown it yet.
    Changed,
    /// The volume is gone.
    Gone,
    /// The volume counts as released, but the claim in its `claimRef` exists.
    ClaimExists,
    /// This process does not lead.
    NotLeading,
    /// The round took so long that what it had found out about the volume was no longer certain.
    TookTooLong,
    /// The API server did not tell what the round needs to know.
    FailedToRead(Unread, ApiError),
    /// The directory could not be disposed of.
    FailedToDispose {
        /// The fate that the directory was to have.
        fate: Fate,
        /// The error and its remedy, in words.
        words: String,
    },
    /// The directory is disposed of, but the volume could not be deleted.
    FailedToDelete(Disposal, ApiError),
    /// The directory is disposed of, and the volume is gone.
    Reclaimed(Disposal),
}

/// A question that the API server did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    /// All volumes.
    Volumes,
    /// Another volume that uses the directory.
    Neighbour,
    /// The volume itself.
    Volume,
    /// The volume's class.
    Class,
    /// The volume's claim.
    Claim,
}

impl Unread {
    fn message(self) -> &'static str {
        match self {
            Self::Volumes => "failed to read which volumes exist",
            Self::Neighbour => "failed to find out whether another volume uses the directory",
            Self::Volume => "failed to find out whether the volume is still to be reclaimed",
            Self::Class => "failed to read the StorageClass",
            Self::Claim => "failed to find out whether the volume's claim has gone",
        }
    }
}

/// The way in which a volume's directory was disposed of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Disposal {
    /// The directory stays, because that is its fate.
    Kept,
    /// The directory stays, because another volume uses it.
    Shared(Neighbour),
    /// The directory was archived under this name, until this time if it is not kept for ever.
    Archived(Name, Option<Timestamp>),
    /// The directory was moved into the trash, to be removed at once.
    Removed,
    /// The directory was moved into the trash under this path, and is kept there until this time.
    Trashed {
        /// Where it is now, beneath the export.
        path: Box<str>,
        /// Until when it stays there.
        until: Timestamp,
    },
    /// There was no directory to archive or remove.
    Missing(Fate),
    /// An earlier round disposed of the directory. The text says how.
    Before(Box<str>),
}

/// The facts about a round that its report names.
#[derive(Debug)]
pub(super) struct VolumeRound<'a> {
    /// The volume.
    pub(super) volume: &'a Volume,
    /// Whether the volume's class exists: only then is it a label in metrics, because anybody may write any class
    /// on a volume.
    pub(super) class_exists: bool,
    /// The name of the directory's export, and the path on it.
    pub(super) at: Option<(&'a str, &'a str)>,
    /// The doubt about the directory's fate, for an admin to know.
    pub(super) doubt: Option<&'a Doubt>,
    /// The duration of the round.
    pub(super) took: Duration,
}

impl VolumeRound<'_> {
    /// Names the volume.
    fn who(&self) -> Fields {
        Fields { volume: Some(self.volume.name.to_string()), ..Fields::default() }
    }

    /// Names the volume, its claim, its class and its place.
    fn whole(&self) -> Fields {
        Fields {
            claim: self.volume.claim.as_ref().map(ToString::to_string),
            class: Some(self.volume.class.to_string()),
            export: self.at.map(|(export, _)| export.to_owned()),
            path: self.at.map(|(_, path)| path.to_owned()),
            milliseconds: Some(milliseconds(self.took)),
            ..self.who()
        }
    }

    fn class(&self) -> Option<ClassName> {
        self.class_exists.then(|| self.volume.class.clone())
    }

    fn path(&self) -> &str {
        self.at.map_or("", |(_, path)| path)
    }

    fn warning(&self, message: impl Into<Cow<'static, str>>, error: &ApiError) -> Report {
        let fields = Fields { error: Some(error.to_string()), ..self.who() };
        Report::warning(message, fields, Next::Retry(RetryReason::ApiServer))
    }

    fn failure(&self, message: String, fields: Fields, event: String, reason: RetryReason) -> Report {
        Report {
            level: Level::ERROR,
            message: message.into(),
            fields,
            event: Some((Reason::VolumeFailedDelete, event)),
            counts: vec![Count::NotDeleted { class: self.class() }],
            next: Next::Retry(reason),
        }
    }
}

impl VolumeOutcome {
    /// Returns the report of the outcome.
    pub(super) fn report(&self, round: &VolumeRound<'_>) -> Report {
        let neighbour = Next::Retry(RetryReason::Neighbour);
        match self {
            Self::Ignored(why) => {
                let fields = Fields { reason: Some(format!("{why:?}")), ..round.who() };
                Report::quiet("ignored", fields, Next::Done)
            }
            Self::Refused(refusal) => refused(refusal, round),
            Self::Patched => Report::quiet("finalizer is up to date", round.who(), Next::Done),
            Self::LetGo => let_go(round),
            Self::FailedToPatch(doing, error) => round.warning(format!("failed to {doing} the volume"), error),
            Self::BeingCopied => Report::quiet("its directory is being copied", round.who(), neighbour),
            Self::WaitsForCopy { claim, is_said } => waits_for_copy(claim, *is_said, round),
            Self::BeingGiven => Report::quiet("a claim is being given the directory", round.who(), neighbour),
            Self::Changed => {
                let message = "is not as it was when the round began; will look again";
                Report::quiet(message, round.who(), Next::Retry(RetryReason::Changed))
            }
            Self::Gone => Report::quiet("is gone already", round.who(), Next::Done),
            Self::ClaimExists => {
                let message = "counts as released, but its claim exists; will look again";
                Report::quiet(message, round.who(), Next::Retry(RetryReason::Changed))
            }
            Self::NotLeading => Report::quiet("left to the leader", round.who(), Next::PutBack),
            Self::TookTooLong => {
                let message = "the API server or the export took so long that the volume is looked at again";
                Report::warning(message, round.whole(), Next::Retry(RetryReason::Export))
            }
            Self::FailedToRead(what, error) => round.warning(what.message(), error),
            Self::FailedToDispose { fate, words } => {
                let fields = Fields { error: Some(words.clone()), ..round.whole() };
                round.failure(
                    format!("failed to {fate} the directory"),
                    fields,
                    words.clone(),
                    RetryReason::Export,
                )
            }
            Self::FailedToDelete(disposal, error) => {
                let done = disposal.words(round.path());
                let event = format!("{done}, but the volume could not be deleted: {error}");
                let fields = Fields { done: Some(done), error: Some(error.to_string()), ..round.whole() };
                round.failure("failed to delete the volume".to_owned(), fields, event, RetryReason::ApiServer)
            }
            Self::Reclaimed(disposal) => reclaimed(disposal, round),
        }
    }
}

impl Disposal {
    /// Says what was done to the directory at `path`.
    pub(super) fn words(&self, path: &str) -> String {
        match self {
            Self::Kept => format!("kept {path:?}"),
            Self::Shared(Neighbour { volume, relation, .. }) => {
                let because = format!("the volume {:?} has {relation}", volume.as_str());
                format!("kept {path:?}, because {because}: the last of them to go decides")
            }
            Self::Archived(name, None) => format!("archived {path:?} as {:?}", name.as_str()),
            Self::Archived(name, Some(until)) => {
                format!("archived {path:?} as {:?}, kept until {until}", name.as_str())
            }
            Self::Removed => format!("removed {path:?}"),
            Self::Trashed { path: entry, until } => {
                format!("put {path:?} into the trash as {entry:?}, kept until {until}")
            }
            Self::Missing(_) => format!("found no directory {path:?}"),
            Self::Before(done) => format!("{done} before"),
        }
    }

    /// Returns the disposal's name in metrics.
    fn label(&self) -> &'static str {
        match self {
            Self::Kept => Fate::Retain.as_str(),
            Self::Shared(_) => "shared",
            Self::Archived(..) => Fate::Archive.as_str(),
            Self::Removed | Self::Trashed { .. } => Fate::Delete.as_str(),
            Self::Missing(fate) => fate.as_str(),
            Self::Before(_) => "before",
        }
    }
}

fn waits_for_copy(claim: &ClaimRef, is_said: bool, round: &VolumeRound<'_>) -> Report {
    let message = format!(
        "stays until the PersistentVolumeClaim {claim} is a copy of it, and is reclaimed then. To have it reclaimed \
         now, delete that claim."
    );
    let fields = Fields { reason: Some(message.clone()), ..round.who() };
    let event = is_said.then_some((Reason::VolumeWaitsForCopy, message));
    Report { event, ..Report::quiet("a claim is to be a copy of it", fields, Next::Retry(RetryReason::Neighbour)) }
}

fn refused(refusal: &VolumeRefusal, round: &VolumeRound<'_>) -> Report {
    let fields = Fields {
        path: round.volume.source.as_ref().map(|source| source.path.to_string()),
        milliseconds: None,
        reason: Some(refusal.to_string()),
        ..round.whole()
    };
    Report {
        event: Some((Reason::VolumeFailedDelete, refusal.to_string())),
        counts: vec![Count::VolumeRefused(refusal.reason())],
        // A volume's place never changes, so another try would not help.
        ..Report::warning("refused", fields, Next::SayAgain)
    }
}

/// Reports that the directory of a volume stays, because the volume was deleted while no claim had it.
fn let_go(round: &VolumeRound<'_>) -> Report {
    let path = round.volume.source.as_ref().map(|source| source.path.to_string()).unwrap_or_default();
    let done = format!(
        "kept {path:?}, because the volume was deleted while no claim had it: remove the directory by hand if it is to go"
    );
    Report {
        level: Level::INFO,
        message: Cow::Borrowed("let a deleted volume go"),
        fields: Fields { done: Some(done.clone()), path: Some(path), ..round.whole() },
        event: Some((Reason::VolumeDirectoryKept, done)),
        counts: Vec::new(),
        next: Next::Done,
    }
}

/// Reports how the directory was disposed of. There is an event only about what an admin would not
/// expect, and about what can be had back until some time.
fn reclaimed(disposal: &Disposal, round: &VolumeRound<'_>) -> Report {
    let done = disposal.words(round.path());
    let doubt = round.doubt.filter(|_| !matches!(disposal, Disposal::Shared(_)));
    let event = match (disposal, doubt) {
        (Disposal::Shared(_), _) => Some((Reason::VolumeDirectoryKept, done.clone())),
        (_, Some(doubt)) => Some((Reason::VolumeReclaimUnclear, format!("{done}, because {doubt}"))),
        (Disposal::Trashed { .. }, None) => Some((Reason::VolumeDirectoryTrashed, done.clone())),
        (_, None) => None,
    };
    let fields = Fields { done: Some(done), doubt: doubt.map(ToString::to_string), ..round.whole() };
    Report {
        level: if doubt.is_some() { Level::WARN } else { Level::INFO },
        message: Cow::Borrowed("reclaimed"),
        fields,
        event,
        counts: vec![
            Count::Deleted { class: round.class(), took: round.took },
            Count::Reclaimed(disposal.label()),
        ],
        next: Next::Done,
    }
}
