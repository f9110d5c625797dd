//! Memory per device by class, over the moments of a step.
//!
//! A device's memory changes at the passes of its schedule, when the gradients are reduced, and in
//! the optimizer step. [`stage_memory`] says what the devices of a pipeline stage hold at each of
//! these moments. What is *allocated* at the worst of them decides whether a plan fits; what a driver
//! tool shows is what the caching allocator has *reserved*, which is more: blocks that activations
//! left behind are not joined for the large buffers of the optimizer step.

mod stage;

use serde::Serialize;

use crate::plan::Action;

pub use stage::{StageMemory, stage_memory};

/// Bytes of one device by class at a moment of the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Parameters in compute precision, with the units gathered at once where they are sharded.
    pub weights: f64,
    /// Copies of matrices in 8 or 4 bits, and their transposes, where the stack keeps them.
    pub quantised_weights: f64,
    /// Gradients kept between micro-batches, whole units before they are scattered, and the fp32
    /// copies that the optimizer reads.
    pub gradients: f64,
    /// fp32 master parameters and two moments.
    pub optimizer: f64,
    /// Kept activations of all micro-batches in flight, and the working set of one layer.
    pub activations: f64,
    /// Logits and their fp32 copies, on the stage that has the head.
    pub logits: f64,
    /// Buffers of the communicators, and copies of gradients on their way.
    pub communication: f64,
    /// Driver context and library workspaces.
    pub context: f64,
    /// Reserved but unusable.
    pub fragmentation: f64,
}

impl Memory {
    /// What the framework's allocator hands out for tensors.
    #[must_use]
    pub fn tensors(&self) -> f64 {
        self.weights
            + self.quantised_weights
            + self.gradients
            + self.optimizer
            + self.activations
            + self.logits
    }

    /// All classes together.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.tensors() + self.communication + self.context + self.fragmentation
    }
}

/// What a device does at a moment of its step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Doing {
    /// Nothing yet, or nothing any more: what stays from step to step.
    #[default]
    Resting,
    /// A pass over the layers of a chunk.
    Pass(Action),
    /// The reduction of the gradients that are left.
    Reducing,
    /// The optimizer step.
    Updating,
}

/// What a device holds while it does something.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moment {
    /// What it does.
    pub doing: Doing,
    /// The most it holds meanwhile.
    pub memory: Memory,
}
