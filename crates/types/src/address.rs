//! Addresses that no user's text may lead to unasked: this machine itself, the link, the metadata services of clouds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of special place an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    Metadata,
    Loopback,
    Nowhere,
    Link,
    Multicast,
}

impl Special {
    /// What `ip` is, also where it is IPv4 written as IPv6.
    pub fn of(ip: IpAddr) -> Option<Self> {
        kind(innermost(ip)).or_else(|| kind(ip))
    }

    /// `an address of the link`, for a sentence.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Metadata => "the address of a cloud's metadata service",
            Self::Loopback => "an address of this machine itself",
            Self::Nowhere => "no address of any machine",
            Self::Link => "an address of the link, where clouds have their metadata service",
            Self::Multicast => "a multicast address",
        }
    }
}

/// The IPv4 address that an IPv6 one stands for, where it does: mapped (RFC 4291), compatible (the same), translated by
/// NAT64 (RFC 6052) or 6to4 (RFC 3056).
pub fn innermost(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) => v4(g, h),
        // `::` and `::1` are addresses of their own.
        (0, 0, 0, 0, 0, 0) if g != 0 || h > 1 => v4(g, h),
        (0x64, 0xff9b, 0, 0, 0, 0) => v4(g, h),
        (0x2002, ..) => v4(b, c),
        _ => ip,
    }
}

/// Addresses of metadata services that lie outside the link-local block.
const METADATA: [IpAddr; 5] = [
    // Alibaba Cloud
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Oracle Cloud
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    // Azure's host agent
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // AWS
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    // Google Cloud
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

fn kind(ip: IpAddr) -> Option<Special> {
    if METADATA.contains(&ip) {
        return Some(Special::Metadata);
    }
    match ip {
        IpAddr::V4(v4) if v4.is_loopback() => Some(Special::Loopback),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some(Special::Nowhere),
        IpAddr::V4(v4) if v4.is_link_local() => Some(Special::Link),
        IpAddr::V4(v4) if v4.is_multicast() => Some(Special::Multicast),
        // 240.0.0.0/4 is reserved, the broadcast address its last one.
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => Some(Special::Nowhere),
        IpAddr::V6(v6) if v6.is_loopback() => Some(Special::Loopback),
        IpAddr::V6(v6) if v6.is_unspecified() => Some(Special::Nowhere),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(Special::Link),
        IpAddr::V6(v6) if v6.is_multicast() => Some(Special::Multicast),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}
