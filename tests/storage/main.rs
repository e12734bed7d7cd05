//! The export's directories, on real file systems and by each engine. It takes root: file systems are mounted, and
//! nothing is skipped where that cannot be done.

#![allow(
    clippy::disallowed_methods,
    clippy::too_many_lines,
    reason = "what makes files for the program to meet, and tells the whole of a story"
)]
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "what helpers of tests do when they fail")]

#[path = "../support/skip.rs"]
mod skip;
#[path = "../support/ganesha.rs"]
mod ganesha;
#[path = "../support/engine.rs"]
mod engine;

mod create;
mod refuse;
mod archive;
mod notes;
mod expire;
mod copy;
mod copy_random;
mod remove;
mod races;
mod direct;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use nfs_provisioner::layout::{NOTES, Note, TRASH};
use nfs_provisioner::storage::{Left, Problem, Root};
use nfs_provisioner::values::path::RelPath;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat, umask};
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::engine::{Engine, engines};

/// The name of the volume whose directories are archived.
const VOLUME: &str = "pvc-1";

/// How long anything may take that other threads interfere with.
const PATIENCE: Duration = Duration::from_mins(1);

/// Entries of an export, as [`Place::tree`] shows them.
type Tree = &'static [&'static str];

/// An export, and beside it a directory `outside`, which nothing done to the export may touch.
struct Place {
    base: TempDir,
    root: PathBuf,
    export: Root,
    engine: &'static Engine,
}

/// Runs `case` by each engine, in a place of its own.
fn by_each_engine(case: impl Fn(&Place)) {
    for engine in engines() {
        // Shown if it fails.
        eprintln!("{}:", engine.name);
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("export");
        fs::create_dir(&root).unwrap();
        let place = Place { export: (engine.open)(&root).unwrap(), base, root, engine };
        place.put(&["../outside/x/secret"]);
        for private in ["outside", "outside/x", "outside/x/secret"] {
            chmod(&place.base.path().join(private), 0o700);
        }
        case(&place);
    }
}

/// Runs `case` by each engine for exports that the kernel has mounted.
fn by_each_mounted_engine(case: impl Fn(&Place)) {
    by_each_engine(|place| {
        if place.engine.is_mounted {
            case(place);
        }
    });
}

impl Place {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Makes entries, written as [`Place::tree`] shows them, and the directories above them.
    fn put(&self, entries: &[&str]) {
        for entry in entries {
            if let Some((link, target)) = entry.split_once(" -> ") {
                fs::create_dir_all(self.at(link).parent().unwrap()).unwrap();
                symlink(target, self.at(link)).unwrap();
                continue;
            }
            let path = self.at(entry.trim_end_matches(['/', '|', '=']));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match entry.as_bytes().last() {
                Some(b'/') => fs::create_dir_all(path).unwrap(),
                Some(b'|') => mkfifo(&path, Mode::S_IRWXU).unwrap(),
                Some(b'=') => drop(UnixListener::bind(path).unwrap()),
                _ => fs::write(path, entry).unwrap(),
            }
        }
    }

    /// All entries of the export, as `ls -F` marks them: `directory/`, `file`, `link -> target`, `fifo|`,
    /// `socket=`. Notes on archives, which have tests of their own, are left out.
    fn tree(&self) -> Vec<String> {
        let mut entries: Vec<_> = walk(&self.root)
            .into_iter()
            .map(|path| {
                let kind = fs::symlink_metadata(&path).unwrap().mode() & 0o17_0000;
                let name = path.strip_prefix(&self.root).unwrap().to_str().unwrap();
                match kind {
                    0o04_0000 => format!("{name}/"),
                    0o12_0000 => format!("{name} -> {}", fs::read_link(&path).unwrap().display()),
                    0o01_0000 => format!("{name}|"),
                    0o14_0000 => format!("{name}="),
                    _ => name.to_owned(),
                }
            })
            .collect();
        entries.retain(|entry| !entry.starts_with(NOTES));
        entries.sort();
        entries
    }

    /// Everything, outside too, in such detail that even what is made and taken back shows.
    fn stamps(&self) -> BTreeMap<PathBuf, [i64; 6]> {
        stamps(self.base.path())
    }

    fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.at(path)).unwrap().mode() & 0o7777
    }

    fn create(&self, path: &str) -> Result<usize, Problem> {
        let created = self.export.create(&rel(path)).map_err(|error| error.problem)?;
        Ok(created.made)
    }

    fn archive(&self, path: &str) -> Result<Option<String>, Problem> {
        let archived = self.export.archive(&rel(path), VOLUME, &note(path));
        match archived {
            Ok(name) => Ok(name.map(|name| name.to_string())),
            Err(error) => Err(error.problem),
        }
    }

    /// By way of the trash, which is taken away again once it is empty.
    fn remove(&self, path: &str) -> Result<(), Problem> {
        let removed = match self.export.trash(&rel(path), "pv", 1, None) {
            Ok(Some(name)) => self.export.reap(&name, 1, &|| true).and_then(|reaped| match reaped.left {
                Left::Nothing => Ok(()),
                Left::Blocked { first, .. } => Err(first),
                Left::More => unreachable!("nothing cuts it"),
            }),
            trashed => trashed.map(|_| ()),
        };
        drop(fs::remove_dir(self.at(TRASH)));
        removed.map_err(|error| error.problem)
    }

    /// That every call on `path` is refused because of `expected`, and does nothing at all.
    fn refuses(&self, path: &str, expected: Problem) {
        let before = self.stamps();
        assert_eq!(self.create(path), Err(expected), "create {path}");
        assert_eq!(self.archive(path), Err(expected), "archive {path}");
        assert_eq!(self.remove(path), Err(expected), "remove {path}");
        assert_eq!(self.stamps(), before, "{path}");
    }
}

/// Whose an archive is.
fn note(path: &str) -> Note {
    Note {
        directory: rel(path),
        volume: VOLUME.into(),
        class: "nfs".into(),
        namespace: Some("ns".into()),
        claim: Some("c".into()),
        claim_uid: None,
        archived: Some(Timestamp::UNIX_EPOCH),
        created: None,
        released: None,
        kept_until: None,
        capacity: None,
        access_modes: Vec::new(),
        mount_options: Vec::new(),
        reclaim_policy: None,
        on_delete: None,
        on_delete_of_claim: None,
        gid: None,
        on_delete_of_volume: None,
        delete_retention: None,
        delete_retention_min_free: None,
        archive_retention: None,
        restored_from: None,
        inode: None,
        owners: None,
        provisioner: None,
        cluster: None,
    }
}

fn rel(path: &str) -> RelPath {
    RelPath::parse(path).unwrap()
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// All entries beneath `dir`.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.append(&mut walk(&entry.path()));
        }
        found.push(entry.path());
    }
    found
}

fn stamps(dir: &Path) -> BTreeMap<PathBuf, [i64; 6]> {
    let stamp = |path: PathBuf| {
        let found = fs::symlink_metadata(&path).unwrap();
        let [inode, links, size] = [found.ino(), found.nlink(), found.size()].map(u64::cast_signed);
        let mode = i64::from(found.mode());
        (path, [inode, mode, links, size, found.ctime(), found.ctime_nsec()])
    };
    walk(dir).into_iter().chain([dir.to_owned()]).map(stamp).collect()
}

/// A mounted file system, until it is dropped.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn tmpfs(options: &str, dir: &'a Path) -> Self {
        Self::mount(&["-t", "tmpfs", "-o", options, "none"], dir)
    }

    fn mount(arguments: &[&str], dir: &'a Path) -> Self {
        let done = Command::new("mount").args(arguments).arg(dir).status().unwrap();
        assert!(done.success(), "mount {arguments:?}: {done}");
        Self(dir)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(self.0).status();
        if !done.is_ok_and(|done| done.success()) {
            eprintln!("failed to unmount {}, done lazily", self.0.display());
            drop(Command::new("umount").arg("--lazy").arg(self.0).status());
        }
    }
}

/// The process's umask, until it is dropped. Every other test must come out the same by any.
struct Umask(Mode, #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Umask {
    fn set(mask: u32) -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        let turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self(umask(Mode::from_bits_truncate(mask)), turn)
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        umask(self.0);
    }
}

const UMASKS: [u32; 5] = [0o000, 0o022, 0o027, 0o077, 0o777];

/// Makes `depth` directories, each in the one before, with a file in each.
fn dig(dir: &Path, depth: u32) {
    fs::create_dir(dir).unwrap();
    let mut bottom = open_dir(dir);
    for _ in 0..depth {
        mkdirat(&bottom, "d", Mode::S_IRWXU).unwrap();
        touch(&bottom, "f");
        bottom = openat(&bottom, "d", OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    }
}

fn open_dir(dir: &Path) -> OwnedFd {
    open(dir, OFlag::O_DIRECTORY, Mode::empty()).unwrap()
}

fn touch(dir: &OwnedFd, name: &str) {
    openat(dir, name, OFlag::O_CREAT | OFlag::O_WRONLY, Mode::S_IRWXU).unwrap();
}
