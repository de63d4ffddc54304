//! When a backup is due: the times of a cron line in a time zone, one of them after a pause, and how much later than its time each begins.
//!
//! A line that names hours speaks of the clock on the wall: a time stands for the first moment at which that clock shows it or more. So
//! a time that a change of the clock leaves out comes right after the gap, and one that comes twice counts the first time. A line for
//! every hour speaks of time that passes, and is looked up at each minute of it: no hour is left out, and none waits two.

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use nm_types::backup::{CronFields, CronSchedule};
use nm_types::id::BackupConfigId;
use nm_types::time::Timestamp;

/// A February 29 that is a Sunday comes after 40 years at the latest; what has not come by then never does.
const FURTHEST_DAYS: usize = 41 * 366;
const EVERY_HOUR: u32 = (1 << 24) - 1;
const MINUTE: i64 = 60_000;

/// What says when a config's backups begin.
#[derive(Debug, Clone, Copy)]
pub struct Timetable<'a> {
    pub schedule: &'a CronSchedule,
    pub zone: &'a TimeZone,
    pub config: &'a BackupConfigId,
    /// Milliseconds that a backup begins after its slot at most.
    pub jitter: i64,
}

/// A time of the schedule, and when its backup begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub at: Timestamp,
    pub starts: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The one to make now. Of several that were missed it is the newest: a backup made now holds what the others would have.
    pub due: Option<Slot>,
    /// The first that has not begun; none where the schedule has no more times.
    pub next: Option<Slot>,
}

impl Timetable<'_> {
    /// The first time of the schedule after a moment.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        next(self.schedule, self.zone, after)
    }

    /// What is due at `now`, where `last` is the last slot that was taken, or the moment from which the schedule counts.
    pub fn due(&self, last: Timestamp, now: Timestamp) -> Due {
        let Some(newest) = self.newest(last, now) else {
            return Due {
                due: None,
                next: self.next(last.max(now)).map(|at| self.slot(at)),
            };
        };
        let slot = self.slot(newest);
        if slot.starts <= now {
            return Due {
                due: Some(slot),
                next: self.next(now).map(|at| self.slot(at)),
            };
        }
        // It waits for its jitter. The one before it does not: each begins before the next one's time.
        Due {
            due: self.newest(last, newest.plus_millis(-1)).map(|at| self.slot(at)),
            next: Some(slot),
        }
    }

    /// The newest time after `last` and not after `until`.
    fn newest(&self, last: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let mut newest = self.next(last).filter(|at| *at <= until)?;
        // Halving, since a line for each minute has half a million times a year.
        let mut above = until;
        while newest < above {
            let middle = newest.plus_millis(above.since(newest) / 2);
            match self.next(middle).filter(|at| *at <= until) {
                Some(at) => newest = at,
                None => above = middle,
            }
        }
        Some(newest)
    }

    /// A time with its jitter, the same each time it is asked for, so that a restart moves nothing. It stays before the next time.
    fn slot(&self, at: Timestamp) -> Slot {
        let room = self.next(at).map_or(i64::MAX, |next| next.since(at)) - 1;
        let most = self.jitter.min(room).max(0).unsigned_abs();
        let later = mixed(self.config, at) % (most + 1);
        Slot {
            at,
            starts: at.plus_millis(i64::try_from(later).unwrap_or(0)),
        }
    }
}

/// The first time of a schedule after a moment; none where it never comes.
pub fn next(schedule: &CronSchedule, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let fields = schedule.fields();
    let after_instant = jiff::Timestamp::from_millisecond(after.as_millis()).ok()?;
    let today = zone.to_datetime(after_instant).date();
    if fields.hours == EVERY_HOUR {
        return next_of_every_hour(fields, zone, after_instant);
    }
    // A time of yesterday can come today, where the clock leaves out midnight.
    let first = today.yesterday().unwrap_or(today);
    for date in days_from(first).filter(|date| is_day(fields, *date)) {
        for (hour, minute) in times(fields) {
            let at = first_showing(zone, date.at(hour, minute, 0, 0))?;
            if at > after_instant {
                return Some(Timestamp::from_millis(at.as_millisecond()));
            }
        }
    }
    None
}

fn next_of_every_hour(fields: CronFields, zone: &TimeZone, after: jiff::Timestamp) -> Option<Timestamp> {
    let mut ms = minute_after(zone, after.as_millisecond())?;
    loop {
        let clock = zone.to_datetime(jiff::Timestamp::from_millisecond(ms).ok()?);
        if is_day(fields, clock.date()) {
            if clock.second() == 0 && fields.minutes & (1_u64 << clock.minute()) != 0 {
                return Some(Timestamp::from_millis(ms));
            }
            ms = minute_after(zone, ms)?;
        } else {
            let date = days_from(clock.date()).find(|date| is_day(fields, *date))?;
            // Where the clock goes back over midnight, the day was shown before already.
            ms = first_showing(zone, date.at(0, 0, 0, 0))?
                .as_millisecond()
                .max(minute_after(zone, ms)?);
        }
    }
}

/// The next moment at which a minute of the clock begins.
fn minute_after(zone: &TimeZone, ms: i64) -> Option<i64> {
    let clock = zone.to_datetime(jiff::Timestamp::from_millisecond(ms).ok()?);
    let gone = i64::from(clock.second()) * 1000 + i64::from(clock.millisecond());
    Some(ms + MINUTE - gone)
}

fn days_from(first: Date) -> impl Iterator<Item = Date> {
    std::iter::successors(Some(first), |date| date.tomorrow().ok()).take(FURTHEST_DAYS)
}

fn is_day(fields: CronFields, date: Date) -> bool {
    let weekday = match date.weekday() {
        Weekday::Sunday => 0,
        Weekday::Monday => 1,
        Weekday::Tuesday => 2,
        Weekday::Wednesday => 3,
        Weekday::Thursday => 4,
        Weekday::Friday => 5,
        Weekday::Saturday => 6,
    };
    let by_day = fields.days & (1_u32 << date.day()) != 0;
    let by_weekday = fields.weekdays & (1_u8 << weekday) != 0;
    let named = if fields.either_day {
        by_day || by_weekday
    } else {
        by_day && by_weekday
    };
    named && fields.months & (1_u16 << date.month()) != 0
}

/// The times of a day, in order.
fn times(fields: CronFields) -> impl Iterator<Item = (i8, i8)> {
    let minutes = move |hour: i8| {
        (0..60i8)
            .filter(move |minute| fields.minutes & (1_u64 << *minute) != 0)
            .map(move |minute| (hour, minute))
    };
    (0..24i8).filter(move |hour| fields.hours & (1_u32 << *hour) != 0).flat_map(minutes)
}

/// The first moment at which the clock shows a time or more.
fn first_showing(zone: &TimeZone, time: DateTime) -> Option<jiff::Timestamp> {
    match zone.to_ambiguous_timestamp(time).offset() {
        AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => offset.to_timestamp(time).ok(),
        AmbiguousOffset::Gap { before, after } => {
            // The gap's end lies between the two readings; the clock changes at whole seconds.
            let mut below = after.to_timestamp(time).ok()?.as_second();
            let mut above = before.to_timestamp(time).ok()?.as_second();
            while below + 1 < above {
                let middle = below + (above - below) / 2;
                if zone.to_datetime(jiff::Timestamp::from_second(middle).ok()?) < time {
                    below = middle;
                } else {
                    above = middle;
                }
            }
            jiff::Timestamp::from_second(above).ok()
        }
    }
}

/// 64 bits that look like chance: FNV-1a over the id and the time, then SplitMix64's last steps, since FNV leaves its high bits alike.
fn mixed(config: &BackupConfigId, at: Timestamp) -> u64 {
    let bytes = config.as_str().bytes().chain(at.as_millis().to_le_bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests;
