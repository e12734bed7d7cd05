//! `nfs-provisioner doctor`: checks everything that the provisioner needs, and says how to mend what is wrong.
//!
//! Like everything here the doctor works in one direction: **read** the facts (`read.rs`), **judge** them without
//! I/O (`judge.rs`), **print** the findings (`report.rs`). The doctor takes no lock and changes nothing but a
//! directory of its own on the export, which it removes, so it may run beside a working provisioner.

use futures::future::join_all;

use crate::config::Config;

mod facts;
mod report;
mod judge;
mod process;
mod read;

pub use report::{Finding, Level, Report};

/// Examines everything, and reports the findings. Ends within about a minute, even if a server does not answer.
pub async fn examine(config: &Config) -> Report {
    let examined = config.specs.values().map(read::export);
    let (cluster, process, exports) =
        futures::join!(read::cluster(config), process::read(config), join_all(examined));
    judge::judge(config, &process, &cluster, &exports)
}
