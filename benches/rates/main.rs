//! How fast claims become Bound and volumes go, and what that costs: this program beside a null provisioner, which
//! does no work on directories and so shows what the control plane itself can do, and beside the program that
//! `PEER` names. All run in turns, on one control plane.
//!
//! `CLAIMS` (default "1 100 1000 5000") are the numbers of claims, `PAIRS` (default 5) is how often each is measured.

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

#[path = "../../tests/support/mod.rs"]
mod support;

mod contestant;
mod null;
mod round;
mod table;

use std::env;

use contestant::Contestant;
use round::Round;
use support::plane::Plane;
use support::space::{Rules, Space};

fn main() {
    // The processes that are measured are this program, too, in another part.
    match env::var(contestant::PART).as_deref() {
        Ok("null") => runtime().block_on(null::run()),
        Ok("peer") => contestant::become_peer(),
        _ => runtime().block_on(measure()),
    }
}

/// As this program's own: two threads.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

async fn measure() {
    let sizes = env::var("CLAIMS").unwrap_or_else(|_| "1 100 1000 5000".to_owned());
    let sizes: Vec<usize> = sizes.split_whitespace().map(|size| size.parse().expect("CLAIMS: numbers")).collect();
    let pairs: usize = env::var("PAIRS").map_or(5, |pairs| pairs.parse().expect("PAIRS: a number"));
    let mut contestants = vec![Contestant::Null, Contestant::Ours];
    if let Some(peer) = env::var_os("PEER").filter(|peer| !peer.is_empty()) {
        contestants.push(Contestant::Peer(peer.into()));
    }

    println!("{}\n\n{}", table::machine(), table::HEAD);
    for claims in sizes {
        // What earlier sizes have left in etcd is not to slow this one down.
        let plane: &'static Plane = Box::leak(Box::new(Plane::start()));
        let space = Space::on(plane, Rules::Ours).await;
        // The first to run would meet a control plane that is not warm yet.
        round::measure(&space, &Contestant::Null, claims.min(100), "warm").await;
        let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); contestants.len()];
        for pair in 0..pairs {
            let mut order: Vec<usize> = (0..contestants.len()).collect();
            if pair % 2 == 1 {
                order.reverse();
            }
            for who in order {
                let name = format!("{who}-{pair}");
                let round = round::measure(&space, &contestants[who], claims, &name).await;
                eprintln!("{claims} claims, pair {}, {}: {round:?}", pair + 1, contestants[who].name());
                rounds[who].push(round);
            }
        }
        plane.command("stop kube-apiserver");
        println!("{}", table::rows(claims, &contestants, &rounds));
    }
}
