//! The `trainyard` binary: parse, dispatch, exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use trainyard::cli::collectives::{
    self, CalibrateCollectives, CalibrateFabric, ValidateCollectives,
};
use trainyard::cli::topo::{self, TopoShow};
use trainyard::error::Result;
use trainyard::hardware::Catalogue;

/// Hardware-aware, trace-driven simulator and digital twin of LLM training clusters.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measured against predicted.
    Validate(ValidateCollectives),
    /// Fits model constants to measurements.
    #[command(subcommand)]
    Calibrate(Calibrate),
    /// Networks between and inside nodes.
    #[command(subcommand)]
    Topo(Topo),
}

#[derive(Subcommand)]
enum Topo {
    /// What a network is made of, and a drawing of it.
    Show(TopoShow),
    /// The networks that can be asked for by name.
    List,
}

#[derive(Subcommand)]
enum Calibrate {
    /// Constants of collectives, from a table of measured collectives.
    Collectives(CalibrateCollectives),
    /// A fabric's transport, from logs of nccl-tests or rccl-tests.
    Fabric(CalibrateFabric),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let stdout = std::io::stdout();
    match run(&cli, &mut stdout.lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: &Cli, out: &mut dyn Write) -> Result<()> {
    let catalogue = Catalogue::load(None)?;
    match &cli.command {
        Command::Validate(args) => collectives::validate(args, &catalogue, out),
        Command::Calibrate(Calibrate::Collectives(args)) => {
            collectives::calibrate(args, &catalogue, out)
        }
        Command::Topo(Topo::Show(args)) => topo::show(args, &catalogue, out),
        Command::Topo(Topo::List) => topo::list(out),
        Command::Calibrate(Calibrate::Fabric(args)) => {
            collectives::calibrate_fabric(args, &catalogue, out)
        }
    }
}
