//! Clusters of type `database`: PostgreSQL with Patroni and etcd, one container on each of the cluster's nodes.
//!
//! - `rows`: what is kept. `archive`: its write-ahead log, and databases that are made of a backup. `making`: the containers. `look`: how the members are, as they tell. `known`: what is known without asking them. `tend`: brings what is there to what
//!   is asked for, one step at a time. `asked`: what users ask of it, and what they see.
//!
//! Invariants: who takes the writes is for Patroni and etcd to say, never for the control plane. A container's number is written
//! before it is made. Never is more than one member taken down at once, and the primary only after it has handed over.

mod archive;
mod asked;
mod known;
mod look;
mod making;
mod rows;
mod tend;

pub use archive::{Flushed, Primary};
pub use look::Topologies;
pub use making::archive_volume;
pub use rows::{DatabaseSecrets, DatabaseStatus, MemberPorts, RestorePhase, StoredDatabase};
