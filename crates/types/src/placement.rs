//! Where a container may run, and what becomes of it when its node is lost or emptied.

use crate::container::{ContainerSpec, MountSource, VolumeMode, VolumeMount};
use crate::text::Constraint;
use crate::units::Bounded;
use crate::{ContainerId, NodeId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What becomes of a container when its node is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnNodeLost {
    /// It waits until the node is back.
    #[default]
    Wait,
    /// It is made and started on another node, without what it had written.
    Reschedule,
}

impl OnNodeLost {
    pub fn is_wait(&self) -> bool {
        *self == Self::Wait
    }
}

impl std::str::FromStr for OnNodeLost {
    type Err = crate::text::BadText;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "wait" => Ok(Self::Wait),
            "reschedule" => Ok(Self::Reschedule),
            _ => Err(crate::text::BadText("onNodeLost is `wait` or `reschedule`".into())),
        }
    }
}

/// What a constraint asks of the value under its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition<'a> {
    Exists,
    Is(&'a str),
    /// Also where there is no value at all.
    IsNot(&'a str),
}

fn split(text: &str) -> (&str, Condition<'_>) {
    match text.split_once('=') {
        None => (text, Condition::Exists),
        Some((key, value)) => match key.strip_suffix('!') {
            Some(key) => (key, Condition::IsNot(value)),
            None => (key, Condition::Is(value)),
        },
    }
}

/// The rule of [`Constraint`], beside its pattern.
pub(crate) fn is_constraint(text: &str) -> bool {
    let (key, condition) = split(text);
    let (alnum, inner) = (
        |b: u8| b.is_ascii_alphanumeric(),
        |b: u8| b.is_ascii_alphanumeric() || b"_./-".contains(&b),
    );
    let key_fits = (1..=128).contains(&key.len())
        && key.bytes().all(inner)
        && key.bytes().next().is_some_and(alnum)
        && key.bytes().next_back().is_some_and(alnum);
    key_fits
        && match condition {
            Condition::Exists => true,
            // `a==b` is somebody's slip, and never meant as the value `=b`.
            Condition::Is(v) | Condition::IsNot(v) => {
                (1..=255).contains(&v.chars().count()) && !v.starts_with('=') && !v.chars().any(char::is_control)
            }
        }
}

impl Constraint {
    pub fn key(&self) -> &str {
        split(self.as_str()).0
    }
    pub fn condition(&self) -> Condition<'_> {
        split(self.as_str()).1
    }
    /// Whether a node with `value` under the key is fine.
    pub fn holds(&self, value: Option<&str>) -> bool {
        match self.condition() {
            Condition::Exists => value.is_some(),
            Condition::Is(wanted) => value == Some(wanted),
            Condition::IsNot(unwanted) => value != Some(unwanted),
        }
    }
}

impl ContainerSpec {
    /// The first mount whose data lies on the node and can be written: a named volume or a folder of the node. With one, the
    /// container can't run anywhere else, or there would be two writers, or a writer without its data.
    pub fn writes_to_node(&self) -> Option<&VolumeMount> {
        let lies_there = |v: &&VolumeMount| matches!(v.host, Some(MountSource::Volume(_) | MountSource::Path(_)));
        self.volumes.iter().filter(lies_there).find(|v| v.mode == VolumeMode::Rw)
    }

    /// The first mount that keeps it from being moved off a node that is well: [`ContainerSpec::writes_to_node`], or an
    /// anonymous volume, which would begin empty elsewhere.
    pub fn holds_data(&self) -> Option<&VolumeMount> {
        self.volumes.iter().find(|v| v.mode == VolumeMode::Rw)
    }

    /// What it is one of: its label `app`, and without it its name up to the last `-`.
    pub fn kin(&self) -> &str {
        let app = self.labels.0.iter().find(|(key, _)| key.as_str() == "app");
        match app {
            Some((_, app)) => app.as_str(),
            None => {
                let name = self.name.as_str();
                name.rsplit_once('-').map_or(name, |(kin, _)| kin)
            }
        }
    }

    /// As its node's agent needs it: where it may run has been decided, and older agents do not know of it.
    pub fn placed(mut self) -> Self {
        (self.constraints, self.spread, self.on_node_lost) = (Vec::new(), None, OnNodeLost::Wait);
        self
    }
}

/// `POST /api/nodes/:id/drain`. Everything may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrainNode {
    /// Seconds between the stop signal and the kill; each container's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Bounded<0, 3_600>>,
    /// Move containers to other nodes where that can be done, in place of stopping all of them.
    #[serde(default = "yes", rename = "move")]
    #[schema(default = true)]
    pub move_away: bool,
}

fn yes() -> bool {
    true
}

impl Default for DrainNode {
    fn default() -> Self {
        Self {
            grace: None,
            move_away: true,
        }
    }
}

/// What became of the containers of a node that was drained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrainReport {
    pub node_id: NodeId,
    pub moved: Vec<Drained>,
    /// Stopped where they are, each with the reason.
    pub stopped: Vec<Drained>,
}

/// One container of a node that was drained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drained {
    pub id: ContainerId,
    pub name: String,
    /// Where it is now.
    pub node_id: NodeId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_are_read_and_hold() {
        for (text, value, holds) in [
            ("zone=eu-1", Some("eu-1"), true),
            ("zone=eu-1", Some("eu-2"), false),
            ("zone=eu-1", None, false),
            ("disk!=hdd", Some("hdd"), false),
            ("disk!=hdd", Some("ssd"), true),
            ("disk!=hdd", None, true),
            ("gpu", Some(""), true),
            ("gpu", None, false),
            ("a=b=c", Some("b=c"), true),
            ("a=b!=c", Some("b!=c"), true),
            ("example.com/rack=the left one", Some("the left one"), true),
        ] {
            assert_eq!(Constraint::parse(text).unwrap().holds(value), holds, "{text} on {value:?}");
        }
        assert_eq!(Constraint::parse("disk!=hdd").unwrap().key(), "disk");
        for bad in [
            "", "=x", "!=x", "a==b", "a=", "a!=", "gpu!", "!gpu", "-a=b", "a-=b", "a b=c", "a=b\n", "é=1", "a!b=c",
        ] {
            assert!(Constraint::parse(bad).is_err(), "{bad}");
        }
        assert!(Constraint::parse(&format!("{}={}", "k".repeat(128), "ü".repeat(255))).is_ok());
        assert!(Constraint::parse(&format!("k={}", "v".repeat(256))).is_err());
        assert!(Constraint::parse(&format!("{}=v", "k".repeat(129))).is_err());
    }

    fn spec(more: &str) -> ContainerSpec {
        serde_json::from_str(&format!(r#"{{"name":"web-1","image":"nginx"{more}}}"#)).unwrap()
    }

    #[test]
    fn only_what_can_be_written_ties_it_to_its_node() {
        for (volumes, writes, holds) in [
            (r#"[]"#, false, false),
            (r#"[{"container":"/d","host":"data"}]"#, true, true),
            (r#"[{"container":"/d","host":"/srv"}]"#, true, true),
            (r#"[{"container":"/d","host":"/srv","mode":"ro"}]"#, false, false),
            (r#"[{"container":"/d"}]"#, false, true),
        ] {
            let spec = spec(&format!(r#","volumes":{volumes},"onNodeLost":"reschedule""#));
            assert_eq!(
                (spec.writes_to_node().is_some(), spec.holds_data().is_some()),
                (writes, holds),
                "{volumes}"
            );
            let refused: Vec<_> = spec.problems().into_iter().map(|p| p.field).collect();
            assert_eq!(refused, if writes { vec!["onNodeLost"] } else { vec![] }, "{volumes}");
        }
        assert!(spec(r#","volumes":[{"container":"/d","host":"data"}]"#).problems().is_empty());
    }

    #[test]
    fn kin_is_told_by_the_label_or_the_name() {
        assert_eq!(spec("").kin(), "web");
        assert_eq!(spec(r#","labels":{"app":"shop"}"#).kin(), "shop");
        let mut plain = spec("");
        plain.name = "nginx".parse().unwrap();
        assert_eq!(plain.kin(), "nginx");
    }

    #[test]
    fn a_drain_moves_unless_told_otherwise() {
        let drain = |text: &str| serde_json::from_str::<DrainNode>(text);
        assert_eq!(drain("{}").unwrap(), DrainNode::default());
        assert!(!drain(r#"{"move":false}"#).unwrap().move_away);
        assert!(drain(r#"{"grace":3601}"#).is_err() && drain(r#"{"moves":true}"#).is_err());
    }
}
