//! Containers as they are read: in memory, in order, each with the JSON of its list row, once somebody has asked for it.
//!
//! The store is the truth and this can be made anew from it at any time; what agents see lands here first and is written
//! to the store a little later. A page of a list is a copy of bytes, which is what lets it be asked for a thousand times
//! a second. Of a large fleet most rows are never looked at: they are not made, and no more than [`ROWS`] are kept.

mod census;
mod record;
mod row;

pub use census::{Census, Counted};
pub use record::{Filter, Phase, Record, Share, State, Wanted};

use row::Row;

use nm_types::container::{ContainerStatus, ContainerView};
use nm_types::stats::Usage;
use nm_types::{ContainerId, NodeId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::{Notify, broadcast};

/// The most list rows that are kept ready.
const ROWS: usize = 20_000;

#[derive(Debug)]
struct Entry {
    record: Arc<Record>,
    usage: Usage,
    /// Made when it is first listed.
    row: OnceLock<Row>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<ContainerId, Entry>,
    /// By node, for a node may say any id of Docker's, also one that another node has.
    by_docker: HashMap<NodeId, HashMap<Box<str>, ContainerId>>,
    by_node: HashMap<NodeId, BTreeSet<ContainerId>>,
    by_name: HashMap<Box<str>, Vec<ContainerId>>,
    reachable: HashSet<NodeId>,
    /// How many entries have their row.
    rows: AtomicUsize,
    removed: Removed,
}

/// The containers that were removed last, and from which node. No id is given twice, so none of them comes back, but for one that
/// moves: what its own node says of it always counts.
#[derive(Debug, Default)]
struct Removed {
    copies: HashSet<(NodeId, ContainerId)>,
    order: VecDeque<(NodeId, ContainerId)>,
}

impl Removed {
    /// Word of a removed container is late by seconds; so many are not removed in that time.
    const MOST: usize = 10_000;

    fn add(&mut self, id: &ContainerId, node: &NodeId) {
        if self.copies.insert((node.clone(), id.clone())) {
            self.order.push_back((node.clone(), id.clone()));
        }
        if self.order.len() > Self::MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.copies.remove(&oldest);
        }
    }
}

/// All containers. Cheap to clone; clones are the same table.
#[derive(Debug, Clone)]
pub struct Index {
    inner: Arc<RwLock<Inner>>,
    room: Arc<Notify>,
    changes: broadcast::Sender<ContainerId>,
}

/// Changes that a listener may be behind before it is told that it missed some.
const CHANGES: usize = 4096;

impl Default for Index {
    fn default() -> Self {
        Self {
            inner: Arc::default(),
            room: Arc::default(),
            changes: broadcast::Sender::new(CHANGES),
        }
    }
}

/// One page of a list: the array's JSON, how many, and where the next begins.
#[derive(Debug)]
pub struct Page {
    pub json: Vec<u8>,
    pub count: usize,
    pub next: Option<ContainerId>,
}

impl Index {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        // A panic while the lock is held leaves whole entries, for each is swapped in at once.
        self.inner.read().unwrap_or_else(|e| e.into_inner())
    }
    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(|e| e.into_inner())
    }

    /// The containers of which something is wanted or seen anew, from now on; those that are removed too. Whoever hears of one
    /// finds it at least that new.
    pub fn changes(&self) -> broadcast::Receiver<ContainerId> {
        self.changes.subscribe()
    }
    fn changed(&self, id: &ContainerId) {
        // Nobody listens at the start and at the end.
        let _heard = self.changes.send(id.clone());
    }

    pub fn get(&self, id: &ContainerId) -> Option<Arc<Record>> {
        self.read().entries.get(id).map(|e| e.record.clone())
    }
    /// The container of `node` that Docker knows by this id.
    pub fn by_docker(&self, node: &NodeId, docker_id: &str) -> Option<Arc<Record>> {
        let inner = self.read();
        let id = inner.by_docker.get(node)?.get(docker_id)?;
        inner.entries.get(id).map(|e| e.record.clone())
    }
    /// Whether it was removed from this node not long ago: late word of it must not bring it back.
    pub fn was_removed(&self, node: &NodeId, id: &ContainerId) -> bool {
        self.read().removed.copies.contains(&(node.clone(), id.clone()))
    }
    /// By id, or by name where exactly one has it; `Err` says how many do.
    pub fn find(&self, key: &str) -> Result<Arc<Record>, usize> {
        let inner = self.read();
        if let Ok(id) = ContainerId::parse(key)
            && let Some(entry) = inner.entries.get(&id)
        {
            return Ok(entry.record.clone());
        }
        match inner.by_name.get(key).map(Vec::as_slice) {
            Some([id]) => inner.entries.get(id).map(|e| e.record.clone()).ok_or(0),
            Some(ids) => Err(ids.len()),
            None => Err(0),
        }
    }
    pub fn view(&self, id: &ContainerId, clear: bool) -> Option<(ContainerView, i64)> {
        let inner = self.read();
        Some(inner.view(inner.entries.get(id)?, clear))
    }
    pub fn len(&self) -> usize {
        self.read().entries.len()
    }
    pub fn is_empty(&self) -> bool {
        self.read().entries.is_empty()
    }
    /// What the containers of a node come to.
    pub fn share_of(&self, node: &NodeId) -> Share {
        let mut share = Share::default();
        for record in self.on_node(node) {
            share.add(&record);
        }
        share
    }
    /// The same of every node that has some, in one pass.
    pub fn shares(&self) -> HashMap<NodeId, Share> {
        let mut out: HashMap<NodeId, Share> = HashMap::new();
        for entry in self.read().entries.values() {
            match out.get_mut(&entry.record.node) {
                Some(share) => share.add(&entry.record),
                None => out.entry(entry.record.node.clone()).or_default().add(&entry.record),
            }
        }
        out
    }
    /// In the order of their ids.
    pub fn on_node(&self, node: &NodeId) -> Vec<Arc<Record>> {
        let inner = self.read();
        let ids = inner.by_node.get(node).into_iter().flatten();
        ids.filter_map(|id| inner.entries.get(id)).map(|e| e.record.clone()).collect()
    }
    /// Those of ours that are on their node and were last asked to run.
    pub fn meant_to_run(&self) -> Vec<ContainerId> {
        let inner = self.read();
        let meant = inner.entries.values().filter(|e| e.record.meant_to_run());
        meant.map(|e| e.record.id.clone()).collect()
    }
    /// In the order of their ids, from behind `after` on.
    pub fn behind(&self, after: Option<&str>, limit: usize) -> Vec<Arc<Record>> {
        let inner = self.read();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = inner.entries.range::<str, _>((start, Bound::Unbounded));
        range.take(limit).map(|(_, e)| e.record.clone()).collect()
    }
    /// What one uses now.
    pub fn used(&self, id: &ContainerId) -> Option<Usage> {
        self.read().entries.get(id).map(|e| e.usage)
    }
    /// Those with this name, whatever their node.
    pub fn named(&self, name: &str) -> Vec<Arc<Record>> {
        let inner = self.read();
        let ids = inner.by_name.get(name).into_iter().flatten();
        ids.filter_map(|id| inner.entries.get(id)).map(|e| e.record.clone()).collect()
    }
    pub fn ids(&self) -> Vec<ContainerId> {
        self.read().entries.keys().cloned().collect()
    }
    /// Those that were ever seen on `node`.
    pub fn ids_on(&self, node: &NodeId) -> Vec<ContainerId> {
        self.read()
            .by_docker
            .get(node)
            .map(|ids| ids.values().cloned().collect())
            .unwrap_or_default()
    }
    pub fn is_reachable(&self, node: &NodeId) -> bool {
        self.read().reachable.contains(node)
    }
    /// Shows every container to `look`, in the order of their ids; nothing changes meanwhile.
    pub fn each(&self, mut look: impl FnMut(&Record)) {
        for entry in self.read().entries.values() {
            look(&entry.record);
        }
    }
    /// A copy of a container that lives on was removed from `node`: late word of it must not bring it back.
    pub fn copy_removed(&self, node: &NodeId, id: &ContainerId) {
        self.write().removed.add(id, node);
    }

    /// Newest first, from behind `after` on.
    pub fn page(&self, filter: &Filter, after: Option<&ContainerId>, limit: usize) -> Page {
        let inner = self.read();
        let range = match after {
            Some(id) => inner.entries.range::<ContainerId, _>((Bound::Unbounded, Bound::Excluded(id))),
            None => inner.entries.range::<ContainerId, _>(..),
        };
        let mut json = Vec::with_capacity(limit.min(200) * 900);
        json.push(b'[');
        let (mut count, mut next, mut last): (usize, Option<ContainerId>, Option<&ContainerId>) = (0, None, None);
        let all = filter.is_empty();
        for entry in range.rev().map(|(_, e)| e).filter(|e| all || filter.takes(&e.record)) {
            if count == limit {
                next = last.cloned();
                break;
            }
            if count > 0 {
                json.push(b',');
            }
            inner.write_row(entry, &mut json);
            last = Some(&entry.record.id);
            count += 1;
        }
        json.push(b']');
        Page { json, count, next }
    }

    /// Puts `record` in, or in the place of the one with its id.
    pub fn put(&self, record: Record) {
        let id = record.id.clone();
        self.write().put(record);
        self.changed(&id);
    }
    /// Many at once, at start-up.
    pub fn load(&self, records: Vec<Record>) {
        let mut inner = self.write();
        for record in records {
            inner.put(record);
        }
    }
    /// Changes one in place; `change` says whether it did anything.
    pub fn change(&self, id: &ContainerId, change: impl FnOnce(&mut Record) -> bool) -> Option<Arc<Record>> {
        self.changed_as(id, change, |_, entry| entry.record.clone())
    }
    /// The same, and what it looks like then: no other word comes in between.
    pub fn change_and_view(&self, id: &ContainerId, clear: bool, change: impl FnOnce(&mut Record) -> bool) -> Option<(ContainerView, i64)> {
        self.changed_as(id, change, |inner, entry| inner.view(entry, clear))
    }
    fn changed_as<T>(
        &self,
        id: &ContainerId,
        change: impl FnOnce(&mut Record) -> bool,
        shown: impl FnOnce(&Inner, &Entry) -> T,
    ) -> Option<T> {
        let mut inner = self.write();
        let before = inner.entries.get(id)?.record.clone();
        let mut record = Record::clone(&before);
        if change(&mut record) {
            if record.takes_otherwise(&before) {
                self.room.notify_one();
            }
            inner.put(record);
        }
        let after = inner.entries.get(id)?;
        let is_news = before.wanted != after.record.wanted || before.state != after.record.state;
        let shown = shown(&inner, after);
        drop(inner);
        if is_news {
            self.changed(id);
        }
        Some(shown)
    }
    /// Told when nodes may have room for more than before: a container went, moved or was changed. Whoever knows of another such
    /// reason tells it, too. One waits for it.
    pub fn room(&self) -> &Notify {
        &self.room
    }
    /// The revision under which the store now has it. Its row does not show it, and stays as it is.
    pub fn stored(&self, id: &ContainerId, revision: i64) {
        if let Some(entry) = self.write().entries.get_mut(id)
            && entry.record.revision < revision
        {
            Arc::make_mut(&mut entry.record).revision = revision;
        }
    }
    pub fn remove(&self, id: &ContainerId) -> Option<Arc<Record>> {
        let removed = self.write().remove(id);
        self.room.notify_one();
        self.changed(id);
        removed
    }
    /// What containers of `node` use, by Docker's ids.
    pub fn usage(&self, node: &NodeId, samples: &[(String, Usage)]) {
        let mut inner = self.write();
        let Inner { entries, by_docker, .. } = &mut *inner;
        let Some(of_node) = by_docker.get(node) else { return };
        for (docker_id, usage) in samples {
            if let Some(entry) = of_node.get(docker_id.as_str()).and_then(|id| entries.get_mut(id)) {
                entry.usage = *usage;
            }
        }
    }
    /// A node came within reach, or went out of it; its containers' rows say so.
    pub fn reach(&self, node: &NodeId, reachable: bool) {
        let mut inner = self.write();
        let changed = if reachable {
            inner.reachable.insert(node.clone())
        } else {
            inner.reachable.remove(node)
        };
        if changed {
            let Inner {
                entries, by_node, rows, ..
            } = &mut *inner;
            for id in by_node.get(node).into_iter().flatten() {
                if let Some(entry) = entries.get_mut(id)
                    && entry.row.take().is_some()
                {
                    rows.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }
}

impl Inner {
    /// What a container looks like, and its revision.
    fn view(&self, entry: &Entry, clear: bool) -> (ContainerView, i64) {
        let reachable = self.reachable.contains(&entry.record.node);
        (entry.record.view(entry.usage, reachable, clear), entry.record.revision)
    }
    fn put(&mut self, record: Record) {
        let id = record.id.clone();
        let usage = self.remove_keys(&id);
        if let Some(docker_id) = record.docker_id() {
            self.by_docker
                .entry(record.node.clone())
                .or_default()
                .insert(docker_id.into(), id.clone());
        }
        self.by_node.entry(record.node.clone()).or_default().insert(id.clone());
        self.by_name.entry(record.name().into()).or_default().push(id.clone());
        let entry = Entry {
            record: Arc::new(record),
            usage,
            row: OnceLock::new(),
        };
        if self.entries.insert(id, entry).is_some_and(|old| old.row.get().is_some()) {
            self.rows.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn write_row(&self, entry: &Entry, out: &mut Vec<u8>) {
        let record = &entry.record;
        let running = matches!(record.status(), ContainerStatus::Running | ContainerStatus::Paused);
        let usage = if running { entry.usage } else { Usage::default() };
        let make = || Row::of(record, self.reachable.contains(&record.node));
        match entry.row.get() {
            Some(row) => row.write(usage, out),
            None if self.rows.load(Ordering::Relaxed) >= ROWS => make().write(usage, out),
            None => {
                let row = entry.row.get_or_init(|| {
                    self.rows.fetch_add(1, Ordering::Relaxed);
                    make()
                });
                row.write(usage, out);
            }
        }
    }

    fn remove(&mut self, id: &ContainerId) -> Option<Arc<Record>> {
        self.remove_keys(id);
        let entry = self.entries.remove(id)?;
        if entry.row.get().is_some() {
            self.rows.fetch_sub(1, Ordering::Relaxed);
        }
        let record = entry.record;
        self.removed.add(id, &record.node);
        Some(record)
    }

    fn remove_keys(&mut self, id: &ContainerId) -> Usage {
        let Some(entry) = self.entries.get(id) else {
            return Usage::default();
        };
        if let Some(docker_id) = entry.record.docker_id()
            && let Some(of_node) = self.by_docker.get_mut(&entry.record.node)
            && of_node.get(docker_id) == Some(id)
        {
            of_node.remove(docker_id);
            if of_node.is_empty() {
                self.by_docker.remove(&entry.record.node);
            }
        }
        if let Some(of_node) = self.by_node.get_mut(&entry.record.node) {
            of_node.remove(id);
            if of_node.is_empty() {
                self.by_node.remove(&entry.record.node);
            }
        }
        let name: Box<str> = entry.record.name().into();
        if let Some(ids) = self.by_name.get_mut(&name) {
            ids.retain(|other| other != id);
            if ids.is_empty() {
                self.by_name.remove(&name);
            }
        }
        entry.usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nm_types::Timestamp;
    use nm_types::container::ContainerSpec;
    use nm_types::text::MASK;

    fn record(n: i64, name: &str) -> Record {
        let spec: ContainerSpec = serde_json::from_value(serde_json::json!({
            "name": name, "image": "nginx:latest", "environment": { "DB_PASSWORD": "hunter2", "MODE": "x\"cpuUsage\":9" },
            "labels": { "app": "web" }, "cpuLimit": 1, "memoryLimit": "512m"
        }))
        .unwrap();
        Record {
            id: ContainerId::parse(&format!("cont_{n}_aaaaaaaaa")).unwrap(),
            node: NodeId::parse("node_1_aaaaaaaaa").unwrap(),
            created: Timestamp(n),
            wanted: Wanted {
                spec: Some(Box::new(spec)),
                running: false,
            },
            state: State::new(Phase::Ready),
            generation: 1,
            revision: n,
        }
    }

    #[test]
    fn pages_join_to_the_whole_and_are_what_a_view_is() {
        let index = Index::default();
        index.load((1000..1010).map(|n| record(n, &format!("c{n}"))).collect());
        let (mut after, mut names) = (None, Vec::new());
        loop {
            let page = index.page(&Filter::default(), after.as_ref(), 3);
            let rows: Vec<ContainerView> = serde_json::from_slice(&page.json).unwrap();
            assert_eq!(rows.len(), page.count);
            for row in rows {
                assert_eq!(row, index.view(&row.id, false).unwrap().0);
                assert_eq!(row.environment["DB_PASSWORD"], MASK);
                names.push(row.name);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(names, (1000..1010).rev().map(|n| format!("c{n}")).collect::<Vec<_>>());
    }

    #[test]
    fn a_node_speaks_for_its_own_and_not_of_what_is_removed() {
        let (index, id) = (Index::default(), ContainerId::parse("cont_1_aaaaaaaaa").unwrap());
        let (own, other) = (
            NodeId::parse("node_1_aaaaaaaaa").unwrap(),
            NodeId::parse("node_2_aaaaaaaaa").unwrap(),
        );
        let seen = |node: &NodeId| {
            let observed = serde_json::json!({
                "dockerId": "d1", "name": "web", "image": "nginx", "status": "running", "created": "2026-02-03T02:30:00.000Z", "ports": [], "networks": []
            });
            let mut record = Record {
                node: node.clone(),
                ..record(1, "web")
            };
            record.state.observed = Some(serde_json::from_value(observed).unwrap());
            record
        };
        index.put(seen(&own));
        index.put(Record {
            id: ContainerId::parse("cont_2_aaaaaaaaa").unwrap(),
            ..seen(&other)
        });
        assert_eq!(index.by_docker(&own, "d1").unwrap().id, id);
        index.usage(&other, &[("d1".into(), Usage { cpu: 9.0, memory: 9.0 })]);
        assert_eq!(index.view(&id, false).unwrap().0.resources.cpu_usage, 0.0);
        index.remove(&ContainerId::parse("cont_2_aaaaaaaaa").unwrap());
        assert_eq!(index.by_docker(&own, "d1").unwrap().id, id);
        assert!(index.by_docker(&other, "d1").is_none());
        index.remove(&id);
        assert!(index.was_removed(&own, &id) && !index.was_removed(&other, &id));
    }

    #[test]
    fn a_row_that_was_listed_follows_what_changes() {
        let (index, id) = (Index::default(), ContainerId::parse("cont_1_aaaaaaaaa").unwrap());
        let listed = || {
            let page = index.page(&Filter::default(), None, 10);
            let mut rows: Vec<ContainerView> = serde_json::from_slice(&page.json).unwrap();
            (rows.pop().unwrap(), index.read().rows.load(Ordering::Relaxed))
        };
        index.put(record(1, "web"));
        assert_eq!(index.read().rows.load(Ordering::Relaxed), 0, "no row before it is asked for");
        let first = listed();
        assert_eq!((first.0.reachable, first.1), (false, 1));
        index.reach(&first.0.node_id, true);
        assert_eq!(listed(), (index.view(&id, false).unwrap().0, 1));
        assert!(listed().0.reachable);
        index.change(&id, |r| std::mem::replace(&mut r.state.phase, Phase::Foreign) != Phase::Foreign);
        index.stored(&id, 9);
        assert_eq!(index.get(&id).unwrap().revision, 9);
        assert_eq!(listed(), (index.view(&id, false).unwrap().0, 1));
        index.remove(&id);
        assert_eq!(
            (
                index.read().rows.load(Ordering::Relaxed),
                index.share_of(&first.0.node_id).containers
            ),
            (0, 0)
        );
    }

    #[test]
    fn filters_and_names() {
        let index = Index::default();
        index.load(vec![record(1, "web"), record(2, "web-2"), record(3, "web")]);
        let count = |f: Filter| index.page(&f, None, 50).count;
        assert_eq!(
            count(Filter {
                name: Some("web-".into()),
                ..Filter::default()
            }),
            1
        );
        assert_eq!(
            count(Filter {
                label: Some(("app".into(), Some("web".into()))),
                ..Filter::default()
            }),
            3
        );
        assert_eq!(
            count(Filter {
                label: Some(("app".into(), Some("db".into()))),
                ..Filter::default()
            }),
            0
        );
        assert_eq!(
            count(Filter {
                status: Some(ContainerStatus::Running),
                ..Filter::default()
            }),
            0
        );
        assert_eq!(index.find("web").unwrap_err(), 2);
        assert_eq!(index.find("web-2").unwrap().id.as_str(), "cont_2_aaaaaaaaa");
        index.remove(&ContainerId::parse("cont_3_aaaaaaaaa").unwrap());
        assert_eq!(index.find("web").unwrap().id.as_str(), "cont_1_aaaaaaaaa");
        assert_eq!(index.find("nope").unwrap_err(), 0);
    }
}
