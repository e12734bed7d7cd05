//! The checker is told of histories that are wrong, each in one way, and of those beside them that are right.

use super::*;

const TOLERANCE: Tolerance = Tolerance { own: 10, others: 30 };

fn state(begin: Time, end: Time, is_released: bool, fate: Fate) -> State {
    State {
        begin: When(begin, begin + 1),
        end: if end == Time::MAX { NEVER } else { When(end, end + 1) },
        path: "a/x".to_owned(),
        is_taken_along: true,
        is_released,
        is_disposed: false,
        claim: Some("uid".to_owned()),
        fate,
    }
}

/// A volume that is Released at 100 and gone at 200; its claim goes at 90.
fn history(fate: Fate) -> History {
    let states = vec![state(0, 100, false, fate), state(100, 200, true, fate)];
    History {
        volumes: BTreeMap::from([("v".to_owned(), states)]),
        claims_gone: BTreeMap::from([("uid".to_owned(), When(90, 91))]),
        ..History::default()
    }
}

fn moved(to: To, at: Time) -> Move {
    Move { path: "a/x".to_owned(), to, at }
}

fn archive() -> To {
    To::Archive("archived-x".to_owned())
}

fn wrong(history: &History, to: To, at: Time) -> bool {
    !wrong_moves(history, &[moved(to, at)], TOLERANCE).is_empty()
}

#[test]
fn a_directory_may_go_as_its_fate_says_once_its_volume_is_released() {
    use Fate::{Archive, Delete, Retain};
    let rows = [
        (Delete, To::Trash, 150, false),
        (Delete, archive(), 150, false),
        (Archive, archive(), 150, false),
        (Archive, To::Trash, 150, true),
        (Retain, To::Trash, 150, true),
        (Retain, archive(), 150, true),
        (Delete, To::Elsewhere("b".to_owned()), 150, true),
        (Delete, To::Trash, 99, true),
        (Delete, To::Trash, 205, false),
        (Delete, To::Trash, 215, true),
    ];
    for (fate, to, at, expected) in rows {
        assert_eq!(wrong(&history(fate), to.clone(), at), expected, "{fate:?} {to:?} {at}");
    }
    let mut other = history(Delete);
    other.volumes.get_mut("v").unwrap().iter_mut().for_each(|state| state.path = "a/y".to_owned());
    assert!(wrong(&other, To::Trash, 150), "nobody's");
}

#[test]
fn what_an_admin_has_changed_counts_after_a_while() {
    let retained = State { is_taken_along: false, ..state(120, 200, true, Fate::Delete) };
    let offered = State { claim: None, ..state(120, 200, true, Fate::Delete) };
    let given = State { claim: Some("another".to_owned()), ..offered.clone() };
    let taken_back = state(120, 200, false, Fate::Delete);
    for kept in [retained, offered, given, taken_back, state(120, 200, true, Fate::Retain)] {
        let mut history = history(Fate::Delete);
        let states = history.volumes.get_mut("v").unwrap();
        states[1].end = When(120, 121);
        states.push(kept);
        assert!(!wrong(&history, To::Trash, 125));
        assert!(wrong(&history, To::Trash, 140));
    }
}

#[test]
fn a_volume_whose_claim_is_there_keeps_its_directory() {
    let mut history = history(Fate::Delete);
    history.claims_gone.insert("uid".to_owned(), When(150, 151));
    assert!(wrong(&history, To::Trash, 149));
    assert!(!wrong(&history, To::Trash, 150));
    history.claims_gone.clear();
    assert!(wrong(&history, To::Trash, 150));
}

#[test]
fn of_two_volumes_of_one_claim_the_one_that_it_has_stays() {
    for (name, bound_to, expected) in
        [("pvc-uid", "other", false), ("pvc-uid", "pvc-uid", true), ("other", "pvc-uid", true)]
    {
        let mut history = history(Fate::Delete);
        let states = history.volumes.remove("v").unwrap();
        history.volumes.insert(name.to_owned(), states);
        history.claims_gone.clear();
        history.claims_bound.insert("uid".to_owned(), (When(90, 91), bound_to.to_owned()));
        assert_eq!(wrong(&history, To::Trash, 150), expected, "{name} {bound_to}");
    }
}

#[test]
fn a_volume_whose_directory_was_dealt_with_takes_no_other() {
    let mut history = history(Fate::Delete);
    history.volumes.get_mut("v").unwrap()[1].is_disposed = true;
    assert!(wrong(&history, To::Trash, 150));
}

#[test]
fn of_two_volumes_that_are_both_to_go_either_may_be_the_last() {
    let mut history = history(Fate::Delete);
    let other = history.volumes["v"].clone();
    history.volumes.insert("w".to_owned(), other);
    assert!(!wrong(&history, To::Trash, 150));
    let other = history.volumes.get_mut("w").unwrap();
    other[1].is_taken_along = false;
    assert!(wrong(&history, To::Trash, 150));
}

#[test]
fn a_directory_in_which_another_volume_has_a_part_stays() {
    for (path, expected) in [("a/x", true), ("a", true), ("a/x/y", true), ("a/xy", false), ("b", false)] {
        for to in [To::Trash, To::Nowhere] {
            let mut history = history(Fate::Delete);
            if to == To::Nowhere {
                history.volumes.clear();
            }
            let mut there = state(50, Time::MAX, false, Fate::Retain);
            there.path = path.to_owned();
            history.volumes.insert("w".to_owned(), vec![there.clone()]);
            assert_eq!(wrong(&history, to.clone(), 150), expected, "{path} {to:?}");
            // It has gone by then, or has come a moment before only.
            there.end = When(140, 141);
            history.volumes.insert("w".to_owned(), vec![there.clone()]);
            assert!(!wrong(&history, to.clone(), 150), "{path} {to:?}");
            (there.begin, there.end) = (When(125, 126), NEVER);
            history.volumes.insert("w".to_owned(), vec![there]);
            assert!(!wrong(&history, to.clone(), 150), "{path} {to:?}");
        }
    }
}

#[test]
fn what_was_made_for_a_claim_may_go_again() {
    let mut history = history(Fate::Retain);
    history.volumes.clear();
    assert!(!wrong(&history, To::Nowhere, 150));
    assert!(wrong(&history, To::Trash, 150));
}

#[test]
fn what_a_claim_waits_to_be_a_copy_of_stays_until_it_has_its_copy() {
    let promise = Promise { claim: "copy".to_owned(), path: "a/x".to_owned(), since: 120 };
    let broken = |history: &History, path: &str, at: Time| {
        let moves = [Move { path: path.to_owned(), to: To::Trash, at }];
        !broken_promises(history, &moves, std::slice::from_ref(&promise)).is_empty()
    };
    let mut history = history(Fate::Delete);
    for (path, at, expected) in
        [("a/x", 110, false), ("a/x", 130, true), ("a", 130, true), ("a/xy", 130, false), ("a/x", 160, true)]
    {
        assert_eq!(broken(&history, path, at), expected, "{path} {at}");
    }
    history.claims_served.insert("copy".to_owned(), When(150, 151));
    assert!(broken(&history, "a/x", 149));
    assert!(!broken(&history, "a/x", 160));
}

#[test]
fn nobody_is_given_what_is_about_to_be_taken_away() {
    let is_wrong = |change: &dyn Fn(&mut Vec<State>), neighbour: Option<&str>, since: Time| {
        let mut history = history(Fate::Delete);
        let mut old = history.volumes.remove("v").unwrap();
        change(&mut old);
        history.volumes.insert("pvc-uid".to_owned(), old);
        let new = State { claim: Some("new".to_owned()), ..state(150, Time::MAX, false, Fate::Delete) };
        if let Some(path) = neighbour {
            history.volumes.insert("w".to_owned(), vec![State { path: path.to_owned(), ..new.clone() }]);
        }
        history.volumes.insert("pvc-new".to_owned(), vec![new]);
        let earlier = vec!["uid".to_owned()];
        let gift = Gift { claim: "new".to_owned(), path: "a/x".to_owned(), since, earlier };
        !wrong_gifts(&history, &[gift]).is_empty()
    };
    assert!(is_wrong(&|_| {}, None, 130));
    assert!(is_wrong(&|_| {}, Some("b"), 130));
    assert!(!is_wrong(&|_| {}, Some("a"), 130), "it is shared");
    assert!(!is_wrong(&|old| old[1].end = When(140, 141), None, 130), "it had gone");
    assert!(!is_wrong(&|old| old[1].is_taken_along = false, None, 130), "its policy is Retain");
    assert!(!is_wrong(&|old| old[1].fate = Fate::Retain, None, 130));
    assert!(!is_wrong(&|old| old[1].is_disposed = true, None, 130));
    assert!(!is_wrong(&|old| old[1].claim = None, None, 130), "it is another's");
}

#[test]
fn every_marker_must_be_where_its_directory_went() {
    let at_home = Some("a/x");
    let rows = [
        (None, at_home, true, Fate::Delete, false),
        (None, None, true, Fate::Delete, true),
        (Some(archive()), Some("archived-x"), true, Fate::Archive, true),
        (None, None, false, Fate::Retain, true),
        (None, at_home, false, Fate::Retain, false),
        (None, at_home, false, Fate::Delete, true),
        (Some(To::Trash), None, false, Fate::Delete, false),
        (Some(To::Trash), at_home, false, Fate::Delete, true),
        (Some(archive()), Some("archived-x"), false, Fate::Archive, false),
        (Some(archive()), None, false, Fate::Archive, true),
        (Some(To::Nowhere), None, false, Fate::Delete, true),
    ];
    for (to, found, is_bound, fate, expected) in rows {
        let moves: Vec<Move> = to.into_iter().map(|to| moved(to, 150)).collect();
        let (claim, path) = ("uid".to_owned(), "a/x".to_owned());
        let marker =
            Marker { claim, path, at: 50, found: found.into_iter().map(str::to_owned).collect(), is_bound };
        let lost = lost_markers(&history(fate), &moves, std::slice::from_ref(&marker));
        assert_eq!(!lost.is_empty(), expected, "{moves:?} {marker:?} {fate:?}");
    }
}
