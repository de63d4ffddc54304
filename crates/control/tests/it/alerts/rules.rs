//! The manners of rules and silences.

use super::{alerts, busy, channel, fleet, host, rule, until};
use nm_testing::{Database, TestControlPlane, both};
use nm_types::alert::{AlertRuleView, AlertSilenceView, AlertState, AlertView};
use nm_types::auth::AuditEntryView;
use serde_json::{Value, json};
use std::collections::HashSet;

both!(rules_are_made_changed_and_removed, silences_are_made_changed_and_ended);

async fn rules_are_made_changed_and_removed(database: Database) {
    let (plane, _agent, api) = fleet(database).await;
    let operator = plane.operator().await;
    channel(&api, json!({ "name": "hook", "type": "webhook", "url": "https://example.com/x" })).await;
    let create = |key: &str, body: &Value| operator.post("/api/alerts/rules").json(body).idempotency_key(key);
    let made = create("one", &busy(&["hook", "hook"])).await;
    let rule: AlertRuleView = made.data(201);
    assert_eq!((rule.channels.len(), rule.hold, rule.enabled, rule.repeat), (1, 0, true, None));
    assert_eq!(create("one", &busy(&["hook", "hook"])).await.data::<AlertRuleView>(201), rule);
    create("one", &busy(&[])).await.refused(409, "idempotency_key_reused");
    create("two", &busy(&[])).await.refused(409, "name_taken");

    // By name and by id, with the version that a change may name.
    let by_name = operator.get("/api/alerts/rules/Busy").await.is(200);
    assert_eq!(by_name.etag(), made.etag());
    assert_eq!(by_name.data::<AlertRuleView>(200), rule);
    let path = format!("/api/alerts/rules/{}", rule.id);
    let change = json!({ "enabled": false, "repeat": 600, "message": "look at it", "for": 5 });
    let changed = operator.patch(&path).json(&change).header("if-match", &made.etag()).await.is(200);
    let after: AlertRuleView = changed.data(200);
    assert_eq!(
        (after.enabled, after.repeat, after.hold, after.condition == rule.condition),
        (false, Some(600), 5, true)
    );
    for call in [operator.patch(&path).json(&json!({ "enabled": true })), operator.delete(&path)] {
        call.header("if-match", &made.etag()).await.refused(412, "changed_meanwhile");
    }
    let emptied: AlertRuleView = operator
        .patch(&path)
        .json(&json!({ "repeat": null, "message": null }))
        .await
        .data(200);
    assert_eq!((emptied.repeat, emptied.message), (None, None));
    let other = json!({ "name": "Other", "target": { "all": true }, "condition": { "type": "nodeLost" } });
    operator.post("/api/alerts/rules").json(&other).await.is(201);
    operator
        .patch(&path)
        .json(&json!({ "name": "Other" }))
        .await
        .refused(409, "name_taken");
    let taken = json!({ "name": "rule_1_aaaaaaaaa" });
    operator.patch(&path).json(&taken).await.refused(409, "name_reserved");
    api.delete("/api/alerts/channels/hook").await.refused(409, "channel_in_use");
    operator.delete(&path).await.is(200);
    operator.get(&path).await.refused(404, "alert_rule_not_found");
    api.delete("/api/alerts/channels/hook").await.is(200);

    let entries: Vec<AuditEntryView> = api.get("/api/audit?limit=200").await.data(200);
    let actions: HashSet<&str> = entries.iter().map(|e| e.action.as_str()).collect();
    for action in [
        "alertRule.create",
        "alertRule.update",
        "alertRule.remove",
        "alertChannel.create",
        "alertChannel.remove",
    ] {
        assert!(actions.contains(action), "{action}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_of_a_rule_names_its_field() {
    let (plane, _agent, _admin) = fleet(Database::sqlite()).await;
    let api = plane.operator().await;
    let with = |at: &str, value: Value| {
        let mut body = busy(&[]);
        match at.split_once('.') {
            Some((outer, inner)) => body[outer][inner] = value,
            None => body[at] = value,
        }
        body
    };
    for (at, value) in [
        ("name", json!("")),
        ("name", json!("a\nb")),
        ("moon", json!(1)),
        ("severity", json!("terrible")),
        ("for", json!(-1)),
        ("for", json!(604_801)),
        ("repeat", json!(59)),
        ("message", json!("")),
        ("enabled", json!("yes")),
        ("target.kind", json!("moon")),
        ("target.id", json!("../x")),
        ("target.label", json!("=a")),
        ("target.moon", json!(1)),
        ("condition.type", json!("moon")),
        ("condition.metric", json!("node.moon")),
        ("condition.op", json!("over")),
        ("condition.value", json!("much")),
        ("condition.value", Value::Null),
        ("condition.status", json!("unhealthy")),
        ("condition.moon", json!(1)),
    ] {
        let reply = api.post("/api/alerts/rules").json(&with(at, value.clone())).await;
        let body = reply.refused(422, "invalid_field");
        assert_eq!(body.details[0].field, at, "{value}: {}", reply.text());
    }
    let reply = api.post("/api/alerts/rules").json(&with("channels", json!(["a", "b"]))).await;
    assert_eq!(reply.refused(404, "alert_channel_not_found").details[0].field, "channels[0]");
    for (at, value, field) in [
        ("target.id", json!("alder"), "target"),
        ("target.all", json!(false), "target"),
        ("target.kind", json!("container"), "target.kind"),
        ("condition.resolveAt", json!(95), "condition.resolveAt"),
    ] {
        let reply = api.post("/api/alerts/rules").json(&with(at, value)).await;
        let body = reply.refused(409, "conflicting_fields");
        assert_eq!(
            body.details.iter().map(|d| d.field.as_str()).collect::<Vec<_>>(),
            [field],
            "{}",
            reply.text()
        );
    }
    // Ids that are nobody's.
    for (target, code) in [
        (json!({ "id": "nobody" }), "node_not_found"),
        (json!({ "id": "node_1_aaaaaaaaa" }), "node_not_found"),
        (json!({ "id": "cont_1_aaaaaaaaa" }), "node_not_found"),
    ] {
        let reply = api.post("/api/alerts/rules").json(&with("target", target)).await;
        assert_eq!(reply.refused(404, code).details[0].field, "target.id");
    }
    let health = json!({ "name": "x", "target": { "id": "nobody" }, "condition": { "type": "health", "status": "unhealthy" } });
    api.post("/api/alerts/rules").json(&health).await.refused(404, "server_not_found");
}

async fn silences_are_made_changed_and_ended(database: Database) {
    let plane = TestControlPlane::start(database).await;
    let api = plane.operator().await;
    let in_hours = |hours: i64| nm_types::Timestamp(plane.app().clock.now().0 + hours * 3_600_000);
    let silence = json!({ "matcher": {}, "from": in_hours(1), "until": in_hours(2), "comment": "later" });
    let create = |key: &str| api.post("/api/alerts/silences").json(&silence).idempotency_key(key);
    let made = create("one").await;
    let view: AlertSilenceView = made.data(201);
    assert!(!view.active);
    assert_eq!(create("one").await.data::<AlertSilenceView>(201), view);
    let path = format!("/api/alerts/silences/{}", view.id);
    let changed = api
        .patch(&path)
        .json(&json!({ "until": in_hours(3), "comment": "longer" }))
        .header("if-match", &made.etag())
        .await
        .is(200);
    assert_eq!(changed.data::<AlertSilenceView>(200).comment.as_str(), "longer");
    api.delete(&path)
        .header("if-match", &made.etag())
        .await
        .refused(412, "changed_meanwhile");
    for (from, until) in [(2, 1), (-2, -1), (0, 24 * 400)] {
        let bad = json!({ "matcher": {}, "from": in_hours(from), "until": in_hours(until), "comment": "x" });
        let body = api.post("/api/alerts/silences").json(&bad).await.refused(409, "conflicting_fields");
        assert_eq!(body.details[0].field, "until");
    }
    for (body, field) in [
        (json!({ "until": in_hours(1), "comment": "x" }), "matcher"),
        (
            json!({ "matcher": { "severity": "x" }, "until": in_hours(1), "comment": "x" }),
            "matcher.severity",
        ),
        (json!({ "matcher": {}, "until": "soon", "comment": "x" }), "until"),
        (json!({ "matcher": {}, "until": in_hours(1), "comment": "" }), "comment"),
        (json!({ "matcher": {}, "until": in_hours(1), "comment": "x", "moon": 1 }), "moon"),
    ] {
        api.post("/api/alerts/silences").json(&body).await.names(field);
    }
    for (matcher, field) in [
        (json!({ "ruleId": "nobody's" }), "matcher.ruleId"),
        (json!({ "serverId": "nobody" }), "matcher.serverId"),
    ] {
        let body = json!({ "matcher": matcher, "until": in_hours(1), "comment": "x" });
        let reply = api.post("/api/alerts/silences").json(&body).await;
        assert_eq!(reply.status, 404, "{}", reply.text());
        assert_eq!(reply.json()["details"][0]["field"], field);
    }
    let all: Vec<AlertSilenceView> = api.get("/api/alerts/silences").await.data(200);
    assert_eq!(all.len(), 1);
    api.delete(&path).await.is(200);
    api.get(&path).await.refused(404, "alert_silence_not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_filtered_and_paged() {
    let (_plane, agent, api) = fleet(Database::sqlite()).await;
    let mut rules = Vec::new();
    for n in 0..5 {
        let mut spec = busy(&[]);
        spec["name"] = format!("Busy {n}").into();
        spec["severity"] = ["info", "warning"][n % 2].into();
        rules.push(rule(&api, spec).await);
    }
    agent.report(host(95.0));
    for rule in &rules {
        until(&api, rule, AlertState::Firing).await;
    }
    api.patch("/api/alerts/rules/Busy%200")
        .json(&json!({ "enabled": false }))
        .await
        .is(200);
    until(&api, &rules[0], AlertState::Resolved).await;
    let count = async |query: &str| api.get(format!("/api/alerts?{query}")).await.data::<Vec<AlertView>>(200).len();
    for (query, want) in [
        ("", 5),
        ("state=firing", 4),
        ("state=resolved", 1),
        ("state=pending", 0),
        ("severity=warning", 2),
        ("severity=info&state=firing", 2),
        (&*format!("serverId={}", agent.node), 5),
        ("serverId=nobody", 0),
    ] {
        assert_eq!(count(query).await, want, "{query}");
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let reply = api.get(format!("/api/alerts?limit=2{cursor}")).await.is(200);
        seen.extend(reply.data::<Vec<AlertView>>(200).into_iter().map(|a| a.id));
        match reply.json()["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 5);
    assert!(seen.windows(2).all(|w| w[0] > w[1]), "newest first");
    for (query, field) in [
        ("state=moon", "state"),
        ("severity=x", "severity"),
        ("ruleId=x", "ruleId"),
        ("cursor=x", "cursor"),
        ("moon=1", "moon"),
    ] {
        api.get(format!("/api/alerts?{query}")).await.names(field);
    }
    // Those that are over for long go.
    assert_eq!(alerts(&api, &rules[0]).await.len(), 1);
    _plane.clock().advance(std::time::Duration::from_secs(31 * 24 * 3600));
    assert!(_plane.app().alerts.sweep().await.unwrap() >= 1);
    assert_eq!(alerts(&api, &rules[0]).await.len(), 0);
    assert_eq!(alerts(&api, &rules[1]).await.len(), 1, "what goes on stays");
}
