//! `trainyard trace`: recorded traces in, findings out.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};

use super::timeline::{ExportArgs, export};
use crate::error::{Error, Result};
use crate::outcome::replay_changed;
use crate::output::write_file;
use crate::trace::analysis::inspect;
use crate::trace::format::{self, Compression};
use crate::trace::header::HEADER_FILE;
use crate::trace::import::import;
use crate::trace::model::RankTrace;
use crate::trace::view;

use super::trace_what_if::WhatIfArgs;
use super::{Context, refuse_overwriting};

/// Work with recorded traces.
#[derive(Debug, Subcommand)]
pub enum TraceCommand {
    /// Convert profiler output to Trainyard's own trace format.
    ///
    /// Reads the PyTorch profiler (CUDA and ROCm), Nsight Systems (SQLite), rocprof (versions 1 and
    /// 3), the Ascend profiler (folder or database), Chakra and PyTorch execution traces,
    /// Megatron-style operations (Parquet) and Primus logs; packed or not, or folders of them. Ranks that lie together become one trace and are put on one clock. Says what it
    /// could not use. Of the metadata only what traces/README.md lists is kept.
    Import {
        /// Files, archives or folders.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Directory to write; a trace that is there is replaced.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How event files are stored.
        #[arg(long, value_enum, default_value_t = CompressionArg::Zstd)]
        compression: CompressionArg,
        /// Fail where anything of a trace cannot be used.
        #[arg(long)]
        strict: bool,
    },
    /// Replay recorded ranks from durations, launches and dependencies alone.
    ///
    /// Waiting is derived again, never copied. What is left unexplained is a gap that the recording
    /// gives no reason for; a large share means the recording is incomplete. With an option under
    /// `What if`, the same is predicted for the changed job, with what had to be assumed. Jobs
    /// recorded operation by operation (Megatron operations, Primus) are replayed step by step,
    /// stragglers attributed.
    Replay {
        /// Trace directories, or profiler output as `trace import` reads it.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// What to print.
        #[arg(long, value_enum, default_value_t = FormatArg::Table)]
        format: FormatArg,
        /// Also write what waited for what, and which of it was inferred, as CSV.
        #[arg(long, value_name = "FILE")]
        edges: Option<PathBuf>,
        /// Fail where anything of a trace cannot be used.
        #[arg(long)]
        strict: bool,
        #[command(flatten)]
        what_if: Box<WhatIfArgs>,
    },
    /// Write a timeline for trace viewers: Perfetto or Chrome JSON.
    ///
    /// Lanes are host threads and device streams; launches and collectives are arrows; times are
    /// exact. `trace import` reads the Chrome JSON back.
    Export(ExportArgs),
    /// Say where the time went.
    ///
    /// Per rank and step: compute, communication and how much of it is exposed, memory operations,
    /// idle and why; kernels and collectives by time; the critical path across ranks; the slowest
    /// rank and what removing its excess would give.
    Inspect {
        /// Trace directories, or profiler output as `trace import` reads it.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// What to print.
        #[arg(long, value_enum, default_value_t = FormatArg::Table)]
        format: FormatArg,
        /// Also write a self-contained page.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// Length of the lists in tables.
        #[arg(long, default_value_t = 12, value_name = "N")]
        top: usize,
        /// Fail where anything of a trace cannot be used.
        #[arg(long)]
        strict: bool,
    },
}

/// How event files are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompressionArg {
    /// Plain CSV.
    None,
    /// Zstandard.
    Zstd,
}

/// What to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// Tables for people.
    Table,
    /// Everything, for programs.
    Json,
}

impl TraceCommand {
    /// Runs the command and prints to `out`.
    ///
    /// # Errors
    /// An input cannot be used, or the operating system refuses.
    pub(super) fn run(self, context: &Context, out: &mut dyn Write) -> Result<()> {
        match self {
            Self::Import { paths, out: directory, compression, strict } => {
                let imported = import(&paths, strict)?;
                // A trace directory may be replaced by itself, a recording by nothing.
                if !paths.contains(&directory) {
                    refuse_overwriting(&directory.join(HEADER_FILE), &imported.files)?;
                }
                refuse_among_recordings(&directory, &imported.files)?;
                let compression = match compression {
                    CompressionArg::None => Compression::None,
                    CompressionArg::Zstd => Compression::Zstd,
                };
                let header = format::write(&imported.traces, &directory, compression)?;
                let text = view::import_summary(&imported.traces, &header, &imported.unused);
                print(out, &text)
            }
            Self::Replay { paths, format, edges, what_if, strict } => {
                let what_if = what_if.what_if(&|| context.catalogue())?;
                let imported = import(&paths, strict)?;
                if let Some(file) = edges {
                    refuse_overwriting(&file, &imported.files)?;
                    write_file(&file, super::trace_replay::edges(&imported.traces)?.as_bytes())?;
                }
                let (mut all, mut without) = (Vec::new(), Vec::new());
                for trace in imported.traces.traces() {
                    let name = trace.first().map_or("", |rank| rank.header.trace.as_str());
                    let device = |rank: &RankTrace| rank.events.iter().any(|e| e.kind.is_device());
                    if trace.iter().any(device) {
                        all.push((name.to_owned(), replay_changed(trace, &what_if)?));
                    } else {
                        without.push(name.to_owned());
                    }
                }
                if all.is_empty() {
                    return Err(Error::Missing(format!(
                        "nothing to replay: no device work in {}",
                        without.join(", ")
                    )));
                }
                match format {
                    FormatArg::Json => {
                        let all = super::trace_replay::json(&all, &imported, &without);
                        super::write_json(out, &all)
                    }
                    FormatArg::Table => {
                        let mut text = super::trace_replay::table(&all);
                        text.push_str(&super::trace_replay::lost(&imported, &without));
                        print(out, &text)
                    }
                }
            }
            Self::Export(args) => export(args, out),
            Self::Inspect { paths, format, html, top, strict } => {
                let imported = import(&paths, strict)?;
                let report = inspect(&imported.traces);
                if let Some(file) = html {
                    refuse_overwriting(&file, &imported.files)?;
                    write_file(&file, view::html(&report, &imported.traces).as_bytes())?;
                }
                match format {
                    FormatArg::Json => {
                        let mut text = serde_json::to_string_pretty(&report).map_err(|e| {
                            Error::Internal(format!("a report cannot be written: {e}"))
                        })?;
                        text.push('\n');
                        print(out, &text)
                    }
                    FormatArg::Table => {
                        let mut text = view::table(&report, top);
                        text.push_str(&view::unused_files(&imported.unused));
                        print(out, &text)
                    }
                }
            }
        }
    }
}

fn print(out: &mut dyn Write, text: &str) -> Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads the output may stop early.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Error::io("write", "standard output", e)),
    }
}

/// Refuses a directory that recordings lie in: from then on it would be read as the trace.
fn refuse_among_recordings(directory: &Path, read: &[PathBuf]) -> Result<()> {
    if directory.join(HEADER_FILE).is_file() {
        return Ok(());
    }
    let Ok(target) = directory.canonicalize() else { return Ok(()) };
    let inside = |file: &&PathBuf| {
        let folder = file.parent().and_then(|folder| folder.canonicalize().ok());
        folder.is_some_and(|folder| folder == target)
    };
    match read.iter().find(inside) {
        None => Ok(()),
        Some(file) => Err(Error::Missing(format!(
            "{} lies in {}, and a trace beside it would hide it\n  help: write to another directory",
            file.display(),
            directory.display()
        ))),
    }
}
