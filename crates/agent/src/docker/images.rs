//! Images on the node.

use super::Docker;
use super::client::{Call, DockerError, RequestBody, segment};
use super::wire::{Image, LoadLine, PruneReport};
use crate::progress::Reporter;
use futures_util::StreamExt;
use nm_link::contract::{AgentError, AgentErrorCode as Code, Pull, RemoveImage};
use nm_types::Timestamp;
use nm_types::image::{ImageView, Pruned};
use nm_types::text::ImageRef;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(600);

impl Docker {
    pub async fn images(&self) -> Result<Vec<ImageView>, AgentError> {
        self.engine().await?;
        let images: Vec<Image> = self
            .client
            .json(Call::get("list images", "/images/json"))
            .await
            .map_err(|e| self.explain(e))?;
        let uses = self.hub.image_uses();
        Ok(images.into_iter().map(|image| view(image, &uses)).collect())
    }

    /// Pulls, and answers with the image.
    pub async fn pull_image(&self, request: &Pull, report: &Reporter<ImageView>) -> Result<ImageView, AgentError> {
        self.engine().await?;
        report.step("pull").await;
        self.pull(&request.image, request.registry.as_ref(), report).await?;
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Inspected {
            id: String,
        }
        let name = request.image.with_tag();
        let call = Call::get("describe an image", format!("/images/{}/json", segment(&name)));
        let pulled: Inspected = self.client.json(call).await.map_err(|e| self.explain(e))?;
        let gone = || {
            AgentError::new(
                Code::ImageNotFound,
                format!("`{name}` was pulled and is gone again: it was removed meanwhile."),
            )
        };
        self.images().await?.into_iter().find(|i| i.id == pulled.id).ok_or_else(gone)
    }

    /// Loads what `docker save` wrote; gives the names of what was loaded.
    pub async fn load_images(&self, body: RequestBody) -> Result<Vec<String>, AgentError> {
        self.engine().await?;
        let call = Call::post("load images", "/images/load")
            .query("quiet", "1")
            .tar(body)
            .deadline(LONG);
        let failed = |message: &str| match message {
            m if m.contains("no space left on device") => super::explain::refused(500, m),
            m => AgentError::new(
                Code::Invalid,
                format!("What was sent is not an image archive as `docker save` writes it: {}.", m.trim()),
            ),
        };
        let translate = |e: DockerError| match e {
            DockerError::Refused { message, .. } => failed(&message),
            e => self.explain(e),
        };
        let mut lines = self.client.lines::<LoadLine>(call).await.map_err(translate)?;
        let mut names = Vec::new();
        while let Some(line) = lines.next().await {
            let line = line.map_err(translate)?;
            if let Some(error) = line.error {
                return Err(failed(&error));
            }
            for text in line.stream.lines() {
                if let Some(name) = text
                    .strip_prefix("Loaded image: ")
                    .or_else(|| text.strip_prefix("Loaded image ID: "))
                {
                    names.push(name.trim().to_owned());
                }
            }
        }
        if names.is_empty() {
            return Err(failed("it holds no image"));
        }
        Ok(names)
    }

    pub async fn remove_image(&self, request: &RemoveImage) -> Result<(), AgentError> {
        self.engine().await?;
        let name = &request.image;
        let id = name
            .strip_prefix("sha256:")
            .is_some_and(|hex| (6..=64).contains(&hex.len()) && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if !id {
            ImageRef::parse(name).map_err(|e| AgentError::new(Code::Invalid, format!("{e}.")).field("image"))?;
        }
        let call = Call::delete("remove an image", format!("/images/{}", segment(name)))
            .flag("force", request.force)
            .deadline(LONG);
        self.change(call).await.map_err(|e| match e {
            DockerError::Refused { status: 404, .. } => AgentError::new(Code::ImageNotFound, format!("The node has no image `{name}`.")),
            DockerError::Refused { status: 409, message } => {
                let users = self.image_users(&message);
                let text = if message.contains("multiple repositories") {
                    format!("`{name}` has several names: remove them one by one, or use force=true.")
                } else if message.contains("dependent child") {
                    format!("Other images are built on `{name}`: remove those first.")
                } else if message.contains("cannot be forced") {
                    format!("`{name}` is used by {users}, which runs: remove the container first.")
                } else {
                    format!("`{name}` is used by {users}: remove the container first, or use force=true.")
                };
                AgentError::new(Code::InUse, text)
            }
            e => self.explain(e),
        })
    }

    /// The container that Docker names by the start of its id: `… container f149cf17cdad is using …`.
    fn image_users(&self, message: &str) -> String {
        let id = message
            .split("container ")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next())
            .unwrap_or_default();
        let names = if id.len() >= 12 {
            self.hub.names(|r| r.observed.docker_id.starts_with(id))
        } else {
            Vec::new()
        };
        names
            .first()
            .map_or_else(|| "a container".to_owned(), |name| format!("the container `{name}`"))
    }

    /// Removes images that no container uses and no name points to.
    pub async fn prune_images(&self) -> Result<Pruned, AgentError> {
        self.engine().await?;
        let filters = serde_json::json!({ "dangling": ["true"] }).to_string();
        let call = Call::post("prune images", "/images/prune").query("filters", filters).deadline(LONG);
        let _permit = self.permit().await;
        let report: PruneReport = self.client.json(call).await.map_err(|e| match e {
            DockerError::Refused { message, .. } if message.contains("already running") => {
                AgentError::new(Code::InUse, "Images are being pruned already: wait for that.")
            }
            e => self.explain(e),
        })?;
        Ok(Pruned {
            removed: report.images_deleted.into_iter().filter_map(|d| d.untagged.or(d.deleted)).collect(),
            freed: report.space_reclaimed,
        })
    }
}

fn view(image: Image, uses: &std::collections::HashMap<String, u64>) -> ImageView {
    ImageView {
        containers: uses.get(&image.id).copied().unwrap_or(0),
        // Docker's word for "no name".
        tags: image.repo_tags.into_iter().filter(|t| t != "<none>:<none>").collect(),
        size: u64::try_from(image.size).unwrap_or(0),
        created: Timestamp(image.created.saturating_mul(1000)),
        id: image.id,
        node_id: String::new(),
    }
}
