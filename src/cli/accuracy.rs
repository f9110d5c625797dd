//! `trainyard validate --report`: the report on accuracy and its drawing.

use std::collections::BTreeMap;
use std::path::Path;

use crate::calibrate::stack::refit_without;
use crate::error::{Error, Result};
use crate::hardware::Catalogue;
use crate::report::{Origin, catalogue_hash, drawn, scatter_svg, short, validation_markdown};
use crate::validate::{EMBEDDED, Errors, HALVED, Outcome, Row, Study, half_of, run, scores};

use super::write_file;

/// A table's name without its folder, and its hash.
pub fn table_hash(origin: &str, bytes: &[u8]) -> (String, String) {
    (base_name(origin).to_owned(), short(&blake3::hash(bytes)))
}

fn base_name(origin: &str) -> &str {
    origin.rsplit(['/', '\\']).next().unwrap_or(origin)
}

/// Whether a row may be shown by itself: it is of a table that comes with the program. Of others
/// only sums are written.
fn may_be_listed(outcome: &Outcome) -> bool {
    EMBEDDED.iter().any(|(name, _)| base_name(name) == base_name(&outcome.labels.origin))
}

/// Errors of every family of one source, each half predicted with stacks fitted without it.
fn halves(catalogue: &Catalogue, rows: &[Row]) -> Result<Vec<(String, usize, Option<Errors>)>> {
    let mut found = Vec::new();
    for family in HALVED {
        let half: BTreeMap<String, bool> = half_of(rows, family);
        if half.is_empty() {
            continue;
        }
        let mut outcomes = Vec::new();
        for side in [true, false] {
            let out = |row: &Row| half.get(&row.labels.id) == Some(&side);
            let without = refit_without(catalogue, rows, &|row| !out(row))?;
            let left: Vec<Row> = rows.iter().filter(|row| out(row)).cloned().collect();
            outcomes
                .extend(run(left, &without).into_iter().map(|o| Outcome { fitted: false, ..o }));
        }
        let errors = scores(&outcomes)
            .into_iter()
            .find(|score| score.source.is_empty() && score.family == family)
            .and_then(|score| score.errors);
        found.push((family.to_owned(), outcomes.len(), errors));
    }
    Ok(found)
}

/// Writes `validation.md` and `validation-scatter.svg` into a folder.
///
/// # Errors
/// The folder cannot be made or written, or a fit fails.
pub fn write_report(
    folder: &Path,
    study: &Study<'_>,
    catalogue: &Catalogue,
    tables: Vec<(String, String)>,
    named_files: bool,
) -> Result<()> {
    let halves = match study.left_out {
        Some(_) => halves(catalogue, study.rows)?,
        None => Vec::new(),
    };
    let mut command = "trainyard validate --report reports".to_owned();
    if study.left_out.is_some() {
        command.push_str(" --leave-one-source-out");
    }
    if named_files {
        for (name, _) in &tables {
            command.push(' ');
            command.push_str(name);
        }
    }
    let origin = Origin { command, tables, catalogue: catalogue_hash(catalogue), halves };
    let text = validation_markdown(study, catalogue, &origin, &may_be_listed)?;
    let svg = scatter_svg(&drawn(study, &may_be_listed))?;
    std::fs::create_dir_all(folder).map_err(|e| Error::io("make", folder, e))?;
    write_file(&folder.join("validation.md"), text.as_bytes())?;
    write_file(&folder.join("validation-scatter.svg"), svg.as_bytes())
}
