//! Tenants who exchange directories with links meanwhile.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use std::{fs, thread};

use nfs_provisioner::storage::{Errno, Problem};
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, fstat, mkdirat};

use crate::{PATIENCE, Place, by_each_engine, open_dir, rel, stamps, touch};

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
/// looked at, just what the kernel said. A server under whose hands it is exchanged calls that a fault of its own.
fn is_refusal(problem: Problem) -> bool {
    matches!(problem, Problem::Link | Problem::Os(Errno::ELOOP | Errno::ENOTDIR | Errno::EREMOTEIO))
}

/// How many outcomes of a race are to be seen often. A server may remember for long what it has found.
fn outcomes(place: &Place) -> usize {
    if place.engine.is_mounted { 2 } else { 0 }
}

/// A volume's directory whose owner exchanges `vol/a`, a directory, with `vol/b`, a link to outside. There all
/// names of `vol/a` lead to something, too.
fn attacked(case: impl Fn(&Place, &Path, &Path)) {
    by_each_engine(|place| {
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
            while_exchanged(one, other, outcomes(place), || match place.export.create(&rel(path)) {
                Ok(created) => {
                    // The directory was met. Undoing meets one or the other again.
                    assert!(created.made <= 2, "{path} {created:?}");
                    place.export.undo(&rel(path), created);
                    "created"
                }
                Err(error) if is_refusal(error.problem) => "refused",
                Err(error) => panic!("{error}"),
            });
        });
    }
}

#[test]
fn nothing_is_archived_from_outside_by_exchanging_a_directory_with_a_link() {
    attacked(|place, one, other| {
        let real = open_dir(one);
        while_exchanged(one, other, outcomes(place), || {
            let _ = mkdirat(&real, "x", Mode::S_IRWXU);
            match place.archive("vol/a/x") {
                // It was the one in the directory: that outside is not empty.
                Ok(Some(name)) => {
                    fs::remove_dir(place.at(&name)).unwrap();
                    "archived"
                }
                Err(problem) if is_refusal(problem) => "refused",
                other => panic!("{other:?}"),
            }
        });
    });
}

#[test]
fn a_directory_that_is_exchanged_with_a_link_while_it_is_archived_leaves_the_links_target_alone() {
    attacked(|place, one, other| {
        while_exchanged(one, other, outcomes(place), || match place.archive("vol/a") {
            // The directory, or the link itself if they were exchanged after the look and before the rename.
            Ok(Some(name)) => {
                fs::rename(place.at(&name), one).unwrap();
                "archived"
            }
            Err(problem) if is_refusal(problem) => "refused",
            other => panic!("{other:?}"),
        });
    });
}

#[test]
fn nothing_is_removed_outside_by_exchanging_a_directory_above_with_a_link() {
    attacked(|place, one, other| {
        let real = open_dir(one);
        while_exchanged(one, other, outcomes(place), || {
            let _ = mkdirat(&real, "x", Mode::S_IRWXU);
            let x = openat(&real, "x", OFlag::O_DIRECTORY, Mode::empty()).unwrap();
            touch(&x, "secret");
            match place.remove("vol/a/x") {
                Ok(()) => {
                    assert_eq!(fstat(&x).unwrap().st_nlink, 0);
                    "removed"
                }
                Err(problem) if is_refusal(problem) => "refused",
                Err(problem) => panic!("{problem}"),
            }
        });
    });
}

#[test]
fn nothing_is_removed_outside_by_exchanging_the_directory_with_a_link() {
    attacked(|place, one, other| {
        // A server that remembers the link lists nothing of the directory, for ever.
        if !place.engine.is_mounted {
            return;
        }
        let mut real = open_dir(one);
        while_exchanged(one, other, outcomes(place), || {
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
                Err(problem) if is_refusal(problem) => "refused",
                Err(problem) => panic!("{problem}"),
            }
        });
    });
}
