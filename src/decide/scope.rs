//! The scope of this provisioner: its name, exports and permissions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    pub may_patch: Permitted,
}

/// Whether we have a permission, as far as is known: not before the API server has said so, which may be while the
/// process runs. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Permitted(Arc<AtomicBool>);

impl Permitted {
    /// Tells whether the permission is known to be granted.
    #[must_use]
    pub fn is_granted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes that the permission is granted.
    pub fn grant(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl From<bool> for Permitted {
    fn from(is_granted: bool) -> Self {
        Self(Arc::new(AtomicBool::new(is_granted)))
    }
}
