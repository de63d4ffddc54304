//! What changes while traffic flows: configurations, the active member, the process's end.

mod kit;

use http::{Method, Response, StatusCode};
use http_body_util::Full;
use kit::member::{Member, all, some};
use kit::{Connection, Load, Proxy, document, eventually, request};
use nm_waits::{free_port, soon};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::Notify;

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_changes_under_load_fail_no_request() {
    let members = some(4).await;
    let proxy = Proxy::with(json!({"members": all(&members)})).await;
    let load = Load::start(proxy.address(), 16);
    for round in 0..400 {
        // Members come and go, the algorithm changes, a second listener opens and closes.
        let some: Vec<_> = members
            .iter()
            .enumerate()
            .filter(|(i, _)| i % 4 != round % 4)
            .map(|(_, m)| m.json())
            .collect();
        let algorithm = ["round-robin", "weighted", "least-connections", "ip-hash"][round % 4];
        let (mut listeners, clusters) = kit::simple(json!({"algorithm": algorithm, "members": some}));
        if round % 2 == 0 {
            let other = json!({"id": "other", "port": free_port(), "routes": [{"cluster": "c"}]});
            listeners.as_array_mut().unwrap().push(other);
        }
        proxy.put(listeners, clusters).await;
        load.more(20).await;
    }
    let (requests, failures) = load.end().await;
    assert_eq!(failures, Vec::<String>::new(), "of {requests}");
    println!("400 configurations under load: 0 of {requests} requests failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_outlives_a_change() {
    let (release, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (waits, tells) = (release.clone(), arrived.clone());
    let slow = Member::http("slow", 0, move |_| {
        let (waits, tells) = (waits.clone(), tells.clone());
        async move {
            tells.notify_one();
            waits.notified().await;
            Response::new(Full::from("slow"))
        }
    })
    .await;
    let other = Member::named("other").await;
    let proxy = Proxy::with(json!({"members": [slow.json()]})).await;
    let mut connection = Connection::open(proxy.address()).await;
    let pending = tokio::spawn(async move { connection.get("/").await });
    soon("it arrives", arrived.notified()).await;
    let (listeners, clusters) = kit::simple(json!({"members": [other.json(), slow.json()]}));
    proxy.put(listeners, clusters).await;
    assert_eq!(
        proxy.status().await["clusters"][0]["members"][1]["active"],
        1,
        "it is still counted"
    );
    let (listeners, clusters) = kit::simple(json!({"members": [other.json()]}));
    proxy.put(listeners, clusters).await;
    release.notify_one();
    assert_eq!(pending.await.unwrap().text(), "slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_is_refused_and_the_old_one_stays() {
    let members = some(1).await;
    let proxy = Proxy::with(json!({"members": all(&members)})).await;
    let file = proxy.folder.path().join("proxy.json");
    let before = std::fs::read(&file).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let http = |port: u16| json!({"id": "x", "port": port, "routes": [{"cluster": "c"}]});
    let table = [
        (json!([{"routes": [{"cluster": "none"}]}]), 422, "listeners[0].routes[0].cluster"),
        (json!([{"routes": [], "typo": 1}]), 400, "listeners[0].typo"),
        (json!([{"routes": [{"cluster": "c"}]}, http(taken_port)]), 422, "listeners[1].port"),
        (
            json!([{"routes": [{"cluster": "c"}], "tls": {"certificates": [{"source": {"inline": {"certificate": "x", "key": "SECRET"}}}]}}]),
            422,
            "listeners[0].tls.certificates[0].source",
        ),
    ];
    for (listeners, status, field) in table {
        let (seen, answer) = proxy.try_put(listeners, json!([{"id": "c", "members": all(&members)}])).await;
        assert_eq!(
            (seen.as_u16(), answer["details"][0]["field"].as_str()),
            (status, Some(field)),
            "{answer}"
        );
        assert!(!answer.to_string().contains("SECRET"));
        assert_eq!(proxy.get("/").await.text(), "m0");
    }
    let old = document(0, proxy.port, json!([]), json!([]));
    assert_eq!(proxy.control(Method::PUT, "/v1/config", Some(old)).await.0, StatusCode::CONFLICT);
    assert_eq!(std::fs::read(&file).unwrap(), before);
    use std::os::unix::fs::PermissionsExt;
    for path in [&file, &proxy.socket] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
    }
    for (method, path, status) in [
        (Method::GET, "/v1/config", 405),
        (Method::GET, "/v2", 404),
        (Method::GET, "/v1/events?after=x", 400),
        (Method::POST, "/v1/failover", 400),
    ] {
        assert_eq!(proxy.control(method, path, None).await.0.as_u16(), status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_from_its_file_when_nobody_tells_it_anything() {
    let members = some(1).await;
    let first = Proxy::with(json!({"members": all(&members)})).await;
    let (folder, port) = (first.folder.clone(), first.port);
    first.drain().await;
    eventually("it ends", async || first.has_ended()).await;
    let second = Proxy::launch(folder, port, 1).await;
    assert_eq!(second.get("/").await.text(), "m0");
    assert_eq!(second.status().await["generation"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_answers_what_is_asked_and_then_ends() {
    let (release, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (waits, tells) = (release.clone(), arrived.clone());
    let member = Member::http("m", 0, move |request| {
        let (waits, tells) = (waits.clone(), tells.clone());
        async move {
            if request.uri().path() == "/slow" {
                tells.notify_one();
                waits.notified().await;
            }
            Response::new(Full::from("m"))
        }
    })
    .await;
    let proxy = Proxy::with(json!({"members": [member.json()]})).await;
    let mut idle = Connection::open(proxy.address()).await;
    assert_eq!(idle.get("/").await.header("connection"), None);
    let mut busy = Connection::open(proxy.address()).await;
    let pending = tokio::spawn(async move { busy.get("/slow").await });
    soon("it arrives", arrived.notified()).await;
    proxy.drain().await;
    eventually("the port is closed", async || {
        tokio::net::TcpStream::connect(proxy.address()).await.is_err()
    })
    .await;
    // A connection that was idle gets its next answer, and is told that it was the last.
    let last = idle.get("/").await;
    assert_eq!((last.text().as_str(), last.header("connection")), ("m", Some("close")));
    assert!(!proxy.has_ended());
    release.notify_one();
    assert_eq!(pending.await.unwrap().text(), "m");
    eventually("it ends", async || proxy.has_ended()).await;
    assert!(!proxy.socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_taken_away_ends_its_connections_in_order() {
    let members = some(1).await;
    let proxy = Proxy::with(json!({"members": all(&members)})).await;
    let mut connection = Connection::open(proxy.address()).await;
    connection.get("/").await;
    proxy.put(json!([]), json!([{"id": "c", "members": all(&members)}])).await;
    eventually("the port is closed", async || {
        tokio::net::TcpStream::connect(proxy.address()).await.is_err()
    })
    .await;
    let last = connection.get("/").await;
    assert_eq!((last.text().as_str(), last.header("connection")), ("m0", Some("close")));
}

#[tokio::test(flavor = "multi_thread")]
async fn active_standby_fails_over_and_back() {
    let mut members = some(3).await;
    let cluster = |failback: serde_json::Value, members: &[Member]| {
        kit::simple(json!({
            "mode": {"type": "active-standby", "failback": failback},
            "members": all(members), "ejection": {"timeMs": 200},
        }))
    };
    let (listeners, clusters) = cluster(json!({"type": "automatic", "afterMs": 100}), &members);
    let proxy = Proxy::start(listeners, clusters).await;
    let active = async || proxy.status().await["clusters"][0]["activeMember"].as_str().map(str::to_owned);
    let load = Load::start(proxy.address(), 4);
    assert_eq!(active().await.as_deref(), Some("m0"));
    let port = members[0].port;
    members[0].kill().await;
    eventually("the second takes over", async || active().await.as_deref() == Some("m1")).await;
    assert_eq!(proxy.get("/").await.text(), "m1");
    members[0] = Member::http("m0", port, |_| async { Response::new(Full::from("m0")) }).await;
    eventually("it fails back", async || active().await.as_deref() == Some("m0")).await;
    assert_eq!(members[2].seen(), 0, "one takes all traffic");

    // By hand, to a member that is named or the next; it stays there.
    let fail_over = async |body: serde_json::Value| proxy.control(Method::POST, "/v1/failover", Some(body)).await;
    let (status, answer) = fail_over(json!({"cluster": "c", "member": "m2"})).await;
    assert_eq!((status, &answer["activeMember"]), (StatusCode::OK, &json!("m2")));
    load.more(200).await;
    assert_eq!(active().await.as_deref(), Some("m2"));
    assert_eq!(fail_over(json!({"cluster": "c"})).await.1["activeMember"], "m0");
    assert_eq!(fail_over(json!({"cluster": "c", "member": "x"})).await.0, StatusCode::NOT_FOUND);
    assert_eq!(fail_over(json!({"cluster": "x"})).await.0, StatusCode::NOT_FOUND);

    // Without failback it stays where it went.
    let (listeners, clusters) = cluster(json!({"type": "manual"}), &members);
    proxy.put(listeners, clusters).await;
    members[0].kill().await;
    eventually("the second takes over", async || active().await.as_deref() == Some("m1")).await;
    members[0] = Member::http("m0", port, |_| async { Response::new(Full::from("m0")) }).await;
    eventually("the first is back", async || proxy.member_state("m0").await == "up").await;
    load.more(200).await;
    assert_eq!(active().await.as_deref(), Some("m1"));
    let (requests, failures) = load.end().await;
    assert_eq!(failures, Vec::<String>::new(), "of {requests}");
    let failovers: Vec<String> = proxy
        .events()
        .await
        .iter()
        .filter(|e| e["kind"] == "failover")
        .map(|e| e["member"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(failovers, ["m0", "m1", "m0", "m2", "m0", "m1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_for_events_waits_for_one() {
    let mut members = some(1).await;
    let proxy = Proxy::with(json!({"members": all(&members)})).await;
    let waiting = async { proxy.control(Method::GET, "/v1/events?after=0", None).await };
    let cause = async {
        members[0].kill().await;
        Connection::open(proxy.address())
            .await
            .send(request(Method::GET, "/", &[], ""))
            .await
    };
    let ((_, answer), _) = soon("an event comes", futures_util::future::join(waiting, cause)).await;
    assert_eq!(
        (&answer["events"][0]["kind"], &answer["last"]),
        (&json!("memberEjected"), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_may_go_to_every_address_and_wait_for_one_that_is_not_there() {
    let members = some(1).await;
    let proxy = Proxy::with(json!({"members": all(&members)})).await;
    let clusters = json!([{"id": "c", "members": all(&members)}]);
    // The port is its own already, if only on one address.
    for address in ["0.0.0.0", "127.0.0.1"] {
        proxy
            .put(json!([{"address": address, "routes": [{"cluster": "c"}]}]), clusters.clone())
            .await;
        assert_eq!(proxy.get("/").await.text(), "m0", "{address}");
    }
    // For documentation, so nobody has it.
    let absent = json!([{"routes": [{"cluster": "c"}]}, {"id": "absent", "address": "192.0.2.1", "routes": [{"cluster": "c"}]}]);
    proxy.put(absent, clusters).await;
    let status = proxy.status().await;
    let addresses: Vec<_> = status["listeners"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["address"].as_str())
        .collect();
    assert!(addresses.contains(&Some(&*format!("192.0.2.1:{}", proxy.port))), "{addresses:?}");
}
