//! Judges the facts: what each means, and what to do about it. No I/O.

use std::collections::BTreeMap;
use std::path::Path;

use super::facts::{ClusterFacts, ExportFacts, Missing, Skew, Try};
use super::report::{Finding, Report};
use crate::cluster::lock::{LockChoice, LockKind, lock_name};
use crate::cluster::permissions::{Permission, listed};
use crate::config::Config;
use crate::layout::new_directory;
use crate::model::class::Class;
use crate::model::exports::Exports;
use crate::model::parameters::{BadParameter, Fate, parameter};
use crate::storage::{Errno, ExportSpec, Problem, StorageError, advice};
use crate::values::headroom::FsUsage;
use crate::values::pattern::Facts;

/// The number of seconds by which clocks may differ before the doctor warns.
const SKEW_MAX: u64 = 30;

/// An export counts as almost full when less than one part in this many is free, as in the alerts of
/// `deploy/monitoring`.
const ALMOST_FULL: u64 = 20;

/// Judges all facts.
pub(super) fn judge(config: &Config, cluster: &Result<ClusterFacts, String>, exports: &[ExportFacts]) -> Report {
    let served = |spec: &ExportSpec| format!("{}, {}", spec.address, spec.reach);
    let served: Vec<String> = config.specs.values().map(served).collect();
    let settings = format!("{:?} serves {}", config.provisioner, served.join("; "));
    let mut findings = vec![Finding::ok("settings", settings)];
    match cluster {
        Ok(cluster) => judge_cluster(config, cluster, &mut findings),
        Err(error) => findings.push(Finding::failure(
            "api-server",
            error,
            "Check that the API server is up and can be reached from here, that KUBECONFIG, if set, is right, and that \
             NO_PROXY names the API server if HTTPS_PROXY is set and the proxy is not for it.",
        )),
    }
    for (spec, export) in config.specs.values().zip(exports) {
        let before = findings.len();
        judge_export(spec, export, &mut findings);
        let of_export = findings.iter_mut().skip(before);
        of_export.for_each(|finding| finding.export = Some(spec.name.clone()));
    }
    Report { findings }
}

fn judge_cluster(config: &Config, cluster: &ClusterFacts, findings: &mut Vec<Finding>) {
    let user = cluster.user.as_ref().map(|user| format!(", and knows this process as {user}")).unwrap_or_default();
    let through = cluster.proxy.as_ref().map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default();
    findings.push(Finding::ok("api-server", format!("version {} answers{through}{user}", cluster.version)));
    findings.extend(cluster.clock.map(|skew| {
        clock(
            "api-server-clock",
            skew,
            "Set both clocks by NTP: wrong clocks refuse valid tokens and certificates.",
        )
    }));
    match &cluster.missing {
        Ok(missing) => {
            findings.push(rights(missing));
            findings.push(finalizers(missing));
            findings.push(expansion(missing));
            findings.push(lock(config, &cluster.namespace, missing));
        }
        Err(error) => findings.push(Finding::warning(
            "rights",
            format!("failed to ask the API server for the permissions of this process: {error}"),
            "Allow all authenticated users to create SelfSubjectAccessReviews, as Kubernetes does by default.",
        )),
    }
    match &cluster.classes {
        Ok(classes) => judge_classes(config, classes, findings),
        Err(error) => findings.push(Finding::failure(
            "classes",
            format!("failed to list the StorageClasses: {error}"),
            "Grant what the line \"rights\" names, or check the API server.",
        )),
    }
}

fn clock(check: &'static str, Skew(seconds): Skew, fix: &str) -> Finding {
    let difference = seconds.unsigned_abs();
    if difference <= SKEW_MAX {
        return Finding::ok(check, "agrees with the clock here");
    }
    let side = if seconds > 0 { "ahead of" } else { "behind" };
    Finding::warning(check, format!("is {difference} s {side} the clock here"), fix)
}

fn rights(missing: &Missing) -> Finding {
    if missing.needed.is_empty() {
        return Finding::ok("rights", "all permissions that the provisioner needs are granted");
    }
    Finding::failure(
        "rights",
        format!("not allowed to {}", listed(&missing.needed)),
        "Grant it, as in rbac/: until then claims and volumes wait.",
    )
}

fn finalizers(missing: &Missing) -> Finding {
    if missing.protect.is_empty() {
        return Finding::ok("finalizers", "may be put on volumes");
    }
    Finding::warning(
        "finalizers",
        format!("not allowed to {}, so volumes get no finalizer", listed(&missing.protect)),
        "Grant it, as in rbac/: without a finalizer, a volume that is deleted while it has a claim is reclaimed \
         only if the provisioner does not restart in between.",
    )
}

fn expansion(missing: &Missing) -> Finding {
    if missing.expand.is_empty() {
        return Finding::ok("expansion", "volumes can grow when their claims ask for more");
    }
    Finding::warning(
        "expansion",
        format!("not allowed to {}, so volumes do not grow", listed(&missing.expand)),
        "Grant it, as in rbac/, if volumes should grow.",
    )
}

fn lock(config: &Config, namespace: &str, missing: &Missing) -> Finding {
    let (check, choice) = ("leader-lock", config.lock);
    let lease = || format!("a Lease {:?} in {namespace:?}", lock_name(&config.provisioner));
    let endpoints = || format!("an Endpoints object {:?} in {namespace:?}", lock_name(&config.provisioner));
    let may_not = |permissions: &[Permission]| format!("not allowed to {} in {namespace:?}", listed(permissions));
    match choice {
        LockChoice::None => Finding::warning(
            check,
            "leader election is off",
            "Run only one replica, and no other provisioner of this name: two would serve the same claims.",
        ),
        LockChoice::Auto | LockChoice::Only(LockKind::Lease) if missing.lease.is_empty() => {
            let lacking = [&*missing.lease_watch, &*missing.endpoints_read].concat();
            if lacking.is_empty() {
                return Finding::ok(check, lease());
            }
            Finding::warning(
                check,
                format!("{}, but {}", lease(), may_not(&lacking)),
                "Grant it, as in rbac/: then a standby takes over at once, and no replica starts work while \
                 nfs-subdir-external-provisioner still leads.",
            )
        }
        LockChoice::Auto if missing.endpoints.is_empty() => Finding::warning(
            check,
            format!("{}, because {}", endpoints(), may_not(&missing.lease)),
            "Grant it, as in rbac/, once nfs-subdir-external-provisioner no longer runs.",
        ),
        LockChoice::Only(LockKind::Endpoints) if missing.endpoints.is_empty() => Finding::ok(check, endpoints()),
        LockChoice::Auto | LockChoice::Only(_) => {
            let lacking = match choice {
                LockChoice::Only(LockKind::Endpoints) => &missing.endpoints,
                LockChoice::None | LockChoice::Auto | LockChoice::Only(LockKind::Lease) => &missing.lease,
            };
            Finding::failure(
                check,
                may_not(lacking),
                "Grant it, as in rbac/, or set ENABLE_LEADER_ELECTION to false and run only one replica.",
            )
        }
    }
}

fn judge_classes(config: &Config, classes: &[Class], findings: &mut Vec<Finding>) {
    let provisioner = &*config.provisioner;
    let ours: Vec<&Class> = classes.iter().filter(|class| *class.provisioner == *provisioner).collect();
    if ours.is_empty() {
        let mut others: Vec<&str> = classes.iter().map(|class| &*class.provisioner).collect();
        others.sort_unstable();
        others.dedup();
        findings.push(Finding::warning(
            "classes",
            format!("no StorageClass names the provisioner {provisioner:?}; the existing ones name {others:?}"),
            "Create one, such as deploy/class.yaml, or set PROVISIONER_NAME to the name in your class.",
        ));
    }
    for class in ours {
        let before = findings.len();
        judge_class(class, &config.exports, findings);
        if findings.len() == before {
            findings.push(Finding::ok("class", format!("{:?} has good parameters", class.name)));
        }
    }
}

fn judge_class(class: &Class, exports: &Exports, findings: &mut Vec<Finding>) {
    for bad in &class.parameters.wrong {
        if matches!(bad, BadParameter::Spelling { .. }) {
            // It is among the unknown ones.
            continue;
        }
        if bad.concerns_fate() {
            findings.push(Finding::warning(
                "class",
                format!("{:?}: {bad}", class.name),
                "Delete the class and create it again with a valid value: until then its volumes are archived at the \
                 most, and its claims get a warning.",
            ));
            continue;
        }
        findings.push(Finding::failure(
            "class",
            format!("{:?}: {bad}", class.name),
            "Delete the class and create it again with a valid value: until then its claims wait.",
        ));
    }
    findings.extend(unusual_on_delete(class));
    if let Err(what) = exports.meant_by(&class.parameters.export) {
        findings.push(Finding::failure(
            "class",
            format!("{:?} names {what}", class.name),
            "Add the export to EXPORTS_FILE, or delete the class and create it again: until then its claims wait.",
        ));
    }
    if !class.parameters.unknown.is_empty() {
        findings.push(Finding::warning(
            "class",
            format!("{:?} has unknown parameters: {:?}", class.name, class.parameters.unknown),
            format!("Check whether one of {:?} was meant.", parameter::ALL),
        ));
    }
    if let Some(pattern) = &class.parameters.pattern {
        let none = BTreeMap::new();
        let facts = Facts {
            name: "claim",
            namespace: "namespace",
            labels: &none,
            annotations: &none,
            volume: "pvc-uid",
            class: class.name.as_str(),
        };
        let path = pattern.render(&facts);
        if !path.is_empty()
            && let Err(error) = new_directory(&path, facts.namespace)
        {
            let example = "a claim \"claim\" in \"namespace\" without labels and annotations";
            findings.push(Finding::warning(
                "class",
                format!("{:?}: for {example} its pathPattern makes {path:?}, which {error}", class.name),
                "Such claims are refused. If that is not intended, delete the class and create it again.",
            ));
        }
    }
}

/// Judges an `onDelete` that nfs-subdir-external-provisioner takes for none: after a migration the class does
/// something else than before.
fn unusual_on_delete(class: &Class) -> Option<Finding> {
    let (text, fate) = (class.parameters.unusual_on_delete.as_ref()?, class.parameters.fate);
    let fate_now = match fate {
        Fate::Archive => "archives the directories of deleted claims",
        Fate::Delete => "removes the directories of deleted claims",
        Fate::Retain => "leaves the directories of deleted claims where they are",
    };
    Some(Finding::warning(
        "class",
        format!(
            "{:?}: parameter onDelete is {text:?}, with which this provisioner {fate_now}. \
             nfs-subdir-external-provisioner does not know this spelling and goes by archiveOnDelete",
            class.name
        ),
        format!(
            "If you want it so, delete the class and create it again with {:?}; else with \"archive\", \"delete\" or \
             \"retain\". Volumes that exist follow the new class.",
            fate.as_str()
        ),
    ))
}

fn judge_export(spec: &ExportSpec, export: &ExportFacts, findings: &mut Vec<Finding>) {
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

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::cluster::permissions;
    use crate::commands::doctor::report::Level;
    use crate::config::Args;
    use crate::storage::{Leftovers, Mount};

    fn config(more: &[&str]) -> Config {
        let given = ["x", "--provisioner-name", "e.com/nfs", "--nfs-server", "nas", "--nfs-path", "/export"];
        Args::try_parse_from(given.iter().chain(more)).unwrap().try_into().unwrap()
    }

    fn mount(kind: &str, source: &str, options: &str) -> Option<Mount> {
        Mount::find(&format!("1 0 0:1 / /pv rw - {kind} {source} {options}"), 1)
    }

    fn class(name: &str, provisioner: &str, parameters: &serde_json::Value) -> Class {
        let class = json!({"metadata": {"name": name}, "provisioner": provisioner, "parameters": parameters});
        Class::read(&serde_json::from_value(class).unwrap())
    }

    /// Returns the facts about a cluster and an export with nothing wrong.
    fn good() -> (ClusterFacts, ExportFacts) {
        let cluster = ClusterFacts {
            version: "v1.36.3".to_owned(),
            proxy: None,
            user: Some("system:serviceaccount:a:b".to_owned()),
            clock: Some(Skew(1)),
            namespace: "a".to_owned(),
            missing: Ok(Missing::default()),
            classes: Ok(vec![class(
                "nfs",
                "e.com/nfs",
                &json!({"pathPattern": "${.PVC.namespace}/${.PVC.name}"}),
            )]),
        };
        let tried =
            [Try::Open, Try::Statfs, Try::Mkdir, Try::Write, Try::Chmod, Try::Rename, Try::Remove, Try::List];
        let export = ExportFacts {
            user: 0,
            mount: mount("nfs4", "nas:/export", "rw,vers=4.2,hard"),
            tried: tried.map(|what| (what, Ok(()))).to_vec(),
            usage: Some(FsUsage { bytes: 100 << 20, bytes_free: 50 << 20, inodes: 10, inodes_free: 5 }),
            owner: Some(0),
            clock: Some(Skew(0)),
            ..ExportFacts::default()
        };
        (cluster, export)
    }

    #[test]
    fn where_all_is_well_nothing_else_is_said() {
        let (cluster, export) = good();
        let report = judge(&config(&[]), &Ok(cluster), &[export]);
        let found: Vec<_> = report.findings.iter().map(|finding| (finding.level, finding.check)).collect();
        let checks = [
            "settings",
            "api-server",
            "api-server-clock",
            "rights",
            "finalizers",
            "expansion",
            "leader-lock",
            "class",
            "open",
            "mount",
            "space",
            "mkdir",
            "write",
            "chmod",
            "rename",
            "remove",
            "squash",
            "nfs-server-clock",
        ];
        assert_eq!(found, checks.map(|check| (Level::Ok, check)));
    }

    /// A change to good facts, the check that finds it, the level, and words in the message and in the remedy.
    type Row = (fn(&mut ClusterFacts, &mut ExportFacts), &'static str, Level, &'static str, &'static str);

    #[test]
    #[expect(clippy::too_many_lines, reason = "it is one table")]
    fn whatever_is_wrong_is_said_with_its_remedy() {
        use Level::{Failure, Warning};
        let rows: &[Row] = &[
            (|c, _| c.clock = Some(Skew(-3600)), "api-server-clock", Warning, "3600 s behind", "NTP"),
            (|_, e| e.clock = Some(Skew(31)), "nfs-server-clock", Warning, "31 s ahead", "NTP"),
            (
                |c, _| c.missing.as_mut().unwrap().needed = permissions::NEEDED[5..7].to_vec(),
                "rights",
                Failure,
                "create persistentvolumes, delete persistentvolumes",
                "rbac/",
            ),
            (
                |c, _| c.missing = Err("refused".to_owned()),
                "rights",
                Warning,
                "refused",
                "SelfSubjectAccessReview",
            ),
            (
                |c, _| c.missing.as_mut().unwrap().protect = permissions::PROTECT.to_vec(),
                "finalizers",
                Warning,
                "patch persistentvolumes",
                "rbac/",
            ),
            (
                |c, _| c.missing.as_mut().unwrap().expand = permissions::EXPAND.to_vec(),
                "expansion",
                Warning,
                "patch persistentvolumeclaims/status",
                "rbac/",
            ),
            (
                |c, _| c.missing.as_mut().unwrap().lease_watch = permissions::LEASE_WATCH.to_vec(),
                "leader-lock",
                Warning,
                "watch leases",
                "rbac/",
            ),
            (
                |c, _| c.missing.as_mut().unwrap().lease = permissions::LEASE.to_vec(),
                "leader-lock",
                Warning,
                "Endpoints object \"e.com-nfs\" in \"a\"",
                "nfs-subdir-external-provisioner",
            ),
            (
                |c, _| {
                    let missing = c.missing.as_mut().unwrap();
                    (missing.lease, missing.endpoints) =
                        (permissions::LEASE.to_vec(), permissions::ENDPOINTS.to_vec());
                },
                "leader-lock",
                Failure,
                "update leases.coordination.k8s.io in \"a\"",
                "ENABLE_LEADER_ELECTION",
            ),
            (|c, _| c.classes = Err("forbidden".to_owned()), "classes", Failure, "forbidden", "Grant"),
            (
                |c, _| c.classes = Ok(vec![class("nfs", "e.com/nsf", &json!({}))]),
                "classes",
                Warning,
                "[\"e.com/nsf\"]",
                "PROVISIONER_NAME",
            ),
            (
                |c, _| c.classes = Ok(vec![class("nfs", "e.com/nfs", &json!({"onDelete": "keep"}))]),
                "class",
                Warning,
                "\"nfs\": parameter onDelete is \"keep\"",
                "create it again",
            ),
            (
                |c, _| c.classes = Ok(vec![class("nfs", "e.com/nfs", &json!({"onDelete": "Delete"}))]),
                "class",
                Warning,
                "\"nfs\": parameter onDelete is \"Delete\", with which this provisioner removes",
                "create it again with \"delete\"; else",
            ),
            (
                |c, _| c.classes = Ok(vec![class("nfs", "e.com/nfs", &json!({"onDelete": " Retain"}))]),
                "class",
                Warning,
                "\"nfs\": parameter onDelete is \" Retain\", with which this provisioner leaves",
                "create it again with \"retain\"; else",
            ),
            (
                |c, _| c.classes = Ok(vec![class("nfs", "e.com/nfs", &json!({"directoryMode": "rwx"}))]),
                "class",
                Failure,
                "\"nfs\": parameter directoryMode is \"rwx\"",
                "create it again",
            ),
            (
                |c, _| c.classes = Ok(vec![class("nfs", "e.com/nfs", &json!({"ondelete": "delete"}))]),
                "class",
                Warning,
                "[\"ondelete\"]",
                "\"onDelete\"",
            ),
            (
                |c, _| c.classes = Ok(vec![class("nfs", "e.com/nfs", &json!({"pathPattern": "../${.PVC.name}"}))]),
                "class",
                Warning,
                "\"../claim\"",
                "refused",
            ),
            (
                |c, _| c.classes = Ok(vec![class("nfs", "e.com/nfs", &json!({"export": "fast"}))]),
                "class",
                Failure,
                "\"nfs\" names the export \"fast\"",
                "EXPORTS_FILE",
            ),
            (|_, e| e.mount = mount("ext4", "/dev/vda", "rw"), "mount", Warning, "\"ext4\"", "NFS_MOUNT_CHECK"),
            (|_, e| e.mount = mount("nfs4", "nas:/other", "rw"), "mount", Warning, "nas:/other", "NFS_PATH"),
            (|_, e| e.mount = mount("nfs4", "nas:/export", "ro"), "mount", Failure, "read-only", "with rw"),
            (|_, e| e.mount = mount("nfs4", "nas:/export", "rw,soft"), "mount", Warning, "soft", "with hard"),
            (|_, e| e.mount = None, "mount", Warning, "does not tell", "/proc"),
            (|_, e| e.usage.as_mut().unwrap().bytes_free = 4 << 20, "space", Warning, "4 of 100 MiB", "Free some"),
            (|_, e| e.usage.as_mut().unwrap().inodes_free = 0, "space", Failure, "0 of 10 inodes", "Free some"),
            (|_, e| e.owner = Some(65534), "squash", Warning, "root for user 65534", "no_root_squash"),
            (|_, e| (e.user, e.owner) = (1000, Some(1000)), "squash", Warning, "as user 1000", "as root"),
            (
                |_, e| {
                    let error =
                        StorageError { doing: "mkdir", path: "x".into(), problem: Problem::Os(Errno::EACCES) };
                    e.tried[2] = (Try::Mkdir, Err(error));
                },
                "mkdir",
                Failure,
                "permission denied",
                "no_root_squash",
            ),
            (
                |_, e| (e.unanswered, e.write_test) = (Some(Try::Rename), Some(".nfs-x".to_owned())),
                "answer",
                Failure,
                "asked to rename",
                "\".nfs-x\" may be left",
            ),
            (
                |_, e| e.leftovers = Leftovers { removed: 0, kept: vec![".nfs-x".to_owned()] },
                "leftovers",
                Warning,
                ".nfs-x",
                "by hand",
            ),
        ];
        for (number, (change, check, level, message, fix)) in rows.iter().enumerate() {
            let (mut cluster, mut export) = good();
            change(&mut cluster, &mut export);
            let report = judge(&config(&[]), &Ok(cluster), &[export]);
            let wrong: Vec<_> = report.findings.iter().filter(|finding| finding.level != Level::Ok).collect();
            let [found] = &*wrong else { panic!("{number} {check}: {wrong:?}") };
            assert_eq!((found.check, found.level), (*check, *level), "{found:?}");
            let remedy = found.fix.as_deref().unwrap();
            assert!(found.message.contains(message) && remedy.contains(fix), "{found:?}");
            assert!(remedy.ends_with('.'), "{remedy}");
        }
    }

    #[test]
    fn an_api_server_that_cannot_be_reached_leaves_the_export_to_be_judged() {
        let (_, export) = good();
        let report = judge(&config(&[]), &Err("connection refused".to_owned()), &[export]);
        assert!(report.has_failure());
        let checks: Vec<_> = report.findings.iter().map(|finding| finding.check).collect();
        assert!(checks.contains(&"api-server") && checks.contains(&"mount") && !checks.contains(&"rights"));
    }

    #[test]
    fn of_several_exports_each_is_judged_by_itself() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let more = "exports: [{name: fast, server: nas, path: /fast, mount: /exports/fast}]";
        std::fs::write(&file, more).unwrap();
        let (cluster, good) = good();
        let fast = ExportFacts { mount: mount("nfs4", "nas:/fast", "rw"), owner: Some(1), ..good.clone() };
        let config = config(&["--exports-file", file.path().to_str().unwrap()]);
        let report = judge(&config, &Ok(cluster), &[good, fast]);
        let wrong: Vec<_> = report.findings.iter().filter(|finding| finding.level != Level::Ok).collect();
        let [found] = &*wrong else { panic!("{wrong:?}") };
        assert_eq!((found.check, found.export.as_deref()), ("squash", Some("fast")));
        let settings = &report.findings[0].message;
        assert!(
            settings.contains("nas:/export, mounted at /persistentvolumes; nas:/fast, mounted at /exports/fast")
        );
    }

    #[test]
    fn settings_say_how_bad_it_is() {
        let (mut cluster, mut export) = good();
        export.mount = mount("tmpfs", "none", "rw");
        cluster.missing.as_mut().unwrap().lease = permissions::LEASE.to_vec();
        let rows = [
            (&["--nfs-mount-check", "on"][..], "mount", Level::Failure),
            (&["--nfs-mount-check", "off"], "mount", Level::Warning),
            (&["--leader-election-lock", "endpoints"], "leader-lock", Level::Ok),
            (&["--leader-election-lock", "leases"], "leader-lock", Level::Failure),
            (&["--enable-leader-election", "false"], "leader-lock", Level::Warning),
        ];
        for (settings, check, level) in rows {
            let report = judge(&config(settings), &Ok(cluster.clone()), &[export.clone()]);
            let found = report.findings.iter().find(|finding| finding.check == check).unwrap();
            assert_eq!(found.level, level, "{settings:?}: {found:?}");
        }
    }
}
