//! What a server refuses, refused by a server: the claim or volume waits, says why, and goes on by itself once the
//! cause has gone.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::Api;
use libtest_mimic::Trial;
use nfs_provisioner::layout::{NOTES, TRASH};
use serde_json::{Value, json};

use crate::rig::Rig;
use crate::site::{Disk, NOBODY, POD, Setup, Site, text};
use crate::support::eventually;
use crate::talk::{Answer, FileCall, ROOT};

pub(crate) fn trials() -> Vec<Trial> {
    crate::trials![
        permission_denied_where_root_is_nobody,
        operation_not_permitted_on_the_directory_of_another,
        an_export_that_is_read_only,
        no_space_left,
        a_quota_that_is_used_up,
        a_name_that_is_too_long,
        an_export_that_is_withdrawn,
        an_archive_on_an_export_that_is_read_only,
        an_archive_on_an_export_without_inodes,
        an_archive_on_an_export_without_blocks,
        a_deletion_on_an_export_without_inodes,
        an_export_whose_root_is_squashed_later,
        an_export_whose_root_is_squashed_later_as_on_another_node,
        a_deletion_out_of_the_reach_of_a_quota_for_the_export,
        what_others_own_stays_in_the_trash_where_root_is_nobody,
        a_directory_that_is_there_where_none_may_be_made,
    ]
}

/// The client remembers for a second only who may do what, so that the tests are quick; see `docs/nfs.md`.
const SOON: Setup = Setup { mount: ",actimeo=1", ..Setup::DEFAULT };

/// Makes a claim that cannot be served, waits until it says so by the path, the cause and the remedy, has the cause
/// `mended`, and sees it served.
async fn waits(site: &Site, class: Value, [path, cause, remedy]: [&str; 3], mended: impl FnOnce()) {
    let provisioner = site.start();
    let class = site.class("nfs", class).await;
    site.space.claim("data", &class, json!({})).await;
    let message = site.space.event("data", "ProvisioningFailed").await;
    assert!([path, cause, remedy, &site.path].iter().all(|word| message.contains(word)), "{message}");
    let claims: Api<PersistentVolumeClaim> = site.space.api();
    let found = claims.get("data").await.unwrap();
    assert_eq!(found.status.unwrap().phase.as_deref(), Some("Pending"), "{message}");
    let events = site.space.events("data", "ProvisioningFailed").await;
    assert!(events.iter().all(|event| event.type_.as_deref() == Some("Warning")), "{events:?}");
    mended();
    let volume = site.space.bound("data").await;
    let made = site.stat(site.disk.join(site.directory(&volume)));
    assert_eq!(made.mode, 0o777);
    assert_eq!(provisioner.ended(), None);
}

async fn permission_denied_where_root_is_nobody(rig: &'static Rig) {
    let site = Site::new(rig, Setup { options: "rw,root_squash", ..SOON }).await;
    let own = || {
        site.file(ROOT, FileCall::SetOwner { path: site.disk.clone(), owner: NOBODY });
    };
    waits(&site, json!({}), ["-data-pvc-", "permission denied", "no_root_squash"], own).await;
}

async fn operation_not_permitted_on_the_directory_of_another(rig: &'static Rig) {
    let site = Site::new(rig, Setup { options: "rw,root_squash", owner: NOBODY, ..SOON }).await;
    let kept = site.disk.join("kept");
    site.file(ROOT, FileCall::MakeDir { path: kept.clone(), mode: 0o755 });
    site.file(ROOT, FileCall::SetOwner { path: kept, owner: NOBODY });
    let path = site.disk.join("kept/data");
    site.file(ROOT, FileCall::MakeDir { path: path.clone(), mode: 0o755 });
    let class = json!({"parameters": {"pathPattern": "kept/${.PVC.name}"}});
    let own = || {
        site.file(ROOT, FileCall::SetOwner { path, owner: NOBODY });
    };
    waits(&site, class, ["kept/data", "operation not permitted", "no_root_squash"], own).await;
}

/// The client asks the server to make a directory without looking first whether there is one, and itself refuses to ask
/// where its user may not write: then mkdir fails with EACCES, and never with EEXIST.
async fn a_directory_that_is_there_where_none_may_be_made(rig: &'static Rig) {
    let site = Site::new(rig, Setup { options: "rw,root_squash", owner: NOBODY, ..SOON }).await;
    let _provisioner = site.start();
    site.file(ROOT, FileCall::MakeDir { path: site.disk.join("kept"), mode: 0o755 });
    let path = site.disk.join("kept/data");
    site.file(ROOT, FileCall::MakeDir { path: path.clone(), mode: 0o777 });
    let class = site.class("nfs", json!({"parameters": {"pathPattern": "kept/${.PVC.name}"}})).await;
    site.space.claim("data", &class, json!({})).await;
    site.space.bound("data").await;
}

async fn an_export_that_is_read_only(rig: &'static Rig) {
    let site = Site::new(rig, Setup { options: "ro,no_root_squash", ..SOON }).await;
    waits(&site, json!({}), ["-data-pvc-", "read-only file system", "with rw"], || {
        site.export("rw,no_root_squash");
    })
    .await;
}

async fn no_space_left(rig: &'static Rig) {
    let site = Site::new(rig, SOON).await;
    let disk = text(&site.disk).to_owned();
    let room_for = |inodes: u32| rig.run(&["mount", "-o", &format!("remount,nr_inodes={inodes}"), &disk]);
    // The root is one.
    room_for(1);
    waits(&site, json!({}), ["-data-pvc-", "no space left", "Free some"], || {
        room_for(100);
    })
    .await;
}

async fn a_quota_that_is_used_up(rig: &'static Rig) {
    let options = "rw,all_squash,anonuid=1000,anongid=1000";
    let site = Site::new(rig, Setup { disk: Disk::Xfs, options, owner: POD, ..SOON }).await;
    let limit = |inodes: u32| {
        rig.run(&["xfs_quota", "-x", "-c", &format!("limit -u ihard={inodes} {POD}"), text(&site.disk)]);
    };
    limit(1);
    waits(&site, json!({}), ["-data-pvc-", "quota exceeded", "Raise it"], || limit(100)).await;
}

async fn a_name_that_is_too_long(rig: &'static Rig) {
    let site = Site::new(rig, SOON).await;
    let _provisioner = site.start();
    let pattern = json!({"parameters": {"pathPattern": "${.PVC.annotations.path}"}});
    let class = site.class("nfs", pattern).await;
    let annotated = |length| json!({"metadata": {"annotations": {"path": "x".repeat(length)}}});
    site.space.claim("data", &class, annotated(256)).await;
    let message = site.space.event("data", "ProvisioningFailed").await;
    assert!(message.contains("256 bytes"), "{message}");
    // What the server itself says of such a name.
    let path = site.mount.join("x".repeat(256));
    let refused = rig.file(ROOT, FileCall::MakeDir { path, mode: 0o755 }).err();
    assert_eq!(refused, Some(nix::errno::Errno::ENAMETOOLONG as i32));
    site.space.patch(&site.space.api::<PersistentVolumeClaim>(), "data", annotated(255)).await;
    let volume = site.space.bound("data").await;
    assert_eq!(site.directory(&volume), "x".repeat(255));
}

/// The server answers as if somebody were not allowed to do what he asks for, not as if the export had gone.
async fn an_export_that_is_withdrawn(rig: &'static Rig) {
    for version in ["3", "4.2"] {
        let site = Site::new(rig, Setup { version, ..SOON }).await;
        site.withdraw();
        waits(&site, json!({}), [&site.path, "permission denied", "xport"], || site.export(site.setup.options))
            .await;
    }
}

async fn an_archive_on_an_export_that_is_read_only(rig: &'static Rig) {
    let site = Site::new(rig, SOON).await;
    let _provisioner = site.start();
    let class = site.class("nfs", json!({})).await;
    site.space.claim("data", &class, json!({})).await;
    let volume = site.space.bound("data").await;
    let (name, directory) = (volume.metadata.name.clone().unwrap(), site.directory(&volume));
    site.export("ro,no_root_squash");
    site.space.delete_claim("data").await;
    let message = site.space.event(&name, "VolumeFailedDelete").await;
    assert!(message.contains(&directory), "{message}");
    site.export("rw,no_root_squash");
    site.space.gone(&name).await;
    assert_eq!(site.entries(), [format!("archived-{directory}")]);
}

async fn an_archive_on_an_export_without_inodes(rig: &'static Rig) {
    // The root, the provisioner's own two, "flat", "team" and "deep".
    archives_on_a_full_export(rig, ["nr_inodes=6", "nr_inodes=100"], &[]).await;
}

/// The server lets the note's file be made, and refuses its content only when it is asked to keep it.
async fn an_archive_on_an_export_without_blocks(rig: &'static Rig) {
    archives_on_a_full_export(rig, ["size=4k", "size=1m"], &["page"]).await;
}

/// A rename takes no space, so a full export keeps no directory at its root from being archived. The path of one that
/// lies deeper is told by the archive's note alone. `filled` are files that take up what there is.
async fn archives_on_a_full_export(rig: &'static Rig, [full, free]: [&str; 2], filled: &[&str]) {
    let site = Site::new(rig, SOON).await;
    // Without notes of volumes: what there is room for is counted.
    let provisioner = site.start_with(&[], &[("RECORD_VOLUMES", "false")]);
    let archive = json!({"parameters": {"pathPattern": "${.PVC.annotations.path}"}, "reclaimPolicy": "Delete"});
    let class = site.class("nfs", archive).await;
    let mut names = Vec::new();
    for (claim, path) in [("flat", "flat"), ("deep", "team/deep")] {
        site.space.claim(claim, &class, json!({"metadata": {"annotations": {"path": path}}})).await;
        names.push(site.space.bound(claim).await.metadata.name.unwrap());
    }
    own_directories(&site).await;
    for file in filled {
        site.write(ROOT, site.disk.join(file), "x");
    }
    let remount = |option: &str| rig.run(&["mount", "-o", &format!("remount,{option}"), text(&site.disk)]);
    let has = |name: &str| site.names(&site.disk).contains(&name.to_owned());
    remount(full);
    site.space.delete_claim("flat").await;
    site.space.gone(&names[0]).await;
    assert!(has("archived-flat") && !has("flat"));
    let log = provisioner.log();
    assert!(log.contains("the archive is without a note") && log.contains("no space left"), "{log}");
    site.space.delete_claim("deep").await;
    let message = site.space.event(&names[1], "VolumeFailedDelete").await;
    assert!(message.contains("no space left"), "{message}");
    assert_eq!(site.names(&site.disk.join("team")), ["deep"]);
    let notes = site.disk.join(NOTES);
    if has(NOTES) {
        assert!(!site.names(&notes).contains(&"archived-flat".to_owned()), "half a note is none");
    }
    remount(free);
    site.space.gone(&names[1]).await;
    assert!(has("archived-deep"));
    assert_eq!(site.names(&notes), ["archived-deep"]);
}

/// Waits until the provisioner has made the directories of its own, which a leader does first.
async fn own_directories(site: &Site) {
    let are_made = || [TRASH, NOTES].iter().all(|own| site.names(&site.disk).iter().any(|name| name == own));
    eventually("the provisioner's own directories", || async { are_made().then_some(()) }).await;
}

/// What is deleted is what makes room there, so it must go without any.
async fn a_deletion_on_an_export_without_inodes(rig: &'static Rig) {
    let site = Site::new(rig, SOON).await;
    let provisioner = site.start_with(&[], &[("RECORD_VOLUMES", "false")]);
    let class = site.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let mut names = Vec::new();
    for claim in ["first", "second"] {
        site.space.claim(claim, &class, json!({})).await;
        names.push(site.space.bound(claim).await.metadata.name.unwrap());
    }
    own_directories(&site).await;
    let disk = text(&site.disk).to_owned();
    let room_for = |inodes: u32| rig.run(&["mount", "-o", &format!("remount,nr_inodes={inodes}"), &disk]);
    // The root, the provisioner's own two, and the volumes.
    room_for(5);
    site.space.delete_claim("first").await;
    site.space.gone(&names[0]).await;
    site.trash_is_empty().await;
    // As if nothing had ever been deleted, nor anything been made in time.
    rig.run(&["rmdir", text(&site.disk.join(TRASH))]);
    room_for(3);
    site.space.delete_claim("second").await;
    site.space.gone(&names[1]).await;
    let nothing = || async { (site.names(&site.disk) == [NOTES]).then_some(()) };
    eventually("what was put into the trash at the root to go", nothing).await;
    let log = provisioner.log();
    assert!(log.matches("removed from the trash").count() == 2, "{log}");
}

/// Whom the server takes root for can change, and differ from node to node. What root has made for itself is then
/// closed, and what Pods have made is no more so than before.
async fn an_export_whose_root_is_squashed_later(rig: &'static Rig) {
    squashed_later(rig, false).await;
}

async fn an_export_whose_root_is_squashed_later_as_on_another_node(rig: &'static Rig) {
    squashed_later(rig, true).await;
}

async fn squashed_later(rig: &'static Rig, is_mounted_anew: bool) {
    let site = Site::new(rig, SOON).await;
    let mut provisioner = site.start();
    let mut names = Vec::new();
    for fate in ["delete", "archive"] {
        let class = site.class(fate, json!({"parameters": {"onDelete": fate}})).await;
        site.space.claim(fate, &class, json!({})).await;
        let volume = site.space.bound(fate).await;
        let at = site.mount_volume(&volume);
        site.write(POD, at.join("file"), fate);
        site.unmount(&at);
        names.push((volume.metadata.name.clone().unwrap(), site.directory(&volume)));
    }
    own_directories(&site).await;
    for own in [TRASH, NOTES] {
        assert_eq!(site.stat(site.disk.join(own)).owner, ROOT);
    }
    site.export("rw,root_squash");
    site.file(ROOT, FileCall::SetOwner { path: site.disk.clone(), owner: NOBODY });
    if is_mounted_anew {
        provisioner.stop();
        site.unmount(&site.mount);
        site.mount_as_provisioner();
        provisioner = site.start();
    }
    // Else it counts as restored: this provisioner has not seen it bound, and it has not lived for long.
    let order = json!({"metadata": {"annotations": {"nfs-provisioner/on-delete": "delete"}}});
    site.space.patch(&site.space.volumes(), &names[0].0, order).await;
    for (fate, (volume, _)) in ["delete", "archive"].iter().zip(&names) {
        site.space.delete_claim(fate).await;
        site.space.gone(volume).await;
    }
    assert_eq!(site.entries(), [format!("archived-{}", names[1].1)]);
    let second = |own: &str| site.disk.join(format!("{own}-2"));
    for own in [TRASH, NOTES] {
        let found = site.stat(second(own));
        assert_eq!((found.owner, found.mode), (NOBODY, 0o700), "{own}");
    }
    assert_eq!(site.names(&second(NOTES)), [format!("archived-{}", names[1].1)]);
    eventually("it to be emptied", || async { site.names(&second(TRASH)).is_empty().then_some(()) }).await;
    // A client that has listed the first trash before shows it from memory, as empty.
    if is_mounted_anew {
        let times = || provisioner.log().matches("is another user's to the server").count();
        eventually("a word about the first trash", || async { (times() == 1).then_some(()) }).await;
    }
}

/// XFS does not let a directory be renamed from one project to another where the other hands its number down, as does
/// a quota for the whole export. A quota for a volume's directory alone is no obstacle.
async fn a_deletion_out_of_the_reach_of_a_quota_for_the_export(rig: &'static Rig) {
    let site = Site::new(rig, Setup { disk: Disk::Xfs, ..SOON }).await;
    let _provisioner = site.start();
    let class = site.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    for claim in ["alone", "crossed"] {
        site.space.claim(claim, &class, json!({})).await;
    }
    let disk = text(&site.disk).to_owned();
    let project = |path: &std::path::Path, number: u32| {
        let project = format!("project -s -d 0 -p {} {number}", text(path));
        rig.run(&["xfs_quota", "-x", "-c", &project, &disk]);
    };
    let alone = site.space.bound("alone").await;
    project(&site.disk.join(site.directory(&alone)), 11);
    site.space.delete_claim("alone").await;
    site.space.gone(alone.metadata.name.as_deref().unwrap()).await;
    site.trash_is_empty().await;

    let crossed = site.space.bound("crossed").await;
    let (name, path) = (crossed.metadata.name.clone().unwrap(), site.disk.join(site.directory(&crossed)));
    project(&path, 12);
    project(&site.disk.join(".nfs-provisioner-trash"), 1);
    site.space.delete_claim("crossed").await;
    let message = site.space.event(&name, "VolumeFailedDelete").await;
    assert!(message.contains(&site.directory(&crossed)), "{message}");
    assert!(rig.file(ROOT, FileCall::Stat { path: path.clone() }).is_ok(), "nothing is lost");
    project(&path, 1);
    site.space.gone(&name).await;
    site.trash_is_empty().await;
}

async fn what_others_own_stays_in_the_trash_where_root_is_nobody(rig: &'static Rig) {
    let site = Site::new(rig, Setup { options: "rw,root_squash", owner: NOBODY, ..SOON }).await;
    let provisioner = site.start();
    let class = site.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    site.space.claim("data", &class, json!({})).await;
    let volume = site.space.bound("data").await;
    let at = site.mount_volume(&volume);
    site.file(POD, FileCall::MakeDir { path: at.join("private"), mode: 0o755 });
    site.write(POD, at.join("private/file"), "of the Pod");
    site.write(POD, at.join("file"), "of the Pod");
    site.unmount(&at);
    site.space.delete_claim("data").await;
    site.space.gone(volume.metadata.name.as_deref().unwrap()).await;
    let stuck = || async { (provisioner.metric("nfs_provisioner_trash_stuck_entries")? > 0.5).then_some(()) };
    eventually("an entry of the trash to be stuck", stuck).await;
    let trash = site.disk.join(".nfs-provisioner-trash");
    let entry = trash.join(&site.trash()[0]);
    assert_eq!(site.names(&entry), ["private"], "what can be removed is");
    let log = provisioner.log();
    assert!(log.contains("cannot be removed from the trash") && log.contains("private"), "{log}");
    site.file(ROOT, FileCall::SetMode { path: entry.join("private"), mode: 0o777 });
    site.trash_is_empty().await;
    let free = || async { (provisioner.metric("nfs_provisioner_trash_stuck_entries")? < 0.5).then_some(()) };
    eventually("nothing to be stuck", free).await;
    assert!(
        matches!(rig.file(ROOT, FileCall::List { path: trash }), Ok(Answer::Names(names)) if names.is_empty())
    );
}
