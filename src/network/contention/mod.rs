//! What the groups of a family take from each other on the fabric's links, and what links carry.
//!
//! The groups of a family communicate at the same time. Where every link between nodes is theirs
//! alone they run at the rate of their cards; that is proved, not computed, for a network without
//! oversubscription that spreads packets over its paths and whose links are alike, since every
//! cut then carries what its cards can send. Otherwise the fabric is a graph, built by its generator
//! or read from a file; the groups become coflows on it and get max-min fair rates ([`super::flow`]).
//!
//! Who of a group sends to whom is [`Pattern`]'s; what families take from each other on the links
//! between switches, [`Crowd`]'s.

mod crowd;
mod traffic;

use petgraph::graph::NodeIndex;

pub use self::crowd::{Crowd, Crowding};
pub use self::traffic::Pattern;
pub(super) use self::traffic::flows;
use super::Sites;
use super::collective::PathLatency;
use super::flow::{self, coflow};
use super::topology::generators::{SWITCH_LATENCY, fabric_network};
use super::topology::routing::Router;
use super::topology::{NodeKind, Topology};
use super::variability::Variability;
use crate::error::Result;
use crate::hardware::{Fabric, Node};
use crate::units::{BytesPerSecond, Seconds};

/// Latency of a path that the constants of transports include: two links, below a common leaf.
const INCLUDED_LATENCY: Seconds = Seconds(2.0 * SWITCH_LATENCY);

/// A share of all: [`Wires::shares`] counts in millionths.
pub const WHOLE: u32 = 1_000_000;

/// Shares are told apart in steps of about one percent, so that groups that differ by less are
/// alike: this many to a factor of two.
const STEPS: f64 = 64.0;

/// A fabric as a graph, with the places of ranks on it.
#[derive(Debug)]
pub struct Wires {
    topology: Topology,
    /// Endpoints of the cluster's devices, one device after the other.
    endpoints: Vec<NodeIndex<u32>>,
    /// Endpoints of a device.
    per_device: usize,
    /// What a device can send: its part of the node's cards.
    device_rate: f64,
    /// Narrowest link of an endpoint's, all of its links together.
    card_capacity: f64,
    hashed: bool,
    /// Whether paths have latencies of their own.
    own_latencies: bool,
}

/// The traffic of a family between domains, by group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Directed links with the share of each sender's rate that crosses them, links ascending.
    uses: Vec<Vec<(u32, f64)>>,
    /// What the paths add to latency.
    pub paths: Vec<PathLatency>,
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
        (variability, seed): (&Variability, u64),
    ) -> Result<Self> {
        let topology = fabric_network(fabric, node, nodes, &[])?;
        let wires = Self::over(topology, fabric, node, hashed, (variability, seed));
        // Where paths are alike, what transports were fitted with stands for all of them.
        Ok(Self { own_latencies: fabric.topology.is.line, ..wires })
    }

    /// The places of a node's devices on a network that is there already, whose paths have the
    /// latencies of its links. Endpoints of a server are its devices' in their order; devices share
    /// one where there are fewer.
    #[must_use]
    pub fn on(
        topology: Topology,
        fabric: &Fabric,
        node: &Node,
        hashed: bool,
        (variability, seed): (&Variability, u64),
    ) -> Self {
        let wires = Self::over(topology, fabric, node, hashed, (variability, seed));
        Self { own_latencies: true, ..wires }
    }

    fn over(
        mut topology: Topology,
        fabric: &Fabric,
        node: &Node,
        hashed: bool,
        (variability, seed): (&Variability, u64),
    ) -> Self {
        if *variability != Variability::None {
            variability.apply(&mut topology, seed, 0);
        }
        let per_node = topology.endpoints_per_node.max(1) as usize;
        let devices = node.devices.max(1) as usize;
        let per_device = (per_node / devices).max(1);
        let mut endpoints = Vec::with_capacity(topology.endpoints.len());
        for server in topology.endpoints.chunks(per_node) {
            for device in 0..devices {
                let first = device * per_node / devices;
                endpoints.extend((first..first + per_device).filter_map(|i| server.get(i)));
            }
        }
        let card_capacity = topology
            .endpoints
            .iter()
            .map(|end| topology.graph.edges(*end).map(|e| e.weight().capacity.get()).sum::<f64>())
            .fold(f64::INFINITY, f64::min);
        let card = fabric.link_bandwidth.value.min(node.nic.bandwidth.value).get();
        let device_rate = card * f64::from(node.nic.count) / f64::from(node.devices);
        Self {
            topology,
            endpoints,
            per_device,
            device_rate,
            card_capacity,
            hashed,
            own_latencies: false,
        }
    }

    /// Paths on this fabric, for all that follows: what it works out about a destination is kept.
    #[must_use]
    pub fn router(&self) -> Router<'_> {
        Router::new(&self.topology)
    }

    /// What a device can send at most over its cards and their links.
    #[must_use]
    pub fn device_rate(&self) -> BytesPerSecond {
        let sharing = self.topology.endpoints.len() as f64 / self.endpoints.len().max(1) as f64;
        let ends = self.card_capacity * self.per_device as f64 * sharing.min(1.0);
        BytesPerSecond(self.device_rate.min(ends))
    }

    fn ends(&self, device: u32) -> &[NodeIndex<u32>] {
        let first = device as usize * self.per_device;
        self.endpoints.get(first..first + self.per_device).unwrap_or(&[])
    }

    /// Routes the groups of a family.
    ///
    /// # Errors
    /// Two members are not connected.
    pub fn traffic<'g>(
        &self,
        router: &mut Router<'_>,
        sites: &Sites,
        groups: impl Iterator<Item = &'g [u32]>,
        pattern: Pattern,
    ) -> Result<Traffic> {
        let mut traffic = Traffic::default();
        // What the group at hand puts on each directed link, and on which ones.
        let mut sums = vec![0.0_f64; self.topology.graph.edge_count() * 2];
        let mut used: Vec<u32> = Vec::new();
        for group in groups {
            let (mut sum, mut count, mut longest) = (0.0, 0_u32, 0.0_f64);
            for (from, to, weight) in flows(sites, group, pattern) {
                for (a, b) in self.ends(from).iter().zip(self.ends(to)) {
                    if a == b {
                        continue;
                    }
                    let (links, mut latency) = self.paths(router, *a, *b)?;
                    if !self.own_latencies {
                        latency = Seconds::ZERO;
                    }
                    for (link, part) in links {
                        let sum = &mut sums[link as usize];
                        if *sum == 0.0 {
                            used.push(link);
                        }
                        *sum += part * weight / self.per_device as f64;
                    }
                    let beyond = (latency.get() - INCLUDED_LATENCY.get()).max(0.0);
                    sum += beyond;
                    count += 1;
                    longest = longest.max(beyond);
                }
            }
            used.sort_unstable();
            let of_link = |link: u32| (link, std::mem::take(&mut sums[link as usize]));
            traffic.uses.push(used.drain(..).map(of_link).collect());
            traffic.paths.push(PathLatency {
                mean: Seconds(sum / f64::from(count.max(1))).to_nanos(),
                longest: Seconds(longest).to_nanos(),
            });
        }
        Ok(traffic)
    }

    /// Directed links of a flow between two endpoints with the part that crosses them, and the
    /// latency of the longest way.
    fn paths(
        &self,
        router: &mut Router<'_>,
        from: NodeIndex<u32>,
        to: NodeIndex<u32>,
    ) -> Result<(Vec<(u32, f64)>, Seconds)> {
        if self.hashed {
            let route = router.route(from, to, 0)?;
            let latency = route.latency(&self.topology);
            return Ok((route.hops.iter().map(|hop| (hop.index() as u32, 1.0)).collect(), latency));
        }
        let spread = router.spread(from, to)?;
        Ok((spread.uses, spread.latency))
    }

    /// Millionths of what its devices can send that each group gets while all of them communicate.
    ///
    /// # Errors
    /// A link carries nothing.
    pub fn shares(&self, traffic: &Traffic) -> Result<Vec<u32>> {
        let mut problem = coflow::problem_of(&self.topology);
        let mut index = Vec::new();
        for uses in &traffic.uses {
            if uses.is_empty() {
                index.push(None);
                continue;
            }
            index.push(Some(problem.len()));
            problem.add_sorted(1.0, 0.0, self.device_rate, uses)?;
        }
        let rates = flow::rates(&problem);
        Ok(index
            .into_iter()
            .map(|at| at.map_or(WHOLE, |at| in_steps(rates[at] / self.device_rate)))
            .collect())
    }

    /// Adds what a call of a family puts on every directed link: `bytes` per member that sends.
    pub fn load(&self, traffic: &Traffic, loads: &mut Vec<f64>, bytes: impl Fn(usize) -> f64) {
        loads.resize(self.topology.graph.edge_count() * 2, 0.0);
        for (number, uses) in traffic.uses.iter().enumerate() {
            let each = bytes(number);
            for (link, weight) in uses.iter().filter(|_| each > 0.0) {
                loads[*link as usize] += weight * each;
            }
        }
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

/// A share in millionths, in steps of about one percent.
pub(crate) fn in_steps(share: f64) -> u32 {
    if share >= 1.0 - 0.5 / STEPS {
        return WHOLE;
    }
    let step = (share.max(1e-6).log2() * STEPS).round() / STEPS;
    (step.exp2() * f64::from(WHOLE)).round().max(1.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::Catalogue;
    use crate::network::placement::{Placement, Strategy};

    fn shares(oversubscription: f64, hashed: bool, strategy: Strategy) -> Vec<f64> {
        let catalogue = Catalogue::load(None).unwrap();
        let node = catalogue.node("dgx-h100").unwrap();
        let mut fabric = catalogue.fabric("ndr400-clos").unwrap().clone();
        fabric.oversubscription.value.0 = oversubscription;
        let nodes = 128;
        let wires = Wires::new(&fabric, node, nodes, hashed, (&Variability::None, 0)).unwrap();
        let placement = Placement::new(strategy, nodes * 8, nodes, 8).unwrap();
        let sites = Sites::block(placement, 8, false);
        // Rings along rails, as of data parallelism with 8-way tensor parallelism.
        let groups: Vec<Vec<u32>> =
            (0..8).map(|rail| (0..nodes).map(|n| n * 8 + rail).collect()).collect();
        let groups = groups.iter().map(Vec::as_slice);
        let traffic = wires.traffic(&mut wires.router(), &sites, groups, Pattern::Ring).unwrap();
        let shares = wires.shares(&traffic).unwrap();
        shares.into_iter().map(|share| f64::from(share) / f64::from(WHOLE)).collect()
    }

    #[test]
    fn full_bisection_with_spreading_is_private() {
        // Packets divide evenly, so no link carries more than its part.
        assert!(shares(1.0, false, Strategy::Block).iter().all(|s| *s == 1.0));
    }

    #[test]
    fn oversubscription_slows_what_leaves_a_leaf() {
        // In random order nearly every edge of the ring leaves its leaf, so 4:1 shows.
        let taper = shares(4.0, false, Strategy::Random { seed: 3 });
        assert!(taper.iter().all(|s| (0.15..=0.45).contains(s)), "{taper:?}");
        // In order only a few do, and the taper has room for them.
        assert!(shares(4.0, false, Strategy::Block).iter().all(|s| *s >= 0.95));
    }

    #[test]
    fn hashing_collides_where_spreading_does_not() {
        let hashed = shares(1.0, true, Strategy::Random { seed: 3 });
        let spread = shares(1.0, false, Strategy::Random { seed: 3 });
        let mean = |s: &[f64]| s.iter().sum::<f64>() / s.len() as f64;
        assert!(mean(&hashed) < 0.8 * mean(&spread), "{hashed:?} {spread:?}");
    }

    /// Two devices on one card, or one device on two cards, have their part of them to themselves.
    #[test]
    fn devices_that_share_cards_are_not_slowed_twice() {
        let catalogue = Catalogue::load(None).unwrap();
        let fabric = catalogue.fabric("ndr400-clos").unwrap();
        for cards in [4, 16] {
            let mut node = catalogue.node("dgx-h100").unwrap().clone();
            node.nic.count = cards;
            let wires = Wires::new(fabric, &node, 4, false, (&Variability::None, 0)).unwrap();
            let placement = Placement::new(Strategy::Block, 32, 4, 8).unwrap();
            let sites = Sites::block(placement, 8, false);
            let groups: Vec<Vec<u32>> =
                (0..8).map(|rail| (0..4).map(|n| n * 8 + rail).collect()).collect();
            let groups = groups.iter().map(Vec::as_slice);
            let traffic =
                wires.traffic(&mut wires.router(), &sites, groups, Pattern::Ring).unwrap();
            assert_eq!(wires.shares(&traffic).unwrap(), [WHOLE; 8], "{cards} cards");
        }
    }

    #[test]
    fn shares_are_rounded_by_about_a_percent() {
        for share in [1.0, 0.999, 0.5, 0.123, 0.004] {
            let rounded = f64::from(in_steps(share)) / f64::from(WHOLE);
            // Half a step of 2^(1/64), and the last millionth.
            assert!((rounded / share - 1.0).abs() <= 0.0055, "{share}: {rounded}");
        }
    }
}
