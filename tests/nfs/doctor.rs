//! `nfs-provisioner doctor` on real exports.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::latency::Delay;
use crate::outages::{Kind, Outage};
use crate::rig::Rig;
use crate::site::{NOBODY, Setup, Site, text};
use crate::support::eventually;
use crate::talk::Request;

pub(crate) fn trials() -> Vec<Trial> {
    crate::trials![
        a_good_export_is_found_good,
        a_root_that_is_squashed_is_found_and_said,
        an_export_on_which_nothing_may_be_made_is_said,
        a_read_only_export_is_said,
        what_is_no_nfs_mount_is_said,
        a_server_that_does_not_answer_is_said_in_time,
        what_a_killed_run_has_left_goes_with_a_later_one,
    ]
}

/// Its exit status, and what it found.
fn examined(site: &Site) -> (i32, Vec<Value>) {
    let (status, output) = site.doctor(&["-o", "json"]);
    let report: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
    (status, report["checks"].as_array().unwrap().clone())
}

/// The level of a check, its message and its remedy together.
fn found(findings: &[Value], check: &str) -> (String, String) {
    let finding = findings.iter().find(|finding| finding["check"] == check);
    let finding = finding.unwrap_or_else(|| panic!("{check}: {findings:?}"));
    let words = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    (words("level"), format!("{} {}", words("message"), words("fix")))
}

/// What runs have left at the export's root.
fn left(site: &Site) -> Vec<String> {
    let mut names = site.names(&site.disk);
    names.retain(|name| name.starts_with(".nfs-provisioner-doctor-"));
    names
}

fn unwell(findings: &[Value]) -> Vec<&Value> {
    findings.iter().filter(|finding| finding["level"] != "ok").collect()
}

async fn a_good_export_is_found_good(rig: &'static Rig) {
    for version in ["3", "4.2"] {
        let site = Site::new(rig, Setup { version, ..Setup::default() }).await;
        let _provisioner = site.start();
        site.class("nfs", json!({})).await;
        let (status, findings) = examined(&site);
        assert_eq!((status, unwell(&findings)), (0, vec![]), "{version}");
        let (_, mount) = found(&findings, "mount");
        assert!(mount.contains(&site.path) && mount.contains(&format!("vers={version}")), "{mount}");
        let (_, squash) = found(&findings, "squash");
        assert!(squash.contains("lets root be root"), "{squash}");
        let (_, clock) = found(&findings, "nfs-server-clock");
        assert!(clock.contains("agrees"), "{clock}");
        assert_eq!(left(&site), [""; 0]);
    }
}

async fn a_root_that_is_squashed_is_found_and_said(rig: &'static Rig) {
    let site = Site::new(rig, Setup { options: "rw,root_squash", owner: NOBODY, ..Setup::DEFAULT }).await;
    site.class("nfs", json!({})).await;
    let (status, findings) = examined(&site);
    let (level, words) = found(&findings, "squash");
    assert_eq!((status, &*level, unwell(&findings).len()), (0, "warning", 1), "{findings:?}");
    assert!(words.contains(&format!("root for user {NOBODY}")) && words.contains("no_root_squash"), "{words}");
}

async fn an_export_on_which_nothing_may_be_made_is_said(rig: &'static Rig) {
    let site = Site::new(rig, Setup { options: "rw,root_squash", ..Setup::DEFAULT }).await;
    let (status, findings) = examined(&site);
    let (level, words) = found(&findings, "mkdir");
    assert_eq!((status, &*level), (1, "failure"), "{findings:?}");
    assert!(words.contains("permission denied") && words.contains("no_root_squash"), "{words}");
}

async fn a_read_only_export_is_said(rig: &'static Rig) {
    let site = Site::new(rig, Setup { options: "ro,no_root_squash", ..Setup::DEFAULT }).await;
    let (status, findings) = examined(&site);
    let (level, words) = found(&findings, "mkdir");
    assert_eq!((status, &*level), (1, "failure"), "{findings:?}");
    assert!(words.contains("read-only file system") && words.contains("with rw"), "{words}");
    // Mounted so by the node, over an export that may be written.
    let site = Site::new(rig, Setup { mount: ",ro", ..Setup::DEFAULT }).await;
    let (status, findings) = examined(&site);
    let (level, words) = found(&findings, "mount");
    assert_eq!((status, &*level), (1, "failure"), "{findings:?}");
    assert!(words.contains("mounted read-only"), "{words}");
}

async fn what_is_no_nfs_mount_is_said(rig: &'static Rig) {
    let site = Site::new(rig, Setup::default()).await;
    rig.run(&["umount", text(&site.mount)]);
    let (status, findings) = examined(&site);
    let (level, words) = found(&findings, "mount");
    assert_eq!((status, &*level), (1, "failure"), "{findings:?}");
    assert!(words.contains("not an NFS mount") && words.contains("NFS_MOUNT_CHECK"), "{words}");
    assert!(site.names(&site.mount).is_empty(), "nothing is written where the mount was");
    site.mount_as_provisioner();
}

async fn a_server_that_does_not_answer_is_said_in_time(rig: &'static Rig) {
    let site = Site::new(rig, Setup::default()).await;
    site.class("nfs", json!({})).await;
    let outage = Outage::begin(rig, Kind::Silent);
    let begun = Instant::now();
    let (status, findings) = examined(&site);
    let took = begun.elapsed();
    drop(outage);
    println!("    it ended after {took:.1?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    let (level, words) = found(&findings, "answer");
    assert_eq!((status, &*level), (1, "failure"), "{findings:?}");
    assert!(words.contains("has not answered") && words.contains("NFS server is up"), "{words}");
    assert_eq!(found(&findings, "rights").0, "ok", "the cluster is looked at all the same");
    site.ping(1);
}

async fn what_a_killed_run_has_left_goes_with_a_later_one(rig: &'static Rig) {
    // The client remembers for a second only when a directory was changed.
    let site = Site::new(rig, Setup { mount: ",actimeo=1", ..Setup::DEFAULT }).await;
    site.class("nfs", json!({})).await;
    let far = Delay::new(rig, Duration::from_millis(200));
    let id = site.start_doctor();
    eventually("its directory", || async { (!left(&site).is_empty()).then_some(()) }).await;
    rig.ask(&Request::Signal { id, signal: "KILL".to_owned() });
    drop(far);
    let killed = left(&site);
    assert_eq!(killed.len(), 1);
    // It may be that of a run that goes on.
    let (status, findings) = examined(&site);
    assert_eq!((status, unwell(&findings), left(&site)), (0, vec![], killed.clone()));
    rig.run(&["touch", "--date=1 hour ago", text(&site.disk.join(&killed[0]))]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (status, findings) = examined(&site);
    assert_eq!((status, unwell(&findings), left(&site)), (0, vec![], vec![]));
    assert_eq!(found(&findings, "leftovers").0, "ok");
}
