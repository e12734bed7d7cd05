//! Tells the program its version, with the commit it is built from where that is known.

#![allow(clippy::print_stdout, reason = "how a build script speaks to cargo")]

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=GIT_COMMIT");
    let given = std::env::var("GIT_COMMIT").ok().filter(|commit| !commit.is_empty());
    // Not in debug builds: there each commit would have all tests compiled again.
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = given.or_else(|| {
        let directory = std::env::var("CARGO_MANIFEST_DIR").ok().filter(|_| is_release)?;
        commit_of(Path::new(&directory))
    });
    println!("cargo::rustc-env=NFS_PROVISIONER_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let version = commit.map_or_else(|| version.clone(), |commit| format!("{version} ({commit})"));
    println!("cargo::rustc-env=NFS_PROVISIONER_VERSION={version}");
}

/// The commit that is checked out in a directory, if that is the top of a git repository: sources that were unpacked
/// somewhere within another one have nothing to do with its commits.
pub(crate) fn commit_of(directory: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(directory).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    if !git(&["rev-parse", "--show-prefix"])?.trim().is_empty() {
        return None;
    }
    // This file is written at each commit, checkout and reset.
    if let Some(log) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={}", log.trim());
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    Some(commit.trim().to_owned())
}
