//! Several exports, served by one process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::eventually;
use crate::support::http::{free_port, get};
use crate::support::process::{Process, Settings};
use crate::support::space::{PATH, SERVER, Space};

/// The server and path of the second export. Nobody mounts them.
pub(crate) const OTHER: (&str, &str) = ("other.test.invalid", "/other");

/// A second export beside the test's own, called "other".
pub(crate) struct Other {
    dir: TempDir,
}

impl Other {
    pub(crate) fn new() -> Self {
        let other = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(other.at("")).unwrap();
        let (server, path) = OTHER;
        let export = json!({"name": "other", "server": server, "path": path, "mount": other.at("")});
        // JSON is YAML.
        fs::write(other.file(), json!({"exports": [export]}).to_string()).unwrap();
        other
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("other").join(path)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("exports.yaml")
    }

    /// Settings of a provisioner that serves both.
    pub(crate) fn beside(&self, space: &Space) -> Settings {
        let mut settings = space.settings();
        let file = self.file().to_str().unwrap().to_owned();
        settings.environment.push(("EXPORTS_FILE".to_owned(), file));
        settings
    }
}

/// The server and the path that a volume names, without its directory.
fn export_of(volume: &PersistentVolume) -> (String, String) {
    let nfs = volume.spec.as_ref().unwrap().nfs.as_ref().unwrap();
    let (export, _) = nfs.path.rsplit_once('/').unwrap();
    (nfs.server.clone(), export.to_owned())
}

pub(crate) fn is_on(volume: &PersistentVolume, export: (&str, &str)) {
    assert_eq!(export_of(volume), (export.0.to_owned(), export.1.to_owned()));
}

/// The names in an export's directory that are volumes'.
fn names(at: &Path) -> Vec<String> {
    let names = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with(".nfs-provisioner")).collect()
}

#[tokio::test]
async fn a_class_picks_its_export_and_volumes_are_reclaimed_on_theirs() {
    let (space, other) = (Space::new().await, Other::new());
    let mut settings = other.beside(&space);
    let port = free_port();
    settings.environment.push(("HTTP_ADDR".to_owned(), format!("127.0.0.1:{port}")));
    let provisioner = Process::start(&settings);
    let rows = [
        ("by-default", json!({}), (SERVER, PATH)),
        ("by-name", json!({"export": "other"}), OTHER),
        ("by-place", json!({"server": OTHER.0, "share": OTHER.1}), OTHER),
        ("at-default", json!({"export": "default"}), (SERVER, PATH)),
    ];
    for (name, parameters, expected) in &rows {
        let mut parameters = parameters.clone();
        parameters["onDelete"] = json!("delete");
        let class = space.class(name, json!({"parameters": parameters})).await;
        space.claim(name, &class, json!({})).await;
        is_on(&space.bound(name).await, *expected);
    }
    assert_eq!((names(&space.at("")).len(), names(&other.at("")).len()), (2, 2));

    // The same directory on both is no conflict, and each is archived where it is.
    for (name, export) in [("one", "default"), ("two", "other")] {
        let parameters = json!({"export": export, "pathPattern": "shared"});
        let class = space.class(name, json!({"parameters": parameters})).await;
        space.claim(name, &class, json!({})).await;
    }
    let volumes = [space.bound("one").await, space.bound("two").await];
    fs::write(space.at("shared/file"), "one").unwrap();
    fs::write(other.at("shared/file"), "two").unwrap();
    for (name, volume) in ["one", "two"].iter().zip(&volumes) {
        space.delete_claim(name).await;
        space.gone(volume.metadata.name.as_deref().unwrap()).await;
    }
    assert_eq!(fs::read_to_string(space.at("archived-shared/file")).unwrap(), "one");
    assert_eq!(fs::read_to_string(other.at("archived-shared/file")).unwrap(), "two");

    for (name, ..) in &rows {
        space.delete_claim(name).await;
    }
    eventually("all directories to go", || async {
        let left = [names(&space.at("")), names(&other.at(""))];
        left.iter().all(|left| *left == ["archived-shared"]).then_some(())
    })
    .await;
    let ready = get(port, "/readyz?verbose");
    assert!(ready.contains("[+]export/default ok: open") && ready.contains("[+]export/other ok: open"), "{ready}");
    let metrics = get(port, "/metrics");
    for export in ["default", "other"] {
        let series = format!("nfs_provisioner_export_usable{{export=\"{export}\"}} 1");
        assert!(metrics.contains(&series), "{series}");
    }
    drop(provisioner);
}

#[tokio::test]
async fn an_export_that_is_not_served_is_refused_and_its_volumes_are_kept() {
    let (space, other) = (Space::new().await, Other::new());
    let both = Process::start(&other.beside(&space));
    let class = space.class("other", json!({"parameters": {"export": "other", "onDelete": "delete"}})).await;
    space.claim("data", &class, json!({})).await;
    let volume = space.bound("data").await.metadata.name.unwrap();
    space.long_in_use(&volume).await;
    both.stop();

    let one = space.start();
    space.delete_claim("data").await;
    let message = space.event(&volume, "VolumeFailedDelete").await;
    for words in [OTHER.0, &format!("{SERVER}:{PATH}"), "served again"] {
        assert!(message.contains(words), "{message}");
    }
    space.claim("more", &class, json!({})).await;
    let message = space.event("more", "ProvisioningFailed").await;
    assert!(message.contains("the export \"other\"") && message.contains("EXPORTS_FILE"), "{message}");
    assert_eq!(names(&other.at("")).len(), 1, "it is kept");
    one.stop();

    let _both = Process::start(&other.beside(&space));
    space.gone(&volume).await;
    is_on(&space.bound("more").await, OTHER);
    eventually("its directory to go", || async { (names(&other.at("")).len() == 1).then_some(()) }).await;
}

/// A file system of its own on a directory, for as long as the value lives.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    pub(crate) fn of(at: PathBuf, size: &str) -> Self {
        let options = format!("size={size},nr_inodes=100");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&at).status().unwrap();
        assert!(mounted.success(), "this test needs root");
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn of_several_exports_that_with_most_free_space_is_taken() {
    let (space, other) = (Space::new().await, Other::new());
    let _own = Mounted::of(space.at(""), "8m");
    let _other = Mounted::of(other.at(""), "4m");
    let _provisioner = Process::start(&other.beside(&space));
    let class = space.class("any", json!({"parameters": {"export": "other, default"}})).await;
    space.claim("first", &class, json!({})).await;
    is_on(&space.bound("first").await, (SERVER, PATH));

    fs::write(space.at("filling"), vec![0; 6 << 20]).unwrap();
    let number = std::cell::Cell::new(0);
    // How full an export is is looked at every 10 s.
    eventually("the other to be taken", || async {
        let name = format!("data-{}", number.replace(number.get() + 1));
        space.claim(&name, &class, json!({})).await;
        (export_of(&space.bound(&name).await).0 == OTHER.0).then_some(())
    })
    .await;
}

/// A class of both exports whose claims name their paths, and that keeps what is there. Volumes of all tests are
/// neighbours, so each test has a directory of its own.
async fn by_name(space: &Space) -> String {
    let parameters = json!({"export": "other, default", "pathPattern": "${.PVC.namespace}/${.PVC.annotations.path}", "onDelete": "retain"});
    space.class("by-name", json!({"parameters": parameters})).await
}

/// The server of a claim's volume.
async fn server_of(space: &Space, claim: &str) -> String {
    space.bound(claim).await.spec.unwrap().nfs.unwrap().server
}

fn at_path(path: &str) -> Value {
    json!({"metadata": {"annotations": {"path": path}}})
}

#[tokio::test]
async fn a_path_that_is_there_already_is_taken_where_it_is_and_not_where_most_room_is() {
    let (space, other) = (Space::new().await, Other::new());
    let _own = Mounted::of(space.at(""), "8m");
    let _other = Mounted::of(other.at(""), "4m");
    let at = |path: &str| space.at(&format!("{}/{path}", space.namespace));
    let at_other = |path: &str| other.at(&format!("{}/{path}", space.namespace));
    let provisioner = Process::start(&other.beside(&space));
    let class = by_name(&space).await;
    space.claim("kept", &class, at_path("kept")).await;
    space.claim("shared", &class, at_path("shared")).await;
    let kept = space.bound("kept").await;
    for volume in [&kept, &space.bound("shared").await] {
        assert_eq!(volume.spec.as_ref().unwrap().nfs.as_ref().unwrap().server, SERVER);
    }
    fs::write(at("kept/file"), vec![0; 6 << 20]).unwrap();
    space.delete_claim("kept").await;
    space.gone(kept.metadata.name.as_deref().unwrap()).await;
    let number = std::cell::Cell::new(0);
    eventually("the other to have more room", || async {
        // It is asked for only now and then, and each claim takes some.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let name = format!("data-{}", number.replace(number.get() + 1));
        space.claim(&name, &class, at_path(&name)).await;
        (server_of(&space, &name).await == OTHER.0).then_some(())
    })
    .await;

    // What was kept, and what a volume has, even if the directory is on the other one, too.
    fs::create_dir_all(at_other("shared")).unwrap();
    space.claim("again", &class, at_path("kept")).await;
    space.claim("sharing", &class, at_path("shared")).await;
    for claim in ["again", "sharing"] {
        assert_eq!(server_of(&space, claim).await, SERVER, "{claim}");
    }
    assert_eq!(fs::metadata(at("kept/file")).unwrap().len(), 6 << 20);
    assert!(!at_other("kept").exists());
    // Of several directories that no volume has, the first in the order of the class.
    for export in [at("both"), at_other("both")] {
        fs::create_dir(export).unwrap();
    }
    space.claim("both", &class, at_path("both")).await;
    assert_eq!(server_of(&space, "both").await, OTHER.0);
    assert!(provisioner.log().contains("the directory exists on several exports"), "{}", provisioner.log());
}

#[tokio::test]
async fn while_an_export_cannot_be_looked_at_no_claim_gets_an_empty_directory_instead_of_what_may_be_there() {
    let (space, other) = (Space::new().await, Other::new());
    let kept = format!("{}/kept", space.namespace);
    fs::create_dir_all(other.at(&kept)).unwrap();
    fs::write(other.at(&kept).join("file"), "data").unwrap();
    let away = other.dir.path().join("away");
    let mut settings = other.beside(&space);
    let port = free_port();
    settings.environment.push(("HTTP_ADDR".to_owned(), format!("127.0.0.1:{port}")));
    let _provisioner = Process::start(&settings);
    eventually("the export to be open", || async {
        get(port, "/readyz?verbose").contains("[+]export/other ok: open").then_some(())
    })
    .await;
    fs::rename(other.at(""), &away).unwrap();
    eventually("the export to be missed", || async {
        get(port, "/readyz").contains("[-]export/other failed").then_some(())
    })
    .await;
    let class = by_name(&space).await;
    space.claim("kept", &class, at_path("kept")).await;
    let message = space.event("kept", "ProvisioningFailed").await;
    for words in [&*format!("{}:{}", OTHER.0, OTHER.1), "may exist on an export", "once that export answers"] {
        assert!(message.contains(words), "{words:?} is not in {message:?}");
    }
    // Claims whose path nobody else can have do not wait.
    let plain = space.class("plain", json!({"parameters": {"export": "other, default"}})).await;
    space.claim("plain", &plain, json!({})).await;
    is_on(&space.bound("plain").await, (SERVER, PATH));
    assert!(!space.at(&space.namespace).exists());
    fs::rename(&away, other.at("")).unwrap();
    assert_eq!(server_of(&space, "kept").await, OTHER.0);
    assert_eq!(fs::read_to_string(other.at(&kept).join("file")).unwrap(), "data");
}
