//! Spans of a trace: a request to the API, an operation and its steps, a call to an agent, and the agent's answer to it.
//!
//! They are spans of `tracing` under a target of their own, [`TARGET`], apart from those that log lines stand in. So what
//! leaves this machine as a trace is what this file writes down and nothing else: methods, templates of paths, ids, codes;
//! never a body, a query or a header's value. Where nobody collects traces the target is off and a span costs one load of a
//! flag.
//!
//! A trace goes on over the link, and comes in from clients, by the headers of
//! [W3C Trace Context](https://www.w3.org/TR/trace-context/).

use crate::contract::ContainerKey;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use nm_types::{NodeId, OperationId};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use std::borrow::Cow;
use tracing::field::Empty;
use tracing::{Metadata, Span, debug_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The target of all spans made here.
pub const TARGET: &str = "nm_trace";

/// Whether this is a span of a trace: what a collector of traces takes, and what no log shows.
pub fn is_of_a_trace(metadata: &Metadata<'_>) -> bool {
    metadata.target() == TARGET
}

/// A request to the API. It goes on with the trace its headers name. `route` is the template of its path; none for what no
/// route is for.
pub fn request(method: &Method, route: Option<&str>, id: &str, headers: &HeaderMap) -> Span {
    let method = known(method);
    let span = debug_span!(
        target: TARGET, parent: None, "request",
        otel.name = %Name(method, route),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        neuralmesh.request.id = id,
        otel.status_code = Empty,
    );
    go_on(&span, headers);
    span
}

/// An operation. It belongs to the trace of whoever asked for it, and may end after that request.
pub fn operation(id: &OperationId, kind: &str) -> Span {
    let span = debug_span!(
        target: TARGET, parent: None, "operation",
        otel.name = kind,
        otel.kind = "internal",
        neuralmesh.operation.id = %id,
        neuralmesh.operation.kind = kind,
        error.type = Empty,
        otel.status_code = Empty,
    );
    if !span.is_disabled() {
        // By name only, so that the request's span is not kept open.
        let asked_by = Context::current().span().span_context().clone();
        begin_within(&span, Context::new().with_remote_span_context(asked_by));
    }
    span
}

/// A step of an operation, until it is dropped.
pub fn step(operation: &Span, name: &str) -> Span {
    debug_span!(
        target: TARGET, parent: operation, "step",
        otel.name = %format_args!("step {name}"),
        otel.kind = "internal",
        neuralmesh.step = name,
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// A call to a node's agent.
pub fn call(node: &NodeId, method: &Method, path: &str) -> Span {
    let method = known(method);
    let path = path.split('?').next().unwrap_or_default();
    debug_span!(
        target: TARGET, "call",
        otel.name = %Name(method, Some(template(path).as_ref())),
        otel.kind = "client",
        http.request.method = method,
        url.template = %template(path),
        neuralmesh.node.id = %node,
        neuralmesh.container = key_of(path),
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// An agent's answer to a call. It goes on with the trace that the call's headers name.
pub fn answer(method: &Method, path: &str, headers: &HeaderMap) -> Span {
    let method = known(method);
    let span = debug_span!(
        target: TARGET, parent: None, "answer",
        otel.name = %Name(method, Some(template(path).as_ref())),
        otel.kind = "server",
        http.request.method = method,
        http.route = %template(path),
        http.response.status_code = Empty,
        neuralmesh.container = key_of(path),
        otel.status_code = Empty,
    );
    go_on(&span, headers);
    span
}

/// How a request was answered. By convention a server's span failed only where the fault was the server's.
pub fn answered(span: &Span, status: StatusCode) {
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

/// It failed, for the reason that this code of ours stands for.
pub fn failed(span: &Span, code: &str) {
    span.record("error.type", code);
    span.record("otel.status_code", "ERROR");
}

/// Writes the current trace, where there is one, into the headers of a request to an agent.
pub(crate) fn hand_over(headers: &mut HeaderMap) {
    let current = Context::current();
    if current.span().span_context().is_valid() {
        TraceContextPropagator::new().inject_context(&current, &mut Headers(headers));
    }
}

fn go_on(span: &Span, headers: &HeaderMap) {
    if !span.is_disabled() && headers.contains_key("traceparent") {
        begin_within(
            span,
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Given(headers)),
        );
    }
}

fn begin_within(span: &Span, context: Context) {
    if context.span().span_context().is_valid() {
        // It fails where no collector takes the span, and then there is no trace to belong to.
        let _collected = span.set_parent(context);
    }
}

/// Methods that a client makes up must not make new names.
fn known(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    KNOWN.into_iter().find(|m| *m == method.as_str()).unwrap_or("_OTHER")
}

/// A span's name: `POST /v1/containers/{key}/command`.
struct Name<'a>(&'a str, Option<&'a str>);

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.1 {
            Some(path) => write!(f, "{} {path}", self.0),
            None => f.write_str(self.0),
        }
    }
}

fn key_of(path: &str) -> Option<&str> {
    path.split('/').find(|part| ContainerKey::parse(part).is_some())
}

/// A path of the contract as the contract writes it, with `{key}` in a container's place.
fn template(path: &str) -> Cow<'_, str> {
    match key_of(path) {
        Some(key) => path.replacen(key, "{key}", 1).into(),
        None => path.into(),
    }
}

struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, name: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

struct Given<'a>(&'a HeaderMap);

impl Extractor for Given<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|v| v.to_str().ok())
    }
    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::{SpanContext, SpanId, TraceId};
    use opentelemetry::trace::{SpanKind, Status, TraceFlags, TraceState, TracerProvider};
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::Layer;
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn names_of_calls_are_the_contracts_paths() {
        for (path, name, key) in [
            ("/v1/info", "/v1/info", None),
            (
                "/v1/containers/cont_1770000000000_abcdefghi/command",
                "/v1/containers/{key}/command",
                Some("cont_1770000000000_abcdefghi"),
            ),
            ("/v1/containers/nothing/logs", "/v1/containers/nothing/logs", None),
        ] {
            assert_eq!((template(path).as_ref(), key_of(path)), (name, key));
        }
        assert_eq!(known(&Method::from_bytes(b"BREW").unwrap()), "_OTHER");
    }

    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    /// What a collector gets of `work`.
    fn collected(work: impl FnOnce()) -> Vec<SpanData> {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
        let spans = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("test"))
            .with_filter(filter_fn(is_of_a_trace));
        // A log beside it, as in the real program: its spans lie in between and must not part the tree.
        let log = tracing_subscriber::fmt::layer()
            .with_writer(std::io::sink)
            .with_filter(filter_fn(|m| !is_of_a_trace(m)));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log).with(spans), work);
        let kept = kept.0.lock().unwrap();
        kept.clone()
    }

    fn operation_id() -> OperationId {
        OperationId::parse("op_1770000000000_abcdefghi").unwrap()
    }

    #[test]
    fn an_operation_has_its_steps_and_outlives_its_request() {
        let mut handed = HeaderMap::new();
        let spans = collected(|| {
            let request = request(&Method::POST, Some("/api/x"), "req_1", &HeaderMap::new());
            let operation = request.in_scope(|| {
                let _line = tracing::info_span!("request").entered();
                operation(&operation_id(), "container.create")
            });
            answered(&request, StatusCode::ACCEPTED);
            drop(request);
            let pull = step(&operation, "pull");
            operation.in_scope(|| {
                let _line = tracing::info_span!("operation").entered();
                let node = NodeId::parse("node_1770000000000_abcdefghi").unwrap();
                call(&node, &Method::POST, "/v1/containers?token=x").in_scope(|| hand_over(&mut handed));
            });
            drop(pull);
            failed(&operation, "image_not_found");
        });
        let names: Vec<&str> = spans.iter().map(|s| s.name.as_ref()).collect();
        // In the order they ended.
        assert_eq!(names, ["POST /api/x", "POST /v1/containers", "step pull", "container.create"]);
        let [request, call, pull, operation] = spans.as_slice() else {
            panic!("{names:?}")
        };
        assert_eq!(operation.parent_span_id, request.span_context.span_id());
        assert_eq!(pull.parent_span_id, operation.span_context.span_id());
        assert_eq!(call.parent_span_id, operation.span_context.span_id());
        assert_eq!((&call.span_kind, &request.span_kind), (&SpanKind::Client, &SpanKind::Server));
        assert!(matches!(operation.status, Status::Error { .. }) && request.status == Status::Unset);
        assert!(!format!("{spans:?}").contains("token"), "queries stay here");
        let parent = handed["traceparent"].to_str().unwrap();
        let (trace, span) = (call.span_context.trace_id(), call.span_context.span_id());
        assert_eq!(parent, format!("00-{trace}-{span}-01"));
    }

    #[test]
    fn a_trace_from_outside_goes_on_where_it_can_be_read() {
        let (trace, span) = (TraceId::from_bytes([7; 16]), SpanId::from_bytes([9; 8]));
        let outside = SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::default());
        let headers = |text: &str| HeaderMap::from_iter([(HeaderName::from_static("traceparent"), HeaderValue::from_str(text).unwrap())]);
        let given = format!("00-{trace}-{span}-01");
        let spans = collected(|| {
            drop(answer(&Method::GET, "/v1/info", &headers(&given)));
            for bad in ["", "00-zz-zz-01", "00-00000000000000000000000000000000-0000000000000000-01"] {
                drop(answer(&Method::GET, "/v1/info", &headers(bad)));
            }
        });
        assert_eq!(spans.len(), 4);
        assert_eq!(
            (spans[0].span_context.trace_id(), spans[0].parent_span_id),
            (outside.trace_id(), span)
        );
        for own in &spans[1..] {
            assert!(own.span_context.is_valid() && own.parent_span_id == SpanId::INVALID);
        }
    }

    #[test]
    fn without_a_collector_there_is_no_span_and_no_header() {
        let log = tracing_subscriber::fmt::layer().with_writer(std::io::sink);
        let log = log.with_filter(filter_fn(|m| !is_of_a_trace(m)));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            let request = request(&Method::GET, None, "req_1", &HeaderMap::new());
            let operation = operation(&operation_id(), "image.pull");
            assert!(request.is_disabled() && operation.is_disabled() && step(&operation, "pull").is_disabled());
            let mut headers = HeaderMap::new();
            request.in_scope(|| hand_over(&mut headers));
            assert!(headers.is_empty());
        });
    }
}
