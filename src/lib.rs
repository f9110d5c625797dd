//! Trainyard: a hardware-aware, trace-driven simulator and digital twin of LLM training clusters.
pub mod calibrate;
pub mod cli;
pub mod disturbance;
pub mod error;
pub mod hardware;
pub mod input;
pub mod network;
pub mod units;
pub mod validate;
