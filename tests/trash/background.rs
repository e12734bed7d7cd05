//! The reaper, which empties the trash in the background.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nfs_provisioner::background::reaper::reap_forever;
use nfs_provisioner::export::{Backlog, Counts};
use nfs_provisioner::layout::TRASH;
use nfs_provisioner::storage::{Left, Root, Storage};

use crate::engine::USUAL;
use crate::{Mounted, NOW, PATIENCE, Place, VOLUME, names, rel, spread, stamps};

/// A storage whose trash is emptied while `case` runs.
async fn while_reaped<F: Future>(leads: &AtomicBool, case: impl FnOnce(Arc<Place>, Storage, Arc<Backlog>) -> F) {
    let place = Arc::new(Place::new(&USUAL));
    let storage = Storage::from(Root::open(&place.root).unwrap());
    let backlog = Arc::new(Backlog::default());
    tokio::select! {
        () = reap_forever(storage.clone(), || leads.load(Ordering::Relaxed), &backlog) => {}
        _ = case(place, storage.clone(), Arc::clone(&backlog)) => {}
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_blocked_keeps_nothing_else_waiting_and_is_tried_again() {
    let leads = AtomicBool::new(true);
    while_reaped(&leads, async |place, storage, backlog| {
        let mut mounts = Vec::new();
        for n in 0..3 {
            place.put(&[&format!("stuck{n}/m/"), &format!("stuck{n}/f")]);
            let (_, at) = place.trashed(&format!("stuck{n}"));
            mounts.push(Mounted::tmpfs(&at.join("m")));
        }
        fs::create_dir(place.at(TRASH).join("foreign")).unwrap();
        backlog.pushed();
        until("told as blocked", || backlog.counts().blocked == 3).await;
        for n in 0..20 {
            let directory = rel(&format!("ns/{n}"));
            storage.create(&directory).await.unwrap();
            assert!(storage.trash(&directory, VOLUME, NOW).await.unwrap().is_some());
            backlog.pushed();
        }
        until("all others removed", || names(&place.at(TRASH)).len() == 4).await;
        until("counted", || backlog.counts() == Counts { waiting: 3, blocked: 3, removed: 23 }).await;
        mounts.clear();
        until("tried again", || names(&place.at(TRASH)) == ["foreign"]).await;
        until("counted again", || backlog.counts() == Counts { waiting: 0, blocked: 0, removed: 29 }).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_leads_reaps_and_the_next_to_lead_finishes() {
    let leads = AtomicBool::new(false);
    while_reaped(&leads, async |place, _, backlog| {
        spread(&place.at("a"), 100, 300);
        place.trashed("a");
        backlog.pushed();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(fs::read_dir(place.at(TRASH)).unwrap().count(), 1);
        leads.store(true, Ordering::Relaxed);
        until("removed", || names(&place.at(TRASH)).is_empty()).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reaping_ends_when_nobody_waits_for_it() {
    let place = Place::new(&USUAL);
    spread(&place.at("a"), 100, 300);
    let (name, at) = place.trashed("a");
    let storage = Storage::from(Root::open(&place.root).unwrap());
    let cut = tokio::time::timeout(Duration::from_millis(20), storage.reap(&name, PATIENCE)).await;
    assert!(cut.is_err(), "it was too fast: {cut:?}");
    // All threads of it have ended once as many are free as there were.
    let again = storage.reap(&name, Duration::ZERO).await.unwrap();
    assert_eq!((again.entries, again.left), (0, Left::More));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = stamps(&at);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(stamps(&at), before);
    assert_eq!(storage.reap(&name, PATIENCE).await.unwrap().left, Left::Nothing);
}
