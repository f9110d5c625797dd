//! Workloads: transformers as lists of operations, their parameters, and their memory.

mod config;
mod layer;
mod lower;
mod memory;
mod model;

pub use config::{MlaShape, Mlp, ModelFile, ModelShape, MoeShape, Norm, Positions};
pub use layer::{Group, Item, LayerContext};
pub use lower::{Recipe, lower};
pub use memory::{Doing, Memory, Moment, StageMemory, stage_memory};
pub use model::{LayerKind, Model, Parameters, RankParameters};
