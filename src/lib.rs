//! nfs-provisioner: a dynamic NFS volume provisioner for Kubernetes.
//!
//! ```text
//! claim ─Claim::read─▶ Claim ┐
//! class ─Class::read─▶ Class ┴ decide::for_claim ──▶ ClaimStep ── Storage::create ─▶ Cluster::create_volume
//!
//! volume ─Volume::read─▶ Volume ┐
//! class ──Class::read──▶ Class  ┴ decide::for_volume ▶ VolumeStep ─ Storage::archive ─▶ Cluster::delete_volume
//!                                                                    or remove
//! claim ──Growth::read─▶ Growth ┐
//! volume ─Volume::read─▶ Volume ┴ decide::for_growth ▶ GrowthStep ─ Cluster::grow_volume ─▶ Cluster::grow_claim
//! ```
//!
//! Everything goes one way: **read** (what the watches have brought, no API call), **decide** (a value), **act**
//! (at most one call on files, then at most one on the API), **record** (log line and event). If the world
//! turns out different, the round ends and the next one decides on new facts.
//!
//! The modules stand in the order in which they may use each other, later ones the earlier.

pub mod path;
pub mod quantity;
pub mod room;
pub mod exports;
pub mod pattern;
pub mod ownership;
pub mod policy;
pub mod step;
pub mod trash;
pub mod claim;
pub mod growth;
pub mod volume;
pub mod class;
pub mod wire;
pub mod placements;
pub mod groups;
pub mod decide;
pub mod storage;
pub mod queue;
pub mod reaper;
pub mod site;
pub mod metrics;
pub mod health;
pub mod http;
pub mod cluster;
pub mod events;
pub mod access;
pub mod election;
pub mod catalog;
pub mod follow;
pub mod context;
pub mod cloner;
pub mod provisioner;
pub mod reclaimer;
pub mod expander;
pub mod orphans;
pub mod usage;
pub mod uninstall;
pub mod config;
pub mod run;
pub mod doctor;
