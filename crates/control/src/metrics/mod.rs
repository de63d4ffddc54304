//! What `GET /metrics` tells, named by <https://prometheus.io/docs/practices/naming/>.
//!
//! Everything is read where it lies at the moment of the scrape; only requests are counted here. Labels are bounded: by what
//! there is of nodes and clusters (500 of 100 servers at most), by [`CONTAINERS_SHOWN`] of containers, and by our own words
//! everywhere else.
//!
//! - [`text`] writes the two formats.
//! - [`fleet`] tells of nodes and their machines, [`containers`] of single containers, [`clusters`] of traffic, [`backups`] of backups, [`jobs`] of jobs.
//! - [`plane`] tells of the control plane's own work, [`process`] of its process.

mod backups;
mod clusters;
mod containers;
mod fleet;
mod jobs;
mod plane;
mod process;
pub mod text;

use crate::api::error::ApiError;
use crate::app::App;
use crate::service::index::Census;
use http::{Method, StatusCode};
use nm_store::Totals;
use nm_types::measure::Durations;
use std::collections::BTreeMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use text::{Format, Text};

/// The most containers with series of their own; a gauge says how many more there are.
pub const CONTAINERS_SHOWN: usize = 5_000;
/// How long the database may take to say how far it is.
const STORE_DEADLINE: Duration = Duration::from_secs(2);

/// What is counted here.
#[derive(Debug)]
pub struct Metrics {
    requests: RwLock<BTreeMap<(&'static str, u16), AtomicU64>>,
    took: Durations,
    /// When this process began, in seconds since 1970.
    began: f64,
}

/// What the database says of itself; none where it does not answer.
struct StoreSeen {
    totals: Option<Totals>,
    size: Option<u64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: RwLock::default(),
            took: Durations::default(),
            began: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        }
    }
}

/// Methods a client makes up must not make new series.
fn method_label(method: &Method) -> &'static str {
    ["GET", "POST", "PUT", "PATCH", "DELETE"]
        .into_iter()
        .find(|m| *m == method.as_str())
        .unwrap_or("other")
}

impl Metrics {
    pub fn request(&self, method: &Method, status: StatusCode, took: Duration) {
        self.took.observe(took);
        let key = (method_label(method), status.as_u16());
        if let Some(count) = self.requests.read().unwrap_or_else(|e| e.into_inner()).get(&key) {
            count.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut requests = self.requests.write().unwrap_or_else(|e| e.into_inner());
        requests.entry(key).or_default().fetch_add(1, Ordering::Relaxed);
    }

    fn requests(&self) -> Vec<(&'static str, u16, u64)> {
        let requests = self.requests.read().unwrap_or_else(|e| e.into_inner());
        requests
            .iter()
            .map(|((method, status), count)| (*method, *status, count.load(Ordering::Relaxed)))
            .collect()
    }
}

/// All of it as it is now, single containers only with `each_container`.
pub async fn scrape(app: &App, format: Format, each_container: bool) -> Result<String, ApiError> {
    let (totals, size) = tokio::join!(
        tokio::time::timeout(STORE_DEADLINE, app.store.totals()),
        tokio::time::timeout(STORE_DEADLINE, app.store.size_bytes()),
    );
    let store = StoreSeen {
        totals: totals.ok().and_then(Result::ok),
        size: size.ok().and_then(Result::ok),
    };
    let app = app.clone();
    // Megabytes of text take a while to write; requests should not wait for that.
    let written = tokio::task::spawn_blocking(move || write(&app, &store, format, each_container)).await;
    written.map_err(|error| {
        tracing::error!(%error, "writing the metrics panicked");
        ApiError::internal()
    })
}

fn write(app: &App, store: &StoreSeen, format: Format, each_container: bool) -> String {
    let census = app.index.census(if each_container { CONTAINERS_SHOWN } else { 0 });
    let (nodes, clusters) = (app.nodes.figures(), app.clusters.counts());
    let mut text = Text::new(format, 32 * 1024 + room(&census, nodes.len()));
    plane::write(&mut text, app, store);
    fleet::write(&mut text, &nodes, &census);
    containers::write(&mut text, &nodes, &census);
    clusters::write(&mut text, &clusters);
    backups::write(&mut text, &app.backups.all());
    jobs::write(&mut text, &app.jobs);
    process::write(&mut text, app.metrics.began);
    text.end()
}

/// About how long the text gets, so that the buffer is made once.
fn room(census: &Census, nodes: usize) -> usize {
    census.oldest.len() * 1_500 + nodes * 4_000
}
