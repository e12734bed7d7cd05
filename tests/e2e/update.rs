//! One version of ours is replaced by the next, and leaves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use libtest_mimic::Trial;
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::node::{NEXT, Node, PROVISIONER, Told, within};
use crate::support::eventually;
use crate::support::space::from_json;

pub(crate) fn trials() -> Vec<Trial> {
    crate::trials![a_rolling_update_of_two_replicas_loses_no_claim, finalizers_are_taken_off_with_kubectl_alone]
}

/// The claims that are made before the update, and deleted while it goes on.
const OLD: usize = 8;

fn claim(name: &str) -> PersistentVolumeClaim {
    from_json(json!({
        "metadata": {"name": name, "labels": {"test": "update"}},
        "spec": {
            "storageClassName": "nfs-client", "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }))
}

/// Makes a claim each quarter of a second, and deletes an old one with each, until it is told to stop. How many.
async fn users(client: Client, stop: Arc<AtomicBool>) -> usize {
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client);
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        claims.create(&PostParams::default(), &claim(&format!("new-{made}"))).await.unwrap();
        if made < OLD {
            claims.delete(&format!("old-{made}"), &DeleteParams::default()).await.unwrap();
        }
        made += 1;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    made
}

/// Waits until all claims of this test are Bound, and none is going; the directories of their volumes.
async fn directories(client: &Client) -> BTreeSet<String> {
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    let ours = ListParams::default().labels("test=update");
    let volume = |claim: PersistentVolumeClaim| {
        let is_bound = claim.status?.phase? == "Bound" && claim.metadata.deletion_timestamp.is_none();
        claim.spec?.volume_name.filter(|_| is_bound)
    };
    let names: BTreeSet<String> = eventually("all claims to be Bound", || async {
        claims.list(&ours).await.ok()?.items.into_iter().map(volume).collect()
    })
    .await;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let volumes = volumes.list(&ListParams::default()).await.unwrap().items;
    let volumes = volumes.into_iter().filter(|volume| names.contains(volume.metadata.name.as_ref().unwrap()));
    let paths = volumes.map(|volume| volume.spec.and_then(|spec| spec.nfs).expect("an NFS volume").path);
    paths.map(|path| path.rsplit_once('/').unwrap().1.to_owned()).collect()
}

async fn holder(client: &Client) -> String {
    let leases: Api<Lease> = Api::default_namespaced(client.clone());
    let leases = leases.list(&ListParams::default()).await.unwrap().items;
    leases.into_iter().find_map(|lease| lease.spec?.holder_identity).expect("a leader")
}

async fn a_rolling_update_of_two_replicas_loses_no_claim(node: &'static Node) {
    let _told = Told(node);
    let client = node.rig.plane.client().await;
    let two = json!({"spec": {"replicas": 2, "strategy": {"type": "RollingUpdate"}}}).to_string();
    let deployment = format!("deployment/{PROVISIONER}");
    node.kubectl(&["patch", &deployment, "--patch", &two]);
    node.rolled_out(PROVISIONER);
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    for number in 0..OLD {
        claims.create(&PostParams::default(), &claim(&format!("old-{number}"))).await.unwrap();
    }
    let old = directories(&client).await;
    assert_eq!(old.len(), OLD);
    let before = (node.pods(PROVISIONER), holder(&client).await);
    assert_eq!(before.0.len(), 2);

    let stop = Arc::new(AtomicBool::new(false));
    let users = tokio::spawn(users(client.clone(), Arc::clone(&stop)));
    let begun = Instant::now();
    let image = format!("{PROVISIONER}=nfs-provisioner:{NEXT}");
    spawn_blocking(move || {
        node.kubectl(&["set", "image", &deployment, &image]);
        node.rolled_out(PROVISIONER);
    })
    .await
    .unwrap();
    // Until the last of the old ones has ended.
    for pod in &before.0 {
        let pod = format!("pod/{pod}");
        spawn_blocking(move || node.wait(&pod, "delete")).await.unwrap();
    }
    println!("    updated in {:.1?}", begun.elapsed());
    stop.store(true, Ordering::Relaxed);
    let made = users.await.unwrap();
    assert!(made > OLD, "only {made} claims were made meanwhile");

    let new = directories(&client).await;
    assert_eq!(new.len(), made, "each claim has a directory of its own");
    let archived = || {
        let entries: BTreeSet<String> = node.entries().into_iter().collect();
        let all_are = old.iter().all(|name| entries.contains(&format!("archived-{name}")));
        all_are.then_some(entries)
    };
    let entries = within("the old claims' directories to be archived", Duration::from_mins(1), archived);
    let named =
        entries.into_iter().filter(|name| name.starts_with("default-new-") || name.starts_with("default-old-"));
    assert_eq!(named.collect::<BTreeSet<_>>(), new, "and there are no others");

    let pods = node.pods(PROVISIONER);
    assert_eq!(pods.len(), 2);
    for pod in &pods {
        let pod = format!("pod/{pod}");
        assert!(!before.0.iter().any(|old| pod.ends_with(old)), "{pod}");
        assert!(node.field(&pod, ".status.containerStatuses[0].image").ends_with(NEXT));
        assert_eq!(node.field(&pod, ".status.containerStatuses[0].restartCount"), "0");
    }
    let leader = holder(&client).await;
    assert_ne!(leader, before.1);
    assert!(pods.iter().any(|pod| leader.contains(pod.as_str())), "{leader} leads, of {pods:?}");
}

/// As `docs/install.md` tells for an uninstall.
async fn finalizers_are_taken_off_with_kubectl_alone(node: &'static Node) {
    let _told = Told(node);
    let client = node.rig.plane.client().await;
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    claims.create(&PostParams::default(), &claim("last")).await.unwrap();
    let finalizers = || node.kubectl(&["get", "pv", "-o", "jsonpath={.items[*].metadata.finalizers}"]);
    let ours = "external-provisioner.volume.kubernetes.io/finalizer";
    directories(&client).await;
    assert!(finalizers().contains(ours));

    node.kubectl(&["scale", &format!("deployment/{PROVISIONER}"), "--replicas=0"]);
    node.kubectl(&["wait", "--for=delete", "pod", &format!("--selector=app={PROVISIONER}"), "--timeout=2m"]);
    let account = json!({"spec": {"serviceAccountName": PROVISIONER}}).to_string();
    let said = node.kubectl(&[
        "run",
        "remove-finalizers",
        "--rm",
        "--attach",
        "--restart=Never",
        concat!("--image=nfs-provisioner:", env!("CARGO_PKG_VERSION")),
        "--env=PROVISIONER_NAME=k8s-sigs.io/nfs-subdir-external-provisioner",
        &format!("--overrides={account}"),
        "--",
        "remove-finalizers",
    ]);
    assert!(!finalizers().contains(ours), "{said}");
}
