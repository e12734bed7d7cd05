//! Modules use only those that stand before them in src/lib.rs.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what helpers of tests do when they fail")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules in modules, in their order. They may use each other in this order, and whatever their outer one may.
const INNER: &[(&str, &[&str])] = &[
    ("decide", &["identity", "volume", "copy", "claim", "growth"]),
    ("storage", &["calls", "dirfd", "tree", "survey", "copy", "export", "trial", "explain", "mount"]),
    ("doctor", &["facts", "report", "judge", "read"]),
];

/// Uses that go against the order, as (who, whom), each with the reason why that is so. None so far.
const ALLOWED: &[(&str, &str)] = &[];

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The modules in their order; one in another module stands before that, as `storage::dirfd`.
fn order() -> Vec<String> {
    let text = read("src/lib.rs");
    let outer = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let mut order = Vec::new();
    for module in outer.chain(["main"]) {
        let inner = INNER.iter().filter(|(outer, _)| *outer == module).flat_map(|(_, inner)| *inner);
        order.extend(inner.map(|inner| format!("{module}::{inner}")));
        order.push(module.to_owned());
    }
    order
}

/// All modules: their names, and their code without comments and tests.
fn modules() -> Vec<(String, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut directories = vec![source.clone()];
    let mut modules = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.strip_prefix(&source).unwrap().with_extension("");
            let name = name.to_str().unwrap().replace('/', "::");
            if path.is_dir() {
                directories.push(path);
            } else if name != "lib" && !name.ends_with("::tests") {
                let text = read(&path);
                let code = text.split("#[cfg(test)]").next().unwrap_or_default().lines();
                let code = code.map(|line| line.split("//").next().unwrap_or_default());
                modules.push((name, code.collect::<Vec<_>>().join("\n")));
            }
        }
    }
    modules
}

/// The modules that a module's code names, after `crate::`, `super::` or, in main.rs, the crate's name.
fn used(module: &str, code: &str) -> BTreeSet<String> {
    let above = module.rsplit_once("::").map(|(above, _)| format!("{above}::")).unwrap_or_default();
    let mut used = BTreeSet::new();
    for (prefix, before) in [("crate::", ""), ("nfs_provisioner::", ""), ("super::", &above)] {
        for rest in code.split(prefix).skip(1) {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            assert!(
                !name.is_empty(),
                "{module}: {prefix} is followed by no name; one `use` for each module, please"
            );
            used.insert(format!("{before}{name}"));
        }
    }
    used
}

#[test]
fn every_module_has_its_place_in_the_order() {
    let mut modules: Vec<String> = modules().into_iter().map(|(name, _)| name).collect();
    let mut order = order();
    modules.sort();
    order.sort();
    assert_eq!(order, modules, "src/lib.rs with what is in INNER (left), and the files of src/ (right), differ");
}

#[test]
fn modules_use_only_those_before_them() {
    let order = order();
    let place = |module: &str| order.iter().position(|name| name == module);
    let mut against = Vec::new();
    for (module, code) in modules() {
        for used in used(&module, &code) {
            if place(&used) >= place(&module) && !ALLOWED.contains(&(&*module, &*used)) {
                against.push(format!("{module} uses {used}"));
            }
        }
    }
    assert!(against.is_empty(), "against the order of src/lib.rs: {against:?}");
}

#[test]
fn uses_are_found() {
    let all: Vec<_> = modules().iter().map(|(name, code)| (name.clone(), used(name, code))).collect();
    let of = |module: &str| &all.iter().find(|(name, _)| name == module).unwrap().1;
    assert!(of("storage::export").contains("storage::tree") && of("storage::export").contains("path"));
    assert!(of("decide::claim").contains("placements") && !of("path").contains("pattern"));
    assert!(of("main").contains("run"));
}
