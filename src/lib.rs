//! Trainyard: a hardware-aware, trace-driven simulator and digital twin of LLM training clusters.
pub mod error;
pub mod hardware;
pub mod input;
pub mod network;
pub mod plan;
pub mod program;
pub mod replay;
pub mod scenario;
pub mod timing;
pub mod units;
pub mod workload;
