//! A running operation, as its work tells of it: steps, progress, log lines, and the layers of a pull.

use super::{LOG_LINES, Live};
use crate::service::clock::SharedClock;
use nm_link::contract::Progress;
use nm_link::trace;
use nm_types::backup::job::JobProgress;
use nm_types::image::LayerProgress;
use nm_types::operation::{OperationLogLine, OperationState, OperationStep, OperationView};
use nm_types::{OperationId, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;
use tracing::Span;

/// A running operation, in the hands of its work.
#[derive(Debug, Clone)]
pub struct Running {
    pub(super) id: OperationId,
    pub(super) live: Live,
    pub(super) clock: SharedClock,
    /// Whether agents' steps are this operation's.
    pub(super) steps: bool,
    pub(super) trace: Span,
    /// The span of the step that goes on.
    pub(super) step: Arc<Mutex<Option<Span>>>,
}

impl Running {
    pub fn id(&self) -> &OperationId {
        &self.id
    }
    pub fn cancelled(&self) -> &CancellationToken {
        &self.live.cancel
    }
    pub(super) fn change(&self, change: impl FnOnce(&mut OperationView)) {
        let now = self.clock.now();
        self.live.view.send_modify(|v| {
            let view = Arc::make_mut(v);
            change(view);
            view.updated = now;
        });
    }
    /// The step before is done, `name` begins.
    pub fn step(&self, name: &str) {
        let mut step = self.step.lock().unwrap_or_else(|e| e.into_inner());
        // The one before ends first.
        drop(step.take());
        *step = Some(trace::step(&self.trace, name));
        drop(step);
        self.change(|v| {
            if let Some(last) = v.steps.last_mut().filter(|s| !s.state.is_final()) {
                last.state = OperationState::Succeeded;
                last.detail = None;
                last.layers.clear();
            }
            v.steps.push(OperationStep {
                name: name.into(),
                state: OperationState::Running,
                detail: None,
                layers: Vec::new(),
            });
        });
    }
    pub fn log(&self, line: impl Into<String>) {
        let time = self.clock.now();
        self.change(|v| {
            if v.log.len() >= LOG_LINES {
                v.log.remove(0);
            }
            v.log.push(OperationLogLine { time, line: line.into() });
        });
    }
    /// For one of several pieces of work at once: what agents say on the way shows in the log only.
    pub fn without_steps(&self) -> Self {
        Self {
            steps: false,
            ..self.clone()
        }
    }
    /// `done` of `all` are done.
    pub fn reached(&self, done: usize, all: usize) {
        self.change(|v| {
            v.progress = Some((done as f64 / all.max(1) as f64 * 1000.0).round() / 10.0);
            if let Some(step) = v.steps.last_mut() {
                step.detail = Some(format!("{done} of {all}"));
            }
        });
    }
    /// So many bytes of all have gone out.
    pub fn sent(&self, bytes: u64, all: u64) {
        self.change(|v| {
            v.progress = Some((bytes as f64 / all.max(1) as f64 * 1000.0).round() / 10.0);
            if let Some(step) = v.steps.last_mut() {
                step.detail = Some(format!("{} of {} kB", bytes / 1000, all / 1000));
            }
        });
    }
    /// How far a backup's job is.
    pub fn worked(&self, at: &JobProgress) {
        let of = |all: Option<u64>, text: &dyn Fn(u64) -> String| all.map(|all| format!(" of {}", text(all))).unwrap_or_default();
        let mut detail = format!(
            "{}{} files, {}{}",
            at.files,
            of(at.total_files, &|n| n.to_string()),
            megabytes(at.bytes),
            of(at.total_bytes, &megabytes),
        );
        if at.rate >= 1.0 {
            detail.push_str(&format!(", {}/s", megabytes(at.rate as u64)));
        }
        if let Some(seconds) = at.remaining {
            detail.push_str(&format!(", {:.0} s to go", seconds.max(0.0)));
        }
        self.change(|v| {
            v.progress = at
                .total_bytes
                .map(|all| (at.bytes as f64 / all.max(1) as f64 * 1000.0).round() / 10.0);
            if let Some(step) = v.steps.last_mut() {
                step.detail = Some(detail);
            }
        });
    }
    /// What an agent says on the way goes into steps, log and progress.
    pub fn follow<T>(&self, layers: &mut Layers, line: Progress<T>) {
        match line {
            Progress::Step { .. } | Progress::Layer(_) if !self.steps => {}
            Progress::Step { name } => self.step(&name),
            Progress::Log { line } => self.log(line),
            Progress::Layer(layer) => {
                let (progress, detail) = layers.add(layer);
                self.change(|v| {
                    v.progress = progress;
                    if let Some(step) = v.steps.last_mut() {
                        step.detail = Some(detail);
                        step.layers = layers.shown();
                    }
                });
            }
            Progress::Done { .. } | Progress::Failed { .. } => {}
        }
    }
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// The layers of a pull, added up.
#[derive(Debug, Default)]
pub struct Layers {
    layers: BTreeMap<String, Layer>,
    /// The most there ever was: what is learnt of further layers does not take progress back.
    reached: f64,
}

/// One layer: bytes to come, and how many of them have come and been unpacked.
#[derive(Debug, Default)]
struct Layer {
    shown: Option<LayerProgress>,
    total: u64,
    come: u64,
    unpacked: u64,
}

impl Layers {
    /// As for an operation, where there is none to tell.
    pub fn note<T>(&mut self, line: &Progress<T>) {
        if let Progress::Layer(layer) = line {
            self.add(layer.clone());
        }
    }
    /// Each as last heard of.
    fn shown(&self) -> Vec<LayerProgress> {
        self.layers.values().filter_map(|l| l.shown.clone()).collect()
    }
    /// Percent of the bytes known of, and a line that says where it is.
    fn add(&mut self, layer: LayerProgress) -> (Option<f64>, String) {
        let detail = match layer.total {
            0 => format!("{}: {}", layer.layer, layer.status),
            total => format!("{}: {} {} of {} kB", layer.layer, layer.status, layer.current / 1000, total / 1000),
        };
        let known = self.layers.entry(layer.layer.clone()).or_default();
        match layer.status.as_str() {
            "Downloading" => (known.total, known.come) = (layer.total, layer.current.min(layer.total)),
            "Verifying Checksum" | "Download complete" => known.come = known.total,
            "Extracting" => (known.total, known.come, known.unpacked) = (layer.total, layer.total, layer.current.min(layer.total)),
            "Pull complete" => (known.come, known.unpacked) = (known.total, known.total),
            _ => {}
        }
        known.shown = Some(layer);
        let (done, all) = self
            .layers
            .values()
            .fold((0, 0), |(d, a), l| (d + l.come + l.unpacked, a + 2 * l.total));
        if all > 0 {
            self.reached = self.reached.max((done as f64 / all as f64 * 1000.0).round() / 10.0);
        }
        ((all > 0).then_some(self.reached), detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_only_goes_forward() {
        let mut layers = Layers::default();
        let mut seen = Vec::new();
        for (layer, status, current, total) in [
            ("a", "Pulling fs layer", 0, 0),
            ("a", "Downloading", 50, 100),
            ("b", "Downloading", 0, 300),
            ("a", "Download complete", 0, 0),
            ("b", "Downloading", 300, 300),
            ("a", "Extracting", 100, 100),
            ("a", "Pull complete", 0, 0),
            ("b", "Extracting", 150, 300),
            ("b", "Pull complete", 0, 0),
        ] {
            let (progress, _) = layers.add(LayerProgress {
                layer: layer.into(),
                status: status.into(),
                current,
                total,
            });
            seen.push(progress);
        }
        assert_eq!(
            seen,
            [
                None,
                Some(25.0),
                Some(25.0),
                Some(25.0),
                Some(50.0),
                Some(62.5),
                Some(62.5),
                Some(81.3),
                Some(100.0)
            ]
        );
        assert_eq!(layers.shown().len(), 2);
    }
}
