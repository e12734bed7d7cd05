//! `make demo`: the main job, step by step, on a real control plane.
//!
//! A local directory stands in for the NFS export, which is all the provisioner sees of one anyway. With
//! `KUBECONFIG` set it uses that cluster, in a namespace and classes of its own that it removes at the end.

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

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};
use support::eventually;
use support::plane::{Plane, client};
use support::process::{Process, Settings, provisioner};
use support::space::{create, from_json, grant, named, token, write_kubeconfig};

const SERVER: &str = "nfs.demo.invalid";
const PATH: &str = "/export";

#[tokio::main]
async fn main() {
    let keep = std::env::args().any(|argument| argument == "--keep");
    let started = Instant::now();
    println!("nfs-provisioner demo: from claims to directories and back\n");
    let demo = Demo::start().await;
    demo.classes().await;
    let claims = demo.claims().await;
    demo.deletions(&claims).await;
    demo.restore(&claims[0]).await;
    println!("\nThat was it, in {:.0} s.", started.elapsed().as_secs_f64());
    if keep {
        demo.stay().await;
    }
    demo.clean_up().await;
}

/// A claim of the demo: its name, and what it is there for.
struct Claim(&'static str, &'static str);

const CLAIMS: [Claim; 5] = [
    Claim("test-claim", "made by hand"),
    Claim("shared", "used by both replicas of a Deployment"),
    Claim("data-web-0", "of the StatefulSet's first Pod"),
    Claim("data-web-1", "of its second"),
    Claim("data-web-2", "of its third"),
];

struct Demo {
    client: Client,
    /// `None` if the cluster is somebody else's.
    plane: Option<Plane>,
    kubeconfig: PathBuf,
    namespace: String,
    provisioner_name: String,
    dir: tempfile::TempDir,
    settings: Settings,
    _process: Process,
}

impl Demo {
    async fn start() -> Self {
        let given = std::env::var_os("KUBECONFIG").filter(|file| !file.is_empty()).map(PathBuf::from);
        let plane = given.is_none().then(|| {
            println!("Starting a control plane: etcd, API server, controller manager, scheduler …");
            let plane = Plane::start();
            println!(
                "  up in {:.1} s. It has a stand-in for a node: Pods that are scheduled count as running.",
                plane.seconds
            );
            plane
        });
        let kubeconfig = plane.as_ref().map(|plane| plane.kubeconfig.clone()).or(given).expect("one or the other");
        let client = client(&kubeconfig).await;
        let namespace = format!("nfs-demo-{:04x}", std::process::id() % 0x10000);
        create(&Api::all(client.clone()), named::<Namespace>(&namespace)).await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mount = dir.path().join("export");
        fs::create_dir(&mount).expect("a directory");
        let own = if plane.is_some() {
            // Under its own ServiceAccount, with the rights of rbac/ and no others.
            grant(&client, &namespace, support::space::Rules::Ours).await;
            let own = dir.path().join("kubeconfig");
            write_kubeconfig(&kubeconfig, &token(&client, &namespace).await, &own);
            own
        } else {
            kubeconfig.clone()
        };
        let provisioner_name = format!("{namespace}.example.com/nfs");
        println!("Starting the provisioner for {SERVER}:{PATH}, for which {} stands in here.", mount.display());
        let settings = Settings {
            binary: provisioner(),
            kubeconfig: own,
            provisioner: provisioner_name.clone(),
            server: SERVER.to_owned(),
            path: PATH.to_owned(),
            mount,
            namespace: namespace.clone(),
            log: dir.path().join("log"),
            environment: Vec::new(),
        };
        let process = Process::start(&settings);
        Self { client, plane, kubeconfig, namespace, provisioner_name, dir, settings, _process: process }
    }

    fn class(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace)
    }

    async fn classes(&self) {
        println!("\n--- StorageClasses -------------------------------------------------------------------");
        println!("Three that name the provisioner; they differ in what becomes of a deleted claim's directory:");
        let rows = [
            ("archive", json!({"archiveOnDelete": "true"})),
            ("delete", json!({"onDelete": "delete"})),
            ("retain", json!({"onDelete": "retain", "pathPattern": "${.PVC.namespace}/${.PVC.name}"})),
        ];
        for (name, parameters) in rows {
            let name = self.class(name);
            println!("  {name:<24} {parameters}");
            let class = json!({"metadata": {"name": name}, "provisioner": self.provisioner_name, "parameters": parameters});
            create::<StorageClass>(&Api::all(self.client.clone()), from_json(class)).await;
        }
    }

    /// Makes the claims and those who use them, and shows how they become Bound.
    async fn claims(&self) -> Vec<(PersistentVolume, String)> {
        println!("\n--- Claims ---------------------------------------------------------------------------");
        println!("A claim, a Deployment of two that share one, and a StatefulSet of three with one each:");
        let start = Instant::now();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &self.namespace);
        for (name, class) in [("test-claim", "archive"), ("shared", "delete")] {
            let spec = claim_spec(&self.class(class));
            create(&claims, from_json(json!({"metadata": {"name": name}, "spec": spec}))).await;
        }
        self.workloads().await;
        let mut bound = Vec::new();
        for Claim(name, purpose) in CLAIMS {
            let volume = self.bound(&claims, name).await;
            println!("  {name:<12} Bound {:5.2} s after the start  ({purpose})", start.elapsed().as_secs_f64());
            let path =
                volume.spec.as_ref().and_then(|spec| spec.nfs.as_ref()).expect("an NFS volume").path.clone();
            let directory = path.strip_prefix(&format!("{PATH}/")).expect("beneath the export").to_owned();
            // What a Pod would do.
            fs::write(self.export().join(&directory).join("hello.txt"), name).expect("a file");
            bound.push((volume, directory));
        }
        println!("\nEach got a directory on the export, named <namespace>-<claim>-<volume> or as the class's");
        println!(
            "pathPattern says, and a PersistentVolume that points at it. Here is the export, after a file was"
        );
        println!("written into each, as a Pod would do:");
        self.tree();
        bound
    }

    async fn workloads(&self) {
        let template = |volumes: Value| {
            json!({
                "metadata": {"labels": {"app": "demo"}},
                "spec": {
                    "containers": [{"name": "main", "image": "nginx", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
                    "volumes": volumes,
                },
            })
        };
        let selector = json!({"matchLabels": {"app": "demo"}});
        let shared = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "shared"}}]);
        let deployment = json!({
            "metadata": {"name": "shared"},
            "spec": {"replicas": 2, "selector": selector, "template": template(shared)},
        });
        let set = json!({
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 3, "serviceName": "web", "selector": selector, "template": template(json!([])),
                // On somebody's cluster no Pod gets ready: nobody can mount our stand-in.
                "podManagementPolicy": if self.plane.is_some() { "OrderedReady" } else { "Parallel" },
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim_spec(&self.class("retain"))}],
            },
        });
        create::<Deployment>(&Api::namespaced(self.client.clone(), &self.namespace), from_json(deployment)).await;
        create::<StatefulSet>(&Api::namespaced(self.client.clone(), &self.namespace), from_json(set)).await;
    }

    async fn bound(&self, claims: &Api<PersistentVolumeClaim>, name: &str) -> PersistentVolume {
        let volume = eventually(&format!("claim {name} to be Bound"), || async {
            let claim = claims.get_opt(name).await.ok()??;
            let bound = claim.status?.phase? == "Bound";
            claim.spec?.volume_name.filter(|_| bound)
        })
        .await;
        Api::all(self.client.clone()).get(&volume).await.expect("the volume of a Bound claim")
    }

    /// Deletes everything that uses claims, and then the claims, one class after the other.
    async fn deletions(&self, claims: &[(PersistentVolume, String)]) {
        println!("\n--- Deletion -------------------------------------------------------------------------");
        println!("Deployment and StatefulSet are deleted, and then the claims, one class after the other:");
        let params = DeleteParams::foreground();
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.namespace);
        let sets: Api<StatefulSet> = Api::namespaced(self.client.clone(), &self.namespace);
        deployments.delete("shared", &params).await.expect("a Deployment to delete");
        sets.delete("web", &params).await.expect("a StatefulSet to delete");
        for (title, names) in [
            ("archive: the directory of test-claim is renamed, its data stays on the export", &CLAIMS[..1]),
            ("delete: the directory of shared is removed with all that is in it", &CLAIMS[1..2]),
            (
                "retain: the directories of the StatefulSet stay, and a new claim of the same name finds them",
                &CLAIMS[2..],
            ),
        ] {
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &self.namespace);
            for Claim(name, _) in names {
                api.delete(name, &DeleteParams::default()).await.expect("a claim to delete");
            }
            for (Claim(name, _), (volume, _)) in CLAIMS.iter().zip(claims) {
                if names.iter().any(|deleted| deleted.0 == *name) {
                    self.gone(volume.metadata.name.as_deref().expect("a name")).await;
                }
            }
            println!("{title}:");
            self.tree();
        }
        println!(
            "\nThe volumes are gone. With reclaimPolicy Retain on the class they would have stayed, untouched."
        );
    }

    /// Brings the archive of a claim back.
    async fn restore(&self, (_, directory): &(PersistentVolume, String)) {
        println!("\n--- Restore --------------------------------------------------------------------------");
        println!("The archive's note tells whose it was. It becomes a volume with that claim again:\n");
        self.command(&["archives", "--namespace", &self.namespace]);
        self.command(&["archives", "restore", &format!("archived-{directory}")]);
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &self.namespace);
        self.bound(&claims, CLAIMS[0].0).await;
        let found =
            fs::read_to_string(self.export().join(directory).join("hello.txt")).expect("the file of before");
        println!("\nThe claim {} is Bound, and its file still says {found:?}.", CLAIMS[0].0);
    }

    /// Runs a command of the program as an admin would, and shows what it says.
    fn command(&self, arguments: &[&str]) {
        println!("  $ nfs-provisioner {}", arguments.join(" "));
        let mut command = Settings { kubeconfig: self.kubeconfig.clone(), ..self.settings.clone() }.command();
        let output = command.args(arguments).output().expect("the program runs");
        for line in String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).lines() {
            println!("  {line}");
        }
        assert!(output.status.success(), "it has failed");
    }

    async fn gone(&self, volume: &str) {
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        eventually(&format!("volume {volume} to go"), || async {
            volumes.get_opt(volume).await.ok()?.is_none().then_some(())
        })
        .await;
    }

    fn export(&self) -> PathBuf {
        self.dir.path().join("export")
    }

    fn tree(&self) {
        println!("  {SERVER}:{PATH}");
        print_tree(&self.export(), 2);
    }

    async fn stay(&self) {
        println!("\nIt stays up until you press Ctrl-C. In another terminal:\n");
        println!("  export KUBECONFIG={}", self.kubeconfig.display());
        if self.plane.is_some() {
            println!("  {} kubectl get storageclass,pvc,pv -A", support::plane::binary().display());
        }
        println!("\nThe classes {0}-archive, {0}-delete and {0}-retain are there to play with;", self.namespace);
        println!(
            "the export is {}, the provisioner's log {}.",
            self.export().display(),
            self.dir.path().join("log").display()
        );
        tokio::signal::ctrl_c().await.expect("a signal");
        println!();
    }

    /// Somebody else's cluster is left as it was found; ours goes with the process.
    async fn clean_up(self) {
        if self.plane.is_some() {
            return;
        }
        for name in ["archive", "delete", "retain"] {
            let classes: Api<StorageClass> = Api::all(self.client.clone());
            let _ = classes.delete(&self.class(name), &DeleteParams::default()).await;
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let _ = namespaces.delete(&self.namespace, &DeleteParams::default()).await;
        println!("Removed the namespace {} and its classes.", self.namespace);
    }
}

fn claim_spec(class: &str) -> Value {
    json!({
        "storageClassName": class, "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "100Mi"}},
    })
}

fn print_tree(dir: &Path, depth: usize) {
    let mut entries: Vec<_> =
        fs::read_dir(dir).expect("a directory").flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for entry in entries {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        println!("  {:width$}{name}{}", "", if entry.is_dir() { "/" } else { "" }, width = depth);
        if entry.is_dir() {
            print_tree(&entry, depth + 2);
        }
    }
}
