//! The container templates.

use super::error::{ApiError, ApiResult};
use super::extract::{Id, Meta, OptionalJson, Query};
use super::page::{PageQuery, page};
use super::reply::{Reply, accepted};
use super::route::{Policy, Route, route};
use crate::app::App;
use crate::service::auth::Actor;
use crate::service::containers::Created;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::Method;
use nm_types::container::{ContainerSpec, ContainerView};
use nm_types::template::{ContainerTemplate, RunTemplate, container_templates};
use nm_types::text::{Argument, ContainerName, EnvName};
use sha2::{Digest, Sha256};
use std::collections::btree_map::Entry;

pub fn routes() -> Vec<Route> {
    vec![
        route(
            Method::GET,
            "/api/containers/templates/list",
            Policy::read("containers"),
            "List container templates",
            list,
        )
        .query::<PageQuery>()
        .list::<ContainerTemplate>(),
        route(
            Method::POST,
            "/api/containers/templates/{id}/run",
            Policy::write("containers"),
            "Make and start a container of a template",
            run,
        )
        .optional_body::<RunTemplate>()
        .created::<ContainerView>()
        .idempotent()
        .or_operation(),
    ]
}

async fn list(Query(query): Query<PageQuery>) -> Reply<Vec<ContainerTemplate>> {
    let all = container_templates();
    let order: Vec<String> = all.iter().map(|t| t.id.clone()).collect();
    page(all, query.limit, query.cursor.as_ref(), |t| {
        format!("{:04}", order.iter().position(|id| *id == t.id).unwrap_or_default())
    })
}

async fn run(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    OptionalJson(body): OptionalJson<RunTemplate>,
) -> ApiResult<Response> {
    let template = container_templates()
        .into_iter()
        .find(|t| t.id == id)
        .ok_or_else(|| ApiError::not_found("template", &id))?;
    // Of what was asked for, before anything random goes in.
    let asked = serde_json::to_vec(&body).map_err(|_| ApiError::internal())?;
    let hash = hex::encode(
        Sha256::new()
            .chain_update("run ")
            .chain_update(&id)
            .chain_update("\n")
            .chain_update(&asked)
            .finalize(),
    );
    let spec = fill(template, body)?;
    Ok(match app.containers.create(&actor, &meta, spec, &hash).await? {
        Created::Done(container, revision) => {
            let message = format!("container `{}` was made and started", container.name);
            Reply::created(*container, message).revision(revision).into_response()
        }
        Created::GoesOn(operation) => accepted(&operation),
    })
}

fn fill(template: ContainerTemplate, asked: RunTemplate) -> ApiResult<ContainerSpec> {
    let mut spec = template.config;
    spec.name = match asked.name {
        Some(name) => name,
        None => ContainerName::parse(&format!("{}-{}", template.id, random_text(6)?)).map_err(|_| ApiError::internal())?,
    };
    spec.node_id = asked.node_id;
    (spec.constraints, spec.spread, spec.on_node_lost) = (asked.constraints, asked.spread, asked.on_node_lost);
    for (key, value) in asked.environment.0 {
        spec.environment.0.insert(key, value);
    }
    for name in template.generated {
        let name = EnvName::parse(&name).map_err(|_| ApiError::internal())?;
        if let Entry::Vacant(place) = spec.environment.0.entry(name) {
            place.insert(Argument::parse(&random_text(32)?).map_err(|_| ApiError::internal())?);
        }
    }
    spec.ports = asked.ports.unwrap_or(spec.ports);
    spec.volumes = asked.volumes.unwrap_or(spec.volumes);
    spec.start = true;
    Ok(spec)
}

/// Letters and digits, about 5 bits each.
fn random_text(len: usize) -> ApiResult<String> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnopqrstuvwxyz2345678";
    let mut bytes = vec![0u8; len];
    getrandom::fill(&mut bytes).map_err(|_| ApiError::internal())?;
    Ok(bytes.iter().map(|b| LETTERS[usize::from(*b) % LETTERS.len()] as char).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_made_unless_given() {
        let postgres = || container_templates().into_iter().find(|t| t.id == "postgresql").unwrap();
        let password = |spec: &ContainerSpec| {
            spec.environment
                .0
                .iter()
                .find(|(k, _)| k.as_str() == "POSTGRES_PASSWORD")
                .unwrap()
                .1
                .as_str()
                .to_owned()
        };
        let (one, two) = (
            fill(postgres(), RunTemplate::default()).unwrap(),
            fill(postgres(), RunTemplate::default()).unwrap(),
        );
        assert_eq!(password(&one).len(), 32);
        assert_ne!(password(&one), password(&two));
        let own: RunTemplate = serde_json::from_str(r#"{"name":"db","environment":{"POSTGRES_PASSWORD":"mine"},"ports":[]}"#).unwrap();
        let own = fill(postgres(), own).unwrap();
        assert_eq!((password(&own).as_str(), own.name.as_str(), own.ports.len()), ("mine", "db", 0));
    }
}
