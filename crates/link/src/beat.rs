//! Signs of life beside a link: small datagrams between the agent and the control plane.
//!
//! A link is one TCP connection, and TCP waits longer with every packet it loses in a row: with three packets of ten lost, a
//! healthy link is silent for ten seconds every few minutes. A datagram that is lost holds up nothing, for the next one is half
//! a second behind it.
//!
//! The agent sends a [`Beat`] to the address and port that its link goes to; the control plane answers each with an [`Echo`].
//! Key and session number come out of the link's own TLS session, by the exporter of RFC 8446, section 7.5: both ends have
//! them, they are new for every link, and no byte of them is ever sent.
//!
//! Both are a head, fields, and a MAC: HMAC-SHA256 over everything before it, its first 16 bytes. Numbers are big-endian.
//!
//! ```text
//! beat   "nmb1"  session[16]  number u64  heard u64  rtt u32  loss u16  zero u16  mac[16]     60 bytes
//! echo   "nme1"  session[16]  number u64  stamp u64  mac[16]                                  52 bytes
//! ```
//!
//! Invariants:
//! - An echo is shorter than the beat it answers, and only a beat that is right in all points is answered: nothing is amplified.
//! - The direction is in the head, under the MAC: what one side said can't be given back to it as the other's word.
//! - `number` rises with every beat of a session, and one that was seen is never taken again.
//! - `heard` is the newest stamp that the agent has of the control plane: who records beats and sends them later is found out
//!   by it, without any two clocks being compared.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;
use std::time::Duration;
use zeroize::Zeroizing;

const BEAT_HEAD: &[u8; 4] = b"nmb1";
const ECHO_HEAD: &[u8; 4] = b"nme1";
const MAC: usize = 16;
pub(crate) const BEAT: usize = 60;
pub(crate) const ECHO: usize = 52;
/// Room for whichever comes, and one byte more: what is longer than it may be is seen to be.
pub(crate) const ROOM: usize = BEAT + 1;
/// Labels that are not registered begin so (RFC 5705, section 4).
const EXPORTER: &[u8] = b"EXPERIMENTAL neuralmesh beat 1";

/// The number of a link's beats. It is no secret: it only says which key a datagram is to be checked with.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Session([u8; 16]);

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..4]))
    }
}

/// What makes and checks the datagrams of one link.
#[derive(Clone)]
pub(crate) struct BeatKey {
    session: Session,
    mac: Hmac<Sha256>,
}

impl fmt::Debug for BeatKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BeatKey").field(&self.session).finish()
    }
}

/// How the line is, as the agent measures it: over the last minute, there and back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    /// Microseconds; at most an hour.
    pub(crate) rtt: Option<u32>,
    /// Of a thousand beats, how many had no echo.
    pub(crate) loss: Option<u16>,
}

/// The agent's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) number: u64,
    /// The newest stamp an echo brought; 0 before the first.
    pub(crate) heard: u64,
    pub(crate) measured: Measured,
}

/// The control plane's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Echo {
    /// Of the beat that is answered.
    pub(crate) number: u64,
    /// Milliseconds of the control plane's own clock, never 0.
    pub(crate) stamp: u64,
}

impl BeatKey {
    /// The key of the link that `tls` is the session of; the same on both sides.
    pub(crate) fn of_link<D>(tls: &rustls::ConnectionCommon<D>) -> Result<Self, rustls::Error> {
        let secret = Zeroizing::new(tls.export_keying_material([0u8; 48], EXPORTER, None)?);
        Ok(Self::new(&secret))
    }

    /// The session's number, then the key.
    pub(crate) fn new(secret: &[u8; 48]) -> Self {
        let (session, key) = secret.split_at(16);
        let mut number = [0; 16];
        number.copy_from_slice(session);
        Self {
            session: Session(number),
            mac: Hmac::new_from_slice(key).expect("HMAC takes a key of any length"),
        }
    }

    pub(crate) fn session(&self) -> Session {
        self.session
    }

    pub(crate) fn beat(&self, beat: Beat) -> [u8; BEAT] {
        let mut out = [0; BEAT];
        out[..4].copy_from_slice(BEAT_HEAD);
        out[4..20].copy_from_slice(&self.session.0);
        out[20..28].copy_from_slice(&beat.number.to_be_bytes());
        out[28..36].copy_from_slice(&beat.heard.to_be_bytes());
        out[36..40].copy_from_slice(&beat.measured.rtt.unwrap_or(u32::MAX).to_be_bytes());
        out[40..42].copy_from_slice(&beat.measured.loss.unwrap_or(u16::MAX).to_be_bytes());
        self.seal(&mut out);
        out
    }

    /// The beat that `datagram` is, when it is one of this session and its MAC is right.
    pub(crate) fn open_beat(&self, datagram: &[u8]) -> Option<Beat> {
        let body = self.open(datagram, BEAT, BEAT_HEAD)?;
        let rtt = u32::from_be_bytes(body[36..40].try_into().ok()?);
        let loss = u16::from_be_bytes(body[40..42].try_into().ok()?);
        Some(Beat {
            number: u64::from_be_bytes(body[20..28].try_into().ok()?),
            heard: u64::from_be_bytes(body[28..36].try_into().ok()?),
            measured: Measured {
                rtt: (rtt <= 3_600_000_000).then_some(rtt),
                loss: (loss <= 1000).then_some(loss),
            },
        })
    }

    pub(crate) fn echo(&self, echo: Echo) -> [u8; ECHO] {
        let mut out = [0; ECHO];
        out[..4].copy_from_slice(ECHO_HEAD);
        out[4..20].copy_from_slice(&self.session.0);
        out[20..28].copy_from_slice(&echo.number.to_be_bytes());
        out[28..36].copy_from_slice(&echo.stamp.to_be_bytes());
        self.seal(&mut out);
        out
    }

    /// The echo that `datagram` is, when it is one of this session and its MAC is right.
    pub(crate) fn open_echo(&self, datagram: &[u8]) -> Option<Echo> {
        let body = self.open(datagram, ECHO, ECHO_HEAD)?;
        Some(Echo {
            number: u64::from_be_bytes(body[20..28].try_into().ok()?),
            stamp: u64::from_be_bytes(body[28..36].try_into().ok()?),
        })
    }

    fn seal(&self, out: &mut [u8]) {
        let (body, tag) = out.split_at_mut(out.len() - MAC);
        let mac = self.mac.clone().chain_update(&*body).finalize().into_bytes();
        tag.copy_from_slice(&mac[..MAC]);
    }

    fn open<'a>(&self, datagram: &'a [u8], length: usize, head: &[u8; 4]) -> Option<&'a [u8]> {
        if datagram.len() != length || !datagram.starts_with(head) || datagram[4..20] != self.session.0 {
            return None;
        }
        let (body, tag) = datagram.split_at(length - MAC);
        // In constant time.
        self.mac.clone().chain_update(body).verify_truncated_left(tag).ok()?;
        Some(body)
    }
}

/// The session that `datagram` says it is a beat of; by this alone nothing is believed.
pub(crate) fn session_of(datagram: &[u8]) -> Option<Session> {
    if datagram.len() != BEAT || !datagram.starts_with(BEAT_HEAD) {
        return None;
    }
    Some(Session(datagram[4..20].try_into().ok()?))
}

/// A duration as it is told in a beat.
pub(crate) fn micros(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: Beat = Beat {
        number: 7,
        heard: 90_001,
        measured: Measured {
            rtt: Some(1234),
            loss: Some(301),
        },
    };

    fn key(byte: u8) -> BeatKey {
        BeatKey::new(&[byte; 48])
    }

    #[test]
    fn what_is_said_arrives() {
        let nothing = Beat {
            measured: Measured::default(),
            ..SAID
        };
        for beat in [SAID, nothing] {
            let datagram = key(1).beat(beat);
            assert_eq!(session_of(&datagram), Some(key(1).session()));
            assert_eq!(key(1).open_beat(&datagram), Some(beat));
        }
        let echo = Echo { number: 7, stamp: 5 };
        assert_eq!(key(1).open_echo(&key(1).echo(echo)), Some(echo));
        const { assert!(ECHO <= BEAT, "an echo is never longer than what it answers") }
    }

    #[test]
    fn no_byte_of_it_can_be_another() {
        let good = key(1).beat(SAID);
        for at in 0..good.len() {
            let mut bad = good;
            bad[at] ^= 1;
            assert_eq!(key(1).open_beat(&bad), None, "byte {at}");
        }
        assert_eq!(key(1).open_beat(&good[..BEAT - 1]), None);
        assert_eq!(key(1).open_beat(&[&good[..], &[0]].concat()), None);
        assert_eq!(session_of(&good[..BEAT - 1]), None);
        assert_eq!(session_of(b""), None);
    }

    #[test]
    fn another_links_key_and_the_other_direction_count_for_nothing() {
        assert_eq!(key(2).open_beat(&key(1).beat(SAID)), None);
        // Same session number, another key: what somebody makes who has only listened.
        let mut secret = [1; 48];
        secret[47] = 2;
        assert_eq!(key(1).open_beat(&BeatKey::new(&secret).beat(SAID)), None);
        let echo = key(1).echo(Echo { number: 7, stamp: 5 });
        assert_eq!(session_of(&echo), None);
        assert_eq!(key(1).open_beat(&echo), None);
        assert_eq!(key(1).open_echo(&key(1).beat(SAID)), None);
    }

    #[test]
    fn a_key_is_not_shown() {
        assert_eq!(format!("{:?}", BeatKey::new(&[0xab; 48])), "BeatKey(abababab)");
    }
}
