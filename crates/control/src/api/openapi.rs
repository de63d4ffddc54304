//! The OpenAPI 3.1 document, made from the table of routes.

use super::route::{Answer, Policy, Route, Shape};
use nm_types::envelope::ErrorBody;
use nm_types::operation::OperationView;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

type Components = BTreeMap<String, Value>;

fn add(components: &mut Components, shape: Shape) -> Value {
    for (name, schema) in shape.components {
        components
            .entry(name)
            .or_insert_with(|| serde_json::to_value(schema).unwrap_or_default());
    }
    shape.schema
}

fn envelope(data: Value, list: bool) -> Value {
    let mut properties = json!({ "success": { "const": true }, "data": data, "message": { "type": "string" } });
    let mut required = vec!["success", "data"];
    if list {
        properties["data"] = json!({ "type": "array", "items": data });
        properties["count"] = json!({ "type": "integer", "minimum": 0, "description": "How many entries this page has." });
        properties["nextCursor"] = json!({ "type": "string", "description": "Give it as `cursor` for the next page; absent on the last." });
        required.push("count");
    }
    json!({ "type": "object", "properties": properties, "required": required })
}

/// The statuses a route may refuse with, by what it takes.
fn refusals(route: &Route) -> Vec<(u16, &'static str)> {
    let mut out = vec![
        (400, "Malformed request"),
        (404, "Not found"),
        (405, "Method not allowed"),
        (408, "The body came too slowly"),
        (409, "Conflict with what is there"),
        (413, "Body too large"),
        (422, "A field can't be taken; `details` names it"),
        (431, "The request's line and headers are too large"),
        (429, "Too many requests; see Retry-After"),
        (500, "A fault of ours"),
        (503, "Something it needs does not answer: the node, Docker, the database"),
        (504, "It took too long"),
        (507, "A disk is full"),
    ];
    if route.policy != Policy::Public {
        out.push((401, "Not signed in"));
        out.push((403, "Not allowed"));
    } else {
        out.push((401, "Wrong credentials"));
    }
    if route.body.is_some() || route.raw_body.is_some() {
        out.push((415, "Wrong content type"));
    }
    if route.path == "/api/events" {
        out.push((410, "Events that old are no longer kept"));
    }
    out.push((412, "It was changed meanwhile"));
    out
}

fn operation_id(route: &Route) -> String {
    let mut id = route.method.as_str().to_ascii_lowercase();
    for part in route.path.trim_start_matches("/api").split('/').filter(|p| !p.is_empty()) {
        id.push('_');
        id.push_str(&part.replace(['{', '}'], "").replace(['-', '.'], "_"));
    }
    id
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut out: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|p| p.strip_prefix('{').and_then(|p| p.strip_suffix('}')))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } }))
        .collect();
    out.extend(route.parameters.iter().filter_map(|p| serde_json::to_value(p).ok()));
    if route.answers.iter().any(|a| matches!(a, Answer::Operation)) {
        out.push(
            json!({ "name": "Prefer", "in": "header", "required": false, "schema": { "type": "string" },
            "description": "`respond-async`: answer 202 with the operation at once." }),
        );
    }
    if route.idempotent {
        out.push(json!({ "name": "Idempotency-Key", "in": "header", "required": false,
            "schema": { "type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[\\x21-\\x7e]+$" },
            "description": "The same key with the same request answers the same, and does it once; kept 24 hours." }));
    }
    out
}

/// The document of all `routes`.
pub fn document(routes: &[Route]) -> Value {
    let mut components = Components::new();
    add(&mut components, Shape::of::<ErrorBody>());
    let operation = add(&mut components, Shape::of::<OperationView>());
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in routes {
        let mut responses = Map::new();
        for answer in &route.answers {
            let (status, content_type, schema) = match answer {
                Answer::One(status, shape) => (
                    *status,
                    "application/json",
                    Some(envelope(shape_value(&mut components, shape), false)),
                ),
                Answer::List(shape) => (200, "application/json", Some(envelope(shape_value(&mut components, shape), true))),
                Answer::Operation => (202, "application/json", Some(envelope(operation.clone(), false))),
                Answer::Raw(status, "") => {
                    responses.insert(status.to_string(), json!({ "description": "Switching protocols" }));
                    continue;
                }
                Answer::Raw(status, content_type) => (*status, *content_type, None),
            };
            let entry = responses
                .entry(status.to_string())
                .or_insert_with(|| json!({ "description": describe(status), "content": {} }));
            let before = entry["content"][content_type].get("schema").cloned();
            entry["content"][content_type] = match (schema, before) {
                // One of two shapes, by what was asked for.
                (Some(schema), Some(before)) => json!({ "schema": { "anyOf": [before, schema] } }),
                (Some(schema), None) => json!({ "schema": schema }),
                (None, _) => json!({}),
            };
        }
        for (status, description) in refusals(route) {
            responses.entry(status.to_string()).or_insert_with(|| {
                json!({ "description": description, "content": { "application/json": { "schema": { "$ref": "#/components/schemas/ErrorBody" } } } })
            });
        }
        // Said before the request reaches the API, so without its envelope.
        responses.insert("414".into(), json!({ "description": "The request's line is longer than 64 KiB" }));
        let mut op = json!({
            "operationId": operation_id(route),
            "summary": route.summary,
            "tags": [route.path.trim_start_matches("/api/").split('/').next().unwrap_or_default()],
            "responses": responses,
            "x-policy": policy_text(route.policy),
        });
        let parameters = parameters(route);
        if !parameters.is_empty() {
            op["parameters"] = Value::Array(parameters);
        }
        if let Some((shape, required)) = &route.body {
            let schema = shape_value(&mut components, shape);
            op["requestBody"] = json!({ "required": required, "content": { "application/json": { "schema": schema } } });
        }
        if let Some(content_type) = route.raw_body {
            op["requestBody"] =
                json!({ "required": true, "content": { content_type: { "schema": { "type": "string", "format": "binary" } } } });
        }
        op["security"] = if route.policy == Policy::Public {
            json!([])
        } else {
            json!([{ "bearer": [] }])
        };
        paths
            .entry(route.path)
            .or_default()
            .insert(route.method.as_str().to_ascii_lowercase(), op);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "NeuralMesh",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "One fleet out of any set of servers. Success is `{\"success\":true,\"data\":…}`, failure `{\"success\":false,\"error\":…,\"code\":…}`.",
            "license": { "name": "MIT", "identifier": "MIT" }
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "description": "An access token of POST /api/auth/login, or an API token." } }
        }
    })
}

fn shape_value(components: &mut Components, shape: &Shape) -> Value {
    add(
        components,
        Shape {
            schema: shape.schema.clone(),
            components: shape.components.clone(),
        },
    )
}

fn describe(status: u16) -> &'static str {
    match status {
        201 => "Created",
        202 => "It goes on as an operation",
        _ => "OK",
    }
}

fn policy_text(policy: Policy) -> String {
    match policy {
        Policy::Public => "public".into(),
        Policy::Own => "signed in".into(),
        Policy::Needs { role, area, write } => format!("{} {area}:{}", role.as_str(), if write { "write" } else { "read" }),
    }
}
