//! An operation's progress on stderr: bars on a terminal, one line a change elsewhere.

use super::human;
use super::table::clean;
use crate::client::Watch;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use nm_types::operation::{OperationState, OperationStep, OperationView};
use std::collections::HashMap;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(120);

/// Shows what an operation does until it is dropped.
#[derive(Debug)]
pub struct Progress {
    shown: Shown,
    /// Per step, what was last shown of it.
    steps: HashMap<usize, (OperationState, Option<String>)>,
}

#[derive(Debug)]
enum Shown {
    Bars(Bars),
    Lines,
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    whole: Option<ProgressBar>,
    steps: HashMap<usize, ProgressBar>,
    /// Of the layers that are on their way, by step and layer.
    layers: HashMap<(usize, String), ProgressBar>,
}

impl Progress {
    pub fn new(terminal: bool) -> Self {
        let bars = || Bars {
            all: MultiProgress::new(),
            whole: None,
            steps: HashMap::new(),
            layers: HashMap::new(),
        };
        Self {
            shown: if terminal { Shown::Bars(bars()) } else { Shown::Lines },
            steps: HashMap::new(),
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates below are constants; a wrong one would only look plain.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .progress_chars("=> ")
}

fn label(step: &OperationStep) -> String {
    let name = clean(&step.name);
    match &step.detail {
        Some(detail) => format!("{name}  {}", clean(detail)),
        None => name,
    }
}

impl Watch for Progress {
    fn update(&mut self, operation: &OperationView) {
        let changed: Vec<(usize, &OperationStep)> = operation
            .steps
            .iter()
            .enumerate()
            .filter(|(i, step)| {
                self.steps
                    .get(i)
                    .is_none_or(|(state, detail)| *state != step.state || *detail != step.detail)
            })
            .collect();
        match &mut self.shown {
            Shown::Lines => {
                for (i, step) in &changed {
                    let state_changed = self.steps.get(i).is_none_or(|(state, _)| *state != step.state);
                    // Every percent of every layer would drown a log file.
                    if state_changed && step.state != OperationState::Pending {
                        super::note(format!("{}: {}", clean(&step.name), word(step.state)));
                    }
                }
            }
            Shown::Bars(bars) => {
                bars.whole(operation);
                for (i, step) in &changed {
                    bars.step(*i, step);
                }
                if operation.state.is_final() {
                    bars.clear();
                }
            }
        }
        let seen: Vec<_> = changed
            .into_iter()
            .map(|(i, step)| (i, (step.state, step.detail.clone())))
            .collect();
        self.steps.extend(seen);
    }
}

impl Bars {
    fn whole(&mut self, operation: &OperationView) {
        let all = &self.all;
        let bar = self.whole.get_or_insert_with(|| {
            let bar = all.add(ProgressBar::new(1000));
            bar.enable_steady_tick(TICK);
            bar
        });
        match operation.progress {
            Some(percent) => {
                bar.set_style(style("{spinner} {msg}  [{bar:30}] {percent:>3}%  {elapsed}"));
                bar.set_position((percent.clamp(0.0, 100.0) * 10.0) as u64);
            }
            None => bar.set_style(style("{spinner} {msg}  {elapsed}")),
        }
        bar.set_message(clean(&operation.kind));
    }

    fn step(&mut self, index: usize, step: &OperationStep) {
        let all = &self.all;
        let bar = self.steps.entry(index).or_insert_with(|| {
            let bar = all.add(ProgressBar::new_spinner());
            bar.set_style(style("  {spinner} {msg}"));
            bar.enable_steady_tick(TICK);
            bar
        });
        match step.state {
            OperationState::Pending | OperationState::Running if step.layers.is_empty() => bar.set_message(label(step)),
            OperationState::Pending | OperationState::Running => {
                bar.set_message(clean(&step.name));
                self.layers(index, step);
            }
            OperationState::Succeeded | OperationState::Failed | OperationState::Cancelled => {
                bar.set_style(style("  {msg}"));
                bar.finish_with_message(format!("{} {}", mark(step.state), clean(&step.name)));
                self.layers.retain(|(of, _), bar| {
                    if *of == index {
                        bar.finish_and_clear();
                    }
                    *of != index
                });
            }
        }
    }

    fn layers(&mut self, index: usize, step: &OperationStep) {
        for layer in &step.layers {
            let key = (index, layer.layer.clone());
            // Only what moves is worth a line: a big image has more layers than a screen has lines.
            if layer.total == 0 || layer.current >= layer.total {
                if let Some(bar) = self.layers.remove(&key) {
                    bar.finish_and_clear();
                }
                continue;
            }
            let bar = self.layers.entry(key).or_insert_with(|| {
                let bar = self.all.add(ProgressBar::new(layer.total));
                bar.set_style(style("      {prefix:12} {msg:12} [{bar:24}] {decimal_bytes}/{decimal_total_bytes}"));
                bar.set_prefix(clean(&layer.layer));
                bar
            });
            bar.set_message(clean(&layer.status));
            bar.set_length(layer.total);
            bar.set_position(layer.current);
        }
    }

    fn clear(&mut self) {
        for bar in self
            .layers
            .values()
            .chain(&self.whole)
            .chain(self.steps.values())
            .filter(|bar| !bar.is_finished())
        {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bars(bars) = &mut self.shown {
            bars.clear();
        }
    }
}

fn word(state: OperationState) -> &'static str {
    match state {
        OperationState::Pending => "waiting",
        OperationState::Running => "begun",
        OperationState::Succeeded => "done",
        OperationState::Failed => "failed",
        OperationState::Cancelled => "cancelled",
    }
}

fn mark(state: OperationState) -> &'static str {
    match state {
        OperationState::Pending => " ",
        OperationState::Running => ">",
        OperationState::Succeeded => "✔",
        OperationState::Failed => "✘",
        OperationState::Cancelled => "-",
    }
}

/// A bar for bytes that go up or come down, on a terminal; nothing elsewhere.
pub fn bytes(message: &str, total: Option<u64>) -> ProgressBar {
    use std::io::IsTerminal as _;
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = match total {
        Some(total) => ProgressBar::new(total).with_style(style("{msg}  [{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}")),
        None => ProgressBar::new_spinner().with_style(style("{spinner} {msg}  {bytes}  {bytes_per_sec}")),
    };
    bar.set_message(clean(message));
    bar
}

/// What moved, once it has: `Copied 12.3MB`.
pub fn moved(bytes: u64) -> String {
    format!("Copied {}", human::size(bytes))
}
