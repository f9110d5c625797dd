//! `trainyard completions`: shell completions from the same declarations as the help.

use std::io::Write;

use clap::{Args, CommandFactory};

use crate::error::Result;

use super::{Cli, stdout_error};

/// Options of `trainyard completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell to print completions for.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Runs the command.
///
/// # Errors
/// Standard output cannot be written to.
pub fn run(args: &CompletionsArgs, out: &mut dyn Write) -> Result<()> {
    let mut buffer = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "trainyard", &mut buffer);
    out.write_all(&buffer).map_err(stdout_error)
}
