//! Docker's framing of a container's two streams, and lines over it.
//!
//! A frame is one byte of stream (0 and 1 standard output, 2 standard error), three of nothing, four of length (big endian),
//! then the bytes. Containers with a terminal have one stream and no frames.

use bytes::{Buf, Bytes, BytesMut};
use nm_types::Timestamp;
use nm_types::container::{LogLine, LogStream};

/// Docker's longest frame is a log entry, 16 KiB with most drivers and 1 MiB with some.
const MAX_FRAME: usize = 16 << 20;
/// A line is cut here: a program that never ends its line would fill the memory else.
const MAX_LINE: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Docker's stream is not framed as it should be")]
pub struct BadStream;

/// Takes frames out of a stream that comes in pieces.
#[derive(Debug, Default)]
pub struct Demux {
    buffer: BytesMut,
}

impl Demux {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    pub fn next(&mut self) -> Result<Option<(LogStream, Bytes)>, BadStream> {
        if self.buffer.len() < 8 {
            return Ok(None);
        }
        let stream = match self.buffer[0] {
            0 | 1 => LogStream::Stdout,
            2 => LogStream::Stderr,
            _ => return Err(BadStream),
        };
        let len = u32::from_be_bytes([self.buffer[4], self.buffer[5], self.buffer[6], self.buffer[7]]) as usize;
        if len > MAX_FRAME {
            return Err(BadStream);
        }
        if self.buffer.len() < 8 + len {
            return Ok(None);
        }
        self.buffer.advance(8);
        Ok(Some((stream, self.buffer.split_to(len).freeze())))
    }
}

#[derive(Debug, Default)]
struct Partial {
    time: Option<Timestamp>,
    text: Vec<u8>,
}

/// Makes lines of a log that Docker sends with timestamps.
#[derive(Debug, Default)]
pub struct Lines {
    stdout: Partial,
    stderr: Partial,
    raw: BytesMut,
}

impl Lines {
    /// One frame: one log entry, with its time in front. A line longer than Docker's entries comes in several, each with a
    /// time of its own and only the last with a line end.
    pub fn frame(&mut self, stream: LogStream, payload: &[u8], out: &mut Vec<LogLine>) {
        let partial = match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        };
        let (time, text) = split_time(payload);
        partial.time = partial.time.or(time);
        let mut rest = text;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            partial.text.extend_from_slice(&rest[..end]);
            emit(stream, partial, out);
            rest = &rest[end + 1..];
            partial.time = time;
        }
        partial.text.extend_from_slice(rest);
        if partial.text.is_empty() {
            partial.time = None;
        } else if partial.text.len() >= MAX_LINE {
            emit(stream, partial, out);
        }
    }

    /// A piece of a terminal's log: lines with their time in front, cut anywhere.
    pub fn raw(&mut self, bytes: &[u8], out: &mut Vec<LogLine>) {
        self.raw.extend_from_slice(bytes);
        while let Some(end) = self.raw.iter().position(|b| *b == b'\n') {
            let line = self.raw.split_to(end + 1);
            self.frame(LogStream::Stdout, &line, out);
        }
        if self.raw.len() >= MAX_LINE {
            let piece = self.raw.split();
            self.frame(LogStream::Stdout, &piece, out);
        }
    }

    /// What came without a line end.
    pub fn end(&mut self, out: &mut Vec<LogLine>) {
        let rest = self.raw.split();
        if !rest.is_empty() {
            self.frame(LogStream::Stdout, &rest, out);
        }
        for (stream, partial) in [(LogStream::Stdout, &mut self.stdout), (LogStream::Stderr, &mut self.stderr)] {
            if !partial.text.is_empty() {
                emit(stream, partial, out);
            }
        }
    }
}

fn emit(stream: LogStream, partial: &mut Partial, out: &mut Vec<LogLine>) {
    // Terminals end their lines with both.
    if partial.text.last() == Some(&b'\r') {
        partial.text.pop();
    }
    let line = String::from_utf8_lossy(&partial.text).into_owned();
    out.push(LogLine {
        stream,
        time: partial.time.take().unwrap_or_default(),
        line,
    });
    partial.text.clear();
}

/// The RFC 3339 time that Docker puts in front of each entry, and what follows it.
fn split_time(payload: &[u8]) -> (Option<Timestamp>, &[u8]) {
    let Some(end) = payload.iter().take(40).position(|b| *b == b' ') else {
        return (None, payload);
    };
    match std::str::from_utf8(&payload[..end]).ok().and_then(Timestamp::parse) {
        Some(time) => (Some(time), &payload[end + 1..]),
        None => (None, payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: &str = "2026-02-03T02:30:00.123456789Z";
    const U: &str = "2026-02-03T02:30:01.000000000Z";

    fn frame(stream: u8, text: &str) -> Vec<u8> {
        let mut out = vec![stream, 0, 0, 0];
        out.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
        out.extend_from_slice(text.as_bytes());
        out
    }

    fn read(pieces: &[&[u8]]) -> Vec<(LogStream, String, i64)> {
        let (mut demux, mut lines, mut out) = (Demux::default(), Lines::default(), Vec::new());
        for piece in pieces {
            demux.push(piece);
            while let Some((stream, payload)) = demux.next().unwrap() {
                lines.frame(stream, &payload, &mut out);
            }
        }
        lines.end(&mut out);
        out.into_iter().map(|l| (l.stream, l.line, l.time.as_millis() % 10_000)).collect()
    }

    #[test]
    fn lines_are_the_same_however_the_stream_is_cut() {
        let wire = [
            frame(1, &format!("{T} one\n")),
            frame(2, &format!("{T} err\n")),
            // A long line in two entries, with the other stream's line between them.
            frame(1, &format!("{T} first half, ")),
            frame(2, &format!("{T} between\n")),
            frame(1, &format!("{U} second half\n")),
            frame(1, &format!("{T} \n")),
            frame(1, &format!("{U} no line end")),
        ]
        .concat();
        let whole = read(&[&wire]);
        let text: Vec<_> = whole.iter().map(|(s, l, t)| (*s, l.as_str(), *t)).collect();
        let (o, e) = (LogStream::Stdout, LogStream::Stderr);
        assert_eq!(
            text,
            [
                (o, "one", 123),
                (e, "err", 123),
                (e, "between", 123),
                (o, "first half, second half", 123),
                (o, "", 123),
                (o, "no line end", 1000)
            ]
        );
        for cut in 0..wire.len() {
            assert_eq!(read(&[&wire[..cut], &wire[cut..]]), whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_terminals_log_has_no_frames() {
        let wire = format!("{T} one\r\n{U} \u{1}two\r\n{T} $ ");
        for cut in 0..wire.len() {
            let (mut lines, mut out) = (Lines::default(), Vec::new());
            lines.raw(&wire.as_bytes()[..cut], &mut out);
            lines.raw(&wire.as_bytes()[cut..], &mut out);
            lines.end(&mut out);
            let text: Vec<_> = out.iter().map(|l| (l.line.as_str(), l.time.as_millis() % 10_000)).collect();
            assert_eq!(text, [("one", 123), ("\u{1}two", 1000), ("$ ", 123)], "cut at {cut}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_and_lines_without_end() {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        lines.frame(LogStream::Stdout, b"2026-02-03T02:30:00Z \xff\xfe\n", &mut out);
        assert_eq!(out[0].line, "\u{fffd}\u{fffd}");
        out.clear();
        for _ in 0..100 {
            lines.frame(LogStream::Stdout, &[b'x'; 16 << 10], &mut out);
        }
        lines.end(&mut out);
        assert_eq!(out.iter().map(|l| l.line.len()).sum::<usize>(), 100 * (16 << 10));
        assert!(out.len() >= 2);
    }

    #[test]
    fn a_broken_stream_is_refused() {
        let mut demux = Demux::default();
        demux.push(&[9, 0, 0, 0, 0, 0, 0, 1, b'x']);
        assert_eq!(demux.next(), Err(BadStream));
        let mut demux = Demux::default();
        demux.push(&[1, 0, 0, 0, 0xff, 0, 0, 1]);
        assert_eq!(demux.next(), Err(BadStream));
    }
}
