//! The alerts and the dashboard of `deploy/monitoring`, by Prometheus itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::{Value, json};

use crate::support::debian::missing;
use crate::support::eventually;
use crate::support::http::{encoded, free_port, get};
use crate::support::process::Process;
use crate::support::skip::skips;
use crate::support::space::{SERVER, Space, create, documents, from_json};

const PROGRAMS: &[(&str, &str)] = &[("prometheus", "prometheus"), ("promtool", "prometheus")];

fn monitoring(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring").join(file)
}

/// The rules as Prometheus reads them.
fn rules() -> Value {
    documents(&monitoring("alerts.yaml"))[0]["spec"].clone()
}

#[test]
fn each_alert_is_raised_when_it_should_be_and_not_otherwise() {
    if skips(missing(PROGRAMS)) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // JSON is YAML.
    fs::write(dir.path().join("alerts.yaml"), rules().to_string()).unwrap();
    let tests = monitoring("alerts_test.yaml");
    fs::copy(&tests, dir.path().join("alerts_test.yaml")).unwrap();
    let tested = Command::new("promtool")
        .args(["test", "rules", "alerts_test.yaml"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
    let (tests, operations) = (fs::read_to_string(tests).unwrap(), operations());
    for rule in rules()["groups"][0]["rules"].as_array().unwrap() {
        let alert = rule["alert"].as_str().unwrap();
        assert!(tests.matches(alert).count() >= 2, "{alert} has no test of when it is raised");
        assert!(operations.contains(&format!("### {alert}\n")), "docs/operations.md does not tell of {alert}");
    }
}

fn operations() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap()
}

/// A Prometheus that scrapes the provisioner at a port. It ends with this value.
struct Prometheus {
    child: Child,
    port: u16,
}

impl Prometheus {
    fn start(dir: &Path, scraped: u16) -> Self {
        let port = free_port();
        let config = json!({
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [{"job_name": "nfs", "static_configs": [{"targets": [format!("127.0.0.1:{scraped}")]}]}],
        });
        fs::write(dir.join("prometheus.yaml"), config.to_string()).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "prometheus", "--config.file=prometheus.yaml", "--log.level=error"])
            .args(["--storage.tsdb.path=data", &format!("--web.listen-address=127.0.0.1:{port}")])
            .current_dir(dir)
            .spawn()
            .unwrap();
        Self { child, port }
    }

    /// What a query has for a result; `None` while it does not answer.
    fn query(&self, query: &str) -> Option<Value> {
        let answer = get(self.port, &format!("/api/v1/query?query={}", encoded(query)));
        let answer: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        Some(answer["data"]["result"].clone())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All queries of the dashboard, each with the title of its panel.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(monitoring("dashboard.json")).unwrap()).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "20s");
            queries.push((panel["title"].as_str().unwrap().to_owned(), query));
        }
    }
    queries
}

/// Our series that a text names.
fn series(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("nfs_provisioner_") || word.starts_with("controller_"))
        .map(Into::into)
        .collect()
}

#[tokio::test]
async fn each_query_of_the_dashboard_has_an_answer_and_each_series_of_an_alert_exists() {
    if skips(missing(PROGRAMS)) {
        return;
    }
    let space = Space::new().await;
    let mut settings = space.settings();
    let port = free_port();
    settings.environment.push(("HTTP_ADDR".to_owned(), format!("127.0.0.1:{port}")));
    settings.environment.push(("USAGE_CALLS_PER_SECOND".to_owned(), "1000".to_owned()));
    let _provisioner = Process::start(&settings);
    let dir = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(dir.path(), port);

    // One of each: served and in use, served and reclaimed, failed and tried again, refused.
    let class = space.class("nfs", json!({"parameters": {"onDelete": "delete"}})).await;
    for name in ["stays", "data"] {
        space.claim(name, &class, json!({})).await;
    }
    space.bound("stays").await;
    let volume = space.bound("data").await.metadata.name.unwrap();
    space.delete_claim("data").await;
    space.gone(&volume).await;
    let pattern = |path: &str| json!({"parameters": {"pathPattern": path}});
    fs::write(space.at("file"), "").unwrap();
    for (name, path) in [("failed", "file/data"), ("refused", "..")] {
        let class = space.class(name, pattern(path)).await;
        space.claim(name, &class, json!({})).await;
        space.event(name, "ProvisioningFailed").await;
    }
    let elsewhere = format!("{}-elsewhere", space.namespace);
    let outside = json!({
        "metadata": {"name": elsewhere, "annotations": {"pv.kubernetes.io/provisioned-by": space.provisioner}},
        "spec": {
            "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Delete", "storageClassName": class,
            "nfs": {"server": SERVER, "path": "/elsewhere/data"},
            "claimRef": {"namespace": space.namespace, "name": "gone", "uid": "1"},
        },
    });
    create(&space.volumes(), from_json(outside)).await;
    space.event(&elsewhere, "VolumeFailedDelete").await;

    for (title, query) in queries() {
        eventually(&format!("{title}: {query}"), || async {
            let result = prometheus.query(&query)?;
            result.as_array().is_some_and(|result| !result.is_empty()).then_some(())
        })
        .await;
    }
    let alerts = series(&rules().to_string());
    assert!(alerts.len() > 8, "{alerts:?}");
    for series in alerts.iter().chain(&series(&operations())) {
        eventually(&format!("a series {series}"), || async {
            let found = prometheus.query(&format!("{{__name__=~\"{series}(_count)?\"}}"))?;
            (!found.as_array()?.is_empty()).then_some(())
        })
        .await;
    }
    space.volumes().delete(&elsewhere, &kube::api::DeleteParams::default()).await.unwrap();
}
