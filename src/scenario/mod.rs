//! Scenarios: a model, a plan and a cluster, as a user writes them.
//!
//! The types here are the keys of a scenario file; [`resolve`] looks names up in the catalogue,
//! fills in documented defaults and checks that everything fits together.

mod files;
mod kernels;
mod limits;
mod network;
mod resolve;

pub use files::NamedFile;
pub use network::Network;
pub use resolve::{Account, Setup, resolve};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::hardware::{AttentionKernel, Dispatch, Graphs};
use crate::network::TransferEngine;
use crate::network::collective::{Algorithm, Protocol};
use crate::plan::{Axis, Recompute, Schedule};
use crate::program::Precision;
use crate::workload::ModelShape;

/// A scenario file.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name shown in results.
    pub name: String,
    /// What the scenario shows.
    #[serde(default)]
    pub description: Option<String>,
    /// Seed of every random stream.
    #[serde(default)]
    pub seed: u64,
    /// What is trained.
    pub model: ModelTable,
    /// How it is trained.
    pub training: TrainingTable,
    /// On what.
    pub cluster: ClusterTable,
    /// How messages travel.
    #[serde(default)]
    pub network: NetworkTable,
    /// With which software.
    pub software: SoftwareTable,
    /// Divided how.
    #[serde(default)]
    pub plan: PlanTable,
    /// How long.
    #[serde(default)]
    pub run: RunTable,
    /// At which prices, on which grid.
    #[serde(default)]
    pub account: AccountTable,
}

/// `[model]`: a preset, a shape, or a preset with some of its shape replaced.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelTable {
    /// Name of a model of the catalogue.
    #[serde(default)]
    pub preset: Option<String>,
    /// Shape; replaces what the preset says key by key.
    #[serde(default)]
    pub shape: ModelShape,
}

/// `[training]`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingTable {
    /// Tokens per sequence.
    pub sequence_length: u32,
    /// Sequences per step, all ranks together.
    pub global_batch: u32,
    /// Number format of the linear layers (default bf16).
    #[serde(default = "bf16")]
    pub precision: Precision,
    /// Rank of low-rank adapters on the matrices of attention and dense feed-forward blocks, which
    /// are all that is trained; absent: the whole model is.
    #[serde(default)]
    pub adapter_rank: Option<u32>,
}

fn bf16() -> Precision {
    Precision::Bf16
}

/// `[cluster]`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterTable {
    /// Name of a node type of the catalogue.
    pub node: String,
    /// Number of nodes (default 1).
    #[serde(default = "one")]
    pub nodes: u32,
    /// Devices that are used; all of the nodes' devices if absent.
    #[serde(default)]
    pub devices: Option<u32>,
    /// Name of the network between nodes; needed for more than one node.
    #[serde(default)]
    pub fabric: Option<String>,
    /// Power cap of a device in W, below the limit it ships with.
    #[serde(default)]
    pub power_cap_w: Option<f64>,
}

fn one() -> u32 {
    1
}

/// `[network]`: how messages travel over the cluster's fabric.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkTable {
    /// How collectives are timed; by `algorithms` if the catalogue has constants for the
    /// accelerator, otherwise by `levels`.
    pub model: Option<NetworkModel>,
    /// TOML file with the cards, switches and links between nodes, relative to this file; the
    /// fabric's own arrangement if absent. Cards and switches are the fabric's in all else.
    pub topology: Option<String>,
    /// Name of a transport of the catalogue; that of the fabric if absent.
    pub transport: Option<String>,
    /// Which rank sits where.
    pub placement: PlacementStrategy,
    /// Ranks that stay together under `rail_aware` placement (default `plan.tensor_parallel`).
    pub placement_group: Option<u32>,
    /// Nodes in the order in which ranks fill them, counted from 0, for `block` placement.
    pub node_order: Option<Vec<u32>>,
    /// TOML file for `from_file` placement, relative to this file: `nodes = ["node-3", ...]` in the
    /// order in which ranks fill them, by the names of `topology` or as `node-0` and so on.
    pub placement_file: Option<String>,
    /// CSV file relative to this file with what every node was measured to send to every other, all
    /// cards together, in GB/s: a row per sender. A ring or pair gets no more than its slowest link,
    /// an exchange no more than its slowest sender.
    pub bandwidth_matrix: Option<String>,
    /// Algorithm of all-reduces; the library's choice if absent.
    pub all_reduce: Option<Algorithm>,
    /// Algorithm of all-gathers and reduce-scatters.
    pub gather_scatter: Option<Algorithm>,
    /// Algorithm of all-to-alls.
    pub all_to_all: Option<Algorithm>,
    /// Protocol of collectives.
    pub protocol: Option<Protocol>,
    /// What carries out sends and receives inside a node whose links differ (MI250X).
    pub transfer_engine: Option<TransferEngine>,
    /// Large all-reduces are added up in the scale-up switch; as the node can if absent.
    pub in_switch_reduction: Option<bool>,
    /// Host-facing over spine-facing bandwidth of a leaf; that of the fabric if absent.
    pub oversubscription: Option<f64>,
    /// How flows choose among equal paths.
    pub routing: Routing,
    /// How far links fall short of their rate.
    pub variability: LinkVariability,
}

/// How collectives are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NetworkModel {
    /// By algorithm and protocol, as the library chooses them.
    Algorithms,
    /// By latency and bandwidth per level of the cluster.
    Levels,
}

/// Which rank sits where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlacementStrategy {
    /// Consecutive ranks fill a node before the next.
    #[default]
    Block,
    /// Consecutive ranks go to consecutive nodes.
    Strided,
    /// Groups of ranks stay together, consecutive groups go to consecutive nodes.
    RailAware,
    /// As block, over nodes in a random order drawn from the seed.
    Random,
    /// As block, over nodes in the order of `placement_file`.
    FromFile,
}

/// How flows choose among equal paths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Routing {
    /// Packets are spread over all of them (adaptive routing).
    #[default]
    Spread,
    /// Every flow takes one by a hash (ECMP), so some links carry two and others none.
    Hashed,
}

/// How far links fall short of their rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LinkVariability {
    /// Every link at its rate.
    #[default]
    None,
    /// A dedicated cluster: a few percent.
    Healthy,
    /// A cluster shared with other jobs: around half.
    SharedCluster,
    /// Some a third slower than the rest.
    Bimodal,
}

/// `[software]`: a stack, and switches that replace its own.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SoftwareTable {
    /// Name of a software stack of the catalogue.
    pub stack: String,
    /// Attention kernels.
    #[serde(default)]
    pub attention: Option<AttentionKernel>,
    /// The model is trained with dropout.
    #[serde(default)]
    pub dropout: Option<bool>,
    /// Gradient reduction runs beside the backward pass.
    #[serde(default)]
    pub overlap_gradient_reduce: Option<bool>,
    /// Parameter gathers run beside the forward pass.
    #[serde(default)]
    pub overlap_parameter_gather: Option<bool>,
    /// Tensor-parallel backward communication runs beside weight-gradient GEMMs.
    #[serde(default)]
    pub overlap_tensor: Option<bool>,
    /// Pipeline sends and receives run beside compute.
    #[serde(default)]
    pub overlap_pipeline: Option<bool>,
    /// Keys and values of context parallelism travel beside the attention kernel.
    #[serde(default)]
    pub overlap_context: Option<bool>,
    /// Exchanges of experts run beside compute: a forward and the backward pass after it, of
    /// another micro-batch, take turns.
    #[serde(default)]
    pub overlap_experts: Option<bool>,
    /// What CUDA graphs capture; by the stack's recipe for the accelerator if absent.
    #[serde(default)]
    pub graphs: Option<Graphs>,
    /// How tokens travel to the nodes of their experts.
    #[serde(default)]
    pub dispatch: Option<Dispatch>,
    /// Largest overlapped gradient message in MB.
    #[serde(default)]
    pub bucket_mb: Option<f64>,
    /// Measured GEMMs that come before the models, as a CSV file next to the scenario: accelerator,
    /// dtype, m, n, k, time_us and, if there is more than one product, batch.
    #[serde(default)]
    pub gemm_table: Option<String>,
    /// Measured attention likewise: accelerator, impl, pass_, causal, head_dim, seqlen, tflops, tokens,
    /// width.
    #[serde(default)]
    pub attention_table: Option<String>,
}

/// Which tensors are sharded over the data-parallel ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShardingScheme {
    /// Nothing: plain data parallelism.
    #[default]
    None,
    /// Optimizer states (ZeRO-1, Megatron's distributed optimizer).
    Zero1,
    /// Optimizer states and gradients (ZeRO-2, `SHARD_GRAD_OP`).
    Zero2,
    /// Optimizer states, gradients and parameters (ZeRO-3, FSDP `FULL_SHARD`).
    Zero3,
}

/// `[plan]`. Everything is optional; the default is one data-parallel rank per device.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PlanTable {
    /// Ranks that share each matrix.
    pub tensor_parallel: u32,
    /// Pipeline stages.
    pub pipeline_parallel: u32,
    /// Ranks that share each sequence.
    pub context_parallel: u32,
    /// Data-parallel ranks over which the experts of a layer are spread.
    pub expert_parallel: u32,
    /// Ranks that share each expert's matrices: 1 or `tensor_parallel` (the default).
    pub expert_tensor_parallel: Option<u32>,
    /// Replicas, expert-parallel ranks included; devices over the other degrees if absent.
    pub data_parallel: Option<u32>,
    /// Chunks of layers per pipeline device.
    pub virtual_stages: u32,
    /// Order of forward and backward passes; by `virtual_stages` if absent.
    pub schedule: Option<Schedule>,
    /// Sequences per micro-batch and replica.
    pub micro_batch: u32,
    /// Splits activations outside of the tensor-parallel blocks over the tensor group.
    pub sequence_parallel: bool,
    /// What is sharded over the replicas.
    pub sharding: ShardingScheme,
    /// Replicas that share one sharded copy (hybrid sharding); all if absent.
    pub shard_group: Option<u32>,
    /// Shard group of the parameters, if it differs.
    pub parameter_shard: Option<u32>,
    /// Shard group of the gradients, if it differs.
    pub gradient_shard: Option<u32>,
    /// Shard group of the optimizer states, if it differs.
    pub optimizer_shard: Option<u32>,
    /// What is recomputed in the backward pass.
    pub recompute: Recompute,
    /// Layers of each virtual stage, in order; even if absent.
    pub layers_per_stage: Option<Vec<u32>>,
    /// The embedding counts as a layer of the first stage when layers are spread.
    pub embedding_as_layer: bool,
    /// The output projection counts as a layer of the last stage.
    pub head_as_layer: bool,
    /// Bits of a parameter on the wire when sharded parameters are gathered (16, 8 or 4).
    pub gather_bits: Option<u32>,
    /// Bits of a gradient on the wire when it is quantised for the reduction (16, 8 or 4).
    pub reduce_bits: Option<u32>,
    /// Mesh order, fastest first (default tensor, context, data, pipeline).
    pub rank_order: Option<[Axis; 4]>,
}

impl Default for PlanTable {
    fn default() -> Self {
        Self {
            tensor_parallel: 1,
            pipeline_parallel: 1,
            context_parallel: 1,
            expert_parallel: 1,
            expert_tensor_parallel: None,
            data_parallel: None,
            virtual_stages: 1,
            schedule: None,
            micro_batch: 1,
            sequence_parallel: false,
            sharding: ShardingScheme::None,
            shard_group: None,
            parameter_shard: None,
            gradient_shard: None,
            optimizer_shard: None,
            recompute: Recompute::None,
            layers_per_stage: None,
            embedding_as_layer: false,
            head_as_layer: false,
            gather_bits: None,
            reduce_bits: None,
            rank_order: None,
        }
    }
}

/// `[run]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunTable {
    /// Tokens of the whole run; without it results are per step.
    pub tokens: Option<f64>,
}

/// `[account]`: prices, grid, site.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccountTable {
    /// Name of a price sheet of the catalogue; the latest if absent.
    pub prices: Option<String>,
    /// Rent in USD per device and hour; replaces the price sheet's.
    pub usd_per_device_hour: Option<f64>,
    /// Name of a grid of the catalogue.
    pub grid: Option<String>,
    /// Grid intensity in gCO2e/kWh; replaces the grid's.
    pub grid_g_per_kwh: Option<f64>,
    /// Facility over IT energy; replaces the grid's.
    pub pue: Option<f64>,
    /// Years over which the embodied emissions of the hardware are spread.
    pub lifetime_years: f64,
}

/// Grid used where a scenario names none; listed among the assumptions.
pub const DEFAULT_GRID: &str = "world-average";

impl Default for AccountTable {
    fn default() -> Self {
        Self {
            prices: None,
            usd_per_device_hour: None,
            grid: None,
            grid_g_per_kwh: None,
            pue: None,
            lifetime_years: 5.0,
        }
    }
}
