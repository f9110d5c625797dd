//! The model that runs are timed with: tiles and blocks where an accelerator has constants for
//! them, the roofline's curves where it has none.

use crate::error::Result;
use crate::hardware::{Accelerator, AttentionConstants, TileConstants};
use crate::program::{AttentionPass, FusedAttention, Kernel, KernelClass, Precision, Work};
use crate::units::Seconds;

use super::attention::{AttentionShape, FlashModel};
use super::gemm::{GemmShape, TileModel, alignment_of};
use super::measured::MeasuredKernels;
use super::memory::{MemoryModel, STREAM_UNCERTAINTY};
use super::{KernelSource, KernelTime, KernelTimes, Roofline};

/// Dimensions of a GEMM that the tables behind the constants span; beyond a factor of four a time
/// counts as extrapolated.
const SMALLEST: u64 = 64;
const LARGEST: u64 = 4 * 65_536;
/// Relative uncertainty of a shape that no measured row is like.
const EXTRAPOLATED: f64 = 0.2;
/// Median absolute errors to one standard deviation of a normal distribution.
pub(super) const SIGMA_PER_MEDIAN: f64 = 1.4826;

/// Times kernels on one accelerator.
#[derive(Clone, Copy, Debug)]
pub struct KernelLibrary<'a> {
    accelerator: &'a Accelerator,
    roofline: Roofline<'a>,
    memory: MemoryModel<'a>,
    measured: Option<&'a MeasuredKernels>,
}

impl<'a> KernelLibrary<'a> {
    /// From what the accelerator's file holds.
    #[must_use]
    pub fn new(accelerator: &'a Accelerator) -> Self {
        Self {
            accelerator,
            roofline: Roofline::new(accelerator),
            memory: MemoryModel::new(accelerator),
            measured: None,
        }
    }

    /// The same with measured kernels before its models.
    #[must_use]
    pub fn with_measured(self, measured: Option<&'a MeasuredKernels>) -> Self {
        Self { measured, ..self }
    }

    /// The tile model for a format, where the accelerator has its constants; with whether the
    /// format is one that no row of the fit has.
    ///
    /// # Errors
    /// The accelerator has no peak rate for the format.
    pub fn tile_model(&self, precision: Precision) -> Result<Option<(TileModel, bool)>> {
        let peak = self.roofline.peak(precision)?.0;
        let (Some(constants), Some(units)) =
            (&self.accelerator.kernels.tiles, &self.accelerator.compute_units)
        else {
            return Ok(None);
        };
        let factor = match precision {
            Precision::Fp32 => return Ok(None),
            Precision::Bf16 | Precision::Fp16 => Some(1.0),
            Precision::Fp8 => constants.fp8.as_ref().map(|f| f.value.0),
            Precision::Fp4 => constants.fp4.as_ref().map(|f| f.value.0),
        };
        let Some(factor) = factor else { return Ok(None) };
        let memory = &self.accelerator.memory;
        let cache = memory.l2.as_ref().map_or(0.0, |l2| l2.value.0);
        let mut model =
            TileModel::new(constants, units.value.0, peak, memory.bandwidth.value.0, cache);
        model.saturated *= factor;
        Ok(Some((model, !matches!(precision, Precision::Bf16 | Precision::Fp16))))
    }

    /// Constants of an implementation of fused attention, or of the one that takes its place.
    fn attention_constants(&self, wanted: FusedAttention) -> Option<&'a AttentionConstants> {
        let all = &self.accelerator.kernels.attention;
        all.get(&wanted).or_else(|| all.get(&FusedAttention::Flash2))
    }

    fn gemm(&self, kernel: &Kernel, tiles: &TileConstants) -> Result<Option<KernelTime>> {
        let Work::Gemm { m, n, k, batch, precision } = kernel.work else { return Ok(None) };
        let Some((model, other_format)) = self.tile_model(precision)? else { return Ok(None) };
        let operand = precision.bytes();
        // Rows of operands and result run along n, and along k or m. Tokens of experts are rows of
        // no matrix, so of an expert's m and k only the layer's width counts.
        let align = |elements| alignment_of(elements, operand);
        let inner = if batch > 1 && kernel.class == KernelClass::Gemm {
            align(m).max(align(k))
        } else {
            align(m).min(align(k))
        };
        let shape = GemmShape {
            m: m as f64,
            n: n as f64,
            k: k as f64,
            batch: batch as f64,
            operand,
            result: operand.max(2.0),
            alignment: align(n).min(inner),
        };
        let outside = m.min(n).min(k) < SMALLEST || m.max(n).max(k) > LARGEST;
        let extrapolated = other_format || outside || shape.alignment < 16.0;
        Ok(Some(KernelTime {
            time: Seconds(model.seconds(&shape)),
            extrapolated,
            uncertainty: spread(tiles.fit.median_error_pct, extrapolated),
            source: KernelSource::Modelled,
        }))
    }

    fn attention(&self, kernel: &Kernel) -> Result<Option<KernelTime>> {
        let Work::Attention {
            pass,
            implementation,
            batch,
            heads,
            kv_heads,
            queries,
            keys,
            pairs,
            head_dim,
            value_dim,
            precision,
        } = kernel.work
        else {
            return Ok(None);
        };
        let (Some(constants), Some(units)) =
            (self.attention_constants(implementation), &self.accelerator.compute_units)
        else {
            return Ok(None);
        };
        if precision == Precision::Fp32 {
            return Ok(None);
        }
        let peak = self.roofline.peak(precision)?.0;
        let (of_pass, products, passes) = match pass {
            AttentionPass::Forward => (&constants.forward, (1.0, 1.0), 1.0),
            AttentionPass::Backward => (&constants.backward, (3.0, 2.0), 2.0),
        };
        let shape = AttentionShape {
            heads: (batch * heads) as f64,
            queries: queries as f64,
            keys: keys as f64,
            pairs: pairs as f64,
            head_dim,
            value_dim,
            products,
        };
        let compute = FlashModel::new(of_pass, units.value.0, peak).seconds(&shape);
        // Queries, output, keys, values; backward reads them and their gradients.
        let bytes = passes
            * batch as f64
            * precision.bytes()
            * ((head_dim + value_dim) as f64)
            * (heads * queries + kv_heads * keys) as f64;
        let size = head_dim.max(value_dim) as f64;
        let extrapolated = !of_pass.saturated.covers(size) || !(256..=65_536).contains(&keys);
        let floor = self.accelerator.kernels.floor.value;
        Ok(Some(KernelTime {
            time: floor + Seconds(compute).max(self.memory.transfer(bytes)),
            extrapolated,
            uncertainty: spread(constants.fit.median_error_pct, extrapolated),
            source: KernelSource::Modelled,
        }))
    }
}

/// One standard deviation from a fit's median absolute error, wider off the fitted shapes.
fn spread(median_error_pct: f64, extrapolated: bool) -> f64 {
    let fitted = SIGMA_PER_MEDIAN * median_error_pct / 100.0;
    if extrapolated { fitted.hypot(EXTRAPOLATED) } else { fitted }
}

impl KernelTimes for KernelLibrary<'_> {
    fn time(&self, kernel: &Kernel) -> Result<KernelTime> {
        let modelled = match kernel.work {
            Work::Gemm { .. } => match &self.accelerator.kernels.tiles {
                Some(tiles) => self.gemm(kernel, tiles)?,
                None => None,
            },
            Work::Attention { .. } => self.attention(kernel)?,
            Work::Stream { bytes, launches } => Some(KernelTime {
                time: self.memory.seconds(bytes as f64, launches),
                extrapolated: false,
                uncertainty: STREAM_UNCERTAINTY,
                source: KernelSource::Modelled,
            }),
            Work::Recorded { .. } => None,
        };
        let modelled = match modelled {
            Some(time) => time,
            None => self.roofline.time(kernel)?,
        };
        let refined = self.measured.and_then(|measured| measured.refine(kernel, modelled));
        Ok(refined.unwrap_or(modelled))
    }
}
