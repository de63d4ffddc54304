//! Backups and restores, as the specification has them.

use super::error::ApiResult;
use super::extract::{Id, Json, Meta, OptionalJson, Query, read_body};
use super::merge::Patch;
use super::page::PAGE;
use super::reply::{Reply, accepted};
use super::route::{Nothing, Policy, Route, route};
use crate::app::App;
use crate::service::auth::Actor;
use crate::service::backups::{BackupFilter, Found};
use axum::extract::{FromRequest, Request, State};
use axum::response::{IntoResponse, Response};
use http::Method;
use nm_types::backup::{
    BackupConfigSpec, BackupConfigUpdate, BackupConfigView, BackupKeyView, BackupPin, BackupStatus, BackupTreeView, BackupView, NewRestore,
    RepositoryView, RestoreView, RetentionPreview, TreePath,
};
use nm_types::operation::OperationView;
use nm_types::units::Bounded;
use nm_types::{BackupConfigId, BackupId};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConfigsQuery {
    /// Id or name of a node or a container.
    server_id: Option<String>,
    /// How many a page; 50 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 200>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    cursor: Option<BackupConfigId>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BackupsQuery {
    /// Id or name of a node or a container.
    server_id: Option<String>,
    /// Id or name of a config.
    config_id: Option<String>,
    #[param(inline)]
    status: Option<BackupStatus>,
    /// How many a page; 50 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 200>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    cursor: Option<BackupId>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OneQuery {
    /// Of a list.
    #[param(inline)]
    status: Option<BackupStatus>,
    /// Of a list: how many a page; 50 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 200>>,
    /// Of a list: `nextCursor` of the page before.
    #[param(inline)]
    cursor: Option<BackupId>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FilesQuery {
    /// A folder of the backup; `/` by default.
    #[param(inline)]
    path: Option<TreePath>,
    /// How many a page; 200 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 1000>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    cursor: Option<Bounded<0, 9_007_199_254_740_991>>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ForceQuery {
    /// Also where something is lost by it: the answer without it says what.
    #[serde(default)]
    #[param(required = false)]
    force: bool,
}

pub fn routes() -> Vec<Route> {
    let (read, write) = (Policy::read("backups"), Policy::write("backups"));
    const ALL: &str = "/api/capabilities/backups";
    const CONFIGS: &str = "/api/capabilities/backups/configs";
    const CONFIG: &str = "/api/capabilities/backups/configs/{configId}";
    const ONE: &str = "/api/capabilities/backups/{id}";
    vec![
        route(Method::GET, CONFIGS, read, "List backup configs", configs)
            .query::<ConfigsQuery>()
            .list::<BackupConfigView>(),
        route(Method::POST, CONFIGS, write, "Make a backup config", create)
            .body::<BackupConfigSpec>()
            .created::<BackupConfigView>()
            .idempotent(),
        route(Method::GET, CONFIG, read, "One backup config", config).ok::<BackupConfigView>(),
        route(
            Method::PATCH,
            CONFIG,
            write,
            "Change a backup config: only what is sent changes",
            update,
        )
        .body::<BackupConfigUpdate>()
        .ok::<BackupConfigView>(),
        route(
            Method::DELETE,
            CONFIG,
            write,
            "Remove a backup config; its repository stays where it is",
            remove_config,
        )
        .query::<ForceQuery>()
        .ok::<Nothing>(),
        route(
            Method::POST,
            "/api/capabilities/backups/configs/{configId}/check",
            write,
            "Check a repository, and read the next part of its data",
            check,
        )
        .ok::<RepositoryView>()
        .or_operation()
        .long(),
        route(
            Method::GET,
            "/api/capabilities/backups/configs/{configId}/retention",
            read,
            "What retention would do now",
            retention,
        )
        .ok::<RetentionPreview>(),
        route(
            Method::GET,
            "/api/capabilities/backups/configs/{configId}/key",
            Policy::admin_read("backups"),
            "What stock restic needs to open a repository; who read it is on record",
            key,
        )
        .ok::<BackupKeyView>(),
        route(
            Method::POST,
            "/api/capabilities/backups/perform/{configId}",
            write,
            "Make a backup now",
            perform,
        )
        .begun::<BackupView>()
        .idempotent(),
        route(Method::GET, ALL, read, "List backups, newest first", list)
            .query::<BackupsQuery>()
            .list::<BackupView>(),
        route(
            Method::GET,
            ONE,
            read,
            "One backup; with the id or name of a server, its backups, newest first",
            one,
        )
        .query::<OneQuery>()
        .list::<BackupView>()
        .ok::<BackupView>(),
        route(Method::DELETE, ONE, write, "Remove a backup", remove)
            .query::<ForceQuery>()
            .ok::<Nothing>()
            .or_operation()
            .long(),
        route(
            Method::POST,
            "/api/capabilities/backups/{id}/restore",
            write,
            "Restore a backup",
            restore,
        )
        .optional_body::<NewRestore>()
        .ok::<RestoreView>()
        .or_operation()
        .idempotent()
        .long(),
        route(
            Method::GET,
            "/api/capabilities/backups/{id}/files",
            read,
            "What is in a folder of a backup",
            files,
        )
        .query::<FilesQuery>()
        .ok::<BackupTreeView>(),
        route(
            Method::PUT,
            "/api/capabilities/backups/{id}/pin",
            write,
            "Keep a backup whatever retention says, or no longer",
            pin,
        )
        .body::<BackupPin>()
        .ok::<BackupView>(),
        route(
            Method::POST,
            "/api/capabilities/backups/{id}/cancel",
            write,
            "End a backup that is being made",
            cancel,
        )
        .ok::<BackupView>(),
        route(
            Method::POST,
            "/api/capabilities/backups/{id}/verify",
            write,
            "Restore a backup into a scratch folder, and compare",
            verify,
        )
        .ok::<BackupView>()
        .or_operation()
        .long(),
    ]
}

fn per_page(limit: Option<Bounded<1, 200>>) -> i64 {
    limit.map_or(PAGE, |l| l.get())
}

/// What came of it, or the operation where it goes on.
fn done<T: Serialize>(ended: Result<T, OperationView>, message: &str) -> Response {
    match ended {
        Ok(data) => Reply::ok(data).message(message).into_response(),
        Err(operation) => accepted(&operation),
    }
}

async fn configs(State(app): State<App>, Query(query): Query<ConfigsQuery>) -> ApiResult<Reply<Vec<BackupConfigView>>> {
    let limit = u32::try_from(per_page(query.limit)).unwrap_or(1);
    let after = query.cursor.as_ref().map(BackupConfigId::as_str);
    let (configs, next) = app.backups.configs(query.server_id.as_deref(), after, limit).await?;
    Ok(Reply::list(configs, next))
}

async fn create(State(app): State<App>, actor: Actor, meta: Meta, request: Request) -> ApiResult<Reply<BackupConfigView>> {
    let (parts, body) = request.into_parts();
    let bytes = read_body(body).await?;
    let request = Request::from_parts(parts, axum::body::Body::from(bytes.clone()));
    let Json(spec) = Json::<BackupConfigSpec>::from_request(request, &()).await?;
    let (config, revision) = app.backups.create(&actor, &meta, spec, &bytes).await?;
    let when = match &config.next_backup {
        Some(at) => format!("its first backup begins at {at}"),
        None => "a backup is made when it is asked for".to_owned(),
    };
    let message = format!("backup config `{}` was made; {when}", config.name);
    Ok(Reply::created(config, message).revision(revision))
}

async fn config(State(app): State<App>, Id(id): Id) -> ApiResult<Reply<BackupConfigView>> {
    let (config, revision) = app.backups.config(&id).await?;
    Ok(Reply::ok(config).revision(revision))
}

async fn update(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Patch(change): Patch<BackupConfigSpec>,
) -> ApiResult<Reply<BackupConfigView>> {
    let (config, revision) = app.backups.update(&actor, &meta, &id, change).await?;
    Ok(Reply::ok(config).revision(revision).message("the backup config was changed"))
}

async fn remove_config(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Query(query): Query<ForceQuery>,
) -> ApiResult<Reply<Nothing>> {
    let (name, location) = app.backups.remove(&actor, &meta, &id, query.force).await?;
    let message = match location {
        Some(location) => format!("backup config `{name}` was removed; its repository stays in {location}"),
        None => format!("backup config `{name}` was removed; it never had a repository"),
    };
    Ok(Reply::ok(Nothing {}).message(message))
}

async fn check(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Response> {
    let ended = app.backups.check(&actor, &meta, &id).await?;
    Ok(done(ended, "all is well with it"))
}

async fn retention(State(app): State<App>, Id(id): Id) -> ApiResult<Reply<RetentionPreview>> {
    Ok(Reply::ok(app.backups.retention(&id).await?))
}

async fn key(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<BackupKeyView>> {
    Ok(Reply::ok(app.backups.key(&actor, &meta, &id).await?))
}

async fn perform(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<BackupView>> {
    let backup = app.backups.perform(&actor, &meta, &id).await?;
    Ok(Reply::begun(backup, "it is being made; follow its operation"))
}

async fn list(State(app): State<App>, Query(query): Query<BackupsQuery>) -> ApiResult<Reply<Vec<BackupView>>> {
    let server = match &query.server_id {
        Some(key) => Some(app.backups.server_id(key).await?),
        None => None,
    };
    let config = match &query.config_id {
        Some(key) => Some(app.backups.config_id(key).await?),
        None => None,
    };
    let filter = BackupFilter {
        server,
        config,
        status: query.status,
    };
    page(&app, &filter, query.cursor.as_ref(), query.limit).await
}

async fn page(
    app: &App,
    filter: &BackupFilter,
    after: Option<&BackupId>,
    limit: Option<Bounded<1, 200>>,
) -> ApiResult<Reply<Vec<BackupView>>> {
    let limit = usize::try_from(per_page(limit)).unwrap_or(1);
    let (backups, next) = app.backups.list(filter, after, limit).await?;
    Ok(Reply::list(backups, next))
}

async fn one(State(app): State<App>, Id(id): Id, Query(query): Query<OneQuery>) -> ApiResult<Response> {
    match app.backups.found(&id).await? {
        Found::One(backup) => Ok(Reply::ok(*backup).into_response()),
        Found::Of(server) => {
            let filter = BackupFilter {
                server: Some(server),
                config: None,
                status: query.status,
            };
            Ok(page(&app, &filter, query.cursor.as_ref(), query.limit).await?.into_response())
        }
    }
}

async fn remove(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id, Query(query): Query<ForceQuery>) -> ApiResult<Response> {
    Ok(match app.backups.remove_backup(&actor, &meta, &id, query.force).await? {
        None => Reply::ok(Nothing {}).message("the backup was removed").into_response(),
        Some(operation) => accepted(&operation),
    })
}

async fn restore(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id, request: Request) -> ApiResult<Response> {
    let (parts, body) = request.into_parts();
    let bytes = read_body(body).await?;
    let request = Request::from_parts(parts, axum::body::Body::from(bytes.clone()));
    let OptionalJson(asked) = OptionalJson::<Asked>::from_request(request, &()).await?;
    let ended = app.backups.restore(&actor, &meta, &id, asked.0, &bytes).await?;
    let message = match &ended {
        Ok(view) if view.dry_run => "nothing was changed; this is what would be".to_owned(),
        Ok(view) => format!("{} files were restored", view.restored.files),
        Err(_) => String::new(),
    };
    Ok(done(ended, &message))
}

/// Without a body everything is restored in its place, and compared.
#[derive(Deserialize)]
#[serde(transparent)]
struct Asked(NewRestore);

impl Default for Asked {
    fn default() -> Self {
        Self(NewRestore {
            verify: true,
            ..NewRestore::default()
        })
    }
}

async fn files(State(app): State<App>, Id(id): Id, Query(query): Query<FilesQuery>) -> ApiResult<Reply<BackupTreeView>> {
    let limit = u32::try_from(query.limit.map_or(200, |l| l.get())).unwrap_or(1);
    let offset = u64::try_from(query.cursor.map_or(0, |c| c.get())).unwrap_or(0);
    let path = query.path.as_ref().map_or("/", |p| p.as_str());
    let (tree, next) = app.backups.files(&id, path, offset, limit).await?;
    Ok(Reply::ok(tree).next(next))
}

async fn pin(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id, Json(body): Json<BackupPin>) -> ApiResult<Reply<BackupView>> {
    let backup = app.backups.pin(&actor, &meta, &id, body.pinned).await?;
    let message = if body.pinned {
        "retention does not remove it"
    } else {
        "retention judges it as others"
    };
    Ok(Reply::ok(backup).message(message))
}

async fn cancel(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<BackupView>> {
    Ok(Reply::ok(app.backups.cancel(&actor, &meta, &id).await?).message("it was asked to end"))
}

async fn verify(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Response> {
    let ended = app.backups.verify(&actor, &meta, &id).await?;
    Ok(done(ended, "what was restored is what was backed up"))
}
