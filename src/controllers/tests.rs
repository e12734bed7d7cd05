//! How each outcome is reported, as tables: the level, the event, the counts, and when the object comes back.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Error as KubeError;
use kube::core::Status;
use serde_json::json;
use tracing::Level;

use crate::cluster::api::ApiError;
use crate::cluster::events::Reason;
use crate::controllers::claim_outcome::{self, ClaimOutcome, ClaimRound, Directory};
use crate::controllers::expansion_outcome::{ExpansionOutcome, ExpansionRound};
use crate::controllers::report::{Count, Report};
use crate::controllers::volume_outcome::{self, Disposal, VolumeOutcome, VolumeRound};
use crate::decide::claim::ClaimIgnored;
use crate::decide::copy::BadSource;
use crate::decide::expansion::{ExpansionIgnored, ExpansionRefusal};
use crate::decide::refusal::ClaimRefusal;
use crate::decide::restore::Entry;
use crate::decide::volume::{Doubt, VolumeIgnored, VolumeRefusal};
use crate::layout::Note;
use crate::ledger::placements::{Neighbour, Relation};
use crate::model::claim::Claim;
use crate::model::expansion::Expansion;
use crate::model::exports::{Choice, Exports, Location};
use crate::model::parameters::{BadParameter, Fate};
use crate::model::volume::Volume;
use crate::queue::{Next, RetryReason};
use crate::values::address::ExportAddress;
use crate::values::path::{Name, RelPath};

const OURS: &str = "example.com/nfs";
const TOOK: Duration = Duration::from_millis(1500);

/// The level of a report, the reason of its event, its counts, and when the object comes back.
type Told = (Level, Option<Reason>, Vec<&'static str>, Next);

fn told(report: &Report) -> Told {
    let counted = report.counts.iter().map(|count| match count {
        Count::Provisioned { source: "", .. } => "provisioned",
        Count::Provisioned { source, .. } => source,
        Count::NotProvisioned { .. } => "not provisioned",
        Count::ClaimRefused(reason) | Count::VolumeRefused(reason) => reason,
        Count::Deleted { class: Some(_), .. } => "deleted",
        Count::Deleted { class: None, .. } => "deleted without a class",
        Count::NotDeleted { .. } => "not deleted",
        Count::Reclaimed(what) | Count::Expansion(what) => what,
    });
    let reason = report.event.as_ref().map(|(reason, _)| *reason);
    (report.level, reason, counted.collect(), report.next)
}

fn retry(reason: RetryReason) -> Next {
    Next::Retry(reason)
}

fn error() -> ApiError {
    ApiError::Kube(KubeError::Api(Status::failure("no such luck", "Forbidden").boxed()))
}

fn claim(source: bool) -> Claim {
    let source = source.then(|| json!({"kind": "PersistentVolumeClaim", "name": "origin"}));
    let object: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {
            "name": "data", "namespace": "shop", "uid": "1-2", "resourceVersion": "7",
            "annotations": {"volume.kubernetes.io/storage-provisioner": OURS},
        },
        "spec": {"storageClassName": "nfs", "dataSource": source},
    }))
    .unwrap();
    Claim::read(&object, OURS).unwrap()
}

fn claim_round(claim: &Claim, class_exists: bool) -> ClaimRound<'_> {
    ClaimRound {
        claim,
        provisioner: OURS,
        class_exists,
        at: Some(("default", "shop/data")),
        doubt: None,
        took: TOOK,
    }
}

#[test]
fn of_each_outcome_of_a_claim_is_told_what_its_author_can_use() {
    use ClaimOutcome as Outcome;
    use claim_outcome::Unread::{Class, Elsewhere, Gids, Mark, Predecessor, Source};
    let refused = |refusal, by_neighbour, is_said| Outcome::Refused { refusal, by_neighbour, is_said };
    let no_source = || ClaimRefusal::Source { name: "origin".into(), problem: BadSource::Missing };
    let failed = Some(Reason::ProvisioningFailed);
    let (quiet, warn) = (Level::DEBUG, Level::WARN);
    let rows: Vec<(Outcome, Told)> = vec![
        (Outcome::AwaitsBinding, (quiet, None, vec![], Next::Done)),
        (Outcome::Ignored(ClaimIgnored::Deleting), (quiet, None, vec![], Next::Done)),
        (Outcome::Copying, (quiet, None, vec![], Next::Done)),
        (Outcome::NotLeading, (quiet, None, vec![], Next::PutBack)),
        (
            Outcome::WaitsForRelease { volume: "pvc-2".into(), failures: 2 },
            (quiet, None, vec![], retry(RetryReason::Neighbour)),
        ),
        (
            Outcome::WaitsForRelease { volume: "pvc-2".into(), failures: 3 },
            (warn, failed, vec!["not provisioned"], retry(RetryReason::Neighbour)),
        ),
        (Outcome::WaitsForMove, (quiet, None, vec![], retry(RetryReason::Neighbour))),
        (Outcome::WaitsForList, (quiet, None, vec![], retry(RetryReason::Changed))),
        (Outcome::WaitsForPromise, (quiet, None, vec![], retry(RetryReason::Headroom))),
        (Outcome::ExistsElsewhere, (quiet, None, vec![], retry(RetryReason::Neighbour))),
        (
            refused(ClaimRefusal::Block, false, true),
            (warn, failed, vec!["not provisioned", "block"], Next::SayAgain),
        ),
        (
            refused(ClaimRefusal::NoGroupLeft("5-6".parse().unwrap()), true, true),
            (warn, failed, vec!["not provisioned", "no_group_left"], retry(RetryReason::Neighbour)),
        ),
        (
            refused(ClaimRefusal::NoRoom("x".into()), false, true),
            (warn, failed, vec!["not provisioned", "no_room"], retry(RetryReason::Headroom)),
        ),
        (refused(no_source(), false, false), (quiet, None, vec![], retry(RetryReason::Source))),
        (
            Outcome::FailedToMake { words: "mkdir: no".to_owned(), path: "shop".to_owned() },
            (Level::ERROR, failed, vec!["not provisioned"], retry(RetryReason::Export)),
        ),
        (
            Outcome::FailedToCreate(error()),
            (Level::ERROR, failed, vec!["not provisioned"], retry(RetryReason::ApiServer)),
        ),
        (
            Outcome::Provisioned(Directory::New),
            (Level::INFO, Some(Reason::ProvisioningSucceeded), vec!["provisioned"], Next::Done),
        ),
    ];
    let unread = [Class, Source, Predecessor, Gids, Elsewhere, Mark]
        .map(|what| (Outcome::FailedToRead(what, error()), (warn, None, vec![], retry(RetryReason::ApiServer))));
    let claim = claim(false);
    for (outcome, expected) in rows.into_iter().chain(unread) {
        let report = outcome.report(&claim_round(&claim, true));
        assert_eq!(told(&report), expected, "{outcome:?}");
        assert_eq!(report.fields.claim.as_deref(), Some("shop/data"), "{outcome:?}");
        // Only reports that concern the export say where on it.
        let is_whole = expected.0 == Level::ERROR || expected.0 == Level::INFO;
        assert_eq!(report.fields.milliseconds, is_whole.then_some(1500), "{outcome:?}");
    }
}

#[test]
fn a_claim_of_a_class_that_does_not_exist_makes_no_series() {
    let refused = ClaimOutcome::Refused { refusal: ClaimRefusal::NoClass, by_neighbour: false, is_said: true };
    let report = refused.report(&claim_round(&claim(false), false));
    assert_eq!(told(&report).2, ["no_class"]);
}

#[test]
fn that_a_claim_waits_for_its_data_is_told_once_that_takes_long() {
    let told_after = |failures| {
        let outcome = ClaimOutcome::WaitsForData { volume: "pvc-2".into(), failures };
        outcome.report(&claim_round(&claim(false), true))
    };
    let next = retry(RetryReason::Neighbour);
    assert_eq!(told(&told_after(2)), (Level::DEBUG, None, vec![], next));
    let report = told_after(3);
    assert_eq!(told(&report), (Level::WARN, Some(Reason::ProvisioningFailed), vec!["not provisioned"], next));
    let (_, message) = report.event.unwrap();
    assert!(
        message.contains("\"pvc-2\"") && message.contains("whose data this claim is to get back"),
        "{message}"
    );
}

#[test]
fn where_a_directory_comes_from_is_said_and_a_copy_is_counted_by_its_source() {
    let exports = Exports::single(ExportAddress::new("nas".into(), "/export".into()));
    let export = exports.meant_by(&Choice::First).unwrap()[0];
    let home = RelPath::parse("archived-x").unwrap();
    let note =
        r#"{"directory": "shop/data", "volume": "pvc-1", "class": "nfs", "namespace": "shop", "claim": "data"}"#;
    let restored = Entry {
        name: "archived-x".into(),
        lies_at: Location { export, path: home },
        inode: 7,
        at: "2026-11-30T12:00:00.5Z".parse().ok(),
        note: Note::parse(note).unwrap(),
        keep: None,
        claim: claim(false).claim,
    };
    for (directory, words, adopted) in [
        (Directory::New, "Successfully provisioned volume pvc-1-2", false),
        (Directory::Adopted, "volume pvc-1-2 in a directory that was there before", true),
        (Directory::Copied, "volume pvc-1-2 as a copy", false),
        (
            Directory::Restored(Box::new(restored)),
            "volume pvc-1-2 with the data that was put away at 2026-11-30T12:00:00Z as archived-x",
            false,
        ),
    ] {
        let is_copy = directory == Directory::Copied;
        let claim = claim(is_copy);
        let report = ClaimOutcome::Provisioned(directory).report(&claim_round(&claim, true));
        let (_, message) = report.event.as_ref().unwrap();
        assert!(message.ends_with(words), "{message}");
        assert_eq!(report.fields.adopted, Some(adopted));
        let source = if is_copy { "PersistentVolumeClaim" } else { "provisioned" };
        assert_eq!(told(&report).2, [source]);
    }
}

#[test]
fn who_is_served_by_a_class_in_doubt_is_warned_of_the_parameter() {
    let claim = claim(false);
    for (fate, words) in [(Fate::Archive, "it is archived"), (Fate::Retain, "it is kept where it is")] {
        let doubt = (BadParameter::OnDelete("keep".into()), fate);
        let round = ClaimRound { doubt: Some(&doubt), ..claim_round(&claim, true) };
        let (reason, message) = ClaimOutcome::Provisioned(Directory::New).warning(&round).unwrap();
        assert_eq!(reason, Reason::ReclaimUnclear);
        for words in [r#"parameter onDelete is "keep", but must be "delete""#, r#"StorageClass "nfs""#, words] {
            assert!(message.contains(words), "{words} is not in: {message}");
        }
        assert_eq!(ClaimOutcome::Copying.warning(&round), None);
    }
    assert_eq!(ClaimOutcome::Provisioned(Directory::New).warning(&claim_round(&claim, true)), None);
}

fn volume() -> Volume {
    let object: PersistentVolume = serde_json::from_value(json!({
        "metadata": {"name": "pvc-1", "uid": "2"},
        "spec": {
            "storageClassName": "nfs", "nfs": {"server": "nas", "path": "/export/x"},
            "claimRef": {"namespace": "shop", "name": "data", "uid": "1"},
        },
    }))
    .unwrap();
    Volume::read(&object)
}

fn volume_round<'a>(volume: &'a Volume, doubt: Option<&'a Doubt>, class_exists: bool) -> VolumeRound<'a> {
    VolumeRound { volume, class_exists, at: Some(("default", "x")), doubt, took: TOOK }
}

fn neighbour() -> Disposal {
    Disposal::Shared(Neighbour { volume: "pvc-2".into(), relation: Relation::Beneath, exists: true, noted: 1 })
}

#[test]
fn of_each_outcome_of_a_volume_is_told_what_an_admin_can_use() {
    use VolumeOutcome as Outcome;
    let failed = Some(Reason::VolumeFailedDelete);
    let (quiet, warn) = (Level::DEBUG, Level::WARN);
    let neighbour_goes = retry(RetryReason::Neighbour);
    let asks_again = retry(RetryReason::ApiServer);
    let waits = |is_said| Outcome::WaitsForCopy { claim: claim(true).claim, is_said };
    let rows: Vec<(Outcome, Told)> = vec![
        (Outcome::Ignored(VolumeIgnored::Foreign), (quiet, None, vec![], Next::Done)),
        (Outcome::Patched, (quiet, None, vec![], Next::Done)),
        (Outcome::LetGo, (Level::INFO, Some(Reason::VolumeDirectoryKept), vec![], Next::Done)),
        (Outcome::NotLeading, (quiet, None, vec![], Next::PutBack)),
        (Outcome::Changed, (quiet, None, vec![], retry(RetryReason::Changed))),
        (Outcome::TookTooLong, (warn, None, vec![], retry(RetryReason::Export))),
        (Outcome::ClaimExists, (quiet, None, vec![], retry(RetryReason::Changed))),
        (Outcome::Gone, (quiet, None, vec![], Next::Done)),
        (Outcome::BeingCopied, (quiet, None, vec![], neighbour_goes)),
        (waits(false), (quiet, None, vec![], neighbour_goes)),
        (waits(true), (quiet, Some(Reason::VolumeWaitsForCopy), vec![], neighbour_goes)),
        (Outcome::BeingGiven, (quiet, None, vec![], neighbour_goes)),
        (Outcome::Refused(VolumeRefusal::NotNfs), (warn, failed, vec!["not_nfs"], Next::SayAgain)),
        (Outcome::FailedToPatch("protect", error()), (warn, None, vec![], asks_again)),
        (Outcome::FailedToRead(volume_outcome::Unread::Volumes, error()), (warn, None, vec![], asks_again)),
        (Outcome::FailedToRead(volume_outcome::Unread::Neighbour, error()), (warn, None, vec![], asks_again)),
        (
            Outcome::FailedToDispose { fate: Fate::Archive, words: "rename: no".to_owned() },
            (Level::ERROR, failed, vec!["not deleted"], retry(RetryReason::Export)),
        ),
        (
            Outcome::FailedToDelete(Disposal::Removed, error()),
            (Level::ERROR, failed, vec!["not deleted"], asks_again),
        ),
        (Outcome::Reclaimed(Disposal::Removed), (Level::INFO, None, vec!["deleted", "delete"], Next::Done)),
        (Outcome::Reclaimed(Disposal::Kept), (Level::INFO, None, vec!["deleted", "retain"], Next::Done)),
        (
            Outcome::Reclaimed(Disposal::Missing(Fate::Archive)),
            (Level::INFO, None, vec!["deleted", "archive"], Next::Done),
        ),
        (
            Outcome::Reclaimed(neighbour()),
            (Level::INFO, Some(Reason::VolumeDirectoryKept), vec!["deleted", "shared"], Next::Done),
        ),
    ];
    let volume = volume();
    for (outcome, expected) in rows {
        let report = outcome.report(&volume_round(&volume, None, true));
        assert_eq!(told(&report), expected, "{outcome:?}");
        assert_eq!(report.fields.volume.as_deref(), Some("pvc-1"), "{outcome:?}");
    }
}

#[test]
fn what_was_done_to_a_directory_is_said_and_why_where_that_was_not_clear() {
    let (volume, doubt) = (volume(), Doubt::NoClass("nfs".into()));
    let until: Timestamp = "2026-12-30T17:40:00Z".parse().unwrap();
    let archived = |until| Disposal::Archived(Name::parse("archived-x").unwrap(), until);
    let trashed = Disposal::Trashed { path: ".nfs-provisioner-trash/1+60~v~x".into(), until };
    let rows = [
        (Disposal::Kept, r#"kept "x""#),
        (Disposal::Removed, r#"removed "x""#),
        (Disposal::Missing(Fate::Delete), r#"found no directory "x""#),
        (Disposal::Before(r#"removed "x""#.into()), r#"removed "x" before"#),
        (archived(None), r#"archived "x" as "archived-x""#),
        (archived(Some(until)), r#"archived "x" as "archived-x", kept until 2026-12-30T17:40:00Z"#),
        (
            trashed.clone(),
            r#"put "x" into the trash as ".nfs-provisioner-trash/1+60~v~x", kept until 2026-12-30T17:40:00Z"#,
        ),
        (
            neighbour(),
            r#"kept "x", because the volume "pvc-2" has a directory in it: the last of them to go decides"#,
        ),
    ];
    for (disposal, words) in rows {
        let is_shared = matches!(disposal, Disposal::Shared(_));
        let failed = VolumeOutcome::FailedToDelete(disposal.clone(), error());
        let (_, message) = failed.report(&volume_round(&volume, None, true)).event.unwrap();
        assert_eq!(message, format!("{words}, but the volume could not be deleted: no such luck"));
        let report = VolumeOutcome::Reclaimed(disposal).report(&volume_round(&volume, Some(&doubt), false));
        assert_eq!(report.fields.done.as_deref(), Some(words));
        // A volume that shares a directory leaves its fate to the others.
        assert_eq!((report.level == Level::WARN, report.fields.doubt.is_some()), (!is_shared, !is_shared));
        let reason = if is_shared { Reason::VolumeDirectoryKept } else { Reason::VolumeReclaimUnclear };
        assert_eq!((told(&report).1, told(&report).2[0]), (Some(reason), "deleted without a class"));
    }
    // Until when it can be had back is said in any case.
    let report = VolumeOutcome::Reclaimed(trashed).report(&volume_round(&volume, None, true));
    assert_eq!((told(&report).1, report.level), (Some(Reason::VolumeDirectoryTrashed), Level::INFO));
}

#[test]
fn of_each_outcome_of_an_expansion_is_told_what_its_author_can_use() {
    use ExpansionOutcome as Outcome;
    let object: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {"name": "data", "namespace": "shop", "uid": "1", "resourceVersion": "7"},
        "spec": {"resources": {"requests": {"storage": "2Gi"}}, "volumeName": "pvc-1"},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
    }))
    .unwrap();
    let expansion = Expansion::read(&object).unwrap();
    let refused = |refusal, is_said| Outcome::Refused { refusal, is_said };
    let failed = Some(Reason::VolumeResizeFailed);
    let (quiet, warn) = (Level::DEBUG, Level::WARN);
    let elsewhere = ExpansionRefusal::Elsewhere { exports: "nas:/export".into() };
    let rows: Vec<(Outcome, Told)> = vec![
        (Outcome::Foreign, (quiet, None, vec![], Next::Done)),
        (Outcome::VolumeGone, (quiet, None, vec![], Next::Done)),
        (Outcome::Ignored(ExpansionIgnored::Deleting), (quiet, None, vec![], Next::Done)),
        (Outcome::WaitsForPromise, (quiet, None, vec![], retry(RetryReason::Headroom))),
        (Outcome::Changed(error()), (quiet, None, vec![], retry(RetryReason::Changed))),
        (Outcome::FailedToRead(error()), (warn, None, vec![], retry(RetryReason::ApiServer))),
        (refused(elsewhere, true), (warn, failed, vec!["refused"], Next::SayAgain)),
        (
            refused(ExpansionRefusal::Forbidden("patch".into()), true),
            (warn, failed, vec!["refused"], retry(RetryReason::ApiServer)),
        ),
        (
            refused(ExpansionRefusal::NoRoom("x".into()), true),
            (warn, failed, vec!["refused"], retry(RetryReason::Headroom)),
        ),
        (
            refused(ExpansionRefusal::NoRoom("x".into()), false),
            (quiet, None, vec![], retry(RetryReason::Headroom)),
        ),
        (Outcome::Failed(error()), (Level::ERROR, failed, vec!["failed"], retry(RetryReason::ApiServer))),
        (
            Outcome::Expanded { to: Quantity("2Gi".to_owned()) },
            (Level::INFO, Some(Reason::VolumeResizeSuccessful), vec!["succeeded"], Next::Done),
        ),
    ];
    let round = ExpansionRound { expansion: &expansion, provisioner: OURS, took: TOOK };
    for (outcome, expected) in rows {
        let report = outcome.report(&round);
        assert_eq!(told(&report), expected, "{outcome:?}");
        assert_eq!(report.fields.volume.as_deref(), Some("pvc-1"), "{outcome:?}");
    }
    let (_, message) = Outcome::Failed(error()).report(&round).event.unwrap();
    assert_eq!(message, r#"resize volume "pvc-1" by resizer "example.com/nfs" failed: no such luck"#);
}
