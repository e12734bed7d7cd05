//! Kubernetes' own tests of storage, as those who write drivers run them, with the class of `deploy/`.
//!
//! They are not part of `make test`: see `make test-conformance` and docs/conformance.md. The files that they need are in
//! `tests/conformance`.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use libtest_mimic::Trial;
use serde::Deserialize;

use crate::node::{Node, target};
use crate::support::plane;
use crate::{harness, node};

pub(crate) fn trials() -> Vec<Trial> {
    let run =
        harness::trial(concat!(module_path!(), "::kubernetes_storage_tests"), shared, kubernetes_storage_tests);
    let judged = Trial::test("conformance::another_failure_and_an_exception_that_passes_are_wrong", || {
        another_failure_and_an_exception_that_passes_are_wrong();
        Ok(())
    });
    vec![run.with_ignored_flag(true), judged]
}

/// The suite that takes any driver. A regular expression, as the names of tests have a space there.
const SUITE: &str = "External.Storage";

/// What `make test-conformance` builds.
fn programs() -> PathBuf {
    target("conformance")
}

/// A node that has the images of Kubernetes' tests too.
fn shared() -> &'static Node {
    static SHARED: OnceLock<Option<Node>> = OnceLock::new();
    harness::once(&SHARED, || Node::start(Some(&programs())))
}

/// A test that may fail, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    /// What its name, and no other one's, contains.
    test: String,
    because: String,
}

/// What ginkgo reports of a run, as far as it is read here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    /// What went wrong beside tests that failed, as a time limit for all of them.
    #[serde(default)]
    special_suite_failure_reasons: Option<Vec<String>>,
    spec_reports: Vec<Spec>,
}

/// One test, or a step before or after all of them, which has no name.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    failure: Failure,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Failure {
    message: String,
}

impl Spec {
    fn name(&self) -> String {
        let mut texts = self.container_hierarchy_texts.clone().unwrap_or_default();
        texts.push(self.leaf_node_text.clone());
        texts.join(" ")
    }

    fn is_test(&self) -> bool {
        self.leaf_node_type == "It"
    }

    /// Whether it has a result. Those that are not for such a driver, and those out of focus, are skipped.
    fn ran(&self) -> bool {
        !["skipped", "pending"].contains(&self.state.as_str())
    }

    fn passed(&self) -> bool {
        self.state == "passed"
    }
}

/// What is wrong with the results of a run, in words.
fn judge(report: &Report, exceptions: &[Exception], whole: bool) -> Vec<String> {
    let mut wrong: Vec<String> = report.special_suite_failure_reasons.iter().flatten().cloned().collect();
    let ran: Vec<&Spec> = report.spec_reports.iter().filter(|spec| spec.ran()).collect();
    if !ran.iter().any(|spec| spec.is_test()) {
        wrong.push("no test ran".to_owned());
    }
    for spec in &ran {
        let name = spec.name();
        let excepted = exceptions.iter().any(|exception| name.contains(&exception.test));
        match (spec.is_test(), spec.passed()) {
            (true, false) if excepted => {}
            (true, true) if excepted => wrong.push(format!("passed, though it is an exception: {name}")),
            (_, true) => {}
            (_, false) => {
                wrong.push(format!("{}: {} {name}: {}", spec.state, spec.leaf_node_type, spec.failure.message));
            }
        }
    }
    for exception in exceptions.iter().filter(|_| whole) {
        let named = ran.iter().filter(|spec| spec.name().contains(&exception.test)).count();
        if named != 1 {
            wrong.push(format!("the exception {:?} is one for {named} of the tests that ran", exception.test));
        }
    }
    wrong
}

async fn kubernetes_storage_tests(node: &'static Node) {
    let focus = env::var("FOCUS").unwrap_or_default();
    let (files, programs) = (node::files().with_file_name("conformance"), programs());
    let exceptions = fs::read_to_string(files.join("exceptions.yaml")).expect("exceptions");
    let exceptions: Vec<Exception> = serde_saphyr::from_str(&exceptions).expect("exceptions as YAML");

    let (log, report) = (programs.join("log.txt"), programs.join("report.json"));
    run(node, &files.join("driver.yaml"), &focus, &log, &report);
    let report = fs::read(&report).expect("a report");
    let [report]: [Report; 1] = serde_json::from_slice(&report).expect("a report of one suite as JSON");

    let tests = || report.spec_reports.iter().filter(|spec| spec.is_test());
    let (ran, passed) = (tests().filter(|spec| spec.ran()).count(), tests().filter(|spec| spec.passed()).count());
    println!("\n{ran} of Kubernetes' storage tests ran, {passed} passed; {} has all that they say", log.display());
    for exception in &exceptions {
        if tests().any(|spec| spec.ran() && !spec.passed() && spec.name().contains(&exception.test)) {
            println!("failed, as it may: {}: {}", exception.test, exception.because.trim());
        }
    }
    let wrong = judge(&report, &exceptions, focus.is_empty());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How many of them run side by side. They wait most of the time, for Pods to end.
const SIDE_BY_SIDE: u32 = 4;

/// Runs them, and tells of each as it ends.
fn run(node: &Node, driver: &Path, focus: &str, log: &Path, report: &Path) {
    // They run it by name.
    let kubectl = node.rig.dir.join("kubectl");
    fs::write(&kubectl, format!("#!/bin/sh\nexec '{}' kubectl \"$@\"\n", plane::binary().display()))
        .expect("a script");
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).expect("a script to run");

    let mut tests = Command::new(programs().join("ginkgo"))
        .args([format!("--procs={SIDE_BY_SIDE}"), format!("--focus={SUITE}.*({focus})")])
        .args(["--no-color", "-v", "--timeout=2h", "--output-interceptor-mode=none"])
        .arg(format!("--json-report={}", report.display()))
        .arg(programs().join("e2e.test"))
        .args(["--", "-provider=skeleton"])
        .arg(format!("-kubeconfig={}", node.rig.plane.kubeconfig.display()))
        .arg(format!("-kubectl-path={}", kubectl.display()))
        .arg(format!("-storage.testdriver={}", driver.display()))
        .current_dir(&node.rig.dir)
        .stdout(Stdio::piped())
        .stderr(File::create(log.with_extension("stderr.txt")).expect("a log"))
        .spawn()
        .expect("Kubernetes' tests start");
    let mut log = File::create(log).expect("a log");
    // A line that begins so says how a test ended, and the next one which.
    let mut how: Option<String> = None;
    for line in BufReader::new(tests.stdout.take().expect("a pipe")).lines() {
        let line = line.expect("text");
        writeln!(log, "{line}").expect("a log");
        if let Some(how) = how.take() {
            // All of them begin so.
            println!("{how} {}", line.split_once("] ").map_or(&*line, |(_, name)| name));
        }
        how = line.strip_prefix("• ").map(str::to_owned);
    }
    // Whether they passed is in the report.
    tests.wait().expect("they end");
}

fn another_failure_and_an_exception_that_passes_are_wrong() {
    let spec = |kind: &str, name: &str, state: &str| {
        format!(
            r#"{{"LeafNodeType":"{kind}","LeafNodeText":"{name}","State":"{state}","ContainerHierarchyTexts":null}}"#
        )
    };
    let judged = |specs: &[String], whole: bool| {
        let report = format!(r#"{{"SpecReports":[{}]}}"#, specs.join(","));
        let exceptions = [("is read-only", "ours adds ro"), ("a second Pod", "the kubelet's")];
        let exceptions =
            exceptions.map(|(test, because)| Exception { test: test.into(), because: because.into() });
        judge(&serde_json::from_str(&report).expect("a report"), &exceptions, whole)
    };
    let (listed, too) =
        (spec("It", "a volume is read-only", "failed"), spec("It", "stops a second Pod", "timedout"));
    let (set_up, write) = (spec("BeforeSuite", "", "passed"), spec("It", "writes", "passed"));
    let skipped = spec("It", "a volume is read-only on Windows", "skipped");
    let right = [set_up.clone(), listed.clone(), too.clone(), write.clone(), skipped.clone()];
    assert_eq!(judged(&right, true), <[&str; 0]>::default());

    let unlisted = spec("It", "expands", "panicked");
    assert_eq!(judged(&[listed.clone(), too.clone(), unlisted], true), ["panicked: It expands: "]);
    let passes = spec("It", "stops a second Pod", "passed");
    assert_eq!(judged(&[listed.clone(), passes], true), ["passed, though it is an exception: stops a second Pod"]);
    let failed = spec("BeforeSuite", "", "failed");
    assert_eq!(judged(&[failed, skipped.clone()], false), ["no test ran", "failed: BeforeSuite : "]);
    let of_none = r#"the exception "a second Pod" is one for 0 of the tests that ran"#;
    assert_eq!(judged(&[listed.clone(), write.clone()], true), [of_none]);
    assert_eq!(judged(&[listed, write], false), <[&str; 0]>::default());
    assert_eq!(judged(&[set_up, skipped], false), ["no test ran"]);
}
