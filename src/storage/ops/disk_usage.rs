//! Counts how much is in a directory, a few calls at a time.
//!
//! A count may be left alone for any time between two advances, and goes on where it was. It keeps a descriptor or
//! two for each level that it is in, and so goes no deeper than [`DEPTH`].

use std::collections::HashSet;
use std::ffi::CString;

use crate::storage::dir::{Dir, Listing};
use crate::storage::entry::{Access, Attributes, FileKind};
use crate::storage::error::{Doing, Errno, Problem, StorageError};
use crate::storage::root::Root;
use crate::values::headroom::FsUsage;
use crate::values::path::RelPath;

/// How many levels of directories are looked at. What lies deeper is not counted.
const DEPTH: usize = 128;

/// How many names are read at a time.
const BATCH: usize = 64;

/// How many files with several names are remembered, so as to count them once.
const LINKS: usize = 100_000;

/// How much is in a directory, itself included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// What the directory takes on disk, in bytes.
    pub bytes: u64,
    /// How many files, directories and others there are; one with several names counts once.
    pub inodes: u64,
    /// How many directories were not looked into: too deep, or closed to us. Then there may be more.
    pub closed: u64,
}

/// What is known of a directory before anything in it has been looked at.
#[derive(Debug)]
pub enum Begun<C = Box<DiskUsage>> {
    /// Everything: the server keeps count, and says so where it is asked how full the directory's file system is.
    Known(Found),
    /// Nothing: the entries have to be counted.
    DiskUsage(C),
}

/// A count that is under way.
#[derive(Debug)]
pub struct DiskUsage {
    levels: Vec<Level>,
    links: HashSet<u64>,
    found: Found,
}

#[derive(Debug)]
struct Level {
    directory: Dir,
    listing: Listing,
    /// Names that were read, and not looked at yet.
    names: Vec<CString>,
}

/// Reads what a server that keeps count of a directory says of it; `None` if it does not. The directory of such a
/// server seems to be a file system of another size than the export's, which is the directory's quota. Some file
/// systems have another size each time they are asked (ZFS), so a size that is nearly the same is the same.
fn counted_by_server(directory: FsUsage, export: FsUsage) -> Option<Found> {
    let has_quota = directory.bytes.abs_diff(export.bytes) > export.bytes / 100;
    has_quota.then(|| Found {
        bytes: directory.bytes.saturating_sub(directory.bytes_free),
        inodes: directory.inodes.saturating_sub(directory.inodes_free),
        closed: 0,
    })
}

impl Root {
    /// Begins to find out how much is in a volume's directory; `None` if there is no directory.
    ///
    /// # Errors
    /// If a component is a link or no directory, or the file system refuses.
    pub fn survey(&self, directory: &RelPath) -> Result<Option<Begun>, StorageError> {
        let look = || {
            let Some(found) = self.volume(directory)? else { return Ok(None) };
            if let Some(found) = counted_by_server(found.usage()?, self.dir.usage()?) {
                return Ok(Some(Begun::Known(found)));
            }
            Ok(Some(Begun::DiskUsage(Box::new(DiskUsage::new(found)?))))
        };
        match look() {
            Err(Problem::Os(Errno::ENOENT)) => Ok(None),
            begun => begun.doing("survey", directory),
        }
    }
}

impl DiskUsage {
    /// Begins to count what is in a directory.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub(crate) fn new(directory: Dir) -> Result<Self, Problem> {
        let own = directory.inode().attributes()?;
        let found = Found { bytes: own.on_disk, inodes: 1, closed: 0 };
        let mut survey = Self { levels: Vec::new(), links: HashSet::new(), found };
        survey.enter(directory)?;
        Ok(survey)
    }

    /// Goes on for some `calls` to the server, and returns how much there is once it has seen everything. Entries
    /// that come, go or cannot be looked into meanwhile are no hindrance.
    ///
    /// # Errors
    /// If the whole directory has gone, or the file system refuses to go on.
    pub fn advance(&mut self, calls: u64) -> Result<Option<Found>, Problem> {
        for _ in 0..calls {
            let Some(level) = self.levels.last_mut() else { return Ok(Some(self.found)) };
            if let Some(name) = level.names.pop() {
                let looked_at = level.directory.entry(&*name);
                self.count(&name, looked_at)?;
                continue;
            }
            level.names = level.listing.next(BATCH)?.into_iter().map(|(name, _)| name).collect();
            if level.names.is_empty() {
                self.levels.pop();
            }
        }
        Ok(None)
    }

    fn count(&mut self, name: &CString, looked_at: Result<Attributes, Problem>) -> Result<(), Problem> {
        let entry = match looked_at {
            Ok(entry) => entry,
            Err(problem) if problem.has_gone() => return Ok(()),
            Err(problem) => return Err(problem),
        };
        let has_names = entry.kind != FileKind::Directory && entry.links > 1;
        if has_names && self.links.len() < LINKS && !self.links.insert(entry.inode) {
            return Ok(());
        }
        self.found.inodes += 1;
        self.found.bytes = self.found.bytes.saturating_add(entry.on_disk);
        if entry.kind == FileKind::Directory {
            self.descend(name)?;
        }
        Ok(())
    }

    fn descend(&mut self, name: &CString) -> Result<(), Problem> {
        let Some(level) = self.levels.last().filter(|_| self.levels.len() < DEPTH) else {
            self.found.closed += 1;
            return Ok(());
        };
        match level.directory.open(&**name, Access::Read).and_then(|directory| self.enter(directory)) {
            Err(problem) if problem.has_gone() => Ok(()),
            Err(Problem::MountPoint | Problem::Os(Errno::EACCES | Errno::EPERM)) => {
                self.found.closed += 1;
                Ok(())
            }
            entered => entered,
        }
    }

    fn enter(&mut self, directory: Dir) -> Result<(), Problem> {
        let listing = directory.listing()?;
        self.levels.push(Level { directory, listing, names: Vec::new() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::Path;

    use super::*;

    fn survey(at: &Path) -> DiskUsage {
        DiskUsage::new(Dir::open_mounted(at).unwrap()).unwrap()
    }

    /// Counts with so many calls at a time; how often, and what.
    fn counted(at: &Path, calls: u64) -> (u64, Found) {
        let mut survey = survey(at);
        for times in 1.. {
            if let Some(found) = survey.advance(calls).unwrap() {
                return (times, found);
            }
        }
        unreachable!()
    }

    fn blocks(path: &Path) -> u64 {
        fs::symlink_metadata(path).unwrap().blocks() * 512
    }

    #[test]
    fn what_it_takes_on_disk_is_counted_once_and_no_link_followed() {
        let (top, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("much"), vec![1; 1 << 20]).unwrap();
        let at = |path: &str| top.path().join(path);
        fs::create_dir_all(at("a/b/c")).unwrap();
        fs::write(at("a/file"), vec![1; 100_000]).unwrap();
        fs::hard_link(at("a/file"), at("a/b/again")).unwrap();
        File::create(at("a/b/c/sparse")).unwrap().set_len(1 << 30).unwrap();
        symlink(outside.path(), at("a/link")).unwrap();
        let all = ["", "a", "a/b", "a/b/c", "a/file", "a/b/c/sparse", "a/link"];
        let bytes = all.iter().map(|path| blocks(&at(path))).sum();
        let expected = Found { bytes, inodes: 7, closed: 0 };
        assert!(expected.bytes < 1 << 20, "{expected:?}");
        for calls in [1, 2, 3, 1000] {
            let (times, found) = counted(top.path(), calls);
            assert_eq!(found, expected, "{calls}");
            assert_eq!(times > 1, calls < 1000, "it goes on where it was");
        }
    }

    #[test]
    fn what_goes_meanwhile_is_no_hindrance() {
        let top = tempfile::tempdir().unwrap();
        for number in 0..200 {
            fs::create_dir_all(top.path().join(format!("{number}/in"))).unwrap();
        }
        let mut survey = survey(top.path());
        assert_eq!(survey.advance(100).unwrap(), None);
        fs::remove_dir_all(top.path()).unwrap();
        let found = survey.advance(10_000).unwrap().unwrap();
        assert!((2..200).contains(&found.inodes), "{found:?}");
    }

    #[test]
    fn what_lies_too_deep_is_said_not_to_be_counted() {
        let top = tempfile::tempdir().unwrap();
        let deep = "d/".repeat(DEPTH + 5);
        fs::create_dir_all(top.path().join(deep)).unwrap();
        let (_, found) = counted(top.path(), 1000);
        assert_eq!((found.closed, found.inodes), (1, DEPTH as u64 + 1));
    }

    #[test]
    fn a_directory_of_another_size_than_the_export_has_a_quota() {
        let export = FsUsage { bytes: 1000, bytes_free: 100, inodes: 50, inodes_free: 10 };
        for same in
            [FsUsage { bytes_free: 90, inodes_free: 9, ..export }, FsUsage { bytes: 990, inodes: 7, ..export }]
        {
            assert_eq!(counted_by_server(same, export), None);
        }
        let quota = FsUsage { bytes: 400, bytes_free: 150, inodes: 20, inodes_free: 5 };
        let found = Found { bytes: 250, inodes: 15, closed: 0 };
        assert_eq!(counted_by_server(quota, export), Some(found));
        let exceeded = FsUsage { bytes: 400, bytes_free: 500, ..export };
        assert_eq!(counted_by_server(exceeded, export), Some(Found { bytes: 0, inodes: 40, closed: 0 }));
    }
}
