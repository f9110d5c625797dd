//! What came of the checks: for people, for JUnit, for GitHub, for a summary page.

use std::fmt::Write as _;

use comfy_table::{Table, presets};
use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
use serde::Serialize;

use super::drift::{Basis, Cause, Drift, Moved, MovedPart};
use super::file::{Metric, Statistic};
use super::side::Side;
use crate::error::{Error, Result};
use crate::report::wrapped;
use crate::units::{Seconds, human_time, si, significant};

/// Layout version of the machine output.
pub const CHECK_SCHEMA: &str = "trainyard.check/1";
/// Columns of text for people.
const WIDTH: usize = 96;
/// Annotations that are written at most; GitHub shows no more of a step.
const MOST_ANNOTATIONS: usize = 10;

/// What came of all checks of a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Layout version.
    pub schema: &'static str,
    /// The file.
    pub file: String,
    /// How the error is counted.
    pub error_convention: &'static str,
    /// Checks that passed and failed.
    pub passed: usize,
    /// Checks that failed.
    pub failed: usize,
    /// One by one, in the order of the file.
    pub checks: Vec<Outcome>,
    /// Checks that could not be run, in the order of the file.
    pub broken: Vec<Broken>,
}

/// A check that could not be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// Its name; its key where it has none.
    pub name: String,
    /// Line of the file.
    pub line: Option<usize>,
    /// What is wrong, with its place.
    pub message: String,
}

impl Broken {
    /// What is wrong and what would help, without the line of the file.
    fn brief(&self) -> String {
        let lines = self.message.lines().map(str::trim).enumerate();
        let told: Vec<&str> = lines
            .filter(|(number, line)| *number == 0 || line.starts_with("help: "))
            .map(|(_, line)| line)
            .collect();
        told.join("; ")
    }
}

impl Report {
    /// A report on these checks.
    #[must_use]
    pub fn new(file: &str, checks: Vec<Outcome>, broken: Vec<Broken>) -> Self {
        let failed = checks.iter().filter(|check| !check.passed).count();
        Self {
            schema: CHECK_SCHEMA,
            file: file.to_owned(),
            error_convention: "predicted over measured, minus one, in percent",
            passed: checks.len() - failed,
            failed,
            checks,
            broken,
        }
    }

    /// `2 of 5 checks failed`, `1 of 5 checks could not be run, 2 failed`.
    #[must_use]
    pub fn summary(&self) -> String {
        let all = self.checks.len() + self.broken.len();
        let broken = self.broken.len();
        match self.failed {
            0 if broken > 0 => format!("{broken} of {all} checks could not be run"),
            failed if broken > 0 => {
                format!("{broken} of {all} checks could not be run, {failed} failed")
            }
            0 if all == 1 => "1 check passed".to_owned(),
            0 => format!("all {all} checks passed"),
            failed => format!("{failed} of {all} checks failed"),
        }
    }
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// Line of the file.
    pub line: Option<usize>,
    /// What was compared.
    pub metric: Metric,
    /// What stands for all steps.
    pub statistic: Statistic,
    /// All of what the check is, for the baseline.
    #[serde(skip)]
    pub basis: Basis,
    /// The measured side.
    pub measured: Side,
    /// The predicted side.
    pub predicted: Side,
    /// Predicted over measured, minus one, percent.
    pub error_percent: f64,
    /// How far below the prediction may lie, percent.
    pub under_percent: Option<f64>,
    /// How far above, percent.
    pub over_percent: Option<f64>,
    /// Why that far.
    pub reason: String,
    /// What is missing of either side, so that the two cannot be compared; the check fails.
    pub incomplete: Vec<String>,
    /// Whether the error is within both, and nothing is missing.
    pub passed: bool,
    /// What moved.
    pub drift: Drift,
}

impl Outcome {
    /// Whether an error lies within a tolerance.
    #[must_use]
    pub fn within(error_percent: f64, under: Option<f64>, over: Option<f64>) -> bool {
        // A hair for the rounding of percentages, so that a tolerance of 0 holds for equal sides.
        let within = |error: f64, limit: Option<f64>| limit.is_none_or(|l| error <= l + 1e-9);
        within(error_percent, over) && within(-error_percent, under)
    }

    /// How many times the tolerance the error is; endless where something is missing.
    fn excess(&self) -> f64 {
        if !self.incomplete.is_empty() {
            return f64::INFINITY;
        }
        let limit = if self.error_percent < 0.0 { self.under_percent } else { self.over_percent };
        limit.map_or(0.0, |limit| self.error_percent.abs() / limit.max(1e-9))
    }

    fn allowed(&self) -> String {
        let side = |limit: Option<f64>| limit.map_or("any".to_owned(), |l| l.to_string());
        if self.under_percent == self.over_percent {
            return format!("±{} %", side(self.under_percent));
        }
        format!("-{} to +{} %", side(self.under_percent), side(self.over_percent))
    }

    fn error(&self) -> String {
        format!("{:+.2} %", self.error_percent)
    }

    /// One line: what failed, by how much, and what moved.
    #[must_use]
    pub fn message(&self) -> String {
        let incomplete = match self.incomplete.as_slice() {
            [] => String::new(),
            missing => format!("Incomplete: {}. ", missing.join("; ")),
        };
        format!(
            "{incomplete}{} {} predicted, {} measured: {} where {} is allowed ({}). {}",
            self.metric.name(),
            value(self.metric, self.predicted.value),
            value(self.metric, self.measured.value),
            self.error(),
            self.allowed(),
            self.reason,
            self.drift_text()
        )
    }

    /// Which side moved, and which part of it.
    #[must_use]
    pub fn drift_text(&self) -> String {
        let drift = &self.drift;
        let side = |what: &str, moved: Option<&Moved>| {
            moved.map_or(String::new(), |moved| self.moved_text(what, moved))
        };
        let machine = || side("what was measured", drift.machine.as_ref());
        let model = || side("what is predicted", drift.model.as_ref());
        match drift.cause {
            Cause::Machine => {
                format!("The machine drifted, not the model: {}", machine())
            }
            Cause::Model => format!("The model drifted, not the machine: {}", model()),
            Cause::Both => format!("Machine and model drifted: {}; {}", machine(), model()),
            Cause::Neither if self.passed => "Neither side moved since the baseline".to_owned(),
            Cause::Neither => {
                "Neither side moved since the baseline: the tolerance was missed then, too".into()
            }
            Cause::CheckChanged => format!(
                "The check changed since the baseline, so what moved cannot be told: {} \
                 (--update-baseline accepts it anew)",
                drift.changed.join("; ")
            ),
            Cause::NoBaseline => match &drift.differs {
                Some(part) => format!(
                    "No baseline. The sides differ most in {}: {} measured, {} predicted",
                    part.part,
                    self.part_value(part.before),
                    self.part_value(part.now)
                ),
                None => "No baseline to tell what moved".to_owned(),
            },
        }
    }

    fn part_value(&self, number: f64) -> String {
        match self.metric {
            Metric::MemoryPeak => value(Metric::MemoryPeak, number),
            _ => value(Metric::StepTime, number),
        }
    }

    fn moved_text(&self, what: &str, moved: &Moved) -> String {
        let mut text = format!(
            "{what} went from {} to {} ({:+.1} %)",
            value(self.metric, moved.before),
            value(self.metric, moved.now),
            moved.change_percent
        );
        if let Some(part) = &moved.part {
            let _ = write!(text, "; most in {}", self.moved_part_text(part));
            if let Some(kernel) = &part.kernel {
                let (before, now) = (self.part_value(kernel.before), self.part_value(kernel.now));
                let _ = write!(text, ", there in `{}`, {before} to {now}", kernel.part);
            }
        }
        if !moved.inputs.is_empty() {
            let _ = write!(text, "; changed inputs: {}", moved.inputs.join(", "));
        }
        text
    }

    fn moved_part_text(&self, part: &MovedPart) -> String {
        let rank = match (part.rank, part.alone) {
            (Some(rank), true) => format!(" of rank {rank} alone"),
            (Some(rank), false) => format!(" (rank {rank} sets the pace)"),
            (None, _) => String::new(),
        };
        let (before, now) = (self.part_value(part.before), self.part_value(part.now));
        format!("{}{rank}, {before} to {now}", part.part)
    }

    /// Facts about the sides that a reader must know.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for (what, side) in [("measured", &self.measured), ("predicted", &self.predicted)] {
            let mut note = format!("{what}: {}", side.origin);
            if let Some(steps) = side.steps {
                let plural = if steps == 1 { "" } else { "s" };
                let of = self.statistic.name();
                let _ = write!(note, "; {of} of {steps} step{plural}, {}", side.rule);
            }
            if let Some(spread) = side.spread {
                let _ = write!(note, "; quartiles ±{} %", significant(100.0 * spread, 2));
            }
            notes.push(note);
            notes.extend(side.losses.iter().map(|loss| format!("{what}, missing: {loss}")));
        }
        notes.extend(self.incomplete.iter().map(|missing| format!("incomplete: {missing}")));
        notes
    }
}

/// Numbers as ranges: `0-3, 8`; `none` where there are none. They are in order.
#[must_use]
pub fn ranges(numbers: &[u32]) -> String {
    let mut found: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match found.last_mut() {
            Some((_, last)) if number.checked_sub(1) == Some(*last) => *last = *number,
            _ => found.push((*number, *number)),
        }
    }
    let texts: Vec<String> = found
        .into_iter()
        .map(|(first, last)| match last - first {
            0 => first.to_string(),
            _ => format!("{first}-{last}"),
        })
        .collect();
    if texts.is_empty() { "none".into() } else { texts.join(", ") }
}

/// A number in the unit of a metric.
fn value(metric: Metric, number: f64) -> String {
    match metric {
        Metric::StepTime => human_time(Seconds(number)),
        Metric::TokensPerSecond => si(number, "tokens/s"),
        Metric::Mfu => format!("{:.2} %", 100.0 * number),
        Metric::MemoryPeak => format!("{} GiB", significant(number / 1_073_741_824.0, 4)),
    }
}

/// Result of a check that could not be run.
const NOT_RUN: &str = "NOT RUN";

fn verdict(check: &Outcome) -> &'static str {
    match (check.passed, check.drift.cause) {
        (false, _) if !check.incomplete.is_empty() => "FAILED, incomplete",
        (false, _) => "FAILED",
        (true, Cause::Machine | Cause::Model | Cause::Both) => "passed, drifted",
        (true, _) => "passed",
    }
}

/// For the terminal.
#[must_use]
pub fn report_text(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["check", "metric", "measured", "predicted", "error", "allowed", "result"]);
    for check in &report.checks {
        table.add_row([
            check.name.clone(),
            check.metric.name().to_owned(),
            value(check.metric, check.measured.value),
            value(check.metric, check.predicted.value),
            check.error(),
            check.allowed(),
            verdict(check).to_owned(),
        ]);
    }
    for broken in &report.broken {
        let mut row = vec![broken.name.clone()];
        row.extend(["-"; 5].map(str::to_owned));
        row.push(NOT_RUN.to_owned());
        table.add_row(row);
    }
    let mut text = format!("{table}\n");
    for check in &report.checks {
        let _ = writeln!(text, "\n{}: {}", check.name, verdict(check));
        let allowed = format!("allowed: {} because {}", check.allowed(), check.reason);
        for line in check.notes().into_iter().chain([allowed, check.drift_text()]) {
            for line in wrapped(&line, WIDTH) {
                let _ = writeln!(text, "  {line}");
            }
        }
    }
    for broken in &report.broken {
        let _ = writeln!(text, "\n{}: {NOT_RUN}", broken.name);
        // A place with its line of the file: as it is, so that columns agree.
        for line in broken.message.lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    let _ = writeln!(text, "\n{}", report.summary());
    text
}

/// JUnit XML.
///
/// # Errors
/// A text cannot be written as XML (a defect).
pub fn junit(report: &Report) -> Result<String> {
    let mut suite = TestSuite::new(report.file.as_str());
    for check in &report.checks {
        let status = if check.passed {
            TestCaseStatus::success()
        } else {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            let kind = if check.incomplete.is_empty() { "tolerance" } else { "incomplete" };
            status.set_type(kind).set_message(check.message());
            status
        };
        let mut case = TestCase::new(check.name.as_str(), status);
        case.set_classname(check.metric.name());
        let mut lines = check.notes();
        lines.push(check.drift_text());
        case.set_system_out(lines.join("\n"));
        suite.add_test_case(case);
    }
    for broken in &report.broken {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        status.set_type("invalid").set_message(broken.brief());
        status.set_description(broken.message.as_str());
        suite.add_test_case(TestCase::new(broken.name.as_str(), status));
    }
    let mut all = quick_junit::Report::new("trainyard check");
    all.add_test_suite(suite);
    all.to_string().map_err(|e| Error::Internal(format!("cannot write JUnit XML: {e}")))
}

/// Annotations of GitHub workflows: the ten worst; checks that could not be run before failures,
/// those before drift within the tolerance.
#[must_use]
pub fn github_annotations(report: &Report) -> String {
    let mut worst: Vec<&Outcome> =
        report.checks.iter().filter(|check| !check.passed || verdict(check) != "passed").collect();
    worst.sort_by(|a, b| {
        (a.passed.cmp(&b.passed)).then(b.excess().total_cmp(&a.excess())).then(a.name.cmp(&b.name))
    });
    let broken = report
        .broken
        .iter()
        .map(|broken| ("error", broken.line, broken.name.as_str(), broken.brief()));
    let others = worst.into_iter().map(|check| {
        let kind = if check.passed { "warning" } else { "error" };
        (kind, check.line, check.name.as_str(), check.message())
    });
    let mut text = String::new();
    for (kind, line, name, message) in broken.chain(others).take(MOST_ANNOTATIONS) {
        let line = line.map_or(String::new(), |line| format!(",line={line}"));
        let _ = writeln!(
            text,
            "::{kind} file={}{line},title={}::{}",
            property(&report.file),
            property(&format!("trainyard check: {name}")),
            escaped(&message)
        );
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    escaped(text).replace(':', "%3A").replace(',', "%2C")
}

/// A summary as Markdown.
#[must_use]
pub fn markdown(report: &Report) -> String {
    let cell = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace('\n', " ");
    let mut text = format!("## trainyard check: {}\n\n", report.summary());
    text.push_str("| check | metric | measured | predicted | error | allowed | result |\n");
    text.push_str("|---|---|---:|---:|---:|---:|---|\n");
    for check in &report.checks {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            cell(&check.name),
            check.metric.name(),
            value(check.metric, check.measured.value),
            value(check.metric, check.predicted.value),
            check.error(),
            check.allowed(),
            verdict(check)
        );
    }
    for broken in &report.broken {
        let _ = writeln!(text, "| {} | - | - | - | - | - | {NOT_RUN} |", cell(&broken.name));
    }
    text.push('\n');
    for check in &report.checks {
        let lost = check.measured.losses.iter().chain(&check.predicted.losses);
        let lost: Vec<String> = lost.map(|loss| format!(" Missing: {loss}.")).collect();
        let missing: Vec<String> =
            check.incomplete.iter().map(|missing| format!(" Incomplete: {missing}.")).collect();
        let _ = writeln!(
            text,
            "- **{}**:{} {}.{}",
            cell(&check.name),
            cell(&missing.concat()),
            cell(&check.drift_text()),
            cell(&lost.concat())
        );
    }
    for broken in &report.broken {
        let _ = writeln!(text, "- **{}**: {}.", cell(&broken.name), cell(&broken.brief()));
    }
    text
}
