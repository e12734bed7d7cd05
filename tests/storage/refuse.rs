//! What is refused, and how that is said.

use std::fs;

use nfs_provisioner::storage::{Problem, Root, StorageError};

use crate::{Mounted, VOLUME, by_each_engine, by_each_mounted_engine, rel};

#[test]
fn links_are_never_followed_wherever_they_stand_and_lead() {
    by_each_engine(|place| {
        let absolute = [
            place.base.path().join("outside").display().to_string(),
            place.root.join("real").display().to_string(),
        ];
        let targets = [
            "real",
            "real/x",
            ".",
            "..",
            "../outside",
            "../../outside",
            "../outside/x/secret",
            "nowhere",
            "no/where",
            "/nowhere",
            "link",
            "/",
            &absolute[0],
            &absolute[1],
        ];
        place.put(&["real/x/f", "real/deep/f"]);
        for target in targets {
            eprintln!("to {target}:");
            let links = ["link", "real/link", "real/deep/link"];
            for link in links {
                place.put(&[&format!("{link} -> {target}")]);
            }
            for link in links {
                place.refuses(link, Problem::Link);
                place.refuses(&format!("{link}/x"), Problem::Link);
                place.refuses(&format!("{link}/new/er"), Problem::Link);
            }
            for link in links {
                fs::remove_file(place.at(link)).unwrap();
            }
        }
    });
}

#[test]
fn what_is_no_directory_is_refused_as_component_and_as_leaf() {
    by_each_engine(|place| {
        place.put(&["file", "a/b/file", "fifo|", "a/b/fifo|", "socket=", "a/b/socket="]);
        for kind in ["file", "fifo", "socket"] {
            for path in [kind.to_owned(), format!("a/b/{kind}")] {
                place.refuses(&path, Problem::NotDirectory);
                place.refuses(&format!("{path}/x"), Problem::NotDirectory);
                place.refuses(&format!("{path}/x/y"), Problem::NotDirectory);
            }
        }
    });
}

#[test]
fn mount_points_are_never_crossed() {
    by_each_engine(|place| {
        place.put(&["a/m/"]);
        let at = place.at("a/m");
        let mounted = Mounted::tmpfs("mode=0700", &at);
        place.put(&["a/m/x/f"]);
        for path in ["a/m", "a/m/x", "a/m/new/er"] {
            place.refuses(path, Problem::MountPoint);
        }
        drop(mounted);
        assert_eq!(place.remove("a"), Ok(()));
        assert_eq!(place.tree(), [""; 0]);
    });
}

#[test]
fn mounts_of_the_same_file_system_are_not_crossed_either() {
    by_each_mounted_engine(|place| {
        place.put(&["a/m/"]);
        let at = place.at("a/m");
        let outside = place.base.path().join("outside");
        let _mounted = Mounted::mount(&["--bind", outside.to_str().unwrap()], &at);
        for path in ["a/m", "a/m/x"] {
            place.refuses(path, Problem::MountPoint);
        }
    });
}

#[test]
fn errors_say_what_was_being_done_to_what_and_show_names_escaped() {
    by_each_engine(|place| {
        place.put(&["f", "link -> nowhere", "new\nline"]);
        let words = |error: StorageError| error.to_string();
        let create = |path| words(place.export.create(&rel(path)).unwrap_err());
        assert_eq!(create("f/x"), r#"mkdir "f/x": is not a directory"#);
        assert_eq!(create("link"), r#"mkdir "link": is a symbolic link, which is never followed"#);
        assert_eq!(create("new\nline"), r#"mkdir "new\nline": is not a directory"#);
        let removed = words(place.export.trash(&rel("f"), VOLUME, 1, None).unwrap_err());
        assert_eq!(removed, r#"open "f": is not a directory"#);
        let absent = words(Root::open(&place.at("absent")).unwrap_err());
        assert!(
            absent.starts_with("open \"") && absent.ends_with("absent\": no such file or directory"),
            "{absent}"
        );
    });
}

#[test]
fn the_export_itself_may_be_reached_by_a_link() {
    by_each_mounted_engine(|place| {
        place.put(&["../mount -> export"]);
        let export = (place.engine.open)(&place.base.path().join("mount")).unwrap();
        assert_eq!(export.create(&rel("a")).unwrap().made, 1);
        assert_eq!(place.tree(), ["a/"]);
        assert!(Root::open(&place.base.path().join("mount")).is_ok());
        assert!(Root::open(&place.base.path().join("outside/x/secret")).is_err());
    });
}
