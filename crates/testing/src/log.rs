//! What control planes log, at the least level.

use crate::plane::CONTROL_PLANE;
use nm_control::logging::may_be_written;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How many listen. Nothing is formatted while nobody does.
static LISTENERS: AtomicUsize = AtomicUsize::new(0);
/// There is one log a process, by the logging library's own design.
static TEXT: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();

/// Everything that the control planes of this process log at TRACE while this lives, other tests' among them.
#[derive(Debug)]
pub struct TraceLog {
    text: Arc<Mutex<Vec<u8>>>,
}

#[derive(Clone)]
struct Writer(Arc<Mutex<Vec<u8>>>);

impl Write for Writer {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn lock(text: &Mutex<Vec<u8>>) -> std::sync::MutexGuard<'_, Vec<u8>> {
    text.lock().unwrap_or_else(|e| e.into_inner())
}

/// Whether this thread works for a control plane, rather than for a test: its client knows every secret, and its libraries
/// log what it sends.
fn is_the_control_planes() -> bool {
    let thread = std::thread::current();
    thread.name().is_some_and(|name| name == CONTROL_PLANE || name.starts_with("sqlx"))
}

impl TraceLog {
    pub fn listen() -> Self {
        let text = TEXT.get_or_init(|| {
            let text = Arc::<Mutex<Vec<u8>>>::default();
            let writer = Writer(text.clone());
            let wanted =
                dynamic_filter_fn(|line, _| LISTENERS.load(Ordering::SeqCst) > 0 && is_the_control_planes() && may_be_written(line));
            let wanted = wanted.with_max_level_hint(LevelFilter::TRACE);
            let layer = tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .with_filter(wanted);
            // It also takes what libraries say through the `log` crate.
            tracing_subscriber::registry()
                .with(layer)
                .try_init()
                .expect("nothing else in a test listens to the log");
            text
        });
        LISTENERS.fetch_add(1, Ordering::SeqCst);
        tracing::callsite::rebuild_interest_cache();
        Self { text: text.clone() }
    }

    /// All of it so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.text)).into_owned()
    }
}

impl Drop for TraceLog {
    fn drop(&mut self) {
        if LISTENERS.fetch_sub(1, Ordering::SeqCst) == 1 {
            lock(&self.text).clear();
        }
        tracing::callsite::rebuild_interest_cache();
    }
}
