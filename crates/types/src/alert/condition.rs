//! What a rule looks for.

use super::AlertTargetKind;
use crate::health::Check;
use crate::text::BadText;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{ObjectBuilder, RefOr, Type};

/// Which health counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum AlertHealth {
    Unhealthy,
    /// Unhealthy, or not known.
    NotHealthy,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum AlertMetric {
    /// Percent of all cores together.
    #[serde(rename = "node.cpu")]
    NodeCpu,
    /// Percent of the memory that is used.
    #[serde(rename = "node.memory")]
    NodeMemory,
    /// Percent of the fullest file system that can be written to.
    #[serde(rename = "node.disk")]
    NodeDisk,
    /// The kernel's load average over one minute.
    #[serde(rename = "node.load")]
    NodeLoad,
    /// °C of the hottest sensor, where there is one.
    #[serde(rename = "node.temperature")]
    NodeTemperature,
    /// Percent of the swap that is used; 0 where there is none.
    #[serde(rename = "node.swap")]
    NodeSwap,
    /// Percent of one core: 150 is one and a half cores.
    #[serde(rename = "container.cpu")]
    ContainerCpu,
    /// Percent of its limit, or of its node's memory where it has none.
    #[serde(rename = "container.memory")]
    ContainerMemory,
}

impl AlertMetric {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NodeCpu => "node.cpu",
            Self::NodeMemory => "node.memory",
            Self::NodeDisk => "node.disk",
            Self::NodeLoad => "node.load",
            Self::NodeTemperature => "node.temperature",
            Self::NodeSwap => "node.swap",
            Self::ContainerCpu => "container.cpu",
            Self::ContainerMemory => "container.memory",
        }
    }
    pub fn kind(self) -> AlertTargetKind {
        match self {
            Self::NodeCpu | Self::NodeMemory | Self::NodeDisk | Self::NodeLoad | Self::NodeTemperature | Self::NodeSwap => {
                AlertTargetKind::Node
            }
            Self::ContainerCpu | Self::ContainerMemory => AlertTargetKind::Container,
        }
    }
    /// As sentences begin.
    pub fn words(self) -> &'static str {
        match self {
            Self::NodeCpu | Self::ContainerCpu => "CPU use",
            Self::NodeMemory | Self::ContainerMemory => "memory use",
            Self::NodeDisk => "disk use",
            Self::NodeLoad => "load",
            Self::NodeTemperature => "temperature",
            Self::NodeSwap => "swap use",
        }
    }
    pub fn unit(self) -> &'static str {
        match self {
            Self::NodeLoad => "",
            Self::NodeTemperature => " °C",
            Self::NodeCpu | Self::NodeMemory | Self::NodeDisk | Self::NodeSwap | Self::ContainerCpu | Self::ContainerMemory => "%",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum AlertOp {
    Above,
    Below,
}

/// A limit or a measured value: any number that is one.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Amount(f64);

impl Amount {
    const MOST: f64 = 1e12;

    pub fn new(value: f64) -> Option<Self> {
        (-Self::MOST..=Self::MOST).contains(&value).then_some(Self(value))
    }
    /// `value`, moved to the nearest bound where it lies outside.
    pub const fn clamped(value: f64) -> Self {
        Self(value.clamp(-Self::MOST, Self::MOST))
    }
    pub fn get(self) -> f64 {
        self.0
    }
}
impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(f64::deserialize(d)?).ok_or_else(|| serde::de::Error::custom("a value is a number from -1e12 to 1e12"))
    }
}
impl utoipa::PartialSchema for Amount {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Number)
            .minimum(Some(-Self::MOST))
            .maximum(Some(Self::MOST))
            .into()
    }
}
impl ToSchema for Amount {
    fn name() -> std::borrow::Cow<'static, str> {
        "AlertAmount".into()
    }
}

/// What makes an alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "camelCase", try_from = "Body")]
pub enum AlertCondition {
    /// A server's health, or one check of it where `check` says which.
    Health {
        status: AlertHealth,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        check: Option<Check>,
    },
    /// A measured value beyond a limit.
    Metric {
        metric: AlertMetric,
        op: AlertOp,
        value: Amount,
        /// Where it must come back to before the alert is over; the limit itself by default.
        #[serde(default, rename = "resolveAt", skip_serializing_if = "Option::is_none")]
        resolve_at: Option<Amount>,
    },
    /// A node whose agent is not connected.
    NodeLost {},
    /// A container that should run and does not, or that ends and is started again and again.
    ContainerDown {},
    /// A node or a container with a backup config that is in trouble: a backup failed, a slot was missed, its repository is damaged,
    /// or the last one is less than half or more than twice as big as those before it.
    BackupTrouble {},
}

impl AlertCondition {
    /// The kind of server it is about, where it can be one only.
    pub fn kind(&self) -> Option<AlertTargetKind> {
        match self {
            Self::Health { .. } => None,
            Self::Metric { metric, .. } => Some(metric.kind()),
            Self::NodeLost {} => Some(AlertTargetKind::Node),
            Self::ContainerDown {} => Some(AlertTargetKind::Container),
            Self::BackupTrouble {} => None,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Health,
    Metric,
    NodeLost,
    ContainerDown,
    BackupTrouble,
}

/// A condition as it is read: flat, so that a field that can't be taken is named by its path.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Body {
    r#type: Kind,
    status: Option<AlertHealth>,
    check: Option<Check>,
    metric: Option<AlertMetric>,
    op: Option<AlertOp>,
    value: Option<Amount>,
    resolve_at: Option<Amount>,
}

impl TryFrom<Body> for AlertCondition {
    type Error = BadText;
    fn try_from(body: Body) -> Result<Self, BadText> {
        fn needed<T>(field: Option<T>, name: &str) -> Result<T, BadText> {
            // As the parser says it, so that the refusal names the field.
            field.ok_or_else(|| BadText(format!("missing field `{name}`")))
        }
        let Body {
            r#type,
            status,
            check,
            metric,
            op,
            value,
            resolve_at,
        } = body;
        let of_health = [("status", status.is_some()), ("check", check.is_some())];
        let of_metric = [
            ("metric", metric.is_some()),
            ("op", op.is_some()),
            ("value", value.is_some()),
            ("resolveAt", resolve_at.is_some()),
        ];
        let strange: Vec<_> = match r#type {
            Kind::Health => of_metric.into(),
            Kind::Metric => of_health.into(),
            Kind::NodeLost | Kind::ContainerDown | Kind::BackupTrouble => of_health.into_iter().chain(of_metric).collect(),
        };
        if let Some((name, _)) = strange.into_iter().find(|(_, sent)| *sent) {
            return Err(BadText(format!("unknown field `{name}`: conditions of this type have none")));
        }
        Ok(match r#type {
            Kind::Health => Self::Health {
                status: needed(status, "status")?,
                check,
            },
            Kind::Metric => Self::Metric {
                metric: needed(metric, "metric")?,
                op: needed(op, "op")?,
                value: needed(value, "value")?,
                resolve_at,
            },
            Kind::NodeLost => Self::NodeLost {},
            Kind::ContainerDown => Self::ContainerDown {},
            Kind::BackupTrouble => Self::BackupTrouble {},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn conditions_read_back_and_refuse_what_is_not_theirs() {
        let read = |v: &Value| serde_json::from_value::<AlertCondition>(v.clone());
        for good in [
            json!({ "type": "health", "status": "notHealthy" }),
            json!({ "type": "health", "status": "unhealthy", "check": "disk" }),
            json!({ "type": "metric", "metric": "node.cpu", "op": "above", "value": 90.0, "resolveAt": 80.0 }),
            json!({ "type": "nodeLost" }),
            json!({ "type": "containerDown" }),
            json!({ "type": "backupTrouble" }),
        ] {
            assert_eq!(serde_json::to_value(read(&good).unwrap()).unwrap(), good);
        }
        for (bad, says) in [
            (json!({ "type": "health" }), "missing field `status`"),
            (json!({ "type": "metric", "op": "above", "value": 1 }), "missing field `metric`"),
            (json!({ "type": "nodeLost", "value": 1 }), "unknown field `value`"),
            (
                json!({ "type": "health", "status": "unhealthy", "op": "above" }),
                "unknown field `op`",
            ),
            (json!({ "type": "moon" }), "unknown variant `moon`"),
            (json!({ "type": "nodeLost", "moon": 1 }), "unknown field `moon`"),
            (
                json!({ "type": "metric", "metric": "node.cpu", "op": "above", "value": 1e13 }),
                "from -1e12",
            ),
        ] {
            let error = read(&bad).unwrap_err().to_string();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }
}
