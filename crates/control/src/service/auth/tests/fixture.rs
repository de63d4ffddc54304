//! A store of a test's own, a clock that is set by hand, and passwords that cost little.

pub use nm_testing::{eventually, soon};

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::auth::{Actor, Auth, AuthConfig, Cost, Presented};
use crate::service::clock::{Clock, SharedClock};
use nm_store::{AuditQuery, AuditRecord, DatabaseUrl, Store, StoreConfig};
use nm_types::Timestamp;
use nm_types::auth::{Login, NewPassword, NewUser, Refresh, Role, SignedIn, UserView};
use nm_types::text::{SecretText, Username};
use sqlx::{AnyConnection, AssertSqlSafe, Connection};
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// Makes two tests of each async function that takes a [`Fixture`]: `sqlite::name` and `postgres::name`.
macro_rules! both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::service::auth::tests::fixture::Fixture::sqlite().await).await }
        )*}
        mod postgres {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(fixture) = $crate::service::auth::tests::fixture::Fixture::postgres().await { super::$name(fixture).await }
            }
        )*}
    };
}
pub(crate) use both;

pub const PASSWORD: &str = "correct horse battery";

#[derive(Debug)]
pub struct HandClock(AtomicI64);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

impl HandClock {
    pub fn pass(&self, time: Duration) {
        self.0.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

pub struct Fixture {
    pub auth: Auth,
    pub store: Store,
    pub clock: Arc<HandClock>,
    pub dir: TempDir,
    config: StoreConfig,
    // Dropped last, when nothing uses it any more.
    _database: Option<OwnDatabase>,
}

struct OwnDatabase {
    server: String,
    name: String,
}

impl Fixture {
    async fn open(dir: TempDir, url: DatabaseUrl, database: Option<OwnDatabase>) -> Self {
        let config = StoreConfig {
            url,
            key_file: dir.path().join("key"),
        };
        let store = Store::open(config.clone()).await.unwrap();
        let clock = Arc::new(HandClock(AtomicI64::new(1_770_000_000_000)));
        let auth = auth_on(&store, &clock);
        Self {
            auth,
            store,
            clock,
            dir,
            config,
            _database: database,
        }
    }

    pub async fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::sqlite(dir.path().join("nm.db"));
        Self::open(dir, url, None).await
    }

    pub async fn postgres() -> Option<Self> {
        let Ok(server) = std::env::var("NM_TEST_POSTGRES_URL") else {
            let required = std::env::var("NM_TEST_REQUIRE_SERVICES").is_ok_and(|v| v == "1");
            assert!(!required, "NM_TEST_REQUIRE_SERVICES=1, but NM_TEST_POSTGRES_URL is not set");
            // Straight to the terminal: the test harness would keep it to itself.
            writeln!(std::io::stderr(), "skipped: NM_TEST_POSTGRES_URL is not set").unwrap();
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let tail: String = dir
            .path()
            .file_name()
            .unwrap()
            .to_string_lossy()
            .bytes()
            .map(|b| format!("{b:02x}"))
            .collect();
        let name = format!("nm_control_{tail}");
        execute(&server, &format!("CREATE DATABASE {name}")).await;
        let (host, _) = server.rsplit_once('/').expect("the URL ends with a database");
        let url = format!("{host}/{name}").parse().unwrap();
        Some(Self::open(dir, url, Some(OwnDatabase { server, name })).await)
    }

    /// A control plane beside the first: on PostgreSQL with a store of its own, as another replica has.
    pub async fn replica(&self) -> Auth {
        let store = match self._database {
            Some(_) => Store::open(self.config.clone()).await.unwrap(),
            None => self.store.clone(),
        };
        auth_on(&store, &self.clock)
    }

    pub async fn user(&self, name: &str, role: Role) -> UserView {
        let admin = Actor::system();
        self.auth.create_user(&admin, &meta(), new_user(name, role)).await.unwrap().0
    }

    pub async fn login(&self, name: &str) -> SignedIn {
        self.auth.login(&meta(), login(name, PASSWORD)).await.unwrap()
    }

    /// A user who has signed in.
    pub async fn someone(&self, name: &str, role: Role) -> (SignedIn, Actor) {
        self.user(name, role).await;
        let signed_in = self.login(name).await;
        let actor = self.admit(&signed_in.access_token).await.unwrap();
        (signed_in, actor)
    }

    pub async fn admit(&self, token: &str) -> ApiResult<Actor> {
        admit(&self.auth, token).await
    }

    pub async fn refused(&self, token: &str) -> bool {
        is_refused(self.admit(token).await)
    }

    /// The audit log, oldest first.
    pub async fn audit_log(&self) -> Vec<AuditRecord> {
        let mut log = self
            .store
            .audit_log(&AuditQuery {
                limit: 200,
                ..AuditQuery::default()
            })
            .await
            .unwrap();
        log.reverse();
        log
    }

    /// Waits until the log has an entry with this action and outcome.
    pub async fn audited(&self, action: &str, outcome: &str) -> AuditRecord {
        eventually(&format!("an entry {action}: {outcome}"), async || {
            self.audit_log()
                .await
                .into_iter()
                .rev()
                .find(|r| r.entry.action == action && r.entry.outcome == outcome)
        })
        .await
    }
}

fn auth_on(store: &Store, clock: &Arc<HandClock>) -> Auth {
    Auth::new(store.clone(), Arc::clone(clock) as SharedClock, auth_config())
}

pub fn auth_config() -> AuthConfig {
    AuthConfig {
        password_cost: Cost::least(),
        ..AuthConfig::default()
    }
}

pub async fn admit(auth: &Auth, token: &str) -> ApiResult<Actor> {
    auth.admit(Presented::Bearer(token.to_owned()), None).await
}

/// Refused as somebody unknown, and for no other reason.
pub fn is_refused(result: ApiResult<Actor>) -> bool {
    match result {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.status, 401, "{error:?}");
            true
        }
    }
}

pub fn meta() -> Meta {
    from("192.0.2.1")
}

pub fn from(address: &str) -> Meta {
    let address: IpAddr = address.parse().unwrap();
    Meta {
        request_id: "req_test".into(),
        address: Some(address),
        ..Meta::internal()
    }
}

/// A POST to `path` with this Idempotency-Key.
pub fn keyed(path: &str, key: &str) -> Meta {
    Meta {
        path: path.into(),
        idempotency_key: Some(key.into()),
        ..meta()
    }
}

pub fn login(username: &str, password: &str) -> Login {
    Login {
        username: username.into(),
        password: SecretText::new(password),
    }
}

pub fn refresh(token: &str) -> Refresh {
    Refresh {
        refresh_token: SecretText::new(token),
    }
}

pub fn new_password(text: &str) -> NewPassword {
    NewPassword(SecretText::new(text))
}

pub fn new_user(name: &str, role: Role) -> NewUser {
    NewUser {
        username: Username::parse(name).unwrap(),
        password: new_password(PASSWORD),
        role,
    }
}

/// Status and code of a refusal.
pub fn code<T: std::fmt::Debug>(result: ApiResult<T>) -> (u16, String) {
    let ApiError { status, code, .. } = result.unwrap_err();
    (status.as_u16(), code)
}

async fn execute(url: &str, sql: &str) {
    sqlx::any::install_default_drivers();
    let mut conn = AnyConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

impl Drop for OwnDatabase {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let server = self.server.clone();
        // A thread, since this runs inside a runtime, and while a test's panic unwinds.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(execute(&server, &sql));
        });
        if dropped.join().is_err() && !std::thread::panicking() {
            panic!("the test's database was not dropped");
        }
    }
}
