//! How far a prediction can be trusted: a 90 % interval on the step and all that follows from it.
//!
//! The errors behind a step come from sources that are independent of each other. Each has a
//! relative standard deviation, from a residual or a range of the catalogue, and moves the step by
//! its *sensitivity*: `d ln(step) / d ln(x)`, which is the share of the step's longest path that
//! depends on it ([`CriticalPath`], from the very replay that gave the step, so it costs no other).
//! That is exact for small changes. It leaves out that a call which grows beyond what hides it
//! becomes exposed. Contributions add in quadrature in the logarithm:
//! `interval = step * exp(+-1.645 sigma)`.
//!
//! The sources:
//!
//! * *Kernel models* by class: the residual of the fit that times the kernel
//!   ([`crate::timing::KernelTime::uncertainty`]). [`SYSTEMATIC`] of it is common to all shapes of
//!   a class (all of it where the shape is extrapolated); the rest differs from shape to shape and
//!   averages out over the kernels of the path.
//! * *Collectives*, inside nodes and between them: the residuals of the library's and of the
//!   transport's fit, wider where nothing was fitted, the group is outside of the fit, or it shares
//!   links.
//! * *Figures of the stack*: the range `low..high` of an assumed figure holds 90 % (1.645 standard
//!   deviations each way); that of a fitted one is two standard deviations each way.
//! * *The laboratory*: what no configuration says; see [`LABORATORY`] and [`PLAN`].
//!
//! Two plans on the same hardware and stack share most of these errors, so their ratio is known
//! better than either: [`compare`].

use std::collections::BTreeMap;

use crate::hardware::{Figure, FitResidual, HostCosts, Kind};
use crate::network::WHOLE;
use crate::program::{KernelClass, Program, Work};
use crate::replay::CriticalPath;
use crate::scenario::Setup;
use crate::timing::KernelSource;
use crate::units::{Nanos, Quantity, Seconds};

use super::durations::Timed;
use super::result::{Interval, StepInterval, UncertaintySource};

/// Standard deviations between the middle and either end of a 90 % interval.
pub const NINETY: f64 = 1.645;

/// Standard deviation of the same plan from one laboratory and software release to another. The
/// same plan in two laboratories differs by 2 to 6 %, submitters with the same hardware by 0.5 to
/// 4 %, and releases of one framework by 5.9 % in the median (validation tables).
pub const LABORATORY: f64 = 0.04;

/// Standard deviation of what a plan does that is written down nowhere and another plan of the
/// same job need not do: which kernels were chosen, how memory was allocated, what was logged.
pub const PLAN: f64 = 0.02;

/// Part of a kernel model's residual that all shapes of a class have in common. A fit over many
/// shapes has no mean error on its own rows; another library version or clock does.
const SYSTEMATIC: f64 = 0.5;

/// A kernel's shape is taken to be outside of its fit from this uncertainty on.
const WIDE: f64 = 0.2;

/// Median absolute errors to one standard deviation of a normal distribution.
const SIGMA_PER_MEDIAN: f64 = 1.4826;

/// Collectives without a fit: latency and bandwidth by data sheet.
const UNFITTED: f64 = 0.3;

/// Added, in quadrature, to collectives outside of their fit, or on links shared with others.
const OUTSIDE: f64 = 0.2;

/// A result's interval and what it consists of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Uncertainty {
    /// The sources, largest contribution first.
    pub sources: Vec<UncertaintySource>,
    /// Standard deviation of the logarithm of the step.
    pub sigma: f64,
}

impl Uncertainty {
    fn of(mut sources: Vec<UncertaintySource>) -> Self {
        sources.retain(|source| source.contribution.abs() >= 5e-4);
        let sigma = sources.iter().map(|s| s.contribution.powi(2)).sum::<f64>().sqrt();
        sources.sort_by(|a, b| {
            let size = b.contribution.abs().total_cmp(&a.contribution.abs());
            size.then_with(|| a.source.cmp(&b.source))
        });
        Self { sources, sigma }
    }

    /// The 90 % interval of the step itself.
    #[must_use]
    pub fn step_interval(&self, step: Seconds) -> StepInterval {
        let Interval { low, high } = self.interval(step.0);
        StepInterval { low_s: low, high_s: high }
    }

    /// The 90 % interval about a value that is proportional to the step, or to its inverse.
    #[must_use]
    pub fn interval(&self, value: f64) -> Interval {
        let factor = (NINETY * self.sigma).exp();
        Interval { low: value / factor, high: value * factor }
    }
}

/// What a class of kernels is called, by how it is timed.
fn class_of(kernel: &crate::program::Kernel, source: KernelSource) -> &'static str {
    if matches!(kernel.work, Work::Gemm { .. } | Work::Attention { .. }) {
        match source {
            KernelSource::Measured => return "measured kernels",
            KernelSource::Interpolated => return "interpolation between measured kernels",
            KernelSource::Modelled | KernelSource::Curve => {}
        }
    }
    match (kernel.work, kernel.class) {
        (Work::Gemm { .. }, KernelClass::Attention) | (Work::Attention { .. }, _) => {
            "model of attention kernels"
        }
        (Work::Gemm { .. }, _) => "model of GEMM kernels",
        (Work::Stream { .. }, _) => "model of memory-bound kernels",
        (Work::Recorded { .. }, _) => "recorded kernels",
    }
}

/// Relative standard deviation of a figure, from its range.
fn sigma_of<Q: Quantity>(figure: &Figure<Q>) -> f64 {
    let value = figure.value.base();
    let (Some(low), Some(high)) = (figure.low, figure.high) else { return 0.0 };
    let (low, high) = (low.base(), high.base());
    let deviations = if figure.kind == Kind::Assumed { 2.0 * NINETY } else { 4.0 };
    if low > 0.0 {
        (high / low).ln() / deviations
    } else if value > 0.0 {
        (high - low) / value / deviations
    } else {
        0.0
    }
}

/// Pooled residual of a fit's systems: the median error weighted by rows, as a standard deviation.
fn residual(systems: &BTreeMap<String, FitResidual>) -> Option<f64> {
    let rows: u64 = systems.values().map(|s| s.rows).sum();
    if rows == 0 {
        return None;
    }
    let sum: f64 = systems.values().map(|s| s.median_error_pct * s.rows as f64).sum();
    Some(SIGMA_PER_MEDIAN * sum / rows as f64 / 100.0)
}

/// Collects sources.
struct Sources<'a> {
    step: f64,
    all: Vec<UncertaintySource>,
    stack: &'a str,
}

impl Sources<'_> {
    /// A source by its effect (signed) on the step.
    fn push(&mut self, source: String, relative_sigma: f64, contribution: f64, shared: bool) {
        self.all.push(UncertaintySource { source, relative_sigma, contribution, shared });
    }

    /// A figure of the stack that so much of the step is proportional to, or to its inverse.
    fn figure<Q: Quantity>(&mut self, key: &str, figure: &Figure<Q>, time: Nanos, sign: f64) {
        let sigma = sigma_of(figure);
        let share = time.0 as f64 / self.step;
        self.push(format!("{key} of {}", self.stack), sigma, sign * sigma * share, true);
    }
}

/// The uncertainty of a step.
#[must_use]
pub fn uncertainty(
    setup: &Setup<'_>,
    program: &Program,
    timed: &Timed,
    path: &CriticalPath,
) -> Uncertainty {
    let step = path.sum().0.max(1) as f64;
    let mut sources = Sources { step, all: Vec::new(), stack: &setup.stack.name };
    let in_training = &setup.stack.in_training;

    // Kernels: time of the path by class, with the spread of its shapes.
    #[derive(Default)]
    struct Class {
        time: f64,
        common: f64,
        own: f64,
    }
    let mut classes: BTreeMap<&'static str, Class> = BTreeMap::new();
    let mut in_kernels = Nanos::ZERO;
    for (kernel, spent) in &path.kernels {
        let time = (spent.nominal.0 + spent.extra.0) as f64 / step;
        let sigma = timed.kernels[*kernel].uncertainty;
        let wide = timed.kernels[*kernel].extrapolated || sigma >= WIDE;
        let common = if wide { sigma } else { sigma * SYSTEMATIC };
        let source = timed.kernels[*kernel].source;
        let class = classes.entry(class_of(&program.kernels[*kernel], source)).or_default();
        class.time += time;
        class.common += time * common;
        class.own += (time * time) * (sigma * sigma - common * common);
        in_kernels += spent.nominal + spent.extra;
    }
    for (name, class) in classes {
        let device = &setup.accelerator.name;
        let relative = if class.time > 0.0 { class.common / class.time } else { 0.0 };
        sources.push(format!("{name} on {device}"), relative, class.common, true);
        let own = class.own.max(0.0).sqrt();
        sources.push(format!("{name} on {device}, by shape"), own / class.time, own, false);
    }

    // Collectives.
    let inside = setup.network.library.and_then(|(library, _)| residual(&library.fit.systems));
    let between = setup.network.transport.and_then(|transport| residual(&transport.fit.systems));
    let fitted = setup.network.library.is_some();
    let sigmas = timed.meetings.each(|_, time, place| {
        let crosses = place.shape.nodes > 1;
        let mut sigma = inside.unwrap_or(UNFITTED);
        if crosses {
            sigma = sigma.hypot(if fitted { between.unwrap_or(UNFITTED) } else { UNFITTED });
        }
        if !time.extrapolated.is_empty() {
            sigma = sigma.hypot(OUTSIDE);
        }
        if place.share < WHOLE {
            sigma = sigma.hypot(OUTSIDE);
        }
        (crosses, sigma)
    });
    let (mut levels, mut in_meetings, mut beside) = ([(0.0, 0.0); 2], Nanos::ZERO, Nanos::ZERO);
    for ((family, call, class), spent) in &path.meetings {
        let found = sigmas[*family][*call].get(usize::from(*class));
        let (crosses, sigma) = found.copied().unwrap_or((true, UNFITTED));
        let time = (spent.nominal.0 + spent.extra.0) as f64 / step;
        let level = &mut levels[usize::from(crosses)];
        level.0 += time;
        level.1 += time * sigma;
        in_meetings += spent.nominal + spent.extra;
        beside += spent.extra;
    }
    let library = setup.network.library.map_or("no library", |(library, _)| library.name.as_str());
    let transport = setup.network.transport.map_or("no fit", |transport| transport.name.as_str());
    for ((time, sigma), name) in levels.into_iter().zip([
        format!("collectives inside nodes ({library})"),
        format!("collectives between nodes ({library}, {transport})"),
    ]) {
        if time > 0.0 {
            sources.push(name, sigma / time, sigma, true);
        }
    }

    // Figures of the stack.
    sources.figure("in_training.kernels", &in_training.kernels, in_kernels, -1.0);
    sources.figure("in_training.collectives", &in_training.collectives, in_meetings, -1.0);
    sources.figure("in_training.beside_compute", &in_training.beside_compute, beside, 1.0);
    let HostCosts { per_operation, per_micro_batch, per_step, launch_latency, .. } =
        &setup.stack.host;
    for (key, figure, time) in [
        ("host.per_operation", per_operation, path.per_operation),
        ("host.per_micro_batch", per_micro_batch, path.per_micro_batch),
        ("host.per_step", per_step, path.per_step),
        ("host.launch_latency", launch_latency, path.launch),
    ] {
        sources.figure(key, figure, time, 1.0);
    }

    sources.push("laboratory and software release".into(), LABORATORY, LABORATORY, true);
    sources.push("the plan itself".into(), PLAN, PLAN, false);
    Uncertainty::of(sources.all)
}

/// What can be said of two plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The first takes less time.
    First,
    /// The second does.
    Second,
    /// The interval of their ratio holds 1.
    CannotTell,
}

impl Verdict {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "the first is faster",
            Self::Second => "the second is faster",
            Self::CannotTell => "cannot tell",
        }
    }
}

/// The ratio of two steps, with its own 90 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// First over second.
    pub ratio: f64,
    /// Its 90 % interval.
    pub interval: Interval,
    /// What follows.
    pub verdict: Verdict,
}

/// Compares two steps. An error that both share (the same source of the same hardware or stack)
/// moves both the same way, so only the difference of its contributions counts; errors of one
/// alone count in full.
#[must_use]
pub fn compare(
    first: (Seconds, &[UncertaintySource]),
    second: (Seconds, &[UncertaintySource]),
) -> Ratio {
    let mut shared: BTreeMap<&str, f64> = BTreeMap::new();
    let mut own = 0.0;
    for (sources, sign) in [(first.1, 1.0), (second.1, -1.0)] {
        for source in sources {
            if source.shared {
                *shared.entry(&source.source).or_default() += sign * source.contribution;
            } else {
                own += source.contribution.powi(2);
            }
        }
    }
    let sigma = (own + shared.values().map(|c| c * c).sum::<f64>()).sqrt();
    let ratio = first.0.0 / second.0.0;
    let factor = (NINETY * sigma).exp();
    let interval = Interval { low: ratio / factor, high: ratio * factor };
    let verdict = if interval.high < 1.0 {
        Verdict::First
    } else if interval.low > 1.0 {
        Verdict::Second
    } else {
        Verdict::CannotTell
    };
    Ratio { ratio, interval, verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, contribution: f64, shared: bool) -> UncertaintySource {
        UncertaintySource {
            source: name.into(),
            relative_sigma: contribution.abs(),
            contribution,
            shared,
        }
    }

    #[test]
    fn contributions_add_in_quadrature() {
        let all = Uncertainty::of(vec![source("a", 0.03, true), source("b", -0.04, false)]);
        assert!((all.sigma - 0.05).abs() < 1e-12);
        assert_eq!(all.sources[0].source, "b");
        let interval = all.interval(2.0);
        assert!((interval.high / 2.0 - (1.645f64 * 0.05).exp()).abs() < 1e-12);
        assert!((interval.low * interval.high - 4.0).abs() < 1e-12);
    }

    #[test]
    fn a_shared_error_does_not_blur_a_ratio() {
        // Each plan is known to 10 %, and their order all the same, since the error is one.
        let a = [source("kernels of x", 0.10, true), source("own", 0.01, false)];
        let b = [source("kernels of x", 0.09, true), source("own", 0.01, false)];
        let found = compare((Seconds(1.0), &a), (Seconds(1.08), &b));
        assert_eq!(found.verdict, Verdict::First);
        // With 3 % between them it is less than 1.645 * sqrt(3) %... of which 2.85 % remain.
        let closer = compare((Seconds(1.02), &a), (Seconds(1.0), &b));
        assert_eq!(closer.verdict, Verdict::CannotTell);
        assert_eq!(closer.verdict.as_str(), "cannot tell");
        assert!((closer.interval.high / closer.ratio).ln() - 1.645 * 3f64.sqrt() * 0.01 < 1e-12);
        // On other hardware the same two errors are two.
        let other = [source("kernels of y", 0.09, true), source("own", 0.01, false)];
        let apart = compare((Seconds(1.0), &a), (Seconds(1.08), &other));
        assert_eq!(apart.verdict, Verdict::CannotTell);
        let far = compare((Seconds(1.5), &a), (Seconds(1.0), &other));
        assert_eq!(far.verdict, Verdict::Second);
    }
}
