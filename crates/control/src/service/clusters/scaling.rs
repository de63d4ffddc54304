//! More servers and fewer. What is decided is written down before it is carried out, and each new server has a number by which a
//! repeated create finds the first one, so a crash at any moment neither loses nor doubles one.

use super::rows::{ClusterState, Scaled, ScaledPhase};
use super::seen::{Taken, event};
use super::{ClusterRow, Clusters};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::auth::Actor;
use crate::service::containers::Created;
use crate::service::index::{Phase, Record};
use crate::service::servers::ServerKey;
use nm_plan::scale::{Action, Decision, Held, Load, Policy, Seen, decide};
use nm_store::NewClusterEvent;
use nm_types::cluster::{ClusterEventKind, ClusterMemberState, ClusterType, ServerTemplate};
use nm_types::container::{ContainerHealth, ContainerSpec, ContainerStatus};
use nm_types::text::ContainerName;
use nm_types::{ClusterId, ContainerId, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A new server that is not well by then never will be.
const WELL_WITHIN_MS: i64 = 300_000;
/// A container tells nothing of its use in its first seconds.
const TELLS_AFTER_MS: i64 = 5_000;

/// What came of a look at one server that scaling made.
enum Step {
    Stay,
    Made(ContainerId),
    Serves,
    /// It is gone, or never came; with why where that was no plan.
    Gone(Option<String>),
}

/// How far a new server is.
enum Making {
    Done(ContainerId),
    GoesOn(Option<ContainerId>),
}

impl Clusters {
    /// Clusters that scaling has something to do with.
    pub fn scaling(&self) -> Vec<ClusterId> {
        let concerned = |row: &&Arc<ClusterRow>| {
            row.stored.spec.kind != ClusterType::Compute
                && (!row.state.scaled.is_empty() || row.stored.spec.auto_scaling.as_ref().is_some_and(|s| s.enabled))
        };
        self.all().iter().filter(concerned).map(|row| row.id.clone()).collect()
    }

    /// Whether something that was decided is still being carried out.
    pub fn scaling_under_way(&self) -> bool {
        let under_way = |s: &Scaled| !matches!(s.phase, ScaledPhase::Serving);
        self.all().iter().any(|row| row.state.scaled.iter().any(under_way))
    }

    /// Carries on with what was decided, and decides anew.
    pub async fn scale(&self, id: &ClusterId) -> ApiResult<()> {
        let _one = self.scaling.hold(id.clone()).await;
        self.carry_on(id).await?;
        let Some(row) = self.row(id) else { return Ok(()) };
        let Some(policy) = row.stored.spec.auto_scaling.as_ref().filter(|s| s.enabled).map(Policy::of) else {
            return Ok(());
        };
        // What has begun comes to its end first; a second change on top of it would be a guess.
        let under_way = |s: &Scaled| !matches!(s.phase, ScaledPhase::Serving);
        if row.state.scaled.iter().any(under_way) {
            return Ok(());
        }
        let seen = self.loads(&row);
        let now = self.clock.now();
        let decision = decide(now, &policy, &seen, &row.state.scaling);
        self.decisions.note(id, now, &decision);
        self.act(&row, decision).await
    }

    async fn act(&self, row: &ClusterRow, decision: Decision) -> ApiResult<()> {
        let now = self.clock.now();
        let figures = serde_json::json!({
            "current": decision.current, "wanted": decision.wanted, "figures": decision.proposals,
        });
        let said = |kind, reason: String| NewClusterEvent {
            detail: Some(figures.to_string()),
            ..event(&row.id, kind, reason)
        };
        let memory = decision.memory.changed(now, &decision.action);
        // What failed is said until it is no longer wanted, or done.
        let failed = row.state.cannot_scale.clone();
        match decision.action {
            Action::Nothing => {
                let known = decision.proposals.iter().all(|p| p.servers.is_some());
                self.remember(row, memory, failed.filter(|_| !known), None).await
            }
            Action::Hold(held) => {
                let tells = matches!(held, Held::NothingToRemove | Held::AtMost);
                let reason = format!(
                    "{} servers are wanted, {} are there: {}",
                    decision.wanted,
                    decision.current,
                    held.reason()
                );
                let told = said(ClusterEventKind::ScalingHeld, reason.clone());
                let waits = matches!(held, Held::Cooldown { .. } | Held::Missing);
                let cannot = if tells { Some(reason) } else { failed.filter(|_| waits) };
                self.remember(row, memory, cannot, Some(told)).await
            }
            Action::Out { to } => {
                let more = to.saturating_sub(decision.current);
                if let Err(why) = self.template(row) {
                    let reason = format!(
                        "{to} servers are wanted, {} are there, and none can be added: {why}",
                        decision.current
                    );
                    let told = said(ClusterEventKind::ScalingHeld, reason.clone());
                    // Nothing was changed: no cooldown begins.
                    return self.remember(row, row.state.scaling.clone(), Some(reason), Some(told)).await;
                }
                let reason = format!("from {} servers to {to}", decision.current);
                self.change_state(&row.id, |state| {
                    for _ in 0..more {
                        state.last_number += 1;
                        state.scaled.push(Scaled {
                            number: state.last_number,
                            since: now,
                            container: None,
                            phase: ScaledPhase::Starting,
                        });
                    }
                    (state.scaling, state.cannot_scale) = (memory, None);
                    Some(vec![said(ClusterEventKind::ScaledOut, reason)])
                })
                .await?;
                self.carry_on(&row.id).await
            }
            Action::In { to } => {
                let fewer = usize::try_from(decision.current.saturating_sub(to)).unwrap_or(usize::MAX);
                let until = now.plus_millis(row.stored.spec.drain_millis());
                let reason = format!("from {} servers to {to}, the newest first", decision.current);
                self.change_state(&row.id, |state| {
                    for scaled in state.scaled.iter_mut().rev().take(fewer) {
                        scaled.phase = ScaledPhase::Leaving { until };
                    }
                    (state.scaling, state.cannot_scale) = (memory, None);
                    Some(vec![said(ClusterEventKind::ScaledIn, reason)])
                })
                .await?;
                self.wake.notify_one();
                Ok(())
            }
        }
    }

    /// Keeps what a decision leaves behind. It is written where somebody has to know, or where it must outlive a restart: what was
    /// asked for within the window is not, and begins anew with what is there.
    async fn remember(
        &self,
        row: &ClusterRow,
        memory: nm_plan::scale::Memory,
        cannot: Option<String>,
        told: Option<NewClusterEvent>,
    ) -> ApiResult<()> {
        let kind = |reason: &str| reason.split(": ").last().map(str::to_owned);
        // The same reason is told once, whatever its numbers.
        let news = told.filter(|t| self.held_reasons.tell(&row.id, kind(&t.reason)));
        if news.is_none() && cannot.is_none() == row.state.cannot_scale.is_none() {
            if row.state.scaling != memory {
                let mut changed = ClusterRow::clone(row);
                changed.state.scaling = memory;
                self.learn(changed);
            }
            return Ok(());
        }
        self.change_state(&row.id, |state| {
            (state.scaling, state.cannot_scale) = (memory, cannot);
            Some(news.into_iter().collect())
        })
        .await
    }

    /// What its servers do.
    fn loads(&self, row: &ClusterRow) -> Seen {
        let members = self.members(row);
        let sights = self.member_sights(row, &members, &self.addresses());
        let staying = members.iter().zip(&sights).filter(|(m, _)| !m.draining);
        let servers = staying.map(|(member, sight)| {
            let (cpu, memory) = self.use_of(&member.id);
            Load {
                up: sight.state == ClusterMemberState::Up,
                cpu,
                memory,
            }
        });
        let serving = row.state.scaled.iter().filter(|s| s.phase == ScaledPhase::Serving).count();
        Seen {
            servers: servers.collect(),
            requests_per_second: self.figures.requests_per_second(&row.id, self.clock.now()),
            removable: u32::try_from(serving).unwrap_or(u32::MAX),
        }
    }

    /// CPU and memory in percent of what a server may use, where that is known.
    fn use_of(&self, id: &str) -> (Option<f64>, Option<f64>) {
        let percent = |part: f64, whole: f64| (whole > 0.0).then(|| part * 100.0 / whole);
        match ServerKey::parse(id) {
            Some(ServerKey::Container(id)) => {
                let record = self.index.get(&id).filter(|r| self.index.is_reachable(&r.node) && self.tells(r));
                let (Some(record), Some(usage)) = (record, self.index.used(&id)) else {
                    return (None, None);
                };
                // Whatever runs uses some memory: without, nothing was told yet.
                if usage.memory <= 0.0 {
                    return (None, None);
                }
                let bytes = record.memory_limit().map(|m| m.bytes());
                let bytes = bytes.or_else(|| self.nodes.info(&record.node).map(|i| i.memory));
                let memory = bytes.and_then(|bytes| percent(usage.memory * f64::from(1 << 20), bytes as f64));
                (percent(usage.cpu, record.cpu_limit().unwrap_or(1.0) * 100.0), memory)
            }
            Some(ServerKey::Node(node)) => match self.nodes.host(&node) {
                Some(host) => (Some(host.cpu), Some(host.memory.used_percent())),
                None => (None, None),
            },
            // Nobody tells.
            Some(ServerKey::Instance(_) | ServerKey::Address(_)) | None => (None, None),
        }
    }

    fn tells(&self, record: &Record) -> bool {
        let started = record.state.observed.as_ref().and_then(|o| o.started);
        record.status() == ContainerStatus::Running && started.is_some_and(|s| self.clock.now().since(s) >= TELLS_AFTER_MS)
    }

    /// What new servers are made of, or why there is nothing.
    fn template(&self, row: &ClusterRow) -> Result<ContainerSpec, String> {
        let mut spec = match row.whole_spec().server_template {
            Some(ServerTemplate::Container(spec)) => *spec,
            None => self.copied(row)?,
        };
        for port in &mut spec.ports {
            port.host = 0;
        }
        spec.start = true;
        Ok(spec)
    }

    /// A copy of the first container that is a member and can be copied.
    fn copied(&self, row: &ClusterRow) -> Result<ContainerSpec, String> {
        let mut why =
            "none of its servers is a container that could be copied: say what new ones are made of by `serverTemplate`".to_owned();
        for id in row.stored.members.iter().filter_map(|id| ContainerId::parse(id).ok()) {
            let Some(record) = self.index.get(&id) else { continue };
            let Some(spec) = record.wanted.spec.as_deref() else {
                why = format!(
                    "container {} was not made by NeuralMesh: say what new servers are made of by `serverTemplate`",
                    record.name()
                );
                continue;
            };
            if let Some(mount) = spec.writes_to_node() {
                why = format!(
                    "container {} writes to a volume or folder of its node at {}, and a copy would, too: say what new servers are made of by \
                     `serverTemplate`",
                    record.name(),
                    mount.container
                );
                continue;
            }
            if !spec.privileges().is_empty() {
                why = format!(
                    "container {} has {}: an admin has to say by `serverTemplate` that new servers have that, too",
                    record.name(),
                    spec.privileges().join(", ")
                );
                continue;
            }
            return Ok(spec.clone());
        }
        Err(why)
    }

    /// Brings the servers that scaling made on: made, in the rotation, out of it, removed.
    async fn carry_on(&self, id: &ClusterId) -> ApiResult<()> {
        let Some(row) = self.row(id) else { return Ok(()) };
        let mut steps: BTreeMap<u64, Step> = BTreeMap::new();
        for scaled in &row.state.scaled {
            let step = self.step(&row, scaled).await;
            if !matches!(step, Step::Stay) {
                steps.insert(scaled.number, step);
            }
        }
        if steps.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let names: BTreeMap<String, String> = row.scaled().map(|(id, _)| (id.to_string(), self.name_of(id.as_str()))).collect();
        self.change_state(id, |state| Some(apply(id, state, steps, &names, now))).await?;
        self.wake.notify_one();
        Ok(())
    }

    async fn step(&self, row: &ClusterRow, scaled: &Scaled) -> Step {
        let now = self.clock.now();
        match (&scaled.phase, &scaled.container) {
            (ScaledPhase::Starting, None) => match self.make(row, scaled).await {
                Ok(Making::Done(id)) => Step::Made(id),
                Ok(Making::GoesOn(_)) => Step::Stay,
                // The node or the store does not answer now, and will again.
                Err(error) if error.status == http::StatusCode::SERVICE_UNAVAILABLE && now.since(scaled.since) < WELL_WITHIN_MS => {
                    Step::Stay
                }
                Err(error) => Step::Gone(Some(error.message)),
            },
            (ScaledPhase::Starting, Some(id)) => match self.index.get(id) {
                None => Step::Gone(Some("it was removed before it served".into())),
                Some(record) => match well(&record) {
                    Ok(true) => Step::Serves,
                    Ok(false) if now.since(scaled.since) < WELL_WITHIN_MS => Step::Stay,
                    Ok(false) => {
                        let why = format!("it was not well within {} seconds", WELL_WITHIN_MS / 1000);
                        self.gone(id, Some(why)).await
                    }
                    Err(why) => self.gone(id, Some(why)).await,
                },
            },
            (ScaledPhase::Serving, Some(id)) => match self.index.get(id) {
                None => Step::Gone(Some("it was removed by hand".into())),
                Some(_) => Step::Stay,
            },
            (ScaledPhase::Leaving { until }, Some(id)) => {
                let busy = self.leading(row).is_some_and(|(node, sight)| {
                    let told = sight.of(&row.id).and_then(|c| c.members.iter().find(|m| m.id == id.as_str()));
                    // Until the entry says that it drains, clients may still be sent there.
                    let current = matches!(self.taken(&node), Taken::Carried { .. });
                    !current || told.is_some_and(|m| m.active > 0 || m.state != nm_types::proxy::MemberState::Draining)
                });
                if busy && now < *until {
                    return Step::Stay;
                }
                self.gone(id, None).await
            }
            (ScaledPhase::Serving | ScaledPhase::Leaving { .. }, None) => Step::Gone(None),
        }
    }

    /// Removes a container that scaling made. It is tried again where it can't be now.
    async fn gone(&self, id: &ContainerId, why: Option<String>) -> Step {
        match self.remove_container(id).await {
            Ok(()) => Step::Gone(why),
            Err(error) => {
                tracing::warn!(container.id = %id, error = %error.message, "a server that scaling made could not be removed; trying again");
                Step::Stay
            }
        }
    }

    async fn remove_container(&self, id: &ContainerId) -> ApiResult<()> {
        match self
            .containers
            .remove(&Actor::system(), &Meta::internal(), id.as_str(), true, true)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.status == http::StatusCode::NOT_FOUND => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Has the server of this number made, or sees how far that is.
    async fn make(&self, row: &ClusterRow, scaled: &Scaled) -> ApiResult<Making> {
        let mut spec = self.template(row).map_err(|why| ApiError::conflict("cannot_scale", why))?;
        spec.name = numbered(&spec.name, row, scaled.number);
        let key = format!("scale {} {}", row.id, scaled.number);
        let meta = Meta {
            idempotency_key: Some(key.clone()),
            // Others are not to wait for its image.
            respond_async: true,
            ..Meta::internal()
        };
        Ok(match self.containers.create(&Actor::system(), &meta, spec, &key).await? {
            Created::Done(container, _) => Making::Done(container.id),
            Created::GoesOn(operation) => Making::GoesOn(operation.target.and_then(|id| ContainerId::parse(&id).ok())),
        })
    }

    /// Before a cluster goes, so do the servers that were made for it.
    pub(super) async fn remove_scaled(&self, row: &ClusterRow) -> ApiResult<()> {
        for scaled in &row.state.scaled {
            let id = match &scaled.container {
                Some(id) => Some(id.clone()),
                // It may be on its way: asking again tells who it is. One that can't be made is not there.
                None => match self.make(row, scaled).await {
                    Ok(Making::Done(id)) => Some(id),
                    Ok(Making::GoesOn(id)) => id,
                    Err(_) => None,
                },
            };
            if let Some(id) = id {
                self.remove_container(&id).await?;
            }
        }
        Ok(())
    }
}

/// `shop` of cluster …x7k is `shop-x7k3`: of one kind with what it is a copy of, and nobody else's.
fn numbered(name: &ContainerName, row: &ClusterRow, number: u64) -> ContainerName {
    let base = name.as_str().rsplit_once('-').map_or(name.as_str(), |(kin, _)| kin);
    let tail: String = row.id.as_str().chars().rev().take(4).collect();
    let short: String = base.chars().take(80).collect();
    ContainerName::parse(&format!("{short}-{tail}{number}")).unwrap_or_else(|_| name.clone())
}

/// Whether a container is there and well, not yet so, or never will be.
fn well(record: &Record) -> Result<bool, String> {
    let observed = record.state.observed.as_ref();
    let said = || {
        observed
            .and_then(|o| o.message.clone())
            .map(|m| format!(": {m}"))
            .unwrap_or_default()
    };
    match (&record.state.phase, record.status()) {
        (Phase::Removing { .. }, _) => Err("it is being removed".into()),
        (Phase::Ready, ContainerStatus::Running) => match observed.and_then(|o| o.health) {
            None | Some(ContainerHealth::Healthy) => Ok(true),
            Some(ContainerHealth::Starting | ContainerHealth::Unhealthy) => Ok(false),
        },
        (Phase::Ready, ContainerStatus::Exited | ContainerStatus::Stopped) if !record.should_run() => {
            Err(format!("it ended at once{}", said()))
        }
        (Phase::Creating { .. } | Phase::Ready | Phase::Moving { .. } | Phase::Foreign, _) => Ok(false),
    }
}

/// Takes what came of each server into the state, and tells of it.
fn apply(
    id: &ClusterId,
    state: &mut ClusterState,
    mut steps: BTreeMap<u64, Step>,
    names: &BTreeMap<String, String>,
    now: Timestamp,
) -> Vec<NewClusterEvent> {
    let mut events = Vec::new();
    state.scaled.retain_mut(|scaled| {
        let Some(step) = steps.remove(&scaled.number) else { return true };
        let member = scaled.container.as_ref().map(ToString::to_string);
        let name = member.as_ref().and_then(|m| names.get(m)).cloned();
        let name = name.unwrap_or_else(|| format!("server #{}", scaled.number));
        let told = |kind, reason: String| NewClusterEvent {
            member: member.clone(),
            ..event(id, kind, reason)
        };
        match step {
            Step::Stay => true,
            Step::Made(container) => {
                scaled.container = Some(container);
                true
            }
            Step::Serves => {
                (scaled.phase, scaled.since) = (ScaledPhase::Serving, now);
                state.cannot_scale = None;
                events.push(told(
                    ClusterEventKind::MemberAdded,
                    format!("{name} was made by scaling and is well"),
                ));
                true
            }
            Step::Gone(None) => {
                events.push(told(
                    ClusterEventKind::MemberRemoved,
                    format!("{name} was drained and removed by scaling"),
                ));
                false
            }
            Step::Gone(Some(why)) => {
                if scaled.phase == ScaledPhase::Starting {
                    let reason = format!("{name} could not be added: {why}");
                    state.cannot_scale = Some(reason.clone());
                    events.push(told(ClusterEventKind::ScalingFailed, reason));
                } else {
                    events.push(told(ClusterEventKind::MemberRemoved, format!("{name}: {why}")));
                }
                false
            }
        }
    });
    events
}

/// What was last told of why nothing is done, so that it is told once.
#[derive(Debug, Clone, Default)]
pub struct HeldReasons(Arc<std::sync::Mutex<BTreeMap<ClusterId, Option<String>>>>);

impl HeldReasons {
    /// Whether this is another reason than the last one.
    fn tell(&self, id: &ClusterId, reason: Option<String>) -> bool {
        let mut table = self.0.lock().unwrap_or_else(|e| e.into_inner());
        table.insert(id.clone(), reason.clone()) != Some(reason)
    }
    pub(super) fn forget(&self, id: &ClusterId) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).remove(id);
    }
}
