//! Active health checks: one task a member, shared by all workers.

use crate::cluster::Cluster;
use crate::instance::Instance;
use crate::member::Member;
use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use nm_types::proxy::{HealthCheck, Probe};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// After how long a member that is out is looked at again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The running checks, by cluster and member.
#[derive(Default)]
pub struct Checks(HashMap<(String, String), Running>);

struct Running {
    check: HealthCheck,
    address: SocketAddr,
    slow_start_ms: u32,
    task: AbortHandle,
}

impl Checks {
    /// Begins, goes on with, and ends checks as the clusters now ask for.
    pub fn follow<'a>(&mut self, clusters: impl Iterator<Item = &'a Arc<Cluster>>, instance: &Arc<Instance>) {
        let mut before = std::mem::take(&mut self.0);
        for cluster in clusters {
            for seat in &cluster.seats {
                let member = &seat.member;
                let key = (cluster.conf.id.clone(), member.id.to_string());
                let running = before.remove(&key);
                let Some(check) = &cluster.conf.health_check else {
                    if let Some(running) = running {
                        running.task.abort();
                        member.unchecked(instance);
                    }
                    continue;
                };
                let slow_start_ms = cluster.conf.slow_start_ms;
                let same = |r: &Running| &r.check == check && r.address == member.address && r.slow_start_ms == slow_start_ms;
                let running = match running {
                    Some(running) if same(&running) => running,
                    other => {
                        if let Some(other) = other {
                            other.task.abort();
                        }
                        let watch = watch(member.clone(), check.clone(), slow_start_ms, instance.clone());
                        Running {
                            check: check.clone(),
                            address: member.address,
                            slow_start_ms,
                            task: tokio::spawn(watch).abort_handle(),
                        }
                    }
                };
                self.0.insert(key, running);
            }
        }
        before.into_values().for_each(|gone| gone.task.abort());
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.0.values().for_each(|running| running.task.abort());
    }
}

/// Checks at each interval. A member that is out is looked at sooner, after [`FIRST_PAUSE`] and then each time twice as long up to
/// the interval: one that was added while it still started, or was started anew, would be without traffic for a whole interval. Only
/// one that stayed in for an interval begins with the short pause again, so that one that passes checks and fails traffic is in ever
/// more seldom.
async fn watch(member: Arc<Member>, check: HealthCheck, slow_start_ms: u32, instance: Arc<Instance>) {
    let interval = Duration::from_millis(u64::from(check.interval_ms));
    let patience = Duration::from_millis(u64::from(check.timeout_ms));
    let mut pause = FIRST_PAUSE.min(interval);
    loop {
        let next = Instant::now() + interval;
        let mut address = member.address;
        address.set_port(check.port.unwrap_or(address.port()));
        let result = match timeout(patience, probe(address, &check.probe)).await {
            Ok(result) => result.map_err(Failure::Answered),
            Err(_) => Err(Failure::Silent(format!("no answer within {} ms", check.timeout_ms))),
        };
        member.checked(result, &check, slow_start_ms, &instance);
        // An ejection may be one of before this check, or one that has its time: neither is a reason for another one.
        while !member.awaits_check(&instance) {
            if timeout_at(next, member.until_ejected()).await.is_err() {
                pause = FIRST_PAUSE.min(interval);
                break;
            }
        }
        if member.awaits_check(&instance) {
            sleep(pause).await;
            pause = (pause * 2).min(interval);
        }
    }
}

/// Why a check has failed.
pub enum Failure {
    /// By its answer, or by the connection that it refused.
    Answered(String),
    Silent(String),
}

async fn probe(address: SocketAddr, probe: &Probe) -> Result<(), String> {
    let stream = TcpStream::connect(address).await.map_err(|e| format!("can't connect: {e}"))?;
    let Probe::Http {
        path,
        expected_status,
        host,
    } = probe
    else {
        return Ok(());
    };
    let broken = |e: hyper::Error| format!("no right answer to GET {path}: {e}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let host = host.clone().unwrap_or_else(|| address.to_string());
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "neuralmesh-health-check")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let answer = std::pin::pin!(sender.send_request(request));
    let answer = match select(answer, connection).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, answer)) => answer.await,
    };
    let status = answer.map_err(broken)?.status().as_u16();
    if (expected_status.min..=expected_status.max).contains(&status) {
        Ok(())
    } else {
        Err(format!("GET {path} answered {status}"))
    }
}
