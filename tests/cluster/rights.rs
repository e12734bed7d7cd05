//! What the provisioner needs to be allowed.

use k8s_openapi::api::core::v1::Endpoints;
use nfs_provisioner::cluster::permissions::{
    ENDPOINTS_READ, EXPAND, LEASE, LEASE_WATCH, NEEDED, PROTECT, Permission,
};
use serde_json::{Value, json};

use crate::support::plane::Plane;
use crate::support::space::{Rules, Space, rules_of_rbac};

/// What upstream's users have granted for years, and nothing else.
pub(crate) fn rules_of_the_peer() -> Rules {
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    Rules::These(
        json!([
            rule("", "nodes", &["get", "list", "watch"]),
            rule("", "persistentvolumes", &["get", "list", "watch", "create", "delete"]),
            rule("", "persistentvolumeclaims", &["get", "list", "watch", "update"]),
            rule("storage.k8s.io", "storageclasses", &["get", "list", "watch"]),
            rule("", "events", &["create", "update", "patch"]),
        ]),
        json!([rule("", "endpoints", &["get", "list", "watch", "create", "update", "patch"])]),
    )
}

#[tokio::test]
async fn the_rights_that_the_peers_users_have_granted_are_enough() {
    let space = Space::on(Plane::shared(), rules_of_the_peer()).await;
    let provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"pathPattern": "${.PVC.annotations.path}"}})).await;
    space.claim("data", &class, json!({})).await;
    let volume = space.bound("data").await.metadata;
    space.event("data", "ProvisioningSucceeded").await;
    space.claim("refused", &class, json!({"metadata": {"annotations": {"path": ".."}}})).await;
    space.event("refused", "ProvisioningFailed").await;
    // Nothing is put on a volume that could not be taken off again.
    assert_eq!(volume.finalizers.unwrap_or_default(), ["kubernetes.io/pv-protection"]);
    space.delete_claim("data").await;
    space.gone(&volume.name.unwrap()).await;
    assert!(space.entries()[0].starts_with("archived-"));

    // It leads by upstream's own lock.
    let lock: Endpoints = space.api().get(&space.provisioner.replace('/', "-")).await.unwrap();
    let record = &lock.metadata.annotations.unwrap()["control-plane.alpha.kubernetes.io/leader"];
    let record: Value = serde_json::from_str(record).unwrap();
    assert_eq!(record["leaseDurationSeconds"], 15);
    assert!(!record["holderIdentity"].as_str().unwrap().is_empty(), "{record}");
    let log = provisioner.log();
    assert_eq!(log.matches("for lack of").count(), 3, "the lock, the finalizers and expansion: {log}");
    assert!(!log.to_lowercase().contains("forbidden"), "{log}");

    // And gives it back.
    assert!(provisioner.stop().success());
    let lock: Endpoints = space.api().get(&space.provisioner.replace('/', "-")).await.unwrap();
    let record = &lock.metadata.annotations.unwrap()["control-plane.alpha.kubernetes.io/leader"];
    let record: Value = serde_json::from_str(record).unwrap();
    assert_eq!(record["holderIdentity"], "");
}

#[tokio::test]
async fn a_missing_right_is_named_in_the_log() {
    let rules = Rules::These(json!([]), json!([]));
    let space = Space::on(Plane::shared(), rules).await;
    let mut provisioner = space.start();
    let log = crate::support::eventually("the log", || async {
        let log = provisioner.log();
        log.contains("leader election is not possible").then_some(log)
    })
    .await;
    for words in ["create persistentvolumes", "list storageclasses.storage.k8s.io", "create leases", "rbac/"] {
        assert!(log.contains(words), "{words:?} is not in {log}");
    }
    assert!(provisioner.is_running());
}

#[test]
fn rbac_grants_what_is_used_and_nothing_else() {
    let (cluster, own) = rules_of_rbac();
    let own_used = [LEASE, LEASE_WATCH, ENDPOINTS_READ].concat();
    for (rules, used) in [(cluster, [NEEDED, PROTECT, EXPAND].concat()), (own, own_used)] {
        let mut granted = Vec::new();
        for rule in rules {
            for group in rule.api_groups.unwrap() {
                for resource in rule.resources.clone().unwrap() {
                    granted.extend(rule.verbs.iter().map(|verb| format!("{verb} {resource} {group}")));
                }
            }
        }
        let mut used: Vec<String> =
            used.iter().map(|Permission { verb, group, resource }| format!("{verb} {resource} {group}")).collect();
        granted.sort();
        used.sort();
        used.dedup();
        assert_eq!(granted, used);
    }
}
