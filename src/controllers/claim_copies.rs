//! Orders copies for claims, and tells claims how far their copies are.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

use crate::cluster::events::Reason;
use crate::controllers::attempts::{Attempts, Stage};
use crate::controllers::context::Context;
use crate::controllers::copies::{Copies, Copy, CopyJob, CopyState};
use crate::decide::claim::Provision;
use crate::model::claim::Claim;
use crate::model::exports::Location;
use crate::storage::{Created, StorageError};
use crate::values::names::VolumeName;
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
        self.copies.clear(volume, at).await;
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

    /// Returns how a claim's copy has ended, if it has. Starts the copy if it is not under way.
    pub(super) fn result(&self, claim: &Claim, job: CopyJob) -> Option<Result<Created, StorageError>> {
        let uid = &claim.claim.uid;
        if let Some((_, Stage::Copying(copy))) = self.attempts.get(uid) {
            match (copy.state(), *copy.job() == job) {
                (CopyState::Ended(Ok(created)), true) => return Some(Ok(created)),
                (CopyState::Ended(Err(error)), true) => {
                    self.attempts.set(uid, Stage::Reserved);
                    return Some(Err(error));
                }
                // A copy for another order has ended. A new one is started.
                (CopyState::Ended(_), false) => {}
                (CopyState::Waiting | CopyState::Running, true) => return None,
                (CopyState::Waiting | CopyState::Running, false) => {
                    copy.cancel();
                    return None;
                }
            }
        }
        let copy = self.copies.start(job);
        self.attempts.set(uid, Stage::Copying(copy.clone()));
        let (context, claim) = (self.context.clone(), claim.clone());
        tokio::spawn(async move { follow(&context, &claim, &copy).await });
        None
    }

    /// Removes the staging place of a finished copy, in the background.
    pub(super) fn clear_later(&self, volume: VolumeName, at: Location) {
        let copies = self.copies.clone();
        tokio::spawn(async move { copies.clear(&volume, &at).await });
    }
}

/// Returns the copy to be made for a claim, if it is to be one.
pub(super) fn copy_job(claim: &Claim, provision: &Provision) -> Option<CopyJob> {
    let source = provision.copy_of.as_ref()?;
    Some(CopyJob {
        volume: claim.volume_name(),
        from: source.at.clone(),
        to: provision.at.clone(),
        top: provision.ownership,
        group: source.gid.zip(provision.volume.gid),
    })
}

/// Reports the progress of a copy to its claim, and queues the claim when the copy has ended.
async fn follow(context: &Context, claim: &Claim, copy: &Copy) {
    copy.begun().await;
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
        debug!(claim = %claim.claim, "the copy ended before it was complete");
    }
    context.state.changed_claims.push(claim.claim.uid.clone());
}

/// Reports the progress of a copy to its claim, forever.
async fn tell(context: &Context, claim: &Claim, copy: &Copy) {
    let message = "copying the files of the claim that spec.dataSource names".to_owned();
    context.recorder.record(&claim.claim, Reason::Cloning, message).await;
    let (started, mut after) = (Instant::now(), SAY_AFTER);
    loop {
        sleep_until(started + after).await;
        let (files, mebibytes) = (copy.progress().files(), copy.progress().bytes() >> 20);
        let message = format!("copied {files} files and {mebibytes} MiB so far");
        context.recorder.record(&claim.claim, Reason::Cloning, message).await;
        after *= 2;
    }
}
