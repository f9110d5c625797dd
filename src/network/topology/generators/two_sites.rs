//! Two data centres, each a rail-optimised Clos, joined by routers over a wide-area link.

use super::{
    ForFabrics, Generator, Parameter, Preset, Unit, Values, clos, link, port_rate, refuse,
};
use crate::error::Result;
use crate::network::topology::{LinkKind, NodeKind, Topology};
use petgraph::graph::NodeIndex;

/// What distinguishes one such pair from another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameters {
    /// Nodes of each site.
    pub nodes: [u32; 2],
    /// Cards per node.
    pub cards_per_node: u32,
    /// Ports of a switch.
    pub radix: u32,
    /// Rate of a port, bytes per second, one direction.
    pub port_rate: f64,
    /// Rate of the wide-area link, bytes per second, one direction.
    pub wan_rate: f64,
    /// One-way delay of the wide-area link, seconds.
    pub wan_latency: f64,
}

impl Parameters {
    /// `nodes` split in two halves, 400 Gb/s ports, 800 Gb/s and 5 ms (1,000 km of fibre) between.
    #[must_use]
    pub fn example(nodes: u32) -> Self {
        Self {
            nodes: [nodes.div_ceil(2), nodes / 2],
            cards_per_node: 8,
            radix: 64,
            port_rate: 50e9,
            wan_rate: 100e9,
            wan_latency: 5e-3,
        }
    }
}

fn parameters(v: &Values, nodes: u32) -> Parameters {
    let first = v.count_or_auto("first_site").unwrap_or(nodes.div_ceil(2));
    Parameters {
        nodes: [first, nodes.saturating_sub(first)],
        cards_per_node: v.count("cards_per_node"),
        radix: v.count("radix"),
        port_rate: v.number("port_rate"),
        wan_rate: v.number("wan_rate"),
        wan_latency: v.number("wan_latency"),
    }
}

/// [`Parameters`] by name.
pub static GENERATOR: Generator = Generator {
    presets: &[Preset {
        name: "two-sites",
        about: "two rail-optimised data centres over a WAN",
        set: &[],
    }],
    parameters: &[
        Parameter::new("first_site", Unit::CountOrAuto, 0.0, "nodes there; auto: half of them"),
        Parameter::new("cards_per_node", Unit::Count, 8.0, "cards of a server, one per rail"),
        Parameter::new("radix", Unit::Count, 64.0, "ports of a switch"),
        Parameter::new("port_rate", Unit::Rate, 50e9, "of a card and a switch's port"),
        Parameter::new("wan_rate", Unit::Rate, 100e9, "of the line between the sites"),
        Parameter::new("wan_latency", Unit::Time, 5e-3, "of the line, one way"),
    ],
    one_server: false,
    links: |v, nodes| 3.0 * nodes * v.number("cards_per_node"),
    fits: |v, nodes| fits(&parameters(v, nodes)),
    build: |v, nodes| build(&parameters(v, nodes)),
    fabrics: &[ForFabrics {
        name: "two_sites",
        about: "Two rail-optimised Clos networks, each with half of the nodes, joined over a \
                wide-area line.",
        rails: true,
        joins_rails: true,
        tapers: false,
        line: true,
        values: |v, fabric, node, nodes| {
            let wan = fabric.wan.as_ref();
            let values = v
                .with("cards_per_node", node.nic.count.into())
                .with("radix", fabric.switch.ports.value.0.trunc())
                .with("port_rate", port_rate(fabric, node))
                // The catalogue has no two sites without a line.
                .with("wan_rate", wan.map_or(0.0, |line| line.bandwidth.value.get()))
                .with("wan_latency", wan.map_or(0.0, |line| line.latency.value.get()));
            Ok((values, nodes))
        },
    }],
};

/// Whether the nodes fit, without building anything.
///
/// # Errors
/// As [`build`].
pub fn fits(p: &Parameters) -> Result<()> {
    if p.nodes.contains(&0) {
        return Err(refuse("two sites need at least one node each".into()));
    }
    p.nodes.iter().try_for_each(|nodes| clos::fits(&one_site(p, *nodes)))
}

fn one_site(p: &Parameters, nodes: u32) -> clos::Parameters {
    clos::Parameters::rail_optimised(nodes, p.cards_per_node, p.radix, p.port_rate, 2)
}

/// Builds the pair; endpoints are the cards of the first site, then of the second.
///
/// # Errors
/// A site is empty or does not fit into two tiers.
pub fn build(p: &Parameters) -> Result<Topology> {
    fits(p)?;
    let mut t = Topology::new(
        format!("two sites of {} and {} nodes over a WAN", p.nodes[0], p.nodes[1]),
        0,
        0,
    );
    t.endpoints_per_node = p.cards_per_node;
    let mut routers = Vec::new();
    for (site, nodes) in (0_u32..).zip(p.nodes) {
        let one = clos::build(&one_site(p, nodes))?;
        let offset = t.graph.node_count();
        for vertex in one.graph.node_weights() {
            let group = if vertex.kind == NodeKind::Nic {
                vertex.group + site * p.nodes[0]
            } else {
                vertex.group
            };
            t.add(vertex.kind, group, vertex.index);
        }
        let moved = |node: NodeIndex<u32>| NodeIndex::new(node.index() + offset);
        for edge in one.graph.raw_edges() {
            t.link(moved(edge.source()), moved(edge.target()), edge.weight);
        }
        t.endpoints.extend(one.endpoints.iter().map(|e| moved(*e)));
        let router = t.add(NodeKind::Router, site, 0);
        let top = one
            .graph
            .node_weights()
            .filter_map(|v| match v.kind {
                NodeKind::Switch(tier) => Some(tier),
                _ => None,
            })
            .max()
            .unwrap_or(1);
        let tops: Vec<_> = one
            .graph
            .node_indices()
            .filter(|n| one.graph[*n].kind == NodeKind::Switch(top))
            .map(moved)
            .collect();
        for switch in tops {
            t.link(switch, router, link(p.wan_rate, super::SWITCH_LATENCY, LinkKind::Optical, 1));
        }
        routers.push(router);
    }
    t.link(routers[0], routers[1], link(p.wan_rate, p.wan_latency, LinkKind::Wan, 1));
    Ok(t)
}
