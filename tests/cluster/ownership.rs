//! Whose volumes' directories are: modes, owners, and groups of their own. Groups are the whole cluster's, so each test
//! has a range of its own.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::Api;
use serde_json::{Value, json};

use crate::reclaim::{name_of, released};
use crate::support::eventually;
use crate::support::process::Process;
use crate::support::space::{Space, annotations};

const GID: &str = "pv.beta.kubernetes.io/gid";

/// A directory's mode, owner and group.
fn stat(space: &Space, directory: &str) -> (u32, u32, u32) {
    let found = fs::metadata(space.at(directory)).unwrap();
    (found.mode() & 0o7777, found.uid(), found.gid())
}

/// The group that a volume's Pods get.
fn group(volume: &PersistentVolume) -> Option<u32> {
    annotations(&volume.metadata).get(GID).map(|gid| gid.parse().unwrap())
}

fn named(annotation: &str, value: &str) -> Value {
    json!({"metadata": {"annotations": {annotation: value}}})
}

#[tokio::test]
async fn directories_are_as_their_class_and_their_claims_say() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let parameters = json!({"directoryMode": "2750", "directoryUid": "1000", "claimOwnership": "gid,mode"});
    let class = space.class("owned", json!({"parameters": parameters})).await;
    let rows = [
        ("plain", json!({}), (0o2750, 1000, 0)),
        ("grouped", named("nfs-provisioner/directory-gid", "2000"), (0o2750, 1000, 2000)),
        ("open", named("nfs-provisioner/directory-mode", "0755"), (0o755, 1000, 0)),
    ];
    for (name, patch, _) in &rows {
        space.claim(name, &class, patch.clone()).await;
    }
    for (name, _, expected) in rows {
        let volume = space.bound(name).await;
        assert_eq!(stat(&space, &Space::directory(&volume)), expected, "{name}");
        assert_eq!(group(&volume), None, "it is the Pod's business to have that group");
    }
    // A claim that says too much is served when it says less.
    space.claim("greedy", &class, named("nfs-provisioner/directory-uid", "0")).await;
    space.event("greedy", "ProvisioningFailed").await;
    let claims: Api<PersistentVolumeClaim> = space.api();
    space.patch(&claims, "greedy", named("nfs-provisioner/directory-uid", "")).await;
    space.bound("greedy").await;
}

#[tokio::test]
async fn a_directory_that_is_there_is_changed_or_kept_as_the_class_says() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let pattern = "${.SC.name}/${.PVC.name}";
    let rows = [
        ("kept", json!({"adoptAsIs": "true"}), (0o700, 7, 8)),
        ("kept-closed", json!({"adoptAsIs": "true", "directoryMode": "0777", "directoryUid": "1"}), (0o700, 7, 8)),
        ("changed", json!({"directoryMode": "0750", "directoryUid": "1000"}), (0o750, 1000, 8)),
        ("opened", json!({"directoryGid": "9"}), (0o777, 7, 9)),
    ];
    for (name, mut parameters, expected) in rows {
        parameters["pathPattern"] = json!(pattern);
        let class = space.class(name, json!({"parameters": parameters})).await;
        let directory = format!("{class}/data-{name}");
        fs::create_dir_all(space.at(&directory)).unwrap();
        chown(space.at(&directory), Some(7), Some(8)).unwrap();
        fs::set_permissions(space.at(&directory), fs::Permissions::from_mode(0o700)).unwrap();
        space.claim(&format!("data-{name}"), &class, json!({})).await;
        space.bound(&format!("data-{name}")).await;
        assert_eq!(stat(&space, &directory), expected, "{name}");
        // One that is not there is made as it is to be.
        if name == "kept" {
            space.claim("new", &class, json!({})).await;
            space.bound("new").await;
            assert_eq!(stat(&space, &format!("{class}/new")), (0o777, 0, 0));
        }
    }
}

#[tokio::test]
async fn each_volume_has_a_group_of_its_own_whatever_happens_to_the_provisioner() {
    let space = Space::new().await;
    let mut settings = space.settings();
    settings.environment.push(("ENABLE_LEADER_ELECTION".to_owned(), "false".to_owned()));
    let class = space.class("nfs", json!({"parameters": {"gidRange": "51000-51039", "onDelete": "delete"}})).await;
    // Somebody else's counts, too.
    let by_hand = json!({
        "metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": null, GID: "51003"}},
        "spec": {"claimRef": null, "persistentVolumeReclaimPolicy": "Retain"},
    });
    released(&space, "by-hand", "/elsewhere/x", "by-hand", by_hand).await;
    let names: Vec<String> = (0..39).map(|number| format!("data-{number}")).collect();
    let mut provisioner = Process::start(&settings);
    for (number, name) in names.iter().enumerate() {
        space.claim(name, &class, json!({})).await;
        if number % 13 == 12 {
            // Killed in the middle of its work: it takes so long to start.
            tokio::time::sleep(std::time::Duration::from_millis(fastrand::u64(200..400))).await;
            drop(provisioner);
            provisioner = Process::start(&settings);
        }
    }
    let mut groups = BTreeSet::from([51_003]);
    for name in &names {
        let volume = space.bound(name).await;
        let gid = group(&volume).unwrap();
        assert_eq!(stat(&space, &Space::directory(&volume)), (0o2770, 0, gid), "{name}");
        assert!(groups.insert(gid), "{gid} is given out twice");
    }
    assert_eq!(groups, (51_000..=51_039).collect::<BTreeSet<_>>(), "the whole range");

    // There is none left, until a volume goes.
    space.claim("late", &class, json!({})).await;
    let message = space.event("late", "ProvisioningFailed").await;
    assert!(message.contains("gidRange") && message.contains("51000-51039"), "{message}");
    let gone = space.bound("data-7").await;
    space.delete_claim("data-7").await;
    assert_eq!(group(&space.bound("late").await), group(&gone));
}

#[tokio::test]
async fn volumes_that_share_a_directory_share_its_group() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let pattern = "${.PVC.namespace}/${.PVC.annotations.path}";
    let stat = |path: &str| stat(&space, &format!("{}/{path}", space.namespace));
    let at = |path: &str| named("path", path);
    let grouped = json!({"gidRange": "52000-52001", "pathPattern": pattern, "onDelete": "delete"});
    let grouped = space.class("grouped", json!({"parameters": grouped})).await;
    let plain = json!({"pathPattern": pattern, "onDelete": "delete", "directoryMode": "0777"});
    let plain = space.class("plain", json!({"parameters": plain})).await;
    for name in ["a", "b", "c"] {
        space.claim(name, &grouped, at("shared")).await;
    }
    let first = space.bound("a").await;
    let gid = group(&first).unwrap();
    for name in ["b", "c"] {
        assert_eq!(group(&space.bound(name).await), Some(gid), "{name}");
    }
    // One whose class gives no groups neither opens it to all nor is shut out.
    space.claim("guest", &plain, at("shared")).await;
    assert_eq!(group(&space.bound("guest").await), Some(gid));
    assert_eq!(stat("shared"), (0o2770, 0, gid));
    // It is in use as long as anybody has it.
    for name in ["a", "b", "c"] {
        let volume = space.bound(name).await;
        space.delete_claim(name).await;
        space.gone(name_of(&volume)).await;
    }
    space.claim("other", &grouped, at("other")).await;
    assert_ne!(group(&space.bound("other").await), Some(gid));
    space.claim("third", &grouped, at("third")).await;
    let message = space.event("third", "ProvisioningFailed").await;
    assert!(message.contains("52000-52001"), "{message}");
    assert_eq!(stat("shared"), (0o2770, 0, gid));
    for name in ["third", "other"] {
        space.delete_claim(name).await;
    }

    // A directory that is open to its volume is not closed to it.
    space.claim("open", &plain, at("open")).await;
    let open = space.bound("open").await;
    space.claim("closing", &grouped, at("open")).await;
    let message = space.event("closing", "ProvisioningFailed").await;
    assert!(message.contains("gidRange") && message.contains("/open\""), "{message}");
    assert_eq!((group(&open), stat("open").0), (None, 0o777));
    space.delete_claim("open").await;
    assert!(group(&space.bound("closing").await).is_some());
    assert_eq!(stat("open").0, 0o2770);
}

#[tokio::test]
async fn a_directory_that_was_kept_keeps_its_group() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let parameters =
        json!({"gidRange": "53000-53009", "pathPattern": "${.PVC.namespace}/${.PVC.name}", "onDelete": "retain"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    for name in ["other", "data"] {
        space.claim(name, &class, json!({})).await;
        space.bound(name).await;
    }
    let before = space.bound("data").await;
    space.delete_claim("data").await;
    space.gone(name_of(&before)).await;
    let claims: Api<PersistentVolumeClaim> = space.api();
    eventually("the claim to go", || async { claims.get_opt("data").await.ok()?.is_none().then_some(()) }).await;
    space.claim("data", &class, json!({})).await;
    assert_eq!(group(&space.bound("data").await), group(&before));
}
