//! What a network is made of, counted from its nodes and edges, and what that costs and draws.

use std::collections::BTreeMap;

use petgraph::graph::{EdgeReference, NodeIndex};
use petgraph::visit::EdgeRef;

use super::{Link, LinkKind, NodeKind, Topology};
use crate::hardware::Fabric;
use crate::units::{Dollars, Watts};

/// Counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Materials {
    /// Devices.
    pub devices: u64,
    /// Network cards.
    pub nics: u64,
    /// Switches of the scale-out network by tier.
    pub switches: BTreeMap<u8, u64>,
    /// Switches of scale-up domains.
    pub scale_up_switches: u64,
    /// Routers at the ends of a line between sites; the catalogue has neither price nor power of any.
    pub routers: u64,
    /// Cables by kind.
    pub cables: BTreeMap<LinkKind, u64>,
    /// Optical modules: one at each end of an optical cable.
    pub transceivers: u64,
}

impl Materials {
    /// Switches of all tiers of the scale-out network.
    #[must_use]
    pub fn total_switches(&self) -> u64 {
        self.switches.values().sum()
    }
}

/// Unit prices and powers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnitCosts {
    /// One switch; `None` where it is not known.
    pub switch_price: Option<Dollars>,
    /// One switch in training.
    pub switch_power: Watts,
    /// One optical module; `None` where it is not known.
    pub transceiver_price: Option<Dollars>,
    /// One optical module.
    pub transceiver_power: Watts,
}

impl UnitCosts {
    /// Those of a catalogue fabric.
    #[must_use]
    pub fn of(fabric: &Fabric) -> Self {
        Self {
            switch_price: fabric.switch.price.as_ref().map(|price| price.value),
            switch_power: fabric.switch.power.value,
            transceiver_price: fabric.transceiver.price.as_ref().map(|price| price.value),
            transceiver_power: fabric.transceiver.power.value,
        }
    }

    /// What has no price here.
    #[must_use]
    pub fn unpriced(&self) -> Vec<&'static str> {
        let parts = [
            ("a switch", self.switch_price.is_none()),
            ("a transceiver", self.transceiver_price.is_none()),
        ];
        parts.into_iter().filter(|(_, missing)| *missing).map(|(part, _)| part).collect()
    }
}

/// Price and power of the counted parts of the scale-out network. Cables have no price of their own:
/// sources quote them together with the modules at their ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Totals {
    /// Switches and optical modules; `None` where a price of what there is is not known.
    pub price: Option<Dollars>,
    /// Switches and optical modules.
    pub power: Watts,
}

/// Counts a network.
#[must_use]
pub fn count(topology: &Topology) -> Materials {
    let mut materials = Materials::default();
    for vertex in topology.graph.node_weights() {
        match vertex.kind {
            NodeKind::Device => materials.devices += 1,
            NodeKind::Nic => materials.nics += 1,
            NodeKind::Switch(tier) => *materials.switches.entry(tier).or_default() += 1,
            NodeKind::ScaleUpSwitch => materials.scale_up_switches += 1,
            NodeKind::Router => materials.routers += 1,
            NodeKind::Host => {}
        }
    }
    for edge in topology.graph.edge_references() {
        let link = edge.weight();
        *materials.cables.entry(link.kind).or_default() += u64::from(link.cables);
        if link.kind == LinkKind::Optical {
            materials.transceivers += 2 * u64::from(link.cables);
        }
    }
    materials
}

/// Power that the ports in use draw: a switch counts with the share of its ports that cables take, so
/// that a small job does not pay for all of a switch that others fill. Where switches of one tier are
/// joined to each other (a dragonfly), those cables are there whoever uses the network, and the share
/// is that of the ports for cards. Modules count as they are plugged, between switches of one tier as
/// far as these are used.
#[must_use]
pub fn power_in_use(topology: &Topology, unit: &UnitCosts) -> Watts {
    let graph = &topology.graph;
    let tier = |index: NodeIndex<u32>| match graph[index].kind {
        NodeKind::Switch(tier) => Some(tier),
        _ => None,
    };
    let share = |index: NodeIndex<u32>| {
        let Some(own) = tier(index) else { return 1.0 };
        let cables = |across: bool| -> u32 {
            let far = |edge: &EdgeReference<'_, Link>| match edge.source() == index {
                true => edge.target(),
                false => edge.source(),
            };
            let edges = graph.edges(index);
            let wanted = edges.filter(|edge| (tier(far(edge)) == Some(own)) == across);
            wanted.map(|edge| u32::from(edge.weight().cables)).sum()
        };
        let ports = if cables(true) > 0 { topology.card_ports } else { topology.radix };
        match ports {
            Some(ports) if ports > 0 => (f64::from(cables(false)) / f64::from(ports)).min(1.0),
            _ => 1.0,
        }
    };
    let shares: Vec<f64> = graph.node_indices().map(share).collect();
    let is_switch = |index: &NodeIndex<u32>| tier(*index).is_some();
    let switches: f64 =
        graph.node_indices().filter(is_switch).map(|index| shares[index.index()]).sum();
    let modules: f64 = graph
        .edge_references()
        .filter(|edge| edge.weight().kind == LinkKind::Optical)
        .map(|edge| {
            let ends = [edge.source(), edge.target()];
            let between = tier(ends[0]).is_some() && tier(ends[0]) == tier(ends[1]);
            let used = ends.map(|end| if between { shares[end.index()] } else { 1.0 });
            f64::from(edge.weight().cables) * (used[0] + used[1])
        })
        .sum();
    unit.switch_power * switches + unit.transceiver_power * modules
}

impl Materials {
    /// Price and power at unit costs.
    #[must_use]
    pub fn totals(&self, unit: &UnitCosts) -> Totals {
        let (switches, modules) = (self.total_switches() as f64, self.transceivers as f64);
        Totals {
            price: match (unit.switch_price, unit.transceiver_price) {
                (Some(switch), Some(module)) => Some(switch * switches + module * modules),
                (Some(switch), None) if self.transceivers == 0 => Some(switch * switches),
                (None, Some(module)) if switches == 0.0 => Some(module * modules),
                _ => None,
            },
            power: unit.switch_power * switches + unit.transceiver_power * modules,
        }
    }
}
