//! What the catalogue's files describe: accelerators, nodes, fabrics, software stacks, prices and
//! grids. One TOML file is one thing; the field names here are the keys of those files.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::figure::{Figure, Source};
use super::kernels::KernelModel;
use crate::plan::Recompute;
use crate::program::FusedAttention;
use crate::scenario::ShardingScheme;
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

/// How the switches of a fabric are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Topology {
    /// Clos in which card `i` of every node of a group meets on leaf `i`.
    RailOptimisedClos,
    /// Rails without a spine that joins them.
    RailOnly,
    /// Clos without rails: all cards of a node on one leaf.
    FatTree,
    /// Groups of switches, all-to-all between groups.
    Dragonfly,
    /// Two rail-optimised Clos networks, each with half of the nodes, joined over a wide-area line.
    TwoSites,
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
    pub topology: Topology,
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

/// Which attention kernels a stack calls.
///
/// A generation that an accelerator has no kernels of (FlashAttention-3 outside of Hopper, say)
/// stands for that accelerator's own counterpart of `flash`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttentionKernel {
    /// Fused, never writes the score matrix: `FlashAttention-2` and its counterparts.
    #[serde(alias = "flash_2")]
    Flash,
    /// `FlashAttention-3`, written for Hopper.
    #[serde(rename = "flash_3")]
    Flash3,
    /// cuDNN's fused attention, which Transformer Engine prefers on Hopper and newer.
    Cudnn,
    /// The first generation: `FlashAttention` of 2022 as a Triton kernel.
    Triton,
    /// Batched GEMMs and a softmax over a stored score matrix.
    Unfused,
}

impl AttentionKernel {
    /// The fused kernel, or none where the score matrix is stored.
    #[must_use]
    pub fn fused(self) -> Option<FusedAttention> {
        match self {
            Self::Flash => Some(FusedAttention::Flash2),
            Self::Flash3 => Some(FusedAttention::Flash3),
            Self::Cudnn => Some(FusedAttention::Cudnn),
            Self::Triton => Some(FusedAttention::Triton),
            Self::Unfused => None,
        }
    }
}

/// Data type in which gradients are kept and reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GradientType {
    /// 4 bytes.
    Fp32,
    /// 2 bytes.
    Bf16,
}

impl GradientType {
    /// Bytes of one element.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::Fp32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// Generation of a collective library, where the catalogue has constants of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LibraryGeneration {
    /// NCCL 2.18 (2023) and newer, and what is like it.
    #[default]
    Current,
    /// Older ones.
    Legacy,
}

/// How tokens travel to the nodes of their experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dispatch {
    /// One copy per expert, whichever node it is on.
    #[default]
    PerExpert,
    /// One copy per node, which is copied there (`DeepEP`, Hybrid-EP).
    PerNode,
}

/// A training framework at a version: what it fuses, overlaps and costs on the host.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// Catalogue name, such as `megatron-lm-sc21`.
    pub name: String,
    /// Full name for people.
    pub title: String,
    /// Other names it is known by.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Version or date of the software.
    pub version: String,
    /// Stack this one was derived from, which stands in where this one is left out of a fit.
    pub parent: Option<String>,
    /// Generation of the collective library it ran on.
    #[serde(default)]
    pub collectives: LibraryGeneration,
    /// Name that sources give to all releases; the date of a row then picks the stack.
    pub lineage: Option<String>,
    /// First month of this release, for picking one of a lineage.
    pub since: Option<String>,
    /// Frameworks without an entry that this one is closest to; such predictions are marked.
    #[serde(default)]
    pub stands_in_for: Vec<String>,
    /// The fit behind figures of this file; its rows are never scored.
    #[serde(default)]
    pub fit: StackFit,
    /// How it is run where a source does not say.
    #[serde(default)]
    pub defaults: StackDefaults,
    /// Attention kernels it calls unless the scenario says otherwise.
    pub attention: AttentionKernel,
    /// Data type of the gradients that data parallelism reduces.
    pub gradient_reduce: GradientType,
    /// Data type of the gradients that are kept between micro-batches.
    pub gradient_store: GradientType,
    /// How tokens travel to the nodes of their experts.
    #[serde(default)]
    pub dispatch: Dispatch,
    /// Which element-wise operators are fused.
    pub fusion: Fusion,
    /// Which communication is overlapped with compute.
    pub overlap: Overlap,
    /// Largest message of the data-parallel gradient reduction.
    pub bucket: Figure<Bytes>,
    /// Updated parameters are broadcast by one owner after the other instead of gathered: what each
    /// turn takes besides the transfer (host loop, start of the kernel, filling its pipeline).
    pub broadcast_turn: Option<Figure<Seconds>>,
    /// What the host spends.
    pub host: HostCosts,
    /// What kernels and collectives reach inside a training step.
    pub in_training: InTraining,
    /// Memory that is not tensors of the model.
    pub memory: StackMemory,
    /// Where its figures come from.
    pub sources: Sources,
}

/// What a stack does unless its user says otherwise, for published rows that do not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StackDefaults {
    /// What is recomputed; where that does not fit into memory, the next step that does.
    pub recompute: Option<Recompute>,
    /// What its "selective" means, if not the attention core.
    pub selective: Option<Recompute>,
    /// The most it recomputes where a source does not say, if not everything.
    pub recompute_at_most: Option<Recompute>,
    /// What is sharded over the replicas.
    pub sharding: Option<ShardingScheme>,
    /// What full sharding becomes under pipeline parallelism, if not the same: stacks that would
    /// gather the parameters again for every micro-batch keep them instead.
    pub sharding_with_pipeline: Option<ShardingScheme>,
    /// Sequence parallelism is on with tensor parallelism.
    pub sequence_parallel: bool,
    /// Sequences per micro-batch; the replica's whole batch if absent.
    pub micro_batch: Option<u32>,
    /// Ranks that share each expert's matrices; the tensor group if absent.
    pub expert_tensor: Option<u32>,
    /// Stack that a run with its compiler switched on is (`compile=yes`).
    pub compiled: Option<String>,
    /// Why these.
    pub note: Option<String>,
}

/// What figures of a stack were fitted on.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StackFit {
    /// Method, and the command that repeats it.
    pub method: String,
    /// Which rows, in words.
    pub rows: String,
    /// Date of the fit.
    pub date: String,
    /// Keys of the fitted figures.
    pub parameters: Vec<String>,
    /// Their values before the fit, which were its priors, in the file's units.
    pub priors: Vec<f64>,
    /// Number of rows.
    pub count: u64,
    /// Median of the absolute relative error of these rows, percent.
    pub median_error_pct: f64,
    /// 90th percentile of the same, percent.
    pub p90_error_pct: f64,
    /// The rows' ids.
    pub ids: Vec<String>,
}

/// Which element-wise operators are one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fusion {
    /// Bias and activation of the feed-forward block.
    pub bias_activation: bool,
    /// Bias, dropout and residual addition.
    pub bias_dropout_add: bool,
    /// Scale, mask and softmax of unfused attention.
    pub softmax: bool,
    /// Normalisation in one kernel.
    pub norm: bool,
    /// Rotary position embedding of queries and keys.
    pub rotary: bool,
    /// Cross-entropy without an extra fp32 copy of the logits.
    pub cross_entropy: bool,
    /// Optimizer over all tensors in a few kernels.
    pub optimizer: bool,
    /// The weight-gradient GEMM adds to the gradients of earlier micro-batches.
    pub gradient_accumulation: bool,
    /// The model is trained with dropout (masks are written and read).
    pub dropout: bool,
}

/// Which communication runs beside compute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Overlap {
    /// Gradient reduction beside the backward pass, by bucket.
    pub gradient_reduce: bool,
    /// Gathering of sharded parameters beside the forward pass.
    pub parameter_gather: bool,
    /// Tensor-parallel backward communication beside the weight-gradient GEMM.
    pub tensor_backward: bool,
    /// Pipeline sends and receives beside compute.
    pub pipeline: bool,
    /// Keys and values of context parallelism beside the attention kernel (ring attention).
    pub context: bool,
}

/// What the host spends per operation, micro-batch and step.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HostCosts {
    /// From the host's call to the kernel's start on an idle device.
    pub launch_latency: Figure<Seconds>,
    /// Host time per launched operation (framework and driver).
    pub per_operation: Figure<Seconds>,
    /// Host time per micro-batch and direction outside of operations.
    pub per_micro_batch: Figure<Seconds>,
    /// Host time per step: data loading, logging, schedulers.
    pub per_step: Figure<Seconds>,
    /// Operations that may be queued on the device before the host waits.
    pub queue_depth: Figure<Count>,
}

/// Rates inside a training step over rates in an isolated benchmark. Benchmarks run one kernel over
/// and over with the caches warm and the chip cool; a step draws full power for hours (the clock
/// falls under the power cap), alternates kernels, and uses the libraries of its year.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InTraining {
    /// Compute kernels.
    pub kernels: Figure<Ratio>,
    /// Collectives.
    pub collectives: Figure<Ratio>,
    /// How much longer a transfer takes while a kernel runs beside it: 0.2 for a fifth.
    pub beside_compute: Figure<Ratio>,
}

/// Memory that is not tensors of the model.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StackMemory {
    /// Driver context, library workspaces.
    pub context: Figure<Bytes>,
    /// Buffers of one communicator.
    pub communicator: Figure<Bytes>,
    /// Reserved but unusable, as a fraction of what is allocated.
    pub fragmentation: Figure<Ratio>,
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
