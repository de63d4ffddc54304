//! The thread that writes the journal. Events that come close together share one sync.

use super::segments::Segments;
use super::{Entry, Order, lock};
use nm_link::contract::JournalEnd;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long events gather before they are synced and told.
const GATHER: Duration = Duration::from_millis(100);
/// Between attempts to write to a disk that is full or fails.
const AGAIN: Duration = Duration::from_secs(1);
/// The most events that wait for such a disk; of more, the oldest are lost, and their numbers are left out.
const WAITING: usize = 10_000;

/// The journal's other end, to be run on a thread.
pub struct WriterEnd {
    orders: Receiver<Order>,
    segments: Arc<Mutex<Segments>>,
    tell: watch::Sender<JournalEnd>,
    waiting: VecDeque<Entry>,
    /// Since when something is written and not synced.
    unsynced: Option<Instant>,
    failing: bool,
}

impl WriterEnd {
    pub(super) fn new(orders: Receiver<Order>, segments: Arc<Mutex<Segments>>, tell: watch::Sender<JournalEnd>) -> Self {
        Self {
            orders,
            segments,
            tell,
            waiting: VecDeque::new(),
            unsynced: None,
            failing: false,
        }
    }

    /// Writes until told to stop.
    pub fn run(mut self) {
        loop {
            let stop = self.next();
            self.write();
            if stop || self.unsynced.is_some_and(|since| since.elapsed() >= GATHER) {
                self.sync();
            }
            if stop {
                return;
            }
        }
    }

    /// Waits until there is something to do, and takes all there is to write. `true`: it was the last.
    fn next(&mut self) -> bool {
        let first = match (self.waiting.is_empty(), self.unsynced) {
            (false, _) => self.orders.recv_timeout(AGAIN),
            (true, Some(since)) => self.orders.recv_timeout(GATHER.saturating_sub(since.elapsed())),
            (true, None) => self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let mut stop = false;
        let first = match first {
            Ok(order) => Some(order),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Order::Stop),
        };
        for order in first.into_iter().chain(self.orders.try_iter()) {
            match order {
                Order::Write(entries) => self.waiting.extend(entries),
                Order::Stop => stop = true,
            }
        }
        stop
    }

    fn write(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let mut segments = lock(&self.segments);
        let before = self.waiting.len();
        let written = segments.append(&mut self.waiting);
        if self.waiting.len() < before && self.unsynced.is_none() {
            self.unsynced = Some(Instant::now());
        }
        match written {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "the journal of events can't be written; trying again");
                }
                let over = self.waiting.len().saturating_sub(WAITING);
                self.waiting.drain(..over);
                segments.skip(over);
            }
        }
    }

    fn sync(&mut self) {
        if self.unsynced.take().is_none() {
            return;
        }
        let mut segments = lock(&self.segments);
        if let Err(error) = segments.sync() {
            tracing::warn!(%error, "the journal of events could not be synced");
        }
        let end = segments.end();
        drop(segments);
        self.tell.send_replace(end);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Journal;
    use nm_link::contract::JournalQuery;
    use nm_types::node_event::NodeEventKind as Kind;

    fn kinds(journal: &Journal) -> Vec<Kind> {
        let all = JournalQuery {
            journal: 0,
            after: 0,
            limit: 100,
        };
        journal.read(&all).unwrap().events.into_iter().map(|e| e.kind).collect()
    }

    #[tokio::test]
    async fn what_is_told_is_written_and_what_was_told_before_the_end_is_too() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, writer) = Journal::open(dir.path(), 7).unwrap();
        let thread = std::thread::spawn(|| writer.run());
        let mut end = journal.end();
        journal.agent_started(1);
        journal.engine_down(2, "it is away");
        journal.engine_down(3, "it still is");
        end.wait_for(|e| e.last == 2).await.unwrap();
        assert_eq!(kinds(&journal), [Kind::AgentStarted, Kind::EngineDown]);
        journal.engine_up(4, "28.2.2", &[]);
        journal.stop();
        thread.join().unwrap();
        assert_eq!(kinds(&journal), [Kind::AgentStarted, Kind::EngineDown, Kind::EngineUp]);

        // After a restart it knows that the engine was up.
        let (journal, writer) = Journal::open(dir.path(), 8).unwrap();
        journal.engine_up(5, "28.2.2", &[]);
        journal.agent_started(6);
        journal.stop();
        writer.run();
        assert_eq!(kinds(&journal).len(), 4);
        let page = journal
            .read(&JournalQuery {
                journal: 7,
                after: 3,
                limit: 100,
            })
            .unwrap();
        assert_eq!((page.end.journal, page.end.last, page.events[0].seq), (7, 4, 4));
    }
}
