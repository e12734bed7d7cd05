//! The trash and its reaper, on real file systems and by both ways of opening directories. Requirements root: file systems
//! are mounted, and files made immutable on them.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "what helpers of tests do when they fail")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nfs_provisioner::background::reaper::reap_forever;
use nfs_provisioner::export::{Backlog, Counts};
use nfs_provisioner::layout::TRASH;
use nfs_provisioner::layout::TrashName;
use nfs_provisioner::storage::{DirFd, Left, Problem, Reaped, Resolver, Root, Storage};
use nfs_provisioner::values::path::{NAME_MAX, RelPath};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, open, openat, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{NFS_SUPER_MAGIC, statfs};
use tempfile::TempDir;

const VOLUME: &str = "pvc-1";

/// The time at which things are put into the trash.
const NOW: u64 = 1_700_000_000;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// How many threads reap.
const WORKERS: usize = 4;

/// An export, and beside it `outside/x/secret`, which nothing done to the export may touch.
struct ExportSpec {
    base: TempDir,
    root: PathBuf,
    export: Root,
}

impl ExportSpec {
    fn new(resolver: Resolver) -> Self {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("export");
        fs::create_dir_all(base.path().join("outside/x")).unwrap();
        fs::write(base.path().join("outside/x/secret"), "secret").unwrap();
        fs::create_dir(&root).unwrap();
        let export = Root::at(DirFd::open_top(&root).unwrap().with_resolver(resolver));
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
        self.export.trash(&rel(path), VOLUME, NOW).map_err(|error| error.problem)
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

/// Runs `case` by each way of opening directories, in a place of its own. The outside must be the same after it.
fn by_both_resolvers(case: impl Fn(&ExportSpec)) {
    for resolver in [Resolver::Openat2, Resolver::Openat] {
        eprintln!("by {resolver:?}:");
        let place = ExportSpec::new(resolver);
        let before = stamps(&place.outside());
        case(&place);
        assert_eq!(stamps(&place.outside()), before);
    }
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
        run("mount", &["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref(), dir.as_os_str()]);
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

// === into the trash ===

#[test]
fn a_directory_goes_into_the_trash_as_it_is_and_its_parents_stay() {
    by_both_resolvers(|place| {
        place.put(&["ns/team/claim/f", "ns/team/claim/closed/f", "ns/other/"]);
        chmod(&place.at("ns/team/claim/closed"), 0o000);
        let before: Vec<_> = ["", "/f", "/closed"]
            .map(|path| fs::metadata(place.at(&format!("ns/team/claim{path}"))).unwrap())
            .map(|found| (found.ino(), found.mode()))
            .into();
        let (name, at) = place.trashed("ns/team/claim");
        assert_eq!(name.to_string(), format!("{NOW}~{VOLUME}~ns%2Fteam%2Fclaim"));
        assert_eq!((name.at(), name.volume(), name.directory()), (NOW, VOLUME, Some(&rel("ns/team/claim"))));
        let after: Vec<_> = ["", "f", "closed"]
            .map(|path| fs::metadata(at.join(path)).unwrap())
            .map(|found| (found.ino(), found.mode()))
            .into();
        assert_eq!(after, before);
        assert_eq!(names(&place.at("ns")), ["other", "team"]);
        assert_eq!(names(&place.at("ns/team")), [""; 0]);
        // Once it is done there is nothing to do.
        assert_eq!(place.trash("ns/team/claim"), Ok(None));
        assert_eq!(names(&place.at(TRASH)), [name.to_string()]);
    });
}

#[test]
fn what_does_not_exist_is_not_put_into_the_trash_and_makes_none() {
    by_both_resolvers(|place| {
        for path in ["a", "a/b/c"] {
            assert_eq!(place.trash(path), Ok(None));
        }
        assert_eq!(names(&place.root), [""; 0]);
        let listed = place.export.trashed(9).unwrap();
        assert!(listed.names.is_empty() && listed.foreign.is_none());
        let absent = TrashName::new(NOW, VOLUME, &rel("a"));
        assert_eq!(place.reap(&absent), Reaped { entries: 0, left: Left::Nothing });
        assert_eq!(names(&place.root), [""; 0]);
    });
}

#[test]
fn a_name_that_is_taken_is_passed_by() {
    by_both_resolvers(|place| {
        let taken = |n| place.at(TRASH).join(TrashName::new(NOW + n, VOLUME, &rel("a")).to_string());
        place.put(&["a/first"]);
        place.trashed("a");
        fs::write(taken(1), "a file").unwrap();
        symlink(place.outside(), taken(2)).unwrap();
        place.put(&["a/second"]);
        let (name, at) = place.trashed("a");
        assert_eq!(name.at(), NOW + 3);
        assert_eq!((names(&at), names(&taken(0))), (vec!["second".into()], vec!["first".into()]));
    });
}

#[test]
fn the_longest_names_can_be_put_into_the_trash() {
    by_both_resolvers(|place| {
        let leaf = "x".repeat(NAME_MAX);
        let volume = "v".repeat(253);
        place.put(&[&format!("{leaf}/{leaf}/f")]);
        let name = place.export.trash(&rel(&format!("{leaf}/{leaf}")), &volume, u64::MAX - 1).unwrap().unwrap();
        assert_eq!(place.export.trashed(9).unwrap().names, std::slice::from_ref(&name));
        assert_eq!(place.reap_all(&name), 2);
    });
}

#[test]
fn links_files_and_mount_points_are_not_put_into_the_trash() {
    by_both_resolvers(|place| {
        place.put(&["real/d/f", "file", "mount/"]);
        symlink(place.outside(), place.at("link")).unwrap();
        symlink("d", place.at("real/link")).unwrap();
        let _mounted = Mounted::tmpfs(&place.at("mount"));
        place.put(&["mount/d/f"]);
        let rows = [
            ("link", Problem::Link),
            ("link/x", Problem::Link),
            ("real/link", Problem::Link),
            ("real/link/f", Problem::Link),
            ("file", Problem::NotDirectory),
            ("file/x", Problem::NotDirectory),
            ("mount", Problem::MountPoint),
            ("mount/d", Problem::MountPoint),
        ];
        let before = stamps(&place.root);
        for (path, problem) in rows {
            assert_eq!(place.trash(path), Err(problem), "{path}");
        }
        assert_eq!(stamps(&place.root), before);
    });
}

#[test]
fn the_trash_itself_is_not_put_into_the_trash() {
    by_both_resolvers(|place| {
        place.put(&["a/f"]);
        let (_, at) = place.trashed("a");
        for path in [TRASH.to_owned(), format!("{TRASH}/{}", at.file_name().unwrap().display())] {
            assert_eq!(place.trash(&path), Err(Problem::Reserved), "{path}");
        }
        assert!(at.join("f").exists());
    });
}

#[test]
fn a_trash_that_is_no_directory_of_ours_is_refused_and_nothing_moved() {
    by_both_resolvers(|place| {
        place.put(&["a/f"]);
        let name = TrashName::new(NOW, VOLUME, &rel("a"));
        fs::create_dir_all(place.at("elsewhere").join(name.to_string())).unwrap();
        let trash = place.at(TRASH);
        let rows: [(&dyn Fn(), Problem); 4] = [
            (&|| symlink(place.outside(), &trash).unwrap(), Problem::Link),
            (&|| symlink("elsewhere", &trash).unwrap(), Problem::Link),
            (&|| symlink("nowhere", &trash).unwrap(), Problem::Link),
            (&|| fs::write(&trash, "").unwrap(), Problem::NotDirectory),
        ];
        for (make, problem) in rows {
            make();
            let before = stamps(&place.root);
            assert_eq!(place.trash("a"), Err(problem));
            assert_eq!(place.export.trashed(9).unwrap_err().problem, problem);
            let error = place.export.reap(&name, 1, &|| true).unwrap_err();
            assert_eq!(error.to_string(), format!("open {TRASH:?}: {problem}"));
            assert_eq!(stamps(&place.root), before);
            fs::remove_file(&trash).unwrap();
        }
    });
}

#[test]
fn the_trash_is_ours_alone_whoever_made_it() {
    by_both_resolvers(|place| {
        for (owner, mode) in [(None, 0), (None, 0o777), (None, 0o1755), (Some(1000), 0o700), (Some(1000), 0o777)] {
            if let Some(owner) = owner {
                fs::create_dir_all(place.at(TRASH)).unwrap();
                chown(place.at(TRASH), Some(owner), Some(owner)).unwrap();
            }
            if mode != 0 {
                chmod(&place.at(TRASH), mode);
            }
            place.put(&["a/f"]);
            let (name, _) = place.trashed("a");
            let found = fs::metadata(place.at(TRASH)).unwrap();
            assert_eq!((found.mode() & 0o7777, found.uid()), (0o700, 0), "{owner:?} {mode:o}");
            place.reap_all(&name);
        }
    });
}

#[test]
fn what_is_not_named_as_ours_is_left_and_told() {
    by_both_resolvers(|place| {
        place.put(&["a/", "b/"]);
        let (a, _) = place.trashed("a");
        let (b, _) = place.trashed("b");
        for foreign in [&b"notes"[..], b"1~v~a~b", b"1+60~v~a", b"01~v~a", b"1~v~\xff", b"1~v~a\n"] {
            fs::create_dir(place.at(TRASH).join(OsStr::from_bytes(foreign))).unwrap();
        }
        let mut listed = place.export.trashed(9).unwrap();
        listed.names.sort();
        assert_eq!(listed.names, [a, b]);
        assert_eq!(listed.foreign.unwrap().0, 6);
        assert_eq!(place.export.trashed(1).unwrap().names.len(), 1);
    });
}

// === reaping ===

#[test]
fn a_wide_tree_is_reaped() {
    let place = ExportSpec::new(Resolver::Openat2);
    spread(&place.at("a"), 100, 1000);
    let (name, _) = place.trashed("a");
    assert_eq!(place.reap_all(&name), 100_101);
}

#[test]
fn any_number_of_directories_in_one_is_reaped() {
    let place = ExportSpec::new(Resolver::Openat2);
    spread(&place.at("a"), 20_000, 1);
    let (name, _) = place.trashed("a");
    assert_eq!(place.reap_all(&name), 40_001);
}

#[test]
fn deep_trees_are_reaped_with_few_open_files() {
    by_both_resolvers(|place| {
        for (depth, width) in [(10_000, 0), (1_000, 2), (97, 1), (96, 0), (95, 3)] {
            dig(&place.at("a"), depth, width);
            let (name, _) = place.trashed("a");
            let most = AtomicU64::new(0);
            let checks = AtomicU64::new(0);
            let watch = || {
                if checks.fetch_add(1, Ordering::Relaxed).is_multiple_of(50) {
                    let open = fs::read_dir("/proc/self/fd").unwrap().filter(|link| {
                        let target = fs::read_link(link.as_ref().unwrap().path()).unwrap_or_default();
                        target.starts_with(&place.root)
                    });
                    most.fetch_max(open.count() as u64, Ordering::Relaxed);
                }
                true
            };
            let reaped = place.export.reap(&name, WORKERS, &watch).unwrap();
            let expected = u64::from(depth) * (1 + 2 * u64::from(width)) + 1;
            assert_eq!(reaped, Reaped { entries: expected, left: Left::Nothing }, "{depth} {width}");
            assert!(most.load(Ordering::Relaxed) < 250, "{most:?} files are open");
        }
    });
}

/// Claims must not wait because a huge tree takes the processor.
#[test]
fn whoever_empties_the_trash_lets_all_others_have_the_processor_first() {
    let priority = || rustix::process::getpriority_process(None).unwrap();
    let place = ExportSpec::new(Resolver::Openat2);
    place.put(&["v/a/x", "v/b/x", "v/c/x"]);
    let (name, _) = place.trashed("v");
    let (before, lowered) = (priority(), Mutex::new(Vec::new()));
    let looks_on = || {
        lowered.lock().unwrap().push(priority());
        true
    };
    assert_eq!(place.export.reap(&name, WORKERS, &looks_on).unwrap().left, Left::Nothing);
    let lowered = lowered.into_inner().unwrap();
    assert!(!lowered.is_empty() && lowered.iter().all(|priority| *priority == 19), "{lowered:?}");
    assert_eq!(priority(), before);
}

#[test]
fn what_stays_at_the_top_does_not_end_the_removal_of_deep_trees() {
    by_both_resolvers(|place| {
        dig(&place.at("a"), 1_000, 1);
        place.put(&["a/m/"]);
        let (name, at) = place.trashed("a");
        let mounted = Mounted::tmpfs(&at.join("m"));
        let reaped = place.reap(&name);
        assert_eq!(reaped.entries, 3_000);
        assert!(matches!(reaped.left, Left::Blocked { entries: 1, .. }), "{reaped:?}");
        assert_eq!(names(&at), ["m"]);
        drop(mounted);
        assert_eq!(place.reap_all(&name), 2);
    });
}

#[test]
fn anything_can_be_in_a_tree_that_is_reaped() {
    by_both_resolvers(|place| {
        let content = fs::read(place.outside().join("x/secret")).unwrap();
        place.put(&["a/closed/in/f", "a/.nfs0001", "a/.nfs-provisioner-deep-1/f", "a/.nfs-provisioner-deep-2"]);
        for (n, name) in
            [&b"new\nline"[..], b"\xff\xfe", b" ", b"-rf", b"*", b"\\", &[b'x'; NAME_MAX]].into_iter().enumerate()
        {
            let name = OsStr::from_bytes(name);
            fs::create_dir(place.at("a").join(name)).unwrap();
            fs::write(place.at("a").join(name).join(name), n.to_string()).unwrap();
            symlink(place.outside(), place.at("a/closed").join(name)).unwrap();
        }
        for (link, target) in [("1", "../../../outside"), ("2", ".."), ("3", "3"), ("4", "nowhere"), ("5", "/")] {
            symlink(target, place.at("a").join(link)).unwrap();
        }
        for closed in ["a/closed/in", "a/closed", "a"] {
            chmod(&place.at(closed), 0o000);
        }
        let (name, _) = place.trashed("a");
        place.reap_all(&name);
        assert_eq!(fs::read(place.outside().join("x/secret")).unwrap(), content);
    });
}

/// Not a test of its own: the next one runs it as somebody else than root.
#[test]
#[ignore = "run by a_directory_without_rights_is_reaped_by_one_who_is_not_root"]
fn as_nobody() {
    let place = ExportSpec::new(Resolver::Openat2);
    for mode in [0o000, 0o400, 0o100, 0o500, 0o200] {
        place.put(&["a/b/c/f", "a/b/e/", "a/g/f"]);
        dig(&place.at("a/deep"), 200, 1);
        for closed in ["a/b/c", "a/b/e", "a/b", "a/g", "a/deep/d/d", "a/deep"] {
            chmod(&place.at(closed), mode);
        }
        let (name, _) = place.trashed("a");
        chmod(&place.at(TRASH).join(name.to_string()), mode);
        place.reap_all(&name);
    }
}

#[test]
fn a_directory_without_rights_is_reaped_by_one_who_is_not_root() {
    // Such as root, on servers that take root for somebody else.
    let base = tempfile::tempdir().unwrap();
    chmod(base.path(), 0o777);
    let test = base.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &test).unwrap();
    let done = Command::new("setpriv")
        .args(["--reuid=1000", "--regid=1000", "--clear-groups"])
        .arg(test)
        .args(["--exact", "as_nobody", "--ignored"])
        .env("TMPDIR", base.path())
        .current_dir(base.path())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success() && output.contains("1 passed"),
        "{output}{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[test]
fn a_mount_inside_is_not_crossed_and_all_else_removed() {
    by_both_resolvers(|place| {
        place.put(&["a/b/m/", "a/b/c/f", "a/f"]);
        let (name, at) = place.trashed("a");
        let mounted = Mounted::tmpfs(&at.join("b/m"));
        fs::write(at.join("b/m/kept"), "").unwrap();
        for expected in [3, 0] {
            let Reaped { entries, left: Left::Blocked { entries: blocked, first } } = place.reap(&name) else {
                panic!("it must be blocked");
            };
            assert_eq!((entries, blocked), (expected, 1));
            assert_eq!((first.problem, first.path), (Problem::MountPoint, format!("{TRASH}/{name}/b/m")));
        }
        assert_eq!((names(&at), names(&at.join("b/m"))), (vec!["b".into()], vec!["kept".into()]));
        drop(mounted);
        assert_eq!(place.reap_all(&name), 3);
    });
}

#[test]
fn files_that_cannot_be_removed_are_told_and_all_else_removed() {
    by_both_resolvers(|place| {
        let _mounted = Mounted::tmpfs(&place.root);
        let export = Root::at(DirFd::open_top(&place.root).unwrap());
        let place = &ExportSpec { base: tempfile::tempdir().unwrap(), root: place.root.clone(), export };
        spread(&place.at("a"), 50, 20);
        place.put(&["a/7/deep/stuck", "a/7/deep/other", "a/9/stuck"]);
        let (name, at) = place.trashed("a");
        let stuck = ["7/deep/stuck", "9/stuck"].map(|path| Immutable::new(&at.join(path)));
        for expected in [1_049, 0] {
            let Reaped { entries, left: Left::Blocked { entries: blocked, first } } = place.reap(&name) else {
                panic!("it must be blocked");
            };
            assert_eq!((entries, blocked), (expected, 2));
            assert_eq!(first.problem, Problem::Os(Errno::EPERM));
            assert!(
                first.path.starts_with(&format!("{TRASH}/{name}/")) && first.path.ends_with("/stuck"),
                "{first}"
            );
        }
        assert_eq!(names(&at), ["7", "9"]);
        assert_eq!(names(&at.join("7")), ["deep"]);
        drop(stuck);
        assert_eq!(place.reap_all(&name), 6);
    });
}

#[test]
fn files_that_are_still_open_are_waited_for() {
    by_both_resolvers(|place| {
        place.put(&["a/d/open", "a/d/f", "a/g"]);
        let file = fs::File::open(place.at("a/d/open")).unwrap();
        let (name, at) = place.trashed("a");
        if statfs(&at).unwrap().filesystem_type() == NFS_SUPER_MAGIC {
            for expected in [3, 0] {
                let Reaped { entries, left: Left::Blocked { entries: 1, first } } = place.reap(&name) else {
                    panic!("it must be blocked");
                };
                assert_eq!((entries, first.problem), (expected, Problem::StillOpen));
                assert!(first.path.starts_with(&format!("{TRASH}/{name}/d/.nfs")), "{first}");
            }
            drop(file);
            assert_eq!(place.reap_all(&name), 2);
            return;
        }
        assert_eq!(place.reap_all(&name), 5);

        // Where NFS is not to be had, a mount makes a file as hard to remove as NFS does.
        place.put(&["a/d/.nfs0000000000000001", "a/d/f"]);
        let (name, at) = place.trashed("a");
        let open = Mounted::bind(&place.outside().join("x/secret"), &at.join("d/.nfs0000000000000001"));
        let Left::Blocked { entries: 1, first } = place.reap(&name).left else { panic!("it must be blocked") };
        assert_eq!(first.problem, Problem::StillOpen);
        drop(open);
        assert_eq!(place.reap_all(&name), 3);
    });
}

#[test]
fn a_link_that_got_into_the_trash_is_removed_itself() {
    by_both_resolvers(|place| {
        place.put(&["a/"]);
        let (name, at) = place.trashed("a");
        fs::remove_dir(&at).unwrap();
        symlink(place.outside(), &at).unwrap();
        assert_eq!(place.reap_all(&name), 1);
    });
}

#[test]
fn a_removal_that_was_cut_is_finished_by_the_next() {
    by_both_resolvers(|place| {
        spread(&place.at("a"), 20, 50);
        dig(&place.at("a/deep"), 300, 1);
        let (name, _) = place.trashed("a");
        let mut removed = 0;
        for turn in 0.. {
            // Enough to get as deep as it goes before anything is removed, though each who looks in vain for something
            // to do asks, too; and too little for all.
            let left = AtomicU64::new(1_000);
            let goes_on = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
            let reaped = place.export.reap(&name, WORKERS, &goes_on).unwrap();
            removed += reaped.entries;
            match reaped.left {
                Left::More => assert!(turn < 200 && reaped.entries > 0, "{turn}: {reaped:?}"),
                Left::Nothing => break,
                Left::Blocked { .. } => panic!("{reaped:?}"),
            }
        }
        // What is moved up may take the place of an empty directory that an earlier turn has moved up.
        let all = 20 * 51 + 300 * 3 + 2;
        assert!((all - 20..=all).contains(&removed), "{removed} of {all}");
        assert_eq!(names(&place.at(TRASH)), [""; 0]);
    });
}

#[test]
fn two_who_reap_one_entry_do_no_harm() {
    by_both_resolvers(|place| {
        for _ in 0..5 {
            spread(&place.at("a"), 50, 50);
            dig(&place.at("a/deep"), 300, 1);
            let (name, _) = place.trashed("a");
            let removed: u64 = thread::scope(|scope| {
                let both = [scope.spawn(|| place.reap(&name)), scope.spawn(|| place.reap(&name))];
                let ended = both.map(|one| one.join().unwrap());
                assert!(ended.iter().all(|reaped| reaped.left == Left::Nothing), "{ended:?}");
                ended.iter().map(|reaped| reaped.entries).sum()
            });
            // What one moves up may take the place of an empty directory that the other has moved up.
            let all = 50 * 51 + 300 * 3 + 2;
            assert!((all - 20..=all).contains(&removed), "{removed} of {all}");
            assert_eq!(names(&place.at(TRASH)), [""; 0]);
        }
    });
}

#[test]
fn one_who_keeps_writing_does_not_keep_the_reaper_for_ever() {
    for busy in ["", "b"] {
        by_both_resolvers(|place| {
            place.put(&["a/b/"]);
            let dir = open_dir(&place.at("a").join(busy));
            let (name, at) = place.trashed("a");
            let done = AtomicBool::new(false);
            let begun = Instant::now();
            thread::scope(|scope| {
                let _stop = OnDrop(|| done.store(true, Ordering::Relaxed));
                for writer in 0..2 {
                    let (dir, done) = (&dir, &done);
                    scope.spawn(move || {
                        for n in 0.. {
                            let _ = mkdirat(dir, &*format!("{writer}-d{n}"), Mode::S_IRWXU);
                            if done.load(Ordering::Relaxed) || touch(dir, &format!("{writer}-{n}")).is_err() {
                                break;
                            }
                        }
                    });
                }
                let limit = Duration::from_secs(3);
                let reaped = place.export.reap(&name, WORKERS, &|| begun.elapsed() < limit).unwrap();
                assert!(begun.elapsed() < limit * 2, "{:?}", begun.elapsed());
                match reaped.left {
                    Left::Nothing => assert!(!at.exists()),
                    Left::More => assert!(at.exists()),
                    Left::Blocked { .. } => panic!("{reaped:?}"),
                }
            });
            place.reap_all(&name);
        });
    }
}

#[test]
fn nothing_is_removed_outside_by_exchanging_a_directory_inside_with_a_link() {
    by_both_resolvers(|place| {
        let mut changed = 0;
        let end = Instant::now() + PATIENCE / 6;
        while Instant::now() < end {
            place.put(&["a/d/x/secret", "a/e/f", "a/z/f"]);
            symlink(place.outside(), place.at("a/link")).unwrap();
            let (name, at) = place.trashed("a");
            let done = AtomicBool::new(false);
            thread::scope(|scope| {
                let _stop = OnDrop(|| done.store(true, Ordering::Relaxed));
                let attacker = scope.spawn(|| {
                    let (one, other) = (at.join("d"), at.join("link"));
                    let mut times = 0;
                    while !done.load(Ordering::Relaxed) {
                        times += u32::from(
                            renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).is_ok(),
                        );
                    }
                    times
                });
                let mut left = place.reap(&name).left;
                while left != Left::Nothing {
                    left = place.reap(&name).left;
                }
                done.store(true, Ordering::Relaxed);
                changed += attacker.join().unwrap();
            });
            assert_eq!(names(&place.at(TRASH)), [""; 0]);
        }
        assert!(changed > 1000, "the race was none: {changed}");
    });
}

// === in the background ===

/// A storage whose trash is emptied while `case` runs.
async fn while_reaped<F: Future>(
    leads: &AtomicBool,
    case: impl FnOnce(Arc<ExportSpec>, Storage, Arc<Backlog>) -> F,
) {
    let place = Arc::new(ExportSpec::new(Resolver::Openat2));
    let storage = Storage::from(Root::open(&place.root).unwrap());
    let backlog = Arc::new(Backlog::default());
    tokio::select! {
        () = reap_forever(storage.clone(), || leads.load(Ordering::Relaxed), &backlog) => {}
        _ = case(place, storage.clone(), Arc::clone(&backlog)) => {}
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_blocked_keeps_nothing_else_waiting_and_is_tried_again() {
    let leads = AtomicBool::new(true);
    while_reaped(&leads, async |place, storage, backlog| {
        let mut mounts = Vec::new();
        for n in 0..3 {
            place.put(&[&format!("stuck{n}/m/"), &format!("stuck{n}/f")]);
            let (_, at) = place.trashed(&format!("stuck{n}"));
            mounts.push(Mounted::tmpfs(&at.join("m")));
        }
        fs::create_dir(place.at(TRASH).join("foreign")).unwrap();
        backlog.pushed();
        until("told as blocked", || backlog.counts().blocked == 3).await;
        for n in 0..20 {
            let directory = rel(&format!("ns/{n}"));
            storage.create(&directory).await.unwrap();
            assert!(storage.trash(&directory, VOLUME, NOW).await.unwrap().is_some());
            backlog.pushed();
        }
        until("all others removed", || names(&place.at(TRASH)).len() == 4).await;
        until("counted", || backlog.counts() == Counts { waiting: 3, blocked: 3, removed: 23 }).await;
        mounts.clear();
        until("tried again", || names(&place.at(TRASH)) == ["foreign"]).await;
        until("counted again", || backlog.counts() == Counts { waiting: 0, blocked: 0, removed: 29 }).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_leads_reaps_and_the_next_to_lead_finishes() {
    let leads = AtomicBool::new(false);
    while_reaped(&leads, async |place, _, backlog| {
        spread(&place.at("a"), 100, 300);
        place.trashed("a");
        backlog.pushed();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(fs::read_dir(place.at(TRASH)).unwrap().count(), 1);
        leads.store(true, Ordering::Relaxed);
        until("removed", || names(&place.at(TRASH)).is_empty()).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reaping_ends_when_nobody_waits_for_it() {
    let place = ExportSpec::new(Resolver::Openat2);
    spread(&place.at("a"), 100, 300);
    let (name, at) = place.trashed("a");
    let storage = Storage::from(Root::open(&place.root).unwrap());
    let cut = tokio::time::timeout(Duration::from_millis(20), storage.reap(&name, PATIENCE)).await;
    assert!(cut.is_err(), "it was too fast: {cut:?}");
    // All threads of it have ended once as many are free as there were.
    let again = storage.reap(&name, Duration::ZERO).await.unwrap();
    assert_eq!((again.entries, again.left), (0, Left::More));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = stamps(&at);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(stamps(&at), before);
    assert_eq!(storage.reap(&name, PATIENCE).await.unwrap().left, Left::Nothing);
}
