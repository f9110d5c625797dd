//! Statistics beyond the error of a row: order within sweeps, what choosing the predicted-best plan
//! costs, ratios between accelerators, memory.
//!
//! All of them compare rates (tokens per second and device), so that rows of one group may differ
//! in batch. Rows of one configuration that were measured several times count once, by medians.

use std::collections::BTreeMap;

use super::row::{Row, RowSpec};
use super::score::{error_of, quantile};
use super::{Outcome, Status};

/// Measurements closer than this are not told apart: identical hardware, model and batch repeat to
/// 0.5 to 4 % between submitters.
pub const NOISE: f64 = 0.01;

/// Kendall's tau of (predicted, measured) pairs: concordant minus discordant over the pairs whose
/// measurements differ by more than `noise`. A pair that is predicted equal counts as neither.
/// `None` where no pair can be told apart.
#[must_use]
pub fn kendall_tau(points: &[(f64, f64)], noise: f64) -> Option<f64> {
    let (agree, told) = agreement(points, noise);
    (told > 0).then(|| agree as f64 / told as f64)
}

/// Concordant minus discordant pairs, and pairs that the measurement tells apart.
fn agreement(points: &[(f64, f64)], noise: f64) -> (i64, i64) {
    let (mut agree, mut told) = (0, 0);
    for (i, a) in points.iter().enumerate() {
        for b in &points[..i] {
            if (a.1 / b.1).ln().abs() <= noise {
                continue;
            }
            told += 1;
            let product = (a.0 - b.0) * (a.1 - b.1);
            agree += i64::from(product > 0.0) - i64::from(product < 0.0);
        }
    }
    (agree, told)
}

/// What choosing the plan with the best predicted rate costs: the time of that plan over the time
/// of the best one, as measured, less one. Points are (predicted, measured) rates.
#[must_use]
pub fn regret(points: &[(f64, f64)]) -> Option<f64> {
    let chosen = points.iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
    let best = points.iter().map(|point| point.1).fold(0.0, f64::max);
    Some(best / chosen.1 - 1.0)
}

/// A row that was predicted and measured, and may be scored.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// Configuration.
    pub spec: &'a RowSpec,
    /// Prediction and measurement.
    pub outcome: &'a Outcome,
    /// Predicted and measured tokens per second and device.
    pub rates: (f64, f64),
}

/// The rows that can be compared, in their order, without those that a figure was fitted on;
/// `outcomes` are of `rows`, in the same order.
#[must_use]
pub fn cases<'a>(rows: &'a [Row], outcomes: &'a [Outcome]) -> Vec<Case<'a>> {
    rows.iter()
        .zip(outcomes)
        .filter(|(_, outcome)| outcome.labels.scored && !outcome.fitted)
        .filter(|(_, outcome)| outcome.prediction.status == Status::Ok)
        .filter_map(|(row, outcome)| {
            let predicted = outcome.prediction.tokens_per_s_per_device?;
            let measured = predicted * (1.0 + error_of(outcome)?);
            Some(Case { spec: row.spec.as_ref().ok()?, outcome, rates: (predicted, measured) })
        })
        .collect()
}

/// What of a configuration names it, by field.
fn fields(spec: &RowSpec) -> Vec<(&'static str, String)> {
    let count = |value: Option<u32>| value.map_or_else(String::new, |v| v.to_string());
    let size = |value: Option<u32>| value.unwrap_or(1).to_string();
    let model = if spec.model_key.is_empty() { &spec.model } else { &spec.model_key };
    // The number of micro-batches follows from batch and micro-batch.
    let options: Vec<String> = spec
        .options
        .iter()
        .filter(|(key, _)| key != "grad_accumulation")
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    vec![
        ("accelerator", spec.accelerator.clone()),
        ("model", model.clone()),
        ("layers", count(spec.layers)),
        ("hidden", count(spec.hidden)),
        ("heads", count(spec.heads)),
        ("kv_heads", count(spec.kv_heads)),
        ("ffn", count(spec.ffn_hidden)),
        ("vocab", count(spec.vocab)),
        ("devices", count(spec.devices)),
        ("sequence", count(spec.sequence)),
        ("precision", spec.precision.to_lowercase()),
        ("tp", size(spec.tensor)),
        ("pp", size(spec.pipeline)),
        ("vpp", size(spec.chunks)),
        ("cp", size(spec.context)),
        ("ep", size(spec.expert)),
        ("dp", count(spec.data)),
        ("sharding", spec.sharding.clone()),
        ("sequence_parallel", spec.sequence_parallel.map_or_else(String::new, |v| v.to_string())),
        ("recompute", spec.recompute.clone()),
        ("attention", spec.attention.clone()),
        ("micro_batch", count(spec.micro_batch)),
        ("global_batch", count(spec.global_batch)),
        ("framework", spec.framework.clone()),
        ("options", options.join(";")),
    ]
}

/// Rows that differ in the named fields only.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Source of its rows.
    pub source: String,
    /// What its rows have in common, for people.
    pub name: String,
    /// (Predicted, measured) rates, one per value of what varies.
    pub points: Vec<(f64, f64)>,
}

/// Groups of cases: equal in every field but `varied` and `free`, one point per distinct value of
/// `varied`. At least `least` points are needed, and two values of the first varied field unless
/// that is a choice among many.
fn groups(cases: &[Case<'_>], varied: &[&str], free: &[&str], least: usize) -> Vec<Group> {
    type Points = BTreeMap<Vec<String>, Vec<(f64, f64)>>;
    let mut found: BTreeMap<Vec<String>, (String, String, Points)> = BTreeMap::new();
    for case in cases {
        let all = fields(case.spec);
        let mut key = vec![case.outcome.labels.source_group.clone()];
        key.extend(
            all.iter()
                .filter(|(name, _)| !varied.contains(name) && !free.contains(name))
                .map(|(_, value)| value.clone()),
        );
        let value = |name: &str| {
            all.iter().find(|(n, _)| *n == name).map_or_else(String::new, |(_, v)| v.clone())
        };
        let point: Vec<String> = varied.iter().map(|name| value(name)).collect();
        let label = || {
            let shown = [("", "model"), (" on ", "devices"), (", batch ", "global_batch")];
            shown
                .iter()
                .filter(|(_, n)| !varied.contains(n) && !free.contains(n) && !value(n).is_empty())
                .map(|(before, n)| format!("{before}{}", value(n)))
                .collect::<String>()
        };
        let group = found
            .entry(key)
            .or_insert_with(|| (case.outcome.labels.source_group.clone(), label(), Points::new()));
        group.2.entry(point).or_default().push(case.rates);
    }
    found
        .into_values()
        .filter(|(_, _, points)| {
            let mut first: Vec<&String> = points.keys().filter_map(|key| key.first()).collect();
            first.dedup();
            points.len() >= least && (varied.len() != 2 || first.len() > 1)
        })
        .map(|(source, name, points)| Group {
            source,
            name,
            points: points
                .values()
                .map(|rates| {
                    let of = |pick: fn(&(f64, f64)) -> f64| {
                        quantile(&rates.iter().map(pick).collect::<Vec<_>>(), 0.5)
                    };
                    (of(|r| r.0), of(|r| r.1))
                })
                .collect(),
        })
        .collect()
}

/// Plans measured for one model, devices, batch, sequence length, format and framework; three at
/// least.
#[must_use]
pub fn plan_groups(cases: &[Case<'_>]) -> Vec<Group> {
    const PLAN: [&str; 11] = [
        "tp",
        "pp",
        "vpp",
        "cp",
        "ep",
        "dp",
        "micro_batch",
        "sharding",
        "sequence_parallel",
        "recompute",
        "options",
    ];
    groups(cases, &PLAN, &["attention"], 3)
}

/// Sweeps of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweeps {
    /// What varies.
    pub kind: &'static str,
    /// The sweeps with a pair that the measurement tells apart.
    pub groups: Vec<Group>,
}

impl Sweeps {
    /// Mean of the sweeps' tau.
    #[must_use]
    pub fn mean_tau(&self) -> Option<f64> {
        let taus = self.taus();
        (!taus.is_empty()).then(|| taus.iter().sum::<f64>() / taus.len() as f64)
    }

    /// Tau over the pairs of all sweeps, none across sweeps.
    #[must_use]
    pub fn pooled_tau(&self) -> Option<f64> {
        let (agree, told) = self
            .groups
            .iter()
            .map(|group| agreement(&group.points, NOISE))
            .fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
        (told > 0).then(|| agree as f64 / told as f64)
    }

    /// Tau of every sweep.
    #[must_use]
    pub fn taus(&self) -> Vec<f64> {
        self.groups.iter().filter_map(|group| kendall_tau(&group.points, NOISE)).collect()
    }
}

/// The sweeps of the rows by what varies in them.
#[must_use]
pub fn sweeps(cases: &[Case<'_>]) -> Vec<Sweeps> {
    let kinds: [(&'static str, &[&str], &[&str]); 6] = [
        ("sequence length", &["sequence"], &["micro_batch", "global_batch"]),
        ("tensor parallel", &["tp"], &["dp", "micro_batch"]),
        ("context parallel", &["cp", "sequence"], &["dp", "micro_batch", "global_batch"]),
        ("micro-batch", &["micro_batch"], &[]),
        ("layout", &["tp", "pp", "vpp", "cp", "ep", "dp"], &[]),
        ("heads", &["heads"], &["kv_heads"]),
    ];
    kinds
        .into_iter()
        .map(|(kind, varied, free)| {
            let mut groups = groups(cases, varied, free, 2);
            groups.retain(|group| agreement(&group.points, NOISE).1 > 0);
            Sweeps { kind, groups }
        })
        .collect()
}

/// Rates of one configuration on two accelerators.
#[derive(Clone, Debug, PartialEq)]
pub struct Ratio {
    /// The configuration.
    pub name: String,
    /// Predicted rate on the second over that on the first.
    pub predicted: f64,
    /// The same as measured.
    pub measured: f64,
}

impl Ratio {
    /// Predicted over measured ratio, less one.
    #[must_use]
    pub fn error(&self) -> f64 {
        self.predicted / self.measured - 1.0
    }
}

/// Ratios between two accelerators, named by a part of their names, in the rows of a source: equal
/// model, devices, sequence length and format, and equal batch and layout where `strict`.
#[must_use]
pub fn ratios(
    cases: &[Case<'_>],
    source: &str,
    accelerators: [&str; 2],
    strict: bool,
) -> Vec<Ratio> {
    const LOOSE: [&str; 4] = ["model", "devices", "sequence", "precision"];
    const STRICT: [&str; 8] = ["global_batch", "micro_batch", "tp", "pp", "vpp", "cp", "ep", "dp"];
    let mut found: BTreeMap<Vec<String>, [Vec<(f64, f64)>; 2]> = BTreeMap::new();
    for case in cases.iter().filter(|case| case.outcome.labels.source_group == source) {
        let Some(side) = accelerators.iter().position(|a| case.spec.accelerator.contains(a)) else {
            continue;
        };
        let key: Vec<String> = fields(case.spec)
            .into_iter()
            .filter(|(name, _)| LOOSE.contains(name) || (strict && STRICT.contains(name)))
            .map(|(_, value)| value)
            .collect();
        found.entry(key).or_default()[side].push(case.rates);
    }
    let median = |rates: &[(f64, f64)], pick: fn(&(f64, f64)) -> f64| {
        quantile(&rates.iter().map(pick).collect::<Vec<_>>(), 0.5)
    };
    found
        .into_iter()
        .filter(|(_, [a, b])| !a.is_empty() && !b.is_empty())
        .map(|(key, [a, b])| Ratio {
            name: key.join(" "),
            predicted: median(&b, |r| r.0) / median(&a, |r| r.0),
            measured: median(&b, |r| r.1) / median(&a, |r| r.1),
        })
        .collect()
}

/// Errors of predicted memory by source: predicted over shown, less one.
#[must_use]
pub fn memory_errors(outcomes: &[Outcome]) -> BTreeMap<String, Vec<f64>> {
    let mut found: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.prediction.status == Status::Ok) {
        if let (Some(predicted), Some(shown)) =
            (outcome.prediction.memory_gb, outcome.measured.memory_gb)
        {
            let source = outcome.labels.source_group.clone();
            found.entry(source).or_default().push(predicted / shown - 1.0);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: Option<f64>, wanted: f64) {
        assert!((value.expect("a value") - wanted).abs() < 1e-12, "{value:?} for {wanted}");
    }

    #[test]
    fn tau_counts_pairs() {
        near(kendall_tau(&[(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)], 0.0), 1.0);
        near(kendall_tau(&[(3.0, 1.0), (2.0, 2.0), (1.0, 3.0)], 0.0), -1.0);
        // Of six pairs one is discordant: (5 - 1) / 6.
        near(kendall_tau(&[(1.0, 1.0), (3.0, 2.0), (2.0, 3.0), (4.0, 4.0)], 0.0), 4.0 / 6.0);
        // Equal predictions are neither: (2 - 0) / 3.
        near(kendall_tau(&[(1.0, 1.0), (1.0, 2.0), (2.0, 3.0)], 0.0), 2.0 / 3.0);
    }

    #[test]
    fn measurements_within_noise_are_not_ordered() {
        // 100 and 100.5 cannot be told apart at 1 %; the other two pairs agree.
        near(kendall_tau(&[(2.0, 100.0), (1.0, 100.5), (3.0, 120.0)], 0.01), 1.0);
        assert_eq!(kendall_tau(&[(2.0, 100.0), (1.0, 100.5)], 0.01), None);
        assert_eq!(kendall_tau(&[(2.0, 100.0)], 0.01), None);
    }

    #[test]
    fn regret_is_what_the_choice_costs() {
        // The plan predicted best runs at 100 where 110 was possible: 10 % longer.
        near(regret(&[(5.0, 100.0), (4.0, 110.0), (3.0, 90.0)]), 0.1);
        near(regret(&[(5.0, 110.0), (4.0, 100.0)]), 0.0);
        assert_eq!(regret(&[]), None);
    }

    #[test]
    fn pooled_tau_weighs_by_pairs() {
        let group = |points: &[(f64, f64)]| Group {
            source: String::new(),
            name: String::new(),
            points: points.to_vec(),
        };
        let sweeps = Sweeps {
            kind: "tensor parallel",
            groups: vec![
                group(&[(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]),
                group(&[(2.0, 1.0), (1.0, 2.0)]),
            ],
        };
        near(sweeps.mean_tau(), 0.0);
        near(sweeps.pooled_tau(), 0.5);
    }

    #[test]
    fn ratio_errors() {
        let ratio = Ratio { name: String::new(), predicted: 2.1, measured: 2.0 };
        near(Some(ratio.error()), 0.05);
    }
}
