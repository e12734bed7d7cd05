//! Paths on an export, as types that hold only valid ones.
//!
//! A path from a claim, a class or a volume is parsed here, once. A [`RelPath`] is the proof that the path is
//! strictly beneath the export and has only normal components; nothing else is ever handed to the file system.

use std::fmt;

/// The longest name of a directory entry on the file systems we meet, in bytes.
pub const NAME_MAX: usize = 255;

/// The longest relative path we make or accept, in bytes: together with the export's own path it stays well below
/// the 4096 bytes that the kernel and the kubelet's mount accept.
pub const PATH_MAX: usize = 3072;

/// The reason why a text is not a path beneath the export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing is left of the path once it is cleaned: it is the export itself.
    #[error("is the export itself")]
    Export,
    /// The path has a `..` component.
    #[error("contains a '..' component")]
    Climbs,
    /// The path is not beneath the export.
    #[error("is not beneath the export")]
    Outside,
    /// A component is longer than [`NAME_MAX`].
    #[error("has a component of {0} bytes, more than the {NAME_MAX} that file systems allow")]
    NameTooLong(usize),
    /// The whole path is longer than [`PATH_MAX`].
    #[error("is {0} bytes long, more than the limit of {PATH_MAX}")]
    TooLong(usize),
    /// The path has a NUL, or a control character that no new claim's path may have.
    #[error("contains a control character")]
    Control,
    /// The first component is a name that we keep for ourselves.
    #[error("begins with a name that is reserved for the provisioner")]
    Reserved,
}

/// The name of a directory entry: not empty, not `.` or `..`, no `/`, no NUL, at most [`NAME_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// Parses the name of one directory entry.
    ///
    /// # Errors
    /// Returns what is wrong with the name; a `/` is reported as [`PathError::Outside`].
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

    /// Returns the name as text.
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
    /// Parses the path of a volume that exists. Drops empty and `.` components, as upstream does.
    ///
    /// Accepts names that no new claim gets (reserved names, control characters), because volumes made by others
    /// must stay readable.
    ///
    /// # Errors
    /// Returns an error if the path has a `..` component, which is refused rather than resolved, if nothing is
    /// left of the path, if it or a component is too long, or if it has a NUL.
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

    /// Returns the path as text, with `/` between the components.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the names of the components, outermost first.
    pub fn names(&self) -> impl Iterator<Item = Name> + '_ {
        self.0.split('/').map(|name| Name(name.into()))
    }

    /// Returns the names of the directories above the last component, outermost first.
    pub fn parents(&self) -> impl Iterator<Item = Name> + '_ {
        let above = self.0.rsplit_once('/').map(|(above, _)| above);
        above.into_iter().flat_map(|above| above.split('/')).map(|name| Name(name.into()))
    }

    /// Returns the name of the last component.
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_path_falls_into_parents_and_leaf() {
        let path = RelPath::parse("a/b/c").unwrap();
        assert_eq!(path.parents().map(|name| name.to_string()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(path.leaf().as_str(), "c");
        assert_eq!(RelPath::parse("a").unwrap().parents().count(), 0);
    }
}
