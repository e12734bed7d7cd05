//! API servers that go away, or that cannot do everything. On control planes of their own, one test at a time.

#![allow(
    clippy::cast_precision_loss,
    clippy::default_trait_access,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

mod support;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use support::eventually;
use support::http::{free_port, get};
use support::plane::Plane;
use support::process::Process;
use support::space::{Rules, Space, from_json};
use tokio::sync::Mutex;

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn an_api_server_that_is_not_there_at_the_start_is_waited_for() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let space = Space::new().await;
    let class = space.class("nfs", json!({})).await;
    space.claim("data", &class, json!({})).await;
    Plane::shared().command("stop kube-apiserver");
    let mut provisioner = space.start();
    eventually("two tries", || async {
        (provisioner.log().matches("the API server cannot be reached").count() >= 2).then_some(())
    })
    .await;
    assert!(provisioner.is_running());
    Plane::shared().command("start kube-apiserver");
    space.bound("data").await;
}

#[tokio::test]
async fn an_api_server_that_does_not_stream_lists_is_read_in_pages() {
    const CLAIMS: usize = 250;
    let _turn = ONE_AT_A_TIME.lock().await;
    let flags = ["--apiserver-flag=--feature-gates=WatchList=false"];
    let plane: &'static Plane = Box::leak(Box::new(Plane::start_with(&flags)));
    let space = Space::on(plane, Rules::Ours).await;
    let class = space.class("nfs", json!({})).await;
    let names: Vec<String> = (0..CLAIMS).map(|number| format!("data-{number}")).collect();
    join_all(names.iter().map(|name| space.claim(name, &class, json!({})))).await;
    let provisioner = space.start();
    for name in &names {
        space.bound(name).await;
    }
    assert!(provisioner.log().contains("does not stream lists"), "{}", provisioner.log());
}

#[tokio::test]
async fn an_api_server_that_was_away_for_long_is_made_use_of_soon_after_it_is_back() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let space = Space::new().await;
    let port = free_port();
    let mut settings = space.settings();
    settings.environment.push(("HTTP_ADDR".to_owned(), format!("127.0.0.1:{port}")));
    let _provisioner = Process::start(&settings);
    let ready = || async { get(port, "/readyz").starts_with("HTTP/1.0 200").then_some(()) };
    eventually("the provisioner to be ready", ready).await;
    Plane::shared().command("stop kube-apiserver");
    eventually("the provisioner to say so", || async {
        get(port, "/readyz").contains("[-]api-server failed: ").then_some(())
    })
    .await;
    // As long as waits would grow that are made for servers which answer.
    tokio::time::sleep(Duration::from_secs(20)).await;
    Plane::shared().command("start kube-apiserver");
    let back = Instant::now();
    eventually("the provisioner to be ready again", ready).await;
    assert!(back.elapsed() < Duration::from_secs(15), "{:?}", back.elapsed());
}

#[tokio::test]
async fn an_api_server_that_restarts_in_the_middle_of_a_burst_loses_no_claim() {
    const CLAIMS: usize = 60;
    let _turn = ONE_AT_A_TIME.lock().await;
    let space = Space::new().await;
    let mut provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let claims = space.api::<PersistentVolumeClaim>();

    let make = join_all((0..CLAIMS).map(|number| {
        let claim: PersistentVolumeClaim = from_json(json!({
            "metadata": {"name": format!("data-{number}")},
            "spec": {
                "storageClassName": class, "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": "1Mi"}},
            },
        }));
        let claims = claims.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(20 * number as u64)).await;
            eventually("a claim to be created", || async {
                let made = claims.create(&PostParams::default(), &claim).await;
                match made {
                    Ok(_) => Some(()),
                    Err(kube::Error::Api(status)) if status.is_already_exists() => Some(()),
                    Err(_) => None,
                }
            })
            .await;
        }
    }));
    let restart = restart_after(Duration::from_millis(400));
    futures::join!(make, restart);
    let mut directories = Vec::new();
    for number in 0..CLAIMS {
        directories.push(Space::directory(&space.bound(&format!("data-{number}")).await));
    }
    directories.sort();
    assert_eq!(space.entries(), directories);

    let delete = join_all((0..CLAIMS).map(|number| {
        let claims = claims.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(20 * number as u64)).await;
            let name = format!("data-{number}");
            eventually("a claim to be deleted", || async {
                claims.delete(&name, &DeleteParams::default()).await.is_ok().then_some(())
            })
            .await;
        }
    }));
    let restart = restart_after(Duration::from_millis(400));
    futures::join!(delete, restart);
    eventually("all volumes to go", || async { space.volumes_of(&class).await.is_empty().then_some(()) }).await;
    assert!(space.entries().is_empty(), "{:?}", space.entries());
    assert!(provisioner.is_running());
}

async fn restart_after(wait: Duration) {
    tokio::time::sleep(wait).await;
    let restarted = tokio::task::spawn_blocking(|| Plane::shared().command("restart kube-apiserver"));
    restarted.await.expect("a restart");
}

/// Defect 6 of the second list. A volume is Released until the controller manager says otherwise.
#[tokio::test]
async fn a_volume_that_is_to_be_used_again_is_not_reclaimed_while_nobody_says_so_in_its_status() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let space = Space::new().await;
    let first = space.start();
    let parameters = json!({"onDelete": "delete", "pathPattern": "${.PVC.name}"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    let names = ["unclaimed", "reserved", "reused", "released"];
    let mut volumes = Vec::new();
    for name in names {
        space.claim(name, &class, json!({})).await;
        let volume = space.bound(name).await;
        fs::write(space.at(name).join("file"), name).unwrap();
        volumes.push(volume.metadata.name.unwrap());
    }
    assert!(first.stop().success());
    for (name, volume) in names.iter().zip(&volumes) {
        space.delete_claim(name).await;
        space.phase(volume, "Released").await;
    }
    let heir = space.claim("heir", &class, json!({"spec": {"volumeName": volumes[2]}})).await;
    Plane::shared().command("stop kube-controller-manager");
    let claim = |name: &str, uid: Option<String>| json!({"name": name, "uid": uid, "resourceVersion": null});
    let changes = [json!(null), claim("not-there-yet", None), claim("heir", heir.metadata.uid)];
    for (volume, change) in volumes.iter().zip(changes) {
        space.patch(&space.volumes(), volume, json!({"spec": {"claimRef": change}})).await;
        space.phase(volume, "Released").await;
    }
    let provisioner = space.start();
    eventually("the one to go that is not used again", || async {
        (!space.at("released").exists()).then_some(())
    })
    .await;
    let stay = || {
        for name in ["unclaimed", "reserved", "reused"] {
            let there = fs::read_to_string(space.at(name).join("file")).is_ok_and(|content| content == name);
            assert!(there, "{name} has gone:\n{}", provisioner.log());
        }
    };
    stay();
    Plane::shared().command("start kube-controller-manager");
    for (volume, phase) in volumes.iter().zip(["Available", "Available", "Bound"]) {
        space.phase(volume, phase).await;
    }
    space.gone(&volumes[3]).await;
    stay();
}

/// Defect 20 of the second list: the versions of all objects go back while the provisioner runs.
#[tokio::test]
async fn a_cluster_that_is_restored_from_an_older_snapshot_is_served_soon_and_loses_nothing() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let plane = Plane::shared();
    let space = Space::new().await;
    let mut provisioner = space.start();
    let parameters = json!({"onDelete": "delete", "pathPattern": "${.PVC.name}"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    let with_data = async |name: &str| {
        space.claim(name, &class, json!({})).await;
        let volume = space.bound(name).await;
        fs::write(space.at(name).join("file"), name).unwrap();
        volume.metadata.name.unwrap()
    };
    let old = with_data("old").await;
    let (etcd, snapshot) = (plane.dir.join("etcd"), plane.dir.join("snapshot"));
    let off = || ["kube-apiserver", "etcd"].map(|component| plane.command(&format!("stop {component}")));
    let on = || ["etcd", "kube-apiserver"].map(|component| plane.command(&format!("start {component}")));
    off();
    let copied = Command::new("cp").arg("-r").args([&etcd, &snapshot]).status().unwrap();
    assert!(copied.success());
    on();
    // Much happens that nobody will know of, over more time than lies between two looks at the version.
    with_data("young").await;
    let changing = Instant::now();
    let version = |volume: &PersistentVolume| volume.metadata.resource_version.clone().unwrap().parse::<u64>();
    let (mut last, mut number) = (0, 0);
    while number < 300 || changing.elapsed() < Duration::from_secs(15) {
        number += 1;
        let label = json!({"metadata": {"labels": {"number": number.to_string()}}});
        last = version(&space.patch(&space.volumes(), &old, label).await).unwrap();
    }
    off();
    fs::remove_dir_all(&etcd).unwrap();
    fs::rename(&snapshot, &etcd).unwrap();
    on();
    // It would be deaf, too.
    plane.command("restart kube-controller-manager");
    let restored = Instant::now();
    assert!(version(&space.volumes().get(&old).await.unwrap()).unwrap() + 200 < last);

    space.claim("new", &class, json!({})).await;
    let new = space.bound("new").await;
    println!("served {:?} after the cluster was restored", restored.elapsed());
    fs::write(space.at("new/file"), "new").unwrap();
    space.delete_claim("old").await;
    space.gone(&old).await;
    assert_eq!(space.entries(), ["new", "young"]);
    assert!(["new", "young"].iter().all(|name| space.at(name).join("file").exists()));
    assert_eq!(
        space.volumes().get(&new.metadata.name.unwrap()).await.unwrap().status.unwrap().phase.unwrap(),
        "Bound"
    );
    assert!(provisioner.is_running());
}
