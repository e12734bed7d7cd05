//! Putting directories into the trash.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, chown, symlink};

use nfs_provisioner::layout::{TRASH, TrashName};
use nfs_provisioner::storage::{Left, Problem, Reaped};
use nfs_provisioner::values::path::NAME_MAX;

use crate::{Mounted, NOW, VOLUME, by_each_engine, chmod, names, rel, stamps};

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
        let listed = place.export.trashed(9).unwrap();
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
        let name = place.export.trash(&rel(&format!("{leaf}/{leaf}")), &volume, u64::MAX - 1).unwrap().unwrap();
        assert_eq!(place.export.trashed(9).unwrap().names, std::slice::from_ref(&name));
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
            assert_eq!(place.export.trashed(9).unwrap_err().problem, problem);
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
        for foreign in [&b"notes"[..], b"1~v~a~b", b"1+60~v~a", b"01~v~a", b"1~v~\xff", b"1~v~a\n"] {
            fs::create_dir(place.at(TRASH).join(OsStr::from_bytes(foreign))).unwrap();
        }
        let mut listed = place.export.trashed(9).unwrap();
        listed.names.sort();
        assert_eq!(listed.names, [a, b]);
        assert_eq!(listed.foreign.unwrap().0, 6);
        assert_eq!(place.export.trashed(1).unwrap().names.len(), 1);
    });
}
