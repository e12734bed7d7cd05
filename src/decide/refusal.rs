//! Refusals of a claim, in words for those who can change something.

use std::fmt;

use crate::decide::choice::NotChosen;
use crate::decide::copy::BadSource;
use crate::decide::restore::RestoreProblem;
use crate::layout::ARCHIVE_PREFIX;
use crate::ledger::placements::Relation;
use crate::model::parameters::{BadParameter, parameter};
use crate::values::names::ClassName;
use crate::values::ownership::GidRange;
use crate::values::path::{PathError, RelPath};

/// Reasons why a claim cannot be served. The text is the event: what is wrong, where, and what to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimRefusal {
    /// The class does not exist.
    NoClass,
    /// The class names another provisioner.
    ForeignClass(Box<str>),
    /// The claim says that it has been bound, and names no volume.
    Lost,
    /// The claim wants a block device.
    Block,
    /// The claim has a selector.
    Selector,
    /// The claim names a `VolumeAttributesClass`, which Kubernetes allows for CSI volumes only.
    AttributesClass(Box<str>),
    /// The claim names a source that cannot be copied.
    Source {
        /// The source's name.
        name: Box<str>,
        /// The problem with the source.
        problem: BadSource,
    },
    /// The claim names a claim of another namespace as its source.
    Abroad {
        /// The other namespace.
        namespace: Box<str>,
        /// The source's name.
        name: Box<str>,
    },
    /// The claim wants a snapshot to be restored.
    Snapshot(Box<str>),
    /// The claim asks for no storage.
    NoRequest,
    /// The class has an invalid parameter.
    Parameter(BadParameter),
    /// The class names an export that we do not serve. The text says which.
    Export(Box<str>),
    /// No export that the class allows has the headroom that it requires. The text says what they lack.
    NoRoom(Box<str>),
    /// The claim's directory may exist on an export that does not say. The text says which, and why.
    NotSaid(Box<str>),
    /// The directory is at, in or above one of another namespace's volume. The message does not say whose.
    OtherNamespace {
        /// The directory.
        path: RelPath,
        /// The relation of the other volume's directory to this one.
        relation: Relation,
    },
    /// The claim has an annotation that is invalid, or that its class does not allow.
    Annotation(BadAnnotation),
    /// The claim asks for what was archived or deleted, and cannot have it now.
    Restore {
        /// What it asks for.
        name: Box<str>,
        /// The problem with that.
        problem: RestoreProblem,
    },
    /// The class's pattern is strict, and the claim has no value for this token.
    NoValue(Box<str>),
    /// All groups of the class's range are in use.
    NoGroupLeft(GidRange),
    /// The volume is to have a group of its own, but a volume without one has the same directory.
    NoGroupThere(RelPath),
    /// The class's pattern begins with the claim's namespace, which is called as archives are.
    NamedAsArchive(Box<str>),
    /// The class's pattern renders a path where no volume may be.
    Path {
        /// The rendered path.
        rendered: String,
        /// The problem with the path.
        error: PathError,
    },
}

/// The change that lets a refusal pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// More headroom on the exports.
    Headroom,
    /// A change of the claim to copy.
    Source,
    /// An answer of an export.
    Export,
}

/// A claim's annotation that is not followed. The text names it and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAnnotation {
    /// The annotation has an invalid value.
    #[error("the claim's annotation {annotation} is {value:?}, but must be {expected}: change or remove it")]
    Wrong {
        /// The annotation's key.
        annotation: &'static str,
        /// The annotation's value.
        value: Box<str>,
        /// The valid values, in words.
        expected: &'static str,
    },
    /// The class does not let claims set the annotation.
    #[error(
        "the claim's annotation {annotation} is {value:?}, which the class does not allow: change or remove it, \
         or use a class that lists it in its parameter {parameter}"
    )]
    NotAllowed {
        /// The annotation's key.
        annotation: &'static str,
        /// The annotation's value.
        value: Box<str>,
        /// The class parameter that would allow it.
        parameter: &'static str,
    },
}

impl From<BadAnnotation> for ClaimRefusal {
    fn from(bad: BadAnnotation) -> Self {
        Self::Annotation(bad)
    }
}

impl From<NotChosen> for ClaimRefusal {
    fn from(why: NotChosen) -> Self {
        match why {
            NotChosen::NotServed(words) => Self::Export(words),
            NotChosen::NoHeadroom(words) => Self::NoRoom(words),
            NotChosen::NotSaid(words) => Self::NotSaid(words),
        }
    }
}

impl ClaimRefusal {
    /// Spells the event's message for a claim of `class`, in upstream's form.
    #[must_use]
    pub fn message(&self, class: &ClassName, provisioner: &str) -> String {
        if *self == Self::Block {
            return format!("{provisioner} {self}");
        }
        format!("failed to provision volume with StorageClass {:?}: {self}", class.as_str())
    }
}

impl ClaimRefusal {
    /// Returns the change that lets the refusal pass while the claim and its class stay as they are, if there is
    /// one.
    #[must_use]
    pub fn passes_with(&self) -> Option<Passing> {
        if matches!(self, Self::NoRoom(_)) {
            return Some(Passing::Headroom);
        }
        let may_pass = matches!(self, Self::Restore { problem, .. } if problem.may_pass());
        if may_pass || matches!(self, Self::NotSaid(_)) {
            return Some(Passing::Export);
        }
        matches!(self, Self::Source { problem, .. } if problem.may_pass()).then_some(Passing::Source)
    }

    /// Returns the refusal's name in metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoClass => "no_class",
            Self::ForeignClass(_) => "foreign_class",
            Self::Lost => "lost",
            Self::Block => "block",
            Self::Selector => "selector",
            Self::AttributesClass(_) => "attributes_class",
            Self::Source { .. } => "source",
            Self::Abroad { .. } => "source_namespace",
            Self::Snapshot(_) => "snapshot",
            Self::NoRequest => "no_request",
            Self::Parameter(_) => "parameter",
            Self::Export(_) => "export",
            Self::NoRoom(_) => "no_room",
            Self::NotSaid(_) => "not_said",
            Self::OtherNamespace { .. } => "other_namespace",
            Self::Annotation(_) => "annotation",
            Self::Restore { .. } => "restore",
            Self::NoValue(_) => "no_value",
            Self::NoGroupLeft(_) => "no_group_left",
            Self::NoGroupThere(_) => "no_group_there",
            Self::NamedAsArchive(_) | Self::Path { .. } => "path",
        }
    }
}

impl fmt::Display for ClaimRefusal {
    #[expect(clippy::too_many_lines, reason = "a table of texts, one for each variant")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClass => write!(
                f,
                "there is no StorageClass of that name: create it, or make the claim again with another one \
                 in spec.storageClassName"
            ),
            Self::ForeignClass(other) => write!(
                f,
                "the class names the provisioner {other:?}, though the claim's annotation storage-provisioner \
                 names this one: remove that annotation, or make the claim again with a class of this provisioner"
            ),
            Self::Lost => f.write_str(
                "the claim's annotation pv.kubernetes.io/bind-completed says that it has been bound, but it names no \
                 volume, so Kubernetes counts it as Lost and binds it to none: remove that annotation, or make the \
                 claim again without it",
            ),
            Self::Block => write!(
                f,
                "does not support block volume provisioning: make the claim again with spec.volumeMode \
                 \"Filesystem\""
            ),
            Self::Selector => write!(
                f,
                "claim Selector is not supported: make the claim again without spec.selector, \
                 each claim gets a new volume of its own"
            ),
            Self::AttributesClass(name) => write!(
                f,
                "NFS volumes cannot have a VolumeAttributesClass: make the claim again without \
                 spec.volumeAttributesClassName ({name:?})"
            ),
            Self::Source { name, problem } => {
                write!(f, "spec.dataSource cannot be copied: the PersistentVolumeClaim {name:?} {problem}")
            }
            Self::Abroad { namespace, name } => write!(
                f,
                "spec.dataSourceRef.namespace is {namespace:?}, but only claims of the same namespace are copied: make \
                 the claim again without that field and with a source of its own namespace, or without \
                 spec.dataSourceRef (PersistentVolumeClaim {name:?})"
            ),
            Self::Snapshot(name) => write!(
                f,
                "snapshots are not supported: make the claim again without spec.dataSource \
                 (VolumeSnapshot {name:?})"
            ),
            Self::NoRequest => write!(f, "the claim asks for no storage: set spec.resources.requests.storage"),
            Self::Parameter(bad) => write!(
                f,
                "{bad}: delete the StorageClass and create it again with a valid value; this claim will then be \
                 served"
            ),
            Self::Export(what) => write!(
                f,
                "the class names {what}: have it served (EXPORTS_FILE on the provisioner), or delete the \
                 StorageClass and create it again with another export"
            ),
            Self::NoRoom(what) => write!(
                f,
                "there is no room: {what}. The claim will be served once there is room: make the export larger, \
                 or delete what is not needed"
            ),
            Self::NotSaid(what) => write!(
                f,
                "the directory for this claim may exist on an export that cannot be looked at now ({what}), and it must \
                 not get an empty one on another export meanwhile: the claim will be served once that export answers"
            ),
            Self::OtherNamespace { path, relation } => write!(
                f,
                "the path {:?} is not free: a volume of another namespace has {relation}. Give the claim another \
                 path (class parameter {}), or allow this one by the class parameter {} \"true\" or, for all \
                 classes, by SHARE_ACROSS_NAMESPACES on the provisioner",
                path.as_str(),
                parameter::PATH_PATTERN,
                parameter::SHARE_ACROSS_NAMESPACES,
            ),
            Self::Annotation(bad) => write!(f, "{bad}"),
            Self::Restore { name, problem } => write!(f, "{name:?} cannot be restored for this claim: {problem}"),
            Self::NoValue(token) => write!(
                f,
                "the claim has no value for {token:?} in the class parameter {}, which must have one because the \
                 class parameter {} is set: give the claim that label or annotation",
                parameter::PATH_PATTERN,
                parameter::STRICT_PATH_PATTERN,
            ),
            Self::NoGroupLeft(range) => write!(
                f,
                "all groups of the class parameter {} ({range}) are in use: the claim will be served when a \
                 volume with one of them is deleted, or when the class is created again with more of them",
                parameter::GID_RANGE,
            ),
            Self::NoGroupThere(path) => write!(
                f,
                "the directory {:?} belongs to a volume without a group of its own, which would lose access if \
                 this one got a group by the class parameter {}: give the claim another path (class parameter {})",
                path.as_str(),
                parameter::GID_RANGE,
                parameter::PATH_PATTERN,
            ),
            Self::NamedAsArchive(rendered) => write!(
                f,
                "the path {rendered:?} begins with the claim's namespace, which is called as archives of deleted claims are \
                 ({ARCHIVE_PREFIX}…), so that the claim could get somebody's archive: use a class without the parameter \
                 {}, or with one that begins with something else, such as \"volumes/${{.PVC.namespace}}\"",
                parameter::PATH_PATTERN,
            ),
            Self::Path { rendered, error } => write!(
                f,
                "the path {rendered:?} {error}: change the labels or annotations of the claim that the class \
                 parameter {} uses, so that the path leads to a directory beneath the export",
                parameter::PATH_PATTERN,
            ),
        }
    }
}
