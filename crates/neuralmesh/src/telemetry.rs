//! What a serving process says of itself: log lines to standard error, and traces to a collector where one is named.
//!
//! Traces go out by OTLP over HTTP in protobuf (<https://opentelemetry.io/docs/specs/otlp/>). Their library reads the standard
//! variables that go with it: `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`,
//! `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_TIMEOUT`. What is in a trace: [`nm_link::trace`].

use crate::client::tls;
use crate::run::{LogArgs, LogFormat};
use anyhow::Context as _;
use nm_control::logging::may_be_written;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Key, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracerProvider, Tracer};
use serde::{Deserialize, Serialize};
use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// `service.name` of the control plane, where nobody says otherwise.
pub const CONTROL_PLANE: &str = "neuralmesh";
/// `service.name` of an agent.
pub const AGENT: &str = "neuralmesh-agent";
/// `service.name` of a load balancer.
pub const PROXY: &str = "neuralmesh-proxy";

/// How long a collector may take for a batch; the library gives up by `OTEL_EXPORTER_OTLP_TIMEOUT`, 10 s by default.
const SEND_DEADLINE: Duration = Duration::from_secs(60);
/// How long the last batch may hold up the process's end.
const END_DEADLINE: Duration = Duration::from_secs(3);
/// The most of a collector's answer that is read.
const ANSWER_LIMIT: usize = 64 * 1024;
/// Where collectors take traces.
const TRACES: &str = "v1/traces";

/// Where traces go: the URL of its [`TRACES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Collector(reqwest::Url);

impl FromStr for Collector {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut url: reqwest::Url = text
            .parse()
            .map_err(|e| format!("it is no URL such as http://127.0.0.1:4318: {e}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("traces go out over http or https; gRPC collectors take them on port 4318 too".into());
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err("options show in the process list: put what signs you in into OTEL_EXPORTER_OTLP_HEADERS".into());
        }
        if !url.path().ends_with(TRACES) {
            let path = format!("{}/{TRACES}", url.path().trim_end_matches('/'));
            url.set_path(&path);
        }
        Ok(Self(url))
    }
}

impl TryFrom<String> for Collector {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Collector> for String {
    fn from(collector: Collector) -> Self {
        collector.0.into()
    }
}

impl std::fmt::Display for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Ends in good order with [`Telemetry::end`].
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sends what is left.
    pub async fn end(self) {
        let Some(traces) = self.traces else { return };
        // It waits for a thread of its own, which sends with this runtime.
        let ended = tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(END_DEADLINE)).await;
        if !matches!(ended, Ok(Ok(()))) {
            tracing::warn!("the last traces could not be sent");
        }
    }
}

/// Begins to log and, where a collector is named, to trace; within a tokio runtime.
pub fn start(args: &LogArgs, service: &'static str) -> anyhow::Result<Telemetry> {
    let filter: Targets = args
        .log_level
        .parse()
        .with_context(|| format!("`{}` is no log level", args.log_level))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match args.log_format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let traces = match &args.otlp_endpoint {
        Some(collector) => Some(provider(collector, service)?),
        None => None,
    };
    let spans = traces.as_ref().map(|provider| {
        // Of a span, what `nm_link::trace` wrote down, and nothing of where and in which thread.
        tracing_opentelemetry::layer()
            .with_tracer(tracer(provider))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(nm_link::trace::is_of_a_trace))
    });
    tracing_subscriber::registry()
        .with(lines.with_filter(filter.and(filter_fn(may_be_written))))
        .with(spans)
        .init();
    if let Some(Collector(url)) = &args.otlp_endpoint {
        tracing::info!(%url, "sending traces");
    }
    Ok(Telemetry { traces })
}

fn tracer(provider: &SdkTracerProvider) -> Tracer {
    provider.tracer("neuralmesh")
}

fn provider(collector: &Collector, service: &'static str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(collector.0.as_str())
        .with_http_client(Sender::new()?)
        .build()
        .context("set up the sending of traces")?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource(service))
        .build())
}

/// Who sends: as the environment says, and where that says no name, `service`.
fn resource(service: &'static str) -> Resource {
    let told = Resource::builder().build();
    let is_named = told
        .get(&Key::from_static_str("service.name"))
        .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let mut resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if !is_named {
        resource = resource.with_service_name(service);
    }
    resource.build()
}

/// Sends batches over our own HTTP client. The library asks from a thread of its own, outside the runtime.
#[derive(Debug)]
struct Sender {
    http: reqwest::Client,
    runtime: Handle,
    /// Whether the last batch was not taken, which is said once.
    failing: AtomicBool,
}

impl Sender {
    fn new() -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("neuralmesh/", env!("CARGO_PKG_VERSION")))
            .use_preconfigured_tls(tls::config(None, false)?)
            // A redirect could carry the headers that sign us in elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .timeout(SEND_DEADLINE)
            .build()?;
        Ok(Self {
            http,
            runtime: Handle::current(),
            failing: AtomicBool::new(false),
        })
    }

    fn note(&self, problem: Option<&str>) {
        let was_failing = self.failing.swap(problem.is_some(), Ordering::Relaxed);
        match problem {
            Some(reason) if !was_failing => {
                tracing::warn!(reason, "the collector does not take traces; they are dropped until it does");
            }
            None if was_failing => tracing::info!("the collector takes traces again"),
            Some(_) | None => {}
        }
    }
}

#[async_trait::async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let sending = async move {
            let mut answer = http.execute(request.try_into()?).await?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            let mut body = Vec::new();
            while body.len() < ANSWER_LIMIT
                && let Some(chunk) = answer.chunk().await?
            {
                body.extend_from_slice(&chunk);
            }
            let mut response = Response::new(Bytes::from(body));
            (*response.status_mut(), *response.headers_mut()) = (status, headers);
            Ok::<_, reqwest::Error>(response)
        };
        let sent = self.runtime.spawn(sending).await;
        let problem = match &sent {
            Ok(Ok(response)) if response.status().is_success() => None,
            Ok(Ok(response)) => Some(format!("it answers {}", response.status())),
            Ok(Err(error)) => Some(chain(error)),
            Err(error) => Some(error.to_string()),
        };
        self.note(problem.as_deref());
        Ok(sent??)
    }
}

/// An error with its causes, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |e| e.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_are_named_by_their_base_or_in_full() {
        for (given, url) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://otel.example.com/", "https://otel.example.com/v1/traces"),
            ("https://otel.example.com/team/", "https://otel.example.com/team/v1/traces"),
            ("http://[::1]:4318/v1/traces", "http://[::1]:4318/v1/traces"),
        ] {
            assert_eq!(given.parse::<Collector>().unwrap().0.as_str(), url);
        }
        for bad in [
            "",
            "127.0.0.1:4318",
            "grpc://x:4317",
            "http://user:secret@x",
            "http://x/?key=secret",
        ] {
            let refusal = bad.parse::<Collector>().unwrap_err();
            assert!(!refusal.contains("secret"), "{refusal}");
        }
    }
}
