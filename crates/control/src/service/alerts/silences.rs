//! Silences: times in which alerts are not told.

use super::{Alerts, rows};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::idempotency;
use crate::service::refusals;
use nm_plan::alerts::Silence;
use nm_store::{Kind, NewResource, Patch, Resource};
use nm_types::alert::{AlertMatcher, AlertNote, AlertServerKey, AlertSilenceUpdate, AlertSilenceView, NewAlertSilence};
use nm_types::text::Title;
use nm_types::{SilenceId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;

const MOST: i64 = 1_000;
/// Whoever silences something for longer wants to change a rule.
const LONGEST_MS: i64 = 366 * 24 * 3_600_000;

/// A silence's spec column. The matcher holds ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SilenceSpec {
    pub matcher: AlertMatcher,
    pub from: Timestamp,
    pub until: Timestamp,
    pub comment: AlertNote,
    pub created_by: String,
}

impl SilenceSpec {
    pub(super) fn as_plan(&self) -> Silence<'_> {
        Silence {
            rule: self.matcher.rule_id.as_ref().map(Title::as_str),
            server: self.matcher.server_id.as_ref().map(AlertServerKey::as_str),
            severity: self.matcher.severity,
            from: self.from,
            until: self.until,
        }
    }

    fn check(&self, now: Timestamp) -> ApiResult<()> {
        let problem = if self.until <= self.from {
            "it would end before it begins"
        } else if self.until <= now {
            "it lies in the past: a silence is ended by removing it"
        } else if self.until.since(self.from) > LONGEST_MS {
            "a silence lasts a year at most: change or disable the rule"
        } else {
            return Ok(());
        };
        Err(ApiError::clashing_fields(vec![nm_types::envelope::FieldProblem {
            field: "until".into(),
            message: problem.into(),
        }]))
    }
}

/// A silence, and the revision that `If-Match` can name.
type Versioned = (AlertSilenceView, i64);

impl Alerts {
    fn silence_view(&self, row: &Resource) -> ApiResult<Versioned> {
        let spec: SilenceSpec = row.spec()?;
        let active = spec.as_plan().is_active(self.clock.now());
        let view = AlertSilenceView {
            id: rows::id(SilenceId::parse(&row.id))?,
            matcher: spec.matcher,
            from: spec.from,
            until: spec.until,
            comment: spec.comment,
            active,
            created_by: spec.created_by,
            created: row.created_at,
            updated: row.updated_at,
        };
        Ok((view, row.revision))
    }

    pub async fn silences(&self) -> ApiResult<Vec<AlertSilenceView>> {
        let rows = self.store.all(Kind::AlertSilence).await?;
        rows.iter().map(|row| Ok(self.silence_view(row)?.0)).collect()
    }

    async fn find_silence(&self, id: &str) -> ApiResult<Resource> {
        let found = self.store.get(Kind::AlertSilence, id).await?;
        found.ok_or_else(|| ApiError::not_found("alert silence", id))
    }

    pub async fn silence(&self, id: &str) -> ApiResult<Versioned> {
        self.silence_view(&self.find_silence(id).await?)
    }

    /// `body` is the request's, to tell a repeated one from another.
    pub async fn create_silence(&self, actor: &Actor, meta: &Meta, new: NewAlertSilence, body: &[u8]) -> ApiResult<Versioned> {
        let now = self.clock.now();
        let mut matcher = new.matcher;
        if let Some(named) = &matcher.rule_id {
            let rule = self.find_rule(named.as_str()).await.map_err(|e| e.field("matcher.ruleId"))?;
            matcher.rule_id = Title::parse(&rule.id).ok();
        }
        if let Some(named) = &matcher.server_id {
            let (id, _) = self
                .find_server(named.as_str(), None)
                .await
                .map_err(|e| e.field("matcher.serverId"))?;
            matcher.server_id = AlertServerKey::parse(&id).ok();
        }
        let spec = SilenceSpec {
            matcher,
            from: new.from.unwrap_or(now),
            until: new.until,
            comment: new.comment,
            created_by: actor.label(),
        };
        spec.check(now)?;
        let mut tx = self.store.begin(now).await?;
        let key = meta.idempotency_key.as_deref();
        if let Some(answer) = idempotency::answered(&mut tx, actor, key, || self.fingerprints.of(meta, &[body])).await? {
            return Ok(answer);
        }
        rows::room(&mut tx, Kind::AlertSilence, MOST, "silences").await?;
        let id = SilenceId::fresh(now.0);
        let row = tx.insert(NewResource::new(Kind::AlertSilence, id.as_str()).spec(&spec)?).await?;
        tx.audit(audit(
            actor,
            meta,
            "alertSilence.create",
            Some(id.as_str()),
            json!({ "spec": spec }),
        ))
        .await?;
        let made = self.silence_view(&row)?;
        idempotency::keep(&mut tx, actor, key, &made).await?;
        self.settle(tx).await?;
        Ok(made)
    }

    pub async fn update_silence(&self, actor: &Actor, meta: &Meta, id: &str, change: AlertSilenceUpdate) -> ApiResult<Versioned> {
        let known = self.find_silence(id).await?;
        refusals::if_match(&known, meta)?;
        let detail = serde_json::to_value(&change).unwrap_or_default();
        let mut spec: SilenceSpec = known.spec()?;
        if let Some(until) = change.until {
            spec.until = until;
            spec.check(self.clock.now())?;
        }
        if let Some(comment) = change.comment {
            spec.comment = comment;
        }
        let mut tx = self.store.begin(self.clock.now()).await?;
        let patch = Patch::new().spec(&spec)?.if_revision(known.revision);
        let row = tx.update(Kind::AlertSilence, &known.id, patch).await?;
        tx.audit(audit(actor, meta, "alertSilence.update", Some(&known.id), detail)).await?;
        self.settle(tx).await?;
        self.silence_view(&row)
    }

    /// Ends a silence. What fires and nobody was told of is told now.
    pub async fn remove_silence(&self, actor: &Actor, meta: &Meta, id: &str) -> ApiResult<()> {
        let mut tx = self.store.begin(self.clock.now()).await?;
        let row = rows::held(&mut tx, Kind::AlertSilence, "alert silence", id, meta).await?;
        let spec: SilenceSpec = row.spec()?;
        tx.delete(Kind::AlertSilence, &row.id).await?;
        let detail = json!({ "comment": spec.comment });
        tx.audit(audit(actor, meta, "alertSilence.remove", Some(&row.id), detail)).await?;
        self.settle(tx).await?;
        Ok(())
    }
}
