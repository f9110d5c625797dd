//! Folded Clos networks: fat trees and rail-optimised fabrics, two or three tiers, with
//! oversubscription.
//!
//! # Sizes
//!
//! With switches of `R` ports and no oversubscription, a leaf has `R/2` ports down and up. Two
//! tiers join up to `R` leaves (`R^2/2` cards); three tiers pods of `R/2` leaves and `R/2` spines
//! (`R^3/4` cards). For `N` cards that fill whole pods that makes `5N/R` switches and `3N` cables
//! (Al-Fares et al. 2008). Where `N` does not fill a tier, spines and cores are only as many as the
//! uplinks need, and several parallel cables run between two switches.
//!
//! Rail-optimised means that the cards of index `i` of the nodes of a group share leaf `i`, so that
//! traffic between equal indices stays below one leaf; a fat tree puts all cards of a node on one
//! leaf.

use super::{
    ForFabrics, Generator, Parameter, Preset, SWITCH_LATENCY, Unit, Values, link, port_rate, refuse,
};
use crate::error::Result;
use crate::hardware::{Fabric, Node};
use crate::network::topology::{LinkKind, NodeKind, Topology};

/// What distinguishes one Clos network from another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameters {
    /// Cards in the network.
    pub cards: u32,
    /// Cards per node (server).
    pub cards_per_node: u32,
    /// Ports of a switch.
    pub radix: u32,
    /// Rate of a port, bytes per second, one direction.
    pub port_rate: f64,
    /// 2 or 3; the smallest that fits where `None`.
    pub tiers: Option<u8>,
    /// Host-facing over spine-facing bandwidth of a leaf: 1 is non-blocking.
    pub oversubscription: f64,
    /// Cards of equal index share a leaf.
    pub rails: bool,
    /// Cards below a leaf instead of what radix and oversubscription allow.
    pub cards_per_leaf: Option<u32>,
}

impl Parameters {
    /// A non-blocking fat tree of `cards`.
    #[must_use]
    pub fn fat_tree(cards: u32, cards_per_node: u32, radix: u32, port_rate: f64) -> Self {
        Self {
            cards,
            cards_per_node,
            radix,
            port_rate,
            tiers: None,
            oversubscription: 1.0,
            rails: false,
            cards_per_leaf: None,
        }
    }

    /// A non-blocking rail-optimised Clos of `nodes` servers with `tiers` tiers at most.
    #[must_use]
    pub fn rail_optimised(
        nodes: u32,
        cards_per_node: u32,
        radix: u32,
        rate: f64,
        tiers: u8,
    ) -> Self {
        Self {
            rails: true,
            tiers: Some(tiers),
            ..Self::fat_tree(nodes * cards_per_node, cards_per_node, radix, rate)
        }
    }
}

fn parameters(v: &Values, nodes: u32) -> Parameters {
    let cards_per_node = v.count("cards_per_node");
    Parameters {
        cards: nodes.saturating_mul(cards_per_node),
        cards_per_node,
        radix: v.count("radix"),
        port_rate: v.number("port_rate"),
        tiers: v.count_or_auto("tiers").map(|tiers| tiers.min(255) as u8),
        oversubscription: v.number("oversubscription"),
        rails: v.flag("rails"),
        cards_per_leaf: v.count_or_auto("cards_per_leaf"),
    }
}

fn of_fabric(v: Values, fabric: &Fabric, node: &Node, nodes: u32) -> Result<(Values, u32)> {
    let values = v
        .with("cards_per_node", node.nic.count.into())
        .with("radix", fabric.switch.ports.value.0.trunc())
        .with("port_rate", port_rate(fabric, node))
        .with("oversubscription", fabric.oversubscription.value.0.max(1.0));
    Ok((values, nodes))
}

/// [`Parameters`] by name.
pub static GENERATOR: Generator = Generator {
    presets: &[
        Preset {
            name: "fat-tree",
            about: "full-bisection fat tree of radix-64 switches",
            set: &[],
        },
        Preset {
            name: "rail-optimised",
            about: "Clos in which card i of every node of a group meets on leaf i",
            set: &[("rails", 1.0), ("tiers", 2.0)],
        },
        Preset {
            name: "rail-optimised-3",
            about: "the same with three tiers",
            set: &[("rails", 1.0), ("tiers", 3.0)],
        },
    ],
    parameters: &[
        Parameter::new("radix", Unit::Count, 64.0, "ports of a switch"),
        Parameter::new("tiers", Unit::CountOrAuto, 0.0, "2 or 3; auto: the fewest that fit"),
        Parameter::new("oversubscription", Unit::Factor, 1.0, "down over up at a leaf"),
        Parameter::new("cards_per_node", Unit::Count, 8.0, "cards of a server, one per rail"),
        Parameter::new("port_rate", Unit::Rate, 50e9, "of a card and a switch's port"),
        Parameter::new("rails", Unit::Flag, 0.0, "cards of equal index share a leaf"),
        Parameter::new(
            "cards_per_leaf",
            Unit::CountOrAuto,
            0.0,
            "auto: what radix and oversubscription allow",
        ),
    ],
    one_server: false,
    links: |v, nodes| 3.0 * nodes * v.number("cards_per_node"),
    fits: |v, nodes| fits(&parameters(v, nodes)),
    build: |v, nodes| build(&parameters(v, nodes)),
    fabrics: &[
        ForFabrics {
            name: "rail_optimised_clos",
            about: "Clos in which card `i` of every node of a group meets on leaf `i`.",
            rails: true,
            joins_rails: true,
            tapers: true,
            line: false,
            values: |v, fabric, node, nodes| of_fabric(v.with("rails", 1.0), fabric, node, nodes),
        },
        ForFabrics {
            name: "fat_tree",
            about: "Clos without rails: cards fill the leaves in order, a node's on one leaf if they divide \
                    its ports.",
            rails: false,
            joins_rails: true,
            tapers: true,
            line: false,
            values: of_fabric,
        },
    ],
};

/// How many switches, and where they stand.
struct Plan {
    down: u32,
    up: u32,
    leaves: u32,
    tiers: u8,
}

fn plan(p: &Parameters) -> Result<Plan> {
    if p.radix < 2 || p.cards == 0 || p.cards_per_node == 0 {
        return Err(refuse("a Clos network needs switches, cards and nodes".into()));
    }
    if !(p.oversubscription >= 1.0 && p.oversubscription.is_finite()) {
        return Err(refuse(format!(
            "oversubscription {} is below 1: 2 means half as much up as down",
            p.oversubscription
        )));
    }
    if let Some(other) = p.tiers.filter(|tiers| ![2, 3].contains(tiers)) {
        return Err(refuse(format!("{other} tiers: a Clos here has 2 or 3")));
    }
    let radix = f64::from(p.radix);
    let share = p.oversubscription / (1.0 + p.oversubscription);
    let down = p.cards_per_leaf.unwrap_or((radix * share).floor() as u32).max(1);
    // A network smaller than one group of leaves needs no more uplinks than its leaves have cards.
    let below = if p.rails { down.min(p.cards.div_ceil(p.cards_per_node)) } else { down };
    let up = ((f64::from(below) / p.oversubscription).ceil() as u32).max(1);
    // All in one switch, unless something else is asked for.
    let free = p.tiers.is_none() && p.cards_per_leaf.is_none();
    if p.cards <= p.radix && !p.rails && free {
        return Ok(Plan { down: p.radix, up: 0, leaves: 1, tiers: 1 });
    }
    if down.saturating_add(up) > p.radix {
        return Err(refuse(format!(
            "{down} ports down and {up} up are more than the {} of a switch",
            p.radix
        )));
    }
    let leaves = if p.rails {
        // A group of `down` nodes has one leaf per rail; a group that is not full still has all.
        p.cards_per_node.saturating_mul(p.cards.div_ceil(p.cards_per_node).div_ceil(down))
    } else {
        p.cards.div_ceil(down)
    };
    if leaves == 1 || (p.rails && leaves == p.cards_per_node && p.cards_per_node == 1) {
        return Ok(Plan { down, up: 0, leaves, tiers: 1 });
    }
    let two_tiers = leaves <= p.radix;
    let tiers = match p.tiers {
        None if two_tiers => 2,
        Some(2) if two_tiers => 2,
        Some(2) => {
            return Err(refuse(format!(
                "{} cards need {leaves} leaves, and two tiers of radix-{} switches join {}",
                p.cards, p.radix, p.radix
            )));
        }
        None | Some(_) => 3,
    };
    // A pod holds R/2 leaves, and a spine's R/2 uplinks reach R pods at most.
    let most = (u64::from(p.radix) * u64::from(p.radix / 2)).saturating_mul(down.into());
    if tiers == 3 && u64::from(p.cards) > most {
        return Err(refuse(format!(
            "{} cards are more than the {most} that three tiers of radix-{} switches join",
            p.cards, p.radix
        )));
    }
    Ok(Plan { down, up, leaves, tiers })
}

/// Joins `lower` switches to `upper` ones with `up` cables each, spread evenly; parallel cables are
/// one edge.
fn join(
    t: &mut Topology,
    lower: &[petgraph::graph::NodeIndex<u32>],
    upper: &[petgraph::graph::NodeIndex<u32>],
    up: u32,
    rate: f64,
) {
    let width = upper.len() as u32;
    for (number, low) in (0_u32..).zip(lower) {
        // The remainder goes to different switches for different leaves.
        let start = (u64::from(number) * u64::from(up % width) % u64::from(width)) as u32;
        for (i, high) in (0_u32..).zip(upper) {
            let extra = (i + width - start) % width < up % width;
            let cables = up / width + u32::from(extra);
            if cables > 0 {
                t.link(*low, *high, link(rate, SWITCH_LATENCY, LinkKind::Optical, cables as u16));
            }
        }
    }
}

/// Whether the cards fit, without building anything.
///
/// # Errors
/// As [`build`].
pub fn fits(p: &Parameters) -> Result<()> {
    plan(p).map(|_| ())
}

/// Builds the network; endpoints are the cards.
///
/// # Errors
/// The cards do not fit into the tiers, or the parameters make no network.
pub fn build(p: &Parameters) -> Result<Topology> {
    let plan = plan(p)?;
    let kind = if p.rails { "rail-optimised Clos" } else { "fat tree" };
    let mut t = Topology::new(
        format!(
            "{kind}, {} cards, {} tiers of radix-{}, oversubscription {}",
            p.cards, plan.tiers, p.radix, p.oversubscription
        ),
        (p.cards + plan.leaves * 3) as usize,
        (p.cards * u32::from(plan.tiers)) as usize,
    );
    t.radix = Some(p.radix);
    t.endpoints_per_node = p.cards_per_node;
    let leaves: Vec<_> = (0..plan.leaves).map(|leaf| t.add(NodeKind::Switch(1), leaf, 0)).collect();
    for card in 0..p.cards {
        let (node, rail) = (card / p.cards_per_node, card % p.cards_per_node);
        let leaf =
            if p.rails { (node / plan.down) * p.cards_per_node + rail } else { card / plan.down };
        let nic = t.add(NodeKind::Nic, node, rail);
        t.endpoints.push(nic);
        t.link(nic, leaves[leaf as usize], link(p.port_rate, SWITCH_LATENCY, LinkKind::Optical, 1));
    }
    match plan.tiers {
        1 => {}
        2 => {
            let spines = (plan.leaves * plan.up).div_ceil(p.radix).max(1);
            let spines: Vec<_> = (0..spines).map(|i| t.add(NodeKind::Switch(2), 0, i)).collect();
            join(&mut t, &leaves, &spines, plan.up, p.port_rate);
        }
        _ => {
            let half = p.radix / 2;
            let pods: Vec<_> = leaves.chunks(half as usize).collect();
            let mut all_spines = Vec::new();
            for (pod, members) in (0_u32..).zip(&pods) {
                // Half a spine's ports lead down.
                let count = (members.len() as u32 * plan.up).div_ceil(half).max(1);
                let spines: Vec<_> =
                    (0..count).map(|i| t.add(NodeKind::Switch(2), pod, i)).collect();
                join(&mut t, members, &spines, plan.up, p.port_rate);
                all_spines.push(spines);
            }
            // Spine i of every pod belongs to plane i; a plane's cores join the pods.
            let planes = all_spines.iter().map(Vec::len).max().unwrap_or(0);
            let mut number = 0;
            for plane in 0..planes {
                let members: Vec<_> =
                    all_spines.iter().filter_map(|pod| pod.get(plane).copied()).collect();
                let cores = (members.len() as u32 * half).div_ceil(p.radix).max(1);
                let cores: Vec<_> = (0..cores)
                    .map(|_| {
                        number += 1;
                        t.add(NodeKind::Switch(3), plane as u32, number - 1)
                    })
                    .collect();
                join(&mut t, &members, &cores, half, p.port_rate);
            }
        }
    }
    Ok(t)
}
