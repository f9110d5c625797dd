//! The parallel plan: degrees, shard groups, schedule, recomputation, and whether it can run.

mod mesh;
mod schedule;

pub use mesh::{Axis, DEFAULT_ORDER, Mesh};
pub use schedule::{Action, Pass, Schedule};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::PlanError;

/// What is computed again in the backward pass instead of being kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Nothing.
    None,
    /// The attention core (Korthikanti et al. 2022, section 5).
    Selective,
    /// Normalisation, activation functions and the up-projections of latent attention
    /// (Megatron-Core, `recompute_granularity = selective` with modules).
    Modules,
    /// Everything but attention, reductions and every second matrix product (`PyTorch`'s selective
    /// activation checkpointing by operator, as torchtitan sets it up).
    Operators,
    /// Every layer, from its input.
    Full,
}

/// Number of data-parallel ranks over which each class of tensors is sharded; 1 is replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sharding {
    /// Parameters of the compute precision.
    pub parameters: u32,
    /// Gradients that are kept between micro-batches.
    pub gradients: u32,
    /// Master parameters and moments.
    pub optimizer: u32,
}

impl Sharding {
    /// Parameters are gathered before use and dropped after it (ZeRO-3, FSDP).
    #[must_use]
    pub fn gathers_parameters(self) -> bool {
        self.parameters > 1
    }
}

/// A plan as asked for; [`Plan::resolve`] fills what is open and checks it.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanRequest {
    /// Number of devices.
    pub devices: u32,
    /// Tensor-parallel size.
    pub tensor: u32,
    /// Context-parallel size.
    pub context: u32,
    /// Expert-parallel size; experts are spread over data-parallel ranks.
    pub expert: u32,
    /// Tensor-parallel size inside an expert: 1 or `tensor`; `tensor` if open.
    pub expert_tensor: Option<u32>,
    /// Pipeline stages.
    pub pipeline: u32,
    /// Data-parallel size; what is left of the devices if open.
    pub data: Option<u32>,
    /// Chunks per pipeline device.
    pub chunks: u32,
    /// Schedule; 1F1B or interleaved by the number of chunks if open.
    pub schedule: Option<Schedule>,
    /// Sequences per micro-batch and data-parallel rank.
    pub micro_batch: u32,
    /// Sequences per step.
    pub global_batch: u32,
    /// Activations outside of the tensor-parallel blocks are split over the tensor group.
    pub sequence_parallel: bool,
    /// Shard group sizes; 0 stands for all data-parallel ranks.
    pub sharding: Sharding,
    /// What is recomputed.
    pub recompute: Recompute,
    /// Layers per virtual stage, in order; even if open.
    pub layers_per_stage: Option<Vec<u32>>,
    /// The embedding counts as a layer of the first stage when layers are spread evenly.
    pub embedding_as_layer: bool,
    /// The output projection counts as a layer of the last stage.
    pub head_as_layer: bool,
    /// Order of the mesh, fastest first.
    pub order: [Axis; 4],
    /// Tokens per sequence.
    pub sequence: u32,
    /// Key/value heads of the model.
    pub kv_heads: u32,
    /// Routed experts of the model; 0 for a dense model.
    pub experts: u32,
    /// Layers of the model.
    pub layers: u32,
    /// Attention heads of the model.
    pub heads: u32,
}

/// A plan that multiplies out.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Ranks and their coordinates.
    pub mesh: Mesh,
    /// Tensor-parallel size.
    pub tensor: u32,
    /// Context-parallel size.
    pub context: u32,
    /// Expert-parallel size.
    pub expert: u32,
    /// Tensor-parallel size inside an expert.
    pub expert_tensor: u32,
    /// Pipeline stages.
    pub pipeline: u32,
    /// Data-parallel size.
    pub data: u32,
    /// Chunks per pipeline device.
    pub chunks: u32,
    /// Order of forward and backward passes.
    pub schedule: Schedule,
    /// Sequences per micro-batch and data-parallel rank.
    pub micro_batch: u32,
    /// Micro-batches per step and data-parallel rank.
    pub micro_batches: u32,
    /// Sequences per step.
    pub global_batch: u32,
    /// Activations outside of the tensor-parallel blocks are split over the tensor group.
    pub sequence_parallel: bool,
    /// Shard group sizes; all at least 1.
    pub sharding: Sharding,
    /// What is recomputed.
    pub recompute: Recompute,
    /// Layers of each virtual stage: `chunk * pipeline + stage`.
    pub stage_layers: Vec<u32>,
    /// A forward pass and the backward pass after it take turns, so that exchanges of experts of
    /// one run behind compute of the other.
    pub passes_take_turns: bool,
}

impl Plan {
    /// Forwards that are started earlier than usual. Where passes take turns they have to be of
    /// different micro-batches on the last stage, too.
    fn ahead(&self) -> u32 {
        u32::from(self.passes_take_turns)
    }

    /// What stage `stage` does, in order.
    #[must_use]
    pub fn actions(&self, stage: u32) -> Vec<Action> {
        let (stages, ahead) = (self.pipeline, self.ahead());
        self.schedule.actions_ahead(stage, stages, self.micro_batches, self.chunks, ahead)
    }

    /// Whether the action of a stage with this place in its list takes turns with the next: a
    /// forward and a backward pass, where they alternate. Others would wait for each other around
    /// the pipeline: the last forward of a warm-up is what the first backward comes back from.
    #[must_use]
    pub fn takes_turns(&self, stage: u32, place: usize, action: &Action) -> bool {
        let (stages, ahead) = (self.pipeline, self.ahead());
        self.passes_take_turns
            && action.pass == Pass::Forward
            && place
                >= self.schedule.warm_up(stage, stages, self.micro_batches, self.chunks, ahead)
                    as usize
    }

    /// Fills in what is open and checks that the plan can run.
    ///
    /// # Errors
    /// The first constraint that fails, with its numbers and the nearest plan that satisfies it.
    pub fn resolve(request: &PlanRequest) -> Result<Self, PlanError> {
        let fail = |key: &str, constraint: String, nearest: Option<String>| PlanError {
            key: format!("plan.{key}"),
            constraint,
            nearest,
        };
        let r = request;
        for (key, value) in [
            ("tensor_parallel", r.tensor),
            ("context_parallel", r.context),
            ("expert_parallel", r.expert),
            ("expert_tensor_parallel", r.expert_tensor.unwrap_or(1)),
            ("pipeline_parallel", r.pipeline),
            ("data_parallel", r.data.unwrap_or(1)),
            ("virtual_stages", r.chunks),
            ("micro_batch", r.micro_batch),
            ("global_batch", r.global_batch),
            ("devices", r.devices),
        ] {
            if value == 0 {
                return Err(fail(key, "must be at least 1".into(), Some(format!("{key} = 1"))));
            }
        }
        if !r.heads.is_multiple_of(r.tensor) {
            return Err(fail(
                "tensor_parallel",
                format!("{} attention heads are not divisible by {} ranks", r.heads, r.tensor),
                Some(format!("tensor_parallel = {}", nearest_divisor(r.heads, r.tensor))),
            ));
        }
        if !r.kv_heads.is_multiple_of(r.tensor) && !r.tensor.is_multiple_of(r.kv_heads) {
            return Err(fail(
                "tensor_parallel",
                format!(
                    "{} key/value heads are neither divisible by {} ranks nor a divisor of them",
                    r.kv_heads, r.tensor
                ),
                Some(format!("tensor_parallel = {}", nearest_divisor(r.kv_heads, r.tensor))),
            ));
        }
        if !r.sequence.is_multiple_of(r.context) {
            return Err(fail(
                "context_parallel",
                format!("sequences of {} are not divisible by {} ranks", r.sequence, r.context),
                Some(format!("context_parallel = {}", nearest_divisor(r.sequence, r.context))),
            ));
        }
        let model_ranks = r.tensor.saturating_mul(r.context).saturating_mul(r.pipeline);
        let degrees = format!(
            "tensor {} x context {} x pipeline {} = {model_ranks}",
            r.tensor, r.context, r.pipeline
        );
        let data = match r.data {
            Some(data) if data.saturating_mul(model_ranks) == r.devices => data,
            Some(data) => {
                return Err(fail(
                    "data_parallel",
                    format!("{degrees}, times data {data} is not the {} devices", r.devices),
                    r.devices
                        .is_multiple_of(model_ranks)
                        .then(|| format!("data_parallel = {}", r.devices / model_ranks))
                        .or_else(|| {
                            let devices = model_ranks.saturating_mul(data.max(1));
                            Some(format!("cluster.devices = {devices}"))
                        }),
                ));
            }
            None if r.devices.is_multiple_of(model_ranks) => r.devices / model_ranks,
            None => {
                let key = if r.devices.is_multiple_of(r.tensor.saturating_mul(r.context)) {
                    "pipeline_parallel"
                } else {
                    "tensor_parallel"
                };
                let up = r.devices.div_ceil(model_ranks).saturating_mul(model_ranks);
                return Err(fail(
                    key,
                    format!("{degrees} ranks do not divide {} devices", r.devices),
                    Some(if key == "pipeline_parallel" {
                        let room = r.devices / r.tensor.saturating_mul(r.context);
                        format!("pipeline_parallel = {}", nearest_divisor(room, r.pipeline))
                    } else {
                        format!("cluster.devices = {up}")
                    }),
                ));
            }
        };
        let unit = data.saturating_mul(r.micro_batch);
        if !r.global_batch.is_multiple_of(unit) {
            let times = (f64::from(r.global_batch) / f64::from(unit)).round().max(1.0) as u32;
            let nearest = times.saturating_mul(unit);
            return Err(fail(
                "micro_batch",
                format!(
                    "a global batch of {} sequences is not a multiple of data {data} x \
                     micro-batch {}",
                    r.global_batch, r.micro_batch
                ),
                Some(format!("training.global_batch = {nearest}")),
            ));
        }
        let micro_batches = r.global_batch / unit;
        let chunks = r.chunks;
        if chunks > 1 && r.pipeline == 1 {
            return Err(fail(
                "virtual_stages",
                format!("{chunks} chunks per device need at least 2 pipeline stages"),
                Some("virtual_stages = 1".into()),
            ));
        }
        let schedule = match (r.schedule, chunks) {
            (None, 1) => Schedule::OneForwardOneBackward,
            (None, _) | (Some(Schedule::Interleaved), 2..) => Schedule::Interleaved,
            (Some(Schedule::Interleaved), _) => {
                return Err(fail(
                    "schedule",
                    "the interleaved schedule needs at least 2 chunks per device".into(),
                    Some("virtual_stages = 2, or schedule = \"1f1b\"".into()),
                ));
            }
            (Some(Schedule::OneForwardOneBackward), 2..) => {
                return Err(fail(
                    "schedule",
                    format!("1f1b has one chunk per device, not {chunks}"),
                    Some("schedule = \"interleaved\"".into()),
                ));
            }
            (Some(schedule), _) => schedule,
        };
        if schedule == Schedule::Interleaved && !micro_batches.is_multiple_of(r.pipeline) {
            let down = micro_batches / r.pipeline * r.pipeline;
            let target = if down == 0 { r.pipeline } else { down };
            return Err(fail(
                "schedule",
                format!(
                    "interleaving needs the {micro_batches} micro-batches to be a multiple of \
                     the {} stages",
                    r.pipeline
                ),
                Some(format!(
                    "training.global_batch = {}, or virtual_stages = 1",
                    target.saturating_mul(unit)
                )),
            ));
        }
        let virtual_stages = r.pipeline.saturating_mul(chunks);
        let stage_layers = match &r.layers_per_stage {
            Some(list) => {
                if list.len() as u32 != virtual_stages {
                    return Err(fail(
                        "layers_per_stage",
                        format!("{} entries for {virtual_stages} (virtual) stages", list.len()),
                        None,
                    ));
                }
                let sum: u64 = list.iter().map(|layers| u64::from(*layers)).sum();
                if sum != u64::from(r.layers) {
                    return Err(fail(
                        "layers_per_stage",
                        format!(
                            "the entries add up to {sum}, and the model has {} layers",
                            r.layers
                        ),
                        None,
                    ));
                }
                list.clone()
            }
            None if virtual_stages > r.layers => {
                return Err(fail(
                    "pipeline_parallel",
                    format!(
                        "{} stages x {chunks} chunks are more than the {} layers",
                        r.pipeline, r.layers
                    ),
                    Some(format!("pipeline_parallel = {}", nearest_divisor(r.layers, r.pipeline))),
                ));
            }
            None => {
                let (first, last) = (u32::from(r.embedding_as_layer), u32::from(r.head_as_layer));
                let counted = r.layers + first + last;
                let each = counted / virtual_stages;
                if !counted.is_multiple_of(virtual_stages) || each <= first.max(last) {
                    let even = spread(r.layers, virtual_stages);
                    // Counting the ends as layers may make it even.
                    let flags = match (virtual_stages - counted % virtual_stages, first + last) {
                        (1, 0) => ", or plan.embedding_as_layer or plan.head_as_layer = true",
                        (2, 0) => ", or plan.embedding_as_layer and plan.head_as_layer = true",
                        _ => "",
                    };
                    return Err(fail(
                        "pipeline_parallel",
                        format!(
                            "{counted} layers{} are not divisible by {} stages x {chunks} chunks",
                            if counted > r.layers { " (with embedding and head)" } else { "" },
                            r.pipeline
                        ),
                        Some(format!("layers_per_stage = {even:?} (an uneven split){flags}")),
                    ));
                }
                let mut list = vec![each; virtual_stages as usize];
                list[0] -= first;
                list[virtual_stages as usize - 1] -= last;
                list
            }
        };
        if r.sequence_parallel && r.tensor == 1 {
            return Err(fail(
                "sequence_parallel",
                "there is no tensor group to split sequences over (tensor_parallel = 1)".into(),
                Some("sequence_parallel = false".into()),
            ));
        }
        let group = data * r.context;
        let whole = |size: u32| if size == 0 { group } else { size };
        let sharding = Sharding {
            parameters: whole(r.sharding.parameters),
            gradients: whole(r.sharding.gradients),
            optimizer: whole(r.sharding.optimizer),
        };
        for (key, size) in [
            ("parameter_shard", sharding.parameters),
            ("gradient_shard", sharding.gradients),
            ("optimizer_shard", sharding.optimizer),
        ] {
            if !group.is_multiple_of(size) {
                return Err(fail(
                    key,
                    format!("a shard group of {size} does not divide data x context = {group}"),
                    Some(format!("{key} = {}", nearest_divisor(group, size))),
                ));
            }
        }
        if !sharding.gradients.is_multiple_of(sharding.parameters)
            || !sharding.optimizer.is_multiple_of(sharding.gradients)
        {
            return Err(fail(
                "optimizer_shard",
                format!(
                    "shard groups must nest: parameters {} inside gradients {} inside optimizer {}",
                    sharding.parameters, sharding.gradients, sharding.optimizer
                ),
                Some("equal sizes, or each a multiple of the one before".into()),
            ));
        }
        let expert_tensor = r.expert_tensor.unwrap_or(r.tensor);
        if expert_tensor != 1 && expert_tensor != r.tensor {
            return Err(fail(
                "expert_tensor_parallel",
                format!("{expert_tensor} is neither 1 nor tensor_parallel = {}", r.tensor),
                Some("expert_tensor_parallel = 1".into()),
            ));
        }
        if r.expert > 1 {
            if r.experts == 0 {
                return Err(fail(
                    "expert_parallel",
                    "the model has no experts".into(),
                    Some("expert_parallel = 1".into()),
                ));
            }
            if !r.experts.is_multiple_of(r.expert) {
                return Err(fail(
                    "expert_parallel",
                    format!("{} experts are not divisible by {} ranks", r.experts, r.expert),
                    Some(format!("expert_parallel = {}", nearest_divisor(r.experts, r.expert))),
                ));
            }
            let room = r.tensor / expert_tensor * r.context * data;
            if !room.is_multiple_of(r.expert) {
                return Err(fail(
                    "expert_parallel",
                    format!("{} expert ranks do not divide the {room} ranks of a stage", r.expert),
                    Some(format!("expert_parallel = {}", nearest_divisor(room, r.expert))),
                ));
            }
        }
        let mesh = Mesh::new(r.order, |axis| match axis {
            Axis::Tensor => r.tensor,
            Axis::Context => r.context,
            Axis::Data => data,
            Axis::Pipeline => r.pipeline,
        });
        Ok(Self {
            mesh,
            tensor: r.tensor,
            context: r.context,
            expert: r.expert,
            expert_tensor,
            pipeline: r.pipeline,
            data,
            chunks,
            schedule,
            micro_batch: r.micro_batch,
            micro_batches,
            global_batch: r.global_batch,
            sequence_parallel: r.sequence_parallel,
            sharding,
            recompute: r.recompute,
            stage_layers,
            passes_take_turns: false,
        })
    }

    /// Ranks that share parameters: data x context.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.data * self.context
    }

    /// Axes over which experts are spread and replicated, first varying fastest.
    #[must_use]
    pub fn expert_axes(&self) -> &'static [Axis] {
        if self.expert_tensor == self.tensor {
            &[Axis::Context, Axis::Data]
        } else {
            &[Axis::Tensor, Axis::Context, Axis::Data]
        }
    }

    /// Ranks that hold the same part of the same experts.
    #[must_use]
    pub fn expert_replicas(&self) -> u32 {
        self.tensor / self.expert_tensor * self.replicas() / self.expert
    }

    /// Shard groups of expert parameters: the same share of their replicas as for the others.
    #[must_use]
    pub fn expert_sharding(&self) -> Sharding {
        let replicas = self.expert_replicas();
        let scale = |size: u32| {
            if size == 1 {
                return 1;
            }
            let wanted =
                (u64::from(size) * u64::from(replicas) / u64::from(self.replicas())) as u32;
            (1..=wanted.max(1)).rev().find(|d| replicas.is_multiple_of(*d)).unwrap_or(1)
        };
        Sharding {
            parameters: scale(self.sharding.parameters),
            gradients: scale(self.sharding.gradients),
            optimizer: scale(self.sharding.optimizer),
        }
    }

    /// Layers of a device's chunk.
    #[must_use]
    pub fn layers_of(&self, stage: u32, chunk: u32) -> u32 {
        self.stage_layers[(chunk * self.pipeline + stage) as usize]
    }

    /// Index of the first layer of a device's chunk.
    #[must_use]
    pub fn first_layer_of(&self, stage: u32, chunk: u32) -> u32 {
        self.stage_layers[..(chunk * self.pipeline + stage) as usize].iter().sum()
    }
}

/// `layers` over `stages` as evenly as possible, the longer ones in the middle, since the first
/// and last stage also carry embedding and head.
fn spread(layers: u32, stages: u32) -> Vec<u32> {
    let (base, extra) = (layers / stages, layers % stages);
    let first = (stages - extra) / 2;
    (0..stages).map(|i| base + u32::from(i >= first && i < first + extra)).collect()
}

/// The divisor of `number` nearest to `wanted`, the smaller one on a tie.
fn nearest_divisor(number: u32, wanted: u32) -> u32 {
    (1..=number.max(1))
        .filter(|d| number.is_multiple_of(*d))
        .min_by_key(|d| d.abs_diff(wanted))
        .unwrap_or(1)
}
