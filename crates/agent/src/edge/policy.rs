//! What a node does not carry, whoever asks for it.
//!
//! The document is judged as the load balancer judges it; beyond that, a control plane has no word in what this machine keeps for
//! itself: its files, its place in the network, what answers only on its link.

use crate::host::addresses::Address;
use nm_link::contract::{AgentError, AgentErrorCode as Code, EdgeConfig, VirtualAddress};
use nm_types::proxy::CertificateSource;
use std::collections::HashSet;
use std::net::IpAddr;

/// Virtual addresses at most; a VRRP network has 255.
const ADDRESSES_AT_MOST: usize = 64;
const PEERS_AT_MOST: usize = 32;

/// The machine a document is meant for.
pub struct Machine {
    pub addresses: Vec<Address>,
    pub gateways: Vec<IpAddr>,
}

/// Why this machine does not carry the document, with the first field that is to blame.
pub fn check(document: &EdgeConfig, machine: &Machine) -> Result<(), AgentError> {
    if let Err(problems) = document.proxy.validate() {
        let said: Vec<String> = problems.iter().map(|p| format!("proxy.{}: {}", p.field, p.message)).collect();
        let field = problems.first().map(|p| format!("proxy.{}", p.field)).unwrap_or_default();
        return Err(AgentError::new(
            Code::Invalid,
            format!("The load balancer's configuration is wrong: {}.", said.join("; ")),
        )
        .field(field));
    }
    for (i, listener) in document.proxy.listeners.iter().enumerate() {
        let at = format!("proxy.listeners[{i}]");
        for (j, certificate) in listener.tls.iter().flat_map(|tls| &tls.certificates).enumerate() {
            if matches!(certificate.source, CertificateSource::Files { .. }) {
                return Err(forbidden(
                    format!("{at}.tls.certificates[{j}].source"),
                    "a control plane sends certificates with their text: it has no say over the files of a node",
                ));
            }
        }
        let ip = listener.address;
        let is_there = ip.is_unspecified() || ip.is_loopback() || machine.addresses.iter().any(|a| a.ip == ip);
        if !is_there && !document.virtual_addresses.iter().any(|v| v.address == ip) {
            return Err(invalid(
                format!("{at}.address"),
                &format!("this node does not have the address {ip}; 0.0.0.0 is every address it has"),
            ));
        }
    }
    for (i, cluster) in document.proxy.clusters.iter().enumerate() {
        for (j, member) in cluster.members.iter().enumerate() {
            // Metadata services of clouds are there, and give a machine's keys to whoever asks from it.
            if is_link_local(member.address) {
                return Err(forbidden(
                    format!("proxy.clusters[{i}].members[{j}].address"),
                    "link-local addresses are this machine's own business: traffic is not sent there",
                ));
            }
        }
    }
    virtual_addresses(&document.virtual_addresses, machine)
}

fn virtual_addresses(all: &[VirtualAddress], machine: &Machine) -> Result<(), AgentError> {
    if all.len() > ADDRESSES_AT_MOST {
        return Err(invalid("virtualAddresses".into(), "a node shares at most 64 addresses"));
    }
    let (mut addresses, mut routers) = (HashSet::new(), HashSet::new());
    for (i, one) in all.iter().enumerate() {
        let at = |field: &str| format!("virtualAddresses[{i}].{field}");
        let ip = one.address;
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || is_link_local(ip) || is_broadcast(ip) {
            return Err(invalid(at("address"), &format!("{ip} is no address that servers share")));
        }
        if machine.gateways.contains(&ip) {
            return Err(forbidden(
                at("address"),
                &format!("{ip} is a gateway of this node: taking it over would cut everybody off"),
            ));
        }
        if !addresses.insert(ip) {
            return Err(invalid(at("address"), &format!("{ip} is there twice")));
        }
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        if one.prefix == 0 || one.prefix > longest {
            return Err(invalid(at("prefix"), &format!("a prefix is 1 to {longest}")));
        }
        if let Some(interface) = &one.interface
            && !is_interface(interface)
        {
            return Err(invalid(
                at("interface"),
                "an interface is named by 1 to 15 letters, digits, `_`, `-` or `.`",
            ));
        }
        if one.router_id == 0 || !routers.insert((one.router_id, ip.is_ipv4())) {
            return Err(invalid(at("routerId"), "a router id is 1 to 255, and another one for each address"));
        }
        if one.priority == 0 || one.priority == 255 {
            return Err(invalid(at("priority"), "a priority is 1 to 254"));
        }
        if one.peers.len() > PEERS_AT_MOST {
            return Err(invalid(at("peers"), "at most 32 nodes share an address"));
        }
        for (j, peer) in one.peers.iter().enumerate() {
            let own = machine.addresses.iter().any(|a| a.ip == *peer);
            if peer.is_ipv4() != ip.is_ipv4() || peer.is_unspecified() || peer.is_multicast() || own {
                return Err(invalid(
                    at(&format!("peers[{j}]")),
                    "a peer is another node's address, of the same kind as the shared one",
                ));
            }
        }
    }
    Ok(())
}

fn invalid(field: String, message: &str) -> AgentError {
    AgentError::new(Code::Invalid, format!("{field}: {message}.")).field(field)
}

fn forbidden(field: String, message: &str) -> AgentError {
    AgentError::new(Code::Forbidden, format!("{field}: {message}.")).field(field)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_link_local()),
    }
}

fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(v4) if v4.is_broadcast())
}

/// As the kernel takes names, less what a configuration file could read as something else.
fn is_interface(name: &str) -> bool {
    let right = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    (1..=15).contains(&name.len()) && name.bytes().all(right) && name.bytes().any(|b| b != b'.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn machine() -> Machine {
        Machine {
            addresses: vec![Address {
                interface: "eth0".into(),
                ip: "10.0.0.5".parse().unwrap(),
                prefix: 24,
            }],
            gateways: vec!["10.0.0.1".parse().unwrap()],
        }
    }

    fn document() -> Value {
        json!({
            "proxy": {
                "generation": 1,
                "listeners": [
                    {"id": "web", "address": "0.0.0.0", "port": 443, "protocol": "http", "routes": [{"cluster": "c"}],
                     "tls": {"certificates": [{"source": {"inline": {"certificate": "", "key": ""}}}]}},
                    {"id": "own", "address": "10.0.0.5", "port": 80, "protocol": "http", "routes": [{"cluster": "c"}]},
                    {"id": "shared", "address": "10.0.0.100", "port": 80, "protocol": "http", "routes": [{"cluster": "c"}]},
                ],
                "clusters": [{"id": "c", "members": [{"id": "m", "address": "10.0.0.7", "port": 80}]}],
            },
            "virtualAddresses": [
                {"address": "10.0.0.100", "prefix": 24, "routerId": 7, "priority": 100, "peers": ["10.0.0.6"]},
                {"address": "fd00::100", "prefix": 64, "interface": "eth0.7", "routerId": 7, "priority": 1},
            ],
        })
    }

    #[test]
    fn a_machine_keeps_to_itself_what_is_its_own() {
        let judge = |document: Value| check(&serde_json::from_value(document).unwrap(), &machine());
        judge(document()).unwrap();
        let files = json!({"files": {"certificate": "/etc/shadow", "key": "/etc/shadow"}});
        let table = [
            ("/proxy/listeners/0/tls/certificates/0/source", files, Code::Forbidden),
            ("/proxy/listeners/0/port", json!(0), Code::Invalid),
            ("/proxy/listeners/1/address", json!("10.0.0.9"), Code::Invalid),
            ("/proxy/clusters/0/members/0/address", json!("169.254.169.254"), Code::Forbidden),
            ("/proxy/clusters/0/members/0/address", json!("fe80::1"), Code::Forbidden),
            (
                "/proxy/clusters/0/members/0/address",
                json!("::ffff:169.254.169.254"),
                Code::Forbidden,
            ),
            ("/virtualAddresses/0/address", json!("127.0.0.1"), Code::Invalid),
            ("/virtualAddresses/0/address", json!("255.255.255.255"), Code::Invalid),
            ("/virtualAddresses/0/address", json!("10.0.0.1"), Code::Forbidden),
            ("/virtualAddresses/1/address", json!("10.0.0.100"), Code::Invalid),
            ("/virtualAddresses/0/prefix", json!(33), Code::Invalid),
            ("/virtualAddresses/0/prefix", json!(0), Code::Invalid),
            ("/virtualAddresses/1/interface", json!("eth0 }"), Code::Invalid),
            ("/virtualAddresses/1/interface", json!("eth0\n"), Code::Invalid),
            ("/virtualAddresses/1/interface", json!(".."), Code::Invalid),
            ("/virtualAddresses/1/interface", json!(""), Code::Invalid),
            ("/virtualAddresses/0/routerId", json!(0), Code::Invalid),
            ("/virtualAddresses/0/priority", json!(255), Code::Invalid),
            ("/virtualAddresses/0/peers/0", json!("fd00::6"), Code::Invalid),
            ("/virtualAddresses/0/peers/0", json!("10.0.0.5"), Code::Invalid),
        ];
        for (pointer, value, code) in table {
            let mut document = document();
            *document.pointer_mut(pointer).unwrap() = value.clone();
            // A listener on an address that is then shared no more is to blame for that.
            if pointer == "/virtualAddresses/0/address" {
                document["proxy"]["listeners"].as_array_mut().unwrap().pop();
            }
            let refused = judge(document).unwrap_err();
            assert_eq!(refused.code, code, "{pointer} {value}: {refused}");
            let field = refused.field.unwrap();
            let start = if pointer.starts_with("/proxy") {
                "proxy."
            } else {
                "virtualAddresses["
            };
            assert!(field.starts_with(start), "{field}");
        }
    }

    #[test]
    fn router_ids_are_told_apart_by_the_kind_of_address() {
        let mut document = document();
        document["virtualAddresses"][1] = json!({"address": "10.0.0.101", "prefix": 24, "routerId": 7, "priority": 100});
        let refused = check(&serde_json::from_value(document).unwrap(), &machine()).unwrap_err();
        assert_eq!(refused.field.as_deref(), Some("virtualAddresses[1].routerId"));
    }
}
