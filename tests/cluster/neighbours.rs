//! Directories that several volumes have a part in.

use std::fs;

use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use kube::api::Api;
use serde_json::json;

use crate::reclaim::{name_of, released};
use crate::support::eventually;
use crate::support::space::{Space, create, named};

const PATTERN: &str = "${.PVC.annotations.path}";

fn at(path: &str) -> serde_json::Value {
    json!({"metadata": {"annotations": {"path": path}}})
}

async fn volume(space: &Space, claim: &str) -> String {
    let volume = space.bound(claim).await;
    let directory = Space::directory(&volume);
    fs::write(space.at(&directory).join(format!("of-{claim}")), claim).unwrap();
    volume.metadata.name.unwrap()
}

/// Defects D5 and D6.
#[tokio::test]
async fn the_last_claim_to_go_decides_about_a_directory_that_is_shared_or_nested() {
    let rows = [("shared", ["x", "x"]), ("outer-first", ["x", "x/y"]), ("inner-first", ["x/y/z", "x"])];
    let space = Space::new().await;
    let _provisioner = space.start();
    for (name, [first, last]) in rows {
        let class = space
            .class(name, json!({"parameters": {"onDelete": "delete", "pathPattern": format!("{name}/{PATTERN}")}}))
            .await;
        let claims = [format!("{name}-first"), format!("{name}-last")];
        let mut volumes = Vec::new();
        for (claim, path) in claims.iter().zip([first, last]) {
            space.claim(claim, &class, at(path)).await;
            volumes.push(volume(&space, claim).await);
        }
        space.delete_claim(&claims[0]).await;
        space.gone(&volumes[0]).await;
        for (claim, path) in claims.iter().zip([first, last]) {
            let file = space.at(&format!("{name}/{path}/of-{claim}"));
            assert!(file.exists(), "{name}: {claim}'s data has gone with the first");
        }
        let message = space.event(&volumes[0], "VolumeDirectoryKept").await;
        assert!(message.contains(&volumes[1]) && message.contains("the last of them"), "{message}");
        space.delete_claim(&claims[1]).await;
        space.gone(&volumes[1]).await;
        assert!(!space.at(&format!("{name}/{last}")).exists(), "{name}: the last takes its directory with it");
    }
}

#[tokio::test]
async fn of_many_that_share_a_directory_and_go_at_once_one_takes_it() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete", "pathPattern": "shared"}})).await;
    let names: Vec<String> = (0..12).map(|number| format!("data-{number}")).collect();
    for name in &names {
        space.claim(name, &class, json!({})).await;
    }
    for name in &names {
        volume(&space, name).await;
    }
    futures::future::join_all(names.iter().map(|name| space.delete_claim(name))).await;
    eventually("all volumes to go", || async { space.volumes_of(&class).await.is_empty().then_some(()) }).await;
    assert!(!space.at("shared").exists());
}

#[tokio::test]
async fn a_volume_of_any_phase_and_maker_keeps_a_directory() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let by_hand = json!({
        "metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": null}},
        "spec": {"claimRef": null, "persistentVolumeReclaimPolicy": "Retain"},
    });
    let static_volume = released(&space, "static", "/export/team/inner", &class, by_hand).await;
    // It is Available, and was there first.
    space.phase(name_of(&static_volume), "Available").await;
    let outer = released(&space, "outer", "/export/team", &class, json!({})).await;
    space.gone(name_of(&outer)).await;
    assert!(space.at("team/inner/file").exists());
    assert!(space.at("team/file").exists());
}

/// Defects D3, D4 and D5 across namespaces.
#[tokio::test]
async fn a_directory_of_another_namespace_is_refused_without_naming_it_unless_allowed() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let other = format!("{}-other", space.namespace);
    create(&Api::all(space.client.clone()), named::<Namespace>(&other)).await;
    let strict = space.class("strict", json!({"parameters": {"pathPattern": PATTERN}})).await;
    let open = json!({"parameters": {"pathPattern": PATTERN, "shareAcrossNamespaces": "true"}});
    let open = space.class("open", open).await;
    space.claim_in(&other, "secret-name", &strict, at("their/data")).await;
    space.bound_in(&other, "secret-name").await;
    for (name, path) in [("same", "their/data"), ("above", "their"), ("beneath", "their/data/x")] {
        space.claim(name, &strict, at(path)).await;
        let message = space.event(name, "ProvisioningFailed").await;
        assert!(message.contains("shareAcrossNamespaces"), "{message}");
        assert!(!message.contains("secret-name") && !message.contains(&other), "{message}");
    }
    assert!(!space.at("their/data/x").exists());
    space.claim("allowed", &open, at("their/data")).await;
    space.bound("allowed").await;
    // What was refused is served when the other has gone, without anybody touching it.
    space.delete_claim("allowed").await;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(space.client.clone(), &other);
    claims.delete("secret-name", &Default::default()).await.unwrap();
    space.bound("above").await;
}

#[tokio::test]
async fn the_setting_of_the_process_allows_sharing_for_classes_that_cannot_be_changed() {
    let space = Space::new().await;
    let mut settings = space.settings();
    settings.environment.push(("SHARE_ACROSS_NAMESPACES".to_owned(), "true".to_owned()));
    let _provisioner = crate::support::process::Process::start(&settings);
    let other = format!("{}-other", space.namespace);
    create(&Api::all(space.client.clone()), named::<Namespace>(&other)).await;
    let class = space.class("nfs", json!({"parameters": {"pathPattern": "common"}})).await;
    space.claim("data", &class, json!({})).await;
    space.claim_in(&other, "data", &class, json!({})).await;
    space.bound("data").await;
    space.bound_in(&other, "data").await;
}

/// Two namespaces and names that make the same text between them.
#[tokio::test]
async fn default_directories_that_look_alike_are_different() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let longer = format!("{}-b", space.namespace);
    create(&Api::all(space.client.clone()), named::<Namespace>(&longer)).await;
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    space.claim("b-c", &class, json!({})).await;
    space.claim_in(&longer, "c", &class, json!({})).await;
    let [first, second] = [space.bound("b-c").await, space.bound_in(&longer, "c").await];
    let (one, two) = (Space::directory(&first), Space::directory(&second));
    let start = format!("{}-b-c-pvc-", space.namespace);
    assert!(one.starts_with(&start) && two.starts_with(&start) && one != two, "{one} {two}");
    space.delete_claim("b-c").await;
    space.gone(name_of(&first)).await;
    assert!(!space.at(&one).exists() && space.at(&two).exists());
}

#[tokio::test]
async fn a_volume_deleted_while_bound_stays_until_its_claim_goes_and_is_reclaimed_then() {
    let space = Space::new().await;
    let provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    space.claim("data", &class, json!({})).await;
    let volume = space.bound("data").await;
    let finalizers = volume.metadata.finalizers.clone().unwrap_or_default();
    assert!(finalizers.iter().any(|name| name.ends_with("/finalizer")), "{finalizers:?}");
    space.volumes().delete(name_of(&volume), &Default::default()).await.unwrap();
    // Not even a restart forgets it.
    assert!(provisioner.stop().success());
    space.delete_claim("data").await;
    space.phase(name_of(&volume), "Released").await;
    let _provisioner = space.start();
    space.gone(name_of(&volume)).await;
    assert!(space.entries().is_empty(), "{:?}", space.entries());
}

#[tokio::test]
async fn without_the_right_to_patch_a_volume_deleted_while_bound_is_reclaimed_from_memory() {
    let space = Space::on(crate::support::plane::Plane::shared(), crate::rights::rules_of_the_peer()).await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    space.claim("data", &class, json!({})).await;
    let volume = space.bound("data").await;
    assert_eq!(volume.metadata.finalizers.clone().unwrap(), ["kubernetes.io/pv-protection"]);
    space.volumes().delete(name_of(&volume), &Default::default()).await.unwrap();
    assert!(space.at(&Space::directory(&volume)).exists());
    space.delete_claim("data").await;
    space.gone(name_of(&volume)).await;
    eventually("the directory to go", || async { (!space.at(&Space::directory(&volume)).exists()).then_some(()) })
        .await;
}

#[tokio::test]
async fn bound_volumes_of_the_peer_get_the_finalizer_and_lose_it_with_the_policy() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({})).await;
    fs::create_dir(space.at("old")).unwrap();
    let by_the_peer = json!({"spec": {"claimRef": {"name": "data", "uid": null}}});
    let old = released(&space, "data", "/export/old", &class, by_the_peer).await;
    let prebound = json!({"spec": {"volumeName": name_of(&old)}});
    space.claim("data", &class, prebound).await;
    space.bound("data").await;
    let has = |volume: &PersistentVolume| {
        volume.metadata.finalizers.iter().flatten().any(|name| name.starts_with("external-provisioner."))
    };
    let volumes = space.volumes();
    eventually("the finalizer", || async { has(&volumes.get(name_of(&old)).await.ok()?).then_some(()) }).await;
    space.patch(&volumes, name_of(&old), json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})).await;
    eventually("no finalizer", || async { (!has(&volumes.get(name_of(&old)).await.ok()?)).then_some(()) }).await;
}

#[tokio::test]
async fn an_admins_annotation_beats_the_class_and_a_record_replaces_it() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let delete = space.class("delete", json!({"parameters": {"onDelete": "delete"}})).await;
    let retain = space.class("retain", json!({"parameters": {"onDelete": "retain"}})).await;
    for (name, class) in [("annotated", &delete), ("recorded", &retain)] {
        space.claim(name, class, json!({})).await;
    }
    let [annotated, recorded] = [space.bound("annotated").await, space.bound("recorded").await];
    let annotation = json!({"metadata": {"annotations": {"nfs-provisioner/on-delete": "retain"}}});
    space.patch(&space.volumes(), name_of(&annotated), annotation).await;
    // Where there is no class of that name, what was recorded on the volume decides; a class that is there decides by
    // what it says now.
    space.classes().delete(&retain, &Default::default()).await.unwrap();
    for (claim, volume) in [("annotated", &annotated), ("recorded", &recorded)] {
        space.delete_claim(claim).await;
        space.gone(name_of(volume)).await;
        assert!(space.at(&Space::directory(volume)).exists(), "{claim}");
    }
}

#[tokio::test]
async fn a_command_takes_the_finalizers_off_before_a_rollback() {
    let space = Space::new().await;
    let provisioner = space.start();
    let class = space.class("nfs", json!({})).await;
    for name in ["one", "two"] {
        space.claim(name, &class, json!({})).await;
        space.bound(name).await;
    }
    assert!(provisioner.stop().success());
    let settings = space.settings();
    let output = std::process::Command::new(&settings.binary)
        .arg("remove-finalizers")
        .env_clear()
        .env("KUBECONFIG", &settings.kubeconfig)
        .env("PROVISIONER_NAME", &settings.provisioner)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("off 2 volumes"), "{said}");
    for volume in space.volumes_of(&class).await {
        assert_eq!(volume.metadata.finalizers.unwrap(), ["kubernetes.io/pv-protection"]);
    }
}

/// The claims of a StatefulSet are made again under their names.
#[tokio::test]
async fn a_claim_that_is_made_again_gets_a_new_directory_if_the_old_one_is_to_go() {
    let space = Space::new().await;
    let provisioner = space.start();
    let rows = [("archived", json!({}), true), ("deleted", json!({"onDelete": "delete"}), false)];
    let mut volumes = Vec::new();
    for (name, parameters, _) in &rows {
        let mut parameters = parameters.clone();
        parameters["pathPattern"] = json!("again/${.PVC.name}");
        let class = space.class(name, json!({"parameters": parameters})).await;
        space.claim(name, &class, json!({})).await;
        let name = volume(&space, name).await;
        volumes.push((name, class));
    }
    // While somebody runs, who may hear of the new claim before the old volume is released; and while nobody does.
    space.delete_claim("deleted").await;
    space.claim_gone("deleted").await;
    space.claim("deleted", &volumes[1].1, json!({})).await;
    space.gone(&volumes[1].0).await;
    assert!(provisioner.stop().success());
    space.delete_claim("archived").await;
    space.phase(&volumes[0].0, "Released").await;
    space.claim_gone("archived").await;
    space.claim("archived", &volumes[0].1, json!({})).await;
    let _provisioner = space.start();
    for ((name, _, is_archived), (old, _)) in rows.iter().zip(&volumes) {
        let new = space.bound(name).await;
        space.gone(old).await;
        let directory = space.at(&Space::directory(&new));
        assert_eq!(fs::read_dir(directory).unwrap().count(), 0, "{name} sees the old files");
        let archive = space.at(&format!("archived-{name}")).join(format!("of-{name}"));
        assert_eq!(archive.exists(), *is_archived, "{name}");
    }
}

#[tokio::test]
async fn a_claim_that_is_made_again_gets_what_was_kept_for_it() {
    let space = Space::new().await;
    let provisioner = space.start();
    let parameters = json!({"onDelete": "retain", "pathPattern": "kept-of/${.PVC.name}"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    space.claim("data", &class, json!({})).await;
    let old = volume(&space, "data").await;
    assert!(provisioner.stop().success());
    space.delete_claim("data").await;
    space.phase(&old, "Released").await;
    space.claim_gone("data").await;
    space.claim("data", &class, json!({})).await;
    let _provisioner = space.start();
    space.bound("data").await;
    space.gone(&old).await;
    assert_eq!(fs::read_to_string(space.at("kept-of/data/of-data")).unwrap(), "data");
}

/// What is in its way may take long to go.
#[tokio::test]
async fn a_claim_says_for_which_volume_it_waits_and_how_to_keep_its_data() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let parameters = json!({"onDelete": "delete", "pathPattern": "waits-of/${.PVC.name}"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    space.claim("data", &class, json!({})).await;
    let old = volume(&space, "data").await;
    let out_of_reach = space.out_of_reach("waits-of");
    space.delete_claim("data").await;
    space.event(&old, "VolumeFailedDelete").await;
    space.claim_gone("data").await;
    space.claim("data", &class, json!({})).await;
    let message = space.event("data", "ProvisioningFailed").await;
    assert!(message.contains(&old) && message.contains("nfs-provisioner/on-delete: retain"), "{message}");
    // Before it can be removed.
    let retain = json!({"metadata": {"annotations": {"nfs-provisioner/on-delete": "retain"}}});
    space.patch(&space.volumes(), &old, retain).await;
    drop(out_of_reach);
    space.bound("data").await;
    assert_eq!(fs::read_to_string(space.at("waits-of/data/of-data")).unwrap(), "data");
}
