//! A command in a container that is talked to, with a terminal or without: [`Frame`]s both ways at once.

use super::Docker;
use super::client::{Call, DockerError};
use super::exec::not_started;
use super::explain::sentence;
use super::frames::{BadStream, Demux};
use super::hub::Record;
use super::wire::ExecBody;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use nm_link::contract::exec::Frame;
use nm_link::contract::{AgentError, AgentErrorCode as Code, TerminalQuery};
use nm_types::container::LogStream;
use nm_types::text::{RunAs, Word};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// Frames under way to the client; a slow one slows the program down, as a slow terminal does.
const QUEUE: usize = 16;
/// What a terminal sends for "no more input".
const END_OF_TRANSMISSION: u8 = 4;

impl Docker {
    /// Starts the command. The stream given back ends with `Exit` or `Error`; dropping it hangs up.
    pub async fn terminal<S, E>(&self, record: &Record, query: TerminalQuery, input: S) -> Result<mpsc::Receiver<Bytes>, AgentError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
        E: std::fmt::Display + Send,
    {
        let invalid = |field: &str, text: String| AgentError::new(Code::Invalid, text).field(field);
        let command: Vec<Word> = serde_json::from_str(&query.command)
            .map_err(|e| invalid("command", format!("command is a JSON array of the program and its arguments: {e}.")))?;
        let user = query
            .user
            .as_deref()
            .map(RunAs::parse)
            .transpose()
            .map_err(|e| invalid("user", format!("{e}.")))?;
        let body = ExecBody {
            attach_stdin: true,
            attach_stdout: true,
            attach_stderr: true,
            tty: query.tty,
            cmd: super::exec::words(&command)?,
            user: user.map(|u| u.to_string()),
            ..ExecBody::default()
        };
        let (running, stream) = self.begin_exec(record, &body).await?;
        let ended = self.hub.exec_end(&running.exec_id);
        let (mut from, to) = tokio::io::split(stream);
        let (frames, received) = mpsc::channel(QUEUE);
        let docker = self.clone();
        tokio::spawn(async move {
            let exec_id = running.exec_id.clone();
            if query.tty {
                docker.resize(&exec_id, query.rows, query.cols).await;
            }
            let typing = docker.clone().type_in(exec_id.clone(), query.tty, input, to);
            let mut typing = std::pin::pin!(typing);
            let mut still_typing = true;
            let mut output = Output::new(query.tty);
            let mut chunk = vec![0; 16 << 10];
            loop {
                tokio::select! {
                    read = from.read(&mut chunk) => {
                        let n = match read {
                            Ok(0) => break,
                            Ok(n) => n,
                            Err(e) => {
                                let error = docker.explain(DockerError::Broken(e.into()));
                                drop(frames.send(error_frame(&error)).await);
                                return;
                            }
                        };
                        let said = match output.frames(&chunk[..n]) {
                            Ok(said) => said,
                            Err(e) => {
                                let error = AgentError::new(Code::Internal, sentence(&e.to_string()));
                                drop(frames.send(error_frame(&error)).await);
                                return;
                            }
                        };
                        for frame in said {
                            if frames.send(frame.encode()).await.is_err() {
                                // The client is gone: `running` hangs up as it is dropped.
                                return;
                            }
                        }
                    }
                    // Input that breaks off is a client that is gone; input that ends may be one that only watches.
                    end = &mut typing, if still_typing => match end {
                        Typing::Ended => still_typing = false,
                        Typing::Broken => return,
                    },
                    () = frames.closed() => return,
                }
            }
            let last = match docker.exec_code(&exec_id, ended).await {
                Ok(code) => {
                    let output = output.held.take().unwrap_or_default();
                    match not_started(code, &output) {
                        Some(error) => error_frame(&error),
                        None => {
                            if !output.is_empty() {
                                drop(frames.send(Frame::Data(output.into()).encode()).await);
                            }
                            Frame::Exit { code }.encode()
                        }
                    }
                }
                Err(error) => error_frame(&error),
            };
            running.ended();
            drop(frames.send(last).await);
        });
        Ok(received)
    }

    /// Passes on what the client types.
    async fn type_in<S, E>(self, exec_id: String, tty: bool, mut input: S, mut to: impl tokio::io::AsyncWrite + Unpin) -> Typing
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: std::fmt::Display,
    {
        let mut buffer = BytesMut::new();
        loop {
            let piece = match input.next().await {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => {
                    tracing::debug!(%error, "a terminal's client is gone");
                    return Typing::Broken;
                }
                None => return Typing::Ended,
            };
            buffer.extend_from_slice(&piece);
            loop {
                let written = match Frame::decode(&mut buffer) {
                    Ok(None) => break,
                    Ok(Some(Frame::Data(data))) => to.write_all(&data).await,
                    Ok(Some(Frame::Resize { rows, cols })) => {
                        if tty {
                            self.resize(&exec_id, rows, cols).await;
                        }
                        Ok(())
                    }
                    Ok(Some(Frame::EndOfInput)) if tty => to.write_all(&[END_OF_TRANSMISSION]).await,
                    Ok(Some(Frame::EndOfInput)) => to.shutdown().await,
                    Ok(Some(Frame::Exit { .. } | Frame::Error(_) | Frame::Stderr(_))) => return Typing::Broken,
                    Err(error) => {
                        tracing::warn!(%error, "a terminal's client sends nonsense");
                        return Typing::Broken;
                    }
                };
                if written.is_err() {
                    // The program is gone; its output says so.
                    return Typing::Ended;
                }
            }
        }
    }

    async fn resize(&self, exec_id: &str, rows: u16, cols: u16) {
        if rows == 0 || cols == 0 {
            return;
        }
        let call = Call::post("resize a terminal", format!("/exec/{exec_id}/resize"))
            .query("h", rows.to_string())
            .query("w", cols.to_string());
        if let Err(error) = self.client.done(call.deadline(Duration::from_secs(15))).await {
            // It may have ended already; the wrong size is no reason to end a terminal.
            tracing::debug!(%error, "a terminal could not be resized");
        }
    }
}

enum Typing {
    Ended,
    Broken,
}

/// What a command says, as frames. Without a terminal Docker frames its two streams itself.
struct Output {
    demux: Option<Demux>,
    held: Option<Vec<u8>>,
}

impl Output {
    fn new(tty: bool) -> Self {
        Self {
            demux: (!tty).then(Demux::default),
            held: Some(Vec::new()),
        }
    }

    fn frames(&mut self, chunk: &[u8]) -> Result<Vec<Frame>, BadStream> {
        let Self { demux, held } = self;
        let Some(demux) = demux else {
            return Ok(hold_back(held, chunk).map(Frame::Data).into_iter().collect());
        };
        demux.push(chunk);
        let mut out = Vec::new();
        while let Some((from, bytes)) = demux.next()? {
            match from {
                LogStream::Stdout => out.extend(hold_back(held, &bytes).map(Frame::Data)),
                LogStream::Stderr => out.push(Frame::Stderr(bytes)),
            }
        }
        Ok(out)
    }
}

/// Keeps back output that may turn out to be the runtime's word on why nothing started. Gives what is to be sent on.
fn hold_back(held: &mut Option<Vec<u8>>, chunk: &[u8]) -> Option<Bytes> {
    const STARTS: [&[u8]; 2] = [b"OCI runtime exec failed", b"unable to find "];
    const LONGEST: usize = 4096;
    // Docker writes its message in one piece, or at least begins it so; less is a letter that a user typed.
    const SHORTEST: usize = 8;
    let Some(so_far) = held else {
        return Some(Bytes::copy_from_slice(chunk));
    };
    so_far.extend_from_slice(chunk);
    let maybe = (SHORTEST..LONGEST).contains(&so_far.len()) && STARTS.iter().any(|s| s.starts_with(so_far) || so_far.starts_with(s));
    if maybe { None } else { held.take().map(Bytes::from) }
}

fn error_frame(error: &AgentError) -> Bytes {
    // An AgentError is made of texts; it always is JSON.
    Frame::Error(serde_json::to_vec(error).unwrap_or_default().into()).encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_the_streams_come_apart() {
        let mut output = Output::new(false);
        let wire = [&[1, 0, 0, 0, 0, 0, 0, 3][..], b"out", &[2, 0, 0, 0, 0, 0, 0, 3], b"err"].concat();
        let (first, second) = wire.split_at(9);
        assert_eq!(output.frames(first), Ok(Vec::new()));
        assert_eq!(
            output.frames(second),
            Ok(vec![Frame::Data("out".into()), Frame::Stderr("err".into())])
        );
        assert_eq!(output.frames(&[9; 8]), Err(BadStream));
        assert_eq!(Output::new(true).frames(&wire), Ok(vec![Frame::Data(wire.into())]));
    }

    #[test]
    fn only_the_runtimes_own_words_are_held_back() {
        let mut held = Some(Vec::new());
        assert_eq!(hold_back(&mut held, b"/ # "), Some("/ # ".into()));
        assert_eq!(
            hold_back(&mut held, b"OCI runtime exec failed"),
            Some("OCI runtime exec failed".into())
        );
        let mut held = Some(Vec::new());
        assert_eq!(hold_back(&mut held, b"OCI runt"), None);
        assert_eq!(hold_back(&mut held, b"ime exec failed: x"), None);
        let mut held = Some(Vec::new());
        assert_eq!(hold_back(&mut held, b"unable to "), None);
        assert_eq!(hold_back(&mut held, b"sleep"), Some("unable to sleep".into()));
        let mut held = Some(Vec::new());
        assert_eq!(hold_back(&mut held, b"O"), Some("O".into()));
    }
}
