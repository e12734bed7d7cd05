//! `nfs-provisioner rehome`: volumes point at another server, and nothing else of them changes.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::reclaim::name_of;
use crate::support::eventually;
use crate::support::plane::Plane;
use crate::support::process::{Process, Settings};
use crate::support::proxy::{Action, Asked, Fault, Proxy};
use crate::support::space::{Rules, Space, create, from_json, merge, rules_of_rbac};

/// Our own rules, and what docs/operations.md adds to them.
fn rules_with_pods() -> Rules {
    let (cluster, own) = rules_of_rbac();
    let mut cluster = json!(cluster);
    cluster.as_array_mut().unwrap().push(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}));
    Rules::These(cluster, json!(own))
}

async fn space_with_pods() -> Space {
    Space::on(Plane::shared(), rules_with_pods()).await
}

/// Runs it with a test's settings.
async fn run(settings: &Settings, arguments: &[&str]) -> Output {
    let mut command = settings.command();
    command.arg("rehome").args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// What it prints, its log among that, and its exit status.
async fn said(settings: &Settings, arguments: &[&str]) -> (String, Option<i32>) {
    let output = run(settings, arguments).await;
    let text = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat();
    (text, output.status.code())
}

/// The addresses of a test, which no other has.
struct Addresses {
    old: String,
    new: String,
    from: String,
    to: String,
}

fn addresses(space: &Space) -> Addresses {
    let (old, new) = (space.own_server(), format!("new-{}", space.own_server()));
    Addresses { from: format!("{old}:/export"), to: format!("{new}:/data/k8s"), old, new }
}

impl Addresses {
    fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["--from", &self.from, "--to", &self.to], more].concat()
    }
}

/// Settings of this test's provisioner, which serves the old address.
fn settings(space: &Space, server: &str, path: &str) -> Settings {
    Settings { server: server.to_owned(), path: path.to_owned(), ..space.settings() }
}

/// Makes a volume by hand, at a path of a server, with what `change` says.
async fn volume(space: &Space, name: &str, server: &str, path: &str, change: Value) -> String {
    let full = format!("{}-{name}", space.namespace);
    let mut object = json!({
        "metadata": {
            "name": full, "labels": {"team": "blue"},
            "annotations": {"pv.kubernetes.io/provisioned-by": space.provisioner, "example.com/note": "kept"},
        },
        "spec": {
            "accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Mi"}, "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Delete", "mountOptions": ["hard", "nfsvers=4.1"],
            "nfs": {"server": server, "path": path, "readOnly": true},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["none"]}]},
            ]}},
        },
    });
    merge(&mut object, change);
    create(&space.volumes(), from_json(object)).await;
    full
}

/// Makes a volume and its claim by hand, and waits until they are bound.
async fn bound(space: &Space, name: &str, server: &str, path: &str, change: Value) -> String {
    let mut of = json!({"spec": {"claimRef": {"namespace": space.namespace, "name": name}}});
    merge(&mut of, change);
    let full = volume(space, name, server, path, of).await;
    // A claim whose volume is not known yet is looked at again much later.
    space.phase(&full, "Available").await;
    space.claim(name, "", json!({"spec": {"volumeName": full}})).await;
    space.bound(name).await;
    space.phase(&full, "Bound").await;
    full
}

/// A volume as it is kept: without what the API server keeps for itself, and without its address.
async fn kept(space: &Space, name: &str) -> Value {
    let mut volume = json!(space.volumes().get(name).await.unwrap());
    for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
        volume["metadata"].as_object_mut().unwrap().remove(field);
    }
    volume["status"].as_object_mut().unwrap().remove("lastPhaseTransitionTime");
    for field in ["server", "path"] {
        volume["spec"]["nfs"].as_object_mut().unwrap().remove(field);
    }
    volume
}

/// The server and path of a volume.
async fn source(space: &Space, name: &str) -> String {
    let nfs = space.volumes().get(name).await.unwrap().spec.unwrap().nfs.unwrap();
    format!("{}:{}", nfs.server, nfs.path)
}

/// The claim's uid, and whether it is bound to the volume.
async fn claim(space: &Space, name: &str, volume: &str) -> (String, bool) {
    let claim = space.api::<PersistentVolumeClaim>().get(name).await.unwrap();
    let is_bound = claim.status.unwrap().phase.as_deref() == Some("Bound");
    (claim.metadata.uid.unwrap(), is_bound && claim.spec.unwrap().volume_name.as_deref() == Some(volume))
}

/// The names of all keepers of this test's volumes.
async fn keepers(space: &Space) -> Vec<String> {
    let all = space.volumes().list(&ListParams::default()).await.unwrap().items;
    let is_ours = |name: &str| name.starts_with(&format!("{}-", space.namespace)) || name.starts_with("pvc-");
    let of = |volume: &PersistentVolume| {
        let annotations = volume.metadata.annotations.clone().unwrap_or_default();
        let of = annotations.get("nfs-provisioner/rehome-of")?.contains(&space.provisioner);
        (of && is_ours(name_of(volume))).then(|| name_of(volume).to_owned())
    };
    all.iter().filter_map(of).collect()
}

/// Makes a Pod that uses a claim and is never run.
async fn pod(space: &Space, name: &str, claim: &str) {
    let pods: Api<Pod> = space.api();
    let pod = json!({
        "metadata": {"name": name},
        "spec": {
            "nodeSelector": {"no": "such-node"},
            "containers": [{"name": "main", "image": "nginx"}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        },
    });
    create(&pods, from_json(pod)).await;
}

/// The line of a volume in a plan.
fn line<'a>(text: &'a str, volume: &str) -> Option<&'a str> {
    text.lines().find(|line| line.split_whitespace().next() == Some(volume))
}

#[tokio::test]
async fn volumes_of_all_kinds_move_and_keep_all_but_their_address() {
    let space = space_with_pods().await;
    let at = addresses(&space);
    let settings = settings(&space, &at.new, "/data/k8s");
    let old = &*at.old;
    let data = bound(&space, "data", old, "/export/a/data", json!({})).await;
    let retained =
        bound(&space, "kept", old, "/export/kept", json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}))
            .await;
    let whole = bound(&space, "whole", old, "/export2", json!({})).await;
    let gone = json!({"spec": {"claimRef": {"namespace": space.namespace, "name": "gone", "uid": "gone"}}});
    let released = volume(&space, "released", old, "/export/released", gone).await;
    let available = volume(&space, "available", old, "/export/available", json!({})).await;
    space.phase(&released, "Released").await;
    space.phase(&available, "Available").await;
    let by = |name: &str| json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": name}}});
    let foreign = volume(&space, "foreign", old, "/export/foreign", by("example.com/other")).await;
    let other_server = volume(&space, "other", "other.test.invalid", "/export/x", json!({})).await;
    let class = json!({"spec": {"storageClassName": "another"}});
    let other_class = volume(&space, "class", old, "/export/class", class).await;
    let used = bound(&space, "used", old, "/export/used", json!({})).await;
    pod(&space, "user", "used").await;
    let moved = [(&data, "a/data"), (&retained, "kept"), (&released, "released"), (&available, "available")];
    let staying = [&whole, &foreign, &other_server, &other_class, &used];

    let mut before = Vec::new();
    for (name, _) in moved {
        before.push((space.volumes().get(name).await.unwrap(), kept(&space, name).await));
    }
    let mut stays = Vec::new();
    for name in staying {
        stays.push(space.volumes().get(name).await.unwrap());
    }
    let claims = [claim(&space, "data", &data).await, claim(&space, "kept", &retained).await];

    // The plan alone changes nothing.
    let plan = at.arguments(&["--class", ""]);
    let (text, code) = said(&settings, &plan).await;
    assert_eq!(code, Some(1), "one is in use: {text}");
    for ((name, _), (volume, _)) in moved.iter().zip(&before) {
        let line = line(&text, name).unwrap_or_else(|| panic!("{name}: {text}"));
        assert!(line.contains(&at.to) && line.ends_with("nothing"), "{line}");
        assert_eq!(space.volumes().get(name).await.unwrap(), *volume, "{name}");
    }
    assert!(line(&text, &used).unwrap().contains("used by Pods (user)"), "{text}");
    assert!(text.contains("4 volumes would be made anew, 1 would stay"), "{text}");
    for name in &staying[..4] {
        assert!(line(&text, name).is_none(), "{name}: {text}");
    }
    assert!(!text.contains("none of the exports"), "{text}");

    let (text, code) = said(&settings, &at.arguments(&["--class", "", "--yes"])).await;
    assert_eq!(code, Some(1), "one is in use: {text}");
    for ((name, path), (volume, before)) in moved.iter().zip(&before) {
        assert_eq!(kept(&space, name).await, *before, "{name}");
        assert_eq!(source(&space, name).await, format!("{}/{path}", at.to));
        let now = space.volumes().get(name).await.unwrap();
        assert_ne!(now.metadata.uid, volume.metadata.uid);
    }
    assert_eq!([claim(&space, "data", &data).await, claim(&space, "kept", &retained).await], claims);
    assert!(claims.iter().all(|(_, is_bound)| *is_bound));
    for (name, before) in staying.iter().zip(&stays) {
        assert_eq!(space.volumes().get(name).await.unwrap(), *before, "{name}");
    }
    assert_eq!(keepers(&space).await, [""; 0]);

    // The rest, when it may be.
    let (text, code) = said(&settings, &at.arguments(&["--class", "", "--yes", "--in-use"])).await;
    assert!(code == Some(0) && text.contains("1 volumes are made anew"), "{text}");
    assert_eq!(source(&space, &used).await, format!("{}/used", at.to));
    assert!(claim(&space, "used", &used).await.1);
    // And once more there is nothing to do.
    let (text, code) = said(&settings, &at.arguments(&["--class", "", "--yes"])).await;
    assert!(code == Some(0) && text.contains("No volume of the provisioner"), "{text}");
}

#[tokio::test]
async fn it_says_what_it_may_not_see_and_what_it_does_not_know() {
    let space = Space::new().await;
    let at = addresses(&space);
    let name = bound(&space, "data", &at.old, "/export/data", json!({})).await;
    let before = space.volumes().get(&name).await.unwrap();
    let settings = settings(&space, &at.old, "/export");
    let (text, code) = said(&settings, &at.arguments(&["--yes"])).await;
    let words = format!("grant list on pods in the namespace {}", space.namespace);
    assert!(code == Some(1) && line(&text, &name).unwrap().contains(&words), "{text}");
    assert!(text.contains("none of the exports that are set"), "{text}");
    assert_eq!(space.volumes().get(&name).await.unwrap(), before);
    let rows = [
        (at.from.clone(), at.from.clone(), "are the same"),
        (at.from.clone(), format!("{}/below", at.from), "lie in each other"),
        (format!("{}/below", at.from), at.from.clone(), "lie in each other"),
        ("nas".to_owned(), at.to.clone(), "must be SERVER:PATH"),
    ];
    for (from, to, words) in rows {
        let (text, code) = said(&settings, &["--from", &from, "--to", &to, "--yes", "--in-use"]).await;
        assert!(code != Some(0) && text.contains(words), "{from} {to}: {text}");
        assert_eq!(space.volumes().get(&name).await.unwrap(), before);
    }
    let taken = volume(&space, "there", &at.new, "/data/k8s/data", json!({})).await;
    let (text, code) = said(&settings, &at.arguments(&["--yes", "--in-use"])).await;
    let words = format!("the volume {taken} is there already");
    assert!(code == Some(1) && line(&text, &name).unwrap().contains(&words), "{text}");
    assert_eq!(space.volumes().get(&name).await.unwrap(), before);
    space.volumes().delete(&taken, &DeleteParams::default()).await.unwrap();
    space.gone(&taken).await;
    // Where no export is set it cannot know.
    let mut command = settings.command();
    command
        .env_remove("NFS_SERVER")
        .env_remove("NFS_PATH")
        .arg("rehome")
        .args(at.arguments(&["--yes", "--in-use"]));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success() && text.contains("is not known here"), "{text}");
    assert_eq!(source(&space, &name).await, format!("{}/data", at.to));
}

#[tokio::test]
async fn without_the_rights_nothing_is_begun() {
    let (Value::Array(mut rules), own) = (json!(rules_of_rbac().0), json!(rules_of_rbac().1)) else { panic!() };
    rules[0]["verbs"].as_array_mut().unwrap().retain(|verb| verb != "patch");
    let space = Space::on(Plane::shared(), Rules::These(Value::Array(rules), own)).await;
    let at = addresses(&space);
    let name = bound(&space, "data", &at.old, "/export/data", json!({})).await;
    let before = space.volumes().get(&name).await.unwrap();
    let (text, code) = said(&settings(&space, &at.old, "/export"), &at.arguments(&["--yes", "--in-use"])).await;
    assert!(code == Some(1) && text.contains("not allowed: patch persistentvolumes"), "{text}");
    assert_eq!(space.volumes().get(&name).await.unwrap(), before);
    assert_eq!(keepers(&space).await, [""; 0]);
}

/// How a run ends early: at a request that is carried out or not.
#[derive(Debug, Clone, Copy)]
enum End {
    Before,
    After,
}

/// A change of a volume.
type Change = fn(&Asked) -> bool;

/// The changes that a run makes, in their order.
const CHANGES: &[(&str, Change)] = &[
    ("keep", |asked| asked.makes("persistentvolumes") && asked.body.contains("rehome-of")),
    ("mark", |asked| asked.method == "PATCH" && asked.body.contains(r#""nfs-provisioner/rehomed-by":""#)),
    ("record", is_recording),
    ("delete", |asked| asked.method == "DELETE" && !asked.path.ends_with("-rehome")),
    ("strip", is_stripping),
    ("create", |asked| asked.makes("persistentvolumes") && !asked.body.contains("rehome-of")),
    ("restore", |asked| asked.method == "PATCH" && asked.body.contains(r#""nfs-provisioner/rehomed-by":null"#)),
    ("forget", |asked| asked.method == "DELETE" && asked.path.ends_with("-rehome")),
];

/// Whether it records that a volume may be deleted.
fn is_recording(asked: &Asked) -> bool {
    asked.method == "PATCH" && asked.body.contains("rehome-ready")
}

/// Whether it takes off the last that keeps a deleted volume there.
fn is_stripping(asked: &Asked) -> bool {
    asked.method == "PATCH" && asked.body.contains(r#""finalizers":null"#)
}

/// A proxy that lets all requests pass up to one, and nothing at all after that.
struct Cut {
    settings: Settings,
    proxy: Proxy,
    _faults: Vec<Fault>,
}

fn cut(space: &Space, settings: &Settings, file: PathBuf, at: Change, end: End) -> Cut {
    let proxy = Proxy::start(space.plane);
    let text = fs::read_to_string(&settings.kubeconfig).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["clusters"][0]["cluster"]["server"] = proxy.address().into();
    fs::write(&file, config.to_string()).unwrap();
    let has_come = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&has_come);
    let action = if matches!(end, End::Before) { Action::Cut } else { Action::LoseAnswer };
    let after = proxy.fault(move |_| seen.load(Ordering::SeqCst), Action::Cut);
    let faults =
        vec![after, proxy.fault(move |asked| at(asked) && !has_come.swap(true, Ordering::SeqCst), action)];
    Cut { settings: Settings { kubeconfig: file, ..settings.clone() }, proxy, _faults: faults }
}

#[tokio::test]
async fn a_run_that_ends_at_any_step_is_finished_by_the_next_one() {
    let space = space_with_pods().await;
    let dir = tempfile::tempdir().unwrap();
    let cases = CHANGES.iter().flat_map(|change| [(change, End::Before), (change, End::After)]);
    let each = cases.map(|((step, change), end)| {
        let (space, dir) = (&space, dir.path());
        async move {
            let case = format!("{step}-{}", format!("{end:?}").to_lowercase());
            // Keepers are finished by whoever has the provisioner's name.
            let provisioner = format!("{case}.{}", space.provisioner);
            let at = addresses(space);
            let (from, to) = (format!("{}/{case}", at.from), format!("{}/{case}", at.to));
            let ours = json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": provisioner}}});
            let name = bound(space, &case, &at.old, &format!("/export/{case}/x"), ours).await;
            let (before, uid) = (kept(space, &name).await, claim(space, &case, &name).await.0);
            let settings = Settings { provisioner, ..settings(space, &at.new, "/data/k8s") };
            let cut = cut(space, &settings, dir.join(&case), *change, end);
            let arguments = ["--from", &from, "--to", &to, "--yes"];
            let (text, code) = said(&cut.settings, &arguments).await;
            assert!(code == Some(1) && text.contains("run this again"), "{case}: {text}");
            assert!(cut.proxy.count(change) >= 1, "{case}: {text}");
            // Either a volume is there, or a keeper of it, and the claim is.
            let keeper = space.volumes().get_opt(&format!("{name}-rehome")).await.unwrap();
            let there = space.volumes().get_opt(&name).await.unwrap();
            assert!(keeper.is_some() || there.is_some(), "{case}: {text}");

            // Whatever the next one is asked for, as the first one may have been forgotten.
            let elsewhere = ["--from", "nowhere:/x", "--to", "nowhere:/y", "--yes"];
            let is_begun = keeper.is_some();
            let (text, code) = said(&settings, if is_begun { &elsewhere } else { &arguments }).await;
            assert_eq!(code, Some(0), "{case}: {text}");
            // Kubernetes takes its own finalizer off the keeper.
            space.gone(&format!("{name}-rehome")).await;
            assert_eq!(kept(space, &name).await, before, "{case}");
            assert_eq!(source(space, &name).await, format!("{to}/x"), "{case}");
            assert_eq!(claim(space, &case, &name).await, (uid, true), "{case}");
        }
    });
    join_all(each).await;
}

#[tokio::test]
async fn a_claim_that_goes_while_its_volume_is_away_is_not_waited_for() {
    let space = space_with_pods().await;
    let dir = tempfile::tempdir().unwrap();
    let at = addresses(&space);
    let name = bound(&space, "data", &at.old, "/export/data", json!({})).await;
    let settings = settings(&space, &at.new, "/data/k8s");
    let cut = cut(&space, &settings, dir.path().join("kubeconfig"), is_stripping, End::After);
    let (text, code) = said(&cut.settings, &at.arguments(&["--yes"])).await;
    assert_eq!(code, Some(1), "{text}");
    space.gone(&name).await;
    space.delete_claim("data").await;
    space.claim_gone("data").await;
    let (text, code) = said(&settings, &at.arguments(&["--yes"])).await;
    assert_eq!(code, Some(0), "{text}");
    let volume = space.volumes().get(&name).await.unwrap();
    assert_eq!(volume.status.unwrap().phase.as_deref(), Some("Released"));
    assert_eq!(volume.spec.unwrap().persistent_volume_reclaim_policy.as_deref(), Some("Delete"));
}

#[tokio::test]
async fn a_volume_whose_claim_is_not_bound_again_keeps_retain_until_it_is() {
    // Nobody binds anything there for a while.
    let plane: &'static Plane = Box::leak(Box::new(Plane::start()));
    let space = Space::on(plane, rules_with_pods()).await;
    let at = addresses(&space);
    let name = bound(&space, "data", &at.old, "/export/data", json!({})).await;
    let (before, uid) = (kept(&space, &name).await, claim(&space, "data", &name).await.0);
    let settings = settings(&space, &at.new, "/data/k8s");
    plane.command("stop kube-controller-manager");
    let (text, code) = said(&settings, &at.arguments(&["--yes"])).await;
    assert!(code == Some(1) && text.contains("not Bound after 60 s") && text.contains("run this again"), "{text}");
    let volume = space.volumes().get(&name).await.unwrap().spec.unwrap();
    assert_eq!(volume.persistent_volume_reclaim_policy.as_deref(), Some("Retain"));
    assert_eq!(keepers(&space).await, [format!("{name}-rehome")]);
    plane.command("start kube-controller-manager");
    let (text, code) = said(&settings, &at.arguments(&["--yes"])).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(kept(&space, &name).await, before);
    assert_eq!(claim(&space, "data", &name).await, (uid, true), "{text}");
}

#[tokio::test]
async fn a_pod_that_has_come_since_stops_a_run_that_was_begun() {
    let space = space_with_pods().await;
    let dir = tempfile::tempdir().unwrap();
    let at = addresses(&space);
    let name = bound(&space, "data", &at.old, "/export/data", json!({})).await;
    let settings = settings(&space, &at.new, "/data/k8s");
    let cut = cut(&space, &settings, dir.path().join("kubeconfig"), is_recording, End::After);
    let (text, code) = said(&cut.settings, &at.arguments(&["--yes"])).await;
    assert_eq!(code, Some(1), "{text}");
    let uid = space.volumes().get(&name).await.unwrap().metadata.uid;
    pod(&space, "user", "data").await;
    let (text, code) = said(&settings, &at.arguments(&["--yes"])).await;
    assert!(code == Some(1) && text.contains("used by Pods (user)"), "{text}");
    assert_eq!(space.volumes().get(&name).await.unwrap().metadata.uid, uid);
    let (text, code) = said(&settings, &at.arguments(&["--yes", "--in-use"])).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(source(&space, &name).await, format!("{}/data", at.to));
}

#[tokio::test]
async fn two_runs_at_once_do_no_harm() {
    let space = space_with_pods().await;
    let at = addresses(&space);
    let settings = settings(&space, &at.new, "/data/k8s");
    let before = (0..12).map(|number| {
        let (space, at) = (&space, &at);
        async move {
            let claim_name = format!("data-{number}");
            let name = bound(space, &claim_name, &at.old, &format!("/export/{number}"), json!({})).await;
            let (kept, uid) = (kept(space, &name).await, claim(space, &claim_name, &name).await.0);
            (claim_name, name, kept, uid)
        }
    });
    let before = join_all(before).await;
    let arguments = at.arguments(&["--yes"]);
    let runs =
        join_all([said(&settings, &arguments), said(&settings, &arguments), said(&settings, &arguments)]).await;
    // One that has found a volume changed since it planned says so.
    let (text, code) = said(&settings, &arguments).await;
    assert_eq!(code, Some(0), "{text}; before: {runs:?}");
    for (number, (claim_name, name, before, uid)) in before.into_iter().enumerate() {
        space.gone(&format!("{name}-rehome")).await;
        assert_eq!(kept(&space, &name).await, before, "{runs:?}");
        assert_eq!(source(&space, &name).await, format!("{}/{number}", at.to));
        assert_eq!(claim(&space, &claim_name, &name).await, (uid, true));
    }
}

/// Waits until a volume is as its provisioner leaves it.
async fn protected(space: &Space, name: &str) {
    eventually("the finalizer", || async {
        let finalizers = space.volumes().get(name).await.ok()?.metadata.finalizers?;
        finalizers.iter().any(|name| name.starts_with("external-provisioner")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_provisioner_that_runs_meanwhile_reclaims_nothing() {
    let space = space_with_pods().await;
    let at = addresses(&space);
    let provisioner = Process::start(&settings(&space, &at.old, "/export"));
    let pattern = "${.PVC.name}";
    let parameters = json!({"onDelete": "delete", "pathPattern": pattern, "gidRange": "50000-50002"});
    let class = space.class("nfs", json!({"parameters": parameters, "mountOptions": ["hard"]})).await;
    let mut volumes = Vec::new();
    for name in ["data", "one", "two"] {
        space.claim(name, &class, json!({})).await;
        let volume = space.bound(name).await.metadata.name.unwrap();
        fs::write(space.at(name).join("file"), name).unwrap();
        volumes.push((name, volume));
    }
    let mut before = Vec::new();
    for (name, volume) in &volumes {
        before.push((kept(&space, volume).await, claim(&space, name, volume).await));
    }
    let dir = tempfile::tempdir().unwrap();
    let settings_new = settings(&space, &at.new, "/data/k8s");

    // A claim that goes while its volume is marked has it released, and no provisioner reclaims that.
    let deletes: Change = |asked| asked.method == "DELETE";
    let marked = cut(&space, &settings_new, dir.path().join("marked"), deletes, End::Before);
    let (text, code) = said(&marked.settings, &at.arguments(&["--yes"])).await;
    assert_eq!(code, Some(1), "{text}");
    space.delete_claim("data").await;
    space.phase(&volumes[0].1, "Released").await;
    // One that is released later is reclaimed.
    let plain = space.class("plain", json!({"parameters": {"onDelete": "delete", "pathPattern": pattern}})).await;
    space.claim("later", &plain, json!({})).await;
    let later = space.bound("later").await.metadata.name.unwrap();
    space.delete_claim("later").await;
    space.gone(&later).await;
    assert!(space.at("data/file").exists(), "{}", provisioner.log());

    // The group of one that is away is not given to another.
    let away = cut(&space, &settings_new, dir.path().join("away"), is_stripping, End::After);
    let (text, code) = said(&away.settings, &at.arguments(&["--yes"])).await;
    assert_eq!(code, Some(1), "{text}");
    let mut is_away = 0;
    for (_, volume) in &volumes {
        is_away += usize::from(space.volumes().get_opt(volume).await.unwrap().is_none());
    }
    assert_eq!(is_away, 1, "{text}");
    space.claim("late", &class, json!({})).await;
    space.event("late", "ProvisioningFailed").await;

    let (text, code) = said(&settings_new, &at.arguments(&["--yes"])).await;
    assert_eq!(code, Some(0), "{text}");
    for ((name, volume), (_, claim_before)) in volumes.iter().zip(&before) {
        assert!(*name == "data" || claim(&space, name, volume).await == *claim_before, "{name}");
        assert_eq!(source(&space, volume).await, format!("{}/{name}", at.to));
        assert_eq!(fs::read_to_string(space.at(name).join("file")).unwrap(), *name);
    }
    assert!(provisioner.stop().success());

    // The one that serves the new address reclaims them as ever: the one first whose claim has gone.
    let provisioner = Process::start(&settings_new);
    space.gone(&volumes[0].1).await;
    assert!(!space.at("data").exists(), "{}", provisioner.log());
    for ((name, volume), (kept_before, _)) in volumes.iter().zip(&before).skip(1) {
        protected(&space, volume).await;
        assert_eq!(kept(&space, volume).await, *kept_before, "{name}");
        space.delete_claim(name).await;
        space.gone(volume).await;
        assert!(!space.at(name).exists(), "{}", provisioner.log());
    }
}
