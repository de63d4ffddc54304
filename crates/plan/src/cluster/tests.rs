use super::*;
use nm_types::cluster::{ClusterCheckType, ClusterProtocol, ClusterSpec};
use nm_types::container::PortMapping;
use nm_types::proxy::{Ejection, Failback, Limits, Mode, Probe, Protocol, ProxyVersion};
use nm_types::{ClusterId, NodeId};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

fn node(n: u8) -> NodeId {
    NodeId::parse(&format!("node_{n}_aaaaaaaaa")).unwrap()
}

fn id(n: u8) -> ClusterId {
    ClusterId::parse(&format!("cluster_{n}_aaaaaaaaa")).unwrap()
}

fn addresses() -> Addresses {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    [(node(1), ip("10.0.0.1")), (node(2), ip("10.0.0.2")), (node(3), ip("127.0.0.1"))].into()
}

fn container(on: u8, ports: Value) -> Target {
    let ports: Vec<PortMapping> = serde_json::from_value(ports).unwrap();
    Target::Container {
        node: node(on),
        node_name: format!("n{on}"),
        runs: true,
        networks: vec!["172.17.0.5".parse().unwrap()],
        host_network: false,
        wanted: ports.clone(),
        published: ports,
    }
}

fn reached(from: u8, target: &Target, port: Option<u16>) -> String {
    match reach(&node(from), target, port, &addresses()) {
        Ok(socket) => socket.to_string(),
        Err(why) => format!("no: {why}"),
    }
}

#[test]
fn where_a_server_is_reached() {
    let web = container(1, json!([{"container": 80, "host": 8080}]));
    let two = container(1, json!([{"container": 80, "host": 8080}, {"container": 443, "host": 8443}]));
    let inside = container(1, json!([{"container": 80, "host": 8080, "hostIp": "127.0.0.1"}]));
    let bound = container(1, json!([{"container": 80, "host": 8080, "hostIp": "192.168.0.7"}]));
    let udp = container(1, json!([{"container": 80, "host": 8080, "protocol": "udp"}]));
    let plain = container(1, json!([]));
    let mut stopped = web.clone();
    if let Target::Container { runs, .. } = &mut stopped {
        *runs = false;
    }
    let mut on_host = plain.clone();
    if let Target::Container {
        host_network, networks, ..
    } = &mut on_host
    {
        (*host_network, *networks) = (true, Vec::new());
    }
    let machine = |n: u8| Target::Node {
        node: node(n),
        name: format!("n{n}"),
        bridge: None,
    };
    let bridged = |n: u8| Target::Node {
        node: node(n),
        name: format!("n{n}"),
        bridge: Some("172.17.0.1".parse().unwrap()),
    };
    let registered = Target::Address {
        address: Ok("192.0.2.7".parse().unwrap()),
        port: Some(5432),
    };
    let metadata = Target::Address {
        address: Ok("169.254.169.254".parse().unwrap()),
        port: Some(80),
    };
    let unknown = Target::Address {
        address: Err("`db` can't be resolved".into()),
        port: Some(5432),
    };
    for (from, target, port, want) in [
        (1, &web, None, "172.17.0.5:80"),
        (2, &web, None, "10.0.0.1:8080"),
        (2, &web, Some(81), "its port 81 is not published on node n1"),
        (1, &web, Some(81), "172.17.0.5:81"),
        (1, &two, None, "the ports 80, 443: say which"),
        (2, &two, Some(443), "10.0.0.1:8443"),
        (1, &inside, None, "172.17.0.5:80"),
        (2, &inside, None, "publish the port"),
        (2, &bound, None, "192.168.0.7:8080"),
        (1, &udp, None, "publishes no port"),
        (2, &udp, Some(80), "publish the port"),
        (1, &plain, None, "publishes no port"),
        (1, &plain, Some(80), "172.17.0.5:80"),
        (2, &plain, Some(80), "publish the port"),
        (1, &stopped, None, "does not run"),
        (2, &on_host, Some(80), "10.0.0.1:80"),
        (1, &on_host, Some(80), "10.0.0.1:80"),
        (1, &machine(2), Some(80), "10.0.0.2:80"),
        (1, &machine(2), None, "name its `port`"),
        (3, &machine(3), Some(80), "127.0.0.1:80"),
        (1, &machine(3), Some(80), "give it a label `address`"),
        (1, &machine(4), Some(80), "not known yet"),
        (3, &bridged(3), Some(80), "172.17.0.1:80"),
        (1, &bridged(3), Some(80), "give it a label `address`"),
        (2, &bridged(2), Some(80), "10.0.0.2:80"),
        (1, &registered, None, "192.0.2.7:5432"),
        (1, &registered, Some(1), "192.0.2.7:1"),
        (1, &metadata, None, "no traffic is sent there"),
        (1, &unknown, None, "can't be resolved"),
        (1, &Target::Gone, Some(80), "no such server any more"),
    ] {
        let got = reached(from, target, port);
        assert!(
            got == want || (got.starts_with("no: ") && got.contains(want)),
            "{target:?} from {from}: {got}"
        );
    }
}

#[test]
fn status_by_the_share_that_is_up() {
    use ClusterStatus::{Critical, Degraded, Healthy, Offline};
    use ClusterType::{HighAvailability, LoadBalanced};
    for (kind, up, all, want) in [
        (LoadBalanced, 3, 3, Healthy),
        (LoadBalanced, 7, 10, Degraded),
        (LoadBalanced, 2, 3, Critical),
        (LoadBalanced, 69, 100, Critical),
        (LoadBalanced, 1, 2, Critical),
        (LoadBalanced, 1, 3, Offline),
        (LoadBalanced, 0, 3, Offline),
        (LoadBalanced, 0, 0, Offline),
        (HighAvailability, 1, 3, Critical),
        (HighAvailability, 0, 3, Offline),
    ] {
        assert_eq!(status(kind, up, all), want, "{up} of {all}");
    }
}

#[test]
fn entries_go_where_most_members_are_reached() {
    let candidate = |n: u8, ready: bool, reaches: usize| EntryCandidate {
        node: node(n),
        ready,
        reaches,
    };
    let all = vec![
        candidate(3, true, 1),
        candidate(2, true, 2),
        candidate(1, true, 2),
        candidate(4, false, 9),
    ];
    assert_eq!(choose_entries(all.clone(), 1), [node(1)]);
    assert_eq!(choose_entries(all, 2), [node(1), node(2)]);
    assert_eq!(choose_entries(vec![candidate(2, false, 0), candidate(1, false, 0)], 2), [node(1)]);
    assert!(choose_entries(Vec::new(), 2).is_empty());
}

fn spec(change: Value) -> ClusterSpec {
    let mut whole = json!({"name": "Web", "type": "load-balanced", "servers": ["a"]});
    whole.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let spec: ClusterSpec = serde_json::from_value(whole).unwrap();
    assert!(spec.problems().is_empty(), "{:?}", spec.problems());
    spec
}

#[test]
fn ports_are_shared_only_where_requests_can_be_told_apart() {
    let claims = |n: u8, change: Value, port: u16, nodes: &[u8]| {
        let nodes: Vec<NodeId> = nodes.iter().map(|n| node(*n)).collect();
        Claim::of(&id(n), &spec(change), port, &nodes)
    };
    let clashes = |a: &[Claim], b: &[Claim]| a.iter().any(|a| b.iter().any(|b| clash(a, b).is_some()));
    let a = |change| claims(1, change, 443, &[1, 2]);
    let host = |h: &str| json!({"routes": [{"host": h}]});
    let tls = |h: &str| json!({"routes": [{"host": h}], "tls": {"selfSigned": true}, "redirectToHttps": {}});
    for (one, other, want) in [
        (a(json!({})), claims(2, json!({}), 443, &[2]), true),
        (a(json!({})), claims(2, json!({}), 443, &[3]), false),
        (a(json!({})), claims(2, json!({}), 444, &[2]), false),
        (a(host("a.example")), claims(2, host("b.example"), 443, &[2]), false),
        (a(host("a.example")), claims(2, host("A.example"), 443, &[2]), true),
        (a(host("a.example")), claims(2, json!({}), 443, &[2]), false),
        (a(tls("a.example")), claims(2, host("b.example"), 443, &[2]), true),
        (a(tls("a.example")), claims(2, tls("b.example"), 443, &[2]), false),
        (a(tls("a.example")), claims(2, tls("b.example"), 444, &[2]), true),
        (a(tls("a.example")), claims(2, json!({}), 80, &[2]), true),
        (a(json!({"protocol": "tcp"})), claims(2, json!({}), 443, &[2]), true),
        // What holds before a request's host is known holds for both.
        (
            a(json!({"routes": [{"host": "a.example"}], "entry": {"headerTimeout": 5}})),
            claims(2, host("b.example"), 443, &[2]),
            true,
        ),
        (a(json!({})), a(json!({})), false),
    ] {
        assert_eq!(clashes(&one, &other), want, "{one:?} {other:?}");
        assert_eq!(clashes(&other, &one), want);
    }
    let taken: BTreeSet<u16> = (30_000..30_005).collect();
    assert_eq!(free_port(&taken), Some(30_005));
    assert_eq!(free_port(&(30_000..=32_767).collect()), None);
}

fn member(id: &str, target: Target) -> Member {
    Member {
        id: id.into(),
        port: None,
        weight: 1,
        backup: false,
        draining: false,
        target,
    }
}

#[test]
fn a_nodes_document_is_right_as_a_whole() {
    let members = [
        member("m1", container(1, json!([{"container": 80, "host": 8080}]))),
        member("m2", container(2, json!([{"container": 80, "host": 8080}]))),
        member("m3", container(2, json!([{"container": 80}]))),
        // The same place as the first, from elsewhere.
        member(
            "m4",
            Target::Address {
                address: Ok("10.0.0.1".parse().unwrap()),
                port: Some(8080),
            },
        ),
    ];
    let pair = KeyPair {
        certificate: "CERT".into(),
        key: "KEY".into(),
    };
    let entries = [node(1), node(2)];
    let only_one = [node(1)];
    let (web, shop, db) = (
        spec(
            json!({"tls": {"selfSigned": true, "serverNames": ["a.example"]}, "redirectToHttps": {}, "routes": [{"host": "a.example"}],
            "sticky": {}, "slowStart": 10, "retries": 0, "healthCheck": {"path": "/up"}}),
        ),
        spec(json!({"tls": {"selfSigned": true, "serverNames": ["A.example", "b.example"]}, "routes": [{"host": "b.example"}]})),
        spec(
            json!({"type": "high-availability", "protocol": "tcp", "failback": {"mode": "manual"},
            "entry": {"trustedAddresses": ["10.0.0.0/8"], "acceptProxyProtocol": true, "accessLog": true, "maxConnections": 9, "tunnelTimeout": 60},
            "upstream": {"sendProxyProtocol": "v2", "connectTimeout": 1, "maxConnections": 7, "ejectAfterErrors": 3, "ejectTime": 5}}),
        ),
    );
    let ids = [id(1), id(2), id(3)];
    let cluster = |n: usize, spec, port, entries| Cluster {
        id: &ids[n],
        spec,
        listen_port: port,
        entries,
        members: &members,
        pair: Some(&pair),
        challenges: None,
        database: None,
    };
    let all = [
        cluster(0, &web, 443, &entries[..]),
        cluster(1, &shop, 443, &entries[..]),
        cluster(2, &db, 5432, &only_one[..]),
    ];
    let one = proxy_config(&node(1), &all, &addresses(), 80);
    assert_eq!(one.validate(), Ok(()), "{one:#?}");
    let at: Vec<(&str, u16)> = one.listeners.iter().map(|l| (l.id.as_str(), l.port)).collect();
    assert_eq!(at, [("redirect-80", 80), ("http-443", 443), ("tcp-5432", 5432)]);
    let names: Vec<&[String]> = one.listeners[1]
        .tls
        .iter()
        .flat_map(|t| &t.certificates)
        .map(|c| c.server_names.as_slice())
        .collect();
    assert_eq!(
        names,
        [["a.example".to_owned()], ["b.example".to_owned()]],
        "a name has one certificate"
    );
    let sockets = |config: &nm_types::proxy::ProxyConfig, n: usize| {
        let members = &config.clusters[n].members;
        members.iter().map(|m| format!("{} {}", m.id, m.socket())).collect::<Vec<_>>()
    };
    assert_eq!(sockets(&one, 0), ["m1 172.17.0.5:80", "m2 10.0.0.2:8080", "m4 10.0.0.1:8080"]);
    let two = proxy_config(&node(2), &all, &addresses(), 80);
    assert_eq!(two.validate(), Ok(()));
    assert_eq!(
        sockets(&two, 0),
        ["m1 10.0.0.1:8080", "m2 172.17.0.5:80"],
        "one server at one place, and m3 beside m2"
    );
    assert_eq!(two.clusters.len(), 2, "the third has its entry elsewhere");
    let check = one.clusters[0].health_check.as_ref().unwrap();
    assert!(matches!(&check.probe, Probe::Http { path, .. } if path == "/up"));
    assert_eq!((check.interval_ms, check.timeout_ms, check.rise, check.fall), (30_000, 5_000, 1, 2));
    let any = ClusterSpec {
        protocol: ClusterProtocol::Http,
        ..db.clone()
    };
    let checked = effective_check(&any);
    let status = checked.expected_status.unwrap();
    assert_eq!((checked.kind, checked.interval.unwrap().get()), (Some(ClusterCheckType::Http), 2));
    assert_eq!((status.min.get(), status.max.get(), checked.fall.unwrap().get()), (200, 599, 1));
    let standby = one.clusters[2].health_check.as_ref().unwrap();
    assert_eq!(
        (standby.interval_ms, standby.timeout_ms, standby.rise, standby.fall),
        (1_000, 800, 2, 2)
    );
    let lost_after = standby.interval_ms + standby.timeout_ms + u32::from(standby.fall - 1) * standby.interval_ms;
    assert!(lost_after < 5_000, "{lost_after}");
    assert_eq!(
        one.clusters[2].mode,
        Mode::ActiveStandby {
            failback: Failback::Manual
        }
    );
    assert_eq!((one.clusters[0].retries, one.clusters[0].slow_start_ms), (0, 10_000));
    let tcp = &one.listeners[2];
    assert_eq!(
        (tcp.protocol, tcp.accept_proxy_protocol, tcp.access_log),
        (Protocol::Tcp, true, true)
    );
    assert!(tcp.trusted_addresses[0].contains("10.9.9.9".parse().unwrap()));
    assert_eq!((tcp.limits.max_connections, tcp.limits.tunnel_idle_timeout_ms), (9, 60_000));
    assert_eq!(one.listeners[1].limits, Limits::default());
    let db = &one.clusters[2];
    assert_eq!((db.connect_timeout_ms, db.send_proxy_protocol), (1_000, Some(ProxyVersion::V2)));
    assert_eq!(db.member_limit.map(|l| (l.max_connections, l.queue_timeout_ms)), Some((7, 5_000)));
    assert_eq!((db.ejection.connection_errors, db.ejection.time_ms), (3, 5_000));
    assert_eq!(one.clusters[0].ejection, Ejection::default());
    assert_eq!(
        proxy_config(&node(3), &all, &addresses(), 80),
        nm_types::proxy::ProxyConfig::default()
    );
    let naked = Cluster {
        pair: None,
        ..cluster(0, &web, 443, &entries[..])
    };
    let config = proxy_config(&node(1), &[naked], &addresses(), 80);
    assert!(
        config.listeners.iter().all(|l| l.port != 443),
        "never in the clear what was to be secret"
    );
    assert_eq!(effective_check(all[2].spec).interval.unwrap().get(), 1);
    assert_eq!(effective_check(&web).path.unwrap().as_str(), "/up");
}

#[test]
fn an_acme_server_is_answered_where_it_looks_for_as_long_as_it_does() {
    let members = [member("m1", container(1, json!([{"container": 80}])))];
    let pair = KeyPair {
        certificate: "CERT".into(),
        key: "KEY".into(),
    };
    let (entries, ids) = ([node(1), node(2)], [id(1), id(2)]);
    let challenges: Challenges = [("token".to_owned(), "token.thumb".to_owned())].into();
    let none = Challenges::new();
    let secured = json!({"tls": {"selfSigned": true, "serverNames": ["a.example"]}});
    let redirected = with_redirect(secured.clone());
    let plain = spec(json!({}));
    // What listens where it looks beside: nothing, a redirect, another cluster without TLS.
    for (body, beside, port, listeners) in [
        (secured.clone(), false, 80, &["acme-80", "http-443"][..]),
        (secured.clone(), false, 5002, &["http-443", "acme-5002"]),
        (redirected, false, 80, &["redirect-80", "http-443"]),
        (secured, true, 80, &["http-80", "http-443"]),
    ] {
        let spec = spec(body);
        let of = |n: usize, spec, listen_port, challenges| Cluster {
            id: &ids[n],
            spec,
            listen_port,
            entries: &entries,
            members: &members,
            pair: Some(&pair),
            challenges: Some(challenges),
            database: None,
        };
        let mut all = vec![of(0, &spec, 443, &challenges)];
        if beside {
            all.push(of(1, &plain, 80, &none));
        }
        for node in &entries {
            let config = proxy_config(node, &all, &addresses(), port);
            assert_eq!(config.validate(), Ok(()));
            assert_eq!(config.acme_challenges, challenges);
            let at: Vec<&str> = config.listeners.iter().map(|l| l.id.as_str()).collect();
            assert_eq!(at, listeners);
            let there = config.listeners.iter().find(|l| l.port == port).unwrap();
            assert!(there.tls.is_none() && there.protocol == Protocol::Http);
        }
        all[0].challenges = Some(&none);
        let after = proxy_config(&entries[0], &all, &addresses(), port);
        assert!(after.acme_challenges.is_empty() && after.listeners.iter().all(|l| !l.id.starts_with("acme")));
    }
}

fn with_redirect(mut body: Value) -> Value {
    body["redirectToHttps"] = json!({});
    body
}

#[test]
fn a_database_has_an_entry_for_writes_and_one_for_reads() {
    let request = spec(json!({"type": "database", "protocol": "tcp", "database": {"readOnlyPort": 30001}}));
    let of = |n: u8| Member {
        id: format!("m{n}"),
        port: Some(30002),
        weight: 1,
        backup: false,
        draining: false,
        target: Target::Node {
            node: node(n),
            name: format!("n{n}"),
            bridge: None,
        },
    };
    let (members, entries, id) = ([of(1), of(2)], [node(1), node(2)], id(7));
    let database = Cluster {
        id: &id,
        spec: &request,
        listen_port: 30000,
        entries: &entries,
        members: &members,
        pair: None,
        challenges: None,
        database: Some(DatabasePorts {
            read_only: 30001,
            check: 30006,
        }),
    };
    let config = proxy_config(&node(1), &[database], &addresses(), 80);
    assert_eq!(config.validate(), Ok(()), "{config:#?}");
    let listeners: Vec<(u16, Option<&str>)> = config.listeners.iter().map(|l| (l.port, l.cluster.as_deref())).collect();
    let reads = reads_of(&id);
    assert_eq!(listeners, [(30000, Some(id.as_str())), (30001, Some(reads.as_str()))]);
    for (cluster, path) in config.clusters.iter().zip(["/primary", "/replica"]) {
        let check = cluster.health_check.as_ref().unwrap();
        assert!(matches!(&check.probe, Probe::Http { path: p, .. } if p == path), "{check:?}");
        assert_eq!(
            (check.port, check.strict, check.interval_ms, check.fall),
            (Some(30006), true, 1000, 2)
        );
        assert!(cluster.members.iter().all(|m| m.port == 30002));
    }
    assert_eq!(cluster_of_id(&reads), Some((id.clone(), true)));
    assert_eq!(cluster_of_id(id.as_str()), Some((id.clone(), false)));
    assert_eq!(cluster_of_id("nobody-reads"), None);
    // Both ports are its own.
    let claims = Claim::of(&id, &request, 30000, &entries);
    assert_eq!(claims.iter().map(|c| c.port).collect::<Vec<_>>(), [30000, 30001]);
    for (up, wanted) in [
        (2, ClusterStatus::Healthy),
        (1, ClusterStatus::Critical),
        (0, ClusterStatus::Offline),
    ] {
        assert_eq!(status(ClusterType::Database, up, 2), wanted);
    }
    assert_eq!(
        status(ClusterType::Database, 1, 3),
        ClusterStatus::Critical,
        "the one takes all writes"
    );
}
