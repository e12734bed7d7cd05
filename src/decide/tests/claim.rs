//! Tests of which claims are served, and how.

use super::*;
use crate::ledger::placements::{Conflict, Relation};
use crate::ledger::{Grant, ReserveError};

fn refuse(refusal: ClaimRefusal) -> ClaimPlan {
    ClaimPlan::Refuse(refusal)
}

#[test]
fn of_all_that_is_wrong_with_a_claim_the_first_decides() {
    type Mend = fn(&mut Claim, &mut Option<Class>);

    // Everything is wrong at first. Each row has the decision, and mends just its cause.
    let rows: &[(ClaimPlan, Mend)] = &[
        (ClaimPlan::Ignore(ClaimIgnored::Deleting), |claim, _| {
            claim.deleting = false;
        }),
        (ClaimPlan::Ignore(ClaimIgnored::Populated), |claim, _| {
            claim.source = Some(DataSource::Snapshot("monday".into()));
        }),
        (refuse(ClaimRefusal::NoClass), |_, class| {
            *class = Some(mk_class(&[("adoptAsIs", "no"), ("pathPattern", "../up")]).with(|class| {
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
        (refuse(ClaimRefusal::Lost), |claim, _| claim.lost = false),
        (refuse(ClaimRefusal::Block), |claim, _| claim.block = false),
        (refuse(ClaimRefusal::Selector), |claim, _| claim.selector = false),
        (refuse(ClaimRefusal::AttributesClass("gold".into())), |claim, _| {
            claim.attributes_class = None;
        }),
        (refuse(ClaimRefusal::Snapshot("monday".into())), |claim, _| {
            claim.source = None;
        }),
        (refuse(ClaimRefusal::Parameter(adopt_as_is("no"))), |_, class| {
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
        claim.lost = true;
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
    assert!(matches!(last, ClaimPlan::Provision(_)), "{last:?}");
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

/// Returns a claim whose annotation wants this fate for its data.
fn wanting(fate: &str) -> Claim {
    let annotation = ("nfs-provisioner/on-delete".to_owned(), fate.to_owned());
    mk_claim().with(|claim| claim.annotations = BTreeMap::from([annotation]))
}

/// Returns what comes of a claim that is served, or has an annotation that is not followed.
fn answer(step: ClaimPlan) -> Result<(PersistentVolume, Ownership), BadAnnotation> {
    match step {
        ClaimPlan::Provision(provision) => Ok((provision.volume.object(), provision.ownership)),
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
        ("archive,retain,delete", "Retain", Ok("retain")),
        ("archive,retain,delete", "keep", wrong("keep")),
        ("", "remove", wrong("remove")),
        ("retain", "", Ok("")),
    ];
    for (allowed, wanted, expected) in rows {
        let class = mk_class(&[(parameter, allowed), ("onDelete", "archive")]);
        let found = answer(step(&wanting(wanted), Some(&class))).map(|(volume, _)| {
            let annotations = volume.metadata.annotations.unwrap();
            assert_eq!(annotations["nfs-provisioner/on-delete-of-class"], "archive");
            // On the volume, that annotation is for admins only.
            assert_eq!(annotations.get(annotation), None);
            annotations.get("nfs-provisioner/on-delete-of-claim").cloned().unwrap_or_default()
        });
        assert_eq!(found, expected.map(str::to_owned), "{allowed:?} {wanted:?}");
    }
}

/// Returns a claim with these annotations.
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
    let Provision { ownership, gid_range, .. } = served(step(&annotated(&[(mode, "2750")]), Some(&range)));
    assert_eq!((ownership.mode, gid_range), ("2750".parse().ok(), "500-600".parse().ok()));
}

#[test]
fn who_cannot_have_a_group_is_told_of_which_range_and_where() {
    let left = ClaimRefusal::NoGroupLeft("500-600".parse().unwrap());
    let there = ClaimRefusal::NoGroupThere(RelPath::parse("a/b\n").unwrap());
    for (refusal, named) in [(left, "500-600"), (there, r#""a/b\n""#)] {
        let message = refusal.message(&"nfs".into(), OURS);
        assert!(message.contains(named), "{message}");
        for words in to_be_changed(&refusal) {
            assert!(message.contains(words), "{words} is not in: {message}");
        }
    }
}

/// Lists what the refusal's message must name. A new variant needs its words here, and its row below.
fn to_be_changed(refusal: &ClaimRefusal) -> &'static [&'static str] {
    match refusal {
        ClaimRefusal::NoClass => &["spec.storageClassName"],
        ClaimRefusal::ForeignClass(_) => &["storage-provisioner", "\"other\""],
        ClaimRefusal::Lost => &["annotation pv.kubernetes.io/bind-completed", "remove"],
        ClaimRefusal::Abroad { .. } => &["spec.dataSourceRef.namespace is \"bank\"", "\"origin\""],
        ClaimRefusal::Block => &["spec.volumeMode \"Filesystem\""],
        ClaimRefusal::Selector => &["claim Selector is not supported", "spec.selector"],
        ClaimRefusal::AttributesClass(_) => &["spec.volumeAttributesClassName", "\"gold\""],
        ClaimRefusal::Source { .. } => &["spec.dataSource ", "PersistentVolumeClaim", "\"origin\""],
        ClaimRefusal::Snapshot(_) => &["spec.dataSource ", "VolumeSnapshot", "\"monday\""],
        ClaimRefusal::NoRequest => &["spec.resources.requests.storage"],
        // No claim is refused for those: see the test of served claims below.
        ClaimRefusal::Parameter(
            BadParameter::OnDelete(_) | BadParameter::ArchiveOnDelete(_) | BadParameter::Spelling { .. },
        ) => panic!("{refusal:?}"),
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
            &["annotation nfs-provisioner/on-delete", "\"remove\"", "\"retain\""]
        }
        ClaimRefusal::Annotation(BadAnnotation::NotAllowed { .. }) => {
            &["annotation nfs-provisioner/on-delete", "\"delete\"", "claimOnDelete"]
        }
        // Depends on more than the claim; see the tests of the choice of an export.
        ClaimRefusal::NotSaid(_) => &["an export that cannot be looked at"],
        // Depends on more than the claim.
        ClaimRefusal::NoGroupLeft(_) => &["gidRange"],
        ClaimRefusal::NoGroupThere(_) => &["gidRange", "pathPattern"],
        ClaimRefusal::Restore { .. } => &["nfs-provisioner/restore-from", "\"archived-x\"", "claimRestore"],
        ClaimRefusal::NoValue(_) => &["pathPattern", "${.PVC.labels.team}", "strictPathPattern"],
        // Depends on more than the claim; see the tests of placements and those on a control plane.
        ClaimRefusal::OtherNamespace { .. } => {
            &["shareAcrossNamespaces", "SHARE_ACROSS_NAMESPACES", "pathPattern"]
        }
        ClaimRefusal::NamedAsArchive(_) => &["\"archived-2025/data\"", "pathPattern", "volumes/${.PVC.namespace}"],
        ClaimRefusal::Path { .. } => &["pathPattern", "annotations", "\"../up\"", "'..'"],
    }
}

#[test]
fn every_refusal_of_a_claim_says_what_to_change() {
    let ours = || Some(mk_class(&[]));
    let foreign = mk_class(&[]).with(|class| class.provisioner = "other".into());
    let cloned = |source| mk_claim().with(|claim| claim.source = Some(source));
    let rows = vec![
        (mk_claim(), None),
        (mk_claim(), Some(foreign)),
        (mk_claim().with(|claim| claim.lost = true), ours()),
        (cloned(DataSource::Abroad { namespace: "bank".into(), name: "origin".into() }), ours()),
        (mk_claim().with(|claim| claim.block = true), ours()),
        (mk_claim().with(|claim| claim.selector = true), ours()),
        (mk_claim().with(|claim| claim.attributes_class = Some("gold".into())), ours()),
        (cloned(DataSource::Claim("origin".into())), ours()),
        (cloned(DataSource::Snapshot("monday".into())), ours()),
        (mk_claim().with(|claim| claim.request = None), ours()),
        (mk_claim(), Some(mk_class(&[("export", "fast,")]))),
        (mk_claim(), Some(mk_class(&[("server", "nas")]))),
        (mk_claim(), Some(mk_class(&[("export", "slow")]))),
        (mk_claim(), Some(mk_class(&[("minFreeSpace", "10%")]))),
        (wanting("remove"), Some(mk_class(&[("claimOnDelete", "retain,archive")]))),
        (asking("archived-x"), ours()),
        (wanting("delete"), Some(mk_class(&[("claimOnDelete", "retain,archive")]))),
        (mk_claim(), Some(mk_class(&[("strictPathPattern", "maybe")]))),
        (mk_claim(), Some(mk_class(&[("strictPathPattern", "true"), ("pathPattern", "${.PVC.uid}")]))),
        (mk_claim(), Some(mk_class(&[("strictPathPattern", "true"), ("pathPattern", "x/${.PVC.labels.team}")]))),
        (mk_claim(), Some(mk_class(&[("pathPattern", "../up")]))),
        (
            mk_claim().with(|claim| claim.claim.namespace = "archived-2025".into()),
            Some(mk_class(&[("pathPattern", "${.PVC.namespace}/${.PVC.name}")])),
        ),
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
    assert_eq!(met.len(), 18, "a refusal has no row");
}

#[test]
fn a_class_in_doubt_about_the_fate_serves_its_claims_and_the_doubt_is_told() {
    let rows: &[(Set<'_>, &str, bool)] = &[
        (&[], "archive", false),
        (&[("onDelete", "Retain"), ("archiveOnDelete", "false")], "retain", false),
        (&[("onDelete", "true")], "archive", true),
        (&[("onDelete", "keep"), ("archiveOnDelete", "false")], "archive", true),
        (&[("archiveOnDelete", "no")], "archive", true),
        (&[("archiveondelete", "false")], "archive", true),
    ];
    for (parameters, recorded, is_in_doubt) in rows {
        let provision = served(step(&mk_claim(), Some(&mk_class(parameters))));
        assert_eq!(provision.doubt.is_some(), *is_in_doubt, "{parameters:?}");
        let annotations = provision.volume.object().metadata.annotations.unwrap();
        assert_eq!(annotations["nfs-provisioner/on-delete-of-class"], *recorded, "{parameters:?}");
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
        // A pattern that renders nothing gives the default name.
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
    // An unknown token is the class's fault, whatever the claim has.
    let typo = mk_class(&[("pathPattern", "${.PVC.name}/${.PVC.lables.team:-x}"), ("strictPathPattern", "true")]);
    let token = BadParameter::Token("${.PVC.lables.team:-x}".into());
    assert_eq!(step(&annotated("x"), Some(&typo)), refuse(ClaimRefusal::Parameter(token)));
    let volume = mk_class(&[("pathPattern", "by-volume/${.PV.name}"), ("strictPathPattern", "true")]);
    assert_eq!(provisioned(&mk_claim(), &volume, "/export").0, format!("by-volume/pvc-{UID}"));
}

#[test]
fn every_namespace_has_default_directories() {
    for namespace in ["archived", "archived-2025", "default"] {
        let claim = mk_claim().with(|claim| claim.claim.namespace = namespace.into());
        let (directory, _) = provisioned(&claim, &mk_class(&[]), "/export");
        assert!(directory.contains(UID), "{directory}");
    }
}

#[test]
fn what_the_ledger_grants_is_what_the_directory_and_the_volume_have() {
    let grant = |gid, shared| Some(Grant { gid, shared });
    let rows: &[(Set<'_>, Option<Grant>, Ownership, Option<u32>)] = &[
        (&[], None, Ownership::default(), None),
        (&[("directoryMode", "0750")], None, ownership("750", None, false), None),
        (&[("gidRange", "500-600")], grant(500, false), ownership("2770", Some(500), false), Some(500)),
        (
            &[("gidRange", "500-600"), ("directoryMode", "2750")],
            grant(501, false),
            ownership("2750", Some(501), false),
            Some(501),
        ),
        // A directory that is shared keeps what it has.
        (&[], grant(502, true), ownership("2770", Some(502), true), Some(502)),
        (&[("directoryMode", "0777")], grant(502, true), ownership("777", Some(502), true), Some(502)),
        // The class's group gives way to the group of the volumes that share the directory.
        (&[("directoryGid", "7")], grant(502, true), ownership("2770", Some(502), true), Some(502)),
        (&[("adoptAsIs", "true")], grant(502, false), ownership("2770", Some(502), true), Some(502)),
    ];
    for (parameters, grant, expected, gid) in rows {
        let provision = served(step(&mk_claim(), Some(&mk_class(parameters)))).granted(*grant);
        assert_eq!(provision.ownership, *expected, "{parameters:?} {grant:?}");
        assert_eq!(provision.volume.gid, *gid);
        let object = provision.volume.object();
        let annotation = object.metadata.annotations.unwrap().get("pv.beta.kubernetes.io/gid").cloned();
        assert_eq!(annotation, gid.map(|gid| gid.to_string()), "{parameters:?} {grant:?}");
    }
}

fn ownership(mode: &str, gid: Option<u32>, keep: bool) -> Ownership {
    Ownership { mode: mode.parse().ok(), uid: None, gid, keep }
}

#[test]
fn what_the_ledger_denies_is_waited_for_or_said() {
    let range = "500-600".parse().unwrap();
    let at = scope("/export").exports.locate("nas", "/export/a/b").unwrap();
    let (path, relation) = (at.path.clone(), Relation::Above);
    let rows = [
        (ReserveError::Directory(Conflict::Moving), Denial::Moving),
        (ReserveError::Promised, Denial::Promised),
        (
            ReserveError::Directory(Conflict::OtherNamespace(relation)),
            Denial::Refused(ClaimRefusal::OtherNamespace { path: path.clone(), relation }),
        ),
        (ReserveError::NoGidThere, Denial::Refused(ClaimRefusal::NoGroupThere(path))),
        (ReserveError::NoGidLeft(range), Denial::Refused(ClaimRefusal::NoGroupLeft(range))),
    ];
    for (error, expected) in rows {
        assert_eq!(denied(error, &at), expected, "{error:?}");
    }
}
