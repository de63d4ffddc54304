//! What `GET /metrics` tells, read by a strict reader and, where it is installed, by Prometheus' own tool; and that the
//! dashboard and the alerts under `contrib/` ask for nothing else.

use nm_link::contract::WatchEvent;
use nm_testing::{Client, FakeAgent, TestControlPlane, eventually};
use nm_types::Timestamp;
use nm_types::auth::Role;
use nm_types::cluster::ClusterView;
use nm_types::container::ContainerHealth;
use nm_types::host::{DiskStats, MemoryStats, NetworkStats, NodeStats, PressureStats};
use nm_types::proxy::MemberState;
use nm_types::stats::Usage;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

/// One sample: its labels, unescaped, and its value.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    labels: BTreeMap<String, String>,
    value: f64,
}

/// What was read: samples by their names, and the type of each family.
#[derive(Debug, Default)]
struct Exposed {
    samples: BTreeMap<String, Vec<Sample>>,
    types: BTreeMap<String, String>,
}

impl Exposed {
    /// The value of the one sample of this name that has these labels.
    #[track_caller]
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found: Vec<f64> = self.all(name, labels).map(|s| s.value).collect();
        assert_eq!(found.len(), 1, "{name}{labels:?}: {:?}", self.samples.get(name));
        found[0]
    }
    fn all(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        let has = move |s: &&Sample| labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|l| l == v));
        self.samples.get(name).into_iter().flatten().filter(has)
    }
    fn names(&self) -> BTreeSet<&str> {
        self.samples.keys().map(String::as_str).collect()
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `name{label="value",…} value`
fn sample(line: &str) -> (String, Sample) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let name = &line[..end];
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    let mut rest = &line[end..];
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            let (label, after) = inner.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            assert!(is_name(label), "{label} in {line}");
            let (mut value, mut escaped, mut end) = (String::new(), false, None);
            for (at, c) in after.char_indices() {
                match (escaped, c) {
                    (true, 'n') => value.push('\n'),
                    (true, '\\' | '"') => value.push(c),
                    (true, _) => panic!("\\{c} is no escape: {line}"),
                    (false, '"') => {
                        end = Some(at);
                        break;
                    }
                    (false, '\\') => {}
                    (false, c) => value.push(c),
                }
                escaped = !escaped && c == '\\';
            }
            let end = end.unwrap_or_else(|| panic!("no end of a value: {line}"));
            assert!(labels.insert(label.to_owned(), value).is_none(), "{label} twice: {line}");
            inner = &after[end + 1..];
            match inner.strip_prefix(',') {
                Some(next) => inner = next,
                None => {
                    rest = inner.strip_prefix('}').unwrap_or_else(|| panic!("no end of the labels: {line}"));
                    break;
                }
            }
        }
    }
    let value = rest
        .strip_prefix(' ')
        .unwrap_or_else(|| panic!("no blank before the value: {line}"));
    let value: f64 = match value {
        "+Inf" => f64::INFINITY,
        number => number.parse().unwrap_or_else(|e| panic!("{e}: {line}")),
    };
    (name.to_owned(), Sample { labels, value })
}

/// Reads a text by the rules of its format, of which it must break none.
fn read(text: &str, open: bool) -> Exposed {
    let mut exposed = Exposed::default();
    let body = if open {
        text.strip_suffix("# EOF\n").expect("OpenMetrics ends in # EOF")
    } else {
        text
    };
    assert!(body.ends_with('\n'), "the last line has no end");
    let (mut family, mut kind) = (String::new(), String::new());
    let mut seen = HashSet::new();
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (word, name, text) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            match word {
                "HELP" => {
                    assert!(seen.insert(name.to_owned()), "{name} comes twice");
                    assert!(is_name(name) && text.len() > 3, "{line}");
                    family = name.to_owned();
                }
                "TYPE" => {
                    assert_eq!(family, name, "{line}");
                    kind = text.to_owned();
                    exposed.types.insert(name.to_owned(), text.to_owned());
                }
                "UNIT" => {
                    assert!(open && family == name && name.ends_with(&format!("_{text}")), "{line}");
                }
                other => panic!("{other}: {line}"),
            }
            continue;
        }
        let (name, sample) = sample(line);
        let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{name} is not of {family}"));
        match (kind.as_str(), open) {
            ("gauge", _) => assert_eq!(suffix, "", "{line}"),
            ("counter", true) => assert!(suffix == "_total" && sample.value >= 0.0, "{line}"),
            ("counter", false) => assert!(suffix.is_empty() && name.ends_with("_total") && sample.value >= 0.0, "{line}"),
            ("info", true) => assert!(suffix == "_info" && sample.value == 1.0, "{line}"),
            ("histogram", _) => assert!(matches!(suffix, "_bucket" | "_sum" | "_count"), "{line}"),
            other => panic!("{other:?}: {line}"),
        }
        let of_name = exposed.samples.entry(name).or_default();
        of_name.push(sample);
    }
    for (name, samples) in &exposed.samples {
        let distinct: HashSet<String> = samples.iter().map(|s| format!("{:?}", s.labels)).collect();
        assert_eq!(distinct.len(), samples.len(), "{name} has a series twice");
    }
    histograms_are_whole(&exposed);
    exposed
}

fn histograms_are_whole(exposed: &Exposed) {
    for name in exposed.types.iter().filter(|(_, t)| *t == "histogram").map(|(n, _)| n) {
        let mut last: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for bucket in exposed.samples.get(&format!("{name}_bucket")).into_iter().flatten() {
            let mut labels = bucket.labels.clone();
            let bound = match labels.remove("le").expect("a bucket has a bound").as_str() {
                "+Inf" => f64::INFINITY,
                bound => bound.parse().unwrap(),
            };
            let before = last.insert(format!("{labels:?}"), (bound, bucket.value));
            assert!(before.is_none_or(|(b, n)| b < bound && n <= bucket.value), "{name}: {bucket:?}");
        }
        for count in exposed.samples.get(&format!("{name}_count")).into_iter().flatten() {
            assert_eq!(last[&format!("{:?}", count.labels)], (f64::INFINITY, count.value), "{name}");
        }
    }
}

async fn text(client: &Client, query: &str, accept: &str) -> String {
    let reply = client.get(format!("/metrics{query}")).header("accept", accept).await.is(200);
    let expected = if accept == PROMETHEUS {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    assert_eq!(reply.header("content-type"), Some(expected));
    String::from_utf8(reply.body.to_vec()).unwrap()
}

async fn exposed(client: &Client) -> Exposed {
    read(&text(client, "", PROMETHEUS).await, true)
}

fn machine() -> NodeStats {
    NodeStats {
        cpu: 42.5,
        load: [1.5, 1.0, 0.5],
        memory: MemoryStats {
            total: 8 << 30,
            available: 6 << 30,
            swap_total: 1 << 30,
            swap_used: 4096,
        },
        disks: vec![disk("/", 700), disk("/mnt/a \"b\"\\\nc", 1), disk("/twice", 1), disk("/twice", 2)],
        network: NetworkStats {
            rx: 1 << 40,
            tx: 7,
            packets: 9,
            errors: 1,
            dropped: 2,
        },
        pressure: Some(PressureStats {
            cpu_some: 12.5,
            ..PressureStats::default()
        }),
        temperature: Some(61.5),
        uptime: 3600,
        timestamp: Timestamp(1_770_000_000_000),
    }
}

fn disk(mount: &str, used: u64) -> DiskStats {
    DiskStats {
        mount: mount.into(),
        device: "/dev/sda1".into(),
        kind: "ext4".into(),
        total: 1000,
        used,
        available: 300,
        inodes: 100,
        inodes_used: 10,
        read_only: false,
    }
}

/// A fleet in which there is something of everything that can be told.
async fn busy() -> (TestControlPlane, FakeAgent) {
    let plane = TestControlPlane::sqlite().await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let admin = plane.admin().await;
    let spec = json!({ "name": "web", "image": "nginx:latest", "start": true, "cpuLimit": 1.5, "memoryLimit": "512m" });
    let container = admin.create(&spec).await;
    agent.uses(container.id.as_str(), Usage { cpu: 150.0, memory: 64.0 });
    agent.docker_run("foreign \"one\"\\", "redis:7");
    let label = json!({ "labels": { "address": "10.0.0.1" } });
    admin.patch(format!("/api/nodes/{}", agent.node)).json(&label).await.is(200);
    agent.docker_address(container.id.as_str(), "172.17.0.2");
    let cluster = json!({ "name": "shop \"one\"", "type": "load-balanced", "servers": [{ "id": "web", "port": 80 }] });
    let cluster: ClusterView = admin.post("/api/capabilities/clusters").json(&cluster).await.data(201);
    agent.serves(cluster.id.as_str(), container.id.as_str(), 90, 9, 2_000);
    let mut seen = agent.container(&container.id).observed;
    (seen.health, seen.restarts) = (Some(ContainerHealth::Unhealthy), 3);
    agent.report(WatchEvent::Container { observed: Box::new(seen) });
    agent.report(WatchEvent::Host {
        stats: Box::new(machine()),
    });
    eventually("all of it is told", async || {
        let told = exposed(admin).await;
        let cores: f64 = told
            .all("neuralmesh_container_cpu_usage_cores", &[("container", "web")])
            .map(|s| s.value)
            .sum();
        let restarts = told
            .all("neuralmesh_container_restarts_total", &[("container", "web")])
            .any(|s| s.value == 3.0);
        let names = told.names();
        (cores == 1.5
            && restarts
            && told.all("neuralmesh_cluster_requests_total", &[]).any(|s| s.value == 90.0)
            && names.contains("neuralmesh_node_load1")
            && told.all("neuralmesh_containers", &[("status", "running")]).any(|s| s.value == 2.0))
        .then_some(())
    })
    .await;
    (plane, agent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fleet_nodes_and_containers_are_told() {
    let (plane, agent) = busy().await;
    let admin = plane.admin().await;
    let told = exposed(admin).await;
    let node = [("node", "alder")];
    for (name, value) in [
        ("neuralmesh_node_up", 1.0),
        ("neuralmesh_node_docker_up", 1.0),
        ("neuralmesh_node_cordoned", 0.0),
        ("neuralmesh_node_containers", 2.0),
        ("neuralmesh_node_cpu_usage_ratio", 0.425),
        ("neuralmesh_node_load1", 1.5),
        ("neuralmesh_node_memory_available_bytes", (6_u64 << 30) as f64),
        ("neuralmesh_node_network_receive_bytes_total", (1_u64 << 40) as f64),
        ("neuralmesh_node_temperature_celsius", 61.5),
    ] {
        assert_eq!(told.value(name, &node), value, "{name}");
    }
    let mount = |mount| told.value("neuralmesh_node_disk_used_bytes", &[("node", "alder"), ("mount", mount)]);
    assert_eq!((mount("/"), mount("/mnt/a \"b\"\\\nc"), mount("/twice")), (700.0, 1.0, 2.0));
    let pressure = told.value("neuralmesh_node_pressure_ratio", &[("resource", "cpu"), ("stalled", "some")]);
    assert_eq!(pressure, 0.125);
    let info = told.all("neuralmesh_node_info", &node).next().unwrap();
    assert_eq!((&*info.labels["node_id"], &*info.labels["arch"]), (agent.node.as_str(), "x86_64"));

    let web = [("container", "web"), ("node", "alder")];
    for (name, value) in [
        ("neuralmesh_container_running", 1.0),
        ("neuralmesh_container_wanted_running", 1.0),
        ("neuralmesh_container_cpu_usage_cores", 1.5),
        ("neuralmesh_container_cpu_limit_cores", 1.5),
        ("neuralmesh_container_memory_usage_bytes", (64_u64 << 20) as f64),
        ("neuralmesh_container_memory_limit_bytes", (512_u64 << 20) as f64),
        ("neuralmesh_container_healthy", 0.0),
        ("neuralmesh_container_restarts_total", 3.0),
    ] {
        assert_eq!(told.value(name, &web), value, "{name}");
    }
    // Others' containers were asked to run by others.
    let foreign = [("container", "foreign \"one\"\\")];
    assert_eq!(told.value("neuralmesh_container_running", &foreign), 1.0);
    assert_eq!(told.all("neuralmesh_container_wanted_running", &foreign).count(), 0);

    // Of a node that is away it is not known what it does.
    agent.take_down();
    eventually("the node is away", async || {
        (exposed(admin).await.value("neuralmesh_node_up", &node) == 0.0).then_some(())
    })
    .await;
    let told = exposed(admin).await;
    assert_eq!(told.value("neuralmesh_node_docker_up", &node), 0.0);
    for name in [
        "neuralmesh_node_cpu_usage_ratio",
        "neuralmesh_container_running",
        "neuralmesh_container_cpu_usage_cores",
        "neuralmesh_node_disk_used_bytes",
    ] {
        assert_eq!(told.all(name, &node).count(), 0, "{name}");
    }
    assert_eq!(told.value("neuralmesh_container_wanted_running", &web), 1.0);
    assert_eq!(told.value("neuralmesh_link_disconnections_total", &[("reason", "lost")]), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_and_their_servers_are_told() {
    let (plane, agent) = busy().await;
    let admin = plane.admin().await;
    let told = exposed(admin).await;
    let cluster = [("cluster", "shop \"one\"")];
    let bucket = |le| told.value("neuralmesh_cluster_request_duration_seconds_bucket", &[("le", le)]);
    assert_eq!((bucket("0.001024"), bucket("0.004096"), bucket("+Inf")), (0.0, 90.0, 90.0));
    for (name, value) in [
        ("neuralmesh_cluster_request_duration_seconds_count", 90.0),
        ("neuralmesh_cluster_requests_total", 90.0),
        ("neuralmesh_cluster_request_errors_total", 9.0),
        ("neuralmesh_cluster_conditions", 0.0),
        ("neuralmesh_cluster_server_up", 1.0),
        ("neuralmesh_cluster_server_requests_total", 90.0),
    ] {
        assert_eq!(told.value(name, &cluster), value, "{name}");
    }
    let bytes = ["received", "sent"].map(|way| told.value(&format!("neuralmesh_cluster_{way}_bytes_total"), &cluster));
    assert!(bytes.iter().all(|b| *b > 0.0), "{bytes:?}");
    let server = told.all("neuralmesh_cluster_server_in_flight", &cluster).next().unwrap();
    assert_eq!(&*server.labels["server"], "web");
    assert_eq!(told.value("neuralmesh_clusters", &[("status", "healthy")]), 1.0);

    let list: Vec<ClusterView> = admin.get("/api/capabilities/clusters").await.data(200);
    agent.member_is(list[0].id.as_str(), &list[0].members[0].id, MemberState::Down, "connection refused");
    eventually("it is told that nothing serves", async || {
        let told = exposed(admin).await;
        (told.value("neuralmesh_clusters", &[("status", "offline")]) == 1.0 && told.value("neuralmesh_cluster_server_up", &cluster) == 0.0)
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_tells_of_its_own_work() {
    let plane = TestControlPlane::sqlite().await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let admin = plane.admin().await;
    let before = exposed(admin).await;
    admin.create(&super::nginx("web")).await;
    agent.unknown_image("nothing:1");
    admin
        .post("/api/containers")
        .json(&json!({ "name": "none", "image": "nothing:1" }))
        .await
        .is(404);
    let wrong = json!({ "username": "admin", "password": "a guess that is wrong" });
    plane.anonymous().post("/api/auth/login").json(&wrong).await.is(401);
    let after = exposed(admin).await;

    let create = ("kind", "container.create");
    assert_eq!(after.value("neuralmesh_operations_total", &[create, ("result", "succeeded")]), 1.0);
    assert_eq!(after.value("neuralmesh_operations_total", &[create, ("result", "failed")]), 1.0);
    assert_eq!(after.value("neuralmesh_operation_duration_seconds_count", &[create]), 2.0);
    assert_eq!(after.value("neuralmesh_logins_total", &[("result", "wrong_credentials")]), 1.0);
    assert_eq!(after.value("neuralmesh_logins_total", &[("result", "ok")]), 1.0);
    assert_eq!(after.value("neuralmesh_link_connections_total", &[]), 1.0);
    assert_eq!(after.value("neuralmesh_store_up", &[]), 1.0);
    assert_eq!(
        after.value("neuralmesh_store_revision", &[]),
        after.value("neuralmesh_change_feed_revision", &[])
    );
    let grew = |name: &str, labels: &[(&str, &str)]| after.value(name, labels) - before.value(name, labels);
    assert!(grew("neuralmesh_store_commit_duration_seconds_count", &[]) >= 4.0);
    assert!(grew("neuralmesh_store_write_wait_seconds_count", &[]) >= 4.0);
    assert!(grew("neuralmesh_store_revision", &[]) >= 4.0);
    assert!(grew("neuralmesh_audit_entries_total", &[]) >= 2.0);
    assert!(grew("neuralmesh_link_calls_total", &[("result", "ok")]) >= 2.0);
    assert_eq!(
        after.value("neuralmesh_http_requests_total", &[("method", "POST"), ("status", "404")]),
        1.0
    );
    assert_eq!(after.value("neuralmesh_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert!(after.value("process_resident_memory_bytes", &[]) > 1e6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_formats_tell_the_same_to_those_who_may() {
    let (plane, _agent) = busy().await;
    let admin = plane.admin().await;
    let (open, plain) = (text(admin, "", PROMETHEUS).await, text(admin, "", "*/*").await);
    let (open, plain) = (read(&open, true), read(&plain, false));
    assert_eq!(open.names(), plain.names());
    for name in ["neuralmesh_node_disk_used_bytes", "neuralmesh_container_memory_limit_bytes"] {
        assert_eq!(open.samples[name], plain.samples[name]);
    }

    let few = read(&text(admin, "?containers=false", PROMETHEUS).await, true);
    assert!(
        few.names().iter().all(|n| !n.starts_with("neuralmesh_container_")),
        "{:?}",
        few.names()
    );
    assert_eq!(few.value("neuralmesh_containers_left_out", &[]), 2.0);
    assert_eq!(open.value("neuralmesh_containers_left_out", &[]), 0.0);
    admin.get("/metrics?container=false").await.names("container");

    plane.anonymous().get("/metrics").await.refused(401, "unauthorized");
    plane.token(Role::Viewer, &["system:read"]).await.get("/metrics").await.is(200);
    plane
        .token(Role::Admin, &["containers:read"])
        .await
        .get("/metrics")
        .await
        .refused(403, "forbidden");
}

fn contrib() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib")
}

/// The names of ours in a text of PromQL.
fn asked_for(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = |w: &&str| w.starts_with("neuralmesh_") || w.starts_with("process_");
    words.filter(ours).map(str::to_owned).collect()
}

/// Every query of a dashboard.
fn queries(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if matches!(name.as_str(), "expr" | "query" | "definition") => out.push(text.clone()),
                    _ => queries(value, out),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, out)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dashboards_and_alerts_ask_for_what_is_told() {
    let (plane, _agent) = busy().await;
    let told = exposed(plane.admin().await).await;
    let told = told.names();

    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(contrib().join("grafana/neuralmesh.json")).unwrap()).unwrap();
    let mut found = Vec::new();
    queries(&dashboard, &mut found);
    let asked: BTreeSet<String> = found.iter().flat_map(|q| asked_for(q)).collect();
    assert!(found.len() > 40 && asked.len() > 30, "{asked:?}");
    let missing: Vec<&String> = asked.iter().filter(|name| !told.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "the dashboard asks for {missing:?}");

    for file in ["prometheus/alerts.yml", "prometheus/alerts.test.yml"] {
        let rules = std::fs::read_to_string(contrib().join(file)).unwrap();
        let asked = asked_for(&rules);
        let missing: Vec<&String> = asked.iter().filter(|name| !told.contains(name.as_str())).collect();
        assert!(asked.len() > 5 && missing.is_empty(), "{file} asks for {missing:?}");
    }
}

/// Runs Prometheus' own tool, where it is installed; gives nothing where it is not.
fn promtool(arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let spawned = Command::new("promtool")
        .args(arguments)
        .current_dir(contrib().join("prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            eprintln!("without promtool, which only looks once more at what was looked at here: {error}");
            return None;
        }
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Some((output.status.success(), said))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_own_tool_agrees() {
    let (plane, _agent) = busy().await;
    let plain = text(plane.admin().await, "", "text/plain").await;
    for (arguments, input) in [
        (&["check", "metrics"][..], plain.as_str()),
        (&["check", "rules", "alerts.yml"], ""),
        (&["test", "rules", "alerts.test.yml"], ""),
        (&["check", "config", "--syntax-only", "scrape.yml"], ""),
    ] {
        if let Some((well, said)) = promtool(arguments, input) {
            assert!(well, "{arguments:?}: {said}");
        }
    }
}
