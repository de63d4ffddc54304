//! What `GET /metrics` tells: <https://prometheus.io/docs/instrumenting/exposition_formats/>. Labels are bounded.

use http::{Method, StatusCode};
use nm_types::container::ContainerStatus;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    status: u16,
}

/// Methods a client makes up must not make new series.
fn method_label(method: &Method) -> &'static str {
    ["GET", "POST", "PUT", "PATCH", "DELETE"]
        .into_iter()
        .find(|m| *m == method.as_str())
        .unwrap_or("other")
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

/// The process's own figures.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    duration: Histogram,
    containers: Family<StatusLabel, Gauge>,
    nodes: Gauge,
    nodes_connected: Gauge,
    operations: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("neuralmesh");
        let requests = Family::default();
        // 0.25 ms to 16 s, each twice the one before.
        let duration = Histogram::new(exponential_buckets(0.000_25, 2.0, 17));
        let (containers, nodes, nodes_connected, operations) = (Family::default(), Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("http_requests", "Requests answered", requests.clone());
        registry.register_with_unit("http_request_duration", "Time to answer a request", Unit::Seconds, duration.clone());
        registry.register("containers", "Containers known, by status", containers.clone());
        registry.register("nodes", "Nodes known", nodes.clone());
        registry.register("nodes_connected", "Nodes whose agent is connected", nodes_connected.clone());
        registry.register("operations_running", "Operations under way", operations.clone());
        Self {
            registry: Arc::new(registry),
            requests,
            duration,
            containers,
            nodes,
            nodes_connected,
            operations,
        }
    }
}

impl Metrics {
    pub fn request(&self, method: &Method, status: StatusCode, took: Duration) {
        self.requests
            .get_or_create(&RequestLabels {
                method: method_label(method),
                status: status.as_u16(),
            })
            .inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// The text, with the gauges as they are now.
    pub fn text(&self, app: &crate::app::App) -> Result<String, std::fmt::Error> {
        let counts = app.index.counts();
        // Also those of which there are none: a series that goes away looks like a scrape that failed.
        for status in ContainerStatus::ALL.map(ContainerStatus::as_str) {
            let count = counts.get(status).copied().unwrap_or_default();
            self.containers
                .get_or_create(&StatusLabel { status })
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.nodes.set(app.nodes.len() as i64);
        self.nodes_connected.set(app.fleet.links().connected().len() as i64);
        self.operations.set(app.operations.running() as i64);
        let mut out = String::new();
        encode(&mut out, &self.registry)?;
        Ok(out)
    }
}
