//! What the devices of a pipeline stage hold, moment by moment.

use crate::hardware::Stack;
use crate::plan::{Action, Pass, Plan};
use crate::program::Precision;

use super::super::layer::LayerContext;
use super::super::lower::{Recipe, stage_layers, stage_parameters, trained_parameters};
use super::super::model::{Model, RankParameters};
use super::{Doing, Memory, Moment};

/// Bytes of a parameter in compute precision, and of its optimizer state: with 16 bits an fp32 master
/// copy and two fp32 moments, in fp32 the moments alone.
fn state_bytes(precision: Precision) -> (f64, f64) {
    if precision == Precision::Fp32 { (4.0, 8.0) } else { (2.0, 12.0) }
}

/// Memory of the devices of a pipeline stage over a step; bytes.
#[derive(Clone, Debug)]
pub struct StageMemory {
    /// The pipeline stage.
    pub stage: u32,
    /// What stays from step to step.
    resident: Memory,
    /// Weights of sharded units that exist whole during passes.
    gathered: f64,
    /// Gradients of a unit before they are scattered, during backward passes.
    fresh: f64,
    /// A flat copy of gradients on their way.
    bucket: f64,
    /// fp32 copies of 16-bit gradients in the optimizer step.
    widened: f64,
    /// Kept activations of a micro-batch by chunk.
    saved: Vec<f64>,
    /// The most that one layer works on beyond what is kept, forward and backward.
    working: [f64; 2],
    /// Logits of a micro-batch: what is kept, and their gradients.
    logits: [f64; 2],
    actions: Vec<Action>,
    /// Share of the allocated tensors that is lost between blocks.
    fragmentation: f64,
}

impl StageMemory {
    /// The moments of a step in order: resting, every pass of the schedule, the reduction and the
    /// optimizer step.
    pub fn moments(&self) -> impl Iterator<Item = Moment> + '_ {
        let last = self.saved.len() as u32 - 1;
        let (mut kept, mut heads) = (0.0, 0_u32);
        let passes = self.actions.iter().map(move |action| {
            let saved = self.saved[action.chunk as usize];
            let head = u32::from(action.chunk == last);
            let mut memory = self.resident;
            memory.weights += self.gathered;
            match action.pass {
                Pass::Forward => {
                    kept += saved;
                    heads += head;
                    memory.activations = kept + self.working[0];
                    memory.logits = self.logits[0] * f64::from(heads);
                }
                Pass::Backward => {
                    memory.activations = kept + self.working[1];
                    memory.logits =
                        self.logits[0] * f64::from(heads) + self.logits[1] * f64::from(head);
                    memory.gradients += self.fresh;
                    kept -= saved;
                    heads -= head;
                }
            }
            self.moment(Doing::Pass(*action), memory)
        });
        let mut reducing = self.resident;
        reducing.communication += self.bucket;
        let mut updating = self.resident;
        updating.gradients += self.widened;
        std::iter::once(self.moment(Doing::Resting, self.resident))
            .chain(passes)
            .chain([self.moment(Doing::Reducing, reducing), self.moment(Doing::Updating, updating)])
    }

    fn moment(&self, doing: Doing, mut memory: Memory) -> Moment {
        memory.fragmentation = self.fragmentation * memory.tensors();
        Moment { doing, memory }
    }

    /// The first of the moments at which most is allocated.
    #[must_use]
    pub fn peak(&self) -> Moment {
        let mut peak = self.moment(Doing::Resting, self.resident);
        for moment in self.moments() {
            if moment.memory.total() > peak.memory.total() {
                peak = moment;
            }
        }
        peak
    }

    /// What a driver tool shows on a device of `capacity` bytes once a few steps have run.
    ///
    /// The caching allocator keeps the blocks of the passes, and the flat or whole-matrix buffers of
    /// the reduction and the optimizer step do not fit into blocks the size of activations: they come
    /// on top, until the device is full and cached blocks are given back.
    #[must_use]
    pub fn reserved(&self, capacity: f64) -> f64 {
        let temporary = self.bucket + self.widened;
        let wanted = self
            .moments()
            .filter(|moment| matches!(moment.doing, Doing::Pass(_)))
            .map(|moment| moment.memory.total() + temporary * (1.0 + self.fragmentation))
            .fold(0.0, f64::max);
        let needed = self.peak().memory.total();
        wanted.min(capacity).max(needed)
    }
}

/// Memory of the devices of a pipeline stage.
///
/// Model states follow Rajbhandari et al. 2020 (ZeRO, section 3.1), activations Korthikanti et al.
/// 2022; micro-batches in flight come from the schedule's action list.
#[must_use]
pub fn stage_memory(
    model: &Model,
    plan: &Plan,
    layer: &LayerContext<'_>,
    recipe: &Recipe,
    stack: &Stack,
    stage: u32,
) -> StageMemory {
    let units = stage_parameters(model, plan, stage);
    let total: RankParameters = units.values().copied().sum();
    let sizes: Vec<u64> = units.values().map(|p| p.dense + p.expert).collect();
    let largest = sizes.iter().copied().max().unwrap_or(0) as f64;
    // Two neighbours exist whole at once: the unit in use and the one gathered ahead.
    let pair = sizes.windows(2).map(|two| two[0] + two[1]).max();
    let pair = pair.map_or(largest, |pair| pair as f64);
    let (sharding, expert) = (plan.sharding, plan.expert_sharding());
    // Bytes of a state of `bytes` per parameter, sharded over the groups of each pool.
    let state = |of: RankParameters, bytes: f64, dense_group: u32, expert_group: u32| {
        bytes
            * (of.dense as f64 / f64::from(dense_group)
                + of.expert as f64 / f64::from(expert_group))
    };
    let trained_units = trained_parameters(model, plan, stage);
    let trained: RankParameters = trained_units.values().copied().sum();
    let largest_trained =
        trained_units.values().map(|p| p.dense + p.expert).max().unwrap_or(0) as f64;
    let (weight_bytes, optimizer_bytes) = state_bytes(layer.precision);
    let mut weights = state(total, weight_bytes, sharding.parameters, expert.parameters);
    let store = recipe.gradient_store.bytes() as f64;
    let mut gradients = state(trained, store, sharding.gradients, expert.gradients);
    if recipe.gradients_beside_store {
        gradients += state(trained, weight_bytes, sharding.gradients, expert.gradients);
    }
    let optimizer = state(trained, optimizer_bytes, sharding.optimizer, expert.optimizer);
    if model.adapter_rank.is_some() {
        weights += state(trained, weight_bytes, 1, 1);
    }
    let gathered = if sharding.gathers_parameters() { pair * weight_bytes } else { 0.0 };
    // A whole unit's gradients exist until they are scattered.
    let fresh = if sharding.gradients > 1 {
        largest_trained * recipe.gradient_reduce.bytes() as f64
    } else {
        0.0
    };
    // A row-wise and a column-wise copy of every matrix, made once per step.
    let quantised_weights = match layer.precision {
        Precision::Fp8 | Precision::Fp4 if stack.memory.quantised_copies => {
            let layers: RankParameters = stage_layers(model, plan, stage).values().copied().sum();
            2.0 * state(layers, layer.precision.bytes(), sharding.parameters, expert.parameters)
        }
        _ => 0.0,
    };
    // The optimizer reads fp32: where 16 bits are kept, its share is widened in the step.
    let widened = if store < 4.0 && layer.precision != Precision::Fp32 {
        state(trained, 4.0, sharding.optimizer, expert.optimizer)
    } else {
        0.0
    };
    let replicas = plan.replicas() > 1;
    let bucket = if stack.memory.bucket_copies && replicas {
        let all = state(trained, recipe.gradient_reduce.bytes() as f64, 1, 1);
        all.min(stack.bucket.value.0)
    } else {
        0.0
    };

    let kinds = |chunk: u32| {
        let first = plan.first_layer_of(stage, chunk);
        (first..first + plan.layers_of(stage, chunk)).map(|index| model.layer_kind(index))
    };
    let mut saved: Vec<f64> = (0..plan.chunks)
        .map(|chunk| kinds(chunk).map(|kind| layer.saved_bytes(kind) as f64).sum())
        .collect();
    // Prediction modules and logits live with the last chunk of the last stage; every micro-batch
    // in flight there holds its own.
    let last = stage == plan.pipeline - 1;
    let heads = if last { 1.0 + f64::from(model.mtp_modules) } else { 0.0 };
    for (chunk, saved) in saved.iter_mut().enumerate() {
        let end = last && chunk as u32 == plan.chunks - 1;
        if end {
            *saved += f64::from(model.mtp_modules) * layer.saved_bytes(model.mtp_kind()) as f64;
        } else if stack.memory.stage_outputs {
            // What was sent on is kept until its gradient comes back.
            *saved += layer.stream_bytes() as f64;
        }
    }
    // What one layer works on: what is recomputed was there in the forward pass, too; the backward
    // pass has two gradients of the stream besides.
    let transient =
        (0..plan.chunks).flat_map(kinds).map(|kind| layer.transient_bytes(kind)).max().unwrap_or(0)
            as f64;
    let working = [transient, transient + 2.0 * layer.stream_bytes() as f64];
    let (kept, gradient) = layer.logits_bytes();
    let logits = [heads * kept as f64, heads * gradient as f64];

    let communicators =
        [plan.tensor > 1, plan.context > 1, plan.expert > 1, replicas, plan.pipeline > 1, true]
            .iter()
            .filter(|exists| **exists)
            .count() as f64;
    let communication = if plan.mesh.world_size() > 1 {
        communicators * stack.memory.communicator.value.0
    } else {
        0.0
    };
    StageMemory {
        stage,
        resident: Memory {
            weights,
            quantised_weights,
            gradients,
            optimizer,
            communication,
            context: stack.memory.context.value.0,
            ..Memory::default()
        },
        gathered,
        fresh,
        bucket,
        widened,
        saved,
        working,
        logits,
        actions: plan.actions(stage),
        fragmentation: stack.memory.fragmentation.value.0,
    }
}
