//! The connection to the API server: which server, and how it lists.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::runtime::watcher;
use kube::{Client, Config as KubeConfig, Error as KubeError};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::cluster::api::answered;
use crate::cluster::proxy::{self, Environment, Unusable};

/// How many objects are read at a time where the API server does not stream lists. Bounds the memory.
const PAGE: u32 = 100;

/// How long one watch lasts, in seconds. A connection that has died silently is noticed soon after.
const WATCH_SECONDS: u32 = 120;

/// The longest wait before an API server that cannot be reached is tried again.
const RECONNECT_MAX: Duration = Duration::from_secs(15);

/// The file in which Kubernetes tells a Pod its namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// How the API server is reached.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// The proxy that all requests go through, without its password.
    pub proxy: Option<String>,
}

/// Makes the API client: with the settings of this file if one is named, else of the Pod that this process runs in, else
/// of `~/.kube/config`. The proxy is the kubeconfig's, else the one in the environment.
///
/// # Errors
/// Returns an error if there are no settings, or they cannot be used.
pub async fn connection(file: Option<&Path>) -> Result<Connection> {
    let (mut config, own_proxy) = kube_config(file).await?;
    config.proxy_url = match own_proxy {
        Some(own) => Some(proxy::usable(&own).map_err(|error| anyhow!("proxy-url in the kubeconfig {error}"))?),
        None => match Environment::of_process().proxy(&config.cluster_url) {
            Err((name, error @ Unusable::Wrong)) => {
                warn!("{name} {error}; going on without a proxy, as Go programs do");
                None
            }
            found => found.map_err(|(name, error)| anyhow!("{name} {error}"))?,
        },
    };
    let proxy = config.proxy_url.as_ref().map(proxy::shown);
    let client = Client::try_from(config).map_err(|error| match words_on(&error) {
        Some(words) => anyhow!(words),
        None => error.into(),
    })?;
    Ok(Connection { client, proxy })
}

/// Reads the settings of the API client, and the proxy that a kubeconfig names.
async fn kube_config(file: Option<&Path>) -> Result<(KubeConfig, Option<String>)> {
    if let Some(file) = file {
        let read = Kubeconfig::read_from(file)
            .with_context(|| format!("failed to read the kubeconfig {} (set by KUBECONFIG)", file.display()))?;
        return of_kubeconfig(read).await;
    }
    match KubeConfig::incluster() {
        Ok(config) => Ok((config, None)),
        Err(not_in_cluster) => {
            let words = || {
                format!(
                    "no API server is known: KUBECONFIG is not set, {not_in_cluster}, and ~/.kube/config cannot be used"
                )
            };
            of_kubeconfig(Kubeconfig::read().with_context(words)?).await.with_context(words)
        }
    }
}

async fn of_kubeconfig(mut read: Kubeconfig) -> Result<(KubeConfig, Option<String>)> {
    let proxy = own_proxy(&read);
    // The API client reads `NO_PROXY` in a way of its own if there is any proxy, and a proxy of the environment unless there
    // is another one. The right one is set later.
    let instead = Environment::of_process().https.map(|_| "http://proxy".to_owned());
    for cluster in read.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.proxy_url.clone_from(&instead);
    }
    match KubeConfig::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await {
        Ok(config) => Ok((config, proxy)),
        Err(KubeconfigError::ParseNoProxy(error)) => Err(anyhow!(
            "NO_PROXY has an entry that cannot be used beside a kubeconfig: {error}. Take it out; a comma at the end, or \
             two in a row, are such entries"
        )),
        Err(error) => Err(error.into()),
    }
}

/// Returns the `proxy-url` of the cluster that a kubeconfig's current context names.
fn own_proxy(read: &Kubeconfig) -> Option<String> {
    let current = read.current_context.as_ref()?;
    let context = read.contexts.iter().find(|context| context.name == *current)?.context.as_ref()?;
    let cluster = read.clusters.iter().find(|cluster| cluster.name == context.cluster)?.cluster.as_ref()?;
    cluster.proxy_url.clone().filter(|url| !url.is_empty())
}

/// Says what an error means whose own words help nobody.
fn words_on(error: &KubeError) -> Option<&'static str> {
    // What is wrong is known only by the name that rustls gives it, and called a private key by the API client.
    format!("{error:?}").contains("UnsupportedCertVersion").then_some(
        "the client certificate in the kubeconfig is of version 1 of X.509, which cannot be used: only version 3 can. \
         Use a ServiceAccount's token instead, or issue the certificate again with an extension, for example by \
         openssl x509 -req -extfile with a file that says \"extendedKeyUsage = clientAuth\"",
    )
}

/// How to ask the API server for all objects of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListMode {
    /// As a watch, one object after the other.
    Streamed,
    /// In pages, from API servers that do not stream.
    Paged,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("proxy", &self.proxy).finish_non_exhaustive()
    }
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
pub async fn connect(Connection { client, proxy }: &Connection) -> ListMode {
    let through = proxy.as_ref().map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default();
    let mut pause = Duration::from_millis(500);
    loop {
        match answered(client.apiserver_version()).await {
            Ok(version) => {
                info!(version = version.git_version, "connected to the API server{through}");
                return listing(&version.major, &version.minor);
            }
            Err(error) => warn!(%error, "the API server cannot be reached{through}, will try again"),
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
