//! The four container templates of the specification.

use crate::container::{ContainerSpec, PortMapping, Protocol, RestartPolicy, VolumeMount};
use crate::placement::OnNodeLost;
use crate::text::{Constraint, ContainerName, EnvName, Environment, ImageRef, LabelKey, Word};
use crate::units::{CpuLimit, MemoryLimit, Port};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use utoipa::ToSchema;

/// A ready-made container. `config` can be sent to `POST /api/containers` once the generated secrets are filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerTemplate {
    pub id: String,
    pub name: String,
    pub description: String,
    pub image: String,
    pub config: ContainerSpec,
    /// Variables that get a fresh random value at each run, unless the run gives one.
    pub generated: Vec<String>,
}

/// `POST /api/containers/templates/:id/run`. Everything may be left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunTemplate {
    /// The template's own name with a random ending by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ContainerName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// Added to the template's; the same name replaces.
    #[serde(default)]
    pub environment: Environment,
    /// In place of the template's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 200)]
    pub ports: Option<Vec<PortMapping>>,
    /// In place of the template's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 100)]
    pub volumes: Option<Vec<VolumeMount>>,
    /// What its node must be, as for `POST /api/containers`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 20)]
    pub constraints: Vec<Constraint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<LabelKey>,
    #[serde(default, skip_serializing_if = "OnNodeLost::is_wait")]
    pub on_node_lost: OnNodeLost,
}

/// The templates, in the specification's order.
pub fn container_templates() -> Vec<ContainerTemplate> {
    vec![
        template(
            "nginx",
            "Nginx Web Server",
            "High-performance HTTP server",
            "nginx:latest",
            &[(80, 8080)],
            "512m",
            1.0,
            &[],
            &[],
            &[],
        ),
        template(
            "postgresql",
            "PostgreSQL Database",
            "Production-ready database",
            "postgres:16",
            &[(5432, 5432)],
            "1g",
            2.0,
            &[("/var/lib/postgresql/data", "/data/postgres")],
            &["POSTGRES_PASSWORD"],
            &[],
        ),
        on_loopback(template(
            "redis",
            "Redis Cache",
            "In-memory data store",
            "redis:7",
            &[(6379, 6379)],
            "512m",
            1.0,
            &[],
            &[],
            &[],
        )),
        template(
            "nodejs",
            "Node.js App",
            "Node.js application runtime",
            "node:20",
            &[],
            "1g",
            2.0,
            &[],
            &[],
            &[
                "node",
                "-e",
                "require('http').createServer((_, r) => r.end('Hello from Node.js\\n')).listen(3000)",
            ],
        ),
    ]
}

/// Its ports only on the node itself: it asks nobody for a password.
fn on_loopback(mut template: ContainerTemplate) -> ContainerTemplate {
    for port in &mut template.config.ports {
        port.host_ip = Some(Ipv4Addr::LOCALHOST);
    }
    template
}

#[expect(clippy::too_many_arguments, reason = "one call a template, read as a row of a table")]
fn template(
    id: &str,
    name: &str,
    description: &str,
    image: &str,
    ports: &[(u16, u16)],
    memory: &str,
    cpu: f64,
    volumes: &[(&str, &str)],
    generated: &[&str],
    command: &[&str],
) -> ContainerTemplate {
    let rows_are_valid = "the rows above are checked by a test";
    let config = ContainerSpec {
        name: ContainerName::parse(id).expect(rows_are_valid),
        image: ImageRef::parse(image).expect(rows_are_valid),
        node_id: None,
        command: command.iter().map(|a| Word::parse(a).expect(rows_are_valid)).collect(),
        entrypoint: Vec::new(),
        environment: Environment::default(),
        ports: ports
            .iter()
            .map(|&(container, host)| PortMapping {
                container: Port::new(container).expect(rows_are_valid),
                host,
                protocol: Protocol::Tcp,
                host_ip: None,
            })
            .collect(),
        volumes: volumes
            .iter()
            .map(|(container, host)| VolumeMount {
                container: crate::text::ContainerPath::parse(container).expect(rows_are_valid),
                host: Some((*host).to_owned().try_into().expect(rows_are_valid)),
                mode: crate::container::VolumeMode::Rw,
            })
            .collect(),
        cpu_limit: Some(CpuLimit::from_cores(cpu).expect(rows_are_valid)),
        memory_limit: Some(MemoryLimit::parse(memory).expect(rows_are_valid)),
        restart: RestartPolicy::Always,
        labels: crate::text::Labels::default(),
        networks: Vec::new(),
        user: None,
        working_dir: None,
        hostname: None,
        cap_drop: Vec::new(),
        cap_add: Vec::new(),
        devices: Vec::new(),
        host_network: false,
        privileged: false,
        read_only: false,
        health_check: None,
        stop_grace: None,
        tty: false,
        constraints: Vec::new(),
        spread: None,
        on_node_lost: OnNodeLost::Wait,
        start: true,
    };
    debug_assert!(generated.iter().all(|g| EnvName::parse(g).is_ok()));
    ContainerTemplate {
        id: id.into(),
        name: name.into(),
        description: description.into(),
        image: image.into(),
        config,
        generated: generated.iter().map(|g| (*g).to_owned()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_are_valid_and_hold_no_secret() {
        let all = container_templates();
        assert_eq!(
            all.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(),
            ["Nginx Web Server", "PostgreSQL Database", "Redis Cache", "Node.js App"]
        );
        for t in &all {
            assert!(t.config.clone().into_parts().0.problems().is_empty());
            assert!(t.config.environment.0.is_empty());
            assert!(t.generated.iter().all(|g| EnvName::parse(g).is_ok()));
        }
        // What asks for no password is for the node itself, but for the web server, which is there for everybody.
        let redis = &all[2].config.ports;
        assert!(redis.iter().all(|p| p.host_ip == Some(Ipv4Addr::LOCALHOST)));
    }
}
