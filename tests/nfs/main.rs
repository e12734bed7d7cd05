//! The provisioner on real NFS: the kernel's server and client, in a guest that needs nothing of this machine's kernel.
//!
//! See `rig.rs` for what stands where. `cargo test --test nfs NAME` runs the tests whose names contain NAME, one after
//! another in one guest.

#![allow(
    clippy::cast_precision_loss,
    clippy::default_trait_access,
    clippy::disallowed_methods,
    clippy::exit,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod clone;
mod doctor;
mod errors;
mod facts;
mod harness;
mod latency;
mod matrix;
mod outages;
mod ownership;
mod removal;
mod rig;
mod site;
mod talk;
mod usage;

use std::process::ExitCode;
use std::sync::OnceLock;

pub(crate) use harness::trials;
use rig::{OUTSIDE, Parts, Rig};
use support::process::provisioner;

/// The rig that all tests share.
fn shared() -> &'static Rig {
    static SHARED: OnceLock<Option<Rig>> = OnceLock::new();
    harness::once(&SHARED, || {
        let host = format!("--host={OUTSIDE}");
        Rig::start(&Parts { plane: &[&host], memory: "1500M", program: Some(&provisioner()) })
    })
}

fn main() -> ExitCode {
    let trials = [
        matrix::trials(),
        errors::trials(),
        facts::trials(),
        latency::trials(),
        outages::trials(),
        ownership::trials(),
        usage::trials(),
        clone::trials(),
        removal::trials(),
        doctor::trials(),
    ];
    harness::run("the tests on real NFS", || rig::missing(&[]), trials.into_iter().flatten().collect())
}
