//! What holds for every input, tried with random hostile ones.
//!
//! By proptest, which makes text of the pieces that hurt, and shrinks what fails to what one can read. Targets for
//! coverage-guided fuzzers are in `fuzz.rs`.
//!
//! `make test` tries the same few hundred inputs each time; `make fuzz` tries new ones, each property for as many
//! seconds as `PROPERTY_SECONDS` says. What fails is to become a row of a table beside the code.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "what helpers of tests do when they fail"
)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use nfs_provisioner::cluster::state::ClusterState;
use nfs_provisioner::decide::choice::There;
use nfs_provisioner::decide::claim::{ClaimFacts, ClaimPlan, for_claim};
use nfs_provisioner::decide::copy::Origin;
use nfs_provisioner::decide::expansion::{ExpansionFacts, ExpansionPlan, for_expansion};
use nfs_provisioner::decide::scope::Scope;
use nfs_provisioner::decide::volume::{VolumeFacts, VolumePlan, for_volume};
use nfs_provisioner::layout::archive_name;
use nfs_provisioner::layout::{ARCHIVE_PREFIX, RESERVED_PREFIX};
use nfs_provisioner::ledger::placements::{Conflict, Placements, Relation};
use nfs_provisioner::ledger::{Reservation, ReserveError};
use nfs_provisioner::model::claim::Claim;
use nfs_provisioner::model::class::Class;
use nfs_provisioner::model::expansion::Expansion;
use nfs_provisioner::model::exports::{Exports, Location};
use nfs_provisioner::model::parameters::{Fate, Parameters, parameter};
use nfs_provisioner::model::volume::Volume;
use nfs_provisioner::values::address::ExportAddress;
use nfs_provisioner::values::headroom::{Headroom, Requirements};
use nfs_provisioner::values::names::VolumeName;
use nfs_provisioner::values::path::{NAME_MAX, PATH_MAX, RelPath};
use nfs_provisioner::values::pattern::{Facts, Pattern};
use nfs_provisioner::values::quantity::exceeds;
use nfs_provisioner::values::text::go_bool;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestRng, TestRunner};
use serde_json::json;

const OURS: &str = "example.com/nfs";

/// How many inputs `make test` tries for each property.
const CASES: u32 = 400;

/// Tries `property` with many of `inputs`, and shows the simplest that it does not hold for.
fn holds<S: Strategy>(inputs: S, property: impl Fn(S::Value) -> TestCaseResult) {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let time = std::env::var("PROPERTY_SECONDS").ok().map(|text| Duration::from_secs(text.parse().unwrap()));
    let (started, tried) = (Instant::now(), Cell::new(0_u64));
    let counted = |input| {
        tried.set(tried.get() + 1);
        property(input)
    };
    loop {
        // A runner that has had its cases tries no more: each round takes a new one, with a seed of its own.
        let mut runner = match time {
            None => TestRunner::new_with_rng(config.clone(), TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
            Some(_) => TestRunner::new(config.clone()),
        };
        let before = tried.get();
        runner.run(&inputs, counted).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(tried.get() - before >= u64::from(CASES), "only {} inputs were tried", tried.get() - before);
        if time.is_none_or(|time| started.elapsed() >= time) {
            break;
        }
    }
    println!("{}: {} inputs", std::thread::current().name().unwrap_or_default(), tried.get());
}

// === hostile inputs ===

/// Pieces of paths and patterns that hurt, between blanks.
const PIECES: &str = "/ / // . .. ../ /.. /./ ... a b - \\ %2e é e\u{301} \u{202e} \0 \u{1b} \u{7f} \u{85} ~ * $ { \
    } export /export archived- .nfs-provisioner .nfs-provisioner-trash ${.PVC. ${.PVC.name} ${.PVC.namespace} \
    ${.PVC.labels.a} ${.PVC.annotations.a} ${.PVC.annotations.nfs.io/storage-path} ${.PVC.uid} \
    ${.PV.name} ${.SC.name} ${.PV. :-";

/// Text as a tenant may write it.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        12 => select(PIECES.split(' ').collect::<Vec<_>>()).prop_map(str::to_owned),
        1 => select(&[" ", "\n", "\r", "\t"][..]).prop_map(str::to_owned),
        3 => any::<char>().prop_map(String::from),
        1 => (select(&["x", "é", "🦀"][..]), 1_usize..300).prop_map(|(piece, times)| piece.repeat(times)),
        1 => (select(&["a/", "../", "./"][..]), 1_usize..2000).prop_map(|(piece, times)| piece.repeat(times)),
    ];
    vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

/// Labels or annotations, often with the keys that patterns name.
fn facts() -> impl Strategy<Value = BTreeMap<String, String>> {
    let key =
        prop_oneof![4 => select(&["a", "b", "nfs.io/storage-path"][..]).prop_map(str::to_owned), 1 => text()];
    btree_map(key, text(), 0..4)
}

/// The path of an export, as an admin may write it.
fn export() -> impl Strategy<Value = ExportAddress> {
    let known = select(&["/", "//", "/export", "/export/", "/export//k", "/e/./k/", "/x/../export", "/a/.."][..]);
    let path = prop_oneof![3 => known.prop_map(str::to_owned), 1 => text().prop_map(|text| format!("/{text}"))];
    path.prop_filter_map("not a path of an export", |path| ExportAddress::path(&path).ok())
        .prop_map(|path| ExportAddress::new("nas".into(), path))
}

/// An export, and the path of a volume that is made to look as if it were on it: something is put in its place or
/// beside it, or stands for one of its components.
fn volume_path() -> impl Strategy<Value = (ExportAddress, String)> {
    let odd = select(&["", "/", "//", "/.", "/./", "/..", "/../", "X", "x/../"][..]);
    let stand_in = select(&["..", ".", "", "X", "x/.."][..]);
    (export(), 0..5_u8, any::<Index>(), odd, stand_in, text()).prop_map(
        |(export, kind, which, odd, stand_in, text)| {
            let base = export.to_string();
            let base = base.strip_prefix("nas:").unwrap();
            let mut names: Vec<&str> = base.split('/').skip(1).collect();
            let replaced = which.index(names.len());
            names[replaced] = stand_in;
            let path = match kind {
                0 => text,
                1 => format!("/{text}"),
                2 => format!("/{}/{text}", names.join("/")),
                _ => format!("{base}{odd}{text}"),
            };
            (export, path)
        },
    )
}

fn scope(export: ExportAddress, may_patch: bool) -> Scope {
    Scope {
        provisioner: OURS.to_owned(),
        exports: Exports::single(export),
        share: false,
        may_patch: may_patch.into(),
    }
}

fn planned(claim: &Claim, class: &Class, scope: &Scope) -> ClaimPlan {
    let (headrooms, origin) = (scope.exports.map(|_| Headroom::default()), Origin::default());
    let there = scope.exports.map(|_| There::Nothing);
    let facts = ClaimFacts { claim, class: Some(class), headrooms: &headrooms, there: &there, origin: &origin };
    for_claim(&facts, scope)
}

// === paths ===

/// That a path is what [`RelPath`] promises: strictly beneath, of normal components that file systems can hold.
fn check_path(path: &str) -> TestCaseResult {
    prop_assert!(!path.is_empty() && path.len() <= PATH_MAX && !path.contains('\0'), "{path:?}");
    for name in path.split('/') {
        prop_assert!(!matches!(name, "" | "." | "..") && name.len() <= NAME_MAX, "{path:?}");
    }
    prop_assert!(Path::new(path).components().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
    Ok(())
}

#[test]
fn a_claim_gets_a_directory_strictly_beneath_the_export_or_none() {
    let claim = ([text(), text()], "[0-9a-f]{8}-[0-9a-f]{4}", facts(), facts());
    holds((text(), claim, export()), |(pattern, ([name, namespace], uid, labels, annotations), export)| {
        let volume = format!("pvc-{uid}");
        let facts = Facts {
            name: &name,
            namespace: &namespace,
            labels: &labels,
            annotations: &annotations,
            volume: &volume,
            class: "nfs",
        };
        let by_default = pattern.is_empty() || Pattern::parse(&pattern).render(&facts).is_empty();
        let mut annotated = annotations.clone();
        annotated.insert("volume.kubernetes.io/storage-provisioner".to_owned(), OURS.to_owned());
        let claim = json!({
            "metadata": {
                "name": name, "namespace": namespace, "uid": uid, "labels": labels, "annotations": annotated,
            },
            "spec": {"storageClassName": "nfs", "resources": {"requests": {"storage": "1Mi"}}},
        });
        let class = json!({"provisioner": OURS, "parameters": {"pathPattern": pattern}});
        let claim = Claim::read(&serde_json::from_value(claim).unwrap(), OURS).unwrap();
        let class = Class::read(&serde_json::from_value(class).unwrap());
        let scope = scope(export.clone(), true);
        match planned(&claim, &class, &scope) {
            ClaimPlan::Provision(provision) => {
                let (directory, volume) = (provision.at.path, provision.volume.object());
                check_path(directory.as_str())?;
                let written = volume.spec.unwrap().nfs.unwrap().path;
                prop_assert_eq!(export.relative(&written), Ok(directory.clone()));
                let path = directory.as_str();
                if by_default {
                    prop_assert!(path.ends_with(&format!("-pvc-{uid}")), "{path:?}");
                } else {
                    prop_assert!(
                        !path.starts_with(ARCHIVE_PREFIX) && !path.starts_with(RESERVED_PREFIX),
                        "{path:?}"
                    );
                    prop_assert!(!path.chars().any(char::is_control), "{path:?}");
                }
            }
            ClaimPlan::Refuse(refusal) => {
                let message = refusal.message(&"nfs".into(), OURS);
                prop_assert!(!message.chars().any(char::is_control), "{message:?}");
            }
            ClaimPlan::Ignore(why) => prop_assert!(false, "{why:?}"),
        }
        Ok(())
    });
}

/// What upstream makes of a pattern, each token filled in once.
fn rendered_by_the_peer(pattern: &str, facts: &Facts<'_>) -> String {
    let Some((before, after)) = pattern.split_once("${.PVC.") else { return pattern.to_owned() };
    let Some((key, behind)) = after.split_once('}').filter(|(key, _)| !key.contains('\n')) else {
        return format!("{before}${{.PVC.{}", rendered_by_the_peer(after, facts));
    };
    let value = match key {
        "name" => facts.name,
        "namespace" => facts.namespace,
        _ => {
            let label = key.strip_prefix("labels.").and_then(|key| facts.labels.get(key));
            let annotation = key.strip_prefix("annotations.").and_then(|key| facts.annotations.get(key));
            label.or(annotation).map_or("", String::as_str)
        }
    };
    format!("{before}{value}{}", rendered_by_the_peer(behind, facts))
}

#[test]
fn patterns_without_what_is_new_render_as_the_peers_do() {
    let new = [":-", "${.PV.name", "${.SC.name"];
    let old = text().prop_filter("old", move |pattern| !new.iter().any(|token| pattern.contains(token)));
    holds((old, [text(), text()], facts(), facts()), |(pattern, [name, namespace], labels, annotations)| {
        let (labels, annotations) = (&labels, &annotations);
        let facts =
            Facts { name: &name, namespace: &namespace, labels, annotations, volume: "pvc-1", class: "nfs" };
        prop_assert_eq!(Pattern::parse(&pattern).render(&facts), rendered_by_the_peer(&pattern, &facts));
        Ok(())
    });
}

/// What is strict refuses or renders the same, and then each token that has no default rendered something.
#[test]
fn a_strict_pattern_renders_the_same_or_nothing() {
    let token = select(&["name", "labels.a", "labels.b:-x", "annotations.nfs.io/storage-path", "uid"][..]);
    let token = token.prop_map(|key| format!("${{.PVC.{key}}}"));
    let pattern = vec(prop_oneof![2 => token, 1 => text()], 1..5).prop_map(|parts| parts.concat());
    holds((pattern, facts(), facts()), |(pattern, labels, annotations)| {
        let claim = json!({
            "metadata": {
                "name": "data", "namespace": "shop", "uid": "1-2", "labels": labels,
                "annotations": annotations.iter().map(|(key, value)| (key.clone(), value.clone()))
                    .chain([("volume.kubernetes.io/storage-provisioner".to_owned(), OURS.to_owned())])
                    .collect::<BTreeMap<_, _>>(),
            },
            "spec": {"storageClassName": "nfs", "resources": {"requests": {"storage": "1Mi"}}},
        });
        let claim = Claim::read(&serde_json::from_value(claim).unwrap(), OURS).unwrap();
        let export = ExportAddress::new("nas".into(), "/export".into());
        let step = |strict: &str| {
            let parameters = json!({"pathPattern": pattern, "strictPathPattern": strict});
            let class = json!({"provisioner": OURS, "parameters": parameters});
            let class = Class::read(&serde_json::from_value(class).unwrap());
            let scope = scope(export.clone(), true);
            planned(&claim, &class, &scope)
        };
        let strict = step("true");
        if let ClaimPlan::Refuse(refusal) = &strict {
            prop_assert!(!refusal.message(&"nfs".into(), OURS).chars().any(char::is_control));
            return Ok(());
        }
        let parsed = Pattern::parse(&pattern);
        prop_assert_eq!(parsed.unknown(), None);
        prop_assert_eq!(strict, step(""));
        Ok(())
    });
}

/// Resolves a path as the kernel would if there were no links; what climbs above the root stays there.
fn resolved(path: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => names.push(name.to_str().unwrap()),
            Component::ParentDir => drop(names.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    names
}

#[test]
fn a_volumes_path_is_strictly_beneath_the_export_or_refused() {
    holds(volume_path(), |(export, path)| {
        let Ok(relative) = export.relative(&path) else { return Ok(()) };
        check_path(relative.as_str())?;
        prop_assert!(path.starts_with('/') && !path.split('/').any(|name| name == ".."), "{path:?}");
        let base = export.to_string();
        let beneath: Vec<&str> = relative.as_str().split('/').collect();
        let expected = [resolved(base.strip_prefix("nas:").unwrap()), beneath].concat();
        prop_assert_eq!(resolved(&path), expected);
        Ok(())
    });
}

#[test]
fn a_directory_is_found_again_by_its_volumes_path() {
    holds((export(), text()), |(export, text)| {
        let Ok(directory) = RelPath::parse(&text) else { return Ok(()) };
        check_path(directory.as_str())?;
        prop_assert_eq!(export.relative(&export.volume_path(&directory)), Ok(directory.clone()));
        let names: Vec<String> = directory.names().map(|name| name.to_string()).collect();
        prop_assert_eq!(names.join("/"), directory.as_str());
        let parents = directory.parents().chain([directory.leaf()]);
        prop_assert!(parents.map(|name| name.to_string()).eq(names));
        Ok(())
    });
}

// === archives ===

/// A volume's name, as the API server takes them; see below for those that are longer.
fn volume_name() -> impl Strategy<Value = String> {
    prop_oneof!["pvc-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "[a-z0-9]([-.a-z0-9]{0,239}[a-z0-9])?"]
}

#[test]
fn archives_have_a_prefix_fit_and_differ() {
    holds((text(), volume_name(), 0..1000_u32, 0..1000_u32), |(directory, volume, one, other)| {
        let Ok(directory) = RelPath::parse(&directory) else { return Ok(()) };
        let name = archive_name(&directory, &volume, one).unwrap();
        prop_assert!(name.as_str().starts_with(ARCHIVE_PREFIX), "{name}");
        check_path(name.as_str())?;
        // The first two are one if the directory's name is so long that the volume's is in the first already.
        let first_two = one.max(other) < 2 && ARCHIVE_PREFIX.len() + directory.leaf().as_str().len() > NAME_MAX;
        if one != other && !first_two {
            prop_assert_ne!(name, archive_name(&directory, &volume, other).unwrap());
        }
        Ok(())
    });
}

/// One made by hand may have a name that would leave no room for the prefix.
#[test]
fn archives_of_volumes_with_the_longest_names_are_good() {
    let directory = RelPath::parse("team/data").unwrap();
    for nth in 0..3 {
        let name = archive_name(&directory, &"v".repeat(253), nth).unwrap();
        assert!(name.as_str().starts_with(ARCHIVE_PREFIX) && name.as_str().len() <= NAME_MAX, "{name}");
    }
}

// === class parameters ===

/// A parameter's value, often one that means something or looks as if it did.
fn value() -> impl Strategy<Value = String> {
    let known = select(
        &[
            "", "delete", "retain", "archive", "Delete", " delete", "true", "false", "0", "1", "t", "f", "F",
            "FALSE", "False", "no", "off", "false ", "30d", "1s", "0d", "30", "99999w",
        ][..],
    );
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => text()]
}

fn parameters() -> impl Strategy<Value = BTreeMap<String, String>> {
    let near = ["ondelete", "onDelet", "OnDelete", "archiveondelete", "archiveOnDelete ", "deleteretention", ""];
    let key = select([&parameter::ALL[..], &near[..]].concat()).prop_map(str::to_owned);
    btree_map(prop_oneof![8 => key, 1 => text()], value(), 0..6)
}

/// What a class that says this may do at most, and whether it may destroy.
fn may_delete(parameters: &BTreeMap<String, String>) -> bool {
    let get = |key: &str| parameters.get(key).map_or("", String::as_str);
    let plain = |key: &str| key.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "");
    let is_misspelled = |key: &String| {
        !["onDelete", "archiveOnDelete", "deleteRetention"].contains(&key.as_str())
            && ["ondelete", "archiveondelete", "deleteretention"].contains(&&*plain(key))
    };
    let archive = match get("archiveOnDelete") {
        "" | "1" | "t" | "T" | "TRUE" | "true" | "True" => true,
        "0" | "f" | "F" | "false" | "False" | "FALSE" => false,
        _ => return false,
    };
    let on_delete = get("onDelete");
    let delete = if on_delete.is_empty() { !archive } else { says_delete(on_delete) };
    delete && !parameters.keys().any(is_misspelled) && says_how_long(get("deleteRetention"))
}

/// Whether a value of `deleteRetention` is none, or says for how long what is deleted is kept.
fn says_how_long(value: &str) -> bool {
    let unit = |text: &str| {
        let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 604_800)];
        units.into_iter().find(|(unit, _)| *unit == text).map(|(_, seconds)| seconds)
    };
    let Some((end, _)) = value.char_indices().next_back() else { return true };
    let (number, seconds) = (&value[..end], unit(&value[end..]).unwrap_or(0));
    let number = if number.starts_with('+') { None } else { number.parse::<u64>().ok() };
    number.and_then(|number| number.checked_mul(seconds)).is_some_and(|of| (1..=36_500 * 86_400).contains(&of))
}

/// Whether a value of `onDelete` can only be read as this.
fn says_delete(value: &str) -> bool {
    value.trim().eq_ignore_ascii_case("delete")
}

#[test]
fn nothing_is_destroyed_that_no_parameter_says_is_to_be() {
    holds(parameters(), |map| {
        let read = Parameters::read(&map);
        prop_assert_eq!(read.fate == Fate::Delete, may_delete(&map), "{:?}", read);
        prop_assert_eq!(read.share, map.get("shareAcrossNamespaces").and_then(|text| go_bool(text)) == Some(true));
        let unknown = map.keys().filter(|key| !parameter::ALL.contains(&key.as_str())).count();
        prop_assert_eq!(read.unknown.len(), unknown);
        Ok(())
    });
}

// === volumes ===

fn anything(known: &'static [&'static str]) -> impl Strategy<Value = Option<String>> {
    option::weighted(0.9, prop_oneof![9 => select(known).prop_map(str::to_owned), 1 => text()])
}

#[derive(Debug, Clone)]
struct Hostile {
    phase: Option<String>,
    policy: Option<String>,
    made_by: Option<String>,
    taken_over_by: Option<String>,
    server: Option<String>,
    place: (ExportAddress, String),
    on_delete: Option<String>,
    of_claim: Option<String>,
    recorded: Option<String>,
    /// Its class's provisioner and parameters, if there is a class.
    class: Option<(String, BTreeMap<String, String>)>,
    /// Whether it is being deleted, was so while it had a claim, and has our finalizer; and whether we may patch.
    states: [bool; 4],
    /// The uid in the volume's `claimRef`.
    claim: Option<String>,
}

fn hostile() -> impl Strategy<Value = Hostile> {
    let states = any::<[bool; 4]>();
    let class =
        option::weighted(0.8, (select(&[OURS, OURS, "other", ""][..]).prop_map(str::to_owned), parameters()));
    let owner = || anything(&[OURS, OURS, OURS, "other", "", "EXAMPLE.COM/NFS"]);
    let fates = || anything(&["delete", "retain", "archive", "", "Delete"]);
    (
        (anything(&["Released", "Released", "Bound", "Available", "Failed", "Pending", ""]), owner(), owner()),
        (
            anything(&["Delete", "Delete", "Retain", "Recycle", "", "delete"]),
            fates(),
            option::weighted(0.5, fates()),
            option::weighted(0.4, fates()),
        ),
        (anything(&["nas", "nas", "[nas]", "NAS", "nas.", "other", ""]), volume_path(), class, states),
        anything(&["1", "1", "2", ""]),
    )
        .prop_map(
            |(
                (phase, made_by, taken_over_by),
                (policy, recorded, on_delete, of_claim),
                (server, place, class, states),
                claim,
            )| {
                let (on_delete, of_claim) = (on_delete.flatten(), of_claim.flatten());
                Hostile {
                    phase,
                    policy,
                    made_by,
                    taken_over_by,
                    server,
                    place,
                    on_delete,
                    of_claim,
                    recorded,
                    class,
                    states,
                    claim,
                }
            },
        )
}

impl Hostile {
    fn volume(&self) -> Volume {
        let [deleting, deleted_while_bound, finalizer, _] = self.states;
        let annotations: BTreeMap<_, _> = [
            ("pv.kubernetes.io/provisioned-by", &self.made_by),
            ("pv.kubernetes.io/migrated-to", &self.taken_over_by),
            ("nfs-provisioner/on-delete", &self.on_delete),
            ("nfs-provisioner/on-delete-of-claim", &self.of_claim),
            ("nfs-provisioner/on-delete-of-class", &self.recorded),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.as_ref()?)))
        .collect();
        let finalizers: &[&str] =
            if finalizer { &["external-provisioner.volume.kubernetes.io/finalizer"] } else { &[] };
        let object = json!({
            "metadata": {
                "name": "pvc-1", "annotations": annotations, "finalizers": finalizers,
                "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z"),
            },
            "spec": {
                "persistentVolumeReclaimPolicy": self.policy, "storageClassName": "nfs",
                "claimRef": {"namespace": "ns", "name": "data", "uid": self.claim},
                "nfs": self.server.as_ref().map(|server| json!({"server": server, "path": self.place.1})),
            },
            "status": {"phase": self.phase},
        });
        let volume = Volume::read(&serde_json::from_value(object).unwrap());
        Volume { deleted_while_bound, ..volume }
    }

    fn class(&self) -> Option<Class> {
        let (provisioner, parameters) = self.class.as_ref()?;
        let object = json!({"metadata": {"name": "nfs"}, "provisioner": provisioner, "parameters": parameters});
        Some(Class::read(&serde_json::from_value(object).unwrap()))
    }

    /// Whether anything that counts says that the data is to be destroyed.
    fn says_delete(&self) -> bool {
        let ours = |provisioner: &String| {
            [&self.made_by, &self.taken_over_by].into_iter().flatten().any(|owner| owner == provisioner)
        };
        match (self.on_delete.as_ref().or(self.of_claim.as_ref()), &self.class) {
            (Some(text), _) => says_delete(text),
            (None, Some((provisioner, parameters))) if ours(provisioner) => may_delete(parameters),
            (None, _) => self.recorded.as_deref().is_some_and(says_delete),
        }
    }
}

#[test]
fn a_volume_is_reclaimed_only_if_everything_says_so() {
    holds(hostile(), |hostile| {
        let step = for_volume(
            &VolumeFacts { volume: &hostile.volume(), class: hostile.class().as_ref() },
            &scope(hostile.place.0.clone(), hostile.states[3]),
        );
        let VolumePlan::Reclaim { at, fate, .. } = step else { return Ok(()) };
        let is = |text: &Option<String>, expected: &str| text.as_deref() == Some(expected);
        prop_assert!(
            hostile.made_by.is_some() && (is(&hostile.made_by, OURS) || is(&hostile.taken_over_by, OURS))
        );
        prop_assert!(is(&hostile.phase, "Released") && is(&hostile.policy, "Delete"));
        prop_assert!(hostile.claim.as_ref().is_some_and(|uid| !uid.is_empty()), "whose it was is not said");
        prop_assert!(is(&hostile.server, "nas") || is(&hostile.server, "[nas]"));
        let directory = at.path;
        check_path(directory.as_str())?;
        prop_assert!(!directory.as_str().starts_with(RESERVED_PREFIX), "{directory}");
        prop_assert_eq!(hostile.place.0.relative(&hostile.place.1), Ok(directory));
        prop_assert_eq!(fate == Fate::Delete, hostile.says_delete());
        let [deleting, while_bound, finalizer, _] = hostile.states;
        prop_assert!(!deleting || while_bound || finalizer, "an admin has deleted it");
        Ok(())
    });
}

/// So that the property above is not true of nothing.
#[test]
fn volumes_for_which_everything_says_so_are_reclaimed() {
    let is_good = |path: RelPath| !path.as_str().starts_with(RESERVED_PREFIX);
    let paths =
        volume_path().prop_filter("beneath", move |(export, path)| export.relative(path).is_ok_and(is_good));
    holds((hostile(), paths), |(mut hostile, place)| {
        hostile.place = place;
        hostile.states[0] = false;
        hostile.made_by = Some(OURS.to_owned());
        [hostile.phase, hostile.policy, hostile.server, hostile.claim] =
            ["Released", "Delete", "nas", "1"].map(|text| Some(text.to_owned()));
        let step = for_volume(
            &VolumeFacts { volume: &hostile.volume(), class: None },
            &scope(hostile.place.0.clone(), true),
        );
        prop_assert!(matches!(step, VolumePlan::Reclaim { .. }), "{:?}", step);
        Ok(())
    });
}

// === who lies where ===

/// What can happen to a volume, by number, and to lists of all volumes.
#[derive(Debug, Clone, Copy)]
enum Event {
    Settle(usize, &'static str),
    Leave(usize),
    Reserve { volume: usize, path: &'static str, across: bool },
    GiveUp(usize),
    Depart(usize),
    Moved(usize),
    Stay(usize),
    BeginList,
    EndList,
}

/// Paths above and beneath each other, and such as only look so. `.` and `-` sort before `/`, `0` right behind it.
const PATHS: &[&str] =
    &["a", "a/b", "a/b/c", "a/b/d", "a/bc", "a/b.c", "a/b-c/d", "a/b0", "a.b", "ab", "b", "b/a"];

const VOLUMES: usize = 6;

/// Whose a volume is: that never changes. The last is one that an admin has made, for no claim.
fn namespace(volume: usize) -> Option<&'static str> {
    [Some("us"), Some("us"), Some("us"), Some("them"), Some("them"), None][volume]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let volume = || 0..VOLUMES;
    let path = || select(PATHS);
    let event = prop_oneof![
        4 => (volume(), path()).prop_map(|(volume, path)| Event::Settle(volume, path)),
        1 => volume().prop_map(Event::Leave),
        4 => (0..VOLUMES - 1, path(), any::<bool>())
            .prop_map(|(volume, path, across)| Event::Reserve { volume, path, across }),
        1 => volume().prop_map(Event::GiveUp),
        4 => volume().prop_map(Event::Depart),
        2 => volume().prop_map(Event::Moved),
        2 => volume().prop_map(Event::Stay),
        1 => Just(Event::BeginList),
        1 => Just(Event::EndList),
    ];
    vec(event, 0..40)
}

/// The same bookkeeping, as simple as can be.
#[derive(Debug, Default)]
struct Model {
    placed: Vec<Placed>,
    leaving: Vec<usize>,
    /// Volumes whose directories are being moved, and which those are.
    moving: Vec<(usize, &'static str)>,
    list: u32,
}

#[derive(Debug, Clone, Copy)]
struct Placed {
    volume: usize,
    path: &'static str,
    listed: Option<u32>,
}

/// A place on the only export.
fn rel(path: &str) -> Location {
    let exports = Exports::single(ExportAddress::new("nas".into(), "/export".into()));
    exports.locate("nas", &format!("/export/{path}")).unwrap()
}

fn relation(own: &str, other: &str) -> Option<Relation> {
    let [own, other] = [own, other].map(|path| path.split('/').collect::<Vec<_>>());
    if own == other {
        Some(Relation::Same)
    } else if own.starts_with(&other) {
        Some(Relation::Above)
    } else if other.starts_with(&own) {
        Some(Relation::Beneath)
    } else {
        None
    }
}

impl Model {
    fn of(&self, volume: usize) -> Option<Placed> {
        self.placed.iter().copied().find(|placed| placed.volume == volume)
    }

    fn exists(&self, volume: usize) -> bool {
        self.of(volume).is_some_and(|placed| placed.listed.is_some())
    }

    /// The others that are at, above or in a path.
    fn around(&self, volume: usize, path: &str) -> Vec<(usize, Relation)> {
        let others = self.placed.iter().filter(|placed| placed.volume != volume);
        others.filter_map(|placed| Some((placed.volume, relation(path, placed.path)?))).collect()
    }

    fn place(&mut self, volume: usize, path: &'static str, listed: Option<u32>) {
        if self.of(volume).is_none_or(|placed| placed.path != path) {
            self.leave(volume);
        }
        self.placed.retain(|placed| placed.volume != volume);
        self.placed.push(Placed { volume, path, listed });
    }

    fn leave(&mut self, volume: usize) {
        self.placed.retain(|placed| placed.volume != volume);
        self.leaving.retain(|leaving| *leaving != volume);
    }

    /// What a reservation must come to.
    fn reserve(&mut self, volume: usize, path: &'static str, across: bool) -> Result<(), Vec<Conflict>> {
        let moving = |other: &&(usize, &str)| other.0 != volume && relation(path, other.1).is_some();
        if self.moving.iter().any(|other| moving(&other)) {
            return Err(vec![Conflict::Moving]);
        }
        let mut foreign = self.around(volume, path);
        foreign.retain(|(other, _)| !across && namespace(*other) != namespace(volume));
        if !foreign.is_empty() {
            return Err(foreign.into_iter().map(|(_, relation)| Conflict::OtherNamespace(relation)).collect());
        }
        if !self.exists(volume) {
            self.place(volume, path, None);
        }
        Ok(())
    }

    /// Who must be left when a volume goes.
    fn depart(&mut self, volume: usize, path: &'static str) -> Vec<(usize, Relation, bool)> {
        let mut left = self.around(volume, path);
        left.retain(|(other, _)| !self.leaving.contains(other));
        self.leaving.push(volume);
        if left.is_empty() {
            self.moving.push((volume, path));
        }
        left.into_iter().map(|(other, relation)| (other, relation, self.exists(other))).collect()
    }

    fn end_list(&mut self) {
        let gone = self.placed.iter().filter(|placed| placed.listed.is_some_and(|listed| listed != self.list));
        for volume in gone.map(|placed| placed.volume).collect::<Vec<_>>() {
            self.leave(volume);
        }
    }

    fn no_longer_moving(&mut self, volume: usize) {
        self.moving.retain(|(moving, _)| *moving != volume);
    }

    /// Whether the model does not know where a volume is that is to go.
    fn cannot(&self, event: Event) -> bool {
        matches!(event, Event::Depart(volume) if self.of(volume).is_none())
    }
}

fn key(volume: usize) -> VolumeName {
    format!("v{volume}").as_str().into()
}

/// Has an event happen in both, and compares all that they answer.
fn happen(event: Event, placements: &mut Placements, model: &mut Model) -> TestCaseResult {
    match event {
        Event::Settle(volume, path) => {
            placements.settle(&key(volume), &rel(path), namespace(volume));
            model.place(volume, path, Some(model.list));
        }
        Event::Leave(volume) => {
            placements.leave(&key(volume));
            model.leave(volume);
        }
        Event::Reserve { volume, path, across } => {
            let answer = placements.reserve(&key(volume), &rel(path), namespace(volume).unwrap(), across);
            match (answer, model.reserve(volume, path, across)) {
                (Ok(()), Ok(())) => {}
                (Err(conflict), Err(allowed)) => {
                    prop_assert!(allowed.contains(&conflict), "{:?} {:?}", event, conflict);
                }
                (answer, expected) => prop_assert!(false, "{:?}: {:?}, not {:?}", event, answer, expected),
            }
        }
        Event::GiveUp(volume) => {
            placements.give_up(&key(volume));
            if !model.exists(volume) {
                model.leave(volume);
            }
        }
        Event::Depart(volume) => {
            let Placed { path, .. } = model.of(volume).unwrap();
            let left = placements.depart(&key(volume), &rel(path));
            let left = left.iter().map(|left| (left.volume.to_string(), left.relation, left.exists));
            let expected = model.depart(volume, path);
            let mut expected: Vec<_> = expected
                .into_iter()
                .map(|(volume, relation, exists)| (key(volume).to_string(), relation, exists))
                .collect();
            let mut left: Vec<_> = left.collect();
            left.sort_by(|a, b| a.0.cmp(&b.0));
            expected.sort_by(|a, b| a.0.cmp(&b.0));
            prop_assert_eq!(left, expected, "{:?}", event);
        }
        Event::Moved(volume) => {
            placements.moved(&key(volume));
            model.no_longer_moving(volume);
        }
        Event::Stay(volume) => {
            placements.stay(&key(volume));
            model.no_longer_moving(volume);
            model.leaving.retain(|leaving| *leaving != volume);
        }
        Event::BeginList => {
            placements.begin_list();
            model.list += 1;
        }
        Event::EndList => {
            placements.end_list();
            model.end_list();
        }
    }
    for volume in 0..VOLUMES {
        prop_assert_eq!(placements.exists(&key(volume)), model.exists(volume), "{} after {:?}", volume, event);
    }
    for path in PATHS {
        let mut expected = model.around(VOLUMES, path);
        expected.retain(|(_, relation)| *relation != Relation::Above);
        let found = placements.at_or_beneath(rel(path).export, path);
        let is_right = found.map_or(expected.is_empty(), |found| expected.iter().any(|(_, one)| *one == found));
        prop_assert!(is_right, "{:?} of {} after {:?}", found, path, event);
    }
    Ok(())
}

#[test]
fn placements_answer_as_a_plain_list_would() {
    holds(events(), |events| {
        let (mut placements, mut model) = (Placements::default(), Model::default());
        for event in events {
            if !model.cannot(event) {
                happen(event, &mut placements, &mut model)?;
            }
        }
        Ok(())
    });
}

#[test]
fn no_two_namespaces_ever_share_a_directory_that_nobody_allowed() {
    holds(events(), |events| {
        let (mut placements, mut model) = (Placements::default(), Model::default());
        for event in events {
            // As it is in life: a volume comes to be where its claim was given a directory.
            let event = if let Event::Reserve { volume, path, .. } = event {
                Event::Reserve { volume, path, across: false }
            } else if let Event::Settle(volume, _) = event {
                let Some(placed) = model.of(volume) else { continue };
                Event::Settle(volume, placed.path)
            } else {
                event
            };
            if model.cannot(event) {
                continue;
            }
            happen(event, &mut placements, &mut model)?;
            for placed in &model.placed {
                for (other, _) in model.around(placed.volume, placed.path) {
                    prop_assert_eq!(namespace(placed.volume), namespace(other), "{:?} after {:?}", model, event);
                }
            }
        }
        Ok(())
    });
}

#[test]
fn of_volumes_in_one_line_exactly_the_last_to_go_takes_the_directory() {
    // Each is at, above or in each other. Some try to go several times before they may.
    let group = vec((select(&["a", "a/b", "a/b/c", "a/b/c/d"][..]), any::<Index>(), 0..3_usize), 1..VOLUMES);
    holds(group, |group| {
        let mut placements = Placements::default();
        for (volume, (path, ..)) in group.iter().enumerate() {
            placements.settle(&key(volume), &rel(path), Some("us"));
        }
        let mut waiting: Vec<usize> = (0..group.len()).collect();
        for (_, which, failures) in &group {
            let volume = waiting.remove(which.index(waiting.len()));
            let path = rel(group[volume].0);
            for _ in 0..*failures {
                prop_assert_eq!(placements.depart(&key(volume), &path).is_empty(), waiting.is_empty());
                placements.stay(&key(volume));
            }
            // It may still be there afterwards: whoever has gone has no say.
            prop_assert_eq!(placements.depart(&key(volume), &path).is_empty(), waiting.is_empty());
        }
        Ok(())
    });
}

#[test]
fn nothing_is_given_at_above_or_in_what_is_being_moved() {
    holds((select(PATHS), select(PATHS), any::<bool>()), |(moved, wanted, across)| {
        let mut placements = Placements::default();
        let [there, path] = [moved, wanted].map(rel);
        placements.settle(&key(0), &there, Some("us"));
        prop_assert!(placements.depart(&key(0), &there).is_empty());
        let refused = placements.reserve(&key(1), &path, "us", across) == Err(Conflict::Moving);
        prop_assert_eq!(refused, relation(wanted, moved).is_some());
        placements.moved(&key(0));
        prop_assert_eq!(placements.reserve(&key(1), &path, "us", across), Ok(()));
        Ok(())
    });
}

/// Or it would be taken from under those who are given it.
#[test]
fn a_directory_is_not_given_away_while_it_is_moved_though_its_volume_has_gone() {
    let mut placements = Placements::default();
    let path = rel("team/data");
    placements.settle(&key(0), &path, Some("us"));
    assert!(placements.depart(&key(0), &path).is_empty());
    placements.leave(&key(0));
    assert_eq!(placements.reserve(&key(1), &path, "us", false), Err(Conflict::Moving), "given away");
}

/// The same from the other end: a volume that was deleted while it had a claim, and had no finalizer, is reclaimed
/// after it has gone.
#[test]
fn a_directory_is_not_given_away_while_it_is_moved_for_a_volume_that_was_deleted_while_bound() {
    let export = || ExportAddress::new("nas".into(), "/export".into());
    let state = ClusterState::new(Arc::new(scope(export(), false)));
    // As all of these are called.
    let name = VolumeName::from("pvc-1");
    let volume = |phase: &str, deleting: bool| {
        let [phase, policy, made_by, server] = [phase, "Delete", OURS, "nas"].map(|text| Some(text.to_owned()));
        let place = (export(), "/export/team/data".to_owned());
        let states = [deleting, false, false, false];
        let (taken_over_by, on_delete, of_claim, recorded, class) = (None, None, None, None, None);
        Hostile {
            claim: Some("1".to_owned()),
            phase,
            policy,
            made_by,
            taken_over_by,
            server,
            place,
            on_delete,
            of_claim,
            recorded,
            class,
            states,
        }
        .volume()
    };
    for seen in [("Bound", false), ("Bound", true), ("Released", true)] {
        state.put_volume(&name, Some(volume(seen.0, seen.1)));
    }
    state.put_volume(&name, None);
    let path = rel("team/data");
    assert!(state.volume(&name).is_some(), "it is still to be reclaimed");
    let departure = state.ledger().depart(&name, &path).expect("nobody reads it");
    assert!(departure.is_alone(), "its directory is for it to take along");
    let answer = state.ledger().reserve(&key(1), &path, "us", Reservation::default());
    assert_eq!(answer.unwrap_err(), ReserveError::Directory(Conflict::Moving), "given away");
}

/// An admin may give a volume to another namespace's claim.
#[test]
fn a_volume_counts_as_its_present_claims() {
    let mut placements = Placements::default();
    let path = rel("team/data");
    placements.settle(&key(0), &path, Some("us"));
    placements.settle(&key(0), &path, Some("them"));
    assert!(placements.reserve(&key(1), &path, "us", false).is_err(), "still its first");
}

// === growth ===

/// A quantity, and how many billionths it is.
fn quantity() -> impl Strategy<Value = (Quantity, u128)> {
    const UNITS: [(&str, u128); 13] = [
        ("n", 1),
        ("u", 1_000),
        ("m", 1_000_000),
        ("", 1_000_000_000),
        ("k", 1_000_000_000_000),
        ("Ki", 1_024_000_000_000),
        ("M", 1_000_000_000_000_000),
        ("Mi", 1_048_576_000_000_000),
        ("e6", 1_000_000_000_000_000),
        ("G", 1_000_000_000_000_000_000),
        ("Gi", 1_073_741_824_000_000_000),
        ("E9", 1_000_000_000_000_000_000),
        ("Ti", 1_099_511_627_776_000_000_000),
    ];
    // Many are near each other.
    let whole = prop_oneof![0..3_u32, 1020..1030_u32, any::<u32>()];
    let fraction = prop_oneof![3 => Just(None), 1 => (0..1000_u32).prop_map(Some)];
    (whole, fraction, select(&UNITS[..])).prop_map(|(whole, fraction, (suffix, unit))| {
        let thousandths = u128::from(whole) * 1000 + u128::from(fraction.unwrap_or(0));
        let fraction = fraction.map(|fraction| format!(".{fraction:03}")).unwrap_or_default();
        (Quantity(format!("{whole}{fraction}{suffix}")), (thousandths * unit).div_ceil(1000))
    })
}

#[test]
fn of_two_quantities_the_larger_one_exceeds_the_other() {
    holds((quantity(), quantity()), |((one, size), (other, other_size))| {
        prop_assert_eq!(exceeds(&one, &other), size > other_size);
        prop_assert_eq!(exceeds(&other, &one), other_size > size);
        Ok(())
    });
}

#[test]
fn no_text_exceeds_itself_or_both_ways() {
    let text = prop_oneof![text(), "[+-]?[0-9]{0,45}[.]?[0-9]{0,45}([eE][+-]?[0-9]{0,10}|[KMGTPEkmun]i?)?"];
    holds((text.clone(), text), |(one, other)| {
        let (one, other) = (Quantity(one), Quantity(other));
        prop_assert!(!exceeds(&one, &one.clone()));
        prop_assert!(!(exceeds(&one, &other) && exceeds(&other, &one)), "{one:?} {other:?}");
        Ok(())
    });
}

#[test]
fn a_claim_that_grows_has_what_it_asks_for_and_its_volume_no_less_than_before() {
    let annotation = select(&[OURS, "example.com/other"][..]);
    let uid = select(&["1-2", "1-3"][..]);
    let inputs = (quantity(), quantity(), quantity(), annotation, uid, volume_path());
    holds(inputs, |((request, asked), (capacity, had), (size, volume_had), maker, uid, (export, path))| {
        let claim = json!({
            "metadata": {"name": "data", "namespace": "shop", "uid": "1-2", "resourceVersion": "7"},
            "spec": {"resources": {"requests": {"storage": request}}, "volumeName": "pvc-1-2"},
            "status": {"phase": "Bound", "capacity": {"storage": capacity}},
        });
        let volume = json!({
            "metadata": {"name": "pvc-1-2", "annotations": {"pv.kubernetes.io/provisioned-by": maker}},
            "spec": {
                "capacity": {"storage": size}, "claimRef": {"namespace": "shop", "name": "data", "uid": uid},
                "nfs": {"server": "nas", "path": path},
            },
        });
        let growth = Expansion::read(&serde_json::from_value(claim).unwrap());
        prop_assert_eq!(growth.is_some(), asked > had);
        let Some(growth) = growth else { return Ok(()) };
        let volume = Volume::read(&serde_json::from_value(volume).unwrap());
        let ours = maker == OURS && uid == "1-2";
        let scope = scope(export.clone(), true);
        let (needs, headrooms) = (Requirements::default(), scope.exports.map(|_| Headroom::default()));
        let facts = ExpansionFacts {
            expansion: &growth,
            volume: &volume,
            lacking: "",
            requirements: &needs,
            headrooms: &headrooms,
        };
        match for_expansion(&facts, &scope) {
            ExpansionPlan::Grow { capacity, volume_too } => {
                prop_assert!(ours && export.relative(&path).is_ok());
                prop_assert_eq!(volume_too.is_some(), asked > volume_had);
                prop_assert_eq!(capacity, if volume_too.is_some() { request } else { size });
            }
            ExpansionPlan::Refuse(_) => prop_assert!(ours),
            ExpansionPlan::Ignore(_) => prop_assert!(!ours),
        }
        Ok(())
    });
}
