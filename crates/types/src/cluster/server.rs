//! A cluster's servers, as they are named.

use crate::text::{BadText, string_schema, texts};
use crate::units::{Bounded, Port};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use utoipa::openapi::schema::{AnyOfBuilder, Schema};
use utoipa::openapi::{ObjectBuilder, RefOr, Type};
use utoipa::{PartialSchema, ToSchema};

texts! {
    /// Names a server or a node: its id, or its name where only one has it.
    ClusterServerKey {
        pattern: "^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$", max: 128,
        says: "a server is named by its id or its name: 1 to 128 letters, digits, `_`, `.` or `-`",
        ok: |t| t.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    }
}

/// One server of a cluster: its id or name alone, or with more beside it.
#[derive(Debug, Clone, PartialEq)]
pub enum ClusterServer {
    Plain(ClusterServerKey),
    Entry(ClusterServerEntry),
}

/// A server with what is said of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterServerEntry {
    /// Id or name.
    pub id: ClusterServerKey,
    /// Its port: of a container the one inside it. Left out, it is the only port a container publishes, or a registered
    /// address's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// Its share under `weighted` and `least-connections`; 1 by default, 0 is no new traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Bounded<0, 256>>,
    /// Gets traffic only when no other is up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backup: bool,
}

impl ClusterServer {
    pub fn key(&self) -> &ClusterServerKey {
        match self {
            Self::Plain(key) => key,
            Self::Entry(entry) => &entry.id,
        }
    }
    /// As if everything had been said.
    pub fn entry(&self) -> ClusterServerEntry {
        match self {
            Self::Plain(key) => ClusterServerEntry {
                id: key.clone(),
                port: None,
                weight: None,
                backup: false,
            },
            Self::Entry(entry) => entry.clone(),
        }
    }
}

impl Serialize for ClusterServer {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(key) => key.serialize(s),
            Self::Entry(entry) => entry.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for ClusterServer {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ClusterServer;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a server's id or name, or an object with its `id`")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ClusterServer, E> {
                ClusterServerKey::parse(text).map(ClusterServer::Plain).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ClusterServer, A::Error> {
                ClusterServerEntry::deserialize(MapAccessDeserializer::new(map)).map(ClusterServer::Entry)
            }
        }
        d.deserialize_any(Either)
    }
}

impl PartialSchema for ClusterServer {
    fn schema() -> RefOr<Schema> {
        Schema::AnyOf(
            AnyOfBuilder::new()
                .item(ClusterServerKey::schema())
                .item(ClusterServerEntry::schema())
                .description(Some("A server's id or name, alone or with port, weight and backup."))
                .build(),
        )
        .into()
    }
}
impl ToSchema for ClusterServer {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        ClusterServerEntry::schemas(schemas);
    }
}

/// `POST …/servers`: the servers to add, at least one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewClusterServers {
    pub servers: Vec<ClusterServer>,
}

impl PartialSchema for NewClusterServers {
    fn schema() -> RefOr<Schema> {
        let servers = utoipa::openapi::ArrayBuilder::new()
            .items(ClusterServer::schema())
            .min_items(Some(1))
            .max_items(Some(super::SERVERS_AT_MOST));
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("servers", servers)
            .required("servers")
            .additional_properties(Some(utoipa::openapi::schema::AdditionalProperties::FreeForm(false)))
            .description(Some("Servers to add, each as in `servers` of a cluster."))
            .into()
    }
}
impl ToSchema for NewClusterServers {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        ClusterServerEntry::schemas(schemas);
    }
}
