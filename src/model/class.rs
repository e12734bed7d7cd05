//! The parts of a StorageClass that we keep.

use k8s_openapi::api::storage::v1::StorageClass;

use crate::model::parameters::Parameters;
use crate::model::volume::ReclaimPolicy;
use crate::values::names::ClassName;

/// A StorageClass, of any provisioner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// The class's name.
    pub name: ClassName,
    /// The class's uid. No other class ever has it, in whatever cluster.
    pub uid: Box<str>,
    /// The provisioner that the class names.
    pub provisioner: Box<str>,
    /// The class's parameters; meaningless if the class is another provisioner's.
    pub parameters: Parameters,
    /// The reclaim policy of the class's volumes.
    pub reclaim: ReclaimPolicy,
    /// The time at which the class's claims are served.
    pub binding: Binding,
    /// The mount options of the class's volumes.
    pub mount_options: Vec<String>,
}

/// The time at which a class's claims are served: its `volumeBindingMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// Claims are served at once.
    Immediate,
    /// A claim is served once the scheduler has picked a node for a Pod that uses it.
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
            uid: class.metadata.uid.as_deref().unwrap_or_default().into(),
            provisioner: class.provisioner.as_str().into(),
            parameters: class
                .parameters
                .as_ref()
                .map_or_else(|| Parameters::read(&std::collections::BTreeMap::new()), Parameters::read),
            // The API server fills in Delete if the field is unset.
            reclaim: class.reclaim_policy.as_deref().map_or(ReclaimPolicy::Delete, ReclaimPolicy::read),
            binding: match class.volume_binding_mode.as_deref() {
                Some("WaitForFirstConsumer") => Binding::WaitForFirstConsumer,
                _ => Binding::Immediate,
            },
            mount_options: class.mount_options.clone().unwrap_or_default(),
        }
    }
}
