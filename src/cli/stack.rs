//! `trainyard calibrate stack`: fits a software stack's parameters to measured steps.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::calibrate::stack::{Condition, Fit, Parameter, Record, fit, rewrite, rows_of_stack};
use crate::error::{Error, Result, nearest_names};
use crate::hardware::Catalogue;
use crate::validate::{EMBEDDED, Row, Tables, quantile};

use super::{read_table, stdout_error, write_file};

/// Fits a software stack's parameters to measured training steps.
#[derive(Args, Clone, Debug)]
pub struct CalibrateStack {
    /// Name of the stack.
    pub name: String,
    /// Tables of measured configurations; the published ones if none is named.
    #[arg(long = "rows", value_name = "FILE.csv")]
    pub rows: Vec<PathBuf>,
    /// Only rows that meet this: column=value, column=a|b, column!=value, column<=number,
    /// column>=number. May be repeated; all have to hold.
    #[arg(long = "where", value_name = "CONDITION")]
    pub conditions: Vec<String>,
    /// Parameters to fit, comma-separated.
    #[arg(long, value_delimiter = ',', default_value = "in_training.kernels,host.per_operation")]
    pub parameters: Vec<String>,
    /// The stack's file, whose figures are rewritten; nothing is written if absent.
    #[arg(long, value_name = "FILE.toml")]
    pub out: Option<PathBuf>,
    /// Date to record as that of the fit.
    #[arg(long, value_name = "YYYY-MM-DD", default_value = "undated")]
    pub date: String,
}

/// Runs the command.
///
/// # Errors
/// A name or condition is unknown, no row remains, or the file cannot be written.
pub fn calibrate_stack(
    args: &CalibrateStack,
    catalogue: &Catalogue,
    out: &mut dyn Write,
) -> Result<()> {
    let stack = catalogue.stack(&args.name)?.name.clone();
    let parameters = args
        .parameters
        .iter()
        .map(|key| {
            Parameter::parse(key).ok_or_else(|| Error::UnknownName {
                what: "parameter of a stack",
                name: key.clone(),
                nearest: nearest_names(key, Parameter::ALL.iter().map(|p| p.key())),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let conditions =
        args.conditions.iter().map(|text| Condition::parse(text)).collect::<Result<Vec<_>>>()?;
    let mut tables = Tables::default();
    if args.rows.is_empty() {
        for (origin, text) in EMBEDDED {
            tables.add_bytes(origin, text.as_bytes());
        }
    }
    for path in &args.rows {
        tables.add_bytes(&path.display().to_string(), &read_table(path)?);
    }
    let met: Vec<Row> = tables
        .rows
        .into_iter()
        .filter(|row| conditions.iter().all(|condition| condition.holds(row)))
        .collect();
    let rows = rows_of_stack(catalogue, &stack, &met);
    if rows.is_empty() {
        return Err(Error::Missing(format!(
            "no measured row that is predicted with {stack} meets the conditions ({} rows do, of \
             any stack)",
            met.len()
        )));
    }
    let fitted = fit(catalogue, &stack, &parameters, &rows)?;
    out.write_all(text(&fitted).as_bytes()).map_err(stdout_error)?;
    if let Some(path) = &args.out {
        let before = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let record = Record {
            date: args.date.clone(),
            rows: if args.conditions.is_empty() {
                "all rows of the stack".into()
            } else {
                args.conditions.join(", ")
            },
        };
        write_file(path, rewrite(&before, &fitted, &record)?.as_bytes())?;
        writeln!(out, "\nwritten to {}", path.display()).map_err(stdout_error)?;
    }
    Ok(())
}

fn text(fit: &Fit) -> String {
    let mut t = String::new();
    let _ = writeln!(t, "{}: {} rows", fit.stack, fit.rows.len());
    let _ = writeln!(
        t,
        "\n  {:28} {:>10} {:>10} {:>9} {:>11}",
        "parameter", "before", "fitted", "+-", "identified"
    );
    for e in &fit.estimates {
        let (unit, size) = e.parameter.unit();
        let unit = if unit == "1" { "" } else { unit };
        let _ = writeln!(
            t,
            "  {:28} {:>10} {:>10} {:>7.1} % {:>9.0} %{}",
            e.parameter.key(),
            format!("{:.3} {unit}", e.before / size).trim_end(),
            format!("{:.3} {unit}", e.value / size).trim_end(),
            e.relative_sigma * 100.0,
            e.identified * 100.0,
            match (e.at_bound, e.identified < 0.5) {
                (true, _) => "  at the bound of its plausible range",
                (_, true) => "  hardly determined by these rows: the prior holds",
                _ => "",
            }
        );
    }
    if fit.estimates.len() > 1 {
        let _ = writeln!(t, "\n  correlation");
        for (e, row) in fit.estimates.iter().zip(&fit.correlation) {
            let cells: String = row.iter().map(|c| format!(" {c:>6.2}")).collect();
            let _ = writeln!(t, "  {:28}{cells}", e.parameter.key());
        }
    }
    let percent = |errors: &[f64], q| quantile(errors, q) * 100.0;
    let _ = writeln!(
        t,
        "\n  error of the rows: median {:.1} % (before {:.1} %), p90 {:.1} % (before {:.1} %)",
        percent(&fit.errors.1, 0.5),
        percent(&fit.errors.0, 0.5),
        percent(&fit.errors.1, 0.9),
        percent(&fit.errors.0, 0.9)
    );
    let _ = writeln!(t, "  these are the rows of the fit, and say nothing about accuracy");
    t
}
