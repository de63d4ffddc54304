//! All of a store as lines of text, for the control plane's own backup, and a store made of them again: on either database, whichever
//! they came from.
//!
//! The first line is a [`Head`]. Of each table there is a line with its columns, and one a row; the last line says how many rows there
//! were, so that lines that were cut off are known as such. Secrets stand in it as they are kept: sealed, with a key that is in the key
//! file alone.

use crate::config::{Backend, StoreConfig};
use crate::db::{Columns, Db, Sql, blocking};
use crate::error::StoreError;
use crate::migrate::{self, MIGRATIONS};
use crate::seal::{ROOT_PLACE, Ring, Root};
use crate::store::Store;
use crate::tx::values;
use nm_types::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Column, Row};
use std::io;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt};

const FORMAT: u32 = 1;
/// Each after those that it refers to. What is not among them serves a control plane that runs: the feed of changes, and the answers
/// that are kept for requests that come twice.
const TABLES: [&str; 16] = [
    "store_head",
    "resources",
    "users",
    "sessions",
    "spent_refresh_tokens",
    "api_tokens",
    "audit",
    "node_events",
    "node_journals",
    "health_history",
    "health_checked",
    "edge_nodes",
    "cluster_events",
    "cluster_totals",
    "cluster_points",
    "job_tasks",
];
#[cfg(test)]
const LEFT_OUT: [&str; 2] = ["changes", "idempotency"];
/// What revisions and generations go on with after a store was brought back. Nodes and readers have seen higher ones than a backup
/// holds, and take nothing that is older than those.
const LEAP: i64 = 1_000_000;
/// The schema that first had load balancers' documents.
const WITH_CLUSTERS: i64 = 4;
/// Parameters of one statement, which SQLite bounds.
const PARAMETERS: usize = 5_000;
/// The longest line that is read back.
const LINE_AT_MOST: usize = 64 << 20;

/// What an export is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportHead {
    pub neuralmesh: u32,
    /// Of the release that wrote it.
    pub schema: i64,
    /// The master key that its secrets are sealed with.
    pub key: String,
    pub revision: i64,
    pub time: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Table { table: String, columns: Vec<String> },
    Row(Vec<Value>),
    End { rows: u64 },
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Value {
    Null,
    Int(i64),
    Text(String),
}

fn value(row: &AnyRow, index: usize) -> Result<Value, StoreError> {
    match row.opt_int(index) {
        Ok(number) => Ok(number.map_or(Value::Null, Value::Int)),
        Err(_) => Ok(row.opt_text(index)?.map_or(Value::Null, Value::Text)),
    }
}

fn not_written(error: io::Error) -> StoreError {
    StoreError::Export {
        attempt: "write the export",
        source: error,
    }
}

fn not_read(error: io::Error) -> StoreError {
    StoreError::Export {
        attempt: "read the export",
        source: error,
    }
}

async fn put(out: &mut (impl AsyncWrite + Unpin), line: &impl Serialize) -> Result<(), StoreError> {
    let mut text = serde_json::to_vec(line).map_err(|e| not_written(e.into()))?;
    text.push(b'\n');
    out.write_all(&text).await.map_err(not_written)
}

impl Store {
    /// Writes all of it, as it is at one moment, while others write on. Gives what it is of.
    pub async fn export(&self, now: Timestamp, out: &mut (impl AsyncWrite + Unpin + Send)) -> Result<ExportHead, StoreError> {
        let mut view = self.shared.db.view().await?;
        let head = view
            .one("read the head row", sqlx::query("SELECT key_id, revision FROM store_head"))
            .await?;
        let head = head.ok_or_else(|| StoreError::corrupt("the head row is missing"))?;
        let head = ExportHead {
            neuralmesh: FORMAT,
            schema: MIGRATIONS.last().map_or(0, |m| m.version),
            key: head.text(0)?,
            revision: head.int(1)?,
            time: now,
        };
        put(out, &head).await?;
        let mut count = 0;
        for table in TABLES {
            // Names of our own tables.
            let all = sqlx::query(AssertSqlSafe(format!("SELECT * FROM {table}")));
            let mut rows = view.stream("read a table", all);
            let mut named = false;
            while let Some(row) = rows.next().await? {
                if !named {
                    let columns = row.columns().iter().map(|c| c.name().to_owned()).collect();
                    put(
                        out,
                        &Line::Table {
                            table: table.into(),
                            columns,
                        },
                    )
                    .await?;
                    named = true;
                }
                let row = (0..row.columns().len()).map(|i| value(&row, i)).collect::<Result<_, _>>()?;
                put(out, &Line::Row(row)).await?;
                count += 1;
            }
        }
        put(out, &Line::End { rows: count }).await?;
        out.flush().await.map_err(not_written)?;
        Ok(head)
    }

    /// Makes a store of an export, where there is none so far: all of it or nothing. The key file has to be the one that its secrets
    /// were sealed with. Gives what it is of, and how many rows.
    pub async fn import(config: &StoreConfig, from: impl AsyncBufRead + Unpin + Send) -> Result<(ExportHead, u64), StoreError> {
        let mut lines = Lines { from, text: Vec::new() };
        let head: ExportHead = lines.next().await?.ok_or_else(cut)?;
        let known = MIGRATIONS.last().map_or(0, |m| m.version);
        if head.neuralmesh != FORMAT || head.schema > known {
            return Err(StoreError::NewerSchema { found: head.schema, known });
        }
        let path = config.key_file.clone();
        let ring = blocking("open the key file", move || Ok(Ring::open(&path)?)).await?;
        if !ring.key_ids().contains(&head.key) {
            return Err(crate::error::SealError::WrongKey {
                path: config.key_file.clone(),
                key: head.key,
            }
            .into());
        }
        let db = Db::open(&config.url, true).await?;
        let done = fill(&db, &head, &ring, &mut lines).await;
        db.close().await;
        Ok((head, done?))
    }
}

/// One transaction; dropped in the middle it leaves nothing.
async fn fill(db: &Db, head: &ExportHead, ring: &Ring, lines: &mut Lines<impl AsyncBufRead + Unpin + Send>) -> Result<u64, StoreError> {
    let steps = MIGRATIONS.iter().take_while(|m| m.version <= head.schema).count();
    migrate::run(db, &MIGRATIONS[..steps]).await?;
    let (mut turn, _) = db.turn(migrate::exclusive(db.backend)).await?;
    let conn = &mut turn.conn;
    let held = db
        .within(
            "look for a control plane",
            sqlx::query("SELECT revision FROM store_head").fetch_all(&mut *conn),
        )
        .await?;
    if !held.is_empty() {
        return Err(StoreError::Occupied);
    }
    let (mut count, mut into) = (0, None);
    let mut waiting: Vec<Vec<Value>> = Vec::new();
    loop {
        let line: Line = lines.next().await?.ok_or_else(cut)?;
        let width = into.as_ref().map_or(0, |(_, columns): &(String, usize)| *columns);
        let whole = !matches!(line, Line::Row(_)) || (waiting.len() + 1) * width > PARAMETERS;
        if let (true, false, Some((sql, width))) = (whole, waiting.is_empty(), &into) {
            let mut sql = sql.clone();
            values(&mut sql, waiting.len(), *width);
            // Names were compared with our own, all else are numbers of parameters.
            let mut insert = sqlx::query(AssertSqlSafe(sql)).persistent(false);
            for cell in waiting.drain(..).flatten() {
                insert = match cell {
                    Value::Null => insert.bind(None::<String>),
                    Value::Int(number) => insert.bind(number),
                    Value::Text(text) => insert.bind(text),
                };
            }
            db.within("write rows", insert.execute(&mut *conn)).await?;
        }
        match line {
            Line::Table { table, columns } => {
                let plain = |name: &String| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                if !TABLES.contains(&table.as_str()) || columns.is_empty() || !columns.iter().all(plain) {
                    return Err(StoreError::corrupt(format!(
                        "the export speaks of a table `{}` that there is none of",
                        table.escape_default()
                    )));
                }
                into = Some((format!("INSERT INTO {table} ({}) VALUES ", columns.join(", ")), columns.len()));
            }
            Line::Row(row) => {
                if width == 0 || row.len() != width {
                    return Err(StoreError::corrupt("a row of the export has other columns than its table"));
                }
                count += 1;
                waiting.push(row);
            }
            Line::End { rows } if rows == count => break,
            Line::End { .. } => return Err(cut()),
        }
    }
    let sealed = db
        .within(
            "read the head row",
            sqlx::query("SELECT root_sealed FROM store_head").fetch_all(&mut *conn),
        )
        .await?;
    let sealed = sealed.first().ok_or_else(cut)?.text(0)?;
    Root::from_secret(&ring.open_sealed(ROOT_PLACE, &sealed)?)?;
    let mut leaps = vec![
        "UPDATE store_head SET revision = revision + $1, floor = revision + $1",
        "UPDATE resources SET generation = generation + $1",
    ];
    if head.schema >= WITH_CLUSTERS {
        leaps.push("UPDATE edge_nodes SET generation = generation + $1, digest = ''");
    }
    for sql in leaps {
        db.within("go on with higher numbers", sqlx::query(sql).bind(LEAP).execute(&mut *conn))
            .await?;
    }
    db.within("commit what was brought back", sqlx::raw_sql("COMMIT").execute(&mut *conn))
        .await?;
    turn.finish();
    Ok(count)
}

fn cut() -> StoreError {
    StoreError::corrupt("the export ends before its end: it was cut off, restore another backup")
}

struct Lines<R> {
    from: R,
    text: Vec<u8>,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    async fn next<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>, StoreError> {
        self.text.clear();
        loop {
            let read = self.from.fill_buf().await.map_err(not_read)?;
            let end = read.iter().position(|b| *b == b'\n');
            let take = end.map_or(read.len(), |at| at + 1);
            self.text.extend_from_slice(&read[..take]);
            self.from.consume(take);
            if self.text.len() > LINE_AT_MOST {
                return Err(StoreError::corrupt("a line of the export is too long"));
            }
            match (take, end) {
                (0, _) if self.text.is_empty() => return Ok(None),
                (0, _) => return Err(cut()),
                (_, Some(_)) => break,
                (_, None) => {}
            }
        }
        match serde_json::from_slice(&self.text) {
            Ok(line) => Ok(Some(line)),
            Err(e) => Err(StoreError::corrupt(format!("a line of the export can't be read: {e}"))),
        }
    }
}

/// Opens a view of all tables at one moment.
pub(crate) fn beginning(backend: Backend) -> &'static str {
    match backend {
        Backend::Sqlite => "BEGIN",
        // It may take longer than a statement of a request may.
        Backend::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = 0",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_table_is_forgotten() {
        let mut made: Vec<&str> = MIGRATIONS
            .iter()
            .flat_map(|m| m.sql.split("CREATE TABLE ").skip(1))
            .filter_map(|text| text.split_whitespace().next())
            .collect();
        let mut known: Vec<&str> = TABLES.into_iter().chain(LEFT_OUT).collect();
        made.sort_unstable();
        known.sort_unstable();
        assert_eq!(made, known);
    }
}
