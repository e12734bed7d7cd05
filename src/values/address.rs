//! The address of an export: the server and the path, as volumes name them.

use std::fmt;

use crate::values::path::{PathError, RelPath};

/// The address of an export: a server and the path of a directory there. Says nothing of where it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportAddress {
    server: Box<str>,
    path: Box<str>,
}

impl ExportAddress {
    /// Parses a server: a host name or an address. The brackets of an IPv6 address are dropped: the kubelet
    /// adds its own, so volumes must not have any.
    ///
    /// # Errors
    /// Returns what is wrong with the server, in words for the author of the setting.
    pub fn server(text: &str) -> Result<Box<str>, String> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if bare.is_empty() || bare.chars().any(|c| c.is_control() || c.is_whitespace() || c == '/') {
            return Err(format!("must be a host name or an address, not {text:?}"));
        }
        Ok(bare.into())
    }

    /// Parses an absolute path and cleans it as upstream does: `//`, `.` and `..` are resolved as text.
    ///
    /// # Errors
    /// Returns what is wrong with the path, in words for the author of the setting.
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

    /// Joins a server from [`ExportAddress::server`] and a path from [`ExportAddress::path`].
    #[must_use]
    pub fn new(server: Box<str>, path: Box<str>) -> Self {
        Self { server, path }
    }

    /// Parses `SERVER:PATH`, as `mount` takes it. An IPv6 address may be in brackets or not.
    ///
    /// # Errors
    /// Returns what is wrong with it, in words for who has typed it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (server, path) = text
            .split_once(":/")
            .ok_or_else(|| format!("must be SERVER:PATH with an absolute path, not {text:?}"))?;
        let server = Self::server(server).map_err(|words| format!("the server {words}"))?;
        let path = Self::path(&format!("/{path}")).map_err(|words| format!("the path {words}"))?;
        Ok(Self::new(server, path))
    }

    /// Returns the path of the export on its server.
    #[must_use]
    pub fn path_name(&self) -> &str {
        &self.path
    }

    /// Returns the server's name or address, as volumes carry it.
    #[must_use]
    pub fn server_name(&self) -> &str {
        &self.server
    }

    /// Tells whether a volume's `server` is this export's, as far as the text tells.
    #[must_use]
    pub fn is_on(&self, server: &str) -> bool {
        Self::server(server).is_ok_and(|server| server == self.server)
    }

    /// Tells whether a cleaned path is the export's own.
    #[must_use]
    pub fn is_at(&self, path: &str) -> bool {
        path == &*self.path
    }

    /// Tells whether two exports are the same or one lies in the other, as far as the text tells.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let lies_in = |inner: &Self, outer: &Self| {
            let rest = inner.path.strip_prefix(outer.path.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.server == other.server && (lies_in(self, other) || lies_in(other, self))
    }

    /// Returns the `nfs.path` of a volume whose directory is `directory`.
    #[must_use]
    pub fn volume_path(&self, directory: &RelPath) -> String {
        format!("{}/{directory}", self.path.trim_end_matches('/'))
    }

    /// Finds where a volume's `nfs.path` lies beneath this export: the components after the export's own.
    ///
    /// Components are compared, not text: `/exportX` begins with `/export` but is not beneath it.
    ///
    /// # Errors
    /// Returns an error if the path is not strictly beneath the export, or has a `..`, which could lead into the
    /// directory of another tenant or out of the export.
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

impl fmt::Display for ExportAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.server, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(path: &str) -> ExportAddress {
        ExportAddress::new("nas".into(), ExportAddress::path(path).unwrap())
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
        let export = ExportAddress::new(ExportAddress::server("[fd00::1]").unwrap(), "/x".into());
        assert_eq!(export.server_name(), "fd00::1");
        assert!(export.is_on("fd00::1") && export.is_on("[fd00::1]"));
        assert!(!export.is_on("fd00::2") && !export.is_on(""));
        for bad in ["", "a b", "nas:/x", "a\nb"] {
            assert!(bad == "nas:/x" || ExportAddress::server(bad).is_err(), "{bad:?}");
        }
        assert!(ExportAddress::server("nas:/x").is_err());
        assert!(ExportAddress::path("export").is_err());
    }

    #[test]
    fn an_address_is_typed_as_mount_takes_it() {
        let rows = [
            ("nas:/export", Some(("nas", "/export"))),
            ("nas.example.com:/export//a/", Some(("nas.example.com", "/export/a"))),
            ("[fd00::1]:/export", Some(("fd00::1", "/export"))),
            ("fd00::1:/export", Some(("fd00::1", "/export"))),
            ("nas:/", Some(("nas", "/"))),
            ("nas", None),
            ("nas:export", None),
            (":/export", None),
            ("a b:/export", None),
            ("/export", None),
            ("nas:/a\nb", None),
        ];
        for (text, expected) in rows {
            let found = ExportAddress::parse(text);
            let found = found.as_ref().ok().map(|address| (address.server_name(), address.path_name()));
            assert_eq!(found, expected, "{text:?}");
        }
    }
}
