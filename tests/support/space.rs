//! A corner of the control plane for one test: a namespace, classes, an export, and a provisioner of its own that
//! runs under the rules of `rbac/`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Event, Namespace, PersistentVolume, PersistentVolumeClaim, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::eventually;
use super::plane::Plane;
use super::process::{Process, Settings, provisioner};
use super::proxy::Proxy;

/// The server and path of every test's export. Nobody mounts them.
pub(crate) const SERVER: &str = "nfs.test.invalid";
/// See [`SERVER`].
pub(crate) const PATH: &str = "/export";

/// Which rules a test's provisioner runs under.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Rules {
    /// Those of `rbac/rbac.yaml`.
    Ours,
    /// These: of the whole cluster, and of its own namespace.
    These(Value, Value),
}

pub(crate) struct Space {
    pub(crate) plane: &'static Plane,
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) provisioner: String,
    dir: TempDir,
    kubeconfig: PathBuf,
}

/// A directory that is behind a link. It is in its place again when this is dropped.
#[must_use]
pub(crate) struct OutOfReach {
    at: PathBuf,
    moved: PathBuf,
}

impl Drop for OutOfReach {
    fn drop(&mut self) {
        // A test that has failed has more to say than this.
        let _ = fs::remove_file(&self.at).and_then(|()| fs::rename(&self.moved, &self.at));
    }
}

impl Space {
    /// A fresh one on the control plane that all share.
    pub(crate) async fn new() -> Self {
        Self::on(Plane::shared(), Rules::Ours).await
    }

    pub(crate) async fn on(plane: &'static Plane, rules: Rules) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let namespace = format!("test-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let client = plane.client().await;
        create(&Api::all(client.clone()), named::<Namespace>(&namespace)).await;
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("export")).expect("a directory");
        let kubeconfig = dir.path().join("kubeconfig");
        let space = Self {
            plane,
            client,
            provisioner: format!("{namespace}.example.com/nfs"),
            namespace,
            dir,
            kubeconfig,
        };
        grant(&space.client, &space.namespace, rules).await;
        write_kubeconfig(&plane.kubeconfig, &token(&space.client, &space.namespace).await, &space.kubeconfig);
        space
    }

    /// The API server's minor version.
    pub(crate) async fn minor(&self) -> u32 {
        let version = self.client.apiserver_version().await.expect("a version");
        version.minor.trim_end_matches('+').parse().expect("a number")
    }

    /// The objects of one kind in this namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    pub(crate) fn classes(&self) -> Api<StorageClass> {
        Api::all(self.client.clone())
    }

    /// A path beneath the export's directory.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("export").join(path)
    }

    /// Puts a directory that is there behind a symbolic link: nothing beneath it can be archived or removed until the
    /// value is dropped.
    pub(crate) fn out_of_reach(&self, name: &str) -> OutOfReach {
        let moved = format!("{name}-elsewhere");
        let at = self.at(name);
        fs::rename(&at, self.at(&moved)).expect("a directory to be moved");
        symlink(&moved, &at).expect("a link");
        OutOfReach { moved: self.at(&moved), at }
    }

    /// The names in the export's directory, sorted. What the provisioner keeps there for itself is left out.
    pub(crate) fn entries(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.at(""))
            .expect("the export")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.retain(|name| !name.starts_with(".nfs-provisioner"));
        names.sort();
        names
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            binary: provisioner(),
            kubeconfig: self.kubeconfig.clone(),
            provisioner: self.provisioner.clone(),
            server: SERVER.to_owned(),
            path: PATH.to_owned(),
            mount: self.at(""),
            namespace: self.namespace.clone(),
            log: self.dir.path().join("log"),
            environment: Vec::new(),
        }
    }

    /// The name of a server that is no other test's, so that nothing but this space's volumes counts on its export.
    pub(crate) fn own_server(&self) -> String {
        format!("{}.test.invalid", self.namespace)
    }

    /// Starts a provisioner that reaches the API server through a proxy.
    pub(crate) fn start_through(&self, proxy: &Proxy) -> Process {
        Process::start(&self.settings_through(proxy))
    }

    /// The settings of a provisioner that reaches the API server through a proxy.
    pub(crate) fn settings_through(&self, proxy: &Proxy) -> Settings {
        let text = fs::read_to_string(&self.kubeconfig).expect("a kubeconfig");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        config["clusters"][0]["cluster"]["server"] = proxy.address().into();
        let kubeconfig = self.dir.path().join("kubeconfig-through-proxy");
        fs::write(&kubeconfig, config.to_string()).expect("a file");
        Settings { kubeconfig, ..self.settings() }
    }

    /// Starts the provisioner.
    pub(crate) fn start(&self) -> Process {
        Process::start(&self.settings())
    }

    /// The full name of this test's class `name`: classes belong to the whole cluster.
    pub(crate) fn class_name(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace)
    }

    /// Makes a class of ours, with what `patch` changes.
    pub(crate) async fn class(&self, name: &str, patch: Value) -> String {
        let full = self.class_name(name);
        let mut class = json!({"metadata": {"name": full}, "provisioner": self.provisioner});
        merge(&mut class, patch);
        create::<StorageClass>(&self.classes(), from_json(class)).await;
        full
    }

    /// Makes a claim of 1Mi, ReadWriteMany, with what `patch` changes.
    pub(crate) async fn claim(&self, name: &str, class: &str, patch: Value) -> PersistentVolumeClaim {
        self.claim_in(&self.namespace, name, class, patch).await
    }

    pub(crate) async fn claim_in(
        &self,
        namespace: &str,
        name: &str,
        class: &str,
        patch: Value,
    ) -> PersistentVolumeClaim {
        let mut claim = json!({
            "metadata": {"name": name},
            "spec": {
                "storageClassName": class, "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": "1Mi"}},
            },
        });
        merge(&mut claim, patch);
        create(&Api::namespaced(self.client.clone(), namespace), from_json(claim)).await
    }

    /// Waits until the claim is Bound, and returns its volume.
    pub(crate) async fn bound(&self, claim: &str) -> PersistentVolume {
        self.bound_in(&self.namespace, claim).await
    }

    pub(crate) async fn bound_in(&self, namespace: &str, claim: &str) -> PersistentVolume {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let volume = eventually(&format!("claim {namespace}/{claim} to be Bound"), || async {
            let found = claims.get_opt(claim).await.ok()??;
            let bound = found.status?.phase? == "Bound";
            found.spec?.volume_name.filter(|_| bound)
        })
        .await;
        self.volumes().get(&volume).await.expect("the volume of a Bound claim")
    }

    /// Deletes a claim.
    pub(crate) async fn delete_claim(&self, name: &str) {
        let claims: Api<PersistentVolumeClaim> = self.api();
        claims.delete(name, &DeleteParams::default()).await.expect("a claim to delete");
    }

    /// Waits until a claim is not there any more.
    pub(crate) async fn claim_gone(&self, name: &str) {
        let claims: Api<PersistentVolumeClaim> = self.api();
        eventually(&format!("claim {name} to go"), || async {
            claims.get_opt(name).await.ok()?.is_none().then_some(())
        })
        .await;
    }

    /// Waits until a volume is not there any more.
    pub(crate) async fn gone(&self, volume: &str) {
        let volumes = self.volumes();
        eventually(&format!("volume {volume} to go"), || async {
            volumes.get_opt(volume).await.ok()?.is_none().then_some(())
        })
        .await;
    }

    /// Waits until a volume is old enough not to be taken for one that was restored from a backup, though its
    /// provisioner may not see it bound.
    pub(crate) async fn long_in_use(&self, volume: &str) {
        let made =
            self.volumes().get(volume).await.expect("a volume").metadata.creation_timestamp.expect("a time");
        let is_old = || Timestamp::now().duration_since(made.0).as_secs() > 31;
        eventually("the volume to be old", || async { is_old().then_some(()) }).await;
    }

    /// All volumes of a class.
    pub(crate) async fn volumes_of(&self, class: &str) -> Vec<PersistentVolume> {
        let volumes = self.volumes().list(&ListParams::default()).await.expect("a list").items;
        let is_of =
            |volume: &PersistentVolume| volume.spec.as_ref()?.storage_class_name.as_deref().map(|c| c == class);
        volumes.into_iter().filter(|volume| is_of(volume) == Some(true)).collect()
    }

    /// Waits until a volume is in a phase.
    pub(crate) async fn phase(&self, volume: &str, phase: &str) {
        let volumes = self.volumes();
        eventually(&format!("volume {volume} to be {phase}"), || async {
            (volumes.get(volume).await.ok()?.status?.phase? == phase).then_some(())
        })
        .await;
    }

    /// Our events with this reason about an object of this name; the controller manager has some of its own.
    pub(crate) async fn events(&self, about: &str, reason: &str) -> Vec<Event> {
        // Those about volumes are in the namespace "default".
        let events: Api<Event> = Api::all(self.client.clone());
        let params = ListParams::default().fields(&format!("involvedObject.name={about},reason={reason}"));
        let found = events.list(&params).await.map(|list| list.items).unwrap_or_default();
        found
            .into_iter()
            .filter(|event| {
                let component = event.source.as_ref().and_then(|source| source.component.as_deref());
                component.is_some_and(|component| component.starts_with(&self.provisioner))
            })
            .collect()
    }

    /// Waits for an event with this reason, and returns its message.
    pub(crate) async fn event(&self, about: &str, reason: &str) -> String {
        eventually(&format!("an event {reason} on {about}"), || async {
            self.events(about, reason).await.into_iter().find_map(|event| event.message)
        })
        .await
    }

    /// Changes an object by a merge patch.
    pub(crate) async fn patch<K>(&self, api: &Api<K>, name: &str, patch: Value) -> K
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("a patch")
    }

    /// The directory of a volume, by its name on the export, beneath the export.
    pub(crate) fn directory(volume: &PersistentVolume) -> String {
        let path = &volume.spec.as_ref().and_then(|spec| spec.nfs.as_ref()).expect("an NFS volume").path;
        path.strip_prefix(&format!("{PATH}/")).expect("a path beneath the export").to_owned()
    }
}

/// Makes a ServiceAccount `provisioner` in a namespace and gives it its rights.
pub(crate) async fn grant(client: &Client, namespace: &str, rules: Rules) {
    let (cluster, own) = match rules {
        Rules::Ours => rules_of_rbac(),
        Rules::These(cluster, own) => (from_json(cluster), from_json(own)),
    };
    let all = || client.clone();
    let role = |kind: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": namespace});
    let binding = |kind: &str| {
        let subjects = json!([{"kind": "ServiceAccount", "name": "provisioner", "namespace": namespace}]);
        json!({"metadata": {"name": namespace}, "roleRef": role(kind), "subjects": subjects})
    };
    let rules = |rules: Vec<PolicyRule>| json!({"metadata": {"name": namespace}, "rules": rules});
    create(&Api::namespaced(all(), namespace), named::<ServiceAccount>("provisioner")).await;
    create::<ClusterRole>(&Api::all(all()), from_json(rules(cluster))).await;
    create::<ClusterRoleBinding>(&Api::all(all()), from_json(binding("ClusterRole"))).await;
    create::<Role>(&Api::namespaced(all(), namespace), from_json(rules(own))).await;
    create::<RoleBinding>(&Api::namespaced(all(), namespace), from_json(binding("Role"))).await;
}

/// A token of that ServiceAccount.
pub(crate) async fn token(client: &Client, namespace: &str) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
    let answer = accounts.create_token_request("provisioner", &PostParams::default(), &request).await;
    answer.expect("a token").status.expect("a token").token
}

/// The rules of `rbac/rbac.yaml`: of the whole cluster, and of the provisioner's own namespace.
pub(crate) fn rules_of_rbac() -> (Vec<PolicyRule>, Vec<PolicyRule>) {
    let documents = documents(&Path::new(env!("CARGO_MANIFEST_DIR")).join("rbac/rbac.yaml"));
    let of = |kind: &str| {
        let object = documents.iter().find(|object| object["kind"] == kind).expect("a role");
        from_json(object["rules"].clone())
    };
    (of("ClusterRole"), of("Role"))
}

/// The documents of a YAML file.
pub(crate) fn documents(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).expect("a file");
    text.split("\n---").map(|document| serde_saphyr::from_str(document).expect("YAML")).collect()
}

pub(crate) fn write_kubeconfig(of_admin: &Path, token: &str, to: &Path) {
    let mut config = Kubeconfig::read_from(of_admin).expect("a kubeconfig");
    for user in &mut config.auth_infos {
        let info = user.auth_info.as_mut().expect("a user");
        info.token = None;
    }
    let mut config = serde_json::to_value(config).expect("JSON");
    config["users"][0]["user"]["token"] = token.into();
    // JSON is YAML.
    fs::write(to, config.to_string()).expect("a file");
}

pub(crate) fn named<K: serde::de::DeserializeOwned>(name: &str) -> K {
    from_json(json!({"metadata": {"name": name}}))
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

pub(crate) async fn create<K>(api: &Api<K>, object: K) -> K
where
    K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    api.create(&PostParams::default(), &object).await.expect("an object to be created")
}

/// A JSON merge patch: null removes.
pub(crate) fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch,
    }
}

/// The annotations of an object, none being empty.
pub(crate) fn annotations(metadata: &kube::core::ObjectMeta) -> BTreeMap<String, String> {
    metadata.annotations.clone().unwrap_or_default()
}
