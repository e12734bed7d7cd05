//! The engine for exports that the kernel has mounted: the system calls.

pub(in crate::storage) mod dirfd;
pub(in crate::storage) mod mount;
