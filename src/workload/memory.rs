//! Memory per device by class.

use serde::Serialize;

use crate::hardware::Stack;
use crate::plan::{Pass, Plan};
use crate::program::Precision;

use super::layer::LayerContext;
use super::lower::{Recipe, stage_parameters, trained_parameters};
use super::model::{Model, RankParameters};

/// Bytes of one device by class, at the peak of the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Parameters in compute precision, with the units gathered at once where they are sharded.
    pub weights: f64,
    /// Gradients kept between micro-batches.
    pub gradients: f64,
    /// fp32 master parameters and two moments.
    pub optimizer: f64,
    /// Kept activations of all micro-batches in flight, and the working set of one layer.
    pub activations: f64,
    /// Logits and their fp32 copies, on the stage that has the head.
    pub logits: f64,
    /// Buffers of the communicators.
    pub communication: f64,
    /// Driver context and library workspaces.
    pub context: f64,
    /// Reserved but unusable.
    pub fragmentation: f64,
}

impl Memory {
    /// All classes together.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.weights
            + self.gradients
            + self.optimizer
            + self.activations
            + self.logits
            + self.communication
            + self.context
            + self.fragmentation
    }
}

/// Bytes of a parameter in compute precision, and of its optimizer state: with 16 bits an fp32 master
/// copy and two fp32 moments, in fp32 the moments alone.
fn state_bytes(precision: Precision) -> (f64, f64) {
    if precision == Precision::Fp32 { (4.0, 8.0) } else { (2.0, 12.0) }
}

/// Memory of a device of a pipeline stage.
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
) -> Memory {
    let units = stage_parameters(model, plan, stage);
    let total: RankParameters = units.values().copied().sum();
    let sizes: Vec<u64> = units.values().map(|p| p.dense + p.expert).collect();
    let largest = sizes.iter().copied().max().unwrap_or(0) as f64;
    // Two neighbours exist whole at once: the unit in use and the one gathered ahead.
    let pair = sizes.windows(2).map(|two| two[0] + two[1]).max();
    let gathered = pair.map_or(largest, |pair| pair as f64);
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
    let optimizer = state(trained, optimizer_bytes, sharding.optimizer, expert.optimizer);
    if model.adapter_rank.is_some() {
        weights += state(trained, weight_bytes, 1, 1);
    }
    if sharding.gathers_parameters() {
        weights += gathered * weight_bytes;
    }
    if sharding.gradients > 1 {
        // A whole unit's gradients exist until they are scattered.
        gradients += largest_trained * recipe.gradient_reduce.bytes() as f64;
    }

    // Chunk activation sets in flight, as the schedule orders them.
    let kinds = |chunk: u32| {
        let first = plan.first_layer_of(stage, chunk);
        (first..first + plan.layers_of(stage, chunk)).map(|index| model.layer_kind(index))
    };
    let saved: Vec<f64> = (0..plan.chunks)
        .map(|chunk| kinds(chunk).map(|kind| layer.saved_bytes(kind) as f64).sum())
        .collect();
    // Prediction modules and logits live with the last chunk of the last stage; every micro-batch
    // in flight there holds its own.
    let last = stage == plan.pipeline - 1;
    let heads = if last { 1.0 + f64::from(model.mtp_modules) } else { 0.0 };
    let logits_bytes = heads * layer.logits_bytes() as f64;
    let mut saved = saved;
    if last && let Some(chunk) = saved.last_mut() {
        *chunk += f64::from(model.mtp_modules) * layer.saved_bytes(model.mtp_kind()) as f64;
    }
    let (mut heads_held, mut most_heads) = (0_u32, 0_u32);
    let mut held = 0.0_f64;
    let mut most = 0.0_f64;
    for action in plan.actions(stage) {
        match action.pass {
            Pass::Forward => {
                held += saved[action.chunk as usize];
                most = most.max(held);
                heads_held += u32::from(action.chunk == plan.chunks - 1);
                most_heads = most_heads.max(heads_held);
            }
            Pass::Backward => {
                held -= saved[action.chunk as usize];
                heads_held -= u32::from(action.chunk == plan.chunks - 1);
            }
        }
    }
    // The backward of one layer works on its own activations and on two gradients of the stream.
    let working =
        (0..plan.chunks).flat_map(kinds).map(|kind| layer.transient_bytes(kind)).max().unwrap_or(0)
            as f64
            + 2.0 * layer.stream_bytes() as f64;
    let logits = logits_bytes * f64::from(most_heads);

    let communicators = [
        plan.tensor > 1,
        plan.context > 1,
        plan.expert > 1,
        plan.replicas() > 1,
        plan.pipeline > 1,
        true,
    ]
    .iter()
    .filter(|exists| **exists)
    .count() as f64;
    let communication = if plan.mesh.world_size() > 1 {
        communicators * stack.memory.communicator.value.0
    } else {
        0.0
    };
    let context = stack.memory.context.value.0;
    let activations = most + working;
    let fragmentation = stack.memory.fragmentation.value.0
        * (weights + gradients + optimizer + activations + logits);
    Memory {
        weights,
        gradients,
        optimizer,
        activations,
        logits,
        communication,
        context,
        fragmentation,
    }
}
