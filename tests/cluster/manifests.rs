//! The files that users apply, applied by kubectl.

use std::path::Path;

use clap::CommandFactory;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolume, ServiceAccount};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, PostParams};
use nfs_provisioner::config::Args;

use crate::support::plane::Plane;
use crate::support::process::{Process, Settings, provisioner};
use crate::support::space::{PATH, SERVER, write_kubeconfig};
use crate::support::{deploy, eventually};

/// The settings of a provisioner as a Deployment says, under the ServiceAccount that it names, with an export in `dir`.
pub(crate) async fn as_deployed(plane: &Plane, deployment: &Deployment, dir: &Path) -> Settings {
    let namespace = deployment.metadata.namespace.clone().unwrap();
    let pod = deployment.spec.clone().unwrap().template.spec.unwrap();
    let variables = pod.containers[0].env.iter().flatten();
    let environment: Vec<(String, String)> =
        variables.map(|variable| (variable.name.clone(), variable.value.clone().unwrap())).collect();
    let value = |name: &str| environment.iter().find(|(key, _)| key == name).unwrap().1.clone();
    let accounts: Api<ServiceAccount> = Api::namespaced(plane.client().await, &namespace);
    let account = pod.service_account_name.unwrap();
    let token =
        accounts.create_token_request(&account, &PostParams::default(), &Default::default()).await.unwrap();
    let kubeconfig = dir.join("kubeconfig");
    write_kubeconfig(&plane.kubeconfig, &token.status.unwrap().token, &kubeconfig);
    let settings = Settings {
        binary: provisioner(),
        kubeconfig,
        provisioner: value("PROVISIONER_NAME"),
        server: value("NFS_SERVER"),
        path: value("NFS_PATH"),
        mount: dir.join("export"),
        namespace,
        log: dir.join("log"),
        environment,
    };
    std::fs::create_dir(&settings.mount).unwrap();
    settings
}

/// `kubectl apply -k deploy/` after editing the two values, with a provisioner started as the Deployment says and
/// under the ServiceAccount that it names; then the example objects, unchanged.
#[tokio::test]
async fn what_deploy_installs_serves_the_examples() {
    let plane = Plane::shared();
    let client = plane.client().await;
    let dir = tempfile::tempdir().unwrap();
    let deploy = deploy::edited(dir.path(), SERVER, PATH);
    plane.kubectl(&["apply", "-k", deploy.to_str().unwrap()]);
    // Once more is no change.
    let again = plane.kubectl(&["apply", "-k", deploy.to_str().unwrap()]);
    assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");

    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let deployment = deployments.get("nfs-client-provisioner").await.unwrap();
    let settings = as_deployed(plane, &deployment, dir.path()).await;
    let spec = deployment.spec.unwrap();
    assert_eq!(spec.strategy.unwrap().type_.as_deref(), Some("Recreate"));
    let pod = spec.template.spec.unwrap();
    let container = &pod.containers[0];
    let volume = &pod.volumes.as_ref().unwrap()[0];
    let nfs = volume.nfs.as_ref().unwrap();
    assert_eq!((nfs.server.as_str(), nfs.path.as_str()), (SERVER, PATH));
    assert_eq!((settings.server.as_str(), settings.path.as_str()), (SERVER, PATH));
    // People patch these by name.
    assert_eq!((container.name.as_str(), volume.name.as_str()), ("nfs-client-provisioner", "nfs-client-root"));
    let mount = &container.volume_mounts.as_ref().unwrap()[0];
    assert_eq!((mount.name.as_str(), mount.mount_path.as_str()), ("nfs-client-root", "/persistentvolumes"));

    // Each variable is one that the program reads.
    let command = Args::command();
    let read: Vec<_> = command.get_arguments().filter_map(|argument| argument.get_env()).collect();
    for (name, _) in &settings.environment {
        assert!(read.iter().any(|variable| *variable == name.as_str()), "{name}");
    }

    let _provisioner = Process::start(&settings);
    let classes: Api<StorageClass> = Api::all(client.clone());
    assert_eq!(classes.get("nfs-client").await.unwrap().provisioner, settings.provisioner);

    for example in ["test-claim.yaml", "test-pod.yaml", "statefulset.yaml"] {
        plane.kubectl(&["apply", "-f", deploy.join(example).to_str().unwrap()]);
    }
    for (object, until) in [
        ("pvc/test-claim", "jsonpath={.status.phase}=Bound"),
        ("pod/test-pod", "jsonpath={.status.phase}=Succeeded"),
        ("statefulset/web", "jsonpath={.status.readyReplicas}=3"),
    ] {
        plane.kubectl(&["wait", object, "--for", until, "--timeout=60s"]);
    }
    let described = plane.kubectl(&["describe", "pvc", "test-claim"]);
    assert!(described.contains("ProvisioningSucceeded"), "{described}");
    for example in ["statefulset.yaml", "test-pod.yaml", "test-claim.yaml"] {
        plane.kubectl(&["delete", "-f", deploy.join(example).to_str().unwrap()]);
    }
    let volumes: Api<PersistentVolume> = Api::all(client);
    eventually("the test claim's directory to be archived", || async {
        let archived = std::fs::read_dir(&settings.mount)
            .ok()?
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("archived-default-test-claim-pvc-"));
        let bound = volumes.list(&Default::default()).await.ok()?.items.into_iter().any(|volume| {
            volume.spec.and_then(|spec| spec.claim_ref).and_then(|claim| claim.name).as_deref()
                == Some("test-claim")
        });
        (archived && !bound).then_some(())
    })
    .await;
}
