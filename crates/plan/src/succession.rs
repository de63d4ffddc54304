//! When one authority takes another's place, and when the one before may go.

use nm_types::Timestamp;

/// How far a succession is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nodes are told of the next authority, which takes over at `switch_by` at the latest.
    Introducing { switch_by: Timestamp },
    /// The new one has taken over; nodes renew.
    Renewing,
}

/// What is known of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// It has said that it trusts the new authority.
    pub trusts_new: bool,
    /// When its last certificate of the old authority ends; `None` once it holds one of the new.
    pub on_old_until: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Wait; look again at that moment, where time alone decides.
    Wait { until: Option<Timestamp> },
    /// The new authority takes over.
    Switch,
    /// The old one counts no more.
    Retire,
}

/// The new authority takes over once all nodes trust it, or when the time is up: those away find it by its cross certificate.
/// The old one goes when no certificate of it holds any more and no join token names it; `tokens_until` is the last one's end.
pub fn decide(now: Timestamp, stage: Stage, nodes: &[Node], tokens_until: Option<Timestamp>) -> Decision {
    match stage {
        Stage::Introducing { switch_by } if now >= switch_by || nodes.iter().all(|n| n.trusts_new) => Decision::Switch,
        Stage::Introducing { switch_by } => Decision::Wait { until: Some(switch_by) },
        Stage::Renewing => {
            let held = nodes.iter().filter_map(|n| n.on_old_until);
            match held.chain(tokens_until).filter(|end| *end >= now).max() {
                None => Decision::Retire,
                until => Decision::Wait { until },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);
    const fn at(ms: i64) -> Option<Timestamp> {
        Some(Timestamp(ms))
    }
    const fn node(trusts_new: bool, on_old_until: Option<Timestamp>) -> Node {
        Node { trusts_new, on_old_until }
    }

    #[test]
    fn the_new_one_takes_over_once_all_trust_it_or_the_time_is_up() {
        let (knows, does_not) = (node(true, at(9_000)), node(false, at(9_000)));
        for (switch_by, nodes, wanted) in [
            (2_000, &[][..], Decision::Switch),
            (2_000, &[knows, knows][..], Decision::Switch),
            (2_000, &[knows, does_not], Decision::Wait { until: at(2_000) }),
            (1_000, &[knows, does_not], Decision::Switch),
            (1, &[does_not], Decision::Switch),
        ] {
            let stage = Stage::Introducing {
                switch_by: Timestamp(switch_by),
            };
            assert_eq!(decide(NOW, stage, nodes, at(5_000)), wanted, "{switch_by} {nodes:?}");
        }
    }

    #[test]
    fn the_old_one_goes_when_nothing_of_it_is_left() {
        let (new, old, over) = (node(true, None), node(true, at(3_000)), node(false, at(999)));
        for (nodes, tokens, wanted) in [
            (&[][..], None, Decision::Retire),
            (&[new, new][..], None, Decision::Retire),
            (&[new, over], None, Decision::Retire),
            (&[new, over], at(999), Decision::Retire),
            (&[new, old], None, Decision::Wait { until: at(3_000) }),
            (&[new], at(2_000), Decision::Wait { until: at(2_000) }),
            (&[old], at(2_000), Decision::Wait { until: at(3_000) }),
        ] {
            assert_eq!(decide(NOW, Stage::Renewing, nodes, tokens), wanted, "{nodes:?} {tokens:?}");
        }
    }
}
