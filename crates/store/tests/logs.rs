//! Nothing secret is ever logged, at whatever level.

#[path = "store/fixture.rs"]
#[expect(dead_code, reason = "shared with the suite, which uses all of it")]
mod fixture;

use fixture::{Fixture, NOW, container, insert};
use nm_store::{AuditEntry, Idempotency, Kind, NewSession, Patch, Secret, StoreError, TokenHash, TokenPair, UserRow};
use nm_types::auth::Role;
use nm_types::text::Username;
use nm_types::{SessionId, UserId};
use std::io::Write;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

fn planted(what: &str) -> String {
    format!("planted-{what}")
}

async fn everything(f: &Fixture) -> Vec<String> {
    let mut said = vec![format!("{:?} {}", f.config, f.config.url)];
    let store = f.open().await;
    let new = container(1)
        .secret(Secret::new(planted("environment").into_bytes()))
        .spec(&1)
        .unwrap();
    let held = insert(&store, new.clone()).await.unwrap();
    said.push(format!("{new:?} {held:?} {:?}", store.open_sealed(&held).await.unwrap()));
    let conflict: StoreError = insert(&store, new).await.unwrap_err();
    said.push(format!("{conflict} {conflict:?}"));

    let mut tx = store.begin(NOW).await.unwrap();
    tx.update(
        Kind::Container,
        &held.id,
        Patch::new().secret(Some(Secret::new(planted("second").into_bytes()))),
    )
    .await
    .unwrap();
    let user = UserRow {
        id: UserId::fresh(NOW.0),
        username: Username::parse("anna").unwrap(),
        password_hash: planted("password-hash"),
        role: Role::Admin,
        must_change_password: false,
    };
    let user = tx.create_user(user).await.unwrap();
    let pair = TokenPair {
        access: TokenHash::of(&planted("access")),
        access_expires_at: NOW.plus_millis(1),
        refresh: TokenHash::of(&planted("refresh")),
        expires_at: NOW.plus_millis(1),
    };
    let new = NewSession {
        id: SessionId::fresh(NOW.0),
        user_id: user.id.clone(),
        pair,
        address: String::new(),
    };
    said.push(format!("{user:?} {pair:?} {new:?}"));
    tx.create_session(new).await.unwrap();
    tx.audit(AuditEntry::new("anna", "test")).await.unwrap();
    tx.idempotency_begin("anna", "key", "hash").await.unwrap();
    tx.idempotency_finish("anna", "key", 201, &Secret::new(planted("answer").into_bytes()))
        .await
        .unwrap();
    let again = tx.idempotency_begin("anna", "key", "hash").await.unwrap();
    assert!(matches!(again, Idempotency::Done { .. }));
    said.push(format!("{again:?}"));
    tx.commit().await.unwrap();
    store.rotate_keys(NOW).await.unwrap();

    f.tamper("UPDATE resources SET sealed = 'v1:no-such-key:x:y'").await;
    let held = store.get(Kind::Container, &held.id).await.unwrap().unwrap();
    let error = store.open_sealed(&held).await.unwrap_err();
    said.push(format!("{error:?}"));
    let key = std::fs::read_to_string(&f.config.key_file).unwrap();
    store.close().await;
    let key = key.lines().last().unwrap().split_once(' ').unwrap().1.to_owned();
    said.push(format!("key {key}"));
    said
}

#[test]
fn nothing_secret_is_logged_or_printed() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut fixtures = vec![Fixture::sqlite()];
        if let Some(mut postgres) = Fixture::postgres().await {
            // The test's server trusts everybody, so that any password will do.
            let url = postgres
                .full_url()
                .replacen("postgres@", &format!("postgres:{}@", planted("database-password")), 1);
            postgres.config.url = url.parse().unwrap();
            fixtures.push(postgres);
        }
        for f in &fixtures {
            tracing::trace!("the least of all levels");
            let mut said = everything(f).await;
            let key = said.pop().unwrap();
            let key = key.strip_prefix("key ").unwrap();
            let text = log.text();
            assert!(
                text.contains("store open") && text.contains("the least of all levels"),
                "the log was listened to"
            );
            for text in said.iter().chain([&text]) {
                assert!(!text.contains("planted"), "{text}");
                assert!(!text.contains(key), "the master key was printed");
            }
        }
    });
}
