//! Keys of CHECKS.toml.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::input::Document;

/// What is wrong with an MFU above one, and what to write.
pub(super) const MFU_ABOVE_ONE: &str = "an MFU above 1";
pub(super) const MFU_IS_A_SHARE: &str = "MFU is a share from 0 to 1: 41.2 % is 0.412";

/// A file of checks. Paths in it are relative to its folder.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChecksFile {
    /// File of what both sides consisted of when they were accepted; `trainyard check
    /// --update-baseline` writes it. Without the key, NAME.baseline.json beside NAME.toml.
    pub baseline: Option<PathBuf>,
    /// A side has moved where it, or a part of it, differs from the baseline by more than this
    /// share of the whole, in percent.
    #[serde(default = "two")]
    pub drift_percent: f64,
    /// The checks.
    #[serde(default)]
    pub check: Vec<Check>,
}

fn two() -> f64 {
    2.0
}

/// A measured and a predicted figure that must agree.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Name, distinct in the file.
    pub name: String,
    /// What is compared.
    #[serde(default)]
    pub metric: Metric,
    /// Where the measured figure comes from: exactly one of `trace`, `series`, `figure`.
    pub measured: Measured,
    /// Where the prediction comes from: exactly one of `scenario`, `replay`, `trace`.
    pub predicted: Predicted,
    /// How far they may lie apart.
    pub tolerance: Tolerance,
    /// What stands for all steps of a trace or series.
    #[serde(default)]
    pub statistic: Statistic,
    /// Leading steps to skip. Without the key: those longer than 1.25 times the median of the
    /// second half, at most half of all.
    pub warm_up: Option<u32>,
}

/// What is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Time of a step, seconds.
    #[default]
    StepTime,
    /// Tokens per second of the whole job; from step times with the tokens of the scenario.
    TokensPerSecond,
    /// Model FLOPs over what the devices could do, 0 to 1; from step times with the FLOPs of the
    /// scenario.
    Mfu,
    /// Highest use of device memory, bytes.
    MemoryPeak,
}

impl Metric {
    /// Name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StepTime => "step_time",
            Self::TokensPerSecond => "tokens_per_second",
            Self::Mfu => "mfu",
            Self::MemoryPeak => "memory_peak",
        }
    }

    /// Column of a series that holds it.
    #[must_use]
    pub fn column(self) -> &'static str {
        match self {
            Self::StepTime => "seconds",
            Self::TokensPerSecond => "tokens_per_second",
            Self::Mfu => "mfu",
            Self::MemoryPeak => "peak_bytes",
        }
    }
}

/// What stands for all steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// Half of the steps take no longer.
    #[default]
    Median,
    /// Their mean.
    Mean,
    /// The longest step: finds a single slow one.
    Max,
}

impl Statistic {
    /// Name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Median => "median",
            Self::Mean => "mean",
            Self::Max => "max",
        }
    }
}

/// What a step of a trace is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepOf {
    /// The device work launched in it, as in `trainyard trace replay`: the longest span of a rank.
    #[default]
    Span,
    /// Its window as the profiled program marked it: what the host does before its first launch
    /// counts. The fair one beside a scenario, where several steps follow each other.
    Window,
}

impl StepOf {
    /// Name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Span => "span",
            Self::Window => "window",
        }
    }
}

/// Where a measured figure comes from.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Trace directory, or profiler output as `trainyard trace import` reads it.
    pub trace: Option<PathBuf>,
    /// What a step of the trace is.
    #[serde(default)]
    pub step: StepOf,
    /// Table of steps: CSV with a line of column names, a JSON list, or JSON lines.
    pub series: Option<PathBuf>,
    /// Column of the series; without the key that of the metric (`seconds`, `tokens_per_second`,
    /// `mfu`, `peak_bytes`), or `seconds` where the scenario tells how to convert.
    pub column: Option<String>,
    /// One number in the unit of the metric.
    pub figure: Option<f64>,
    /// Where the figure was published or recorded; required with `figure`.
    pub source: Option<String>,
}

/// Where a prediction comes from.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Predicted {
    /// Scenario file.
    pub scenario: Option<PathBuf>,
    /// Keys of the scenario to replace, such as `plan.micro_batch=2`.
    #[serde(default)]
    pub set: Vec<String>,
    /// Trace to replay, such as that of a run that was accepted.
    pub replay: Option<PathBuf>,
    /// Trace of an earlier run whose steps are expected as they were recorded.
    pub trace: Option<PathBuf>,
    /// What takes how many times as long in the replay: a part of a name, `compute` or
    /// `communication`.
    #[serde(default)]
    pub scale: BTreeMap<String, f64>,
}

/// How far a prediction may lie from what was measured, in percent of what was measured.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    /// On either side.
    pub percent: Option<f64>,
    /// Below what was measured.
    pub under_percent: Option<f64>,
    /// Above what was measured.
    pub over_percent: Option<f64>,
    /// Why this much: what the tolerance has to cover.
    pub reason: String,
}

impl Tolerance {
    /// How far below and above, percent; none where a side does not matter.
    #[must_use]
    pub fn sides(&self) -> (Option<f64>, Option<f64>) {
        (self.under_percent.or(self.percent), self.over_percent.or(self.percent))
    }
}

/// What a check of a file turned out to be.
#[derive(Debug)]
pub struct Entry {
    /// Its name; `check[2]` where it has none.
    pub name: String,
    /// Its key in the file, such as `check[2]`.
    pub key: String,
    /// The check, or what is wrong with it.
    pub check: Result<Check>,
}

impl ChecksFile {
    /// Reads a file of checks, one by one: what is wrong with one of them is its own error, and the
    /// others stand. [`Self::check`] of the result is empty.
    ///
    /// # Errors
    /// A key beside the checks is wrong, or there are none; the message has its place.
    pub fn of(document: &Document) -> Result<(Self, Vec<Entry>)> {
        let mut rest = document.table().clone();
        let listed = match rest.remove("check") {
            Some(toml::Value::Array(listed)) => listed,
            None => Vec::new(),
            Some(_) => {
                let hint = Some("begin every check with [[check]]".to_owned());
                return Err(document.error_at("check", "is no list of checks", hint));
            }
        };
        let file: Self = document.decode_at("", &toml::Value::Table(rest))?;
        if listed.is_empty() {
            let hint = Some("begin one with [[check]]".to_owned());
            return Err(document.error_at("", "has no checks", hint));
        }
        let mut names = BTreeSet::new();
        let mut entries = Vec::with_capacity(listed.len());
        for (i, value) in listed.iter().enumerate() {
            let key = format!("check[{i}]");
            let check = document.decode_at::<Check>(&key, value).and_then(|check| {
                check.validate(document, &key)?;
                if !names.insert(check.name.clone()) {
                    let message = "is the name of an earlier check, too";
                    return Err(document.error_at(&format!("{key}.name"), message, None));
                }
                Ok(check)
            });
            let name = value.get("name").and_then(toml::Value::as_str).map(str::trim);
            let name = name.filter(|name| !name.is_empty()).unwrap_or(&key).to_owned();
            entries.push(Entry { name, key, check });
        }
        Ok((file, entries))
    }
}

impl Check {
    /// Whether its keys make sense together; `at` is its own key.
    fn validate(&self, document: &Document, at: &str) -> Result<()> {
        let key = |rest: &str| format!("{at}.{rest}");
        let wrong = |key: &str, message: &str, hint: &str| -> Result<(), Error> {
            Err(document.error_at(key, message, (!hint.is_empty()).then(|| hint.to_owned())))
        };
        if self.name.trim().is_empty() {
            return wrong(&key("name"), "is empty", "");
        }
        let (measured, predicted) = (&self.measured, &self.predicted);
        let given = [measured.trace.is_some(), measured.series.is_some()];
        let given = given.into_iter().chain([measured.figure.is_some()]).filter(|g| *g).count();
        if given != 1 {
            let hint = "give exactly one of trace, series, figure";
            return wrong(&key("measured"), &format!("{given} sources of one figure"), hint);
        }
        let sourced = measured.source.as_ref().is_some_and(|text| !text.trim().is_empty());
        if measured.figure.is_some() && !sourced {
            let hint = "add source = \"where it was published or recorded\"";
            return wrong(&key("measured.figure"), "a figure without a source", hint);
        }
        if measured.figure == Some(0.0) {
            return wrong(&key("measured.figure"), "no relative error of zero exists", "");
        }
        if measured.step == StepOf::Window && measured.trace.is_none() {
            return wrong(&key("measured.step"), "only a trace has windows", "");
        }
        if measured.step == StepOf::Window && predicted.replay.is_some() {
            let hint = "a replay begins with the first launch: what the host does before it is not \
                        replayed; compare spans, or predict by trace or scenario";
            return wrong(&key("measured.step"), "a replay has no windows to compare", hint);
        }
        if self.metric == Metric::Mfu && measured.figure.is_some_and(|figure| figure > 1.0) {
            return wrong(&key("measured.figure"), MFU_ABOVE_ONE, MFU_IS_A_SHARE);
        }
        if measured.column.is_some() && measured.series.is_none() {
            return wrong(&key("measured.column"), "only a series has columns", "");
        }
        let given = [&predicted.scenario, &predicted.replay, &predicted.trace];
        if given.into_iter().flatten().count() != 1 {
            let hint = "give exactly one of scenario, replay, trace";
            return wrong(&key("predicted"), "not one prediction", hint);
        }
        if !predicted.set.is_empty() && predicted.scenario.is_none() {
            return wrong(&key("predicted.set"), "only a scenario has keys to set", "");
        }
        if !predicted.scale.is_empty() && predicted.replay.is_none() {
            return wrong(&key("predicted.scale"), "only a replay can be scaled", "");
        }
        if let Some((name, _)) =
            predicted.scale.iter().find(|(_, by)| !(0.0..=1000.0).contains(*by))
        {
            let key = key(&format!("predicted.scale.{name}"));
            return wrong(&key, "is no factor from 0 to 1000", "");
        }
        if predicted.scenario.is_none() && self.metric != Metric::StepTime {
            let hint = "a trace predicts step_time; other metrics need a scenario";
            return wrong(&key("metric"), "cannot be predicted by a trace", hint);
        }
        if measured.trace.is_some() && self.metric == Metric::MemoryPeak {
            let hint = "give a series with a column peak_bytes, or a figure";
            return wrong(&key("metric"), "traces do not record the use of memory", hint);
        }
        let tolerance = &self.tolerance;
        if tolerance.reason.trim().is_empty() {
            let hint = "say what the tolerance has to cover";
            return wrong(&key("tolerance.reason"), "is empty", hint);
        }
        let sided = tolerance.under_percent.is_some() || tolerance.over_percent.is_some();
        if tolerance.percent.is_some() == sided {
            let hint = "give percent, or under_percent and over_percent (or one of them)";
            return wrong(&key("tolerance"), "no tolerance, or two", hint);
        }
        Ok(())
    }
}
