//! Jobs: how many there are, what waits and runs, and how attempts ended.

use super::text::{Kind, Text};
use crate::service::jobs::Jobs;
use nm_types::job::{JobState, TaskOutcome};

pub(super) fn write(text: &mut Text, jobs: &Jobs) {
    let (states, queued, running) = jobs.census();
    text.family("neuralmesh_jobs", Kind::Gauge, "Jobs known, by state");
    for state in JobState::ALL {
        text.sample(&[("state", state.as_str())], states.get(&state).copied().unwrap_or(0));
    }
    text.family("neuralmesh_job_tasks", Kind::Gauge, "Tasks of jobs that have not ended, by state");
    text.sample(&[("state", "queued")], queued);
    text.sample(&[("state", "running")], running);
    text.family(
        "neuralmesh_job_attempts",
        Kind::Counter,
        "Attempts at tasks that ended since this process began, by outcome",
    );
    for outcome in TaskOutcome::ALL {
        text.sample(&[("outcome", outcome.as_str())], jobs.ended().of(outcome));
    }
}
