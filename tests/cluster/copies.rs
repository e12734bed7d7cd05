//! What becomes of copies, and of what they are made of, while other things happen.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams};
use nfs_provisioner::layout::{STAGING, staging};
use serde_json::{Value, json};

use crate::clone::{copy, name_of, nothing_is_left, source};
use crate::exports::Mounted;
use crate::support::eventually;
use crate::support::http::{free_port, get};
use crate::support::process::{Process, Settings};
use crate::support::proxy::{Action, Fault, Proxy};
use crate::support::space::{Space, create, from_json, named};

/// So many files take a copy a while.
const MANY: usize = 2_000;

/// A claim that is to be a copy of another one.
fn copy_of(claim: &str) -> Value {
    json!({"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": claim}}})
}

/// The places in which copies are being made.
fn staged(space: &Space) -> Vec<PathBuf> {
    let places = fs::read_dir(space.at(STAGING));
    places.into_iter().flatten().map(|place| place.unwrap().path()).collect()
}

/// Holds the copy of a volume where it was made, complete but not in its place, until the fault is dropped: before a copy
/// goes there, its volume is read once more. So many `others` are being made already.
fn hold(space: &Space, proxy: &Proxy, source: &PersistentVolume, others: usize) -> Fault {
    let (name, places) = (name_of(source).to_owned(), space.at(STAGING));
    let is_made = move || fs::read_dir(&places).map_or(0, Iterator::count) > others;
    proxy.fault(move |asked| asked.reads("persistentvolumes", &name) && is_made(), Action::Freeze)
}

async fn is_held(fault: &Fault) {
    eventually("the copy to be held", || async { (fault.hits() > 0).then_some(()) }).await;
}

/// Has as many copies under way as are made at a time, until the faults are dropped.
async fn keep_busy(space: &Space, proxy: &Proxy, class: &str) -> Vec<Fault> {
    let mut held = Vec::new();
    for number in 0..2 {
        let from = format!("busy-source-{number}");
        let fault = hold(space, proxy, &small(space, &from, class).await, number);
        space.claim(&format!("busy-{number}"), class, copy_of(&from)).await;
        is_held(&fault).await;
        held.push(fault);
    }
    assert_eq!(staged(space).len(), 2);
    held
}

/// Starts a provisioner whose work another one goes on with at once.
fn start_alone(mut settings: Settings) -> Process {
    settings.environment.push(("ENABLE_LEADER_ELECTION".to_owned(), "false".to_owned()));
    Process::start(&settings)
}

/// Makes a claim with one file; its volume.
async fn small(space: &Space, name: &str, class: &str) -> PersistentVolume {
    space.claim(name, class, json!({})).await;
    let volume = space.bound(name).await;
    fs::write(space.at(&Space::directory(&volume)).join("file"), name).unwrap();
    volume
}

/// The file that [`small`] has made, in a claim that is Bound.
async fn file_of(space: &Space, claim: &str) -> String {
    let directory = Space::directory(&space.bound(claim).await);
    fs::read_to_string(space.at(&directory).join("file")).unwrap()
}

#[tokio::test]
async fn a_source_that_goes_while_its_copy_waits_for_its_turn_stays_until_it_is_copied() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let provisioner = space.start_through(&proxy);
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let volume = small(&space, "small", &class).await;
    let busy = keep_busy(&space, &proxy, &class).await;
    let claim = space.claim("last", &class, copy_of("small")).await;
    // It has been accepted once it has a directory reserved; the copy begins when one of the others has ended.
    space.event("last", "Provisioning").await;
    space.delete_claim("small").await;
    space.phase(name_of(&volume), "Released").await;
    let place = space.at(STAGING).join(format!("pvc-{}", claim.metadata.uid.unwrap()));
    assert!(!place.exists(), "it has not begun:\n{}", provisioner.log());
    let message = space.event(name_of(&volume), "VolumeWaitsForCopy").await;
    assert!(message.contains(&format!("{}/last", space.namespace)), "{message}");
    drop(busy);
    assert_eq!(file_of(&space, "last").await, "small");
    space.gone(name_of(&volume)).await;
    assert!(!space.at(&Space::directory(&volume)).exists());
}

#[tokio::test]
async fn a_source_that_is_gone_is_copied_by_the_process_that_follows_and_goes_after_that() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let provisioner = start_alone(space.settings_through(&proxy));
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let volume = source(&space, &class, 10).await;
    let from = space.at(&Space::directory(&volume));
    let held = hold(&space, &proxy, &volume, 0);
    space.claim("copy", &class, copy("1Mi")).await;
    is_held(&held).await;
    space.delete_claim("source").await;
    space.phase(name_of(&volume), "Released").await;
    drop(provisioner);
    assert!(!staged(&space).is_empty(), "it is not in its place");
    let provisioner = start_alone(space.settings());
    let to = space.at(&Space::directory(&space.bound("copy").await));
    assert_eq!(fs::read_dir(to.join("a")).unwrap().count(), 12, "{}", provisioner.log());
    space.gone(name_of(&volume)).await;
    assert!(!from.exists());
    nothing_is_left(&space).await;
}

#[tokio::test]
async fn no_volume_stays_for_a_claim_that_was_refused_or_was_made_too_late() {
    let space = Space::new().await;
    let provisioner = start_alone(space.settings());
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let size = json!({"spec": {"resources": {"requests": {"storage": "2Mi"}}}});
    space.claim("source", &class, size).await;
    let volume = space.bound("source").await;
    space.claim("too-small", &class, copy("1Mi")).await;
    assert!(space.event("too-small", "ProvisioningFailed").await.contains("has 2Mi"));
    space.long_in_use(name_of(&volume)).await;
    drop(provisioner);
    space.delete_claim("source").await;
    space.phase(name_of(&volume), "Released").await;
    // The API server tells times in whole seconds.
    let released = space.volumes().get(name_of(&volume)).await.unwrap().status.unwrap();
    let released = released.last_phase_transition_time.unwrap().0.as_second();
    eventually("the next second", || async { (Timestamp::now().as_second() > released).then_some(()) }).await;
    space.claim("too-late", &class, copy("2Mi")).await;
    let _provisioner = start_alone(space.settings());
    space.gone(name_of(&volume)).await;
    assert!(space.event("too-late", "ProvisioningFailed").await.contains("does not exist"));
    assert!(!space.at(&Space::directory(&volume)).exists());
    assert!(space.events(name_of(&volume), "VolumeReclaimUnclear").await.is_empty());
}

#[tokio::test]
async fn a_copy_never_reads_what_another_namespace_has_put_in_the_place_of_its_source() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let provisioner = space.start_through(&proxy);
    let parameters = json!({"onDelete": "delete", "pathPattern": "read-${.PVC.name}"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    let volume = small(&space, "small", &class).await;
    let busy = keep_busy(&space, &proxy, &class).await;
    space.claim("last", &class, copy_of("small")).await;
    space.event("last", "Provisioning").await;

    // An admin removes the volume, and what is in it, behind everybody's back.
    let volumes = space.volumes();
    volumes.delete(name_of(&volume), &DeleteParams::default()).await.unwrap();
    space.patch(&volumes, name_of(&volume), json!({"metadata": {"finalizers": null}})).await;
    space.gone(name_of(&volume)).await;
    fs::remove_dir_all(space.at("read-small")).unwrap();
    let other = format!("{}-other", space.namespace);
    create(&Api::all(space.client.clone()), named::<Namespace>(&other)).await;
    space.claim_in(&other, "small", &class, json!({})).await;
    let theirs = space.bound_in(&other, "small").await;
    assert_eq!(Space::directory(&theirs), "read-small");
    fs::write(space.at("read-small/file"), "theirs").unwrap();
    drop(busy);

    let message = eventually("the copy to fail", || async {
        let events = space.events("last", "ProvisioningFailed").await;
        events.into_iter().filter_map(|event| event.message).find(|message| message.contains("was deleted"))
    })
    .await;
    assert!(message.contains(name_of(&volume)), "{message}");
    let claim: PersistentVolumeClaim = space.api().get("last").await.unwrap();
    assert_eq!((claim.status.unwrap().phase.as_deref(), space.at("read-last").exists()), (Some("Pending"), false));
    assert_eq!(fs::read_to_string(space.at("read-small/file")).unwrap(), "theirs", "{}", provisioner.log());
}

/// The value of a series, as a process shows it.
fn shown(port: u16, series: &str) -> u64 {
    let value = get(port, "/metrics").lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    value.unwrap_or_default()
}

const FAILED: &str = "nfs_provisioner_copies_total{result=\"failed\"}";
const FILES: &str = "nfs_provisioner_copied_files_total{export=\"default\"}";
const RETRIES: &str = "nfs_provisioner_retries_total{queue=\"claims\",reason=\"export\"}";

/// Starts a provisioner that shows its metrics at a port.
pub(crate) fn start_shown(mut settings: Settings) -> (Process, u16) {
    let port = free_port();
    settings.environment.push(("HTTP_ADDR".to_owned(), format!("127.0.0.1:{port}")));
    (Process::start(&settings), port)
}

#[tokio::test]
async fn a_copy_whose_place_is_taken_is_not_made_and_is_tried_later_and_later() {
    let space = Space::new().await;
    let (provisioner, port) = start_shown(space.settings());
    let class = space.class("nfs", json!({})).await;
    source(&space, &class, 10).await;
    fs::create_dir(space.at("taken-before")).unwrap();
    fs::write(space.at("taken-before/file"), "mine").unwrap();
    let pattern = space.class("pattern", json!({"parameters": {"pathPattern": "taken-before"}})).await;
    let begun = Instant::now();
    space.claim("copy", &pattern, copy("1Mi")).await;
    let message = space.event("copy", "ProvisioningFailed").await;
    for words in ["place the copy at \"taken-before\"", "not empty", "pathPattern"] {
        assert!(message.contains(words), "{message}");
    }
    // After half a second, a second, two and four: at once again and again, it would be far sooner.
    eventually("several tries", || async { (shown(port, RETRIES) >= 5).then_some(()) }).await;
    assert!(begun.elapsed() >= Duration::from_millis(7500), "{:?}", begun.elapsed());
    assert_eq!((shown(port, FILES), staged(&space).len()), (0, 0), "{}", provisioner.log());
    fs::remove_file(space.at("taken-before/file")).unwrap();
    space.bound("copy").await;
    assert_eq!(fs::read_to_string(space.at("taken-before/a/b/file")).unwrap(), "text");
}

#[tokio::test]
async fn a_complete_copy_whose_place_was_taken_meanwhile_is_kept_until_it_is_free() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let (provisioner, port) = start_shown(space.settings_through(&proxy));
    let class = space.class("nfs", json!({})).await;
    let volume = source(&space, &class, 10).await;
    let pattern = space.class("pattern", json!({"parameters": {"pathPattern": "taken-meanwhile"}})).await;
    let held = hold(&space, &proxy, &volume, 0);
    space.claim("copy", &pattern, copy("1Mi")).await;
    is_held(&held).await;
    fs::create_dir(space.at("taken-meanwhile")).unwrap();
    fs::write(space.at("taken-meanwhile/file"), "mine").unwrap();
    drop(held);
    space.event("copy", "ProvisioningFailed").await;
    eventually("another try", || async { (shown(port, FAILED) >= 3).then_some(()) }).await;
    let made = staged(&space).pop().expect("the copy").join(staging::COPY);
    let (inode, files) = (fs::metadata(&made).unwrap().ino(), shown(port, FILES));
    assert_eq!(fs::read_dir(made.join("a")).unwrap().count(), 12);
    fs::remove_dir_all(space.at("taken-meanwhile")).unwrap();
    space.bound("copy").await;
    assert_eq!(
        fs::metadata(space.at("taken-meanwhile")).unwrap().ino(),
        inode,
        "the same copy:\n{}",
        provisioner.log()
    );
    assert_eq!(shown(port, FILES), files, "nothing is copied twice");
    nothing_is_left(&space).await;

    // One that is kept for a claim goes with it.
    fs::remove_dir_all(space.at("taken-meanwhile")).unwrap();
    let held = hold(&space, &proxy, &volume, 0);
    space.claim("dropped", &pattern, copy("1Mi")).await;
    is_held(&held).await;
    fs::create_dir(space.at("taken-meanwhile")).unwrap();
    fs::write(space.at("taken-meanwhile/file"), "mine").unwrap();
    drop(held);
    space.event("dropped", "ProvisioningFailed").await;
    space.delete_claim("dropped").await;
    nothing_is_left(&space).await;
    assert_eq!(fs::read_to_string(space.at("taken-meanwhile/file")).unwrap(), "mine");
}

#[tokio::test]
async fn a_copy_that_finds_no_space_waits_for_some_and_does_not_fill_the_export_again_and_again() {
    let space = Space::new().await;
    let _export = Mounted::of(space.at(""), "8m");
    let (provisioner, port) = start_shown(space.settings());
    let class = space.class("nfs", json!({})).await;
    space.claim("source", &class, json!({})).await;
    let volume = space.bound("source").await;
    fs::write(space.at(&Space::directory(&volume)).join("file"), vec![1; 5 << 20]).unwrap();
    space.claim("copy", &class, copy("1Mi")).await;
    let message = eventually("the copy to find no space", || async {
        let events = space.events("copy", "ProvisioningFailed").await;
        events.into_iter().find_map(|event| event.message)
    })
    .await;
    assert!(message.contains("no space left on device") && message.contains("Free some there"), "{message}");
    let failed = shown(port, FAILED);
    eventually("several tries", || async { (shown(port, RETRIES) >= 5).then_some(()) }).await;
    assert_eq!((failed, shown(port, FAILED)), (1, 1), "{}", provisioner.log());
    let more = Command::new("mount").args(["-o", "remount,size=32m"]).arg(space.at("")).status().unwrap();
    assert!(more.success());
    let copied = space.at(&Space::directory(&space.bound("copy").await));
    assert_eq!(fs::metadata(copied.join("file")).unwrap().len(), 5 << 20);
}

#[tokio::test]
async fn a_leader_that_could_not_renew_its_lock_for_a_while_goes_on_with_its_copy() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let provisioner = space.start_through(&proxy);
    let class = space.class("nfs", json!({})).await;
    let volume = source(&space, &class, MANY).await;
    // Should the copying be over by then, it is held before it goes to its place.
    let held = hold(&space, &proxy, &volume, 0);
    space.claim("copy", &class, copy("1Mi")).await;
    let made = eventually("files to be copied", || async {
        let made = staged(&space).pop()?.join(staging::COPY);
        made.join("a").exists().then_some(made)
    })
    .await;
    provisioner.signal("STOP");
    let (paused, inode) = (Instant::now(), fs::metadata(&made).expect("it is not in its place").ino());
    // It leads for ten seconds after it renewed the lock, and nobody else takes it.
    while paused.elapsed() < Duration::from_secs(11) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    provisioner.signal("CONT");
    drop(held);
    let to = space.at(&Space::directory(&space.bound("copy").await));
    assert_eq!(fs::metadata(&to).unwrap().ino(), inode, "the same copy:\n{}", provisioner.log());
    assert_eq!(fs::read_dir(to.join("a")).unwrap().count(), MANY + 2);
}

/// As after a restart between the volume's creation and the claim's binding. The controller manager does not bind a
/// claim to a volume that is smaller.
#[tokio::test]
async fn a_claim_that_has_its_volume_already_is_not_copied_for_again() {
    let space = Space::new().await;
    let provisioner = start_alone(space.settings());
    let class = space.class("nfs", json!({"parameters": {"onDelete": "retain"}})).await;
    source(&space, &class, 10).await;
    drop(provisioner);
    let claim = space.claim("copy", &class, copy("2Mi")).await;
    let uid = claim.metadata.uid.unwrap();
    let volume: PersistentVolume = from_json(json!({
        "metadata": {
            "name": format!("pvc-{uid}"), "annotations": {"pv.kubernetes.io/provisioned-by": space.provisioner},
        },
        "spec": {
            "accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Mi"}, "storageClassName": class,
            "claimRef": {"kind": "PersistentVolumeClaim", "namespace": space.namespace, "name": "copy", "uid": uid},
            "nfs": {"server": crate::support::space::SERVER, "path": "/export/made-before"},
        },
    }));
    create(&space.volumes(), volume).await;
    let entries = space.entries();
    let provisioner = start_alone(space.settings());
    eventually("the claim to be looked at", || async {
        provisioner.log().contains("already has its volume and waits to be bound to it").then_some(())
    })
    .await;
    assert_eq!((space.entries(), staged(&space)), (entries, Vec::new()), "{}", provisioner.log());

    // Once the volume is gone, the claim needs another one.
    space.volumes().delete(&format!("pvc-{uid}"), &DeleteParams::default()).await.unwrap();
    let to = space.at(&Space::directory(&space.bound("copy").await));
    assert_eq!(fs::read_to_string(to.join("a/b/file")).unwrap(), "text");
}
