//! Fits of model constants to measurements.

pub mod collectives;
pub mod least_squares;
