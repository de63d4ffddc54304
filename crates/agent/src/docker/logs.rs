//! A container's log.

use super::client::{Call, DockerError};
use super::frames::{Demux, Lines};
use super::hub::Record;
use super::observe::TAIL_LINES;
use super::{Docker, explain};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use nm_link::contract::{AgentError, AgentErrorCode as Code, LogQuery};
use nm_types::container::LogLine;
use std::time::Duration;

/// A log that is not followed comes at once.
const SILENCE: Duration = Duration::from_secs(30);
/// The longest line that goes into a message.
const TAIL_WIDTH: usize = 300;

/// Lines in batches, as they come.
pub struct LogReader<S> {
    chunks: S,
    follow: bool,
    tty: bool,
    demux: Demux,
    lines: Lines,
    ended: bool,
}

impl<S: Stream<Item = Result<Bytes, DockerError>> + Unpin> LogReader<S> {
    /// Of a container without a terminal.
    pub(super) fn new(chunks: S, follow: bool) -> Self {
        Self {
            chunks,
            follow,
            tty: false,
            demux: Demux::default(),
            lines: Lines::default(),
            ended: false,
        }
    }

    /// The next lines; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<LogLine>>, DockerError> {
        let mut out = Vec::new();
        while out.is_empty() && !self.ended {
            let chunk = if self.follow {
                self.chunks.next().await
            } else {
                let what = "give a container's log";
                tokio::time::timeout(SILENCE, self.chunks.next())
                    .await
                    .map_err(|_| DockerError::Deadline { what, after: SILENCE })?
            };
            let Some(chunk) = chunk else {
                self.ended = true;
                self.lines.end(&mut out);
                break;
            };
            let chunk = chunk?;
            if self.tty {
                self.lines.raw(&chunk, &mut out);
                continue;
            }
            self.demux.push(&chunk);
            let broken = |e: super::frames::BadStream| DockerError::Nonsense {
                what: "give a container's log",
                source: e.into(),
            };
            while let Some((stream, payload)) = self.demux.next().map_err(broken)? {
                self.lines.frame(stream, &payload, &mut out);
            }
        }
        Ok((!out.is_empty()).then_some(out))
    }
}

impl Docker {
    /// The log of a container. Asked for neither stream, both are given. A followed log ends when the container does.
    pub async fn logs(
        &self,
        record: &Record,
        query: &LogQuery,
    ) -> Result<LogReader<impl Stream<Item = Result<Bytes, DockerError>> + Send + Unpin + use<>>, AgentError> {
        let (out, err) = if query.stdout || query.stderr {
            (query.stdout, query.stderr)
        } else {
            (true, true)
        };
        let tail = query.tail.map_or_else(|| "all".to_owned(), |n| n.to_string());
        let mut call = Call::get("give a container's log", format!("/containers/{}/logs", record.observed.docker_id))
            .query("timestamps", "1")
            .query("tail", tail)
            .flag("stdout", out)
            .flag("stderr", err)
            .flag("follow", query.follow);
        for (key, at) in [("since", query.since), ("until", query.until)] {
            if let Some(at) = at {
                call = call.query(key, seconds(at));
            }
        }
        let chunks = self.client.stream(call).await.map_err(|e| match e {
            DockerError::Refused { status, message } if message.contains("does not support reading") => AgentError::new(
                Code::Invalid,
                format!(
                    "The log of `{}` goes elsewhere: Docker's log driver for it can't be read back ({status}).",
                    record.observed.name
                ),
            ),
            e => explain::explain(e, &self.socket),
        })?;
        Ok(LogReader {
            chunks,
            follow: query.follow,
            tty: record.detail.tty,
            demux: Demux::default(),
            lines: Lines::default(),
            ended: false,
        })
    }

    /// The last lines of both streams, for a message.
    pub async fn tail(&self, docker_id: &str) -> Result<Vec<String>, DockerError> {
        let tty = self
            .hub
            .find(&nm_link::contract::ContainerKey::Docker(docker_id.into()))
            .is_some_and(|r| r.detail.tty);
        let call = Call::get("give a container's last log lines", format!("/containers/{docker_id}/logs"))
            .query("timestamps", "1")
            .query("tail", TAIL_LINES.to_string())
            .flag("stdout", true)
            .flag("stderr", true);
        let chunks = self.client.stream(call).await?;
        let mut reader = LogReader {
            chunks,
            follow: false,
            tty,
            demux: Demux::default(),
            lines: Lines::default(),
            ended: false,
        };
        let mut all = Vec::new();
        while let Some(lines) = reader.next().await? {
            all.extend(lines);
        }
        // The streams are read one after the other; time puts them in order.
        all.sort_by_key(|l| l.time);
        let skip = all.len().saturating_sub(TAIL_LINES);
        Ok(all.into_iter().skip(skip).map(|l| cut(l.line)).collect())
    }
}

fn cut(line: String) -> String {
    match line.char_indices().nth(TAIL_WIDTH) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// Unix milliseconds as Docker reads moments: seconds with a fraction.
fn seconds(millis: i64) -> String {
    format!("{}.{:03}000000", millis.div_euclid(1000), millis.rem_euclid(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        assert_eq!(seconds(1_770_085_800_123), "1770085800.123000000");
        assert_eq!(seconds(0), "0.000000000");
    }

    #[test]
    fn long_lines_are_cut_at_a_letter() {
        assert_eq!(cut("é".repeat(400)).chars().count(), TAIL_WIDTH + 1);
        assert_eq!(cut("short".into()), "short");
    }
}
