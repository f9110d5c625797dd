//! The command line, one file per command.

pub mod collectives;
pub mod topo;
