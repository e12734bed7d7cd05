//! The connection to the API server: which server, and how it lists.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Client, Config as KubeConfig};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::cluster::api::answered;

/// How many objects are read at a time where the API server does not stream lists. Bounds the memory.
const PAGE: u32 = 100;

/// How long one watch lasts, in seconds. A connection that has died silently is noticed soon after.
const WATCH_SECONDS: u32 = 120;

/// The longest wait before an API server that cannot be reached is tried again.
const RECONNECT_MAX: Duration = Duration::from_secs(15);

/// The file in which Kubernetes tells a Pod its namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Returns the settings of the API client: from this file if one is named, else from the Pod that this process
/// runs in, else from `~/.kube/config`.
///
/// # Errors
/// Returns an error if there are none, or they cannot be read.
pub async fn kube_config(file: Option<&Path>) -> Result<KubeConfig> {
    let options = KubeConfigOptions::default();
    if let Some(file) = file {
        let read = Kubeconfig::read_from(file)
            .with_context(|| format!("failed to read the kubeconfig {} (set by KUBECONFIG)", file.display()))?;
        return Ok(KubeConfig::from_custom_kubeconfig(read, &options).await?);
    }
    match KubeConfig::incluster() {
        Ok(config) => Ok(config),
        Err(not_in_cluster) => KubeConfig::from_kubeconfig(&options).await.with_context(|| {
            format!("no API server is known: KUBECONFIG is not set, {not_in_cluster}, and ~/.kube/config cannot be used")
        }),
    }
}

/// How to ask the API server for all objects of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListMode {
    /// As a watch, one object after the other.
    Streamed,
    /// In pages, from API servers that do not stream.
    Paged,
}

impl ListMode {
    /// Returns the settings of a watch that lists in this way.
    pub(super) fn config(self) -> watcher::Config {
        let config = watcher::Config::default().timeout(WATCH_SECONDS);
        match self {
            Self::Streamed => config.streaming_lists(),
            Self::Paged => config.page_size(PAGE),
        }
    }
}

/// Waits until the API server answers, and returns how it lists.
pub async fn connect(client: &Client) -> ListMode {
    let mut pause = Duration::from_millis(500);
    loop {
        match answered(client.apiserver_version()).await {
            Ok(version) => {
                info!(version = version.git_version, "connected to the API server");
                return listing(&version.major, &version.minor);
            }
            Err(error) => warn!(%error, "the API server cannot be reached, will try again"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(RECONNECT_MAX);
    }
}

/// Returns how an API server of this version lists.
///
/// From 1.27 on it knows how to stream lists, and refuses if it does not want to. An older one would take the
/// request for a plain watch and never tell that the list has ended.
fn listing(major: &str, minor: &str) -> ListMode {
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>();
    match (digits(major), digits(minor)) {
        (Ok(1), Ok(minor)) if minor < 27 => ListMode::Paged,
        (Ok(_), Ok(_)) => ListMode::Streamed,
        _ => ListMode::Paged,
    }
}

/// Returns the namespace that this process runs in, as upstream finds it: the Pod's own, else `default`.
#[must_use]
pub fn own_namespace() -> String {
    let read = std::fs::read_to_string(NAMESPACE_FILE).unwrap_or_default();
    Some(read.trim()).filter(|namespace| !namespace.is_empty()).unwrap_or("default").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_streamed_from_1_27_on() {
        let rows = [
            ("1", "26", ListMode::Paged),
            ("1", "27", ListMode::Streamed),
            ("1", "36+", ListMode::Streamed),
            ("", "", ListMode::Paged),
        ];
        for (major, minor, expected) in rows {
            assert_eq!(listing(major, minor), expected, "{major}.{minor}");
        }
    }
}
