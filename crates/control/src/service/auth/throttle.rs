//! Slows down the guessing of passwords.
//!
//! An attempt counts from before its password is looked at until that was right, so guesses sent at once count like guesses
//! sent in turn. Whoever hangs up before the answer has made a guess too.

use crate::service::clock::SharedClock;
use nm_types::Timestamp;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

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
        Self {
            per_account: 5,
            per_address: 20,
            refreshes_per_address: 60,
            window: Duration::from_secs(60),
        }
    }
}

/// The most accounts and the most addresses remembered. Hashing passwords takes so long that fewer fail within a window.
const MOST: usize = 10_000;
/// How many may wait for attempts under way.
const WAITING: usize = 256;

/// Failures of some kind, by account and by address.
#[derive(Debug)]
pub struct Throttle {
    tables: Mutex<Tables>,
    /// An attempt has ended.
    ended: Notify,
    waiting: Semaphore,
}

#[derive(Debug)]
struct Tables {
    accounts: Table<String>,
    addresses: Table<IpAddr>,
}

/// Why there is no attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too many have failed: the next may be made after this long.
    TooMany(Duration),
    /// Too many are waiting for those under way.
    Crowded,
}

/// An attempt under way. Dropped, it has failed; so does one whose caller hangs up.
#[derive(Debug)]
pub struct Attempt {
    throttle: Arc<Throttle>,
    account: Option<String>,
    address: Option<IpAddr>,
    failed: Option<i64>,
}

impl Throttle {
    pub fn new(per_account: usize, per_address: usize, window: Duration) -> Arc<Self> {
        let window = i64::try_from(window.as_millis()).unwrap_or(i64::MAX);
        let tables = Tables {
            accounts: Table::new(per_account, window),
            addresses: Table::new(per_address, window),
        };
        Arc::new(Self {
            tables: Mutex::new(tables),
            ended: Notify::new(),
            waiting: Semaphore::new(WAITING),
        })
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Begins an attempt. Where those under way would be too many if they all failed, it waits for them: they may be right.
    pub async fn attempt(
        self: &Arc<Self>,
        account: Option<&str>,
        address: Option<IpAddr>,
        clock: &SharedClock,
    ) -> Result<Attempt, Refusal> {
        if let Some(result) = self.begin(account, address, clock.now()) {
            return result;
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| Refusal::Crowded)?;
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            // Before looking again, so that none ends in between unheard.
            ended.as_mut().enable();
            if let Some(result) = self.begin(account, address, clock.now()) {
                return result;
            }
            ended.await;
        }
    }

    /// `None` while it depends on attempts under way.
    fn begin(self: &Arc<Self>, account: Option<&str>, address: Option<IpAddr>, now: Timestamp) -> Option<Result<Attempt, Refusal>> {
        let (account, address) = (account.map(str::to_owned), address.map(block));
        let mut tables = self.tables();
        let rooms = [
            account.as_ref().map_or(Room::Free, |a| tables.accounts.room(a, now.0)),
            address.as_ref().map_or(Room::Free, |a| tables.addresses.room(a, now.0)),
        ];
        match rooms.into_iter().max() {
            Some(Room::Full { wait_ms }) => return Some(Err(Refusal::TooMany(Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0))))),
            Some(Room::Undecided) => return None,
            Some(Room::Free) | None => {}
        }
        if let Some(account) = &account {
            tables.accounts.begin(account.clone(), now.0);
        }
        if let Some(address) = address {
            tables.addresses.begin(address, now.0);
        }
        drop(tables);
        Some(Ok(Attempt {
            throttle: Arc::clone(self),
            account,
            address,
            failed: Some(now.0),
        }))
    }
}

impl Attempt {
    /// It was no failure: it does not count.
    pub fn forgive(mut self) {
        self.failed = None;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut tables = self.throttle.tables();
        if let Some(account) = &self.account {
            tables.accounts.end(account, self.failed);
        }
        if let Some(address) = &self.address {
            tables.addresses.end(address, self.failed);
        }
        drop(tables);
        self.throttle.ended.notify_waiters();
    }
}

/// What counts as one address: of IPv6 the network that one customer gets.
fn block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & (u128::MAX << 64))),
    }
}

/// Whether there is room for one more attempt, from the best to the worst.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Room {
    Free,
    Undecided,
    Full { wait_ms: i64 },
}

#[derive(Debug)]
struct Table<K> {
    limit: usize,
    window: i64,
    records: HashMap<K, Record>,
    swept: i64,
}

#[derive(Debug, Default)]
struct Record {
    under_way: usize,
    /// The moments of the failures within the window, oldest first.
    failed: VecDeque<i64>,
}

impl Record {
    fn is_over(&self, now: i64, window: i64) -> bool {
        self.under_way == 0 && self.failed.back().is_none_or(|m| now - m >= window)
    }
}

impl<K: Hash + Eq + Clone> Table<K> {
    fn new(limit: usize, window: i64) -> Self {
        Self {
            limit,
            window,
            records: HashMap::new(),
            swept: i64::MIN,
        }
    }

    fn room(&mut self, key: &K, now: i64) -> Room {
        let window = self.window;
        let Some(record) = self.records.get_mut(key) else {
            return Room::Free;
        };
        for moment in &mut record.failed {
            // The clock was put back: counted from now, lest they count for as long as it was put back.
            *moment = (*moment).min(now);
        }
        record.failed.retain(|m| now - m < window);
        match record.failed.len().checked_sub(self.limit).and_then(|n| record.failed.get(n)) {
            Some(first) => Room::Full {
                wait_ms: first + window - now,
            },
            None if record.failed.len() + record.under_way >= self.limit => Room::Undecided,
            None => Room::Free,
        }
    }

    fn begin(&mut self, key: K, now: i64) {
        self.make_room(&key, now);
        self.records.entry(key).or_default().under_way += 1;
    }

    fn end(&mut self, key: &K, failed: Option<i64>) {
        let Some(record) = self.records.get_mut(key) else { return };
        record.under_way = record.under_way.saturating_sub(1);
        if let Some(moment) = failed {
            let place = record.failed.partition_point(|m| *m <= moment);
            record.failed.insert(place, moment);
        }
        if record.under_way == 0 && record.failed.is_empty() {
            self.records.remove(key);
        }
    }

    fn make_room(&mut self, key: &K, now: i64) {
        let window = self.window;
        if self.records.len() >= MOST || now.saturating_sub(self.swept) >= window {
            self.swept = now;
            self.records.retain(|_, record| !record.is_over(now, window));
        }
        if self.records.len() >= MOST && !self.records.contains_key(key) {
            let settled = self.records.iter().filter(|(_, record)| record.under_way == 0);
            let oldest = settled
                .min_by_key(|(_, record)| record.failed.back().copied())
                .map(|(k, _)| k.clone());
            if let Some(oldest) = oldest {
                self.records.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::clock::Clock;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: i64) -> Timestamp {
        Timestamp(1_770_000_000_000 + seconds * 1000)
    }
    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    /// What an attempt at this second comes to, where nothing is under way.
    fn try_at(throttle: &Arc<Throttle>, account: Option<&str>, address: Option<IpAddr>, second: i64) -> Result<Attempt, Refusal> {
        throttle.begin(account, address, at(second)).expect("nothing is under way")
    }
    fn fail(throttle: &Arc<Throttle>, account: Option<&str>, address: Option<IpAddr>, second: i64) {
        drop(try_at(throttle, account, address, second).unwrap());
    }
    /// Seconds to wait.
    fn refused(throttle: &Arc<Throttle>, account: Option<&str>, address: Option<IpAddr>, second: i64) -> u64 {
        match try_at(throttle, account, address, second) {
            Err(Refusal::TooMany(wait)) => wait.as_secs(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn five_failures_a_minute_an_account() {
        let throttle = Throttle::new(5, 20, MINUTE);
        for second in 0..5 {
            fail(&throttle, Some("ada"), ip("192.0.2.1"), second);
        }
        assert_eq!(refused(&throttle, Some("ada"), ip("192.0.2.2"), 5), 55, "from wherever it comes");
        assert_eq!(
            refused(&throttle, Some("ada"), None, 59),
            1,
            "being refused does not put off the end"
        );
        fail(&throttle, Some("ada"), None, 60);
        assert_eq!(refused(&throttle, Some("ada"), None, 60), 1);
        fail(&throttle, Some("bob"), ip("192.0.2.1"), 5);
    }

    #[test]
    fn twenty_failures_a_minute_an_address() {
        let throttle = Throttle::new(5, 20, MINUTE);
        for n in 0..20 {
            fail(&throttle, Some(&format!("user{n}")), ip(&format!("2001:db8::{n}")), 0);
        }
        assert_eq!(refused(&throttle, Some("eve"), ip("2001:db8::ffff"), 30), 30);
        fail(&throttle, Some("eve"), ip("2001:db8:0:1::1"), 30);
        // What was refused at the door was not counted against the account.
        for _ in 0..4 {
            fail(&throttle, Some("eve"), None, 30);
        }
        refused(&throttle, Some("eve"), None, 30);
    }

    #[test]
    fn an_ipv4_address_is_one_however_it_is_written() {
        let throttle = Throttle::new(5, 1, MINUTE);
        fail(&throttle, None, ip("192.0.2.1"), 0);
        refused(&throttle, None, ip("::ffff:192.0.2.1"), 0);
    }

    #[test]
    fn what_succeeds_does_not_count() {
        let throttle = Throttle::new(5, 20, MINUTE);
        for _ in 0..100 {
            try_at(&throttle, Some("ada"), ip("192.0.2.1"), 0).unwrap().forgive();
        }
        assert!(throttle.tables().accounts.records.is_empty());
    }

    #[derive(Debug)]
    struct Still;
    impl Clock for Still {
        fn now(&self) -> Timestamp {
            at(0)
        }
    }

    /// Attempts that are made at once: each ends as `right` says.
    async fn at_once(throttle: &Arc<Throttle>, many: usize, right: bool) -> usize {
        let clock: SharedClock = Arc::new(Still);
        let tasks: Vec<_> = (0..many)
            .map(|_| {
                let (throttle, clock) = (Arc::clone(throttle), Arc::clone(&clock));
                tokio::spawn(async move {
                    let Ok(attempt) = throttle.attempt(Some("ada"), None, &clock).await else {
                        return 0;
                    };
                    tokio::task::yield_now().await;
                    if right {
                        attempt.forgive();
                    }
                    1
                })
            })
            .collect();
        let mut made = 0;
        for task in tasks {
            made += task.await.unwrap();
        }
        made
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn attempts_made_at_once_count_like_attempts_made_in_turn() {
        assert_eq!(at_once(&Throttle::new(5, 20, MINUTE), 100, false).await, 5);
        assert_eq!(
            at_once(&Throttle::new(5, 20, MINUTE), 100, true).await,
            100,
            "who is right only waits"
        );
    }

    #[tokio::test]
    async fn the_crowd_that_waits_is_bounded() {
        let throttle = Throttle::new(1, 1, MINUTE);
        let clock: SharedClock = Arc::new(Still);
        let under_way = throttle.attempt(Some("ada"), None, &clock).await.unwrap();
        let waiting: Vec<_> = (0..WAITING)
            .map(|_| {
                let (throttle, clock) = (Arc::clone(&throttle), Arc::clone(&clock));
                tokio::spawn(async move { throttle.attempt(Some("ada"), None, &clock).await.map(Attempt::forgive) })
            })
            .collect();
        let all_wait = async {
            while throttle.waiting.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), all_wait)
            .await
            .expect("they all wait");
        assert_eq!(throttle.attempt(Some("ada"), None, &clock).await.unwrap_err(), Refusal::Crowded);
        throttle.attempt(Some("bob"), None, &clock).await.unwrap();
        under_way.forgive();
        for one in waiting {
            one.await.unwrap().unwrap();
        }
    }

    #[test]
    fn a_clock_put_back_locks_nobody_out() {
        let throttle = Throttle::new(5, 20, MINUTE);
        for _ in 0..5 {
            fail(&throttle, Some("ada"), None, 3600);
        }
        assert_eq!(refused(&throttle, Some("ada"), None, 0), 60);
        fail(&throttle, Some("ada"), None, 60);
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::new(5, 20, MINUTE);
        for n in 0..(MOST + 100) {
            fail(&throttle, Some(&n.to_string()), None, 0);
        }
        assert_eq!(throttle.tables().accounts.records.len(), MOST);
        fail(&throttle, Some("later"), None, 61);
        assert_eq!(throttle.tables().accounts.records.len(), 1);
    }
}
