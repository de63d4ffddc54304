//! Hearing the nodes' datagrams.
//!
//! Invariants:
//! - A datagram counts for the node whose link its key came from, and for no other. Which that is stands in our own table; what
//!   the datagram says of itself only finds the row.
//! - What is not of a session we know costs a look into a table and no cryptography. It gets no answer.
//! - A node has one session at most, that of its newest link. It outlives a link that broke, for that is when it is needed, and
//!   ends with a link that was closed, said goodbye, or whose certificate is over.

use super::pulse::Pulse;
use crate::beat::{Beat, BeatKey, ECHO, Echo, ROOM, Session, session_of};
use nm_types::NodeId;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tracing::{debug, warn};

/// How old the newest of our stamps may be that a beat brings with it. Beats that somebody on the line keeps back and sends one
/// by one later make a dead node look alive for so long and no longer. It is far above what losses do: with three of ten
/// packets lost, the chance that no echo arrives in this time is below one in 10^17.
const STALE: Duration = Duration::from_secs(30);
/// Datagrams that are taken one after the other before other tasks have their turn.
const AT_ONCE: usize = 64;
/// What the kernel keeps for us while we do something else: some 2,000 beats.
const BUFFER: usize = 1 << 20;

/// The sessions of all nodes.
#[derive(Debug)]
pub(super) struct Beats {
    born: Instant,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    sessions: HashMap<Session, Arc<Hearing>>,
    of_node: HashMap<NodeId, Session>,
}

/// One link's beats.
#[derive(Debug)]
struct Hearing {
    key: BeatKey,
    node: NodeId,
    pulse: Arc<Pulse>,
    /// The end of the certificate that the link was made with.
    expires: SystemTime,
    /// The stamp of the moment it began: what a beat before the first echo stands on.
    opened: u64,
    /// The number of the newest beat.
    newest: AtomicU64,
}

impl Beats {
    pub(super) fn new() -> Self {
        Self {
            born: Instant::now(),
            table: Mutex::default(),
        }
    }

    /// Listens for the beats of a node's new link; those of an older one no longer count.
    pub(super) fn open(&self, node: &NodeId, key: BeatKey, pulse: Arc<Pulse>, expires: SystemTime) {
        let session = key.session();
        let hearing = Hearing {
            key,
            node: node.clone(),
            pulse,
            expires,
            opened: self.stamp(),
            newest: AtomicU64::new(0),
        };
        let mut table = self.lock();
        if let Some(old) = table.of_node.insert(node.clone(), session) {
            table.sessions.remove(&old);
        }
        table.sessions.insert(session, Arc::new(hearing));
    }

    /// The node's datagrams no longer count.
    pub(super) fn close(&self, node: &NodeId) {
        let mut table = self.lock();
        if let Some(session) = table.of_node.remove(node) {
            table.sessions.remove(&session);
        }
    }

    /// Takes in one datagram, and gives the answer to it if it counted.
    fn take(&self, datagram: &[u8]) -> Option<[u8; ECHO]> {
        let hearing = self.lock().sessions.get(&session_of(datagram)?)?.clone();
        let beat = hearing.key.open_beat(datagram)?;
        if SystemTime::now() >= hearing.expires {
            self.close(&hearing.node);
            return None;
        }
        // Only after the MAC: a number that anybody could set would shut the node itself out.
        if hearing.newest.fetch_max(beat.number, Ordering::AcqRel) >= beat.number {
            return None;
        }
        let now = self.stamp();
        if self.is_fresh(&hearing, &beat, now) {
            hearing.pulse.heard_by_datagram(beat.measured);
        }
        // Also to a stale one: with the stamp it brings, the next one counts again.
        Some(hearing.key.echo(Echo {
            number: beat.number,
            stamp: now,
        }))
    }

    fn is_fresh(&self, hearing: &Hearing, beat: &Beat, now: u64) -> bool {
        let heard = if beat.heard == 0 { hearing.opened } else { beat.heard };
        now.saturating_sub(heard) <= u64::try_from(STALE.as_millis()).unwrap_or(u64::MAX)
    }

    /// Milliseconds since this process began to listen, from 1 on.
    fn stamp(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // No code under this lock can panic halfway through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers datagrams on `socket`, for ever.
    pub(super) async fn listen(&self, socket: UdpSocket) {
        let mut buffer = [0; ROOM];
        loop {
            if let Err(error) = socket.readable().await {
                warn!(%error, "the agents' datagrams can no longer be read; their links alone tell of them now");
                return;
            }
            for _ in 0..AT_ONCE {
                match socket.try_recv_from(&mut buffer) {
                    Ok((length, from)) => {
                        if let Some(echo) = self.take(&buffer[..length]) {
                            // One that can't be sent now is one that got lost.
                            let _sent = socket.try_send_to(&echo, from);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An earlier answer could not be delivered: that is told here, and means nothing.
                    Err(error) => debug!(%error, "a datagram's answer was refused"),
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

/// A socket for datagrams beside the listener at `address`. Without one, links alone tell of their nodes.
pub(super) fn socket_at(address: SocketAddr) -> Option<UdpSocket> {
    let bound = || {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        // The system may give less. That is then enough for fewer nodes, and nothing is wrong.
        let _most_it_gives = socket2::SockRef::from(&socket).set_recv_buffer_size(BUFFER);
        UdpSocket::from_std(socket)
    };
    bound()
        .inspect_err(|error| {
            warn!(%address, %error, "no UDP beside the agent port: a lossy line can then look like a lost node");
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beat::Measured;

    fn key(byte: u8) -> BeatKey {
        BeatKey::new(&[byte; 48])
    }
    fn node(n: i64) -> NodeId {
        NodeId::parse(&format!("node_{n}_aaaaaaaaa")).unwrap()
    }
    fn beat(number: u64, heard: u64) -> Beat {
        Beat {
            number,
            heard,
            measured: Measured::default(),
        }
    }
    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(3600)
    }

    /// A table with nodes 1 and 2, keys 1 and 2.
    fn two() -> (Beats, Arc<Pulse>, Arc<Pulse>) {
        let (beats, one, two) = (Beats::new(), Arc::new(Pulse::new()), Arc::new(Pulse::new()));
        beats.open(&node(1), key(1), one.clone(), later());
        beats.open(&node(2), key(2), two.clone(), later());
        (beats, one, two)
    }

    #[tokio::test(start_paused = true)]
    async fn a_beat_counts_once_and_for_its_own_node() {
        let (beats, one, two) = two();
        tokio::time::advance(Duration::from_secs(5)).await;
        let said = key(1).beat(beat(1, 0));
        let echo = key(1).open_echo(&beats.take(&said).unwrap()).unwrap();
        assert_eq!((echo.number, echo.stamp), (1, 5001));
        assert_eq!((one.datagram(), two.datagram()), (Some(Instant::now()), None));

        assert!(beats.take(&key(1).beat(beat(9, echo.stamp))).is_some());
        let heard = one.heard();

        tokio::time::advance(Duration::from_secs(1)).await;
        let mut in_anothers_name = key(1).beat(beat(10, echo.stamp));
        in_anothers_name[4..20].copy_from_slice(&key(2).beat(beat(10, 0))[4..20]);
        for (what, datagram) in [
            ("the same again", &said[..]),
            ("an older one, late", &key(1).beat(beat(8, echo.stamp))),
            ("of a session nobody has", &key(3).beat(beat(10, echo.stamp))),
            ("by node 1, in node 2's name", &in_anothers_name),
            ("nothing", b""),
            ("noise", &[b'n'; ROOM]),
            ("an echo", &key(1).echo(Echo { number: 10, stamp: 5 })),
        ] {
            assert!(beats.take(datagram).is_none(), "{what}");
            assert_eq!((one.heard(), two.datagram()), (heard, None), "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn beats_that_were_kept_back_do_not_keep_a_dead_node_alive() {
        let (beats, one, _) = two();
        let echo = key(1).open_echo(&beats.take(&key(1).beat(beat(1, 0))).unwrap()).unwrap();
        // All of these were made now, and are sent one by one later.
        let kept: Vec<_> = (2..100).map(|n| key(1).beat(beat(n, echo.stamp))).collect();
        let mut last = one.heard().unwrap();
        for datagram in kept {
            tokio::time::advance(Duration::from_secs(1)).await;
            let echo = beats.take(&datagram).unwrap();
            last = last.max(one.heard().unwrap());
            assert_ne!(key(1).open_echo(&echo).unwrap().stamp, 0);
        }
        assert!(Instant::now() - last >= Duration::from_secs(98) - STALE);
        // The node itself, with a new stamp, is heard at once.
        let stamp = beats.stamp();
        assert!(beats.take(&key(1).beat(beat(100, stamp))).is_some());
        assert_eq!(one.heard(), Some(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_link_a_close_and_a_certificates_end_end_a_session() {
        let (beats, one, two) = two();
        beats.open(&node(1), key(7), one.clone(), later());
        assert!(beats.take(&key(1).beat(beat(1, 0))).is_none(), "the older link's");
        assert!(beats.take(&key(7).beat(beat(1, 0))).is_some());
        beats.close(&node(1));
        assert!(beats.take(&key(7).beat(beat(2, 0))).is_none());
        beats.open(&node(2), key(2), two, SystemTime::now());
        assert!(beats.take(&key(2).beat(beat(1, 0))).is_none(), "its certificate is over");
        let table = beats.lock();
        assert!(table.sessions.is_empty() && table.of_node.is_empty(), "nothing is left of them");
    }
}
