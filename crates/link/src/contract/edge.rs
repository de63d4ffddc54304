//! What an agent carries of clusters' entries: the load balancer's configuration and virtual addresses.

use nm_types::proxy::{Metrics, ProxyConfig, Status};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Everything a node is to carry. It takes the place of what it carried before, as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EdgeConfig {
    /// Its `generation` orders these documents, and an agent refuses one older than what it holds. Without listeners the
    /// node carries nothing, and its load balancer ends once its connections have.
    pub proxy: ProxyConfig,
    /// Addresses that this node shares with others by VRRP (RFC 5798).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub virtual_addresses: Vec<VirtualAddress>,
}

/// An address that the first of several nodes which is alive answers for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VirtualAddress {
    pub address: IpAddr,
    /// Length of its network's prefix.
    pub prefix: u8,
    /// The interface it is put on; where it is left out, the one whose own network has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The same at every node that shares it, 1 to 255.
    pub router_id: u8,
    /// 1 to 254; the node with the highest that is alive has it.
    pub priority: u8,
    /// The other nodes' addresses: adverts go to them alone, as many clouds carry no multicast.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<IpAddr>,
}

/// What a node carries now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeState {
    /// Of the document the agent holds; nothing before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What its load balancer says; nothing where it carries nothing, or the load balancer does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Status>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub virtual_addresses: Vec<VirtualAddressState>,
    /// What keeps it from carrying what it should, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualAddressState {
    pub address: IpAddr,
    /// Whether this node answers for it now.
    pub held: bool,
}

/// The load balancer's figures. They count from its process's start: another instance begins anew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeMetrics {
    #[serde(flatten)]
    pub current: Metrics,
    /// The last figures of processes that others have taken over from since the agent's start, oldest first: what they counted
    /// after they were asked last. One that still ends its connections goes on counting.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<Metrics>,
}

/// Query of the events: the load balancer's, as [`Events`](nm_types::proxy::Events) has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EdgeEventsQuery {
    /// The process the number counts in; those of another one are all new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(default)]
    pub after: u64,
}
