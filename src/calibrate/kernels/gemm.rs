//! Fit of the tile model's seven constants to measured GEMMs.

use super::{ROBUST_SCALE, Spread};
use crate::calibrate::least_squares::{cauchy, minimise};
use crate::error::{Error, Result};
use crate::hardware::measured::GemmRow;
use crate::hardware::{Accelerator, Curve, TileShape};
use crate::program::Precision;
use crate::timing::{GemmShape, TileModel, alignment_of};

/// Starting points: saturated fraction, per tile, floor and split in microseconds, memory
/// fraction, small-tile slow-down, throttling. The constants are far apart between architectures, and the
/// model has steps, so one start is not enough.
const STARTS: [[f64; 7]; 4] = [
    [0.83, 1.2, 1.7, 1.0, 0.8, 0.2, 0.15],
    [0.88, 4.0, 0.7, 1.8, 0.73, 0.02, 0.05],
    [0.70, 0.3, 1.8, 2.6, 0.70, 0.3, 0.1],
    [0.78, 0.6, 2.2, 1.5, 0.78, 0.1, 0.1],
];

/// A fitted model.
#[derive(Clone, Debug)]
pub struct GemmFit {
    /// The model with its constants.
    pub model: TileModel,
    /// Rows used.
    pub rows: usize,
    /// Their errors.
    pub spread: Spread,
}

/// Tiles of the vendor's library on an architecture. From Hopper on two SMs share a tile of the
/// largest kind.
#[must_use]
pub fn library_tiles(architecture: &str) -> Vec<TileShape> {
    let tile = |rows, columns, units| TileShape { rows, columns, units };
    let mut tiles = vec![
        tile(256, 128, 1),
        tile(128, 256, 1),
        tile(128, 128, 1),
        tile(128, 64, 1),
        tile(64, 128, 1),
        tile(64, 64, 1),
    ];
    if ["hopper", "blackwell"].contains(&architecture) {
        tiles.extend([tile(256, 256, 2), tile(256, 128, 2)]);
    } else {
        tiles.push(tile(256, 256, 1));
    }
    tiles
}

/// Factor on the rate by alignment. No table at hand has unaligned rows, so these are assumed:
/// loads narrower than 16 bytes go through registers (no asynchronous or bulk copies).
///
/// # Errors
/// Never; the numbers are constants that a curve accepts.
pub fn alignment_curve() -> Result<Curve> {
    let text = "points = [[2.0, 0.42], [4.0, 0.6], [8.0, 0.8], [16.0, 1.0]]\n\
                x = \"B\"\ny = \"factor on the rate\"\nkind = \"assumed\"\n\
                source = \"misaligned\"\nspread = 0.3\nnote = \"\"";
    toml::from_str(text).map_err(|e| Error::Internal(e.to_string()))
}

/// A row as the model sees it.
#[must_use]
pub fn shape_of(row: &GemmRow, operand: f64) -> GemmShape {
    shape((row.m, row.n, row.k, row.batch), operand)
}

/// A shape from m, n, k and the number of products; `operand` bytes per element.
#[must_use]
pub fn shape((m, n, k, batch): (u64, u64, u64, u64), operand: f64) -> GemmShape {
    let align = |elements| alignment_of(elements, operand);
    GemmShape {
        m: m as f64,
        n: n as f64,
        k: k as f64,
        batch: batch as f64,
        operand,
        result: operand.max(2.0),
        alignment: align(m).min(align(n)).min(align(k)),
    }
}

fn set(model: &mut TileModel, x: &[f64]) {
    model.saturated = x[0].exp();
    model.per_tile = x[1].exp() * 1e-6;
    model.floor = x[2].exp() * 1e-6;
    model.split = x[3].exp() * 1e-6;
    model.memory = x[4].exp();
    model.small_tile = x[5].exp();
    model.throttled = x[6].exp();
}

/// Fits the constants to 16-bit rows of one accelerator.
///
/// # Errors
/// There are fewer than 30 rows, or the accelerator's file lacks its 16-bit peak or number of
/// units.
pub fn fit(accelerator: &Accelerator, rows: &[&GemmRow]) -> Result<GemmFit> {
    let missing = |what: &str| Error::MissingFigure {
        what: format!("{} has no {what}, which the tile model needs", accelerator.title),
        hint: "add it to its file in hw-models, with its source".into(),
    };
    let wide = |row: &&&GemmRow| {
        matches!(row.precision(), Some(Precision::Bf16 | Precision::Fp16)) && row.batch == 1
    };
    let cases: Vec<(GemmShape, f64)> =
        rows.iter().filter(wide).map(|row| (shape_of(row, 2.0), row.time_us * 1e-6)).collect();
    if cases.len() < 30 {
        return Err(Error::Missing(format!(
            "{} rows of 16-bit GEMMs on {} are too few for a fit of seven constants\n  help: give \
             at least 30, from small to large in each of m, n and k",
            cases.len(),
            accelerator.name
        )));
    }
    let peak = accelerator.peak.bf16.as_ref().or(accelerator.peak.fp16.as_ref());
    let units = accelerator.compute_units.as_ref();
    let mut model = TileModel {
        units: units.ok_or_else(|| missing("compute_units"))?.value.0,
        peak: peak.ok_or_else(|| missing("16-bit peak"))?.value.0,
        bandwidth: accelerator.memory.bandwidth.value.0,
        cache: accelerator.memory.l2.as_ref().map_or(0.0, |l2| l2.value.0),
        shapes: library_tiles(&accelerator.architecture),
        saturated: 0.0,
        per_tile: 0.0,
        floor: 0.0,
        split: 0.0,
        memory: 0.0,
        small_tile: 0.0,
        throttled: 0.0,
        alignment: Some(alignment_curve()?),
    };
    let residuals = |x: &[f64]| -> Vec<f64> {
        let mut trial = model.clone();
        set(&mut trial, x);
        let errors = cases.iter().map(|(shape, measured)| {
            cauchy((trial.seconds(shape) / measured).ln() / ROBUST_SCALE, 1.0)
        });
        // Fractions of a peak stay below it; times and the slow-down do not run off to zero.
        let walls = [
            (x[0] - 0.98_f64.ln()).max(0.0),
            (x[4] - 0.98_f64.ln()).max(0.0),
            (0.05_f64.ln() - x[1]).max(0.0),
            (0.3_f64.ln() - x[2]).max(0.0),
            (0.01_f64.ln() - x[5]).max(0.0),
            (x[5] - 1.0_f64.ln()).max(0.0),
            (0.01_f64.ln() - x[6]).max(0.0),
            (x[6] - 0.4_f64.ln()).max(0.0),
        ];
        errors.chain(walls.into_iter().map(|wall| 300.0 * wall)).collect()
    };
    let mut best: Option<(Vec<f64>, f64)> = None;
    for start in STARTS {
        let start: Vec<f64> = start.iter().map(|value| value.ln()).collect();
        let (x, cost) = search(&residuals, &start);
        if best.as_ref().is_none_or(|(_, least)| cost < *least) {
            best = Some((x, cost));
        }
    }
    if let Some((x, _)) = best {
        set(&mut model, &x);
    }
    let errors: Vec<f64> =
        cases.iter().map(|(shape, measured)| model.seconds(shape) / measured - 1.0).collect();
    Ok(GemmFit { rows: cases.len(), spread: Spread::of(&errors), model })
}

/// Least squares, and a search along the axes where steps of the model mislead its slopes.
fn search(residuals: &dyn Fn(&[f64]) -> Vec<f64>, start: &[f64]) -> (Vec<f64>, f64) {
    let cost = |x: &[f64]| residuals(x).iter().map(|r| r * r).sum::<f64>();
    let (mut x, mut least) = minimise(residuals, start, 40);
    let mut step = 0.2;
    while step > 1e-3 {
        let mut moved = false;
        for axis in 0..x.len() {
            for direction in [step, -step] {
                let mut trial = x.clone();
                trial[axis] += direction;
                let trial_cost = cost(&trial);
                if trial_cost < least {
                    (x, least, moved) = (trial, trial_cost, true);
                }
            }
        }
        if !moved {
            step *= 0.5;
        }
    }
    minimise(residuals, &x, 20)
}
