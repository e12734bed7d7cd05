//! Grows the volumes of bound claims that ask for more: gives the volume its new capacity, then the claim's status.
//!
//! Nothing on the export is touched. What a crash leaves behind: before the volume has its new capacity, nothing; after
//! it, a claim that does not say so yet, which the next round for the claim does; after that, nothing that is missing.
//! Each change is made to what was read and to nothing newer, so that of two processes that both believe to lead the
//! second changes nothing, and a claim that has asked for something else meanwhile comes back.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::cluster::api::ApiError;
use crate::cluster::events::Reason;
use crate::cluster::permissions::{Awaited, listed};
use crate::cluster::state::{Key, Promise};
use crate::controllers::context::Context;
use crate::decide::{ExpansionPlan, ExpansionRefusal, Means, for_expansion};
use crate::failpoint::Failpoint;
use crate::model::expansion::Expansion;
use crate::model::volume::Volume;
use crate::observe::metrics::{FAILED, REFUSED, SUCCEEDED, result};
use crate::queue::{Next, RetryReason, is_worth_saying};
use crate::values::quantity;
use crate::values::time::milliseconds;

/// The side of the program that grows volumes.
#[derive(Debug)]
pub struct Expander {
    context: Context,
    rights: Awaited,
}

impl Expander {
    /// Puts it together from its parts. `rights` are those that it takes.
    #[must_use]
    pub fn new(context: Context, rights: Awaited) -> Self {
        Self { context, rights }
    }

    /// One round for the bound claim with this uid, which has failed `failures` times in a row.
    pub async fn reconcile(&self, uid: Key, failures: u32) -> Next {
        let Some(expansion) = self.context.catalog.expansion(&uid) else { return Next::Done };
        if !self.may_be_ours(&expansion) {
            debug!(claim = %name(&expansion), "grows, but is another's");
            return Next::Done;
        }
        // Of volumes that have a claim nothing is kept but where they are. Claims grow seldom.
        let volume = match self.context.cluster.volume(&expansion.volume).await {
            Ok(Some(volume)) => volume,
            Ok(None) => {
                debug!(claim = %name(&expansion), volume = &*expansion.volume, "grows, but its volume has gone");
                return Next::Done;
            }
            Err(error) => {
                warn!(claim = %name(&expansion), volume = &*expansion.volume, %error, "failed to read the volume");
                return Next::Retry(RetryReason::ApiServer);
            }
        };
        let lacking = listed(&self.rights.missing().await);
        let class = self.context.catalog.class(&expansion.class);
        let needs = class.as_ref().map(|class| class.parameters.needs.clone()).unwrap_or_default();
        let headrooms =
            self.context.exports.map(|(id, export)| export.room(self.context.catalog.promised(id, &volume.name)));
        let means = Means { lacking: &lacking, needs: &needs, headrooms: &headrooms };
        match for_expansion(&expansion, &volume, &means, &self.context.scope) {
            ExpansionPlan::Ignore(why) => {
                debug!(claim = %name(&expansion), volume = &*expansion.volume, ?why, "ignored");
                Next::Done
            }
            ExpansionPlan::Refuse(refusal) if refusal.is_for_room() && !is_worth_saying(failures) => {
                Next::Retry(RetryReason::Headroom)
            }
            ExpansionPlan::Refuse(refusal) => self.refuse(&expansion, &refusal).await,
            ExpansionPlan::Grow { capacity, volume_too: None } => {
                self.grow(&expansion, None, &capacity, failures).await
            }
            ExpansionPlan::Grow { capacity, volume_too: Some((bytes, most)) } => {
                if !self.context.catalog.promise(&volume.name, Promise { bytes, most }) {
                    debug!(claim = %name(&expansion), "others were faster to be promised what there is, looks again");
                    return Next::Retry(RetryReason::Headroom);
                }
                let after = self.grow(&expansion, Some(&volume), &capacity, failures).await;
                if after != Next::Done {
                    // Perhaps it has grown all the same: then the watch says so.
                    let bytes = volume.capacity.as_ref().map_or(0, quantity::bytes);
                    let _ = self.context.catalog.promise(&volume.name, Promise { bytes, most: None });
                }
                after
            }
        }
    }

    /// Whether it is worth a look at the volume: it lies on our export, or it may have been made so lately that this
    /// is not known yet.
    fn may_be_ours(&self, expansion: &Expansion) -> bool {
        let catalog = &self.context.catalog;
        let class = catalog.class(&expansion.class);
        let class_is_ours = class.is_some_and(|class| *class.provisioner == *self.context.scope.provisioner);
        class_is_ours || catalog.exists(&expansion.volume)
    }

    async fn refuse(&self, expansion: &Expansion, refusal: &ExpansionRefusal) -> Next {
        warn!(claim = %name(expansion), volume = &*expansion.volume, reason = %refusal, "refused to grow the volume");
        self.context.metrics.expansions.get_or_create(&result(REFUSED)).inc();
        self.say_failed(expansion, &refusal.to_string()).await;
        if !refusal.may_pass() {
            return Next::Done;
        }
        Next::Retry(if refusal.is_for_room() { RetryReason::Headroom } else { RetryReason::ApiServer })
    }

    async fn grow(&self, expansion: &Expansion, volume: Option<&Volume>, to: &Quantity, failures: u32) -> Next {
        let started = Instant::now();
        let _under_way = if failures == 0 {
            let message = format!("External resizer is resizing volume {}", expansion.volume);
            Some(self.context.recorder.record_start(expansion, Reason::Resizing, message).await)
        } else {
            None
        };
        if let Err(error) = self.write(expansion, volume, to).await {
            return self.failed(expansion, &error).await;
        }
        let from = &expansion.capacity.0;
        info!(
            claim = %name(expansion), volume = &*expansion.volume, class = &*expansion.class, from, to = to.0,
            milliseconds = milliseconds(started.elapsed()), "expanded"
        );
        self.context.metrics.expansions.get_or_create(&result(SUCCEEDED)).inc();
        let message = format!("Resize volume succeeded: from {from} to {}", to.0);
        self.context.recorder.record(expansion, Reason::VolumeResizeSuccessful, message).await;
        Next::Done
    }

    /// Gives the capacity to the volume, if it needs it, and then to the claim.
    async fn write(&self, expansion: &Expansion, volume: Option<&Volume>, to: &Quantity) -> Result<(), ApiError> {
        if let Some(volume) = volume {
            self.context.cluster.grow_volume(volume, to).await?;
            Failpoint::VolumeGrown.passed();
        }
        self.context.cluster.grow_claim(expansion, to).await?;
        Failpoint::ClaimGrown.passed();
        Ok(())
    }

    async fn failed(&self, expansion: &Expansion, error: &ApiError) -> Next {
        if error.is_conflict() || error.is_not_found() {
            debug!(claim = %name(expansion), %error, "has changed while it was to grow");
            return Next::Retry(RetryReason::Changed);
        }
        error!(claim = %name(expansion), volume = &*expansion.volume, %error, "failed to grow the volume");
        self.context.metrics.expansions.get_or_create(&result(FAILED)).inc();
        self.say_failed(expansion, &error.to_string()).await;
        Next::Retry(RetryReason::ApiServer)
    }

    async fn say_failed(&self, expansion: &Expansion, cause: &str) {
        let (volume, resizer) = (&expansion.volume, &self.context.scope.provisioner);
        let message = format!("resize volume {volume:?} by resizer {resizer:?} failed: {cause}");
        self.context.recorder.record(expansion, Reason::VolumeResizeFailed, message).await;
    }
}

fn name(expansion: &Expansion) -> String {
    format!("{}/{}", expansion.namespace, expansion.name)
}
