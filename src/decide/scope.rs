//! Whose judgement it is.

use crate::model::exports::Exports;

/// Who we are and what we serve.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The provisioner's name: what classes, claims and volumes call us.
    pub provisioner: String,
    /// The exports we serve.
    pub exports: Exports,
    /// Whether all claims may have directories at, in or above those of other namespaces, whatever their class says.
    pub share: bool,
    /// Whether we may change volumes, and so put finalizers on them.
    pub may_patch: bool,
}
