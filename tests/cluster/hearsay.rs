//! What the watches have said last may be wrong by the time it is acted on: connections die in silence, lists are slow,
//! records go back in time. What is destroyed on such hearsay does not come back.
//!
//! All tests here share a cluster, and an export as far as volumes say: each has paths of its own.
//!
//! The provisioner reaches the API server through a proxy here, which keeps chosen things from it. The tests themselves do
//! not.

use std::fs;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::reclaim::{name_of, released};
use crate::rights::rules_of_the_peer;
use crate::support::eventually;
use crate::support::plane::Plane;
use crate::support::proxy::{Action, Asked, Fault, Proxy};
use crate::support::space::{Space, create, named};

/// A claim `name` of this class, bound, and a file in its directory.
async fn with_data(space: &Space, name: &str, class: &str) -> PersistentVolume {
    space.claim(name, class, json!({})).await;
    let volume = space.bound(name).await;
    fs::write(space.at(&Space::directory(&volume)).join("file"), name).unwrap();
    volume
}

/// Waits until a claim that is made and deleted now has been dealt with from end to end: so has all that was to be done
/// before it, unless it waits to be tried again.
async fn a_turn_of_all(space: &Space) {
    let class = space.class("turn", json!({"parameters": {"onDelete": "delete"}})).await;
    space.claim("turn", &class, json!({})).await;
    let volume = space.bound("turn").await;
    space.delete_claim("turn").await;
    space.gone(name_of(&volume)).await;
}

/// Has the watch of a kind bring nothing, until the fault is dropped.
async fn silence(proxy: &Proxy, kind: &'static str) -> Fault {
    let silence = proxy.fault(move |asked| asked.watches(kind), Action::Freeze);
    eventually("the watch to be silent", || async { (silence.hits() > 0).then_some(()) }).await;
    silence
}

/// Whether all volumes are listed by a request of its own, not by a watch. Of several pages it is the first.
fn is_list(asked: &Asked) -> bool {
    asked.lists("persistentvolumes") && !asked.is_watch() && !asked.query.contains("continue=")
}

async fn uid_of_claim(space: &Space, name: &str) -> Value {
    space.api::<PersistentVolumeClaim>().get(name).await.unwrap().metadata.uid.unwrap().into()
}

/// Defect 2 of the second list.
#[tokio::test]
async fn what_an_admin_has_changed_since_the_watch_fell_silent_counts() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let provisioner = space.start_through(&proxy);
    let parameters = json!({"onDelete": "delete", "pathPattern": "changed/${.PVC.name}"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    let names = ["policy", "annotation", "unclaimed", "reused"];
    let mut volumes = Vec::new();
    for name in names {
        volumes.push(with_data(&space, name, &class).await);
    }
    // One that waits for the last of them.
    space.claim("heir", &class, json!({"spec": {"volumeName": name_of(&volumes[3])}})).await;

    let out_of_reach = space.out_of_reach("changed");
    for (name, volume) in names.iter().zip(&volumes) {
        space.delete_claim(name).await;
        space.event(name_of(volume), "VolumeFailedDelete").await;
    }
    let silence = silence(&proxy, "persistentvolumes").await;
    let heir = json!({"name": "heir", "uid": uid_of_claim(&space, "heir").await, "resourceVersion": null});
    let changes = [
        json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}),
        json!({"metadata": {"annotations": {"nfs-provisioner/on-delete": "retain"}}}),
        json!({"spec": {"claimRef": null}}),
        json!({"spec": {"claimRef": heir}}),
    ];
    let looks = |volume: &PersistentVolume| proxy.count(|asked| asked.reads("persistentvolumes", name_of(volume)));
    let mut looks_before = Vec::new();
    for (volume, change) in volumes.iter().zip(changes) {
        space.patch(&space.volumes(), name_of(volume), change).await;
        looks_before.push(looks(volume));
    }
    drop(out_of_reach);

    // Each is tried again, and looked at before anything is done.
    for ((name, volume), before) in names.iter().zip(&volumes).zip(looks_before) {
        eventually("the volume to be looked at again", || async {
            let is_there = space.at("changed").join(name).join("file").exists();
            assert!(is_there, "{name} has gone:\n{}", provisioner.log());
            (looks(volume) > before).then_some(())
        })
        .await;
    }
    drop(silence);
    a_turn_of_all(&space).await;
    for name in names {
        assert_eq!(fs::read_to_string(space.at("changed").join(name).join("file")).unwrap(), name);
    }
    assert_eq!(space.entries(), ["changed"]);
    for (name, volume) in names.iter().zip(&volumes) {
        let is_there = space.volumes().get_opt(name_of(volume)).await.unwrap().is_some();
        // Retained by the annotation, the directory stays and the volume goes.
        assert_eq!(is_there, *name != "annotation", "{name}");
    }
}

/// One process gives old volumes their finalizers while it reclaims them.
#[tokio::test]
async fn a_finalizer_that_the_watch_has_not_shown_keeps_no_volume() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let _provisioner = space.start_through(&proxy);
    let parameters = json!({"onDelete": "delete", "pathPattern": "protected/${.PVC.name}"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    let volume = with_data(&space, "data", &class).await;
    let protected = volume.metadata.finalizers.clone().unwrap();
    let out_of_reach = space.out_of_reach("protected");
    space.delete_claim("data").await;
    space.event(name_of(&volume), "VolumeFailedDelete").await;
    let finalizers = |finalizers: &[String]| json!({"metadata": {"finalizers": finalizers}});
    let others: Vec<String> =
        protected.iter().filter(|name| !name.starts_with("external-provisioner.")).cloned().collect();
    assert_eq!(others.len() + 1, protected.len(), "{protected:?}");
    space.patch(&space.volumes(), name_of(&volume), finalizers(&others)).await;
    a_turn_of_all(&space).await;

    let silence = silence(&proxy, "persistentvolumes").await;
    space.patch(&space.volumes(), name_of(&volume), finalizers(&protected)).await;
    drop(out_of_reach);
    space.gone(name_of(&volume)).await;
    assert!(!space.at("protected/data").exists());
    drop(silence);
}

/// The volume itself has gone, and what is to be done is known from memory alone.
#[tokio::test]
async fn a_volume_that_has_gone_follows_its_class_as_it_is_now() {
    let space = Space::on(Plane::shared(), rules_of_the_peer()).await;
    let proxy = Proxy::start(space.plane);
    let provisioner = space.start_through(&proxy);
    let parameters = json!({"onDelete": "delete", "pathPattern": "gone/${.PVC.name}"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    let volume = with_data(&space, "data", &class).await;
    let out_of_reach = space.out_of_reach("gone");
    space.volumes().delete(name_of(&volume), &DeleteParams::default()).await.unwrap();
    space.delete_claim("data").await;
    space.gone(name_of(&volume)).await;
    space.event(name_of(&volume), "VolumeFailedDelete").await;

    let silence = silence(&proxy, "storageclasses").await;
    space.classes().delete(&class, &DeleteParams::default()).await.unwrap();
    let parameters = json!({"onDelete": "retain", "pathPattern": "gone/${.PVC.name}"});
    space.class("nfs", json!({"parameters": parameters})).await;
    let looks = || proxy.count(|asked| asked.reads("storageclasses", &class));
    let mut before = looks();
    // What was read a few seconds ago counts for as long.
    eventually("the class to be read anew", || async { (looks() > before).then_some(()) }).await;
    before = looks();
    drop(out_of_reach);
    let is_there = || space.at("gone/data/file").exists();
    eventually("the class to be looked at again", || async {
        assert!(is_there(), "{}", provisioner.log());
        (looks() > before + 1).then_some(())
    })
    .await;
    drop(silence);
    a_turn_of_all(&space).await;
    assert!(is_there(), "{}", provisioner.log());
}

/// While the watch is silent, a volume that is not there any more may have been told anything before it went.
#[tokio::test]
async fn what_was_said_of_a_volume_before_it_went_unseen_counts() {
    goes_unseen(false).await;
}

/// What the watch brings counts although it comes after the round has begun.
#[tokio::test]
async fn what_was_said_of_a_volume_before_it_went_counts_although_it_is_heard_late() {
    goes_unseen(true).await;
}

/// An admin has a volume kept, and has it go, while the watch is silent, or until a round has asked for the volume.
async fn goes_unseen(is_heard_late: bool) {
    let space = Space::on(Plane::shared(), rules_of_the_peer()).await;
    let proxy = Proxy::start(space.plane);
    let provisioner = space.start_through(&proxy);
    let parameters = json!({"onDelete": "delete", "pathPattern": "unseen/${.PVC.name}"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    let volume = with_data(&space, "data", &class).await;
    let name = name_of(&volume);
    let finalizers = |more: &[&str]| json!({"metadata": {"finalizers": more}});
    space.patch(&space.volumes(), name, finalizers(&["kubernetes.io/pv-protection", "example.com/held"])).await;
    let out_of_reach = space.out_of_reach("unseen");
    space.volumes().delete(name, &DeleteParams::default()).await.unwrap();
    space.delete_claim("data").await;
    space.phase(name, "Released").await;
    space.event(name, "VolumeFailedDelete").await;

    let silence = silence(&proxy, "persistentvolumes").await;
    let looks = || proxy.count(|asked| asked.reads("persistentvolumes", name));
    let kept = json!({"metadata": {"annotations": {"nfs-provisioner/on-delete": "retain"}}});
    space.patch(&space.volumes(), name, kept).await;
    space.patch(&space.volumes(), name, finalizers(&[])).await;
    space.gone(name).await;
    let asked_for = name.to_owned();
    let is_late = move |asked: &Asked| is_heard_late && asked.reads("persistentvolumes", &asked_for);
    let late = proxy.fault_of(1, is_late, Action::Late(Duration::from_secs(2)));
    let before = looks();
    drop(out_of_reach);
    let is_there = || space.at("unseen/data/file").exists();
    eventually("the volume to be looked at again", || async {
        assert!(is_there(), "{}", provisioner.log());
        (late.hits() > 0 || looks() > before + 1).then_some(())
    })
    .await;
    drop(silence);
    eventually("the round to go on", || async { (looks() > before + 1).then_some(()) }).await;
    a_turn_of_all(&space).await;
    assert!(is_there(), "{}", provisioner.log());
}

/// Defect 3 of the second list.
#[tokio::test]
async fn nothing_is_removed_in_the_middle_of_a_list_that_may_still_show_who_shares_it() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let provisioner = space.start_through(&proxy);
    let parameters = json!({"onDelete": "delete", "pathPattern": "listed/${.PVC.name}"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    let volume = with_data(&space, "data", &class).await;
    // A leader lists all volumes before the first one that it reclaims; that is over.
    a_turn_of_all(&space).await;

    let silence = silence(&proxy, "persistentvolumes").await;
    let last = format!("z-static-{}", space.namespace);
    let by_hand = json!({
        "metadata": {"name": last, "annotations": {"pv.kubernetes.io/provisioned-by": null}},
        "spec": {"claimRef": null, "persistentVolumeReclaimPolicy": "Retain"},
    });
    released(&space, "data", "/export/listed/data", &class, by_hand).await;
    space.delete_claim("data").await;
    space.phase(name_of(&volume), "Released").await;

    // The watch is too old, and all is listed again, in the order of the names, but not to the end for now.
    let lists_before = proxy.count(is_list);
    let held = proxy.fault(|asked| asked.lists("persistentvolumes"), Action::HoldAt(last.clone()));
    let too_old = proxy.fault_of(1, |asked| asked.watches("persistentvolumes"), Action::Gone);
    drop(silence);
    eventually("the list to be held", || async { (held.hits() > 0).then_some(()) }).await;
    // It has shown that the volume is released. Before anything is done about that, a list of all is asked for, which is
    // held as well.
    let is_there = || space.at("listed/data/file").exists();
    eventually("all volumes to be asked for", || async {
        assert!(is_there(), "removed in the middle of the list:\n{}", provisioner.log());
        (proxy.count(is_list) > lists_before).then_some(())
    })
    .await;
    drop((held, too_old));
    space.gone(name_of(&volume)).await;
    assert!(is_there());
    space.volumes().delete(&last, &DeleteParams::default()).await.unwrap();
}

/// Found by `tests/chaos`: a watch that has stood still for long brings what happened long ago.
#[tokio::test]
async fn nothing_is_removed_on_what_a_watch_brings_late_before_who_shares_it() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let provisioner = space.start_through(&proxy);
    let parameters = json!({"onDelete": "delete", "pathPattern": "late/${.PVC.name}"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    let volume = with_data(&space, "data", &class).await;
    a_turn_of_all(&space).await;

    let silence = silence(&proxy, "persistentvolumes").await;
    space.delete_claim("data").await;
    space.phase(name_of(&volume), "Released").await;
    let last = format!("z-static-{}", space.namespace);
    let by_hand = json!({
        "metadata": {"name": last, "annotations": {"pv.kubernetes.io/provisioned-by": null}},
        "spec": {"claimRef": null, "persistentVolumeReclaimPolicy": "Retain"},
    });
    released(&space, "data", "/export/late/data", &class, by_hand).await;
    let begun = Instant::now();
    // Longer than what is known of others is believed.
    eventually("time to pass", || async { (begun.elapsed() > Duration::from_secs(12)).then_some(()) }).await;

    // The release is shown, and what came after it not yet.
    let held = proxy.fault(|asked| asked.watches("persistentvolumes"), Action::HoldAt(last.clone()));
    drop(silence);
    space.gone(name_of(&volume)).await;
    assert!(space.at("late/data/file").exists(), "{}", provisioner.log());
    drop(held);
    space.volumes().delete(&last, &DeleteParams::default()).await.unwrap();
}

/// Defect 29 of the second list.
#[tokio::test]
async fn a_volume_deleted_while_bound_that_a_list_does_not_show_any_more_is_reclaimed() {
    let space = Space::on(Plane::shared(), rules_of_the_peer()).await;
    let proxy = Proxy::start(space.plane);
    let _provisioner = space.start_through(&proxy);
    let parameters = json!({"onDelete": "delete", "pathPattern": "forgotten/${.PVC.name}"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    let volume = with_data(&space, "data", &class).await;
    let other = with_data(&space, "other", &class).await;
    space.volumes().delete(name_of(&volume), &DeleteParams::default()).await.unwrap();
    a_turn_of_all(&space).await;

    let silence = silence(&proxy, "persistentvolumes").await;
    space.delete_claim("data").await;
    space.gone(name_of(&volume)).await;
    assert!(space.at("forgotten/data/file").exists());
    let too_old = proxy.fault_of(1, |asked| asked.watches("persistentvolumes"), Action::Gone);
    drop(silence);
    eventually("the directory to go", || async { (!space.at("forgotten/data").exists()).then_some(()) }).await;
    assert_eq!(too_old.hits(), 1);
    assert!(space.at(&Space::directory(&other)).join("file").exists());
}

/// Defect 9 of the second list.
#[tokio::test]
async fn what_comes_to_lie_at_the_path_of_a_volume_that_cannot_be_deleted_stays() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let provisioner = space.start_through(&proxy);
    let mut volumes = Vec::new();
    for fate in ["delete", "archive"] {
        let parameters = json!({"onDelete": fate, "pathPattern": "undeletable/${.PVC.name}"});
        let class = space.class(fate, json!({"parameters": parameters})).await;
        volumes.push(with_data(&space, fate, &class).await);
    }
    let ours: Vec<String> = volumes.iter().map(|volume| name_of(volume).to_owned()).collect();
    let deletes =
        move |asked: &Asked| asked.method == "DELETE" && ours.iter().any(|name| asked.path.ends_with(name));
    let forbidden = proxy.fault(deletes, Action::Refuse(403));
    let tries = |volume: &PersistentVolume| {
        proxy.count(|asked| asked.method == "DELETE" && asked.path.ends_with(name_of(volume)))
    };
    let file = |volume: &PersistentVolume| space.at(&Space::directory(volume)).join("file");
    for claim in ["delete", "archive"] {
        space.delete_claim(claim).await;
    }
    // As if another claim had come to the path, and its class kept what it wrote.
    let mut tries_before = Vec::new();
    for volume in &volumes {
        eventually("the volume to be about to go", || async { (tries(volume) > 0).then_some(()) }).await;
        assert!(!file(volume).exists(), "{}", provisioner.log());
        fs::create_dir(file(volume).parent().unwrap()).unwrap();
        fs::write(file(volume), "another's").unwrap();
        tries_before.push(tries(volume));
    }
    // By the process that has dealt with them, and by one that knows nothing of that.
    let tried_again = async |before: Vec<usize>| {
        for (volume, before) in volumes.iter().zip(before) {
            eventually("another try", || async {
                assert!(file(volume).exists(), "taken by the volume that was there before");
                (tries(volume) > before).then_some(())
            })
            .await;
        }
    };
    tried_again(tries_before).await;
    assert!(provisioner.stop().success());
    let tries_before = volumes.iter().map(tries).collect();
    let _provisioner = space.start_through(&proxy);
    tried_again(tries_before).await;
    drop(forbidden);
    for volume in &volumes {
        // So that it is tried at once.
        let touch = json!({"metadata": {"labels": {"touched": "yes"}}});
        let _ = space.volumes().patch(name_of(volume), &PatchParams::default(), &Patch::Merge(touch)).await;
        space.gone(name_of(volume)).await;
        assert_eq!(fs::read_to_string(file(volume)).unwrap(), "another's");
    }
    assert_eq!(space.entries(), ["archived-archive", "undeletable"]);
}

/// Defect 31 of the second list.
#[tokio::test]
async fn many_volumes_that_fail_again_and_again_share_their_lists() {
    const VOLUMES: usize = 12;
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let _provisioner = space.start_through(&proxy);
    let parameters = json!({"onDelete": "delete", "pathPattern": "many/${.PVC.name}"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    let names: Vec<String> = (0..VOLUMES).map(|number| format!("data-{number}")).collect();
    let mut volumes = Vec::new();
    for name in &names {
        volumes.push(with_data(&space, name, &class).await);
    }
    let _out_of_reach = space.out_of_reach("many");
    for name in &names {
        space.delete_claim(name).await;
    }
    let looks = |volume: &PersistentVolume| proxy.count(|asked| asked.reads("persistentvolumes", name_of(volume)));
    let lists = || proxy.count(is_list);
    // By then what the watch had shown when they were released is too old to reclaim a volume by.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let (begun, before) = (Instant::now(), lists());
    let looked: Vec<usize> = volumes.iter().map(looks).collect();
    for (volume, looked) in volumes.iter().zip(looked) {
        // A round looks twice, and one may be under way.
        eventually("one more try", || async { (looks(volume) >= looked + 3).then_some(()) }).await;
    }
    let most = 2 + usize::try_from(begun.elapsed().as_secs()).unwrap() / 10;
    assert!((1..=most).contains(&(lists() - before)), "{} lists in {:?}", lists() - before, begun.elapsed());
}

/// Found by `tests/chaos`.
#[tokio::test]
async fn a_directory_stays_whose_volume_was_made_though_a_later_try_is_refused() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let provisioner = space.start_through(&proxy);
    // The claim is known, and nothing that happens to it is, before there is a volume.
    let class = space.class("late", json!({"parameters": {"gidRange": "none"}})).await;
    space.claim("data", &class, json!({})).await;
    space.event("data", "ProvisioningFailed").await;
    let silence = proxy.fault(|asked| asked.watches("persistentvolumeclaims"), Action::Freeze);
    eventually("the watch of claims to be silent", || async { (silence.hits() > 0).then_some(()) }).await;
    let makes = |asked: &Asked| asked.makes("persistentvolumes");
    let lost = proxy.fault_of(1, makes, Action::LoseAnswer);
    let refusal = proxy.fault(makes, Action::Refuse(403));
    space.classes().delete(&class, &DeleteParams::default()).await.unwrap();
    space.class("late", json!({})).await;

    let directory = space.at(&Space::directory(&space.bound("data").await));
    eventually("the refusal", || async {
        let events = space.events("data", "ProvisioningFailed").await;
        let is_refused = |message: String| message.contains("refused by the proxy");
        events.into_iter().filter_map(|event| event.message).any(is_refused).then_some(())
    })
    .await;
    assert!((lost.hits(), refusal.hits() > 0) == (1, true) && directory.is_dir(), "{}", provisioner.log());
    drop((refusal, silence));
    a_turn_of_all(&space).await;
    assert!(directory.is_dir(), "{}", provisioner.log());
}

/// Found by `tests/chaos`.
#[tokio::test]
async fn a_claim_that_is_made_again_does_not_get_a_directory_whose_volume_was_made_without_an_answer() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let provisioner = space.start_through(&proxy);
    let class = space.class("nfs", json!({"parameters": {"pathPattern": "by/${.PVC.name}"}})).await;
    with_data(&space, "first", &class).await;
    let silence = silence(&proxy, "persistentvolumes").await;
    let makes = |asked: &Asked| asked.makes("persistentvolumes");
    let (lost, refusal) = (proxy.fault_of(1, makes, Action::LoseAnswer), proxy.fault(makes, Action::Refuse(500)));
    let unread = proxy
        .fault(|asked| asked.method == "GET" && asked.path.contains("/persistentvolumes/"), Action::Refuse(500));
    let before = with_data(&space, "data", &class).await;
    space.delete_claim("data").await;
    space.claim_gone("data").await;
    drop((lost, refusal));

    space.claim("data", &class, json!({})).await;
    eventually("the claim to be served, or not to be", || async {
        let claim = space.api::<PersistentVolumeClaim>().get("data").await.ok()?;
        let is_told = provisioner.log().contains("failed to find out whose directory the claim is to have");
        (is_told || claim.spec?.volume_name.is_some()).then_some(())
    })
    .await;
    drop((silence, unread));
    let after = space.bound("data").await;
    space.gone(name_of(&before)).await;
    let directory = space.at(&Space::directory(&after));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "{}", provisioner.log());
}

/// Found by `tests/chaos`: an API server may be behind the others of its cluster.
#[tokio::test]
async fn a_list_that_is_old_gives_nobody_the_directory_of_another_namespace() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let provisioner = space.start_through(&proxy);
    let other = format!("{}-other", space.namespace);
    create(&Api::all(space.client.clone()), named::<Namespace>(&other)).await;
    let [own, common] = [("own", json!({})), ("common", json!({"parameters": {"pathPattern": "common/data"}}))];
    let (own, common) = (space.class(own.0, own.1).await, space.class(common.0, common.1).await);
    with_data(&space, "first", &own).await;
    let old = proxy.recorded("persistentvolumes").unwrap();
    space.claim_in(&other, "theirs", &common, json!({})).await;
    let theirs = space.bound_in(&other, "theirs").await;

    let stale =
        proxy.fault_of(1, |asked| asked.is_watch() && asked.lists("persistentvolumes"), Action::Stale(old));
    let too_old = proxy.fault_of(1, |asked| asked.watches("persistentvolumes"), Action::Gone);
    eventually("the old list", || async { (stale.hits() > 0).then_some(()) }).await;
    // Until it has been taken in.
    with_data(&space, "second", &own).await;
    space.claim("ours", &common, json!({})).await;
    let said = space.event("ours", "ProvisioningFailed").await;
    assert!(said.contains("not free"), "{said}\n{}", provisioner.log());
    drop((stale, too_old));
    assert!(space.at(&Space::directory(&theirs)).is_dir());
}

/// Two processes of one name, with an election that was switched off, and classes that have changed between them.
#[tokio::test]
async fn a_directory_stays_in_which_another_process_has_made_the_volume_meanwhile() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let provisioner = space.start_through(&proxy);
    let class = space.class("nfs", json!({"parameters": {"pathPattern": "around/${.PVC.name}"}})).await;
    let held = proxy.fault(|asked| asked.makes("persistentvolumes"), Action::Freeze);
    space.claim("data", &class, json!({})).await;
    eventually("the volume to be asked for", || async { (held.hits() > 0).then_some(()) }).await;
    let uid = uid_of_claim(&space, "data").await;
    let by_other = json!({
        "metadata": {"name": format!("pvc-{}", uid.as_str().unwrap())},
        "spec": {"claimRef": {"name": "data", "uid": uid}, "persistentVolumeReclaimPolicy": "Retain"},
    });
    released(&space, "other", "/export/around", &class, by_other).await;
    fs::remove_file(space.at("around/file")).unwrap();
    drop(held);
    eventually("it to be refused", || async {
        provisioner.log().contains("failed to create the volume").then_some(())
    })
    .await;
    a_turn_of_all(&space).await;
    assert!(space.at("around").is_dir(), "{}", provisioner.log());
}
