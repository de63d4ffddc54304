//! A database that goes away, a disk that fills up and one that fails: what can be done still is, what can't says so, and
//! all is well again by itself.

use crate::{agree, nginx, running};
use nm_link::contract::{AgentError, AgentErrorCode};
use nm_testing::{Ask, Client, Database, FakeAgent, TestControlPlane, When, eventually};
use nm_types::container::{ContainerStatus, ContainerView};
use nm_types::operation::{OperationState, OperationView};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A PostgreSQL server of the test's own, to be killed.
struct Server {
    programs: PathBuf,
    dir: TempDir,
    port: u16,
    /// PostgreSQL refuses to run as root.
    user: Option<(u32, u32)>,
}

impl Server {
    /// `None`, said on standard error, on a machine without PostgreSQL's programs.
    fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            let required = std::env::var("NM_TEST_REQUIRE_SERVICES").is_ok_and(|v| v == "1");
            assert!(!required, "NM_TEST_REQUIRE_SERVICES=1, but there is no initdb");
            #[expect(
                clippy::explicit_write,
                reason = "straight to the terminal: the test harness would keep it to itself"
            )]
            writeln!(std::io::stderr(), "skipped: PostgreSQL's initdb is not installed").unwrap();
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        let user = root.then_some((65_534, 65_534));
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { programs, dir, port, user };
        let data = server.data();
        server.run("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync"]);
        server.up();
        Some(server)
    }

    fn data(&self) -> String {
        self.dir.path().join("data").display().to_string()
    }

    fn run(&self, program: &str, args: &[&str]) {
        let mut command = Command::new(self.programs.join(program));
        command
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        let status = command.status().unwrap();
        assert!(status.success(), "{program}: {status}");
    }

    fn up(&self) {
        let options = format!("-p {} -h 127.0.0.1 -k {} -c fsync=off", self.port, self.dir.path().display());
        self.run("pg_ctl", &["start", "-w", "-D", &self.data(), "-o", &options]);
    }

    /// As `kill -9` of all of it.
    fn kill(&self) {
        self.run("pg_ctl", &["stop", "-w", "-m", "immediate", "-D", &self.data()]);
    }

    fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if Path::new(&self.data()).join("postmaster.pid").exists() {
            self.kill();
        }
    }
}

/// The folder of PostgreSQL's programs: on the path, or where Debian has them.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path().join("bin"));
    // Where a link on the path leads to, since these programs look for each other beside themselves.
    let real = |dir: PathBuf| dir.join("initdb").canonicalize().ok().and_then(|p| p.parent().map(Path::to_owned));
    std::env::split_paths(&path).chain(debian).find_map(real)
}

async fn fleet(database: Database) -> (TestControlPlane, FakeAgent, Client) {
    let plane = TestControlPlane::start(database).await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let api = plane.operator().await.clone();
    (plane, agent, api)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_goes_and_comes_back() {
    let Some(server) = Server::start() else { return };
    let (plane, agent, api) = fleet(Database::postgres_at(&server.url()).await).await;
    api.create(&running("web")).await;
    let mut events = api.get("/api/events").events().await.unwrap();
    events.begun().await;
    // One is under way: the node has made it, and its end will find nobody to write it.
    let hold = agent.hold(Ask::Create, When::After);
    let operation: OperationView = api.post("/api/containers").json(&running("half")).respond_async().await.data(202);
    hold.reached(1).await;

    server.kill();
    let nobody = plane.anonymous();
    nobody.get("/healthz").await.is(200);
    nobody.get("/readyz").await.refused(503, "store_unavailable");
    let refused = eventually("a write says what is wrong", async || {
        let reply = api.post("/api/containers").json(&nginx("new")).await;
        (reply.status == 503).then(|| reply.refused(503, "store_unavailable"))
    })
    .await;
    assert!(refused.error.contains("database"), "{refused:?}");
    nobody
        .post("/api/auth/login")
        .json(&serde_json::json!({ "username": "olga", "password": "x" }))
        .await
        .refused(503, "store_unavailable");
    // What the node sees meanwhile waits to be written.
    hold.release();
    agent.docker_set("web", ContainerStatus::Stopped);
    agent.docker_run("beside", "redis:7");

    server.up();
    eventually("it is ready again", async || {
        (nobody.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    let made = eventually("writes work again", async || {
        let reply = api.post("/api/containers").json(&nginx("new")).await;
        (reply.status == 201).then(|| reply.data::<ContainerView>(201))
    })
    .await;
    events.find("the feed goes on", |e| e.data.contains(made.id.as_str())).await;
    // Without a restart.
    assert_eq!(api.ended(operation.id.as_str()).await.state, OperationState::Succeeded);
    api.until("half", ContainerStatus::Running).await;
    api.until("web", ContainerStatus::Stopped).await;
    api.post("/api/containers/half/stop").await.is(200);
    agree(&api, &agent, &["web", "half", "new"]).await;
    let beside = eventually("what came meanwhile is listed", async || {
        api.containers("managed=false").await.pop()
    })
    .await;

    // What was seen gets to the disk a moment later.
    for name in ["web", "half"] {
        let id = api.container(name).await.id;
        eventually(&format!("{name} is written as stopped"), async || {
            let row = plane
                .app()
                .store
                .get(nm_store::Kind::Container, id.as_str())
                .await
                .unwrap()
                .unwrap();
            let state: serde_json::Value = row.status().unwrap();
            (state["observed"]["status"] == "stopped").then_some(())
        })
        .await;
    }
    let mut plane = plane;
    plane.kill().await;
    agent.take_down();
    agree(&api, &agent, &["web", "half", "new"]).await;
    assert_eq!(api.container("web").await.status, ContainerStatus::Stopped);
    assert_eq!(api.container("half").await.status, ContainerStatus::Stopped);
    assert_eq!(api.container("beside").await.id, beside.id);
    drop(plane);
}

/// Runs this same test again in a process whose disk can be made to fail, as the store's tests do it. Says in which of the
/// two processes we are: in the child, the folder with the switches.
fn with_a_failing_disk(test: &str) -> Option<PathBuf> {
    if let Some(switches) = std::env::var_os("NM_FAULT_DIR") {
        return Some(switches.into());
    }
    let dir = tempfile::tempdir().unwrap();
    let library = dir.path().join("fault.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../store/tests/store/fault.c");
    // The compiler that built SQLite.
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl")
        .status();
    assert!(built.unwrap().success());
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", &library)
        .env("NM_FAULT_DIR", dir.path())
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr)
    );
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_dies_in_a_create_leaves_nothing() {
    let (_plane, agent, api) = fleet(Database::sqlite()).await;
    let away = || AgentError::new(AgentErrorCode::DockerUnavailable, "the engine does not answer");
    let create = async |name: &str| {
        api.post("/api/containers")
            .json(&nginx(name))
            .await
            .refused(503, "docker_unavailable");
    };
    // Before anything was begun: nothing is to be taken away.
    agent.fail_next(Ask::Create, away());
    create("never").await;
    agree(&api, &agent, &[]).await;
    // In the middle: it is there, though nobody could say so, and goes when the engine is back; also at the second try.
    for tries in 0..2 {
        agent.docker_available(false);
        agent.docker_available(true);
        agent.lose_next(Ask::Create, away());
        for _ in 0..tries {
            agent.fail_next(Ask::Remove, away());
        }
        create("half").await;
        assert_eq!(agent.containers().len(), 1);
        for _ in 0..=tries {
            agent.docker_available(false);
            agent.docker_available(true);
        }
        eventually("what was begun is gone", async || {
            (agent.containers().is_empty() && api.containers("managed=true").await.is_empty()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_fills_up_and_has_room_again() {
    let Some(switches) = with_a_failing_disk("faults::the_disk_fills_up_and_has_room_again") else {
        return;
    };
    let full = switches.join("full");
    let (mut plane, agent, api) = fleet(Database::sqlite()).await;
    api.create(&running("web")).await;
    for round in 0..2 {
        let (name, beside) = (format!("half-{round}"), format!("beside-{round}"));
        let hold = agent.hold(Ask::Create, When::After);
        let operation: OperationView = api.post("/api/containers").json(&running(&name)).respond_async().await.data(202);
        hold.reached(1).await;
        let asked = agent.calls(Ask::Stop);
        std::fs::write(&full, "").unwrap();
        let refused = api.post("/api/containers").json(&nginx("new")).await.refused(507, "disk_full");
        assert!(refused.error.contains("disk is full"), "{refused:?}");
        api.post("/api/containers/web/stop").await.refused(507, "disk_full");
        api.delete("/api/containers/web?force=true").await.refused(507, "disk_full");
        assert_eq!(
            (agent.calls(Ask::Stop), agent.calls(Ask::Remove)),
            (asked, 0),
            "what can't be written is not done"
        );

        // What goes on at the node shows, though nobody can write it down.
        hold.release();
        agent.docker_run(&beside, "redis:7");
        eventually("what happens shows", async || {
            (api.get(format!("/api/containers/{beside}")).await.status == 200).then_some(())
        })
        .await;
        eventually("the new one runs", async || {
            (api.container(&name).await.status == ContainerStatus::Running).then_some(())
        })
        .await;
        for _ in 0..5 {
            // Each takes its turn behind the end of the operation, which is refused like them.
            api.post("/api/containers").json(&nginx("new")).await.refused(507, "disk_full");
        }
        assert_eq!(
            api.operation(operation.id.as_str()).await.state,
            OperationState::Running,
            "an end that is not written is none"
        );

        std::fs::remove_file(&full).unwrap();
        // At once, and without a restart.
        api.create(&nginx(&format!("new-{round}"))).await;
        assert_eq!(api.ended(operation.id.as_str()).await.state, OperationState::Succeeded);
        api.post(format!("/api/containers/{name}/stop")).await.is(200);
    }
    agree(&api, &agent, &["web", "half-0", "half-1", "new-0", "new-1"]).await;
    let beside = api.containers("managed=false").await;
    plane.restart().await;
    agent.ready(&plane).await;
    agree(&api, &agent, &["web", "half-0", "half-1", "new-0", "new-1"]).await;
    assert_eq!(
        api.containers("managed=false").await.iter().map(|c| &c.id).collect::<Vec<_>>(),
        beside.iter().map(|c| &c.id).collect::<Vec<_>>()
    );
}

/// After a failed fsync nobody knows what the disk holds: nothing more is acknowledged, and the process is told to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_fails() {
    let Some(switches) = with_a_failing_disk("faults::the_disk_fails") else {
        return;
    };
    let (mut plane, agent, api) = fleet(Database::sqlite()).await;
    api.create(&nginx("kept")).await;
    std::fs::write(switches.join("eio"), "").unwrap();
    let call = api.post("/api/containers").json(&nginx("lost"));
    let lost = tokio::spawn(call.try_send());
    let reason = plane.ended().await.unwrap_err();
    assert!(reason.contains("disk"), "{reason}");
    if let Ok(reply) = lost.await.unwrap() {
        assert!(reply.status >= 500, "{}", reply.text());
    }
    plane.kill_only();
    std::fs::remove_file(switches.join("eio")).unwrap();
    plane.reopen().await;
    agent.ready(&plane).await;
    api.get("/api/containers/kept").await.is(200);
    eventually("both sides agree", async || {
        let listed: Vec<String> = api.containers("managed=true").await.into_iter().map(|c| c.name).collect();
        (listed.len() == agent.containers().len()).then_some(())
    })
    .await;
}
