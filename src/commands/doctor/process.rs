//! Reads the facts about this process, and finds out for what a server's name stands here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use std::{fs, io};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::facts::{Port, ProcessFacts};
use crate::config::Config;
use crate::observe::http::{self, Address};

/// How long who has the port may take for an answer.
const PORT_MAX: Duration = Duration::from_secs(3);

/// How much of the answer is read, in bytes.
const METRICS_MAX: u64 = 64 << 10;

/// The beginning of the names of a provisioner's own metrics.
const OWN_METRICS: &[u8] = b"nfs_provisioner_";

/// The number of the capability to do to other users' files what their owners may.
const CAP_FOWNER: u32 = 3;

/// Reads the facts about this process. The port is given back at once.
pub(super) async fn read(config: &Config) -> ProcessFacts {
    let port = match config.http {
        Some(http) => port(http.address).await,
        None => Port::Free,
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    ProcessFacts {
        user: nix::unistd::geteuid().as_raw(),
        fowner: has_capability(&status, CAP_FOWNER),
        port,
        ipv4: has_route("0.0.0.0:0", "192.0.2.1:9"),
        ipv6: has_route("[::]:0", "[2001:db8::1]:9"),
    }
}

/// Finds out who has a port.
async fn port(address: Address) -> Port {
    let Err(error) = http::listen(address).await else { return Port::Free };
    let address = match address {
        Address::All(port) => (Ipv4Addr::LOCALHOST, port).into(),
        Address::One(address) => address,
    };
    let served = timeout(PORT_MAX, is_served_by_us(address)).await;
    if served.is_ok_and(|served| served.is_ok_and(|served| served)) {
        return Port::Served;
    }
    Port::Taken(error.to_string())
}

/// Tells whether who listens has metrics of a provisioner.
async fn is_served_by_us(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(METRICS_MAX).read_to_end(&mut answer).await?;
    Ok(answer.windows(OWN_METRICS.len()).any(|part| part == OWN_METRICS))
}

/// Tells whether a process has a capability, from its file `status` in `/proc`.
fn has_capability(status: &str, capability: u32) -> Option<bool> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
    Some(effective & (1 << capability) != 0)
}

/// Tells whether the kernel knows a way to an address, which is one for examples. Nothing is sent.
fn has_route(from: &str, to: &str) -> bool {
    UdpSocket::bind(from).is_ok_and(|socket| socket.connect(to).is_ok())
}

/// Finds the name of the Service that a server's name stands for: with the domains that a Pod's resolver tries.
pub(super) async fn service(name: &str) -> Option<String> {
    let name = name.trim_end_matches('.');
    if name.parse::<IpAddr>().is_ok() {
        return None;
    }
    let resolver = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if is_full_name_of_service(name, &resolver) {
        return Some(name.to_owned());
    }
    for domain in domains_of_services(&resolver) {
        let full = format!("{name}.{domain}");
        // With the dot at the end nothing else is tried.
        if lookup_host((format!("{full}."), 0)).await.is_ok_and(|found| found.count() > 0) {
            return Some(full);
        }
    }
    None
}

/// Tells whether a name has the domain of Services at its end: `svc`, or that and the cluster's domain.
fn is_full_name_of_service(name: &str, resolver: &str) -> bool {
    let is_in = |domain: &str| name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    let own = domains_of_services(resolver).filter(|domain| domain.starts_with("svc."));
    ["svc", "svc.cluster.local"].into_iter().chain(own).any(is_in)
}

/// Returns the domains of Services among those that a resolver tries, from its `resolv.conf`.
fn domains_of_services(resolver: &str) -> impl Iterator<Item = &str> {
    let last = resolver.lines().filter_map(|line| line.trim().strip_prefix("search")).next_back();
    let of_services = |domain: &&str| domain.starts_with("svc.") || domain.contains(".svc.");
    last.unwrap_or_default().split_whitespace().map(|domain| domain.trim_end_matches('.')).filter(of_services)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_is_a_bit() {
        for (status, expected) in [
            ("Name:\tx\nCapEff:\t0000000000000008\n", Some(true)),
            ("CapEff:\t000001fffffffff7\n", Some(false)),
            ("CapPrm:\t0000000000000008\n", None),
        ] {
            assert_eq!(has_capability(status, CAP_FOWNER), expected, "{status}");
        }
    }

    #[tokio::test]
    async fn services_are_known_by_their_names_and_by_the_domains_of_a_pod() {
        let of_a_pod = "nameserver 10.96.0.10\nsearch a.svc.cluster.local svc.cluster.local cluster.local example.com\n\
                        options ndots:5\n";
        let found: Vec<&str> = domains_of_services(of_a_pod).collect();
        assert_eq!(found, ["a.svc.cluster.local", "svc.cluster.local"]);
        assert_eq!(domains_of_services("search example.com").count(), 0);
        assert_eq!(domains_of_services("nameserver 10.0.0.1").count(), 0);
        for name in ["nfs.team.svc", "nfs.team.svc.cluster.local", "nfs.team.svc.cluster.local."] {
            assert_eq!(service(name).await.as_deref(), Some(name.trim_end_matches('.')));
        }
        let own = "search a.svc.k8s.example svc.k8s.example";
        assert!(is_full_name_of_service("nfs.team.svc.k8s.example", own));
        for name in ["filer.svc.corp.example", "svc.cluster.local", "nfssvc"] {
            assert!(!is_full_name_of_service(name, own), "{name}");
        }
        for name in ["10.0.0.1", "fd00::1", "nas.test.invalid"] {
            assert_eq!(service(name).await, None, "{name}");
        }
    }
}
