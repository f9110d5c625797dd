//! Collectives as latency and bandwidth per level of the cluster.
//!
//! Inside a scale-up domain a collective runs over the domain's links; across domains over the
//! network cards, of which a group uses the share of its members on each node (the other members
//! of the node belong to sister groups that communicate at the same time). Algorithms: ring,
//! double binary tree (all-reduce), hierarchical (reduce-scatter inside, ring across, all-gather
//! inside); the fastest is taken, as the libraries' tuners do. Thakur et al. 2005 has the ring and
//! tree forms; the term per node stands for connection handling, congestion and skew, which make
//! measured collectives slower with scale although ring volume does not grow.

use crate::hardware::{Fabric, Node};
use crate::program::{Collective, CollectiveCall};
use crate::units::{Bytes, BytesPerSecond, Seconds};

use super::routes::{Routes, TransferEngine};
use super::sites::card_rate;
use super::{CollectiveTime, CollectiveTimes, GroupPlace};
use crate::error::Result;

/// The model for one kind of node on one fabric.
#[derive(Clone, Debug)]
pub struct Levels<'a> {
    node: &'a Node,
    fabric: Option<&'a Fabric>,
    routes: Option<Routes>,
    engine: TransferEngine,
}

/// A level's latency per step and the bandwidth of one member.
#[derive(Clone, Copy)]
struct Level {
    base: Seconds,
    step: Seconds,
    rate: BytesPerSecond,
}

impl<'a> Levels<'a> {
    /// A model; `fabric` may be absent where everything is on one node.
    #[must_use]
    pub fn new(node: &'a Node, fabric: Option<&'a Fabric>, engine: TransferEngine) -> Self {
        Self { node, fabric, routes: Routes::new(node), engine }
    }

    fn inside(&self) -> Level {
        let links = &self.node.scale_up;
        Level {
            base: links.base_latency.value,
            step: links.step_latency.value,
            rate: links.bandwidth.value * links.achieved.value.0,
        }
    }

    /// The network level for a group with `members` ranks in each domain: rate of all of them
    /// together.
    fn across(&self, members: u32, place: &GroupPlace) -> Option<Level> {
        let fabric = self.fabric?;
        let card = card_rate(self.node, fabric, place);
        let rate = card * (f64::from(members) * fabric.achieved.value.0);
        Some(Level { base: fabric.base_latency.value, step: fabric.step_latency.value, rate })
    }

    fn per_node(&self, place: &GroupPlace) -> Seconds {
        match self.fabric {
            Some(fabric) if place.shape.nodes > 1 => {
                fabric.per_node_latency.value * f64::from(place.nodes)
            }
            _ => Seconds::ZERO,
        }
    }

    /// Time of a pair's transfer.
    fn pair(&self, bytes: Bytes, place: &GroupPlace) -> Seconds {
        if place.shape.nodes == 1 {
            let inside = self.inside();
            let routed = place
                .pair
                .zip(self.routes.as_ref())
                .and_then(|(pair, routes)| routes.rate(pair, bytes, self.engine));
            if let Some(rate) = routed {
                return inside.base + bytes / rate;
            }
            let rate = self
                .node
                .scale_up
                .links
                .iter()
                .find(|class| {
                    let found = |[x, y]: &[u32; 2]| Some((*x.min(y), *x.max(y))) == place.pair;
                    class.pairs.iter().any(found)
                })
                .map_or(inside.rate, |class| {
                    class.measured.as_ref().unwrap_or(&class.bandwidth).value
                });
            return inside.base + bytes / rate;
        }
        match self.across(1, place) {
            Some(level) => level.base + bytes / level.rate,
            None => Seconds::ZERO,
        }
    }
}

/// Volume over buffer size, and steps, of a ring.
fn ring(collective: Collective, members: u32) -> (f64, f64) {
    let n = f64::from(members);
    let share = (n - 1.0) / n;
    match collective {
        Collective::AllReduce => (2.0 * share, 2.0 * (n - 1.0)),
        Collective::AllGather | Collective::ReduceScatter => (share, n - 1.0),
        Collective::AllToAll => (share, n - 1.0),
        Collective::Broadcast => (1.0, n - 1.0),
        Collective::SendRecv => (1.0, 1.0),
    }
}

impl CollectiveTimes for Levels<'_> {
    fn time(&self, call: &CollectiveCall, place: &GroupPlace) -> Result<CollectiveTime> {
        let bytes = call.bytes as f64;
        let (n, nodes) = (f64::from(place.shape.ranks), f64::from(place.shape.nodes));
        let (volume, _) = ring(call.collective, place.shape.ranks.max(2));
        let path = match (place.shape.nodes, call.collective) {
            (0..2, _) => Seconds::ZERO,
            (_, Collective::AllToAll | Collective::SendRecv) => place.path.over(1.0),
            (nodes, collective) => place.path.over(ring(collective, nodes).1),
        };
        Ok(CollectiveTime {
            time: self.seconds(call, place) + path,
            scale_up_bytes: Bytes(if nodes < n { bytes * volume } else { 0.0 }),
            scale_out_bytes: Bytes(if nodes > 1.0 { bytes * volume } else { 0.0 }),
            ..CollectiveTime::default()
        })
    }
}

impl Levels<'_> {
    fn seconds(&self, call: &CollectiveCall, place: &GroupPlace) -> Seconds {
        let bytes = Bytes(call.bytes as f64);
        if place.shape.ranks < 2 {
            return Seconds::ZERO;
        }
        if call.collective == Collective::SendRecv {
            return self.pair(bytes, place);
        }
        let inside = self.inside();
        let (volume, steps) = ring(call.collective, place.shape.ranks);
        if place.shape.nodes == 1 {
            let flat = inside.base + inside.step * steps + bytes * volume / inside.rate;
            if call.collective == Collective::AllReduce {
                let depth = f64::from(place.shape.ranks).log2().ceil();
                let tree = inside.base + inside.step * (2.0 * depth) + bytes * 2.0 / inside.rate;
                return flat.min(tree);
            }
            return flat;
        }
        let Some(across) = self.across(place.shape.min_per_node, place) else {
            return Seconds::ZERO;
        };
        let per_node = self.per_node(place);
        // A flat ring crosses between domains once per domain and round; its slowest link decides.
        let rounds = steps / f64::from(place.shape.ranks - 1);
        let crossings = rounds * f64::from(place.shape.nodes);
        let flat = across.base
            + across.step * crossings
            + inside.step * (steps - crossings).max(0.0)
            + bytes * volume / across.rate.min(inside.rate)
            + per_node;
        if call.collective == Collective::AllToAll {
            // Only the part for other domains crosses.
            let other = 1.0 - f64::from(place.shape.max_per_node) / f64::from(place.shape.ranks);
            let members = f64::from(place.shape.min_per_node);
            let crossing = bytes * other / (across.rate / members);
            return across.base
                + across.step * f64::from(place.shape.nodes - 1)
                + crossing.max(bytes * (volume - other) / inside.rate)
                + per_node;
        }
        let mut best = flat;
        if call.collective == Collective::AllReduce {
            let depth = f64::from(place.shape.nodes).log2().ceil()
                + f64::from(place.shape.max_per_node).log2().ceil();
            let tree = across.base
                + across.step * (2.0 * depth)
                + bytes * 2.0 / across.rate.min(inside.rate)
                + per_node;
            best = best.min(tree);
        }
        if place.shape.max_per_node == place.shape.min_per_node && place.shape.max_per_node > 1 {
            // Each member's part crosses on its own share of the cards.
            let (inner, inner_steps) = ring(call.collective, place.shape.max_per_node);
            let (outer, outer_steps) = ring(call.collective, place.shape.nodes);
            let hierarchical = inside.base
                + across.base
                + inside.step * inner_steps
                + across.step * outer_steps
                + bytes * inner / inside.rate
                + bytes * outer / across.rate
                + per_node;
            best = best.min(hierarchical);
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_volumes() {
        // 2 (n - 1) / n of the buffer for an all-reduce, half of that for its two halves.
        for n in [2_u32, 4, 8, 192] {
            let share = f64::from(n - 1) / f64::from(n);
            assert_eq!(ring(Collective::AllReduce, n), (2.0 * share, 2.0 * f64::from(n - 1)));
            assert_eq!(ring(Collective::AllGather, n).0, share);
            assert_eq!(ring(Collective::ReduceScatter, n).0, share);
        }
    }
}
