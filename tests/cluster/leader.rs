//! Of several provisioners of one name, one works; and when it cannot, another one does.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Endpoints, PersistentVolume};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::Api;
use serde_json::json;

use crate::support::eventually;
use crate::support::process::Process;
use crate::support::space::{Space, create, from_json};

/// How long a lock counts after its last renewal.
const LEASE: Duration = Duration::from_secs(15);

/// Starts one more provisioner, with a log of its own.
fn start(space: &Space, log: &str) -> Process {
    let mut settings = space.settings();
    settings.log = settings.log.with_file_name(log);
    Process::start(&settings)
}

async fn logged(provisioner: &Process, words: &str) {
    eventually(words, || async { provisioner.log().contains(words).then_some(()) }).await;
}

#[tokio::test]
async fn a_standby_takes_over_at_once_from_a_leader_that_ends_in_order() {
    let space = Space::new().await;
    let class = space.class("nfs", json!({})).await;
    let first = start(&space, "first");
    logged(&first, "leading").await;
    let second = start(&space, "second");
    logged(&second, "another one leads, standing by").await;
    assert!(first.stop().success());
    let given_back = Instant::now();
    space.claim("data", &class, json!({})).await;
    space.bound("data").await;
    // It would take two seconds to find the lock free by asking from time to time, and fifteen to see it expire.
    let took = given_back.elapsed();
    assert!(took < Duration::from_millis(1900), "{took:?}:\n{}", second.log());
}

#[tokio::test]
async fn a_standby_takes_over_from_a_leader_that_dies() {
    let space = Space::new().await;
    let class = space.class("nfs", json!({})).await;
    let first = start(&space, "first");
    logged(&first, "leading").await;
    let second = start(&space, "second");
    logged(&second, "another one leads, standing by").await;
    first.signal("KILL");
    space.claim("data", &class, json!({})).await;
    space.bound("data").await;
    assert!(second.log().contains("leading"), "{}", second.log());
}

#[tokio::test]
async fn a_leader_that_was_paused_deletes_nothing_after_it_wakes() {
    let space = Space::new().await;
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let first = start(&space, "first");
    logged(&first, "leading").await;
    space.claim("data", &class, json!({})).await;
    let volume = space.bound("data").await.metadata.name.unwrap();
    let second = start(&space, "second");
    logged(&second, "another one leads, standing by").await;
    first.signal("STOP");
    logged(&second, "leading").await;

    // Nobody but the first sees the volume released: the second holds the lock, and is paused.
    second.signal("STOP");
    let paused = Instant::now();
    space.delete_claim("data").await;
    space.phase(&volume, "Released").await;
    first.signal("CONT");
    logged(&first, "standing by").await;
    while paused.elapsed() < LEASE / 3 {
        let found: PersistentVolume = space.volumes().get(&volume).await.unwrap();
        assert_eq!(found.metadata.deletion_timestamp, None, "{}", first.log());
        assert_eq!(space.entries(), [Space::directory(&found)], "{}", first.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    second.signal("CONT");
    space.gone(&volume).await;
    logged(&second, "reclaimed").await;
    assert!(!first.log().contains("reclaimed"), "{}", first.log());
}

/// Upstream's lock, last renewed so long ago.
fn lock_of_the_peer(space: &Space, ago: SignedDuration) -> Endpoints {
    let renewed = (Timestamp::now() - ago).to_string();
    let record = json!({
        "holderIdentity": "peer-7d9f_5b1c", "leaseDurationSeconds": 15, "acquireTime": "2026-01-01T00:00:00Z",
        "renewTime": renewed, "leaderTransitions": 3,
    });
    from_json(json!({"metadata": {
        "name": space.provisioner.replace('/', "-"),
        "annotations": {"control-plane.alpha.kubernetes.io/leader": record.to_string()},
    }}))
}

#[tokio::test]
async fn nobody_works_while_the_peer_still_leads_by_its_own_lock() {
    let space = Space::new().await;
    let class = space.class("nfs", json!({})).await;
    let locks: Api<Endpoints> = space.api();
    create(&locks, lock_of_the_peer(&space, SignedDuration::ZERO)).await;
    let provisioner = space.start();
    space.claim("data", &class, json!({})).await;
    logged(&provisioner, "another one leads, standing by holder=\"peer-7d9f_5b1c (Endpoints ").await;
    // As long as it renews the lock, which it does every two seconds.
    let name = space.provisioner.replace('/', "-");
    for _ in 0..9 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let renewed = lock_of_the_peer(&space, SignedDuration::ZERO).metadata.annotations;
        space.patch(&locks, &name, json!({"metadata": {"annotations": renewed}})).await;
        assert!(space.entries().is_empty(), "{}", provisioner.log());
    }
    space.bound("data").await;
}

/// As when the old program is rolled out again beside ours: it never looks at a Lease.
#[tokio::test]
async fn a_leader_stands_by_as_soon_as_the_peer_leads_by_its_own_lock() {
    let space = Space::new().await;
    let class = space.class("nfs", json!({})).await;
    let provisioner = space.start();
    logged(&provisioner, "leading").await;
    let locks: Api<Endpoints> = space.api();
    create(&locks, lock_of_the_peer(&space, SignedDuration::ZERO)).await;
    logged(&provisioner, "lost the leader lock, standing by holder=\"peer-7d9f_5b1c (Endpoints ").await;
    space.claim("data", &class, json!({})).await;
    let name = space.provisioner.replace('/', "-");
    for _ in 0..4 {
        let renewed = lock_of_the_peer(&space, SignedDuration::ZERO).metadata.annotations;
        space.patch(&locks, &name, json!({"metadata": {"annotations": renewed}})).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(space.entries().is_empty(), "{}", provisioner.log());
    }
    // It ends without a word; and its lock expires.
    space.bound("data").await;
    assert_eq!(provisioner.log().matches(" leading").count(), 2, "{}", provisioner.log());
}

#[tokio::test]
async fn a_lock_that_the_peer_has_left_behind_long_ago_holds_nobody_up() {
    let space = Space::new().await;
    let class = space.class("nfs", json!({})).await;
    create(&space.api(), lock_of_the_peer(&space, SignedDuration::from_hours(48))).await;
    let _provisioner = space.start();
    let begun = Instant::now();
    space.claim("data", &class, json!({})).await;
    space.bound("data").await;
    assert!(begun.elapsed() < LEASE * 2 / 3);
}

/// The API server takes them in a class, and not as the name of an object.
#[tokio::test]
async fn provisioners_of_names_that_no_lock_can_have_lead_and_do_not_share_a_lock() {
    let mut space = Space::new().await;
    let mut running = Vec::new();
    for (number, provisioner) in ["Rocketmq-NFS", "rocketmq_nfs", "rocketmq-nfs"].into_iter().enumerate() {
        space.provisioner = format!("{}.example.com/{provisioner}", space.namespace);
        let name = format!("data-{number}");
        let class = space.class(&name, json!({})).await;
        running.push(start(&space, &name));
        space.claim(&name, &class, json!({})).await;
        space.bound(&name).await;
    }
    let leases: Api<Lease> = space.api();
    let leases = leases.list(&Default::default()).await.unwrap();
    assert_eq!(leases.items.len(), 3, "{leases:?}");
}
