//! Tests of what becomes of volumes.

use std::time::Duration;

use jiff::Timestamp;

use super::*;

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
        ("offered to all", VolumeIgnored::Offered, |volume| {
            volume.claim = None;
        }),
        ("offered to a claim by its name", VolumeIgnored::Offered, |volume| {
            volume.claim = Some(ClaimRef { namespace: "shop".into(), name: "data".into(), uid: "".into() });
        }),
    ];
    for (name, expected, change) in rows {
        // An event that the volume could not be reclaimed anyhow would be wrong, too.
        for volume in [mk_volume(), mk_volume().at("other", "/")] {
            let volume = volume.with(change);
            for class in [None, Some(&mk_class(&[("onDelete", "delete")]))] {
                let found = reclaim(&volume, class, &scope("/export"));
                assert_eq!(found, VolumePlan::Ignore(*expected), "{name}");
            }
        }
    }
    let taken_over = mk_volume().with(|volume| {
        volume.provisioned_by = Some("other".into());
        volume.migrated_to = Some(OURS.into());
    });
    let found = reclaim(&taken_over, Some(&mk_class(&[])), &scope("/export"));
    assert!(matches!(found, VolumePlan::Reclaim { .. }), "{found:?}");
}

/// Decides on a volume at `source`. A refusal must not depend on the class.
fn located_at(export: &str, source: Option<(&str, &str)>) -> VolumePlan {
    let volume = match source {
        Some((server, path)) => mk_volume().at(server, path),
        None => mk_volume().with(|volume| volume.source = None),
    };
    let delete = mk_class(&[("onDelete", "delete")]);
    let found = reclaim(&volume, Some(&delete), &scope(export));
    if let VolumePlan::Refuse(_) = found {
        assert_eq!(reclaim(&volume, None, &scope(export)), found);
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
        let VolumePlan::Reclaim { at, fate, doubt, .. } = located_at(export, Some((server, path))) else {
            panic!("{export} {path}")
        };
        assert_eq!((&*at.to_string(), fate, doubt), (expected, Fate::Delete, None), "{export} {path}");
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
        // A value that cannot be read destroys nothing.
        (Some(&[("onDelete", "Delete")]), Fate::Delete, None),
        (Some(&[("onDelete", "Retain"), ("archiveOnDelete", "false")]), Fate::Retain, None),
        (Some(&[("onDelete", "true")]), Fate::Archive, wrong(on_delete("true"))),
        (Some(&[("archiveOnDelete", "no")]), Fate::Archive, wrong(archive_on_delete("no"))),
        (Some(&[("onDelete", "remove"), ("archiveOnDelete", "no")]), Fate::Archive, wrong(on_delete("remove"))),
        // Other parameters do not matter.
        (Some(&[("onDelete", "delete"), ("server", "nas")]), Fate::Delete, None),
        (Some(&[("onDelete", "delete"), ("shareAcrossNamespaces", "maybe")]), Fate::Delete, None),
        // Nor does it if the other value can be read.
        (Some(&[("onDelete", "keep"), ("archiveOnDelete", "false")]), Fate::Archive, wrong(on_delete("keep"))),
        (
            Some(&[("onDelete", "delete"), ("archiveOnDelete", "no")]),
            Fate::Archive,
            wrong(archive_on_delete("no")),
        ),
        (Some(&[("onDelete", "retain"), ("archiveOnDelete", "no")]), Fate::Retain, wrong(archive_on_delete("no"))),
        // Errors in other parameters do not matter.
        (Some(&[("shareAcrossNamespaces", "maybe"), ("strictPathPattern", "maybe")]), Fate::Archive, None),
    ];
    for (parameters, fate, doubt) in rows {
        let class = parameters.map(mk_class);
        let found = reclaim(&mk_volume(), class.as_ref(), &scope("/export"));
        let directory = scope("/export").exports.locate("nas", "/export/shop-data-pvc-1").unwrap();
        let retentions = Retentions::default();
        let expected = VolumePlan::Reclaim { at: directory, fate: *fate, retentions, doubt: doubt.clone() };
        assert_eq!(found, expected, "{parameters:?}");
        let named = match doubt {
            Some(Doubt::NoClass(_)) => r#"StorageClass "nfs""#,
            Some(Doubt::Parameter(BadParameter::OnDelete(_))) => "parameter onDelete",
            Some(Doubt::Parameter(BadParameter::ArchiveOnDelete(_))) => "parameter archiveOnDelete",
            Some(Doubt::Parameter(_) | Doubt::Annotation { .. } | Doubt::NeverBound | Doubt::Unseen) | None => {
                continue;
            }
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
        // A value that cannot be read destroys nothing.
        (None, Some("keep"), Some(&delete), Fate::Archive, Some("nfs-provisioner/on-delete-of-claim")),
        (None, Some("Retain"), Some(&delete), Fate::Retain, None),
        (Some(""), Some("delete"), Some(&delete), Fate::Archive, Some("nfs-provisioner/on-delete ")),
    ];
    for (admin, claim, class, expected, named) in rows {
        let volume = mk_volume().with(|volume| {
            volume.on_delete = admin.map(Into::into);
            volume.on_delete_of_claim = claim.map(Into::into);
            volume.on_delete_of_class = Some(Fate::Delete);
        });
        let VolumePlan::Reclaim { fate, doubt, .. } = reclaim(&volume, class, &scope("/export")) else {
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
        (Some("Retain "), Some(&delete), Some(Fate::Delete), Fate::Retain, false),
        (Some("keep"), Some(&delete), Some(Fate::Delete), Fate::Archive, true),
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
        let VolumePlan::Reclaim { fate, doubt, .. } = reclaim(&volume, class, &scope("/export")) else {
            panic!("{annotation:?}")
        };
        assert_eq!((fate, doubt.is_some()), (expected, doubtful), "{annotation:?} {recorded:?}");
    }
}

#[test]
fn finalizers_come_and_go_only_where_they_could_be_taken_off() {
    let patching = |export: &str| Scope { may_patch: true.into(), ..scope(export) };
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
        assert_eq!(reclaim(&volume, None, &patching("/export")), with_patch, "{volume:?}");
        assert_eq!(reclaim(&volume, None, &scope("/export")), without, "{volume:?}");
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
        let found = reclaim(&volume, None, &scope("/export"));
        assert_eq!(matches!(found, VolumePlan::Reclaim { .. }), expected, "{volume:?}");
    }
}

#[test]
fn a_volume_whose_directory_was_dealt_with_is_deleted_and_nothing_else() {
    let disposed = || mk_volume().with(|volume| volume.disposed = Some("removed".into()));
    let delete = mk_class(&[("onDelete", "delete")]);
    assert_eq!(reclaim(&disposed(), Some(&delete), &scope("/export")), VolumePlan::Delete);
    // Wherever it is: there is nothing left to find.
    let elsewhere = disposed().at("other", "/x");
    assert_eq!(reclaim(&elsewhere, Some(&delete), &scope("/export")), VolumePlan::Delete);
    let kept = disposed().with(|volume| volume.reclaim = ReclaimPolicy::Retain);
    assert_eq!(reclaim(&kept, Some(&delete), &scope("/export")), VolumePlan::Ignore(VolumeIgnored::Kept));
}

#[test]
fn a_volume_that_seems_to_be_restored_is_archived_unless_an_admin_says_otherwise() {
    let delete = mk_class(&[("onDelete", "delete")]);
    let retain = mk_class(&[("onDelete", "retain")]);
    let at = |seconds| Some(Timestamp::UNIX_EPOCH + Duration::from_secs(seconds));
    let created = Some(Timestamp::UNIX_EPOCH);
    let none: Change<Volume> = |_| {};
    let deleted: Change<Volume> = |volume| (volume.deleting, volume.finalizer) = (true, true);
    let rows: [(_, &Class, Change<Volume>, Fate, bool); 8] = [
        (at(2), &delete, deleted, Fate::Delete, false),
        (at(2), &delete, none, Fate::Archive, true),
        (at(30), &delete, none, Fate::Archive, true),
        (at(31), &delete, none, Fate::Delete, false),
        (None, &delete, none, Fate::Delete, false),
        (at(2), &delete, |volume| volume.seen_bound = true, Fate::Delete, false),
        (at(2), &delete, |volume| volume.on_delete = Some("delete".into()), Fate::Delete, false),
        (at(2), &retain, none, Fate::Retain, false),
    ];
    for (released, class, change, expected, is_doubted) in rows {
        let volume = mk_volume().with(|volume| (volume.created, volume.since) = (created, released)).with(change);
        let VolumePlan::Reclaim { fate, doubt, .. } = reclaim(&volume, Some(class), &scope("/export")) else {
            panic!("{volume:?}")
        };
        assert_eq!((fate, doubt == Some(Doubt::NeverBound)), (expected, is_doubted), "{volume:?}");
    }
    // What the volume recorded of its class or its claim says no more than the class.
    let records: [Change<Volume>; 2] = [
        |volume| volume.on_delete_of_claim = Some("delete".into()),
        |volume| volume.on_delete_of_class = Some(Fate::Delete),
    ];
    for record in records {
        let volume = mk_volume().with(|volume| (volume.created, volume.since) = (created, at(2))).with(record);
        let found = reclaim(&volume, None, &scope("/export"));
        assert!(matches!(found, VolumePlan::Reclaim { fate: Fate::Archive, .. }), "{found:?}");
    }
}

#[test]
fn a_volume_that_is_deleted_while_no_claim_has_it_is_let_go() {
    let deleted = |claim: Option<&str>| {
        let claim = claim.map(|uid| ClaimRef { namespace: "shop".into(), name: "data".into(), uid: uid.into() });
        let volume = mk_volume().with(|volume| (volume.deleting, volume.finalizer) = (true, true));
        volume.with(|volume| (volume.phase, volume.claim) = (Phase::Other, claim))
    };
    let not_released = VolumePlan::Ignore(VolumeIgnored::NotReleased);
    let rows = [
        (deleted(None), VolumePlan::LetGo),
        // It is kept for a claim that does not exist yet.
        (deleted(Some("")), VolumePlan::LetGo),
        // It is new, and its claim is just being bound to it.
        (deleted(Some("1")), not_released.clone()),
        (deleted(None).with(|volume| volume.deleting = false), not_released.clone()),
        (deleted(None).with(|volume| volume.finalizer = false), not_released.clone()),
        (deleted(None).with(|volume| volume.phase = Phase::Bound), not_released.clone()),
        (
            deleted(None).with(|volume| volume.provisioned_by = Some("other".into())),
            VolumePlan::Ignore(VolumeIgnored::Foreign),
        ),
    ];
    for (volume, expected) in rows {
        let may = Scope { may_patch: true.into(), ..scope("/export") };
        assert_eq!(reclaim(&volume, None, &may), expected, "{volume:?}");
        if expected == VolumePlan::LetGo {
            assert_eq!(reclaim(&volume, None, &scope("/export")), not_released, "{volume:?}");
        }
    }
}

/// Says how long what is left of a directory is kept: what it becomes, in the trash, as an archive, and the doubt.
fn kept(volume: &Volume, class: Option<&Class>) -> (Fate, Option<String>, Option<String>, Option<String>) {
    let VolumePlan::Reclaim { fate, retentions, doubt, .. } = reclaim(volume, class, &scope("/export")) else {
        panic!("{volume:?}")
    };
    let trash = retentions.trash.map(|keep| {
        let least = keep.min_free().map_or_else(String::new, |least| format!(" unless {least}"));
        format!("{}{least}", keep.retention())
    });
    (fate, trash, retentions.archive.map(|retention| retention.to_string()), doubt.map(|doubt| doubt.to_string()))
}

#[test]
fn the_class_says_how_long_data_is_kept_and_what_was_recorded_only_once_it_has_gone() {
    let with = |pairs: &[(&str, &str)]| mk_class(&[&[("onDelete", "delete")], pairs].concat());
    let (plain, long) = (with(&[]), with(&[("deleteRetention", "30d"), ("archiveRetention", "60d")]));
    let foreign = long.clone().with(|class| class.provisioner = "other".into());
    let least = with(&[("deleteRetention", "1h"), ("deleteRetentionMinFree", "10%")]);
    let recorded = || {
        mk_volume().with(|volume| {
            volume.on_delete_of_class = Some(Fate::Delete);
            volume.retention.delete = Some("7d".into());
            volume.retention.delete_min_free = Some("1024".into());
            volume.retention.archive = Some("8d".into());
        })
    };
    let unsure: Change<Volume> = |volume| volume.retention.delete_min_free = Some("much".into());
    let archive: Change<Volume> = |volume| volume.retention.archive = Some("soon".into());
    let ordered: Change<Volume> = |volume| volume.on_delete = Some("delete".into());
    let of_claim: Change<Volume> = |volume| volume.on_delete_of_claim = Some("delete".into());
    let rows = [
        (mk_volume(), Some(&plain), None, None),
        (mk_volume(), Some(&long), Some("30d"), Some("60d")),
        (mk_volume(), Some(&least), Some("1h unless 10%"), None),
        // Whoever decided the fate.
        (mk_volume().with(ordered), Some(&long), Some("30d"), Some("60d")),
        (mk_volume().with(of_claim), Some(&long), Some("30d"), Some("60d")),
        (recorded(), Some(&long), Some("30d"), Some("60d")),
        (recorded(), Some(&plain), None, None),
        (recorded(), Some(&foreign), Some("7d unless 1024"), Some("8d")),
        (recorded(), None, Some("7d unless 1024"), Some("8d")),
        (recorded().with(ordered), None, Some("7d unless 1024"), Some("8d")),
        // What cannot be read has nothing go earlier.
        (recorded().with(unsure), None, Some("7d"), Some("8d")),
        (recorded().with(archive), None, Some("7d unless 1024"), None),
    ];
    for (volume, class, trash, archive) in rows {
        let expected = (Fate::Delete, trash.map(str::to_owned), archive.map(str::to_owned), None);
        assert_eq!(kept(&volume, class), expected, "{volume:?} {class:?}");
    }
}

#[test]
fn where_it_is_in_doubt_how_long_what_is_deleted_is_kept_it_is_archived_for_ever() {
    let wrong = [
        mk_class(&[("onDelete", "delete"), ("deleteRetention", "30"), ("archiveRetention", "1d")]),
        mk_class(&[("onDelete", "delete"), ("delete-retention", "30d"), ("archiveRetention", "1d")]),
    ];
    let ordered: Change<Volume> = |volume| volume.on_delete = Some("delete".into());
    let of_claim: Change<Volume> = |volume| volume.on_delete_of_claim = Some("delete".into());
    let none: Change<Volume> = |_| {};
    for class in &wrong {
        for change in [none, ordered, of_claim] {
            let (fate, trash, archive, doubt) = kept(&mk_volume().with(change), Some(class));
            assert_eq!((fate, trash, archive), (Fate::Archive, None, None), "{class:?}");
            assert!(doubt.as_ref().is_some_and(|doubt| doubt.contains("deleteRetention")), "{doubt:?}");
        }
        // A volume records it, so that it is in doubt when the class has gone as well.
        let recorded = class.parameters.recorded_retention();
        let volume = mk_volume().with(of_claim).with(|volume| volume.retention = recorded.clone());
        let (fate, _, archive, doubt) = kept(&volume, None);
        assert_eq!((fate, archive), (Fate::Archive, None));
        assert!(
            doubt.as_ref().is_some_and(|doubt| doubt.contains("nfs-provisioner/delete-retention is")),
            "{doubt:?}"
        );
    }
    // Whatever else is in doubt has archives kept as well.
    let bad = mk_class(&[("onDelete", "keep"), ("archiveRetention", "1d")]);
    let (fate, _, archive, doubt) = kept(&mk_volume(), Some(&bad));
    assert_eq!((fate, archive, doubt.is_some()), (Fate::Archive, None, true));
    // What is retained or archived anyway is.
    let archive = mk_class(&[("onDelete", "archive"), ("archiveRetention", "1d")]);
    assert_eq!(kept(&mk_volume(), Some(&archive)), (Fate::Archive, None, Some("1d".into()), None));
    let retain = mk_class(&[("onDelete", "retain"), ("deleteRetention", "1")]);
    assert_eq!(kept(&mk_volume(), Some(&retain)).0, Fate::Retain);
}

#[test]
fn what_a_volume_records_of_how_long_data_is_kept_is_read_back() {
    let class =
        mk_class(&[("deleteRetention", "2w"), ("deleteRetentionMinFree", "1.5Gi"), ("archiveRetention", "90m")]);
    let (_, object) = provisioned(&mk_claim(), &class, "/export");
    let annotations = &object["metadata"]["annotations"];
    assert_eq!(annotations["nfs-provisioner/delete-retention"], "14d");
    assert_eq!(annotations["nfs-provisioner/delete-retention-min-free"], "1610612736");
    assert_eq!(annotations["nfs-provisioner/archive-retention"], "90m");
    let read = Volume::read(&serde_json::from_value(object).unwrap());
    assert_eq!(read.retention, class.parameters.recorded_retention());
    let (_, object) = provisioned(&mk_claim(), &mk_class(&[]), "/export");
    let read = Volume::read(&serde_json::from_value::<PersistentVolume>(object.clone()).unwrap());
    assert_eq!(read.retention, RecordedRetention::default(), "{object}");
}
