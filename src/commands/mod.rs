//! Commands for people.

pub mod remove_finalizers;
pub mod doctor;
