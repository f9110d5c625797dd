//! `trainyard validate --gemm/--attention` and `trainyard calibrate kernels`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::calibrate::kernels::attention::AttentionFit;
use crate::calibrate::kernels::score::{self, Scored};
use crate::calibrate::kernels::write::{Origin, Section, section, write};
use crate::calibrate::kernels::{Spread, attention, gemm};
use crate::error::{Error, Result};
use crate::hardware::measured::{GemmRow, hash, read_attention, read_gemms};
use crate::hardware::{Accelerator, Catalogue, Curve, KernelFit};
use crate::program::FusedAttention;

/// Scores the kernel models against tables of measurements.
#[derive(Clone, Debug)]
pub struct ValidateKernels<'a> {
    /// CSV of measured GEMMs.
    pub gemm: Option<&'a Path>,
    /// CSV of measured attention calls.
    pub attention: Option<&'a Path>,
    /// Also refits on half of the rows and scores the other half.
    pub held_out: bool,
}

/// Fits the kernel models' constants of an accelerator to measured kernels.
#[derive(Args, Clone, Debug)]
pub struct CalibrateKernels {
    /// Accelerator of the catalogue; rows of its name and aliases are used.
    pub name: String,
    /// CSV of measured GEMMs: accelerator, dtype, m, n, k, time_us.
    #[arg(long, value_name = "FILE.csv")]
    pub gemm: Option<PathBuf>,
    /// CSV of measured attention: accelerator, impl, pass_, causal, head_dim, seqlen, tflops.
    #[arg(long, value_name = "FILE.csv")]
    pub attention: Option<PathBuf>,
    /// Accelerators of the same architecture without rows that get these constants, as derived.
    #[arg(long = "sibling", value_name = "NAME")]
    pub siblings: Vec<String>,
    /// Accelerator whose attention rows stand for this one's, where it has none.
    #[arg(long, value_name = "NAME", requires = "attention")]
    pub attention_from: Option<String>,
    /// The `hw-models` directory whose file is rewritten.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Date to record as that of the fit.
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub date: String,
}

fn io(error: std::io::Error) -> Error {
    Error::io("write", "standard output", error)
}

fn print(out: &mut dyn Write, title: &str, scored: &[Scored]) -> std::io::Result<()> {
    writeln!(
        out,
        "\n{title}\n\n{:<14} {:<28} {:>5} {:>8} {:>8} {:>8}",
        "accelerator", "rows", "n", "median %", "p90 %", "bias %"
    )?;
    for ((accelerator, class), s) in score::table(scored) {
        writeln!(
            out,
            "{accelerator:<14} {class:<28} {:>5} {:>8.1} {:>8.1} {:>+8.1}",
            s.rows, s.median, s.p90, s.bias
        )?;
    }
    Ok(())
}

fn print_refused(out: &mut dyn Write, refused: &[String]) -> std::io::Result<()> {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in refused {
        *reasons.entry(reason.lines().next().unwrap_or_default()).or_default() += 1;
    }
    for (reason, count) in reasons {
        writeln!(out, "  not predicted: {count} rows: {reason}")?;
    }
    Ok(())
}

/// Runs `validate --gemm` and `validate --attention`.
///
/// # Errors
/// A table cannot be read, a fit has too few rows, or the output cannot be written.
pub fn validate(
    args: &ValidateKernels<'_>,
    catalogue: &Catalogue,
    out: &mut dyn Write,
) -> Result<()> {
    let constants = "constants of the catalogue (fitted on the rows their [fit] tables name)";
    let halves = "rows left out of the fit (half of them by hash)";
    if let Some(path) = args.gemm {
        let rows = read_gemms(path)?;
        let (scored, refused) = score::gemms(catalogue, &rows);
        print(out, &format!("GEMMs, {constants}"), &scored).map_err(io)?;
        print_refused(out, &refused).map_err(io)?;
        if args.held_out {
            let (modelled, interpolated) = score::held_out_gemms(catalogue, &rows)?;
            print(out, &format!("GEMMs, {halves}"), &modelled).map_err(io)?;
            let title = format!("GEMMs, {halves}, the other half as measured kernels");
            print(out, &title, &interpolated).map_err(io)?;
        }
    }
    if let Some(path) = args.attention {
        let rows = read_attention(path)?;
        let (scored, refused) = score::attention(catalogue, &rows);
        print(out, &format!("attention, {constants}"), &scored).map_err(io)?;
        print_refused(out, &refused).map_err(io)?;
        if args.held_out {
            let scored = score::held_out_attention(catalogue, &rows)?;
            print(out, &format!("attention, {halves}"), &scored).map_err(io)?;
        }
    }
    Ok(())
}

/// What a file says about a fit.
fn fit_record(method: &str, rows: String, hash: String, spread: Spread, date: &str) -> KernelFit {
    KernelFit {
        method: format!("trainyard calibrate kernels: {method}"),
        rows,
        count: spread.rows as u64,
        hash,
        date: date.to_owned(),
        median_error_pct: spread.median,
        p90_error_pct: spread.p90,
    }
}

/// A sibling's clock under its power limit differs: its curve over that of the fitted part says by
/// how much.
fn clock_quotient(sibling: &Accelerator, fitted: &Accelerator) -> f64 {
    let largest = |curve: &Curve| curve.points[curve.points.len() - 1][1];
    largest(&sibling.kernels.gemm) / largest(&fitted.kernels.gemm)
}

fn for_sibling(fitted: &Section, sibling: &Accelerator, of: &Accelerator) -> Section {
    let factor = clock_quotient(sibling, of);
    let origin = Origin::Sibling(of.name.clone());
    let gemm = fitted.gemm.clone().map(|(mut fit, record, _)| {
        fit.model.saturated *= factor;
        (fit, record, origin.clone())
    });
    let attention = fitted.attention.iter().cloned().map(|(implementation, mut fit, record, _)| {
        for model in [&mut fit.forward, &mut fit.backward] {
            for point in &mut model.saturated.points {
                point[1] *= factor;
            }
        }
        (implementation, fit, record, origin.clone())
    });
    Section { gemm, attention: attention.collect() }
}

/// Runs `calibrate kernels`.
///
/// # Errors
/// A table cannot be read, has too few rows of the accelerator, or its file cannot be written.
pub fn calibrate(
    args: &CalibrateKernels,
    catalogue: &Catalogue,
    out: &mut dyn Write,
) -> Result<()> {
    let accelerator = catalogue.accelerator(&args.name)?;
    if args.gemm.is_none() && args.attention.is_none() {
        return Err(Error::Missing(
            "nothing to fit to\n  help: give --gemm FILE.csv, --attention FILE.csv or both".into(),
        ));
    }
    let mut fitted = Section::default();
    if let Some(path) = &args.gemm {
        let rows = read_gemms(path)?;
        let own: Vec<&GemmRow> = rows
            .iter()
            .filter(|row| {
                catalogue.accelerator(&row.accelerator).is_ok_and(|a| a.name == accelerator.name)
            })
            .collect();
        let fit = gemm::fit(accelerator, &own)?;
        let sources = first_words(own.iter().map(|row| row.source.as_str()));
        let record = fit_record(
            "robust least squares on ln(time), seven constants",
            format!("16-bit rows of {}: {sources}", accelerator.name),
            hash(own.iter().map(|row| row.key()).collect()),
            fit.spread,
            &args.date,
        );
        report(out, "GEMM", fit.spread).map_err(io)?;
        fitted.gemm = Some((fit, record, Origin::Fitted));
    }
    if let Some(path) = &args.attention {
        let rows = read_attention(path)?;
        let known: Vec<_> =
            rows.iter().filter(|row| catalogue.accelerator(&row.accelerator).is_ok()).collect();
        let fits = attention::fit(catalogue, &known)?;
        let lender = match &args.attention_from {
            Some(name) => catalogue.accelerator(name)?,
            None => accelerator,
        };
        let of_this = |wanted: &str| -> Vec<(FusedAttention, AttentionFit)> {
            let mut own: Vec<_> = fits
                .iter()
                .filter(|((name, _), _)| name == wanted)
                .map(|((_, implementation), fit)| (*implementation, fit.clone()))
                .collect();
            let second = own.iter().find(|(i, _)| *i == FusedAttention::Flash2);
            if !own.iter().any(|(i, _)| *i == FusedAttention::Triton)
                && let Some((_, second)) = second
            {
                own.push((FusedAttention::Triton, attention::triton(second)));
            }
            own
        };
        let mut own = of_this(&accelerator.name);
        let mut origin = Origin::Fitted;
        if own.is_empty() {
            own = of_this(&lender.name);
            origin = Origin::Sibling(lender.name.clone());
        }
        if own.is_empty() {
            return Err(Error::Missing(format!(
                "{} has no attention row of {}\n  help: name an accelerator of the same \
                 architecture with --attention-from",
                path.display(),
                accelerator.name
            )));
        }
        for (implementation, fit) in own {
            report(out, implementation.as_str(), fit.spread).map_err(io)?;
            let record = fit_record(
                "robust least squares on ln(time), a fraction per head size, prologue, mask",
                format!("rows of {}, {}", lender.name, implementation.as_str()),
                fit.hash.clone(),
                fit.spread,
                &args.date,
            );
            fitted.attention.push((implementation, fit, record, origin.clone()));
        }
    }
    let tail = section(accelerator, &fitted, &args.date);
    let mut written = vec![write(&args.out, &accelerator.name, &tail)?];
    for name in &args.siblings {
        let sibling = catalogue.accelerator(name)?;
        if sibling.architecture != accelerator.architecture {
            return Err(Error::Unsupported(format!(
                "{} ({}) has not the architecture of {} ({}); constants do not carry over",
                sibling.name, sibling.architecture, accelerator.name, accelerator.architecture
            )));
        }
        let tail = section(sibling, &for_sibling(&fitted, sibling, accelerator), &args.date);
        written.push(write(&args.out, &sibling.name, &tail)?);
    }
    for name in written {
        writeln!(out, "wrote {name}").map_err(io)?;
    }
    Ok(())
}

fn report(out: &mut dyn Write, what: &str, s: Spread) -> std::io::Result<()> {
    writeln!(
        out,
        "{what:<8} {:>4} rows: median error {:.1} %, p90 {:.1} %, bias {:+.1} %",
        s.rows, s.median, s.p90, s.bias
    )
}

/// Distinct sources, up to three.
fn first_words<'a>(sources: impl Iterator<Item = &'a str>) -> String {
    let mut all: Vec<&str> = Vec::new();
    for source in sources {
        if !source.is_empty() && !all.contains(&source) && all.len() < 3 {
            all.push(source);
        }
    }
    if all.is_empty() { "source not stated".into() } else { all.join(", ") }
}
