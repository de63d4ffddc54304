//! Backup jobs, with a worker that is a script: what the agent does around it.

use crate::support::{Lines, Rig, docker, need_docker};
use axum::body::Body;
use http::{Method, StatusCode};
use nm_link::contract::{Action, AgentErrorCode, CancelJob, RunJob, path};
use nm_types::OperationId;
use nm_types::backup::job::{JobErrorCode, JobEvent, JobKey, Outcome};
use nm_types::container::{ContainerStatus, ObservedContainer};
use nm_waits::eventually;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Says `body` once it was told its job, which it keeps in `job`; each run is a line in `runs`.
fn worker(rig: &Rig, body: &str) {
    let dir = rig.dir.path().display();
    let script =
        format!("read -r job\nprintf '%s\\n' \"$job\" > {dir}/job\necho run >> {dir}/runs\n{body}\nwhile read -r more; do :; done\n");
    std::fs::write(rig.dir.path().join("worker.sh"), script).unwrap();
}

const STEP: &str = r#"echo '{"type":"step","name":"open"}'"#;
const DONE: &str = r#"echo '{"type":"done","outcome":{"is":"sent","bytes":3}}'"#;

fn fifo(rig: &Rig) -> PathBuf {
    let path = rig.dir.path().join("go");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    path
}

fn run(rig: &Rig, task: Value, prepare: Value) -> RunJob {
    let key = JobKey::new(&OperationId::fresh(1), "check").unwrap();
    serde_json::from_value(json!({
        "prepare": prepare,
        "job": {
            "key": key,
            "repository": {"place": {"kind": "path", "path": rig.dir.path().join("repository")}, "password": "secret"},
            "task": task,
        },
    }))
    .unwrap()
}

fn check() -> Value {
    json!({"do": "check"})
}

fn backup() -> Value {
    json!({"do": "backup", "type": "full", "host": "h", "label": "l", "tags": [], "time": "2026-01-01T00:00:00.000Z",
        "sources": [], "compression": true, "once": "o"})
}

async fn begin(rig: &Rig, request: &RunJob) -> Lines {
    let (status, body) = rig
        .send(Method::POST, path::BACKUP_RUN, Body::from(serde_json::to_vec(request).unwrap()))
        .await;
    assert_eq!(status, StatusCode::OK);
    Lines::new(body)
}

async fn last(lines: Lines) -> JobEvent {
    lines.all::<JobEvent>().await.pop().unwrap()
}

async fn opened(lines: &mut Lines) {
    loop {
        match lines.next::<JobEvent>().await.unwrap() {
            JobEvent::Step { name } if name == "open" => return,
            JobEvent::Step { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn away() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("no-docker.sock");
    Rig::start_on(&socket, dir).await
}

fn runs(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("runs")).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn a_job_is_joined_while_it_runs_and_remembered_after() {
    let rig = away().await;
    let go = fifo(&rig);
    worker(&rig, &format!("{STEP}\nread -r go < {}\n{DONE}", go.display()));
    let request = run(&rig, check(), json!({}));
    let mut first = begin(&rig, &request).await;
    opened(&mut first).await;
    let mut second = begin(&rig, &request).await;
    opened(&mut second).await;
    tokio::fs::write(&go, "go\n").await.unwrap();
    for lines in [first, second, begin(&rig, &request).await] {
        assert!(matches!(
            last(lines).await,
            JobEvent::Done {
                outcome: Outcome::Sent { bytes: 3 }
            }
        ));
    }
    assert_eq!(runs(rig.dir.path()), 1);
    let told = std::fs::read_to_string(rig.dir.path().join("job")).unwrap();
    assert!(told.contains("secret"), "{told}");
}

#[tokio::test]
async fn a_job_that_is_cancelled_has_that_as_its_outcome() {
    let rig = away().await;
    worker(&rig, STEP);
    let request = run(&rig, check(), json!({}));
    let mut lines = begin(&rig, &request).await;
    opened(&mut lines).await;
    let cancel = CancelJob {
        key: request.job.key.clone(),
    };
    rig.post::<Value>(path::BACKUP_CANCEL, &cancel).await.unwrap();
    for lines in [lines, begin(&rig, &request).await] {
        let JobEvent::Failed { error } = last(lines).await else { panic!() };
        assert_eq!(error.code, JobErrorCode::Cancelled);
    }
    assert_eq!(runs(rig.dir.path()), 1);
}

#[tokio::test]
async fn paths_of_the_machine_are_its_own() {
    let rig = away().await;
    worker(&rig, DONE);
    let own = rig.dir.path().join("data/x");
    for place in ["/etc/backups", "/root", own.to_str().unwrap()] {
        let mut request = run(&rig, check(), json!({}));
        request.job.repository.place = serde_json::from_value(json!({"kind": "path", "path": place})).unwrap();
        let JobEvent::Failed { error } = last(begin(&rig, &request).await).await else {
            panic!()
        };
        assert_eq!(error.code, JobErrorCode::Forbidden, "{place}");
    }
    let mut request = run(&rig, check(), json!({}));
    request.job.repository.place = serde_json::from_value(json!({"kind": "socket", "socket": "/run/docker.sock"})).unwrap();
    let JobEvent::Failed { error } = last(begin(&rig, &request).await).await else {
        panic!()
    };
    assert_eq!(error.code, JobErrorCode::Forbidden);
    assert_eq!(runs(rig.dir.path()), 0);
}

async fn state(docker_id: &str) -> String {
    docker(&["inspect", "--format", "{{.State.Status}}", docker_id]).await
}

#[tokio::test]
async fn a_container_stands_still_for_its_backup_and_runs_again_however_the_agent_ends() {
    need_docker!();
    let rig = Rig::start().await;
    worker(&rig, STEP);
    let (container, seen) = rig.sh("still", "while :; do sleep 1; done", json!({})).await;
    let prepare = json!({"container": container.id, "consistency": "pause"});
    let request = run(&rig, backup(), prepare);
    let mut lines = begin(&rig, &request).await;
    opened(&mut lines).await;
    assert_eq!(state(&seen.docker_id).await, "paused");
    let rig = rig.restarted().await;
    eventually("the container to run", || async {
        (state(&seen.docker_id).await == "running").then_some(())
    })
    .await;
    // It had no outcome: asked for again it runs again.
    worker(&rig, DONE);
    assert!(matches!(last(begin(&rig, &request).await).await, JobEvent::Done { .. }));
    assert_eq!(state(&seen.docker_id).await, "running");
    assert_eq!(runs(rig.dir.path()), 2);
}

#[tokio::test]
async fn a_container_whose_volume_is_restored_is_as_it_was_unless_it_was_told_to_stop() {
    need_docker!();
    let rig = Rig::start().await;
    let go = fifo(&rig);
    worker(&rig, &format!("{STEP}\nread -r go < {}\n{DONE}", go.display()));
    let volume = rig.name("data");
    docker(&["volume", "create", "--label", &format!("nmtest={}", rig.mark), &volume]).await;
    let more = json!({"volumes": [{"container": "/data", "host": volume}]});
    let (container, seen) = rig.sh("holder", "while :; do sleep 1; done", more).await;
    let prepare = json!({"restore": [{"from": "/volumes/data", "volume": volume, "replace": true}]});
    let restore = json!({"do": "restore", "snapshot": "ab", "items": []});
    for (generation, paused, told_to_stop, after) in [(2, false, false, "running"), (3, true, false, "paused"), (4, false, true, "exited")]
    {
        if paused {
            docker(&["pause", &seen.docker_id]).await;
            let is_paused = |seen: &ObservedContainer| seen.status == ContainerStatus::Paused;
            rig.watch().await.until(&seen.docker_id, "it is paused", is_paused).await;
        }
        let mut lines = begin(&rig, &run(&rig, restore.clone(), prepare.clone())).await;
        opened(&mut lines).await;
        assert_eq!(state(&seen.docker_id).await, "exited");
        if told_to_stop {
            let stop = Action::Stop { grace: None };
            rig.command(container.id.as_str(), generation, stop).await.unwrap();
        } else if !paused {
            // It would go on with what is replaced.
            let refused = rig.command(container.id.as_str(), generation, Action::Start).await.unwrap_err();
            assert_eq!(refused.code, AgentErrorCode::InUse, "{refused:?}");
        }
        tokio::fs::write(&go, "go\n").await.unwrap();
        assert!(matches!(last(lines).await, JobEvent::Done { .. }));
        assert_eq!(state(&seen.docker_id).await, after);
    }
    let told = std::fs::read_to_string(rig.dir.path().join("job")).unwrap();
    assert!(told.contains("/volumes/data") && told.contains(&volume), "{told}");
}

#[tokio::test]
async fn a_dump_reaches_the_worker_with_how_it_ended() {
    need_docker!();
    let rig = Rig::start().await;
    let (container, _) = rig.sh("database", "while :; do sleep 1; done", json!({})).await;
    // What stands in the job as the socket is connected to, and what comes is kept.
    let dir = rig.dir.path().display();
    let read = format!(
        r#"import json, socket; job = json.load(open("{dir}/job")); source = job["task"]["sources"][0]; s = socket.socket(socket.AF_UNIX)
s.connect(source["socket"]); open("{dir}/got", "wb").write(b"".join(iter(lambda: s.recv(65536), b"")))"#
    );
    std::fs::write(rig.dir.path().join("read.py"), read).unwrap();
    for (command, end) in [
        (json!(["echo", "$(id) `id`; 'x'"]), "{}"),
        (
            json!(["sh", "-c", "echo half; echo 'no such table' >&2; exit 4"]),
            "exit code 4: no such table",
        ),
        (json!(["no-such-tool"]), "no-such-tool"),
    ] {
        worker(&rig, &format!("/usr/bin/python3 {dir}/read.py\n{DONE}"));
        let prepare = json!({"container": container.id, "consistency": "dump", "dump": {"command": command, "file": "all.sql"}});
        assert!(matches!(
            last(begin(&rig, &run(&rig, backup(), prepare)).await).await,
            JobEvent::Done { .. }
        ));
        let told: Value = serde_json::from_str(&std::fs::read_to_string(rig.dir.path().join("job")).unwrap()).unwrap();
        assert_eq!(told["task"]["sources"][0]["at"], "/dumps/all.sql");
        let got = String::from_utf8_lossy(&std::fs::read(rig.dir.path().join("got")).unwrap()).into_owned();
        let (bytes, said) = got.split_once("\0\0\0\0").unwrap();
        assert!(said.contains(end), "{command}: {said}");
        if end == "{}" {
            assert!(bytes.ends_with("$(id) `id`; 'x'\n"), "{bytes}");
        }
    }
}
