//! Secrets are where they belong and nowhere else: planted everywhere a user can put one, then looked for in everything the
//! control plane logs at the least level, answers, writes down and keeps.

use nm_link::contract::{AgentError, AgentErrorCode};
use nm_testing::{Ask, Call, Client, Database, FakeAgent, Reply, TestControlPlane, TraceLog, both, eventually};
use nm_types::auth::{CreatedToken, SignedIn, StreamTicket};
use nm_types::container::{ContainerView, ForeignSpec};
use nm_types::node::{NewJoinToken, NodeStatus};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;

both!(planted_secrets_stay_where_they_belong);

/// What was planted, and every answer to somebody who may not see it.
#[derive(Default)]
struct Garden {
    /// Each with where it was planted.
    planted: Mutex<Vec<(String, String)>>,
    replies: Mutex<Vec<Reply>>,
}

impl Garden {
    /// A fresh secret: long enough for a password, and found nowhere by chance.
    fn plant(&self, place: &str) -> String {
        let n = self.planted.lock().unwrap().len();
        let secret = format!("planted-{n}-{:08x}", std::process::id() ^ 0x5ec2_e700);
        self.note(place, &secret);
        secret
    }
    /// A secret that the control plane made.
    fn note(&self, place: &str, secret: &str) {
        self.planted.lock().unwrap().push((place.to_owned(), secret.to_owned()));
    }
    /// Asks, and keeps the answer to be looked through.
    async fn ask(&self, call: Call) -> Reply {
        let reply = call.await;
        self.replies.lock().unwrap().push(reply.clone());
        reply
    }

    fn look_through(&self, what: &str, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        for (place, secret) in self.planted.lock().unwrap().iter() {
            // As it is, and as a log might write bytes.
            let listed = format!("{:?}", secret.as_bytes());
            for form in [secret.as_str(), &hex(secret.as_bytes()), listed.trim_matches(['[', ']'])] {
                let around = text.find(form).map(|at| {
                    let before: String = text[..at].chars().rev().take(300).collect();
                    before.chars().rev().collect::<String>() + form
                });
                assert_eq!(around, None, "{place} is in {what}");
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

async fn planted_secrets_stay_where_they_belong(database: Database) {
    let log = TraceLog::listen();
    let garden = Garden::default();
    let mut plane = TestControlPlane::start(database).await;
    let agent = FakeAgent::join(&plane, "alder").await;
    people(&garden, &plane).await;
    containers(&garden, &plane, &agent).await;
    registries(&garden, &plane, &agent).await;
    authorities(&garden, &plane).await;
    // A start reads all of it again.
    plane.restart().await;
    agent.ready(&plane).await;
    plane.kill().await;
    agent.ready(&plane).await;
    let (admin, viewer) = (plane.admin().await.clone(), plane.viewer().await.clone());
    everything_that_can_be_read(&garden, &admin, &viewer).await;
    plane.stop().await;

    let planted = garden.planted.lock().unwrap().len();
    assert!(planted >= 30, "{planted} were planted");
    let text = log.text();
    assert!(text.contains("request") && text.contains("TRACE"), "the log was listened to");
    garden.look_through("the log", text.as_bytes());
    for reply in garden.replies.lock().unwrap().iter() {
        garden.look_through(&reply.text(), &reply.body);
        garden.look_through("a header", format!("{:?}", reply.headers).as_bytes());
    }
    garden.look_through("the database", &plane.database().raw_bytes().await);
    let key = std::fs::read_to_string(plane.folder().join("keys/secrets.key")).unwrap();
    garden.note("the master key", key.lines().last().unwrap().split_once(' ').unwrap().1);
    garden.look_through("the log", text.as_bytes());
    garden.look_through("the database", &plane.database().raw_bytes().await);
}

/// Passwords and tokens of every kind, right and wrong.
async fn people(garden: &Garden, plane: &TestControlPlane) {
    let (admin, nobody) = (plane.admin().await, plane.anonymous());
    let initial = std::fs::read_to_string(plane.folder().join("initial-admin-password")).unwrap();
    garden.note("the first admin's password", initial.trim_end());
    garden.note("an access token", admin.token());

    let password = garden.plant("a user's password");
    let user = json!({ "username": "ada", "password": password, "role": "operator" });
    garden.ask(admin.post("/api/users").json(&user).idempotency_key("u")).await.is(201);
    garden.ask(admin.post("/api/users").json(&user).idempotency_key("u")).await.is(201);
    garden
        .ask(admin.post("/api/users").json(&user))
        .await
        .refused(409, "username_taken");
    let login = |name: &str, password: &str| {
        nobody
            .post("/api/auth/login")
            .json(&json!({ "username": name, "password": password }))
    };
    let signed_in: SignedIn = login("ada", &password).await.data(200);
    garden.note("a session's access token", &signed_in.access_token);
    garden.note("a session's refresh token", &signed_in.refresh_token);
    for wrong in ["ada", "nobody-of-that-name", "admin"] {
        garden
            .ask(login(wrong, &garden.plant("a wrong password")))
            .await
            .refused(401, "invalid_credentials");
    }
    // People type passwords where names go.
    garden
        .ask(login(&garden.plant("a password typed as a name"), "x"))
        .await
        .refused(401, "invalid_credentials");
    let refresh = json!({ "refreshToken": signed_in.refresh_token });
    let refreshed: SignedIn = nobody.post("/api/auth/refresh").json(&refresh).await.data(200);
    garden.note("a refreshed access token", &refreshed.access_token);
    garden.note("a second refresh token", &refreshed.refresh_token);
    garden
        .ask(
            nobody
                .post("/api/auth/refresh")
                .json(&json!({ "refreshToken": garden.plant("a wrong refresh token") })),
        )
        .await
        .is(401);
    let ada = plane.sign_in("ada", &password).await;
    garden.note("another access token", ada.token());
    let change =
        json!({ "currentPassword": garden.plant("a wrong current password"), "newPassword": garden.plant("a refused new password") });
    garden
        .ask(ada.post("/api/auth/password").json(&change))
        .await
        .refused(403, "wrong_password");
    let change = json!({ "currentPassword": password, "newPassword": garden.plant("a changed password") });
    garden.ask(ada.post("/api/auth/password").json(&change)).await.is(200);
    garden
        .ask(
            admin
                .patch("/api/users/ada")
                .json(&json!({ "password": garden.plant("a reset password") })),
        )
        .await
        .is(200);

    let new = json!({ "name": "ci", "role": "viewer" });
    let made: CreatedToken = admin.post("/api/tokens").json(&new).idempotency_key("t").await.data(201);
    admin.post("/api/tokens").json(&new).idempotency_key("t").await.is(201);
    garden.note("an API token", &made.token);
    let ticket: StreamTicket = admin.post("/api/auth/tickets").await.data(200);
    garden.note("a stream ticket", &ticket.ticket);
    nobody.get(format!("/api/events?ticket={}", ticket.ticket)).events().await.unwrap();
    garden
        .ask(nobody.get(format!("/api/events?ticket={}", ticket.ticket)))
        .await
        .is(401);
    let join: NewJoinToken = admin.post("/api/nodes/join-tokens").await.data(201);
    garden.note("a join token's secret", join.token.rsplit('.').next().unwrap());
    for header in ["Bearer ", "bearer ", "Basic "] {
        let wrong = format!("{header}{}", garden.plant("a made-up token"));
        garden
            .ask(nobody.get("/api/auth/me").header("authorization", &wrong))
            .await
            .refused(401, "unauthorized");
    }
    garden
        .ask(nobody.get(format!("/api/events?token={}", garden.plant("a token in the URL"))))
        .await
        .is(401);
    // A body that is refused must not come back with the refusal.
    let secret = garden.plant("a password in a broken body");
    garden
        .ask(
            nobody
                .post("/api/auth/login")
                .body("application/json", format!("{{\"username\":\"ada\",\"password\":\"{secret}\"")),
        )
        .await
        .is(400);
    let secret = garden.plant("a password too many");
    garden
        .ask(
            nobody
                .post("/api/auth/login")
                .json(&json!({ "username": "ada", "password": { "is": secret } })),
        )
        .await
        .is(422);
    let long = garden.plant("a password too long").repeat(20);
    garden
        .ask(
            admin
                .post("/api/users")
                .json(&json!({ "username": "bob", "password": long, "role": "viewer" })),
        )
        .await
        .names("password");
}

/// Environments, commands, and what is typed.
async fn containers(garden: &Garden, plane: &TestControlPlane, agent: &FakeAgent) {
    let (api, viewer) = (plane.operator().await, plane.viewer().await);
    let spec = |name: &str| {
        json!({ "name": name, "image": "postgres:16", "start": true, "environment": {
            "POSTGRES_PASSWORD": garden.plant("an environment's password"),
            "API_TOKEN": garden.plant("an environment's token"),
            "AWS_SECRET_ACCESS_KEY": garden.plant("an environment's key"),
            "DATABASE_URL": garden.plant("an environment's database URL"),
        } })
    };
    // Shown by design to whoever may make containers, and so not looked through.
    let (web, other) = (spec("web"), spec("other"));
    api.post("/api/containers").json(&web).idempotency_key("c").await.is(201);
    api.post("/api/containers").json(&web).idempotency_key("c").await.is(201);
    api.post("/api/containers").json(&other).respond_async().await.is(202);
    api.until("other", nm_types::container::ContainerStatus::Running).await;
    garden
        .ask(api.post("/api/containers").json(&spec("web")))
        .await
        .refused(409, "name_taken");
    agent.fail_next(Ask::Create, AgentError::new(AgentErrorCode::PullFailed, "the registry broke off"));
    garden
        .ask(api.post("/api/containers").json(&spec("failed")))
        .await
        .refused(404, "pull_failed");
    let mut bad = spec("bad");
    bad["memoryLimit"] = "lots".into();
    garden.ask(api.post("/api/containers").json(&bad)).await.names("memoryLimit");
    let mut bad = spec("bad");
    bad["environment"]["POSTGRES_PASSWORD"] = json!([garden.plant("a password of the wrong type")]);
    garden.ask(api.post("/api/containers").json(&bad)).await.is(422);
    let template: ContainerView = api
        .post("/api/containers/templates/postgresql/run")
        .json(&json!({ "name": "db" }))
        .await
        .data(201);
    garden.note("a generated password", &template.environment["POSTGRES_PASSWORD"]);

    for verb in ["stop", "start", "restart"] {
        garden
            .ask(viewer.post(format!("/api/containers/web/{verb}")))
            .await
            .refused(403, "forbidden");
        api.post(format!("/api/containers/web/{verb}")).await.is(200);
    }
    api.patch("/api/containers/web").json(&json!({ "restart": "always" })).await.is(200);
    api.post("/api/containers/web/rename")
        .json(&json!({ "name": "web-2" }))
        .await
        .is(200);
    let exec = json!({ "command": ["true", garden.plant("a command's argument")], "environment": { "PGPASSWORD": garden.plant("a command's environment") } });
    api.post("/api/containers/web-2/exec").json(&exec).await.is(200);
    let argument = garden.plant("a terminal's argument");
    let mut terminal = api
        .get(format!("/api/containers/web-2/terminal?command=login&command={argument}"))
        .terminal()
        .await
        .unwrap();
    terminal.until("24x80").await;
    let typed = garden.plant("what was typed into a terminal");
    terminal.send(typed.as_bytes()).await;
    terminal.until(&typed).await;
    terminal.end_of_input().await;
    // Docker has lost one, and it is made anew with what it had.
    agent.docker_rm("other");
    api.until("other", nm_types::container::ContainerStatus::Exited).await;
    api.post("/api/containers/other/start").await.is(200);

    let foreign = ForeignSpec {
        environment: BTreeMap::from([(
            "MYSQL_ROOT_PASSWORD".into(),
            garden.plant("the environment of a container that others made"),
        )])
        .into(),
        ..ForeignSpec::default()
    };
    agent.docker_run_with("beside", "mysql:9", foreign);
    eventually("it is listed", async || {
        (api.get("/api/containers/beside").await.status == 200).then_some(())
    })
    .await;
}

/// The keys that vouch for every node: the one there is, the next one, and the one that is left.
async fn authorities(garden: &Garden, plane: &TestControlPlane) {
    let admin = plane.admin().await;
    let note_all = async |place: &str| {
        let store = &plane.app().store;
        let row = store.get(nm_store::Kind::Setting, "link.authority").await.unwrap().unwrap();
        let sealed: Value = store.open_sealed(&row).await.unwrap().unwrap().parse().unwrap();
        for key in [&sealed["key"], &sealed["next"]["key"]].into_iter().filter_map(Value::as_str) {
            // The middle of it: its beginning is the same in every key of its kind.
            garden.note(place, key.lines().nth(2).unwrap());
        }
    };
    note_all("the authority's key").await;
    // A machine that is away keeps the next one waiting.
    let away = FakeAgent::join(plane, "birch").await;
    away.take_down();
    away.is(plane, NodeStatus::NotReady).await;
    let rotate = async |how: Value| {
        let call = admin.post("/api/nodes/authority/rotate").json(&how);
        garden.ask(call).await.is(200).json()["data"]["phase"].clone()
    };
    assert_eq!(rotate(json!({ "switchAfter": 3600 })).await, "introducing");
    note_all("the next authority's key").await;
    assert_eq!(rotate(json!({ "force": true })).await, "renewing");
    eventually("whoever is there has followed", async || {
        let shown = garden.ask(admin.get("/api/nodes/authority")).await.is(200).json();
        (shown["data"]["current"]["nodes"] == 1).then_some(())
    })
    .await;
    assert_eq!(rotate(json!({ "force": true })).await, "settled");
    admin.delete(format!("/api/nodes/{}", away.node)).await.is(200);
    note_all("the new authority's key").await;
    let token: NewJoinToken = admin.post("/api/nodes/alder/rejoin-token").await.data(201);
    garden.note("a rejoin token's secret", token.token.rsplit('.').next().unwrap());
}

async fn registries(garden: &Garden, plane: &TestControlPlane, agent: &FakeAgent) {
    let (admin, api) = (plane.admin().await, plane.operator().await);
    let login = |password: String| json!({ "host": "registry.example.com", "username": "robot", "password": password });
    garden
        .ask(
            admin
                .post("/api/registries")
                .json(&login(garden.plant("a registry's first password"))),
        )
        .await
        .is(201);
    garden
        .ask(
            admin
                .post("/api/registries")
                .json(&login(garden.plant("a registry's refused password"))),
        )
        .await
        .refused(409, "registry_exists");
    let password = garden.plant("a registry's password");
    garden
        .ask(admin.put("/api/registries/registry.example.com").json(&login(password.clone())))
        .await
        .is(200);
    let mut unknown = login(garden.plant("a password beside an unknown field"));
    unknown["moon"] = true.into();
    garden.ask(admin.post("/api/registries").json(&unknown)).await.names("moon");
    // It reaches the node that pulls, which is what it is for.
    garden
        .ask(
            api.post("/api/containers/images/pull")
                .json(&json!({ "name": "registry.example.com/team/app:1" })),
        )
        .await
        .is(200);
    assert_eq!(agent.last_login().unwrap().password, password);
    api.create(&json!({ "name": "private", "image": "registry.example.com/team/app:2" }))
        .await;
    assert_eq!(agent.last_login().unwrap().password, password);
    agent.fail_next(
        Ask::Pull,
        AgentError::new(AgentErrorCode::ImageAccessDenied, "the registry refused the login of `robot`"),
    );
    garden
        .ask(
            api.post("/api/containers/images/pull")
                .json(&json!({ "name": "registry.example.com/team/app:3" })),
        )
        .await
        .refused(409, "image_access_denied");
    api.create(&json!({ "name": "public", "image": "redis:7" })).await;
    assert!(agent.last_login().is_none(), "nobody else's registry gets it");
}

async fn everything_that_can_be_read(garden: &Garden, admin: &Client, viewer: &Client) {
    for path in [
        "/api/users",
        "/api/tokens?all=true",
        "/api/audit?limit=200",
        "/api/auth/sessions",
        "/api/auth/me",
        "/api/registries",
        "/api/containers?limit=200",
        "/api/operations?limit=200",
        "/api/nodes",
        "/api/images",
        "/api/nodes/authority",
        "/api/nodes/binaries",
        "/api/system/info",
        "/metrics",
        "/api/openapi.json",
    ] {
        for client in [admin, viewer] {
            garden.ask(client.get(path)).await;
        }
    }
    for container in viewer.containers("").await {
        let shown = garden
            .ask(viewer.get(format!("/api/containers/{}", container.id)))
            .await
            .is(200)
            .json();
        let environment = shown["data"]["environment"].as_object().unwrap();
        assert!(environment.values().all(|v| v == "********"), "{environment:?}");
        garden.ask(viewer.get(format!("/api/containers/{}/inspect", container.id))).await;
    }
    // Everything that ever happened, as events tell it.
    let mut events = viewer.get("/api/events").header("last-event-id", "0").events().await.unwrap();
    admin
        .post("/api/containers")
        .json(&json!({ "name": "the-end", "image": "redis:7" }))
        .await
        .is(201);
    loop {
        let event = events.next().await.unwrap();
        garden.look_through("an event", event.data.as_bytes());
        if event.data.contains("the-end") {
            break;
        }
    }
    let verdict: Value = admin.get("/api/audit/verify").await.data(200);
    assert_eq!(verdict["intact"], true, "{verdict}");
}
