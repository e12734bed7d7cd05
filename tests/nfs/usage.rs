//! How much volumes hold, counted over NFS or told by the server.

use libtest_mimic::Trial;
use serde_json::json;

use crate::rig::Rig;
use crate::site::{Disk, Provisioner, Setup, Site, text};
use crate::support::eventually;
use crate::talk::{FileCall, ROOT};

pub(crate) fn trials() -> Vec<Trial> {
    crate::trials![what_a_volume_holds_is_counted_over_nfs, a_server_that_keeps_count_is_asked]
}

const MEBIBYTE: u64 = 1 << 20;

fn start(site: &Site) -> Provisioner {
    site.start_with(&[], &[("USAGE_CALLS_PER_SECOND", "2000")])
}

/// What the claim "data" is said to hold: bytes or inodes.
fn held(provisioner: &Provisioner, what: &str) -> Option<u64> {
    let (_, text) = provisioner.get("/metrics").ok()?;
    let mut lines = text.lines().filter(|line| line.contains("persistentvolumeclaim=\"data\""));
    let line = lines.find(|line| line.starts_with(&format!("nfs_provisioner_claim_used_{what}{{")))?;
    line.rsplit(' ').next()?.parse().ok()
}

async fn what_a_volume_holds_is_counted_over_nfs(rig: &'static Rig) {
    for (version, disk) in [("3", Disk::Ext4), ("4.2", Disk::Xfs)] {
        let site = Site::new(rig, Setup { disk, version, mount: ",actimeo=1", ..Setup::default() }).await;
        let provisioner = start(&site);
        let class = site.class("nfs", json!({})).await;
        site.space.claim("data", &class, json!({})).await;
        let at = site.disk.join(site.directory(&site.space.bound("data").await));
        // Made aside, so that nobody counts a part of it.
        let aside = site.disk.join("aside");
        site.file(ROOT, FileCall::MakeDir { path: aside.clone(), mode: 0o700 });
        for name in ["a", "b"] {
            let directory = aside.join(name);
            site.file(ROOT, FileCall::MakeDir { path: directory.clone(), mode: 0o700 });
            rig.run(&["dd", "if=/dev/zero", &format!("of={}", text(&directory.join("file"))), "bs=1M", "count=1"]);
        }
        rig.run(&["ln", text(&aside.join("a/file")), text(&aside.join("b/again"))]);
        rig.run(&["ln", "-s", "/", text(&aside.join("b/link"))]);
        rig.run(&["sync"]);
        rig.run(&["mv", text(&aside), text(&at.join("all"))]);

        // Itself, that directory, two in it with a file each, and a link.
        eventually("all to be counted", || async { (held(&provisioner, "inodes")? == 7).then_some(()) }).await;
        eventually("its size to be known", || async {
            let bytes = held(&provisioner, "bytes")?;
            (2 * MEBIBYTE..2 * MEBIBYTE + MEBIBYTE / 8).contains(&bytes).then_some(())
        })
        .await;
        let message = site.space.event("data", "UsageExceedsRequest").await;
        assert!(message.contains("2 times the 1Mi"), "{message}");
    }
}

async fn a_server_that_keeps_count_is_asked(rig: &'static Rig) {
    let setup = Setup { disk: Disk::Xfs, mount: ",actimeo=1", ..Setup::default() };
    let site = Site::new(rig, setup).await;
    let provisioner = start(&site);
    let class = site.class("nfs", json!({})).await;
    site.space.claim("data", &class, json!({})).await;
    let at = site.disk.join(site.directory(&site.space.bound("data").await));
    for command in [format!("project -s -p {} 7", text(&at)), "limit -p bhard=8m 7".to_owned()] {
        rig.run(&["xfs_quota", "-x", "-c", &command, text(&site.disk)]);
    }
    rig.run(&["dd", "if=/dev/zero", &format!("of={}", text(&at.join("file"))), "bs=1M", "count=3"]);
    rig.run(&["sync"]);
    let spent = || provisioner.metric("nfs_provisioner_usage_calls_total").unwrap();
    eventually("what the server says", || async { (held(&provisioner, "bytes")? == 3 * MEBIBYTE).then_some(()) })
        .await;

    // A thousand files more cost no more calls, because nobody looks at them.
    let script = format!("cd {} && for i in $(seq 1000); do : > $i; done && sync", text(&at));
    rig.run(&["sh", "-c", &script]);
    eventually("the files to show", || async { (held(&provisioner, "inodes")? > 1000).then_some(()) }).await;
    let before = spent();
    rig.run(&["rm", text(&at.join("file"))]);
    rig.run(&["sync"]);
    eventually("the space to be free", || async { (held(&provisioner, "bytes")? < MEBIBYTE).then_some(()) }).await;
    assert!(spent() - before < 500.0, "{} calls", spent() - before);
}
