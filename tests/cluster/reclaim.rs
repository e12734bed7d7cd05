//! Volumes whose claims have gone.

use std::fs;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::DeleteParams;
use nfs_provisioner::model::volume::FINALIZER;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::space::{PATH, SERVER, Space, create, from_json, merge};

/// What is left of a claim's directory and volume.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Left {
    Archived,
    Nothing,
    Directory,
    DirectoryAndVolume,
}

#[tokio::test]
async fn the_class_decides_what_is_left() {
    use Left::{Archived, Directory, DirectoryAndVolume, Nothing};
    let rows: [(&str, Value, Left); 13] = [
        ("unset", json!({}), Archived),
        ("archive-true", json!({"archiveOnDelete": "true"}), Archived),
        ("archive-t", json!({"archiveOnDelete": "t"}), Archived),
        ("archive-empty", json!({"archiveOnDelete": ""}), Archived),
        ("archive-false", json!({"archiveOnDelete": "false"}), Nothing),
        ("archive-0", json!({"archiveOnDelete": "0"}), Nothing),
        ("delete", json!({"onDelete": "delete"}), Nothing),
        ("delete-archive", json!({"onDelete": "delete", "archiveOnDelete": "true"}), Nothing),
        ("retain", json!({"onDelete": "retain"}), Directory),
        ("retain-capital", json!({"onDelete": "Retain", "archiveOnDelete": "false"}), Directory),
        ("retain-no-archive", json!({"onDelete": "retain", "archiveOnDelete": "false"}), Directory),
        ("archive", json!({"onDelete": "archive", "archiveOnDelete": "false"}), Archived),
        ("policy-retain", json!({"onDelete": "delete"}), DirectoryAndVolume),
    ];
    let space = Space::new().await;
    let _provisioner = space.start();
    let mut volumes = Vec::new();
    for (name, parameters, left) in &rows {
        let policy = if *left == DirectoryAndVolume { "Retain" } else { "Delete" };
        let class = space.class(name, json!({"parameters": parameters, "reclaimPolicy": policy})).await;
        space.claim(name, &class, json!({})).await;
    }
    for (name, ..) in &rows {
        let volume = space.bound(name).await;
        let directory = Space::directory(&volume);
        fs::create_dir(space.at(&directory).join("sub")).unwrap();
        fs::write(space.at(&directory).join("sub/file"), *name).unwrap();
        volumes.push((volume.metadata.name.unwrap(), directory));
        space.delete_claim(name).await;
    }
    for ((name, _, left), (volume, directory)) in rows.iter().zip(&volumes) {
        match left {
            DirectoryAndVolume => space.phase(volume, "Released").await,
            Archived | Nothing | Directory => space.gone(volume).await,
        }
        let found = |path: &str| fs::read_to_string(space.at(path).join("sub/file")).ok();
        let archive = found(&format!("archived-{directory}"));
        let content = Some((*name).to_owned());
        let expected = match left {
            Archived => (None, content),
            Nothing => (None, None),
            Directory | DirectoryAndVolume => (content, None),
        };
        assert_eq!((found(directory), archive), expected, "{name}");
    }
    let archives = rows.iter().filter(|(.., left)| *left == Archived).count();
    let kept = rows.iter().filter(|(.., left)| matches!(left, Directory | DirectoryAndVolume)).count();
    assert_eq!(space.entries().len(), archives + kept, "{:?}", space.entries());
}

/// Makes a Released volume by hand, as upstream leaves them, and its directory with a file in it if `path` is one
/// beneath the export.
pub(crate) async fn released(
    space: &Space,
    name: &str,
    path: &str,
    class: &str,
    change: Value,
) -> PersistentVolume {
    let mut volume = json!({
        "metadata": {
            "name": format!("{}-{name}", space.namespace),
            "annotations": {"pv.kubernetes.io/provisioned-by": space.provisioner},
        },
        "spec": {
            "accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Mi"}, "storageClassName": class,
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": space.namespace, "name": name,
                "uid": "00000000-0000-0000-0000-000000000000",
            },
            "nfs": {"server": SERVER, "path": path},
        },
    });
    merge(&mut volume, change);
    let beneath = path
        .strip_prefix(&format!("{PATH}/"))
        .filter(|beneath| beneath.chars().any(char::is_alphabetic) && !beneath.contains(".."));
    if let Some(beneath) = beneath {
        fs::create_dir_all(space.at(beneath)).unwrap();
        fs::write(space.at(beneath).join("file"), name).unwrap();
    }
    create(&space.volumes(), from_json(volume)).await
}

/// Makes such a volume, and has a claim bound to it and then deleted, for a provisioner to see.
async fn let_go(space: &Space, name: &str, path: &str, class: &str, change: Value) -> PersistentVolume {
    let volume = format!("{}-{name}", space.namespace);
    let claim = space.claim(name, class, json!({"spec": {"volumeName": volume}})).await;
    let mut of_claim = json!({"spec": {"claimRef": {"uid": claim.metadata.uid}}});
    merge(&mut of_claim, change);
    let volume = released(space, name, path, class, of_claim).await;
    space.phase(name_of(&volume), "Bound").await;
    space.delete_claim(name).await;
    volume
}

pub(crate) fn name_of(volume: &PersistentVolume) -> &str {
    volume.metadata.name.as_deref().unwrap()
}

/// A claim that is there and Bound to a volume at one path, and another volume, which names the claim as its own.
async fn bound_elsewhere(
    space: &Space,
    class: &str,
    name: &str,
    [its_own, another]: [&str; 2],
    change: Value,
) -> PersistentVolume {
    let claim = space.claim(name, class, json!({})).await;
    let claim_ref = json!({"name": name, "uid": claim.metadata.uid});
    let by_hand = json!({
        "metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": null}},
        "spec": {"persistentVolumeReclaimPolicy": "Retain", "claimRef": claim_ref},
    });
    let taken = released(space, name, &format!("{PATH}/{its_own}"), class, by_hand).await;
    assert_eq!(name_of(&space.bound(name).await), name_of(&taken));
    let own = format!("pvc-{}", claim.metadata.uid.unwrap());
    let mut own = json!({"metadata": {"name": own}, "spec": {"claimRef": claim_ref}});
    merge(&mut own, change);
    let volume = released(space, name, &format!("{PATH}/{another}"), class, own).await;
    space.phase(name_of(&volume), "Released").await;
    volume
}

/// The controller manager calls a volume of ours released, too, whose claim is Bound to another one. What a claim is
/// bound to never changes, so it never had that volume.
#[tokio::test]
async fn a_volume_whose_claim_is_bound_to_another_goes_and_nothing_of_the_other_does() {
    let space = Space::new().await;
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let apart = Box::pin(bound_elsewhere(&space, &class, "apart", ["used", "spare"], json!({}))).await;
    let shared = Box::pin(bound_elsewhere(&space, &class, "shared", ["both", "both/inner"], json!({}))).await;
    // A name without the claim's uid does not tell whose the volume was.
    let renamed = json!({"metadata": {"name": format!("{}-own", space.namespace)}});
    let renamed = Box::pin(bound_elsewhere(&space, &class, "renamed", ["third", "other"], renamed)).await;
    let provisioner = space.start();

    // Nobody has seen it bound, so it might have been restored from a backup.
    space.gone(name_of(&apart)).await;
    assert!(space.at("archived-spare/file").exists() && space.at("used/file").exists());
    space.event(name_of(&shared), "VolumeDirectoryKept").await;
    space.gone(name_of(&shared)).await;
    assert!(space.at("both/file").exists() && space.at("both/inner/file").exists());
    let words = "counts as released, but its claim exists";
    let says_so = |line: &str| line.contains(words) && line.contains(name_of(&renamed));
    eventually("the living claim to be found", || async { provisioner.log().lines().any(says_so).then_some(()) })
        .await;
    space.phase(name_of(&renamed), "Released").await;
    assert!(space.at("other/file").exists() && space.at("third/file").exists());
    for name in ["apart", "shared", "renamed"] {
        space.bound(name).await;
    }
    space.volumes().delete(name_of(&renamed), &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn volumes_of_the_peer_are_reclaimed_by_the_same_rules() {
    let space = Space::new().await;
    let provisioner = space.start();
    // It sees all from here on.
    eventually("it to lead", || async { provisioner.log().contains("leading").then_some(()) }).await;
    let archive = space.class("archive", json!({})).await;
    let delete = space.class("delete", json!({"parameters": {"archiveOnDelete": "false"}})).await;
    // The older annotation names the class instead of the field.
    let beta = json!({
        "metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": delete}},
        "spec": {"storageClassName": archive},
    });
    let volumes = vec![
        released(&space, "flat", "/export/ns-flat-pvc-1", &archive, json!({})).await,
        released(&space, "nested", "/export/team/nested", &archive, json!({})).await,
        let_go(&space, "deleted", "/export/team/deleted", &delete, json!({})).await,
        let_go(&space, "beta", "/export/team/beta", &archive, beta).await,
        let_go(&space, "uncleaned", "/export//team/./uncleaned/", &delete, json!({})).await,
    ];
    for volume in &volumes {
        space.gone(name_of(volume)).await;
    }
    assert_eq!(space.entries(), ["archived-nested", "archived-ns-flat-pvc-1", "team"]);
    assert_eq!(fs::read_dir(space.at("team")).unwrap().count(), 0);
}

/// As one whose `claimRef` an admin has removed, so that it can be used again, and that is then deleted after all.
#[tokio::test]
async fn a_volume_that_is_deleted_while_no_claim_has_it_goes_and_its_directory_stays() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let free = json!({"metadata": {"finalizers": [FINALIZER]}, "spec": {"claimRef": null}});
    let volume = released(&space, "free", "/export/free", &class, free).await;
    space.phase(name_of(&volume), "Available").await;
    space.volumes().delete(name_of(&volume), &DeleteParams::default()).await.unwrap();
    space.gone(name_of(&volume)).await;
    let message = space.event(name_of(&volume), "VolumeDirectoryKept").await;
    assert!(message.contains("\"/export/free\"") && message.contains("while no claim had it"), "{message}");
    assert_eq!(fs::read_to_string(space.at("free/file")).unwrap(), "free");
}

#[tokio::test]
async fn an_archive_never_overwrites_another() {
    let space = Space::new().await;
    let provisioner = space.start();
    let class = space.class("nfs", json!({})).await;
    for (name, path) in [("first", "/export/a/data"), ("second", "/export/b/data"), ("third", "/export/c/data")] {
        let volume = released(&space, name, path, &class, json!({})).await;
        space.gone(name_of(&volume)).await;
    }
    let mut contents: Vec<String> =
        space.entries().iter().filter_map(|entry| fs::read_to_string(space.at(entry).join("file")).ok()).collect();
    contents.sort();
    assert_eq!(contents, ["first", "second", "third"], "{}", provisioner.log());
    // Their names tell of the last component only; whose they were is noted.
    let note = fs::read_to_string(space.at(".nfs-provisioner-archives/archived-data")).unwrap();
    assert!(note.contains("\"directory\":\"a/data\"") && note.contains(&space.namespace), "{note}");
}

#[tokio::test]
async fn a_bad_value_met_at_deletion_destroys_nothing_and_is_said() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let rows = [
        ("on-delete", json!({"onDelete": "true"}), "onDelete"),
        ("archive", json!({"archiveOnDelete": "no"}), "archiveOnDelete"),
        ("both", json!({"onDelete": "x", "archiveOnDelete": "no"}), "onDelete"),
        // Whatever else is set.
        ("keep", json!({"onDelete": "keep", "archiveOnDelete": "false"}), "onDelete"),
        ("spelling", json!({"ondelete": "retain", "archiveOnDelete": "false"}), "onDelete"),
    ];
    for (name, parameters, named) in rows {
        let class = space.class(name, json!({"parameters": parameters})).await;
        let volume = released(&space, name, &format!("/export/{name}"), &class, json!({})).await;
        space.gone(name_of(&volume)).await;
        assert!(space.at(&format!("archived-{name}")).join("file").exists(), "{name}");
        let message = space.event(name_of(&volume), "VolumeReclaimUnclear").await;
        assert!(message.contains(named), "{message}");
    }
}

#[tokio::test]
async fn a_volume_whose_class_has_gone_is_archived() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let volume = released(&space, "data", "/export/data", "no-such-class", json!({})).await;
    space.gone(name_of(&volume)).await;
    assert!(space.at("archived-data/file").exists());
    let message = space.event(name_of(&volume), "VolumeReclaimUnclear").await;
    assert!(message.contains("no-such-class"), "{message}");
}

#[tokio::test]
async fn hostile_volumes_are_left_alone_and_said_once() {
    let space = Space::new().await;
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    fs::create_dir_all(space.at("innocent")).unwrap();
    fs::write(space.at("innocent/file"), "data").unwrap();
    fs::create_dir_all(space.at("../exportX/innocent")).unwrap();
    let local = json!({"spec": {"nfs": null, "hostPath": {"path": "/export/innocent"}}});
    let rows = [
        ("outside", "/other/innocent", json!({})),
        ("above", "/", json!({})),
        ("equal", PATH, json!({})),
        ("equal-slash", "/export/", json!({})),
        ("equal-dots", "/export/./", json!({})),
        ("climbs", "/export/../exportX/innocent", json!({})),
        ("climbs-back", "/export/innocent/../../exportX", json!({})),
        ("climbs-to-top", "/export/innocent/..", json!({})),
        ("sibling", "/exportX/innocent", json!({})),
        ("our-trash", "/export/.nfs-provisioner-trash", json!({})),
        ("in-our-trash", "/export/.nfs-provisioner-trash/x", json!({})),
        ("other-server", "/export/innocent", json!({"spec": {"nfs": {"server": "other.test.invalid"}}})),
        ("not-nfs", "/export/innocent", local),
    ];
    let mut volumes = Vec::new();
    for (name, path, patch) in rows {
        volumes.push(released(&space, name, path, &class, patch).await);
    }
    fs::write(space.at("innocent/file"), "data").unwrap();
    let mut provisioner = space.start();
    for volume in &volumes {
        let message = space.event(name_of(volume), "VolumeFailedDelete").await;
        assert!(message.starts_with("not reclaimed: "), "{message}");
    }
    // Touching them changes nothing, and they do not stop the others.
    for volume in &volumes {
        space.patch(&space.volumes(), name_of(volume), json!({"metadata": {"labels": {"touched": "yes"}}})).await;
    }
    let ordered = json!({"metadata": {"annotations": {"nfs-provisioner/on-delete": "delete"}}});
    let good = released(&space, "good", "/export/good", &class, ordered).await;
    space.gone(name_of(&good)).await;
    for volume in &volumes {
        let kept = space.volumes().get(name_of(volume)).await.unwrap();
        assert_eq!(kept.status.unwrap().phase.unwrap(), "Released");
        assert_eq!(space.events(name_of(volume), "VolumeFailedDelete").await.len(), 1, "{}", name_of(volume));
    }
    assert_eq!(fs::read_to_string(space.at("innocent/file")).unwrap(), "data");
    assert!(space.at("../exportX/innocent").exists());
    assert_eq!(space.entries(), ["innocent"]);
    assert!(provisioner.is_running());
}

#[tokio::test]
async fn others_volumes_and_claims_are_not_touched() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let foreign = json!({"provisioner": "foreign.example.com/nfs"});
    let foreign = space.class("foreign", foreign).await;
    let by = |name: Value| json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": name}}});
    let volumes = [
        released(&space, "foreign", "/export/foreign", &class, by(json!("foreign.example.com/nfs"))).await,
        released(&space, "nobodys", "/export/nobodys", &class, by(Value::Null)).await,
        released(
            &space,
            "kept",
            "/export/kept",
            &class,
            json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}),
        )
        .await,
    ];
    space.claim("foreign", &foreign, json!({})).await;
    let ordered = json!({"metadata": {"annotations": {"nfs-provisioner/on-delete": "delete"}}});
    let good = released(&space, "good", "/export/good", &class, ordered).await;
    space.gone(name_of(&good)).await;
    for volume in &volumes {
        // The controller manager fails those that nobody provisioned; that is none of our business.
        assert!(space.volumes().get(name_of(volume)).await.unwrap().metadata.deletion_timestamp.is_none());
        assert!(space.events(name_of(volume), "VolumeFailedDelete").await.is_empty());
    }
    assert_eq!(space.entries(), ["foreign", "kept", "nobodys"]);
    assert!(space.events("foreign", "ProvisioningFailed").await.is_empty());
}

#[tokio::test]
async fn a_failed_reclaim_is_tried_again_when_the_volume_is_touched() {
    let space = Space::new().await;
    let provisioner = space.start();
    let class = space.class("nfs", json!({})).await;
    fs::create_dir(space.at("link")).unwrap();
    let out_of_reach = space.out_of_reach("link");
    let volume = released(&space, "data", "/export/link/data", &class, json!({})).await;
    let message = space.event(name_of(&volume), "VolumeFailedDelete").await;
    assert!(message.contains("symbolic link"), "{message}");
    // Let it fail until it waits for long.
    eventually("several tries", || async {
        (provisioner.log().matches("failed to archive the directory").count() >= 5).then_some(())
    })
    .await;
    drop(out_of_reach);
    let started = std::time::Instant::now();
    space.patch(&space.volumes(), name_of(&volume), json!({"metadata": {"labels": {"touched": "yes"}}})).await;
    space.gone(name_of(&volume)).await;
    assert!(started.elapsed().as_secs() < 3, "{:?}", started.elapsed());
    assert!(space.at("archived-data/file").exists());
}

#[tokio::test]
async fn an_admin_may_change_a_volumes_policy_at_any_time() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({"reclaimPolicy": "Retain", "parameters": {"onDelete": "delete"}})).await;
    space.claim("data", &class, json!({})).await;
    let volume = space.bound("data").await;
    space.delete_claim("data").await;
    space.phase(name_of(&volume), "Released").await;
    assert_eq!(space.entries().len(), 1);
    let policy = json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}});
    space.patch(&space.volumes(), name_of(&volume), policy).await;
    space.gone(name_of(&volume)).await;
    assert!(space.entries().is_empty());
    space.classes().delete(&class, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn what_is_deleted_is_in_the_trash_at_once_and_gone_soon() {
    let space = Space::new().await;
    let provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    space.claim("data", &class, json!({})).await;
    let volume = space.bound("data").await;
    let directory = Space::directory(&volume);
    for number in 0..50 {
        fs::create_dir(space.at(&format!("{directory}/{number}"))).unwrap();
        fs::write(space.at(&format!("{directory}/{number}/file")), "data").unwrap();
    }
    space.delete_claim("data").await;
    space.gone(name_of(&volume)).await;
    assert!(!space.at(&directory).exists());
    let trash = space.at(".nfs-provisioner-trash");
    eventually("the trash to be empty", || async { (fs::read_dir(&trash).ok()?.count() == 0).then_some(()) })
        .await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&trash).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    drop(provisioner);
}

#[tokio::test]
async fn a_claim_chooses_what_becomes_of_its_data_when_it_is_made_and_an_admin_beats_it() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let parameters = json!({"onDelete": "delete", "claimOnDelete": "archive,retain"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    let wanting = |fate: &str| json!({"metadata": {"annotations": {"nfs-provisioner/on-delete": fate}}});
    for (claim, patch) in [
        ("plain", json!({})),
        ("archived", wanting("archive")),
        ("retained", wanting("retain")),
        ("changed", wanting("retain")),
        ("overruled", wanting("retain")),
    ] {
        space.claim(claim, &class, patch).await;
    }
    let mut directories = Vec::new();
    for claim in ["plain", "archived", "retained", "changed", "overruled"] {
        let volume = space.bound(claim).await;
        directories.push((claim, Space::directory(&volume), volume));
    }
    // What the claim says later counts for nothing; what an admin says on the volume does.
    space.patch(&space.api::<PersistentVolumeClaim>(), "changed", wanting("archive")).await;
    space.patch(&space.volumes(), name_of(&directories[4].2), wanting("delete")).await;
    let mut left = Vec::new();
    for (claim, directory, volume) in &directories {
        space.delete_claim(claim).await;
        space.gone(name_of(volume)).await;
        match *claim {
            "archived" => left.push(format!("archived-{directory}")),
            "retained" | "changed" => left.push(directory.clone()),
            _ => {}
        }
    }
    left.sort();
    assert_eq!(space.entries(), left);
}

/// A backup's volumes come back without their claims, or before them.
#[tokio::test]
async fn a_restored_volume_keeps_its_data_and_says_how_to_have_it_removed() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let volume = released(&space, "data", "/export/data", &class, json!({})).await;
    space.gone(name_of(&volume)).await;
    assert_eq!(fs::read_to_string(space.at("archived-data/file")).unwrap(), "data");
    let message = space.event(name_of(&volume), "VolumeReclaimUnclear").await;
    assert!(message.contains("restored from a backup") && message.contains("remove the archive"), "{message}");
    // One that an admin has marked goes as it is told to.
    let ordered = json!({"metadata": {"annotations": {"nfs-provisioner/on-delete": "delete"}}});
    let volume = released(&space, "marked", "/export/marked", &class, ordered).await;
    space.gone(name_of(&volume)).await;
    assert_eq!(space.entries(), ["archived-data"]);
}
