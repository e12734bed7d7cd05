//! The log, for machines and for people.

use std::fs;

use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::reclaim::{name_of, released};
use crate::support::eventually;
use crate::support::process::Process;
use crate::support::space::{PATH, Space};

/// Waits until there are lines in the JSON log with this message about this volume, and returns them.
async fn lines(log: &Process, message: &str, volume: &str) -> Vec<Value> {
    eventually(&format!("{message} {volume} in the log"), || async {
        let text = log.log();
        let lines =
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{line}")));
        let found: Vec<Value> =
            lines.filter(|line| line["message"] == message && line["volume"] == volume).collect();
        (!found.is_empty()).then_some(found)
    })
    .await
}

#[tokio::test]
async fn each_outcome_is_one_line_with_whose_what_where_and_how_long() {
    let space = Space::new().await;
    let mut settings = space.settings();
    settings.environment.push(("LOG_FORMAT".to_owned(), "json".to_owned()));
    let provisioner = Process::start(&settings);
    let parameters = json!({"parameters": {"pathPattern": "team/${.PVC.name}", "onDelete": "delete"}});
    let class = space.class("nfs", parameters).await;
    space.claim("data", &class, json!({})).await;
    let volume = space.bound("data").await;
    space.delete_claim("data").await;
    space.gone(name_of(&volume)).await;

    for (message, level) in [("provisioned", "INFO"), ("reclaimed", "INFO")] {
        let found = lines(&provisioner, message, name_of(&volume)).await;
        let [line] = &found[..] else { panic!("{found:?}") };
        assert_eq!(line["level"], level);
        assert_eq!(line["claim"], format!("{}/data", space.namespace), "{line}");
        assert_eq!(line["class"], class, "{line}");
        assert_eq!(line["path"], "team/data", "{line}");
        assert!(line["milliseconds"].is_u64() && line["timestamp"].is_string(), "{line}");
    }

    let wrong = space.class("wrong", json!({"parameters": {"directoryMode": "rwx"}})).await;
    space.claim("refused", &wrong, json!({})).await;
    space.event("refused", "ProvisioningFailed").await;
    let text = provisioner.log();
    let refused: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let refused: Vec<_> = refused.iter().filter(|line| line["message"] == "refused").collect();
    let [line] = refused[..] else { panic!("{refused:?}") };
    assert_eq!((&line["level"], &line["class"]), (&json!("WARN"), &json!(wrong)));
    assert_eq!(line["claim"], format!("{}/refused", space.namespace));
    assert!(
        line["reason"].as_str().unwrap().starts_with("failed to provision") && line["volume"].is_null(),
        "{line}"
    );

    // What fails is said as fully, each time that it is tried.
    fs::create_dir(space.at("link")).unwrap();
    let _out_of_reach = space.out_of_reach("link");
    let ordered = json!({"metadata": {"annotations": {"nfs-provisioner/on-delete": "delete"}}});
    let volume = released(&space, "fails", &format!("{PATH}/link/data"), &class, ordered).await;
    let found = lines(&provisioner, "failed to delete the directory", name_of(&volume)).await;
    assert_eq!((&found[0]["level"], &found[0]["path"]), (&json!("ERROR"), &json!("link/data")));
    assert_eq!(
        (&found[0]["claim"], &found[0]["class"]),
        (&json!(format!("{}/fails", space.namespace)), &json!(class))
    );
    assert!(found[0]["milliseconds"].is_u64() && found[0]["error"].as_str().unwrap().contains("symbolic link"));
    space.volumes().delete(name_of(&volume), &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn what_others_have_written_cannot_forge_a_line() {
    const FORGED: &str = "x\n2026-01-01T00:00:00.000000Z  INFO forged \u{1b}[31mred";
    let space = Space::new().await;
    let provisioner = space.start();
    let class = space.class("nfs", json!({"parameters": {"pathPattern": "${.PVC.annotations.path}"}})).await;
    let annotated = json!({"metadata": {"annotations": {"path": FORGED}}});
    space.claim("data", &class, annotated).await;
    space.event("data", "ProvisioningFailed").await;

    let beta = json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": FORGED}}});
    let of_class = released(&space, "class", &format!("{PATH}/class"), &class, beta).await;
    let on_delete = json!({"metadata": {"annotations": {"nfs-provisioner/on-delete": FORGED}}});
    let annotated = released(&space, "annotated", &format!("{PATH}/annotated"), &class, on_delete).await;
    fs::create_dir(space.at(FORGED)).unwrap();
    let placed = released(&space, "placed", &format!("{PATH}/{FORGED}"), &class, json!({})).await;
    let outside = released(&space, "outside", &format!("/other/{FORGED}"), &class, json!({})).await;
    for volume in [&of_class, &annotated, &placed] {
        space.gone(name_of(volume)).await;
    }
    space.event(name_of(&outside), "VolumeFailedDelete").await;

    let log = provisioner.log();
    assert!(log.matches("forged").count() >= 5, "{log}");
    for line in log.lines() {
        let begins =
            line.split_once('T').is_some_and(|(day, _)| day.split('-').all(|part| part.parse::<u32>().is_ok()));
        assert!(begins && !line.starts_with("2026-01-01T00:00:00"), "{line:?}");
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }
    space.volumes().delete(name_of(&outside), &DeleteParams::default()).await.unwrap();
}
