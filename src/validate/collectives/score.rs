//! Predictions for a table of measurements, and how far off they are.

use std::collections::BTreeMap;

use super::describe::describe;
use super::rows::Row;
use crate::error::Result;
use crate::hardware::{Catalogue, Harness};
use crate::network::collective::{
    LibraryModel, Operation, Prediction, Request, TransportModel, predict,
};

/// What a measuring program adds, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HarnessModel {
    /// Shortest time per call.
    pub floor: f64,
    /// The same for all-to-all.
    pub floor_all_to_all: f64,
    /// Added to every call.
    pub added: f64,
}

impl HarnessModel {
    /// The model of a catalogue entry.
    #[must_use]
    pub fn new(harness: &Harness) -> Self {
        Self {
            floor: harness.floor.value.get(),
            floor_all_to_all: harness.floor_all_to_all.value.get(),
            added: harness.added.value.get(),
        }
    }

    /// Time the program reports for a collective that takes `seconds` on the device.
    #[must_use]
    pub fn reported(&self, operation: Operation, seconds: f64) -> f64 {
        let floor =
            if operation == Operation::AllToAll { self.floor_all_to_all } else { self.floor };
        (seconds + self.added).max(floor)
    }
}

/// All constants a table is predicted with; a fit changes a copy.
#[derive(Clone, Debug, Default)]
pub struct Models {
    /// Libraries by name.
    pub libraries: BTreeMap<String, LibraryModel>,
    /// Transports by name.
    pub transports: BTreeMap<String, TransportModel>,
    /// Measuring programs by name.
    pub harnesses: BTreeMap<String, HarnessModel>,
}

impl Models {
    /// The catalogue's constants.
    #[must_use]
    pub fn new(catalogue: &Catalogue) -> Self {
        Self {
            libraries: catalogue
                .collectives
                .iter()
                .map(|(name, entry)| (name.clone(), LibraryModel::new(&entry.item)))
                .collect(),
            transports: catalogue
                .transports
                .iter()
                .map(|(name, entry)| (name.clone(), TransportModel::new(&entry.item)))
                .collect(),
            harnesses: catalogue
                .harnesses
                .iter()
                .map(|(name, entry)| (name.clone(), HarnessModel::new(&entry.item)))
                .collect(),
        }
    }
}

/// A row the model can answer.
#[derive(Clone, Debug)]
pub struct Case {
    /// Position in the table: 1 is the first data row.
    pub row: usize,
    /// The system it was measured on.
    pub system: String,
    /// Whether the group spans nodes.
    pub several_nodes: bool,
    /// Name of the library.
    pub library: String,
    /// Name of the transport.
    pub transport: Option<String>,
    /// Name of the measuring program.
    pub harness: Option<String>,
    /// The collective.
    pub request: Request,
    /// Measured seconds.
    pub measured: Option<f64>,
    /// What was filled in.
    pub assumed: Vec<String>,
    /// Counts for scores: a measurement, from 1 KiB to 8 GiB.
    pub scored: bool,
    /// Why it does not count, where it does not.
    pub not_scored: Option<&'static str>,
    /// A profiler median below 1 MiB.
    pub noisy: bool,
}

/// Translates a table; rows that cannot be are returned with the reason.
#[must_use]
pub fn cases(catalogue: &Catalogue, rows: &[Row]) -> (Vec<Case>, Vec<(usize, String)>) {
    let (mut cases, mut refused) = (Vec::new(), Vec::new());
    for (index, row) in rows.iter().enumerate() {
        match describe(catalogue, row) {
            Ok(found) => {
                let bytes = found.request.bytes.get();
                let layout_unknown =
                    found.assumed.iter().any(|a| a.contains("layout") || a.contains("ranks"));
                let not_scored = if row.time_us.is_none_or(|t| t <= 0.0) {
                    Some("no measured time")
                } else if !row.measured() {
                    Some(
                        "an expected, documented or shared-cluster value, no measurement of its own",
                    )
                } else if !(1024.0..=8_589_934_592.0).contains(&bytes) {
                    Some("size outside of 1 KiB to 8 GiB")
                } else if layout_unknown {
                    Some("the source does not say how ranks lie on nodes")
                } else {
                    None
                };
                cases.push(Case {
                    row: index + 1,
                    system: row.system.clone(),
                    several_nodes: found.request.group.nodes > 1,
                    library: found.library.name.clone(),
                    transport: found.transport.map(|t| t.name.clone()),
                    harness: found.harness.map(|h| h.name.clone()),
                    request: found.request,
                    measured: row.time_us.filter(|t| *t > 0.0).map(|t| t * 1e-6),
                    assumed: found.assumed,
                    scored: not_scored.is_none(),
                    not_scored,
                    noisy: row.noisy(),
                });
            }
            Err(error) => refused.push((index + 1, error.to_string().replace('\n', "; "))),
        }
    }
    (cases, refused)
}

/// A prediction as the measuring program would report it, in seconds, and the model's own.
///
/// # Errors
/// As for [`predict`].
pub fn answer(models: &Models, case: &Case) -> Result<(f64, Prediction)> {
    let library = models.libraries.get(&case.library).ok_or_else(|| {
        crate::error::Error::Internal(format!("library `{}` has no model", case.library))
    })?;
    let transport = case.transport.as_ref().and_then(|name| models.transports.get(name));
    let prediction = predict(library, transport, &case.request)?;
    let harness = case.harness.as_ref().and_then(|name| models.harnesses.get(name)).copied();
    let reported =
        harness.unwrap_or_default().reported(case.request.operation, prediction.time.get());
    Ok((reported, prediction))
}

/// Errors of one system on one side of the node border.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemScore {
    /// The system.
    pub system: String,
    /// Spans nodes.
    pub several_nodes: bool,
    /// Rows scored.
    pub rows: usize,
    /// Median absolute error, percent.
    pub median: f64,
    /// 90th percentile of the absolute error, percent.
    pub p90: f64,
    /// Median signed error, percent: positive predicts too long.
    pub bias: f64,
    /// What the rows do not state.
    pub assumed: Vec<String>,
    /// Absolute errors, percent, ascending.
    errors: Vec<f64>,
}

/// Scores systems, each side of the node border apart; `predicted` gives seconds per case.
#[must_use]
pub fn score(cases: &[(&Case, f64)]) -> Vec<SystemScore> {
    let mut groups: BTreeMap<(bool, &str), Vec<(&Case, f64)>> = BTreeMap::new();
    for (case, predicted) in cases {
        groups.entry((case.several_nodes, &case.system)).or_default().push((case, *predicted));
    }
    groups
        .into_iter()
        .filter_map(|((several_nodes, system), rows)| {
            let signed: Vec<f64> = rows
                .iter()
                .filter_map(|(case, p)| case.measured.map(|m| (p / m - 1.0) * 100.0))
                .collect();
            if signed.is_empty() {
                return None;
            }
            let mut errors: Vec<f64> = signed.iter().map(|e| e.abs()).collect();
            errors.sort_by(f64::total_cmp);
            let mut ordered = signed;
            ordered.sort_by(f64::total_cmp);
            let mut assumed: Vec<String> =
                rows.iter().flat_map(|(case, _)| case.assumed.iter().cloned()).collect();
            assumed.sort();
            assumed.dedup();
            Some(SystemScore {
                system: system.to_owned(),
                several_nodes,
                rows: errors.len(),
                median: quantile(&errors, 0.5),
                p90: quantile(&errors, 0.9),
                bias: quantile(&ordered, 0.5),
                assumed,
                errors,
            })
        })
        .collect()
}

/// How a set of systems does as a whole, each system counted once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Systems.
    pub systems: usize,
    /// Median over all rows, every system with the same total weight, percent.
    pub weighted_median: f64,
    /// Median of the systems' medians, percent.
    pub median_of_medians: f64,
    /// Mean of the systems' medians, percent.
    pub mean_of_medians: f64,
}

/// Summarises systems on one side of the node border.
#[must_use]
pub fn summarise(scores: &[SystemScore], several_nodes: bool) -> Option<Summary> {
    let chosen: Vec<&SystemScore> =
        scores.iter().filter(|s| s.several_nodes == several_nodes).collect();
    if chosen.is_empty() {
        return None;
    }
    let mut weighted: Vec<(f64, f64)> = chosen
        .iter()
        .flat_map(|s| s.errors.iter().map(|e| (*e, 1.0 / s.errors.len() as f64)))
        .collect();
    weighted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = chosen.len() as f64 / 2.0;
    let mut sum = 0.0;
    let weighted_median = weighted
        .iter()
        .find(|(_, weight)| {
            sum += weight;
            sum >= half - 1e-9
        })
        .map_or(f64::NAN, |(error, _)| *error);
    let mut medians: Vec<f64> = chosen.iter().map(|s| s.median).collect();
    medians.sort_by(f64::total_cmp);
    Some(Summary {
        systems: chosen.len(),
        weighted_median,
        median_of_medians: quantile(&medians, 0.5),
        mean_of_medians: medians.iter().sum::<f64>() / medians.len() as f64,
    })
}

/// Quantile of ascending values, linear between neighbours.
#[must_use]
pub fn quantile(ascending: &[f64], q: f64) -> f64 {
    match ascending {
        [] => f64::NAN,
        [only] => *only,
        _ => {
            let at = q * (ascending.len() - 1) as f64;
            let low = at.floor() as usize;
            let high = (low + 1).min(ascending.len() - 1);
            ascending[low] + (ascending[high] - ascending[low]) * (at - low as f64)
        }
    }
}
