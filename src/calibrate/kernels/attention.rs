//! Fit of the block model's constants to measured attention rates.
//!
//! Sources print forward rates, or those of forward and backward together. Where an implementation
//! has both, both passes are fitted. Where it has forward only, its backward keeps the quotient of
//! `FlashAttention-2` on the same accelerator; where it has the sum only, forward and backward keep
//! the quotient of another accelerator on which both are known.

use std::collections::BTreeMap;

use super::{ROBUST_SCALE, Spread};
use crate::calibrate::least_squares::{cauchy, minimise};
use crate::error::{Error, Result};
use crate::hardware::measured::{AttentionRow, hash};
use crate::hardware::{Accelerator, Catalogue, Curve, Kind};
use crate::program::FusedAttention;
use crate::timing::{AttentionShape, FlashModel};

/// Times of the first generation over those of the second, forward and backward: 1.3 to 1.5 and
/// about 2 (Dao 2023, section 4.1, "`FlashAttention` in Triton").
pub const TRITON: [f64; 2] = [1.4, 2.0];

/// Constants of both passes of an implementation on an accelerator.
#[derive(Clone, Debug)]
pub struct AttentionFit {
    /// Forward.
    pub forward: FlashModel,
    /// Backward.
    pub backward: FlashModel,
    /// Rows of both.
    pub rows: usize,
    /// Hash of those rows.
    pub hash: String,
    /// Their errors.
    pub spread: Spread,
    /// Where backward (or its share of a sum) was taken from, if no row says.
    pub borrowed: Option<String>,
}

/// Fits by accelerator and implementation.
pub type Fits = BTreeMap<(String, FusedAttention), AttentionFit>;

/// A row's call in one direction.
#[must_use]
pub fn shape_of(row: &AttentionRow, backward: bool) -> AttentionShape {
    let s = row.seqlen as f64;
    AttentionShape {
        heads: (row.batch() * row.heads()) as f64,
        queries: s,
        keys: s,
        pairs: if row.causal() { s * (s + 1.0) / 2.0 } else { s * s },
        head_dim: row.head_dim,
        value_dim: row.head_dim,
        products: if backward { (3.0, 2.0) } else { (1.0, 1.0) },
    }
}

fn curve(sizes: &[u64], values: &[f64]) -> Curve {
    Curve {
        points: sizes.iter().zip(values).map(|(size, value)| [*size as f64, *value]).collect(),
        x: "head size".into(),
        y: "fraction of dense 16-bit peak".into(),
        kind: Kind::Derived,
        source: "kernel-fit".into(),
        fit_set: None,
        spread: None,
        note: None,
    }
}

/// Head sizes of rows, ascending.
fn sizes(rows: &[&AttentionRow]) -> Vec<u64> {
    let mut all: Vec<u64> = rows.iter().map(|row| row.head_dim).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// One pass: a fraction per head size, the prologue and the factor of the mask.
fn fit_pass(
    device: (f64, f64),
    sizes: &[u64],
    seconds: &dyn Fn(&FlashModel, &AttentionRow) -> f64,
    rows: &[&AttentionRow],
) -> FlashModel {
    let model_of = |x: &[f64]| {
        let fractions: Vec<f64> = x[2..].iter().map(|v| v.exp()).collect();
        FlashModel {
            units: device.0,
            peak: device.1,
            saturated: curve(sizes, &fractions),
            prologue: x[0].exp(),
            causal: x[1].exp(),
        }
    };
    let residuals = |x: &[f64]| -> Vec<f64> {
        let model = model_of(x);
        let errors = rows
            .iter()
            .map(|row| cauchy((seconds(&model, row) / row.seconds()).ln() / ROBUST_SCALE, 1.0));
        // The mask never helps.
        errors.chain([100.0 * (-x[1]).max(0.0)]).collect()
    };
    let mut start = vec![150_f64.ln(), 0.05];
    start.extend(sizes.iter().map(|_| 0.5_f64.ln()));
    model_of(&minimise(&residuals, &start, 200).0)
}

/// Backward from forward: the lender's quotient of fractions and its mask; blocks start and end no
/// faster than forward's or the lender's.
fn scaled(forward: &FlashModel, from: &AttentionFit) -> FlashModel {
    let mut backward = forward.clone();
    for point in &mut backward.saturated.points {
        point[1] *= from.backward.saturated.at(point[0]) / from.forward.saturated.at(point[0]);
    }
    backward.prologue = backward.prologue.max(from.backward.prologue);
    backward.causal = from.backward.causal;
    backward
}

/// The inverse of [`scaled`].
fn unscaled(backward: &FlashModel, from: &AttentionFit) -> FlashModel {
    let mut forward = backward.clone();
    for point in &mut forward.saturated.points {
        point[1] *= from.forward.saturated.at(point[0]) / from.backward.saturated.at(point[0]);
    }
    forward.prologue = forward.prologue.min(from.forward.prologue);
    forward.causal = from.forward.causal;
    forward
}

/// Seconds of a row by fitted constants, launches counted.
#[must_use]
pub fn seconds(fit: &AttentionFit, floor: f64, row: &AttentionRow) -> f64 {
    let forward = fit.forward.seconds(&shape_of(row, false)) + floor;
    let backward = fit.backward.seconds(&shape_of(row, true)) + floor;
    match row.pass_.as_str() {
        "fwd" => forward,
        "bwd" => backward,
        _ => forward + backward,
    }
}

fn device(accelerator: &Accelerator) -> Result<(f64, f64)> {
    let peak = accelerator.peak.bf16.as_ref().or(accelerator.peak.fp16.as_ref());
    match (&accelerator.compute_units, peak) {
        (Some(units), Some(peak)) => Ok((units.value.0, peak.value.0)),
        _ => Err(Error::MissingFigure {
            what: format!("{} has no compute_units or 16-bit peak", accelerator.title),
            hint: "the attention model needs both; add them to its file in hw-models".into(),
        }),
    }
}

/// Fits every implementation of every accelerator that the rows name.
///
/// # Errors
/// An accelerator is not in the catalogue or lacks its peak or number of units.
pub fn fit(catalogue: &Catalogue, rows: &[&AttentionRow]) -> Result<Fits> {
    let mut groups: BTreeMap<(String, FusedAttention), Vec<&AttentionRow>> = BTreeMap::new();
    for row in rows {
        if let Some(fused) = row.fused() {
            let name = catalogue.accelerator(&row.accelerator)?.name.clone();
            groups.entry((name, fused)).or_default().push(row);
        }
    }
    let mut fits = Fits::new();
    // First what has both passes, then what borrows from it.
    for both in [true, false] {
        for (key, rows) in &groups {
            let of = |pass: &str| -> Vec<&AttentionRow> {
                rows.iter().copied().filter(|row| row.pass_ == pass).collect()
            };
            let (forward_rows, sum_rows) = (of("fwd"), of("fwd+bwd"));
            if both != (!forward_rows.is_empty() && !sum_rows.is_empty()) {
                continue;
            }
            let accelerator = catalogue.accelerator(&key.0)?;
            let device = device(accelerator)?;
            let floor = accelerator.kernels.floor.value.0;
            let lender = fits
                .get(&(key.0.clone(), FusedAttention::Flash2))
                .or_else(|| fits.iter().find(|(k, _)| k.1 == FusedAttention::Flash2).map(|f| f.1))
                .cloned();
            let (forward, backward, borrowed) = if !forward_rows.is_empty() {
                let forward = fit_pass(
                    device,
                    &sizes(&forward_rows),
                    &|model, row| model.seconds(&shape_of(row, false)) + floor,
                    &forward_rows,
                );
                if both {
                    let first = forward.clone();
                    let backward = fit_pass(
                        device,
                        &sizes(&sum_rows),
                        &|model, row| {
                            first.seconds(&shape_of(row, false))
                                + model.seconds(&shape_of(row, true))
                                + 2.0 * floor
                        },
                        &sum_rows,
                    );
                    (forward, backward, None)
                } else {
                    let Some(lender) = &lender else { continue };
                    let backward = scaled(&forward, lender);
                    (forward, backward, Some("backward over forward as FlashAttention-2"))
                }
            } else {
                let Some(lender) = &lender else { continue };
                let backward = fit_pass(
                    device,
                    &sizes(&sum_rows),
                    &|model, row| {
                        unscaled(model, lender).seconds(&shape_of(row, false))
                            + model.seconds(&shape_of(row, true))
                            + 2.0 * floor
                    },
                    &sum_rows,
                );
                let forward = unscaled(&backward, lender);
                (forward, backward, Some("backward over forward as on an accelerator with both"))
            };
            let mut fitted = AttentionFit {
                forward,
                backward,
                rows: rows.len(),
                hash: hash(rows.iter().map(|row| row.key()).collect()),
                spread: Spread::default(),
                borrowed: borrowed.map(str::to_owned),
            };
            let errors: Vec<f64> =
                rows.iter().map(|row| seconds(&fitted, floor, row) / row.seconds() - 1.0).collect();
            fitted.spread = Spread::of(&errors);
            fits.insert(key.clone(), fitted);
        }
    }
    Ok(fits)
}

/// The first generation from the second, where no row has it.
#[must_use]
pub fn triton(second: &AttentionFit) -> AttentionFit {
    let mut first = second.clone();
    for (model, slower) in [(&mut first.forward, TRITON[0]), (&mut first.backward, TRITON[1])] {
        for point in &mut model.saturated.points {
            point[1] /= slower;
        }
    }
    first.borrowed = Some("FlashAttention-2 times 1.4 forward and 2 backward".into());
    first
}
