//! Each answer as a span of the trace that its call belongs to.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use nm_link::trace;
use tracing::Instrument;

pub async fn traced(request: Request, next: Next) -> Response {
    let span = trace::answer(request.method(), request.uri().path(), request.headers());
    let response = next.run(request).instrument(span.clone()).await;
    trace::answered(&span, response.status());
    response
}
