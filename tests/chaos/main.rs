//! Many claims come and go, admins change their minds, the API server is hard to reach and the provisioner is killed, all
//! at random. Then a checker, which knows from the API server's audit log and from the kernel what was so when, looks
//! for a directory that was moved, removed or given and should not have been.
//!
//! `CHAOS_SECONDS` says how long (60 by default), `CHAOS_SEED` repeats what a run has tried, as far as the machine lets it.

#![allow(
    clippy::cast_precision_loss,
    clippy::default_trait_access,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
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
mod trouble;
mod world;

use std::env;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use checker::{lost_markers, wrong_moves};
use journal::Journal;
use support::plane::Plane;
use support::proxy::Proxy;
use support::space::{Rules, Space};
use trouble::Trouble;
use world::World;

/// How long after a change something may still be done that the change forbids, in microseconds: as long as lies between
/// the provisioner's last look and what it does then, with the time that an answer may take here.
const TOLERANCE: checker::Time = 4_000_000;

fn number(variable: &str) -> Option<u64> {
    env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

#[tokio::test]
async fn whatever_goes_wrong_no_directory_is_moved_removed_or_given_that_should_not_be() {
    let seed = number("CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let time = Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(60));
    // Not by eprintln, which is shown only if the test fails.
    let _ = writeln!(std::io::stderr(), "chaos: CHAOS_SEED={seed} CHAOS_SECONDS={}", time.as_secs());

    let dir = tempfile::tempdir().unwrap();
    let [policy, log] = ["policy", "audit"].map(|name| dir.path().join(name));
    fs::write(&policy, history::POLICY).unwrap();
    let flags = [
        format!("--apiserver-flag=--audit-policy-file={}", policy.display()),
        format!("--apiserver-flag=--audit-log-path={}", log.display()),
    ];
    let plane = Box::leak(Box::new(Plane::start_with(&flags.each_ref().map(String::as_str))));
    let space = Space::on(plane, Rules::Ours).await;
    let proxy = Proxy::start(plane);
    // Made in advance, so that the journal knows it.
    fs::create_dir(space.at(nfs_provisioner::layout::TRASH)).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(space.at(nfs_provisioner::layout::TRASH), mode).unwrap();
    let journal = Journal::begin(space.at(""));
    let mut world = World::new(&space, seed).await;
    let mut trouble = Trouble::new(&space, &proxy, seed);

    let begun = Instant::now();
    while begun.elapsed() < time {
        trouble.step();
        world.step().await;
    }
    trouble.end();
    let stuck = world.settle().await;
    let kills = trouble.kills;
    let (log_of_provisioner, ended) = trouble.stop();
    let moves = journal.end();
    let history = history::read(&log, &space.provisioner, &world.fates());
    let markers = world.markers().await;
    let _ = writeln!(
        std::io::stderr(),
        "chaos: {} claims, {} volumes, {} markers, {} directories moved, {kills} kills, {:?} with the settling",
        world.made(),
        history.volumes.len(),
        markers.len(),
        moves.len(),
        begun.elapsed(),
    );
    let mut wrong = world.wrong;
    wrong.extend(wrong_moves(&history, &moves, TOLERANCE));
    wrong.extend(lost_markers(&history, &moves, &markers));
    wrong.extend(stuck);
    assert!(wrong.is_empty() && ended, "CHAOS_SEED={seed}\n{}\n\n{log_of_provisioner}", wrong.join("\n"));
    assert!(!moves.is_empty() && !markers.is_empty());
}
