//! The decision on a pending claim.

use crate::decide::choice::{Demand, There, choose};
use crate::decide::copy::{CopySource, Origin, copy_source};
use crate::decide::refusal::{BadAnnotation, ClaimRefusal};
use crate::decide::restore::{Entry, LATEST, Wish, wish};
use crate::decide::scope::Scope;
use crate::layout::{default_directory, new_directory};
use crate::ledger::placements::Conflict;
use crate::ledger::{Grant, ReserveError};
use crate::model::claim::{self, Claim, DataSource};
use crate::model::class::{Binding, Class};
use crate::model::exports::{Location, PerExport};
use crate::model::parameters::{BadParameter, FATE, Fate, parameter};
use crate::model::volume::{NewVolume, NfsSource, ReclaimPolicy, annotation, read_only};
use crate::values::headroom::Headroom;
use crate::values::ownership::{Aspect, GROUP_MODE, GidRange, Ownership};
use crate::values::path::{PathError, RelPath};
use crate::values::pattern::Facts;
use crate::values::quantity::bytes;

/// The facts on which a claim is decided.
#[derive(Debug)]
pub struct ClaimFacts<'a> {
    /// The claim.
    pub claim: &'a Claim,
    /// The class that the claim names, if it exists.
    pub class: Option<&'a Class>,
    /// The headroom that each export has for the claim.
    pub headrooms: &'a PerExport<Headroom>,
    /// What is known to be at the claim's path on each export; looked for where [`sought`] says so.
    pub there: &'a PerExport<There>,
    /// The facts about the source, if the claim is to be a copy.
    pub origin: &'a Origin,
}

/// The plan for a claim.
#[derive(Debug, PartialEq)]
pub enum ClaimPlan {
    /// Do nothing, and tell nobody.
    Ignore(ClaimIgnored),
    /// Do nothing, and tell the claim's author why.
    Refuse(ClaimRefusal),
    /// Make the directory, then create the volume.
    Provision(Box<Provision>),
}

/// The way in which a claim is served.
#[derive(Debug, Clone, PartialEq)]
pub struct Provision {
    /// The place of the directory.
    pub at: Location,
    /// The volume to create.
    pub volume: NewVolume,
    /// Whether the directory may be at, in or above one of another namespace.
    pub across: bool,
    /// The directory's mode and owners.
    pub ownership: Ownership,
    /// The range from which the volume gets a group that no other volume has.
    pub gid_range: Option<GidRange>,
    /// The number of bytes that the claim asks for.
    pub request: u64,
    /// The number of bytes that all volumes on the export may be promised together.
    pub limit: Option<u128>,
    /// The source, if the volume is to be a copy.
    pub copy_of: Option<CopySource>,
    /// What the claim wants back of what was archived or deleted.
    pub wish: Option<Wish>,
    /// What it gets back.
    pub restored: Option<Entry>,
    /// The class's parameter that leaves the fate of the volume's directory in doubt, for the claim's author to know.
    pub doubt: Option<BadParameter>,
}

impl Provision {
    /// Lets the volume be what was archived or deleted: its directory, with mode and owners as they are, and its group.
    #[must_use]
    pub fn restoring(mut self, entry: Entry) -> Self {
        self.volume.restored_from = Some(entry.name.clone());
        self.gid_range = None;
        self.restored = Some(entry);
        self
    }

    /// Applies what the ledger has granted: the volume and its directory get that group, and a directory that
    /// another volume shares keeps its mode and owners.
    #[must_use]
    pub fn granted(mut self, grant: Option<Grant>) -> Self {
        let Some(Grant { gid, shared }) = grant else { return self };
        self.volume.gid = Some(gid);
        self.ownership.gid = Some(gid);
        self.ownership.mode.get_or_insert(GROUP_MODE);
        self.ownership.keep |= shared;
        self
    }
}

/// Reasons to leave a claim alone in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimIgnored {
    /// The claim is being deleted.
    Deleting,
    /// No Pod that uses the claim is scheduled yet.
    WaitsForConsumer,
    /// The claim's data source is for a populator, which brings a volume of its own.
    Populated,
}

/// The consequence for a claim that the ledger has denied something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// The claim waits until what is in its place has been moved away.
    Moving,
    /// Other claims were promised the export's capacity first: look again.
    Promised,
    /// The claim is refused until another volume goes.
    Refused(ClaimRefusal),
}

/// Decides what follows for a claim that was denied the directory `at`.
#[must_use]
pub fn denied(error: ReserveError, at: &Location) -> Denial {
    match error {
        ReserveError::Directory(Conflict::Moving) => Denial::Moving,
        ReserveError::Promised => Denial::Promised,
        ReserveError::Directory(Conflict::OtherNamespace(relation)) => {
            Denial::Refused(ClaimRefusal::OtherNamespace { path: at.path.clone(), relation })
        }
        ReserveError::NoGidThere => Denial::Refused(ClaimRefusal::NoGroupThere(at.path.clone())),
        ReserveError::NoGidLeft(range) => Denial::Refused(ClaimRefusal::NoGroupLeft(range)),
    }
}

/// Reasons not to serve a claim.
enum Stop {
    Ignore(ClaimIgnored),
    Refuse(ClaimRefusal),
}

impl From<ClaimRefusal> for Stop {
    fn from(refusal: ClaimRefusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// Decides what to do for a pending claim.
#[must_use]
pub fn for_claim(facts: &ClaimFacts<'_>, scope: &Scope) -> ClaimPlan {
    match ours(facts.claim, facts.class, scope).and_then(|class| Ok(plan(facts, class, scope)?)) {
        Ok(provision) => ClaimPlan::Provision(Box::new(provision)),
        Err(Stop::Ignore(why)) => ClaimPlan::Ignore(why),
        Err(Stop::Refuse(why)) => ClaimPlan::Refuse(why),
    }
}

/// Returns the places where a claim's path has to be looked for before its export is chosen: if its class allows
/// several exports and gives it a path that others can have, too.
#[must_use]
pub fn sought(claim: &Claim, class: Option<&Class>, scope: &Scope) -> Vec<Location> {
    let Ok(class) = ours(claim, class, scope) else { return Vec::new() };
    if class.parameters.pattern.is_none() || class.parameters.obstacle().is_some() || is_possible(claim).is_err() {
        return Vec::new();
    }
    match (scope.exports.meant_by(&class.parameters.export), directory(claim, class)) {
        (Ok(meant), Ok(path)) if meant.len() > 1 => {
            meant.into_iter().map(|export| Location { export, path: path.clone() }).collect()
        }
        _ => Vec::new(),
    }
}

/// Finds the class by which the claim is served, if the claim is for us to serve now.
fn ours<'a>(claim: &Claim, class: Option<&'a Class>, scope: &Scope) -> Result<&'a Class, Stop> {
    if claim.deleting {
        return Err(Stop::Ignore(ClaimIgnored::Deleting));
    }
    if claim.source == Some(DataSource::Other) {
        return Err(Stop::Ignore(ClaimIgnored::Populated));
    }
    let class = class.ok_or(ClaimRefusal::NoClass)?;
    if !class.is_of(&scope.provisioner) {
        return Err(ClaimRefusal::ForeignClass(class.provisioner.clone()).into());
    }
    if class.binding == Binding::WaitForFirstConsumer && !claim.node_selected {
        return Err(Stop::Ignore(ClaimIgnored::WaitsForConsumer));
    }
    Ok(class)
}

fn plan(facts: &ClaimFacts<'_>, class: &Class, scope: &Scope) -> Result<Provision, ClaimRefusal> {
    let ClaimFacts { claim, headrooms, there, origin, .. } = *facts;
    is_possible(claim)?;
    if let Some(bad) = class.parameters.obstacle() {
        return Err(ClaimRefusal::Parameter(bad.clone()));
    }
    let requested = claim.request.as_ref().ok_or(ClaimRefusal::NoRequest)?;
    let path = directory(claim, class)?;
    let copy_of = match &claim.source {
        Some(DataSource::Claim(name)) => {
            let bad = |problem| ClaimRefusal::Source { name: name.clone(), problem };
            Some(copy_source(origin, claim, requested, scope).map_err(bad)?)
        }
        Some(DataSource::Abroad { .. } | DataSource::Snapshot(_) | DataSource::Other) | None => None,
    };
    let (requirements, request) = (&class.parameters.requirements, bytes(requested));
    let near = copy_of.as_ref().map(|source| source.at.export);
    let demand = Demand { choice: &class.parameters.export, requirements, request, near };
    let export = choose(&scope.exports, &demand, headrooms, there)?;
    let fate_of_claim = fate_of_claim(claim, class)?;
    let wish = wish(claim, class).map_err(|problem| {
        let name = said(claim, claim::annotation::RESTORE_FROM).unwrap_or(LATEST).into();
        ClaimRefusal::Restore { name, problem }
    })?;
    let ownership = ownership(claim, class)?;
    let address = &scope.exports.get(export).address;
    let options = &class.mount_options;
    let volume = NewVolume {
        claim: claim.claim.clone(),
        claim_version: claim.resource_version.clone(),
        class: claim.class.clone(),
        access_modes: claim.access_modes.clone(),
        request: requested.clone(),
        provisioner: scope.provisioner.as_str().into(),
        reclaim: class.reclaim,
        mount_options: if claim.only_reads() { read_only(options) } else { options.clone() },
        source: NfsSource { server: address.server_name().into(), path: address.volume_path(&path).into() },
        fate: class.parameters.fate,
        fate_of_claim,
        retention: class.parameters.recorded_retention(),
        gid: None,
        restored_from: None,
        finalizer: scope.may_patch.is_granted() && class.reclaim == ReclaimPolicy::Delete,
    };
    Ok(Provision {
        at: Location { export, path },
        volume,
        across: scope.share || class.parameters.share,
        ownership,
        gid_range: class.parameters.gid_range,
        request,
        limit: requirements.limit(headrooms.get(export)),
        copy_of,
        wish,
        restored: None,
        doubt: class.parameters.doubt().cloned(),
    })
}

/// Refuses claims that no NFS volume can satisfy.
fn is_possible(claim: &Claim) -> Result<(), ClaimRefusal> {
    if claim.lost {
        return Err(ClaimRefusal::Lost);
    }
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
        Some(DataSource::Abroad { namespace, name }) => {
            Err(ClaimRefusal::Abroad { namespace: namespace.clone(), name: name.clone() })
        }
        Some(DataSource::Snapshot(name)) => Err(ClaimRefusal::Snapshot(name.clone())),
        Some(DataSource::Claim(_) | DataSource::Other) | None => Ok(()),
    }
}

/// Returns the value of a claim's annotation. An empty one counts as unset, as with class parameters.
fn said<'a>(claim: &'a Claim, annotation: &str) -> Option<&'a str> {
    claim.annotations.get(annotation).map(String::as_str).filter(|value| !value.is_empty())
}

/// Reads the fate that a claim wants for its directory.
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

/// Reads the mode and owners of a claim's directory from the class, and from the claim where the class allows
/// that.
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

/// Finds the place of a claim's directory: the one that the class's pattern renders, or the default name if that
/// is empty, as upstream does.
fn directory(claim: &Claim, class: &Class) -> Result<RelPath, ClaimRefusal> {
    let volume = claim.volume_name();
    let facts = Facts {
        name: &claim.claim.name,
        namespace: &claim.claim.namespace,
        labels: &claim.labels,
        annotations: &claim.annotations,
        volume: volume.as_str(),
        class: claim.class.as_str(),
    };
    let pattern = class.parameters.pattern.as_ref();
    let strict = pattern.filter(|_| class.parameters.strict);
    if let Some(token) = strict.and_then(|pattern| pattern.without_value(&facts)) {
        return Err(ClaimRefusal::NoValue(token.into()));
    }
    let rendered = pattern.map(|pattern| pattern.render(&facts)).unwrap_or_default();
    let (text, parsed) = if rendered.is_empty() {
        let parsed = default_directory(&claim.claim.namespace, &claim.claim.name, volume.as_str());
        (volume.to_string(), parsed)
    } else {
        let parsed = new_directory(&rendered);
        (rendered, parsed)
    };
    parsed.map_err(|error| {
        if error == PathError::Reserved && text.starts_with(&*claim.claim.namespace) {
            return ClaimRefusal::NamedAsArchive(text.into());
        }
        ClaimRefusal::Path { rendered: text, error }
    })
}
