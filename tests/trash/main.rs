//! The trash and its reaper, on real file systems and by each engine. It takes root: file systems are mounted, and
//! files made immutable on them.

#![allow(clippy::disallowed_methods, reason = "what makes files for the program to meet")]
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "what helpers of tests do when they fail")]

#[path = "../support/skip.rs"]
mod skip;
#[path = "../support/ganesha.rs"]
mod ganesha;
#[path = "../support/engine.rs"]
mod engine;

mod put;
mod reap;
mod background;
mod kept;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nfs_provisioner::layout::{TRASH, TrashName};
use nfs_provisioner::storage::{Left, Problem, Reaped, Root};
use nfs_provisioner::values::path::RelPath;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use tempfile::TempDir;

use crate::engine::{Engine, engines};

const VOLUME: &str = "pvc-1";

/// The time at which things are put into the trash.
const NOW: u64 = 1_700_000_000;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// How many threads reap.
const WORKERS: usize = 4;

/// An export, and beside it `outside/x/secret`, which nothing done to the export may touch.
struct Place {
    base: TempDir,
    root: PathBuf,
    export: Root,
}

impl Place {
    fn new(engine: &Engine) -> Self {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("export");
        fs::create_dir_all(base.path().join("outside/x")).unwrap();
        fs::write(base.path().join("outside/x/secret"), "secret").unwrap();
        fs::create_dir(&root).unwrap();
        let export = (engine.open)(&root).unwrap();
        Self { base, root, export }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn outside(&self) -> PathBuf {
        self.base.path().join("outside")
    }

    /// Makes files, or directories if they end in `/`, and the directories above them.
    fn put(&self, entries: &[&str]) {
        for entry in entries {
            let path = self.at(entry);
            if entry.ends_with('/') {
                fs::create_dir_all(path).unwrap();
            } else {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, entry).unwrap();
            }
        }
    }

    fn trash(&self, path: &str) -> Result<Option<TrashName>, Problem> {
        self.export.trash(&rel(path), VOLUME, NOW, None).map_err(|error| error.problem)
    }

    /// Puts `path` into the trash and tells its name and where it is now.
    fn trashed(&self, path: &str) -> (TrashName, PathBuf) {
        let name = self.trash(path).unwrap().unwrap();
        let at = self.at(TRASH).join(name.to_string());
        (name, at)
    }

    fn reap(&self, name: &TrashName) -> Reaped {
        self.export.reap(name, WORKERS, &|| true).unwrap()
    }

    /// Reaps all of an entry, and tells how many entries that were.
    fn reap_all(&self, name: &TrashName) -> u64 {
        let Reaped { entries, left } = self.reap(name);
        assert_eq!(left, Left::Nothing);
        assert_eq!(names(&self.at(TRASH)), [""; 0]);
        entries
    }
}

/// Runs `case` by each engine, in a place of its own. The outside must be the same after it.
fn by_each_engine(case: impl Fn(&Place)) {
    by_each_of(engines().iter(), case);
}

fn by_each_of<'a>(engines: impl Iterator<Item = &'a Engine>, case: impl Fn(&Place)) {
    for engine in engines {
        eprintln!("{}:", engine.name);
        let place = Place::new(engine);
        let before = stamps(&place.outside());
        case(&place);
        assert_eq!(stamps(&place.outside()), before);
    }
}

/// Runs `case` by each engine for exports that the kernel has mounted: where this machine's mounts and users count, or
/// what a server does under whose hands files are changed is not the question.
fn by_each_mounted_engine(case: impl Fn(&Place)) {
    by_each_of(engines().iter().filter(|engine| engine.is_mounted), case);
}

/// Runs `case` as another user, to the file system.
fn by_another_user<T: Send>(user: u32, case: impl FnOnce() -> T + Send) -> T {
    let as_user = || {
        // Of this thread and those that it starts.
        nix::unistd::setfsuid(user.into());
        case()
    };
    std::thread::scope(|scope| scope.spawn(as_user).join().unwrap())
}

fn rel(path: &str) -> RelPath {
    RelPath::parse(path).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(name).collect();
    names.sort();
    names
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// All beneath `dir`, in such detail that even what is made and taken back shows.
fn stamps(dir: &Path) -> BTreeSet<(PathBuf, [i64; 4])> {
    let found = fs::symlink_metadata(dir).unwrap();
    let stamp = [found.ino().cast_signed(), found.mode().into(), found.ctime(), found.ctime_nsec()];
    let mut stamps = BTreeSet::from([(dir.to_owned(), stamp)]);
    if found.is_dir() {
        for entry in fs::read_dir(dir).unwrap() {
            stamps.append(&mut self::stamps(&entry.unwrap().path()));
        }
    }
    stamps
}

fn open_dir(dir: &Path) -> OwnedFd {
    open(dir, OFlag::O_DIRECTORY, Mode::empty()).unwrap()
}

fn touch(dir: &OwnedFd, name: &str) -> nix::Result<()> {
    openat(dir, name, OFlag::O_CREAT | OFlag::O_EXCL, Mode::S_IRWXU).map(drop)
}

/// Makes `depth` directories, each in the one before, with `width` files and as many empty directories in each.
fn dig(dir: &Path, depth: u32, width: u32) {
    fs::create_dir(dir).unwrap();
    let mut bottom = open_dir(dir);
    for _ in 0..depth {
        for n in 0..width {
            touch(&bottom, &format!("f{n}")).unwrap();
            mkdirat(&bottom, &*format!("e{n}"), Mode::S_IRWXU).unwrap();
        }
        mkdirat(&bottom, "d", Mode::S_IRWXU).unwrap();
        bottom = openat(&bottom, "d", OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    }
}

fn spread(dir: &Path, directories: u32, files: u32) {
    for d in 0..directories {
        fs::create_dir_all(dir.join(d.to_string())).unwrap();
        for f in 0..files {
            fs::File::create(dir.join(format!("{d}/{f}"))).unwrap();
        }
    }
}

fn run(command: &str, arguments: &[&OsStr]) {
    let done = Command::new(command).args(arguments).output().unwrap();
    assert!(done.status.success(), "{command} {arguments:?}: {done:?}");
}

/// A mounted tmpfs, until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(dir: &Path) -> Self {
        Self::tmpfs_with("mode=755", dir)
    }

    fn tmpfs_with(options: &str, dir: &Path) -> Self {
        run(
            "mount",
            &["-t", "tmpfs", "-o", options, "none"]
                .map(OsStr::new)
                .into_iter()
                .chain([dir.as_os_str()])
                .collect::<Vec<_>>(),
        );
        Self(dir.to_owned())
    }

    fn bind(what: &Path, at: &Path) -> Self {
        run("mount", &["--bind".as_ref(), what.as_os_str(), at.as_os_str()]);
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &["--lazy".as_ref(), self.0.as_os_str()]);
    }
}

/// An immutable file, until it is dropped.
struct Immutable(PathBuf);

impl Immutable {
    fn new(file: &Path) -> Self {
        run("chattr", &["+i".as_ref(), file.as_os_str()]);
        Self(file.to_owned())
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        run("chattr", &["-i".as_ref(), self.0.as_os_str()]);
    }
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
