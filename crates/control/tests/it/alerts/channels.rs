//! Channels: what they send to whom, and what they keep to themselves.

use super::receivers::{MailServer, Receiver};
use super::{all_told, busy, channel, fleet, host, rule, until};
use nm_testing::{Client, Database, TestControlPlane, TraceLog, both, eventually};
use nm_types::alert::AlertState;
use nm_types::alert::channel::{AlertChannelConfig, AlertChannelTest, AlertChannelView, CreatedAlertChannel};
use serde_json::{Value, json};

both!(channels_are_made_changed_and_removed, secrets_go_in_and_never_come_out);

async fn test(api: &Client, name: &str) -> AlertChannelTest {
    api.post(format!("/api/alerts/channels/{name}/test")).await.data(200)
}

async fn channels_are_made_changed_and_removed(database: Database) {
    let plane = TestControlPlane::start(database).await;
    let (admin, operator) = (plane.admin().await, plane.operator().await);
    let hook = json!({ "name": "hook", "type": "webhook", "url": "https://example.com/in?key=1" });
    operator.post("/api/alerts/channels").json(&hook).await.refused(403, "forbidden");
    let create = |key: &str| admin.post("/api/alerts/channels").json(&hook).idempotency_key(key);
    let made = create("one").await;
    let view: CreatedAlertChannel = made.data(201);
    // A lost answer is answered again, with the key that is shown once.
    let again: CreatedAlertChannel = create("one").await.data(201);
    assert!(view.secret.is_some() && view.secret == again.secret);
    create("two").await.refused(409, "name_taken");
    let read = operator.get("/api/alerts/channels/hook").await.is(200);
    let shown: AlertChannelView = read.data(200);
    assert_eq!(read.etag(), made.etag());
    assert_eq!(shown.secrets, ["url", "secret"]);
    assert_eq!(
        shown.config,
        AlertChannelConfig::Webhook {
            url: "https://example.com/in".into()
        }
    );
    let path = "/api/alerts/channels/hook";
    let renamed = admin
        .patch(path)
        .json(&json!({ "name": "in" }))
        .header("if-match", &made.etag())
        .await
        .is(200);
    assert_eq!(renamed.data::<AlertChannelView>(200).secrets, ["url", "secret"]);
    admin
        .delete("/api/alerts/channels/in")
        .header("if-match", &made.etag())
        .await
        .refused(412, "changed_meanwhile");
    admin.delete("/api/alerts/channels/in").await.is(200);
    admin.get("/api/alerts/channels/in").await.refused(404, "alert_channel_not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_of_a_channel_names_its_field() {
    let plane = TestControlPlane::sqlite().await;
    let api = plane.admin().await;
    let mail = json!({ "name": "x", "type": "email", "host": "mail.example.com", "from": "a@example.com", "to": ["b@example.com"] });
    let with = |base: &Value, field: &str, value: Value| {
        let mut body = base.clone();
        body[field] = value;
        body
    };
    let hook = json!({ "name": "x", "type": "webhook", "url": "https://example.com" });
    for (body, field) in [
        (json!({ "name": "x", "type": "webhook" }), "url"),
        (json!({ "name": "x", "type": "moon" }), "type"),
        (with(&hook, "url", json!("ftp://a")), "url"),
        (with(&hook, "url", json!("https://user:pw@example.com")), "url"),
        (with(&hook, "url", json!("https://1.2.3.4.5/")), "url"),
        (with(&hook, "secret", json!("short")), "secret"),
        (with(&hook, "token", json!("a")), "token"),
        (with(&hook, "moon", json!("a")), "moon"),
        (with(&mail, "host", json!("a b")), "host"),
        (with(&mail, "port", json!(0)), "port"),
        (with(&mail, "tls", json!("maybe")), "tls"),
        (with(&mail, "to", json!([])), "to"),
        (with(&mail, "to", json!(["b@example.com\r\nRCPT TO:<c@d>"])), "to[0]"),
        (with(&mail, "from", json!("nobody")), "from"),
        (json!({ "name": "x", "type": "slack" }), "url"),
        (json!({ "name": "x", "type": "telegram", "token": "1:a" }), "chatId"),
        (json!({ "name": "x", "type": "telegram", "chatId": "1" }), "token"),
        (json!({ "name": "x", "type": "telegram", "token": "1 a", "chatId": "1" }), "token"),
        (json!({ "name": "x", "type": "ntfy" }), "topic"),
        (json!({ "name": "x", "type": "ntfy", "topic": "a/b" }), "topic"),
    ] {
        let reply = api.post("/api/alerts/channels").json(&body).await;
        let refused = reply.refused(422, "invalid_field");
        assert_eq!(refused.details[0].field, field, "{body}: {}", reply.text());
    }
    for (given, missing) in [("username", "password"), ("password", "username")] {
        api.post("/api/alerts/channels")
            .json(&with(&mail, given, json!("a")))
            .await
            .clashes(missing);
    }
    // A change that does not fit what is there.
    channel(api, json!({ "name": "mail", "type": "email", "host": "mail.example.com", "username": "u", "password": "p", "from": "a@b.example", "to": ["c@d.example"] })).await;
    for (change, field) in [
        (json!({ "url": "https://example.com" }), "url"),
        (json!({ "to": [] }), "to"),
        // A password goes to the server it was meant for.
        (json!({ "host": "elsewhere.example.com" }), "password"),
        (json!({ "port": 2525 }), "password"),
        (json!({ "tls": "none" }), "password"),
    ] {
        let reply = api.patch("/api/alerts/channels/mail").json(&change).await;
        let body = reply.refused(409, "conflicting_fields");
        assert_eq!(body.details[0].field, field, "{change}: {}", reply.text());
    }
    let moved = json!({ "host": "elsewhere.example.com", "password": "again" });
    api.patch("/api/alerts/channels/mail").json(&moved).await.is(200);
}

/// Where the control plane never goes, whatever it is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forbidden_places() {
    let plane = TestControlPlane::sqlite().await;
    let api = plane.admin().await;
    for host in [
        "169.254.169.254",
        "127.0.0.2",
        "127.2",
        "0x7f000002",
        "[::1]",
        "[::ffff:127.0.0.2]",
        "0.0.0.0",
        "[fe80::1]",
        "100.100.100.200",
    ] {
        for (body, field) in [
            (
                json!({ "type": "webhook", "url": format!("http://{host}/latest/meta-data") }),
                "url",
            ),
            (json!({ "type": "slack", "url": format!("https://{host}/") }), "url"),
            (
                json!({ "type": "telegram", "token": "1:a", "chatId": "1", "apiBase": format!("http://{host}") }),
                "apiBase",
            ),
            (
                json!({ "type": "ntfy", "topic": "a", "server": format!("http://{host}:80") }),
                "server",
            ),
        ] {
            let mut body = body;
            body["name"] = "x".into();
            let reply = api.post("/api/alerts/channels").json(&body).await;
            assert_eq!(
                reply.refused(403, "address_not_allowed").details[0].field,
                field,
                "{host}: {}",
                reply.text()
            );
        }
    }
    let mail = json!({ "name": "x", "type": "email", "host": "169.254.169.254", "from": "a@b.example", "to": ["c@d.example"] });
    let reply = api.post("/api/alerts/channels").json(&mail).await;
    assert_eq!(reply.refused(403, "address_not_allowed").details[0].field, "host");
    let all: Vec<AlertChannelView> = api.get("/api/alerts/channels").await.data(200);
    assert!(all.is_empty());

    // A redirect is no way there either.
    let (receiver, inner) = (Receiver::start().await, Receiver::start().await);
    receiver.answers_with(307, &[("location", inner.url.clone())], "");
    channel(api, json!({ "name": "hook", "type": "webhook", "url": receiver.url })).await;
    let result = test(api, "hook").await;
    assert_eq!(
        (result.delivered, result.message.as_str()),
        (false, "the receiver answered 307: redirects are not followed")
    );
    assert!(inner.hits().is_empty());
    // And what a place says is not passed on.
    receiver.answers_with(500, &[], "the secrets of another place");
    let result = test(api, "hook").await;
    assert_eq!(result.message, "the receiver answered 500 Internal Server Error");
    // Nobody there.
    channel(
        api,
        json!({ "name": "nobody", "type": "webhook", "url": "http://127.0.0.1:9/secret-path" }),
    )
    .await;
    let result = test(api, "nobody").await;
    assert!(
        !result.delivered && result.message.contains("could not be reached") && !result.message.contains("secret-path"),
        "{result:?}"
    );
}

/// Each receiver's own form, with names that mean something there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slack_discord_telegram_and_ntfy() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    let receiver = Receiver::start().await;
    let url = &receiver.url;
    for body in [
        json!({ "name": "slack", "type": "slack", "url": format!("{url}/services/T0/B0/x") }),
        json!({ "name": "discord", "type": "discord", "url": format!("{url}/api/webhooks/1/x") }),
        json!({ "name": "telegram", "type": "telegram", "token": "12:abc-_D", "chatId": "-1001", "apiBase": url }),
        json!({ "name": "ntfy", "type": "ntfy", "server": url, "topic": "fleet", "token": "tk_1" }),
    ] {
        let made = channel(&api, body).await;
        assert_eq!(made.secret, None);
    }
    let mut spec = busy(&["slack", "discord", "telegram", "ntfy"]);
    spec["name"] = "<!channel> & **@everyone** \"<b>\"".into();
    let rule = rule(&api, spec).await;
    agent.report(host(95.0));
    receiver.until(4).await;
    agent.report(host(10.0));
    receiver.until(8).await;
    all_told(&plane).await;
    until(&api, &rule, AlertState::Resolved).await;
    let hits = receiver.hits();
    let find = |path: &str, event: &str| {
        let mut found = hits.iter().filter(|h| h.path == path && h.event() == event);
        let hit = found.next().unwrap_or_else(|| panic!("{path} {event}: {hits:?}")).clone();
        assert!(found.next().is_none() && hit.header("content-type") == "application/json");
        hit
    };
    let since = format!("since {}", super::alerts(&api, &rule).await[0].since);
    let said = "CPU use of node alder is 95%, above its limit of 90%";

    let slack = find("/services/T0/B0/x", "firing").json();
    let headline = "FIRING critical: <!channel> & **@everyone** \"<b>\", alder";
    assert_eq!(
        slack,
        json!({
            "text": "FIRING critical: &lt;!channel&gt; &amp; **@everyone** \"&lt;b&gt;\", alder",
            "attachments": [{ "color": "#d73a49", "blocks": [
                { "type": "header", "text": { "type": "plain_text", "text": headline, "emoji": false } },
                { "type": "section", "text": { "type": "mrkdwn", "text": said, "verbatim": true } },
                { "type": "context", "elements": [{ "type": "plain_text", "text": since, "emoji": false }] },
            ] }],
        })
    );
    let discord = find("/api/webhooks/1/x", "firing").json();
    assert_eq!(discord["allowed_mentions"], json!({ "parse": [] }));
    let embed = &discord["embeds"][0];
    assert_eq!((&embed["title"], &embed["color"]), (&json!(headline), &json!(0xd73a49)));
    assert_eq!(embed["description"], "CPU use of node alder is 95%, above its limit of 90%");
    assert_eq!(find("/api/webhooks/1/x", "resolved").json()["embeds"][0]["color"], 0x2ea043);
    let telegram = find("/bot12:abc-_D/sendMessage", "firing").json();
    assert_eq!(
        telegram,
        json!({
            "chat_id": "-1001", "parse_mode": "HTML", "link_preview_options": { "is_disabled": true }, "disable_notification": false,
            "text": format!("<b>FIRING critical: &lt;!channel&gt; &amp; **@everyone** &quot;&lt;b&gt;&quot;, alder</b>\n{said}\n<i>{since}</i>"),
        })
    );
    assert_eq!(find("/bot12:abc-_D/sendMessage", "resolved").json()["disable_notification"], true);
    let ntfy = find("/", "firing");
    assert_eq!(ntfy.header("authorization"), "Bearer tk_1");
    assert_eq!(
        ntfy.json(),
        json!({ "topic": "fleet", "title": headline, "message": format!("{said}\n{since}"), "priority": 5, "tags": ["rotating_light"] })
    );

    // The test button, and what each says that does not take it.
    assert!(test(&api, "telegram").await.delivered);
    for (name, status, body, says) in [
        ("slack", 404, "no_service", "404 Not Found: no_service"),
        ("slack", 500, "<html>a page</html>", "500 Internal Server Error"),
        (
            "discord",
            404,
            "{\"message\":\"Unknown Webhook\",\"code\":10015}",
            "404 Not Found: Unknown Webhook",
        ),
        (
            "telegram",
            400,
            "{\"ok\":false,\"description\":\"Bad Request: chat not found\"}",
            "400 Bad Request: Bad Request: chat not found",
        ),
        ("ntfy", 403, "{\"code\":40301,\"error\":\"forbidden\"}", "403 Forbidden: forbidden"),
    ] {
        receiver.answers_with(status, &[], body);
        let result = test(&api, name).await;
        assert_eq!(
            (result.delivered, result.message),
            (false, format!("the receiver answered {says}")),
            "{name}"
        );
    }
    // A page that is no Telegram at all.
    receiver.answers_with(200, &[], "<html>hello</html>");
    assert!(!test(&api, "telegram").await.delivered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    let server = MailServer::start().await;
    let mail = json!({
        "name": "mail", "type": "email", "host": "127.0.0.1", "port": server.port, "tls": "none", "username": "robot", "password": "pass word",
        "from": "mesh@example.com", "to": ["ann@example.com", "bob@example.org"],
    });
    let made = channel(&api, mail).await;
    assert_eq!(made.view.secrets, ["password"]);
    let mut spec = busy(&["mail"]);
    spec["name"] = "Bézier\u{2028} load".into();
    let rule = rule(&api, spec).await;
    agent.report(host(95.0));
    server.until(1).await;
    // Turned away for now: it comes again.
    server.refuses("451 4.3.0 later");
    agent.report(host(10.0));
    let mails = server.until(2).await;
    all_told(&plane).await;
    let over = until(&api, &rule, AlertState::Resolved).await;
    let told = super::detail(&api, &over).await.deliveries;
    assert_eq!(told.iter().map(|d| d.attempts).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(
        told[1].last_error.as_deref(),
        Some("the mail server refused it with 451: 4.3.0 later")
    );
    let first = &mails[0];
    assert_eq!(first.hello, "example.com");
    assert_eq!(first.login, Some(("robot".into(), "pass word".into())));
    assert!(first.from.starts_with("FROM:<mesh@example.com>"), "{first:?}");
    assert_eq!(first.to, ["TO:<ann@example.com>", "TO:<bob@example.org>"]);
    let (head, body) = first.text.split_once("\n\n").unwrap();
    for line in [
        "From: mesh@example.com",
        "To: ann@example.com, bob@example.org",
        "Auto-Submitted: auto-generated",
        &format!("X-NeuralMesh-Delivery: {}", told[0].id),
        &format!("Message-ID: <{}@example.com>", told[0].id),
        &format!("References: <{}@example.com>", over.id),
        "Content-Type: text/plain; charset=utf-8",
    ] {
        assert!(head.lines().any(|l| l == line), "{line}: {head}");
    }
    assert!(head.contains("Subject: ") && head.contains("Date: "), "{head}");
    assert!(body.contains("CPU use of node alder is 95%, above its limit of 90%"), "{body}");

    assert!(test(&api, "mail").await.delivered);
    assert!(server.until(3).await[2].text.contains("Nothing is wrong."));
    // A server that can't encrypt gets nothing where that was asked for, above all no password.
    let before = server.said().len();
    let starttls = json!({ "tls": "starttls", "password": "another password" });
    api.patch("/api/alerts/channels/mail").json(&starttls).await.is(200);
    let result = test(&api, "mail").await;
    assert!(!result.delivered, "{result:?}");
    let said = server.said()[before..].to_owned();
    assert!(said.contains("EHLO") && !said.contains("AUTH") && !said.contains("MAIL"), "{said}");
    // A wrong password is told, and not quoted.
    let wrong = json!({ "tls": "none", "password": "wrong password" });
    api.patch("/api/alerts/channels/mail").json(&wrong).await.is(200);
    let result = test(&api, "mail").await;
    assert!(
        !result.delivered && result.message.contains("535") && !result.message.contains("wrong"),
        "{result:?}"
    );
}

/// Secrets of every type of channel, looked for in every answer, the log at its least level, and the database.
async fn secrets_go_in_and_never_come_out(database: Database) {
    let log = TraceLog::listen();
    let (mut plane, agent, api) = fleet(database).await;
    let receiver = Receiver::start().await;
    let mail_server = MailServer::start().await;
    let url = &receiver.url;
    let planted = [
        "plantedwebhookkey1",
        "plantedslackpath2",
        "plantedtelegram3",
        "plantedntfytoken4",
        "planted mail password5",
        "plantedquery6",
        "planteddiscord7",
    ];
    let bodies = [
        json!({ "name": "hook", "type": "webhook", "url": format!("{url}/a?key={}", planted[5]), "secret": planted[0] }),
        json!({ "name": "slack", "type": "slack", "url": format!("{url}/services/{}", planted[1]) }),
        json!({ "name": "discord", "type": "discord", "url": format!("{url}/api/webhooks/{}", planted[6]) }),
        json!({ "name": "telegram", "type": "telegram", "token": format!("1:{}", planted[2]), "chatId": "1", "apiBase": url }),
        json!({ "name": "ntfy", "type": "ntfy", "server": url, "topic": "a", "token": planted[3] }),
        json!({ "name": "mail", "type": "email", "host": "127.0.0.1", "port": mail_server.port, "tls": "none", "username": "u", "password": planted[4],
            "from": "a@b.example", "to": ["c@d.example"] }),
    ];
    let mut replies = Vec::new();
    for body in &bodies {
        replies.push(
            api.post("/api/alerts/channels")
                .json(body)
                .idempotency_key("k".repeat(replies.len() + 1).as_str())
                .await
                .is(201),
        );
        replies.push(api.post("/api/alerts/channels").json(body).await.is(409));
    }
    let names = ["hook", "slack", "discord", "telegram", "ntfy", "mail"];
    let rule = rule(&api, busy(&names)).await;
    // Each fails at first, in its own way.
    for _ in 0..5 {
        receiver.answers_with(500, &[], &planted.join(" "));
    }
    agent.report(host(95.0));
    receiver.until(10).await;
    agent.report(host(10.0));
    all_told(&plane).await;
    let over = until(&api, &rule, AlertState::Resolved).await;
    replies.push(api.get(format!("/api/alerts/{}", over.id)).await.is(200));
    for name in names {
        replies.push(api.post(format!("/api/alerts/channels/{name}/test")).await.is(200));
        receiver.answers_with(400, &[], &planted.join(" "));
        replies.push(api.post(format!("/api/alerts/channels/{name}/test")).await.is(200));
        replies.push(api.get(format!("/api/alerts/channels/{name}")).await.is(200));
        replies.push(
            api.patch(format!("/api/alerts/channels/{name}"))
                .json(&json!({ "name": format!("{name}-2") }))
                .await
                .is(200),
        );
    }
    plane.kill().await;
    eventually("it is back", async || (api.get("/readyz").await.status == 200).then_some(())).await;
    for path in [
        "/api/alerts",
        "/api/alerts/channels",
        "/api/alerts/rules",
        "/api/audit?limit=200",
        "/api/openapi.json",
    ] {
        replies.push(api.get(path).await.is(200));
    }
    plane.stop().await;
    let (log, kept) = (log.text(), plane.database().raw_bytes().await);
    assert!(log.contains("an alert could not be delivered"), "the log was listened to");
    let kept = String::from_utf8_lossy(&kept).into_owned();
    for secret in planted {
        let around = |text: &str| text.find(secret).map(|at| text[at.saturating_sub(200)..at].to_owned());
        assert_eq!(around(&log), None, "{secret} is in the log");
        assert_eq!(around(&kept), None, "{secret} is in the database");
        for reply in &replies {
            assert_eq!(around(&reply.text()), None, "{secret} is in {}", reply.text());
        }
    }
}
