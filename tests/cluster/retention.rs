//! Data that is kept for some time after its claim has gone.

use std::fs;

use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::copies::start_shown;
use crate::exports::Mounted;
use crate::reclaim::released;
use crate::support::eventually;
use crate::support::http::get;
use crate::support::space::{PATH, Space, annotations};

const TRASH: &str = ".nfs-provisioner-trash";
const NOTES: &str = ".nfs-provisioner-archives";

/// The names in the trash.
fn trash(space: &Space) -> Vec<String> {
    let entries = fs::read_dir(space.at(TRASH)).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Makes a claim of a new class with a file in its directory, and returns its volume and its directory.
async fn served(space: &Space, name: &str, parameters: Value) -> (String, String) {
    let class = space.class(name, json!({"parameters": parameters})).await;
    space.claim(name, &class, json!({})).await;
    let volume = space.bound(name).await;
    let directory = Space::directory(&volume);
    fs::write(space.at(&directory).join("file"), name).unwrap();
    (volume.metadata.name.unwrap(), directory)
}

#[tokio::test]
async fn what_is_deleted_is_kept_in_the_trash_for_as_long_as_the_class_says() {
    let space = Space::new().await;
    let (_provisioner, port) = start_shown(space.settings());
    let month = json!({"onDelete": "delete", "deleteRetention": "30d", "deleteRetentionMinFree": "0.10%"});
    let kept = served(&space, "kept", month.clone()).await;
    let classless = served(&space, "classless", month).await;
    let short = served(&space, "short", json!({"onDelete": "delete", "deleteRetention": "1s"})).await;
    let plain = served(&space, "plain", json!({"onDelete": "delete"})).await;
    let wrong = served(&space, "wrong", json!({"onDelete": "delete", "deleteRetention": "30"})).await;
    let recorded = annotations(&space.volumes().get(&kept.0).await.unwrap().metadata);
    assert_eq!(recorded["nfs-provisioner/delete-retention"], "30d");
    assert_eq!(recorded["nfs-provisioner/delete-retention-min-free"], "0.1%");
    let class = space.class_name("classless");
    space.classes().delete(&class, &DeleteParams::default()).await.unwrap();
    for name in ["kept", "classless", "short", "plain", "wrong"] {
        space.delete_claim(name).await;
    }
    for (volume, directory) in [&kept, &classless, &short, &plain, &wrong] {
        space.gone(volume).await;
        assert!(!space.at(directory).exists());
    }
    // What the first version finds in its trash is nothing of its own.
    for (volume, directory) in [&kept, &classless] {
        let entry = trash(&space).into_iter().find(|entry| entry.contains(volume.as_str())).unwrap();
        let (when, rest) = entry.split_once('~').unwrap();
        assert!(when.ends_with("+2592000+0.1%") && rest == format!("{volume}~{directory}"), "{entry}");
        assert!(space.at(TRASH).join(&entry).join("file").exists());
        let message = space.event(volume.as_str(), "VolumeDirectoryTrashed").await;
        let begun: i64 = when.split('+').next().unwrap().parse().unwrap();
        let until = jiff::Timestamp::from_second(begun + 2_592_000).unwrap();
        assert!(message.ends_with(&format!("{TRASH}/{entry}\", kept until {until}")), "{message}");
    }
    space.event(&short.0, "VolumeDirectoryTrashed").await;
    eventually("the others to be gone", || async { (trash(&space).len() == 2).then_some(()) }).await;
    for series in ["trash_kept_freed_total{export=\"default\",when=\"due\"} 1", "trash_kept{export=\"default\"} 2"]
    {
        let is_shown = || async { get(port, "/metrics").contains(series).then_some(()) };
        eventually(series, is_shown).await;
    }
    // An invalid value has nothing go earlier.
    assert!(space.at(&format!("archived-{}/file", wrong.1)).exists());
    let message = space.event(&wrong.0, "VolumeReclaimUnclear").await;
    assert!(message.contains("parameter deleteRetention is \"30\""), "{message}");
}

/// Those whose directories go to make room have no need of it.
#[tokio::test]
async fn a_class_that_has_data_kept_on_a_full_export_is_told_so() {
    let space = Space::new().await;
    let _small = Mounted::of(space.at(""), "8m");
    let (_provisioner, port) = start_shown(space.settings());
    let firm = served(&space, "firm", json!({"onDelete": "delete", "deleteRetention": "30d"})).await;
    let gives_way = json!({"onDelete": "delete", "deleteRetention": "30d", "deleteRetentionMinFree": "1"});
    let other = served(&space, "gives-way", gives_way).await;
    fs::write(space.at(&firm.1).join("file"), vec![1; 7 << 20]).unwrap();
    fs::write(space.at(&other.1).join("file"), vec![1; 512 << 10]).unwrap();
    for name in ["firm", "gives-way"] {
        space.delete_claim(name).await;
    }
    let class = space.class_name("firm");
    let message = space.event(&class, "TrashKeptWithLittleRoom").await;
    let words =
        ["(nfs.test.invalid:/export)", "1 deleted directories are kept", "trash remove", "deleteRetentionMinFree"];
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
    let events = space.events(&class, "TrashKeptWithLittleRoom").await;
    let about = &events[0].involved_object;
    assert_eq!(
        (about.kind.as_deref(), about.api_version.as_deref(), about.uid.as_ref()),
        (
            Some("StorageClass"),
            Some("storage.k8s.io/v1"),
            space.classes().get(&class).await.unwrap().metadata.uid.as_ref()
        )
    );
    let described = space.plane.kubectl(&["describe", "storageclass", &class]);
    assert!(described.contains("TrashKeptWithLittleRoom"), "{described}");
    assert!(space.events(&space.class_name("gives-way"), "TrashKeptWithLittleRoom").await.is_empty());
    // What was promised is kept.
    assert_eq!(trash(&space).len(), 2, "{:?}", trash(&space));
    let shown = get(port, "/metrics");
    let due = shown
        .lines()
        .find_map(|line| line.strip_prefix("nfs_provisioner_trash_kept_due_seconds{export=\"default\"} "));
    assert!((2_591_000..=2_592_000).contains(&due.unwrap().parse().unwrap()), "{due:?}");
}

#[tokio::test]
async fn archives_expire_that_are_nobodys_and_no_others() {
    let space = Space::new().await;
    let first = space.start();
    let short = || json!({"archiveRetention": "1s"});
    let gone = served(&space, "gone", short()).await;
    let month = served(&space, "month", json!({"archiveRetention": "30d"})).await;
    let forever = served(&space, "forever", json!({})).await;
    let changed = served(&space, "changed", short()).await;
    let again = served(&space, "again", short()).await;
    let used = served(&space, "used", short()).await;
    let inside = served(&space, "inside", short()).await;
    let all = [&gone, &month, &forever, &changed, &again, &used, &inside];
    for name in ["gone", "month", "forever", "changed", "again", "used", "inside"] {
        space.delete_claim(name).await;
    }
    let archive = |directory: &str| format!("archived-{directory}");
    for (volume, directory) in all {
        space.gone(volume).await;
        assert!(space.at(&archive(directory)).join("file").exists());
    }
    let note = |directory: &str| fs::read_to_string(space.at(NOTES).join(archive(directory))).unwrap();
    assert!(note(&gone.1).contains("\"keptUntil\":\"") && note(&month.1).contains("\"keptUntil\":\""));
    assert!(!note(&forever.1).contains("keptUntil"));
    drop(first);

    // The class of one says otherwise by now.
    let class = space.class_name("changed");
    space.classes().delete(&class, &DeleteParams::default()).await.unwrap();
    space.class("changed", json!({"parameters": {"archiveRetention": "1h"}})).await;
    // The volume of another is there again, and others have volumes at or in the archives.
    let retain = || json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}});
    let named = |name: &str| {
        let mut change = retain();
        change["metadata"] = json!({"name": name});
        change
    };
    released(&space, "again", &format!("{PATH}/elsewhere"), "", named(&again.0)).await;
    released(&space, "used", &format!("{PATH}/{}", archive(&used.1)), "", retain()).await;
    released(&space, "inside", &format!("{PATH}/{}/file-less", archive(&inside.1)), "", retain()).await;
    let (second, port) = start_shown(space.settings());
    let series = "nfs_provisioner_archives_expired_total{export=\"default\"} 1";
    eventually("one to expire", || async { get(port, "/metrics").contains(series).then_some(()) }).await;
    // Those of volumes that are there, and then the look has come to the end.
    let stay = || second.log().lines().filter(|line| line.contains("archive that has expired stays")).count();
    eventually("the others to be looked at", || async { (stay() == 3).then_some(()) }).await;
    eventually("it to be removed", || async { trash(&space).is_empty().then_some(()) }).await;
    assert!(!space.at(&archive(&gone.1)).exists() && !space.at(NOTES).join(archive(&gone.1)).exists());
    for (_, directory) in all.into_iter().filter(|one| **one != gone) {
        assert!(space.at(&archive(directory)).join("file").exists(), "{directory}: {}", second.log());
    }
    // Neither the one in which a volume is, nor the one that a volume has for its directory.
    eventually("the archives to be counted", || async {
        get(port, "/metrics").contains("nfs_provisioner_archives{export=\"default\"} 4\n").then_some(())
    })
    .await;
    let shown = get(port, "/metrics");
    let oldest = shown
        .lines()
        .find_map(|line| line.strip_prefix("nfs_provisioner_archives_oldest_seconds{export=\"default\"} "));
    assert!((1..600).contains(&oldest.unwrap().parse().unwrap()), "{oldest:?}");
    let line = |line: &&str| line.contains("the archive has expired") && line.contains(&gone.0);
    assert_eq!(second.log().lines().filter(line).count(), 1, "{}", second.log());
}
