//! Subcommands: what people run beside the provisioner, or instead of it.

pub mod remove_finalizers;
pub mod rehome;
pub mod session;
pub mod inventory;
pub mod revive;
pub mod adopt;
pub mod doctor;
pub mod restore;
pub mod remove;
pub mod dispatch;
