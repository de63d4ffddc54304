//! Servers: anything that can take traffic, be checked or be backed up. Nodes, containers and cloud instances are servers by
//! themselves; other machines are registered by their address.

use crate::envelope::FieldProblem;
use crate::text::{BadText, ProbePath, ServerName};
use crate::units::{Bounded, Port};
use crate::{NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use utoipa::ToSchema;
use utoipa::openapi::schema::{AnyOfBuilder, Schema};
use utoipa::openapi::{KnownFormat, ObjectBuilder, RefOr, SchemaFormat, Type};

/// What kind of server it is; its id begins accordingly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServerKind {
    /// `cont_…`
    Container,
    /// `inst_…`
    Instance,
    /// `node_…`
    Node,
    /// `server_…`, registered by hand.
    Address,
}

impl ServerKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Instance => "instance",
            Self::Node => "node",
            Self::Address => "address",
        }
    }
}

/// Any server, in one shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerView {
    pub id: String,
    pub kind: ServerKind,
    pub name: String,
    /// Where it is reached: of a container its first address on a Docker network, of an instance its public address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The node a container is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// Of a hand-registered address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// Of a hand-registered address: how it is checked; absent where nothing says how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<AddressProbe>,
    /// The status its kind has: a node's (`ready`), a container's (`running`), an instance's; an address has that of its
    /// last health check.
    pub status: String,
    pub created: Timestamp,
}

/// A host name or an IP address.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerAddress(Box<str>);

impl ServerAddress {
    /// A host name whose last label begins with a letter, so that no other way to write an IPv4 address passes for one.
    pub const HOST_PATTERN: &'static str =
        "^(?=.{1,253}$)(?:[a-zA-Z0-9_](?:[a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\\.)*[a-zA-Z](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$";

    pub fn parse(text: &str) -> Result<Self, BadText> {
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let host = || {
            let last = text.rsplit('.').next().unwrap_or_default();
            text.len() <= 253 && text.split('.').all(label) && last.starts_with(|c: char| c.is_ascii_alphabetic()) && !last.contains('_')
        };
        if text.parse::<IpAddr>().is_ok() || host() {
            Ok(Self(text.into()))
        } else {
            Err(BadText(
                "an address is a host name such as `db.example.com` or an IP address, without scheme or port".into(),
            ))
        }
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The address, where it is one and no name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.0.parse().ok()
    }
}
impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}
impl TryFrom<String> for ServerAddress {
    type Error = BadText;
    fn try_from(s: String) -> Result<Self, BadText> {
        Self::parse(&s)
    }
}
impl std::str::FromStr for ServerAddress {
    type Err = BadText;
    fn from_str(s: &str) -> Result<Self, BadText> {
        Self::parse(s)
    }
}
impl From<ServerAddress> for String {
    fn from(a: ServerAddress) -> String {
        a.0.into()
    }
}
impl utoipa::PartialSchema for ServerAddress {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        Schema::AnyOf(
            AnyOfBuilder::new()
                .item(text().pattern(Some(Self::HOST_PATTERN)))
                .item(text().format(Some(SchemaFormat::KnownFormat(KnownFormat::Ipv4))))
                .item(text().format(Some(SchemaFormat::KnownFormat(KnownFormat::Ipv6))))
                .description(Some("A host name or an IP address, without scheme or port."))
                .build(),
        )
        .into()
    }
}
impl ToSchema for ServerAddress {}

/// How an address is checked from the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AddressProbeKind {
    /// A connection is made and closed.
    Tcp,
    /// A GET; redirects are not followed.
    Http,
    /// The same over TLS; the certificate must be one that public authorities vouch for.
    Https,
}

/// The probe of a hand-registered address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddressProbe {
    #[serde(rename = "type")]
    pub kind: AddressProbeKind,
    /// Of `http` and `https`; `/` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<ProbePath>,
    /// Of `http` and `https`; any status from 200 to 399 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_status: Option<Bounded<100, 599>>,
    /// Seconds until it is given up; 5 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Bounded<1, 10>>,
}

/// Seconds a probe may take where it names none.
pub const PROBE_TIMEOUT: u64 = 5;

/// `POST /api/servers`: a machine without our agent. With a port and no probe it is checked by a connection to that port;
/// with neither it is not checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewServer {
    pub name: ServerName,
    pub address: ServerAddress,
    /// 80 for an `http` probe and 443 for `https` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<AddressProbe>,
}

impl NewServer {
    /// Rules that no single field can hold: each problem names its field.
    pub fn problems(&self) -> Vec<FieldProblem> {
        let mut out = Vec::new();
        let mut problem = |field: &str, message: &str| {
            out.push(FieldProblem {
                field: field.into(),
                message: message.into(),
            });
        };
        if let Some(probe) = &self.probe
            && probe.kind == AddressProbeKind::Tcp
        {
            if self.port.is_none() {
                problem("port", "a tcp probe needs the port it connects to");
            }
            if probe.path.is_some() {
                problem("probe.path", "belongs to http and https probes");
            }
            if probe.expect_status.is_some() {
                problem("probe.expectStatus", "belongs to http and https probes");
            }
        }
        out
    }

    /// What is really done to check it, and at which port.
    pub fn effective_probe(&self) -> Option<(AddressProbe, Port)> {
        let plain = |kind| AddressProbe {
            kind,
            path: None,
            expect_status: None,
            timeout: None,
        };
        let probe = match (&self.probe, self.port) {
            (Some(probe), _) => probe.clone(),
            (None, Some(_)) => plain(AddressProbeKind::Tcp),
            (None, None) => return None,
        };
        let usual = match probe.kind {
            AddressProbeKind::Tcp => None,
            AddressProbeKind::Http => Port::new(80),
            AddressProbeKind::Https => Port::new(443),
        };
        Some((probe, self.port.or(usual)?))
    }
}

/// `PATCH /api/servers/{id}`: only what is sent changes; a probe is replaced as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerUpdate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ServerName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<ServerAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<AddressProbe>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in [
            "10.0.0.5",
            "::1",
            "2001:db8::1",
            "db.example.com",
            "db-1",
            "a_b.internal",
            "localhost",
        ] {
            assert!(ServerAddress::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "http://x",
            "x:80",
            "[::1]",
            "10.0.0.256",
            "127.1",
            "2130706433",
            "0x7f000001",
            "a..b",
            "-a",
            "a-",
            "a b",
            "a;b",
            "$(x)",
            "fe80::1%eth0",
            "x.1",
            "a\n",
            &"a".repeat(64),
        ] {
            assert!(ServerAddress::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_that_do_not_fit_together_are_named() {
        let fields = |json: &str| -> Vec<String> {
            let new: NewServer = serde_json::from_str(json).unwrap();
            new.problems().into_iter().map(|p| p.field).collect()
        };
        assert_eq!(fields(r#"{"name":"a","address":"b.c","port":5432}"#), [""; 0]);
        assert_eq!(
            fields(r#"{"name":"a","address":"b.c","probe":{"type":"http","path":"/up"}}"#),
            [""; 0]
        );
        assert_eq!(
            fields(r#"{"name":"n","address":"b","probe":{"type":"tcp","path":"/","expectStatus":200}}"#),
            ["port", "probe.path", "probe.expectStatus"]
        );
        for reserved in ["settings", "node_1", "server_1"] {
            assert!(ServerName::parse(reserved).is_err(), "{reserved}");
        }
    }

    #[test]
    fn what_is_not_said_is_filled_in() {
        let probe = |json: &str| {
            let new: NewServer = serde_json::from_str(json).unwrap();
            new.effective_probe().map(|(p, port)| (p.kind, port.get()))
        };
        assert_eq!(probe(r#"{"name":"a","address":"b"}"#), None);
        assert_eq!(probe(r#"{"name":"a","address":"b","port":22}"#), Some((AddressProbeKind::Tcp, 22)));
        assert_eq!(
            probe(r#"{"name":"a","address":"b","probe":{"type":"https"}}"#),
            Some((AddressProbeKind::Https, 443))
        );
        assert_eq!(
            probe(r#"{"name":"a","address":"b","port":8080,"probe":{"type":"http"}}"#),
            Some((AddressProbeKind::Http, 8080))
        );
    }
}
