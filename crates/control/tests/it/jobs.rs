//! Jobs of compute clusters: what is asked for and refused, how tasks end, and control planes and nodes that go away at each moment.

use nm_testing::{Ask, Client, Database, FakeAgent, TestControlPlane, When, both, eventually};
use nm_types::auth::Role;
use nm_types::cluster::{ClusterEventKind, ClusterEventView, ClusterStatus, ClusterView};
use nm_types::job::{JobState, JobView, TaskOutcome, TaskState, TaskView};
use nm_types::node::{NodeStatus, NodeView};
use serde_json::{Value, json};
use std::collections::BTreeMap;

both!(killed_at_each_moment, an_array_runs_to_its_end);

const JOBS: &str = "/api/capabilities/clusters/crunch/jobs";
const DONE: Option<(TaskOutcome, i64)> = Some((TaskOutcome::Succeeded, 0));

struct Fleet {
    plane: TestControlPlane,
    alder: FakeAgent,
    birch: FakeAgent,
    api: Client,
}

async fn fleet(database: Database) -> Fleet {
    let plane = TestControlPlane::start(database).await;
    let api = plane.token(Role::Admin, &[]).await;
    let (alder, birch) = (FakeAgent::join(&plane, "alder").await, FakeAgent::join(&plane, "birch").await);
    let cluster = json!({ "name": "crunch", "type": "compute", "servers": ["alder", "birch"] });
    api.post("/api/capabilities/clusters").json(&cluster).await.is(201);
    Fleet { plane, alder, birch, api }
}

async fn make(api: &Client, job: Value) -> JobView {
    api.post(JOBS).json(&job).await.data(201)
}

fn busybox(more: Value) -> Value {
    let mut job = json!({ "image": "busybox" });
    job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    job
}

async fn job(api: &Client, made: &JobView) -> JobView {
    api.get(format!("{JOBS}/{}", made.id)).await.data(200)
}

async fn tasks(api: &Client, made: &JobView) -> Vec<TaskView> {
    api.get(format!("{JOBS}/{}/tasks?limit=200", made.id)).await.data(200)
}

async fn until(api: &Client, made: &JobView, state: JobState) -> JobView {
    eventually(&format!("job {} is {state:?}", made.id), async || {
        let view = job(api, made).await;
        (view.state == state).then_some(view)
    })
    .await
}

/// Waits until the node runs so many tasks.
async fn runs(agent: &FakeAgent, count: usize) -> Vec<nm_link::contract::TaskKey> {
    eventually(&format!("it runs {count}"), async || {
        let keys: Vec<_> = agent.running_tasks().into_iter().map(|r| r.key).collect();
        (keys.len() == count).then_some(keys)
    })
    .await
}

/// Nothing ran twice at one time, and no attempt more than once.
fn once_at_a_time(agents: &[&FakeAgent]) {
    let mut runs: BTreeMap<(String, u32), Vec<_>> = BTreeMap::new();
    for ran in agents.iter().flat_map(|a| a.ran_tasks()) {
        runs.entry((ran.key.job.to_string(), ran.key.index)).or_default().push(ran);
    }
    for (task, mut runs) in runs {
        runs.sort_by_key(|r| r.began);
        for pair in runs.windows(2) {
            assert!(
                pair[0].ended.is_some_and(|end| end <= pair[1].began),
                "{task:?} ran twice at once: {runs:?}"
            );
            assert!(pair[0].key.attempt < pair[1].key.attempt, "{task:?}: {runs:?}");
        }
    }
}

async fn an_array_runs_to_its_end(database: Database) {
    let fleet = fleet(database).await;
    fleet.alder.tasks_end(DONE);
    fleet.birch.tasks_end(DONE);
    let made = make(
        &fleet.api,
        busybox(json!({ "name": "sum", "array": { "size": 50 }, "command": ["true"], "environment": { "DB_PASSWORD": "hunter2" } })),
    )
    .await;
    assert_eq!((made.counts.total(), made.environment.0.len()), (50, 1));
    assert!(!serde_json::to_string(&made).unwrap().contains("hunter2"));
    let done = until(&fleet.api, &made, JobState::Succeeded).await;
    assert_eq!((done.counts.succeeded, done.attempts), (50, 50));
    assert!((done.progress - 100.0).abs() < f64::EPSILON && done.started.is_some() && done.finished.is_some());
    let all = tasks(&fleet.api, &made).await;
    assert!(
        all.iter()
            .zip(0..)
            .all(|(task, n)| task.index == n && task.state == TaskState::Succeeded && task.attempts == 1)
    );
    assert_eq!(fleet.alder.ran_tasks().len() + fleet.birch.ran_tasks().len(), 50);
    once_at_a_time(&[&fleet.alder, &fleet.birch]);
    eventually("both are told that it is written", async || {
        (fleet.alder.held_tasks().is_empty() && fleet.birch.held_tasks().is_empty()).then_some(())
    })
    .await;
    // What was said of it.
    let events: Vec<ClusterEventView> = fleet.api.get("/api/capabilities/clusters/crunch/events").await.data(200);
    let kinds: Vec<ClusterEventKind> = events.iter().map(|e| e.kind).collect();
    assert!(
        kinds.contains(&ClusterEventKind::JobMade) && kinds.contains(&ClusterEventKind::JobSucceeded),
        "{kinds:?}"
    );
    let listed: Vec<JobView> = fleet.api.get(format!("{JOBS}?state=succeeded")).await.data(200);
    assert_eq!(listed.len(), 1);
    let lines: Vec<Value> = fleet.api.get(format!("{JOBS}/{}/logs?task=7", made.id)).await.data(200);
    assert!(lines[0]["line"].as_str().unwrap().contains("-7-1"), "{lines:?}");
    let metrics = fleet.api.get("/metrics").await.text();
    assert!(
        metrics.contains("neuralmesh_job_attempts_total{outcome=\"succeeded\"} 50"),
        "{metrics}"
    );
    fleet.api.delete(format!("{JOBS}/{}", made.id)).await.is(200);
    fleet.api.get(format!("{JOBS}/{}", made.id)).await.refused(404, "job_not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_task_gets() {
    let fleet = fleet(Database::sqlite()).await;
    let made = make(
        &fleet.api,
        busybox(json!({
            "command": ["work"], "environment": { "A": "b" }, "array": { "size": 2, "variable": "N" }, "cpu": 1, "memory": "64m", "timeout": 9,
        })),
    )
    .await;
    let all = eventually("both run", async || {
        let mut all = fleet.alder.running_tasks();
        all.extend(fleet.birch.running_tasks());
        all.sort_by_key(|r| r.key.index);
        (all.len() == 2).then_some(all)
    })
    .await;
    for (run, index) in all.iter().zip(0u32..) {
        let environment: BTreeMap<String, String> = run.spec.environment.0.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        assert_eq!(
            environment,
            BTreeMap::from([("A".into(), "b".into()), ("N".into(), index.to_string())])
        );
        assert_eq!((run.timeout, run.cores.len(), run.key.attempt), (Some(9), 1, 1));
        assert_eq!(run.spec.memory_limit.as_ref().unwrap().as_str(), "64m");
    }
    let running = job(&fleet.api, &made).await;
    assert_eq!((running.state, running.counts.running), (JobState::Running, 2));
    fleet
        .api
        .delete("/api/capabilities/clusters/crunch")
        .await
        .refused(409, "jobs_not_finished");
    fleet.api.post(format!("{JOBS}/{}/cancel", made.id)).await.is(200);
    assert_eq!(until(&fleet.api, &made, JobState::Cancelled).await.counts.cancelled, 2);
    fleet.api.delete("/api/capabilities/clusters/crunch").await.is(200);
    assert!(fleet.plane.app().store.all(nm_store::Kind::Job).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_told_apart_and_tried_again() {
    let fleet = fleet(Database::sqlite()).await;
    for (outcome, code) in [
        (TaskOutcome::ExitCode, 3),
        (TaskOutcome::OutOfMemory, 137),
        (TaskOutcome::Timeout, 143),
        (TaskOutcome::NotStarted, 0),
    ] {
        for agent in [&fleet.alder, &fleet.birch] {
            agent.tasks_end(Some((outcome, code)));
        }
        let made = make(&fleet.api, busybox(json!({ "retries": { "limit": 2, "backoff": 0 } }))).await;
        let failed = until(&fleet.api, &made, JobState::Failed).await;
        assert_eq!((failed.attempts, failed.counts.failed), (3, 1));
        let task = &tasks(&fleet.api, &made).await[0];
        assert_eq!((task.outcome, task.exit_code), (Some(outcome), Some(code)));
    }
    // A pause is kept, and seen.
    for agent in [&fleet.alder, &fleet.birch] {
        agent.tasks_end(Some((TaskOutcome::ExitCode, 1)));
    }
    let made = make(&fleet.api, busybox(json!({ "retries": { "limit": 1, "backoff": 3600 } }))).await;
    eventually("it waits", async || {
        let task = tasks(&fleet.api, &made).await.remove(0);
        (task.attempts == 1 && task.state == TaskState::Queued && task.not_before.is_some()).then_some(())
    })
    .await;
    fleet.api.post(format!("{JOBS}/{}/cancel", made.id)).await.is(200);
    until(&fleet.api, &made, JobState::Cancelled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_wait_for_others() {
    let fleet = fleet(Database::sqlite()).await;
    let first = make(&fleet.api, busybox(json!({ "cpu": 0.5 }))).await;
    let second = make(&fleet.api, busybox(json!({ "dependsOn": [first.id] }))).await;
    let third = make(&fleet.api, busybox(json!({ "dependsOn": [second.id] }))).await;
    assert_eq!((second.state, third.state), (JobState::Waiting, JobState::Waiting));
    let run = eventually("the first runs", async || {
        [&fleet.alder, &fleet.birch].into_iter().find(|a| !a.running_tasks().is_empty())
    })
    .await;
    let key = runs(run, 1).await.remove(0);
    run.end_task(&key, TaskOutcome::Succeeded, 0);
    until(&fleet.api, &second, JobState::Running).await;
    eventually("the second was run, and fails", async || {
        let agents = [&fleet.alder, &fleet.birch];
        let (agent, run) = agents.into_iter().find_map(|a| Some((a, a.running_tasks().pop()?)))?;
        agent.end_task(&run.key, TaskOutcome::ExitCode, 1);
        Some(())
    })
    .await;
    until(&fleet.api, &second, JobState::Failed).await;
    let gone = until(&fleet.api, &third, JobState::Cancelled).await;
    assert!(gone.reason.unwrap().contains(second.id.as_str()));
    fleet
        .api
        .post(JOBS)
        .json(&busybox(json!({ "dependsOn": [second.id] })))
        .await
        .refused(409, "dependency_failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_is_refused() {
    let fleet = fleet(Database::sqlite()).await;
    let clusters = "/api/capabilities/clusters";
    let view: ClusterView = fleet.api.get(format!("{clusters}/crunch")).await.data(200);
    assert_eq!(
        (view.status, view.listen_port, view.entry_nodes.len(), view.conditions.len()),
        (ClusterStatus::Healthy, 0, 0, 0)
    );
    for (field, more) in [
        ("tls", json!({ "tls": { "selfSigned": true } })),
        ("sticky", json!({ "sticky": {} })),
        ("routes", json!({ "routes": [{ "host": "a.example" }] })),
        ("virtualAddress", json!({ "virtualAddress": { "address": "10.0.0.9" } })),
        ("listenPort", json!({ "listenPort": 80 })),
        ("entryNodes", json!({ "entryNodes": ["alder"] })),
        ("servers[0].weight", json!({ "servers": [{ "id": "alder", "weight": 2 }] })),
    ] {
        let mut body = json!({ "name": "other", "type": "compute", "servers": ["alder"] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fleet.api.post(clusters).json(&body).await.at_odds(field);
    }
    let patch = json!({ "type": "load-balanced" });
    fleet.api.patch(format!("{clusters}/crunch")).json(&patch).await.at_odds("type");
    let queue = json!({ "name": "web", "type": "load-balanced", "servers": ["alder"], "autoScaling": { "targetCpuPercent": 70, "targetQueueLength": 3 } });
    fleet.api.post(clusters).json(&queue).await.at_odds("autoScaling.targetQueueLength");
    fleet
        .api
        .post(JOBS)
        .json(&busybox(json!({ "array": { "size": 0 } })))
        .await
        .names("array.size");
    fleet
        .api
        .post(JOBS)
        .json(&busybox(json!({ "dependsOn": ["job_1_aaaaaaaaa"] })))
        .await
        .names("dependsOn[0]");
    let twice = busybox(json!({ "volumes": [{ "container": "/a" }, { "container": "/a" }] }));
    fleet.api.post(JOBS).json(&twice).await.clashes("volumes[1].container");
    fleet.api.get(format!("{JOBS}/nothing")).await.refused(404, "job_not_found");
    let narrow = fleet.plane.token(Role::Operator, &["clusters:write"]).await;
    narrow.post(JOBS).json(&busybox(json!({}))).await.refused(403, "forbidden");
    // A job of too large tasks waits, and says so.
    let large = make(&fleet.api, busybox(json!({ "cpu": 64 }))).await;
    assert!(job(&fleet.api, &large).await.reason.unwrap().contains("large enough"));
}

async fn killed_at_each_moment(database: Database) {
    let mut fleet = fleet(database).await;
    // A node that has been asked, and not answered; one that has run it, and could not tell.
    for (ask, when) in [(Ask::Tasks, When::Before), (Ask::Tasks, When::After), (Ask::TaskNews, When::After)] {
        fleet.alder.tasks_end(DONE);
        fleet.birch.tasks_end(DONE);
        let holds = [fleet.alder.hold(ask, when), fleet.birch.hold(ask, when)];
        let made = make(&fleet.api, busybox(json!({ "array": { "size": 6 } }))).await;
        tokio::select! {
            () = holds[0].reached(1) => {}
            () = holds[1].reached(1) => {}
        }
        fleet.plane.kill().await;
        drop(holds);
        fleet.alder.ready(&fleet.plane).await;
        fleet.birch.ready(&fleet.plane).await;
        fleet.api = fleet.plane.token(Role::Admin, &[]).await;
        let done = until(&fleet.api, &made, JobState::Succeeded).await;
        assert_eq!((done.counts.succeeded, done.attempts), (6, 6), "{ask:?} {when:?}");
        once_at_a_time(&[&fleet.alder, &fleet.birch]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_nodes_tasks_run_elsewhere_once_it_has_ended_them() {
    let fleet = fleet(Database::sqlite()).await;
    let made = make(&fleet.api, busybox(json!({ "array": { "size": 4 } }))).await;
    until(&fleet.api, &made, JobState::Running).await;
    let (lost, other) = eventually("alder or birch has some", async || {
        let [a, b] = [&fleet.alder, &fleet.birch].map(|agent| agent.running_tasks().len());
        (a + b == 4).then_some(if a > 0 {
            (&fleet.alder, &fleet.birch)
        } else {
            (&fleet.birch, &fleet.alder)
        })
    })
    .await;
    lost.unplug();
    lost.is(&fleet.plane, NodeStatus::NotReady).await;
    runs(other, 4).await;
    once_at_a_time(&[lost, other]);
    other.tasks_end(DONE);
    for run in other.running_tasks() {
        other.end_task(&run.key, TaskOutcome::Succeeded, 0);
    }
    let done = until(&fleet.api, &made, JobState::Succeeded).await;
    assert!(done.attempts > 4, "{done:?}");
    // What it had is of no account any more, and forgotten there too.
    lost.mend();
    lost.ready(&fleet.plane).await;
    eventually("it has nothing", async || lost.held_tasks().is_empty().then_some(())).await;
    assert_eq!(job(&fleet.api, &made).await.counts.succeeded, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_starts_again_goes_on() {
    let fleet = fleet(Database::sqlite()).await;
    fleet.api.post("/api/nodes/birch/cordon").await.is(200);
    let made = make(&fleet.api, busybox(json!({ "array": { "size": 3 } }))).await;
    let keys = runs(&fleet.alder, 3).await;
    fleet.alder.restart_tasks();
    fleet.alder.cut();
    fleet.alder.end_task(&keys[0], TaskOutcome::Succeeded, 0);
    fleet.alder.ready(&fleet.plane).await;
    for key in &keys[1..] {
        fleet.alder.end_task(key, TaskOutcome::Succeeded, 0);
    }
    let done = until(&fleet.api, &made, JobState::Succeeded).await;
    assert_eq!((done.attempts, fleet.alder.ran_tasks().len()), (3, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_loses_its_node_thrice_is_set_aside() {
    let fleet = fleet(Database::sqlite()).await;
    fleet.api.post("/api/nodes/birch/cordon").await.is(200);
    let made = make(&fleet.api, busybox(json!({}))).await;
    for attempt in 1..=3 {
        let keys = runs(&fleet.alder, 1).await;
        assert_eq!(keys[0].attempt, attempt);
        fleet.alder.reboot_tasks();
        fleet.alder.cut();
        fleet.alder.ready(&fleet.plane).await;
    }
    let aside = until(&fleet.api, &made, JobState::SetAside).await;
    assert_eq!((aside.counts.set_aside, aside.attempts), (1, 3));
    let task = &tasks(&fleet.api, &made).await[0];
    assert_eq!((task.state, task.outcome), (TaskState::SetAside, Some(TaskOutcome::NodeLost)));
    assert!(task.reason.as_ref().unwrap().contains("3 times"));
    let events: Vec<ClusterEventView> = fleet.api.get("/api/capabilities/clusters/crunch/events").await.data(200);
    assert!(events.iter().any(|e| e.kind == ClusterEventKind::TaskSetAside));
    assert_eq!(runs(&fleet.alder, 0).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_makes_one_job() {
    let fleet = fleet(Database::sqlite()).await;
    let body = busybox(json!({ "array": { "size": 2 } }));
    let one: JobView = fleet.api.post(JOBS).json(&body).idempotency_key("k").await.data(201);
    let same: JobView = fleet.api.post(JOBS).json(&body).idempotency_key("k").await.data(201);
    assert_eq!(one.id, same.id);
    fleet
        .api
        .post(JOBS)
        .json(&busybox(json!({})))
        .idempotency_key("k")
        .await
        .refused(409, "idempotency_key_reused");
    let all: Vec<JobView> = fleet.api.get(JOBS).await.data(200);
    assert_eq!(all.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_and_containers_are_promised_the_same_room_once() {
    let fleet = fleet(Database::sqlite()).await;
    let view: Value = fleet.api.get("/api/nodes/alder").await.data(200);
    let cpus = view["capacity"]["cpus"].as_u64().unwrap();
    fleet.api.post("/api/nodes/birch/cordon").await.is(200);
    let made = make(&fleet.api, busybox(json!({ "cpu": 1, "array": { "size": cpus + 5 } }))).await;
    let keys = eventually("alder is full", async || {
        let all = fleet.alder.running_tasks();
        (all.len() as u64 == cpus.min(16)).then_some(all)
    })
    .await;
    let held: NodeView = fleet.api.get("/api/nodes/alder").await.data(200);
    assert_eq!(
        (held.allocated.cpu, held.allocated.memory),
        (keys.len() as f64, (keys.len() as u64) << 27)
    );
    let of = async |state: &str| -> Vec<TaskView> {
        fleet
            .api
            .get(format!("{JOBS}/{}/tasks?limit=200&state={state}", made.id))
            .await
            .data(200)
    };
    let (running, queued) = (of("running").await, of("queued").await);
    assert_eq!((running.len(), queued.len() as u64), (keys.len(), cpus + 5 - keys.len() as u64));
    assert!(running.iter().all(|t| t.state == TaskState::Running) && queued.iter().all(|t| t.state == TaskState::Queued));
    let mut cores: Vec<u32> = keys.iter().flat_map(|r| r.cores.clone()).collect();
    cores.sort_unstable();
    let all = cores.len();
    cores.dedup();
    assert_eq!(cores.len(), all, "no core twice");
    let container = json!({ "name": "big", "image": "nginx", "cpuLimit": 1 });
    if cpus <= 16 {
        fleet.api.post("/api/containers").json(&container).await.refused(409, "no_place");
    }
    fleet.api.post(format!("{JOBS}/{}/cancel", made.id)).await.is(200);
    until(&fleet.api, &made, JobState::Cancelled).await;
    assert_eq!(of("cancelled").await.len() as u64, cpus + 5);
    let free: NodeView = fleet.api.get("/api/nodes/alder").await.data(200);
    assert_eq!((free.allocated.cpu, free.allocated.memory), (0.0, 0));
    fleet.api.post("/api/containers").json(&container).await.is(201);
}
