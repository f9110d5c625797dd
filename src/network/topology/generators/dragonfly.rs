//! Dragonfly: groups of switches, all-to-all inside a group and between groups (Kim et al. 2008;
//! Slingshot).

use super::{
    ForFabrics, Generator, Parameter, Preset, SWITCH_LATENCY, Unit, Values, link, port_rate, refuse,
};
use crate::error::Result;
use crate::network::topology::{LinkKind, NodeKind, Topology};

/// What distinguishes one dragonfly from another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameters {
    /// Nodes (servers).
    pub nodes: u32,
    /// Cards per node.
    pub cards_per_node: u32,
    /// Cards per switch.
    pub cards_per_switch: u32,
    /// Switches per group.
    pub switches_per_group: u32,
    /// Cables between two groups.
    pub global_cables: u32,
    /// Ports of a switch.
    pub radix: u32,
    /// Rate of a port, bytes per second, one direction.
    pub port_rate: f64,
}

impl Parameters {
    /// Slingshot as in Frontier: 64 ports of 25 GB/s, 16 cards per switch, 32 switches per group,
    /// four cards per node (sizes from memory; assumed).
    #[must_use]
    pub fn slingshot(nodes: u32) -> Self {
        Self {
            nodes,
            cards_per_node: 4,
            cards_per_switch: 16,
            switches_per_group: 32,
            global_cables: 8,
            radix: 64,
            port_rate: 25e9,
        }
    }
}

fn parameters(v: &Values, nodes: u32) -> Parameters {
    Parameters {
        nodes,
        cards_per_node: v.count("cards_per_node"),
        cards_per_switch: v.count("cards_per_switch"),
        switches_per_group: v.count("switches_per_group"),
        global_cables: v.count("global_cables"),
        radix: v.count("radix"),
        port_rate: v.number("port_rate"),
    }
}

/// [`Parameters`] by name.
pub static GENERATOR: Generator = Generator {
    presets: &[Preset {
        name: "dragonfly",
        about: "groups of switches, all-to-all (Slingshot)",
        set: &[],
    }],
    parameters: &[
        Parameter::new("cards_per_node", Unit::Count, 4.0, "cards of a server"),
        Parameter::new("cards_per_switch", Unit::Count, 16.0, "cards of a switch"),
        Parameter::new("switches_per_group", Unit::Count, 32.0, "switches of a group"),
        Parameter::new("global_cables", Unit::Count, 8.0, "cables between two groups"),
        Parameter::new("radix", Unit::Count, 64.0, "ports of a switch"),
        Parameter::new("port_rate", Unit::Rate, 25e9, "of a card and a switch's port"),
    ],
    one_server: false,
    links: |v, nodes| {
        let cards = nodes * v.number("cards_per_node");
        let switches = v.number("switches_per_group");
        let groups = (cards / (v.number("cards_per_switch") * switches)).ceil();
        // The last is a bound: a group has no more cables than ports.
        cards + groups * switches * (switches / 2.0 + v.number("radix"))
    },
    fits: |v, nodes| fits(&parameters(v, nodes)),
    build: |v, nodes| build(&parameters(v, nodes)),
    fabrics: &[ForFabrics {
        name: "dragonfly",
        about: "Groups of switches, all-to-all between groups.",
        rails: false,
        joins_rails: true,
        tapers: false,
        line: false,
        values: |v, fabric, node, nodes| {
            let values = v
                .with("cards_per_node", node.nic.count.into())
                .with("radix", fabric.switch.ports.value.0.trunc())
                .with("port_rate", port_rate(fabric, node));
            // As many cables between two groups as all groups together leave ports for.
            let p = parameters(&values, nodes);
            let others = groups(&p).saturating_sub(1).max(1);
            let cables = p.global_cables.min(free_ports(&p) / others).max(1);
            Ok((values.with("global_cables", cables.into()), nodes))
        },
    }],
};

/// Groups that hold the cards.
fn groups(p: &Parameters) -> u32 {
    let per_group = p.cards_per_switch.saturating_mul(p.switches_per_group).max(1);
    p.nodes.saturating_mul(p.cards_per_node).div_ceil(per_group)
}

/// Ports of a group that neither cards nor its own switches take.
fn free_ports(p: &Parameters) -> u32 {
    let taken = p.cards_per_switch.saturating_add(p.switches_per_group.saturating_sub(1));
    p.radix.saturating_sub(taken).saturating_mul(p.switches_per_group)
}

/// Whether the cards fit, without building anything.
///
/// # Errors
/// A switch would need more ports than it has.
pub fn fits(p: &Parameters) -> Result<()> {
    if p.cards_per_switch == 0 || p.switches_per_group == 0 || p.cards_per_node == 0 {
        return Err(refuse("a dragonfly needs cards, switches and groups".into()));
    }
    let (groups, free) = (groups(p), free_ports(p));
    let needed = groups.saturating_sub(1).saturating_mul(p.global_cables);
    if needed > free {
        return Err(refuse(format!(
            "{groups} groups need {needed} global ports each, and a group of {} radix-{} switches \
             has {free} left",
            p.switches_per_group, p.radix
        )));
    }
    Ok(())
}

/// Builds the network; endpoints are the cards. Cards of a node sit on different switches.
///
/// # Errors
/// A switch would need more ports than it has.
pub fn build(p: &Parameters) -> Result<Topology> {
    fits(p)?;
    let cards = p.nodes * p.cards_per_node;
    let per_group = p.cards_per_switch * p.switches_per_group;
    let groups = cards.div_ceil(per_group);
    let mut t = Topology::new(
        format!("dragonfly, {cards} cards, {groups} groups of {} switches", p.switches_per_group),
        (cards + groups * p.switches_per_group) as usize,
        (cards + groups * p.switches_per_group * p.switches_per_group / 2) as usize,
    );
    t.radix = Some(p.radix);
    t.card_ports = Some(p.cards_per_switch);
    t.endpoints_per_node = p.cards_per_node;
    let switches: Vec<Vec<_>> = (0..groups)
        .map(|g| (0..p.switches_per_group).map(|i| t.add(NodeKind::Switch(1), g, i)).collect())
        .collect();
    for group in &switches {
        for (i, a) in group.iter().enumerate() {
            for b in &group[i + 1..] {
                t.link(*a, *b, link(p.port_rate, SWITCH_LATENCY, LinkKind::Copper, 1));
            }
        }
    }
    // Cables of a group pair are dealt out over the group's switches in turn.
    let mut next = vec![0_u32; groups as usize];
    for a in 0..groups {
        for b in a + 1..groups {
            for _ in 0..p.global_cables {
                let mut deal = |g: u32| {
                    let turn = next[g as usize];
                    next[g as usize] += 1;
                    switches[g as usize][(turn % p.switches_per_group) as usize]
                };
                let (x, y) = (deal(a), deal(b));
                t.link(x, y, link(p.port_rate, SWITCH_LATENCY, LinkKind::Optical, 1));
            }
        }
    }
    for card in 0..cards {
        let (node, position) = (card / p.cards_per_node, card % p.cards_per_node);
        let (group, inside) = (card / per_group, card % per_group);
        let nic = t.add(NodeKind::Nic, node, position);
        t.endpoints.push(nic);
        // Consecutive cards of a node on consecutive switches.
        let switch = inside % p.switches_per_group;
        t.link(
            nic,
            switches[group as usize][switch as usize],
            link(p.port_rate, SWITCH_LATENCY, LinkKind::Copper, 1),
        );
    }
    Ok(t)
}
