//! What the kernel's client and server do, on which the program or its documents rely; see `docs/nfs.md`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::errno::Errno;
use serde_json::json;

use crate::rig::Rig;
use crate::site::{POD, Setup, Site, WITHOUT_CAPABILITIES, text};
use crate::support::eventually;
use crate::talk::{Answer, FileCall, ROOT};

pub(crate) fn trials() -> Vec<Trial> {
    crate::trials![
        what_a_rename_answers,
        a_rename_that_must_not_replace_is_not_to_be_had,
        a_file_open_on_the_same_node_keeps_its_directory_in_the_trash,
        a_file_open_on_another_node_does_not,
        a_pod_keeps_an_archived_volume,
        a_pod_loses_a_deleted_volume,
        another_client_sees_a_new_directory_late,
        a_sticky_directory_needs_a_capability,
        a_claim_that_only_reads_cannot_write,
    ]
}

/// Another mount of the same export, which shares nothing with the provisioner's, as on another node.
fn other_node(site: &Site, options: &str) -> PathBuf {
    let at = PathBuf::from(format!("/run/mnt/other-{}", site.rig.number()));
    site.file(ROOT, FileCall::MakeDir { path: at.clone(), mode: 0o755 });
    let options = format!("{},nosharecache{options}", site.mount_options().join(","));
    let from = format!("{}:{}", site.setup.server.address, site.path);
    site.rig.run(&["mount", "-t", "nfs", "-o", &options, &from, text(&at)]);
    at
}

fn make(site: &Site, path: &Path) {
    site.file(ROOT, FileCall::MakeDir { path: path.to_owned(), mode: 0o755 });
}

fn refusal(result: Result<Answer, i32>) -> Option<Errno> {
    result.err().map(Errno::from_raw)
}

async fn what_a_rename_answers(rig: &'static Rig) {
    for version in ["3", "4.0", "4.2"] {
        let site = Site::new(rig, Setup { version, ..Setup::default() }).await;
        let at = |name: &str| site.mount.join(name);
        for name in ["full", "empty", "from-1", "from-2", "from-3", "full/inner"] {
            make(&site, &at(name));
        }
        site.write(ROOT, at("file"), "text");
        site.write(ROOT, at("other-file"), "text");
        let rename =
            |from: &str, to: &str| refusal(rig.file(ROOT, FileCall::Rename { from: at(from), to: at(to) }));
        assert_eq!(rename("from-1", "empty"), None, "{version}: an empty directory is replaced");
        assert_eq!(rename("from-2", "full"), Some(Errno::ENOTEMPTY), "{version}: one with content is not");
        assert_eq!(rename("from-3", "file"), Some(Errno::ENOTDIR), "{version}: nor is a file by a directory");
        assert_eq!(rename("file", "full"), Some(Errno::EISDIR), "{version}: nor a directory by a file");
        assert_eq!(rename("file", "other-file"), None, "{version}: a file is");
        assert_eq!(rename("full", "full/inner/deeper"), Some(Errno::EINVAL), "{version}: not into itself");
        assert_eq!(rename("gone", "elsewhere"), Some(Errno::ENOENT), "{version}");
        assert_eq!(site.names(&site.disk), ["empty", "from-2", "from-3", "full", "other-file"], "{version}");
    }
}

async fn a_rename_that_must_not_replace_is_not_to_be_had(rig: &'static Rig) {
    for version in ["3", "4.2"] {
        let site = Site::new(rig, Setup { version, ..Setup::default() }).await;
        make(&site, &site.mount.join("from"));
        let call = FileCall::RenameNew { from: site.mount.join("from"), to: site.mount.join("to") };
        assert_eq!(refusal(rig.file(ROOT, call)), Some(Errno::EINVAL), "{version}");
        // The file system beneath knows it.
        let call = FileCall::RenameNew { from: site.disk.join("from"), to: site.disk.join("to") };
        assert_eq!(refusal(rig.file(ROOT, call)), None);
    }
}

/// Provisions a volume that is deleted with its claim, mounts it with more `options`, and has a Pod write a file.
async fn used_volume(site: &Site, fate: &str, options: &[&str]) -> (String, String, PathBuf) {
    let mut all = site.mount_options();
    all.extend(options.iter().map(|option| (*option).to_owned()));
    let class = site.class("nfs", json!({"parameters": {"onDelete": fate}, "mountOptions": all})).await;
    site.space.claim("data", &class, json!({})).await;
    let volume = site.space.bound("data").await;
    let at = site.mount_volume(&volume);
    site.write(POD, at.join("file"), "of the Pod");
    (volume.metadata.name.clone().unwrap(), site.directory(&volume), at)
}

fn hold(site: &Site, path: PathBuf) -> String {
    let name = format!("held-{}", site.rig.number());
    site.file(POD, FileCall::Hold { path, name: name.clone() });
    name
}

async fn a_file_open_on_the_same_node_keeps_its_directory_in_the_trash(rig: &'static Rig) {
    let site = Site::new(rig, Setup::default()).await;
    let provisioner = site.start();
    let (volume, _, at) = used_volume(&site, "delete", &[]).await;
    let held = hold(&site, at.join("file"));
    site.space.delete_claim("data").await;
    site.space.gone(&volume).await;
    let stuck = || async { (provisioner.metric("nfs_provisioner_trash_stuck_entries")? > 0.5).then_some(()) };
    eventually("the entry to be stuck", stuck).await;
    let trash = site.disk.join(".nfs-provisioner-trash");
    let left = site.names(&trash.join(&site.trash()[0]));
    assert!(left.len() == 1 && left[0].starts_with(".nfs"), "{left:?}");
    assert!(provisioner.log().contains("is still open on this node"), "{}", provisioner.log());
    let text = rig.file(ROOT, FileCall::ReadHeld { name: held.clone() });
    assert!(matches!(&text, Ok(Answer::Text(text)) if text == "of the Pod"), "the Pod can read on: {text:?}");
    site.file(ROOT, FileCall::Release { name: held });
    site.trash_is_empty().await;
    site.unmount(&at);
}

async fn a_file_open_on_another_node_does_not(rig: &'static Rig) {
    for (version, noac) in [("3", "noac"), ("4.2", "noac")] {
        let site = Site::new(rig, Setup { version, ..Setup::default() }).await;
        let _provisioner = site.start();
        let (volume, _, at) = used_volume(&site, "delete", &["nosharecache", noac]).await;
        let held = hold(&site, at.join("file"));
        site.space.delete_claim("data").await;
        site.space.gone(&volume).await;
        site.trash_is_empty().await;
        let text = rig.file(ROOT, FileCall::ReadHeld { name: held.clone() });
        println!("    v{version}: an open file of a deleted volume, read on another node: {text:?}");
        site.file(ROOT, FileCall::Release { name: held });
        let listed = refusal(rig.file(ROOT, FileCall::List { path: at.clone() }));
        assert_eq!(listed, Some(Errno::ESTALE), "{version}");
        site.unmount(&at);
    }
}

async fn a_pod_keeps_an_archived_volume(rig: &'static Rig) {
    for version in ["3", "4.2"] {
        let site = Site::new(rig, Setup { version, ..Setup::default() }).await;
        let _provisioner = site.start();
        let (volume, directory, at) = used_volume(&site, "archive", &["nosharecache"]).await;
        let held = hold(&site, at.join("file"));
        site.space.delete_claim("data").await;
        site.space.gone(&volume).await;
        site.write(POD, at.join("later"), "after");
        assert_eq!(site.read(POD, at.join("file")), "of the Pod", "{version}");
        let text = site.file(ROOT, FileCall::ReadHeld { name: held.clone() });
        assert!(matches!(&text, Answer::Text(text) if text == "of the Pod"), "{version}: {text:?}");
        site.file(ROOT, FileCall::Release { name: held });
        let archive = site.disk.join(format!("archived-{directory}"));
        assert_eq!(site.names(&archive), ["file", "later"], "{version}");
        site.unmount(&at);
    }
}

async fn a_pod_loses_a_deleted_volume(rig: &'static Rig) {
    for version in ["3", "4.2"] {
        let site = Site::new(rig, Setup { version, ..Setup::default() }).await;
        let _provisioner = site.start();
        let (volume, _, at) = used_volume(&site, "delete", &["nosharecache", "actimeo=1"]).await;
        site.space.delete_claim("data").await;
        site.space.gone(&volume).await;
        site.trash_is_empty().await;
        let stale = || async {
            let written = FileCall::Write { path: at.join("later"), text: String::new() };
            let refused = refusal(rig.file(POD, written));
            // The server may find no such directory any more, or the client no such file in what it takes for one.
            matches!(refused, Some(Errno::ESTALE | Errno::ENOENT)).then_some(())
        };
        eventually("writing to be refused", stale).await;
        site.unmount(&at);
    }
}

/// A client that has looked for a name and found none goes on believing that for as long as it keeps what it knows of
/// the directory above: 30 seconds at least, by default. To list that directory makes it ask.
async fn another_client_sees_a_new_directory_late(rig: &'static Rig) {
    const KEPT: Duration = Duration::from_secs(8);
    let site = Site::new(rig, Setup::default()).await;
    let keeps = format!(",acdirmin={0},acdirmax={0}", KEPT.as_secs());
    let [late, lists, keeps_nothing, keeps_no_names] =
        [&keeps, &keeps, ",noac", ",lookupcache=none"].map(|options| other_node(&site, options));
    let sees = |node: &Path| rig.file(ROOT, FileCall::Stat { path: node.join("new") }).is_ok();
    let begun = Instant::now();
    assert!(![&late, &lists, &keeps_nothing, &keeps_no_names].iter().any(|node| sees(node)));
    make(&site, &site.mount.join("new"));
    let found = [sees(&late), sees(&lists)];
    assert!(begun.elapsed() < KEPT, "too slow to tell");
    assert_eq!(found, [false, false]);
    assert!(sees(&keeps_nothing) && sees(&keeps_no_names));
    assert_eq!(site.names(&lists), ["new"]);
    assert!(sees(&lists), "it has asked");
    eventually("the name to be seen", || async { sees(&late).then_some(()) }).await;
    assert!(begun.elapsed() >= KEPT / 2, "{:?}", begun.elapsed());
    println!("    seen after {:.1?} by a client that keeps directories for {KEPT:?}", begun.elapsed());
    for node in [late, lists, keeps_nothing, keeps_no_names] {
        site.unmount(&node);
    }
}

/// The client itself asks for `CAP_FOWNER` before anybody but its owner removes a file from a sticky directory of
/// somebody else, whatever the server would say.
async fn a_sticky_directory_needs_a_capability(rig: &'static Rig) {
    let site = Site::new(rig, Setup::default()).await;
    let provisioner = site.start_by(&WITHOUT_CAPABILITIES);
    let (volume, _, at) = used_volume(&site, "delete", &[]).await;
    for (name, mode) in [("private", 0o700), ("shared", 0o1777)] {
        site.file(POD, FileCall::MakeDir { path: at.join(name), mode });
        site.write(POD, at.join(name).join("file"), "of the Pod");
    }
    site.unmount(&at);
    site.space.delete_claim("data").await;
    site.space.gone(&volume).await;
    let stuck = || async { (provisioner.metric("nfs_provisioner_trash_stuck_entries")? > 0.5).then_some(()) };
    eventually("the entry to be stuck", stuck).await;
    let trash = site.disk.join(".nfs-provisioner-trash");
    assert_eq!(site.names(&trash.join(&site.trash()[0])), ["shared"], "what is private to the Pod is removed");
    provisioner.stop();
    let _with_capabilities = site.start();
    site.trash_is_empty().await;
}

/// Two claims of one directory, one of which only reads.
async fn a_claim_that_only_reads_cannot_write(rig: &'static Rig) {
    let site = Site::new(rig, Setup::default()).await;
    let _provisioner = site.start();
    let mut options = site.mount_options();
    options.push("rw".to_owned());
    let class = json!({"parameters": {"pathPattern": "shared"}, "mountOptions": options});
    let class = site.class("nfs", class).await;
    site.space.claim("writes", &class, json!({})).await;
    let writes = site.mount_volume(&site.space.bound("writes").await);
    site.write(POD, writes.join("file"), "text");
    site.space.claim("reads", &class, json!({"spec": {"accessModes": ["ReadOnlyMany"]}})).await;
    let reads = site.mount_volume(&site.space.bound("reads").await);
    assert_eq!(site.read(POD, reads.join("file")), "text");
    for user in [POD, ROOT] {
        let call = FileCall::Write { path: reads.join("other"), text: String::new() };
        assert_eq!(refusal(rig.file(user, call)), Some(Errno::EROFS), "{user}");
    }
    site.write(POD, writes.join("other"), "text");
    site.unmount(&reads);
    site.unmount(&writes);
}
