//! All that a report on accuracy needs: the predictions, those with stacks refitted without the
//! row's source, named groups, and the targets with their figures.

use std::collections::{BTreeMap, BTreeSet};

use crate::hardware::Catalogue;

use super::ablation::{Step, ablation};
use super::score::{Errors, error_of, quantile, scores};
use super::statistics::{
    Case, Group, NOISE, Ratio, Sweeps, cases, kendall_tau, memory_errors, plan_groups, ratios,
    regret, sweeps,
};
use super::{Outcome, Row, Status};

/// Predictions of one table under different fits.
#[derive(Debug)]
pub struct Study<'a> {
    /// Rows.
    pub rows: &'a [Row],
    /// Their predictions with the catalogue as it is.
    pub outcomes: &'a [Outcome],
    /// Their predictions with stacks refitted without the row's source.
    pub left_out: Option<&'a [Outcome]>,
    /// Steps of MegaScale's ablation.
    pub ablation: Vec<Step>,
}

/// Errors of a named group, row by row, and what other tools reach on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// Its name.
    pub name: &'static str,
    /// Rows of it.
    pub rows: usize,
    /// Rows that figures were fitted on; not in the errors.
    pub fitted: usize,
    /// Errors over the other rows.
    pub errors: Option<Errors>,
    /// The same with stacks refitted without the source.
    pub left_out: Option<Errors>,
    /// Mean absolute errors of other tools, as published measurements' README gives them.
    pub others: &'static str,
}

/// A target and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// What is asked for.
    pub what: String,
    /// The limit, and the goal in brackets.
    pub limit: String,
    /// The figure, as text.
    pub figure: String,
    /// Whether it is met; none where there is no figure.
    pub met: Option<bool>,
}

/// Errors of rows, one by one.
fn row_errors<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Option<Errors> {
    let pairs: Vec<(f64, f64)> = outcomes
        .filter(|outcome| outcome.prediction.status == Status::Ok)
        .filter_map(error_of)
        .map(|error| (error.abs(), error))
        .collect();
    Errors::of(&pairs)
}

type Member = fn(&Outcome, &Row) -> bool;

/// A figure as text, and whether it meets its target.
type Figure = Option<(String, bool)>;

fn framework(row: &Row) -> &str {
    row.spec.as_ref().map_or("", |spec| spec.framework.as_str())
}

const GROUPS: [(&str, Member, &str); 8] = [
    (
        "SC21 table 1",
        |o, _| o.labels.source_group == "Megatron-LM SC21 Table 1",
        "SimuMax 5.0, Calculon 10.3",
    ),
    (
        "Korthikanti table 5",
        |o, _| o.labels.source_group == "Korthikanti table 5",
        "Calculon 3.65 (tuned on it), SimuMax 6.8",
    ),
    ("MT-NLG 530B", |o, _| o.labels.source_group == "MT-NLG 530B", "SimuMax 15.5, Calculon 29.7"),
    (
        "MegaScale table 2, Megatron-LM",
        |o, row| o.labels.source_group == "MegaScale" && framework(row) == "Megatron-LM",
        "",
    ),
    (
        "MegaScale table 2, MegaScale",
        |o, row| o.labels.source_group == "MegaScale" && framework(row) == "MegaScale",
        "",
    ),
    ("BigScience A100", |o, _| o.labels.source_group == "BigScience", ""),
    ("InternEvo", |o, _| o.labels.source_group == "InternEvo", ""),
    (
        "vTrain multi-node",
        |o, _| o.labels.source_group.starts_with("vTrain"),
        "SimuMax 10.4, Calculon 12.9, vTrain 22.9",
    ),
];

/// Regret and order in a group of plans.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The plans.
    pub group: Group,
    /// What choosing the predicted-best costs.
    pub regret: f64,
    /// Kendall's tau over the plans.
    pub tau: Option<f64>,
}

impl Study<'_> {
    /// The rows that can be compared, with the catalogue as it is.
    #[must_use]
    pub fn cases(&self) -> Vec<Case<'_>> {
        cases(self.rows, self.outcomes)
    }

    /// The same with stacks refitted without the row's source.
    #[must_use]
    pub fn cases_left_out(&self) -> Option<Vec<Case<'_>>> {
        self.left_out.map(|outcomes| cases(self.rows, outcomes))
    }

    /// The named groups that have rows.
    #[must_use]
    pub fn named(&self) -> Vec<Named> {
        let of = |outcomes: &'_ [Outcome], member: Member, fitted: Option<bool>| -> Vec<usize> {
            (0..outcomes.len())
                .filter(|&i| {
                    outcomes[i].labels.scored
                        && member(&outcomes[i], &self.rows[i])
                        && fitted.is_none_or(|fitted| outcomes[i].fitted == fitted)
                })
                .collect()
        };
        GROUPS
            .into_iter()
            .filter_map(|(name, member, others)| {
                let all = of(self.outcomes, member, None);
                let blind = of(self.outcomes, member, Some(false));
                (!all.is_empty()).then(|| Named {
                    name,
                    rows: all.len(),
                    fitted: all.len() - blind.len(),
                    errors: row_errors(blind.iter().map(|&i| &self.outcomes[i])),
                    left_out: self
                        .left_out
                        .and_then(|outcomes| row_errors(all.iter().map(|&i| &outcomes[i]))),
                    others,
                })
            })
            .collect()
    }

    /// Regret and order in the groups of plans of one model and batch.
    #[must_use]
    pub fn choices(&self) -> Vec<Choice> {
        plan_groups(&self.cases())
            .into_iter()
            .filter_map(|group| {
                let (regret, tau) = (regret(&group.points)?, kendall_tau(&group.points, NOISE));
                Some(Choice { group, regret, tau })
            })
            .collect()
    }

    /// Sweeps.
    #[must_use]
    pub fn sweeps(&self) -> Vec<Sweeps> {
        sweeps(&self.cases())
    }

    /// Ratios between two accelerators: title, and the configurations.
    #[must_use]
    pub fn ratios(&self) -> Vec<(&'static str, Vec<Ratio>)> {
        let cases = self.cases();
        let bridge = ["DGX-B200", "DGX-GB200"];
        vec![
            (
                "llm-foundry, H100 over A100-80",
                ratios(&cases, "llm-foundry", ["A100", "H100"], true),
            ),
            (
                "Megatron-Bridge, GB200 over B200",
                ratios(&cases, "Megatron-Bridge docs", bridge, false),
            ),
            (
                "the same where the layout is equal, too",
                ratios(&cases, "Megatron-Bridge docs", bridge, true),
            ),
        ]
    }

    /// MegaScale over Megatron-LM at equal devices and batch: devices, predicted, measured speed-up.
    #[must_use]
    pub fn megascale(&self) -> Vec<(u32, f64, f64)> {
        type Pair = [Option<(f64, f64)>; 2];
        let mut found: BTreeMap<(u32, u32), Pair> = BTreeMap::new();
        for case in self.cases() {
            let side = match case.spec.framework.as_str() {
                "Megatron-LM" => 0,
                "MegaScale" => 1,
                _ => continue,
            };
            if case.outcome.labels.source_group == "MegaScale"
                && let (Some(devices), Some(batch)) = (case.spec.devices, case.spec.global_batch)
            {
                found.entry((devices, batch)).or_default()[side] = Some(case.rates);
            }
        }
        found
            .into_iter()
            .filter_map(|((devices, _), [from, to])| {
                let (from, to) = (from?, to?);
                Some((devices, to.0 / from.0, to.1 / from.1))
            })
            .collect()
    }

    /// The targets and where they stand.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        let mut add = |what: &str, limit: &str, figure: Figure| {
            let (figure, met) = match figure {
                Some((figure, met)) => (figure, Some(met)),
                None => ("no rows".to_owned(), None),
            };
            targets.push(Target { what: what.into(), limit: limit.into(), figure, met });
        };
        let named = self.named();
        let mape = |name: &str| named.iter().find(|g| g.name == name).and_then(|g| g.errors);
        let at_most = |value: Option<f64>, limit: f64| {
            value.map(|v| (format!("{:.1} %", v * 100.0), v <= limit))
        };
        let choices = self.choices();
        for (name, limit, goal) in [
            ("vTrain multi-node", 0.09, "6"),
            ("SC21 table 1", 0.06, "4"),
            ("Korthikanti table 5", 0.06, "3"),
            ("MT-NLG 530B", 0.12, "8"),
            ("MegaScale table 2, Megatron-LM", 0.08, "8"),
            ("BigScience A100", 0.08, "5"),
        ] {
            let text = format!("at most {:.0} % ({goal})", limit * 100.0);
            add(&format!("{name}: MAPE"), &text, at_most(mape(name).map(|e| e.mape), limit));
        }
        let worst_regret = |source: &str| {
            choices
                .iter()
                .filter(|choice| choice.group.source.starts_with(source))
                .map(|choice| choice.regret)
                .reduce(f64::max)
        };
        add(
            "vTrain: best-plan regret, worst group",
            "at most 2 % (1)",
            at_most(worst_regret("vTrain"), 0.02),
        );
        let speedups: Vec<f64> =
            self.megascale().iter().map(|(_, p, m)| (p / m - 1.0).abs()).collect();
        let worst = speedups.iter().copied().reduce(f64::max);
        add("MegaScale/Megatron-LM ratio, worst", "within 5 %", at_most(worst, 0.05));
        add("MegaScale table 3, steps", "right sign, within 2 points", self.ablation_figure());
        self.shard_group_targets(&mut add);
        let taus: Vec<f64> = choices
            .iter()
            .filter(|choice| choice.group.source == "BigScience")
            .filter_map(|choice| choice.tau)
            .collect();
        let least = taus.iter().copied().reduce(f64::min);
        add(
            "BigScience: Kendall tau, lowest table",
            "at least 0.7",
            least.map(|tau| (format!("{tau:.2}"), tau >= 0.7)),
        );
        let memory = memory_errors(self.outcomes);
        let within = memory.get("BigScience").map(|errors| {
            let absolute: Vec<f64> = errors.iter().map(|e| e.abs()).collect();
            quantile(&absolute, 0.5)
        });
        add("BigScience: memory, median error", "within 10 %", at_most(within, 0.10));
        self.family_targets(&mut add);
        self.interval_targets(&mut add);
        for (title, ratios) in self.ratios().iter().take(2) {
            let errors: Vec<f64> = ratios.iter().map(|ratio| ratio.error().abs()).collect();
            let median = (!errors.is_empty()).then(|| quantile(&errors, 0.5));
            let what = format!("{title}: ratio of rates, median error");
            add(&what, "within 5 %", at_most(median, 0.05));
        }
        for sweeps in self.sweeps().iter().take(3) {
            let taus = sweeps.taus();
            let good = taus.iter().filter(|tau| **tau >= 0.9).count();
            let figure = (!taus.is_empty())
                .then(|| (format!("{good} of {} sweeps", taus.len()), good == taus.len()));
            add(&format!("{} sweeps: Kendall tau", sweeps.kind), "at least 0.9 in each", figure);
        }
        targets
    }

    fn ablation_figure(&self) -> Figure {
        let steps: Vec<(f64, f64)> = self
            .ablation
            .windows(2)
            .filter_map(|pair| {
                let predicted = pair[1].predicted? - pair[0].predicted?;
                Some((predicted, pair[1].measured - pair[0].measured))
            })
            .collect();
        if steps.is_empty() {
            return None;
        }
        let signs = steps.iter().filter(|(p, m)| p * m > 0.0).count();
        let near = steps.iter().filter(|(p, m)| (p - m).abs() <= 2.0).count();
        let all = steps.len();
        Some((
            format!("{signs} of {all} signs, {near} of {all} within 2 points"),
            signs == all && near == all,
        ))
    }

    /// InternEvo's rows beside those of the fit, and what sharding over all replicas costs at 1,024
    /// devices against sharding within a node.
    fn shard_group_targets(&self, add: &mut dyn FnMut(&str, &str, Figure)) {
        const OVER_ALL: &str = "OTH-0060";
        const IN_NODE: &str = "OTH-0068";
        let of_source = |outcome: &&Outcome| outcome.labels.source_group == "InternEvo";
        let worst = self
            .outcomes
            .iter()
            .filter(of_source)
            .filter(|outcome| outcome.labels.scored && !outcome.fitted)
            .filter_map(|outcome| Some(error_of(outcome)?.abs()))
            .reduce(f64::max);
        let figure = worst.map(|worst| (format!("{:.1} %", worst * 100.0), worst <= 0.10));
        add("InternEvo, rows not fitted on: worst error", "within 10 %", figure);
        let rates = |id: &str| {
            let outcome = self.outcomes.iter().find(|outcome| outcome.labels.id == id)?;
            let predicted = outcome.prediction.tokens_per_s_per_device?;
            Some((predicted, predicted * (1.0 + error_of(outcome)?)))
        };
        let split = rates(IN_NODE).zip(rates(OVER_ALL)).map(|(node, all)| {
            let (predicted, measured) = (node.0 / all.0, node.1 / all.1);
            let good =
                (predicted > 1.0) == (measured > 1.0) && (predicted / measured - 1.0).abs() <= 0.15;
            (format!("{predicted:.2} against {measured:.2}"), good)
        });
        add(
            "InternEvo on 1,024 devices: sharding in a node over sharding over all, rate",
            "same sign, within 15 %",
            split,
        );
    }

    /// How often intervals hold what was measured, by family; of predictions without the row's source
    /// where these were made.
    fn interval_targets(&self, add: &mut dyn FnMut(&str, &str, Figure)) {
        let (outcomes, which) = match self.left_out {
            Some(outcomes) => (outcomes, "leaving the source out"),
            None => (self.outcomes, "fitted rows left out"),
        };
        for score in scores(outcomes).iter().filter(|score| score.source.is_empty()) {
            let Some(intervals) = score.intervals else { continue };
            let met = (0.80..=0.95).contains(&intervals.held) && intervals.half_width <= 0.15;
            add(
                &format!("{}: 90 % intervals, {which}", score.family),
                "hold 80 to 95 %, half-width at most 15 %",
                Some((
                    format!(
                        "{:.0} %, {:.1} %",
                        intervals.held * 100.0,
                        intervals.half_width * 100.0
                    ),
                    met,
                )),
            );
        }
    }

    fn family_targets(&self, add: &mut dyn FnMut(&str, &str, Figure)) {
        let Some(outcomes) = self.left_out else { return };
        for score in scores(outcomes).iter().filter(|score| score.source.is_empty()) {
            let Some(errors) = score.errors else { continue };
            let name = format!("{}: leaving the source out", score.family);
            let met = errors.median <= 0.15 && errors.p90 <= 0.40;
            add(
                &format!("{name}, median and p90"),
                "at most 15 % (8) and 40 % (25)",
                Some((
                    format!("{:.1} and {:.1} %", errors.median * 100.0, errors.p90 * 100.0),
                    met,
                )),
            );
            if let Some(null) = score.null
                && ["NVIDIA-A100", "NVIDIA-H100"].contains(&score.family.as_str())
            {
                add(
                    &format!("{name}, against the null model"),
                    "better",
                    Some((
                        format!(
                            "{:.1} against {:.1} %",
                            errors.median * 100.0,
                            null.median * 100.0
                        ),
                        errors.median < null.median && errors.p90 < null.p90,
                    )),
                );
            }
        }
    }

    /// The rows predicted worst, one per base, worst first; none that figures were fitted on.
    #[must_use]
    pub fn worst(&self, count: usize, listed: &dyn Fn(&Outcome) -> bool) -> Vec<(usize, f64)> {
        let mut errors: Vec<(usize, f64)> = self
            .outcomes
            .iter()
            .enumerate()
            .filter(|(_, o)| {
                let ok = o.prediction.status == Status::Ok;
                o.labels.scored && ok && !o.fitted && listed(o)
            })
            .filter_map(|(i, o)| Some((i, error_of(o)?)))
            .filter(|(_, error)| error.is_finite())
            .collect();
        errors.sort_by(|a, b| b.1.ln_1p().abs().total_cmp(&a.1.ln_1p().abs()).then(a.0.cmp(&b.0)));
        let mut bases = BTreeSet::new();
        errors.retain(|(i, _)| bases.insert(self.outcomes[*i].labels.base.as_str()));
        errors.truncate(count);
        errors
    }
}

/// Families with one source here: scored by fitting on half of their models.
pub const HALVED: [&str; 4] = ["AMD-MI250X", "AMD-MI300", "Huawei-Ascend", "NVIDIA-Blackwell"];

/// A half of a family's rows: every second model in the order of names; where there is one model
/// only, every second scale.
#[must_use]
pub fn half_of(rows: &[Row], family: &str) -> BTreeMap<String, bool> {
    let of: Vec<&Row> = rows
        .iter()
        .filter(|row| row.labels.family == family && row.labels.scored && row.spec.is_ok())
        .collect();
    let model = |row: &Row| {
        row.spec.as_ref().map_or_else(
            |_| String::new(),
            |s| if s.model_key.is_empty() { s.model.clone() } else { s.model_key.clone() },
        )
    };
    let devices = |row: &Row| {
        row.spec
            .as_ref()
            .map_or_else(|_| String::new(), |s| format!("{:09}", s.devices.unwrap_or(0)))
    };
    let models: BTreeSet<String> = of.iter().map(|row| model(row)).collect();
    let one = models.len() < 2;
    let key = |row: &Row| if one { devices(row) } else { model(row) };
    let keys: Vec<String> =
        of.iter().map(|row| key(row)).collect::<BTreeSet<_>>().into_iter().collect();
    of.iter()
        .map(|row| {
            let at = keys.iter().position(|k| *k == key(row)).unwrap_or(0);
            (row.labels.id.clone(), at % 2 == 0)
        })
        .collect()
}

/// Computes the ablation and gathers what a report needs.
#[must_use]
pub fn study<'a>(
    catalogue: &Catalogue,
    rows: &'a [Row],
    outcomes: &'a [Outcome],
    left_out: Option<&'a [Outcome]>,
) -> Study<'a> {
    Study { rows, outcomes, left_out, ablation: ablation(catalogue, rows) }
}
