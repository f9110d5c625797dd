//! Which side moved since both were accepted, and which part of it.
//!
//! A measured side that moved is drift of the machine (or of the program that ran on it), a
//! predicted one drift of the model: of the simulator, of the catalogue or of the scenario. Parts
//! that only react, waiting for other ranks and idle time, are named last.
//!
//! Where the check itself is not what it was (another statistic, other steps, other ranks), nothing
//! can be said of either side.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::file::{Check, Metric, Statistic, StepOf};
use super::report::ranges;
use super::side::{Parts, Side};

/// Layout version of a baseline.
pub const BASELINE_SCHEMA: &str = "trainyard.baseline/2";

/// What both sides of the checks of a file were when they were accepted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Always [`BASELINE_SCHEMA`].
    pub schema: String,
    /// Program and version that wrote it.
    pub written_by: String,
    /// By name of the check.
    pub checks: BTreeMap<String, BaselineEntry>,
}

/// Both sides of a check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineEntry {
    /// What was compared, and how.
    pub basis: Basis,
    /// The measured side.
    pub measured: Side,
    /// The predicted side.
    pub predicted: Side,
}

/// What a check compares, and how: all of its keys that change its figures while machine and model
/// stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Basis {
    /// What is compared.
    pub metric: Metric,
    /// What stands for all steps.
    pub statistic: Statistic,
    /// What a step of a trace is.
    pub step: StepOf,
    /// Leading steps to skip; none where the rule decides.
    pub warm_up: Option<u32>,
    /// Column of a series, where the check names it.
    pub column: Option<String>,
    /// Kind of source that was measured: `trace`, `series`, `figure`.
    pub measured: String,
    /// Kind of prediction: `scenario`, `replay`, `trace`.
    pub predicted: String,
}

impl Basis {
    /// The basis of a check.
    #[must_use]
    pub fn of(check: &Check) -> Self {
        let measured = match &check.measured {
            source if source.trace.is_some() => "trace",
            source if source.series.is_some() => "series",
            _ => "figure",
        };
        let predicted = match &check.predicted {
            source if source.scenario.is_some() => "scenario",
            source if source.replay.is_some() => "replay",
            _ => "trace",
        };
        Self {
            metric: check.metric,
            statistic: check.statistic,
            step: check.measured.step,
            warm_up: check.warm_up,
            column: check.measured.column.clone(),
            measured: measured.into(),
            predicted: predicted.into(),
        }
    }

    /// What differs now, in words: `statistic was median and is max`.
    fn changes(&self, now: &Self) -> Vec<String> {
        let rule = |warm_up: Option<u32>| warm_up.map_or("the rule".into(), |n| n.to_string());
        let column = |column: &Option<String>| column.clone().unwrap_or("the metric's".into());
        let all = [
            ("metric", self.metric.name().to_owned(), now.metric.name().to_owned()),
            ("statistic", self.statistic.name().into(), now.statistic.name().into()),
            ("measured.step", self.step.name().into(), now.step.name().into()),
            ("warm_up", rule(self.warm_up), rule(now.warm_up)),
            ("measured.column", column(&self.column), column(&now.column)),
            ("measured", self.measured.clone(), now.measured.clone()),
            ("predicted", self.predicted.clone(), now.predicted.clone()),
        ];
        let changed = all.into_iter().filter(|(_, before, now)| before != now);
        changed.map(|(key, before, now)| format!("{key} was {before} and is {now}")).collect()
    }
}

/// What explains a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nothing moved.
    Neither,
    /// What was measured moved.
    Machine,
    /// What is predicted moved.
    Model,
    /// Both moved.
    Both,
    /// There is no baseline to tell.
    NoBaseline,
    /// The check is not what it was when the baseline was accepted.
    CheckChanged,
}

/// A part before and now: seconds, or bytes of memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MovedPart {
    /// Which.
    pub part: String,
    /// On which rank, where it is one.
    pub rank: Option<u32>,
    /// Before; of two sides the measured one.
    pub before: f64,
    /// Now; of two sides the predicted one.
    pub now: f64,
    /// The kernel or operation within it that moved most.
    pub kernel: Option<Box<MovedPart>>,
    /// Whether the other ranks moved by less than a quarter as much.
    pub alone: bool,
}

/// A side before and now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Moved {
    /// Before.
    pub before: f64,
    /// Now.
    pub now: f64,
    /// Change in percent of before.
    pub change_percent: f64,
    /// Whether it, or a part of it, moved by more than the limit.
    pub moved: bool,
    /// The part that moved most.
    pub part: Option<MovedPart>,
    /// Inputs of a prediction that are not what they were.
    pub inputs: Vec<String>,
}

/// What moved.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drift {
    /// Which side explains it.
    pub cause: Cause,
    /// The measured side, where there is a baseline.
    pub machine: Option<Moved>,
    /// The predicted side, where there is a baseline.
    pub model: Option<Moved>,
    /// Without a baseline: the part in which the two sides differ most.
    pub differs: Option<MovedPart>,
    /// What of the check itself is not what it was, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
}

/// Compares both sides with the baseline, or with each other where there is none.
#[must_use]
pub fn drift(
    measured: &Side,
    predicted: &Side,
    basis: &Basis,
    baseline: Option<&BaselineEntry>,
    limit_percent: f64,
) -> Drift {
    let mut changed = baseline.map_or(Vec::new(), |known| known.basis.changes(basis));
    if let Some(known) = baseline {
        for (what, before, now) in
            [("measured", &known.measured, measured), ("predicted", &known.predicted, predicted)]
        {
            if before.ranks != now.ranks {
                let (before, now) = (ranges(&before.ranks), ranges(&now.ranks));
                changed.push(format!("{what} ranks were {before} and are {now}"));
            }
        }
    }
    if !changed.is_empty() {
        let cause = Cause::CheckChanged;
        return Drift { cause, machine: None, model: None, differs: None, changed };
    }
    let Some(baseline) = baseline else {
        let differs = measured.parts.as_ref().zip(predicted.parts.as_ref());
        let differs = differs.and_then(|(measured, predicted)| {
            let (measured, predicted) = (common(&measured.total), common(&predicted.total));
            let whole: f64 = measured.values().sum();
            let part = largest(&measured, &predicted)?;
            (100.0 * (part.now - part.before).abs() > limit_percent * whole).then_some(part)
        });
        return Drift { cause: Cause::NoBaseline, machine: None, model: None, differs, changed };
    };
    let machine = moved(&baseline.measured, measured, limit_percent);
    let model = moved(&baseline.predicted, predicted, limit_percent);
    let cause = match (machine.moved, model.moved) {
        (false, false) => Cause::Neither,
        (true, false) => Cause::Machine,
        (false, true) => Cause::Model,
        (true, true) => Cause::Both,
    };
    Drift { cause, machine: Some(machine), model: Some(model), differs: None, changed }
}

fn moved(before: &Side, now: &Side, limit_percent: f64) -> Moved {
    let change = 100.0 * (now.value / before.value - 1.0);
    let part = before.parts.as_ref().zip(now.parts.as_ref());
    let part = part.and_then(|(before, now)| moved_part(before, now));
    let whole: f64 = before.parts.as_ref().map_or(0.0, |parts| parts.total.values().sum());
    let of_part = part.as_ref().map_or(0.0, |part| (part.now - part.before).abs());
    let part_moved = whole > 0.0 && 100.0 * of_part / whole > limit_percent;
    let moved = change.abs() > limit_percent || part_moved;
    let names = before.inputs.keys().chain(now.inputs.keys());
    let mut inputs: Vec<String> =
        names.filter(|name| before.inputs.get(*name) != now.inputs.get(*name)).cloned().collect();
    inputs.sort();
    inputs.dedup();
    Moved {
        before: before.value,
        now: now.value,
        change_percent: change,
        moved,
        part: part.filter(|_| moved),
        inputs,
    }
}

/// The part that moved most on the rank that sets the pace now.
fn moved_part(before: &Parts, now: &Parts) -> Option<MovedPart> {
    let rank = now.rank.filter(|rank| before.ranks.contains_key(rank));
    let of = |parts: &Parts| -> BTreeMap<String, f64> {
        rank.and_then(|rank| parts.ranks.get(&rank)).unwrap_or(&parts.total).clone()
    };
    let mut part = largest(&of(before), &of(now))?;
    part.rank = rank;
    part.alone = rank.is_some_and(|rank| {
        alone(&before.ranks, &now.ranks, rank, &part.part, part.now - part.before)
    });
    if let Some(rank) = rank
        && let (Some(a), Some(b)) = (before.kernels.get(&rank), now.kernels.get(&rank))
        && let Some(mut kernel) = most(a, b)
        && kernel.now != kernel.before
    {
        kernel.rank = Some(rank);
        let change = kernel.now - kernel.before;
        kernel.alone = alone(&before.kernels, &now.kernels, rank, &kernel.part, change);
        // Idle time is no kernel's.
        let of_kernels = !reacts(&part.part) && (change > 0.0) == (part.now > part.before);
        part.kernel = of_kernels.then(|| Box::new(kernel));
    }
    Some(part)
}

/// Whether the other ranks have the part and moved by less than a quarter as much.
fn alone(
    before: &BTreeMap<u32, BTreeMap<String, f64>>,
    now: &BTreeMap<u32, BTreeMap<String, f64>>,
    rank: u32,
    part: &str,
    change: f64,
) -> bool {
    let value = |side: &BTreeMap<u32, BTreeMap<String, f64>>, rank: u32| {
        side.get(&rank).and_then(|parts| parts.get(part)).copied().unwrap_or(0.0)
    };
    let others: Vec<u32> = now.keys().copied().filter(|other| *other != rank).collect();
    let quiet =
        |other: &u32| (value(now, *other) - value(before, *other)).abs() < change.abs() / 4.0;
    !others.is_empty() && others.iter().all(quiet)
}

/// Parts that only react to others.
fn reacts(part: &str) -> bool {
    part.starts_with("waiting")
        || part.starts_with("idle")
        || matches!(part, "host" | "pipeline_bubble")
}

/// The part that differs most, one that does not only react unless it explains less than half.
fn largest(before: &BTreeMap<String, f64>, now: &BTreeMap<String, f64>) -> Option<MovedPart> {
    let sum = |parts: &BTreeMap<String, f64>| parts.values().sum::<f64>();
    let whole = (sum(now) - sum(before)).abs();
    let acting = |parts: &BTreeMap<String, f64>| -> BTreeMap<String, f64> {
        let kept = parts.iter().filter(|(part, _)| !reacts(part));
        kept.map(|(part, value)| (part.clone(), *value)).collect()
    };
    let by = |part: &MovedPart| (part.now - part.before).abs();
    let acts = most(&acting(before), &acting(now)).filter(|part| by(part) >= whole / 2.0);
    acts.filter(|part| by(part) > 0.0).or_else(|| most(before, now))
}

fn most(before: &BTreeMap<String, f64>, now: &BTreeMap<String, f64>) -> Option<MovedPart> {
    let value = |parts: &BTreeMap<String, f64>, name: &str| parts.get(name).copied().unwrap_or(0.0);
    let names: std::collections::BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let parts = names.into_iter().map(|name| MovedPart {
        part: name.clone(),
        rank: None,
        before: value(before, name),
        now: value(now, name),
        kernel: None,
        alone: false,
    });
    parts.max_by(|a, b| (a.now - a.before).abs().total_cmp(&(b.now - b.before).abs()))
}

/// Parts under names that measured and predicted sides share.
fn common(parts: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    for (part, value) in parts {
        let name = match part.as_str() {
            "compute" | "recompute" | "optimizer" => "compute",
            "exposed_memory" => "memory operations",
            "host" | "idle_host" | "idle_launch" => "host",
            "pipeline_bubble" | "idle" | "idle_device" => "waiting",
            "waiting_for_ranks" | "waiting_outside_of_span" => "waiting",
            part if part.starts_with("exposed_") => "exposed communication",
            part => part,
        };
        *sums.entry(name.to_owned()).or_default() += value;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(value: f64, ranks: &[(u32, &[(&str, f64)])], pace: u32) -> Side {
        let ranks: BTreeMap<u32, BTreeMap<String, f64>> = ranks
            .iter()
            .map(|(rank, parts)| {
                (*rank, parts.iter().map(|(part, value)| ((*part).to_owned(), *value)).collect())
            })
            .collect();
        let total = ranks[&pace].clone();
        let parts = Parts { rank: Some(pace), total, ranks, ..Parts::default() };
        Side { value, parts: Some(parts), ..Side::default() }
    }

    #[test]
    fn the_rank_that_all_wait_for_is_named_and_not_the_waiting() {
        let before = side(
            10.0,
            &[(0, &[("compute", 8.0), ("waiting_for_ranks", 2.0)]), (1, &[("compute", 10.0)])],
            1,
        );
        let now = side(
            15.0,
            &[(0, &[("compute", 8.0), ("waiting_for_ranks", 7.0)]), (1, &[("compute", 15.0)])],
            1,
        );
        let basis = Basis::default();
        let entry = BaselineEntry {
            basis: basis.clone(),
            measured: before.clone(),
            predicted: before.clone(),
        };
        let found = drift(&now, &before, &basis, Some(&entry), 2.0);
        assert_eq!(found.cause, Cause::Machine);
        let part = found.machine.unwrap().part.unwrap();
        assert_eq!((part.part.as_str(), part.rank, part.alone), ("compute", Some(1), true));
        let found = drift(&before, &now, &basis, Some(&entry), 2.0);
        assert_eq!(found.cause, Cause::Model);
        let found = drift(&before, &before, &basis, Some(&entry), 2.0);
        assert_eq!((found.cause, found.machine.unwrap().part), (Cause::Neither, None));
    }

    #[test]
    fn another_check_is_no_drift() {
        let at = |value: f64| side(value, &[(0, &[("compute", value)])], 0);
        let entry =
            BaselineEntry { basis: Basis::default(), measured: at(10.0), predicted: at(10.0) };
        let told = |basis: Basis| {
            let found = drift(&at(15.0), &at(10.0), &basis, Some(&entry), 2.0);
            assert_eq!((found.cause, &found.machine), (Cause::CheckChanged, &None));
            found.changed.join("; ")
        };
        let plain = Basis::default();
        assert_eq!(
            told(Basis { statistic: Statistic::Max, ..plain.clone() }),
            "statistic was median and is max"
        );
        assert_eq!(
            told(Basis { warm_up: Some(2), step: StepOf::Window, ..plain.clone() }),
            "measured.step was span and is window; warm_up was the rule and is 2"
        );
        assert!(told(Basis { metric: Metric::Mfu, ..plain.clone() }).contains("metric was"));
        assert!(told(Basis { predicted: "replay".into(), ..plain }).contains("and is replay"));
        let lost = Side { ranks: vec![0, 1, 2, 5], ..at(15.0) };
        let found = drift(&lost, &at(10.0), &Basis::default(), Some(&entry), 2.0);
        assert_eq!(found.changed, ["measured ranks were none and are 0-2, 5"]);
    }

    #[test]
    fn idle_time_is_named_where_nothing_else_moved() {
        let before = side(10.0, &[(0, &[("compute", 9.0), ("idle_host", 1.0)])], 0);
        let now = side(14.0, &[(0, &[("compute", 9.1), ("idle_host", 4.9)])], 0);
        let part = moved(&before, &now, 2.0).part.unwrap();
        assert_eq!(part.part, "idle_host");
    }

    #[test]
    fn parts_that_cancel_are_drift_too() {
        let before = side(10.0, &[(0, &[("compute", 9.0), ("exposed_all_reduce", 1.0)])], 0);
        let now = side(10.0, &[(0, &[("compute", 7.0), ("exposed_all_reduce", 3.0)])], 0);
        assert!(moved(&before, &now, 2.0).moved);
    }
}
