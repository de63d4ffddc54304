//! Clusters as people read them.

use crate::output::human;
use nm_types::Timestamp;
use nm_types::cluster::{
    AcmeStatus, ClusterFigures, ClusterMemberState, ClusterMemberView, ClusterMetricsView, ClusterTlsView, ClusterView,
    DatabaseCredentials, DatabaseLogin, DatabaseRole, DatabaseState, DatabaseView,
};

/// `2/3`: how many servers are up.
pub fn up(c: &ClusterView) -> String {
    let up = c.members.iter().filter(|m| m.state == ClusterMemberState::Up).count();
    format!("{up}/{}", c.members.len())
}

pub fn percent(share: f64) -> String {
    format!("{share}%")
}

pub fn millis(ms: f64) -> String {
    format!("{ms:.1}ms")
}

fn figures(f: &ClusterFigures) -> String {
    format!(
        "{} requests, {} errors, average {}, p50 {}, p95 {}, p99 {}, {}",
        f.total_requests,
        percent(f.error_rate),
        millis(f.average_response_time),
        millis(f.p50),
        millis(f.p95),
        millis(f.p99),
        human::size(f.total_bandwidth)
    )
}

fn member(c: &ClusterView, m: &ClusterMemberView) -> String {
    let mark = if c.active_member.as_deref() == Some(m.id.as_str()) {
        "*"
    } else {
        " "
    };
    let made = if m.scaled { ", made by scaling" } else { "" };
    let weight = if m.weight == 1 {
        String::new()
    } else {
        format!(", weight {}", m.weight)
    };
    let address = m.address.as_ref().map(|a| format!(" at {a}")).unwrap_or_default();
    format!("{mark} {:<11} {}{address}{weight}{made}: {}", m.state.as_str(), m.name, m.reason)
}

fn certificate(tls: &ClusterTlsView) -> String {
    let end = tls.expires.map(|end| format!("ends at {end}")).unwrap_or_default();
    let whose = if tls.self_signed { "signed by itself, " } else { "" };
    let Some(acme) = &tls.acme else { return format!("{whose}{end}") };
    let next = acme.next_attempt.map(|at| match acme.status {
        AcmeStatus::Valid => format!(", renewed at {at}"),
        AcmeStatus::Pending | AcmeStatus::Failing => format!(", tried again at {at}"),
    });
    format!("{}, {whose}{end}{}", acme.status.as_str(), next.unwrap_or_default())
}

/// Who takes the writes, and how each member of a database is.
fn database(d: &DatabaseView) -> String {
    let state = match d.state {
        DatabaseState::Creating => "is being made",
        DatabaseState::Ready => "takes writes",
        DatabaseState::Failing => "takes no writes now",
    };
    let head = format!(
        "`{}`, PostgreSQL {}, {state}; writes on port {}, reads on port {}",
        d.name, d.version, d.read_write_port, d.read_only_port
    );
    let members = d.members.iter().map(|m| {
        let role = m.role.map_or("member", |role| match role {
            DatabaseRole::Primary => "primary",
            DatabaseRole::SyncStandby => "sync standby",
            DatabaseRole::Replica => "replica",
        });
        let lag = m.lag_bytes.filter(|b| *b > 0).and_then(|b| u64::try_from(b).ok());
        let lag = lag.map_or_else(String::new, |b| format!(", {} behind", human::size(b)));
        let why = m.message.as_ref().map_or_else(String::new, |w| format!(": {w}"));
        format!("{} {role}, {}{lag}{why}", m.name, m.state)
    });
    let strings = d
        .connection_strings
        .iter()
        .flat_map(|s| [s.read_write.clone(), s.read_only.clone(), s.direct.clone()]);
    std::iter::once(head).chain(members).chain(strings).collect::<Vec<_>>().join("\n")
}

pub fn credentials(c: &DatabaseCredentials) -> Vec<(&'static str, String)> {
    let login = |l: &DatabaseLogin| format!("{}  {}", l.user, l.password);
    vec![
        ("Database", c.database.clone()),
        ("Application", login(&c.application)),
        ("Admin", login(&c.admin)),
        ("Writes", c.read_write.clone()),
        ("Reads", c.read_only.clone()),
        ("Direct", c.direct.clone()),
        ("Authority", c.certificate_authority.trim_end().to_owned()),
    ]
}

pub fn card(c: &ClusterView, now: Timestamp) -> Vec<(&'static str, String)> {
    let lines = |all: Vec<String>| all.join("\n");
    let members = c.members.iter().map(|m| member(c, m)).collect();
    let entries = c.entry_nodes.iter().map(|e| {
        let address = e.address.as_deref().unwrap_or("of an unknown address");
        let state = match (e.connected, e.current) {
            (false, _) => "not connected",
            (true, false) => "behind",
            (true, true) => "current",
        };
        let holds = if e.holds_virtual_address == Some(true) {
            ", has the virtual address"
        } else {
            ""
        };
        format!("{} {address}: {state}{holds}", e.name)
    });
    let entries: Vec<String> = entries.collect();
    let scaling = c.auto_scaling.as_ref().filter(|s| s.enabled).map(|s| {
        let aims = [
            s.target_cpu_percent.map(|t| format!("cpu {}%", t.get())),
            s.target_memory_percent.map(|t| format!("memory {}%", t.get())),
            s.target_requests_per_second.map(|t| format!("{} requests/s", t.get())),
        ];
        let aims: Vec<String> = aims.into_iter().flatten().collect();
        format!(
            "{} to {} servers, for {}",
            s.min_servers.get(),
            s.max_servers.get(),
            aims.join(", ")
        )
    });
    let check = &c.health_check;
    let how = check.path.as_ref().map_or_else(|| "tcp".to_owned(), |p| format!("http {p}"));
    let every = check.interval.map_or(0, |i| i.get());
    let rise_fall = [check.rise, check.fall].map(|n| n.map_or(0, |n| n.get()));
    vec![
        ("Name", c.name.to_string()),
        ("Id", c.id.to_string()),
        ("Type", c.kind.as_str().to_owned()),
        ("Status", c.status.as_str().to_owned()),
        ("Endpoint", lines(c.endpoints.clone())),
        ("Entry", lines(entries)),
        ("Members", lines(members)),
        ("Database", c.database.as_ref().map(database).unwrap_or_default()),
        (
            "Checks",
            format!("{how} every {every}s, up after {}, down after {}", rise_fall[0], rise_fall[1]),
        ),
        ("Certificate", c.tls.as_ref().map(certificate).unwrap_or_default()),
        ("Scaling", scaling.unwrap_or_default()),
        ("Measured", figures(&c.metrics)),
        ("Matters", lines(c.conditions.iter().map(|k| k.message.clone()).collect())),
        ("Made", human::ago(c.created, now)),
    ]
}

pub fn metrics(m: &ClusterMetricsView) -> Vec<(&'static str, String)> {
    let members = m.members.iter().map(|s| format!("{}: {}", s.id, figures(&s.figures)));
    let history = m.history.iter().map(|p| {
        format!(
            "{} to {}: {:.1}/s, {} errors, p99 {}",
            p.from,
            p.to,
            p.requests_per_second,
            percent(p.figures.error_rate),
            millis(p.figures.p99)
        )
    });
    vec![
        ("Total", figures(&m.figures)),
        ("Now", format!("{:.1} requests/s", m.requests_per_second)),
        ("Members", members.collect::<Vec<_>>().join("\n")),
        ("History", history.collect::<Vec<_>>().join("\n")),
    ]
}
