//! Which nodes carry a cluster's entry, where nobody says.

use nm_types::NodeId;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryCandidate {
    pub node: NodeId,
    /// It is there and takes new work.
    pub ready: bool,
    /// How many of the members it reaches.
    pub reaches: usize,
}

/// At most `most` nodes, best first: those that are ready, those that reach most members, and of equals the one with the lowest
/// id, so that the same question has the same answer. One that reaches none carries no entry beside another one.
pub fn choose_entries(mut candidates: Vec<EntryCandidate>, most: usize) -> Vec<NodeId> {
    candidates.sort_by(|a, b| {
        let rank = |c: &EntryCandidate| (!c.ready, std::cmp::Reverse(c.reaches));
        rank(a).cmp(&rank(b)).then_with(|| a.node.cmp(&b.node))
    });
    let worth = |(n, c): &(usize, EntryCandidate)| *n == 0 || (c.ready && c.reaches > 0);
    let chosen = candidates.into_iter().enumerate().filter(worth).take(most);
    chosen.map(|(_, c)| c.node).collect()
}
