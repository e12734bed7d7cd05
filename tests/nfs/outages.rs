//! Servers that go away, and come back. All mounts are hard, as they are by default: whoever asks waits.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Api, ListParams};
use libtest_mimic::Trial;
use nix::errno::Errno;
use serde_json::json;

use crate::rig::{MAIN, Rig};
use crate::site::{Provisioner, Setup, Site, text};
use crate::support::eventually;
use crate::talk::{FileCall, ROOT};

pub(crate) fn trials() -> Vec<Trial> {
    crate::trials![
        a_server_that_is_stopped_for_5_seconds,
        a_server_that_is_silent_for_60_seconds,
        an_end_that_is_asked_for_while_the_server_is_silent,
        a_mount_that_is_taken_away_and_made_anew,
        a_directory_that_was_made_without_an_answer,
        a_rename_that_was_done_without_an_answer,
        a_server_that_is_stopped_for_60_seconds,
        a_server_that_is_silent_for_5_seconds,
        a_silent_server_beside_one_that_answers,
    ]
}

/// Within which time of its first answer all that has waited for a server must be done.
const SOON: Duration = Duration::from_secs(15);

/// How a server is away, until this goes.
pub(crate) struct Outage {
    rig: &'static Rig,
    kind: Kind,
    begun: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It refuses connections, as while it is rebooted. What it knew of its clients, and what it has answered, is gone.
    Stopped,
    /// What is sent to it is lost.
    Silent,
    /// What it sends is lost: it does what it is asked for, and nobody knows.
    Mute,
}

impl Outage {
    pub(crate) fn begin(rig: &'static Rig, kind: Kind) -> Self {
        const LOSE: [&str; 4] = ["root", "netem", "loss", "100%"];
        match kind {
            Kind::Stopped => rig.run_on(MAIN, &["rpc.nfsd", "0"]),
            Kind::Silent => rig.run(&[&["tc", "qdisc", "replace", "dev", MAIN.name], &LOSE[..]].concat()),
            Kind::Mute => rig.run_on(MAIN, &[&["tc", "qdisc", "replace", "dev", "eth0"], &LOSE[..]].concat()),
        };
        Self { rig, kind, begun: Instant::now() }
    }

    async fn end_after(self, length: Duration) {
        tokio::time::sleep(length.saturating_sub(self.begun.elapsed())).await;
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        match self.kind {
            Kind::Stopped => self.rig.run_on(MAIN, &["rpc.nfsd", "4"]),
            Kind::Silent => self.rig.run(&["tc", "qdisc", "del", "dev", MAIN.name, "root"]),
            Kind::Mute => self.rig.run_on(MAIN, &["tc", "qdisc", "del", "dev", "eth0", "root"]),
        };
    }
}

/// Reboots a server that is mute, so that nobody ever gets the answers it has ready.
async fn reboot(rig: &'static Rig, mute: Outage) {
    // Else its kernel goes on sending what the server has written, even when that has ended.
    rig.run_on(MAIN, &["sh", "-c", "echo 1 >/proc/sys/net/ipv4/tcp_orphan_retries"]);
    let stopped = Outage::begin(rig, Kind::Stopped);
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(mute);
    drop(stopped);
}

async fn holder(site: &Site) -> String {
    let leases: Api<Lease> = site.space.api();
    let leases = leases.list(&ListParams::default()).await.unwrap().items;
    leases.into_iter().find_map(|lease| lease.spec?.holder_identity).expect("a leader")
}

fn lives(provisioner: &Provisioner) {
    assert_eq!(provisioner.ended(), None, "{}", provisioner.log());
    let (status, _) = provisioner.get("/livez").expect("an answer");
    assert_eq!(status, 200);
}

/// A server goes away in the middle of a burst of claims, and of the removal of a large tree.
async fn away(rig: &'static Rig, kind: Kind, length: Duration) {
    const CLAIMS: usize = 12;
    let site = Site::new(rig, Setup::default()).await;
    let provisioner = site.start();
    let class = site.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    for claim in ["tree", "leaves"] {
        site.space.claim(claim, &class, json!({})).await;
    }
    let [tree, leaves] = [site.space.bound("tree").await, site.space.bound("leaves").await];
    let path = site.disk.join(site.directory(&tree));
    site.file(ROOT, FileCall::MakeTree { path, directories: 100, files: 200 });
    let before = holder(&site).await;
    site.space.delete_claim("tree").await;
    site.space.gone(tree.metadata.name.as_deref().unwrap()).await;

    // Some before, some after the server has gone.
    let claims: Vec<String> = (0..CLAIMS).map(|number| format!("data-{number}")).collect();
    let mut outage = None;
    for (number, claim) in claims.iter().enumerate() {
        site.space.claim(claim, &class, json!({})).await;
        if number == CLAIMS / 3 {
            outage = Some(Outage::begin(rig, kind));
            site.space.delete_claim("leaves").await;
        }
    }
    let outage = outage.unwrap();
    // What needs no export goes on.
    site.space.claim("block", &class, json!({"spec": {"volumeMode": "Block"}})).await;
    site.space.event("block", "ProvisioningFailed").await;
    lives(&provisioner);
    if length > Duration::from_secs(30) {
        let waits = || async {
            let mut told = 0;
            for claim in &claims[CLAIMS / 3 + 1..] {
                told += usize::from(!site.space.events(claim, "ExportNotAnswering").await.is_empty());
            }
            (told == CLAIMS - CLAIMS / 3 - 1).then_some(())
        };
        eventually("all claims that wait to be told so", waits).await;
        let message = site.space.event(&claims[CLAIMS - 1], "ExportNotAnswering").await;
        assert!(message.contains(&site.path) && message.contains(" s"), "{message}");
        let (status, body) = provisioner.get("/readyz").expect("an answer");
        assert_eq!(status, 503, "{body}");
        lives(&provisioner);
    }
    outage.end_after(length).await;
    let returned = Instant::now();
    site.ping(1);
    let answered = returned.elapsed();
    for claim in &claims {
        site.space.bound(claim).await;
    }
    site.space.gone(leaves.metadata.name.as_deref().unwrap()).await;
    let done = returned.elapsed();
    println!(
        "    {kind:?} for {length:?}: it answered {answered:.1?} after it was back, all was done after {done:.1?}"
    );
    assert!(done.saturating_sub(answered) < SOON, "{done:?}");
    site.trash_is_empty().await;

    let volumes = site.space.volumes_of(&class).await;
    let mut directories: Vec<String> = volumes.iter().map(|volume| site.directory(volume)).collect();
    directories.sort();
    assert_eq!(directories.len(), CLAIMS);
    assert_eq!(site.entries(), directories);
    assert_eq!(holder(&site).await, before, "it has led all the time");
    lives(&provisioner);
    let ready = || async { (provisioner.get("/readyz").ok()?.0 == 200).then_some(()) };
    eventually("it to be ready", ready).await;
}

async fn a_server_that_is_stopped_for_5_seconds(rig: &'static Rig) {
    away(rig, Kind::Stopped, Duration::from_secs(5)).await;
}

async fn a_server_that_is_stopped_for_60_seconds(rig: &'static Rig) {
    away(rig, Kind::Stopped, Duration::from_mins(1)).await;
}

async fn a_server_that_is_silent_for_5_seconds(rig: &'static Rig) {
    away(rig, Kind::Silent, Duration::from_secs(5)).await;
}

async fn a_server_that_is_silent_for_60_seconds(rig: &'static Rig) {
    away(rig, Kind::Silent, Duration::from_mins(1)).await;
}

/// Of two exports of one process one does not answer.
async fn a_silent_server_beside_one_that_answers(rig: &'static Rig) {
    // More than there are workers, and threads for one export.
    const WAITING: usize = 40;
    let other = rig.server("other", "10.78.3.2");
    let silent = Site::new(rig, Setup::default()).await;
    let answering = Site::new(rig, Setup { server: other, ..Setup::default() }).await;
    let provisioner = silent.start_beside("other", &answering);
    let class = |name: &'static str, export: &'static str| {
        silent.class(name, json!({"parameters": {"export": export, "onDelete": "delete"}}))
    };
    let (hung, well) = (class("hung", "default").await, class("well", "other").await);
    let either = class("either", "default, other").await;
    silent.space.claim("before", &hung, json!({})).await;
    silent.space.bound("before").await;

    let outage = Outage::begin(rig, Kind::Silent);
    for number in 0..WAITING {
        silent.space.claim(&format!("waiting-{number}"), &hung, json!({})).await;
    }
    silent.space.event("waiting-0", "ExportNotAnswering").await;
    let begun = Instant::now();
    silent.space.claim("data", &well, json!({})).await;
    let volume = silent.space.bound("data").await;
    let bound = begun.elapsed();
    assert_eq!(answering.entries(), [answering.directory(&volume)]);
    silent.space.delete_claim("data").await;
    silent.space.gone(volume.metadata.name.as_deref().unwrap()).await;
    answering.trash_is_empty().await;
    println!("    Bound {bound:.1?} after it was made, beside {WAITING} that waited for the other server");
    assert!(bound < Duration::from_secs(5), "{bound:?}");
    // A class that may use both uses the one that answers.
    silent.space.claim("either", &either, json!({})).await;
    answering.directory(&silent.space.bound("either").await);
    let (status, body) = provisioner.get("/readyz?verbose").expect("an answer");
    let told = body.contains("[-]export/default failed") && body.contains("[+]export/other ok");
    assert!(status == 503 && told, "{body}");
    lives(&provisioner);
    drop(outage);
    for number in 0..WAITING {
        silent.space.bound(&format!("waiting-{number}")).await;
    }
    assert_eq!(silent.entries().len(), WAITING + 1);
}

async fn an_end_that_is_asked_for_while_the_server_is_silent(rig: &'static Rig) {
    let site = Site::new(rig, Setup::default()).await;
    let provisioner = site.start();
    let class = site.class("nfs", json!({})).await;
    site.space.claim("before", &class, json!({})).await;
    site.space.bound("before").await;
    let outage = Outage::begin(rig, Kind::Silent);
    site.space.claim("data", &class, json!({})).await;
    site.space.event("data", "Provisioning").await;
    println!("    it ended after {:.1?}", provisioner.stop());
    // The next one starts, leads and waits.
    let provisioner = site.start();
    site.space.event("data", "ExportNotAnswering").await;
    lives(&provisioner);
    drop(outage);
    let volume = site.space.bound("data").await;
    assert_eq!(site.entries().len(), 2);
    assert!(site.entries().contains(&site.directory(&volume)));
}

async fn a_mount_that_is_taken_away_and_made_anew(rig: &'static Rig) {
    let site = Site::new(rig, Setup::default()).await;
    let provisioner = site.start();
    let class = site.class("nfs", json!({})).await;
    site.space.claim("before", &class, json!({})).await;
    site.space.bound("before").await;
    rig.run(&["umount", "--lazy", text(&site.mount)]);
    // It is looked at every ten seconds.
    let noticed = || async { (provisioner.get("/readyz").ok()?.0 == 503).then_some(()) };
    eventually("it to be noticed", noticed).await;
    site.space.claim("data", &class, json!({})).await;
    let message = site.space.event("data", "ProvisioningFailed").await;
    assert!(message.contains("is not an NFS mount"), "{message}");
    assert!(site.names(&site.mount).is_empty(), "nothing is written where the mount was");
    assert_eq!(site.entries().len(), 1);
    lives(&provisioner);
    site.mount_as_provisioner();
    let mounted = Instant::now();
    site.space.bound("data").await;
    println!("    Bound {:.1?} after it was mounted anew", mounted.elapsed());
    assert!(mounted.elapsed() < SOON, "{:?}", mounted.elapsed());
    assert_eq!(site.entries().len(), 2);
}

/// The server has made a directory, its answer is lost, and then it is rebooted: asked again, it says that there is one
/// already. It is the claim's, all the same.
async fn a_directory_that_was_made_without_an_answer(rig: &'static Rig) {
    let site = Site::new(rig, Setup::default()).await;
    let provisioner = site.start();
    let class = site.class("nfs", json!({})).await;
    // So that all is known that is needed, and the next call is the one that matters.
    site.space.claim("before", &class, json!({})).await;
    site.space.bound("before").await;
    let mute = Outage::begin(rig, Kind::Mute);
    site.space.claim("data", &class, json!({})).await;
    eventually("the directory", || async { (site.entries().len() == 2).then_some(()) }).await;
    let claims = site.space.api::<PersistentVolumeClaim>();
    let phase = claims.get("data").await.unwrap().status.unwrap().phase;
    assert_eq!(phase.as_deref(), Some("Pending"), "nobody knows of it");
    reboot(rig, mute).await;
    let volume = site.space.bound("data").await;
    assert_eq!(site.entries().len(), 2);
    assert_eq!(site.stat(site.disk.join(site.directory(&volume))).mode, 0o777);
    lives(&provisioner);
}

/// As before, and the server then says that there is nothing to be renamed: `ENOENT` is how it says "done" at times.
async fn a_rename_that_was_done_without_an_answer(rig: &'static Rig) {
    let site = Site::new(rig, Setup::default()).await;
    // A server that has just begun opens no files, and so keeps this waiting; nor would it rename.
    site.write(ROOT, site.mount.join("file"), "");
    let (from, to) = (site.mount.join("from"), site.mount.join("to"));
    site.file(ROOT, FileCall::MakeDir { path: from.clone(), mode: 0o755 });
    assert!(rig.file(ROOT, FileCall::Stat { path: to.clone() }).is_err());
    let mute = Outage::begin(rig, Kind::Mute);
    let rename = std::thread::spawn(move || rig.file(ROOT, FileCall::Rename { from, to }));
    eventually("the rename", || async { (site.entries() == ["file", "to"]).then_some(()) }).await;
    reboot(rig, mute).await;
    let answer = rename.join().unwrap();
    assert_eq!(answer.err().map(Errno::from_raw), Some(Errno::ENOENT));
}
