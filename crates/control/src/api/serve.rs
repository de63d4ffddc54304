//! Accepts connections of the API and the dashboard, with limits for slow and greedy clients, and lets go of them
//! gracefully.

use super::frame::Peer;
use super::pace::{Pace, Paced};
use crate::app::stopped;
use axum::Router;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt;

/// The most of a request's head that is read. What is over the API's own limit and under this one is answered in the API's
/// own words, by [`super::frame`]; what is over this one by hyper, with a bare 431.
const HEAD_LIMIT: usize = 16 * super::frame::HEAD_LIMIT;
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
            tracing::debug!(%error, client.address = %peer, "a connection's small packets will be sent late");
        }
        let router = router.clone();
        let mut stop = stop.clone();
        connections.spawn(async move {
            let pace = Pace::new();
            let stream = Paced::new(stream, pace.clone());
            let requests = pace.clone();
            let service = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                requests.handled();
                let (mut parts, body) = request.into_parts();
                parts.extensions.insert(Peer(peer));
                let answer = router
                    .clone()
                    .oneshot(http::Request::from_parts(parts, axum::body::Body::new(body)));
                let requests = requests.clone();
                async move { answer.await.map(|a| a.map(|body| Answered { body, pace: requests })) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .header_read_timeout(None)
                .max_buf_size(HEAD_LIMIT)
                .max_headers(512)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                .with_upgrades();
            let mut connection = std::pin::pin!(connection);
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = pace.too_slow() => return,
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

/// A response's body; when it is done with, the connection waits for its next request.
struct Answered {
    body: axum::body::Body,
    pace: Pace,
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.pace.answered();
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = axum::Error;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
