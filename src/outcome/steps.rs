//! Replay of jobs that were recorded operation by operation, step by step, and what-ifs on them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::replay::{HostTimes, Lumping, Sweep};
use crate::trace::model::RankTrace;
use crate::trace::steps::{Job, Operation, Step, job};

use super::recorded::durations_of;

/// A step's recorded and replayed time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepReplay {
    /// Its name as recorded.
    pub step: String,
    /// Recorded time.
    pub measured_ns: i64,
    /// Time of the replay.
    pub replayed_ns: i64,
    /// Recorded time that durations, dependencies and modelled delays do not explain.
    pub unexplained_ns: i64,
    /// Time under the what-if, where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_ns: Option<i64>,
}

/// What stragglers cost a job: times without host delays, so that only the operations differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stragglers {
    /// Mean step, replayed without host delays.
    pub replayed_ns: i64,
    /// Mean step where every operation takes the mean of its name over all ranks and steps.
    pub ideal_ns: i64,
    /// The first over the second.
    pub slowdown: f64,
    /// Slowdown if only a stage keeps its own durations and all others take the mean.
    pub by_stage: BTreeMap<usize, f64>,
    /// The same for a rank.
    pub by_rank: BTreeMap<u32, f64>,
    /// Stage that slows most.
    pub worst_stage: usize,
    /// Rank that slows most.
    pub worst_rank: u32,
    /// Step if the worst stage took the mean instead.
    pub without_worst_stage_ns: i64,
    /// Step if the worst rank took the mean instead.
    pub without_worst_rank_ns: i64,
}

/// The second half of the steps, predicted from parameters of the first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HalfPrediction {
    /// Predicted step.
    pub predicted_ns: i64,
    /// Steps that it is held to, and their recorded times.
    pub measured: Vec<(String, i64)>,
    /// Mean of the absolute errors, as a share.
    pub mean_error: f64,
    /// Largest absolute error, as a share.
    pub largest_error: f64,
}

/// Time of a step whose operations take what `duration` says.
fn time(
    job: &Job,
    step: &Step,
    delays: bool,
    duration: &dyn Fn(usize, usize) -> i64,
) -> Result<i64> {
    let program = job.program(step, duration, delays)?;
    let durations = durations_of(&program, HostTimes::default());
    let lumping = Lumping::none(&program, &durations);
    Ok(Sweep::run(&program, &durations, &lumping)?.step().0)
}

/// How many times as long an operation takes: by rank, name, and whether it communicates.
pub type Factor<'a> = dyn Fn(u32, &str, bool) -> f64 + 'a;

/// Replays the steps of a job unchanged, waiting and host delays derived again; under a what-if
/// each operation's duration is multiplied by what `factor` says for its rank and name.
///
/// # Errors
/// The ranks have no operations in steps, or recorded them in different orders.
pub fn replay_steps(ranks: &[RankTrace], factor: Option<&Factor<'_>>) -> Result<Vec<StepReplay>> {
    let job = job(ranks)?;
    let replays = job.steps.iter().map(|step| {
        let alone = |rank: usize, index: usize| step.ranks[rank][index].alone_ns;
        let replayed_ns = time(&job, step, true, &alone)?;
        let predicted_ns = match factor {
            Some(factor) => Some(time(&job, step, true, &|rank, index| {
                let operation = &step.ranks[rank][index];
                let by = factor(job.places[rank].0, &operation.name, operation.meets);
                (alone(rank, index) as f64 * by).round() as i64
            })?),
            None => None,
        };
        Ok(StepReplay {
            step: step.name.clone(),
            measured_ns: step.measured_ns,
            replayed_ns,
            unexplained_ns: step.measured_ns - replayed_ns,
            predicted_ns,
        })
    });
    replays.collect()
}

/// Mean duration of operations by name: over all ranks and steps.
fn means(job: &Job) -> BTreeMap<&str, i64> {
    let mut sums: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for operation in job.steps.iter().flat_map(|step| step.ranks.iter().flatten()) {
        let (sum, count) = sums.entry(operation.name.as_str()).or_default();
        *sum += operation.alone_ns;
        *count += 1;
    }
    sums.into_iter().map(|(name, (sum, count))| (name, sum / count.max(1))).collect()
}

/// Medians are of transfers, whose long tail is waiting that could not be told apart.
fn medians(job: &Job) -> BTreeMap<&str, i64> {
    let mut lists: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for operation in job.steps.iter().flat_map(|step| step.ranks.iter().flatten()) {
        lists.entry(operation.name.as_str()).or_default().push(operation.alone_ns);
    }
    lists.into_iter().map(|(name, mut list)| (name, middle(&mut list))).collect()
}

fn middle(list: &mut [i64]) -> i64 {
    list.sort_unstable();
    list.get(list.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

/// What operations of a job take where nobody straggles.
pub(super) struct Relief<'a> {
    job: &'a Job,
    means: BTreeMap<&'a str, i64>,
    medians: BTreeMap<&'a str, i64>,
}

impl<'a> Relief<'a> {
    pub(super) fn of(job: &'a Job) -> Self {
        Self { job, means: means(job), medians: medians(job) }
    }

    /// What an operation takes, its own time or what it should take.
    pub(super) fn duration(&self, operation: &Operation, keeps: bool) -> i64 {
        let usual = if operation.meets { &self.medians } else { &self.means };
        match usual.get(operation.name.as_str()) {
            Some(usual) if !keeps => *usual,
            _ => operation.alone_ns,
        }
    }

    /// The mean step, without host delays, where the ranks at positions that `keeps` names keep
    /// their durations.
    pub(super) fn mean_step(&self, keeps: &dyn Fn(usize) -> bool) -> Result<i64> {
        let mut total = 0_i64;
        for step in &self.job.steps {
            total += time(self.job, step, false, &|rank, index| {
                self.duration(&step.ranks[rank][index], keeps(rank))
            })?;
        }
        Ok(total / self.job.steps.len() as i64)
    }
}

/// What stragglers cost, and whose they are.
///
/// # Errors
/// As [`replay_steps`].
pub fn stragglers(ranks: &[RankTrace]) -> Result<Stragglers> {
    let job = job(ranks)?;
    let relief = Relief::of(&job);
    let mean_step = |keeps: &dyn Fn(usize) -> bool| relief.mean_step(keeps);
    let replayed_ns = mean_step(&|_| true)?;
    let ideal_ns = mean_step(&|_| false)?;
    let share = |ns: i64| ns as f64 / ideal_ns.max(1) as f64;
    let (mut by_stage, mut by_rank) = (BTreeMap::new(), BTreeMap::new());
    for (position, (rank, stage, _)) in job.places.iter().enumerate() {
        by_rank.insert(*rank, share(mean_step(&|other| other == position)?));
        if !by_stage.contains_key(stage) {
            by_stage.insert(*stage, share(mean_step(&|other| job.places[other].1 == *stage)?));
        }
    }
    let worst = |found: Option<usize>| found.ok_or_else(|| Error::Missing("no ranks".into()));
    let worst_stage =
        worst(by_stage.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(stage, _)| *stage))?;
    let worst_rank =
        worst(by_rank.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(rank, _)| *rank as usize))?;
    Ok(Stragglers {
        replayed_ns,
        ideal_ns,
        slowdown: share(replayed_ns),
        without_worst_stage_ns: mean_step(&|other| job.places[other].1 != worst_stage)?,
        without_worst_rank_ns: mean_step(&|other| job.places[other].0 as usize != worst_rank)?,
        by_stage,
        by_rank,
        worst_stage,
        worst_rank: worst_rank as u32,
    })
}

/// Predicts the second half of the steps from the medians of the first, by rank, operation and
/// number within the step. Host delays are medians of the first half, too.
///
/// # Errors
/// As [`replay_steps`], or there are fewer than two steps.
pub fn predict_second_half(ranks: &[RankTrace]) -> Result<HalfPrediction> {
    let mut all = job(ranks)?;
    let rest = all.steps.split_off(all.steps.len() / 2);
    let names: Vec<String> = all.steps.iter().map(|step| step.name.clone()).collect();
    // The job again from the first half alone, so that delays know nothing of the second.
    let first: Vec<RankTrace> = ranks
        .iter()
        .map(|rank| {
            let mut rank = rank.clone();
            rank.header.windows.retain(|window| names.contains(&window.name));
            rank
        })
        .collect();
    let first = job(&first)?;
    let mut lists: BTreeMap<(usize, &str, usize), Vec<i64>> = BTreeMap::new();
    for step in &first.steps {
        for (rank, operations) in step.ranks.iter().enumerate() {
            for operation in operations {
                let key = (rank, operation.name.as_str(), operation.nth);
                lists.entry(key).or_default().push(operation.alone_ns);
            }
        }
    }
    let parameters: BTreeMap<_, i64> =
        lists.into_iter().map(|(key, mut list)| (key, middle(&mut list))).collect();
    let shape = first.steps.last().ok_or_else(|| Error::Missing("fewer than two steps".into()))?;
    let predicted_ns = time(&first, shape, true, &|rank, index| {
        let operation = &shape.ranks[rank][index];
        parameters[&(rank, operation.name.as_str(), operation.nth)]
    })?;
    let measured: Vec<(String, i64)> =
        rest.iter().map(|step| (step.name.clone(), step.measured_ns)).collect();
    let errors: Vec<f64> = measured
        .iter()
        .map(|(_, ns)| (predicted_ns - ns).abs() as f64 / (*ns).max(1) as f64)
        .collect();
    Ok(HalfPrediction {
        predicted_ns,
        measured,
        mean_error: errors.iter().sum::<f64>() / errors.len().max(1) as f64,
        largest_error: errors.iter().copied().fold(0.0, f64::max),
    })
}
