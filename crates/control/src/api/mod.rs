//! The API: thin handlers over services. What every request has in common is in [`frame`] and [`guard`]; what exists is in
//! the tables that [`routes`] joins.

pub mod error;
pub mod extract;
pub mod frame;
pub mod guard;
mod merge;
mod objects;
pub mod openapi;
mod pace;
mod page;
pub mod reply;
pub mod route;
pub mod serve;
pub mod sse;

mod alerts;
mod audit;
mod auth;
mod authority;
mod backups;
mod clusters;
mod containers;
mod dashboard;
mod events;
mod health;
mod images;
mod jobs;
mod machines;
mod networks;
mod nodes;
mod operations;
mod registries;
mod servers;
mod streams;
mod system;
mod templates;
mod terminal;
mod tokens;
mod upgrades;
mod users;
mod volumes;

use crate::app::App;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use route::Route;

/// Every route there is.
pub fn routes() -> Vec<Route> {
    [
        auth::routes(),
        users::routes(),
        tokens::routes(),
        audit::routes(),
        nodes::routes(),
        machines::routes(),
        authority::routes(),
        upgrades::routes(),
        containers::routes(),
        streams::routes(),
        terminal::routes(),
        templates::routes(),
        images::routes(),
        volumes::routes(),
        networks::routes(),
        registries::routes(),
        servers::routes(),
        health::routes(),
        operations::routes(),
        events::routes(),
        system::routes(),
        alerts::routes(),
        clusters::routes(),
        jobs::routes(),
        backups::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The whole HTTP side: the API, its documents and the dashboard.
pub fn router(app: App) -> Router {
    let mut router = Router::new();
    for route in routes() {
        let rule = guard::Guard::of(&route);
        let mut handler = route.handler;
        if !route.streams {
            handler = handler.layer(from_fn(frame::deadline));
        }
        let app = app.clone();
        handler = handler.layer(from_fn_with_state(
            app,
            move |State(app): State<App>, request: Request, next: Next| guard::guard(app, rule.clone(), request, next),
        ));
        router = router.route(route.path, handler);
    }
    router
        .method_not_allowed_fallback(|| async { http::StatusCode::METHOD_NOT_ALLOWED })
        .fallback(dashboard::serve)
        .layer(from_fn_with_state(
            app.clone(),
            |State(app): State<App>, request: Request, next: Next| frame::frame(app, request, next),
        ))
        .with_state(app)
}
