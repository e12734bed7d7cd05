//! Measures how long large trees take to go, in turns with `rm -rf`. The trees are made beneath `REMOVAL_DIR`
//! (default: the directory for temporary files), which may be an NFS mount. `REMOVAL_MADE_IN` is where the server
//! has the same directory, if it runs on this machine: trees are made there then, which is quicker, and leaves the
//! client's caches cold. `REMOVAL_EXPORT` is the server and the path of the same directory: ours then goes without the
//! mount.
//!
//! With `REMOVAL_BUSY=yes` all is measured on one processor, beside a process that always has something to do: what
//! removes must not stand still then.
//!
//! `PAIRS` (default 5) is how often each is measured, `REMOVAL_FILES` (default 100,000) how many files a tree has.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::option_option,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nfs_provisioner::storage::{Minor, Root, Servers, Storage};
use nfs_provisioner::values::address::ExportAddress;
use nfs_provisioner::values::path::RelPath;

/// What makes a tree at a path.
type Make = Box<dyn Fn(&Path)>;

/// The trees, with their descriptions.
fn trees(count: usize) -> [(String, Make); 3] {
    let many = count / 100;
    [
        (format!("{count} files in one directory"), Box::new(move |top| files(top, count))),
        (
            format!("{count} files in {many} directories"),
            Box::new(move |top| (0..many).for_each(|number| files(&top.join(number.to_string()), 100))),
        ),
        (format!("{many} directories in each other, 10 files in each"), Box::new(move |top| nested(top, many))),
    ]
}

fn nested(top: &Path, depth: usize) {
    // One by one, from the inside: such a path can be longer than the kernel takes.
    let (tree, aside) = (top.with_extension("tree"), top.with_extension("aside"));
    files(&tree, 10);
    for _ in 1..depth {
        files(&aside, 10);
        fs::rename(&tree, aside.join("d")).expect("a rename");
        fs::rename(&aside, &tree).expect("a rename");
    }
    fs::rename(&tree, top).expect("a rename");
}

fn files(directory: &Path, count: usize) {
    fs::create_dir_all(directory).expect("a directory");
    for number in 0..count {
        File::create(directory.join(format!("file-{number}"))).expect("a file");
    }
}

/// Ends a process when it goes.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// Starts what keeps the one processor busy, if that is asked for; `None` if this process was to be started anew there.
fn busy() -> Option<Option<Ends>> {
    match std::env::var("REMOVAL_BUSY").as_deref() {
        Err(_) => Some(None),
        Ok("inside") => {
            Some(Some(Ends(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("sh"))))
        }
        Ok(_) => {
            let program = std::env::current_exe().expect("this program");
            let mut anew = Command::new("taskset");
            anew.args(["-c", "0"]).arg(program).args(std::env::args_os().skip(1)).env("REMOVAL_BUSY", "inside");
            assert!(anew.status().expect("taskset").success());
            None
        }
    }
}

#[tokio::main]
async fn main() {
    let Some(busy) = busy() else { return };
    let set = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (pairs, count) = (set("PAIRS", 5), set("REMOVAL_FILES", 100_000));
    let base = std::env::var_os("REMOVAL_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(&base).expect("a directory");
    let made_in = std::env::var_os("REMOVAL_MADE_IN").map_or_else(|| base.clone(), PathBuf::from);
    let made_in = made_in.join(dir.path().file_name().expect("a name"));
    let directly = std::env::var("REMOVAL_EXPORT").ok().map(|export| {
        let address = format!("{export}/{}", dir.path().file_name().expect("a name").display());
        ExportAddress::parse(&address).expect("an export")
    });
    let open = || match &directly {
        Some(address) => Root::open_direct(&Servers::default(), address, 2049, Minor::Newest).expect("an export"),
        None => Root::open(dir.path()).expect("an export"),
    };
    let way = directly.as_ref().map_or(String::new(), |address| format!(", ours at {address} without the mount"));
    let beside = if busy.is_some() { ", on one processor beside a busy process" } else { "" };
    println!("In {}, {pairs} pairs{way}{beside}:\n", base.display());
    println!(
        "| tree | `rm -rf`, s | moved to the trash, ms | gone from there, s | ÷ `rm -rf` |\n|---|---:|---:|---:|---:|"
    );
    for (tree, (name, make)) in trees(count).into_iter().enumerate() {
        let (mut theirs, mut moved, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for pair in 0..pairs {
            let one = |who: &str| {
                // A client remembers which names were not there.
                let name = format!("{who}-{tree}-{pair}");
                make(&made_in.join(&name));
                // What is still to be written is not to slow down whoever is first.
                nix::unistd::sync();
                dir.path().join(name)
            };
            let turns = if pair % 2 == 0 { ["rm", "ours"] } else { ["ours", "rm"] };
            for who in turns {
                let top = one(who);
                if who == "rm" {
                    theirs.push(rm(&top).as_secs_f64());
                } else {
                    let (to_trash, gone) = reap(open(), &top).await;
                    moved.push(to_trash.as_secs_f64() * 1000.0);
                    ours.push(gone.as_secs_f64());
                }
                assert!(!made_in.join(top.file_name().expect("a name")).exists());
            }
            ratios.push(ours[pair] / theirs[pair]);
        }
        println!("| {name} | {} | {} | {} | {} |", spread(theirs), spread(moved), spread(ours), spread(ratios));
    }
}

fn rm(top: &Path) -> Duration {
    let start = Instant::now();
    assert!(Command::new("rm").arg("-rf").arg(top).status().expect("rm").success());
    start.elapsed()
}

/// Moves a directory to the trash and empties that; returns how long the one and the other took.
async fn reap(export: Root, top: &Path) -> (Duration, Duration) {
    let storage = Storage::from(export);
    let directory = RelPath::parse(top.file_name().unwrap().to_str().unwrap()).expect("a path");
    let start = Instant::now();
    let name = storage.trash(&directory, "pvc-1", 0, None).await.expect("it to be moved").expect("a directory");
    let moved = start.elapsed();
    let start = Instant::now();
    storage.reap(&name, Duration::from_mins(10)).await.expect("it to go");
    let gone = start.elapsed();
    assert!(storage.trashed(1, 0).await.expect("the trash").names.is_empty());
    (moved, gone)
}

/// Spells the median, the least and the most.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    format!("**{:.2}** ({:.2}–{:.2})", values[values.len() / 2], values[0], values[values.len() - 1])
}
