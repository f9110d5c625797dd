//! Memory per device by class.

use serde::Serialize;

use crate::hardware::Stack;
use crate::plan::{Plan, Recompute};

use super::config::Model;
use super::layer::LayerContext;
use super::lower::Recipe;

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

/// Bytes of optimizer state per parameter: fp32 master copy and two fp32 moments.
const OPTIMIZER_BYTES: f64 = 12.0;
/// Bytes of a parameter in compute precision.
const WEIGHT_BYTES: f64 = 2.0;

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
    let layers: u32 = (0..plan.chunks).map(|chunk| plan.layers_of(stage, chunk)).sum();
    let (first, last) = (stage == 0, stage == plan.pipeline - 1);
    let parameters = model.rank_parameters(layers, plan.tensor, first, last) as f64;
    let sharding = plan.sharding;

    let mut weights = parameters * WEIGHT_BYTES / f64::from(sharding.parameters);
    let mut gradients =
        parameters * recipe.gradient_store.bytes() as f64 / f64::from(sharding.gradients);
    let layer_parameters = model.rank_parameters(1, plan.tensor, false, false) as f64;
    let ends = model.rank_parameters(0, plan.tensor, first, last) as f64;
    let largest = layer_parameters.max(ends);
    if sharding.gathers_parameters() {
        // The unit in use and the one gathered ahead.
        weights += (largest + layer_parameters) * WEIGHT_BYTES;
    }
    if sharding.gradients > 1 {
        // A whole unit's gradients exist until they are scattered.
        gradients += largest * recipe.gradient_reduce.bytes() as f64;
    }
    let optimizer = parameters * OPTIMIZER_BYTES / f64::from(sharding.optimizer);

    // Chunk activation sets in flight, as the schedule orders them.
    let saved = layer.saved_bytes() as f64;
    let mut held = 0.0_f64;
    let mut most = 0.0_f64;
    for action in plan.schedule.actions(stage, plan.pipeline, plan.micro_batches, plan.chunks) {
        let bytes = saved * f64::from(plan.layers_of(stage, action.chunk));
        match action.pass {
            crate::plan::Pass::Forward => {
                held += bytes;
                most = most.max(held);
            }
            crate::plan::Pass::Backward => held -= bytes,
        }
    }
    // The backward of one layer works on its own activations and on two gradients of the stream.
    let working = match plan.recompute {
        Recompute::None => 0.0,
        Recompute::Selective | Recompute::Full => layer.transient_bytes() as f64,
    } + 2.0 * layer.stream_bytes() as f64;
    let logits = if last { layer.logits_bytes() as f64 } else { 0.0 };

    let communicators = [plan.tensor > 1, plan.replicas() > 1, plan.pipeline > 1, true]
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
