//! How a cluster carries, checks, secures and scales: the blocks of its specification.

use super::acme::ClusterAcme;
use crate::container::ContainerSpec;
use crate::text::{BadText, ProbePath, SecretText, string_schema, texts};
use crate::units::{Bounded, Port};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use utoipa::openapi::schema::{AdditionalProperties, AnyOfBuilder, Schema};
use utoipa::openapi::{KnownFormat, ObjectBuilder, RefOr, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

/// The most names one certificate is for.
pub const SERVER_NAMES_AT_MOST: usize = 50;

fn label(l: &str) -> bool {
    (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') && !l.starts_with('-')
}

texts! {
    /// A host that requests are for: `app.example.com`, or `*.example.com` for one label more.
    ClusterHost {
        pattern: "^(?=.{1,253}$)(?:\\*\\.)?[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(?:\\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*$", max: 253,
        says: "a host is a name as `app.example.com`, or `*.example.com`, without a port",
        ok: |t| t.strip_prefix("*.").unwrap_or(t).split('.').all(label)
    }
    /// The beginning of paths: `/`, `/api`.
    ClusterPath {
        pattern: "^/[!-\"$->@-~]{0,1023}$", max: 1024,
        says: "a path prefix begins with `/` and has at most 1,024 characters, without spaces, control characters, `?` or `#`",
        ok: |t| t.starts_with('/') && t.bytes().all(|b| b.is_ascii_graphic() && b != b'?' && b != b'#')
    }
    /// The name of a cookie.
    CookieName {
        pattern: "^[A-Za-z0-9_.-]{1,64}$", max: 64,
        says: "a cookie's name has 1 to 64 letters, digits, `_`, `-` or `.`",
        ok: |t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
    }
    /// A network interface of a node: `eth0`.
    InterfaceName {
        pattern: "^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$", max: 15,
        says: "an interface has 1 to 15 letters, digits, `_`, `.` or `-`, and starts with a letter or digit",
        ok: |t| t.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
    }
    /// Certificates in PEM form, the server's own first.
    PemText {
        pattern: "^[^\\x00]{1,65536}$", max: 65536,
        says: "a certificate chain in PEM form has 1 to 65,536 characters",
        ok: |t| !t.is_empty() && !t.contains('\0')
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoadBalancingAlgorithm {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The server with the fewest requests in flight for its weight.
    LeastConnections,
    /// By the client's address: a server that leaves moves only its own clients.
    IpHash,
    /// By weight.
    Weighted,
}

/// How traffic is spread, and how often servers are checked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancer {
    #[serde(default)]
    pub algorithm: LoadBalancingAlgorithm,
    /// Seconds between two checks of a server; 30 by default. Traffic takes a server out at once, whatever this says. In
    /// `high-availability` servers are checked every second: see `healthCheck.interval`.
    #[serde(default = "interval")]
    pub health_check_interval: Bounded<10, 300>,
    /// Seconds a check may take; 5 by default.
    #[serde(default = "timeout")]
    pub health_check_timeout: Bounded<1, 60>,
}

const fn interval() -> Bounded<10, 300> {
    Bounded::clamped(30)
}
const fn timeout() -> Bounded<1, 60> {
    Bounded::clamped(5)
}

impl Default for LoadBalancer {
    fn default() -> Self {
        Self {
            algorithm: LoadBalancingAlgorithm::default(),
            health_check_interval: interval(),
            health_check_timeout: timeout(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClusterCheckType {
    /// A GET whose status is an expected one.
    Http,
    /// A connection that opens.
    Tcp,
}

/// How a server is asked whether it is well.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterHealthCheck {
    /// `http` where a path, a host or a status is named, `tcp` otherwise.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ClusterCheckType>,
    /// Of `http`; `/` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<ProbePath>,
    /// Of `http`: the Host header; the server's address by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<ClusterHost>,
    /// Of `http`; 200 to 399 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_status: Option<ClusterStatusRange>,
    /// Seconds between two checks, in place of `loadBalancer.healthCheckInterval`; in `high-availability` 1 or 2 by default, so that
    /// a lost server is replaced within five seconds. A check may take no longer than four fifths of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Bounded<1, 300>>,
    /// Successes in a row that bring a server back; 1 by default, 2 in `high-availability`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rise: Option<Bounded<1, 100>>,
    /// Failures in a row that take a server out; 2 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fall: Option<Bounded<1, 100>>,
}

impl ClusterHealthCheck {
    pub(super) fn asks_http(&self) -> bool {
        self.path.is_some() || self.host.is_some() || self.expected_status.is_some()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterStatusRange {
    /// 200 by default.
    #[serde(default = "least_status")]
    pub min: Bounded<200, 599>,
    /// 399 by default.
    #[serde(default = "most_status")]
    pub max: Bounded<200, 599>,
}

const fn least_status() -> Bounded<200, 599> {
    Bounded::clamped(200)
}
const fn most_status() -> Bounded<200, 599> {
    Bounded::clamped(399)
}

/// When there are to be more servers, and when fewer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AutoScaling {
    #[serde(default = "yes")]
    pub enabled: bool,
    /// 1 by default.
    #[serde(default = "one")]
    pub min_servers: Bounded<1, 100>,
    /// 10 by default.
    #[serde(default = "ten")]
    pub max_servers: Bounded<1, 100>,
    /// Percent of the CPU a server may use: of a container its `cpuLimit`, or one core; of a node all of its cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_cpu_percent: Option<Bounded<10, 100>>,
    /// Percent of the memory a server may use: of a container its `memoryLimit`, or its node's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_memory_percent: Option<Bounded<10, 100>>,
    /// Requests a second that one server is to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_requests_per_second: Option<Bounded<1, 1_000_000>>,
    /// Of `compute`: tasks that wait in the queue for each server in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_queue_length: Option<Bounded<1, 100_000>>,
    /// Seconds after servers were added until more of them are; 300 by default.
    #[serde(default = "up_cooldown")]
    pub scale_up_cooldown: Bounded<60, 3600>,
    /// Seconds after servers were added or taken away until some are taken away; 600 by default.
    #[serde(default = "down_cooldown")]
    pub scale_down_cooldown: Bounded<60, 3600>,
    /// Percent by which the load may miss its target before anything is done; 10 by default.
    #[serde(default = "tolerance")]
    pub tolerance: Bounded<0, 50>,
    /// Seconds that the load must stay low before servers are taken away; 300 by default.
    #[serde(default = "window")]
    pub stabilization_window: Bounded<0, 3600>,
}

const fn yes() -> bool {
    true
}
const fn one() -> Bounded<1, 100> {
    Bounded::clamped(1)
}
const fn ten() -> Bounded<1, 100> {
    Bounded::clamped(10)
}
const fn up_cooldown() -> Bounded<60, 3600> {
    Bounded::clamped(300)
}
const fn down_cooldown() -> Bounded<60, 3600> {
    Bounded::clamped(600)
}
const fn tolerance() -> Bounded<0, 50> {
    Bounded::clamped(10)
}
const fn window() -> Bounded<0, 3600> {
    Bounded::clamped(300)
}

/// A cookie that brings a client back to its server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterSticky {
    /// `nm_server` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<CookieName>,
    /// Seconds the browser keeps it; until it is closed by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Bounded<1, 31_536_000>>,
}

/// The certificate of an entry: an uploaded pair, one that is ordered from an ACME server, or one that is made here, which clients
/// have no reason to trust.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterTls {
    /// The chain in PEM form, the server's own certificate first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PemText>,
    /// Its private key in PEM form; never given back.
    #[serde(default, skip_serializing_if = "never_shown")]
    pub key: Option<TlsKey>,
    /// Make one for `serverNames`, signed by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub self_signed: bool,
    /// Order one for `serverNames` from an ACME server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<ClusterAcme>,
    /// The names (SNI) this certificate is for. Needed where clusters share a port, and with `acme`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 50)]
    pub server_names: Vec<ClusterHost>,
}

/// A private key in PEM form, or another one that is never given back.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct TlsKey(pub SecretText);

pub(super) fn never_shown(_: &Option<TlsKey>) -> bool {
    true
}

/// Of use to nobody, but that what a key is a field of can be written.
impl Serialize for TlsKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_none()
    }
}

impl TlsKey {
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}
impl PartialEq for TlsKey {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}
impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsKey(…)")
    }
}
impl PartialSchema for TlsKey {
    fn schema() -> RefOr<Schema> {
        SecretText::schema()
    }
}
impl ToSchema for TlsKey {}

impl ClusterTls {
    pub(super) fn problems(&self) -> Vec<(String, &'static str)> {
        let one = |field: &str, message| vec![(field.to_owned(), message)];
        let pair = (self.certificate.is_some(), self.key.is_some());
        match (&self.acme, self.self_signed, pair) {
            (Some(acme), false, (false, false)) => acme.problems(&self.server_names),
            (Some(_), ..) => one(
                "acme",
                "it takes the place of `certificate`, `key` and `selfSigned`: leave them out",
            ),
            (None, false, (true, true)) | (None, true, (false, false)) => Vec::new(),
            (None, false, (false, false)) => one(
                "certificate",
                "TLS needs a certificate: send `certificate` and `key`, have one ordered by `acme`, or made by `selfSigned`",
            ),
            (None, false, (true, false)) => one("key", "the certificate's private key is missing"),
            (None, false, (false, true)) => one("certificate", "the key's certificate is missing"),
            (None, true, _) => one("selfSigned", "either one is made, or `certificate` and `key` are sent"),
        }
    }
}

/// Where requests without TLS come in, to be sent to the entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterRedirect {
    /// 80 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<Port>,
}

impl ClusterRedirect {
    pub fn port(&self) -> u16 {
        self.listen_port.map_or(80, Port::get)
    }
}

/// Requests to `host` whose path is `pathPrefix` or lies below it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterRoute {
    /// Every host where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<ClusterHost>,
    /// `/` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<ClusterPath>,
}

impl ClusterRoute {
    /// What tells it from every other route of a port.
    pub fn pair(&self) -> (Option<String>, String) {
        (
            self.host.as_ref().map(|h| h.as_str().to_ascii_lowercase()),
            self.path_prefix.as_ref().map_or_else(|| "/".to_owned(), ToString::to_string),
        )
    }
}

/// An IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterEntryAddress(IpAddr);

impl ClusterEntryAddress {
    pub fn ip(&self) -> IpAddr {
        self.0
    }
}
impl PartialSchema for ClusterEntryAddress {
    fn schema() -> RefOr<Schema> {
        let text = |format| {
            ObjectBuilder::new()
                .schema_type(Type::String)
                .format(Some(SchemaFormat::KnownFormat(format)))
        };
        Schema::AnyOf(
            AnyOfBuilder::new()
                .item(text(KnownFormat::Ipv4))
                .item(text(KnownFormat::Ipv6))
                .description(Some("An IP address."))
                .build(),
        )
        .into()
    }
}
impl ToSchema for ClusterEntryAddress {}

/// An address that the first entry node which is alive answers for (VRRP, RFC 5798).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterVirtualAddress {
    pub address: ClusterEntryAddress,
    /// Length of its network's prefix; 24 by default, 64 for IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Bounded<1, 128>>,
    /// The nodes' interface; the one whose network has the address by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<InterfaceName>,
}

impl ClusterVirtualAddress {
    pub fn prefix(&self) -> u8 {
        let usual = if self.address.ip().is_ipv4() { 24 } else { 64 };
        self.prefix.and_then(|p| u8::try_from(p.get()).ok()).unwrap_or(usual)
    }

    pub(super) fn judge(&self) -> Result<(), (&'static str, &'static str)> {
        let ip = self.address.ip();
        if ip.is_ipv4() && self.prefix() > 32 {
            return Err(("prefix", "an IPv4 network has a prefix of 1 to 32"));
        }
        let of_no_use = match ip {
            IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || of_no_use {
            return Err(("address", "no machine can share this address with another one"));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FailbackMode {
    /// Once the server of higher preference has been up for `after` seconds.
    #[default]
    Automatic,
    /// Only when it is asked for, or when the active one is lost.
    Manual,
}

/// When traffic goes back to a server of higher preference that is up again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterFailback {
    #[serde(default)]
    pub mode: FailbackMode,
    /// Seconds; of `automatic`.
    #[serde(default = "failback_after")]
    pub after: Bounded<0, 86_400>,
}

const fn failback_after() -> Bounded<0, 86_400> {
    Bounded::clamped(30)
}

impl Default for ClusterFailback {
    fn default() -> Self {
        Self {
            mode: FailbackMode::default(),
            after: failback_after(),
        }
    }
}

/// What new servers are made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ServerTemplate {
    /// A container, as in `POST /api/containers`: started at once, its name with something behind it, its ports at the node's
    /// choice.
    Container(Box<ContainerSpec>),
}

impl PartialSchema for ServerTemplate {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("container", utoipa::openapi::Ref::from_schema_name(ContainerSpec::name()))
            .required("container")
            .additional_properties(Some(AdditionalProperties::FreeForm(false)))
            .description(Some(
                "What new servers are made of: a container as in `POST /api/containers`, started at once, its name with something \
                 behind it, its ports at the node's choice.",
            ))
            .into()
    }
}
impl ToSchema for ServerTemplate {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((ContainerSpec::name().into_owned(), ContainerSpec::schema()));
        ContainerSpec::schemas(schemas);
    }
}
