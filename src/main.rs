//! The `trainyard` binary: parse, dispatch, exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use trainyard::cli::collectives::{
    self, CalibrateCollectives, CalibrateFabric, ValidateCollectives,
};
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
        Command::Calibrate(Calibrate::Fabric(args)) => {
            collectives::calibrate_fabric(args, &catalogue, out)
        }
    }
}
