//! Clusters: servers behind one entry point, as the specification has them.

use super::error::ApiResult;
use super::extract::{Id, Json, Meta, OptionalJson, Query, read_body};
use super::merge::Patch;
use super::page::{PAGE, PageQuery, page};
use super::reply::Reply;
use super::route::{Nothing, Policy, Route, route};
use crate::app::App;
use crate::service::auth::Actor;
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use http::Method;
use http::request::Parts;
use nm_types::Timestamp;
use nm_types::cluster::{
    ClusterEventView, ClusterFailover, ClusterMetricsView, ClusterSpec, ClusterUpdate, ClusterView, DatabaseCredentials,
    DatabaseSwitchover, NewClusterServers,
};
use nm_types::units::Bounded;
use serde::Deserialize;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MetricsQuery {
    /// An hour before `to` by default. There is a point a minute for a day, and one an hour for a month.
    #[param(inline)]
    from: Option<Timestamp>,
    /// Now by default.
    #[param(inline)]
    to: Option<Timestamp>,
    /// The most points of the history; 60 by default. Where there are more, each is over a longer time.
    #[param(inline)]
    limit: Option<Bounded<1, 1500>>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EventsQuery {
    /// How many a page; 50 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 200>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    cursor: Option<Bounded<1, 9_007_199_254_740_991>>,
}

pub fn routes() -> Vec<Route> {
    let (read, write) = (Policy::read("clusters"), Policy::write("clusters"));
    const ALL: &str = "/api/capabilities/clusters";
    const ONE: &str = "/api/capabilities/clusters/{id}";
    vec![
        route(Method::GET, ALL, read, "List clusters", list)
            .query::<PageQuery>()
            .list::<ClusterView>(),
        route(Method::POST, ALL, write, "Make a cluster", create)
            .body::<ClusterSpec>()
            .created::<ClusterView>()
            .idempotent(),
        route(Method::GET, ONE, read, "One cluster", get).ok::<ClusterView>(),
        route(Method::PATCH, ONE, write, "Change a cluster: only what is sent changes", update)
            .body::<ClusterUpdate>()
            .ok::<ClusterView>(),
        route(Method::DELETE, ONE, write, "Remove a cluster; its servers stay", remove).ok::<Nothing>(),
        route(
            Method::POST,
            "/api/capabilities/clusters/{id}/servers",
            write,
            "Add servers to a cluster",
            add_servers,
        )
        .body::<NewClusterServers>()
        .ok::<ClusterView>(),
        route(
            Method::DELETE,
            "/api/capabilities/clusters/{id}/servers/{serverId}",
            write,
            "Take a server out of a cluster",
            remove_server,
        )
        .ok::<ClusterView>(),
        route(
            Method::GET,
            "/api/capabilities/clusters/{id}/metrics",
            read,
            "What was measured, since a cluster was made and over time",
            metrics,
        )
        .query::<MetricsQuery>()
        .ok::<ClusterMetricsView>(),
        route(
            Method::GET,
            "/api/capabilities/clusters/{id}/events",
            read,
            "What happened to a cluster and why, newest first",
            events,
        )
        .query::<EventsQuery>()
        .list::<ClusterEventView>(),
        route(
            Method::POST,
            "/api/capabilities/clusters/{id}/failover",
            write,
            "Have another server of a high-availability cluster take the traffic",
            failover,
        )
        .optional_body::<ClusterFailover>()
        .ok::<ClusterView>(),
        route(
            Method::GET,
            "/api/capabilities/clusters/{id}/database/credentials",
            Policy::admin_read("clusters"),
            "The passwords of a database cluster",
            credentials,
        )
        .ok::<DatabaseCredentials>(),
        route(
            Method::POST,
            "/api/capabilities/clusters/{id}/database/switchover",
            write,
            "Have another member of a database cluster take the writes",
            switchover,
        )
        .optional_body::<DatabaseSwitchover>()
        .ok::<ClusterView>(),
    ]
}

async fn credentials(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<DatabaseCredentials>> {
    Ok(Reply::ok(app.clusters.database_credentials(&actor, &meta, &id).await?))
}

async fn switchover(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    OptionalJson(how): OptionalJson<DatabaseSwitchover>,
) -> ApiResult<Reply<ClusterView>> {
    let (cluster, revision) = app.clusters.switch_over(&actor, &meta, &id, &how).await?;
    Ok(Reply::ok(cluster).revision(revision).message("another member takes the writes"))
}

async fn list(State(app): State<App>, Query(query): Query<PageQuery>) -> Reply<Vec<ClusterView>> {
    page(app.clusters.list(), query.limit, query.cursor.as_ref(), |c| c.id.to_string())
}

async fn create(State(app): State<App>, actor: Actor, meta: Meta, request: Request) -> ApiResult<Reply<ClusterView>> {
    let (parts, body) = request.into_parts();
    let bytes = read_body(body).await?;
    let request = Request::from_parts(parts, axum::body::Body::from(bytes.clone()));
    let Json(spec) = Json::<ClusterSpec>::from_request(request, &()).await?;
    let (cluster, revision) = app.clusters.create(&actor, &meta, spec, &bytes).await?;
    let at = cluster.endpoint.as_ref().map(|e| format!(" at {e}")).unwrap_or_default();
    let message = format!("cluster `{}` was made; it is {}{at}", cluster.name, cluster.status.as_str());
    Ok(Reply::created(cluster, message).revision(revision))
}

async fn get(State(app): State<App>, Id(id): Id) -> ApiResult<Reply<ClusterView>> {
    let (cluster, revision) = app.clusters.get(&id)?;
    Ok(Reply::ok(cluster).revision(revision))
}

async fn update(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Patch(change): Patch<ClusterSpec>,
) -> ApiResult<Reply<ClusterView>> {
    let (cluster, revision) = app.clusters.update(&actor, &meta, &id, change).await?;
    Ok(Reply::ok(cluster).revision(revision).message("the cluster was changed"))
}

async fn remove(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<Nothing>> {
    let name = app.jobs.remove_cluster(&actor, &meta, &id).await?;
    Ok(Reply::ok(Nothing {}).message(format!(
        "cluster `{name}` was removed; the servers that were named are as they were"
    )))
}

async fn add_servers(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Json(body): Json<NewClusterServers>,
) -> ApiResult<Reply<ClusterView>> {
    let count = body.servers.len();
    let (cluster, revision) = app.clusters.add_servers(&actor, &meta, &id, body).await?;
    let message = format!("{count} added; the cluster has {} servers", cluster.servers.len());
    Ok(Reply::ok(cluster).revision(revision).message(message))
}

/// A cluster and one of its servers.
struct Ids(String, String);

impl<S: Send + Sync> FromRequestParts<S> for Ids {
    type Rejection = super::error::ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let Path((id, server)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|_| super::error::ApiError::bad_request("malformed_path", "the path holds something that is not UTF-8"))?;
        Ok(Self(id, server))
    }
}

async fn remove_server(State(app): State<App>, actor: Actor, meta: Meta, Ids(id, server): Ids) -> ApiResult<Reply<ClusterView>> {
    let (cluster, revision) = app.clusters.remove_server(&actor, &meta, &id, &server).await?;
    Ok(Reply::ok(cluster)
        .revision(revision)
        .message("it gets nothing new; what it has in flight goes on to its end"))
}

async fn metrics(State(app): State<App>, Id(id): Id, Query(query): Query<MetricsQuery>) -> ApiResult<Reply<ClusterMetricsView>> {
    let limit = usize::try_from(query.limit.map_or(60, |l| l.get())).unwrap_or(1);
    Ok(Reply::ok(app.clusters.metrics(&id, query.from, query.to, limit).await?))
}

async fn events(State(app): State<App>, Id(id): Id, Query(query): Query<EventsQuery>) -> ApiResult<Reply<Vec<ClusterEventView>>> {
    let limit = u32::try_from(query.limit.map_or(PAGE, |l| l.get())).unwrap_or(1);
    let (events, next) = app.clusters.events(&id, query.cursor.map(|c| c.get()), limit).await?;
    Ok(Reply::list(events, next.map(|n| n.to_string())))
}

async fn failover(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    OptionalJson(body): OptionalJson<ClusterFailover>,
) -> ApiResult<Reply<ClusterView>> {
    let server = body.server.as_ref().map(|s| s.as_str());
    let (cluster, revision) = app.clusters.fail_over(&actor, &meta, &id, server).await?;
    let active = cluster.active_member.as_deref().unwrap_or("another server");
    let message = format!("{active} takes the traffic");
    Ok(Reply::ok(cluster).revision(revision).message(message))
}
