//! The objects by which a directory on an export is a volume with a claim again.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    NFSVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::ObjectMeta;

use crate::decide::record;
use crate::layout::{ClusterMark, Note};
use crate::model::class::Class;
use crate::model::exports::Location;
use crate::model::volume::{NfsSource, ReclaimPolicy, Volume, annotation};
use crate::values::address::ExportAddress;
use crate::values::path::RelPath;
use crate::values::quantity::{STORAGE, billionths};
use crate::values::text::fnv1a;

/// What is asked for otherwise than the note says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// The claim's namespace and name.
    pub claim: Option<(String, String)>,
    /// The class's name.
    pub class: Option<String>,
    /// The size, as Kubernetes spells it.
    pub size: Option<String>,
}

/// A volume and a claim to be made for a directory that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revival {
    /// The volume's name.
    pub volume: String,
    /// The claim's namespace.
    pub namespace: String,
    /// The claim's name.
    pub claim: String,
    /// The path of the directory beneath the export.
    pub directory: RelPath,
    class: String,
    size: String,
    access_modes: Vec<String>,
    mount_options: Vec<String>,
    /// The reclaim policy that the volume has in the end.
    pub policy: ReclaimPolicy,
    source: NfsSource,
    annotations: BTreeMap<String, String>,
}

/// Reads `NAMESPACE/CLAIM`.
///
/// # Errors
/// Says what it must be.
pub fn claim_name(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, claim)) if !namespace.is_empty() && !claim.is_empty() && !claim.contains('/') => {
            Ok((namespace.to_owned(), claim.to_owned()))
        }
        _ => Err(format!("must be NAMESPACE/CLAIM, not {text:?}")),
    }
}

/// Makes a name for the volume of a directory of which no name is known. It is the same each time.
#[must_use]
pub fn name_for(export: &ExportAddress, directory: &str) -> String {
    format!("nfs-{:016x}", fnv1a(format!("{export}/{directory}").as_bytes()))
}

impl Revival {
    /// Decides on the objects for a directory: by the wish, else by its note; what neither says, the class does. `class`
    /// is the one that the volume will name, if it exists.
    ///
    /// # Errors
    /// Says what has to be told for want of a note.
    pub fn new(
        directory: &RelPath,
        export: &ExportAddress,
        note: Option<&Note>,
        wish: &Wish,
        class: Option<&Class>,
        provisioner: &str,
    ) -> Result<Self, String> {
        let noted =
            |of: fn(&Note) -> Option<&str>| note.and_then(of).filter(|text| !text.is_empty()).map(str::to_owned);
        let noted_claim =
            || Some((noted(|note| note.namespace.as_deref())?, noted(|note| note.claim.as_deref())?));
        let unnoted = |what: &str| format!("no note tells {what} of {:?}: say it", directory.as_str());
        let (namespace, claim) = wish
            .claim
            .clone()
            .or_else(noted_claim)
            .ok_or_else(|| unnoted("the claim") + " by --as NAMESPACE/CLAIM")?;
        let size = wish.size.clone().or_else(|| noted(|note| note.capacity.as_deref()));
        let size = size.ok_or_else(|| unnoted("the size") + " by --size, such as 10Gi")?;
        if billionths(&size).is_none() {
            return Err(format!("the size {size:?} is no quantity such as 10Gi"));
        }
        let texts = |all: &[Box<str>]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        let access_modes = note.map(|note| texts(&note.access_modes)).filter(|modes| !modes.is_empty());
        let mount_options = match (note, class) {
            (Some(note), _) if wish.class.is_none() => texts(&note.mount_options),
            (_, class) => class.map(|class| class.mount_options.clone()).unwrap_or_default(),
        };
        let recorded = noted(|note| note.reclaim_policy.as_deref()).filter(|_| wish.class.is_none());
        let policy =
            recorded.map(|policy| ReclaimPolicy::read(&policy)).or_else(|| class.map(|class| class.reclaim));
        let named = wish.class.clone().or_else(|| noted(|note| Some(&note.class)));
        let said = [
            (annotation::PROVISIONED_BY, Some(provisioner.to_owned())),
            (annotation::ON_DELETE_OF_CLASS, fate(note, wish, class)),
            (annotation::ON_DELETE_OF_CLAIM, noted(|note| note.on_delete_of_claim.as_deref())),
            (annotation::ON_DELETE, noted(|note| note.on_delete_of_volume.as_deref())),
            (annotation::DELETE_RETENTION, noted(|note| note.delete_retention.as_deref())),
            (annotation::DELETE_RETENTION_MIN_FREE, noted(|note| note.delete_retention_min_free.as_deref())),
            (annotation::ARCHIVE_RETENTION, noted(|note| note.archive_retention.as_deref())),
            (annotation::GID, note.and_then(|note| note.gid).map(|gid| gid.to_string())),
        ];
        Ok(Self {
            volume: noted(|note| Some(&note.volume)).unwrap_or_else(|| name_for(export, directory.as_str())),
            namespace,
            claim,
            directory: directory.clone(),
            class: named.unwrap_or_default(),
            size,
            access_modes: access_modes.unwrap_or_else(|| vec!["ReadWriteMany".to_owned()]),
            mount_options,
            // What nobody says is kept.
            policy: policy.unwrap_or(ReclaimPolicy::Retain),
            source: NfsSource { server: export.server_name().into(), path: export.volume_path(directory).into() },
            annotations: said.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect(),
        })
    }

    /// Returns the same, with what a volume has that was made for it before.
    #[must_use]
    pub fn with(mut self, made: &Volume) -> Self {
        self.volume = made.name.to_string();
        self.class = made.class.to_string();
        self.access_modes = made.access_modes.iter().map(ToString::to_string).collect();
        if let Some(capacity) = &made.capacity {
            self.size.clone_from(&capacity.0);
        }
        if let Some(claim) = &made.claim {
            (self.namespace, self.claim) = (claim.namespace.to_string(), claim.name.to_string());
        }
        self
    }

    /// Spells the volume, with this reclaim policy, and an annotation besides the usual ones if there is one. It names the
    /// claim without its uid, so that no other can have it, and that one can.
    #[must_use]
    pub fn volume_object(&self, policy: ReclaimPolicy, besides: Option<(&str, &str)>) -> PersistentVolume {
        let mut annotations = self.annotations.clone();
        annotations.extend(besides.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let metadata = ObjectMeta {
            name: Some(self.volume.clone()),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        };
        let spec = PersistentVolumeSpec {
            access_modes: Some(self.access_modes.clone()),
            capacity: Some(BTreeMap::from([(STORAGE.to_owned(), Quantity(self.size.clone()))])),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                namespace: Some(self.namespace.clone()),
                name: Some(self.claim.clone()),
                ..ObjectReference::default()
            }),
            mount_options: (!self.mount_options.is_empty()).then(|| self.mount_options.clone()),
            nfs: Some(NFSVolumeSource {
                server: self.source.server.to_string(),
                path: self.source.path.to_string(),
                read_only: None,
            }),
            persistent_volume_reclaim_policy: Some(policy.as_str().to_owned()),
            storage_class_name: Some(self.class.clone()),
            ..PersistentVolumeSpec::default()
        };
        PersistentVolume { metadata, spec: Some(spec), status: None }
    }

    /// Spells the claim, which names the volume.
    #[must_use]
    pub fn claim_object(&self) -> PersistentVolumeClaim {
        let metadata = ObjectMeta {
            namespace: Some(self.namespace.clone()),
            name: Some(self.claim.clone()),
            ..ObjectMeta::default()
        };
        let requests = BTreeMap::from([(STORAGE.to_owned(), Quantity(self.size.clone()))]);
        let spec = PersistentVolumeClaimSpec {
            access_modes: Some(self.access_modes.clone()),
            resources: Some(VolumeResourceRequirements { requests: Some(requests), limits: None }),
            // Empty is none, which is not the same as unset: that is the default class.
            storage_class_name: Some(self.class.clone()),
            volume_name: Some(self.volume.clone()),
            ..PersistentVolumeClaimSpec::default()
        };
        PersistentVolumeClaim { metadata, spec: Some(spec), status: None }
    }

    /// Returns the name of the class that the volume will name; empty for none.
    #[must_use]
    pub fn class_of(note: Option<&Note>, wish: &Wish) -> String {
        let noted = || note.map(|note| note.class.to_string());
        wish.class.clone().or_else(noted).unwrap_or_default()
    }

    /// Returns the note of the volume, at its directory. The directory is as `from` tells.
    #[must_use]
    pub fn note(&self, from: Option<&Note>, at: &Location, cluster: &ClusterMark) -> Note {
        let volume = Volume::read(&self.volume_object(self.policy, None));
        let owners = from.and_then(|note| note.owners.clone());
        Note { created: Some(Timestamp::now()), owners, ..record::of_volume(&volume, at, cluster) }
    }
}

/// Returns the fate that the class sets, as the volume records it.
fn fate(note: Option<&Note>, wish: &Wish, class: Option<&Class>) -> Option<String> {
    let by_class = || class.map(|class| class.parameters.fate.to_string());
    let noted = note.and_then(|note| note.on_delete.as_deref()).filter(|_| wish.class.is_none());
    noted.map(str::to_owned).or_else(by_class)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn note() -> Note {
        let text = r#"{"version":1,"directory":"shop/data","volume":"pvc-1","class":"nfs","namespace":"shop","claim":"data",
            "capacity":"1Gi","accessModes":["ReadWriteOnce"],"mountOptions":["hard"],"reclaimPolicy":"Delete",
            "onDelete":"archive","gid":2000}"#;
        Note::parse(text).unwrap()
    }

    fn revived(note: Option<&Note>, wish: &Wish) -> Result<Revival, String> {
        let export = ExportAddress::new("nas".into(), "/export".into());
        Revival::new(&RelPath::parse("shop/data").unwrap(), &export, note, wish, None, "us")
    }

    #[test]
    fn the_note_says_what_the_objects_are_like() {
        let revival = revived(Some(&note()), &Wish::default()).unwrap();
        let volume = serde_json::to_value(revival.volume_object(ReclaimPolicy::Retain, Some(("k", "v")))).unwrap();
        let expected = json!({
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "mountOptions": ["hard"],
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "shop", "name": "data"},
            "nfs": {"server": "nas", "path": "/export/shop/data"}, "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "nfs",
        });
        assert_eq!((&volume["spec"], &volume["metadata"]["name"]), (&expected, &json!("pvc-1")));
        let annotations = json!({
            annotation::PROVISIONED_BY: "us", annotation::ON_DELETE_OF_CLASS: "archive", annotation::GID: "2000", "k": "v",
        });
        assert_eq!(volume["metadata"]["annotations"], annotations);
        let claim = serde_json::to_value(revival.claim_object()).unwrap();
        let expected = json!({
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "nfs",
            "volumeName": "pvc-1",
        });
        assert_eq!(
            (&claim["spec"], &claim["metadata"]),
            (&expected, &json!({"namespace": "shop", "name": "data"}))
        );
        assert_eq!(revival.policy, ReclaimPolicy::Delete);
    }

    #[test]
    fn without_a_note_all_that_is_needed_has_to_be_said() {
        let as_claim = Wish { claim: claim_name("a/b").ok(), ..Wish::default() };
        assert!(revived(None, &Wish::default()).is_err_and(|words| words.contains("--as NAMESPACE/CLAIM")));
        assert!(revived(None, &as_claim).is_err_and(|words| words.contains("--size")));
        let torn = Wish { size: Some("much".into()), ..as_claim.clone() };
        assert!(revived(None, &torn).is_err_and(|words| words.contains("much")));
        let revival = revived(None, &Wish { size: Some("1Gi".into()), ..as_claim }).unwrap();
        assert_eq!((revival.policy, &*revival.claim), (ReclaimPolicy::Retain, "b"));
        assert!(revival.volume.starts_with("nfs-") && revival.access_modes == ["ReadWriteMany"]);
    }

    #[test]
    fn claims_are_named_with_their_namespaces() {
        assert_eq!(claim_name("a/b"), Ok(("a".to_owned(), "b".to_owned())));
        for text in ["", "a", "/", "a/", "/b", "a/b/c"] {
            assert!(claim_name(text).is_err(), "{text}");
        }
    }
}
