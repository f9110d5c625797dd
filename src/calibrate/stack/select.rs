//! Which rows of a table a fit uses: `column=value`, `column!=value`, `column<=number`, ...

use crate::error::{Error, Result, nearest_names};
use crate::validate::{Row, RowSpec};

/// Columns that conditions may name; `half` is `a` or `b`, by a hash of the base.
pub const COLUMNS: [&str; 16] = [
    "id",
    "half",
    "base",
    "source_group",
    "family",
    "framework",
    "accelerator",
    "model_key",
    "n_devices",
    "tp",
    "pp",
    "cp",
    "ep",
    "seq_len",
    "micro_batch",
    "global_batch",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Is,
    IsNot,
    AtMost,
    AtLeast,
}

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    column: &'static str,
    relation: Relation,
    values: Vec<String>,
}

impl Condition {
    /// Reads a condition; several values after `=` or `!=` are separated by `|`.
    ///
    /// # Errors
    /// The column is unknown, or there is no relation in the text.
    pub fn parse(text: &str) -> Result<Self> {
        let relations = [
            ("<=", Relation::AtMost),
            (">=", Relation::AtLeast),
            ("!=", Relation::IsNot),
            ("=", Relation::Is),
        ];
        let found = relations
            .iter()
            .filter_map(|(sign, relation)| Some((text.find(sign)?, *sign, *relation)))
            .min_by_key(|(at, sign, _)| (*at, usize::MAX - sign.len()));
        let Some((at, sign, relation)) = found else {
            return Err(Error::Unsupported(format!(
                "condition `{text}`: write column=value, column!=value, column<=number or \
                 column>=number"
            )));
        };
        let (name, value) = (text[..at].trim(), text[at + sign.len()..].trim());
        let column =
            COLUMNS.into_iter().find(|c| *c == name).ok_or_else(|| Error::UnknownName {
                what: "column of a condition",
                name: name.to_owned(),
                nearest: nearest_names(name, COLUMNS.into_iter()),
            })?;
        let values: Vec<String> = value.split('|').map(|v| v.trim().to_owned()).collect();
        if matches!(relation, Relation::AtMost | Relation::AtLeast)
            && values.iter().any(|v| v.parse::<f64>().is_err())
        {
            return Err(Error::Unsupported(format!("condition `{text}`: `{value}` is no number")));
        }
        Ok(Self { column, relation, values })
    }

    /// Whether a row meets it; an empty cell meets only `!=`.
    #[must_use]
    pub fn holds(&self, row: &Row) -> bool {
        let cell = cell(row, self.column);
        let compare = |fits: fn(f64, f64) -> bool| match (&cell, self.values.first()) {
            (Some(cell), Some(value)) => match (cell.parse::<f64>(), value.parse::<f64>()) {
                (Ok(cell), Ok(value)) => fits(cell, value),
                _ => false,
            },
            _ => false,
        };
        let listed = || cell.as_ref().is_some_and(|cell| self.values.iter().any(|v| v == cell));
        match self.relation {
            Relation::Is => listed(),
            Relation::IsNot => !listed(),
            Relation::AtMost => compare(|a, b| a <= b),
            Relation::AtLeast => compare(|a, b| a >= b),
        }
    }
}

fn cell(row: &Row, column: &str) -> Option<String> {
    let labels = &row.labels;
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let spec: &RowSpec = row.spec.as_ref().ok()?;
    let number = |n: Option<u32>| n.map(|n| n.to_string());
    match column {
        "id" => text(&labels.id),
        "base" => text(&labels.base),
        // Bases fall into two halves by a hash of their name: one to fit on, one to score.
        "half" => {
            let hash = blake3::hash(labels.base.as_bytes());
            text(if hash.as_bytes()[0] & 1 == 0 { "a" } else { "b" })
        }
        "source_group" => text(&labels.source_group),
        "family" => text(&labels.family),
        "framework" => text(&spec.framework),
        "accelerator" => text(&spec.accelerator),
        "model_key" => text(&spec.model_key),
        "n_devices" => number(spec.devices),
        "tp" => number(spec.tensor),
        "pp" => number(spec.pipeline),
        "cp" => number(spec.context),
        "ep" => number(spec.expert),
        "seq_len" => number(spec.sequence),
        "micro_batch" => number(spec.micro_batch),
        "global_batch" => number(spec.global_batch),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_and_held() {
        let mut row = Row {
            labels: crate::validate::Labels {
                id: "A-1".into(),
                source_group: "OPT".into(),
                ..Default::default()
            },
            spec: Ok(RowSpec { devices: Some(64), ..RowSpec::default() }),
            measured: crate::validate::Measured::default(),
        };
        let holds = |row: &Row, text: &str| Condition::parse(text).unwrap().holds(row);
        assert!(holds(&row, "id=A-1|A-2") && holds(&row, "n_devices<=64"));
        assert!(!holds(&row, "n_devices>=65") && holds(&row, "source_group!=BigScience"));
        assert!(!holds(&row, "tp<=8"), "an empty cell is no number");
        row.spec = Err("bad".into());
        assert!(!holds(&row, "n_devices<=64"));
        let unknown = Condition::parse("devices=3").unwrap_err().to_string();
        assert!(unknown.contains("n_devices"), "{unknown}");
        assert!(Condition::parse("nothing").is_err() && Condition::parse("tp<=x").is_err());
    }
}
