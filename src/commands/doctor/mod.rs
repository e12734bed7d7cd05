//! `nfs-provisioner doctor`: whether all is there that the provisioner needs, and if not, how to mend it.
//!
//! As all else here it goes one way: **read** what there is (`read.rs`), **judge** it by a function without I/O
//! (`judge.rs`), **print** it (`report.rs`). It takes no lock and changes nothing but a directory of its own on the
//! export, which it removes, so it may run beside a provisioner that works.

use futures::future::join_all;

use crate::config::Config;

mod facts;
mod report;
mod judge;
mod read;

pub use report::{Finding, Level, Report};

/// Looks at everything, and says what it found. Ends in about a minute at the latest, whoever does not answer.
pub async fn examine(config: &Config) -> Report {
    let trying = config.specs.values().map(read::export);
    let (cluster, exports) = futures::join!(read::cluster(config), join_all(trying));
    judge::judge(config, &cluster, &exports)
}
