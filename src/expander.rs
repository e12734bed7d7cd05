//! Grows the volumes of bound claims that ask for more: gives the volume its new capacity, then the claim's status.
//!
//! Nothing on the export is touched. What a crash leaves behind: before the volume has its new capacity, nothing; after
//! it, a claim that does not say so yet, which the next round for the claim does; after that, nothing that is missing.
//! Each change is made to what was read and to nothing newer, so that of two processes that both believe to lead the
//! second changes nothing, and a claim that has asked for something else meanwhile comes back.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::access::{Awaited, listed};
use crate::catalog::{Key, Promise};
use crate::cluster::ApiError;
use crate::context::Context;
use crate::decide::{GrowthRefusal, GrowthStep, Means, for_growth};
use crate::events::Reason;
use crate::growth::Growth;
use crate::metrics::{FAILED, REFUSED, SUCCEEDED, result};
use crate::quantity;
use crate::queue::{After, Why, is_worth_saying};
use crate::step::Step;
use crate::storage::milliseconds;
use crate::volume::Volume;

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
    pub async fn reconcile(&self, uid: Key, failures: u32) -> After {
        let Some(growth) = self.context.catalog.growth(&uid) else { return After::Done };
        if !self.may_be_ours(&growth) {
            debug!(claim = %name(&growth), "grows, but is another's");
            return After::Done;
        }
        // Of volumes that have a claim nothing is kept but where they are. Claims grow seldom.
        let volume = match self.context.cluster.volume(&growth.volume).await {
            Ok(Some(volume)) => volume,
            Ok(None) => {
                debug!(claim = %name(&growth), volume = &*growth.volume, "grows, but its volume has gone");
                return After::Done;
            }
            Err(error) => {
                warn!(claim = %name(&growth), volume = &*growth.volume, %error, "failed to read the volume");
                return After::Retry(Why::ApiServer);
            }
        };
        let lacking = listed(&self.rights.missing().await);
        let class = self.context.catalog.class(&growth.class);
        let needs = class.as_ref().map(|class| class.parameters.needs.clone()).unwrap_or_default();
        let rooms =
            self.context.sites.map(|(id, site)| site.room(self.context.catalog.promised(id, &volume.name)));
        let means = Means { lacking: &lacking, needs: &needs, rooms: &rooms };
        match for_growth(&growth, &volume, &means, &self.context.identity) {
            GrowthStep::Ignore(why) => {
                debug!(claim = %name(&growth), volume = &*growth.volume, ?why, "ignored");
                After::Done
            }
            GrowthStep::Refuse(refusal) if refusal.is_for_room() && !is_worth_saying(failures) => {
                After::Retry(Why::Room)
            }
            GrowthStep::Refuse(refusal) => self.refuse(&growth, &refusal).await,
            GrowthStep::Grow { capacity, volume_too: None } => self.grow(&growth, None, &capacity, failures).await,
            GrowthStep::Grow { capacity, volume_too: Some((bytes, most)) } => {
                if !self.context.catalog.promise(&volume.name, Promise { bytes, most }) {
                    debug!(claim = %name(&growth), "others were faster to be promised what there is, looks again");
                    return After::Retry(Why::Room);
                }
                let after = self.grow(&growth, Some(&volume), &capacity, failures).await;
                if after != After::Done {
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
    fn may_be_ours(&self, growth: &Growth) -> bool {
        let catalog = &self.context.catalog;
        let class = catalog.class(&growth.class);
        let class_is_ours = class.is_some_and(|class| *class.provisioner == *self.context.identity.provisioner);
        class_is_ours || catalog.exists(&growth.volume)
    }

    async fn refuse(&self, growth: &Growth, refusal: &GrowthRefusal) -> After {
        warn!(claim = %name(growth), volume = &*growth.volume, reason = %refusal, "refused to grow the volume");
        self.context.metrics.expansions.get_or_create(&result(REFUSED)).inc();
        self.say_failed(growth, &refusal.to_string()).await;
        if !refusal.may_pass() {
            return After::Done;
        }
        After::Retry(if refusal.is_for_room() { Why::Room } else { Why::ApiServer })
    }

    async fn grow(&self, growth: &Growth, volume: Option<&Volume>, to: &Quantity, failures: u32) -> After {
        let started = Instant::now();
        let _under_way = if failures == 0 {
            let message = format!("External resizer is resizing volume {}", growth.volume);
            Some(self.context.recorder.record_start(growth, Reason::Resizing, message).await)
        } else {
            None
        };
        if let Err(error) = self.write(growth, volume, to).await {
            return self.failed(growth, &error).await;
        }
        let from = &growth.capacity.0;
        info!(
            claim = %name(growth), volume = &*growth.volume, class = &*growth.class, from, to = to.0,
            milliseconds = milliseconds(started.elapsed()), "expanded"
        );
        self.context.metrics.expansions.get_or_create(&result(SUCCEEDED)).inc();
        let message = format!("Resize volume succeeded: from {from} to {}", to.0);
        self.context.recorder.record(growth, Reason::VolumeResizeSuccessful, message).await;
        After::Done
    }

    /// Gives the capacity to the volume, if it needs it, and then to the claim.
    async fn write(&self, growth: &Growth, volume: Option<&Volume>, to: &Quantity) -> Result<(), ApiError> {
        if let Some(volume) = volume {
            self.context.cluster.grow_volume(volume, to).await?;
            Step::VolumeGrown.passed();
        }
        self.context.cluster.grow_claim(growth, to).await?;
        Step::ClaimGrown.passed();
        Ok(())
    }

    async fn failed(&self, growth: &Growth, error: &ApiError) -> After {
        if error.is_conflict() || error.is_not_found() {
            debug!(claim = %name(growth), %error, "has changed while it was to grow");
            return After::Retry(Why::Changed);
        }
        error!(claim = %name(growth), volume = &*growth.volume, %error, "failed to grow the volume");
        self.context.metrics.expansions.get_or_create(&result(FAILED)).inc();
        self.say_failed(growth, &error.to_string()).await;
        After::Retry(Why::ApiServer)
    }

    async fn say_failed(&self, growth: &Growth, cause: &str) {
        let (volume, resizer) = (&growth.volume, &self.context.identity.provisioner);
        let message = format!("resize volume {volume:?} by resizer {resizer:?} failed: {cause}");
        self.context.recorder.record(growth, Reason::VolumeResizeFailed, message).await;
    }
}

fn name(growth: &Growth) -> String {
    format!("{}/{}", growth.namespace, growth.name)
}
