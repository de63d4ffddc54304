//! Server-sent events: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.
//!
//! A stream ends when its caller's permission does, when its source does, or when we stop.

use crate::app::App;
use crate::app::stopped;
use crate::service::auth::Actor;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{HeaderValue, header};
use std::convert::Infallible;
use std::time::Duration;

/// One event.
#[derive(Debug, Clone)]
pub struct Message {
    pub event: &'static str,
    pub id: Option<i64>,
    /// One line of JSON.
    pub data: String,
}

impl Message {
    pub fn json<T: serde::Serialize>(event: &'static str, value: &T) -> Self {
        Self {
            event,
            id: None,
            data: serde_json::to_string(value).unwrap_or_else(|_| "null".into()),
        }
    }
    fn write(&self, out: &mut BytesMut) {
        if let Some(id) = self.id {
            out.put_slice(format!("id: {id}\n").as_bytes());
        }
        out.put_slice(b"event: ");
        out.put_slice(self.event.as_bytes());
        out.put_slice(b"\ndata: ");
        out.put_slice(self.data.as_bytes());
        out.put_slice(b"\n\n");
    }
}

/// How often a silent stream says that it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Answers with `source` as events, and `event: end` when it is over.
pub fn stream<S>(app: &App, actor: Actor, source: S) -> super::error::ApiResult<Response>
where
    S: Stream<Item = Message> + Send + 'static,
{
    let place = app.streams.open(&actor)?;
    let auth = app.auth.clone();
    let mut stop = app.stop.clone();
    let body = async_stream(move |sink| async move {
        let _place = place;
        let mut source = std::pin::pin!(source);
        let mut ended = std::pin::pin!(auth.ended(&actor));
        let mut tick = tokio::time::interval(KEEP_ALIVE);
        loop {
            let mut out = BytesMut::new();
            tokio::select! {
                biased;
                () = stopped(&mut stop) => break,
                () = &mut ended => break,
                next = source.next() => match next {
                    Some(message) => message.write(&mut out),
                    None => {
                        Message { event: "end", id: None, data: "{}".into() }.write(&mut out);
                        let _closed = sink.send(out.freeze()).await;
                        break;
                    }
                },
                _ = tick.tick() => out.put_slice(b": here\n\n"),
            }
            if sink.send(out.freeze()).await.is_err() {
                break;
            }
        }
    });
    let mut response = Response::new(axum::body::Body::from_stream(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// A stream fed by a task that ends when the reader goes away.
fn async_stream<F, Fut>(run: F) -> impl Stream<Item = Result<Bytes, Infallible>>
where
    F: FnOnce(tokio::sync::mpsc::Sender<Bytes>) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (sink, source) = tokio::sync::mpsc::channel(16);
    let task = tokio::spawn(run(sink));
    let guard = AbortOnDrop(task);
    tokio_stream::wrappers::ReceiverStream::new(source).map(move |bytes| {
        let _alive = &guard;
        Ok(bytes)
    })
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);
impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
