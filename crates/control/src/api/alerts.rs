//! Alerts, the rules that make them, the channels they are told through, and silences. Secrets of channels go in and never
//! come out, but for a signing key that was made here, once.

use super::error::ApiResult;
use super::extract::{Id, Json, Meta, Query, read_body};
use super::page::{PAGE, PageQuery, page};
use super::reply::Reply;
use super::route::{Nothing, Policy, Route, route};
use crate::app::App;
use crate::service::alerts::AlertFilter;
use crate::service::auth::Actor;
use axum::extract::{FromRequest, Request, State};
use http::Method;
use nm_types::alert::channel::{AlertChannelTest, AlertChannelUpdate, AlertChannelView, CreatedAlertChannel, NewAlertChannel};
use nm_types::alert::{
    AlertDetail, AlertRuleUpdate, AlertRuleView, AlertSeverity, AlertSilenceUpdate, AlertSilenceView, AlertState, AlertView, NewAlertRule,
    NewAlertSilence,
};
use nm_types::units::Bounded;
use nm_types::{AlertId, AlertRuleId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AlertsQuery {
    #[param(inline)]
    state: Option<AlertState>,
    #[param(inline)]
    severity: Option<AlertSeverity>,
    /// Id of a rule.
    #[param(inline)]
    rule_id: Option<AlertRuleId>,
    /// Id of a server.
    server_id: Option<String>,
    /// How many a page; 50 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 200>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    cursor: Option<AlertId>,
}

pub fn routes() -> Vec<Route> {
    let (read, write, admin) = (Policy::read("alerts"), Policy::write("alerts"), Policy::admin("alerts"));
    let (get, post, patch, delete) = (Method::GET, Method::POST, Method::PATCH, Method::DELETE);
    vec![
        route(get.clone(), "/api/alerts", read, "List alerts, newest first", list)
            .query::<AlertsQuery>()
            .list::<AlertView>(),
        route(get.clone(), "/api/alerts/{id}", read, "One alert, and how it was told", one).ok::<AlertDetail>(),
        route(
            post.clone(),
            "/api/alerts/{id}/acknowledge",
            write,
            "Say that you look after it: no more reminders",
            acknowledge,
        )
        .ok::<AlertView>(),
        route(get.clone(), "/api/alerts/rules", read, "List rules", rules)
            .query::<PageQuery>()
            .list::<AlertRuleView>(),
        route(post.clone(), "/api/alerts/rules", write, "Make a rule", create_rule)
            .body::<NewAlertRule>()
            .created::<AlertRuleView>()
            .idempotent(),
        route(get.clone(), "/api/alerts/rules/{id}", read, "One rule", rule).ok::<AlertRuleView>(),
        route(
            patch.clone(),
            "/api/alerts/rules/{id}",
            write,
            "Change, enable or disable a rule",
            update_rule,
        )
        .body::<AlertRuleUpdate>()
        .ok::<AlertRuleView>(),
        route(
            delete.clone(),
            "/api/alerts/rules/{id}",
            write,
            "Remove a rule: its alerts are over",
            remove_rule,
        )
        .ok::<Nothing>(),
        route(get.clone(), "/api/alerts/channels", read, "List channels", channels)
            .query::<PageQuery>()
            .list::<AlertChannelView>(),
        route(post.clone(), "/api/alerts/channels", admin, "Make a channel", create_channel)
            .body::<NewAlertChannel>()
            .created::<CreatedAlertChannel>()
            .idempotent(),
        route(get.clone(), "/api/alerts/channels/{id}", read, "One channel", channel).ok::<AlertChannelView>(),
        route(
            patch.clone(),
            "/api/alerts/channels/{id}",
            admin,
            "Change a channel",
            update_channel,
        )
        .body::<AlertChannelUpdate>()
        .ok::<AlertChannelView>(),
        route(
            delete.clone(),
            "/api/alerts/channels/{id}",
            admin,
            "Remove a channel that no rule tells",
            remove_channel,
        )
        .ok::<Nothing>(),
        route(
            post.clone(),
            "/api/alerts/channels/{id}/test",
            admin,
            "Send a word through a channel now",
            test_channel,
        )
        .ok::<AlertChannelTest>(),
        route(get.clone(), "/api/alerts/silences", read, "List silences", silences)
            .query::<PageQuery>()
            .list::<AlertSilenceView>(),
        route(post, "/api/alerts/silences", write, "Make a silence", create_silence)
            .body::<NewAlertSilence>()
            .created::<AlertSilenceView>()
            .idempotent(),
        route(get, "/api/alerts/silences/{id}", read, "One silence", silence).ok::<AlertSilenceView>(),
        route(
            patch,
            "/api/alerts/silences/{id}",
            write,
            "Change when a silence ends, or why it is",
            update_silence,
        )
        .body::<AlertSilenceUpdate>()
        .ok::<AlertSilenceView>(),
        route(delete, "/api/alerts/silences/{id}", write, "End a silence", remove_silence).ok::<Nothing>(),
    ]
}

/// The body, and the bytes it was read from, which tell a repeated request from another one with the same key.
async fn with_bytes<T: DeserializeOwned>(request: Request) -> ApiResult<(T, bytes::Bytes)> {
    let (parts, body) = request.into_parts();
    let bytes = read_body(body).await?;
    let request = Request::from_parts(parts, axum::body::Body::from(bytes.clone()));
    let Json(value) = Json::<T>::from_request(request, &()).await?;
    Ok((value, bytes))
}

async fn list(State(app): State<App>, Query(query): Query<AlertsQuery>) -> ApiResult<Reply<Vec<AlertView>>> {
    let filter = AlertFilter {
        state: query.state,
        severity: query.severity,
        rule: query.rule_id,
        server: query.server_id,
    };
    let limit = usize::try_from(query.limit.map_or(PAGE, |l| l.get())).unwrap_or(1);
    let (alerts, next) = app.alerts.list(&filter, query.cursor.as_ref(), limit).await?;
    Ok(Reply::list(alerts, next.map(|id| id.to_string())))
}

async fn one(State(app): State<App>, Id(id): Id) -> ApiResult<Reply<AlertDetail>> {
    let (alert, revision) = app.alerts.get(&id).await?;
    Ok(Reply::ok(alert).revision(revision))
}

async fn acknowledge(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<AlertView>> {
    let (alert, revision) = app.alerts.acknowledge(&actor, &meta, &id).await?;
    Ok(Reply::ok(alert).revision(revision).message("no more reminders of it are sent"))
}

async fn rules(State(app): State<App>, Query(query): Query<PageQuery>) -> ApiResult<Reply<Vec<AlertRuleView>>> {
    let all = app.alerts.rules().await?;
    Ok(page(all, query.limit, query.cursor.as_ref(), |r| r.id.to_string()))
}

async fn create_rule(State(app): State<App>, actor: Actor, meta: Meta, request: Request) -> ApiResult<Reply<AlertRuleView>> {
    let (body, bytes) = with_bytes::<NewAlertRule>(request).await?;
    let (rule, revision) = app.alerts.create_rule(&actor, &meta, body, &bytes).await?;
    let message = format!("rule `{}` was made", rule.name);
    Ok(Reply::created(rule, message).revision(revision))
}

async fn rule(State(app): State<App>, Id(id): Id) -> ApiResult<Reply<AlertRuleView>> {
    let (rule, revision) = app.alerts.rule(&id).await?;
    Ok(Reply::ok(rule).revision(revision))
}

async fn update_rule(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Json(body): Json<AlertRuleUpdate>,
) -> ApiResult<Reply<AlertRuleView>> {
    let (rule, revision) = app.alerts.update_rule(&actor, &meta, &id, body).await?;
    Ok(Reply::ok(rule).revision(revision).message("the rule was changed"))
}

async fn remove_rule(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<Nothing>> {
    let name = app.alerts.remove_rule(&actor, &meta, &id).await?;
    Ok(Reply::ok(Nothing {}).message(format!("rule `{name}` was removed; its alerts are over")))
}

async fn channels(State(app): State<App>, Query(query): Query<PageQuery>) -> ApiResult<Reply<Vec<AlertChannelView>>> {
    let all = app.alerts.channels().await?;
    Ok(page(all, query.limit, query.cursor.as_ref(), |c| c.id.to_string()))
}

async fn create_channel(State(app): State<App>, actor: Actor, meta: Meta, request: Request) -> ApiResult<Reply<CreatedAlertChannel>> {
    let (body, bytes) = with_bytes::<NewAlertChannel>(request).await?;
    let (channel, revision) = app.alerts.create_channel(&actor, &meta, body, &bytes).await?;
    let message = format!("channel `{}` was made; no rule tells it yet", channel.view.name);
    Ok(Reply::created(channel, message).revision(revision))
}

async fn channel(State(app): State<App>, Id(id): Id) -> ApiResult<Reply<AlertChannelView>> {
    let (channel, revision) = app.alerts.channel(&id).await?;
    Ok(Reply::ok(channel).revision(revision))
}

async fn update_channel(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Json(body): Json<AlertChannelUpdate>,
) -> ApiResult<Reply<AlertChannelView>> {
    let (channel, revision) = app.alerts.update_channel(&actor, &meta, &id, body).await?;
    Ok(Reply::ok(channel).revision(revision).message("the channel was changed"))
}

async fn remove_channel(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<Nothing>> {
    let name = app.alerts.remove_channel(&actor, &meta, &id).await?;
    Ok(Reply::ok(Nothing {}).message(format!("channel `{name}` was removed")))
}

async fn test_channel(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<AlertChannelTest>> {
    let test = app.alerts.test_channel(&actor, &meta, &id).await?;
    let message = match test.delivered {
        true => "the test message was delivered",
        false => "the test message was not delivered",
    };
    Ok(Reply::ok(test).message(message))
}

async fn silences(State(app): State<App>, Query(query): Query<PageQuery>) -> ApiResult<Reply<Vec<AlertSilenceView>>> {
    let all = app.alerts.silences().await?;
    Ok(page(all, query.limit, query.cursor.as_ref(), |s| s.id.to_string()))
}

async fn create_silence(State(app): State<App>, actor: Actor, meta: Meta, request: Request) -> ApiResult<Reply<AlertSilenceView>> {
    let (body, bytes) = with_bytes::<NewAlertSilence>(request).await?;
    let (silence, revision) = app.alerts.create_silence(&actor, &meta, body, &bytes).await?;
    let message = format!("silent until {}", silence.until);
    Ok(Reply::created(silence, message).revision(revision))
}

async fn silence(State(app): State<App>, Id(id): Id) -> ApiResult<Reply<AlertSilenceView>> {
    let (silence, revision) = app.alerts.silence(&id).await?;
    Ok(Reply::ok(silence).revision(revision))
}

async fn update_silence(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Json(body): Json<AlertSilenceUpdate>,
) -> ApiResult<Reply<AlertSilenceView>> {
    let (silence, revision) = app.alerts.update_silence(&actor, &meta, &id, body).await?;
    Ok(Reply::ok(silence).revision(revision).message("the silence was changed"))
}

async fn remove_silence(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<Nothing>> {
    app.alerts.remove_silence(&actor, &meta, &id).await?;
    Ok(Reply::ok(Nothing {}).message("the silence has ended"))
}
