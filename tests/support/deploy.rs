//! What users apply.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Copies `deploy/` and `rbac/` into a directory and edits the two values of `export.yaml`, as users do. Where `deploy/`
/// is then.
pub(crate) fn edited(into: &Path, server: &str, path: &str) -> PathBuf {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    for part in ["deploy", "rbac"] {
        let copied = Command::new("cp").arg("-r").arg(project.join(part)).arg(into).status().expect("cp runs");
        assert!(copied.success());
    }
    let export = into.join("deploy/export.yaml");
    let text = fs::read_to_string(&export).expect("export.yaml");
    let edited = text.replace("10.3.243.101", server).replace("/ifs/kubernetes", path);
    assert_ne!(edited, text);
    fs::write(&export, edited).expect("export.yaml");
    into.join("deploy")
}
