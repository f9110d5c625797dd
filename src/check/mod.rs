//! Regression checks: what was measured against what is predicted, within a tolerance that has a
//! reason, and, where they part, what moved: the machine or the model, and which part of it.
//!
//! ```text
//!  CHECKS.toml ─► file ─┬─ measured: trace, series, figure ─┐
//!                       └─ predicted: scenario, replay ─────┴─► side ─► drift ─► report
//!                                                 baseline ───────────────┘
//! ```
//!
//! This module reads no files: `cli::check` loads what an entry names.

mod drift;
mod file;
mod report;
mod series;
mod side;

pub use drift::{
    BASELINE_SCHEMA, Baseline, BaselineEntry, Basis, Cause, Drift, Moved, MovedPart, drift,
};
pub use file::{
    Check, ChecksFile, Entry, Measured, Metric, Predicted, Statistic, StepOf, Tolerance,
};
pub use report::{
    Broken, CHECK_SCHEMA, Outcome, Report, github_annotations, junit, markdown, ranges, report_text,
};
pub use series::{Series, Settled, parse_series, settle};
pub use side::{Parts, Side, measured_figure, measured_series, measured_trace};
pub use side::{predicted_replay, predicted_scenario, predicted_trace};
