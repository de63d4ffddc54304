//! Server-sent events, as the HTML standard's section 9.2 defines them: a parser that takes bytes as they come, and a
//! stream over a response.

use super::error::{ClientError, reason};
use std::collections::VecDeque;
use std::time::Duration;

/// The most one event may hold; an operation with its log is well below it.
const LIMIT: usize = 8 << 20;
/// A server sends at least a comment that often; longer silence means that the connection is dead.
const SILENCE: Duration = Duration::from_secs(60);

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `message` where the server named none.
    pub event: String,
    pub data: String,
    /// The newest id the stream has given so far; empty when it gave none.
    pub last_id: String,
}

/// An event or a line longer than [`LIMIT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {} MiB", LIMIT >> 20)]
pub struct TooLong;

/// Makes events of bytes, however they are cut.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    /// The last byte was a CR: a LF right after it belongs to the same line end.
    after_cr: bool,
    begun: bool,
    event: String,
    data: String,
    has_data: bool,
    last_id: String,
}

impl Parser {
    /// Takes the next bytes and gives the events they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Message>, TooLong> {
        let mut out = Vec::new();
        for &byte in bytes {
            let after_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if after_cr => {}
                b'\n' => self.end_of_line(&mut out),
                b'\r' => {
                    self.after_cr = true;
                    self.end_of_line(&mut out);
                }
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.len() > LIMIT {
                return Err(TooLong);
            }
        }
        Ok(out)
    }

    fn end_of_line(&mut self, out: &mut Vec<Message>) {
        let bytes = std::mem::take(&mut self.line);
        let mut line = &*String::from_utf8_lossy(&bytes);
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            let data = std::mem::take(&mut self.data);
            if std::mem::take(&mut self.has_data) {
                out.push(Message {
                    event: if event.is_empty() { "message".to_owned() } else { event },
                    data,
                    last_id: self.last_id.clone(),
                });
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data.push_str(value);
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.last_id),
            // `retry` is for browsers; comments (an empty field name) and unknown fields say nothing.
            _ => {}
        }
    }
}

/// The events of one response.
#[derive(Debug)]
pub struct Events {
    response: reqwest::Response,
    parser: Parser,
    ready: VecDeque<Message>,
    server: String,
}

impl Events {
    pub(super) fn new(response: reqwest::Response, server: String) -> Self {
        Self {
            response,
            parser: Parser::default(),
            ready: VecDeque::new(),
            server,
        }
    }

    /// The next event; `None` when the server has ended the stream.
    pub async fn next(&mut self) -> Result<Option<Message>, ClientError> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            let broken = |reason: String| ClientError::Broken {
                server: self.server.clone(),
                reason,
            };
            let chunk = match tokio::time::timeout(SILENCE, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(e)) => return Err(broken(reason(&e))),
                Err(_) => return Err(broken(format!("nothing came for {} seconds", SILENCE.as_secs()))),
            };
            self.ready.extend(self.parser.push(&chunk).map_err(|e| broken(e.to_string()))?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(event: &str, data: &str, last_id: &str) -> Message {
        Message {
            event: event.into(),
            data: data.into(),
            last_id: last_id.into(),
        }
    }

    #[test]
    fn events_are_read_however_they_are_cut() {
        let wire = "\u{feff}: hello\n\nevent: log\ndata: {\"a\":1}\nid: 7\n\ndata:first\r\ndata: second\r\n\r\ndata\rretry: 5\rid: bad\0id\r\rfoo: x\ndata: é\n\nevent: cut\ndata: never ended";
        let expected = [
            message("log", "{\"a\":1}", "7"),
            message("message", "first\nsecond", "7"),
            message("message", "", "7"),
            message("message", "é", "7"),
        ];
        for size in 1..=wire.len() {
            let mut parser = Parser::default();
            let seen: Vec<_> = wire.as_bytes().chunks(size).flat_map(|chunk| parser.push(chunk).unwrap()).collect();
            assert_eq!(seen, expected, "in chunks of {size}");
        }
    }

    #[test]
    fn an_event_without_data_is_none() {
        assert_eq!(Parser::default().push(b"event: ping\n\n\n\n").unwrap(), []);
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::default();
        let chunk = vec![b'x'; 1 << 20];
        assert!((0..16).any(|_| parser.push(&chunk).is_err()));
    }
}
