//! Tests of the choice of an export.

use super::*;
use crate::decide::choice::{Demand, NotChosen, choose};
use crate::model::exports::{Choice, ExportId, NamedExport, PerExport};

const NAMES: [&str; 3] = ["default", "fast", "far"];

fn three() -> Exports {
    let rows = [("default", "nas", "/export"), ("fast", "nas", "/fast"), ("far", "nas2", "/export")];
    let named = |(name, server, path): (&'static str, &'static str, &'static str)| {
        let address = ExportAddress::new(server.into(), path.into());
        (NamedExport { name: name.into(), address }, ())
    };
    Exports::new(rows.map(named).into()).unwrap().0
}

fn id(name: &str) -> ExportId {
    three().meant_by(&Choice::Named(vec![name.into()])).unwrap()[0]
}

fn all() -> Choice {
    Choice::Named(NAMES.map(Into::into).to_vec())
}

/// Gives each export its headroom, in the order of [`NAMES`].
fn standing(headrooms: [Headroom; 3]) -> PerExport<Headroom> {
    let mut headrooms = headrooms.into_iter();
    three().map(|_| headrooms.next().unwrap())
}

fn headroom(usable: bool, bytes_free: u64) -> Headroom {
    let usage = FsUsage { bytes: 100, bytes_free, ..FsUsage::default() };
    Headroom { usable, usage: Some(usage), ..Headroom::default() }
}

fn chosen(
    choice: &Choice,
    requirements: &Requirements,
    near: Option<&str>,
    headrooms: [Headroom; 3],
) -> Result<ExportId, NotChosen> {
    let demand = Demand { choice, requirements, request: 11, near: near.map(id) };
    choose(&three(), &demand, &standing(headrooms))
}

#[test]
fn the_roomiest_is_one_that_can_be_used() {
    let rows = [
        ([headroom(true, 1), headroom(true, 3), headroom(true, 2)], "fast"),
        ([headroom(true, 1), headroom(false, 3), headroom(true, 2)], "far"),
        ([headroom(true, 1), headroom(true, 1), headroom(true, 1)], "default"),
        ([headroom(false, 0), headroom(false, 0), headroom(true, 0)], "far"),
        ([headroom(false, 0), headroom(false, 0), headroom(false, 0)], "default"),
    ];
    for (headrooms, expected) in rows {
        let choose = |choice: &Choice| chosen(choice, &Requirements::default(), None, headrooms);
        assert_eq!(choose(&all()), Ok(id(expected)), "{headrooms:?}");
        assert_eq!(choose(&Choice::First), Ok(id("default")), "{headrooms:?}");
    }
}

#[test]
fn one_without_room_is_passed_over_and_what_was_begun_goes_on() {
    let begun = |headroom| Headroom { begun: true, ..headroom };
    let promised = |headroom| Headroom { promised: 90, ..headroom };
    let rows = [
        ([headroom(true, 30), headroom(true, 40), headroom(true, 20)], Ok("fast")),
        ([headroom(true, 30), promised(headroom(true, 40)), headroom(true, 20)], Ok("default")),
        ([headroom(true, 30), headroom(true, 40), begun(headroom(true, 20))], Ok("far")),
        ([headroom(true, 30), headroom(true, 40), begun(headroom(false, 0))], Ok("far")),
        ([headroom(true, 9), headroom(true, 8), headroom(true, 10)], Ok("far")),
        ([headroom(true, 9), headroom(true, 8), headroom(false, 50)], Err("nas:/export has less free space")),
        (
            [headroom(true, 9), promised(headroom(true, 50)), headroom(false, 50)],
            Err(", and nas:/fast would have"),
        ),
        ([headroom(false, 9), headroom(false, 10), headroom(false, 8)], Ok("fast")),
        ([Headroom { usable: true, ..Headroom::default() }; 3], Err("nas2:/export has not said yet")),
    ];
    let requirements = Requirements { space: "10%".parse().ok(), inodes: None, ratio: "1".parse().ok() };
    for (headrooms, expected) in rows {
        match (chosen(&all(), &requirements, None, headrooms), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, id(expected), "{headrooms:?}"),
            (Err(NotChosen::NoHeadroom(words)), Err(expected)) => assert!(words.contains(expected), "{words}"),
            (found, _) => panic!("{headrooms:?}: {found:?}"),
        }
    }
}

#[test]
fn a_copy_is_made_near_its_source_where_that_can_be() {
    let begun = |headroom| Headroom { begun: true, ..headroom };
    let two = Choice::Named(vec!["default".into(), "fast".into()]);
    let requirements = Requirements { space: "10%".parse().ok(), inodes: None, ratio: None };
    let rows = [
        ([headroom(true, 90), headroom(true, 20), headroom(true, 50)], "fast", "fast"),
        // The preferred export has no room, is not usable, or is not allowed by the class.
        ([headroom(true, 90), headroom(true, 5), headroom(true, 50)], "fast", "default"),
        ([headroom(true, 90), headroom(false, 99), headroom(true, 50)], "fast", "default"),
        ([headroom(true, 20), headroom(true, 30), headroom(true, 90)], "far", "fast"),
        // A volume that was begun stays where it is.
        ([begun(headroom(true, 90)), headroom(true, 20), headroom(true, 50)], "fast", "default"),
    ];
    for (headrooms, near, expected) in rows {
        let found = chosen(&two, &requirements, Some(near), headrooms);
        assert_eq!(found, Ok(id(expected)), "{headrooms:?} {near}");
    }
}

#[test]
fn a_class_that_means_what_is_not_served_gets_no_export() {
    let slow = Choice::Named(vec!["slow".into()]);
    let found = chosen(&slow, &Requirements::default(), None, [headroom(true, 1); 3]);
    assert!(matches!(&found, Err(NotChosen::NotServed(words)) if words.contains("\"slow\"")), "{found:?}");
}
