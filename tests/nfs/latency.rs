//! What a distant server costs. The figures are printed; the limits are many times what an idle machine needs.

use std::time::{Duration, Instant};

use futures::future::join_all;
use libtest_mimic::Trial;
use serde_json::json;

use crate::rig::{MAIN, Rig};
use crate::site::{Setup, Site};
use crate::support::eventually;
use crate::talk::FileCall;

pub(crate) fn trials() -> Vec<Trial> {
    crate::trials![at_no_distance, at_1_millisecond, at_10_milliseconds]
}

const CLAIMS: usize = 40;
const DIRECTORIES: u32 = 40;
const FILES: u32 = 50;
const ALONE: u32 = 10;

/// Provisions a burst of claims and deletes a tree, with round trips that take so long.
async fn at(rig: &'static Rig, distance: Duration) {
    let site = Site::new(rig, Setup::default()).await;
    let provisioner = site.start();
    let class = site.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    site.space.claim("tree", &class, json!({})).await;
    let tree = site.space.bound("tree").await;
    let path = site.disk.join(site.directory(&tree));
    site.file(0, FileCall::MakeTree { path, directories: DIRECTORIES, files: FILES });

    let _near = Delay::new(rig, distance);
    // The first waits for a server that has just begun.
    site.ping(1);
    let call = site.ping(10) / 2;
    assert!(call >= distance, "{call:?}");
    let names: Vec<String> = (0..CLAIMS).map(|number| format!("data-{number}")).collect();
    let begun = Instant::now();
    join_all(names.iter().map(|name| site.space.claim(name, &class, json!({})))).await;
    let volumes = join_all(names.iter().map(|name| site.space.bound(name))).await;
    let bound = begun.elapsed();

    let begun = Instant::now();
    site.space.delete_claim("tree").await;
    site.space.gone(tree.metadata.name.as_deref().unwrap()).await;
    let gone = begun.elapsed();
    let entries = f64::from(DIRECTORIES * (FILES + 1) + 1);
    let reaped =
        || async { (provisioner.metric("nfs_provisioner_trash_removed_files_total")? >= entries).then_some(()) };
    eventually("the tree to be removed", reaped).await;
    let removed = begun.elapsed();
    // What others do on this machine is in the times above, but hardly in these.
    let mean = |operation: &str| {
        let of = |part| {
            let name = format!("nfs_provisioner_directory_operation_duration_seconds_{part}");
            provisioner
                .metric(&format!("{name}{{export=\"default\",operation=\"{operation}\"}}"))
                .expect("a metric")
        };
        Duration::from_secs_f64(of("sum") / of("count"))
    };
    println!(
        "    a round trip of {distance:?}, a call {call:.1?}: a directory made in {:.1?}, its note beside it in {:.1?}, \
         trashed in {:.1?}; {CLAIMS} \
         claims Bound in {bound:.1?}; a tree of {entries} entries gone in {gone:.1?}, all removed in {removed:.1?}",
        mean("create"),
        mean("record"),
        mean("trash"),
    );
    // One after another, so that no call waits for a thread.
    let sums = || {
        ["create", "record"].map(|operation| {
            let name = "nfs_provisioner_directory_operation_duration_seconds_sum";
            let sum = provisioner.metric(&format!("{name}{{export=\"default\",operation=\"{operation}\"}}"));
            sum.expect("a metric")
        })
    };
    let before = sums();
    for number in 0..ALONE {
        let name = format!("alone-{number}");
        site.space.claim(&name, &class, json!({})).await;
        site.space.bound(&name).await;
    }
    let [create, record] = [0, 1].map(|index| (sums()[index] - before[index]) / f64::from(ALONE) * 1000.0);
    println!("    of one claim alone: a directory made in {create:.1} ms, its note beside it in {record:.1} ms");
    // At most one more round trip; the rest is for others on this machine.
    let more = distance.as_secs_f64() * 2000.0 + 50.0;
    assert!(record < create + more, "{record} ms for the note, {create} ms for the directory");
    assert_eq!(site.entries().len(), volumes.len() + ALONE as usize);
    assert!(site.trash().is_empty());
    // A call for each entry, one after another, takes 20 s at 10 ms.
    assert!(mean("reap") < distance * DIRECTORIES * FILES / 2 + Duration::from_secs(5), "{:?}", mean("reap"));
    assert!(mean("create") < distance * 20 + Duration::from_secs(2), "{:?}", mean("create"));
    assert!(mean("trash") < distance * 40 + Duration::from_secs(2), "{:?}", mean("trash"));
}

/// Makes packets to the server late, until it goes.
pub(crate) struct Delay(&'static Rig);

impl Delay {
    pub(crate) fn new(rig: &'static Rig, delay: Duration) -> Self {
        let delay = format!("{}us", delay.as_micros());
        rig.run(&[
            "tc", "qdisc", "replace", "dev", MAIN.name, "root", "netem", "limit", "100000", "delay", &delay,
        ]);
        Self(rig)
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        let _ = self.0.try_run(&["tc", "qdisc", "del", "dev", MAIN.name, "root"]);
    }
}

async fn at_no_distance(rig: &'static Rig) {
    at(rig, Duration::ZERO).await;
}

async fn at_1_millisecond(rig: &'static Rig) {
    at(rig, Duration::from_millis(1)).await;
}

async fn at_10_milliseconds(rig: &'static Rig) {
    at(rig, Duration::from_millis(10)).await;
}
