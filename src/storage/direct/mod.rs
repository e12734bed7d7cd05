//! The engine for exports that nobody has mounted: a client of NFS 4.1 and 4.2 of our own (RFC 8881, RFC 7862,
//! RFC 8276).
//!
//! Each file knows those above it: how a record is written and read, what a server answers, the envelope of a call,
//! attributes and operations; the connection, the session on it, the server that has both; then files and
//! directories.

#![expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the methods of results are each for one lifetime, and what reads an answer must be for any"
)]

mod xdr;
mod status;
pub(crate) mod rpc;
pub(crate) mod attributes;
mod compound;
mod backoff;
mod connection;
mod session;
pub(crate) mod server;
mod filesystem;
pub(crate) mod node;
pub(crate) mod filehandle;
pub(crate) mod dirhandle;

#[cfg(test)]
mod tests;
