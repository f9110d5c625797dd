//! Measured against predicted.

pub mod collectives;
