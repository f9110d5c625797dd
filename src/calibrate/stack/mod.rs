//! Fits a stack's parameters to measured training steps.
//!
//! What is minimised is the sum over rows of the robust loss of `ln(predicted / measured)`, each
//! base with the same weight whatever its number of rows, plus a prior per parameter: its value in
//! the catalogue, with the standard deviation of [`Parameter::prior_sigma`] in the logarithm. So a
//! parameter that the rows say nothing about stays where it was, and the report says so.

mod parameters;
mod select;
mod write;

use std::collections::{BTreeMap, BTreeSet};

use nalgebra::DMatrix;
use rayon::prelude::*;

pub use parameters::Parameter;
pub use select::{COLUMNS, Condition};
pub use write::{Record, rewrite};

use super::least_squares::{cauchy, minimise};
use crate::error::{Error, Result};
use crate::hardware::Catalogue;
use crate::validate::{Outcome, Predictor, Row, Status, error_of};

/// Residual (of the logarithm) at which a row begins to count as an outlier: software drift and
/// unstated switches move a row by about as much (a median of 5.9 % between releases).
const OUTLIER: f64 = 0.06;

/// Standard deviation of a row's logarithm that the prior is weighed against.
const ROW_SIGMA: f64 = 0.05;

/// A parameter after a fit; base units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Which.
    pub parameter: Parameter,
    /// In the catalogue before.
    pub before: f64,
    /// Fitted.
    pub value: f64,
    /// Relative standard deviation of the estimate, from the curvature at the optimum.
    pub relative_sigma: f64,
    /// Share of the prior's variance that the rows removed: near 0 the rows say nothing, near 1
    /// they determine it.
    pub identified: f64,
    /// It stands at a bound of its plausible range.
    pub at_bound: bool,
}

/// A fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// Stack.
    pub stack: String,
    /// Parameters.
    pub estimates: Vec<Estimate>,
    /// Correlation of the estimates, row by row.
    pub correlation: Vec<Vec<f64>>,
    /// Identities of the rows.
    pub rows: Vec<String>,
    /// Absolute relative errors of the rows before, and after.
    pub errors: (Vec<f64>, Vec<f64>),
}

/// Errors `ln(predicted / measured)` of rows with a catalogue; `None` where a row is not predicted.
fn residuals(catalogue: &Catalogue, rows: &[&Row]) -> Vec<Option<f64>> {
    let predictor = Predictor::new(catalogue);
    rows.par_iter()
        .map(|row| {
            let prediction = predictor.predict(row.spec.as_ref().ok()?);
            if prediction.status != Status::Ok {
                return None;
            }
            let outcome = Outcome {
                labels: row.labels.clone(),
                family: String::new(),
                measured: row.measured,
                prediction,
                fitted: false,
            };
            error_of(&outcome).map(|e| (1.0 + e).ln()).filter(|e| e.is_finite())
        })
        .collect()
}

/// Rows that may be scored and are read as runs of a stack.
#[must_use]
pub fn rows_of_stack<'r>(catalogue: &Catalogue, stack: &str, rows: &'r [Row]) -> Vec<&'r Row> {
    let predictor = Predictor::new(catalogue);
    let uses = |row: &&Row| {
        row.labels.scored
            && row
                .spec
                .as_ref()
                .is_ok_and(|spec| predictor.stack_of(spec).as_deref() == Some(stack))
    };
    rows.par_iter().filter(uses).collect()
}

/// Value of a parameter before anything was fitted to the stack's own rows: the parent's (fitted
/// or not) if it has one, otherwise its own before its fit, otherwise what its file says.
#[must_use]
pub fn prior_of(catalogue: &Catalogue, stack: &str, parameter: Parameter) -> Option<f64> {
    let entry = &catalogue.stacks.get(stack)?.item;
    // The stack itself must have the figure.
    let own = parameter.get(entry)?;
    if let Some(parent) = &entry.parent
        && let Some(value) =
            catalogue.stacks.get(parent).and_then(|parent| parameter.get(&parent.item))
    {
        return Some(value);
    }
    let fitted = entry.fit.parameters.iter().position(|key| key == parameter.key());
    let before = fitted.and_then(|i| entry.fit.priors.get(i));
    Some(before.map_or(own, |before| before * parameter.unit().1))
}

/// Names of the stacks, parents before those that derive from them.
#[must_use]
pub fn parents_first(catalogue: &Catalogue) -> Vec<String> {
    let depth = |name: &str| {
        let mut at = name.to_owned();
        let mut depth = 0;
        while let Some(parent) =
            catalogue.stacks.get(&at).and_then(|entry| entry.item.parent.clone())
        {
            depth += 1;
            if depth > catalogue.stacks.len() {
                break; // A circle; the catalogue's own check reports it.
            }
            at = parent;
        }
        depth
    };
    let mut names: Vec<String> = catalogue.stacks.keys().cloned().collect();
    names.sort_by_key(|name| (depth(name), name.clone()));
    names
}

/// The catalogue with every fitted figure of a stack refitted to those of its rows that `keep`
/// accepts; where none is left a stack takes over its parent's figures, and a stack without parent
/// goes back to its priors.
///
/// # Errors
/// As for [`fit`].
pub fn refit_without(
    catalogue: &Catalogue,
    rows: &[Row],
    keep: &dyn Fn(&Row) -> bool,
) -> Result<Catalogue> {
    let mut refitted = catalogue.clone();
    // Stacks whose figures differ from the catalogue's; their children have other priors.
    let mut changed: BTreeSet<String> = BTreeSet::new();
    for name in parents_first(catalogue) {
        let Some(record) = catalogue.stacks.get(&name).map(|entry| entry.item.fit.clone()) else {
            continue;
        };
        let parameters: Vec<Parameter> =
            record.parameters.iter().filter_map(|key| Parameter::parse(key)).collect();
        let all: Vec<&Row> =
            rows.iter().filter(|row| record.ids.contains(&row.labels.id)).collect();
        let left: Vec<&Row> = all.iter().copied().filter(|row| keep(row)).collect();
        let parent = catalogue.stacks.get(&name).and_then(|entry| entry.item.parent.clone());
        let same_parent = parent.is_none_or(|parent| !changed.contains(&parent));
        if parameters.is_empty() || (left.len() == all.len() && same_parent) {
            continue;
        }
        changed.insert(name.clone());
        let inherited = Parameter::ALL
            .into_iter()
            .filter(|p| parameters.contains(p))
            .filter_map(|p| Some((p, prior_of(&refitted, &name, p)?)));
        // What is inherited is as uncertain as the prior of a fit says.
        let values: Vec<(Parameter, f64, f64)> = if left.is_empty() {
            inherited
                .map(|(parameter, value)| (parameter, value, parameter.prior_sigma()))
                .collect()
        } else {
            let fitted = fit(&refitted, &name, &parameters, &left)?;
            fitted.estimates.iter().map(|e| (e.parameter, e.value, e.relative_sigma)).collect()
        };
        if let Some(entry) = refitted.stacks.get_mut(&name) {
            for (parameter, value, sigma) in values {
                let range = (value * (-2.0 * sigma).exp(), value * (2.0 * sigma).exp());
                parameter.set_with_range(&mut entry.item, value, range);
            }
            entry.item.fit.ids = left.iter().map(|row| row.labels.id.clone()).collect();
        }
    }
    Ok(refitted)
}

/// Predicts every row with a catalogue whose stacks were refitted without the row's source; in the
/// order of the rows.
///
/// # Errors
/// As for [`fit`].
pub fn leave_one_source_out(catalogue: &Catalogue, rows: &[Row]) -> Result<Vec<Outcome>> {
    let sources: BTreeSet<&str> = rows.iter().map(|row| row.labels.source_group.as_str()).collect();
    let mut outcomes: Vec<(usize, Outcome)> = Vec::with_capacity(rows.len());
    for source in sources {
        let without = refit_without(catalogue, rows, &|row| row.labels.source_group != source)?;
        let (numbers, of_source): (Vec<usize>, Vec<Row>) = rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.labels.source_group == source)
            .map(|(i, row)| (i, row.clone()))
            .unzip();
        outcomes.extend(numbers.into_iter().zip(crate::validate::run(of_source, &without)));
    }
    outcomes.sort_by_key(|(i, _)| *i);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

/// Fits parameters of a stack to rows.
///
/// # Errors
/// The stack is unknown or lacks a parameter, or no row is predicted.
pub fn fit(
    catalogue: &Catalogue,
    stack: &str,
    parameters: &[Parameter],
    rows: &[&Row],
) -> Result<Fit> {
    let entry = catalogue.stack(stack)?;
    let name = entry.name.clone();
    let mut start = Vec::with_capacity(parameters.len());
    for parameter in parameters {
        start.push(prior_of(catalogue, &name, *parameter).ok_or_else(|| {
            Error::Unsupported(format!("stack `{name}` has no figure `{}`", parameter.key()))
        })?);
    }
    let first = residuals(catalogue, rows);
    let used: Vec<&Row> =
        rows.iter().zip(&first).filter(|(_, e)| e.is_some()).map(|(row, _)| *row).collect();
    if used.is_empty() {
        return Err(Error::Missing(format!(
            "none of the {} rows is predicted and has a measured time",
            rows.len()
        )));
    }
    let mut per_base: BTreeMap<&str, f64> = BTreeMap::new();
    for row in &used {
        *per_base.entry(row.labels.base.as_str()).or_default() += 1.0;
    }
    let weights: Vec<f64> =
        used.iter().map(|row| 1.0 / per_base[row.labels.base.as_str()].sqrt()).collect();
    let bounded = |x: &[f64]| -> Vec<f64> {
        x.iter().zip(parameters).map(|(x, p)| x.exp().clamp(p.bounds().0, p.bounds().1)).collect()
    };
    let evaluate = |values: &[f64]| -> Vec<Option<f64>> {
        let mut trial = catalogue.clone();
        if let Some(entry) = trial.stacks.get_mut(&name) {
            for (parameter, value) in parameters.iter().zip(values) {
                parameter.set(&mut entry.item, *value);
            }
        }
        residuals(&trial, &used)
    };
    let prior: Vec<f64> = start.iter().map(|v| v.ln()).collect();
    let cost = |x: &[f64]| -> Vec<f64> {
        let mut all: Vec<f64> = evaluate(&bounded(x))
            .into_iter()
            .zip(&weights)
            .map(|(e, w)| cauchy(e.unwrap_or(3.0), OUTLIER) * w / ROW_SIGMA)
            .collect();
        // Bounds are clamps in the model; here they push back, so that the optimum is unique.
        all.extend(x.iter().zip(&prior).zip(parameters).map(|((x, prior), p)| {
            let (low, high) = p.bounds();
            let beyond = (x - high.ln()).max(0.0) - (low.ln() - x).max(0.0);
            (x - prior) / p.prior_sigma() + 100.0 * beyond
        }));
        all
    };
    let (x, _) = minimise(&cost, &prior, 25);
    let values = bounded(&x);

    let covariance = covariance(&cost, &x);
    let sigma = |i: usize| covariance[(i, i)].max(0.0).sqrt();
    let estimates = parameters
        .iter()
        .enumerate()
        .map(|(i, parameter)| {
            let (low, high) = parameter.bounds();
            let share = (sigma(i) / parameter.prior_sigma()).powi(2);
            Estimate {
                parameter: *parameter,
                before: start[i],
                value: values[i],
                relative_sigma: sigma(i),
                identified: (1.0 - share).clamp(0.0, 1.0),
                at_bound: values[i] <= low * 1.001 || values[i] >= high * 0.999,
            }
        })
        .collect();
    let correlation = (0..parameters.len())
        .map(|i| {
            (0..parameters.len())
                .map(|j| covariance[(i, j)] / (sigma(i) * sigma(j)).max(1e-300))
                .collect()
        })
        .collect();
    let relative = |residuals: Vec<Option<f64>>| -> Vec<f64> {
        residuals.into_iter().flatten().map(|e| (e.exp() - 1.0).abs()).collect()
    };
    Ok(Fit {
        stack: name.clone(),
        estimates,
        correlation,
        rows: used.iter().map(|row| row.labels.id.clone()).collect(),
        errors: (relative(first), relative(evaluate(&values))),
    })
}

/// Inverse of `J^T J` at the optimum: the covariance of the logarithms, since residuals are in
/// units of their standard deviations.
fn covariance(cost: &dyn Fn(&[f64]) -> Vec<f64>, x: &[f64]) -> DMatrix<f64> {
    let n = x.len();
    let columns: Vec<Vec<f64>> = (0..n)
        .map(|i| {
            let step = 1e-3;
            let mut probe = x.to_vec();
            probe[i] += step;
            let up = cost(&probe);
            probe[i] = x[i] - step;
            let down = cost(&probe);
            up.iter().zip(&down).map(|(a, b)| (a - b) / (2.0 * step)).collect()
        })
        .collect();
    let rows = columns.first().map_or(0, Vec::len);
    let jacobian = DMatrix::from_fn(rows, n, |r, c| columns[c][r]);
    let normal = jacobian.transpose() * jacobian;
    normal.clone().try_inverse().unwrap_or_else(|| DMatrix::identity(n, n))
}
