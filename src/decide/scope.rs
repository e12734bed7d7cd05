//! The scope of this provisioner: its name, exports and permissions.

use crate::model::exports::Exports;

/// The scope of this provisioner: who we are, what we serve, and what we may do.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The provisioner's name, by which classes, claims and volumes refer to us.
    pub provisioner: String,
    /// The exports we serve.
    pub exports: Exports,
    /// Whether all claims may have directories at, in or above those of other namespaces, whatever their class
    /// says.
    pub share: bool,
    /// Whether we may patch volumes, and so put finalizers on them.
    pub may_patch: bool,
}
