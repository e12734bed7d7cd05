//! The null provisioner: the least that a provisioner can do. It creates the volume for each claim and deletes it
//! when it is released. No directories, no events, no finalizers, no retries.

use std::collections::HashSet;
use std::env;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::plane;
use crate::support::space::{PATH, SERVER, from_json};

/// As many requests at a time as this program makes.
const WORKERS: usize = 16;

const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

pub(crate) async fn run() {
    let provisioner = env::var("PROVISIONER_NAME").expect("PROVISIONER_NAME");
    let client = plane::client(Path::new(&env::var("KUBECONFIG").expect("KUBECONFIG"))).await;
    let claims: Api<PersistentVolumeClaim> = Api::all(client.clone());
    let volumes: Api<PersistentVolume> = Api::all(client);
    futures::join!(create(claims, volumes.clone(), &provisioner), delete(volumes, &provisioner));
}

async fn create(claims: Api<PersistentVolumeClaim>, volumes: Api<PersistentVolume>, provisioner: &str) {
    let free = Arc::new(Semaphore::new(WORKERS));
    let mut seen = HashSet::new();
    let mut events = std::pin::pin!(watcher(claims, watcher::Config::default().streaming_lists()));
    while let Some(event) = events.next().await {
        let Ok(Event::InitApply(claim) | Event::Apply(claim)) = event else { continue };
        let (metadata, spec) = (claim.metadata, claim.spec.expect("a spec"));
        let wanted = metadata.annotations.as_ref().and_then(|all| all.get(PROVISIONER));
        let uid = metadata.uid.expect("a uid");
        if spec.volume_name.is_some()
            || wanted.map(String::as_str) != Some(provisioner)
            || !seen.insert(uid.clone())
        {
            continue;
        }
        let name = format!("pvc-{uid}");
        let directory = format!(
            "{}-{}-{name}",
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default()
        );
        let volume: PersistentVolume = from_json(json!({
            "metadata": {"name": name, "annotations": {PROVISIONED_BY: provisioner}},
            "spec": {
                "accessModes": spec.access_modes, "capacity": spec.resources.and_then(|resources| resources.requests),
                "claimRef": {
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": metadata.namespace,
                    "name": metadata.name, "uid": uid, "resourceVersion": metadata.resource_version,
                },
                "nfs": {"server": SERVER, "path": format!("{PATH}/{directory}")},
                "persistentVolumeReclaimPolicy": "Delete", "storageClassName": spec.storage_class_name,
            },
        }));
        let permit = Arc::clone(&free).acquire_owned().await.expect("never closed");
        let volumes = volumes.clone();
        tokio::spawn(async move {
            volumes.create(&PostParams::default(), &volume).await.expect("a volume");
            drop(permit);
        });
    }
}

async fn delete(volumes: Api<PersistentVolume>, provisioner: &str) {
    let free = Arc::new(Semaphore::new(WORKERS));
    let mut seen = HashSet::new();
    let mut events = std::pin::pin!(watcher(volumes.clone(), watcher::Config::default().streaming_lists()));
    while let Some(event) = events.next().await {
        let Ok(Event::InitApply(volume) | Event::Apply(volume)) = event else { continue };
        let metadata = volume.metadata;
        let maker = metadata.annotations.as_ref().and_then(|all| all.get(PROVISIONED_BY));
        let released = volume.status.and_then(|status| status.phase).as_deref() == Some("Released");
        let name = metadata.name.expect("a name");
        if !released || maker.map(String::as_str) != Some(provisioner) || !seen.insert(name.clone()) {
            continue;
        }
        let permit = Arc::clone(&free).acquire_owned().await.expect("never closed");
        let volumes = volumes.clone();
        tokio::spawn(async move {
            let _ = volumes.delete(&name, &DeleteParams::default()).await;
            drop(permit);
        });
    }
}
