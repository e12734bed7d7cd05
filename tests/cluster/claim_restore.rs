//! Claims that get back what was archived or deleted of earlier ones.

use std::fs;
use std::os::unix::fs::MetadataExt;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams};
use nfs_provisioner::layout::NOTES;
use serde_json::{Value, json};

use crate::recovery::settings;
use crate::support::eventually;
use crate::support::process::{Process, Settings};
use crate::support::proxy::{Action, Proxy};
use crate::support::space::{Space, annotations, create, from_json, named};

const TRASH: &str = ".nfs-provisioner-trash";

/// A claim's annotation that asks for something.
fn asks(name: &str) -> Value {
    json!({"metadata": {"annotations": {"nfs-provisioner/restore-from": name}}})
}

/// Serves a claim, writes a text into its directory, and deletes it. Returns where the directory was.
async fn put_away(space: &Space, claim: &str, class: &str, text: &str) -> String {
    space.claim(claim, class, json!({})).await;
    let volume = space.bound(claim).await;
    let directory = Space::directory(&volume);
    fs::write(space.at(&directory).join("file"), text).unwrap();
    space.delete_claim(claim).await;
    space.claim_gone(claim).await;
    space.gone(volume.metadata.name.as_deref().unwrap()).await;
    directory
}

/// Waits until a claim has its volume, and returns that with the text in its directory.
async fn given(space: &Space, claim: &str) -> (PersistentVolume, Option<String>) {
    let volume = space.bound(claim).await;
    let text = fs::read_to_string(space.at(&Space::directory(&volume)).join("file")).ok();
    (volume, text)
}

/// Waits until a claim is refused in these words.
async fn refused(space: &Space, claim: &str, words: &str) {
    eventually(&format!("{claim} to be refused: {words}"), || async {
        let events = space.events(claim, "ProvisioningFailed").await;
        events.iter().any(|event| event.message.as_deref().unwrap_or_default().contains(words)).then_some(())
    })
    .await;
}

/// Starts a provisioner that reaches the API server through a proxy, with a server of its own.
fn start_through(space: &Space, proxy: &Proxy) -> Process {
    Process::start(&Settings { server: space.own_server(), ..space.settings_through(proxy) })
}

/// The only entry of the trash.
fn trashed(space: &Space) -> String {
    let entry = fs::read_dir(space.at(TRASH)).unwrap().next().unwrap().unwrap();
    entry.file_name().into_string().unwrap()
}

#[tokio::test]
async fn a_claim_gets_back_the_archive_that_it_names() {
    let space = Space::new().await;
    let _provisioner = Process::start(&settings(&space));
    let gids = json!({"gidRange": "61000-61009", "claimRestore": "onRequest"});
    let class = space.class("nfs", json!({"parameters": gids})).await;
    let directory = put_away(&space, "data", &class, "kept").await;
    let archive = format!("archived-{directory}");
    let before = fs::metadata(space.at(&archive)).unwrap();
    // Another has been given a group meanwhile.
    space.claim("other", &class, json!({})).await;
    let (other, _) = given(&space, "other").await;
    assert_eq!(annotations(&other.metadata)["pv.beta.kubernetes.io/gid"], "61001");

    space.claim("again", &class, asks(&archive)).await;
    let (volume, text) = given(&space, "again").await;
    assert_eq!(text.as_deref(), Some("kept"));
    let said = annotations(&volume.metadata);
    assert_eq!(said["nfs-provisioner/restored-from"], archive);
    assert_eq!(said["pv.beta.kubernetes.io/gid"], "61000");
    let after = fs::metadata(space.at(&Space::directory(&volume))).unwrap();
    let is = |metadata: &fs::Metadata| (metadata.ino(), metadata.mode(), metadata.uid(), metadata.gid());
    assert_eq!(is(&after), is(&before));
    assert!(!space.at(&archive).exists() && !space.at(NOTES).join(&archive).exists());
    let told = space.event("again", "ProvisioningSucceeded").await;
    assert!(told.contains(" with the data that was put away at 20") && told.ends_with(&archive), "{told}");
    // One that nothing names is a new one.
    space.claim("data", &class, json!({})).await;
    assert_eq!(given(&space, "data").await.1, None);
}

#[tokio::test]
async fn a_claim_gets_back_the_latest_of_its_own_name_from_archives_and_trash() {
    let space = Space::new().await;
    let _provisioner = Process::start(&settings(&space));
    let class = |name, parameters| space.class(name, json!({"parameters": parameters}));
    let archives = class("archives", json!({"claimRestore": "onRequest"})).await;
    let keeps = json!({"claimRestore": "onRequest", "onDelete": "delete", "deleteRetention": "1h"});
    let deletes = class("deletes", keeps).await;
    put_away(&space, "data", &archives, "first").await;
    put_away(&space, "other", &archives, "another's").await;
    // An entry of the trash tells whole seconds.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    put_away(&space, "data", &deletes, "second").await;
    let entry = trashed(&space);

    space.claim("data", &archives, asks("latest")).await;
    let (volume, text) = given(&space, "data").await;
    assert_eq!(text.as_deref(), Some("second"));
    assert_eq!(annotations(&volume.metadata)["nfs-provisioner/restored-from"], entry);
    assert!(fs::read_dir(space.at(TRASH)).unwrap().next().is_none());
    space.delete_claim("data").await;
    space.claim_gone("data").await;
    space.gone(volume.metadata.name.as_deref().unwrap()).await;
    // By its name, too; and then the first one is the latest.
    put_away(&space, "third", &deletes, "third").await;
    space.claim("named", &deletes, asks(&trashed(&space))).await;
    assert_eq!(given(&space, "named").await.1.as_deref(), Some("third"));
    space.claim("data", &archives, asks("latest")).await;
    assert_eq!(given(&space, "data").await.1.as_deref(), Some("second"));
    space.claim("nothing", &archives, asks("latest")).await;
    refused(&space, "nothing", "\"latest\" cannot be restored for this claim: the exports of the class have none")
        .await;
    // Once there is one, it comes.
    space.delete_claim("nothing").await;
    space.claim_gone("nothing").await;
    put_away(&space, "nothing", &archives, "something").await;
    space.claim("nothing", &archives, asks("latest")).await;
    assert_eq!(given(&space, "nothing").await.1.as_deref(), Some("something"));
}

#[tokio::test]
async fn a_stateful_set_that_is_made_again_finds_its_data() {
    const REPLICAS: usize = 4;
    let space = Space::new().await;
    let _provisioner = Process::start(&settings(&space));
    let parameters = json!({"claimRestore": "always", "pathPattern": "${.PVC.namespace}/${.PVC.name}"});
    let patterned = space.class("patterned", json!({"parameters": parameters})).await;
    let plain = space.class("plain", json!({"parameters": {"claimRestore": "always"}})).await;
    let claims: Api<PersistentVolumeClaim> = space.api();
    let sets: Api<StatefulSet> = space.api();
    let template = |name: &str, class: &str| {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": {"requests": {"storage": "1Mi"}}}})
    };
    let set: StatefulSet = from_json(json!({
        "metadata": {"name": "web"},
        "spec": {"serviceName": "web", "replicas": REPLICAS, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web"}]}},
            "volumeClaimTemplates": [template("one", &patterned), template("two", &plain)]},
    }));
    let names =
        || ["one", "two"].iter().flat_map(|name| (0..REPLICAS).map(move |number| format!("{name}-web-{number}")));
    create(&sets, set.clone()).await;
    for name in names() {
        let (volume, text) = given(&space, &name).await;
        assert_eq!(text, None);
        fs::write(space.at(&Space::directory(&volume)).join("file"), &name).unwrap();
    }
    // Deleted with its claims, and applied again at once: most are not archived by then.
    sets.delete("web", &DeleteParams::default()).await.unwrap();
    for name in names() {
        claims.delete(&name, &DeleteParams::default()).await.unwrap();
    }
    for name in names() {
        space.claim_gone(&name).await;
    }
    eventually("the set to go", || async { sets.get_opt("web").await.ok()?.is_none().then_some(()) }).await;
    create(&sets, set).await;
    for name in names() {
        assert_eq!(given(&space, &name).await.1, Some(name));
    }
    assert!(!space.entries().iter().any(|name| name.starts_with("archived-")), "{:?}", space.entries());
}

#[tokio::test]
async fn a_claim_waits_for_the_data_of_the_one_before() {
    let space = Space::new().await;
    let _provisioner = Process::start(&settings(&space));
    let class = space.class("nfs", json!({"parameters": {"claimRestore": "always"}})).await;
    put_away(&space, "data", &class, "old").await;
    space.claim("data", &class, json!({})).await;
    let (volume, text) = given(&space, "data").await;
    assert_eq!(text.as_deref(), Some("old"));
    let directory = Space::directory(&volume);
    fs::write(space.at(&directory).join("file"), "new").unwrap();
    let there = space.out_of_reach(&directory);
    space.delete_claim("data").await;
    space.claim_gone("data").await;
    space.claim("data", &class, json!({})).await;
    refused(&space, "data", "whose data this claim is to get back").await;
    drop(there);
    assert_eq!(given(&space, "data").await.1.as_deref(), Some("new"));
}

#[tokio::test]
async fn what_is_not_a_claims_own_is_never_given_to_it() {
    let space = Space::new().await;
    let _provisioner = Process::start(&settings(&space));
    let class = |name, restore| space.class(name, json!({"parameters": {"claimRestore": restore}}));
    let (off, asked) = (class("off", "off").await, class("asked", "onRequest").await);
    let always = class("always", "always").await;
    let elsewhere = format!("{}-elsewhere", space.namespace);
    create(&Api::all(space.client.clone()), named::<Namespace>(&elsewhere)).await;
    let archive = format!("archived-{}", put_away(&space, "data", &off, "ours").await);

    space.claim("off", &off, asks(&archive)).await;
    refused(&space, "off", "the class does not let claims ask for it").await;
    space.claim_in(&elsewhere, "theirs", &asked, asks(&archive)).await;
    space.claim_in(&elsewhere, "nobodys", &asked, asks("archived-none")).await;
    let none = "cannot be restored for this claim: the exports of the class have none";
    // What exists and what does not is told in the same words.
    let [theirs, nobodys] =
        [space.event("theirs", "ProvisioningFailed").await, space.event("nobodys", "ProvisioningFailed").await];
    assert_eq!(theirs.replace(&archive, "…"), nobodys.replace("archived-none", "…"));
    assert!(theirs.contains(none), "{theirs}");
    // A namesake of another namespace gets an empty one.
    space.claim_in(&elsewhere, "data", &always, json!({})).await;
    let volume = space.bound_in(&elsewhere, "data").await;
    assert_eq!(fs::read_dir(space.at(&Space::directory(&volume))).unwrap().count(), 0);

    // Another cluster's, and what no note tells of.
    let noted = fs::read_to_string(space.at(NOTES).join(&archive)).unwrap();
    let mut other: Value = serde_json::from_str(&noted).unwrap();
    let wrong = [("cluster", json!("7-8")), ("cluster", Value::Null), ("provisioner", json!("other"))];
    for (number, (field, value)) in wrong.into_iter().enumerate() {
        let before = other[field].take();
        other[field] = value;
        fs::write(space.at(NOTES).join(&archive), other.to_string()).unwrap();
        other[field] = before;
        let claim = format!("wrong-{number}");
        space.claim(&claim, &asked, asks(&archive)).await;
        refused(&space, &claim, none).await;
    }
    for (number, name) in
        ["../data", ".nfs-provisioner-notes", ".nfs-provisioner-trash", "off"].into_iter().enumerate()
    {
        let claim = format!("odd-{number}");
        space.claim(&claim, &asked, asks(name)).await;
        refused(&space, &claim, none).await;
    }
    assert_eq!(fs::read_to_string(space.at(&archive).join("file")).unwrap(), "ours");
    // A note of that name, but of another directory.
    fs::rename(space.at(&archive), space.at("aside")).unwrap();
    fs::create_dir(space.at(&archive)).unwrap();
    fs::write(space.at(&archive).join("file"), "another's").unwrap();
    fs::write(space.at(NOTES).join(&archive), &noted).unwrap();
    space.claim("another", &asked, asks(&archive)).await;
    refused(&space, "another", none).await;
    fs::rename(space.at(&archive), space.at("another")).unwrap();
    fs::rename(space.at("aside"), space.at(&archive)).unwrap();
    for number in 0..3 {
        space.delete_claim(&format!("wrong-{number}")).await;
    }
    space.delete_claim("another").await;
    other["provisioner"] = json!("other");
    fs::write(space.at(NOTES).join(&archive), other.to_string()).unwrap();
    // Put right, it comes without a restart.
    space.claim("again", &asked, asks(&archive)).await;
    refused(&space, "again", none).await;
    fs::write(space.at(NOTES).join(&archive), noted).unwrap();
    assert_eq!(given(&space, "again").await.1.as_deref(), Some("ours"));
}

#[tokio::test]
async fn what_a_volume_uses_or_whose_group_or_path_is_taken_waits() {
    let space = Space::new().await;
    let settings = settings(&space);
    let _provisioner = Process::start(&settings);
    let parameters = json!({"gidRange": "61100-61100", "claimRestore": "onRequest"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    let archive = format!("archived-{}", put_away(&space, "data", &class, "kept").await);
    space.claim("other", &class, json!({})).await;
    let (other, _) = given(&space, "other").await;
    space.claim("data", &class, asks(&archive)).await;
    refused(&space, "data", "its files belong to the group 61100, which another volume has by now").await;
    assert_eq!(fs::read_to_string(space.at(&archive).join("file")).unwrap(), "kept");
    // A volume made by hand has the archive itself.
    let by_hand = format!("{}-by-hand", space.namespace);
    create::<PersistentVolume>(
        &space.volumes(),
        from_json(json!({
            "metadata": {"name": by_hand},
            "spec": {"accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Mi"}, "storageClassName": "",
                "nfs": {"server": settings.server, "path": format!("{}/{archive}", settings.path)}},
        })),
    )
    .await;
    space.delete_claim("other").await;
    space.gone(other.metadata.name.as_deref().unwrap()).await;
    space.claim("second", &class, asks(&archive)).await;
    refused(&space, "second", "a volume uses it").await;
    space.volumes().delete(&by_hand, &DeleteParams::default()).await.unwrap();
    let given_to = eventually("one of them to get it", || async {
        let claims: Api<PersistentVolumeClaim> = space.api();
        let found = claims.list(&Default::default()).await.ok()?.items;
        let found =
            found.into_iter().find(|claim| claim.status.as_ref().unwrap().phase.as_deref() == Some("Bound"));
        found.and_then(|claim| claim.metadata.name)
    })
    .await;
    assert_eq!(given(&space, &given_to).await.1.as_deref(), Some("kept"));
    let other = if given_to == "data" { "second" } else { "data" };
    // Two claims never get one entry.
    eventually("the other one to be told so", || async {
        let events = space.events(other, "ProvisioningFailed").await;
        let is = |event: &k8s_openapi::api::core::v1::Event| {
            event.message.as_deref().is_some_and(|said| said.contains("have none"))
        };
        events.iter().any(is).then_some(())
    })
    .await;

    let parameters = json!({"pathPattern": "fixed", "claimRestore": "onRequest", "onDelete": "archive"});
    let fixed = space.class("fixed", json!({"parameters": parameters})).await;
    put_away(&space, "fixed", &fixed, "old").await;
    fs::create_dir(space.at("fixed")).unwrap();
    space.claim("fixed", &fixed, asks("latest")).await;
    refused(&space, "fixed", "there is a directory \"fixed\" at the claim's path already").await;
    fs::remove_dir(space.at("fixed")).unwrap();
    assert_eq!(given(&space, "fixed").await.1.as_deref(), Some("old"));
}

#[tokio::test]
async fn what_was_brought_back_for_a_claim_that_goes_is_put_away_again() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let _provisioner = start_through(&space, &proxy);
    let parameters = json!({"claimRestore": "onRequest", "onDelete": "delete", "deleteRetention": "1h"});
    let deletes = space.class("deletes", json!({"parameters": parameters})).await;
    let archives = space.class("archives", json!({"parameters": {"claimRestore": "onRequest"}})).await;
    put_away(&space, "one", &deletes, "one").await;
    let trash = trashed(&space);
    let archive = format!("archived-{}", put_away(&space, "two", &archives, "two").await);
    let refusal = proxy.fault(|asked| asked.makes("persistentvolumes"), Action::Refuse(403));
    for (claim, name, class) in [("one", &trash, &deletes), ("two", &archive, &archives)] {
        space.claim(claim, class, asks(name)).await;
        refused(&space, claim, "Error creating provisioned PV object").await;
    }
    let at = |claim: &str| space.entries().into_iter().find(|name| name.contains(&format!("-{claim}-pvc-")));
    assert!(at("one").is_some_and(|name| space.at(&name).join("file").exists()), "it is at the claim's path");
    assert!(!space.at(&archive).exists());
    for claim in ["one", "two"] {
        space.delete_claim(claim).await;
        space.claim_gone(claim).await;
    }
    let put_away = || {
        let entry = fs::read_dir(space.at(TRASH)).unwrap().next()?.unwrap().file_name().into_string().unwrap();
        let archive = space.entries().into_iter().find(|name| name.starts_with("archived-"))?;
        Some((entry, archive))
    };
    let (entry, again) = eventually("both to be put away again", || async { put_away() }).await;
    assert!(at("one").is_none() && at("two").is_none_or(|name| name == again), "{:?}", space.entries());
    // It is kept for as long again as it was before.
    assert!(entry != trash && entry.contains("+3600~"), "{entry} {trash}");
    drop(refusal);
    // And they come when they are asked for again.
    for (claim, name, class) in [("one", &entry, &deletes), ("two", &"latest".to_owned(), &archives)] {
        space.claim(claim, class, asks(name)).await;
        assert_eq!(given(&space, claim).await.1.as_deref(), Some(claim));
    }
}

#[tokio::test]
async fn a_claim_that_asks_for_something_else_by_then_gets_that() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let _provisioner = start_through(&space, &proxy);
    let class = space.class("nfs", json!({"parameters": {"claimRestore": "onRequest"}})).await;
    let first = format!("archived-{}", put_away(&space, "data", &class, "first").await);
    let second = format!("archived-{}", put_away(&space, "data", &class, "second").await);
    let refusal = proxy.fault(|asked| asked.makes("persistentvolumes"), Action::Refuse(403));
    for claim in ["another", "none"] {
        space.claim(claim, &class, asks(if claim == "another" { &first } else { &second })).await;
        refused(&space, claim, "Error creating provisioned PV object").await;
    }
    assert!(!space.at(&first).exists() && !space.at(&second).exists());
    // The second one is put away again, and has another name then.
    let claims: Api<PersistentVolumeClaim> = space.api();
    space
        .patch(&claims, "none", json!({"metadata": {"annotations": {"nfs-provisioner/restore-from": null}}}))
        .await;
    let archive = eventually("what nobody wants to be put away again", || async {
        space.entries().into_iter().find(|name| name.starts_with("archived-"))
    })
    .await;
    space.patch(&claims, "another", asks(&archive)).await;
    eventually("the first one to be put away", || async {
        let mut entries = space.entries().into_iter();
        entries
            .any(|name| {
                let text = fs::read_to_string(space.at(&name).join("file")).unwrap_or_default();
                name.starts_with("archived-") && text == "first"
            })
            .then_some(())
    })
    .await;
    drop(refusal);
    assert_eq!(given(&space, "another").await.1.as_deref(), Some("second"));
    assert_eq!(given(&space, "none").await.1, None);
}
