//! A page, a health endpoint, and a graceful end: all that a first container needs to show.

use anyhow::Context;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Duration, timeout};

const PAGE: &str = "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Hello from NeuralMesh</title>\n\
<style>body{font:18px/1.6 system-ui,sans-serif;max-width:34rem;margin:18vh auto;padding:0 1.5rem;color-scheme:light dark}</style>\n\
<h1>Hello from NeuralMesh</h1><p>This page is served by your first container.</p>\n\
<p><code>neuralmesh containers logs -f hello</code> shows your visit; <code>neuralmesh containers rm -f hello</code> takes it away.</p></html>\n";

/// The most a request's head may hold, and the longest it may take to come.
const HEAD_LIMIT: usize = 8 * 1024;
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Serves on `address` until it is asked to end.
pub async fn run(address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    println!("listening on {address}");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => drop(tokio::spawn(answer(stream, peer))),
                Err(error) => {
                    eprintln!("a connection could not be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    println!("bye");
    Ok(())
}

async fn answer(mut stream: TcpStream, peer: SocketAddr) {
    let Ok(Some(line)) = timeout(HEAD_DEADLINE, read_head(&mut stream)).await else {
        return;
    };
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, kind, body) = match (method, path) {
        ("GET" | "HEAD", "/") => ("200 OK", "text/html; charset=utf-8", PAGE),
        ("GET" | "HEAD", "/healthz") => ("200 OK", "text/plain", "ok\n"),
        ("GET" | "HEAD", _) => ("404 Not Found", "text/plain", "there is nothing here; try /\n"),
        _ => ("405 Method Not Allowed", "text/plain", "only GET\n"),
    };
    println!("{} {method} {} {}", peer.ip(), path.escape_debug(), &status[..3]);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let body = if method == "HEAD" { "" } else { body };
    // Who hangs up early has no use for the rest.
    let _gone = stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).await;
    let _gone = stream.shutdown().await;
}

/// The request line, once the whole head is there.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut chunk = [0u8; 1024];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = stream.read(&mut chunk).await.ok().filter(|n| *n > 0)?;
        head.extend_from_slice(&chunk[..n]);
        if head.len() > HEAD_LIMIT {
            return None;
        }
    }
    let line = head.split(|b| *b == b'\r').next()?;
    Some(String::from_utf8_lossy(line).into_owned())
}
