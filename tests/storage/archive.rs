//! Keeping a volume's directory under another name.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use nfs_provisioner::layout::{NOTES, Note, Owners};
use nfs_provisioner::storage::{Errno, Problem};
use nfs_provisioner::values::path::NAME_MAX;

use crate::{Tree, by_each_engine, by_each_mounted_engine, chmod, note, stamps};

#[test]
fn archives_stand_at_the_exports_root_under_a_name_that_is_free() {
    let rows: &[(Tree, &str, Option<&str>, Tree)] = &[
        (&["c/f"], "c", Some("archived-c"), &["archived-c/", "archived-c/f"]),
        (&["c/"], "c", Some("archived-c"), &["archived-c/"]),
        (
            &["ns/k/c/f", "ns/d/"],
            "ns/k/c",
            Some("archived-c"),
            &["archived-c/", "archived-c/f", "ns/", "ns/d/", "ns/k/"],
        ),
        (
            &["archived-c/f"],
            "archived-c",
            Some("archived-archived-c"),
            &["archived-archived-c/", "archived-archived-c/f"],
        ),
        // Taken: by a directory with content and by one without, by a file, by links.
        (
            &["c/new", "archived-c/old"],
            "c",
            Some("archived-c-pvc-1"),
            &["archived-c-pvc-1/", "archived-c-pvc-1/new", "archived-c/", "archived-c/old"],
        ),
        (
            &["ns/c/new", "archived-c/"],
            "ns/c",
            Some("archived-c-pvc-1"),
            &["archived-c-pvc-1/", "archived-c-pvc-1/new", "archived-c/", "ns/"],
        ),
        (&["c/", "archived-c"], "c", Some("archived-c-pvc-1"), &["archived-c", "archived-c-pvc-1/"]),
        (
            &["c/", "archived-c -> ../outside"],
            "c",
            Some("archived-c-pvc-1"),
            &["archived-c -> ../outside", "archived-c-pvc-1/"],
        ),
        (
            &["c/", "archived-c -> nowhere"],
            "c",
            Some("archived-c-pvc-1"),
            &["archived-c -> nowhere", "archived-c-pvc-1/"],
        ),
        (
            &["c/", "archived-c/", "archived-c-pvc-1", "archived-c-pvc-1-2 -> c"],
            "c",
            Some("archived-c-pvc-1-3"),
            &["archived-c-pvc-1", "archived-c-pvc-1-2 -> c", "archived-c-pvc-1-3/", "archived-c/"],
        ),
        (&["d/"], "c", None, &["d/"]),
        (&["d/"], "d/c", None, &["d/"]),
        (&["d/"], "c/d/e", None, &["d/"]),
    ];
    for (before, path, name, after) in rows {
        by_each_engine(|place| {
            place.put(before);
            let outside = stamps(&place.at("../outside"));
            assert_eq!(place.archive(path), Ok(name.map(Into::into)), "{before:?} {path}");
            assert_eq!(place.tree(), *after, "{before:?} {path}");
            // Once it is done there is nothing to do.
            assert_eq!(place.archive(path), Ok(None), "{before:?} {path} again");
            assert_eq!(place.tree(), *after, "{before:?} {path} again");
            assert_eq!(stamps(&place.at("../outside")), outside, "{before:?} {path}");
        });
    }
}

#[test]
fn an_archive_is_the_directory_as_it_was() {
    by_each_engine(|place| {
        place.put(&["ns/c/f", "ns/c/link -> ../../../outside", "ns/c/p|", "ns/c/closed/f"]);
        chmod(&place.at("ns/c/closed"), 0o000);
        chmod(&place.at("ns/c"), 0o2770);
        chown(place.at("ns/c"), Some(1000), Some(2000)).unwrap();
        let inside = |dir: &str| {
            let strip =
                |(path, stamp): (PathBuf, [i64; 6])| (path.strip_prefix(place.at(dir)).unwrap().to_owned(), stamp);
            let mut found: BTreeMap<_, _> = stamps(&place.at(dir)).into_iter().map(strip).collect();
            // Being renamed leaves a mark on the directory itself: inode, mode and links have to do.
            found.insert(PathBuf::new(), {
                let [inode, mode, links, ..] = found[Path::new("")];
                [inode, mode, links, 0, 0, 0]
            });
            found
        };
        let before = inside("ns/c");
        assert_eq!(place.archive("ns/c"), Ok(Some("archived-c".to_owned())));
        assert_eq!(inside("archived-c"), before);
    });
}

#[test]
fn the_longest_names_can_be_archived_twice() {
    by_each_engine(|place| {
        let leaf = "x".repeat(NAME_MAX);
        let names = [0, 1].map(|_| {
            place.put(&[&format!("{leaf}/f")]);
            place.archive(&leaf).unwrap().unwrap()
        });
        assert_ne!(names[0], names[1]);
        for name in names {
            assert!(name.starts_with("archived-xxx") && name.contains("-pvc-1"), "{name}");
            assert!(place.at(&name).join("f").is_file(), "{name}");
        }
    });
}

#[test]
fn a_directory_whose_archives_are_all_taken_stays() {
    by_each_engine(|place| {
        place.put(&["c/f", "archived-c", "archived-c-pvc-1"]);
        for nth in 2..1000 {
            place.put(&[&format!("archived-c-pvc-1-{nth}")]);
        }
        let before = place.stamps();
        assert_eq!(place.archive("c"), Err(Problem::Os(Errno::EEXIST)));
        assert_eq!(place.stamps(), before);
    });
}

#[test]
fn whose_a_directory_was_is_noted_and_links_are_not_written_through() {
    by_each_engine(|place| {
        place.put(&["ns/c/f", "flat/f"]);
        place.archive("flat").unwrap();
        place.archive("ns/c").unwrap();
        for (archive, directory) in [("archived-flat", "flat"), ("archived-c", "ns/c")] {
            let noted = fs::read_to_string(place.at(NOTES).join(archive)).unwrap();
            let owners = Some(Owners { mode: "0755".into(), uid: 0, gid: 0 });
            let inode = Some(fs::metadata(place.at(archive)).unwrap().ino());
            assert_eq!(Note::parse(&noted), Ok(Note { owners, inode, ..note(directory) }), "{noted}");
        }
        assert_eq!(fs::metadata(place.at(NOTES)).unwrap().mode() & 0o777, 0o700);
    });
    by_each_engine(|place| {
        let before = stamps(&place.at("../outside"));
        place.put(&["flat/f", "ns/c/f", &format!("{NOTES} -> ../outside")]);
        for directory in ["flat", "ns/c"] {
            assert_eq!(place.archive(directory), Err(Problem::Link));
            assert!(place.at(directory).join("f").exists());
        }
        assert_eq!(stamps(&place.at("../outside")), before);
    });
}

/// As where root was itself to the server, and is squashed now or on another node.
#[test]
fn where_the_notes_are_another_users_there_are_some_beside_them() {
    by_each_mounted_engine(|place| {
        place.put(&["a/f", "ns/b/f"]);
        place.archive("a").unwrap();
        for given in ["", "ns", "ns/b"] {
            chown(place.at(given), Some(1000), Some(1000)).unwrap();
        }
        let archived = std::thread::scope(|scope| {
            let archive = || {
                // Of this thread alone.
                nix::unistd::setfsuid(1000.into());
                place.archive("ns/b")
            };
            scope.spawn(archive).join().unwrap()
        });
        assert_eq!(archived, Ok(Some("archived-b".to_owned())));
        let second = place.at(&format!("{NOTES}-2"));
        let noted = fs::read_to_string(second.join("archived-b")).unwrap();
        let owners = Some(Owners { mode: "0755".into(), uid: 1000, gid: 1000 });
        let inode = Some(fs::metadata(place.at("archived-b")).unwrap().ino());
        assert_eq!(Note::parse(&noted), Ok(Note { owners, inode, ..note("ns/b") }), "{noted}");
        let found = fs::metadata(second).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid()), (0o700, 1000));
    });
}
