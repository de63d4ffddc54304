//! The audit log.

use super::error::ApiResult;
use super::extract::Query;
use super::reply::Reply;
use super::route::{Policy, Route, route};
use crate::app::App;
use axum::extract::State;
use http::Method;
use nm_store::{AuditQuery, AuditRecord};
use nm_types::Timestamp;
use nm_types::auth::{AuditBreak, AuditEntryView, AuditVerdict};
use nm_types::units::Bounded;
use serde::Deserialize;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListQuery {
    /// As the entries name it.
    actor: Option<String>,
    /// `auth.login`, `container.create`, …
    action: Option<String>,
    /// What it was done to.
    target: Option<String>,
    /// `ok`, or the code of the error.
    outcome: Option<String>,
    /// From this moment on.
    #[param(inline)]
    from: Option<Timestamp>,
    /// Before this moment.
    #[param(inline)]
    until: Option<Timestamp>,
    /// How many a page; 50 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 200>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    cursor: Option<Bounded<1, 9_007_199_254_740_991>>,
}

pub fn routes() -> Vec<Route> {
    let read = Policy::admin_read("audit");
    vec![
        route(Method::GET, "/api/audit", read, "The audit log, newest first", list)
            .query::<ListQuery>()
            .list::<AuditEntryView>(),
        route(
            Method::GET,
            "/api/audit/verify",
            read,
            "Check that the whole audit log is as it was written",
            verify,
        )
        .ok::<AuditVerdict>()
        .long(),
    ]
}

async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> ApiResult<Reply<Vec<AuditEntryView>>> {
    let limit = super::tokens::page(query.limit);
    let wanted = AuditQuery {
        before: query.cursor.map(|c| c.get()),
        limit: limit + 1,
        actor: query.actor,
        action: query.action,
        target: query.target,
        outcome: query.outcome,
        from: query.from,
        until: query.until,
    };
    let mut records = app.store.audit_log(&wanted).await?;
    let more = records.len() > limit as usize;
    records.truncate(limit as usize);
    let next = records.last().filter(|_| more).map(|r| r.seq.to_string());
    Ok(Reply::list(records.into_iter().map(view).collect(), next))
}

fn view(record: AuditRecord) -> AuditEntryView {
    let AuditRecord { seq, at, entry } = record;
    AuditEntryView {
        sequence: seq,
        time: at,
        actor: entry.actor,
        action: entry.action,
        target: entry.target,
        outcome: entry.outcome,
        address: entry.address,
        request_id: entry.request_id,
        detail: entry.detail,
    }
}

async fn verify(State(app): State<App>) -> ApiResult<Reply<AuditVerdict>> {
    let report = app.store.verify_audit().await?;
    let first_broken = report.first_broken.map(|b| AuditBreak {
        sequence: b.seq,
        reason: b.reason.into(),
    });
    Ok(Reply::ok(AuditVerdict {
        intact: first_broken.is_none(),
        entries: report.entries,
        first_broken,
    }))
}
