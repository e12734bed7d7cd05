//! Claims that are to be copies of others.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use nfs_provisioner::layout::{STAGING, staging};
use serde_json::{Value, json};

use crate::exports::{OTHER, Other, is_on};
use crate::provision::{allow_volumes, forbid_volumes};
use crate::support::eventually;
use crate::support::process::Process;
use crate::support::space::{Space, annotations};

/// A claim that is to be a copy of "source".
pub(crate) fn copy(size: &str) -> Value {
    json!({"spec": {
        "dataSource": {"kind": "PersistentVolumeClaim", "name": "source"},
        "resources": {"requests": {"storage": size}},
    }})
}

/// Makes and fills the claim "source"; its volume.
pub(crate) async fn source(space: &Space, class: &str, files: usize) -> PersistentVolume {
    space.claim("source", class, json!({})).await;
    let volume = space.bound("source").await;
    let at = space.at(&Space::directory(&volume));
    fs::create_dir_all(at.join("a/b")).unwrap();
    fs::write(at.join("a/b/file"), "text").unwrap();
    std::os::unix::fs::chown(at.join("a/b/file"), Some(1000), Some(1001)).unwrap();
    symlink("/etc/passwd", at.join("a/link")).unwrap();
    for number in 0..files {
        fs::write(at.join(format!("a/{number}")), vec![1; 1000]).unwrap();
    }
    volume
}

pub(crate) fn name_of(volume: &PersistentVolume) -> &str {
    volume.metadata.name.as_deref().unwrap()
}

/// Waits until nothing is left of the making of copies.
pub(crate) async fn nothing_is_left(space: &Space) {
    eventually("nothing to be left", || async {
        let left = fs::read_dir(space.at(STAGING)).map_or(0, Iterator::count);
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_claim_gets_a_copy_of_another_and_both_live_on_their_own() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class =
        space.class("nfs", json!({"parameters": {"onDelete": "delete"}, "allowVolumeExpansion": true})).await;
    let volume = source(&space, &class, 300).await;
    let from = space.at(&Space::directory(&volume));
    space.claim("copy", &class, copy("2Mi")).await;
    let copied = space.bound("copy").await;
    let to = space.at(&Space::directory(&copied));
    assert_ne!(from, to);
    assert_eq!(fs::read_dir(to.join("a")).unwrap().count(), 302);
    let (one, other) = (fs::metadata(from.join("a/b/file")).unwrap(), fs::metadata(to.join("a/b/file")).unwrap());
    assert_eq!(
        (one.mode(), one.uid(), one.gid(), one.mtime()),
        (other.mode(), other.uid(), other.gid(), other.mtime())
    );
    assert_ne!(one.ino(), other.ino());
    assert_eq!(fs::read_link(to.join("a/link")).unwrap().to_str(), Some("/etc/passwd"));
    assert_eq!(fs::metadata(&to).unwrap().mode() & 0o7777, 0o777);
    assert!(space.event("copy", "ProvisioningSucceeded").await.contains("as a copy"));
    space.event("copy", "Cloning").await;
    nothing_is_left(&space).await;

    // One that has grown is copied by those that ask for as much.
    space
        .patch(
            &space.api::<PersistentVolumeClaim>(),
            "source",
            json!({"spec": {"resources": {"requests": {"storage": "4Mi"}}}}),
        )
        .await;
    eventually("the source to grow", || async {
        let volume = space.volumes().get(name_of(&volume)).await.ok()?;
        (volume.spec?.capacity?["storage"].0 == "4Mi").then_some(())
    })
    .await;
    space.claim("small", &class, copy("2Mi")).await;
    assert!(space.event("small", "ProvisioningFailed").await.contains("has 4Mi"));
    space.claim("large", &class, copy("4Mi")).await;
    space.bound("large").await;

    space.delete_claim("source").await;
    space.gone(name_of(&volume)).await;
    assert_eq!(fs::read_to_string(to.join("a/b/file")).unwrap(), "text");
    space.delete_claim("copy").await;
    space.gone(name_of(&copied)).await;
    assert!(!to.exists());
}

#[tokio::test]
async fn a_copy_waits_for_its_source_and_takes_nothing_that_is_not_ours() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({})).await;
    space.claim("copy", &class, copy("1Mi")).await;
    let message = space.event("copy", "ProvisioningFailed").await;
    assert!(message.contains("\"source\" does not exist in this namespace"), "{message}");
    assert!(space.entries().is_empty());
    source(&space, &class, 0).await;
    let to = space.at(&Space::directory(&space.bound("copy").await));
    assert_eq!(fs::read_to_string(to.join("a/b/file")).unwrap(), "text");

    let pattern = space.class("pattern", json!({"parameters": {"pathPattern": "taken-by-a-copy"}})).await;
    fs::create_dir(space.at("taken-by-a-copy")).unwrap();
    fs::write(space.at("taken-by-a-copy/file"), "mine").unwrap();
    space.claim("into-others", &pattern, copy("1Mi")).await;
    let message = space.event("into-others", "ProvisioningFailed").await;
    assert!(message.contains("place the copy at") && message.contains("not empty"), "{message}");
    assert_eq!(fs::read_dir(space.at("taken-by-a-copy")).unwrap().count(), 1, "nothing is mixed");
    fs::remove_file(space.at("taken-by-a-copy/file")).unwrap();
    space.bound("into-others").await;
    assert_eq!(fs::read_to_string(space.at("taken-by-a-copy/a/b/file")).unwrap(), "text");
    nothing_is_left(&space).await;

    // What another volume has is not replaced, be it empty.
    let pattern = space.class("empty", json!({"parameters": {"pathPattern": "kept-from-a-copy"}})).await;
    space.claim("has-it", &pattern, json!({})).await;
    space.bound("has-it").await;
    let before = fs::metadata(space.at("kept-from-a-copy")).unwrap().ino();
    space.claim("wants-it", &pattern, copy("1Mi")).await;
    let message = space.event("wants-it", "ProvisioningFailed").await;
    assert!(message.contains("place the copy at") && message.contains("exists"), "{message}");
    assert_eq!(fs::metadata(space.at("kept-from-a-copy")).unwrap().ino(), before);
}

#[tokio::test]
async fn a_claim_that_goes_in_the_middle_leaves_nothing_and_a_source_stays_until_it_is_copied() {
    let space = Space::new().await;
    let provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let volume = source(&space, &class, 20_000).await;
    let from = space.at(&Space::directory(&volume));
    for name in ["gone", "stays"] {
        space.claim(name, &class, copy("1Mi")).await;
    }
    eventually("both to be begun", || async {
        (fs::read_dir(space.at(STAGING)).map_or(0, Iterator::count) == 2).then_some(())
    })
    .await;
    for name in ["gone", "source"] {
        space.delete_claim(name).await;
    }
    let copied = space.bound("stays").await;
    let to = space.at(&Space::directory(&copied));
    assert_eq!(fs::read_dir(to.join("a")).unwrap().count(), 20_002, "all was there until it was copied");
    space.gone(name_of(&volume)).await;
    assert!(!from.exists());
    nothing_is_left(&space).await;
    assert_eq!(space.entries(), [Space::directory(&copied)], "{}", provisioner.log());
}

#[tokio::test]
async fn a_copy_whose_volume_is_refused_stays_for_its_claim_and_goes_with_it() {
    let space = Space::new().await;
    let provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let volume = source(&space, &class, 1).await;
    forbid_volumes(&space, "denied").await;
    for name in ["denied-gone", "denied-stays"] {
        space.claim(name, &class, copy("1Mi")).await;
        space.event(name, "ProvisioningFailed").await;
    }
    // Both are complete, but their source stays until they have their volumes: nothing else tells the next process
    // what they are copies of.
    space.delete_claim("source").await;
    assert!(space.event(name_of(&volume), "VolumeWaitsForCopy").await.contains("denied-"));
    let source = Space::directory(&volume);
    let directories: Vec<String> = space.entries().into_iter().filter(|entry| *entry != source).collect();
    assert_eq!(directories.len(), 2, "{directories:?}");
    let inode = |directory: &str| fs::metadata(space.at(directory)).unwrap().ino();
    let of = |claim: &str| directories.iter().find(|directory| directory.contains(claim)).unwrap();
    let before = inode(of("denied-stays"));

    space.delete_claim("denied-gone").await;
    eventually("the copy to go with its claim", || async { (space.entries().len() == 2).then_some(()) }).await;
    allow_volumes(&space).await;
    let copied = space.bound("denied-stays").await;
    space.gone(name_of(&volume)).await;
    assert_eq!(inode(&Space::directory(&copied)), before, "the same copy");
    assert_eq!(fs::read_to_string(space.at(of("denied-stays")).join("a/b/file")).unwrap(), "text");
    nothing_is_left(&space).await;
    assert_eq!(space.entries(), [Space::directory(&copied)], "{}", provisioner.log());
}

/// While the API server refuses its volume, anything may become of a copy that is complete.
#[tokio::test]
async fn a_copy_that_is_not_in_its_place_any_more_is_made_again_and_what_is_there_instead_stays() {
    let space = Space::new().await;
    let provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    source(&space, &class, 1).await;
    forbid_volumes(&space, "denied").await;
    for name in ["denied-gone", "denied-stays"] {
        space.claim(name, &class, copy("1Mi")).await;
        space.event(name, "ProvisioningFailed").await;
    }
    let directories = space.entries();
    let of = |claim: &str| space.at(directories.iter().find(|directory| directory.contains(claim)).unwrap());
    fs::rename(of("denied-gone"), space.at("moved")).unwrap();
    fs::create_dir(of("denied-gone")).unwrap();
    fs::write(of("denied-gone").join("file"), "restored").unwrap();
    fs::remove_dir_all(of("denied-stays")).unwrap();

    space.delete_claim("denied-gone").await;
    eventually("the claim to be given up", || async {
        provisioner.log().contains("is not the copy that was made").then_some(())
    })
    .await;
    allow_volumes(&space).await;
    let copied = space.bound("denied-stays").await;
    assert_eq!(fs::read_to_string(space.at(&Space::directory(&copied)).join("a/b/file")).unwrap(), "text");
    nothing_is_left(&space).await;
    assert_eq!(fs::read_to_string(of("denied-gone").join("file")).unwrap(), "restored");
    assert!(space.at("moved/a/b/file").exists());
}

#[tokio::test]
async fn a_process_that_dies_in_the_middle_is_followed_by_one_that_makes_the_copy_anew() {
    let space = Space::new().await;
    let mut settings = space.settings();
    settings.environment.push(("ENABLE_LEADER_ELECTION".to_owned(), "false".to_owned()));
    let mut provisioner = Process::start(&settings);
    let class = space.class("nfs", json!({})).await;
    source(&space, &class, 20_000).await;
    space.claim("copy", &class, copy("1Mi")).await;
    space.claim("dropped", &class, copy("1Mi")).await;
    for _ in 0..3 {
        eventually("it to be begun", || async {
            (fs::read_dir(space.at(STAGING)).map_or(0, Iterator::count) > 0).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(provisioner);
        provisioner = Process::start(&settings);
    }
    drop(provisioner);
    space.delete_claim("dropped").await;
    let provisioner = Process::start(&settings);
    let copied = space.bound("copy").await;
    let to = space.at(&Space::directory(&copied));
    assert_eq!(fs::read_dir(to.join("a")).unwrap().count(), 20_002);
    nothing_is_left(&space).await;
    let entries = space.entries();
    assert_eq!(
        entries.iter().filter(|entry| entry.contains("dropped")).count(),
        0,
        "{entries:?}\n{}",
        provisioner.log()
    );
}

/// Several clusters may share an export, and none knows the claims of the others.
#[tokio::test]
async fn what_others_are_copying_on_the_same_export_is_left_to_them() {
    let space = Space::new().await;
    let class = space.class("nfs", json!({})).await;
    let uid = space.classes().get(&class).await.unwrap().metadata.uid.unwrap();
    let place = |name: &str, owner: Option<&str>| {
        let place = space.at(STAGING).join(name);
        fs::create_dir_all(place.join(staging::COPY)).unwrap();
        fs::write(place.join(staging::COPY).join("file"), "half").unwrap();
        if let Some(owner) = owner {
            let maker = staging::Maker { owners: vec![owner.to_owned()] };
            fs::write(place.join(staging::MAKER), maker.to_json()).unwrap();
        }
    };
    place("pvc-theirs", Some("another-class"));
    place("pvc-of-a-former-version", None);
    place("pvc-ours", Some(&uid));
    let provisioner = space.start();
    eventually("our own to go", || async { (!space.at(STAGING).join("pvc-ours").exists()).then_some(()) }).await;
    // The same look has found all of them.
    source(&space, &class, 1).await;
    space.claim("copy", &class, copy("1Mi")).await;
    space.bound("copy").await;
    for theirs in ["pvc-theirs", "pvc-of-a-former-version"] {
        let file = space.at(STAGING).join(theirs).join(staging::COPY).join("file");
        assert_eq!(fs::read_to_string(file).unwrap(), "half", "{}", provisioner.log());
    }
}

#[tokio::test]
async fn copies_have_groups_of_their_own_and_lie_on_any_export() {
    let (space, other) = (Space::new().await, Other::new());
    let _provisioner = Process::start(&other.beside(&space));
    let class = space.class("nfs", json!({"parameters": {"gidRange": "70000-70009"}})).await;
    let volume = source(&space, &class, 0).await;
    let gid = |volume: &PersistentVolume| -> u32 {
        annotations(&volume.metadata)["pv.beta.kubernetes.io/gid"].parse().unwrap()
    };
    let theirs = space.at(&Space::directory(&volume)).join("theirs");
    fs::write(&theirs, "").unwrap();
    std::os::unix::fs::chown(&theirs, None, Some(gid(&volume))).unwrap();
    space.claim("copy", &class, copy("1Mi")).await;
    let copied = space.bound("copy").await;
    assert_ne!(gid(&copied), gid(&volume));
    let to = space.at(&Space::directory(&copied));
    let top = fs::metadata(&to).unwrap();
    assert_eq!((top.mode() & 0o7777, top.gid()), (0o2770, gid(&copied)));
    assert_eq!(fs::metadata(to.join("theirs")).unwrap().gid(), gid(&copied));
    assert_eq!(fs::metadata(to.join("a/b/file")).unwrap().gid(), 1001);

    let elsewhere = space.class("elsewhere", json!({"parameters": {"export": "other"}})).await;
    space.claim("there", &elsewhere, copy("1Mi")).await;
    let there = space.bound("there").await;
    is_on(&there, OTHER);
    let nfs_path = there.spec.as_ref().unwrap().nfs.as_ref().unwrap().path.clone();
    let at = other.at(nfs_path.strip_prefix(&format!("{}/", OTHER.1)).unwrap());
    assert_eq!(fs::read_to_string(at.join("a/b/file")).unwrap(), "text");
}
