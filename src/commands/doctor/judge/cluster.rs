//! Judges the facts about the cluster.

use std::collections::BTreeMap;

use super::clock::clock;
use super::notes;
use crate::cluster::lock::{LockChoice, LockKind, lock_name};
use crate::cluster::permissions::{Permission, listed};
use crate::commands::doctor::facts::{ClusterFacts, Missing};
use crate::commands::doctor::report::Finding;
use crate::config::Config;
use crate::layout::new_directory;
use crate::model::class::Class;
use crate::model::exports::Exports;
use crate::model::parameters::{BadParameter, Fate, parameter};
use crate::values::pattern::Facts;

pub(super) fn judge_cluster(config: &Config, cluster: &ClusterFacts, findings: &mut Vec<Finding>) {
    let user = cluster.user.as_ref().map(|user| format!(", and knows this process as {user}")).unwrap_or_default();
    let through = cluster.proxy.as_ref().map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default();
    findings.push(Finding::ok("api-server", format!("version {} answers{through}{user}", cluster.version)));
    findings.extend(cluster.clock.map(|skew| {
        clock(
            "api-server-clock",
            skew,
            "Set both clocks by NTP: wrong clocks refuse valid tokens and certificates.",
        )
    }));
    match &cluster.missing {
        Ok(missing) => {
            findings.push(rights(missing));
            findings.push(finalizers(missing));
            findings.push(expansion(missing));
            findings.push(lock(config, &cluster.namespace, missing));
        }
        Err(error) => findings.push(Finding::warning(
            "rights",
            format!("failed to ask the API server for the permissions of this process: {error}"),
            "Allow all authenticated users to create SelfSubjectAccessReviews, as Kubernetes does by default.",
        )),
    }
    findings.push(notes::mark(cluster));
    match &cluster.classes {
        Ok(classes) => judge_classes(config, classes, findings),
        Err(error) => findings.push(Finding::failure(
            "classes",
            format!("failed to list the StorageClasses: {error}"),
            "Grant what the line \"rights\" names, or check the API server.",
        )),
    }
}

fn rights(missing: &Missing) -> Finding {
    if missing.needed.is_empty() {
        return Finding::ok("rights", "all permissions that the provisioner needs are granted");
    }
    Finding::failure(
        "rights",
        format!("not allowed to {}", listed(&missing.needed)),
        "Grant it, as in rbac/: until then claims and volumes wait.",
    )
}

fn finalizers(missing: &Missing) -> Finding {
    if missing.protect.is_empty() {
        return Finding::ok("finalizers", "may be put on volumes");
    }
    Finding::warning(
        "finalizers",
        format!("not allowed to {}, so volumes get no finalizer", listed(&missing.protect)),
        "Grant it, as in rbac/: without a finalizer, a volume that is deleted while it has a claim is reclaimed \
         only if the provisioner does not restart in between.",
    )
}

fn expansion(missing: &Missing) -> Finding {
    if missing.expand.is_empty() {
        return Finding::ok("expansion", "volumes can grow when their claims ask for more");
    }
    Finding::warning(
        "expansion",
        format!("not allowed to {}, so volumes do not grow", listed(&missing.expand)),
        "Grant it, as in rbac/, if volumes should grow.",
    )
}

fn lock(config: &Config, namespace: &str, missing: &Missing) -> Finding {
    let (check, choice) = ("leader-lock", config.lock);
    let lease = || format!("a Lease {:?} in {namespace:?}", lock_name(&config.provisioner));
    let endpoints = || format!("an Endpoints object {:?} in {namespace:?}", lock_name(&config.provisioner));
    let may_not = |permissions: &[Permission]| format!("not allowed to {} in {namespace:?}", listed(permissions));
    match choice {
        LockChoice::None => Finding::warning(
            check,
            "leader election is off",
            "Run only one replica, and no other provisioner of this name: two would serve the same claims.",
        ),
        LockChoice::Auto | LockChoice::Only(LockKind::Lease) if missing.lease.is_empty() => {
            let lacking = [&*missing.lease_watch, &*missing.endpoints_read].concat();
            if lacking.is_empty() {
                return Finding::ok(check, lease());
            }
            Finding::warning(
                check,
                format!("{}, but {}", lease(), may_not(&lacking)),
                "Grant it, as in rbac/: then a standby takes over at once, and no replica starts work while \
                 nfs-subdir-external-provisioner still leads.",
            )
        }
        LockChoice::Auto if missing.endpoints.is_empty() => Finding::warning(
            check,
            format!("{}, because {}", endpoints(), may_not(&missing.lease)),
            "Grant it, as in rbac/, once nfs-subdir-external-provisioner no longer runs.",
        ),
        LockChoice::Only(LockKind::Endpoints) if missing.endpoints.is_empty() => Finding::ok(check, endpoints()),
        LockChoice::Auto | LockChoice::Only(_) => {
            let lacking = match choice {
                LockChoice::Only(LockKind::Endpoints) => &missing.endpoints,
                LockChoice::None | LockChoice::Auto | LockChoice::Only(LockKind::Lease) => &missing.lease,
            };
            Finding::failure(
                check,
                may_not(lacking),
                "Grant it, as in rbac/, or set ENABLE_LEADER_ELECTION to false and run only one replica.",
            )
        }
    }
}

fn judge_classes(config: &Config, classes: &[Class], findings: &mut Vec<Finding>) {
    let provisioner = &*config.provisioner;
    let ours: Vec<&Class> = classes.iter().filter(|class| *class.provisioner == *provisioner).collect();
    if ours.is_empty() {
        let mut others: Vec<&str> = classes.iter().map(|class| &*class.provisioner).collect();
        others.sort_unstable();
        others.dedup();
        findings.push(Finding::warning(
            "classes",
            format!("no StorageClass names the provisioner {provisioner:?}; the existing ones name {others:?}"),
            "Create one, such as deploy/components/class/class.yaml, or set PROVISIONER_NAME to the name in your class.",
        ));
    }
    for class in ours {
        let before = findings.len();
        judge_class(class, &config.exports, findings);
        if findings.len() == before {
            findings.push(Finding::ok("class", format!("{:?} has good parameters", class.name)));
        }
    }
}

fn judge_class(class: &Class, exports: &Exports, findings: &mut Vec<Finding>) {
    for bad in &class.parameters.wrong {
        if matches!(bad, BadParameter::Spelling { .. }) {
            // It is among the unknown ones.
            continue;
        }
        if bad.concerns_fate() {
            findings.push(Finding::warning(
                "class",
                format!("{:?}: {bad}", class.name),
                "Delete the class and create it again with a valid value: until then its volumes are archived at the \
                 most, and its claims get a warning.",
            ));
            continue;
        }
        findings.push(Finding::failure(
            "class",
            format!("{:?}: {bad}", class.name),
            "Delete the class and create it again with a valid value: until then its claims wait.",
        ));
    }
    findings.extend(unusual_on_delete(class));
    if let Err(what) = exports.meant_by(&class.parameters.export) {
        findings.push(Finding::failure(
            "class",
            format!("{:?} names {what}", class.name),
            "Add the export to EXPORTS_FILE, or delete the class and create it again: until then its claims wait.",
        ));
    }
    if !class.parameters.unknown.is_empty() {
        findings.push(Finding::warning(
            "class",
            format!("{:?} has unknown parameters: {:?}", class.name, class.parameters.unknown),
            format!("Check whether one of {:?} was meant.", parameter::ALL),
        ));
    }
    if let Some(pattern) = &class.parameters.pattern {
        let none = BTreeMap::new();
        let facts = Facts {
            name: "claim",
            namespace: "namespace",
            labels: &none,
            annotations: &none,
            volume: "pvc-uid",
            class: class.name.as_str(),
        };
        let path = pattern.render(&facts);
        if !path.is_empty()
            && let Err(error) = new_directory(&path)
        {
            let example = "a claim \"claim\" in \"namespace\" without labels and annotations";
            findings.push(Finding::warning(
                "class",
                format!("{:?}: for {example} its pathPattern makes {path:?}, which {error}", class.name),
                "Such claims are refused. If that is not intended, delete the class and create it again.",
            ));
        }
    }
}

/// Judges an `onDelete` that nfs-subdir-external-provisioner takes for none: after a migration the class does
/// something else than before.
fn unusual_on_delete(class: &Class) -> Option<Finding> {
    let (text, fate) = (class.parameters.unusual_on_delete.as_ref()?, class.parameters.fate);
    let fate_now = match fate {
        Fate::Archive => "archives the directories of deleted claims",
        Fate::Delete => "removes the directories of deleted claims",
        Fate::Retain => "leaves the directories of deleted claims where they are",
    };
    Some(Finding::warning(
        "class",
        format!(
            "{:?}: parameter onDelete is {text:?}, with which this provisioner {fate_now}. \
             nfs-subdir-external-provisioner does not know this spelling and goes by archiveOnDelete",
            class.name
        ),
        format!(
            "If you want it so, delete the class and create it again with {:?}; else with \"archive\", \"delete\" or \
             \"retain\". Volumes that exist follow the new class.",
            fate.as_str()
        ),
    ))
}
