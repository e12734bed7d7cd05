//! Judges the facts about an export.

use std::path::Path;

use super::clock::clock;
use crate::commands::doctor::facts::{ExportFacts, Try};
use crate::commands::doctor::report::Finding;
use crate::storage::{Errno, ExportSpec, Problem, StorageError, advice};
use crate::values::headroom::FsUsage;

/// An export counts as almost full when less than one part in this many is free, as in the alerts of
/// `deploy/monitoring`.
const ALMOST_FULL: u64 = 20;

pub(super) fn judge_export(spec: &ExportSpec, export: &ExportFacts, findings: &mut Vec<Finding>) {
    findings.extend(
        export.tried.iter().find(|(what, _)| *what == Try::Open).map(|(what, result)| tried(*what, result)),
    );
    judge_mount(spec, export, findings);
    findings.extend(export.usage.map(space));
    let others = export.tried.iter().filter(|(what, result)| match what {
        Try::Open => false,
        // Their findings tell more than that they succeeded.
        Try::Statfs | Try::List => result.is_err(),
        Try::Mkdir | Try::Write | Try::Chmod | Try::Rename | Try::Remove => true,
    });
    findings.extend(others.map(|(what, result)| tried(*what, result)));
    findings.extend(export.owner.map(|owner| squash(export.user, owner)));
    findings.extend(export.clock.map(|skew| {
        clock(
            "nfs-server-clock",
            skew,
            "Set both clocks by NTP: Pods see files from the future or the distant past.",
        )
    }));
    judge_rest(export, findings);
}

fn judge_mount(expected: &ExportSpec, export: &ExportFacts, findings: &mut Vec<Finding>) {
    let Some(place) = expected.reach.mount_path().map(Path::display) else { return };
    let Some(mount) = &export.mount else {
        if export.tried.iter().any(|(what, result)| *what == Try::Open && result.is_ok()) {
            let fix = "Run the doctor where /proc can be read.";
            findings.push(Finding::warning("mount", "the kernel does not tell what is mounted", fix));
        }
        return;
    };
    let mut sound = true;
    let mut unsound = |finding| {
        sound = false;
        findings.push(finding);
    };
    let not_nfs = advice(Problem::NotNfs).unwrap_or_default();
    match mount.difference(&expected.address) {
        Some(difference) if expected.reach.refuses(mount) => {
            unsound(Finding::failure("mount", format!("{place}: {difference}"), not_nfs));
        }
        Some(difference) if !mount.is_nfs() => {
            let fix = "If the export should be mounted there, mount it, and set NFS_MOUNT_CHECK to on.";
            unsound(Finding::warning("mount", format!("{place}: {difference}"), fix));
        }
        Some(difference) => {
            let fix = "Set NFS_SERVER and NFS_PATH (or EXPORTS_FILE) to what is mounted, or mount what they name.";
            unsound(Finding::warning("mount", format!("{place}: {difference}"), fix));
        }
        None => {}
    }
    if mount.has("ro") {
        let fix = advice(Problem::Os(Errno::EROFS)).unwrap_or_default();
        unsound(Finding::failure("mount", format!("{place} is mounted read-only: {mount}"), fix));
    }
    if mount.has("soft") || mount.has("softerr") {
        let fix = "Mount with hard: on a soft mount, a call that timed out may still take effect on the server, \
                   and Pods lose data.";
        unsound(Finding::warning("mount", format!("{place} is mounted soft: {mount}"), fix));
    }
    if sound {
        findings.push(Finding::ok("mount", format!("{place} is {mount}")));
    }
}

fn space(FsUsage { bytes, bytes_free, inodes, inodes_free }: FsUsage) -> Finding {
    let mebibytes = |bytes: u64| bytes >> 20;
    let mut message = format!("{} of {} MiB are free", mebibytes(bytes_free), mebibytes(bytes));
    if inodes > 0 {
        message = format!("{message}, and {inodes_free} of {inodes} inodes");
    }
    let almost_out = |free: u64, all: u64| all > 0 && free < all / ALMOST_FULL;
    let fix = "Free some space or inodes on the server, or enlarge its file system. The provisioner never removes \
               archives (archived-…).";
    if (bytes > 0 && bytes_free == 0) || (inodes > 0 && inodes_free == 0) {
        return Finding::failure("space", message, fix);
    }
    if almost_out(bytes_free, bytes) || almost_out(inodes_free, inodes) {
        return Finding::warning("space", message, fix);
    }
    Finding::ok("space", message)
}

/// Returns the name of a step, and what it has shown if it succeeded.
fn words(what: Try) -> (&'static str, &'static str) {
    match what {
        Try::Open => ("open", "the mount path is a directory that can be opened"),
        Try::Statfs => ("statfs", "size and free space of the export were read"),
        Try::Mkdir => ("mkdir", "a directory was made"),
        Try::Write => ("write", "a file was written"),
        Try::Chmod => ("chmod", "a directory was made writable for all users"),
        Try::Rename => ("rename", "a directory was moved into another"),
        Try::Remove => ("remove", "all of it was removed again"),
        Try::List => ("list", "the export's root was listed"),
    }
}

fn tried(what: Try, result: &Result<(), StorageError>) -> Finding {
    let (check, done) = words(what);
    match result {
        Ok(()) => Finding::ok(check, done),
        Err(error) => {
            let fix = advice(error.problem).unwrap_or("See the server's kernel log.");
            Finding::failure(check, error.to_string(), fix)
        }
    }
}

fn squash(user: u32, owner: u32) -> Finding {
    let check = "squash";
    let limits = "Directories that Pods have closed to other users cannot be removed, and stay in the trash. \
                  Export with no_root_squash, or see docs/nfs.md.";
    match (user, owner) {
        (0, 0) => Finding::ok(check, "the server lets root be root"),
        (0, owner) => Finding::warning(
            check,
            format!("the server takes root for user {owner} (root_squash or all_squash)"),
            limits,
        ),
        (user, owner) => Finding::warning(
            check,
            format!("this process runs as user {user}, whom the server takes for user {owner}"),
            "Run the provisioner as root: as another user it cannot remove what Pods have written as other users.",
        ),
    }
}

/// Judges the step that was not answered, and what is left on the export.
fn judge_rest(export: &ExportFacts, findings: &mut Vec<Finding>) {
    if let Some(what) = export.unanswered {
        let left = export.write_test.as_ref().filter(|_| what != Try::List);
        let left = left
            .map(|name| format!(" {name:?} may be left on the export; a later run removes it."))
            .unwrap_or_default();
        findings.push(Finding::failure(
            "answer",
            format!("the export has not answered in time when asked to {}", words(what).0),
            format!(
                "Check that the NFS server is up and can be reached from this node. The provisioner waits for it, \
                 and goes on by itself.{left}"
            ),
        ));
    }
    if export.leftovers.removed > 0 {
        let message = format!("removed from earlier, interrupted runs: {}", export.leftovers.removed);
        findings.push(Finding::ok("leftovers", message));
    }
    if !export.leftovers.kept.is_empty() {
        findings.push(Finding::warning(
            "leftovers",
            format!("at the export's root: {:?}", export.leftovers.kept),
            "They look like leftovers of an interrupted run, but may hold data. Check, and remove them by hand.",
        ));
    }
}
