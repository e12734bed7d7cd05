//! The exports that this process serves, and how classes and volumes refer to them.

use std::fmt;

use crate::layout::is_reserved;
use crate::values::address::ExportAddress;
use crate::values::headroom::Shortage;
use crate::values::path::{PathError, RelPath};

/// The number of exports one process can serve: each may lose some 30 threads to a server that does not answer.
pub const EXPORTS_MAX: usize = 32;

/// The name of the export that is set by `NFS_SERVER` and `NFS_PATH`.
pub const DEFAULT_NAME: &str = "default";

/// The number of an export of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExportId(usize);

impl fmt::Display for ExportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value for each export of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PerExport<T>(Vec<T>);

impl<T> PerExport<T> {
    /// Returns the value of one export.
    #[must_use]
    #[expect(clippy::indexing_slicing, reason = "ids come from Exports, and there is a value for each of them")]
    pub fn get(&self, id: ExportId) -> &T {
        &self.0[id.0]
    }

    /// Iterates over the exports and their values.
    pub fn iter(&self) -> impl Iterator<Item = (ExportId, &T)> {
        self.0.iter().enumerate().map(|(number, each)| (ExportId(number), each))
    }

    /// Iterates over the values, in the order of the exports.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    /// Makes a value for each export from the present one.
    #[must_use]
    pub fn map<U>(&self, make: impl FnMut((ExportId, &T)) -> U) -> PerExport<U> {
        PerExport(self.iter().map(make).collect())
    }

    /// Makes a value for each export from the present one, for all exports at the same time.
    ///
    /// # Errors
    /// Returns the first error that occurs for any export.
    pub async fn try_map<'a, U, E, F: Future<Output = Result<U, E>>>(
        &'a self,
        make: impl FnMut((ExportId, &'a T)) -> F,
    ) -> Result<PerExport<U>, E> {
        futures::future::try_join_all(self.iter().map(make)).await.map(PerExport)
    }
}

/// An export, and its name in classes, metrics and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedExport {
    /// The export's name.
    pub name: Box<str>,
    /// The export's server and path.
    pub address: ExportAddress,
}

/// The export for classes that name none.
const FIRST: ExportId = ExportId(0);

/// The exports that are served: at least one. The first is for classes that name none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exports(PerExport<NamedExport>);

/// A directory on one of the exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The export that the directory is on.
    pub export: ExportId,
    /// The directory's path beneath the export.
    pub path: RelPath,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

/// The export on which a class has its volumes made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first export: the class names none.
    #[default]
    First,
    /// The export with the most room among the named ones.
    Named(Vec<Box<str>>),
    /// The export at this address.
    At {
        /// The export's server.
        server: Box<str>,
        /// The export's path on the server.
        path: Box<str>,
    },
}

/// The reason why a volume is on none of the exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// The volume is on another server.
    OtherServer,
    /// The volume's path is not that of a directory beneath an export on its server. The text lists these exports.
    Path(PathError, Box<str>),
}

impl Exports {
    /// Serves one export, under the name [`DEFAULT_NAME`].
    #[must_use]
    pub fn single(address: ExportAddress) -> Self {
        Self(PerExport(vec![NamedExport { name: DEFAULT_NAME.into(), address }]))
    }

    /// Serves several exports, each with a value that is kept beside it. No two may have the same name or overlap:
    /// their volumes could not be told apart, and the trash of one would be a directory of the other.
    ///
    /// # Errors
    /// Returns what is wrong, in words for the author of the settings.
    pub fn new<T>(exports: Vec<(NamedExport, T)>) -> Result<(Self, PerExport<T>), String> {
        if exports.is_empty() {
            return Err("names no export".to_owned());
        }
        if exports.len() > EXPORTS_MAX {
            return Err(format!("names {} exports, but one process serves at most {EXPORTS_MAX}", exports.len()));
        }
        for (number, (one, _)) in exports.iter().enumerate() {
            for (other, _) in exports.iter().skip(number + 1) {
                if one.name == other.name {
                    return Err(format!("names two exports {:?}", one.name));
                }
                if one.address.overlaps(&other.address) {
                    return Err(format!(
                        "has the export {:?} ({}) at, in or above the export {:?} ({})",
                        one.name, one.address, other.name, other.address
                    ));
                }
            }
        }
        let (exports, beside) = exports.into_iter().unzip();
        Ok((Self(PerExport(exports)), PerExport(beside)))
    }

    /// Returns the name and the address of an export.
    #[must_use]
    pub fn get(&self, id: ExportId) -> &NamedExport {
        self.0.get(id)
    }

    /// Makes a value for each export.
    #[must_use]
    pub fn map<U>(&self, make: impl FnMut((ExportId, &NamedExport)) -> U) -> PerExport<U> {
        self.0.map(make)
    }

    /// Says what each of some exports lacks, as one text.
    pub fn in_words(&self, shortages: impl Iterator<Item = (ExportId, Shortage)>) -> Box<str> {
        let words: Vec<String> =
            shortages.map(|(id, shortage)| format!("{} {shortage}", self.get(id).address)).collect();
        words.join(", and ").into()
    }

    /// Finds the exports that a class means: at least one.
    ///
    /// # Errors
    /// Returns the export that the class means but that is not served, in words.
    pub fn meant_by(&self, choice: &Choice) -> Result<Vec<ExportId>, String> {
        match choice {
            Choice::First => Ok(vec![FIRST]),
            Choice::Named(names) => names.iter().map(|name| self.named(name)).collect(),
            Choice::At { server, path } => {
                let is_it = |export: &NamedExport| export.address.is_on(server) && export.address.is_at(path);
                let found = self.0.iter().find(|(_, export)| is_it(export));
                let unknown = || format!("the export {server}:{path}, but this provisioner serves {self}");
                found.map(|(id, _)| vec![id]).ok_or_else(unknown)
            }
        }
    }

    fn named(&self, name: &str) -> Result<ExportId, String> {
        let found = self.0.iter().find(|(_, export)| &*export.name == name);
        found.map(|(id, _)| id).ok_or_else(|| format!("the export {name:?}, but this provisioner serves {self}"))
    }

    /// Finds the directory of a volume.
    ///
    /// # Errors
    /// Returns the reason why the volume is on none of the exports.
    pub fn locate(&self, server: &str, path: &str) -> Result<Location, Elsewhere> {
        let mut wrong: Option<(PathError, Vec<String>)> = None;
        for (export, NamedExport { address, .. }) in
            self.0.iter().filter(|(_, export)| export.address.is_on(server))
        {
            let error = match address.relative(path) {
                Ok(path) if is_reserved(&path) => PathError::Reserved,
                Ok(path) => return Ok(Location { export, path }),
                Err(error) => error,
            };
            match &mut wrong {
                None => wrong = Some((error, vec![address.to_string()])),
                Some((before, addresses)) => {
                    addresses.push(address.to_string());
                    // `Outside` holds for every other export, so any other reason says more.
                    if *before == PathError::Outside {
                        *before = error;
                    }
                }
            }
        }
        let Some((error, addresses)) = wrong else { return Err(Elsewhere::OtherServer) };
        Err(Elsewhere::Path(error, addresses.join(", ").into()))
    }
}

impl fmt::Display for Exports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [NamedExport { address, .. }] = &*self.0.0 {
            return address.fmt(f);
        }
        for (number, NamedExport { name, address }) in self.0.values().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{address} ({name:?})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name, a server and a path.
    type Row<'a> = (&'a str, &'a str, &'a str);

    fn exports(rows: &[Row<'_>]) -> Result<Exports, String> {
        let named = |(name, server, path): &Row<'_>| NamedExport {
            name: (*name).into(),
            address: ExportAddress::new(
                ExportAddress::server(server).unwrap(),
                ExportAddress::path(path).unwrap(),
            ),
        };
        Exports::new(rows.iter().map(|row| (named(row), ())).collect()).map(|(exports, _)| exports)
    }

    fn three() -> Exports {
        exports(&[("default", "nas", "/export"), ("fast", "nas", "/fast"), ("far", "nas2", "/export")]).unwrap()
    }

    #[test]
    fn exports_that_cannot_be_told_apart_are_refused() {
        let rows: &[(&[Row<'_>], Option<&str>)] = &[
            (&[], Some("no export")),
            (&[("a", "nas", "/a"), ("a", "nas", "/b")], Some("two exports \"a\"")),
            (&[("a", "nas", "/a"), ("b", "nas", "/a/")], Some("at, in or above")),
            (&[("a", "nas", "/a"), ("b", "nas", "/a/b")], Some("at, in or above")),
            (&[("a", "nas", "/a/b"), ("b", "nas", "/a")], Some("at, in or above")),
            (&[("a", "nas", "/"), ("b", "nas", "/b")], Some("at, in or above")),
            (&[("a", "[::1]", "/a"), ("b", "::1", "/a")], Some("at, in or above")),
            (&[("a", "nas", "/a"), ("b", "nas", "/ab")], None),
            (&[("a", "nas", "/a"), ("b", "nas2", "/a")], None),
        ];
        for (rows, expected) in rows {
            match (exports(rows), expected) {
                (Ok(_), None) => {}
                (Err(words), Some(expected)) => assert!(words.contains(expected), "{words}"),
                (found, _) => panic!("{rows:?}: {found:?}"),
            }
        }
        let many: Vec<String> = (0..=EXPORTS_MAX).map(|number| format!("/{number}")).collect();
        let many: Vec<_> = many.iter().map(|path| (&**path, "nas", &**path)).collect();
        assert!(exports(&many).unwrap_err().contains("33 exports"));
    }

    #[test]
    fn a_class_means_exports_by_name_or_by_place() {
        let at = |server: &str, path: &str| Choice::At { server: server.into(), path: path.into() };
        let named = |names: &[&str]| Choice::Named(names.iter().map(|name| (*name).into()).collect());
        let rows = [
            (Choice::First, Ok(vec![0])),
            (named(&["fast"]), Ok(vec![1])),
            (named(&["far", "default"]), Ok(vec![2, 0])),
            (at("nas2", "/export"), Ok(vec![2])),
            (
                named(&["far", "slow"]),
                Err("\"slow\", but this provisioner serves nas:/export (\"default\"), nas:/fast"),
            ),
            (at("nas2", "/fast"), Err("nas2:/fast, but")),
        ];
        for (choice, expected) in rows {
            match (three().meant_by(&choice), expected) {
                (Ok(found), Ok(expected)) => {
                    assert_eq!(found, expected.into_iter().map(ExportId).collect::<Vec<_>>(), "{choice:?}");
                }
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (found, _) => panic!("{choice:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_volume_is_on_the_export_that_it_names_or_on_none() {
        let path = |error, addresses: &str| Err(Elsewhere::Path(error, addresses.into()));
        let both = "nas:/export, nas:/fast";
        let rows = [
            ("nas", "/export/a/b", Ok((0, "a/b"))),
            ("nas", "/fast/a", Ok((1, "a"))),
            ("nas2", "/export/a", Ok((2, "a"))),
            ("nas3", "/export/a", Err(Elsewhere::OtherServer)),
            ("nas", "/slow/a", path(PathError::Outside, both)),
            ("nas", "/fast", path(PathError::Export, both)),
            ("nas", "/export", path(PathError::Export, both)),
            ("nas", "/fast/../export/a", path(PathError::Climbs, both)),
            ("nas", "/fast/.nfs-provisioner-trash/a", path(PathError::Reserved, both)),
            ("nas2", "/fast/a", path(PathError::Outside, "nas2:/export")),
        ];
        for (server, path, expected) in rows {
            let found = three().locate(server, path);
            let found = found.map(|found| (found.export.0, found.path.to_string()));
            assert_eq!(found, expected.map(|(id, path)| (id, path.to_owned())), "{server}:{path}");
        }
    }
}
