//! By which proxy the API server is reached, if by any: found as Go programs find it, so that what works for other
//! Kubernetes clients works for this one. The API client's own reading of the environment leaves out a Pod's connection,
//! and compares `NO_PROXY` with the proxy instead of the server.

use std::net::IpAddr;

use hyper::Uri;
use hyper::http::uri::Authority;
use hyper_util::client::proxy::matcher::Matcher;

/// Why a proxy cannot be used. The text does not have the proxy itself, in which there may be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    /// It is no URL, or one of an unknown scheme. Go programs do without such a proxy.
    #[error(
        "must be a URL like \"http://proxy.example.com:3128\", with the scheme http, https, socks5 or socks5h, or a host and \
         a port"
    )]
    Wrong,
    /// It is a SOCKS proxy that asks who one is, which the API client cannot answer.
    #[error("has a user or password for a SOCKS proxy, which is not supported: use an HTTP proxy")]
    Password,
}

/// What the environment says of proxies, in the variables of
/// [Go's httpproxy](https://pkg.go.dev/golang.org/x/net/http/httpproxy).
#[derive(Debug, Default)]
pub(super) struct Environment {
    http: Option<String>,
    pub(super) https: Option<String>,
    no: String,
}

impl Environment {
    /// Reads this process's variables. Those in capitals win; one that is empty is as good as none.
    pub(super) fn of_process() -> Self {
        let first = |names: [&str; 2]| {
            names.into_iter().filter_map(|name| std::env::var(name).ok()).find(|value| !value.is_empty())
        };
        Self {
            http: first(["HTTP_PROXY", "http_proxy"]),
            https: first(["HTTPS_PROXY", "https_proxy"]),
            no: first(["NO_PROXY", "no_proxy"]).unwrap_or_default(),
        }
    }

    /// Returns the proxy for requests to `server`; `None` if they go there directly.
    ///
    /// # Errors
    /// Returns the variable's name, and why the proxy in it cannot be used.
    pub(super) fn proxy(&self, server: &Uri) -> Result<Option<Uri>, (&'static str, Unusable)> {
        let (name, proxy) = match server.scheme_str() {
            Some("http") => ("HTTP_PROXY", &self.http),
            _ => ("HTTPS_PROXY", &self.https),
        };
        match proxy {
            Some(proxy) if !self.excepts(server) => usable(proxy).map(Some).map_err(|error| (name, error)),
            _ => Ok(None),
        }
    }

    /// Tells whether the server is reached directly whatever proxy there is: because it is this machine, or because
    /// `NO_PROXY` has it.
    fn excepts(&self, server: &Uri) -> bool {
        let Some(host) = server.host() else { return true };
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback()) {
            return true;
        }
        let usual = if server.scheme_str() == Some("http") { 80 } else { 443 };
        let port = server.port_u16().unwrap_or(usual);
        // Which [`Matcher`] takes for all names, and no address.
        if self.no.trim() == "*" {
            return true;
        }
        let is_for_host =
            |entry: &&str| !entry.strip_prefix('.').is_some_and(|rest| rest.eq_ignore_ascii_case(host));
        let entries = self.no.split(',').filter_map(|entry| without_port(entry.trim(), port));
        let entries: Vec<&str> = entries.filter(is_for_host).collect();
        // Which proxy it is has no part in that.
        let matcher = Matcher::builder().all("http://proxy").no(entries.join(",")).build();
        matcher.intercept(server).is_none()
    }
}

/// Returns an entry of `NO_PROXY` as [`Matcher`] reads it, which knows no ports, brackets, or stars before a domain;
/// `None` if it is for another port.
fn without_port(entry: &str, port: u16) -> Option<&str> {
    let (host, of_port) = match entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address, rest.strip_prefix(':')),
        // More than one colon is an address of IPv6.
        None => match entry.split_once(':') {
            Some((host, of_port)) if !of_port.contains(':') => (host, Some(of_port)),
            _ => (entry, None),
        },
    };
    let is_for_it = of_port.is_none_or(|of_port| of_port.parse() == Ok(port));
    let host = if host.starts_with("*.") { host.get(1..).unwrap_or_default() } else { host };
    is_for_it.then_some(host).filter(|host| !host.is_empty() && (*host != "*" || of_port.is_none()))
}

/// Reads a proxy. One without a scheme is spoken to by HTTP.
///
/// # Errors
/// Returns why it cannot be used.
pub(super) fn usable(text: &str) -> Result<Uri, Unusable> {
    let text = text.trim();
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let proxy: Uri = full.parse().map_err(|_| Unusable::Wrong)?;
    match proxy.scheme_str() {
        _ if proxy.host().is_none_or(str::is_empty) => Err(Unusable::Wrong),
        Some("http" | "https") => Ok(proxy),
        // The API client has one name for both, and would leave out a password. It leaves names to the proxy.
        Some("socks5" | "socks5h") => match proxy.authority().map(Authority::as_str) {
            Some(authority) if !authority.contains('@') => {
                let port = if proxy.port().is_none() { ":1080" } else { "" };
                format!("socks5://{authority}{port}").parse().map_err(|_| Unusable::Wrong)
            }
            _ => Err(Unusable::Password),
        },
        _ => Err(Unusable::Wrong),
    }
}

/// Returns a proxy's address as it may be logged: without user and password.
pub(super) fn shown(proxy: &Uri) -> String {
    let authority = proxy.authority().map_or("", |authority| authority.as_str());
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    format!("{}://{address}", proxy.scheme_str().unwrap_or("http"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(no: &str) -> Environment {
        Environment {
            http: Some("plain:1".to_owned()),
            https: Some("http://secure:2".to_owned()),
            no: no.to_owned(),
        }
    }

    fn proxy(no: &str, server: &str) -> Option<String> {
        environment(no).proxy(&server.parse().unwrap()).unwrap().map(|proxy| shown(&proxy))
    }

    #[test]
    fn each_scheme_has_its_proxy_and_this_machine_none() {
        assert_eq!(proxy("", "https://api.example.com:6443").as_deref(), Some("http://secure:2"));
        assert_eq!(proxy("", "http://api.example.com").as_deref(), Some("http://plain:1"));
        for here in ["https://localhost:6443", "https://127.0.0.1:6443", "https://127.8.8.8", "https://[::1]:6443"]
        {
            assert_eq!(proxy("", here), None, "{here}");
        }
        let none = Environment::default().proxy(&"https://api.example.com".parse().unwrap());
        assert_eq!(none, Ok(None));
    }

    /// The rules of Go's httpproxy.
    #[test]
    fn no_proxy_has_addresses_networks_domains_and_ports() {
        let rows = [
            ("*", "https://10.96.0.1", true),
            ("10.96.0.1", "https://10.96.0.1:443", true),
            ("10.96.0.1", "https://10.96.0.10", false),
            ("10.96.0.0/12", "https://10.100.0.1", true),
            (" 10.0.0.0/8 , .svc", "https://10.100.0.1", true),
            ("10.96.0.0/12", "https://192.168.0.1", false),
            ("fd00::/8", "https://[fd00::1]:6443", true),
            ("fd00::1", "https://[fd00::1]:6443", true),
            ("[fd00::1]:6443", "https://[fd00::1]:6443", true),
            ("[fd00::1]:6444", "https://[fd00::1]:6443", false),
            ("example.com", "https://api.example.com:6443", true),
            ("example.com", "https://example.com", true),
            ("EXAMPLE.com", "https://api.Example.COM", true),
            ("example.com", "https://notexample.com", false),
            (".example.com", "https://api.example.com", true),
            (".example.com", "https://example.com", false),
            ("*example.com", "https://notexample.com", false),
            ("*:443", "https://example.com", false),
            ("*:443", "https://10.96.0.1", false),
            ("*.example.com", "https://api.example.com", true),
            ("api.example.com:6443", "https://api.example.com:6443", true),
            ("api.example.com:443", "https://api.example.com", true),
            ("api.example.com:443", "https://api.example.com:6443", false),
            ("10.96.0.1:443", "https://10.96.0.1", true),
            ("kubernetes.default.svc,", "https://kubernetes.default.svc", true),
            (",", "https://kubernetes.default.svc", false),
        ];
        for (no, server, excepted) in rows {
            assert_eq!(proxy(no, server).is_none(), excepted, "{no:?} {server}");
        }
    }

    #[test]
    fn a_proxy_is_a_url_or_a_host() {
        let rows = [
            ("http://proxy:3128", Some("http://proxy:3128")),
            ("https://user:secret@proxy:3128/", Some("https://proxy:3128")),
            ("proxy:3128", Some("http://proxy:3128")),
            ("socks5://proxy:1080", Some("socks5://proxy:1080")),
            ("socks5h://proxy", Some("socks5://proxy:1080")),
            ("socks5://[fd00::1]", Some("socks5://[fd00::1]:1080")),
            ("socks5h://user:secret@proxy:1080", None),
            (" http://proxy:3128\n", Some("http://proxy:3128")),
            ("proxy:3128/", Some("http://proxy:3128")),
            ("ftp://user:secret@proxy", None),
            ("http://", None),
            ("http://user:secret@pro xy", None),
        ];
        for (text, expected) in rows {
            let found = usable(text);
            assert_eq!(found.as_ref().ok().map(shown).as_deref(), expected, "{text}: {found:?}");
        }
        assert_eq!(usable("http://user:secret@proxy:1").unwrap().authority().unwrap(), "user:secret@proxy:1");
        let wrong = Environment { https: Some("ftp://proxy".to_owned()), ..Environment::default() };
        let error = wrong.proxy(&"https://api".parse().unwrap()).unwrap_err();
        assert_eq!(error, ("HTTPS_PROXY", Unusable::Wrong));
    }
}
