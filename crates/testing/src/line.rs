//! A line between an agent and a control plane that a test can break, stall, and make lossy.

use std::net::SocketAddr;
use std::pin::pin;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    /// Connections are closed as they come.
    Down,
    /// Connections stand, old and new ones, and nothing moves on them: TCP that waits to send again.
    Stalled,
}

/// A proxy that can be cut, for connections and for datagrams. Its target may move, as a restarted control plane does.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    state: watch::Sender<State>,
    /// Counts the cuts: each ends the connections that were there before it.
    cuts: watch::Sender<u32>,
    /// Counts the cuts of which only the agent hears.
    near_cuts: watch::Sender<u32>,
    /// Of a hundred datagrams, how many are lost each way.
    loss: watch::Sender<u64>,
    _tasks: JoinSet<()>,
}

/// A port of loopback that is free for both.
async fn port() -> (TcpListener, UdpSocket) {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        if let Ok(datagrams) = UdpSocket::bind(address).await {
            return (listener, datagrams);
        }
    }
}

impl Line {
    pub async fn to(target: watch::Receiver<SocketAddr>) -> Self {
        let (listener, datagrams) = port().await;
        let address = listener.local_addr().expect("a bound listener has an address");
        let (state, cuts, near_cuts) = (watch::Sender::new(State::Good), watch::Sender::new(0), watch::Sender::new(0));
        let (seen, cut, near_cut) = (state.clone(), cuts.clone(), near_cuts.clone());
        let loss = watch::Sender::new(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(relay(datagrams, target.clone(), loss.subscribe()));
        tasks.spawn(async move {
            let mut pipes = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                if *seen.borrow() == State::Down {
                    continue;
                }
                let (mut cut, near_cut, target) = (cut.subscribe(), near_cut.subscribe(), *target.borrow());
                let state = seen.subscribe();
                pipes.spawn(async move {
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = cut.changed() => {}
                        () = join(near, far, near_cut, state) => {}
                    }
                });
            }
        });
        Self {
            address,
            state,
            cuts,
            near_cuts,
            loss,
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

    /// As [`Line::cut`], and lets nothing through until [`Line::mend`], datagrams included.
    pub fn take_down(&self) {
        self.lose(100);
        self.refuse();
    }

    /// As [`Line::cut`], and lets no connection through until [`Line::mend`].
    pub fn refuse(&self) {
        self.state.send_replace(State::Down);
        self.cut();
    }

    pub fn mend(&self) {
        self.state.send_replace(State::Good);
        self.lose(0);
    }

    /// Nothing moves on connections until [`Line::mend`]; none of them ends.
    pub fn stall(&self) {
        self.state.send_replace(State::Stalled);
    }

    /// Of a hundred datagrams so many are lost, each way.
    pub fn lose(&self, percent: u64) {
        self.loss.send_replace(percent);
    }

    /// The cable is out until [`Line::mend`]: nothing comes through, and nobody is told.
    pub fn unplug(&self) {
        self.stall();
        self.lose(100);
    }

    /// The agent's end of each connection breaks, and the control plane hears nothing of it: a machine that lost its power
    /// and is back.
    pub fn cut_unheard(&self) {
        self.near_cuts.send_modify(|n| *n += 1);
    }
}

async fn join(mut near: TcpStream, mut far: TcpStream, mut near_cut: watch::Receiver<u32>, mut state: watch::Receiver<State>) {
    tokio::select! {
        () = copy(&mut near, &mut far, &mut state) => {}
        _ = near_cut.changed() => {
            drop(near);
            // The far end stays open, and silent.
            std::future::pending::<()>().await;
        }
    }
}

/// Until either end has gone; both go then.
async fn copy(near: &mut TcpStream, far: &mut TcpStream, state: &mut watch::Receiver<State>) {
    let mut copying = pin!(tokio::io::copy_bidirectional(near, far));
    loop {
        let stalled = *state.borrow_and_update() == State::Stalled;
        tokio::select! {
            _ = &mut copying, if !stalled => return,
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

/// Passes the agent's datagrams on, and the answers back to where its last one came from.
async fn relay(near: UdpSocket, target: watch::Receiver<SocketAddr>, loss: watch::Receiver<u64>) {
    let far = UdpSocket::bind("127.0.0.1:0").await.expect("a port of loopback");
    let (mut agent, mut dice) = (None, 1u64);
    let (mut up, mut down) = ([0; 2048], [0; 2048]);
    loop {
        let sent = tokio::select! {
            // An error is word of an earlier datagram that nobody took.
            Ok((length, from)) = near.recv_from(&mut up) => {
                agent = Some(from);
                if loses(&mut dice, &loss) { continue }
                let target = *target.borrow();
                far.send_to(&up[..length], target).await
            }
            Ok((length, _)) = far.recv_from(&mut down) => match agent {
                Some(agent) if !loses(&mut dice, &loss) => near.send_to(&down[..length], agent).await,
                Some(_) | None => continue,
            },
            else => continue,
        };
        // One that can't be sent is one more that is lost.
        let _or_lost = sent;
    }
}

/// Losses as random as any, and the same in every run. The constants are Knuth's of MMIX.
fn loses(dice: &mut u64, loss: &watch::Receiver<u64>) -> bool {
    *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*dice >> 33) % 100 < *loss.borrow()
}
