//! Rabin's rolling hash over GF(2), as restic's chunks are cut by: the API of the crate `rustic_cdc` that rustic_core uses.
//!
//! A window of the last bytes is read as a polynomial over GF(2), most significant bit first, and its remainder by an irreducible
//! polynomial of degree 53 is the hash. A byte that leaves takes its own remainder with it, a byte that comes shifts the rest: each by
//! one look into a table. The tables of a polynomial are computed once in a process.

use std::sync::{Mutex, PoisonError};

/// A polynomial over GF(2), a bit for each coefficient.
pub type Polynom64 = u64;

pub trait Polynom {
    /// -1 of the polynomial 0.
    fn degree(&self) -> i32;

    /// The remainder of a division by `m`.
    #[must_use]
    fn modulo(&self, m: &Self) -> Self;
}

impl Polynom for Polynom64 {
    fn degree(&self) -> i32 {
        self.checked_ilog2().map_or(-1, u32::cast_signed)
    }

    fn modulo(&self, m: &Self) -> Self {
        let mut rest = *self;
        loop {
            let above = rest.degree() - m.degree();
            if above < 0 {
                return rest;
            }
            rest ^= m << above;
        }
    }
}

pub trait RollingHash64 {
    /// Begins anew with the first of these bytes as its window, one fewer than fit in; gives how many it took.
    fn reset_and_prefill_window<I: Iterator<Item = u8>>(&mut self, iter: &mut I) -> usize;

    /// Moves the window on by a byte.
    fn slide(&mut self, byte: u8);
}

/// Bytes that a hash is of.
const WINDOW: usize = 64;

struct Tables {
    polynom: Polynom64,
    /// What a byte adds to the hash when it is the oldest of the window.
    out: [Polynom64; 256],
    /// Brings a hash that was shifted by a byte back below the polynomial, by the bits that stand out.
    reduce: [Polynom64; 256],
}

impl Tables {
    fn new(polynom: Polynom64) -> Self {
        let degree = polynom.degree();
        let mut tables = Self {
            polynom,
            out: [0; 256],
            reduce: [0; 256],
        };
        for byte in 0..=u8::MAX {
            let mut oldest = Polynom64::from(byte).modulo(&polynom);
            for _ in 1..WINDOW {
                oldest = (oldest << 8).modulo(&polynom);
            }
            tables.out[usize::from(byte)] = oldest;
            let standing_out = Polynom64::from(byte) << degree;
            tables.reduce[usize::from(byte)] = standing_out | standing_out.modulo(&polynom);
        }
        tables
    }

    /// Those of a process stay: it has as many as it opens repositories.
    fn of(polynom: Polynom64) -> &'static Self {
        static KNOWN: Mutex<Vec<&'static Tables>> = Mutex::new(Vec::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tables) = known.iter().find(|tables| tables.polynom == polynom) {
            return tables;
        }
        let made: &'static Self = Box::leak(Box::new(Self::new(polynom)));
        known.push(made);
        made
    }
}

#[derive(Clone)]
pub struct Rabin64 {
    tables: &'static Tables,
    /// What is above it of a hash stands out after the next shift.
    shift: u32,
    window: [u8; WINDOW],
    /// Where the oldest byte is.
    oldest: usize,
    pub hash: Polynom64,
}

impl std::fmt::Debug for Rabin64 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rabin64").field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl Rabin64 {
    /// # Panics
    ///
    /// Where the window is not of 2^6 bytes, as restic's is, or the polynomial not of a degree from 8 to 55.
    #[must_use]
    pub fn new_with_polynom(window_size_nb_bits: u32, mod_polynom: &Polynom64) -> Self {
        assert_eq!(1_usize << window_size_nb_bits, WINDOW, "the window has 64 bytes");
        assert!((8..=55).contains(&mod_polynom.degree()), "the polynomial has a degree from 8 to 55");
        Self {
            tables: Tables::of(*mod_polynom),
            shift: (mod_polynom.degree() - 8).cast_unsigned(),
            window: [0; WINDOW],
            oldest: 0,
            hash: 0,
        }
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        self.window[self.oldest % WINDOW] = byte;
        self.oldest = (self.oldest + 1) % WINDOW;
        let standing_out = (self.hash >> self.shift) as u8;
        self.hash = (self.hash << 8 | Polynom64::from(byte)) ^ self.tables.reduce[usize::from(standing_out)];
    }
}

impl RollingHash64 for Rabin64 {
    fn reset_and_prefill_window<I: Iterator<Item = u8>>(&mut self, iter: &mut I) -> usize {
        self.window = [0; WINDOW];
        self.oldest = 0;
        self.hash = 0;
        iter.take(WINDOW - 1).map(|byte| self.push(byte)).count()
    }

    #[inline]
    fn slide(&mut self, byte: u8) {
        self.hash ^= self.tables.out[usize::from(self.window[self.oldest % WINDOW])];
        self.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The one that restic's tests use.
    const POLYNOM: Polynom64 = 0x003D_A335_8B4D_C173;

    #[test]
    fn polynomials() {
        for (of, degree) in [(0, -1), (1, 0), (2, 1), (3, 1), (0x80, 7), (u64::MAX, 63)] {
            assert_eq!(of.degree(), degree, "{of}");
        }
        for (of, by, rest) in [(7, 3, 1), (7, 4, 3), (16, 8, 0), (19, 8, 3), (0, 5, 0), (5, 5, 0)] {
            assert_eq!(of.modulo(&by), rest, "{of} by {by}");
        }
    }

    /// Bit by bit, as long division is done by hand.
    fn by_hand(bytes: &[u8], polynom: Polynom64) -> Polynom64 {
        let mut rest = 0;
        for byte in bytes {
            for bit in (0..8).rev() {
                rest = (rest << 1 | Polynom64::from(byte >> bit & 1)).modulo(&polynom);
            }
        }
        rest
    }

    proptest! {
        #[test]
        fn a_hash_is_the_remainder_of_its_window(bytes in prop::collection::vec(any::<u8>(), 64..400), odd in any::<u64>()) {
            for polynom in [POLYNOM, (odd & ((1 << 53) - 1)) | 1 << 53 | 1] {
                let mut rabin = Rabin64::new_with_polynom(6, &polynom);
                rabin.slide(7);
                prop_assert_eq!(rabin.reset_and_prefill_window(&mut bytes.iter().copied()), 63);
                prop_assert_eq!(rabin.hash, by_hand(&bytes[..63], polynom));
                for (end, byte) in bytes.iter().enumerate().skip(63) {
                    rabin.slide(*byte);
                    prop_assert_eq!(rabin.hash, by_hand(&bytes[end - 63..=end], polynom), "after {} bytes", end);
                }
            }
        }
    }

    #[test]
    fn fewer_bytes_than_a_window() {
        let mut rabin = Rabin64::new_with_polynom(6, &POLYNOM);
        assert_eq!(rabin.reset_and_prefill_window(&mut [1, 2, 3].into_iter()), 3);
        assert_eq!(rabin.hash, by_hand(&[1, 2, 3], POLYNOM));
        rabin.slide(4);
        assert_eq!(rabin.hash, by_hand(&[1, 2, 3, 4], POLYNOM));
    }
}
