//! `nfs-provisioner doctor`: checks everything that the provisioner needs, and says how to mend what is wrong.
//!
//! Like everything here the doctor works in one direction: **read** the facts (`read.rs`), **judge** them without
//! I/O (`judge.rs`), **print** the findings (`report.rs`). The doctor takes no lock and changes nothing but a
//! directory of its own on the export, which it removes, so it may run beside a working provisioner.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use crate::config::Config;

mod facts;
mod report;
mod judge;
mod process;
mod read;
mod notes;

/// How long all of it may take.
const EXAMINED_MAX: Duration = Duration::from_mins(1);

pub use report::{Finding, Level, Report};

/// Examines everything, and reports the findings. Ends within about a minute, even if a server does not answer.
pub async fn examine(config: &Config) -> Report {
    let examined = config.specs.values().map(read::export);
    let until = Instant::now() + EXAMINED_MAX;
    let (cluster, process, mut exports) =
        futures::join!(read::cluster(config), process::read(config), join_all(examined));
    if let Ok(cluster) = &cluster {
        let looking = config.specs.iter().zip(&mut exports);
        join_all(looking.map(|((id, spec), export)| notes::look(id, spec, cluster, export, until))).await;
    }
    judge::judge(config, &process, &cluster, &exports)
}
