//! Programs that some tests need beside Rust and Go.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Installs what is missing of `programs`, each named with Debian's package that has it, where we may. What is still
/// missing then, in words.
pub(crate) fn missing(programs: &[(&str, &str)]) -> Option<String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let packages = || {
        let lacking = programs.iter().filter(|(program, _)| !is_there(program));
        let mut packages: Vec<&str> = lacking.map(|(_, package)| *package).collect();
        packages.sort_unstable();
        packages.dedup();
        packages
    };
    if !packages().is_empty() && nix::unistd::geteuid().is_root() && is_there("apt-get") {
        eprintln!("installing {}", packages().join(" "));
        let apt = |arguments: &[&str]| {
            let mut apt = Command::new("apt-get");
            apt.args(["--quiet", "--quiet"]).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
            apt.stdout(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        let install = || apt(&[&["install", "--yes", "--no-install-recommends"], &*packages()].concat());
        let _ = install() || (apt(&["update"]) && install());
    }
    let packages = packages();
    (!packages.is_empty()).then(|| format!("Debian's packages {}", packages.join(" ")))
}

fn is_there(program: &str) -> bool {
    // Not all users have the administrators' directories in their paths.
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).any(|directory| directory.join(program).exists())
}
