//! Who is next: the algorithms, over what a cluster's members are at this moment.

use crate::cluster::{Cluster, Seat};
use crate::instance::{Instance, lock};
use nm_types::proxy::{Algorithm, Mode};
use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

/// Who asks, and whom not to give.
#[derive(Default)]
pub struct Wish {
    /// Of the client's address.
    pub client: u64,
    /// The member the client's cookie names.
    pub sticky: Option<u64>,
    pub tried: Tried,
}

/// Members that this request failed at already. A request has at most 11 tries.
#[derive(Default, Clone, Copy)]
pub struct Tried {
    seats: [u16; 12],
    count: u8,
}

impl Tried {
    pub fn add(&mut self, seat: usize) {
        if let Some(slot) = self.seats.get_mut(usize::from(self.count)) {
            *slot = seat as u16;
            self.count += 1;
        }
    }
    pub fn has(&self, seat: usize) -> bool {
        self.seats[..usize::from(self.count)].contains(&(seat as u16))
    }
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }
}

impl Cluster {
    /// The seat that is to serve, if any can.
    pub fn pick(&self, wish: &Wish, instance: &Instance) -> Option<usize> {
        if let Mode::ActiveStandby { .. } = self.conf.mode {
            return self.active(instance).filter(|seat| !wish.tried.has(*seat));
        }
        if let Some(hash) = wish.sticky {
            let stuck = self.seats.iter().position(|s| s.member.hash == hash && s.member.is_up());
            if let Some(seat) = stuck.filter(|seat| !wish.tried.has(*seat)) {
                return Some(seat);
            }
        }
        // One that is full is waited for only where all are; those with ties, and ip-hash, wait for theirs.
        let first = self.conf.member_limit.is_some() && self.conf.algorithm != Algorithm::IpHash;
        let with_room = first.then(|| self.choose(wish, false, true, instance)).flatten();
        with_room
            .or_else(|| self.choose(wish, false, false, instance))
            .or_else(|| self.choose(wish, true, false, instance))
    }

    fn choose(&self, wish: &Wish, backup: bool, with_room: bool, instance: &Instance) -> Option<usize> {
        let fits = |(i, seat): &(usize, &Seat)| {
            seat.backup == backup && seat.takes_new() && !wish.tried.has(*i) && (!with_room || seat.has_room())
        };
        let candidates = || self.seats.iter().enumerate().filter(fits);
        match self.conf.algorithm {
            Algorithm::RoundRobin => {
                let count = candidates().count();
                if candidates().any(|(_, seat)| seat.member.is_ramping()) {
                    return self.smooth(candidates(), |_| 1, instance);
                }
                let turn = self.state.turn.fetch_add(1, Relaxed);
                candidates().nth(turn.checked_rem(count)?).map(|(i, _)| i)
            }
            Algorithm::Weighted => self.smooth(candidates(), |seat| seat.weight, instance),
            Algorithm::LeastConnections => {
                let now = instance.now_ms();
                let capacity = |seat: &Seat| u64::from(seat.weight * seat.member.share(now, self.conf.slow_start_ms));
                let load = |seat: &Seat| (u64::from(seat.member.active()), capacity(seat));
                let (mut best, mut ties, mut alike): (Option<(usize, u64, u64)>, usize, bool) = (None, 0, true);
                for (i, seat) in candidates() {
                    let (busy, room) = load(seat);
                    let order = best.map_or(Ordering::Less, |(_, b, r)| (busy * r).cmp(&(b * room)));
                    match order {
                        Ordering::Less => (best, ties, alike) = (Some((i, busy, room)), 1, true),
                        Ordering::Equal => (ties, alike) = (ties + 1, alike && best.is_none_or(|(.., r)| r == room)),
                        Ordering::Greater => {}
                    }
                }
                let (first, least, most) = best?;
                if ties == 1 {
                    return Some(first);
                }
                let equals = candidates().filter(|(_, seat)| {
                    let (busy, room) = load(seat);
                    busy * most <= least * room
                });
                // By their weights, or else the one with the highest would get all that comes while nobody is busy. Others may
                // have become busy since they were asked.
                let turn = if alike {
                    let turn = self.state.turn.fetch_add(1, Relaxed) % ties;
                    equals.map(|(i, _)| i).nth(turn)
                } else {
                    self.smooth(equals, |seat| seat.weight, instance)
                };
                turn.or(Some(first))
            }
            // Rendezvous hashing (Thaler and Ravishankar, 1998): the highest score of client and member wins, so a member
            // that leaves moves only the clients it had won.
            Algorithm::IpHash => candidates()
                .max_by_key(|(_, seat)| mix(wish.client ^ seat.member.hash))
                .map(|(i, _)| i),
        }
    }

    /// Smooth weighted round-robin, as nginx has it: all grow by their weight, the greatest is chosen and falls by the sum.
    fn smooth<'a>(
        &self,
        candidates: impl Iterator<Item = (usize, &'a Seat)>,
        weight: impl Fn(&Seat) -> u32,
        instance: &Instance,
    ) -> Option<usize> {
        let mut currents = lock(&self.currents);
        let now = instance.now_ms();
        let (mut best, mut total) = (None, 0);
        for (i, seat) in candidates {
            let weight = i64::from(weight(seat) * seat.member.share(now, self.conf.slow_start_ms));
            total += weight;
            currents[i] += weight;
            if best.is_none_or(|b: usize| currents[i] > currents[b]) {
                best = Some(i);
            }
        }
        currents[best?] -= total;
        best
    }
}

/// Of an address; an IPv4 address counts the same however it arrived.
pub fn hash_address(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(a) => mix(u64::from(u32::from(a))),
        IpAddr::V6(a) => {
            let bits = u128::from(a);
            mix(bits as u64 ^ mix((bits >> 64) as u64))
        }
    }
}

/// FNV-1a, then mixed. It stays the same between versions and machines: cookies and ip-hash depend on it.
pub fn hash_bytes(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().copied().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix(hash)
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, 2014): every bit of the input moves half the bits of the output.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
