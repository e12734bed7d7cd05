//! What a claim gets back of what was archived, or deleted and kept: what it asks for, and what it may have.

use std::fmt;

use jiff::Timestamp;

use crate::decide::scope::Scope;
use crate::layout::{ClusterMark, Note};
use crate::ledger::GidRequest;
use crate::model::claim::{Claim, DataSource, annotation};
use crate::model::claim_restore::ClaimRestore;
use crate::model::class::Class;
use crate::model::exports::Location;
use crate::model::parameters::parameter;
use crate::values::names::ClaimRef;
use crate::values::ownership::GidRange;
use crate::values::path::RelPath;
use crate::values::retention::Keep;

/// The value of the claim's annotation that asks for the latest.
pub const LATEST: &str = "latest";

/// The time in seconds that something must still be kept for, to be brought back: whoever removes it may have another
/// clock.
pub const KEPT_MARGIN: i64 = 5 * 60;

/// What a claim wants back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// The archive, or the entry of the trash, of this name.
    Named(Box<str>),
    /// The latest of the claim's own namespace and name.
    Latest,
    /// The same, or an empty directory if there is none.
    LatestIfAny,
}

/// An archive, or an entry of the trash, that a claim gets back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Box<str>,
    /// Where it lies: where it was put away, or where an earlier round has brought it.
    pub lies_at: Location,
    /// The number of its inode, by which it is known wherever it lies.
    pub inode: u64,
    /// When the directory was put there.
    pub at: Option<Timestamp>,
    /// Its note.
    pub note: Note,
    /// For how long it is kept, if it is of the trash.
    pub keep: Option<Keep>,
    /// The claim that gets it.
    pub claim: ClaimRef,
}

impl Entry {
    /// Returns the group to ask for: the one that the files have, and no other.
    #[must_use]
    pub fn gid_request(&self) -> GidRequest {
        GidRequest { range: self.note.gid.and_then(GidRange::only), there: self.note.gid }
    }

    /// Returns the note with which it is put away again at the time `now`, from the path that it has: everything begins
    /// anew.
    #[must_use]
    pub fn note_again(&self, path: &RelPath, now: Timestamp) -> Note {
        let note = self.note.clone();
        let kept_for = note.kept_until.zip(note.archived).map(|(until, archived)| until.duration_since(archived));
        let kept_until = kept_for.and_then(|kept_for| now.checked_add(kept_for).ok());
        let note = Note { restored_from: None, inode: Some(self.inode), ..note };
        match self.keep {
            Some(_) => Note { directory: path.clone(), released: Some(now), archived: None, ..note },
            None => Note { archived: Some(now), kept_until: kept_until.or(self.note.kept_until), ..note },
        }
    }

    /// Says what it is, for the claim's author.
    #[must_use]
    pub fn in_words(&self) -> String {
        let name = &self.name;
        match self.at {
            // Nobody wants fractions of a second.
            Some(at) => format!(" with the data that was put away at {at:.0} as {name}"),
            None => format!(" with the data that was put away as {name}"),
        }
    }
}

/// Reasons why a claim gets nothing back. The text says what to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreProblem {
    /// The class does not let claims ask for it.
    NotAllowed,
    /// The claim is to be a copy of another one, too.
    Source,
    /// The provisioner does not know its own cluster's mark.
    NoMark,
    /// There is nothing of that name, or nothing that the claim may have. It is not said which: names of other namespaces
    /// are nobody's business.
    NotFound,
    /// It lies on several exports. The text says which.
    Several(Box<str>),
    /// A volume uses it, or somebody is bringing it back.
    InUse,
    /// Another volume has its group by now.
    GroupTaken(u32),
    /// There is a directory at the claim's path.
    PathTaken(RelPath),
}

impl RestoreProblem {
    /// Tells whether it can pass while the claim and its class stay as they are.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        !matches!(self, Self::NotAllowed | Self::Source)
    }
}

impl fmt::Display for RestoreProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_claim = annotation::RESTORE_FROM;
        match self {
            Self::NotAllowed => write!(
                f,
                "the class does not let claims ask for it: remove the annotation {of_claim}, or use a class with the \
                 parameter {} \"onRequest\"",
                parameter::CLAIM_RESTORE
            ),
            Self::Source => write!(
                f,
                "the claim is to be a copy by its spec.dataSource: remove that, or the annotation {of_claim}"
            ),
            Self::NoMark => f.write_str(
                "the provisioner cannot tell this cluster's notes from those of another one, because it may not read the \
                 namespace kube-system: grant it \"get\" on namespaces, as rbac/rbac.yaml does",
            ),
            Self::NotFound => f.write_str(
                "the exports of the class have none that is kept, and that a note tells to be of this namespace, cluster \
                 and provisioner. What has no such note, an administrator can bring back: nfs-provisioner archives \
                 restore",
            ),
            Self::Several(exports) => {
                write!(f, "there is one on each of the exports {exports}: use a class of one export")
            }
            Self::InUse => f.write_str("a volume uses it, or it is being brought back for another claim"),
            Self::GroupTaken(gid) => write!(
                f,
                "its files belong to the group {gid}, which another volume has by now: an administrator has to delete that \
                 volume first, or to bring this one back by nfs-provisioner archives restore"
            ),
            Self::PathTaken(path) => write!(
                f,
                "there is a directory {:?} at the claim's path already: remove the annotation {of_claim} to have that, or \
                 move it away",
                path.as_str()
            ),
        }
    }
}

/// Finds what a claim wants back, by its annotation and its class.
///
/// # Errors
/// Says why it cannot have it, whatever there is.
pub fn wish(claim: &Claim, class: &Class) -> Result<Option<Wish>, RestoreProblem> {
    let said = claim.annotations.get(annotation::RESTORE_FROM).map(|name| name.trim());
    let said = said.filter(|name| !name.is_empty());
    let is_copy = matches!(claim.source, Some(DataSource::Claim(_)));
    match (class.parameters.claim_restore, said) {
        (ClaimRestore::Off | ClaimRestore::OnRequest, None) => Ok(None),
        (ClaimRestore::Off, Some(_)) => Err(RestoreProblem::NotAllowed),
        (_, Some(_)) if is_copy => Err(RestoreProblem::Source),
        (_, Some(LATEST)) => Ok(Some(Wish::Latest)),
        (_, Some(name)) => Ok(Some(Wish::Named(name.into()))),
        (ClaimRestore::Always, None) => Ok((!is_copy).then_some(Wish::LatestIfAny)),
    }
}

/// Tells whether a claim may have what this note is of. Nobody but the note says whose it was, so the note must say it
/// in full.
#[must_use]
pub fn may_have(claim: &Claim, wish: &Wish, note: &Note, mark: &ClusterMark, scope: &Scope) -> bool {
    let says = |said: &Option<Box<str>>, expected: &str| said.as_deref() == Some(expected);
    let is_own = mark.is_known()
        && says(&note.cluster, mark.as_str())
        && says(&note.provisioner, &scope.provisioner)
        && says(&note.namespace, &claim.claim.namespace);
    is_own && (matches!(wish, Wish::Named(_)) || says(&note.claim, &claim.claim.name))
}
