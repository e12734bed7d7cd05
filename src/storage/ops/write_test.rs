//! What an export allows, found by trying, in a directory of its own that is gone afterwards.
//!
//! Nothing else is touched. A test that is cut leaves its directory, which no claim can be given and nobody counts
//! as an orphan; a later test removes it, if it can tell that it is a test's.

use std::ffi::CStr;
use std::time::{Duration, SystemTime};

use crate::layout::{WRITE_TEST_FILE, WRITE_TEST_TRASH, WRITE_TEST_VOLUME, is_write_test, write_test};
use crate::storage::dir::Dir;
use crate::storage::entry::Access;
use crate::storage::error::{Doing, Errno, Problem, StorageError};
use crate::storage::ops::create::VOLUME_MODE;
use crate::storage::root::{LISTED, OWN_MODE, Root, grant};

/// What is written into the file.
const CONTENT: &[u8] = b"nfs-provisioner doctor was here\n";

/// A directory that has not been changed for so long, by the server's clock, belongs to no test that is under way.
const LEFT_AFTER: Duration = Duration::from_mins(10);

/// How many entries of the export's root are looked at for what earlier tests have left, at the most.
const LOOKED_AT: usize = 100_000;

/// A write test that is under way. [`WriteTest::remove`] ends it.
#[derive(Debug)]
pub struct WriteTest {
    root: Dir,
    name: String,
    dir: Dir,
    made: Made,
}

/// What the making of a directory has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Whom the server takes us for.
    pub owner: u32,
    /// When it was made, by the server's clock.
    pub at: SystemTime,
    /// Between which times it was made, by our clock.
    pub between: (SystemTime, SystemTime),
}

/// A step of a write test, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteStep {
    /// Writes a file.
    Write,
    /// Makes a directory, and gives it the mode of a volume's.
    SetMode,
    /// Renames that directory into another one, as into the trash.
    Rename,
    /// Removes all that the test has made, and its directory. It can follow any other step. What it leaves, a
    /// later test removes.
    Remove,
}

/// What earlier tests had left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// How many were removed.
    pub removed: usize,
    /// Those that were not, because they may be somebody else's.
    pub kept: Vec<String>,
}

impl Root {
    /// Begins a write test: makes its directory.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn begin_write_test(&self) -> Result<WriteTest, StorageError> {
        let root = self.dir.reopen(Access::Pass).doing("open", ".")?;
        let name = write_test(fastrand::u64(..));
        let before = SystemTime::now();
        root.make(&*name, OWN_MODE).doing("mkdir", &name)?;
        let between = (before, SystemTime::now());
        let opened = root.open(&*name, Access::Read).and_then(|dir| Ok((dir.inode().attributes()?, dir)));
        match opened {
            Ok((found, dir)) => {
                let made = Made { owner: found.uid, at: found.modified.into(), between };
                Ok(WriteTest { root, name, dir, made })
            }
            Err(problem) => {
                let _ = root.remove_empty(&*name);
                Err(problem).doing("open", name)
            }
        }
    }
}

impl WriteTest {
    /// Returns the directory's name, at the export's root.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what the making of the directory has shown.
    #[must_use]
    pub fn made(&self) -> Made {
        self.made
    }

    /// Takes a step.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn take(&self, step: WriteStep) -> Result<(), StorageError> {
        match step {
            WriteStep::Write => {
                let written = self.dir.write(WRITE_TEST_FILE, CONTENT);
                written.doing("write", self.at(WRITE_TEST_FILE))
            }
            WriteStep::SetMode => self.set_mode(),
            WriteStep::Rename => self.rename(),
            WriteStep::Remove => remove(&self.root, &self.name, &self.dir).doing("remove", &self.name),
        }
    }

    fn set_mode(&self) -> Result<(), StorageError> {
        let at = self.at(WRITE_TEST_VOLUME);
        self.dir.make(WRITE_TEST_VOLUME, OWN_MODE).doing("mkdir", &at)?;
        let volume = self.dir.open(WRITE_TEST_VOLUME, Access::Read).doing("open", &at)?;
        grant(&volume, VOLUME_MODE).doing("chmod", at)
    }

    fn rename(&self) -> Result<(), StorageError> {
        self.dir.make(WRITE_TEST_TRASH, OWN_MODE).doing("mkdir", self.at(WRITE_TEST_TRASH))?;
        let trash = self.dir.open(WRITE_TEST_TRASH, Access::Pass).doing("open", self.at(WRITE_TEST_TRASH))?;
        self.dir.rename(WRITE_TEST_VOLUME, &trash, WRITE_TEST_VOLUME).doing("rename", self.at(WRITE_TEST_VOLUME))
    }

    /// Removes what earlier tests have left. `answered` is called whenever the file system has answered.
    ///
    /// A directory goes only if it has such a name, belongs to whom the server takes us for, has not been changed
    /// for long, and holds nothing but what a test makes, of which directories are removed only if they are empty.
    ///
    /// # Errors
    /// If the export's root cannot be listed.
    pub(crate) fn remove_leftovers(&self, answered: &dyn Fn()) -> Result<Leftovers, StorageError> {
        let mut found = Leftovers::default();
        let mut looked_at = 0;
        let mut listing = self.root.listing().doing("list", ".")?;
        loop {
            let entries = listing.next(LISTED).doing("list", ".")?;
            answered();
            looked_at += entries.len();
            if entries.is_empty() || looked_at > LOOKED_AT {
                return Ok(found);
            }
            let names = entries.iter().filter_map(|(name, _)| name.to_str().ok());
            for name in names.filter(|name| is_write_test(name) && *name != self.name) {
                match self.remove_leftover(name) {
                    Ok(Leftover::Removed) => found.removed += 1,
                    Ok(Leftover::InUse) | Err(Problem::Os(Errno::ENOENT)) => {}
                    Ok(Leftover::Foreign) | Err(_) => found.kept.push(name.to_owned()),
                }
                answered();
            }
        }
    }

    fn remove_leftover(&self, name: &str) -> Result<Leftover, Problem> {
        let dir = self.root.open(name, Access::Read)?;
        let found = dir.inode().attributes()?;
        // Both are times of the server's clock.
        if self.made.at.duration_since(found.modified.into()).is_ok_and(|age| age >= LEFT_AFTER) {
            let names = dir.listing()?.next(LISTED)?;
            let ours = [WRITE_TEST_FILE, WRITE_TEST_VOLUME, WRITE_TEST_TRASH].map(str::as_bytes);
            let is_ours = |name: &CStr| ours.contains(&name.to_bytes());
            if found.uid != self.made.owner || !names.iter().all(|(name, _)| is_ours(name)) {
                return Ok(Leftover::Foreign);
            }
            return remove(&self.root, name, &dir).map(|()| Leftover::Removed);
        }
        Ok(Leftover::InUse)
    }

    fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }
}

/// What a directory is that has the name of a write test's.
enum Leftover {
    /// An earlier test's, which is gone now.
    Removed,
    /// Perhaps that of a test that is under way.
    InUse,
    /// None of ours.
    Foreign,
}

/// Removes a test's directory and what tests make in it, and nothing else: any other entry keeps it.
fn remove(root: &Dir, name: &str, dir: &Dir) -> Result<(), Problem> {
    gone(dir.unlink(WRITE_TEST_FILE))?;
    gone(dir.open(WRITE_TEST_TRASH, Access::Pass).and_then(|trash| trash.remove_empty(WRITE_TEST_VOLUME)))?;
    gone(dir.remove_empty(WRITE_TEST_TRASH))?;
    gone(dir.remove_empty(WRITE_TEST_VOLUME))?;
    root.remove_empty(name)
}

/// Takes it for success that nothing is there any more.
fn gone(result: Result<(), Problem>) -> Result<(), Problem> {
    match result {
        Err(Problem::Os(Errno::ENOENT)) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::*;
    use crate::layout::{RESERVED_PREFIX, WRITE_TEST_PREFIX};

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_trial_changes_nothing_but_its_own_directory_and_removes_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("volume")).unwrap();
        fs::write(dir.path().join("file"), "a claim's").unwrap();
        let export = Root::open(dir.path()).unwrap();
        let trial = export.begin_write_test().unwrap();
        assert!(is_write_test(trial.name()) && trial.name().starts_with(RESERVED_PREFIX), "{}", trial.name());
        let made = trial.made();
        assert_eq!(made.owner, fs::metadata(dir.path()).unwrap().uid());
        // The kernel's clock for files is a tick behind.
        let tick = Duration::from_millis(20);
        assert!(made.at + tick >= made.between.0 && made.at <= made.between.1 + tick, "{made:?}");
        trial.take(WriteStep::Write).unwrap();
        trial.take(WriteStep::SetMode).unwrap();
        let volume = dir.path().join(trial.name()).join(WRITE_TEST_VOLUME);
        let granted = fs::metadata(&volume).unwrap().mode();
        assert_eq!(granted & 0o777, 0o777);
        trial.take(WriteStep::Rename).unwrap();
        assert_eq!(names(&dir.path().join(trial.name())), [WRITE_TEST_FILE, WRITE_TEST_TRASH]);
        trial.take(WriteStep::Remove).unwrap();
        assert_eq!(names(dir.path()), ["file", "volume"]);
        assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "a claim's");
    }

    #[test]
    fn what_a_killed_trial_has_left_goes_with_a_later_one_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let export = Root::open(dir.path()).unwrap();
        let left = |digits: &str, entries: &[&str], minutes: u64| {
            let path = dir.path().join(format!("{WRITE_TEST_PREFIX}{digits}"));
            fs::create_dir(&path).unwrap();
            for entry in entries {
                match entry.strip_suffix('/') {
                    Some(directory) => fs::create_dir_all(path.join(directory)).unwrap(),
                    None => fs::write(path.join(entry), CONTENT).unwrap(),
                }
            }
            let at = SystemTime::now() - Duration::from_mins(minutes);
            fs::File::open(path).unwrap().set_modified(at).unwrap();
        };
        let cut =
            [&[][..], &["file"], &["file", "volume/"], &["file", "volume/", "trash/"], &["file", "trash/volume/"]];
        for (number, entries) in cut.iter().enumerate() {
            left(&format!("{number:016}"), entries, 20);
        }
        left("00000000000000aa", &["file"], 1);
        left("00000000000000bb", &["file", "report"], 20);
        left("00000000000000cc", &["volume/data/"], 20);
        left("0000000000000dd", &["file"], 20);
        left("00000000000000EE", &["file"], 20);
        std::os::unix::fs::symlink("/etc", dir.path().join(format!("{WRITE_TEST_PREFIX}00000000000000ff")))
            .unwrap();

        let trial = export.begin_write_test().unwrap();
        let mut found = trial.remove_leftovers(&|| {}).unwrap();
        trial.take(WriteStep::Remove).unwrap();
        found.kept.sort();
        let kept = ["bb", "cc", "ff"].map(|end| format!("{WRITE_TEST_PREFIX}00000000000000{end}"));
        assert_eq!(found, Leftovers { removed: cut.len(), kept: kept.to_vec() });
        let ends: Vec<String> =
            names(dir.path()).iter().map(|name| name[WRITE_TEST_PREFIX.len()..].to_owned()).collect();
        let expected = ["aa", "bb", "cc"].map(|end| format!("00000000000000{end}"));
        let expected = [&expected[..], &["0000000000000dd".into(), "00000000000000EE".into()]].concat();
        let mut expected = [&expected[..], &["00000000000000ff".into()]].concat();
        expected.sort();
        assert_eq!(ends, expected);
        assert_eq!(names(&dir.path().join(&kept[0])), ["file", "report"]);
        assert_eq!(names(&dir.path().join(&kept[1]).join("volume")), ["data"]);
    }
}
