//! Changes to a container that is there. Each may be asked for twice: what is so already is fine.

use super::client::{Call, DockerError};
use super::create::within_limits;
use super::hub::{Record, now};
use super::observe::policy_text;
use super::wire::{RestartPolicy, UpdateBody};
use super::{Docker, acquire, explain};
use crate::fence::Desired;
use nm_link::contract::{Action, AgentError, AgentErrorCode as Code, Command, ContainerKey, RemoveContainer};
use nm_types::container::{ContainerStatus, ContainerUpdate, ObservedContainer, Signal};
use nm_types::text::ContainerName;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);
/// What a stop may take beyond its grace: killing, and taking the network down.
const AFTER_GRACE: Duration = Duration::from_secs(60);

impl Docker {
    /// Carries out one command, and answers with the container as it is then.
    pub async fn command(&self, key: &ContainerKey, command: Command) -> Result<ObservedContainer, AgentError> {
        let record = self.resolve(key).await?;
        self.fence(&record, &command)?;
        let id = record.observed.docker_id.as_str();
        match command.action {
            Action::Start => return self.start(&record).await,
            Action::Stop { grace } => self.stop(&record, grace).await?,
            Action::Restart { grace } => return self.restart(&record, grace).await,
            Action::Pause => self.pause(&record).await?,
            Action::Unpause => self.unpause(&record).await?,
            Action::Kill { signal } => self.kill(&record, signal).await?,
            Action::Rename { name } => self.rename(&record, &name).await?,
            Action::Update(update) => self.update(&record, &update).await?,
        }
        Ok(self.look_after(id).await?.observed)
    }

    /// Containers of ours carry the generation of their spec; others have none.
    fn fence(&self, record: &Record, command: &Command) -> Result<(), AgentError> {
        let Some(id) = &record.observed.id else { return Ok(()) };
        let shown = ContainerName::parse(&record.observed.name);
        // An id itself is no name; with a letter before it, it is one.
        let fallback = ContainerName::parse(&format!("c-{id}")).map_err(|e| AgentError::new(Code::Internal, e.to_string()))?;
        self.fence.accept(id, command.generation, now(), |held| {
            let name = held.map(|h| h.name.clone()).or(shown.ok()).unwrap_or(fallback);
            let desired = held.map_or(Desired::Running, |h| h.desired);
            match &command.action {
                Action::Start | Action::Restart { .. } | Action::Unpause => (Desired::Running, name),
                Action::Stop { .. } => (Desired::Stopped, name),
                Action::Kill { signal } if ends(*signal) => (Desired::Stopped, name),
                Action::Kill { .. } | Action::Update(_) => (desired, name),
                Action::Pause => (Desired::Paused, name),
                Action::Rename { name } => (desired, name.clone()),
            }
        })
    }

    /// What was asked of a container of ours last.
    pub fn wanted(&self, record: &Record) -> Option<Desired> {
        let id = record.observed.id.as_ref()?;
        self.fence.get(id).map(|held| held.desired)
    }

    /// The generation of the newest command for a container of ours.
    pub fn commanded(&self, record: &Record) -> Option<i64> {
        let id = record.observed.id.as_ref()?;
        self.fence.get(id).map(|held| held.generation)
    }

    async fn look_after(&self, docker_id: &str) -> Result<Record, AgentError> {
        let seen = self.look_now(docker_id).await.map_err(|e| self.explain(e))?;
        seen.ok_or_else(|| AgentError::new(Code::ContainerNotFound, "The container is gone: somebody removed it meanwhile."))
    }

    pub async fn start(&self, record: &Record) -> Result<ObservedContainer, AgentError> {
        let id = &record.observed.docker_id;
        if record.observed.status == ContainerStatus::Running {
            return Ok(record.observed.clone());
        }
        self.recheck(record).await?;
        let _busy = self.hub.busy(id);
        let _permit = self.permit().await;
        self.start_now(id, None).await?;
        Ok(self.look_after_start(id, true).await?.observed)
    }

    pub async fn stop(&self, record: &Record, grace: Option<i64>) -> Result<(), AgentError> {
        let grace = checked_grace(record, grace)?;
        let id = &record.observed.docker_id;
        let call = Call::post("stop a container", format!("/containers/{id}/stop"))
            .query("t", grace.to_string())
            .deadline(Duration::from_secs(grace) + AFTER_GRACE);
        let runs = matches!(record.observed.status, ContainerStatus::Running | ContainerStatus::Paused);
        let _permit = acquire(&self.stops).await;
        if runs {
            self.hub.ask_to_end(id, true);
        }
        let result = self.client.done(call).await;
        if result.is_err() && runs {
            self.hub.ask_to_end(id, false);
        }
        result.map_err(|e| self.explain(e))
    }

    async fn restart(&self, record: &Record, grace: Option<i64>) -> Result<ObservedContainer, AgentError> {
        let grace = checked_grace(record, grace)?;
        self.recheck(record).await?;
        let id = &record.observed.docker_id;
        let call = Call::post("restart a container", format!("/containers/{id}/restart"))
            .query("t", grace.to_string())
            .deadline(Duration::from_secs(grace) + AFTER_GRACE);
        let _permit = acquire(&self.stops).await;
        match self.client.done(call).await {
            Ok(()) => Ok(self.look_after_start(id, true).await?.observed),
            Err(DockerError::Refused { status, message }) => Err(match explain::taken_port(&message) {
                Some(port) => AgentError::new(
                    Code::PortInUse,
                    format!("Port {port} of the node is already in use: choose another host port, or 0 to have one chosen."),
                ),
                None => explain::refused(status, &message),
            }),
            Err(e) => Err(self.explain(e)),
        }
    }

    pub async fn pause(&self, record: &Record) -> Result<(), AgentError> {
        match self
            .change(Call::post("pause a container", format!("/containers/{}/pause", record.observed.docker_id)).deadline(DEADLINE))
            .await
        {
            Err(DockerError::Refused { message, .. }) if message.contains("already paused") => Ok(()),
            other => other.map_err(|e| self.plain(record, e)),
        }
    }

    pub async fn unpause(&self, record: &Record) -> Result<(), AgentError> {
        match self
            .change(Call::post("unpause a container", format!("/containers/{}/unpause", record.observed.docker_id)).deadline(DEADLINE))
            .await
        {
            Err(DockerError::Refused { message, .. }) if message.contains("is not paused") => {
                // Not paused is fine where it runs.
                match self.look_after(&record.observed.docker_id).await?.observed.status {
                    ContainerStatus::Running | ContainerStatus::Paused => Ok(()),
                    ContainerStatus::Created | ContainerStatus::Stopped | ContainerStatus::Exited => Err(not_running(record)),
                }
            }
            other => other.map_err(|e| self.plain(record, e)),
        }
    }

    async fn kill(&self, record: &Record, signal: Signal) -> Result<(), AgentError> {
        let id = &record.observed.docker_id;
        let call = Call::post("send a container a signal", format!("/containers/{id}/kill"))
            .query("signal", signal.as_str())
            .deadline(DEADLINE);
        match self.change(call).await {
            // It has ended, which is what such a signal is for.
            Err(DockerError::Refused { message, .. }) if message.contains("is not running") && ends(signal) => Ok(()),
            Err(e) => Err(self.plain(record, e)),
            // The signal is sent, not yet served: a kill is waited for, so that the answer shows its end.
            Ok(()) if signal == Signal::Kill => {
                let wait = Call::post("wait for a container's end", format!("/containers/{id}/wait")).deadline(DEADLINE);
                self.client.done(wait).await.map_err(|e| self.explain(e))
            }
            Ok(()) => Ok(()),
        }
    }

    async fn rename(&self, record: &Record, name: &ContainerName) -> Result<(), AgentError> {
        if record.observed.name == name.as_str() {
            return Ok(());
        }
        let call = Call::post("rename a container", format!("/containers/{}/rename", record.observed.docker_id))
            .query("name", name.docker_name())
            .deadline(DEADLINE);
        match self.change(call).await {
            Err(DockerError::Refused { message, .. }) if message.contains("same name as its current name") => Ok(()),
            Err(DockerError::Refused { message, .. }) if message.contains("is already in use by container") => Err(AgentError::new(
                Code::NameTaken,
                format!(
                    "The node already has a container named `{}`: choose another name.",
                    name.docker_name()
                ),
            )
            .field("name")),
            other => other.map_err(|e| self.plain(record, e)),
        }
    }

    async fn update(&self, record: &Record, update: &ContainerUpdate) -> Result<(), AgentError> {
        let facts = self.engine().await?;
        within_limits(update.cpu_limit, update.memory_limit.as_ref(), &facts)?;
        let memory = update.memory_limit.as_ref().map(|m| m.bytes());
        let body = UpdateBody {
            nano_cpus: update.cpu_limit.map(|c| c.nano_cpus()),
            memory,
            // As Docker sets it at creation: as much swap as memory. Left as it was, a higher limit would be refused.
            memory_swap: memory.and_then(|m| i64::try_from(m.saturating_mul(2)).ok()),
            restart_policy: update.restart.map(|p| RestartPolicy { name: policy_text(p) }),
            cpuset_cpus: None,
        };
        let call = Call::post(
            "change a container's limits",
            format!("/containers/{}/update", record.observed.docker_id),
        )
        .json(&body)
        .map_err(|e| self.explain(e))?;
        self.change(call.deadline(DEADLINE)).await.map_err(|e| match &e {
            DockerError::Refused { message, .. } if message.contains("device or resource busy") => AgentError::new(
                Code::Invalid,
                format!(
                    "`{}` uses more memory now than the new limit: choose a higher one, or restart it first.",
                    record.observed.name
                ),
            )
            .field("memoryLimit"),
            _ => self.plain(record, e),
        })
    }

    /// Removes it; one that is gone is removed already.
    pub async fn remove(&self, key: &ContainerKey, request: RemoveContainer) -> Result<(), AgentError> {
        let _lock = match key {
            ContainerKey::Ours(id) => Some(self.locks.lock(id).await),
            ContainerKey::Docker(_) => None,
        };
        let record = match self.resolve(key).await {
            Ok(record) => record,
            Err(e) if e.code == Code::ContainerNotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        let id = &record.observed.docker_id;
        let call = Call::delete("remove a container", format!("/containers/{id}"))
            .flag("force", request.force)
            .flag("v", request.volumes)
            .deadline(Duration::from_secs(120));
        match self.change(call).await {
            Ok(()) | Err(DockerError::Refused { status: 404, .. }) => {}
            // Somebody else removes it right now.
            Err(DockerError::Refused { message, .. }) if message.contains("already in progress") => {
                if tokio::time::timeout(DEADLINE, self.hub.wait_removed(id)).await.is_err() {
                    return Err(AgentError::new(
                        Code::Timeout,
                        format!("The removal of `{}`, begun by others, takes too long.", record.observed.name),
                    ));
                }
            }
            Err(DockerError::Refused { status: 409, message }) if message.to_ascii_lowercase().contains("cannot remove") => {
                let state = if message.contains("paused") { "is paused" } else { "is running" };
                return Err(AgentError::new(
                    Code::InUse,
                    format!("`{}` {state}: stop it first, or remove it with force=true.", record.observed.name),
                ));
            }
            Err(e) => return Err(self.plain(&record, e)),
        }
        self.hub.removed(id);
        Ok(())
    }

    /// Docker's refusal, with the container's name where Docker has 64 hex digits.
    pub(super) fn plain(&self, record: &Record, error: DockerError) -> AgentError {
        let error = self.explain(error);
        match error.code {
            Code::NotRunning => not_running(record),
            Code::Paused => AgentError::new(Code::Paused, format!("`{}` is paused: unpause it first.", record.observed.name)),
            _ => error,
        }
    }
}

fn not_running(record: &Record) -> AgentError {
    AgentError::new(
        Code::NotRunning,
        format!("`{}` does not run: start it first.", record.observed.name),
    )
}

/// Seconds between the stop signal and the kill.
fn checked_grace(record: &Record, grace: Option<i64>) -> Result<u64, AgentError> {
    let grace = grace.unwrap_or(record.detail.stop_timeout);
    match u64::try_from(grace) {
        Ok(grace @ 0..=3600) => Ok(grace),
        _ => Err(AgentError::new(Code::Invalid, "grace is a number of seconds from 0 to 3600.").field("grace")),
    }
}

fn ends(signal: Signal) -> bool {
    match signal {
        Signal::Kill | Signal::Term | Signal::Int | Signal::Quit => true,
        Signal::Hup | Signal::Usr1 | Signal::Usr2 | Signal::Winch => false,
    }
}
