//! Classes that leave room on their exports.

use std::fs;

use futures::future::join_all;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Value, json};

use crate::exports::{Mounted, OTHER, Other, is_on};
use crate::support::eventually;
use crate::support::process::Process;
use crate::support::space::Space;

fn storage(size: &str) -> Value {
    json!({"spec": {"resources": {"requests": {"storage": size}}}})
}

/// A provisioner whose export is no other test's, so that what those promise does not count.
fn start_alone(space: &Space) -> Process {
    let mut settings = space.settings();
    settings.server = space.own_server();
    Process::start(&settings)
}

/// Of these claims, those that are Bound.
async fn bound(space: &Space, names: &[String]) -> Vec<String> {
    let claims = space.api::<PersistentVolumeClaim>();
    let phases = join_all(names.iter().map(async |name| {
        let claim = claims.get_opt(name).await.ok()??;
        claim.status?.phase.filter(|phase| phase == "Bound")
    }));
    let phases = phases.await;
    names.iter().zip(phases).filter(|(_, phase)| phase.is_some()).map(|(name, _)| name.clone()).collect()
}

#[tokio::test]
async fn a_claim_waits_below_the_mark_and_is_served_when_there_is_room_again() {
    let space = Space::new().await;
    let _export = Mounted::of(space.at(""), "8m");
    fs::create_dir(space.at("filling")).unwrap();
    fs::write(space.at("filling/large"), vec![0; 6 << 20]).unwrap();
    for number in 0..60 {
        fs::write(space.at(&format!("filling/{number}")), "").unwrap();
    }
    let _provisioner = space.start();
    let rows = [("space", json!({"minFreeSpace": "4Mi"})), ("inodes", json!({"minFreeInodes": "50%"}))];
    for (name, parameters) in &rows {
        let class = space.class(name, json!({"parameters": parameters})).await;
        space.claim(name, &class, json!({})).await;
    }
    for (name, parameters) in &rows {
        let message = space.event(name, "ProvisioningFailed").await;
        let (parameter, value) = parameters.as_object().unwrap().iter().next().unwrap();
        for words in ["there is no room", &format!("{parameter} ({})", value.as_str().unwrap())] {
            assert!(message.contains(words), "{message}");
        }
    }
    assert!(bound(&space, &rows.each_ref().map(|(name, _)| (*name).to_owned())).await.is_empty());
    assert_eq!(space.entries(), ["filling"], "nothing is made for them");

    fs::remove_dir_all(space.at("filling")).unwrap();
    for (name, _) in rows {
        space.bound(name).await;
        assert_eq!(space.events(name, "ProvisioningFailed").await.len(), 1, "one event, counted");
    }
}

#[tokio::test]
async fn of_claims_at_once_as_many_are_served_as_may_be_promised_and_the_next_when_one_goes() {
    const CLAIMS: usize = 12;
    let space = Space::new().await;
    let _export = Mounted::of(space.at(""), "10m");
    let _provisioner = start_alone(&space);
    let parameters = json!({"maxOvercommit": "200%", "onDelete": "delete"});
    let class = json!({"parameters": parameters, "allowVolumeExpansion": true});
    let class = space.class("nfs", class).await;
    let mut names: Vec<String> = (0..CLAIMS).map(|number| format!("data-{number}")).collect();
    join_all(names.iter().map(|name| space.claim(name, &class, storage("4Mi")))).await;
    for _ in 0..3 {
        let served = eventually("as many as may be", || async {
            let served = bound(&space, &names).await;
            (served.len() >= 5).then_some(served)
        })
        .await;
        for name in names.iter().filter(|name| !served.contains(name)) {
            let message = space.event(name, "ProvisioningFailed").await;
            assert!(message.contains("maxOvercommit (200%)"), "{message}");
        }
        assert_eq!(bound(&space, &names).await, served, "five times 4 MiB are twice 10 MiB");
        assert_eq!(space.entries().len(), 5, "nothing is made for the others");
        let goes = names.remove(names.iter().position(|name| *name == served[0]).unwrap());
        let volume = Space::directory(&space.bound(&goes).await);
        space.delete_claim(&goes).await;
        eventually("its directory to go", || async { (!space.entries().contains(&volume)).then_some(()) }).await;
    }
}

#[tokio::test]
async fn a_volume_grows_when_there_is_room_for_it() {
    let space = Space::new().await;
    let _export = Mounted::of(space.at(""), "10m");
    let _provisioner = start_alone(&space);
    let parameters = json!({"maxOvercommit": "1", "onDelete": "delete"});
    let class = json!({"parameters": parameters, "allowVolumeExpansion": true});
    let class = space.class("nfs", class).await;
    for name in ["grows", "goes"] {
        space.claim(name, &class, storage("4Mi")).await;
        space.bound(name).await;
    }
    space.patch(&space.api::<PersistentVolumeClaim>(), "grows", storage("8Mi")).await;
    let message = space.event("grows", "VolumeResizeFailed").await;
    for words in ["there is no room", "maxOvercommit (1)"] {
        assert!(message.contains(words), "{message}");
    }
    space.delete_claim("goes").await;
    eventually("the claim to grow", || async {
        let claim = space.api::<PersistentVolumeClaim>().get("grows").await.ok()?;
        (claim.status?.capacity?["storage"].0 == "8Mi").then_some(())
    })
    .await;
}

#[tokio::test]
async fn of_several_exports_one_with_room_is_taken_though_another_has_more_free_space() {
    let (space, other) = (Space::new().await, Other::new());
    let _own = Mounted::of(space.at(""), "16m");
    let _other = Mounted::of(other.at(""), "4m");
    fs::write(space.at("filling"), vec![0; 9 << 20]).unwrap();
    let _provisioner = Process::start(&other.beside(&space));
    let parameters = json!({"export": "default, other", "minFreeSpace": "50%"});
    let class = space.class("any", json!({"parameters": parameters})).await;
    space.claim("data", &class, json!({})).await;
    is_on(&space.bound("data").await, OTHER);

    fs::write(other.at("filling"), vec![0; 3 << 20]).unwrap();
    let number = std::cell::Cell::new(0);
    // How full an export is is looked at every 10 s.
    let message = eventually("neither to have room", || async {
        let name = format!("data-{}", number.replace(number.get() + 1));
        space.claim(&name, &class, json!({})).await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        space.events(&name, "ProvisioningFailed").await.into_iter().find_map(|event| event.message)
    })
    .await;
    assert_eq!(message.matches("minFreeSpace (50%)").count(), 2, "{message}");
    assert!(message.contains(&format!("{}:{}", OTHER.0, OTHER.1)), "{message}");
}
