//! What users apply.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Copies `deploy/` and `rbac/` into a directory. Where `deploy/` is then.
pub(crate) fn copied(into: &Path) -> PathBuf {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    for part in ["deploy", "rbac"] {
        let copied = Command::new("cp").arg("-r").arg(project.join(part)).arg(into).status().expect("cp runs");
        assert!(copied.success());
    }
    into.join("deploy")
}

/// As [`copied`], with the two values of `export.yaml` edited, as users do.
pub(crate) fn edited(into: &Path, server: &str, path: &str) -> PathBuf {
    let deploy = copied(into);
    fs::write(deploy.join("export.yaml"), export(server, path)).expect("export.yaml");
    deploy
}

/// `export.yaml` with these values in the place of the two that are not set.
pub(crate) fn export(server: &str, path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/export.yaml");
    let mut text = fs::read_to_string(file).expect("export.yaml");
    for (unset, value) in [("&server \"\"", format!("&server {server}")), (UNSET_PATH, format!("&path {path}"))] {
        assert_eq!(text.matches(unset).count(), 1, "{unset}");
        text = text.replace(unset, &value);
    }
    text
}

/// How the path stands in `export.yaml`.
pub(crate) const UNSET_PATH: &str = "&path \"not set: see export.yaml\"";
