//! Software stacks: what a training framework at a version fuses, overlaps, captures and costs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::figure::Figure;
use super::types::Sources;
use crate::plan::Recompute;
use crate::program::FusedAttention;
use crate::scenario::ShardingScheme;
use crate::units::{Bytes, Count, Ratio, Seconds};

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

/// What a stack does with gradients in bf16 training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bf16Gradients {
    /// Data type in which they are reduced.
    pub reduce: GradientType,
    /// Data type in which they are kept between micro-batches.
    pub store: GradientType,
    /// The bf16 gradients of the backward pass stay allocated beside those that are kept.
    pub beside: bool,
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
    /// What it does instead in bf16 training, where that differs from fp16.
    pub bf16_gradients: Option<Bf16Gradients>,
    /// How tokens travel to the nodes of their experts.
    #[serde(default)]
    pub dispatch: Dispatch,
    /// Which element-wise operators are fused.
    pub fusion: Fusion,
    /// Which communication is overlapped with compute.
    pub overlap: Overlap,
    /// What its recipes do differently on some accelerators.
    #[serde(default)]
    pub recipes: Vec<StackRecipe>,
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

impl Stack {
    /// What its recipes do differently on an accelerator of the catalogue.
    #[must_use]
    pub fn recipe_for(&self, accelerator: &str) -> Option<&StackRecipe> {
        self.recipes.iter().find(|recipe| recipe.accelerators.iter().any(|a| a == accelerator))
    }

    /// How tokens travel to their experts on an accelerator.
    #[must_use]
    pub fn dispatch_on(&self, accelerator: &str) -> Dispatch {
        self.recipe_for(accelerator).and_then(|recipe| recipe.dispatch).unwrap_or(self.dispatch)
    }
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
    /// The router of experts in a few kernels.
    #[serde(default)]
    pub router: bool,
    /// Products, activation and casts of routed experts are one kernel each way.
    #[serde(default)]
    pub experts: bool,
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
    /// Exchanges of experts beside compute of another micro-batch, whose pass takes turns with this
    /// one.
    #[serde(default)]
    pub experts: bool,
}

/// What CUDA graphs capture, so that the host replays it with one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Graphs {
    /// Nothing: the host issues every kernel.
    #[default]
    None,
    /// What has static shapes: everything in a layer but routed experts.
    Layers,
    /// All passes of a step; nothing in them waits for the host.
    Step,
}

/// How the recipes of a stack run on some accelerators.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StackRecipe {
    /// Catalogue names of the accelerators.
    pub accelerators: Vec<String>,
    /// What CUDA graphs capture.
    #[serde(default)]
    pub graphs: Graphs,
    /// Exchanges of experts run beside compute, where there is no pipeline or an interleaved one.
    #[serde(default)]
    pub overlap_experts: bool,
    /// How tokens travel to the nodes of their experts, if not as elsewhere.
    pub dispatch: Option<Dispatch>,
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
    /// Host time per local expert and grouped product, where the library launches a product for
    /// every expert and prepares its operands; absent: one kernel takes all experts.
    pub per_expert: Option<Figure<Seconds>>,
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
    /// A stage's output is kept after it was sent on, until its gradient comes back.
    #[serde(default)]
    pub stage_outputs: bool,
    /// Gradients are copied into flat buckets of [`Stack::bucket`] to be reduced, rather than kept in
    /// flat buffers.
    #[serde(default)]
    pub bucket_copies: bool,
    /// Trained in 8 or 4 bits, matrices are kept in these formats beside the 16-bit ones over a step,
    /// row-wise and column-wise.
    #[serde(default)]
    pub quantised_copies: bool,
}
