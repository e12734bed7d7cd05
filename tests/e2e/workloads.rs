//! Pods that use volumes.

use std::time::Duration;

use libtest_mimic::Trial;

use crate::node::{Node, PROVISIONER, Told, within};

pub(crate) fn trials() -> Vec<Trial> {
    crate::trials![
        the_provisioner_has_no_more_rights_than_deploy_says,
        two_pods_of_a_deployment_share_a_claim,
        each_pod_of_a_stateful_set_finds_its_file_again,
        pods_that_are_not_root_write,
        a_claim_that_is_deleted_while_a_pod_uses_it_stays_until_the_pod_goes,
    ]
}

/// The one capability that `deploy/` leaves it.
const FOWNER: u64 = 1 << 3;

async fn the_provisioner_has_no_more_rights_than_deploy_says(node: &'static Node) {
    let _told = Told(node);
    let names =
        r#"for p in /proc/[0-9]*; do read -r name <$p/comm && echo "${p#/proc/} $name"; done 2>/dev/null; :"#;
    let names = node.rig.run(&["sh", "-c", names]);
    let found: String = names.lines().filter_map(|line| line.strip_suffix(" nfs-provisioner")).collect();
    let process: u32 = found.parse().unwrap_or_else(|_| panic!("not one process: {names}"));
    let status = node.read(format!("/proc/{process}/status").into());
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    for set in ["CapBnd:", "CapEff:", "CapPrm:"] {
        assert_eq!(value(set), FOWNER, "{set} {:x}", value(set));
    }
    assert_eq!((value("NoNewPrivs:"), value("Seccomp:")), (1, 2));

    let mounts = node.read(format!("/proc/{process}/mountinfo").into());
    let mount = |at: &str| {
        let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(at)).unwrap();
        line.split_once(" - ").map(|(start, end)| (start.split(' ').nth(5).unwrap(), end)).unwrap()
    };
    assert!(mount("/").0.starts_with("ro,"), "{mounts}");
    assert!(mount("/persistentvolumes").1.starts_with("nfs4 10.78.1.2:/export "), "{mounts}");

    let pod = format!("pod/{}", node.pods(PROVISIONER)[0]);
    let image = node.field(&pod, ".status.containerStatuses[0].image");
    assert_eq!(image, concat!("docker.io/library/nfs-provisioner:", env!("CARGO_PKG_VERSION")));
}

async fn two_pods_of_a_deployment_share_a_claim(node: &'static Node) {
    let _told = Told(node);
    node.apply("shared.yaml");
    node.rolled_out("shared");
    let pods = node.pods("shared");
    assert_eq!(pods.len(), 2);
    let directory = node.directory("shared");
    within("both to have written", Duration::from_secs(10), || {
        (node.names(&directory) == pods && pods.iter().all(|pod| !node.read(directory.join(pod)).is_empty()))
            .then_some(())
    });
    for pod in &pods {
        let seen = node.run_in(pod, "cat /data/*");
        assert_eq!(seen.lines().collect::<Vec<_>>(), pods, "as {pod} sees it");
    }
}

async fn each_pod_of_a_stateful_set_finds_its_file_again(node: &'static Node) {
    const FILE: &str = "/usr/share/nginx/html/index.html";
    let _told = Told(node);
    let pods = ["web-0", "web-1", "web-2"];
    let up = || {
        node.apply("statefulset.yaml");
        node.wait("statefulset/web", "jsonpath={.status.readyReplicas}=3");
        pods.map(|pod| node.field(&format!("pod/{pod}"), ".metadata.uid"))
    };
    let before = up();
    for pod in pods {
        node.run_in(pod, &format!("hostname >{FILE}"));
    }
    node.kubectl(&["delete", "statefulset/web"]);
    for pod in pods {
        node.wait(&format!("pod/{pod}"), "delete");
    }
    let after = up();
    for (number, pod) in pods.into_iter().enumerate() {
        assert_ne!(before[number], after[number], "{pod} is another Pod than before");
        assert_eq!(node.run_in(pod, &format!("cat {FILE}")).trim(), pod);
        let seen = node.read(node.directory(&format!("data-{pod}")).join("index.html"));
        assert_eq!(seen.trim(), pod, "on the server");
    }
    node.kubectl(&["delete", "statefulset/web", "--wait=false"]);
}

async fn pods_that_are_not_root_write(node: &'static Node) {
    let _told = Told(node);
    for file in ["user.yaml", "test-claim.yaml", "test-pod.yaml"] {
        node.apply(file);
    }
    node.wait("pod/test-pod", "jsonpath={.status.phase}=Succeeded");
    node.wait("pod/user", "condition=Ready");
    let success = node.stat(node.directory("test-claim").join("SUCCESS"));
    assert_eq!((success.owner, success.group), (65534, 0));
    let file = node.directory("user").join("file");
    within("the file", Duration::from_secs(10), || {
        (node.names(file.parent().unwrap()) == ["file"] && node.read(file.clone()) == "user\n").then_some(())
    });
    let status = node.stat(file);
    assert_eq!((status.owner, status.group), (1000, 1000));
}

async fn a_claim_that_is_deleted_while_a_pod_uses_it_stays_until_the_pod_goes(node: &'static Node) {
    let _told = Told(node);
    node.apply("user.yaml");
    node.wait("pod/user", "condition=Ready");
    let directory = node.directory("user");
    let volume = node.field("pvc/user", ".spec.volumeName");
    node.kubectl(&["delete", "pvc/user", "--wait=false"]);
    std::thread::sleep(Duration::from_secs(5));
    assert_ne!(node.field("pvc/user", ".metadata.deletionTimestamp"), "");
    assert_eq!(node.field(&format!("pv/{volume}"), ".status.phase"), "Bound");
    node.run_in("user", "echo more >/data/more; sync");
    assert_eq!(node.read(directory.join("more")), "more\n");

    node.kubectl(&["delete", "pod/user"]);
    node.wait("pvc/user", "delete");
    node.wait(&format!("pv/{volume}"), "delete");
    let archive = format!("archived-{}", directory.file_name().unwrap().to_str().unwrap());
    assert!(node.entries().contains(&archive), "{:?}", node.entries());
    assert_eq!(node.names(&directory.with_file_name(archive)), ["file", "more"]);
}
