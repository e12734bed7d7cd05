//! What people see of volumes, archives and orphans, and how they get them back.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Output;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams};
use nfs_provisioner::layout::{NOTES, Note, VOLUME_NOTES};
use serde_json::{Value, json};

use crate::copies::start_shown;
use crate::support::eventually;
use crate::support::http::get;
use crate::support::plane::Plane;
use crate::support::process::{Process, Settings};
use crate::support::space::{PATH, Rules, Space, create, from_json, named};

/// A test's settings, with a server of its own: paths of several tests are the same.
pub(crate) fn settings(space: &Space) -> Settings {
    Settings { server: space.own_server(), ..space.settings() }
}

/// Runs a command with a test's settings.
fn run(space: &Space, arguments: &[&str]) -> Output {
    settings(space).command().args(arguments).output().unwrap()
}

/// What a command says that succeeds.
pub(crate) fn succeeds(space: &Space, arguments: &[&str]) -> String {
    let output = run(space, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a command says that fails.
fn fails(space: &Space, arguments: &[&str]) -> String {
    let output = run(space, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// The items that a command lists.
fn items(space: &Space, arguments: &[&str]) -> Vec<Value> {
    let listed = succeeds(space, &[arguments, &["-o", "json"]].concat());
    serde_json::from_str::<Value>(&listed).unwrap()["items"].as_array().unwrap().clone()
}

/// The note of a volume, of whichever cluster, and that cluster's mark.
fn note_of(space: &Space, volume: &str) -> Option<(String, Note)> {
    let clusters = fs::read_dir(space.at(VOLUME_NOTES)).ok()?;
    clusters.map(|entry| entry.unwrap()).find_map(|cluster| {
        let text = fs::read_to_string(cluster.path().join(volume)).ok()?;
        Some((cluster.file_name().into_string().unwrap(), Note::parse(&text).unwrap()))
    })
}

/// Lets the provisioner make claims in the test's namespace, as docs/recovery.md tells.
async fn let_it_claim(space: &Space) {
    let_it_claim_in(space, &space.namespace).await;
}

async fn let_it_claim_in(space: &Space, namespace: &str) {
    let client = || space.client.clone();
    let rules = json!([{"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["create"]}]);
    let role = from_json(json!({"metadata": {"name": "restore"}, "rules": rules}));
    create::<Role>(&Api::namespaced(client(), namespace), role).await;
    let binding: RoleBinding = from_json(json!({
        "metadata": {"name": "restore"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "restore"},
        "subjects": [{"kind": "ServiceAccount", "name": "provisioner", "namespace": space.namespace}],
    }));
    create(&Api::namespaced(client(), namespace), binding).await;
}

#[tokio::test]
async fn a_volume_has_a_note_as_long_as_it_has_its_directory() {
    let space = Space::new().await;
    let _provisioner = Process::start(&settings(&space));
    let class = space
        .class(
            "nfs",
            json!({"mountOptions": ["hard"], "parameters": {"gidRange": "3100-3110", "onDelete": "archive"}}),
        )
        .await;
    let unnoted = space.class("unnoted", json!({"parameters": {"recordVolume": "false"}})).await;
    let claim = space.claim("data", &class, json!({"spec": {"accessModes": ["ReadWriteOnce"]}})).await;
    space.claim("quiet", &unnoted, json!({})).await;
    let (volume, quiet) = (space.bound("data").await, space.bound("quiet").await);
    let (name, directory) = (volume.metadata.name.clone().unwrap(), Space::directory(&volume));
    let (mark, note) = note_of(&space, &name).expect("it is written before the volume is made");
    let system: Namespace = Api::all(space.client.clone()).get("kube-system").await.unwrap();
    assert_eq!((Some(&mark), note.cluster.as_deref()), (system.metadata.uid.as_ref(), Some(&*mark)));
    let expected = Note {
        directory: directory.parse_path(),
        volume: name.as_str().into(),
        class: class.as_str().into(),
        namespace: Some(space.namespace.as_str().into()),
        claim: Some("data".into()),
        claim_uid: claim.metadata.uid.as_deref().map(Into::into),
        archived: None,
        created: note.created,
        released: None,
        kept_until: None,
        capacity: Some("1Mi".into()),
        access_modes: vec!["ReadWriteOnce".into()],
        mount_options: vec!["hard".into()],
        reclaim_policy: Some("Delete".into()),
        on_delete: Some("archive".into()),
        on_delete_of_claim: None,
        gid: Some(3100),
        on_delete_of_volume: None,
        delete_retention: None,
        delete_retention_min_free: None,
        archive_retention: None,
        restored_from: None,
        inode: None,
        owners: None,
        provisioner: Some(space.provisioner.as_str().into()),
        cluster: Some(mark.as_str().into()),
    };
    assert_eq!(note, expected);
    assert_eq!(note_of(&space, quiet.metadata.name.as_deref().unwrap()), None, "its class wants none");
    // Nobody else reaches it: a Pod mounts the volume's directory, and notes lie beside it.
    let mode = fs::metadata(space.at(VOLUME_NOTES)).unwrap().mode() & 0o7777;
    assert_eq!((mode, fs::metadata(space.at(VOLUME_NOTES).join(&mark)).unwrap().mode() & 0o7777), (0o700, 0o700));

    space.delete_claim("data").await;
    space.gone(&name).await;
    eventually("the note to go", || async { note_of(&space, &name).is_none().then_some(()) }).await;
    let archived = fs::read_to_string(space.at(NOTES).join(format!("archived-{directory}"))).unwrap();
    let archived = Note::parse(&archived).unwrap();
    assert_eq!(
        (archived.claim.as_deref(), archived.gid, archived.access_modes.len()),
        (Some("data"), Some(3100), 1)
    );
    assert!(archived.archived.is_some() && archived.owners.is_some_and(|owners| &*owners.mode == "2770"));
}

/// Reads a path as the provisioner does.
trait ParsePath {
    fn parse_path(&self) -> nfs_provisioner::values::path::RelPath;
}

impl ParsePath for str {
    fn parse_path(&self) -> nfs_provisioner::values::path::RelPath {
        nfs_provisioner::values::path::RelPath::parse(self).unwrap()
    }
}

#[tokio::test]
async fn an_archive_is_restored_with_all_that_it_held() {
    let space = Space::new().await;
    let provisioner = Process::start(&settings(&space));
    let class = space.class("nfs", json!({"parameters": {"gidRange": "3200-3210"}})).await;
    space.claim("data", &class, json!({})).await;
    let before = space.bound("data").await;
    let (name, directory) = (before.metadata.name.clone().unwrap(), Space::directory(&before));
    fs::write(space.at(&directory).join("file"), "kept").unwrap();
    std::os::unix::fs::chown(space.at(&directory), Some(1234), Some(3200)).unwrap();
    let listed = items(&space, &["volumes"]);
    let [volume] = &listed[..] else { panic!("{listed:?}") };
    let fields = ["name", "directory", "namespace", "claim", "class", "requested", "status", "fate"];
    let values = [&*name, &directory, &space.namespace, "data", &class, "1Mi", "Bound", "archive"];
    for (field, value) in fields.into_iter().zip(values) {
        assert_eq!(volume[field], value, "{field}");
    }
    space.delete_claim("data").await;
    space.gone(&name).await;

    let archive = format!("archived-{directory}");
    let listed = items(&space, &["archives", "list", "--namespace", &space.namespace, "--sizes"]);
    let [found] = &listed[..] else { panic!("{listed:?}") };
    for (field, value) in [("name", &*archive), ("directory", &directory), ("claim", "data"), ("volume", &name)] {
        assert_eq!(found[field], value, "{field}");
    }
    assert!(found["used"].as_u64() > Some(0) && found["at"].is_string(), "{found}");
    assert!(items(&space, &["archives", "--older-than", "1h"]).is_empty());
    assert!(succeeds(&space, &["archives"]).contains(&format!("{}/data", space.namespace)));

    let planned = succeeds(&space, &["archives", "restore", &archive, "--dry-run"]);
    assert!(planned.contains("nothing is done") && space.at(&archive).exists(), "{planned}");
    assert!(space.volumes().get_opt(&name).await.unwrap().is_none());

    // Without the right to make claims, the claim is printed, for somebody who has it.
    let printed = succeeds(&space, &["archives", "restore", &archive]);
    let (_, manifest) = printed.split_once("---\n").unwrap_or_else(|| panic!("{printed}"));
    let claim: PersistentVolumeClaim = serde_saphyr::from_str(manifest).unwrap();
    create(&space.api(), claim).await;
    let after = space.bound("data").await;
    let spec = |volume: &PersistentVolume| {
        let mut spec = volume.spec.clone().unwrap();
        spec.claim_ref = None;
        spec
    };
    assert_eq!((spec(&after), after.metadata.name.as_ref()), (spec(&before), before.metadata.name.as_ref()));
    assert_eq!(fs::read_to_string(space.at(&directory).join("file")).unwrap(), "kept");
    let found = fs::metadata(space.at(&directory)).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (1234, 3200, 0o2770));
    assert!(!space.at(NOTES).join(&archive).exists() && !space.at(&archive).exists());
    assert!(note_of(&space, &name).is_some());

    // It is a volume as any other: it is archived again, and restored as another claim.
    space.delete_claim("data").await;
    space.gone(&name).await;
    assert!(space.at(&archive).join("file").exists());
    let_it_claim(&space).await;
    let said = succeeds(
        &space,
        &["archives", "restore", &archive, "--as", &format!("{}/other", space.namespace), "--size", "2Mi"],
    );
    assert!(said.contains("other is bound"), "{said}");
    let message = space.event("other", "Restored").await;
    assert!(message.contains(&name) && message.contains(&archive), "{message}");
    let other = space.bound("other").await;
    assert_eq!((other.metadata.name.as_deref(), Space::directory(&other)), (Some(&*name), directory.clone()));
    assert_eq!(other.spec.unwrap().capacity.unwrap()["storage"].0, "2Mi");
    // Twice is once.
    let again = run(
        &space,
        &["archives", "restore", &archive, "--as", &format!("{}/other", space.namespace), "--size", "2Mi"],
    );
    assert!(again.status.success(), "{again:?}");

    // Who looks at all volumes a minute after the start counts those that were restored.
    space.claim("plain", &class, json!({})).await;
    space.bound("plain").await;
    provisioner.stop();
    let (_second, port) = start_shown(settings(&space));
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    let series = "nfs_provisioner_volumes_restored{export=\"default\"} 1\n";
    eventually(series, || async { get(port, "/metrics").contains(series).then_some(()) }).await;
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_restore_is_said_and_nothing_is_done() {
    let space = Space::new().await;
    let _provisioner = Process::start(&settings(&space));
    let_it_claim(&space).await;
    let class = space.class("nfs", json!({"parameters": {"pathPattern": "${.PVC.name}"}})).await;
    space.claim("data", &class, json!({})).await;
    let name = space.bound("data").await.metadata.name.unwrap();
    fs::write(space.at("data/file"), "first").unwrap();
    space.delete_claim("data").await;
    space.gone(&name).await;
    let archive = "archived-data";
    let restore = |arguments: &[&str]| fails(&space, &[&["archives", "restore"], arguments].concat());
    let is_untouched = async || {
        assert_eq!(fs::read_to_string(space.at(archive).join("file")).unwrap(), "first");
        assert!(space.at(NOTES).join(archive).exists());
        assert!(space.volumes().get_opt(&name).await.unwrap().is_none(), "a volume is left");
    };
    assert!(restore(&["archived-nothing"]).contains("there is no"));
    assert!(restore(&["../data"]).contains("not the name"));
    assert!(restore(&[archive, "--class", "none"]).contains("no StorageClass"));
    assert!(restore(&[archive, "--export", "none"]).contains("the exports are default"));
    assert!(restore(&[archive, "--size", "much"]).contains("no quantity"));
    is_untouched().await;

    fs::create_dir(space.at("data")).unwrap();
    let words = restore(&[archive]);
    assert!(words.contains("there is a directory \"data\""), "{words}");
    fs::remove_dir(space.at("data")).unwrap();
    is_untouched().await;

    // The claim is made again, and gets a directory of the same name.
    space.claim("data", &class, json!({})).await;
    let other = space.bound("data").await.metadata.name.unwrap();
    fs::write(space.at("data/file"), "second").unwrap();
    let words = restore(&[archive]);
    assert!(words.contains("another volume has the directory"), "{words}");
    is_untouched().await;
    space.delete_claim("data").await;
    space.gone(&other).await;
    assert!(space.at(format!("archived-data-{other}").as_str()).exists());

    // A claim of that name which waits for something else.
    space.claim("data", "no-such-class", json!({})).await;
    assert!(restore(&[archive]).contains("claim"));
    is_untouched().await;
    space.delete_claim("data").await;
    space.claim_gone("data").await;
    succeeds(&space, &["archives", "restore", archive]);
    space.bound("data").await;
    assert_eq!(fs::read_to_string(space.at("data/file")).unwrap(), "first");
}

#[tokio::test]
async fn archives_and_orphans_are_removed_when_they_are_proven_to_be_such() {
    let space = Space::new().await;
    let _provisioner = Process::start(&settings(&space));
    let class = space.class("nfs", json!({})).await;
    let kept = space.class("kept", json!({"reclaimPolicy": "Retain"})).await;
    space.claim("one", &class, json!({})).await;
    space.claim("two", &kept, json!({})).await;
    let (one, two) = (space.bound("one").await, space.bound("two").await);
    let (first, second) = (Space::directory(&one), Space::directory(&two));
    let (one, two) = (one.metadata.name.unwrap(), two.metadata.name.unwrap());
    let archive = format!("archived-{first}");
    space.delete_claim("one").await;
    space.gone(&one).await;
    fs::create_dir(space.at("somebodys")).unwrap();
    // Of the old program, which left no notes; and a volume's own directory that has an archive's name.
    fs::create_dir(space.at("archived-old")).unwrap();
    fs::create_dir_all(space.at("archived-live/inner")).unwrap();
    let live = json!({
        "metadata": {"name": format!("{}-live", space.namespace)},
        "spec": {
            "accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Mi"}, "storageClassName": "x",
            "nfs": {"server": space.own_server(), "path": format!("{PATH}/archived-live/inner")},
        },
    });
    create(&space.volumes(), from_json(live)).await;

    let planned = succeeds(&space, &["archives", "remove", &archive, "archived-old"]);
    assert!(planned.contains(&format!("would remove {archive}")) && space.at(&archive).exists(), "{planned}");
    assert!(fails(&space, &["archives", "remove"]).contains("--older-than"));
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let words = fails(&space, &["archives", "remove", "--older-than", "1s", "--yes"]);
    assert!(words.contains("archived-old: no note") && words.contains("archived-live: a volume"), "{words}");
    assert!(!space.at(&archive).exists() && !space.at(NOTES).join(&archive).exists());
    assert!(space.at("archived-old").exists() && space.at("archived-live/inner").exists());
    let words = fails(&space, &["archives", "remove", "archived-old", "archived-live", "none", "--yes"]);
    assert!(words.contains("archived-live: a volume") && words.contains("none: there is none"), "{words}");
    assert!(!space.at("archived-old").exists() && space.at("archived-live/inner").exists());

    // The volume is kept, then deleted by hand: its directory is an orphan that this cluster knows.
    assert!(items(&space, &["orphans"]).iter().all(|orphan| orphan["name"] != *second));
    space.delete_claim("two").await;
    space.phase(&two, "Released").await;
    space.volumes().delete(&two, &DeleteParams::default()).await.unwrap();
    space.gone(&two).await;
    let orphans = items(&space, &["orphans", "list"]);
    let orphan = |name: &str| orphans.iter().find(|orphan| orphan["name"] == name).unwrap();
    assert_eq!(
        (&orphan(&second)["claim"], &orphan(&second)["status"]),
        (&json!("two"), &json!("its volume is gone"))
    );
    assert_eq!(orphan("somebodys")["status"], "not noted");
    let words = fails(&space, &["orphans", "remove", &second, "--yes"]);
    assert!(words.contains("less than an hour ago"), "{words}");
}

#[tokio::test]
async fn a_directory_is_adopted_by_what_its_note_says() {
    let space = Space::new().await;
    let _provisioner = Process::start(&settings(&space));
    let class = space.class("nfs", json!({"reclaimPolicy": "Retain"})).await;
    for claim in ["one", "two"] {
        space.claim(claim, &class, json!({})).await;
    }
    let mut before = Vec::new();
    for claim in ["one", "two"] {
        let volume = space.bound(claim).await;
        fs::write(space.at(&Space::directory(&volume)).join("file"), claim).unwrap();
        space.delete_claim(claim).await;
        let name = volume.metadata.name.clone().unwrap();
        space.phase(&name, "Released").await;
        space.volumes().delete(&name, &DeleteParams::default()).await.unwrap();
        space.gone(&name).await;
        before.push((claim, name, Space::directory(&volume)));
    }
    // As if another cluster had noted them, which has gone.
    let own = note_of(&space, &before[0].1).unwrap().0;
    fs::rename(space.at(VOLUME_NOTES).join(&own), space.at(VOLUME_NOTES).join("another")).unwrap();
    let words = fails(&space, &["adopt", "--all"]);
    assert!(words.contains("was at work") && words.contains("--cluster another"), "{words}");
    let old = std::time::SystemTime::now() - std::time::Duration::from_hours(2);
    fs::File::open(space.at(VOLUME_NOTES).join("another")).unwrap().set_modified(old).unwrap();
    let printed = succeeds(&space, &["adopt", "--all"]);
    assert_eq!(printed.matches("kind: PersistentVolume\n").count(), 2, "{printed}");
    assert_eq!(
        printed.matches("kind: PersistentVolumeClaim\n").count(),
        4,
        "claims, and what refers to them: {printed}"
    );
    let words = fails(&space, &["adopt", "--all", "--apply"]);
    assert!(words.contains("the volume is made, but not its claim"), "for lack of the right: {words}");
    let_it_claim(&space).await;
    for (claim, name, directory) in &before {
        space.volumes().delete(name, &DeleteParams::default()).await.unwrap();
        space.gone(name).await;
        if *claim == "one" {
            let as_other = format!("{}/other", space.namespace);
            succeeds(&space, &["adopt", directory, "--as", &as_other, "--apply"]);
            let volume = space.bound("other").await;
            assert_eq!(
                (volume.metadata.name.as_ref(), Space::directory(&volume)),
                (Some(name), directory.clone())
            );
        }
    }
    succeeds(&space, &["adopt", "--all", "--apply"]);
    let volume = space.bound("two").await;
    assert_eq!(volume.metadata.name.as_ref(), Some(&before[1].1));
    assert_eq!(fs::read_to_string(space.at(&Space::directory(&volume)).join("file")).unwrap(), "two");
    let again = run(&space, &["adopt", "--all", "--apply"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("nothing is to be adopted"), "{again:?}");
}

/// Starts two commands at the same time, and waits for both.
fn at_once(space: &Space, commands: [&[&str]; 2]) -> [Output; 2] {
    let start = |arguments: &[&str]| {
        let mut command = settings(space).command();
        command.args(arguments).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    commands.map(start).map(|running| running.wait_with_output().unwrap())
}

#[tokio::test]
async fn two_who_restore_at_once_lose_nothing() {
    let space = Space::new().await;
    let _provisioner = Process::start(&settings(&space));
    let_it_claim(&space).await;
    let class = space.class("nfs", json!({"parameters": {"pathPattern": "${.PVC.name}"}})).await;
    let mut archives = Vec::new();
    for content in ["first", "second"] {
        space.claim("data", &class, json!({})).await;
        let name = space.bound("data").await.metadata.name.unwrap();
        fs::write(space.at("data/file"), content).unwrap();
        space.delete_claim("data").await;
        space.gone(&name).await;
        let second = format!("archived-data-{name}");
        archives.push(if archives.is_empty() { "archived-data".to_owned() } else { second });
    }
    let contents = || {
        let found = archives.iter().map(String::as_str).chain(["data"]);
        let mut found: Vec<_> =
            found.filter_map(|path| fs::read_to_string(space.at(path).join("file")).ok()).collect();
        found.sort();
        found
    };
    // Two archives that were one path.
    let other = format!("{}/other", space.namespace);
    let both = at_once(
        &space,
        [&["archives", "restore", &archives[0]], &["archives", "restore", &archives[1], "--as", &other]],
    );
    let succeeded = both.iter().filter(|output| output.status.success()).count();
    assert!(succeeded <= 1, "{both:?}");
    assert_eq!(contents(), ["first", "second"], "{both:?}");
    if succeeded == 0 {
        // Each has seen the other, and both have left.
        succeeds(&space, &["archives", "restore", &archives[0]]);
    }
    for claim in ["data", "other"] {
        drop(space.api::<PersistentVolumeClaim>().delete(claim, &DeleteParams::default()).await);
        space.claim_gone(claim).await;
    }
    eventually("both to be archives", || async { (!space.at("data").exists()).then_some(()) }).await;
    // One archive, twice.
    let listed = items(&space, &["archives", "-n", &space.namespace]);
    let first = listed
        .iter()
        .map(|item| item["name"].as_str().unwrap())
        .find(|name| fs::read_to_string(space.at(name).join("file")).unwrap() == "first");
    let command: &[&str] = &["archives", "restore", first.unwrap()];
    let both = at_once(&space, [command, command]);
    assert!(both.iter().any(|output| output.status.success()), "{both:?}");
    space.bound("data").await;
    assert_eq!(fs::read_to_string(space.at("data/file")).unwrap(), "first");
}

/// A StatefulSet of two, each with a claim.
fn stateful_set(class: &str) -> StatefulSet {
    from_json(json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2, "serviceName": "web", "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{
                    "name": "main", "image": "nginx", "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }]},
            },
            "volumeClaimTemplates": [{
                "metadata": {"name": "data"},
                "spec": {
                    "storageClassName": class, "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}},
                },
            }],
        },
    }))
}

async fn two_are_ready(space: &Space, namespace: &str) {
    let sets: Api<StatefulSet> = Api::namespaced(space.client.clone(), namespace);
    eventually("two replicas", || async {
        (sets.get("web").await.ok()?.status?.ready_replicas? == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_cluster_that_was_thrown_away_is_rebuilt_from_its_export() {
    const CLAIMS: [&str; 5] = ["data-web-0", "data-web-1", "archived", "deleted", "nested"];
    let before: &'static Plane = Box::leak(Box::new(Plane::start()));
    let space = Space::on(before, Rules::Ours).await;
    let settings = self::settings(&space);
    let provisioner = Process::start(&settings);
    let parameters = [
        ("web", json!({})),
        ("archived", json!({"gidRange": "3300-3310"})),
        ("deleted", json!({"onDelete": "delete"})),
        ("nested", json!({"pathPattern": "team/${.PVC.name}"})),
    ];
    for (name, parameters) in &parameters {
        let class = space.class(name, json!({"parameters": parameters})).await;
        match *name {
            "web" => drop(create(&space.api(), stateful_set(&class)).await),
            name => drop(space.claim(name, &class, json!({})).await),
        }
    }
    two_are_ready(&space, &space.namespace).await;
    let mut volumes = Vec::new();
    for claim in CLAIMS {
        let volume = space.bound(claim).await;
        fs::write(space.at(&Space::directory(&volume)).join("file"), claim).unwrap();
        volumes.push(volume);
    }
    assert!(provisioner.stop().success());
    for part in ["kube-controller-manager", "kube-apiserver", "etcd"] {
        before.command(&format!("stop {part}"));
    }

    let rebuilt = Space::new().await;
    create(&Api::all(rebuilt.client.clone()), named::<Namespace>(&space.namespace)).await;
    let_it_claim_in(&rebuilt, &space.namespace).await;
    for (name, parameters) in &parameters {
        let class = json!({
            "metadata": {"name": space.class_name(name)}, "provisioner": space.provisioner, "parameters": parameters,
        });
        create::<StorageClass>(&rebuilt.classes(), from_json(class)).await;
    }
    let settings =
        Settings { kubeconfig: rebuilt.settings().kubeconfig, namespace: rebuilt.namespace.clone(), ..settings };
    let _provisioner = Process::start(&settings);
    let adopt = || settings.command().args(["adopt", "--all", "--apply"]).output().unwrap();
    let early = adopt();
    assert!(
        !early.status.success() && String::from_utf8_lossy(&early.stderr).contains("was at work"),
        "{early:?}"
    );
    let (mark, _) = note_of(&space, volumes[0].metadata.name.as_deref().unwrap()).unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_hours(2);
    fs::File::open(space.at(VOLUME_NOTES).join(&mark)).unwrap().set_modified(old).unwrap();
    let entries = space.entries();
    let adopted = adopt();
    assert!(adopted.status.success(), "{adopted:?}");
    assert_eq!(space.entries(), entries, "something on the export was touched");
    create(&Api::namespaced(rebuilt.client.clone(), &space.namespace), stateful_set(&space.class_name("web")))
        .await;
    two_are_ready(&rebuilt, &space.namespace).await;
    for (claim, was) in CLAIMS.into_iter().zip(&volumes) {
        let is = rebuilt.bound_in(&space.namespace, claim).await;
        assert_eq!(Space::directory(&is), Space::directory(was), "{claim}");
        assert_eq!(fs::read_to_string(space.at(&Space::directory(&is)).join("file")).unwrap(), claim);
        let kept = |volume: &PersistentVolume| {
            let spec = volume.spec.clone().unwrap();
            let gid = volume.metadata.annotations.as_ref().unwrap().get("pv.beta.kubernetes.io/gid").cloned();
            (spec.capacity, spec.access_modes, spec.storage_class_name, spec.persistent_volume_reclaim_policy, gid)
        };
        assert_eq!(kept(&is), kept(was), "{claim}");
    }
}

#[tokio::test]
async fn what_is_kept_in_the_trash_is_restored_or_removed_at_once() {
    let space = Space::new().await;
    let _provisioner = Process::start(&settings(&space));
    let_it_claim(&space).await;
    let parameters = json!({"onDelete": "delete", "deleteRetention": "1d", "gidRange": "3400-3410"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    let mut entry_of = Vec::new();
    for claim in ["one", "two"] {
        space.claim(claim, &class, json!({})).await;
        let volume = space.bound(claim).await;
        let (name, directory) = (volume.metadata.name.clone().unwrap(), Space::directory(&volume));
        fs::write(space.at(&directory).join("file"), claim).unwrap();
        space.delete_claim(claim).await;
        space.gone(&name).await;
        assert!(!space.at(&directory).exists());
        let listed = items(&space, &["trash"]);
        let found = listed.iter().find(|item| item["claim"] == claim).unwrap_or_else(|| panic!("{listed:?}"));
        assert_eq!((&found["status"], &found["directory"]), (&json!("is kept"), &json!(directory)));
        assert!(found["keptUntil"].is_string() && found["requested"] == "1Mi", "{found}");
        entry_of.push(found["name"].as_str().unwrap().to_owned());
    }
    succeeds(&space, &["trash", "restore", &entry_of[0]]);
    let volume = space.bound("one").await;
    assert_eq!(fs::read_to_string(space.at(&Space::directory(&volume)).join("file")).unwrap(), "one");
    assert_eq!(volume.metadata.annotations.unwrap()["pv.beta.kubernetes.io/gid"], "3400");
    let again = run(&space, &["trash", "restore", &entry_of[0]]);
    assert!(again.status.success(), "twice is once: {again:?}");

    let planned = succeeds(&space, &["trash", "remove", &entry_of[1]]);
    assert!(planned.contains("would remove") && items(&space, &["trash"]).len() == 1, "{planned}");
    succeeds(&space, &["trash", "remove", &entry_of[1], "--yes"]);
    assert!(fails(&space, &["trash", "restore", &entry_of[1]]).contains("there is no"));
    // From now on the provisioner may have begun to remove it.
    for item in items(&space, &["trash"]) {
        let name = item["name"].as_str().unwrap();
        assert_eq!(item["status"], "is being removed");
        let as_claim = format!("{}/two", space.namespace);
        let words = fails(&space, &["trash", "restore", name, "--as", &as_claim, "--size", "1Mi"]);
        assert!(words.contains("it is not kept any more") || words.contains("there is no"), "{words}");
    }
}

/// The most memory in KiB that a command has taken by its end, and how many lines it has said.
fn peak_of(space: &Space, arguments: &[&str]) -> (u64, usize) {
    let said = space.at("../said");
    let mut command = settings(space).command();
    let mut child = command.args(arguments).stdout(fs::File::create(&said).unwrap()).spawn().unwrap();
    let mut peak = 0;
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        peak = peak.max(kibibytes.unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{arguments:?}");
            return (peak, fs::read_to_string(said).unwrap().lines().count());
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[tokio::test]
async fn a_list_of_very_many_archives_takes_no_more_memory() {
    const MANY: usize = 30_000;
    let space = Space::new().await;
    let grow = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            fs::create_dir(space.at(&format!("archived-shop-data-{number}-{}", "x".repeat(100)))).unwrap();
        }
    };
    grow(0..300);
    let forms = ["table", "json", "name"].map(|form| (form, peak_of(&space, &["archives", "list", "-o", form]).0));
    grow(300..MANY);
    for (form, few) in forms {
        let (many, lines) = peak_of(&space, &["archives", "list", "-o", form]);
        assert!(lines >= MANY, "{form}: {lines} lines");
        assert!(many < few + few / 5, "{form}: {many} KiB for {MANY}, {few} KiB for 300");
    }
}
