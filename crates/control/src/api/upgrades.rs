//! Nodes' upgrades, and the executables for them.

use super::error::{ApiError, ApiResult};
use super::extract::{Id, Meta, OptionalJson, Query};
use super::page::{PageQuery, page};
use super::reply::{Reply, accepted};
use super::route::{Nothing, Policy, Route, route};
use crate::app::App;
use crate::service::auth::Actor;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, header};
use nm_types::operation::OperationView;
use nm_types::upgrade::{BinaryView, Platform, ReleaseVersion, UpgradeNode};
use serde::Deserialize;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PutQuery {
    /// The version that the executable is of.
    #[param(inline)]
    version: ReleaseVersion,
}

pub fn routes() -> Vec<Route> {
    let admin = Policy::admin("nodes");
    vec![
        route(
            Method::POST,
            "/api/nodes/{id}/upgrade",
            admin,
            "Give a node's agent the newest executable for its kind of machine; one that does not come up is rolled back",
            upgrade,
        )
        .optional_body::<UpgradeNode>()
        .ok::<OperationView>()
        .or_operation(),
        route(
            Method::GET,
            "/api/nodes/binaries",
            Policy::read("nodes"),
            "Executables that nodes can be upgraded to",
            list,
        )
        .query::<PageQuery>()
        .list::<BinaryView>(),
        route(
            Method::PUT,
            "/api/nodes/binaries/{id}",
            admin,
            "Upload an executable for a platform: `linux-x86_64`, `linux-aarch64`",
            put,
        )
        .query::<PutQuery>()
        .raw_body("application/octet-stream")
        .ok::<BinaryView>(),
        route(
            Method::DELETE,
            "/api/nodes/binaries/{id}",
            admin,
            "Forget the executable that was uploaded for a platform",
            remove,
        )
        .ok::<Nothing>(),
    ]
}

async fn upgrade(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    OptionalJson(how): OptionalJson<UpgradeNode>,
) -> ApiResult<Response> {
    let begun = app.upgrades.begin(&actor, &meta, &id, how).await?;
    let wait = if meta.respond_async {
        std::time::Duration::ZERO
    } else {
        crate::service::operations::WAIT
    };
    let view = app.operations.wait(&begun.id, wait).await?;
    match (&view.error, view.state.is_final()) {
        (Some(error), _) => Err(ApiError::from(error.clone()).with_operation(view.id)),
        (None, false) => Ok(accepted(&view)),
        (None, true) => Ok(Reply::ok(view).message("the node runs the new version").into_response()),
    }
}

async fn list(State(app): State<App>, Query(query): Query<PageQuery>) -> ApiResult<Reply<Vec<BinaryView>>> {
    let all = app.binaries.list().await?;
    Ok(page(all, query.limit, query.cursor.as_ref(), |b| {
        format!("{} {}", b.platform, if b.uploaded.is_some() { "uploaded" } else { "own" })
    }))
}

fn platform(text: &str) -> ApiResult<Platform> {
    Platform::parse(text).ok_or_else(|| ApiError::not_found("platform", text))
}

async fn put(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Query(query): Query<PutQuery>,
    request: Request,
) -> ApiResult<Reply<BinaryView>> {
    let platform = platform(&id)?;
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_none_or(|v| v.as_bytes() != b"application/octet-stream") {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send the executable as `Content-Type: application/octet-stream`",
        ));
    }
    let body = request.into_body();
    let binary = app.binaries.put(&actor, &meta, platform, query.version, body).await?;
    Ok(Reply::ok(binary).message("nodes of this platform can be upgraded to it"))
}

async fn remove(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<Nothing>> {
    app.binaries.remove(&actor, &meta, platform(&id)?).await?;
    Ok(Reply::ok(Nothing {}).message("the executable was removed"))
}
