//! How many of a compute cluster's nodes are in use, by the length of its queue.

use nm_types::Timestamp;
use nm_types::cluster::AutoScaling;

/// When a cluster is given more nodes, and when fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePolicy {
    pub min: u32,
    pub max: u32,
    /// Tasks that wait for each node in use.
    pub target: u32,
    /// Milliseconds.
    pub up_cooldown: i64,
    pub down_cooldown: i64,
}

impl QueuePolicy {
    /// None where it is not by the queue that scaling goes.
    pub fn of(scaling: &AutoScaling) -> Option<Self> {
        let number = |n: i64| u32::try_from(n).unwrap_or(1);
        let target = scaling.target_queue_length.filter(|_| scaling.enabled)?;
        Some(Self {
            min: number(scaling.min_servers.get()),
            max: number(scaling.max_servers.get()),
            target: number(target.get()).max(1),
            up_cooldown: scaling.scale_up_cooldown.get() * 1000,
            down_cooldown: scaling.scale_down_cooldown.get() * 1000,
        })
    }
}

/// How many are in use, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InUse {
    pub count: u32,
    pub since: Timestamp,
}

/// What is right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueDecision {
    pub now: InUse,
    /// How many would be, if no time had to pass.
    pub wanted: u32,
    /// When it is to be looked at again, where something else would be right.
    pub due: Option<Timestamp>,
}

/// `nodes` is how many could be in use, `queued` how many tasks wait for one.
pub fn in_use(policy: &QueuePolicy, nodes: u32, queued: u64, before: Option<InUse>, now: Timestamp) -> QueueDecision {
    let most = policy.max.min(nodes);
    let asked = u32::try_from(queued.div_ceil(u64::from(policy.target))).unwrap_or(u32::MAX);
    let wanted = asked.clamp(policy.min.min(most), most);
    let fresh = InUse { count: wanted, since: now };
    let Some(before) = before else {
        return QueueDecision {
            now: fresh,
            wanted,
            due: None,
        };
    };
    // Bounds hold at once, whatever was in use before.
    let held = before.count.clamp(policy.min.min(most), most);
    let cooldown = if wanted > held { policy.up_cooldown } else { policy.down_cooldown };
    let due = before.since.plus_millis(cooldown);
    if wanted == held {
        let now = InUse { count: held, ..before };
        return QueueDecision { now, wanted, due: None };
    }
    if due <= now {
        return QueueDecision {
            now: fresh,
            wanted,
            due: None,
        };
    }
    QueueDecision {
        now: InUse { count: held, ..before },
        wanted,
        due: Some(due),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_follow_the_queue_within_bounds_and_times() {
        let policy = QueuePolicy {
            min: 1,
            max: 5,
            target: 10,
            up_cooldown: 60_000,
            down_cooldown: 600_000,
        };
        let held = |count, since| {
            Some(InUse {
                count,
                since: Timestamp(since),
            })
        };
        for (nodes, queued, before, now, count, wanted, due) in [
            // The first look takes what is right.
            (8, 0, None, 0, 1, 1, None),
            (8, 31, None, 0, 4, 4, None),
            (8, 1000, None, 0, 5, 5, None),
            (3, 1000, None, 0, 3, 3, None),
            (0, 1000, None, 0, 0, 0, None),
            // More after a minute, fewer after ten.
            (8, 31, held(1, 0), 59_999, 1, 4, Some(60_000)),
            (8, 31, held(1, 0), 60_000, 4, 4, None),
            (8, 0, held(4, 0), 60_000, 4, 1, Some(600_000)),
            (8, 0, held(4, 0), 600_000, 1, 1, None),
            // Nodes that are gone are out of use at once.
            (2, 1000, held(4, 0), 1, 2, 2, None),
        ] {
            let found = in_use(&policy, nodes, queued, before, Timestamp(now));
            assert_eq!(
                (found.now.count, found.wanted, found.due),
                (count, wanted, due.map(Timestamp)),
                "{nodes} {queued} {before:?}"
            );
        }
    }

    #[test]
    fn only_a_target_of_the_queue_makes_a_policy() {
        let of = |value| QueuePolicy::of(&serde_json::from_value::<AutoScaling>(value).unwrap());
        assert_eq!(of(serde_json::json!({ "targetCpuPercent": 70 })), None);
        assert_eq!(of(serde_json::json!({ "enabled": false, "targetQueueLength": 3 })), None);
        assert_eq!(of(serde_json::json!({ "targetQueueLength": 3, "maxServers": 4 })).unwrap().max, 4);
    }
}
