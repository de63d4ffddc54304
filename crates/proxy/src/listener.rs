//! A listener in force: what is the same for all its connections, and the routes to clusters.

use crate::cluster::Cluster;
use arc_swap::ArcSwap;
use nm_types::proxy::{self, Limits, ProxyConfig};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;
use tokio_rustls::TlsAcceptor;

/// What is in force.
#[derive(Default)]
pub struct Table {
    /// Of the configuration; nothing before the first.
    pub generation: Option<u64>,
    pub listeners: BTreeMap<String, Arc<Listener>>,
    pub clusters: BTreeMap<String, Arc<Cluster>>,
}

/// A socket's lasting state.
pub struct Listener {
    pub id: String,
    pub address: SocketAddr,
    pub rules: ArcSwap<Rules>,
    pub open: AtomicU64,
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    /// It was taken away, or the process ends: connections close after the answer that is being made.
    pub closing: AtomicBool,
}

impl Listener {
    pub fn new(id: String, address: SocketAddr, rules: Rules) -> Self {
        Self {
            id,
            address,
            rules: ArcSwap::from_pointee(rules),
            open: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            closing: AtomicBool::new(false),
        }
    }
}

/// What the configuration says of a listener, ready for use.
pub struct Rules {
    pub protocol: proxy::Protocol,
    pub limits: Limits,
    /// With what it was made of, to keep it where it stays the same: clients can then resume their sessions.
    pub tls: Option<(proxy::Tls, TlsAcceptor)>,
    pub redirect_port: Option<u16>,
    pub trusted: Box<[proxy::Network]>,
    pub accept_proxy_protocol: bool,
    pub access_log: bool,
    pub target: Target,
    pub acme: Arc<BTreeMap<String, String>>,
    pub header_timeout: Duration,
    pub keep_alive: Duration,
    pub body_idle: Duration,
    pub tunnel_idle: Duration,
}

pub enum Target {
    Http(Routes),
    Tcp(Arc<Cluster>),
}

impl Rules {
    pub fn build(
        conf: &proxy::Listener,
        whole: &ProxyConfig,
        clusters: &BTreeMap<String, Arc<Cluster>>,
        tls: Option<(proxy::Tls, TlsAcceptor)>,
    ) -> Self {
        let target = match conf.cluster.as_ref().and_then(|id| clusters.get(id)) {
            Some(cluster) => Target::Tcp(cluster.clone()),
            None => Target::Http(Routes::build(&conf.routes, clusters)),
        };
        let ms = |ms: u32| Duration::from_millis(u64::from(ms));
        Self {
            protocol: conf.protocol,
            limits: conf.limits,
            tls,
            redirect_port: conf.redirect_to_https.as_ref().map(|r| r.port),
            trusted: conf.trusted_addresses.clone().into(),
            accept_proxy_protocol: conf.accept_proxy_protocol,
            access_log: conf.access_log,
            target,
            acme: Arc::new(if conf.tls.is_none() {
                whole.acme_challenges.clone()
            } else {
                BTreeMap::new()
            }),
            header_timeout: ms(conf.limits.header_timeout_ms),
            keep_alive: ms(conf.limits.keep_alive_timeout_ms),
            body_idle: ms(conf.limits.body_idle_timeout_ms),
            tunnel_idle: ms(conf.limits.tunnel_idle_timeout_ms),
        }
    }

    /// The acceptor, if it was made of just this; never where certificates are in files, which may have changed.
    pub fn tls_if_same(&self, source: &proxy::Tls) -> Option<TlsAcceptor> {
        let (made_of, acceptor) = self.tls.as_ref()?;
        (made_of == source && !crate::tls::reads_files(source)).then(|| acceptor.clone())
    }

    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }
}

/// Which cluster serves which host and path.
pub struct Routes {
    /// By name, in small letters.
    exact: HashMap<String, Paths>,
    /// `example.com` for `*.example.com`.
    below: HashMap<String, Paths>,
    any: Paths,
}

/// Prefixes with their clusters, the longest first.
type Paths = Vec<(String, Arc<Cluster>)>;

impl Routes {
    fn build(routes: &[proxy::Route], clusters: &BTreeMap<String, Arc<Cluster>>) -> Self {
        let mut table = Self {
            exact: HashMap::new(),
            below: HashMap::new(),
            any: Vec::new(),
        };
        for route in routes {
            let Some(cluster) = clusters.get(&route.cluster) else { continue };
            let paths = match &route.host {
                None => &mut table.any,
                Some(host) => match host.strip_prefix("*.") {
                    Some(rest) => table.below.entry(rest.to_ascii_lowercase()).or_default(),
                    None => table.exact.entry(host.to_ascii_lowercase()).or_default(),
                },
            };
            paths.push((route.path_prefix.clone(), cluster.clone()));
        }
        let all = table.exact.values_mut().chain(table.below.values_mut()).chain([&mut table.any]);
        all.for_each(|paths| paths.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len())));
        table
    }

    /// The cluster for a request. `host` may carry a port.
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Cluster>> {
        let within = |paths: &'_ Paths| -> Option<usize> { paths.iter().position(|(prefix, _)| lies_below(path, prefix)) };
        if !self.exact.is_empty() || !self.below.is_empty() {
            let name = without_port(host).to_ascii_lowercase();
            let exact = self.exact.get(&name);
            let below = name.split_once('.').and_then(|(_, rest)| self.below.get(rest));
            for paths in [exact, below].into_iter().flatten() {
                if let Some(i) = within(paths) {
                    return Some(&paths[i].1);
                }
            }
        }
        within(&self.any).map(|i| &self.any[i].1)
    }
}

/// `/a` holds `/a` and `/a/b`, not `/ab`.
fn lies_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
}

pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_a_slash() {
        for (path, prefix, below) in [
            ("/a", "/a", true),
            ("/a/b", "/a", true),
            ("/ab", "/a", false),
            ("/a/b", "/a/", true),
            ("/a", "/a/", false),
            ("/x", "/", true),
        ] {
            assert_eq!(lies_below(path, prefix), below, "{path} {prefix}");
        }
        for (host, name) in [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")] {
            assert_eq!(without_port(host), name);
        }
    }
}
