//! `trainyard run`: one scenario, one answer.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::error::{Error, Result};
use crate::input::Document;
use crate::outcome::{Engine, Options, simulate, simulate_observed, write_timeline};
use crate::report;
use crate::scenario::resolve;
use crate::trace::timeline::Selection;
use crate::units::significant;

use super::timeline::{RankList, format_of, rank_list, write_timeline_file};
use super::{Context, Format, stdout_error, write_file, write_json};

/// Options of `trainyard run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Scenario file (TOML).
    scenario: PathBuf,
    /// Replaces a key of the scenario: --set plan.tensor_parallel=4.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Also writes result.json and result.txt into this directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replay engine.
    #[arg(long, value_enum, default_value_t)]
    engine: Engine,
    /// Replays every rank instead of classes of equal ranks; the result is the same.
    #[arg(long)]
    no_lump: bool,
    /// Leaves out what operations that overlap take from each other: faster, and too optimistic
    /// where communication is hidden behind compute.
    #[arg(long)]
    frozen_rates: bool,
    /// Treats a plan that does not fit into memory as an error.
    #[arg(long)]
    require_fit: bool,
    /// Reports every collective call, and how busy the links between nodes are.
    #[arg(long)]
    network: bool,
    /// Reports memory by pipeline stage, and over the step on the stage that needs most.
    #[arg(long)]
    memory: bool,
    /// Also writes the step as a timeline for trace viewers: *.pftrace (ui.perfetto.dev) or *.json
    /// (Chrome), either with .gz behind it.
    #[arg(long, value_name = "FILE")]
    timeline: Option<PathBuf>,
    /// Ranks of the timeline, such as 0-3,8; without it, the first rank of every pipeline stage.
    #[arg(long, value_name = "RANKS", value_parser = rank_list, requires = "timeline")]
    timeline_ranks: Option<RankList>,
    /// Reports CPU time and memory of the simulation itself.
    #[arg(long)]
    stats: bool,
    /// Lists the assumed figures the result depends on.
    #[arg(long)]
    assumptions: bool,
}

/// Runs the command.
///
/// # Errors
/// The scenario is wrong, or with `--require-fit` does not fit.
pub fn run(args: &RunArgs, context: &Context, out: &mut dyn Write) -> Result<()> {
    let cpu = cpu_time::ProcessTime::now();
    if let Some(directory) = &args.out {
        // Before the work, so that a wrong path does not cost it.
        std::fs::create_dir_all(directory)
            .map_err(|e| Error::io("create directory", directory, e))?;
    }
    let catalogue = context.catalogue()?;
    let mut document = Document::read(&args.scenario)?;
    for assignment in &args.set {
        document.set(assignment)?;
    }
    let setup = resolve(&document, &catalogue)?;
    let options = Options {
        engine: args.engine,
        no_lump: args.no_lump,
        frozen_rates: args.frozen_rates,
        network: args.network,
        memory: args.memory,
        stats: args.stats,
    };
    let mut result = match &args.timeline {
        None => simulate(&setup, &catalogue, options)?,
        Some(path) => {
            let format = format_of(path, None)?;
            let selection = Selection {
                ranks: args.timeline_ranks.clone().map(|list| list.0).unwrap_or_default(),
                ..Selection::default()
            };
            simulate_observed(&setup, &catalogue, options, &mut |sweep| {
                write_timeline_file(path, format, |sink| {
                    write_timeline(&setup, sweep, &selection, sink).map(drop)
                })
                .map(drop)
            })?
        }
    };
    if args.stats {
        result.simulation.cpu_seconds = Some(cpu.elapsed().as_secs_f64());
        result.simulation.peak_bytes = peak_memory();
    }
    if args.require_fit && !result.memory.fits {
        return Err(Error::DoesNotFit(format!(
            "the plan needs {} GiB per device (pipeline stage {}) and {} has {} GiB\n  help: \
             shard more (plan.sharding), recompute (plan.recompute), a smaller plan.micro_batch, \
             or more tensor or pipeline parallelism",
            significant(result.memory.peak_bytes_per_device / report::GIB, 4),
            result.memory.peak_stage,
            setup.accelerator.title,
            significant(result.memory.capacity_bytes / report::GIB, 4),
        )));
    }
    let text = report::run_text(&result, &setup, args.assumptions);
    match args.format {
        Format::Json => write_json(out, &result)?,
        Format::Table => out.write_all(text.as_bytes()).map_err(stdout_error)?,
    }
    if let Some(directory) = &args.out {
        let mut json = Vec::new();
        write_json(&mut json, &result)?;
        write_file(&directory.join("result.json"), &json)?;
        write_file(&directory.join("result.txt"), text.as_bytes())?;
    }
    Ok(())
}

/// Peak resident memory of this process, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
