//! One round for one object: read, decide, act, report.

pub mod context;
pub mod pool;
pub mod copies;
pub mod provisioner;
pub mod reclaimer;
pub mod expander;
