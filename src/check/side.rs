//! The two sides of a check: a number, and what it consists of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::outcome::{RunResult, WhatIf, replayed_ranks};
use crate::trace::analysis::{
    RankComponents, SHORTER, StepComponents, pacing_rank, step_components,
};
use crate::trace::header::{Losses, RankHeader};
use crate::trace::model::RankTrace;

use super::file::{Check, Metric, Statistic, StepOf};
use super::series::{Series, median, settle};

/// Kernel names that are kept of a rank, longest first.
const MOST_KERNELS: usize = 48;
/// Ranks whose parts are kept one by one.
const MOST_RANKS: usize = 256;

/// One side of a check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// Where it comes from, for people.
    pub origin: String,
    /// In the unit of the metric.
    pub value: f64,
    /// Ranks of a trace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<u32>,
    /// What is missing of a trace so that it cannot stand for the job, in words: files that ended
    /// early, ranks that could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incomplete: Vec<String>,
    /// What else of a trace was lost, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<String>,
    /// Steps behind it; none for a single figure and for a prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Half of the distance between the quartiles of the steps, over their median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<f64>,
    /// Which steps were skipped, and why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// What it consists of, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<Parts>,
    /// Hashes of what a prediction rests on, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
}

/// What a side consists of: seconds of a step, or bytes of memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// The rank that sets the pace; none where all ranks are meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// Its parts, or means over all ranks.
    pub total: BTreeMap<String, f64>,
    /// Parts of every rank.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ranks: BTreeMap<u32, BTreeMap<String, f64>>,
    /// Device time of every rank by the name of kernels and operations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kernels: BTreeMap<u32, BTreeMap<String, f64>>,
}

/// A single measured figure.
#[must_use]
pub fn measured_figure(value: f64, source: &str) -> Side {
    Side { origin: source.to_owned(), value, ..Side::default() }
}

/// A measured series. Where it holds seconds and another metric is asked for, `prediction` tells
/// how much a step is.
///
/// # Errors
/// The metric cannot be derived from seconds.
pub fn measured_series(
    origin: &str,
    series: &Series,
    check: &Check,
    prediction: Option<&RunResult>,
) -> Result<Side> {
    let metric = check.metric;
    let seconds = series.column == Metric::StepTime.column() || metric == Metric::StepTime;
    let settled = settle(&series.values, check.warm_up, check.statistic, seconds)?;
    let derived = seconds && metric != Metric::StepTime;
    Ok(Side {
        origin: origin.to_owned(),
        value: if derived { of_step(settled.value, metric, prediction)? } else { settled.value },
        steps: Some(settled.steps),
        spread: settled.spread,
        rule: settled.rule,
        ..Side::default()
    })
}

/// A metric that is proportional to the inverse of the step.
fn of_step(seconds: f64, metric: Metric, prediction: Option<&RunResult>) -> Result<f64> {
    let known = prediction.ok_or_else(|| {
        Error::Unsupported(format!("{} from step times needs a scenario", metric.name()))
    })?;
    let faster = known.step.seconds / seconds;
    match metric {
        Metric::StepTime => Ok(seconds),
        Metric::TokensPerSecond => Ok(known.throughput.tokens_per_second * faster),
        Metric::Mfu => Ok(known.throughput.mfu * faster),
        Metric::MemoryPeak => Err(Error::Unsupported("step times say nothing about memory".into())),
    }
}

/// A measured trace of ranks that ran together.
///
/// # Errors
/// It has no device work, or the metric cannot be derived from its steps.
pub fn measured_trace(
    origin: &str,
    ranks: &[RankTrace],
    check: &Check,
    prediction: Option<&RunResult>,
) -> Result<Side> {
    let mut side = of_trace(origin, ranks, check.measured.step, check)?;
    if check.metric != Metric::StepTime {
        side.value = of_step(side.value, check.metric, prediction)?;
    }
    Ok(side)
}

fn of_trace(origin: &str, ranks: &[RankTrace], step: StepOf, check: &Check) -> Result<Side> {
    let mut steps = step_components(ranks)?;
    if step == StepOf::Window {
        for step in &mut steps {
            step.step_ns = step.window_ns.ok_or_else(|| {
                Error::Missing(format!("{origin}: the recording has no steps, and no windows"))
            })?;
        }
    }
    if steps.iter().all(|step| step.step_ns == 0) {
        return Err(Error::Missing(format!("{origin}: no device work in any step")));
    }
    let values: Vec<f64> = steps.iter().map(|step| step.step_ns as f64 / 1e9).collect();
    let settled = settle(&values, check.warm_up, check.statistic, true)?;
    let lost = |of: &dyn Fn(&Losses) -> Vec<String>| -> Vec<String> {
        let lines = ranks.iter().flat_map(|rank| {
            let RankHeader { rank, source, losses, .. } = &rank.header;
            of(losses).into_iter().map(move |line| format!("rank {rank} ({}) {line}", source.file))
        });
        lines.collect()
    };
    let mut used: Vec<StepComponents> = settled.used.iter().map(|i| steps[*i].clone()).collect();
    for step in &mut used {
        for rank in step.ranks.values_mut() {
            let rest = step.step_ns - rank.span_ns;
            if rest > 0 {
                rank.components.insert(SHORTER.to_owned(), rest);
            }
        }
    }
    Ok(Side {
        origin: origin.to_owned(),
        value: settled.value,
        ranks: ranks.iter().map(|rank| rank.header.rank).collect(),
        incomplete: lost(&|losses| losses.cut().into_iter().collect()),
        losses: lost(&|losses| losses.others()),
        steps: Some(settled.steps),
        spread: settled.spread,
        rule: settled.rule,
        parts: Some(parts(&used, check.statistic)),
        ..Side::default()
    })
}

/// Each part over the steps, by the statistic.
fn parts(steps: &[StepComponents], statistic: Statistic) -> Parts {
    let rank = pacing_rank(steps);
    let mut found = Parts { rank, ..Parts::default() };
    let numbers: std::collections::BTreeSet<u32> =
        steps.iter().flat_map(|step| step.ranks.keys().copied()).collect();
    let one = |rank: u32, of: &dyn Fn(&RankComponents) -> &BTreeMap<String, i64>| {
        let present: Vec<&BTreeMap<String, i64>> =
            steps.iter().filter_map(|step| step.ranks.get(&rank)).map(of).collect();
        let mut lists: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, ns) in present.iter().flat_map(|map| map.iter()) {
            lists.entry(name).or_default().push(*ns as f64 / 1e9);
        }
        let values = lists.into_iter().map(|(name, mut list)| {
            // A step without the part took none of it.
            list.resize(present.len(), 0.0);
            let value = match statistic {
                Statistic::Median => median(&list),
                Statistic::Mean | Statistic::Max => {
                    list.iter().sum::<f64>() / list.len().max(1) as f64
                }
            };
            (name.to_owned(), value)
        });
        values.collect::<BTreeMap<String, f64>>()
    };
    for number in numbers {
        let listed = found.ranks.len() < MOST_RANKS;
        if !listed && Some(number) != rank {
            continue;
        }
        found.ranks.insert(number, one(number, &|found| &found.components));
        let mut kernels: Vec<(String, f64)> =
            one(number, &|found| &found.kernels).into_iter().collect();
        kernels.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        kernels.truncate(MOST_KERNELS);
        found.kernels.insert(number, kernels.into_iter().collect());
    }
    found.total = rank.and_then(|rank| found.ranks.get(&rank)).cloned().unwrap_or_default();
    found
}

/// The replay of a trace, with what the check scales.
///
/// # Errors
/// As [`replayed_ranks`].
pub fn predicted_replay(origin: &str, ranks: &[RankTrace], check: &Check) -> Result<Side> {
    let scale = &check.predicted.scale;
    let scales = scale.iter().map(|(name, by)| (name.clone(), *by)).collect();
    let what_if = WhatIf { scales, ..WhatIf::default() };
    let mut side = of_trace(origin, &replayed_ranks(ranks, &what_if)?, StepOf::Span, check)?;
    let first = ranks.first().map_or("", |rank| rank.header.trace.as_str());
    side.inputs.insert(format!("trace {first}"), hash_of(ranks));
    if !scale.is_empty() {
        side.inputs.insert("scale".into(), format!("{scale:?}"));
    }
    Ok(side)
}

/// An earlier recording as it is.
///
/// # Errors
/// It has no device work.
pub fn predicted_trace(origin: &str, ranks: &[RankTrace], check: &Check) -> Result<Side> {
    let mut side = of_trace(origin, ranks, check.measured.step, check)?;
    let first = ranks.first().map_or("", |rank| rank.header.trace.as_str());
    side.inputs.insert(format!("trace {first}"), hash_of(ranks));
    Ok(side)
}

/// Hash of the times of a recording, to tell one from another.
fn hash_of(ranks: &[RankTrace]) -> String {
    let mut hasher = blake3::Hasher::new();
    for event in ranks.iter().flat_map(|rank| &rank.events) {
        hasher.update(&event.start_ns.to_le_bytes());
        hasher.update(&event.dur_ns.to_le_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// A simulated scenario.
#[must_use]
pub fn predicted_scenario(origin: &str, result: &RunResult, metric: Metric) -> Side {
    let value = match metric {
        Metric::StepTime => result.step.seconds,
        Metric::TokensPerSecond => result.throughput.tokens_per_second,
        Metric::Mfu => result.throughput.mfu,
        Metric::MemoryPeak => result.memory.peak_bytes_per_device,
    };
    let total = if metric == Metric::MemoryPeak {
        let classes = serde_json::to_value(&result.memory.by_class).unwrap_or_default();
        let classes = classes.as_object().into_iter().flatten();
        classes.filter_map(|(name, bytes)| Some((name.clone(), bytes.as_f64()?))).collect()
    } else {
        result.step.breakdown.clone()
    };
    let inputs = result.inputs.iter().map(|input| (input.name.clone(), input.hash.clone()));
    let scenario = [("scenario".to_owned(), result.scenario.hash.clone())];
    Side {
        origin: origin.to_owned(),
        value,
        parts: Some(Parts { total, ..Parts::default() }),
        inputs: inputs.chain(scenario).collect(),
        ..Side::default()
    }
}
