//! nfs-provisioner: a dynamic NFS volume provisioner for Kubernetes.
//!
//! ```text
//! claim ──Claim::read───▶ Claim ──┐
//! class ──Class::read───▶ Class ──┴ decide::claim ────▶ ClaimPlan ── Storage::create_as ─▶ Cluster::create_volume
//!
//! volume ─Volume::read──▶ Volume ─┐
//! class ──Class::read───▶ Class ──┴ decide::volume ───▶ VolumePlan ─ Storage::archive ───▶ Cluster::delete_volume
//!                                                                    or trash
//! claim ──Expansion::read▶ Expansion ┐
//! volume ─Volume::read──▶ Volume ────┴ decide::expansion ▶ ExpansionPlan ─ Cluster::grow_volume ─▶ Cluster::grow_claim
//! ```
//!
//! A round for an object goes one way: **read** the facts (what the watches have brought; the API server is asked only
//! where a wrong answer could lose data or refuse wrongly), **decide** (a pure function from facts to a value), **act**
//! (on the export, then on the API), **report** (an outcome, from which log line, event, metric and retry follow). If
//! the world turns out different, the round ends and the next one decides on new facts. `docs/architecture.md` has the
//! whole, with the questions that are asked and what a crash leaves behind at each step.
//!
//! "Upstream" is kubernetes-sigs/nfs-subdir-external-provisioner, whose place this program can take.
//!
//! Modules are listed bottom-up, here and in the `mod.rs` of each folder: each may use only those above it.
//! `tests/layers.rs` holds the code to that.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make the files that the program is to meet"))]

pub mod failpoint;
pub mod values;
pub mod layout;
pub mod model;
pub mod ledger;
pub mod decide;
pub mod storage;
pub mod queue;
pub mod export;
pub mod cluster;
pub mod observe;
pub mod controllers;
pub mod background;
pub mod config;
pub mod commands;
pub mod run;
