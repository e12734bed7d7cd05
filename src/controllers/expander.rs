//! Expands the volumes of bound claims that ask for more: sets the volume's capacity, then the one in the claim's
//! status.
//!
//! Nothing on the export is touched. A crash before the volume's capacity is set leaves nothing undone; a crash
//! after it leaves a claim whose status is behind, until the next round for the claim sets it. Each change applies
//! to the version that was read and to no later one. So if two processes both believe that they lead, the second
//! one changes nothing, and a claim that has asked for something else meanwhile comes back.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::time::Instant;

use crate::cluster::api::ApiError;
use crate::cluster::events::Reason;
use crate::cluster::permissions::{Awaited, listed};
use crate::controllers::context::Context;
use crate::controllers::expansion_outcome::{ExpansionOutcome, ExpansionRound};
use crate::decide::expansion::{ExpansionFacts, ExpansionPlan, for_expansion};
use crate::decide::record;
use crate::decide::volume::located;
use crate::failpoint::Failpoint;
use crate::layout::Note;
use crate::ledger::Promise;
use crate::model::expansion::Expansion;
use crate::model::volume::Volume;
use crate::queue::{Next, RetryReason};
use crate::values::names::ClaimUid;
use crate::values::quantity;

/// The controller of bound claims that ask for more than they have.
#[derive(Debug)]
pub struct Expander {
    context: Context,
    rights: Awaited,
}

impl Expander {
    /// Assembles the controller. `rights` are the permissions that it needs.
    #[must_use]
    pub fn new(context: Context, rights: Awaited) -> Self {
        Self { context, rights }
    }

    /// Runs one round for the bound claim with this uid, which has failed `failures` times in a row.
    pub async fn reconcile(&self, uid: ClaimUid, failures: u32) -> Next {
        let Some(expansion) = self.context.state.expansion(&uid) else { return Next::Done };
        let started = Instant::now();
        let outcome = self.round(&expansion, failures).await.unwrap_or_else(|ended| ended);
        let (provisioner, took) = (&*self.context.scope.provisioner, started.elapsed());
        let round = ExpansionRound { expansion: &expansion, provisioner, took };
        self.context.report(&expansion.claim, outcome.report(&round))
    }

    /// Reads, decides and acts.
    async fn round(&self, expansion: &Expansion, failures: u32) -> Result<ExpansionOutcome, ExpansionOutcome> {
        if !self.may_be_ours(expansion) {
            return Ok(ExpansionOutcome::Foreign);
        }
        // Of bound volumes, only entries in the ledger are kept, so the volume is read. Claims seldom grow.
        let volume = self.context.cluster.volume(&expansion.volume).await;
        let volume = volume.map_err(ExpansionOutcome::FailedToRead)?.ok_or(ExpansionOutcome::VolumeGone)?;
        let ledger = self.context.state.ledger();
        let class = self.context.state.class(&expansion.class);
        let facts = ExpansionFacts {
            expansion,
            volume: &volume,
            lacking: &listed(&self.rights.missing().await.map_err(ExpansionOutcome::FailedToRead)?),
            requirements: &class.map(|class| class.parameters.requirements.clone()).unwrap_or_default(),
            headrooms: &self
                .context
                .exports
                .map(|(id, export)| export.headroom(ledger.promised(id, &volume.name))),
        };
        match for_expansion(&facts, &self.context.scope) {
            ExpansionPlan::Ignore(why) => Ok(ExpansionOutcome::Ignored(why)),
            ExpansionPlan::Refuse(refusal) => {
                let is_said = !refusal.is_for_room() || RetryReason::Headroom.is_worth_saying(failures);
                Ok(ExpansionOutcome::Refused { refusal, is_said })
            }
            ExpansionPlan::Grow { capacity, volume_too: None } => {
                self.grow(expansion, None, capacity, failures).await
            }
            ExpansionPlan::Grow { capacity, volume_too: Some((bytes, limit)) } => {
                let before = volume.capacity.as_ref().map_or(0, quantity::bytes);
                let promise = ledger.promise(&volume.name, before, bytes, limit);
                let promise = promise.ok_or(ExpansionOutcome::WaitsForPromise)?;
                self.grow(expansion, Some((&volume, promise)), capacity, failures).await
            }
        }
    }

    /// Tells whether the volume is worth reading: it lies on one of our exports, or its class is ours and it may
    /// be too new to be known.
    fn may_be_ours(&self, expansion: &Expansion) -> bool {
        let state = &self.context.state;
        let class = state.class(&expansion.class);
        let class_is_ours = class.is_some_and(|class| class.is_of(&self.context.scope.provisioner));
        class_is_ours || state.ledger().exists(&expansion.volume)
    }

    async fn grow(
        &self,
        expansion: &Expansion,
        volume: Option<(&Volume, Promise)>,
        to: Quantity,
        failures: u32,
    ) -> Result<ExpansionOutcome, ExpansionOutcome> {
        let _under_way = if failures == 0 {
            let message = format!("External resizer is resizing volume {}", expansion.volume);
            Some(self.context.recorder.record_start(&expansion.claim, Reason::Resizing, message))
        } else {
            None
        };
        match self.write(expansion, volume, &to).await {
            Ok(()) => Ok(ExpansionOutcome::Expanded { to }),
            Err(error) if error.is_conflict() || error.is_not_found() => Err(ExpansionOutcome::Changed(error)),
            Err(error) => Err(ExpansionOutcome::Failed(error)),
        }
    }

    /// Sets the capacity of the volume, if the volume needs it, and then that of the claim.
    async fn write(
        &self,
        expansion: &Expansion,
        volume: Option<(&Volume, Promise)>,
        to: &Quantity,
    ) -> Result<(), ApiError> {
        if let Some((volume, promise)) = volume {
            self.context.cluster.grow_volume(volume, to).await?;
            promise.keep();
            Failpoint::VolumeGrown.passed();
            self.note(volume, to).await;
        }
        self.context.cluster.grow_claim(expansion, to).await?;
        Failpoint::ClaimGrown.passed();
        Ok(())
    }

    /// Notes the volume's new capacity on the export, where its note says what it has.
    async fn note(&self, volume: &Volume, to: &Quantity) {
        let Context { scope, state, records, .. } = &self.context;
        let is_wanted = record::is_wanted(state.class(&volume.class).as_deref(), records.wanted);
        let Some(at) = located(volume, &scope.exports).ok().filter(|_| is_wanted) else { return };
        let export = self.context.export(&at);
        // Where it cannot be looked at, the note cannot be written either.
        let Ok(Some(seen)) = export.storage.look(&at.path).await else { return };
        let grown = Volume { capacity: Some(to.clone()), ..volume.clone() };
        let note = Note { owners: Some(seen.owners), ..record::of_volume(&grown, &at, &records.mark()) };
        records.write(export, note).await;
    }
}
