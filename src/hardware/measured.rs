//! Measured kernels as CSV: one row, one timing, from a probe, a benchmark or a paper.
//!
//! GEMMs: `accelerator, dtype, m, n, k, time_us` and, if there are, `batch, source`. Attention:
//! `accelerator, impl, pass_, causal, head_dim, seqlen, tflops` and, if there are, `tokens, width,
//! source`; without the last two 16,384 tokens and a width of 2,048, the convention of the
//! FlashAttention figures. Other columns are ignored.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, InputError, Result};
use crate::program::{AttentionPass, FusedAttention, Kernel, KernelClass, Precision, Work};

/// A measured GEMM.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct GemmRow {
    /// The accelerator, as the source calls it.
    pub accelerator: String,
    /// Format of the operands, as the source calls it.
    pub dtype: String,
    /// Rows of the output.
    pub m: u64,
    /// Columns of the output.
    pub n: u64,
    /// Reduction length.
    pub k: u64,
    /// Independent products in one call.
    #[serde(default = "one")]
    pub batch: u64,
    /// Microseconds.
    pub time_us: f64,
    /// Where the row comes from.
    #[serde(default)]
    pub source: String,
}

/// A measured attention call.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct AttentionRow {
    /// The accelerator, as the source calls it.
    pub accelerator: String,
    /// Implementation, as the source calls it.
    #[serde(rename = "impl")]
    pub implementation: String,
    /// `fwd`, `bwd` or `fwd+bwd`.
    pub pass_: String,
    /// `yes` or `no`.
    pub causal: String,
    /// Size of a head.
    pub head_dim: u64,
    /// Tokens per sequence.
    pub seqlen: u64,
    /// TFLOP/s; causal work counted once, backward 2.5 times forward.
    pub tflops: f64,
    /// Tokens of all sequences.
    #[serde(default = "flash_tokens")]
    pub tokens: u64,
    /// Heads times their size.
    #[serde(default = "flash_width")]
    pub width: u64,
    /// Where the row comes from.
    #[serde(default)]
    pub source: String,
}

fn one() -> u64 {
    1
}
fn flash_tokens() -> u64 {
    16_384
}
fn flash_width() -> u64 {
    2_048
}

impl GemmRow {
    /// Format of the operands, if it is one that is modelled.
    #[must_use]
    pub fn precision(&self) -> Option<Precision> {
        match self.dtype.to_lowercase().as_str() {
            "bfloat16" | "bf16" => Some(Precision::Bf16),
            "float16" | "fp16" | "half" => Some(Precision::Fp16),
            "fp8" | "float8" | "float8_e4m3fn" | "fp8_e4m3" => Some(Precision::Fp8),
            _ => None,
        }
    }

    /// The kernel, if its format is one that is modelled.
    #[must_use]
    pub fn kernel(&self) -> Option<Kernel> {
        let (precision, batch) = (self.precision()?, self.batch);
        Some(Kernel {
            name: "measured".into(),
            class: KernelClass::Gemm,
            work: Work::Gemm { m: self.m, n: self.n, k: self.k, batch, precision },
        })
    }

    /// Text that the row is hashed by: splits and fit records do not depend on the file's order.
    #[must_use]
    pub fn key(&self) -> String {
        format!(
            "{} {} m={} n={} k={} batch={} us={}",
            self.accelerator, self.dtype, self.m, self.n, self.k, self.batch, self.time_us
        )
    }
}

impl AttentionRow {
    /// The fused implementation, or none for a stored score matrix.
    #[must_use]
    pub fn fused(&self) -> Option<FusedAttention> {
        let name = self.implementation.to_lowercase().replace(['-', '_', ' '], "");
        match name.as_str() {
            "flashattention2" | "flash2" => Some(FusedAttention::Flash2),
            "flashattention3" | "flash3" => Some(FusedAttention::Flash3),
            "cudnn" => Some(FusedAttention::Cudnn),
            "triton" | "flashattentiontriton" => Some(FusedAttention::Triton),
            _ => None,
        }
    }

    /// Whether a causal mask is on.
    #[must_use]
    pub fn causal(&self) -> bool {
        self.causal == "yes"
    }

    /// Sequences in the call.
    #[must_use]
    pub fn batch(&self) -> u64 {
        (self.tokens / self.seqlen).max(1)
    }

    /// Heads in the call.
    #[must_use]
    pub fn heads(&self) -> u64 {
        (self.width / self.head_dim).max(1)
    }

    /// Measured seconds, by the row's own count of FLOP.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        let s = self.seqlen as f64;
        let forward = 4.0 * (self.batch() * self.heads() * self.head_dim) as f64 * s * s
            / if self.causal() { 2.0 } else { 1.0 };
        let passes = match self.pass_.as_str() {
            "fwd" => 1.0,
            "bwd" => 2.5,
            _ => 3.5,
        };
        forward * passes / (self.tflops * 1e12)
    }

    /// The kernels of a fused implementation that were timed together: forward, backward or both.
    #[must_use]
    pub fn fused_kernels(&self) -> Vec<Kernel> {
        let Some(implementation) = self.fused() else { return Vec::new() };
        let s = self.seqlen;
        let one = |pass| Kernel {
            name: "attention".into(),
            class: KernelClass::Attention,
            work: Work::Attention {
                pass,
                implementation,
                batch: self.batch(),
                heads: self.heads(),
                kv_heads: self.heads(),
                queries: s,
                keys: s,
                pairs: if self.causal() { s * (s + 1) / 2 } else { s * s },
                head_dim: self.head_dim,
                value_dim: self.head_dim,
                precision: Precision::Bf16,
            },
        };
        match self.pass_.as_str() {
            "fwd" => vec![one(AttentionPass::Forward)],
            "bwd" => vec![one(AttentionPass::Backward)],
            _ => vec![one(AttentionPass::Forward), one(AttentionPass::Backward)],
        }
    }

    /// Text that the row is hashed by.
    #[must_use]
    pub fn key(&self) -> String {
        format!(
            "{} {} {} causal={} d={} s={} tflops={}",
            self.accelerator,
            self.implementation,
            self.pass_,
            self.causal,
            self.head_dim,
            self.seqlen,
            self.tflops
        )
    }
}

/// Whether a row belongs to the half that a held-out score leaves out of the fit.
#[must_use]
pub fn held_out(key: &str) -> bool {
    blake3::hash(key.as_bytes()).as_bytes()[0] & 1 == 1
}

/// First 16 digits of the hash of rows, whatever their order.
#[must_use]
pub fn hash(mut keys: Vec<String>) -> String {
    keys.sort();
    blake3::hash(keys.join("\n").as_bytes()).to_hex()[..16].to_owned()
}

/// Reads a table of GEMMs.
///
/// # Errors
/// The file cannot be read; otherwise as for [`parse_gemms`].
pub fn read_gemms(path: &Path) -> Result<Vec<GemmRow>> {
    parse_gemms(&path.display().to_string(), &bytes_of(path)?)
}

/// Reads a table of attention calls.
///
/// # Errors
/// As for [`read_gemms`].
pub fn read_attention(path: &Path) -> Result<Vec<AttentionRow>> {
    parse_attention(&path.display().to_string(), &bytes_of(path)?)
}

fn bytes_of(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io("read", path, e))
}

/// A table of GEMMs from its text.
///
/// # Errors
/// It lacks a column, or a field is not what its column holds; the message has the line.
pub fn parse_gemms(origin: &str, text: &[u8]) -> Result<Vec<GemmRow>> {
    let columns = ["accelerator", "dtype", "m", "n", "k", "time_us"];
    let rows: Vec<(u64, GemmRow)> = parse(origin, text, &columns)?;
    // Products of sizes stay far below what 64 bits hold.
    let sizes = |row: &GemmRow| [row.m, row.n, row.k, row.batch];
    check(origin, rows, |row| {
        row.time_us > 0.0
            && row.time_us.is_finite()
            && sizes(row).iter().all(|size| (1..=1 << 28).contains(size))
            && sizes(row).iter().map(|size| *size as f64).product::<f64>() < 1e18
    })
}

/// A table of attention calls from its text.
///
/// # Errors
/// As for [`parse_gemms`].
pub fn parse_attention(origin: &str, text: &[u8]) -> Result<Vec<AttentionRow>> {
    let columns = ["accelerator", "impl", "pass_", "causal", "head_dim", "seqlen", "tflops"];
    let rows: Vec<(u64, AttentionRow)> = parse(origin, text, &columns)?;
    check(origin, rows, |row| {
        row.tflops > 0.0
            && row.tflops.is_finite()
            && (1..=1 << 16).contains(&row.head_dim)
            && (1..=1 << 26).contains(&row.seqlen)
            && (1..=1 << 30).contains(&row.tokens)
            && (1..=1 << 24).contains(&row.width)
            && row.tokens >= row.seqlen
            && row.width >= row.head_dim
            && ["fwd", "bwd", "fwd+bwd"].contains(&row.pass_.as_str())
            && ["yes", "no"].contains(&row.causal.as_str())
    })
}

fn input_error(origin: &str, line: u64, message: String, hint: Option<String>) -> Error {
    InputError {
        origin: origin.to_owned(),
        position: Some((line as usize, 1)),
        message,
        hint,
        ..InputError::default()
    }
    .into()
}

fn check<T>(origin: &str, rows: Vec<(u64, T)>, fine: impl Fn(&T) -> bool) -> Result<Vec<T>> {
    if let Some((line, _)) = rows.iter().find(|(_, row)| !fine(row)) {
        let message = "has a size, rate or word that makes no sense".to_owned();
        let hint = "sizes and times are above 0; pass_ is fwd, bwd or fwd+bwd; causal yes or no; tokens \
                    are at least seqlen, width at least head_dim";
        return Err(input_error(origin, *line, message, Some(hint.into())));
    }
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

fn parse<T: DeserializeOwned>(origin: &str, text: &[u8], needed: &[&str]) -> Result<Vec<(u64, T)>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
    let headers = reader
        .headers()
        .map_err(|e| input_error(origin, 1, format!("is not CSV: {e}"), None))?
        .clone();
    if let Some(missing) = needed.iter().find(|column| !headers.iter().any(|h| h == **column)) {
        let hint = format!("columns: {}", needed.join(", "));
        return Err(input_error(origin, 1, format!("has no column `{missing}`"), Some(hint)));
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| {
            let line = e.position().map_or(1, csv::Position::line);
            let message = match e.kind() {
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    format!("has {len} fields, and the header {expected_len}")
                }
                csv::ErrorKind::Utf8 { .. } => "is not UTF-8".to_owned(),
                _ => e.to_string(),
            };
            input_error(origin, line, message, None)
        })?;
        let line = record.position().map_or(1, csv::Position::line);
        let row = record
            .deserialize(Some(&headers))
            .map_err(|e| input_error(origin, line, wrong_field(&e, &headers, &record), None))?;
        rows.push((line, row));
    }
    Ok(rows)
}

/// Which field of a row is wrong, and how.
fn wrong_field(
    error: &csv::Error,
    headers: &csv::StringRecord,
    record: &csv::StringRecord,
) -> String {
    let csv::ErrorKind::Deserialize { err, .. } = error.kind() else { return error.to_string() };
    let field = err.field().and_then(|field| usize::try_from(field).ok());
    let named = field.and_then(|field| Some((headers.get(field)?, record.get(field)?)));
    match named {
        Some((column, value)) => {
            let mut why = err.kind().to_string();
            // The reader's own words begin with the field's number.
            if let Some((_, rest)) = why.split_once(": ") {
                why = rest.to_owned();
            }
            format!("{column}: `{value}` is not what the column holds: {why}")
        }
        None => format!("cannot be read as a measurement: {}", err.kind()),
    }
}
