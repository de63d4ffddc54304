//! What an agent carries of clusters' entries: a real load balancer in a process of its own, beside agents that come and go.

use crate::fleet::{Agent as Node, Control, program};
use crate::upgrade::another_build;
use axum::Router;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nm_agent::edge::LoadBalancer;
use nm_agent::{Agent, AgentConfig};
use nm_link::contract::{AgentError, AgentErrorCode, EdgeMetrics, EdgeState, path};
use nm_types::proxy::{EventKind, Events, Status};
use nm_waits::{eventually, free_port};
use reqwest::Client;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A machine that carries traffic: what stays of it when its agent ends.
struct Machine {
    processes: Processes,
    dir: TempDir,
    program: PathBuf,
}

/// Those that work in a folder; they end with this.
struct Processes(PathBuf);

/// One agent of it, with its routes on loopback.
struct Running {
    url: String,
    http: Client,
    stop: CancellationToken,
    run: JoinHandle<()>,
    serve: JoinHandle<()>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            processes: Processes(dir.path().to_owned()),
            dir,
            program: program(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("edge").join(name)
    }

    async fn start(&self) -> Running {
        self.start_as(false).await
    }

    async fn start_as(&self, on_trial: bool) -> Running {
        let agent = Agent::new(AgentConfig {
            data_dir: self.dir.path().to_owned(),
            docker_socket: self.dir.path().join("no-docker.sock"),
            own: Vec::new(),
            load_balancer: Some(LoadBalancer {
                program: self.program.clone(),
                arguments: ["proxy", "--workers", "1", "--grace", "3s"].map(Into::into).into(),
                file: self.program.clone(),
                on_trial,
            }),
            backup_worker: None,
        });
        let agent = agent.await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = agent.router();
        let serve = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let stop = CancellationToken::new();
        let run = tokio::spawn({
            let stop = stop.clone();
            async move { agent.run(stop).await }
        });
        let http = Client::builder().no_proxy().build().unwrap();
        Running {
            url,
            http,
            stop,
            run,
            serve,
        }
    }

    fn processes(&self) -> Vec<i32> {
        self.processes.all()
    }
}

impl Processes {
    fn all(&self) -> Vec<i32> {
        let folder = self.0.to_str().unwrap().as_bytes();
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments.windows(folder.len()).any(|part| part == folder)
        })
        .collect()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for pid in self.all() {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }
}

impl Running {
    async fn put(&self, document: &Value) -> Result<EdgeState, AgentError> {
        answer(
            self.http
                .put(format!("{}{}", self.url, path::EDGE))
                .json(document)
                .send()
                .await
                .unwrap(),
        )
        .await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, AgentError> {
        answer(self.http.get(format!("{}{path}", self.url)).send().await.unwrap()).await
    }

    async fn state(&self) -> EdgeState {
        self.get(path::EDGE).await.unwrap()
    }

    /// The number of the load balancer's process, once it carries `generation` and nothing is wrong.
    async fn carries(&self, generation: u64) -> u32 {
        eventually("it carries", async || {
            let state = self.state().await;
            let status = state.proxy.filter(|p| p.generation == Some(generation))?;
            (state.generation == Some(generation) && state.problem.is_none()).then_some(status.pid)
        })
        .await
    }

    async fn instance(&self) -> String {
        self.state().await.proxy.unwrap().instance
    }

    /// Ends it as an agent ends that is told to.
    async fn end(self) {
        self.stop.cancel();
        self.run.await.unwrap();
        self.serve.abort();
    }
}

async fn answer<T: DeserializeOwned>(response: reqwest::Response) -> Result<T, AgentError> {
    let (is_good, body) = (response.status().is_success(), response.bytes().await.unwrap());
    let unread = |e: &serde_json::Error| format!("{e}: {}", String::from_utf8_lossy(&body));
    if is_good {
        Ok(serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{}", unread(&e))))
    } else {
        Err(serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{}", unread(&e))))
    }
}

/// A server that answers with its name.
async fn member(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(move || async move { name });
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

fn document(generation: u64, port: u16, members: &[SocketAddr]) -> Value {
    let members: Vec<Value> = members
        .iter()
        .map(|m| json!({"id": format!("m{}", m.port()), "address": m.ip(), "port": m.port()}))
        .collect();
    let listener = json!({"id": "web", "address": "127.0.0.1", "port": port, "protocol": "http", "routes": [{"cluster": "c"}]});
    json!({"proxy": {
        "generation": generation,
        "listeners": if port == 0 { json!([]) } else { json!([listener]) },
        "clusters": [{"id": "c", "members": members, "mode": {"type": "active-standby", "failback": {"type": "manual"}},
                      "healthCheck": {"probe": {"type": "tcp"}, "intervalMs": 100, "timeoutMs": 50, "rise": 1, "fall": 1}}],
    }})
}

async fn ask(port: u16) -> String {
    let client = Client::builder().no_proxy().build().unwrap();
    let response = client.get(format!("http://127.0.0.1:{port}/")).send().await.unwrap();
    assert!(response.status().is_success(), "{}", response.status());
    response.text().await.unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn is_there(pid: u32) -> bool {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), None).is_ok()
}

#[tokio::test]
async fn it_outlives_its_agents() {
    let (machine, member, port) = (Machine::new(), member("a").await, free_port());
    let agent = machine.start().await;
    let nothing = agent.state().await;
    assert_eq!((nothing.generation, nothing.proxy, nothing.problem), (None, None, None));
    let refused = agent.get::<EdgeMetrics>(path::EDGE_METRICS).await.unwrap_err();
    assert_eq!(refused.code, AgentErrorCode::NotRunning);

    let state = agent.put(&document(3, port, &[member])).await.unwrap();
    assert_eq!(state.generation, Some(3));
    assert_eq!(ask(port).await, "a");
    for private in ["edge.json", "proxy.json", "proxy.sock", "proxy.log"] {
        assert_eq!(mode(&machine.file(private)), 0o600, "{private}");
    }
    assert_eq!(mode(machine.file("").as_path()), 0o700);
    let (pid, instance) = (agent.carries(3).await, agent.instance().await);
    agent.end().await;
    assert_eq!(ask(port).await, "a", "it goes on while no agent is there");
    let agent = machine.start().await;
    assert_eq!(agent.carries(3).await, pid, "the next agent finds it");
    assert_eq!(agent.instance().await, instance);
    let figures: EdgeMetrics = agent.get(path::EDGE_METRICS).await.unwrap();
    assert_eq!((figures.current.clusters[0].totals.requests, figures.former.len()), (2, 0));

    // Without listeners it ends, and is not started again by the next agent.
    let state = agent.put(&document(4, 0, &[])).await.unwrap();
    assert_eq!((state.generation, state.proxy), (Some(4), None));
    eventually("its end", async || (!is_there(pid)).then_some(())).await;
    agent.end().await;
    let agent = machine.start().await;
    agent.put(&document(4, 0, &[])).await.unwrap();
    assert_eq!(machine.processes(), Vec::<i32>::new());
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    let (machine, member, port) = (Machine::new(), member("a").await, free_port());
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let agent = machine.start().await;
    // Nothing runs yet, and nothing is left running.
    let refused = agent.put(&document(5, taken_port, &[member])).await.unwrap_err();
    assert_eq!(
        (refused.code, refused.field.as_deref()),
        (AgentErrorCode::PortInUse, Some("proxy.listeners[0].port")),
        "{refused}"
    );
    eventually("nothing runs", async || machine.processes().is_empty().then_some(())).await;
    assert!(!machine.file("edge.json").exists());

    agent.put(&document(5, port, &[member])).await.unwrap();
    let pid = agent.carries(5).await;
    let refused = agent.put(&document(6, taken_port, &[member])).await.unwrap_err();
    assert_eq!(refused.code, AgentErrorCode::PortInUse);
    let refused = agent.put(&document(4, port, &[member])).await.unwrap_err();
    assert_eq!(refused.code, AgentErrorCode::Stale);
    let mut wrong = document(6, port, &[member]);
    wrong["proxy"]["listeners"][0]["port"] = json!(0);
    let refused = agent.put(&wrong).await.unwrap_err();
    assert_eq!(refused.code, AgentErrorCode::Invalid);
    let mut files = document(6, port, &[member]);
    files["proxy"]["listeners"][0]["tls"] =
        json!({"certificates": [{"source": {"files": {"certificate": "/etc/hostname", "key": "/etc/shadow"}}}]});
    assert_eq!(agent.put(&files).await.unwrap_err().code, AgentErrorCode::Forbidden);
    // As if a crash had come between the writing of a document and its trial.
    agent.end().await;
    let candidate = serde_json::to_vec(&document(9, taken_port, &[member])).unwrap();
    std::fs::write(machine.file("edge.candidate.json"), candidate).unwrap();
    let agent = machine.start().await;
    assert_eq!(agent.carries(5).await, pid);
    assert!(!machine.file("edge.candidate.json").exists());
    assert_eq!(ask(port).await, "a");
    // The same once more is no older one.
    agent.put(&document(5, port, &[member])).await.unwrap();
}

#[tokio::test]
async fn a_damaged_document_stops_nothing() {
    let (machine, member, port) = (Machine::new(), member("a").await, free_port());
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let agent = machine.start().await;
    agent.put(&document(1, port, &[member])).await.unwrap();
    agent.end().await;
    std::fs::write(machine.file("edge.json"), "{").unwrap();
    let agent = machine.start().await;
    let problem = eventually("what is wrong", async || agent.state().await.problem).await;
    assert!(problem.contains("sent again"), "{problem}");
    assert_eq!(agent.state().await.generation, None);
    let taken_port = taken.local_addr().unwrap().port();
    agent.put(&document(2, taken_port, &[member])).await.unwrap_err();
    assert_eq!(ask(port).await, "a");
    agent.put(&document(2, port, &[member])).await.unwrap();
    agent.carries(2).await;
}

#[tokio::test]
async fn one_that_dies_is_started_again() {
    let (machine, member, port) = (Machine::new(), member("a").await, free_port());
    let agent = machine.start().await;
    agent.put(&document(1, port, &[member])).await.unwrap();
    let mut pid = agent.carries(1).await;
    for adopted in [false, true] {
        let before = agent.instance().await;
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
        pid = eventually("another one", async || {
            let status = agent.state().await.proxy?;
            (status.instance != before && status.generation == Some(1)).then_some(status.pid)
        })
        .await;
        assert_eq!(ask(port).await, "a", "adopted: {adopted}");
    }
    // While no agent is there, nobody starts it; the next one does, without any control plane.
    agent.end().await;
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    let agent = machine.start().await;
    assert_ne!(agent.carries(1).await, pid);
    assert_eq!(ask(port).await, "a");
}

#[tokio::test]
async fn what_keeps_it_from_running_is_told_in_words() {
    let (mut machine, member, port) = (Machine::new(), member("a").await, free_port());
    let real = std::mem::replace(&mut machine.program, "/bin/false".into());
    let agent = machine.start().await;
    let state = agent.put(&document(1, port, &[member])).await.unwrap();
    assert_eq!(
        (state.generation, state.proxy),
        (Some(1), None),
        "it is held, for when it can be carried"
    );
    let problem = state.problem.unwrap();
    assert!(
        problem.contains("could not be started") && problem.contains("exited with 1"),
        "{problem}"
    );
    agent.end().await;
    machine.program = real;
    let agent = machine.start().await;
    agent.carries(1).await;

    // A port that another has by the time it starts again.
    let pid = agent.carries(1).await;
    agent.end().await;
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    let other = eventually("the port is free", async || TcpListener::bind(("127.0.0.1", port)).await.ok()).await;
    let agent = machine.start().await;
    let problem = eventually("why", async || agent.state().await.problem).await;
    assert!(problem.contains("in use") && problem.contains(&port.to_string()), "{problem}");
    drop(other);
    agent.carries(1).await;
    assert_eq!(ask(port).await, "a");
}

#[tokio::test]
async fn another_version_takes_over() {
    let (mut machine, member, port) = (Machine::new(), member("a").await, free_port());
    let agent = machine.start().await;
    agent.put(&document(1, port, &[member])).await.unwrap();
    let (old, pid) = (agent.instance().await, agent.carries(1).await);
    assert_eq!(ask(port).await, "a");
    agent.end().await;
    // Another file is another version.
    let file = machine.dir.path().join("neuralmesh-next");
    std::fs::copy(&machine.program, &file).unwrap();
    machine.program = file;
    let agent = machine.start_as(true).await;
    assert_eq!(agent.carries(1).await, pid, "what is on trial touches no traffic");
    agent.end().await;
    let agent = machine.start().await;
    let next = agent.carries(1).await;
    assert_ne!(next, pid);
    assert_eq!(ask(port).await, "a");
    let figures: EdgeMetrics = agent.get(path::EDGE_METRICS).await.unwrap();
    let former: Vec<(&str, u64)> = figures
        .former
        .iter()
        .map(|f| (f.instance.as_str(), f.clusters[0].totals.requests))
        .collect();
    assert_eq!(former, [(old.as_str(), 1)]);
    assert_eq!(figures.current.clusters[0].totals.requests, 1);
    eventually("the old one's end", async || (!is_there(pid)).then_some(())).await;
}

#[tokio::test]
async fn events_and_failovers_go_through() {
    let (machine, port) = (Machine::new(), free_port());
    let (a, b) = (member("a").await, member("b").await);
    let agent = machine.start().await;
    agent.put(&document(1, port, &[a, b])).await.unwrap();
    eventually("the first is active", async || (ask(port).await == "a").then_some(())).await;
    let url = format!("{}{}", agent.url, path::EDGE_FAILOVER);
    let fail_over = async |body: Value| answer::<Value>(agent.http.post(&url).json(&body).send().await.unwrap()).await;
    assert_eq!(fail_over(json!({"cluster": "c"})).await.unwrap(), json!({}));
    assert_eq!(ask(port).await, "b");
    for body in [json!({"cluster": "nope"}), json!({"cluster": "c", "member": "nope"}), json!({})] {
        assert_eq!(fail_over(body).await.unwrap_err().code, AgentErrorCode::Invalid);
    }
    let query = |instance: &str, after: u64| format!("{}?instance={instance}&after={after}", path::EDGE_EVENTS);
    let first = agent.instance().await;
    let events: Events = agent.get(&query(&first, 0)).await.unwrap();
    assert!(events.events.iter().any(|e| e.kind == EventKind::Failover), "{events:?}");
    // Whoever knows another process's numbers is told everything.
    let all: Events = agent.get(&query("another", 1000)).await.unwrap();
    assert_eq!(all.events, events.events);

    // Somebody waits for an event of a process that is then killed: the next one's are told.
    let waiting = tokio::spawn({
        let (http, url) = (agent.http.clone(), format!("{}{}", agent.url, query(&first, events.last)));
        async move { answer::<Events>(http.get(url).send().await.unwrap()).await.unwrap() }
    });
    let pid = agent.carries(1).await;
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    eventually("another process", async || {
        let status = agent.state().await.proxy?;
        (status.instance != first).then_some(())
    })
    .await;
    fail_over(json!({"cluster": "c"})).await.unwrap();
    let told = waiting.await.unwrap();
    assert_ne!(told.instance, first);
    assert!(told.events.iter().any(|e| e.kind == EventKind::Failover), "{told:?}");
}

#[tokio::test]
async fn without_an_agent_it_can_still_be_ended() {
    let (machine, member, port) = (Machine::new(), member("a").await, free_port());
    nm_agent::edge::end(machine.dir.path()).await.unwrap();
    let agent = machine.start().await;
    agent.put(&document(1, port, &[member])).await.unwrap();
    agent.carries(1).await;
    let socket = machine.file("proxy.sock");
    nm_agent::edge::check(&socket).await.unwrap();
    agent.end().await;
    nm_agent::edge::end(machine.dir.path()).await.unwrap();
    eventually("it has ended", async || machine.processes().is_empty().then_some(())).await;
    assert!(nm_agent::edge::check(&socket).await.is_err());
}

/// What the load balancer of `node` says of itself, asked past its agent.
async fn status_of(node: &Node) -> Option<Status> {
    let socket = node.dir.path().join("data/agent/edge/proxy.sock");
    let client = Client::builder().no_proxy().unix_socket(socket).build().unwrap();
    let response = client.get("http://proxy/v1/status").send().await.ok()?;
    Some(serde_json::from_slice(&response.bytes().await.ok()?).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_of_the_node_loses_no_request() {
    let (control, member, port) = (Control::start("server").await, member("a").await, free_port());
    let mut node = Node::join(&control, 60).await;
    // As if the machine had been off: what it holds is on its disk.
    let edge = node.dir.path().join("data/agent/edge");
    std::fs::write(edge.join("edge.json"), document(1, port, &[member]).to_string()).unwrap();
    let _ended = Processes(node.dir.path().to_owned());
    node.start_again(&control).await;
    let before = eventually("it carries", async || status_of(&node).await).await;

    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let stop = stop.clone();
        async move {
            let kept = Client::builder().no_proxy().build().unwrap();
            let mut requests = 0;
            while !stop.load(Ordering::SeqCst) {
                let answer = kept.get(format!("http://127.0.0.1:{port}/")).send().await.unwrap();
                assert!(answer.status().is_success(), "{}", answer.status());
                assert_eq!(ask(port).await, "a");
                requests += 2;
            }
            requests
        }
    });
    let uploaded = control.upload("9.0.0", &another_build(control.dir.path(), "edge")).await;
    let operation = control.begin_upgrade("alder").await;
    let ended = control.ended(&operation).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let after = eventually("another process", async || {
        status_of(&node).await.filter(|s| s.instance != before.instance)
    })
    .await;
    let runs = std::fs::read_link(format!("/proc/{}/exe", after.pid)).unwrap();
    assert_eq!(runs.file_name().unwrap().to_str(), uploaded["sha256"].as_str());
    eventually("the old one has ended, and nothing is left of it", async || {
        (!is_there(before.pid)).then_some(())
    })
    .await;
    assert_eq!(after.generation, Some(1));
    stop.store(true, Ordering::SeqCst);
    let requests = load.await.unwrap();
    println!("a node was upgraded under load: 0 of {requests} requests failed");
}
