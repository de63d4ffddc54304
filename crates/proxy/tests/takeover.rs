//! A new process takes over from the old one.

mod kit;

use http::{Method, StatusCode};
use kit::member::{Member, all, some};
use kit::{Connection, Load, Proxy, eventually};
use nm_waits::free_port;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_takes_over_under_load_and_no_request_fails() {
    let members = some(3).await;
    let mut proxy = Proxy::with(json!({"members": all(&members)})).await;
    let load = Load::start(proxy.address(), 16);
    // Clients that come with each request are those who would wait in a queue that is reset.
    let stop = Arc::new(AtomicBool::new(false));
    let (ends, address) = (stop.clone(), proxy.address());
    let newcomers = tokio::spawn(async move {
        let mut count = 0;
        while !ends.load(Ordering::SeqCst) {
            let mut connection = Connection::open(address).await;
            assert_eq!(connection.get("/").await.status, StatusCode::OK);
            count += 1;
        }
        count
    });
    let mut instances = std::collections::HashSet::new();
    for round in 0..20 {
        load.more(200).await;
        instances.insert(proxy.status().await["instance"].as_str().unwrap().to_owned());
        // More workers than before, and fewer.
        let next = Proxy::launch(proxy.folder.clone(), proxy.port, 1 + round % 3).await;
        load.more(100).await;
        eventually("the old one ends", async || proxy.has_ended()).await;
        proxy = next;
    }
    load.more(200).await;
    stop.store(true, Ordering::SeqCst);
    let newcomers = newcomers.await.unwrap();
    let (requests, failures) = load.end().await;
    assert_eq!(failures, Vec::<String>::new(), "of {requests}");
    assert_eq!(instances.len(), 20);
    println!("taken over 20 times under load: 0 of {requests} requests failed, 0 of {newcomers} new connections");
    assert_eq!(proxy.status().await["generation"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_members_goes_along() {
    let members = some(2).await;
    let ill = Member::http("ill", 0, |_| async {
        http::Response::builder()
            .status(500)
            .body(http_body_util::Full::from("ill"))
            .unwrap()
    })
    .await;
    let check = json!({"probe": {"type": "http", "path": "/"}, "intervalMs": 60_000, "fall": 1});
    let listeners = json!([{"routes": [{"cluster": "a"}]}]);
    let clusters = json!([
        {"id": "a", "healthCheck": check, "members": [ill.json(), members[0].json()]},
        {"id": "s", "mode": {"type": "active-standby", "failback": {"type": "manual"}}, "members": all(&members)},
    ]);
    let old = Proxy::start(listeners, clusters).await;
    let is_down = async |proxy: &Proxy| proxy.member_state("ill").await == "down";
    eventually("it is down", async || is_down(&old).await).await;
    let body = json!({"cluster": "s", "member": "m1"});
    assert_eq!(old.control(Method::POST, "/v1/failover", Some(body)).await.0, StatusCode::OK);
    let new = Proxy::launch(old.folder.clone(), old.port, 2).await;
    eventually("the old one ends", async || old.has_ended()).await;
    assert!(is_down(&new).await);
    let status = new.status().await;
    assert_eq!(status["clusters"][1]["activeMember"], "m1");
    assert_eq!(new.events().await.len(), 0, "nothing changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_configuration_comes_in_between() {
    let members = some(1).await;
    let proxy = Proxy::with(json!({"members": all(&members)})).await;
    let (listeners, clusters) = kit::simple(json!({"members": all(&members)}));
    // Somebody who begins to take over, and then does not.
    let mut path = proxy.socket.clone().into_os_string();
    path.push(".takeover");
    let mut begun = tokio::net::UnixStream::connect(path).await.unwrap();
    let mut length = [0; 4];
    begun.read_exact(&mut length).await.unwrap();
    let (status, answer) = proxy.try_put(listeners.clone(), clusters.clone()).await;
    assert_eq!(status, StatusCode::CONFLICT, "{answer}");
    assert_eq!(proxy.get("/").await.text(), "m0");
    drop(begun);
    eventually("it takes configurations again", async || {
        proxy.try_put(listeners.clone(), clusters.clone()).await.0 == StatusCode::OK
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_for_long_goes_on_in_the_old_process() {
    let member = Member::tcp("echo", 0, Arc::new(AtomicU64::new(0)), |mut stream| async move {
        let (mut from, mut to) = stream.split();
        drop(tokio::io::copy(&mut from, &mut to).await);
    })
    .await;
    let (folder, port, short) = (Arc::new(tempfile::tempdir().unwrap()), free_port(), Duration::from_millis(50));
    let old = Proxy::launch_with(folder.clone(), port, 1, short, Duration::from_secs(60)).await;
    old.put(
        json!([{"protocol": "tcp", "cluster": "c"}]),
        json!([{"id": "c", "members": [member.json()]}]),
    )
    .await;
    let mut stream = TcpStream::connect(old.address()).await.unwrap();
    let mut echo = async |word: &[u8]| {
        let mut back = vec![0; word.len()];
        stream.write_all(word).await.unwrap();
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, word);
    };
    echo(b"before").await;
    let new = Proxy::launch(folder, port, 1).await;
    let taken_over = Instant::now();
    while taken_over.elapsed() < short * 10 {
        echo(b"after").await;
    }
    assert!(!old.has_ended());
    drop(stream);
    eventually("it has ended", async || old.has_ended()).await;
    drop(new);
}
