//! The parts of Kubernetes' objects that we keep, and the objects that we write.

pub mod exports;
pub mod claim_restore;
pub mod parameters;
pub mod volume;
pub mod class;
pub mod claim;
pub mod expansion;
