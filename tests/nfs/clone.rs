//! Copies of volumes over NFS.

use libtest_mimic::Trial;
use serde_json::json;

use crate::rig::Rig;
use crate::site::{Disk, NOBODY, POD, Setup, Site, text};
use crate::talk::{FileCall, ROOT};

pub(crate) fn trials() -> Vec<Trial> {
    crate::trials![
        a_copy_is_as_its_source_is_over_any_version,
        where_root_is_nobody_what_others_own_is_not_copied_and_that_is_said,
    ]
}

fn copy() -> serde_json::Value {
    json!({"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "source"}}})
}

async fn a_copy_is_as_its_source_is_over_any_version(rig: &'static Rig) {
    for (version, disk) in [("3", Disk::Ext4), ("4.2", Disk::Xfs)] {
        let site = Site::new(rig, Setup { disk, version, mount: ",actimeo=1", ..Setup::default() }).await;
        let _provisioner = site.start();
        let class = site.class("nfs", json!({})).await;
        site.space.claim("source", &class, json!({})).await;
        let from = site.disk.join(site.directory(&site.space.bound("source").await));
        let script = "cd \"$1\" && mkdir -p a/b && echo text > a/file && chown 1000:1001 a/file && chmod 4750 a/file \
                      && ln a/file a/b/again && ln -s /etc/passwd a/link && mkfifo a/pipe \
                      && truncate --size=20M a/sparse && echo end >> a/sparse \
                      && dd if=/dev/urandom of=a/large bs=1M count=9 && touch -d 2001-02-03T04:05:06 a/large a/b && sync";
        rig.run(&["sh", "-c", script, "sh", text(&from)]);
        site.space.claim("copy", &class, copy()).await;
        let to = site.disk.join(site.directory(&site.space.bound("copy").await));
        let file = site.stat(to.join("a/file"));
        assert_eq!((file.mode & 0o7777, file.owner, file.group), (0o4750, POD, 1001), "{version}");
        let script = "cd \"$1\" && cmp a/large \"$2\"/a/large && cmp a/sparse \"$2\"/a/sparse && test a/file -ef a/b/again \
                      && test -p a/pipe && test \"$(readlink a/link)\" = /etc/passwd \
                      && test \"$(stat -c %Y a/large a/b)\" = \"$(cd \"$2\" && stat -c %Y a/large a/b)\" \
                      && test \"$(du -k a/sparse | cut -f1)\" -lt 2048";
        rig.run(&["sh", "-c", script, "sh", text(&to), text(&from)]);
        assert_eq!(site.entries().len(), 2, "{version}: {:?}", site.entries());
    }
}

async fn where_root_is_nobody_what_others_own_is_not_copied_and_that_is_said(rig: &'static Rig) {
    let setup = Setup { options: "rw,root_squash", owner: NOBODY, mount: ",actimeo=1", ..Setup::default() };
    let site = Site::new(rig, setup).await;
    let _provisioner = site.start();
    let class = site.class("nfs", json!({})).await;
    site.space.claim("source", &class, json!({})).await;
    let from = site.disk.join(site.directory(&site.space.bound("source").await));
    site.file(ROOT, FileCall::Write { path: from.join("file"), text: String::new() });
    rig.run(&["sh", "-c", "chown 1000:1000 \"$1\" && chmod 600 \"$1\"", "sh", text(&from.join("file"))]);
    site.space.claim("copy", &class, copy()).await;
    let message = site.space.event("copy", "ProvisioningFailed").await;
    assert!(message.contains("copy") && message.contains("file") && message.contains("permi"), "{message}");
    rig.run(&["chown", "65534:65534", text(&from.join("file"))]);
    site.space.bound("copy").await;
}
