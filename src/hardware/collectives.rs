//! What the catalogue says about collective libraries and about the way messages cross nodes.
//!
//! A [`CollectiveLibrary`] is one library (NCCL, RCCL, HCCL) of one generation on one accelerator
//! architecture; a [`Transport`] is one way out of the node (`InfiniBand`, EFA, Slingshot, ...). The
//! two are independent, so that a new fabric under a known accelerator, or the reverse, is one
//! file. Both hold two kinds of numbers that must not be mixed up: what the library's *tuner*
//! believes (published constants, which decide the algorithm) and what collectives *take* (fitted
//! to measurements, with the rows and residuals in [`FitRecord`]).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::figure::{Curve, Figure};
use super::types::{ScaleUpKind, Sources};
use crate::units::{Bytes, BytesPerSecond, Count, Ratio, Seconds};

/// One latency per protocol of the library.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ByProtocol {
    /// Low-latency protocol: 4 bytes of data with 4 bytes of flag.
    pub ll: Figure<Seconds>,
    /// 120 bytes of data with 8 bytes of flag.
    pub ll128: Figure<Seconds>,
    /// Bulk transfer with separate synchronisation.
    pub simple: Figure<Seconds>,
}

/// One figure per number of nodes, as the tuner distinguishes them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ByNodes {
    /// Inside one node.
    pub one: Figure<BytesPerSecond>,
    /// Across two nodes.
    pub two: Figure<BytesPerSecond>,
    /// Across more than two nodes.
    pub more: Figure<BytesPerSecond>,
}

/// Latency per step on each kind of link.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HopLatency {
    /// Scale-up links (`NVLink`, `xGMI`, HCCS).
    pub scale_up: ByProtocol,
    /// PCI Express.
    pub pcie: ByProtocol,
    /// Between nodes.
    pub net: ByProtocol,
}

/// What the library's tuner believes; decides the algorithm and protocol, never the duration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tuner {
    /// Fixed latency of ring algorithms.
    pub ring_base: ByProtocol,
    /// Fixed latency of tree algorithms.
    pub tree_base: ByProtocol,
    /// Latency of a ring step.
    pub ring_hop: HopLatency,
    /// Latency of a tree step.
    pub tree_hop: HopLatency,
    /// Fraction of the scale-up link rate the ring search settles on.
    pub ring_bandwidth: Figure<Ratio>,
    /// Rings the search settles on inside a node.
    pub channels: Figure<Count>,
    /// Cap on the bus bandwidth of the LL protocol.
    pub ll_max: ByNodes,
    /// Cap on one channel of the ring LL128 protocol.
    pub ring_ll128_channel: ByNodes,
    /// Cap on one channel of the tree LL128 protocol.
    pub tree_ll128_channel: ByNodes,
    /// LL128 is enabled inside one node.
    pub ll128_one_node: bool,
    /// In-switch reduction, where the hardware has it.
    pub in_switch: Option<InSwitchTuner>,
}

/// The tuner's view of in-switch reduction (NVLS).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InSwitchTuner {
    /// Fixed latency inside a node.
    pub latency: Figure<Seconds>,
    /// Latency per level of the tree between nodes.
    pub net_latency: Figure<Seconds>,
    /// Fraction of the ring bandwidth.
    pub efficiency: Figure<Ratio>,
    /// Fewest ranks in a node for which the library chooses it.
    pub min_ranks: Figure<Count>,
}

/// How long one branch (algorithm and protocol) takes inside a node; see
/// [`crate::network::collective`] for the equation.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Branch {
    /// Fixed time of a call: kernel start, first and last synchronisation.
    pub base: Figure<Seconds>,
    /// Per algorithm step inside the node.
    pub step: Figure<Seconds>,
    /// Added to the fixed time once the pipeline's chunks are full.
    pub fill: Figure<Seconds>,
    /// Added to every step once the pipeline's chunks are full.
    pub fill_step: Figure<Seconds>,
    /// Bytes per rank and step at which chunks are half full.
    pub chunk: Figure<Bytes>,
    /// Fraction of the scale-up link rate at large sizes.
    pub efficiency: Figure<Ratio>,
    /// Exponent with which latency and transfer combine: 1 is their sum, infinity their maximum.
    pub overlap: Figure<Ratio>,
}

/// The branches of a library inside a node.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Branches {
    /// Ring, LL.
    pub ring_ll: Branch,
    /// Ring, LL128.
    pub ring_ll128: Branch,
    /// Ring, Simple.
    pub ring_simple: Branch,
    /// In-switch reduction.
    pub in_switch: Option<Branch>,
    /// Grouped sends and receives: all-to-all, send/receive.
    pub point_to_point: Branch,
}

/// A device the library's constants hold for, with its links; recognised by name in measurements.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceLinks {
    /// Lower-case fragments of the names by which measurements call the device.
    pub matches: Vec<String>,
    /// Catalogue names of the accelerators it is.
    #[serde(default)]
    pub accelerators: Vec<String>,
    /// Specified scale-up bandwidth of one device, one direction.
    pub scale_up: Figure<BytesPerSecond>,
    /// Share of `scale_up` that a group of so many members inside one node can use, where links
    /// are point-to-point: the links to devices outside of the group stay idle.
    pub group_share: Option<Curve>,
    /// Kind of its scale-up links.
    pub scale_up_kind: ScaleUpKind,
    /// Devices in its usual server.
    pub usual_node: u32,
    /// Specified PCI Express bandwidth of one device, one direction.
    pub pcie: Figure<BytesPerSecond>,
    /// Network card rate per device that its usual server has, one direction: used where a
    /// measurement does not state its network, and then said so.
    pub usual_nic: Figure<BytesPerSecond>,
    /// Transport its usual server has; as `usual_nic`.
    pub usual_transport: String,
}

impl DeviceLinks {
    /// Scale-up bandwidth that a group of `ranks` members inside one node can use.
    #[must_use]
    pub fn group_bandwidth(&self, ranks: u32) -> BytesPerSecond {
        let share = self.group_share.as_ref().map_or(1.0, |curve| curve.at(f64::from(ranks)));
        self.scale_up.value * share
    }
}

/// How far a fit was off the rows of one system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FitResidual {
    /// Rows of the system in the fit.
    pub rows: u64,
    /// Median of the absolute relative error, percent.
    pub median_error_pct: f64,
    /// 90th percentile of the absolute relative error, percent.
    pub p90_error_pct: f64,
}

/// Which rows a set of constants was fitted on, and how well it fits them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FitRecord {
    /// Method, and the command that repeats it.
    pub method: String,
    /// Which rows of which table.
    pub rows: String,
    /// Date of the fit.
    pub date: String,
    /// Most ranks of a group in the fit; a larger group is extrapolated.
    #[serde(default)]
    pub max_ranks: u32,
    /// Most nodes of a group in the fit.
    #[serde(default)]
    pub max_nodes: u32,
    /// Residuals by system. Empty: nothing was fitted, every figure has its own source.
    #[serde(default)]
    pub systems: BTreeMap<String, FitResidual>,
}

/// A collective library of one generation on one accelerator architecture.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CollectiveLibrary {
    /// Catalogue name, such as `nccl-hopper`.
    pub name: String,
    /// Full name for people.
    pub title: String,
    /// Other names it is known by.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// `nccl`, `rccl`, `hccl`.
    pub library: String,
    /// Architecture of the accelerators, as in their catalogue files: `hopper`, `cdna3`, ...
    pub architecture: String,
    /// A library generation that newer systems no longer run.
    #[serde(default)]
    pub legacy: bool,
    /// Library versions the constants hold for.
    pub versions: String,
    /// Devices it runs on.
    pub devices: Vec<DeviceLinks>,
    /// What its tuner believes.
    pub tuner: Tuner,
    /// What its collectives take inside a node.
    pub branches: Branches,
    /// Fraction of the PCI Express rate that rings over PCI Express reach.
    pub pcie_efficiency: Figure<Ratio>,
    /// Bytes per second at which a device quantises or dequantises for a compressed collective.
    pub quantise_rate: Figure<BytesPerSecond>,
    /// Streaming multiprocessors or compute units one channel occupies.
    pub units_per_channel: Figure<Count>,
    /// The fit behind `branches`.
    pub fit: FitRecord,
    /// Where its figures come from.
    pub sources: Sources,
}

/// A way messages leave a node.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Transport {
    /// Catalogue name, such as `infiniband`.
    pub name: String,
    /// Full name for people.
    pub title: String,
    /// Other names it is known by.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Lower-case fragments by which measurements name it; the longest match wins.
    pub matches: Vec<String>,
    /// Transport that stands in for it where it is left out of a fit.
    pub parent: Option<String>,
    /// Latency the network plug-in reports to the library's tuner, which adds it to its own
    /// constant; decides the algorithm, never the duration.
    pub tuner_latency: Figure<Seconds>,
    /// Fixed time added to a collective that crosses nodes.
    pub base: Figure<Seconds>,
    /// Added per step between nodes by protocol.
    pub hop: ByProtocol,
    /// Fraction of the card rate that large messages reach.
    pub efficiency: Figure<Ratio>,
    /// Fraction of that which the LL and LL128 protocols reach, beyond what their flags take:
    /// their messages are small and wait for each other.
    pub small_message_efficiency: Figure<Ratio>,
    /// Bytes a card could have sent while the pipeline between nodes fills; a message shorter than
    /// this fills it only in part.
    pub fill_bytes: Figure<Bytes>,
    /// Rank-count term: added per participating node beyond the second and per collective
    /// (connection handling, congestion, skew).
    pub per_node: Figure<Seconds>,
    /// The library may use LL128 across nodes on it.
    pub ll128: bool,
    /// The fit behind its figures.
    pub fit: FitRecord,
    /// Where its figures come from.
    pub sources: Sources,
}

/// A measuring program: what it adds to the device time of a collective. Training adds its own
/// host costs (a property of the software stack), so only `validate` uses these.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Harness {
    /// Catalogue name, such as `nccl-tests`.
    pub name: String,
    /// Full name for people.
    pub title: String,
    /// Lower-case fragments of system, mode or library that give it away; the longest match wins.
    pub matches: Vec<String>,
    /// Host time per call that the device waits for: shorter collectives take this long.
    pub floor: Figure<Seconds>,
    /// As `floor` for all-to-all, which issues one operation per peer.
    pub floor_all_to_all: Figure<Seconds>,
    /// Added to every call.
    pub added: Figure<Seconds>,
    /// The fit behind its figures.
    pub fit: FitRecord,
    /// Where its figures come from.
    pub sources: Sources,
}
