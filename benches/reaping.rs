//! Whether claims wait longer while the trash is emptied of a huge volume: the time to Bound of single claims on an
//! idle cluster, and while that goes on. On a control plane of its own, with a local directory for the export.
//!
//! `REAPING_FILES` (default 1,000,000) is how many files the volume has.

#![allow(
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

use std::fs::{self, File};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::json;
use support::space::Space;

/// How many claims are made while nothing else goes on.
const SINGLES: usize = 40;

/// How many files a directory has.
const EACH: usize = 1000;

#[tokio::main]
async fn main() {
    let files = std::env::var("REAPING_FILES").map_or(1_000_000, |files| files.parse().expect("a number"));
    let space = Space::new().await;
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let _provisioner = space.start();
    space.claim("huge", &class, json!({})).await;
    let huge = space.bound("huge").await;
    let top = space.at(&Space::directory(&huge));
    for directory in 0..files / EACH {
        let directory = top.join(directory.to_string());
        fs::create_dir(&directory).expect("a directory");
        for file in 0..EACH {
            File::create(directory.join(file.to_string())).expect("a file");
        }
    }
    nix::unistd::sync();

    let mut idle = Vec::new();
    for number in 0..SINGLES {
        idle.push(single(&space, &class, &format!("idle-{number}")).await);
    }
    let begun = Instant::now();
    space.delete_claim("huge").await;
    space.gone(huge.metadata.name.as_deref().expect("a name")).await;
    let gone = begun.elapsed();
    let trash = space.at(".nfs-provisioner-trash");
    let mut busy = Vec::new();
    while fs::read_dir(&trash).is_ok_and(|mut entries| entries.next().is_some()) {
        busy.push(single(&space, &class, &format!("busy-{}", busy.len())).await);
    }
    let removed = begun.elapsed();
    let (idle, busy_median) = (median(idle), median(busy.clone()));
    println!(
        "{files} files: the volume gone after {:.2} s, its files after {:.1} s; a claim Bound in {:.0} ms idle, in {:.0} ms \
         ({} claims) meanwhile: {:.2} times as long",
        gone.as_secs_f64(),
        removed.as_secs_f64(),
        idle.as_secs_f64() * 1000.0,
        busy_median.as_secs_f64() * 1000.0,
        busy.len(),
        busy_median.as_secs_f64() / idle.as_secs_f64()
    );
}

/// Makes a claim; how long it took to be Bound.
async fn single(space: &Space, class: &str, name: &str) -> Duration {
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    space.claim(name, class, json!({})).await;
    let claims = space.api::<PersistentVolumeClaim>();
    loop {
        let found = claims.get(name).await.expect("a claim");
        if found.status.and_then(|status| status.phase).is_some_and(|phase| phase == "Bound") {
            return begun.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
