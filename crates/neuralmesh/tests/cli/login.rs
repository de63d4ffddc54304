//! Signing in and out, and how long a login lasts.

use crate::commands::containers;
use crate::fake::{self, Fake, container, data, finish, finish_with_input, page, refuse};
use axum::Router;
use axum::routing::{get, post};
use http::HeaderMap;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

pub fn signed_in(access: &str, refresh: &str) -> Value {
    let user = json!({ "id": "user_1770000000000_abcdefghi", "username": "ann", "role": "admin", "disabled": false, "created": fake::NOW, "updated": fake::NOW });
    json!({ "accessToken": access, "refreshToken": refresh, "expiresIn": 900, "user": user })
}

#[tokio::test]
async fn a_login_is_saved_for_its_owner_and_used() {
    let bodies = Arc::new(Mutex::new(Vec::<Value>::new()));
    let kept = bodies.clone();
    let router = containers()
        .route(
            "/api/auth/login",
            post(move |body: String| async move {
                let body: Value = serde_json::from_str(&body).unwrap();
                let right = body["password"] == "correct horse";
                kept.lock().unwrap().push(body);
                if right {
                    data(200, signed_in("access-1", "refresh-1"))
                } else {
                    refuse(401, "unauthorized", "wrong name or password")
                }
            }),
        )
        .route("/api/auth/logout", post(|| async { data(200, json!({})) }));
    let fake = Fake::start(router).await;
    let login = ["login", "--server-url", &fake.url, "-u", "ann", "--password-stdin"];

    let wrong = finish_with_input(&mut fake.bare(&login), "nope\n").await;
    assert_eq!((wrong.code, wrong.err.as_str()), (1, "error: wrong name or password\n"));
    assert!(!fake.credentials().exists());

    let right = finish_with_input(&mut fake.bare(&login), "correct horse\n").await.ok();
    assert!(!right.out.contains("access-1") && !right.err.contains("access-1"), "{right:?}");
    assert_eq!(std::fs::metadata(fake.credentials()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(bodies.lock().unwrap()[1], json!({ "username": "ann", "password": "correct horse" }));

    // The server signed in to is the one that commands go to from now on.
    fake.run_signed_in(&["containers", "ps"]).await.ok();
    assert_eq!(fake.seen().last().unwrap().header("authorization"), Some("Bearer access-1"));

    // A token for one server never goes to another.
    let other = Fake::start(containers()).await;
    finish(
        fake.bare(&["containers", "ps", "-q", "--server-url", &other.url])
            .env("NEURALMESH_SERVER", "http://127.0.0.1:9"),
    )
    .await
    .ok();
    assert_eq!(other.seen().last().unwrap().header("authorization"), None);

    fake.run_signed_in(&["logout"]).await.ok();
    assert_eq!(fake.seen().last().unwrap().header("authorization"), Some("Bearer access-1"));
    assert!(!std::fs::read_to_string(fake.credentials()).unwrap().contains("refresh-1"));
}

#[tokio::test]
async fn the_first_password_is_found_on_this_machine() {
    let router = Router::new().route(
        "/api/auth/login",
        post(|body: String| async move {
            let body: Value = serde_json::from_str(&body).unwrap();
            if body == json!({ "username": "admin", "password": "made-on-this-machine" }) {
                data(200, signed_in("a", "r"))
            } else {
                refuse(401, "unauthorized", "no")
            }
        }),
    );
    let fake = Fake::start(router).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("initial-admin-password"), "made-on-this-machine\n").unwrap();
    let dir = folder.path().to_str().unwrap();
    let ended = fake.run(&["login", "--data-dir", dir]).await.ok();
    assert!(ended.err.contains("initial-admin-password"), "{}", ended.err);
    // Not for others than the admin, who are asked; there is nobody to ask here.
    assert_eq!(fake.run(&["login", "--data-dir", dir, "-u", "ann"]).await.code, 2);
}

/// A server whose refresh tokens are good once, and which takes only the newest access token.
fn rotating(newest: Arc<AtomicUsize>) -> Router {
    let refreshing = newest.clone();
    let refresh = move |body: String| async move {
        let body: Value = serde_json::from_str(&body).unwrap();
        let n = refreshing.load(Ordering::SeqCst);
        if body["refreshToken"] == format!("refresh-{n}") {
            refreshing.store(n + 1, Ordering::SeqCst);
            data(200, signed_in(&format!("access-{}", n + 1), &format!("refresh-{}", n + 1)))
        } else {
            refuse(401, "unauthorized", "that refresh token was used before")
        }
    };
    let list = move |headers: HeaderMap| async move {
        let good = format!("Bearer access-{}", newest.load(Ordering::SeqCst));
        if headers.get("authorization").is_some_and(|v| v == good.as_str()) {
            page(json!([container("web")]), None)
        } else {
            refuse(401, "unauthorized", "sign in first")
        }
    };
    Router::new()
        .route("/api/auth/refresh", post(refresh))
        .route("/api/containers", get(list))
}

#[tokio::test]
async fn a_refused_login_is_renewed_once() {
    let newest = Arc::new(AtomicUsize::new(1));
    let fake = Fake::start(rotating(newest.clone())).await;
    fake.sign_in("stale", "refresh-1", "2999-01-01T00:00:00.000Z");
    assert_eq!(fake.run_signed_in(&["containers", "ps", "-o", "name"]).await.ok().out, "web\n");
    assert_eq!(
        fake.lines(),
        [
            "GET /api/containers?limit=200",
            "POST /api/auth/refresh",
            "GET /api/containers?limit=200"
        ]
    );
    let saved = std::fs::read_to_string(fake.credentials()).unwrap();
    assert!(saved.contains("access-2") && saved.contains("refresh-2"), "{saved}");

    // The next run uses what was saved.
    fake.run_signed_in(&["containers", "ps", "-q"]).await.ok();
    assert_eq!(fake.lines().len(), 4);

    // Once the server takes the refresh token no more, the login is over, and forgotten.
    newest.store(9, Ordering::SeqCst);
    let over = fake.run_signed_in(&["containers", "ps"]).await;
    assert_eq!(over.code, 1);
    assert!(
        over.err.contains("has ended") && over.err.contains("neuralmesh login"),
        "{}",
        over.err
    );
    assert!(!std::fs::read_to_string(fake.credentials()).unwrap().contains("access-2"));
}

#[tokio::test]
async fn programs_side_by_side_spend_a_refresh_token_once() {
    let newest = Arc::new(AtomicUsize::new(1));
    let fake = Fake::start(rotating(newest.clone())).await;
    fake.sign_in("access-1", "refresh-1", "2020-01-01T00:00:00.000Z");
    let ended = futures_util::future::join_all((0..6).map(|_| fake.run_signed_in(&["containers", "ps", "-q"]))).await;
    for one in ended {
        one.ok();
    }
    assert_eq!(newest.load(Ordering::SeqCst), 2);
    assert_eq!(fake.lines().iter().filter(|l| l.contains("refresh")).count(), 1);
}

#[tokio::test]
async fn a_login_that_others_can_read_is_refused() {
    let fake = Fake::start(containers()).await;
    fake.sign_in("a", "r", "2999-01-01T00:00:00.000Z");
    std::fs::set_permissions(fake.credentials(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let ended = fake.run_signed_in(&["containers", "ps"]).await;
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("chmod 600"), "{}", ended.err);
}
