//! Notes of volumes, and bringing directories back.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use nfs_provisioner::layout::{ClusterMark, NOTE_MAX, NoteError, VOLUME_NOTES};
use nfs_provisioner::storage::{Errno, ListOf, NoteOf, Problem};

use crate::{VOLUME, by_each_engine, note, rel, stamps};

fn mark() -> ClusterMark {
    ClusterMark::parse("7-8").unwrap()
}

#[test]
fn a_note_is_read_as_it_was_written_and_removed_as_often_as_one_likes() {
    by_each_engine(|place| {
        let of = NoteOf::Volume(&mark(), VOLUME);
        assert_eq!(place.export.note(of), Ok(None));
        assert_eq!(place.export.forget(&mark(), VOLUME), Ok(()));
        place.export.record(&mark(), VOLUME, &note("a")).unwrap();
        place.export.record(&mark(), VOLUME, &note("b")).unwrap();
        assert_eq!(place.export.note(of), Ok(Some(Ok(note("b")))));
        assert_eq!(place.export.note(NoteOf::Volume(&ClusterMark::unknown(), VOLUME)), Ok(None));
        let own = place.at(VOLUME_NOTES).join("7-8");
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o7777, 0o700);
        let mut entries = place.export.entries(&ListOf::Volumes(1, mark())).unwrap().unwrap();
        assert_eq!(entries.next_page(), Ok(vec![(VOLUME.to_owned(), false)]));
        assert_eq!(entries.next_page(), Ok(Vec::new()));
        for name in ["..", "a/b", "", "a\0b"] {
            assert!(place.export.record(&mark(), name, &note("a")).is_err(), "{name:?}");
            assert!(place.export.forget(&mark(), name).is_err(), "{name:?}");
        }
        for _ in 0..2 {
            place.export.forget(&mark(), VOLUME).unwrap();
        }
        assert_eq!(fs::read_dir(own).unwrap().count(), 0);
    });
}

#[test]
fn what_lies_in_a_notes_place_is_no_note_and_is_not_followed() {
    by_each_engine(|place| {
        let own = format!("{VOLUME_NOTES}/7-8");
        place.put(&[
            &format!("{own}/dir/"),
            &format!("{own}/link -> ../../../outside/x/secret"),
            &format!("{own}/pipe|"),
        ]);
        let before = stamps(&place.at("../outside"));
        let read = |name: &str| place.export.note(NoteOf::Volume(&mark(), name));
        for name in ["dir", "pipe"] {
            assert!(
                matches!(read(name), Err(_) | Ok(Some(Err(NoteError::Unreadable(_))))),
                "{name}: {:?}",
                read(name)
            );
        }
        assert!(read("link").is_err());
        for torn in [&b"{\"version\":1,"[..], &[0xff; 10], &vec![b' '; NOTE_MAX + 1]] {
            fs::write(place.at(&own).join("torn"), torn).unwrap();
            assert!(matches!(read("torn"), Ok(Some(Err(NoteError::Unreadable(_))))), "{:?}", read("torn"));
        }
        assert!(place.export.record(&mark(), "link", &note("a")).is_err());
        assert_eq!(stamps(&place.at("../outside")), before);
    });
    by_each_engine(|place| {
        symlink("../outside", place.at(VOLUME_NOTES)).unwrap();
        let before = stamps(&place.at("../outside"));
        assert!(place.export.record(&mark(), VOLUME, &note("a")).is_err());
        assert!(place.export.show_alive(&mark()).is_err());
        assert!(place.export.entries(&ListOf::Clusters(1)).is_err());
        assert_eq!(stamps(&place.at("../outside")), before);
    });
}

#[test]
fn a_directory_is_brought_back_to_a_free_path_and_to_no_other() {
    by_each_engine(|place| {
        place.put(&["archived-a/file", "archived-b/file", "taken/", "file", "link -> ../outside"]);
        let bring =
            |from: &str, to: &str| place.export.bring_back(&rel(from), &rel(to)).map_err(|error| error.problem);
        assert_eq!(bring("archived-a", "ns/deep/a"), Ok(true));
        assert!(place.at("ns/deep/a/file").exists() && !place.at("archived-a").exists());
        assert_eq!(fs::metadata(place.at("ns")).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(bring("archived-a", "ns/deep/a"), Ok(false), "twice is once");
        assert_eq!(bring("archived-none", "b"), Ok(false));
        // Not even an empty directory is replaced.
        for to in ["taken", "file", "link"] {
            assert_eq!(bring("archived-b", to), Err(Problem::Os(Errno::EEXIST)), "{to}");
        }
        for (to, expected) in [("link/b", Problem::Link), ("file/b", Problem::NotDirectory)] {
            assert_eq!(bring("archived-b", to), Err(expected), "{to}");
        }
        assert_eq!(bring("file", "b"), Err(Problem::NotDirectory));
        assert_eq!(bring("link", "b"), Err(Problem::NotDirectory));
        assert!(place.at("archived-b/file").exists() && !place.at("b").exists());
        assert_eq!(fs::read_dir(place.at("../outside")).unwrap().count(), 1);
    });
}
