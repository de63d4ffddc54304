//! Which backups stay and why. Nothing is removed here: the answer is a value that a preview shows and a job carries out.

use jiff::tz::TimeZone;
use jiff::{ToSpan, Zoned};
use nm_types::backup::{BackupKeep, BackupStatus, RetentionReason};
use nm_types::id::BackupId;
use nm_types::time::Timestamp;
use nm_types::units::Bounded;
use std::collections::HashSet;
use std::hash::Hash;

/// What retention has to know of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: BackupId,
    pub at: Timestamp,
    pub status: BackupStatus,
    pub pinned: bool,
}

#[derive(Debug, Clone)]
pub struct Policy<'a> {
    /// Days of the calendar that each backup is kept.
    pub retention: Bounded<1, 365>,
    pub keep: BackupKeep,
    pub append_only: bool,
    /// Where days, weeks, months and years begin.
    pub zone: &'a TimeZone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is still being made, and not judged.
    Untouched,
    /// At least one reason, in order.
    Keep(Vec<RetentionReason>),
    Remove,
}

/// A verdict on each backup of one config, newest first.
pub fn decide(policy: &Policy<'_>, backups: &[Candidate], now: Timestamp) -> Vec<(BackupId, Verdict)> {
    let mut sorted: Vec<&Candidate> = backups.iter().collect();
    sorted.sort_by(|a, b| (b.at, &b.id).cmp(&(a.at, &a.id)));
    let mut reasons: Vec<Vec<RetentionReason>> = sorted.iter().map(|backup| always(policy, backup, now)).collect();

    let places = |status: BackupStatus| {
        sorted
            .iter()
            .enumerate()
            .filter(move |(_, backup)| backup.status == status)
            .map(|(place, _)| place)
    };
    // Where none is complete, an incomplete one is all there is.
    if let Some(place) = places(BackupStatus::Completed)
        .next()
        .or_else(|| places(BackupStatus::Partial).next())
    {
        reasons[place].push(RetentionReason::LastGood);
    }

    // Complete ones first: an incomplete one stands for a day only where the day has no other.
    let restorable: Vec<(usize, Zoned)> = places(BackupStatus::Completed)
        .chain(places(BackupStatus::Partial))
        .filter_map(|place| Some((place, zoned(policy.zone, sorted[place].at)?)))
        .collect();
    let keep = &policy.keep;
    let mut mark = |reason, places: Vec<usize>| places.into_iter().for_each(|place| reasons[place].push(reason));
    let counted = |count: Option<i64>| count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    mark(
        RetentionReason::Last,
        of_periods(&restorable, counted(keep.last.map(|n| n.get())), |place, _| place),
    );
    // The offset tells apart the two hours that have one name when the clock goes back.
    mark(
        RetentionReason::Hourly,
        of_periods(&restorable, counted(keep.hourly.map(|n| n.get())), |_, at| {
            (at.date(), at.hour(), at.offset())
        }),
    );
    mark(
        RetentionReason::Daily,
        of_periods(&restorable, counted(keep.daily.map(|n| n.get())), |_, at| at.date()),
    );
    mark(
        RetentionReason::Weekly,
        of_periods(&restorable, counted(keep.weekly.map(|n| n.get())), |_, at| {
            let week = at.date().iso_week_date();
            (week.year(), week.week())
        }),
    );
    mark(
        RetentionReason::Monthly,
        of_periods(&restorable, counted(keep.monthly.map(|n| n.get())), |_, at| (at.year(), at.month())),
    );
    mark(
        RetentionReason::Yearly,
        of_periods(&restorable, counted(keep.yearly.map(|n| n.get())), |_, at| at.year()),
    );

    let judged = sorted.iter().zip(reasons).map(|(backup, mut reasons)| {
        reasons.sort_unstable();
        let verdict = if backup.status == BackupStatus::InProgress {
            Verdict::Untouched
        } else if reasons.is_empty() {
            Verdict::Remove
        } else {
            Verdict::Keep(reasons)
        };
        (backup.id.clone(), verdict)
    });
    judged.collect()
}

/// The reasons that do not depend on the other backups.
fn always(policy: &Policy<'_>, backup: &Candidate, now: Timestamp) -> Vec<RetentionReason> {
    let mut reasons = Vec::new();
    // A date that cannot be counted back from removes nothing.
    let oldest = zoned(policy.zone, now).and_then(|now| now.checked_sub(policy.retention.get().days()).ok());
    if oldest.is_none_or(|oldest| backup.at.as_millis() >= oldest.timestamp().as_millisecond()) {
        reasons.push(RetentionReason::Age);
    }
    if backup.pinned {
        reasons.push(RetentionReason::Pinned);
    }
    // Of a failed one nothing is in the repository; its row may go.
    if policy.append_only && backup.status.is_kept() {
        reasons.push(RetentionReason::AppendOnly);
    }
    reasons
}

fn zoned(zone: &TimeZone, at: Timestamp) -> Option<Zoned> {
    jiff::Timestamp::from_millisecond(at.as_millis())
        .ok()
        .map(|at| at.to_zoned(zone.clone()))
}

/// The first backup of each of the newest `count` periods that have one.
fn of_periods<K: Eq + Hash + Copy>(backups: &[(usize, Zoned)], count: usize, period: impl Fn(usize, &Zoned) -> K) -> Vec<usize> {
    let mut seen = HashSet::new();
    let mut firsts: Vec<usize> = backups
        .iter()
        .filter(|(place, at)| seen.insert(period(*place, at)))
        .map(|(place, _)| *place)
        .collect();
    // Places count from the newest backup on.
    firsts.sort_unstable();
    firsts.truncate(count);
    firsts
}

#[cfg(test)]
mod tests;
