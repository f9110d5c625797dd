//! Small robust nonlinear least squares: Levenberg-Marquardt with a numerical Jacobian.
//!
//! Problems here have at most a dozen parameters and a few hundred residuals, so nothing clever is
//! needed. Parameters are usually logarithms of physical constants; prior knowledge enters as
//! further residuals `(x - prior) / sigma`.

use nalgebra::{DMatrix, DVector};

/// Dampens outliers: the loss grows as the logarithm of the squared residual (Cauchy) beyond
/// `scale`, and as its square below.
#[must_use]
pub fn cauchy(residual: f64, scale: f64) -> f64 {
    let x = residual / scale;
    scale * (1.0 + x * x).ln().sqrt() * x.signum()
}

/// Minimises the sum of squares of `residuals(x)` from `start`; returns the best point found and
/// its sum of squares. Stops when a step improves by less than 1e-10 relative, or after
/// `iterations` steps. Points at which a residual is not finite are never accepted.
#[must_use]
pub fn minimise(
    residuals: &dyn Fn(&[f64]) -> Vec<f64>,
    start: &[f64],
    iterations: usize,
) -> (Vec<f64>, f64) {
    let n = start.len();
    let cost_of = |r: &[f64]| {
        let sum: f64 = r.iter().map(|v| v * v).sum();
        if sum.is_finite() { sum } else { f64::INFINITY }
    };
    let mut x = start.to_vec();
    let mut r = residuals(&x);
    let mut cost = cost_of(&r);
    let mut damping = 1e-2;
    for _ in 0..iterations {
        let mut jacobian = DMatrix::<f64>::zeros(r.len(), n);
        for column in 0..n {
            let step = 1e-5 * x[column].abs().max(1.0);
            let mut probe = x.clone();
            probe[column] += step;
            let forward = residuals(&probe);
            probe[column] = x[column] - step;
            let backward = residuals(&probe);
            for row in 0..r.len() {
                let slope = (forward[row] - backward[row]) / (2.0 * step);
                jacobian[(row, column)] = if slope.is_finite() { slope } else { 0.0 };
            }
        }
        let gradient = jacobian.transpose() * DVector::from_column_slice(&r);
        let normal = jacobian.transpose() * &jacobian;
        let mut improved = false;
        for _ in 0..12 {
            let mut damped = normal.clone();
            for i in 0..n {
                damped[(i, i)] += damping * normal[(i, i)].max(1e-9);
            }
            let Some(step) = damped.cholesky().map(|c| c.solve(&gradient)) else {
                damping *= 10.0;
                continue;
            };
            let probe: Vec<f64> = x.iter().zip(step.iter()).map(|(a, b)| a - b).collect();
            let probe_r = residuals(&probe);
            let probe_cost = cost_of(&probe_r);
            if probe_cost < cost {
                let gain = (cost - probe_cost) / cost.max(1e-300);
                (x, r, cost) = (probe, probe_r, probe_cost);
                damping = (damping * 0.3).max(1e-9);
                improved = gain > 1e-10;
                break;
            }
            damping *= 4.0;
        }
        if !improved {
            break;
        }
    }
    (x, cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovers_an_exponential() {
        let data: Vec<(f64, f64)> =
            (0..20).map(|i| (f64::from(i), 3.0 * (-0.2 * f64::from(i)).exp() + 0.5)).collect();
        let residuals = |x: &[f64]| -> Vec<f64> {
            data.iter().map(|(t, y)| x[0] * (-x[1] * t).exp() + x[2] - y).collect()
        };
        let (x, cost) = minimise(&residuals, &[1.0, 1.0, 0.0], 100);
        assert!(cost < 1e-16, "{cost}");
        assert!((x[0] - 3.0).abs() < 1e-6 && (x[1] - 0.2).abs() < 1e-6);
    }

    #[test]
    fn an_outlier_hardly_moves_a_robust_fit() {
        let data = [1.0, 1.1, 0.9, 1.0, 50.0];
        let residuals =
            |x: &[f64]| -> Vec<f64> { data.iter().map(|y| cauchy(x[0] - y, 0.1)).collect() };
        let (x, _) = minimise(&residuals, &[1.2], 100);
        assert!((x[0] - 1.0).abs() < 0.05, "{x:?}");
    }
}
