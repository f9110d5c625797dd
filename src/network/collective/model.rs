//! The catalogue's constants as plain numbers, in the form in which the model evaluates them and
//! a fit changes them.

use super::Protocol;
use crate::hardware::{Branch, ByNodes, ByProtocol, CollectiveLibrary, ScaleUpKind, Transport};

/// One value per protocol, in the order of [`Protocol::ALL`].
pub type PerProtocol = [f64; 3];

/// One branch; seconds, bytes and fractions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BranchModel {
    /// Fixed time, seconds.
    pub base: f64,
    /// Per step, seconds.
    pub step: f64,
    /// Added when chunks are full, seconds.
    pub fill: f64,
    /// Added to every step when chunks are full, seconds.
    pub fill_step: f64,
    /// Bytes of a step at which chunks are half full.
    pub chunk: f64,
    /// Fraction of the scale-up rate.
    pub efficiency: f64,
    /// Overlap exponent, at least 1.
    pub overlap: f64,
}

impl BranchModel {
    fn new(branch: &Branch) -> Self {
        Self {
            base: branch.base.value.get(),
            step: branch.step.value.get(),
            fill: branch.fill.value.get(),
            fill_step: branch.fill_step.value.get(),
            chunk: branch.chunk.value.get(),
            efficiency: branch.efficiency.value.get(),
            overlap: branch.overlap.value.get(),
        }
    }

    /// `L` of the module's equation without the network's part: `steps` inside the node, `chunk`
    /// bytes each.
    #[must_use]
    pub fn latency(&self, steps: f64, chunk: f64) -> f64 {
        let full = chunk / (chunk + self.chunk);
        self.base + steps * self.step + full * (self.fill + steps * self.fill_step)
    }

    /// Combines latency and transfer.
    #[must_use]
    pub fn combine(&self, latency: f64, transfer: f64) -> f64 {
        if latency <= 0.0 || transfer <= 0.0 {
            return latency.max(transfer).max(0.0);
        }
        // Scaled by the larger of the two so that a large exponent cannot underflow.
        let (large, small) =
            if latency > transfer { (latency, transfer) } else { (transfer, latency) };
        large * (1.0 + (small / large).powf(self.overlap)).powf(1.0 / self.overlap)
    }
}

/// The tuner's constants; seconds and bytes per second.
#[derive(Clone, Debug, PartialEq)]
pub struct TunerModel {
    /// Fixed latency of rings.
    pub ring_base: PerProtocol,
    /// Fixed latency of trees.
    pub tree_base: PerProtocol,
    /// Ring step on scale-up links, PCI Express, between nodes.
    pub ring_hop: [PerProtocol; 3],
    /// The same for trees.
    pub tree_hop: [PerProtocol; 3],
    /// Fraction of the scale-up rate.
    pub ring_bandwidth: f64,
    /// Rings in a node.
    pub channels: f64,
    /// Cap on LL by number of nodes (1, 2, more).
    pub ll_max: [f64; 3],
    /// Cap on a ring channel of LL128.
    pub ring_ll128_channel: [f64; 3],
    /// Cap on a tree channel of LL128.
    pub tree_ll128_channel: [f64; 3],
    /// LL128 is enabled inside one node.
    pub ll128_one_node: bool,
    /// Latency, latency per level between nodes, efficiency, fewest ranks.
    pub in_switch: Option<(f64, f64, f64, u32)>,
}

/// A collective library as the model evaluates it.
#[derive(Clone, Debug, PartialEq)]
pub struct LibraryModel {
    /// Catalogue name.
    pub name: String,
    /// What the tuner believes.
    pub tuner: TunerModel,
    /// Ring branches in the order of [`Protocol::ALL`].
    pub ring: [BranchModel; 3],
    /// In-switch reduction.
    pub in_switch: Option<BranchModel>,
    /// Grouped sends and receives.
    pub point_to_point: BranchModel,
    /// Fraction of the PCI Express rate.
    pub pcie_efficiency: f64,
    /// Bytes per second of a quantise or dequantise kernel.
    pub quantise_rate: f64,
    /// SMs or CUs per channel.
    pub units_per_channel: f64,
    /// Whether `ring` and the rest were fitted on measurements.
    pub fitted: bool,
    /// Most ranks in the fit.
    pub max_ranks: u32,
}

fn by_protocol(figures: &ByProtocol) -> PerProtocol {
    [figures.ll.value.get(), figures.ll128.value.get(), figures.simple.value.get()]
}

fn by_nodes(figures: &ByNodes) -> [f64; 3] {
    [figures.one.value.get(), figures.two.value.get(), figures.more.value.get()]
}

impl LibraryModel {
    /// The model of a catalogue entry.
    #[must_use]
    pub fn new(library: &CollectiveLibrary) -> Self {
        let tuner = &library.tuner;
        let hops = |hop: &crate::hardware::HopLatency| {
            [by_protocol(&hop.scale_up), by_protocol(&hop.pcie), by_protocol(&hop.net)]
        };
        Self {
            name: library.name.clone(),
            tuner: TunerModel {
                ring_base: by_protocol(&tuner.ring_base),
                tree_base: by_protocol(&tuner.tree_base),
                ring_hop: hops(&tuner.ring_hop),
                tree_hop: hops(&tuner.tree_hop),
                ring_bandwidth: tuner.ring_bandwidth.value.get(),
                channels: tuner.channels.value.get(),
                ll_max: by_nodes(&tuner.ll_max),
                ring_ll128_channel: by_nodes(&tuner.ring_ll128_channel),
                tree_ll128_channel: by_nodes(&tuner.tree_ll128_channel),
                ll128_one_node: tuner.ll128_one_node,
                in_switch: tuner.in_switch.as_ref().map(|s| {
                    (
                        s.latency.value.get(),
                        s.net_latency.value.get(),
                        s.efficiency.value.get(),
                        s.min_ranks.value.get() as u32,
                    )
                }),
            },
            ring: [
                BranchModel::new(&library.branches.ring_ll),
                BranchModel::new(&library.branches.ring_ll128),
                BranchModel::new(&library.branches.ring_simple),
            ],
            in_switch: library.branches.in_switch.as_ref().map(BranchModel::new),
            point_to_point: BranchModel::new(&library.branches.point_to_point),
            pcie_efficiency: library.pcie_efficiency.value.get(),
            quantise_rate: library.quantise_rate.value.get(),
            units_per_channel: library.units_per_channel.value.get(),
            fitted: !library.fit.systems.is_empty(),
            max_ranks: library.fit.max_ranks,
        }
    }

    /// The ring branch of a protocol.
    #[must_use]
    pub fn ring(&self, protocol: Protocol) -> &BranchModel {
        &self.ring[protocol as usize]
    }

    /// Fraction of the scale-up rate a branch of a protocol reaches on links of a kind.
    #[must_use]
    pub fn efficiency(&self, branch: &BranchModel, protocol: Protocol, kind: ScaleUpKind) -> f64 {
        match kind {
            // A slot is slow enough for every branch to fill it; flags still take their share.
            ScaleUpKind::Pcie => self.pcie_efficiency * protocol.payload(),
            ScaleUpKind::Switch | ScaleUpKind::Xgmi | ScaleUpKind::Mesh => branch.efficiency,
        }
    }
}

/// A transport as the model evaluates it; seconds, bytes and fractions.
#[derive(Clone, Debug, PartialEq)]
pub struct TransportModel {
    /// Catalogue name.
    pub name: String,
    /// What the plug-in tells the tuner.
    pub tuner_latency: f64,
    /// Fixed time of crossing nodes.
    pub base: f64,
    /// Per step between nodes.
    pub hop: PerProtocol,
    /// Fraction of the card rate.
    pub efficiency: f64,
    /// Further fraction for LL and LL128.
    pub small_message_efficiency: f64,
    /// Bytes lost while the pipeline fills.
    pub fill_bytes: f64,
    /// Per node beyond the second.
    pub per_node: f64,
    /// LL128 may be used.
    pub ll128: bool,
    /// Whether it was fitted on measurements.
    pub fitted: bool,
    /// Most nodes in the fit.
    pub max_nodes: u32,
}

impl TransportModel {
    /// The model of a catalogue entry.
    #[must_use]
    pub fn new(transport: &Transport) -> Self {
        Self {
            name: transport.name.clone(),
            tuner_latency: transport.tuner_latency.value.get(),
            base: transport.base.value.get(),
            hop: by_protocol(&transport.hop),
            efficiency: transport.efficiency.value.get(),
            small_message_efficiency: transport.small_message_efficiency.value.get(),
            fill_bytes: transport.fill_bytes.value.get(),
            per_node: transport.per_node.value.get(),
            ll128: transport.ll128,
            fitted: !transport.fit.systems.is_empty(),
            max_nodes: transport.fit.max_nodes,
        }
    }
}
