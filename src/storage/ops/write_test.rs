//! What an export allows, found by trying, in a directory of its own that is gone afterwards.
//!
//! Nothing else is touched. A trial that is cut leaves its directory, which no claim can be given and nobody counts as
//! an orphan; a later trial removes it, if it can tell that it is one of these.

use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::stat::Mode;

use crate::storage::mounted::dirfd::{Access, DirFd, Problem, Status};
use crate::storage::root::{Doing, LISTED, Root, StorageError, VOLUME_MODE};

/// What the directories' names begin with, sixteen hexadecimal digits being the rest. It begins with
/// [`crate::layout::RESERVED_PREFIX`].
const PREFIX: &str = ".nfs-provisioner-doctor-";

/// What may be in such a directory.
const FILE: &str = "file";
const VOLUME: &str = "volume";
const TRASH: &str = "trash";

/// What is written into the file.
const CONTENT: &[u8] = b"nfs-provisioner doctor was here\n";

/// A directory that has not been changed for so long, by the server's clock, belongs to no trial that is under way.
const LEFT_AFTER: Duration = Duration::from_mins(10);

/// How many entries of the export's root are looked at for what earlier trials have left, at the most.
const LOOKED_AT: usize = 100_000;

/// A trial that is under way. [`WriteTest::remove`] ends it.
#[derive(Debug)]
pub struct WriteTest<'a> {
    root: &'a DirFd,
    name: String,
    dir: DirFd,
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

/// What earlier trials had left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// How many were removed.
    pub removed: usize,
    /// Those that were not, because they may be somebody else's.
    pub kept: Vec<String>,
}

impl Root {
    /// Begins a trial: makes its directory.
    ///
    /// # Errors
    /// What the file system says.
    pub fn begin_write_test(&self) -> Result<WriteTest<'_>, StorageError> {
        let name = format!("{PREFIX}{:016x}", fastrand::u64(..));
        let before = SystemTime::now();
        self.root.make(&*name, Mode::S_IRWXU).doing("mkdir", &name)?;
        let between = (before, SystemTime::now());
        let opened = self.root.open(&*name, Access::Read).and_then(|dir| Ok((dir.status()?, dir)));
        match opened {
            Ok((Status { owner, modified: at }, dir)) => {
                Ok(WriteTest { root: &self.root, name, dir, made: Made { owner, at, between } })
            }
            Err(problem) => {
                let _ = self.root.remove_empty(&*name);
                Err(problem).doing("open", name)
            }
        }
    }
}

impl WriteTest<'_> {
    /// The directory's name, at the export's root.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the making of the directory has shown.
    #[must_use]
    pub fn made(&self) -> Made {
        self.made
    }

    /// Writes a file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self) -> Result<(), StorageError> {
        self.dir.write_through(FILE, CONTENT).doing("write", self.at(FILE))
    }

    /// Makes a directory, and gives it the mode of a volume's.
    ///
    /// # Errors
    /// What the file system says.
    pub fn set_mode(&self) -> Result<(), StorageError> {
        self.dir.make(VOLUME, Mode::S_IRWXU).doing("mkdir", self.at(VOLUME))?;
        let volume = self.dir.open(VOLUME, Access::Read).doing("open", self.at(VOLUME))?;
        volume.grant(VOLUME_MODE).doing("chmod", self.at(VOLUME))
    }

    /// Renames that directory into another one, as into the trash. After [`WriteTest::set_mode`].
    ///
    /// # Errors
    /// What the file system says.
    pub fn rename(&self) -> Result<(), StorageError> {
        self.dir.make(TRASH, Mode::S_IRWXU).doing("mkdir", self.at(TRASH))?;
        let trash = self.dir.open(TRASH, Access::Pass).doing("open", self.at(TRASH))?;
        self.dir.rename(VOLUME, &trash, VOLUME).doing("rename", self.at(VOLUME))
    }

    /// Removes all that the trial has made, and the directory.
    ///
    /// # Errors
    /// What the file system says. What is left is removed by a later trial.
    pub fn remove(&self) -> Result<(), StorageError> {
        remove(self.root, &self.name, &self.dir).doing("remove", &self.name)
    }

    /// Removes what earlier trials have left. `answered` is called whenever the file system has answered.
    ///
    /// A directory goes only if it has such a name, belongs to whom the server takes us for, has not been changed for
    /// long, and holds nothing but what a trial makes, of which directories are removed only if they are empty.
    ///
    /// # Errors
    /// If the export's root cannot be listed.
    pub fn remove_leftovers(&self, answered: &dyn Fn()) -> Result<Leftovers, StorageError> {
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
            for name in names.filter(|name| is_name(name) && *name != self.name) {
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
        let Status { owner, modified } = dir.status()?;
        // Both are times of the server's clock.
        if self.made.at.duration_since(modified).is_ok_and(|age| age >= LEFT_AFTER) {
            let names = dir.listing()?.next(LISTED)?;
            let is_ours =
                |name: &std::ffi::CStr| [FILE, VOLUME, TRASH].map(str::as_bytes).contains(&name.to_bytes());
            if owner != self.made.owner || !names.iter().all(|(name, _)| is_ours(name)) {
                return Ok(Leftover::Foreign);
            }
            return remove(self.root, name, &dir).map(|()| Leftover::Removed);
        }
        Ok(Leftover::InUse)
    }

    fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }
}

/// What a directory is that has the name of a trial's.
enum Leftover {
    /// It was an earlier trial's, and is gone.
    Removed,
    /// It may be that of a trial that is under way.
    InUse,
    /// It is none.
    Foreign,
}

/// Whether it is the name of a trial's directory.
fn is_name(name: &str) -> bool {
    let is_digit = |digit: char| matches!(digit, '0'..='9' | 'a'..='f');
    name.strip_prefix(PREFIX).is_some_and(|rest| rest.len() == 16 && rest.chars().all(is_digit))
}

/// Removes a trial's directory and what trials make in it, and nothing else: any other entry keeps it.
fn remove(root: &DirFd, name: &str, dir: &DirFd) -> Result<(), Problem> {
    gone(dir.unlink(FILE))?;
    gone(dir.open(TRASH, Access::Pass).and_then(|trash| trash.remove_empty(VOLUME)))?;
    gone(dir.remove_empty(TRASH))?;
    gone(dir.remove_empty(VOLUME))?;
    root.remove_empty(name)
}

/// That nothing is there any more is success.
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
    use crate::layout::RESERVED_PREFIX;

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
        assert!(is_name(trial.name()) && trial.name().starts_with(RESERVED_PREFIX), "{}", trial.name());
        let made = trial.made();
        assert_eq!(made.owner, nix::unistd::geteuid().as_raw());
        // The kernel's clock for files is a tick behind.
        let tick = Duration::from_millis(20);
        assert!(made.at + tick >= made.between.0 && made.at <= made.between.1 + tick, "{made:?}");
        trial.write().unwrap();
        trial.set_mode().unwrap();
        let volume = dir.path().join(trial.name()).join(VOLUME);
        let granted = fs::metadata(&volume).unwrap().mode();
        assert_eq!(granted & 0o777, 0o777);
        trial.rename().unwrap();
        assert_eq!(names(&dir.path().join(trial.name())), [FILE, TRASH]);
        trial.remove().unwrap();
        assert_eq!(names(dir.path()), ["file", "volume"]);
        assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "a claim's");
    }

    #[test]
    fn what_a_killed_trial_has_left_goes_with_a_later_one_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let export = Root::open(dir.path()).unwrap();
        let left = |digits: &str, entries: &[&str], minutes: u64| {
            let path = dir.path().join(format!("{PREFIX}{digits}"));
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
        std::os::unix::fs::symlink("/etc", dir.path().join(format!("{PREFIX}00000000000000ff"))).unwrap();

        let trial = export.begin_write_test().unwrap();
        let mut found = trial.remove_leftovers(&|| {}).unwrap();
        trial.remove().unwrap();
        found.kept.sort();
        let kept = ["bb", "cc", "ff"].map(|end| format!("{PREFIX}00000000000000{end}"));
        assert_eq!(found, Leftovers { removed: cut.len(), kept: kept.to_vec() });
        let ends: Vec<String> = names(dir.path()).iter().map(|name| name[PREFIX.len()..].to_owned()).collect();
        let expected = ["aa", "bb", "cc"].map(|end| format!("00000000000000{end}"));
        let expected = [&expected[..], &["0000000000000dd".into(), "00000000000000EE".into()]].concat();
        let mut expected = [&expected[..], &["00000000000000ff".into()]].concat();
        expected.sort();
        assert_eq!(ends, expected);
        assert_eq!(names(&dir.path().join(&kept[0])), ["file", "report"]);
        assert_eq!(names(&dir.path().join(&kept[1]).join("volume")), ["data"]);
    }
}
