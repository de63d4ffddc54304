//! Successful answers, all in one envelope.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use nm_types::operation::OperationView;
use serde::Serialize;

/// A successful answer. Built by its constructors, so that a status never stands beside the wrong shape.
#[derive(Debug)]
pub struct Reply<T> {
    status: StatusCode,
    data: T,
    message: Option<String>,
    revision: Option<i64>,
    list: Option<(usize, Option<String>)>,
    /// The cursor of the next page of something that is not a list by itself.
    next: Option<String>,
}

impl<T> Reply<T> {
    fn with(status: StatusCode, data: T) -> Self {
        Self {
            status,
            data,
            message: None,
            revision: None,
            list: None,
            next: None,
        }
    }
    /// It goes on, and this is what it is now.
    pub fn begun(data: T, message: impl Into<String>) -> Self {
        Self::with(StatusCode::ACCEPTED, data).message(message)
    }
    /// The cursor of the next page.
    pub fn next(mut self, next: Option<String>) -> Self {
        self.next = next;
        self
    }
    pub fn ok(data: T) -> Self {
        Self::with(StatusCode::OK, data)
    }
    pub fn created(data: T, message: impl Into<String>) -> Self {
        Self::with(StatusCode::CREATED, data).message(message)
    }
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }
    /// As [`Reply::message`], where there is something to tell.
    pub fn told(self, message: Option<String>) -> Self {
        Self { message, ..self }
    }
    /// The revision that `If-Match` can name.
    pub fn revision(mut self, revision: i64) -> Self {
        self.revision = Some(revision);
        self
    }
}

impl<T> Reply<Vec<T>> {
    /// One page, and the cursor of the next where there is one.
    pub fn list(items: Vec<T>, next: Option<String>) -> Self {
        let count = items.len();
        let mut reply = Self::with(StatusCode::OK, items);
        reply.list = Some((count, next));
        reply
    }

    #[cfg(test)]
    pub fn into_page(self) -> (Vec<T>, Option<String>) {
        (self.data, self.list.and_then(|(_, next)| next))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a, T> {
    success: bool,
    data: &'a T,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        let (count, next) = match &self.list {
            Some((count, next)) => (Some(*count), next.as_deref()),
            None => (None, self.next.as_deref()),
        };
        let body = Envelope {
            success: true,
            data: &self.data,
            count,
            next_cursor: next,
            message: self.message.as_deref(),
        };
        let bytes = match serde_json::to_vec(&body) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "a reply could not be written as JSON");
                return super::error::ApiError::internal().into_response();
            }
        };
        let mut response = json(self.status, bytes);
        if let Some(revision) = self.revision {
            response.headers_mut().insert(header::ETAG, etag(revision));
        }
        response
    }
}

/// A JSON answer of bytes that are JSON already.
pub fn json(status: StatusCode, bytes: impl Into<axum::body::Body>) -> Response {
    let mut response = Response::new(bytes.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub fn etag(revision: i64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{revision}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
}

/// 202 and the operation that goes on, with where to follow it.
pub fn accepted(operation: &OperationView) -> Response {
    let location = format!("/api/operations/{}", operation.id);
    let message = "it goes on; follow the operation";
    let mut response = Reply {
        status: StatusCode::ACCEPTED,
        data: operation,
        message: Some(message.into()),
        revision: None,
        list: None,
        next: None,
    }
    .into_response();
    if let Ok(value) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}
