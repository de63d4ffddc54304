//! What is still to be told: a row of the store for each word of an alert to each channel, written with the change it tells
//! of, and tried again until it is delivered or a day has passed.
//!
//! One channel is sent one delivery at a time, and what is told of one alert arrives in the order it happened. A delivery
//! that was sent and could not be marked is marked again and not sent again; only a crash in between sends it twice, under
//! the same `X-NeuralMesh-Delivery`.

use super::deliver::{Failure, send};
use super::{Alerts, locked, rows};
use crate::api::error::ApiResult;
use futures_util::FutureExt;
use nm_plan::alerts::retry;
use nm_store::{Kind, ListQuery, Patch, Resource, StoreError};
use nm_types::alert::{AlertDeliveryState, AlertDeliveryView, AlertEvent, AlertView};
use nm_types::{AlertId, ChannelId, DeliveryId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use tokio::sync::Notify;

/// The most that are under way at once.
const AT_ONCE: usize = 16;
/// Between two attempts to write what became of a delivery.
const AGAIN_MS: i64 = 1_000;
const AFTER_A_PANIC_MS: i64 = 600_000;

/// What is told: an alert as it was at that moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    pub event: AlertEvent,
    pub at: Timestamp,
    pub alert: AlertView,
}

/// A delivery's spec column.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeliverySpec {
    pub alert: AlertId,
    pub channel: ChannelId,
    /// Its place among the notices of its alert.
    pub sequence: u32,
    pub told: Told,
}

/// A delivery's status column.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeliveryStatus {
    pub state: AlertDeliveryState,
    pub created: Timestamp,
    #[serde(default)]
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<Timestamp>,
}

impl DeliveryStatus {
    pub(super) fn first(now: Timestamp) -> Self {
        Self {
            state: AlertDeliveryState::Waiting,
            created: now,
            attempts: 0,
            next: Some(now),
            last_error: None,
            delivered_at: None,
        }
    }
}

#[derive(Debug, Clone)]
struct Waiting {
    spec: DeliverySpec,
    status: DeliveryStatus,
    /// What became of it is known, and only to be written.
    unwritten: bool,
}

impl Waiting {
    fn due(&self) -> Timestamp {
        self.status.next.unwrap_or(self.status.created)
    }
}

#[derive(Debug, Default)]
struct Inner {
    waiting: BTreeMap<DeliveryId, Waiting>,
    busy: HashSet<ChannelId>,
}

/// What waits to be sent.
#[derive(Debug, Default)]
pub struct Outbox {
    inner: Mutex<Inner>,
    wake: Notify,
}

/// A delivery to be sent now, in the hands of whoever sends it.
#[derive(Debug)]
pub struct Due {
    id: DeliveryId,
    waiting: Waiting,
}

impl Outbox {
    /// Takes in what waits, as the store has it.
    pub(super) fn load(&self, stored: Vec<Resource>) -> ApiResult<()> {
        let mut found = Vec::new();
        for row in stored {
            let status: DeliveryStatus = row.status()?;
            if status.state == AlertDeliveryState::Waiting {
                found.push((rows::id(DeliveryId::parse(&row.id))?, row.spec()?, status));
            }
        }
        self.add(found);
        Ok(())
    }

    pub(super) fn add(&self, deliveries: Vec<(DeliveryId, DeliverySpec, DeliveryStatus)>) {
        if deliveries.is_empty() {
            return;
        }
        let mut inner = locked(&self.inner);
        for (id, spec, status) in deliveries {
            inner.waiting.entry(id).or_insert(Waiting {
                spec,
                status,
                unwritten: false,
            });
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Lets what waits for a channel be tried at once: it was changed.
    pub(super) fn hurry(&self, channel: &ChannelId, now: Timestamp) {
        for waiting in locked(&self.inner).waiting.values_mut().filter(|w| w.spec.channel == *channel) {
            waiting.status.next = Some(now);
        }
        self.wake.notify_one();
    }

    /// Waits until there is something new to send.
    pub async fn filled(&self) {
        self.wake.notified().await;
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        locked(&self.inner).waiting.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those to be sent now, each for another channel, and when the next one's time comes.
    pub fn take(&self, now: Timestamp) -> (Vec<Due>, Option<Timestamp>) {
        let mut inner = locked(&self.inner);
        let Inner { waiting, busy } = &mut *inner;
        // Of each alert and channel, the first.
        let mut first: HashMap<(&AlertId, &ChannelId), (u32, &DeliveryId)> = HashMap::new();
        for (id, one) in waiting.iter() {
            let place = (one.spec.sequence, id);
            first
                .entry((&one.spec.alert, &one.spec.channel))
                .and_modify(|held| *held = place.min(*held))
                .or_insert(place);
        }
        let mut free: Vec<(Timestamp, &DeliveryId)> = first
            .into_iter()
            .filter(|((_, channel), _)| !busy.contains(*channel))
            .filter_map(|(_, (_, id))| waiting.get(id).map(|w| (w.due(), id)))
            .collect();
        free.sort_unstable();
        let (mut due, mut next) = (Vec::new(), None);
        for (at, id) in free {
            if at > now {
                next = Some(at);
                break;
            }
            let Some(one) = waiting.get(id) else { continue };
            if busy.len() < AT_ONCE && busy.insert(one.spec.channel.clone()) {
                due.push(Due {
                    id: id.clone(),
                    waiting: one.clone(),
                });
            }
        }
        (due, next)
    }

    /// Lets go of a delivery whose sending fell over: a fault of ours, that the next attempt may well meet again.
    fn release(&self, id: &DeliveryId, channel: &ChannelId, next: Timestamp) {
        let mut inner = locked(&self.inner);
        inner.busy.remove(channel);
        if let Some(waiting) = inner.waiting.get_mut(id) {
            waiting.status.next = Some(next);
        }
        drop(inner);
        self.wake.notify_one();
    }

    fn put_back(&self, due: Due) {
        let mut inner = locked(&self.inner);
        inner.busy.remove(&due.waiting.spec.channel);
        let is_done = due.waiting.status.state != AlertDeliveryState::Waiting && !due.waiting.unwritten;
        if is_done {
            inner.waiting.remove(&due.id);
        } else {
            inner.waiting.insert(due.id, due.waiting);
        }
        drop(inner);
        self.wake.notify_one();
    }
}

impl Alerts {
    /// Sends one delivery and writes what became of it.
    pub async fn deliver(&self, due: Due) {
        let (id, channel) = (due.id.clone(), due.waiting.spec.channel.clone());
        if AssertUnwindSafe(self.attempt(due)).catch_unwind().await.is_err() {
            tracing::error!(delivery.id = %id, channel.id = %channel, "sending a delivery panicked");
            self.outbox.release(&id, &channel, self.clock.now().plus_millis(AFTER_A_PANIC_MS));
        }
    }

    async fn attempt(&self, mut due: Due) {
        let id = due.id.clone();
        if !due.waiting.unwritten {
            let sent = self.send(&due).await;
            let (spec, status) = (&due.waiting.spec, &mut due.waiting.status);
            let now = self.clock.now();
            status.attempts += 1;
            match sent {
                Ok(_said) => {
                    tracing::debug!(delivery.id = %id, alert.id = %spec.alert, channel.id = %spec.channel, "delivered");
                    status.state = AlertDeliveryState::Delivered;
                    (status.next, status.delivered_at) = (None, Some(now));
                }
                Err(failure) => {
                    let wait = failure.retry_after.and_then(|d| i64::try_from(d.as_millis()).ok());
                    status.next = retry(status.attempts, status.created, now, wait).filter(|_| !failure.is_final);
                    if status.next.is_none() {
                        status.state = AlertDeliveryState::Failed;
                    }
                    tracing::warn!(
                        delivery.id = %id, alert.id = %spec.alert, channel.id = %spec.channel, attempts = status.attempts,
                        given_up = status.next.is_none(), reason = failure.message, "an alert could not be delivered"
                    );
                    status.last_error = Some(failure.message);
                }
            }
        }
        let written = self.write_delivery(&id, &due.waiting.status).await;
        due.waiting.unwritten = false;
        if let Err(error) = written {
            tracing::warn!(delivery.id = %id, error = %error.message, "what became of a delivery could not be written");
            // A failed attempt is tried again in any case; what was delivered is only written again.
            if due.waiting.status.state != AlertDeliveryState::Waiting {
                due.waiting.unwritten = true;
                due.waiting.status.next = Some(self.clock.now().plus_millis(AGAIN_MS));
            }
        }
        self.outbox.put_back(due);
    }

    async fn send(&self, due: &Due) -> Result<String, Failure> {
        let spec = &due.waiting.spec;
        let channel = match self.open_channel(&spec.channel).await {
            Ok(Some(channel)) => channel,
            Ok(None) => return Err(Failure::last("its channel was removed")),
            Err(error) => return Err(Failure::new(error.message)),
        };
        send(&self.guard, &channel, &due.id, &spec.told, self.clock.now()).await
    }

    async fn write_delivery(&self, id: &DeliveryId, status: &DeliveryStatus) -> ApiResult<()> {
        let status = match status.state {
            AlertDeliveryState::Waiting => status.clone(),
            AlertDeliveryState::Delivered | AlertDeliveryState::Failed => DeliveryStatus {
                next: None,
                ..status.clone()
            },
        };
        let mut tx = self.store.begin(self.clock.now()).await?;
        match tx.update(Kind::AlertDelivery, id.as_str(), Patch::new().status(&status)?).await {
            Ok(_) => {}
            // It went with its alert.
            Err(StoreError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        tx.commit().await?;
        Ok(())
    }

    pub(super) async fn delivery_rows(&self, alert: &str) -> ApiResult<Vec<Resource>> {
        const MOST: u32 = 1_000;
        let query = ListQuery {
            parent: Some(alert),
            ..ListQuery::of(Kind::AlertDelivery, MOST)
        };
        Ok(self.store.list(query).await?)
    }

    /// What became of each word of an alert, oldest first.
    pub(super) async fn deliveries(&self, alert: &str) -> ApiResult<Vec<AlertDeliveryView>> {
        let config = self.config.load();
        let mut out = Vec::new();
        for row in self.delivery_rows(alert).await? {
            let (spec, status): (DeliverySpec, DeliveryStatus) = (row.spec()?, row.status()?);
            out.push((
                spec.sequence,
                AlertDeliveryView {
                    id: rows::id(DeliveryId::parse(&row.id))?,
                    channel_name: config.channels.get(&spec.channel).cloned(),
                    channel_id: spec.channel,
                    event: spec.told.event,
                    state: status.state,
                    attempts: status.attempts,
                    next_attempt: status.next,
                    last_error: status.last_error,
                    created: status.created,
                    delivered_at: status.delivered_at,
                },
            ));
        }
        out.sort_by(|a, b| (a.0, &a.1.id).cmp(&(b.0, &b.1.id)));
        Ok(out.into_iter().map(|(_, view)| view).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nm_types::alert::{AlertSeverity, AlertState, AlertTargetKind};
    use nm_types::text::Title;
    use nm_types::{AlertRuleId, NodeId};

    fn delivery(n: i64, alert: &AlertId, channel: &ChannelId, sequence: u32, due: i64) -> (DeliveryId, DeliverySpec, DeliveryStatus) {
        let told = Told {
            event: AlertEvent::Firing,
            at: Timestamp(0),
            alert: AlertView {
                id: alert.clone(),
                rule_id: AlertRuleId::fresh(1),
                rule_name: Title::parse("rule").unwrap(),
                server_id: NodeId::fresh(1).to_string(),
                server_name: "alder".into(),
                server_kind: AlertTargetKind::Node,
                severity: AlertSeverity::Warning,
                state: AlertState::Firing,
                since: Timestamp(0),
                fired_at: None,
                resolved_at: None,
                value: None,
                message: String::new(),
                flapping: false,
                silenced_by: None,
                acknowledged_at: None,
                acknowledged_by: None,
            },
        };
        let spec = DeliverySpec {
            alert: alert.clone(),
            channel: channel.clone(),
            sequence,
            told,
        };
        let status = DeliveryStatus {
            next: Some(Timestamp(due)),
            ..DeliveryStatus::first(Timestamp(0))
        };
        (DeliveryId::parse(&format!("delivery_{n}_aaaaaaaaa")).unwrap(), spec, status)
    }

    #[test]
    fn one_at_a_time_for_each_channel_and_each_alert_in_order() {
        let (alerts, channels) = ([AlertId::fresh(1), AlertId::fresh(2)], [ChannelId::fresh(1), ChannelId::fresh(2)]);
        let outbox = Outbox::default();
        outbox.add(vec![
            // Ids say nothing of the order.
            delivery(9, &alerts[0], &channels[0], 0, 0),
            delivery(1, &alerts[0], &channels[0], 1, 0),
            delivery(2, &alerts[1], &channels[0], 0, 50),
            delivery(3, &alerts[0], &channels[1], 0, 70),
        ]);
        let ids = |due: &[Due]| due.iter().map(|d| d.id.as_str().to_owned()).collect::<Vec<_>>();
        let (mut due, next) = outbox.take(Timestamp(10));
        assert_eq!((ids(&due), next), (vec!["delivery_9_aaaaaaaaa".to_owned()], Some(Timestamp(50))));
        // Its channel is busy.
        assert_eq!(outbox.take(Timestamp(60)).1, Some(Timestamp(70)));
        // It failed: the end of its alert waits behind it, and another alert goes on.
        let mut failed = due.remove(0);
        failed.waiting.status.next = Some(Timestamp(1_000));
        outbox.put_back(failed);
        let (mut due, next) = outbox.take(Timestamp(60));
        assert_eq!((ids(&due), next), (vec!["delivery_2_aaaaaaaaa".to_owned()], Some(Timestamp(70))));
        let mut done = due.remove(0);
        done.waiting.status.state = AlertDeliveryState::Delivered;
        outbox.put_back(done);
        let (mut due, next) = outbox.take(Timestamp(2_000));
        assert_eq!((due.len(), next), (2, None));
        let at = due.iter().position(|d| d.id.as_str() == "delivery_9_aaaaaaaaa").unwrap();
        let mut done = due.remove(at);
        done.waiting.status.state = AlertDeliveryState::Delivered;
        outbox.put_back(done);
        assert_eq!(ids(&outbox.take(Timestamp(2_000)).0), ["delivery_1_aaaaaaaaa"]);
        // What could not be written stays, to be written again.
        let mut unwritten = due.remove(0);
        unwritten.waiting.status.state = AlertDeliveryState::Delivered;
        unwritten.waiting.unwritten = true;
        outbox.put_back(unwritten);
        let again = outbox.take(Timestamp(2_000)).0;
        assert!(again.len() == 1 && again[0].waiting.unwritten);
        assert_eq!(outbox.len(), 2);
    }
}
