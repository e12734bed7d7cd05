//! nfs-provisioner: a dynamic NFS volume provisioner for Kubernetes.
//!
//! ```text
//! claim ─Claim::read─▶ Claim ┐
//! class ─Class::read─▶ Class ┴ decide::for_claim ──▶ ClaimPlan ── Storage::create ─▶ Cluster::create_volume
//!
//! volume ─Volume::read─▶ Volume ┐
//! class ──Class::read──▶ Class  ┴ decide::for_volume ▶ VolumePlan ─ Storage::archive ─▶ Cluster::delete_volume
//!                                                                    or remove
//! claim ──Expansion::read─▶ Expansion ┐
//! volume ─Volume::read─▶ Volume ┴ decide::for_expansion ▶ ExpansionPlan ─ Cluster::grow_volume ─▶ Cluster::grow_claim
//! ```
//!
//! Everything goes one way: **read** (what the watches have brought, no API call), **decide** (a value), **act**
//! (at most one call on files, then at most one on the API), **record** (log line and event). If the world
//! turns out different, the round ends and the next one decides on new facts.
//!
//! The modules stand in the order in which they may use each other, later ones the earlier.

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
