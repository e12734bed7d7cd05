//! What the API server's audit log says of volumes, claims and classes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

use crate::checker::{Fate, History, NEVER, State, Time, When};
use crate::support::process::whole_lines;
use crate::support::space::PATH;

/// Has the API server write down all that is done to these objects, in full.
pub(crate) const POLICY: &str = r#"{
    "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "RequestResponse", "verbs": ["create", "update", "patch", "delete"],
            "resources": [
                {"resources": [
                    "persistentvolumes", "persistentvolumes/status", "persistentvolumeclaims", "persistentvolumeclaims/status"
                ]},
                {"group": "storage.k8s.io", "resources": ["storageclasses"]}
            ]
        },
        {"level": "None"}
    ]
}"#;

/// How long what a class said before may be believed, in microseconds: its watch is never silent for longer here.
const CLASS_BELIEVED: Time = 15_000_000;

/// One change of an object.
#[derive(Debug)]
struct Change {
    version: u64,
    when: When,
    object: Value,
    removed: bool,
}

/// The fates that a class has had, each from when on; none while it is not there.
type Fates = Vec<(When, Option<Fate>)>;

/// Reads an audit log.
pub(crate) fn read(log: &Path, provisioner: &str) -> History {
    let text = whole_lines(fs::read(log).expect("an audit log"));
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    let is_done = |event: &&Value| {
        let code = event["responseStatus"]["code"].as_u64().unwrap_or(500);
        event["stage"] == "ResponseComplete" && code < 300
    };
    let mut changes: BTreeMap<(bool, String), Vec<Change>> = BTreeMap::new();
    let mut classes: BTreeMap<String, Fates> = BTreeMap::new();
    for event in events.iter().filter(is_done) {
        let object = &event["responseObject"];
        let when = When(time(&event["requestReceivedTimestamp"]), time(&event["stageTimestamp"]));
        if event["objectRef"]["resource"] == "storageclasses" {
            let name = event["objectRef"]["name"].as_str().or_else(|| object["metadata"]["name"].as_str());
            let said = (event["verb"] != "delete").then(|| fate(&object["parameters"]["onDelete"])).flatten();
            classes.entry(name.expect("a name").to_owned()).or_default().push((when, said));
        }
        let is_volume = event["objectRef"]["resource"] == "persistentvolumes";
        if !is_volume && event["objectRef"]["resource"] != "persistentvolumeclaims" {
            continue;
        }
        let metadata = &object["metadata"];
        let held = metadata["finalizers"].as_array().is_some_and(|all| !all.is_empty());
        let goes = event["verb"] == "delete" || metadata["deletionTimestamp"].is_string();
        let version = metadata["resourceVersion"].as_str().and_then(|version| version.parse().ok());
        let version = version.expect("a version");
        let change = Change { version, when, object: object.clone(), removed: goes && !held };
        let key = if is_volume { &metadata["name"] } else { &metadata["uid"] };
        changes.entry((is_volume, key.as_str().expect("a key").to_owned())).or_default().push(change);
    }
    for fates in classes.values_mut() {
        fates.sort_by_key(|(when, _)| *when);
    }
    let mut history = History::default();
    for ((is_volume, key), mut changes) in changes {
        changes.sort_by_key(|change| (change.removed, change.version));
        make_whole(&mut changes);
        if is_volume {
            history.volumes.insert(key, states(&changes, provisioner, &classes));
            continue;
        }
        let volume = |change: &Change| change.object["spec"]["volumeName"].as_str().map(str::to_owned);
        // What is written there is never changed again; the phase follows.
        let is_served = |change: &&Change| {
            let is_leaving = change.object["metadata"]["deletionTimestamp"].is_string();
            change.removed || is_leaving || volume(change).is_some()
        };
        let bound = changes.iter().find_map(|change| Some((change.when, volume(change)?)));
        history.claims_bound.extend(bound.map(|bound| (key.clone(), bound)));
        if let Some(served) = changes.iter().find(is_served) {
            history.claims_served.insert(key.clone(), served.when);
        }
        if let Some(gone) = changes.iter().find(|change| change.removed) {
            history.claims_gone.insert(key, gone.when);
        }
    }
    history
}

/// Completes the answers to those who asked for the metadata alone: they have changed nothing else.
fn make_whole(changes: &mut [Change]) {
    let mut before = Value::Null;
    for change in changes {
        if change.object["kind"] == "PartialObjectMetadata" {
            assert!(before.is_object(), "{change:?} is the first of its object");
            before["metadata"] = change.object["metadata"].clone();
            change.object = before;
        }
        before = change.object.clone();
    }
}

fn time(text: &Value) -> Time {
    let time: Timestamp = text.as_str().and_then(|text| text.parse().ok()).expect("a time");
    time.as_microsecond()
}

fn fate(text: &Value) -> Option<Fate> {
    match text.as_str()? {
        "retain" => Some(Fate::Retain),
        "archive" => Some(Fate::Archive),
        "delete" => Some(Fate::Delete),
        _ => None,
    }
}

fn states(changes: &[Change], provisioner: &str, classes: &BTreeMap<String, Fates>) -> Vec<State> {
    let mut states = Vec::new();
    for (number, change) in changes.iter().enumerate() {
        let Change { object, when, removed, .. } = change;
        let (metadata, phase) = (&object["metadata"], &object["status"]["phase"]);
        let was_taken_away = *removed && metadata["deletionTimestamp"].is_string() && phase == "Bound";
        if *removed && !was_taken_away {
            continue;
        }
        let Value::Object(spec) = &object["spec"] else { panic!("a volume without a spec") };
        let annotations = &metadata["annotations"];
        let path = spec["nfs"]["path"].as_str().expect("an NFS volume");
        let is_ours = annotations["pv.kubernetes.io/provisioned-by"] == provisioner;
        let recorded = fate(&annotations["nfs-provisioner/on-delete-of-class"]).unwrap_or(Fate::Retain);
        let claim = spec.get("claimRef").and_then(|claim| Some(claim["uid"].as_str()?.to_owned()));
        let disposed = annotations["nfs-provisioner/disposed"].as_str();
        let state = State {
            begin: *when,
            end: changes.get(number + 1).map_or(NEVER, |next| next.when),
            path: path.strip_prefix(&format!("{PATH}/")).expect("a path beneath the export").to_owned(),
            is_taken_along: is_ours && spec["persistentVolumeReclaimPolicy"] == "Delete",
            // One that is taken away from its claim takes its directory along once the claim has gone, too.
            is_released: was_taken_away || phase == "Released",
            // Of this claim: an admin may have given the volume to another one since.
            is_disposed: disposed.is_some_and(|said| said.split(' ').next() == claim.as_deref()),
            claim,
            fate: fate(&annotations["nfs-provisioner/on-delete"]).unwrap_or(recorded),
        };
        let class = classes.get(spec["storageClassName"].as_str().unwrap_or_default());
        match class.filter(|_| annotations["nfs-provisioner/on-delete"].is_null()) {
            Some(fates) => states.extend(by_class(&state, fates, recorded)),
            None => states.push(state),
        }
    }
    states
}

/// A state of a volume whose class says what becomes of its directory, as often as that changes.
fn by_class(state: &State, fates: &Fates, recorded: Fate) -> Vec<State> {
    let mut states = Vec::new();
    for (number, (from, said)) in fates.iter().enumerate() {
        let believed = |when: When| When(when.0, when.1.saturating_add(CLASS_BELIEVED));
        // What it said first is known from the beginning.
        let from = if number == 0 { *from } else { believed(*from) };
        let to = fates.get(number + 1).map_or(NEVER, |(to, _)| believed(*to));
        let begin = When(state.begin.0.max(from.0), state.begin.1.max(from.1));
        let end = When(state.end.0.min(to.0), state.end.1.min(to.1));
        if begin.0 <= end.1 {
            states.push(State { begin, end, fate: said.unwrap_or(recorded), ..state.clone() });
        }
    }
    states
}
