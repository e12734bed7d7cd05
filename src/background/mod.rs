//! What runs on a timer while this process leads.

pub mod reaper;
pub mod orphans;
pub mod notes;
pub mod staging;
pub mod turns;
pub mod usage;
pub mod fence;
pub mod expiry;
pub mod pressure;
