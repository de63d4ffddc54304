//! Is a configuration right as a whole? Each problem names its field.

use super::*;
use crate::envelope::FieldProblem;
use std::collections::HashSet;

/// The longest time a configuration may ask for: a day.
const LONGEST_MS: u32 = 86_400_000;

impl ProxyConfig {
    /// Every field that is wrong, by its path in the document; certificates are read elsewhere.
    pub fn validate(&self) -> Result<(), Vec<FieldProblem>> {
        let mut problems = Problems(Vec::new());
        let p = &mut problems;
        let (mut ids, mut sockets) = (HashSet::new(), HashSet::new());
        for (i, listener) in self.listeners.iter().enumerate() {
            let at = format!("listeners[{i}]");
            p.id(&format!("{at}.id"), &listener.id, &mut ids);
            p.check(
                sockets.insert((listener.address, listener.port)),
                format!("{at}.port"),
                "another listener has this address and port",
            );
            self.listener(p, &at, listener);
        }
        let mut ids = HashSet::new();
        for (i, cluster) in self.clusters.iter().enumerate() {
            let at = format!("clusters[{i}]");
            p.id(&format!("{at}.id"), &cluster.id, &mut ids);
            check_cluster(p, &at, cluster);
        }
        for (token, answer) in &self.acme_challenges {
            let base64url = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            let right = !token.is_empty() && token.len() <= 256 && token.chars().all(base64url);
            let answer_right = answer.len() <= 512 && answer.chars().all(|c| base64url(c) || c == '.');
            p.check(
                right && answer_right,
                format!("acmeChallenges.{token}"),
                "a token and its key authorization are letters, digits, `-`, `_` and, in the authorization, `.`",
            );
        }
        if problems.0.is_empty() { Ok(()) } else { Err(problems.0) }
    }

    fn listener(&self, p: &mut Problems, at: &str, listener: &Listener) {
        p.check(listener.port > 0, format!("{at}.port"), "a port is 1 to 65535");
        let known = |id: &String| self.clusters.iter().any(|c| &c.id == id);
        match listener.protocol {
            Protocol::Tcp => {
                p.check(
                    listener.tls.is_none(),
                    format!("{at}.tls"),
                    "a listener for TCP passes TLS on as it is",
                );
                p.check(
                    listener.routes.is_empty(),
                    format!("{at}.routes"),
                    "a listener for TCP has `cluster`",
                );
                p.check(
                    listener.redirect_to_https.is_none(),
                    format!("{at}.redirectToHttps"),
                    "only a listener for HTTP can redirect",
                );
                match &listener.cluster {
                    None => p.add(format!("{at}.cluster"), "name the cluster that connections go to"),
                    Some(id) if !known(id) => p.add(format!("{at}.cluster"), &format!("there is no cluster `{id}`")),
                    Some(id) => {
                        let sticky = self.clusters.iter().any(|c| &c.id == id && c.sticky.is_some());
                        p.check(!sticky, format!("{at}.cluster"), "its sticky cookie needs a listener for HTTP");
                    }
                }
            }
            Protocol::Http => {
                p.check(
                    listener.cluster.is_none(),
                    format!("{at}.cluster"),
                    "a listener for HTTP has `routes`",
                );
                if listener.redirect_to_https.is_some() {
                    p.check(
                        listener.tls.is_none() && listener.routes.is_empty(),
                        format!("{at}.redirectToHttps"),
                        "a listener that redirects has neither `tls` nor `routes`",
                    );
                }
            }
        }
        let mut seen = HashSet::new();
        for (i, route) in listener.routes.iter().enumerate() {
            let at = format!("{at}.routes[{i}]");
            if let Some(host) = &route.host {
                p.check(is_host_pattern(host), format!("{at}.host"), HOST_RULE);
            }
            let path = &route.path_prefix;
            p.check(
                is_path(path) && !path.contains(['?', '#']),
                format!("{at}.pathPrefix"),
                "a path prefix begins with `/` and has no spaces, control characters, `?` or `#`",
            );
            p.check(
                known(&route.cluster),
                format!("{at}.cluster"),
                &format!("there is no cluster `{}`", route.cluster),
            );
            let key = (route.host.as_ref().map(|h| h.to_ascii_lowercase()), path);
            p.check(seen.insert(key), at, "another route has this host and path prefix");
        }
        if let Some(tls) = listener.tls.as_ref().filter(|_| listener.protocol == Protocol::Http) {
            p.check(
                !tls.certificates.is_empty(),
                format!("{at}.tls.certificates"),
                "TLS needs a certificate",
            );
            let mut names = HashSet::new();
            for (i, certificate) in tls.certificates.iter().enumerate() {
                let at = format!("{at}.tls.certificates[{i}]");
                for (j, name) in certificate.server_names.iter().enumerate() {
                    let at = format!("{at}.serverNames[{j}]");
                    p.check(is_host_pattern(name), at.clone(), HOST_RULE);
                    p.check(names.insert(name.to_ascii_lowercase()), at, "another certificate has this name");
                }
                if let CertificateSource::Files { certificate, key } = &certificate.source {
                    for (field, path) in [("certificate", certificate), ("key", key)] {
                        let right = path.starts_with('/') && !path.contains('\0');
                        p.check(right, format!("{at}.source.files.{field}"), "a file is named by its whole path");
                    }
                }
            }
        }
        p.check(
            !listener.accept_proxy_protocol || !listener.trusted_addresses.is_empty(),
            format!("{at}.trustedAddresses"),
            "say from where PROXY protocol headers are believed",
        );
        limits(p, at, &listener.limits);
    }
}

fn limits(p: &mut Problems, at: &str, limits: &Limits) {
    let at = format!("{at}.limits");
    p.within(format!("{at}.maxConnections"), limits.max_connections, 1, 1_000_000);
    p.within(format!("{at}.headerTimeoutMs"), limits.header_timeout_ms, 100, 600_000);
    p.within(format!("{at}.maxHeaderBytes"), limits.max_header_bytes, 8 << 10, 1 << 20);
    p.within(format!("{at}.keepAliveTimeoutMs"), limits.keep_alive_timeout_ms, 100, LONGEST_MS);
    p.within(format!("{at}.bodyIdleTimeoutMs"), limits.body_idle_timeout_ms, 100, LONGEST_MS);
    p.within(
        format!("{at}.tunnelIdleTimeoutMs"),
        limits.tunnel_idle_timeout_ms,
        1_000,
        7 * LONGEST_MS,
    );
}

fn check_cluster(p: &mut Problems, at: &str, cluster: &Cluster) {
    if let Some(limit) = &cluster.member_limit {
        p.within(format!("{at}.memberLimit.maxConnections"), limit.max_connections, 1, 1_000_000);
        p.within(format!("{at}.memberLimit.queueTimeoutMs"), limit.queue_timeout_ms, 1, LONGEST_MS);
    }
    let (mut ids, mut sockets) = (HashSet::new(), HashSet::new());
    p.check(
        cluster.members.len() <= 1_000,
        format!("{at}.members"),
        "a cluster has at most 1000 members",
    );
    for (i, member) in cluster.members.iter().enumerate() {
        let at = format!("{at}.members[{i}]");
        p.id(&format!("{at}.id"), &member.id, &mut ids);
        p.check(member.port > 0, format!("{at}.port"), "a port is 1 to 65535");
        p.check(
            sockets.insert(member.socket()),
            at.clone(),
            "another member has this address and port",
        );
        p.check(
            !member.address.is_unspecified() && !member.address.is_multicast(),
            format!("{at}.address"),
            "a member has an address of its own",
        );
        p.check(member.weight <= 256, format!("{at}.weight"), "a weight is 0 to 256");
        if matches!(cluster.mode, Mode::ActiveStandby { .. }) {
            p.check(
                !member.backup,
                format!("{at}.backup"),
                "in active-standby the order of the list says who is next",
            );
        }
    }
    if let Mode::ActiveStandby {
        failback: Failback::Automatic { after_ms },
    } = cluster.mode
    {
        p.within(format!("{at}.mode.failback.afterMs"), after_ms, 0, LONGEST_MS);
    }
    if let Some(sticky) = &cluster.sticky {
        let name = &sticky.cookie;
        let token = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        p.check(
            !name.is_empty() && name.len() <= 64 && name.bytes().all(token),
            format!("{at}.sticky.cookie"),
            "a cookie's name has 1 to 64 letters, digits, `_`, `-` or `.`",
        );
        p.check(
            matches!(cluster.mode, Mode::Balanced),
            format!("{at}.sticky"),
            "active-standby has one member for all clients",
        );
    }
    if let Some(check) = &cluster.health_check {
        let at = format!("{at}.healthCheck");
        p.within(format!("{at}.intervalMs"), check.interval_ms, 100, 3_600_000);
        p.within(format!("{at}.timeoutMs"), check.timeout_ms, 10, 600_000);
        p.check(
            check.timeout_ms < check.interval_ms,
            format!("{at}.timeoutMs"),
            "the timeout is less than the interval",
        );
        p.within(format!("{at}.rise"), u32::from(check.rise), 1, 100);
        p.within(format!("{at}.fall"), u32::from(check.fall), 1, 100);
        if let Probe::Http {
            path,
            expected_status,
            host,
        } = &check.probe
        {
            p.check(
                is_path(path),
                format!("{at}.probe.path"),
                "a path begins with `/` and has no spaces or control characters",
            );
            let StatusRange { min, max } = *expected_status;
            p.check(
                (200..=599).contains(&min) && (min..=599).contains(&max),
                format!("{at}.probe.expectedStatus"),
                "a range of statuses lies within 200 to 599",
            );
            if let Some(host) = host {
                let right = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
                p.check(
                    !host.is_empty() && host.len() <= 255 && host.bytes().all(right),
                    format!("{at}.probe.host"),
                    "a host is a name or an address, and a port where it is not 80",
                );
            }
        }
    }
    p.within(format!("{at}.ejection.timeMs"), cluster.ejection.time_ms, 100, LONGEST_MS);
    p.within(format!("{at}.slowStartMs"), cluster.slow_start_ms, 0, LONGEST_MS);
    p.within(format!("{at}.retries"), u32::from(cluster.retries), 0, 10);
    p.within(format!("{at}.connectTimeoutMs"), cluster.connect_timeout_ms, 10, 600_000);
    p.within(format!("{at}.responseTimeoutMs"), cluster.response_timeout_ms, 10, LONGEST_MS);
}

const HOST_RULE: &str = "a host is a name as `app.example.com`, or `*.example.com`, or an address, without a port";

fn is_host_pattern(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let label = |l: &str| {
        (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') && !l.starts_with('-')
    };
    let address = text
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<std::net::IpAddr>()
        .is_ok();
    text.len() <= 253 && (address || name.split('.').all(label))
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic())
}

struct Problems(Vec<FieldProblem>);

impl Problems {
    fn add(&mut self, field: String, message: &str) {
        self.0.push(FieldProblem {
            field,
            message: message.to_owned(),
        });
    }
    fn check(&mut self, right: bool, field: String, message: &str) {
        if !right {
            self.add(field, message);
        }
    }
    fn within(&mut self, field: String, value: u32, min: u32, max: u32) {
        self.check((min..=max).contains(&value), field, &format!("expected {min} to {max}"));
    }
    fn id<'a>(&mut self, field: &str, id: &'a str, seen: &mut HashSet<&'a str>) {
        let right = |b: u8| b.is_ascii_alphanumeric() || b"_-.:".contains(&b);
        self.check(
            (1..=128).contains(&id.len()) && id.bytes().all(right),
            field.to_owned(),
            "an id has 1 to 128 letters, digits, `_`, `-`, `.` or `:`",
        );
        self.check(seen.insert(id), field.to_owned(), &format!("`{id}` is there twice"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn document() -> Value {
        json!({
            "generation": 3,
            "listeners": [
                {"id": "web", "address": "127.0.0.1", "port": 8080, "protocol": "http", "routes": [{"cluster": "a"}]},
                {"id": "db", "address": "127.0.0.1", "port": 5432, "protocol": "tcp", "cluster": "b"},
            ],
            "clusters": [
                {"id": "a", "algorithm": "ip-hash", "sticky": {"cookie": "nm"},
                 "healthCheck": {"probe": {"type": "http", "path": "/healthz"}},
                 "members": [{"id": "m1", "address": "127.0.0.1", "port": 1}, {"id": "m2", "address": "127.0.0.1", "port": 2}]},
                {"id": "b", "mode": {"type": "active-standby", "failback": {"type": "automatic", "afterMs": 0}},
                 "members": [{"id": "m1", "address": "::1", "port": 1}]},
            ],
        })
    }

    fn fields(value: Value) -> Vec<String> {
        let config: ProxyConfig = serde_json::from_value(value).unwrap();
        config.validate().err().unwrap_or_default().into_iter().map(|p| p.field).collect()
    }

    #[test]
    fn a_document_survives_the_way_through_json() {
        let config: ProxyConfig = serde_json::from_value(document()).unwrap();
        assert_eq!(config.validate(), Ok(()));
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ProxyConfig>(&text).unwrap(), config);
    }

    #[test]
    fn every_wrong_field_is_named() {
        let table: Vec<(&str, Value, &str)> = vec![
            ("/listeners/0/port", json!(0), "listeners[0].port"),
            ("/listeners/0/id", json!("a b"), "listeners[0].id"),
            ("/listeners/1/id", json!("web"), "listeners[1].id"),
            ("/listeners/1/port", json!(8080), "listeners[1].port"),
            ("/listeners/0/cluster", json!("a"), "listeners[0].cluster"),
            ("/listeners/1/cluster", json!("none"), "listeners[1].cluster"),
            ("/listeners/1/cluster", json!("a"), "listeners[1].cluster"),
            ("/listeners/1/tls", json!({"certificates": []}), "listeners[1].tls"),
            ("/listeners/0/tls", json!({"certificates": []}), "listeners[0].tls.certificates"),
            ("/listeners/0/routes/0/cluster", json!("none"), "listeners[0].routes[0].cluster"),
            ("/listeners/0/routes/0/host", json!("a..b"), "listeners[0].routes[0].host"),
            ("/listeners/0/routes/0/pathPrefix", json!("x"), "listeners[0].routes[0].pathPrefix"),
            ("/listeners/0/redirectToHttps", json!({}), "listeners[0].redirectToHttps"),
            ("/listeners/0/acceptProxyProtocol", json!(true), "listeners[0].trustedAddresses"),
            (
                "/listeners/0/limits",
                json!({"maxConnections": 0}),
                "listeners[0].limits.maxConnections",
            ),
            ("/clusters/1/id", json!("a"), "clusters[1].id"),
            ("/clusters/0/members/1/id", json!("m1"), "clusters[0].members[1].id"),
            ("/clusters/0/members/1/port", json!(1), "clusters[0].members[1]"),
            ("/clusters/0/members/1/weight", json!(257), "clusters[0].members[1].weight"),
            ("/clusters/0/members/1/address", json!("0.0.0.0"), "clusters[0].members[1].address"),
            ("/clusters/1/members/0/backup", json!(true), "clusters[1].members[0].backup"),
            ("/clusters/0/sticky/cookie", json!("a=b"), "clusters[0].sticky.cookie"),
            (
                "/clusters/0/healthCheck/timeoutMs",
                json!(2000),
                "clusters[0].healthCheck.timeoutMs",
            ),
            ("/clusters/0/healthCheck/rise", json!(0), "clusters[0].healthCheck.rise"),
            (
                "/clusters/0/healthCheck/probe/path",
                json!("x"),
                "clusters[0].healthCheck.probe.path",
            ),
            (
                "/clusters/0/healthCheck/probe/host",
                json!("a\r\nb"),
                "clusters[0].healthCheck.probe.host",
            ),
            ("/clusters/0/retries", json!(11), "clusters[0].retries"),
            ("/acmeChallenges", json!({"../x": "y"}), "acmeChallenges.../x"),
        ];
        for (pointer, value, field) in table {
            let mut document = document();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            document.pointer_mut(parent).unwrap()[key] = value;
            let found = fields(document);
            assert!(found.iter().any(|f| f == field), "{pointer}: {found:?}");
        }
    }

    #[test]
    fn an_unknown_field_is_refused_and_a_key_is_not_shown() {
        for pointer in [
            "",
            "/listeners/0",
            "/clusters/0",
            "/clusters/0/members/0",
            "/clusters/0/healthCheck",
            "/clusters/1/mode",
        ] {
            let mut document = document();
            document.pointer_mut(pointer).unwrap()["typo"] = json!(1);
            assert!(serde_json::from_value::<ProxyConfig>(document).is_err(), "{pointer}");
        }
        assert!(!format!("{:?}", PrivateKey("secret".into())).contains("secret"));
    }
}
