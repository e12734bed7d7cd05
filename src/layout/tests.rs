//! Properties that hold for every name and note, tried with random hostile ones.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestRng, TestRunner};

use super::*;
use crate::values::path::{NAME_MAX, Name, RelPath};

/// Tries `property` with many of `inputs`, the same ones each time. Shows the simplest for which it does not hold.
fn holds<S: Strategy>(inputs: S, property: impl Fn(S::Value) -> TestCaseResult) {
    let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng).run(&inputs, property).unwrap_or_else(|failure| panic!("{failure}"));
}

/// Pieces of troublesome names, between blanks.
const PIECES: &str = "/ // . .. ../ ./ - a \\ \" \0 \u{1b} \u{7f} \u{85} \u{2028} \u{202e} é e\u{301} 🦀 ~ % archived \
    archived- .nfs -provisioner .nfs-provisioner .nfs-provisioner-trash .nfs-provisioner-archives \
    .nfs-provisioner-clones .nfs-provisioner-doctor- .nfs-provisioner-deep- 0123456789abcdef complete- + 0 42";

/// Generates text that may be much longer than a name.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        12 => select(PIECES.split(' ').collect::<Vec<_>>()).prop_map(str::to_owned),
        1 => select(&[" ", "\n", "\r", "\t"][..]).prop_map(str::to_owned),
        2 => any::<char>().prop_map(String::from),
        1 => (select(&["x", "é", "🦀", "\n"][..]), 1_usize..300).prop_map(|(piece, times)| piece.repeat(times)),
    ];
    vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// Generates names of directory entries, often of 255 bytes.
fn name() -> impl Strategy<Value = String> {
    let cut = |mut text: String| {
        text.retain(|character| !matches!(character, '/' | '\0'));
        text.truncate(text.floor_char_boundary(NAME_MAX));
        Name::parse(&text).ok().map(|_| text)
    };
    text().prop_filter_map("not a name", cut)
}

fn directory() -> impl Strategy<Value = RelPath> {
    vec(name(), 1..4).prop_map(|names| RelPath::parse(&names.join("/")).unwrap())
}

fn first(path: &RelPath) -> String {
    path.names().next().unwrap().to_string()
}

#[test]
fn what_is_made_at_the_root_is_recognised() {
    let constants = [
        (TRASH, RootEntry::Trash),
        (NOTES, RootEntry::Notes),
        (VOLUME_NOTES, RootEntry::Notes),
        (STAGING, RootEntry::Staging),
    ];
    for (name, expected) in constants {
        assert_eq!(classify(name), expected);
    }
    holds((any::<u64>(), directory(), name(), 0..1000_u32), |(number, directory, volume, nth)| {
        prop_assert_eq!(classify(&write_test(number)), RootEntry::WriteTest);
        prop_assert_eq!(classify(&moved_up(number)), RootEntry::Reserved);
        let archive = archive_name(&directory, &volume, nth).unwrap();
        prop_assert_eq!(classify(archive.as_str()), RootEntry::Archive);
        let place = staging::place(&volume).unwrap();
        prop_assert_eq!(classify(&first(&place)), RootEntry::Staging);
        prop_assert_eq!(place.leaf().to_string(), volume);
        prop_assert_eq!(place.names().count(), 2);
        Ok(())
    });
}

#[test]
fn what_is_reserved_is_neither_a_volume_nor_an_archive() {
    holds(directory(), |path| {
        let may_be_a_volume = matches!(classify(&first(&path)), RootEntry::Volume | RootEntry::Archive);
        prop_assert_eq!(is_reserved(&path), !may_be_a_volume);
        Ok(())
    });
}

#[test]
fn no_new_volume_gets_a_name_that_is_anything_else() {
    holds([text(), text(), text()], |[namespace, claim, volume]| {
        if let Ok(path) = new_directory(&namespace) {
            prop_assert_eq!(classify(&first(&path)), RootEntry::Volume);
            prop_assert_eq!(RelPath::parse(&namespace), Ok(path));
            prop_assert!(!namespace.contains(char::is_control));
        }
        if let Ok(path) = default_directory(&namespace, &claim, &volume) {
            prop_assert!(matches!(classify(&first(&path)), RootEntry::Volume | RootEntry::Archive), "{path:?}");
            prop_assert!(!path.as_str().contains(char::is_control));
        }
        Ok(())
    });
}

/// Of the namespaces that an API server accepts, only these make a volume's directory look like an archive.
#[test]
fn a_default_directory_looks_like_an_archive_in_a_namespace_archived_alone() {
    let namespace = prop_oneof!["[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", "archived(-[a-z0-9]{1,50}|[a-z0-9]{0,50})"];
    let claim = "[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?";
    let volume = "pvc-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}";
    holds((namespace, claim, volume), |(namespace, claim, volume)| {
        let path = default_directory(&namespace, &claim, &volume).unwrap();
        let is_odd = namespace == "archived" || namespace.starts_with("archived-");
        let expected = if is_odd { RootEntry::Archive } else { RootEntry::Volume };
        prop_assert_eq!(classify(path.as_str()), expected);
        let end = format!("-{volume}");
        prop_assert!(path.as_str().ends_with(&end) && path.as_str().len() <= NAME_MAX, "{path:?}");
        Ok(())
    });
}

#[test]
fn marks_and_trash_names_are_read_as_they_are_written() {
    holds((any::<u64>(), name(), directory(), text()), |(number, volume, directory, text)| {
        prop_assert_eq!(staging::parse_mark(&staging::mark(number)), Some(number));
        if let Some(inode) = staging::parse_mark(&text) {
            prop_assert_eq!(staging::mark(inode), text.clone());
        }
        let trashed = TrashName::new(number, &volume, &directory);
        prop_assert!(Name::parse(&trashed.to_string()).is_ok());
        prop_assert_eq!(trashed.to_string().parse(), Ok(trashed));
        if let Ok(read) = text.parse::<TrashName>() {
            prop_assert_eq!(read.to_string(), text);
        }
        Ok(())
    });
}

fn note() -> impl Strategy<Value = Note> {
    let field = || prop_oneof![4 => name().prop_map(Into::<Box<str>>::into), 1 => Just("".into())];
    let maybe = || option::of(field());
    let time = (-377_705_023_201_i64..=253_402_207_200, 0..1_000_000_000_i32);
    let time = time.prop_map(|(second, nano)| jiff::Timestamp::new(second, nano).unwrap_or_default());
    let until = option::of(time.clone());
    let whose = (field(), field(), maybe(), maybe(), maybe());
    let owners = (field(), any::<u32>(), any::<u32>()).prop_map(|(mode, uid, gid)| Owners { mode, uid, gid });
    let spec = (maybe(), vec(field(), 0..3), vec(field(), 0..3), maybe(), maybe(), maybe());
    let rest = (any::<(Option<u32>, Option<u64>)>(), option::of(owners), maybe(), maybe(), maybe());
    let times = (option::of(time.clone()), option::of(time), until);
    (directory(), whose, times, spec, rest).prop_map(
        |(directory, whose, (archived, created, kept_until), spec, rest)| {
            let (volume, class, namespace, claim, claim_uid) = whose;
            let (capacity, access_modes, mount_options, reclaim_policy, on_delete, on_delete_of_claim) = spec;
            let ((gid, inode), owners, provisioner, restored_from, cluster) = rest;
            Note {
                directory,
                volume,
                class,
                namespace,
                claim,
                claim_uid,
                archived,
                restored_from,
                inode,
                created,
                released: created,
                kept_until,
                capacity,
                access_modes,
                mount_options,
                reclaim_policy,
                on_delete,
                on_delete_of_volume: on_delete_of_claim.clone(),
                delete_retention: on_delete_of_claim.clone(),
                delete_retention_min_free: None,
                archive_retention: provisioner.clone(),
                on_delete_of_claim,
                gid,
                owners,
                provisioner,
                cluster,
            }
        },
    )
}

#[test]
fn notes_are_read_as_they_are_written() {
    holds(note(), |note| {
        let written = note.to_json();
        let line = written.strip_suffix('\n').unwrap();
        prop_assert!(!line.contains(char::is_control) && written.len() <= NOTE_MAX, "{line}");
        prop_assert_eq!(Note::parse(&written), Ok(note));
        Ok(())
    });
}

#[test]
fn a_damaged_note_is_refused_or_read_as_one_that_we_could_have_written() {
    holds((note(), any::<[Index; 2]>(), text()), |(note, range, put)| {
        let mut text = note.to_json();
        let mut range = range.map(|at| text.floor_char_boundary(at.index(text.len())));
        range.sort_unstable();
        text.replace_range(range[0]..range[1], &put);
        if let Ok(read) = Note::parse(&text) {
            prop_assert_eq!(Note::parse(&read.to_json()), Ok(read));
        }
        Ok(())
    });
}
