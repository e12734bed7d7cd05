//! Judges the facts about the notes of volumes.

use crate::commands::doctor::facts::{ClusterFacts, NotesFacts, OtherCluster};
use crate::commands::doctor::report::Finding;
use crate::values::names::VolumeName;

/// The number of names that are shown of each kind.
const SHOWN: usize = 3;

/// Judges whether it is known which cluster this is.
pub(super) fn mark(cluster: &ClusterFacts) -> Finding {
    let check = "cluster-mark";
    match &cluster.mark {
        Ok(mark) if mark.is_known() => Finding::ok(check, format!("notes of volumes are kept as those of {mark}")),
        Ok(_) => Finding::warning(
            check,
            "not allowed to get the namespace kube-system, so notes of volumes are kept as those of an unknown cluster",
            "Grant \"get\" on namespaces, as in rbac/: all clusters that are unknown share their notes, and \
             `nfs-provisioner adopt` cannot tell them apart.",
        ),
        Err(error) => Finding::warning(
            check,
            format!("failed to read the namespace kube-system, whose uid marks notes of volumes: {error}"),
            "Check the API server.",
        ),
    }
}

/// Judges the notes on an export. `records` is the setting whether volumes have notes where their class does not say.
pub(super) fn judge_notes(records: bool, notes: &Result<NotesFacts, String>, findings: &mut Vec<Finding>) {
    let check = "notes";
    let notes = match notes {
        Ok(notes) => notes,
        Err(error) => {
            findings.push(Finding::warning(
                check,
                format!("failed to look at the notes of volumes: {error}"),
                "Volumes are served without, but cannot be adopted after the cluster is lost. Look at \
                 .nfs-provisioner-notes on the export, and run this again.",
            ));
            return;
        }
    };
    let before = findings.len();
    if notes.is_closed {
        findings.push(Finding::warning(
            check,
            "some directories of notes are another user's to the server, as where root was not squashed before",
            "Others are used beside them. Remove .nfs-provisioner-notes on the server once all volumes have notes in the \
             others, or give it to the user that the line \"squash\" names.",
        ));
    }
    findings.extend(missing(notes));
    findings.extend(bad(notes));
    if findings.len() == before {
        findings.push(Finding::ok(check, well(records, notes)));
    }
    findings.extend(notes.others.iter().map(other));
}

/// Says how many volumes have notes, where nothing is wrong with them.
fn well(records: bool, notes: &NotesFacts) -> String {
    let (NotesFacts { wanted, read, .. }, rest) = (notes, rest(notes));
    match (records, wanted) {
        (false, 0) => {
            "RECORD_VOLUMES is false: no volume is to have a note, so none can be adopted after the cluster is \
                       lost"
                .to_owned()
        }
        (false, _) => format!(
            "RECORD_VOLUMES is false: only volumes of classes with recordVolume are to have notes; all {wanted} of these \
             have one, and {read} were read{rest}"
        ),
        (true, 0) => "no volume is to have a note on the export yet".to_owned(),
        (true, _) => format!("all {wanted} volumes have one, and {read} were read{rest}"),
    }
}

/// Says that not everything was looked at, if that is so.
fn rest(notes: &NotesFacts) -> &'static str {
    if notes.is_partial { ", but there is more than is looked at" } else { "" }
}

fn missing(notes: &NotesFacts) -> Option<Finding> {
    let NotesFacts { wanted, missing, without_directory, .. } = notes;
    if *missing == 0 {
        return None;
    }
    let first: Vec<&str> = notes.first_missing.iter().map(VolumeName::as_str).collect();
    let without = match without_directory {
        0 => String::new(),
        number => format!("; {number} of them have no directory either, and get none"),
    };
    let rest = rest(notes);
    Some(Finding::warning(
        "notes",
        format!("{missing} of {wanted} volumes have no note on the export, such as {first:?}{without}{rest}"),
        "A provisioner that leads writes them within the hour, 20 a second. If they stay away, its log says why. \
         Until then these volumes cannot be adopted after the cluster is lost.",
    ))
}

fn bad(notes: &NotesFacts) -> Option<Finding> {
    let (number, read) = (notes.bad.len(), notes.read);
    let first: Vec<&String> = notes.bad.iter().take(SHOWN).collect();
    (number > 0).then(|| {
        Finding::warning(
            "notes",
            format!("{number} of {read} notes that were read cannot be used, such as {first:?}"),
            "A provisioner that leads writes them anew within the hour. If they come back, see what else writes to \
             .nfs-provisioner-notes: a later version of the provisioner may be at work beside this one.",
        )
    })
}

/// Judges another cluster that is at work on the export.
fn other(OtherCluster { mark, read, shared }: &OtherCluster) -> Finding {
    let check = "other-cluster";
    if shared.is_empty() {
        let message = format!(
            "the cluster {mark} is at work on the export, too; of {read} notes of its that were read, none is of a \
             directory of this cluster's volumes"
        );
        return Finding::ok(check, message);
    }
    let (number, first): (usize, Vec<&String>) = (shared.len(), shared.iter().take(SHOWN).collect());
    Finding::warning(
        check,
        format!(
            "the cluster {mark} is at work on the export, too, and has volumes in {number} directories of this cluster's, \
             such as {first:?}"
        ),
        "What one cluster deletes, the other still uses. Set the volumes of one of them to the reclaim policy Retain, and \
         stop its provisioner, before anything is deleted; see docs/recovery.md.",
    )
}
