//! The routes of this folder as a client sees them: who may use which, and what they answer.

use super::fixture::{Fixture, PASSWORD, auth_config, both};
use crate::api::router;
use crate::app::{App, AppConfig};
use crate::service::auth::Actor;
use crate::service::clock::SharedClock;
use axum::Router;
use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use nm_link::server::ServerOptions;
use nm_types::auth::Role;
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt;

both!(each_route_is_for_whom_the_table_says, a_day_of_a_user, what_the_schema_refuses);

struct Client {
    router: Router,
    app: App,
}

impl Client {
    async fn new(f: &Fixture) -> Self {
        let config = AppConfig {
            data_dir: f.dir.path().to_owned(),
            trusted_proxies: Vec::new(),
            allow_outbound: Vec::new(),
            auth: auth_config(),
            link: ServerOptions::default(),
            lost_after: crate::app::LOST_AFTER,
            schedule_every: crate::app::SCHEDULE_EVERY,
            scaling_every: crate::app::SCALING_EVERY,
            task_lease: crate::service::jobs::LEASE,
            acme_http_port: crate::app::ACME_HTTP_PORT,
            executable: None,
            own_backup: None,
        };
        let app = App::open(config, f.store.clone(), Arc::clone(&f.clock) as SharedClock)
            .await
            .unwrap();
        Self {
            router: router(app.clone()),
            app,
        }
    }

    async fn call(&self, token: Option<&str>, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    async fn login(&self, name: &str) -> String {
        let body = json!({ "username": name, "password": PASSWORD });
        let (status, answer) = self.call(None, Method::POST, "/api/auth/login", Some(body)).await;
        assert_eq!(status, 200, "{answer}");
        answer["data"]["accessToken"].as_str().unwrap().to_owned()
    }
}

async fn each_route_is_for_whom_the_table_says(f: Fixture) {
    let client = Client::new(&f).await;
    let (get, post, patch, delete) = (Method::GET, Method::POST, Method::PATCH, Method::DELETE);
    let mut callers = vec![None];
    for (name, role) in [("v", Role::Viewer), ("o", Role::Operator), ("a", Role::Admin)] {
        f.user(name, role).await;
        callers.push(Some(client.login(name).await));
    }
    let narrow = json!({ "name": "narrow", "role": "admin", "scopes": ["containers:read"] });
    let (status, made) = client.call(callers[3].as_deref(), Method::POST, "/api/tokens", Some(narrow)).await;
    assert_eq!(status, 201, "{made}");
    callers.push(made["data"]["token"].as_str().map(str::to_owned));

    // Nobody, viewer, operator, admin, an admin's token for `containers:read`. None of these calls changes anything.
    let own = [401, 200, 200, 200, 200];
    let person = [401, 200, 200, 200, 403];
    let admins = |status| [401, 403, 403, status, 403];
    let session = "/api/auth/sessions/sess_1_abcdefghi";
    for (method, path, body, want) in [
        (get.clone(), "/api/auth/me", None, own),
        (post.clone(), "/api/auth/tickets", None, own),
        (get.clone(), "/api/auth/sessions", None, person),
        (delete.clone(), session, None, [401, 404, 404, 404, 403]),
        (
            post.clone(),
            "/api/auth/password",
            Some(json!({ "currentPassword": PASSWORD, "newPassword": PASSWORD })),
            [401, 409, 409, 409, 403],
        ),
        (get.clone(), "/api/tokens", None, [401, 200, 200, 200, 403]),
        (get.clone(), "/api/tokens?all=true", None, admins(200)),
        (
            post.clone(),
            "/api/tokens",
            Some(json!({ "name": "x", "role": "viewer" })),
            [401, 201, 201, 201, 403],
        ),
        (delete.clone(), "/api/tokens/token_1_abcdefghi", None, [401, 404, 404, 404, 403]),
        (get.clone(), "/api/users", None, admins(200)),
        (
            post.clone(),
            "/api/users",
            Some(json!({ "username": "a", "password": PASSWORD, "role": "viewer" })),
            admins(409),
        ),
        (get.clone(), "/api/users/a", None, admins(200)),
        (patch.clone(), "/api/users/a", Some(json!({ "role": "viewer" })), admins(409)),
        (delete.clone(), "/api/users/a", None, admins(409)),
        (get.clone(), "/api/audit", None, admins(200)),
        (get.clone(), "/api/audit/verify", None, admins(200)),
        // Not what its name says: nobody has a session there.
        (post.clone(), "/api/auth/logout", None, [401, 200, 200, 200, 409]),
        (get.clone(), "/api/auth/me", None, [401, 401, 401, 401, 200]),
    ] {
        for (caller, want) in callers.iter().zip(want) {
            let (status, answer) = client.call(caller.as_deref(), method.clone(), path, body.clone()).await;
            assert_eq!(status, want, "{method} {path} by {caller:?}: {answer}");
            assert_eq!(answer["success"], json!(status.is_success()));
        }
    }
    f.audited("auth.refused", "forbidden").await;
}

async fn a_day_of_a_user(f: Fixture) {
    let client = Client::new(&f).await;
    let path = client.app.auth.bootstrap(f.dir.path()).await.unwrap().unwrap();
    let password = std::fs::read_to_string(path).unwrap();
    let body = json!({ "username": "admin", "password": password.trim() });
    let (_, signed_in) = client.call(None, Method::POST, "/api/auth/login", Some(body)).await;
    let root = signed_in["data"]["accessToken"].as_str();

    let body = json!({ "username": "ada", "password": PASSWORD, "role": "operator" });
    let (status, made) = client.call(root, Method::POST, "/api/users", Some(body)).await;
    assert_eq!((status.as_u16(), &made["data"]["username"]), (201, &json!("ada")));
    let ada = client.login("ada").await;
    let (status, ticket) = client.call(Some(&ada), Method::POST, "/api/auth/tickets", None).await;
    assert_eq!(status, 200);
    assert!(ticket["data"]["ticket"].as_str().unwrap().starts_with("nms_"));

    let refresh = json!({ "refreshToken": signed_in["data"]["refreshToken"] });
    let (status, renewed) = client.call(None, Method::POST, "/api/auth/refresh", Some(refresh.clone())).await;
    assert_eq!(status, 200, "{renewed}");
    assert_eq!(client.call(root, Method::GET, "/api/auth/me", None).await.0, 401);
    let root = renewed["data"]["accessToken"].as_str();

    let (_, page) = client.call(root, Method::GET, "/api/audit?limit=1&action=auth.login", None).await;
    let entry = &page["data"][0];
    assert_eq!(
        (&entry["actor"], &entry["outcome"], &page["count"]),
        (&json!("ada"), &json!("ok"), &json!(1))
    );
    assert_eq!(entry["requestId"].as_str().map(|r| r.starts_with("req_")), Some(true));
    let next = format!(
        "/api/audit?limit=1&action=auth.login&cursor={}",
        page["nextCursor"].as_str().unwrap()
    );
    let (_, page) = client.call(root, Method::GET, &next, None).await;
    assert_eq!((&page["data"][0]["actor"], page.get("nextCursor")), (&json!("admin"), None));
    let (_, verdict) = client.call(root, Method::GET, "/api/audit/verify", None).await;
    assert_eq!(verdict["data"]["intact"], json!(true));

    assert_eq!(client.call(root, Method::DELETE, "/api/users/ada", None).await.0, 200);
    assert_eq!(client.call(Some(&ada), Method::GET, "/api/auth/me", None).await.0, 401);
    // The stolen refresh token comes back.
    assert_eq!(client.call(None, Method::POST, "/api/auth/refresh", Some(refresh)).await.0, 401);
    assert_eq!(client.call(root, Method::GET, "/api/auth/me", None).await.0, 401);
}

async fn what_the_schema_refuses(f: Fixture) {
    let client = Client::new(&f).await;
    f.user("a", Role::Admin).await;
    let root = client.login("a").await;
    let scopes: Vec<_> = (0..51).map(|_| "containers:read").collect();
    for (method, path, body, field) in [
        (
            Method::POST,
            "/api/auth/login",
            Some(json!({ "username": "", "password": "x" })),
            "username",
        ),
        (
            Method::POST,
            "/api/auth/login",
            Some(json!({ "username": "a", "password": "x", "role": "admin" })),
            "role",
        ),
        (
            Method::POST,
            "/api/users",
            Some(json!({ "username": "Ada", "password": PASSWORD, "role": "viewer" })),
            "username",
        ),
        (
            Method::POST,
            "/api/users",
            Some(json!({ "username": "ada", "password": "short", "role": "viewer" })),
            "password",
        ),
        (
            Method::POST,
            "/api/users",
            Some(json!({ "username": "ada", "password": PASSWORD, "role": "root" })),
            "role",
        ),
        (Method::PATCH, "/api/users/a", Some(json!({ "username": "b" })), "username"),
        (
            Method::POST,
            "/api/tokens",
            Some(json!({ "name": "x", "role": "viewer", "scopes": ["moon:read"] })),
            "scopes[0]",
        ),
        (
            Method::POST,
            "/api/tokens",
            Some(json!({ "name": "x", "role": "viewer", "scopes": scopes })),
            "scopes",
        ),
        (
            Method::POST,
            "/api/tokens",
            Some(json!({ "name": "x", "role": "viewer", "expiresInDays": 0 })),
            "expiresInDays",
        ),
        (Method::GET, "/api/users?limit=201", None, "limit"),
        (Method::GET, "/api/users?cursor=x", None, "cursor"),
        (Method::GET, "/api/audit?cursor=0", None, "cursor"),
        (Method::GET, "/api/audit?from=yesterday", None, "from"),
        (Method::GET, "/api/audit?nope=1", None, "nope"),
    ] {
        let (status, answer) = client.call(Some(&root), method, path, body.clone()).await;
        assert_eq!(
            (status.as_u16(), answer["details"][0]["field"].as_str()),
            (422, Some(field)),
            "{path} {body:?}: {answer}"
        );
    }
    assert_eq!(f.auth.users(None, 50).await.unwrap().0.len(), 1);
    assert!(f.auth.list_tokens(&Actor::system(), true, None, 50).await.unwrap().0.is_empty());
}
