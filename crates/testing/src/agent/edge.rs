//! The made-up load balancer of one node: what it was given, how its members are, and what it has counted.

use super::FakeAgent;
use super::world::{Answer, now};
use nm_link::contract::{AgentError, AgentErrorCode, EdgeConfig, EdgeEventsQuery, EdgeState, VirtualAddressState};
use nm_types::proxy::{
    ClusterMetrics, ClusterStatus, Event, EventKind, Events, FailoverRequest, Histogram, MemberMetrics, MemberState, MemberStatus, Metrics,
    Mode, Status, Totals,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// A cluster and one of its members.
type Of = (String, String);

#[derive(Debug, Default)]
struct Inner {
    config: Option<EdgeConfig>,
    process: u64,
    states: HashMap<Of, (MemberState, String)>,
    /// Members of which nothing else was said are down.
    checks_fail: bool,
    active: HashMap<String, String>,
    in_flight: HashMap<Of, u64>,
    counted: BTreeMap<Of, Totals>,
    events: Vec<Event>,
    held: bool,
    problem: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Edge {
    inner: Mutex<Inner>,
    happened: Notify,
}

fn add(totals: &mut Totals, more: &Totals) {
    totals.requests += more.requests;
    totals.errors += more.errors;
    totals.bytes_in += more.bytes_in;
    totals.bytes_out += more.bytes_out;
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for bucket in totals.latency.buckets.iter().chain(&more.latency.buckets) {
        *counts.entry(bucket.below_micros).or_default() += bucket.count;
    }
    totals.latency.count += more.latency.count;
    totals.latency.sum_micros += more.latency.sum_micros;
    let bucket = |(below_micros, count)| nm_types::proxy::Bucket { below_micros, count };
    totals.latency.buckets = counts.into_iter().map(bucket).collect();
}

impl Inner {
    fn instance(&self) -> String {
        format!("process-{}", self.process)
    }

    fn state_of(&self, cluster: &str, member: &str) -> (MemberState, String) {
        let known = self.states.get(&(cluster.to_owned(), member.to_owned()));
        known.cloned().unwrap_or_else(|| match self.checks_fail {
            true => (MemberState::Down, "its check fails".into()),
            false => (MemberState::Up, "its check succeeds".into()),
        })
    }

    fn is_up(&self, cluster: &str, member: &str) -> bool {
        self.state_of(cluster, member).0 == MemberState::Up
    }

    /// The first that is up takes the traffic, unless the one that has it goes on.
    fn choose(&mut self, why: &str) {
        let clusters = self.config.iter().flat_map(|c| &c.proxy.clusters).cloned().collect::<Vec<_>>();
        for cluster in clusters.iter().filter(|c| matches!(c.mode, Mode::ActiveStandby { .. })) {
            let fits = |id: &String| cluster.members.iter().any(|m| &m.id == id) && self.is_up(&cluster.id, id);
            if self.active.get(&cluster.id).is_some_and(fits) {
                continue;
            }
            let next = cluster.members.iter().map(|m| m.id.clone()).find(|id| self.is_up(&cluster.id, id));
            let had = self.active.remove(&cluster.id).is_some();
            if let Some(next) = next {
                self.active.insert(cluster.id.clone(), next.clone());
                if had {
                    self.event(&cluster.id, &next, EventKind::Failover, why);
                }
            }
        }
    }

    fn event(&mut self, cluster: &str, member: &str, kind: EventKind, reason: &str) {
        let sequence = self.events.last().map_or(0, |e| e.sequence) + 1;
        self.events.push(Event {
            sequence,
            at: now(),
            cluster: cluster.into(),
            member: member.into(),
            kind,
            reason: reason.into(),
        });
    }

    fn state(&self) -> EdgeState {
        let Some(config) = &self.config else {
            return EdgeState {
                generation: None,
                proxy: None,
                virtual_addresses: Vec::new(),
                problem: self.problem.clone(),
            };
        };
        let clusters = config.proxy.clusters.iter().map(|cluster| {
            let members = cluster.members.iter().map(|m| {
                let of = (cluster.id.clone(), m.id.clone());
                let (state, reason) = self.state_of(&cluster.id, &m.id);
                MemberStatus {
                    id: m.id.clone(),
                    address: m.socket().to_string(),
                    state: if m.draining { MemberState::Draining } else { state },
                    reason,
                    since: now(),
                    active: self.in_flight.get(&of).copied().unwrap_or_default(),
                }
            });
            ClusterStatus {
                id: cluster.id.clone(),
                available: cluster.members.iter().filter(|m| self.is_up(&cluster.id, &m.id)).count(),
                active_member: self.active.get(&cluster.id).cloned(),
                members: members.collect(),
            }
        });
        let proxy = Status {
            instance: self.instance(),
            started_at: now(),
            version: "0.5.0".into(),
            pid: 1,
            generation: Some(config.proxy.generation),
            draining: false,
            listeners: Vec::new(),
            clusters: clusters.collect(),
        };
        EdgeState {
            generation: Some(config.proxy.generation),
            // Without anything to carry it has ended.
            proxy: (!config.proxy.listeners.is_empty()).then_some(proxy),
            virtual_addresses: config
                .virtual_addresses
                .iter()
                .map(|v| VirtualAddressState {
                    address: v.address,
                    held: self.held,
                })
                .collect(),
            problem: self.problem.clone(),
        }
    }
}

impl Edge {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn state(&self) -> Answer<EdgeState> {
        Ok(self.lock().state())
    }

    pub(super) fn put(&self, config: EdgeConfig) -> Answer<EdgeState> {
        let mut inner = self.lock();
        let held = inner.config.as_ref().map(|c| c.proxy.generation);
        if held.is_some_and(|held| config.proxy.generation < held) {
            return Err(AgentError::new(
                AgentErrorCode::Stale,
                "an older document than the one that is held",
            ));
        }
        if let Err(problems) = config.proxy.validate() {
            return Err(AgentError::new(AgentErrorCode::Invalid, format!("{problems:?}")));
        }
        inner.config = Some(config);
        inner.choose("the configuration changed");
        drop(inner);
        self.happened.notify_waiters();
        Ok(self.lock().state())
    }

    pub(super) fn metrics(&self) -> Answer<Metrics> {
        let inner = self.lock();
        let clusters = inner.config.iter().flat_map(|c| &c.proxy.clusters).map(|cluster| {
            let mut totals = Totals::default();
            let of_members = inner.counted.iter().filter(|((id, _), _)| *id == cluster.id);
            for (_, counted) in of_members {
                add(&mut totals, counted);
            }
            let members = cluster.members.iter().map(|m| MemberMetrics {
                id: m.id.clone(),
                totals: inner.counted.get(&(cluster.id.clone(), m.id.clone())).cloned().unwrap_or_default(),
            });
            ClusterMetrics {
                id: cluster.id.clone(),
                members: members.collect(),
                totals,
            }
        });
        Ok(Metrics {
            instance: inner.instance(),
            started_at: now(),
            at: now(),
            clusters: clusters.collect(),
        })
    }

    /// Waits until there is something to tell.
    pub(super) async fn events(&self, query: EdgeEventsQuery) -> Answer<Events> {
        let wait = tokio::time::sleep(std::time::Duration::from_secs(25));
        tokio::pin!(wait);
        loop {
            let happened = self.happened.notified();
            let found = {
                let inner = self.lock();
                let after = if query.instance.as_deref() == Some(&inner.instance()) {
                    query.after
                } else {
                    0
                };
                let events: Vec<Event> = inner.events.iter().filter(|e| e.sequence > after).cloned().collect();
                Events {
                    instance: inner.instance(),
                    last: inner.events.last().map_or(0, |e| e.sequence),
                    missed: false,
                    events,
                }
            };
            let other_process = query.instance.as_ref().is_some_and(|i| *i != found.instance);
            if !found.events.is_empty() || other_process {
                return Ok(found);
            }
            tokio::select! {
                () = happened => {}
                () = &mut wait => return Ok(found),
            }
        }
    }

    pub(super) fn failover(&self, request: FailoverRequest) -> Answer<serde_json::Value> {
        let mut inner = self.lock();
        let config = inner.config.clone().unwrap_or_default();
        let invalid = |message: &str| AgentError::new(AgentErrorCode::Invalid, message);
        let cluster = config.proxy.clusters.into_iter().find(|c| c.id == request.cluster);
        let cluster = cluster.ok_or_else(|| invalid("there is no such cluster"))?;
        let active = inner.active.get(&cluster.id).cloned();
        let others = cluster.members.iter().map(|m| m.id.clone());
        let wanted = others.filter(|id| request.member.as_ref().map_or(Some(id) != active.as_ref(), |m| m == id));
        let next = wanted.into_iter().find(|id| inner.is_up(&cluster.id, id));
        let next = next.ok_or_else(|| invalid("no other member is up"))?;
        inner.active.insert(cluster.id.clone(), next.clone());
        inner.event(&cluster.id, &next, EventKind::Failover, "it was asked for");
        drop(inner);
        self.happened.notify_waiters();
        Ok(serde_json::json!({}))
    }
}

impl FakeAgent {
    /// What it was last given to carry.
    pub fn edge(&self) -> Option<EdgeConfig> {
        self.edge.lock().config.clone()
    }
    /// Members are down until something else is said of them.
    pub fn checks_fail(&self) {
        self.edge.lock().checks_fail = true;
    }
    /// A member of a cluster comes to another state, and it is told.
    pub fn member_is(&self, cluster: &str, member: &str, state: MemberState, reason: &str) {
        let mut inner = self.edge.lock();
        inner.states.insert((cluster.into(), member.into()), (state, reason.into()));
        let kind = match state {
            MemberState::Up => EventKind::MemberUp,
            MemberState::Down | MemberState::Draining => EventKind::MemberDown,
            MemberState::Ejected => EventKind::MemberEjected,
        };
        inner.event(cluster, member, kind, reason);
        inner.choose(reason);
        drop(inner);
        self.edge.happened.notify_waiters();
    }
    /// So many requests were answered by a member, each in so many microseconds; some of them badly.
    pub fn serves(&self, cluster: &str, member: &str, requests: u64, errors: u64, micros: u64) {
        let mut counts = vec![0; Histogram::BUCKETS];
        counts[Histogram::index(micros)] = requests;
        let more = Totals {
            requests,
            errors,
            bytes_in: requests * 10,
            bytes_out: requests * 100,
            latency: Histogram::of_counts(&counts, requests * micros),
        };
        let mut inner = self.edge.lock();
        add(inner.counted.entry((cluster.into(), member.into())).or_default(), &more);
    }
    /// So many requests are with a member now.
    pub fn in_flight(&self, cluster: &str, member: &str, requests: u64) {
        self.edge.lock().in_flight.insert((cluster.into(), member.into()), requests);
    }
    /// Another process takes the place of the load balancer: it counts from zero.
    pub fn replace_proxy(&self) {
        let mut inner = self.edge.lock();
        inner.process += 1;
        inner.counted.clear();
        inner.events.clear();
        drop(inner);
        self.edge.happened.notify_waiters();
    }
    /// It holds this document, whoever gave it.
    pub fn holds_edge(&self, config: Option<EdgeConfig>) {
        self.edge.lock().config = config;
    }
    /// Whether it answers for its virtual addresses.
    pub fn holds_virtual_address(&self, held: bool) {
        self.edge.lock().held = held;
    }
    /// What keeps it from carrying what it should.
    pub fn edge_problem(&self, problem: Option<&str>) {
        self.edge.lock().problem = problem.map(str::to_owned);
    }
    /// A container is given an address on its first network.
    pub fn docker_address(&self, key: &str, ip: &str) {
        self.world.set_address(key, ip);
    }
}
