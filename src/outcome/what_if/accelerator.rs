//! Another accelerator: recorded durations times what the kernel model predicts on the new one over
//! what it predicts on the recorded one.
//!
//! Both predictions come from the same kind of model (tiles where both have fitted constants, else
//! efficiency curves for both), so that what a model leaves out cancels. This was chosen with the times of two
//! models that were recorded on H100 and on MI300X in view; no constant was fitted to them. Kernels without a recorded
//! shape go by a rule of their class.

use serde::Serialize;

use crate::error::{Error, Result, nearest_names};
use crate::hardware::{Accelerator, Catalogue};
use crate::program::{AttentionPass, FusedAttention, Kernel, KernelClass, Precision, Work};
use crate::timing::{KernelLibrary, KernelTimes, Roofline};
use crate::trace::model::RankTrace;
use crate::trace::shapes::{NameClass, name_class};

/// Which share of the compute time of a recording was re-timed how.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Coverage {
    /// What it was recorded on.
    pub from: String,
    /// What it is predicted for.
    pub to: String,
    /// By class and way, most time first.
    pub parts: Vec<CoveragePart>,
}

/// Kernels that were re-timed alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CoveragePart {
    /// `matrix products`, `attention`, `memory-bound`.
    pub class: &'static str,
    /// `shape`, `rule` or `untouched`.
    pub by: &'static str,
    /// Kernels.
    pub kernels: u64,
    /// Their recorded time, ns.
    pub recorded_ns: i64,
    /// Their predicted time, ns.
    pub predicted_ns: i64,
    /// Share of the recorded time of all of them.
    pub share: f64,
}

impl Coverage {
    fn add(&mut self, class: &'static str, by: &'static str, count: u64, ns: i64, predicted: i64) {
        let known = self.parts.iter_mut().find(|part| part.class == class && part.by == by);
        let part = match known {
            Some(part) => part,
            None => {
                self.parts.push(CoveragePart {
                    class,
                    by,
                    kernels: 0,
                    recorded_ns: 0,
                    predicted_ns: 0,
                    share: 0.0,
                });
                let last = self.parts.len() - 1;
                &mut self.parts[last]
            }
        };
        part.kernels += count;
        part.recorded_ns += ns * count as i64;
        part.predicted_ns += predicted * count as i64;
    }

    /// Share of the compute time that was re-timed in a way.
    #[must_use]
    pub fn share(&self, by: &str) -> f64 {
        // Adding to zero: the sum of nothing is negative zero.
        0.0 + self.parts.iter().filter(|part| part.by == by).map(|part| part.share).sum::<f64>()
    }

    /// Recorded and predicted time of all kernels, ns.
    #[must_use]
    pub fn totals(&self) -> (i64, i64) {
        self.parts
            .iter()
            .fold((0, 0), |(from, to), part| (from + part.recorded_ns, to + part.predicted_ns))
    }
}

/// Re-times kernels of one accelerator for another.
pub(super) struct Retiming<'a> {
    from: &'a Accelerator,
    to: &'a Accelerator,
    pub(super) coverage: Coverage,
}

impl<'a> Retiming<'a> {
    pub(super) fn new(from: &'a Accelerator, to: &'a Accelerator) -> Self {
        let coverage = Coverage { from: from.name.clone(), to: to.name.clone(), parts: Vec::new() };
        Self { from, to, coverage }
    }

    /// The duration on the new accelerator of a kernel that runs `count` times, ns.
    pub(super) fn time(
        &mut self,
        name: &str,
        ns: i64,
        work: Option<Work>,
        copies: bool,
        count: u64,
    ) -> i64 {
        let class = match (work, name_class(name)) {
            (Some(Work::Gemm { .. }), _) => NameClass::Matrix,
            (Some(Work::Attention { .. }), _) => NameClass::Attention,
            (Some(Work::Stream { .. }), _) => NameClass::Memory,
            (_, class) => class,
        };
        let by_shape = work.and_then(|work| self.ratio(work));
        let (by, factor) = match by_shape {
            Some(factor) => ("shape", Some(factor)),
            // Copies over the host's link depend on neither accelerator.
            None if copies => ("untouched", None),
            None => ("rule", self.rule(class, ns)),
        };
        let by = if factor.is_none() { "untouched" } else { by };
        let predicted = factor.map_or(ns, |factor| (ns as f64 * factor).round() as i64);
        let class = match class {
            _ if copies => "copies",
            NameClass::Matrix => "matrix products",
            NameClass::Attention => "attention",
            NameClass::Memory => "memory-bound",
        };
        if !copies {
            self.coverage.add(class, by, count, ns, predicted);
        }
        predicted
    }

    /// The coverage, shares filled in.
    pub(super) fn finish(self) -> Coverage {
        let mut coverage = self.coverage;
        let total = coverage.totals().0.max(1) as f64;
        for part in &mut coverage.parts {
            part.share = part.recorded_ns as f64 / total;
        }
        coverage.parts.sort_by_key(|part| std::cmp::Reverse(part.recorded_ns));
        coverage
    }

    /// Predicted time on the new accelerator over that on the recorded one.
    fn ratio(&self, work: Work) -> Option<f64> {
        let (from, to) = self.seconds(work)?;
        (from > 0.0 && to > 0.0).then(|| to / from)
    }

    /// Predicted seconds on both, by the same kind of model.
    fn seconds(&self, work: Work) -> Option<(f64, f64)> {
        let class = match work {
            Work::Gemm { .. } => KernelClass::Gemm,
            Work::Attention { .. } => KernelClass::Attention,
            _ => KernelClass::Elementwise,
        };
        let fitted = |accelerator: &Accelerator| match work {
            Work::Gemm { precision, .. } => {
                accelerator.kernels.tiles.as_ref().is_some_and(|tiles| match precision {
                    Precision::Fp8 => tiles.fp8.is_some(),
                    Precision::Fp4 => tiles.fp4.is_some(),
                    _ => true,
                })
            }
            Work::Attention { .. } => {
                accelerator.kernels.attention.contains_key(&FusedAttention::Flash2)
            }
            _ => true,
        };
        let both = fitted(self.from) && fitted(self.to);
        let time = |accelerator: &Accelerator| {
            let kernel = Kernel { name: String::new(), class, work: supported(work, accelerator) };
            let time = if both {
                KernelLibrary::new(accelerator).time(&kernel)
            } else {
                Roofline::new(accelerator).time(&kernel)
            };
            time.ok().map(|time| time.time.0)
        };
        Some((time(self.from)?, time(self.to)?))
    }

    /// For a kernel without a shape.
    fn rule(&self, class: NameClass, ns: i64) -> Option<f64> {
        match class {
            // As a square product that the model says takes as long on the recorded accelerator.
            NameClass::Matrix => {
                let square = |side: u64| Work::Gemm {
                    m: side,
                    n: side,
                    k: side,
                    batch: 1,
                    precision: Precision::Bf16,
                };
                let wanted = ns as f64 / 1e9;
                let (mut low, mut high) = (1_u64, 1024_u64);
                while high > low + 1 {
                    let middle = u64::midpoint(low, high);
                    let takes = self.seconds(square(64 * middle))?.0;
                    if takes < wanted { low = middle } else { high = middle }
                }
                self.ratio(square(64 * low))
            }
            // As causal attention over 2,048 tokens.
            NameClass::Attention => self.ratio(Work::Attention {
                pass: AttentionPass::Forward,
                implementation: FusedAttention::Flash2,
                batch: 1,
                heads: 32,
                kv_heads: 32,
                queries: 2048,
                keys: 2048,
                pairs: 2048 * 2049 / 2,
                head_dim: 128,
                value_dim: 128,
                precision: Precision::Bf16,
            }),
            // As many bytes as fit into the time beyond the shortest kernel.
            NameClass::Memory => {
                let rate = |accelerator: &Accelerator| {
                    accelerator.memory.bandwidth.value.0 * accelerator.kernels.memory.value.0
                };
                let floor = self.from.kernels.floor.value.0;
                let bytes = (ns as f64 / 1e9 - floor).max(0.0) * rate(self.from);
                self.ratio(Work::Stream { bytes: bytes as u64, launches: 1 })
            }
        }
    }
}

/// The work in a format that an accelerator has: its 16-bit formats run alike.
fn supported(work: Work, accelerator: &Accelerator) -> Work {
    let swap = |precision: Precision| match precision {
        Precision::Bf16 if accelerator.peak.bf16.is_none() => Precision::Fp16,
        Precision::Fp16 if accelerator.peak.fp16.is_none() => Precision::Bf16,
        other => other,
    };
    match work {
        Work::Gemm { m, n, k, batch, precision } => {
            Work::Gemm { m, n, k, batch, precision: swap(precision) }
        }
        Work::Attention {
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
        } => Work::Attention {
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
            precision: swap(precision),
        },
        other => other,
    }
}

/// The accelerator that ranks were recorded on: the one that `named` names, or else the one whose
/// name or alias shares a model number (`H100`, `MI300X`) with the recorded device, of those the
/// one with the nearest memory.
///
/// # Errors
/// The recording does not say, or the catalogue knows no such device.
pub fn recorded_accelerator<'a>(
    ranks: &[RankTrace],
    named: Option<&str>,
    catalogue: &'a Catalogue,
) -> Result<&'a Accelerator> {
    if let Some(name) = named {
        return catalogue.accelerator(name);
    }
    let device = ranks.iter().flat_map(|rank| &rank.header.identity.devices).next();
    let Some(device) = device.filter(|device| !device.name.is_empty()) else {
        return Err(Error::Missing(
            "the recording does not say what it ran on; name it with --recorded-on".into(),
        ));
    };
    if let Ok(found) = catalogue.accelerator(&device.name) {
        return Ok(found);
    }
    let wanted = model_numbers(&device.name);
    let memory = device.memory_bytes.unwrap_or(0) as f64;
    let fits = catalogue.accelerators.values().map(|entry| &entry.item).filter(|accelerator| {
        let names = std::iter::once(&accelerator.name).chain(&accelerator.aliases);
        names.flat_map(|name| model_numbers(name)).any(|number| wanted.contains(&number))
    });
    let distance = |a: &Accelerator| (a.memory.capacity.value.0 - memory).abs();
    fits.min_by(|a, b| distance(a).total_cmp(&distance(b)).then_with(|| a.name.cmp(&b.name)))
        .ok_or_else(|| Error::UnknownName {
            what: "accelerator (what it was recorded on; name one with --recorded-on)",
            name: device.name.clone(),
            nearest: nearest_names(&device.name, catalogue.accelerators.keys().map(String::as_str)),
        })
}

/// The words of a name that are model numbers: letters and digits, but no sizes and no sockets.
fn model_numbers(name: &str) -> Vec<String> {
    name.split(|c: char| !c.is_alphanumeric())
        .map(str::to_ascii_lowercase)
        .filter(|word| {
            word.chars().any(|c| c.is_ascii_digit())
                && word.chars().any(|c| c.is_ascii_alphabetic())
                && !["sxm", "hbm", "pcie"].iter().any(|part| word.starts_with(part))
                && !word.ends_with("gb")
        })
        .collect()
}
