//! Many exchanges on one connection, in both directions, none in another's way.

mod support;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use nm_link::{Delivery, LinkError};
use std::time::Duration;
use support::control::Control;
use support::node::{Node, ask, at_least, get, pattern, post, sha256_of_pattern, text};
use support::soon;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_calls_at_once_with_a_slow_one_among_them() {
    let control = Control::start().await;
    let node = Node::start(&control).await;
    let link = control.linked(&node.id).await;
    let slow = tokio::spawn({
        let link = link.clone();
        async move { link.send(get("/hold")).await }
    });
    at_least(&node.doings.held, 1).await;
    let answers = join_all((0..20).map(|_| ask(&link, "/who"))).await;
    assert_eq!(answers, vec![node.id.to_string(); 20]);
    assert!(!slow.is_finished());
    node.doings.release.add_permits(1);
    assert_eq!(text(soon("the slow call", slow).await.unwrap().unwrap()).await, "released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_uploads_and_downloads_at_once() {
    const BIG: u64 = 24 * 1024 * 1024;
    let control = Control::start().await;
    let node = Node::start(&control).await;
    let link = control.linked(&node.id).await;
    let wanted = format!("{BIG} {}", sha256_of_pattern(BIG).await);
    let up = async { text(link.send(post("/sink", pattern(BIG))).await.unwrap()).await };
    let down = async {
        let (mut body, mut length) = (link.send(get(&format!("/source?{BIG}"))).await.unwrap().into_body(), 0);
        while let Some(frame) = body.frame().await {
            length += frame.unwrap().data_ref().map_or(0, Bytes::len) as u64;
        }
        length
    };
    let both_ways = async { text(link.send(post("/echo", pattern(BIG / 4))).await.unwrap()).await.len() as u64 };
    let (up, down, both_ways, who) = soon("the transfers", async { tokio::join!(up, down, both_ways, ask(&link, "/who")) }).await;
    assert_eq!((up, down, both_ways, who), (wanted, BIG, BIG / 4, node.id.to_string()));
}

/// A reader that stops costs one stream's window, never the others' share of the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_nobody_reads_do_not_stop_the_others() {
    let control = Control::start().await;
    let node = Node::start(&control).await;
    let link = control.linked(&node.id).await;
    let mut stalled = Vec::new();
    for _ in 0..24 {
        stalled.push(soon("a stream that stalls", link.send(get("/endless"))).await.unwrap());
        let endless = stream::repeat(Bytes::from_static(&[b'y'; 16_384]));
        stalled.push(soon("an upload that stalls", link.send(post("/unread", endless))).await.unwrap());
    }
    at_least(&node.doings.held, 24).await;
    // More than all of their windows together, through the same connection, both ways.
    const BIG: u64 = 40 * 1024 * 1024;
    let up = async { text(link.send(post("/sink", pattern(BIG))).await.unwrap()).await };
    let down = async { text_len(&link, BIG).await };
    let (up, down) = soon("the others", async { tokio::join!(up, down) }).await;
    assert_eq!(up.split(' ').next(), Some(BIG.to_string().as_str()));
    assert_eq!(down, BIG);
    drop(stalled);
    at_least(&node.doings.dropped, 24).await;
}

async fn text_len(link: &nm_link::server::LinkHandle, length: u64) -> u64 {
    let body = link.send(get(&format!("/source?{length}"))).await.unwrap().into_body();
    body.into_data_stream()
        .fold(0, |sum, chunk| async move { sum + chunk.unwrap().len() as u64 })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_no_longer_waits_is_heard_by_the_node() {
    let control = Control::start().await;
    let node = Node::start(&control).await;
    let link = control.linked(&node.id).await;

    let error = link.send_within(get("/hold"), Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(&error, LinkError::Timeout { .. }), "{error}");
    assert_eq!((error.delivery(), error.is_offline()), (Delivery::MayHaveBeenSent, false));
    at_least(&node.doings.dropped, 1).await;

    let mut body = link.send(get("/endless")).await.unwrap().into_body();
    soon("a first piece", body.frame()).await.unwrap().unwrap();
    drop(body);
    at_least(&node.doings.dropped, 2).await;
    assert_eq!(ask(&link, "/who").await, node.id.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_own_body_breaks_fails_alone() {
    let control = Control::start().await;
    let node = Node::start(&control).await;
    let link = control.linked(&node.id).await;
    let frames = stream::iter([Ok(hyper::body::Frame::data(Bytes::from_static(b"half"))), Err("the disk is gone")]);
    let request = http::Request::post("/sink").body(http_body_util::StreamBody::new(frames)).unwrap();
    let error = soon("the broken request", link.send(request)).await.unwrap_err();
    assert!(
        matches!(
            error,
            LinkError::Aborted {
                delivery: Delivery::MayHaveBeenSent,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(link.is_open());
    assert_eq!(ask(&link, "/who").await, node.id.to_string());
}

/// People close log views and hang up on calls all day long; the link outlives it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_of_cancelled_requests_leaves_the_link_standing() {
    let control = Control::start().await;
    let node = Node::start(&control).await;
    let link = control.linked(&node.id).await;
    for _ in 0..8 {
        // Taken back before the node can have looked at them.
        let mut calls = Vec::new();
        for _ in 0..200 {
            let mut call = Box::pin(link.send(get("/hold")));
            let first_poll = futures_util::poll!(&mut call);
            assert!(first_poll.is_pending());
            calls.push(call);
        }
        tokio::task::yield_now().await;
        drop(calls);
        // Dropped with data on its way.
        let bodies = join_all((0..200).map(|_| link.send(get("/endless")))).await;
        drop(bodies);
        assert_eq!(ask(&link, "/who").await, node.id.to_string());
    }
    assert!(link.is_open());
}
