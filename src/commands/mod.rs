//! Subcommands: what people run beside the provisioner, or instead of it.

pub mod remove_finalizers;
pub mod rehome;
pub mod doctor;
