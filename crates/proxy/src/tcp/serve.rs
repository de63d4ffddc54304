//! One TCP connection: a member is found, both are joined.

use super::{relay, splice};
use crate::access_log::Line;
use crate::balance::{Wish, hash_address};
use crate::cluster::Cluster;
use crate::dial;
use crate::instance::wall_clock;
use crate::io::Prefixed;
use crate::listener::{Listener, Rules};
use crate::member::{InFlight, Trouble};
use crate::worker::Worker;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

pub async fn serve(
    stream: Prefixed,
    client: SocketAddr,
    local: SocketAddr,
    listener: &Listener,
    rules: &Rules,
    cluster: &Arc<Cluster>,
    worker: &Arc<Worker>,
) {
    let (started, time) = (Instant::now(), wall_clock());
    let (mut stream, ahead) = stream.into_parts();
    let stats = &cluster.state.stats[worker.index];
    let found = connect(client, local, cluster, worker).await;
    let took = started.elapsed();
    stats.request(took, found.is_none());
    let mut member_id = None;
    let mut moved = relay::Moved::default();
    if let Some((mut member, in_flight)) = found {
        let shard = &in_flight.member().shards[worker.index].stats;
        shard.request(took, false);
        member_id = Some(in_flight.member().id.clone());
        if ahead.is_empty() || member.write_all(&ahead).await.is_ok() {
            let strict = cluster.conf.health_check.as_ref().is_some_and(|check| check.strict);
            let gone = async {
                match strict {
                    true => in_flight.member().until_down().await,
                    false => std::future::pending().await,
                }
            };
            moved = splice::join(&mut stream, &mut member, rules.tunnel_idle, &worker.scratch, gone).await;
            moved.from_client += ahead.len() as u64;
        }
        shard.bytes(moved.from_client, moved.to_client);
        stats.bytes(moved.from_client, moved.to_client);
    }
    if rules.access_log {
        worker.instance.access_log.write(&Line {
            time,
            listener: &listener.id,
            client: client.ip(),
            method: None,
            host: None,
            path: None,
            status: None,
            cluster: Some(&cluster.conf.id),
            member: member_id.as_deref(),
            bytes_in: moved.from_client,
            bytes_out: moved.to_client,
            duration_ms: started.elapsed().as_secs_f64() * 1e3,
            complete: moved.complete,
        });
    }
}

/// A connection to the first member that takes one.
async fn connect(client: SocketAddr, local: SocketAddr, cluster: &Cluster, worker: &Worker) -> Option<(TcpStream, InFlight)> {
    let mut wish = Wish {
        client: hash_address(client.ip()),
        ..Wish::default()
    };
    let header = cluster.conf.send_proxy_protocol.map(|version| (version, client, local));
    while let Some(seat) = cluster.pick(&wish, &worker.instance) {
        let member = &cluster.seats[seat].member;
        let mut in_flight = member.begin();
        if cluster.conf.member_limit.is_some() {
            in_flight.hold(cluster.seats[seat].slot().await?);
            if !member.is_up() {
                continue;
            }
        }
        match dial::dial(member.address, cluster.connect_timeout, header).await {
            Ok(stream) => {
                member.succeeded();
                return Some((stream, in_flight));
            }
            Err(why) => {
                member.failed(Trouble::Connect, &why, cluster, &worker.instance);
                member.shards[worker.index].stats.request(std::time::Duration::ZERO, true);
                wish.tried.add(seat);
                if wish.tried.count() > usize::from(cluster.conf.retries) {
                    return None;
                }
            }
        }
    }
    None
}
