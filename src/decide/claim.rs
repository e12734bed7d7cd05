//! What is to be done for a claim that waits for us.

use std::fmt;

use k8s_openapi::api::core::v1::PersistentVolume;

use crate::decide::copy::{BadSource, CopyOf, Origin, copy_of};
use crate::decide::scope::Scope;
use crate::layout::{default_directory, new_directory};
use crate::ledger::placements::Relation;
use crate::model::claim::{Claim, DataSource};
use crate::model::class::{Binding, Class};
use crate::model::exports::{Location, NotChosen, PerExport};
use crate::model::parameters::{BadParameter, FATE, Fate, parameter};
use crate::model::volume::{NewVolume, ReclaimPolicy, annotation};
use crate::values::headroom::Headroom;
use crate::values::ownership::{Aspect, GidRange, Ownership};
use crate::values::path::{PathError, RelPath};
use crate::values::pattern::Facts;
use crate::values::quantity::bytes;

/// What is to be done for a claim.
#[derive(Debug, PartialEq)]
pub enum ClaimPlan {
    /// Nothing, and nobody need know.
    Ignore(ClaimIgnored),
    /// Nothing, and its author must know why.
    Refuse(ClaimRefusal),
    /// Make the directory, then create the volume.
    Provision {
        /// Where.
        directory: Location,
        /// The volume.
        volume: Box<PersistentVolume>,
        /// Whether the directory may be at, in or above one of another namespace.
        across: bool,
        /// Whose the directory is to be, and who may do what in it.
        ownership: Ownership,
        /// The groups of which it is to get one that no other volume has.
        gids: Option<GidRange>,
        /// How many bytes it asks for.
        request: u64,
        /// How many all volumes on its export may ask for together.
        most: Option<u128>,
        /// What it is to be a copy of.
        copy_of: Option<CopyOf>,
    },
}

/// Why a claim is left alone in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimIgnored {
    /// It is being deleted.
    Deleting,
    /// No Pod that uses it has been scheduled yet.
    WaitsForConsumer,
    /// Its data source is for a populator, which will come with a volume of its own.
    Populated,
}

/// Why a claim cannot be served. Its text is the event: what is wrong, where, and what to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimRefusal {
    /// The class does not exist.
    NoClass,
    /// The class names another provisioner.
    ForeignClass(Box<str>),
    /// The claim wants a block device.
    Block,
    /// The claim has a selector.
    Selector,
    /// The claim names a `VolumeAttributesClass`, which no NFS volume can have (behaviour 7.15).
    AttributesClass(Box<str>),
    /// The claim wants a copy of another, which cannot be made.
    Source {
        /// The other's name.
        name: Box<str>,
        /// What is wrong with it.
        problem: BadSource,
    },
    /// The claim wants a snapshot restored.
    Snapshot(Box<str>),
    /// The claim asks for no storage.
    NoRequest,
    /// The class has a parameter that means nothing.
    Parameter(BadParameter),
    /// The class names an export that we do not serve, in words.
    Export(Box<str>),
    /// The class demands room that no export has which it means, in words.
    NoRoom(Box<str>),
    /// The directory is at, in or above one of a volume of another namespace. Whose is not said.
    OtherNamespace {
        /// The directory.
        path: RelPath,
        /// How the other one lies to it.
        relation: Relation,
    },
    /// The claim has an annotation that means nothing, or that its class does not allow.
    Annotation(BadAnnotation),
    /// The class's pattern is strict, and the claim has no value for this token of it.
    NoValue(Box<str>),
    /// All groups of the class's range are in use.
    NoGroupLeft(GidRange),
    /// The volume is to have a group of its own, and another one without has the same directory.
    NoGroupThere(RelPath),
    /// The class's pattern leads nowhere that a volume may be.
    Path {
        /// What the pattern rendered.
        rendered: String,
        /// What is wrong with it.
        error: PathError,
    },
}

/// What a refusal may pass with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// Headroom on the exports.
    Headroom,
    /// The claim that is to be copied.
    Source,
}

/// An annotation of a claim that cannot be followed. Its text names it and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAnnotation {
    /// It means nothing.
    #[error("the claim's annotation {annotation} is {value:?}, but must be {expected}: change or remove it")]
    Wrong {
        /// Its key.
        annotation: &'static str,
        /// What it is.
        value: Box<str>,
        /// What would be right.
        expected: &'static str,
    },
    /// The class does not let claims say that.
    #[error(
        "the claim's annotation {annotation} is {value:?}, which the class does not allow: change or remove it, or \
         take a class that lists it in its parameter {parameter}"
    )]
    NotAllowed {
        /// Its key.
        annotation: &'static str,
        /// What it is.
        value: Box<str>,
        /// The class parameter that would allow it.
        parameter: &'static str,
    },
}

impl ClaimRefusal {
    /// The event's message for a claim of `class`, in the shape of behaviour 1.9 and 1.24.
    #[must_use]
    pub fn message(&self, class: &str, provisioner: &str) -> String {
        if *self == Self::Block {
            return format!("{provisioner} {self}");
        }
        format!("failed to provision volume with StorageClass {class:?}: {self}")
    }
}

impl ClaimRefusal {
    /// With what it may pass without the claim or its class changing, if it may.
    #[must_use]
    pub fn passes_with(&self) -> Option<Passing> {
        if matches!(self, Self::NoRoom(_)) {
            return Some(Passing::Headroom);
        }
        matches!(self, Self::Source { problem, .. } if problem.may_pass()).then_some(Passing::Source)
    }

    /// One word for it, for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoClass => "no_class",
            Self::ForeignClass(_) => "foreign_class",
            Self::Block => "block",
            Self::Selector => "selector",
            Self::AttributesClass(_) => "attributes_class",
            Self::Source { .. } => "source",
            Self::Snapshot(_) => "snapshot",
            Self::NoRequest => "no_request",
            Self::Parameter(_) => "parameter",
            Self::Export(_) => "export",
            Self::NoRoom(_) => "no_room",
            Self::OtherNamespace { .. } => "other_namespace",
            Self::Annotation(_) => "annotation",
            Self::NoValue(_) => "no_value",
            Self::NoGroupLeft(_) => "no_group_left",
            Self::NoGroupThere(_) => "no_group_there",
            Self::Path { .. } => "path",
        }
    }
}

impl fmt::Display for ClaimRefusal {
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
            Self::Block => write!(
                f,
                "does not support block volume provisioning: make the claim again with spec.volumeMode \"Filesystem\""
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
            Self::Snapshot(name) => write!(
                f,
                "snapshots are not supported: make the claim again without spec.dataSource (VolumeSnapshot {name:?})"
            ),
            Self::NoRequest => write!(f, "the claim asks for no storage: set spec.resources.requests.storage"),
            Self::Parameter(bad) => write!(
                f,
                "{bad}: delete the StorageClass and create it again with a right value, this claim will be served then"
            ),
            Self::Export(what) => write!(
                f,
                "the class names {what}: have it served (EXPORTS_FILE on the provisioner), or delete the StorageClass \
                 and create it again with another export"
            ),
            Self::NoRoom(what) => write!(
                f,
                "there is no room: {what}. The claim will be served when there is: make the export larger, or delete \
                 what is not needed"
            ),
            Self::OtherNamespace { path, relation } => write!(
                f,
                "the path {:?} is not free: a volume of another namespace has {relation}. Change what the class \
                 parameter {} makes of the claim, or allow it by the class parameter {} \"true\" or, for all \
                 classes, by SHARE_ACROSS_NAMESPACES on the provisioner",
                path.as_str(),
                parameter::PATH_PATTERN,
                parameter::SHARE_ACROSS_NAMESPACES,
            ),
            Self::Annotation(bad) => write!(f, "{bad}"),
            Self::NoValue(token) => write!(
                f,
                "the claim has no value for {token:?} in the class parameter {}, which must have one because the \
                 class parameter {} is set: give the claim that label or annotation",
                parameter::PATH_PATTERN,
                parameter::STRICT_PATH_PATTERN,
            ),
            Self::NoGroupLeft(range) => write!(
                f,
                "all groups of the class parameter {} ({range}) are in use: the claim will be served when a volume \
                 that has one goes. A class of the same name that is made again may have more",
                parameter::GID_RANGE,
            ),
            Self::NoGroupThere(path) => write!(
                f,
                "the directory {:?} belongs to a volume that has no group of its own, which would lose it if this \
                 one got a group by the class parameter {}: change what the class parameter {} makes of the claim",
                path.as_str(),
                parameter::GID_RANGE,
                parameter::PATH_PATTERN,
            ),
            Self::Path { rendered, error } => write!(
                f,
                "the path {rendered:?} {error}: change the labels or annotations of the claim that the class \
                 parameter {} (which must lead to a directory beneath the export) takes it from",
                parameter::PATH_PATTERN,
            ),
        }
    }
}

/// Decides what is to be done for a claim that waits for us. `class` is the one it names, if that exists; `headrooms` is how
/// much room the exports have, and `origin` the claim that it is to be a copy of, if it is.
#[must_use]
pub fn for_claim(
    claim: &Claim,
    class: Option<&Class>,
    scope: &Scope,
    headrooms: &PerExport<Headroom>,
    origin: &Origin,
) -> ClaimPlan {
    match plan(claim, class, scope, headrooms, origin) {
        Ok(Ok(Planned { directory, volume, across, ownership, gids, request, most, copy_of })) => {
            let volume = Box::new(volume);
            ClaimPlan::Provision { directory, volume, across, ownership, gids, request, most, copy_of }
        }
        Ok(Err(refusal)) => ClaimPlan::Refuse(refusal),
        Err(ignored) => ClaimPlan::Ignore(ignored),
    }
}

/// What is made for a claim.
struct Planned {
    directory: Location,
    volume: PersistentVolume,
    across: bool,
    ownership: Ownership,
    gids: Option<GidRange>,
    request: u64,
    most: Option<u128>,
    copy_of: Option<CopyOf>,
}

type Plan = Result<Planned, ClaimRefusal>;

fn plan(
    claim: &Claim,
    class: Option<&Class>,
    scope: &Scope,
    headrooms: &PerExport<Headroom>,
    origin: &Origin,
) -> Result<Plan, ClaimIgnored> {
    if claim.deleting {
        return Err(ClaimIgnored::Deleting);
    }
    if claim.source == Some(DataSource::Other) {
        return Err(ClaimIgnored::Populated);
    }
    let Some(class) = class else {
        return Ok(Err(ClaimRefusal::NoClass));
    };
    if *class.provisioner != *scope.provisioner {
        return Ok(Err(ClaimRefusal::ForeignClass(class.provisioner.clone())));
    }
    if class.binding == Binding::WaitForFirstConsumer && !claim.node_selected {
        return Err(ClaimIgnored::WaitsForConsumer);
    }
    Ok(make(claim, class, scope, headrooms, origin))
}

fn make(claim: &Claim, class: &Class, scope: &Scope, headrooms: &PerExport<Headroom>, origin: &Origin) -> Plan {
    if claim.block {
        return Err(ClaimRefusal::Block);
    }
    if claim.selector {
        return Err(ClaimRefusal::Selector);
    }
    if let Some(name) = &claim.attributes_class {
        return Err(ClaimRefusal::AttributesClass(name.clone()));
    }
    match &claim.source {
        Some(DataSource::Snapshot(name)) => return Err(ClaimRefusal::Snapshot(name.clone())),
        Some(DataSource::Claim(_) | DataSource::Other) | None => {}
    }
    if let Some(bad) = class.parameters.wrong.first() {
        return Err(ClaimRefusal::Parameter(bad.clone()));
    }
    let request = claim.request.as_ref().ok_or(ClaimRefusal::NoRequest)?;
    let path = directory(claim, class)?;
    let copy_of = match &claim.source {
        Some(DataSource::Claim(name)) => {
            let bad = |problem| ClaimRefusal::Source { name: name.clone(), problem };
            Some(copy_of(origin, request, scope).map_err(bad)?)
        }
        Some(DataSource::Snapshot(_) | DataSource::Other) | None => None,
    };
    let (needs, bytes) = (&class.parameters.needs, bytes(request));
    let near = copy_of.as_ref().map(|copy_of| copy_of.location.export);
    let export = scope.exports.choose_near(near, &class.parameters.export, needs, bytes, headrooms);
    let export = export.map_err(|why| match why {
        NotChosen::NotServed(words) => ClaimRefusal::Export(words),
        NotChosen::NoRoom(words) => ClaimRefusal::NoRoom(words),
    })?;
    let source = &scope.exports.get(export).source;
    let fate_of_claim = fate_of_claim(claim, class).map_err(ClaimRefusal::Annotation)?;
    let ownership = ownership(claim, class).map_err(ClaimRefusal::Annotation)?;
    let volume = NewVolume {
        claim,
        request,
        provisioner: &scope.provisioner,
        reclaim: class.reclaim,
        mount_options: &class.mount_options,
        server: source.server_name(),
        path: &source.volume_path(&path),
        fate: class.parameters.fate,
        fate_of_claim,
        finalizer: scope.may_patch && class.reclaim == ReclaimPolicy::Delete,
    };
    let volume = volume.write();
    let across = scope.share || class.parameters.share;
    let directory = Location { export, path };
    let (gids, most) = (class.parameters.gids, needs.most(headrooms.get(export)));
    Ok(Planned { directory, volume, across, ownership, gids, request: bytes, most, copy_of })
}

/// What a claim's annotation says. An empty one is one that is not set, as with parameters.
fn said<'a>(claim: &'a Claim, annotation: &str) -> Option<&'a str> {
    claim.annotations.get(annotation).map(String::as_str).filter(|value| !value.is_empty())
}

/// What a claim says is to happen to its directory.
fn fate_of_claim(claim: &Claim, class: &Class) -> Result<Option<Fate>, BadAnnotation> {
    let annotation = annotation::ON_DELETE;
    let Some(value) = said(claim, annotation) else { return Ok(None) };
    match value.parse() {
        Ok(fate) if class.parameters.claim_fates.contains(&fate) => Ok(Some(fate)),
        Ok(_) => {
            let parameter = parameter::CLAIM_ON_DELETE;
            Err(BadAnnotation::NotAllowed { annotation, value: value.into(), parameter })
        }
        Err(()) => Err(BadAnnotation::Wrong { annotation, value: value.into(), expected: FATE }),
    }
}

/// What a claim's directory is to be like: what the class says, and the claim where the class lets it.
fn ownership(claim: &Claim, class: &Class) -> Result<Ownership, BadAnnotation> {
    let mut ownership = class.parameters.ownership;
    for aspect in Aspect::ALL {
        let annotation = aspect.annotation();
        let Some(value) = said(claim, annotation) else { continue };
        let expected = aspect.expected();
        let wrong = || BadAnnotation::Wrong { annotation, value: value.into(), expected };
        ownership = aspect.say(value, ownership).ok_or_else(wrong)?;
        if !class.parameters.claim_aspects.contains(&aspect) {
            let parameter = parameter::CLAIM_OWNERSHIP;
            return Err(BadAnnotation::NotAllowed { annotation, value: value.into(), parameter });
        }
    }
    Ok(ownership)
}

/// Where a claim's directory lies: where the class's pattern says, unless that renders nothing (behaviour 3.2).
fn directory(claim: &Claim, class: &Class) -> Result<RelPath, ClaimRefusal> {
    let volume = claim.volume_name();
    let facts = Facts {
        name: &claim.name,
        namespace: &claim.namespace,
        labels: &claim.labels,
        annotations: &claim.annotations,
        volume: &volume,
        class: &claim.class,
    };
    let pattern = class.parameters.pattern.as_ref();
    let strict = pattern.filter(|_| class.parameters.strict);
    if let Some(token) = strict.and_then(|pattern| pattern.without_value(&facts)) {
        return Err(ClaimRefusal::NoValue(token.into()));
    }
    let rendered = pattern.map(|pattern| pattern.render(&facts)).unwrap_or_default();
    let (text, parsed) = if rendered.is_empty() {
        let parsed = default_directory(&claim.namespace, &claim.name, &volume);
        (volume, parsed)
    } else {
        let parsed = new_directory(&rendered);
        (rendered, parsed)
    };
    parsed.map_err(|error| ClaimRefusal::Path { rendered: text, error })
}
