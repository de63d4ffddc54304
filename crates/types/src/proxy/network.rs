//! A network in CIDR form.

use crate::text::{BadText, string_schema};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

/// A network as `10.0.0.0/8` or `fd00::/8`; a single address is a network of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    base: IpAddr,
    bits: u8,
}

impl Network {
    /// The network of this prefix that `address` lies in.
    pub fn of(address: IpAddr, prefix: u8) -> Self {
        let most = if address.is_ipv4() { 32 } else { 128 };
        Self {
            base: address,
            bits: prefix.min(most),
        }
    }

    pub fn parse(text: &str) -> Result<Self, BadText> {
        let bad = || BadText(format!("`{text}` is neither an address nor a network as 10.0.0.0/8"));
        let (base, prefix) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| bad())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = match prefix {
            Some(text) => {
                let bits = text.parse::<u8>().ok().filter(|bits| *bits <= most);
                // Written in one way: neither `+8` nor `08`.
                bits.filter(|bits| bits.to_string() == text).ok_or_else(bad)?
            }
            None => most,
        };
        Ok(Self { base, bits })
    }

    /// An IPv4 address that arrived on an IPv6 socket counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(a)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                u32::from(base) & mask == u32::from(a) & mask
            }
            (IpAddr::V6(base), IpAddr::V6(a)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                u128::from(base) & mask == u128::from(a) & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}
impl TryFrom<String> for Network {
    type Error = BadText;
    fn try_from(text: String) -> Result<Self, BadText> {
        Self::parse(&text)
    }
}
impl From<Network> for String {
    fn from(network: Network) -> String {
        network.to_string()
    }
}

const PATTERN: &str = concat!(
    "^(?:(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
    "(?:/(?:3[0-2]|[12]?[0-9]))?",
    "|(?:(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}|(?:[0-9A-Fa-f]{1,4}:){1,7}:",
    "|(?:[0-9A-Fa-f]{1,4}:){1,6}:[0-9A-Fa-f]{1,4}|(?:[0-9A-Fa-f]{1,4}:){1,5}(?::[0-9A-Fa-f]{1,4}){1,2}",
    "|(?:[0-9A-Fa-f]{1,4}:){1,4}(?::[0-9A-Fa-f]{1,4}){1,3}|(?:[0-9A-Fa-f]{1,4}:){1,3}(?::[0-9A-Fa-f]{1,4}){1,4}",
    "|(?:[0-9A-Fa-f]{1,4}:){1,2}(?::[0-9A-Fa-f]{1,4}){1,5}|[0-9A-Fa-f]{1,4}:(?::[0-9A-Fa-f]{1,4}){1,6}",
    "|:(?:(?::[0-9A-Fa-f]{1,4}){1,7}|:))(?:/(?:12[0-8]|1[01][0-9]|[1-9]?[0-9]))?)$"
);

impl PartialSchema for Network {
    fn schema() -> RefOr<Schema> {
        string_schema(
            PATTERN,
            None,
            Some(43),
            "An IP address, or a network as `10.0.0.0/8` or `fd00::/8`.",
        )
    }
}
impl ToSchema for Network {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_the_schema_takes_is_one(text in proptest::string::string_regex(PATTERN.trim_matches(['^', '$'])).unwrap()) {
            prop_assert!(Network::parse(&text).is_ok());
        }
    }

    #[test]
    fn holds_what_lies_in_it() {
        let table = [
            ("10.0.0.0/8", "10.200.1.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.0/24", "::ffff:192.0.2.9", true),
            ("fd00::/8", "fd12::1", true),
            ("::/0", "fd12::1", true),
            ("::/0", "10.0.0.1", false),
        ];
        for (network, address, inside) in table {
            let parsed = Network::parse(network).unwrap();
            assert_eq!(parsed.contains(address.parse().unwrap()), inside, "{address} in {network}");
        }
        for wrong in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "10.0.0.0/+1",
            "01.2.3.4",
            "1:2:3",
            "1:2:3:4:5:6:7:8:9",
            ":::",
            "10.0.0.0/01",
        ] {
            assert!(Network::parse(wrong).is_err(), "{wrong}");
        }
    }
}
