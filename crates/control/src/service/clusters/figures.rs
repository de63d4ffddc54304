//! What load balancers count, added up: in memory with every look, in the store every ten seconds, and every minute a point of
//! the history.

use super::{ClusterRow, Clusters};
use crate::api::error::{ApiError, ApiResult};
use nm_plan::cluster::{Book, Sum, Sums, cluster_of_id};
use nm_store::ClusterPoint;
use nm_types::cluster::{ClusterFigures, ClusterMetricsPoint, ClusterMetricsView, ClusterRecent, MemberFigures};
use nm_types::proxy::Metrics;
use nm_types::{ClusterId, NodeId, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 3_600_000;
/// The history has a point a minute for so long, then one an hour.
const FINE: i64 = DAY;
/// History and events older than this go.
const KEPT: i64 = 31 * DAY;
/// The most events that are kept of a cluster.
const EVENTS: i64 = 10_000;
/// The time that requests a second are counted over.
const RATE_OVER: i64 = MINUTE;
/// All that was counted is kept of the last minute at moments so far apart at least: enough to say what was lately.
const MARK_EVERY: i64 = 15_000;

#[derive(Default)]
struct Counted {
    book: Book,
    /// Requests, at the looks of the last minute.
    looks: VecDeque<(Timestamp, u64)>,
    /// Everything, at some of them.
    marks: VecDeque<(Timestamp, Sums)>,
    /// Something was counted that is not in the store.
    dirty: bool,
    /// The minute that the last point of the history ended.
    point: i64,
}

impl Counted {
    /// Keeps what was counted up to now, and forgets what lies more than a minute back, but for what the minute began with.
    fn mark(&mut self, now: Timestamp) {
        if self.marks.back().is_none_or(|(at, _)| now.since(*at) >= MARK_EVERY) {
            self.marks.push_back((now, self.book.sums.clone()));
        }
        while self.marks.get(1).is_some_and(|(at, _)| now.since(*at) >= RATE_OVER) {
            self.marks.pop_front();
        }
    }

    fn recent(&self, now: Timestamp) -> Option<Recent> {
        let (last, _) = self.looks.back()?;
        let (from, before) = self.marks.front()?;
        let span = last.since(*from);
        // What was last seen long ago says nothing of now.
        if span <= 0 || now.since(*last) >= RATE_OVER {
            return None;
        }
        let seconds = span as f64 / 1000.0;
        let since = |sum: &Sum, before: Option<&Sum>| recently(&before.and_then(|b| sum.since(b)).unwrap_or_else(|| sum.clone()), seconds);
        let sums = &self.book.sums;
        Some(Recent {
            cluster: since(&sums.cluster, Some(&before.cluster)),
            members: sums
                .members
                .iter()
                .map(|(id, sum)| (id.clone(), since(sum, before.members.get(id))))
                .collect(),
        })
    }
}

/// What was measured lately of a cluster and of each of its members.
pub struct Recent {
    pub cluster: ClusterRecent,
    pub members: BTreeMap<String, ClusterRecent>,
}

fn recently(sum: &Sum, seconds: f64) -> ClusterRecent {
    let figures = sum.figures();
    ClusterRecent {
        requests_per_second: rounded(sum.requests as f64 / seconds),
        error_rate: figures.error_rate,
        average_response_time: figures.average_response_time,
        p50: figures.p50,
        p95: figures.p95,
        p99: figures.p99,
    }
}

/// What was counted of every cluster.
#[derive(Clone, Default)]
pub struct Figures(Arc<Mutex<BTreeMap<ClusterId, Counted>>>);

impl Figures {
    fn table(&self) -> MutexGuard<'_, BTreeMap<ClusterId, Counted>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn load(&self, rows: Vec<(String, String)>) {
        let mut table = self.table();
        for (id, totals) in rows {
            let Ok(id) = ClusterId::parse(&id) else { continue };
            match serde_json::from_str(&totals) {
                Ok(book) => {
                    table.insert(
                        id,
                        Counted {
                            book,
                            ..Counted::default()
                        },
                    );
                }
                Err(error) => tracing::error!(cluster.id = %id, %error, "a cluster's totals can't be read; they begin at zero"),
            }
        }
    }

    pub(super) fn forget(&self, id: &ClusterId) {
        self.table().remove(id);
    }

    pub(super) fn of(&self, id: &ClusterId) -> Sums {
        self.table().get(id).map(|c| c.book.sums.clone()).unwrap_or_default()
    }

    /// Over the last minute, once there were two looks.
    pub(super) fn recent(&self, id: &ClusterId, now: Timestamp) -> Option<Recent> {
        self.table().get(id)?.recent(now)
    }

    /// Over the last minute, once there were two looks.
    pub(super) fn requests_per_second(&self, id: &ClusterId, now: Timestamp) -> Option<f64> {
        let table = self.table();
        let looks = &table.get(id)?.looks;
        let (first, last) = (looks.front()?, looks.back()?);
        // What was last seen long ago says nothing of now.
        let span = last.0.since(first.0);
        (span > 0 && now.since(last.0) < RATE_OVER).then(|| last.1.saturating_sub(first.1) as f64 * 1000.0 / span as f64)
    }
}

fn write(totals: &impl serde::Serialize) -> ApiResult<String> {
    serde_json::to_string(totals).map_err(|_| ApiError::internal())
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

impl Clusters {
    /// What a node's load balancer has counted since it began.
    pub fn counted(&self, node: &NodeId, metrics: &Metrics) {
        let now = self.clock.now();
        let mut table = self.figures.table();
        for cluster in &metrics.clusters {
            // A node speaks of what it carries, or carried a moment ago.
            let Some((id, reads)) = cluster_of_id(&cluster.id) else { continue };
            let Some(row) = self.row(&id) else { continue };
            let counted = table.entry(row.id.clone()).or_default();
            if !row.stored.entries.contains(node) && !counted.book.nodes.contains_key(node.as_str()) {
                continue;
            }
            // What reads of a database counted is added to what its writes did.
            let by = if reads { reads_at(node) } else { node.to_string() };
            counted.dirty |= counted.book.take(&by, &metrics.instance, Sums::of(cluster));
            counted.looks.push_back((now, counted.book.sums.cluster.requests));
            while counted.looks.len() > 2 && counted.looks.front().is_some_and(|(at, _)| now.since(*at) > RATE_OVER) {
                counted.looks.pop_front();
            }
            counted.mark(now);
        }
    }

    /// Writes what was counted since the last time, and the points of minutes that have ended.
    pub async fn persist_figures(&self) -> ApiResult<()> {
        let now = self.clock.now();
        let minute = now.0 - now.0.rem_euclid(MINUTE);
        let mut writes = Vec::new();
        for row in self.all() {
            let mut table = self.figures.table();
            let Some(counted) = table.get_mut(&row.id) else { continue };
            let ended = counted.point < minute;
            if !counted.dirty && !ended {
                continue;
            }
            let members: Vec<String> = row
                .stored
                .members
                .iter()
                .cloned()
                .chain(row.scaled().map(|(id, _)| id.to_string()))
                .collect();
            counted.book.keep_only(&members);
            let point = if ended { Some(write(&counted.book.sums)?) } else { None };
            writes.push((row.id.clone(), write(&counted.book)?, point));
            counted.dirty = false;
            counted.point = minute;
        }
        if writes.is_empty() {
            return Ok(());
        }
        let written = self.write_figures(&writes, Timestamp(minute)).await;
        if written.is_err() {
            let mut table = self.figures.table();
            for (id, _, point) in &writes {
                if let Some(counted) = table.get_mut(id) {
                    counted.dirty = true;
                    if point.is_some() {
                        counted.point = 0;
                    }
                }
            }
        }
        written
    }

    async fn write_figures(&self, writes: &[(ClusterId, String, Option<String>)], minute: Timestamp) -> ApiResult<()> {
        let mut tx = self.store.begin(self.clock.now()).await?;
        for (id, totals, point) in writes {
            tx.cluster_totals_put(id.as_str(), totals).await?;
            if let Some(totals) = point {
                let point = ClusterPoint {
                    at: minute,
                    totals: totals.clone(),
                };
                tx.cluster_point_put(id.as_str(), &point).await?;
            }
        }
        tx.commit().await?;
        Ok(())
    }

    /// Drops events and history that are old.
    pub async fn sweep(&self) -> ApiResult<u64> {
        let now = self.clock.now();
        let mut tx = self.store.begin(now).await?;
        let gone = tx.clusters_prune(EVENTS, now.plus_millis(-FINE), now.plus_millis(-KEPT)).await?;
        tx.commit().await?;
        Ok(gone)
    }

    /// Totals and history from `from` to `to`, at most `limit` points; fewer, longer ones where there are more.
    pub async fn metrics(&self, key: &str, from: Option<Timestamp>, to: Option<Timestamp>, limit: usize) -> ApiResult<ClusterMetricsView> {
        let row = self.find(key)?;
        let now = self.clock.now();
        let to = to.unwrap_or(now).min(now);
        let from = from.unwrap_or_else(|| to.plus_millis(-3_600_000));
        let sums = self.figures.of(&row.id);
        let mut points: Vec<(Timestamp, Sums)> = Vec::new();
        for point in self.store.cluster_points(row.id.as_str(), from, to).await? {
            let sums = serde_json::from_str(&point.totals).map_err(|error| {
                tracing::error!(cluster.id = %row.id, %error, "a point of a cluster's history can't be read");
                ApiError::internal()
            })?;
            points.push((point.at, sums));
        }
        // What goes on now has no point yet.
        if to == now {
            points.push((now, sums.clone()));
        }
        let rate = self.figures.requests_per_second(&row.id, now).unwrap_or_default();
        Ok(ClusterMetricsView {
            cluster_id: row.id.clone(),
            figures: sums.cluster.figures(),
            requests_per_second: rounded(rate),
            members: self.member_figures(&row, &sums),
            history: history(points, limit),
        })
    }

    pub(super) fn cluster_figures(&self, id: &ClusterId) -> (ClusterFigures, BTreeMap<String, Sum>) {
        let sums = self.figures.of(id);
        (sums.cluster.figures(), sums.members)
    }

    fn member_figures(&self, row: &ClusterRow, sums: &Sums) -> Vec<MemberFigures> {
        let named = row.stored.members.iter().cloned();
        let scaled = row.scaled().map(|(id, _)| id.to_string());
        named
            .chain(scaled)
            .map(|id| MemberFigures {
                figures: sums.members.get(&id).map(Sum::figures).unwrap_or_default(),
                id,
            })
            .collect()
    }
}

/// What lies between points, oldest first.
fn history(points: Vec<(Timestamp, Sums)>, limit: usize) -> Vec<ClusterMetricsPoint> {
    let covered = match (points.first(), points.last()) {
        (Some((first, _)), Some((last, _))) => last.since(*first),
        _ => 0,
    };
    // By time, not by number: of a day there is a point a minute, of what lies before it one an hour.
    let most = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
    let step = if points.len() > limit.saturating_add(1) {
        covered / most
    } else {
        0
    };
    // The last one is among them whatever the step; what does not fill a step at the beginning is left out.
    let mut chosen: Vec<&(Timestamp, Sums)> = Vec::new();
    for point in points.iter().rev() {
        if chosen.last().is_none_or(|(later, _)| later.since(point.0) >= step) {
            chosen.push(point);
        }
    }
    chosen.truncate(limit.saturating_add(1));
    let mut out: Vec<ClusterMetricsPoint> = Vec::new();
    for pair in chosen.windows(2) {
        let ((to, now), (from, before)) = (pair[0], pair[1]);
        let Some(cluster) = now.cluster.since(&before.cluster) else {
            continue;
        };
        let members = now.members.iter().map(|(id, sum)| {
            let fresh = before.members.get(id).and_then(|b| sum.since(b)).unwrap_or_else(|| sum.clone());
            MemberFigures {
                id: id.clone(),
                figures: fresh.figures(),
            }
        });
        let seconds = (to.since(*from).max(1)) as f64 / 1000.0;
        out.push(ClusterMetricsPoint {
            from: *from,
            to: *to,
            requests_per_second: rounded(cluster.requests as f64 / seconds),
            figures: cluster.figures(),
            members: members.collect(),
        });
    }
    out.reverse();
    out
}

/// A node, as far as it counts reads of databases.
fn reads_at(node: &NodeId) -> String {
    format!("{node} reads")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_minute_is_told_of_alone() {
        let sums = |requests: u64, micros: u64| {
            let sum = Sum {
                requests,
                errors: requests / 10,
                micros: requests * micros,
                buckets: [(micros, requests)].into(),
                ..Sum::default()
            };
            Sums {
                cluster: sum.clone(),
                members: [("m".to_owned(), sum)].into(),
            }
        };
        let mut counted = Counted::default();
        let look = |counted: &mut Counted, second: i64, sums: Sums| {
            let now = Timestamp(second * 1000);
            counted.book.sums = sums;
            counted.looks.push_back((now, counted.book.sums.cluster.requests));
            counted.mark(now);
        };
        look(&mut counted, 0, sums(1000, 4096));
        assert!(counted.recent(Timestamp(1)).is_none(), "one look says nothing of a rate");
        for second in (5..=300).step_by(5) {
            let begun = u64::try_from(second).unwrap();
            let mut all = sums(1000 + begun * 10, 4096);
            for sum in std::iter::once(&mut all.cluster).chain(all.members.values_mut()) {
                sum.buckets = [(4096, 1000), (1024, begun * 10)].into();
            }
            look(&mut counted, second, all);
            assert!(counted.marks.len() <= 6, "{}", counted.marks.len());
        }
        let now = Timestamp(301_000);
        let recent = counted.recent(now).unwrap();
        assert_eq!((recent.cluster.requests_per_second, recent.cluster.error_rate), (10.0, 10.0));
        assert!(recent.cluster.p99 < 1.1, "what was slow is long past: {:?}", recent.cluster);
        assert_eq!(recent.members["m"], recent.cluster);
        assert!(counted.recent(now.plus_millis(RATE_OVER)).is_none(), "nobody has told since");
    }

    #[test]
    fn many_points_become_fewer_that_lose_nothing() {
        let point = |n: i64| {
            let mut sums = Sums::default();
            sums.cluster.requests = u64::try_from(n * n).unwrap();
            (Timestamp(n * MINUTE), sums)
        };
        let all: Vec<_> = (0..=10).map(point).collect();
        let whole = history(all.clone(), 100);
        assert_eq!(
            (whole.len(), whole[0].from, whole[9].to),
            (10, Timestamp(0), Timestamp(10 * MINUTE))
        );
        let few = history(all, 4);
        assert_eq!(few.len(), 3);
        assert_eq!(few.last().unwrap().to, Timestamp(10 * MINUTE));
        let requests: u64 = few.iter().map(|p| p.figures.total_requests).sum();
        assert_eq!(requests, 99, "from minute 1 on");
        assert!(few.windows(2).all(|w| w[0].to == w[1].from));
        assert!(history(vec![point(0)], 4).is_empty());
        // Six days with a point an hour, and one with a point a minute.
        let week: Vec<_> = (0..144).map(|h| point(h * 60)).chain((144 * 60..=168 * 60).map(point)).collect();
        let even = history(week, 168);
        assert_eq!(even.len(), 168);
        assert!(even.iter().all(|p| p.to.since(p.from) == 60 * MINUTE), "parts of the same length");
    }
}
