//! The provisioner as users run it: the image of `make image` as the Deployment of `deploy/`, on a node with a kubelet,
//! containerd and the kernel's NFS, for Pods that write into their volumes.
//!
//! See `node.rs` for what stands where. `cargo test --test e2e NAME` runs the tests whose names contain NAME, one after
//! another on one node.

#![allow(
    clippy::default_trait_access,
    clippy::disallowed_methods,
    clippy::exit,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::unused_async,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../nfs/agent.rs"]
mod agent;
mod conformance;
mod faults;
#[path = "../nfs/harness.rs"]
mod harness;
mod node;
mod plugin;
#[allow(dead_code, reason = "the tests on NFS alone use all of it")]
#[path = "../nfs/rig.rs"]
mod rig;
#[path = "../nfs/talk.rs"]
mod talk;
mod update;
mod workloads;

use std::process::ExitCode;
use std::sync::OnceLock;

pub(crate) use harness::trials;
use node::Node;

/// The node that all tests share.
fn shared() -> &'static Node {
    static SHARED: OnceLock<Option<Node>> = OnceLock::new();
    harness::once(&SHARED, || Node::start(None))
}

fn main() -> ExitCode {
    let trials =
        [workloads::trials(), faults::trials(), plugin::trials(), update::trials(), conformance::trials()];
    harness::run("the tests on a real node", node::missing, trials.into_iter().flatten().collect())
}
