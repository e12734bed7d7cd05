//! What is kept of Kubernetes' objects, and how ours are spelled.

pub mod exports;
pub mod parameters;
pub mod volume;
pub mod class;
pub mod claim;
pub mod expansion;
