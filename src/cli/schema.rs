//! `trainyard schema`: JSON Schema of input and output files.

use std::io::Write;

use clap::Args;
use schemars::Schema;

use crate::check::ChecksFile;
use crate::error::{Error, Result};
use crate::hardware::{Accelerator, Fabric, Grid, Node, PriceSheet, Stack};
use crate::network::topology::explicit::TopologyFile;
use crate::outcome::{RunResult, Waterfall};
use crate::scenario::Scenario;
use crate::workload::ModelFile;

use super::stdout_error;

/// A file with a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SchemaName {
    /// Scenario files.
    Scenario,
    /// Result of `trainyard run --format json`.
    Result,
    /// Output of `trainyard explain --format json`.
    Explain,
    /// Files of `trainyard check`.
    Checks,
    /// Networks from files: `network.topology`, `trainyard topo show FILE`.
    Topology,
    /// hw-models/accelerators.
    Accelerator,
    /// hw-models/nodes.
    Node,
    /// hw-models/fabrics.
    Fabric,
    /// hw-models/stacks.
    Stack,
    /// hw-models/prices.
    Prices,
    /// hw-models/grids.
    Grid,
    /// hw-models/models.
    Model,
}

/// Options of `trainyard schema`.
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Which file.
    #[arg(value_enum)]
    name: SchemaName,
}

/// The schema of a file.
#[must_use]
pub fn schema_of(name: SchemaName) -> Schema {
    match name {
        SchemaName::Scenario => schemars::schema_for!(Scenario),
        SchemaName::Result => schemars::schema_for!(RunResult),
        SchemaName::Explain => schemars::schema_for!(Waterfall),
        SchemaName::Checks => schemars::schema_for!(ChecksFile),
        SchemaName::Topology => schemars::schema_for!(TopologyFile),
        SchemaName::Accelerator => schemars::schema_for!(Accelerator),
        SchemaName::Node => schemars::schema_for!(Node),
        SchemaName::Fabric => schemars::schema_for!(Fabric),
        SchemaName::Stack => schemars::schema_for!(Stack),
        SchemaName::Prices => schemars::schema_for!(PriceSheet),
        SchemaName::Grid => schemars::schema_for!(Grid),
        SchemaName::Model => schemars::schema_for!(ModelFile),
    }
}

/// Runs the command.
///
/// # Errors
/// Standard output cannot be written to.
pub fn run(args: &SchemaArgs, out: &mut dyn Write) -> Result<()> {
    let text = serde_json::to_string_pretty(&schema_of(args.name))
        .map_err(|e| Error::Internal(format!("cannot serialise: {e}")))?;
    writeln!(out, "{text}").map_err(stdout_error)
}
