//! Tables of measured kernels that a scenario names.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::hardware::measured::{parse_attention, parse_gemms};
use crate::hardware::{Accelerator, Catalogue};
use crate::timing::{KernelLibrary, MeasuredKernels, Timing};

use super::SoftwareTable;
use super::files::Files;

/// Beyond so many times what the models say a row is a mistake: nine of ten published GEMMs are within
/// 13 % of them, and microseconds written as milliseconds are a thousand times off. A judgment.
const ABSURD: f64 = 20.0;

/// Rows of an accelerator that are compared with each other, which takes the square of their number:
/// seven times those of all published tables.
const MOST_ROWS: usize = 20_000;

/// The key that is wrong, and why.
type Refused = (&'static str, Error);

/// Reads the tables, and says what of them is not used; nothing where the scenario names none.
///
/// # Errors
/// A table cannot be read, or has no row that says anything about the accelerator.
pub(super) fn resolve(
    software: &SoftwareTable,
    catalogue: &Catalogue,
    accelerator: &Accelerator,
    files: &mut Files<'_>,
) -> std::result::Result<(Option<MeasuredKernels>, Vec<String>), Refused> {
    let mut rows: Vec<Timing> = Vec::new();
    let mut passed_over = Vec::new();
    if let Some(name) = &software.gemm_table {
        let key = "software.gemm_table";
        let refuse = |error| (key, error);
        let file = files.table("measured GEMMs", name).map_err(refuse)?;
        let table = parse_gemms(&file.origin, file.text.as_bytes()).map_err(refuse)?;
        let measured = table.iter().map(|row| {
            let kernels = row.kernel().into_iter().collect();
            (row.accelerator.as_str(), Timing { kernels, seconds: row.time_us * 1e-6 })
        });
        let what = "in a format that is modelled (bf16, fp16, fp8)";
        let (found, left) =
            of_accelerator(measured, catalogue, accelerator, name, what).map_err(refuse)?;
        rows.extend(found);
        passed_over.extend(left);
    }
    if let Some(name) = &software.attention_table {
        let key = "software.attention_table";
        let refuse = |error| (key, error);
        let file = files.table("measured attention", name).map_err(refuse)?;
        let table = parse_attention(&file.origin, file.text.as_bytes()).map_err(refuse)?;
        let measured = table.iter().map(|row| {
            let timing = Timing { kernels: row.fused_kernels(), seconds: row.seconds() };
            (row.accelerator.as_str(), timing)
        });
        let what = "of a fused kernel (flash_2, flash_3, cudnn, triton)";
        let (found, left) =
            of_accelerator(measured, catalogue, accelerator, name, what).map_err(refuse)?;
        rows.extend(found);
        passed_over.extend(left);
    }
    if rows.is_empty() {
        return Ok((None, passed_over));
    }
    let models = KernelLibrary::new(accelerator);
    let key = if software.gemm_table.is_some() {
        "software.gemm_table"
    } else {
        "software.attention_table"
    };
    let refuse = |error| (key, error);
    if rows.len() > MOST_ROWS {
        return Err(refuse(Error::Missing(format!(
            "the tables have {} rows of {}, and at most {MOST_ROWS} are compared: give the shapes of this \
             model",
            rows.len(),
            accelerator.name
        ))));
    }
    let measured = MeasuredKernels::new(&models, &rows).map_err(refuse)?;
    if let Some((row, deviation)) = measured.strangest().filter(|(_, d)| d.abs() > ABSURD.ln()) {
        let times = deviation.abs().exp();
        let than = if deviation > 0.0 { "longer" } else { "shorter" };
        return Err(refuse(Error::Missing(format!(
            "{row} took {times:.0} times {than} than {} would: a wrong unit or accelerator?",
            accelerator.name
        ))));
    }
    Ok((Some(measured), passed_over))
}

/// The rows of an accelerator that a model can be compared with.
fn of_accelerator<'r>(
    rows: impl Iterator<Item = (&'r str, Timing)>,
    catalogue: &Catalogue,
    accelerator: &Accelerator,
    file: &str,
    what: &str,
) -> Result<(Vec<Timing>, Option<String>), Error> {
    let (mut found, mut others, mut own) = (Vec::new(), BTreeSet::new(), 0_usize);
    let mut all = 0_usize;
    for (name, timing) in rows {
        all += 1;
        let known = catalogue.accelerator(name);
        if known.is_ok_and(|known| known.name == accelerator.name) {
            own += 1;
            if !timing.kernels.is_empty() {
                found.push(timing);
            }
        } else {
            others.insert(name);
        }
    }
    let name = &accelerator.name;
    if !found.is_empty() {
        let left = (found.len() < all).then(|| {
            format!(
                "{file}: {} of {all} rows are used; {} are of other accelerators, {} are not {what}",
                found.len(),
                all - own,
                own - found.len(),
            )
        });
        return Ok((found, left));
    }
    Err(Error::Missing(if own > 0 {
        format!("none of the {own} rows of {name} in {file} is {what}")
    } else {
        let most = 5;
        let mut there: Vec<&str> = others.iter().copied().take(most).collect();
        if others.len() > most {
            there.push("...");
        }
        let there = if there.is_empty() { "no rows".to_owned() } else { there.join(", ") };
        format!("{file} has no row of {name}; it has: {there}")
    }))
}
