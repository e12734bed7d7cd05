//! Making a volume's directory, and taking it back.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::sync::Barrier;
use std::{fs, thread};

use nfs_provisioner::storage::{Created, Errno, Problem};
use nfs_provisioner::values::ownership::Ownership;
use nix::unistd::{Uid, setfsuid};

use crate::{Mounted, Tree, UMASKS, Umask, by_each_engine, by_each_mounted_engine, chmod, rel, stamps};

#[test]
fn create_makes_what_is_missing_and_adopts_what_is_there() {
    let rows: &[(Tree, &str, usize, Tree)] = &[
        (&[], "a", 1, &["a/"]),
        (&[], "a/b/c", 3, &["a/", "a/b/", "a/b/c/"]),
        (&["a/"], "a/b/c", 2, &["a/", "a/b/", "a/b/c/"]),
        (&["a/b/"], "a/b/c", 1, &["a/", "a/b/", "a/b/c/"]),
        (&["a/b/c/"], "a/b/c", 0, &["a/", "a/b/", "a/b/c/"]),
        (&["a/b/f"], "a/b", 0, &["a/", "a/b/", "a/b/f"]),
        (&["a/f", "link -> a"], "a/b", 1, &["a/", "a/b/", "a/f", "link -> a"]),
    ];
    for (before, path, made, after) in rows {
        by_each_engine(|place| {
            place.put(before);
            assert_eq!(place.create(path), Ok(*made), "{before:?} {path}");
            assert_eq!(place.tree(), *after, "{before:?} {path}");
            let stamps = place.stamps();
            assert_eq!(place.create(path), Ok(0), "{before:?} {path} again");
            assert_eq!(place.stamps(), stamps, "{before:?} {path} again");
        });
    }
}

#[test]
fn anybody_may_write_in_a_volume_whatever_the_umask() {
    by_each_engine(|place| {
        for mask in UMASKS {
            let _umask = Umask::set(mask);
            for path in [format!("{mask:o}"), format!("under/{mask:o}")] {
                place.create(&path).unwrap();
                assert_eq!(place.mode(&path), 0o777, "{mask:o}");
            }
        }
    });
}

#[test]
fn anybody_may_pass_to_a_volume_and_nobody_write_above_it_whatever_the_umask() {
    by_each_engine(|place| {
        for mask in UMASKS {
            let _umask = Umask::set(mask);
            let top = format!("{mask:o}");
            assert_eq!(place.create(&format!("{top}/b/c")), Ok(3));
            for parent in [top.clone(), format!("{top}/b")] {
                let mode = place.mode(&parent);
                assert_eq!(mode, 0o755, "umask {mask:03o}: {parent} has {mode:03o}");
            }
        }
    });
}

#[test]
fn an_adopted_directory_is_opened_to_all_and_otherwise_left_alone() {
    by_each_engine(|place| {
        for (mode, expected) in
            [(0o700, 0o777), (0o000, 0o777), (0o777, 0o777), (0o2700, 0o2777), (0o1750, 0o1777), (0o7700, 0o7777)]
        {
            let path = format!("{mode:o}");
            place.put(&[&format!("{path}/f")]);
            chmod(&place.at(&path), mode);
            chown(place.at(&path), Some(1000), Some(2000)).unwrap();
            // A chown may clear bits.
            chmod(&place.at(&path), mode);
            assert_eq!(place.create(&path), Ok(0));
            let found = fs::metadata(place.at(&path)).unwrap();
            let owners = (found.uid(), found.gid());
            assert_eq!((place.mode(&path), owners), (expected, (1000, 2000)), "{mode:o}");
            let content = fs::read_to_string(place.at(&path).join("f")).unwrap();
            assert_eq!(content, format!("{path}/f"));
        }
    });
}

#[test]
fn directories_above_an_adopted_one_keep_their_modes() {
    by_each_engine(|place| {
        place.put(&["a/b/c/"]);
        chmod(&place.at("a"), 0o711);
        chmod(&place.at("a/b"), 0o700);
        assert_eq!(place.create("a/b/c"), Ok(0));
        assert_eq!(place.create("a/b/d"), Ok(1));
        assert_eq!((place.mode("a"), place.mode("a/b")), (0o711, 0o700));
    });
}

#[test]
fn a_volume_beneath_a_setgid_directory_keeps_its_group_and_the_bit() {
    by_each_engine(|place| {
        place.put(&["team/"]);
        chown(place.at("team"), None, Some(2000)).unwrap();
        chmod(&place.at("team"), 0o2750);
        assert_eq!(place.create("team/a"), Ok(1));
        assert_eq!(place.mode("team/a"), 0o2777);
        assert_eq!(fs::metadata(place.at("team/a")).unwrap().gid(), 2000);
    });
}

/// A directory's mode, owner and group.
fn ownership_of(path: &Path) -> (u32, u32, u32) {
    let found = fs::metadata(path).unwrap();
    (found.mode() & 0o7777, found.uid(), found.gid())
}

fn owned(mode: &str, uid: Option<u32>, gid: Option<u32>) -> Ownership {
    Ownership { mode: mode.parse().ok(), uid, gid, keep: false }
}

#[test]
fn a_directory_gets_the_mode_and_owners_that_it_is_to_have_whatever_the_umask_and_what_was_there() {
    let rows = [
        (owned("2770", None, Some(5000)), (0o2770, 0, 5000)),
        (owned("0750", Some(1000), None), (0o750, 1000, 0)),
        (owned("0000", Some(1000), Some(5000)), (0, 1000, 5000)),
        (owned("3777", None, None), (0o3777, 0, 0)),
        (owned("", Some(1000), Some(5000)), (0o777, 1000, 5000)),
        (Ownership { keep: true, ..owned("", None, None) }, (0o777, 0, 0)),
    ];
    by_each_engine(|place| {
        for mask in UMASKS {
            let _umask = Umask::set(mask);
            for (number, (ownership, expected)) in rows.iter().enumerate() {
                let path = format!("{mask:o}/{number}");
                let create = || place.export.create_as(&rel(&path), *ownership).unwrap().made;
                assert!(create() > 0);
                assert_eq!(ownership_of(&place.at(&path)), *expected, "{mask:o} {ownership:?}");
                assert_eq!(create(), 0);
                assert_eq!(ownership_of(&place.at(&path)), *expected, "{mask:o} {ownership:?} again");
                assert_eq!(place.mode(&format!("{mask:o}")), 0o755, "those above are nobody's");
                // As it was left by somebody else, or by us, before it had its owners.
                for (mode, uid) in [(0o1777, 7), (0o700, 7), (0o1700, 0), (0o3700, 0)] {
                    let adopted = format!("{path}-{mode:o}");
                    place.put(&[&format!("{adopted}/")]);
                    chown(place.at(&adopted), Some(uid), Some(uid)).unwrap();
                    chmod(&place.at(&adopted), mode);
                    place.export.create_as(&rel(&adopted), *ownership).unwrap();
                    let found = ownership_of(&place.at(&adopted));
                    match ownership.mode {
                        _ if ownership.keep && uid == 7 => assert_eq!(found, (mode, uid, uid)),
                        Some(_) => assert_eq!(found.0, expected.0, "{mode:o} {ownership:?}"),
                        None => assert_eq!(found.0 & 0o777, 0o777, "{mode:o} {ownership:?}"),
                    }
                    if !ownership.keep {
                        let owners = (ownership.uid.unwrap_or(uid), ownership.gid.unwrap_or(uid));
                        assert_eq!((found.1, found.2), owners, "{mode:o} {ownership:?}");
                    }
                }
            }
        }
    });
}

#[test]
fn what_is_kept_as_it_is_need_not_even_be_readable() {
    by_each_engine(|place| {
        for mode in [0o000, 0o711, 0o2770] {
            let path = format!("{mode:o}");
            place.put(&[&format!("{path}/file")]);
            chown(place.at(&path), Some(1000), Some(2000)).unwrap();
            chmod(&place.at(&path), mode);
            let stamps = place.stamps();
            let keep = Ownership { keep: true, ..owned("2750", Some(3000), Some(4000)) };
            assert_eq!(place.export.create_as(&rel(&path), keep).unwrap().made, 0);
            assert_eq!(place.stamps(), stamps, "{mode:o}");
        }
    });
}

#[test]
fn the_group_of_a_directory_is_found_and_of_nothing_else() {
    by_each_engine(|place| {
        place.put(&["a/b/", "file", "link -> a"]);
        chown(place.at("a/b"), None, Some(5000)).unwrap();
        let group = |path| place.export.group(&rel(path)).map_err(|error| error.problem);
        assert_eq!(group("a/b"), Ok(Some(5000)));
        assert_eq!(group("a/c"), Ok(None));
        assert_eq!(group("c/b"), Ok(None));
        assert_eq!(group("file"), Err(Problem::NotDirectory));
        assert_eq!(group("link/b"), Err(Problem::Link));
    });
}

/// The capabilities of a thread are those of its user on files.
#[test]
fn who_may_not_give_directories_away_is_told_so_and_leaves_none() {
    by_each_mounted_engine(|place| {
        chmod(&place.root, 0o777);
        let error = thread::scope(|scope| {
            let create = || {
                setfsuid(Uid::from_raw(1000));
                place.export.create_as(&rel("a/b"), owned("2770", None, Some(5000))).unwrap_err()
            };
            scope.spawn(create).join().unwrap()
        });
        assert_eq!((error.doing, error.problem), ("chown", Problem::Capability("CHOWN")));
        assert_eq!(place.tree(), Vec::<String>::new());
    });
}

#[test]
fn a_failed_create_takes_back_just_what_it_made() {
    // A file system that is full after so many directories: what is there, what is asked for, what stays.
    let rows: &[(Tree, u32, &str, Tree)] = &[
        (&[], 0, "a", &[]),
        (&[], 2, "a/b/c", &[]),
        (&["a/"], 2, "a/b/c/d", &["a/"]),
        (&["a/b/", "z/"], 1, "a/b/c/d", &["a/", "a/b/", "z/"]),
        (&["a/b/"], 0, "a/b/c", &["a/", "a/b/"]),
    ];
    for (before, room, path, after) in rows {
        by_each_mounted_engine(|place| {
            let inodes = u32::try_from(after.len()).unwrap() + room + 1;
            let _full = Mounted::tmpfs(&format!("nr_inodes={inodes}"), &place.root);
            let export = (place.engine.open)(&place.root).unwrap();
            place.put(before);
            let error = export.create(&rel(path)).unwrap_err();
            assert_eq!(error.problem, Problem::Os(Errno::ENOSPC), "{before:?} {path}");
            assert_eq!(place.tree(), *after, "{before:?} {path}");
        });
    }
}

#[test]
fn of_two_who_make_a_directory_at_once_only_one_has_made_it() {
    by_each_engine(|place| {
        for n in 0..500 {
            let path = rel(&format!("{n}/b/c"));
            let start = Barrier::new(2);
            let create = || {
                start.wait();
                place.export.create(&path).unwrap().made
            };
            let made: usize = thread::scope(|scope| {
                let both = [scope.spawn(create), scope.spawn(create)];
                both.into_iter().map(|one| one.join().unwrap()).sum()
            });
            // Fewer than there are, if each was in a directory that the other had made: then none counts.
            assert!(made <= 3, "{made}");
        }
    });
}

// === undo ===

#[test]
fn undo_takes_back_what_was_made_as_far_as_it_is_empty() {
    // What was there, what is made, what came into it since, what is left.
    let rows: &[(Tree, &str, Tree, Tree)] = &[
        (&[], "a", &[], &[]),
        (&[], "a/b/c", &[], &[]),
        (&["a/"], "a/b/c", &[], &["a/"]),
        (&["a/b/"], "a/b/c", &[], &["a/", "a/b/"]),
        (&["a/b/c/"], "a/b/c", &[], &["a/", "a/b/", "a/b/c/"]),
        (&["a/f"], "a", &[], &["a/", "a/f"]),
        (&[], "a/b", &["a/b/f"], &["a/", "a/b/", "a/b/f"]),
        (&[], "a/b", &["a/b/c/"], &["a/", "a/b/", "a/b/c/"]),
        (&[], "a/b/c", &["a/b/f"], &["a/", "a/b/", "a/b/f"]),
        (&[], "a/b/c", &["a/other/"], &["a/", "a/other/"]),
        (&[], "a/b/c", &["z"], &["z"]),
    ];
    for (before, path, since, after) in rows {
        by_each_engine(|place| {
            place.put(before);
            let created = place.export.create(&rel(path)).unwrap();
            place.put(since);
            // Twice is as good as once.
            for _ in 0..2 {
                place.export.undo(&rel(path), created);
                assert_eq!(place.tree(), *after, "{before:?} {path} {since:?}");
            }
        });
    }
}

#[test]
fn undo_follows_no_links_and_stops_where_something_else_has_come() {
    let rows: &[(&str, &str, Tree)] = &[
        ("a", "a -> ../outside", &["a -> ../outside", "was/", "was/b/", "was/b/c/"]),
        ("a/b", "a/b -> ../../outside/b", &["a/", "a/b -> ../../outside/b", "was/", "was/c/"]),
        ("a/b/c", "a/b/c -> ../../../outside/b", &["a/", "a/b/", "a/b/c -> ../../../outside/b", "was/"]),
        ("a/b/c", "a/b/c", &["a/", "a/b/", "a/b/c", "was/"]),
    ];
    for (moved, instead, after) in rows {
        by_each_engine(|place| {
            place.put(&["../outside/b/c/"]);
            let before = stamps(&place.at("../outside"));
            let created = place.export.create(&rel("a/b/c")).unwrap();
            assert_eq!(created, Created { made: 3 });
            fs::rename(place.at(moved), place.at("was")).unwrap();
            place.put(&[instead]);
            place.export.undo(&rel("a/b/c"), created);
            assert_eq!(place.tree(), *after, "{instead}");
            assert_eq!(stamps(&place.at("../outside")), before, "{instead}");
        });
    }
}
