//! Copies: made in a place of their own, and renamed to their directories.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use nfs_provisioner::layout::{STAGING, TRASH, staging};
use nfs_provisioner::storage::{Complete, CopyTo, Created, Errno, Left, Problem, Progress, Storage, StorageError};
use nfs_provisioner::values::ownership::Ownership;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{Mounted, PATIENCE, Place, VOLUME, by_each_engine, rel, stamps};

/// Runs `case` by each engine, on an export that has the directory `from` with a file in it.
fn copying(case: impl AsyncFn(&Place, Storage) + Copy) {
    by_each_engine(|place| {
        place.put(&["from/a/f"]);
        let storage = Storage::from((place.engine.open)(&place.root).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(case(place, storage));
    });
}

async fn copy(storage: &Storage, volume: &str, to: &str, progress: &Progress) -> Result<Complete, StorageError> {
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
        let made = copy(&storage, VOLUME, "ns/to", &Progress::default()).await.unwrap();
        let copied = fs::metadata(place.at(STAGING).join(VOLUME).join(staging::COPY)).unwrap().ino();
        let mark = staging::mark(copied);
        assert_eq!(staged(place), [&*mark, staging::COPY, staging::LINKS, staging::MAKER]);
        assert!(!storage.is_placed(VOLUME, &to).await.unwrap() && !place.at("ns").exists());
        assert_eq!(storage.place(VOLUME, made, &to, false).await, Ok(Created { made: 2 }));
        assert_eq!(fs::read_to_string(place.at("ns/to/a/f")).unwrap(), "from/a/f");
        assert_eq!(fs::metadata(place.at("ns/to")).unwrap().ino(), copied);
        assert_eq!(staged(place), [&*mark, staging::LINKS, staging::MAKER]);
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
        let made = copy(&storage, VOLUME, "empty", &Progress::default()).await.unwrap();
        let placed = async |to, onto_empty| {
            // Before the copying the same is said, of which nothing comes.
            let vacant = storage.is_vacant(&rel(to), onto_empty).await;
            let placed = storage.place(VOLUME, made, &rel(to), onto_empty).await.map_err(|error| error.problem);
            assert_eq!(vacant.map_err(|error| error.problem).err(), placed.err());
            placed
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
        assert_eq!(storage.trashed(9, 1).await.unwrap().names.len(), 1);
        let made = copy(&storage, VOLUME, "to", &Progress::default()).await.unwrap();
        storage.place(VOLUME, made, &rel("to"), false).await.unwrap();
        assert!(place.at("to/a/f").exists() && !place.at("to/old").exists());
    });
}

/// Two processes that both believed to lead have begun the same copy.
#[test]
fn a_copy_that_another_has_put_away_is_not_placed_and_nor_is_the_others() {
    copying(async |place, storage| {
        let first = copy(&storage, VOLUME, "to", &Progress::default()).await.unwrap();
        let second = copy(&storage, VOLUME, "to", &Progress::default()).await.unwrap();
        assert!(!storage.is_staged(VOLUME, first).await.unwrap());
        let refused = storage.place(VOLUME, first, &rel("to"), true).await.unwrap_err();
        assert_eq!((refused.problem, place.at("to").exists()), (Problem::Os(Errno::ESTALE), false));
        assert!(storage.is_staged(VOLUME, second).await.unwrap());
        assert_eq!(storage.place(VOLUME, second, &rel("to"), true).await, Ok(Created { made: 1 }));
        assert!(!storage.is_staged(VOLUME, second).await.unwrap());
    });
}

#[test]
fn a_copy_pauses_while_nothing_may_be_changed_and_goes_on_after_that() {
    copying(async |place, storage| {
        // It may begin, and then not go on for a while.
        let (asked, again) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, opened) = (Arc::clone(&asked), Arc::clone(&again));
        let fenced = storage
            .fenced_by(move || counted.fetch_add(1, Ordering::SeqCst) == 0 || opened.load(Ordering::SeqCst));
        let progress = Progress::default();
        let mut copying = std::pin::pin!(copy(&fenced, VOLUME, "to", &progress));
        let mut tries = 0;
        while asked.load(Ordering::SeqCst) < 20 {
            let waited = tokio::time::timeout(Duration::from_millis(20), &mut copying).await;
            assert!(waited.is_err(), "it has ended: {waited:?}");
            tries += 1;
            assert!(tries < 1000, "nobody asks whether it may go on");
        }
        assert_eq!(fs::read_dir(place.at(STAGING).join(VOLUME).join(staging::COPY)).unwrap().count(), 0);
        again.store(true, Ordering::SeqCst);
        let made = copying.await.unwrap();
        fenced.place(VOLUME, made, &rel("to"), true).await.unwrap();
        assert!(place.at("to/a/f").exists());
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
        let made = copy(&storage, VOLUME, "to", &Progress::default()).await.unwrap();
        fs::remove_dir_all(place.at(STAGING)).unwrap();
        for volume in ["..", "a/b", "../../outside", ""] {
            let refused = [
                copy(&storage, volume, "to", &Progress::default()).await.unwrap_err(),
                storage.place(volume, made, &rel("to"), false).await.unwrap_err(),
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

/// The server reboots at the wrong moment: the rename was carried out, and the client sends it again.
#[test]
fn a_copy_that_was_placed_without_an_answer_is_placed() {
    copying(async |place, storage| {
        for (to, onto_empty) in [("to", false), ("to-empty", true), ("ns/to", false)] {
            let made = copy(&storage, VOLUME, to, &Progress::default()).await.unwrap();
            fs::create_dir_all(place.at(to).parent().unwrap()).unwrap();
            fs::rename(place.at(STAGING).join(VOLUME).join(staging::COPY), place.at(to)).unwrap();
            for _ in 0..2 {
                assert!(storage.is_placed(VOLUME, &rel(to)).await.unwrap());
                assert_eq!(
                    storage.place(VOLUME, made, &rel(to), onto_empty).await,
                    Ok(Created { made: 1 }),
                    "{to}"
                );
            }
            assert_eq!(fs::read_to_string(place.at(to).join("a/f")).unwrap(), "from/a/f");
        }
    });
}

#[test]
fn a_directory_that_has_got_the_number_of_a_copy_is_not_the_copy() {
    copying(async |place, storage| {
        let to = rel("to");
        let made = copy(&storage, VOLUME, "to", &Progress::default()).await.unwrap();
        storage.place(VOLUME, made, &to, false).await.unwrap();
        assert!(storage.is_placed(VOLUME, &to).await.unwrap());
        // Ext4 gives the number that was freed last.
        fs::remove_dir_all(place.at("to")).unwrap();
        fs::create_dir(place.at("to")).unwrap();
        fs::write(place.at("to/theirs"), "").unwrap();
        assert!(!storage.is_placed(VOLUME, &to).await.unwrap());
        let refused = storage.place(VOLUME, made, &to, true).await.unwrap_err();
        assert_eq!(refused.problem, Problem::Os(Errno::ESTALE));
        assert!(place.at("to/theirs").exists());
    });
}

#[test]
fn a_mark_of_a_version_that_noted_the_path_alone_is_one_too() {
    copying(async |place, storage| {
        place.put(&["to/f", &format!("{STAGING}/{VOLUME}/")]);
        let number = fs::metadata(place.at("to")).unwrap().ino();
        fs::write(place.at(STAGING).join(VOLUME).join(staging::mark(number)), "to").unwrap();
        assert!(storage.is_placed(VOLUME, &rel("to")).await.unwrap());
        // One that notes another path is not.
        fs::write(place.at(STAGING).join(VOLUME).join(staging::mark(number)), "other").unwrap();
        assert!(!storage.is_placed(VOLUME, &rel("to")).await.unwrap());
    });
}

#[test]
fn what_is_not_complete_is_never_placed() {
    copying(async |place, storage| {
        let progress = Progress::default();
        progress.stop();
        copy(&storage, VOLUME, "to", &progress).await.unwrap_err();
        assert_eq!(staged(place), [staging::COPY, staging::LINKS, staging::MAKER]);
        let made = copy(&storage, VOLUME, "to", &Progress::default()).await.unwrap();
        let copied = fs::metadata(place.at(STAGING).join(VOLUME).join(staging::COPY)).unwrap().ino();
        assert!(storage.is_staged(VOLUME, made).await.unwrap());
        fs::remove_file(place.at(STAGING).join(VOLUME).join(staging::mark(copied))).unwrap();
        assert!(!storage.is_staged(VOLUME, made).await.unwrap(), "it is to be made again, not to be kept");
        for _ in 0..2 {
            let refused = storage.place(VOLUME, made, &rel("to"), true).await.unwrap_err();
            assert_eq!(refused.problem, Problem::Os(Errno::ESTALE));
        }
        assert!(!place.at("to").exists());
    });
}

/// A handle on the export that does something once, in the middle of a copy.
fn acting(storage: &Storage, act: impl Fn() + Send + Sync + 'static) -> Storage {
    let asked = AtomicU32::new(0);
    storage.clone().fenced_by(move || {
        // The first is asked for the place, the second before the first entry.
        if asked.fetch_add(1, Ordering::Relaxed) == 2 {
            act();
        }
        true
    })
}

#[test]
fn a_source_that_is_moved_or_removed_in_the_middle_gives_no_copy() {
    copying(async |place, storage| {
        let moved = [place.at("from"), place.at("moved")];
        let acts: [Box<dyn Fn() + Send + Sync>; 3] = [
            Box::new({
                let [from, to] = moved.clone();
                move || fs::rename(&from, &to).unwrap()
            }),
            Box::new({
                let [from, to] = moved.clone();
                move || {
                    fs::rename(&from, &to).unwrap();
                    fs::create_dir(&from).unwrap();
                    fs::write(from.join("others"), "").unwrap();
                }
            }),
            Box::new({
                let [from, _] = moved.clone();
                move || fs::remove_dir_all(&from).unwrap()
            }),
        ];
        for act in acts {
            let failed = copy(&acting(&storage, act), VOLUME, "to", &Progress::default()).await;
            let problem = failed.unwrap_err().problem;
            // A handle of what has been removed is a stale one.
            let stale = !place.engine.is_mounted && problem == Problem::Os(Errno::ESTALE);
            assert!(stale || problem == Problem::Os(Errno::ENOENT), "{problem:?}");
            assert!(!place.at("to").exists());
            if place.at("moved").exists() {
                drop(fs::remove_dir_all(place.at("from")));
                fs::rename(place.at("moved"), place.at("from")).unwrap();
            }
        }
    });
}

/// Deeper ones would take all descriptors, which the whole process shares.
#[test]
fn a_tree_is_copied_down_to_five_hundred_levels_and_a_deeper_one_refused() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < 20_000) {
        let wanted = maximum.map_or(20_000, |maximum| maximum.min(20_000));
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).unwrap();
    }
    copying(async |place, storage| {
        for (levels, is_refused) in [(499, false), (500, true)] {
            fs::create_dir_all(place.at("from/deep").join("d/".repeat(levels))).unwrap();
            let copied = copy(&storage, VOLUME, "to", &Progress::default()).await;
            if is_refused {
                let error = copied.unwrap_err();
                assert_eq!((error.problem, &*error.path), (Problem::TooDeep, "deep/d/d/d/…"), "{levels}");
            } else {
                storage.place(VOLUME, copied.unwrap(), &rel("to"), false).await.unwrap();
                assert!(place.at("to/deep").join("d/".repeat(levels)).is_dir());
            }
            // All of this goes, however deep it is.
            let left = storage.unstage(VOLUME, 1).await.unwrap().unwrap();
            assert_eq!(storage.reap(&left, PATIENCE).await.unwrap().left, Left::Nothing);
            for path in ["from/deep", "to"] {
                place.remove(path).unwrap();
            }
        }
    });
}

/// On a full export what was cut off could not be written again.
#[test]
fn placing_a_copy_writes_nothing_to_its_mark() {
    copying(async |place, storage| {
        let made = copy(&storage, VOLUME, "to", &Progress::default()).await.unwrap();
        let mark = staging::mark(fs::metadata(place.at(STAGING).join(VOLUME).join(staging::COPY)).unwrap().ino());
        let mark = place.at(STAGING).join(VOLUME).join(mark);
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        File::open(&mark).unwrap().set_modified(old).unwrap();
        let appended_only = |sign| Command::new("chattr").arg(format!("{sign}a")).arg(&mark).status().unwrap();
        assert!(appended_only('+').success());
        let placed = storage.place(VOLUME, made, &rel("to"), false).await;
        assert!(appended_only('-').success());
        assert_eq!(placed, Ok(Created { made: 1 }));
        assert!(fs::metadata(&mark).unwrap().modified().unwrap() > old, "when it was placed is told by its time");
    });
}

/// Says when the maker of [`VOLUME`]'s copy was last seen.
fn seen(place: &Place) -> SystemTime {
    fs::metadata(place.at(STAGING).join(VOLUME).join(staging::MAKER)).unwrap().modified().unwrap()
}

#[test]
fn whose_a_copy_is_and_whether_it_is_worked_on_can_be_told() {
    let names = |names: &'static [&str]| move || names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    copying(async |place, storage| {
        assert_eq!(storage.staged().await.unwrap(), []);
        assert!(!place.at(STAGING).exists());
        let ours = storage.clone().owned_by(names(&["ours", "ours-too"]));
        copy(&ours, VOLUME, "to", &Progress::default()).await.unwrap();
        place.put(&[&format!("{STAGING}/of-before/copy/a/"), &format!("{STAGING}/file")]);
        let hours = |number| Duration::from_hours(number);
        let before = SystemTime::now();
        for (path, age) in [
            (format!("{VOLUME}/{}", staging::MAKER), 2),
            ("of-before/copy".to_owned(), 3),
            ("of-before".to_owned(), 4),
        ] {
            let at = File::open(place.at(STAGING).join(path)).unwrap();
            at.set_modified(before - hours(age)).unwrap();
        }
        let mut found = storage.staged().await.unwrap();
        found.sort_by_key(|staged| staged.volume.clone());
        let [unnoted, noted] = &found[..] else { panic!("{found:?}") };
        let is_about = |quiet: Duration, age| quiet >= hours(age) && quiet < hours(age) + PATIENCE;
        assert!(noted.volume == VOLUME && is_about(noted.quiet, 2), "{noted:?}");
        assert!(unnoted.volume == "of-before" && is_about(unnoted.quiet, 3), "{unnoted:?}");
        assert!(ours.is_own(noted) && storage.clone().owned_by(names(&["x", "ours-too"])).is_own(noted));
        assert!(!storage.is_own(noted) && !storage.clone().owned_by(names(&["x"])).is_own(noted));
        assert!(!ours.is_own(unnoted));
    });
}

#[test]
fn a_copy_that_is_being_made_is_shown_to_be_each_minute() {
    copying(async |place, storage| {
        let maker = place.at(STAGING).join(VOLUME).join(staging::MAKER);
        let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let waiting = acting(&storage, {
            let maker = maker.clone();
            move || {
                File::open(&maker).unwrap().set_modified(old).unwrap();
                begun.send(()).unwrap();
                let since = Instant::now();
                while fs::metadata(&maker).unwrap().modified().unwrap() == old && since.elapsed() < PATIENCE {
                    sleep(Duration::from_millis(5));
                }
            }
        });
        let later = async {
            has_begun.recv().await.unwrap();
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(61)).await;
            tokio::time::resume();
        };
        let progress = Progress::default();
        let (copied, ()) = tokio::join!(copy(&waiting, VOLUME, "to", &progress), later);
        copied.unwrap();
        assert!(seen(place) > old, "nobody has shown that he works on it");
    });
}

/// A copy that does not fit, and what is left of it.
#[test]
fn a_copy_for_which_there_is_no_room_leaves_nothing_that_takes_room() {
    for options in ["size=2m", "nr_inodes=40"] {
        copying(async |place, storage| {
            // What is mounted later is none of the server's.
            if !place.engine.is_mounted {
                return;
            }
            fs::write(place.at("from/large"), vec![1; 4 << 20]).unwrap();
            for number in 0..100 {
                fs::write(place.at("from/a").join(number.to_string()), "").unwrap();
            }
            let small = place.base.path().join("small");
            fs::create_dir(&small).unwrap();
            let _mounted = Mounted::tmpfs(options, &small);
            let free = || {
                let found = nix::sys::statvfs::statvfs(&small).unwrap();
                (found.blocks_free(), found.files_free())
            };
            let before = free();
            {
                let root = (place.engine.open)(&small).unwrap();
                let target = Storage::from((place.engine.open)(&small).unwrap());
                let source = storage.open_source(&rel("from")).await.unwrap().unwrap();
                let (directory, top) = (rel("to"), Ownership::default());
                let job = CopyTo { volume: VOLUME, directory: &directory, top, group: None, now: 1 };
                let failed = target.copy(source, job, &Progress::default()).await.unwrap_err();
                assert_eq!(failed.problem, Problem::Os(Errno::ENOSPC), "{options}");
                // Where there is no room for the trash either, it is removed where it is.
                if let Some(name) = target.unstage(VOLUME, 1).await.unwrap() {
                    assert_eq!(root.reap(&name, 2, &|| true).unwrap().left, Left::Nothing);
                }
                drop(fs::remove_dir(small.join(TRASH)));
                fs::remove_dir(small.join(STAGING)).unwrap();
                assert_eq!(fs::read_dir(&small).unwrap().count(), 0, "{options}");
            }
            assert_eq!(free(), before, "{options}");
        });
    }
}
