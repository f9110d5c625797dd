//! Measured kernels before models: rows of this very shape, and what rows near it say.
//!
//! A row is a point in the space of shapes (logarithms to base 2 of the sizes), with the logarithm of
//! measured over modelled time. Between points the deviation from the model is interpolated (inverse
//! squared distance; Shepard 1968), not the time itself: the model keeps the steps of tiles and waves
//! that smooth interpolation would wipe out. With the distance the deviation fades into the model's
//! own prediction. How well this does is measured on the table itself, leaving one shape out after the
//! other.

use std::collections::BTreeMap;

use super::library::SIGMA_PER_MEDIAN;
use super::{KernelSource, KernelTime, KernelTimes};
use crate::error::Result;
use crate::program::{AttentionPass, FusedAttention, Kernel, Precision, Work};
use crate::units::Seconds;

/// Distance, in doublings of one size, at which rows say nothing any more.
const REACH: f64 = 2.0;
/// Rows that are looked at.
const NEIGHBOURS: usize = 8;
/// Heads that share keys and values save their traffic and leave the arithmetic as it is: a doubling
/// counts as so much of a doubling of a size.
const SHARED_KEYS: f64 = 0.25;
/// What repeated measurements of a kernel differ by (clock, temperature), relative; a table with
/// repeated rows says it itself where it is more.
const REPEATED: f64 = 0.02;

/// Kernels that were timed together, and how long they took.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// One kernel, or those of a measurement of several.
    pub kernels: Vec<Kernel>,
    /// Seconds of all together.
    pub seconds: f64,
}

/// What must be equal for shapes to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Gemm(Precision),
    Attention(AttentionPass, FusedAttention, Precision, bool),
}

/// A measured shape.
#[derive(Clone, Debug, PartialEq)]
struct Point {
    at: [f64; 7],
    /// ln(measured / modelled).
    deviation: f64,
    /// Standard deviation between repeated rows.
    spread: f64,
    /// The kernel was timed alone.
    alone: bool,
}

/// Measured kernels of one accelerator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeasuredKernels {
    families: BTreeMap<Family, Vec<Point>>,
    /// Standard deviation of the logarithm where one shape is predicted from the others, and the
    /// number of shapes it comes from.
    left_out: BTreeMap<Family, (f64, usize)>,
}

/// A deviation found for a shape.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Found {
    deviation: f64,
    /// How much of it comes from rows rather than from the model, 0 to 1.
    share: f64,
    exact: Option<f64>,
}

impl MeasuredKernels {
    /// From rows of an accelerator, as deviations from what its models say.
    ///
    /// # Errors
    /// The accelerator has no peak rate for a row's format.
    pub fn new(models: &dyn KernelTimes, rows: &[Timing]) -> Result<Self> {
        let mut found: BTreeMap<Family, Vec<(Point, u32)>> = BTreeMap::new();
        for row in rows {
            let mut modelled = 0.0;
            for kernel in &row.kernels {
                modelled += models.time(kernel)?.time.0;
            }
            let deviation = (row.seconds / modelled).ln();
            let alone = row.kernels.len() == 1;
            for (family, at) in row.kernels.iter().filter_map(place) {
                let points = found.entry(family).or_default();
                let same = |p: &&mut (Point, u32)| p.0.at == at && p.0.alone == alone;
                // Mean and spread of repeated rows, one by one (Welford).
                if let Some((point, count)) = points.iter_mut().find(same) {
                    *count += 1;
                    let before = deviation - point.deviation;
                    point.deviation += before / f64::from(*count);
                    point.spread += before * (deviation - point.deviation);
                } else {
                    points.push((Point { at, deviation, spread: 0.0, alone }, 1));
                }
            }
        }
        let families: BTreeMap<Family, Vec<Point>> = found
            .into_iter()
            .map(|(family, points)| {
                let finish = |(point, count): (Point, u32)| Point {
                    spread: (point.spread / f64::from(count.max(2) - 1)).sqrt(),
                    ..point
                };
                (family, points.into_iter().map(finish).collect())
            })
            .collect();
        let left_out = families
            .iter()
            .filter_map(|(family, points)| Some((*family, left_out(points)?)))
            .collect();
        Ok(Self { families, left_out })
    }

    /// Measured shapes, repeated rows counted once.
    #[must_use]
    pub fn shapes(&self) -> usize {
        self.families.values().map(Vec::len).sum()
    }

    /// The shape that is farthest from its model, in words, and ln(measured / modelled).
    #[must_use]
    pub fn strangest(&self) -> Option<(String, f64)> {
        let all = self
            .families
            .iter()
            .flat_map(|(family, points)| points.iter().map(move |point| (family, point)));
        let (family, point) =
            all.max_by(|a, b| a.1.deviation.abs().total_cmp(&b.1.deviation.abs()))?;
        let size = |i: usize| point.at[i].exp2().round();
        let words = match family {
            Family::Gemm(_) => {
                format!("the GEMM {} x {} x {} (m, n, k)", size(0), size(1), size(2))
            }
            Family::Attention(..) => {
                format!("attention over {} tokens with heads of {}", size(1), size(3))
            }
        };
        Some((words, point.deviation))
    }

    /// Median absolute error, in percent, of measured shapes predicted from the others, over all
    /// families; none where no two shapes are near each other.
    #[must_use]
    pub fn left_out_error_pct(&self) -> Option<f64> {
        let count: usize = self.left_out.values().map(|(_, count)| count).sum();
        if count == 0 {
            return None;
        }
        let sum: f64 = self.left_out.values().map(|(sigma, n)| sigma * *n as f64).sum();
        Some(sum / count as f64 / SIGMA_PER_MEDIAN * 100.0)
    }

    /// The time of a kernel that the models give `modelled`, if a row is near enough to say more.
    #[must_use]
    pub fn refine(&self, kernel: &Kernel, modelled: KernelTime) -> Option<KernelTime> {
        let (family, at) = place(kernel)?;
        let points = self.families.get(&family)?;
        let found = near(points.iter(), &at)?;
        let time = Seconds(modelled.time.0 * found.deviation.exp());
        if let Some(spread) = found.exact {
            return Some(KernelTime {
                time,
                extrapolated: false,
                uncertainty: spread.max(REPEATED),
                source: KernelSource::Measured,
            });
        }
        let between = self.left_out.get(&family).map_or(modelled.uncertainty, |(sigma, _)| *sigma);
        Some(KernelTime {
            time,
            // Half of the prediction has to come from rows for it not to be the model's.
            extrapolated: modelled.extrapolated && found.share < 0.5,
            uncertainty: (found.share * between.max(REPEATED))
                .hypot((1.0 - found.share) * modelled.uncertainty),
            source: KernelSource::Interpolated,
        })
    }
}

/// The 16-bit formats run at the same rate.
fn format(precision: Precision) -> Precision {
    if precision == Precision::Fp16 { Precision::Bf16 } else { precision }
}

/// Where a kernel lies among those that it can be compared with.
fn place(kernel: &Kernel) -> Option<(Family, [f64; 7])> {
    let log = |size: u64| (size as f64).log2();
    match kernel.work {
        Work::Gemm { m, n, k, batch, precision } => Some((
            Family::Gemm(format(precision)),
            [log(m), log(n), log(k), log(batch), 0.0, 0.0, 0.0],
        )),
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
        } => {
            let full = queries as f64 * keys as f64;
            // A mask that leaves more than three quarters of the pairs is next to none.
            let masked = (pairs as f64) < 0.75 * full;
            let at = [
                log(queries),
                log(keys),
                log(batch * heads),
                log(head_dim),
                SHARED_KEYS * (log(heads) - log(kv_heads)),
                log(value_dim),
                log(pairs),
            ];
            Some((Family::Attention(pass, implementation, format(precision), masked), at))
        }
        Work::Stream { .. } | Work::Recorded { .. } => None,
    }
}

fn distance(a: &[f64; 7], b: &[f64; 7]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// The deviation at a shape from the points near it.
fn near<'a>(points: impl Iterator<Item = &'a Point>, at: &[f64; 7]) -> Option<Found> {
    let mut nearest: Vec<(f64, &Point)> = points
        .map(|point| (distance(&point.at, at), point))
        .filter(|(distance, _)| *distance < REACH)
        .collect();
    // Ties go to what was timed alone, then to the shape, so that the order of rows does not matter.
    nearest.sort_by(|(a, p), (b, q)| {
        let tie = q.alone.cmp(&p.alone).then_with(|| {
            let shapes = p.at.iter().zip(&q.at).map(|(a, b)| a.total_cmp(b));
            shapes.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
        });
        a.total_cmp(b).then(tie)
    });
    nearest.truncate(NEIGHBOURS);
    let (closest, point) = nearest.first()?;
    if *closest == 0.0 && point.alone {
        let exact = Some(point.spread);
        return Some(Found { deviation: point.deviation, share: 1.0, exact });
    }
    // The model is one more point, with deviation 0, that is always as far as rows reach.
    let weight = |distance: f64| 1.0 / distance.powi(2).max(1e-4);
    let model = weight(REACH);
    let rows: f64 = nearest.iter().map(|(distance, _)| weight(*distance) - model).sum();
    let sum: f64 = nearest.iter().map(|(d, p)| (weight(*d) - model) * p.deviation).sum();
    let all = rows + model;
    Some(Found { deviation: sum / all, share: rows / all, exact: None })
}

/// Spread of what is left where every shape is predicted from the others, and the number of shapes
/// that have others near them.
fn left_out(points: &[Point]) -> Option<(f64, usize)> {
    let mut errors: Vec<f64> = points
        .iter()
        .enumerate()
        .filter_map(|(i, point)| {
            let others = points
                .iter()
                .enumerate()
                .filter(|(j, other)| *j != i && other.at != point.at)
                .map(|(_, other)| other);
            Some((near(others, &point.at)?.deviation - point.deviation).abs())
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    let middle = errors.get(errors.len() / 2)?;
    Some((SIGMA_PER_MEDIAN * middle, errors.len()))
}
