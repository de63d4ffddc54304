//! Exactly one run a slot: a slot is claimed in the transaction that writes its work, which also moves what the config has
//! taken. Whoever comes second, also another process after a crash, finds it taken.

use super::rows::{Config, ConfigState};
use crate::api::error::{ApiError, ApiResult};
use jiff::tz::TimeZone;
use nm_plan::schedule::{Due, Slot, Timetable};
use nm_types::Timestamp;
use nm_types::backup::{BackupConfigStatus, CronSchedule};

/// What a config does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    Backup,
    /// Part of the data is read.
    Check,
    TestRestore,
}

impl Work {
    pub const ALL: [Self; 3] = [Self::Backup, Self::Check, Self::TestRestore];

    fn schedule(self, config: &Config) -> Option<&CronSchedule> {
        let spec = &config.stored.spec;
        match self {
            Self::Backup => spec.schedule.as_ref(),
            // There is nothing to check before the first backup.
            Self::Check => config.state.repository.as_ref().map(|_| &spec.check.schedule),
            Self::TestRestore => spec.check.test_restore.as_ref().filter(|_| config.state.last_backup.is_some()),
        }
    }

    pub fn taken(self, state: &mut ConfigState) -> &mut Timestamp {
        match self {
            Self::Backup => &mut state.taken,
            Self::Check => &mut state.check_taken,
            Self::TestRestore => &mut state.test_taken,
        }
    }
}

/// The zone of a config's schedules.
pub fn zone(config: &Config) -> ApiResult<TimeZone> {
    let Some(name) = &config.stored.spec.time_zone else {
        return Ok(TimeZone::UTC);
    };
    TimeZone::get(name.as_str()).map_err(|_| ApiError::invalid("timeZone", format!("`{name}` is no time zone that is known here")))
}

/// What of a config is due, and what comes next; neither where it is paused or has no schedule.
pub fn due(config: &Config, work: Work, now: Timestamp) -> ApiResult<Due> {
    let spec = &config.stored.spec;
    let (Some(schedule), false) = (work.schedule(config), spec.status == BackupConfigStatus::Paused) else {
        return Ok(Due { due: None, next: None });
    };
    let zone = zone(config)?;
    let table = Timetable {
        schedule,
        zone: &zone,
        config: &config.id,
        jitter: spec.jitter.map_or(0, |j| j.get() * 1000),
    };
    let mut state = config.state.clone();
    Ok(table.due(*work.taken(&mut state), now))
}

/// Takes a slot. False: it is taken already.
pub fn claim(state: &mut ConfigState, work: Work, slot: Slot) -> bool {
    let taken = work.taken(state);
    let free = *taken < slot.at;
    if free {
        *taken = slot.at;
    }
    free
}
