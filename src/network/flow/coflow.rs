//! Pipelined collectives as single transfers.
//!
//! The members of a ring (or tree) move in step: no edge can be faster than the slowest, so the
//! whole has one rate, and on every link it consumes that rate times the number of its edges that
//! cross it. A ring of `n` members that moves `W` bytes per member is one transfer of `W` bytes
//! whose weights count its `n` edges.

use std::collections::BTreeMap;

use petgraph::graph::NodeIndex;

use super::Problem;
use crate::error::Result;
use crate::network::topology::Topology;
use crate::network::topology::routing::Router;

/// A problem over all directed links of a network, without transfers yet.
#[must_use]
pub fn problem_of(topology: &Topology) -> Problem {
    let capacity = topology
        .graph
        .edge_weights()
        .flat_map(|link| [link.capacity.get(), link.capacity.get()])
        .collect();
    Problem::new(capacity)
}

/// Directed links a ring of members uses, with how many of its edges cross each.
///
/// # Errors
/// Two neighbours are not connected.
pub fn ring_uses(
    router: &mut Router<'_>,
    members: &[NodeIndex<u32>],
    label: u64,
) -> Result<Vec<(u32, f64)>> {
    let mut uses: BTreeMap<u32, f64> = BTreeMap::new();
    for (i, from) in members.iter().enumerate() {
        let to = members[(i + 1) % members.len()];
        if *from == to {
            continue;
        }
        for hop in router.route(*from, to, label)?.hops {
            *uses.entry(hop.index() as u32).or_default() += 1.0;
        }
    }
    Ok(uses.into_iter().collect())
}

/// Rates of coflows that all run at once, bytes per second each member moves.
///
/// # Errors
/// As for [`Problem::add`].
pub fn rates(capacity: &[f64], coflows: &[Vec<(u32, f64)>]) -> Result<Vec<f64>> {
    let mut problem = Problem::new(capacity.to_vec());
    for uses in coflows {
        problem.add_sorted(1.0, 0.0, f64::INFINITY, uses)?;
    }
    Ok(super::rates(&problem))
}
