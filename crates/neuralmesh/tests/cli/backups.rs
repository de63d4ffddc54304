//! `neuralmesh backups`: what it asks and prints.

use crate::fake::{self, Fake, OPERATION, data, event, events, finish_with_input, page, refuse};
use axum::extract::Path;
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

const CONFIG: &str = "backup_cfg_1770000000000_abcdefghi";
const BACKUP: &str = "backup_1770000000000_abcdefghi";
const BASE: &str = "/api/capabilities/backups";

fn config() -> Value {
    json!({
        "id": CONFIG, "name": "shop-db", "serverId": fake::CONTAINER, "serverKind": "container", "schedule": "0 2 * * *", "timeZone": "UTC",
        "jitter": 0, "retention": 30, "keep": {}, "type": "incremental", "destination": "/backups", "hasCredentials": false, "encryption": true,
        "compression": true, "paths": [], "volumes": [], "excludes": [], "oneFileSystem": false, "consistency": "auto", "appendOnly": false,
        "check": {}, "status": "error", "message": "the destination is not mounted", "created": fake::NOW, "updated": fake::NOW
    })
}

fn backup(status: &str, extra: Value) -> Value {
    let mut all = json!({
        "id": BACKUP, "configId": CONFIG, "name": "shop-db", "serverId": fake::CONTAINER, "status": status, "type": "full", "timestamp": fake::NOW,
        "duration": 12.5, "size": 2_000_000, "newBytes": 5000, "files": 3, "location": "/backups/x", "snapshot": "0123abcd", "pinned": false,
        "operationId": OPERATION, "encryption": true, "compression": true, "problemCount": 0
    });
    all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    all
}

/// What bodies came, with the paths they came to.
type Bodies = Arc<Mutex<Vec<Value>>>;

fn router(bodies: &Bodies) -> Router {
    let keep = |status: u16, answer: fn() -> Value| {
        let bodies = bodies.clone();
        move |Json(body): Json<Value>| {
            bodies.lock().unwrap().push(body);
            async move { data(status, answer()) }
        }
    };
    let restored = || {
        json!({
            "files": 1, "bytes": 10, "created": 1, "changed": 0, "unchanged": 0, "removed": 0, "verified": false, "dryRun": true,
            "changes": [{ "path": "/volumes/x/a\u{1b}[31mb", "change": "create" }],
            "problems": [{ "path": "/volumes/x/c", "error": "its owner can't be set" }], "problemCount": 1
        })
    };
    let entry = json!({ "name": "evil\u{1b}]0;x\u{7}", "path": "/evil", "type": "file", "size": 3, "mode": "0644", "uid": 0, "gid": 0, "modified": fake::NOW });
    let partial = || {
        backup(
            "partial",
            json!({ "problems": [{ "path": "/a\nb", "error": "permission denied" }], "message": "1 file is missing" }),
        )
    };
    let done = fake::operation("succeeded", json!({ "kind": "backup.perform" }));
    Router::new()
        .route(BASE, get(move || async move { page(json!([partial()]), None) }))
        .route(
            &format!("{BASE}/configs"),
            get(|| async { page(json!([config()]), None) }).post(keep(201, config)),
        )
        .route(
            &format!("{BASE}/configs/shop-db"),
            get(|| async { data(200, config()) })
                .patch(keep(200, config))
                .delete(|| async { data(200, json!({})) }),
        )
        .route(
            &format!("{BASE}/configs/shop-db/key"),
            get(|| async {
                data(
                    200,
                    json!({ "repository": "/backups/x", "password": "pw", "recoveryPassword": "rec" }),
                )
            }),
        )
        .route(
            &format!("{BASE}/configs/shop-db/retention"),
            get(|| async {
                let decision = |id: &str, why: &str| json!({ "backupId": id, "timestamp": fake::NOW, "reasons": [why] });
                let keep = [decision(BACKUP, "last-good")];
                data(
                    200,
                    json!({ "keep": keep, "remove": [json!({ "backupId": "backup_1770000000001_abcdefghi", "timestamp": fake::NOW, "reasons": [] })] }),
                )
            }),
        )
        .route(
            &format!("{BASE}/perform/{{config}}"),
            post(|Path(config): Path<String>| async move {
                match config.as_str() {
                    "shop-db" => data(202, backup("in-progress", json!({}))),
                    _ => refuse(404, "config_not_found", "there is no backup config of that name"),
                }
            }),
        )
        .route(&format!("/api/operations/{OPERATION}"), get(move || async move { events(event("operation", &done)) }))
        .route(
            &format!("{BASE}/{BACKUP}"),
            get(move || async move { data(200, partial()) }).delete(|| async { data(200, json!({})) }),
        )
        .route(
            &format!("{BASE}/{BACKUP}/files"),
            get(move || async move { data(200, json!({ "path": "/", "entries": [entry], "total": 2 })) }),
        )
        .route(&format!("{BASE}/{BACKUP}/restore"), post(keep(200, restored)))
        .route(
            &format!("{BASE}/{BACKUP}/pin"),
            put(keep(200, || backup("completed", json!({ "pinned": true })))),
        )
        .route(
            &format!("{BASE}/{BACKUP}/cancel"),
            post(|| async { data(200, backup("cancelled", json!({}))) }),
        )
        .route(
            &format!("{BASE}/none"),
            delete(|| async { refuse(409, "last_good_backup", "it is the last good one: use force") }),
        )
}

#[tokio::test]
async fn configs() {
    let bodies = Bodies::default();
    let fake = Fake::start(router(&bodies)).await;
    let table = fake.run(&["backups", "configs", "ls", "--server", "shop"]).await.ok();
    assert!(
        table.out.starts_with("NAME") && table.out.contains("error") && table.out.contains("0 2 * * *"),
        "{}",
        table.out
    );
    assert_eq!(fake.run(&["backups", "configs", "ls", "-q"]).await.ok().out.trim(), CONFIG);
    let card = fake.run(&["backups", "config", "get", "shop-db"]).await.ok();
    assert!(card.out.contains("the destination is not mounted"), "{}", card.out);

    let secrets = fake.home.path().join("s3.json");
    std::fs::write(&secrets, r#"{"accessKey":"a","secretKey":"planted"}"#).unwrap();
    let made = fake
        .run(&[
            "backups",
            "configs",
            "create",
            "shop-db",
            "--server",
            "shop",
            "--to",
            "s3:https://s3.example.com/b",
            "--schedule",
            "@daily",
            "--retention",
            "90",
            "--exclude",
            "*.tmp",
            "--credentials",
            secrets.to_str().unwrap(),
            "--set",
            "keep.daily=7",
        ])
        .await
        .ok();
    assert_eq!(made.out.trim(), CONFIG);
    let mut set = fake.command(&[
        "backups",
        "configs",
        "set",
        "shop-db",
        "--to",
        "/elsewhere",
        "--set",
        "copy.destination=/b",
        "--copy-credentials",
        "-",
    ]);
    finish_with_input(&mut set, r#"{"password":"x"}"#).await.ok();
    fake.run(&["backups", "configs", "pause", "shop-db"]).await.ok();
    fake.run(&["backups", "configs", "resume", "shop-db"]).await.ok();
    fake.run(&["backups", "configs", "rm", "--force", "shop-db"]).await.ok();
    assert_eq!(
        *bodies.lock().unwrap(),
        [
            json!({ "name": "shop-db", "serverId": "shop", "destination": "s3:https://s3.example.com/b", "schedule": "@daily", "retention": 90,
                "excludes": ["*.tmp"], "keep": { "daily": 7 }, "credentials": { "accessKey": "a", "secretKey": "planted" } }),
            json!({ "destination": "/elsewhere", "copy": { "destination": "/b", "credentials": { "password": "x" } } }),
            json!({ "status": "paused" }),
            json!({ "status": "active" }),
        ]
    );
    let lines = fake.lines();
    assert!(lines.contains(&format!("GET {BASE}/configs?serverId=shop&limit=200")), "{lines:?}");
    assert!(lines.contains(&format!("DELETE {BASE}/configs/shop-db?force=true")), "{lines:?}");
}

#[tokio::test]
async fn the_control_plane_itself() {
    let view = |configured: bool| match configured {
        true => json!({
            "configured": true, "destination": "/mnt/vault", "location": "/mnt/vault/neuralmesh-control-plane", "schedule": "0 3 * * *", "retention": 30,
            "running": false, "lastBackup": fake::NOW, "kept": 3, "size": 7000, "message": "the disk is full"
        }),
        false => json!({ "configured": false, "running": false }),
    };
    let router = Router::new().route(
        "/api/system/backup",
        get(move || async move { data(200, view(false)) }).post(move || async move { data(200, view(true)) }),
    );
    let fake = Fake::start(router).await;
    let none = fake.run(&["backups", "control-plane"]).await.ok();
    assert!(none.out.contains("--backup-to"), "{}", none.out);
    let made = fake.run(&["backups", "control-plane", "--run"]).await.ok();
    assert!(
        made.out.contains("/mnt/vault/neuralmesh-control-plane") && made.out.contains("the disk is full"),
        "{}",
        made.out
    );

    // What can't be is said before anything is touched.
    let dir = fake.home.path().join("none");
    let run = async |more: &[&str]| {
        let mut arguments = vec!["restore-control-plane", "--data-dir", dir.to_str().unwrap()];
        arguments.extend(more);
        fake.run(&arguments).await
    };
    assert_eq!(run(&[]).await.code, 2);
    assert_eq!(run(&["--from", "nowhere"]).await.code, 2);
    let no_password = run(&["--from", "/mnt/vault"]).await;
    assert!(
        no_password.code == 1 && no_password.err.contains("password of the backups"),
        "{no_password:?}"
    );
    let own_node = run(&["--from", "node:n1:/vault"]).await;
    assert!(own_node.code == 1 && own_node.err.contains("node of its own fleet"), "{own_node:?}");
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_secret_is_taken_from_no_command_line() {
    let fake = Fake::start(Router::new()).await;
    for set in [
        "credentials={\"password\":\"planted\"}",
        "credentials.password=planted",
        "copy.credentials.password=planted",
        "copy={\"destination\":\"/b\",\"credentials\":{\"password\":\"planted\"}}",
    ] {
        let refused = fake.run(&["backups", "configs", "set", "shop-db", "--set", set]).await;
        assert!(refused.code == 2 && refused.err.contains("credentials FILE"), "{refused:?}");
    }
    let tls = fake.run(&["clusters", "set", "shop", "--set", "tls={\"key\":\"planted\"}"]).await;
    assert!(tls.code == 2 && tls.err.contains("--tls-key FILE"), "{tls:?}");
    assert!(fake.lines().is_empty(), "nothing was asked");
}

#[tokio::test]
async fn backups() {
    let bodies = Bodies::default();
    let fake = Fake::start(router(&bodies)).await;
    let table = fake
        .run(&["backups", "ls", "shop", "--config", "shop-db", "--status", "partial"])
        .await
        .ok();
    assert!(
        table.out.contains("partial") && table.out.contains("2MB") && table.out.contains("5kB"),
        "{}",
        table.out
    );
    assert!(
        fake.lines()
            .contains(&format!("GET {BASE}?serverId=shop&configId=shop-db&status=partial&limit=50")),
        "{:?}",
        fake.lines()
    );

    let made = fake.run(&["backups", "run", "shop-db"]).await.ok();
    assert_eq!(made.out.trim(), BACKUP);
    assert!(
        made.err.contains("1 file is missing") && made.err.contains("permission denied") && !made.err.contains("/a\nb"),
        "{}",
        made.err
    );
    let begun = fake.run(&["backups", "run", "--no-wait", "shop-db"]).await.ok();
    assert!(
        begun.err.contains(&format!("neuralmesh operations wait {OPERATION}")),
        "{}",
        begun.err
    );
    let unknown = fake.run(&["backups", "run", "nothing"]).await;
    assert!(
        unknown.code != 0 && unknown.err.contains("no backup config of that name"),
        "{unknown:?}"
    );

    let card = fake.run(&["backups", "get", BACKUP]).await.ok();
    assert!(
        card.out.contains("permission denied") && card.out.contains("0123abcd"),
        "{}",
        card.out
    );
    let files = fake.run(&["backups", "files", BACKUP]).await.ok();
    assert!(
        files.out.contains("evil") && !files.out.contains(['\u{1b}', '\u{7}']),
        "{:?}",
        files.out
    );
    assert!(files.err.contains("--cursor 1"), "{}", files.err);

    let restored = fake
        .run(&[
            "backups",
            "restore",
            BACKUP,
            "--dry-run",
            "--to",
            "/srv/restored",
            "--path",
            "/volumes/x",
            "--replace",
            "false",
        ])
        .await
        .ok();
    assert!(restored.out.contains("1 file, 10B: 1 would be made"), "{}", restored.out);
    assert!(
        restored.out.contains("its owner can't be set") && !restored.out.contains('\u{1b}'),
        "{}",
        restored.out
    );
    fake.run(&["backups", "pin", BACKUP]).await.ok();
    fake.run(&["backups", "cancel", BACKUP]).await.ok();
    fake.run(&["backups", "rm", "--force", BACKUP]).await.ok();
    let last = fake.run(&["backups", "rm", "none"]).await;
    assert!(last.code != 0 && last.err.contains("use force"), "{last:?}");
    assert_eq!(
        *bodies.lock().unwrap(),
        [
            json!({ "target": "/srv/restored", "paths": ["/volumes/x"], "replace": false, "dryRun": true, "verify": true }),
            json!({ "pinned": true }),
        ]
    );
    let seen = fake.seen();
    let restore = seen.iter().find(|s| s.line.contains("/restore")).unwrap();
    assert!(restore.header("idempotency-key").is_some(), "asked twice it is done once");
    assert!(seen.iter().any(|s| s.line == format!("DELETE {BASE}/{BACKUP}?force=true")));

    let key = fake.run(&["backups", "key", "shop-db"]).await.ok();
    assert!(
        key.out.contains("pw") && key.out.contains("rec") && key.err.contains("keep it where only you can"),
        "{key:?}"
    );
    let retention = fake.run(&["backups", "retention", "shop-db"]).await.ok();
    assert!(
        retention.out.contains("keep  ") && retention.out.contains("remove"),
        "{}",
        retention.out
    );
}
