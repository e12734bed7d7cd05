//! Servers that are away: what the kubelet makes of the provisioner's probes.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::node::{Node, PodState, Told, within};
use crate::rig::MAIN;

pub(crate) fn trials() -> Vec<Trial> {
    crate::trials![
        an_api_server_that_is_restarted_leaves_the_provisioner_ready,
        an_export_that_is_away_makes_it_not_ready_and_restarts_nothing,
    ]
}

/// How long the kubelet may take to learn that a Pod is ready that was not.
const READINESS: Duration = Duration::from_mins(1);

/// After six, at most 10 s apart and 5 s each, it is restarted.
const LIVENESS: Duration = Duration::from_secs(75);

fn claim(node: &Node, name: &str) {
    let file = node.rig.dir.join(format!("{name}.json"));
    let claim = serde_json::json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {
            "storageClassName": "nfs-client", "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Mi"}},
        },
    });
    std::fs::write(&file, claim.to_string()).unwrap();
    node.kubectl(&["apply", "-f", file.to_str().unwrap()]);
}

/// The provisioner, once the kubelet takes it to be ready.
fn ready(node: &Node) -> PodState {
    within("the provisioner to be ready", READINESS, || {
        let state = node.provisioner();
        (state.ready == "True").then_some(state)
    })
}

async fn an_api_server_that_is_restarted_leaves_the_provisioner_ready(node: &'static Node) {
    let _told = Told(node);
    let before = ready(node);
    let begun = Instant::now();
    node.rig.plane.command("restart kube-apiserver");
    println!("    the API server was away for {:.0?}", begun.elapsed());
    // By now the kubelet has said so if it had to restart it, or if it is not ready any more.
    std::thread::sleep(LIVENESS.saturating_sub(begun.elapsed()));
    let after = ready(node);
    assert_eq!((after.uid, after.restarts), (before.uid, before.restarts));
    claim(node, "after-restart");
    node.wait("pvc/after-restart", "jsonpath={.status.phase}=Bound");
}

async fn an_export_that_is_away_makes_it_not_ready_and_restarts_nothing(node: &'static Node) {
    let _told = Told(node);
    let before = ready(node);
    node.rig.run_on(MAIN, &["rpc.nfsd", "0"]);
    let begun = Instant::now();
    claim(node, "in-outage");
    let away = within("the provisioner not to be ready", Duration::from_mins(1), || {
        let state = node.provisioner();
        (state.ready == "False").then_some(state)
    });
    println!("    not ready {:.0?} after the export had gone", begun.elapsed());
    std::thread::sleep(LIVENESS.saturating_sub(begun.elapsed()));
    assert_eq!(node.provisioner(), away, "not restarted");
    assert_eq!(away, PodState { ready: "False".to_owned(), since: away.since.clone(), ..before.clone() });

    node.rig.run_on(MAIN, &["rpc.nfsd", "4"]);
    let back = Instant::now();
    let after = ready(node);
    println!("    ready {:.0?} after it was back", back.elapsed());
    node.wait("pvc/in-outage", "jsonpath={.status.phase}=Bound");
    assert_eq!((after.uid, after.restarts), (before.uid, before.restarts));
}
