//! The schema, embedded, brought up to date step by step.
//!
//! Each step and the note that it was made are one transaction, so that a process killed at any moment leaves the schema
//! before the step or the one after it. On PostgreSQL an advisory lock keeps replicas that start together apart.

use crate::config::Backend;
use crate::db::{Columns, Db};
use crate::error::StoreError;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, SqlSafeStr};

pub(crate) struct Migration {
    pub(crate) version: i64,
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

/// In order; a step that was ever released is never edited.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "initial",
        sql: include_str!("../migrations/0001_initial.sql"),
    },
    Migration {
        version: 2,
        name: "node events",
        sql: include_str!("../migrations/0002_node_events.sql"),
    },
    Migration {
        version: 3,
        name: "health",
        sql: include_str!("../migrations/0003_health.sql"),
    },
    Migration {
        version: 4,
        name: "clusters",
        sql: include_str!("../migrations/0004_clusters.sql"),
    },
    Migration {
        version: 5,
        name: "jobs",
        sql: include_str!("../migrations/0005_jobs.sql"),
    },
];

const CREATE_LEDGER: &str = "CREATE TABLE IF NOT EXISTS schema_migrations \
     (version BIGINT PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL)";

/// Opens a transaction that nobody else changing the schema can be in.
pub(crate) fn exclusive(backend: Backend) -> &'static str {
    match backend {
        Backend::Sqlite => "BEGIN IMMEDIATE",
        // Any number that no other program uses: the first bytes of SHA-256 of "neuralmesh schema".
        Backend::Postgres => "BEGIN; SELECT pg_advisory_xact_lock(4779025837263490611)",
    }
}

impl Migration {
    fn checksum(&self) -> String {
        hex::encode(Sha256::digest(self.sql))
    }

    fn text(&self, backend: Backend) -> String {
        let key_text = match backend {
            Backend::Sqlite => "TEXT",
            Backend::Postgres => r#"TEXT COLLATE "C""#,
        };
        // The comments go first: one of them explains the word.
        let bare: Vec<&str> = self.sql.lines().map(|line| line.split("--").next().unwrap_or_default()).collect();
        bare.join("\n").replace("KEYTEXT", key_text)
    }
}

/// Brings the schema to the last of `migrations`.
pub(crate) async fn run(db: &Db, migrations: &[Migration]) -> Result<(), StoreError> {
    let known = migrations.last().map_or(0, |m| m.version);
    loop {
        let (mut turn, _) = db.turn(exclusive(db.backend)).await?;
        let conn = &mut turn.conn;
        db.within("prepare the schema's ledger", sqlx::raw_sql(CREATE_LEDGER).execute(&mut *conn))
            .await?;
        let read = sqlx::query("SELECT version, checksum FROM schema_migrations ORDER BY version");
        let rows = db.within("read the schema's version", read.fetch_all(&mut *conn)).await?;
        let mut held = 0;
        for row in &rows {
            held = row.int(0)?;
            let sum = row.text(1)?;
            if migrations.iter().any(|m| m.version == held && m.checksum() != sum) {
                return Err(StoreError::corrupt(format!(
                    "schema {held} is not the one this release made under that number"
                )));
            }
        }
        if held > known {
            return Err(StoreError::NewerSchema { found: held, known });
        }
        let Some(next) = migrations.iter().find(|m| m.version > held) else {
            db.within("end the schema's check", sqlx::raw_sql("COMMIT").execute(&mut *conn))
                .await?;
            turn.finish();
            return Ok(());
        };
        // The text is ours, embedded at build time.
        let sql = AssertSqlSafe(next.text(db.backend)).into_sql_str();
        db.within("change the schema", sqlx::raw_sql(sql).execute(&mut *conn)).await?;
        let note = sqlx::query("INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)")
            .bind(next.version)
            .bind(next.name)
            .bind(next.checksum());
        db.within("note the schema's version", note.execute(&mut *conn)).await?;
        db.within("commit the schema", sqlx::raw_sql("COMMIT").execute(&mut *conn)).await?;
        turn.finish();
        tracing::info!(schema = next.version, name = next.name, "database schema brought up to date");
    }
}
