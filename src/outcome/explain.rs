//! From the roofline to the step: which term costs how much, and what removing it would buy.
//!
//! The waterfall begins with the arithmetic of all forward and backward kernels at the dense peak
//! of their format and no communication. Every further term is the mean over ranks of an account
//! of the replay with frozen rates, where each nanosecond of a rank is in exactly one account; the
//! last is what operations that overlap take from each other, the difference between the coupled
//! and the frozen replay. So the terms add up to the step.
//!
//! What removing a term buys is not its size: terms hide each other (without the host, kernels
//! wait for the network instead). So the step is simulated again without it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::Result;
use crate::plan::Recompute;
use crate::program::{Action, Dimension, Kernel, KernelClass, LaneKind, Phase, Program, Work};
use crate::replay::{self, Category, Demands, Durations, HostTimes, Lumping};
use crate::scenario::Setup;
use crate::timing::Roofline;
use crate::units::{Nanos, Seconds};

use super::durations::{Timed, time_program};
use super::result::StepInterval;
use super::{demands_of, program_of, uncertainty};

/// Version of the machine output.
pub const EXPLAIN_SCHEMA: &str = "trainyard.explain/1";

/// A term of the waterfall.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Term {
    /// Key, stable.
    pub key: &'static str,
    /// For people.
    pub label: &'static str,
    /// Seconds of the step, mean over ranks; may be negative.
    pub seconds: f64,
    /// Over the predicted step.
    pub share: f64,
    /// The step without it, simulated again; null where there is no such simulation.
    pub step_without_s: Option<f64>,
    /// What that saves.
    pub saves_s: Option<f64>,
    /// How it was taken away.
    pub removed_by: Option<&'static str>,
}

/// A step from the roofline to the prediction, and to what was measured.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Waterfall {
    /// Layout version.
    pub schema: &'static str,
    /// What it is of.
    pub name: String,
    /// Predicted step in seconds: the sum of the terms.
    pub step_s: f64,
    /// Its 90 % interval.
    pub interval_90: StepInterval,
    /// From the roofline on.
    pub terms: Vec<Term>,
    /// Measured step in seconds.
    pub measured_s: Option<f64>,
    /// Measured less predicted.
    pub unexplained_s: Option<f64>,
    /// What the user should know of the prediction.
    pub warnings: Vec<String>,
}

impl Waterfall {
    /// The same step with so many times the work, and with what was measured.
    #[must_use]
    pub fn finish(mut self, scale: f64, measured: Option<Seconds>) -> Self {
        self.step_s *= scale;
        self.interval_90.low_s *= scale;
        self.interval_90.high_s *= scale;
        for term in &mut self.terms {
            term.seconds *= scale;
            term.step_without_s = term.step_without_s.map(|s| s * scale);
            term.saves_s = term.saves_s.map(|s| s * scale);
        }
        self.measured_s = measured.map(|m| m.0);
        self.unexplained_s = measured.map(|m| m.0 - self.step_s);
        self
    }
}

/// Key and name of the term that a kernel's time beyond its arithmetic belongs to.
fn term_of(kernel: &Kernel) -> (&'static str, &'static str) {
    match (kernel.work, kernel.class) {
        (Work::Stream { .. }, KernelClass::Attention) => {
            ("memory_softmax", "memory-bound: softmax, masks")
        }
        (_, KernelClass::Attention) => ("attention", "attention kernels below peak"),
        (Work::Gemm { .. }, _) => ("gemm", "GEMM kernels below peak"),
        (_, KernelClass::Norm) => ("memory_norm", "memory-bound: normalisation"),
        (_, KernelClass::Elementwise) => ("memory_elementwise", "memory-bound: element-wise"),
        (_, KernelClass::Routing) => ("memory_routing", "memory-bound: routing of tokens"),
        (_, KernelClass::Cast) => ("memory_cast", "memory-bound: casts and scales"),
        (_, KernelClass::Embedding | KernelClass::Loss) => {
            ("memory_vocabulary", "memory-bound: embedding and loss")
        }
        _ => ("memory_other", "memory-bound: other"),
    }
}

/// Order in which the terms of kernels are shown.
const KERNEL_TERMS: [&str; 9] = [
    "gemm",
    "attention",
    "memory_softmax",
    "memory_norm",
    "memory_elementwise",
    "memory_routing",
    "memory_cast",
    "memory_vocabulary",
    "memory_other",
];

/// Arithmetic of a kernel at the peak of its format; nothing for memory-bound ones.
fn at_peak(setup: &Setup<'_>, kernel: &Kernel) -> Option<Nanos> {
    let (Work::Gemm { precision, .. } | Work::Attention { precision, .. }) = kernel.work else {
        return Some(Nanos::ZERO);
    };
    let peak = Roofline::new(setup.accelerator).peak(precision).ok()?;
    Some(Seconds(kernel.flops() / peak.0).to_nanos())
}

/// A simulation that can be repeated with other durations.
struct Model {
    program: Program,
    timed: Timed,
    lumping: Lumping,
    demands: Demands,
}

impl Model {
    fn new(setup: &Setup<'_>) -> Result<Self> {
        let program = program_of(setup);
        let timed = time_program(setup, &program)?;
        let lumping = Lumping::coarsest(&program, &timed.durations);
        let demands = demands_of(setup, &program, &timed.meetings);
        Ok(Self { program, timed, lumping, demands })
    }

    fn coupled(&self, durations: &Durations, demands: &Demands) -> Result<replay::Outcome> {
        Ok(replay::sweep_coupled(&self.program, durations, &self.lumping, demands)?.0)
    }

    /// The step with other durations of kernels.
    fn with_kernels(&self, of: impl Fn(usize, Nanos) -> Nanos) -> Result<Nanos> {
        let mut durations = self.timed.durations.clone();
        for (k, time) in durations.kernels.iter_mut().enumerate() {
            *time = of(k, *time);
        }
        Ok(self.coupled(&durations, &self.demands)?.step)
    }

    /// The step with communication of some dimensions that takes no time and no part of the device.
    fn without(&self, dimensions: &[Dimension]) -> Result<Nanos> {
        let (mut durations, mut demands) = (self.timed.durations.clone(), self.demands.clone());
        for (f, family) in self.program.families.iter().enumerate() {
            if dimensions.contains(&family.dimension) {
                durations.meetings[f].iter_mut().flatten().for_each(|t| *t = Nanos::ZERO);
                demands.silence(f);
            }
        }
        Ok(self.coupled(&durations, &demands)?.step)
    }

    /// The step with a host that issues everything at once.
    fn without_host(&self) -> Result<Nanos> {
        let mut durations = self.timed.durations.clone();
        durations.host =
            HostTimes { dispatch_gap: durations.host.dispatch_gap, ..HostTimes::default() };
        durations.issue.clear();
        Ok(self.coupled(&durations, &self.demands)?.step)
    }

    /// How often each kernel runs on compute lanes, over all ranks: in forward and backward, and in
    /// other parts of the step.
    fn counts(&self, ranks: &[u64]) -> Vec<(i64, i64)> {
        let mut counts = vec![(0, 0); self.program.kernels.len()];
        for (template, ranks) in self.program.templates.iter().zip(ranks) {
            for op in &template.ops {
                let lane = template.lanes[op.lane.index()].1;
                if let (Action::Kernel(kernel), LaneKind::Compute) = (op.action, lane) {
                    let count = &mut counts[kernel.index()];
                    match op.phase {
                        Phase::Recompute | Phase::Optimizer => count.1 += *ranks as i64,
                        _ => count.0 += *ranks as i64,
                    }
                }
            }
        }
        counts
    }

    /// Kernels that run in the optimizer and nowhere else.
    fn of_optimizer(&self) -> Vec<bool> {
        let mut only = vec![true; self.program.kernels.len()];
        for op in self.program.templates.iter().flat_map(|template| &template.ops) {
            if let Action::Kernel(kernel) = op.action {
                only[kernel.index()] &= op.phase == Phase::Optimizer;
            }
        }
        only
    }
}

/// Collects terms, in nanoseconds summed over ranks.
struct Terms {
    ranks: i64,
    step: Nanos,
    all: Vec<Term>,
}

impl Terms {
    fn push(
        &mut self,
        (key, label): (&'static str, &'static str),
        sum: i64,
        removed: Option<(Nanos, &'static str)>,
    ) {
        let seconds = sum as f64 / self.ranks as f64 / 1e9;
        let step = self.step.seconds().0;
        let without = removed.map(|(step, _)| step.seconds().0);
        self.all.push(Term {
            key,
            label,
            seconds,
            share: seconds / step,
            step_without_s: without,
            saves_s: without.map(|without| step - without),
            removed_by: removed.map(|(_, how)| how),
        });
    }
}

/// Explains a step.
///
/// # Errors
/// As for [`super::simulate`].
pub fn explain(setup: &Setup<'_>) -> Result<Waterfall> {
    let model = Model::new(setup)?;
    let timed = &model.timed;
    let frozen = replay::sweep(&model.program, &timed.durations, &model.lumping)?;
    let coupled = model.coupled(&timed.durations, &model.demands)?;
    let ranks: Vec<u64> = frozen.by_template.iter().map(|(ranks, _)| *ranks).collect();
    let world = model.program.world_size() as i64;
    let mut terms = Terms { ranks: world, step: coupled.step, all: Vec::new() };

    // Kernels: arithmetic, what the kernel takes alone, what it takes in training.
    let kernels = &model.program.kernels;
    let nominal = &timed.durations.kernels;
    let alone: Vec<Nanos> = timed.kernels.iter().map(|k| k.time.to_nanos()).collect();
    let peak: Vec<Nanos> =
        kernels.iter().zip(&alone).map(|(k, a)| at_peak(setup, k).unwrap_or(*a)).collect();
    let (mut arithmetic, mut training) = (0, 0);
    let mut by_term: BTreeMap<&str, (&'static str, &'static str, i64)> = BTreeMap::new();
    for (k, (count, _)) in model.counts(&ranks).into_iter().enumerate() {
        arithmetic += count * peak[k].0;
        training += count * (nominal[k] - alone[k]).0;
        let (key, label) = term_of(&kernels[k]);
        by_term.entry(key).or_insert((key, label, 0)).2 += count * (alone[k] - peak[k]).0;
    }
    terms.push(("roofline", "arithmetic at peak"), arithmetic, None);
    let mut booked = arithmetic + training;
    for key in KERNEL_TERMS {
        let Some((key, label, sum)) = by_term.get(key).copied().filter(|t| t.2 != 0) else {
            continue;
        };
        booked += sum;
        let how = if key.starts_with("memory") { "in no time" } else { "at peak" };
        let step = model.with_kernels(|k, time| {
            if term_of(&kernels[k]).0 == key && alone[k].0 > 0 {
                let scaled = time.0 as f64 * peak[k].0 as f64 / alone[k].0 as f64;
                Nanos(scaled.round() as i64)
            } else {
                time
            }
        })?;
        terms.push((key, label), sum, Some((step, how)));
    }
    if training != 0 {
        let step = model.with_kernels(|k, _| alone[k])?;
        let name = ("in_training", "kernels slower in training");
        terms.push(name, training, Some((step, "kernels as fast as alone")));
    }
    let rest = frozen.total.get(Category::Compute).0 - booked;
    if rest != 0 {
        terms.push(("other", "other time of the compute stream"), rest, None);
    }

    accounts(setup, &model, &frozen, &mut terms)?;
    terms.push(
        ("overlap", "what overlapping operations cost"),
        (coupled.step - frozen.step).0 * world,
        Some((frozen.step, "nothing slows what runs beside it")),
    );

    let spread = uncertainty(setup, &model.program, timed, &coupled.critical);
    Ok(Waterfall {
        schema: EXPLAIN_SCHEMA,
        name: setup.scenario.name.clone(),
        step_s: coupled.step.seconds().0,
        interval_90: spread.step_interval(coupled.step.seconds()),
        terms: terms.all,
        measured_s: None,
        unexplained_s: None,
        warnings: timed.warnings.clone(),
    })
}

/// The terms that are accounts of the breakdown.
fn accounts(
    setup: &Setup<'_>,
    model: &Model,
    frozen: &replay::Outcome,
    terms: &mut Terms,
) -> Result<()> {
    use Dimension::{Context, Data, Expert, Pipeline, Tensor, World};
    for category in Category::ALL {
        let sum = frozen.total.get(category).0;
        if category == Category::Compute || sum == 0 {
            continue;
        }
        let communication = |dimensions: &[Dimension]| -> Result<_> {
            Ok(Some((model.without(dimensions)?, "a network without delay")))
        };
        let (label, removed) = match category {
            Category::Compute => continue,
            Category::Recompute => {
                let mut other = setup.clone();
                other.plan.recompute = Recompute::None;
                let other = Model::new(&other)?;
                let step = other.coupled(&other.timed.durations, &other.demands)?.step;
                ("recomputation", Some((step, "activations kept")))
            }
            Category::Optimizer => {
                let only = model.of_optimizer();
                let step = model.with_kernels(|k, t| if only[k] { Nanos::ZERO } else { t })?;
                ("optimizer", Some((step, "in no time")))
            }
            Category::Tensor => ("exposed tensor-parallel comm.", communication(&[Tensor])?),
            Category::Context => ("exposed context-parallel comm.", communication(&[Context])?),
            Category::Expert => ("exposed expert-parallel comm.", communication(&[Expert])?),
            Category::Data => ("exposed data-parallel comm.", communication(&[Data, World])?),
            Category::Pipeline => ("exposed pipeline transfers", communication(&[Pipeline])?),
            Category::Bubble => ("pipeline bubble, unequal stages", None),
            Category::Host => {
                ("waiting for the host", Some((model.without_host()?, "a host without costs")))
            }
            Category::Idle => ("waiting for peers", None),
        };
        terms.push((category.key(), label), sum, removed);
    }
    Ok(())
}
