//! Rules, as operators manage them.

use super::{Alerts, rows};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::idempotency;
use crate::service::refusals;
use nm_plan::alerts::Pace;
use nm_store::{Kind, NewResource, Patch, Resource};
use nm_types::alert::{
    AlertCondition, AlertMetric, AlertNote, AlertOp, AlertRuleUpdate, AlertRuleView, AlertServerKey, AlertSeverity, AlertTarget,
    AlertTargetKind, CHANNELS_AT_MOST, NewAlertRule,
};
use nm_types::envelope::FieldProblem;
use nm_types::text::Title;
use nm_types::{AlertRuleId, ChannelId};
use serde::{Deserialize, Serialize};
use serde_json::json;

const MOST: i64 = 500;

/// A rule's spec column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleSpec {
    pub enabled: bool,
    pub target: AlertTarget,
    pub condition: AlertCondition,
    /// Seconds.
    #[serde(rename = "for")]
    pub hold: i64,
    pub severity: AlertSeverity,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<i64>,
    #[serde(default)]
    pub channels: Vec<ChannelId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<AlertNote>,
}

impl RuleSpec {
    pub(super) fn pace(&self) -> Pace {
        Pace {
            hold: self.hold * 1000,
            repeat: self.repeat.map(|s| s * 1000),
        }
    }
    pub(super) fn metric(&self) -> Option<AlertMetric> {
        match &self.condition {
            AlertCondition::Metric { metric, .. } => Some(*metric),
            AlertCondition::Health { .. }
            | AlertCondition::NodeLost {}
            | AlertCondition::ContainerDown {}
            | AlertCondition::BackupTrouble {} => None,
        }
    }

    /// Fields that can't stand beside each other.
    fn clashes(&self) -> Vec<FieldProblem> {
        let mut out = Vec::new();
        let mut clash = |field: &str, message: String| {
            out.push(FieldProblem {
                field: field.into(),
                message,
            });
        };
        let AlertTarget { kind, id, label, all } = &self.target;
        if usize::from(id.is_some()) + usize::from(label.is_some()) + usize::from(*all) != 1 {
            clash("target", "a target has exactly one of `id`, `label` and `all`".into());
        }
        if let (Some(kind), Some(only)) = (kind, self.condition.kind())
            && *kind != only
        {
            clash(
                "target.kind",
                format!("this condition is about a {}, and not about a {}", only.as_str(), kind.as_str()),
            );
        }
        if let AlertCondition::Metric {
            op,
            value,
            resolve_at: Some(end),
            ..
        } = &self.condition
        {
            let fits = match op {
                AlertOp::Above => end <= value,
                AlertOp::Below => end >= value,
            };
            if !fits {
                let side = if *op == AlertOp::Above { "above" } else { "below" };
                clash(
                    "condition.resolveAt",
                    format!("the alert would be over while the value is still {side} its limit"),
                );
            }
        }
        out
    }
}

/// A rule, and the revision that `If-Match` can name.
type Versioned = (AlertRuleView, i64);

fn versioned(row: &Resource) -> ApiResult<Versioned> {
    let spec: RuleSpec = row.spec()?;
    let view = AlertRuleView {
        id: rows::id(AlertRuleId::parse(&row.id))?,
        name: rows::title(row)?,
        enabled: spec.enabled,
        target: spec.target,
        condition: spec.condition,
        hold: spec.hold,
        severity: spec.severity,
        repeat: spec.repeat,
        channels: spec.channels,
        message: spec.message,
        created: row.created_at,
        updated: row.updated_at,
    };
    Ok((view, row.revision))
}

impl Alerts {
    pub async fn rules(&self) -> ApiResult<Vec<AlertRuleView>> {
        let rows = self.store.all(Kind::AlertRule).await?;
        rows.iter().map(|row| Ok(versioned(row)?.0)).collect()
    }

    /// By id or name.
    pub async fn rule(&self, key: &str) -> ApiResult<Versioned> {
        versioned(&self.find_rule(key).await?)
    }

    pub(super) async fn find_rule(&self, key: &str) -> ApiResult<Resource> {
        rows::find(&self.store, Kind::AlertRule, "alert rule", key).await
    }

    /// `body` is the request's, to tell a repeated one from another.
    pub async fn create_rule(&self, actor: &Actor, meta: &Meta, new: NewAlertRule, body: &[u8]) -> ApiResult<Versioned> {
        let NewAlertRule {
            name,
            enabled,
            target,
            condition,
            hold,
            severity,
            repeat,
            channels,
            message,
        } = new;
        let spec = RuleSpec {
            enabled,
            target,
            condition,
            hold: hold.map_or(0, |h| h.get()),
            severity,
            repeat: repeat.map(|r| r.get()),
            channels: self.channels_named(&channels).await?,
            message,
        };
        let spec = self.checked(spec).await?;
        refusals::not_an_id(&name, AlertRuleId::PREFIX)?;
        let now = self.clock.now();
        let mut tx = self.store.begin(now).await?;
        let key = meta.idempotency_key.as_deref();
        if let Some(answer) = idempotency::answered(&mut tx, actor, key, || self.fingerprints.of(meta, &[body])).await? {
            return Ok(answer);
        }
        rows::room(&mut tx, Kind::AlertRule, MOST, "alert rules").await?;
        let id = AlertRuleId::fresh(now.0);
        let row = NewResource::new(Kind::AlertRule, id.as_str())
            .uniquely_named(name.as_str())
            .spec(&spec)?;
        let row = tx.insert(row).await.map_err(|e| rows::taken(e, "an alert rule", &name))?;
        let detail = json!({ "name": name, "spec": spec });
        tx.audit(audit(actor, meta, "alertRule.create", Some(id.as_str()), detail)).await?;
        let made = versioned(&row)?;
        idempotency::keep(&mut tx, actor, key, &made).await?;
        self.settle(tx).await?;
        Ok(made)
    }

    pub async fn update_rule(&self, actor: &Actor, meta: &Meta, key: &str, change: AlertRuleUpdate) -> ApiResult<Versioned> {
        let known = self.find_rule(key).await?;
        refusals::if_match(&known, meta)?;
        let detail = serde_json::to_value(&change).unwrap_or_default();
        let AlertRuleUpdate {
            name,
            enabled,
            target,
            condition,
            hold,
            severity,
            repeat,
            channels,
            message,
        } = change;
        let old: RuleSpec = known.spec()?;
        let channels = match channels {
            Some(named) => self.channels_named(&named).await?,
            None => old.channels,
        };
        let spec = RuleSpec {
            enabled: enabled.unwrap_or(old.enabled),
            target: target.unwrap_or(old.target),
            condition: condition.unwrap_or(old.condition),
            hold: hold.map_or(old.hold, |h| h.get()),
            severity: severity.unwrap_or(old.severity),
            repeat: repeat.map_or(old.repeat, |r| r.map(|r| r.get())),
            channels,
            message: message.unwrap_or(old.message),
        };
        // What stands there already is not looked for again: its server may be gone, and the rule can be switched off all the same.
        let spec = if known.spec::<RuleSpec>()?.target == spec.target {
            consistent(spec)?
        } else {
            self.checked(spec).await?
        };
        // On top of what was read, so that nobody's change in between is lost.
        let mut patch = Patch::new().spec(&spec)?.if_revision(known.revision);
        if let Some(name) = &name {
            refusals::not_an_id(name, AlertRuleId::PREFIX)?;
            patch = patch.name(name.as_str());
        }
        let mut tx = self.store.begin(self.clock.now()).await?;
        let row = tx.update(Kind::AlertRule, &known.id, patch).await.map_err(|e| match &name {
            Some(name) => rows::taken(e, "an alert rule", name),
            None => e.into(),
        })?;
        tx.audit(audit(actor, meta, "alertRule.update", Some(&known.id), detail)).await?;
        self.settle(tx).await?;
        versioned(&row)
    }

    /// Removes a rule. Its alerts are over, and those who were told hear so.
    pub async fn remove_rule(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<Title> {
        let known = self.find_rule(key).await?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        let row = rows::held(&mut tx, Kind::AlertRule, "alert rule", &known.id, meta).await?;
        tx.delete(Kind::AlertRule, &row.id).await?;
        let detail = json!({ "name": row.name });
        tx.audit(audit(actor, meta, "alertRule.remove", Some(&row.id), detail)).await?;
        self.settle(tx).await?;
        rows::title(&row)
    }

    /// The channels a rule names, each once.
    async fn channels_named(&self, named: &[Title]) -> ApiResult<Vec<ChannelId>> {
        if named.len() > CHANNELS_AT_MOST {
            return Err(ApiError::invalid(
                "channels",
                format!("a rule tells at most {CHANNELS_AT_MOST} channels"),
            ));
        }
        let mut out: Vec<ChannelId> = Vec::new();
        for (n, key) in named.iter().enumerate() {
            let row = self
                .find_channel(key.as_str())
                .await
                .map_err(|e| e.field(format!("channels[{n}]")))?;
            let id = rows::id(ChannelId::parse(&row.id))?;
            if !out.contains(&id) {
                out.push(id);
            }
        }
        Ok(out)
    }

    /// The spec, with the id of the server it names.
    async fn checked(&self, spec: RuleSpec) -> ApiResult<RuleSpec> {
        let mut spec = consistent(spec)?;
        let kind = spec.target.kind.or(spec.condition.kind());
        if let Some(named) = &spec.target.id {
            let (id, kind) = self.find_server(named.as_str(), kind).await.map_err(|e| e.field("target.id"))?;
            spec.target.id = AlertServerKey::parse(&id).ok();
            spec.target.kind = Some(kind);
        }
        Ok(spec)
    }

    /// The one server with this id or name, of this kind where one is meant.
    pub(super) async fn find_server(&self, key: &str, kind: Option<AlertTargetKind>) -> ApiResult<(String, AlertTargetKind)> {
        let wants = |k| kind.is_none_or(|kind| kind == k);
        if wants(AlertTargetKind::Node)
            && let Ok(id) = self.nodes.find(key)
        {
            return Ok((id.to_string(), AlertTargetKind::Node));
        }
        if wants(AlertTargetKind::Container) {
            match self.index.find(key) {
                Ok(record) => return Ok((record.id.to_string(), AlertTargetKind::Container)),
                Err(0) => {}
                Err(many) => {
                    return Err(ApiError::conflict(
                        "name_ambiguous",
                        format!("{many} containers are named `{key}`: use the id of one"),
                    ));
                }
            }
        }
        if wants(AlertTargetKind::Address)
            && let Ok(row) = rows::find(&self.store, Kind::Server, "server", key).await
        {
            return Ok((row.id, AlertTargetKind::Address));
        }
        Err(ApiError::not_found(kind.map_or("server", AlertTargetKind::as_str), key))
    }
}

fn consistent(spec: RuleSpec) -> ApiResult<RuleSpec> {
    let clashes = spec.clashes();
    if clashes.is_empty() {
        Ok(spec)
    } else {
        Err(ApiError::clashing_fields(clashes))
    }
}
