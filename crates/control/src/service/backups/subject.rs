//! What a backup is made of, as it is found when it begins.

use super::Backups;
use super::rows::Config;
use crate::api::error::{ApiError, ApiResult};
use crate::service::fleet::{container_key, keyed};
use crate::service::index::Record;
use nm_link::contract::{Prepare, path};
use nm_types::backup::job::Source;
use nm_types::backup::{BackupConsistency, BackupDump, DumpWord};
use nm_types::cluster::DatabaseSpec;
use nm_types::container::{ContainerSpec, MountSource};
use nm_types::text::{Environment, VolumeName};
use nm_types::volume::VolumeView;
use nm_types::{ClusterId, ContainerId, NodeId};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Where a container's spec stands in its backup.
pub(super) const SPEC: &str = "/spec";
/// What a base backup is called below `/dumps`.
const BASE: &str = "base.tar";

pub(super) struct Subject {
    pub prepare: Prepare,
    pub sources: Vec<Source>,
    /// By name, with where the container has each; of a node, with nothing.
    pub volumes: BTreeMap<String, String>,
    pub paths: Vec<String>,
    /// What a container is made again from.
    pub spec: Option<ContainerSpec>,
}

/// What Docker says of a container's mounts.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    mounts: Option<Vec<Mount>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Mount {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    source: String,
    destination: String,
}

/// A container's volumes with where it has each, and the paths of its node that are mounted into it.
#[derive(Default)]
pub(super) struct Mounted {
    pub volumes: BTreeMap<String, String>,
    pub paths: Vec<String>,
}

impl Backups {
    pub(super) async fn subject(&self, config: &Config, node: &NodeId) -> ApiResult<Subject> {
        let server = config.stored.server.as_str();
        if let Ok(id) = ContainerId::parse(server) {
            return self.container(config, &id).await;
        }
        match ClusterId::parse(server) {
            Ok(id) => self.database(config, &id, node),
            Err(_) => self.node(config, node).await,
        }
    }

    /// What a database is that is backed up; nothing of other servers.
    pub(super) fn database_spec(&self, config: &Config) -> Option<DatabaseSpec> {
        let id = ClusterId::parse(&config.stored.server).ok()?;
        self.clusters.database_primary(&id).map(|primary| primary.database)
    }

    /// A base backup of a database's member on that node, as one stream.
    fn database(&self, config: &Config, id: &ClusterId, node: &NodeId) -> ApiResult<Subject> {
        let member = self.clusters.database_member(id, node).ok_or_else(|| super::server_gone(config))?;
        let record = self.index.get(&member).ok_or_else(|| super::server_gone(config))?;
        let words = ["nm-postgres", "base-backup"]
            .map(DumpWord::parse)
            .into_iter()
            .collect::<Result<_, _>>();
        Ok(Subject {
            prepare: Prepare {
                container: Some(container_key(&record).as_str().to_owned()),
                consistency: BackupConsistency::Dump,
                dump: Some(BackupDump {
                    command: words.map_err(|_| ApiError::internal())?,
                    restore: Vec::new(),
                    file: Some(VolumeName::parse(BASE).map_err(|_| ApiError::internal())?),
                }),
                ..Prepare::default()
            },
            sources: Vec::new(),
            volumes: BTreeMap::new(),
            paths: Vec::new(),
            spec: None,
        })
    }

    async fn container(&self, config: &Config, id: &ContainerId) -> ApiResult<Subject> {
        let record = self.index.get(id).ok_or_else(|| super::server_gone(config))?;
        let mut mounted = self.mounted(&record).await?;
        let wanted = &config.stored.spec.volumes;
        if !wanted.is_empty() {
            if let Some(missing) = wanted.iter().find(|name| !mounted.volumes.contains_key(name.as_str())) {
                let text = format!(
                    "container `{}` has no volume `{missing}`: change the config's `volumes`",
                    record.name()
                );
                return Err(ApiError::conflict("volume_not_there", text));
            }
            mounted.volumes.retain(|name, _| wanted.iter().any(|w| w.as_str() == name));
            mounted.paths.clear();
        }
        let spec = record.wanted.spec.as_deref().cloned();
        let mut sources = Vec::new();
        if let Some(spec) = &spec {
            sources.push(text(format!("{SPEC}/container.json"), spec, config.stored.spec.encryption)?);
        }
        sources.extend(mounted.paths.iter().map(|path| Source::Path {
            path: path.clone(),
            at: path.clone(),
        }));
        Ok(Subject {
            prepare: Prepare {
                container: Some(container_key(&record).as_str().to_owned()),
                consistency: config.stored.spec.consistency,
                dump: config.stored.spec.dump.clone(),
                volumes: names(mounted.volumes.keys()),
                restore: Vec::new(),
            },
            sources,
            volumes: mounted.volumes,
            paths: mounted.paths,
            spec,
        })
    }

    /// As Docker has them, those without a name of the user's among them; as they were asked for, where Docker does not say.
    pub(super) async fn mounted(&self, record: &Record) -> ApiResult<Mounted> {
        let agent = self.fleet.agent(&record.node)?;
        let seen: Inspected = agent.get(&keyed(path::INSPECT, record)).await?;
        let mut out = Mounted::default();
        for mount in seen.mounts.iter().flatten() {
            match (mount.kind.as_str(), &mount.name) {
                ("volume", Some(name)) => drop(out.volumes.insert(name.clone(), mount.destination.clone())),
                ("bind", _) => out.paths.push(mount.source.clone()),
                _ => {}
            }
        }
        if seen.mounts.is_none() {
            for mount in record.wanted.spec.iter().flat_map(|spec| &spec.volumes) {
                match &mount.host {
                    Some(MountSource::Volume(name)) => drop(out.volumes.insert(name.to_string(), mount.container.to_string())),
                    Some(MountSource::Path(path)) => out.paths.push(path.to_string()),
                    None => {}
                }
            }
        }
        out.paths.sort();
        out.paths.dedup();
        Ok(out)
    }

    async fn node(&self, config: &Config, node: &NodeId) -> ApiResult<Subject> {
        let spec = &config.stored.spec;
        let paths: Vec<String> = spec.paths.iter().map(ToString::to_string).collect();
        let mut sources: Vec<Source> = paths
            .iter()
            .map(|path| Source::Path {
                path: path.clone(),
                at: path.clone(),
            })
            .collect();
        let mut volumes: Vec<String> = spec.volumes.iter().map(ToString::to_string).collect();
        if paths.is_empty() {
            let ours: Vec<_> = self.index.on_node(node).into_iter().filter(|r| r.managed()).collect();
            for (record, spec) in ours.iter().filter_map(|r| Some((r, r.wanted.spec.as_deref()?))) {
                sources.push(text(format!("/specs/{}.json", record.id), spec, config.stored.spec.encryption)?);
            }
            if volumes.is_empty() {
                let there: Vec<VolumeView> = self.fleet.agent(node)?.get(path::VOLUMES).await?;
                let named = |name: &str| {
                    let mut mounts = ours.iter().filter_map(|r| r.wanted.spec.as_deref()).flat_map(|spec| &spec.volumes);
                    mounts.any(|m| matches!(&m.host, Some(MountSource::Volume(v)) if v.as_str() == name))
                };
                let managed = |v: &VolumeView| v.labels.contains_key(nm_link::contract::labels::NAME) || named(&v.name);
                volumes = there.into_iter().filter(managed).map(|v| v.name).collect();
            }
        }
        Ok(Subject {
            prepare: Prepare {
                volumes: names(volumes.iter()),
                ..Prepare::default()
            },
            sources,
            volumes: volumes.into_iter().map(|name| (name, String::new())).collect(),
            paths,
            spec: None,
        })
    }
}

fn names<'a>(all: impl Iterator<Item = &'a String>) -> Vec<VolumeName> {
    all.filter_map(|name| VolumeName::parse(name).ok()).collect()
}

/// A spec, as a file of a backup. What stands in its environment goes only where nobody can read it.
fn text(at: String, spec: &ContainerSpec, encrypted: bool) -> ApiResult<Source> {
    let mut spec = spec.clone();
    if !encrypted {
        spec.environment = Environment::default();
    }
    let content = serde_json::to_string_pretty(&spec).map_err(|_| ApiError::internal())?;
    Ok(Source::Text { at, content })
}
