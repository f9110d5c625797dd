//! Predictions against published measurements.
//!
//! A table of rows is read ([`Tables`]), every row's configuration becomes a scenario and is
//! predicted ([`Predictor`]), and the predictions are compared with what was measured ([`scores`]).
//! The predictor takes a [`RowSpec`], which has no measured value in it.

mod ablation;
pub mod collectives;
mod grammar;
mod map;
mod names;
mod predict;
mod row;
mod score;
mod shape;
pub mod statistics;
mod study;
mod table;

use std::collections::BTreeSet;

use rayon::prelude::*;

pub use ablation::{STEPS, Step, ablation};
pub use map::Reject;
pub use predict::{Prediction, Predictor, Scale, Status};
pub use row::{COLUMNS, Labels, MORE_COLUMNS, Measured, NEEDED_COLUMNS, Row, RowSpec};
pub use score::{Errors, Intervals, Score, error_of, held, quantile, scores};
pub use study::{Choice, HALVED, Named, Study, Target, half_of, study};
pub use table::Tables;

use crate::hardware::Catalogue;

/// The committed tables, by name.
pub const EMBEDDED: [(&str, &str); 2] = [
    (
        "embedded:tests/validation/measured_training.csv",
        include_str!("../../tests/validation/measured_training.csv"),
    ),
    (
        "embedded:tests/validation/published_tables.csv",
        include_str!("../../tests/validation/published_tables.csv"),
    ),
];

/// A row with its prediction.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What the row is called.
    pub labels: Labels,
    /// Hardware family: the row's, or its accelerator's.
    pub family: String,
    /// What was measured.
    pub measured: Measured,
    /// What is predicted.
    pub prediction: Prediction,
    /// A figure of the catalogue was fitted on this row: it says nothing about accuracy.
    pub fitted: bool,
}

/// Predicts every row, in parallel, in the order of the rows.
#[must_use]
pub fn run(rows: Vec<Row>, catalogue: &Catalogue) -> Vec<Outcome> {
    let predictor = Predictor::new(catalogue);
    let fit_rows: BTreeSet<&str> = catalogue
        .stacks
        .values()
        .flat_map(|entry| entry.item.fit.ids.iter().map(String::as_str))
        .collect();
    rows.into_par_iter()
        .map(|row| {
            let prediction = match &row.spec {
                Ok(spec) => predictor.predict(spec),
                Err(reason) => Prediction::invalid(reason.clone()),
            };
            let family = if row.labels.family.is_empty() {
                prediction.scale.as_ref().map_or("(unknown)", |scale| &scale.family).to_owned()
            } else {
                row.labels.family.clone()
            };
            let fitted = fit_rows.contains(row.labels.id.as_str());
            Outcome { labels: row.labels, family, measured: row.measured, prediction, fitted }
        })
        .collect()
}
