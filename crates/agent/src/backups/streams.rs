//! Dumps between a container and a worker: frames over a Unix socket in a folder that is ours alone.

use super::dumps::Dump;
use crate::docker::Docker;
use crate::docker::hub::Record;
use bytes::Bytes;
use nm_types::backup::job::stream::{FRAME_AT_MOST, StreamEnd};
use std::io;
use std::path::Path;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

/// Pieces under way.
const QUEUE: usize = 8;
/// What is handed on at once: a frame may be as long as [`FRAME_AT_MOST`].
const PIECE: usize = 64 << 10;
/// The longest sentence on why a stream is not whole.
const END_AT_MOST: usize = 64 << 10;

/// Answers one connection with the container's dump. How it ended is said to the worker, which then makes no snapshot.
pub async fn serve_dump(docker: Docker, record: Record, dump: Dump, listener: UnixListener) -> io::Result<()> {
    let (mut to, _) = listener.accept().await?;
    let (tx, rx) = mpsc::channel::<Bytes>(QUEUE);
    let running = docker.pipe_out(&record, dump.command.clone(), dump.variables(), tx);
    let sending = async {
        // Where sending fails the receiver goes with it, and the command is hung up on.
        let mut rx = rx;
        while let Some(piece) = rx.recv().await {
            for part in piece.chunks(FRAME_AT_MOST) {
                send_frame(&mut to, part).await?;
            }
        }
        io::Result::Ok(())
    };
    let (ran, sent) = tokio::join!(running, sending);
    sent?;
    let what = format!("The dump of `{}`", record.observed.name);
    let error = match ran {
        Ok(piped) => piped.failure(&what),
        Err(e) => Some(format!("{what} could not be made: {e}")),
    };
    let end = serde_json::to_vec(&StreamEnd { error })?;
    to.write_all(&0u32.to_be_bytes()).await?;
    send_frame(&mut to, &end).await?;
    to.shutdown().await
}

/// Reads a dump in, from the worker's connection to the end of the container's restore command.
pub async fn take_dump(docker: &Docker, record: &Record, dump: &Dump, listener: UnixListener) -> Result<(), String> {
    let name = &record.observed.name;
    let Some(command) = dump.restore.clone() else {
        return Err(format!("`{name}` has no command that reads a dump in: restore it as a file."));
    };
    let (mut from, _) = listener
        .accept()
        .await
        .map_err(|e| format!("The dump could not be received: {e}."))?;
    let (tx, rx) = mpsc::channel(QUEUE);
    let running = docker.pipe_in(record, command, dump.variables(), rx);
    let receiving = async move {
        let received = receive(&mut from, &tx).await;
        if let Err(e) = received {
            // The command is hung up on; what it made of a half dump, its transaction decides.
            drop(tx.send(Err(e)).await);
        }
    };
    let (ran, ()) = tokio::join!(running, receiving);
    let piped = ran.map_err(|e| e.message)?;
    let what = format!("Reading the dump into `{name}`");
    match piped.failure(&what) {
        Some(failure) => Err(failure),
        None => match dump.complaint(&piped.stderr) {
            Some(line) => Err(format!("{what} ended with errors, the first of them: {line}")),
            None => Ok(()),
        },
    }
}

/// Hands on what comes until the end that says it is whole. When nobody takes it any more the rest is left.
async fn receive(from: &mut (impl AsyncRead + Unpin), to: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    loop {
        let length = frame_length(from, FRAME_AT_MOST).await?;
        if length == 0 {
            break;
        }
        let mut left = length;
        while left > 0 {
            let mut piece = vec![0; left.min(PIECE)];
            from.read_exact(&mut piece).await?;
            left -= piece.len();
            if to.send(Ok(piece.into())).await.is_err() {
                return Ok(());
            }
        }
    }
    let length = frame_length(from, END_AT_MOST).await?;
    let mut end = vec![0; length];
    from.read_exact(&mut end).await?;
    match serde_json::from_slice::<StreamEnd>(&end)?.error {
        Some(error) => Err(io::Error::other(error)),
        None => Ok(()),
    }
}

async fn frame_length(from: &mut (impl AsyncRead + Unpin), at_most: usize) -> io::Result<usize> {
    let length = from.read_u32().await? as usize;
    if length > at_most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is longer than it may be"));
    }
    Ok(length)
}

async fn send_frame(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    // Docker may send a piece of nothing; as a frame it would be the end.
    if bytes.is_empty() {
        return Ok(());
    }
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_be_bytes()).await?;
    to.write_all(bytes).await
}

/// A socket in the agent's own folder, which only its owner can enter.
pub fn listen(folder: &Path, name: &str) -> io::Result<(UnixListener, String)> {
    let path = folder.join(name);
    // Of the same job, which was refused or cancelled before it began, or whose outcome could not be kept.
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    Ok((listener, path.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn received(wire: &[u8]) -> (Vec<u8>, io::Result<()>) {
        let (tx, mut rx) = mpsc::channel(QUEUE);
        let mut from = wire;
        let reading = async {
            let end = receive(&mut from, &tx).await;
            drop(tx);
            end
        };
        let collecting = async {
            let mut all = Vec::new();
            while let Some(Ok(piece)) = rx.recv().await {
                all.extend_from_slice(&piece);
            }
            all
        };
        let (end, all) = tokio::join!(reading, collecting);
        (all, end)
    }

    #[tokio::test]
    async fn a_stream_is_whole_only_with_its_end() {
        let mut wire = Vec::new();
        let long = vec![b'x'; PIECE + 7];
        for part in [&b"one"[..], b"", &long] {
            send_frame(&mut wire, part).await.unwrap();
        }
        let whole = [b"one", &long[..]].concat();
        let cut = wire.clone();
        let mut good = wire.clone();
        good.extend(0u32.to_be_bytes());
        send_frame(&mut good, b"{}").await.unwrap();
        let mut bad = wire.clone();
        bad.extend(0u32.to_be_bytes());
        send_frame(&mut bad, br#"{"error":"it failed"}"#).await.unwrap();

        let (all, end) = received(&good).await;
        assert!(all == whole && end.is_ok());
        let (_, end) = received(&bad).await;
        assert_eq!(end.unwrap_err().to_string(), "it failed");
        let (_, end) = received(&cut).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (_, end) = received(&u32::MAX.to_be_bytes()).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
