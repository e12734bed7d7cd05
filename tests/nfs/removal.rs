//! `benches/removal.rs` on NFS, at several distances: `make bench ONLY=removal-nfs`.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use libtest_mimic::Trial;

use crate::latency::Delay;
use crate::rig::Rig;
use crate::site::{Disk, Setup, Site, text};
use crate::talk::{Answer, Request};

pub(crate) fn trials() -> Vec<Trial> {
    crate::trials![removal_beside_rm].into_iter().map(|trial| trial.with_ignored_flag(true)).collect()
}

/// The bench, built by cargo: the newest, for it leaves older ones there.
fn bench() -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/deps");
    let entries = fs::read_dir(directory).expect("cargo bench --no-run --bench removal");
    let programs = entries.map(|entry| entry.expect("an entry").path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("removal-") && path.extension().is_none()
    });
    programs.max_by_key(|path| path.metadata().and_then(|found| found.modified()).ok()).expect("the bench")
}

async fn removal_beside_rm(rig: &'static Rig) {
    let site = Site::new(rig, Setup { disk: Disk::Tmpfs(1000), ..Setup::default() }).await;
    let set =
        |name: &str, default: &str| format!("{name}={}", env::var(name).unwrap_or_else(|_| default.to_owned()));
    let settings = [set("PAIRS", "3"), set("REMOVAL_FILES", "10000")].join(" ");
    let export = format!("{}:{}", site.setup.server.address, site.path);
    for (milliseconds, directly) in
        [0, 1, 10].into_iter().flat_map(|distance| [(distance, false), (distance, true)])
    {
        let _near = Delay::new(rig, Duration::from_millis(milliseconds));
        let table = rig.dir.join("removal");
        let words = format!("{settings} exec {} > {}", text(&bench()), text(&table));
        let (path, mount, disk) = ("/usr/bin:/bin", text(&site.mount), text(&site.disk));
        let mut environment = vec![("PATH", path), ("REMOVAL_DIR", mount), ("REMOVAL_MADE_IN", disk)];
        environment.extend(directly.then_some(("REMOVAL_EXPORT", &*export)));
        let started = rig.ask(&Request::Start {
            command: ["sh", "-c", &words].map(str::to_owned).to_vec(),
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            log: rig.dir.join("removal-log"),
        });
        let Answer::Number(id) = started else { panic!("{started:?}") };
        let status = loop {
            match rig.ask(&Request::Ended { id: u32::try_from(id).unwrap() }) {
                Answer::Ended { status, .. } => break status,
                _ => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        };
        println!("\nA round trip of {milliseconds} ms:\n{}", fs::read_to_string(&table).unwrap());
        assert_eq!(status, Some(0), "{}", fs::read_to_string(rig.dir.join("removal-log")).unwrap());
    }
}
