//! Directories that are given to others than root, and groups of volumes, as the server and a Pod see them.

use libtest_mimic::Trial;
use nix::errno::Errno;
use serde_json::json;

use crate::rig::Rig;
use crate::site::{Disk, NOBODY, POD, Setup, Site, WITHOUT_CAPABILITIES, text};
use crate::support::space::annotations;
use crate::talk::{FileCall, ROOT};

pub(crate) fn trials() -> Vec<Trial> {
    crate::trials![
        a_volume_with_a_group_is_written_by_its_pods_and_no_others,
        directories_are_given_away_without_capabilities,
        where_root_is_nobody_no_directory_is_given_away_and_that_is_said,
        where_all_are_one_user_no_directory_is_given_away_and_that_is_said,
    ]
}

async fn a_volume_with_a_group_is_written_by_its_pods_and_no_others(rig: &'static Rig) {
    for (version, disk) in [("3", Disk::Ext4), ("4.2", Disk::Xfs)] {
        let site = Site::new(rig, Setup { disk, version, ..Setup::default() }).await;
        let _provisioner = site.start();
        let class = site.class("nfs", json!({"parameters": {"gidRange": "50000-50009"}})).await;
        site.space.claim("data", &class, json!({})).await;
        let volume = site.space.bound("data").await;
        let gid: u32 = annotations(&volume.metadata)["pv.beta.kubernetes.io/gid"].parse().unwrap();
        let made = site.stat(site.disk.join(site.directory(&volume)));
        assert_eq!((made.mode, made.owner, made.group), (0o2770, ROOT, gid), "{version}");

        let at = site.mount_volume(&volume);
        let call = FileCall::Write { path: at.join("file"), text: String::new() };
        assert_eq!(rig.file(POD, call).err().map(Errno::from_raw), Some(Errno::EACCES), "{version}");
        // As the kubelet has it: a user and group of the Pod's, and the volume's group besides.
        let touch = |groups: &str, name: &str| {
            let path = at.join(name);
            let ids = format!("--reuid={POD}");
            rig.try_run(&["setpriv", &ids, &format!("--regid={POD}"), groups, "touch", text(&path)])
        };
        assert!(touch(&format!("--groups={}", gid + 1), "foreign").is_err(), "{version}");
        touch(&format!("--groups={gid}"), "file").unwrap();
        let file = site.stat(at.join("file"));
        assert_eq!((file.owner, file.group), (POD, gid), "{version}");
        site.unmount(&at);
        site.space.delete_claim("data").await;
        site.space.gone(volume.metadata.name.as_deref().unwrap()).await;
    }
}

/// The client leaves it to the server who may give what away.
async fn directories_are_given_away_without_capabilities(rig: &'static Rig) {
    for version in ["3", "4.2"] {
        let site = Site::new(rig, Setup { version, disk: Disk::Ext4, ..Setup::default() }).await;
        let provisioner = site.start_by(&WITHOUT_CAPABILITIES);
        let parameters = json!({"directoryUid": "1000", "gidRange": "50000-50009"});
        let class = site.class("nfs", json!({"parameters": parameters})).await;
        site.space.claim("data", &class, json!({})).await;
        let volume = site.space.bound("data").await;
        let made = site.stat(site.disk.join(site.directory(&volume)));
        let gid: u32 = annotations(&volume.metadata)["pv.beta.kubernetes.io/gid"].parse().unwrap();
        assert_eq!((made.mode, made.owner, made.group), (0o2770, POD, gid), "{version}");
        assert_eq!(provisioner.capabilities(), 0);
    }
}

/// A claim of a class that gives directories away is told why it cannot be served; one that only wants a mode is.
async fn is_refused(rig: &'static Rig, options: &'static str, owner: u32) {
    let site = Site::new(rig, Setup { options, owner, mount: ",actimeo=1", ..Setup::default() }).await;
    let _provisioner = site.start();
    for (name, parameters) in [("uid", json!({"directoryUid": "1000"})), ("gid", json!({"gidRange": "5-9"}))] {
        let class = site.class(name, json!({"parameters": parameters})).await;
        site.space.claim(name, &class, json!({})).await;
        let message = site.space.event(name, "ProvisioningFailed").await;
        for word in ["chown ", "not permitted", "no_root_squash", "directoryUid", "gidRange"] {
            assert!(message.contains(word), "{name}: {word} is not in {message}");
        }
        site.space.delete_claim(name).await;
    }
    let class = site.class("mode", json!({"parameters": {"directoryMode": "2775"}})).await;
    site.space.claim("mode", &class, json!({})).await;
    let volume = site.space.bound("mode").await;
    assert_eq!(site.stat(site.disk.join(site.directory(&volume))).mode, 0o2775);
    assert_eq!(site.entries(), [site.directory(&volume)], "what could not be given away is taken back");
}

async fn where_root_is_nobody_no_directory_is_given_away_and_that_is_said(rig: &'static Rig) {
    is_refused(rig, "rw,root_squash", NOBODY).await;
}

async fn where_all_are_one_user_no_directory_is_given_away_and_that_is_said(rig: &'static Rig) {
    is_refused(rig, "rw,all_squash,anonuid=1234,anongid=1234", 1234).await;
}
