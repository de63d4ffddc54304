//! What is kept of clusters beside their rows: what nodes were given, what happened, and what was counted. None of it goes into
//! the change feed: it changes with the traffic.

use crate::change::{Subject, What};
use crate::db::{Columns, Sql};
use crate::error::StoreError;
use crate::store::Store;
use crate::tx::Tx;
use nm_types::Timestamp;
use sqlx::any::AnyRow;

/// What a node was last given of clusters' entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EdgeRow {
    pub node: String,
    /// Grows with every document.
    pub generation: i64,
    /// Of the document with this generation.
    pub digest: String,
    /// Where the node was last seen to connect from; empty where never.
    pub address: String,
}

/// How far the events of a node's load balancer were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EdgeCursor {
    /// The process whose events they are; empty before the first.
    pub instance: String,
    pub sequence: i64,
}

/// Something that happened to a cluster, to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewClusterEvent {
    pub cluster: String,
    pub at: Timestamp,
    pub kind: String,
    pub member: Option<String>,
    pub node: Option<String>,
    pub reason: String,
    /// JSON.
    pub detail: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterEventRow {
    /// 1 is the cluster's first.
    pub sequence: i64,
    pub event: NewClusterEvent,
}

/// The totals of a cluster at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPoint {
    pub at: Timestamp,
    /// JSON.
    pub totals: String,
}

fn edge(row: &AnyRow) -> Result<(EdgeRow, EdgeCursor), StoreError> {
    let of_node = EdgeRow {
        node: row.text(0)?,
        generation: row.int(1)?,
        digest: row.text(2)?,
        address: row.text(3)?,
    };
    let cursor = EdgeCursor {
        instance: row.text(4)?,
        sequence: row.int(5)?,
    };
    Ok((of_node, cursor))
}

impl Tx {
    /// Writes what a node is given, and leaves how far its events were read as it is.
    pub async fn edge_put(&mut self, row: &EdgeRow) -> Result<(), StoreError> {
        let put = sqlx::query(
            "INSERT INTO edge_nodes (node, generation, digest, address, instance, sequence) VALUES ($1, $2, $3, $4, '', 0) \
             ON CONFLICT (node) DO UPDATE SET generation = excluded.generation, digest = excluded.digest, address = excluded.address",
        )
        .bind(row.node.as_str())
        .bind(row.generation)
        .bind(row.digest.as_str())
        .bind(row.address.as_str());
        self.run("note what a node is given", put).await?;
        Ok(())
    }

    /// Notes how far a node's events were read.
    pub async fn edge_read(&mut self, node: &str, cursor: &EdgeCursor) -> Result<(), StoreError> {
        let put = sqlx::query("UPDATE edge_nodes SET instance = $2, sequence = $3 WHERE node = $1")
            .bind(node)
            .bind(cursor.instance.as_str())
            .bind(cursor.sequence);
        self.run("note how far a node's events were read", put).await?;
        Ok(())
    }

    pub async fn edge_forget(&mut self, node: &str) -> Result<(), StoreError> {
        let delete = sqlx::query("DELETE FROM edge_nodes WHERE node = $1").bind(node);
        self.run("forget what a node was given", delete).await?;
        Ok(())
    }

    /// Adds an event behind the cluster's last, and gives its number.
    pub async fn cluster_event(&mut self, event: &NewClusterEvent) -> Result<i64, StoreError> {
        let last = sqlx::query("SELECT COALESCE(MAX(sequence), 0) FROM cluster_events WHERE cluster = $1").bind(event.cluster.as_str());
        let sequence = match self.one("read a cluster's last event", last).await? {
            Some(row) => row.int(0)? + 1,
            None => 1,
        };
        let insert = sqlx::query(
            "INSERT INTO cluster_events (cluster, sequence, at, kind, member, node, reason, detail) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(event.cluster.as_str())
        .bind(sequence)
        .bind(event.at.0)
        .bind(event.kind.as_str())
        .bind(event.member.as_deref())
        .bind(event.node.as_deref())
        .bind(event.reason.as_str())
        .bind(event.detail.as_deref());
        self.run("note what happened to a cluster", insert).await?;
        let revision = self.next_revision();
        self.changed(revision, Subject::ClusterEvents, &event.cluster, "", What::Created);
        Ok(sequence)
    }

    pub async fn cluster_totals_put(&mut self, cluster: &str, totals: &str) -> Result<(), StoreError> {
        let put = sqlx::query(
            "INSERT INTO cluster_totals (cluster, totals) VALUES ($1, $2) ON CONFLICT (cluster) DO UPDATE SET totals = excluded.totals",
        )
        .bind(cluster)
        .bind(totals);
        self.run("write a cluster's totals", put).await?;
        Ok(())
    }

    /// A second one of the same moment takes the first one's place.
    pub async fn cluster_point_put(&mut self, cluster: &str, point: &ClusterPoint) -> Result<(), StoreError> {
        let put = sqlx::query(
            "INSERT INTO cluster_points (cluster, at, totals) VALUES ($1, $2, $3) \
             ON CONFLICT (cluster, at) DO UPDATE SET totals = excluded.totals",
        )
        .bind(cluster)
        .bind(point.at.0)
        .bind(point.totals.as_str());
        self.run("write a point of a cluster's history", put).await?;
        Ok(())
    }

    /// Forgets all of a cluster.
    pub async fn cluster_forget(&mut self, cluster: &str) -> Result<(), StoreError> {
        let events = sqlx::query("DELETE FROM cluster_events WHERE cluster = $1").bind(cluster);
        self.run("forget a cluster's events", events).await?;
        let totals = sqlx::query("DELETE FROM cluster_totals WHERE cluster = $1").bind(cluster);
        self.run("forget a cluster's totals", totals).await?;
        let points = sqlx::query("DELETE FROM cluster_points WHERE cluster = $1").bind(cluster);
        self.run("forget a cluster's history", points).await?;
        Ok(())
    }

    /// Drops what is old: all but the newest `events` events of each cluster and those before `since`, points before `since`, and
    /// of the points before `fine` those that do not end an hour.
    pub async fn clusters_prune(&mut self, events: i64, fine: Timestamp, since: Timestamp) -> Result<u64, StoreError> {
        // The newest event stays, for the next one's number comes after it.
        let old_events = sqlx::query(
            "DELETE FROM cluster_events WHERE sequence <= \
             (SELECT MAX(newest.sequence) FROM cluster_events AS newest WHERE newest.cluster = cluster_events.cluster) - $1 \
             OR (at < $2 AND sequence < \
             (SELECT MAX(newest.sequence) FROM cluster_events AS newest WHERE newest.cluster = cluster_events.cluster))",
        )
        .bind(events)
        .bind(since.0);
        let mut gone = self.run("drop old events of clusters", old_events).await?;
        let old_points = sqlx::query("DELETE FROM cluster_points WHERE at < $1 OR (at < $2 AND at % 3600000 <> 0)")
            .bind(since.0)
            .bind(fine.0);
        gone += self.run("drop old points of clusters", old_points).await?;
        Ok(gone)
    }
}

impl Store {
    /// What every node was given, and how far its events were read.
    pub async fn edges(&self) -> Result<Vec<(EdgeRow, EdgeCursor)>, StoreError> {
        let select = sqlx::query("SELECT node, generation, digest, address, instance, sequence FROM edge_nodes ORDER BY node");
        let mut reader = self.shared.db.reader().await?;
        let rows = reader.all("read what nodes were given", select).await?;
        rows.iter().map(edge).collect()
    }

    /// Newest first, from before number `before` on.
    pub async fn cluster_events(&self, cluster: &str, before: i64, limit: u32) -> Result<Vec<ClusterEventRow>, StoreError> {
        let select = sqlx::query(
            "SELECT sequence, at, kind, member, node, reason, detail FROM cluster_events WHERE cluster = $1 AND sequence < $2 \
             ORDER BY sequence DESC LIMIT $3",
        )
        .bind(cluster)
        .bind(before)
        .bind(i64::from(limit));
        let mut reader = self.shared.db.reader().await?;
        let rows = reader.all("read a cluster's events", select).await?;
        let read = |row: &AnyRow| {
            Ok(ClusterEventRow {
                sequence: row.int(0)?,
                event: NewClusterEvent {
                    cluster: cluster.to_owned(),
                    at: row.moment(1)?,
                    kind: row.text(2)?,
                    member: row.opt_text(3)?,
                    node: row.opt_text(4)?,
                    reason: row.text(5)?,
                    detail: row.opt_text(6)?,
                },
            })
        };
        rows.iter().map(read).collect()
    }

    /// The totals of every cluster.
    pub async fn cluster_totals(&self) -> Result<Vec<(String, String)>, StoreError> {
        let mut reader = self.shared.db.reader().await?;
        let rows = reader
            .all("read clusters' totals", sqlx::query("SELECT cluster, totals FROM cluster_totals"))
            .await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.text(1)?))).collect()
    }

    /// Oldest first: the points from `from` to `to`, both included, and the one before `from`.
    pub async fn cluster_points(&self, cluster: &str, from: Timestamp, to: Timestamp) -> Result<Vec<ClusterPoint>, StoreError> {
        let select = sqlx::query(
            "SELECT at, totals FROM cluster_points WHERE cluster = $1 AND at <= $3 AND (at >= $2 OR at = \
             (SELECT MAX(earlier.at) FROM cluster_points AS earlier WHERE earlier.cluster = $1 AND earlier.at < $2)) ORDER BY at",
        )
        .bind(cluster)
        .bind(from.0)
        .bind(to.0);
        let mut reader = self.shared.db.reader().await?;
        let rows = reader.all("read a cluster's history", select).await?;
        let read = |row: &AnyRow| {
            Ok(ClusterPoint {
                at: row.moment(0)?,
                totals: row.text(1)?,
            })
        };
        rows.iter().map(read).collect()
    }
}
