//! Tests of which claims get more.

use super::*;

/// Returns the claim of [`mk_volume`], which has 1Gi and asks for more.
fn mk_expansion(request: &str) -> Expansion {
    Expansion {
        claim: ClaimRef { namespace: "shop".into(), name: "data".into(), uid: "1".into() },
        resource_version: "8".into(),
        class: "nfs".into(),
        volume: "pvc-1".into(),
        deleting: false,
        request: Quantity(request.to_owned()),
        capacity: Quantity("1Gi".to_owned()),
        conditions: Vec::new(),
    }
}

fn grown(expansion: &Expansion, volume: &Volume) -> ExpansionPlan {
    grown_with(expansion, volume, "", &Requirements::default())
}

/// Decides for an export of 10 GiB, of which 5 are free and 8 promised to others.
fn grown_with(
    expansion: &Expansion,
    volume: &Volume,
    lacking: &str,
    requirements: &Requirements,
) -> ExpansionPlan {
    let scope = scope("/export");
    let usage = FsUsage { bytes: 10 << 30, bytes_free: 5 << 30, inodes: 100, inodes_free: 50 };
    let headrooms =
        scope.exports.map(|_| Headroom { usable: true, begun: false, usage: Some(usage), promised: 8 << 30 });
    let facts = ExpansionFacts { expansion, volume, lacking, requirements, headrooms: &headrooms };
    for_expansion(&facts, &scope)
}

#[test]
fn a_volume_grows_to_what_its_claim_asks_for_and_never_shrinks() {
    // The request, the volume's capacity, the claim's new capacity, and whether the volume is given it, too.
    let rows = [
        ("2Gi", "1Gi", "2Gi", true),
        ("1500M", "1Gi", "1500M", true),
        ("2Gi", "1025Mi", "2Gi", true),
        // A round was cut short.
        ("2Gi", "2Gi", "2Gi", false),
        ("2048Mi", "2Gi", "2Gi", false),
        // The claim has asked for less since.
        ("2Gi", "3Gi", "3Gi", false),
    ];
    for (request, has, capacity, volume_too) in rows {
        let volume = mk_volume().with(|volume| volume.capacity = Some(Quantity(has.to_owned())));
        let capacity = Quantity(capacity.to_owned());
        let volume_too = volume_too.then(|| (bytes(&capacity), None));
        let expected = ExpansionPlan::Grow { capacity, volume_too };
        assert_eq!(grown(&mk_expansion(request), &volume), expected, "{request} {has}");
    }
}

#[test]
fn whose_volume_grows_does_not_depend_on_its_phase_policy_or_class() {
    let changes: &[Change<Volume>] = &[
        |volume| volume.phase = Phase::Bound,
        |volume| volume.phase = Phase::Other,
        |volume| volume.reclaim = ReclaimPolicy::Retain,
        |volume| volume.class = "gone".into(),
        |volume| volume.deleting = true,
        |volume| {
            volume.provisioned_by = Some("other".into());
            volume.migrated_to = Some(OURS.into());
        },
    ];
    for change in changes {
        let volume = mk_volume().with(change);
        assert!(matches!(grown(&mk_expansion("2Gi"), &volume), ExpansionPlan::Grow { .. }), "{volume:?}");
    }
}

#[test]
fn what_is_not_ours_to_grow_is_left_alone_in_silence() {
    let rows: &[(ExpansionIgnored, Change<Volume>, Change<Expansion>)] = &[
        (ExpansionIgnored::Foreign, |volume| volume.provisioned_by = Some("other".into()), |_| {}),
        (ExpansionIgnored::Foreign, |volume| volume.provisioned_by = None, |_| {}),
        (ExpansionIgnored::Foreign, |volume| volume.claim = None, |_| {}),
        (ExpansionIgnored::Foreign, |_| {}, |expansion| expansion.claim.uid = "another".into()),
        (ExpansionIgnored::Deleting, |_| {}, |expansion| expansion.deleting = true),
    ];
    for (expected, of_volume, of_expansion) in rows {
        let (volume, expansion) = (mk_volume().with(of_volume), mk_expansion("2Gi").with(of_expansion));
        // An event that the volume could not grow anyhow would be wrong, too.
        for volume in [volume.clone(), volume.at("other", "/export/x")] {
            let found = grown_with(&expansion, &volume, "patch persistentvolumes", &Requirements::default());
            assert_eq!(found, ExpansionPlan::Ignore(*expected), "{volume:?}");
        }
    }
}

#[test]
fn every_refusal_to_grow_says_why_and_whether_it_may_pass() {
    let lacking = "patch persistentvolumes, patch persistentvolumeclaims/status";
    let not_nfs = mk_volume().with(|volume| volume.source = None);
    let rows: [(Volume, &[&str], bool); 4] = [
        (mk_volume(), &[lacking, "rbac/"], true),
        (not_nfs, &["nas:/export"], false),
        (mk_volume().at("other", "/export/x"), &["nas:/export"], false),
        (mk_volume().at("nas", "/export"), &["nas:/export"], false),
    ];
    for (volume, words, may_pass) in rows {
        let found = grown_with(&mk_expansion("2Gi"), &volume, lacking, &Requirements::default());
        let ExpansionPlan::Refuse(refusal) = found else { panic!("{found:?}") };
        assert!(words.iter().all(|words| refusal.to_string().contains(words)), "{refusal}");
        assert_eq!(refusal.may_pass(), may_pass, "{refusal}");
    }
}

#[test]
fn a_volume_grows_where_there_is_room_and_not_elsewhere() {
    // The class parameter and its value, the request, and what a refusal shows of the value.
    let rows: [(&str, &str, &str, Option<&str>); 8] = [
        (MIN_FREE_SPACE, "5Gi", "4Gi", None),
        (MIN_FREE_SPACE, "51%", "2Gi", Some("(51%)")),
        (MIN_FREE_INODES, "50", "4Gi", None),
        (MIN_FREE_INODES, "51", "4Gi", Some("(51)")),
        (MAX_OVERCOMMIT, "1", "2Gi", None),
        (MAX_OVERCOMMIT, "1", "2049Mi", Some("(1)")),
        (MAX_OVERCOMMIT, "120%", "4Gi", None),
        (MAX_OVERCOMMIT, "1.19", "4Gi", Some("(1.19)")),
    ];
    for (parameter, value, request, expected) in rows {
        let of = |name| (name == parameter).then_some(value);
        let requirements = Requirements {
            space: of(MIN_FREE_SPACE).and_then(|text| text.parse().ok()),
            inodes: of(MIN_FREE_INODES).and_then(|text| text.parse().ok()),
            ratio: of(MAX_OVERCOMMIT).and_then(|text| text.parse().ok()),
        };
        let found = grown_with(&mk_expansion(request), &mk_volume(), "", &requirements);
        match (&found, expected) {
            (ExpansionPlan::Grow { .. }, None) => {}
            (ExpansionPlan::Refuse(refusal), Some(shown)) => {
                assert!(refusal.may_pass() && refusal.is_for_room());
                let words = refusal.to_string();
                assert!([parameter, shown, "nas:/export"].iter().all(|word| words.contains(word)), "{words}");
            }
            _ => panic!("{parameter} {value} {request}: {found:?}"),
        }
        // A claim that has asked for less since is told that it has enough, whatever room there is.
        let has_more = mk_volume().with(|volume| volume.capacity = Some(Quantity("9Gi".to_owned())));
        let found = grown_with(&mk_expansion(request), &has_more, "", &requirements);
        assert!(matches!(found, ExpansionPlan::Grow { volume_too: None, .. }), "{found:?}");
    }
}
