//! A database of a test's own, on either backend.

use nm_store::{DatabaseUrl, Kind, NewResource, Resource, Store, StoreConfig, StoreError};
use nm_types::Timestamp;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Row};
use std::io::Write;
use std::path::PathBuf;
use tempfile::TempDir;

pub const NOW: Timestamp = Timestamp(1_770_000_000_000);

pub struct Fixture {
    pub dir: TempDir,
    pub config: StoreConfig,
    postgres: Option<OwnDatabase>,
}

/// Dropped with the fixture, whatever came of the test.
struct OwnDatabase {
    server: String,
    name: String,
}

impl Fixture {
    pub fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            url: DatabaseUrl::sqlite(dir.path().join("data/nm.db")),
            key_file: dir.path().join("keys/key"),
        };
        Self {
            dir,
            config,
            postgres: None,
        }
    }

    pub async fn postgres() -> Option<Self> {
        let Ok(server) = std::env::var("NM_TEST_POSTGRES_URL") else {
            let required = std::env::var("NM_TEST_REQUIRE_SERVICES").is_ok_and(|v| v == "1");
            assert!(!required, "NM_TEST_REQUIRE_SERVICES=1, but NM_TEST_POSTGRES_URL is not set");
            #[expect(
                clippy::explicit_write,
                reason = "straight to the terminal: the test harness would keep it to itself"
            )]
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
        let name = format!("nm_store_{tail}");
        sqlx::any::install_default_drivers();
        execute(&server, &format!("CREATE DATABASE {name}")).await;
        let (host, _) = server.rsplit_once('/').expect("the URL ends with a database");
        let url = format!("{host}/{name}").parse().unwrap();
        let config = StoreConfig {
            url,
            key_file: dir.path().join("keys/key"),
        };
        Some(Self {
            dir,
            config,
            postgres: Some(OwnDatabase { server, name }),
        })
    }

    pub fn is_postgres(&self) -> bool {
        self.postgres.is_some()
    }

    pub async fn open(&self) -> Store {
        self.try_open().await.unwrap()
    }

    pub async fn try_open(&self) -> Result<Store, StoreError> {
        Store::open(self.config.clone()).await
    }

    pub fn sqlite_file(&self) -> PathBuf {
        self.dir.path().join("data/nm.db")
    }

    /// The URL with everything in it, for the drivers.
    pub fn full_url(&self) -> String {
        match &self.postgres {
            Some(own) => format!("{}/{}", own.server.rsplit_once('/').unwrap().0, own.name),
            None => format!("sqlite://{}", self.sqlite_file().display()),
        }
    }

    /// A statement past the store, as somebody with access to the database would run it.
    pub async fn tamper(&self, sql: &str) -> u64 {
        execute(&self.full_url(), sql).await
    }

    pub async fn rows(&self, sql: &str) -> Vec<AnyRow> {
        let mut conn = AnyConnection::connect(&self.full_url()).await.unwrap();
        let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        rows
    }

    /// All that the database keeps, as bytes: SQLite's files, or every row of every table.
    pub async fn raw_bytes(&self) -> Vec<u8> {
        if !self.is_postgres() {
            let data = self.dir.path().join("data");
            return std::fs::read_dir(data)
                .unwrap()
                .flat_map(|f| std::fs::read(f.unwrap().path()).unwrap())
                .collect();
        }
        let mut out = Vec::new();
        for table in self.rows("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'").await {
            let table: String = table.get(0);
            for row in self.rows(&format!("SELECT t::text FROM {table} t")).await {
                out.extend_from_slice(row.get::<String, _>(0).as_bytes());
            }
        }
        out
    }
}

async fn execute(url: &str, sql: &str) -> u64 {
    sqlx::any::install_default_drivers();
    let mut conn = AnyConnection::connect(url).await.unwrap();
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap().rows_affected();
    conn.close().await.unwrap();
    done
}

impl Drop for OwnDatabase {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let server = self.server.clone();
        // A thread, since this may run inside a runtime, and while a test's panic unwinds.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(execute(&server, &sql));
        });
        if dropped.join().is_err() && !std::thread::panicking() {
            panic!("the test's database was not dropped");
        }
    }
}

pub fn container(n: usize) -> NewResource {
    NewResource::new(Kind::Container, id(n))
        .named(format!("web-{n}"))
        .within("node_1_abcdefghi")
}

pub fn id(n: usize) -> String {
    format!("cont_{n:013}_abcdefghi")
}

pub async fn insert(store: &Store, new: NewResource) -> Result<Resource, StoreError> {
    let mut tx = store.begin(NOW).await?;
    let held = tx.insert(new).await?;
    tx.commit().await?;
    Ok(held)
}
