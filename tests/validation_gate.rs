//! The gate: a fixed subset of the published rows keeps being predicted, and as before.
//!
//! `tests/validation/gate.csv` holds the rows and what was predicted. A row that was predicted and no
//! longer is fails; so does a step time that moved by more than half a percent. Where a change is
//! meant to move predictions:
//!
//! ```sh
//! TRAINYARD_UPDATE_GATE=1 cargo test --test validation_gate
//! ```
//!
//! writes the file anew, keeping its choice of rows, and prints what moved, for *Prediction changes*
//! in CHANGELOG.md.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use support::{catalogue, repository};
use trainyard::validate::{EMBEDDED, Outcome, Row, Status, Tables, run};

/// Largest move of a prediction that needs no word: rounding of a step to whole nanoseconds and of
/// this file to six digits is far below, and no published difference between plans is as small.
const DRIFT: f64 = 0.005;

const HEADER: &str = "id,status,predicted_step_s";

/// One line of the file.
struct Line {
    id: String,
    status: String,
    step: Option<f64>,
}

fn committed() -> Vec<Line> {
    let text = std::fs::read_to_string(repository("tests/validation/gate.csv")).expect("the gate");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(HEADER));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            assert_eq!(cells.len(), 3, "{line}");
            Line {
                id: cells[0].to_owned(),
                status: cells[1].to_owned(),
                step: (!cells[2].is_empty()).then(|| cells[2].parse().expect("a number")),
            }
        })
        .collect()
}

/// The rows named.
fn rows_of(ids: &[&str]) -> Vec<Row> {
    let mut tables = Tables::default();
    for (origin, text) in EMBEDDED {
        tables.add_bytes(origin, text.as_bytes());
    }
    tables.rows.into_iter().filter(|row| ids.contains(&row.labels.id.as_str())).collect()
}

/// Today's predictions of the rows named.
fn predicted(ids: &[&str]) -> BTreeMap<String, Outcome> {
    run(rows_of(ids), catalogue()).into_iter().map(|o| (o.labels.id.clone(), o)).collect()
}

/// What is wrong, of lost rows and of drift.
fn compare(lines: &[Line], now: &BTreeMap<String, Outcome>) -> (Vec<String>, Vec<String>) {
    let (mut lost, mut drift) = (Vec::new(), Vec::new());
    for line in lines {
        let Some(outcome) = now.get(&line.id) else {
            lost.push(format!("{}: is no longer in the tables", line.id));
            continue;
        };
        let p = &outcome.prediction;
        let status = p.status.as_str();
        match (line.step, p.step_s) {
            (Some(before), Some(after)) if (after / before - 1.0).abs() > DRIFT => {
                let percent = (after / before - 1.0) * 100.0;
                drift.push(format!("{}: {before} s, now {after:.6} s ({percent:+.2} %)", line.id));
            }
            (Some(_), None) => {
                lost.push(format!("{}: was predicted, now {status}: {}", line.id, p.reason));
            }
            _ if line.status != status => {
                drift.push(format!("{}: was {}, now {status}", line.id, line.status));
            }
            _ => {}
        }
    }
    (lost, drift)
}

#[test]
fn predictions_of_the_gate_hold() {
    let lines = committed();
    assert!(lines.len() >= 50, "the gate has {} rows", lines.len());
    let ids: Vec<&str> = lines.iter().map(|line| line.id.as_str()).collect();
    let now = predicted(&ids);
    let (lost, drift) = compare(&lines, &now);
    if std::env::var_os("TRAINYARD_UPDATE_GATE").is_some() {
        let mut text = format!("{HEADER}\n");
        for line in &lines {
            // A row that is gone stays, so that it is seen.
            let Some(outcome) = now.get(&line.id) else {
                let _ = writeln!(text, "{},{},", line.id, line.status);
                continue;
            };
            let p = &outcome.prediction;
            let step = p.step_s.map_or_else(String::new, |step| format!("{step:.6}"));
            let _ = writeln!(text, "{},{},{step}", line.id, p.status.as_str());
        }
        std::fs::write(repository("tests/validation/gate.csv"), text).expect("written");
        eprintln!("gate.csv written anew; {} lost, {} moved", lost.len(), drift.len());
        for line in lost.iter().chain(&drift) {
            eprintln!("  {line}");
        }
        return;
    }
    assert!(lost.is_empty(), "rows that worked and no longer do:\n  {}", lost.join("\n  "));
    assert!(
        drift.is_empty(),
        "predictions of {} of {} rows moved by more than {} %:\n  {}\nIf that is meant, run\n  \
         TRAINYARD_UPDATE_GATE=1 cargo test --test validation_gate -- --nocapture\nand list the \
         drift under \"Prediction changes\" in CHANGELOG.md.",
        drift.len(),
        lines.len(),
        DRIFT * 100.0,
        drift.join("\n  ")
    );
}

#[test]
fn the_gate_sees_loss_and_drift() {
    let id = "PT-sc21_t1-1.7B";
    let now = predicted(&[id]);
    let p = &now[id].prediction;
    assert_eq!(p.status, Status::Ok, "{}", p.reason);
    let step = p.step_s.expect("a step");
    let line = |id: &str, status: &str, step| Line { id: id.into(), status: status.into(), step };
    let problems = |line: Line| {
        let (lost, drift) = compare(&[line], &now);
        (lost.len(), drift.len())
    };
    assert_eq!(problems(line(id, "ok", Some(step * 1.004))), (0, 0));
    assert_eq!(problems(line(id, "ok", Some(step * 1.006))), (0, 1));
    assert_eq!(problems(line(id, "unsupported", None)), (0, 1));
    assert_eq!(problems(line("no-such-row", "ok", Some(1.0))), (1, 0));
}

#[test]
fn the_gate_spans_sources_and_families() {
    let lines = committed();
    let ids: Vec<&str> = lines.iter().map(|line| line.id.as_str()).collect();
    let rows = rows_of(&ids);
    let count = |pick: fn(&Row) -> &str| rows.iter().map(pick).collect::<BTreeSet<_>>().len();
    assert!(count(|row| &row.labels.family) >= 6, "families");
    assert!(count(|row| &row.labels.source_group) >= 12, "sources");
}
