//! What people run: Deployments whose Pods share a claim, and `StatefulSets`.

use std::fs;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::space::{Space, create, from_json};

fn template(app: &str, claim: Option<&str>) -> Value {
    let volumes =
        claim.map_or(json!([]), |claim| json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]));
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {
            "containers": [{"name": "main", "image": "nginx", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": volumes,
        },
    })
}

#[tokio::test]
async fn two_replicas_share_one_claim() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({})).await;
    space.claim("shared", &class, json!({})).await;
    let deployments: Api<Deployment> = space.api();
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", Some("shared"))});
    create(&deployments, from_json(json!({"metadata": {"name": "web"}, "spec": spec}))).await;
    eventually("two replicas", || async {
        (deployments.get("web").await.ok()?.status?.ready_replicas? == 2).then_some(())
    })
    .await;
    assert_eq!(space.entries().len(), 1);
}

fn stateful_set(class: &str) -> StatefulSet {
    from_json(json!({
        "metadata": {"name": "db"},
        "spec": {
            "replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": template("db", None),
            "volumeClaimTemplates": [{
                "metadata": {"name": "data"},
                "spec": {
                    "storageClassName": class, "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}},
                },
            }],
        },
    }))
}

async fn ready(space: &Space, replicas: i32) {
    let sets: Api<StatefulSet> = space.api();
    eventually(&format!("{replicas} replicas"), || async {
        let status = sets.get("db").await.ok()?.status?;
        (status.ready_replicas.unwrap_or(0) == replicas && status.replicas == replicas).then_some(())
    })
    .await;
}

/// The directories of the set's claims, in the order of its Pods.
async fn directories(space: &Space, replicas: usize) -> Vec<String> {
    let mut directories = Vec::new();
    for number in 0..replicas {
        directories.push(Space::directory(&space.bound(&format!("data-db-{number}")).await));
    }
    directories
}

#[tokio::test]
async fn a_stateful_set_finds_its_volumes_again() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({})).await;
    let sets: Api<StatefulSet> = space.api();
    create(&sets, stateful_set(&class)).await;
    ready(&space, 3).await;

    // Its claims came in order, each with a directory of its own.
    let claims: Api<PersistentVolumeClaim> = space.api();
    let mut created: Vec<_> = claims.list(&ListParams::default()).await.unwrap().items;
    created.sort_by_key(|claim| {
        claim.metadata.resource_version.as_ref().and_then(|version| version.parse::<u64>().ok())
    });
    let names: Vec<_> = created.iter().map(|claim| claim.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["data-db-0", "data-db-1", "data-db-2"]);
    let first = directories(&space, 3).await;
    for (number, directory) in first.iter().enumerate() {
        assert!(directory.starts_with(&format!("{}-data-db-{number}-pvc-", space.namespace)), "{directory}");
        fs::write(space.at(directory).join("file"), number.to_string()).unwrap();
    }

    // Deleted and made again, it has the same volumes and data.
    sets.delete("db", &DeleteParams::default()).await.unwrap();
    eventually("the set to go", || async { sets.get_opt("db").await.ok()?.is_none().then_some(()) }).await;
    create(&sets, stateful_set(&class)).await;
    ready(&space, 3).await;
    assert_eq!(directories(&space, 3).await, first);

    // Scaled down it keeps them; scaled up it gets the old ones and one more.
    space.patch(&sets, "db", json!({"spec": {"replicas": 1}})).await;
    ready(&space, 1).await;
    assert_eq!(space.entries().len(), 3);
    space.patch(&sets, "db", json!({"spec": {"replicas": 4}})).await;
    ready(&space, 4).await;
    let all = directories(&space, 4).await;
    assert_eq!(all[..3], first);
    assert_eq!(space.entries().len(), 4);
    for (number, directory) in first.iter().enumerate() {
        assert_eq!(fs::read_to_string(space.at(directory).join("file")).unwrap(), number.to_string());
    }
}
