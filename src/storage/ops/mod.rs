//! What is done to the directories of an export.

pub(in crate::storage) mod remove_tree;
pub(in crate::storage) mod disk_usage;
pub(in crate::storage) mod copy_tree;
pub(in crate::storage) mod write_test;
