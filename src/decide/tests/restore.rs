//! Tests of what claims get back.

use super::*;
use crate::layout::{ClusterMark, Note};

#[test]
fn a_claim_wants_back_what_it_asks_for_where_its_class_lets_it() {
    use Wish::{Latest, LatestIfAny, Named};
    let class = |restore| mk_class(&[("claimRestore", restore)]);
    let copy = |claim: Claim| claim.with(|claim| claim.source = Some(DataSource::Claim("origin".into())));
    let refused = |problem| Err(problem);
    let named = || Named("archived-x".into());
    for (claim, restore, expected) in [
        (mk_claim(), "", Ok(None)),
        (mk_claim(), "off", Ok(None)),
        (mk_claim(), "onRequest", Ok(None)),
        (mk_claim(), "always", Ok(Some(LatestIfAny))),
        (asking(""), "off", Ok(None)),
        (asking("latest"), "off", refused(RestoreProblem::NotAllowed)),
        (asking("latest"), "onRequest", Ok(Some(Latest))),
        (asking("latest"), "always", Ok(Some(Latest))),
        (asking(" archived-x "), "onRequest", Ok(Some(named()))),
        (asking("archived-x"), "always", Ok(Some(named()))),
        (copy(mk_claim()), "always", Ok(None)),
        (copy(asking("latest")), "onRequest", refused(RestoreProblem::Source)),
        (copy(asking("latest")), "off", refused(RestoreProblem::NotAllowed)),
    ] {
        assert_eq!(wish(&claim, &class(restore)), expected, "{:?} {restore}", claim.annotations);
    }
}

#[test]
fn a_claim_may_have_only_what_a_note_says_in_full_to_be_its_own() {
    let mark = ClusterMark::parse("0e8f5c2a-0000-4000-8000-000000000001").unwrap();
    let scope = scope("/export");
    let note = |patch: Value| {
        let mut note = json!({
            "directory": "shop/data", "volume": "pvc-1", "class": "nfs", "namespace": &*mk_claim().claim.namespace,
            "claim": &*mk_claim().claim.name, "provisioner": OURS, "cluster": mark.as_str(),
        });
        note.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
        Note::parse(&note.to_string()).unwrap()
    };
    let named = Wish::Named("archived-x".into());
    for (patch, by_name, as_latest) in [
        (json!({}), true, true),
        (json!({"claim": "other"}), true, false),
        (json!({"claim": null}), true, false),
        (json!({"namespace": "other"}), false, false),
        (json!({"namespace": null}), false, false),
        (json!({"cluster": "7-8"}), false, false),
        (json!({"cluster": null}), false, false),
        (json!({"provisioner": "other"}), false, false),
        (json!({"provisioner": null}), false, false),
    ] {
        let note = note(patch);
        assert_eq!(may_have(&mk_claim(), &named, &note, &mark, &scope), by_name, "{note:?}");
        for wish in [Wish::Latest, Wish::LatestIfAny] {
            assert_eq!(may_have(&mk_claim(), &wish, &note, &mark, &scope), as_latest, "{note:?}");
        }
        assert!(!may_have(&mk_claim(), &named, &note, &ClusterMark::unknown(), &scope), "{note:?}");
    }
}
