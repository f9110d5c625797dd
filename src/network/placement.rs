//! Which rank sits where.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::collective::GroupShape;
use crate::disturbance::random::Stream;
use crate::error::{Error, Result, nearest_names};
use crate::input::Document;

/// A place for a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// Node (server or scale-up domain).
    pub node: u32,
    /// Device in the node, which is its rail.
    pub local: u32,
}

/// How ranks are laid out over nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Consecutive ranks fill a node before the next.
    Block,
    /// Consecutive ranks go to consecutive nodes, round and round.
    Strided,
    /// Consecutive groups of so many ranks stay together on a node, the next group goes to the next
    /// node, and the same member of every group is on the same rail (modulo the group's size).
    RailAware {
        /// Ranks per group: the degree that varies fastest, usually tensor parallel.
        group: u32,
    },
    /// As block, over nodes in a random order: what a busy scheduler hands out.
    Random {
        /// Seed of the order.
        seed: u64,
    },
}

/// The place of every rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Slot by rank.
    pub slots: Vec<Slot>,
    /// Nodes of the cluster.
    pub nodes: u32,
    /// Devices per node.
    pub per_node: u32,
}

impl Placement {
    /// Lays `ranks` out over `nodes` of `per_node` devices.
    ///
    /// # Errors
    /// There are more ranks than devices, or a rail-aware group does not fit evenly into nodes.
    pub fn new(strategy: Strategy, ranks: u32, nodes: u32, per_node: u32) -> Result<Self> {
        let room = u64::from(nodes) * u64::from(per_node);
        if ranks == 0 || u64::from(ranks) > room {
            return Err(Error::Unsupported(format!(
                "{ranks} ranks do not fit on {nodes} nodes of {per_node} devices"
            )));
        }
        let slots = match strategy {
            Strategy::Block => {
                (0..ranks).map(|r| Slot { node: r / per_node, local: r % per_node }).collect()
            }
            Strategy::Strided => {
                (0..ranks).map(|r| Slot { node: r % nodes, local: r / nodes }).collect()
            }
            Strategy::RailAware { group } => {
                if group == 0 || !per_node.is_multiple_of(group) {
                    return Err(Error::Unsupported(format!(
                        "groups of {group} ranks do not fill nodes of {per_node} devices"
                    )));
                }
                (0..ranks)
                    .map(|r| {
                        let (number, member) = (r / group, r % group);
                        Slot { node: number % nodes, local: number / nodes * group + member }
                    })
                    .collect()
            }
            Strategy::Random { seed } => {
                let order = Stream::new(seed, 0, 0, "placement").permutation(nodes);
                (0..ranks)
                    .map(|r| Slot { node: order[(r / per_node) as usize], local: r % per_node })
                    .collect()
            }
        };
        Ok(Self { slots, nodes, per_node })
    }

    /// Consecutive ranks fill nodes in the given order.
    ///
    /// # Errors
    /// A node does not exist or is named twice, or the named ones have too little room.
    pub fn in_order(order: &[u32], ranks: u32, nodes: u32, per_node: u32) -> Result<Self> {
        let mut seen = BTreeSet::new();
        for node in order {
            if *node >= nodes {
                return Err(Error::Unsupported(format!(
                    "there is no node {node}: the cluster has nodes 0 to {}",
                    nodes.saturating_sub(1)
                )));
            }
            if !seen.insert(*node) {
                return Err(Error::Unsupported(format!("node {node} is named twice")));
            }
        }
        if ranks == 0 || u64::from(ranks) > order.len() as u64 * u64::from(per_node) {
            return Err(Error::Unsupported(format!(
                "{} nodes of {per_node} devices have no room for {ranks} ranks",
                order.len()
            )));
        }
        let slots = (0..ranks)
            .map(|r| Slot { node: order[(r / per_node) as usize], local: r % per_node })
            .collect();
        Ok(Self { slots, nodes, per_node })
    }

    /// Reads a placement: `nodes = ["host-7", "host-2", ...]`, filled in this order by consecutive
    /// ranks. `known` are the cluster's nodes by name, in the order of their numbers.
    ///
    /// # Errors
    /// A node is unknown or named twice, or the named nodes have too little room.
    pub fn read(document: &Document, known: &[String], ranks: u32, per_node: u32) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            nodes: Vec<String>,
        }
        let file: File = document.decode()?;
        let number: BTreeMap<&str, u32> = known.iter().map(String::as_str).zip(0_u32..).collect();
        let mut order = Vec::with_capacity(file.nodes.len());
        let mut seen = BTreeSet::new();
        for (i, name) in file.nodes.iter().enumerate() {
            let key = format!("nodes[{i}]");
            let Some(node) = number.get(name.as_str()) else {
                let nearest = nearest_names(name, number.keys().copied());
                return Err(document.error_at(
                    &key,
                    &format!("the cluster has no node named `{name}`"),
                    nearest.first().map(|near| format!("did you mean `{near}`?")),
                ));
            };
            if !seen.insert(*node) {
                return Err(document.error_at(&key, &format!("`{name}` is named twice"), None));
            }
            order.push(*node);
        }
        let room = order.len() as u64 * u64::from(per_node);
        if ranks == 0 || u64::from(ranks) > room {
            return Err(document.error_at(
                "nodes",
                &format!(
                    "{} nodes of {per_node} devices have no room for {ranks} ranks",
                    order.len()
                ),
                None,
            ));
        }
        let slots = (0..ranks)
            .map(|r| Slot { node: order[(r / per_node) as usize], local: r % per_node })
            .collect();
        Ok(Self { slots, nodes: known.len() as u32, per_node })
    }

    /// Shape of a group of ranks for the collective model.
    ///
    /// # Errors
    /// A rank has no place.
    pub fn shape(&self, ranks: &[u32]) -> Result<GroupShape> {
        let mut per_node: BTreeMap<u32, u32> = BTreeMap::new();
        for rank in ranks {
            let slot = self.slots.get(*rank as usize).ok_or_else(|| {
                Error::Unsupported(format!("rank {rank} of {} has no place", self.slots.len()))
            })?;
            *per_node.entry(slot.node).or_default() += 1;
        }
        let counts: Vec<u32> = per_node.into_values().collect();
        Ok(GroupShape::uneven(&counts))
    }

    /// Whether all ranks of a group that sit on different nodes use the same rails there, so that
    /// their traffic never leaves a leaf of a rail-optimised fabric.
    #[must_use]
    pub fn rail_aligned(&self, ranks: &[u32]) -> bool {
        let mut rails: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for slot in ranks.iter().filter_map(|r| self.slots.get(*r as usize)) {
            rails.entry(slot.node).or_default().insert(slot.local);
        }
        let mut sets = rails.values();
        let first = sets.next();
        sets.all(|set| Some(set) == first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_use_every_device_once() {
        for strategy in [
            Strategy::Block,
            Strategy::Strided,
            Strategy::RailAware { group: 4 },
            Strategy::Random { seed: 5 },
        ] {
            let p = Placement::new(strategy, 32, 4, 8).unwrap();
            let used: BTreeSet<Slot> = p.slots.iter().copied().collect();
            assert_eq!(used.len(), 32, "{strategy:?}");
            assert!(used.iter().all(|s| s.node < 4 && s.local < 8), "{strategy:?}");
        }
        assert!(Placement::new(Strategy::Block, 33, 4, 8).is_err());
        assert!(Placement::new(Strategy::RailAware { group: 3 }, 8, 4, 8).is_err());
    }

    #[test]
    fn groups_have_the_shape_their_places_give() {
        let p = Placement::new(Strategy::Block, 32, 4, 8).unwrap();
        assert_eq!(p.shape(&[0, 1, 2, 3]).unwrap(), GroupShape::uniform(1, 4));
        assert_eq!(p.shape(&[0, 8, 16, 24]).unwrap(), GroupShape::uniform(4, 1));
        assert!(p.rail_aligned(&[0, 8, 16, 24]));
        let q = Placement::new(Strategy::Strided, 32, 4, 8).unwrap();
        assert_eq!(q.shape(&[0, 1, 2, 3]).unwrap(), GroupShape::uniform(4, 1));
        assert_eq!(p.shape(&[0, 1, 8]).unwrap(), GroupShape::uneven(&[2, 1]));
        assert!(p.shape(&[99]).is_err());
    }

    #[test]
    fn files_name_nodes_that_exist() {
        let known = ["host-1".to_owned(), "host-2".to_owned()];
        let read = |text: &str| {
            let document = Document::parse("p.toml", text.to_owned())?;
            Placement::read(&document, &known, 4, 2)
        };
        let p = read("nodes = [\"host-2\", \"host-1\"]").unwrap();
        assert_eq!(p.slots[0], Slot { node: 1, local: 0 });
        let m = read("nodes = [\"host-2\", \"hots-1\"]").unwrap_err().to_string();
        assert!(m.contains("no node named `hots-1`") && m.contains("did you mean `host-1`"), "{m}");
        assert!(read("nodes = [\"host-2\", \"host-2\"]").is_err());
        assert!(read("nodes = [\"host-2\"]").is_err());
    }
}
