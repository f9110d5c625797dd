//! How far predictions are from measured kernels.

use std::collections::BTreeMap;

use super::{Spread, attention, gemm};
use crate::error::{Error, Result};
use crate::hardware::measured::{AttentionRow, GemmRow, held_out};
use crate::hardware::{Accelerator, Catalogue};
use crate::program::{FusedAttention, Kernel, KernelClass, Precision, Work};
use crate::timing::{
    KernelLibrary, KernelSource, KernelTime, KernelTimes, MeasuredKernels, TileModel, Timing,
};
use crate::units::Seconds;

/// A scored row: where it counts and its relative error.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Catalogue name of the accelerator.
    pub accelerator: String,
    /// Classes that the row belongs to.
    pub classes: Vec<&'static str>,
    /// Predicted over measured time, minus one.
    pub error: f64,
}

/// Errors by accelerator and class, in that order.
#[must_use]
pub fn table(scored: &[Scored]) -> BTreeMap<(String, &'static str), Spread> {
    let mut errors: BTreeMap<(String, &'static str), Vec<f64>> = BTreeMap::new();
    for row in scored {
        for class in &row.classes {
            errors.entry((row.accelerator.clone(), class)).or_default().push(row.error);
        }
    }
    errors.into_iter().map(|(key, errors)| (key, Spread::of(&errors))).collect()
}

/// Shapes that differ in what bounds them.
fn gemm_classes(row: &GemmRow) -> Vec<&'static str> {
    let least = row.m.min(row.n).min(row.k);
    let flops = 2.0 * (row.m * row.n) as f64 * row.k as f64;
    let mut classes = vec!["all"];
    if least >= 1024 {
        classes.push("m, n, k >= 1024");
    }
    if least >= 1024 && flops >= 1e12 {
        classes.push("of these, 1 TFLOP and more");
    }
    if row.m <= 512 {
        classes.push("m <= 512");
    }
    if row.k < 1024 && row.m.min(row.n) >= 1024 {
        classes.push("m, n >= 1024, k < 1024");
    }
    if row.n >= 32_768 && least >= 1024 {
        classes.push("n >= 32768 (vocabulary)");
    }
    classes
}

/// Scores GEMMs with the catalogue's constants; rows of an unknown accelerator or format come back
/// as reasons.
pub fn gemms(catalogue: &Catalogue, rows: &[GemmRow]) -> (Vec<Scored>, Vec<String>) {
    let (mut scored, mut refused) = (Vec::new(), Vec::new());
    for row in rows {
        let time = catalogue.accelerator(&row.accelerator).and_then(|accelerator| {
            let kernel = row
                .kernel()
                .ok_or_else(|| Error::Unsupported(format!("format `{}`", row.dtype)))?;
            let time = KernelLibrary::new(accelerator).time(&kernel)?;
            Ok((accelerator.name.clone(), time.time.0))
        });
        match time {
            Ok((accelerator, time)) => scored.push(Scored {
                accelerator,
                classes: gemm_classes(row),
                error: time / (row.time_us * 1e-6) - 1.0,
            }),
            Err(error) => refused.push(error.to_string()),
        }
    }
    (scored, refused)
}

/// A tile model whose constants were fitted on some of the rows.
struct Fitted<'a>(&'a TileModel);

impl KernelTimes for Fitted<'_> {
    fn time(&self, kernel: &Kernel) -> Result<KernelTime> {
        let Work::Gemm { m, n, k, batch, precision } = kernel.work else {
            return Err(Error::Internal("not a GEMM".into()));
        };
        let shape = gemm::shape((m, n, k, batch), precision.bytes());
        Ok(KernelTime {
            time: Seconds(self.0.seconds(&shape)),
            extrapolated: false,
            uncertainty: 0.0,
            source: KernelSource::Modelled,
        })
    }
}

/// Scores half of the GEMMs (by hash) with constants fitted on the other half: by the model alone,
/// and with the other half as measured kernels before it.
///
/// # Errors
/// An accelerator lacks a figure, or has too few rows.
pub fn held_out_gemms(
    catalogue: &Catalogue,
    rows: &[GemmRow],
) -> Result<(Vec<Scored>, Vec<Scored>)> {
    let mut groups: BTreeMap<String, (&Accelerator, Vec<&GemmRow>)> = BTreeMap::new();
    for row in rows {
        if let Ok(accelerator) = catalogue.accelerator(&row.accelerator) {
            let group = groups.entry(accelerator.name.clone());
            group.or_insert_with(|| (accelerator, Vec::new())).1.push(row);
        }
    }
    let (mut modelled, mut interpolated) = (Vec::new(), Vec::new());
    for (name, (accelerator, rows)) in groups {
        let (out, fitted): (Vec<&GemmRow>, Vec<&GemmRow>) =
            rows.into_iter().partition(|row| held_out(&row.key()));
        let fit = gemm::fit(accelerator, &fitted)?;
        let model = Fitted(&fit.model);
        let sixteen =
            |row: &&&GemmRow| matches!(row.precision(), Some(Precision::Bf16 | Precision::Fp16));
        let timings: Vec<Timing> = fitted
            .iter()
            .filter(sixteen)
            .map(|row| Timing {
                kernels: row.kernel().into_iter().collect(),
                seconds: row.time_us * 1e-6,
            })
            .collect();
        let measured = MeasuredKernels::new(&model, &timings)?;
        for row in out.iter().filter(sixteen) {
            let Some(kernel) = row.kernel() else { continue };
            let alone = model.time(&kernel)?;
            let refined = measured.refine(&kernel, alone).unwrap_or(alone);
            for (scored, time) in [(&mut modelled, alone), (&mut interpolated, refined)] {
                scored.push(Scored {
                    accelerator: name.clone(),
                    classes: gemm_classes(row),
                    error: time.time.0 / (row.time_us * 1e-6) - 1.0,
                });
            }
        }
    }
    Ok((modelled, interpolated))
}

/// What an attention row counts under.
fn attention_classes(row: &AttentionRow) -> Vec<&'static str> {
    let implementation = match row.fused() {
        Some(FusedAttention::Flash2) => "flash_2",
        Some(FusedAttention::Flash3) => "flash_3",
        Some(FusedAttention::Cudnn) => "cudnn",
        Some(FusedAttention::Triton) => "triton",
        None => return vec!["unfused"],
    };
    let causal = if row.causal() { "causal" } else { "no mask" };
    let length = if row.seqlen <= 1024 { "up to 1024 tokens" } else { "2048 tokens and more" };
    vec!["all fused", implementation, causal, length]
}

/// Kernels of a stored score matrix as the benchmark's plain code runs them: 16-bit batched
/// products, an addition of the mask, softmax, dropout (with probability 0, but it runs), and
/// their gradients.
fn unfused_kernels(row: &AttentionRow) -> Vec<Kernel> {
    let (s, d) = (row.seqlen, row.head_dim);
    let batch = row.batch() * row.heads();
    let scores = batch * s * s * 2;
    let kernel = |work| Kernel { name: "unfused".into(), class: KernelClass::Attention, work };
    let gemm = |m, n, k| kernel(Work::Gemm { m, n, k, batch, precision: Precision::Bf16 });
    let stream = |bytes: u64, launches| kernel(Work::Stream { bytes, launches });
    // Dropout reads and writes the scores and writes a mask of a byte each.
    let dropout = scores * 5 / 2;
    let mask = u64::from(row.causal());
    let mut kernels = Vec::new();
    if row.pass_ != "bwd" {
        // Scores; mask, softmax and dropout; values.
        let bytes = scores * (2 + 2 * mask) + dropout;
        kernels.extend([gemm(s, s, d), stream(bytes, 2 + mask as u32), gemm(s, d, s)]);
    }
    if row.pass_ != "fwd" {
        // dP, dV; dropout and softmax, which reads its output and a gradient; dQ, dK.
        kernels.extend([gemm(s, s, d), gemm(s, d, s), stream(scores * 3 + dropout, 2)]);
        kernels.extend([gemm(s, d, s), gemm(s, d, s)]);
    }
    kernels
}

/// Scores attention with the catalogue's constants.
pub fn attention(catalogue: &Catalogue, rows: &[AttentionRow]) -> (Vec<Scored>, Vec<String>) {
    let (mut scored, mut refused) = (Vec::new(), Vec::new());
    for row in rows {
        let kernels = row.fused().map_or_else(|| unfused_kernels(row), |_| row.fused_kernels());
        let time = catalogue.accelerator(&row.accelerator).and_then(|accelerator| {
            let library = KernelLibrary::new(accelerator);
            let mut total = 0.0;
            for kernel in &kernels {
                total += library.time(kernel)?.time.0;
            }
            Ok((accelerator.name.clone(), total))
        });
        match time {
            Ok((accelerator, time)) => scored.push(Scored {
                accelerator,
                classes: attention_classes(row),
                error: time / row.seconds() - 1.0,
            }),
            Err(error) => refused.push(error.to_string()),
        }
    }
    (scored, refused)
}

/// Scores half of the fused rows (by hash) with constants fitted on the other half.
///
/// # Errors
/// An accelerator lacks a figure.
pub fn held_out_attention(catalogue: &Catalogue, rows: &[AttentionRow]) -> Result<Vec<Scored>> {
    let known: Vec<&AttentionRow> = rows
        .iter()
        .filter(|row| row.fused().is_some() && catalogue.accelerator(&row.accelerator).is_ok())
        .collect();
    let (out, fitted): (Vec<&AttentionRow>, Vec<&AttentionRow>) =
        known.into_iter().partition(|row| held_out(&row.key()));
    let fits = attention::fit(catalogue, &fitted)?;
    let mut scored = Vec::new();
    for row in out {
        let accelerator = catalogue.accelerator(&row.accelerator)?;
        let Some(fused) = row.fused() else { continue };
        if let Some(fit) = fits.get(&(accelerator.name.clone(), fused)) {
            let floor = accelerator.kernels.floor.value.0;
            scored.push(Scored {
                accelerator: accelerator.name.clone(),
                classes: attention_classes(row),
                error: attention::seconds(fit, floor, row) / row.seconds() - 1.0,
            });
        }
    }
    Ok(scored)
}
