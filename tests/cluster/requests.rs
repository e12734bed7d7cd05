//! How many requests the work takes, as the API server's audit log counts them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim};
use kube::api::ListParams;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::expand::bound_by_hand;
use crate::reclaim::name_of;
use crate::support::eventually;
use crate::support::plane::Plane;
use crate::support::process::whole_lines;
use crate::support::space::{Rules, Space};

const CLAIMS: usize = 30;

/// The events about claims for which something took longer than a second: on a slow machine there may be a few.
async fn starts(space: &Space) -> usize {
    let events = space.api::<Event>().list(&ListParams::default()).await.expect("events");
    let is_start = |event: &&Event| matches!(event.reason.as_deref(), Some("Provisioning" | "Resizing"));
    let starts = events.items.iter().filter(is_start).count();
    assert!(starts < CLAIMS / 2, "{starts} took longer than a second");
    starts
}

/// A control plane that writes down each request of a ServiceAccount.
struct Audited {
    plane: &'static Plane,
    _dir: TempDir,
    log: PathBuf,
}

impl Audited {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (policy, log) = (dir.path().join("policy"), dir.path().join("log"));
        let rules = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
        });
        fs::write(&policy, rules.to_string()).expect("a file");
        let flags = [
            format!("--apiserver-flag=--audit-policy-file={}", policy.display()),
            format!("--apiserver-flag=--audit-log-path={}", log.display()),
            "--apiserver-flag=--audit-log-mode=blocking-strict".to_owned(),
        ];
        let plane = Plane::start_with(&flags.each_ref().map(String::as_str));
        Self { plane: Box::leak(Box::new(plane)), _dir: dir, log }
    }

    /// How many requests this test's provisioner has made so far, by verb and resource. Those for the leader lock, for
    /// the API server's version and watches come with time and not with work, and are left out.
    fn requests(&self, space: &Space) -> BTreeMap<String, usize> {
        let user = format!("system:serviceaccount:{}:provisioner", space.namespace);
        let mut requests = BTreeMap::new();
        for line in whole_lines(fs::read(&self.log).expect("the audit log")).lines() {
            let entry: Value = serde_json::from_str(line).expect("JSON");
            let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let (verb, resource) = (text("/verb"), text("/objectRef/resource"));
            let comes_with_time = ["leases", "endpoints", "storageclasses"].contains(&resource) || verb == "watch";
            if text("/user/username") == user && !comes_with_time {
                *requests.entry(format!("{verb} {resource}")).or_insert(0) += 1;
            }
        }
        requests
    }

    /// Those that have been made since, once there are no more.
    async fn since(&self, before: &BTreeMap<String, usize>, space: &Space) -> BTreeMap<String, usize> {
        let mut requests = self.requests(space);
        loop {
            sleep(Duration::from_secs(1)).await;
            let now = self.requests(space);
            if now == requests {
                break;
            }
            requests = now;
        }
        for (what, count) in &mut requests {
            *count -= before.get(what).unwrap_or(&0);
        }
        requests.retain(|_, count| *count > 0);
        requests
    }
}

fn counts(rows: &[(&str, usize)]) -> BTreeMap<String, usize> {
    rows.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect()
}

#[tokio::test]
async fn a_claim_takes_three_requests_and_its_deletion_three() {
    let audited = Audited::start();
    let space = Space::on(audited.plane, Rules::Ours).await;
    let class =
        space.class("nfs", json!({"allowVolumeExpansion": true, "parameters": {"onDelete": "delete"}})).await;
    let _provisioner = space.start();
    // A new leader reads all volumes once, at the first deletion.
    space.claim("first", &class, json!({})).await;
    let first = space.bound("first").await.metadata.name.expect("a name");
    space.delete_claim("first").await;
    space.gone(&first).await;

    let before = audited.since(&BTreeMap::new(), &space).await;
    let slow = starts(&space).await;
    let names: Vec<String> = (0..CLAIMS).map(|number| format!("data-{number}")).collect();
    join_all(names.iter().map(|name| space.claim(name, &class, json!({})))).await;
    for name in &names {
        space.bound(name).await;
    }
    let made = audited.since(&before, &space).await;
    let events = CLAIMS + starts(&space).await - slow;
    assert_eq!(made, counts(&[("create persistentvolumes", CLAIMS), ("create events", events)]));

    claims_that_grow_take_four_each(&audited, &space, &names).await;

    let before = audited.requests(&space);
    for name in &names {
        space.delete_claim(name).await;
    }
    eventually("the volumes to go", || async { space.volumes_of(&class).await.is_empty().then_some(()) }).await;
    let deleted = audited.since(&before, &space).await;
    // The first makes sure that it is still to be done. The patch notes what was done, and takes the finalizer off.
    let each = ["get persistentvolumes", "delete persistentvolumes", "patch persistentvolumes"];
    assert_eq!(deleted, counts(&each.map(|what| (what, CLAIMS))));

    a_claim_that_changes_while_it_waits_to_be_bound_takes_no_more(&audited, &space, &class).await;
}

async fn claims_that_grow_take_four_each(audited: &Audited, space: &Space, names: &[String]) {
    let (before, slow) = (audited.requests(space), starts(space).await);
    let claims = space.api::<PersistentVolumeClaim>();
    let more = json!({"spec": {"resources": {"requests": {"storage": "2Mi"}}}});
    join_all(names.iter().map(|name| space.patch(&claims, name, more.clone()))).await;
    for name in names {
        space.event(name, "VolumeResizeSuccessful").await;
    }
    let grown = audited.since(&before, space).await;
    let once = ["get persistentvolumes", "patch persistentvolumes", "patch persistentvolumeclaims"];
    let mut expected = counts(&once.map(|what| (what, CLAIMS)));
    expected.insert("create events".to_owned(), CLAIMS + starts(space).await - slow);
    assert_eq!(grown, expected);

    // Others' claims on other exports grow without us.
    let foreign = json!({"provisioner": "foreign.example.com/nfs", "allowVolumeExpansion": true});
    let foreign = space.class("foreign", foreign).await;
    let theirs = json!({
        "metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "foreign.example.com/nfs"}},
        "spec": {"nfs": {"server": "other.test.invalid"}},
    });
    let volume = bound_by_hand(space, "foreign", &foreign, theirs).await;
    let before = audited.requests(space);
    space.patch(&claims, "foreign", more).await;
    assert_eq!(audited.since(&before, space).await, BTreeMap::new());
    space.delete_claim("foreign").await;
    space.volumes().delete(name_of(&volume), &kube::api::DeleteParams::default()).await.expect("a volume");
}

async fn a_claim_that_changes_while_it_waits_to_be_bound_takes_no_more(
    audited: &Audited,
    space: &Space,
    class: &str,
) {
    let slow = starts(space).await;
    // Nobody binds it now.
    audited.plane.command("stop kube-controller-manager");
    let before = audited.requests(space);
    let ours = json!({"volume.kubernetes.io/storage-provisioner": space.provisioner});
    let claim = space.claim("waits", class, json!({"metadata": {"annotations": ours}})).await;
    let volume = format!("pvc-{}", claim.metadata.uid.expect("a uid"));
    eventually("the volume", || async { space.volumes().get_opt(&volume).await.expect("an answer") }).await;
    for number in 0..5 {
        let api = space.api::<PersistentVolumeClaim>();
        space.patch(&api, "waits", json!({"metadata": {"labels": {"number": number.to_string()}}})).await;
        sleep(Duration::from_millis(200)).await;
    }
    let requests = audited.since(&before, space).await;
    assert_eq!(
        requests,
        counts(&[("create persistentvolumes", 1), ("create events", 1 + starts(space).await - slow)])
    );

    // But if that volume goes, it gets another one.
    space.patch(&space.volumes(), &volume, json!({"metadata": {"finalizers": null}})).await;
    let old = space.volumes().get(&volume).await.expect("a volume").metadata.uid;
    space.volumes().delete(&volume, &kube::api::DeleteParams::default()).await.expect("a volume to delete");
    eventually("another volume", || async {
        let there = space.volumes().get_opt(&volume).await.expect("an answer")?;
        (there.metadata.uid != old).then_some(())
    })
    .await;
}
