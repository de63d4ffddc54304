//! HAProxy's PROXY protocol, versions 1 and 2: who the client of a connection is, told in its first bytes.
//! <https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>

use nm_types::proxy::ProxyVersion;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 1, its end of line included.
const V1_AT_MOST: usize = 107;
/// The longest header of version 2 that is read: no sender needs more for addresses and a few options.
const V2_AT_MOST: usize = 16 + 4096;

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed.
    Partial,
    Header {
        /// Where the connection's own bytes begin.
        length: usize,
        /// The client; nothing where the sender speaks for itself, as its health checks do, or of another kind of address.
        client: Option<SocketAddr>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection does not begin with a PROXY protocol header")]
pub struct NoHeader;

pub fn parse(bytes: &[u8]) -> Result<Parsed, NoHeader> {
    let begins = |word: &[u8]| bytes.iter().zip(word).all(|(a, b)| a == b);
    if begins(&SIGNATURE) {
        if bytes.len() < 16 { Ok(Parsed::Partial) } else { parse_v2(bytes) }
    } else if begins(b"PROXY ") {
        parse_v1(bytes)
    } else {
        Err(NoHeader)
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, NoHeader> {
    let window = &bytes[..bytes.len().min(V1_AT_MOST)];
    let Some(end) = window.windows(2).position(|w| w == b"\r\n") else {
        return if bytes.len() < V1_AT_MOST {
            Ok(Parsed::Partial)
        } else {
            Err(NoHeader)
        };
    };
    let line = std::str::from_utf8(&window[..end]).map_err(|_| NoHeader)?;
    let mut words = line.split(' ').skip(1);
    let kind = words.next().ok_or(NoHeader)?;
    let client = match kind {
        "UNKNOWN" => None,
        "TCP4" | "TCP6" => {
            let mut word = || words.next().ok_or(NoHeader);
            let (source, destination) = (word()?, word()?);
            let (source_port, destination_port) = (port(word()?)?, port(word()?)?);
            let address = |text: &str| -> Result<IpAddr, NoHeader> {
                if kind == "TCP4" {
                    text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| NoHeader)
                } else {
                    text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| NoHeader)
                }
            };
            let (source, _, _) = (address(source)?, address(destination)?, destination_port);
            if words.next().is_some() {
                return Err(NoHeader);
            }
            Some(SocketAddr::new(source, source_port))
        }
        _ => return Err(NoHeader),
    };
    Ok(Parsed::Header { length: end + 2, client })
}

fn port(text: &str) -> Result<u16, NoHeader> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(NoHeader)
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, NoHeader> {
    let (version, command) = (bytes[12] >> 4, bytes[12] & 15);
    let (family, transport) = (bytes[13] >> 4, bytes[13] & 15);
    let length = 16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if version != 2 || command > 1 || family > 3 || transport > 2 || length > V2_AT_MOST {
        return Err(NoHeader);
    }
    let Some(body) = bytes.get(16..length) else {
        return Ok(Parsed::Partial);
    };
    let port = |at: usize| -> Result<u16, NoHeader> {
        let two = body.get(at..at + 2).and_then(|b| <[u8; 2]>::try_from(b).ok());
        two.map(u16::from_be_bytes).ok_or(NoHeader)
    };
    let client = match (command, family) {
        (1, 1) => {
            let source: [u8; 4] = body.get(..4).and_then(|b| b.try_into().ok()).ok_or(NoHeader)?;
            port(10)?;
            Some(SocketAddr::new(IpAddr::from(source), port(8)?))
        }
        (1, 2) => {
            let source: [u8; 16] = body.get(..16).and_then(|b| b.try_into().ok()).ok_or(NoHeader)?;
            port(34)?;
            Some(SocketAddr::new(IpAddr::from(source), port(32)?))
        }
        _ => None,
    };
    Ok(Parsed::Header { length, client })
}

/// A header for a connection of `client` to `local`.
pub fn write(version: ProxyVersion, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let (source, destination) = match (client.ip().to_canonical(), local.ip().to_canonical()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (IpAddr::V4(a), IpAddr::V4(b)),
        (a, b) => (IpAddr::V6(to_v6(a)), IpAddr::V6(to_v6(b))),
    };
    match version {
        ProxyVersion::V1 => {
            let kind = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {kind} {source} {destination} {} {}\r\n", client.port(), local.port()).into_bytes()
        }
        ProxyVersion::V2 => {
            let mut out = SIGNATURE.to_vec();
            out.push(0x21);
            let (family, mut body) = match (source, destination) {
                (IpAddr::V4(a), IpAddr::V4(b)) => (0x11, [a.octets(), b.octets()].concat()),
                (a, b) => (0x21, [to_v6(a).octets(), to_v6(b).octets()].concat()),
            };
            body.extend_from_slice(&client.port().to_be_bytes());
            body.extend_from_slice(&local.port().to_be_bytes());
            out.push(family);
            out.extend_from_slice(&(body.len() as u16).to_be_bytes());
            out.extend_from_slice(&body);
            out
        }
    }
}

fn to_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = SocketAddr> {
        let ip = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
        (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(client in address(), local in address(), rest in any::<Vec<u8>>(), v1 in any::<bool>()) {
            let version = if v1 { ProxyVersion::V1 } else { ProxyVersion::V2 };
            let header = write(version, client, local);
            let mut bytes = header.clone();
            bytes.extend_from_slice(&rest);
            let Ok(Parsed::Header { length, client: Some(read) }) = parse(&bytes) else {
                return Err(TestCaseError::fail(format!("{:?}", parse(&bytes))));
            };
            prop_assert_eq!(length, header.len());
            prop_assert_eq!((read.ip().to_canonical(), read.port()), (client.ip().to_canonical(), client.port()));
            for cut in 0..header.len() {
                prop_assert_eq!(parse(&header[..cut]), Ok(Parsed::Partial), "cut at {}", cut);
            }
        }

        #[test]
        fn no_bytes_break_it(bytes in any::<Vec<u8>>()) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_bytes_after_a_right_beginning_break_it(rest in proptest::collection::vec(any::<u8>(), 0..300), v1 in any::<bool>()) {
            let mut bytes = if v1 { b"PROXY TCP4 ".to_vec() } else { SIGNATURE.to_vec() };
            bytes.extend_from_slice(&rest);
            if let Ok(Parsed::Header { length, .. }) = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }

    #[test]
    fn wrong_headers_are_refused() {
        for wrong in [
            "GET / HTTP/1.1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            "PROXY TCP9 1.2.3.4 1.2.3.4 1 2\r\n",
        ] {
            assert_eq!(parse(wrong.as_bytes()), Err(NoHeader), "{wrong}");
        }
        assert_eq!(parse(&[b"PROXY ".as_slice(), &[b'x'; 200]].concat()), Err(NoHeader));
        let unknown = parse(b"PROXY UNKNOWN ffff::1 x\r\nrest");
        assert_eq!(unknown, Ok(Parsed::Header { length: 25, client: None }));
    }
}
