//! What the API server's audit log says of volumes and claims.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

use crate::checker::{Fate, History, NEVER, State, Time, When};
use crate::support::space::PATH;

/// Has the API server write down all that is done to volumes and claims, in full.
pub(crate) const POLICY: &str = r#"{
    "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "RequestResponse", "verbs": ["create", "update", "patch", "delete"],
            "resources": [{"resources": [
                "persistentvolumes", "persistentvolumes/status", "persistentvolumeclaims", "persistentvolumeclaims/status"
            ]}]
        },
        {"level": "None"}
    ]
}"#;

/// One change of an object.
struct Change<'a> {
    version: u64,
    when: When,
    object: &'a Value,
    removed: bool,
}

/// Reads an audit log. `fates` has the fate that each class of `provisioner` says.
pub(crate) fn read(log: &Path, provisioner: &str, fates: &BTreeMap<String, Fate>) -> History {
    let text = fs::read_to_string(log).expect("an audit log");
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    let mut changes: BTreeMap<(bool, String), Vec<Change<'_>>> = BTreeMap::new();
    for event in &events {
        let object = &event["responseObject"];
        let is_volume = object["kind"] == "PersistentVolume";
        let is_claim = object["kind"] == "PersistentVolumeClaim";
        let code = event["responseStatus"]["code"].as_u64().unwrap_or(500);
        if event["stage"] != "ResponseComplete" || code >= 300 || !(is_volume || is_claim) {
            continue;
        }
        let metadata = &object["metadata"];
        let held = metadata["finalizers"].as_array().is_some_and(|all| !all.is_empty());
        let goes = event["verb"] == "delete" || metadata["deletionTimestamp"].is_string();
        let change = Change {
            version: metadata["resourceVersion"]
                .as_str()
                .and_then(|version| version.parse().ok())
                .expect("a version"),
            when: When(time(&event["requestReceivedTimestamp"]), time(&event["stageTimestamp"])),
            object,
            removed: goes && !held,
        };
        let key = if is_volume { &metadata["name"] } else { &metadata["uid"] };
        changes.entry((is_volume, key.as_str().expect("a key").to_owned())).or_default().push(change);
    }
    let mut history = History::default();
    for ((is_volume, key), mut changes) in changes {
        changes.sort_by_key(|change| (change.removed, change.version));
        if is_volume {
            history.volumes.insert(key, states(&changes, provisioner, fates));
        } else if let Some(gone) = changes.iter().find(|change| change.removed) {
            history.claims_gone.insert(key, gone.when);
        }
    }
    history
}

fn time(text: &Value) -> Time {
    let time: Timestamp = text.as_str().and_then(|text| text.parse().ok()).expect("a time");
    time.as_microsecond()
}

fn states(changes: &[Change<'_>], provisioner: &str, fates: &BTreeMap<String, Fate>) -> Vec<State> {
    let mut states = Vec::new();
    for (number, change) in changes.iter().enumerate().filter(|(_, change)| !change.removed) {
        let Value::Object(spec) = &change.object["spec"] else { panic!("a volume without a spec") };
        let annotations = &change.object["metadata"]["annotations"];
        let path = spec["nfs"]["path"].as_str().expect("an NFS volume");
        let is_ours = annotations["pv.kubernetes.io/provisioned-by"] == provisioner;
        let is_released = change.object["status"]["phase"] == "Released";
        let said = match annotations["nfs-provisioner/on-delete"].as_str() {
            Some("retain") => Some(Fate::Retain),
            Some("archive") => Some(Fate::Archive),
            Some("delete") => Some(Fate::Delete),
            _ => fates.get(spec["storageClassName"].as_str().unwrap_or_default()).copied(),
        };
        states.push(State {
            begin: change.when,
            end: changes.get(number + 1).map_or(NEVER, |next| next.when),
            path: path.strip_prefix(&format!("{PATH}/")).expect("a path beneath the export").to_owned(),
            may_go: is_ours && is_released && spec["persistentVolumeReclaimPolicy"] == "Delete",
            disposed: annotations["nfs-provisioner/disposed"].is_string(),
            claim: spec.get("claimRef").and_then(|claim| Some(claim["uid"].as_str()?.to_owned())),
            fate: said.unwrap_or(Fate::Retain),
        });
    }
    states
}
