//! The fitted end of an accelerator's file.

use std::fmt::Write as _;
use std::path::Path;

use super::attention::{AttentionFit, TRITON};
use super::gemm::GemmFit;
use crate::error::{Error, Result};
use crate::hardware::{Accelerator, Curve, KernelFit};
use crate::output::write_file;
use crate::program::FusedAttention;
use crate::timing::FlashModel;

/// Separates what is written by hand from what a fit writes.
pub const MARK: &str =
    "# Below: written by `trainyard calibrate kernels`; edits are lost at the next fit.\n";

/// How constants came to an accelerator.
#[derive(Clone, Debug, Default)]
pub enum Origin {
    /// Fitted on rows of this accelerator.
    #[default]
    Fitted,
    /// Taken from another one of the same architecture.
    Sibling(String),
}

/// Everything that a fit has to say about an accelerator.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// GEMMs: constants, fit record, how they came here.
    pub gemm: Option<(GemmFit, KernelFit, Origin)>,
    /// Attention by implementation.
    pub attention: Vec<(FusedAttention, AttentionFit, KernelFit, Origin)>,
}

/// Four significant digits: more would claim what no fit knows.
fn number(value: f64) -> String {
    if value == 0.0 {
        return "0.0".into();
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    let text = if digits > 0 {
        format!("{value:.*}", digits.min(12) as usize)
    } else {
        format!("{value:.0}")
    };
    if text.contains('.') { text } else { format!("{text}.0") }
}

/// Says where a sibling's constants come from.
fn note(origin: &Origin) -> Option<String> {
    match origin {
        Origin::Fitted => None,
        Origin::Sibling(name) => {
            Some(format!("as fitted on {name}, which has the same architecture"))
        }
    }
}

fn figure(out: &mut String, key: &str, value: f64, unit: &str, origin: &Origin) {
    let note = note(origin).map_or(String::new(), |note| format!(", note = {note:?}"));
    let _ = writeln!(
        out,
        "{key} = {{ value = {}, unit = {unit:?}, kind = \"derived\", source = \"kernel-fit\"{note} }}",
        number(value)
    );
}

fn curve(out: &mut String, path: &str, curve: &Curve, note: Option<String>) {
    let points: Vec<String> =
        curve.points.iter().map(|[x, y]| format!("[{x:.1}, {}]", number(*y))).collect();
    let _ = writeln!(
        out,
        "[{path}]\npoints = [{}]\nx = {:?}\ny = {:?}\nkind = \"derived\"\nsource = \"kernel-fit\"",
        points.join(", "),
        curve.x,
        curve.y
    );
    if let Some(note) = note {
        let _ = writeln!(out, "note = {note:?}");
    }
}

fn record(out: &mut String, path: &str, fit: &KernelFit) {
    let _ = writeln!(
        out,
        "[{path}.fit]\nmethod = {:?}\nrows = {:?}\ncount = {}\nhash = {:?}\ndate = {:?}\n\
         median_error_pct = {:.1}\np90_error_pct = {:.1}",
        fit.method,
        fit.rows,
        fit.count,
        fit.hash,
        fit.date,
        fit.median_error_pct,
        fit.p90_error_pct
    );
}

fn gemm(out: &mut String, item: &Accelerator, fit: &GemmFit, record_of: &KernelFit, o: &Origin) {
    let model = &fit.model;
    let _ = writeln!(out, "\n[kernels.tiles]\nshapes = [");
    for tile in &model.shapes {
        let _ = writeln!(
            out,
            "    {{ rows = {}, columns = {}, units = {} }},",
            tile.rows, tile.columns, tile.units
        );
    }
    let _ = writeln!(out, "]");
    figure(out, "saturated", model.saturated, "1", o);
    figure(out, "per_tile", model.per_tile * 1e6, "us", o);
    figure(out, "floor", model.floor * 1e6, "us", o);
    figure(out, "split", model.split * 1e6, "us", o);
    figure(out, "memory", model.memory, "1", o);
    figure(out, "small_tile", model.small_tile, "1", o);
    figure(out, "throttled", model.throttled, "1", o);
    // Narrow formats: the quotient of their saturated curve over that of 16 bits.
    let largest = |curve: &Curve| curve.points[curve.points.len() - 1][1];
    let kernels = &item.kernels;
    for (key, narrow) in [("fp8", &kernels.gemm_fp8), ("fp4", &kernels.gemm_fp4)] {
        if let Some(narrow) = narrow {
            let value = largest(narrow) / largest(&kernels.gemm);
            let _ = writeln!(
                out,
                "{key} = {{ value = {}, unit = \"1\", kind = \"derived\", source = {:?}, note = \
                 \"quotient of the largest points of the {key} and 16-bit curves; no measured \
                 {key} shapes\" }}",
                number(value),
                narrow.source
            );
        }
    }
    if let Some(alignment) = &model.alignment {
        let points: Vec<String> =
            alignment.points.iter().map(|[x, y]| format!("[{x:.1}, {y:.2}]")).collect();
        let _ = writeln!(
            out,
            "[kernels.tiles.alignment]\npoints = [{}]\nx = \"B\"\ny = \"factor on the rate\"\n\
             kind = \"assumed\"\nsource = \"misaligned\"\nspread = 0.3\nnote = \"No measured \
             shapes that are not multiples of 16 bytes. A vocabulary of odd size makes the \
             projection two to three times slower, by two accounts; in between, geometric.\"",
            points.join(", ")
        );
    }
    record(out, "kernels.tiles", record_of);
}

fn attention(
    out: &mut String,
    implementation: FusedAttention,
    fit: &AttentionFit,
    record_of: &KernelFit,
    origin: &Origin,
) {
    let base = format!("kernels.attention.{}", implementation.as_str());
    let mut pass = |name: &str, model: &FlashModel, borrowed: Option<&String>| {
        let path = format!("{base}.{name}");
        let _ = writeln!(out, "\n[{path}]");
        figure(out, "prologue", model.prologue, "count", origin);
        figure(out, "causal", model.causal, "1", origin);
        let note = [note(origin), borrowed.cloned()].into_iter().flatten().collect::<Vec<_>>();
        let note = (!note.is_empty()).then(|| note.join("; "));
        curve(out, &format!("{path}.saturated"), &model.saturated, note);
    };
    let triton = implementation == FusedAttention::Triton;
    pass("forward", &fit.forward, fit.borrowed.as_ref().filter(|_| triton));
    pass("backward", &fit.backward, fit.borrowed.as_ref());
    record(out, &base, record_of);
}

/// The end of an accelerator's file.
#[must_use]
pub fn section(item: &Accelerator, section: &Section, date: &str) -> String {
    let mut out = String::new();
    if let Some((fit, record_of, origin)) = &section.gemm {
        gemm(&mut out, item, fit, record_of, origin);
    }
    for (implementation, fit, record_of, origin) in &section.attention {
        attention(&mut out, *implementation, fit, record_of, origin);
    }
    let _ = writeln!(
        out,
        "\n[sources.kernel-fit]\ncitation = \"Fit to measured kernels, see the [fit] tables: \
         github:ai-dynamo/aiconfigurator GEMM tables (Apache-2.0), github:Dao-AILab/flash-attention \
         benchmark figures; first generation of attention kernels over the second by {} and {} \
         (arXiv 2307.08691, section 4.1)\"\ndate = {date:?}\nverified = true",
        TRITON[0], TRITON[1]
    );
    if section.gemm.is_some() {
        out.push_str(
            "\n[sources.misaligned]\ncitation = \"nanoGPT: a vocabulary of 50,304 instead of \
             50,257 speeds a whole step up by a quarter (from memory); Netflix engineering, \
             2026-02: odd vocabulary sizes make the head three times slower (summary at \
             sysdesign-wiki.pages.dev)\"\ndate = \"2026-02\"\nverified = false\n",
        );
    }
    out
}

/// Puts the section at the end of the accelerator's file below `directory`, a `hw-models` tree.
///
/// # Errors
/// The file cannot be read or written.
pub fn write(directory: &Path, name: &str, tail: &str) -> Result<String> {
    let path = directory.join("accelerators").join(format!("{name}.toml"));
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let head = text.split_once(MARK).map_or(text.as_str(), |(head, _)| head);
    let text = format!("{}\n\n{MARK}{tail}", head.trim_end());
    write_file(&path, text.as_bytes())?;
    Ok(format!("accelerators/{name}.toml"))
}
