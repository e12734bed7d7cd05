//! Random trees, copied while others change them at random.
//!
//! `make test` tries the same few each time; `make fuzz` tries new ones for as many seconds as `PROPERTY_SECONDS` says,
//! from a seed that is printed, and that `PROPERTY_SEED` sets.

#![expect(clippy::indexing_slicing, clippy::panic, reason = "what helpers of tests do when they fail")]

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use nfs_provisioner::storage::{CopyTo, Progress, Storage};
use nfs_provisioner::values::ownership::Ownership;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::engine::engines;
use crate::{VOLUME, rel, walk};

/// How many trees `make test` tries.
const TREES: u64 = 12;

fn any<'a, T>(random: &mut Rng, of: &'a [T]) -> &'a T {
    &of[random.usize(..of.len())]
}

/// A name, perhaps no UTF-8.
fn name(random: &mut Rng, number: usize) -> OsString {
    let odd: [&[u8]; 6] = [b"\xff\xfe", b"\n", b" ", "\u{1F980}".as_bytes(), b"~%41", b"-"];
    let mut name = format!("{number}").into_bytes();
    if random.usize(..3) == 0 {
        name.extend_from_slice(odd[random.usize(..odd.len())]);
    }
    OsStr::from_bytes(&name).to_owned()
}

/// Makes a tree, and returns its directories and its other entries.
fn grow(top: &Path, random: &mut Rng) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut directories, mut others) = (vec![top.to_owned()], Vec::<PathBuf>::new());
    let count = 40 + random.usize(..260);
    for number in 0..count {
        let path = any(random, &directories).join(name(random, number));
        match random.usize(..12) {
            0 | 1 => {
                fs::create_dir(&path).unwrap();
                directories.push(path);
                continue;
            }
            2 => symlink(format!("../{number}"), &path).unwrap(),
            3 => mkfifo(&path, Mode::S_IRWXU).unwrap(),
            4 | 5 if !others.is_empty() => {
                let first = any(random, &others).clone();
                if fs::hard_link(&first, &path).is_err() {
                    continue;
                }
            }
            6 => {
                let mut file = File::create(&path).unwrap();
                file.set_len(3 << 20).unwrap();
                file.seek(SeekFrom::Start(1 << 20)).unwrap();
                file.write_all(&random.u64(..).to_le_bytes()).unwrap();
            }
            _ => {
                let length = *any(random, &[0, 1, 8, 4096, 200_000]);
                fs::write(&path, vec![random.u8(..); length]).unwrap();
                let named = fs::File::open(&path).unwrap();
                if random.usize(..3) == 0 {
                    let value = random.u64(..).to_le_bytes();
                    rustix::fs::fsetxattr(&named, "user.test", &value, rustix::fs::XattrFlags::empty()).unwrap();
                }
            }
        }
        others.push(path);
    }
    for path in others.iter().chain(directories.iter().rev()) {
        let id = || [0, 1000, 65_534, 70_000];
        let (uid, gid) = (*any(random, &id()), *any(random, &id()));
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
        let kind = fs::symlink_metadata(path).unwrap().file_type();
        if !kind.is_symlink() {
            let mode = *any(random, &[0o000, 0o400, 0o644, 0o755, 0o4751, 0o2770, 0o1777, 0o6777]);
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        if kind.is_file() || kind.is_dir() {
            let at = Duration::new(random.u64(..2_000_000_000), random.u32(..1_000_000_000));
            File::open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH + at).unwrap();
        }
    }
    (directories, others)
}

/// Changes the tree at random until `over`. What others have changed meanwhile may make any of it fail.
fn disturb(directories: &[PathBuf], others: &[PathBuf], random: &mut Rng, over: &AtomicBool) {
    let mut made = 0;
    while !over.load(Ordering::Relaxed) {
        made += 1;
        let (one, other) = (any(random, others), any(random, others));
        let new = any(random, directories).join(format!("new-{made}"));
        match random.usize(..8) {
            0 => drop(fs::write(&new, b"new")),
            1 => drop(fs::remove_file(one)),
            2 => drop(fs::rename(one, other)),
            3 => drop(fs::rename(one, &new)),
            4 => drop(fs::hard_link(one, &new)),
            5 => drop(fs::write(&new, b"instead").and_then(|()| fs::rename(&new, one))),
            6 if directories.len() > 1 => {
                drop(fs::rename(&directories[1 + random.usize(..directories.len() - 1)], &new));
            }
            // A pipe would be waited for.
            _ if one.symlink_metadata().is_ok_and(|found| found.is_file()) => {
                drop(File::options().append(true).open(one).and_then(|mut file| file.write_all(b"more")));
            }
            _ => {}
        }
        std::thread::sleep(Duration::from_micros(random.u64(..300)));
    }
}

/// All that is to be the same of an entry and its copy, and what tells whether the entry was changed.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Seen {
    mode: u32,
    owners: (u32, u32),
    /// Of what can be opened, and links.
    modified: (i64, i64),
    size: u64,
    device: u64,
    content: Option<Vec<u8>>,
    leads_to: Option<PathBuf>,
    xattr: Option<Vec<u8>>,
}

fn look(path: &Path) -> Option<(Seen, (u64, i64, i64), u64)> {
    let found = fs::symlink_metadata(path).ok()?;
    let kind = found.file_type();
    let xattr = || {
        let mut value = [0; 64];
        let length = rustix::fs::lgetxattr(path, "user.test", &mut value[..]).ok()?;
        Some(value[..length].to_vec())
    };
    let seen = Seen {
        mode: found.mode(),
        owners: (found.uid(), found.gid()),
        modified: (found.mtime(), found.mtime_nsec()),
        size: if kind.is_dir() { 0 } else { found.size() },
        device: found.rdev(),
        content: if kind.is_file() { Some(fs::read(path).ok()?) } else { None },
        leads_to: if kind.is_symlink() { Some(fs::read_link(path).ok()?) } else { None },
        xattr: if kind.is_file() { xattr() } else { None },
    };
    assert!(kind.is_fifo() || kind.is_dir() || kind.is_file() || kind.is_symlink(), "{}", path.display());
    Some((seen, (found.ino(), found.ctime(), found.ctime_nsec()), found.blocks()))
}

type Snapshot = BTreeMap<PathBuf, (Seen, (u64, i64, i64), u64)>;

fn snapshot(top: &Path) -> Snapshot {
    let all = walk(top).into_iter().chain([top.to_owned()]);
    all.filter_map(|path| Some((path.strip_prefix(top).ok()?.to_owned(), look(&path)?))).collect()
}

/// What was there before and after, and was not changed in between, nor any directory above it, is in the copy, and is
/// there as it is.
fn judge(before: &Snapshot, after: &Snapshot, copied: &Snapshot, keeps_all: bool, seed: u64) -> usize {
    let is_same = |path: &Path| {
        let (was, is) = (before.get(path), after.get(path));
        was.is_some_and(|(_, was, _)| is.is_some_and(|(_, is, _)| is == was))
    };
    // A directory that has only got other entries is still the same one.
    let is_there = |path: &Path| {
        path.ancestors().skip(1).all(|above| {
            let inode = |snapshot: &Snapshot| snapshot.get(above).map(|(_, (inode, ..), _)| *inode);
            inode(before).is_some() && inode(before) == inode(after)
        })
    };
    let (mut judged, mut named) = (0, BTreeMap::<u64, HashSet<u64>>::new());
    for (path, (seen, (inode, ..), blocks)) in before.iter().filter(|(path, _)| is_same(path) && is_there(path)) {
        let (copy, (copy_inode, ..), copy_blocks) =
            copied.get(path).unwrap_or_else(|| panic!("seed {seed}: {} is missing", path.display()));
        let differs = |seen: &Seen| {
            let mut compared = Seen { content: None, ..seen.clone() };
            if !keeps_all {
                compared.xattr = None;
                compared.modified = if seen.leads_to.is_some() { (0, 0) } else { seen.modified };
            }
            compared
        };
        assert_eq!(differs(copy), differs(seen), "seed {seed}: {}", path.display());
        assert!(copy.content == seen.content, "seed {seed}: {} has other content", path.display());
        assert!(*copy_blocks <= blocks + 1024, "seed {seed}: {} has no hole", path.display());
        if seen.content.is_some() {
            named.entry(*inode).or_default().insert(*copy_inode);
        }
        judged += 1;
    }
    for (inode, copies) in named {
        assert_eq!(copies.len(), 1, "seed {seed}: names of the same file {inode} are no more");
    }
    judged
}

/// Copies a random tree, and says of how many entries something could be told.
fn try_one(seed: u64) -> usize {
    let mut random = Rng::with_seed(seed);
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("export");
    let top = root.join("from");
    fs::create_dir_all(&top).unwrap();
    let (directories, others) = grow(&top, &mut random);
    let before = snapshot(&top);
    let is_quiet = random.usize(..4) == 0;
    let engine = any(&mut random, engines());
    let storage = Storage::from((engine.open)(&root).unwrap());
    let over = AtomicBool::new(is_quiet);
    let made = std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut random = random.fork();
            let (directories, others, over) = (&directories, &others, &over);
            scope.spawn(move || disturb(directories, others, &mut random, over));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let copied = runtime.block_on(async {
            let source = storage.open_source(&rel("from")).await.unwrap().unwrap();
            let (directory, top) = (rel("to"), Ownership::default());
            let job = CopyTo { volume: VOLUME, directory: &directory, top, group: None, now: 1 };
            storage.copy(source, job, &Progress::default()).await
        });
        over.store(true, Ordering::Relaxed);
        copied.unwrap_or_else(|error| panic!("seed {seed}: {error}"))
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(storage.place(VOLUME, made, &rel("to"), false)).unwrap();
    // The server of the tests keeps neither extended attributes nor the times of links.
    let judged = judge(&before, &snapshot(&top), &snapshot(&root.join("to")), engine.is_mounted, seed);
    assert!(!is_quiet || judged == before.len(), "seed {seed}: only {judged} of {} can be told", before.len());
    judged
}

#[test]
fn what_nobody_changes_while_it_is_copied_is_copied_as_it_is() {
    let seconds = std::env::var("PROPERTY_SECONDS").ok().map(|text| Duration::from_secs(text.parse().unwrap()));
    let set = std::env::var("PROPERTY_SEED").ok().map(|text| text.parse::<u64>().unwrap());
    let of_now = || u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap();
    let first = set.unwrap_or_else(|| if seconds.is_some() { of_now() } else { 1 });
    eprintln!("the first seed is {first}");
    let (began, mut tried, mut judged) = (Instant::now(), 0, 0);
    while tried < TREES || seconds.is_some_and(|limit| began.elapsed() < limit) {
        judged += try_one(first + tried);
        tried += 1;
    }
    eprintln!("{tried} trees, {judged} entries that were not changed");
    assert!(judged as u64 > tried * 10, "too little can be told");
}
