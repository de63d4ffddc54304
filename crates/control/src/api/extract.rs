//! What handlers take out of requests. Each refusal names the field.

use super::error::{ApiError, ApiResult};
use super::objects::Objects;
use crate::service::auth::Actor;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::time::Duration;

/// The most a JSON body may hold.
pub const BODY_LIMIT: usize = 1 << 20;
/// The most of a body that is too large that is read before the answer.
const THROWN_AWAY_LIMIT: usize = 16 << 20;
/// The longest a client may take to send it.
const BODY_DEADLINE: Duration = Duration::from_secs(20);

/// A JSON body, required.
#[derive(Debug)]
pub struct Json<T>(pub T);

/// A JSON body that may be left out.
#[derive(Debug)]
pub struct OptionalJson<T>(pub T);

/// The query, with unknown names refused.
#[derive(Debug)]
pub struct Query<T>(pub T);

/// The one variable of a path.
#[derive(Debug)]
pub struct Id(pub String);

pub async fn read_body(body: Body) -> ApiResult<bytes::Bytes> {
    match tokio::time::timeout(BODY_DEADLINE, collect(body)).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "a body has at most 1 MiB",
        )),
        Ok(Err(_)) => Err(ApiError::bad_request("body_broken", "the body broke off before its end")),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_too_slow",
            "the body did not arrive within 20 seconds",
        )),
    }
}

/// The whole body; `None` where it is too large. What is over is read on and thrown away: a client that is cut off while it
/// still writes does not see the answer.
async fn collect(mut body: Body) -> Result<Option<bytes::Bytes>, axum::Error> {
    let mut kept = bytes::BytesMut::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        length += data.len();
        if length <= BODY_LIMIT {
            kept.extend_from_slice(&data);
        } else if length > THROWN_AWAY_LIMIT {
            break;
        }
    }
    Ok((length <= BODY_LIMIT).then(|| kept.freeze()))
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).is_some_and(|v| {
        let kind = v.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
    })
}

fn malformed(error: serde_json::Error) -> ApiError {
    ApiError::bad_request("malformed_json", format!("the body is not JSON: {error}"))
}

fn is_json_text(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(bytes).is_ok()
}

pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    let mut de = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(Objects(&mut de)).map_err(|e| {
        let path = e.path().to_string();
        let inner = e.into_inner();
        match inner.classify() {
            // The parser calls a number in place of a word bad syntax, too.
            serde_json::error::Category::Syntax if is_json_text(bytes) => {
                let base = if path == "." { "" } else { path.as_str() };
                ApiError::invalid(base, "it is of another type than what is expected here")
            }
            serde_json::error::Category::Data => {
                let text = inner.to_string();
                let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(m, _)| m).to_owned();
                // The path ends at the object for unknown, missing and repeated fields; the message names them then.
                let named = ["unknown field `", "missing field `", "duplicate field `"]
                    .iter()
                    .find_map(|p| message.strip_prefix(p))
                    .and_then(|rest| rest.split('`').next());
                let base = if path == "." { "" } else { path.as_str() };
                let field = match named {
                    Some(name) if base.is_empty() => name.to_owned(),
                    Some(name) if base == name || base.ends_with(&format!(".{name}")) => base.to_owned(),
                    Some(name) => format!("{base}.{name}"),
                    None => base.to_owned(),
                };
                ApiError::invalid(&field, message)
            }
            _ => malformed(inner),
        }
    })?;
    de.end()
        .map_err(|e| ApiError::bad_request("malformed_json", format!("the body is not one JSON value: {e}")))?;
    Ok(value)
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, _: &S) -> ApiResult<Self> {
        if !is_json(request.headers()) {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "send the body as `Content-Type: application/json`",
            ));
        }
        let bytes = read_body(request.into_body()).await?;
        Ok(Json(parse_json(&bytes)?))
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, _: &S) -> ApiResult<Self> {
        let json = is_json(request.headers());
        let bytes = read_body(request.into_body()).await?;
        if bytes.is_empty() {
            return Ok(OptionalJson(T::default()));
        }
        if !json {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "send the body as `Content-Type: application/json`",
            ));
        }
        Ok(OptionalJson(parse_json(&bytes)?))
    }
}

/// For paths that take no body: what says something is refused, so that it is never lost in silence. `{}` says nothing.
pub async fn no_body(request: Request) -> ApiResult<Request> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NoFields {}

    let (parts, body) = request.into_parts();
    let bytes = read_body(body).await?;
    if !bytes.is_empty() {
        let NoFields {} = parse_json(&bytes)?;
    }
    Ok(Request::from_parts(parts, Body::empty()))
}

/// Reads a query string; an error names the parameter.
pub fn parse_query<T: DeserializeOwned>(query: &str) -> ApiResult<T> {
    let de = serde_urlencoded::Deserializer::new(form_pairs(query));
    serde_path_to_error::deserialize(de).map_err(|e| {
        let path = e.path().to_string();
        let message = e.into_inner().to_string();
        let field = if path == "." {
            message.split('`').nth(1).unwrap_or_default().to_owned()
        } else {
            path
        };
        ApiError::invalid(&field, message)
    })
}

fn form_pairs(query: &str) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(query.as_bytes())
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        Ok(Query(parse_query(parts.uri.query().unwrap_or_default())?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::bad_request("malformed_path", "the path holds something that is not UTF-8"))?;
        Ok(Id(path.0))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Actor {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        // The guard put it there; a route without a guard can't be built.
        parts
            .extensions
            .get::<Actor>()
            .cloned()
            .ok_or_else(|| ApiError::unauthorized("sign in first"))
    }
}

/// The request's id, in the answer, the log and the audit.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// The caller's address: the connection's, or what a trusted proxy says.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub IpAddr);

/// What of a request's frame services want to know.
#[derive(Debug, Clone)]
pub struct Meta {
    pub request_id: String,
    pub address: Option<IpAddr>,
    pub idempotency_key: Option<String>,
    /// `Prefer: respond-async`.
    pub respond_async: bool,
    /// The revision of `If-Match`.
    pub if_match: Option<i64>,
    pub method: Method,
    pub path: String,
}

impl Meta {
    /// For what the control plane does by itself.
    pub fn internal() -> Self {
        Self {
            request_id: String::new(),
            address: None,
            idempotency_key: None,
            respond_async: false,
            if_match: None,
            method: Method::POST,
            path: String::new(),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Meta {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        let text = |name: &str| -> ApiResult<Option<String>> {
            match parts.headers.get(name) {
                None => Ok(None),
                Some(v) => v
                    .to_str()
                    .map(|s| Some(s.trim().to_owned()))
                    .map_err(|_| ApiError::bad_request("malformed_header", format!("the header {name} holds something that is not ASCII"))),
            }
        };
        let idempotency_key = text("idempotency-key")?;
        if let Some(key) = &idempotency_key
            && !(1..=200).contains(&key.len())
        {
            return Err(ApiError::bad_request(
                "malformed_header",
                "an Idempotency-Key has 1 to 200 characters",
            ));
        }
        let if_match = match text("if-match")?.as_deref() {
            None | Some("*") => None,
            Some(tag) => Some(tag.trim_matches('"').parse::<i64>().map_err(|_| {
                ApiError::new(
                    StatusCode::PRECONDITION_FAILED,
                    "changed_meanwhile",
                    "If-Match does not name a version this ever had: give an ETag as it was answered",
                )
            })?),
        };
        let respond_async = text("prefer")?.is_some_and(|p| p.split(',').any(|w| w.trim().eq_ignore_ascii_case("respond-async")));
        Ok(Meta {
            request_id: parts.extensions.get::<RequestId>().map(|r| r.0.clone()).unwrap_or_default(),
            address: parts.extensions.get::<ClientAddress>().map(|a| a.0),
            idempotency_key,
            respond_async,
            if_match,
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nm_types::container::ContainerSpec;

    fn field_of(body: &str) -> (u16, String) {
        let e = parse_json::<ContainerSpec>(body.as_bytes()).unwrap_err();
        (e.status.as_u16(), e.details.first().map(|d| d.field.clone()).unwrap_or_default())
    }

    #[test]
    fn each_refusal_names_its_field() {
        for (body, want) in [
            (r#"{"name":"a","image":"b","memoryLimit":"lots"}"#, (422, "memoryLimit")),
            (
                r#"{"name":"a","image":"b","ports":[{"container":80},{"container":70000}]}"#,
                (422, "ports[1].container"),
            ),
            (r#"{"name":"a","image":"b","nope":1}"#, (422, "nope")),
            (
                r#"{"name":"a","image":"b","ports":[{"container":80,"nope":1}]}"#,
                (422, "ports[0].nope"),
            ),
            (r#"{"image":"b"}"#, (422, "name")),
            (r#"{"name":"a","name":"b"}"#, (422, "name")),
            (r#"{"name":"a""#, (400, "")),
            ("", (400, "")),
            (r#"{"name":"a","image":"b"} x"#, (400, "")),
            (r#"[]"#, (422, "")),
            (r#"{"name":"a","image":"b","restart":5}"#, (422, "restart")),
            (r#"{"name":"a","image":"b","restart":{}}"#, (422, "restart")),
            (
                r#"{"name":"a","image":"b","ports":[{"container":80,"protocol":6}]}"#,
                (422, "ports[0].protocol"),
            ),
            (r#"{"name":"a","image":"b","restart":no}"#, (400, "")),
            (r#"{"name":"a","image":"b","ports":[[80]]}"#, (422, "ports[0]")),
            (r#"{"name":"a","image":"b","healthCheck":[["true"]]}"#, (422, "healthCheck")),
        ] {
            let got = field_of(body);
            assert_eq!((got.0, got.1.as_str()), want, "{body}");
        }
    }

    #[test]
    fn queries_name_the_parameter() {
        #[derive(serde::Deserialize, Debug)]
        #[serde(deny_unknown_fields)]
        struct Q {
            #[expect(dead_code, reason = "only parsed")]
            limit: Option<nm_types::units::Bounded<1, 200>>,
        }
        assert_eq!(parse_query::<Q>("limit=0").unwrap_err().details[0].field, "limit");
        assert_eq!(parse_query::<Q>("nope=0").unwrap_err().details[0].field, "nope");
        assert_eq!(parse_query::<Q>("limit=1&limit=2").unwrap_err().details[0].field, "limit");
        assert!(parse_query::<Q>("limit=200").is_ok());
    }
}
