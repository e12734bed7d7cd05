//! One round for one object: read what is known, decide, act, and report what came of it.
//!
//! The rounds end with a value, an outcome. Log line, event, metric and when the object is looked at again follow from
//! it in one pure function for each controller.

pub mod report;
pub mod context;
pub mod pool;
pub mod copies;
mod attempts;
mod claim_outcome;
mod volume_outcome;
mod expansion_outcome;
mod claim_copies;
mod take_back;
pub mod provisioner;
pub mod reclaimer;
pub mod expander;

#[cfg(test)]
mod tests;
