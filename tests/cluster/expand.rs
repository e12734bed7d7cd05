//! Bound claims that ask for more.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Api, Patch, PatchParams};
use nfs_provisioner::cluster::api::Cluster;
use nfs_provisioner::model::expansion::Expansion;
use nfs_provisioner::model::volume::Volume;
use serde_json::{Value, json};

use crate::reclaim::{name_of, released};
use crate::rights::rules_of_the_peer;
use crate::support::eventually;
use crate::support::plane::Plane;
use crate::support::process::Process;
use crate::support::space::{Space, create, from_json, rules_of_rbac};

/// A class whose claims may ask for more.
async fn class(space: &Space) -> String {
    space.class("nfs", json!({"allowVolumeExpansion": true})).await
}

fn storage(size: &str) -> Value {
    json!({"spec": {"resources": {"requests": {"storage": size}}}})
}

/// Has a claim ask for another size.
async fn ask(space: &Space, claim: &str, size: &str) {
    space.patch(&space.api::<PersistentVolumeClaim>(), claim, storage(size)).await;
}

/// Waits until a claim has a size.
async fn has(space: &Space, claim: &str, size: &str) {
    let claims = space.api::<PersistentVolumeClaim>();
    eventually(&format!("claim {claim} to have {size}"), || async {
        let capacity = claims.get(claim).await.ok()?.status?.capacity?;
        (capacity["storage"].0 == size).then_some(())
    })
    .await;
}

fn size_of(volume: &PersistentVolume) -> &str {
    &volume.spec.as_ref().unwrap().capacity.as_ref().unwrap()["storage"].0
}

#[tokio::test]
async fn a_claim_that_asks_for_more_gets_it_and_nothing_else_changes() {
    let space = Space::new().await;
    let provisioner = space.start();
    let class = class(&space).await;
    space.claim("data", &class, json!({})).await;
    let before = space.bound("data").await;
    let directory = space.at(&Space::directory(&before));
    fs::write(directory.join("file"), "data").unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o750)).unwrap();
    // What others may have left there.
    let claims = space.api::<PersistentVolumeClaim>();
    let condition = |kind: &str| json!({"type": kind, "status": "True"});
    let kinds = ["Resizing", "FileSystemResizePending", "ControllerResizeError", "NodeResizeError", "Other"];
    let left = json!({"status": {
        "conditions": kinds.map(condition), "allocatedResources": {"storage": "1Mi"},
        "allocatedResourceStatuses": {"storage": "ControllerResizeInProgress"},
    }});
    let left = Patch::Merge(left);
    let left = claims.patch_status("data", &PatchParams::default(), &left).await.unwrap();
    assert_eq!(left.status.unwrap().conditions.unwrap().len(), kinds.len());

    ask(&space, "data", "1Gi").await;
    has(&space, "data", "1Gi").await;
    assert_eq!(space.event("data", "VolumeResizeSuccessful").await, "Resize volume succeeded: from 1Mi to 1Gi");
    let status = claims.get("data").await.unwrap().status.unwrap();
    let kinds: Vec<_> = status.conditions.unwrap().into_iter().map(|condition| condition.type_).collect();
    assert_eq!(kinds, ["Other"]);
    // Kubernetes has the field from 1.32 on, unless it is switched on.
    let allocated = status.allocated_resources.unwrap_or_default();
    let expected = if space.minor().await < 32 { None } else { Some("1Gi") };
    assert_eq!(allocated.get("storage").map(|quantity| &*quantity.0), expected);
    assert_eq!(status.allocated_resource_statuses.unwrap_or_default(), BTreeMap::new());

    // Of the volume nothing has changed but its capacity.
    let after = space.bound("data").await;
    assert_eq!(size_of(&after), "1Gi");
    let mut spec = before.spec.clone().unwrap();
    spec.capacity.clone_from(&after.spec.as_ref().unwrap().capacity);
    assert_eq!((Some(spec), &before.metadata.annotations), (after.spec, &after.metadata.annotations));
    assert_eq!(fs::read_to_string(directory.join("file")).unwrap(), "data");
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o7777, 0o750);
    assert_eq!(space.entries().len(), 1);

    // It has what it asks for: that is not looked at again.
    let log = provisioner.log();
    assert_eq!(log.matches(" expanded ").count(), 1, "{log}");
    assert!(space.events("data", "VolumeResizeFailed").await.is_empty());
    assert!(space.events("data", "Resizing").await.is_empty(), "it was quick");
}

#[tokio::test]
async fn what_is_asked_for_in_quick_succession_comes_to_the_last() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = class(&space).await;
    let names: Vec<String> = (0..10).map(|number| format!("data-{number}")).collect();
    join_all(names.iter().map(|name| space.claim(name, &class, json!({})))).await;
    for name in &names {
        space.bound(name).await;
    }
    join_all(names.iter().enumerate().map(|(number, name)| {
        let space = &space;
        async move {
            for size in ["1500k", "2Mi", "0.5Gi", "1e9", "1Gi"] {
                ask(space, name, size).await;
                tokio::time::sleep(Duration::from_millis(number as u64)).await;
            }
        }
    }))
    .await;
    for name in &names {
        has(&space, name, "1Gi").await;
        assert_eq!(size_of(&space.bound(name).await), "1Gi");
        assert!(space.events(name, "VolumeResizeFailed").await.is_empty());
    }
}

#[tokio::test]
async fn the_claims_of_a_stateful_set_grow_all_at_once() {
    const REPLICAS: usize = 50;
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = class(&space).await;
    let container =
        json!({"name": "main", "image": "nginx", "volumeMounts": [{"name": "data", "mountPath": "/data"}]});
    let request = storage("1Gi")["spec"]["resources"].clone();
    let set: StatefulSet = from_json(json!({
        "metadata": {"name": "db"},
        "spec": {
            "replicas": REPLICAS, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "podManagementPolicy": "Parallel",
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [container]}},
            "volumeClaimTemplates": [{
                "metadata": {"name": "data"},
                "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": request},
            }],
        },
    }));
    create(&space.api(), set).await;
    let names: Vec<String> = (0..REPLICAS).map(|number| format!("data-db-{number}")).collect();
    for name in &names {
        space.bound(name).await;
    }
    let started = Instant::now();
    join_all(names.iter().map(|name| ask(&space, name, "2Gi"))).await;
    for name in &names {
        has(&space, name, "2Gi").await;
    }
    println!("{REPLICAS} claims have grown {:.2} s after they began to ask", started.elapsed().as_secs_f64());
    assert!(space.volumes_of(&class).await.iter().all(|volume| size_of(volume) == "2Gi"));
    for name in &names {
        space.event(name, "VolumeResizeSuccessful").await;
    }
}

/// A bound claim and its volume, made by hand. No provisioner serves the claim meanwhile.
pub(crate) async fn bound_by_hand(space: &Space, name: &str, class: &str, patch: Value) -> PersistentVolume {
    let claim = space.claim(name, class, json!({})).await;
    let uid = claim.metadata.uid.unwrap();
    let mut change = json!({
        "metadata": {"name": format!("pvc-{uid}")},
        "spec": {"claimRef": {"uid": uid, "resourceVersion": claim.metadata.resource_version}},
    });
    crate::support::space::merge(&mut change, patch);
    released(space, name, &format!("/export/{}-{name}-pvc-{uid}", space.namespace), class, change).await;
    space.bound(name).await
}

#[tokio::test]
async fn claims_that_asked_the_old_program_in_vain_grow_when_this_one_starts() {
    let space = Space::new().await;
    let class = class(&space).await;
    let volume = bound_by_hand(&space, "peers", &class, json!({})).await;
    ask(&space, "peers", "1Gi").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(size_of(&space.bound("peers").await), "1Mi");
    let _provisioner = space.start();
    has(&space, "peers", "1Gi").await;
    assert_eq!(size_of(&space.bound("peers").await), "1Gi");
    let file = space.at(&Space::directory(&volume)).join("file");
    assert_eq!(fs::read_to_string(file).unwrap(), "peers");
}

#[tokio::test]
async fn a_process_killed_again_and_again_leaves_no_claim_half_grown() {
    const CLAIMS: usize = 60;
    let space = Space::new().await;
    let class = class(&space).await;
    let mut settings = space.settings();
    settings.environment.push(("ENABLE_LEADER_ELECTION".to_owned(), "false".to_owned()));
    let names: Vec<String> = (0..CLAIMS).map(|number| format!("data-{number}")).collect();
    let provisioner = Process::start(&settings);
    join_all(names.iter().map(|name| space.claim(name, &class, json!({})))).await;
    for name in &names {
        space.bound(name).await;
    }
    drop(provisioner);
    let asking = async {
        for name in &names {
            ask(&space, name, "2Mi").await;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..40))).await;
        }
    };
    let killing = async {
        for _ in 0..8 {
            let provisioner = Process::start(&settings);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(50..400))).await;
            provisioner.signal("KILL");
        }
        Process::start(&settings)
    };
    let ((), _provisioner) = futures::join!(asking, killing);
    for name in &names {
        has(&space, name, "2Mi").await;
        assert_eq!(size_of(&space.bound(name).await), "2Mi");
    }
}

#[tokio::test]
async fn a_volume_and_a_claim_that_have_changed_since_they_were_read_are_left_as_they_are() {
    let space = Space::new().await;
    let class = class(&space).await;
    let provisioner = space.start();
    space.claim("data", &class, json!({})).await;
    let old_volume = space.bound("data").await;
    assert!(provisioner.stop().success());
    ask(&space, "data", "1Gi").await;
    let claims = space.api::<PersistentVolumeClaim>();
    let old_claim = claims.get("data").await.unwrap();
    // Another one, which has taken over, does what is to be done, and more.
    let others = json!({"spec": {"capacity": {"storage": "2Gi"}}});
    space.patch(&space.volumes(), name_of(&old_volume), others).await;
    ask(&space, "data", "2Gi").await;
    let growth = Expansion::read(&old_claim).unwrap();
    let cluster = Cluster::new(space.client.clone(), &space.provisioner);
    let error = cluster.grow_volume(&Volume::read(&old_volume), &growth.request).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    let error = cluster.grow_claim(&growth, &growth.request).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    let _provisioner = space.start();
    has(&space, "data", "2Gi").await;
    assert_eq!(size_of(&space.bound("data").await), "2Gi");
}

#[tokio::test]
async fn a_missing_right_is_named_on_the_claim_and_once_granted_it_grows() {
    let space = Space::on(Plane::shared(), rules_of_the_peer()).await;
    let provisioner = space.start();
    let class = class(&space).await;
    space.claim("data", &class, json!({})).await;
    let volume = space.bound("data").await;
    ask(&space, "data", "2Mi").await;
    let message = space.event("data", "VolumeResizeFailed").await;
    let start = format!("resize volume {:?} by resizer {:?} failed: ", name_of(&volume), space.provisioner);
    assert!(message.starts_with(&start), "{message}");
    for words in ["patch persistentvolumes,", "patch persistentvolumeclaims/status", "rbac/"] {
        assert!(message.contains(words), "{words:?} is not in {message}");
    }
    assert!(provisioner.log().contains("volumes do not grow"), "{}", provisioner.log());
    assert_eq!(size_of(&space.bound("data").await), "1Mi");
    assert!(space.events("data", "Resizing").await.is_empty());

    let roles: Api<ClusterRole> = Api::all(space.client.clone());
    space.patch(&roles, &space.namespace, json!({"rules": rules_of_rbac().0})).await;
    has(&space, "data", "2Mi").await;
    assert_eq!(size_of(&space.bound("data").await), "2Mi");
}

#[tokio::test]
async fn a_claim_that_asks_for_less_again_gets_no_more_than_needed_and_a_volume_never_shrinks() {
    let space = Space::new().await;
    if space.minor().await < 32 {
        // API servers before that let no claim ask for less again.
        return;
    }
    let provisioner = space.start();
    let class = class(&space).await;
    for claim in ["lowered", "half-grown"] {
        space.claim(claim, &class, json!({})).await;
        space.bound(claim).await;
    }
    assert!(provisioner.stop().success());
    ask(&space, "lowered", "8Mi").await;
    ask(&space, "lowered", "4Mi").await;
    // As one that dies in the middle leaves it.
    ask(&space, "half-grown", "8Mi").await;
    let volume = space.bound("half-grown").await;
    space.patch(&space.volumes(), name_of(&volume), json!({"spec": {"capacity": {"storage": "8Mi"}}})).await;
    ask(&space, "half-grown", "4Mi").await;

    let _provisioner = space.start();
    has(&space, "lowered", "4Mi").await;
    assert_eq!(size_of(&space.bound("lowered").await), "4Mi");
    has(&space, "half-grown", "8Mi").await;
    assert_eq!(size_of(&space.bound("half-grown").await), "8Mi");
}

#[tokio::test]
async fn the_api_server_refuses_where_the_class_does_not_allow_it() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({"allowVolumeExpansion": false})).await;
    space.claim("data", &class, json!({})).await;
    space.bound("data").await;
    let claims = space.api::<PersistentVolumeClaim>();
    let patched = claims.patch("data", &PatchParams::default(), &Patch::Merge(storage("2Mi"))).await;
    let refused = patched.unwrap_err().to_string();
    assert!(refused.contains("must support resize"), "{refused}");
    // A class can be changed in that: then it grows.
    space.patch(&space.classes(), &class, json!({"allowVolumeExpansion": true})).await;
    eventually("the API server to know", || async {
        claims.patch("data", &PatchParams::default(), &Patch::Merge(storage("2Mi"))).await.ok()
    })
    .await;
    has(&space, "data", "2Mi").await;
}

#[tokio::test]
async fn others_volumes_do_not_grow_and_one_of_ours_elsewhere_says_so() {
    let space = Space::new().await;
    let ours = class(&space).await;
    let foreign = json!({"provisioner": "foreign.example.com/nfs", "allowVolumeExpansion": true});
    let foreign = space.class("foreign", foreign).await;
    let by = |name: Value| json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": name}}});
    bound_by_hand(&space, "foreign", &foreign, by(json!("foreign.example.com/nfs"))).await;
    bound_by_hand(&space, "nobodys", &ours, by(Value::Null)).await;
    let elsewhere = json!({"spec": {"nfs": {"server": "other.test.invalid"}}});
    bound_by_hand(&space, "elsewhere", &ours, elsewhere).await;
    let _provisioner = space.start();
    space.claim("good", &ours, json!({})).await;
    space.bound("good").await;
    for claim in ["foreign", "nobodys", "elsewhere", "good"] {
        ask(&space, claim, "2Mi").await;
    }
    has(&space, "good", "2Mi").await;
    let message = space.event("elsewhere", "VolumeResizeFailed").await;
    assert!(message.contains("nfs.test.invalid:/export"), "{message}");
    for claim in ["foreign", "nobodys", "elsewhere"] {
        assert_eq!(size_of(&space.bound(claim).await), "1Mi", "{claim}");
        assert!(space.events(claim, "Resizing").await.is_empty(), "{claim}");
    }
    for claim in ["foreign", "nobodys"] {
        assert!(space.events(claim, "VolumeResizeFailed").await.is_empty(), "{claim}");
    }
}
