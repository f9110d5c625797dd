//! What the groups of a family take from each other on the fabric's links, and what links carry.
//!
//! The groups of a family communicate at the same time. Where every link between nodes is theirs
//! alone they run at the rate of their cards; that is proved, not computed, for a network without
//! oversubscription that spreads packets over its paths and whose links are alike, since every
//! cut then carries what its cards can send. Otherwise the fabric is built as a graph, the groups
//! become coflows on it and get max-min fair rates ([`super::flow`]).
//!
//! Between domains a group is a ring per rail (the `i`-th members of its domains), a pair is one
//! flow, and an exchange sends from every member to every other.

use std::collections::BTreeMap;

use petgraph::graph::NodeIndex;

use super::Sites;
use super::flow::{self, coflow};
use super::topology::generators::{clos, dragonfly, rail_only};
use super::topology::routing::Router;
use super::topology::{NodeKind, Topology};
use super::variability::Variability;
use crate::error::Result;
use crate::hardware::{Fabric, Node, Topology as Arrangement};

/// Paths over which packets of one flow are spread where routing is adaptive: enough that the
/// share of any one link is within a few percent of even.
const SPREAD: u64 = 16;

/// Most destinations of one member of an exchange that are routed one by one; of more, every n-th.
const EXCHANGE_SAMPLE: usize = 32;

/// How a group's traffic between domains is arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// Neighbours in a ring of domains, on every rail.
    Ring,
    /// Every member to every other.
    Exchange,
    /// First member to second.
    Pair,
}

/// A fabric as a graph, with the places of ranks on it.
#[derive(Debug)]
pub struct Wires {
    topology: Topology,
    /// Endpoint by device of the cluster.
    endpoint: Vec<NodeIndex<u32>>,
    card_rate: f64,
    hashed: bool,
}

/// What a link carries in a step.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkLoad {
    /// Its two ends.
    pub name: String,
    /// Kind of link: `nic to leaf switch`, ...
    pub tier: String,
    /// Bytes in a step.
    pub bytes: f64,
    /// Capacity in bytes per second.
    pub capacity: f64,
}

/// The generator of a fabric's graph, with its parameters.
enum Generator {
    Clos(clos::Parameters),
    RailOnly(rail_only::Parameters),
    Dragonfly(dragonfly::Parameters),
}

impl Generator {
    fn new(fabric: &Fabric, node: &Node, nodes: u32) -> Self {
        let rate = fabric.link_bandwidth.value.min(node.nic.bandwidth.value).get();
        let radix = fabric.switch.ports.value.0 as u32;
        match fabric.topology {
            Arrangement::RailOptimisedClos | Arrangement::FatTree => Self::Clos(clos::Parameters {
                cards: nodes.saturating_mul(node.nic.count),
                cards_per_node: node.nic.count,
                radix,
                port_rate: rate,
                tiers: None,
                oversubscription: fabric.oversubscription.value.0.max(1.0),
                rails: fabric.topology == Arrangement::RailOptimisedClos,
                cards_per_leaf: None,
            }),
            Arrangement::RailOnly => Self::RailOnly(rail_only::Parameters {
                devices: nodes.saturating_mul(node.devices),
                domain: node.scale_up.domain,
                radix,
                port_rate: rate,
                domain_rate: node.scale_up.bandwidth.value.get(),
            }),
            Arrangement::Dragonfly => Self::Dragonfly(dragonfly::Parameters {
                cards_per_node: node.nic.count,
                port_rate: rate,
                ..dragonfly::Parameters::slingshot(nodes)
            }),
        }
    }
}

/// Whether a fabric can hold so many nodes, without building its graph.
///
/// # Errors
/// Its switches have too few ports, or its parts cannot be filled.
pub fn fits(fabric: &Fabric, node: &Node, nodes: u32) -> Result<()> {
    match Generator::new(fabric, node, nodes) {
        Generator::Clos(p) => clos::fits(&p),
        Generator::RailOnly(p) => rail_only::fits(&p),
        Generator::Dragonfly(p) => dragonfly::fits(&p),
    }
}

/// Builds the fabric's graph for so many nodes.
fn build(fabric: &Fabric, node: &Node, nodes: u32) -> Result<Topology> {
    let topology = match Generator::new(fabric, node, nodes) {
        Generator::Clos(p) => clos::build(&p)?,
        Generator::RailOnly(p) => rail_only::build(&p)?,
        Generator::Dragonfly(p) => dragonfly::build(&p)?,
    };
    topology.check()?;
    Ok(topology)
}

impl Wires {
    /// The graph of a fabric with `nodes` nodes.
    ///
    /// # Errors
    /// The fabric cannot hold them.
    pub fn new(
        fabric: &Fabric,
        node: &Node,
        nodes: u32,
        hashed: bool,
        variability: &Variability,
        seed: u64,
    ) -> Result<Self> {
        let mut topology = build(fabric, node, nodes)?;
        if *variability != Variability::None {
            variability.apply(&mut topology, seed, 0);
        }
        let per_node = topology.endpoints_per_node.max(1);
        let devices = node.devices;
        // Devices share cards (or have several, of which one stands for all).
        let endpoint = (0..nodes * devices)
            .filter_map(|device| {
                let number = if fabric.topology == Arrangement::RailOnly {
                    device
                } else {
                    device / devices * per_node + device % devices * per_node / devices
                };
                topology.endpoints.get(number as usize).copied()
            })
            .collect();
        let card_rate = fabric.link_bandwidth.value.min(node.nic.bandwidth.value).get();
        Ok(Self { topology, endpoint, card_rate, hashed })
    }

    /// Paths on this fabric, for all that follows: what it works out about a destination is kept.
    #[must_use]
    pub fn router(&self) -> Router<'_> {
        Router::new(&self.topology)
    }

    /// Directed links a group uses, with the share of each member's rate that crosses them.
    fn uses(
        &self,
        router: &mut Router<'_>,
        sites: &Sites,
        group: &[u32],
        pattern: Pattern,
    ) -> Result<Vec<(u32, f64)>> {
        // Rings go through domains in the order of their first ranks, as libraries build them:
        // they do not know which nodes share a leaf.
        let mut number: BTreeMap<u32, usize> = BTreeMap::new();
        let mut domains: Vec<Vec<u32>> = Vec::new();
        for rank in group {
            let device = sites.device(*rank);
            let at = *number.entry(device / sites.domain).or_insert_with(|| {
                domains.push(Vec::new());
                domains.len() - 1
            });
            domains[at].push(device);
        }
        let mut edges: Vec<(u32, u32, f64)> = Vec::new();
        match pattern {
            Pattern::Pair if domains.len() == 2 => {
                edges.push((sites.device(group[0]), sites.device(group[1]), 1.0));
            }
            Pattern::Pair => {}
            Pattern::Ring => {
                let rails = domains.iter().map(Vec::len).min().unwrap_or(0);
                for (d, here) in domains.iter().enumerate().filter(|_| domains.len() > 1) {
                    let next = &domains[(d + 1) % domains.len()];
                    edges.extend((0..rails).map(|i| (here[i], next[i], 1.0)));
                }
            }
            Pattern::Exchange => {
                for (d, here) in domains.iter().enumerate() {
                    let others: Vec<u32> = domains
                        .iter()
                        .enumerate()
                        .filter(|(other, _)| *other != d)
                        .flat_map(|(_, members)| members.iter().copied())
                        .collect();
                    let stride = others.len().div_ceil(EXCHANGE_SAMPLE).max(1);
                    for (i, from) in here.iter().enumerate() {
                        let picked: Vec<u32> =
                            others.iter().copied().skip(i % stride).step_by(stride).collect();
                        let weight = 1.0 / picked.len().max(1) as f64;
                        edges.extend(picked.into_iter().map(|to| (*from, to, weight)));
                    }
                }
            }
        }
        let mut uses: BTreeMap<u32, f64> = BTreeMap::new();
        let paths = if self.hashed { 1 } else { SPREAD };
        for (from, to, weight) in edges {
            let (Some(a), Some(b)) =
                (self.endpoint.get(from as usize), self.endpoint.get(to as usize))
            else {
                continue;
            };
            if a == b {
                continue;
            }
            for label in 0..paths {
                for hop in router.route(*a, *b, label)?.hops {
                    *uses.entry(hop.index() as u32).or_default() += weight / paths as f64;
                }
            }
        }
        Ok(uses.into_iter().collect())
    }

    /// Thousandths of a card's rate that each group gets while all of them communicate.
    ///
    /// # Errors
    /// Two members are not connected.
    pub fn shares<'g>(
        &self,
        router: &mut Router<'_>,
        sites: &Sites,
        groups: impl Iterator<Item = &'g [u32]>,
        pattern: Pattern,
    ) -> Result<Vec<u16>> {
        let mut problem = coflow::problem_of(&self.topology);
        let mut index = Vec::new();
        for group in groups {
            let uses = self.uses(router, sites, group, pattern)?;
            if uses.is_empty() {
                index.push(None);
                continue;
            }
            index.push(Some(problem.len()));
            problem.add_sorted(1.0, 0.0, self.card_rate, &uses)?;
        }
        let rates = flow::rates(&problem);
        let share = |at: usize| (rates[at] / self.card_rate * 1000.0).round().clamp(1.0, 1000.0);
        Ok(index.into_iter().map(|at| at.map_or(1000, |at| share(at) as u16)).collect())
    }

    /// Adds what a call of a family puts on every directed link: `bytes` per member that sends.
    ///
    /// # Errors
    /// Two members are not connected.
    pub fn load<'g>(
        &self,
        router: &mut Router<'_>,
        loads: &mut Vec<f64>,
        sites: &Sites,
        groups: impl Iterator<Item = &'g [u32]>,
        pattern: Pattern,
        bytes: impl Fn(usize) -> f64,
    ) -> Result<()> {
        loads.resize(self.topology.graph.edge_count() * 2, 0.0);
        for (number, group) in groups.enumerate() {
            let each = bytes(number);
            if each <= 0.0 {
                continue;
            }
            for (link, weight) in self.uses(router, sites, group, pattern)? {
                loads[link as usize] += weight * each;
            }
        }
        Ok(())
    }

    /// Names and capacities for the loads of directed links.
    #[must_use]
    pub fn describe(&self, loads: &[f64]) -> Vec<LinkLoad> {
        let graph = &self.topology.graph;
        graph
            .edge_indices()
            .flat_map(|edge| [(edge, true), (edge, false)])
            .zip(loads)
            .filter_map(|((edge, forward), bytes)| {
                let (a, b) = graph.edge_endpoints(edge)?;
                let (from, to) = if forward { (a, b) } else { (b, a) };
                let kind = |n: NodeIndex<u32>| graph.node_weight(n).map(|v| v.kind);
                let (x, y) = (kind(from)?, kind(to)?);
                let label = |kind: NodeKind| match kind {
                    NodeKind::Device => "card",
                    other => other.as_str(),
                };
                Some(LinkLoad {
                    name: format!("{} > {}", self.topology.name(from), self.topology.name(to)),
                    tier: format!("{} to {}", label(x), label(y)),
                    bytes: *bytes,
                    capacity: graph.edge_weight(edge)?.capacity.get(),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::Catalogue;
    use crate::network::placement::{Placement, Strategy};

    fn shares(oversubscription: f64, hashed: bool, strategy: Strategy) -> Vec<u16> {
        let catalogue = Catalogue::load(None).unwrap();
        let node = catalogue.node("dgx-h100").unwrap();
        let mut fabric = catalogue.fabric("ndr400-clos").unwrap().clone();
        fabric.oversubscription.value.0 = oversubscription;
        let nodes = 128;
        let wires = Wires::new(&fabric, node, nodes, hashed, &Variability::None, 0).unwrap();
        let placement = Placement::new(strategy, nodes * 8, nodes, 8).unwrap();
        let sites = Sites::block(placement, 8, false);
        // Rings along rails, as of data parallelism with 8-way tensor parallelism.
        let groups: Vec<Vec<u32>> =
            (0..8).map(|rail| (0..nodes).map(|n| n * 8 + rail).collect()).collect();
        wires
            .shares(&mut wires.router(), &sites, groups.iter().map(Vec::as_slice), Pattern::Ring)
            .unwrap()
    }

    #[test]
    fn full_bisection_with_spreading_is_private() {
        // Sixteen paths are drawn at random, so a link may carry a few percent more than its part;
        // a ring over 128 nodes has only four edges that leave a leaf.
        assert!(shares(1.0, false, Strategy::Block).iter().all(|s| *s >= 950));
    }

    #[test]
    fn oversubscription_slows_what_leaves_a_leaf() {
        // In random order nearly every edge of the ring leaves its leaf, so 4:1 shows.
        let taper = shares(4.0, false, Strategy::Random { seed: 3 });
        assert!(taper.iter().all(|s| (150..=450).contains(s)), "{taper:?}");
        // In order only a few do, and the taper has room for them.
        assert!(shares(4.0, false, Strategy::Block).iter().all(|s| *s >= 950));
    }

    #[test]
    fn hashing_collides_where_spreading_does_not() {
        let hashed = shares(1.0, true, Strategy::Random { seed: 3 });
        let spread = shares(1.0, false, Strategy::Random { seed: 3 });
        let mean = |s: &[u16]| s.iter().map(|x| f64::from(*x)).sum::<f64>() / s.len() as f64;
        assert!(mean(&hashed) < 0.8 * mean(&spread), "{hashed:?} {spread:?}");
    }
}
