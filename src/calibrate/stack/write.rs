//! A fit's figures in a stack's file, in place, with everything else untouched.

use std::collections::BTreeSet;

use toml_edit::{DocumentMut, Item, Table, value};

use super::{Fit, Parameter};
use crate::error::{Error, Result};
use crate::validate::quantile;

/// What is recorded of a fit besides its figures.
#[derive(Clone, Debug)]
pub struct Record {
    /// Date of the fit.
    pub date: String,
    /// The command's conditions, in words.
    pub rows: String,
}

/// Five significant digits.
fn rounded(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let scale = 10f64.powi(4 - x.abs().log10().floor() as i32);
    (x * scale).round() / scale
}

fn table<'t>(document: &'t mut DocumentMut, key: &str) -> Result<&'t mut Table> {
    let mut at: &mut Table = document.as_table_mut();
    for part in key.split('.') {
        at = at
            .entry(part)
            .or_insert_with(|| Item::Table(Table::new()))
            .as_table_mut()
            .ok_or_else(|| Error::Unsupported(format!("`{key}` is no table of its own")))?;
    }
    Ok(at)
}

/// The text of a stack's file with a fit's figures in it.
///
/// # Errors
/// The text is no TOML, or a figure is not a table of its own.
pub fn rewrite(text: &str, fit: &Fit, record: &Record) -> Result<String> {
    let mut document: DocumentMut = text
        .parse()
        .map_err(|e| Error::Unsupported(format!("the stack's file cannot be edited: {e}")))?;
    for estimate in &fit.estimates {
        let (unit, size) = estimate.parameter.unit();
        let spread = (2.0 * estimate.relative_sigma).exp();
        let (low, high) = estimate.parameter.bounds();
        let figure = table(&mut document, estimate.parameter.key())?;
        figure["value"] = value(rounded(estimate.value / size));
        figure["unit"] = value(unit);
        // What the rows do not determine is still an assumption.
        let determined = estimate.identified >= 0.5;
        figure["kind"] = value(if determined { "derived" } else { "assumed" });
        figure["source"] = value("fit");
        figure["low"] = value(rounded((estimate.value / spread).max(low) / size));
        figure["high"] = value(rounded((estimate.value * spread).min(high) / size));
        figure["note"] = value(format!(
            "Fitted to the rows in [fit]; range of two standard deviations. {} %{} of the prior's \
             variance is removed by them.",
            (estimate.identified * 100.0).round(),
            if estimate.at_bound { ", at the bound of what is plausible," } else { "" },
        ));
    }
    let list: toml_edit::Array = fit.rows.iter().map(String::as_str).collect();
    let percent = |errors: &[f64], q: f64| rounded(quantile(errors, q) * 100.0);
    let fitted = table(&mut document, "fit")?;
    fitted["method"] = value(
        "trainyard calibrate stack: robust least squares on ln(time), each base the same weight, \
         catalogue values as priors",
    );
    fitted["rows"] = value(record.rows.clone());
    fitted["date"] = value(record.date.clone());
    let names: toml_edit::Array =
        fit.estimates.iter().map(|e| Parameter::key(e.parameter)).collect();
    fitted["parameters"] = value(names);
    let priors: toml_edit::Array =
        fit.estimates.iter().map(|e| rounded(e.before / e.parameter.unit().1)).collect();
    fitted["priors"] = value(priors);
    fitted["count"] = value(fit.rows.len() as i64);
    fitted["median_error_pct"] = value(percent(&fit.errors.1, 0.5));
    fitted["p90_error_pct"] = value(percent(&fit.errors.1, 0.9));
    fitted["ids"] = value(list);
    let source = table(&mut document, "sources.fit")?;
    source["citation"] =
        value("Fit to published training steps, see [fit]; rows by id in tests/validation");
    source["date"] = value(record.date.get(..7).unwrap_or(&record.date));
    source["verified"] = value(true);
    drop_unused_sources(&mut document);
    Ok(document.to_string())
}

/// Takes out sources that no figure names any more.
fn drop_unused_sources(document: &mut DocumentMut) {
    fn collect(item: &Item, used: &mut BTreeSet<String>) {
        let Some(table) = item.as_table_like() else { return };
        for (key, value) in table.iter() {
            match value.as_str() {
                Some(name) if key == "source" => {
                    used.insert(name.to_owned());
                }
                _ => collect(value, used),
            }
        }
    }
    let mut used = BTreeSet::new();
    collect(document.as_item(), &mut used);
    if let Some(sources) = document.get_mut("sources").and_then(Item::as_table_mut) {
        sources.retain(|name, _| used.contains(name));
    }
}
