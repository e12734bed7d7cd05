//! How much volumes hold.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::reclaim::{name_of, released};
use crate::support::eventually;
use crate::support::http::{free_port, get};
use crate::support::process::{Process, Settings};
use crate::support::space::Space;

/// Settings with so many calls a second, and the port that metrics are at.
fn settings(space: &Space, calls: u32) -> (Settings, u16) {
    let (mut settings, port) = (space.settings(), free_port());
    // All volumes on an export have their turns.
    settings.server = space.own_server();
    settings.environment.push(("HTTP_ADDR".to_owned(), format!("127.0.0.1:{port}")));
    settings.environment.push(("USAGE_CALLS_PER_SECOND".to_owned(), calls.to_string()));
    (settings, port)
}

/// The value of the first series that begins so.
fn value(metrics: &str, series: &str) -> Option<u64> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.split_whitespace().last()?.parse().ok())
}

/// What a claim is said to hold: bytes and inodes.
fn held(space: &Space, port: u16, claim: &str) -> Option<(u64, u64)> {
    let metrics = get(port, "/metrics");
    let of = |name: &str| {
        let labels = format!("{{namespace=\"{}\",persistentvolumeclaim=\"{claim}\"}}", space.namespace);
        value(&metrics, &format!("nfs_provisioner_claim_used_{name}{labels}"))
    };
    Some((of("bytes")?, of("inodes")?))
}

/// What is on disk, each file once, without following anything.
fn on_disk(at: &Path) -> (u64, u64) {
    let status = fs::symlink_metadata(at).unwrap();
    let mut all = (status.blocks() * 512, 1);
    if status.is_dir() {
        for entry in fs::read_dir(at).unwrap() {
            let (bytes, inodes) = on_disk(&entry.unwrap().path());
            all = (all.0 + bytes, all.1 + inodes);
        }
    }
    all
}

/// The directory of a claim `data`, which is made.
async fn claimed(space: &Space) -> PathBuf {
    let class = space.class("nfs", json!({})).await;
    space.claim("data", &class, json!({})).await;
    space.at(&Space::directory(&space.bound("data").await))
}

#[tokio::test]
async fn a_claim_that_holds_more_than_it_asked_for_is_told_and_told_when_it_is_back() {
    let space = Space::new().await;
    let (settings, port) = settings(&space, 2000);
    let _provisioner = Process::start(&settings);
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    for name in ["data", "other"] {
        space.claim(name, &class, json!({})).await;
    }
    let volume = space.bound("data").await;
    let directory = space.at(&Space::directory(&volume));
    fs::create_dir_all(directory.join("a/b")).unwrap();
    fs::write(directory.join("a/b/large"), vec![1; 3 << 19]).unwrap();
    std::os::unix::fs::symlink("/usr", directory.join("link")).unwrap();

    let message = space.event("data", "UsageExceedsRequest").await;
    assert!(message.contains("more than 1.5 times the 1Mi that the claim asks for"), "{message}");
    assert_eq!(held(&space, port, "data"), Some(on_disk(&directory)));
    eventually("the other to be known", || async { held(&space, port, "other") }).await;
    assert!(space.events("other", "UsageExceedsRequest").await.is_empty());

    fs::remove_file(directory.join("a/b/large")).unwrap();
    space.event("data", "UsageWithinRequest").await;
    assert_eq!(held(&space, port, "data"), Some(on_disk(&directory)));

    space.delete_claim("data").await;
    eventually("its series to go", || async { held(&space, port, "data").is_none().then_some(()) }).await;
    assert!(held(&space, port, "other").is_some());
}

#[tokio::test]
async fn no_more_calls_are_made_than_allowed_and_none_where_it_is_off() {
    let space = Space::new().await;
    let (off, port) = settings(&space, 0);
    let provisioner = Process::start(&off);
    let directory = claimed(&space).await;
    for number in 0..1000 {
        fs::write(directory.join(number.to_string()), "").unwrap();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let metrics = get(port, "/metrics");
    assert!(metrics.contains("nfs_provisioner_leader 1") && !metrics.contains("claim_used"), "{metrics}");
    provisioner.stop();

    let (on, port) = settings(&space, 200);
    let begun = Instant::now();
    let _provisioner = Process::start(&on);
    eventually("it to be known", || async { held(&space, port, "data") }).await;
    // A thousand files take a thousand calls, five seconds' worth.
    assert!(begun.elapsed() >= Duration::from_secs(4), "{:?}", begun.elapsed());
    let calls = value(&get(port, "/metrics"), "nfs_provisioner_usage_calls_total{export=\"default\"}").unwrap();
    let allowed = 200 * (begun.elapsed().as_secs() + 1) + 50;
    assert!((1000..=allowed).contains(&calls), "{calls} of {allowed}");
    assert_eq!(held(&space, port, "data").unwrap().1, 1001);
}

/// Ends what makes files when the test ends.
struct Stops(Arc<AtomicBool>);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_volume_in_which_files_come_faster_than_they_are_counted_keeps_no_other_waiting() {
    let space = Space::new().await;
    let (settings, port) = settings(&space, 300);
    let _provisioner = Process::start(&settings);
    let class = space.class("nfs", json!({})).await;
    for name in ["growing", "other"] {
        space.claim(name, &class, json!({})).await;
    }
    let growing = space.at(&Space::directory(&space.bound("growing").await));
    let other = space.at(&Space::directory(&space.bound("other").await));
    // Even if no more came, they would take half a minute.
    for number in 0..9000 {
        fs::write(growing.join(format!("first-{number}")), "").unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, _stops) = (Arc::clone(&stop), Stops(stop));
    let grows = std::thread::spawn(move || {
        for number in 0.. {
            if stopped.load(Ordering::Relaxed) || fs::write(growing.join(number.to_string()), "").is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    });
    // Whichever is looked at first, the other volume has its turn again and again.
    for inodes in 2..4 {
        fs::write(other.join(inodes.to_string()), "").unwrap();
        let begun = Instant::now();
        eventually("the other's file to be counted", || async {
            held(&space, port, "other").filter(|(_, found)| *found == inodes).map(drop)
        })
        .await;
        assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
    }
    assert!(!grows.is_finished(), "the other one grew all the time");
}

#[tokio::test]
async fn what_was_last_known_is_shown_until_something_newer_is() {
    let space = Space::new().await;
    let (settings, port) = settings(&space, 500);
    let _provisioner = Process::start(&settings);
    let directory = claimed(&space).await;
    fs::write(directory.join("file"), "").unwrap();
    eventually("it to be known", || async { held(&space, port, "data").filter(|(_, inodes)| *inodes == 2) }).await;

    // It cannot be counted now: links are not followed.
    let aside = space.at("aside");
    fs::rename(&directory, &aside).unwrap();
    std::os::unix::fs::symlink(&aside, &directory).unwrap();
    let spent = || value(&get(port, "/metrics"), "nfs_provisioner_usage_calls_total{export=\"default\"}");
    // It is the only volume, and each look at it takes 13: it begins anew meanwhile.
    let tried = spent().unwrap() + 20;
    eventually("it to be tried again", || async { spent().filter(|spent| *spent > tried) }).await;
    assert_eq!(held(&space, port, "data").map(|(_, inodes)| inodes), Some(2));

    fs::remove_file(&directory).unwrap();
    fs::rename(&aside, &directory).unwrap();
    fs::write(directory.join("more"), "").unwrap();
    eventually("it to be counted", || async { held(&space, port, "data").filter(|(_, inodes)| *inodes == 3) })
        .await;
}

#[tokio::test]
async fn a_volume_made_again_under_its_name_is_counted_from_the_beginning() {
    let space = Space::new().await;
    let (settings, port) = settings(&space, 300);
    let provisioner = Process::start(&settings);
    let class = space.class("nfs", json!({})).await;
    let make = async |claim: &str, at: &str| {
        let by_hand = json!({
            "metadata": {"name": format!("{}-volume", space.namespace)},
            "spec": {
                "claimRef": {"name": claim, "uid": null}, "persistentVolumeReclaimPolicy": "Retain",
                "nfs": {"server": space.own_server()},
            },
        });
        let volume = released(&space, "volume", &format!("/export/{at}"), &class, by_hand).await;
        space.claim(claim, &class, json!({"spec": {"volumeName": name_of(&volume)}})).await;
        space.bound(claim).await
    };
    // More than a turn of fifteen seconds, so the volume is gone on with.
    fs::create_dir(space.at("first")).unwrap();
    for number in 0..9000 {
        fs::write(space.at("first").join(number.to_string()), "").unwrap();
    }
    let volume = make("former", "first").await;
    eventually("it to be counted in part", || async {
        provisioner.log().contains("is counted in part").then_some(())
    })
    .await;
    space.delete_claim("former").await;
    space.volumes().delete(name_of(&volume), &Default::default()).await.unwrap();
    space.gone(name_of(&volume)).await;
    make("latter", "second").await;
    let found = eventually("the later one to be known", || async { held(&space, port, "latter") }).await;
    assert_eq!(found, on_disk(&space.at("second")), "{}", provisioner.log());
    assert_eq!(held(&space, port, "former"), None);
}
