//! Tests of what is known of volumes after the watch, a list or silence.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::{Value, json};
use tokio::time::{Duration, advance};

use crate::cluster::state::{ClusterState, Watched};
use crate::decide::scope::Scope;
use crate::model::exports::{Exports, Location};
use crate::model::volume::Volume;
use crate::values::address::ExportAddress;
use crate::values::names::VolumeName;

const OURS: &str = "example.com/nfs";

fn exports() -> Exports {
    Exports::single(ExportAddress::new("nas".into(), "/export".into()))
}

fn state() -> ClusterState {
    let scope = Scope { provisioner: OURS.to_owned(), exports: exports(), share: false, may_patch: false.into() };
    ClusterState::new(Arc::new(scope))
}

fn at(path: &str) -> Location {
    exports().locate("nas", &format!("/export/{path}")).unwrap()
}

/// Returns a volume of ours at a path, in a phase.
fn volume(name: &str, uid: &str, path: &str, phase: &str) -> Value {
    json!({
        "metadata": {"name": name, "uid": uid, "annotations": {"pv.kubernetes.io/provisioned-by": OURS}},
        "spec": {
            "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "nfs",
            "nfs": {"server": "nas", "path": format!("/export/{path}")},
            "claimRef": {"namespace": "shop", "name": "data", "uid": "1"},
        },
        "status": {"phase": phase},
    })
}

fn read(volume: &Value) -> Volume {
    Volume::read(&serde_json::from_value::<PersistentVolume>(volume.clone()).unwrap())
}

fn show(state: &ClusterState, volume: &Value) {
    let volume = read(volume);
    state.put_volume(&volume.name.clone(), Some(volume));
}

fn deleting(mut volume: Value) -> Value {
    volume["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    volume
}

fn key(name: &str) -> VolumeName {
    name.into()
}

/// A volume's path never changes, but a volume may be made again under its name.
#[test]
fn what_a_list_says_counts_unless_the_watch_has_said_something_since() {
    let state = state();
    show(&state, &volume("static", "1", "x", "Bound"));
    state.begin_reading();
    state.heard_of(&read(&volume("static", "2", "y", "Bound")));
    state.end_reading();
    assert_eq!(state.ledger().sharers(&key("other"), &at("y")), [key("static")]);
    assert!(state.ledger().sharers(&key("other"), &at("x")).is_empty());

    show(&state, &volume("goes", "1", "v", "Bound"));
    state.begin_reading();
    show(&state, &volume("static", "3", "z", "Bound"));
    state.put_volume(&key("goes"), None);
    state.heard_of(&read(&volume("static", "2", "y", "Bound")));
    state.heard_of(&read(&volume("goes", "1", "v", "Bound")));
    state.end_reading();
    assert_eq!(state.ledger().sharers(&key("other"), &at("z")), [key("static")], "the watch was later");
    assert!(state.ledger().sharers(&key("other"), &at("v")).is_empty(), "the watch has shown that it is gone");
}

#[test]
fn a_volume_that_an_admin_keeps_after_deleting_it_is_not_reclaimed_from_memory() {
    let state = state();
    let bound = deleting(volume("pvc-1", "2", "x", "Bound"));
    show(&state, &bound);
    let mut kept = deleting(volume("pvc-1", "2", "x", "Released"));
    kept["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain");
    show(&state, &kept);
    state.put_volume(&key("pvc-1"), None);
    assert_eq!(state.volume(&key("pvc-1")).map(|volume| volume.reclaim), None);
    // Nor is one that is not being deleted any more, as after a cluster was restored.
    show(&state, &bound);
    show(&state, &volume("pvc-1", "2", "x", "Bound"));
    state.put_volume(&key("pvc-1"), None);
    assert!(state.volume(&key("pvc-1")).is_none());
}

/// What a list does not show has gone, but nobody has seen how.
#[test]
fn a_volume_that_only_a_list_shows_to_be_gone_is_archived_and_its_neighbours_are_not_taken_as_known() {
    let state = state();
    show(&state, &deleting(volume("pvc-1", "2", "x", "Bound")));
    state.begin_list(Watched::Volumes);
    state.end_list(Watched::Volumes);
    let volume = state.volume(&key("pvc-1")).expect("it is still to be reclaimed");
    assert!(volume.is_unseen_gone && volume.deleted_while_bound);
    let (watched, doubted) = (state.watched(&key("pvc-1")), state.doubted().expect("a list was made"));
    assert!(watched.is_none_or(|watched| watched <= doubted));
}

#[test]
fn a_volume_that_has_another_claim_by_now_has_not_been_disposed_of() {
    let state = state();
    show(&state, &volume("pvc-1", "2", "x", "Released"));
    let before = state.volume(&key("pvc-1")).unwrap();
    let mut of_another = volume("pvc-1", "2", "x", "Released");
    of_another["spec"]["claimRef"]["uid"] = json!("another");
    show(&state, &of_another);
    state.disposed(&before, "removed \"x\"");
    assert_eq!(state.volume(&key("pvc-1")).unwrap().disposed, None);
    show(&state, &volume("pvc-1", "2", "x", "Released"));
    assert!(state.volume(&key("pvc-1")).unwrap().disposed.is_some(), "that is the one");
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_was_bound_or_made_here_is_known_to_have_been_however_long_it_waits() {
    let state = state();
    // By a clock two hours away from ours, as all else.
    let dated = |phase: &str, released: &str| {
        let mut volume = volume("pvc-1", "2", "x", phase);
        volume["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        volume["status"]["lastPhaseTransitionTime"] = json!(released);
        volume
    };
    let (bound, released) = (dated("Bound", "2026-01-01T00:00:01Z"), dated("Released", "2026-01-01T00:00:20Z"));
    show(&state, &bound);
    show(&state, &released);
    assert!(state.volume(&key("pvc-1")).unwrap().seen_bound);
    advance(Duration::from_mins(6)).await;
    show(&state, &volume("other", "3", "y", "Bound"));
    show(&state, &released);
    assert!(state.volume(&key("pvc-1")).unwrap().seen_bound);
    // One that this process has made, and that was never bound.
    let state = self::state();
    state.made(&read(&dated("Available", "2026-01-01T00:00:00Z")));
    show(&state, &released);
    assert!(state.volume(&key("pvc-1")).unwrap().seen_bound);
    // Another one of its name.
    let mut restored = released;
    restored["metadata"]["uid"] = json!("4");
    show(&state, &restored);
    assert!(!state.volume(&key("pvc-1")).unwrap().seen_bound);
}
