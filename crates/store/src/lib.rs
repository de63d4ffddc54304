//! SQL, migrations, the change feed, the audit log, and secrets at rest.
//!
//! One code path for SQLite (the default) and PostgreSQL, through sqlx's `Any` driver.
//!
//! Invariants:
//! - Write transactions ([`Store::begin`]) run one after another, in order of arrival, on both databases. What one has
//!   read, nobody changes before it ends. Reads never wait for them.
//! - Every change takes a revision of its own, and the feed ([`Store::watch`], [`Store::changes_since`]) has the changes of
//!   committed transactions only, each once, in the order of the commits.
//! - What [`Tx::commit`] acknowledged is on disk. Once a disk was seen to lose a write, nothing is acknowledged any more
//!   ([`Store::fatal`]).
//! - An audit entry is in the same transaction as what it tells of, and the log shows any change made from outside.
//! - Secrets leave this crate in two ways only: [`Store::open_sealed`] and a repeated request's answer.
//! - There is no clock in here: moments are given by the callers.

mod alone;
mod audit;
mod auth;
mod change;
mod cluster;
mod config;
mod db;
mod error;
mod export;
mod feed;
mod health;
mod idempotency;
mod jobs;
mod measure;
mod migrate;
mod node_events;
mod resource;
mod seal;
mod store;
mod tx;

pub use audit::{AuditEntry, AuditQuery, AuditRecord, AuditReport, Broken};
pub use auth::TokenHash;
pub use auth::sessions::{NewSession, Refreshed, Session, TokenPair};
pub use auth::tokens::{ApiToken, TokenRow};
pub use auth::users::{User, UserPatch, UserRow};
pub use change::{Change, Kind, Subject, What};
pub use cluster::{ClusterEventRow, ClusterPoint, EdgeCursor, EdgeRow, NewClusterEvent};
pub use config::{Backend, BadDatabaseUrl, DatabaseUrl, StoreConfig};
pub use db::SqliteHold;
pub use error::{SealError, StoreError, Unique};
pub use export::ExportHead;
pub use feed::{Watch, WatchError};
pub use health::{HealthPeriod, HealthRow};
pub use idempotency::Idempotency;
pub use jobs::JobTaskRow;
pub use measure::{Totals, WriteTimes};
pub use node_events::{JournalCursor, NewNodeEvent, NodeEventRow, NodeEventsQuery};
pub use resource::{ListQuery, NewResource, Patch, Resource};
pub use seal::{KeyRotation, Secret};
pub use store::{Pruned, Retention, Store};
pub use tx::Tx;
