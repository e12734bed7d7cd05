//! The plugin for kubectl, as `deploy/kubectl-plugin` has it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::node::{Node, PROVISIONER, Told, within};
use crate::support::plane;
use crate::support::space::write_kubeconfig;

pub(crate) fn trials() -> Vec<Trial> {
    crate::trials![a_deleted_claim_comes_back_by_the_plugin_that_asks_the_leader]
}

/// A directory for `PATH` with the plugin, and with the real kubectl under its name, which notes how it was called.
struct Kubectl {
    kubeconfig: PathBuf,
    bin: PathBuf,
}

impl Kubectl {
    /// As an admin.
    fn new(node: &Node) -> Self {
        let bin = node.rig.dir.join("plugin");
        fs::create_dir_all(&bin).unwrap();
        let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubectl-plugin/kubectl-nfs_provisioner");
        fs::copy(plugin, bin.join("kubectl-nfs_provisioner")).unwrap();
        let (binary, log) = (plane::binary(), bin.join("log"));
        let kubectl =
            format!("#!/bin/sh\necho \"$*\" >>'{}'\nexec '{}' kubectl \"$@\"\n", log.display(), binary.display());
        fs::write(bin.join("kubectl"), kubectl).unwrap();
        fs::set_permissions(bin.join("kubectl"), fs::Permissions::from_mode(0o755)).unwrap();
        Self { kubeconfig: node.rig.plane.kubeconfig.clone(), bin }
    }

    /// As somebody with the rights that `docs/install.md` names, and no others.
    fn of_a_user(node: &Node) -> Self {
        let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/install.md")).unwrap();
        let mut blocks = document.split("```yaml\n").filter_map(|part| part.split("```").next());
        let role = blocks.find(|block| block.contains("nfs-provisioner-commands")).expect("the rights");
        apply(node, role);
        node.kubectl(&["create", "serviceaccount", "restorer"]);
        let role = "--role=nfs-provisioner-commands";
        node.kubectl(&["create", "rolebinding", "restorer", role, "--serviceaccount=default:restorer"]);
        let token = node.kubectl(&["create", "token", "restorer"]);
        let admin = Self::new(node);
        let kubeconfig = admin.bin.join("restorer");
        write_kubeconfig(&admin.kubeconfig, token.trim(), &kubeconfig);
        Self { kubeconfig, ..admin }
    }

    fn try_run(&self, arguments: &[&str]) -> Output {
        Command::new(self.bin.join("kubectl"))
            .args(arguments)
            .env("PATH", format!("{}:/usr/bin:/bin", self.bin.display()))
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The Pod that the last command went to.
    fn went_to(&self) -> String {
        let log = fs::read_to_string(self.bin.join("log")).unwrap();
        let last = log.lines().rfind(|line| line.starts_with("exec ")).expect("a call of exec");
        let before = last.split_once(" --container=").expect("a container").0;
        before.rsplit(' ').next().unwrap().to_owned()
    }
}

fn apply(node: &Node, text: &str) {
    let file = node.rig.dir.join("to-apply.yaml");
    fs::write(&file, text).unwrap();
    node.kubectl(&["apply", "-f", file.to_str().unwrap()]);
}

/// The Pod that leads, of these.
fn leader(node: &Node, pods: &[String]) -> Option<String> {
    let holder = node.kubectl(&["get", "leases", "-o", "jsonpath={.items[*].spec.holderIdentity}"]);
    pods.iter().find(|pod| holder.starts_with(&format!("{pod}_"))).cloned()
}

fn scale(node: &Node, replicas: u32) {
    let patch = json!({"spec": {"replicas": replicas, "strategy": {"type": "RollingUpdate"}}}).to_string();
    node.kubectl(&["patch", &format!("deployment/{PROVISIONER}"), "--patch", &patch]);
    node.rolled_out(PROVISIONER);
    within("the other replicas to go", Duration::from_mins(1), || {
        (node.pods(PROVISIONER).len() == replicas as usize).then_some(())
    });
}

/// A Pod that only waits, with the claim `user`.
fn pod() -> String {
    let container = json!({
        "name": "reader", "image": "busybox:stable", "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "command": ["/bin/sh", "-c", "trap exit TERM; while :; do sleep 1; done"],
    });
    let volume = json!({"name": "data", "persistentVolumeClaim": {"claimName": "user"}});
    let spec = json!({"containers": [container], "volumes": [volume]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader"}, "spec": spec}).to_string()
}

async fn a_deleted_claim_comes_back_by_the_plugin_that_asks_the_leader(node: &'static Node) {
    let _told = Told(node);
    let kubectl = Kubectl::new(node);
    scale(node, 2);
    node.apply("user.yaml");
    node.wait("pod/user", "condition=Ready");
    node.run_in("user", "echo precious >/data/precious; sync");
    let volume = node.field("pvc/user", ".spec.volumeName");

    // In the leader, whichever it is; a first one makes way for the other.
    for _ in 0..2 {
        let pods = node.pods(PROVISIONER);
        let leader = within("a leader", Duration::from_mins(1), || leader(node, &pods));
        for name in ["nfs-provisioner", "nfs_provisioner"] {
            let listed: Value = serde_json::from_str(&kubectl.run(&[name, "volumes", "-o", "json"])).unwrap();
            let items = listed["items"].as_array().unwrap();
            let item = items.iter().find(|item| item["claim"] == "user").expect("the volume of the claim");
            assert_eq!((&item["name"], &item["namespace"]), (&json!(volume), &json!("default")));
            assert_eq!(kubectl.went_to(), leader);
        }
        node.kubectl(&["delete", &format!("pod/{leader}")]);
        node.rolled_out(PROVISIONER);
    }

    for claimed in ["pod/user", "pvc/user"] {
        node.kubectl(&["delete", claimed]);
    }
    node.wait(&format!("pv/{volume}"), "delete");
    let user = Kubectl::of_a_user(node);
    let ask = |words: &[&str]| user.try_run(&[&["nfs-provisioner", "-n", "default"], words].concat());
    let told = |output: Output| {
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let all = told(ask(&["archives", "--namespace", "default", "-o", "name"]));
    let archive = all.lines().find(|name| name.contains(&volume)).unwrap_or_else(|| panic!("{volume}: {all}"));
    // The provisioner may make no claims: it says what to apply, as docs/recovery.md has it.
    let said = told(ask(&["archives", "restore", archive]));
    let claim = said.split_once("\n---\n").map_or_else(|| panic!("{said}"), |(_, claim)| claim);
    apply(node, claim);
    node.wait("pvc/user", "jsonpath={.status.phase}=Bound");
    apply(node, &pod());
    node.wait("pod/reader", "condition=Ready");
    assert_eq!(node.run_in("reader", "cat /data/precious"), "precious\n");

    // It ends as the command ends.
    let refused = ask(&["archives", "restore", "no such 'archive'"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("no such 'archive'"), "{refused:?}");
    assert_eq!(ask(&["volumes", "--no-such-flag"]).status.code(), Some(2));
    assert_eq!(Some(user.went_to()), leader(node, &node.pods(PROVISIONER)));

    for claimed in ["pod/reader", "pvc/user"] {
        node.kubectl(&["delete", claimed]);
    }
    scale(node, 1);
}
