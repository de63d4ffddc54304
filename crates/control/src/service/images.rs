//! Images, volumes and networks: they live on the nodes and are asked for there.

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::clock::SharedClock;
use crate::service::containers::Containers;
use crate::service::fleet::{CallError, Fleet, is_passing};
use crate::service::nodes::Nodes;
use crate::service::operations::{Layers, Operations, Outcome, WAIT};
use crate::service::registries::Registries;
use futures_util::StreamExt;
use nm_link::contract::{CreateNetwork, CreateVolume, Membership, Name, Pull, RemoveImage, path};
use nm_store::Store;
use nm_types::NodeId;
use nm_types::image::{ImageView, Pruned, PullImage};
use nm_types::network::{NetworkView, NewNetwork};
use nm_types::operation::OperationView;
use nm_types::text::{ImageRef, NodeName};
use nm_types::volume::{NewVolume, VolumeView};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// The kind of operation that pulls an image.
pub const PULL: &str = "image.pull";

/// What a pull is begun again with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PullInput {
    node: NodeId,
    image: ImageRef,
}

/// How long one of many nodes may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long all of them together may hold up a list.
const PATIENCE_WITH_ALL: Duration = Duration::from_secs(15);
/// How many nodes are asked at once.
const AT_ONCE: usize = 64;
/// How many of those that did not answer are named.
const NAMED: usize = 10;

/// What nodes answered.
#[derive(Debug)]
pub struct Gathered<T> {
    pub rows: Vec<T>,
    /// The nodes that did not answer, by name: what they hold is not among the rows.
    silent: Vec<NodeName>,
}

impl<T> Gathered<T> {
    /// Which nodes did not answer, as a sentence; nothing where all did.
    pub fn gaps(&self) -> Option<String> {
        let names: Vec<&str> = self.silent.iter().take(NAMED).map(NodeName::as_str).collect();
        let more = match self.silent.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        (!names.is_empty()).then(|| {
            format!(
                "not in this list is what these nodes hold, for they did not answer: {}{more}",
                names.join(", ")
            )
        })
    }
}

/// What lies on nodes beside containers.
#[derive(Clone)]
pub struct Resources {
    store: Store,
    clock: SharedClock,
    fleet: Fleet,
    nodes: Nodes,
    operations: Operations,
    registries: Registries,
}

impl Resources {
    pub fn new(store: Store, clock: SharedClock, fleet: Fleet, nodes: Nodes, operations: Operations, registries: Registries) -> Self {
        Self {
            store,
            clock,
            fleet,
            nodes,
            operations,
            registries,
        }
    }

    /// The same question to one node, which must answer, or to every node at once, where those that answer do.
    async fn gather<T: DeserializeOwned>(&self, node: Option<&str>, path: &str, place: impl Fn(&mut T, &NodeId)) -> ApiResult<Gathered<T>> {
        let placed = |(id, rows): (NodeId, Vec<T>)| {
            rows.into_iter()
                .map(|mut row| {
                    place(&mut row, &id);
                    row
                })
                .collect::<Vec<T>>()
        };
        if let Some(key) = node {
            let (id, agent) = self.nodes.agent(Some(key), false)?;
            let rows = agent.get(path).await?;
            return Ok(Gathered {
                rows: placed((id, rows)),
                silent: Vec::new(),
            });
        }
        let nodes: Vec<(NodeId, NodeName)> = self.nodes.list().into_iter().map(|(n, _)| (n.id, n.name)).collect();
        if nodes.is_empty() {
            self.nodes.choose(None)?;
        }
        let last = Instant::now() + PATIENCE_WITH_ALL;
        let asking = nodes.into_iter().map(|(id, name)| async move {
            let answer = match self.fleet.agent(&id) {
                Ok(agent) => match tokio::time::timeout_at(last.min(Instant::now() + PATIENCE), agent.get::<Vec<T>>(path)).await {
                    Ok(answer) => answer.map_err(ApiError::from),
                    Err(_) => Err(ApiError::unavailable("node_timeout", format!("node {name} did not answer in time"))),
                },
                Err(offline) => Err(offline),
            };
            (id, name, answer)
        });
        let mut answers = futures_util::stream::iter(asking).buffer_unordered(AT_ONCE);
        let (mut heard, mut silent, mut first) = (Vec::new(), Vec::new(), None);
        while let Some((id, name, answer)) = answers.next().await {
            match answer {
                Ok(rows) => heard.push((id, rows)),
                Err(error) => {
                    tracing::info!(node.id = %id, path, error = %error.message, "a node did not answer; what the others say is answered");
                    silent.push(name);
                    first.get_or_insert(error);
                }
            }
        }
        match first {
            // An empty list would say that there is nothing.
            Some(error) if heard.is_empty() => Err(error),
            Some(_) | None => {
                silent.sort_unstable();
                Ok(Gathered {
                    rows: heard.into_iter().flat_map(placed).collect(),
                    silent,
                })
            }
        }
    }

    async fn noted(&self, actor: &Actor, meta: &Meta, action: &str, target: &str, detail: Value) -> ApiResult<()> {
        let mut tx = self.store.begin(self.clock.now()).await?;
        tx.audit(audit(actor, meta, action, Some(target), detail)).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Writes to the audit log, then asks the node.
    #[expect(clippy::too_many_arguments, reason = "who, what, where and how of one action")]
    async fn act<T: DeserializeOwned>(
        &self,
        actor: &Actor,
        meta: &Meta,
        node: Option<&str>,
        action: &str,
        target: &str,
        path: &str,
        body: &impl Serialize,
    ) -> ApiResult<(NodeId, T)> {
        let (id, agent) = self.nodes.agent(node, false)?;
        self.noted(actor, meta, action, target, json!({ "node": id })).await?;
        let answer = agent.post(path, body, Duration::from_secs(100)).await?;
        Ok((id, answer))
    }

    pub async fn images(&self, node: Option<&str>) -> ApiResult<Gathered<ImageView>> {
        self.gather(node, path::IMAGES, |image: &mut ImageView, id| image.node_id = id.to_string())
            .await
    }

    /// Pulls an image as an operation; waits for it as long as a request waits.
    pub async fn pull(&self, actor: &Actor, meta: &Meta, pull: PullImage) -> ApiResult<OperationView> {
        let image = match pull.tag {
            None => pull.name,
            Some(tag) => {
                let joined = format!("{}:{}", pull.name, tag.as_str());
                ImageRef::parse(&joined).map_err(|_| {
                    ApiError::conflict("image_named_twice", "the name has a tag or digest already: leave `tag` out").field("tag")
                })?
            }
        };
        self.registries.may_ask_for(&image, "name")?;
        let (node, _) = self.nodes.agent(pull.node_id.as_deref(), false)?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        let input = PullInput { node: node.clone(), image };
        let operation = self
            .operations
            .create(
                &mut tx,
                actor,
                PULL,
                Some(node.as_str()),
                serde_json::to_value(&input).unwrap_or_default(),
            )
            .await?;
        tx.audit(audit(actor, meta, PULL, Some(input.image.as_str()), json!({ "node": node })))
            .await?;
        tx.commit().await?;
        let id = operation.id.clone();
        self.run_pull(operation, input);
        let wait = if meta.respond_async { Duration::ZERO } else { WAIT };
        let view = self.operations.wait(&id, wait).await?;
        match view.error {
            Some(error) => Err(ApiError::from(error).with_operation(view.id)),
            None => Ok(view),
        }
    }

    /// Begins again a pull that a crash cut short.
    pub fn resume_pull(&self, operation: OperationView, input: Value) -> ApiResult<()> {
        let input: PullInput = serde_json::from_value(input).map_err(|_| ApiError::internal())?;
        self.run_pull(operation, input);
        Ok(())
    }

    fn run_pull(&self, operation: OperationView, input: PullInput) {
        let this = self.clone();
        self.operations.run(operation, move |running| async move {
            let registry = this.registries.login_for(&input.image).await?;
            let command = Pull { image: input.image, registry };
            let mut layers = Layers::default();
            loop {
                let attempt = async {
                    let agent = this.fleet.connected(&input.node).await;
                    let result = agent.progress::<ImageView>(path::PULL, &command, |line| running.follow(&mut layers, line)).await;
                    (agent, result)
                };
                let (agent, result) = tokio::select! {
                    done = attempt => done,
                    () = running.cancelled().cancelled() => return Err(ApiError::conflict("cancelled", "the pull was cancelled").into()),
                };
                match result {
                    Ok(mut image) => {
                        image.node_id = input.node.to_string();
                        return Ok(Outcome {
                            result: serde_json::to_value(&image).unwrap_or_default(),
                            end: None,
                        });
                    }
                    // A pull can be asked for again at any time: layers that are there stay.
                    Err(CallError::Link { error, .. }) if is_passing(&error) => {
                        running.log(format!("{}; pulling again once it is back", error.message));
                        tokio::select! {
                            () = agent.before_asking_again() => {}
                            () = running.cancelled().cancelled() => return Err(ApiError::conflict("cancelled", "the pull was cancelled").into()),
                        }
                    }
                    Err(error) => return Err(ApiError::from(error).into()),
                }
            }
        });
    }

    /// Whether a node has an image of this name.
    pub async fn has_image(&self, node: &NodeId, name: &str) -> ApiResult<bool> {
        let images: Vec<ImageView> = self.fleet.connected(node).await.get(path::IMAGES).await?;
        Ok(images.iter().any(|i| i.tags.iter().any(|t| t == name)))
    }
    /// Gives a node an image as `docker save` writes it; answers with its names.
    pub async fn load_image(&self, node: &NodeId, archive: tokio::fs::File) -> ApiResult<Vec<String>> {
        let stream = tokio_util::io::ReaderStream::with_capacity(archive, 1 << 18).map(|chunk| chunk.map(hyper::body::Frame::data));
        let agent = self.fleet.agent(node)?;
        let answer = agent
            .duplex(
                http::Method::POST,
                path::LOAD,
                "application/x-tar",
                http_body_util::StreamBody::new(stream),
                Duration::from_secs(300),
            )
            .await?;
        Ok(agent.whole(answer).await?)
    }

    pub async fn remove_image(&self, actor: &Actor, meta: &Meta, node: Option<&str>, image: String, force: bool) -> ApiResult<()> {
        let target = image.clone();
        self.act::<Value>(
            actor,
            meta,
            node,
            "image.remove",
            &target,
            path::IMAGE_REMOVE,
            &RemoveImage { image, force },
        )
        .await?;
        Ok(())
    }
    pub async fn prune_images(&self, actor: &Actor, meta: &Meta, node: Option<&str>) -> ApiResult<Pruned> {
        Ok(self
            .act(actor, meta, node, "image.prune", "images", path::IMAGES_PRUNE, &json!({}))
            .await?
            .1)
    }

    pub async fn volumes(&self, node: Option<&str>) -> ApiResult<Gathered<VolumeView>> {
        self.gather(node, path::VOLUMES, |volume: &mut VolumeView, id| volume.node_id = id.to_string())
            .await
    }
    pub async fn create_volume(&self, actor: &Actor, meta: &Meta, new: NewVolume) -> ApiResult<VolumeView> {
        let body = CreateVolume {
            name: new.name,
            labels: new.labels,
        };
        let (id, mut volume): (_, VolumeView) = self
            .act(
                actor,
                meta,
                new.node_id.as_deref(),
                "volume.create",
                body.name.as_str(),
                path::VOLUME_CREATE,
                &body,
            )
            .await?;
        volume.node_id = id.to_string();
        Ok(volume)
    }
    pub async fn remove_volume(&self, actor: &Actor, meta: &Meta, node: Option<&str>, name: String) -> ApiResult<()> {
        let target = name.clone();
        self.act::<Value>(actor, meta, node, "volume.remove", &target, path::VOLUME_REMOVE, &Name { name })
            .await?;
        Ok(())
    }

    pub async fn networks(&self, node: Option<&str>) -> ApiResult<Gathered<NetworkView>> {
        self.gather(node, path::NETWORKS, |network: &mut NetworkView, id| {
            network.node_id = id.to_string()
        })
        .await
    }
    pub async fn create_network(&self, actor: &Actor, meta: &Meta, new: NewNetwork) -> ApiResult<NetworkView> {
        let body = CreateNetwork {
            name: new.name,
            internal: new.internal,
            labels: new.labels,
        };
        let (id, mut network): (_, NetworkView) = self
            .act(
                actor,
                meta,
                new.node_id.as_deref(),
                "network.create",
                body.name.as_str(),
                path::NETWORK_CREATE,
                &body,
            )
            .await?;
        network.node_id = id.to_string();
        Ok(network)
    }
    pub async fn remove_network(&self, actor: &Actor, meta: &Meta, node: Option<&str>, name: String) -> ApiResult<()> {
        let target = name.clone();
        self.act::<Value>(actor, meta, node, "network.remove", &target, path::NETWORK_REMOVE, &Name { name })
            .await?;
        Ok(())
    }
    /// Puts a container on a network of its own node, or takes it off.
    pub async fn membership(
        &self,
        actor: &Actor,
        meta: &Meta,
        containers: &Containers,
        network: String,
        container: &str,
        attach: bool,
    ) -> ApiResult<()> {
        let (record, agent) = containers.reach(container)?;
        let (action, route) = if attach {
            ("network.attach", path::NETWORK_ATTACH)
        } else {
            ("network.detach", path::NETWORK_DETACH)
        };
        self.noted(actor, meta, action, &network, json!({ "container": record.id })).await?;
        let key = match (record.managed(), record.docker_id()) {
            (false, Some(docker_id)) => docker_id.to_owned(),
            (true, _) | (false, None) => record.id.to_string(),
        };
        agent
            .post::<Value>(route, &Membership { network, container: key }, Duration::from_secs(10))
            .await?;
        Ok(())
    }
}
