//! The result of a run: the machine output of `trainyard run`.
//!
//! Fields that were not asked for are null, not absent. Keys are stable within a schema version.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::plan::{Recompute, Schedule};
use crate::program::Collective;
use crate::workload::Memory;

/// Version of the result's layout.
pub const RESULT_SCHEMA: &str = "trainyard.run/1";

/// How model FLOPs are counted.
pub const FLOP_CONVENTION: &str = "PaLM (arXiv 2204.02311, appendix B): three times the forward \
     matrix FLOPs of layers and vocabulary projection, attention not halved for causality; over \
     the dense peak of training.precision; MFU without, HFU with the forward work that the plan \
     recomputes";

/// The result of one scenario.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RunResult {
    /// Layout version.
    pub schema: String,
    /// What was simulated.
    pub scenario: ScenarioInfo,
    /// Seed of every random stream.
    pub seed: u64,
    /// Catalogue files, and files the scenario names, that the result depends on.
    pub inputs: Vec<InputInfo>,
    /// The plan with everything filled in.
    pub plan: PlanInfo,
    /// Time of a step.
    pub step: StepInfo,
    /// Where the width of the step's interval comes from, largest first; contributions add up in
    /// quadrature. Those below 0.05 % are left out.
    pub uncertainty: Vec<UncertaintySource>,
    /// Where the times of kernels come from.
    pub kernels: KernelInfo,
    /// Rates.
    pub throughput: Throughput,
    /// Device memory.
    pub memory: MemoryInfo,
    /// Communication.
    pub network: NetworkInfo,
    /// The whole run.
    pub run: RunInfo,
    /// Energy.
    pub energy: EnergyInfo,
    /// Money.
    pub cost: CostInfo,
    /// Emissions.
    pub carbon: CarbonInfo,
    /// How the result was made.
    pub simulation: SimulationInfo,
    /// Assumed figures it depends on.
    pub assumptions: Vec<Assumption>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// What was simulated.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ScenarioInfo {
    /// Name of the scenario.
    pub name: String,
    /// What it shows.
    pub description: Option<String>,
    /// Hash of the scenario after overrides.
    pub hash: String,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct InputInfo {
    /// Kind and name.
    pub name: String,
    /// Where it was read from.
    pub origin: String,
    /// Hash of its text.
    pub hash: String,
}

/// A resolved plan.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PlanInfo {
    /// Devices used.
    pub devices: u32,
    /// Tensor-parallel size.
    pub tensor_parallel: u32,
    /// Context-parallel size.
    pub context_parallel: u32,
    /// Expert-parallel size.
    pub expert_parallel: u32,
    /// Tensor-parallel size inside an expert.
    pub expert_tensor_parallel: u32,
    /// Pipeline stages.
    pub pipeline_parallel: u32,
    /// Data-parallel size.
    pub data_parallel: u32,
    /// Chunks per pipeline device.
    pub virtual_stages: u32,
    /// Order of passes.
    pub schedule: Schedule,
    /// Sequences per micro-batch and replica.
    pub micro_batch: u32,
    /// Micro-batches per step and replica.
    pub micro_batches: u32,
    /// Sequences per step.
    pub global_batch: u32,
    /// Sequence parallelism.
    pub sequence_parallel: bool,
    /// Ranks that share one copy of the parameters.
    pub parameter_shard: u32,
    /// Ranks that share one copy of the gradients.
    pub gradient_shard: u32,
    /// Ranks that share one copy of the optimizer states.
    pub optimizer_shard: u32,
    /// What is recomputed.
    pub recompute: Recompute,
    /// Parameters of the model.
    pub model_parameters: u64,
}

/// Time of a step.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct StepInfo {
    /// Seconds from the start of the step to the end of the last rank.
    pub seconds: f64,
    /// Where it lies with 90 % probability.
    pub interval_90: StepInterval,
    /// Standard deviation of its logarithm, which is that of everything proportional to the step
    /// or to its inverse (tokens/s, MFU, days, rent).
    pub relative_sigma: f64,
    /// Seconds by account, mean over ranks; they add up to `seconds`.
    pub breakdown: BTreeMap<String, f64>,
}

/// Where the times of kernels come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct KernelInfo {
    /// Share of the time of all kernels by source: `measured` (rows of this very shape),
    /// `interpolated` (rows near it), `modelled` (models fitted to the accelerator), `curve`
    /// (efficiency by size).
    pub time_by_source: BTreeMap<String, f64>,
    /// Measured shapes that the scenario's tables have of the accelerator; null without tables.
    pub measured_shapes: Option<usize>,
    /// Median error, in percent, of predicting each of them from the others; null where no two are near
    /// each other.
    pub left_out_error_pct: Option<f64>,
}

/// 90 % interval of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct StepInterval {
    /// Lower end in seconds.
    pub low_s: f64,
    /// Upper end in seconds.
    pub high_s: f64,
}

/// 90 % interval, in the unit of what it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A source of error of the step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct UncertaintySource {
    /// What is uncertain, and of which hardware, library or stack.
    pub source: String,
    /// By how much: relative standard deviation.
    pub relative_sigma: f64,
    /// What that does to the step: relative standard deviation, below 0 where more of the source
    /// is a shorter step.
    pub contribution: f64,
    /// Another plan with the same source errs in the same direction.
    pub shared: bool,
}

/// Rates.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Throughput {
    /// Tokens per second of the whole job.
    pub tokens_per_second: f64,
    /// Where that lies with 90 % probability.
    pub tokens_per_second_interval_90: Interval,
    /// Tokens per second and device.
    pub tokens_per_second_per_device: f64,
    /// Model TFLOP/s per device.
    pub tflops_per_device: f64,
    /// Model FLOPs over what the devices could do (0 to 1).
    pub mfu: f64,
    /// Model and recomputed FLOPs over what the devices could do (0 to 1).
    pub hfu: f64,
    /// How FLOPs are counted.
    pub flop_convention: String,
}

/// Device memory.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct MemoryInfo {
    /// The most that is allocated on any device at any moment of the step.
    pub peak_bytes_per_device: f64,
    /// The most that a driver tool shows of any device: what the caching allocator keeps; as much as
    /// is needed where that is more than there is.
    pub reserved_bytes_per_device: f64,
    /// What a device has.
    pub capacity_bytes: f64,
    /// Whether it fits.
    pub fits: bool,
    /// Pipeline stage that peaks.
    pub peak_stage: u32,
    /// What it does then: `forward 3` is the forward pass of micro-batch 3.
    pub peak_moment: String,
    /// Bytes by class on that stage at that moment.
    pub by_class: MemoryClasses,
    /// The peak of every pipeline stage.
    pub by_stage: Vec<StageMemoryInfo>,
    /// The moments of the step on the stage that peaks; null unless asked for.
    pub timeline: Option<Vec<MomentInfo>>,
}

/// Device memory of a pipeline stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct StageMemoryInfo {
    /// The stage.
    pub stage: u32,
    /// The most that is allocated.
    pub peak_bytes: f64,
    /// What a driver tool shows.
    pub reserved_bytes: f64,
    /// What it does when most is allocated.
    pub peak_moment: String,
}

/// Device memory from a moment of the step on.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct MomentInfo {
    /// When it begins, seconds from the start of the step.
    pub seconds: f64,
    /// What the device does: `forward 3`, `backward 3`, `gradient reduction`, `optimizer step`,
    /// `between steps`.
    pub moment: String,
    /// The most that is allocated meanwhile.
    pub bytes: f64,
    /// The same by class.
    pub by_class: MemoryClasses,
}

/// Bytes by class.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct MemoryClasses {
    /// Parameters in compute precision.
    pub weights: f64,
    /// Copies of matrices in 8 or 4 bits.
    pub quantised_weights: f64,
    /// Gradients.
    pub gradients: f64,
    /// Optimizer states.
    pub optimizer: f64,
    /// Activations.
    pub activations: f64,
    /// Logits.
    pub logits: f64,
    /// Communication buffers.
    pub communication: f64,
    /// Driver context and workspaces.
    pub context: f64,
    /// Reserved but unusable.
    pub fragmentation: f64,
}

impl From<Memory> for MemoryClasses {
    fn from(memory: Memory) -> Self {
        Self {
            weights: memory.weights,
            quantised_weights: memory.quantised_weights,
            gradients: memory.gradients,
            optimizer: memory.optimizer,
            activations: memory.activations,
            logits: memory.logits,
            communication: memory.communication,
            context: memory.context,
            fragmentation: memory.fragmentation,
        }
    }
}

/// The whole run; null without `[run] tokens`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RunInfo {
    /// Tokens of the run.
    pub tokens: Option<f64>,
    /// Steps of the run.
    pub steps: Option<f64>,
    /// Days without interruptions.
    pub days: Option<f64>,
    /// Where they lie with 90 % probability.
    pub days_interval_90: Option<Interval>,
    /// Devices times hours.
    pub device_hours: Option<f64>,
}

/// What energy, cost and carbon are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One step.
    Step,
    /// The whole run.
    Run,
}

/// Energy.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct EnergyInfo {
    /// Whether these and cost and carbon are of a step or of the run.
    pub scope: Scope,
    /// Everything at the facility's meter.
    pub kwh: f64,
    /// Accelerators alone.
    pub devices_kwh: f64,
    /// Rest of the nodes.
    pub hosts_kwh: f64,
    /// Switches and optics.
    pub network_kwh: f64,
    /// Facility over IT energy.
    pub pue: f64,
    /// Mean power of one accelerator in W.
    pub device_watts: f64,
}

/// Money.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct CostInfo {
    /// Rent of the devices.
    pub usd: Option<f64>,
    /// Where it lies with 90 % probability, the price being what it is.
    pub usd_interval_90: Option<Interval>,
    /// Rent per device and hour.
    pub usd_per_device_hour: Option<f64>,
    /// Rent per million tokens.
    pub usd_per_million_tokens: Option<f64>,
}

/// Emissions.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct CarbonInfo {
    /// From electric energy.
    pub operational_kg_co2e: Option<f64>,
    /// From making the hardware, by share of its lifetime.
    pub embodied_kg_co2e: Option<f64>,
    /// Grid intensity used.
    pub grid_g_per_kwh: Option<f64>,
}

/// How the result was made.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SimulationInfo {
    /// Engine.
    pub engine: String,
    /// Whether rates depend on what runs beside (`coupled`) or not (`frozen`).
    pub rates: String,
    /// Ranks of the job.
    pub ranks: u64,
    /// Operations of all ranks.
    pub operation_instances: u64,
    /// Lanes evaluated: classes of equal ranks, or ranks; only with `--stats`.
    pub lanes: Option<u64>,
    /// Times the step was replayed until the rates of what overlaps had settled; only with
    /// `--stats` and coupled rates.
    pub replays: Option<u32>,
    /// CPU time in seconds; only with `--stats`.
    pub cpu_seconds: Option<f64>,
    /// Peak memory of the process in bytes; only with `--stats`.
    pub peak_bytes: Option<u64>,
}

/// An assumed figure.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Assumption {
    /// Which figure.
    pub what: String,
    /// Its value.
    pub value: Option<f64>,
    /// Plausible lower bound.
    pub low: Option<f64>,
    /// Plausible upper bound.
    pub high: Option<f64>,
    /// Unit of the three.
    pub unit: Option<String>,
    /// Where it comes from.
    pub source: String,
    /// Date it refers to.
    pub date: Option<String>,
    /// Why.
    pub note: Option<String>,
}

/// How communication was timed, and what it does to the links.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct NetworkInfo {
    /// `algorithms` or `levels`.
    pub model: String,
    /// Collective library whose constants were used.
    pub library: Option<String>,
    /// Way between nodes.
    pub transport: Option<String>,
    /// Extra time of calls because they share links between nodes, cards among them, with other calls
    /// of their own and of other families, or because pairs of nodes are slow
    /// (`network.bandwidth_matrix`); per rank and step in seconds, overlapped or not.
    pub contention_seconds: f64,
    /// Every call of a step, where asked for.
    pub calls: Option<Vec<CallInfo>>,
    /// Links between nodes by their place in the network, where asked for.
    pub tiers: Option<Vec<TierInfo>>,
    /// The busiest links, where asked for.
    pub worst_links: Option<Vec<LinkInfo>>,
}

/// A collective call of a step, in the slowest of its groups.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct CallInfo {
    /// Who meets: `tensor`, `parameter shard`, ...
    pub family: String,
    /// What for.
    pub call: String,
    /// Pattern.
    pub collective: Collective,
    /// Size as nccl-tests counts it.
    pub bytes: u64,
    /// Members.
    pub ranks: u32,
    /// Scale-up domains they sit on.
    pub domains: u32,
    /// Times a member makes it in a step.
    pub per_step: u64,
    /// Duration of one, without waiting for members, in seconds.
    pub seconds: f64,
    /// Algorithm.
    pub algorithm: Option<String>,
    /// Protocol.
    pub protocol: Option<String>,
    /// Bytes one rank sends inside its domain.
    pub scale_up_bytes: f64,
    /// Bytes that leave a domain.
    pub scale_out_bytes: f64,
    /// Share of its cards' rate that the group gets on links shared with other groups.
    pub share_of_rate: f64,
    /// Part of `seconds` that is due to sharing.
    pub contention_seconds: f64,
}

/// Links of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct TierInfo {
    /// Kinds of the two ends, in the direction of travel.
    pub tier: String,
    /// Directed links.
    pub links: u64,
    /// Bytes of a step over what the links could carry in it, mean over links.
    pub mean_utilisation: f64,
    /// The same, of the busiest.
    pub max_utilisation: f64,
}

/// A busy link, and how many are like it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct LinkInfo {
    /// Its two ends, in the direction of travel.
    pub link: String,
    /// Bytes of a step.
    pub bytes: f64,
    /// Over what it could carry in it.
    pub utilisation: f64,
    /// Further links that are as busy.
    pub alike: u64,
}
