//! Tasks of jobs on a real engine: each attempt once, through restarts of the agent, and none without a word for too long.

use crate::support::{Lines, Rig, docker, need_docker};
use axum::body::Body;
use http::Method;
use nm_link::contract::{RunTask, TaskKey, TaskNews, TaskNewsPage, TaskResult, TasksAnswer, TasksCall, WatchEvent, path};
use nm_types::JobId;
use nm_types::container::LogLine;
use nm_types::job::TaskOutcome;
use nm_waits::{DEADLINE, eventually};
use serde_json::{Value, json};
use std::time::Duration;

const LONG: u64 = 600_000;

async fn call(rig: &Rig, call: TasksCall) -> TasksAnswer {
    rig.post(path::TASKS, &call).await.unwrap()
}

async fn token(rig: &Rig) -> Option<String> {
    Some(call(rig, TasksCall::default()).await.token)
}

fn task(rig: &Rig, script: &str, more: Value) -> RunTask {
    let key = TaskKey {
        job: JobId::fresh(1),
        index: 0,
        attempt: 1,
    };
    let mut spec = json!({ "command": ["sh", "-c", script] });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    RunTask {
        spec: rig.spec("task", spec),
        key,
        cores: Vec::new(),
        timeout: None,
        registry: None,
    }
}

async fn run(rig: &Rig, tasks: &[&RunTask], lease: u64) -> TasksAnswer {
    let token = token(rig).await;
    let run = tasks.iter().map(|t| (*t).clone()).collect();
    call(
        rig,
        TasksCall {
            token,
            lease,
            run,
            ..TasksCall::default()
        },
    )
    .await
}

/// How it ended, once it has.
async fn ended(rig: &Rig, key: &TaskKey) -> TaskResult {
    let told = async {
        let mut after = 0;
        loop {
            let instance = call(rig, TasksCall::default()).await.instance;
            let page: TaskNewsPage = rig
                .get(&format!("{}?instance={instance}&after={after}&wait=1000", path::TASK_NEWS))
                .await
                .unwrap();
            after = page.last;
            for news in page.news {
                if let TaskNews::Ended(result) = news
                    && result.key == *key
                {
                    return result;
                }
            }
        }
    };
    tokio::time::timeout(DEADLINE, told).await.expect("it ends")
}

async fn log(rig: &Rig, key: &TaskKey) -> Vec<String> {
    let (_, body) = rig
        .send(Method::GET, &format!("{}?key={key}", path::TASK_LOGS), Body::empty())
        .await;
    let lines: Vec<LogLine> = Lines::new(body).all().await;
    lines.into_iter().map(|l| l.line).collect()
}

async fn gone(key: &TaskKey) {
    let name = format!("name=^/{}$", key.docker_name());
    eventually("its container goes", async || {
        docker(&["ps", "-aq", "--filter", &name]).await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_attempt_runs_once_and_is_told_until_it_is_acknowledged() {
    need_docker!();
    let rig = Rig::start().await;
    let work = task(&rig, "echo hello; exit 3", json!({}));
    let none = call(
        &rig,
        TasksCall {
            lease: LONG,
            run: vec![work.clone()],
            list: true,
            ..TasksCall::default()
        },
    )
    .await;
    assert!(!none.leased && none.held == Some(Vec::new()), "nothing runs without a token");
    assert!(run(&rig, &[&work, &work], LONG).await.leased);
    let result = ended(&rig, &work.key).await;
    assert_eq!((result.outcome, result.exit_code), (TaskOutcome::ExitCode, Some(3)));
    gone(&work.key).await;
    // Asked once more, it is not run once more; and its log is there.
    run(&rig, &[&work], LONG).await;
    assert_eq!(log(&rig, &work.key).await, ["hello"]);
    let rig = rig.restarted().await;
    assert_eq!(ended(&rig, &work.key).await, result);
    let answer = call(
        &rig,
        TasksCall {
            acknowledge: vec![work.key.clone()],
            list: true,
            ..TasksCall::default()
        },
    )
    .await;
    assert_eq!(answer.held, Some(Vec::new()));
}

#[tokio::test]
async fn a_task_outlives_its_agent_and_is_gone_on_with() {
    need_docker!();
    let rig = Rig::start().await;
    let work = task(&rig, "while [ ! -e /go ]; do sleep 0.1; done; echo done", json!({}));
    run(&rig, &[&work], LONG).await;
    let name = work.key.docker_name();
    let running = format!("name=^/{name}$");
    eventually("it runs", async || {
        (!docker(&["ps", "-q", "--filter", &running]).await.is_empty()).then_some(())
    })
    .await;
    // It ends while nobody looks.
    let (rig, _) = rig.restarted_after(async { docker(&["exec", &name, "touch", "/go"]).await }).await;
    assert_eq!(ended(&rig, &work.key).await.outcome, TaskOutcome::Succeeded);
    assert_eq!(log(&rig, &work.key).await, ["done"]);
    gone(&work.key).await;
    // None of it was told as a container of somebody's.
    let mut watch = rig.watch().await;
    let told = watch.find("a snapshot", |event| match event {
        WatchEvent::Snapshot { containers, .. } => Some(containers),
        _ => None,
    });
    assert!(told.await.iter().all(|c| c.name != name));
}

#[tokio::test]
async fn without_a_word_tasks_are_ended() {
    need_docker!();
    let rig = Rig::start().await;
    let work = task(&rig, "sleep 1000", json!({}));
    assert!(run(&rig, &[&work], 3_000).await.leased);
    assert_eq!(ended(&rig, &work.key).await.outcome, TaskOutcome::LeaseEnded);
    gone(&work.key).await;
    // Also by the next process, where the time passed while none was there.
    let work = task(&rig, "sleep 1000", json!({}));
    assert!(run(&rig, &[&work], 2_000).await.leased);
    let until = tokio::time::Instant::now() + Duration::from_secs(3);
    // Its lease has to pass while no agent is there.
    let (rig, ()) = rig.restarted_after(tokio::time::sleep_until(until)).await;
    assert_eq!(ended(&rig, &work.key).await.outcome, TaskOutcome::LeaseEnded);
    gone(&work.key).await;
}

#[tokio::test]
async fn ends_are_told_apart() {
    need_docker!();
    let rig = Rig::start().await;
    let slow = RunTask {
        timeout: Some(1),
        ..task(&rig, "sleep 1000", json!({ "stopGrace": 1 }))
    };
    let hungry = task(&rig, "x=a; while true; do x=$x$x$x; done", json!({ "memoryLimit": "16m" }));
    let missing = task(&rig, "", json!({ "command": ["/no/such/program"] }));
    let forbidden = task(&rig, "true", json!({ "volumes": [{ "container": "/x", "host": "/etc" }] }));
    let pinned = RunTask {
        cores: vec![0],
        ..task(&rig, "grep Cpus_allowed_list /proc/self/status | cut -f2", json!({ "cpuLimit": 1 }))
    };
    run(&rig, &[&slow, &hungry, &missing, &forbidden, &pinned], LONG).await;
    for (work, outcome) in [
        (&slow, TaskOutcome::Timeout),
        (&hungry, TaskOutcome::OutOfMemory),
        (&missing, TaskOutcome::NotStarted),
        (&forbidden, TaskOutcome::NotStarted),
        (&pinned, TaskOutcome::Succeeded),
    ] {
        let result = ended(&rig, &work.key).await;
        assert_eq!(result.outcome, outcome, "{result:?}");
    }
    assert_eq!(log(&rig, &pinned.key).await.len(), 1);
}
