//! The export's directories as asynchronous callers have them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::pool::CALLS_MAX;
use super::*;
use crate::layout::Note;
use crate::values::address::ExportAddress;
use crate::values::path::RelPath;
use crate::values::time::BootTime;

fn spec(at: &Path, must_be_nfs: MustBeNfs) -> ExportSpec {
    ExportSpec {
        name: "default".into(),
        address: ExportAddress::new("nas".into(), "/export".into()),
        reach: Reach::Mounted { at: at.to_owned(), must_be_nfs },
    }
}

fn note(directory: &RelPath) -> Note {
    Note {
        directory: directory.clone(),
        volume: "pv".into(),
        class: "nfs".into(),
        namespace: None,
        claim: None,
        claim_uid: None,
        archived: Some(jiff::Timestamp::UNIX_EPOCH),
        created: None,
        released: None,
        kept_until: None,
        capacity: None,
        access_modes: Vec::new(),
        mount_options: Vec::new(),
        reclaim_policy: None,
        on_delete: None,
        on_delete_of_claim: None,
        gid: None,
        on_delete_of_volume: None,
        delete_retention: None,
        delete_retention_min_free: None,
        archive_retention: None,
        restored_from: None,
        inode: None,
        owners: None,
        provisioner: None,
        cluster: None,
    }
}

#[tokio::test]
async fn who_waits_for_a_thread_of_what_was_mounted_before_gets_one_of_what_is_now() {
    let (before, now) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let storage = Storage::from(Root::open(before.path()).unwrap());
    let State::Open(opened) = storage.state() else { panic!("it is open") };
    // As if that many calls hung.
    let hung = opened.calls.acquire_many(u32::try_from(CALLS_MAX).unwrap()).await.unwrap();
    let directory = RelPath::parse("a").unwrap();
    let mut creating = std::pin::pin!(storage.create(&directory));
    assert!(timeout(Duration::from_millis(50), &mut creating).await.is_err());
    let spec = spec(now.path(), MustBeNfs::Never);
    let returned = storage.returned();
    storage.supervisor.becomes(State::Open(Arc::new(Root::open(now.path()).unwrap().into())), &spec);
    assert_eq!(creating.await, Ok(Created { made: 1 }));
    assert!(now.path().join("a").exists() && !before.path().join("a").exists());
    assert!(returned.has_changed().unwrap());
    drop(hung);
}

/// Its directories are of what was mounted before: what they show is not what is there now, or hangs.
#[tokio::test]
async fn a_survey_ends_when_the_export_is_mounted_anew() {
    let (before, now) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let storage = Storage::from(Root::open(before.path()).unwrap());
    let directory = RelPath::parse("a").unwrap();
    storage.create(&directory).await.unwrap();
    for number in 0..9 {
        std::fs::write(before.path().join("a").join(number.to_string()), "").unwrap();
    }
    let begin = async || match storage.survey(&directory).await.unwrap() {
        Some(Begun::DiskUsage(survey)) => survey,
        begun => panic!("{begun:?}"),
    };
    let (survey, found) = storage.advance(begin().await, 5).await.unwrap();
    assert!(found.is_none() && storage.is_current(&survey));
    let hanging = begin().await;
    let State::Open(opened) = storage.state() else { panic!("it is open") };
    let hung = opened.calls.acquire_many(u32::try_from(CALLS_MAX).unwrap()).await.unwrap();
    let mut hangs = std::pin::pin!(storage.advance(hanging, 5));
    assert!(timeout(Duration::from_millis(50), &mut hangs).await.is_err());

    let mounted = State::Open(Arc::new(Root::open(now.path()).unwrap().into()));
    storage.supervisor.becomes(mounted, &spec(now.path(), MustBeNfs::Never));
    assert!(!storage.is_current(&survey));
    for ended in [hangs.await, storage.advance(survey, 100).await] {
        assert_eq!(ended.unwrap_err().problem, Problem::Os(Errno::ESTALE));
    }
    storage.create(&directory).await.unwrap();
    let (_, found) = storage.advance(begin().await, 100).await.unwrap();
    assert_eq!(found.unwrap().inodes, 1, "what is there now is counted");
    drop(hung);
}

#[tokio::test]
async fn behind_the_fence_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let allowed = Arc::new(AtomicBool::new(true));
    let storage = Storage::from(Root::open(dir.path()).unwrap());
    let storage = storage.fenced_by({
        let allowed = Arc::clone(&allowed);
        move || allowed.load(Ordering::SeqCst)
    });
    let directory = RelPath::parse("a").unwrap();
    let made = storage.create(&directory).await.unwrap();
    allowed.store(false, Ordering::SeqCst);
    let other = RelPath::parse("b").unwrap();
    assert_eq!(storage.create(&other).await.unwrap_err().problem, Problem::NotLeading);
    assert_eq!(storage.undo(&directory, made).await.unwrap_err().problem, Problem::NotLeading);
    assert_eq!(storage.trash(&directory, "pv", 1, None).await.unwrap_err().problem, Problem::NotLeading);
    assert_eq!(
        storage.archive(&directory, "pv", &note(&directory)).await.unwrap_err().problem,
        Problem::NotLeading
    );
    assert_eq!(storage.prepare().await.unwrap_err().problem, Problem::NotLeading, "or it counts as done");
    assert_eq!(storage.directories(None).await.unwrap(), ["a"]);
    allowed.store(true, Ordering::SeqCst);
    let name = storage.trash(&directory, "pv", 1, None).await.unwrap().unwrap();
    allowed.store(false, Ordering::SeqCst);
    assert_eq!(storage.reap(&name, Duration::from_secs(9)).await.unwrap().left, Left::More);
    assert_eq!(storage.changes_under_way(), 0);
}

#[tokio::test]
async fn an_export_that_cannot_be_used_refuses_all_calls_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), MustBeNfs::Always);
    let storage = Storage::at(&spec, |_, _| {}).await.unwrap();
    let directory = RelPath::parse("a").unwrap();
    let refused = tokio::select! {
        () = storage.keep(&spec) => None,
        created = storage.create(&directory) => Some(created),
    };
    assert_eq!(refused.unwrap().unwrap_err().problem, Problem::NotNfs);
    assert!(!dir.path().join("a").exists());
}

#[tokio::test]
async fn a_write_test_leaves_nothing_and_says_how_far_it_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), MustBeNfs::Always);
    let storage = Storage::visit(&spec).await.unwrap();
    let mount = storage.mount().await.unwrap().unwrap();
    assert!(!mount.is_nfs() && spec.reach.refuses(&mount), "who visits sees what is refused else");
    assert!(storage.measure().await.unwrap().bytes > 0);
    let test = storage.begin_write_test().await.unwrap();
    let left = dir.path().join(crate::layout::write_test(1));
    std::fs::create_dir(&left).unwrap();
    for step in [WriteStep::Write, WriteStep::SetMode, WriteStep::Rename, WriteStep::Remove] {
        assert!(dir.path().join(test.name()).exists());
        storage.write_test(&test, step).await.unwrap();
    }
    assert!(!dir.path().join(test.name()).exists());
    let answers = Arc::new(AtomicBool::new(false));
    let answered = Arc::clone(&answers);
    let found = storage.remove_leftovers(&test, move || answered.store(true, Ordering::SeqCst)).await.unwrap();
    assert_eq!(found, Leftovers::default(), "it may be in use");
    assert!(answers.load(Ordering::SeqCst) && left.exists());
    let absent =
        ExportSpec { reach: Reach::Mounted { at: left.join("x"), must_be_nfs: MustBeNfs::Never }, ..spec };
    assert_eq!(Storage::visit(&absent).await.unwrap_err().problem, Problem::Os(Errno::ENOENT));
}

#[tokio::test]
async fn what_is_proved_for_a_moment_is_not_done_later() {
    let dir = tempfile::tempdir().unwrap();
    let directory = RelPath::parse("a").unwrap();
    let storage = Storage::from(Root::open(dir.path()).unwrap());
    storage.create(&directory).await.unwrap();
    let late = storage.clone().until(BootTime::now());
    assert_eq!(late.trash(&directory, "pv", 1, None).await.unwrap_err().problem, Problem::TooLate);
    assert_eq!(late.archive(&directory, "pv", &note(&directory)).await.unwrap_err().problem, Problem::TooLate);
    assert!(dir.path().join("a").exists());
    let in_time = storage.until(BootTime::now() + Duration::from_mins(1));
    assert!(in_time.trash(&directory, "pv", 1, None).await.unwrap().is_some());
}

/// The server may take its time for what comes before the rename.
#[test]
fn the_last_look_is_right_before_the_rename() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let directory = RelPath::parse("a").unwrap();
    root.create(&directory).unwrap();
    let late = || Err(Problem::TooLate);
    assert_eq!(root.trash_if(&late, &directory, "pv", 1, None).unwrap_err().problem, Problem::TooLate);
    let archived = root.archive_if(&late, &directory, "pv", &note(&directory));
    assert_eq!(archived.unwrap_err().problem, Problem::TooLate);
    assert!(dir.path().join("a").exists() && !dir.path().join("archived-a").exists());
    // By then all that comes before has been done.
    assert!(dir.path().join(".nfs-provisioner-trash").exists());
    assert!(dir.path().join(".nfs-provisioner-archives/archived-a").exists());
}
