//! Shortest paths, and which of several equal ones a flow takes.
//!
//! Between two endpoints all shortest paths (fewest hops) are equal; a flow takes one by a hash of
//! its endpoints and a label (ECMP: what switches do), the same one every time. Rails come first by
//! construction: in a rail-optimised network the shortest path to the same card index of another
//! node stays on one leaf, and a message for another card index is first handed over inside the
//! node ([`Route::rail_local`], what NCCL calls PXN).
//!
//! Where packets are spread instead, a flow divides at every node over the cables that lead closer,
//! evenly ([`Router::spread`]): the mean of what a hash draws, without its noise, so that what lies
//! alike is loaded alike.
//!
//! Distances are found by a breadth-first search from the destination and kept, so that many flows
//! to one destination cost one search.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use petgraph::graph::{EdgeIndex, NodeIndex};
use petgraph::visit::EdgeRef;

use super::{NodeKind, Topology};
use crate::error::{Error, Result};
use crate::units::Seconds;

/// A direction of a link: the index that bandwidth sharing knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// The link.
    pub link: EdgeIndex<u32>,
    /// From the edge's first node to its second.
    pub forward: bool,
}

impl Hop {
    /// Dense index of the directed link: two per edge.
    #[must_use]
    pub fn index(self) -> usize {
        self.link.index() * 2 + usize::from(!self.forward)
    }
}

/// A path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Its directed links in order.
    pub hops: Vec<Hop>,
}

impl Route {
    /// Sum of the links' latencies.
    #[must_use]
    pub fn latency(&self, topology: &Topology) -> Seconds {
        self.hops
            .iter()
            .filter_map(|hop| topology.graph.edge_weight(hop.link))
            .map(|link| link.latency)
            .sum()
    }

    /// Whether the path crosses no tier above the leaves.
    #[must_use]
    pub fn rail_local(&self, topology: &Topology) -> bool {
        self.hops.iter().all(|hop| {
            topology.graph.edge_endpoints(hop.link).is_none_or(|(a, b)| {
                [a, b].iter().all(|node| {
                    !matches!(
                        topology.graph.node_weight(*node).map(|v| v.kind),
                        Some(NodeKind::Switch(2..) | NodeKind::Router)
                    )
                })
            })
        })
    }
}

/// Finds routes; keeps the distances to the destinations it was asked for,
/// or to their switches.
#[derive(Debug)]
pub struct Router<'a> {
    topology: &'a Topology,
    distances: BTreeMap<u32, Vec<u16>>,
    /// Spreads between switches, and how many links they name together.
    spreads: BTreeMap<(u32, u32), Rc<Spread>>,
    kept: usize,
}

/// A flow over all of its shortest paths.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spread {
    /// Directed links ([`Hop::index`]) with the part of the flow that crosses them, ascending.
    pub uses: Vec<(u32, f64)>,
    /// Of the longest path, all its links together.
    pub latency: Seconds,
}

/// Links of spreads that are kept: tens of megabytes.
const MOST_KEPT: usize = 1 << 22;

/// A link of a node: edge, the node at its other end, cables.
type Step = (EdgeIndex<u32>, NodeIndex<u32>, u16);

/// A 64-bit mixer (splitmix64's finaliser, Steele et al. 2014): a deterministic stand-in for a
/// switch's ECMP hash.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn connected(
    topology: &Topology,
    distance: &[u16],
    from: NodeIndex<u32>,
    to: NodeIndex<u32>,
) -> Result<()> {
    if distance.get(from.index()).is_none_or(|d| *d == u16::MAX) {
        return Err(Error::Unsupported(format!(
            "{}: {} and {} are not connected",
            topology.title,
            topology.name(from),
            topology.name(to)
        )));
    }
    Ok(())
}

/// Links of a node that lead closer to a destination by the distances to it, or to the switch before
/// it. In index order, so that a choice does not depend on adjacency order.
fn closer(
    topology: &Topology,
    distance: &[u16],
    at: NodeIndex<u32>,
    to: NodeIndex<u32>,
) -> Vec<Step> {
    let wanted = distance[at.index()].checked_sub(1);
    let mut steps: Vec<Step> = topology
        .graph
        .edges(at)
        .filter(|e| match wanted {
            Some(wanted) => distance[e.target().index()] == wanted,
            None => e.target() == to,
        })
        .map(|e| (e.id(), e.target(), e.weight().cables))
        .collect();
    steps.sort_by_key(|(id, _, _)| id.index());
    steps
}

impl<'a> Router<'a> {
    /// A router over a network.
    #[must_use]
    pub fn new(topology: &'a Topology) -> Self {
        Self { topology, distances: BTreeMap::new(), spreads: BTreeMap::new(), kept: 0 }
    }

    fn distances(&mut self, to: NodeIndex<u32>) -> &[u16] {
        let topology = self.topology;
        self.distances.entry(to.index() as u32).or_insert_with(|| {
            let mut distance = vec![u16::MAX; topology.graph.node_count()];
            let mut queue = VecDeque::from([to]);
            distance[to.index()] = 0;
            while let Some(node) = queue.pop_front() {
                let next = distance[node.index()] + 1;
                for neighbour in topology.graph.neighbors(node) {
                    if distance[neighbour.index()] == u16::MAX {
                        distance[neighbour.index()] = next;
                        queue.push_back(neighbour);
                    }
                }
            }
            distance
        })
    }

    /// The neighbour of a node that has only one, over one link or several.
    fn only_neighbour(&self, node: NodeIndex<u32>) -> Option<NodeIndex<u32>> {
        let mut neighbours = self.topology.graph.neighbors(node);
        let first = neighbours.next()?;
        neighbours.all(|other| other == first).then_some(first)
    }

    /// The path of the flow `label` between two nodes.
    ///
    /// # Errors
    /// The two are not connected.
    pub fn route(&mut self, from: NodeIndex<u32>, to: NodeIndex<u32>, label: u64) -> Result<Route> {
        let topology = self.topology;
        // Every path to a card ends at its switch, so that one search serves all cards there.
        let via = self.only_neighbour(to).filter(|_| from != to).unwrap_or(to);
        let distance = self.distances(via);
        connected(topology, distance, from, to)?;
        let mut hops = Vec::with_capacity(usize::from(distance[from.index()]));
        let mut at = from;
        let flow = mix(mix(from.index() as u64) ^ mix((to.index() as u64) << 32) ^ label);
        while at != to {
            let candidates = closer(topology, distance, at, to);
            let members: u64 = candidates.iter().map(|(_, _, cables)| u64::from(*cables)).sum();
            let mut pick = mix(flow ^ mix(at.index() as u64)) % members.max(1);
            let mut next = None;
            for (id, target, cables) in candidates {
                if pick < u64::from(cables) {
                    next = Some((id, target));
                    break;
                }
                pick -= u64::from(cables);
            }
            let Some((link, target)) = next else {
                return Err(Error::Internal("a node on a shortest path has no next hop".into()));
            };
            let forward = topology.graph.edge_endpoints(link).is_some_and(|(a, _)| a == at);
            hops.push(Hop { link, forward });
            at = target;
        }
        Ok(Route { hops })
    }

    /// A flow between two nodes over all shortest paths: at every node it divides evenly over the
    /// cables that lead closer.
    ///
    /// # Errors
    /// The two are not connected.
    pub fn spread(&mut self, from: NodeIndex<u32>, to: NodeIndex<u32>) -> Result<Spread> {
        // Between cards, only the ends differ from what all cards of the two switches have.
        let (Some(near), Some(far)) = (self.only_neighbour(from), self.only_neighbour(to)) else {
            return self.divide(from, to);
        };
        if from == to || near == to || far == from {
            return self.divide(from, to);
        }
        let (first, last) = (self.divide(from, near)?, self.divide(far, to)?);
        let mut uses = first.uses;
        let mut latency = first.latency + last.latency;
        if near != far {
            let key = (near.index() as u32, far.index() as u32);
            let between = match self.spreads.get(&key) {
                Some(known) => Rc::clone(known),
                None => {
                    let found = Rc::new(self.divide(near, far)?);
                    if self.kept > MOST_KEPT {
                        self.spreads.clear();
                        self.kept = 0;
                    }
                    self.kept += found.uses.len();
                    self.spreads.insert(key, Rc::clone(&found));
                    found
                }
            };
            uses.extend_from_slice(&between.uses);
            latency += between.latency;
        }
        uses.extend(last.uses);
        uses.sort_unstable_by_key(|(link, _)| *link);
        Ok(Spread { uses, latency })
    }

    fn divide(&mut self, from: NodeIndex<u32>, to: NodeIndex<u32>) -> Result<Spread> {
        let topology = self.topology;
        let via = self.only_neighbour(to).filter(|_| from != to).unwrap_or(to);
        let distance = self.distances(via);
        connected(topology, distance, from, to)?;
        let mut uses = Vec::new();
        // Part of the flow and longest way so far, of the nodes that it has reached, the farthest
        // first: all that arrives at a node has arrived when it is its turn. `to` comes after `via`.
        let rank = |node: NodeIndex<u32>| {
            let beyond = if node == to { 0 } else { u32::from(distance[node.index()]) + 1 };
            (Reverse(beyond), node)
        };
        let mut reached = BTreeMap::from([(rank(from), (1.0_f64, 0.0_f64))]);
        while let Some(((_, at), (part, latency))) = reached.pop_first() {
            if at == to {
                uses.sort_unstable_by_key(|(link, _)| *link);
                return Ok(Spread { uses, latency: Seconds(latency) });
            }
            let steps = closer(topology, distance, at, to);
            let cables: f64 = steps.iter().map(|(_, _, cables)| f64::from(*cables)).sum();
            for (link, target, members) in steps {
                let share = part * (f64::from(members) / cables);
                let forward = topology.graph.edge_endpoints(link).is_some_and(|(a, _)| a == at);
                uses.push((Hop { link, forward }.index() as u32, share));
                let way = latency + topology.graph[link].latency.get();
                let there = reached.entry(rank(target)).or_insert((0.0, 0.0));
                *there = (there.0 + share, there.1.max(way));
            }
        }
        Err(Error::Internal("a flow that is spread does not arrive".into()))
    }
}
