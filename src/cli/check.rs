//! `trainyard check`: what was measured against what is predicted.

use std::cell::RefCell;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::check::{
    BASELINE_SCHEMA, Baseline, BaselineEntry, Basis, Broken, Check, ChecksFile, Entry, Metric,
    Outcome, Report, Side, drift, github_annotations, junit, markdown, measured_figure,
    measured_series, measured_trace, parse_series, predicted_replay, predicted_scenario,
    predicted_trace, ranges, report_text,
};
use crate::error::{Error, Result, nearest_names};
use crate::hardware::Catalogue;
use crate::input::Document;
use crate::outcome::{Options, RunResult, simulate};
use crate::scenario::resolve;
use crate::trace::complete::lost_steps;
use crate::trace::import::{NOT_A_TRACE_NAME, import};
use crate::trace::model::{RankTrace, TraceSet};

use super::{
    Context, Format, read_table, refuse_overwriting, stdout_error, write_file, write_json,
};

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
    /// Also prints annotations for GitHub workflows, the ten worst; beside JSON on standard error.
    #[arg(long)]
    github: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Runs the command.
///
/// # Errors
/// The file or something it names is wrong (the other checks are run all the same), or a check
/// failed.
pub fn run(args: &CheckArgs, context: &Context, out: &mut dyn Write) -> Result<()> {
    let document = Document::read_in_parts(&args.checks)?;
    let (file, entries) = ChecksFile::of(&document)?;
    for name in &args.only {
        let names = || entries.iter().map(|entry| entry.name.as_str());
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
    for written in [&args.junit, &args.markdown].into_iter().flatten() {
        refuse_overwriting(written, &[&args.checks, &path])?;
    }
    if args.junit.is_some() && args.junit == args.markdown {
        return Err(Error::Missing(
            "--junit and --markdown name one file, and each needs its own".into(),
        ));
    }
    let mut replaced = None;
    let known = match read_baseline(&path, file.baseline.is_some() && !args.update_baseline) {
        // Whoever writes it anew does not need what it said.
        Err(Error::Input(damage)) if args.update_baseline => {
            replaced = Some(damage.message);
            None
        }
        other => other?,
    };
    let mut loader = Loader { folder, catalogue: None, read: RefCell::default() };
    let names: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
    let (mut outcomes, mut broken) = (Vec::new(), Vec::new());
    let mut defect = None;
    for Entry { name, key, check } in entries {
        if !args.only.is_empty() && !args.only.contains(&name) {
            continue;
        }
        let line = document.position(&key).map(|(line, _)| line);
        let outcome = check.and_then(|check| {
            let entry = known.as_ref().and_then(|known| known.checks.get(&name));
            let baseline = Known { entry, accepts: args.update_baseline };
            loader
                .evaluate(&check, context, baseline, file.drift_percent)
                .map_err(|(at, error)| placed(&document, &format!("{key}.{at}"), error))
        });
        match outcome {
            Ok(outcome) => outcomes.push(Outcome { line, ..outcome }),
            Err(error) => {
                broken.push(Broken { name, line, message: error.to_string() });
                defect = defect.or(matches!(error, Error::Internal(_)).then_some(error));
            }
        }
    }
    let written =
        [args.junit.as_ref(), args.markdown.as_ref(), args.update_baseline.then_some(&path)];
    for written in written.into_iter().flatten() {
        refuse_overwriting(written, &loader.read.borrow())?;
    }
    let report = Report::new(&args.checks.display().to_string(), outcomes, broken);
    match args.format {
        Format::Json => write_json(out, &report)?,
        Format::Table => {
            out.write_all(report_text(&report).as_bytes()).map_err(stdout_error)?;
        }
    }
    if args.github {
        let annotations = github_annotations(&report);
        match args.format {
            Format::Table => out.write_all(annotations.as_bytes()).map_err(stdout_error)?,
            // GitHub reads both streams, and a program that reads the JSON only one.
            Format::Json => std::io::stderr()
                .write_all(annotations.as_bytes())
                .map_err(|e| Error::io("write to", "standard error", e))?,
        }
    }
    if let Some(path) = &args.junit {
        write_file(path, junit(&report)?.as_bytes())?;
    }
    if let Some(path) = &args.markdown {
        write_file(path, markdown(&report).as_bytes())?;
    }
    if args.update_baseline {
        let accepted = update(&path, known.unwrap_or_default(), &names, &report)?;
        if args.format == Format::Table {
            let checks = if accepted == 1 { "check" } else { "checks" };
            let replaced = replaced.map_or(String::new(), |why| format!("; the file before {why}"));
            writeln!(out, "{}: {accepted} {checks} accepted{replaced}", path.display())
                .map_err(stdout_error)?;
        }
    }
    if let Some(defect) = defect {
        return Err(defect);
    }
    if !report.broken.is_empty() {
        return Err(Error::Missing(report.summary()));
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
fn update(path: &Path, mut known: Baseline, names: &[String], report: &Report) -> Result<usize> {
    known.schema = BASELINE_SCHEMA.into();
    known.written_by = concat!("trainyard ", env!("CARGO_PKG_VERSION")).into();
    known.checks.retain(|name, _| names.contains(name));
    let passed = report.checks.iter().filter(|check| check.passed);
    for check in passed.clone() {
        let entry = BaselineEntry {
            basis: check.basis.clone(),
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

/// What is known of a check from before.
#[derive(Clone, Copy)]
struct Known<'a> {
    entry: Option<&'a BaselineEntry>,
    /// Whether what is found now becomes the baseline.
    accepts: bool,
}

impl Known<'_> {
    /// Ranks that were there when the baseline was accepted, and are not now.
    fn lost_ranks(self, measured: &Side) -> Option<String> {
        // What is no trace any more has lost no ranks: the check has changed.
        let known = self.entry.filter(|_| !self.accepts && !measured.ranks.is_empty())?;
        let before = &known.measured.ranks;
        let lost = without(before, &measured.ranks);
        (!lost.is_empty()).then(|| {
            format!(
                "{} of what was measured when the baseline was accepted {} missing \
                 (--update-baseline accepts that)",
                rank_words(&lost),
                if lost.len() == 1 { "is" } else { "are" }
            )
        })
    }
}

/// Ranks of one side that the other does not have.
fn without(ranks: &[u32], other: &[u32]) -> Vec<u32> {
    ranks.iter().copied().filter(|rank| !other.contains(rank)).collect()
}

/// `rank 3`, `ranks 3-5`.
fn rank_words(ranks: &[u32]) -> String {
    format!("{} {}", if ranks.len() == 1 { "rank" } else { "ranks" }, ranges(ranks))
}

/// Ranks that only one of two traces has, in words.
fn unshared_ranks(measured: &Side, predicted: &Side) -> Vec<String> {
    // A side that is no trace has no ranks.
    if measured.ranks.is_empty() || predicted.ranks.is_empty() {
        return Vec::new();
    }
    let sides = [(predicted, measured, "measured"), (measured, predicted, "predicted")];
    let lost = sides.into_iter().filter_map(|(has, lacks, what)| {
        let lost = without(&has.ranks, &lacks.ranks);
        let is = if lost.len() == 1 { "is" } else { "are" };
        (!lost.is_empty()).then(|| format!("{} {is} missing of what is {what}", rank_words(&lost)))
    });
    lost.collect()
}

/// Loads what checks name.
struct Loader {
    folder: PathBuf,
    catalogue: Option<Catalogue>,
    /// Files that were read, which nothing may be written over.
    read: RefCell<Vec<PathBuf>>,
}

impl Loader {
    fn evaluate(
        &mut self,
        check: &Check,
        context: &Context,
        baseline: Known<'_>,
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
                let side = self.side(path, |ranks| predicted_trace(&origin, ranks, check));
                at("predicted.trace", side)?
            }
            (None, Some(path), _) => {
                let scale = &check.predicted.scale;
                let scales = scale.iter().map(|(name, by)| format!(" with {name} times {by}"));
                let origin = format!("replay of {}{}", path.display(), scales.collect::<String>());
                let side = self.side(path, |ranks| predicted_replay(&origin, ranks, check));
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
            let side = self.side(path, |ranks| measured_trace(&origin, ranks, check, known));
            at("measured.trace", side)?
        } else if let Some(path) = &source.series {
            let full = self.folder.join(path);
            self.read.borrow_mut().push(full.clone());
            let mut columns = vec![source.column.as_deref().unwrap_or(metric.column())];
            let derived = ![Metric::StepTime, Metric::MemoryPeak].contains(&metric);
            if source.column.is_none() && derived && known.is_some() {
                columns.push(Metric::StepTime.column());
            }
            let side = read_table(&full).and_then(|bytes| {
                let series = parse_series(&full.display().to_string(), &bytes, &columns, metric)?;
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
        let sides = [("measured", &measured), ("predicted", &predicted)];
        let cut = sides.into_iter().flat_map(|(what, side)| {
            side.incomplete.iter().map(move |missing| format!("{what}: {missing}"))
        });
        let mut incomplete: Vec<String> = cut.collect();
        incomplete.extend(unshared_ranks(&measured, &predicted));
        incomplete.extend(baseline.lost_ranks(&measured));
        let basis = Basis::of(check);
        let within = Outcome::within(error_percent, under_percent, over_percent);
        Ok(Outcome {
            name: check.name.clone(),
            line: None,
            metric,
            statistic: check.statistic,
            error_percent,
            under_percent,
            over_percent,
            reason: check.tolerance.reason.trim().to_owned(),
            passed: within && incomplete.is_empty(),
            incomplete,
            drift: drift(&measured, &predicted, &basis, baseline.entry, drift_percent),
            basis,
            measured,
            predicted,
        })
    }

    fn simulate(&mut self, path: &Path, sets: &[String], context: &Context) -> Result<RunResult> {
        let full = self.folder.join(path);
        self.read.borrow_mut().push(full.clone());
        let mut document = Document::read(&full)?;
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

    /// What a trace says, with the files that could not be used.
    fn side(&self, path: &Path, of: impl FnOnce(&[RankTrace]) -> Result<Side>) -> Result<Side> {
        let imported = import(&[self.folder.join(path)], false)?;
        let ranks = one(&imported.traces, path)?;
        self.read.borrow_mut().extend(imported.files.iter().cloned());
        let mut side = of(ranks)?;
        side.incomplete.extend(lost_steps(ranks));
        let unused = imported.unused.iter().filter(|unused| unused.why != NOT_A_TRACE_NAME);
        let unused: Vec<String> =
            unused.map(|unused| format!("{} {}", unused.path, unused.why)).collect();
        // A file that is no trace at all is nothing lost, unless a rank is missing.
        let job = ranks.iter().find_map(|rank| rank.header.world_size).unwrap_or(0) as usize;
        if job > ranks.len() {
            // Profiling some of the ranks is usual; it is told, and no failure.
            let there = ranges(&side.ranks);
            let not_there = job - ranks.len();
            side.losses.push(format!("{not_there} of the {job} ranks of the job (there: {there})"));
            side.incomplete.extend(unused);
        } else {
            side.losses.extend(unused);
        }
        Ok(side)
    }
}

/// The trace that a path holds.
fn one<'a>(traces: &'a TraceSet, path: &Path) -> Result<&'a [RankTrace]> {
    let mut all = traces.traces();
    match (all.next(), all.count()) {
        (Some(ranks), 0) => Ok(ranks),
        (_, more) => {
            // A file that ended before it said what it belongs to stands alone.
            let cut = traces.ranks.iter().filter_map(|rank| {
                let cut = rank.header.losses.cut()?;
                Some(format!("; {} {cut}", rank.header.source.file))
            });
            let cut: String = cut.collect();
            Err(Error::Missing(format!(
                "{} holds {} traces, and a check needs one{cut}\n  help: name a folder or file of \
                 one",
                path.display(),
                more + 1
            )))
        }
    }
}
