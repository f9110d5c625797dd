//! `trainyard check`: what was measured against what is predicted.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::check::{
    BASELINE_SCHEMA, Baseline, BaselineEntry, Check, ChecksFile, Metric, Outcome, Report, drift,
    github_annotations, junit, markdown, measured_figure, measured_series, measured_trace,
    parse_series, predicted_replay, predicted_scenario, predicted_trace, report_text,
};
use crate::error::{Error, Result, nearest_names};
use crate::hardware::Catalogue;
use crate::input::Document;
use crate::outcome::{Options, RunResult, simulate};
use crate::scenario::resolve;
use crate::trace::import::import;
use crate::trace::model::TraceSet;

use super::{Context, Format, read_table, stdout_error, write_file, write_json};

/// Options of `trainyard check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// File of checks (TOML); `trainyard schema checks` has its keys.
    checks: PathBuf,
    /// Only the check of this name; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Keeps both sides of the checks that pass, part by part, as what was accepted.
    #[arg(long)]
    update_baseline: bool,
    /// Also writes JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Also writes a summary as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Also prints annotations for GitHub workflows, the ten worst.
    #[arg(long)]
    github: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Runs the command.
///
/// # Errors
/// The file or something it names is wrong, or a check failed.
pub fn run(args: &CheckArgs, context: &Context, out: &mut dyn Write) -> Result<()> {
    let document = Document::read(&args.checks)?;
    let file = ChecksFile::of(&document)?;
    for name in &args.only {
        let names = || file.check.iter().map(|check| check.name.as_str());
        if !names().any(|known| known == name) {
            return Err(Error::UnknownName {
                what: "check",
                name: name.clone(),
                nearest: nearest_names(name, names()),
            });
        }
    }
    let folder = args.checks.parent().unwrap_or(Path::new("")).to_owned();
    let path = match &file.baseline {
        Some(path) => folder.join(path),
        None => args.checks.with_extension("baseline.json"),
    };
    let known = read_baseline(&path, file.baseline.is_some() && !args.update_baseline)?;
    let mut loader = Loader { folder, catalogue: None };
    let mut outcomes = Vec::new();
    for (i, check) in file.check.iter().enumerate() {
        if !args.only.is_empty() && !args.only.contains(&check.name) {
            continue;
        }
        let entry = known.as_ref().and_then(|known| known.checks.get(&check.name));
        let outcome = loader
            .evaluate(check, context, entry, file.drift_percent)
            .map_err(|(key, error)| placed(&document, &format!("check[{i}].{key}"), error))?;
        let line = document.position(&format!("check[{i}]")).map(|(line, _)| line);
        outcomes.push(Outcome { line, ..outcome });
    }
    let report = Report::new(&args.checks.display().to_string(), outcomes);
    match args.format {
        Format::Json => write_json(out, &report)?,
        Format::Table => {
            out.write_all(report_text(&report).as_bytes()).map_err(stdout_error)?;
        }
    }
    if args.github {
        out.write_all(github_annotations(&report).as_bytes()).map_err(stdout_error)?;
    }
    if let Some(path) = &args.junit {
        write_file(path, junit(&report)?.as_bytes())?;
    }
    if let Some(path) = &args.markdown {
        write_file(path, markdown(&report).as_bytes())?;
    }
    if args.update_baseline {
        let accepted = update(&path, known.unwrap_or_default(), &file, &report)?;
        if args.format == Format::Table {
            let checks = if accepted == 1 { "check" } else { "checks" };
            writeln!(out, "{}: {accepted} {checks} accepted", path.display())
                .map_err(stdout_error)?;
        }
    }
    if report.failed > 0 {
        return Err(Error::CheckFailed(report.summary()));
    }
    Ok(())
}

/// An error of a check, at the key that leads to it.
fn placed(document: &Document, key: &str, error: Error) -> Error {
    match &error {
        Error::Internal(_) => error,
        // A scenario or table with a place of its own.
        Error::Input(input) if input.position.is_some() || input.origin.starts_with("--set") => {
            error
        }
        _ => {
            let text = error.to_string();
            let (message, hint) = match text.split_once("\n  help: ") {
                Some((message, hint)) => (message, Some(hint.to_owned())),
                None => (text.as_str(), None),
            };
            document.error_at(key, message, hint)
        }
    }
}

/// A key of a check, and what is wrong with it.
type Wrong = (&'static str, Error);

fn at<T>(key: &'static str, result: Result<T>) -> Result<T, Wrong> {
    result.map_err(|error| (key, error))
}

fn read_baseline(path: &Path, required: bool) -> Result<Option<Baseline>> {
    if !path.exists() {
        if required {
            return Err(Error::Missing(format!(
                "{}: there is no such baseline\n  help: `trainyard check --update-baseline` \
                 writes it",
                path.display()
            )));
        }
        return Ok(None);
    }
    let bytes = read_table(path)?;
    let wrong = |message: String| {
        Error::from(crate::error::InputError {
            origin: path.display().to_string(),
            message,
            hint: Some("write it again with `trainyard check --update-baseline`".into()),
            ..crate::error::InputError::default()
        })
    };
    let baseline: Baseline = serde_json::from_slice(&bytes)
        .map_err(|e| wrong(format!("is no baseline that can be read: {e}")))?;
    if baseline.schema != BASELINE_SCHEMA {
        return Err(wrong(format!("has schema `{}`, not `{BASELINE_SCHEMA}`", baseline.schema)));
    }
    Ok(Some(baseline))
}

/// Accepts the checks that passed; keeps the entries of those that did not, or were not asked for.
fn update(path: &Path, mut known: Baseline, file: &ChecksFile, report: &Report) -> Result<usize> {
    known.schema = BASELINE_SCHEMA.into();
    known.written_by = concat!("trainyard ", env!("CARGO_PKG_VERSION")).into();
    known.checks.retain(|name, _| file.check.iter().any(|check| check.name == *name));
    let passed = report.checks.iter().filter(|check| check.passed);
    for check in passed.clone() {
        let entry = BaselineEntry {
            metric: check.metric,
            measured: check.measured.clone(),
            predicted: check.predicted.clone(),
        };
        known.checks.insert(check.name.clone(), entry);
    }
    let mut bytes = Vec::new();
    write_json(&mut bytes, &known)?;
    write_file(path, &bytes)?;
    Ok(passed.count())
}

/// Loads what checks name.
struct Loader {
    folder: PathBuf,
    catalogue: Option<Catalogue>,
}

impl Loader {
    fn evaluate(
        &mut self,
        check: &Check,
        context: &Context,
        baseline: Option<&BaselineEntry>,
        drift_percent: f64,
    ) -> Result<Outcome, Wrong> {
        let metric = check.metric;
        let simulated = match &check.predicted.scenario {
            Some(path) => {
                let result = self.simulate(path, &check.predicted.set, context);
                Some((path, at("predicted.scenario", result)?))
            }
            None => None,
        };
        let (replay, earlier) = (&check.predicted.replay, &check.predicted.trace);
        let predicted = match (&simulated, replay, earlier) {
            (Some((path, result)), _, _) => {
                let sets = check.predicted.set.iter().map(|set| format!(" with {set}"));
                let origin = format!("scenario {}{}", path.display(), sets.collect::<String>());
                predicted_scenario(&origin, result, metric)
            }
            (None, None, Some(path)) => {
                let origin = format!("trace {}", path.display());
                let side = self
                    .trace(path)
                    .and_then(|traces| predicted_trace(&origin, one(&traces, path)?, check));
                at("predicted.trace", side)?
            }
            (None, Some(path), _) => {
                let scale = &check.predicted.scale;
                let scales = scale.iter().map(|(name, by)| format!(" with {name} times {by}"));
                let origin = format!("replay of {}{}", path.display(), scales.collect::<String>());
                let side = self
                    .trace(path)
                    .and_then(|traces| predicted_replay(&origin, one(&traces, path)?, check));
                at("predicted.replay", side)?
            }
            // `ChecksFile::of` has checked that there is one.
            (None, None, None) => {
                return Err(("predicted", Error::Internal("a check without one".into())));
            }
        };
        let known = simulated.as_ref().map(|(_, result)| result);
        let source = &check.measured;
        let measured = if let Some(path) = &source.trace {
            let origin = format!("trace {}", path.display());
            let side = self
                .trace(path)
                .and_then(|traces| measured_trace(&origin, one(&traces, path)?, check, known));
            at("measured.trace", side)?
        } else if let Some(path) = &source.series {
            let full = self.folder.join(path);
            let mut columns = vec![source.column.as_deref().unwrap_or(metric.column())];
            if source.column.is_none() && metric != Metric::MemoryPeak && known.is_some() {
                columns.push(Metric::StepTime.column());
            }
            let side = read_table(&full).and_then(|bytes| {
                let series = parse_series(&full.display().to_string(), &bytes, &columns)?;
                let origin = format!("column {} of {}", series.column, path.display());
                measured_series(&origin, &series, check, known)
            });
            at("measured.series", side)?
        } else {
            let text = source.source.as_deref().unwrap_or_default();
            measured_figure(source.figure.unwrap_or_default(), text)
        };
        let error_percent = 100.0 * (predicted.value / measured.value - 1.0);
        let (under_percent, over_percent) = check.tolerance.sides();
        Ok(Outcome {
            name: check.name.clone(),
            line: None,
            metric,
            statistic: check.statistic,
            error_percent,
            under_percent,
            over_percent,
            reason: check.tolerance.reason.trim().to_owned(),
            passed: Outcome::within(error_percent, under_percent, over_percent),
            drift: drift(&measured, &predicted, metric, baseline, drift_percent),
            measured,
            predicted,
        })
    }

    fn simulate(&mut self, path: &Path, sets: &[String], context: &Context) -> Result<RunResult> {
        let mut document = Document::read(&self.folder.join(path))?;
        for assignment in sets {
            document.set(assignment)?;
        }
        let catalogue = match self.catalogue.take() {
            Some(catalogue) => catalogue,
            None => context.catalogue()?,
        };
        let catalogue = self.catalogue.insert(catalogue);
        simulate(&resolve(&document, catalogue)?, catalogue, Options::default())
    }

    fn trace(&self, path: &Path) -> Result<TraceSet> {
        Ok(import(&[self.folder.join(path)], false)?.traces)
    }
}

/// The trace that a path holds.
fn one<'a>(traces: &'a TraceSet, path: &Path) -> Result<&'a [crate::trace::model::RankTrace]> {
    let mut all = traces.traces();
    match (all.next(), all.count()) {
        (Some(ranks), 0) => Ok(ranks),
        (_, more) => Err(Error::Missing(format!(
            "{} holds {} traces, and a check needs one: name a folder or file of one",
            path.display(),
            more + 1
        ))),
    }
}
