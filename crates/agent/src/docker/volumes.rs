//! Named volumes on the node: always Docker's `local` driver, never with options, which could bind any path of the node.

use super::Docker;
use super::client::{Call, DockerError, segment};
use super::wire::{Volume, VolumeBody, Volumes};
use nm_link::contract::{AgentError, AgentErrorCode as Code, CreateVolume, labels};
use nm_types::Timestamp;
use nm_types::text::VolumeName;
use nm_types::volume::VolumeView;
use std::collections::BTreeMap;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);

impl Docker {
    pub async fn volumes(&self) -> Result<Vec<VolumeView>, AgentError> {
        self.engine().await?;
        let all: Volumes = self
            .client
            .json(Call::get("list volumes", "/volumes").deadline(DEADLINE))
            .await
            .map_err(|e| self.explain(e))?;
        Ok(all.volumes.into_iter().map(|v| self.volume_view(v)).collect())
    }

    /// Makes a volume. Docker answers a second create with what is there: that is fine where we made it just so.
    pub async fn create_volume(&self, request: &CreateVolume) -> Result<VolumeView, AgentError> {
        self.engine().await?;
        let name = request.name.as_str();
        let mut wanted: BTreeMap<String, String> = request
            .labels
            .0
            .iter()
            .map(|(k, v)| (k.to_string(), v.as_str().to_owned()))
            .collect();
        wanted.insert(labels::NAME.to_owned(), name.to_owned());
        let call = Call::post("create a volume", "/volumes/create")
            .json(&VolumeBody {
                name,
                driver: "local",
                labels: &wanted,
            })
            .map_err(|e| self.explain(e))?;
        let permit = self.permit().await;
        let taken = || {
            AgentError::new(
                Code::NameTaken,
                format!("The node already has a volume named `{name}`, made otherwise: choose another name, or remove that one."),
            )
            .field("name")
        };
        let volume: Volume = self.client.json(call.deadline(DEADLINE)).await.map_err(|e| match e {
            DockerError::Refused { status: 409, .. } => taken(),
            e => self.explain(e),
        })?;
        drop(permit);
        if volume.labels != wanted || volume.driver != "local" || !volume.options.is_empty() {
            return Err(taken());
        }
        Ok(self.volume_view(volume))
    }

    /// `None` where there is none.
    pub(super) async fn volume(&self, name: &str) -> Result<Option<Volume>, DockerError> {
        let call = Call::get("look at a volume", format!("/volumes/{}", segment(name))).deadline(DEADLINE);
        match self.client.json(call).await {
            Ok(volume) => Ok(Some(volume)),
            Err(DockerError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where the files of a volume are on this machine. Not of one that is kept elsewhere, or made with options: these may bind
    /// any path of the node.
    pub async fn mountpoint(&self, name: &str) -> Result<String, AgentError> {
        let facts = self.engine().await?;
        let missing = || AgentError::new(Code::VolumeNotFound, format!("The node has no volume `{name}`."));
        let volume = self.volume(name).await.map_err(|e| self.explain(e))?.ok_or_else(missing)?;
        let refuse = |why: &str| {
            AgentError::new(
                Code::Forbidden,
                format!("The volume `{name}` can't be backed up or restored: {why}."),
            )
        };
        if volume.driver != "local" || !volume.options.is_empty() {
            return Err(refuse("its files are kept by another driver, or it was made with options"));
        }
        let real = tokio::task::spawn_blocking(move || {
            let root = std::fs::canonicalize(&facts.root_dir)?;
            std::fs::canonicalize(&volume.mountpoint).map(|real| (real.starts_with(&root), real))
        });
        match real.await {
            Ok(Ok((true, real))) => real
                .into_os_string()
                .into_string()
                .map_err(|_| refuse("its folder's name is not text")),
            Ok(Ok((false, _))) => Err(refuse("its folder leads out of Docker's own")),
            Ok(Err(e)) => Err(refuse(&format!("its folder is not to be seen from here ({e})"))),
            Err(e) => Err(AgentError::new(Code::Internal, format!("The agent failed: {e}."))),
        }
    }

    pub async fn remove_volume(&self, name: &str) -> Result<(), AgentError> {
        self.engine().await?;
        let missing = || AgentError::new(Code::VolumeNotFound, format!("The node has no volume `{name}`."));
        // Anonymous volumes have names of this form too.
        VolumeName::parse(name).map_err(|_| missing())?;
        self.change(Call::delete("remove a volume", format!("/volumes/{}", segment(name))).deadline(DEADLINE))
            .await
            .map_err(|e| match e {
                DockerError::Refused { status: 404, .. } => missing(),
                DockerError::Refused { status: 409, .. } => {
                    let users = self.volume_users(name);
                    let who = if users.is_empty() {
                        "a container".to_owned()
                    } else {
                        users.join(", ")
                    };
                    AgentError::new(Code::InUse, format!("The volume `{name}` is used by {who}: remove that first."))
                }
                e => self.explain(e),
            })
    }

    fn volume_users(&self, name: &str) -> Vec<String> {
        self.hub.names(|r| r.detail.volumes.iter().any(|v| v == name))
    }

    fn volume_view(&self, volume: Volume) -> VolumeView {
        VolumeView {
            used_by: self.volume_users(&volume.name),
            created: volume.created_at.as_deref().and_then(Timestamp::parse),
            labels: without_ours(volume.labels),
            name: volume.name,
            driver: volume.driver,
            mountpoint: volume.mountpoint,
            node_id: String::new(),
        }
    }
}

/// Labels as users see them: ours say nothing to them.
pub(super) fn without_ours(mut all: BTreeMap<String, String>) -> BTreeMap<String, String> {
    all.retain(|key, _| !key.starts_with(labels::PREFIX));
    all
}
