//! Each fact that is wrong is found, and nothing else.

use clap::Parser;
use serde_json::json;

use super::*;
use crate::cluster::permissions;
use crate::commands::doctor::facts::{Missing, NotesFacts, OtherCluster, Port, Skew, Try, Volumes};
use crate::commands::doctor::report::Level;
use crate::config::Args;
use crate::layout::ClusterMark;
use crate::storage::{Errno, Leftovers, Mount, Problem, StorageError};
use crate::values::headroom::FsUsage;

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
        classes: Ok(vec![class("nfs", "e.com/nfs", &json!({"pathPattern": "${.PVC.namespace}/${.PVC.name}"}))]),
        mark: Ok(ClusterMark::parse("7-8").unwrap()),
        volumes: Ok(Volumes::default()),
    };
    let tried = [Try::Open, Try::Statfs, Try::Mkdir, Try::Write, Try::Chmod, Try::Rename, Try::Remove, Try::List];
    let export = ExportFacts {
        user: 0,
        mount: mount("nfs4", "nas:/export", "rw,vers=4.2,hard"),
        tried: tried.map(|what| (what, Ok(()))).to_vec(),
        usage: Some(FsUsage { bytes: 100 << 20, bytes_free: 50 << 20, inodes: 10, inodes_free: 5 }),
        owner: Some(0),
        clock: Some(Skew(0)),
        notes: Some(Ok(NotesFacts { wanted: 3, read: 3, ..NotesFacts::default() })),
        ..ExportFacts::default()
    };
    (cluster, export)
}

/// Returns the facts about the notes on an export.
fn notes(export: &mut ExportFacts) -> &mut NotesFacts {
    export.notes.as_mut().unwrap().as_mut().unwrap()
}

/// Returns another cluster, which has noted these directories of ours.
fn other(shared: &[&str]) -> OtherCluster {
    let shared = shared.iter().map(ToString::to_string).collect();
    OtherCluster { mark: ClusterMark::parse("9").unwrap(), read: 5, shared }
}

#[test]
fn what_is_well_with_notes_is_said_in_words() {
    type Change = fn(&mut NotesFacts);
    let rows: [(&[&str], Change, &str, &str); 6] = [
        (&[], |_| {}, "notes", "all 3 volumes have one, and 3 were read"),
        (&[], |n| n.is_partial = true, "notes", "more than is looked at"),
        (&[], |n| (n.wanted, n.read) = (0, 0), "notes", "no volume is to have a note on the export yet"),
        (&["--record-volumes", "false"], |n| n.wanted = 0, "notes", "RECORD_VOLUMES is false: no volume"),
        (&["--record-volumes", "false"], |_| {}, "notes", "only volumes of classes with recordVolume"),
        (&[], |n| n.others.push(other(&[])), "other-cluster", "the cluster 9 is at work on the export, too; of 5"),
    ];
    for (settings, change, check, message) in rows {
        let (cluster, mut export) = good();
        change(notes(&mut export));
        let report = judge(&config(settings), &well(), &Ok(cluster), &[export]);
        assert!(report.findings.iter().all(|finding| finding.level == Level::Ok), "{report:?}");
        let found = report.findings.iter().find(|finding| finding.check == check).unwrap();
        assert!(found.message.contains(message), "{found:?}");
    }
}

#[test]
fn where_all_is_well_nothing_else_is_said() {
    let (cluster, export) = good();
    let report = judge(&config(&[]), &well(), &Ok(cluster), &[export]);
    let found: Vec<_> = report.findings.iter().map(|finding| (finding.level, finding.check)).collect();
    let checks = [
        "settings",
        "http",
        "capabilities",
        "api-server",
        "api-server-clock",
        "rights",
        "finalizers",
        "expansion",
        "leader-lock",
        "cluster-mark",
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
        "notes",
    ];
    assert_eq!(found, checks.map(|check| (Level::Ok, check)));
}

/// Returns the facts about a process with nothing wrong.
fn well() -> ProcessFacts {
    ProcessFacts { user: 0, fowner: Some(true), port: Port::Free, ipv4: true, ipv6: true }
}

#[test]
fn what_is_wrong_with_the_process_is_said_with_its_remedy() {
    type Change = fn(&mut ProcessFacts);
    let rows: [(&[&str], Change, &str, &str, &str); 5] = [
        (&[], |p| p.port = Port::Taken("in use".to_owned()), "http", "port 8080: in use", "and no probes"),
        (
            &["--http-addr", ":81"],
            |p| p.port = Port::Taken("in use".to_owned()),
            "http",
            "port 81",
            "does not start",
        ),
        (&["--http-addr", "0.0.0.0:81"], |p| p.ipv4 = false, "http", "only IPv6", "\":81\""),
        (&[], |p| p.fowner = Some(false), "capabilities", "CAP_FOWNER", "SecurityContextConstraints"),
        (&["--http-addr", ""], |p| (p.user, p.fowner) = (1, Some(false)), "", "", ""),
    ];
    for (settings, change, check, message, fix) in rows {
        let (mut process, (cluster, export)) = (well(), good());
        change(&mut process);
        let report = judge(&config(settings), &process, &Ok(cluster), &[export]);
        let wrong: Vec<_> = report.findings.iter().filter(|finding| finding.level != Level::Ok).collect();
        if check.is_empty() {
            assert!(wrong.is_empty(), "{wrong:?}");
            continue;
        }
        let [found] = &*wrong else { panic!("{check}: {wrong:?}") };
        assert_eq!((found.check, found.level), (check, Level::Warning), "{found:?}");
        assert!(found.message.contains(message) && found.fix.as_deref().unwrap().contains(fix), "{found:?}");
    }
}

#[test]
fn a_server_called_by_a_service_is_a_warning_that_names_the_classes_unless_a_node_has_mounted_it_so() {
    let (cluster, mut export) = good();
    export.service = Some("nas.team.svc.cluster.local".to_owned());
    let wrong = |export: &ExportFacts| {
        let report = judge(&config(&[]), &well(), &Ok(cluster.clone()), std::slice::from_ref(export));
        report.findings.into_iter().filter(|finding| finding.level != Level::Ok).collect::<Vec<_>>()
    };
    assert_eq!(wrong(&export), []);
    export.mount = mount("nfs4", "10.0.0.1:/export", "rw,addr=10.0.0.1");
    let found = wrong(&export);
    let name = found.iter().find(|finding| finding.check == "server-name").unwrap();
    assert!(name.message.contains("nas.team.svc.cluster.local") && name.message.contains("[\"nfs\"]"), "{name:?}");
    assert_eq!((name.level, name.export.as_deref()), (Level::Warning, Some("default")));
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
        (|c, _| c.missing = Err("refused".to_owned()), "rights", Warning, "refused", "SelfSubjectAccessReview"),
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
        (|c, _| c.mark = Ok(ClusterMark::unknown()), "cluster-mark", Warning, "unknown cluster", "Grant"),
        (|c, _| c.mark = Err("refused".to_owned()), "cluster-mark", Warning, "refused", "API server"),
        (|_, e| e.notes = Some(Err("a link".to_owned())), "notes", Warning, "a link", ".nfs-provisioner-notes"),
        (|_, e| notes(e).is_closed = true, "notes", Warning, "another user's", "squash"),
        (
            |_, e| (notes(e).missing, notes(e).first_missing) = (2, vec!["pvc-1".into(), "pvc-2".into()]),
            "notes",
            Warning,
            "2 of 3 volumes have no note on the export, such as [\"pvc-1\", \"pvc-2\"]",
            "within the hour",
        ),
        (
            |_, e| (notes(e).missing, notes(e).without_directory) = (2, 1),
            "notes",
            Warning,
            "1 of them have no directory",
            "log",
        ),
        (
            |_, e| notes(e).bad.push("pvc-1 is not a note".to_owned()),
            "notes",
            Warning,
            "1 of 3 notes that were read cannot be used, such as [\"pvc-1 is not a note\"]",
            "anew",
        ),
        (
            |_, e| notes(e).others.push(other(&["shop/data"])),
            "other-cluster",
            Warning,
            "has volumes in 1 directories of this cluster's, such as [\"shop/data\"]",
            "Retain",
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
                let error = StorageError { doing: "mkdir", path: "x".into(), problem: Problem::Os(Errno::EACCES) };
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
        let report = judge(&config(&[]), &well(), &Ok(cluster), &[export]);
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
    let report = judge(&config(&[]), &well(), &Err("connection refused".to_owned()), &[export]);
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
    let report = judge(&config, &well(), &Ok(cluster), &[good, fast]);
    let wrong: Vec<_> = report.findings.iter().filter(|finding| finding.level != Level::Ok).collect();
    let [found] = &*wrong else { panic!("{wrong:?}") };
    assert_eq!((found.check, found.export.as_deref()), ("squash", Some("fast")));
    let settings = &report.findings[0].message;
    assert!(settings.contains("nas:/export, mounted at /persistentvolumes; nas:/fast, mounted at /exports/fast"));
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
        let report = judge(&config(settings), &well(), &Ok(cluster.clone()), &[export.clone()]);
        let found = report.findings.iter().find(|finding| finding.check == check).unwrap();
        assert_eq!(found.level, level, "{settings:?}: {found:?}");
    }
}
