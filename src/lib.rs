//! Trainyard: a hardware-aware, trace-driven simulator and digital twin of LLM training clusters.
pub mod account;
pub mod cli;
pub mod error;
pub mod hardware;
pub mod input;
pub mod network;
pub mod outcome;
pub mod plan;
pub mod program;
pub mod replay;
pub mod report;
pub mod scenario;
pub mod timing;
pub mod trace;
pub mod units;
pub mod validate;
pub mod workload;
