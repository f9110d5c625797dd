//! Errors of predictions against measurements, beside those of a null model.
//!
//! The error of a row is predicted over measured step time, less one: negative means predicted too
//! fast. Rows that share a base are one configuration at several scales and count once, with the
//! median of their errors.
//!
//! The null model predicts a row by the median of 6 x parameters x tokens/s/device over the other
//! bases of the same family and number format.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Outcome;
use super::predict::Status;

/// Summary of absolute and signed errors, as fractions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Errors {
    /// Bases that count.
    pub bases: usize,
    /// Mean absolute error.
    pub mape: f64,
    /// Median absolute error.
    pub median: f64,
    /// 90th percentile of the absolute error.
    pub p90: f64,
    /// Mean signed error.
    pub bias: f64,
}

impl Errors {
    /// Summary of (absolute, signed) errors, one pair per base.
    #[must_use]
    pub fn of(pairs: &[(f64, f64)]) -> Option<Self> {
        if pairs.is_empty() {
            return None;
        }
        let count = pairs.len() as f64;
        let absolute: Vec<f64> = pairs.iter().map(|pair| pair.0).collect();
        Some(Self {
            bases: pairs.len(),
            mape: absolute.iter().sum::<f64>() / count,
            median: quantile(&absolute, 0.5),
            p90: quantile(&absolute, 0.9),
            bias: pairs.iter().map(|pair| pair.1).sum::<f64>() / count,
        })
    }
}

/// How well the 90 % intervals of predictions hold what was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Intervals {
    /// Rows that count: every scored row, whatever its base.
    pub rows: usize,
    /// Share of them whose measured step lies in the interval.
    pub held: f64,
    /// Median of half the width of the interval over the prediction.
    pub half_width: f64,
}

impl Intervals {
    /// Summary of (held, half width) pairs.
    #[must_use]
    pub fn of(pairs: &[(bool, f64)]) -> Option<Self> {
        if pairs.is_empty() {
            return None;
        }
        let widths: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
        let held = pairs.iter().filter(|pair| pair.0).count();
        Some(Self {
            rows: pairs.len(),
            held: held as f64 / pairs.len() as f64,
            half_width: quantile(&widths, 0.5),
        })
    }
}

/// Whether a row's measured step lies in the interval of its prediction, and half the interval's
/// width relative to the prediction.
#[must_use]
pub fn held(outcome: &Outcome) -> Option<(bool, f64)> {
    let (step, (low, high)) = (outcome.prediction.step_s?, outcome.prediction.interval_s?);
    let measured = step / (1.0 + error_of(outcome)?);
    Some((low <= measured && measured <= high, (high - low) / 2.0 / step))
}

/// Quantile by linear interpolation between order statistics.
#[must_use]
pub fn quantile(values: &[f64], q: f64) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = q * (sorted.len() - 1) as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (sorted[high] - sorted[low]) * part
}

/// Scores of a family or of one source in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    /// Hardware family.
    pub family: String,
    /// Source; empty for the whole family.
    pub source: String,
    /// Rows read.
    pub rows: usize,
    /// Rows that are meant to be scored.
    pub scoreable: usize,
    /// Of those, rows predicted.
    pub covered: usize,
    /// Rows left out because a figure was fitted on them or on their base.
    pub fitted: usize,
    /// Predicted rows that need more memory than the device has.
    pub does_not_fit: usize,
    /// Bases of the rows read.
    pub bases: usize,
    /// Errors of the predictions.
    pub errors: Option<Errors>,
    /// Errors of the null model on the same rows.
    pub null: Option<Errors>,
    /// The predictions' intervals on the same rows.
    pub intervals: Option<Intervals>,
}

impl Score {
    /// Covered over scoreable rows.
    #[must_use]
    pub fn coverage(&self) -> Option<f64> {
        (self.scoreable > 0).then(|| self.covered as f64 / self.scoreable as f64)
    }
}

/// Signed error of a row: predicted over measured step time, less one.
#[must_use]
pub fn error_of(outcome: &Outcome) -> Option<f64> {
    let prediction = &outcome.prediction;
    let by_time = || Some(prediction.step_s? / outcome.measured.step_seconds?);
    let by_rate = || {
        Some(outcome.measured.tokens_per_second_per_device? / prediction.tokens_per_s_per_device?)
    };
    by_time().or_else(by_rate).map(|ratio| ratio - 1.0)
}

/// 6 x parameters x tokens/s/device as measured.
fn achieved(outcome: &Outcome) -> Option<f64> {
    let scale = outcome.prediction.scale.as_ref()?;
    let rate = match outcome.measured.step_seconds {
        Some(seconds) => scale.tokens / seconds / scale.devices,
        None => outcome.measured.tokens_per_second_per_device?,
    };
    Some(6.0 * scale.parameters * rate)
}

/// Errors of the null model by row index.
fn null_errors(outcomes: &[Outcome], scored: &[usize]) -> BTreeMap<usize, f64> {
    // Family and format, then base, to the achieved rates of its rows.
    let mut rates: BTreeMap<(&str, &str), BTreeMap<&str, Vec<f64>>> = BTreeMap::new();
    let key = |outcome: &'_ Outcome| -> Option<(String, String)> {
        let scale = outcome.prediction.scale.as_ref()?;
        Some((outcome.family.clone(), scale.precision.clone()))
    };
    let keys: Vec<Option<(String, String)>> = outcomes.iter().map(key).collect();
    for &i in scored {
        if let (Some(key), Some(rate)) = (&keys[i], achieved(&outcomes[i])) {
            rates
                .entry((&key.0, &key.1))
                .or_default()
                .entry(outcomes[i].labels.base.as_str())
                .or_default()
                .push(rate);
        }
    }
    let mut errors = BTreeMap::new();
    for &i in scored {
        let (Some(key), Some(rate)) = (&keys[i], achieved(&outcomes[i])) else { continue };
        let Some(bases) = rates.get(&(key.0.as_str(), key.1.as_str())) else { continue };
        let others: Vec<f64> = bases
            .iter()
            .filter(|(base, _)| **base != outcomes[i].labels.base)
            .map(|(_, rates)| quantile(rates, 0.5))
            .collect();
        if !others.is_empty() {
            // A higher rate is a shorter step.
            errors.insert(i, rate / quantile(&others, 0.5) - 1.0);
        }
    }
    errors
}

/// One (absolute, signed) pair per base: medians over its rows.
fn per_base(outcomes: &[Outcome], errors: &[(usize, f64)]) -> Vec<(f64, f64)> {
    let mut bases: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (i, error) in errors {
        bases.entry(outcomes[*i].labels.base.as_str()).or_default().push(*error);
    }
    bases
        .values()
        .map(|errors| {
            let absolute: Vec<f64> = errors.iter().map(|e| e.abs()).collect();
            (quantile(&absolute, 0.5), quantile(errors, 0.5))
        })
        .collect()
}

/// Scores by family, each followed by its sources, in alphabetical order.
#[must_use]
pub fn scores(outcomes: &[Outcome]) -> Vec<Score> {
    // Rows that figures were fitted on take their whole base with them.
    let fitted: BTreeSet<&str> =
        outcomes.iter().filter(|o| o.fitted).map(|o| o.labels.base.as_str()).collect();
    let scored: Vec<usize> = (0..outcomes.len())
        .filter(|&i| {
            outcomes[i].labels.scored
                && outcomes[i].prediction.status == Status::Ok
                && !fitted.contains(outcomes[i].labels.base.as_str())
        })
        .collect();
    let null = null_errors(outcomes, &scored);
    let mut groups: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for (i, outcome) in outcomes.iter().enumerate() {
        let family = outcome.family.as_str();
        groups.entry((family, "")).or_default().push(i);
        let source = match outcome.labels.source_group.as_str() {
            "" => "(no source_group)",
            source => source,
        };
        groups.entry((family, source)).or_default().push(i);
    }
    groups
        .into_iter()
        .map(|((family, source), rows)| {
            let scoreable: Vec<usize> =
                rows.iter().copied().filter(|&i| outcomes[i].labels.scored).collect();
            let is_ok = |i: usize| outcomes[i].prediction.status == Status::Ok;
            let errors: Vec<(usize, f64)> = scoreable
                .iter()
                .filter(|&&i| is_ok(i) && !fitted.contains(outcomes[i].labels.base.as_str()))
                .filter_map(|&i| Some((i, error_of(&outcomes[i])?)))
                .collect();
            let nulls: Vec<(usize, f64)> =
                errors.iter().filter_map(|(i, _)| Some((*i, *null.get(i)?))).collect();
            let bases: BTreeSet<&str> =
                rows.iter().map(|&i| outcomes[i].labels.base.as_str()).collect();
            Score {
                family: family.to_owned(),
                source: source.to_owned(),
                rows: rows.len(),
                scoreable: scoreable.len(),
                covered: scoreable.iter().filter(|&&i| is_ok(i)).count(),
                fitted: rows
                    .iter()
                    .filter(|&&i| fitted.contains(outcomes[i].labels.base.as_str()))
                    .count(),
                does_not_fit: rows
                    .iter()
                    .filter(|&&i| outcomes[i].prediction.does_not_fit())
                    .count(),
                bases: bases.len(),
                errors: Errors::of(&per_base(outcomes, &errors)),
                null: Errors::of(&per_base(outcomes, &nulls)),
                intervals: Intervals::of(
                    &errors.iter().filter_map(|(i, _)| held(&outcomes[*i])).collect::<Vec<_>>(),
                ),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        assert!((quantile(&[3.0, 1.0, 2.0], 0.5) - 2.0).abs() < 1e-12);
        assert!((quantile(&[1.0, 2.0], 0.5) - 1.5).abs() < 1e-12);
        assert!((quantile(&[0.0, 10.0], 0.9) - 9.0).abs() < 1e-12);
    }
}
