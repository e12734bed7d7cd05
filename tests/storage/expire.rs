//! Archives that expire.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use nfs_provisioner::layout::{NOTES, Note, TRASH};
use nfs_provisioner::storage::{Archive, Problem};

use crate::{Place, VOLUME, by_each_engine, note, rel, stamps};

/// The note of an archive that is kept until some time.
fn limited(path: &str) -> Note {
    Note { kept_until: Some(Timestamp::UNIX_EPOCH), ..note(path) }
}

/// Archives a directory, with that note.
fn archived(place: &Place, path: &str, note: &Note) -> String {
    place.put(&[&format!("{path}/f")]);
    place.export.archive(&rel(path), VOLUME, note).unwrap().unwrap().to_string()
}

/// The archives of the first page, by their names.
fn found(place: &Place) -> Vec<String> {
    let page = place.export.archives(None).unwrap();
    page.limited.iter().map(|archive| archive.path().to_string()).collect()
}

fn only(place: &Place) -> Archive {
    place.export.archives(None).unwrap().limited.remove(0)
}

#[test]
fn an_archive_whose_note_says_until_when_is_found_and_goes_with_its_note() {
    by_each_engine(|place| {
        assert_eq!(found(place), [""; 0], "there is nothing at all");
        archived(place, "forever", &note("forever"));
        let name = archived(place, "ns/c", &limited("ns/c"));
        place.put(&["archived-by-hand/f", "volume/f"]);
        assert_eq!(found(place), [name.as_str()]);
        let archive = only(place);
        let noted = Note { owners: None, inode: None, ..archive.note().clone() };
        assert_eq!((noted, archive.is_untouched()), (limited("ns/c"), true));
        let entry = place.export.expire(&archive, 7).unwrap().unwrap();
        assert_eq!((entry.to_string(), entry.is_due(0)), (format!("7~{VOLUME}~archived-c"), true));
        assert!(place.at(&entry.path()).join("f").exists());
        assert!(!place.at(&name).exists() && !place.at(NOTES).join(&name).exists());
        assert!(place.at("archived-forever/f").exists() && place.at(NOTES).join("archived-forever").exists());
        assert_eq!(place.export.expire(&archive, 7), Ok(None), "once it is done there is nothing to do");
        assert_eq!(found(place), [""; 0]);
    });
}

#[test]
fn all_archives_are_found_page_by_page() {
    by_each_engine(|place| {
        for n in 0..300 {
            archived(place, &format!("c{n:03}"), &if n % 2 == 0 { limited("c") } else { note("c") });
        }
        let first = place.export.archives(None).unwrap();
        assert_eq!((first.limited.len(), first.next.as_deref()), (128, Some("archived-c255")));
        let second = place.export.archives(first.next.as_deref()).unwrap();
        assert_eq!((second.limited.len(), second.next), (22, None));
        assert_eq!(second.limited[0].path().as_str(), "archived-c256");
    });
}

#[test]
fn all_archives_are_told_with_since_when_they_are_ones() {
    by_each_engine(|place| {
        place.put(&["archived-by-hand/f", "volume/f", "archived-in/f"]);
        fs::write(place.at("archived-file"), "").unwrap();
        let since = |page: &nfs_provisioner::storage::Archives| {
            page.all.iter().map(|(path, since)| (path.to_string(), since.as_second())).collect::<Vec<_>>()
        };
        let changed = |name: &str| (name.to_owned(), fs::metadata(place.at(name)).unwrap().ctime());
        let page = place.export.archives(None).unwrap();
        assert_eq!(since(&page), ["archived-by-hand", "archived-in"].map(changed), "there are no notes");
        let at = Timestamp::from_second(1000).unwrap();
        let name = archived(place, "c", &Note { archived: Some(at), ..note("c") });
        let page = place.export.archives(None).unwrap();
        let expected = [changed("archived-by-hand"), (name, 1000), changed("archived-in")];
        assert_eq!((since(&page), page.limited.len()), (expected.to_vec(), 0));
    });
}

#[test]
fn what_is_not_certainly_a_note_of_ours_lets_nothing_go() {
    type Change = fn(&Place, &std::path::Path);
    let rows: [(&str, Change); 10] = [
        ("a link", |place, file| {
            fs::rename(file, place.at("elsewhere")).unwrap();
            symlink("../elsewhere", file).unwrap();
        }),
        ("another's", |_, file| chown(file, Some(1000), None).unwrap()),
        ("with another name", |place, file| fs::hard_link(file, place.at("elsewhere")).unwrap()),
        ("a directory", |_, file| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        }),
        ("torn", |_, file| fs::write(file, "{\"version\":1").unwrap()),
        ("no text", |_, file| fs::write(file, [0xff; 9]).unwrap()),
        ("endless", |_, file| fs::File::options().write(true).open(file).unwrap().set_len(1 << 40).unwrap()),
        ("of a later version", |_, file| {
            let text = fs::read_to_string(file).unwrap();
            fs::write(file, text.replace("\"version\":1", "\"version\":2")).unwrap();
        }),
        ("gone", |_, file| fs::remove_file(file).unwrap()),
        ("twice", |place, file| {
            fs::create_dir(place.at(&format!("{NOTES}-3"))).unwrap();
            fs::write(place.at(&format!("{NOTES}-3/archived-c")), "").unwrap();
            assert!(file.exists());
        }),
    ];
    for (what, change) in rows {
        by_each_engine(|place| {
            let name = archived(place, "c", &limited("c"));
            let archive = only(place);
            change(place, &place.at(NOTES).join(&name));
            let before = stamps(&place.root);
            assert_eq!(found(place), [""; 0], "{what}");
            assert_eq!(place.export.expire(&archive, 7), Ok(None), "{what}");
            assert_eq!(stamps(&place.root), before, "{what}");
        });
    }
}

#[test]
fn where_the_directory_of_notes_is_none_nothing_is_found() {
    by_each_engine(|place| {
        archived(place, "c", &limited("c"));
        let archive = only(place);
        fs::rename(place.at(NOTES), place.at("elsewhere")).unwrap();
        symlink("elsewhere", place.at(NOTES)).unwrap();
        assert_eq!(place.export.archives(None).unwrap_err().problem, Problem::Link);
        assert_eq!(place.export.expire(&archive, 7).unwrap_err().problem, Problem::Link);
        assert!(place.at("archived-c/f").exists());
    });
}

#[test]
fn what_only_has_the_name_of_an_archive_stays() {
    by_each_engine(|place| {
        let name = archived(place, "c", &limited("c"));
        let archive = only(place);
        fs::rename(place.at(&name), place.at("aside")).unwrap();
        fs::write(place.at(&name), "").unwrap();
        assert_eq!(found(place), [""; 0]);
        fs::remove_file(place.at(&name)).unwrap();
        symlink("aside", place.at(&name)).unwrap();
        assert_eq!(found(place), [""; 0]);
        assert_eq!(place.export.expire(&archive, 7), Ok(None));
        // Another directory, made since.
        fs::remove_file(place.at(&name)).unwrap();
        place.put(&["archived-c/new"]);
        assert_eq!(place.export.expire(&archive, 7), Ok(None));
        assert!(place.at("archived-c/new").exists() && place.at("aside/f").exists() && !place.at(TRASH).exists());
    });
}

/// As an archive by hand of a name that an earlier one had, whose note is still there.
#[test]
fn a_directory_that_was_changed_long_after_its_note_was_written_is_not_untouched() {
    by_each_engine(|place| {
        let name = archived(place, "c", &limited("c"));
        let file = fs::File::options().write(true).open(place.at(NOTES).join(&name)).unwrap();
        for (ago, expected) in [(0, true), (9 * 60, true), (11 * 60, false), (24 * 3600, false)] {
            file.set_modified(SystemTime::now() - Duration::from_secs(ago)).unwrap();
            assert_eq!(only(place).is_untouched(), expected, "{ago}");
        }
        // What was found out about it no longer counts once anything has changed.
        let archive = only(place);
        let before = fs::metadata(place.at(&name)).unwrap().ctime_nsec();
        place.put(&["archived-c/more"]);
        assert_ne!(fs::metadata(place.at(&name)).unwrap().ctime_nsec(), before);
        assert_eq!(place.export.expire(&archive, 7), Ok(None));
        assert!(place.at("archived-c/f").exists());
    });
}
