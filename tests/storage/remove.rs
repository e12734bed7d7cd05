//! Removing a volume's directory.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::process::Command;

use nfs_provisioner::values::path::NAME_MAX;

use crate::{Tree, by_each_engine, chmod, dig, stamps, walk};

#[test]
fn remove_takes_the_directory_and_nothing_around_it() {
    let rows: &[(Tree, &str, Tree)] = &[
        (&["a/"], "a", &[]),
        (&["a/b/c/f", "a/d/", "a/f"], "a", &[]),
        (&["a/b/f", "a/c/", "a/f", "ab/"], "a/b", &["a/", "a/c/", "a/f", "ab/"]),
        (&["a/b/c/f"], "a/b/c", &["a/", "a/b/"]),
        (&["archived-a/f", "a/f"], "archived-a", &["a/", "a/f"]),
        (&["link -> a", "a/f"], "a", &["link -> a"]),
        // Missing is fine.
        (&["d/f"], "a", &["d/", "d/f"]),
        (&["d/f"], "d/a", &["d/", "d/f"]),
        (&["d/f"], "a/b/c", &["d/", "d/f"]),
    ];
    for (before, path, after) in rows {
        by_each_engine(|place| {
            place.put(before);
            for _ in 0..2 {
                assert_eq!(place.remove(path), Ok(()), "{before:?} {path}");
                assert_eq!(place.tree(), *after, "{before:?} {path}");
            }
        });
    }
}

#[test]
fn anything_can_be_in_a_directory_that_is_removed() {
    by_each_engine(|place| {
        let outside = place.at("../outside");
        place.put(&[
            "a/fifo|",
            "a/socket=",
            "a/dangling -> nowhere",
            "a/loop -> loop",
            "a/out -> ../../outside",
            "a/up -> ..",
            "a/kept -> ../kept",
            "a/closed/in/f",
            "a/closed/in/secret -> ../../../../outside/x/secret",
            "a/.nfs-provisioner-deep-1/f",
            "a/.nfs-provisioner-deep-2",
            "a/archived-a/f",
            "kept/f",
        ]);
        symlink(&outside, place.at("a/absolute")).unwrap();
        fs::hard_link(outside.join("x/secret"), place.at("a/hard")).unwrap();
        for name in [&b"new\nline"[..], b"\xff\xfe", b" ", b"-rf", b"*", b"\\", &[b'x'; NAME_MAX]] {
            let name = OsStr::from_bytes(name);
            fs::create_dir(place.at("a").join(name)).unwrap();
            fs::write(place.at("a").join(name).join(name), "").unwrap();
            symlink(&outside, place.at("a/closed").join(name)).unwrap();
        }
        for closed in ["a/closed/in", "a/closed", "a"] {
            chmod(&place.at(closed), 0o000);
        }
        let content = fs::read_to_string(outside.join("x/secret")).unwrap();
        assert_eq!(place.remove("a"), Ok(()));
        assert_eq!(place.tree(), ["kept/", "kept/f"]);
        assert_eq!(fs::read_to_string(outside.join("x/secret")).unwrap(), content);
        assert_eq!(walk(&outside).len(), 2);
    });
}

#[test]
fn symlinks_in_a_directory_that_is_removed_leave_their_targets_untouched() {
    by_each_engine(|place| {
        let before = stamps(&place.at("../outside"));
        place.put(&["a/out -> ../../outside", "a/b/x -> ../../../outside/x"]);
        place.put(&["a/b/secret -> ../../../outside/x/secret"]);
        assert_eq!(place.remove("a"), Ok(()));
        assert_eq!(stamps(&place.at("../outside")), before);
    });
}

#[test]
fn many_files_in_one_directory_are_all_removed() {
    by_each_engine(|place| {
        place.put(&["a/d/", "kept/"]);
        for n in 0..20_000 {
            fs::write(place.at("a").join(n.to_string()), "").unwrap();
        }
        assert_eq!(place.remove("a"), Ok(()));
        assert_eq!(place.tree(), ["kept/"]);
    });
}

#[test]
fn a_tree_is_removed_however_deep_it_is() {
    // Fewer descriptors than directories, as most processes have.
    let process = std::process::id().to_string();
    let arguments = ["--pid", &process, "--nofile=1024:"];
    let limited = Command::new("prlimit").args(arguments).status().unwrap();
    assert!(limited.success(), "prlimit {arguments:?}: {limited}");
    by_each_engine(|place| {
        dig(&place.at("a"), 5_000);
        assert_eq!(place.remove("a"), Ok(()));
        assert_eq!(place.tree(), [""; 0]);
    });
}

#[test]
fn many_deep_trees_beside_each_other_are_removed() {
    by_each_engine(|place| {
        place.put(&["a/", "kept/"]);
        for n in 0..8 {
            dig(&place.at("a").join(n.to_string()), 200);
        }
        assert_eq!(place.remove("a"), Ok(()));
        assert_eq!(place.tree(), ["kept/"]);
    });
}

#[test]
fn a_deep_tree_is_removed_though_the_names_it_needs_on_the_way_are_taken() {
    // By an earlier run that was cut, or by a tenant who means ill. Which entry is met first is up to the file
    // system, so there are many deep ones.
    let rows: &[(Tree, &str)] = &[
        (&["a/"], ".nfs-provisioner-deep-"),
        (&["a/.nfs-provisioner-deep-1/x/f"], "d"),
        (&["a/.nfs-provisioner-deep-1"], "d"),
        (&["a/.nfs-provisioner-deep-1 -> ."], "d"),
    ];
    for (taken, deep) in rows {
        by_each_engine(|place| {
            place.put(taken);
            for n in 1..=8 {
                dig(&place.at(&format!("a/{deep}{n}")), 70);
            }
            assert_eq!(place.remove("a"), Ok(()), "{taken:?} {deep}");
            assert_eq!(place.tree(), [""; 0]);
        });
    }
}
