//! Gives a node's agent another executable, as an operation.
//!
//! The agent keeps what came of it under the operation's id. So the work begins with that question, after each break of the link
//! and after a crash of ours: it goes on from wherever the agent is, and starts no trial twice.

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::authority::{Authorities, pki, system_time};
use crate::service::binaries::{Binaries, Binary};
use crate::service::clock::SharedClock;
use crate::service::fleet::{Agent, CallError, Fleet, is_passing};
use crate::service::nodes::Nodes;
use crate::service::operations::{Finish, Operations, Outcome, Running};
use futures_util::StreamExt;
use http::{Method, StatusCode};
use nm_link::contract::{AgentErrorCode, BeginUpgrade, Release, UpgradeOutcome, UpgradePhase, UpgradeState, path};
use nm_store::Store;
use nm_types::NodeId;
use nm_types::operation::{OperationState, OperationView};
use nm_types::upgrade::{Platform, UpgradeNode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The kind of operation that upgrades a node.
pub const UPGRADE: &str = "node.upgrade";
/// For an executable to reach the node.
const SEND: Duration = Duration::from_secs(1800);
/// For a node to be back after a trial was begun: its own deadline is a minute, and it tries thrice.
const BACK: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    node: NodeId,
    force: bool,
}

/// The upgrades of all nodes. Cheap to clone.
#[derive(Clone)]
pub struct Upgrades {
    store: Store,
    clock: SharedClock,
    fleet: Fleet,
    nodes: Nodes,
    operations: Operations,
    authorities: Authorities,
    binaries: Binaries,
}

/// How far one attempt got.
enum Step {
    Finished(Finish),
    /// A trial has been begun, or runs: what comes of it is known when the node is back.
    Restarts,
}

fn failed(status: StatusCode, code: &str, message: impl Into<String>) -> Step {
    Step::Finished(Err(ApiError::new(status, code, message).into()))
}

fn succeeded(state: &UpgradeState) -> Step {
    let result = json!({ "version": state.version, "sha256": state.sha256 });
    Step::Finished(Ok(Outcome { result, end: None }))
}

impl Upgrades {
    pub fn new(
        store: Store,
        clock: SharedClock,
        fleet: Fleet,
        nodes: Nodes,
        operations: Operations,
        authorities: Authorities,
        binaries: Binaries,
    ) -> Self {
        Self {
            store,
            clock,
            fleet,
            nodes,
            operations,
            authorities,
            binaries,
        }
    }

    /// Begins to upgrade a node that is connected.
    pub async fn begin(&self, actor: &Actor, meta: &Meta, key: &str, how: UpgradeNode) -> ApiResult<OperationView> {
        let node = self.nodes.find(key)?;
        self.fleet.agent(&node)?;
        let (under_way, _) = self
            .operations
            .list(Some(node.as_str()), Some(OperationState::Running), None, 200)
            .await?;
        if let Some(other) = under_way.into_iter().find(|o| o.kind == UPGRADE) {
            let error = ApiError::conflict("upgrade_under_way", format!("node {node} is being upgraded already"));
            return Err(error.with_operation(other.id));
        }
        let input = Input {
            node: node.clone(),
            force: how.force,
        };
        let mut tx = self.store.begin(self.clock.now()).await?;
        let asked = serde_json::to_value(&input).unwrap_or_default();
        let operation = self.operations.create(&mut tx, actor, UPGRADE, Some(node.as_str()), asked).await?;
        tx.audit(audit(actor, meta, UPGRADE, Some(node.as_str()), json!({ "force": how.force })))
            .await?;
        tx.commit().await?;
        self.run(operation.clone(), input);
        Ok(operation)
    }

    /// Begins again an upgrade that a crash cut short.
    pub fn resume(&self, operation: OperationView, input: Value) -> ApiResult<()> {
        let input: Input = serde_json::from_value(input).map_err(|_| ApiError::internal())?;
        self.run(operation, input);
        Ok(())
    }

    fn run(&self, operation: OperationView, input: Input) {
        let this = self.clone();
        self.operations
            .run(operation, move |running| async move { this.work(running, input).await });
    }

    async fn work(&self, running: Running, input: Input) -> Finish {
        let cancelled = || Err(ApiError::conflict("cancelled", "it was cancelled before the node began").into());
        // Set once the node was told to begin: from then on the node's word ends it, or its silence.
        let mut restarts_since = None;
        loop {
            let connected = async {
                match restarts_since {
                    None => Some(self.fleet.connected(&input.node).await),
                    Some(since) => {
                        let left = BACK.saturating_sub(tokio::time::Instant::now().duration_since(since));
                        tokio::time::timeout(left, self.fleet.connected(&input.node)).await.ok()
                    }
                }
            };
            let agent = tokio::select! {
                agent = connected => agent,
                () = running.cancelled().cancelled(), if restarts_since.is_none() => return cancelled(),
            };
            let Some(agent) = agent else {
                let text = format!(
                    "node {} has not come back within {} minutes of its restart; what runs there is on the machine to see",
                    input.node,
                    BACK.as_secs() / 60
                );
                return Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, "node_not_back", text).into());
            };
            let attempt = async {
                tokio::select! {
                    step = self.attempt(&running, &input, &agent) => Some(step),
                    () = running.cancelled().cancelled(), if restarts_since.is_none() => None,
                }
            };
            match attempt.await {
                None => return cancelled(),
                Some(Ok(Step::Finished(finish))) => return finish,
                Some(Ok(Step::Restarts)) => {
                    let since = *restarts_since.get_or_insert_with(tokio::time::Instant::now);
                    let left = BACK.saturating_sub(tokio::time::Instant::now().duration_since(since));
                    // The link of what runs now ends with the next step of the trial.
                    if tokio::time::timeout(left, agent.link().closed()).await.is_err() {
                        let text = format!("node {} was told to restart and still runs what it ran", input.node);
                        return Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, "node_not_restarted", text).into());
                    }
                }
                Some(Err(CallError::Refused(error))) => {
                    let too_old = error.code == AgentErrorCode::Invalid && error.message.contains("no such path");
                    return Err(if too_old {
                        let text = format!(
                            "the agent of node {} is too old to be upgraded from here: install the new version there once",
                            input.node
                        );
                        ApiError::conflict("agent_too_old", text).into()
                    } else {
                        error.into()
                    });
                }
                Some(Err(CallError::Link { error, .. })) if is_passing(&error) => {
                    if restarts_since.is_none() {
                        running.log(format!("{}; going on once it is back", error.message));
                    }
                    agent.before_asking_again().await;
                }
                Some(Err(CallError::Link { error, .. })) => return Err(error.into()),
            }
        }
    }

    /// Goes on from where the agent is.
    async fn attempt(&self, running: &Running, input: &Input, agent: &Agent) -> Result<Step, CallError> {
        let state: UpgradeState = agent.get(path::UPGRADE).await?;
        let mine = |last: &&UpgradeOutcome| last.operation == *running.id();
        match state.last.as_ref().filter(mine).map(|last| (&last.phase, &last.sha256)) {
            Some((UpgradePhase::Done, wanted)) if *wanted == state.sha256 => return Ok(succeeded(&state)),
            Some((UpgradePhase::Done, _)) => {
                let text = format!("node {} says that it was upgraded, and runs another executable", input.node);
                return Ok(failed(StatusCode::CONFLICT, "upgrade_lost", text));
            }
            Some((UpgradePhase::RolledBack { reason }, _)) => {
                let text = format!(
                    "the new version did not come up, and node {} runs {} as before: {reason}",
                    input.node, state.version
                );
                return Ok(failed(StatusCode::CONFLICT, "upgrade_rolled_back", text));
            }
            Some((UpgradePhase::Trial, _)) => {
                running.log("the new version is linked, and is about to take over");
                return Ok(Step::Restarts);
            }
            None => {}
        }
        let picked = match Platform::of(&state.os, &state.arch) {
            Some(platform) => self.binaries.pick(platform).await,
            None => Ok(None),
        };
        let binary = match picked {
            Ok(Some(binary)) => binary,
            Ok(None) => {
                let text = format!(
                    "there is no executable for {}-{}: upload one by PUT /api/nodes/binaries/{0}-{1}",
                    state.os, state.arch
                );
                return Ok(failed(StatusCode::CONFLICT, "no_binary", text));
            }
            Err(error) => return Ok(Step::Finished(Err(error.into()))),
        };
        if binary.view.sha256 == state.sha256 {
            running.log(format!("the node runs version {} of this very build already", state.version));
            return Ok(succeeded(&state));
        }
        running.step("offer");
        running.log(format!("from version {} to {}", state.version, binary.view.version));
        let release = Release {
            operation: running.id().clone(),
            node: input.node.clone(),
            version: binary.view.version.to_string(),
            os: state.os,
            arch: state.arch,
            sha256: binary.view.sha256.clone(),
            size: binary.view.size,
            force: input.force,
        };
        let standing = self.authorities.standing();
        let text = serde_json::to_string(&release).unwrap_or_default();
        let signed = match standing.current.sign_release(text, system_time(self.clock.now())) {
            Ok(signed) => signed,
            Err(error) => return Ok(Step::Finished(Err(pki(error).into()))),
        };
        let offered: UpgradeState = agent.post(path::UPGRADE, &signed, Duration::ZERO).await?;
        if offered.staged.as_ref() != Some(&binary.view.sha256) {
            running.step("send");
            if let Err(step) = self.send(running, agent, &binary).await? {
                return Ok(step);
            }
        }
        running.step("start");
        let begin = BeginUpgrade {
            operation: running.id().clone(),
        };
        let begun: UpgradeState = match agent.post(path::UPGRADE_BEGIN, &begin, Duration::from_secs(20)).await {
            Ok(begun) => begun,
            // It restarts so soon that its answer was lost.
            Err(CallError::Link { sent: true, .. }) if !agent.link().is_open() => {
                running.step("restart");
                return Ok(Step::Restarts);
            }
            Err(error) => return Err(error),
        };
        if begun.last.as_ref().filter(mine).is_some_and(|l| l.phase == UpgradePhase::Done) {
            return Ok(succeeded(&begun));
        }
        running.step("restart");
        Ok(Step::Restarts)
    }

    async fn send(&self, running: &Running, agent: &Agent, binary: &Binary) -> Result<Result<(), Step>, CallError> {
        let file = match tokio::fs::File::open(&binary.path).await {
            Ok(file) => file,
            Err(error) => {
                tracing::error!(path = %binary.path.display(), %error, "an executable can't be read");
                return Ok(Err(Step::Finished(Err(ApiError::internal().into()))));
            }
        };
        let (size, sent, told) = (binary.view.size, Arc::new(AtomicU64::new(0)), running.clone());
        let chunks = tokio_util::io::ReaderStream::with_capacity(file, 1 << 17).map(move |chunk| {
            let chunk = chunk?;
            let before = sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            let now = before + chunk.len() as u64;
            let percent = |n: u64| n * 100 / size.max(1);
            if percent(now) != percent(before) {
                told.sent(now, size);
            }
            Ok::<_, std::io::Error>(hyper::body::Frame::data(chunk))
        });
        let body = http_body_util::StreamBody::new(chunks);
        let answer = agent
            .duplex(Method::PUT, path::UPGRADE, "application/octet-stream", body, SEND)
            .await?;
        let _taken: UpgradeState = agent.whole(answer).await?;
        Ok(Ok(()))
    }
}
