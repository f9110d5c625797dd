//! The report as one self-contained page.

use std::fmt::Write;

use super::page::{Column, STYLE, Stack, escape, legend, stacks, table};
use super::sections::{collectives, critical_path, kernels, launches, losses, slowest};
use super::table::about;
use super::timeline::{Mark, bands, timeline};
use super::{milliseconds, percent};
use crate::trace::align::common_ns;
use crate::trace::analysis::{RankReport, Report, TraceReport, Window, WindowKind};
use crate::trace::model::{RankTrace, TraceSet};

/// Rows of lists.
pub const TOP: usize = 20;
/// Ranks that get a band in the timeline.
const BANDS: usize = 16;
/// Rows of bars.
pub const BARS: usize = 64;

/// The page.
#[must_use]
pub fn html(report: &Report, set: &TraceSet) -> String {
    let title = match report.traces.as_slice() {
        [one] => format!("Trace {}", one.trace),
        several => format!("{} traces", several.len()),
    };
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{0} – Trainyard</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{0}</h1>\n",
        escape(&title)
    );
    for (trace, ranks) in report.traces.iter().zip(set.traces()) {
        let reports: Vec<&RankReport> =
            report.ranks.iter().filter(|rank| rank.trace == trace.trace).collect();
        if report.traces.len() > 1 {
            let _ = writeln!(text, "<h1 style=\"margin-top:56px\">{}</h1>", escape(&trace.trace));
        }
        let _ = writeln!(text, "<p class=\"lead\">{}</p>", escape(&about(&reports)));
        tiles(&mut text, trace, &reports);
        if report.traces.len() == 1 {
            text.push_str("<h2>Findings</h2>\n<section><ul class=\"findings\">\n");
            for finding in &report.findings {
                let _ = writeln!(text, "<li>{}</li>", escape(finding));
            }
            text.push_str("</ul></section>\n");
        }
        device_time(&mut text, &reports);
        timelines(&mut text, trace, ranks);
        critical_path(&mut text, trace);
        slowest(&mut text, trace);
        kernels(&mut text, trace);
        collectives(&mut text, trace);
        launches(&mut text, &reports);
        losses(&mut text, &reports);
    }
    let _ = write!(
        text,
        "<footer>Written by trainyard {}. All times are exact sums of recorded nanoseconds; \
         compute + exposed communication + exposed memory + idle is the span.</footer>\n\
         </main>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    text
}

/// A part of a whole, for people.
pub fn share(part: i64, whole: i64) -> String {
    if whole == 0 { "-".into() } else { percent(part as f64 / whole as f64) }
}

fn whole_windows<'r>(ranks: &[&'r RankReport]) -> Vec<(u32, &'r Window)> {
    ranks
        .iter()
        .flat_map(|rank| rank.windows.iter().map(|window| (rank.rank, window)))
        .filter(|(_, window)| window.kind == WindowKind::GpuFirstToLast)
        .collect()
}

fn tiles(text: &mut String, trace: &TraceReport, ranks: &[&RankReport]) {
    let whole = whole_windows(ranks);
    let sum = |value: fn(&Window) -> i64| {
        whole.iter().map(|(_, window)| value(window)).fold(0, i64::saturating_add)
    };
    let span = sum(|w| w.span_ns);
    let mut tiles: Vec<(String, String)> = Vec::new();
    if let Some(path) = &trace.critical_path {
        tiles.push((format!("{} ms", milliseconds(path.span_ns)), "recorded device span".into()));
    }
    let mut steps: Vec<i64> = ranks
        .iter()
        .flat_map(|rank| &rank.windows)
        .filter(|window| window.kind == WindowKind::CpuProfilerStep)
        .map(|window| window.span_ns)
        .collect();
    if !steps.is_empty() {
        let median = crate::trace::align::median(&mut steps);
        tiles.push((format!("{} ms", milliseconds(median)), "median step on the host".into()));
    }
    for (label, value) in [
        ("computing", sum(|w| w.compute_ns)),
        ("exposed communication", sum(|w| w.comm_exposed_ns)),
        ("exposed memory operations", sum(|w| w.mem_exposed_ns)),
        ("idle", sum(|w| w.idle_ns)),
    ] {
        tiles.push((share(value, span), label.into()));
    }
    text.push_str("<div class=\"tiles\">\n");
    for (value, label) in tiles {
        let _ = writeln!(
            text,
            "<div class=\"tile\"><b>{}</b><span>{}</span></div>",
            escape(&value),
            escape(&label)
        );
    }
    text.push_str("</div>\n");
}

fn stack_of(label: String, window: &Window) -> Stack {
    let part = |class, ns: i64, what: &str| {
        (class, ns, format!("{what}: {} ms ({})", milliseconds(ns), share(ns, window.span_ns)))
    };
    Stack {
        label,
        after: format!("{} ms", milliseconds(window.span_ns)),
        parts: vec![
            part("compute", window.compute_ns, "compute"),
            part("communication", window.comm_exposed_ns, "exposed communication"),
            part("memory", window.mem_exposed_ns, "exposed memory operations"),
            part("idle", window.idle_ns, "idle"),
        ],
    }
}

fn device_time(text: &mut String, ranks: &[&RankReport]) {
    text.push_str("<h2>Device time</h2>\n<p class=\"note\">Per rank over the whole recording, and per step as the host marked it. Work that runs behind its host may fall into the next step.</p>\n<section>\n");
    text.push_str(&legend(&[
        ("compute", "compute"),
        ("communication", "exposed communication"),
        ("memory", "exposed memory operations"),
        ("idle", "idle"),
    ]));
    let whole = whole_windows(ranks);
    let rows: Vec<Stack> = whole
        .iter()
        .take(BARS)
        .map(|(rank, window)| stack_of(format!("rank {rank}"), window))
        .collect();
    let longest = whole.iter().map(|(_, window)| window.span_ns).max().unwrap_or(0);
    text.push_str(&stacks(&rows, longest));
    let steps: Vec<(u32, &Window)> = ranks
        .iter()
        .flat_map(|rank| rank.windows.iter().map(|window| (rank.rank, window)))
        .filter(|(_, window)| window.kind == WindowKind::CpuProfilerStep)
        .collect();
    if !steps.is_empty() && steps.len() <= BARS {
        let rows: Vec<Stack> = steps
            .iter()
            .map(|(rank, window)| {
                let label = if ranks.len() > 1 {
                    format!("rank {rank}, step {}", window.name)
                } else {
                    format!("step {}", window.name)
                };
                stack_of(label, window)
            })
            .collect();
        let longest = steps.iter().map(|(_, window)| window.span_ns).max().unwrap_or(0);
        text.push_str("<p class=\"note\" style=\"margin:14px 0 4px\">Steps</p>\n");
        text.push_str(&stacks(&rows, longest));
    }
    text.push_str("<details><summary>Numbers</summary>\n");
    let rows: Vec<Vec<String>> = ranks
        .iter()
        .flat_map(|rank| rank.windows.iter().map(|window| (rank.rank, window)))
        .take(4 * BARS)
        .map(|(rank, w)| {
            vec![
                rank.to_string(),
                w.name.clone(),
                milliseconds(w.span_ns),
                milliseconds(w.compute_ns),
                milliseconds(w.comm_ns),
                milliseconds(w.comm_exposed_ns),
                milliseconds(w.mem_ns),
                milliseconds(w.mem_exposed_ns),
                milliseconds(w.idle_ns),
                if w.comm_ns == 0 { "-".into() } else { share(w.overlap_ns, w.comm_ns) },
                w.kernels.to_string(),
                w.comm_kernels.to_string(),
                w.streams.to_string(),
            ]
        })
        .collect();
    text.push_str(&table(
        &[
            Column::Number("rank"),
            Column::Text("window"),
            Column::Number("span ms"),
            Column::Number("compute"),
            Column::Number("comm"),
            Column::Number("exposed"),
            Column::Number("memory"),
            Column::Number("exposed"),
            Column::Number("idle"),
            Column::Number("overlap"),
            Column::Number("kernels"),
            Column::Number("comm kernels"),
            Column::Number("streams"),
        ],
        &rows,
    ));
    text.push_str("</details></section>\n");
}

fn timelines(text: &mut String, trace: &TraceReport, ranks: &[RankTrace]) {
    let Some(path) = &trace.critical_path else { return };
    let Some((first, last)) = path
        .steps
        .first()
        .zip(path.steps.last())
        .map(|(first, last)| (first.start_ns, last.end_ns))
    else {
        return;
    };
    let bands = bands(ranks, BANDS);
    let zero = ranks.iter().map(|rank| common_ns(rank, 0)).min().unwrap_or(0);
    let windows: Vec<(i64, i64, String)> = ranks
        .first()
        .into_iter()
        .flat_map(|rank| {
            let shift = common_ns(rank, 0).saturating_sub(zero);
            rank.header.windows.iter().map(move |window| {
                let start = window.start_ns.saturating_add(shift);
                (start, start.saturating_add(window.dur_ns), format!("step {}", window.name))
            })
        })
        .collect();
    let marks: Vec<Mark> = windows.iter().map(|(start, _, name)| (*start, name.clone())).collect();
    text.push_str("<h2>Timeline</h2>\n<p class=\"note\">Compute, communication and memory operations of each rank; fainter where less of the time is busy. The thin line below is the part of the critical path that runs on the rank.</p>\n<section>\n");
    text.push_str(&legend(&[
        ("compute", "compute"),
        ("communication", "communication"),
        ("memory", "memory operations"),
        ("launch", "launch (critical path)"),
        ("host", "host (critical path)"),
        ("gap", "gap (critical path)"),
    ]));
    text.push_str(&timeline(&bands, &path.steps, &marks, first, last));
    if ranks.len() > BANDS {
        let _ = writeln!(text, "<p class=\"note\">The first {BANDS} of {} ranks.</p>", ranks.len());
    }
    // One step in detail: the one of median length among those with device work.
    let mut inside: Vec<&(i64, i64, String)> =
        windows.iter().filter(|(start, end, _)| *start < last && *end > first).collect();
    if inside.len() > 1 {
        inside.sort_by_key(|(start, end, _)| (end - start, *start));
        let (start, end, name) = inside[(inside.len() - 1) / 2];
        let _ = writeln!(
            text,
            "<p class=\"note\" style=\"margin:18px 0 4px\">{} in detail</p>",
            escape(name)
        );
        text.push_str(&timeline(&bands, &path.steps, &[], (*start).max(first), (*end).min(last)));
    }
    text.push_str("</section>\n");
}
