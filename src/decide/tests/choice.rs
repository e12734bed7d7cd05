//! Tests of the choice of an export.

use super::*;
use crate::decide::choice::{Demand, NotChosen, There, choose};
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
    choose(&three(), &demand, &standing(headrooms), &three().map(|_| There::Nothing))
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

#[test]
fn a_path_that_is_there_already_decides_and_doubt_waits() {
    use There::{Directory, Nothing, Volume};
    let silent = || There::Unknown("no answer".into());
    // By room it would be the second.
    let roomy = [headroom(true, 30), headroom(true, 90), headroom(true, 20)];
    let full = [headroom(true, 30), headroom(true, 90), headroom(true, 1)];
    let down = [headroom(true, 30), headroom(true, 90), headroom(false, 0)];
    let begun = [Headroom { begun: true, ..roomy[0] }, roomy[1], roomy[2]];
    let not_said = Err(NotChosen::NotSaid("nas2:/export: no answer".into()));
    let rows = [
        (roomy, [Nothing, Nothing, Nothing], Ok("fast")),
        (roomy, [Nothing, Nothing, Directory], Ok("far")),
        (roomy, [Nothing, Nothing, Volume], Ok("far")),
        // A volume beats a directory, and of several directories the first is taken.
        (roomy, [Directory, Nothing, Volume], Ok("far")),
        (roomy, [Directory, Nothing, Directory], Ok("default")),
        // An export that does not say may have it, unless a volume decides.
        (roomy, [Nothing, Nothing, silent()], not_said.clone()),
        (roomy, [Directory, Nothing, silent()], not_said),
        (roomy, [Nothing, Volume, silent()], Ok("fast")),
        // It is taken even if it has no room now, or cannot be used: the claim waits for that.
        (full, [Nothing, Nothing, Directory], Err(NotChosen::NoHeadroom("nas2:/export".into()))),
        (down, [Nothing, Nothing, Volume], Ok("far")),
        // What was begun goes on where it is.
        (begun, [Nothing, Nothing, Volume], Ok("default")),
        (begun, [Nothing, Nothing, silent()], Ok("default")),
    ];
    let requirements = Requirements { space: "10%".parse().ok(), inodes: None, ratio: None };
    for (headrooms, there, expected) in rows {
        // A volume that is down has no room either, and is waited for all the same.
        let requirements = if headrooms == down { Requirements::default() } else { requirements.clone() };
        let (choice, mut at) = (all(), there.iter());
        let demand = Demand { choice: &choice, requirements: &requirements, request: 11, near: Some(id("fast")) };
        let there_is = three().map(|_| at.next().unwrap().clone());
        match (choose(&three(), &demand, &standing(headrooms), &there_is), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, id(expected), "{there:?}"),
            (Err(NotChosen::NoHeadroom(words)), Err(NotChosen::NoHeadroom(expected))) => {
                assert!(words.starts_with(&*expected) && !words.contains(", and"), "{words}");
            }
            (found, expected) => assert_eq!(found, expected.map(id), "{there:?}"),
        }
    }
}

#[test]
fn a_path_is_looked_for_only_where_others_can_have_it_on_several_exports() {
    let scope = Scope { exports: three(), ..scope("/export") };
    let rows: &[(Set<'_>, &[&str])] = &[
        (&[("export", "far, default"), ("pathPattern", "${.PVC.name}")], &["far", "default"]),
        (&[("export", "far"), ("pathPattern", "${.PVC.name}")], &[]),
        (&[("pathPattern", "${.PVC.name}")], &[]),
        (&[("export", "far, default")], &[]),
        (&[("export", "far, slow"), ("pathPattern", "${.PVC.name}")], &[]),
        (&[("export", "far, default"), ("pathPattern", "../x")], &[]),
        (&[("export", "far, default"), ("pathPattern", "x"), ("adoptAsIs", "no")], &[]),
    ];
    for (parameters, expected) in rows {
        let class = mk_class(parameters);
        let found = sought(&mk_claim(), Some(&class), &scope);
        let expected: Vec<ExportId> = expected.iter().map(|name| id(name)).collect();
        assert_eq!(found.iter().map(|at| at.export).collect::<Vec<_>>(), expected, "{parameters:?}");
        assert!(found.iter().all(|at| at.path.as_str() == "data"), "{found:?}");
        for claim in [mk_claim().with(|claim| claim.deleting = true), mk_claim().with(|claim| claim.block = true)]
        {
            assert!(sought(&claim, Some(&class), &scope).is_empty(), "{claim:?}");
        }
    }
    assert!(sought(&mk_claim(), None, &scope).is_empty());
}
