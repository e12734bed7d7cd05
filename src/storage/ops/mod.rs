//! What is done to the directories of an export: methods of [`crate::storage::root::Root`], a file for each
//! operation. They stand on [`crate::storage::dir`] and know no engine.

pub(crate) mod remove_tree;
pub(crate) mod notes;
pub(crate) mod create;
pub(crate) mod archive;
pub(crate) mod archives;
pub(crate) mod trash;
pub(crate) mod bring_back;
pub(crate) mod complete;
pub(crate) mod in_place;
pub(crate) mod stage;
pub(crate) mod copy_file;
pub(crate) mod copy_tree;
pub(crate) mod disk_usage;
pub(crate) mod write_test;
