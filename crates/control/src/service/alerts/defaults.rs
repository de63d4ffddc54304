//! The rules every fleet begins with. They tell nobody until somebody gives them channels; the dashboard shows their alerts.

use super::Alerts;
use super::rules::RuleSpec;
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use nm_store::{Kind, NewResource};
use nm_types::AlertRuleId;
use nm_types::alert::{AlertCondition, AlertHealth, AlertMetric, AlertOp, AlertSeverity, AlertTarget, AlertTargetKind, Amount};
use serde_json::json;

/// The setting that says that they were made, so that those which were removed stay so.
const MADE: &str = "alerts.defaults";

fn rule(kind: AlertTargetKind, condition: AlertCondition, hold: i64, severity: AlertSeverity) -> RuleSpec {
    RuleSpec {
        enabled: true,
        target: AlertTarget {
            kind: Some(kind),
            all: true,
            ..AlertTarget::default()
        },
        condition,
        hold,
        severity,
        repeat: None,
        channels: Vec::new(),
        message: None,
    }
}

fn defaults() -> [(&'static str, RuleSpec); 5] {
    use AlertSeverity::{Critical, Warning};
    use AlertTargetKind::{Container, Node};
    let disk = AlertCondition::Metric {
        metric: AlertMetric::NodeDisk,
        op: AlertOp::Above,
        value: Amount::clamped(90.0),
        resolve_at: Some(Amount::clamped(85.0)),
    };
    let unhealthy = AlertCondition::Health {
        status: AlertHealth::Unhealthy,
        check: None,
    };
    let backups = RuleSpec {
        target: AlertTarget {
            all: true,
            ..AlertTarget::default()
        },
        ..rule(Node, AlertCondition::BackupTrouble {}, 0, Warning)
    };
    [
        ("Node lost", rule(Node, AlertCondition::NodeLost {}, 15, Critical)),
        ("Disk nearly full", rule(Node, disk, 60, Warning)),
        ("Container down", rule(Container, AlertCondition::ContainerDown {}, 60, Warning)),
        ("Node unhealthy", rule(Node, unhealthy, 60, Warning)),
        ("Backup in trouble", backups),
    ]
}

impl Alerts {
    /// Makes them on the first start.
    pub(super) async fn make_defaults(&self) -> ApiResult<()> {
        if self.store.get(Kind::Setting, MADE).await?.is_some() {
            return Ok(());
        }
        let now = self.clock.now();
        let mut tx = self.store.begin(now).await?;
        // Another control plane may have been first.
        if tx.get(Kind::Setting, MADE).await?.is_some() {
            return Ok(());
        }
        let (actor, meta) = (Actor::system(), Meta::internal());
        for (name, spec) in defaults() {
            let id = AlertRuleId::fresh(now.0);
            let detail = serde_json::to_value(&spec).map_err(|_| ApiError::internal())?;
            let row = NewResource::new(Kind::AlertRule, id.as_str()).uniquely_named(name).spec(&spec)?;
            tx.insert(row).await?;
            tx.audit(audit(
                &actor,
                &meta,
                "alertRule.create",
                Some(id.as_str()),
                json!({ "name": name, "spec": detail }),
            ))
            .await?;
        }
        tx.insert(NewResource::new(Kind::Setting, MADE)).await?;
        tx.commit().await?;
        Ok(())
    }
}
