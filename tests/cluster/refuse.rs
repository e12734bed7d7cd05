//! Claims that cannot be served: each says so, once, with what to change.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::Api;
use serde_json::{Value, json};

use crate::support::http::{free_port, get};
use crate::support::plane::Plane;
use crate::support::process::{Process, Settings};
use crate::support::space::{PATH, Rules, SERVER, Space};

/// One refusal: the claim's name, the class's parameters, what the claim has, and what the event says.
struct Row(&'static str, Value, Value, &'static [&'static str]);

fn rows() -> Vec<Row> {
    let none = || json!({});
    let annotated = |path: &str| json!({"metadata": {"annotations": {"path": path}}});
    let pattern = || json!({"pathPattern": "${.PVC.annotations.path}"});
    let source = |group: &str, kind: &str| json!({"spec": {"dataSource": {"apiGroup": group, "kind": kind, "name": "source"}}});
    vec![
        Row(
            "block",
            none(),
            json!({"spec": {"volumeMode": "Block"}}),
            &["does not support block volume", "spec.volumeMode"],
        ),
        Row(
            "selector",
            none(),
            json!({"spec": {"selector": {}}}),
            &["claim Selector is not supported", "spec.selector"],
        ),
        Row(
            "attributes",
            none(),
            json!({"spec": {"volumeAttributesClassName": "gold"}}),
            &["spec.volumeAttributesClassName", "gold"],
        ),
        Row(
            "clone",
            none(),
            source("", "PersistentVolumeClaim"),
            &["spec.dataSource", "source", "does not exist"],
        ),
        Row(
            "snapshot",
            none(),
            source("snapshot.storage.k8s.io", "VolumeSnapshot"),
            &["snapshots", "spec.dataSource"],
        ),
        Row(
            "fate",
            json!({"claimOnDelete": "retain,archive"}),
            json!({"metadata": {"annotations": {"nfs-provisioner/on-delete": "keep"}}}),
            &["annotation nfs-provisioner/on-delete", "\"keep\"", "\"retain\""],
        ),
        Row(
            "fate-not-allowed",
            json!({"claimOnDelete": "retain"}),
            json!({"metadata": {"annotations": {"nfs-provisioner/on-delete": "delete"}}}),
            &["annotation nfs-provisioner/on-delete", "\"delete\"", "claimOnDelete"],
        ),
        Row(
            "fates",
            json!({"claimOnDelete": "retain;archive"}),
            none(),
            &["claimOnDelete", "\"retain;archive\"", "commas"],
        ),
        Row("mode", json!({"directoryMode": "rwx"}), none(), &["directoryMode", "\"rwx\"", "octal"]),
        Row("space", json!({"minFreeSpace": "some"}), none(), &["minFreeSpace", "\"some\"", "10%"]),
        Row("inodes", json!({"minFreeInodes": "101%"}), none(), &["minFreeInodes", "\"101%\"", "5%"]),
        Row("ratio", json!({"maxOvercommit": "0"}), none(), &["maxOvercommit", "\"0\"", "150%"]),
        Row("kept", json!({"archiveRetention": "1y"}), none(), &["archiveRetention", "\"1y\"", "units"]),
        Row(
            "kept-free",
            json!({"deleteRetentionMinFree": "10%"}),
            none(),
            &["deleteRetentionMinFree", "\"10%\"", "deleteRetention is unset"],
        ),
        Row("gids", json!({"gidRange": "0-9"}), none(), &["gidRange", "\"0-9\"", "from 1"]),
        Row(
            "gids-and-gid",
            json!({"gidRange": "5-9", "directoryGid": "5"}),
            none(),
            &["gidRange", "\"5-9\"", "directoryGid"],
        ),
        Row(
            "uid-not-allowed",
            json!({"claimOwnership": "mode,gid"}),
            json!({"metadata": {"annotations": {"nfs-provisioner/directory-uid": "0"}}}),
            &["annotation nfs-provisioner/directory-uid", "\"0\"", "claimOwnership"],
        ),
        Row(
            "uid-wrong",
            json!({"claimOwnership": "uid"}),
            json!({"metadata": {"annotations": {"nfs-provisioner/directory-uid": "me"}}}),
            &["annotation nfs-provisioner/directory-uid", "\"me\"", "a number"],
        ),
        Row(
            "token",
            json!({"pathPattern": "x/${.PVC.lables.team}", "strictPathPattern": "true"}),
            none(),
            &["${.PVC.lables.team}", "strictPathPattern"],
        ),
        Row(
            "value",
            json!({"pathPattern": "x/${.PVC.labels.team}", "strictPathPattern": "true"}),
            none(),
            &["${.PVC.labels.team}", "strictPathPattern", "label"],
        ),
        Row("strict", json!({"strictPathPattern": "yes"}), none(), &["strictPathPattern", "\"yes\"", "\"true\""]),
        Row("climbs", pattern(), annotated("../other/data"), &["../other/data", "'..'", "pathPattern"]),
        Row("climbs-inside", pattern(), annotated("a/../../b"), &["a/../../b", "'..'", "pathPattern"]),
        Row("export", pattern(), annotated("/"), &["export itself", "pathPattern"]),
        Row("dot", pattern(), annotated("./"), &["export itself", "pathPattern"]),
        Row("control", pattern(), annotated("a\nb"), &["control character", "a\\nb", "pathPattern"]),
        Row("reserved", pattern(), annotated("archived-x"), &["reserved", "archived-x", "pathPattern"]),
    ]
}

/// The names of the rows. API servers before 1.34 drop the field of one, and so no one asks for what it says.
async fn known(space: &Space) -> Vec<&'static str> {
    let minor = space.minor().await;
    rows().into_iter().map(|row| row.0).filter(|name| minor >= 34 || *name != "attributes").collect()
}

#[tokio::test]
async fn every_refusal_says_once_what_to_change_and_makes_nothing() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let known = known(&space).await;
    let rows = || rows().into_iter().filter(|row| known.contains(&row.0));
    for Row(name, parameters, claim, _) in rows() {
        let class = space.class(name, json!({"parameters": parameters})).await;
        space.claim(name, &class, claim).await;
    }
    for Row(name, _, _, expected) in rows() {
        let message = space.event(name, "ProvisioningFailed").await;
        for words in expected {
            assert!(message.contains(words), "{name}: {words:?} is not in {message:?}");
        }
        if name != "block" {
            let start = format!("failed to provision volume with StorageClass \"{}\": ", space.class_name(name));
            assert!(message.starts_with(&start), "{message}");
        }
    }
    // Touching a claim brings no second event and no directory.
    let claims: Api<PersistentVolumeClaim> = space.api();
    for round in ["one", "two"] {
        for Row(name, ..) in rows() {
            space.patch(&claims, name, json!({"metadata": {"labels": {"touched": round}}})).await;
        }
    }
    let good = space.class("good", json!({})).await;
    space.claim("good", &good, json!({})).await;
    space.bound("good").await;
    assert_eq!(space.entries().len(), 1, "{:?}", space.entries());
    for Row(name, ..) in rows() {
        let events = space.events(name, "ProvisioningFailed").await;
        assert_eq!(events.len(), 1, "{name}: {events:?}");
        assert_eq!(events[0].type_.as_deref(), Some("Warning"));
        assert!(space.events(name, "Provisioning").await.is_empty(), "{name}");
    }
}

/// As it is copied from one cluster or namespace to another, without its `volumeName`.
#[tokio::test]
async fn a_copied_claim_that_counts_as_lost_gets_nothing_and_is_told_of_its_annotation() {
    const COMPLETED: &str = "pv.kubernetes.io/bind-completed";
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({})).await;
    let annotations = json!({
        COMPLETED: "yes", "pv.kubernetes.io/bound-by-controller": "yes",
        "volume.kubernetes.io/storage-provisioner": space.provisioner,
        "volume.beta.kubernetes.io/storage-provisioner": space.provisioner,
    });
    space.claim("copied", &class, json!({"metadata": {"annotations": annotations}})).await;
    let message = space.event("copied", "ProvisioningFailed").await;
    for words in [COMPLETED, "Lost", "remove that annotation"] {
        assert!(message.contains(words), "{words:?} is not in {message:?}");
    }
    // What comes after it has been served, and nothing was made for it.
    space.claim("plain", &class, json!({})).await;
    space.bound("plain").await;
    assert_eq!((space.entries().len(), space.volumes_of(&class).await.len()), (1, 1));
    // The advice is right.
    let claims: Api<PersistentVolumeClaim> = space.api();
    space.patch(&claims, "copied", json!({"metadata": {"annotations": {COMPLETED: null}}})).await;
    space.bound("copied").await;
}

/// Where the gate is on, a claim may name another namespace; that the author of its source allows it is not looked at.
#[tokio::test]
async fn a_source_in_another_namespace_is_refused_and_not_taken_for_one_of_the_same_name_here() {
    let flags = ["--apiserver-flag=--feature-gates=CrossNamespaceVolumeDataSource=true"];
    let plane: &'static Plane = Box::leak(Box::new(Plane::start_with(&flags)));
    let space = Space::on(plane, Rules::Ours).await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({})).await;
    space.claim("source", &class, json!({})).await;
    let source = Space::directory(&space.bound("source").await);
    std::fs::write(space.at(&source).join("file"), "of this namespace").unwrap();
    let from = |namespace: &str| {
        json!({"spec": {"dataSourceRef": {
            "apiGroup": "", "kind": "PersistentVolumeClaim", "name": "source", "namespace": namespace,
        }}})
    };
    space.claim("abroad", &class, from("elsewhere")).await;
    let message = space.event("abroad", "ProvisioningFailed").await;
    for words in ["spec.dataSourceRef.namespace", "\"elsewhere\"", "make the claim again"] {
        assert!(message.contains(words), "{words:?} is not in {message:?}");
    }
    assert_eq!(space.entries(), [source]);
    // Its own namespace may be named.
    space.claim("here", &class, from(&space.namespace)).await;
    let copy = Space::directory(&space.bound("here").await);
    assert_eq!(std::fs::read_to_string(space.at(&copy).join("file")).unwrap(), "of this namespace");
}

#[tokio::test]
async fn a_source_for_a_populator_is_left_to_it_in_silence() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({})).await;
    let source = json!({"spec": {"dataSourceRef": {"apiGroup": "example.com", "kind": "Backup", "name": "x"}}});
    space.claim("populated", &class, source).await;
    space.claim("plain", &class, json!({})).await;
    space.bound("plain").await;
    for reason in ["ProvisioningFailed", "Provisioning"] {
        assert!(space.events("populated", reason).await.is_empty());
    }
    assert_eq!(space.entries().len(), 1);
}

#[tokio::test]
async fn a_missing_class_is_said_and_the_claim_is_served_when_it_comes() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let annotation =
        json!({"metadata": {"annotations": {"volume.kubernetes.io/storage-provisioner": space.provisioner}}});
    space.claim("data", &space.class_name("late"), annotation).await;
    let message = space.event("data", "ProvisioningFailed").await;
    assert!(message.contains("there is no StorageClass of that name"), "{message}");
    space.class("late", json!({})).await;
    space.bound("data").await;
}

#[tokio::test]
async fn a_class_of_another_provisioner_is_said() {
    let space = Space::new().await;
    let _provisioner = space.start();
    // The controller manager leaves the annotation alone where the class wants no provisioner.
    let class = space.class("static", json!({"provisioner": "kubernetes.io/no-provisioner"})).await;
    let annotation =
        json!({"metadata": {"annotations": {"volume.kubernetes.io/storage-provisioner": space.provisioner}}});
    space.claim("data", &class, annotation).await;
    let message = space.event("data", "ProvisioningFailed").await;
    assert!(message.contains("kubernetes.io/no-provisioner") && message.contains("annotation"), "{message}");
    assert!(space.entries().is_empty());
}

#[tokio::test]
async fn a_class_that_is_put_right_serves_the_claims_that_waited() {
    let space = Space::new().await;
    let provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"directoryMode": "rwx", "onDelet": "retain"}})).await;
    space.claim("data", &class, json!({})).await;
    space.event("data", "ProvisioningFailed").await;
    space.classes().delete(&class, &Default::default()).await.unwrap();
    space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    space.bound("data").await;
    // A parameter that is not known is no reason to refuse, but is logged, once.
    assert_eq!(provisioner.log().matches("onDelet\"").count(), 1, "{}", provisioner.log());
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_said_and_tried_again() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"pathPattern": "team/${.PVC.name}"}})).await;
    std::fs::write(space.at("team"), "a file").unwrap();
    space.claim("data", &class, json!({})).await;
    let message = space.event("data", "ProvisioningFailed").await;
    assert!(message.contains("unable to create directory to provision new pv: "), "{message}");
    assert!(message.contains("team/data") && message.contains("is not a directory"), "{message}");
    std::fs::remove_file(space.at("team")).unwrap();
    space.bound("data").await;
}

#[tokio::test]
async fn nothing_is_written_where_no_export_is_mounted() {
    let space = Space::new().await;
    let mut settings = space.settings();
    let port = listening_on_a_free_port(&mut settings);
    settings.environment.push(("NFS_MOUNT_CHECK".to_owned(), "on".to_owned()));
    let provisioner = Process::start(&settings);
    let class = space.class("nfs", json!({})).await;
    space.claim("data", &class, json!({})).await;
    let message = space.event("data", "ProvisioningFailed").await;
    for words in [&*format!("{SERVER}:{PATH}"), "is not an NFS mount", "NFS_MOUNT_CHECK"] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(std::fs::read_dir(space.at("")).unwrap().count(), 0);
    let ready = get(port, "/readyz");
    assert!(ready.starts_with("HTTP/1.0 503") && ready.contains("[-]export/default failed: use "), "{ready}");
    assert!(get(port, "/livez").starts_with("HTTP/1.0 200"));
    assert!(get(port, "/metrics").contains("nfs_provisioner_export_usable{export=\"default\"} 0"));

    // Who knows better can say so.
    drop(provisioner);
    settings.environment.push(("NFS_MOUNT_CHECK".to_owned(), "off".to_owned()));
    let _provisioner = Process::start(&settings);
    space.bound("data").await;
    let ready = get(port, "/readyz?verbose");
    assert!(
        ready.starts_with("HTTP/1.0 200")
            && ready.contains("[+]api-server ok: answers\n[+]watches ok: up to date\n[+]leadership ok: ")
            && ready.ends_with("[+]export/default ok: open\nok\n"),
        "{ready}"
    );
}

/// Has the provisioner answer HTTP, and returns the port.
fn listening_on_a_free_port(settings: &mut Settings) -> u16 {
    let port = free_port();
    settings.environment.push(("HTTP_ADDR".to_owned(), format!("127.0.0.1:{port}")));
    port
}

#[tokio::test]
async fn refusals_are_counted() {
    let space = Space::new().await;
    let mut settings = space.settings();
    let port = listening_on_a_free_port(&mut settings);
    let _provisioner = Process::start(&settings);
    let class = space.class("nfs", json!({"parameters": {"pathPattern": ".."}})).await;
    space.claim("data", &class, json!({})).await;
    space.event("data", "ProvisioningFailed").await;
    assert!(get(port, "/livez").starts_with("HTTP/1.0 200"));
    let metrics = get(port, "/metrics");
    assert!(metrics.contains("nfs_provisioner_claims_refused_total{reason=\"path\"} 1"), "{metrics}");
    assert!(metrics.contains("application/openmetrics-text") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(get(port, "/").starts_with("HTTP/1.0 404"));

    // A port that is taken is named with its setting.
    let second = std::process::Command::new(&settings.binary)
        .env_clear()
        .envs([("PROVISIONER_NAME", "x"), ("NFS_SERVER", "nas"), ("NFS_PATH", "/x"), ("NFS_MOUNT_PATH", "/tmp")])
        .env("HTTP_ADDR", format!("127.0.0.1:{port}"))
        .env("KUBECONFIG", &settings.kubeconfig)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("HTTP_ADDR") && said.contains("in use"), "{said}");
}
