//! Orders copies for claims, and tells claims how far their copies are.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

use crate::cluster::events::Reason;
use crate::controllers::attempts::{Attempts, Failure, Stage};
use crate::controllers::context::Context;
use crate::controllers::copies::{Copies, Copy, CopyError, CopyJob, CopyState};
use crate::decide::claim::Provision;
use crate::model::claim::Claim;
use crate::model::exports::{ExportId, Location};
use crate::storage::{Created, StorageError};
use crate::values::names::{ClaimUid, VolumeName};
use crate::values::time::milliseconds;

/// The time after which the progress of a copy is first reported. Each later report comes after twice the time of
/// the one before.
const SAY_AFTER: Duration = Duration::from_secs(30);

/// The copies of claims. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct ClaimCopies {
    context: Context,
    copies: Copies,
    attempts: Arc<Attempts>,
}

impl ClaimCopies {
    /// Puts it together from its parts.
    pub(super) fn new(context: Context, copies: Copies, attempts: Arc<Attempts>) -> Self {
        Self { context, copies, attempts }
    }

    /// Empties the staging place of a claim's copy.
    pub(super) async fn clear(&self, volume: &VolumeName, at: &Location) {
        self.copies.clear(volume, at.export).await;
    }

    /// Forgets a claim's copy that has ended well but is not in its place any more, so that it is made again.
    ///
    /// # Errors
    /// Returns any error of looking at the place.
    pub(super) async fn look_again(&self, claim: &Claim) -> Result<(), StorageError> {
        let uid = &claim.claim.uid;
        let Some((at, Stage::Copying(copy))) = self.attempts.get(uid) else { return Ok(()) };
        if matches!(copy.state(), CopyState::Ended(Ok(_))) {
            let storage = &self.context.export(&at).storage;
            if !storage.is_placed(claim.volume_name().as_str(), &at.path).await? {
                self.attempts.set(uid, Stage::Reserved);
            }
        }
        Ok(())
    }

    /// Tells whether a claim's copy is in its place, but was made with other owners or another group than the claim
    /// is to have now.
    pub(super) fn is_outdated(&self, claim: &Claim, job: &CopyJob) -> bool {
        let Some((_, Stage::Copying(copy))) = self.attempts.get(&claim.claim.uid) else { return false };
        matches!(copy.state(), CopyState::Ended(Ok(_))) && copy.job() != job
    }

    /// Returns how a claim's copy has ended, if it has. Starts the copy if it is not under way, and worth a try.
    pub(super) fn result(&self, claim: &Claim, job: CopyJob) -> Option<Result<Created, CopyError>> {
        let uid = &claim.claim.uid;
        let mut complete = None;
        match self.attempts.get(uid) {
            Some((_, Stage::Copying(copy))) => match (copy.state(), *copy.job() == job) {
                (CopyState::Ended(Ok(created)), true) => return Some(Ok(created)),
                (CopyState::Ended(Err(_)), true) => return self.fail(uid, &copy).map(Err),
                // A copy for another order has ended. A new one is started.
                (CopyState::Ended(_), false) => {}
                (CopyState::Waiting | CopyState::Running, true) => return None,
                (CopyState::Waiting | CopyState::Running, false) => {
                    copy.cancel();
                    return None;
                }
            },
            Some((_, Stage::Failed(failure))) => {
                let now = self.context.export(&job.to).storage.usage();
                if failure.copy.full.is_some_and(|full| !full.has_passed(now, failure.at.elapsed())) {
                    return Some(Err(failure.copy.error.clone()));
                }
                complete = failure.copy.complete.filter(|_| failure.job == job);
            }
            _ => {}
        }
        let copy = self.copies.start(job, complete);
        self.attempts.set(uid, Stage::Copying(copy.clone()));
        let (context, claim, failures) = (self.context.clone(), claim.clone(), self.attempts.failed_copies(uid));
        tokio::spawn(async move { follow(&context, &claim, &copy, failures).await });
        None
    }

    /// Notes that a claim's copy has failed, and why; returns that. Where there is nothing more to copy, the source is
    /// looked for anew.
    fn fail(&self, uid: &ClaimUid, copy: &Copy) -> Option<CopyError> {
        let CopyState::Ended(Err(failure)) = copy.state() else { return None };
        let error = failure.error.clone();
        if matches!(error, CopyError::SourceChanged | CopyError::NoDirectory) {
            self.attempts.failed_for_good(uid);
            self.let_go(self.context.state.ledger().keep_none_for(uid));
        } else {
            self.attempts.failed(uid, Failure { job: copy.job().clone(), copy: failure, at: Instant::now() });
        }
        Some(error)
    }

    /// Has a volume looked at that does not have to stay any more.
    pub(super) fn let_go(&self, volume: Option<VolumeName>) {
        if let Some(volume) = volume {
            self.context.state.changed_volumes.push(volume);
        }
    }

    /// Removes the staging place of a finished copy, in the background.
    pub(super) fn clear_later(&self, volume: VolumeName, export: ExportId) {
        let copies = self.copies.clone();
        tokio::spawn(async move { copies.clear(&volume, export).await });
    }
}

/// Returns the copy to be made for a claim, if it is to be one.
pub(super) fn copy_job(claim: &Claim, provision: &Provision) -> Option<CopyJob> {
    let source = provision.copy_of.as_ref()?;
    Some(CopyJob {
        volume: claim.volume_name(),
        namespace: claim.claim.namespace.clone(),
        from: source.clone(),
        to: provision.at.clone(),
        top: provision.ownership,
        group: source.gid.zip(provision.volume.gid),
    })
}

/// Reports the progress of a copy to its claim, and queues the claim when the copy has ended. `failures` copies for
/// the claim have failed before.
async fn follow(context: &Context, claim: &Claim, copy: &Copy, failures: u32) {
    tokio::select! {
        biased;
        () = copy.begun() => {}
        () = tell_waiting(context, claim) => {}
    }
    let started = Instant::now();
    tokio::select! {
        biased;
        () = copy.ended() => {}
        () = tell(context, claim, copy) => {}
    }
    if matches!(copy.state(), CopyState::Ended(Ok(_))) {
        let progress = copy.progress();
        info!(
            claim = %claim.claim, volume = copy.job().volume.as_str(), files = progress.files(),
            bytes = progress.bytes(), left_out = progress.left_out(),
            milliseconds = milliseconds(started.elapsed()), "copied"
        );
    } else {
        debug!(claim = %claim.claim, "the copy has failed");
    }
    // What the queue knew of earlier failures, it has forgotten meanwhile.
    context.state.changed_claims.push_failed(claim.claim.uid.clone(), failures);
}

/// Tells a claim that its copy has not begun yet, again and again.
async fn tell_waiting(context: &Context, claim: &Claim) {
    let (started, mut after) = (Instant::now(), SAY_AFTER);
    loop {
        sleep_until(started + after).await;
        let message =
            "the copy waits for its turn: others are being made, or an export does not answer".to_owned();
        context.recorder.record(&claim.claim, Reason::Cloning, &message);
        after *= 2;
    }
}

/// Reports the progress of a copy to its claim, forever.
async fn tell(context: &Context, claim: &Claim, copy: &Copy) {
    let message = "copying the files of the claim that spec.dataSource names".to_owned();
    context.recorder.record(&claim.claim, Reason::Cloning, &message);
    let (started, mut after) = (Instant::now(), SAY_AFTER);
    loop {
        sleep_until(started + after).await;
        let (files, mebibytes) = (copy.progress().files(), copy.progress().bytes() >> 20);
        let message = format!("copied {files} files and {mebibytes} MiB so far");
        context.recorder.record(&claim.claim, Reason::Cloning, &message);
        after *= 2;
    }
}
