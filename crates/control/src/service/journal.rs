//! Nodes' journals: what happened on nodes, read from their agents and kept.
//!
//! Agents number their events and keep them until long after they were read; how far a journal was read is written in the
//! transaction that writes what was read. So nothing is lost and nothing doubled, whichever side dies at whatever moment. Only
//! a node that was cut off for longer than its agent's journal reaches back has lost some, and then that is said.

use crate::api::error::{ApiError, ApiResult};
use crate::service::clock::SharedClock;
use crate::service::fleet::{Agent, CallError, with_query};
use crate::service::index::{Index, Record};
use nm_link::contract::{JournalEvent, JournalPage, JournalQuery, path};
use nm_store::{JournalCursor, NewNodeEvent, NodeEventRow, NodeEventsQuery, Store, StoreError};
use nm_types::node_event::{NodeEventDetail, NodeEventKind, NodeEventView};
use nm_types::{ContainerId, NodeId, Timestamp};

/// Events asked for at once.
const PAGE: u32 = 500;
/// The longest texts kept; agents send none that is longer.
const TEXT: usize = 1000;

/// Cheap to clone.
#[derive(Clone)]
pub struct Journals {
    store: Store,
    clock: SharedClock,
    index: Index,
}

impl Journals {
    pub fn new(store: Store, clock: SharedClock, index: Index) -> Self {
        Self { store, clock, index }
    }

    /// Reads what is new in a node's journal, to its end.
    pub async fn catch_up(&self, node: &NodeId, agent: &Agent) -> Result<(), CallError> {
        let stored = |e: StoreError| CallError::Link {
            sent: false,
            error: ApiError::from(e),
        };
        loop {
            let known = self.store.journal_cursor(node.as_str()).await.map_err(stored)?;
            let ask = JournalQuery {
                journal: known.map_or(0, |k| k.journal),
                after: known.map_or(0, |k| k.seq),
                limit: PAGE,
            };
            let page: JournalPage = agent.get(&with_query(path::JOURNAL, &ask)).await?;
            if page.events.is_empty() || self.write(node, page).await.map_err(stored)? {
                return Ok(());
            }
        }
    }

    /// Writes what is new in `page`. `true`: the end was reached, or there is no getting any further.
    async fn write(&self, node: &NodeId, page: JournalPage) -> Result<bool, StoreError> {
        let mut tx = self.store.begin(self.clock.now()).await?;
        // Another replica may have read on meanwhile.
        let known = tx.journal_cursor(node.as_str()).await?;
        let end = page.end;
        let Some((to, events)) = news(known, page) else { return Ok(true) };
        let lost = events.iter().filter(|e| e.kind == NodeEventKind::Gap).count();
        if lost > 0 {
            tracing::warn!(node.id = %node, "events of a node are lost: it was cut off for too long");
        }
        let rows = events.into_iter().map(|e| self.row(node, e)).collect();
        match tx.node_events(node.as_str(), to, rows).await {
            Ok(()) => {}
            // Its last words: it was taken out of the fleet meanwhile.
            Err(StoreError::NotFound { .. }) => return Ok(true),
            Err(e) => return Err(e),
        }
        tx.commit().await?;
        Ok(to.seq >= end.last)
    }

    fn row(&self, node: &NodeId, event: JournalEvent) -> NewNodeEvent {
        let cut = |text: String| {
            if text.len() > TEXT {
                text.chars().take(TEXT / 4).collect()
            } else {
                text
            }
        };
        // A node speaks for its own containers only.
        let own = |id: &ContainerId| self.index.get(id).is_none_or(|record| record.node == *node);
        let detail = NodeEventDetail {
            message: event.detail.message.map(cut),
            ..event.detail
        };
        NewNodeEvent {
            seq: event.seq,
            at: event.time,
            kind: event.kind.as_str(),
            container: event.id.filter(own).map(String::from),
            docker_id: event.docker_id.map(cut),
            name: event.name.map(cut),
            // It is made of texts and numbers.
            detail: serde_json::to_value(detail).unwrap_or_default(),
        }
    }

    /// A page of a node's events, newest first.
    pub async fn of_node(&self, node: &NodeId, before: Option<i64>, limit: u32) -> ApiResult<(Vec<NodeEventView>, Option<i64>)> {
        let query = NodeEventsQuery {
            node: node.as_str(),
            container: None,
            docker_id: None,
            before,
            limit: limit + 1,
        };
        self.page(query).await
    }

    /// A page of a container's events, newest first. Of one of ours those of each container that was made for it; others have
    /// Docker's id alone.
    pub async fn of_container(&self, record: &Record, before: Option<i64>, limit: u32) -> ApiResult<(Vec<NodeEventView>, Option<i64>)> {
        let managed = record.managed();
        let query = NodeEventsQuery {
            node: record.node.as_str(),
            container: managed.then(|| record.id.as_str()),
            docker_id: record.docker_id().filter(|_| !managed),
            before,
            limit: limit + 1,
        };
        if query.container.is_none() && query.docker_id.is_none() {
            return Ok((Vec::new(), None));
        }
        let (mut events, next) = self.page(query).await?;
        for event in &mut events {
            event.container_id = Some(record.id.clone());
        }
        Ok((events, next))
    }

    async fn page(&self, query: NodeEventsQuery<'_>) -> ApiResult<(Vec<NodeEventView>, Option<i64>)> {
        let mut rows = self.store.node_events(query).await?;
        let limit = query.limit as usize - 1;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|r| r.id);
        Ok((rows.into_iter().filter_map(|row| self.view(row)).collect(), next))
    }

    /// `None` for one of a kind that only a newer release knows.
    fn view(&self, row: NodeEventRow) -> Option<NodeEventView> {
        let node_id = NodeId::parse(&row.node).ok()?;
        // Others' containers have ids of ours, too, for as long as they are there.
        let by_docker = || Some(self.index.by_docker(&node_id, row.docker_id.as_deref()?)?.id.clone());
        let container_id = row.container.as_deref().and_then(|c| ContainerId::parse(c).ok()).or_else(by_docker);
        Some(NodeEventView {
            id: row.id,
            time: row.at,
            kind: NodeEventKind::parse(&row.kind)?,
            container_id,
            docker_id: row.docker_id,
            container: row.name,
            detail: serde_json::from_value(row.detail).unwrap_or_default(),
            node_id,
        })
    }
}

/// What of `page` is not known yet, with a word in place of what is lost, and how far the journal is read with it; `None` where
/// there is nothing new.
fn news(known: Option<JournalCursor>, page: JournalPage) -> Option<(JournalCursor, Vec<JournalEvent>)> {
    let journal = page.end.journal;
    let anew = known.is_some_and(|k| k.journal != journal);
    let mut read = known.filter(|k| k.journal == journal).map_or(0, |k| k.seq);
    let mut out = Vec::with_capacity(page.events.len() + 1);
    for event in page.events {
        if event.seq <= read {
            continue;
        }
        if out.is_empty() && anew {
            let detail = NodeEventDetail {
                message: Some("the agent's journal was lost and begun anew: what it held that was not read yet is not known".into()),
                ..NodeEventDetail::default()
            };
            out.push(gap(0, event.time, detail));
        }
        if event.seq > read + 1 {
            let detail = NodeEventDetail {
                count: Some((event.seq - read - 1).unsigned_abs()),
                ..NodeEventDetail::default()
            };
            out.push(gap(event.seq - 1, event.time, detail));
        }
        read = event.seq;
        out.push(event);
    }
    (!out.is_empty()).then_some((JournalCursor { journal, seq: read }, out))
}

fn gap(seq: i64, time: Timestamp, detail: NodeEventDetail) -> JournalEvent {
    JournalEvent {
        seq,
        time,
        kind: NodeEventKind::Gap,
        docker_id: None,
        id: None,
        name: None,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nm_link::contract::JournalEnd;

    #[test]
    fn what_is_new_and_what_is_lost() {
        let event = |seq: i64| JournalEvent {
            kind: NodeEventKind::Oom,
            ..gap(seq, Timestamp(seq), NodeEventDetail::default())
        };
        // What is known, the journal, the numbers of the page; what is written, `-n` for n lost ones and `!` for an unknown number.
        for (known, journal, page, wanted) in [
            (None, 7, &[1, 2, 3][..], Some("1 2 3")),
            (None, 7, &[], None),
            (None, 7, &[5, 6], Some("-4 5 6")),
            (Some((7, 3)), 7, &[4, 5], Some("4 5")),
            (Some((7, 3)), 7, &[2, 3, 4], Some("4")),
            (Some((7, 3)), 7, &[1, 2, 3], None),
            (Some((7, 3)), 7, &[9, 10], Some("-5 9 10")),
            (Some((7, 3)), 7, &[4, 6, 7], Some("4 -1 6 7")),
            // Not in order: what goes back is not believed.
            (Some((7, 3)), 7, &[5, 4], Some("-1 5")),
            (Some((7, 30)), 8, &[1, 2], Some("! 1 2")),
            (Some((7, 30)), 8, &[3], Some("! -2 3")),
            (Some((7, 30)), 8, &[], None),
        ] {
            let known = known.map(|(journal, seq)| JournalCursor { journal, seq });
            let page = JournalPage {
                end: JournalEnd { journal, last: 99 },
                events: page.iter().map(|n| event(*n)).collect(),
            };
            let got = news(known, page).map(|(to, events)| {
                assert_eq!((to.journal, to.seq), (journal, events.last().unwrap().seq));
                let one = |e: &JournalEvent| match (e.kind, e.detail.count) {
                    (NodeEventKind::Gap, Some(n)) => format!("-{n}"),
                    (NodeEventKind::Gap, None) => "!".to_owned(),
                    _ => e.seq.to_string(),
                };
                events.iter().map(one).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(got.as_deref(), wanted, "{known:?}");
        }
    }
}
