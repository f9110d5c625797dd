//! What `trainyard trace replay` prints.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::error::Result;
use crate::outcome::{RecordedReplay, StepReplay, WhatIfReport};
use crate::trace::complete::{lost_steps, missing_ranks};
use crate::trace::header::Losses;
use crate::trace::import::{Imported, NOT_A_TRACE_NAME};
use crate::trace::model::{RankTrace, TraceSet};
use crate::trace::program::recorded_program;
use crate::trace::steps::{is_operations, job};
use crate::trace::view;

/// A trace's replay in machine output.
#[derive(Serialize)]
pub struct ReplayedTrace<'a> {
    trace: &'a str,
    #[serde(flatten)]
    replay: &'a RecordedReplay,
    /// Ranks of the job that were not recorded, steps that a rank has nothing of.
    incomplete: Vec<String>,
    /// What was lost or left out of each rank; of ranks that lost nothing, nothing.
    losses: Vec<RankLosses<'a>>,
    /// Files beside the traces that could not be used, and traces that could not be replayed.
    unused: Vec<NotUsed<'a>>,
}

/// What was lost of a rank.
#[derive(Serialize)]
struct RankLosses<'a> {
    rank: u32,
    file: &'a str,
    #[serde(flatten)]
    losses: &'a Losses,
}

/// What could not be used.
#[derive(Serialize)]
struct NotUsed<'a> {
    path: &'a str,
    why: &'a str,
}

/// Why a trace is not replayed.
const NO_DEVICE_WORK: &str = "has no device work";

/// Everything, for programs. `without` names the traces without device work.
pub fn json<'a>(
    all: &'a [(String, RecordedReplay)],
    imported: &'a Imported,
    without: &'a [String],
) -> Vec<ReplayedTrace<'a>> {
    let told = all.iter().map(|(trace, replay)| {
        let ranks = imported.traces.ranks.iter().map(|rank| &rank.header);
        let losses = ranks.filter(|header| header.trace == *trace).filter_map(|header| {
            let losses = &header.losses;
            let none = Losses { events_read: losses.events_read, ..Losses::default() };
            let dropped = losses.dropped_by_profiler.unwrap_or(0);
            let quiet = Losses { dropped_by_profiler: None, ..losses.clone() } == none;
            (dropped > 0 || !quiet).then(|| RankLosses {
                rank: header.rank,
                file: &header.source.file,
                losses,
            })
        });
        let unused = imported.unused.iter().filter(|unused| unused.why != NOT_A_TRACE_NAME);
        let unused = unused.map(|unused| NotUsed { path: &unused.path, why: &unused.why });
        let idle = without.iter().map(|trace| NotUsed { path: trace, why: NO_DEVICE_WORK });
        ReplayedTrace {
            trace,
            replay,
            incomplete: incomplete(imported, trace),
            losses: losses.collect(),
            unused: unused.chain(idle).collect(),
        }
    });
    told.collect()
}

/// What the ranks of a trace lack.
fn incomplete(imported: &Imported, trace: &str) -> Vec<String> {
    let found = imported.traces.traces();
    let mut wanted = found.filter(|ranks| ranks.iter().any(|rank| rank.header.trace == trace));
    let ranks = wanted.next().unwrap_or_default();
    missing_ranks(ranks).into_iter().chain(lost_steps(ranks)).collect()
}

/// What was lost on the way to the replay, for people.
pub fn lost(imported: &Imported, without: &[String]) -> String {
    let mut text = String::new();
    for name in without {
        text.push_str(&format!("not replayed: {name} {NO_DEVICE_WORK}\n"));
    }
    for ranks in imported.traces.traces() {
        let name = ranks.first().map_or("", |rank| rank.header.trace.as_str());
        for line in incomplete(imported, name) {
            text.push_str(&format!("incomplete: {name}: {line}\n"));
        }
    }
    text.push_str(&view::losses(imported.traces.ranks.iter().map(|rank| &rank.header)));
    text.push_str(&view::unused_files(&imported.unused));
    text
}

fn ms(ns: i64) -> String {
    format!("{:.3}", ns as f64 / 1e6)
}

fn share(part: i64, whole: i64) -> String {
    if whole == 0 { "-".into() } else { format!("{:+.2} %", 100.0 * part as f64 / whole as f64) }
}

/// Tables for people.
pub fn table(all: &[(String, RecordedReplay)]) -> String {
    let mut text = String::new();
    for (trace, replay) in all {
        text.push_str(&format!("{trace}\n"));
        if !replay.ranks.is_empty() {
            text.push_str(&ranks(replay));
        }
        if !replay.steps.is_empty() {
            text.push_str(&steps(&replay.steps));
        }
        if let Some(report) = &replay.what_if {
            text.push_str(&what_if(report));
        }
        if let Some(half) = &replay.second_half {
            text.push_str(&format!(
                "steps {} to {} predicted from the steps before them: {} ms, error {:.2} % on \
                 average, {:.2} % at most\n",
                half.measured.first().map_or("", |(step, _)| step.as_str()),
                half.measured.last().map_or("", |(step, _)| step.as_str()),
                ms(half.predicted_ns),
                100.0 * half.mean_error,
                100.0 * half.largest_error,
            ));
        }
        if let Some(found) = &replay.stragglers {
            let by_stage: Vec<String> =
                found.by_stage.iter().map(|(stage, by)| format!("{stage}: {by:.4}")).collect();
            text.push_str(&format!(
                "stragglers: {:.4} times the step of equal ranks ({} against {} ms, without host \
                 delays); worst stage {} (without its excess {} ms), worst rank {} ({} ms); \
                 slowdown by one stage alone: {}\n",
                found.slowdown,
                ms(found.replayed_ns),
                ms(found.ideal_ns),
                found.worst_stage,
                ms(found.without_worst_stage_ns),
                found.worst_rank,
                ms(found.without_worst_rank_ns),
                by_stage.join(", "),
            ));
        }
        text.push('\n');
    }
    text
}

fn ranks(replay: &RecordedReplay) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let changed = replay.ranks.iter().any(|rank| rank.predicted_ns.is_some());
    let mut header = vec!["rank", "recorded ms", "replayed ms", "unexplained ms", "share"];
    header.extend(changed.then_some("predicted ms"));
    table.set_header(header);
    for rank in &replay.ranks {
        let mut row = vec![
            rank.rank.to_string(),
            ms(rank.recorded_ns),
            ms(rank.replayed_ns),
            ms(rank.unexplained_ns),
            share(rank.unexplained_ns, rank.recorded_ns),
        ];
        row.extend(rank.predicted_ns.map(ms));
        table.add_row(row);
    }
    let n = replay.notes;
    format!(
        "{table}\n{} launched device operations, {} without a launch; waits between streams: {} \
         recorded, {} inferred, {} on a full device; {} host waits; collectives: {} met by all \
         members, {} with their recorded duration; {} transfers; {} operations beside others of \
         their stream; not replayed: {} ms in calls that blocked for something that was not \
         recorded, {} ms by which kernels of one stream overlapped\n",
        n.launched,
        n.orphans,
        n.recorded_waits,
        n.inferred_waits,
        n.inferred_busy,
        n.host_waits,
        n.meetings,
        n.unmatched_collectives,
        n.transfers,
        n.beside_stream,
        ms(n.blocked_unexplained_ns),
        ms(n.clipped_ns),
    )
}

fn steps(steps: &[StepReplay]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let changed = steps.iter().any(|step| step.predicted_ns.is_some());
    let mut header = vec!["step", "measured ms", "replayed ms", "unexplained ms", "share"];
    header.extend(changed.then_some("predicted ms"));
    table.set_header(header);
    let mut error = 0.0;
    for step in steps {
        let mut row = vec![
            step.step.clone(),
            ms(step.measured_ns),
            ms(step.replayed_ns),
            ms(step.unexplained_ns),
            share(step.unexplained_ns, step.measured_ns),
        ];
        row.extend(step.predicted_ns.map(ms));
        table.add_row(row);
        error += step.unexplained_ns.abs() as f64 / step.measured_ns.max(1) as f64;
    }
    format!("{table}\nmean step error {:.2} %\n", 100.0 * error / steps.len() as f64)
}

/// Before and after, by component, with what was assumed.
fn what_if(report: &WhatIfReport) -> String {
    let mut text = format!("What if: {}\n", report.changes.join("; "));
    let mut table = new_table(&["mean of ranks", "replayed ms", "predicted ms", "change"]);
    for part in &report.components {
        let (before, after) = (part.replayed_ns, part.predicted_ns);
        let change = share(after - before, before);
        table.add_row(vec![part.component.to_owned(), ms(before), ms(after), change]);
    }
    text.push_str(&format!("{}\n", right(table)));
    if let Some(coverage) = &report.coverage {
        let header = ["compute kernels", "re-timed by", "kernels", "recorded ms", "predicted ms"];
        let mut table = new_table(&[&header[..], &["share"]].concat());
        for part in &coverage.parts {
            table.add_row(vec![
                part.class.to_owned(),
                part.by.to_owned(),
                part.kernels.to_string(),
                ms(part.recorded_ns),
                ms(part.predicted_ns),
                format!("{:.1} %", 100.0 * part.share),
            ]);
        }
        let (from, to) = coverage.totals();
        text.push_str(&format!(
            "{}\nfrom {} to {}: compute {} to {} ms ({:.3} times); {:.1} % of it by shape, \
             {:.1} % by rule, {:.1} % untouched\n",
            right(table),
            coverage.from,
            coverage.to,
            ms(from),
            ms(to),
            to as f64 / from.max(1) as f64,
            100.0 * coverage.share("shape"),
            100.0 * coverage.share("rule"),
            100.0 * coverage.share("untouched"),
        ));
    }
    if !report.network.is_empty() {
        let header = ["collective", "ranks", "calls", "sizes", "latency us", "GB/s", "split by"];
        let mut table = new_table(&header);
        for fit in &report.network {
            table.add_row(vec![
                fit.op.to_owned(),
                fit.ranks.map_or("?".into(), |ranks| ranks.to_string()),
                fit.calls.to_string(),
                fit.sizes.to_string(),
                format!("{:.1}", fit.latency_ns as f64 / 1e3),
                fit.bytes_per_second.map_or("-".into(), |rate| format!("{:.1}", rate / 1e9)),
                fit.by.to_owned(),
            ]);
        }
        text.push_str(&format!("{}\n", right(table)));
    }
    if let Some(found) = &report.pipeline {
        text.push_str(&format!(
            "{} of {} stages, {} micro-batches, {} per stage: {} ms, nine of ten steps in {} to {} \
             ms{}; recorded ({}, {} micro-batches) {} ms{}\n",
            found.schedule,
            found.stages,
            found.micro_batches,
            if found.chunks == 1 { "one chunk".into() } else { format!("{} chunks", found.chunks) },
            ms(found.predicted_ns),
            ms(found.interval_ns.0),
            ms(found.interval_ns.1),
            match found.unusual_steps {
                0 => String::new(),
                left_out => format!(" (without {left_out} that took far longer than the others)"),
            },
            found.recorded.unwrap_or("unknown schedule"),
            found.recorded_micro_batches,
            ms(found.measured_ns),
            found.rebuilt_ns.map_or(String::new(), |rebuilt| format!(
                ", rebuilt unchanged in the same way {} ms ({})",
                ms(rebuilt),
                share(rebuilt - found.measured_ns, found.measured_ns)
            )),
        ));
    }
    if !report.stragglers.is_empty() {
        let mut table = new_table(&["straggler", "without it ms", "saves ms", "of the slowdown"]);
        for one in &report.stragglers {
            table.add_row(vec![
                one.who.clone(),
                ms(one.without_ns),
                ms(one.saved_ns),
                one.share.map_or("-".into(), |share| format!("{:.1} %", 100.0 * share)),
            ]);
        }
        if let Some(all) = &report.together {
            let percent =
                |share: Option<f64>| share.map_or("-".into(), |s| format!("{:.1} %", 100.0 * s));
            let (interaction, share) = (ms(all.interaction_ns), percent(all.interaction_share));
            table.add_row(vec!["interaction".into(), "-".into(), interaction, share]);
            let whole = percent((all.saved_ns > 0).then_some(1.0));
            table.add_row(vec!["together".into(), ms(all.without_ns), ms(all.saved_ns), whole]);
        }
        text.push_str(&format!("{}\n", right(table)));
    }
    for assumed in &report.assumed {
        text.push_str(&format!("assumed: {assumed}\n"));
    }
    text
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header.to_vec());
    table
}

/// Numbers to the right: all columns but the first.
fn right(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What waited for what in every trace, as CSV; times are nanoseconds from the rank's time zero.
pub fn edges(traces: &TraceSet) -> Result<String> {
    let mut text = String::from(
        "trace,cause,inferred,from_rank,from,from_start_ns,from_end_ns,to_rank,to,to_start_ns,\
         to_end_ns\n",
    );
    for ranks in traces.traces() {
        let Some(first) = ranks.first() else { continue };
        let mut row = |cause: &str, inferred: bool, ends: [(usize, &str, i64, i64); 2]| {
            text.push_str(&quoted(&first.header.trace));
            text.push_str(&format!(",{cause},{inferred}"));
            for (rank, name, start, end) in ends {
                let number = ranks[rank].header.rank;
                text.push_str(&format!(",{number},{},{start},{end}", quoted(name)));
            }
            text.push('\n');
        };
        if is_operations(first) {
            let job = job(ranks)?;
            for step in &job.steps {
                for edge in step.edges() {
                    let end = |(rank, index): (usize, usize)| {
                        let operation = &step.ranks[rank][index];
                        let name = operation.name.as_str();
                        (rank, name, operation.start_ns, operation.end_ns)
                    };
                    row(edge.cause.name(), true, [end(edge.from), end(edge.to)]);
                }
            }
            continue;
        }
        if !ranks.iter().any(|rank| rank.events.iter().any(|event| event.kind.is_device())) {
            continue;
        }
        for edge in recorded_program(ranks)?.edges {
            let end = |(rank, index): (usize, usize)| {
                let trace: &RankTrace = &ranks[rank];
                let event = &trace.events[index];
                (rank, trace.name(event), event.start_ns, event.end_ns())
            };
            row(edge.cause.name(), edge.cause.inferred(), [end(edge.from), end(edge.to)]);
        }
    }
    Ok(text)
}

/// A field of a table, quoted where it has to be.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
