//! The API calls we make, by what they are for.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Error as KubeError};
use serde_json::json;
use tokio::time::timeout;

use crate::cluster::slim::Slim;
use crate::model::claim::SourceClaim;
use crate::model::class::Class;
use crate::model::expansion::Expansion;
use crate::model::volume::{FINALIZER, NewVolume, Volume};
use crate::values::names::{ClassName, VolumeName};
use crate::values::quantity::STORAGE;

/// How long the API server may take to answer one request.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How many volumes are read at a time: it bounds our memory.
const PAGE: u32 = 100;

/// Why a call on the API failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// There was no answer in time.
    #[error("the API server did not answer within {} s", ANSWER_MAX.as_secs())]
    Timeout,
    /// An object of that name is there, and it is not the one we were to make.
    #[error("a PersistentVolume {0:?} exists already that was not made here for this claim")]
    Taken(VolumeName),
    /// The API server refused, or could not be reached.
    #[error("{}", in_words(.0))]
    Kube(KubeError),
}

/// The API server's own words where it has said something, else the whole chain of what went wrong. On one line:
/// webhooks have the API server say what tenants have written.
fn in_words(error: &KubeError) -> String {
    if let KubeError::Api(status) = error {
        return status.message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    }
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        source = cause.source();
    }
    words
}

impl ApiError {
    /// Whether the API server says that there is no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Kube(KubeError::Api(status)) if status.is_not_found())
    }

    /// Whether the API server says that the object is not the one any more that the request was made for.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Kube(KubeError::Api(status)) if status.is_conflict())
    }

    /// Whether the API server says that we may not.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Kube(KubeError::Api(status)) if status.is_forbidden())
    }

    /// Whether the request certainly had no effect: the API server has said no. Otherwise it may have had.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Taken(_) => true,
            Self::Kube(KubeError::Api(status)) => (400..500).contains(&status.code) && status.code != 408,
            Self::Kube(_) | Self::Timeout => false,
        }
    }
}

/// Makes a call, giving up when the answer takes too long.
///
/// # Errors
/// Those of the call, and [`ApiError::Timeout`].
pub async fn answered<T>(call: impl Future<Output = Result<T, KubeError>>) -> Result<T, ApiError> {
    timeout(ANSWER_MAX, call).await.map_err(|_| ApiError::Timeout)?.map_err(ApiError::Kube)
}

/// When a volume that was to be deleted went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// This call has deleted it.
    Now,
    /// It was not there any more.
    Before,
}

/// The API server, as the provisioner uses it.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    volumes: Api<Slim<PersistentVolume>>,
    classes: Api<StorageClass>,
    provisioner: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("provisioner", &self.provisioner).finish_non_exhaustive()
    }
}

impl Cluster {
    /// `provisioner` is our name.
    #[must_use]
    pub fn new(client: Client, provisioner: &str) -> Self {
        let (volumes, classes) = (Api::all(client.clone()), Api::all(client.clone()));
        Self { client, volumes, classes, provisioner: provisioner.to_owned() }
    }

    /// Creates a volume. One that is there already is success if it is the same, see [`NewVolume::is`].
    ///
    /// # Errors
    /// Returns any API error; [`ApiError::Taken`] if another volume has the name.
    pub async fn create_volume(&self, volume: &NewVolume) -> Result<(), ApiError> {
        match answered(self.volumes.create(&PostParams::default(), &Slim(volume.object()))).await {
            Ok(_) => Ok(()),
            Err(ApiError::Kube(KubeError::Api(status))) if status.is_already_exists() => {
                // It may also have gone meanwhile: the next try tells.
                let there = self.volume(&volume.name()).await?;
                let is_it = there.is_some_and(|there| volume.is(&there));
                if is_it { Ok(()) } else { Err(ApiError::Taken(volume.name())) }
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a volume; `None` if there is none.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn volume(&self, name: &VolumeName) -> Result<Option<Volume>, ApiError> {
        Ok(answered(self.volumes.get_opt(name.as_str())).await?.map(|volume| Volume::read(&volume.0)))
    }

    /// Reads what a copy of a claim takes to know of it; `None` if there is no such claim.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn source_claim(&self, namespace: &str, name: &str) -> Result<Option<SourceClaim>, ApiError> {
        let claims: Api<Slim<PersistentVolumeClaim>> = Api::namespaced(self.client.clone(), namespace);
        // Under the RBAC of the peer's users claims may be listed; that they may be got is not said.
        let only = ListParams::default().fields(&format!("metadata.name={name}"));
        Ok(answered(claims.list(&only)).await?.items.first().map(|claim| SourceClaim::read(&claim.0)))
    }

    /// Reads a class; `None` if there is none.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn class(&self, name: &ClassName) -> Result<Option<Class>, ApiError> {
        if name.is_empty() {
            return Ok(None);
        }
        Ok(answered(self.classes.get_opt(name.as_str())).await?.as_ref().map(Class::read))
    }

    /// Reads all volumes, page by page.
    ///
    /// # Errors
    /// Returns any API error. What was read until then has been given to `each`.
    pub async fn volumes(&self, mut each: impl FnMut(Volume)) -> Result<(), ApiError> {
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = answered(self.volumes.list(&params)).await?;
            page.items.iter().map(|volume| Volume::read(&volume.0)).for_each(&mut each);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(()),
            }
        }
    }

    /// Puts our finalizer on a volume.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn protect(&self, volume: &Volume) -> Result<(), ApiError> {
        self.patch(volume, json!({ "finalizers": [FINALIZER], "uid": volume.uid })).await
    }

    /// Takes our finalizer off a volume. One that has gone is success.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn unprotect(&self, volume: &Volume) -> Result<(), ApiError> {
        let metadata = json!({ "$deleteFromPrimitiveList/finalizers": [FINALIZER], "uid": volume.uid });
        match self.patch(volume, metadata).await {
            Err(ApiError::Kube(KubeError::Api(status))) if status.is_not_found() || status.is_conflict() => Ok(()),
            result => result,
        }
    }

    /// Gives a volume another capacity, if it is still as it was read.
    ///
    /// # Errors
    /// Those of the API server; a conflict if it has changed since.
    pub async fn grow_volume(&self, volume: &Volume, capacity: &Quantity) -> Result<(), ApiError> {
        let patch = Patch::Strategic(json!({
            "metadata": {"uid": volume.uid, "resourceVersion": volume.resource_version},
            "spec": {"capacity": {STORAGE: capacity}},
        }));
        answered(self.volumes.patch(volume.name.as_str(), &PatchParams::default(), &patch)).await.map(drop)
    }

    /// Says in a claim's status what capacity it has now, and that it is not being resized, if it is still as it was
    /// read.
    ///
    /// # Errors
    /// Those of the API server; a conflict if it has changed since.
    pub async fn grow_claim(&self, claim: &Expansion, capacity: &Quantity) -> Result<(), ApiError> {
        let mut status = json!({
            "capacity": {STORAGE: capacity},
            "allocatedResources": {STORAGE: null},
            "allocatedResourceStatuses": {STORAGE: null},
        });
        // One that is not there cannot be taken out: it would be put in.
        let conditions: Vec<_> =
            claim.conditions.iter().map(|kind| json!({"$patch": "delete", "type": kind})).collect();
        if let (false, Some(status)) = (conditions.is_empty(), status.as_object_mut()) {
            status.insert("conditions".to_owned(), conditions.into());
        }
        let metadata = json!({"uid": claim.claim.uid.as_str(), "resourceVersion": claim.resource_version});
        let patch = Patch::Strategic(json!({"metadata": metadata, "status": status}));
        let claims: Api<Slim<PersistentVolumeClaim>> =
            Api::namespaced(self.client.clone(), &claim.claim.namespace);
        answered(claims.patch_status(&claim.claim.name, &PatchParams::default(), &patch)).await.map(drop)
    }

    /// Changes a volume's metadata. The uid in it makes sure that it is the same volume.
    async fn patch(&self, volume: &Volume, metadata: serde_json::Value) -> Result<(), ApiError> {
        let patch = Patch::Strategic(json!({ "metadata": metadata }));
        answered(self.volumes.patch_metadata(volume.name.as_str(), &PatchParams::default(), &patch))
            .await
            .map(drop)
    }

    /// Deletes this volume, by its uid, and never a later one of the same name. Returns [`Gone::Before`] if it was gone
    /// already.
    ///
    /// # Errors
    /// Returns any API error.
    pub async fn delete_volume(&self, volume: &Volume) -> Result<Gone, ApiError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(volume.uid.to_string()), resource_version: None }),
            ..DeleteParams::default()
        };
        match answered(self.volumes.delete(volume.name.as_str(), &params)).await {
            Ok(_) => Ok(Gone::Now),
            // A conflict is another uid: ours has gone.
            Err(ApiError::Kube(KubeError::Api(status))) if status.is_not_found() || status.is_conflict() => {
                Ok(Gone::Before)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn what_the_api_server_says_is_one_line() {
        let said = Status::failure("denied:\n\u{1b}[1mforged", "Forbidden");
        assert_eq!(ApiError::Kube(KubeError::Api(said.boxed())).to_string(), "denied:  [1mforged");
    }
}
