//! The plugin for kubectl finds the provisioner's Pod. Everything is as for users but `kubectl exec`, which there is no node
//! for: it tells what it was asked. `tests/e2e/plugin.rs` has the rest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Endpoints, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::plane::{self, Plane};
use crate::support::space::{Rules, Space, create, from_json, merge};

/// What the command in the Pod ends with.
const STATUS: i32 = 42;

const MANIFESTS: &str = "nfs-client-provisioner";

/// A directory for `PATH` with the plugin and a kubectl.
fn bin(space: &Space) -> PathBuf {
    let bin = space.at("bin");
    fs::create_dir_all(&bin).unwrap();
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubectl-plugin/kubectl-nfs_provisioner");
    fs::copy(plugin, bin.join("kubectl-nfs_provisioner")).unwrap();
    let kubectl = format!(
        "#!/bin/sh\nfor word; do [ \"$word\" != exec ] || {{ printf '[%s]\\n' \"$@\"; exit {STATUS}; }}; done\n\
         exec '{}' kubectl \"$@\"\n",
        plane::binary().display()
    );
    fs::write(bin.join("kubectl"), kubectl).unwrap();
    fs::set_permissions(bin.join("kubectl"), fs::Permissions::from_mode(0o755)).unwrap();
    bin
}

/// Runs the plugin as kubectl does.
fn command(space: &Space, arguments: &[&str]) -> Command {
    let bin = bin(space);
    let mut command = Command::new(bin.join("kubectl-nfs_provisioner"));
    command.args(arguments).env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    command.env("KUBECONFIG", &space.plane.kubeconfig);
    command
}

/// What `kubectl exec` was asked.
fn asked(output: &Output) -> Vec<String> {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(STATUS), "{stderr}");
    let words = stdout.strip_prefix('[').and_then(|words| words.strip_suffix("]\n")).expect("words");
    words.split("]\n[").map(ToOwned::to_owned).collect()
}

/// The Pod, and the container in it, that is taken.
fn taken(space: &Space, arguments: &[&str]) -> (String, String) {
    let asked = asked(&command(space, arguments).output().unwrap());
    let at = asked.iter().position(|word| word.starts_with("--container=")).unwrap();
    (asked[at - 1].clone(), asked[at].trim_start_matches("--container=").to_owned())
}

/// How the plugin refuses.
fn refused(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    assert!(output.stdout.is_empty(), "{output:?}");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn running(container: &str, ready: bool) -> Value {
    let state = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    json!({"name": container, "state": state, "ready": ready, "image": "", "imageID": "", "restartCount": 0})
}

fn waiting(container: &str, reason: &str) -> Value {
    let state = json!({"waiting": {"reason": reason}});
    json!({"name": container, "state": state, "ready": false, "image": "", "imageID": "", "restartCount": 7})
}

/// A Pod as of `deploy/`, changed, on no node; its containers are in the given states.
async fn pod(space: &Space, name: &str, patch: Value, states: Vec<Value>) {
    let environment = json!([{"name": "PROVISIONER_NAME", "value": "example.com/nfs"}, {"name": "NFS_PATH"}]);
    let mut object = json!({
        "metadata": {"name": name, "labels": {"app": MANIFESTS}},
        "spec": {
            "schedulerName": "nobody",
            "containers": [{"name": MANIFESTS, "image": "nfs-provisioner:0.1.0", "env": environment}],
        },
    });
    merge(&mut object, patch);
    let (pods, object): (Api<Pod>, Pod) = (space.api(), from_json(object));
    // There may be no ServiceAccount in the namespace yet.
    eventually("the Pod to be made", || async { pods.create(&PostParams::default(), &object).await.ok() }).await;
    let phase = if states.is_empty() { "Pending" } else { "Running" };
    let patch = json!({"status": {"phase": phase, "containerStatuses": states}});
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn ready(space: &Space, name: &str, patch: Value) {
    pod(space, name, patch, vec![running(MANIFESTS, true)]).await;
}

async fn lease(space: &Space, holder: &str) {
    let lease = json!({"metadata": {"name": "example.com-nfs"}, "spec": {"holderIdentity": holder}});
    create(&space.api::<Lease>(), from_json(lease)).await;
}

#[tokio::test]
async fn a_command_reaches_the_program_in_the_pod_as_it_is() {
    let space = Space::new().await;
    ready(&space, "only", json!({})).await;
    let words = ["archives", "restore", "a b", "it's \"so\"", "", "$HOME `id` *", "two\nlines", "--", "-n", "x"];
    let kubeconfig = space.plane.kubeconfig.to_str().unwrap();
    let context = space.plane.kubectl(&["config", "current-context"]);
    let own = [
        &["-n", &space.namespace, "--kubeconfig", kubeconfig, "--context", context.trim()][..],
        &[
            "--context",
            context.trim(),
            &format!("-n{}", space.namespace),
            &format!("--kubeconfig={kubeconfig}"),
            "--",
        ],
    ];
    for own in own {
        let mut tried = command(&space, &[own, &words].concat());
        let asked = asked(&tried.env_remove("KUBECONFIG").output().unwrap());
        let (kubeconfig, context) =
            (format!("--kubeconfig={kubeconfig}"), format!("--context={}", context.trim()));
        let namespace = format!("--namespace={}", space.namespace);
        let container = format!("--container={MANIFESTS}");
        let expected =
            [&kubeconfig, &context, "exec", "--stdin=false", "--tty=false", &namespace, "only", &container];
        assert_eq!(asked, [&expected[..], &["--", "/nfs-provisioner"], &words].concat());
    }

    // On a terminal.
    let plain = command(&space, &[]);
    let line = format!("'{}' -n {} volumes", plain.get_program().to_str().unwrap(), space.namespace);
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    terminal.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let said = String::from_utf8(terminal.output().unwrap().stdout).unwrap();
    assert!(said.contains("[--stdin=true]\r\n[--tty=true]\r\n"), "{said}");
}

#[tokio::test]
async fn of_several_replicas_the_one_that_leads_is_taken() {
    let narrow = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]);
    let space = Space::on(Plane::shared(), Rules::These(json!([]), narrow)).await;
    let long = format!("{}-2", "long".repeat(20));
    let dead = json!({"metadata": {"finalizers": ["example.com/stays"]}});
    pod(&space, "a-waits", json!({}), vec![waiting(MANIFESTS, "CrashLoopBackOff")]).await;
    pod(&space, "b-runs", json!({}), vec![running(MANIFESTS, false)]).await;
    ready(&space, "c-goes", dead).await;
    space.api::<Pod>().delete("c-goes", &DeleteParams::default().grace_period(60)).await.unwrap();
    for name in ["d", "d-2", &long] {
        ready(&space, name, json!({})).await;
    }
    let take = || taken(&space, &["-n", &space.namespace, "volumes"]).0;

    // Nobody leads: one that is ready.
    assert_eq!(take(), "d");
    let leases: Api<Lease> = space.api();
    let host = &long[..63];
    for (holder, pod) in [("d-2_1", "d-2"), ("d_1", "d"), ("b-runs_1", "b-runs"), ("c-goes_1", "d"), ("", "d")] {
        lease(&space, holder).await;
        assert_eq!(take(), pod, "{holder}");
        leases.delete("example.com-nfs", &DeleteParams::default()).await.unwrap();
    }
    lease(&space, &format!("{host}_1")).await;
    assert_eq!(take(), long);

    // Who may not look at Leases gets one that is ready.
    let kubeconfig = space.settings().kubeconfig;
    let with = ["--kubeconfig", kubeconfig.to_str().unwrap(), "-n", &space.namespace, "volumes"];
    assert_eq!(taken(&space, &with).0, "d");
    let (status, said) = refused(&mut command(&space, &[&with[..2], &["volumes"]].concat()));
    assert_eq!(status, Some(1));
    assert!(said.contains("forbidden") && said.contains("name the one of the provisioner with -n"), "{said}");

    // The lock that nfs-subdir-external-provisioner has.
    leases.delete("example.com-nfs", &DeleteParams::default()).await.unwrap();
    let record = json!({"holderIdentity": "d-2_1", "leaseDurationSeconds": 15}).to_string();
    let annotations = json!({"control-plane.alpha.kubernetes.io/leader": record});
    let lock = json!({"metadata": {"name": "example.com-nfs", "annotations": annotations}});
    create(&space.api::<Endpoints>(), from_json(lock)).await;
    assert_eq!(take(), "d-2");
}

#[tokio::test]
async fn the_container_is_the_provisioner_s_whatever_else_is_in_the_pod() {
    let space = Space::new().await;
    let ours = |name: &str| json!({"name": name, "image": "mirror.example.com/ours", "env": [{"name": "PROVISIONER_NAME", "value": "example.com/nfs"}]});
    let other = |name: &str| json!({"name": name, "image": "proxy", "env": [{"name": "MODE", "value": "x"}]});
    let chart = json!({"app": "nfs-subdir-external-provisioner", "release": "nfs"});
    let default = json!({"kubectl.kubernetes.io/default-container": "second"});
    let pods = [
        ("injected", json!({"labels": chart}), vec![other("proxy"), ours("nfs-subdir-external-provisioner")], 1),
        ("unnamed", json!({}), vec![other("first"), other("second")], 0),
        ("annotated", json!({"annotations": default}), vec![other("first"), other("second")], 1),
    ];
    for (name, metadata, containers, expected) in pods {
        let names = containers.iter().map(|container| container["name"].as_str().unwrap().to_owned());
        let names: Vec<String> = names.collect();
        let states = names.iter().enumerate().map(|(number, name)| {
            if number == expected { running(name, true) } else { waiting(name, "ImagePullBackOff") }
        });
        pod(&space, name, json!({"metadata": metadata, "spec": {"containers": containers}}), states.collect())
            .await;
        let found = taken(&space, &["-n", &space.namespace, "volumes"]);
        assert_eq!(found, (name.to_owned(), names[expected].clone()));
        let pods: Api<Pod> = space.api();
        pods.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
}

#[tokio::test]
async fn among_several_provisioners_a_person_chooses() {
    let (space, other) = (Space::new().await, Space::new().await);
    let label = json!({"metadata": {"labels": {"app": space.namespace}}});
    let second = json!([{"name": "c", "image": "mirror/other:1", "env": [{"name": "PROVISIONER_NAME", "value": "second"}]}]);
    let of_second = json!({"metadata": {"labels": {"app": space.namespace}}, "spec": {"containers": second}});
    let selector = format!("app={}", space.namespace);
    ready(&space, "one", label.clone()).await;
    // Without -n, it is found in any namespace.
    assert_eq!(taken(&space, &["-l", &selector, "volumes"]).0, "one");

    ready(&other, "two", label).await;
    pod(&space, "three", of_second, vec![waiting("c", "CrashLoopBackOff")]).await;
    let (status, said) = refused(&mut command(&space, &["-l", &selector, "volumes"]));
    assert_eq!(status, Some(1));
    let (own, others) = (&space.namespace, &other.namespace);
    for line in [
        "there are several provisioners: say which, before the command".to_owned(),
        format!("  -n {own} --pod one   # example.com/nfs, nfs-provisioner:0.1.0, ready"),
        format!("  -n {own} --pod three   # second, mirror/other:1, CrashLoopBackOff"),
        format!("  -n {others} --pod two   # example.com/nfs, nfs-provisioner:0.1.0, ready"),
    ] {
        assert!(said.contains(&line), "{line}: {said}");
    }
    assert_eq!(refused(&mut command(&space, &["-l", &selector, "-n", own, "volumes"])).0, Some(1));
    assert_eq!(taken(&space, &["-l", &selector, "-n", others, "volumes"]).0, "two");
    assert_eq!(taken(&space, &["-n", own, "--pod", "one", "volumes"]).0, "one");
}

#[tokio::test]
async fn the_plugin_says_why_there_is_no_pod_to_ask() {
    let space = Space::new().await;
    let namespace = format!("--namespace={}", space.namespace);
    let refuse = |arguments: &[&str]| refused(&mut command(&space, arguments));
    let (status, said) = refuse(&[&namespace, "volumes"]);
    assert_eq!(status, Some(1));
    assert!(
        said.contains("finds none") && said.contains("not of claims") && said.contains("no replicas"),
        "{said}"
    );

    pod(&space, "waits", json!({}), vec![waiting(MANIFESTS, "CrashLoopBackOff")]).await;
    pod(&space, "unplaced", json!({}), vec![]).await;
    let (status, said) = refuse(&[&namespace, "volumes"]);
    assert_eq!(status, Some(1));
    let logs = format!("kubectl logs -n {} waits -c {MANIFESTS}", space.namespace);
    for words in ["no Pod of the provisioner runs", "CrashLoopBackOff", "Pending", &logs] {
        assert!(said.contains(words), "{words}: {said}");
    }

    // What is asked wrongly asks nobody. Without a command, the program would be a provisioner.
    let wrong: [(&[&str], &str); 8] = [
        (&[], "name a command"),
        (&[&namespace], "name a command"),
        (&["--", "--enable-leader-election=false"], "name a command"),
        (&["-n", "", "volumes"], "-n needs a value"),
        (&["--pod"], "--pod needs a value"),
        (&["-o", "json", "volumes"], "-o is no flag"),
        (&["--sizes", "volumes"], "--sizes is no flag"),
        (&["--export=fast", "volumes"], "--export is no flag"),
    ];
    for (arguments, words) in wrong {
        let (status, said) = refuse(arguments);
        assert!(status == Some(2) && said.contains(words) && said.contains("--help"), "{arguments:?}: {said}");
    }
    let help = command(&space, &["--help"]).output().unwrap();
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("before COMMAND"), "{help:?}");

    let (status, said) = refused(command(&space, &["volumes"]).env("PATH", "/nowhere"));
    assert_eq!(status, Some(1));
    assert!(said.contains("kubectl is not in PATH"), "{said}");
}
