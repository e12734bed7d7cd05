//! Modules use only those that stand before them: in src/lib.rs, and in the `mod.rs` of each folder. These lists of
//! modules are the one place where the order is written.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what helpers of tests do when they fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Uses that go against the order, as (who, whom), each with the reason why that is so. None so far.
const ALLOWED: &[(&str, &str)] = &[];

/// How many entries `src/` may have for a newcomer to take in at a glance.
const ENTRIES_MAX: usize = 18;

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The modules that a file declares, in their order; one of tests is none.
fn declared(code: &str) -> Vec<String> {
    let lines = code.lines().filter_map(|line| line.strip_suffix(';'));
    let names = lines.filter_map(|line| {
        let (before, name) = line.split_once("mod ")?;
        let is_visibility = before.is_empty() || before.starts_with("pub");
        (is_visibility && name != "tests" && !before.contains("//")).then(|| name.to_owned())
    });
    names.collect()
}

/// The modules, and their code without comments and tests. A folder's own module is called as the folder.
fn modules() -> BTreeMap<String, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut directories = vec![source.clone()];
    let mut modules = BTreeMap::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.strip_prefix(&source).unwrap().with_extension("");
            let name = name.to_str().unwrap().replace('/', "::");
            let is_test = name.split("::").any(|part| part == "tests");
            if path.is_dir() {
                directories.push(path);
            } else if name != "lib" && !is_test {
                let text = read(&path);
                let code = text.split("#[cfg(test)]").next().unwrap_or_default().lines();
                // How far something can be seen is no use of what is named there.
                let code = code
                    .map(|line| line.split("//").next().unwrap_or_default().replace("pub(in crate::", "pub(in "));
                let name = name.strip_suffix("::mod").unwrap_or(&name).to_owned();
                modules.insert(name, code.collect::<Vec<_>>().join("\n"));
            }
        }
    }
    modules
}

/// All modules in their order, read from the files that declare them. Those in a folder stand before the folder's own.
fn order(modules: &BTreeMap<String, String>) -> Vec<String> {
    fn add(module: &str, modules: &BTreeMap<String, String>, order: &mut Vec<String>) {
        let code = modules.get(module).map(String::as_str).unwrap_or_default();
        for inner in declared(code) {
            add(&format!("{module}::{inner}"), modules, order);
        }
        order.push(module.to_owned());
    }
    let mut order = Vec::new();
    for module in declared(&read("src/lib.rs")).iter().map(String::as_str).chain(["main"]) {
        add(module, modules, &mut order);
    }
    order
}

/// The modules that a module's code names, after `crate::`, `super::`, one of its own or, in main.rs, the crate's name.
fn used(module: &str, code: &str, all: &BTreeMap<String, String>) -> BTreeSet<String> {
    let above = module.rsplit_once("::").map(|(above, _)| format!("{above}::")).unwrap_or_default();
    let mut used = BTreeSet::new();
    for (prefix, before) in [("crate::", ""), ("nfs_provisioner::", ""), ("super::", &*above)] {
        for rest in code.split(prefix).skip(1) {
            let path: String =
                rest.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
            assert!(
                !path.is_empty(),
                "{module}: {prefix} is followed by no name; one `use` for each module, please"
            );
            let path = format!("{before}{path}");
            // The longest part of it that is a module.
            let ends: Vec<usize> = path.match_indices("::").map(|(end, _)| end).chain([path.len()]).collect();
            let named =
                ends.into_iter().rev().filter_map(|end| path.get(..end)).find(|part| all.contains_key(*part));
            used.extend(named.map(ToOwned::to_owned));
        }
    }
    used
}

#[test]
fn every_module_has_its_place_in_the_order() {
    let modules = modules();
    let mut found: Vec<String> = modules.keys().cloned().collect();
    let mut order = order(&modules);
    found.sort();
    order.sort();
    assert_eq!(
        order, found,
        "what src/lib.rs and each mod.rs declare (left), and the files of src/ (right), differ"
    );
}

#[test]
fn modules_use_only_those_before_them() {
    let modules = modules();
    let order = order(&modules);
    let place =
        |module: &str| order.iter().position(|other| other == module).unwrap_or_else(|| panic!("{module}"));
    let mut against = Vec::new();
    for (module, code) in &modules {
        for used in used(module, code, &modules) {
            // Modules in a folder belong to the folder: its own may be named by those in it only for what stands there.
            if used != *module && place(&used) >= place(module) && !ALLOWED.contains(&(module, &used)) {
                against.push(format!("{module} uses {used}"));
            }
        }
    }
    assert!(against.is_empty(), "against the order of src/lib.rs and each mod.rs: {against:#?}");
}

#[test]
fn uses_are_found() {
    let modules = modules();
    let of = |module: &str| used(module, modules.get(module).unwrap_or_else(|| panic!("{module}")), &modules);
    assert!(of("layout::archive").contains("values::path") && of("decide::claim").contains("ledger::placements"));
    assert!(!of("values::path").contains("values::pattern"));
    assert!(of("main").contains("run"));
}

#[test]
fn a_newcomer_sees_few_entries() {
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap().count();
    assert!(entries <= ENTRIES_MAX, "src/ has {entries} entries");
}
