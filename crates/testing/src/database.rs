//! A database of a test's own, on either backend.

use nm_store::{DatabaseUrl, StoreConfig};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Row};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Where a control plane under test keeps everything: a folder, and a database in it or on a server.
#[derive(Debug)]
pub struct Database {
    dir: TempDir,
    postgres: Option<OwnDatabase>,
}

/// Dropped with the fixture, whatever came of the test.
#[derive(Debug)]
struct OwnDatabase {
    server: String,
    name: String,
}

impl Database {
    pub fn sqlite() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
            postgres: None,
        }
    }

    /// `None`, said on standard error, where the environment names no server. See [`both!`](crate::both).
    pub async fn postgres() -> Option<Self> {
        let Ok(server) = std::env::var("NM_TEST_POSTGRES_URL") else {
            let required = std::env::var("NM_TEST_REQUIRE_SERVICES").is_ok_and(|v| v == "1");
            assert!(!required, "NM_TEST_REQUIRE_SERVICES=1, but NM_TEST_POSTGRES_URL is not set");
            // Straight to the terminal: the test harness would keep what `eprintln!` says to itself.
            writeln!(std::io::stderr(), "skipped: NM_TEST_POSTGRES_URL is not set").expect("standard error takes a line");
            return None;
        };
        Some(Self::postgres_at(&server).await)
    }

    /// On the server at this URL, which names a superuser: `postgres://postgres@127.0.0.1:5432/postgres`.
    pub async fn postgres_at(server: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let tail = dir
            .path()
            .file_name()
            .map(|n| hex::encode(n.as_encoded_bytes()))
            .unwrap_or_default();
        let name = format!("nm_control_{tail}");
        execute(server, &format!("CREATE DATABASE {name}")).await;
        Self {
            dir,
            postgres: Some(OwnDatabase {
                server: server.to_owned(),
                name,
            }),
        }
    }

    pub fn is_postgres(&self) -> bool {
        self.postgres.is_some()
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    fn sqlite_file(&self) -> PathBuf {
        self.dir.path().join("data/neuralmesh.db")
    }

    pub fn config(&self) -> StoreConfig {
        let url = match &self.postgres {
            Some(_) => self.full_url().parse().expect("the test's own URL"),
            None => DatabaseUrl::sqlite(self.sqlite_file()),
        };
        StoreConfig {
            url,
            key_file: self.dir.path().join("keys/secrets.key"),
        }
    }

    fn full_url(&self) -> String {
        match &self.postgres {
            Some(own) => format!(
                "{}/{}",
                own.server.rsplit_once('/').expect("the URL ends with a database").0,
                own.name
            ),
            None => format!("sqlite://{}", self.sqlite_file().display()),
        }
    }

    /// A statement past the control plane, as somebody with access to the database would run it. Gives the rows changed.
    pub async fn tamper(&self, sql: &str) -> u64 {
        execute(&self.full_url(), sql).await
    }

    async fn rows(&self, sql: &str) -> Vec<AnyRow> {
        let mut conn = AnyConnection::connect(&self.full_url()).await.expect("the database answers");
        let rows = sqlx::raw_sql(AssertSqlSafe(sql))
            .fetch_all(&mut conn)
            .await
            .expect("the test's own SQL");
        conn.close().await.expect("the connection closes");
        rows
    }

    /// All that the database keeps, as bytes: SQLite's files, or every row of every table.
    pub async fn raw_bytes(&self) -> Vec<u8> {
        if !self.is_postgres() {
            let folder = std::fs::read_dir(self.dir.path().join("data")).expect("the data folder");
            return folder
                .flat_map(|f| std::fs::read(f.expect("an entry").path()).expect("a readable file"))
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
    let mut conn = AnyConnection::connect(url).await.expect("the database server answers");
    let done = sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut conn)
        .await
        .expect("the test's own SQL")
        .rows_affected();
    conn.close().await.expect("the connection closes");
    done
}

impl Drop for OwnDatabase {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let server = self.server.clone();
        // A thread, since this may run inside a runtime, and while a test's panic unwinds.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(execute(&server, &sql));
        });
        if dropped.join().is_err() && !std::thread::panicking() {
            panic!("the test's database was not dropped");
        }
    }
}
