//! Constants of the kernel models from measured GEMMs and attention calls.
//!
//! [`gemm`] and [`attention`] fit tables of [`crate::hardware::measured`] (robust least squares on the logarithm of
//! the time), [`mod@write`] puts constants into an accelerator's file, [`score`] says how far a
//! catalogue or a fit is from rows.

pub mod attention;
pub mod gemm;
pub mod score;
pub mod write;

/// Scale beyond which a residual of the logarithm counts less and less.
const ROBUST_SCALE: f64 = 0.05;

/// Median and 90th percentile of the absolute values, and median of the values, all in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Rows.
    pub rows: usize,
    /// Median absolute error.
    pub median: f64,
    /// 90th percentile of the absolute error.
    pub p90: f64,
    /// Median error; above 0: predicted too slow.
    pub bias: f64,
}

impl Spread {
    /// Of relative errors (predicted over measured, minus one).
    #[must_use]
    pub fn of(errors: &[f64]) -> Self {
        let quantile = |values: &[f64], q: f64| {
            let mut ascending = values.to_vec();
            ascending.sort_by(f64::total_cmp);
            let index = ((ascending.len() as f64 - 1.0) * q).round().max(0.0) as usize;
            ascending.get(index).copied().unwrap_or(f64::NAN) * 100.0
        };
        let absolute: Vec<f64> = errors.iter().map(|e| e.abs()).collect();
        Self {
            rows: errors.len(),
            median: quantile(&absolute, 0.5),
            p90: quantile(&absolute, 0.9),
            bias: quantile(errors, 0.5),
        }
    }
}
