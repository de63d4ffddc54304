//! Slows down the guessing of passwords.
//!
//! An attempt is counted before its password is looked at and taken back when it was right, so guesses sent at once count
//! like guesses sent in turn. Whoever hangs up before the answer has made a guess too.

use nm_types::Timestamp;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How much may fail.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Wrong passwords for one account within the window.
    pub per_account: usize,
    /// Wrong passwords from one address within the window.
    pub per_address: usize,
    /// Refresh tokens that are none, from one address within the window.
    pub refreshes_per_address: usize,
    pub window: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { per_account: 5, per_address: 20, refreshes_per_address: 60, window: Duration::from_secs(60) }
    }
}

/// The most accounts and the most addresses remembered. Hashing passwords takes so long that fewer fail within a window.
const MOST: usize = 10_000;

/// Failures of some kind, by account and by address.
#[derive(Debug)]
pub struct Throttle {
    tables: Mutex<Tables>,
}

#[derive(Debug)]
struct Tables {
    accounts: Table<String>,
    addresses: Table<IpAddr>,
}

/// One counted attempt. Dropped, it stays counted.
#[derive(Debug)]
pub struct Attempt {
    throttle: Arc<Throttle>,
    account: Option<String>,
    address: Option<IpAddr>,
    at: i64,
}

impl Throttle {
    pub fn new(per_account: usize, per_address: usize, window: Duration) -> Arc<Self> {
        let window = i64::try_from(window.as_millis()).unwrap_or(i64::MAX);
        Arc::new(Self { tables: Mutex::new(Tables { accounts: Table::new(per_account, window), addresses: Table::new(per_address, window) }) })
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Counts an attempt, or tells how long to wait until one is free again.
    pub fn attempt(self: &Arc<Self>, account: Option<&str>, address: Option<IpAddr>, now: Timestamp) -> Result<Attempt, Duration> {
        let (account, address, at) = (account.map(str::to_owned), address.map(block), now.0);
        let mut tables = self.tables();
        let waits = [
            account.as_ref().and_then(|a| tables.accounts.wait(a, at)),
            address.as_ref().and_then(|a| tables.addresses.wait(a, at)),
        ];
        if let Some(wait) = waits.into_iter().flatten().max() {
            return Err(Duration::from_millis(u64::try_from(wait).unwrap_or(0)));
        }
        if let Some(account) = &account {
            tables.accounts.count(account.clone(), at);
        }
        if let Some(address) = address {
            tables.addresses.count(address, at);
        }
        drop(tables);
        Ok(Attempt { throttle: Arc::clone(self), account, address, at })
    }
}

impl Attempt {
    /// It was no failure: it counts no more.
    pub fn forgive(self) {
        let mut tables = self.throttle.tables();
        if let Some(account) = &self.account {
            tables.accounts.forget(account, self.at);
        }
        if let Some(address) = &self.address {
            tables.addresses.forget(address, self.at);
        }
    }
}

/// What counts as one address: of IPv6 the network that one customer gets.
fn block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & (u128::MAX << 64))),
    }
}

/// The moments of the failures of each key within the window, oldest first.
#[derive(Debug)]
struct Table<K> {
    limit: usize,
    window: i64,
    failures: HashMap<K, VecDeque<i64>>,
    swept: i64,
}

impl<K: Hash + Eq + Clone> Table<K> {
    fn new(limit: usize, window: i64) -> Self {
        Self { limit, window, failures: HashMap::new(), swept: i64::MIN }
    }

    /// Milliseconds until `key` may fail again; `None` when it may now.
    fn wait(&mut self, key: &K, now: i64) -> Option<i64> {
        let window = self.window;
        let moments = self.failures.get_mut(key)?;
        for moment in moments.iter_mut() {
            // The clock was put back: counted from now, lest they count for as long as it was put back.
            *moment = (*moment).min(now);
        }
        moments.retain(|m| now - m < window);
        if moments.len() < self.limit {
            return None;
        }
        moments.get(moments.len() - self.limit).map(|m| m + window - now)
    }

    fn count(&mut self, key: K, now: i64) {
        self.make_room(&key, now);
        self.failures.entry(key).or_default().push_back(now);
    }

    fn forget(&mut self, key: &K, at: i64) {
        if let Some(moments) = self.failures.get_mut(key) {
            if let Some(place) = moments.iter().position(|m| *m == at) {
                moments.remove(place);
            }
            if moments.is_empty() {
                self.failures.remove(key);
            }
        }
    }

    fn make_room(&mut self, key: &K, now: i64) {
        let window = self.window;
        if self.failures.len() >= MOST || now.saturating_sub(self.swept) >= window {
            self.swept = now;
            self.failures.retain(|_, moments| moments.back().is_some_and(|m| now - m < window));
        }
        if self.failures.len() >= MOST && !self.failures.contains_key(key) {
            let oldest = self.failures.iter().min_by_key(|(_, moments)| moments.back().copied()).map(|(k, _)| k.clone());
            if let Some(oldest) = oldest {
                self.failures.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: i64) -> Timestamp {
        Timestamp(1_770_000_000_000 + seconds * 1000)
    }
    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn five_failures_a_minute_an_account() {
        let throttle = Throttle::new(5, 20, MINUTE);
        for second in 0..5 {
            throttle.attempt(Some("ada"), ip("192.0.2.1"), at(second)).unwrap();
        }
        // From wherever it comes.
        let wait = throttle.attempt(Some("ada"), ip("192.0.2.2"), at(5)).unwrap_err();
        assert_eq!(wait, Duration::from_secs(55));
        // Being refused does not put off the end.
        throttle.attempt(Some("ada"), None, at(59)).unwrap_err();
        throttle.attempt(Some("ada"), None, at(60)).unwrap();
        throttle.attempt(Some("ada"), None, at(60)).unwrap_err();
        throttle.attempt(Some("bob"), ip("192.0.2.1"), at(5)).unwrap();
    }

    #[test]
    fn twenty_failures_a_minute_an_address() {
        let throttle = Throttle::new(5, 20, MINUTE);
        for n in 0..20 {
            throttle.attempt(Some(&format!("user{n}")), ip(&format!("2001:db8::{n}")), at(0)).unwrap();
        }
        assert_eq!(throttle.attempt(Some("eve"), ip("2001:db8::ffff"), at(30)).unwrap_err(), Duration::from_secs(30));
        throttle.attempt(Some("eve"), ip("2001:db8:0:1::1"), at(30)).unwrap();
        // An address refused at the door was not counted against the account.
        for _ in 0..4 {
            throttle.attempt(Some("eve"), None, at(30)).unwrap();
        }
        throttle.attempt(Some("eve"), None, at(30)).unwrap_err();
    }

    #[test]
    fn an_ipv4_address_is_one_however_it_is_written() {
        let throttle = Throttle::new(5, 1, MINUTE);
        throttle.attempt(None, ip("192.0.2.1"), at(0)).unwrap();
        throttle.attempt(None, ip("::ffff:192.0.2.1"), at(0)).unwrap_err();
    }

    #[test]
    fn what_succeeds_does_not_count() {
        let throttle = Throttle::new(5, 20, MINUTE);
        for _ in 0..100 {
            throttle.attempt(Some("ada"), ip("192.0.2.1"), at(0)).unwrap().forgive();
        }
        let under_way: Vec<_> = (0..5).map(|_| throttle.attempt(Some("ada"), None, at(1)).unwrap()).collect();
        throttle.attempt(Some("ada"), None, at(1)).unwrap_err();
        under_way.into_iter().for_each(Attempt::forgive);
        throttle.attempt(Some("ada"), None, at(1)).unwrap();
    }

    #[test]
    fn a_clock_put_back_locks_nobody_out() {
        let throttle = Throttle::new(5, 20, MINUTE);
        for _ in 0..5 {
            throttle.attempt(Some("ada"), None, at(3600)).unwrap();
        }
        assert_eq!(throttle.attempt(Some("ada"), None, at(0)).unwrap_err(), MINUTE);
        throttle.attempt(Some("ada"), None, at(60)).unwrap();
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::new(5, 20, MINUTE);
        for n in 0..(MOST + 100) {
            throttle.attempt(Some(&n.to_string()), None, at(0)).unwrap();
        }
        assert_eq!(throttle.tables().accounts.failures.len(), MOST);
        throttle.attempt(Some("later"), None, at(61)).unwrap();
        assert_eq!(throttle.tables().accounts.failures.len(), 1);
    }
}
