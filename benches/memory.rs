//! What memory many volumes take, and whether many claims leave something behind, on a control plane of its own.
//! Fails above the limits.
//!
//! `CHURN` (default 10000) is how many claims are made and deleted.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::default_trait_access,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::ops::Range;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use support::eventually;
use support::plane::Plane;
use support::space::{PATH, SERVER, Space, from_json};

/// How many volumes with claims there are, and how much may be resident then, in MiB.
const LIMITS: [(usize, f64); 3] = [(0, 10.0), (20_000, 16.0), (100_000, 48.0)];

/// How long after the start the first claim is served, with 20,000 volumes.
const FIRST_MAX: (usize, Duration) = (20_000, Duration::from_secs(2));

/// How many claims are made and deleted in one round.
const ROUND: usize = 1000;

/// How much more may be resident at the end than half-way, in MiB: that differs a little from round to round.
const GROWTH_MAX: f64 = 1.0;

#[tokio::main]
async fn main() {
    let plane: &'static Plane = Plane::shared();
    let space = Space::new().await;
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let mut wrong = Vec::new();
    churn(&space, &class, &mut wrong).await;
    // It would be busy with all those claims for hours.
    plane.command("stop kube-controller-manager");
    let mut there = 0;
    for (volumes, limit) in LIMITS {
        make(&space, &class, there..volumes).await;
        there = volumes;
        let waiting = format!("waiting-{volumes}");
        let ours =
            json!({"metadata": {"annotations": {"volume.kubernetes.io/storage-provisioner": space.provisioner}}});
        let uid = space.claim(&waiting, &class, ours).await.metadata.uid.expect("a uid");
        let start = Instant::now();
        let provisioner = space.start();
        eventually("the claim's volume", || async {
            space.volumes().get_opt(&format!("pvc-{uid}")).await.expect("an answer")
        })
        .await;
        let first = start.elapsed();
        // What is freed after the first list is given back by then.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (resident, peak) = (mebibytes(provisioner.resident()), mebibytes(provisioner.peak()));
        println!(
            "{volumes} volumes: {resident:.1} MiB resident (limit {limit:.0}), {peak:.1} MiB at the most; \
             first claim served {:.2} s after the start",
            first.as_secs_f64()
        );
        if resident > limit {
            wrong.push(format!("{resident:.1} MiB with {volumes} volumes"));
        }
        if volumes == FIRST_MAX.0 && first > FIRST_MAX.1 {
            wrong.push(format!("{first:?} until the first claim is served with {volumes} volumes"));
        }
        assert!(provisioner.stop().success());
    }
    assert!(wrong.is_empty(), "too much: {wrong:?}");
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}

/// Makes claims and deletes them, again and again.
async fn churn(space: &Space, class: &str, wrong: &mut Vec<String>) {
    let claims: usize = std::env::var("CHURN").map_or(10_000, |claims| claims.parse().expect("CHURN: a number"));
    if claims == 0 {
        return;
    }
    let provisioner = space.start();
    let mut resident = Vec::new();
    for _ in 0..claims / ROUND {
        stream::iter(0..ROUND)
            .for_each_concurrent(32, |number| async move {
                space.claim(&format!("data-{number}"), class, json!({})).await;
            })
            .await;
        until("all to be Bound", || async {
            let volumes = space.volumes().list(&ListParams::default()).await.ok()?.items;
            let bound =
                |volume: &PersistentVolume| volume.status.as_ref()?.phase.as_deref().map(|phase| phase == "Bound");
            (volumes.iter().filter(|volume| bound(volume) == Some(true)).count() == ROUND).then_some(())
        })
        .await;
        let all = space.api::<PersistentVolumeClaim>();
        all.delete_collection(&DeleteParams::default(), &ListParams::default()).await.expect("claims to delete");
        until("all to go", || async {
            space.volumes().list(&ListParams::default()).await.ok()?.items.is_empty().then_some(())
        })
        .await;
        resident.push(mebibytes(provisioner.resident()));
    }
    assert!(provisioner.stop().success());
    let (Some(half), Some(end)) = (resident.get(resident.len() / 2), resident.last()) else { return };
    println!("{ROUND} claims made and deleted, again and again: {resident:.1?} MiB resident after each round");
    if end - half > GROWTH_MAX {
        wrong.push(format!("grown from {half:.1} to {end:.1} MiB"));
    }
}

/// As [`eventually`], for what takes minutes.
async fn until<F: Future<Output = Option<()>>>(what: &str, ask: impl Fn() -> F) {
    let start = Instant::now();
    while ask().await.is_none() {
        assert!(start.elapsed() < Duration::from_mins(10), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Makes volumes and the claims that have them.
async fn make(space: &Space, class: &str, numbers: Range<usize>) {
    let (claims, volumes) = (space.api::<PersistentVolumeClaim>(), space.volumes());
    let (claims, volumes) = (&claims, &volumes);
    stream::iter(numbers)
        .for_each_concurrent(32, |number| async move {
            // As random as real ones are, for the order they come in.
            let uid = format!("{:08x}-0000-4000-8000-{number:012}", (number as u32).wrapping_mul(0x9e37_79b1));
            let (name, claim) = (format!("pvc-{uid}"), format!("data-web-{number}"));
            let request = json!({"storage": "1Gi"});
            let object: PersistentVolumeClaim = from_json(json!({
                "metadata": {
                    "name": claim,
                    "annotations": {
                        "pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes",
                        "volume.kubernetes.io/storage-provisioner": space.provisioner,
                    },
                },
                "spec": {
                    "accessModes": ["ReadWriteMany"], "resources": {"requests": request}, "storageClassName": class,
                    "volumeName": name,
                },
            }));
            claims.create(&PostParams::default(), &object).await.expect("a claim");
            let bound = json!({"status": {"phase": "Bound", "accessModes": ["ReadWriteMany"], "capacity": request}});
            let bound = Patch::Merge(bound);
            claims.patch_status(&claim, &PatchParams::default(), &bound).await.expect("a claim to be Bound");
            let object: PersistentVolume = from_json(json!({
                "metadata": {
                    "name": name, "annotations": {"pv.kubernetes.io/provisioned-by": space.provisioner},
                    "finalizers": ["kubernetes.io/pv-protection", "external-provisioner.volume.kubernetes.io/finalizer"],
                },
                "spec": {
                    "accessModes": ["ReadWriteMany"], "capacity": request, "storageClassName": class,
                    "persistentVolumeReclaimPolicy": "Delete",
                    "claimRef": {
                        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": space.namespace,
                        "name": claim, "uid": uid,
                    },
                    "nfs": {"server": SERVER, "path": format!("{PATH}/{}-{claim}-{name}", space.namespace)},
                },
            }));
            volumes.create(&PostParams::default(), &object).await.expect("a volume");
        })
        .await;
}
