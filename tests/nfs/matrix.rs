//! The main job over each version of NFS, on each kind of disk, under each kind of squashing.

use libtest_mimic::Trial;
use serde_json::json;

use crate::rig::{Rig, Server};
use crate::site::{Disk, NOBODY, POD, Setup, Site, WITHOUT_CAPABILITIES};
use crate::talk::{FileCall, ROOT};

pub(crate) fn trials() -> Vec<Trial> {
    crate::trials![
        v3_on_ext4,
        v4_0_on_xfs,
        v4_1_on_ext4,
        v4_2_on_tmpfs,
        v4_2_on_xfs_with_root_squashed,
        v3_on_tmpfs_with_root_squashed,
        v4_1_on_xfs_with_all_squashed,
        v3_on_ext4_with_all_squashed,
        v4_2_beneath_the_root_of_version_4,
        v3_beneath_the_root_of_version_4,
        v4_0_with_inode_numbers_of_32_bits,
        v4_2_without_capabilities,
    ]
}

/// Provisions, mounts and uses a volume of each class, and has it reclaimed. `owners` are those of a volume's
/// directory and of a Pod's file, as the server sees them.
async fn main_job(rig: &'static Rig, setup: Setup, owners: [u32; 2]) {
    let site = Site::new(rig, setup).await;
    let _provisioner = site.start();
    main_job_at(&site, owners).await;
}

async fn main_job_at(site: &Site, owners: [u32; 2]) {
    let fates = ["archive", "delete", "retain"];
    for fate in fates {
        let class = site.class(fate, json!({"parameters": {"onDelete": fate}})).await;
        site.space.claim(fate, &class, json!({})).await;
    }
    let mut volumes = Vec::new();
    for fate in fates {
        let volume = site.space.bound(fate).await;
        let directory = site.directory(&volume);
        let made = site.stat(site.disk.join(&directory));
        assert_eq!((made.mode, made.owner), (0o777, owners[0]), "{fate}");

        let at = site.mount_volume(&volume);
        site.write(POD, at.join("file"), fate);
        assert_eq!(site.read(POD, at.join("file")), fate);
        site.file(POD, FileCall::MakeDir { path: at.join("empty"), mode: 0o755 });
        site.unmount(&at);
        assert_eq!(site.read(ROOT, site.disk.join(&directory).join("file")), fate, "on the server");
        assert_eq!(site.stat(site.disk.join(&directory).join("file")).owner, owners[1], "{fate}");
        volumes.push((volume, directory));
    }
    for fate in fates {
        site.space.delete_claim(fate).await;
    }
    for (volume, _) in &volumes {
        site.space.gone(volume.metadata.name.as_deref().unwrap()).await;
    }
    let archived = format!("archived-{}", volumes[0].1);
    assert_eq!(site.entries(), [&*archived, &*volumes[2].1]);
    assert_eq!(site.read(ROOT, site.disk.join(&archived).join("file")), "archive");
    assert_eq!(site.read(ROOT, site.disk.join(&volumes[2].1).join("file")), "retain");
    site.trash_is_empty().await;
}

async fn v3_on_ext4(rig: &'static Rig) {
    main_job(rig, Setup { version: "3", disk: Disk::Ext4, ..Setup::default() }, [ROOT, POD]).await;
}

async fn v4_0_on_xfs(rig: &'static Rig) {
    main_job(rig, Setup { version: "4.0", disk: Disk::Xfs, ..Setup::default() }, [ROOT, POD]).await;
}

async fn v4_1_on_ext4(rig: &'static Rig) {
    main_job(rig, Setup { version: "4.1", disk: Disk::Ext4, ..Setup::default() }, [ROOT, POD]).await;
}

async fn v4_2_on_tmpfs(rig: &'static Rig) {
    main_job(rig, Setup::default(), [ROOT, POD]).await;
}

/// Root's calls are nobody's on the server, so the export's root belongs to nobody.
const ROOT_SQUASHED: Setup = Setup { options: "rw,root_squash", owner: NOBODY, ..Setup::DEFAULT };

/// Everybody's calls are those of one user, who owns the export's root.
const ALL_SQUASHED: Setup =
    Setup { options: "rw,all_squash,anonuid=1234,anongid=1234", owner: 1234, ..Setup::DEFAULT };

async fn v4_2_on_xfs_with_root_squashed(rig: &'static Rig) {
    main_job(rig, Setup { disk: Disk::Xfs, ..ROOT_SQUASHED }, [NOBODY, POD]).await;
}

async fn v3_on_tmpfs_with_root_squashed(rig: &'static Rig) {
    main_job(rig, Setup { version: "3", ..ROOT_SQUASHED }, [NOBODY, POD]).await;
}

async fn v4_1_on_xfs_with_all_squashed(rig: &'static Rig) {
    main_job(rig, Setup { version: "4.1", disk: Disk::Xfs, ..ALL_SQUASHED }, [1234, 1234]).await;
}

async fn v3_on_ext4_with_all_squashed(rig: &'static Rig) {
    main_job(rig, Setup { version: "3", disk: Disk::Ext4, ..ALL_SQUASHED }, [1234, 1234]).await;
}

/// A server whose export with `fsid=0` is what clients of NFS v4 take for its root.
fn rooted(rig: &'static Rig) -> Server {
    const ROOTED: Server = Server { name: "rooted", address: "10.78.2.2" };
    let server = rig.server(ROOTED.name, ROOTED.address);
    let path = "/run/servers/rooted/shares";
    if rig.file(ROOT, FileCall::MakeDir { path: path.into(), mode: 0o755 }).is_ok() {
        rig.run_on(server, &["exportfs", "-o", "rw,no_root_squash,no_subtree_check,fsid=0", "*:/shares"]);
    }
    server
}

async fn v4_2_beneath_the_root_of_version_4(rig: &'static Rig) {
    let setup = Setup { server: rooted(rig), beneath: Some("shares"), ..Setup::default() };
    main_job(rig, setup, [ROOT, POD]).await;
}

/// Clients of version 3 know nothing of that root.
async fn v3_beneath_the_root_of_version_4(rig: &'static Rig) {
    let setup = Setup { server: rooted(rig), beneath: Some("shares"), version: "3", ..Setup::default() };
    main_job(rig, setup, [ROOT, POD]).await;
}

async fn v4_0_with_inode_numbers_of_32_bits(rig: &'static Rig) {
    let enable = |value: &str| {
        let (path, text) = ("/sys/module/nfs/parameters/enable_ino64".into(), value.to_owned());
        rig.file(ROOT, FileCall::Write { path, text }).expect("a parameter of the client");
    };
    enable("N");
    let site = Site::new(rig, Setup { version: "4.0", disk: Disk::Xfs, ..Setup::default() }).await;
    let number = site.stat(site.disk.clone()).inode;
    assert_eq!(
        site.stat(site.mount.clone()).inode,
        (number >> 32) ^ (number & 0xffff_ffff),
        "as the client folds it"
    );
    let _provisioner = site.start();
    main_job_at(&site, [ROOT, POD]).await;
    enable("Y");
}

async fn v4_2_without_capabilities(rig: &'static Rig) {
    let site = Site::new(rig, Setup { disk: Disk::Ext4, ..Setup::default() }).await;
    let provisioner = site.start_by(&WITHOUT_CAPABILITIES);
    main_job_at(&site, [ROOT, POD]).await;
    assert_eq!(provisioner.capabilities(), 0);
}
