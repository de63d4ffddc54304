//! Accepts connections of the API and the dashboard, with limits for slow and greedy clients, and lets go of them
//! gracefully.

use crate::app::stopped;
use super::frame::Peer;
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt;

/// The longest a client may take to send its request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// The most a request's head may hold.
const HEAD_LIMIT: usize = 16 * 1024;
/// How long open requests may go on once we are asked to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Serves `router` on `listener` until `stop` turns true; then answers what is under way and closes.
pub async fn serve(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: what is open goes on, and the next one may find room.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "nodelay");
        }
        let router = router.clone();
        let mut stop = stop.clone();
        connections.spawn(async move {
            let service = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (mut parts, body) = request.into_parts();
                parts.extensions.insert(Peer(peer));
                router.clone().oneshot(http::Request::from_parts(parts, axum::body::Body::new(body)))
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .max_buf_size(HEAD_LIMIT)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                .with_upgrades();
            let mut connection = std::pin::pin!(connection);
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = stopped(&mut stop) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, client.address = %peer, "a connection ended badly");
            }
        });
    }
    let drained = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::info!(open = connections.len(), "closing connections that did not end within the grace");
    }
}
