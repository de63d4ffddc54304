//! Each check is made to fail and to pass again, at and beside its limits.

use super::*;
use nm_types::Timestamp;
use nm_types::host::{MemoryStats, NetworkStats, PressureStats};

const GB: u64 = 1 << 30;

fn disk(mount: &str, used: u64) -> DiskStats {
    DiskStats {
        mount: mount.into(),
        device: "/dev/sda1".into(),
        kind: "ext4".into(),
        total: 100 * GB,
        used: used * GB,
        available: (100 - used) * GB,
        inodes: 100,
        inodes_used: 10,
        read_only: false,
    }
}

fn well() -> NodeStats {
    NodeStats {
        cpu: 10.0,
        load: [0.1; 3],
        memory: MemoryStats {
            total: 100 * GB,
            available: 50 * GB,
            swap_total: 10 * GB,
            swap_used: 0,
        },
        disks: vec![disk("/", 40)],
        network: NetworkStats {
            packets: 1000,
            ..Default::default()
        },
        pressure: Some(PressureStats::default()),
        temperature: None,
        uptime: 100,
        timestamp: Timestamp(0),
    }
}

fn check(memory: &mut Memory, stats: &NodeStats, round_trip: f64) -> Vec<Finding> {
    let seen = NodeSeen {
        stats: Ok(stats),
        round_trip,
        services: Vec::new(),
    };
    node(&Thresholds::default(), memory, seen)
}

fn failed(findings: &[Finding]) -> Vec<Check> {
    verdict(findings, true).checks.failed()
}

/// Changes what is seen step by step; each row says the value, and whether the check passes then.
fn steps(which: Check, rows: &[(f64, bool)], set: impl Fn(&mut NodeStats, &mut f64, f64)) {
    let mut memory = Memory::default();
    for (n, (value, passes)) in rows.iter().enumerate() {
        let (mut stats, mut trip) = (well(), 5.0);
        set(&mut stats, &mut trip, *value);
        let findings = check(&mut memory, &stats, trip);
        let want = if *passes { vec![] } else { vec![which] };
        assert_eq!(failed(&findings), want, "{which:?}, step {n}: {value}: {findings:?}");
        for finding in findings.iter().filter(|f| !f.ok) {
            let detail = finding.detail();
            assert!(
                !detail.measured.is_empty() && !detail.limit.is_empty() && !detail.message.is_empty(),
                "{detail:?}"
            );
        }
    }
}

#[test]
fn a_busy_cpu_fails_after_three_checks_in_a_row() {
    let rows = [
        (95.0, true),
        (100.0, true),
        (94.9, true), // not in a row
        (95.0, true),
        (95.0, true),
        (95.0, false),
        (90.0, false), // still over the limit for recovering
        (85.0, false),
        (84.9, true),
        (99.0, true),
    ];
    steps(Check::Cpu, &rows, |s, _, v| s.cpu = v);
}

#[test]
fn memory() {
    let rows = [
        (6.0, true),
        (5.0, true),
        (4.9, false),
        (8.0, false),
        (10.0, false),
        (10.5, true),
        (6.0, true),
    ];
    steps(Check::Memory, &rows, |s, _, v| s.memory.available = (v * GB as f64) as u64);
    let rows = [(9.9, true), (10.0, false), (6.0, false), (4.9, true)];
    steps(Check::Memory, &rows, |s, _, v| {
        s.pressure.as_mut().unwrap().memory_full = v;
    });
}

#[test]
fn full_swap_fails_only_while_memory_is_short() {
    let full = |s: &mut NodeStats| s.memory.swap_used = 9 * GB;
    let rows = [(0.0, true), (5.0, false), (4.9, true)];
    steps(Check::Memory, &rows, |s, _, some| {
        full(s);
        s.pressure.as_mut().unwrap().memory_some = some;
    });
    // A kernel that does not tell of pressure: by what is available.
    let rows = [(50.0, true), (9.0, false), (11.0, true)];
    steps(Check::Memory, &rows, |s, _, available| {
        full(s);
        s.pressure = None;
        s.memory.available = available as u64 * GB;
    });
}

#[test]
fn disks_and_inodes() {
    let rows = [
        (89.0, true),
        (90.0, false),
        (88.0, false),
        (87.0, false),
        (86.0, true),
        (89.0, true),
    ];
    steps(Check::Disk, &rows, |s, _, v| s.disks.push(disk("/data", v as u64)));
    steps(Check::Disk, &rows, |s, _, v| s.disks[0].inodes_used = v as u64);
    // A disk that is gone fails no more, one that can't be written never does.
    steps(Check::Disk, &[(1.0, false), (0.0, true), (2.0, true)], |s, _, v| {
        let mut full = disk("/data", 99);
        full.read_only = v == 2.0;
        if v > 0.0 {
            s.disks.push(full);
        }
    });
}

#[test]
fn what_is_said_names_value_and_limit() {
    let mut memory = Memory::default();
    let mut stats = well();
    stats.disks = vec![disk("/", 40), disk("/data", 93)];
    let detail = |findings: &[Finding]| findings.iter().find(|f| f.check == Check::Disk).unwrap().detail();
    let seen = detail(&check(&mut memory, &stats, 5.0));
    assert_eq!(
        (seen.measured.as_str(), seen.limit.as_str(), seen.ok),
        ("93 %", "under 87 %", false)
    );
    assert!(seen.message.contains("/data"), "{}", seen.message);
    stats.disks[1] = disk("/data", 50);
    let seen = detail(&check(&mut memory, &stats, 5.0));
    assert_eq!((seen.measured.as_str(), seen.limit.as_str(), seen.ok), ("50 %", "under 90 %", true));
}

#[test]
fn network() {
    let rows = [
        (999.0, true),
        (1000.0, false),
        (600.0, false),
        (500.0, false),
        (499.0, true),
        (999.0, true),
    ];
    steps(Check::Network, &rows, |_, trip, v| *trip = v);
}

#[test]
fn broken_packets_are_counted_between_two_checks() {
    let mut memory = Memory::default();
    let rows = [
        // Packets and errors since the start; the first check has nothing to compare with.
        (1_000, 900, true),
        (2_000, 905, true),
        (3_000, 915, false),
        (4_000, 921, false),
        (5_000, 925, true),
        (5_000, 925, true),
        // The machine was restarted: its counters began anew.
        (100, 50, true),
        (1_100, 60, false),
    ];
    for (packets, errors, passes) in rows {
        let mut stats = well();
        (stats.network.packets, stats.network.errors) = (packets, errors);
        let findings = check(&mut memory, &stats, 5.0);
        assert_eq!(failed(&findings).is_empty(), passes, "{packets} {errors}");
    }
}

#[test]
fn calls_that_are_lost() {
    let mut memory = Memory::default();
    for _ in 0..2 {
        let findings = unreachable(&mut memory, "no answer", true);
        assert_eq!(verdict(&findings, false).status, HealthStatus::Unhealthy);
    }
    // A share is one of ten calls.
    for call in 3..=9 {
        assert!(failed(&check(&mut memory, &well(), 5.0)).is_empty(), "call {call}");
    }
    assert_eq!(failed(&check(&mut memory, &well(), 5.0)), [Check::Network]);
    assert_eq!(
        failed(&check(&mut memory, &well(), 5.0)),
        [Check::Network],
        "one of ten: not under 10 % yet"
    );
    assert!(failed(&check(&mut memory, &well(), 5.0)).is_empty());
    // A link that is gone is no lost call.
    for _ in 0..10 {
        unreachable(&mut memory, "not connected", false);
    }
    assert!(failed(&check(&mut memory, &well(), 5.0)).is_empty());
}

#[test]
fn what_the_agent_can_not_tell_is_not_well() {
    let seen = NodeSeen {
        stats: Err("the agent is too old"),
        round_trip: 5.0,
        services: Vec::new(),
    };
    let findings = node(&Thresholds::default(), &mut Memory::default(), seen);
    assert_eq!(failed(&findings), [Check::Cpu, Check::Memory, Check::Disk]);
    assert_eq!(findings[0].detail().message, "not measured: the agent is too old");
}

#[test]
fn containers() {
    let stats = well();
    let limits = Thresholds::default();
    let seen = |usage: Option<(f64, f64)>| ContainerSeen {
        usage: usage.map(|(cpu, available)| ContainerUse {
            cpu,
            memory_available: Some(available),
        }),
        node: Some(&stats),
        data_dir: "/var/lib/docker",
        round_trip: Some(3.0),
        services: vec![Finding::service(usage.is_some(), "running", "running", "")],
    };
    let mut memory = Memory::default();
    for (usage, want) in [
        (Some((10.0, 50.0)), vec![]),
        (Some((10.0, 4.0)), vec![Check::Memory]),
        (Some((100.0, 50.0)), vec![]),
        (Some((100.0, 50.0)), vec![]),
        (Some((100.0, 50.0)), vec![Check::Cpu]),
        (None, vec![Check::Cpu, Check::Memory, Check::Services]),
        (Some((10.0, 50.0)), vec![]),
    ] {
        assert_eq!(failed(&container(&limits, &mut memory, seen(usage))), want, "{usage:?}");
    }
    // Of its node's disks the one counts that Docker's data lies on.
    let mut stats = well();
    stats.disks = vec![disk("/", 95), disk("/var/lib", 10), disk("/var/lib/dockerx", 95)];
    let findings = container(
        &limits,
        &mut Memory::default(),
        ContainerSeen {
            node: Some(&stats),
            ..seen(Some((1.0, 50.0)))
        },
    );
    assert!(failed(&findings).is_empty(), "{findings:?}");
}

#[test]
fn addresses_are_seen_from_outside() {
    let mut memory = Memory::default();
    let seen = |ok: bool| AddressSeen {
        round_trip: 7.0,
        services: vec![Finding::service(ok, "200", "200 to 399", "")],
    };
    let findings = address(&Thresholds::default(), &mut memory, seen(true));
    assert_eq!(verdict(&findings, true).status, HealthStatus::Healthy);
    let cpu = findings[0].detail();
    assert!(
        cpu.ok && cpu.measured == "not measured" && cpu.message.contains("no agent"),
        "{cpu:?}"
    );
    assert_eq!(
        failed(&address(&Thresholds::default(), &mut memory, seen(false))),
        [Check::Services]
    );
}

#[test]
fn verdicts() {
    let finding = |check, ok| Finding::unmeasured(check, ok, "");
    let all = |failed: &[Check]| -> Vec<Finding> { Check::ALL.iter().map(|c| finding(*c, !failed.contains(c))).collect() };
    use Check::{Cpu, Disk, Memory, Network, Services};
    use HealthStatus::{Healthy, Unhealthy, Unknown};
    for (failed, reachable, want) in [
        (&[][..], true, (Healthy, false)),
        (&[Cpu], true, (Unknown, true)),
        (&[Network], true, (Unknown, true)),
        (&[Cpu, Services], true, (Unknown, true)),
        (&[Cpu, Memory, Disk], true, (Unhealthy, false)),
        (&[Cpu, Memory, Disk, Network, Services], true, (Unhealthy, false)),
        (&[], false, (Unhealthy, false)),
        (&[Network], false, (Unhealthy, false)),
    ] {
        let verdict = verdict(&all(failed), reachable);
        assert_eq!((verdict.status, verdict.degraded), want, "{failed:?} {reachable}");
        assert_eq!(verdict.checks.failed(), failed);
    }
    // One of several findings of a check is enough to fail it.
    let mut findings = all(&[]);
    findings.push(finding(Services, false));
    assert_eq!(verdict(&findings, true).checks.failed(), [Services]);
}

#[test]
fn what_is_remembered_survives_being_stored() {
    let mut memory = Memory::default();
    let mut stats = well();
    stats.disks[0] = disk("/", 95);
    check(&mut memory, &stats, 5000.0);
    let stored = serde_json::to_string(&memory).unwrap();
    assert_eq!(serde_json::from_str::<Memory>(&stored).unwrap(), memory, "{stored}");
    assert_eq!(serde_json::from_str::<Memory>("{}").unwrap(), Memory::default());
}
