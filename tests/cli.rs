//! The program as it is started by a person or a Pod.

#![allow(
    clippy::cast_precision_loss,
    clippy::default_trait_access,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_nfs-provisioner"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .expect("the program runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output, text)
}

const GOOD: [(&str, &str); 3] =
    [("PROVISIONER_NAME", "example.com/nfs"), ("NFS_SERVER", "nas"), ("NFS_PATH", "/export")];

#[test]
fn help_explains_each_setting() {
    let (output, text) = run(&["--help"], &[]);
    assert!(output.status.success());
    for name in [
        "PROVISIONER_NAME",
        "NFS_SERVER",
        "NFS_PATH",
        "NFS_MOUNT_PATH",
        "KUBECONFIG",
        "ENABLE_LEADER_ELECTION",
        "POD_NAMESPACE",
    ] {
        let flag = format!("--{}", name.to_lowercase().replace('_', "-"));
        assert!(text.contains(name) && text.contains(&flag), "{name}: {text}");
    }
    assert!(text.contains("/persistentvolumes"), "{text}");
}

#[test]
fn the_version_is_that_of_the_package() {
    let (output, text) = run(&["--version"], &[]);
    assert!(output.status.success());
    // A release build adds its commit.
    let version = text.trim().strip_prefix("nfs-provisioner ").unwrap();
    assert_eq!(version.split(' ').next(), Some(env!("CARGO_PKG_VERSION")));
    let commit = version.split_once(" (").map(|(_, commit)| commit.trim_end_matches(')'));
    assert!(commit.is_none_or(|commit| commit.chars().all(|c| c.is_ascii_hexdigit())), "{text}");
}

#[test]
fn all_bad_settings_are_named_at_once() {
    let bad = [("NFS_SERVER", ""), ("NFS_PATH", "export"), ("ENABLE_LEADER_ELECTION", "maybe")];
    let (output, text) = run(&[], &bad);
    assert_eq!(output.status.code(), Some(2));
    for words in [
        "PROVISIONER_NAME is not set",
        "NFS_SERVER is not set",
        "NFS_PATH must be an absolute path, not \"export\"",
        "ENABLE_LEADER_ELECTION must be true or false, not \"maybe\"",
    ] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
}

#[test]
fn a_flag_beats_the_environment() {
    let (output, text) = run(&["--nfs-path", "relative"], &GOOD);
    assert_eq!(output.status.code(), Some(2));
    assert!(text.contains("NFS_PATH") && !text.contains("NFS_SERVER"), "{text}");
}

#[test]
fn an_export_that_is_not_there_is_named_with_its_setting() {
    let environment = [&GOOD[..], &[("NFS_MOUNT_PATH", "/no/such/directory")]].concat();
    let (output, text) = run(&[], &environment);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("/no/such/directory") && text.contains("NFS_MOUNT_PATH"), "{text}");
}

#[test]
fn a_kubeconfig_that_cannot_be_read_is_named_with_its_setting() {
    let environment = [&GOOD[..], &[("NFS_MOUNT_PATH", "/tmp"), ("KUBECONFIG", "/no/such/file")]].concat();
    let (output, text) = run(&[], &environment);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("/no/such/file") && text.contains("KUBECONFIG"), "{text}");
}

#[test]
fn without_any_api_server_the_ways_to_name_one_are_said() {
    let environment = [&GOOD[..], &[("NFS_MOUNT_PATH", "/tmp"), ("HOME", "/no/such/home")]].concat();
    let (output, text) = run(&[], &environment);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("KUBECONFIG is not set") && text.contains("~/.kube/config"), "{text}");
}

#[test]
fn what_is_logged_is_chosen_by_rust_log_and_one_that_cannot_be_read_is_said_once() {
    let with = |value| run(&[], &[("RUST_LOG", value)]).1;
    assert!(with("nfs_provisioner=warn").contains("PROVISIONER_NAME is not set"));
    assert_eq!(with("off"), "");
    let text = with("nfs_provisioner=loud");
    let said: Vec<&str> = text.lines().filter(|line| line.contains("RUST_LOG")).collect();
    assert!(matches!(said[..], [line] if line.contains("\"nfs_provisioner=loud\"")), "{text}");
    assert!(text.contains("PROVISIONER_NAME is not set"), "{text}");
}

#[test]
fn flags_of_the_peers_log_are_taken_and_ignored() {
    let (output, text) =
        run(&["-v=5", "-logtostderr", "--stderrthreshold", "INFO", "--nfs-path", "relative"], &GOOD);
    assert_eq!(output.status.code(), Some(2));
    assert!(text.contains("ignored -v, -logtostderr, -stderrthreshold") && text.contains("RUST_LOG"), "{text}");
    assert!(text.contains("NFS_PATH must be an absolute path") && !text.contains("--help\n"), "{text}");
    let (output, text) = run(&["-x=5"], &GOOD);
    assert!(output.status.code() == Some(2) && text.contains("-x"), "{text}");
}

/// Set for a process of this test that becomes the program where no thread can be started in the new way.
const REFUSED: &str = "NFS_PROVISIONER_TEST_REFUSES_CLONE3";

/// The number of the system call, which is the same on all architectures.
const CLONE3: i64 = 435;

/// As in containers of Docker before 20.10.10, whose profile answers a call that it does not know by "not permitted".
#[test]
fn a_runtime_that_allows_no_threads_is_explained() {
    if std::env::var_os(REFUSED).is_some() {
        let clone3 = BTreeMap::from([(CLONE3, Vec::new())]);
        let refuse = SeccompAction::Errno(1);
        let architecture = std::env::consts::ARCH.try_into().unwrap();
        let filter: BpfProgram =
            SeccompFilter::new(clone3, SeccompAction::Allow, refuse, architecture).unwrap().try_into().unwrap();
        seccompiler::apply_filter(&filter).unwrap();
        panic!("{}", Command::new(env!("CARGO_BIN_EXE_nfs-provisioner")).env_clear().envs(GOOD).exec());
    }
    let name = "a_runtime_that_allows_no_threads_is_explained";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(REFUSED, "1")
        .output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("clone3") && text.contains("seccompProfile") && !text.contains("panicked"), "{text}");
}
