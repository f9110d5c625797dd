//! `trainyard trace`: recorded traces in, findings out.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::outcome::{RecordedReplay, replay_recorded};
use crate::trace::analysis::inspect;
use crate::trace::format::{self, Compression};
use crate::trace::import::import;
use crate::trace::model::RankTrace;
use crate::trace::view;

/// Work with recorded traces.
#[derive(Debug, Subcommand)]
pub enum TraceCommand {
    /// Convert profiler output to Trainyard's own trace format.
    ///
    /// Reads PyTorch profiler traces (CUDA and ROCm; .json, .json.gz, .tar.gz of ranks, or folders
    /// of them). Ranks that lie together become one trace and are put on one clock. Says what it
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
    /// Replay recorded ranks unchanged, from durations, launches and dependencies alone.
    ///
    /// Waiting is derived again, never copied. What is left unexplained is a gap that the recording
    /// gives no reason for; a large share means the recording is incomplete.
    Replay {
        /// Trace directories, or profiler output as `trace import` reads it.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// What to print.
        #[arg(long, value_enum, default_value_t = FormatArg::Table)]
        format: FormatArg,
        /// Fail where anything of a trace cannot be used.
        #[arg(long)]
        strict: bool,
    },
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
    pub fn run(self, out: &mut dyn Write) -> Result<()> {
        match self {
            Self::Import { paths, out: directory, compression, strict } => {
                let imported = import(&paths, strict)?;
                let compression = match compression {
                    CompressionArg::None => Compression::None,
                    CompressionArg::Zstd => Compression::Zstd,
                };
                let header = format::write(&imported.traces, &directory, compression)?;
                let text = view::import_summary(&imported.traces, &header, &imported.unused);
                print(out, &text)
            }
            Self::Replay { paths, format, strict } => {
                let imported = import(&paths, strict)?;
                let (mut all, mut without) = (Vec::new(), Vec::new());
                for trace in imported.traces.traces() {
                    let name = trace.first().map_or("", |rank| rank.header.trace.as_str());
                    let device = |rank: &RankTrace| rank.events.iter().any(|e| e.kind.is_device());
                    if trace.iter().any(device) {
                        all.push((name.to_owned(), replay_recorded(trace)?));
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
                    FormatArg::Json => super::write_json(out, &replay_json(&all)),
                    FormatArg::Table => {
                        let mut text = replay_table(&all);
                        for name in &without {
                            text.push_str(&format!("not replayed: {name} has no device work\n"));
                        }
                        for unused in &imported.unused {
                            text.push_str(&format!("not used: {} {}\n", unused.path, unused.why));
                        }
                        print(out, &text)
                    }
                }
            }
            Self::Inspect { paths, format, html, top, strict } => {
                let imported = import(&paths, strict)?;
                let report = inspect(&imported.traces);
                if let Some(file) = html {
                    write_file(&file, &view::html(&report, &imported.traces))?;
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

/// A trace's replay in machine output.
#[derive(Serialize)]
struct ReplayedTrace<'a> {
    trace: &'a str,
    #[serde(flatten)]
    replay: &'a RecordedReplay,
}

fn replay_json(all: &[(String, RecordedReplay)]) -> Vec<ReplayedTrace<'_>> {
    all.iter().map(|(trace, replay)| ReplayedTrace { trace, replay }).collect()
}

fn replay_table(all: &[(String, RecordedReplay)]) -> String {
    let ms = |ns: i64| format!("{:.3}", ns as f64 / 1e6);
    let mut text = String::new();
    for (trace, replay) in all {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["rank", "recorded ms", "replayed ms", "unexplained ms", "share"]);
        for rank in &replay.ranks {
            table.add_row([
                rank.rank.to_string(),
                ms(rank.recorded_ns),
                ms(rank.replayed_ns),
                ms(rank.unexplained_ns),
                format!("{:+.2} %", 100.0 * rank.unexplained_share()),
            ]);
        }
        let n = replay.notes;
        text.push_str(&format!(
            "{trace}\n{table}\n{} launched device operations, {} without a launch; waits between \
             streams: {} recorded, {} inferred, {} on a full device; {} host waits; collectives: {} \
             met by all members, {} with their recorded duration\n\n",
            n.launched,
            n.orphans,
            n.recorded_waits,
            n.inferred_waits,
            n.inferred_busy,
            n.host_waits,
            n.meetings,
            n.unmatched_collectives,
        ));
    }
    text
}

fn print(out: &mut dyn Write, text: &str) -> Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads the output may stop early.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Error::io("write", "standard output", e)),
    }
}

/// Writes a file under a temporary name and renames it.
fn write_file(path: &Path, text: &str) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".partial");
    let temporary = PathBuf::from(temporary);
    std::fs::write(&temporary, text).map_err(|e| Error::io("write", &temporary, e))?;
    std::fs::rename(&temporary, path).map_err(|e| Error::io("rename", &temporary, e))
}
