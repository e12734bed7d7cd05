//! The engine for exports that the kernel has mounted: the system calls. Nothing else in storage makes any.
//!
//! Calls are nix's where it has them. Rustix has those that nix lacks: extended attributes by descriptor, and the
//! priority of a thread.

mod errno;
pub(crate) mod file;
pub(crate) mod mount;
pub(crate) mod dirfd;
pub(crate) mod thread;
