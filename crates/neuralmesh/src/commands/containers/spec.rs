//! The options of `create` and `run`, and the API's body made of them.

use super::flags::{self, Publish};
use crate::output::report::usage;
use clap::Args;
use nm_types::container::{ContainerSpec, DeviceMapping, HealthCheck, RestartPolicy, VolumeMount};
use nm_types::placement::OnNodeLost;
use nm_types::text::{
    Argument, Capability, Constraint, ContainerName, ContainerPath, EnvName, Environment, HostName, ImageRef, LabelKey, Labels,
    NetworkName, RunAs, Word,
};
use nm_types::units::{Bounded, CpuLimit, MemoryLimit};
use std::path::PathBuf;

/// What `create` and `run` take; docker's names wherever docker has one.
#[derive(Debug, Clone, Args)]
pub struct SpecArgs {
    /// The container's name [default: the image's, with a random ending]
    #[arg(long, value_name = "NAME")]
    pub name: Option<ContainerName>,
    /// The node to run on, by name or id [default: the one that suits best]
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// What the node must be: zone=eu-1, disk!=hdd, gpu (has that label), node.arch=arm64; may be repeated
    #[arg(long = "constraint", value_name = "CONSTRAINT")]
    pub constraint: Vec<Constraint>,
    /// Spread containers of one kind evenly over the values of this label of nodes
    #[arg(long, value_name = "LABEL")]
    pub spread: Option<LabelKey>,
    /// What becomes of it when its node is lost: wait for the node, or reschedule to another one
    #[arg(long, value_name = "wait|reschedule", default_value = "wait")]
    pub on_node_lost: OnNodeLost,
    /// Publish a port: [IP:][HOST:]CONTAINER[/udp]; without HOST the node chooses a free one
    #[arg(short, long = "publish", value_name = "PORT")]
    pub publish: Vec<Publish>,
    /// Mount a volume or a folder of the node: VOLUME:/path[:ro], /folder:/path[:ro]
    #[arg(short, long = "volume", value_name = "MOUNT", value_parser = flags::mount)]
    pub volume: Vec<VolumeMount>,
    /// Set a variable; without a value it is taken from this environment, which keeps secrets off the command line
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = flags::variable)]
    pub env: Vec<(EnvName, Option<Argument>)>,
    /// Set variables from a file, one NAME=VALUE a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Limit the CPU, in cores: 0.5, 2
    #[arg(long, value_name = "CORES", value_parser = flags::cpus)]
    pub cpus: Option<CpuLimit>,
    /// Limit the memory: 512m, 1g
    #[arg(short, long, value_name = "AMOUNT", value_parser = flags::memory)]
    pub memory: Option<MemoryLimit>,
    /// When to start it again by itself: no, always, on-failure, unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no", value_parser = flags::restart)]
    pub restart: RestartPolicy,
    /// Set a label
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = flags::label)]
    pub label: Vec<(LabelKey, Argument)>,
    /// Join a network; may be repeated
    #[arg(long = "network", visible_alias = "net", value_name = "NETWORK")]
    pub network: Vec<NetworkName>,
    /// Run as this user: NAME, UID, NAME:GROUP or UID:GID
    #[arg(short, long, value_name = "USER")]
    pub user: Option<RunAs>,
    /// The program to run in place of the image's
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<Word>,
    /// The folder to start in
    #[arg(short, long, value_name = "PATH")]
    pub workdir: Option<ContainerPath>,
    /// The host name inside
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<HostName>,
    /// Take a capability away, or ALL
    #[arg(long = "cap-drop", value_name = "CAPABILITY")]
    pub cap_drop: Vec<Capability>,
    /// Add a capability; for admins, where the node's own configuration allows it
    #[arg(long = "cap-add", value_name = "CAPABILITY")]
    pub cap_add: Vec<Capability>,
    /// Give it a device: /dev/HOST[:/dev/CONTAINER][:rwm]; for admins, where the node's own configuration allows it
    #[arg(long = "device", value_name = "DEVICE", value_parser = flags::device)]
    pub device: Vec<DeviceMapping>,
    /// Use the node's own network; for admins, where the node's own configuration allows it
    #[arg(long)]
    pub host_network: bool,
    /// Give it everything the node has; for admins, where the node's own configuration allows it
    #[arg(long)]
    pub privileged: bool,
    /// Make the container's own files read-only
    #[arg(long)]
    pub read_only: bool,
    /// Give the main process a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// How long a stop waits until it kills, as 30s
    #[arg(long, value_name = "TIME", value_parser = flags::seconds)]
    pub stop_timeout: Option<u64>,
    /// A command that tells whether the container is well; cut into words, no shell (for one: sh -c '…')
    #[arg(long, value_name = "COMMAND")]
    pub health_cmd: Option<String>,
    /// Time between two checks, as 30s
    #[arg(long, value_name = "TIME", value_parser = flags::seconds, requires = "health_cmd")]
    pub health_interval: Option<u64>,
    /// The longest one check may take, as 30s
    #[arg(long, value_name = "TIME", value_parser = flags::seconds, requires = "health_cmd")]
    pub health_timeout: Option<u64>,
    /// Failures in a row until it counts as unhealthy
    #[arg(long, value_name = "COUNT", requires = "health_cmd")]
    pub health_retries: Option<u64>,
    /// Time after the start in which failures do not count, as 1m
    #[arg(long, value_name = "TIME", value_parser = flags::seconds, requires = "health_cmd")]
    pub health_start_period: Option<u64>,
    /// Say at once which operation it became, in place of waiting for its end
    #[arg(long)]
    pub no_wait: bool,
    /// Print the id only
    #[arg(short, long)]
    pub quiet: bool,

    #[arg(short, long, hide = true)]
    pub interactive: bool,
    #[arg(long, hide = true)]
    pub rm: bool,

    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: ImageRef,
    /// Arguments for the image's program, or a program with its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<Word>,
}

impl SpecArgs {
    /// The body of `POST /api/containers`.
    pub fn spec(&self, start: bool) -> anyhow::Result<ContainerSpec> {
        for (used, why) in [
            (
                self.interactive,
                "a container runs detached here: leave -i out, and enter it with `neuralmesh containers exec -it NAME -- sh`",
            ),
            (
                self.rm,
                "--rm is not there: remove it with `neuralmesh containers rm -f NAME` when it has done its work",
            ),
        ] {
            if used {
                return Err(usage(why));
            }
        }
        let mut environment = Environment::default();
        for path in &self.env_file {
            set(&mut environment, flags::env_file(path)?);
        }
        set(&mut environment, self.env.iter().cloned());
        let spec = ContainerSpec {
            name: match &self.name {
                Some(name) => name.clone(),
                None => random_name(&self.image)?,
            },
            image: self.image.clone(),
            command: self.command.clone(),
            entrypoint: self.entrypoint.clone().into_iter().collect(),
            environment,
            ports: self.publish.iter().flat_map(|p| p.0.iter().cloned()).collect(),
            volumes: self.volume.clone(),
            cpu_limit: self.cpus,
            memory_limit: self.memory.clone(),
            restart: self.restart,
            labels: Labels(self.label.iter().cloned().collect()),
            networks: self.network.clone(),
            user: self.user.clone(),
            working_dir: self.workdir.clone(),
            hostname: self.hostname.clone(),
            cap_drop: self.cap_drop.clone(),
            cap_add: self.cap_add.clone(),
            devices: self.device.clone(),
            host_network: self.host_network,
            privileged: self.privileged,
            read_only: self.read_only,
            health_check: self.health_check()?,
            stop_grace: bounded("--stop-timeout", self.stop_timeout)?,
            tty: self.tty,
            constraints: self.constraint.clone(),
            spread: self.spread.clone(),
            on_node_lost: self.on_node_lost,
            node_id: self.node.clone(),
            start,
        };
        let problems: Vec<_> = spec.overlong().into_iter().chain(spec.problems()).collect();
        if problems.is_empty() {
            return Ok(spec);
        }
        Err(usage(
            problems
                .into_iter()
                .map(|p| format!("{}: {}", p.field, p.message))
                .collect::<Vec<_>>()
                .join("; "),
        ))
    }

    fn health_check(&self) -> anyhow::Result<Option<HealthCheck>> {
        let Some(command) = &self.health_cmd else { return Ok(None) };
        Ok(Some(HealthCheck {
            command: flags::words(command).map_err(|e| usage(format!("--health-cmd: {e}")))?,
            interval: bounded("--health-interval", self.health_interval)?,
            timeout: bounded("--health-timeout", self.health_timeout)?,
            retries: bounded("--health-retries", self.health_retries)?,
            start_period: bounded("--health-start-period", self.health_start_period)?,
        }))
    }
}

fn set(environment: &mut Environment, variables: impl IntoIterator<Item = (EnvName, Option<Argument>)>) {
    environment
        .0
        .extend(variables.into_iter().filter_map(|(name, value)| Some((name, value?))));
}

/// A number within the bounds its field has, or a sentence that says them.
pub fn bounded<const MIN: i64, const MAX: i64>(option: &str, value: Option<u64>) -> anyhow::Result<Option<Bounded<MIN, MAX>>> {
    let Some(value) = value else { return Ok(None) };
    match i64::try_from(value).ok().and_then(Bounded::new) {
        Some(value) => Ok(Some(value)),
        None => Err(usage(format!("{option} is from {MIN} to {MAX}"))),
    }
}

/// `nginx-x7k2p` for `registry.example.com/team/nginx:1.27`.
pub fn random_name(image: &ImageRef) -> anyhow::Result<ContainerName> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let base = image.as_str().split('@').next().unwrap_or_default();
    let base = base.rsplit('/').next().unwrap_or_default();
    let base: String = base.split(':').next().unwrap_or_default().chars().take(80).collect();
    let mut random = [0u8; 5];
    getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("choose a name: {e}"))?;
    let tail: String = random.iter().map(|b| char::from(LETTERS[usize::from(b % 32)])).collect();
    Ok(ContainerName::parse(&format!("{base}-{tail}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Try {
        #[command(flatten)]
        args: SpecArgs,
    }

    fn spec(line: &str) -> anyhow::Result<ContainerSpec> {
        Try::try_parse_from(std::iter::once("run").chain(line.split(' ')))?.args.spec(true)
    }

    #[test]
    fn dockers_options_make_the_apis_body() {
        let line = "--name web -p 8080:80 -p 53:53/udp -v data:/data -v /srv:/srv:ro -e A=1 -e B=2=3 --cpus 1.5 -m 512m --restart always -l app=web \
             --network front --network back -u 1000:1000 --entrypoint /bin/sh -w /srv --cap-drop ALL --read-only --node n1 --stop-timeout 30s \
             --constraint disk!=hdd --constraint gpu --spread zone nginx:1.27 -c exit";
        let json = serde_json::to_value(spec(line).unwrap()).unwrap();
        let expected = serde_json::json!({
            "name": "web", "image": "nginx:1.27", "command": ["-c", "exit"], "entrypoint": ["/bin/sh"], "environment": {"A": "1", "B": "2=3"},
            "ports": [{"container": 80, "host": 8080, "protocol": "tcp"}, {"container": 53, "host": 53, "protocol": "udp"}],
            "volumes": [{"container": "/data", "host": "data", "mode": "rw"}, {"container": "/srv", "host": "/srv", "mode": "ro"}],
            "cpuLimit": 1.5, "memoryLimit": "512m", "restart": "always", "labels": {"app": "web"}, "networks": ["front", "back"], "user": "1000:1000",
            "workingDir": "/srv", "capDrop": ["ALL"], "readOnly": true, "nodeId": "n1", "stopGrace": 30, "start": true,
            "constraints": ["disk!=hdd", "gpu"], "spread": "zone"
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_name_is_made_of_the_image() {
        let named = spec("registry.example.com:5000/team/my.app:1.2").unwrap();
        let (base, tail) = named.name.as_str().rsplit_once('-').unwrap();
        assert_eq!((base, tail.len()), ("my.app", 5));
    }

    #[test]
    fn privileges_are_asked_for_in_dockers_words() {
        assert_eq!(spec("nginx").unwrap().privileges(), [""; 0]);
        let all =
            spec("--privileged --cap-add NET_ADMIN --device /dev/fuse --device /dev/a:/dev/b:rw --device /dev/c:r --host-network nginx");
        let all = all.unwrap();
        assert_eq!(all.privileges(), ["privileged", "capAdd", "devices", "hostNetwork"]);
        let devices = serde_json::to_value(&all.devices).unwrap();
        assert_eq!(
            devices,
            serde_json::json!([
                { "host": "/dev/fuse" },
                { "host": "/dev/a", "container": "/dev/b", "access": "rw" },
                { "host": "/dev/c", "access": "r" },
            ])
        );
    }

    #[test]
    fn what_docker_has_and_we_have_not_says_so() {
        for (line, says) in [
            ("-i nginx", "exec -it"),
            ("--rm nginx", "--rm"),
            ("--cap-add sys-admin nginx", "capability"),
            ("--device /etc/passwd nginx", "/dev"),
            ("--host-network -p 80:80 nginx", "ports"),
            ("-p 80:80 -p 80:81 nginx", "ports[1].host"),
            ("--name list nginx", "reserved"),
            ("-v data:/data --on-node-lost reschedule nginx", "onNodeLost"),
            ("--on-node-lost run nginx", "`wait` or `reschedule`"),
            ("--constraint a==b nginx", "a constraint is"),
            ("--stop-timeout 2d nginx", "--stop-timeout"),
            ("--health-interval 5s nginx", "--health-cmd"),
        ] {
            let error = spec(line).unwrap_err().to_string();
            assert!(error.contains(says), "{line}: {error}");
        }
    }
}
