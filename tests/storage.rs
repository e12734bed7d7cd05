//! The export's directories, on real file systems and by both ways of opening them. Requirements root: file systems are
//! mounted, and nothing is skipped where that cannot be done.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "what helpers of tests do when they fail")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nfs_provisioner::layout::TRASH;
use nfs_provisioner::storage::{Created, DirFd, Left, Problem, Resolver, Root, StorageError};
use nfs_provisioner::values::ownership::Ownership;
use nfs_provisioner::values::path::{NAME_MAX, RelPath};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, open, openat, renameat2};
use nix::sys::stat::{Mode, fstat, mkdirat, umask};
use nix::unistd::{Uid, mkfifo, setfsuid};
use tempfile::TempDir;

/// The name of the volume whose directories are archived.
const NOTES: &str = ".nfs-provisioner-archives";
const VOLUME: &str = "pvc-1";

/// How long anything may take that other threads interfere with.
const PATIENCE: Duration = Duration::from_mins(1);

/// Entries of an export, as [`ExportSpec::tree`] shows them.
type Tree = &'static [&'static str];

/// An export, and beside it a directory `outside`, which nothing done to the export may touch.
struct ExportSpec {
    base: TempDir,
    root: PathBuf,
    export: Root,
    resolver: Resolver,
}

/// Runs `case` by each way of opening directories, in a place of its own.
fn by_both_resolvers(case: impl Fn(&ExportSpec)) {
    for resolver in [Resolver::Openat2, Resolver::Openat] {
        // Shown if it fails.
        eprintln!("by {resolver:?}:");
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("export");
        fs::create_dir(&root).unwrap();
        let place = ExportSpec { export: export(&root, resolver), base, root, resolver };
        place.put(&["../outside/x/secret"]);
        for private in ["outside", "outside/x", "outside/x/secret"] {
            chmod(&place.base.path().join(private), 0o700);
        }
        case(&place);
    }
}

fn export(dir: &Path, resolver: Resolver) -> Root {
    Root::at(DirFd::open_top(dir).unwrap().with_resolver(resolver))
}

impl ExportSpec {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Makes entries, written as [`ExportSpec::tree`] shows them, and the directories above them.
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

    /// All entries of the export, as `ls -F` marks them: `directory/`, `file`, `link -> target`, `fifo|`, `socket=`.
    /// Notes on archives, which have tests of their own, are left out.
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
        let archived = self.export.archive(&rel(path), VOLUME, "note");
        match archived {
            Ok(name) => Ok(name.map(|name| name.to_string())),
            Err(error) => Err(error.problem),
        }
    }

    /// By way of the trash, which is taken away again once it is empty.
    fn remove(&self, path: &str) -> Result<(), Problem> {
        let removed = match self.export.trash(&rel(path), "pv", 1) {
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

// === create ===

#[test]
fn create_makes_what_is_missing_and_adopts_what_is_there() {
    let rows: &[(Tree, &str, usize, Tree)] = &[
        (&[], "a", 1, &["a/"]),
        (&[], "a/b/c", 3, &["a/", "a/b/", "a/b/c/"]),
        (&["a/"], "a/b/c", 2, &["a/", "a/b/", "a/b/c/"]),
        (&["a/b/"], "a/b/c", 1, &["a/", "a/b/", "a/b/c/"]),
        (&["a/b/c/"], "a/b/c", 0, &["a/", "a/b/", "a/b/c/"]),
        (&["a/b/f"], "a/b", 0, &["a/", "a/b/", "a/b/f"]),
        (&["a/f", "link -> a"], "a/b", 1, &["a/", "a/b/", "a/f", "link -> a"]),
    ];
    for (before, path, made, after) in rows {
        by_both_resolvers(|place| {
            place.put(before);
            assert_eq!(place.create(path), Ok(*made), "{before:?} {path}");
            assert_eq!(place.tree(), *after, "{before:?} {path}");
            let stamps = place.stamps();
            assert_eq!(place.create(path), Ok(0), "{before:?} {path} again");
            assert_eq!(place.stamps(), stamps, "{before:?} {path} again");
        });
    }
}

#[test]
fn anybody_may_write_in_a_volume_whatever_the_umask() {
    by_both_resolvers(|place| {
        for mask in UMASKS {
            let _umask = Umask::set(mask);
            for path in [format!("{mask:o}"), format!("under/{mask:o}")] {
                place.create(&path).unwrap();
                assert_eq!(place.mode(&path), 0o777, "{mask:o}");
            }
        }
    });
}

#[test]
fn anybody_may_pass_to_a_volume_and_nobody_write_above_it_whatever_the_umask() {
    by_both_resolvers(|place| {
        for mask in UMASKS {
            let _umask = Umask::set(mask);
            let top = format!("{mask:o}");
            assert_eq!(place.create(&format!("{top}/b/c")), Ok(3));
            for parent in [top.clone(), format!("{top}/b")] {
                let mode = place.mode(&parent);
                assert_eq!(mode, 0o755, "umask {mask:03o}: {parent} has {mode:03o}");
            }
        }
    });
}

#[test]
fn an_adopted_directory_is_opened_to_all_and_otherwise_left_alone() {
    by_both_resolvers(|place| {
        for (mode, expected) in
            [(0o700, 0o777), (0o000, 0o777), (0o777, 0o777), (0o2700, 0o2777), (0o1750, 0o1777), (0o7700, 0o7777)]
        {
            let path = format!("{mode:o}");
            place.put(&[&format!("{path}/f")]);
            chmod(&place.at(&path), mode);
            chown(place.at(&path), Some(1000), Some(2000)).unwrap();
            // A chown may clear bits.
            chmod(&place.at(&path), mode);
            assert_eq!(place.create(&path), Ok(0));
            let found = fs::metadata(place.at(&path)).unwrap();
            let owners = (found.uid(), found.gid());
            assert_eq!((place.mode(&path), owners), (expected, (1000, 2000)), "{mode:o}");
            let content = fs::read_to_string(place.at(&path).join("f")).unwrap();
            assert_eq!(content, format!("{path}/f"));
        }
    });
}

#[test]
fn directories_above_an_adopted_one_keep_their_modes() {
    by_both_resolvers(|place| {
        place.put(&["a/b/c/"]);
        chmod(&place.at("a"), 0o711);
        chmod(&place.at("a/b"), 0o700);
        assert_eq!(place.create("a/b/c"), Ok(0));
        assert_eq!(place.create("a/b/d"), Ok(1));
        assert_eq!((place.mode("a"), place.mode("a/b")), (0o711, 0o700));
    });
}

#[test]
fn a_volume_beneath_a_setgid_directory_keeps_its_group_and_the_bit() {
    by_both_resolvers(|place| {
        place.put(&["team/"]);
        chown(place.at("team"), None, Some(2000)).unwrap();
        chmod(&place.at("team"), 0o2750);
        assert_eq!(place.create("team/a"), Ok(1));
        assert_eq!(place.mode("team/a"), 0o2777);
        assert_eq!(fs::metadata(place.at("team/a")).unwrap().gid(), 2000);
    });
}

/// A directory's mode, owner and group.
fn ownership_of(path: &Path) -> (u32, u32, u32) {
    let found = fs::metadata(path).unwrap();
    (found.mode() & 0o7777, found.uid(), found.gid())
}

fn owned(mode: &str, uid: Option<u32>, gid: Option<u32>) -> Ownership {
    Ownership { mode: mode.parse().ok(), uid, gid, keep: false }
}

#[test]
fn a_directory_gets_the_mode_and_owners_that_it_is_to_have_whatever_the_umask_and_what_was_there() {
    let rows = [
        (owned("2770", None, Some(5000)), (0o2770, 0, 5000)),
        (owned("0750", Some(1000), None), (0o750, 1000, 0)),
        (owned("0000", Some(1000), Some(5000)), (0, 1000, 5000)),
        (owned("3777", None, None), (0o3777, 0, 0)),
        (owned("", Some(1000), Some(5000)), (0o777, 1000, 5000)),
        (Ownership { keep: true, ..owned("", None, None) }, (0o777, 0, 0)),
    ];
    by_both_resolvers(|place| {
        for mask in UMASKS {
            let _umask = Umask::set(mask);
            for (number, (ownership, expected)) in rows.iter().enumerate() {
                let path = format!("{mask:o}/{number}");
                let create = || place.export.create_as(&rel(&path), *ownership).unwrap().made;
                assert!(create() > 0);
                assert_eq!(ownership_of(&place.at(&path)), *expected, "{mask:o} {ownership:?}");
                assert_eq!(create(), 0);
                assert_eq!(ownership_of(&place.at(&path)), *expected, "{mask:o} {ownership:?} again");
                assert_eq!(place.mode(&format!("{mask:o}")), 0o755, "those above are nobody's");
                // As it was left by somebody else, or by us, before it had its owners.
                for (mode, uid) in [(0o1777, 7), (0o700, 7), (0o1700, 0), (0o3700, 0)] {
                    let adopted = format!("{path}-{mode:o}");
                    place.put(&[&format!("{adopted}/")]);
                    chown(place.at(&adopted), Some(uid), Some(uid)).unwrap();
                    chmod(&place.at(&adopted), mode);
                    place.export.create_as(&rel(&adopted), *ownership).unwrap();
                    let found = ownership_of(&place.at(&adopted));
                    match ownership.mode {
                        _ if ownership.keep && uid == 7 => assert_eq!(found, (mode, uid, uid)),
                        Some(_) => assert_eq!(found.0, expected.0, "{mode:o} {ownership:?}"),
                        None => assert_eq!(found.0 & 0o777, 0o777, "{mode:o} {ownership:?}"),
                    }
                    if !ownership.keep {
                        let owners = (ownership.uid.unwrap_or(uid), ownership.gid.unwrap_or(uid));
                        assert_eq!((found.1, found.2), owners, "{mode:o} {ownership:?}");
                    }
                }
            }
        }
    });
}

#[test]
fn what_is_kept_as_it_is_need_not_even_be_readable() {
    by_both_resolvers(|place| {
        for mode in [0o000, 0o711, 0o2770] {
            let path = format!("{mode:o}");
            place.put(&[&format!("{path}/file")]);
            chown(place.at(&path), Some(1000), Some(2000)).unwrap();
            chmod(&place.at(&path), mode);
            let stamps = place.stamps();
            let keep = Ownership { keep: true, ..owned("2750", Some(3000), Some(4000)) };
            assert_eq!(place.export.create_as(&rel(&path), keep).unwrap().made, 0);
            assert_eq!(place.stamps(), stamps, "{mode:o}");
        }
    });
}

#[test]
fn the_group_of_a_directory_is_found_and_of_nothing_else() {
    by_both_resolvers(|place| {
        place.put(&["a/b/", "file", "link -> a"]);
        chown(place.at("a/b"), None, Some(5000)).unwrap();
        let group = |path| place.export.group(&rel(path)).map_err(|error| error.problem);
        assert_eq!(group("a/b"), Ok(Some(5000)));
        assert_eq!(group("a/c"), Ok(None));
        assert_eq!(group("c/b"), Ok(None));
        assert_eq!(group("file"), Err(Problem::NotDirectory));
        assert_eq!(group("link/b"), Err(Problem::Link));
    });
}

/// The capabilities of a thread are those of its user on files.
#[test]
fn who_may_not_give_directories_away_is_told_so_and_leaves_none() {
    by_both_resolvers(|place| {
        chmod(&place.root, 0o777);
        let error = thread::scope(|scope| {
            let create = || {
                setfsuid(Uid::from_raw(1000));
                place.export.create_as(&rel("a/b"), owned("2770", None, Some(5000))).unwrap_err()
            };
            scope.spawn(create).join().unwrap()
        });
        assert_eq!((error.doing, error.problem), ("chown", Problem::Capability("CHOWN")));
        assert_eq!(place.tree(), Vec::<String>::new());
    });
}

#[test]
fn a_failed_create_takes_back_just_what_it_made() {
    // A file system that is full after so many directories: what is there, what is asked for, what stays.
    let rows: &[(Tree, u32, &str, Tree)] = &[
        (&[], 0, "a", &[]),
        (&[], 2, "a/b/c", &[]),
        (&["a/"], 2, "a/b/c/d", &["a/"]),
        (&["a/b/", "z/"], 1, "a/b/c/d", &["a/", "a/b/", "z/"]),
        (&["a/b/"], 0, "a/b/c", &["a/", "a/b/"]),
    ];
    for (before, room, path, after) in rows {
        by_both_resolvers(|place| {
            let inodes = u32::try_from(after.len()).unwrap() + room + 1;
            let _full = Mounted::tmpfs(&format!("nr_inodes={inodes}"), &place.root);
            let export = export(&place.root, place.resolver);
            place.put(before);
            let error = export.create(&rel(path)).unwrap_err();
            assert_eq!(error.problem, Problem::Os(Errno::ENOSPC), "{before:?} {path}");
            assert_eq!(place.tree(), *after, "{before:?} {path}");
        });
    }
}

#[test]
fn of_two_who_make_a_directory_at_once_only_one_has_made_it() {
    by_both_resolvers(|place| {
        for n in 0..500 {
            let path = rel(&format!("{n}/b/c"));
            let start = Barrier::new(2);
            let create = || {
                start.wait();
                place.export.create(&path).unwrap().made
            };
            let made: usize = thread::scope(|scope| {
                let both = [scope.spawn(create), scope.spawn(create)];
                both.into_iter().map(|one| one.join().unwrap()).sum()
            });
            // Fewer than there are, if each was in a directory that the other had made: then none counts.
            assert!(made <= 3, "{made}");
        }
    });
}

// === undo ===

#[test]
fn undo_takes_back_what_was_made_as_far_as_it_is_empty() {
    // What was there, what is made, what came into it since, what is left.
    let rows: &[(Tree, &str, Tree, Tree)] = &[
        (&[], "a", &[], &[]),
        (&[], "a/b/c", &[], &[]),
        (&["a/"], "a/b/c", &[], &["a/"]),
        (&["a/b/"], "a/b/c", &[], &["a/", "a/b/"]),
        (&["a/b/c/"], "a/b/c", &[], &["a/", "a/b/", "a/b/c/"]),
        (&["a/f"], "a", &[], &["a/", "a/f"]),
        (&[], "a/b", &["a/b/f"], &["a/", "a/b/", "a/b/f"]),
        (&[], "a/b", &["a/b/c/"], &["a/", "a/b/", "a/b/c/"]),
        (&[], "a/b/c", &["a/b/f"], &["a/", "a/b/", "a/b/f"]),
        (&[], "a/b/c", &["a/other/"], &["a/", "a/other/"]),
        (&[], "a/b/c", &["z"], &["z"]),
    ];
    for (before, path, since, after) in rows {
        by_both_resolvers(|place| {
            place.put(before);
            let created = place.export.create(&rel(path)).unwrap();
            place.put(since);
            // Twice is as good as once.
            for _ in 0..2 {
                place.export.undo(&rel(path), created);
                assert_eq!(place.tree(), *after, "{before:?} {path} {since:?}");
            }
        });
    }
}

#[test]
fn undo_follows_no_links_and_stops_where_something_else_has_come() {
    let rows: &[(&str, &str, Tree)] = &[
        ("a", "a -> ../outside", &["a -> ../outside", "was/", "was/b/", "was/b/c/"]),
        ("a/b", "a/b -> ../../outside/b", &["a/", "a/b -> ../../outside/b", "was/", "was/c/"]),
        ("a/b/c", "a/b/c -> ../../../outside/b", &["a/", "a/b/", "a/b/c -> ../../../outside/b", "was/"]),
        ("a/b/c", "a/b/c", &["a/", "a/b/", "a/b/c", "was/"]),
    ];
    for (moved, instead, after) in rows {
        by_both_resolvers(|place| {
            place.put(&["../outside/b/c/"]);
            let before = stamps(&place.at("../outside"));
            let created = place.export.create(&rel("a/b/c")).unwrap();
            assert_eq!(created, Created { made: 3 });
            fs::rename(place.at(moved), place.at("was")).unwrap();
            place.put(&[instead]);
            place.export.undo(&rel("a/b/c"), created);
            assert_eq!(place.tree(), *after, "{instead}");
            assert_eq!(stamps(&place.at("../outside")), before, "{instead}");
        });
    }
}

// === what is refused ===

#[test]
fn links_are_never_followed_wherever_they_stand_and_lead() {
    by_both_resolvers(|place| {
        let absolute = [
            place.base.path().join("outside").display().to_string(),
            place.root.join("real").display().to_string(),
        ];
        let targets = [
            "real",
            "real/x",
            ".",
            "..",
            "../outside",
            "../../outside",
            "../outside/x/secret",
            "nowhere",
            "no/where",
            "/nowhere",
            "link",
            "/",
            &absolute[0],
            &absolute[1],
        ];
        place.put(&["real/x/f", "real/deep/f"]);
        for target in targets {
            eprintln!("to {target}:");
            let links = ["link", "real/link", "real/deep/link"];
            for link in links {
                place.put(&[&format!("{link} -> {target}")]);
            }
            for link in links {
                place.refuses(link, Problem::Link);
                place.refuses(&format!("{link}/x"), Problem::Link);
                place.refuses(&format!("{link}/new/er"), Problem::Link);
            }
            for link in links {
                fs::remove_file(place.at(link)).unwrap();
            }
        }
    });
}

#[test]
fn what_is_no_directory_is_refused_as_component_and_as_leaf() {
    by_both_resolvers(|place| {
        place.put(&["file", "a/b/file", "fifo|", "a/b/fifo|", "socket=", "a/b/socket="]);
        for kind in ["file", "fifo", "socket"] {
            for path in [kind.to_owned(), format!("a/b/{kind}")] {
                place.refuses(&path, Problem::NotDirectory);
                place.refuses(&format!("{path}/x"), Problem::NotDirectory);
                place.refuses(&format!("{path}/x/y"), Problem::NotDirectory);
            }
        }
    });
}

#[test]
fn mount_points_are_never_crossed() {
    by_both_resolvers(|place| {
        place.put(&["a/m/"]);
        let at = place.at("a/m");
        let mounted = Mounted::tmpfs("mode=0700", &at);
        place.put(&["a/m/x/f"]);
        for path in ["a/m", "a/m/x", "a/m/new/er"] {
            place.refuses(path, Problem::MountPoint);
        }
        drop(mounted);
        assert_eq!(place.remove("a"), Ok(()));
        assert_eq!(place.tree(), [""; 0]);
    });
}

#[test]
fn mounts_of_the_same_file_system_are_not_crossed_either() {
    by_both_resolvers(|place| {
        place.put(&["a/m/"]);
        let at = place.at("a/m");
        let outside = place.base.path().join("outside");
        let _mounted = Mounted::mount(&["--bind", outside.to_str().unwrap()], &at);
        for path in ["a/m", "a/m/x"] {
            place.refuses(path, Problem::MountPoint);
        }
    });
}

#[test]
fn errors_say_what_was_being_done_to_what_and_show_names_escaped() {
    by_both_resolvers(|place| {
        place.put(&["f", "link -> nowhere", "new\nline"]);
        let words = |error: StorageError| error.to_string();
        let create = |path| words(place.export.create(&rel(path)).unwrap_err());
        assert_eq!(create("f/x"), r#"mkdir "f/x": is not a directory"#);
        assert_eq!(create("link"), r#"mkdir "link": is a symbolic link, which is never followed"#);
        assert_eq!(create("new\nline"), r#"mkdir "new\nline": is not a directory"#);
        let removed = words(place.export.trash(&rel("f"), VOLUME, 1).unwrap_err());
        assert_eq!(removed, r#"open "f": is not a directory"#);
        let absent = words(Root::open(&place.at("absent")).unwrap_err());
        assert!(
            absent.starts_with("open \"") && absent.ends_with("absent\": no such file or directory"),
            "{absent}"
        );
    });
}

#[test]
fn the_export_itself_may_be_reached_by_a_link() {
    by_both_resolvers(|place| {
        place.put(&["../mount -> export"]);
        let export = export(&place.base.path().join("mount"), place.resolver);
        assert_eq!(export.create(&rel("a")).unwrap().made, 1);
        assert_eq!(place.tree(), ["a/"]);
        assert!(Root::open(&place.base.path().join("mount")).is_ok());
        assert!(Root::open(&place.base.path().join("outside/x/secret")).is_err());
    });
}

// === archive ===

#[test]
fn archives_stand_at_the_exports_root_under_a_name_that_is_free() {
    let rows: &[(Tree, &str, Option<&str>, Tree)] = &[
        (&["c/f"], "c", Some("archived-c"), &["archived-c/", "archived-c/f"]),
        (&["c/"], "c", Some("archived-c"), &["archived-c/"]),
        (
            &["ns/k/c/f", "ns/d/"],
            "ns/k/c",
            Some("archived-c"),
            &["archived-c/", "archived-c/f", "ns/", "ns/d/", "ns/k/"],
        ),
        (
            &["archived-c/f"],
            "archived-c",
            Some("archived-archived-c"),
            &["archived-archived-c/", "archived-archived-c/f"],
        ),
        // Taken: by a directory with content and by one without, by a file, by links.
        (
            &["c/new", "archived-c/old"],
            "c",
            Some("archived-c-pvc-1"),
            &["archived-c-pvc-1/", "archived-c-pvc-1/new", "archived-c/", "archived-c/old"],
        ),
        (
            &["ns/c/new", "archived-c/"],
            "ns/c",
            Some("archived-c-pvc-1"),
            &["archived-c-pvc-1/", "archived-c-pvc-1/new", "archived-c/", "ns/"],
        ),
        (&["c/", "archived-c"], "c", Some("archived-c-pvc-1"), &["archived-c", "archived-c-pvc-1/"]),
        (
            &["c/", "archived-c -> ../outside"],
            "c",
            Some("archived-c-pvc-1"),
            &["archived-c -> ../outside", "archived-c-pvc-1/"],
        ),
        (
            &["c/", "archived-c -> nowhere"],
            "c",
            Some("archived-c-pvc-1"),
            &["archived-c -> nowhere", "archived-c-pvc-1/"],
        ),
        (
            &["c/", "archived-c/", "archived-c-pvc-1", "archived-c-pvc-1-2 -> c"],
            "c",
            Some("archived-c-pvc-1-3"),
            &["archived-c-pvc-1", "archived-c-pvc-1-2 -> c", "archived-c-pvc-1-3/", "archived-c/"],
        ),
        (&["d/"], "c", None, &["d/"]),
        (&["d/"], "d/c", None, &["d/"]),
        (&["d/"], "c/d/e", None, &["d/"]),
    ];
    for (before, path, name, after) in rows {
        by_both_resolvers(|place| {
            place.put(before);
            let outside = stamps(&place.at("../outside"));
            assert_eq!(place.archive(path), Ok(name.map(Into::into)), "{before:?} {path}");
            assert_eq!(place.tree(), *after, "{before:?} {path}");
            // Once it is done there is nothing to do.
            assert_eq!(place.archive(path), Ok(None), "{before:?} {path} again");
            assert_eq!(place.tree(), *after, "{before:?} {path} again");
            assert_eq!(stamps(&place.at("../outside")), outside, "{before:?} {path}");
        });
    }
}

#[test]
fn an_archive_is_the_directory_as_it_was() {
    by_both_resolvers(|place| {
        place.put(&["ns/c/f", "ns/c/link -> ../../../outside", "ns/c/p|", "ns/c/closed/f"]);
        chmod(&place.at("ns/c/closed"), 0o000);
        chmod(&place.at("ns/c"), 0o2770);
        chown(place.at("ns/c"), Some(1000), Some(2000)).unwrap();
        let inside = |dir: &str| {
            let strip =
                |(path, stamp): (PathBuf, [i64; 6])| (path.strip_prefix(place.at(dir)).unwrap().to_owned(), stamp);
            let mut found: BTreeMap<_, _> = stamps(&place.at(dir)).into_iter().map(strip).collect();
            // Being renamed leaves a mark on the directory itself: inode, mode and links have to do.
            found.insert(PathBuf::new(), {
                let [inode, mode, links, ..] = found[Path::new("")];
                [inode, mode, links, 0, 0, 0]
            });
            found
        };
        let before = inside("ns/c");
        assert_eq!(place.archive("ns/c"), Ok(Some("archived-c".to_owned())));
        assert_eq!(inside("archived-c"), before);
    });
}

#[test]
fn the_longest_names_can_be_archived_twice() {
    by_both_resolvers(|place| {
        let leaf = "x".repeat(NAME_MAX);
        let names = [0, 1].map(|_| {
            place.put(&[&format!("{leaf}/f")]);
            place.archive(&leaf).unwrap().unwrap()
        });
        assert_ne!(names[0], names[1]);
        for name in names {
            assert!(name.starts_with("archived-xxx") && name.contains("-pvc-1"), "{name}");
            assert!(place.at(&name).join("f").is_file(), "{name}");
        }
    });
}

#[test]
fn a_directory_whose_archives_are_all_taken_stays() {
    by_both_resolvers(|place| {
        place.put(&["c/f", "archived-c", "archived-c-pvc-1"]);
        for nth in 2..1000 {
            place.put(&[&format!("archived-c-pvc-1-{nth}")]);
        }
        let before = place.stamps();
        assert_eq!(place.archive("c"), Err(Problem::Os(Errno::EEXIST)));
        assert_eq!(place.stamps(), before);
    });
}

// === remove ===

#[test]
fn remove_takes_the_directory_and_nothing_around_it() {
    let rows: &[(Tree, &str, Tree)] = &[
        (&["a/"], "a", &[]),
        (&["a/b/c/f", "a/d/", "a/f"], "a", &[]),
        (&["a/b/f", "a/c/", "a/f", "ab/"], "a/b", &["a/", "a/c/", "a/f", "ab/"]),
        (&["a/b/c/f"], "a/b/c", &["a/", "a/b/"]),
        (&["archived-a/f", "a/f"], "archived-a", &["a/", "a/f"]),
        (&["link -> a", "a/f"], "a", &["link -> a"]),
        // Missing is fine.
        (&["d/f"], "a", &["d/", "d/f"]),
        (&["d/f"], "d/a", &["d/", "d/f"]),
        (&["d/f"], "a/b/c", &["d/", "d/f"]),
    ];
    for (before, path, after) in rows {
        by_both_resolvers(|place| {
            place.put(before);
            for _ in 0..2 {
                assert_eq!(place.remove(path), Ok(()), "{before:?} {path}");
                assert_eq!(place.tree(), *after, "{before:?} {path}");
            }
        });
    }
}

#[test]
fn anything_can_be_in_a_directory_that_is_removed() {
    by_both_resolvers(|place| {
        let outside = place.at("../outside");
        place.put(&[
            "a/fifo|",
            "a/socket=",
            "a/dangling -> nowhere",
            "a/loop -> loop",
            "a/out -> ../../outside",
            "a/up -> ..",
            "a/kept -> ../kept",
            "a/closed/in/f",
            "a/closed/in/secret -> ../../../../outside/x/secret",
            "a/.nfs-provisioner-deep-1/f",
            "a/.nfs-provisioner-deep-2",
            "a/archived-a/f",
            "kept/f",
        ]);
        symlink(&outside, place.at("a/absolute")).unwrap();
        fs::hard_link(outside.join("x/secret"), place.at("a/hard")).unwrap();
        for name in [&b"new\nline"[..], b"\xff\xfe", b" ", b"-rf", b"*", b"\\", &[b'x'; NAME_MAX]] {
            let name = OsStr::from_bytes(name);
            fs::create_dir(place.at("a").join(name)).unwrap();
            fs::write(place.at("a").join(name).join(name), "").unwrap();
            symlink(&outside, place.at("a/closed").join(name)).unwrap();
        }
        for closed in ["a/closed/in", "a/closed", "a"] {
            chmod(&place.at(closed), 0o000);
        }
        let content = fs::read_to_string(outside.join("x/secret")).unwrap();
        assert_eq!(place.remove("a"), Ok(()));
        assert_eq!(place.tree(), ["kept/", "kept/f"]);
        assert_eq!(fs::read_to_string(outside.join("x/secret")).unwrap(), content);
        assert_eq!(walk(&outside).len(), 2);
    });
}

#[test]
fn symlinks_in_a_directory_that_is_removed_leave_their_targets_untouched() {
    by_both_resolvers(|place| {
        let before = stamps(&place.at("../outside"));
        place.put(&["a/out -> ../../outside", "a/b/x -> ../../../outside/x"]);
        place.put(&["a/b/secret -> ../../../outside/x/secret"]);
        assert_eq!(place.remove("a"), Ok(()));
        assert_eq!(stamps(&place.at("../outside")), before);
    });
}

#[test]
fn many_files_in_one_directory_are_all_removed() {
    by_both_resolvers(|place| {
        place.put(&["a/d/", "kept/"]);
        for n in 0..20_000 {
            fs::write(place.at("a").join(n.to_string()), "").unwrap();
        }
        assert_eq!(place.remove("a"), Ok(()));
        assert_eq!(place.tree(), ["kept/"]);
    });
}

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

#[test]
fn a_tree_is_removed_however_deep_it_is() {
    // Fewer descriptors than directories, as most processes have.
    let process = std::process::id().to_string();
    let arguments = ["--pid", &process, "--nofile=1024:"];
    let limited = Command::new("prlimit").args(arguments).status().unwrap();
    assert!(limited.success(), "prlimit {arguments:?}: {limited}");
    by_both_resolvers(|place| {
        dig(&place.at("a"), 5_000);
        assert_eq!(place.remove("a"), Ok(()));
        assert_eq!(place.tree(), [""; 0]);
    });
}

#[test]
fn many_deep_trees_beside_each_other_are_removed() {
    by_both_resolvers(|place| {
        place.put(&["a/", "kept/"]);
        for n in 0..8 {
            dig(&place.at("a").join(n.to_string()), 200);
        }
        assert_eq!(place.remove("a"), Ok(()));
        assert_eq!(place.tree(), ["kept/"]);
    });
}

#[test]
fn a_deep_tree_is_removed_though_the_names_it_needs_on_the_way_are_taken() {
    // By an earlier run that was cut, or by a tenant who means ill. Which entry is met first is up to the file
    // system, so there are many deep ones.
    let rows: &[(Tree, &str)] = &[
        (&["a/"], ".nfs-provisioner-deep-"),
        (&["a/.nfs-provisioner-deep-1/x/f"], "d"),
        (&["a/.nfs-provisioner-deep-1"], "d"),
        (&["a/.nfs-provisioner-deep-1 -> ."], "d"),
    ];
    for (taken, deep) in rows {
        by_both_resolvers(|place| {
            place.put(taken);
            for n in 1..=8 {
                dig(&place.at(&format!("a/{deep}{n}")), 70);
            }
            assert_eq!(place.remove("a"), Ok(()), "{taken:?} {deep}");
            assert_eq!(place.tree(), [""; 0]);
        });
    }
}

// === races ===

/// Exchanges two entries over and over while rounds run, until these have met `outcomes` different ones often
/// enough. Exchanged at once, so that neither name is ever absent of itself.
fn while_exchanged(one: &Path, other: &Path, outcomes: usize, mut round: impl FnMut() -> &'static str) {
    const ROUNDS: usize = 2_000;
    const OFTEN: usize = 100;
    // There is no race unless both threads run at the same time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let done = AtomicBool::new(false);
    let mut met: BTreeMap<&str, usize> = BTreeMap::new();
    thread::scope(|scope| {
        let _stop = OnDrop(|| done.store(true, Ordering::Relaxed));
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let exchange = RenameFlags::RENAME_EXCHANGE;
                // It fails while a round has put one of them away.
                if renameat2(AT_FDCWD, one, AT_FDCWD, other, exchange).is_err() {
                    thread::yield_now();
                }
            }
        });
        let end = Instant::now() + PATIENCE;
        let mut rounds = 0;
        let mut often = 0;
        while rounds < ROUNDS || (often < outcomes && Instant::now() < end) {
            *met.entry(round()).or_default() += 1;
            often = met.values().filter(|times| **times >= OFTEN).count();
            rounds += 1;
        }
    });
    eprintln!("{met:?}");
    assert!(met.len() >= outcomes, "the race was none: {met:?}");
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// What a call answers that has met the link: that it is one, or, if that had been exchanged again when it was
/// looked at, just what the kernel said.
fn is_link(problem: Problem) -> bool {
    matches!(problem, Problem::Link | Problem::Os(Errno::ELOOP | Errno::ENOTDIR))
}

/// A volume's directory whose owner exchanges `vol/a`, a directory, with `vol/b`, a link to outside. There all
/// names of `vol/a` lead to something, too.
fn attacked(case: impl Fn(&ExportSpec, &Path, &Path)) {
    by_both_resolvers(|place| {
        place.put(&["vol/a/", "vol/b -> ../../outside"]);
        let before = stamps(&place.at("../outside"));
        case(place, &place.at("vol/a"), &place.at("vol/b"));
        assert_eq!(stamps(&place.at("../outside")), before);
    });
}

#[test]
fn nothing_is_created_outside_by_exchanging_a_directory_with_a_link() {
    for path in ["vol/a/x", "vol/a/new", "vol/a/new/er", "vol/a"] {
        attacked(|place, one, other| {
            while_exchanged(one, other, 2, || match place.export.create(&rel(path)) {
                Ok(created) => {
                    // The directory was met. Undoing meets one or the other again.
                    assert!(created.made <= 2, "{path} {created:?}");
                    place.export.undo(&rel(path), created);
                    "created"
                }
                Err(error) if is_link(error.problem) => "refused",
                Err(error) => panic!("{error}"),
            });
        });
    }
}

#[test]
fn nothing_is_archived_from_outside_by_exchanging_a_directory_with_a_link() {
    attacked(|place, one, other| {
        let real = open_dir(one);
        while_exchanged(one, other, 2, || {
            let _ = mkdirat(&real, "x", Mode::S_IRWXU);
            match place.archive("vol/a/x") {
                // It was the one in the directory: that outside is not empty.
                Ok(Some(name)) => {
                    fs::remove_dir(place.at(&name)).unwrap();
                    "archived"
                }
                Err(problem) if is_link(problem) => "refused",
                other => panic!("{other:?}"),
            }
        });
    });
}

#[test]
fn a_directory_that_is_exchanged_with_a_link_while_it_is_archived_leaves_the_links_target_alone() {
    attacked(|place, one, other| {
        while_exchanged(one, other, 2, || match place.archive("vol/a") {
            // The directory, or the link itself if they were exchanged after the look and before the rename.
            Ok(Some(name)) => {
                fs::rename(place.at(&name), one).unwrap();
                "archived"
            }
            Err(problem) if is_link(problem) => "refused",
            other => panic!("{other:?}"),
        });
    });
}

#[test]
fn nothing_is_removed_outside_by_exchanging_a_directory_above_with_a_link() {
    attacked(|place, one, other| {
        let real = open_dir(one);
        while_exchanged(one, other, 2, || {
            let _ = mkdirat(&real, "x", Mode::S_IRWXU);
            let x = openat(&real, "x", OFlag::O_DIRECTORY, Mode::empty()).unwrap();
            touch(&x, "secret");
            match place.remove("vol/a/x") {
                Ok(()) => {
                    assert_eq!(fstat(&x).unwrap().st_nlink, 0);
                    "removed"
                }
                Err(problem) if is_link(problem) => "refused",
                Err(problem) => panic!("{problem}"),
            }
        });
    });
}

#[test]
fn nothing_is_removed_outside_by_exchanging_the_directory_with_a_link() {
    attacked(|place, one, other| {
        let mut real = open_dir(one);
        while_exchanged(one, other, 2, || {
            let _ = mkdirat(&real, "x", Mode::S_IRWXU);
            match place.remove("vol/a") {
                Ok(()) if fstat(&real).unwrap().st_nlink > 0 => {
                    // The link itself: exchanged after the look at it.
                    place.put(&["new -> ../../outside"]);
                    fs::rename(place.at("new"), one).unwrap();
                    "link removed"
                }
                Ok(()) => {
                    // The other name is the link's for now.
                    place.put(&["new/"]);
                    real = open_dir(&place.at("new"));
                    fs::rename(place.at("new"), one).unwrap();
                    "removed"
                }
                // At the first look, or when all was removed but the directory itself.
                Err(problem) if is_link(problem) => "refused",
                Err(problem) => panic!("{problem}"),
            }
        });
    });
}

#[test]
fn whose_a_nested_directory_was_is_noted_and_links_are_not_written_through() {
    by_both_resolvers(|place| {
        place.put(&["ns/c/f", "flat/f"]);
        place.archive("flat").unwrap();
        assert!(!place.at(NOTES).exists(), "the name of the other tells it");
        place.archive("ns/c").unwrap();
        assert_eq!(fs::read_to_string(place.at(NOTES).join("archived-c")).unwrap(), "note");
        assert_eq!(fs::metadata(place.at(NOTES)).unwrap().mode() & 0o777, 0o700);
    });
    by_both_resolvers(|place| {
        let before = stamps(&place.at("../outside"));
        place.put(&["ns/c/f", &format!("{NOTES} -> ../outside")]);
        assert_eq!(place.archive("ns/c"), Err(Problem::Link));
        assert!(place.at("ns/c/f").exists());
        assert_eq!(stamps(&place.at("../outside")), before);
    });
}
