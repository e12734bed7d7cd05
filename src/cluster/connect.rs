//! The way to the API server: which one, and how it lists.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Client, Config as KubeConfig};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::cluster::api::answered;

/// How many objects are read at a time where the API server does not stream lists: it bounds our memory.
const PAGE: u32 = 100;

/// How long one watch lasts, in seconds. A connection that has died silently is noticed soon after that.
const WATCH_SECONDS: u32 = 120;

/// The longest wait before an API server that cannot be reached is tried again.
const RECONNECT_MAX: Duration = Duration::from_secs(15);

/// Where Kubernetes tells a Pod its namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// The settings of the API client: from the file that is named, else from the Pod we are in, else from
/// `~/.kube/config`.
///
/// # Errors
/// If there is none, or it cannot be read.
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

/// How the API server is asked for all objects of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListMode {
    /// One object after the other, as a watch.
    Streamed,
    /// In pages, for API servers that do not stream.
    Paged,
}

impl ListMode {
    pub(super) fn config(self) -> watcher::Config {
        let config = watcher::Config::default().timeout(WATCH_SECONDS);
        match self {
            Self::Streamed => config.streaming_lists(),
            Self::Paged => config.page_size(PAGE),
        }
    }
}

/// Waits for the API server, and finds out how it lists.
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

/// From 1.27 on the API server knows how to stream lists, and says so if it does not want to. An older one would
/// take the question for a plain watch and never say that the list has ended.
fn listing(major: &str, minor: &str) -> ListMode {
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>();
    match (digits(major), digits(minor)) {
        (Ok(1), Ok(minor)) if minor < 27 => ListMode::Paged,
        (Ok(_), Ok(_)) => ListMode::Streamed,
        _ => ListMode::Paged,
    }
}

/// The namespace we run in, as the peer finds it (behaviour 4.4).
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
