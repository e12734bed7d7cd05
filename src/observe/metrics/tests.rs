//! What is shown by whom.

use super::*;
use crate::export::ArchiveCounts;
use crate::model::exports::Exports;
use crate::storage::{Root, Storage};
use crate::values::address::ExportAddress;

#[test]
fn of_notes_and_archives_only_who_leads_tells() {
    let dir = tempfile::tempdir().unwrap();
    let exports = Exports::single(ExportAddress::new("nas".into(), "/export".into()));
    let open = |_| Storage::from(Root::open(dir.path()).unwrap());
    let exports = exports.map(|(id, export)| Export::new(export, open(id)));
    let (lead, leadership) = Leadership::new();
    let metrics = Metrics::new(exports.clone(), &Durations::default(), leadership);
    let hour_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1);
    let series = ["archives", "notes_missing", "volumes_restored"];
    let shown = || {
        let text = metrics.text();
        let value = |name: &str| {
            let prefix = format!("nfs_provisioner_{name}{{export=\"default\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&*prefix)).unwrap().parse::<i64>().unwrap()
        };
        (series.map(value), value("archives_oldest_seconds"))
    };
    let learn = || {
        for export in exports.values() {
            let mut counts = ArchiveCounts::default();
            counts.add(hour_ago);
            counts.add(jiff::Timestamp::now());
            *export.archives.lock() = counts;
            metrics.notes_missing.get_or_create(&export_label(&export.name)).set(3);
            metrics.volumes_restored.get_or_create(&export_label(&export.name)).set(4);
        }
    };
    learn();
    assert_eq!(shown(), ([0, 0, 0], 0));
    lead.uncontested();
    learn();
    let (counts, oldest) = shown();
    assert_eq!(counts, [2, 3, 4]);
    assert!((3600..3660).contains(&oldest), "{oldest}");
}
