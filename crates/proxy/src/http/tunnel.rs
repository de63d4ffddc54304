//! WebSocket and other upgrades: once the member agreed, bytes go both ways as they come.

use super::response_body::{Exchange, Incoming, ResponseBody};
use super::service::own;
use crate::cluster::Cluster;
use crate::listener::Rules;
use crate::member::InFlight;
use crate::tcp::relay;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::Arc;

/// Passes the member's 101 on and joins the two connections.
pub fn switch(
    response: Response<Incoming>,
    on_client: Option<OnUpgrade>,
    in_flight: InFlight,
    cluster: Arc<Cluster>,
    exchange: Exchange,
    rules: &Rules,
) -> Response<ResponseBody> {
    let (mut head, body) = response.into_parts();
    let protocol = head.headers.get(header::UPGRADE).cloned();
    let on_member = head.extensions.remove::<OnUpgrade>();
    let (Some(on_client), Some(on_member), Some(protocol)) = (on_client, on_member, protocol) else {
        return own(StatusCode::BAD_GATEWAY, "the server changed protocols unasked\n", exchange);
    };
    let client = exchange.client.clone();
    let idle = rules.tunnel_idle;
    super::headers::strip_hop_by_hop(&mut head.headers);
    head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers.insert(header::UPGRADE, protocol);
    let worker = client.worker();
    client.tracker().spawn(async move {
        // The link's sender must live until hyper has handed the connection over.
        let both = tokio::try_join!(on_client, on_member);
        drop(body);
        let Ok((ours, theirs)) = both else { return };
        let moved = relay::relay(&mut TokioIo::new(ours), &mut TokioIo::new(theirs), idle).await;
        let shard = &in_flight.member().shards[worker].stats;
        shard.bytes(moved.from_client, moved.to_client);
        cluster.state.stats[worker].bytes(moved.from_client, moved.to_client);
    });
    Response::from_parts(head, ResponseBody::own("", exchange))
}
