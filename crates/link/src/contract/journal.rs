//! The agent's journal: what happened on its node, kept until control planes have read it, and a while longer.
//!
//! Events are numbered from 1, one after another. A control plane asks for what comes after the last number it has; a number
//! that is left out belongs to an event that was lost. A journal that was lost as a whole is begun anew under another name,
//! and its numbers begin at 1 again.

use nm_types::node_event::{NodeEventDetail, NodeEventKind};
use nm_types::{ContainerId, Timestamp};
use serde::{Deserialize, Serialize};

/// Where a journal ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalEnd {
    /// The journal's name: when it was begun, unix milliseconds.
    pub journal: i64,
    /// The number of its newest event; 0 before the first.
    pub last: i64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalQuery {
    /// The journal that `after` belongs to. It counts as 0 where the agent has another one by now.
    pub journal: i64,
    /// The last number that is known.
    pub after: i64,
    /// At most so many.
    pub limit: u32,
}

/// A part of the journal, in order. It is the last one when its last event is `end.last`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalPage {
    pub end: JournalEnd,
    pub events: Vec<JournalEvent>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalEvent {
    pub seq: i64,
    pub time: Timestamp,
    pub kind: NodeEventKind,
    /// Docker's id of the container that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_id: Option<String>,
    /// Our id, as the container's label says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ContainerId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default)]
    pub detail: NodeEventDetail,
}
