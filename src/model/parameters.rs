//! StorageClass parameters, and what they make of a volume whose claim has gone (behaviour 3c).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::model::exports::Choice;
use crate::values::address::ExportAddress;
use crate::values::headroom::Requirements;
use crate::values::ownership::{Aspect, GidRange, Ownership, id};
use crate::values::pattern::Pattern;
use crate::values::text::go_bool;

/// What happens to the directory of a volume whose reclaim policy is `Delete`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is renamed to `archived-…` at the export's root.
    Archive,
    /// It is removed with all that is in it.
    Delete,
    /// It stays as it is; only the volume goes.
    Retain,
}

impl Fate {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Archive, Self::Delete, Self::Retain];

    /// As it is spelled in parameters and annotations.
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

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|fate| fate.to_string() == text).ok_or(())
    }
}

/// The names of the class parameters that we know.
pub mod parameter {
    /// `delete`, `retain` or `archive`; beats [`ARCHIVE_ON_DELETE`].
    pub const ON_DELETE: &str = "onDelete";
    /// A Go bool; unset is true.
    pub const ARCHIVE_ON_DELETE: &str = "archiveOnDelete";
    /// See [`crate::values::pattern`].
    pub const PATH_PATTERN: &str = "pathPattern";
    /// A Go bool; unset is false. Whether a claim may have a directory at, in or above one of another namespace.
    pub const SHARE_ACROSS_NAMESPACES: &str = "shareAcrossNamespaces";
    /// The name of the export that volumes are made on, or several, of which each is made on the one with most room.
    pub const EXPORT: &str = "export";
    /// With [`SHARE`], instead of [`EXPORT`]: the server of the export, as csi-driver-nfs spells it.
    pub const SERVER: &str = "server";
    /// The path of the export on [`SERVER`].
    pub const SHARE: &str = "share";
    /// A Go bool; unset is false. Whether [`PATH_PATTERN`] must have a value for each of its tokens.
    pub const STRICT_PATH_PATTERN: &str = "strictPathPattern";
    /// Which of the fates a claim may choose, as a list with commas; unset is none.
    pub const CLAIM_ON_DELETE: &str = "claimOnDelete";
    /// The mode of a volume's directory, in octal.
    pub const DIRECTORY_MODE: &str = "directoryMode";
    /// Its owner.
    pub const DIRECTORY_UID: &str = "directoryUid";
    /// Its group.
    pub const DIRECTORY_GID: &str = "directoryGid";
    /// The groups of which each volume gets one of its own, as `<first>-<last>`.
    pub const GID_RANGE: &str = "gidRange";
    /// Which of mode, uid and gid a claim may choose, as a list with commas; unset is none.
    pub const CLAIM_OWNERSHIP: &str = "claimOwnership";
    /// A Go bool; unset is false. Whether a directory that is there already keeps its mode and owners.
    pub const ADOPT_AS_IS: &str = "adoptAsIs";
    pub use crate::values::headroom::{MAX_OVERCOMMIT, MIN_FREE_INODES, MIN_FREE_SPACE};
    /// All of them.
    pub const ALL: [&str; 18] = [
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
        MIN_FREE_SPACE,
        MIN_FREE_INODES,
        MAX_OVERCOMMIT,
    ];
}

/// A class parameter whose value means nothing. Its text names the parameter and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadParameter {
    /// Not one of the three.
    #[error("parameter onDelete is {0:?}, but must be \"delete\", \"retain\" or \"archive\"")]
    OnDelete(Box<str>),
    /// Not a bool as Go reads them.
    #[error("parameter archiveOnDelete is {0:?}, but must be \"true\" or \"false\"")]
    ArchiveOnDelete(Box<str>),
    /// Not a server and a path, or only one of them, or an export by name as well.
    #[error("parameters server and share {0}")]
    ServerShare(Box<str>),
    /// Any other, which has nothing to do with what becomes of a volume.
    #[error("parameter {parameter} is {value:?}, but must be {expected}")]
    Value {
        /// Its name.
        parameter: &'static str,
        /// What it is.
        value: Box<str>,
        /// What would be right.
        expected: &'static str,
    },
    /// A strict pattern has a token that is not known.
    #[error(
        "parameter pathPattern has {0:?}, which is no token that is known, and parameter strictPathPattern is set"
    )]
    Token(Box<str>),
}

impl BadParameter {
    /// Whether it leaves in doubt what is to become of a volume that exists.
    #[must_use]
    pub fn concerns_fate(&self) -> bool {
        match self {
            Self::OnDelete(_) | Self::ArchiveOnDelete(_) => true,
            Self::ServerShare(_) | Self::Value { .. } | Self::Token(_) => false,
        }
    }
}

/// What a fate must be.
pub const FATE: &str = "\"delete\", \"retain\" or \"archive\"";

/// What a list of fates must be.
const FATES: &str = "a list of \"delete\", \"retain\" and \"archive\", with commas between them";

/// What a list of aspects must be.
const ASPECTS: &str = "a list of \"mode\", \"uid\" and \"gid\", with commas between them";

/// What a range of groups must be.
const GIDS: &str = "two numbers from 1 to 2147483647 with a hyphen between them, such as \"50000-59999\"";

/// What it must be beside parameters that say another thing of the group.
const NO_GIDS: &str = "unset where directoryGid or adoptAsIs is set, or claimOwnership has \"gid\" in it";

/// What a choice of exports must be.
const EXPORTS: &str = "the name of an export, or several with commas between them";

/// What the least free space must be.
const SPACE: &str = "a quantity such as \"50Gi\", or a part of the export's size such as \"10%\"";

/// What the least number of free inodes must be.
const INODES: &str = "a number such as \"10000\", or a part of the export's inodes such as \"5%\"";

/// What a ratio must be.
const RATIO: &str = "a number above 0 such as \"1.5\" or \"150%\"";

/// What a bool must be.
const BOOL: &str = "\"true\" or \"false\"";

/// A class's parameters, as far as we know them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// Where directories go; `None` is the default name.
    pub pattern: Option<Pattern>,
    /// Whether each of the pattern's tokens must have a value.
    pub strict: bool,
    /// What happens to a volume made by this class when its claim goes.
    pub fate: Fate,
    /// Which other fates a claim may choose for its volume.
    pub claim_fates: Vec<Fate>,
    /// Whether a claim may have a directory at, in or above one of another namespace.
    pub share: bool,
    /// Where volumes are made.
    pub export: Choice,
    /// What its directories are like.
    pub ownership: Ownership,
    /// What a claim may say of that.
    pub claim_aspects: Vec<Aspect>,
    /// The groups of which each volume gets one of its own.
    pub gid_range: Option<GidRange>,
    /// What an export must have before a volume is made there, or grows.
    pub requirements: Requirements,
    /// What is wrong with them. A claim is refused for it. For a volume that exists, `fate` is then what the
    /// peer would do where that keeps the data, and else [`Fate::Archive`].
    pub wrong: Vec<BadParameter>,
    /// Parameters we do not know: maybe a typo that decides a volume's fate.
    pub unknown: Vec<Box<str>>,
}

impl Parameters {
    /// Reads a class's parameters. An empty value is one that is not set.
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
        let pattern = value(parameter::PATH_PATTERN).map(Pattern::parse);
        let mut reader = Reader { value, wrong };
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
        let mut wrong = reader.wrong;
        if let Some(token) = pattern.as_ref().filter(|_| strict).and_then(Pattern::unknown) {
            wrong.push(BadParameter::Token(token.into()));
        }
        // An onDelete that is none of the three falls through, as in the peer; nothing readable archives.
        let otherwise = if archive == Some(false) { Fate::Delete } else { Fate::Archive };
        let fate = on_delete.unwrap_or(otherwise);
        let unknown = parameters.keys().filter(|key| !parameter::ALL.contains(&key.as_str()));
        Self {
            pattern,
            strict,
            fate,
            claim_fates,
            share,
            export,
            ownership,
            claim_aspects,
            gid_range,
            requirements,
            wrong,
            unknown: unknown.map(|key| key.as_str().into()).collect(),
        }
    }
}

/// A list with commas, and blanks where one likes.
fn list<T: FromStr>(text: &str) -> Option<Vec<T>> {
    text.split(',').map(|item| item.trim().parse().ok()).collect()
}

/// A choice of exports by their names, as a list in which nothing is empty.
fn named(text: &str) -> Option<Choice> {
    let names: Vec<Box<str>> = text.split(',').map(|name| name.trim().into()).collect();
    names.iter().all(|name| !name.is_empty()).then_some(Choice::Named(names))
}

/// Reads parameters, and notes those that mean nothing.
struct Reader<F> {
    value: F,
    wrong: Vec<BadParameter>,
}

impl<'a, F: Fn(&'static str) -> Option<&'a str>> Reader<F> {
    /// A parameter's value; `None` if it is not set or wrong.
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

    /// Where a class has its volumes made.
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
            // Nothing that is set can be right beside those.
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
        assert!("Delete".parse::<Fate>().is_err());
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
        ];
        for (on_delete, archive, expected) in rows {
            let found = read(on_delete, archive);
            assert_eq!((found.fate, found.wrong.len()), (expected, 0), "{on_delete:?} {archive:?}");
        }
    }

    #[test]
    fn bad_values_are_named_and_never_destroy_of_themselves() {
        let rows = [
            (Some("Delete"), None, Fate::Archive, "onDelete"),
            (Some("remove"), Some("false"), Fate::Delete, "onDelete"),
            (Some("remove"), Some("true"), Fate::Archive, "onDelete"),
            (None, Some("no"), Fate::Archive, "archiveOnDelete"),
            (None, Some("FALSE "), Fate::Archive, "archiveOnDelete"),
            (Some("delete"), Some("yes"), Fate::Delete, "archiveOnDelete"),
        ];
        for (on_delete, archive, expected, named) in rows {
            let found = read(on_delete, archive);
            assert_eq!(found.fate, expected, "{on_delete:?} {archive:?}");
            let words = found.wrong.first().map(ToString::to_string).unwrap_or_default();
            assert!(words.contains(named), "{words}");
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
            ("retain,Archive", &[], 1),
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
    fn unknown_parameters_are_found() {
        let map = BTreeMap::from([("onDelet".to_owned(), "retain".to_owned())]);
        assert_eq!(&*Parameters::read(&map).unknown, &["onDelet".into()]);
        for known in parameter::ALL {
            let map = BTreeMap::from([(known.to_owned(), "true".to_owned())]);
            assert!(Parameters::read(&map).unknown.is_empty(), "{known}");
        }
    }
}
