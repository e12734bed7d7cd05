//! Tests of which claims can be copied.

use super::*;

#[test]
fn a_copy_takes_a_source_that_is_ours_bound_and_no_larger() {
    let source =
        |volume: Option<&str>| SourceClaim { uid: "s-1".into(), volume: volume.map(Into::into), deleting: false };
    let volume = || {
        mk_volume().with(|volume| {
            volume.claim = Some(ClaimRef { namespace: "shop".into(), name: "origin".into(), uid: "s-1".into() });
            volume.capacity = Some(Quantity("1Gi".to_owned()));
            volume.gid = Some(50);
        })
    };
    let origin = |claim, volume| Origin { known: None, claim, volume };
    let larger = volume().with(|volume| volume.capacity = Some(Quantity("2Gi".to_owned())));
    let another = volume().with(|volume| volume.claim.as_mut().unwrap().uid = "s-0".into());
    let foreign = volume().with(|volume| volume.provisioned_by = None);
    let rows = [
        (origin(Some(source(Some("pv"))), Some(volume())), None),
        (origin(None, None), Some((BadSource::Missing, true))),
        (origin(Some(source(None)), Some(volume())), Some((BadSource::NotBound, true))),
        (origin(Some(source(Some("pv"))), None), Some((BadSource::NotBound, true))),
        (
            origin(Some(SourceClaim { deleting: true, ..source(Some("pv")) }), Some(volume())),
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
        let begun = CopySource { at: located(&volume(), &scope.exports).unwrap(), gid: None };
        let known = Origin { known: Some(begun.clone()), ..origin };
        assert_eq!(served(copied(&claim, Some(&mk_class(&[])), &scope, &known)).copy_of, Some(begun));
    }
}
