//! Images, volumes and networks of a made-up machine.

use super::{Answer, World, error, fresh_hex, labels_of, now};
use nm_link::contract::{AgentErrorCode, CreateNetwork, CreateVolume, Membership, Pull};
use nm_types::container::Attachment;
use nm_types::image::{ImageView, LayerProgress, Pruned};
use nm_types::network::NetworkView;
use nm_types::volume::VolumeView;

impl World {
    pub(in crate::agent) fn images(&self) -> Vec<ImageView> {
        self.lock().images.clone()
    }

    pub(in crate::agent) fn pull(&self, pull: &Pull) -> Answer<ImageView> {
        let mut inner = self.lock();
        inner.last_login.clone_from(&pull.registry);
        inner.pull(&pull.image)
    }

    /// What a pull says on its way.
    pub(in crate::agent) fn layers() -> Vec<LayerProgress> {
        let steps = [
            ("Downloading", 10),
            ("Downloading", 100),
            ("Extracting", 50),
            ("Pull complete", 100),
        ];
        let layer = |(status, current): (&str, u64)| LayerProgress {
            layer: "a1b2c3d4e5f6".into(),
            status: status.into(),
            current,
            total: 100,
        };
        steps.map(layer).into()
    }

    pub(in crate::agent) fn remove_image(&self, name: &str) -> Answer<()> {
        let mut inner = self.lock();
        let is_it = |i: &ImageView| i.id == name || i.tags.iter().any(|t| t == name || t.strip_suffix(":latest") == Some(name));
        let found = inner
            .images
            .iter()
            .position(is_it)
            .ok_or_else(|| error(AgentErrorCode::ImageNotFound, format!("the node has no image {name}")))?;
        let tags = inner.images[found].tags.clone();
        if !inner.users_of(|c| tags.contains(&c.observed.image)).is_empty() {
            return Err(error(AgentErrorCode::InUse, format!("containers use the image {name}")));
        }
        inner.images.remove(found);
        Ok(())
    }

    pub(in crate::agent) fn prune_images(&self) -> Pruned {
        let mut inner = self.lock();
        let (unnamed, named) = std::mem::take(&mut inner.images).into_iter().partition(|i| i.tags.is_empty());
        inner.images = named;
        let unnamed: Vec<ImageView> = unnamed;
        Pruned {
            freed: unnamed.iter().map(|i| i.size).sum(),
            removed: unnamed.into_iter().map(|i| i.id).collect(),
        }
    }

    pub(in crate::agent) fn volumes(&self) -> Vec<VolumeView> {
        self.lock().volumes.clone()
    }

    pub(in crate::agent) fn create_volume(&self, new: &CreateVolume) -> Answer<VolumeView> {
        let mut inner = self.lock();
        let (name, labels) = (new.name.to_string(), labels_of(&new.labels));
        if let Some(there) = inner.volumes.iter().find(|v| v.name == name) {
            let same = there.labels == labels;
            return if same {
                Ok(there.clone())
            } else {
                Err(error(AgentErrorCode::NameTaken, format!("there is a volume `{name}` already")).field("name"))
            };
        }
        let mountpoint = format!("/var/lib/docker/volumes/{name}/_data");
        let volume = VolumeView {
            name,
            driver: "local".into(),
            mountpoint,
            labels,
            created: Some(now()),
            node_id: String::new(),
            used_by: Vec::new(),
        };
        inner.volumes.push(volume.clone());
        Ok(volume)
    }

    pub(in crate::agent) fn remove_volume(&self, name: &str) -> Answer<()> {
        let mut inner = self.lock();
        let found = inner
            .volumes
            .iter()
            .position(|v| v.name == name)
            .ok_or_else(|| error(AgentErrorCode::VolumeNotFound, format!("the node has no volume `{name}`")))?;
        inner.volumes.remove(found);
        Ok(())
    }

    pub(in crate::agent) fn networks(&self) -> Vec<NetworkView> {
        let inner = self.lock();
        let mut all = inner.networks.clone();
        for network in &mut all {
            network.containers = inner.users_of(|c| c.observed.networks.iter().any(|a| a.network == network.name));
        }
        all
    }

    pub(in crate::agent) fn create_network(&self, new: &CreateNetwork) -> Answer<NetworkView> {
        let mut inner = self.lock();
        let name = new.name.to_string();
        if inner.networks.iter().any(|n| n.name == name) {
            return Err(error(AgentErrorCode::NameTaken, format!("there is a network `{name}` already")).field("name"));
        }
        let network = NetworkView {
            id: fresh_hex(),
            name,
            driver: "bridge".into(),
            subnets: vec!["172.18.0.0/16".into()],
            internal: new.internal,
            labels: labels_of(&new.labels),
            created: Some(now()),
            node_id: String::new(),
            containers: Vec::new(),
        };
        inner.networks.push(network.clone());
        Ok(network)
    }

    pub(in crate::agent) fn remove_network(&self, name: &str) -> Answer<()> {
        let mut inner = self.lock();
        let not_there = || error(AgentErrorCode::NetworkNotFound, format!("the node has no network `{name}`"));
        let found = inner.networks.iter().position(|n| n.name == name).ok_or_else(not_there)?;
        let users = inner.users_of(|c| c.observed.networks.iter().any(|a| a.network == name));
        if !users.is_empty() {
            return Err(error(
                AgentErrorCode::InUse,
                format!("network `{name}` is used by {}", users.join(", ")),
            ));
        }
        inner.networks.remove(found);
        Ok(())
    }

    pub(in crate::agent) fn membership(&self, member: &Membership, attach: bool) -> Answer<()> {
        let mut inner = self.lock();
        if !inner.networks.iter().any(|n| n.name == member.network) {
            return Err(error(
                AgentErrorCode::NetworkNotFound,
                format!("the node has no network `{}`", member.network),
            ));
        }
        let docker_id = inner.find(&member.container)?;
        let on = &mut inner.held(&docker_id)?.observed.networks;
        on.retain(|a| a.network != member.network);
        if attach {
            on.push(Attachment {
                network: member.network.clone(),
                ip: Some("172.18.0.2".into()),
            });
        }
        inner.changed(&docker_id);
        Ok(())
    }

    // What a test does or asks.
}
