//! Brings what nodes trust and hold in line with the authority there is, and takes the steps of a succession.
//!
//! Each pass rereads the truth: the authority's row, and what nodes last said that they hold. What is missing at a connected
//! node is told to it at once; a node that is away hears of it when it is back. Whoever may no longer be connected, because
//! another replica removed or revoked it, is let go.

use crate::api::error::ApiResult;
use crate::app::{App, stopped};
use crate::service::authority::{AUTHORITY, Rotation, Standing, system_time, timestamp};
use crate::service::fleet::{Agent, CallError};
use crate::service::nodes::NodeIdentity;
use futures_util::StreamExt;
use nm_link::contract::{AgentErrorCode, Trust, TrustState, path};
use nm_link::pki::AGENT_LIFETIME;
use nm_link::server::LinkId;
use nm_plan::succession::{Decision, Node, Stage, decide};
use nm_store::{Kind, Watch, WatchError};
use nm_types::authority::{AuthorityInfo, AuthorityView};
use nm_types::{NodeId, Timestamp};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// Nodes told at a time: each may renew, which is a handshake and two signatures of ours.
const AT_ONCE: usize = 32;
/// For a node to take over whom to trust, and to renew where it should.
const TELL: Duration = Duration::from_secs(20);
/// Between two attempts to tell a node that did not take it.
const AGAIN: Duration = Duration::from_secs(10);
/// Where nothing is waited for. A wall clock can be set, so it is looked at now and then.
const SELDOM: Duration = Duration::from_secs(600);
/// The most nodes named in the view.
const NAMED: usize = 20;

pub async fn run(app: App) {
    let mut stop = app.stop.clone();
    // Before the first pass: no change falls in between.
    let mut changes = app.store.watch();
    let mut links = app.fleet.links().events();
    // Agents of a release that does not know the question; they learn at their next renewal.
    let deaf = Mutex::new(HashSet::new());
    loop {
        let pause = tokio::select! {
            () = stopped(&mut stop) => return,
            passed = pass(&app, &deaf) => match passed {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::warn!(error = %error.message, "whom nodes trust could not be brought in line; trying again");
                    AGAIN
                }
            },
        };
        let woken = tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(pause) => Woken::Time,
            event = links.recv() => match event {
                Err(RecvError::Closed) => return,
                Ok(_) | Err(RecvError::Lagged(_)) => Woken::Time,
            },
            woken = concerned(&mut changes) => woken,
        };
        let read = match woken {
            Woken::Time => Ok(()),
            Woken::Node(id) => take_in(&app, &id).await,
            Woken::Everything => app.nodes.load().await,
            Woken::Closed => return,
        };
        if let Err(error) = read {
            tracing::warn!(error = %error.message, "what changed of a node could not be read");
        }
        // What has piled up meanwhile is looked at in one pass.
        while links.try_recv().is_ok() {}
    }
}

/// Why there is another pass.
enum Woken {
    /// Its time has come, or a link or the authority changed.
    Time,
    /// This node's row changed.
    Node(Arc<str>),
    /// Changes were missed.
    Everything,
    /// The store is closed.
    Closed,
}

/// Waits for a change that concerns a node or the authority. Dropping the future loses nothing.
async fn concerned(changes: &mut Watch) -> Woken {
    loop {
        match changes.next().await {
            Ok(change) if change.subject == Kind::Setting && &*change.id == AUTHORITY => return Woken::Time,
            Ok(change) if change.subject == Kind::Node => return Woken::Node(change.id),
            Ok(_) => {}
            Err(WatchError::Lagged { since }) => {
                changes.seen_up_to(since);
                return Woken::Everything;
            }
            Err(WatchError::Closed) => return Woken::Closed,
        }
    }
}

/// Takes in what may have been written by another replica. Of a node that is gone, the link goes too.
async fn take_in(app: &App, id: &str) -> ApiResult<()> {
    app.nodes.refresh(id).await?;
    if let Ok(id) = NodeId::parse(id)
        && !app.nodes.knows(&id)
    {
        app.nodes.close_links(&id);
    }
    Ok(())
}

/// One look at everything; gives how long until time alone asks for another.
async fn pass(app: &App, deaf: &Mutex<HashSet<LinkId>>) -> ApiResult<Duration> {
    loop {
        let standing = app.authorities.refresh().await?;
        let_go(app, &standing);
        let told_all = tell(app, &standing, deaf).await;
        let now = app.clock.now();
        let pause = match next_step(app, &standing, now).await? {
            Decision::Switch => {
                app.authorities.switch(&standing, None).await?;
                tracing::info!("the new authority has taken over");
                continue;
            }
            Decision::Retire => {
                app.authorities.retire(&standing, None).await?;
                tracing::info!("the authority before counts no more");
                continue;
            }
            Decision::Wait { until: Some(until) } => {
                Duration::from_millis(u64::try_from(until.since(now)).unwrap_or_default() + 1).min(SELDOM)
            }
            Decision::Wait { until: None } => SELDOM,
        };
        return Ok(if told_all { pause } else { pause.min(AGAIN) });
    }
}

/// Closes the links of nodes whose certificate counts no more.
fn let_go(app: &App, standing: &Standing) {
    let known = standing.trust().names();
    for link in app.fleet.links().connected() {
        let peer = link.peer();
        // One that is not known here may have joined at another replica a moment ago: the gate has looked at its row.
        let refused = app.nodes.accepts(link.node(), peer.not_before) == Some(false);
        if refused || !known.contains(&peer.authority) && holds_nothing_better(app, link.node(), &known) {
            tracing::info!(node.id = %link.node(), "closing the link of a node whose certificate counts no more");
            app.fleet.links().close(link.node());
        }
    }
}

/// A link lives on with the certificate it was made with; its node may hold a newer one by now.
fn holds_nothing_better(app: &App, node: &NodeId, known: &[String]) -> bool {
    !app.nodes.identity(node).is_some_and(|i| known.contains(&i.authority))
}

/// Tells each connected node what it lacks. Says whether all took it.
async fn tell(app: &App, standing: &Standing, deaf: &Mutex<HashSet<LinkId>>) -> bool {
    let (trust, names, current) = (standing.trust(), standing.trust().names(), standing.current.name());
    let renewing = matches!(standing.rotation, Rotation::Renewing { .. });
    let settled = matches!(standing.rotation, Rotation::Settled);
    let in_line = |held: Option<NodeIdentity>| match held {
        // While nothing changes, nodes that were never asked need not be.
        None => settled,
        Some(held) if settled && held.trusts.is_empty() => true,
        Some(held) => held.trusts == names && (!renewing || held.authority == current),
    };
    let hears = |link: LinkId| !deaf.lock().unwrap_or_else(|e| e.into_inner()).contains(&link);
    let links = app.fleet.links().connected();
    deaf.lock()
        .unwrap_or_else(|e| e.into_inner())
        .retain(|id| links.iter().any(|l| l.id() == *id));
    let behind = links
        .into_iter()
        .filter(|link| hears(link.id()) && !in_line(app.nodes.identity(link.node())))
        .map(|link| link.node().clone());
    let wanted = Trust {
        ca_certificates: trust.to_pem(),
        authority: renewing.then(|| current.clone()),
    };
    let told = futures_util::stream::iter(behind).map(|node| {
        let wanted = &wanted;
        async move {
            // Gone again: it is told when it is back.
            let Ok(agent) = app.fleet.agent(&node) else { return true };
            tell_one(app, &node, &agent, wanted, deaf).await
        }
    });
    // To the end, also where one did not take it.
    told.buffer_unordered(AT_ONCE).fold(true, async |all, took| all && took).await
}

async fn tell_one(app: &App, node: &NodeId, agent: &Agent, wanted: &Trust, deaf: &Mutex<HashSet<LinkId>>) -> bool {
    let answer = agent.post::<TrustState>(path::TRUST, wanted, TELL).await;
    let state = match answer {
        Ok(state) => state,
        Err(CallError::Refused(error)) if error.code == AgentErrorCode::Invalid => {
            tracing::info!(node.id = %node, "a node's agent is too old to be told of authorities; it hears of them when it renews");
            deaf.lock().unwrap_or_else(|e| e.into_inner()).insert(agent.link().id());
            return true;
        }
        Err(CallError::Refused(error)) => {
            tracing::warn!(node.id = %node, error = %error, "a node did not take over whom to trust; trying again");
            return false;
        }
        // A link that broke is looked at again when its node is back.
        Err(CallError::Link { error, .. }) => {
            tracing::debug!(node.id = %node, error = %error.message, "a node could not be told whom to trust");
            return !agent.link().is_open();
        }
    };
    let seen = NodeIdentity {
        authority: state.authority,
        serial: state.serial,
        expires: state.expires,
        trusts: state.trusts,
    };
    match app.nodes.identity_seen(node, seen).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(node.id = %node, error = %error.message, "what a node holds could not be written; trying again");
            false
        }
    }
}

/// Where the succession stands for the plan: the stage, and the name of the authority that is new in it.
fn stage(standing: &Standing) -> Option<(Stage, String)> {
    match &standing.rotation {
        Rotation::Settled => None,
        Rotation::Introducing { switch_by, next, .. } => Some((Stage::Introducing { switch_by: *switch_by }, next.name())),
        Rotation::Renewing { .. } => Some((Stage::Renewing, standing.current.name())),
    }
}

fn node_of(identity: Option<&NodeIdentity>, new: &str, switched: Timestamp) -> Node {
    match identity {
        // Never seen since we ask: it renewed the last time before the new authority took over, at the latest.
        None => Node {
            trusts_new: false,
            on_old_until: Some(timestamp(system_time(switched) + AGENT_LIFETIME)),
        },
        Some(held) => Node {
            trusts_new: held.trusts.iter().any(|t| t == new),
            on_old_until: (held.authority != new).then_some(held.expires),
        },
    }
}

async fn next_step(app: &App, standing: &Standing, now: Timestamp) -> ApiResult<Decision> {
    let Some((stage, new)) = stage(standing) else {
        return Ok(Decision::Wait { until: None });
    };
    let (since, tokens_until) = match &standing.rotation {
        Rotation::Renewing { since, previous, .. } => {
            let mut last = None;
            for name in previous.names() {
                last = last.max(app.enrolment.tokens_until(&name).await?);
            }
            (*since, last)
        }
        Rotation::Settled | Rotation::Introducing { .. } => (now, None),
    };
    let nodes: Vec<Node> = app
        .nodes
        .identities()
        .iter()
        .map(|(_, identity)| node_of(identity.as_ref(), &new, since))
        .collect();
    Ok(decide(now, stage, &nodes, tokens_until))
}

/// What `GET /api/nodes/authority` shows.
pub fn view(app: &App) -> AuthorityView {
    let standing = app.authorities.standing();
    let identities = app.nodes.identities();
    let info = |fingerprint: [u8; 32], expires: Timestamp| {
        let fingerprint = hex::encode(fingerprint);
        let name = fingerprint[..16].to_owned();
        let holds = |i: &&NodeIdentity| i.authority == name;
        let trusts = |i: &&NodeIdentity| i.trusts.contains(&name) || i.trusts.is_empty() && i.authority == name;
        let held = || identities.iter().filter_map(|(_, i)| i.as_ref());
        AuthorityInfo {
            nodes: held().filter(holds).count() as u64,
            trusted_by: held().filter(trusts).count() as u64,
            name,
            fingerprint,
            expires,
        }
    };
    let of = |authority: &nm_link::pki::Authority| info(authority.spki_sha256(), timestamp(authority.not_after()));
    let (next, previous, since, switch_by) = match &standing.rotation {
        Rotation::Settled => (None, None, None, None),
        Rotation::Introducing {
            since, switch_by, next, ..
        } => (Some(of(next)), None, Some(*since), Some(*switch_by)),
        Rotation::Renewing { since, previous, .. } => {
            let before = previous.describe().first().map(|(pin, ends)| info(*pin, timestamp(*ends)));
            (None, before, Some(*since), None)
        }
    };
    let now = app.clock.now();
    let waiting_for = match stage(&standing) {
        None => Vec::new(),
        Some((stage, new)) => identities
            .iter()
            .filter(|(_, identity)| {
                let node = node_of(identity.as_ref(), &new, since.unwrap_or(now));
                match stage {
                    Stage::Introducing { .. } => !node.trusts_new,
                    Stage::Renewing => node.on_old_until.is_some_and(|end| end >= now),
                }
            })
            .map(|(id, _)| id.clone())
            .take(NAMED)
            .collect(),
    };
    AuthorityView {
        phase: standing.phase(),
        current: of(&standing.current),
        next,
        previous,
        since,
        switch_by,
        waiting_for,
    }
}
