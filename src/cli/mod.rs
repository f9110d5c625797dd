//! The command line: one file per command.
//!
//! Exit codes are documented in [`crate::error::exit_code`]; machine output (`--format json`) and
//! option names are stable, text for people is not.

mod accuracy;
mod check;
mod collectives;
mod completions;
mod explain;
mod hw;
mod kernels;
mod run;
mod schema;
mod stack;
mod timeline;
mod topo;
mod trace;
mod trace_replay;
mod trace_what_if;
mod validate;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result, exit_code};
use crate::hardware::Catalogue;
pub(crate) use crate::output::write_file;

/// Simulates LLM training clusters: step time, throughput, memory, energy, cost and CO2e.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Directory laid out like hw-models/ whose files replace or extend the built-in catalogue.
    #[arg(long, global = true, value_name = "DIR", env = "TRAINYARD_HW_MODELS")]
    hw_models: Option<PathBuf>,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 internal error, 2 usage, 3 invalid input or a \
                          missing device, 4 a check failed.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Predict a training run: step time, throughput, memory, energy, cost, CO2e.
    Run(run::RunArgs),
    /// Show where a step's time comes from, term by term from the roofline on.
    Explain(explain::ExplainArgs),
    /// Show the hardware catalogue with the provenance of every figure.
    Hw(hw::HwArgs),
    /// Work with recorded traces: import, inspect, replay.
    #[command(subcommand)]
    Trace(trace::TraceCommand),
    /// Compare predictions with published measurements.
    Validate(validate::ValidateArgs),
    /// Check measured runs against predictions, and say what moved.
    Check(check::CheckArgs),
    /// Networks between and inside nodes: what they are made of, and drawings.
    #[command(subcommand)]
    Topo(TopoCommand),
    /// Fit model constants to measurements.
    #[command(subcommand)]
    Calibrate(CalibrateCommand),
    /// Print the JSON Schema of an input or output file.
    Schema(schema::SchemaArgs),
    /// Print shell completions.
    Completions(completions::CompletionsArgs),
}

/// Networks.
#[derive(Debug, Subcommand)]
enum TopoCommand {
    /// What a network is made of, and a drawing of it.
    Show(topo::TopoShow),
    /// The networks that can be asked for by name.
    List(topo::TopoList),
}

/// Fits.
#[derive(Debug, Subcommand)]
enum CalibrateCommand {
    /// Constants of collectives, from a table of measured collectives.
    Collectives(collectives::CalibrateCollectives),
    /// Constants of an accelerator's kernels, from tables of measured GEMMs and attention.
    Kernels(kernels::CalibrateKernels),
    /// A fabric's transport, from logs of nccl-tests or rccl-tests.
    Fabric(collectives::CalibrateFabric),
    /// Software stack, from measured training steps.
    Stack(stack::CalibrateStack),
}

/// What commands share.
pub struct Context {
    hw_models: Option<PathBuf>,
}

impl Context {
    /// The catalogue with the user's directory on top.
    ///
    /// # Errors
    /// A catalogue file is wrong.
    pub fn catalogue(&self) -> Result<Catalogue> {
        Catalogue::load(self.hw_models.as_deref())
    }
}

/// Output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For machines.
    Json,
}

/// Runs the command line and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { exit_code::USAGE } else { exit_code::DONE };
            // Nothing can be done about a terminal that cannot be written to.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let context = Context { hw_models: cli.hw_models };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let result = match cli.command {
        Command::Run(args) => run::run(&args, &context, &mut out),
        Command::Explain(args) => explain::run(&args, &context, &mut out),
        Command::Hw(args) => hw::run(&args, &context, &mut out),
        Command::Trace(command) => command.run(&context, &mut out),
        Command::Validate(args) => validate::run_validate(&args, &context, &mut out),
        Command::Check(args) => check::run(&args, &context, &mut out),
        Command::Topo(TopoCommand::List(args)) => topo::list(&args, &mut out),
        Command::Topo(TopoCommand::Show(args)) => {
            context.catalogue().and_then(|catalogue| topo::show(&args, &catalogue, &mut out))
        }
        Command::Calibrate(CalibrateCommand::Collectives(args)) => context
            .catalogue()
            .and_then(|catalogue| collectives::calibrate(&args, &catalogue, &mut out)),
        Command::Calibrate(CalibrateCommand::Fabric(args)) => context
            .catalogue()
            .and_then(|catalogue| collectives::calibrate_fabric(&args, &catalogue, &mut out)),
        Command::Calibrate(CalibrateCommand::Stack(args)) => context
            .catalogue()
            .and_then(|catalogue| stack::calibrate_stack(&args, &catalogue, &mut out)),
        Command::Calibrate(CalibrateCommand::Kernels(args)) => context
            .catalogue()
            .and_then(|catalogue| kernels::calibrate(&args, &catalogue, &mut out)),
        Command::Schema(args) => schema::run(&args, &mut out),
        Command::Completions(args) => completions::run(&args, &mut out),
    };
    let result = result.and_then(|()| out.flush().map_err(stdout_error));
    match result {
        Ok(()) => ExitCode::from(exit_code::DONE),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => {
            // The reader (`head`, a pager) has seen enough.
            ExitCode::from(exit_code::DONE)
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// An error of writing to standard output.
pub(crate) fn stdout_error(source: std::io::Error) -> Error {
    Error::io("write to", "standard output", source)
}

/// Prints a value as indented JSON with a line break.
pub(crate) fn write_json<T: serde::Serialize>(out: &mut dyn Write, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::Internal(format!("cannot serialise: {e}")))?;
    writeln!(out, "{text}").map_err(stdout_error)
}

/// Refuses to write a file that is read.
///
/// # Errors
/// The file to write is one of those that are read.
pub(crate) fn refuse_overwriting<P: AsRef<Path>>(written: &Path, read: &[P]) -> Result<()> {
    let Ok(target) = written.canonicalize() else { return Ok(()) };
    if read.iter().any(|read| read.as_ref().canonicalize().is_ok_and(|read| read == target)) {
        return Err(Error::Missing(format!(
            "{} is read, and would be overwritten\n  help: write to another file",
            written.display()
        )));
    }
    Ok(())
}

/// Largest table that is read.
const LARGEST_FILE: u64 = 512 * 1024 * 1024;

/// Reads a table whole.
fn read_table(path: &Path) -> Result<Vec<u8>> {
    let refuse = |kind, why: &str| Error::io("read", path, std::io::Error::new(kind, why));
    if path.is_dir() {
        let why = "it is a directory, and a CSV file is expected";
        return Err(refuse(std::io::ErrorKind::IsADirectory, why));
    }
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    if bytes.len() as u64 > LARGEST_FILE {
        let why = "it is larger than 512 MiB; split it";
        return Err(refuse(std::io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}
