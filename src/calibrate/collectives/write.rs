//! The fitted half of a catalogue file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::fit::{BRANCH_NAMES, BranchFit, Fitted};
use crate::error::{Error, Result};
use crate::hardware::{FitRecord, FitResidual};
use crate::network::collective::{BranchModel, LibraryModel, TransportModel};
use crate::output::write_file;
use crate::validate::collectives::score::{Case, HarnessModel, quantile};

/// Separates what is written by hand from what a fit writes.
const MARK: &str =
    "# Below: written by `trainyard calibrate collectives`; edits are lost at the next fit.\n";

/// Five significant digits: more would claim what no fit knows, fewer would show in a prediction.
fn number(value: f64) -> String {
    if value == 0.0 {
        return "0.0".into();
    }
    let digits = 4 - value.abs().log10().floor() as i32;
    let text = if digits > 0 {
        format!("{value:.*}", digits.min(12) as usize)
    } else {
        format!("{:.0}", value)
    };
    if text.contains('.') { text } else { format!("{text}.0") }
}

/// A figure, `derived` where rows determined it and `assumed` within `spread` where none did.
fn figure(out: &mut String, key: &str, value: f64, unit: &str, fitted: bool, spread: f64) {
    let v = number(value);
    let _ = if fitted {
        writeln!(
            out,
            "{key} = {{ value = {v}, unit = \"{unit}\", kind = \"derived\", source = \"fit\" }}"
        )
    } else {
        writeln!(
            out,
            "{key} = {{ value = {v}, unit = \"{unit}\", kind = \"assumed\", source = \"prior\", \
             low = {}, high = {} }}",
            number(value / spread),
            number(value * spread)
        )
    };
}

/// A figure at the top level of the file, as a table of its own: plain keys cannot follow the
/// hand-written half's tables.
fn figure_table(out: &mut String, key: &str, value: f64, unit: &str, fitted: bool, spread: f64) {
    let mut line = String::new();
    figure(&mut line, key, value, unit, fitted, spread);
    let inner = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
    let _ = writeln!(out, "[{key}]");
    for pair in inner.map_or("", |(inner, _)| inner).split(", ") {
        let _ = writeln!(out, "{}", pair.trim());
    }
}

fn branch(out: &mut String, name: &str, model: &BranchModel, fit: BranchFit) {
    let fitted = fit.fitted();
    let _ = writeln!(out, "\n[branches.{name}] # {} rows", fit.rows);
    figure(out, "base", model.base * 1e6, "us", fitted, 2.0);
    figure(out, "step", model.step * 1e6, "us", fitted, 2.0);
    figure(out, "fill", model.fill * 1e6, "us", fitted, 3.0);
    figure(out, "fill_step", model.fill_step * 1e6, "us", fitted, 3.0);
    figure(out, "chunk", model.chunk / 1024.0, "KiB", fitted, 4.0);
    figure(out, "efficiency", model.efficiency, "1", fitted, 1.2);
    figure(out, "overlap", model.overlap, "1", fitted, 1.6);
}

fn record(out: &mut String, record: &FitRecord, date: &str) {
    let quote = |text: &str| format!("{text:?}");
    let _ = writeln!(out, "\n[fit]\nmethod = {}", quote(&record.method));
    let _ = writeln!(out, "rows = {}\ndate = {}", quote(&record.rows), quote(date));
    let _ = writeln!(out, "max_ranks = {}\nmax_nodes = {}", record.max_ranks, record.max_nodes);
    for (system, residual) in &record.systems {
        let _ = writeln!(
            out,
            "[fit.systems.{}]\nrows = {}\nmedian_error_pct = {:.1}\np90_error_pct = {:.1}",
            quote(system),
            residual.rows,
            residual.median_error_pct,
            residual.p90_error_pct
        );
    }
}

fn library(model: &LibraryModel, fits: &[BranchFit; 5], pcie_rows: usize) -> String {
    let mut out = String::new();
    figure_table(&mut out, "pcie_efficiency", model.pcie_efficiency, "1", pcie_rows >= 6, 1.2);
    let models = [
        Some(model.ring[0]),
        Some(model.ring[1]),
        Some(model.ring[2]),
        model.in_switch,
        Some(model.point_to_point),
    ];
    for ((name, model), fit) in BRANCH_NAMES.iter().zip(models).zip(fits) {
        if let Some(model) = model {
            branch(&mut out, name, &model, *fit);
        }
    }
    out
}

fn transport(model: &TransportModel, rows: usize) -> String {
    let mut out = String::new();
    let fitted = rows >= 6;
    let _ = writeln!(out, "# {rows} rows");
    figure_table(&mut out, "base", model.base * 1e6, "us", fitted, 2.5);
    figure_table(&mut out, "efficiency", model.efficiency, "1", fitted, 1.2);
    figure_table(
        &mut out,
        "small_message_efficiency",
        model.small_message_efficiency,
        "1",
        fitted,
        2.0,
    );
    figure_table(&mut out, "fill_bytes", model.fill_bytes / 1024.0, "KiB", fitted, 4.0);
    let _ = writeln!(out, "\n[hop]");
    figure(&mut out, "ll", model.hop[0] * 1e6, "us", fitted, 2.5);
    figure(&mut out, "ll128", model.hop[1] * 1e6, "us", false, 2.0);
    figure(&mut out, "simple", model.hop[2] * 1e6, "us", fitted, 2.5);
    out
}

fn harness(model: &HarnessModel) -> String {
    let mut out = String::new();
    for (key, value) in [("floor", model.floor), ("floor_all_to_all", model.floor_all_to_all)] {
        figure_table(&mut out, key, value * 1e6, "us", true, 1.0);
    }
    let (low, high) = if model.added > 0.0 { (20.0, 30.0) } else { (0.0, 1.0) };
    let _ = writeln!(
        out,
        "[added]\nvalue = {}\nunit = \"us\"\nkind = \"assumed\"\nsource = \"ml-engineering\"\n\
         low = {low:.1}\nhigh = {high:.1}",
        number(model.added * 1e6)
    );
    out
}

fn replace(path: &Path, tail: &str) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let Some((head, _)) = text.split_once(MARK) else {
        return Err(Error::Missing(format!(
            "{} has no line `{}`; nothing was written to it",
            path.display(),
            MARK.trim_end()
        )));
    };
    let text = format!("{head}{MARK}{tail}");
    write_file(path, text.as_bytes())
}

/// Rewrites the fitted half of every file below `directory` (a `hw-models` tree) that the fit
/// has something to say about; `date` is recorded as the date of the fit.
///
/// # Errors
/// A file is missing, was not laid out for a fit, or cannot be written.
pub fn write_catalogue(directory: &Path, fitted: &Fitted, date: &str) -> Result<Vec<String>> {
    let mut written = Vec::new();
    let empty = FitRecord {
        method: "none: no measured rows; priors only".into(),
        rows: "none".into(),
        ..FitRecord::default()
    };
    let record_of = |name: &str| fitted.records.get(name).unwrap_or(&empty);
    let mut put = |folder: &str, name: &str, mut tail: String| -> Result<()> {
        record(&mut tail, record_of(name), date);
        let path = directory.join(folder).join(format!("{name}.toml"));
        replace(&path, &tail)?;
        written.push(format!("{folder}/{name}.toml"));
        Ok(())
    };
    for (name, model) in &fitted.models.libraries {
        let fits = fitted.branches.get(name).copied().unwrap_or_default();
        let pcie = fitted.pcie.get(name).copied().unwrap_or(0);
        put("collectives", name, library(model, &fits, pcie))?;
    }
    for (name, model) in &fitted.models.transports {
        let rows = fitted.transports.get(name).copied().unwrap_or(0);
        put("transports", name, transport(model, rows))?;
    }
    for (name, model) in &fitted.models.harnesses {
        put("harnesses", name, harness(model))?;
    }
    Ok(written)
}

/// A complete transport file for a fit to logs: what a catalogue overlay holds.
#[must_use]
pub fn transport_file(
    name: &str,
    model: &TransportModel,
    errors: &BTreeMap<&str, Vec<f64>>,
    cases: &[Case],
    date: &str,
) -> String {
    let mut out = format!(
        "name = {name:?}\ntitle = \"{name}, fitted to nccl-tests logs\"\nmatches = [{:?}]\n\
         parent = \"rdma\"\nll128 = {}\n",
        name.to_lowercase(),
        model.ll128
    );
    figure(&mut out, "tuner_latency", model.tuner_latency * 1e6, "us", true, 1.0);
    let _ = writeln!(
        out,
        "per_node = {{ value = {}, unit = \"us\", kind = \"assumed\", source = \"prior\", \
         low = 0.0, high = {} }}",
        number(model.per_node * 1e6),
        number(model.per_node * 4e6)
    );
    let logs: Vec<&str> = errors.keys().copied().collect();
    let _ = writeln!(
        out,
        "\n[sources.fit]\ncitation = {:?}\ndate = {date:?}\nverified = true\n\
         [sources.prior]\ncitation = \"RDMA family of the built-in catalogue\"\ndate = {date:?}\n\
         verified = true\n",
        format!("fit to {}", logs.join(", "))
    );
    out.push_str(MARK);
    out.push_str(&transport(model, cases.len()));
    let mut systems = BTreeMap::new();
    for (log, log_errors) in errors {
        let mut ascending = log_errors.clone();
        ascending.sort_by(f64::total_cmp);
        systems.insert(
            (*log).to_owned(),
            FitResidual {
                rows: ascending.len() as u64,
                median_error_pct: quantile(&ascending, 0.5),
                p90_error_pct: quantile(&ascending, 0.9),
            },
        );
    }
    let fit = FitRecord {
        method: "trainyard calibrate fabric".into(),
        rows: "timings from 512 B up".into(),
        date: date.to_owned(),
        max_ranks: cases.iter().map(|c| c.request.group.ranks).max().unwrap_or(0),
        max_nodes: cases.iter().map(|c| c.request.group.nodes).max().unwrap_or(0),
        systems,
    };
    record(&mut out, &fit, date);
    out
}
