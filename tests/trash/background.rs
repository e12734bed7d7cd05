//! The reaper, which empties the trash in the background.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, io};

use nfs_provisioner::background::reaper::reap_forever;
use nfs_provisioner::export::{Backlog, Counts};
use nfs_provisioner::layout::{NOTES, TRASH, TrashPlace};
use nfs_provisioner::storage::{Left, Root, Storage};

use crate::engine::USUAL;
use crate::{Mounted, NOW, PATIENCE, Place, VOLUME, chmod, names, rel, spread, stamps};

/// Whether this process leads, and how often the reaper has asked.
#[derive(Default)]
struct Leads {
    leads: AtomicBool,
    asked: AtomicUsize,
}

impl Leads {
    fn ask(&self) -> bool {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.leads.load(Ordering::SeqCst)
    }

    fn begin(&self) {
        self.leads.store(true, Ordering::SeqCst);
    }

    /// Waits until the reaper has been told twice more that this process does not lead: it has done by then whatever
    /// it does after being told so.
    async fn denied(&self) {
        let before = self.asked.load(Ordering::SeqCst);
        until("the reaper to ask", || self.asked.load(Ordering::SeqCst) >= before + 2).await;
    }
}

/// A storage whose trash is emptied while `case` runs.
async fn while_reaped<F: Future>(leads: &Leads, case: impl FnOnce(Arc<Place>, Storage, Arc<Backlog>) -> F) {
    let place = Arc::new(Place::new(&USUAL));
    let storage = Storage::from(Root::open(&place.root).unwrap());
    let backlog = Arc::new(Backlog::default());
    tokio::select! {
        () = reap_forever(storage.clone(), || leads.ask(), &backlog) => {}
        _ = case(place, storage.clone(), Arc::clone(&backlog)) => {}
    }
}

pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_blocked_keeps_nothing_else_waiting_and_is_tried_again() {
    let leads = Leads::default();
    leads.begin();
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
            assert!(storage.trash(&directory, VOLUME, NOW, None).await.unwrap().is_some());
            backlog.pushed();
        }
        until("all others removed", || names(&place.at(TRASH)).len() == 4).await;
        until("counted", || {
            backlog.counts() == Counts { waiting: 3, blocked: 3, removed: 23, ..Counts::default() }
        })
        .await;
        mounts.clear();
        until("tried again", || names(&place.at(TRASH)) == ["foreign"]).await;
        until("counted again", || {
            backlog.counts() == Counts { waiting: 0, blocked: 0, removed: 29, ..Counts::default() }
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_leads_reaps_and_the_next_to_lead_finishes() {
    let leads = Leads::default();
    while_reaped(&leads, async |place, _, backlog| {
        spread(&place.at("a"), 100, 300);
        place.trashed("a");
        backlog.pushed();
        leads.denied().await;
        assert_eq!(fs::read_dir(place.at(TRASH)).unwrap().count(), 1);
        leads.begin();
        until("removed", || names(&place.at(TRASH)).is_empty()).await;
    })
    .await;
}

/// On a full export it would be too late to make it when something is to be deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trash_is_there_before_it_is_needed_and_as_soon_as_there_is_room() {
    let leads = Leads::default();
    while_reaped(&leads, async |place, _, _| {
        leads.denied().await;
        assert_eq!(names(&place.root), [""; 0], "who does not lead makes nothing");
        leads.begin();
        until("both made", || names(&place.root) == [NOTES, TRASH]).await;
    })
    .await;
}

/// Returns what is logged in the current thread while the value lives.
pub(crate) fn logged() -> (Arc<Mutex<Vec<u8>>>, tracing::subscriber::DefaultGuard) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&log);
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || Appends(Arc::clone(&writer)));
    (log, tracing::subscriber::set_default(subscriber.finish()))
}

pub(crate) struct Appends(Arc<Mutex<Vec<u8>>>);

impl io::Write for Appends {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_export_what_is_deleted_goes_and_all_passes_are_counted() {
    let (log, _guard) = logged();
    let log = || String::from_utf8(log.lock().unwrap().clone()).unwrap();
    let place = Place::new(&USUAL);
    // The root, the volume, the file and the mount point, on the one and on the other.
    let _mounted = Mounted::tmpfs_with("mode=755,nr_inodes=4", &place.root);
    place.put(&["v/f", "v/m/"]);
    let storage = Storage::from(Root::open(&place.root).unwrap());
    let backlog = Arc::new(Backlog::default());
    let case = async {
        until("the failure to be told", || log().contains("failed to make the directories")).await;
        assert!(log().contains("no space left on device"), "{}", log());
        let name = storage.trash(&rel("v"), VOLUME, NOW, None).await.unwrap().unwrap();
        assert_eq!(name.place(), TrashPlace::Root);
        let mounted = Mounted::tmpfs(&place.at(&name.path()).join("m"));
        backlog.pushed();
        until("told as blocked", || backlog.counts().blocked == 1).await;
        drop(mounted);
        until("removed", || names(&place.root).iter().all(|name| !name.contains('~'))).await;
        until("told as removed", || log().contains("reaper: removed from the trash")).await;
        let line = log().lines().find(|line| line.contains("reaper: removed from the trash")).unwrap().to_owned();
        assert!(line.contains("entries=3 "), "the file, the mount point and the volume: {line}");
    };
    tokio::select! {
        () = reap_forever(storage.clone(), || true, &backlog) => {}
        () = case => {}
    }
}

/// The export's root is nobody's to empty, whatever is wrong with it.
#[test]
fn nobody_is_told_to_empty_anything_but_the_trash() {
    let (log, _guard) = logged();
    let log = || String::from_utf8(log.lock().unwrap().clone()).unwrap();
    let place = Place::new(&USUAL);
    place.put(&["a/f"]);
    place.trashed("a");
    // To be passed through and written in, not to be listed.
    chmod(&place.root, 0o733);
    let as_user = || {
        nix::unistd::setfsuid(1000.into());
    };
    // The calls on files are made by threads that the runtime starts.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().on_thread_start(as_user).build();
    runtime.unwrap().block_on(async {
        let storage = Storage::from(Root::open(&place.root).unwrap());
        let backlog = Backlog::default();
        tokio::select! {
            () = reap_forever(storage, || true, &backlog) => {}
            () = until("both to be told", || log().contains(TRASH) && log().contains(r#"list ".""#)) => {}
        }
    });
    let (log, told) = (log(), |line: &&str| line.contains("emptied"));
    let told: Vec<_> = log.lines().filter(told).collect();
    assert_eq!(told.len(), 1, "{log}");
    assert!(told.iter().all(|line| line.contains(&format!("{TRASH:?}"))), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_claims_wait_the_trash_is_emptied_slowly_and_else_at_once() {
    let place = Place::new(&USUAL);
    for name in ["a", "b"] {
        spread(&place.at(name), 1, 200);
    }
    let waits = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&waits);
    let storage = Storage::from(Root::open(&place.root).unwrap());
    let storage = storage.yielding_to(move || asked.load(Ordering::Relaxed));
    let mut took = Vec::new();
    for (name, others_wait) in [("a", true), ("b", false)] {
        waits.store(others_wait, Ordering::Relaxed);
        let (name, _) = place.trashed(name);
        let begun = Instant::now();
        assert_eq!(storage.reap(&name, PATIENCE).await.unwrap().left, Left::Nothing);
        took.push(begun.elapsed());
    }
    // It goes on all the same.
    assert!(took[0] >= Duration::from_secs(1), "{took:?}");
    assert!(took[1] < took[0] / 2, "{took:?}");
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
