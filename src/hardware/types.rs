//! What the catalogue's files describe: accelerators, nodes, fabrics, software stacks, prices and
//! grids. One TOML file is one thing; the field names here are the keys of those files.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::figure::{Figure, Source};
use super::kernels::KernelModel;
use crate::network::topology::generators::Arrangement;
use crate::units::{
    Bytes, BytesPerSecond, Count, Dollars, DollarsPerHour, DollarsPerJoule, FlopsPerSecond,
    GramsCo2e, GramsCo2ePerJoule, Ratio, Seconds, Watts,
};

/// The `[sources]` table of a file: key to citation.
pub type Sources = BTreeMap<String, Source>;

/// One device as software sees it: a GPU, one die of a dual-die module, an NPU.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Accelerator {
    /// Catalogue name, such as `h100-sxm`.
    pub name: String,
    /// Full name for people.
    pub title: String,
    /// Maker.
    pub vendor: String,
    /// Accuracy family in validation reports: `NVIDIA-A100`, `AMD-MI250X`, ...
    pub family: String,
    /// Architecture, which selects kernel-library behaviour: `ampere`, `hopper`, `cdna2`, ...
    pub architecture: String,
    /// Other names it is known by.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Dense peak rates by precision.
    pub peak: Peak,
    /// Device memory.
    pub memory: DeviceMemory,
    /// SMs, CUs or AI cores.
    pub compute_units: Option<Figure<Count>>,
    /// Power of the device alone.
    pub power: DevicePower,
    /// Emissions of making one device.
    pub embodied_carbon: Option<Figure<GramsCo2e>>,
    /// What kernels reach on it.
    pub kernels: KernelModel,
    /// Where its figures come from.
    pub sources: Sources,
}

/// Dense (non-sparse) peak rates. A precision without a figure is not supported.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Peak {
    /// bfloat16 matrix units.
    pub bf16: Option<Figure<FlopsPerSecond>>,
    /// float16 matrix units.
    pub fp16: Option<Figure<FlopsPerSecond>>,
    /// 8-bit floating point matrix units.
    pub fp8: Option<Figure<FlopsPerSecond>>,
    /// 4-bit floating point matrix units.
    pub fp4: Option<Figure<FlopsPerSecond>>,
    /// TensorFloat-32 matrix units.
    pub tf32: Option<Figure<FlopsPerSecond>>,
    /// float32 vector units.
    pub fp32: Option<Figure<FlopsPerSecond>>,
}

/// Device memory.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceMemory {
    /// Capacity the device has.
    pub capacity: Figure<Bytes>,
    /// Specified bandwidth.
    pub bandwidth: Figure<BytesPerSecond>,
    /// Last-level cache on the device.
    pub l2: Option<Figure<Bytes>>,
}

/// Power states of one device.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DevicePower {
    /// Design power, or the cap the maker ships.
    pub limit: Figure<Watts>,
    /// Powered, context open, nothing running.
    pub idle: Figure<Watts>,
    /// Drawn in dense matrix work, as a fraction of the limit.
    pub compute: Figure<Ratio>,
    /// Drawn while spinning in a collective, as a fraction of the limit.
    pub communicate: Figure<Ratio>,
    /// Rate of compute-bound kernels in hours of training under the limit, over that of the
    /// benchmarks behind the kernel constants; absent: the same.
    pub sustained: Option<Figure<Ratio>>,
}

/// A server: devices, the links between them, network cards, host.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Catalogue name, such as `dgx-h100`.
    pub name: String,
    /// Full name for people.
    pub title: String,
    /// Other names it is known by.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Catalogue name of the accelerator.
    pub accelerator: String,
    /// Devices in one node, as software sees them.
    pub devices: u32,
    /// Taken where a source names the accelerator and not the server.
    #[serde(default)]
    pub usual: bool,
    /// Entry that stands for this one in published runs, which differ in how they fill it.
    pub rows_use: Option<String>,
    /// Fabric that such nodes are joined by where a source does not say.
    pub usual_fabric: Option<String>,
    /// Links between devices.
    pub scale_up: ScaleUp,
    /// Network cards.
    pub nic: Nic,
    /// Link between host memory and one device, one direction.
    pub host_link: Figure<BytesPerSecond>,
    /// Everything but the accelerators (CPUs, memory, fans, network cards), under load.
    pub host_power: Figure<Watts>,
    /// Rated maximum of the whole node.
    pub max_power: Option<Figure<Watts>>,
    /// Emissions of making the node without its accelerators.
    pub embodied_carbon: Option<Figure<GramsCo2e>>,
    /// Where its figures come from.
    pub sources: Sources,
}

/// Kind of the links inside a scale-up domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScaleUpKind {
    /// Every device to a non-blocking switch (`NVSwitch`, UB).
    Switch,
    /// Point-to-point links with different widths (xGMI of MI250X).
    Xgmi,
    /// Fully connected mesh, equal links (MI300X, HCCS of 910B).
    Mesh,
    /// PCI Express tree.
    Pcie,
}

/// Links between the devices of a scale-up domain.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleUp {
    /// Kind of links.
    pub kind: ScaleUpKind,
    /// Devices in one domain; more than the node has where a domain spans nodes (NVL72).
    pub domain: u32,
    /// Specified bandwidth of one device, all its links, one direction.
    pub bandwidth: Figure<BytesPerSecond>,
    /// Fraction of it that large ring collectives reach.
    pub achieved: Figure<Ratio>,
    /// Fixed time of a collective inside the domain.
    pub base_latency: Figure<Seconds>,
    /// Added per algorithm step.
    pub step_latency: Figure<Seconds>,
    /// Large all-reduces are added up inside the switch.
    #[serde(default)]
    pub in_switch_reduction: bool,
    /// Links that differ from each other, for point-to-point topologies.
    #[serde(default)]
    pub links: Vec<LinkClass>,
    /// What single copies reach on such links.
    pub copies: Option<Copies>,
}

/// What single copies between the devices of a node reach on links that differ.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Copies {
    /// Size at which `measured` of the links was measured.
    pub measured_at: Figure<Bytes>,
    /// Bytes at which a copy by a kernel over the narrowest link reaches half of its long rate; wider
    /// links need as many times more as they are wider.
    pub half_rate_at: Figure<Bytes>,
    /// Rate through another device, as part of that of the narrowest link on the way.
    pub relayed: Figure<Ratio>,
    /// Most that one copy by a copy (DMA) engine reaches on any route.
    pub engine: Figure<BytesPerSecond>,
}

/// A class of point-to-point links inside a node.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkClass {
    /// What the class is called: `in-module`, `two-link`, `one-link`.
    pub name: String,
    /// Device pairs (local indices) that have such a link.
    pub pairs: Vec<[u32; 2]>,
    /// Specified bandwidth of the pair, one direction.
    pub bandwidth: Figure<BytesPerSecond>,
    /// Bandwidth that large copies reach, one direction.
    pub measured: Option<Figure<BytesPerSecond>>,
}

/// Network cards of a node.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// Cards per node that training traffic uses.
    pub count: u32,
    /// Rate of one card, one direction.
    pub bandwidth: Figure<BytesPerSecond>,
}

/// The network between nodes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fabric {
    /// Catalogue name, such as `ndr400-clos`.
    pub name: String,
    /// Full name for people.
    pub title: String,
    /// Other names it is known by.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Arrangement of the switches.
    pub topology: Arrangement,
    /// Catalogue name of the way messages take over it.
    pub transport: String,
    /// Rate of one port, one direction. A node's card runs at the lower of the two.
    pub link_bandwidth: Figure<BytesPerSecond>,
    /// Fraction of the link rate that large collectives across a few nodes reach.
    pub achieved: Figure<Ratio>,
    /// Fixed time of a collective that crosses nodes.
    pub base_latency: Figure<Seconds>,
    /// Added per algorithm step that crosses nodes.
    pub step_latency: Figure<Seconds>,
    /// Added per participating node and collective: connection handling, congestion, skew.
    pub per_node_latency: Figure<Seconds>,
    /// Host-facing over spine-facing bandwidth of a leaf; 1 is non-blocking.
    pub oversubscription: Figure<Ratio>,
    /// Its switches.
    pub switch: Switch,
    /// Its optics.
    pub transceiver: Transceiver,
    /// The line between the sites of `two_sites`.
    pub wan: Option<Line>,
    /// Where its figures come from.
    pub sources: Sources,
}

/// A wide-area line.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Rate, one direction.
    pub bandwidth: Figure<BytesPerSecond>,
    /// From one end to the other.
    pub latency: Figure<Seconds>,
}

/// A switch model.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Ports at the fabric's link rate.
    pub ports: Figure<Count>,
    /// Drawn in training.
    pub power: Figure<Watts>,
    /// Purchase price.
    pub price: Option<Figure<Dollars>>,
}

/// An optical module.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Transceiver {
    /// Drawn per end of a link.
    pub power: Figure<Watts>,
    /// Purchase price per end.
    pub price: Option<Figure<Dollars>>,
}

/// A dated price sheet.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceSheet {
    /// Catalogue name, such as `2026-05`.
    pub name: String,
    /// Full name for people.
    pub title: String,
    /// Date the prices hold for.
    pub date: String,
    /// Rent per device and hour by accelerator name.
    pub rent: BTreeMap<String, Figure<DollarsPerHour>>,
    /// Purchase price per node by node name.
    #[serde(default)]
    pub purchase: BTreeMap<String, Figure<Dollars>>,
    /// Electric energy by market.
    #[serde(default)]
    pub electricity: BTreeMap<String, Figure<DollarsPerJoule>>,
    /// Where its figures come from.
    pub sources: Sources,
}

/// An electricity grid or a data centre's site on it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Catalogue name, such as `us` or `gcp-europe-north1`.
    pub name: String,
    /// Full name for people.
    pub title: String,
    /// Other names it is known by.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Annual average intensity of generation.
    pub intensity: Figure<GramsCo2ePerJoule>,
    /// Facility over IT energy.
    pub pue: Figure<Ratio>,
    /// Where its figures come from.
    pub sources: Sources,
}
