//! Writes the completion scripts and the manual page into a directory, for packages. In the program itself they would
//! take 290 KiB of what is otherwise never used in a Pod.

#![allow(clippy::disallowed_methods, reason = "what makes files for the program to meet")]
#![allow(clippy::print_stderr, reason = "how a small tool speaks")]

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, ValueEnum};
use clap_complete::{Shell, generate_to};
use nfs_provisioner::config::Args;

#[allow(dead_code, reason = "tests call what it calls")]
fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: shell DIRECTORY");
        return ExitCode::from(2);
    };
    match write(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

/// Writes all of them, under the names that the shells and man look for.
pub(crate) fn write(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for shell in Shell::value_variants() {
        generate_to(*shell, &mut Args::command(), "nfs-provisioner", directory)?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Args::command()).render(&mut page)?;
    fs::write(directory.join("nfs-provisioner.1"), page)
}
