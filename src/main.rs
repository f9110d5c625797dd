//! The `trainyard` binary: parse, dispatch, exit code; nothing else.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trainyard::cli::trace::TraceCommand;

/// Simulator and digital twin of LLM training clusters.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Work with recorded traces.
    #[command(subcommand)]
    Trace(TraceCommand),
}

fn main() -> ExitCode {
    let Command::Trace(command) = Arguments::parse().command;
    match command.run(&mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done where standard error is gone too.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
