//! Tests of which claims can be copied.

use super::*;
use crate::ledger::Judged;

/// Returns a time.
fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn mk_source(volume: &Volume, scope: &Scope) -> CopySource {
    CopySource {
        volume: volume.name.clone(),
        uid: volume.uid.clone(),
        claim: volume.claim.as_ref().unwrap().uid.clone(),
        at: located(volume, &scope.exports).unwrap(),
        gid: volume.gid,
    }
}

/// Returns a claim that was made at the tenth second to be a copy of "origin".
fn mk_copy() -> Claim {
    mk_claim().with(|claim| {
        claim.source = Some(DataSource::Claim("origin".into()));
        claim.request = Some(Quantity("1Gi".to_owned()));
        claim.created = Some(second(10));
    })
}

/// Returns the volume that the claim "origin" had.
fn mk_released(since: i64) -> Volume {
    mk_volume().with(|volume| {
        volume.claim = Some(ClaimRef { namespace: "shop".into(), name: "origin".into(), uid: "s-1".into() });
        volume.since = Some(second(since));
    })
}

#[test]
fn a_copy_takes_a_source_that_is_ours_bound_and_no_larger() {
    let source =
        |volume: Option<&str>| SourceClaim { uid: "s-1".into(), volume: volume.map(Into::into), deleting: None };
    let volume = || {
        mk_volume().with(|volume| {
            volume.claim = Some(ClaimRef { namespace: "shop".into(), name: "origin".into(), uid: "s-1".into() });
            volume.capacity = Some(Quantity("1Gi".to_owned()));
            volume.gid = Some(50);
        })
    };
    let origin = |claim, volume| Origin { known: None, kept: None, claim, volume };
    let larger = volume().with(|volume| volume.capacity = Some(Quantity("2Gi".to_owned())));
    let another = volume().with(|volume| volume.claim.as_mut().unwrap().uid = "s-0".into());
    let foreign = volume().with(|volume| volume.provisioned_by = None);
    let rows = [
        (origin(Some(source(Some("pv"))), Some(volume())), None),
        (origin(None, None), Some((BadSource::Missing, true))),
        (origin(Some(source(None)), Some(volume())), Some((BadSource::NotBound, true))),
        (origin(Some(source(Some("pv"))), None), Some((BadSource::NotBound, true))),
        (
            origin(Some(SourceClaim { deleting: Some(second(9)), ..source(Some("pv")) }), Some(volume())),
            Some((BadSource::Deleting, false)),
        ),
        (origin(Some(source(Some("pv"))), Some(another)), Some((BadSource::Foreign, false))),
        (origin(Some(source(Some("pv"))), Some(foreign)), Some((BadSource::Foreign, false))),
        (
            origin(Some(source(Some("pv"))), Some(volume().at("other", "/export/x"))),
            Some((BadSource::Elsewhere, true)),
        ),
        (origin(Some(source(Some("pv"))), Some(larger)), Some((BadSource::Larger("2Gi".into()), false))),
    ];
    let claim = mk_claim().with(|claim| {
        claim.source = Some(DataSource::Claim("origin".into()));
        claim.request = Some(Quantity("1Gi".to_owned()));
        claim.created = Some(second(10));
    });
    let scope = scope("/export");
    for (origin, expected) in rows {
        match (copied(&claim, Some(&mk_class(&[])), &scope, &origin), expected) {
            (ClaimPlan::Provision(provision), None) => assert_eq!(provision.copy_of.unwrap().gid, Some(50)),
            (ClaimPlan::Refuse(refusal), Some((problem, may_pass))) => {
                assert_eq!(refusal.passes_with().is_some(), may_pass, "{refusal}");
                assert_eq!(refusal, ClaimRefusal::Source { name: "origin".into(), problem });
            }
            (found, _) => panic!("{origin:?}: {found:?}"),
        }
        // A source that is being copied already is not questioned again.
        let begun = mk_source(&volume(), &scope);
        let known = Origin { known: Some(begun.clone()), ..origin };
        assert_eq!(served(copied(&claim, Some(&mk_class(&[])), &scope, &known)).copy_of, Some(begun));
    }
}

#[test]
fn a_claim_is_a_copy_of_what_its_source_was_when_the_claim_was_made() {
    let scope = scope("/export");
    let class = mk_class(&[]);
    let kept = mk_released(11);
    let new = SourceClaim { uid: "s-2".into(), volume: Some("pv".into()), deleting: None };
    let its = mk_volume().with(|volume| {
        volume.name = "pv".into();
        volume.claim = Some(ClaimRef { namespace: "shop".into(), name: "origin".into(), uid: "s-2".into() });
    });
    let too_large = kept.clone().with(|volume| volume.capacity = Some(Quantity("9Gi".to_owned())));
    let missing = |kept: &Volume| Origin { kept: Some(kept.clone()), ..Origin::default() };
    let again = |kept: &Volume| Origin { claim: Some(new.clone()), volume: Some(its.clone()), ..missing(kept) };
    for (origin, expected) in [
        (missing(&kept), Ok("pvc-1")),
        (again(&kept), Ok("pvc-1")),
        (again(&too_large), Ok("pv")),
        (missing(&too_large), Err(BadSource::Larger("9Gi".into()))),
    ] {
        match (copied(&mk_copy(), Some(&class), &scope, &origin), expected) {
            (ClaimPlan::Provision(found), Ok(volume)) => {
                assert_eq!(found.copy_of.unwrap().volume.as_str(), volume);
            }
            (ClaimPlan::Refuse(ClaimRefusal::Source { problem, .. }), Err(expected)) => {
                assert_eq!(problem, expected);
            }
            (found, _) => panic!("{origin:?}: {found:?}"),
        }
    }
    // One that began to go only after the claim was made, or in the same second, is copied.
    for (since, is_served) in [(9, false), (10, true), (11, true)] {
        let going = SourceClaim { deleting: Some(second(since)), ..new.clone() };
        let origin = Origin { claim: Some(going), volume: Some(its.clone()), ..Origin::default() };
        let plan = copied(&mk_copy(), Some(&class), &scope, &origin);
        assert_eq!(matches!(plan, ClaimPlan::Provision(_)), is_served, "{since}");
    }
}

#[test]
fn a_volume_stays_for_claims_that_waited_when_it_was_released_and_for_no_others() {
    let copy_of = |uid: &str| Some(Judged::CopyOf { volume: "pvc-1".into(), uid: uid.into() });
    let class = mk_class(&[]);
    let late = Class { binding: Binding::WaitForFirstConsumer, ..mk_class(&[]) };
    let theirs = Class { provisioner: "theirs".into(), ..mk_class(&[]) };
    let waits = |change: fn(&mut Claim)| mk_copy().with(change);
    let rows = [
        ("not judged yet", mk_copy(), Some(&class), None, 11, true),
        ("in the same second", mk_copy(), Some(&class), None, 10, true),
        ("made after the release", mk_copy(), Some(&class), None, 9, false),
        ("promised by this process", mk_copy(), Some(&class), copy_of("2"), 9, true),
        ("promised another volume", mk_copy(), Some(&class), copy_of("3"), 11, false),
        ("refused for good", mk_copy(), Some(&class), Some(Judged::NoCopy), 11, false),
        ("of another namespace", waits(|claim| claim.claim.namespace = "x".into()), Some(&class), None, 11, false),
        (
            "of another claim",
            waits(|c| c.source = Some(DataSource::Claim("x".into()))),
            Some(&class),
            None,
            11,
            false,
        ),
        ("no copy", waits(|claim| claim.source = None), Some(&class), None, 11, false),
        ("on its way out", waits(|claim| claim.deleting = true), Some(&class), None, 11, false),
        ("without a class", mk_copy(), None, None, 11, false),
        ("of another's class", mk_copy(), Some(&theirs), None, 11, false),
        ("not wanted by a Pod", mk_copy(), Some(&late), None, 11, false),
        ("wanted by a Pod", waits(|claim| claim.node_selected = true), Some(&late), None, 11, true),
        ("of unknown age", waits(|claim| claim.created = None), Some(&class), None, 9, true),
    ];
    for (name, claim, class, judged, released, expected) in rows {
        let volume = mk_released(released);
        assert_eq!(holds(&claim, class, judged.as_ref(), &volume, &scope("/export")), expected, "{name}");
    }
    let timeless = mk_released(9).with(|volume| volume.since = None);
    assert!(holds(&mk_copy(), Some(&class), None, &timeless, &scope("/export")), "in doubt it stays");
}

#[test]
fn a_source_is_one_volume_of_one_claim_in_one_place() {
    let scope = scope("/export");
    let source = mk_source(&mk_released(9), &scope);
    let rows: &[(&str, Change<Volume>, bool)] = &[
        ("the same", |_| {}, true),
        ("bound again", |volume| volume.phase = Phase::Bound, true),
        ("made anew", |volume| volume.uid = "3".into(), false),
        ("given to another claim", |volume| volume.claim.as_mut().unwrap().uid = "s-2".into(), false),
        ("without a claim", |volume| volume.claim = None, false),
        ("another's", |volume| volume.provisioned_by = Some("theirs".into()), false),
        ("elsewhere", |volume| volume.source.as_mut().unwrap().path = "/export/y".into(), false),
        ("on no export", |volume| volume.source = None, false),
    ];
    for (name, change, expected) in rows {
        assert_eq!(source.is(&mk_released(9).with(*change), &scope), *expected, "{name}");
    }
}

#[test]
fn a_copy_that_found_no_space_is_tried_again_when_there_is_more_or_in_an_hour() {
    let usage = |bytes_free, inodes_free| Some(FsUsage { bytes: 10_000, bytes_free, inodes: 1000, inodes_free });
    let soon = Duration::from_mins(5);
    // When it began, 6,400 bytes were free, or less was thought to be than it could write.
    for full in
        [Full::new(usage(6400, 640), 6000, 5), Full::new(None, 6400, 640), Full::new(usage(1, 1), 6400, 640)]
    {
        let rows = [
            (None, soon, false),
            (usage(0, 640), soon, false),
            (usage(6400, 640), soon, false),
            (usage(6500, 640), soon, false),
            (usage(6501, 640), soon, true),
            (usage(6400, 651), soon, true),
            (usage(0, 0), Duration::from_mins(59), false),
            (usage(0, 0), Duration::from_hours(1), true),
            (None, Duration::from_hours(1), true),
        ];
        for (now, waited, expected) in rows {
            assert_eq!(full.has_passed(now, waited), expected, "{full:?} {now:?} {waited:?}");
        }
    }
}
