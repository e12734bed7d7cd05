//! Tests of what the ledger gives together, and of what its guards undo.

use super::*;
use crate::model::exports::Exports;
use crate::values::address::ExportAddress;

fn key(name: &str) -> VolumeName {
    name.into()
}

fn at(path: &str) -> Location {
    let exports = Exports::single(ExportAddress::new("nas".into(), "/export".into()));
    exports.locate("nas", &format!("/export/{path}")).unwrap()
}

fn reservation(range: Option<&str>) -> Reservation {
    let gid = GidRequest { range: range.map(|range| range.parse().unwrap()), there: None };
    Reservation { across: false, bytes: 10, limit: Some(70), gid }
}

/// Reserves for as long as the returned value lives.
fn reserve(
    ledger: &Ledger,
    volume: &str,
    path: &str,
    range: Option<&str>,
) -> Result<(Option<Grant>, Reserved), ReserveError> {
    let reserved = ledger.reserve(&key(volume), &at(path), "ns", reservation(range))?;
    Ok((reserved.grant(), reserved))
}

fn settle(ledger: &Ledger, volume: &str, path: &str, bytes: u64) {
    ledger.settle(&key(volume), Entry { at: Some(&at(path)), namespace: Some("ns"), bytes, gid: None });
}

#[test]
fn directory_and_group_are_given_together_or_not_at_all() {
    let ledger = Ledger::default();
    let export = at("x").export;
    let range = Some("50-51");
    let mut held = Vec::new();
    let mut given = |volume: &str, path: &str, range| {
        let (grant, reserved) = reserve(&ledger, volume, path, range)?;
        held.push((volume.to_owned(), reserved));
        Ok(grant)
    };
    let group = |gid, shared| Ok(Some(Grant { gid, shared }));
    assert_eq!(given("a", "x", range), group(50, false));
    assert_eq!(given("a", "x", range), group(50, false), "again");
    assert_eq!(given("b", "x", range), group(50, true));
    assert_eq!(given("c", "x", None), group(50, true));
    assert_eq!(given("d", "y", None), Ok(None));
    assert_eq!(given("e", "y", range), Err(ReserveError::NoGidThere));
    assert_eq!(given("f", "z", range), group(51, false));
    assert_eq!(given("g", "x/beneath", range), Err(ReserveError::NoGidLeft("50-51".parse().unwrap())));
    assert_eq!(ledger.at_or_beneath(export, "x/beneath"), None, "what is denied leaves nothing");
    held.retain(|(volume, _)| volume != "f");
    let mut given = |volume: &str, path: &str, range| {
        let (grant, reserved) = reserve(&ledger, volume, path, range)?;
        held.push((volume.to_owned(), reserved));
        Ok(grant)
    };
    assert_eq!(given("g", "x/beneath", range), group(51, false));
    assert_eq!(given("h", "h", None), Ok(None));
    assert_eq!(ledger.promised(export, &key("")), 60, "a, b, c, d, g and h");
    assert_eq!(given("i", "i", None), Ok(None));
    assert_eq!(given("j", "j", None), Err(ReserveError::Promised));
    assert_eq!(ledger.promised(export, &key("i")), 60);
}

#[test]
fn what_is_reserved_is_given_up_with_the_last_that_holds_it_unless_the_volume_was_made() {
    let ledger = Ledger::default();
    let (_, first) = reserve(&ledger, "a", "x", None).unwrap();
    let (_, second) = reserve(&ledger, "a", "x", None).unwrap();
    first.hand_over();
    assert_eq!(ledger.at_or_beneath(at("x").export, "x"), Some(Relation::Same));
    drop(second);
    assert_eq!(ledger.at_or_beneath(at("x").export, "x"), None);
    let (_, reserved) = reserve(&ledger, "a", "x", None).unwrap();
    ledger.made(&key("a"));
    drop(reserved);
    assert!(ledger.exists(&key("a")));
}

#[test]
fn a_reservation_that_is_denied_leaves_the_one_before() {
    let ledger = Ledger::default();
    let (_, _other) = reserve(&ledger, "b", "y", Some("50-50")).unwrap();
    let (_, first) = reserve(&ledger, "a", "x", None).unwrap();
    let export = at("x").export;
    // There is no group left; and the class wants another directory by now, or more bytes than there are.
    assert_eq!(
        reserve(&ledger, "a", "x", Some("50-50")).unwrap_err(),
        ReserveError::NoGidLeft("50-50".parse().unwrap())
    );
    assert!(reserve(&ledger, "a", "z", Some("50-50")).is_err());
    let wanted = Reservation { bytes: 100, ..reservation(None) };
    assert_eq!(ledger.reserve(&key("a"), &at("z"), "ns", wanted).unwrap_err(), ReserveError::Promised);
    assert_eq!(ledger.at_or_beneath(export, "x"), Some(Relation::Same));
    assert_eq!((ledger.at_or_beneath(export, "z"), ledger.promised(export, &key("b"))), (None, 10));
    drop(first);
    assert_eq!((ledger.at_or_beneath(export, "x"), ledger.promised(export, &key("b"))), (None, 0));
}

#[test]
fn who_goes_has_a_say_again_if_it_stays_and_none_once_it_has_gone() {
    let ledger = Ledger::default();
    settle(&ledger, "a", "x", 1);
    settle(&ledger, "b", "x", 1);
    let neighbours = |volume: &str| {
        let departure = ledger.depart(&key(volume), &at("x")).unwrap();
        let left: Vec<String> = departure.neighbours().iter().map(|left| left.volume.to_string()).collect();
        (left, departure)
    };
    let (left, departure) = neighbours("a");
    assert_eq!(left, ["b"]);
    drop(departure);
    let (left, departure) = neighbours("b");
    assert_eq!(left, ["a"], "a stays");
    departure.complete();
    let (left, departure) = neighbours("a");
    assert!(left.is_empty() && departure.is_alone(), "b goes: {left:?}");
    assert_eq!(reserve(&ledger, "c", "x", None).unwrap_err(), ReserveError::Directory(Conflict::Moving));
    departure.moved();
    assert!(reserve(&ledger, "c", "x", None).is_ok(), "what was there has been moved");
}

#[test]
fn what_is_read_is_not_moved_and_what_is_moved_is_not_read() {
    let ledger = Ledger::default();
    settle(&ledger, "a", "x", 1);
    let reading = ledger.read(&at("x")).unwrap();
    assert!(ledger.depart(&key("a"), &at("x")).is_none());
    drop(reading);
    let departure = ledger.depart(&key("a"), &at("x")).unwrap();
    assert!(ledger.read(&at("x")).is_none());
    drop(departure);
    assert!(ledger.read(&at("x")).is_some());
}

#[test]
fn a_promise_that_is_not_kept_leaves_what_was_promised_before() {
    let ledger = Ledger::default();
    settle(&ledger, "a", "x", 10);
    let promised = || ledger.promised(at("x").export, &key(""));
    assert!(ledger.promise(&key("a"), 10, 30, Some(20)).is_none());
    let promise = ledger.promise(&key("a"), 10, 20, Some(20)).unwrap();
    assert_eq!(promised(), 20);
    drop(promise);
    assert_eq!(promised(), 10);
    ledger.promise(&key("a"), 10, 15, None).unwrap().keep();
    assert_eq!(promised(), 15);
}
