//! Every decision, as tables.

use std::collections::{BTreeMap, HashSet};
use std::mem::{Discriminant, discriminant};

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use super::*;
use crate::model::claim::{Claim, DataSource, SourceClaim};
use crate::model::class::{Binding, Class};
use crate::model::expansion::Expansion;
use crate::model::exports::Exports;
use crate::model::parameters::{BadParameter, Fate, Parameters, parameter};
use crate::model::volume::{ClaimRef, Phase, ReclaimPolicy, Source, Volume};
use crate::values::address::ExportAddress;
use crate::values::headroom::{FsUsage, Headroom, MAX_OVERCOMMIT, MIN_FREE_INODES, MIN_FREE_SPACE, Requirements};
use crate::values::ownership::{Aspect, Ownership};
use crate::values::path::{PathError, RelPath};
use crate::values::quantity::bytes;

const OURS: &str = "example.com/nfs";
const UID: &str = "0dbb0d7c-1c25-4b1f-8f5c-3f3c3e8b0b0a";

/// Something to change about a record.
type Change<R> = fn(&mut R);

/// A class's parameters, or a claim's annotations.
type Set<'a> = &'a [(&'a str, &'a str)];

/// Chained changes to a record.
trait With: Sized {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl With for Claim {}
impl With for Class {}
impl With for Volume {}
impl With for Expansion {}

/// A claim that can be served.
fn mk_claim() -> Claim {
    Claim {
        uid: UID.into(),
        namespace: "shop".into(),
        name: "data".into(),
        resource_version: "7".into(),
        class: "nfs".into(),
        deleting: false,
        node_selected: false,
        block: false,
        selector: false,
        attributes_class: None,
        source: None,
        access_modes: vec!["ReadWriteMany".to_owned()],
        request: Some(Quantity("100Mi".to_owned())),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
    }
}

/// A class of ours with these parameters.
fn mk_class(parameters: Set<'_>) -> Class {
    let parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Class {
        name: "nfs".into(),
        provisioner: OURS.into(),
        parameters: Parameters::read(&parameters),
        reclaim: ReclaimPolicy::Delete,
        binding: Binding::Immediate,
        mount_options: Vec::new(),
    }
}

/// A volume that can be reclaimed.
fn mk_volume() -> Volume {
    Volume {
        name: "pvc-1".into(),
        uid: "2".into(),
        resource_version: "7".into(),
        phase: Phase::Released,
        deleting: false,
        reclaim: ReclaimPolicy::Delete,
        deleted_while_bound: false,
        finalizer: false,
        on_delete: None,
        on_delete_of_claim: None,
        on_delete_of_class: None,
        gid: None,
        provisioned_by: Some(OURS.into()),
        migrated_to: None,
        class: "nfs".into(),
        source: None,
        claim: Some(ClaimRef { namespace: "shop".into(), name: "data".into(), uid: "1".into() }),
        capacity: Some(Quantity("1Gi".to_owned())),
    }
    .at("nas", "/export/shop-data-pvc-1")
}

impl Volume {
    fn at(self, server: &str, path: &str) -> Self {
        let source = Source { server: server.into(), path: path.into() };
        self.with(|volume| volume.source = Some(source))
    }
}

fn scope(export: &str) -> Scope {
    Scope {
        provisioner: OURS.to_owned(),
        exports: Exports::single(ExportAddress::new("nas".into(), ExportAddress::path(export).unwrap())),
        share: false,
        may_patch: false,
    }
}

fn step(claim: &Claim, class: Option<&Class>) -> ClaimPlan {
    decided(claim, class, &scope("/export"))
}

fn decided(claim: &Claim, class: Option<&Class>, scope: &Scope) -> ClaimPlan {
    for_claim(claim, class, scope, &scope.exports.map(|_| Headroom::default()), &Origin::default())
}

/// The directory and the volume of a claim that is served.
fn provisioned(claim: &Claim, class: &Class, export: &str) -> (String, Value) {
    let found = decided(claim, Some(class), &scope(export));
    let ClaimPlan::Provision { directory, volume, .. } = found else { panic!("{found:?}") };
    (directory.to_string(), serde_json::to_value(volume).unwrap())
}

fn refuse(refusal: ClaimRefusal) -> ClaimPlan {
    ClaimPlan::Refuse(refusal)
}

fn on_delete(value: &str) -> BadParameter {
    BadParameter::OnDelete(value.into())
}

#[test]
fn of_all_that_is_wrong_with_a_claim_the_first_decides() {
    type Mend = fn(&mut Claim, &mut Option<Class>);

    // Everything is wrong at first. Each row is what comes of it, and mends just that.
    let rows: &[(ClaimPlan, Mend)] = &[
        (ClaimPlan::Ignore(ClaimIgnored::Deleting), |claim, _| {
            claim.deleting = false;
        }),
        (ClaimPlan::Ignore(ClaimIgnored::Populated), |claim, _| {
            claim.source = Some(DataSource::Snapshot("monday".into()));
        }),
        (refuse(ClaimRefusal::NoClass), |_, class| {
            *class = Some(mk_class(&[("onDelete", "remove"), ("pathPattern", "../up")]).with(|class| {
                class.provisioner = "other".into();
                class.binding = Binding::WaitForFirstConsumer;
            }));
        }),
        (refuse(ClaimRefusal::ForeignClass("other".into())), |_, class| {
            class.as_mut().unwrap().provisioner = OURS.into();
        }),
        (ClaimPlan::Ignore(ClaimIgnored::WaitsForConsumer), |claim, _| {
            claim.node_selected = true;
        }),
        (refuse(ClaimRefusal::Block), |claim, _| claim.block = false),
        (refuse(ClaimRefusal::Selector), |claim, _| claim.selector = false),
        (refuse(ClaimRefusal::AttributesClass("gold".into())), |claim, _| {
            claim.attributes_class = None;
        }),
        (refuse(ClaimRefusal::Snapshot("monday".into())), |claim, _| {
            claim.source = None;
        }),
        (refuse(ClaimRefusal::Parameter(on_delete("remove"))), |_, class| {
            class.as_mut().unwrap().parameters = mk_class(&[("pathPattern", "../up")]).parameters;
        }),
        (refuse(ClaimRefusal::NoRequest), |claim, _| {
            claim.request = mk_claim().request;
        }),
        (refuse(ClaimRefusal::Path { rendered: "../up".to_owned(), error: PathError::Climbs }), |_, class| {
            class.as_mut().unwrap().parameters = mk_class(&[]).parameters;
        }),
    ];
    let mut claim = mk_claim().with(|claim| {
        claim.deleting = true;
        claim.source = Some(DataSource::Other);
        claim.block = true;
        claim.selector = true;
        claim.attributes_class = Some("gold".into());
        claim.request = None;
    });
    let mut class = None;
    for (expected, mend) in rows {
        assert_eq!(step(&claim, class.as_ref()), *expected);
        mend(&mut claim, &mut class);
    }
    let last = step(&claim, class.as_ref());
    assert!(matches!(last, ClaimPlan::Provision { .. }), "{last:?}");
}

#[test]
fn claims_that_need_no_word_are_left_alone_in_silence() {
    let waiting = mk_class(&[]).with(|class| class.binding = Binding::WaitForFirstConsumer);
    let broken = mk_class(&[("onDelete", "remove")]);
    let foreign = mk_class(&[]).with(|class| class.provisioner = "other".into());
    let deleting = mk_claim().with(|claim| claim.deleting = true);
    let populated = mk_claim().with(|claim| {
        claim.source = Some(DataSource::Other);
        claim.block = true;
        claim.selector = true;
        claim.request = None;
    });
    for class in [None, Some(&waiting), Some(&broken), Some(&foreign)] {
        for (claim, expected) in [(&deleting, ClaimIgnored::Deleting), (&populated, ClaimIgnored::Populated)] {
            assert_eq!(step(claim, class), ClaimPlan::Ignore(expected), "{class:?}");
        }
    }
    let waits = ClaimPlan::Ignore(ClaimIgnored::WaitsForConsumer);
    assert_eq!(step(&mk_claim(), Some(&waiting)), waits);
    let scheduled = mk_claim().with(|claim| claim.node_selected = true);
    for class in [&waiting, &mk_class(&[])] {
        provisioned(&scheduled, class, "/export");
    }
}

/// A claim whose annotation says what is to become of its data.
fn wanting(fate: &str) -> Claim {
    let annotation = ("nfs-provisioner/on-delete".to_owned(), fate.to_owned());
    mk_claim().with(|claim| claim.annotations = BTreeMap::from([annotation]))
}

/// What comes of a claim that is served, or has an annotation that is not followed.
fn answer(step: ClaimPlan) -> Result<(PersistentVolume, Ownership), BadAnnotation> {
    match step {
        ClaimPlan::Provision { volume, ownership, .. } => Ok((*volume, ownership)),
        ClaimPlan::Refuse(ClaimRefusal::Annotation(bad)) => Err(bad),
        ClaimPlan::Refuse(_) | ClaimPlan::Ignore(_) => panic!("{step:?}"),
    }
}

#[test]
fn a_claim_chooses_its_fate_among_those_that_its_class_allows() {
    let (annotation, parameter) = ("nfs-provisioner/on-delete", "claimOnDelete");
    let wrong = |value: &str| {
        let expected = "\"delete\", \"retain\" or \"archive\"";
        Err(BadAnnotation::Wrong { annotation, value: value.into(), expected })
    };
    let not_allowed = |value: &str| Err(BadAnnotation::NotAllowed { annotation, value: value.into(), parameter });
    let rows = [
        ("", "retain", not_allowed("retain")),
        ("retain", "retain", Ok("retain")),
        ("archive, retain", "retain", Ok("retain")),
        ("archive,retain", "delete", not_allowed("delete")),
        ("delete", "delete", Ok("delete")),
        ("archive,retain,delete", "Retain", wrong("Retain")),
        ("", "remove", wrong("remove")),
        ("retain", "", Ok("")),
    ];
    for (allowed, wanted, expected) in rows {
        let class = mk_class(&[(parameter, allowed), ("onDelete", "archive")]);
        let found = answer(step(&wanting(wanted), Some(&class))).map(|(volume, _)| {
            let annotations = volume.metadata.annotations.unwrap();
            assert_eq!(annotations["nfs-provisioner/on-delete-of-class"], "archive");
            // It is an admin's alone on the volume.
            assert_eq!(annotations.get(annotation), None);
            annotations.get("nfs-provisioner/on-delete-of-claim").cloned().unwrap_or_default()
        });
        assert_eq!(found, expected.map(str::to_owned), "{allowed:?} {wanted:?}");
    }
}

/// A claim with such annotations.
fn annotated(annotations: &[(&str, &str)]) -> Claim {
    let pairs = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    mk_claim().with(|claim| claim.annotations = pairs.collect())
}

#[test]
fn a_directory_is_as_the_class_says_and_the_claim_where_the_class_lets_it() {
    let [mode, uid, gid] = Aspect::ALL.map(Aspect::annotation);
    let class = |claims: &str| {
        mk_class(&[
            ("directoryMode", "0750"),
            ("directoryUid", "1"),
            ("directoryGid", "2"),
            ("claimOwnership", claims),
        ])
    };
    let of =
        |mode: &str, uid, gid| Ownership { mode: mode.parse().ok(), uid: Some(uid), gid: Some(gid), keep: false };
    let not_allowed = |annotation, value: &str| {
        Err(BadAnnotation::NotAllowed { annotation, value: value.into(), parameter: "claimOwnership" })
    };
    let wrong = |annotation, value: &str, aspect: Aspect| {
        Err(BadAnnotation::Wrong { annotation, value: value.into(), expected: aspect.expected() })
    };
    let rows: &[(&str, Set<'_>, Result<Ownership, BadAnnotation>)] = &[
        ("", &[], Ok(of("750", 1, 2))),
        ("mode,uid,gid", &[], Ok(of("750", 1, 2))),
        ("mode", &[(mode, "2770")], Ok(of("2770", 1, 2))),
        ("gid, uid", &[(uid, "1000"), (gid, "0")], Ok(of("750", 1000, 0))),
        ("uid", &[(uid, "")], Ok(of("750", 1, 2))),
        ("uid", &[(gid, "5")], not_allowed(gid, "5")),
        ("", &[(mode, "0777")], not_allowed(mode, "0777")),
        ("mode", &[(mode, "rwx")], wrong(mode, "rwx", Aspect::Mode)),
        ("uid", &[(uid, "-1")], wrong(uid, "-1", Aspect::Uid)),
        ("", &[(gid, "staff")], wrong(gid, "staff", Aspect::Gid)),
    ];
    for (claims, annotations, expected) in rows {
        let found = answer(step(&annotated(annotations), Some(&class(claims)))).map(|(_, ownership)| ownership);
        assert_eq!(found, *expected, "{claims:?} {annotations:?}");
    }
    let range = mk_class(&[("gidRange", "500-600"), ("claimOwnership", "mode")]);
    let found = step(&annotated(&[(mode, "2750")]), Some(&range));
    let ClaimPlan::Provision { ownership, gids, .. } = found else { panic!("{found:?}") };
    assert_eq!((ownership.mode, gids), ("2750".parse().ok(), "500-600".parse().ok()));
}

#[test]
fn who_cannot_have_a_group_is_told_of_which_range_and_where() {
    let left = ClaimRefusal::NoGroupLeft("500-600".parse().unwrap());
    let there = ClaimRefusal::NoGroupThere(RelPath::parse("a/b\n").unwrap());
    for (refusal, named) in [(left, "500-600"), (there, r#""a/b\n""#)] {
        let message = refusal.message("nfs", OURS);
        assert!(message.contains(named), "{message}");
        for words in to_be_changed(&refusal) {
            assert!(message.contains(words), "{words} is not in: {message}");
        }
    }
}

/// What the refusal's message must name. A new variant needs its words here, and its row below.
fn to_be_changed(refusal: &ClaimRefusal) -> &'static [&'static str] {
    match refusal {
        ClaimRefusal::NoClass => &["spec.storageClassName"],
        ClaimRefusal::ForeignClass(_) => &["storage-provisioner", "\"other\""],
        ClaimRefusal::Block => &["spec.volumeMode \"Filesystem\""],
        ClaimRefusal::Selector => &["claim Selector is not supported", "spec.selector"],
        ClaimRefusal::AttributesClass(_) => &["spec.volumeAttributesClassName", "\"gold\""],
        ClaimRefusal::Source { .. } => &["spec.dataSource ", "PersistentVolumeClaim", "\"origin\""],
        ClaimRefusal::Snapshot(_) => &["spec.dataSource ", "VolumeSnapshot", "\"monday\""],
        ClaimRefusal::NoRequest => &["spec.resources.requests.storage"],
        ClaimRefusal::Parameter(BadParameter::OnDelete(_)) => &["parameter onDelete", "\"remove\""],
        ClaimRefusal::Parameter(BadParameter::ArchiveOnDelete(_)) => &["parameter archiveOnDelete", "\"no\""],
        ClaimRefusal::Parameter(BadParameter::Value { parameter: parameter::EXPORT, .. }) => {
            &["parameter export", "\"fast,\""]
        }
        ClaimRefusal::Parameter(BadParameter::ServerShare(_)) => &["parameters server and share", "together"],
        ClaimRefusal::Export(_) => &["the export \"slow\"", "EXPORTS_FILE"],
        ClaimRefusal::NoRoom(_) => &["nas:/export", "make the export larger"],
        ClaimRefusal::Parameter(BadParameter::Value { parameter: parameter::SHARE_ACROSS_NAMESPACES, .. }) => {
            &["parameter shareAcrossNamespaces", "\"maybe\""]
        }
        ClaimRefusal::Parameter(BadParameter::Value { .. }) => {
            &["parameter strictPathPattern", "\"maybe\"", "\"true\" or \"false\""]
        }
        ClaimRefusal::Parameter(BadParameter::Token(_)) => &["pathPattern", "${.PVC.uid}", "strictPathPattern"],
        ClaimRefusal::Annotation(BadAnnotation::Wrong { .. }) => {
            &["annotation nfs-provisioner/on-delete", "\"Delete\"", "\"retain\""]
        }
        ClaimRefusal::Annotation(BadAnnotation::NotAllowed { .. }) => {
            &["annotation nfs-provisioner/on-delete", "\"delete\"", "claimOnDelete"]
        }
        // Not found out by a look at the claim alone, either.
        ClaimRefusal::NoGroupLeft(_) => &["gidRange"],
        ClaimRefusal::NoGroupThere(_) => &["gidRange", "pathPattern"],
        ClaimRefusal::NoValue(_) => &["pathPattern", "${.PVC.labels.team}", "strictPathPattern"],
        // Not found out by a look at the claim alone; see the tests of placements and those on a control plane.
        ClaimRefusal::OtherNamespace { .. } => {
            &["shareAcrossNamespaces", "SHARE_ACROSS_NAMESPACES", "pathPattern"]
        }
        ClaimRefusal::Path { .. } => &["pathPattern", "annotations", "\"../up\"", "'..'"],
    }
}

#[test]
fn every_refusal_of_a_claim_says_what_to_change() {
    let ours = || Some(mk_class(&[]));
    let foreign = mk_class(&[]).with(|class| class.provisioner = "other".into());
    let cloned = |source| mk_claim().with(|claim| claim.source = Some(source));
    let rows = [
        (mk_claim(), None),
        (mk_claim(), Some(foreign)),
        (mk_claim().with(|claim| claim.block = true), ours()),
        (mk_claim().with(|claim| claim.selector = true), ours()),
        (mk_claim().with(|claim| claim.attributes_class = Some("gold".into())), ours()),
        (cloned(DataSource::Claim("origin".into())), ours()),
        (cloned(DataSource::Snapshot("monday".into())), ours()),
        (mk_claim().with(|claim| claim.request = None), ours()),
        (mk_claim(), Some(mk_class(&[("onDelete", "remove")]))),
        (mk_claim(), Some(mk_class(&[("archiveOnDelete", "no")]))),
        (mk_claim(), Some(mk_class(&[("export", "fast,")]))),
        (mk_claim(), Some(mk_class(&[("server", "nas")]))),
        (mk_claim(), Some(mk_class(&[("export", "slow")]))),
        (mk_claim(), Some(mk_class(&[("minFreeSpace", "10%")]))),
        (wanting("Delete"), Some(mk_class(&[("claimOnDelete", "retain,archive")]))),
        (wanting("delete"), Some(mk_class(&[("claimOnDelete", "retain,archive")]))),
        (mk_claim(), Some(mk_class(&[("strictPathPattern", "maybe")]))),
        (mk_claim(), Some(mk_class(&[("strictPathPattern", "true"), ("pathPattern", "${.PVC.uid}")]))),
        (mk_claim(), Some(mk_class(&[("strictPathPattern", "true"), ("pathPattern", "x/${.PVC.labels.team}")]))),
        (mk_claim(), Some(mk_class(&[("pathPattern", "../up")]))),
    ];
    let mut met: HashSet<Discriminant<ClaimRefusal>> = HashSet::new();
    for (claim, class) in rows {
        let ClaimPlan::Refuse(refusal) = step(&claim, class.as_ref()) else { panic!("{claim:?} {class:?}") };
        met.insert(discriminant(&refusal));
        let message = refusal.message(&claim.class, OURS);
        let begin = if refusal == ClaimRefusal::Block {
            "example.com/nfs does not support block volume provisioning"
        } else {
            r#"failed to provision volume with StorageClass "nfs": "#
        };
        assert!(message.starts_with(begin), "{message}");
        for words in to_be_changed(&refusal) {
            assert!(message.contains(words), "{words} is not in: {message}");
        }
    }
    assert_eq!(met.len(), 14, "a refusal has no row");
}

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
        let headrooms = scope.exports.map(|_| Headroom::default());
        match (for_claim(&claim, Some(&mk_class(&[])), &scope, &headrooms, &origin), expected) {
            (ClaimPlan::Provision { copy_of: Some(copy_of), .. }, None) => assert_eq!(copy_of.gid, Some(50)),
            (ClaimPlan::Refuse(refusal), Some((problem, may_pass))) => {
                assert_eq!(refusal.passes_with().is_some(), may_pass, "{refusal}");
                assert_eq!(refusal, ClaimRefusal::Source { name: "origin".into(), problem });
            }
            (found, _) => panic!("{origin:?}: {found:?}"),
        }
        // What has been begun is not asked again.
        let CopyOf { location, gid } = CopyOf { location: located(&volume(), &scope.exports).unwrap(), gid: None };
        let known = Origin { known: Some(CopyOf { location, gid }), ..origin };
        let step = for_claim(&claim, Some(&mk_class(&[])), &scope, &headrooms, &known);
        assert!(matches!(step, ClaimPlan::Provision { copy_of: Some(_), .. }), "{step:?}");
    }
}

#[test]
fn a_volume_says_what_its_claim_and_its_class_say_and_nothing_else() {
    let claim = mk_claim().with(|claim| {
        claim.class = "by-annotation".into();
        claim.access_modes = vec!["ReadWriteOnce".to_owned(), "ReadOnlyMany".to_owned()];
        claim.request = Some(Quantity("1.50Gi".to_owned()));
        claim.labels = BTreeMap::from([("team".to_owned(), "blue".to_owned())]);
        claim.annotations = BTreeMap::from([("note".to_owned(), "mine".to_owned())]);
    });
    let class = mk_class(&[("archiveOnDelete", "false")]).with(|class| {
        class.reclaim = ReclaimPolicy::Retain;
        class.mount_options = vec!["nfsvers=4.2".to_owned(), "hard".to_owned()];
    });
    let mut expected = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": "pvc-0dbb0d7c-1c25-4b1f-8f5c-3f3c3e8b0b0a",
            "annotations": {
                "pv.kubernetes.io/provisioned-by": "example.com/nfs",
                "nfs-provisioner/on-delete-of-class": "delete",
            },
        },
        "spec": {
            "accessModes": ["ReadWriteOnce", "ReadOnlyMany"],
            "capacity": { "storage": "1.50Gi" },
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": "shop",
                "name": "data",
                "uid": "0dbb0d7c-1c25-4b1f-8f5c-3f3c3e8b0b0a",
                "resourceVersion": "7",
            },
            "mountOptions": ["nfsvers=4.2", "hard"],
            "nfs": {
                "server": "nas",
                "path": "/export/shop-data-pvc-0dbb0d7c-1c25-4b1f-8f5c-3f3c3e8b0b0a",
            },
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "by-annotation",
        },
    });
    let (directory, volume) = provisioned(&claim, &class, "/export");
    assert_eq!(directory, "shop-data-pvc-0dbb0d7c-1c25-4b1f-8f5c-3f3c3e8b0b0a");
    assert_eq!(volume, expected);

    let plain = class.with(|class| {
        class.reclaim = ReclaimPolicy::Delete;
        class.mount_options.clear();
    });
    let spec = expected["spec"].as_object_mut().unwrap();
    spec.remove("mountOptions");
    spec.insert("persistentVolumeReclaimPolicy".to_owned(), json!("Delete"));
    assert_eq!(provisioned(&claim, &plain, "/export").1, expected);
}

#[test]
fn a_claim_that_only_reads_gets_a_volume_that_cannot_be_written() {
    let class = mk_class(&[]).with(|class| class.mount_options = vec!["hard".to_owned(), "rw".to_owned()]);
    let rows: &[(&[&str], &[&str])] = &[
        (&["ReadOnlyMany"], &["hard", "ro"]),
        (&["ReadOnlyMany", "ReadOnlyMany"], &["hard", "ro"]),
        (&["ReadOnlyMany", "ReadWriteMany"], &["hard", "rw"]),
        (&["ReadWriteOnce", "ReadOnlyMany"], &["hard", "rw"]),
        (&["ReadWriteOncePod"], &["hard", "rw"]),
        (&[], &["hard", "rw"]),
    ];
    for (modes, expected) in rows {
        let claim = mk_claim().with(|claim| claim.access_modes = modes.iter().map(ToString::to_string).collect());
        let (_, volume) = provisioned(&claim, &class, "/export");
        assert_eq!(volume["spec"]["mountOptions"], json!(expected), "{modes:?}");
        assert_eq!(volume["spec"]["accessModes"], json!(modes));
    }
}

#[test]
fn patterns_lead_beneath_the_export_or_are_refused() {
    let default = format!("shop-data-pvc-{UID}");
    let long = "x".repeat(256);
    let by_annotation = "${.PVC.namespace}/${.PVC.annotations.path}";
    let annotation = "${.PVC.annotations.path}";
    // The pattern, the annotation it may draw on, and the directory or what is wrong with it.
    let rows: &[(&str, Option<&str>, Result<&str, PathError>)] = &[
        ("${.PVC.namespace}/${.PVC.name}", None, Ok("shop/data")),
        (by_annotation, Some("a/b"), Ok("shop/a/b")),
        (by_annotation, Some("/a//./b/"), Ok("shop/a/b")),
        (by_annotation, None, Ok("shop")),
        (by_annotation, Some("..."), Ok("shop/...")),
        ("${.PVC.labels.team}/x", None, Ok("blue/x")),
        ("/", Some("x"), Err(PathError::Export)),
        (annotation, Some("."), Err(PathError::Export)),
        (annotation, Some("//"), Err(PathError::Export)),
        (by_annotation, Some(".."), Err(PathError::Climbs)),
        (by_annotation, Some("../shop/x"), Err(PathError::Climbs)),
        (by_annotation, Some("x/../../.."), Err(PathError::Climbs)),
        (annotation, Some("/../x"), Err(PathError::Climbs)),
        (by_annotation, Some("a\nb"), Err(PathError::Control)),
        (by_annotation, Some("a\0b"), Err(PathError::Control)),
        (annotation, Some(&long), Err(PathError::NameTooLong(256))),
        (annotation, Some("archived-x"), Err(PathError::Reserved)),
        (annotation, Some("./archived-x/y"), Err(PathError::Reserved)),
        (annotation, Some(".nfs-provisioner/x"), Err(PathError::Reserved)),
        (by_annotation, Some("archived-x"), Ok("shop/archived-x")),
        // What renders as nothing has the default name.
        ("", None, Ok(&default)),
        (annotation, None, Ok(&default)),
        (annotation, Some(""), Ok(&default)),
        ("${.PVC.labels.absent}${.PVC.uid}", None, Ok(&default)),
    ];
    for (pattern, value, expected) in rows {
        let class = mk_class(&[("pathPattern", pattern)]);
        let claim = mk_claim().with(|claim| {
            claim.labels = BTreeMap::from([("team".to_owned(), "blue".to_owned())]);
            claim.annotations = value.iter().map(|value| ("path".to_owned(), (*value).to_owned())).collect();
        });
        match expected {
            Ok(expected) => {
                for (export, prefix) in [("/export", "/export/"), ("/", "/"), ("/a//b/", "/a/b/")] {
                    let (directory, volume) = provisioned(&claim, &class, export);
                    assert_eq!(directory, *expected, "{pattern} {value:?}");
                    let path = json!(format!("{prefix}{expected}"));
                    assert_eq!(volume["spec"]["nfs"]["path"], path, "{pattern} {value:?}");
                }
            }
            Err(error) => {
                let found = step(&claim, Some(&class));
                let ClaimPlan::Refuse(ClaimRefusal::Path { error: found, .. }) = found else {
                    panic!("{pattern} {value:?}: {found:?}")
                };
                assert_eq!(found, *error, "{pattern} {value:?}");
            }
        }
    }
}

#[test]
fn a_strict_pattern_needs_a_value_for_each_token() {
    let pattern = "${.SC.name}/${.PVC.labels.team:-all}/${.PVC.annotations.path}";
    let lenient = mk_class(&[("pathPattern", pattern)]);
    let strict = mk_class(&[("pathPattern", pattern), ("strictPathPattern", "true")]);
    let annotated = |path: &str| {
        mk_claim().with(|claim| claim.annotations = BTreeMap::from([("path".to_owned(), path.to_owned())]))
    };
    assert_eq!(provisioned(&mk_claim(), &lenient, "/export").0, "nfs/all");
    let no_value = refuse(ClaimRefusal::NoValue("${.PVC.annotations.path}".into()));
    assert_eq!(step(&mk_claim(), Some(&strict)), no_value);
    assert_eq!(step(&annotated(""), Some(&strict)), no_value);
    for class in [&lenient, &strict] {
        assert_eq!(provisioned(&annotated("x"), class, "/export").0, "nfs/all/x");
    }
    // What is not known is the class's fault, whatever the claim has.
    let typo = mk_class(&[("pathPattern", "${.PVC.name}/${.PVC.lables.team:-x}"), ("strictPathPattern", "true")]);
    let token = BadParameter::Token("${.PVC.lables.team:-x}".into());
    assert_eq!(step(&annotated("x"), Some(&typo)), refuse(ClaimRefusal::Parameter(token)));
    let volume = mk_class(&[("pathPattern", "by-volume/${.PV.name}"), ("strictPathPattern", "true")]);
    assert_eq!(provisioned(&mk_claim(), &volume, "/export").0, format!("by-volume/pvc-{UID}"));
}

#[test]
fn every_namespace_has_default_directories() {
    for namespace in ["archived", "archived-2025", "default"] {
        let claim = mk_claim().with(|claim| claim.namespace = namespace.into());
        let (directory, _) = provisioned(&claim, &mk_class(&[]), "/export");
        assert!(directory.contains(UID), "{directory}");
    }
}

#[test]
fn volumes_that_are_not_to_be_reclaimed_are_left_alone_in_silence() {
    let rows: &[(&str, VolumeIgnored, Change<Volume>)] = &[
        ("another's", VolumeIgnored::Foreign, |volume| {
            volume.provisioned_by = Some("other".into());
        }),
        ("nobody's", VolumeIgnored::Foreign, |volume| {
            volume.provisioned_by = None;
            volume.migrated_to = Some(OURS.into());
        }),
        ("bound", VolumeIgnored::NotReleased, |volume| {
            volume.phase = Phase::Other;
        }),
        ("to be kept", VolumeIgnored::Kept, |volume| {
            volume.reclaim = ReclaimPolicy::Retain;
        }),
        ("to be recycled", VolumeIgnored::Kept, |volume| {
            volume.reclaim = ReclaimPolicy::Recycle;
        }),
        ("deleting", VolumeIgnored::Deleted, |volume| {
            volume.deleting = true;
        }),
    ];
    for (name, expected, change) in rows {
        // That it could not be reclaimed anyhow must not be said of it either.
        for volume in [mk_volume(), mk_volume().at("other", "/")] {
            let volume = volume.with(change);
            for class in [None, Some(&mk_class(&[("onDelete", "delete")]))] {
                let found = for_volume(&volume, class, &scope("/export"));
                assert_eq!(found, VolumePlan::Ignore(*expected), "{name}");
            }
        }
    }
    let taken_over = mk_volume().with(|volume| {
        volume.provisioned_by = Some("other".into());
        volume.migrated_to = Some(OURS.into());
    });
    let found = for_volume(&taken_over, Some(&mk_class(&[])), &scope("/export"));
    assert!(matches!(found, VolumePlan::Reclaim { .. }), "{found:?}");
}

/// What is done for a volume at `source`, which must not depend on the class unless it is reclaimed.
fn located_at(export: &str, source: Option<(&str, &str)>) -> VolumePlan {
    let volume = match source {
        Some((server, path)) => mk_volume().at(server, path),
        None => mk_volume().with(|volume| volume.source = None),
    };
    let delete = mk_class(&[("onDelete", "delete")]);
    let found = for_volume(&volume, Some(&delete), &scope(export));
    if let VolumePlan::Refuse(_) = found {
        assert_eq!(for_volume(&volume, None, &scope(export)), found);
    }
    found
}

#[test]
fn volumes_beneath_the_export_are_reclaimed_where_they_are() {
    let rows = [
        ("/export", "nas", "/export/a", "a"),
        ("/export", "[nas]", "/export/ns/a", "ns/a"),
        ("/export", "nas", "//export/./a/", "a"),
        ("/export", "nas", "/export/export/a", "export/a"),
        ("/export", "nas", "/export/archived-a", "archived-a"),
        ("/export/", "nas", "/export/a", "a"),
        ("/", "nas", "/a", "a"),
    ];
    for (export, server, path, expected) in rows {
        let VolumePlan::Reclaim { directory, fate, doubt } = located_at(export, Some((server, path))) else {
            panic!("{export} {path}")
        };
        assert_eq!((&*directory.to_string(), fate, doubt), (expected, Fate::Delete, None), "{export} {path}");
    }
}

#[test]
fn volumes_anywhere_else_are_refused() {
    let not_nfs = VolumePlan::Refuse(VolumeRefusal::NotNfs);
    assert_eq!(located_at("/export", None), not_nfs);
    for server in ["other", "", "nas.", "nas:/export", "[nas"] {
        let expected = VolumeRefusal::OtherServer { server: server.into(), exports: "nas:/export".into() };
        let found = located_at("/export", Some((server, "/export/a")));
        assert_eq!(found, VolumePlan::Refuse(expected), "{server}");
    }
    let rows = [
        ("/export", "/export", PathError::Export),
        ("/export", "/export/", PathError::Export),
        ("/export", "/export//.", PathError::Export),
        ("/", "/", PathError::Export),
        ("/", "//", PathError::Export),
        ("/export", "/exports/a", PathError::Outside),
        ("/export", "/exporta", PathError::Outside),
        ("/export", "/old/export/a", PathError::Outside),
        ("/export/k", "/export/a", PathError::Outside),
        ("/export", "/", PathError::Outside),
        ("/export", "", PathError::Outside),
        ("/export", "export/a", PathError::Outside),
        ("/", "a", PathError::Outside),
        ("/export", "/export/..", PathError::Climbs),
        ("/export", "/export/a/..", PathError::Climbs),
        ("/export", "/export/../export/a", PathError::Climbs),
        ("/export", "/../export/a", PathError::Climbs),
        ("/", "/../a", PathError::Climbs),
        ("/export", "/export/a\0", PathError::Control),
    ];
    for (export, path, error) in rows {
        let expected = VolumeRefusal::Path { path: path.into(), exports: format!("nas:{export}").into(), error };
        let found = located_at(export, Some(("nas", path)));
        assert_eq!(found, VolumePlan::Refuse(expected), "{export} {path}");
    }
}

#[test]
fn every_refusal_of_a_volume_says_what_is_wrong_and_what_to_do() {
    let (path, exports) = ("/a\nb".into(), "nas:/export".into());
    let rows = [
        (VolumeRefusal::NotNfs, "the volume has no spec.nfs, "),
        (
            VolumeRefusal::OtherServer { server: "other".into(), exports: "nas:/export".into() },
            r#"spec.nfs.server is "other", but this provisioner serves nas:/export:"#,
        ),
        (
            VolumeRefusal::Path { path, exports, error: PathError::Outside },
            r#"spec.nfs.path "/a\nb" is not beneath the export, "#,
        ),
    ];
    for (refusal, named) in &rows {
        // A new variant needs a row.
        match refusal {
            VolumeRefusal::NotNfs | VolumeRefusal::OtherServer { .. } | VolumeRefusal::Path { .. } => {}
        }
        let message = refusal.to_string();
        assert!(message.starts_with("not reclaimed: "), "{message}");
        assert!(message.contains(named), "{named} is not in: {message}");
        assert!(message.ends_with("remove its data by hand if it is to go, then delete the volume"));
    }
}

#[test]
fn the_class_as_it_is_now_decides_a_volumes_fate_and_doubts_never_destroy() {
    let wrong = |bad| Some(Doubt::Parameter(bad));
    let archive_on_delete = |value: &str| BadParameter::ArchiveOnDelete(value.into());
    let gone = Some(Doubt::NoClass("nfs".into()));
    let rows: &[(Option<Set<'_>>, Fate, Option<Doubt>)] = &[
        (None, Fate::Archive, gone),
        (Some(&[]), Fate::Archive, None),
        (Some(&[("onDelete", "delete")]), Fate::Delete, None),
        (Some(&[("onDelete", "retain")]), Fate::Retain, None),
        (Some(&[("onDelete", "archive")]), Fate::Archive, None),
        (Some(&[("archiveOnDelete", "false")]), Fate::Delete, None),
        (Some(&[("onDelet", "delete")]), Fate::Archive, None),
        // Nothing but what cannot be read.
        (Some(&[("onDelete", "Delete")]), Fate::Archive, wrong(on_delete("Delete"))),
        (Some(&[("onDelete", "delete ")]), Fate::Archive, wrong(on_delete("delete "))),
        (Some(&[("archiveOnDelete", "no")]), Fate::Archive, wrong(archive_on_delete("no"))),
        (Some(&[("onDelete", "remove"), ("archiveOnDelete", "no")]), Fate::Archive, wrong(on_delete("remove"))),
        // What has nothing to do with it.
        (Some(&[("onDelete", "delete"), ("server", "nas")]), Fate::Delete, None),
        (Some(&[("onDelete", "delete"), ("shareAcrossNamespaces", "maybe")]), Fate::Delete, None),
        // One value can be read, and is what the peer goes by.
        (Some(&[("onDelete", "remove"), ("archiveOnDelete", "false")]), Fate::Delete, wrong(on_delete("remove"))),
        (Some(&[("onDelete", "retain"), ("archiveOnDelete", "no")]), Fate::Retain, wrong(archive_on_delete("no"))),
        // What is wrong elsewhere is none of its business.
        (Some(&[("shareAcrossNamespaces", "maybe"), ("strictPathPattern", "maybe")]), Fate::Archive, None),
    ];
    for (parameters, fate, doubt) in rows {
        let class = parameters.map(mk_class);
        let found = for_volume(&mk_volume(), class.as_ref(), &scope("/export"));
        let directory = scope("/export").exports.locate("nas", "/export/shop-data-pvc-1").unwrap();
        let expected = VolumePlan::Reclaim { directory, fate: *fate, doubt: doubt.clone() };
        assert_eq!(found, expected, "{parameters:?}");
        let named = match doubt {
            Some(Doubt::NoClass(_)) => r#"StorageClass "nfs""#,
            Some(Doubt::Parameter(BadParameter::OnDelete(_))) => "parameter onDelete",
            Some(Doubt::Parameter(BadParameter::ArchiveOnDelete(_))) => "parameter archiveOnDelete",
            Some(Doubt::Parameter(_) | Doubt::Annotation { .. }) | None => continue,
        };
        let words = doubt.as_ref().map(ToString::to_string).unwrap_or_default();
        assert!(words.contains(named), "{words}");
    }
}

#[test]
fn what_the_claim_wanted_beats_the_class_and_an_admin_beats_both() {
    let delete = mk_class(&[("onDelete", "delete")]);
    let rows = [
        (None, Some("retain"), Some(&delete), Fate::Retain, None),
        (None, Some("delete"), None, Fate::Delete, None),
        (Some("archive"), Some("delete"), Some(&delete), Fate::Archive, None),
        (Some("delete"), Some("retain"), None, Fate::Delete, None),
        // Nothing but what can be read destroys anything.
        (None, Some("Delete"), Some(&delete), Fate::Archive, Some("nfs-provisioner/on-delete-of-claim")),
        (Some(""), Some("delete"), Some(&delete), Fate::Archive, Some("nfs-provisioner/on-delete ")),
    ];
    for (admin, claim, class, expected, named) in rows {
        let volume = mk_volume().with(|volume| {
            volume.on_delete = admin.map(Into::into);
            volume.on_delete_of_claim = claim.map(Into::into);
            volume.on_delete_of_class = Some(Fate::Delete);
        });
        let VolumePlan::Reclaim { fate, doubt, .. } = for_volume(&volume, class, &scope("/export")) else {
            panic!("{admin:?} {claim:?}")
        };
        let words = doubt.map(|doubt| doubt.to_string());
        let is_named = words.as_deref().zip(named).is_some_and(|(words, named)| words.contains(named));
        assert_eq!((fate, words.is_some(), is_named), (expected, named.is_some(), named.is_some()), "{words:?}");
    }
}

#[test]
fn an_annotation_beats_the_class_which_beats_what_was_recorded() {
    let delete = mk_class(&[("onDelete", "delete")]);
    let foreign = mk_class(&[("onDelete", "delete")]).with(|class| class.provisioner = "other".into());
    let rows = [
        (Some("retain"), Some(&delete), Some(Fate::Delete), Fate::Retain, false),
        (Some("delete"), None, Some(Fate::Retain), Fate::Delete, false),
        (Some("Delete"), Some(&delete), Some(Fate::Delete), Fate::Archive, true),
        (Some(""), Some(&delete), None, Fate::Archive, true),
        (None, Some(&delete), Some(Fate::Retain), Fate::Delete, false),
        (None, Some(&foreign), Some(Fate::Retain), Fate::Retain, false),
        (None, Some(&foreign), None, Fate::Archive, true),
        (None, None, Some(Fate::Delete), Fate::Delete, false),
        (None, None, None, Fate::Archive, true),
    ];
    for (annotation, class, recorded, expected, doubtful) in rows {
        let volume = mk_volume().with(|volume| {
            volume.on_delete = annotation.map(Into::into);
            volume.on_delete_of_class = recorded;
        });
        let VolumePlan::Reclaim { fate, doubt, .. } = for_volume(&volume, class, &scope("/export")) else {
            panic!("{annotation:?}")
        };
        assert_eq!((fate, doubt.is_some()), (expected, doubtful), "{annotation:?} {recorded:?}");
    }
}

#[test]
fn finalizers_come_and_go_only_where_they_could_be_taken_off() {
    let patching = |export: &str| Scope { may_patch: true, ..scope(export) };
    let bound = || mk_volume().with(|volume| volume.phase = Phase::Bound);
    let not_released = VolumePlan::Ignore(VolumeIgnored::NotReleased);
    let kept = VolumePlan::Ignore(VolumeIgnored::Kept);
    let rows = [
        (bound(), VolumePlan::Protect, not_released.clone()),
        (bound().with(|volume| volume.finalizer = true), not_released.clone(), not_released.clone()),
        (bound().with(|volume| volume.deleting = true), not_released.clone(), not_released.clone()),
        (bound().at("other", "/export/x"), not_released.clone(), not_released.clone()),
        (bound().at("nas", "/elsewhere/x"), not_released.clone(), not_released.clone()),
        (bound().with(|volume| volume.phase = Phase::Other), not_released.clone(), not_released),
        (bound().with(|volume| volume.reclaim = ReclaimPolicy::Retain), kept.clone(), kept.clone()),
        (
            bound().with(|volume| (volume.reclaim, volume.finalizer) = (ReclaimPolicy::Retain, true)),
            VolumePlan::Unprotect,
            kept,
        ),
    ];
    for (volume, with_patch, without) in rows {
        assert_eq!(for_volume(&volume, None, &patching("/export")), with_patch, "{volume:?}");
        assert_eq!(for_volume(&volume, None, &scope("/export")), without, "{volume:?}");
    }
}

#[test]
fn a_volume_deleted_while_it_had_a_claim_is_reclaimed_when_that_has_gone() {
    let deleted = || mk_volume().with(|volume| volume.deleting = true);
    let rows = [
        (deleted(), false),
        (deleted().with(|volume| volume.finalizer = true), true),
        (deleted().with(|volume| volume.deleted_while_bound = true), true),
        (deleted().with(|volume| (volume.deleted_while_bound, volume.phase) = (true, Phase::Bound)), false),
    ];
    for (volume, expected) in rows {
        let found = for_volume(&volume, None, &scope("/export"));
        assert_eq!(matches!(found, VolumePlan::Reclaim { .. }), expected, "{volume:?}");
    }
}

/// The claim of [`mk_volume`], which has 1Gi and asks for more.
fn mk_growth(request: &str) -> Expansion {
    Expansion {
        uid: "1".into(),
        namespace: "shop".into(),
        name: "data".into(),
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

/// On an export of 10 GiB, of which 5 are free and 8 promised to others.
fn grown_with(expansion: &Expansion, volume: &Volume, lacking: &str, needs: &Requirements) -> ExpansionPlan {
    let scope = scope("/export");
    let usage = FsUsage { bytes: 10 << 30, bytes_free: 5 << 30, inodes: 100, inodes_free: 50 };
    let headrooms =
        scope.exports.map(|_| Headroom { usable: true, begun: false, usage: Some(usage), promised: 8 << 30 });
    for_expansion(expansion, volume, &Means { lacking, needs, headrooms: &headrooms }, &scope)
}

#[test]
fn a_volume_grows_to_what_its_claim_asks_for_and_never_shrinks() {
    // What is asked for, what the volume has, what the claim has then, and whether the volume is to be given it.
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
        assert_eq!(grown(&mk_growth(request), &volume), expected, "{request} {has}");
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
        assert!(matches!(grown(&mk_growth("2Gi"), &volume), ExpansionPlan::Grow { .. }), "{volume:?}");
    }
}

#[test]
fn what_is_not_ours_to_grow_is_left_alone_in_silence() {
    let rows: &[(ExpansionIgnored, Change<Volume>, Change<Expansion>)] = &[
        (ExpansionIgnored::Foreign, |volume| volume.provisioned_by = Some("other".into()), |_| {}),
        (ExpansionIgnored::Foreign, |volume| volume.provisioned_by = None, |_| {}),
        (ExpansionIgnored::Foreign, |volume| volume.claim = None, |_| {}),
        (ExpansionIgnored::Foreign, |_| {}, |expansion| expansion.uid = "another".into()),
        (ExpansionIgnored::Deleting, |_| {}, |expansion| expansion.deleting = true),
    ];
    for (expected, of_volume, of_growth) in rows {
        let (volume, expansion) = (mk_volume().with(of_volume), mk_growth("2Gi").with(of_growth));
        // That it could not grow anyhow must not be said of it either.
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
        let found = grown_with(&mk_growth("2Gi"), &volume, lacking, &Requirements::default());
        let ExpansionPlan::Refuse(refusal) = found else { panic!("{found:?}") };
        assert!(words.iter().all(|words| refusal.to_string().contains(words)), "{refusal}");
        assert_eq!(refusal.may_pass(), may_pass, "{refusal}");
    }
}

#[test]
fn a_volume_grows_where_there_is_room_and_not_elsewhere() {
    // What the class demands, what is asked for, and the parameter that forbids it.
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
        let needs = Requirements {
            space: of(MIN_FREE_SPACE).and_then(|text| text.parse().ok()),
            inodes: of(MIN_FREE_INODES).and_then(|text| text.parse().ok()),
            ratio: of(MAX_OVERCOMMIT).and_then(|text| text.parse().ok()),
        };
        let found = grown_with(&mk_growth(request), &mk_volume(), "", &needs);
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
        let found = grown_with(&mk_growth(request), &has_more, "", &needs);
        assert!(matches!(found, ExpansionPlan::Grow { volume_too: None, .. }), "{found:?}");
    }
}
