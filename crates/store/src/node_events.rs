//! What happened on nodes. An agent's journal numbers its events; what was read of it and how far it was read are written in
//! one transaction, so that a crash on either side loses nothing and repeats nothing.

use crate::change::{Kind, Subject, What};
use crate::db::{Columns, Sql};
use crate::error::StoreError;
use crate::store::Store;
use crate::tx::{Tx, values};
use nm_types::Timestamp;
use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;

/// Events kept of a node: as many as its agent keeps.
const KEEP: i64 = 10_000;
/// A node's old events are dropped each time its numbers pass a multiple of this.
const DROP_EVERY: i64 = 1_000;
/// The most events one statement writes.
const PER_INSERT: usize = 50;

/// How far a node's journal was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalCursor {
    /// The journal's name.
    pub journal: i64,
    /// The last number that was read.
    pub seq: i64,
}

/// An event of a journal, to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNodeEvent {
    pub seq: i64,
    pub at: Timestamp,
    pub kind: &'static str,
    /// Our id of the container that it is about.
    pub container: Option<String>,
    pub docker_id: Option<String>,
    pub name: Option<String>,
    pub detail: serde_json::Value,
}

/// An event as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeEventRow {
    /// Grows in the order in which events were written.
    pub id: i64,
    pub node: String,
    pub journal: i64,
    pub seq: i64,
    pub at: Timestamp,
    pub kind: String,
    pub container: Option<String>,
    pub docker_id: Option<String>,
    pub name: Option<String>,
    pub detail: serde_json::Value,
}

/// Which events [`Store::node_events`] gives, newest first.
#[derive(Debug, Clone, Copy)]
pub struct NodeEventsQuery<'a> {
    pub node: &'a str,
    /// Only those of the container with this id of ours.
    pub container: Option<&'a str>,
    /// Only those of the container with this id of Docker's.
    pub docker_id: Option<&'a str>,
    /// Only those before this id: the last one of the page before.
    pub before: Option<i64>,
    pub limit: u32,
}

macro_rules! columns {
    () => {
        "id, node, journal, seq, at, kind, container, docker_id, name, detail"
    };
}

fn read(row: &AnyRow) -> Result<NodeEventRow, StoreError> {
    let some = |text: String| (!text.is_empty()).then_some(text);
    let id = row.int(0)?;
    Ok(NodeEventRow {
        id,
        node: row.text(1)?,
        journal: row.int(2)?,
        seq: row.int(3)?,
        at: row.moment(4)?,
        kind: row.text(5)?,
        container: some(row.text(6)?),
        docker_id: some(row.text(7)?),
        name: some(row.text(8)?),
        detail: serde_json::from_str(&row.text(9)?)
            .map_err(|_| StoreError::corrupt(format!("the detail of node event {id} is not JSON")))?,
    })
}

/// PostgreSQL stores no NUL, and a node may say anything.
fn clean(text: Option<String>) -> String {
    text.map(|t| if t.contains('\0') { t.replace('\0', "\u{fffd}") } else { t })
        .unwrap_or_default()
}

async fn cursor(sql: &mut impl Sql, node: &str) -> Result<Option<JournalCursor>, StoreError> {
    let read = sqlx::query("SELECT journal, seq FROM node_journals WHERE node = $1").bind(node);
    let row = sql.one("read how far a node's journal was read", read).await?;
    row.map(|r| {
        Ok(JournalCursor {
            journal: r.int(0)?,
            seq: r.int(1)?,
        })
    })
    .transpose()
}

impl Tx {
    /// How far the node's journal was read, as of this transaction.
    pub async fn journal_cursor(&mut self, node: &str) -> Result<Option<JournalCursor>, StoreError> {
        cursor(self, node).await
    }

    /// Writes events of a node's journal, and that it was read as far as `to`. Those that are there already stay as they are.
    /// [`StoreError::NotFound`] when the node is gone.
    pub async fn node_events(&mut self, node: &str, to: JournalCursor, events: Vec<NewNodeEvent>) -> Result<(), StoreError> {
        if self.get(Kind::Node, node).await?.is_none() {
            return Err(StoreError::NotFound {
                kind: Kind::Node.into(),
                id: node.to_owned(),
            });
        }
        let from = cursor(self, node).await?;
        let newest = self
            .one(
                "read the newest node event",
                sqlx::query("SELECT COALESCE(MAX(id), 0) FROM node_events"),
            )
            .await?;
        let mut id = newest.map_or(Ok(0), |r| r.int(0))?;
        if !events.is_empty() {
            let revision = self.next_revision();
            self.changed(revision, Subject::NodeEvents, node, "", What::Created);
        }
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let some: Vec<NewNodeEvent> = events.by_ref().take(PER_INSERT).collect();
            let mut sql = String::from(concat!("INSERT INTO node_events (", columns!(), ") VALUES "));
            values(&mut sql, some.len(), 10);
            sql.push_str(" ON CONFLICT (node, journal, seq) DO NOTHING");
            // The text is made of parameter numbers.
            let mut insert = sqlx::query(AssertSqlSafe(sql)).persistent(some.len() == 1);
            for event in some {
                id += 1;
                insert = insert
                    .bind(id)
                    .bind(node)
                    .bind(to.journal)
                    .bind(event.seq)
                    .bind(event.at.0)
                    .bind(event.kind)
                    .bind(clean(event.container))
                    .bind(clean(event.docker_id))
                    .bind(clean(event.name))
                    .bind(event.detail.to_string());
            }
            self.run("write node events", insert).await?;
        }
        let note = sqlx::query(
            "INSERT INTO node_journals (node, journal, seq) VALUES ($1, $2, $3) \
             ON CONFLICT (node) DO UPDATE SET journal = excluded.journal, seq = excluded.seq",
        );
        self.run("note how far a journal was read", note.bind(node).bind(to.journal).bind(to.seq))
            .await?;
        let passed = from.is_none_or(|from| from.journal != to.journal || from.seq / DROP_EVERY != to.seq / DROP_EVERY);
        if passed {
            self.drop_old_node_events(node).await?;
        }
        Ok(())
    }

    async fn drop_old_node_events(&mut self, node: &str) -> Result<(), StoreError> {
        let drop = sqlx::query(
            "DELETE FROM node_events WHERE node = $1 AND id <= \
             (SELECT id FROM node_events WHERE node = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)",
        );
        self.run("drop old node events", drop.bind(node).bind(KEEP)).await?;
        Ok(())
    }

    /// Drops all that is kept of a node's journal.
    pub async fn forget_node_events(&mut self, node: &str) -> Result<(), StoreError> {
        for sql in [
            "DELETE FROM node_events WHERE node = $1",
            "DELETE FROM node_journals WHERE node = $1",
        ] {
            self.run("forget a node's events", sqlx::query(sql).bind(node)).await?;
        }
        Ok(())
    }
}

impl Store {
    /// How far the node's journal was read.
    pub async fn journal_cursor(&self, node: &str) -> Result<Option<JournalCursor>, StoreError> {
        let mut reader = self.shared.db.reader().await?;
        cursor(&mut reader, node).await
    }

    /// A page of a node's or a container's events, newest first.
    pub async fn node_events(&self, query: NodeEventsQuery<'_>) -> Result<Vec<NodeEventRow>, StoreError> {
        let sql = match (query.container, query.docker_id) {
            (None, None) => concat!(
                "SELECT ",
                columns!(),
                " FROM node_events WHERE node = $1 AND id < $2 ORDER BY id DESC LIMIT $3"
            ),
            (Some(_), _) => concat!(
                "SELECT ",
                columns!(),
                " FROM node_events WHERE node = $1 AND id < $2 AND container = $4 ORDER BY id DESC LIMIT $3"
            ),
            (None, Some(_)) => concat!(
                "SELECT ",
                columns!(),
                " FROM node_events WHERE node = $1 AND id < $2 AND docker_id = $4 ORDER BY id DESC LIMIT $3"
            ),
        };
        let mut select = sqlx::query(sql)
            .bind(query.node)
            .bind(query.before.unwrap_or(i64::MAX))
            .bind(i64::from(query.limit));
        if let Some(id) = query.container.or(query.docker_id) {
            select = select.bind(id);
        }
        let mut reader = self.shared.db.reader().await?;
        let rows = reader.all("read node events", select).await?;
        rows.iter().map(read).collect()
    }
}
