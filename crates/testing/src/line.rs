//! A line between an agent and a control plane that a test can break.

use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    /// Connections are closed as they come.
    Down,
}

/// A proxy that can be cut. Its target may move, as a restarted control plane does.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    state: watch::Sender<State>,
    /// Counts the cuts: each ends the connections that were there before it.
    cuts: watch::Sender<u32>,
    /// Counts the cuts of which only the agent hears.
    near_cuts: watch::Sender<u32>,
    _tasks: JoinSet<()>,
}

impl Line {
    pub async fn to(target: watch::Receiver<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (state, cuts, near_cuts) = (watch::Sender::new(State::Good), watch::Sender::new(0), watch::Sender::new(0));
        let (seen, cut, near_cut) = (state.clone(), cuts.clone(), near_cuts.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut pipes = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                if *seen.borrow() == State::Down {
                    continue;
                }
                let (mut cut, near_cut, target) = (cut.subscribe(), near_cut.subscribe(), *target.borrow());
                pipes.spawn(async move {
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = cut.changed() => {}
                        () = join(near, far, near_cut) => {}
                    }
                });
            }
        });
        Self {
            address,
            state,
            cuts,
            near_cuts,
            _tasks: tasks,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the connections that there are; new ones are taken.
    pub fn cut(&self) {
        self.cuts.send_modify(|n| *n += 1);
    }

    /// As [`Line::cut`], and lets none through until [`Line::mend`].
    pub fn take_down(&self) {
        self.state.send_replace(State::Down);
        self.cut();
    }

    pub fn mend(&self) {
        self.state.send_replace(State::Good);
    }

    /// The agent's end of each connection breaks, and the control plane hears nothing of it: a machine that lost its power
    /// and is back.
    pub fn cut_unheard(&self) {
        self.near_cuts.send_modify(|n| *n += 1);
    }
}

async fn join(mut near: TcpStream, mut far: TcpStream, mut near_cut: watch::Receiver<u32>) {
    tokio::select! {
        // Either end may have gone; both go then.
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        _ = near_cut.changed() => {
            drop(near);
            // The far end stays open, and silent.
            std::future::pending::<()>().await;
        }
    }
}
