//! The Helm chart: what it renders, what it refuses, and what becomes of a release of upstream's chart.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Once;

use clap::CommandFactory;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Probe};
use k8s_openapi::api::rbac::v1::PolicyRule;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, PostParams};
use nfs_provisioner::config::Args;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::manifests::as_deployed;
use crate::support::eventually;
use crate::support::plane::Plane;
use crate::support::process::Process;
use crate::support::space::{create, documents, from_json, rules_of_rbac};

/// Helm with a home of its own, in a namespace.
struct Helm {
    plane: &'static Plane,
    namespace: String,
    dir: TempDir,
}

impl Helm {
    async fn new(namespace: &str) -> Self {
        let plane = Plane::shared();
        let labels =
            json!({"metadata": {"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
        create::<Namespace>(&Api::all(plane.client().await), from_json(labels)).await;
        Self { plane, namespace: namespace.to_owned(), dir: tempfile::tempdir().unwrap() }
    }

    fn try_run(&self, arguments: &[&str]) -> Output {
        helm(self.dir.path())
            .env("KUBECONFIG", &self.plane.kubeconfig)
            .args(["--namespace", &self.namespace])
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Panics if it fails.
    fn run(&self, arguments: &[&str]) -> String {
        said(arguments, self.try_run(arguments)).unwrap()
    }

    /// The release's only Deployment.
    async fn deployment(&self) -> Deployment {
        let deployments: Api<Deployment> = Api::namespaced(self.plane.client().await, &self.namespace);
        let mut found = deployments.list(&Default::default()).await.unwrap().items;
        assert_eq!(found.len(), 1);
        found.remove(0)
    }
}

/// The Helm of today, and Helm 3, which Flux, Argo CD and k3s use.
pub(crate) const HELMS: [&str; 2] = ["helm", "helm3"];

fn helm(home: &Path) -> Command {
    helm_of(HELMS[0], home)
}

pub(crate) fn helm_of(program: &str, home: &Path) -> Command {
    let binary = project("target/tools").join(program);
    assert!(binary.exists(), "{} is missing: run `make tools`", binary.display());
    let mut command = Command::new(binary);
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, home);
    }
    command
}

fn said(arguments: &[&str], output: Output) -> Result<String, String> {
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout).unwrap());
    }
    Err(format!("helm {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))
}

pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What the chart renders with these arguments, which need not name a server.
fn try_rendered(arguments: &[&str]) -> Result<Vec<Value>, String> {
    try_rendered_by(
        HELMS[0],
        CHART,
        &[&["--namespace", "somewhere", "--set", "nfs.server=nas"], arguments].concat(),
    )
}

/// What a chart renders with these arguments, by one of [`HELMS`].
pub(crate) fn try_rendered_by(program: &str, chart: &str, arguments: &[&str]) -> Result<Vec<Value>, String> {
    let home = tempfile::tempdir().unwrap();
    let all = [&["template", "rel", chart], arguments].concat();
    let output = helm_of(program, home.path()).current_dir(project("")).args(&all).output().unwrap();
    let text = said(&all, output)?;
    let file = home.path().join("rendered.yaml");
    std::fs::write(&file, text.strip_prefix("---").unwrap()).unwrap();
    Ok(documents(&file).into_iter().filter(|object| !object.is_null()).collect())
}

fn rendered(arguments: &[&str]) -> Vec<Value> {
    try_rendered(arguments).unwrap()
}

pub(crate) fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects
        .iter()
        .filter(|object| object["kind"] == kind && object["metadata"]["annotations"]["helm.sh/hook"].is_null());
    let first = found.next().unwrap_or_else(|| panic!("there is no {kind}"));
    assert!(found.next().is_none(), "there are two of {kind}");
    first
}

pub(crate) const CHART: &str = "deploy/helm/nfs-provisioner";
/// A second export.
const FAST: &str = "exports[0].name=fast,exports[0].server=nas2,exports[0].path=/fast";
const FAST_IN_CLASS: &str =
    "exports[0].name=fast,exports[0].server=nas2,exports[0].path=/fast,storageClass.export=fast";
const FAST_WITH_OPTIONS: &str =
    "exports[0].name=fast,exports[0].server=nas2,exports[0].path=/fast,exports[0].mountOptions={hard}";
/// A name whose export's is too long for a label.
const LONG: &str = "fullnameOverride=a-name-that-is-so-long-that-no-label-may-be-as-long-as-this-is,\
    exports[0].name=fast,exports[0].server=nas2,exports[0].path=/fast,exports[0].mountOptions={hard}";
pub(crate) const PEER: &str = "tests/chart/peer";

/// Defines the kinds of the Prometheus operator on the shared control plane; what is in them is not looked at here.
pub(crate) fn define_monitoring() {
    static DEFINED: Once = Once::new();
    DEFINED.call_once(|| {
        let dir = tempfile::tempdir().unwrap();
        define(Plane::shared(), dir.path());
    });
}

fn define(plane: &Plane, dir: &Path) {
    for (kind, plural) in [
        ("PodMonitor", "podmonitors"),
        ("ServiceMonitor", "servicemonitors"),
        ("PrometheusRule", "prometheusrules"),
    ] {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.monitoring.coreos.com")},
            "spec": {
                "group": "monitoring.coreos.com", "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
            },
        });
        let file = dir.join(plural);
        std::fs::write(&file, definition.to_string()).unwrap();
        plane.kubectl(&["apply", "-f", file.to_str().unwrap()]);
        let name = format!("crd/{plural}.monitoring.coreos.com");
        plane.kubectl(&["wait", &name, "--for=condition=Established", "--timeout=60s"]);
    }
}

#[tokio::test]
async fn the_api_server_takes_what_any_values_render() {
    let helm = Helm::new("chart-values").await;
    define_monitoring();
    for (values, objects) in [(None, 8), (Some("typical"), 10), (Some("all"), 19)] {
        let mut arguments = vec!["template", "rel", CHART];
        let file = values.map(|name| format!("tests/chart/{name}.yaml"));
        match &file {
            Some(file) => arguments.extend(["--values", file]),
            None => arguments.extend(["--set", "nfs.server=nas"]),
        }
        let text = helm.run(&arguments);
        let file = helm.dir.path().join("rendered.yaml");
        std::fs::write(&file, text).unwrap();
        // Fields that do not exist are refused too.
        let dry_run = ["apply", "--dry-run=server", "--validate=strict", "-n", &helm.namespace, "-f"];
        let applied = helm.plane.kubectl(&[&dry_run[..], &[file.to_str().unwrap()]].concat());
        assert_eq!(applied.lines().count(), objects, "{values:?}: {applied}");
    }
}

/// Each value of upstream's chart, and ours: what it makes of which object.
#[test]
fn each_value_has_its_effect() {
    let container = "/spec/template/spec/containers/0";
    let at = |path: &str| format!("{container}{path}");
    let pod = |path: &str| format!("/spec/template/spec{path}");
    let rows: Vec<(&str, &str, String, Value)> = vec![
        ("replicaCount=2", "Deployment", "/spec/replicas".into(), json!(2)),
        (
            "replicaCount=2",
            "Deployment",
            pod("/topologySpreadConstraints/0/labelSelector/matchLabels/release"),
            json!("rel"),
        ),
        ("strategyType=RollingUpdate", "Deployment", "/spec/strategy/type".into(), json!("RollingUpdate")),
        ("image.repository=a/b", "Deployment", at("/image"), json!(format!("a/b:{}", env!("CARGO_PKG_VERSION")))),
        ("image.tag=x", "Deployment", at("/image"), json!("nfs-provisioner:x")),
        ("image.pullPolicy=Never", "Deployment", at("/imagePullPolicy"), json!("Never")),
        ("imagePullSecrets[0].name=a", "Deployment", pod("/imagePullSecrets/0/name"), json!("a")),
        ("nfs.server=other", "Deployment", at("/env/1/value"), json!("other")),
        ("nfs.server=other", "Deployment", pod("/volumes/0/nfs/server"), json!("other")),
        ("nfs.path=/p", "Deployment", at("/env/2/value"), json!("/p")),
        ("nfs.path=/p", "Deployment", pod("/volumes/0/nfs/path"), json!("/p")),
        (
            "nfs.mountOptions={hard}",
            "Deployment",
            pod("/volumes/0"),
            json!({
                "name": "nfs-subdir-external-provisioner-root",
                "persistentVolumeClaim": {"claimName": "pvc-rel-nfs-subdir-external-provisioner"},
            }),
        ),
        ("nfs.mountOptions={hard}", "StorageClass", "/mountOptions".into(), json!(["hard"])),
        ("nfs.mountOptions={hard}", "PersistentVolume", "/spec/mountOptions".into(), json!(["hard"])),
        ("nfs.volumeName=v", "Deployment", pod("/volumes/0/name"), json!("v")),
        (
            FAST,
            "Deployment",
            pod("/volumes/1"),
            json!({"name": "export-fast", "nfs": {"server": "nas2", "path": "/fast"}}),
        ),
        (FAST, "Deployment", at("/volumeMounts/1"), json!({"name": "export-fast", "mountPath": "/exports/fast"})),
        (FAST, "Deployment", at("/env/3/value"), json!("/etc/nfs-provisioner/exports.yaml")),
        (
            FAST,
            "ConfigMap",
            "/data/exports.yaml".into(),
            json!(
                "exports:\n  - name: \"fast\"\n    server: \"nas2\"\n    path: \"/fast\"\n    mount: /exports/fast\n"
            ),
        ),
        (
            FAST_WITH_OPTIONS,
            "PersistentVolume",
            "/metadata/name".into(),
            json!("pv-rel-nfs-subdir-external-provisioner-fast"),
        ),
        (FAST_WITH_OPTIONS, "PersistentVolume", "/spec/mountOptions".into(), json!(["hard"])),
        (
            FAST_WITH_OPTIONS,
            "Deployment",
            pod("/volumes/1/persistentVolumeClaim/claimName"),
            json!("pvc-rel-nfs-subdir-external-provisioner-fast"),
        ),
        (
            LONG,
            "PersistentVolume",
            "/metadata/labels/nfs-subdir-external-provisioner".into(),
            json!("a-name-that-is-so-long-that-no-label-may-be-as-long-as-3e75dd65"),
        ),
        (
            LONG,
            "PersistentVolumeClaim",
            "/spec/selector/matchLabels/nfs-subdir-external-provisioner".into(),
            json!("a-name-that-is-so-long-that-no-label-may-be-as-long-as-3e75dd65"),
        ),
        (FAST_IN_CLASS, "StorageClass", "/parameters/export".into(), json!("fast")),
        ("nfs.volumeName=v", "Deployment", at("/volumeMounts/0/name"), json!("v")),
        (
            "nfs.mountOptions={hard},nfs.reclaimPolicy=Recycle",
            "PersistentVolume",
            "/spec/persistentVolumeReclaimPolicy".into(),
            json!("Recycle"),
        ),
        (
            "nfs.mountOptions={hard},storageClass.accessModes=ReadWriteMany",
            "PersistentVolumeClaim",
            "/spec/accessModes".into(),
            json!(["ReadWriteMany"]),
        ),
        ("storageClass.provisionerName=e.com/n", "StorageClass", "/provisioner".into(), json!("e.com/n")),
        ("storageClass.provisionerName=e.com/n", "Deployment", at("/env/0/value"), json!("e.com/n")),
        (
            "storageClass.defaultClass=true",
            "StorageClass",
            "/metadata/annotations/storageclass.kubernetes.io~1is-default-class".into(),
            json!("true"),
        ),
        ("storageClass.name=c", "StorageClass", "/metadata/name".into(), json!("c")),
        ("storageClass.allowVolumeExpansion=false", "StorageClass", "/allowVolumeExpansion".into(), json!(false)),
        ("storageClass.reclaimPolicy=Retain", "StorageClass", "/reclaimPolicy".into(), json!("Retain")),
        (
            "storageClass.archiveOnDelete=false",
            "StorageClass",
            "/parameters/archiveOnDelete".into(),
            json!("false"),
        ),
        ("storageClass.archiveOnDelete=null", "StorageClass", "/parameters/archiveOnDelete".into(), json!("")),
        ("storageClass.onDelete=retain", "StorageClass", "/parameters/onDelete".into(), json!("retain")),
        (
            "storageClass.pathPattern=${.PVC.name}",
            "StorageClass",
            "/parameters/pathPattern".into(),
            json!("${.PVC.name}"),
        ),
        (
            "storageClass.shareAcrossNamespaces=true",
            "StorageClass",
            "/parameters/shareAcrossNamespaces".into(),
            json!("true"),
        ),
        (
            "storageClass.claimOnDelete=archive\\,retain",
            "StorageClass",
            "/parameters/claimOnDelete".into(),
            json!("archive,retain"),
        ),
        ("storageClass.directoryMode=0750", "StorageClass", "/parameters/directoryMode".into(), json!("0750")),
        (
            "storageClass.directoryUid=4000000000",
            "StorageClass",
            "/parameters/directoryUid".into(),
            json!("4000000000"),
        ),
        ("storageClass.directoryGid=0", "StorageClass", "/parameters/directoryGid".into(), json!("0")),
        ("storageClass.gidRange=50000-59999", "StorageClass", "/parameters/gidRange".into(), json!("50000-59999")),
        (
            "storageClass.claimOwnership=mode\\,uid",
            "StorageClass",
            "/parameters/claimOwnership".into(),
            json!("mode,uid"),
        ),
        ("storageClass.minFreeSpace=10%", "StorageClass", "/parameters/minFreeSpace".into(), json!("10%")),
        ("storageClass.minFreeInodes=10000", "StorageClass", "/parameters/minFreeInodes".into(), json!("10000")),
        ("storageClass.maxOvercommit=1.5", "StorageClass", "/parameters/maxOvercommit".into(), json!("1.5")),
        ("storageClass.deleteRetention=30d", "StorageClass", "/parameters/deleteRetention".into(), json!("30d")),
        ("storageClass.archiveRetention=2w", "StorageClass", "/parameters/archiveRetention".into(), json!("2w")),
        (
            "storageClass.deleteRetentionMinFree=5Gi",
            "StorageClass",
            "/parameters/deleteRetentionMinFree".into(),
            json!("5Gi"),
        ),
        ("storageClass.adoptAsIs=true", "StorageClass", "/parameters/adoptAsIs".into(), json!("true")),
        (
            "storageClass.strictPathPattern=true",
            "StorageClass",
            "/parameters/strictPathPattern".into(),
            json!("true"),
        ),
        (
            "storageClass.volumeBindingMode=WaitForFirstConsumer",
            "StorageClass",
            "/volumeBindingMode".into(),
            json!("WaitForFirstConsumer"),
        ),
        ("storageClass.annotations.a=b", "StorageClass", "/metadata/annotations/a".into(), json!("b")),
        (
            "leaderElection.enabled=false",
            "Deployment",
            at("/env/3"),
            json!({"name": "ENABLE_LEADER_ELECTION", "value": "false"}),
        ),
        (
            "leaderElection.lock=leases",
            "Deployment",
            at("/env/3"),
            json!({"name": "LEADER_ELECTION_LOCK", "value": "leases"}),
        ),
        ("leaderElection.lock=endpoints", "Role", "/rules/1/verbs".into(), json!(["get", "create", "update"])),
        ("podAnnotations.a=b", "Deployment", "/spec/template/metadata/annotations/a".into(), json!("b")),
        ("podSecurityContext.fsGroup=1", "Deployment", pod("/securityContext/fsGroup"), json!(1)),
        ("securityContext.runAsUser=1", "Deployment", at("/securityContext/runAsUser"), json!(1)),
        ("priorityClassName=p", "Deployment", pod("/priorityClassName"), json!("p")),
        ("serviceAccount.annotations.a=b", "ServiceAccount", "/metadata/annotations/a".into(), json!("b")),
        ("serviceAccount.name=s", "ServiceAccount", "/metadata/name".into(), json!("s")),
        ("serviceAccount.name=s", "ClusterRoleBinding", "/subjects/0/name".into(), json!("s")),
        ("serviceAccount.name=s", "Deployment", pod("/serviceAccountName"), json!("s")),
        ("serviceAccount.create=false", "Deployment", pod("/serviceAccountName"), json!("default")),
        ("resources.limits.cpu=1", "Deployment", at("/resources/limits/cpu"), json!(1)),
        ("nodeSelector.a=b", "Deployment", pod("/nodeSelector/a"), json!("b")),
        ("tolerations[0].operator=Exists", "Deployment", pod("/tolerations/0/operator"), json!("Exists")),
        ("affinity.nodeAffinity.x=y", "Deployment", pod("/affinity/nodeAffinity/x"), json!("y")),
        ("labels.a=b", "Deployment", "/spec/template/metadata/labels/a".into(), json!("b")),
        ("labels.a=b", "ClusterRole", "/metadata/labels/a".into(), json!("b")),
        ("podDisruptionBudget.enabled=true", "PodDisruptionBudget", "/spec/maxUnavailable".into(), json!(1)),
        ("nameOverride=n", "Deployment", "/spec/selector/matchLabels/app".into(), json!("n")),
        ("nameOverride=n", "ClusterRole", "/metadata/name".into(), json!("rel-n-runner")),
        ("fullnameOverride=f", "Role", "/metadata/name".into(), json!("leader-locking-f")),
        ("fullnameOverride=f", "StorageClass", "/provisioner".into(), json!("cluster.local/f")),
        ("buildMode=true", "Deployment", pod("/volumes/0/emptyDir"), json!({})),
        ("buildMode=true", "Deployment", at("/env/3"), json!({"name": "NFS_MOUNT_CHECK", "value": "off"})),
        ("mountCheck=off", "Deployment", at("/env/3"), json!({"name": "NFS_MOUNT_CHECK", "value": "off"})),
        ("mountCheck=true", "Deployment", at("/env/3"), json!({"name": "NFS_MOUNT_CHECK", "value": "on"})),
        (
            "shareAcrossNamespaces=true",
            "Deployment",
            at("/env/3"),
            json!({"name": "SHARE_ACROSS_NAMESPACES", "value": "true"}),
        ),
        (
            "usage.callsPerSecond=100",
            "Deployment",
            at("/env/3"),
            json!({"name": "USAGE_CALLS_PER_SECOND", "value": "100"}),
        ),
        ("doctor.enabled=true", "Deployment", pod("/initContainers/0/args"), json!(["doctor"])),
        (
            "doctor.enabled=true",
            "Deployment",
            pod("/initContainers/0/env/0"),
            json!({"name": "PROVISIONER_NAME", "value": "cluster.local/rel-nfs-subdir-external-provisioner"}),
        ),
        (
            "doctor.enabled=true,exports[0].name=fast,exports[0].server=nas,exports[0].path=/fast",
            "Deployment",
            pod("/initContainers/0/volumeMounts"),
            json!([
                {"name": "nfs-subdir-external-provisioner-root", "mountPath": "/persistentvolumes"},
                {"name": "export-fast", "mountPath": "/exports/fast"},
                {"name": "exports", "mountPath": "/etc/nfs-provisioner", "readOnly": true},
            ]),
        ),
        (
            "http.address=10.0.0.1",
            "Deployment",
            at("/env/3"),
            json!({"name": "HTTP_ADDR", "value": "10.0.0.1:8080"}),
        ),
        ("http.port=81", "Deployment", at("/env/3"), json!({"name": "HTTP_ADDR", "value": ":81"})),
        ("http.port=81", "Deployment", at("/ports/0/containerPort"), json!(81)),
        ("http.enabled=false", "Deployment", at("/env/3"), json!({"name": "HTTP_ADDR", "value": ""})),
        ("logFormat=json", "Deployment", at("/env/4"), json!({"name": "LOG_FORMAT", "value": "json"})),
        ("networkPolicy.enabled=true", "NetworkPolicy", "/spec/ingress/0/ports/0/port".into(), json!("http")),
        (
            "monitoring.podMonitor.enabled=true",
            "PodMonitor",
            "/spec/podMetricsEndpoints/0/port".into(),
            json!("http"),
        ),
        ("resources.limits=null", "Deployment", at("/resources/requests/memory"), json!("24Mi")),
        ("resources.limits.memory=1Gi", "Deployment", at("/resources/requests/memory"), json!("24Mi")),
        ("resources.limits.memory=16777216", "Deployment", at("/resources/requests"), json!({"cpu": "10m"})),
        ("resources.limits.memory=1073741824", "Deployment", at("/resources/requests/memory"), json!("24Mi")),
        ("resources.limits.cpu=5m", "Deployment", at("/resources/requests"), json!({"memory": "24Mi"})),
        // Whoever leaves it empty has the profile all the same; whoever takes it away has none.
        (
            "podSecurityContext=null",
            "Deployment",
            pod("/securityContext"),
            json!({"seccompProfile": {"type": "RuntimeDefault"}}),
        ),
        (
            "podSecurityContext=null,securityContext.runAsUser=1000",
            "Deployment",
            at("/securityContext/capabilities"),
            json!({"drop": ["ALL"]}),
        ),
        (
            "podSecurityContext.runAsUser=1000,podSecurityContext.runAsNonRoot=true,securityContext.runAsUser=0",
            "Deployment",
            at("/securityContext/capabilities/add"),
            json!(["FOWNER"]),
        ),
        // It is on unless somebody says no.
        ("leaderElection.enabled=null", "Deployment", at("/env/3/name"), json!("HTTP_ADDR")),
        ("http.enabled=null", "Deployment", at("/env/3/value"), json!(":8080")),
        // What kube-prometheus-stack chooses by.
        (
            "monitoring.podMonitor.enabled=true,monitoring.podMonitor.labels.release=prometheus",
            "PodMonitor",
            "/metadata/labels/release".into(),
            json!("prometheus"),
        ),
        (
            "monitoring.podMonitor.enabled=true,monitoring.podMonitor.labels.release=prometheus",
            "PodMonitor",
            "/spec/selector/matchLabels/release".into(),
            json!("rel"),
        ),
    ];
    for rows in rows.chunk_by(|one, next| one.0 == next.0) {
        let objects = rendered(&["--set", rows[0].0]);
        for (set, kind, path, expected) in rows {
            assert_eq!(one(&objects, kind).pointer(path), Some(expected), "{set}: {kind} {path}");
        }
    }
    for (set, kind) in [
        ("storageClass.create=false", "StorageClass"),
        ("rbac.create=false", "ClusterRole"),
        ("rbac.create=false", "RoleBinding"),
        ("serviceAccount.create=false", "ServiceAccount"),
    ] {
        assert!(rendered(&["--set", set]).iter().all(|object| object["kind"] != kind), "{set}");
        assert!(rendered(&[]).iter().any(|object| object["kind"] == kind), "{kind}");
    }
    let without = rendered(&["--set", "podSecurityContext.seccompProfile=null"]);
    assert!(!json!(one(&without, "Deployment")).to_string().contains("seccomp"));
    let debug = rendered(&["--set", "logLevel=debug"]);
    let variables = one(&debug, "Deployment").pointer(&at("/env")).unwrap().as_array().unwrap();
    let logged =
        variables.iter().find(|variable| variable["name"] == "RUST_LOG").unwrap()["value"].as_str().unwrap();
    let by_default = std::fs::read_to_string(project("src/observe/log.rs")).unwrap();
    assert!(by_default.contains(&logged.replace("debug", "info")), "{logged}");
    // Parameters cannot be changed: there may be none that upstream's chart does not make.
    assert_eq!(one(&rendered(&[]), "StorageClass")["parameters"], json!({"archiveOnDelete": "true"}));
}

#[test]
fn what_is_wrong_in_the_values_is_refused_by_its_name() {
    let rows = [
        ("nfs.server=null", "nfs.server is not set"),
        ("http.enabled=false,monitoring.podMonitor.enabled=true", "monitoring.podMonitor"),
        ("image.repository=example.com/mirror/nfs-subdir-external-provisioner", "image.repository"),
        ("image.tag=v4.0.2", "image.tag"),
        ("storageClass.onDelete=remove", "storageClass.onDelete"),
        ("storageClass.export=nosuch", "storageClass.export"),
        ("nfs.server=a b", "/nfs/server"),
        ("nfs.path=export", "/nfs/path"),
        ("nfs.mountOptions=hard", "/nfs/mountOptions"),
        ("nfs.reclaimPolicy=Keep", "/nfs/reclaimPolicy"),
        ("replicaCount=many", "/replicaCount"),
        ("strategyType=recreate", "/strategyType"),
        ("leaderElection.enabled=", "/leaderElection/enabled"),
        ("storageClass.archiveOndelete=false", "archiveOndelete"),
        ("storageClass.archiveOnDelete=maybe", "/storageClass/archiveOnDelete"),
        ("storageClass.reclaimPolicy=Recycle", "/storageClass/reclaimPolicy"),
        ("storageClass.provisionerName=a b", "/storageClass/provisionerName"),
        ("storageClass.volumeBindingMode=Later", "/storageClass/volumeBindingMode"),
        ("storageClass.directoryMode=rwx", "/storageClass/directoryMode"),
        ("storageClass.directoryUid=-1", "/storageClass/directoryUid"),
        ("storageClass.directoryGid=staff", "/storageClass/directoryGid"),
        ("storageClass.gidRange=5", "/storageClass/gidRange"),
        ("storageClass.claimOwnership=owner", "/storageClass/claimOwnership"),
        ("storageClass.adoptAsIs=maybe", "/storageClass/adoptAsIs"),
        ("storageClass.minFreeSpace=much", "/storageClass/minFreeSpace"),
        ("storageClass.minFreeInodes=-1", "/storageClass/minFreeInodes"),
        ("storageClass.maxOvercommit=1Gi", "/storageClass/maxOvercommit"),
        ("storageClass.deleteRetention=0d", "/storageClass/deleteRetention'"),
        ("storageClass.archiveRetention=1h30m", "/storageClass/archiveRetention"),
        ("storageClass.deleteRetentionMinFree=some", "/storageClass/deleteRetentionMinFree"),
        ("usage.callsPerSecond=-1", "/usage/callsPerSecond"),
        ("storageClass.claimOnDelete=keep", "/storageClass/claimOnDelete"),
        ("storageClass.strictPathPattern=yes", "/storageClass/strictPathPattern"),
        ("leaderElection.lock=configmaps", "/leaderElection/lock"),
        ("mountCheck=maybe", "/mountCheck"),
        ("storageClass.export=Fast", "/storageClass/export"),
        ("exports[0].name=Fast", "/exports/0/name"),
        ("exports[0].sever=nas", "sever"),
        ("logLevel=loud", "/logLevel"),
        ("logFormat=xml", "/logFormat"),
        ("http.port=0", "/http/port"),
        ("http.address=everywhere", "/http/address"),
        ("monitoring.podMonitor.interval=often", "/monitoring/podMonitor/interval"),
        ("leaderelection.enabled=false", "leaderelection"),
    ];
    // What the schema refuses is all said at once.
    let (said_by_templates, said_at_once) = rows.split_at(6);
    for (set, name) in said_by_templates {
        let error = try_rendered(&["--set", set]).expect_err(set);
        // Helm's words begin after the arguments, which have the name too.
        let words = error.split_once("]: ").unwrap().1;
        assert!(words.contains(name), "{set}: {words}");
    }
    let sets: Vec<&str> = said_at_once.iter().map(|(set, _)| *set).collect();
    let error = try_rendered(&["--set", &sets.join(",")]).unwrap_err();
    let words = error.split_once("]: ").unwrap().1;
    for (set, name) in said_at_once {
        let said = words.lines().filter(|line| line.contains(name)).count();
        assert_eq!(said, 1, "{set}: {words}");
    }
}

#[test]
fn the_chart_is_that_of_this_version_and_agrees_with_the_manifests() {
    let chart = &documents(&project(CHART).join("Chart.yaml"))[0];
    assert_eq!(
        (&chart["version"], &chart["appVersion"]),
        (&json!(env!("CARGO_PKG_VERSION")), &json!(env!("CARGO_PKG_VERSION")))
    );
    let objects = rendered(&[]);
    let rules = |kind: &str| -> Vec<PolicyRule> { from_json(one(&objects, kind)["rules"].clone()) };
    assert_eq!((rules("ClusterRole"), rules("Role")), rules_of_rbac());

    let monitored = rendered(&["--set", "monitoring.prometheusRule.enabled=true"]);
    let alerts = documents(&project("deploy/monitoring/alerts.yaml")).remove(0);
    assert_eq!(one(&monitored, "PrometheusRule")["spec"], alerts["spec"]);

    // And its Pods are those of deploy/, names apart.
    let ours: Deployment = from_json(one(&objects, "Deployment").clone());
    let plain: Deployment = from_json(documents(&project("deploy/base/deployment.yaml")).remove(0));
    let pod = |deployment: Deployment| deployment.spec.unwrap().template.spec.unwrap();
    let (ours, plain) = (pod(ours), pod(plain));
    assert_eq!(ours.security_context, plain.security_context);
    let (ours, plain) = (&ours.containers[0], &plain.containers[0]);
    assert_eq!(ours.image, plain.image);
    assert_eq!(ours.security_context, plain.security_context);
    assert_eq!(ours.ports, plain.ports);
    assert_eq!(ours.resources, plain.resources);
    let probes = |container: &k8s_openapi::api::core::v1::Container| -> [Probe; 2] {
        [container.liveness_probe.clone().unwrap(), container.readiness_probe.clone().unwrap()]
    };
    assert_eq!(probes(ours), probes(plain));

    // Each variable is one that the program reads.
    let command = Args::command();
    let read: Vec<_> = command.get_arguments().filter_map(|argument| argument.get_env()).collect();
    let all = rendered(&["--values", "tests/chart/all.yaml"]);
    let all: Deployment = from_json(one(&all, "Deployment").clone());
    let variables = pod(all).containers.remove(0).env.unwrap();
    assert!(variables.len() > 8);
    for variable in variables.iter().map(|variable| variable.name.as_str()) {
        let of_others = ["RUST_LOG", "EXAMPLE"].contains(&variable);
        assert!(of_others || read.iter().any(|known| *known == variable), "{variable}");
    }
}

/// What Kubernetes' Pod Security Standards make of our Pod.
#[tokio::test]
async fn our_pod_is_baseline_and_what_it_lacks_for_restricted_is_known() {
    let client = Plane::shared().client().await;
    for level in ["baseline", "restricted"] {
        let labels = json!({"metadata": {
            "name": format!("pods-{level}"), "labels": {"pod-security.kubernetes.io/enforce": level},
        }});
        create::<Namespace>(&Api::all(client.clone()), from_json(labels)).await;
    }
    let mut plain = documents(&project("deploy/base/deployment.yaml")).remove(0);
    *plain.pointer_mut("/spec/template/spec/volumes/0/nfs").unwrap() = json!({"server": "nas", "path": "/export"});
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let ask = async |namespace: &str, deployment: &Value, patch: Value| {
        let mut pod = deployment["spec"]["template"].clone();
        pod["metadata"]["name"] = json!("pod");
        pod["spec"].as_object_mut().unwrap().remove("serviceAccountName");
        crate::support::space::merge(&mut pod, patch);
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        pods.create(&dry, &from_json(pod)).await.map_err(|error| error.to_string())
    };
    // The account that Pods get if they name none is made after its namespace.
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(client.clone(), "pods-restricted");
    eventually("an account", || async { accounts.get_opt("default").await.ok()? }).await;
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(client.clone(), "pods-baseline");
    eventually("an account", || async { accounts.get_opt("default").await.ok()? }).await;

    let by_claim = rendered(&["--set", "nfs.mountOptions={hard},securityContext.capabilities.add=null"]);
    for deployment in [&plain, one(&rendered(&[]), "Deployment"), one(&by_claim, "Deployment")] {
        ask("pods-baseline", deployment, json!({})).await.unwrap();
        ask("pods-baseline", deployment, json!({"spec": {"hostNetwork": true}})).await.unwrap_err();
    }
    let refused = ask("pods-restricted", &plain, json!({})).await.unwrap_err();
    for reason in ["FOWNER", "restricted volume types", "runAsNonRoot"] {
        assert!(refused.contains(reason), "{reason}: {refused}");
    }
    // A claim instead of the nfs volume and no capabilities leave one: it runs as root, and has to.
    let refused = ask("pods-restricted", one(&by_claim, "Deployment"), json!({})).await.unwrap_err();
    assert!(
        refused.contains("runAsNonRoot") && !refused.contains("volume") && !refused.contains("capabilities"),
        "{refused}"
    );
    let not_root = json!({"spec": {"securityContext": {"runAsNonRoot": true, "runAsUser": 1000}}});
    ask("pods-restricted", one(&by_claim, "Deployment"), not_root).await.unwrap();
    // What `helm test` starts is restricted.
    let tests =
        rendered(&[]).into_iter().find(|object| object["metadata"]["annotations"]["helm.sh/hook"] == "test");
    let pods: Api<Pod> = Api::namespaced(client.clone(), "pods-restricted");
    pods.create(&dry, &from_json(tests.unwrap())).await.unwrap();
}

/// An upgrade of a release of upstream's chart, with the same values, and back again. Releases of Helm 3 go on being
/// applied on the client's side.
#[tokio::test]
async fn a_release_of_the_peers_chart_is_upgraded_in_place_and_rolled_back() {
    for (name, server_side, values) in [
        ("chart-up-plain", true, "nfs.server=nas"),
        ("chart-up-rolling", true, "nfs.server=nas,strategyType=RollingUpdate"),
        (
            "chart-up-options",
            true,
            "nfs.server=nas,nfs.mountOptions={nfsvers=4.1},storageClass.archiveOnDelete=false",
        ),
        (
            "chart-up-helm3",
            false,
            "nfs.server=nas,strategyType=RollingUpdate,storageClass.onDelete=retain,\
             storageClass.pathPattern=${.PVC.name}",
        ),
    ] {
        let helm = Helm::new(name).await;
        let client = helm.plane.client().await;
        let class = format!("{name}-class");
        let values = format!("{values},storageClass.name={class}");
        let side = format!("--server-side={server_side}");
        helm.run(&["install", name, project(PEER).to_str().unwrap(), "--set", &values, &side]);
        let before = helm.deployment().await;
        let classes: Api<StorageClass> = Api::all(client.clone());
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), name);
        let exports = async || {
            let mut found = claims.list(&Default::default()).await.unwrap().items;
            found.pop().map(|claim| claim.metadata.uid)
        };
        let (class_before, export_before) = (classes.get(&class).await.unwrap(), exports().await);
        assert_eq!(export_before.is_some(), values.contains("mountOptions"));

        let image = "image.repository=example.com/nfs-provisioner";
        helm.run(&[
            "upgrade",
            "--install",
            name,
            project(CHART).to_str().unwrap(),
            "--set",
            &values,
            "--set",
            image,
        ]);
        let after = helm.deployment().await;
        assert_eq!(after.metadata.uid, before.metadata.uid);
        assert_eq!(after.metadata.name, before.metadata.name);
        let spec = after.spec.unwrap();
        assert_eq!(spec.selector, before.spec.as_ref().unwrap().selector.clone());
        let pod = spec.template.spec.unwrap();
        assert_eq!(pod.containers.len(), 1);
        assert_eq!(
            pod.containers[0].image.as_ref().unwrap(),
            &format!("example.com/nfs-provisioner:{}", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(pod.volumes, before.spec.unwrap().template.spec.unwrap().volumes);
        let class_after = classes.get(&class).await.unwrap();
        assert_eq!(class_after.metadata.uid, class_before.metadata.uid);
        assert_eq!(class_after.parameters, class_before.parameters);
        assert_eq!(exports().await, export_before);

        // A RollingUpdate leaves fields behind that a Recreate must not have.
        for strategy in ["RollingUpdate", "Recreate"] {
            let set = format!("{values},strategyType={strategy}");
            helm.run(&["upgrade", name, project(CHART).to_str().unwrap(), "--set", &set]);
            let found = helm.deployment().await.spec.unwrap().strategy.unwrap();
            assert_eq!(found.type_.as_deref(), Some(strategy));
            assert_eq!(found.rolling_update.is_some(), strategy == "RollingUpdate");
        }

        helm.run(&["rollback", name, "1"]);
        let back = helm.deployment().await;
        assert_eq!(back.metadata.uid, before.metadata.uid);
        let image = back.spec.unwrap().template.spec.unwrap().containers.remove(0).image.unwrap();
        assert!(image.ends_with("nfs-subdir-external-provisioner:v4.0.2"), "{image}");
        helm.run(&["uninstall", name]);
    }
}

/// `helm install` and `helm test`, with a provisioner that runs as the chart says and under its ServiceAccount.
#[tokio::test]
async fn what_the_chart_installs_passes_its_own_test() {
    let helm = Helm::new("chart-install").await;
    let values = "nfs.server=nas,nfs.path=/export,storageClass.name=chart-install,storageClass.volumeBindingMode=WaitForFirstConsumer";
    let notes = helm.run(&["install", "rel", project(CHART).to_str().unwrap(), "--set", values]);
    assert!(notes.contains("helm test -n chart-install rel"), "{notes}");
    let mut settings = as_deployed(helm.plane, &helm.deployment().await, helm.dir.path()).await;
    settings.environment.retain(|(name, _)| name != "HTTP_ADDR");
    let provisioner = Process::start(&settings);
    let passed = helm.run(&["test", "rel", "--timeout", "60s"]);
    assert!(passed.contains("Succeeded"), "{passed}");
    // The volume has gone again, as the class says.
    eventually("an archive", || async {
        let archived = |entry: std::fs::DirEntry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("archived-chart-install-rel-nfs-subdir-external-provisioner-test-volume-")
        };
        std::fs::read_dir(&settings.mount).ok()?.flatten().any(archived).then_some(())
    })
    .await;
    assert!(!provisioner.log().contains("for lack of"), "{}", provisioner.log());
    helm.run(&["uninstall", "rel"]);
}
