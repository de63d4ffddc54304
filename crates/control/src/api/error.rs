//! The one place where what went wrong becomes an HTTP answer.
//!
//! Services and extractors return [`ApiError`]; as a response it only carries itself along, and the outermost layer
//! ([`frame`](super::frame)) writes the body, since it alone knows the request's id.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use nm_link::contract::{AgentError, AgentErrorCode};
use nm_types::OperationId;
use nm_types::envelope::FieldProblem;
use nm_types::operation::OperationError;
use std::time::Duration;

pub type ApiResult<T> = Result<T, ApiError>;

/// A failed request: a status, a stable code, a sentence a person can act on.
#[derive(Debug, Clone)]
pub struct ApiError {
    pub status: StatusCode,
    pub code: String,
    pub message: String,
    pub details: Vec<FieldProblem>,
    /// A container's last lines, where they explain it.
    pub logs: Vec<String>,
    pub operation: Option<OperationId>,
    pub retry_after: Option<Duration>,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
            details: Vec::new(),
            logs: Vec::new(),
            operation: None,
            retry_after: None,
        }
    }
    pub fn bad_request(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }
    /// `what` is a resource's word: `container`, `node`.
    pub fn not_found(what: &str, key: &str) -> Self {
        let shown: String = key.chars().take(100).collect();
        Self::new(
            StatusCode::NOT_FOUND,
            &format!("{}_not_found", what.replace(' ', "_")),
            format!("there is no {what} `{shown}`"),
        )
    }
    pub fn conflict(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }
    /// A field whose value can't be taken.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::invalid_fields(vec![FieldProblem {
            field: field.into(),
            message,
        }])
    }
    pub fn invalid_fields(details: Vec<FieldProblem>) -> Self {
        let message = match details.as_slice() {
            [one] if one.field.is_empty() => one.message.clone(),
            [one] => format!("`{}`: {}", one.field, one.message),
            many => format!("{} fields can't be taken as they are", many.len()),
        };
        Self {
            details,
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", message)
        }
    }
    /// Each field can be taken, but not all of them together.
    pub fn clashing_fields(details: Vec<FieldProblem>) -> Self {
        Self {
            status: StatusCode::CONFLICT,
            code: "conflicting_fields".into(),
            ..Self::invalid_fields(details)
        }
    }
    pub fn unavailable(code: &str, message: impl Into<String>) -> Self {
        Self {
            retry_after: Some(Duration::from_secs(5)),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
        }
    }
    pub fn too_many(message: impl Into<String>, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message)
        }
    }
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "something went wrong on our side; the log has it under this request's id",
        )
    }
    pub fn with_operation(mut self, id: OperationId) -> Self {
        self.operation = Some(id);
        self
    }
    pub fn field(mut self, field: impl Into<String>) -> Self {
        let message = self.message.clone();
        self.details.push(FieldProblem {
            field: field.into(),
            message,
        });
        self
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}
impl std::error::Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(axum::body::Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self);
        response
    }
}

impl From<nm_store::StoreError> for ApiError {
    fn from(error: nm_store::StoreError) -> Self {
        use nm_store::StoreError as E;
        match &error {
            E::Conflict { what } => ApiError::conflict(
                "already_exists",
                format!("that {} is taken already", what.as_str().replace('.', "'s ")),
            ),
            E::Stale { kind, id, revision, .. } => ApiError::new(
                StatusCode::PRECONDITION_FAILED,
                "changed_meanwhile",
                format!("{kind} {id} was changed by somebody else meanwhile, it is at \"{revision}\" now: read it again and retry"),
            ),
            E::NotFound { kind, id } => ApiError::not_found(kind.as_str(), id),
            E::Full { .. } => ApiError::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "disk_full",
                "the control plane's disk is full: nothing was changed; free some space and retry",
            ),
            E::Busy { .. } => ApiError::unavailable("store_busy", "the database is busy: retry in a moment"),
            E::Unavailable { .. } => ApiError::unavailable(
                "store_unavailable",
                "the control plane's database does not answer: check that it runs and is reachable",
            ),
            E::Fatal { .. } => ApiError::unavailable(
                "store_failed",
                "the control plane can keep nothing any more: nothing was changed, and it stops; its log says why",
            ),
            _ => {
                tracing::error!(error = &error as &dyn std::error::Error, "store failed");
                ApiError::internal()
            }
        }
    }
}

impl From<AgentError> for ApiError {
    fn from(error: AgentError) -> Self {
        use AgentErrorCode as C;
        let (status, code) = match error.code {
            C::ContainerNotFound => (404, "container_not_found"),
            C::ImageNotFound => (404, "image_not_found"),
            C::NetworkNotFound => (404, "network_not_found"),
            C::VolumeNotFound => (404, "volume_not_found"),
            C::PathNotFound => (404, "path_not_found"),
            C::ImageAccessDenied => (409, "image_access_denied"),
            // The image is not there and can't be had now: for the caller that is no fault of the control plane's.
            C::PullFailed => (404, "pull_failed"),
            C::NameTaken => (409, "name_taken"),
            C::PortInUse => (409, "port_in_use"),
            C::InsufficientResources => (409, "insufficient_resources"),
            C::InUse => (409, "in_use"),
            C::NotRunning => (409, "not_running"),
            C::Paused => (409, "paused"),
            C::Forbidden => (403, "forbidden_by_node_policy"),
            C::CommandFailed => (409, "command_failed"),
            C::Invalid => (422, "invalid_field"),
            C::Stale => (412, "changed_meanwhile"),
            C::DiskFull => (507, "disk_full"),
            C::DockerUnavailable => (503, "docker_unavailable"),
            C::Timeout => (503, "timeout"),
            C::Cancelled => (409, "cancelled"),
            C::Internal => (500, "internal"),
        };
        if error.code == C::Internal {
            tracing::error!(message = %error.message, "agent failed");
        }
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let details = error
            .field
            .iter()
            .map(|f| FieldProblem {
                field: f.clone(),
                message: error.message.clone(),
            })
            .collect();
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(5));
        ApiError {
            status,
            code: code.into(),
            message: error.message,
            details,
            logs: error.logs,
            operation: None,
            retry_after,
        }
    }
}

impl From<ApiError> for OperationError {
    fn from(e: ApiError) -> Self {
        OperationError {
            status: e.status.as_u16(),
            code: e.code,
            error: e.message,
            details: e.details,
            logs: e.logs,
        }
    }
}

impl From<OperationError> for ApiError {
    fn from(e: OperationError) -> Self {
        let status = StatusCode::from_u16(e.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(5));
        ApiError {
            status,
            code: e.code,
            message: e.error,
            details: e.details,
            logs: e.logs,
            operation: None,
            retry_after,
        }
    }
}
