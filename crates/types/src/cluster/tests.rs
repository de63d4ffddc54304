use super::*;
use serde_json::{Value, json};

fn spec(change: Value) -> ClusterSpec {
    let mut whole = json!({"name": "Web", "type": "load-balanced", "servers": ["a", "b"]});
    whole.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    serde_json::from_value(whole).unwrap()
}

#[test]
fn the_specifications_request_is_taken_and_what_it_leaves_out_filled_in() {
    let spec = spec(json!({
        "servers": ["server_1", "server_2", "server_3"],
        "loadBalancer": {"algorithm": "least-connections", "healthCheckInterval": 30, "healthCheckTimeout": 5},
        "autoScaling": {
            "enabled": true, "minServers": 2, "maxServers": 10, "targetCpuPercent": 70, "targetMemoryPercent": 80,
            "scaleUpCooldown": 300, "scaleDownCooldown": 600
        }
    }));
    assert!(spec.problems().is_empty() && spec.overlong().is_empty());
    assert_eq!(spec.servers[0], ClusterServer::Plain(ClusterServerKey::parse("server_1").unwrap()));
    let plain: ClusterSpec = serde_json::from_value(json!({"name": "x", "type": "high-availability", "servers": ["a"]})).unwrap();
    assert_eq!(
        serde_json::to_value(plain.load_balancer).unwrap(),
        json!({"algorithm": "round-robin", "healthCheckInterval": 30, "healthCheckTimeout": 5})
    );
    assert_eq!(plain.usual_check(), ClusterCheckType::Tcp);
}

#[test]
fn what_is_kept_reads_back_without_the_key() {
    let whole = spec(json!({
        "servers": ["a", {"id": "b", "port": 80, "weight": 3, "backup": true}],
        "tls": {"certificate": "PEM", "key": "hush", "serverNames": ["a.example"]},
        "serverTemplate": {"container": {"name": "web", "image": "nginx"}},
        "routes": [{"host": "a.example"}], "virtualAddress": {"address": "10.0.0.9"}
    }));
    assert!(whole.problems().is_empty(), "{:?}", whole.problems());
    let kept = serde_json::to_value(&whole).unwrap();
    assert!(!kept.to_string().contains("hush") && !format!("{whole:?}").contains("hush"));
    assert_eq!(kept["servers"], json!(["a", {"id": "b", "port": 80, "weight": 3, "backup": true}]));
    let back: ClusterSpec = serde_json::from_value(kept).unwrap();
    assert_eq!(back.servers, whole.servers);
}

#[test]
fn each_field_that_clashes_is_named() {
    for (change, field) in [
        (json!({"servers": ["a", "a"]}), "servers[1]"),
        (json!({"servers": ["a", {"id": "a", "port": 1}]}), "servers[1]"),
        (
            json!({"loadBalancer": {"healthCheckInterval": 10, "healthCheckTimeout": 20}}),
            "loadBalancer.healthCheckTimeout",
        ),
        (
            json!({"autoScaling": {"minServers": 5, "maxServers": 2, "targetCpuPercent": 50}}),
            "autoScaling.minServers",
        ),
        (json!({"autoScaling": {}}), "autoScaling.targetCpuPercent"),
        (
            json!({"type": "high-availability", "autoScaling": {"targetCpuPercent": 50}}),
            "autoScaling.enabled",
        ),
        (json!({"tls": {}}), "tls.certificate"),
        (json!({"tls": {"certificate": "PEM"}}), "tls.key"),
        (json!({"tls": {"key": "PEM"}}), "tls.certificate"),
        (
            json!({"tls": {"selfSigned": true, "certificate": "PEM", "key": "PEM"}}),
            "tls.selfSigned",
        ),
        (json!({"protocol": "tcp", "tls": {"selfSigned": true}}), "tls"),
        (json!({"tls": {"acme": {"termsOfServiceAgreed": true}}}), "tls.serverNames"),
        (
            json!({"tls": {"acme": {}, "serverNames": ["a.example"]}}),
            "tls.acme.termsOfServiceAgreed",
        ),
        (
            json!({"tls": {"acme": {"termsOfServiceAgreed": true}, "selfSigned": true, "serverNames": ["a.example"]}}),
            "tls.acme",
        ),
        (
            json!({"tls": {"acme": {"termsOfServiceAgreed": true}, "serverNames": ["a.example", "*.a.example"]}}),
            "tls.serverNames[1]",
        ),
        (
            json!({"tls": {"acme": {"termsOfServiceAgreed": true}, "serverNames": ["10.0.0.1"]}}),
            "tls.serverNames[0]",
        ),
        (
            json!({"tls": {"acme": {"termsOfServiceAgreed": true, "externalAccount": {"keyId": "a"}}, "serverNames": ["a.example"]}}),
            "tls.acme.externalAccount.hmacKey",
        ),
        (json!({"protocol": "tcp", "sticky": {}}), "sticky"),
        (json!({"protocol": "tcp", "routes": [{}]}), "routes"),
        (json!({"type": "high-availability", "sticky": {}}), "sticky"),
        (json!({"failback": {}}), "failback"),
        (json!({"entry": {"acceptProxyProtocol": true}}), "entry.trustedAddresses"),
        (json!({"upstream": {"queueTimeout": 5}}), "upstream.queueTimeout"),
        (json!({"protocol": "tcp", "entry": {"maxRequestBytes": 5}}), "entry.maxRequestBytes"),
        (
            json!({"protocol": "tcp", "upstream": {"responseTimeout": 5}}),
            "upstream.responseTimeout",
        ),
        (
            json!({"type": "high-availability", "servers": [{"id": "a", "backup": true}]}),
            "servers[0].backup",
        ),
        (json!({"redirectToHttps": {}}), "redirectToHttps"),
        (
            json!({"listenPort": 80, "tls": {"selfSigned": true}, "redirectToHttps": {}}),
            "redirectToHttps.listenPort",
        ),
        (
            json!({"routes": [{"host": "A.example"}, {"host": "a.example", "pathPrefix": "/"}]}),
            "routes[1]",
        ),
        (json!({"entryNodes": ["n", "n"]}), "entryNodes[1]"),
        (json!({"healthCheck": {"type": "tcp", "path": "/"}}), "healthCheck.path"),
        (
            json!({"healthCheck": {"expectedStatus": {"min": 300, "max": 200}}}),
            "healthCheck.expectedStatus.max",
        ),
        (json!({"virtualAddress": {"address": "127.0.0.1"}}), "virtualAddress.address"),
        (
            json!({"virtualAddress": {"address": "10.0.0.1", "prefix": 64}}),
            "virtualAddress.prefix",
        ),
        (
            json!({"serverTemplate": {"container": {"name": "a", "image": "b", "networks": ["x", "x"]}}}),
            "serverTemplate.container.networks[1]",
        ),
    ] {
        let fields: Vec<String> = spec(change.clone()).problems().into_iter().map(|p| p.field).collect();
        assert_eq!(fields, [field], "{change}");
    }
}

#[test]
fn fields_out_of_their_bounds_are_refused() {
    for change in [
        json!({"type": "x"}),
        json!({"servers": [5]}),
        json!({"servers": ["-"]}),
        json!({"servers": [{"id": "a", "nope": 1}]}),
        json!({"servers": [{"id": "a", "weight": 257}]}),
        json!({"loadBalancer": {"healthCheckInterval": 9}}),
        json!({"loadBalancer": {"healthCheckInterval": 301}}),
        json!({"loadBalancer": {"healthCheckTimeout": 61}}),
        json!({"loadBalancer": {"algorithm": "random"}}),
        json!({"autoScaling": {"minServers": 0}}),
        json!({"autoScaling": {"maxServers": 101}}),
        json!({"autoScaling": {"targetCpuPercent": 9}}),
        json!({"autoScaling": {"scaleUpCooldown": 59}}),
        json!({"listenPort": 0}),
        json!({"routes": [{"host": "a..b"}]}),
        json!({"routes": [{"pathPrefix": "a"}]}),
        json!({"routes": [{"pathPrefix": "/?"}]}),
        json!({"sticky": {"cookie": "a=b"}}),
        json!({"virtualAddress": {"address": "10.0.0.256"}}),
        json!({"entry": {"trustedAddresses": ["10.0.0.0/33"]}}),
        json!({"entry": {"headerTimeout": 0}}),
        json!({"upstream": {"sendProxyProtocol": "v3"}}),
        json!({"nope": 1}),
    ] {
        let mut whole = json!({"name": "Web", "type": "load-balanced", "servers": ["a"]});
        whole.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        assert!(serde_json::from_value::<ClusterSpec>(whole).is_err(), "{change}");
    }
    let none = spec(json!({"servers": []})).overlong();
    assert_eq!(none[0].field, "servers");
}

#[test]
fn what_an_acme_server_is_named_by() {
    use super::{AcmeDirectory, AcmeEmail, AcmeKeyId};
    let directory = |text: &str| text.parse::<AcmeDirectory>().is_ok();
    assert!(directory("https://ca.example/dir") && directory("https://[2001:db8::1]:9000/acme/x/directory?a=b"));
    for bad in [
        "",
        "https://",
        "http://ca.example/dir",
        "ca.example/dir",
        "https://ca.example/d r",
        "https://ca.example/#a",
        "file:///etc/passwd",
    ] {
        assert!(!directory(bad), "{bad}");
    }
    for (text, right) in [
        ("admin@example.com", true),
        ("a.b+c@mail.example", true),
        ("admin", false),
        ("@example.com", false),
        ("a b@example.com", false),
        ("a@b,mailto:c@d", false),
        ("a?subject=x@example.com", false),
    ] {
        assert_eq!(text.parse::<AcmeEmail>().is_ok(), right, "{text}");
    }
    assert!("kid-1".parse::<AcmeKeyId>().is_ok() && "a b".parse::<AcmeKeyId>().is_err());
    let made: ClusterSpec = serde_json::from_value(json!({
        "name": "a", "type": "load-balanced", "servers": ["a"], "tls": { "serverNames": ["a.example"], "acme": {
            "termsOfServiceAgreed": true, "externalAccount": { "keyId": "kid", "hmacKey": "hush" } } },
    }))
    .unwrap();
    assert!(made.problems().is_empty());
    assert!(!serde_json::to_string(&made).unwrap().contains("hush") && !format!("{made:?}").contains("hush"));
}

#[test]
fn a_database_takes_the_chapters_request_and_names_what_it_can_not_be() {
    let database = |change: Value| {
        let mut whole = json!({"type": "database", "servers": ["n1", "n2", "n3"], "loadBalancer": {"algorithm": "least-connections"}});
        whole.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        spec(whole)
    };
    let plain = database(json!({}));
    assert!(plain.problems().is_empty(), "{:?}", plain.problems());
    let by_default = plain.database();
    assert_eq!(
        (by_default.name(), by_default.is_synchronous(), by_default.read_lag_limit()),
        ("app", true, 30)
    );
    for (change, field) in [
        (json!({"autoScaling": {"targetCpuPercent": 50}}), "autoScaling.enabled"),
        (json!({"routes": [{"host": "a.example"}]}), "routes"),
        (json!({"slowStart": 5}), "slowStart"),
        (json!({"upstream": {"sendProxyProtocol": "v2"}}), "upstream.sendProxyProtocol"),
        (json!({"servers": [{"id": "n1", "port": 1}]}), "servers[0].port"),
        (json!({"database": {"version": 16}}), "database.version"),
        (
            json!({"database": {"parameters": {"archive_mode": "on"}}}),
            "database.parameters.archive_mode",
        ),
        (json!({"listenPort": 1, "database": {"readOnlyPort": 1}}), "database.readOnlyPort"),
    ] {
        let problems = database(change.clone()).problems();
        assert_eq!(problems.iter().map(|p| p.field.as_str()).collect::<Vec<_>>(), [field], "{change}");
    }
    let own = database(json!({"database": {"version": 16, "image": "own/postgres:16"}}));
    assert!(own.problems().is_empty());
    for wrong in [
        json!({"parameters": {"a": "1", "b c": "2"}}),
        json!({"name": "template0"}),
        json!({"extensions": ["A"]}),
    ] {
        let whole = json!({"name": "x", "type": "database", "servers": ["a"], "database": wrong});
        assert!(serde_json::from_value::<ClusterSpec>(whole).is_err());
    }
    let kept = serde_json::to_value(&own).unwrap();
    assert_eq!(serde_json::from_value::<ClusterSpec>(kept).unwrap(), own);
}
