//! What comes in and goes out: typed JSON, lines of JSON, and refusals.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use http::request::Parts;
use http::{StatusCode, header};
use nm_link::contract::{AgentError, AgentErrorCode as Code, ContainerKey};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

/// A refusal on its way out.
pub struct Failed(pub AgentError);

impl Failed {
    pub fn invalid(message: impl Into<String>) -> Self {
        Self(AgentError::new(Code::Invalid, message))
    }
}

impl From<AgentError> for Failed {
    fn from(error: AgentError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (status(self.0.code), Json(self.0)).into_response()
    }
}

/// The one place where codes become statuses. A status says whose fault it is; the code says the rest.
pub fn status(code: Code) -> StatusCode {
    match code {
        Code::ContainerNotFound | Code::ImageNotFound | Code::NetworkNotFound | Code::VolumeNotFound | Code::PathNotFound => {
            StatusCode::NOT_FOUND
        }
        Code::NameTaken | Code::PortInUse | Code::InUse | Code::NotRunning | Code::Paused => StatusCode::CONFLICT,
        Code::Stale => StatusCode::PRECONDITION_FAILED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::Invalid => StatusCode::BAD_REQUEST,
        Code::ImageAccessDenied | Code::InsufficientResources | Code::CommandFailed => StatusCode::UNPROCESSABLE_ENTITY,
        Code::PullFailed => StatusCode::BAD_GATEWAY,
        Code::DockerUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Code::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        Code::Cancelled | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

pub type Reply<T> = Result<Json<T>, Failed>;

/// A JSON body.
pub struct Typed<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Typed<T> {
    type Rejection = Failed;
    async fn from_request(request: Request, state: &S) -> Result<Self, Failed> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|e| Failed::invalid(format!("The request could not be read: {e}.")))?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|e| Failed::invalid(format!("The request is not what the agent expects: {e}.")))
    }
}

/// A typed query.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Failed;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failed> {
        let query = axum::extract::Query::<T>::try_from_uri(&parts.uri)
            .map_err(|e| Failed::invalid(format!("The query is not what the agent expects: {e}.")))?;
        Ok(Self(query.0))
    }
}

/// The `{key}` of a path.
pub struct Key(pub ContainerKey);

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = Failed;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let text = axum::extract::Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|e| Failed::invalid(format!("The path is not what the agent expects: {e}.")))?;
        let unknown = || {
            AgentError::new(
                Code::ContainerNotFound,
                "A container is named to an agent by its NeuralMesh id, or by Docker's whole id.",
            )
        };
        ContainerKey::parse(&text.0).map(Self).ok_or_else(|| Failed(unknown()))
    }
}

/// One value as a line.
pub fn line(value: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    let mut out = Vec::with_capacity(256);
    push_line(&mut out, value)?;
    Ok(out.into())
}

pub fn push_line(out: &mut Vec<u8>, value: &impl Serialize) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *out, value)?;
    out.push(b'\n');
    Ok(())
}

/// A body of JSON lines. An error cuts the stream, which tells the reader that it is not whole.
pub fn lines<E: Into<axum::BoxError>>(stream: impl Stream<Item = Result<Bytes, E>> + Send + 'static) -> Response {
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response()
}

/// What arrives in `receiver`, as JSON lines.
pub fn channel_lines<T: Serialize + Send + 'static>(receiver: mpsc::Receiver<T>) -> Response {
    lines(futures_util::stream::unfold(receiver, |mut receiver| async move {
        let first = receiver.recv().await?;
        // What is there already goes in one piece.
        let mut out = Vec::with_capacity(512);
        let mut written = push_line(&mut out, &first);
        while written.is_ok()
            && out.len() < 32 << 10
            && let Ok(next) = receiver.try_recv()
        {
            written = push_line(&mut out, &next);
        }
        Some((written.map(|()| Bytes::from(out)), receiver))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_input_is_never_a_fault_of_ours() {
        for code in [
            Code::Invalid,
            Code::Forbidden,
            Code::NameTaken,
            Code::CommandFailed,
            Code::ImageAccessDenied,
            Code::Stale,
            Code::InsufficientResources,
        ] {
            assert!(status(code).is_client_error(), "{code:?}");
        }
        for code in [Code::DockerUnavailable, Code::Internal, Code::Timeout, Code::DiskFull] {
            assert!(status(code).is_server_error(), "{code:?}");
        }
    }
}
