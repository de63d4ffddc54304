//! Lets a request in or not, by its route's policy.

use super::error::{ApiError, ApiResult};
use super::extract::{ClientAddress, RequestId, no_body};
use super::route::{Policy, Route};
use crate::app::App;
use crate::service::auth::{Actor, Presented};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, header};
use std::sync::Arc;
use utoipa::openapi::path::ParameterIn;

/// What a route's guard needs to know of it.
#[derive(Debug, Clone)]
pub struct Guard {
    policy: Policy,
    ticket: bool,
    /// The names its query may hold.
    query: Arc<[String]>,
    /// It changes something and takes no body.
    bodiless: bool,
}

impl Guard {
    pub fn of(route: &Route) -> Self {
        let query = route.parameters.iter().filter(|p| p.parameter_in == ParameterIn::Query);
        Self {
            policy: route.policy,
            ticket: route.ticket,
            query: query.map(|p| p.name.clone()).collect(),
            bodiless: route.method != Method::GET && route.body.is_none() && route.raw_body.is_none(),
        }
    }
}

pub async fn guard(app: App, rule: Guard, mut request: Request, next: Next) -> Response {
    let presented = match presented(&rule, &request) {
        Ok(presented) => presented,
        Err(refusal) => return refusal.into_response(),
    };
    let address = request.extensions().get::<ClientAddress>().map(|a| a.0);
    let Some(presented) = presented else {
        return pass(&rule, request, next).await;
    };
    let actor = match app.auth.admit(presented, address).await {
        Ok(actor) => actor,
        Err(refusal) => return refusal.into_response(),
    };
    if let Err(refusal) = permitted(rule.policy, &actor) {
        let request_id = request.extensions().get::<RequestId>().map(|r| r.0.as_str());
        app.auth
            .refused(&actor, request.method(), request.uri().path(), request_id, address);
        return refusal.into_response();
    }
    request.extensions_mut().insert(actor);
    pass(&rule, request, next).await
}

/// On to the handler, with nothing that the route would not look at.
async fn pass(rule: &Guard, request: Request, next: Next) -> Response {
    if let Err(refusal) = known_parameters(rule, request.uri().query()) {
        return refusal.into_response();
    }
    if !rule.bodiless {
        return next.run(request).await;
    }
    match no_body(request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Refuses names that the route does not know, so that a typo is never lost in silence. For routes without any there is no
/// one else to do it.
fn known_parameters(rule: &Guard, query: Option<&str>) -> ApiResult<()> {
    let mut given = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).map(|(name, _)| name);
    match given.find(|name| !rule.query.iter().any(|known| known == name)) {
        None => Ok(()),
        Some(unknown) => {
            let name: String = unknown.chars().take(100).collect();
            let known = match rule.query.join(", ") {
                none if none.is_empty() => "none".to_owned(),
                names => names,
            };
            Err(ApiError::invalid(
                &name,
                format!("there is no such parameter; this path takes: {known}"),
            ))
        }
    }
}

/// What the request shows; `None` where nothing needs to be shown.
fn presented(rule: &Guard, request: &Request) -> ApiResult<Option<Presented>> {
    if rule.policy == Policy::Public {
        return Ok(None);
    }
    if let Some(token) = bearer(request.headers())? {
        return Ok(Some(Presented::Bearer(token)));
    }
    match ticket(request.uri().query()).filter(|_| rule.ticket) {
        Some(ticket) => {
            same_origin(request.headers())?;
            Ok(Some(Presented::Ticket(ticket)))
        }
        None if rule.ticket => Err(ApiError::unauthorized(
            "sign in first: send `Authorization: Bearer …`, or a ticket of POST /api/auth/tickets",
        )),
        None => Err(ApiError::unauthorized("sign in first: send `Authorization: Bearer …`")),
    }
}

/// Whether the role and the scopes are enough.
fn permitted(policy: Policy, actor: &Actor) -> ApiResult<()> {
    let Policy::Needs { role, area, write } = policy else {
        return Ok(());
    };
    if actor.may(role, area, write) {
        return Ok(());
    }
    Err(ApiError::forbidden(if actor.role < role {
        format!("that needs the role {}", role.as_str())
    } else {
        format!("this token's scopes do not let it {} {area}", if write { "change" } else { "read" })
    }))
}

fn bearer(headers: &HeaderMap) -> ApiResult<Option<String>> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .map_err(|_| ApiError::unauthorized("the Authorization header can't be read"))?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => Ok(Some(token.trim().to_owned())),
        _ => Err(ApiError::unauthorized("the Authorization header must be `Bearer <token>`")),
    }
}

fn ticket(query: Option<&str>) -> Option<String> {
    form_urlencoded::parse(query?.as_bytes())
        .find(|(k, _)| k == "ticket")
        .map(|(_, v)| v.into_owned())
}

/// A browser that opens a stream says where its page comes from; that must be us. Others send no Origin.
fn same_origin(headers: &HeaderMap) -> ApiResult<()> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let origin_host = origin.to_str().ok().and_then(|o| o.split_once("://")).map(|(_, host)| host);
    if origin_host.is_some() && origin_host == host {
        Ok(())
    } else {
        Err(ApiError::forbidden("a page of another origin may not open this stream"))
    }
}
