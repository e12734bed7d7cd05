//! Judges the facts about this process, and the names by which servers are known to it.

use std::net::SocketAddr;

use crate::commands::doctor::facts::{ExportFacts, Port, ProcessFacts};
use crate::commands::doctor::report::Finding;
use crate::config::{Config, Http};
use crate::model::class::Class;
use crate::observe::http::Address;
use crate::storage::ExportSpec;

pub(super) fn judge_process(config: &Config, process: &ProcessFacts, findings: &mut Vec<Finding>) {
    findings.extend(config.http.map(|http| port(http, process)));
    if let (0, Some(has)) = (process.user, process.fowner) {
        findings.push(capabilities(has));
    }
}

fn port(Http { address, is_asked_for }: Http, process: &ProcessFacts) -> Finding {
    let check = "http";
    if let Port::Taken(error) = &process.port {
        let without = if is_asked_for { "does not start" } else { "has no /metrics and no probes" };
        return Finding::warning(
            check,
            format!("cannot listen on {address}: {error}"),
            format!("Set HTTP_ADDR to a free port: without one, the provisioner {without}."),
        );
    }
    if let (Address::One(SocketAddr::V4(of_ipv4)), false, true) = (address, process.ipv4, process.ipv6) {
        return Finding::warning(
            check,
            format!("{address} is of IPv4, and there is only IPv6 here"),
            format!("Set HTTP_ADDR to \":{}\", which is of both: no probe reaches this.", of_ipv4.port()),
        );
    }
    let state = if process.port == Port::Served { "is served by a provisioner" } else { "is free" };
    Finding::ok(check, format!("{address} {state}"))
}

fn capabilities(has_fowner: bool) -> Finding {
    let check = "capabilities";
    if has_fowner {
        return Finding::ok(check, "root may change other users' files here");
    }
    Finding::warning(
        check,
        "root may not change other users' files in sticky directories here (no CAP_FOWNER)",
        "Add FOWNER to securityContext.capabilities of the container, as in deploy/, and on OpenShift to the \
         SecurityContextConstraints: without it, such directories cannot be removed, and stay in the trash.",
    )
}

/// Judges whether nodes, which mount the volumes, can know the name of the export's server. What a node has mounted by that
/// name it knows.
pub(super) fn server_name(spec: &ExportSpec, export: &ExportFacts, classes: &[&Class]) -> Option<Finding> {
    let service = export.service.as_ref()?;
    let name = spec.address.server_name();
    if export.mount.as_ref().is_some_and(|mount| mount.server() == Some(name)) {
        return None;
    }
    let of_classes = if classes.is_empty() {
        String::new()
    } else {
        let names: Vec<&str> = classes.iter().map(|class| class.name.as_str()).collect();
        format!(" The volumes of {names:?} have it.")
    };
    Some(Finding::warning(
        "server-name",
        format!(
            "{name:?} is the Service {service:?}. Nodes mount the volumes, and do not resolve names of Services unless \
             they are set up for it.{of_classes}"
        ),
        "Set the server to the Service's clusterIP, or to a name that nodes know: else Pods hang in ContainerCreating.",
    ))
}
