//! The access log: one JSON line a request or TCP connection, written by a thread of its own. Traffic never waits for
//! it; what does not fit into its queue is counted and left out.

use serde::Serialize;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Lines that may wait for the disk.
const QUEUE: usize = 16_384;

#[derive(Clone)]
pub struct AccessLog {
    queue: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

/// One line. Times in milliseconds, sizes in bytes of the bodies.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line<'a> {
    pub time: nm_types::Timestamp,
    pub listener: &'a str,
    pub client: std::net::IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<&'a str>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration_ms: f64,
    /// Whether it ended as it should.
    pub complete: bool,
}

impl AccessLog {
    /// Writes to `out` until the last sender is gone.
    pub fn new(out: Box<dyn Write + Send>) -> std::io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = dropped.clone();
        std::thread::Builder::new()
            .name("access-log".into())
            .stack_size(256 << 10)
            .spawn(move || write(out, &lines, &counter))?;
        Ok(Self { queue, dropped })
    }

    pub fn write(&self, line: &Line<'_>) {
        let Ok(mut text) = serde_json::to_vec(line) else { return };
        text.push(b'\n');
        if self.queue.try_send(text).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write(out: Box<dyn Write + Send>, lines: &Receiver<Vec<u8>>, dropped: &AtomicU64) {
    let mut out = BufWriter::with_capacity(64 << 10, out);
    let mut failing = false;
    while let Ok(line) = lines.recv() {
        let mut result = out.write_all(&line);
        // What has come meanwhile goes out in the same write.
        while let Ok(line) = lines.try_recv() {
            result = result.and_then(|()| out.write_all(&line));
        }
        result = result.and_then(|()| out.flush());
        match result {
            Ok(()) => failing = false,
            Err(_) if failing => {}
            Err(error) => {
                failing = true;
                tracing::warn!(%error, "the access log can't be written; its lines are lost until it can");
            }
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(lost, "the access log could not keep up; lines were left out");
        }
    }
}
