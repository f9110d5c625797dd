//! Measured collectives as CSV: one row, one timing.
//!
//! The columns are `system, accelerator, n_ranks, n_nodes, ranks_per_node, fabric, collective,
//! dtype, bytes, time_us, algbw_GBps, busbw_GBps, mode, library, source, verified`. Numbers may be
//! blank: a row without a time is predicted only.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, InputError, Result};

/// A row as it stands in the file.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct Row {
    /// The machine or cluster.
    pub system: String,
    /// The accelerator, as the source calls it.
    #[serde(default)]
    pub accelerator: String,
    /// Ranks in the group.
    #[serde(default)]
    pub n_ranks: Option<u32>,
    /// Nodes in the group.
    #[serde(default)]
    pub n_nodes: Option<u32>,
    /// Ranks per node.
    #[serde(default)]
    pub ranks_per_node: Option<u32>,
    /// The links, as the source describes them.
    #[serde(default)]
    pub fabric: String,
    /// The operation.
    pub collective: String,
    /// Size as nccl-tests counts it.
    #[serde(default)]
    pub bytes: Option<f64>,
    /// Measured time, microseconds.
    #[serde(default)]
    pub time_us: Option<f64>,
    /// How it was measured, or that it was not.
    #[serde(default)]
    pub mode: String,
    /// Library and version.
    #[serde(default)]
    pub library: String,
}

impl Row {
    /// Whether the row is a measurement, as opposed to a threshold, a target, a documentation
    /// sample or a summary over a shared cluster.
    #[must_use]
    pub fn measured(&self) -> bool {
        let mode = self.mode.to_lowercase();
        !["expected", "doc sample", "ci target", "threshold", "mean in a shared cluster"]
            .iter()
            .any(|word| mode.contains(word))
    }

    /// Whether the time is dominated by the noise of the profiler that took it: PyTorch profiler
    /// medians below 1 MiB jump between 7 and 60 us at random.
    #[must_use]
    pub fn noisy(&self) -> bool {
        self.mode.to_lowercase().contains("profiler")
            && self.bytes.is_some_and(|bytes| bytes < 1_048_576.0)
    }
}

/// Reads a CSV file of measurements.
///
/// # Errors
/// The file cannot be read, lacks a column, or a field is not what its column holds; the message
/// has the line.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let file = std::fs::File::open(path).map_err(|e| Error::io("read", path, e))?;
    parse(&path.display().to_string(), file)
}

/// As [`read`], from any reader; `origin` names it in messages.
///
/// # Errors
/// As for [`read`].
pub fn parse(origin: &str, input: impl std::io::Read) -> Result<Vec<Row>> {
    let error = |line: Option<u64>, message: String, hint: Option<String>| -> Error {
        InputError {
            origin: origin.to_owned(),
            position: line.map(|l| (l as usize, 1)),
            message,
            hint,
            ..InputError::default()
        }
        .into()
    };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
    let headers =
        reader.headers().map_err(|e| error(Some(1), format!("is not CSV: {e}"), None))?.clone();
    for needed in ["system", "accelerator", "n_ranks", "n_nodes", "collective", "bytes", "time_us"]
    {
        if !headers.iter().any(|h| h == needed) {
            return Err(error(
                Some(1),
                format!("has no column `{needed}`"),
                Some(
                    "columns: system, accelerator, n_ranks, n_nodes, ranks_per_node, fabric, \
                     collective, dtype, bytes, time_us, mode, library"
                        .into(),
                ),
            ));
        }
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record
            .map_err(|e| error(e.position().map(csv::Position::line), format!("{e}"), None))?;
        let line = record.position().map(csv::Position::line);
        let row: Row = record
            .deserialize(Some(&headers))
            .map_err(|e| error(line, format!("cannot be read as a measurement: {e}"), None))?;
        if let Some(bad) = [row.bytes, row.time_us]
            .into_iter()
            .flatten()
            .find(|value| !value.is_finite() || *value < 0.0)
        {
            return Err(error(line, format!("`{bad}` is no size or time"), None));
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Reads the all-reduce tables of vTrain (`a100/AR_GPU8_1M_1024M_LUT`, ...), every size both out
/// of place and in place, thinned to about twelve sizes per octave-free table so that one table
/// does not outweigh a whole system.
///
/// # Errors
/// A table cannot be read or is not of that form.
pub fn read_vtrain(directory: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (folder, accelerator) in [("a100", "A100"), ("v100", "V100")] {
        for ranks in 2..=8_u32 {
            let path = directory.join(folder).join(format!("AR_GPU{ranks}_1M_1024M_LUT"));
            let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
            for (index, line) in text.lines().enumerate().skip(1) {
                let bad = || -> Error {
                    InputError {
                        origin: path.display().to_string(),
                        position: Some((index + 1, 1)),
                        message: "is no row `size,count,type,ns,busbw,ns,busbw`".into(),
                        ..InputError::default()
                    }
                    .into()
                };
                let fields: Vec<&str> = line.split(',').collect();
                let number = |i: usize| -> Result<f64> {
                    fields.get(i).and_then(|f| f.trim().parse().ok()).ok_or_else(bad)
                };
                let bytes = number(0)?;
                // The tables step by 1 MiB; powers of two and their thirds keep the shape.
                let mib = (bytes / 1_048_576.0).round() as u64;
                if !(mib.is_power_of_two()
                    || (mib.is_multiple_of(3) && (mib / 3).is_power_of_two()))
                {
                    continue;
                }
                for (column, mode) in [(3, "out-of-place"), (5, "in-place")] {
                    rows.push(Row {
                        system: format!("vtrain_{folder}"),
                        accelerator: accelerator.to_owned(),
                        n_ranks: Some(ranks),
                        n_nodes: Some(1),
                        ranks_per_node: Some(ranks),
                        fabric: "NVLink".to_owned(),
                        collective: "all_reduce".to_owned(),
                        bytes: Some(bytes),
                        time_us: Some(number(column)? / 1000.0),
                        mode: mode.to_owned(),
                        library: "NCCL nccl-tests (vTrain)".to_owned(),
                    });
                }
            }
        }
    }
    Ok(rows)
}
