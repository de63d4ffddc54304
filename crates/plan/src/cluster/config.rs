//! What a node's load balancer is to do.

use super::reach::{Addresses, Target, reach};
use nm_types::cluster::{
    ClusterCheckType, ClusterHealthCheck, ClusterProtocol, ClusterSpec, ClusterStatusRange, ClusterType, FailbackMode,
    LoadBalancingAlgorithm,
};
use nm_types::proxy::{
    Algorithm, Certificate, CertificateSource, Cluster as ProxyCluster, Failback, HealthCheck, Listener, Member as ProxyMember, Mode,
    PrivateKey, Probe, Protocol, ProxyConfig, RedirectToHttps, Route, StatusRange, Sticky, Tls,
};
use nm_types::units::{Bounded, Port};
use nm_types::{ClusterId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Certificate chain and private key, both in PEM form.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPair {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPair").finish_non_exhaustive()
    }
}

/// One server of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The server's id.
    pub id: String,
    pub port: Option<u16>,
    pub weight: u16,
    pub backup: bool,
    pub draining: bool,
    pub target: Target,
}

/// A cluster, as far as its entry is concerned.
#[derive(Debug, Clone)]
pub struct Cluster<'a> {
    pub id: &'a ClusterId,
    pub spec: &'a ClusterSpec,
    pub listen_port: u16,
    pub entries: &'a [NodeId],
    pub members: &'a [Member],
    pub pair: Option<&'a KeyPair>,
    /// What an ACME server is to be answered while it looks who answers for a name: by token.
    pub challenges: Option<&'a Challenges>,
    /// Of clusters of type `database`.
    pub database: Option<DatabasePorts>,
}

/// Where a database cluster has what, beside its members' own ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabasePorts {
    /// Of the entry for reads.
    pub read_only: u16,
    /// Where members say what they are, on their nodes.
    pub check: u16,
}

/// The id that a database cluster's reads have at load balancers; writes have the cluster's own.
pub fn reads_of(cluster: &ClusterId) -> String {
    format!("{cluster}{READS}")
}

/// The cluster, and whether this is its reads, of an id that a load balancer tells.
pub fn cluster_of_id(id: &str) -> Option<(ClusterId, bool)> {
    match id.strip_suffix(READS) {
        Some(whose) => Some((ClusterId::parse(whose).ok()?, true)),
        None => Some((ClusterId::parse(id).ok()?, false)),
    }
}

const READS: &str = "-reads";
/// Members are asked each second what they are.
const DATABASE_INTERVAL_MS: u32 = 1_000;
const DATABASE_TIMEOUT_MS: u32 = 900;

/// Whether a member of a database is what it is asked for.
fn is_it(ports: DatabasePorts, path: &str) -> HealthCheck {
    HealthCheck {
        probe: Probe::Http {
            path: path.to_owned(),
            expected_status: StatusRange { min: 200, max: 200 },
            host: None,
        },
        interval_ms: DATABASE_INTERVAL_MS,
        timeout_ms: DATABASE_TIMEOUT_MS,
        rise: 1,
        // What it says counts at once. One that is only slow to answer keeps its sessions.
        fall: 2,
        port: Some(ports.check),
        strict: true,
    }
}

/// Writes to the primary, and reads to the replicas that are not behind.
fn database_of(node: &NodeId, cluster: &Cluster<'_>, ports: DatabasePorts, nodes: &Addresses) -> [ProxyCluster; 2] {
    let plain = cluster_of(node, cluster, nodes);
    let writes = ProxyCluster {
        health_check: Some(is_it(ports, "/primary")),
        ..plain.clone()
    };
    let reads = ProxyCluster {
        id: reads_of(cluster.id),
        health_check: Some(is_it(ports, "/replica")),
        ..plain
    };
    [writes, reads]
}

/// Answers to an ACME server's challenges by HTTP, by their tokens.
pub type Challenges = BTreeMap<String, String>;

/// How often `high-availability` looks, in milliseconds: with two failures and four fifths of it for each, a member that hangs is
/// left after 3.6 seconds at most.
const STANDBY_INTERVAL: i64 = 1000;
/// The same where an answer of HTTP is waited for, which may take longer than a connection: one failure, after 3.6 seconds at most.
const STANDBY_HTTP_INTERVAL: i64 = 2000;

fn active_standby(spec: &ClusterSpec) -> bool {
    spec.kind == ClusterType::HighAvailability
}

fn small<T: TryFrom<i64>>(n: i64, otherwise: T) -> T {
    T::try_from(n).unwrap_or(otherwise)
}

/// Whether members are asked for any answer at all of HTTP, where nobody says how to check them. The kernel takes connections also for
/// a program that hangs, so these would tell nothing, and nobody but the check finds out that the one that takes all traffic hangs.
fn any_answer(spec: &ClusterSpec) -> bool {
    let asked = &spec.health_check;
    let unsaid = asked.kind.is_none() && spec.usual_check() == ClusterCheckType::Tcp;
    active_standby(spec) && spec.protocol == ClusterProtocol::Http && unsaid
}

const ANY_STATUS: (u16, u16) = (200, 599);

fn check(spec: &ClusterSpec) -> HealthCheck {
    let (asked, any) = (&spec.health_check, any_answer(spec));
    let interval = match asked.interval {
        Some(interval) => interval.get() * 1000,
        None if any => STANDBY_HTTP_INTERVAL,
        None if active_standby(spec) => STANDBY_INTERVAL,
        None => spec.load_balancer.health_check_interval.get() * 1000,
    };
    let timeout = (spec.load_balancer.health_check_timeout.get() * 1000).min(interval * 4 / 5);
    let probe = if any {
        Probe::Http {
            path: "/".to_owned(),
            expected_status: StatusRange {
                min: ANY_STATUS.0,
                max: ANY_STATUS.1,
            },
            host: None,
        }
    } else {
        asked_probe(spec)
    };
    let fall = if any && asked.interval.is_none() { 1 } else { 2 };
    HealthCheck {
        probe,
        interval_ms: small(interval, u32::MAX),
        timeout_ms: small(timeout, u32::MAX),
        rise: asked.rise.map_or(if active_standby(spec) { 2 } else { 1 }, |n| small(n.get(), 1)),
        fall: asked.fall.map_or(fall, |n| small(n.get(), 2)),
        port: None,
        strict: false,
    }
}

fn asked_probe(spec: &ClusterSpec) -> Probe {
    let asked = &spec.health_check;
    match asked.kind.unwrap_or(spec.usual_check()) {
        ClusterCheckType::Tcp => Probe::Tcp,
        ClusterCheckType::Http => Probe::Http {
            path: asked.path.as_ref().map_or_else(|| "/".to_owned(), ToString::to_string),
            expected_status: asked.expected_status.map_or_else(StatusRange::default, |s| StatusRange {
                min: small(s.min.get(), 200),
                max: small(s.max.get(), 399),
            }),
            host: asked.host.as_ref().map(ToString::to_string),
        },
    }
}

/// How members are really checked, with everything that was left out filled in.
pub fn effective_check(spec: &ClusterSpec) -> ClusterHealthCheck {
    let real = check(spec);
    let http = matches!(real.probe, Probe::Http { .. });
    let kind = if http { ClusterCheckType::Http } else { ClusterCheckType::Tcp };
    ClusterHealthCheck {
        kind: Some(kind),
        path: spec
            .health_check
            .path
            .clone()
            .or_else(|| if http { "/".parse().ok() } else { None }),
        expected_status: match Bounded::new(ANY_STATUS.0.into()).zip(Bounded::new(ANY_STATUS.1.into())) {
            Some((min, max)) if any_answer(spec) => Some(ClusterStatusRange { min, max }),
            Some(_) | None => spec.health_check.expected_status,
        },
        interval: Bounded::new(i64::from(real.interval_ms) / 1000),
        rise: Bounded::new(i64::from(real.rise)),
        fall: Bounded::new(i64::from(real.fall)),
        ..spec.health_check.clone()
    }
}

fn cluster_of(node: &NodeId, cluster: &Cluster<'_>, nodes: &Addresses) -> ProxyCluster {
    let spec = cluster.spec;
    let mut sockets = BTreeSet::new();
    let members = cluster.members.iter().filter_map(|m| {
        let socket = reach(node, &m.target, m.port, nodes).ok()?;
        // Two servers at one address and port are one server; the first keeps it.
        sockets.insert(socket).then(|| ProxyMember {
            id: m.id.clone(),
            address: socket.ip(),
            port: socket.port(),
            weight: m.weight,
            backup: m.backup && !active_standby(spec),
            draining: m.draining,
        })
    });
    ProxyCluster {
        id: cluster.id.to_string(),
        mode: if active_standby(spec) {
            let failback = spec.failback.unwrap_or_default();
            Mode::ActiveStandby {
                failback: match failback.mode {
                    FailbackMode::Manual => Failback::Manual,
                    FailbackMode::Automatic => Failback::Automatic {
                        after_ms: small(failback.after.get() * 1000, u32::MAX),
                    },
                },
            }
        } else {
            Mode::Balanced
        },
        algorithm: match spec.load_balancer.algorithm {
            LoadBalancingAlgorithm::RoundRobin => Algorithm::RoundRobin,
            LoadBalancingAlgorithm::LeastConnections => Algorithm::LeastConnections,
            LoadBalancingAlgorithm::IpHash => Algorithm::IpHash,
            LoadBalancingAlgorithm::Weighted => Algorithm::Weighted,
        },
        members: members.collect(),
        sticky: spec.sticky.as_ref().map(|s| Sticky {
            cookie: s.cookie.as_ref().map_or_else(|| "nm_server".to_owned(), ToString::to_string),
            max_age_seconds: s.max_age.map(|a| small(a.get(), u32::MAX)),
        }),
        health_check: Some(check(spec)),
        ejection: spec.upstream.ejection(),
        slow_start_ms: spec.slow_start.map_or(0, |s| small(s.get() * 1000, u32::MAX)),
        retries: spec.retries.map_or(2, |r| small(r.get(), 2)),
        connect_timeout_ms: spec.upstream.connect_timeout_ms(),
        response_timeout_ms: spec.upstream.response_timeout_ms(),
        send_proxy_protocol: spec.upstream.send_proxy_protocol,
        member_limit: spec.upstream.member_limit(),
    }
}

/// Everything `node` is to carry; its generation is for the caller to set. `challenge_port` is where ACME servers look.
pub fn proxy_config(node: &NodeId, clusters: &[Cluster<'_>], nodes: &Addresses, challenge_port: u16) -> ProxyConfig {
    let here: Vec<&Cluster<'_>> = clusters.iter().filter(|c| c.entries.contains(node)).collect();
    let mut listeners: BTreeMap<u16, Listener> = BTreeMap::new();
    for cluster in &here {
        add_listener(&mut listeners, cluster);
    }
    // After all others: a port that somebody listens on is no port for a redirect.
    for cluster in &here {
        if let Some(redirect) = &cluster.spec.redirect_to_https
            && let Some(port) = Port::new(redirect.port())
        {
            listeners.entry(port.get()).or_insert_with(|| Listener {
                redirect_to_https: Some(RedirectToHttps { port: cluster.listen_port }),
                ..listener("redirect", cluster, port.get())
            });
        }
    }
    let mut acme_challenges = Challenges::new();
    for (cluster, challenges) in here.iter().filter_map(|c| Some((c, c.challenges.filter(|all| !all.is_empty())?))) {
        acme_challenges.extend(challenges.clone());
        // Where nobody listens yet; whatever else is asked there is not found. Whoever listens without TLS answers them beside his own.
        listeners
            .entry(challenge_port)
            .or_insert_with(|| listener("acme", cluster, challenge_port));
    }
    ProxyConfig {
        generation: 0,
        listeners: listeners.into_values().collect(),
        clusters: here
            .iter()
            .flat_map(|c| match c.database {
                Some(ports) => database_of(node, c, ports, nodes).to_vec(),
                None => vec![cluster_of(node, c, nodes)],
            })
            .collect(),
        acme_challenges,
    }
}

fn listener(what: &str, cluster: &Cluster<'_>, port: u16) -> Listener {
    let shared = cluster.spec.virtual_address.as_ref().map(|v| v.address.ip());
    let address = match shared {
        Some(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        Some(IpAddr::V4(_)) | None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    Listener {
        id: format!("{what}-{port}"),
        address,
        port,
        protocol: Protocol::Http,
        tls: None,
        redirect_to_https: None,
        routes: Vec::new(),
        cluster: None,
        accept_proxy_protocol: cluster.spec.entry.accept_proxy_protocol,
        trusted_addresses: cluster.spec.entry.trusted_addresses.clone(),
        access_log: cluster.spec.entry.access_log,
        limits: cluster.spec.entry.limits(),
    }
}

fn add_listener(listeners: &mut BTreeMap<u16, Listener>, cluster: &Cluster<'_>) {
    let (spec, port) = (cluster.spec, cluster.listen_port);
    if let Some(ports) = cluster.database {
        listeners.entry(ports.read_only).or_insert_with(|| Listener {
            protocol: Protocol::Tcp,
            cluster: Some(reads_of(cluster.id)),
            ..listener("tcp", cluster, ports.read_only)
        });
    }
    if spec.protocol == ClusterProtocol::Tcp {
        listeners.entry(port).or_insert_with(|| Listener {
            protocol: Protocol::Tcp,
            cluster: Some(cluster.id.to_string()),
            ..listener("tcp", cluster, port)
        });
        return;
    }
    let certificate = cluster.pair.filter(|_| spec.tls.is_some()).map(|pair| Certificate {
        server_names: spec.tls.iter().flat_map(|t| &t.server_names).map(ToString::to_string).collect(),
        source: CertificateSource::Inline {
            certificate: pair.certificate.clone(),
            key: PrivateKey(pair.key.clone()),
        },
    });
    if spec.tls.is_some() && certificate.is_none() {
        // Never in the clear what was to be secret.
        return;
    }
    let routes = if spec.routes.is_empty() {
        vec![(None, "/".to_owned())]
    } else {
        spec.routes.iter().map(|r| r.pair()).collect()
    };
    let is_tls = certificate.is_some();
    let here = listeners.entry(port).or_insert_with(|| Listener {
        tls: is_tls.then(|| Tls { certificates: Vec::new() }),
        ..listener("http", cluster, port)
    });
    // What can't share a port was refused when it was asked for.
    if here.protocol != Protocol::Http || here.tls.is_some() != is_tls {
        return;
    }
    if let (Some(tls), Some(mut certificate)) = (&mut here.tls, certificate) {
        let known: BTreeSet<String> = tls
            .certificates
            .iter()
            .flat_map(|c| &c.server_names)
            .map(|n| n.to_ascii_lowercase())
            .collect();
        certificate.server_names.retain(|n| !known.contains(&n.to_ascii_lowercase()));
        tls.certificates.push(certificate);
    }
    for (host, path_prefix) in routes {
        let new = Route {
            host,
            path_prefix,
            cluster: cluster.id.to_string(),
        };
        let same = |r: &Route| (&r.host, &r.path_prefix) == (&new.host, &new.path_prefix);
        if !here.routes.iter().any(same) {
            here.routes.push(new);
        }
    }
}
