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
    harness::once(&SHARED, || {
        assert!(
            programs().join("e2e.test").exists(),
            "Kubernetes' tests are missing: run `make test-conformance`"
        );
        Node::start(Some(&programs()))
    })
}

/// A test that may fail, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    /// What its name, and no other one's, contains.
    test: String,
    /// What it says then.
    says: String,
    because: String,
}

impl Exception {
    fn is_of(&self, spec: &Spec) -> bool {
        spec.is_test() && spec.name().contains(&self.test)
    }
}

/// So many run at least, if all are to. Fewer mean that the tests do not know any more what the volumes can.
const RAN_MIN: usize = 48;

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

/// What is wrong with the results of a run, in words. If it was to be a whole one, at least so many tests have to have run.
fn judge(report: &Report, exceptions: &[Exception], whole: Option<usize>) -> Vec<String> {
    let mut wrong: Vec<String> = report.special_suite_failure_reasons.iter().flatten().cloned().collect();
    let ran: Vec<&Spec> = report.spec_reports.iter().filter(|spec| spec.ran()).collect();
    let tests = ran.iter().filter(|spec| spec.is_test()).count();
    let least = whole.unwrap_or(1);
    if tests < least {
        wrong.push(format!("{tests} tests ran, and at least {least} should have"));
    }
    for spec in &ran {
        let (name, message) = (spec.name(), &spec.failure.message);
        match exceptions.iter().find(|exception| exception.is_of(spec)) {
            Some(_) if spec.passed() => wrong.push(format!("passed, though it is an exception: {name}")),
            Some(exception) if spec.state == "failed" && message.contains(&exception.says) => {}
            _ if spec.passed() => {}
            _ => wrong.push(format!("{}: {} {name}: {message}", spec.state, spec.leaf_node_type)),
        }
    }
    for exception in exceptions {
        let named = ran.iter().filter(|spec| exception.is_of(spec)).count();
        if named > 1 || (named == 0 && whole.is_some()) {
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

    let log = programs.join("log.txt");
    let report = run(node, &files.join("driver.yaml"), &focus, &log);
    let [report]: [Report; 1] = serde_json::from_slice(&report).expect("a report of one suite as JSON");

    let tests = || report.spec_reports.iter().filter(|spec| spec.is_test());
    let (ran, passed) = (tests().filter(|spec| spec.ran()).count(), tests().filter(|spec| spec.passed()).count());
    println!("\n{ran} of Kubernetes' storage tests ran, {passed} passed; {} has all that they say", log.display());
    for exception in &exceptions {
        if tests().any(|spec| spec.ran() && !spec.passed() && exception.is_of(spec)) {
            println!("failed, as it may: {}: {}", exception.test, exception.because.trim());
        }
    }
    let wrong = judge(&report, &exceptions, focus.is_empty().then_some(RAN_MIN));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How many of them run side by side. They wait most of the time, for Pods to end.
const SIDE_BY_SIDE: u32 = 4;

/// Runs them, and tells of each as it ends. What ginkgo reports of them.
fn run(node: &Node, driver: &Path, focus: &str, log: &Path) -> Vec<u8> {
    // They run it by name.
    let kubectl = node.rig.dir.join("kubectl");
    fs::write(&kubectl, format!("#!/bin/sh\nexec '{}' kubectl \"$@\"\n", plane::binary().display()))
        .expect("a script");
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).expect("a script to run");

    let mut tests = Command::new(programs().join("ginkgo"))
        .args([format!("--procs={SIDE_BY_SIDE}"), format!("--focus={SUITE}.*({focus})")])
        .args(["--no-color", "-v", "--timeout=2h", "--output-interceptor-mode=none"])
        // The directory is new with each node, so that no report is of another run.
        .arg(format!("--output-dir={}", node.rig.dir.display()))
        .arg("--json-report=report.json")
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
    fs::read(node.rig.dir.join("report.json")).expect("a report")
}

fn another_failure_and_an_exception_that_passes_are_wrong() {
    let spec = |kind: &str, name: &str, state: &str, message: &str| {
        format!(
            r#"{{"LeafNodeType":"{kind}","LeafNodeText":"{name}","State":"{state}","ContainerHierarchyTexts":null,
                "Failure":{{"Message":"{message}"}}}}"#
        )
    };
    let judged = |specs: &[&String], whole: Option<usize>| {
        let specs: Vec<&str> = specs.iter().map(|spec| spec.as_str()).collect();
        let report = format!(r#"{{"SpecReports":[{}]}}"#, specs.join(","));
        let exceptions = [("is read-only", "an option"), ("a second Pod", "no event")];
        let exceptions = exceptions.map(|(test, says)| Exception {
            test: test.to_owned(),
            says: says.to_owned(),
            because: "it is right".to_owned(),
        });
        judge(&serde_json::from_str(&report).expect("a report"), &exceptions, whole)
    };
    let nothing: [&str; 0] = [];
    let listed = spec("It", "a volume is read-only", "failed", "there is an option more");
    let second = spec("It", "stops a second Pod", "failed", "no event came");
    let (set_up, write) = (spec("BeforeSuite", "", "passed", ""), spec("It", "writes", "passed", ""));
    let skipped = spec("It", "a volume is read-only on Windows", "skipped", "");
    let all = [&set_up, &listed, &second, &write, &skipped];
    assert_eq!(judged(&all, Some(3)), nothing);
    assert_eq!(judged(&all, Some(4)), ["3 tests ran, and at least 4 should have"]);
    assert_eq!(judged(&[&listed, &write], None), nothing);

    let unlisted = spec("It", "expands", "panicked", "nil");
    assert_eq!(judged(&[&listed, &unlisted], None), ["panicked: It expands: nil"]);
    let otherwise = spec("It", "stops a second Pod", "failed", "the claim was not bound");
    assert_eq!(judged(&[&otherwise], None), ["failed: It stops a second Pod: the claim was not bound"]);
    let late = spec("It", "stops a second Pod", "timedout", "no event came");
    assert_eq!(judged(&[&late], None), ["timedout: It stops a second Pod: no event came"]);
    let passes = spec("It", "stops a second Pod", "passed", "");
    assert_eq!(judged(&[&passes], None), ["passed, though it is an exception: stops a second Pod"]);
    let set_up = spec("BeforeSuite", "", "failed", "no node");
    let none = "0 tests ran, and at least 1 should have";
    assert_eq!(judged(&[&set_up, &skipped], None), [none, "failed: BeforeSuite : no node"]);
    let of_none = r#"the exception "a second Pod" is one for 0 of the tests that ran"#;
    assert_eq!(judged(&[&listed, &write], Some(2)), [of_none]);
    let of_two = r#"the exception "is read-only" is one for 2 of the tests that ran"#;
    assert_eq!(judged(&[&listed, &listed], None), [of_two]);
}
