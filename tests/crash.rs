//! The provisioner dies, at every step and at any moment, and is started again.
//!
//! What must hold afterwards: every Bound claim has a directory of its own with its data; no living volume's data
//! is missing; every deleted claim's volume is gone; nothing is on the export that nobody owns, archives aside.

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

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams};
use nfs_provisioner::failpoint::Failpoint;
use nfs_provisioner::layout::{STAGING, TRASH, VOLUME_NOTES};
use serde_json::json;
use support::eventually;
use support::process::Process;
use support::space::{Space, create, from_json};

/// Starts the provisioner, to die at a step. Without an election: a dead leader's lock would have to be waited for.
fn start(space: &Space, dies_at: Option<Failpoint>) -> Process {
    let mut settings = space.settings();
    settings.environment.push(("ENABLE_LEADER_ELECTION".to_owned(), "false".to_owned()));
    if let Some(step) = dies_at {
        settings.environment.push(("FAILPOINTS".to_owned(), format!("{}=1*return", step.name())));
    }
    Process::start(&settings)
}

/// Waits until `done`, starting the provisioner again without a step to die at once it has died.
async fn through<F: Future<Output = bool>>(
    space: &Space,
    provisioner: &mut Process,
    deaths: &mut u32,
    done: impl Fn() -> F,
) {
    let start_of_wait = std::time::Instant::now();
    while !done().await {
        if !provisioner.is_running() {
            *deaths += 1;
            *provisioner = start(space, None);
        }
        assert!(start_of_wait.elapsed() < support::PATIENCE, "waited in vain:\n{}", provisioner.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes sure that the process has died once, at that step. The last step is the last thing that happens: the process may
/// be dying of it only now.
async fn has_died_once(provisioner: &mut Process, mut deaths: u32, step: Failpoint) {
    for _ in 0..250 {
        if deaths > 0 || !provisioner.is_running() {
            deaths = deaths.max(1);
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(deaths, 1, "{step:?} was not met:\n{}", provisioner.log());
}

/// Lets the provisioner make claims in the test's namespace.
async fn let_it_claim(space: &Space) {
    let rules = json!([{"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["create"]}]);
    create::<Role>(&space.api(), from_json(json!({"metadata": {"name": "restore"}, "rules": rules}))).await;
    let binding = json!({
        "metadata": {"name": "restore"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "restore"},
        "subjects": [{"kind": "ServiceAccount", "name": "provisioner", "namespace": space.namespace}],
    });
    create::<RoleBinding>(&space.api(), from_json(binding)).await;
}

async fn is_bound(space: &Space, claim: &str) -> bool {
    let claims: Api<PersistentVolumeClaim> = space.api();
    let phase = claims.get(claim).await.ok().and_then(|claim| claim.status?.phase);
    phase.as_deref() == Some("Bound")
}

/// Whether a claim and its volume both have 2Mi.
async fn has_grown(space: &Space, claim: &str) -> bool {
    let claims: Api<PersistentVolumeClaim> = space.api();
    let Ok(claim) = claims.get(claim).await else { return false };
    let volume = space.volumes().get(&claim.spec.unwrap().volume_name.unwrap()).await;
    let Ok(volume) = volume else { return false };
    let sizes = [claim.status.unwrap().capacity, volume.spec.unwrap().capacity];
    sizes.iter().flatten().filter(|capacity| capacity["storage"].0 == "2Mi").count() == 2
}

/// How many places there are in which copies are made.
fn staged(space: &Space) -> usize {
    fs::read_dir(space.at(STAGING)).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_crash_at_any_step_loses_nothing_and_leaves_nothing() {
    for step in Failpoint::ALL {
        let space = Space::new().await;
        let mut provisioner = start(&space, Some(step));
        let mut deaths = 0;
        let mut classes = Vec::new();
        for fate in ["delete", "archive", "retain"] {
            let pattern = format!("{fate}/${{.PVC.namespace}}/${{.PVC.name}}");
            // One that is made in several steps is among them.
            let gids = if fate == "retain" { "50000-50009" } else { "" };
            let parameters = json!({"onDelete": fate, "pathPattern": pattern, "gidRange": gids});
            let class = json!({"allowVolumeExpansion": true, "parameters": parameters});
            let class = space.class(fate, class).await;
            space.claim(fate, &class, json!({})).await;
            classes.push((fate, class));
        }
        for (fate, _) in &classes {
            through(&space, &mut provisioner, &mut deaths, || is_bound(&space, fate)).await;
            let directory = space.at(&format!("{fate}/{}/{fate}", space.namespace));
            fs::write(directory.join("file"), *fate).unwrap();
        }
        // A copy is made of one of them; it takes steps of its own.
        let pattern = "copy/${.PVC.namespace}/${.PVC.name}";
        let class =
            space.class("copy", json!({"parameters": {"onDelete": "delete", "pathPattern": pattern}})).await;
        let source = json!({"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "retain"}}});
        space.claim("copy", &class, source).await;
        through(&space, &mut provisioner, &mut deaths, || is_bound(&space, "copy")).await;
        let copy = space.at(&format!("copy/{}/copy", space.namespace));
        assert_eq!(fs::read_to_string(copy.join("file")).unwrap(), "retain", "{step:?}");
        through(&space, &mut provisioner, &mut deaths, || async { staged(&space) == 0 }).await;
        for (fate, _) in &classes {
            let more = json!({"spec": {"resources": {"requests": {"storage": "2Mi"}}}});
            space.patch(&space.api::<PersistentVolumeClaim>(), fate, more).await;
            through(&space, &mut provisioner, &mut deaths, || has_grown(&space, fate)).await;
        }
        classes.push(("copy", class));
        for (fate, _) in &classes {
            space.delete_claim(fate).await;
        }
        for (_, class) in &classes {
            through(&space, &mut provisioner, &mut deaths, || async { space.volumes_of(class).await.is_empty() })
                .await;
        }
        has_died_once(&mut provisioner, deaths, step).await;

        let file = |path: &str| fs::read_to_string(space.at(path)).ok();
        let namespace = &space.namespace;
        assert_eq!(file(&format!("retain/{namespace}/retain/file")).as_deref(), Some("retain"), "{step:?}");
        let kept = fs::metadata(space.at(&format!("retain/{namespace}/retain"))).unwrap();
        assert_eq!((kept.mode() & 0o7777, kept.gid()), (0o2770, 50_000), "{step:?}");
        assert_eq!(file("archived-archive/file").as_deref(), Some("archive"), "{step:?}");
        for gone in ["delete", "archive", "copy"] {
            let left = fs::read_dir(space.at(&format!("{gone}/{namespace}"))).unwrap().count();
            assert_eq!(left, 0, "{step:?}: {gone}");
        }
    }
}

#[tokio::test]
async fn a_process_killed_again_and_again_keeps_its_promises() {
    const CLAIMS: usize = 200;
    const KILLS: usize = 25;
    let space = Space::new().await;
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let claims: Api<PersistentVolumeClaim> = space.api();
    let name = |number: usize| format!("data-{number}");

    let making = async {
        for number in 0..CLAIMS {
            space.claim(&name(number), &class, json!({})).await;
            // Every second one goes again, some while they are served.
            if number % 2 == 1 {
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..30))).await;
                claims.delete(&name(number), &DeleteParams::default()).await.unwrap();
            }
        }
    };
    let killing = async {
        for _ in 0..KILLS {
            let provisioner = start(&space, None);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(100..600))).await;
            provisioner.signal("KILL");
        }
        start(&space, None)
    };
    let ((), provisioner) = futures::join!(making, killing);

    // Every claim that is still there has its directory, and its data stays.
    let living: Vec<usize> = (0..CLAIMS).step_by(2).collect();
    let mut directories = BTreeSet::new();
    for number in &living {
        let directory = Space::directory(&space.bound(&name(*number)).await);
        assert!(directories.insert(directory.clone()), "{directory} belongs to two");
        fs::write(space.at(&directory).join("file"), number.to_string()).unwrap();
    }
    eventually("volumes of deleted claims to go", || async {
        (space.volumes_of(&class).await.len() == living.len()).then_some(())
    })
    .await;
    for directory in &directories {
        assert!(space.at(directory).join("file").exists(), "{directory} has lost its data");
    }
    // What nobody owns is empty, was made a moment before a kill, and is one at most for each.
    let orphans: Vec<String> =
        space.entries().into_iter().filter(|entry| is_orphan(entry, &directories)).collect();
    for orphan in &orphans {
        assert_eq!(fs::read_dir(space.at(orphan)).unwrap().count(), 0, "{orphan}");
    }
    assert!(orphans.len() <= KILLS * 16, "{orphans:?}");

    for number in &living {
        space.delete_claim(&name(*number)).await;
    }
    eventually("all volumes to go", || async { space.volumes_of(&class).await.is_empty().then_some(()) }).await;
    drop(provisioner);
}

fn is_orphan(entry: &str, directories: &BTreeSet<String>) -> bool {
    !entry.starts_with('.') && !directories.contains(entry)
}

#[tokio::test]
async fn a_restore_that_dies_at_any_step_is_finished_by_the_next() {
    for step in Failpoint::OF_RESTORE {
        let space = Space::new().await;
        let _provisioner = start(&space, None);
        let_it_claim(&space).await;
        let class = space.class("nfs", json!({})).await;
        space.claim("data", &class, json!({})).await;
        let volume = space.bound("data").await;
        let (name, directory) = (volume.metadata.name.clone().unwrap(), Space::directory(&volume));
        fs::write(space.at(&directory).join("file"), "kept").unwrap();
        space.delete_claim("data").await;
        space.gone(&name).await;
        let archive = format!("archived-{directory}");
        let restore = |dies_at: &str| {
            let mut command = space.settings().command();
            command.args(["archives", "restore", &archive]).env("FAILPOINTS", dies_at).output().unwrap()
        };
        let died = restore(&format!("{}=1*return", step.name()));
        assert!(died.status.code().is_none(), "{step:?} was not met: {died:?}");
        // What a crash leaves is never reclaimed: there is no claim, or the volume is complete.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let found = [&archive, &directory].map(|path| space.at(path).join("file").exists());
        assert_eq!(found.iter().filter(|found| **found).count(), 1, "{step:?}");
        let finished = restore("");
        assert!(finished.status.success(), "{step:?}: {finished:?}");
        let volume = space.bound("data").await;
        assert_eq!(fs::read_to_string(space.at(&directory).join("file")).unwrap(), "kept", "{step:?}");
        let policy = volume.spec.unwrap().persistent_volume_reclaim_policy;
        assert_eq!((policy.as_deref(), space.at(&archive).exists()), (Some("Delete"), false), "{step:?}");
    }
}

#[tokio::test]
async fn a_claim_gets_its_data_back_whenever_the_process_dies() {
    let keeps = json!({"onDelete": "delete", "deleteRetention": "1h", "claimRestore": "always",
        "pathPattern": "${.PVC.namespace}"});
    for (step, parameters) in Failpoint::OF_CLAIM_RESTORE
        .into_iter()
        .flat_map(|step| [(step, keeps.clone()), (step, json!({"claimRestore": "always"}))])
    {
        let space = Space::new().await;
        let mut provisioner = start(&space, None);
        let class = space.class("nfs", json!({"parameters": parameters})).await;
        space.claim("data", &class, json!({})).await;
        let volume = space.bound("data").await;
        fs::write(space.at(&Space::directory(&volume)).join("file"), "kept").unwrap();
        space.delete_claim("data").await;
        space.gone(volume.metadata.name.as_deref().unwrap()).await;
        provisioner.stop();
        provisioner = start(&space, Some(step));
        let mut deaths = 0;
        space.claim("data", &class, json!({})).await;
        through(&space, &mut provisioner, &mut deaths, || is_bound(&space, "data")).await;
        has_died_once(&mut provisioner, deaths, step).await;
        let directory = Space::directory(&space.bound("data").await);
        assert_eq!(fs::read_to_string(space.at(&directory).join("file")).unwrap(), "kept", "{step:?}");
        assert_eq!(space.entries(), [directory], "{step:?}");
        let trash = fs::read_dir(space.at(TRASH)).into_iter().flatten().count();
        assert_eq!(trash, 0, "{step:?}");
    }
}

/// Runs a command again and again, and kills it at any moment; at last lets it end.
async fn killed_and_finished(space: &Space, arguments: &[&str]) {
    const KILLS: usize = 15;
    for _ in 0..KILLS {
        let mut running = space.settings().command().args(arguments).stdout(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..400))).await;
        running.kill().unwrap();
        running.wait().unwrap();
    }
    let finished = space.settings().command().args(arguments).output().unwrap();
    assert!(finished.status.success(), "{arguments:?}: {finished:?}");
}

#[tokio::test]
async fn commands_that_are_killed_at_any_moment_are_finished_by_the_next() {
    const CLAIMS: usize = 12;
    let space = Space::new().await;
    let provisioner = start(&space, None);
    let_it_claim(&space).await;
    let kept = space.class("kept", json!({"reclaimPolicy": "Retain"})).await;
    let archived = space.class("archived", json!({})).await;
    let names = |what: &'static str| (0..CLAIMS).map(move |number| format!("{what}-{number}"));
    for (name, class) in names("kept").map(|name| (name, &kept)).chain(names("old").map(|name| (name, &archived)))
    {
        space.claim(&name, class, json!({})).await;
    }
    let mut volumes = Vec::new();
    for name in names("kept").chain(names("old")) {
        let volume = space.bound(&name).await;
        fs::write(space.at(&Space::directory(&volume)).join("file"), &name).unwrap();
        volumes.push((name, volume.metadata.name.unwrap()));
    }
    for (name, volume) in &volumes {
        space.delete_claim(name).await;
        if name.starts_with("old") {
            space.gone(volume).await;
        }
    }
    provisioner.stop();
    for (name, volume) in volumes.iter().filter(|(name, _)| name.starts_with("kept")) {
        space.claim_gone(name).await;
        space.volumes().delete(volume, &DeleteParams::default()).await.unwrap();
        space.gone(volume).await;
    }

    let mark = fs::read_dir(space.at(VOLUME_NOTES)).unwrap().next().unwrap().unwrap().file_name();
    let cluster = ["adopt", "--all", "--apply", "--cluster", mark.to_str().unwrap()];
    killed_and_finished(&space, &cluster).await;
    for name in names("kept") {
        let directory = Space::directory(&space.bound(&name).await);
        assert_eq!(fs::read_to_string(space.at(&directory).join("file")).unwrap(), name);
    }
    assert_eq!(space.volumes_of(&kept).await.len(), CLAIMS);

    tokio::time::sleep(Duration::from_secs(1)).await;
    let archives = || space.entries().into_iter().filter(|name| name.starts_with("archived-")).count();
    assert_eq!(archives(), CLAIMS);
    for _ in 0..2 {
        // By age, nothing is left of them the second time.
        killed_and_finished(&space, &["archives", "remove", "--older-than", "1s", "--yes"]).await;
    }
    let trash = fs::read_dir(space.at(TRASH)).unwrap();
    let files = trash.filter(|entry| entry.as_ref().unwrap().path().join("file").exists()).count();
    assert_eq!((archives(), files), (0, CLAIMS));
}
