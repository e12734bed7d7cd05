//! What other programs do with claims and volumes, by the API calls that they make, in the order in which they make them.

use std::fs;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::reclaim::name_of;
use crate::support::eventually;
use crate::support::space::{Space, create, from_json, named};

/// A Pod with a generic ephemeral volume: the controller manager makes the claim, and deletes it with the Pod.
fn with_ephemeral_volume(name: &str, class: &str) -> Value {
    let claim = json!({
        "storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}},
    });
    json!({
        "metadata": {"name": name},
        "spec": {
            "containers": [{"name": "main", "image": "nginx", "volumeMounts": [{"name": "scratch", "mountPath": "/x"}]}],
            "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": claim}}}],
        },
    })
}

#[tokio::test]
async fn generic_ephemeral_volumes_come_and_go_with_their_pods() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let pods: Api<Pod> = space.api();
    for mode in ["Immediate", "WaitForFirstConsumer"] {
        let name = mode.to_lowercase();
        let options = json!({"volumeBindingMode": mode, "parameters": {"onDelete": "delete"}});
        let class = space.class(&name, options).await;
        create(&pods, from_json(with_ephemeral_volume(&name, &class))).await;
        let volume = space.bound(&format!("{name}-scratch")).await;
        eventually("the Pod to run", || async {
            (pods.get(&name).await.ok()?.status?.phase? == "Running").then_some(())
        })
        .await;
        let directory = space.at(&Space::directory(&volume));
        fs::write(directory.join("file"), "of the Pod").unwrap();
        pods.delete(&name, &DeleteParams::default().grace_period(0)).await.unwrap();
        space.gone(name_of(&volume)).await;
        assert!(!directory.exists());
    }
}

/// `VolSync` with `copyMethod: Clone`: it makes a claim that is owned by its `ReplicationSource` and a copy of the one to be
/// replicated, with the same class, modes and size, waits for it to be bound, has a mover read it, and deletes it; each
/// time anew and under the same name (`controllers/volumehandler`).
#[tokio::test]
async fn volsync_clones_a_claim_again_and_again() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    space.claim("data", &class, json!({})).await;
    let source = space.at(&Space::directory(&space.bound("data").await));
    // Stands for the `ReplicationSource`.
    let owner: ConfigMap = create(&space.api(), named("replication")).await;
    for round in ["first", "second"] {
        fs::write(source.join("file"), round).unwrap();
        let clone = json!({
            "metadata": {
                "labels": {"app.kubernetes.io/created-by": "volsync", "volsync.backube/cleanup": "uid"},
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "ConfigMap", "name": "replication", "uid": owner.metadata.uid,
                    "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "data"}},
        });
        space.claim("volsync-data-src", &class, clone).await;
        let volume = space.bound("volsync-data-src").await;
        let copy = space.at(&Space::directory(&volume));
        assert_eq!(fs::read_to_string(copy.join("file")).unwrap(), round);
        // Objects with the label, all at once.
        let claims: Api<PersistentVolumeClaim> = space.api();
        let labelled = kube::api::ListParams::default().labels("volsync.backube/cleanup=uid");
        claims.delete_collection(&DeleteParams::background(), &labelled).await.unwrap();
        space.gone(name_of(&volume)).await;
        assert!(!copy.exists() && source.join("file").exists());
    }
}

/// A populator of the library that Kubernetes has for them: beside the claim it makes another one, of the same class and
/// without a source, has a Pod fill that, hands its volume over by writing the claim into `claimRef`, and deletes the other
/// claim once that is Lost (`lib-volume-populator`, `populator-machinery/controller.go`).
#[tokio::test]
async fn a_populator_fills_a_volume_and_hands_it_over() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let hello = json!({"apiGroup": "hello.example.com", "kind": "Hello", "name": "hello"});
    let finalizers = json!(["hello.example.com/populate-target-protection"]);
    let populated = json!({"metadata": {"finalizers": finalizers}, "spec": {"dataSourceRef": hello}});
    let claim = space.claim("populated", &class, populated).await;
    let elsewhere = format!("{}-populator", space.namespace);
    create(&Api::all(space.client.clone()), named::<Namespace>(&elsewhere)).await;
    let prime = format!("prime-{}", claim.metadata.uid.as_deref().unwrap());
    space.claim_in(&elsewhere, &prime, &class, json!({})).await;
    let volume = space.bound_in(&elsewhere, &prime).await;
    let directory = space.at(&Space::directory(&volume));
    fs::write(directory.join("hello"), "world").unwrap();

    let claims: Api<PersistentVolumeClaim> = space.api();
    let version = claims.get("populated").await.unwrap().metadata.resource_version;
    let handed_over = Patch::Strategic(json!({
        "metadata": {"annotations": {"hello.example.com/populated-from": format!("{}/hello", space.namespace)}},
        "spec": {"claimRef": {
            "namespace": space.namespace, "name": "populated", "uid": claim.metadata.uid, "resourceVersion": version,
        }},
    }));
    space.volumes().patch(name_of(&volume), &PatchParams::default(), &handed_over).await.unwrap();
    let primes: Api<PersistentVolumeClaim> = Api::namespaced(space.client.clone(), &elsewhere);
    eventually("the other claim to be Lost", || async {
        (primes.get(&prime).await.ok()?.status?.phase? == "Lost").then_some(())
    })
    .await;
    primes.delete(&prime, &DeleteParams::default()).await.unwrap();
    space.patch(&claims, "populated", json!({"metadata": {"finalizers": null}})).await;
    let bound = space.bound("populated").await;
    assert_eq!(name_of(&bound), name_of(&volume));
    eventually("the other claim to go", || async { primes.get_opt(&prime).await.ok()?.is_none().then_some(()) })
        .await;
    assert_eq!(fs::read_to_string(directory.join("hello")).unwrap(), "world");
    assert!(space.events("populated", "ProvisioningFailed").await.is_empty());

    // From now on the volume goes with the claim.
    space.delete_claim("populated").await;
    space.gone(name_of(&volume)).await;
    assert!(!directory.exists());
    let left: Vec<PersistentVolume> = space.volumes_of(&class).await;
    assert!(left.is_empty(), "{left:?}");
}
