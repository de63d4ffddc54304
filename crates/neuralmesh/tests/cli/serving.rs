//! The built binary as control plane and as agent: what it logs, and the traces it sends.

use crate::fake::Fake;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nm_waits::{DEADLINE, eventually};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Attribute;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Outcome;
use prost::Message;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

/// A process that serves, and all it has said.
struct Serving {
    child: Child,
    out: Lines,
    log: Lines,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn of(pipe: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let lines = Self::default();
        let kept = lines.clone();
        tokio::spawn(async move {
            let mut reader = BufReader::new(pipe).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                kept.0.lock().unwrap().push(line);
            }
        });
        lines
    }
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
    /// Each as JSON.
    fn json(&self) -> Vec<Value> {
        let parsed = |line: &String| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.all().iter().map(parsed).collect()
    }
}

impl Serving {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, log) = (Lines::of(child.stdout.take().unwrap()), Lines::of(child.stderr.take().unwrap()));
        Self { child, out, log }
    }

    /// A control plane on free ports, with its data in `dir`.
    fn control_plane(fake: &Fake, dir: &Path, more: &[&str], environment: &[(&str, &str)]) -> Self {
        let dir = dir.to_str().unwrap();
        let mut args = vec![
            "server",
            "--data-dir",
            dir,
            "--listen",
            "127.0.0.1:0",
            "--agent-listen",
            "127.0.0.1:0",
        ];
        args.extend(more);
        let mut command = fake.bare(&args);
        command.envs(environment.iter().copied());
        Self::start(command)
    }

    /// Where the API and the agents' listener are.
    async fn places(&self) -> (String, String) {
        eventually("it says where it listens", async || {
            let said = self.out.all().join("\n");
            let (_, rest) = said.split_once("API at ")?;
            let (api, rest) = rest.split_once(", agents at ")?;
            Some((api.to_owned(), format!("https://{}", rest.lines().next()?)))
        })
        .await
    }

    /// Ends it as `systemctl stop` does.
    async fn stop(&mut self) {
        let id = i32::try_from(self.child.id().expect("it runs")).unwrap();
        kill(Pid::from_raw(id), Signal::SIGTERM).unwrap();
        let ended = tokio::time::timeout(DEADLINE, self.child.wait())
            .await
            .expect("it ends in time")
            .unwrap();
        assert!(ended.success(), "{ended:?}: {:?}", self.log.all());
    }
}

/// The API, as the first admin.
struct Admin {
    http: reqwest::Client,
    api: String,
    token: String,
}

impl Admin {
    async fn sign_in(api: &str, dir: &Path) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let password = std::fs::read_to_string(dir.join("initial-admin-password")).unwrap();
        let login = json!({ "username": "admin", "password": password.trim_end() });
        let answer = http.post(format!("{api}/api/auth/login")).json(&login).send().await.unwrap();
        let body: Value = answer.json().await.unwrap();
        let token = body["data"]["accessToken"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
        Self {
            http,
            api: api.to_owned(),
            token,
        }
    }
    fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.post(format!("{}{path}", self.api)).bearer_auth(&self.token)
    }
    async fn get(&self, path: &str) -> Value {
        let answer = self
            .http
            .get(format!("{}{path}", self.api))
            .bearer_auth(&self.token)
            .send()
            .await
            .unwrap();
        answer.json().await.unwrap()
    }
}

/// A collector of traces that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Received>>);

#[derive(Default)]
struct Received {
    /// Each with its service's name.
    spans: Vec<(String, Span)>,
    bytes: Vec<u8>,
    heads: Vec<HeaderMap>,
}

async fn receive(State(Collector(received)): State<Collector>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
    let mut received = received.lock().unwrap();
    for of_resource in request.resource_spans {
        let resource = of_resource.resource.unwrap();
        let service = text(&resource.attributes, "service.name").unwrap();
        let spans = of_resource.scope_spans.into_iter().flat_map(|s| s.spans);
        received.spans.extend(spans.map(|span| (service.clone(), span)));
    }
    received.bytes.extend_from_slice(&body);
    received.heads.push(headers);
    StatusCode::OK
}

fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    let value = attributes.iter().find(|a| a.key == name)?.value.clone()?.value?;
    Some(match value {
        Attribute::StringValue(text) => text,
        Attribute::IntValue(number) => number.to_string(),
        other => panic!("{name}: {other:?}"),
    })
}

impl Collector {
    async fn start(&self) -> String {
        let router = Router::new().route("/v1/traces", post(receive)).with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }
    /// The one span of this service and name below this parent.
    fn find(&self, service: &str, name: &str, parent: &[u8]) -> Option<Span> {
        let received = self.0.lock().unwrap();
        let is_it = |(s, span): &&(String, Span)| s == service && span.name == name && span.parent_span_id == parent;
        let found: Vec<&Span> = received.spans.iter().filter(is_it).map(|(_, span)| span).collect();
        assert!(found.len() < 2, "{found:?}");
        found.first().map(|span| (*span).clone())
    }
    async fn wait(&self, service: &str, name: &str, parent: &[u8]) -> Span {
        eventually(&format!("the span {name} of {service}"), async || self.find(service, name, parent)).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_traced_to_the_agent_and_tells_no_secret() {
    let (collector, fake) = (Collector::default(), Fake::start(Router::new()).await);
    let url = collector.start().await;
    let (dir, node_dir) = (fake.home.path().join("control"), fake.home.path().join("node"));
    let environment = [
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=blue"),
        ("NEURALMESH_OTLP_ENDPOINT", url.as_str()),
    ];
    let mut control = Serving::control_plane(&fake, &dir, &[], &environment);
    let (api, agents) = control.places().await;
    let admin = Admin::sign_in(&api, &dir).await;
    let join: Value = admin.post("/api/nodes/join-tokens").send().await.unwrap().json().await.unwrap();
    let join = join["data"]["token"].as_str().unwrap();
    let socket = fake.home.path().join("no-docker.sock");
    let mut command = fake.bare(&["agent", "--server", &agents, "--data-dir", node_dir.to_str().unwrap()]);
    command
        .args(["--docker-socket", socket.to_str().unwrap(), "--otlp-endpoint", &url])
        .env("NEURALMESH_JOIN", join)
        .env("OTEL_BSP_SCHEDULE_DELAY", "50");
    let mut agent = Serving::start(command);
    eventually("the node is connected", async || {
        (admin.get("/api/system/info").await["data"]["nodesConnected"] == 1).then_some(())
    })
    .await;

    // There is no Docker, so it comes to nothing; the way there and back is the same.
    let (trace, caller) = ([0xab; 16], [0xcd; 8]);
    let traceparent = format!("00-{}-{}-01", hex::encode(trace), hex::encode(caller));
    let secret = "hunter2-in-the-environment";
    let body = json!({ "name": "web", "image": "nginx:latest", "environment": { "PASSWORD": secret } });
    let answer = admin
        .post("/api/containers")
        .header("traceparent", traceparent)
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 503);
    let request_id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();

    let request = collector.wait("neuralmesh", "POST /api/containers", &caller).await;
    let operation = collector.wait("neuralmesh", "container.create", &request.span_id).await;
    let call = collector.wait("neuralmesh", "POST /v1/containers", &operation.span_id).await;
    let answered = collector.wait("neuralmesh-agent", "POST /v1/containers", &call.span_id).await;
    for span in [&request, &operation, &call, &answered] {
        assert_eq!(span.trace_id, trace, "{span:?}");
        assert!(span.end_time_unix_nano > span.start_time_unix_nano, "{span:?}");
        assert!(span.events.is_empty(), "log lines stay in the log: {span:?}");
    }
    let kinds = [&request, &operation, &call, &answered].map(|s| s.kind());
    assert_eq!(kinds, [SpanKind::Server, SpanKind::Internal, SpanKind::Client, SpanKind::Server]);
    let said = |span: &Span, name: &str| text(&span.attributes, name).unwrap_or_else(|| panic!("no {name}: {span:?}"));
    assert_eq!(said(&request, "http.route"), "/api/containers");
    assert_eq!(said(&request, "http.request.method"), "POST");
    assert_eq!(said(&request, "http.response.status_code"), "503");
    assert_eq!(said(&request, "neuralmesh.request.id"), request_id);
    assert!(said(&operation, "neuralmesh.operation.id").starts_with("op_"));
    assert_eq!(said(&operation, "error.type"), "docker_unavailable");
    assert!(said(&call, "neuralmesh.node.id").starts_with("node_"));
    assert_eq!(said(&call, "error.type"), "docker_unavailable");
    for failed in [&request, &operation, &call] {
        assert_eq!(failed.status.as_ref().unwrap().code(), Outcome::Error, "{failed:?}");
    }
    assert_eq!(answered.status.as_ref().map_or(Outcome::Unset, |s| s.code()), Outcome::Unset);

    agent.stop().await;
    control.stop().await;
    let received = collector.0.lock().unwrap();
    let names: Vec<&str> = received.spans.iter().map(|(_, s)| s.name.as_str()).collect();
    for name in ["POST /api/auth/login", "POST /api/nodes/join-tokens", "GET /api/system/info"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let password = std::fs::read_to_string(dir.join("initial-admin-password")).unwrap();
    for hidden in [secret, admin.token.as_str(), join, password.trim_end(), "blue"] {
        let shown = received.bytes.windows(hidden.len()).any(|w| w == hidden.as_bytes());
        assert!(!shown, "{hidden} went out with a trace");
    }
    let of_control = |h: &&HeaderMap| h.get("x-team").is_some_and(|v| v == "blue");
    assert!(received.heads.iter().any(|h| of_control(&h)), "the standard variables count");
    assert!(received.heads.iter().all(|h| h["content-type"] == "application/x-protobuf"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_holds_up_nothing_and_is_told_of_once() {
    let fake = Fake::start(Router::new()).await;
    let dir = fake.home.path().join("control");
    // Nobody listens there: the port was free a moment ago, and is given back.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let environment = [("OTEL_BSP_SCHEDULE_DELAY", "20"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "500")];
    let more = ["--log-format", "json", "--otlp-endpoint", &format!("http://{free}")];
    let mut control = Serving::control_plane(&fake, &dir, &more, &environment);
    let (api, _) = control.places().await;
    let admin = Admin::sign_in(&api, &dir).await;
    let told = |lines: &[Value]| {
        lines
            .iter()
            .filter(|l| l["message"].as_str().unwrap().contains("does not take traces"))
            .count()
    };
    eventually("it says that traces are dropped", async || {
        assert_eq!(admin.get("/api/system/info").await["success"], true);
        (told(&control.log.json()) > 0).then_some(())
    })
    .await;
    control.stop().await;
    assert_eq!(told(&control.log.json()), 1, "{:?}", control.log.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_log_line_is_a_sentence_with_fields() {
    let fake = Fake::start(Router::new()).await;
    let dir = fake.home.path().join("control");
    let mut control = Serving::control_plane(&fake, &dir, &["--log-format", "json", "--log-level", "info,nm_control=debug"], &[]);
    let (api, _) = control.places().await;
    let admin = Admin::sign_in(&api, &dir).await;
    let answer = admin.post("/api/nodes/join-tokens").send().await.unwrap();
    let request_id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    control.stop().await;
    let lines = eventually("all of the log was read", async || {
        Some(control.log.json()).filter(|all| all.iter().any(|l| l["message"] == "stopped"))
    })
    .await;
    for line in &lines {
        let field = |name: &str| line[name].as_str().unwrap_or_else(|| panic!("no {name}: {line}"));
        assert!(
            field("timestamp").ends_with('Z') && field("target").contains("::") || field("target") == "neuralmesh",
            "{line}"
        );
        assert!(matches!(field("level"), "INFO" | "DEBUG" | "WARN"), "{line}");
        // Words, and what a program looks for is in the fields beside them.
        assert!(field("message").starts_with(|c: char| c.is_alphabetic()), "{line}");
        assert!(!field("message").contains(['{', '=']), "{line}");
    }
    let answered = lines
        .iter()
        .find(|l| l["message"] == "answered" && l["span"]["request.id"] == request_id.as_str())
        .unwrap_or_else(|| panic!("{lines:#?}"));
    assert_eq!(answered["http.status"], 201);
    assert!(answered["took_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(answered["span"]["http.method"], "POST");
    assert_eq!(answered["span"]["http.path"], "/api/nodes/join-tokens");
    let open = lines.iter().find(|l| l["message"] == "store open").unwrap();
    assert_eq!(open["backend"], "sqlite");
    // Spans of traces are no matter of the log.
    assert!(lines.iter().all(|l| !l.to_string().contains("otel.")));
}
