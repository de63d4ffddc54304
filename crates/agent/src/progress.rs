//! Tells whoever asked for something long how far it is.

use nm_link::contract::Progress;
use nm_types::image::LayerProgress;
use tokio::sync::mpsc;

/// Sends [`Progress`] lines to one listener, who may have gone: work that must not stop half way goes on without one.
pub struct Reporter<T> {
    lines: mpsc::Sender<Progress<T>>,
}

impl<T> Reporter<T> {
    pub fn new(lines: mpsc::Sender<Progress<T>>) -> Self {
        Self { lines }
    }
    async fn send(&self, line: Progress<T>) {
        drop(self.lines.send(line).await);
    }
    pub async fn step(&self, name: &str) {
        self.send(Progress::Step { name: name.to_owned() }).await;
    }
    pub async fn log(&self, line: &str) {
        self.send(Progress::Log { line: line.to_owned() }).await;
    }
    /// Left out when the listener is slower than the layers: the next one says more.
    pub fn layer(&self, layer: LayerProgress) {
        drop(self.lines.try_send(Progress::Layer(layer)));
    }
    /// The last line.
    pub async fn end(&self, result: Result<T, nm_link::contract::AgentError>) {
        self.send(match result {
            Ok(result) => Progress::Done { result },
            Err(error) => Progress::Failed { error },
        })
        .await;
    }
    /// Resolves when the listener is gone.
    pub async fn gone(&self) {
        self.lines.closed().await;
    }
}
