//! Values files of the kind that people have, as their tools write them, rendered by the Helm of today and by Helm 3.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::chart::{CHART, HELMS, PEER, helm_of, one, project, try_rendered_by};
use crate::support::plane::Plane;

/// A value of an object: its kind, where it is, and what is expected there.
type Expected = (&'static str, &'static str, Value);

/// Each file of `tests/chart/values`, and what it must mean.
fn files() -> Vec<(&'static str, Vec<Expected>)> {
    let default = "/metadata/annotations/storageclass.kubernetes.io~1is-default-class";
    let class = |path| ("StorageClass", path);
    let with = |(kind, path), value| (kind, path, value);
    vec![
        (
            "k3s",
            vec![
                with(class(default), json!("true")),
                with(class("/allowVolumeExpansion"), json!(true)),
                with(class("/parameters"), json!({"archiveOnDelete": "True"})),
                ("Deployment", "/spec/replicas", json!(1)),
            ],
        ),
        (
            "flux",
            vec![
                with(class(default), json!("true")),
                with(class("/allowVolumeExpansion"), json!(false)),
                with(class("/mountOptions"), Value::Null),
                with(class("/provisioner"), json!("cluster.local/rel-nfs-subdir-external-provisioner")),
                with(
                    class("/parameters"),
                    json!({
                        "archiveOnDelete": "false", "onDelete": "Retain",
                        "pathPattern": "${.PVC.namespace}/${.PVC.name}",
                    }),
                ),
                (
                    "Deployment",
                    "/spec/template/spec/volumes/0/nfs",
                    json!({"server": "nas.example.com", "path": "/volume1/k8s"}),
                ),
                ("PodDisruptionBudget", "/spec/maxUnavailable", json!(1)),
            ],
        ),
        (
            "argocd",
            vec![
                with(class("/allowVolumeExpansion"), json!(true)),
                with(class("/volumeBindingMode"), json!("WaitForFirstConsumer")),
                with(class("/mountOptions"), json!(["nfsvers=4.1", "hard"])),
                with(class("/parameters"), json!({"archiveOnDelete": "0"})),
                ("PersistentVolume", "/spec/accessModes", json!(["ReadWriteOnce", "ReadWriteMany"])),
                ("PersistentVolumeClaim", "/spec/accessModes", json!(["ReadWriteOnce", "ReadWriteMany"])),
                (
                    "Deployment",
                    "/spec/template/spec/containers/0/env/3",
                    json!({"name": "ENABLE_LEADER_ELECTION", "value": "false"}),
                ),
                (
                    "Deployment",
                    "/spec/template/spec/serviceAccountName",
                    json!("rel-nfs-subdir-external-provisioner"),
                ),
            ],
        ),
        (
            "ansible",
            vec![
                with(class(default), json!("true")),
                with(class("/parameters"), json!({"archiveOnDelete": "False"})),
                with(class("/reclaimPolicy"), Value::Null),
                ("Deployment", "/spec/replicas", json!(1)),
                (
                    "Deployment",
                    "/spec/template/spec/containers/0/image",
                    json!(concat!("nfs-provisioner:", env!("CARGO_PKG_VERSION"))),
                ),
                ("Deployment", "/spec/template/spec/tolerations", Value::Null),
                ("Deployment", "/spec/template/spec/priorityClassName", Value::Null),
            ],
        ),
        (
            "terraform",
            vec![
                ("Deployment", "/spec/replicas", json!(2)),
                with(class("/allowVolumeExpansion"), json!(false)),
                with(
                    class("/parameters"),
                    json!({
                        "archiveOnDelete": "1", "strictPathPattern": "true", "shareAcrossNamespaces": "false",
                        "directoryUid": "1000", "minFreeSpace": "10%", "maxOvercommit": "1.5",
                    }),
                ),
                (
                    "Deployment",
                    "/spec/template/spec/containers/0/image",
                    json!("registry.example.com/nfs-provisioner:7"),
                ),
                ("Deployment", "/spec/template/spec/containers/0/ports/0/containerPort", json!(9090)),
                ("Deployment", "/spec/template/spec/initContainers", Value::Null),
                (
                    "Deployment",
                    "/spec/template/spec/containers/0/env/3",
                    json!({"name": "NFS_MOUNT_CHECK", "value": "on"}),
                ),
                (
                    "Deployment",
                    "/spec/template/spec/containers/0/env/4",
                    json!({"name": "SHARE_ACROSS_NAMESPACES", "value": "true"}),
                ),
                (
                    "Deployment",
                    "/spec/template/spec/containers/0/env/5",
                    json!({"name": "USAGE_CALLS_PER_SECOND", "value": "50"}),
                ),
                ("PodDisruptionBudget", "/spec/maxUnavailable", json!(1)),
                ("NetworkPolicy", "/spec/policyTypes", json!(["Ingress", "Egress"])),
            ],
        ),
        (
            "empty",
            vec![
                with(class("/parameters"), json!({"archiveOnDelete": "1"})),
                with(class("/mountOptions"), Value::Null),
                ("Deployment", "/spec/template/spec/containers/0/image", json!("nfs-provisioner:20240101")),
                ("Deployment", "/spec/template/spec/tolerations", Value::Null),
                ("Deployment", "/spec/template/spec/nodeSelector", Value::Null),
            ],
        ),
        (
            "unset",
            vec![
                with(class("/parameters"), json!({"archiveOnDelete": ""})),
                with(class("/allowVolumeExpansion"), Value::Null),
                ("Deployment", "/spec/replicas", json!(1)),
                ("Deployment", "/spec/template/spec/containers/0/imagePullPolicy", Value::Null),
                ("Deployment", "/spec/template/spec/volumes/0/nfs/server", json!("nas")),
                ("PodDisruptionBudget", "/spec/maxUnavailable", json!(1)),
            ],
        ),
        (
            "not-root",
            vec![
                (
                    "Deployment",
                    "/spec/template/spec/containers/0/securityContext/capabilities",
                    json!({"drop": ["ALL"]}),
                ),
                ("Deployment", "/spec/template/spec/containers/0/securityContext/seccompProfile", Value::Null),
                (
                    "Deployment",
                    "/spec/template/spec/securityContext/seccompProfile",
                    json!({"type": "Localhost", "localhostProfile": "nfs.json"}),
                ),
                (
                    "Deployment",
                    "/spec/template/spec/containers/0/resources",
                    json!({"limits": {"memory": "16Mi"}, "requests": {"cpu": "10m"}}),
                ),
                ("PodDisruptionBudget", "/spec/maxUnavailable", json!(1)),
                with(class(default), Value::Null),
            ],
        ),
        (
            "on-delete-true",
            vec![with(class("/parameters"), json!({"archiveOnDelete": "true", "onDelete": "true"}))],
        ),
        (
            "on-delete-spelled",
            vec![with(class("/parameters"), json!({"archiveOnDelete": "F", "onDelete": "Delete"}))],
        ),
    ]
}

/// Both Helms make the same of each file; the API server takes it; it means what was meant; and the class has the
/// parameters that upstream's chart gives it, which an upgrade cannot change.
#[tokio::test]
async fn values_files_of_every_dialect_are_taken_and_mean_what_they_say() {
    let plane = Plane::shared();
    let dir = tempfile::tempdir().unwrap();
    let mut all: Vec<String> = std::fs::read_dir(project("tests/chart/values"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    all.sort();
    let files = files();
    let mut told: Vec<&str> = files.iter().map(|(file, _)| *file).collect();
    told.sort_unstable();
    assert_eq!(told, all, "each file has a row");
    for (file, expected) in files {
        let values = format!("tests/chart/values/{file}.yaml");
        let [today, of_helm_3] =
            HELMS.map(|helm| try_rendered_by(helm, CHART, &["--values", &values]).expect(file));
        assert_eq!(today, of_helm_3, "{file}");
        for (kind, path, expected) in expected {
            let found = one(&today, kind).pointer(path).unwrap_or(&Value::Null);
            assert_eq!(*found, expected, "{file}: {kind} {path}");
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": today});
        let to_apply = dir.path().join(file);
        std::fs::write(&to_apply, list.to_string()).unwrap();
        let to_apply = to_apply.to_str().unwrap();
        let applied = plane.kubectl(&["apply", "--dry-run=server", "--validate=strict", "--filename", to_apply]);
        assert_eq!(applied.lines().count(), today.len(), "{file}: {applied}");

        let before = try_rendered_by(HELMS[0], PEER, &["--values", &values]).expect(file);
        let (before, after) = (one(&before, "StorageClass"), one(&today, "StorageClass"));
        for field in ["provisioner", "reclaimPolicy", "volumeBindingMode", "mountOptions"] {
            let by_default = match field {
                "reclaimPolicy" => json!("Delete"),
                "volumeBindingMode" => json!("Immediate"),
                _ => Value::Null,
            };
            let of = |class: &Value| {
                let found = class.get(field).cloned().unwrap_or_default();
                if found.is_null() { by_default.clone() } else { found }
            };
            assert_eq!(of(before), of(after), "{file}: {field}");
        }
        for parameter in ["archiveOnDelete", "onDelete", "pathPattern"] {
            let of = |class: &Value| class["parameters"][parameter].clone();
            assert_eq!(of(before), of(after), "{file}: {parameter}");
        }
    }
}

/// What means two things, or nothing, is refused by both Helms in the same words.
#[test]
fn values_that_mean_two_things_or_nothing_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let in_quotes = "in quotes, which the chart of nfs-subdir-external-provisioner took for true";
    let rows = [
        (r#"storageClass: {defaultClass: "false"}"#, vec!["storageClass.defaultClass", in_quotes]),
        (r#"storageClass: {create: "False"}"#, vec!["storageClass.create", in_quotes]),
        (r#"rbac: {create: "false"}"#, vec!["rbac.create", in_quotes]),
        (r#"serviceAccount: {create: "FALSE"}"#, vec!["serviceAccount.create", in_quotes]),
        (r#"podDisruptionBudget: {enabled: "false"}"#, vec!["podDisruptionBudget.enabled", in_quotes]),
        (r#"buildMode: "false""#, vec!["buildMode", in_quotes]),
        (
            "storageClass: {onDelete: Delete}",
            vec!["storageClass.onDelete", "archives directories, nfs-provisioner would remove them"],
        ),
        (
            r#"storageClass: {onDelete: "delete ", archiveOnDelete: null}"#,
            vec!["storageClass.onDelete", "archives directories, nfs-provisioner would remove them"],
        ),
        (
            "storageClass: {onDelete: true, archiveOnDelete: false}",
            vec!["storageClass.onDelete", "removes directories, nfs-provisioner takes it for a mistake"],
        ),
        (r#"storageClass: {onDelete: "keep"}"#, vec!["storageClass.onDelete", "delete, retain or archive"]),
        (r#"storageClass: {archiveOnDelete: "no"}"#, vec!["/storageClass/archiveOnDelete", "one of"]),
        (r#"storageClass: {defaultClass: "yes"}"#, vec!["/storageClass/defaultClass", "one of"]),
        ("storageClass: {accessModes: [RWX]}", vec!["/storageClass/accessModes/0", "one of"]),
        ("nfs: {mountOptions: {nfsvers: 4.1}}", vec!["/nfs/mountOptions"]),
        ("nfs: {mountOptions: [{nfsvers: 4.1}]}", vec!["/nfs/mountOptions/0"]),
        ("nodeSelector: [linux]", vec!["/nodeSelector"]),
        ("image: {tag: 1.10}", vec!["image.tag is the number 1.1", "write it in quotes"]),
        ("http:", vec!["no section http", "--reset-then-reuse-values"]),
        ("exports: [{name: default, server: a, path: /a}]", vec![r#"the name "default" a second time"#]),
        (
            "exports: [{name: fast, server: a, path: /a}, {name: fast, server: b, path: /b}]",
            vec![r#"the name "fast" a second time"#],
        ),
        (
            "{exports: [{name: fast, server: a, path: /a}], storageClass: {export: 'default, slow'}}",
            vec![r#"storageClass.export names "slow", which is none of the exports (default, fast)"#],
        ),
    ];
    // Where the chart makes no class, what it would say does not matter.
    let no_class = ["--set", "nfs.server=nas,storageClass.create=false,storageClass.onDelete=keep"];
    try_rendered_by(HELMS[0], CHART, &no_class).unwrap();
    for (values, words) in rows {
        let file = dir.path().join("values.yaml");
        std::fs::write(&file, values).unwrap();
        for helm in HELMS {
            let error = try_rendered_by(helm, CHART, &["--values", file.to_str().unwrap()]).expect_err(values);
            let said = error.split_once("]: ").unwrap().1;
            for word in &words {
                assert!(said.contains(word), "{helm} {values}: {said}");
            }
        }
    }
}

/// A chart that depends on this one twice calls each by an alias, after which upstream's chart names its objects.
#[test]
fn a_chart_that_is_depended_on_twice_makes_two_installations() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(project(CHART).join("Chart.yaml")).unwrap();
    let about: Value = serde_saphyr::from_str(&text).unwrap();
    let depend = |alias: &str| json!({"name": about["name"], "version": about["version"], "alias": alias});
    let dependencies = [depend("nfs-a"), depend("nfs-b")];
    let chart = json!({"apiVersion": "v2", "name": "both", "version": "1.0.0", "dependencies": dependencies});
    std::fs::write(dir.path().join("Chart.yaml"), chart.to_string()).unwrap();
    std::fs::create_dir(dir.path().join("charts")).unwrap();
    let copied = Command::new("cp").arg("-r").arg(project(CHART)).arg(dir.path().join("charts")).status().unwrap();
    assert!(copied.success());
    let values = ["--set", "nfs-a.nfs.server=a,nfs-b.nfs.server=b,nfs-b.storageClass.name=b"];
    for helm in HELMS {
        let objects = try_rendered_by(helm, dir.path().to_str().unwrap(), &values).unwrap();
        let deployments: Vec<&Value> = objects.iter().filter(|object| object["kind"] == "Deployment").collect();
        assert_eq!(deployments.len(), 2);
        for (deployment, alias) in deployments.iter().zip(["nfs-a", "nfs-b"]) {
            assert_eq!(deployment["metadata"]["name"], format!("rel-{alias}"));
            assert_eq!(deployment["spec"]["selector"], json!({"matchLabels": {"app": alias, "release": "rel"}}));
            let variable = &deployment["spec"]["template"]["spec"]["containers"][0]["env"][0];
            assert_eq!(variable["value"], format!("cluster.local/rel-{alias}"));
        }
    }
}

/// The oldest cluster that is tested is the oldest that the chart takes, with what vendors add to its version.
#[test]
fn clusters_that_are_too_old_are_refused_by_name() {
    for helm in HELMS {
        let on =
            |version: &str| try_rendered_by(helm, CHART, &["--set", "nfs.server=nas", "--kube-version", version]);
        for version in ["v1.30.0", "v1.30.0-eks-a737599", "v1.36.3+k3s1", "v1.40.0"] {
            assert!(on(version).is_ok(), "{helm} {version}");
        }
        let error = on("v1.29.14").unwrap_err();
        assert!(error.contains("kubeVersion: >=1.30.0-0"), "{helm}: {error}");
    }
}

/// What is taken though nobody can have meant it is at least said.
#[test]
fn the_notes_tell_of_an_on_delete_that_neither_program_knows() {
    let dir = tempfile::tempdir().unwrap();
    let notes = |set: &str| {
        let install = ["install", "rel", CHART, "--dry-run=client", "--set", "nfs.server=nas", "--set", set];
        let output = helm_of(HELMS[0], dir.path()).current_dir(project("")).args(install).output().unwrap();
        assert!(output.status.success(), "{set}: {}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        said.split_once("\nNOTES:\n").unwrap().1.to_owned()
    };
    assert!(
        notes("storageClass.onDelete=true").contains("storageClass.onDelete is true, which neither program knows")
    );
    for set in ["storageClass.onDelete=false", "storageClass.onDelete=Retain", "storageClass.onDelete="] {
        assert!(!notes(set).contains("onDelete"), "{set}");
    }
}

/// The Pod that takes finalizers off gets what the Deployment's has, and nothing that is empty.
#[test]
fn the_notes_start_a_pod_with_what_the_deployment_has() {
    let dir = tempfile::tempdir().unwrap();
    let values = dir.path().join("values.yaml");
    for (text, expected) in [
        (r#"{nodeSelector: "", tolerations: "", imagePullSecrets: {}}"#, json!({})),
        (
            "{nodeSelector: {disk: ssd}, imagePullSecrets: [{name: key}]}",
            json!({"nodeSelector": {"disk": "ssd"}, "imagePullSecrets": [{"name": "key"}]}),
        ),
    ] {
        std::fs::write(&values, text).unwrap();
        let set = ["install", "rel", CHART, "--dry-run=client", "--set", "nfs.server=nas", "--values"];
        let mut helm = helm_of(HELMS[0], dir.path());
        let output = helm.current_dir(project("")).args(set).arg(&values).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let given = said.split("--overrides='").nth(1).unwrap().split('\'').next().unwrap();
        let mut spec = serde_json::from_str::<Value>(given).unwrap()["spec"].take();
        let account = spec.as_object_mut().unwrap().remove("serviceAccountName");
        assert_eq!(account, Some(json!("rel-nfs-subdir-external-provisioner")));
        assert_eq!(spec, expected, "{text}");
    }
}

/// Helm 3 installs, upgrades and takes away what the chart makes, on a real API server.
#[tokio::test]
async fn helm_3_installs_the_chart_and_upgrades_it() {
    let plane = Plane::shared();
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = helm_of(HELMS[1], home.path())
            .env("KUBECONFIG", &plane.kubeconfig)
            .current_dir(project(""))
            .args(["--namespace", "chart-helm3", "--kubeconfig"])
            .arg(Path::new(&plane.kubeconfig))
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let values = "nfs.server=nas,storageClass.name=chart-helm3";
    run(&["install", "rel", CHART, "--create-namespace", "--set", values]);
    let values = format!("{values},strategyType=RollingUpdate,replicaCount=2");
    let notes = run(&["upgrade", "rel", CHART, "--set", &values]);
    assert!(notes.contains("REVISION: 2"), "{notes}");
    let replicas = "jsonpath={.items[0].spec.replicas}";
    assert_eq!(plane.kubectl(&["get", "deployments", "--namespace", "chart-helm3", "--output", replicas]), "2");
    run(&["uninstall", "rel"]);
}
