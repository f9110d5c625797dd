//! `trainyard validate --collectives` and `trainyard calibrate collectives`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::calibrate::collectives::{fit, leave_one_out, score_with, write_catalogue};
use crate::calibrate::{fabric, nccl_log};
use crate::error::{Error, Result};
use crate::hardware::Catalogue;
use crate::output::write_file;
use crate::units::BytesPerSecond;
use crate::validate::collectives::rows::{read, read_vtrain};
use crate::validate::collectives::score::{Case, Models, SystemScore, answer, cases, summarise};

/// Targets of the collectives' accuracy (percent): median error with each system counted once,
/// inside one node and across nodes, in the fit and left out of it.
pub const TARGETS: [(&str, f64, f64); 2] =
    [("in the fit", 8.0, 20.0), ("left out of the fit", 15.0, 30.0)];

/// Scores the collective model against a table of measurements.
#[derive(Args, Clone, Debug)]
pub struct ValidateCollectives {
    /// CSV of measured collectives; rows without a time are predicted only.
    #[arg(long = "collectives", value_name = "FILE.csv")]
    pub collectives: PathBuf,
    /// Writes one prediction per row.
    #[arg(long, value_name = "OUT.csv")]
    pub predictions: Option<PathBuf>,
    /// Also refits the constants without each system in turn (minutes: one fit per system).
    #[arg(long)]
    pub leave_one_out: bool,
    /// Directory of vTrain's NCCL tables, added to the rows of a refit.
    #[arg(long, value_name = "DIR")]
    pub vtrain: Option<PathBuf>,
}

/// Fits the collective model's constants to a table of measurements.
#[derive(Args, Clone, Debug)]
pub struct CalibrateCollectives {
    /// CSV of measured collectives.
    #[arg(long, value_name = "FILE.csv")]
    pub collectives: PathBuf,
    /// Directory of vTrain's NCCL tables.
    #[arg(long, value_name = "DIR")]
    pub vtrain: Option<PathBuf>,
    /// The `hw-models` directory whose files are rewritten.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Date to record as that of the fit.
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub date: String,
}

/// Fits a fabric's transport to nccl-tests or rccl-tests logs.
#[derive(Args, Clone, Debug)]
pub struct CalibrateFabric {
    /// Name of the transport, new or known.
    pub name: String,
    /// Logs of groups that cross nodes, sizes from 1 KiB up.
    #[arg(long = "nccl-tests", value_name = "LOG", required = true, num_args = 1..)]
    pub logs: Vec<PathBuf>,
    /// Catalogue name of the collective library, where the device names in the log do not tell.
    #[arg(long, value_name = "NAME")]
    pub library: Option<String>,
    /// Card rate of one rank, one direction, in Gb/s; otherwise that of the device's usual server.
    #[arg(long, value_name = "GBPS")]
    pub nic_gbps: Option<f64>,
    /// Writes the transport file here, for a `--hw-models` overlay.
    #[arg(long, value_name = "FILE.toml")]
    pub out: Option<PathBuf>,
    /// Date to record as that of the fit.
    #[arg(long, value_name = "YYYY-MM-DD", default_value = "undated")]
    pub date: String,
}

fn io(error: std::io::Error) -> Error {
    Error::io("write", "standard output", error)
}

/// Runs `validate --collectives`.
///
/// # Errors
/// The table cannot be read, or the output not written.
pub fn validate(
    args: &ValidateCollectives,
    catalogue: &Catalogue,
    out: &mut dyn Write,
) -> Result<()> {
    let rows = read(&args.collectives)?;
    let (all, refused) = cases(catalogue, &rows);
    let models = Models::new(catalogue);
    if let Some(path) = &args.predictions {
        write_predictions(path, &models, &all, &refused, rows.len())?;
        writeln!(out, "predictions of {} rows in {}", rows.len(), path.display()).map_err(io)?;
    }
    let scores = score_with(&models, &all, &|_| true);
    let quiet = score_with(&models, &all, &|case| !case.noisy);
    writeln!(out, "\nConstants of the catalogue (fitted on the rows their [fit] tables list):\n")
        .map_err(io)?;
    table(out, &scores).map_err(io)?;
    totals(out, "all measured rows, 1 KiB to 8 GiB", &scores, None).map_err(io)?;
    totals(out, "without profiler medians below 1 MiB", &quiet, Some(TARGETS[0])).map_err(io)?;
    writeln!(out).map_err(io)?;
    let scored = all.iter().filter(|case| case.scored).count();
    writeln!(out, "{} rows: {scored} scored", rows.len()).map_err(io)?;
    let mut unscored: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in all.iter().filter_map(|case| case.not_scored) {
        *unscored.entry(reason).or_default() += 1;
    }
    for (reason, count) in unscored {
        writeln!(out, "  predicted, not scored: {count} rows: {reason}").map_err(io)?;
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for (_, reason) in &refused {
        *reasons.entry(reason.clone()).or_default() += 1;
    }
    for (reason, count) in reasons {
        writeln!(out, "  not predicted: {count} rows: {reason}").map_err(io)?;
    }
    if args.leave_one_out {
        let mut rows = rows;
        if let Some(directory) = &args.vtrain {
            rows.extend(read_vtrain(directory)?);
        }
        let (all, _) = cases(catalogue, &rows);
        out.flush().map_err(io)?;
        let started = std::time::Instant::now();
        let progress = |system: &str, number: usize, count: usize| {
            // Nothing can be done about a terminal that cannot be written to.
            let _ = writeln!(
                std::io::stderr(),
                "fit {number} of {count}, without {system} ({:.0} s so far)",
                started.elapsed().as_secs_f64()
            );
        };
        let quiet = |case: &Case| !case.noisy;
        let scores: Vec<SystemScore> = leave_one_out(catalogue, &all, &quiet, &progress);
        writeln!(out, "\nEach system predicted with constants fitted without it:\n").map_err(io)?;
        table(out, &scores).map_err(io)?;
        totals(out, "left out, without profiler medians below 1 MiB", &scores, Some(TARGETS[1]))
            .map_err(io)?;
    }
    Ok(())
}

fn table(out: &mut dyn Write, scores: &[SystemScore]) -> std::io::Result<()> {
    writeln!(
        out,
        "{:<58} {:>6} {:>5} {:>8} {:>8} {:>8}",
        "system", "nodes", "rows", "median %", "p90 %", "bias %"
    )?;
    for s in scores {
        let name: String = s.system.chars().take(58).collect();
        let nodes = if s.several_nodes { "many" } else { "one" };
        writeln!(
            out,
            "{name:<58} {nodes:>6} {:>5} {:>8.1} {:>8.1} {:>+8.1}",
            s.rows, s.median, s.p90, s.bias
        )?;
        for assumed in &s.assumed {
            writeln!(out, "    {assumed}")?;
        }
    }
    Ok(())
}

fn totals(
    out: &mut dyn Write,
    what: &str,
    scores: &[SystemScore],
    target: Option<(&str, f64, f64)>,
) -> std::io::Result<()> {
    writeln!(out, "\n{what}:")?;
    for (several, name) in [(false, "one node"), (true, "several nodes")] {
        if let Some(s) = summarise(scores, several) {
            let goal = target.map_or(String::new(), |t| {
                format!("  (target {} %)", if several { t.2 } else { t.1 })
            });
            writeln!(
                out,
                "  {name:<14} {:>2} systems: median error {:.1} % with each system counted once; \
                 of the systems' medians: median {:.1} %, mean {:.1} %{goal}",
                s.systems, s.weighted_median, s.median_of_medians, s.mean_of_medians
            )?;
        }
    }
    Ok(())
}

fn write_predictions(
    path: &Path,
    models: &Models,
    cases: &[Case],
    refused: &[(usize, String)],
    rows: usize,
) -> Result<()> {
    let by_row: BTreeMap<usize, &Case> = cases.iter().map(|c| (c.row, c)).collect();
    let reasons: BTreeMap<usize, &str> =
        refused.iter().map(|(row, reason)| (*row, reason.as_str())).collect();
    let mut writer = csv::Writer::from_writer(Vec::new());
    let failed = |e: csv::Error| Error::Internal(format!("predictions as CSV: {e}"));
    writer
        .write_record([
            "row",
            "status",
            "predicted_time_us",
            "error_pct",
            "algorithm",
            "protocol",
            "extrapolated",
            "reason",
        ])
        .map_err(failed)?;
    for row in 1..=rows {
        let record: [String; 8] = match by_row.get(&row) {
            Some(case) => prediction_record(models, case, row),
            None => {
                let reason = reasons.get(&row).copied().unwrap_or("").to_owned();
                let empty = String::new;
                [
                    row.to_string(),
                    "not_predicted".into(),
                    empty(),
                    empty(),
                    empty(),
                    empty(),
                    empty(),
                    reason,
                ]
            }
        };
        writer.write_record(&record).map_err(failed)?;
    }
    let bytes =
        writer.into_inner().map_err(|e| Error::Internal(format!("predictions as CSV: {e}")))?;
    write_file(path, &bytes)
}

fn prediction_record(models: &Models, case: &Case, row: usize) -> [String; 8] {
    match answer(models, case) {
        Ok((time, prediction)) => {
            let error = case.measured.map(|m| format!("{:.2}", (time / m - 1.0) * 100.0));
            let mut reasons = case.assumed.clone();
            reasons.extend(prediction.extrapolated.iter().map(|r| (*r).to_owned()));
            let status = match (case.scored, case.measured) {
                (true, _) => "scored",
                (false, Some(_)) => "not_scored",
                (false, None) => "predicted_only",
            };
            [
                row.to_string(),
                status.into(),
                format!("{:.3}", time * 1e6),
                error.unwrap_or_default(),
                prediction.algorithm.as_str().into(),
                prediction.protocol.as_str().into(),
                (!reasons.is_empty()).to_string(),
                reasons.join("; "),
            ]
        }
        Err(error) => [
            row.to_string(),
            "not_predicted".into(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            error.to_string().replace('\n', "; "),
        ],
    }
}

/// Runs `calibrate collectives`.
///
/// # Errors
/// A table cannot be read or a catalogue file not written.
pub fn calibrate(
    args: &CalibrateCollectives,
    catalogue: &Catalogue,
    out: &mut dyn Write,
) -> Result<()> {
    let mut rows = read(&args.collectives)?;
    if let Some(directory) = &args.vtrain {
        rows.extend(read_vtrain(directory)?);
    }
    let (all, _) = cases(catalogue, &rows);
    let fitted = fit(catalogue, &all);
    let written = write_catalogue(&args.out, &fitted, &args.date)?;
    let scores = score_with(&fitted.models, &all, &|case| !case.noisy);
    table(out, &scores).map_err(io)?;
    totals(out, "in the fit", &scores, Some(TARGETS[0])).map_err(io)?;
    for name in written {
        writeln!(out, "wrote {name}").map_err(io)?;
    }
    Ok(())
}

/// Runs `calibrate fabric`.
///
/// # Errors
/// A log is of another format, no log crosses nodes, or there are too few timings.
pub fn calibrate_fabric(
    args: &CalibrateFabric,
    catalogue: &Catalogue,
    out: &mut dyn Write,
) -> Result<()> {
    if let Some(rate) = args.nic_gbps
        && !(rate.is_finite() && rate > 0.0)
    {
        return Err(Error::Unsupported(format!("--nic-gbps {rate} is no card rate")));
    }
    let logs = args.logs.iter().map(|path| nccl_log::read(path)).collect::<Result<Vec<_>>>()?;
    let fit = fabric::calibrate(
        catalogue,
        &args.name,
        &logs,
        args.library.as_deref(),
        args.nic_gbps.map(|gbps| BytesPerSecond(gbps * 1.25e8)),
        &args.date,
    )?;
    writeln!(out, "{:>14} {:>12} {:>12} {:>8}  log", "bytes", "measured us", "model us", "error %")
        .map_err(io)?;
    for (measured, predicted, bytes, log) in &fit.residuals {
        writeln!(
            out,
            "{bytes:>14.0} {:>12.2} {:>12.2} {:>+8.1}  {log}",
            measured * 1e6,
            predicted * 1e6,
            (predicted / measured - 1.0) * 100.0
        )
        .map_err(io)?;
    }
    match &args.out {
        Some(path) => {
            write_file(path, fit.file.as_bytes())?;
            writeln!(out, "{} timings fitted; wrote {}", fit.rows, path.display()).map_err(io)
        }
        None => writeln!(out, "\n{}", fit.file).map_err(io),
    }
}
