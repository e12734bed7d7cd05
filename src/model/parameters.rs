//! StorageClass parameters, among them the fate of a volume's directory when its claim goes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::model::claim_restore::{CLAIM_RESTORE, ClaimRestore};
use crate::model::exports::Choice;
use crate::values::address::ExportAddress;
use crate::values::headroom::{Least, Requirements};
use crate::values::ownership::{Aspect, GidRange, Ownership, id};
use crate::values::pattern::Pattern;
use crate::values::retention::{Keep, Retention};
use crate::values::text::go_bool;

/// The fate of a volume's directory when the volume is reclaimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The directory is renamed to `archived-…` at the export's root.
    Archive,
    /// The directory is removed with everything in it.
    Delete,
    /// The directory stays as it is; only the volume is deleted.
    Retain,
}

impl Fate {
    /// All fates.
    pub const ALL: [Self; 3] = [Self::Archive, Self::Delete, Self::Retain];

    /// Returns the fate's spelling in parameters and annotations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Delete => "delete",
            Self::Retain => "retain",
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Fate {
    type Err = ();

    /// Reads a fate in small or capital letters, with blanks around it or not, as csi-driver-nfs does: `Retain` must
    /// not be taken for nothing.
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|fate| fate.as_str().eq_ignore_ascii_case(text.trim())).ok_or(())
    }
}

/// The names of the class parameters that we know.
pub mod parameter {
    /// Sets the fate: `delete`, `retain` or `archive`. Counts before [`ARCHIVE_ON_DELETE`].
    pub const ON_DELETE: &str = "onDelete";
    /// Tells whether directories are archived rather than removed; a Go bool, true if unset.
    pub const ARCHIVE_ON_DELETE: &str = "archiveOnDelete";
    /// Sets the directory of each claim; see [`crate::values::pattern`].
    pub const PATH_PATTERN: &str = "pathPattern";
    /// Lets claims have directories at, in or above those of other namespaces; a Go bool, false if unset.
    pub const SHARE_ACROSS_NAMESPACES: &str = "shareAcrossNamespaces";
    /// Names the export for volumes, or several, of which each volume gets the one with the most room.
    pub const EXPORT: &str = "export";
    /// Names the export's server, under the name that csi-driver-nfs has for it. Used with [`SHARE`], instead of
    /// [`EXPORT`].
    pub const SERVER: &str = "server";
    /// Names the export's path on [`SERVER`].
    pub const SHARE: &str = "share";
    /// Tells whether each token of [`PATH_PATTERN`] must have a value; a Go bool, false if unset.
    pub const STRICT_PATH_PATTERN: &str = "strictPathPattern";
    /// Lists the fates that a claim may choose, separated by commas; none if unset.
    pub const CLAIM_ON_DELETE: &str = "claimOnDelete";
    /// Sets the mode of volumes' directories, in octal.
    pub const DIRECTORY_MODE: &str = "directoryMode";
    /// Sets the owner of volumes' directories.
    pub const DIRECTORY_UID: &str = "directoryUid";
    /// Sets the group of volumes' directories.
    pub const DIRECTORY_GID: &str = "directoryGid";
    /// Sets the groups of which each volume gets its own, as `<first>-<last>`.
    pub const GID_RANGE: &str = "gidRange";
    /// Lists which of mode, uid and gid a claim may choose, separated by commas; none if unset.
    pub const CLAIM_OWNERSHIP: &str = "claimOwnership";
    /// Tells whether an existing directory keeps its mode, owner and group; a Go bool, false if unset.
    pub const ADOPT_AS_IS: &str = "adoptAsIs";
    /// Tells whether the volumes' notes are kept on the export; a Go bool, the setting `RECORD_VOLUMES` if unset.
    pub const RECORD_VOLUME: &str = "recordVolume";
    /// Sets for how long a deleted directory is kept in the trash; not at all if unset.
    pub const DELETE_RETENTION: &str = "deleteRetention";
    /// Sets the free space below which what [`DELETE_RETENTION`] keeps goes earlier; never if unset.
    pub const DELETE_RETENTION_MIN_FREE: &str = "deleteRetentionMinFree";
    /// Sets for how long an archive is kept; for ever if unset.
    pub const ARCHIVE_RETENTION: &str = "archiveRetention";
    /// Tells whether claims get back what was archived or deleted: `off`, `onRequest` or `always`.
    pub const CLAIM_RESTORE: &str = "claimRestore";
    pub use crate::values::headroom::{MAX_OVERCOMMIT, MIN_FREE_INODES, MIN_FREE_SPACE};
    /// All parameters.
    pub const ALL: [&str; 23] = [
        ON_DELETE,
        ARCHIVE_ON_DELETE,
        PATH_PATTERN,
        SHARE_ACROSS_NAMESPACES,
        EXPORT,
        SERVER,
        SHARE,
        STRICT_PATH_PATTERN,
        CLAIM_ON_DELETE,
        DIRECTORY_MODE,
        DIRECTORY_UID,
        DIRECTORY_GID,
        GID_RANGE,
        CLAIM_OWNERSHIP,
        ADOPT_AS_IS,
        RECORD_VOLUME,
        MIN_FREE_SPACE,
        MIN_FREE_INODES,
        MAX_OVERCOMMIT,
        DELETE_RETENTION,
        DELETE_RETENTION_MIN_FREE,
        ARCHIVE_RETENTION,
        CLAIM_RESTORE,
    ];
}

/// A class parameter with an invalid value. The text names the parameter and says what would be valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadParameter {
    /// The value is none of the three fates.
    #[error("parameter onDelete is {0:?}, but must be \"delete\", \"retain\" or \"archive\"")]
    OnDelete(Box<str>),
    /// The value is not a bool as Go reads it.
    #[error("parameter archiveOnDelete is {0:?}, but must be \"true\" or \"false\"")]
    ArchiveOnDelete(Box<str>),
    /// A parameter that sets the fate, or keeps what is deleted, is spelled in another way, and so has no effect.
    #[error("parameter {found:?} has no effect, but must be spelled {meant:?}")]
    Spelling {
        /// The name as it is spelled.
        found: Box<str>,
        /// The name of the parameter that is certainly meant.
        meant: &'static str,
    },
    /// The values are not a server and a path, only one of them is set, or an export is named as well.
    #[error("parameters server and share {0}")]
    ServerShare(Box<str>),
    /// Another parameter, one without influence on the fate of a directory, is invalid.
    #[error("parameter {parameter} is {value:?}, but must be {expected}")]
    Value {
        /// The parameter's name.
        parameter: &'static str,
        /// The parameter's value.
        value: Box<str>,
        /// The valid values, in words.
        expected: &'static str,
    },
    /// A strict pattern has an unknown token.
    #[error("parameter pathPattern has the unknown token {0:?}, which parameter strictPathPattern forbids")]
    Token(Box<str>),
}

impl BadParameter {
    /// Tells whether the invalid value leaves the fate of an existing volume's directory in doubt.
    #[must_use]
    pub fn concerns_fate(&self) -> bool {
        match self {
            Self::OnDelete(_) | Self::ArchiveOnDelete(_) | Self::Spelling { .. } => true,
            // What was to be kept for some time must not go at once.
            Self::Value { parameter, .. } if *parameter == parameter::DELETE_RETENTION => true,
            Self::ServerShare(_) | Self::Value { .. } | Self::Token(_) => false,
        }
    }
}

/// The valid values of a fate, in words.
pub const FATE: &str = "\"delete\", \"retain\" or \"archive\"";

/// The valid lists of fates, in words.
const FATES: &str = "a list of \"delete\", \"retain\" and \"archive\", separated by commas";

/// The valid lists of aspects, in words.
const ASPECTS: &str = "a list of \"mode\", \"uid\" and \"gid\", separated by commas";

/// The valid ranges of groups, in words.
const GIDS: &str = "two numbers from 1 to 2147483647 with a hyphen between them, such as \"50000-59999\"";

/// The only valid range of groups beside parameters that contradict one, in words.
const NO_GIDS: &str = "unset where directoryGid or adoptAsIs is set, or claimOwnership contains \"gid\"";

/// The valid choices of exports, in words.
const EXPORTS: &str = "the name of an export, or several names separated by commas";

/// The valid values of the least free space, in words.
const SPACE: &str = "a quantity such as \"50Gi\", or a part of the export's size such as \"10%\"";

/// The valid values of the least number of free inodes, in words.
const INODES: &str = "a number such as \"10000\", or a part of the export's inodes such as \"5%\"";

/// The valid ratios, in words.
const RATIO: &str = "a number above 0 such as \"1.5\" or \"150%\"";

/// The valid times to keep something, in words.
pub const RETENTION: &str = "a whole number with one of the units \"s\", \"m\", \"h\", \"d\" and \"w\", such as \"30d\", \
                             of 100 years at most";

/// The only valid least free space beside no time to keep what is deleted, in words.
const NO_MIN_FREE: &str = "unset where deleteRetention is unset";

/// The valid bools, in words.
const BOOL: &str = "\"true\" or \"false\"";

/// The parameters of a class, as far as we know them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// The pattern for directories; `None` for the default name.
    pub pattern: Option<Pattern>,
    /// Whether each of the pattern's tokens must have a value.
    pub strict: bool,
    /// The fate of a volume's directory when the volume is reclaimed.
    pub fate: Fate,
    /// The value of [`parameter::ON_DELETE`] if it is valid, but is not spelled in small letters alone. Upstream takes
    /// such a value for none.
    pub unusual_on_delete: Option<Box<str>>,
    /// The fates that a claim may choose for its volume instead.
    pub claim_fates: Vec<Fate>,
    /// Whether a claim may have a directory at, in or above one of another namespace.
    pub share: bool,
    /// The export on which volumes are made.
    pub export: Choice,
    /// Mode, owner and group of directories.
    pub ownership: Ownership,
    /// The aspects of the ownership that a claim may set.
    pub claim_aspects: Vec<Aspect>,
    /// The groups of which each volume gets its own.
    pub gid_range: Option<GidRange>,
    /// The demands on an export before a volume is made there, or grows.
    pub requirements: Requirements,
    /// Whether volumes' notes are kept on the export, if the class says so.
    pub record: Option<bool>,
    /// For how long a deleted directory is kept in the trash; `None` if it is not.
    pub keep: Option<Keep>,
    /// For how long an archive is kept; `None` for ever.
    pub archive_retention: Option<Retention>,
    /// Whether claims get back what was archived or deleted.
    pub claim_restore: ClaimRestore,
    /// The invalid parameters. A claim is refused for any of them, except for those of [`Parameters::doubt`]. For a
    /// volume that exists, an invalid parameter counts as unset, and one that leaves its fate in doubt never has data
    /// deleted, whatever else is set.
    pub wrong: Vec<BadParameter>,
    /// The parameters that are not known. One may be a typo on which a volume's fate depends.
    pub unknown: Vec<Box<str>>,
}

/// How long a class keeps data, as volumes record it, verbatim. They are annotations there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordedRetention {
    /// For how long what is deleted is kept in the trash.
    pub delete: Option<Box<str>>,
    /// The free space below which that goes earlier.
    pub delete_min_free: Option<Box<str>>,
    /// For how long archives are kept.
    pub archive: Option<Box<str>>,
}

/// Finds the parameter that is meant by one that is spelled almost like it: with other capitals, hyphens or blanks.
/// Only for those that set the fate, or have data kept that would go: any other one has no effect where it is
/// misspelled, and destroys nothing.
fn meant_by(key: &str) -> Option<&'static str> {
    let plain = |text: &str| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    };
    [parameter::ON_DELETE, parameter::ARCHIVE_ON_DELETE, parameter::DELETE_RETENTION]
        .into_iter()
        .find(|meant| *meant != key && plain(meant) == plain(key))
}

impl Parameters {
    /// Returns the first invalid parameter that leaves the fate of volumes' directories in doubt. Claims are served
    /// nevertheless, as upstream does, because nothing is lost by that: their directories are archived at the most.
    #[must_use]
    pub fn doubt(&self) -> Option<&BadParameter> {
        self.wrong.iter().find(|bad| bad.concerns_fate())
    }

    /// Returns the invalid parameter that leaves in doubt for how long what is deleted is to be kept, if there is
    /// one.
    #[must_use]
    pub fn doubt_of_retention(&self) -> Option<&BadParameter> {
        self.wrong.iter().find(|bad| match bad {
            BadParameter::Value { parameter, .. } => *parameter == parameter::DELETE_RETENTION,
            BadParameter::Spelling { meant, .. } => *meant == parameter::DELETE_RETENTION,
            BadParameter::OnDelete(_)
            | BadParameter::ArchiveOnDelete(_)
            | BadParameter::ServerShare(_)
            | BadParameter::Token(_) => false,
        })
    }

    /// Returns what a new volume records of how long its class keeps data. What is in doubt is recorded as it is, to
    /// be in doubt later as well.
    #[must_use]
    pub fn recorded_retention(&self) -> RecordedRetention {
        let doubt = match self.doubt_of_retention() {
            Some(BadParameter::Value { value: said, .. } | BadParameter::Spelling { found: said, .. }) => {
                Some(said)
            }
            _ => None,
        };
        let keep = self.keep.as_ref();
        let text = |value: &dyn fmt::Display| Box::from(value.to_string());
        RecordedRetention {
            delete: doubt.cloned().or_else(|| keep.map(|keep| text(&keep.retention()))),
            delete_min_free: keep.and_then(Keep::min_free).map(|least| text(least)),
            archive: self.archive_retention.map(|retention| text(&retention)),
        }
    }

    /// Returns the first invalid parameter for which claims are refused.
    #[must_use]
    pub fn obstacle(&self) -> Option<&BadParameter> {
        self.wrong.iter().find(|bad| !bad.concerns_fate())
    }
}

impl Parameters {
    /// Reads a class's parameters. An empty value counts as unset.
    #[must_use]
    pub fn read(parameters: &BTreeMap<String, String>) -> Self {
        let value = |key| parameters.get(key).map(String::as_str).filter(|value| !value.is_empty());
        let mut wrong = Vec::new();
        let on_delete = value(parameter::ON_DELETE).and_then(|text| {
            text.parse::<Fate>().map_err(|()| wrong.push(BadParameter::OnDelete(text.into()))).ok()
        });
        let archive = value(parameter::ARCHIVE_ON_DELETE).and_then(|text| {
            go_bool(text).ok_or_else(|| wrong.push(BadParameter::ArchiveOnDelete(text.into()))).ok()
        });
        let misspelled = parameters
            .keys()
            .filter_map(|key| Some(BadParameter::Spelling { found: key.as_str().into(), meant: meant_by(key)? }));
        wrong.extend(misspelled);
        let mut reader = Reader { value, wrong };
        let retention = reader.read(parameter::DELETE_RETENTION, RETENTION, |text| text.parse::<Retention>().ok());
        // An onDelete that is unset leaves it to archiveOnDelete, as with upstream. No value means archive, and so does
        // one that cannot be read.
        let otherwise = if archive == Some(false) { Fate::Delete } else { Fate::Archive };
        let fate = match on_delete.unwrap_or(otherwise) {
            Fate::Delete if !reader.wrong.is_empty() => Fate::Archive,
            fate @ (Fate::Archive | Fate::Delete | Fate::Retain) => fate,
        };
        let unusual_on_delete =
            value(parameter::ON_DELETE).filter(|text| on_delete.is_some_and(|fate| fate.as_str() != *text));
        let pattern = value(parameter::PATH_PATTERN).map(Pattern::parse);
        let keep = reader.read_keep(retention);
        let archive_retention = reader.read(parameter::ARCHIVE_RETENTION, RETENTION, |text| text.parse().ok());
        let share = reader.read(parameter::SHARE_ACROSS_NAMESPACES, BOOL, go_bool).unwrap_or_default();
        let export = reader.read_choice();
        let strict = reader.read(parameter::STRICT_PATH_PATTERN, BOOL, go_bool).unwrap_or_default();
        let claim_fates = reader.read(parameter::CLAIM_ON_DELETE, FATES, list).unwrap_or_default();
        let (ownership, claim_aspects, gid_range) = reader.read_ownership();
        let requirements = Requirements {
            space: reader.read(parameter::MIN_FREE_SPACE, SPACE, |text| text.parse().ok()),
            inodes: reader.read(parameter::MIN_FREE_INODES, INODES, |text| text.parse().ok()),
            ratio: reader.read(parameter::MAX_OVERCOMMIT, RATIO, |text| text.parse().ok()),
        };
        let record = reader.read(parameter::RECORD_VOLUME, BOOL, go_bool);
        let claim_restore = reader.read(parameter::CLAIM_RESTORE, CLAIM_RESTORE, |text| text.parse().ok());
        let mut wrong = reader.wrong;
        if let Some(token) = pattern.as_ref().filter(|_| strict).and_then(Pattern::unknown) {
            wrong.push(BadParameter::Token(token.into()));
        }
        let unknown = parameters.keys().filter(|key| !parameter::ALL.contains(&key.as_str()));
        Self {
            pattern,
            strict,
            fate,
            unusual_on_delete: unusual_on_delete.map(Into::into),
            claim_fates,
            share,
            export,
            ownership,
            claim_aspects,
            gid_range,
            requirements,
            record,
            keep,
            archive_retention,
            claim_restore: claim_restore.unwrap_or_default(),
            wrong,
            unknown: unknown.map(|key| key.as_str().into()).collect(),
        }
    }
}

/// Parses a list of items separated by commas, with blanks around them or not.
fn list<T: FromStr>(text: &str) -> Option<Vec<T>> {
    text.split(',').map(|item| item.trim().parse().ok()).collect()
}

/// Parses a choice of exports: a list of names, none of them empty.
fn named(text: &str) -> Option<Choice> {
    let names: Vec<Box<str>> = text.split(',').map(|name| name.trim().into()).collect();
    names.iter().all(|name| !name.is_empty()).then_some(Choice::Named(names))
}

/// Reads parameters one by one, and notes the invalid ones.
struct Reader<F> {
    value: F,
    wrong: Vec<BadParameter>,
}

impl<'a, F: Fn(&'static str) -> Option<&'a str>> Reader<F> {
    /// Reads a parameter; `None` if it is unset or invalid.
    fn read<T>(
        &mut self,
        parameter: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let text = (self.value)(parameter)?;
        let parsed = parse(text);
        if parsed.is_none() {
            self.wrong.push(BadParameter::Value { parameter, value: text.into(), expected });
        }
        parsed
    }

    /// Reads how what is deleted is kept, for how long that is being known.
    fn read_keep(&mut self, retention: Option<Retention>) -> Option<Keep> {
        let least = self.read(parameter::DELETE_RETENTION_MIN_FREE, SPACE, |text| text.parse::<Least>().ok());
        if (self.value)(parameter::DELETE_RETENTION).is_none() {
            // Whoever sets it takes what is deleted for kept.
            self.read(parameter::DELETE_RETENTION_MIN_FREE, NO_MIN_FREE, |_| None::<Least>);
        }
        retention.map(|retention| Keep::new(retention, least.as_ref()))
    }

    /// Reads the export on which volumes are made.
    fn read_choice(&mut self) -> Choice {
        let (server, path) = ((self.value)(parameter::SERVER), (self.value)(parameter::SHARE));
        let contradiction = match ((self.value)(parameter::EXPORT), server, path) {
            (_, None, None) => return self.read(parameter::EXPORT, EXPORTS, named).unwrap_or_default(),
            (None, Some(server), Some(path)) => match (ExportAddress::server(server), ExportAddress::path(path)) {
                (Ok(server), Ok(path)) => return Choice::At { server, path },
                (Err(words), _) => format!("name no export: server {words}"),
                (_, Err(words)) => format!("name no export: share {words}"),
            },
            (None, _, _) => "must be set together".to_owned(),
            (Some(_), _, _) => "must not be set beside the parameter export".to_owned(),
        };
        self.wrong.push(BadParameter::ServerShare(contradiction.into()));
        Choice::First
    }

    fn read_ownership(&mut self) -> (Ownership, Vec<Aspect>, Option<GidRange>) {
        let mut of = Ownership {
            keep: self.read(parameter::ADOPT_AS_IS, BOOL, go_bool).unwrap_or_default(),
            ..Ownership::default()
        };
        of.mode = self.read(parameter::DIRECTORY_MODE, Aspect::Mode.expected(), |text| text.parse().ok());
        of.uid = self.read(parameter::DIRECTORY_UID, Aspect::Uid.expected(), id);
        of.gid = self.read(parameter::DIRECTORY_GID, Aspect::Gid.expected(), id);
        let aspects: Vec<Aspect> = self.read(parameter::CLAIM_OWNERSHIP, ASPECTS, list).unwrap_or_default();
        let gids = self.read(parameter::GID_RANGE, GIDS, |text| text.parse().ok());
        if of.gid.is_some() || of.keep || aspects.contains(&Aspect::Gid) {
            // Beside those no range is valid.
            self.read(parameter::GID_RANGE, NO_GIDS, |_| None::<GidRange>);
        }
        (of, aspects, gids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(on_delete: Option<&str>, archive: Option<&str>) -> Parameters {
        let pairs = [(parameter::ON_DELETE, on_delete), (parameter::ARCHIVE_ON_DELETE, archive)];
        let map = pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect();
        Parameters::read(&map)
    }

    #[test]
    fn fates_are_spelled_as_they_are_read() {
        for fate in Fate::ALL {
            assert_eq!(fate.to_string().parse(), Ok(fate));
        }
        for (text, expected) in
            [("Retain", Fate::Retain), (" DELETE\n", Fate::Delete), ("aRchive ", Fate::Archive)]
        {
            assert_eq!(text.parse(), Ok(expected), "{text:?}");
        }
        for text in ["", " ", "true", "keep", "de lete", "deleted", "rétain"] {
            assert_eq!(text.parse::<Fate>(), Err(()), "{text:?}");
        }
    }

    #[test]
    fn on_delete_beats_archive_on_delete() {
        let rows = [
            (None, None, Fate::Archive),
            (None, Some("true"), Fate::Archive),
            (None, Some("T"), Fate::Archive),
            (None, Some("false"), Fate::Delete),
            (None, Some("0"), Fate::Delete),
            (None, Some(""), Fate::Archive),
            (Some(""), Some("false"), Fate::Delete),
            (Some("delete"), Some("true"), Fate::Delete),
            (Some("delete"), None, Fate::Delete),
            (Some("retain"), Some("false"), Fate::Retain),
            (Some("archive"), Some("false"), Fate::Archive),
            // In any case, as csi-driver-nfs reads it.
            (Some("Retain"), Some("false"), Fate::Retain),
            (Some("Archive "), Some("false"), Fate::Archive),
            (Some("Delete"), None, Fate::Delete),
        ];
        for (on_delete, archive, expected) in rows {
            let found = read(on_delete, archive);
            assert_eq!((found.fate, found.wrong.len()), (expected, 0), "{on_delete:?} {archive:?}");
        }
    }

    #[test]
    fn a_value_that_upstream_takes_for_none_is_noted() {
        for text in ["Delete", "DELETE", " delete", "Retain", "archive "] {
            assert_eq!(read(Some(text), None).unusual_on_delete.as_deref(), Some(text));
        }
        for text in ["delete", "retain", "archive", "", "keep"] {
            assert_eq!(read(Some(text), None).unusual_on_delete, None, "{text:?}");
        }
    }

    #[test]
    fn bad_values_are_named_and_never_destroy_whatever_else_is_set() {
        let rows = [
            (Some("true"), None, Fate::Archive, "onDelete"),
            (Some("keep"), Some("false"), Fate::Archive, "onDelete"),
            (Some("keep"), Some("true"), Fate::Archive, "onDelete"),
            (Some(" "), Some("false"), Fate::Archive, "onDelete"),
            (None, Some("no"), Fate::Archive, "archiveOnDelete"),
            (None, Some("FALSE "), Fate::Archive, "archiveOnDelete"),
            (Some("delete"), Some("yes"), Fate::Archive, "archiveOnDelete"),
            (Some("retain"), Some("yes"), Fate::Retain, "archiveOnDelete"),
        ];
        for (on_delete, archive, expected, named) in rows {
            let found = read(on_delete, archive);
            assert_eq!(found.fate, expected, "{on_delete:?} {archive:?}");
            let words = found.doubt().map(ToString::to_string).unwrap_or_default();
            assert!(words.contains(&format!("parameter {named} is ")), "{words}");
            assert_eq!(found.obstacle(), None);
        }
    }

    #[test]
    fn what_is_almost_spelled_like_a_fate_never_destroys() {
        let rows: &[(Set<'_>, Fate, &str)] = &[
            (&[("ondelete", "retain"), ("archiveOnDelete", "false")], Fate::Archive, "onDelete"),
            (&[("on-delete", "Retain"), ("archiveOnDelete", "false")], Fate::Archive, "onDelete"),
            (&[("OnDelete", "delete")], Fate::Archive, "onDelete"),
            (&[("archiveondelete", "false")], Fate::Archive, "archiveOnDelete"),
            (&[("archiveOnDelete ", "true"), ("onDelete", "delete")], Fate::Archive, "archiveOnDelete"),
            (&[("archive_on_delete", "false"), ("onDelete", "retain")], Fate::Retain, "archiveOnDelete"),
        ];
        for (rows, fate, meant) in rows {
            let map = rows.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let found = Parameters::read(&map);
            let words = found.doubt().map(ToString::to_string).unwrap_or_default();
            assert_eq!(found.fate, *fate, "{rows:?}");
            assert!(words.ends_with(&format!("must be spelled {meant:?}")), "{words}");
        }
        // Others have no effect, and leave nothing in doubt.
        for key in ["onDelet", "pathpattern", "on", ""] {
            let found = Parameters::read(&BTreeMap::from([(key.to_owned(), "delete".to_owned())]));
            assert_eq!((found.fate, found.wrong.len(), found.unknown.len()), (Fate::Archive, 0, 1), "{key:?}");
        }
    }

    type Set<'a> = &'a [(&'a str, &'a str)];

    #[test]
    fn an_export_is_chosen_by_name_or_by_place() {
        let named = |names: &[&str]| Ok(Choice::Named(names.iter().map(|name| (*name).into()).collect()));
        let rows: &[(Set<'_>, Result<Choice, &str>)] = &[
            (&[], Ok(Choice::First)),
            (&[("export", "")], Ok(Choice::First)),
            (&[("export", "fast")], named(&["fast"])),
            (&[("export", "fast, far")], named(&["fast", "far"])),
            (&[("server", "nas"), ("share", "/x/")], Ok(Choice::At { server: "nas".into(), path: "/x".into() })),
            (&[("export", "fast,")], Err("parameter export is \"fast,\"")),
            (&[("export", ",")], Err("parameter export")),
            (&[("server", "nas")], Err("together")),
            (&[("share", "/x")], Err("together")),
            (&[("server", "nas"), ("share", "x")], Err("absolute path")),
            (&[("server", "n s"), ("share", "/x")], Err("host name")),
            (&[("server", "nas"), ("share", "/x"), ("export", "fast")], Err("beside")),
        ];
        for (rows, expected) in rows {
            let map = rows.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let found = Parameters::read(&map);
            match expected {
                Ok(expected) => assert_eq!((&found.export, found.wrong.len()), (expected, 0), "{rows:?}"),
                Err(words) => {
                    let wrong = found.wrong.first().map(ToString::to_string).unwrap_or_default();
                    assert!(wrong.contains(words), "{rows:?}: {wrong}");
                }
            }
        }
    }

    #[test]
    fn lists_have_commas_and_blanks_and_nothing_empty() {
        use Fate::{Archive, Delete, Retain};
        let rows: &[(&str, &[Fate], usize)] = &[
            ("", &[], 0),
            ("retain", &[Retain], 0),
            ("archive,retain", &[Archive, Retain], 0),
            (" delete , retain", &[Delete, Retain], 0),
            ("retain,", &[], 1),
            ("retain,Archive", &[Retain, Archive], 0),
            ("retain,keep", &[], 1),
            ("retain archive", &[], 1),
            (",", &[], 1),
        ];
        for (text, expected, wrong) in rows {
            let map = BTreeMap::from([(parameter::CLAIM_ON_DELETE.to_owned(), (*text).to_owned())]);
            let found = Parameters::read(&map);
            assert_eq!((&*found.claim_fates, found.wrong.len()), (*expected, *wrong), "{text:?}");
        }
    }

    #[test]
    fn ownership_is_read_and_what_contradicts_itself_is_wrong() {
        let read = |pairs: &[(&str, &str)]| {
            Parameters::read(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        let found = read(&[("directoryMode", "2750"), ("directoryUid", "0"), ("directoryGid", "100")]);
        assert_eq!((found.ownership.mode, found.ownership.uid), ("2750".parse().ok(), Some(0)));
        assert_eq!((found.ownership.gid, found.ownership.keep, found.wrong.len()), (Some(100), false, 0));
        let found = read(&[("gidRange", "500-600"), ("directoryMode", "0770"), ("claimOwnership", "uid, mode")]);
        assert_eq!((found.gid_range, found.wrong.len()), ("500-600".parse().ok(), 0));
        assert_eq!(found.claim_aspects, [Aspect::Uid, Aspect::Mode]);
        assert_eq!(read(&[]).ownership, Ownership::default());
        let rows: &[(&[(&str, &str)], &str)] = &[
            (&[("directoryMode", "rwx")], "directoryMode is \"rwx\", but must be an octal mode"),
            (&[("directoryUid", "-1")], "directoryUid is \"-1\", but must be a number"),
            (&[("directoryGid", "staff")], "directoryGid is \"staff\", but must be a number"),
            (&[("gidRange", "500")], "gidRange is \"500\", but must be two numbers"),
            (&[("claimOwnership", "mode,owner")], "claimOwnership is \"mode,owner\", but must be a list of"),
            (&[("adoptAsIs", "yes")], "adoptAsIs is \"yes\", but must be \"true\" or"),
            (&[("gidRange", "5-6"), ("directoryGid", "5")], "gidRange is \"5-6\", but must be unset where"),
            (&[("gidRange", "5-6"), ("adoptAsIs", "true")], "gidRange is \"5-6\", but must be unset where"),
            (&[("gidRange", "5-6"), ("claimOwnership", "gid")], "gidRange is \"5-6\", but must be unset where"),
        ];
        for (pairs, words) in rows {
            let wrong: Vec<String> = read(pairs).wrong.iter().map(ToString::to_string).collect();
            assert!(matches!(&*wrong, [one] if one.contains(words)), "{wrong:?}");
        }
    }

    #[test]
    fn retentions_are_read_and_a_bad_one_never_has_data_go_earlier() {
        let read = |pairs: &[(&str, &str)]| {
            Parameters::read(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        let found = read(&[("deleteRetention", "30d"), ("archiveRetention", "12h"), ("onDelete", "delete")]);
        assert_eq!((found.fate, found.wrong.len()), (Fate::Delete, 0));
        assert_eq!(found.keep, Some(Keep::new("30d".parse().unwrap(), None)));
        assert_eq!(found.archive_retention, "12h".parse().ok());
        let found = read(&[("deleteRetention", "1h"), ("deleteRetentionMinFree", "5Gi")]);
        assert_eq!(found.keep.unwrap().min_free().unwrap().to_string(), "5368709120");
        let unset = read(&[("deleteRetention", ""), ("archiveRetention", ""), ("deleteRetentionMinFree", "")]);
        assert_eq!((unset.keep, unset.archive_retention, unset.wrong.len()), (None, None, 0));
        let rows: &[(Set<'_>, bool, &str)] = &[
            (&[("deleteRetention", "30")], true, "deleteRetention is \"30\", but must be a whole number"),
            (&[("deleteRetention", "0d")], true, "deleteRetention is \"0d\""),
            (
                &[("deleteRetention", "1h"), ("deleteRetentionMinFree", "x")],
                false,
                "deleteRetentionMinFree is \"x\"",
            ),
            (&[("deleteRetentionMinFree", "10%")], false, "must be unset where deleteRetention is unset"),
            (&[("archiveRetention", "soon")], false, "archiveRetention is \"soon\", but must be a whole number"),
            (&[("deleteretention", "30d")], true, "must be spelled \"deleteRetention\""),
            (&[("DeleteRetention", "30d"), ("deleteRetention", "1h")], true, "spelled \"deleteRetention\""),
        ];
        for (pairs, is_doubt, words) in rows {
            let found = read(&[*pairs, &[("onDelete", "delete")]].concat());
            let expected = if *is_doubt { Fate::Archive } else { Fate::Delete };
            assert_eq!((found.fate, found.doubt().is_some()), (expected, *is_doubt), "{pairs:?}");
            let wrong: Vec<String> = found.wrong.iter().map(ToString::to_string).collect();
            assert!(matches!(&*wrong, [one] if one.contains(words)), "{wrong:?}");
            assert!(found.keep.is_none_or(|keep| keep.min_free().is_none()) && found.archive_retention.is_none());
        }
    }

    #[test]
    fn unknown_parameters_are_found() {
        let map = BTreeMap::from([("onDelet".to_owned(), "retain".to_owned())]);
        assert_eq!(&*Parameters::read(&map).unknown, &["onDelet".into()]);
        for known in parameter::ALL {
            let map = BTreeMap::from([(known.to_owned(), "true".to_owned())]);
            assert!(Parameters::read(&map).unknown.is_empty(), "{known}");
        }
    }
}
