//! What is deleted and kept for some time.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nfs_provisioner::background::reaper::reap_forever;
use nfs_provisioner::export::{Backlog, Counts};
use nfs_provisioner::layout::{TRASH, TrashName, TrashPlace};
use nfs_provisioner::storage::{Kept, Left, Reaped, Root, Storage};
use nfs_provisioner::values::headroom::Least;
use nfs_provisioner::values::retention::Keep;
use nfs_provisioner::values::time::seconds_now;

use crate::background::{logged, until};
use crate::engine::USUAL;
use crate::put::with_inodes;
use crate::{Immutable, Mounted, NOW, Place, VOLUME, by_each_engine, engines, names, rel};

fn keep(retention: &str, min_free: Option<&str>) -> Keep {
    let least = min_free.map(|text| text.parse::<Least>().unwrap());
    Keep::new(retention.parse().unwrap(), least.as_ref())
}

/// Makes a directory with a file, and puts it into the trash to be kept.
fn kept(place: &Place, path: &str, now: u64, keep: &Keep) -> TrashName {
    place.put(&[&format!("{path}/f")]);
    place.export.trash(&rel(path), VOLUME, now, Some(keep)).unwrap().unwrap()
}

#[test]
fn what_is_kept_says_so_by_its_name_and_is_listed_once_it_is_due() {
    by_each_engine(|place| {
        let name = kept(place, "ns/a", NOW, &keep("1h", Some("0%")));
        assert_eq!(names(&place.at(TRASH)), [format!("{NOW}+3600+0%~{VOLUME}~ns%2Fa")]);
        let later = kept(place, "b", NOW + 5, &keep("1h", None));
        let listed = |now| place.export.trashed(9, now).unwrap();
        let found = listed(NOW + 3599);
        assert_eq!((found.names.len(), found.foreign), (0, None));
        let Kept { count, firm, early, next, usage } = found.kept;
        assert_eq!((count, firm, early, next), (2, 1, Vec::new(), Some(NOW + 3600)));
        assert!(usage.is_some_and(|usage| usage.bytes > 0));
        let found = listed(NOW + 3600);
        assert_eq!((found.names, found.kept.next), (vec![name.clone()], Some(NOW + 3605)));
        // A clock that is far behind keeps it, and one that was far ahead when it was put there keeps it for its
        // time.
        assert_eq!((listed(0).names.len(), listed(0).kept.count), (0, 2));
        assert_eq!(listed(u64::MAX).names.len(), 2);
        for name in [name, later] {
            assert_eq!(place.reap(&name), Reaped { entries: 2, left: Left::Nothing });
        }
    });
}

/// Where there is no room in the trash.
#[test]
fn what_is_kept_at_the_root_stays_there_until_it_is_due() {
    for engine in engines() {
        // The root, the volume and the file.
        with_inodes(engine, 3, |place| {
            let name = kept(place, "a", NOW, &keep("1h", None));
            assert_eq!(name.place(), TrashPlace::Root);
            assert_eq!(names(&place.root), [format!("{TRASH}~{NOW}+3600~{VOLUME}~a")]);
            let found = place.export.trashed(9, NOW).unwrap();
            assert_eq!((found.names.len(), found.kept.count), (0, 1));
            assert_eq!(place.export.trashed(9, NOW + 3600).unwrap().names, std::slice::from_ref(&name));
            assert_eq!(place.reap(&name).left, Left::Nothing);
        });
    }
}

#[test]
fn those_that_give_way_are_listed_the_oldest_first_and_not_without_bound() {
    let place = Place::new(&USUAL);
    for n in 0..100 {
        // In an order that is not that of their age.
        kept(&place, &format!("a{n}"), NOW + (n * 37) % 100, &keep("1h", Some("100%")));
    }
    kept(&place, "firm", NOW - 9, &keep("1h", None));
    kept(&place, "content", NOW - 9, &keep("1h", Some("1")));
    place.put(&["something"]);
    let Kept { count, firm, early, .. } = place.export.trashed(9, NOW).unwrap().kept;
    let expected: Vec<u64> = (NOW..NOW + 64).collect();
    assert_eq!((count, firm), (102, 1));
    assert_eq!(early.iter().map(TrashName::at).collect::<Vec<_>>(), expected);
}

/// Runs `case` while the trash of a place is emptied.
async fn while_reaped<F: Future>(place: &Place, case: impl FnOnce(Arc<Backlog>) -> F) {
    let storage = Storage::from(Root::open(&place.root).unwrap());
    let backlog = Arc::new(Backlog::default());
    tokio::select! {
        () = reap_forever(storage, || true, &backlog) => {}
        _ = case(Arc::clone(&backlog)) => {}
    }
}

/// As many as a listing brings, and more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_due_is_found_among_many_that_are_kept() {
    let place = Place::new(&USUAL);
    let (month, now) = (keep("30d", None), seconds_now());
    place.export.prepare().unwrap();
    for n in 0..600 {
        let name = TrashName::new_in(TrashPlace::Directory(1), now, Some(&month), VOLUME, &rel(&format!("a{n}")));
        fs::create_dir(place.at(&name.path())).unwrap();
    }
    kept(&place, "past", now - 31 * 24 * 3600, &month);
    while_reaped(&place, async |backlog| {
        until("the one to be gone", || backlog.counts().freed_due == 1).await;
        assert_eq!(names(&place.at(TRASH)).len(), 600);
        let due = Some(now + 30 * 24 * 3600);
        let expected = Counts { kept: 600, due, removed: 2, freed_due: 1, ..Counts::default() };
        until("counted", || backlog.counts() == expected).await;
        // One that is not kept goes at once as ever.
        place.put(&["plain/f"]);
        place.trashed("plain");
        backlog.pushed();
        until("the plain one to be gone", || names(&place.at(TRASH)).len() == 600).await;
        until("counted", || backlog.counts() == Counts { removed: 4, ..expected }).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_goes_when_its_time_has_come_and_not_before() {
    let place = Place::new(&USUAL);
    let name = kept(&place, "a", seconds_now(), &keep("3s", None));
    let at = place.at(&name.path());
    while_reaped(&place, async |backlog| {
        until("it to be counted", || backlog.counts().kept == 1).await;
        until("it to be gone", || !at.exists()).await;
        assert!(seconds_now() >= name.kept_until().unwrap());
        until("counted", || (backlog.counts().kept, backlog.counts().freed_due) == (0, 1)).await;
    })
    .await;
}

fn fill(place: &Place, path: &str, megabytes: usize) {
    fs::create_dir_all(place.at(path)).unwrap();
    fs::write(place.at(path).join("f"), vec![1; megabytes << 20]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_export_the_oldest_go_early_as_far_as_they_must_and_only_those_that_may() {
    let (log, _guard) = logged();
    let log = || String::from_utf8(log.lock().unwrap().clone()).unwrap();
    let place = Place::new(&USUAL);
    let _mounted = Mounted::tmpfs_with("mode=755,size=64m", &place.root);
    let place = Place { export: Root::open(&place.root).unwrap(), ..place };
    let now = seconds_now();
    for (name, age, least) in [
        ("firm", 90, None),
        ("newest", 10, Some("20Mi")),
        ("oldest", 50, Some("20Mi")),
        ("older", 40, Some("20Mi")),
    ] {
        fill(&place, name, 12);
        place.export.trash(&rel(name), VOLUME, now - age, Some(&keep("30d", least))).unwrap().unwrap();
    }
    fill(&place, "used", 12);
    while_reaped(&place, async |backlog| {
        // About 4 MiB are free of 64, and with two of them gone 28.
        until("two to be gone", || backlog.counts().freed_early == 2).await;
        let begun = Instant::now();
        until("some more time", || begun.elapsed() > Duration::from_secs(5)).await;
        let due = Some(now - 90 + 2_592_000);
        let expected = Counts { kept: 2, due, removed: 4, freed_early: 2, ..Counts::default() };
        until("counted", || backlog.counts() == expected).await;
    })
    .await;
    let left = names(&place.at(TRASH));
    assert!(left.len() == 2 && left[0].ends_with("~firm") && left[1].ends_with("~newest"), "{left:?}");
    let early: Vec<String> =
        log().lines().filter(|line| line.contains("before its time")).map(ToOwned::to_owned).collect();
    assert!(early.len() == 2 && early[0].contains("~oldest") && early[1].contains("~older"), "{early:?}");
    let little = log().lines().filter(|line| line.contains("has little room left")).count();
    assert_eq!(little, 1, "{}", log());
}

/// What is to go anyway goes first, however long that takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_early_where_what_is_due_makes_enough_room() {
    let place = Place::new(&USUAL);
    let _mounted = Mounted::tmpfs_with("mode=755,size=64m", &place.root);
    let place = Place { export: Root::open(&place.root).unwrap(), ..place };
    fill(&place, "kept", 20);
    place.export.trash(&rel("kept"), VOLUME, seconds_now(), Some(&keep("30d", Some("20Mi")))).unwrap().unwrap();
    fill(&place, "plain", 30);
    for n in 0..1000 {
        fs::write(place.at(&format!("plain/{n}")), "").unwrap();
    }
    place.trashed("plain");
    // Each removal waits, and the large file is the last.
    let storage = Storage::from(Root::open(&place.root).unwrap()).yielding_to(|| true);
    let backlog = Backlog::default();
    let case = async {
        let begun = Instant::now();
        until("the plain one to be gone", || backlog.counts().removed >= 1002).await;
        let took = begun.elapsed();
        until("some more time", || begun.elapsed() > took + Duration::from_secs(4)).await;
        assert_eq!((names(&place.at(TRASH)).len(), backlog.counts().freed_early), (1, 0));
    };
    tokio::select! {
        () = reap_forever(storage, || true, &backlog) => {}
        () = case => {}
    }
}

/// What cannot be removed entirely has the name of what is not kept, whatever time is left of it by another clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_due_is_no_longer_kept_before_anything_of_it_is_removed() {
    let place = Place::new(&USUAL);
    let name = kept(&place, "a", seconds_now() - 10, &keep("1s", None));
    let at = |name: &TrashName| place.at(&name.path()).join("stays");
    fs::write(at(&name), "").unwrap();
    // It is moved while it is immutable.
    std::mem::forget(Immutable::new(&at(&name)));
    while_reaped(&place, async |backlog| {
        until("it to be tried", || backlog.counts().blocked > 0).await;
        let _closed = Immutable(at(&name.released()));
        assert_eq!(names(&place.at(TRASH)), [name.released().to_string()]);
    })
    .await;
}
