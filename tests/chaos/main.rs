//! Many claims come and go, admins change their minds, the API server is hard to reach and the provisioner is killed, all
//! at random. Then a checker, which knows from the API server's audit log and from the kernel what was so when, looks
//! for a directory that was moved, removed or given and should not have been.
//!
//! `CHAOS_SECONDS` says how long (60 by default), `CHAOS_SEED` repeats what a run has tried, as far as the machine lets it,
//! and `CHAOS_LOG` names a file for all that was logged and done, which is shown anyway if something was wrong.

#![allow(
    clippy::cast_precision_loss,
    clippy::default_trait_access,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::similar_names,
    clippy::too_many_lines,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

#[path = "../support/mod.rs"]
mod support;

mod checker;
mod history;
mod journal;
mod plots;
mod trouble;
mod world;

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use checker::{Move, Time, Tolerance, broken_promises, lost_markers, wrong_gifts, wrong_moves};
use fastrand::Rng;
use journal::Journal;
use plots::Plots;
use support::plane::Plane;
use support::proxy::Proxy;
use support::space::{Rules, Space};
use trouble::Trouble;
use world::World;

/// How long after a change something may still be done that the change forbids, in microseconds: as long as lies between
/// the provisioner's last look and what it does then, with the time that answers may take here; and, where that looks
/// at all volumes, the time for which it believes what it has seen.
const TOLERANCE: Tolerance = Tolerance { own: 3_000_000, others: 13_000_000 };

/// How many claims are made in a minute at least. On a slow machine a run takes longer for them.
const CLAIMS: u64 = 200;

/// How many people use the cluster.
const USERS: usize = 8;

/// How many carry out plots, beside the one who silences watches.
const PLOTTERS: usize = 3;

fn number(variable: &str) -> Option<u64> {
    env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

/// Says something at once. What eprintln says is shown only if the test fails.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "chaos: {what}");
}

/// A control plane that writes down what is done.
fn plane(policy: &std::path::Path, log: &std::path::Path) -> &'static Plane {
    fs::write(policy, history::POLICY).unwrap();
    let flags = [
        format!("--apiserver-flag=--audit-policy-file={}", policy.display()),
        format!("--apiserver-flag=--audit-log-path={}", log.display()),
    ];
    Box::leak(Box::new(Plane::start_with(&flags.each_ref().map(String::as_str))))
}

/// Has all go wrong for so long, or until enough was done.
async fn go_wrong(world: &World<'_>, proxy: &Proxy, trouble: &mut Trouble<'_>, seed: u64, time: Duration) {
    let mut rng = Rng::with_seed(seed);
    let plots = Plots { world, proxy };
    let users: Vec<_> = (0..USERS).map(|_| world.use_cluster(rng.fork())).collect();
    let plotters: Vec<_> = (0..PLOTTERS).map(|_| plots.others(rng.fork())).collect();
    let ends = async {
        let (begun, enough) = (Instant::now(), usize::try_from(CLAIMS * time.as_secs() / 60).unwrap());
        while begun.elapsed() < time || world.made() < enough && begun.elapsed() < time * 3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        world.has_ended.set(true);
    };
    futures::join!(
        ends,
        futures::future::join_all(users),
        futures::future::join_all(plotters),
        plots.silence(rng.fork()),
        world.write(),
        trouble.make(world),
    );
}

#[tokio::test]
async fn whatever_goes_wrong_no_directory_is_moved_removed_or_given_that_should_not_be() {
    let seed = number("CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let time = Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(60));
    say(&format!("CHAOS_SEED={seed} CHAOS_SECONDS={}", time.as_secs()));

    let dir = tempfile::tempdir().unwrap();
    let [policy, log] = ["policy", "audit"].map(|name| dir.path().join(name));
    let space = Space::on(plane(&policy, &log), Rules::Ours).await;
    let proxy = Proxy::start(space.plane);
    // Made in advance, so that the journal knows it.
    fs::create_dir(space.at(nfs_provisioner::layout::TRASH)).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(space.at(nfs_provisioner::layout::TRASH), mode).unwrap();
    let journal = Journal::begin(space.at(""));
    let world = World::new(&space).await;
    let mut trouble = Trouble::new(&space, &proxy, Rng::with_seed(seed ^ 0x7ab1e));

    let begun = Instant::now();
    go_wrong(&world, &proxy, &mut trouble, seed, time).await;
    let went_wrong = begun.elapsed();
    let stuck = world.settle().await;
    let kills = trouble.kills;
    let (log_of_provisioner, ended) = trouble.stop();
    let moves = journal.end();
    let history = history::read(&log, &space.provisioner);
    let markers = world.markers().await;
    let seen = world.into_seen();
    say(&format!(
        "{} claims, {} volumes, {} markers, {} directories moved, {kills} kills, {:?}, {:?} and {:?} with the settling",
        seen.claims.len(),
        history.volumes.len(),
        markers.len(),
        moves.len(),
        seen.plots,
        went_wrong,
        begun.elapsed(),
    ));
    let mut wrong = seen.wrong;
    wrong.extend(wrong_moves(&history, &moves, TOLERANCE));
    wrong.extend(broken_promises(&history, &moves, &seen.promises));
    wrong.extend(wrong_gifts(&history, &seen.gifts));
    wrong.extend(lost_markers(&history, &moves, &markers));
    wrong.extend(stuck);
    let mut diary = String::new();
    let moved = moves.iter().map(|Move { path, to, at }| (*at, format!("{path} went to {to:?}")));
    let mut done: Vec<(Time, String)> = seen.diary.into_iter().chain(moved).collect();
    done.sort();
    for (time, what) in done {
        let _ = writeln!(diary, "{time} {what}");
    }
    let wrong = wrong.join("\n");
    let told = format!("{log_of_provisioner}\n{diary}\nCHAOS_SEED={seed}\n{wrong}");
    if let Some(file) = env::var_os("CHAOS_LOG") {
        fs::write(file, &told).unwrap();
    }
    assert!(wrong.is_empty() && ended, "{told}");
    assert!(!moves.is_empty() && !markers.is_empty());
}
