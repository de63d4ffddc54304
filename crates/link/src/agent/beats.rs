//! Sending datagrams beside a link, and measuring the line by what comes back.

use super::backoff::random_share;
use crate::beat::{Beat, BeatKey, Echo, Measured, ROOM, micros};
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tracing::debug;

/// What the figures are of.
const WINDOW: Duration = Duration::from_secs(60);
/// A beat without an echo counts as lost only after this.
const LATE: Duration = Duration::from_secs(2);
/// With fewer beats than these there is no saying how many are lost.
const ENOUGH: usize = 8;
/// After so long without an echo datagrams are taken to be kept out, by a firewall as a rule.
const KEPT_OUT: Duration = Duration::from_secs(30);
/// A datagram to see whether they still are, each so many periods.
const RARELY: u32 = 10;

/// The beats of one link: what was sent, what came back.
#[derive(Debug)]
struct Line {
    /// Newest last: number, when, and how long the echo took.
    sent: VecDeque<(u64, Instant, Option<Duration>)>,
    number: u64,
    /// The newest stamp an echo brought.
    stamp: u64,
    /// When the last echo came, or the line began.
    answered: Instant,
}

impl Line {
    fn new(now: Instant) -> Self {
        Self {
            sent: VecDeque::new(),
            number: 0,
            stamp: 0,
            answered: now,
        }
    }

    fn next(&mut self, now: Instant) -> Beat {
        while self.sent.front().is_some_and(|(_, at, _)| now - *at > WINDOW) {
            self.sent.pop_front();
        }
        let measured = self.measured(now);
        self.number += 1;
        self.sent.push_back((self.number, now, None));
        Beat {
            number: self.number,
            heard: self.stamp,
            measured,
        }
    }

    /// An echo came. One that was not asked for, or came already, changes nothing.
    fn answered(&mut self, echo: Echo, now: Instant) {
        let found = self.sent.iter_mut().rev().find(|(number, ..)| *number == echo.number);
        if let Some((_, at, took @ None)) = found {
            *took = Some(now - *at);
            self.stamp = self.stamp.max(echo.stamp);
            self.answered = now;
        }
    }

    /// The median round trip, and the share of beats that had no echo.
    fn measured(&self, now: Instant) -> Measured {
        let mut took: Vec<u32> = self.sent.iter().filter_map(|(.., took)| took.map(micros)).collect();
        took.sort_unstable();
        let due = || self.sent.iter().filter(|(_, at, took)| took.is_some() || now - *at > LATE);
        let (all, lost) = (due().count(), due().filter(|(.., took)| took.is_none()).count());
        Measured {
            rtt: took.get(took.len() / 2).copied(),
            loss: if all < ENOUGH {
                None
            } else {
                u16::try_from(lost * 1000 / all).ok()
            },
        }
    }

    fn pause(&self, period: Duration, now: Instant) -> Duration {
        if now - self.answered > KEPT_OUT { period * RARELY } else { period }
    }
}

/// Sends a beat every `period` to `server`, where the link of `key` goes to, until it is dropped. Where datagrams do not come
/// through, this does no good and no harm.
pub(super) async fn send(server: SocketAddr, key: BeatKey, period: Duration) {
    let socket = match open(server).await {
        Ok(socket) => socket,
        Err(error) => {
            debug!(%server, %error, "no datagrams beside the link");
            return;
        }
    };
    let mut line = Line::new(Instant::now());
    let mut buffer = [0; ROOM];
    // Somewhere within the first period, so that agents which linked at once do not send at once for ever.
    let mut next = Instant::now() + period.mul_f64(random_share());
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {
                let now = Instant::now();
                // What can't be sent, or is told to have been refused, is one that got lost.
                let _sent = socket.send(&key.beat(line.next(now))).await;
                next = now + line.pause(period, now);
            }
            received = socket.recv(&mut buffer) => {
                // An error is word of a beat that nobody took; the next one is due in its time.
                if let Some(echo) = received.ok().and_then(|length| key.open_echo(&buffer[..length])) {
                    let now = Instant::now();
                    line.answered(echo, now);
                    next = next.min(now + period);
                }
            }
        }
    }
}

/// A socket that hears of `server` alone.
async fn open(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(500);

    #[test]
    fn a_line_is_measured_by_its_echoes() {
        let began = Instant::now();
        let (mut line, mut now) = (Line::new(began), began);
        assert_eq!(line.measured(now), Measured::default());
        for n in 1..=200u64 {
            now += PERIOD;
            let beat = line.next(now);
            assert_eq!(beat.number, n);
            if n % 10 < 7 {
                let echo = Echo { number: n, stamp: n };
                line.answered(echo, now + Duration::from_millis(3));
                // The same again, and one that was never asked for.
                line.answered(echo, now + Duration::from_secs(9));
                line.answered(Echo { number: n + 1, stamp: 999 }, now);
            }
        }
        assert_eq!(
            line.measured(now + LATE + PERIOD),
            Measured {
                rtt: Some(3000),
                loss: Some(297) // 36 of 121
            }
        );
        assert_eq!((line.stamp, line.sent.len()), (200, 121));
    }

    #[test]
    fn beats_become_rare_where_none_is_answered() {
        let began = Instant::now();
        let mut line = Line::new(began);
        assert_eq!(line.pause(PERIOD, began + KEPT_OUT), PERIOD);
        let later = began + KEPT_OUT + PERIOD;
        assert_eq!(line.pause(PERIOD, later), PERIOD * RARELY);
        let number = line.next(later).number;
        line.answered(Echo { number, stamp: 1 }, later);
        assert_eq!(line.pause(PERIOD, later), PERIOD);
    }
}
