//! Networks on the node.

use super::Docker;
use super::client::{Call, DockerError, segment};
use super::volumes::without_ours;
use super::wire::{ConnectBody, DisconnectBody, Network, NetworkBody};
use nm_link::contract::{AgentError, AgentErrorCode as Code, ContainerKey, CreateNetwork, Membership, labels};
use nm_types::Timestamp;
use nm_types::network::NetworkView;
use nm_types::text::NetworkName;
use std::collections::BTreeMap;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);
/// Docker's own, which are always there.
const BUILT_IN: [&str; 3] = ["bridge", "host", "none"];

impl Docker {
    pub async fn networks(&self) -> Result<Vec<NetworkView>, AgentError> {
        self.engine().await?;
        let all: Vec<Network> = self
            .client
            .json(Call::get("list networks", "/networks").deadline(DEADLINE))
            .await
            .map_err(|e| self.explain(e))?;
        Ok(all.into_iter().map(|n| self.network_view(n)).collect())
    }

    /// Makes a bridge network; one that we made just so is answered as it is.
    pub async fn create_network(&self, request: &CreateNetwork) -> Result<NetworkView, AgentError> {
        self.engine().await?;
        let name = request.name.as_str();
        let mut wanted: BTreeMap<String, String> = request
            .labels
            .0
            .iter()
            .map(|(k, v)| (k.to_string(), v.as_str().to_owned()))
            .collect();
        wanted.insert(labels::NAME.to_owned(), name.to_owned());
        let body = NetworkBody {
            name,
            check_duplicate: true,
            driver: "bridge",
            internal: request.internal,
            labels: &wanted,
        };
        let call = Call::post("create a network", "/networks/create")
            .json(&body)
            .map_err(|e| self.explain(e))?;
        let created = self.change(call.deadline(DEADLINE)).await;
        let taken = || {
            AgentError::new(
                Code::NameTaken,
                format!("The node already has a network named `{name}`, made otherwise: choose another name, or remove that one."),
            )
            .field("name")
        };
        match created {
            Ok(()) => {}
            Err(DockerError::Refused { status: 409, .. }) => {}
            Err(DockerError::Refused { status: 403, .. }) => return Err(taken()),
            Err(e) => {
                let error = self.explain(e);
                return Err(match error.code {
                    Code::InsufficientResources => AgentError::new(
                        error.code,
                        "Docker has no addresses left for another network: remove networks that are not used, or give the engine more with `default-address-pools`.",
                    ),
                    _ => error,
                });
            }
        }
        let network = self.inspect_network(name).await?.ok_or_else(|| not_found(name))?;
        if network.labels != wanted || network.internal != request.internal {
            return Err(taken());
        }
        Ok(self.network_view(network))
    }

    pub async fn remove_network(&self, name: &str) -> Result<(), AgentError> {
        self.engine().await?;
        let name = checked(name)?;
        if BUILT_IN.contains(&name) {
            return Err(AgentError::new(
                Code::Forbidden,
                format!("`{name}` is one of Docker's own networks and can't be removed."),
            ));
        }
        self.known_network(name).await?;
        self.change(Call::delete("remove a network", format!("/networks/{}", segment(name))).deadline(DEADLINE))
            .await
            .map_err(|e| match e {
                DockerError::Refused { status: 404, .. } => not_found(name),
                DockerError::Refused { message, .. } if message.contains("active endpoints") => {
                    let users = self.members(name);
                    let who = if users.is_empty() {
                        "containers".to_owned()
                    } else {
                        users.join(", ")
                    };
                    AgentError::new(
                        Code::InUse,
                        format!("The network `{name}` is used by {who}: detach or remove that first."),
                    )
                }
                e => self.explain(e),
            })
    }

    /// Attaching what is attached is fine.
    pub async fn attach(&self, membership: &Membership) -> Result<(), AgentError> {
        let (network, docker_id) = self.member(membership).await?;
        let body = ConnectBody {
            container: &docker_id,
            endpoint_config: None,
        };
        let call = Call::post("attach a container to a network", format!("/networks/{}/connect", segment(network)))
            .json(&body)
            .map_err(|e| self.explain(e))?;
        match self.change(call.deadline(DEADLINE)).await {
            Err(DockerError::Refused { message, .. })
                if message.contains("already exists in network") || message.contains("is already attached to network") =>
            {
                Ok(())
            }
            Err(e) => Err(network_error(network, self.explain(e))),
            Ok(()) => self.look_now(&docker_id).await.map(drop).map_err(|e| self.explain(e)),
        }
    }

    /// Detaching what is not attached is fine.
    pub async fn detach(&self, membership: &Membership) -> Result<(), AgentError> {
        let (network, docker_id) = self.member(membership).await?;
        let call = Call::post(
            "detach a container from a network",
            format!("/networks/{}/disconnect", segment(network)),
        )
        .json(&DisconnectBody { container: &docker_id })
        .map_err(|e| self.explain(e))?;
        match self.change(call.deadline(DEADLINE)).await {
            Err(DockerError::Refused { message, .. }) if message.contains("is not connected to") => Ok(()),
            Err(e) => Err(network_error(network, self.explain(e))),
            Ok(()) => self.look_now(&docker_id).await.map(drop).map_err(|e| self.explain(e)),
        }
    }

    async fn member<'a>(&self, membership: &'a Membership) -> Result<(&'a str, String), AgentError> {
        let network = checked(&membership.network)?;
        if matches!(network, "host" | "none") {
            return Err(
                AgentError::new(Code::Forbidden, format!("Containers are not attached to the `{network}` network.")).field("network"),
            );
        }
        let unknown = || {
            AgentError::new(
                Code::ContainerNotFound,
                format!("The node has no container {}.", membership.container),
            )
            .field("container")
        };
        let key = ContainerKey::parse(&membership.container).ok_or_else(unknown)?;
        self.engine().await?;
        self.known_network(network).await?;
        Ok((network, self.resolve(&key).await?.observed.docker_id))
    }

    /// That there is a network of that name: Docker would take the start of an id as well.
    pub(super) async fn known_network(&self, name: &str) -> Result<(), AgentError> {
        // Made a moment ago, perhaps, and not told of yet.
        if self.hub.has_network(name) || self.inspect_network(name).await?.is_some_and(|n| n.name == name) {
            return Ok(());
        }
        Err(not_found(name))
    }

    async fn inspect_network(&self, name: &str) -> Result<Option<Network>, AgentError> {
        match self
            .client
            .json(Call::get("describe a network", format!("/networks/{}", segment(name))))
            .await
        {
            Ok(network) => Ok(Some(network)),
            Err(DockerError::Refused { status: 404, .. }) => Ok(None),
            Err(e) => Err(self.explain(e)),
        }
    }

    fn members(&self, network: &str) -> Vec<String> {
        self.hub.names(|r| r.observed.networks.iter().any(|a| a.network == network))
    }

    fn network_view(&self, network: Network) -> NetworkView {
        NetworkView {
            containers: self.members(&network.name),
            subnets: network.ipam.config.into_iter().filter_map(|c| c.subnet).collect(),
            created: network.created.as_deref().and_then(Timestamp::parse),
            labels: without_ours(network.labels),
            id: network.id,
            name: network.name,
            driver: network.driver,
            internal: network.internal,
            node_id: String::new(),
        }
    }
}

fn checked(name: &str) -> Result<&str, AgentError> {
    NetworkName::parse(name).map(|_| name).map_err(|_| not_found(name))
}

fn not_found(name: &str) -> AgentError {
    let short: String = name.chars().take(100).collect();
    AgentError::new(Code::NetworkNotFound, format!("The node has no network `{short}`."))
}

fn network_error(network: &str, error: AgentError) -> AgentError {
    if error.code == Code::NetworkNotFound {
        not_found(network)
    } else {
        error
    }
}
