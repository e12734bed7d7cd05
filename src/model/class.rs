//! What we keep of a StorageClass.

use k8s_openapi::api::storage::v1::StorageClass;

use crate::model::parameters::Parameters;
use crate::model::volume::ReclaimPolicy;
use crate::values::names::ClassName;

/// A StorageClass, anybody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Its name.
    pub name: ClassName,
    /// The provisioner it names.
    pub provisioner: Box<str>,
    /// Its parameters; for a class that is not ours they mean nothing.
    pub parameters: Parameters,
    /// The reclaim policy of its volumes.
    pub reclaim: ReclaimPolicy,
    /// When its claims are to be served.
    pub binding: Binding,
    /// The mount options of its volumes.
    pub mount_options: Vec<String>,
}

/// When a class's claims are to be served: its `volumeBindingMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// At once.
    Immediate,
    /// Once the scheduler has picked a node for a Pod that uses the claim.
    WaitForFirstConsumer,
}

impl Class {
    /// Tells whether the class names this provisioner.
    #[must_use]
    pub fn is_of(&self, provisioner: &str) -> bool {
        &*self.provisioner == provisioner
    }

    /// Reads a class as the API server gives it.
    #[must_use]
    pub fn read(class: &StorageClass) -> Self {
        Self {
            name: class.metadata.name.as_deref().unwrap_or_default().into(),
            provisioner: class.provisioner.as_str().into(),
            parameters: class
                .parameters
                .as_ref()
                .map_or_else(|| Parameters::read(&std::collections::BTreeMap::new()), Parameters::read),
            // The API server fills in Delete (behaviour 1.20).
            reclaim: class.reclaim_policy.as_deref().map_or(ReclaimPolicy::Delete, ReclaimPolicy::read),
            binding: match class.volume_binding_mode.as_deref() {
                Some("WaitForFirstConsumer") => Binding::WaitForFirstConsumer,
                _ => Binding::Immediate,
            },
            mount_options: class.mount_options.clone().unwrap_or_default(),
        }
    }
}
