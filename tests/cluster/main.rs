//! The provisioner against a real control plane, as a process of its own under the rules of `rbac/`.
//!
//! All tests of this program share one control plane; each has a namespace, a provisioner name, classes and an
//! export of its own.

#![allow(
    clippy::cast_precision_loss,
    clippy::default_trait_access,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

#[path = "../support/mod.rs"]
mod support;

mod chart;
mod claim_restore;
mod clone;
mod connect;
mod copies;
mod doctor;
mod expand;
mod exports;
mod hearsay;
mod kustomize;
mod leader;
mod logs;
mod manifests;
mod migrate;
mod monitoring;
mod neighbours;
mod openshift;
mod ownership;
mod plugin;
mod programs;
mod provision;
mod proxy;
mod reclaim;
mod recovery;
mod refuse;
mod rehome;
mod requests;
mod retention;
mod rights;
mod room;
mod usage;
mod values;
mod workload;
