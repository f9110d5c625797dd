//! What every network must satisfy.

use petgraph::unionfind::UnionFind;
use petgraph::visit::{EdgeRef, NodeIndexable};

use super::Topology;
use crate::error::{Error, Result};

pub(super) fn check(topology: &Topology) -> Result<()> {
    let graph = &topology.graph;
    for edge in graph.edge_references() {
        let link = edge.weight();
        if !(link.capacity.get() > 0.0 && link.capacity.get().is_finite()) {
            return Err(Error::Unsupported(format!(
                "{}: the link {} - {} has no bandwidth",
                topology.title,
                topology.name(edge.source()),
                topology.name(edge.target())
            )));
        }
        if !(link.latency.get() >= 0.0 && link.latency.get().is_finite()) {
            return Err(Error::Unsupported(format!(
                "{}: the link {} - {} has no latency",
                topology.title,
                topology.name(edge.source()),
                topology.name(edge.target())
            )));
        }
    }
    if let Some(radix) = topology.radix {
        for node in graph.node_indices() {
            let is_switch = graph.node_weight(node).is_some_and(|v| v.kind.is_switch());
            if !is_switch {
                continue;
            }
            let ports: u64 = graph.edges(node).map(|e| u64::from(e.weight().cables)).sum();
            if ports > u64::from(radix) {
                return Err(Error::Unsupported(format!(
                    "{}: {} has {ports} cables and {radix} ports",
                    topology.title,
                    topology.name(node)
                )));
            }
        }
    }
    let mut sets = UnionFind::<u32>::new(graph.node_bound());
    for edge in graph.edge_references() {
        sets.union(edge.source().index() as u32, edge.target().index() as u32);
    }
    if let Some((first, rest)) = topology.endpoints.split_first()
        && let Some(cut) = rest.iter().find(|e| !sets.equiv(first.index() as u32, e.index() as u32))
    {
        return Err(Error::Unsupported(format!(
            "{}: {} and {} are not connected",
            topology.title,
            topology.name(*first),
            topology.name(*cut)
        )));
    }
    Ok(())
}
