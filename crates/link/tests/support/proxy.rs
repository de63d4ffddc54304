//! A line between an agent and a control plane that a test can break.

use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    Good,
    /// Everything is read and nothing passed on, also of new connections: a cable pulled out, as seen from both ends.
    Swallows,
    /// Nothing is read and nothing lost: TCP on a lossy line, waiting to send again.
    Stalls,
}

pub struct Proxy {
    pub address: SocketAddr,
    line: watch::Sender<Line>,
    /// Counts the cuts: each ends the connections that were there before it.
    cuts: watch::Sender<u32>,
    /// Counts how often the connections that there were were left to themselves.
    strandings: watch::Sender<u32>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (line, cuts, strandings) = (watch::Sender::new(Line::Good), watch::Sender::new(0), watch::Sender::new(0));
        let (seen, cut, strand) = (line.clone(), cuts.clone(), strandings.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut pipes = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(target).await else { continue };
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                for (from, to) in [(near_read, far_write), (far_read, near_write)] {
                    let (line, mut cut, strand) = (seen.subscribe(), cut.subscribe(), strand.subscribe());
                    pipes.spawn(async move {
                        tokio::select! {
                            _ = cut.changed() => {}
                            () = pipe(from, to, line, strand) => {}
                        }
                    });
                }
            }
        });
        Self {
            address,
            line,
            cuts,
            strandings,
            _tasks: tasks,
        }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// The connections that there are swallow everything from now on; new ones don't.
    pub fn strand(&self) {
        self.strandings.send_modify(|n| *n += 1);
    }

    /// Closes the connections that there are. The line is good afterwards.
    pub fn cut(&self) {
        self.set(Line::Good);
        self.cuts.send_modify(|n| *n += 1);
    }
}

async fn pipe(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut line: watch::Receiver<Line>, strand: watch::Receiver<u32>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(n) = from.read(&mut buffer).await else { return };
        if line.wait_for(|l| *l != Line::Stalls).await.is_err() {
            return;
        }
        let swallows = *line.borrow() == Line::Swallows || strand.has_changed().unwrap_or(true);
        match (n, swallows) {
            (0, false) => return,
            // One end is gone, and the other must not hear of it.
            (0, true) => std::future::pending().await,
            (_, true) => {}
            (n, false) => {
                if to.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}
