//! Measured collectives against the model: rows, their description, scores.

pub mod describe;
pub mod rows;
pub mod score;
