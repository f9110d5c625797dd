//! `trainyard explain`: where a step's time comes from, from the roofline on.

use std::io::Write;
use std::path::PathBuf;

use clap::{ArgGroup, Args};

use crate::error::{Error, Result, nearest_names};
use crate::input::Document;
use crate::outcome::explain;
use crate::report;
use crate::scenario::resolve;
use crate::units::Seconds;
use crate::validate::{EMBEDDED, Predictor, Tables};

use super::{Context, Format, read_table, stdout_error, write_json};

/// Options of `trainyard explain`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["scenario", "row"])))]
pub struct ExplainArgs {
    /// Scenario file (TOML).
    scenario: Option<PathBuf>,
    /// A row of the published tables that come with trainyard, with what was measured.
    #[arg(long, value_name = "ID")]
    row: Option<String>,
    /// Table (CSV) that the row is in, instead of those.
    #[arg(long, value_name = "FILE.csv", requires = "row")]
    table: Vec<PathBuf>,
    /// Replaces a key of the scenario: --set plan.tensor_parallel=4.
    #[arg(long = "set", value_name = "KEY=VALUE", conflicts_with = "row")]
    set: Vec<String>,
    /// A measured step, in seconds.
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    measured: Option<f64>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds > 0.0 => Ok(seconds),
        _ => Err("a number of seconds above 0 is expected".into()),
    }
}

/// Runs the command.
///
/// # Errors
/// The scenario or row is wrong, unknown or not predicted.
pub fn run(args: &ExplainArgs, context: &Context, out: &mut dyn Write) -> Result<()> {
    let catalogue = context.catalogue()?;
    let measured = args.measured.map(Seconds);
    let waterfall = if let Some(path) = &args.scenario {
        let mut document = Document::read(path)?;
        for assignment in &args.set {
            document.set(assignment)?;
        }
        explain(&resolve(&document, &catalogue)?)?.finish(1.0, measured)
    } else {
        let id = args.row.as_deref().unwrap_or_default();
        let mut tables = Tables::default();
        if args.table.is_empty() {
            for (origin, text) in EMBEDDED {
                tables.add_bytes(origin, text.as_bytes());
            }
        }
        for path in &args.table {
            tables.add_bytes(&path.display().to_string(), &read_table(path)?);
        }
        let row = tables.rows.iter().find(|row| row.labels.id == id);
        let row = row.ok_or_else(|| Error::UnknownName {
            what: "row",
            name: id.to_owned(),
            nearest: nearest_names(id, tables.rows.iter().map(|row| row.labels.id.as_str())),
        })?;
        let refuse = |reason: String| Error::Unsupported(format!("row `{id}`: {reason}"));
        let spec = row.spec.as_ref().map_err(|reason| refuse(reason.clone()))?;
        let predictor = Predictor::new(&catalogue);
        let explained = predictor.with_setup(spec, |setup, scale| {
            let training = &setup.scenario.training;
            let batch = f64::from(training.global_batch) * scale;
            let tokens = batch * f64::from(training.sequence_length);
            let by_rate = || {
                let rate = row.measured.tokens_per_second_per_device?;
                Some(tokens / rate / f64::from(setup.devices))
            };
            let of_row = row.measured.step_seconds.or_else(by_rate).map(Seconds);
            Ok(explain(setup)?.finish(scale, measured.or(of_row)))
        });
        let mut waterfall = explained.map_err(refuse)?;
        waterfall.name = format!("{id}: {}", waterfall.name);
        waterfall
    };
    match args.format {
        Format::Json => write_json(out, &waterfall),
        Format::Table => {
            out.write_all(report::explain_text(&waterfall).as_bytes()).map_err(stdout_error)
        }
    }
}
