//! What the documents name exists.

#![expect(clippy::panic, reason = "what helpers of tests do when they fail")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::{CommandFactory, Parser};
use nfs_provisioner::config::{Args, Config};
use nfs_provisioner::model::parameters::{Fate, parameter};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands in `` ` `` in a document.
fn quoted(document: &str) -> Vec<String> {
    read(document).split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect()
}

/// Whether a file has a test of this name.
fn has_test(file: &str, name: &str) -> bool {
    let text = read(file);
    if is_trial(&text, name) {
        return true;
    }
    let mut attributes = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            attributes.push(line);
            continue;
        }
        let is_it = line.split_once("fn ").is_some_and(|(_, rest)| rest.split('(').next() == Some(name));
        if is_it && attributes.iter().any(|line| *line == "#[test]" || line.starts_with("#[tokio::test")) {
            return true;
        }
        attributes.clear();
    }
    false
}

/// Whether a function is named in a list of trials.
fn is_trial(text: &str, name: &str) -> bool {
    let lists = text.split("trials![").skip(1).filter_map(|rest| rest.split(']').next());
    let is_listed = lists.flat_map(|list| list.split(',')).any(|listed| listed.trim() == name);
    is_listed && text.contains(&format!("async fn {name}("))
}

#[test]
fn every_test_that_a_document_names_exists() {
    for (document, least) in [("docs/defects.md", 50), ("docs/security.md", 15), ("docs/nfs.md", 25)] {
        let mut tests = 0;
        for text in quoted(document) {
            let Some((file, name)) = text.split_once(".rs::") else { continue };
            assert!(has_test(&format!("{file}.rs"), name), "{document}: there is no test {text}");
            tests += 1;
        }
        assert!(tests >= least, "{document} names only {tests} tests");
    }
}

#[test]
fn every_file_that_a_document_names_exists() {
    for document in ["docs/defects.md", "docs/security.md", "docs/nfs.md"] {
        for text in quoted(document) {
            let is_path = ["src/", "tests/", "docs/", "deploy/", "rbac/"].iter().any(|dir| text.starts_with(dir));
            let file = text.split("::").next().expect("a first part");
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            assert!(!is_path || path.exists(), "{document}: there is no {file}");
        }
    }
}

#[test]
fn every_defect_has_its_row_once() {
    let expected = (1..=28).map(|number| format!("D{number}")).chain(["D8a", "D22a"].map(ToOwned::to_owned));
    let text = read("docs/defects.md");
    let mut found: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("| D")?.split(' ').next()).collect();
    let mut expected: Vec<String> = expected.map(|number| number[1..].to_owned()).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn a_test_that_is_none_is_noticed() {
    assert!(has_test("tests/docs.rs", "a_test_that_is_none_is_noticed"));
    assert!(has_test("src/queue.rs", "failures_wait_longer_and_longer_for_ever"), "one on tokio");
    assert!(has_test("tests/nfs/matrix.rs", "v3_on_ext4"), "one on real NFS");
    assert!(!has_test("tests/nfs/matrix.rs", "main_job"), "what is not listed is not run");
    assert!(!has_test("tests/docs.rs", "has_test") && !has_test("tests/docs.rs", "no_such"));
}

/// The cells of a table whose header begins with `first`, row by row.
fn table(document: &str, first: &str) -> Vec<Vec<String>> {
    let text = read(document);
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let lines = text.lines().skip_while(|line| !line.starts_with(&format!("| {first} |")));
    let rows: Vec<Vec<String>> = lines.skip(2).take_while(|line| line.starts_with('|')).map(cells).collect();
    assert!(!rows.is_empty(), "{document} has no table of {first}");
    rows
}

/// The modules that a file of src/ declares, in their order, but for those of tests.
fn declared(file: &str) -> Vec<String> {
    let text = read(file);
    let declarations = text.lines().filter_map(|line| line.strip_suffix(';')?.split_once("mod "));
    let modules = declarations.filter(|(before, _)| before.is_empty() || before.starts_with("pub"));
    modules.map(|(_, name)| name.to_owned()).filter(|name| name != "tests").collect()
}

#[test]
fn the_table_of_modules_is_the_tree() {
    let inside = |module: &str| {
        let file = format!("src/{module}/mod.rs");
        let is_folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file).exists();
        if is_folder { declared(&file) } else { Vec::new() }
    };
    let tree = declared("src/lib.rs").into_iter().chain(["main".to_owned()]);
    let tree: Vec<Vec<String>> = tree.map(|module| [vec![module.clone()], inside(&module)].concat()).collect();
    let names = |row: &Vec<String>| row[0].split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect();
    let told: Vec<Vec<String>> = table("docs/architecture.md", "module").iter().map(names).collect();
    assert_eq!(told, tree, "docs/architecture.md (left), and src/lib.rs with each mod.rs (right), differ");
}

#[test]
fn every_setting_is_in_the_readme_with_its_flag_and_default_and_no_other() {
    let mut rows = table("README.md", "variable");
    let command = Args::command();
    for argument in command.get_arguments() {
        let Some(variable) = argument.get_env().and_then(|name| name.to_str()) else { continue };
        let found = rows.iter().position(|row| row[0] == format!("`{variable}`"));
        let row = rows.remove(found.unwrap_or_else(|| panic!("README.md does not tell of {variable}")));
        assert_eq!(row[1], format!("`--{}`", argument.get_long().expect("a flag")), "{variable}");
        let default = argument.get_default_values().first().and_then(|default| default.to_str());
        // Where it has none it is asked for, or depends on where the program runs.
        let empty =
            Args::try_parse_from(["nfs-provisioner", &format!("--{}=", argument.get_long().unwrap_or_default())]);
        let is_required = || {
            let wrong = Config::try_from(empty.expect("a flag")).expect_err("settings are missing").to_string();
            wrong.lines().any(|line| line.starts_with(&format!("{variable} is not set")))
        };
        match default {
            Some(default) => assert_eq!(row[2], format!("`{default}`"), "{variable}"),
            None => assert_eq!(row[2] == "required", is_required(), "{variable}: {}", row[2]),
        }
        assert!(!row[3].is_empty(), "{variable}");
    }
    let left: Vec<&str> = rows.iter().map(|row| &*row[0]).collect();
    // What the log and the API client read themselves, not clap.
    assert_eq!(left, ["`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`", "`RUST_LOG`"]);
}

#[test]
fn every_parameter_of_classes_is_in_the_readme_and_no_other() {
    let rows = table("README.md", "parameter");
    let found: BTreeSet<String> = rows.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    assert_eq!(found, parameter::ALL.map(ToOwned::to_owned).into());
    let values = &rows.iter().find(|row| row[0].contains(parameter::ON_DELETE)).expect("a row")[1];
    for fate in Fate::ALL {
        assert!(values.contains(&format!("`{fate}`")), "{fate} is not in {values}");
    }
}

#[test]
fn every_reason_of_events_is_in_the_readme_and_no_other() {
    let source = read("src/cluster/events.rs");
    let spelled = source.split("fn as_str(self)").nth(1).and_then(|rest| rest.split("\n    }\n").next());
    let reasons: BTreeSet<&str> = spelled.expect("a function").split('"').skip(1).step_by(2).collect();
    assert!(reasons.len() > 5, "{reasons:?}");
    let rows = table("README.md", "event");
    let mut told = BTreeSet::new();
    for row in &rows {
        for quoted in row[0].split('`').skip(1).step_by(2) {
            told.extend(quoted.split(' ').next());
        }
        assert!(row[1].len() > 20, "what to do about {}?", row[0]);
    }
    // Those of Kubernetes itself.
    let others: BTreeSet<&str> = ["ExternalProvisioning", "WaitForFirstConsumer"].into();
    assert_eq!(told, &reasons | &others);
}

#[test]
fn every_alert_has_its_section_and_every_section_its_alert() {
    let alerts = read("deploy/monitoring/alerts.yaml");
    let alerts: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let operations = read("docs/operations.md");
    let section = operations.split("\n## Alerts\n").nth(1).expect("a section");
    let section = section.split("\n## ").next().expect("a first part");
    let told: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert!(alerts.len() > 5, "{alerts:?}");
    assert_eq!(told, alerts);
    for text in section.split("\n### ").skip(1) {
        assert!(text.lines().skip(1).any(|line| !line.is_empty()), "nothing is said of {text}");
    }
}

#[test]
fn every_command_is_in_the_documents() {
    let documents = ["README.md", "docs/operations.md", "docs/migrate.md"].map(read).concat();
    let command = Args::command();
    for command in command.get_subcommands() {
        let words = format!("nfs-provisioner {}", command.get_name());
        assert!(documents.contains(&words), "no document tells of {words}");
    }
}
