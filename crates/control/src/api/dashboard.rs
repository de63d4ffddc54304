//! The dashboard's files, which are part of the binary, and the page that shows the API's document.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, Uri, header};
use rust_embed::RustEmbed;
use std::borrow::Cow;

/// `web/dist` as the build made it. A binary that was built without it says so on its first page.
#[derive(RustEmbed)]
#[folder = "$CARGO_MANIFEST_DIR/../../web/dist"]
#[allow_missing = true]
struct Files;

const MISSING: &str = "<!doctype html><meta charset=utf-8><title>NeuralMesh</title><p>This binary was built without its dashboard: run <code>npm ci &amp;&amp; npm run build</code> in <code>web/</code> and build again. The API is at <code>/api</code>, its document at <a href=/docs>/docs</a>.";

/// Files by their path; for pages of the dashboard its one HTML file, which finds its way by the address.
pub async fn serve(method: Method, uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    if path.starts_with("api/") || path == "api" {
        return StatusCode::NOT_FOUND.into_response();
    }
    if method != Method::GET && method != Method::HEAD {
        let mut response = StatusCode::METHOD_NOT_ALLOWED.into_response();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    if path == "docs" {
        return answer(Cow::Owned(docs_page().into_bytes()), "text/html", false);
    }
    if let Some(file) = Files::get(path) {
        return answer(file.data, file.metadata.mimetype(), path.starts_with("assets/"));
    }
    let looks_like_a_file = path.rsplit('/').next().is_some_and(|last| last.contains('.'));
    if looks_like_a_file {
        return StatusCode::NOT_FOUND.into_response();
    }
    match Files::get("index.html") {
        Some(file) => answer(file.data, "text/html", false),
        None => answer(Cow::Borrowed(MISSING.as_bytes()), "text/html", false),
    }
}

fn answer(data: Cow<'static, [u8]>, kind: &str, forever: bool) -> Response {
    let body = match data {
        Cow::Borrowed(bytes) => Body::from(bytes),
        Cow::Owned(bytes) => Body::from(bytes),
    };
    let mut response = Response::new(body);
    let kind = if kind.starts_with("text/") || kind.ends_with("javascript") {
        format!("{kind}; charset=utf-8")
    } else {
        kind.to_owned()
    };
    if let Ok(kind) = HeaderValue::from_str(&kind) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    // Assets carry a digest in their names; everything else is asked for anew.
    let cache = if forever {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

/// The API for people: made from the same table as the document itself, without a script.
fn docs_page() -> String {
    use super::route::{Answer, Policy};
    let mut rows = String::new();
    let mut area = "";
    for route in super::routes() {
        let this = route.path.trim_start_matches("/api/").split('/').next().unwrap_or_default();
        if this != area {
            area = this;
            rows.push_str(&format!("<tr><th colspan=4 id=\"{0}\">{0}</th></tr>", escape(this)));
        }
        let policy = match route.policy {
            Policy::Public => "anybody".to_owned(),
            Policy::Own => "signed in".to_owned(),
            Policy::Needs { role, area, write } => format!("{}, {area}:{}", role.as_str(), if write { "write" } else { "read" }),
        };
        let answers: Vec<String> = route
            .answers
            .iter()
            .map(|a| match a {
                Answer::One(status, shape) => format!("{status} {}", name_of(&shape.schema)),
                Answer::List(shape) => format!("200 [{}]", name_of(&shape.schema)),
                Answer::Operation => "202 operation".to_owned(),
                Answer::Raw(status, kind) => format!("{status} {kind}"),
            })
            .collect();
        let body = route
            .body
            .as_ref()
            .map(|(shape, _)| format!("<br><small>body: {}</small>", escape(&name_of(&shape.schema))))
            .unwrap_or_default();
        rows.push_str(&format!(
            "<tr><td><code>{} {}</code>{body}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            route.method,
            escape(route.path),
            escape(route.summary),
            escape(&policy),
            escape(&answers.join(", "))
        ));
    }
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>NeuralMesh API</title>\
         <style>body{{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color-scheme:light dark}}\
         table{{border-collapse:collapse;width:100%}}td,th{{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #8884;vertical-align:top}}\
         th{{padding-top:1.4rem;font-size:1.1rem}}code{{font:13px ui-monospace,monospace}}</style>\
         <h1>NeuralMesh API {}</h1><p>Success is <code>{{\"success\":true,\"data\":…}}</code>, failure <code>{{\"success\":false,\"error\":…,\"code\":…}}</code>. \
         Send <code>Authorization: Bearer …</code> with an access token of <code>POST /api/auth/login</code> or an API token. \
         The whole document, OpenAPI 3.1, is at <code>GET /api/openapi.json</code>, also by <code>neuralmesh openapi</code>.</p>\
         <table>{rows}</table></html>",
        env!("CARGO_PKG_VERSION")
    )
}

fn name_of(schema: &serde_json::Value) -> String {
    match schema.get("$ref").and_then(|r| r.as_str()) {
        Some(reference) => reference.rsplit('/').next().unwrap_or_default().to_owned(),
        None => schema
            .get("items")
            .map(|i| format!("[{}]", name_of(i)))
            .unwrap_or_else(|| "JSON".into()),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn nothing_of_the_api_falls_through_to_the_dashboard() {
        for (path, want) in [("/api/nope", 404), ("/api", 404), ("/nope.js", 404), ("/containers/x", 200)] {
            let answer = super::serve(http::Method::GET, path.parse().unwrap()).await;
            assert_eq!(answer.status().as_u16(), want, "{path}");
        }
        assert!(super::docs_page().contains("/api/containers/{id}/exec"));
    }
}
