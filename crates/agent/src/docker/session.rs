//! Keeps the hub true: connects to the engine, takes everything in once, then follows its events; when the engine goes away,
//! says so at once and tries again until it is back.

use super::client::{Call, DockerError, segment};
use super::explain::explain;
use super::hub::{Facts, now_nanos};
use super::wire::{Event, ImageLabels, Info, Inspect, Listed, Network, Version};
use super::{Docker, LOOKS};
use crate::host::addresses;
use futures_util::{Stream, StreamExt, TryStreamExt};
use nm_link::contract::labels;
use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Between attempts, at most: the engine is seen again within this and the time of one attempt.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// A dead engine closes its sockets, which is seen at once; one that hangs is only found out by asking.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_DEADLINE: Duration = Duration::from_secs(10);
/// Of the engine's own bridge: the name of its interface.
const BRIDGE_OPTION: &str = "com.docker.network.bridge.name";
/// So many images are remembered; then it begins anew.
const IMAGES_KNOWN: usize = 1_000;

/// Runs until `stop`.
pub async fn follow(docker: &Docker, stop: &CancellationToken) {
    let mut wait = FIRST_WAIT;
    loop {
        let mut came_up = false;
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = session(docker, &mut came_up) => ended,
        };
        docker.hub.reset_looks();
        let error = match ended {
            Ok(never) => match never {},
            Err(error) => explain(error, &docker.socket),
        };
        docker.hub.down(&error.message);
        wait = if came_up { FIRST_WAIT } else { (wait * 2).min(LONGEST_WAIT) };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            // Somebody needs it now; but never in a tight loop.
            () = async { tokio::time::sleep(FIRST_WAIT).await; docker.hub.nudge.notified().await } => {}
        }
    }
}

type Never = std::convert::Infallible;

async fn session(docker: &Docker, came_up: &mut bool) -> Result<Never, DockerError> {
    let short = Duration::from_secs(10);
    let version: Version = docker.client.json(Call::get("say its version", "/version").deadline(short)).await?;
    let info: Info = docker.client.json(Call::get("describe itself", "/info").deadline(short)).await?;
    // First the live events, then the past ones, then the state: so nothing falls between them.
    let mut events = docker.client.lines::<Event>(events_call()).await?;
    learn_the_past(docker).await?;
    let networks: Vec<Network> = docker.client.json(Call::get("list networks", "/networks").deadline(short)).await?;
    let docs = look_at_all(docker).await?;
    let facts = Facts {
        version: version.version,
        api_version: version.api_version,
        cpus: info.ncpu,
        memory: info.mem_total,
        root_dir: info.docker_root_dir,
        bridge: bridge(&networks),
    };
    docker.hub.up(facts, docs, networks.into_iter().map(|n| n.name).collect());
    *came_up = true;
    live(docker, &mut events).await
}

/// Where this machine is on the engine's own bridge; nowhere where the engine has none, or has it in a network of its own.
fn bridge(networks: &[Network]) -> Option<IpAddr> {
    let interface = networks.iter().find(|n| n.name == "bridge")?.options.get(BRIDGE_OPTION)?;
    let all = addresses::all().ok()?;
    all.iter().find(|a| a.interface == *interface && a.ip.is_ipv4()).map(|a| a.ip)
}

fn events_call() -> Call {
    // `exec_create` and `exec_start` are left out: every health check causes them.
    let filters = serde_json::json!({
        "type": ["container", "network"],
        "event": ["create", "start", "die", "stop", "kill", "oom", "pause", "unpause", "rename", "update", "destroy", "health_status", "exec_die", "connect", "disconnect"],
    });
    Call::get("report events", "/events").query("filters", filters.to_string())
}

/// Docker keeps its last 256 events: what happened while nobody listened, as far as it goes.
async fn learn_the_past(docker: &Docker) -> Result<(), DockerError> {
    let last = docker.hub.last_event();
    // `0` would mean: none of the past.
    let since = if last == 0 { "1".to_owned() } else { moment(last) };
    let call = events_call().query("since", since).query("until", moment(now_nanos()));
    let mut past = docker.client.lines::<Event>(call).await?;
    let all = async {
        while let Some(event) = past.next().await {
            docker.hub.event(&event?, true);
        }
        Ok(())
    };
    let after = Duration::from_secs(10);
    match tokio::time::timeout(after, all).await {
        Ok(done) => done,
        Err(_) => Err(DockerError::Deadline {
            what: "report past events",
            after,
        }),
    }
}

/// Nanoseconds as Docker reads moments: seconds with a fraction.
fn moment(nanos: i64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

async fn look_at_all(docker: &Docker) -> Result<Vec<(Inspect, i64)>, DockerError> {
    let call = Call::get("list containers", "/containers/json")
        .flag("all", true)
        .deadline(Duration::from_secs(60));
    let listed: Vec<Listed> = docker.client.json(call).await?;
    let seen = listed
        .into_iter()
        .filter(|c| !c.names.iter().any(|name| docker.hub.hidden.is_hidden(name)));
    futures_util::stream::iter(seen)
        .map(|c| async move { look(docker, &c.id).await })
        .buffer_unordered(LOOKS)
        .try_filter_map(|seen| std::future::ready(Ok(seen)))
        .try_collect()
        .await
}

/// One look at a container; `None` where it is gone.
async fn look(docker: &Docker, id: &str) -> Result<Option<(Inspect, i64)>, DockerError> {
    let seen_at = now_nanos();
    let call = Call::get("describe a container", format!("/containers/{}/json", segment(id)));
    match docker.client.json::<Inspect>(call).await {
        Ok(mut doc) => {
            // A label that its image has, too, came from there: `docker commit` keeps labels. It is no mark of ours then.
            if let Some(label) = doc.config.labels.get(labels::ID)
                && docker.image_label(&doc.image).await?.as_ref() == Some(label)
            {
                doc.config.labels.remove(labels::ID);
            }
            Ok(Some((doc, seen_at)))
        }
        Err(DockerError::Refused { status: 404, .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

async fn live(docker: &Docker, events: &mut (impl Stream<Item = Result<Event, DockerError>> + Unpin)) -> Result<Never, DockerError> {
    let mut work = JoinSet::new();
    let mut ping = tokio::time::interval(PING_EVERY);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        while work.len() < LOOKS
            && let Some(id) = docker.hub.next_look()
        {
            let docker = docker.clone();
            work.spawn(async move {
                let looked = look(&docker, &id).await;
                match looked {
                    Ok(Some((doc, at))) => drop(docker.hub.seen(doc, at)),
                    Ok(None) => docker.hub.removed(&id),
                    // A look that failed while the engine lives is tried again with the next event; the connection's own end
                    // is seen by the event stream.
                    Err(error) => tracing::warn!(docker.id = %id, %error, "a container could not be looked at"),
                }
                docker.hub.looked(&id);
                Ok(())
            });
        }
        while work.len() < LOOKS
            && let Some((id, finished)) = docker.hub.next_tail()
        {
            let docker = docker.clone();
            work.spawn(async move {
                match docker.tail(&id).await {
                    Ok(lines) => docker.hub.set_tail(&id, finished, lines),
                    Err(error) => tracing::debug!(docker.id = %id, %error, "the last log lines of a container could not be read"),
                }
                Ok(())
            });
        }
        tokio::select! {
            event = events.next() => match event {
                Some(event) => docker.hub.event(&event?, false),
                None => return Err(DockerError::Broken("the stream of events ended".into())),
            },
            () = docker.hub.wake.notified() => {}
            Some(done) = work.join_next() => match done {
                Ok(result) => result?,
                Err(e) => tracing::error!(error = %e, "looking at a container failed"),
            },
            _ = ping.tick() => {
                let docker = docker.clone();
                work.spawn(async move {
                    match docker.client.done(Call::get("answer", "/_ping").deadline(PING_DEADLINE)).await {
                        // Whatever it says, it answers.
                        Ok(()) | Err(DockerError::Refused { .. }) => Ok(()),
                        Err(e) => Err(e),
                    }
                });
            }
        }
    }
}

impl Docker {
    /// Looks at a container now, and tells watchers. `None` where it is gone.
    pub async fn look_now(&self, docker_id: &str) -> Result<Option<super::hub::Record>, DockerError> {
        Ok(match look(self, docker_id).await? {
            Some((doc, at)) => self.hub.seen(doc, at),
            None => {
                self.hub.removed(docker_id);
                None
            }
        })
    }

    /// The label of ours that an image has. Images never change, so each is asked for once.
    async fn image_label(&self, image: &str) -> Result<Option<String>, DockerError> {
        if let Some(known) = self.image_labels.lock().unwrap_or_else(PoisonError::into_inner).get(image) {
            return Ok(known.clone());
        }
        let call = Call::get("describe an image", format!("/images/{}/json", segment(image)));
        let mut found = match self.client.json::<ImageLabels>(call).await {
            Ok(image) => image.config.labels,
            // Somebody removed it under its container.
            Err(DockerError::Refused { status: 404, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let label = found.remove(labels::ID);
        let mut known = self.image_labels.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= IMAGES_KNOWN {
            known.clear();
        }
        known.insert(image.to_owned(), label.clone());
        Ok(label)
    }

    /// Docker's own document of a container.
    pub async fn inspect_raw(&self, docker_id: &str) -> Result<serde_json::Value, nm_link::contract::AgentError> {
        let call = Call::get("describe a container", format!("/containers/{}/json", segment(docker_id)));
        self.client.json(call).await.map_err(|e| self.explain(e))
    }
}
