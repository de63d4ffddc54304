//! Alerts: rules over what is seen, what they found, and when nobody wants to hear of it. Where they are told is in
//! [`channel`].

pub mod channel;
mod condition;

pub use condition::{AlertCheck, AlertCondition, AlertHealth, AlertMetric, AlertOp, Amount};

use crate::text::{BadText, Title, string_schema};
use crate::units::Bounded;
use crate::{AlertId, AlertRuleId, ChannelId, DeliveryId, SilenceId, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum AlertSeverity {
    Info,
    #[default]
    Warning,
    Critical,
}

impl AlertSeverity {
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What a rule can be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum AlertTargetKind {
    Node,
    Container,
    /// An address that was registered by hand as a server.
    Address,
}

impl AlertTargetKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Container => "container",
            Self::Address => "address",
        }
    }
}

crate::text::texts! {
    /// Names a server: its id, or its name where only one has it.
    AlertServerKey {
        pattern: "^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$", max: 128,
        says: "a server is named by its id or its name: 1 to 128 letters, digits, `_`, `.` or `-`",
        ok: |t| t.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    }
    /// A label to look for: `key`, or `key=value`.
    AlertLabel {
        pattern: "^[a-zA-Z0-9](?:[a-zA-Z0-9_./-]{0,126}[a-zA-Z0-9])?(?:=[^\\x00-\\x1f\\x7f-\\x9f]*)?$", max: 400,
        says: "a label is `key` or `key=value`, with a key of 1 to 128 letters, digits, `_`, `.`, `/` or `-`, on one line",
        ok: |t| { let (key, value) = t.split_once('=').unwrap_or((t, ""));
            (1..=128).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_./-".contains(&b))
            && key.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && key.bytes().next_back().is_some_and(|b| b.is_ascii_alphanumeric())
            && !value.chars().any(char::is_control) }
    }
    /// What a person writes beside something: some lines.
    AlertNote {
        pattern: "^[^\\x00-\\x09\\x0b-\\x1f\\x7f-\\x9f]{1,1000}$", max: 1000,
        says: "a note has 1 to 1,000 characters, and no control characters but line ends",
        ok: |t| !t.is_empty() && !t.chars().any(|c| c.is_control() && c != '\n')
    }
}

impl AlertLabel {
    pub fn key(&self) -> &str {
        self.as_str().split_once('=').map_or(self.as_str(), |(key, _)| key)
    }
    pub fn value(&self) -> Option<&str> {
        self.as_str().split_once('=').map(|(_, value)| value)
    }
}

/// Which servers a rule looks at: exactly one of `id`, `label` and `all`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AlertTarget {
    /// Only servers of this kind. A condition that only one kind can meet says it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<AlertTargetKind>,
    /// This one server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<AlertServerKey>,
    /// Every server with this label: `key`, or `key=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<AlertLabel>,
    /// Every server.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub all: bool,
}

/// The most channels one rule tells.
pub const CHANNELS_AT_MOST: usize = 20;

/// Seconds that something must last before its alert fires; a week at most.
pub type AlertFor = Bounded<0, 604_800>;
/// Seconds between reminders of an alert that goes on: a minute to a week.
pub type AlertRepeat = Bounded<60, 604_800>;

fn yes() -> bool {
    true
}

/// Reads a field that was sent, `null` included: for fields that `null` empties.
fn sent<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(d).map(Some)
}

/// A rule to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewAlertRule {
    pub name: Title,
    #[serde(default = "yes")]
    #[schema(required = false, default = true)]
    pub enabled: bool,
    pub target: AlertTarget,
    pub condition: AlertCondition,
    /// Seconds for which it must hold before the alert fires; 0 by default: at once.
    #[serde(default, rename = "for")]
    #[schema(inline)]
    pub hold: Option<AlertFor>,
    /// `warning` by default.
    #[serde(default)]
    pub severity: AlertSeverity,
    /// Seconds after which an alert that goes on is told again; never by default.
    #[serde(default)]
    #[schema(inline)]
    pub repeat: Option<AlertRepeat>,
    /// Ids or names of the channels it is told to.
    #[serde(default)]
    #[schema(max_items = 20)]
    pub channels: Vec<Title>,
    /// What to do about it, for whoever is told.
    #[serde(default)]
    pub message: Option<AlertNote>,
}

/// A change to a rule: only what is sent changes, and `null` empties `repeat` and `message`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AlertRuleUpdate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Title>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<AlertTarget>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<AlertCondition>,
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub hold: Option<AlertFor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<AlertSeverity>,
    #[serde(default, deserialize_with = "sent", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<AlertRepeat>, inline)]
    pub repeat: Option<Option<AlertRepeat>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 20)]
    pub channels: Option<Vec<Title>>,
    #[serde(default, deserialize_with = "sent", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<AlertNote>)]
    pub message: Option<Option<AlertNote>>,
}

/// A rule as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertRuleView {
    pub id: AlertRuleId,
    pub name: Title,
    pub enabled: bool,
    pub target: AlertTarget,
    pub condition: AlertCondition,
    /// Seconds for which it must hold before the alert fires.
    #[serde(rename = "for")]
    pub hold: i64,
    pub severity: AlertSeverity,
    /// Seconds after which an alert that goes on is told again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<i64>,
    pub channels: Vec<ChannelId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<AlertNote>,
    pub created: Timestamp,
    pub updated: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum AlertState {
    /// It holds, but not for long enough yet. Nobody is told.
    Pending,
    Firing,
    /// It is over.
    Resolved,
}

impl AlertState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// One alert: a rule that came true for one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertView {
    pub id: AlertId,
    pub rule_id: AlertRuleId,
    pub rule_name: Title,
    pub server_id: String,
    pub server_name: String,
    pub server_kind: AlertTargetKind,
    pub severity: AlertSeverity,
    pub state: AlertState,
    /// Since when it holds.
    pub since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fired_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<Timestamp>,
    /// What was measured when it last was told or changed its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// What was seen, and its limit, in a sentence; then the rule's own message.
    pub message: String,
    /// It fires again and again: it resolves only after it has been well for longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub flapping: bool,
    /// The silence that keeps it from being told now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silenced_by: Option<SilenceId>,
    /// When somebody said that they look after it; no reminders are sent from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_by: Option<String>,
}

/// An alert with what became of each word of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertDetail {
    #[serde(flatten)]
    pub alert: AlertView,
    /// Oldest first.
    pub deliveries: Vec<AlertDeliveryView>,
}

/// What of an alert is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum AlertEvent {
    Firing,
    /// It still fires.
    Reminder,
    Resolved,
    /// Somebody pressed the test button.
    Test,
}

impl AlertEvent {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Reminder => "reminder",
            Self::Resolved => "resolved",
            Self::Test => "test",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum AlertDeliveryState {
    /// On its way; tried again where it failed.
    #[default]
    Waiting,
    Delivered,
    /// Given up: 24 hours passed, or its channel is gone.
    Failed,
}

/// One word of an alert on its way to one channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertDeliveryView {
    /// Sent along as `X-NeuralMesh-Delivery`: the same for each attempt.
    pub id: DeliveryId,
    pub channel_id: ChannelId,
    /// Absent once the channel is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_name: Option<Title>,
    pub event: AlertEvent,
    pub state: AlertDeliveryState,
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    pub created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<Timestamp>,
}

/// Which alerts a silence is for: those that meet all that is named. Nothing named: every alert.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AlertMatcher {
    /// Id or name of a rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_id: Option<Title>,
    /// Id or name of a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<AlertServerKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<AlertSeverity>,
}

/// A silence to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewAlertSilence {
    pub matcher: AlertMatcher,
    /// Now by default.
    #[serde(default)]
    pub from: Option<Timestamp>,
    pub until: Timestamp,
    pub comment: AlertNote,
}

/// A change to a silence: only what is sent changes.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AlertSilenceUpdate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<AlertNote>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertSilenceView {
    pub id: SilenceId,
    pub matcher: AlertMatcher,
    pub from: Timestamp,
    pub until: Timestamp,
    pub comment: AlertNote,
    /// Whether it is in force now.
    pub active: bool,
    /// Who made it.
    pub created_by: String,
    pub created: Timestamp,
    pub updated: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn targets_and_texts() {
        let label = AlertLabel::parse("zone=a=b").unwrap();
        assert_eq!((label.key(), label.value()), ("zone", Some("a=b")));
        assert_eq!(AlertLabel::parse("zone").unwrap().value(), None);
        for bad in ["", "=a", "-a", "a b=c", "a=\n", "a-"] {
            assert!(AlertLabel::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "../x", "a b", "-a", "a;b"] {
            assert!(AlertServerKey::parse(bad).is_err(), "{bad:?}");
        }
        assert!(AlertNote::parse("a\nb").is_ok() && AlertNote::parse("a\rb").is_err() && AlertNote::parse("").is_err());
    }

    #[test]
    fn null_empties_and_nothing_leaves() {
        let read = |v| serde_json::from_value::<AlertRuleUpdate>(v).unwrap();
        assert_eq!(read(json!({})).repeat, None);
        assert_eq!(read(json!({ "repeat": null })).repeat, Some(None));
        assert_eq!(read(json!({ "repeat": 60 })).repeat.unwrap().unwrap().get(), 60);
        assert!(serde_json::from_value::<AlertRuleUpdate>(json!({ "repeat": 59 })).is_err());
    }
}
