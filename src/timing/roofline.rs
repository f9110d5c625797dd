//! Roofline with efficiency by size: the larger of compute time and memory time, where the
//! fraction of peak that is reached grows with the size of the call.

use crate::error::{Error, Result};
use crate::hardware::{Accelerator, Curve, Figure};
use crate::program::{AttentionPass, Kernel, Precision, Work};
use crate::units::{Flops, FlopsPerSecond, Seconds};

use super::memory::{MemoryModel, STREAM_UNCERTAINTY};
use super::{KernelSource, KernelTime, KernelTimes};

/// Head size for which the attention curves are given.
const CURVE_HEAD_DIM: f64 = 128.0;

/// Relative uncertainty where a curve does not state its spread.
const UNKNOWN_SPREAD: f64 = 0.2;

/// The model for one accelerator.
#[derive(Clone, Copy, Debug)]
pub struct Roofline<'a> {
    accelerator: &'a Accelerator,
}

impl<'a> Roofline<'a> {
    /// A roofline from the accelerator's figures.
    #[must_use]
    pub fn new(accelerator: &'a Accelerator) -> Self {
        Self { accelerator }
    }

    /// Dense peak of a precision.
    ///
    /// # Errors
    /// The accelerator's file has none.
    pub fn peak(&self, precision: Precision) -> Result<FlopsPerSecond> {
        let peak = &self.accelerator.peak;
        let figure: &Option<Figure<FlopsPerSecond>> = match precision {
            Precision::Fp32 => &peak.fp32,
            Precision::Bf16 => &peak.bf16,
            Precision::Fp16 => &peak.fp16,
            Precision::Fp8 => &peak.fp8,
            Precision::Fp4 => &peak.fp4,
        };
        figure.as_ref().map(|f| f.value).ok_or_else(|| Error::MissingFigure {
            what: format!(
                "{} has no {precision:?} peak rate, which training.precision needs",
                self.accelerator.title
            ),
            hint: format!(
                "choose a precision it supports, or add [peak.{}] to its file in hw-models",
                format!("{precision:?}").to_lowercase()
            ),
        })
    }

    fn gemm_curve(&self, precision: Precision) -> Result<&Curve> {
        let kernels = &self.accelerator.kernels;
        let missing = |name: &str| Error::MissingFigure {
            what: format!("{} has no [kernels.{name}] curve", self.accelerator.title),
            hint: "add one to its file in hw-models, with its source".into(),
        };
        match precision {
            Precision::Fp8 => kernels.gemm_fp8.as_ref().ok_or_else(|| missing("gemm_fp8")),
            Precision::Fp4 => kernels.gemm_fp4.as_ref().ok_or_else(|| missing("gemm_fp4")),
            _ => Ok(&kernels.gemm),
        }
    }

    fn memory_time(&self, bytes: f64) -> Seconds {
        MemoryModel::new(self.accelerator).transfer(bytes)
    }
}

impl KernelTimes for Roofline<'_> {
    fn time(&self, kernel: &Kernel) -> Result<KernelTime> {
        let floor = self.accelerator.kernels.floor.value;
        let flops = kernel.flops();
        let (time, extrapolated, spread) = match kernel.work {
            Work::Recorded { ns } => {
                return Ok(KernelTime {
                    time: crate::units::Nanos(ns).seconds(),
                    extrapolated: false,
                    uncertainty: 0.0,
                    source: KernelSource::Measured,
                });
            }
            Work::Stream { bytes, launches } => {
                let time = MemoryModel::new(self.accelerator).seconds(bytes as f64, launches);
                return Ok(KernelTime {
                    time,
                    extrapolated: false,
                    uncertainty: STREAM_UNCERTAINTY,
                    source: KernelSource::Modelled,
                });
            }
            Work::Gemm { m, n, k, batch, precision } => {
                // First the peak: a device without one does not support the precision at all.
                let peak = self.peak(precision)?;
                let curve = self.gemm_curve(precision)?;
                let rate = peak * curve.at(flops);
                let element = precision.bytes();
                // Operands in the given format, output in 16 bits (or fp32 for fp32).
                let output = element.max(2.0);
                let bytes =
                    batch as f64 * ((m * k + k * n) as f64 * element + (m * n) as f64 * output);
                (
                    (Flops(flops) / rate).max(self.memory_time(bytes)),
                    !curve.covers(flops),
                    curve.spread,
                )
            }
            Work::Attention {
                pass,
                batch,
                heads,
                kv_heads,
                queries,
                keys,
                head_dim,
                precision,
                ..
            } => {
                let kernels = &self.accelerator.kernels;
                let curve = match pass {
                    AttentionPass::Forward => &kernels.attention_forward,
                    AttentionPass::Backward => &kernels.attention_backward,
                };
                // Between head sizes 64 and 128 the factor is interpolated in the logarithm;
                // larger heads keep that of 128.
                let small = (CURVE_HEAD_DIM / head_dim as f64).log2().clamp(0.0, 1.0);
                let factor = kernels.attention_head_64.value.0.powf(small);
                let rate = self.peak(precision)? * (curve.at(keys as f64) * factor);
                let passes = if pass == AttentionPass::Forward { 1.0 } else { 2.0 };
                let bytes = passes
                    * batch as f64
                    * head_dim as f64
                    * precision.bytes()
                    * (2 * heads * queries + 2 * kv_heads * keys) as f64;
                (
                    (Flops(flops) / rate).max(self.memory_time(bytes)),
                    !curve.covers(keys as f64),
                    curve.spread,
                )
            }
        };
        let uncertainty = spread.unwrap_or(UNKNOWN_SPREAD);
        let source = KernelSource::Curve;
        Ok(KernelTime { time: time.max(floor), extrapolated, uncertainty, source })
    }
}
