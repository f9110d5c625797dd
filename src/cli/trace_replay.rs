//! What `trainyard trace replay` prints.

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::outcome::{RecordedReplay, StepReplay};

/// A trace's replay in machine output.
#[derive(Serialize)]
pub struct ReplayedTrace<'a> {
    trace: &'a str,
    #[serde(flatten)]
    replay: &'a RecordedReplay,
}

/// Everything, for programs.
pub fn json(all: &[(String, RecordedReplay)]) -> Vec<ReplayedTrace<'_>> {
    all.iter().map(|(trace, replay)| ReplayedTrace { trace, replay }).collect()
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
         members, {} with their recorded duration; not replayed: {} ms in calls that blocked for \
         something that was not recorded, {} ms by which kernels of one stream overlapped\n",
        n.launched,
        n.orphans,
        n.recorded_waits,
        n.inferred_waits,
        n.inferred_busy,
        n.host_waits,
        n.meetings,
        n.unmatched_collectives,
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
