//! `nfs-provisioner doctor`, as a Pod or a person runs it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::Api;
use nfs_provisioner::cluster::permissions::NEEDED;
use nfs_provisioner::layout::{NOTES, TRASH, VOLUME_NOTES};
use serde_json::{Value, json};

use crate::rights::rules_of_the_peer;
use crate::support::eventually;
use crate::support::http::free_port;
use crate::support::plane::Plane;
use crate::support::process::{Process, Settings};
use crate::support::space::{Rules, Space, documents, merge};

/// Runs it with a test's settings, and others.
fn run(space: &Space, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    space
        .settings()
        .command()
        .arg("doctor")
        .args(arguments)
        // Many run at a time.
        .env("HTTP_ADDR", "")
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// Its exit status, and what it found.
fn examined(space: &Space, environment: &[(&str, &str)]) -> (i32, Vec<Value>) {
    let output = run(space, &["-o", "json"], environment);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let findings = report["checks"].as_array().unwrap().clone();
    let has_failure = findings.iter().any(|finding| finding["level"] == "failure");
    assert_eq!(
        (report["result"] == "failure", output.status.success()),
        (has_failure, !has_failure),
        "{output:?}"
    );
    (output.status.code().unwrap(), findings)
}

/// The finding of a check, which there must be once.
fn one<'a>(findings: &'a [Value], check: &str) -> &'a Value {
    let found: Vec<_> = findings.iter().filter(|finding| finding["check"] == check).collect();
    let [one] = found[..] else { panic!("{check}: {findings:?}") };
    one
}

/// Those that are not well. There is no NFS here, and how full the disk is nobody knows.
fn unwell(findings: &[Value]) -> Vec<(&str, &str)> {
    let unwell = findings.iter().filter(|finding| finding["level"] != "ok");
    let unwell = unwell.map(|finding| (finding["check"].as_str().unwrap(), finding["level"].as_str().unwrap()));
    unwell.filter(|(check, _)| !["mount", "space"].contains(check)).collect()
}

/// All names at the export's root, the provisioner's own among them.
fn all_entries(space: &Space) -> Vec<String> {
    let entries = fs::read_dir(space.at("")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn under_rbac_all_is_well_and_a_leader_beside_it_is_not_disturbed() {
    let space = Space::new().await;
    let mut provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"pathPattern": "${.PVC.namespace}/${.PVC.name}"}})).await;
    space.claim("before", &class, json!({})).await;
    space.bound("before").await;
    let is_made = |name: &str| space.at(name).exists();
    eventually("the leader's own directories", || async { (is_made(TRASH) && is_made(NOTES)).then_some(()) })
        .await;
    let before = all_entries(&space);

    let (status, findings) = examined(&space, &[]);
    assert_eq!((status, unwell(&findings)), (0, vec![]), "{findings:?}");
    for check in ["rights", "finalizers", "leader-lock", "mkdir", "write", "chmod", "rename", "remove", "squash"] {
        assert_eq!(one(&findings, check)["level"], "ok", "{findings:?}");
    }
    let account = format!("system:serviceaccount:{}:provisioner", space.namespace);
    assert!(one(&findings, "api-server")["message"].as_str().unwrap().contains(&account), "{findings:?}");
    assert!(one(&findings, "class")["message"].as_str().unwrap().contains(&class), "{findings:?}");
    let mount = one(&findings, "mount");
    assert!(mount["level"] == "warning" && mount["fix"].as_str().unwrap().contains("NFS_MOUNT_CHECK"), "{mount}");
    assert_eq!(all_entries(&space), before);

    space.claim("after", &class, json!({})).await;
    space.bound("after").await;
    assert!(
        provisioner.is_running() && provisioner.log().matches("leading").count() <= 1,
        "{}",
        provisioner.log()
    );

    let text = run(&space, &[], &[]);
    let lines = String::from_utf8(text.stdout).unwrap();
    assert_eq!(lines.lines().count(), findings.len(), "{lines}");
    for (line, finding) in lines.lines().zip(&findings) {
        let expected =
            format!("{:<8} {}: ", finding["level"].as_str().unwrap(), finding["check"].as_str().unwrap());
        assert!(line.starts_with(&expected), "{line}");
    }
    assert!(text.stderr.is_empty(), "{}", String::from_utf8_lossy(&text.stderr));
}

#[tokio::test]
async fn the_notes_of_volumes_are_checked() {
    let space = Space::new().await;
    let settings = Settings { server: space.own_server(), ..space.settings() };
    let examined = || examined(&space, &[("NFS_SERVER", &*settings.server)]);
    let provisioner = Process::start(&settings);
    let class = space.class("nfs", json!({})).await;
    let unnoted = space.class("unnoted", json!({"parameters": {"recordVolume": "false"}})).await;
    let mut volumes = Vec::new();
    for name in ["one", "two", "three"] {
        space.claim(name, &class, json!({})).await;
        volumes.push(space.bound(name).await);
    }
    space.claim("none", &unnoted, json!({})).await;
    space.bound("none").await;
    let (status, findings) = examined();
    assert_eq!((status, unwell(&findings)), (0, vec![]), "{findings:?}");
    assert_eq!(one(&findings, "notes")["message"], "all 3 volumes have one, and 3 were read");
    let system: Namespace = Api::all(space.client.clone()).get("kube-system").await.unwrap();
    let mark = system.metadata.uid.unwrap();
    assert!(one(&findings, "cluster-mark")["message"].as_str().unwrap().ends_with(&mark), "{findings:?}");

    // Nobody mends them.
    provisioner.stop();
    // One lacks, one is torn, another is a link, and another cluster has the directory of the third.
    let name = |number: usize| volumes[number].metadata.name.clone().unwrap();
    let note = |number: usize| space.at(VOLUME_NOTES).join(&mark).join(name(number));
    let third = fs::read_to_string(note(2)).unwrap();
    fs::remove_file(note(0)).unwrap();
    fs::write(note(1), "{").unwrap();
    fs::remove_file(note(2)).unwrap();
    symlink(note(1), note(2)).unwrap();
    let other = space.at(VOLUME_NOTES).join("another");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("pvc-else"), &third).unwrap();
    let (status, findings) = examined();
    assert_eq!(status, 0, "none of it keeps the provisioner from its work");
    let unwell_now = vec![("notes", "warning"), ("notes", "warning"), ("other-cluster", "warning")];
    assert_eq!(unwell(&findings), unwell_now, "{findings:?}");
    let said = findings.iter().map(|finding| finding["message"].as_str().unwrap()).collect::<Vec<_>>().join("\n");
    for words in [
        format!("1 of 3 volumes have no note on the export, such as [\"{}\"]", name(0)),
        "2 of 2 notes that were read cannot be used".to_owned(),
        format!(
            "the cluster another is at work on the export, too, and has volumes in 1 directories of this cluster's, such as [\"{}\"]",
            Space::directory(&volumes[2])
        ),
    ] {
        assert!(said.contains(&words), "{words}: {said}");
    }

    // It has not been at work for long, or it has given up the directory.
    fs::write(other.join("pvc-else"), third.replacen('{', "{\"released\":\"2026-01-01T00:00:00Z\",", 1)).unwrap();
    assert_eq!(one(&examined().1, "other-cluster")["level"], "ok");
    let old = std::time::SystemTime::now() - Duration::from_hours(2);
    fs::write(other.join("pvc-else"), &third).unwrap();
    fs::File::open(&other).unwrap().set_modified(old).unwrap();
    assert!(examined().1.iter().all(|finding| finding["check"] != "other-cluster"));
    // A directory that is gone gets no note.
    fs::remove_dir(space.at(&Space::directory(&volumes[0]))).unwrap();
    let findings = examined().1;
    let gone = findings
        .iter()
        .any(|finding| finding["message"].as_str().unwrap().contains("1 of them have no directory"));
    assert!(gone, "{findings:?}");
}

#[tokio::test]
async fn each_right_that_is_missing_is_named() {
    let space = Space::on(Plane::shared(), Rules::These(json!([]), json!([]))).await;
    let (status, findings) = examined(&space, &[]);
    assert_eq!(status, 1);
    let rights = one(&findings, "rights")["message"].as_str().unwrap();
    for permission in NEEDED {
        let named = rights.split([',']).any(|named| named.trim().ends_with(&permission.to_string()));
        assert!(named, "{permission} is not in {rights}");
    }
    for check in ["rights", "leader-lock", "classes"] {
        assert_eq!(one(&findings, check)["level"], "failure", "{findings:?}");
    }

    // One verb alone.
    let Rules::These(mut cluster, own) = rules_of_the_peer() else { panic!("rules") };
    cluster[1]["verbs"] = json!(["get", "list", "watch", "create"]);
    let space = Space::on(Plane::shared(), Rules::These(cluster, own)).await;
    let (status, findings) = examined(&space, &[]);
    assert_eq!(status, 1);
    assert_eq!(one(&findings, "rights")["message"], "not allowed to delete persistentvolumes");
}

#[tokio::test]
async fn what_the_peers_rules_lack_is_a_warning() {
    let space = Space::on(Plane::shared(), rules_of_the_peer()).await;
    space.class("nfs", json!({})).await;
    let (status, findings) = examined(&space, &[]);
    let lacking = ["finalizers", "expansion", "leader-lock", "cluster-mark"].map(|check| (check, "warning"));
    assert_eq!((status, unwell(&findings)), (0, lacking.to_vec()));
    assert!(one(&findings, "leader-lock")["message"].as_str().unwrap().contains("an Endpoints object"));
}

#[tokio::test]
async fn wrong_parameters_of_a_class_are_named() {
    let space = Space::new().await;
    let (status, findings) = examined(&space, &[]);
    assert_eq!((status, unwell(&findings)), (0, vec![("classes", "warning")]), "there is no class");
    let wrong = space.class("wrong", json!({"parameters": {"directoryMode": "rwx"}})).await;
    let unknown = space.class("unknown", json!({"parameters": {"onDelet": "delete"}})).await;
    let doubtful = space.class("doubtful", json!({"parameters": {"onDelete": "keep"}})).await;
    let good = space.class("good", json!({})).await;
    let (status, findings) = examined(&space, &[]);
    assert_eq!(status, 1);
    let rows = [
        (good, "ok", "good parameters"),
        (unknown, "warning", "\"onDelet\""),
        (wrong, "failure", "directoryMode is \"rwx\""),
        (doubtful, "warning", "onDelete is \"keep\""),
    ];
    for (class, level, words) in rows {
        let said = findings.iter().any(|finding| {
            let message = finding["message"].as_str().unwrap();
            finding["level"] == level && message.contains(&format!("{class:?}")) && message.contains(words)
        });
        assert!(said, "{class}: {findings:?}");
    }
}

/// A kubeconfig as a test's, for an API server at a port of this machine.
fn kubeconfig_for(space: &Space, port: u16, to: &Path) {
    let text = fs::read_to_string(space.settings().kubeconfig).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["clusters"][0]["cluster"]["server"] = json!(format!("https://127.0.0.1:{port}"));
    fs::write(to, config.to_string()).unwrap();
}

#[tokio::test]
async fn an_api_server_that_is_not_there_or_does_not_answer_is_said_in_time() {
    let space = Space::new().await;
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    // The kernel takes connections; nobody says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for port in [free_port(), silent.local_addr().unwrap().port()] {
        kubeconfig_for(&space, port, &kubeconfig);
        let begun = Instant::now();
        let (status, findings) = examined(&space, &[("KUBECONFIG", kubeconfig.to_str().unwrap())]);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!((status, unwell(&findings)), (1, vec![("api-server", "failure")]));
        assert_eq!(one(&findings, "remove")["level"], "ok", "the export is tried all the same");
    }
}

#[tokio::test]
async fn wrong_settings_are_said_as_at_the_start() {
    let space = Space::new().await;
    let output = run(&space, &[], &[("NFS_PATH", "export"), ("NFS_SERVER", "")]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("NFS_PATH must be an absolute path") && said.contains("NFS_SERVER is not set"),
        "{said}"
    );
    assert!(output.stdout.is_empty());

    let (status, findings) = examined(&space, &[("NFS_MOUNT_PATH", "/no/such/directory")]);
    assert_eq!(status, 1);
    let open = one(&findings, "open");
    assert!(open["message"].as_str().unwrap().contains("/no/such/directory"), "{open}");
}

#[tokio::test]
async fn where_an_nfs_mount_is_asked_for_nothing_is_written_elsewhere() {
    let space = Space::new().await;
    let (status, findings) = examined(&space, &[("NFS_MOUNT_CHECK", "on")]);
    assert_eq!(status, 1);
    assert_eq!(one(&findings, "mount")["level"], "failure");
    assert!(findings.iter().all(|finding| finding["check"] != "mkdir"), "{findings:?}");
}

/// The first block of YAML in a document.
fn yaml_of(document: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
    text.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap().to_owned()
}

/// The Job and the copy of a Pod that docs/operations.md tells of.
#[tokio::test]
async fn the_cluster_takes_what_the_document_says() {
    let space = Space::new().await;
    let dir = tempfile::tempdir().unwrap();
    let apply = |name: &str, text: &str, more: &[&str]| {
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        let apply = ["apply", "--validate=strict", "-f", file.to_str().unwrap()];
        space.plane.kubectl(&[&apply[..], more].concat())
    };
    let applied = apply("job.yaml", &yaml_of("docs/operations.md"), &["--dry-run=server"]);
    assert!(applied.starts_with("job.batch/nfs-doctor created"), "{applied}");

    let deployment = &documents(&Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/base/deployment.yaml"))[0];
    let mut pod = deployment["spec"]["template"].clone();
    let patch = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "crashes", "namespace": space.namespace},
        "spec": {"serviceAccountName": "provisioner"},
    });
    merge(&mut pod, patch);
    pod["spec"]["volumes"][0]["nfs"] = json!({"server": "nas", "path": "/export"});
    apply("pod.json", &pod.to_string(), &[]);
    let own = ["--namespace", &space.namespace];
    let debug = ["debug", "crashes", "--copy-to=nfs-doctor", "--container=nfs-client-provisioner"];
    space.plane.kubectl(&[&debug[..], &own, &["--", "/nfs-provisioner", "doctor"]].concat());
    let copy = space.api::<Pod>().get("nfs-doctor").await.unwrap().spec.unwrap();
    let container = &copy.containers[0];
    assert_eq!(container.command.as_deref().unwrap(), ["/nfs-provisioner", "doctor"]);
    assert_eq!(container.env.as_ref().unwrap()[0].name, "PROVISIONER_NAME");
    assert!(
        container.volume_mounts.as_ref().unwrap().iter().any(|mount| mount.mount_path == "/persistentvolumes")
    );
    assert_eq!(copy.service_account_name.as_deref(), Some("provisioner"));
    space
        .plane
        .kubectl(&[&["delete", "pod", "crashes", "nfs-doctor", "--grace-period=0", "--force"][..], &own].concat());
}

#[tokio::test]
async fn who_has_the_port_for_http_is_found_out() {
    let space = Space::new().await;
    let mut settings = space.settings();
    let address = format!("127.0.0.1:{}", free_port());
    settings.environment.push(("HTTP_ADDR".to_owned(), address.clone()));
    let http = |address: &str| one(&examined(&space, &[("HTTP_ADDR", address)]).1, "http").clone();
    assert!(http(&address)["message"].as_str().unwrap().ends_with("is free"));
    let provisioner = Process::start(&settings);
    eventually("the port", || async { TcpStream::connect(&address).is_ok().then_some(()) }).await;
    let served = http(&address);
    assert!(
        served["level"] == "ok" && served["message"].as_str().unwrap().contains("by a provisioner"),
        "{served}"
    );
    drop(provisioner);
    // Another program, which says nothing.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = http(&other.local_addr().unwrap().to_string());
    assert!(taken["level"] == "warning" && taken["fix"].as_str().unwrap().contains("HTTP_ADDR"), "{taken}");
}
