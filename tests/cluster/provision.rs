//! Claims that are served.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams};
use serde_json::json;

use crate::support::eventually;
use crate::support::process::Process;
use crate::support::proxy::{Action, Proxy};
use crate::support::space::{PATH, SERVER, Space, annotations, create, from_json, named};

#[tokio::test]
async fn a_claim_becomes_bound_to_the_volume_and_directory_that_the_peer_would_make() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({"mountOptions": ["nfsvers=4.1", "hard"]})).await;
    let claim =
        space.claim("data", &class, json!({"spec": {"resources": {"requests": {"storage": "100Mi"}}}})).await;
    let uid = claim.metadata.uid.unwrap();
    let volume = space.bound("data").await;

    let directory = format!("{}-data-pvc-{uid}", space.namespace);
    let mut spec = serde_json::to_value(volume.spec.as_ref().unwrap()).unwrap();
    spec["claimRef"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(volume.metadata.name.as_deref(), Some(format!("pvc-{uid}").as_str()));
    let found: Vec<_> = annotations(&volume.metadata).into_iter().collect();
    let expected = [
        ("nfs-provisioner/on-delete-of-class".to_owned(), "archive".to_owned()),
        ("pv.kubernetes.io/provisioned-by".to_owned(), space.provisioner.clone()),
    ];
    assert_eq!(found, expected);
    assert_eq!(volume.metadata.labels, None);
    assert_eq!(
        spec,
        json!({
            "accessModes": ["ReadWriteMany"],
            "capacity": {"storage": "100Mi"},
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": space.namespace, "name": "data", "uid": uid,
            },
            "mountOptions": ["nfsvers=4.1", "hard"],
            "nfs": {"server": SERVER, "path": format!("{PATH}/{directory}")},
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": class,
            "volumeMode": "Filesystem",
        })
    );
    assert_eq!(space.entries(), [&*directory]);
    let mode = fs::metadata(space.at(&directory)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o777);

    assert_eq!(
        space.event("data", "ProvisioningSucceeded").await,
        format!("Successfully provisioned volume pvc-{uid}")
    );
    // Of what is quick the end says all.
    assert!(space.events("data", "Provisioning").await.is_empty());
}

#[tokio::test]
async fn a_claim_that_takes_longer_than_a_second_says_that_it_is_being_served() {
    let space = Space::new().await;
    let proxy = Proxy::start(space.plane);
    let _provisioner = space.start_through(&proxy);
    let class = space.class("nfs", json!({})).await;
    let _slow =
        proxy.fault_of(1, |asked| asked.makes("persistentvolumes"), Action::Late(Duration::from_millis(2500)));
    space.claim("data", &class, json!({})).await;
    assert_eq!(
        space.event("data", "Provisioning").await,
        format!("External provisioner is provisioning volume for claim \"{}/data\"", space.namespace)
    );
    space.event("data", "ProvisioningSucceeded").await;
}

#[tokio::test]
async fn requests_and_access_modes_are_copied_as_they_are() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({"reclaimPolicy": "Retain"})).await;
    let rows =
        [("a", "1.5Gi", "ReadWriteOnce"), ("b", "3000000", "ReadOnlyMany"), ("c", "1Ti", "ReadWriteOncePod")];
    for (name, request, mode) in rows {
        let patch = json!({"spec": {"accessModes": [mode], "resources": {"requests": {"storage": request}}}});
        space.claim(name, &class, patch).await;
    }
    for (name, request, mode) in rows {
        let spec = space.bound(name).await.spec.unwrap();
        // The API server writes quantities its own way; the claim's is written the same way.
        let claims: Api<PersistentVolumeClaim> = space.api();
        let asked = claims.get(name).await.unwrap().spec.unwrap().resources.unwrap().requests.unwrap();
        assert_eq!(spec.capacity.unwrap()["storage"], asked["storage"], "{request}");
        assert_eq!(spec.access_modes.unwrap(), [mode]);
        // What only reads cannot write.
        assert_eq!(spec.mount_options, (mode == "ReadOnlyMany").then(|| vec!["ro".to_owned()]), "{mode}");
        assert_eq!(spec.persistent_volume_reclaim_policy.unwrap(), "Retain");
    }
}

#[tokio::test]
async fn a_claim_with_only_the_newer_annotation_is_served() {
    let space = Space::new().await;
    let class = space.class("nfs", json!({})).await;
    // As when a claim is restored from a file: the controller manager adds nothing to it.
    let annotation =
        json!({"metadata": {"annotations": {"volume.kubernetes.io/storage-provisioner": space.provisioner}}});
    space.claim("data", &class, annotation).await;
    let _provisioner = space.start();
    space.bound("data").await;
    let claims: Api<PersistentVolumeClaim> = space.api();
    let found = annotations(&claims.get("data").await.unwrap().metadata);
    assert!(!found.contains_key("volume.beta.kubernetes.io/storage-provisioner"), "{found:?}");
}

#[tokio::test]
async fn a_class_named_by_the_older_annotation_is_used() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({})).await;
    let patch = json!({
        "metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": class}},
        "spec": {"storageClassName": null},
    });
    space.claim("data", "", patch).await;
    let volume = space.bound("data").await;
    assert_eq!(volume.spec.unwrap().storage_class_name.unwrap(), class);
    assert_eq!(volume.metadata.annotations.unwrap().len(), 2, "none names the class");
}

#[tokio::test]
async fn a_claim_without_a_class_gets_the_default_one() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let default = json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
    let class = space.class("nfs", default).await;
    space.claim("data", "", json!({"spec": {"storageClassName": null}})).await;
    assert_eq!(space.bound("data").await.spec.unwrap().storage_class_name.unwrap(), class);
    space.classes().delete(&class, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_pattern_leads_each_claim_to_its_directory() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let pattern = "${.PVC.namespace}/${.PVC.labels.team}/${.PVC.annotations.example.com/path}";
    let class = space.class("nfs", json!({"parameters": {"pathPattern": pattern}})).await;
    let namespace = &space.namespace;
    let full = json!({"metadata": {"labels": {"team": "blue"}, "annotations": {"example.com/path": "/a//b/"}}});
    let rows = [
        ("full", full, format!("{namespace}/blue/a/b")),
        ("no-label", json!({"metadata": {"annotations": {"example.com/path": "x"}}}), format!("{namespace}/x")),
        ("neither", json!({}), namespace.clone()),
    ];
    for (name, patch, _) in &rows {
        space.claim(name, &class, patch.clone()).await;
    }
    for (name, _, expected) in &rows {
        let volume = space.bound(name).await;
        assert_eq!(Space::directory(&volume), *expected, "{name}");
        assert!(space.at(expected).is_dir(), "{name}");
    }
    // Only the volumes' own directories are open to all.
    let mode = |path: &str| fs::metadata(space.at(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&format!("{namespace}/blue")), 0o755);
    assert_eq!(mode(&format!("{namespace}/blue/a/b")), 0o777);
}

#[tokio::test]
async fn a_pattern_may_name_the_volume_and_the_class_and_have_defaults() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let pattern = "${.SC.name}/${.PVC.labels.team:-nobody}/${.PV.name}";
    let parameters = json!({"pathPattern": pattern, "strictPathPattern": "true"});
    let class = space.class("nfs", json!({"parameters": parameters})).await;
    space.claim("with", &class, json!({"metadata": {"labels": {"team": "blue"}}})).await;
    space.claim("without", &class, json!({})).await;
    for (name, team) in [("with", "blue"), ("without", "nobody")] {
        let volume = space.bound(name).await;
        let expected = format!("{class}/{team}/{}", volume.metadata.name.as_deref().unwrap());
        assert_eq!(Space::directory(&volume), expected);
        assert!(space.at(&expected).is_dir(), "{name}");
    }
    // A claim that lacks a value is served when it has one.
    let parameters = json!({"pathPattern": "${.PVC.namespace}/${.PVC.labels.team}", "strictPathPattern": "true"});
    let strict = space.class("strict", json!({"parameters": parameters})).await;
    space.claim("late", &strict, json!({})).await;
    space.event("late", "ProvisioningFailed").await;
    space
        .patch(&space.api::<PersistentVolumeClaim>(), "late", json!({"metadata": {"labels": {"team": "red"}}}))
        .await;
    assert_eq!(Space::directory(&space.bound("late").await), format!("{}/red", space.namespace));
}

#[tokio::test]
async fn a_directory_that_is_there_is_adopted_with_what_is_in_it() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"pathPattern": "kept/${.PVC.name}"}})).await;
    fs::create_dir_all(space.at("kept/data")).unwrap();
    fs::write(space.at("kept/data/file"), "before").unwrap();
    fs::set_permissions(space.at("kept/data"), fs::Permissions::from_mode(0o700)).unwrap();
    space.claim("data", &class, json!({})).await;
    space.bound("data").await;
    assert_eq!(fs::read_to_string(space.at("kept/data/file")).unwrap(), "before");
    assert_eq!(fs::metadata(space.at("kept/data")).unwrap().permissions().mode() & 0o7777, 0o777);
    let message = space.event("data", "ProvisioningSucceeded").await;
    assert!(message.ends_with("in a directory that was there before"), "{message}");
}

#[tokio::test]
async fn claims_of_one_name_in_two_namespaces_have_nothing_in_common() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({})).await;
    let other = format!("{}-other", space.namespace);
    create(&Api::all(space.client.clone()), named::<Namespace>(&other)).await;
    space.claim("data", &class, json!({})).await;
    space.claim_in(&other, "data", &class, json!({})).await;
    let volumes = [space.bound("data").await, space.bound_in(&other, "data").await];
    let [first, second] = volumes.map(|volume| Space::directory(&volume));
    assert!(first.starts_with(&format!("{}-data-pvc-", space.namespace)), "{first}");
    assert!(second.starts_with(&format!("{other}-data-pvc-")), "{second}");
    assert_eq!(space.entries().len(), 2);
}

#[tokio::test]
async fn a_claim_that_waits_for_its_first_consumer_is_served_when_that_is_scheduled() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let waiting = space.class("waiting", json!({"volumeBindingMode": "WaitForFirstConsumer"})).await;
    let immediate = space.class("immediate", json!({})).await;
    space.claim("waiting", &waiting, json!({})).await;
    space.claim("immediate", &immediate, json!({})).await;
    space.bound("immediate").await;
    assert_eq!(space.entries().len(), 1, "nothing is made before a Pod is scheduled");
    let pods: Api<Pod> = space.api();
    create(&pods, pod_using("consumer", "waiting")).await;
    space.bound("waiting").await;
    eventually("the Pod to run", || async {
        (pods.get("consumer").await.ok()?.status?.phase? == "Running").then_some(())
    })
    .await;
}

pub(crate) fn pod_using(name: &str, claim: &str) -> Pod {
    from_json(json!({
        "metadata": {"name": name},
        "spec": {
            "containers": [{"name": "main", "image": "busybox", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }))
}

#[tokio::test]
async fn claims_deleted_while_they_are_served_leave_nothing() {
    let space = Space::new().await;
    let provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    let names: Vec<String> = (0..40).map(|number| format!("data-{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        space.claim(name, &class, json!({})).await;
        // Some at once, some a little later: each round of the provisioner is met somewhere.
        tokio::time::sleep(std::time::Duration::from_millis(number as u64 % 8)).await;
        space.delete_claim(name).await;
    }
    eventually("all volumes and directories to go", || async {
        (space.volumes_of(&class).await.is_empty() && space.entries().is_empty()).then_some(())
    })
    .await;
    // And it stays like that.
    space.claim("last", &class, json!({})).await;
    space.bound("last").await;
    assert_eq!(space.entries().len(), 1, "{:?}\n{}", space.entries(), provisioner.log());
}

#[tokio::test]
async fn a_claim_that_is_being_deleted_is_not_served() {
    let space = Space::new().await;
    let class = space.class("nfs", json!({})).await;
    space.claim("going", &class, json!({"metadata": {"finalizers": ["example.com/hold"]}})).await;
    space.delete_claim("going").await;
    let _provisioner = space.start();
    space.claim("staying", &class, json!({})).await;
    space.bound("staying").await;
    assert_eq!(space.entries().len(), 1);
    assert!(space.events("going", "Provisioning").await.is_empty());
    space.patch(&space.api::<PersistentVolumeClaim>(), "going", json!({"metadata": {"finalizers": null}})).await;
}

/// Classes that the old program serves, and that do not say clearly what happens to the data.
#[tokio::test]
async fn a_class_in_doubt_about_the_fate_serves_its_claims_with_a_warning_and_destroys_nothing() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let rows = [
        ("on-delete", json!({"onDelete": "true"}), ["onDelete", "\"true\"", "\"retain\""]),
        ("archive", json!({"archiveOnDelete": "no"}), ["archiveOnDelete", "\"no\"", "\"false\""]),
        ("keep", json!({"onDelete": "keep", "archiveOnDelete": "false"}), ["onDelete", "\"keep\"", "\"retain\""]),
        ("spelling", json!({"archiveondelete": "false"}), ["archiveondelete", "archiveOnDelete", "spelled"]),
    ];
    for (name, parameters, named) in rows {
        let class = space.class(name, json!({"parameters": parameters})).await;
        space.claim(name, &class, json!({})).await;
        let volume = space.bound(name).await;
        let directory = Space::directory(&volume);
        fs::write(space.at(&directory).join("file"), "data").unwrap();
        let message = space.event(name, "ReclaimUnclear").await;
        for words in named {
            assert!(message.contains(words), "{name}: {words:?} is not in {message:?}");
        }
        space.delete_claim(name).await;
        space.gone(&volume.metadata.name.unwrap()).await;
        assert!(space.at(&format!("archived-{directory}")).join("file").exists(), "{name}");
    }
    // Nobody else is warned.
    let class =
        space.class("clear", json!({"parameters": {"onDelete": "Retain", "archiveOnDelete": "false"}})).await;
    space.claim("clear", &class, json!({})).await;
    let volume = space.bound("clear").await;
    space.event("clear", "ProvisioningSucceeded").await;
    assert!(space.events("clear", "ReclaimUnclear").await.is_empty());
    space.delete_claim("clear").await;
    space.gone(volume.metadata.name.as_deref().unwrap()).await;
    assert!(space.at(&Space::directory(&volume)).is_dir(), "it is retained");
}

#[tokio::test]
async fn what_happened_while_it_was_away_is_picked_up_after_a_restart() {
    let space = Space::new().await;
    let provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"archiveOnDelete": "false"}})).await;
    space.claim("before", &class, json!({})).await;
    let before = space.bound("before").await.metadata.name.unwrap();
    space.long_in_use(&before).await;
    assert!(provisioner.stop().success());

    space.claim("meanwhile", &class, json!({})).await;
    space.delete_claim("before").await;
    space.phase(&before, "Released").await;
    assert_eq!(space.entries().len(), 1);

    let started = std::time::Instant::now();
    let _provisioner = space.start();
    space.bound("meanwhile").await;
    space.gone(&before).await;
    assert_eq!(space.entries().len(), 1);
    // It gave the lock back: nobody had to wait for that to expire.
    assert!(started.elapsed().as_secs() < 12, "{:?}", started.elapsed());
}

/// A volume that the API server refuses costs nobody's directory, and leaves none of its own.
#[tokio::test]
async fn a_refused_volume_takes_back_only_what_was_made_for_it() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"pathPattern": "${.PVC.annotations.path}"}})).await;
    let at = |path: &str| json!({"metadata": {"annotations": {"path": path}}});
    forbid_volumes(&space, "denied").await;

    fs::create_dir_all(space.at("there/before")).unwrap();
    fs::write(space.at("there/before/file"), "data").unwrap();
    space.claim("denied-adopting", &class, at("there/before")).await;
    space.claim("denied-making", &class, at("there/new/er")).await;
    space.claim("denied-sharing", &class, at("there/shared")).await;
    for claim in ["denied-adopting", "denied-making", "denied-sharing"] {
        let message = space.event(claim, "ProvisioningFailed").await;
        assert!(message.starts_with("Error creating provisioned PV object for claim "), "{message}");
    }
    space.claim("served-sharing", &class, at("there/shared")).await;
    let served = Space::directory(&space.bound("served-sharing").await);
    // The refused ones are tried again and again meanwhile.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert!(space.at(&served).is_dir(), "what another claim has is never taken back");
    assert_eq!(fs::read_to_string(space.at("there/before/file")).unwrap(), "data");
    for claim in ["denied-adopting", "denied-making", "denied-sharing"] {
        space.delete_claim(claim).await;
    }
    eventually("what was made to be taken back", || async { (!space.at("there/new").exists()).then_some(()) })
        .await;
    assert!(space.at(&served).is_dir() && space.at("there/before/file").exists());
}

/// Has the API server refuse volumes for claims whose names begin so, in the space's namespace, until
/// [`allow_volumes`].
pub(crate) async fn forbid_volumes(space: &Space, start: &str) {
    let name = format!("{}-policy", space.namespace);
    let expression = format!(
        "!has(object.spec.claimRef) || object.spec.claimRef.namespace != '{}' || \
         !object.spec.claimRef.name.startsWith('{start}')",
        space.namespace
    );
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["persistentvolumes"]});
    let policy: ValidatingAdmissionPolicy = from_json(json!({
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": expression, "message": "not today"}],
        },
    }));
    let binding: ValidatingAdmissionPolicyBinding = from_json(json!({
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }));
    create(&Api::all(space.client.clone()), policy).await;
    create(&Api::all(space.client.clone()), binding).await;
    // It takes the API server a moment to know it.
    let probe: PersistentVolume = from_json(json!({
        "metadata": {"name": format!("{name}-probe")},
        "spec": {
            "accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Mi"}, "nfs": {"server": "x", "path": "/x"},
            "claimRef": {"namespace": space.namespace, "name": start},
        },
    }));
    let dry = kube::api::PostParams { dry_run: true, ..Default::default() };
    let volumes = space.volumes();
    eventually("the policy", || async {
        let refused = volumes.create(&dry, &probe).await.err()?;
        refused.to_string().contains("not today").then_some(())
    })
    .await;
}

/// Ends what [`forbid_volumes`] began.
pub(crate) async fn allow_volumes(space: &Space) {
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(space.client.clone());
    bindings.delete(&format!("{}-policy", space.namespace), &Default::default()).await.unwrap();
}

/// The API server has not said whether it has made the volume, and the claim is to lie elsewhere by then.
#[tokio::test]
async fn a_claim_that_moves_while_its_volume_is_in_doubt_leaves_nothing_behind() {
    let space = Space::new().await;
    let _provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"pathPattern": "${.PVC.labels.team}"}})).await;
    // It fails with an error of its own, which says nothing about the request.
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["persistentvolumes"]});
    // Volumes of other tests may have no class.
    let expression = format!("has(object.spec.storageClassName) && object.spec.storageClassName == '{class}'");
    let webhook: ValidatingWebhookConfiguration = from_json(json!({
        "metadata": {"name": space.class_name("broken")},
        "webhooks": [{
            "name": "broken.example.com", "rules": [rule], "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "timeoutSeconds": 1, "clientConfig": {"url": "https://127.0.0.1:1/"},
            "matchConditions": [{"name": "ours", "expression": expression}],
        }],
    }));
    let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(space.client.clone());
    create(&webhooks, webhook).await;
    let label = |team: &str| json!({"metadata": {"labels": {"team": team}}});
    let claims = space.api::<PersistentVolumeClaim>();
    // It takes the API server a moment to know of the webhook.
    let mut in_doubt = None;
    for number in 0.. {
        let name = format!("data-{number}");
        space.claim(&name, &class, label(&name)).await;
        let is_served = eventually("the claim to be served or in doubt", || async {
            let phase = claims.get(&name).await.ok()?.status?.phase;
            let is_failed = !space.events(&name, "ProvisioningFailed").await.is_empty();
            (is_failed || phase.as_deref() == Some("Bound")).then_some(!is_failed)
        })
        .await;
        if !is_served {
            in_doubt = Some(name);
            break;
        }
    }
    let (before, claim) = (space.entries(), in_doubt.unwrap());
    space.patch(&claims, &claim, label("moved")).await;
    eventually("it to move", || async {
        (space.entries().contains(&"moved".to_owned()) && !space.entries().contains(&claim)).then_some(())
    })
    .await;
    webhooks.delete(&space.class_name("broken"), &DeleteParams::default()).await.unwrap();
    assert_eq!(Space::directory(&space.bound(&claim).await), "moved");
    assert_eq!(space.entries().len(), before.len());
}

#[tokio::test]
async fn of_two_with_one_name_and_two_servers_the_loser_takes_its_directory_back() {
    let space = Space::new().await;
    let class = space.class("nfs", json!({})).await;
    let mut settings = space.settings();
    let no_election = ("ENABLE_LEADER_ELECTION".to_owned(), "false".to_owned());
    settings.environment.push(no_election);
    let other_mount = space.at("../other");
    fs::create_dir(&other_mount).unwrap();
    let mut other = settings.clone();
    (other.server, other.mount) = ("other.test.invalid".to_owned(), other_mount.clone());
    other.log.set_extension("other");
    let _both = [Process::start(&settings), Process::start(&other)];
    let names: Vec<String> = (0..10).map(|number| format!("data-{number}")).collect();
    for name in &names {
        space.claim(name, &class, json!({})).await;
    }
    let mut on_ours = 0;
    for name in &names {
        let source = space.bound(name).await.spec.unwrap().nfs.unwrap();
        on_ours += usize::from(source.server == SERVER);
    }
    let others = || {
        let names = fs::read_dir(&other_mount).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| !name.to_string_lossy().starts_with(".nfs-provisioner")).count()
    };
    eventually("each directory to have a volume", || async {
        (space.entries().len() == on_ours && others() == names.len() - on_ours).then_some(())
    })
    .await;
}
