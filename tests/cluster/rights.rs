//! What the provisioner needs to be allowed.

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use kube::api::Api;
use nfs_provisioner::cluster::permissions::{
    ENDPOINTS_READ, EXPAND, LEASE, LEASE_WATCH, MARK, NEEDED, PROTECT, Permission, missing,
};
use nfs_provisioner::model::volume::FINALIZER;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::http::{free_port, get};
use crate::support::plane::{Plane, client};
use crate::support::process::Process;
use crate::support::space::{Rules, Space, create, from_json, rules_of_rbac};

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

/// Has the API server answer this space's provisioner with an error of its own where it asks what it may do.
async fn break_access_reviews(space: &Space) -> Api<ValidatingWebhookConfiguration> {
    let rule = json!({
        "apiGroups": ["authorization.k8s.io"], "apiVersions": ["v1"], "operations": ["CREATE"],
        "resources": ["selfsubjectaccessreviews"],
    });
    let user = format!("system:serviceaccount:{}:provisioner", space.namespace);
    let webhook: ValidatingWebhookConfiguration = from_json(json!({
        "metadata": {"name": space.class_name("reviews")},
        "webhooks": [{
            "name": "reviews.example.com", "rules": [rule], "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "timeoutSeconds": 1, "clientConfig": {"url": "https://127.0.0.1:1/"},
            "matchConditions": [{"name": "ours", "expression": format!("request.userInfo.username == '{user}'")}],
        }],
    }));
    let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(space.client.clone());
    create(&webhooks, webhook).await;
    // It takes the API server a moment to know it.
    let provisioner = client(&space.settings().kubeconfig).await;
    eventually("the webhook", || async {
        missing(&provisioner, ENDPOINTS_READ, Some(&space.namespace)).await.err().map(drop)
    })
    .await;
    webhooks
}

#[tokio::test]
async fn what_the_api_server_does_not_say_is_not_allowed_and_is_asked_again() {
    let space = Space::on(Plane::shared(), rules_of_the_peer()).await;
    let webhooks = break_access_reviews(&space).await;
    let mut settings = space.settings();
    let port = free_port();
    settings.environment.push(("HTTP_ADDR".to_owned(), format!("127.0.0.1:{port}")));
    let provisioner = Process::start(&settings);
    let class = space.class("nfs", json!({})).await;
    space.claim("data", &class, json!({})).await;
    let ready = eventually("it to say why it does not lead", || async {
        Some(get(port, "/readyz")).filter(|ready| ready.contains("leadership failed"))
    })
    .await;
    assert!(ready.starts_with("HTTP/1.0 503") && ready.contains("get leases.coordination.k8s.io"), "{ready}");
    assert!(space.entries().is_empty(), "{}", provisioner.log());
    webhooks.delete(&space.class_name("reviews"), &Default::default()).await.unwrap();

    // It leads by the lock that it may have, and puts nothing on volumes that it could not take off again.
    let volume = space.bound("data").await.metadata;
    assert_eq!(volume.finalizers.unwrap_or_default(), ["kubernetes.io/pv-protection"]);
    assert!(space.api::<Endpoints>().get(&space.provisioner.replace('/', "-")).await.is_ok());
    assert!(get(port, "/readyz").starts_with("HTTP/1.0 200"), "{}", get(port, "/readyz"));
    eventually("what is missing to be said", || async {
        provisioner.log().contains("volumes get no finalizer, for lack of: patch").then_some(())
    })
    .await;
    space.delete_claim("data").await;
    space.gone(&volume.name.unwrap()).await;
}

#[tokio::test]
async fn volumes_get_their_finalizer_once_that_is_permitted() {
    let space = Space::on(Plane::shared(), rules_of_the_peer()).await;
    let provisioner = space.start();
    let class = space.class("nfs", json!({})).await;
    space.claim("before", &class, json!({})).await;
    let before = space.bound("before").await.metadata.name.unwrap();
    let roles: Api<ClusterRole> = Api::all(space.client.clone());
    let mut role = roles.get(&space.namespace).await.unwrap();
    role.rules
        .get_or_insert_default()
        .push(from_json(json!({"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["patch"]})));
    roles.replace(&space.namespace, &Default::default(), &role).await.unwrap();
    eventually("the volume to be protected", || async {
        let finalizers = space.volumes().get(&before).await.ok()?.metadata.finalizers.unwrap_or_default();
        finalizers.iter().any(|name| name == FINALIZER).then_some(())
    })
    .await;
    space.claim("after", &class, json!({})).await;
    let after = space.bound("after").await.metadata;
    assert!(after.finalizers.unwrap_or_default().iter().any(|name| name == FINALIZER), "{}", provisioner.log());
    for claim in ["before", "after"] {
        space.delete_claim(claim).await;
    }
    for volume in [before, after.name.unwrap()] {
        space.gone(&volume).await;
    }
}

#[tokio::test]
async fn one_that_may_hold_no_lock_is_not_ready_until_it_may() {
    let Rules::These(cluster, _) = rules_of_the_peer() else { panic!("no rules") };
    let space = Space::on(Plane::shared(), Rules::These(cluster, json!([]))).await;
    let mut settings = space.settings();
    let port = free_port();
    settings.environment.push(("HTTP_ADDR".to_owned(), format!("127.0.0.1:{port}")));
    let _provisioner = Process::start(&settings);
    let ready = eventually("it to be up to date", || async {
        Some(get(port, "/readyz?verbose"))
            .filter(|ready| ready.contains("[+]watches ok") && ready.contains("leadership failed"))
    })
    .await;
    let words =
        "[-]leadership failed: leader election is not possible, and without it nothing is done: grant get leases";
    assert!(ready.starts_with("HTTP/1.0 503") && ready.contains(words), "{ready}");
    let leases = json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]});
    space.patch(&space.api::<Role>(), &space.namespace, json!({"rules": [leases]})).await;
    eventually("it to lead", || async { get(port, "/readyz").starts_with("HTTP/1.0 200").then_some(()) }).await;
    let class = space.class("nfs", json!({})).await;
    space.claim("data", &class, json!({})).await;
    space.bound("data").await;
}

#[test]
fn rbac_grants_what_is_used_and_nothing_else() {
    let (cluster, own) = rules_of_rbac();
    let own_used = [LEASE, LEASE_WATCH, ENDPOINTS_READ].concat();
    for (rules, used) in [(cluster, [NEEDED, PROTECT, EXPAND, MARK].concat()), (own, own_used)] {
        let mut granted = Vec::new();
        for rule in rules {
            let is_of_namespaces = rule.resources.as_ref().unwrap().contains(&"namespaces".to_owned());
            assert_eq!(
                rule.resource_names.as_deref(),
                is_of_namespaces.then_some(&["kube-system".to_owned()][..])
            );
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
