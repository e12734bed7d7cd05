//! Every decision, as tables.

use std::collections::{BTreeMap, HashSet};
use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use crate::decide::choice::There;
use crate::decide::claim::*;
use crate::decide::copy::*;
use crate::decide::expansion::*;
use crate::decide::refusal::*;
use crate::decide::restore::*;
use crate::decide::scope::*;
use crate::decide::volume::*;
use crate::model::claim::{Claim, DataSource, SourceClaim};
use crate::model::class::{Binding, Class};
use crate::model::expansion::Expansion;
use crate::model::exports::Exports;
use crate::model::parameters::{BadParameter, Fate, Parameters, RecordedRetention, parameter};
use crate::model::volume::{NfsSource, Phase, ReclaimPolicy, Volume};
use crate::values::address::ExportAddress;
use crate::values::headroom::{FsUsage, Headroom, MAX_OVERCOMMIT, MIN_FREE_INODES, MIN_FREE_SPACE, Requirements};
use crate::values::names::ClaimRef;
use crate::values::ownership::{Aspect, Ownership};
use crate::values::path::{PathError, RelPath};
use crate::values::quantity::bytes;

mod claim;
mod copy;
mod volume;
mod expansion;
mod choice;
mod restore;

const OURS: &str = "example.com/nfs";

const UID: &str = "0dbb0d7c-1c25-4b1f-8f5c-3f3c3e8b0b0a";

/// A change to a record.
type Change<R> = fn(&mut R);

/// A class's parameters, or a claim's annotations.
type Set<'a> = &'a [(&'a str, &'a str)];

/// Chained changes to a record.
trait With: Sized {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl With for Claim {}

impl With for Class {}

impl With for Volume {}

impl With for Expansion {}

/// Returns a claim that can be served.
fn mk_claim() -> Claim {
    Claim {
        claim: ClaimRef { namespace: "shop".into(), name: "data".into(), uid: UID.into() },
        resource_version: "7".into(),
        created: None,
        class: "nfs".into(),
        deleting: false,
        node_selected: false,
        lost: false,
        block: false,
        selector: false,
        attributes_class: None,
        source: None,
        access_modes: vec!["ReadWriteMany".to_owned()],
        request: Some(Quantity("100Mi".to_owned())),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
    }
}

/// Returns a class of ours with these parameters.
fn mk_class(parameters: Set<'_>) -> Class {
    let parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Class {
        name: "nfs".into(),
        uid: "5".into(),
        provisioner: OURS.into(),
        parameters: Parameters::read(&parameters),
        reclaim: ReclaimPolicy::Delete,
        binding: Binding::Immediate,
        mount_options: Vec::new(),
    }
}

/// Returns a volume that can be reclaimed.
fn mk_volume() -> Volume {
    Volume {
        name: "pvc-1".into(),
        uid: "2".into(),
        resource_version: "7".into(),
        phase: Phase::Released,
        since: None,
        deleting: false,
        reclaim: ReclaimPolicy::Delete,
        deleted_while_bound: false,
        is_unseen_gone: false,
        seen_bound: false,
        created: None,
        disposed: None,
        finalizer: false,
        on_delete: None,
        on_delete_of_claim: None,
        on_delete_of_class: None,
        retention: RecordedRetention::default(),
        gid: None,
        provisioned_by: Some(OURS.into()),
        migrated_to: None,
        class: "nfs".into(),
        source: None,
        claim: Some(ClaimRef { namespace: "shop".into(), name: "data".into(), uid: "1".into() }),
        capacity: Some(Quantity("1Gi".to_owned())),
        access_modes: Vec::new(),
        mount_options: Vec::new(),
        restored_from: None,
    }
    .at("nas", "/export/shop-data-pvc-1")
}

impl Volume {
    fn at(self, server: &str, path: &str) -> Self {
        let source = NfsSource { server: server.into(), path: path.into() };
        self.with(|volume| volume.source = Some(source))
    }
}

/// A claim that asks for something of this name.
fn asking(name: &str) -> Claim {
    let annotations = BTreeMap::from([("nfs-provisioner/restore-from".to_owned(), name.to_owned())]);
    mk_claim().with(|claim| claim.annotations = annotations)
}

fn scope(export: &str) -> Scope {
    Scope {
        provisioner: OURS.to_owned(),
        exports: Exports::single(ExportAddress::new("nas".into(), ExportAddress::path(export).unwrap())),
        share: false,
        may_patch: Permitted::default(),
    }
}

fn step(claim: &Claim, class: Option<&Class>) -> ClaimPlan {
    decided(claim, class, &scope("/export"))
}

fn decided(claim: &Claim, class: Option<&Class>, scope: &Scope) -> ClaimPlan {
    copied(claim, class, scope, &Origin::default())
}

/// Decides on a claim that is to be a copy.
fn copied(claim: &Claim, class: Option<&Class>, scope: &Scope, origin: &Origin) -> ClaimPlan {
    let headrooms = scope.exports.map(|_| Headroom::default());
    let there = scope.exports.map(|_| There::Nothing);
    for_claim(&ClaimFacts { claim, class, headrooms: &headrooms, there: &there, origin }, scope)
}

/// Returns how a claim is served.
fn served(plan: ClaimPlan) -> Provision {
    let ClaimPlan::Provision(provision) = plan else { panic!("{plan:?}") };
    *provision
}

fn reclaim(volume: &Volume, class: Option<&Class>, scope: &Scope) -> VolumePlan {
    for_volume(&VolumeFacts { volume, class }, scope)
}

/// Returns the directory and the volume of a claim that is served.
fn provisioned(claim: &Claim, class: &Class, export: &str) -> (String, Value) {
    let provision = served(decided(claim, Some(class), &scope(export)));
    (provision.at.to_string(), serde_json::to_value(provision.volume.object()).unwrap())
}

fn adopt_as_is(value: &str) -> BadParameter {
    let (parameter, expected) = (parameter::ADOPT_AS_IS, "\"true\" or \"false\"");
    BadParameter::Value { parameter, value: value.into(), expected }
}

fn on_delete(value: &str) -> BadParameter {
    BadParameter::OnDelete(value.into())
}
