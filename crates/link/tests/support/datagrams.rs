//! The datagrams of one agent, on their way through the port of a [`Proxy`](super::proxy::Proxy).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A relay on the UDP port of a proxy. Without one, datagrams meet a closed port.
pub struct Datagrams {
    /// Of a hundred, how many are lost each way.
    loss: watch::Sender<u64>,
    /// What agents sent, also what was lost then.
    pub sent: Arc<Mutex<Vec<Vec<u8>>>>,
    _tasks: JoinSet<()>,
}

impl Datagrams {
    /// Relays what comes to `at` on to `target`, and back.
    pub async fn relay(at: SocketAddr, target: SocketAddr) -> Self {
        let near = Arc::new(UdpSocket::bind(at).await.unwrap());
        let far = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        far.connect(target).await.unwrap();
        let (loss, agent, sent) = (watch::Sender::new(0), watch::Sender::new(None), Arc::new(Mutex::new(Vec::new())));
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let (near, far, sent, agent, mut dice) = (near.clone(), far.clone(), sent.clone(), agent.clone(), Dice::new(1, &loss));
            async move {
                let mut buffer = [0; 2048];
                loop {
                    let Ok((n, from)) = near.recv_from(&mut buffer).await else {
                        continue;
                    };
                    agent.send_replace(Some(from));
                    sent.lock().unwrap().push(buffer[..n].to_vec());
                    if !dice.loses() {
                        let _ = far.send(&buffer[..n]).await;
                    }
                }
            }
        });
        tasks.spawn({
            let mut dice = Dice::new(2, &loss);
            async move {
                let mut buffer = [0; 2048];
                loop {
                    let Ok(n) = far.recv(&mut buffer).await else { continue };
                    let to: Option<SocketAddr> = *agent.borrow();
                    if let Some(to) = to
                        && !dice.loses()
                    {
                        let _ = near.send_to(&buffer[..n], to).await;
                    }
                }
            }
        });
        Self { loss, sent, _tasks: tasks }
    }

    /// From now on `percent` of a hundred are lost, each way.
    pub fn lose(&self, percent: u64) {
        self.loss.send_replace(percent);
    }
}

/// Losses as random as any, and the same in every run.
struct Dice {
    state: u64,
    loss: watch::Receiver<u64>,
}

impl Dice {
    fn new(seed: u64, loss: &watch::Sender<u64>) -> Self {
        Self {
            state: seed,
            loss: loss.subscribe(),
        }
    }

    fn loses(&mut self) -> bool {
        // Knuth's constants of MMIX.
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % 100 < *self.loss.borrow()
    }
}
