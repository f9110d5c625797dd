//! `trainyard validate`: predictions against published measurements.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::calibrate::stack::leave_one_source_out;
use crate::error::{Error, Result, nearest_names};
use crate::report::statistics_text;
use crate::validate::{
    EMBEDDED, Errors, Intervals, Outcome, Predictor, Row, Score, Status, Tables, error_of, run,
    scores, study,
};

use super::accuracy;
use super::collectives::{self, ValidateCollectives};
use super::kernels::{self, ValidateKernels};
use super::{Context, Format, read_table, stdout_error, write_file, write_json};

/// Options of `trainyard validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Tables of measured configurations (CSV); the published ones that come with trainyard if
    /// none is named. Columns: tests/validation/README.md.
    #[arg(value_name = "FILE.csv")]
    files: Vec<PathBuf>,
    /// Writes one line per row.
    #[arg(long, value_name = "OUT.csv")]
    predictions: Option<PathBuf>,
    /// Prints the scenario of one row, for `trainyard run`, and does nothing else.
    #[arg(long, value_name = "ID", conflicts_with = "predictions")]
    scenario: Option<String>,
    /// Writes validation.md and validation-scatter.svg into a directory. Rows of tables that do
    /// not come with trainyard are in sums only.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["scenario", "collectives", "gemm", "attention"])]
    report: Option<PathBuf>,
    /// Predicts every row with stacks refitted without its source; with --report, as a section of
    /// its own.
    #[arg(long, conflicts_with_all = ["scenario", "collectives"])]
    leave_one_source_out: bool,
    /// Scores the collective model on a table of measured collectives instead of training runs;
    /// rows without a time are predicted only.
    #[arg(long, value_name = "FILE.csv", conflicts_with_all = ["files", "scenario"])]
    collectives: Option<PathBuf>,
    /// With --collectives: also refits the constants without each system in turn (minutes: one fit
    /// per system; progress goes to standard error).
    #[arg(long, requires = "collectives")]
    leave_one_out: bool,
    /// With --collectives: directory of vTrain's NCCL tables, added to the rows of a refit.
    #[arg(long, value_name = "DIR", requires = "collectives")]
    vtrain: Option<PathBuf>,
    /// Scores the GEMM model on a table of measured GEMMs instead of training runs.
    #[arg(long, value_name = "FILE.csv", conflicts_with_all = ["files", "scenario", "collectives"])]
    gemm: Option<PathBuf>,
    /// Scores the attention model on a table of measured attention calls.
    #[arg(long, value_name = "FILE.csv", conflicts_with_all = ["files", "scenario", "collectives"])]
    attention: Option<PathBuf>,
    /// With --gemm or --attention: also fits on half of the rows and scores the other half.
    #[arg(long)]
    held_out: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Layout version of the machine output.
pub const VALIDATE_SCHEMA: &str = "trainyard.validate/1";

/// Columns of the predictions file.
pub const PREDICTION_COLUMNS: [&str; 13] = [
    "id",
    "status",
    "predicted_step_s",
    "predicted_tokens_per_s_per_device",
    "error_pct",
    "predicted_memory_gb",
    "accelerator",
    "stack",
    "extrapolated",
    "assumed",
    "reason",
    "low_s",
    "high_s",
];

/// Machine output.
#[derive(Debug, Serialize)]
struct Report<'a> {
    schema: &'static str,
    files: Vec<String>,
    problems: &'a [String],
    error_convention: &'static str,
    scores: Vec<ScoreLine<'a>>,
    not_predicted: Vec<ReasonLine>,
    predictions: Vec<PredictionLine<'a>>,
}

#[derive(Debug, Serialize)]
struct ScoreLine<'a> {
    #[serde(flatten)]
    score: &'a Score,
    coverage: Option<f64>,
}

#[derive(Debug, Serialize)]
struct ReasonLine {
    family: String,
    status: Status,
    reason: String,
    rows: usize,
    scoreable: usize,
}

#[derive(Debug, Serialize)]
struct PredictionLine<'a> {
    id: &'a str,
    file: &'a str,
    row: u64,
    status: Status,
    predicted_step_s: Option<f64>,
    predicted_tokens_per_s_per_device: Option<f64>,
    error_pct: Option<f64>,
    predicted_memory_gb: Option<f64>,
    accelerator: Option<&'a str>,
    stack: Option<&'a str>,
    extrapolated: &'a [String],
    assumed: &'a [String],
    reason: &'a str,
    low_s: Option<f64>,
    high_s: Option<f64>,
    scored: bool,
    fitted: bool,
}

const CONVENTION: &str = "error = predicted / measured step time - 1, negative: predicted too \
                          fast; each base counts once, with the median of its rows";

/// Runs the command.
///
/// # Errors
/// A file cannot be read, the catalogue is wrong, or the predictions cannot be written.
pub fn run_validate(args: &ValidateArgs, context: &Context, out: &mut dyn Write) -> Result<()> {
    let catalogue = context.catalogue()?;
    if let Some(table) = &args.collectives {
        let args = ValidateCollectives {
            collectives: table.clone(),
            predictions: args.predictions.clone(),
            leave_one_out: args.leave_one_out,
            vtrain: args.vtrain.clone(),
        };
        return collectives::validate(&args, &catalogue, out);
    }
    if args.held_out && args.gemm.is_none() && args.attention.is_none() {
        return Err(Error::Missing(
            "--held-out has no table to split\n  help: give --gemm FILE.csv, --attention FILE.csv \
             or both"
                .into(),
        ));
    }
    if args.gemm.is_some() || args.attention.is_some() {
        let args = ValidateKernels {
            gemm: args.gemm.as_deref(),
            attention: args.attention.as_deref(),
            held_out: args.held_out,
        };
        return kernels::validate(&args, &catalogue, out);
    }
    let mut tables = Tables::default();
    let (mut files, mut hashes) = (Vec::new(), Vec::new());
    if args.files.is_empty() {
        for (origin, text) in EMBEDDED {
            tables.add_bytes(origin, text.as_bytes());
            files.push(origin.to_owned());
            hashes.push(accuracy::table_hash(origin, text.as_bytes()));
        }
    }
    for path in &args.files {
        let (name, bytes) = (path.display().to_string(), read_table(path)?);
        tables.add_bytes(&name, &bytes);
        hashes.push(accuracy::table_hash(&name, &bytes));
        files.push(name);
    }
    let Tables { rows, problems, .. } = tables;
    if let Some(id) = &args.scenario {
        let text = scenario_of(&rows, id, &Predictor::new(&catalogue))?;
        return out.write_all(text.as_bytes()).map_err(stdout_error);
    }
    let left_out = match args.leave_one_source_out {
        true => Some(leave_one_source_out(&catalogue, &rows)?),
        false => None,
    };
    // With a report both stand side by side; otherwise the one asked for is printed.
    let (outcomes, left_out) = match left_out {
        Some(left_out) if args.report.is_none() => (left_out, None),
        left_out => (run(rows.clone(), &catalogue), left_out),
    };
    let study = study(&catalogue, &rows, &outcomes, left_out.as_deref());
    if let Some(folder) = &args.report {
        let named = !args.files.is_empty();
        accuracy::write_report(folder, &study, &catalogue, hashes, named)?;
    }
    let scores = scores(&outcomes);
    let reasons = reasons(&outcomes);
    if let Some(path) = &args.predictions {
        write_file(path, &predictions_csv(&outcomes)?)?;
    }
    match args.format {
        Format::Table => {
            let mut text = table(&files, &problems, &outcomes, &scores, &reasons);
            text.push_str(&statistics_text(&study));
            out.write_all(text.as_bytes()).map_err(stdout_error)
        }
        Format::Json => {
            let report = Report {
                schema: VALIDATE_SCHEMA,
                files,
                problems: &problems,
                error_convention: CONVENTION,
                scores: scores
                    .iter()
                    .map(|score| ScoreLine { score, coverage: score.coverage() })
                    .collect(),
                not_predicted: reasons,
                predictions: outcomes.iter().map(prediction_line).collect(),
            };
            write_json(out, &report)
        }
    }
}

fn scenario_of(rows: &[Row], id: &str, predictor: &Predictor<'_>) -> Result<String> {
    let row = rows.iter().find(|row| row.labels.id == id).ok_or_else(|| Error::UnknownName {
        what: "row",
        name: id.to_owned(),
        nearest: nearest_names(id, rows.iter().map(|row| row.labels.id.as_str())),
    })?;
    let text = row.spec.clone().and_then(|spec| predictor.scenario(&spec));
    text.map_err(|reason| Error::Unsupported(format!("row `{id}`: {reason}")))
}

fn prediction_line(outcome: &Outcome) -> PredictionLine<'_> {
    let p = &outcome.prediction;
    PredictionLine {
        id: &outcome.labels.id,
        file: &outcome.labels.origin,
        row: outcome.labels.row,
        status: p.status,
        predicted_step_s: p.step_s,
        predicted_tokens_per_s_per_device: p.tokens_per_s_per_device,
        error_pct: error_of(outcome).map(|error| error * 100.0),
        predicted_memory_gb: p.memory_gb,
        accelerator: p.accelerator.as_deref(),
        stack: p.stack.as_deref(),
        extrapolated: &p.extrapolated,
        assumed: &p.assumed,
        reason: &p.reason,
        low_s: p.interval_s.map(|interval| interval.0),
        high_s: p.interval_s.map(|interval| interval.1),
        scored: outcome.labels.scored,
        fitted: outcome.fitted,
    }
}

fn predictions_csv(outcomes: &[Outcome]) -> Result<Vec<u8>> {
    let broken = |e: csv::Error| Error::Internal(format!("cannot write CSV: {e}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(PREDICTION_COLUMNS).map_err(broken)?;
    let number = |value: Option<f64>| value.map_or_else(String::new, |v| v.to_string());
    for outcome in outcomes {
        let line = prediction_line(outcome);
        let extrapolated = match (line.status, line.extrapolated.is_empty()) {
            (Status::Ok, true) => "no".to_owned(),
            (Status::Ok, false) => format!("yes: {}", line.extrapolated.join("; ")),
            _ => String::new(),
        };
        writer
            .write_record([
                line.id,
                line.status.as_str(),
                &number(line.predicted_step_s),
                &number(line.predicted_tokens_per_s_per_device),
                &number(line.error_pct),
                &number(line.predicted_memory_gb),
                line.accelerator.unwrap_or_default(),
                line.stack.unwrap_or_default(),
                &extrapolated,
                &line.assumed.join("; "),
                line.reason,
                &number(line.low_s),
                &number(line.high_s),
            ])
            .map_err(broken)?;
    }
    writer.into_inner().map_err(|e| Error::Internal(format!("cannot write CSV: {e}")))
}

/// Why rows were not predicted, most frequent first within a family.
fn reasons(outcomes: &[Outcome]) -> Vec<ReasonLine> {
    let mut counts: BTreeMap<(&str, &str, String), (usize, usize)> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|o| o.prediction.status != Status::Ok) {
        let status = outcome.prediction.status.as_str();
        let reason = general(&outcome.prediction.reason);
        let count = counts.entry((outcome.family.as_str(), status, reason)).or_default();
        count.0 += 1;
        count.1 += usize::from(outcome.labels.scored);
    }
    let mut lines: Vec<ReasonLine> = counts
        .into_iter()
        .map(|((family, status, reason), (rows, scoreable))| ReasonLine {
            family: family.to_owned(),
            status: if status == "invalid" { Status::Invalid } else { Status::Unsupported },
            reason,
            rows,
            scoreable,
        })
        .collect();
    lines.sort_by(|a, b| a.family.cmp(&b.family).then(b.rows.cmp(&a.rows)));
    lines
}

/// A reason without what differs from row to row.
fn general(reason: &str) -> String {
    let start = reason.split_once(" (").map_or(reason, |(start, _)| start);
    start.chars().take(90).collect()
}

fn percent(value: f64) -> String {
    format!("{:.1}", value * 100.0)
}

fn error_cells(errors: Option<&Errors>) -> [String; 4] {
    errors.map_or_else(
        || std::array::from_fn(|_| "-".to_owned()),
        |e| [percent(e.mape), percent(e.median), percent(e.p90), format!("{:+.1}", e.bias * 100.0)],
    )
}

fn table(
    files: &[String],
    problems: &[String],
    outcomes: &[Outcome],
    scores: &[Score],
    reasons: &[ReasonLine],
) -> String {
    const SHOWN: usize = 40;
    let mut text = String::new();
    for file in files {
        let _ = writeln!(text, "{file}");
    }
    if !problems.is_empty() {
        let _ = writeln!(text, "\nproblems");
        for problem in problems.iter().take(SHOWN) {
            let _ = writeln!(text, "  {problem}");
        }
        if problems.len() > SHOWN {
            let _ =
                writeln!(text, "  and {} more (--format json lists all)", problems.len() - SHOWN);
        }
    }
    let ok = outcomes.iter().filter(|o| o.prediction.status == Status::Ok).count();
    let scored: usize = scores
        .iter()
        .filter(|s| s.source.is_empty())
        .filter_map(|s| s.errors.map(|e| e.bases))
        .sum();
    let _ = writeln!(
        text,
        "\n{} rows, {ok} predicted, {scored} bases scored. Errors in % of step time over bases; \
         bias\nbelow 0: predicted too fast. Null model: median 6*N*tokens/s of the other bases of \
         the family\nand number format. covered: predicted of the scoreable rows. held: scored rows \
         measured within\nthe 90 % interval of their prediction; +-: median of half its width.\n",
        outcomes.len()
    );
    let _ = writeln!(
        text,
        "{:<24} {:>4} {:>5} {:>7}  {:>6} {:>6} {:>6} {:>6}  {:>6} {:>6}  {:>5} {:>5}",
        "",
        "rows",
        "bases",
        "covered",
        "MAPE",
        "median",
        "p90",
        "bias",
        "null",
        "null",
        "held",
        "+-"
    );
    let _ = writeln!(
        text,
        "{:<24} {:>4} {:>5} {:>7}  {:>6} {:>6} {:>6} {:>6}  {:>6} {:>6}  {:>5} {:>5}",
        "family / source", "", "", "%", "", "", "", "", "median", "p90", "%", "%"
    );
    for score in scores {
        let name = if score.source.is_empty() {
            let _ = writeln!(text);
            score.family.clone()
        } else {
            format!("  {}", score.source)
        };
        let name: String = name.chars().take(24).collect();
        let coverage = score.coverage().map_or_else(|| "-".to_owned(), percent);
        let [mape, median, p90, bias] = error_cells(score.errors.as_ref());
        let [_, null_median, null_p90, _] = error_cells(score.null.as_ref());
        let bases = score.errors.map_or(0, |e| e.bases);
        let of_intervals = |part: fn(&Intervals) -> f64| {
            score.intervals.as_ref().map_or_else(|| "-".to_owned(), |i| percent(part(i)))
        };
        let (held, width) = (of_intervals(|i| i.held), of_intervals(|i| i.half_width));
        let _ = writeln!(
            text,
            "{name:<24} {:>4} {bases:>5} {coverage:>7}  {mape:>6} {median:>6} {p90:>6} {bias:>6}  \
             {null_median:>6} {null_p90:>6}  {held:>5} {width:>5}",
            score.rows
        );
    }
    let families = || scores.iter().filter(|s| s.source.is_empty());
    if families().any(|s| s.fitted > 0) {
        let _ = writeln!(text, "\nleft out of the errors, since figures were fitted on them");
        for score in families().filter(|s| s.fitted > 0) {
            let _ = writeln!(text, "  {:<20} {:>4} rows", score.family, score.fitted);
        }
    }
    if families().any(|s| s.does_not_fit > 0) {
        let _ = writeln!(text, "\npredicted, and by our memory model does not fit the device");
        for score in families().filter(|s| s.does_not_fit > 0) {
            let _ = writeln!(text, "  {:<20} {:>4} rows", score.family, score.does_not_fit);
        }
    }
    if !reasons.is_empty() {
        let _ = writeln!(text, "\nnot predicted (rows, of them scoreable)");
        for line in reasons {
            let _ = writeln!(
                text,
                "  {:<18} {:>4} {:>4}  {}: {}",
                line.family,
                line.rows,
                line.scoreable,
                line.status.as_str(),
                line.reason.chars().take(70).collect::<String>()
            );
        }
    }
    text
}
