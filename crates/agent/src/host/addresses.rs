//! The addresses this machine has, as the kernel tells them.

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use nm_types::proxy::Network;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One address of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub interface: String,
    pub ip: IpAddr,
    /// Length of its network's prefix.
    pub prefix: u8,
}

/// All of them, as they are now.
pub fn all() -> io::Result<Vec<Address>> {
    let found = getifaddrs()?.filter_map(|entry| {
        Some(Address {
            ip: ip(entry.address?)?,
            prefix: entry.netmask.and_then(ip).map_or(0, prefix),
            interface: entry.interface_name,
        })
    });
    Ok(found.collect())
}

fn ip(address: SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(IpAddr::V4(v4.ip()));
    }
    address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
}

fn prefix(mask: IpAddr) -> u8 {
    let ones = match mask {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    };
    u8::try_from(ones).unwrap_or(0)
}

/// The interface whose own network has `ip`: that of the longest prefix. An address that is `ip` itself says nothing, for it may
/// be there because this node shares it; nor does one that is its whole network.
pub fn interface_for(ip: IpAddr, all: &[Address]) -> Option<&str> {
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    let near = all
        .iter()
        .filter(|a| a.ip != ip && a.prefix > 0 && a.prefix < whole && Network::of(a.ip, a.prefix).contains(ip));
    near.max_by_key(|a| a.prefix).map(|a| a.interface.as_str())
}

/// The machine's ways out: who takes such an address over takes everybody's traffic.
pub fn gateways() -> Vec<IpAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let v4 = gateways_v4(&read("/proc/self/net/route")).into_iter().map(IpAddr::V4);
    let v6 = gateways_v6(&read("/proc/self/net/ipv6_route")).into_iter().map(IpAddr::V6);
    v4.chain(v6).collect()
}

/// proc_net_route: interface, destination, gateway, as words of the machine's own byte order in hex.
fn gateways_v4(table: &str) -> Vec<Ipv4Addr> {
    let gateway = |line: &str| u32::from_str_radix(line.split_whitespace().nth(2)?, 16).ok();
    let all = table.lines().skip(1).filter_map(gateway).filter(|word| *word != 0);
    all.map(|word| Ipv4Addr::from(word.to_ne_bytes())).collect()
}

/// Destination and prefix, source and prefix, next hop.
fn gateways_v6(table: &str) -> Vec<Ipv6Addr> {
    let gateway = |line: &str| u128::from_str_radix(line.split_whitespace().nth(4)?, 16).ok();
    let all = table.lines().filter_map(gateway).filter(|bits| *bits != 0);
    all.map(Ipv6Addr::from_bits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(interface: &str, ip: &str, prefix: u8) -> Address {
        Address {
            interface: interface.into(),
            ip: ip.parse().unwrap(),
            prefix,
        }
    }

    #[test]
    fn the_nearest_network_is_chosen() {
        let all = [
            address("wide", "10.0.0.1", 8),
            address("near", "10.1.0.1", 16),
            address("self", "10.1.0.9", 32),
            address("six", "fd00::1", 64),
        ];
        for (ip, interface) in [
            ("10.1.0.9", Some("near")),
            ("10.2.0.9", Some("wide")),
            ("fd00::9", Some("six")),
            ("fd01::9", None),
            ("192.0.2.1", None),
            ("10.1.0.1", Some("wide")),
        ] {
            assert_eq!(interface_for(ip.parse().unwrap(), &all), interface, "{ip}");
        }
    }

    #[test]
    fn this_machine_has_its_loopback() {
        let all = all().unwrap();
        assert!(
            all.iter()
                .any(|a| a.interface == "lo" && a.ip == Ipv4Addr::LOCALHOST && a.prefix == 8),
            "{all:?}"
        );
    }

    #[test]
    fn ways_out_are_read_from_the_kernels_tables() {
        let v4 = "Iface\tDestination\tGateway \tFlags\neth0\t00000000\t0100000A\t0003\neth0\t0000000A\t00000000\t0001\n";
        let expected = if cfg!(target_endian = "little") { "10.0.0.1" } else { "1.0.0.10" };
        assert_eq!(gateways_v4(v4), [expected.parse::<Ipv4Addr>().unwrap()]);
        let v6 = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 0 0 00000003 eth0\n\
                  fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 0 0 00000001 eth0\n";
        assert_eq!(gateways_v6(v6), ["fe80::1".parse::<Ipv6Addr>().unwrap()]);
    }
}
