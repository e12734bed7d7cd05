//! Controllers. Each round handles one object: it reads what is known, decides, acts and reports.
//!
//! A round ends with a value, its outcome. One pure function for each controller derives from it the log line, the
//! event, the metrics, and when the object is looked at again.

pub mod report;
pub mod classes;
pub mod records;
mod batch;
pub mod restorable;
pub mod context;
pub mod pool;
mod copy_slots;
pub mod copies;
mod attempts;
mod claim_outcome;
mod volume_outcome;
mod expansion_outcome;
mod confirm;
mod claim_copies;
mod there;
mod restores;
mod take_back;
pub mod provisioner;
pub mod reclaimer;
pub mod expander;

#[cfg(test)]
mod tests;
