//! The proxy that other tests have their provisioner go through does what it is told.

use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::json;
use tokio::time::timeout;

use crate::reclaim::{name_of, released};
use crate::support::eventually;
use crate::support::plane::client;
use crate::support::proxy::{Action, Asked, Proxy};
use crate::support::space::Space;

/// Long enough for anything that is to come.
const SOON: Duration = Duration::from_secs(20);

fn kept() -> serde_json::Value {
    json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})
}

async fn through(space: &Space, proxy: &Proxy) -> Api<PersistentVolume> {
    Api::all(client(&space.settings_through(proxy).kubeconfig).await)
}

#[tokio::test]
async fn requests_go_wrong_as_told_and_well_otherwise() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let volume = released(&space, "data", "/export/data", "none", kept()).await;
    let (name, volumes) = (name_of(&volume).to_owned(), through(&space, &proxy).await);
    let is_of = |name: &str| {
        let name = name.to_owned();
        move |asked: &Asked| asked.path.ends_with(&name)
    };
    let get = async || volumes.get(&name).await;
    assert!(get().await.is_ok());
    assert_eq!(proxy.count(|asked| asked.reads("persistentvolumes", &name)), 1);

    let refusal = proxy.fault_of(1, is_of(&name), Action::Refuse(500));
    assert!(matches!(get().await, Err(kube::Error::Api(status)) if status.code == 500));
    assert!(get().await.is_ok());
    assert_eq!(refusal.hits(), 1);
    let cut = proxy.fault(is_of(&name), Action::Cut);
    assert!(!matches!(get().await, Ok(_) | Err(kube::Error::Api(_))));
    drop(cut);

    let late = proxy.fault(is_of(&name), Action::Late(Duration::from_secs(2)));
    let change = async {
        eventually("the request", || async { (late.hits() > 0).then_some(()) }).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        space.patch(&space.volumes(), &name, json!({"metadata": {"labels": {"changed": "yes"}}})).await;
    };
    let (answer, ()) = futures::join!(get(), change);
    assert_eq!(answer.unwrap().metadata.labels, None);
    drop(late);

    let begun = Instant::now();
    let delay = proxy.fault(is_of(&name), Action::Delay(Duration::from_millis(300)));
    assert!(get().await.unwrap().metadata.labels.is_some() && begun.elapsed() >= Duration::from_millis(300));
    drop(delay);

    let frozen = proxy.fault(is_of(&name), Action::Freeze);
    let thaw = async {
        eventually("the request", || async { (frozen.hits() > 0).then_some(()) }).await;
        drop(frozen);
    };
    let (answer, ()) = futures::join!(get(), thaw);
    assert!(answer.is_ok());

    let _lost = proxy.fault(|asked| asked.method == "DELETE", Action::LoseAnswer);
    assert!(!matches!(volumes.delete(&name, &Default::default()).await, Ok(_) | Err(kube::Error::Api(_))));
    space.gone(&name).await;
}

/// The next event that a watch brings about volumes of this space: `+` and the name, `-` and the name, `[` and `]` for
/// a list, `!` for an error.
async fn next(
    space: &Space,
    watch: &mut (impl Stream<Item = watcher::Result<Event<PersistentVolume>>> + Unpin),
) -> String {
    loop {
        let event = timeout(SOON, watch.next()).await.expect("an event").expect("a watch");
        let (kind, volume) = match event {
            Ok(Event::Init) => return "[".to_owned(),
            Ok(Event::InitDone) => return "]".to_owned(),
            Ok(Event::InitApply(volume) | Event::Apply(volume)) => ('+', volume),
            Ok(Event::Delete(volume)) => ('-', volume),
            Err(_) => return "!".to_owned(),
        };
        if let Some(name) = name_of(&volume).strip_prefix(&format!("{}-", space.namespace)) {
            return format!("{kind}{name}");
        }
    }
}

#[tokio::test]
async fn watches_go_wrong_as_told_and_well_otherwise() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let make = async |name: &str| {
        let volume = released(&space, name, &format!("/export/proxied/{name}"), "none", kept()).await;
        space.phase(name_of(&volume), "Released").await;
        name_of(&volume).to_owned()
    };
    let names = [make("a").await, make("b").await];
    let volumes = through(&space, &proxy).await;
    let mut watch = Box::pin(watcher(volumes, watcher::Config::default().streaming_lists()));
    let first = next(&space, &mut watch).await;
    if first == "!" {
        // An API server that does not stream lists.
        return;
    }
    let mut seen = vec![first];
    for _ in 0..3 {
        seen.push(next(&space, &mut watch).await);
    }
    assert_eq!(seen, ["[", "+a", "+b", "]"]);
    let old = proxy.recorded("persistentvolumes").unwrap();

    // Frozen in the middle, it brings what has happened meanwhile when it goes on.
    let of_volumes = |asked: &Asked| asked.watches("persistentvolumes");
    let frozen = proxy.fault(of_volumes, Action::Freeze);
    let label = async |value: &str| {
        space.patch(&space.volumes(), &names[0], json!({"metadata": {"labels": {"l": value}}})).await;
    };
    label("one").await;
    assert!(timeout(Duration::from_millis(500), next(&space, &mut watch)).await.is_err());
    drop(frozen);
    assert_eq!(next(&space, &mut watch).await, "+a");

    // Too old a version makes for a list, which can be held in its middle.
    let held = proxy.fault(|asked| asked.lists("persistentvolumes"), Action::HoldAt(names[1].clone()));
    let gone = proxy.fault_of(1, of_volumes, Action::Gone);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(next(&space, &mut watch).await);
    }
    assert_eq!(seen, ["!", "[", "+a"]);
    assert!(timeout(Duration::from_millis(500), next(&space, &mut watch)).await.is_err());
    assert_eq!((held.hits(), gone.hits()), (1, 1));
    drop((held, gone));
    assert_eq!(next(&space, &mut watch).await, "+b");
    assert_eq!(next(&space, &mut watch).await, "]");

    // An old list shows what has gone by now, and the watch goes on from there.
    space.volumes().delete(&names[1], &Default::default()).await.unwrap();
    while next(&space, &mut watch).await != "-b" {}
    let stale = proxy.fault_of(1, |asked| asked.lists("persistentvolumes"), Action::Stale(old));
    let gone = proxy.fault_of(1, of_volumes, Action::Gone);
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(next(&space, &mut watch).await);
    }
    assert_eq!(seen, ["!", "[", "+a", "+b", "]"]);
    drop((stale, gone));
    while next(&space, &mut watch).await != "-b" {}
}
