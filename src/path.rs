//! Paths on an export, as types that cannot be wrong.
//!
//! A path that came from a claim, a class or a volume is parsed here, once. What holds a [`RelPath`] holds the
//! proof that it names something strictly beneath the export and has only normal components; nothing else is
//! ever handed to the file system.

use std::fmt;

/// The longest name of one directory entry on the file systems we meet, in bytes.
pub const NAME_MAX: usize = 255;

/// The longest relative path we make or accept, in bytes: with the export's own path it stays well below the
/// 4096 bytes that the kernel and the kubelet's mount take.
pub const PATH_MAX: usize = 3072;

/// What an archived directory's name begins with, as the peer's does (behaviour 3.19).
pub const ARCHIVE_PREFIX: &str = "archived-";

/// Names at the export's root that begin so are ours: no claim can be given one.
pub const RESERVED_PREFIX: &str = ".nfs-provisioner";

/// Why a text is not a path beneath the export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing is left of it once it is cleaned: it is the export itself.
    #[error("is the export itself")]
    Export,
    /// It has a `..` component.
    #[error("contains a '..' component")]
    Climbs,
    /// It is not beneath the export.
    #[error("is not beneath the export")]
    Outside,
    /// A component is longer than [`NAME_MAX`].
    #[error("has a component of {0} bytes, more than the {NAME_MAX} that file systems take")]
    NameTooLong(usize),
    /// The whole is longer than [`PATH_MAX`].
    #[error("has {0} bytes, more than {PATH_MAX}")]
    TooLong(usize),
    /// It has a byte that no claim's path may have, or NUL.
    #[error("contains a control character")]
    Control,
    /// Its first component is one that we keep for ourselves.
    #[error("begins with a name that is reserved for the provisioner")]
    Reserved,
}

/// One directory entry's name: not empty, not `.` or `..`, no `/`, no NUL, at most [`NAME_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// Checks that `text` is the name of one directory entry.
    ///
    /// # Errors
    /// What is wrong with it; a `/` is reported as [`PathError::Outside`].
    pub fn parse(text: &str) -> Result<Self, PathError> {
        match text {
            "" | "." => Err(PathError::Export),
            ".." => Err(PathError::Climbs),
            _ if text.contains('/') => Err(PathError::Outside),
            _ if text.contains('\0') => Err(PathError::Control),
            _ if text.len() > NAME_MAX => Err(PathError::NameTooLong(text.len())),
            _ => Ok(Self(text.into())),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A path strictly beneath an export: one or more [`Name`]s.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelPath(Box<str>);

impl RelPath {
    /// Parses a path of a volume that exists. Empty and `.` components are dropped, as the peer's cleaning does.
    ///
    /// Accepts names that no new claim gets (reserved names, control characters), because volumes made by
    /// others must stay readable.
    ///
    /// # Errors
    /// `..` components are refused rather than resolved; so is what has nothing left, or is too long.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let mut cleaned = String::with_capacity(text.len());
        for component in text.split('/').filter(|component| !matches!(*component, "" | ".")) {
            let name = Name::parse(component)?;
            if !cleaned.is_empty() {
                cleaned.push('/');
            }
            cleaned.push_str(name.as_str());
        }
        match cleaned.len() {
            0 => Err(PathError::Export),
            length if length > PATH_MAX => Err(PathError::TooLong(length)),
            _ => Ok(Self(cleaned.into())),
        }
    }

    /// Parses a path that a new volume asks for: as [`RelPath::parse`], and stricter.
    ///
    /// # Errors
    /// Also refuses control characters and names that we keep for ourselves.
    pub fn parse_new(text: &str) -> Result<Self, PathError> {
        if text.chars().any(char::is_control) {
            return Err(PathError::Control);
        }
        let path = Self::parse(text)?;
        if path.is_reserved() || path.0.starts_with(ARCHIVE_PREFIX) {
            return Err(PathError::Reserved);
        }
        Ok(path)
    }

    /// The default directory of a claim, `<namespace>-<claim>-<volume>` (behaviour 3.1).
    ///
    /// Shortened where file systems could not hold it; the volume's name, which makes it unique, is kept whole.
    ///
    /// # Errors
    /// None for names that the API server accepts.
    pub fn of_claim(namespace: &str, claim: &str, volume: &str) -> Result<Self, PathError> {
        // Even in a namespace "archived" it is no archive: no other has this volume's name.
        Self::parse(&shorten(&format!("{namespace}-{claim}-{volume}"), volume))
    }

    /// Whether it lies in a directory that we keep for ourselves, the trash, say: no volume's does.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with(RESERVED_PREFIX)
    }

    /// The path as text, `/` between its components.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names of its components, outermost first.
    pub fn names(&self) -> impl Iterator<Item = Name> + '_ {
        self.0.split('/').map(|name| Name(name.into()))
    }

    /// The names of the directories above the last one, outermost first.
    pub fn parents(&self) -> impl Iterator<Item = Name> + '_ {
        let above = self.0.rsplit_once('/').map(|(above, _)| above);
        above.into_iter().flat_map(|above| above.split('/')).map(|name| Name(name.into()))
    }

    /// The last name.
    #[must_use]
    pub fn leaf(&self) -> Name {
        Name(self.0.rsplit('/').next().unwrap_or_default().into())
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long a volume's name may be to be part of an archive's, in bytes.
const VOLUME_SHOWN: usize = 128;

/// The name that a volume's `directory` is archived under at the export's root, at the `nth` attempt.
///
/// Attempt 0 gives the peer's name, `archived-<leaf>`. Later ones, for when that is taken, append the volume's
/// name and then a number (defect D11). Too long a name is shortened in front of the volume's name.
#[must_use]
pub fn archive_name(directory: &RelPath, volume: &str, nth: u32) -> Name {
    let leaf = directory.leaf();
    // Ours have 40 bytes; one made by hand may have so many that they would leave no room for anything else.
    let hashed = || format!("{:016x}", fnv1a(volume.as_bytes()));
    let volume = &if volume.len() <= VOLUME_SHOWN { volume.to_owned() } else { hashed() };
    let unique = match nth {
        0 => String::new(),
        1 => format!("-{volume}"),
        _ => format!("-{volume}-{nth}"),
    };
    let whole = format!("{ARCHIVE_PREFIX}{leaf}{unique}");
    let suffix = if unique.is_empty() { volume } else { unique.trim_start_matches('-') };
    Name(shorten(&whole, suffix).into())
}

/// `text` where it fits into a directory entry, else its beginning with `-<unique>` behind it.
fn shorten(text: &str, unique: &str) -> String {
    if text.len() <= NAME_MAX {
        return text.to_owned();
    }
    let mut end = NAME_MAX.saturating_sub(unique.len() + 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{unique}", text.get(..end).unwrap_or_default())
}

/// The 64-bit FNV-1a hash. It is part of names on disk, so it cannot be one that a new compiler may change.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// An export as volumes name it: which directory of which server. Not where it is mounted here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSource {
    server: Box<str>,
    path: Box<str>,
}

impl ExportSource {
    /// Takes a host name or an address as `server`; an IPv6 address may stand in brackets, which the kubelet
    /// adds of itself and volumes must not have (behaviour 7.21).
    ///
    /// # Errors
    /// What is wrong with the server, in words for whoever wrote the setting.
    pub fn server(text: &str) -> Result<Box<str>, String> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if bare.is_empty() || bare.chars().any(|c| c.is_control() || c.is_whitespace() || c == '/') {
            return Err(format!("must be a host name or an address, not {text:?}"));
        }
        Ok(bare.into())
    }

    /// Takes an absolute path and cleans it as the peer does: `//`, `.` and `..` are resolved as text.
    ///
    /// # Errors
    /// What is wrong with the path, in words for whoever wrote the setting.
    pub fn path(text: &str) -> Result<Box<str>, String> {
        if !text.starts_with('/') {
            return Err(format!("must be an absolute path, not {text:?}"));
        }
        if text.chars().any(char::is_control) {
            return Err(format!("must not contain control characters: {text:?}"));
        }
        let mut kept: Vec<&str> = Vec::new();
        for component in text.split('/') {
            match component {
                "" | "." => {}
                ".." => drop(kept.pop()),
                name => kept.push(name),
            }
        }
        Ok(format!("/{}", kept.join("/")).into())
    }

    /// Puts together what [`ExportSource::server`] and [`ExportSource::path`] gave.
    #[must_use]
    pub fn new(server: Box<str>, path: Box<str>) -> Self {
        Self { server, path }
    }

    /// The server's name or address, as volumes carry it.
    #[must_use]
    pub fn server_name(&self) -> &str {
        &self.server
    }

    /// Whether a volume with this `server` is on the same server, as far as the text tells.
    #[must_use]
    pub fn is_on(&self, server: &str) -> bool {
        Self::server(server).is_ok_and(|server| server == self.server)
    }

    /// Whether a cleaned path is the export's own.
    #[must_use]
    pub fn is_at(&self, path: &str) -> bool {
        path == &*self.path
    }

    /// Whether two exports are the same, or one lies in the other, as far as the text tells.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let lies_in = |inner: &Self, outer: &Self| {
            let rest = inner.path.strip_prefix(outer.path.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.server == other.server && (lies_in(self, other) || lies_in(other, self))
    }

    /// The `nfs.path` of a volume at `directory`.
    #[must_use]
    pub fn volume_path(&self, directory: &RelPath) -> String {
        format!("{}/{directory}", self.path.trim_end_matches('/'))
    }

    /// Where a volume's `nfs.path` lies beneath this export: its components behind the export's own.
    ///
    /// # Errors
    /// Refuses what is not strictly beneath, and whatever has a `..` (defects D2 and D3).
    pub fn relative(&self, volume_path: &str) -> Result<RelPath, PathError> {
        if !volume_path.starts_with('/') {
            return Err(PathError::Outside);
        }
        let mut components = volume_path.split('/').filter(|component| !matches!(*component, "" | "."));
        for own in self.path.split('/').filter(|component| !component.is_empty()) {
            match components.next() {
                Some("..") => return Err(PathError::Climbs),
                Some(component) if component == own => {}
                _ => return Err(PathError::Outside),
            }
        }
        RelPath::parse(&components.collect::<Vec<_>>().join("/"))
    }
}

impl fmt::Display for ExportSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.server, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(path: &str) -> ExportSource {
        ExportSource::new("nas".into(), ExportSource::path(path).unwrap())
    }

    #[test]
    fn paths_of_volumes_are_cleaned_or_refused() {
        let long = "x".repeat(NAME_MAX + 1);
        let rows: &[(&str, Result<&str, PathError>)] = &[
            ("a", Ok("a")),
            ("a/b", Ok("a/b")),
            ("/a//b/", Ok("a/b")),
            ("./a/./b/.", Ok("a/b")),
            ("foo..bar/...", Ok("foo..bar/...")),
            (" ", Ok(" ")),
            ("archived-x", Ok("archived-x")),
            ("", Err(PathError::Export)),
            ("/", Err(PathError::Export)),
            ("//", Err(PathError::Export)),
            (".", Err(PathError::Export)),
            ("./", Err(PathError::Export)),
            ("..", Err(PathError::Climbs)),
            ("../x", Err(PathError::Climbs)),
            ("/../x", Err(PathError::Climbs)),
            ("a/..", Err(PathError::Climbs)),
            ("a/../../x", Err(PathError::Climbs)),
            ("a\0b", Err(PathError::Control)),
            (&long, Err(PathError::NameTooLong(256))),
        ];
        for (text, expected) in rows {
            let found = RelPath::parse(text);
            assert_eq!(found.as_ref().map(RelPath::as_str), expected.as_ref().copied(), "{text:?}");
        }
        let deep = "a/".repeat(PATH_MAX);
        assert!(matches!(RelPath::parse(&deep), Err(PathError::TooLong(_))));
    }

    #[test]
    fn new_volumes_get_neither_control_characters_nor_our_names() {
        for text in ["a\nb", "a\u{7f}", "archived-x", "archived-x/y", ".nfs-provisioner", ".nfs-provisioner-x/y"] {
            assert!(RelPath::parse_new(text).is_err(), "{text:?}");
        }
        for text in ["x/archived-x", "x/.nfs-provisioner", "Archived-x", ".hidden", "archived"] {
            assert!(RelPath::parse_new(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_path_falls_into_parents_and_leaf() {
        let path = RelPath::parse("a/b/c").unwrap();
        assert_eq!(path.parents().map(|name| name.to_string()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(path.leaf().as_str(), "c");
        assert_eq!(RelPath::parse("a").unwrap().parents().count(), 0);
    }

    #[test]
    fn long_default_names_keep_the_volume() {
        let volume = "pvc-0dbb0d7c-1c25-4b1f-8f5c-3f3c3e8b0b0a";
        let plain = RelPath::of_claim("ns", "claim", volume).unwrap();
        assert_eq!(plain.as_str(), format!("ns-claim-{volume}"));
        let long = RelPath::of_claim(&"n".repeat(63), &"c".repeat(253), volume).unwrap();
        assert_eq!(long.as_str().len(), NAME_MAX);
        assert!(long.as_str().ends_with(&format!("-{volume}")), "{long}");
    }

    #[test]
    fn archives_have_the_peers_name_where_it_is_free_and_fits() {
        let volume = "pvc-1";
        let rows = [
            ("ns-c-pvc-1", 0, "archived-ns-c-pvc-1"),
            ("ns/c", 0, "archived-c"),
            ("ns/c", 1, "archived-c-pvc-1"),
            ("ns/c", 3, "archived-c-pvc-1-3"),
        ];
        for (directory, nth, expected) in rows {
            let directory = RelPath::parse(directory).unwrap();
            assert_eq!(archive_name(&directory, volume, nth).as_str(), expected);
        }
        let longest = RelPath::parse(&"é".repeat(NAME_MAX / 2)).unwrap();
        for nth in [0, 1, 2] {
            let name = archive_name(&longest, volume, nth);
            assert!(name.as_str().len() <= NAME_MAX && name.as_str().contains("-pvc-1"), "{name}");
        }
        assert_ne!(archive_name(&longest, volume, 1), archive_name(&longest, volume, 2));
    }

    #[test]
    fn exports_map_volume_paths_by_components() {
        let rows: &[(&str, &str, Result<&str, PathError>)] = &[
            ("/export", "/export/a", Ok("a")),
            ("/export", "/export/a/b", Ok("a/b")),
            ("/export", "//export/./a/", Ok("a")),
            ("/", "/a", Ok("a")),
            ("/export/", "/export/a", Ok("a")),
            ("/export//k", "/export/k/a", Ok("a")),
            ("/export/./k", "/export/k/a", Ok("a")),
            ("/export/x/../k", "/export/k/a", Ok("a")),
            ("/export", "/export", Err(PathError::Export)),
            ("/export", "/export/", Err(PathError::Export)),
            ("/", "/", Err(PathError::Export)),
            ("/export", "/exportX/a", Err(PathError::Outside)),
            ("/export", "/other/export/a", Err(PathError::Outside)),
            ("/export", "/", Err(PathError::Outside)),
            ("/export", "export/a", Err(PathError::Outside)),
            ("/export", "", Err(PathError::Outside)),
            ("/export", "/export/../x", Err(PathError::Climbs)),
            ("/export", "/export/a/../../x", Err(PathError::Climbs)),
            ("/export", "/../export/a", Err(PathError::Climbs)),
        ];
        for (own, volume, expected) in rows {
            let found = export(own).relative(volume);
            assert_eq!(found.as_ref().map(RelPath::as_str), expected.as_ref().copied(), "{own} {volume}");
            if let Ok(directory) = found {
                let again = export(own).relative(&export(own).volume_path(&directory)).unwrap();
                assert_eq!(again, directory, "{own} {volume}");
            }
        }
        assert_eq!(export("/").volume_path(&RelPath::parse("a").unwrap()), "/a");
    }

    #[test]
    fn exports_are_told_apart_by_their_server() {
        let export = ExportSource::new(ExportSource::server("[fd00::1]").unwrap(), "/x".into());
        assert_eq!(export.server_name(), "fd00::1");
        assert!(export.is_on("fd00::1") && export.is_on("[fd00::1]"));
        assert!(!export.is_on("fd00::2") && !export.is_on(""));
        for bad in ["", "a b", "nas:/x", "a\nb"] {
            assert!(bad == "nas:/x" || ExportSource::server(bad).is_err(), "{bad:?}");
        }
        assert!(ExportSource::server("nas:/x").is_err());
        assert!(ExportSource::path("export").is_err());
    }
}
