//! GEMM time by output tiles and waves.
//!
//! A library cuts the output into tiles, one per SM at a time (or per cluster of SMs), so a call
//! takes a whole number of waves: 133 tiles on 132 SMs take as long as 264. A tile costs its main
//! loop at a saturated rate and a fixed time for filling the pipeline and writing the result. Small
//! outputs are split along the reduction. Operands pass through the cache: a wave covers a
//! near-square block of tiles, whose operand panels are read from memory once, and once per call
//! where the smaller operand stays in the cache. Compute and memory time overlap. The library
//! takes its fastest kernel. Calls of many milliseconds run at the clock that the power limit
//! allows, shorter ones at a higher one.
//!
//! What the constants mean is stated here and nowhere else; `trainyard calibrate kernels` fits
//! them to measured shapes.

use crate::hardware::{Curve, TileConstants, TileShape};

/// Reduction lengths over which a library splits small outputs.
const SPLITS: [f64; 4] = [1.0, 2.0, 4.0, 8.0];
/// Elements of the reduction that a 16-bit main loop takes in at a time.
const STEP: f64 = 64.0;
/// Compute and memory time join as `(c^p + m^p)^(1/p)` with this p: at a tie the sum of the two is
/// a fifth above either, far from it the larger one counts.
const JOIN: i32 = 4;
/// Operand traffic per FLOP of a 256 x 128 tile, `(rows + columns) / (rows x columns)`.
const LARGE_TILE: f64 = (256.0 + 128.0) / (256.0 * 128.0);

/// Seconds of a call at which half of the slow-down under the power limit shows: the control loop
/// of the board acts within milliseconds, and the tables behind the fits repeat a call a few times.
const THROTTLE_TIME: f64 = 5e-3;

/// A GEMM as the model sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GemmShape {
    /// Rows of the output.
    pub m: f64,
    /// Columns of the output.
    pub n: f64,
    /// Reduction length.
    pub k: f64,
    /// Independent products in one call; their tiles fill the waves together.
    pub batch: f64,
    /// Bytes of an operand element.
    pub operand: f64,
    /// Bytes of a result element.
    pub result: f64,
    /// Largest power of two, in bytes, that divides every row of operands and result.
    pub alignment: f64,
}

/// The constants as plain numbers in SI units: what a fit moves.
#[derive(Clone, Debug, PartialEq)]
pub struct TileModel {
    /// SMs or CUs.
    pub units: f64,
    /// Dense peak of the operands' format, FLOP/s.
    pub peak: f64,
    /// Specified memory bandwidth, B/s.
    pub bandwidth: f64,
    /// Last-level cache, bytes.
    pub cache: f64,
    /// Tiles of the library.
    pub shapes: Vec<TileShape>,
    /// Fraction of peak in the main loop of a large tile.
    pub saturated: f64,
    /// Seconds per tile outside of the main loop.
    pub per_tile: f64,
    /// Seconds of a launch.
    pub floor: f64,
    /// Seconds added by a split reduction.
    pub split: f64,
    /// Fraction of memory bandwidth.
    pub memory: f64,
    /// Slow-down of small tiles per doubling of their operand traffic.
    pub small_tile: f64,
    /// Additional time, as a fraction, of calls much longer than 5 ms.
    pub throttled: f64,
    /// Factor on the rate by alignment in bytes.
    pub alignment: Option<Curve>,
}

impl TileModel {
    /// The model of an accelerator's file. `peak` and `saturated` of narrower formats are set by
    /// the caller.
    #[must_use]
    pub fn new(
        constants: &TileConstants,
        units: f64,
        peak: f64,
        bandwidth: f64,
        cache: f64,
    ) -> Self {
        Self {
            units,
            peak,
            bandwidth,
            cache,
            shapes: constants.shapes.clone(),
            saturated: constants.saturated.value.0,
            per_tile: constants.per_tile.value.0,
            floor: constants.floor.value.0,
            split: constants.split.value.0,
            memory: constants.memory.value.0,
            small_tile: constants.small_tile.value.0,
            throttled: constants.throttled.value.0,
            alignment: Some(constants.alignment.clone()),
        }
    }

    /// Seconds of a call.
    #[must_use]
    pub fn seconds(&self, shape: &GemmShape) -> f64 {
        if shape.m * shape.n * shape.k * shape.batch <= 0.0 {
            return self.floor;
        }
        let mut best = f64::INFINITY;
        for tile in &self.shapes {
            for split in SPLITS {
                if split > 1.0 && shape.k < 2.0 * split * STEP {
                    break;
                }
                best = best.min(self.with_kernel(shape, *tile, split));
            }
        }
        best * (1.0 + self.throttled * best / (best + THROTTLE_TIME))
    }

    /// Seconds of a call with one tile and split.
    fn with_kernel(&self, shape: &GemmShape, tile: TileShape, split: f64) -> f64 {
        let (rows, columns) = (f64::from(tile.rows), f64::from(tile.columns));
        let (down, across) = ((shape.m / rows).ceil(), (shape.n / columns).ceil());
        let step = STEP * (2.0 / shape.operand).max(1.0);
        let depth = (shape.k / split / step).ceil() * step;
        let slots = (self.units / f64::from(tile.units)).floor().max(1.0);
        let waves = (down * across * shape.batch * split / slots).ceil();

        let traffic = (rows + columns) / (rows * columns) / LARGE_TILE;
        let slower = 1.0 + self.small_tile * (traffic.log2()).max(0.0);
        let aligned = match &self.alignment {
            Some(curve) if shape.alignment < 16.0 => curve.at(shape.alignment),
            _ => 1.0,
        };
        let rate = self.peak / self.units * f64::from(tile.units) * self.saturated * aligned;
        let main_loop = 2.0 * rows * columns * depth * slower / rate;
        let compute = waves * (main_loop + self.per_tile);
        let memory =
            self.traffic(shape, rows, columns, slots, split) / (self.bandwidth * self.memory);
        let joined = (compute.powi(JOIN) + memory.powi(JOIN)).sqrt().sqrt();
        self.floor + joined + if split > 1.0 { self.split } else { 0.0 }
    }

    /// Bytes that go to and from memory.
    fn traffic(&self, shape: &GemmShape, rows: f64, columns: f64, slots: f64, split: f64) -> f64 {
        let (height, width) =
            ((shape.m / rows).ceil() * rows, (shape.n / columns).ceil() * columns);
        let once = (shape.m + shape.n) * shape.k * shape.operand;
        // The block of the output that one wave covers, as square as the output allows.
        let area = (height * width).min(slots * rows * columns);
        let block = area.sqrt().clamp(rows.min(height), height);
        let across = (area / block).min(width);
        let down = (area / across).min(height);
        let blocks = (height * width / (down * across)).max(1.0);
        let every_wave = blocks * (down + across) * shape.k * shape.operand;
        // The smaller operand stays in the cache for the whole call, or is read again by each wave.
        let panel = shape.m.min(shape.n) * shape.k * shape.operand;
        let again = if self.cache > 0.0 { (panel / self.cache - 1.0).clamp(0.0, 1.0) } else { 1.0 };
        let operands = once + again * (every_wave - once).max(0.0);
        let result = shape.m * shape.n * shape.result;
        // Parts of a split reduction are written and read in fp32.
        let parts = if split > 1.0 { 8.0 * split * shape.m * shape.n } else { 0.0 };
        shape.batch * (operands + result + parts)
    }
}

/// Largest power of two that divides `elements`, in bytes, up to 16: what vector loads and bulk
/// copies need is 16.
#[must_use]
pub fn alignment_of(elements: u64, bytes: f64) -> f64 {
    if elements == 0 {
        return 16.0;
    }
    ((1_u64 << elements.trailing_zeros().min(8)) as f64 * bytes).min(16.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> TileModel {
        let tile = |rows, columns, units| TileShape { rows, columns, units };
        TileModel {
            units: 132.0,
            peak: 989e12,
            bandwidth: 3.35e12,
            cache: 50e6,
            shapes: vec![tile(256, 128, 1), tile(128, 128, 1), tile(64, 64, 1)],
            saturated: 0.83,
            per_tile: 1.2e-6,
            floor: 1.7e-6,
            split: 1e-6,
            memory: 0.8,
            small_tile: 0.25,
            throttled: 0.1,
            alignment: None,
        }
    }

    fn square(m: f64, n: f64, k: f64) -> GemmShape {
        GemmShape { m, n, k, batch: 1.0, operand: 2.0, result: 2.0, alignment: 16.0 }
    }

    #[test]
    fn a_tile_more_than_a_wave_costs_a_wave() {
        let mut model = model();
        model.shapes.truncate(1);
        let full = model.seconds(&square(256.0 * 11.0, 128.0 * 12.0, 8192.0));
        let more = model.seconds(&square(256.0 * 11.0, 128.0 * 13.0, 8192.0));
        // Split reductions soften it; without any it would be twice.
        assert!(more > 1.3 * full, "{full} {more}");
    }

    #[test]
    fn alignment_is_counted_in_bytes() {
        let all = [(50257, 2.0, 2.0), (50258, 2.0, 4.0), (50304, 2.0, 16.0), (8, 1.0, 8.0)];
        for (elements, bytes, expected) in all {
            assert!((alignment_of(elements, bytes) - expected).abs() < 1e-12);
        }
    }
}
