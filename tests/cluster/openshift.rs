//! What the admission of Pods on `OpenShift` would say. There is none here: these are its rules for the fields that
//! `SecurityContextConstraints` have, and a definition of that kind for the API server.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Once;

use serde_json::{Value, json};

use crate::chart::{CHART, HELMS, one, project, try_rendered_by};
use crate::support::plane::Plane;
use crate::support::space::{documents, merge};

/// What our constraints allow no Pod.
const NEVER_ALLOWED: [&str; 8] = [
    "allowHostDirVolumePlugin",
    "allowHostIPC",
    "allowHostNetwork",
    "allowHostPID",
    "allowHostPorts",
    "allowPrivilegeEscalation",
    "allowPrivilegedContainer",
    "defaultAllowPrivilegeEscalation",
];

/// Defines the kind on the shared control plane, with the fields that it has and no other.
pub(crate) fn define_constraints() {
    static DEFINED: Once = Once::new();
    DEFINED.call_once(|| {
        let dir = tempfile::tempdir().unwrap();
        define(Plane::shared(), dir.path());
    });
}

fn define(plane: &Plane, dir: &Path) {
    let nullable = |kind: &str, items: Value| {
        let mut schema = json!({"type": kind, "nullable": true});
        merge(&mut schema, items);
        schema
    };
    let texts = nullable("array", json!({"items": {"type": "string"}}));
    let strategy = json!({"type": "object", "properties": {"type": {"type": "string"}}});
    let mut properties = json!({"priority": nullable("integer", json!({}))});
    for field in NEVER_ALLOWED.into_iter().chain(["readOnlyRootFilesystem"]) {
        properties[field] = json!({"type": "boolean"});
    }
    for field in [
        "allowedCapabilities",
        "defaultAddCapabilities",
        "requiredDropCapabilities",
        "seccompProfiles",
        "volumes",
        "users",
        "groups",
    ] {
        properties[field] = texts.clone();
    }
    for field in ["runAsUser", "seLinuxContext", "fsGroup", "supplementalGroups"] {
        properties[field] = strategy.clone();
    }
    let required = json!([
        "priority",
        "allowPrivilegedContainer",
        "defaultAddCapabilities",
        "requiredDropCapabilities",
        "allowedCapabilities",
        "allowHostDirVolumePlugin",
        "volumes",
        "allowHostNetwork",
        "allowHostPorts",
        "allowHostPID",
        "allowHostIPC",
        "readOnlyRootFilesystem",
    ]);
    let schema = json!({"type": "object", "required": required, "properties": properties});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "securitycontextconstraints.security.openshift.io"},
        "spec": {
            "group": "security.openshift.io", "scope": "Cluster",
            "names": {"kind": "SecurityContextConstraints", "plural": "securitycontextconstraints"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    });
    let file = dir.join("constraints.json");
    std::fs::write(&file, definition.to_string()).unwrap();
    plane.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    let name = "crd/securitycontextconstraints.security.openshift.io";
    plane.kubectl(&["wait", name, "--for=condition=Established", "--timeout=60s"]);
}

fn texts(value: &Value) -> BTreeSet<String> {
    value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn is_true(value: &Value) -> bool {
    value == &json!(true)
}

fn containers(pod: &Value) -> Vec<&Value> {
    ["initContainers", "containers"].iter().flat_map(|list| pod[list].as_array().into_iter().flatten()).collect()
}

/// The kinds of volumes that a Pod has, with the one that each gets for the token of its ServiceAccount.
fn volumes(pod: &Value) -> BTreeSet<String> {
    let kind = |volume: &Value| volume.as_object().unwrap().keys().find(|key| *key != "name").unwrap().clone();
    pod["volumes"].as_array().unwrap().iter().map(kind).chain(["projected".to_owned()]).collect()
}

fn profile(context: &Value) -> Option<String> {
    let profile = &context["seccompProfile"];
    match profile["type"].as_str()? {
        "RuntimeDefault" => Some("runtime/default".to_owned()),
        "Unconfined" => Some("unconfined".to_owned()),
        _ => Some(format!("localhost/{}", profile["localhostProfile"].as_str().unwrap())),
    }
}

/// Why constraints do not admit a Pod, or would make something else of it than it is.
fn refused(constraints: &Value, pod: &Value) -> BTreeSet<String> {
    let mut why = BTreeSet::new();
    let mut unless = |is_allowed: bool, what: String| {
        if !is_allowed {
            why.insert(what);
        }
    };
    for (field, allowed) in
        [("hostNetwork", "allowHostNetwork"), ("hostPID", "allowHostPID"), ("hostIPC", "allowHostIPC")]
    {
        unless(!is_true(&pod[field]) || is_true(&constraints[allowed]), field.to_owned());
    }
    let allowed = texts(&constraints["volumes"]);
    for kind in volumes(pod) {
        unless(allowed.contains(&kind) || allowed.contains("*"), format!("volume {kind}"));
    }
    let profiles = texts(&constraints["seccompProfiles"]);
    let mut contexts = vec![pod["securityContext"].clone()];
    for (field, strategy) in [("fsGroup", "fsGroup"), ("supplementalGroups", "supplementalGroups")] {
        let any = constraints[strategy]["type"] == "RunAsAny";
        unless(any || pod["securityContext"][field].is_null(), field.to_owned());
    }
    let capabilities = texts(&constraints["allowedCapabilities"]);
    let dropped = texts(&constraints["requiredDropCapabilities"]);
    for container in containers(pod) {
        let context = &container["securityContext"];
        contexts.push(context.clone());
        unless(
            !is_true(&context["privileged"]) || is_true(&constraints["allowPrivilegedContainer"]),
            "privileged".into(),
        );
        let escalates = &context["allowPrivilegeEscalation"];
        // What is not said is as the constraints have it.
        unless(
            !is_true(escalates) || constraints["allowPrivilegeEscalation"] != json!(false),
            "escalation".into(),
        );
        for capability in texts(&context["capabilities"]["add"]) {
            let is_allowed = capabilities.contains(&capability) || capabilities.contains("*");
            unless(is_allowed && !dropped.contains(&capability), format!("capability {capability}"));
        }
        let root = &context["readOnlyRootFilesystem"];
        unless(
            !is_true(&constraints["readOnlyRootFilesystem"]) || root != &json!(false),
            "root file system".into(),
        );
        for port in container["ports"].as_array().into_iter().flatten() {
            unless(port["hostPort"].is_null() || is_true(&constraints["allowHostPorts"]), "host port".into());
        }
    }
    for context in contexts {
        if let Some(profile) = profile(&context) {
            unless(profiles.contains(&profile) || profiles.contains("*"), format!("seccomp {profile}"));
        }
        // The program has to be root; other strategies give it a user of the namespace's range.
        unless(constraints["runAsUser"]["type"] == "RunAsAny", "another user than root".into());
        let labelled = !context["seLinuxOptions"].is_null();
        unless(!labelled || constraints["seLinuxContext"]["type"] == "RunAsAny", "SELinux".into());
    }
    why
}

/// Those that users of upstream have given it, without what does not matter here.
fn hostmount_anyuid() -> Value {
    json!({
        "allowHostDirVolumePlugin": true, "allowHostIPC": false, "allowHostNetwork": false, "allowHostPID": false,
        "allowHostPorts": false, "allowPrivilegeEscalation": true, "allowPrivilegedContainer": false,
        "allowedCapabilities": null, "readOnlyRootFilesystem": false, "requiredDropCapabilities": ["MKNOD"],
        "fsGroup": {"type": "RunAsAny"}, "runAsUser": {"type": "RunAsAny"}, "seLinuxContext": {"type": "MustRunAs"},
        "supplementalGroups": {"type": "RunAsAny"},
        "volumes": [
            "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "hostPath", "nfs", "persistentVolumeClaim",
            "projected", "secret",
        ],
    })
}

fn restricted_v2() -> Value {
    json!({
        "allowHostDirVolumePlugin": false, "allowHostIPC": false, "allowHostNetwork": false, "allowHostPID": false,
        "allowHostPorts": false, "allowPrivilegeEscalation": false, "allowPrivilegedContainer": false,
        "allowedCapabilities": ["NET_BIND_SERVICE"], "readOnlyRootFilesystem": false,
        "requiredDropCapabilities": ["ALL"], "seccompProfiles": ["runtime/default"],
        "fsGroup": {"type": "MustRunAs"}, "runAsUser": {"type": "MustRunAsRange"},
        "seLinuxContext": {"type": "MustRunAs"}, "supplementalGroups": {"type": "RunAsAny"},
        "volumes": [
            "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
        ],
    })
}

fn chart(sets: &[&str]) -> Vec<Value> {
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    try_rendered_by(HELMS[0], CHART, &[&["--namespace", "nfs", "--set", "nfs.server=nas"], &sets[..]].concat())
        .unwrap()
}

fn pod_of(objects: &[Value]) -> &Value {
    &one(objects, "Deployment")["spec"]["template"]["spec"]
}

/// `deploy/` with the component.
fn manifests(plane: &Plane) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let deploy = crate::support::deploy::edited(dir.path(), "nas", "/export");
    let file = deploy.join("kustomization.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let edited = text.replace("# - components/openshift", "- components/openshift");
    assert_ne!(edited, text);
    std::fs::write(&file, edited).unwrap();
    let built = dir.path().join("built.yaml");
    std::fs::write(&built, plane.kubectl(&["kustomize", deploy.to_str().unwrap()])).unwrap();
    documents(&built)
}

const WITH_EVERYTHING: &[&str] = &[
    "openshift.enabled=true",
    "doctor.enabled=true",
    "nfs.mountOptions={hard}",
    "exports[0].name=fast,exports[0].server=nas2,exports[0].path=/fast",
];

/// Each field of the Pod is allowed, and nothing is allowed that no Pod of ours has.
#[test]
fn our_constraints_admit_our_pod_and_allow_no_more() {
    let (manifests, plain, everything) =
        (manifests(Plane::shared()), chart(&["openshift.enabled=true"]), chart(WITH_EVERYTHING));
    let mut used = BTreeSet::new();
    for objects in [&manifests, &plain, &everything] {
        let (constraints, pod) = (one(objects, "SecurityContextConstraints"), pod_of(objects));
        assert_eq!(refused(constraints, pod), BTreeSet::new());
        used.extend(volumes(pod));
        for field in NEVER_ALLOWED {
            assert_eq!(constraints[field], false, "{field}");
        }
        let added: BTreeSet<String> = containers(pod)
            .iter()
            .flat_map(|container| texts(&container["securityContext"]["capabilities"]["add"]))
            .collect();
        assert_eq!(texts(&constraints["allowedCapabilities"]), added);
        assert_eq!(constraints["requiredDropCapabilities"], json!(["ALL"]));
        assert_eq!(constraints["seccompProfiles"], json!(["runtime/default"]));
        assert_eq!(constraints["readOnlyRootFilesystem"], true);
        for other in [
            json!({"hostNetwork": true}),
            json!({"hostPID": true}),
            json!({"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}),
            json!({"containers": [{"name": "c", "securityContext": {"privileged": true}}]}),
            json!({"containers": [{"name": "c", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]}),
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
        ] {
            let mut changed = pod.clone();
            merge(&mut changed, other.clone());
            assert_ne!(refused(constraints, &changed), BTreeSet::new(), "{other}");
        }
    }
    for objects in [&manifests, &plain, &everything] {
        assert_eq!(texts(&one(objects, "SecurityContextConstraints")["volumes"]), used);
    }
    // The component and the chart say the same.
    let of = |objects: &[Value]| {
        let mut found = one(objects, "SecurityContextConstraints").clone();
        found.as_object_mut().unwrap().remove("metadata");
        found
    };
    assert_eq!(of(&manifests), of(&plain));
}

/// The ServiceAccount of the Pod may use them, by a role and not by name, and the Pod asks for these and no others.
#[test]
fn the_service_account_may_use_our_constraints() {
    for objects in [manifests(Plane::shared()), chart(&["openshift.enabled=true", "serviceAccount.name=somebody"])]
    {
        let constraints = &one(&objects, "SecurityContextConstraints")["metadata"]["name"];
        let grants = |object: &&Value| object["rules"][0]["resources"] == json!(["securitycontextconstraints"]);
        let role = objects.iter().find(grants).unwrap();
        let expected = json!({
            "apiGroups": ["security.openshift.io"], "resources": ["securitycontextconstraints"],
            "resourceNames": [constraints], "verbs": ["use"],
        });
        assert_eq!((&role["kind"], &role["rules"]), (&json!("ClusterRole"), &json!([expected])));
        let binds = |object: &&Value| object["roleRef"]["name"] == role["metadata"]["name"];
        let binding = objects.iter().find(binds).unwrap();
        let template = &one(&objects, "Deployment")["spec"]["template"];
        assert_eq!(
            (&binding["kind"], &binding["roleRef"]["kind"]),
            (&json!("RoleBinding"), &json!("ClusterRole"))
        );
        assert_eq!(binding["subjects"].as_array().unwrap().len(), 1);
        assert_eq!(binding["subjects"][0]["name"], template["spec"]["serviceAccountName"]);
        assert_eq!(template["metadata"]["annotations"]["openshift.io/required-scc"], *constraints);
    }
    let without = chart(&["openshift.enabled=true", "rbac.create=false"]);
    assert!(without.iter().all(|object| object["roleRef"].is_null()));
    assert!(chart(&[]).iter().all(|object| object["kind"] != "SecurityContextConstraints"));
}

/// As docs/install.md tells: what the constraints of upstream's users lack for us, and with which values they do.
#[test]
fn constraints_of_upstreams_users_admit_our_pod_once_it_asks_for_less() {
    let lacks =
        |constraints: &Value, pod: &Value| -> Vec<String> { refused(constraints, pod).into_iter().collect() };
    assert_eq!(lacks(&hostmount_anyuid(), pod_of(&chart(&[]))), ["capability FOWNER", "seccomp runtime/default"]);
    assert_eq!(
        lacks(&restricted_v2(), pod_of(&chart(&[]))),
        ["another user than root", "capability FOWNER", "volume nfs"]
    );
    let document = std::fs::read_to_string(project("docs/install.md")).unwrap();
    let text = document.split("```yaml\n").find(|text| text.contains("seccompProfile: null")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let values = dir.path().join("values.yaml");
    std::fs::write(&values, text.split("```").next().unwrap()).unwrap();
    let arguments = ["--set", "nfs.server=nas", "--values", values.to_str().unwrap()];
    for helm in HELMS {
        let objects = try_rendered_by(helm, CHART, &arguments).unwrap();
        assert_eq!(lacks(&hostmount_anyuid(), pod_of(&objects)), Vec::<String>::new(), "{helm}");
    }
}

/// With a definition of our own of their kind.
#[test]
fn the_api_server_takes_our_constraints() {
    let plane = Plane::shared();
    let dir = tempfile::tempdir().unwrap();
    define_constraints();
    for (name, objects) in [("manifests", manifests(plane)), ("chart", chart(WITH_EVERYTHING))] {
        let file = dir.path().join(name);
        let only: Vec<&Value> =
            objects.iter().filter(|object| object["kind"] == "SecurityContextConstraints").collect();
        std::fs::write(&file, json!({"apiVersion": "v1", "kind": "List", "items": only}).to_string()).unwrap();
        let apply = ["apply", "--dry-run=server", "--validate=strict", "--filename", file.to_str().unwrap()];
        let applied = plane.kubectl(&apply);
        assert!(applied.contains("created"), "{applied}");
    }
}

#[test]
fn what_openshift_does_not_let_the_chart_have_is_refused_or_left_to_it() {
    let privileged = ["--set", "nfs.server=nas,openshift.enabled=true,securityContext.privileged=true"];
    let error = try_rendered_by(HELMS[0], CHART, &privileged).unwrap_err();
    assert!(error.split_once("]: ").unwrap().1.contains("openshift.enabled"), "{error}");
    let user = |sets: &[&str]| {
        let objects = chart(sets);
        let test = objects.iter().find(|object| object["kind"] == "Pod").unwrap();
        test["spec"]["securityContext"]["runAsUser"].clone()
    };
    assert_eq!((user(&[]), user(&["openshift.enabled=true"])), (json!(65534), Value::Null));
}
