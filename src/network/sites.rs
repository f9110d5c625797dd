//! Where the groups of a step sit: what a collective's duration depends on besides its size.

use std::collections::BTreeMap;

use super::collective::{GroupShape, PathLatency};
use super::contention::WHOLE;
use super::placement::Placement;
use crate::hardware::{Fabric, Node};
use crate::units::BytesPerSecond;

/// The places of a cluster's ranks, and what of its shape collectives see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sites {
    /// Node and device of every rank.
    pub placement: Placement,
    /// Devices per scale-up domain: those of a node, or of several (NVL72), or a part of one.
    pub domain: u32,
    /// Links inside a domain differ, so it matters which devices a pair is.
    pub uneven_links: bool,
    /// Nodes whose cards of one rail (or, without rails, all cards) share a leaf switch; all of
    /// them where the fabric is not oversubscribed, since then it does not matter.
    pub nodes_per_leaf: u32,
    /// Cards of equal index share leaves, so only traffic between equal indices stays on one.
    pub rails: bool,
}

/// How a group lies on the cluster; groups that lie alike take equally long.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupPlace {
    /// Members by scale-up domain.
    pub shape: GroupShape,
    /// Nodes that hold members.
    pub nodes: u32,
    /// For a pair in one domain with uneven links: the two devices, smaller first.
    pub pair: Option<(u32, u32)>,
    /// Every domain's members are on the same devices of it, so that traffic between domains can
    /// stay on its rails.
    pub aligned: bool,
    /// All members hang below the same leaf switches.
    pub one_leaf: bool,
    /// Millionths of its own rate that the group gets on links it shares with other groups of its
    /// family; [`WHOLE`] where it has them to itself.
    pub share: u32,
    /// What the paths between its domains add to latency.
    pub path: PathLatency,
}

impl Sites {
    /// Ranks that fill nodes and domains one after the other on a network without
    /// oversubscription.
    #[must_use]
    pub fn block(placement: Placement, domain: u32, uneven_links: bool) -> Self {
        Self {
            placement,
            domain: domain.max(1),
            uneven_links,
            nodes_per_leaf: u32::MAX,
            rails: true,
        }
    }

    /// Number of a rank's device in the cluster; ranks beyond the placement follow in order.
    #[must_use]
    pub fn device(&self, rank: u32) -> u32 {
        match self.placement.slots.get(rank as usize) {
            Some(slot) => slot.node * self.placement.per_node + slot.local,
            None => rank,
        }
    }

    /// How a group lies.
    #[must_use]
    pub fn place(&self, group: &[u32]) -> GroupPlace {
        let mut domains: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let mut nodes: Vec<u32> = Vec::with_capacity(group.len());
        for rank in group {
            let device = self.device(*rank);
            domains.entry(device / self.domain).or_default().push(device % self.domain);
            nodes.push(device / self.placement.per_node.max(1));
        }
        nodes.sort_unstable();
        nodes.dedup();
        for members in domains.values_mut() {
            members.sort_unstable();
        }
        let pair = match (domains.len(), group) {
            (1, [_, _]) if self.uneven_links => domains.values().next().map(|m| (m[0], m[1])),
            _ => None,
        };
        let counts: Vec<u32> = domains.values().map(|m| m.len() as u32).collect();
        let mut sets = domains.values();
        let first = sets.next();
        let aligned = sets.all(|set| Some(set) == first);
        let mut leaves = nodes.iter().map(|node| node / self.nodes_per_leaf);
        let leaf = leaves.next();
        GroupPlace {
            shape: GroupShape::uneven(&counts),
            nodes: nodes.len() as u32,
            pair,
            aligned,
            one_leaf: leaves.all(|l| Some(l) == leaf) && (aligned || !self.rails),
            share: WHOLE,
            path: PathLatency::default(),
        }
    }
}

/// Card rate of one member of a group, one direction: the node's cards shared out over its devices,
/// since the sister groups of a family communicate at the same time, and what of it the group gets
/// on links between switches.
pub(super) fn card_rate(node: &Node, fabric: &Fabric, place: &GroupPlace) -> BytesPerSecond {
    let card = node.nic.bandwidth.value.min(fabric.link_bandwidth.value);
    let per_device = card * (f64::from(node.nic.count) / f64::from(node.devices));
    // A share that was solved for has the taper in it.
    let taper = if place.one_leaf || place.share < WHOLE {
        1.0
    } else {
        fabric.oversubscription.value.0.max(1.0)
    };
    per_device * (f64::from(place.share) / f64::from(WHOLE) / taper)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::placement::Strategy;

    #[test]
    fn a_domain_may_span_nodes_or_be_a_part_of_one() {
        let block = |ranks| Placement::new(Strategy::Block, ranks, ranks / 4, 4).unwrap();
        let rack = Sites::block(block(16), 16, false);
        assert_eq!(rack.place(&[0, 5, 9]).shape, GroupShape::uniform(1, 3));
        assert_eq!(rack.place(&[0, 5, 9]).nodes, 3);
        let pairs = Sites::block(block(16), 2, false);
        assert_eq!(pairs.place(&[0, 1, 2, 3]).shape, GroupShape::uniform(2, 2));
    }

    #[test]
    fn rails_and_leaves() {
        let placement = Placement::new(Strategy::Block, 32, 8, 4).unwrap();
        let sites = Sites { nodes_per_leaf: 4, ..Sites::block(placement, 4, false) };
        let rail = sites.place(&[1, 5, 9, 13]);
        assert!(rail.aligned && rail.one_leaf);
        let crossing = sites.place(&[1, 5, 17]);
        assert!(crossing.aligned && !crossing.one_leaf);
        let skewed = sites.place(&[1, 6]);
        assert!(!skewed.aligned && !skewed.one_leaf);
    }
}
