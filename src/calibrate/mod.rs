//! Fits of model constants to measurements.

pub mod collectives;
pub mod fabric;
pub mod kernels;
pub mod least_squares;
pub mod nccl_log;
pub mod stack;
