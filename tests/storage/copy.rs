//! Copies: made in a place of their own, and renamed to their directories.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nfs_provisioner::layout::{STAGING, TRASH, staging};
use nfs_provisioner::storage::{CopyTo, Created, Errno, Problem, Progress, Storage, StorageError};
use nfs_provisioner::values::ownership::Ownership;

use crate::{Place, VOLUME, by_each_engine, rel, stamps};

/// Runs `case` by each engine, on an export that has the directory `from` with a file in it.
fn copying(case: impl AsyncFn(&Place, Storage) + Copy) {
    by_each_engine(|place| {
        place.put(&["from/a/f"]);
        let storage = Storage::from((place.engine.open)(&place.root).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(case(place, storage));
    });
}

async fn copy(storage: &Storage, volume: &str, to: &str, progress: &Progress) -> Result<(), StorageError> {
    let source = storage.open_source(&rel("from")).await?.unwrap();
    let (directory, top) = (rel(to), Ownership::default());
    storage.copy(source, CopyTo { volume, directory: &directory, top, group: None, now: 1 }, progress).await
}

/// What is in the place of [`VOLUME`]'s copy.
fn staged(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.at(STAGING).join(VOLUME));
    let mut names: Vec<String> =
        entries.into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_copy_is_made_aside_and_then_renamed_to_its_directory() {
    copying(async |place, storage| {
        let to = rel("ns/to");
        assert_eq!(storage.open_source(&rel("absent")).await.unwrap().map(drop), None);
        copy(&storage, VOLUME, "ns/to", &Progress::default()).await.unwrap();
        assert_eq!(staged(place), [staging::COPY, staging::LINKS]);
        assert!(!storage.is_placed(VOLUME, &to).await.unwrap() && !place.at("ns").exists());
        let copied = fs::metadata(place.at(STAGING).join(VOLUME).join(staging::COPY)).unwrap().ino();
        assert_eq!(storage.place(VOLUME, &to, false).await, Ok(Created { made: 2 }));
        assert_eq!(fs::read_to_string(place.at("ns/to/a/f")).unwrap(), "from/a/f");
        assert_eq!(fs::metadata(place.at("ns/to")).unwrap().ino(), copied);
        assert_eq!(staged(place), [&*staging::mark(copied), staging::LINKS]);
        assert!(storage.is_placed(VOLUME, &to).await.unwrap());
        assert!(!storage.is_placed(VOLUME, &rel("from")).await.unwrap(), "it is no copy");
        let name = storage.unstage(VOLUME, 2).await.unwrap().unwrap();
        assert!(place.at(TRASH).join(name.to_string()).exists());
        assert!(!storage.is_placed(VOLUME, &to).await.unwrap(), "nothing tells it any more");
        assert_eq!(storage.unstage(VOLUME, 2).await, Ok(None));
    });
}

#[test]
fn a_copy_is_not_placed_over_what_is_there() {
    copying(async |place, storage| {
        place.put(&["empty/", "full/f"]);
        copy(&storage, VOLUME, "empty", &Progress::default()).await.unwrap();
        let placed = async |to, onto_empty| {
            storage.place(VOLUME, &rel(to), onto_empty).await.map_err(|error| error.problem)
        };
        let taken = |problem| matches!(problem, Problem::Os(Errno::EEXIST | Errno::ENOTEMPTY));
        assert!(placed("empty", false).await.is_err_and(taken));
        assert!(placed("full", false).await.is_err_and(taken));
        assert!(placed("full", true).await.is_err_and(taken));
        assert_eq!(placed("empty", true).await, Ok(Created { made: 1 }));
        assert!(place.at("empty/a/f").exists() && place.at("full/f").exists());
    });
}

#[test]
fn what_an_earlier_copy_has_left_is_put_away() {
    copying(async |place, storage| {
        for _ in 0..2 {
            copy(&storage, VOLUME, "to", &Progress::default()).await.unwrap();
            place.put(&[&format!("{STAGING}/{VOLUME}/{}/old", staging::COPY)]);
        }
        assert_eq!(storage.trashed(9).await.unwrap().names.len(), 1);
        copy(&storage, VOLUME, "to", &Progress::default()).await.unwrap();
        storage.place(VOLUME, &rel("to"), false).await.unwrap();
        assert!(place.at("to/a/f").exists() && !place.at("to/old").exists());
    });
}

#[test]
fn a_copy_that_is_stopped_is_not_complete() {
    copying(async |place, storage| {
        let progress = Progress::default();
        progress.stop();
        let stopped = copy(&storage, VOLUME, "to", &progress).await;
        assert_eq!(stopped.unwrap_err().problem, Problem::NotLeading);
        let fenced = storage.clone().fenced_by(|| false);
        let refused = copy(&fenced, "other", "to", &Progress::default()).await;
        assert_eq!(refused.unwrap_err().problem, Problem::NotLeading);
        assert!(!place.at(STAGING).join("other").exists());
    });
}

#[test]
fn copies_are_made_in_no_place_but_their_own() {
    copying(async |place, storage| {
        let outside = stamps(&place.at("../outside"));
        for volume in ["..", "a/b", "../../outside", ""] {
            let refused = [
                copy(&storage, volume, "to", &Progress::default()).await.unwrap_err(),
                storage.place(volume, &rel("to"), false).await.unwrap_err(),
                storage.unstage(volume, 1).await.unwrap_err(),
            ];
            for error in refused {
                assert_eq!((error.doing, error.problem), ("clone", Problem::Os(Errno::EINVAL)), "{volume:?}");
            }
        }
        assert_eq!(place.tree(), ["from/", "from/a/", "from/a/f"]);
        place.put(&[&format!("{STAGING} -> ../outside")]);
        let refused = copy(&storage, "x", "to", &Progress::default()).await;
        assert_eq!(refused.unwrap_err().problem, Problem::Link);
        assert_eq!(storage.unstage("x", 1).await.unwrap_err().problem, Problem::Link);
        assert_eq!(stamps(&place.at("../outside")), outside);
    });
}
