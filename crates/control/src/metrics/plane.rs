//! The control plane's own work: requests, operations, links, the store, signing in.

use super::StoreSeen;
use super::text::{Kind, Text};
use crate::app::App;
use nm_link::server::CloseReason;
use nm_types::operation::OperationState;

pub(super) fn write(text: &mut Text, app: &App, store: &StoreSeen) {
    text.family("neuralmesh_build", Kind::Info, "The release that runs")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], true);
    requests(text, app);
    own_backup(text, app);
    operations(text, app);
    links(text, app);
    the_store(text, app, store);
    text.family(
        "neuralmesh_logins",
        Kind::Counter,
        "Attempts to sign in with a password, by how they ended",
    );
    for (result, count) in app.auth.login_counts().by_result() {
        text.sample(&[("result", result)], count);
    }
}

fn requests(text: &mut Text, app: &App) {
    text.family("neuralmesh_http_requests", Kind::Counter, "Requests answered");
    for (method, status, count) in app.metrics.requests() {
        text.sample(&[("method", method), ("status", &status.to_string())], count);
    }
    text.family(
        "neuralmesh_http_request_duration_seconds",
        Kind::Histogram,
        "Time to answer a request",
    )
    .durations(&[], &app.metrics.took.seen());
    text.family(
        "neuralmesh_streams_open",
        Kind::Gauge,
        "Streams of users that are open: logs, events, statistics, terminals",
    )
    .sample(&[], app.streams.count());
}

fn own_backup(text: &mut Text, app: &App) {
    let view = app.own_backup.view();
    text.family(
        "neuralmesh_own_backup_failing",
        Kind::Gauge,
        "Whether the control plane's last backup of itself failed",
    )
    .sample(&[], view.message.is_some());
    if let Some(at) = view.last_backup {
        text.family(
            "neuralmesh_own_backup_last_success_timestamp_seconds",
            Kind::Gauge,
            "When the control plane's last backup of itself began, in seconds since 1970",
        )
        .sample(&[], at.0 / 1000);
    }
}

fn operations(text: &mut Text, app: &App) {
    text.family("neuralmesh_operations_running", Kind::Gauge, "Operations under way")
        .sample(&[], app.operations.running());
    let ended = app.operations.tallies().all();
    text.family("neuralmesh_operations", Kind::Counter, "Operations that ended, by how");
    for (kind, of_kind) in &ended {
        let by_state = of_kind.by_state();
        // Also how none has ended: a failure is to be seen as a growth from 0.
        for state in [OperationState::Succeeded, OperationState::Failed, OperationState::Cancelled].map(OperationState::as_str) {
            let count = by_state.get(state).copied().unwrap_or_default();
            text.sample(&[("kind", kind), ("result", state)], count);
        }
    }
    text.family(
        "neuralmesh_operation_duration_seconds",
        Kind::Histogram,
        "Time from an operation's beginning to its end",
    );
    for (kind, of_kind) in &ended {
        text.durations(&[("kind", kind)], &of_kind.took.seen());
    }
}

fn links(text: &mut Text, app: &App) {
    let counts = app.fleet.links().counts();
    text.family("neuralmesh_link_connections", Kind::Counter, "Agents' connections that were let in")
        .sample(&[], counts.came());
    text.family(
        "neuralmesh_link_disconnections",
        Kind::Counter,
        "Agents' connections that ended, by why",
    );
    for reason in CloseReason::ALL {
        text.sample(&[("reason", reason.as_str())], counts.went(reason));
    }
    let calls = app.fleet.calls();
    text.family("neuralmesh_link_calls", Kind::Counter, "Calls to agents, by how they ended");
    for (result, count) in calls.by_result() {
        text.sample(&[("result", result)], count);
    }
    text.family(
        "neuralmesh_link_call_duration_seconds",
        Kind::Histogram,
        "Time until an agent's answer to a call began",
    )
    .durations(&[], &calls.took.seen());
}

fn the_store(text: &mut Text, app: &App, store: &StoreSeen) {
    text.family("neuralmesh_store_up", Kind::Gauge, "Whether the database answers")
        .sample(&[], store.totals.is_some());
    let times = app.store.write_times();
    text.family(
        "neuralmesh_store_write_wait_seconds",
        Kind::Histogram,
        "Time a write transaction waited for its turn",
    )
    .durations(&[], &times.wait.seen());
    text.family(
        "neuralmesh_store_commit_duration_seconds",
        Kind::Histogram,
        "Time until a commit was on disk",
    )
    .durations(&[], &times.commit.seen());
    text.family("neuralmesh_store_revision", Kind::Gauge, "Revision of the last committed change");
    if let Some(totals) = store.totals {
        text.sample(&[], totals.revision);
    }
    text.family(
        "neuralmesh_change_feed_revision",
        Kind::Gauge,
        "Revision of the last change that the feed of this process gave out",
    )
    .sample(&[], app.store.published());
    text.family("neuralmesh_store_size_bytes", Kind::Gauge, "Size of the database on disk");
    if let Some(size) = store.size {
        text.sample(&[], size);
    }
    text.family("neuralmesh_audit_entries", Kind::Counter, "Entries the audit log ever had");
    if let Some(totals) = store.totals {
        text.sample(&[], totals.audit_entries);
    }
}
