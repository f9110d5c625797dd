//! The fits themselves.

use std::collections::BTreeMap;

use crate::calibrate::least_squares::{cauchy, minimise};
use crate::error::{Error, Result};
use crate::hardware::{Catalogue, FitRecord, FitResidual, ScaleUpKind};
use crate::network::collective::{
    Algorithm, BranchModel, LibraryModel, Operation, Protocol, TransportModel, tuner,
};
use crate::validate::collectives::score::{Case, HarnessModel, Models, answer, quantile};

/// Relative error a good row has; the scale of a residual.
const ROW_SIGMA: f64 = 0.08;
/// Residuals beyond so many [`ROW_SIGMA`] are dampened.
const ROBUST: f64 = 2.0;
/// Rows a system counts for at most in one fit, so that a long table does not outvote a short one.
const ROWS_PER_SYSTEM: f64 = 30.0;
/// Rows below which a branch or transport is not called fitted.
const FEWEST_ROWS: usize = 6;

/// Branches of a library in catalogue order.
pub const BRANCH_NAMES: [&str; 5] =
    ["ring_ll", "ring_ll128", "ring_simple", "in_switch", "point_to_point"];

/// How one branch was constrained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BranchFit {
    /// Rows that determined it.
    pub rows: usize,
}

impl BranchFit {
    /// Whether there were enough rows to call it fitted.
    #[must_use]
    pub fn fitted(self) -> bool {
        self.rows >= FEWEST_ROWS
    }
}

/// The outcome of a calibration.
#[derive(Clone, Debug, Default)]
pub struct Fitted {
    /// The constants.
    pub models: Models,
    /// By library and branch.
    pub branches: BTreeMap<String, [BranchFit; 5]>,
    /// Rows over PCI Express by library.
    pub pcie: BTreeMap<String, usize>,
    /// Rows by transport.
    pub transports: BTreeMap<String, usize>,
    /// Records for the catalogue, by entry name.
    pub records: BTreeMap<String, FitRecord>,
}

/// Where a branch starts before anything is known: round numbers of NVLink machines, efficiencies
/// relative to the tuner's ring bandwidth.
fn first_guess(branch: usize, library: &LibraryModel) -> BranchModel {
    let ring = library.tuner.ring_bandwidth;
    let us = 1e-6;
    let (base, step, fill, fill_step, chunk, efficiency, overlap) = match branch {
        0 => (6.5 * us, 0.95 * us, 1.5 * us, 0.1 * us, 4e3, 0.42 * ring, 1.5),
        1 => (10.0 * us, 1.6 * us, 5.0 * us, 0.3 * us, 128e3, 0.9 * ring, 1.3),
        2 => (12.0 * us, 3.0 * us, 10.0 * us, 1.0 * us, 1e6, 0.99 * ring, 1.4),
        3 => (30.0 * us, 0.01 * us, 40.0 * us, 0.01 * us, 2e6, 0.76 * ring, 1.2),
        _ => (7.0 * us, 0.3 * us, 5.0 * us, 0.1 * us, 64e3, 0.95 * ring, 1.5),
    };
    BranchModel { base, step, fill, fill_step, chunk, efficiency, overlap }
}

/// Branches of libraries that rows determined, for the second pass: what they have in common is
/// the prior of all, and the other generation of the same architecture that of a library.
#[derive(Debug, Default)]
struct Known {
    /// Library, architecture, its fitted branches.
    libraries: Vec<(String, String, Vec<Option<BranchModel>>, f64)>,
}

impl Known {
    fn prior(
        &self,
        name: &str,
        architecture: &str,
        index: usize,
        of: &LibraryModel,
    ) -> BranchModel {
        let ring = of.tuner.ring_bandwidth;
        let others = || self.libraries.iter().filter(|(other, _, _, _)| other != name);
        let relative = |branch: &BranchModel, their_ring: f64| BranchModel {
            efficiency: branch.efficiency * ring / their_ring,
            ..*branch
        };
        if let Some(sibling) = others()
            .filter(|(_, theirs, _, _)| theirs == architecture)
            .find_map(|(_, _, branches, r)| branches[index].map(|b| relative(&b, *r)))
        {
            return sibling;
        }
        let packed: Vec<Vec<f64>> = others()
            .filter_map(|(_, _, branches, r)| branches[index].map(|b| pack(&relative(&b, *r))))
            .collect();
        if packed.is_empty() {
            return first_guess(index, of);
        }
        let mean: Vec<f64> = (0..7)
            .map(|i| packed.iter().map(|p| p[i]).sum::<f64>() / packed.len() as f64)
            .collect();
        unpack(&mean)
    }
}

/// Sigmas of the logarithms in the order of [`pack`].
const BRANCH_SIGMA: [f64; 7] = [0.5, 0.5, 1.0, 1.0, 1.5, 0.15, 0.7];

fn pack(branch: &BranchModel) -> Vec<f64> {
    vec![
        branch.base.ln(),
        branch.step.ln(),
        branch.fill.ln(),
        branch.fill_step.ln(),
        branch.chunk.ln(),
        branch.efficiency.ln(),
        (branch.overlap - 0.95).ln(),
    ]
}

fn unpack(x: &[f64]) -> BranchModel {
    BranchModel {
        base: x[0].exp(),
        step: x[1].exp(),
        fill: x[2].exp(),
        fill_step: x[3].exp(),
        chunk: x[4].exp(),
        efficiency: x[5].exp().min(1.2),
        overlap: 0.95 + x[6].exp().min(20.0),
    }
}

fn branch_index(choice: (Algorithm, Protocol)) -> usize {
    match choice.0 {
        Algorithm::InSwitch | Algorithm::InSwitchTree => 3,
        Algorithm::Direct | Algorithm::TwoHop => 4,
        _ => choice.1 as usize,
    }
}

fn set_branch(library: &mut LibraryModel, index: usize, branch: BranchModel) {
    match index {
        3 => library.in_switch = library.in_switch.map(|_| branch),
        4 => library.point_to_point = branch,
        _ => library.ring[index] = branch,
    }
}

/// Weight of each case such that no system counts for more than [`ROWS_PER_SYSTEM`] rows.
fn weights(cases: &[&Case]) -> Vec<f64> {
    let mut rows: BTreeMap<&str, f64> = BTreeMap::new();
    for case in cases {
        *rows.entry(&case.system).or_default() += 1.0;
    }
    cases
        .iter()
        .map(|case| {
            let n = rows.get(case.system.as_str()).copied().unwrap_or(1.0);
            (ROWS_PER_SYSTEM / n).min(1.0).sqrt()
        })
        .collect()
}

/// Dampened, weighted logarithmic residuals of cases under a model.
fn residuals(models: &Models, cases: &[&Case], weights: &[f64]) -> Vec<f64> {
    cases
        .iter()
        .zip(weights)
        .map(|(case, weight)| {
            let predicted = answer(models, case).map_or(f64::NAN, |(time, _)| time);
            let measured = case.measured.unwrap_or(f64::NAN);
            weight * cauchy((predicted / measured).ln() / ROW_SIGMA, ROBUST)
        })
        .collect()
}

fn usable(case: &Case) -> bool {
    // Out to 16 GiB: one size more than is scored steadies the bandwidth.
    case.measured.is_some()
        && !case.noisy
        && case.request.bytes.get() >= 512.0
        && (case.scored || case.request.bytes.get() > 8_589_934_592.0)
}

fn fit_harnesses(models: &mut Models, cases: &[Case], catalogue: &Catalogue, out: &mut Fitted) {
    for (name, entry) in &catalogue.harnesses {
        let small = |all_to_all: bool| -> Vec<f64> {
            let mut times: Vec<f64> = cases
                .iter()
                .filter(|c| usable(c) && !c.several_nodes && c.harness.as_ref() == Some(name))
                .filter(|c| c.request.bytes.get() <= 65_536.0)
                .filter(|c| (c.request.operation == Operation::AllToAll) == all_to_all)
                .filter_map(|c| c.measured)
                .collect();
            times.sort_by(f64::total_cmp);
            times
        };
        // Only a program that makes the device wait for the host shows a floor; kernel times and
        // replayed graphs have none.
        let waits = name != "nccl-tests" && name != "torch-profiler";
        let floor =
            |times: &[f64]| if waits && times.len() >= 2 { quantile(times, 0.5) } else { 0.0 };
        let (others, all_to_all) = (small(false), small(true));
        let model = HarnessModel {
            floor: floor(&others),
            floor_all_to_all: floor(if all_to_all.is_empty() { &others } else { &all_to_all }),
            added: entry.item.added.value.get(),
        };
        models.harnesses.insert(name.clone(), model);
        let rows = others.len() + all_to_all.len();
        out.records.insert(
            name.clone(),
            FitRecord {
                method: if waits {
                    format!("median of {rows} rows up to 64 KiB inside one node")
                } else {
                    "none: the device does not wait for the host".into()
                },
                rows: "measured rows of this program".into(),
                ..FitRecord::default()
            },
        );
    }
}

fn fit_libraries(
    models: &mut Models,
    cases: &[Case],
    catalogue: &Catalogue,
    known: &Known,
    out: &mut Fitted,
) {
    let names: Vec<String> = models.libraries.keys().cloned().collect();
    for name in names {
        let inside: Vec<&Case> =
            cases.iter().filter(|c| usable(c) && !c.several_nodes && c.library == name).collect();
        let Some(mut library) = models.libraries.get(&name).cloned() else { continue };
        let architecture =
            catalogue.collectives.get(&name).map_or("", |e| e.item.architecture.as_str());
        let mut fits = [BranchFit::default(); 5];
        for index in 0..5 {
            let start = known.prior(&name, architecture, index, &library);
            set_branch(&mut library, index, start);
        }
        let choice = |case: &Case| tuner::choose(&library, None, &case.request).map(branch_index);
        let by_branch: Vec<Vec<&Case>> = (0..5)
            .map(|index| {
                inside
                    .iter()
                    .copied()
                    .filter(|c| c.request.links.scale_up != ScaleUpKind::Pcie)
                    .filter(|c| choice(c) == Some(index))
                    .collect()
            })
            .collect();
        for (index, rows) in by_branch.iter().enumerate() {
            fits[index].rows = rows.len();
            if rows.is_empty() {
                continue;
            }
            let start = known.prior(&name, architecture, index, &library);
            let centre = pack(&start);
            let weight = weights(rows);
            let objective = |x: &[f64]| -> Vec<f64> {
                let mut trial = library.clone();
                set_branch(&mut trial, index, unpack(x));
                let mut r = residuals(&with_library(models, &name, trial), rows, &weight);
                r.extend(x.iter().zip(&centre).zip(BRANCH_SIGMA).map(|((a, b), s)| (a - b) / s));
                r
            };
            // Overlap, fill and chunk trade against each other: several starts.
            let best = [(0.0, 0.0), (1.0, 1.5), (1.0, 3.0), (-1.0, -1.5), (1.0, 0.0)]
                .into_iter()
                .map(|(fill, chunk)| {
                    let mut x = centre.clone();
                    x[2] += fill;
                    x[4] += chunk;
                    minimise(&objective, &x, 60)
                })
                .min_by(|a, b| a.1.total_cmp(&b.1));
            if let Some((x, _)) = best {
                set_branch(&mut library, index, unpack(&x));
            }
        }
        // PCI Express last: one parameter, everything else known.
        let over_pcie: Vec<&Case> = inside
            .iter()
            .copied()
            .filter(|c| c.request.links.scale_up == ScaleUpKind::Pcie)
            .collect();
        library.pcie_efficiency = 0.76;
        if !over_pcie.is_empty() {
            let weight = weights(&over_pcie);
            let objective = |x: &[f64]| -> Vec<f64> {
                let mut trial = library.clone();
                trial.pcie_efficiency = x[0].exp();
                let mut r = residuals(&with_library(models, &name, trial), &over_pcie, &weight);
                r.push((x[0] - 0.76_f64.ln()) / 0.2);
                r
            };
            library.pcie_efficiency = minimise(&objective, &[0.76_f64.ln()], 40).0[0].exp();
        }
        library.fitted = fits.iter().any(|f| f.fitted());
        library.max_ranks = inside.iter().map(|c| c.request.group.ranks).max().unwrap_or(0);
        models.libraries.insert(name.clone(), library);
        out.branches.insert(name.clone(), fits);
        out.pcie.insert(name.clone(), over_pcie.len());
        out.records.insert(name.clone(), record(models, &inside, "rows inside one node"));
    }
}

fn with_library(models: &Models, name: &str, library: LibraryModel) -> Models {
    // Only the one library matters to the rows of its own fit.
    Models {
        libraries: BTreeMap::from([(name.to_owned(), library)]),
        transports: BTreeMap::new(),
        harnesses: models.harnesses.clone(),
    }
}

/// Sigmas of base, hop LL, hop Simple, efficiency, fill, small-message efficiency.
///
/// The fixed part is nearly pinned: a network costs per message, and where only one group size was
/// measured the fit could not tell a fixed part from a part per step.
const TRANSPORT_SIGMA: [f64; 6] = [0.2, 1.0, 1.0, 0.1, 1.5, 0.8];

fn pack_transport(t: &TransportModel) -> Vec<f64> {
    vec![
        t.base.ln(),
        t.hop[0].ln(),
        t.hop[2].ln(),
        t.efficiency.ln(),
        t.fill_bytes.ln(),
        t.small_message_efficiency.ln(),
    ]
}

fn unpack_transport(like: &TransportModel, x: &[f64]) -> TransportModel {
    let (ll, simple) = (x[1].exp(), x[2].exp());
    TransportModel {
        base: x[0].exp(),
        // No row isolates LL128 across nodes; it lies between the other two.
        hop: [ll, (ll * simple).sqrt(), simple],
        efficiency: x[3].exp().min(1.0),
        fill_bytes: x[4].exp(),
        small_message_efficiency: x[5].exp().min(1.0),
        ..like.clone()
    }
}

fn fit_transport(
    models: &Models,
    name: &str,
    start: &TransportModel,
    rows: &[&Case],
) -> TransportModel {
    if rows.is_empty() {
        return TransportModel { fitted: false, ..start.clone() };
    }
    let centre = pack_transport(start);
    let weight = weights(rows);
    let libraries = models.libraries.clone();
    let objective = |x: &[f64]| -> Vec<f64> {
        let trial = unpack_transport(start, x);
        let models = Models {
            libraries: libraries.clone(),
            // In the parent's fit the children's rows are answered with the parent.
            transports: rows
                .iter()
                .filter_map(|c| c.transport.clone())
                .chain([name.to_owned()])
                .map(|n| (n, trial.clone()))
                .collect(),
            harnesses: models.harnesses.clone(),
        };
        let mut r = residuals(&models, rows, &weight);
        r.extend(x.iter().zip(&centre).zip(TRANSPORT_SIGMA).map(|((a, b), s)| (a - b) / s));
        r
    };
    // The choice of algorithm jumps with the parameters, so several starts.
    let best = [(1.0_f64, 1.0_f64), (0.4, 0.5), (4.0, 1.0), (16.0, 1.0), (0.3, 0.3), (4.0, 0.3)]
        .into_iter()
        .map(|(hop, small)| {
            let mut x = centre.clone();
            x[1] += hop.ln();
            x[2] += hop.ln();
            x[5] += small.ln();
            minimise(&objective, &x, 40)
        })
        .min_by(|a, b| a.1.total_cmp(&b.1));
    let mut fitted = best.map_or_else(|| start.clone(), |(x, _)| unpack_transport(start, &x));
    fitted.fitted = rows.len() >= FEWEST_ROWS;
    fitted.max_nodes = rows.iter().map(|c| c.request.group.nodes).max().unwrap_or(0);
    fitted
}

fn fit_transports(models: &mut Models, cases: &[Case], catalogue: &Catalogue, out: &mut Fitted) {
    // A network the source does not state says nothing about any.
    let stated = |case: &Case| !case.assumed.iter().any(|a| a.starts_with("network not stated"));
    let across: Vec<&Case> =
        cases.iter().filter(|c| usable(c) && c.several_nodes && stated(c)).collect();
    let parent_of = |name: &str| catalogue.transports.get(name).and_then(|e| e.item.parent.clone());
    // Parents first.
    let ancestors = |name: &str| {
        std::iter::successors(parent_of(name), |n| parent_of(n)).take(8).collect::<Vec<_>>()
    };
    let mut names: Vec<String> = models.transports.keys().cloned().collect();
    names.sort_by_key(|name| ancestors(name).len());
    for name in names {
        let parent = parent_of(&name);
        let rows: Vec<&Case> = across
            .iter()
            .copied()
            .filter(|c| {
                c.transport.as_ref().is_some_and(|t| *t == name || ancestors(t).contains(&name))
            })
            .collect();
        let Some(entry) = catalogue.transports.get(&name) else { continue };
        let mut start = TransportModel::new(&entry.item);
        match parent.as_ref().and_then(|p| models.transports.get(p)) {
            Some(parent) => {
                start = TransportModel {
                    name: start.name,
                    ll128: start.ll128,
                    tuner_latency: start.tuner_latency,
                    per_node: start.per_node,
                    ..parent.clone()
                };
            }
            // A family's own prior must not drift with the last fit.
            None => start = family_prior(&start),
        }
        let fitted = fit_transport(models, &name, &start, &rows);
        models.transports.insert(name.clone(), fitted);
        out.transports.insert(name.clone(), rows.len());
        out.records.insert(name.clone(), record(models, &rows, "rows across nodes"));
    }
}

/// Fits one transport to cases that all use it, with the RDMA family as its prior; returns it and
/// the seconds it predicts for each case.
///
/// # Errors
/// A case cannot be predicted.
pub fn fit_one_transport(
    catalogue: &Catalogue,
    name: &str,
    cases: &[Case],
) -> Result<(TransportModel, Vec<f64>)> {
    let mut models = Models::new(catalogue);
    let start = models
        .transports
        .get(name)
        .or_else(|| models.transports.get("rdma"))
        .cloned()
        .ok_or_else(|| Error::Missing("the catalogue has no transport `rdma`".into()))?;
    let start = TransportModel { name: name.to_owned(), ..start };
    let rows: Vec<&Case> = cases.iter().collect();
    let fitted = fit_transport(&models, name, &start, &rows);
    models.transports.insert(name.to_owned(), fitted.clone());
    let predicted = cases
        .iter()
        .map(|case| answer(&models, case).map(|(time, _)| time))
        .collect::<Result<_>>()?;
    Ok((fitted, predicted))
}

/// Where a family of transports starts: NCCL's own network constants (2.7 to 14 us per step), and
/// for sockets what host-staged copies cost.
fn family_prior(like: &TransportModel) -> TransportModel {
    let (base, ll, simple, efficiency) = match like.name.as_str() {
        "ethernet-sockets" => (3e-6, 50e-6, 150e-6, 0.4),
        "cloud-rdma" => (3e-6, 40e-6, 50e-6, 0.92),
        _ => (3e-6, 5e-6, 14e-6, 0.92),
    };
    TransportModel {
        base,
        hop: [ll, f64::sqrt(ll * simple), simple],
        efficiency,
        fill_bytes: 256e3,
        small_message_efficiency: 0.5,
        ..like.clone()
    }
}

fn record(models: &Models, rows: &[&Case], what: &str) -> FitRecord {
    let mut errors: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for case in rows {
        if let (Ok((predicted, _)), Some(measured)) = (answer(models, case), case.measured) {
            errors
                .entry(case.system.clone())
                .or_default()
                .push((predicted / measured - 1.0).abs() * 100.0);
        }
    }
    let round = |x: f64| (x * 10.0).round() / 10.0;
    FitRecord {
        method: "trainyard calibrate collectives: robust least squares on ln(time), each system \
                 the same weight, branch by the library's own choice"
            .into(),
        rows: format!(
            "measured {what}, 512 B to 16 GiB, no profiler medians below 1 MiB, network stated"
        ),
        date: String::new(),
        max_ranks: rows.iter().map(|c| c.request.group.ranks).max().unwrap_or(0),
        max_nodes: rows.iter().map(|c| c.request.group.nodes).max().unwrap_or(0),
        systems: errors
            .into_iter()
            .map(|(system, mut errors)| {
                errors.sort_by(f64::total_cmp);
                let residual = FitResidual {
                    rows: errors.len() as u64,
                    median_error_pct: round(quantile(&errors, 0.5)),
                    p90_error_pct: round(quantile(&errors, 0.9)),
                };
                (system, residual)
            })
            .collect(),
    }
}

/// Fits everything on `cases`; what they say nothing about keeps its prior.
#[must_use]
pub fn fit(catalogue: &Catalogue, cases: &[Case]) -> Fitted {
    let mut out = Fitted::default();
    let mut models = Models::new(catalogue);
    fit_harnesses(&mut models, cases, catalogue, &mut out);
    fit_libraries(&mut models, cases, catalogue, &Known::default(), &mut out);
    let known = Known {
        libraries: models
            .libraries
            .iter()
            .map(|(name, library)| {
                let fits = out.branches.get(name).copied().unwrap_or_default();
                let all = [
                    Some(library.ring[0]),
                    Some(library.ring[1]),
                    Some(library.ring[2]),
                    library.in_switch,
                    Some(library.point_to_point),
                ];
                let fitted =
                    all.into_iter().zip(fits).map(|(b, f)| b.filter(|_| f.fitted())).collect();
                let architecture = catalogue
                    .collectives
                    .get(name)
                    .map_or_else(String::new, |e| e.item.architecture.clone());
                (name.clone(), architecture, fitted, library.tuner.ring_bandwidth)
            })
            .collect(),
    };
    fit_libraries(&mut models, cases, catalogue, &known, &mut out);
    fit_transports(&mut models, cases, catalogue, &mut out);
    out.models = models;
    out
}
