//! From nfs-subdir-external-provisioner to us and back: what one has made, the other reclaims.
//!
//! Upstream (that is, nfs-subdir-external-provisioner) is emulated: the objects that it writes and how it reclaims, by
//! the rights that it has.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::manifests::as_deployed;
use crate::reclaim::name_of;
use crate::rights::rules_of_the_peer;
use crate::support::eventually;
use crate::support::plane::{Plane, client};
use crate::support::process::Process;
use crate::support::space::{
    PATH, Rules, SERVER, Space, annotations, create, documents, from_json, grant, named, token, write_kubeconfig,
};

/// Its releases, which write the same objects and find their directories again in different ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    /// v4.0.2, which its chart and manifests install: by the last component of a volume's path.
    Tagged,
    /// Its newest source: by putting the mount in the place of the export's path.
    Head,
}

struct Peer<'a> {
    space: &'a Space,
    client: Client,
    release: Release,
    _dir: TempDir,
}

impl<'a> Peer<'a> {
    /// With an account of its own, and the rights that its users grant it.
    async fn new(space: &'a Space, release: Release) -> Self {
        let namespace = format!("{}-peer", space.namespace);
        create(&Api::all(space.client.clone()), named::<Namespace>(&namespace)).await;
        grant(&space.client, &namespace, rules_of_the_peer()).await;
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("kubeconfig");
        write_kubeconfig(&space.plane.kubeconfig, &token(&space.client, &namespace).await, &kubeconfig);
        Self { space, client: client(&kubeconfig).await, release, _dir: dir }
    }

    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    /// Serves a claim; `rendered` is what its class's pattern makes of it, if it has one.
    async fn provision(&self, claim: &str, rendered: Option<&str>) -> String {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &self.space.namespace);
        let found = eventually("the claim to be ours to serve", || async {
            let found = claims.get(claim).await.ok()?;
            let asks = annotations(&found.metadata).get("volume.beta.kubernetes.io/storage-provisioner").cloned();
            (asks.as_deref() == Some(&*self.space.provisioner)).then_some(found)
        })
        .await;
        let (metadata, spec) = (found.metadata, found.spec.unwrap());
        let classes: Api<StorageClass> = Api::all(self.client.clone());
        let class = classes.get(spec.storage_class_name.as_deref().unwrap()).await.unwrap();
        let volume = format!("pvc-{}", metadata.uid.as_deref().unwrap());
        let flat = format!("{}-{claim}-{volume}", self.space.namespace);
        let directory = rendered.unwrap_or(&flat);
        fs::create_dir_all(self.space.at(directory)).unwrap();
        fs::set_permissions(self.space.at(directory), fs::Permissions::from_mode(0o777)).unwrap();
        let object = json!({
            "metadata": {
                "name": volume,
                "annotations": {"pv.kubernetes.io/provisioned-by": self.space.provisioner},
            },
            "spec": {
                "persistentVolumeReclaimPolicy": class.reclaim_policy,
                "accessModes": spec.access_modes,
                "mountOptions": class.mount_options,
                "capacity": {"storage": spec.resources.unwrap().requests.unwrap()["storage"]},
                "storageClassName": spec.storage_class_name,
                "claimRef": {
                    "kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": self.space.namespace,
                    "name": claim, "uid": metadata.uid, "resourceVersion": metadata.resource_version,
                },
                "nfs": {"server": SERVER, "path": format!("{PATH}/{directory}"), "readOnly": false},
            },
        });
        self.volumes().create(&PostParams::default(), &from_json(object)).await.unwrap();
        volume
    }

    /// Looks once at all volumes, and reclaims those that it takes for its own and released.
    async fn reclaim(&self) {
        for volume in self.volumes().list(&ListParams::default()).await.unwrap() {
            let provisioner = annotations(&volume.metadata).get("pv.kubernetes.io/provisioned-by").cloned();
            let is_released = volume.status.as_ref().unwrap().phase.as_deref() == Some("Released");
            let spec = volume.spec.as_ref().unwrap();
            if provisioner.as_deref() != Some(&*self.space.provisioner)
                || volume.metadata.deletion_timestamp.is_some()
                || !is_released
                || spec.persistent_volume_reclaim_policy.as_deref() != Some("Delete")
            {
                continue;
            }
            self.dispose(&volume).await;
            self.volumes().delete(name_of(&volume), &DeleteParams::default()).await.unwrap();
        }
    }

    async fn dispose(&self, volume: &PersistentVolume) {
        let path = &volume.spec.as_ref().unwrap().nfs.as_ref().unwrap().path;
        let mount = self.space.at("");
        let base = Path::new(path).file_name().unwrap().to_str().unwrap();
        let old = match self.release {
            Release::Tagged => mount.join(base),
            Release::Head => PathBuf::from(path.replacen(PATH, mount.to_str().unwrap(), 1)),
        };
        if !old.exists() {
            return;
        }
        let beta = annotations(&volume.metadata).get("volume.beta.kubernetes.io/storage-class").cloned();
        let class = beta.or_else(|| volume.spec.as_ref()?.storage_class_name.clone()).unwrap();
        let classes: Api<StorageClass> = Api::all(self.client.clone());
        let parameters = classes.get(&class).await.unwrap().parameters.unwrap_or_default();
        let value = |name: &str| parameters.get(name).map(String::as_str);
        match (value("onDelete"), value("archiveOnDelete")) {
            (Some("retain"), _) => {}
            (Some("delete"), _) | (_, Some("false")) => fs::remove_dir_all(old).unwrap(),
            (_, None | Some("true")) => {
                let archive = mount.join(format!("archived-{base}"));
                // Go refuses to rename onto what is there.
                assert!(!archive.exists(), "{}", archive.display());
                fs::rename(old, archive).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What is left of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Archived,
    Nothing,
    Directory,
}
use Left::{Archived, Directory, Nothing};

/// Claims, the parameters of their classes, whether their directories are in one of the namespace, and what is to be
/// left of those.
const CLAIMS: &[(&str, &str, bool, Left)] = &[
    ("plain", "{}", false, Archived),
    ("archived", r#"{"archiveOnDelete": "true"}"#, false, Archived),
    ("not-archived", r#"{"archiveOnDelete": "false"}"#, false, Nothing),
    ("deleted", r#"{"onDelete": "delete"}"#, false, Nothing),
    ("retained", r#"{"onDelete": "retain"}"#, false, Directory),
    ("nested", r#"{"pathPattern": "${.PVC.namespace}/${.PVC.name}"}"#, true, Archived),
    (
        "nested-deleted",
        r#"{"pathPattern": "${.PVC.namespace}/${.PVC.name}", "onDelete": "delete"}"#,
        true,
        Nothing,
    ),
];

/// Makes a claim of each kind, each with a class of its own.
async fn make_claims(space: &Space) {
    for (claim, parameters, ..) in CLAIMS {
        let parameters: Value = serde_json::from_str(parameters).unwrap();
        let class = json!({"parameters": parameters, "mountOptions": ["hard"], "allowVolumeExpansion": true});
        let class = space.class(claim, class).await;
        space.claim(claim, &class, json!({})).await;
    }
}

/// Waits until all are bound, and puts a file into each. Volumes and directories, in the order of the claims.
async fn fill(space: &Space) -> Vec<(String, String)> {
    let mut volumes = Vec::new();
    for (claim, ..) in CLAIMS {
        let volume = space.bound(claim).await;
        let directory = Space::directory(&volume);
        fs::write(space.at(&directory).join("file"), *claim).unwrap();
        volumes.push((name_of(&volume).to_owned(), directory));
    }
    volumes
}

fn left(space: &Space, claim: &str, directory: &str) -> Left {
    let has = |path: &str| fs::read_to_string(space.at(path).join("file")).is_ok_and(|text| text == claim);
    let base = directory.rsplit('/').next().unwrap();
    match (has(directory), has(&format!("archived-{base}"))) {
        (true, false) => Directory,
        (false, true) => Archived,
        (false, false) => Nothing,
        (true, true) => panic!("{claim} is there twice"),
    }
}

/// What is left of each claim's directory.
fn all_left(space: &Space, volumes: &[(String, String)]) -> Vec<(&'static str, Left)> {
    let directories = volumes.iter().map(|(_, directory)| directory);
    CLAIMS
        .iter()
        .zip(directories)
        .map(|((claim, ..), directory)| (*claim, left(space, claim, directory)))
        .collect()
}

/// What is to be left, if `dispose` says what becomes of what is nested and of the rest.
fn expected(is_found: impl Fn(bool) -> bool) -> Vec<(&'static str, Left)> {
    CLAIMS
        .iter()
        .map(|(claim, _, nested, left)| (*claim, if is_found(*nested) { *left } else { Directory }))
        .collect()
}

/// Has upstream reclaim until no volume is left that was made for this test.
async fn all_go(peer: &Peer<'_>) {
    eventually("all volumes to go", || async {
        peer.reclaim().await;
        let volumes = peer.volumes().list(&ListParams::default()).await.ok()?.items;
        let is_ours = |volume: &PersistentVolume| {
            annotations(&volume.metadata).get("pv.kubernetes.io/provisioned-by") == Some(&peer.space.provisioner)
        };
        (!volumes.iter().any(is_ours)).then_some(())
    })
    .await;
}

async fn reclaimed_by_us(release: Release) {
    let space = Space::new().await;
    let peer = Peer::new(&space, release).await;
    make_claims(&space).await;
    for (claim, _, nested, _) in CLAIMS {
        let rendered = format!("{}/{claim}", space.namespace);
        peer.provision(claim, nested.then_some(&rendered)).await;
    }
    let volumes = fill(&space).await;
    space.long_in_use(&volumes.last().unwrap().0).await;
    // Some are released while nobody runs.
    for (claim, ..) in &CLAIMS[..3] {
        space.delete_claim(claim).await;
    }
    space.phase(&volumes[0].0, "Released").await;

    let _provisioner = space.start();
    for (claim, ..) in &CLAIMS[3..] {
        space.delete_claim(claim).await;
    }
    for (volume, _) in &volumes {
        space.gone(volume).await;
    }
    eventually("what was deleted to be gone", || async {
        (all_left(&space, &volumes) == expected(|_| true)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn volumes_of_v4_0_2_are_reclaimed() {
    reclaimed_by_us(Release::Tagged).await;
}

#[tokio::test]
async fn volumes_of_its_newest_source_are_reclaimed() {
    reclaimed_by_us(Release::Head).await;
}

/// We run by upstream's rights alone, and then upstream again.
async fn rolled_back_under_the_peers_rights(release: Release) {
    let space = Space::on(Plane::shared(), rules_of_the_peer()).await;
    let provisioner = space.start();
    make_claims(&space).await;
    let volumes = fill(&space).await;
    for (volume, _) in &volumes {
        let volume = space.volumes().get(volume).await.unwrap();
        assert_eq!(volume.metadata.finalizers.unwrap(), ["kubernetes.io/pv-protection"]);
    }
    assert!(provisioner.stop().success());
    let peer = Peer::new(&space, release).await;
    for (claim, ..) in CLAIMS {
        space.delete_claim(claim).await;
    }
    all_go(&peer).await;
    // v4.0.2 does not find what is nested, whoever made it.
    let is_found = |nested: bool| release == Release::Head || !nested;
    assert_eq!(all_left(&space, &volumes), expected(is_found));
}

#[tokio::test]
async fn after_a_rollback_under_its_own_rights_v4_0_2_reclaims_our_volumes() {
    rolled_back_under_the_peers_rights(Release::Tagged).await;
}

#[tokio::test]
async fn after_a_rollback_under_its_own_rights_its_newest_source_reclaims_our_volumes() {
    rolled_back_under_the_peers_rights(Release::Head).await;
}

/// We run by our own rights, so volumes have finalizers, which are taken off before upstream runs again.
async fn rolled_back_after_finalizers(release: Release) {
    let space = Space::on(Plane::shared(), Rules::Ours).await;
    let provisioner = space.start();
    make_claims(&space).await;
    let volumes = fill(&space).await;
    assert!(provisioner.stop().success());
    let peer = Peer::new(&space, release).await;

    // While nobody runs, an admin deletes a bound volume, and a claim goes. Upstream, if it is started too early, deletes
    // that one's volume in vain.
    let (released, deleted) = (&volumes[0].0, &volumes[1].0);
    space.volumes().delete(deleted, &DeleteParams::default()).await.unwrap();
    space.delete_claim(CLAIMS[0].0).await;
    space.phase(released, "Released").await;
    peer.reclaim().await;
    for volume in [released, deleted] {
        let terminating = space.volumes().get(volume).await.unwrap().metadata;
        assert!(terminating.deletion_timestamp.is_some(), "{volume}");
        assert!(terminating.finalizers.unwrap().iter().any(|name| name.starts_with("external-provisioner.")));
    }

    let settings = space.settings();
    let output = Command::new(&settings.binary)
        .arg("remove-finalizers")
        .env_clear()
        .env("KUBECONFIG", &space.plane.kubeconfig)
        .env("PROVISIONER_NAME", &settings.provisioner)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    space.gone(released).await;
    for (claim, ..) in &CLAIMS[1..] {
        space.delete_claim(claim).await;
    }
    all_go(&peer).await;
    let mut left_over = expected(|nested| release == Release::Head || !nested);
    // Upstream never reclaims a volume that was deleted while it had a claim.
    left_over[1].1 = Directory;
    assert_eq!(all_left(&space, &volumes), left_over);
}

#[tokio::test]
async fn without_their_finalizers_v4_0_2_reclaims_our_volumes() {
    rolled_back_after_finalizers(Release::Tagged).await;
}

#[tokio::test]
async fn without_their_finalizers_its_newest_source_reclaims_our_volumes() {
    rolled_back_after_finalizers(Release::Head).await;
}

/// The objects of a file of `tests/manifests`, as the API server has kept those whose API version is gone.
fn kept(file: &Path) -> Vec<Value> {
    let mut objects = documents(file);
    for object in &mut objects {
        let version = match object["apiVersion"].as_str().unwrap() {
            "extensions/v1beta1" => "apps/v1",
            "storage.k8s.io/v1beta1" => "storage.k8s.io/v1",
            "rbac.authorization.k8s.io/v1alpha1" => "rbac.authorization.k8s.io/v1",
            version => version,
        };
        object["apiVersion"] = json!(version);
        if object["kind"] == "Deployment" && object["spec"]["selector"].is_null() {
            object["spec"]["selector"] = json!({"matchLabels": object["spec"]["template"]["metadata"]["labels"]});
        }
    }
    objects
}

/// Manifests of the old program's users, of several ages: only the image is changed, and their claims are served and
/// reclaimed under the environment and the ServiceAccount of their Deployment.
#[tokio::test]
async fn manifests_of_old_serve_claims_with_nothing_changed_but_the_image() {
    // They have each other's names, and those of deploy/.
    let plane = Plane::start();
    let client = plane.client().await;
    for (set, claims, left) in [
        ("deploy", &["test-claim"][..], Nothing),
        ("tutorial", &["test-claim", "of-the-default", "www-web-0", "www-web-1"], Archived),
        ("oldest", &["test-claim"], Archived),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests").join(set);
        let files = ["class.yaml", "rbac.yaml", "deployment.yaml", "all.yaml"].map(|file| manifests.join(file));
        let objects: Vec<Value> = files.iter().filter(|file| file.exists()).flat_map(|file| kept(file)).collect();
        let all = dir.path().join("all.json");
        fs::write(&all, json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()).unwrap();
        plane.kubectl(&["apply", "-f", all.to_str().unwrap()]);

        let of_kind = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap();
        let namespace = of_kind("Deployment")["metadata"]["namespace"].as_str().unwrap_or("default");
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        let template = async || {
            let found = deployments.get("nfs-client-provisioner").await.unwrap().spec.unwrap().template;
            let mut found = serde_json::to_value(found).unwrap();
            (found["spec"]["containers"][0]["image"].take(), found)
        };
        let before = template().await;
        let image = "nfs-client-provisioner=example.com/nfs-provisioner:1";
        let deployment = "deployment/nfs-client-provisioner";
        plane.kubectl(&["set", "image", deployment, image, "--namespace", namespace]);
        let after = template().await;
        assert_ne!(after.0, before.0, "{set}");
        assert_eq!(after.1, before.1, "{set}");

        let deployment = deployments.get("nfs-client-provisioner").await.unwrap();
        let settings = as_deployed(&plane, &deployment, dir.path()).await;
        let provisioner = Process::start(&settings);
        let users = manifests.join("claims.yaml");
        plane.kubectl(&["apply", "-f", users.to_str().unwrap()]);
        let bound: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
        let volumes: Api<PersistentVolume> = Api::all(client.clone());
        let class = of_kind("StorageClass")["metadata"]["name"].as_str().unwrap();
        let mut directories = Vec::new();
        for claim in claims {
            let name = eventually(&format!("{set}: {claim} to be bound"), || async {
                let found = bound.get_opt(claim).await.ok()??;
                (found.status?.phase? == "Bound").then_some(found.spec?.volume_name?)
            })
            .await;
            let volume = volumes.get(&name).await.unwrap();
            let asked = annotations(&volume.metadata).get("pv.kubernetes.io/provisioned-by").cloned();
            assert_eq!(asked.as_ref(), Some(&settings.provisioner), "{set}");
            let spec = volume.spec.unwrap();
            assert_eq!(spec.storage_class_name.as_deref(), Some(class), "{set}");
            let directory = format!("default-{claim}-{name}");
            let nfs = spec.nfs.unwrap();
            assert_eq!(
                (nfs.server, nfs.path),
                (settings.server.clone(), format!("{}/{directory}", settings.path))
            );
            assert!(settings.mount.join(&directory).is_dir(), "{set}: {directory}");
            directories.push(directory);
        }
        if set == "deploy" {
            plane.kubectl(&["wait", "pod/test-pod", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s"]);
        }

        plane.kubectl(&["delete", "-f", users.to_str().unwrap()]);
        plane.kubectl(&["delete", "pvc", "--all"]);
        for directory in directories {
            eventually(&format!("{set}: {directory} to be dealt with"), || async {
                let archived = settings.mount.join(format!("archived-{directory}")).is_dir();
                let found = match (settings.mount.join(&directory).is_dir(), archived) {
                    (true, _) => Directory,
                    (false, true) => Archived,
                    (false, false) => Nothing,
                };
                (found == left).then_some(())
            })
            .await;
        }
        eventually(&format!("{set}: the volumes to go"), || async {
            volumes.list(&ListParams::default()).await.ok()?.items.is_empty().then_some(())
        })
        .await;
        assert!(provisioner.stop().success(), "{set}");
        plane.kubectl(&["delete", "-f", all.to_str().unwrap()]);
    }
}
