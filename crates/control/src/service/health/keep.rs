//! What survives a restart: how each server is checked and what it was last, in a row of its own, and the history, from which
//! availability is counted.

use super::Health;
use super::table::Entry;
use crate::api::error::{ApiError, ApiResult};
use crate::service::servers::ServerKey;
use nm_plan::health::{Interval, Memory, State, availability};
use nm_store::{HealthPeriod, HealthRow, Kind, NewResource, Patch, StoreError};
use nm_types::Timestamp;
use nm_types::health::{Availability, Check, HealthConfig, HealthInterval};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

const DAY: i64 = 24 * 60 * 60 * 1000;
/// History older than this goes; the longest time availability is counted over, and a day.
const KEPT: i64 = 31 * DAY;

/// The status column of a server's row.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stored {
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_check: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reachable_since: Option<Timestamp>,
    checked: bool,
    memory: Memory,
}

impl Stored {
    fn of(entry: &Entry) -> Self {
        Self {
            state: entry.state.as_str().to_owned(),
            since: entry.since,
            last_check: entry.last_check,
            reachable_since: entry.reachable_since,
            checked: entry.checked,
            memory: entry.memory.clone(),
        }
    }

    fn entry(self, name: &str, config: HealthConfig) -> Entry {
        let state = State::parse(&self.state).unwrap_or(State::Unknown);
        Entry {
            name: name.into(),
            config: Arc::new(config),
            memory: self.memory,
            last: None,
            last_check: self.last_check,
            state,
            since: self.since,
            reachable_since: self.reachable_since,
            checked: self.checked,
            noted: if self.checked { state } else { State::Unknown },
            pending: Vec::new(),
        }
    }
}

impl Health {
    /// Reads what the store holds. Time in which nobody checked, this control plane being away for longer than a server's
    /// interval, is unknown.
    pub async fn load(&self) -> ApiResult<()> {
        self.refresh_settings().await?;
        let usual = self.settings().0.interval;
        let (now, until) = (self.clock.now(), self.store.health_checked_until().await?);
        for row in self.store.all(Kind::Health).await? {
            let Some(key) = ServerKey::parse(&row.id) else { continue };
            if self.servers.get(&key).await?.is_none() {
                self.forget(&key).await?;
                continue;
            }
            let mut entry = row.status::<Stored>()?.entry(&row.name, row.spec()?);
            let interval = entry.config.interval.unwrap_or(usual).get() * 1000;
            let nobody_since = until
                .filter(|until| now.since(*until) > interval)
                .or(entry.since.filter(|_| until.is_none()));
            if let Some(moment) = nobody_since.filter(|_| entry.checked && entry.state != State::Unknown) {
                entry.unknown_since(moment);
                self.dirty.add(key.clone());
            }
            self.table.put(key, entry);
        }
        for key in self.servers.keys().await? {
            if self.interval(&key).await?.is_some() {
                self.table.start_checking(&key);
            }
        }
        Ok(())
    }

    /// Writes what the table has of these servers, in one transaction.
    pub async fn persist(&self, keys: &[ServerKey]) -> ApiResult<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.begin(self.clock.now()).await?;
        let mut written = Vec::new();
        for key in keys {
            // Read in turn, so that one which was forgotten meanwhile does not come back.
            let Some(entry) = self.table.read(key, Entry::clone) else {
                continue;
            };
            let id = key.as_str();
            let stored = Stored::of(&entry);
            match tx.update(Kind::Health, id, Patch::new().status(&stored)?).await {
                Ok(_) => {}
                Err(StoreError::NotFound { .. }) => {
                    let row = NewResource::new(Kind::Health, id)
                        .named(&*entry.name)
                        .spec(&*entry.config)?
                        .status(&stored)?;
                    tx.insert(row).await?;
                }
                Err(error) => return Err(error.into()),
            }
            for turn in &entry.pending {
                let row = HealthRow {
                    server: id.to_owned(),
                    began: turn.at,
                    state: turn.state.as_str().to_owned(),
                    failed: turn.failed.iter().map(|c| c.as_str()).collect::<Vec<_>>().join(","),
                };
                tx.health_changed(&row).await?;
            }
            written.push((key, entry.pending));
        }
        tx.commit().await?;
        for (key, turns) in written {
            self.table.change(key, |entry| entry.pending.retain(|turn| !turns.contains(turn)));
        }
        Ok(())
    }

    /// A server is gone: nothing of it is kept.
    pub async fn forget(&self, key: &ServerKey) -> ApiResult<()> {
        self.table.remove(key);
        let mut tx = self.store.begin(self.clock.now()).await?;
        match tx.delete(Kind::Health, key.as_str()).await {
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        tx.health_forget(key.as_str()).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Rereads how a server is checked, after another replica changed it.
    pub async fn refresh_config(&self, key: &ServerKey) -> ApiResult<()> {
        if let Some(row) = self.store.get(Kind::Health, key.as_str()).await? {
            self.table.configure(key, row.spec()?);
        }
        Ok(())
    }

    /// Notes that somebody checks until now.
    pub async fn note_checked(&self) -> ApiResult<()> {
        let now = self.clock.now();
        let mut tx = self.store.begin(now).await?;
        tx.health_checked(now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Drops history that is too old.
    pub async fn prune(&self) -> ApiResult<u64> {
        let now = self.clock.now();
        let mut tx = self.store.begin(now).await?;
        let gone = tx.health_prune(now.plus_millis(-KEPT)).await?;
        tx.commit().await?;
        Ok(gone)
    }

    /// The availability of all servers whose ids lie from `first` to `last`.
    pub(super) async fn availabilities(&self, first: &str, last: &str) -> ApiResult<BTreeMap<String, Availability>> {
        let now = self.clock.now();
        let rows = self.store.health_histories(first, last, now.plus_millis(-30 * DAY)).await?;
        let mut out = BTreeMap::new();
        for of_one in rows.chunk_by(|a, b| a.server == b.server) {
            let intervals: Vec<Interval> = of_one.iter().map(interval).collect::<ApiResult<_>>()?;
            let over = |days: i64| availability(&intervals, now.plus_millis(-days * DAY), now).map(two_decimals);
            if let Some(row) = of_one.first() {
                let all = Availability {
                    day: over(1),
                    week: over(7),
                    month: over(30),
                };
                out.insert(row.server.clone(), all);
            }
        }
        Ok(out)
    }

    /// A page of a server's history, newest first, and where the next page begins.
    pub async fn history(
        &self,
        key: &str,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
        after: Option<&str>,
        limit: u32,
    ) -> ApiResult<(Vec<HealthInterval>, Option<String>)> {
        let server = self.servers.resolve(key).await?.key;
        let now = self.clock.now();
        let to = to.unwrap_or(now);
        let from = from.unwrap_or_else(|| to.plus_millis(-30 * DAY));
        if from > to {
            return Err(ApiError::invalid("from", "lies behind `to`"));
        }
        let after = match after {
            None => None,
            Some(text) => {
                let moment = text
                    .parse()
                    .map(Timestamp)
                    .map_err(|_| ApiError::invalid("cursor", "give `nextCursor` of the page before, as it was answered"))?;
                Some(moment)
            }
        };
        let before = after.unwrap_or_else(|| to.plus_millis(1));
        let period = HealthPeriod {
            server: server.as_str(),
            from,
            before,
            limit: limit.saturating_add(1),
        };
        let mut rows = self.store.health_history(period).await?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let mut end = self.store.health_next(server.as_str(), before).await?;
        let mut out = Vec::with_capacity(rows.len());
        for row in &rows {
            let state = interval(row)?.state;
            out.push(HealthInterval {
                from: row.began,
                to: end.replace(row.began),
                status: state.status(),
                degraded: state.degraded(),
                failed: row.failed.split(',').filter_map(Check::parse).collect(),
            });
        }
        let next = rows.last().filter(|_| more).map(|last| last.began.0.to_string());
        Ok((out, next))
    }
}

fn interval(row: &HealthRow) -> ApiResult<Interval> {
    let state = State::parse(&row.state).ok_or_else(|| StoreError::Corrupt {
        reason: format!("the history of {} has the unknown state `{}`", row.server, row.state),
    })?;
    Ok(Interval { from: row.began, state })
}

/// Rounded down, so that 100 means without a break.
fn two_decimals(percent: f64) -> f64 {
    (percent * 100.0).floor() / 100.0
}
