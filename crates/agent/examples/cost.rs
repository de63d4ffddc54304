//! What the agent costs, measured on this machine's Docker engine:
//! creating and starting against the same two calls on Docker's socket, and CPU and memory of the process with 50 containers.
//!
//! `cargo run --release -p nm-agent --example cost [containers] [seconds]`; needs the image `busybox:latest`.

use anyhow::{Context, Result, ensure};
use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use nm_agent::{Agent, AgentConfig};
use nm_link::contract::{CreateContainer, RemoveContainer, path};
use nm_types::{ContainerId, OperationId};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

const SOCKET: &str = "/var/run/docker.sock";

/// One call on a connection of its own, as `curl --unix-socket` does.
async fn raw(method: &str, path: &str, body: &str) -> Result<Value> {
    let mut stream = UnixStream::connect(SOCKET).await?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
    Ok(body.lines().find_map(|l| serde_json::from_str(l).ok()).unwrap_or(Value::Null))
}

async fn raw_create(name: &str) -> Result<String> {
    let body = json!({"Image": "busybox:latest", "Cmd": ["sleep", "100000"]}).to_string();
    let made = raw("POST", &format!("/containers/create?name={name}"), &body).await?;
    let id = made["Id"].as_str().context("no id")?.to_owned();
    raw("POST", &format!("/containers/{id}/start"), "").await?;
    Ok(id)
}

async fn agent_create(agent: &Agent, name: &str) -> Result<ContainerId> {
    let spec = serde_json::from_value(json!({"name": name, "image": "busybox:latest", "command": ["sleep", "100000"]}))?;
    let id = ContainerId::fresh(1);
    let body = CreateContainer {
        operation: OperationId::fresh(1),
        id: id.clone(),
        generation: 1,
        spec,
        start: true,
        registry: None,
    };
    let request = Request::post(path::CONTAINERS).body(Body::from(serde_json::to_vec(&body)?))?;
    let answer = agent.router().oneshot(request).await?.into_body().collect().await?.to_bytes();
    ensure!(String::from_utf8_lossy(&answer).contains("\"done\""), "{answer:?}");
    Ok(id)
}

async fn agent_remove(agent: &Agent, id: &ContainerId) -> Result<()> {
    let body = serde_json::to_vec(&RemoveContainer {
        force: true,
        volumes: true,
    })?;
    let request = Request::post(path::REMOVE.replace("{key}", id.as_str())).body(Body::from(body))?;
    ensure!(agent.router().oneshot(request).await?.status().is_success(), "a removal failed");
    Ok(())
}

/// Seconds of CPU this process has used, and its resident memory in MB.
fn used() -> Result<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .context("no VmRSS")?
        .trim()
        .trim_end_matches(" kB")
        .trim()
        .parse::<f64>()?;
    Ok((ticks / 100.0, kib / 1024.0))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let arguments: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let (count, seconds) = (arguments.first().copied().unwrap_or(50), arguments.get(1).copied().unwrap_or(60));
    let dir = tempfile::tempdir()?;
    let agent = Agent::new(AgentConfig {
        data_dir: dir.path().to_owned(),
        docker_socket: SOCKET.into(),
        own: Vec::new(),
        load_balancer: None,
        backup_worker: None,
    })
    .await?;
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (agent, stop) = (agent.clone(), stop.clone());
        async move { agent.run(stop).await }
    });
    let mark = std::process::id();

    // One after the other, in turns, so that both meet the same machine.
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for n in 0..20 {
        let began = Instant::now();
        let id = raw_create(&format!("nmc-{mark}-raw{n}")).await?;
        theirs.push(began.elapsed());
        raw("DELETE", &format!("/containers/{id}?force=1&v=1"), "").await?;
        let began = Instant::now();
        let id = agent_create(&agent, &format!("nmc-{mark}-our{n}")).await?;
        ours.push(began.elapsed());
        agent_remove(&agent, &id).await?;
    }
    let (theirs, ours) = (median(theirs), median(ours));
    println!(
        "create+start, one: Docker {theirs:.1?}, agent {ours:.1?}, {:.3}x",
        ours.as_secs_f64() / theirs.as_secs_f64()
    );

    let mut ratios = Vec::new();
    let mut kept: Vec<ContainerId> = Vec::new();
    for round in 0..3 {
        let began = Instant::now();
        let made =
            futures_util::future::try_join_all((0..count).map(|n| async move { raw_create(&format!("nmc-{mark}-raw{round}-{n}")).await }))
                .await?;
        let theirs = began.elapsed();
        futures_util::future::try_join_all(
            made.iter()
                .map(|id| async move { raw("DELETE", &format!("/containers/{id}?force=1&v=1"), "").await }),
        )
        .await?;
        for id in std::mem::take(&mut kept) {
            agent_remove(&agent, &id).await?;
        }
        let agent = &agent;
        let began = Instant::now();
        kept = futures_util::future::try_join_all(
            (0..count).map(|n| async move { agent_create(agent, &format!("nmc-{mark}-our{round}-{n}")).await }),
        )
        .await?;
        let ours = began.elapsed();
        println!(
            "create+start, {count} at once: Docker {theirs:.2?}, agent {ours:.2?}, {:.3}x",
            ours.as_secs_f64() / theirs.as_secs_f64()
        );
        ratios.push(ours.as_secs_f64() / theirs.as_secs_f64());
    }

    let (before, _) = used()?;
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (after, rss) = used()?;
    println!(
        "{count} containers at 1 Hz: {:.2}% of a core, {rss:.1} MB resident",
        (after - before) * 100.0 / began.elapsed().as_secs_f64()
    );
    for id in kept {
        agent_remove(&agent, &id).await?;
    }
    stop.cancel();
    running.await?;
    Ok(())
}
