//! Putting directories into the trash.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, chown, symlink};

use nfs_provisioner::layout::{NOTES, TRASH, TrashName, TrashPlace};
use nfs_provisioner::storage::{Errno, Left, Problem, Reaped, StorageError};
use nfs_provisioner::values::path::NAME_MAX;

use crate::engine::{Engine, engines};
use crate::{
    Immutable, Mounted, NOW, Place, VOLUME, by_another_user, by_each_engine, by_each_mounted_engine, chmod, names,
    rel, run, stamps,
};

#[test]
fn a_directory_goes_into_the_trash_as_it_is_and_its_parents_stay() {
    by_each_engine(|place| {
        place.put(&["ns/team/claim/f", "ns/team/claim/closed/f", "ns/other/"]);
        chmod(&place.at("ns/team/claim/closed"), 0o000);
        let before: Vec<_> = ["", "/f", "/closed"]
            .map(|path| fs::metadata(place.at(&format!("ns/team/claim{path}"))).unwrap())
            .map(|found| (found.ino(), found.mode()))
            .into();
        let (name, at) = place.trashed("ns/team/claim");
        assert_eq!(name.to_string(), format!("{NOW}~{VOLUME}~ns%2Fteam%2Fclaim"));
        assert_eq!((name.at(), name.volume(), name.directory()), (NOW, VOLUME, Some(&rel("ns/team/claim"))));
        let after: Vec<_> = ["", "f", "closed"]
            .map(|path| fs::metadata(at.join(path)).unwrap())
            .map(|found| (found.ino(), found.mode()))
            .into();
        assert_eq!(after, before);
        assert_eq!(names(&place.at("ns")), ["other", "team"]);
        assert_eq!(names(&place.at("ns/team")), [""; 0]);
        // Once it is done there is nothing to do.
        assert_eq!(place.trash("ns/team/claim"), Ok(None));
        assert_eq!(names(&place.at(TRASH)), [name.to_string()]);
    });
}

#[test]
fn what_does_not_exist_is_not_put_into_the_trash_and_makes_none() {
    by_each_engine(|place| {
        for path in ["a", "a/b/c"] {
            assert_eq!(place.trash(path), Ok(None));
        }
        assert_eq!(names(&place.root), [""; 0]);
        let listed = place.export.trashed(9, NOW).unwrap();
        assert!(listed.names.is_empty() && listed.foreign.is_none());
        let absent = TrashName::new(NOW, VOLUME, &rel("a"));
        assert_eq!(place.reap(&absent), Reaped { entries: 0, left: Left::Nothing });
        assert_eq!(names(&place.root), [""; 0]);
    });
}

#[test]
fn a_name_that_is_taken_is_passed_by() {
    by_each_engine(|place| {
        let taken = |n| place.at(TRASH).join(TrashName::new(NOW + n, VOLUME, &rel("a")).to_string());
        place.put(&["a/first"]);
        place.trashed("a");
        fs::write(taken(1), "a file").unwrap();
        symlink(place.outside(), taken(2)).unwrap();
        place.put(&["a/second"]);
        let (name, at) = place.trashed("a");
        assert_eq!(name.at(), NOW + 3);
        assert_eq!((names(&at), names(&taken(0))), (vec!["second".into()], vec!["first".into()]));
    });
}

#[test]
fn the_longest_names_can_be_put_into_the_trash() {
    by_each_engine(|place| {
        let leaf = "x".repeat(NAME_MAX);
        let volume = "v".repeat(253);
        place.put(&[&format!("{leaf}/{leaf}/f")]);
        let name =
            place.export.trash(&rel(&format!("{leaf}/{leaf}")), &volume, u64::MAX - 1, None).unwrap().unwrap();
        assert_eq!(place.export.trashed(9, NOW).unwrap().names, std::slice::from_ref(&name));
        assert_eq!(place.reap_all(&name), 2);
    });
}

#[test]
fn links_files_and_mount_points_are_not_put_into_the_trash() {
    by_each_engine(|place| {
        place.put(&["real/d/f", "file", "mount/"]);
        symlink(place.outside(), place.at("link")).unwrap();
        symlink("d", place.at("real/link")).unwrap();
        let _mounted = Mounted::tmpfs(&place.at("mount"));
        place.put(&["mount/d/f"]);
        let rows = [
            ("link", Problem::Link),
            ("link/x", Problem::Link),
            ("real/link", Problem::Link),
            ("real/link/f", Problem::Link),
            ("file", Problem::NotDirectory),
            ("file/x", Problem::NotDirectory),
            ("mount", Problem::MountPoint),
            ("mount/d", Problem::MountPoint),
        ];
        let before = stamps(&place.root);
        for (path, problem) in rows {
            assert_eq!(place.trash(path), Err(problem), "{path}");
        }
        assert_eq!(stamps(&place.root), before);
    });
}

#[test]
fn the_trash_itself_is_not_put_into_the_trash() {
    by_each_engine(|place| {
        place.put(&["a/f"]);
        let (_, at) = place.trashed("a");
        for path in [TRASH.to_owned(), format!("{TRASH}/{}", at.file_name().unwrap().display())] {
            assert_eq!(place.trash(&path), Err(Problem::Reserved), "{path}");
        }
        assert!(at.join("f").exists());
    });
}

#[test]
fn a_trash_that_is_no_directory_of_ours_is_refused_and_nothing_moved() {
    by_each_engine(|place| {
        place.put(&["a/f"]);
        let name = TrashName::new(NOW, VOLUME, &rel("a"));
        fs::create_dir_all(place.at("elsewhere").join(name.to_string())).unwrap();
        let trash = place.at(TRASH);
        let rows: [(&dyn Fn(), Problem); 4] = [
            (&|| symlink(place.outside(), &trash).unwrap(), Problem::Link),
            (&|| symlink("elsewhere", &trash).unwrap(), Problem::Link),
            (&|| symlink("nowhere", &trash).unwrap(), Problem::Link),
            (&|| fs::write(&trash, "").unwrap(), Problem::NotDirectory),
        ];
        for (make, problem) in rows {
            make();
            let before = stamps(&place.root);
            assert_eq!(place.trash("a"), Err(problem));
            assert_eq!(place.export.trashed(9, NOW).unwrap_err().problem, problem);
            let error = place.export.reap(&name, 1, &|| true).unwrap_err();
            assert_eq!(error.to_string(), format!("open {TRASH:?}: {problem}"));
            assert_eq!(stamps(&place.root), before);
            fs::remove_file(&trash).unwrap();
        }
    });
}

#[test]
fn the_trash_is_ours_alone_whoever_made_it() {
    by_each_engine(|place| {
        for (owner, mode) in [(None, 0), (None, 0o777), (None, 0o1755), (Some(1000), 0o700), (Some(1000), 0o777)] {
            if let Some(owner) = owner {
                fs::create_dir_all(place.at(TRASH)).unwrap();
                chown(place.at(TRASH), Some(owner), Some(owner)).unwrap();
            }
            if mode != 0 {
                chmod(&place.at(TRASH), mode);
            }
            place.put(&["a/f"]);
            let (name, _) = place.trashed("a");
            let found = fs::metadata(place.at(TRASH)).unwrap();
            assert_eq!((found.mode() & 0o7777, found.uid()), (0o700, 0), "{owner:?} {mode:o}");
            place.reap_all(&name);
        }
    });
}

#[test]
fn what_is_not_named_as_ours_is_left_and_told() {
    by_each_engine(|place| {
        place.put(&["a/", "b/"]);
        let (a, _) = place.trashed("a");
        let (b, _) = place.trashed("b");
        for foreign in [&b"notes"[..], b"1~v~a~b", b"1=60~v~a", b"01~v~a", b"1~v~\xff", b"1~v~a\n"] {
            fs::create_dir(place.at(TRASH).join(OsStr::from_bytes(foreign))).unwrap();
        }
        let mut listed = place.export.trashed(9, NOW).unwrap();
        listed.names.sort();
        assert_eq!(listed.names, [a, b]);
        assert_eq!(listed.foreign.unwrap().0, 6);
        assert_eq!(place.export.trashed(1, NOW).unwrap().names.len(), 1);
    });
}

/// A tmpfs on which so many inodes can be had, in place of a place's own export: where that is mounted. What is
/// mounted later is none of a server's.
pub(crate) fn with_inodes(engine: &Engine, inodes: u32, case: impl Fn(&Place)) {
    if !engine.is_mounted {
        return;
    }
    let place = Place::new(engine);
    let _mounted = Mounted::tmpfs_with(&format!("mode=755,nr_inodes={inodes}"), &place.root);
    case(&Place { export: (engine.open)(&place.root).unwrap(), ..place });
}

#[test]
fn on_a_full_export_on_which_nothing_was_ever_deleted_a_directory_is_deleted() {
    for engine in engines() {
        // The root, "ns", "claim", the file and "kept".
        with_inodes(engine, 5, |place| {
            place.put(&["ns/claim/f", "kept/"]);
            assert!(fs::create_dir(place.at("more")).is_err(), "it is full");
            assert_eq!(place.export.prepare().unwrap_err().problem, Problem::Os(Errno::ENOSPC));
            let name = place.trash("ns/claim").unwrap().unwrap();
            assert_eq!(name.place(), TrashPlace::Root);
            assert_eq!(names(&place.root), [&*format!("{TRASH}~{NOW}~{VOLUME}~ns%2Fclaim"), "kept", "ns"]);
            assert_eq!(place.trash("ns/claim"), Ok(None), "once it is done there is nothing to do");
            for path in [name.path(), format!("{}/f", name.path())] {
                assert_eq!(place.trash(&path), Err(Problem::Reserved), "{path}");
            }
            assert_eq!(place.export.trashed(9, NOW).unwrap().names, std::slice::from_ref(&name));
            assert_eq!(place.reap(&name), Reaped { entries: 2, left: Left::Nothing });
            assert_eq!(names(&place.root), ["kept", "ns"]);
            // Now there is room.
            let name = place.trash("kept").unwrap().unwrap();
            assert_eq!(name.place(), TrashPlace::Directory(1));
            place.reap_all(&name);
        });
    }
}

#[test]
fn where_the_trash_was_made_before_the_export_was_full_it_is_used() {
    for engine in engines() {
        // The root, the trash, the notes, and the volume.
        with_inodes(engine, 4, |place| {
            place.export.prepare().unwrap();
            place.export.prepare().unwrap();
            place.put(&["a/"]);
            assert_eq!(names(&place.root), [NOTES, TRASH, "a"]);
            assert_eq!(fs::metadata(place.at(NOTES)).unwrap().mode() & 0o7777, 0o700);
            assert!(fs::create_dir(place.at("more")).is_err(), "it is full");
            let (name, _) = place.trashed("a");
            assert_eq!(name.place(), TrashPlace::Directory(1));
            place.reap_all(&name);
        });
    }
}

#[test]
fn what_at_the_root_only_looks_like_an_entry_of_the_trash_stays() {
    by_each_engine(|place| {
        for foreign in ["1~v", "01~v~a", "1~v~a~b", "1~~a", "x~v~a", "1~v~.."] {
            place.put(&[&format!("{TRASH}~{foreign}/f")]);
        }
        place.put(&["1~v~a/f", &format!("{TRASH}-2~1~v~a/f"), &format!("a/{TRASH}~1~v~a/f")]);
        let before = stamps(&place.root);
        let listed = place.export.trashed(9, NOW).unwrap();
        assert!(listed.names.is_empty() && listed.foreign.is_none(), "{listed:?}");
        assert_eq!(stamps(&place.root), before);
        // A link of such a name is removed itself.
        symlink(place.outside(), place.at(&format!("{TRASH}~1~v~a"))).unwrap();
        let names = place.export.trashed(9, NOW).unwrap().names;
        assert_eq!(place.reap(&names[0]), Reaped { entries: 1, left: Left::Nothing });
        assert_eq!(stamps(&place.root).len(), before.len());
    });
}

/// As where root was itself to the server, and is squashed now or on another node.
#[test]
fn where_the_trash_is_another_users_there_is_one_beside_it() {
    by_each_mounted_engine(|place| {
        place.put(&["a/f", "b/f", "c/f"]);
        let (roots, _) = place.trashed("a");
        for given in ["", "b", "b/f", "c", "c/f"] {
            chown(place.at(given), Some(1000), Some(1000)).unwrap();
        }
        let second = by_another_user(1000, || {
            let name = place.trash("b").unwrap().unwrap();
            assert_eq!(name.place(), TrashPlace::Directory(2));
            let listed = place.export.trashed(9, NOW).unwrap();
            assert_eq!(listed.names, std::slice::from_ref(&name));
            let closed: Vec<_> = listed.closed.iter().map(|error| (&*error.path, error.problem)).collect();
            assert_eq!(closed, [(TRASH, Problem::Os(Errno::EACCES))]);
            assert_eq!(place.reap(&name), Reaped { entries: 2, left: Left::Nothing });
            place.export.prepare().unwrap();
            place.trash("c").unwrap().unwrap()
        });
        for (number, owner) in [("", 0), ("-2", 1000)] {
            let found = fs::metadata(place.at(&format!("{TRASH}{number}"))).unwrap();
            assert_eq!((found.mode() & 0o7777, found.uid()), (0o700, owner), "{number}");
        }
        // Who can empties both, and takes neither from whom it belongs to.
        assert_eq!(place.export.trashed(9, NOW).unwrap().names, [roots.clone(), second.clone()]);
        for name in [roots, second] {
            assert_eq!(place.reap(&name).left, Left::Nothing);
        }
        assert_eq!(names(&place.at(&format!("{TRASH}-2"))), [""; 0]);
        assert_eq!(fs::metadata(place.at(&format!("{TRASH}-2"))).unwrap().uid(), 1000);
        assert_eq!(names(&place.root), [NOTES, TRASH, &*format!("{TRASH}-2")]);
    });
}

/// Who may make directories at the root may not be allowed to list it, and it is nobody's to empty.
#[test]
fn a_root_that_cannot_be_listed_is_not_among_the_directories_of_the_trash_that_are_another_users() {
    by_each_mounted_engine(|place| {
        place.put(&["a/f", "b/"]);
        place.trashed("a");
        chmod(&place.root, 0o711);
        let of = |error: &StorageError| (error.path.clone(), error.problem);
        let denied = |path: &str| (path.to_owned(), Problem::Os(Errno::EACCES));
        let listed = by_another_user(1000, || place.export.trashed(9, NOW)).unwrap();
        assert_eq!(listed.closed.iter().map(of).collect::<Vec<_>>(), [denied(TRASH)]);
        assert_eq!(listed.unlisted.iter().map(of).collect::<Vec<_>>(), [denied(".")]);
        // Nor is what is something else than a directory, and it keeps none of the others from being emptied.
        chmod(&place.root, 0o755);
        let second = format!("{TRASH}-2");
        place.put(&[&second]);
        let listed = place.export.trashed(9, NOW).unwrap();
        assert_eq!((listed.names.len(), listed.closed), (1, Vec::new()));
        assert_eq!(listed.unlisted.iter().map(of).collect::<Vec<_>>(), [(second, Problem::NotDirectory)]);
    });
}

/// What is made to ask the server whether anything can be may have to stay.
#[test]
fn what_only_asks_whether_the_trash_can_be_used_is_no_entry_of_it() {
    by_each_engine(|place| {
        place.put(&["a/f", "ns/v/f"]);
        let (name, _) = place.trashed("a");
        let kept = Immutable::new(&place.at("ns"));
        run("chattr", &["+a".as_ref(), place.at(TRASH).as_os_str()]);
        let refused = place.trash("ns/v");
        let listed = place.export.trashed(9, NOW);
        run("chattr", &["-a".as_ref(), place.at(TRASH).as_os_str()]);
        assert_eq!(refused, Err(Problem::Os(Errno::EPERM)));
        assert_eq!(names(&place.at(TRASH)).len(), 2, "nothing was made");
        let listed = listed.unwrap();
        assert_eq!((listed.names, listed.foreign), (vec![name], None));
        assert_eq!(names(&place.root), [TRASH, "ns"], "no other directory is taken where this one can be used");
        // The next one that asks takes it away.
        assert_eq!(place.trash("ns/v"), Err(Problem::Os(Errno::EPERM)));
        assert_eq!(names(&place.at(TRASH)).len(), 1);
        drop(kept);
    });
}

#[test]
fn where_nothing_can_be_made_and_the_trash_is_another_users_a_directory_stays() {
    by_each_mounted_engine(|place| {
        place.put(&["a/f", "b/"]);
        place.trashed("a");
        chmod(&place.at("b"), 0o777);
        let before = stamps(&place.root);
        assert_eq!(by_another_user(1000, || place.trash("b")), Err(Problem::Os(Errno::EACCES)));
        assert_eq!(stamps(&place.root), before);
    });
}
