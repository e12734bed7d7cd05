//! Removing what is in the trash.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nfs_provisioner::layout::TRASH;
use nfs_provisioner::storage::{Errno, Left, Problem, Reaped, Root};
use nfs_provisioner::values::path::NAME_MAX;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{NFS_SUPER_MAGIC, statfs};

use crate::engine::{Engine, USUAL, engines};
use crate::{
    Immutable, Mounted, OnDrop, PATIENCE, Place, WORKERS, by_each_engine, by_each_mounted_engine, chmod, dig,
    names, open_dir, spread, touch,
};

#[test]
fn a_wide_tree_is_reaped() {
    let place = Place::new(&USUAL);
    spread(&place.at("a"), 100, 1000);
    let (name, _) = place.trashed("a");
    assert_eq!(place.reap_all(&name), 100_101);
}

#[test]
fn any_number_of_directories_in_one_is_reaped() {
    let place = Place::new(&USUAL);
    spread(&place.at("a"), 20_000, 1);
    let (name, _) = place.trashed("a");
    assert_eq!(place.reap_all(&name), 40_001);
}

#[test]
fn deep_trees_are_reaped_with_few_open_files() {
    by_each_engine(|place| {
        for (depth, width) in [(10_000, 0), (1_000, 2), (97, 1), (96, 0), (95, 3)] {
            dig(&place.at("a"), depth, width);
            let (name, _) = place.trashed("a");
            let most = AtomicU64::new(0);
            let checks = AtomicU64::new(0);
            let watch = || {
                if checks.fetch_add(1, Ordering::Relaxed).is_multiple_of(50) {
                    let open = fs::read_dir("/proc/self/fd").unwrap().filter(|link| {
                        let target = fs::read_link(link.as_ref().unwrap().path()).unwrap_or_default();
                        target.starts_with(&place.root)
                    });
                    most.fetch_max(open.count() as u64, Ordering::Relaxed);
                }
                true
            };
            let reaped = place.export.reap(&name, WORKERS, &watch).unwrap();
            let expected = u64::from(depth) * (1 + 2 * u64::from(width)) + 1;
            assert_eq!(reaped, Reaped { entries: expected, left: Left::Nothing }, "{depth} {width}");
            assert!(most.load(Ordering::Relaxed) < 250, "{most:?} files are open");
        }
    });
}

/// At a lower priority than others', a removal as good as stands still while any process of the machine is busy.
#[test]
fn whoever_empties_the_trash_has_the_processor_as_any_other() {
    let priority = || rustix::process::getpriority_process(None).unwrap();
    let place = Place::new(&USUAL);
    place.put(&["v/a/x", "v/b/x", "v/c/x"]);
    let (name, _) = place.trashed("v");
    let (before, found) = (priority(), Mutex::new(Vec::new()));
    let looks_on = || {
        found.lock().unwrap().push(priority());
        true
    };
    assert_eq!(place.export.reap(&name, WORKERS, &looks_on).unwrap().left, Left::Nothing);
    let found = found.into_inner().unwrap();
    assert!(!found.is_empty() && found.iter().all(|priority| *priority == before), "{found:?}");
}

/// How many threads remove a tree whose file system takes so long for each removal.
fn threads_at(engine: &Engine, distance: Duration) -> usize {
    let place = Place::new(engine);
    spread(&place.at("a"), 40, 10);
    // An engine that removes many at a time is none the nearer for that.
    for number in 0..200 {
        fs::write(place.at(&format!("a/{number}-file")), "").unwrap();
    }
    let (name, _) = place.trashed("a");
    let threads = Mutex::new(HashSet::new());
    let far = || {
        threads.lock().unwrap().insert(thread::current().id());
        thread::sleep(distance);
        true
    };
    assert_eq!(place.export.reap(&name, WORKERS, &far).unwrap().entries, 641);
    threads.into_inner().unwrap().len()
}

/// Claims must not wait because a huge tree takes all processors.
#[test]
fn several_threads_share_the_waiting_for_a_file_system_that_is_far() {
    for engine in engines() {
        assert_eq!(threads_at(engine, Duration::from_millis(1)), WORKERS, "{}", engine.name);
    }
}

#[test]
fn what_stays_at_the_top_does_not_end_the_removal_of_deep_trees() {
    by_each_mounted_engine(|place| {
        dig(&place.at("a"), 1_000, 1);
        place.put(&["a/m/"]);
        let (name, at) = place.trashed("a");
        let mounted = Mounted::tmpfs(&at.join("m"));
        let reaped = place.reap(&name);
        assert_eq!(reaped.entries, 3_000);
        assert!(matches!(reaped.left, Left::Blocked { entries: 1, .. }), "{reaped:?}");
        assert_eq!(names(&at), ["m"]);
        drop(mounted);
        assert_eq!(place.reap_all(&name), 2);
    });
}

#[test]
fn anything_can_be_in_a_tree_that_is_reaped() {
    by_each_engine(|place| {
        let content = fs::read(place.outside().join("x/secret")).unwrap();
        place.put(&["a/closed/in/f", "a/.nfs0001", "a/.nfs-provisioner-deep-1/f", "a/.nfs-provisioner-deep-2"]);
        for (n, name) in
            [&b"new\nline"[..], b"\xff\xfe", b" ", b"-rf", b"*", b"\\", &[b'x'; NAME_MAX]].into_iter().enumerate()
        {
            let name = OsStr::from_bytes(name);
            fs::create_dir(place.at("a").join(name)).unwrap();
            fs::write(place.at("a").join(name).join(name), n.to_string()).unwrap();
            symlink(place.outside(), place.at("a/closed").join(name)).unwrap();
        }
        for (link, target) in [("1", "../../../outside"), ("2", ".."), ("3", "3"), ("4", "nowhere"), ("5", "/")] {
            symlink(target, place.at("a").join(link)).unwrap();
        }
        for closed in ["a/closed/in", "a/closed", "a"] {
            chmod(&place.at(closed), 0o000);
        }
        let (name, _) = place.trashed("a");
        place.reap_all(&name);
        assert_eq!(fs::read(place.outside().join("x/secret")).unwrap(), content);
    });
}

/// Not a test of its own: the next one runs it as somebody else than root.
#[test]
#[ignore = "run by a_directory_without_rights_is_reaped_by_one_who_is_not_root"]
fn as_nobody() {
    let place = Place::new(&USUAL);
    for mode in [0o000, 0o400, 0o100, 0o500, 0o200] {
        place.put(&["a/b/c/f", "a/b/e/", "a/g/f"]);
        dig(&place.at("a/deep"), 200, 1);
        for closed in ["a/b/c", "a/b/e", "a/b", "a/g", "a/deep/d/d", "a/deep"] {
            chmod(&place.at(closed), mode);
        }
        let (name, _) = place.trashed("a");
        chmod(&place.at(TRASH).join(name.to_string()), mode);
        place.reap_all(&name);
    }
}

#[test]
fn a_directory_without_rights_is_reaped_by_one_who_is_not_root() {
    // Such as root, on servers that take root for somebody else.
    let base = tempfile::tempdir().unwrap();
    chmod(base.path(), 0o777);
    let test = base.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &test).unwrap();
    let done = Command::new("setpriv")
        .args(["--reuid=1000", "--regid=1000", "--clear-groups"])
        .arg(test)
        .args(["--exact", "reap::as_nobody", "--ignored"])
        .env("TMPDIR", base.path())
        .current_dir(base.path())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success() && output.contains("1 passed"),
        "{output}{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[test]
fn a_mount_inside_is_not_crossed_and_all_else_removed() {
    by_each_mounted_engine(|place| {
        place.put(&["a/b/m/", "a/b/c/f", "a/f"]);
        let (name, at) = place.trashed("a");
        let mounted = Mounted::tmpfs(&at.join("b/m"));
        fs::write(at.join("b/m/kept"), "").unwrap();
        for expected in [3, 0] {
            let Reaped { entries, left: Left::Blocked { entries: blocked, first } } = place.reap(&name) else {
                panic!("it must be blocked");
            };
            assert_eq!((entries, blocked), (expected, 1));
            assert_eq!((first.problem, first.path), (Problem::MountPoint, format!("{TRASH}/{name}/b/m")));
        }
        assert_eq!((names(&at), names(&at.join("b/m"))), (vec!["b".into()], vec!["kept".into()]));
        drop(mounted);
        assert_eq!(place.reap_all(&name), 3);
    });
}

#[test]
fn files_that_cannot_be_removed_are_told_and_all_else_removed() {
    by_each_engine(|place| {
        let _mounted = Mounted::tmpfs(&place.root);
        let export = Root::open(&place.root).unwrap();
        let place = &Place { base: tempfile::tempdir().unwrap(), root: place.root.clone(), export };
        spread(&place.at("a"), 50, 20);
        place.put(&["a/7/deep/stuck", "a/7/deep/other", "a/9/stuck"]);
        let (name, at) = place.trashed("a");
        let stuck = ["7/deep/stuck", "9/stuck"].map(|path| Immutable::new(&at.join(path)));
        for expected in [1_049, 0] {
            let Reaped { entries, left: Left::Blocked { entries: blocked, first } } = place.reap(&name) else {
                panic!("it must be blocked");
            };
            assert_eq!((entries, blocked), (expected, 2));
            assert_eq!(first.problem, Problem::Os(Errno::EPERM));
            assert!(
                first.path.starts_with(&format!("{TRASH}/{name}/")) && first.path.ends_with("/stuck"),
                "{first}"
            );
        }
        assert_eq!(names(&at), ["7", "9"]);
        assert_eq!(names(&at.join("7")), ["deep"]);
        drop(stuck);
        assert_eq!(place.reap_all(&name), 6);
    });
}

#[test]
fn files_that_are_still_open_are_waited_for() {
    by_each_mounted_engine(|place| {
        place.put(&["a/d/open", "a/d/f", "a/g"]);
        let file = fs::File::open(place.at("a/d/open")).unwrap();
        let (name, at) = place.trashed("a");
        if statfs(&at).unwrap().filesystem_type() == NFS_SUPER_MAGIC {
            for expected in [3, 0] {
                let Reaped { entries, left: Left::Blocked { entries: 1, first } } = place.reap(&name) else {
                    panic!("it must be blocked");
                };
                assert_eq!((entries, first.problem), (expected, Problem::StillOpen));
                assert!(first.path.starts_with(&format!("{TRASH}/{name}/d/.nfs")), "{first}");
            }
            drop(file);
            assert_eq!(place.reap_all(&name), 2);
            return;
        }
        assert_eq!(place.reap_all(&name), 5);

        // Where NFS is not to be had, a mount makes a file as hard to remove as NFS does.
        place.put(&["a/d/.nfs0000000000000001", "a/d/f"]);
        let (name, at) = place.trashed("a");
        let open = Mounted::bind(&place.outside().join("x/secret"), &at.join("d/.nfs0000000000000001"));
        let Left::Blocked { entries: 1, first } = place.reap(&name).left else { panic!("it must be blocked") };
        assert_eq!(first.problem, Problem::StillOpen);
        drop(open);
        assert_eq!(place.reap_all(&name), 3);
    });
}

#[test]
fn a_link_that_got_into_the_trash_is_removed_itself() {
    by_each_engine(|place| {
        place.put(&["a/"]);
        let (name, at) = place.trashed("a");
        fs::remove_dir(&at).unwrap();
        symlink(place.outside(), &at).unwrap();
        assert_eq!(place.reap_all(&name), 1);
    });
}

#[test]
fn a_removal_that_was_cut_is_finished_by_the_next() {
    by_each_engine(|place| {
        spread(&place.at("a"), 20, 50);
        dig(&place.at("a/deep"), 300, 1);
        let (name, _) = place.trashed("a");
        let mut removed = 0;
        for turn in 0.. {
            // Enough to get as deep as it goes before anything is removed, though each who looks in vain for
            // something to do asks, too; and too little for all.
            let left = AtomicU64::new(1_000);
            let goes_on = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
            let reaped = place.export.reap(&name, WORKERS, &goes_on).unwrap();
            removed += reaped.entries;
            match reaped.left {
                Left::More => assert!(turn < 200 && reaped.entries > 0, "{turn}: {reaped:?}"),
                Left::Nothing => break,
                Left::Blocked { .. } => panic!("{reaped:?}"),
            }
        }
        // What is moved up may take the place of an empty directory that an earlier turn has moved up.
        let all = 20 * 51 + 300 * 3 + 2;
        assert!((all - 20..=all).contains(&removed), "{removed} of {all}");
        assert_eq!(names(&place.at(TRASH)), [""; 0]);
    });
}

#[test]
fn two_who_reap_one_entry_do_no_harm() {
    by_each_mounted_engine(|place| {
        for _ in 0..5 {
            spread(&place.at("a"), 50, 50);
            dig(&place.at("a/deep"), 300, 1);
            let (name, _) = place.trashed("a");
            let removed: u64 = thread::scope(|scope| {
                let both = [scope.spawn(|| place.reap(&name)), scope.spawn(|| place.reap(&name))];
                let ended = both.map(|one| one.join().unwrap());
                assert!(ended.iter().all(|reaped| reaped.left == Left::Nothing), "{ended:?}");
                ended.iter().map(|reaped| reaped.entries).sum()
            });
            // What one moves up may take the place of an empty directory that the other has moved up.
            let all = 50 * 51 + 300 * 3 + 2;
            assert!((all - 20..=all).contains(&removed), "{removed} of {all}");
            assert_eq!(names(&place.at(TRASH)), [""; 0]);
        }
    });
}

#[test]
fn one_who_keeps_writing_does_not_keep_the_reaper_for_ever() {
    for busy in ["", "b"] {
        by_each_engine(|place| {
            place.put(&["a/b/"]);
            let dir = open_dir(&place.at("a").join(busy));
            let (name, at) = place.trashed("a");
            let done = AtomicBool::new(false);
            let begun = Instant::now();
            thread::scope(|scope| {
                let _stop = OnDrop(|| done.store(true, Ordering::Relaxed));
                for writer in 0..2 {
                    let (dir, done) = (&dir, &done);
                    scope.spawn(move || {
                        for n in 0.. {
                            let _ = mkdirat(dir, &*format!("{writer}-d{n}"), Mode::S_IRWXU);
                            if done.load(Ordering::Relaxed) || touch(dir, &format!("{writer}-{n}")).is_err() {
                                break;
                            }
                        }
                    });
                }
                let limit = Duration::from_secs(3);
                let reaped = place.export.reap(&name, WORKERS, &|| begun.elapsed() < limit).unwrap();
                assert!(begun.elapsed() < limit * 2, "{:?}", begun.elapsed());
                match reaped.left {
                    Left::Nothing => assert!(!at.exists()),
                    Left::More => assert!(at.exists()),
                    Left::Blocked { .. } => panic!("{reaped:?}"),
                }
            });
            place.reap_all(&name);
        });
    }
}

#[test]
fn nothing_is_removed_outside_by_exchanging_a_directory_inside_with_a_link() {
    by_each_mounted_engine(|place| {
        let mut changed = 0;
        let end = Instant::now() + PATIENCE / 6;
        while Instant::now() < end {
            place.put(&["a/d/x/secret", "a/e/f", "a/z/f"]);
            symlink(place.outside(), place.at("a/link")).unwrap();
            let (name, at) = place.trashed("a");
            let done = AtomicBool::new(false);
            thread::scope(|scope| {
                let _stop = OnDrop(|| done.store(true, Ordering::Relaxed));
                let attacker = scope.spawn(|| {
                    let (one, other) = (at.join("d"), at.join("link"));
                    let mut times = 0;
                    while !done.load(Ordering::Relaxed) {
                        times += u32::from(
                            renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).is_ok(),
                        );
                    }
                    times
                });
                let mut left = place.reap(&name).left;
                while left != Left::Nothing {
                    left = place.reap(&name).left;
                }
                done.store(true, Ordering::Relaxed);
                changed += attacker.join().unwrap();
            });
            assert_eq!(names(&place.at(TRASH)), [""; 0]);
        }
        assert!(changed > 1000, "the race was none: {changed}");
    });
}
