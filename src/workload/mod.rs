//! Workloads: transformers as lists of operations, their parameters, and their memory.

mod config;
mod layer;
mod lower;
mod memory;

pub use config::{Mlp, Model, ModelFile, ModelShape, Norm, Positions};
pub use layer::{Item, LayerContext};
pub use lower::{Recipe, lower};
pub use memory::{Memory, stage_memory};
