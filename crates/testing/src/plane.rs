//! The control plane under test.

use crate::client::Client;
use crate::clock::TestClock;
use crate::database::Database;
use nm_control::app::{App, AppConfig};
use nm_control::service::auth::{AuthConfig, Cost, INITIAL_PASSWORD_FILE};
use nm_link::server::ServerOptions;
use nm_store::{Store, StoreConfig, StoreError};
use nm_types::auth::{CreatedToken, Role, SignedIn};
use nm_waits::{DEADLINE, soon};
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a node may be gone here until it counts as lost.
pub const LOST_AFTER: Duration = Duration::from_secs(3);

/// How long nodes let tasks run here without a word.
pub const TASK_LEASE: Duration = Duration::from_secs(2);

/// The name of the threads that control planes run on.
pub(crate) const CONTROL_PLANE: &str = "control-plane";

/// A real control plane on loopback, in a runtime of its own.
pub struct TestControlPlane {
    // Dropped in this order: what runs, then where it keeps things.
    running: Option<Running>,
    clock: TestClock,
    api: watch::Sender<SocketAddr>,
    agents: watch::Sender<SocketAddr>,
    admin: OnceCell<Client>,
    operator: OnceCell<Client>,
    viewer: OnceCell<Client>,
    tune: Tune,
    database: Database,
}

/// What a test changes in the configuration, at each opening.
type Tune = Arc<dyn Fn(&mut AppConfig) + Send + Sync>;

struct Running {
    app: App,
    serving: JoinHandle<Result<(), String>>,
    runtime: Runtime,
}

impl Running {
    /// Drops everything that runs where it stands. In a thread, since a runtime may not be ended from within another.
    fn end(self) {
        let Self { app, serving, runtime } = self;
        drop((app, serving));
        let ended = std::thread::spawn(move || runtime.shutdown_timeout(DEADLINE)).join();
        assert!(ended.is_ok() || std::thread::panicking(), "the control plane's runtime did not end");
    }
}

/// The password of a user that [`TestControlPlane`] makes.
pub fn password_of(role: Role) -> String {
    format!("a password of the {}", role.as_str())
}

fn username(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::Operator => "olga",
        Role::Viewer => "vera",
    }
}

/// On PostgreSQL the server may still be ending the transaction of a control plane that was killed.
async fn open_store(config: StoreConfig) -> Store {
    soon("the store opens", async {
        loop {
            match Store::open(config.clone()).await {
                Ok(store) => return store,
                Err(StoreError::Busy { .. } | StoreError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => panic!("the store does not open: {error:?}"),
            }
        }
    })
    .await
}

impl TestControlPlane {
    pub async fn start(database: Database) -> Self {
        Self::start_tuned(database, |_| {}).await
    }

    /// With a configuration that `tune` has changed.
    pub async fn start_tuned(database: Database, tune: impl Fn(&mut AppConfig) + Send + Sync + 'static) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut plane = Self {
            running: None,
            clock: TestClock::default(),
            api: watch::Sender::new(nowhere),
            agents: watch::Sender::new(nowhere),
            admin: OnceCell::new(),
            operator: OnceCell::new(),
            viewer: OnceCell::new(),
            tune: Arc::new(tune),
            database,
        };
        plane.open().await;
        plane
    }

    /// On SQLite, for tests that no database has a say in.
    pub async fn sqlite() -> Self {
        Self::start(Database::sqlite()).await
    }

    async fn open(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(CONTROL_PLANE)
            .enable_all()
            .build()
            .expect("a runtime");
        let (folder, store, clock) = (self.database.folder().to_owned(), self.database.config(), self.clock.clone());
        let tune = self.tune.clone();
        let opened = runtime.spawn(async move {
            let store = open_store(store).await;
            let mut config = AppConfig {
                data_dir: folder.clone(),
                trusted_proxies: Vec::new(),
                // Where tests have their servers; the rest of 127.0.0.0/8 stands for what is forbidden.
                allow_outbound: vec!["127.0.0.1".parse().expect("an address")],
                auth: AuthConfig {
                    password_cost: Cost::least(),
                    ..AuthConfig::default()
                },
                link: ServerOptions {
                    drain: Duration::from_secs(1),
                    ..ServerOptions::default()
                },
                lost_after: LOST_AFTER,
                scaling_every: Duration::from_millis(100),
                schedule_every: Duration::from_millis(50),
                task_lease: TASK_LEASE,
                acme_http_port: nm_control::app::ACME_HTTP_PORT,
                executable: std::env::current_exe().ok(),
                own_backup: None,
            };
            tune(&mut config);
            let app = App::open(config, store, Arc::new(clock)).await.expect("the control plane opens");
            app.auth.bootstrap(&folder).await.expect("there is a first admin");
            let bind = || TcpListener::bind("127.0.0.1:0");
            let (api, agents) = (bind().await.expect("a port"), bind().await.expect("a port"));
            let places = (api.local_addr().expect("an address"), agents.local_addr().expect("an address"));
            let serving = tokio::spawn({
                let app = app.clone();
                async move { app.run(api, agents).await }
            });
            (app, serving, places)
        });
        let (app, serving, (api, agents)) = opened.await.expect("the control plane opens");
        self.running = Some(Running { app, serving, runtime });
        self.api.send_replace(api);
        self.agents.send_replace(agents);
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the control plane runs")
    }

    /// What it is made of.
    pub fn app(&self) -> &App {
        &self.running().app
    }
    pub fn clock(&self) -> &TestClock {
        &self.clock
    }
    pub fn database(&self) -> &Database {
        &self.database
    }
    /// The data folder.
    pub fn folder(&self) -> &Path {
        self.database.folder()
    }
    /// Where agents dial, now and after each restart.
    pub fn agents(&self) -> watch::Receiver<SocketAddr> {
        self.agents.subscribe()
    }

    /// Stops it gracefully and opens it again on the same data.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.open().await;
    }

    /// Stops it gracefully.
    pub async fn stop(&mut self) {
        let mut running = self.running.take().expect("the control plane runs");
        running.app.shut_down();
        match tokio::time::timeout(DEADLINE, &mut running.serving).await {
            Ok(ended) => ended.expect("it does not panic").expect("it ends well"),
            Err(_) => panic!("the control plane does not stop within {DEADLINE:?}"),
        }
        running.end();
    }

    /// Waits until it has ended by itself, and gives why.
    pub async fn ended(&mut self) -> Result<(), String> {
        let serving = &mut self.running.as_mut().expect("the control plane runs").serving;
        soon("the control plane ends by itself", serving).await.expect("it does not panic")
    }

    /// Ends it as `kill -9` does, wherever it stands, and opens it again on the same data.
    pub async fn kill(&mut self) {
        self.kill_only();
        self.open().await;
    }

    /// Ends it as `kill -9` does.
    pub fn kill_only(&mut self) {
        self.running.take().expect("the control plane runs").end();
    }

    /// Opens it again after [`TestControlPlane::stop`] or [`TestControlPlane::kill_only`].
    pub async fn reopen(&mut self) {
        self.open().await;
    }

    /// Lets nothing be written until the guard is dropped, or for good where the control plane is killed before.
    pub async fn hold_writes(&self) -> DropGuard {
        let (store, now) = (self.app().store.clone(), self.app().clock.now());
        let release = CancellationToken::new();
        let released = release.clone();
        let (sender, held) = oneshot::channel();
        // In its own runtime, so that it dies with it and not a moment before.
        self.running().runtime.spawn(async move {
            let writing = store.begin(now).await.expect("a turn to write");
            // Whoever waits for it may have given up.
            let _told = sender.send(());
            released.cancelled().await;
            drop(writing);
        });
        soon("a turn to write", held).await.expect("the turn is taken");
        release.drop_guard()
    }

    /// Somebody without a token.
    pub fn anonymous(&self) -> Client {
        Client::new(self.api.subscribe(), None)
    }

    /// A new session of a user.
    pub async fn sign_in(&self, username: &str, password: &str) -> Client {
        let reply = self
            .anonymous()
            .post("/api/auth/login")
            .json(&json!({ "username": username, "password": password }))
            .await;
        let signed_in: SignedIn = reply.data(200);
        self.anonymous().with_token(&signed_in.access_token)
    }

    /// The first admin, with the password that was made on the machine.
    pub async fn admin(&self) -> &Client {
        self.admin
            .get_or_init(|| async {
                let password = std::fs::read_to_string(self.folder().join(INITIAL_PASSWORD_FILE)).expect("the first admin's password");
                self.sign_in("admin", password.trim_end()).await
            })
            .await
    }
    pub async fn operator(&self) -> &Client {
        self.operator.get_or_init(|| self.user(Role::Operator)).await
    }
    pub async fn viewer(&self) -> &Client {
        self.viewer.get_or_init(|| self.user(Role::Viewer)).await
    }

    async fn user(&self, role: Role) -> Client {
        let (name, password) = (username(role), password_of(role));
        let new = json!({ "username": name, "password": password, "role": role });
        self.admin().await.post("/api/users").json(&new).await.is(201);
        self.sign_in(name, &password).await
    }

    /// Another session of the user of this role.
    pub async fn session(&self, role: Role) -> Client {
        match role {
            Role::Admin => {
                let password = std::fs::read_to_string(self.folder().join(INITIAL_PASSWORD_FILE)).expect("the first admin's password");
                self.sign_in("admin", password.trim_end()).await
            }
            Role::Operator | Role::Viewer => {
                let _made = if role == Role::Operator {
                    self.operator().await
                } else {
                    self.viewer().await
                };
                self.sign_in(username(role), &password_of(role)).await
            }
        }
    }

    /// An API token of the admin, of this role and limited to these scopes.
    pub async fn token(&self, role: Role, scopes: &[&str]) -> Client {
        let new = json!({ "name": "test", "role": role, "scopes": scopes });
        let made: CreatedToken = self.admin().await.post("/api/tokens").json(&new).await.data(201);
        self.anonymous().with_token(&made.token)
    }
}

impl Drop for TestControlPlane {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.end();
        }
    }
}
