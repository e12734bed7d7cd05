//! Overlays on `deploy/`: one patch names the export everywhere, and an export that nobody named is never used.

use std::fs;
use std::path::Path;
use std::process::Command;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::chart::{define_monitoring, one};
use crate::openshift::define_constraints;
use crate::support::deploy::{self, UNSET_PATH};
use crate::support::plane::Plane;
use crate::support::space::{create, documents, named};

/// A directory with the project's `deploy/` and `rbac/`, and beside them an overlay.
struct Overlay {
    plane: &'static Plane,
    dir: TempDir,
}

impl Overlay {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        deploy::copied(dir.path());
        fs::create_dir(dir.path().join("overlay")).unwrap();
        Self { plane: Plane::shared(), dir }
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.dir.path().join(file), text).unwrap();
    }

    fn at(&self, path: &str) -> String {
        self.dir.path().join(path).to_str().unwrap().to_owned()
    }

    /// What the overlay is built to.
    fn built(&self) -> Vec<Value> {
        self.build("overlay")
    }

    fn build(&self, directory: &str) -> Vec<Value> {
        let text = self.plane.kubectl(&["kustomize", &self.at(directory)]);
        let file = self.dir.path().join("built.yaml");
        fs::write(&file, text).unwrap();
        documents(&file)
    }

    /// Makes a Git repository of the base, so that it can be named by an address.
    fn publish(&self) -> String {
        let git = |arguments: &[&str]| {
            let identity = ["-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "commit.gpgsign=false"];
            let status =
                Command::new("git").arg("-C").arg(self.dir.path()).args(identity).args(arguments).status();
            assert!(status.unwrap().success(), "{arguments:?}");
        };
        git(&["init", "--quiet", "--initial-branch=main"]);
        git(&["add", "deploy", "rbac"]);
        git(&["commit", "--quiet", "--message=base"]);
        format!("file://{}//", self.dir.path().display())
    }
}

/// The server and the path that a Deployment works with, which are the same in both places.
fn export_of(objects: &[Value]) -> (String, String) {
    let pod = &one(objects, "Deployment")["spec"]["template"]["spec"];
    let variables = pod["containers"][0]["env"].as_array().unwrap();
    let value = |name: &str| {
        let found: Vec<_> = variables.iter().filter(|variable| variable["name"] == name).collect();
        assert_eq!(found.len(), 1, "{name}");
        found[0]["value"].as_str().unwrap().to_owned()
    };
    let found = (value("NFS_SERVER"), value("NFS_PATH"));
    assert_eq!(pod["volumes"][0]["nfs"], json!({"server": found.0, "path": found.1}));
    assert_eq!(pod["volumes"].as_array().unwrap().len(), 1);
    found
}

fn export(server: &str, path: &str) -> (String, String) {
    (server.to_owned(), path.to_owned())
}

#[test]
fn one_patch_in_an_overlay_sets_server_and_path_everywhere() {
    let overlay = Overlay::new();
    let address = overlay.publish();
    overlay.write("overlay/export.yaml", &deploy::export("nas.example.com", "/volume1/k8s"));
    let image = "images: [{name: nfs-provisioner, newName: registry.example.com/nfs-provisioner, newTag: v1}]";
    let remote = |path: &str| format!("{address}{path}?ref=main");
    for (base, components) in [
        ("../deploy".to_owned(), vec![]),
        ("../deploy/base".to_owned(), vec!["../deploy/components/class".to_owned()]),
        (remote("deploy"), vec![]),
        (remote("deploy/base"), vec![remote("deploy/components/class")]),
    ] {
        let kustomization = format!(
            "namespace: nfs\nresources: [{base:?}]\ncomponents: {components:?}\npatches: [{{path: export.yaml}}]\n{image}\n"
        );
        overlay.write("overlay/kustomization.yaml", &kustomization);
        let built = overlay.built();
        assert_eq!(export_of(&built), export("nas.example.com", "/volume1/k8s"), "{base}");
        assert_eq!(
            one(&built, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"],
            "registry.example.com/nfs-provisioner:v1"
        );
        assert_eq!(one(&built, "StorageClass")["metadata"]["name"], "nfs-client");
        for kind in ["ClusterRoleBinding", "RoleBinding"] {
            assert_eq!(one(&built, kind)["subjects"][0]["namespace"], "nfs", "{base}");
        }
    }

    // Over a base that names an export already, and over an overlay.
    overlay.write("deploy/export.yaml", &deploy::export("first", "/first"));
    for (at, base, server) in [("second", "../deploy", "second"), ("overlay", "../second", "third")] {
        fs::create_dir_all(overlay.dir.path().join(at)).unwrap();
        overlay.write(&format!("{at}/export.yaml"), &deploy::export(server, &format!("/{server}")));
        let kustomization = format!("resources: [{base}]\npatches: [{{path: export.yaml}}]\n");
        overlay.write(&format!("{at}/kustomization.yaml"), &kustomization);
        let built = overlay.build(at);
        assert_eq!(export_of(&built), export(server, &format!("/{server}")));
        assert!(!json!(built).to_string().contains("first"), "{built:?}");
    }
}

/// The API server refuses the Deployment, and says where the export is to be named.
#[tokio::test]
async fn an_export_that_nobody_named_is_refused() {
    let overlay = Overlay::new();
    let namespace = "kustomize-unset";
    create(&Api::all(overlay.plane.client().await), named::<Namespace>(namespace)).await;
    let unset = fs::read_to_string(overlay.dir.path().join("deploy/export.yaml")).unwrap();
    let only_server = unset.replace("&server \"\"", "&server nas");
    let only_path = unset.replace(UNSET_PATH, "&path /export");
    let no_server = "volumes[0].nfs.server: Required value";
    let no_path = "\"not set: see export.yaml\": must be an absolute path";
    let config_map =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: nfs-export}\ndata: {server: nas, path: /export}\n";
    overlay.write("overlay/config-map.yaml", config_map);
    let patches = "patches: [{path: export.yaml}]";
    for (base, text, more, refused) in [
        ("deploy", &unset, patches, vec![no_server, no_path]),
        ("deploy", &only_server, patches, vec![no_path]),
        ("deploy", &only_path, patches, vec![no_server]),
        ("deploy", &unset, "", vec![no_server, no_path]),
        ("deploy/base", &unset, "", vec![no_server, no_path]),
        // What was the place to edit once.
        (
            "deploy",
            &unset,
            "patches: [{path: config-map.yaml, target: {kind: ConfigMap}}]",
            vec![no_server, no_path],
        ),
    ] {
        overlay.write("overlay/export.yaml", text);
        let kustomization = format!("namespace: {namespace}\nresources: [../{base}]\n{more}\n");
        overlay.write("overlay/kustomization.yaml", &kustomization);
        let apply = ["apply", "--dry-run=server", "--kustomize", &overlay.at("overlay")];
        let error = overlay.plane.try_kubectl(&apply).expect_err(base);
        for words in refused {
            assert!(error.contains(words), "{base} {more}: {error}");
        }
    }
    overlay.write("overlay/kustomization.yaml", "resources: [../deploy]\npatches: [{path: config-map.yaml}]\n");
    let error = overlay.plane.try_kubectl(&["kustomize", &overlay.at("overlay")]).unwrap_err();
    assert!(error.contains("nfs-export"), "{error}");
}

/// Of the shape that upstream's README tells of, in the words of then and of now.
#[tokio::test]
async fn the_overlay_that_upstreams_readme_tells_of_still_works() {
    let overlay = Overlay::new();
    create(&Api::all(overlay.plane.client().await), named::<Namespace>("kustomize-overlay")).await;
    overlay.write("overlay/namespace.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: any}\n");
    overlay.write(
        "overlay/patch_nfs_details.yaml",
        "apiVersion: apps/v1
kind: Deployment
metadata:
  name: nfs-client-provisioner
  labels: {app: nfs-client-provisioner}
spec:
  template:
    spec:
      containers:
        - name: nfs-client-provisioner
          env:
            - {name: NFS_SERVER, value: 192.0.2.7}
            - {name: NFS_PATH, value: /share}
      volumes:
        - name: nfs-client-root
          nfs: {server: 192.0.2.7, path: /share}
",
    );
    let class = "- target: {kind: StorageClass, name: nfs-client}
  patch: |-
    - {op: replace, path: /metadata/name, value: kustomize-overlay}
";
    for kustomization in [
        "bases: [../deploy]\nresources: [namespace.yaml]\npatchesStrategicMerge: [patch_nfs_details.yaml]\npatches:\n",
        "resources: [../deploy, namespace.yaml]\npatches:\n- path: patch_nfs_details.yaml\n",
    ] {
        overlay
            .write("overlay/kustomization.yaml", &format!("namespace: kustomize-overlay\n{kustomization}{class}"));
        let built = overlay.built();
        assert_eq!(export_of(&built), export("192.0.2.7", "/share"));
        assert_eq!(one(&built, "Namespace")["metadata"]["name"], "kustomize-overlay");
        assert_eq!(one(&built, "StorageClass")["metadata"]["name"], "kustomize-overlay");
        let apply = ["apply", "--dry-run=server", "--validate=strict", "--kustomize", &overlay.at("overlay")];
        overlay.plane.kubectl(&apply);
    }
}

/// What each component adds to the base, and that the API server takes it.
#[tokio::test]
async fn components_can_be_had_one_by_one_and_all_together() {
    let overlay = Overlay::new();
    let namespace = "kustomize-parts";
    create(&Api::all(overlay.plane.client().await), named::<Namespace>(namespace)).await;
    define_constraints();
    define_monitoring();
    overlay.write("overlay/export.yaml", &deploy::export("nas", "/export"));
    let with = |components: &[&str]| {
        let listed: Vec<String> = components.iter().map(|name| format!("../deploy/components/{name}")).collect();
        let kustomization = format!(
            "namespace: {namespace}\nresources: [../deploy/base]\ncomponents: {listed:?}\npatches: [{{path: export.yaml}}]\n"
        );
        overlay.write("overlay/kustomization.yaml", &kustomization);
        let apply = ["apply", "--dry-run=server", "--validate=strict", "--kustomize", &overlay.at("overlay")];
        overlay.plane.kubectl(&apply);
        let built = overlay.built();
        assert_eq!(export_of(&built), export("nas", "/export"), "{components:?}");
        for object in &built {
            let of = &object["metadata"]["namespace"];
            assert!(of.is_null() || of == namespace, "{object}");
        }
        built
    };
    let kinds = |objects: &[Value]| -> Vec<String> {
        let mut kinds: Vec<String> =
            objects.iter().map(|object| object["kind"].as_str().unwrap().to_owned()).collect();
        kinds.sort();
        kinds
    };
    let base = kinds(&with(&[]));
    assert_eq!(base, ["ClusterRole", "ClusterRoleBinding", "Deployment", "Role", "RoleBinding", "ServiceAccount"]);
    let parts = [
        ("class", &["StorageClass"][..]),
        ("monitoring", &["PodMonitor", "PrometheusRule"]),
        ("high-availability", &["PodDisruptionBudget"]),
        ("openshift", &["ClusterRole", "RoleBinding", "SecurityContextConstraints"]),
    ];
    let listed = fs::read_to_string(overlay.dir.path().join("deploy/kustomization.yaml")).unwrap();
    let mut all = base.clone();
    for (component, adds) in parts {
        let mut expected = [&base[..], &adds.iter().map(|kind| (*kind).to_owned()).collect::<Vec<_>>()].concat();
        expected.sort();
        assert_eq!(kinds(&with(&[component])), expected, "{component}");
        assert!(listed.contains(&format!("- components/{component}\n")), "{component}");
        all.extend(adds.iter().map(|kind| (*kind).to_owned()));
    }
    all.sort();
    let built = with(&parts.map(|(component, _)| component));
    assert_eq!(kinds(&built), all);
    let deployment = one(&built, "Deployment");
    assert_eq!(
        (&deployment["spec"]["replicas"], &deployment["spec"]["strategy"]["type"]),
        (&json!(2), &json!("RollingUpdate"))
    );
    assert_eq!(one(&built, "PodDisruptionBudget")["spec"]["selector"], deployment["spec"]["selector"]);
    assert_eq!(
        deployment["spec"]["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"],
        deployment["spec"]["selector"]
    );
    let components = fs::read_dir(overlay.dir.path().join("deploy/components")).unwrap().count();
    assert_eq!(components, parts.len(), "each component has a row");
}

/// What names an object or chooses Pods by labels follows when an overlay changes these.
#[test]
fn an_overlay_that_changes_names_and_labels_changes_them_wherever_they_are_named() {
    let overlay = Overlay::new();
    overlay.write("overlay/export.yaml", &deploy::export("nas", "/export"));
    let components = ["class", "monitoring", "high-availability", "openshift"]
        .map(|component| format!("../deploy/components/{component}"));
    let kustomization = format!(
        "namePrefix: b-\nnameSuffix: '-2'\nnamespace: nfs\ncommonLabels: {{app: other}}\nresources: [../deploy/base]\n\
         components: {components:?}\npatches: [{{path: export.yaml}}]\n"
    );
    overlay.write("overlay/kustomization.yaml", &kustomization);
    let built = overlay.built();
    let account = json!([{"kind": "ServiceAccount", "name": "b-nfs-client-provisioner-2", "namespace": "nfs"}]);
    for binding in built.iter().filter(|object| !object["subjects"].is_null()) {
        assert_eq!(binding["subjects"], account, "{binding}");
    }
    let deployment = one(&built, "Deployment");
    let constraints = &one(&built, "SecurityContextConstraints")["metadata"]["name"];
    assert_eq!(constraints, "b-nfs-client-provisioner-2");
    let asked = &deployment["spec"]["template"]["metadata"]["annotations"]["openshift.io/required-scc"];
    assert_eq!(asked, constraints);
    let used = built.iter().find(|object| object["rules"][0]["verbs"] == json!(["use"])).unwrap();
    assert_eq!(used["rules"][0]["resourceNames"], json!([constraints]));
    for kind in ["PodMonitor", "PodDisruptionBudget"] {
        assert_eq!(one(&built, kind)["spec"]["selector"], deployment["spec"]["selector"], "{kind}");
    }
    assert_eq!(deployment["spec"]["selector"], json!({"matchLabels": {"app": "other"}}));
}

/// The overlay for a second installation, as `docs/install.md` has it, has nothing in common with the first.
#[test]
fn the_second_installation_of_the_documents_shares_nothing_with_the_first() {
    let overlay = Overlay::new();
    overlay.write("overlay/export.yaml", &deploy::export("nas", "/export"));
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/install.md")).unwrap();
    let section = text.split("## Two installations").nth(1).unwrap();
    let example = section.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    overlay.write("overlay/kustomization.yaml", &example.replace("- deploy/", "- ../deploy/"));
    let (first, second) = (overlay.build("deploy"), overlay.built());
    assert_eq!(first.len(), second.len());
    let key = |object: &Value| {
        let about = &object["metadata"];
        json!([object["kind"], about["namespace"], about["name"]])
    };
    for object in &second {
        assert!(first.iter().all(|other| key(other) != key(object)), "{object}");
        let subjects = object["subjects"].as_array().cloned().unwrap_or_default();
        assert!(subjects.iter().all(|subject| subject["namespace"] == "nfs-2"), "{object}");
        assert!(subjects.iter().all(|subject| subject["name"] == "nfs-client-provisioner-2"), "{object}");
    }
    let name = |objects: &[Value]| {
        let class = one(objects, "StorageClass")["provisioner"].clone();
        let pod = &one(objects, "Deployment")["spec"]["template"]["spec"];
        let named = json!({"name": "PROVISIONER_NAME", "value": class});
        assert!(pod["containers"][0]["env"].as_array().unwrap().contains(&named), "{pod}");
        class
    };
    assert_ne!(name(&first), name(&second));
}

/// High availability can be taken away again: `Recreate` must not have what `RollingUpdate` leaves.
#[tokio::test]
async fn high_availability_comes_and_goes() {
    let overlay = Overlay::new();
    let namespace = "kustomize-available";
    create(&Api::all(overlay.plane.client().await), named::<Namespace>(namespace)).await;
    overlay.write("overlay/export.yaml", &deploy::export("nas", "/export"));
    for (components, expected) in [
        ("[]", "1 Recreate"),
        ("[../deploy/components/high-availability]", "2 RollingUpdate"),
        ("[]", "1 Recreate"),
    ] {
        let kustomization = format!(
            "namespace: {namespace}\nresources: [../deploy/base]\ncomponents: {components}\npatches: [{{path: export.yaml}}]\n"
        );
        overlay.write("overlay/kustomization.yaml", &kustomization);
        // The roles are those of other tests, too.
        let deployment = one(&overlay.built(), "Deployment").to_string();
        let file = Path::new(&overlay.at("overlay")).join("deployment.json");
        fs::write(&file, deployment).unwrap();
        overlay.plane.kubectl(&["apply", "--filename", file.to_str().unwrap()]);
        let found = overlay.plane.kubectl(&[
            "get",
            "deployment/nfs-client-provisioner",
            "--namespace",
            namespace,
            "--output=jsonpath={.spec.replicas} {.spec.strategy.type}",
        ]);
        assert_eq!(found, expected);
    }
    overlay.plane.kubectl(&["delete", "deployment/nfs-client-provisioner", "--namespace", namespace]);
}
