//! Judges the facts: what each means, and what to do about it. No I/O.

use super::facts::{ClusterFacts, ExportFacts, ProcessFacts};
use super::report::{Finding, Report};
use crate::config::Config;
use crate::model::class::Class;
use crate::model::exports::ExportId;
use crate::storage::ExportSpec;

mod clock;
mod notes;
mod cluster;
mod export;
mod process;
#[cfg(test)]
mod tests;

use cluster::judge_cluster;
use export::judge_export;
use notes::judge_notes;
use process::{judge_process, server_name};

/// Judges all facts.
pub(super) fn judge(
    config: &Config,
    process: &ProcessFacts,
    cluster: &Result<ClusterFacts, String>,
    exports: &[ExportFacts],
) -> Report {
    let served = |spec: &ExportSpec| format!("{}, {}", spec.address, spec.reach);
    let served: Vec<String> = config.specs.values().map(served).collect();
    let settings = format!("{:?} serves {}", config.provisioner, served.join("; "));
    let mut findings = vec![Finding::ok("settings", settings)];
    judge_process(config, process, &mut findings);
    match cluster {
        Ok(cluster) => judge_cluster(config, cluster, &mut findings),
        Err(error) => findings.push(Finding::failure(
            "api-server",
            error,
            "Check that the API server is up and can be reached from here, that KUBECONFIG, if set, is right, and that \
             NO_PROXY names the API server if HTTPS_PROXY is set and the proxy is not for it.",
        )),
    }
    for ((id, spec), export) in config.specs.iter().zip(exports) {
        let before = findings.len();
        judge_export(spec, export, &mut findings);
        if let Some(notes) = &export.notes {
            judge_notes(config.record, notes, &mut findings);
        }
        findings.extend(server_name(spec, export, &classes_on(config, cluster, id)));
        let of_export = findings.iter_mut().skip(before);
        of_export.for_each(|finding| finding.export = Some(spec.name.clone()));
    }
    Report { findings }
}

/// Returns the classes of ours whose volumes may be on an export.
fn classes_on<'a>(config: &Config, cluster: &'a Result<ClusterFacts, String>, export: ExportId) -> Vec<&'a Class> {
    let all = cluster.as_ref().ok().and_then(|cluster| cluster.classes.as_ref().ok());
    let is_on = |class: &&Class| {
        let meant = config.exports.meant_by(&class.parameters.export);
        *class.provisioner == *config.provisioner && meant.is_ok_and(|exports| exports.contains(&export))
    };
    all.into_iter().flatten().filter(is_on).collect()
}
