//! Where the control plane itself may connect to when a user names the place: probes of registered addresses, deliveries; and
//! which registries nodes may ask for images.
//!
//! Invariants: a name is resolved once, the address that was judged is the one that is connected to, and nothing is followed
//! from there (no redirects), so that no name can lead to one place when it is judged and to another when it is used.
//! Private networks are allowed, since servers live there; this machine itself, the link and the metadata services of clouds
//! are not, unless the start flag `--allow-outbound` names their network.

use crate::api::error::{ApiError, ApiResult};
use crate::api::frame::Network;
use futures_util::future::BoxFuture;
use http::StatusCode;
use nm_types::address::{Special, innermost};
use reqwest::Url;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// The longest a name may take to be resolved.
const RESOLVE: Duration = Duration::from_secs(5);

/// What turns a name into addresses: the system's resolver, or a test's.
pub trait Resolver: Send + Sync {
    fn lookup(&self, host: String, port: u16) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>>;
}

struct System;

impl Resolver for System {
    fn lookup(&self, host: String, port: u16) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// Judges addresses before anything is sent to them. Cheap to clone.
#[derive(Clone)]
pub struct Guard {
    allow: Arc<[Network]>,
    resolver: Arc<dyn Resolver>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("allow", &self.allow).finish_non_exhaustive()
    }
}

impl Guard {
    /// `allow` are the networks that the start flag names.
    pub fn new(allow: Vec<Network>) -> Self {
        Self::with_resolver(allow, Arc::new(System))
    }

    pub fn with_resolver(allow: Vec<Network>, resolver: Arc<dyn Resolver>) -> Self {
        Self {
            allow: allow.into(),
            resolver,
        }
    }

    /// The networks that may be connected to all the same, as workers on nodes are told.
    pub fn allowed(&self) -> Vec<String> {
        self.allow.iter().map(ToString::to_string).collect()
    }

    /// The first address of `host` that may be connected to; connect to exactly this one. `host` is a name or an address, an
    /// IPv6 one with or without its brackets.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, ApiError> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            self.check(ip)?;
            return Ok(SocketAddr::new(ip, port));
        }
        let found = match tokio::time::timeout(RESOLVE, self.resolver.lookup(bare.to_owned(), port)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(unknown(host, &error.to_string())),
            Err(_) => return Err(unknown(host, "the name server does not answer within 5 seconds")),
        };
        let mut refused = None;
        for address in found {
            match self.check(address.ip()) {
                // The port is ours, whatever the resolver made of it; a scope of the link is never allowed in.
                Ok(()) => return Ok(SocketAddr::new(address.ip(), port)),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| unknown(host, "it has no address")))
    }

    /// [`Guard::resolve`], and a connection to exactly that address.
    pub async fn connect(&self, host: &str, port: u16) -> ApiResult<TcpStream> {
        let address = self.resolve(host, port).await?;
        TcpStream::connect(address).await.map_err(|error| {
            ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "address_unreachable",
                format!("{address} can't be connected to: {error}"),
            )
        })
    }

    /// Whether `ip` may be connected to; 403 `address_not_allowed` where not.
    pub fn check(&self, ip: IpAddr) -> ApiResult<()> {
        let meant = innermost(ip);
        if self.allow.iter().any(|n| n.contains(ip) || n.contains(meant)) {
            return Ok(());
        }
        match Special::of(ip) {
            None => Ok(()),
            Some(special) => Err(not_allowed(ip, special, "the control plane connects to none")),
        }
    }

    /// Whether nodes may ask `registry` for images, as far as its name alone tells. The nodes judge what names lead to, for they
    /// resolve them. The loopback of a node is no place of the control plane's: engines trust a registry there as the
    /// machine's own.
    pub fn check_image_registry(&self, registry: &str) -> ApiResult<()> {
        match written_address(registry) {
            Some(ip) if Special::of(ip) != Some(Special::Loopback) => self.check_registry_at(ip),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether a login may be kept for `registry`, by the same measure; one for loopback only where that is allowed, for
    /// whoever listens there on some node would be given it.
    pub fn check_registry(&self, registry: &str) -> ApiResult<()> {
        written_address(registry).map_or(Ok(()), |ip| self.check_registry_at(ip))
    }

    fn check_registry_at(&self, ip: IpAddr) -> ApiResult<()> {
        self.check(ip).map_err(|error| match Special::of(ip) {
            Some(special) => not_allowed(ip, special, "no image is asked for there"),
            None => error,
        })
    }
}

/// The address that `host` or `host:port` is by itself, in any way to write one that a resolver reads.
fn written_address(registry: &str) -> Option<IpAddr> {
    let host = registry.split_once(':').map_or(registry, |(host, _)| host);
    // A URL's parser reads `0x7f.1` and `2852039166` as the addresses they are.
    let url = Url::parse(&format!("http://{host}/")).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or(host);
    let ip = match host.parse() {
        Ok(ip) => ip,
        Err(_) if host == "localhost" || host.ends_with(".localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Err(_) => return None,
    };
    Some(ip)
}

fn not_allowed(ip: IpAddr, special: Special, so: &str) -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "address_not_allowed",
        format!(
            "{ip} is {}, and {so}: an admin can allow its network by the start flag --allow-outbound",
            special.describe()
        ),
    )
}

fn unknown(host: &str, why: &str) -> ApiError {
    let shown: String = host.chars().take(100).collect();
    ApiError::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "address_unknown",
        format!("`{shown}` can't be resolved: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::Mutex;

    /// Answers each lookup with the next of its answers, as a hostile name server does.
    struct Scripted(Mutex<VecDeque<Vec<&'static str>>>);

    impl Resolver for Scripted {
        fn lookup(&self, _: String, port: u16) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> {
            let next = self.0.lock().unwrap().pop_front().expect("no lookup too many");
            Box::pin(async move { Ok(next.into_iter().map(|a| SocketAddr::new(a.parse().unwrap(), port)).collect()) })
        }
    }

    fn scripted(allow: &[&str], answers: &[&[&'static str]]) -> Guard {
        let answers = answers.iter().map(|a| a.to_vec()).collect();
        Guard::with_resolver(
            allow.iter().map(|n| n.parse().unwrap()).collect(),
            Arc::new(Scripted(Mutex::new(answers))),
        )
    }

    #[tokio::test]
    async fn addresses() {
        let guard = Guard::new(Vec::new());
        for refused in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.0.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "::1",
            "::",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "[::1]",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:a9fe:a9fe",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
        ] {
            let error = guard.resolve(refused, 80).await.expect_err(refused);
            assert_eq!(
                (error.status.as_u16(), error.code.as_str()),
                (403, "address_not_allowed"),
                "{refused}"
            );
        }
        for allowed in [
            "10.0.0.5",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "203.0.113.7",
            "fd12::1",
            "2001:db8::1",
            "[2001:db8::1]",
            "::ffff:10.0.0.5",
            "64:ff9b::a00:5",
        ] {
            assert_eq!(guard.resolve(allowed, 8080).await.expect(allowed).port(), 8080);
        }
    }

    #[test]
    fn registries() {
        let guard = Guard::new(vec!["127.0.0.0/8".parse().unwrap()]);
        for refused in [
            "169.254.169.254",
            "169.254.169.254:5000",
            "169.254.169.254:99999",
            "2852039166:80",
            "0xa9fea9fe:80",
            "0xA9.254.0251.254",
            "169.254.43518",
            "0.0.0.0",
            "0:5000",
            "100.100.100.200",
            "224.0.0.1",
        ] {
            let error = guard.check_registry(refused).expect_err(refused);
            assert_eq!((error.status.as_u16(), error.code.as_str()), (403, "address_not_allowed"));
            assert_eq!(guard.check_image_registry(refused).expect_err(refused).code, "address_not_allowed");
        }
        let none = Guard::new(Vec::new());
        for here in [
            "localhost",
            "localhost:5000",
            "LOCALHOST:5000",
            "r.localhost",
            "127.0.0.1:5000",
            "127.1",
            "0x7f000001:5000",
        ] {
            assert_eq!(none.check_registry(here).expect_err(here).code, "address_not_allowed");
            guard.check_registry(here).expect(here);
            none.check_image_registry(here).expect(here);
        }
        for allowed in [
            "docker.io",
            "registry.example.com:5000",
            "10.0.0.5:5000",
            "my-registry:5000",
            "1.2.3.4.5",
        ] {
            none.check_registry(allowed).expect(allowed);
            none.check_image_registry(allowed).expect(allowed);
        }
    }

    #[tokio::test]
    async fn ways_to_write_this_machine_that_only_a_resolver_reads() {
        let guard = Guard::new(Vec::new());
        for written in ["localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1"] {
            let error = guard.resolve(written, 80).await.expect_err(written);
            assert!(
                matches!(error.code.as_str(), "address_not_allowed" | "address_unknown"),
                "{written}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn the_flag_allows_networks() {
        let guard = Guard::new(vec!["127.0.0.1".parse().unwrap(), "fe80::/10".parse().unwrap()]);
        for (host, allowed) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("127.0.0.2", false),
            ("fe80::1", true),
            ("::1", false),
            ("169.254.169.254", false),
        ] {
            assert_eq!(guard.resolve(host, 80).await.is_ok(), allowed, "{host}");
        }
    }

    #[tokio::test]
    async fn names_lead_to_their_first_allowed_address() {
        let guard = scripted(&[], &[&["127.0.0.1", "10.1.1.1"], &["::1", "169.254.169.254"], &[]]);
        assert_eq!(guard.resolve("mixed.test", 80).await.unwrap().to_string(), "10.1.1.1:80");
        assert_eq!(guard.resolve("inside.test", 80).await.unwrap_err().code, "address_not_allowed");
        assert_eq!(guard.resolve("empty.test", 80).await.unwrap_err().code, "address_unknown");
    }

    /// A name that leads to a public address first and to this machine a moment later: what was judged is what is used.
    #[tokio::test]
    async fn a_name_is_resolved_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // The second answer would be refused; a second lookup would panic beyond it.
        let guard = scripted(&["127.0.0.1"], &[&["127.0.0.1"], &["169.254.169.254"]]);
        let stream = guard.connect("rebinds.test", port).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap().to_string(), format!("127.0.0.1:{port}"));
        let error = guard.connect("rebinds.test", port).await.unwrap_err();
        assert_eq!(error.code, "address_not_allowed", "the next use is judged anew");
    }
}
