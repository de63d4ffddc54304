//! Server-sent events, as a reader sees them: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use nm_waits::soon;
use serde::de::DeserializeOwned;
use tokio_util::task::AbortOnDropHandle;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    pub event: String,
    pub id: Option<i64>,
    pub data: String,
}

impl SseEvent {
    #[track_caller]
    pub fn data<T: DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.data).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// An open stream. Dropped, it hangs up.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: BytesMut,
    _connection: AbortOnDropHandle<()>,
}

impl Events {
    pub(crate) fn new(body: Incoming, connection: AbortOnDropHandle<()>) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            _connection: connection,
        }
    }

    /// The next event; `None` at the stream's end.
    pub async fn next(&mut self) -> Option<SseEvent> {
        soon("an event", self.read()).await
    }

    /// The next event that `wanted` takes; the ones before it are dropped.
    pub async fn find(&mut self, what: &str, wanted: impl Fn(&SseEvent) -> bool) -> SseEvent {
        soon(what, async {
            loop {
                let event = self.read().await.unwrap_or_else(|| panic!("the stream ended before {what}"));
                if wanted(&event) {
                    return event;
                }
            }
        })
        .await
    }

    /// Reads to the end of the stream.
    pub async fn rest(&mut self) -> Vec<SseEvent> {
        soon("the stream's end", async {
            let mut all = Vec::new();
            while let Some(event) = self.read().await {
                all.push(event);
            }
            all
        })
        .await
    }

    /// Waits until the stream has begun to speak: from then on nothing that happens is missed.
    pub async fn begun(&mut self) {
        soon("the stream's first words", async {
            while self.buffer.is_empty() {
                assert!(self.fill().await, "the stream ended at once");
            }
        })
        .await;
    }

    async fn fill(&mut self) -> bool {
        match self.body.frame().await {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.buffer.extend_from_slice(data);
                }
                true
            }
            // A control plane that was killed ends its streams like this.
            Some(Err(_)) | None => false,
        }
    }

    async fn read(&mut self) -> Option<SseEvent> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|w| w == b"\n\n") {
                let block = self.buffer.split_to(end + 2);
                let block = std::str::from_utf8(&block[..end]).expect("events are UTF-8");
                if let Some(event) = parse(block) {
                    return Some(event);
                }
            }
            if !self.fill().await {
                return None;
            }
        }
    }
}

/// `None` for a comment.
fn parse(block: &str) -> Option<SseEvent> {
    let (mut event, mut id, mut data) = (String::new(), None, Vec::new());
    for line in block.split('\n').filter(|l| !l.starts_with(':')) {
        let (field, value) = line.split_once(": ").unwrap_or_else(|| panic!("not a field of an event: {line:?}"));
        match field {
            "event" => event = value.to_owned(),
            "id" => id = Some(value.parse().expect("ids are numbers")),
            "data" => data.push(value),
            other => panic!("an unknown field `{other}`"),
        }
    }
    (!event.is_empty()).then(|| SseEvent {
        event,
        id,
        data: data.join("\n"),
    })
}
