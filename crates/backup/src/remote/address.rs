//! Which hosts may be connected to. The rule is the control plane's own: this machine, the link, and the metadata services of clouds
//! are not, unless they are allowed by name; private networks are, since servers live there.

use crate::failure::{Result, failed};
use nm_types::{
    address::{Special, innermost},
    backup::job::{JobError, JobErrorCode},
    proxy::Network,
};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// The addresses of a host that may be connected to. A name is resolved here and never again.
pub fn judge(host: &str, port: u16, allow: &[String]) -> Result<Vec<SocketAddr>> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let found: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => (bare, port)
            .to_socket_addrs()
            .map_err(|error| {
                failed(
                    JobErrorCode::Unreachable,
                    format!("The host {host} has no address: {error}. Check its name."),
                )
            })?
            .collect(),
    };
    let named = allow.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(bare));
    let mut refused = None;
    let mut good = Vec::new();
    for address in found {
        match Special::of(address.ip()) {
            Some(special) if !(named || is_allowed(address.ip(), allow)) => refused = Some(not_allowed(host, address.ip(), special)),
            _ => good.push(address),
        }
    }
    if good.is_empty() {
        return Err(refused.unwrap_or_else(|| {
            failed(
                JobErrorCode::Unreachable,
                format!("The host {host} has no address. Check its name."),
            )
        }));
    }
    Ok(good)
}

fn is_allowed(ip: IpAddr, allow: &[String]) -> bool {
    let mut networks = allow.iter().filter_map(|text| Network::parse(text).ok());
    networks.any(|network| network.contains(ip) || network.contains(innermost(ip)))
}

fn not_allowed(host: &str, ip: IpAddr, special: Special) -> JobError {
    failed(
        JobErrorCode::Forbidden,
        format!(
            "{host} leads to {ip}, which is {}: no backup goes there unless an admin allows it.",
            special.describe()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_refused_unless_they_are_allowed() {
        let judged = |host: &str, allow: &[&str]| {
            let allow: Vec<String> = allow.iter().map(|text| (*text).to_owned()).collect();
            judge(host, 443, &allow).map(|found| !found.is_empty()).map_err(|error| error.code)
        };
        for host in [
            "127.0.0.1",
            "localhost",
            "[::1]",
            "169.254.169.254",
            "::ffff:127.0.0.1",
            "[fe80::1]",
            "0.0.0.0",
            "168.63.129.16",
        ] {
            assert_eq!(judged(host, &[]), Err(JobErrorCode::Forbidden), "{host}");
            assert_eq!(judged(host, &["*"]), Ok(true), "{host}");
            assert_eq!(judged(host, &["10.0.0.1", "elsewhere"]), Err(JobErrorCode::Forbidden), "{host}");
        }
        for host in ["10.1.2.3", "192.168.0.4", "203.0.113.9", "[2001:db8::1]"] {
            assert_eq!(judged(host, &[]), Ok(true), "{host}");
        }
        assert_eq!(judged("localhost", &["LOCALHOST"]), Ok(true));
        assert_eq!(judged("::ffff:127.0.0.1", &["127.0.0.1"]), Ok(true));
        // As the control plane is told them.
        assert_eq!(judged("127.0.0.1", &["127.0.0.0/8"]), Ok(true));
        assert_eq!(judged("::ffff:127.0.0.1", &["127.0.0.1/32"]), Ok(true));
        assert_eq!(judged("[::1]", &["127.0.0.0/8"]), Err(JobErrorCode::Forbidden));
        assert_eq!(judged("no such host", &["*"]), Err(JobErrorCode::Unreachable));
    }
}
