//! Backups and their configs as they are shown.

use crate::output::{human, table::clean};
use nm_types::Timestamp;
use nm_types::backup::job::{TreeEntry, TreeEntryKind};
use nm_types::backup::{BackupConfigStatus, BackupConfigView, BackupView, OwnBackupView, RetentionDecision};
use serde_json::Value;

pub fn status(backup: &BackupView) -> String {
    match &backup.progress {
        Some(progress) => match progress.total_bytes {
            Some(total) if total > 0 => format!("{} {}%", backup.status.as_str(), progress.bytes * 100 / total),
            Some(_) | None => format!("{} {}", backup.status.as_str(), human::size(progress.bytes)),
        },
        None => backup.status.as_str().to_owned(),
    }
}

pub fn config_status(config: &BackupConfigView) -> String {
    match config.status {
        BackupConfigStatus::Active => "active",
        BackupConfigStatus::Paused => "paused",
        BackupConfigStatus::Error => "error",
    }
    .to_owned()
}

fn moment(at: Option<Timestamp>) -> String {
    at.map(|at| at.to_string()).unwrap_or_default()
}

pub fn backup(view: &BackupView, now: Timestamp) -> Vec<(&'static str, String)> {
    let size = |bytes: Option<u64>| bytes.map(human::size).unwrap_or_default();
    let mut rows = vec![
        ("Id", view.id.to_string()),
        ("Config", format!("{} ({})", view.name, view.config_id)),
        ("Server", view.server_id.clone()),
        ("Status", status(view)),
        ("Type", view.kind.as_str().to_owned()),
        ("Began", format!("{} ({})", view.timestamp, human::ago(view.timestamp, now))),
        ("Took", view.duration.map(|s| human::span((s * 1000.0) as i64)).unwrap_or_default()),
        ("Files", view.files.map(|n| n.to_string()).unwrap_or_default()),
        ("Size", size(view.size)),
        ("New", size(view.new_bytes)),
        ("Location", view.location.clone()),
        ("Snapshot", view.snapshot.clone().unwrap_or_default()),
        ("Pinned", if view.pinned { "yes" } else { "no" }.to_owned()),
        ("Recoverable from", moment(view.recoverable_from)),
    ];
    if let Some(proof) = &view.verification {
        rows.push(("Checked", moment(proof.checked)));
        rows.push(("Test restore", moment(proof.restored)));
        rows.extend(proof.finding.clone().map(|finding| ("Finding", finding)));
    }
    rows.extend(view.message.clone().map(|message| ("Message", message)));
    rows.extend(view.problems.iter().map(|p| ("Missing", format!("{}: {}", p.path, p.error))));
    rows.retain(|(_, text)| !text.is_empty());
    rows
}

pub fn config(view: &BackupConfigView, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("Id", view.id.to_string()),
        ("Name", view.name.to_string()),
        ("Server", view.server_id.clone()),
        ("Status", config_status(view)),
        ("Message", view.message.clone().unwrap_or_default()),
        ("Schedule", view.schedule.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("Time zone", view.time_zone.to_string()),
        (
            "Next",
            view.next_backup
                .map(|at| format!("{at} ({})", human::until(at, now)))
                .unwrap_or_default(),
        ),
        (
            "Last",
            view.last_backup
                .map(|at| format!("{at} ({})", human::ago(at, now)))
                .unwrap_or_default(),
        ),
        ("Type", view.kind.as_str().to_owned()),
        ("Retention", format!("{} days", view.retention.get())),
        ("Destination", view.destination.as_str().to_owned()),
        ("Encryption", yes(view.encryption)),
        ("Compression", yes(view.compression)),
    ];
    if let Some(copy) = &view.copy {
        rows.push(("Copy", copy.destination.as_str().to_owned()));
    }
    if let Some(repository) = &view.repository {
        rows.push(("Repository", repository.location.clone()));
        rows.push(("Size", repository.size.map(human::size).unwrap_or_default()));
        rows.push(("Checked", moment(repository.last_check)));
        rows.push(("Data read", moment(repository.last_read)));
        rows.push(("Test restore", moment(repository.last_test_restore)));
        rows.extend(repository.findings.iter().map(|finding| ("Finding", finding.clone())));
    }
    if let Some(recovery) = &view.recovery {
        rows.push(("Log", recovery.repository.clone().unwrap_or_default()));
        rows.push((
            "Shipped",
            format!("up to {}, every {} s", moment(recovery.shipped), recovery.wal_interval),
        ));
        let windows = recovery.windows.iter();
        rows.extend(windows.map(|window| ("Recoverable", format!("{} to {}", window.from, window.to))));
        rows.push(("Log message", recovery.message.clone().unwrap_or_default()));
    }
    rows.retain(|(_, text)| !text.is_empty());
    rows
}

pub fn own(view: &OwnBackupView, now: Timestamp) -> Vec<(&'static str, String)> {
    if !view.configured {
        return vec![("Backup", "none: start the control plane with --backup-to".to_owned())];
    }
    let text = |given: Option<String>| given.unwrap_or_default();
    let mut rows = vec![
        ("Repository", text(view.location.clone())),
        ("Schedule", text(view.schedule.as_ref().map(|s| format!("{s} (UTC)")))),
        ("Retention", text(view.retention.map(|days| format!("{days} days")))),
        ("Last", text(view.last_backup.map(|at| format!("{at} ({})", human::ago(at, now))))),
        ("Next", text(view.next_backup.map(|at| format!("{at} ({})", human::until(at, now))))),
        ("Kept", text(view.kept.map(|n| n.to_string()))),
        ("Size", text(view.size.map(human::size))),
        ("Snapshot", text(view.snapshot.clone())),
        ("Running", if view.running { "yes".to_owned() } else { String::new() }),
        ("Message", text(view.message.clone())),
    ];
    rows.retain(|(_, text)| !text.is_empty());
    rows
}

fn yes(on: bool) -> String {
    if on { "yes" } else { "no" }.to_owned()
}

pub fn entry(entry: &TreeEntry) -> String {
    let kind = match entry.kind {
        TreeEntryKind::File => '-',
        TreeEntryKind::Folder => 'd',
        TreeEntryKind::Symlink => 'l',
        TreeEntryKind::Other => '?',
    };
    let owner = |id: Option<u32>| id.map(|id| id.to_string()).unwrap_or_default();
    let target = entry.target.as_ref().map(|t| format!(" -> {t}")).unwrap_or_default();
    format!(
        "{kind}{} {:>5} {:>5} {:>10} {} {}{target}",
        entry.mode.as_deref().unwrap_or("    "),
        owner(entry.uid),
        owner(entry.gid),
        entry.size.map(human::size).unwrap_or_default(),
        moment(entry.modified),
        entry.name
    )
}

pub fn reasons(decision: &RetentionDecision) -> String {
    let words = decision.reasons.iter().filter_map(|r| serde_json::to_value(r).ok());
    let words: Vec<String> = words.filter_map(|v| v.as_str().map(str::to_owned)).collect();
    words.join(", ")
}

/// What a restore did, or would do.
pub fn restored(result: &Value) -> Vec<String> {
    let count = |field: &str| result[field].as_u64().unwrap_or(0);
    let dry = result["dryRun"].as_bool() == Some(true);
    let mut lines = Vec::new();
    for change in result["changes"].as_array().into_iter().flatten() {
        let text = |field: &str| change[field].as_str().unwrap_or_default().to_owned();
        lines.push(clean(&format!("{:<6} {}", text("change"), text("path"))));
    }
    let word = if dry { "would be " } else { "" };
    let files = count("files");
    lines.push(format!(
        "{files} {}, {}: {} {word}made, {} {word}changed, {} the same, {} {word}removed{}",
        if files == 1 { "file" } else { "files" },
        human::size(count("bytes")),
        count("created"),
        count("changed"),
        count("unchanged"),
        count("removed"),
        if result["verified"].as_bool() == Some(true) {
            "; read back and the same"
        } else {
            ""
        }
    ));
    for problem in result["problems"].as_array().into_iter().flatten() {
        let text = |field: &str| problem[field].as_str().unwrap_or_default().to_owned();
        lines.push(clean(&format!("not as it should be: {}: {}", text("path"), text("error"))));
    }
    if let Some(container) = result["containerId"].as_str() {
        lines.push(format!("container {container} was made"));
    }
    for dump in result["dumps"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        lines.push(format!("{dump} {}", if dry { "would be read in" } else { "was read in" }));
    }
    lines
}
