//! The report as one self-contained page.

use std::fmt::Write;

use super::page::{Column, STYLE, Stack, escape, legend, stacks, table};
use super::table::{about, bandwidth, group_size, kernel_type};
use super::timeline::{Mark, bands, timeline};
use super::{microseconds, milliseconds, percent, short_kernel_name, shortened, size};
use crate::trace::align::common_ns;
use crate::trace::analysis::{
    KernelType, PathPart, RankReport, Report, TraceReport, Window, WindowKind,
};
use crate::trace::model::{RankTrace, TraceSet};

/// Rows of lists.
const TOP: usize = 20;
/// Ranks that get a band in the timeline.
const BANDS: usize = 16;
/// Rows of bars.
const BARS: usize = 64;

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

fn share(part: i64, whole: i64) -> String {
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

fn critical_path(text: &mut String, trace: &TraceReport) {
    let Some(path) = &trace.critical_path else { return };
    let _ = writeln!(
        text,
        "<h2>Critical path</h2>\n<p class=\"note\">What the end of the recording was waiting for, \
         all the way back: {} ms, {} hops between ranks. {} waits between streams are inferred, \
         because recordings rarely say what a stream waited for.</p>\n<section>",
        milliseconds(path.span_ns),
        path.hops,
        path.inferred_waits
    );
    text.push_str(&legend(&[
        ("compute", "compute"),
        ("communication", "communication"),
        ("memory", "memory operations"),
        ("launch", "launch"),
        ("host", "host"),
        ("gap", "gap"),
    ]));
    let parts = PathPart::ALL
        .into_iter()
        .map(|part| {
            let ns = path.parts.get(&part).copied().unwrap_or(0);
            let tip =
                format!("{}: {} ms ({})", part.name(), milliseconds(ns), share(ns, path.span_ns));
            (part.name(), ns, tip)
        })
        .collect();
    let after = format!("{} ms", milliseconds(path.span_ns));
    text.push_str(&stacks(&[Stack { label: "path".into(), after, parts }], path.span_ns));
    let parts: Vec<Vec<String>> = PathPart::ALL
        .into_iter()
        .map(|part| {
            let ns = path.parts.get(&part).copied().unwrap_or(0);
            vec![part.name().into(), milliseconds(ns), share(ns, path.span_ns)]
        })
        .collect();
    text.push_str("<details><summary>Numbers</summary>\n");
    text.push_str(&table(
        &[Column::Text("part"), Column::Number("ms"), Column::Number("share")],
        &parts,
    ));
    if path.ranks.len() > 1 {
        let rows: Vec<Vec<String>> = path
            .ranks
            .iter()
            .map(|(rank, ns)| vec![rank.to_string(), milliseconds(*ns), share(*ns, path.span_ns)])
            .collect();
        text.push_str(&table(
            &[Column::Text("rank"), Column::Number("ms on the path"), Column::Number("share")],
            &rows,
        ));
    }
    text.push_str("</details>\n");
    let most = path.top.first().map_or(1, |entry| entry.total_ns).max(1);
    let rows: Vec<Vec<String>> = path
        .top
        .iter()
        .take(12)
        .map(|entry| {
            vec![
                name_cell(&entry.name),
                entry.part.name().into(),
                milliseconds(entry.total_ns),
                share(entry.total_ns, path.span_ns),
                format!("{:.4} {}", entry.total_ns as f64 / most as f64, entry.part.name()),
                entry.count.to_string(),
            ]
        })
        .collect();
    text.push_str(&table(
        &[
            Column::Name("on the path"),
            Column::Text("part"),
            Column::Number("ms"),
            Column::Number("share"),
            Column::Bar(""),
            Column::Number("count"),
        ],
        &rows,
    ));
    text.push_str("</section>\n");
}

fn name_cell(name: &str) -> String {
    let clean = name.replace('\t', " ");
    format!("{}\t{}", shortened(&short_kernel_name(&clean), 90), shortened(&clean, 600))
}

fn slowest(text: &mut String, trace: &TraceReport) {
    let Some(slowest) = &trace.slowest_rank else { return };
    let verdict = match slowest.rank {
        Some(rank) => format!(
            "Rank {rank} is the slowest: without its excess work the span of {} ms would be {} ms \
             ({} shorter).",
            milliseconds(slowest.span_ns),
            milliseconds(slowest.span_without_ns),
            share(slowest.gain_ns, slowest.span_ns)
        ),
        None => "No single rank holds the others up.".to_owned(),
    };
    let _ = writeln!(
        text,
        "<h2>Ranks against each other</h2>\n<p class=\"note\">{} From {} matched collectives; \
         clocks agree to {} us (median distance of matched ends), after offsets of up to {} us \
         were removed.</p>\n<section>",
        escape(&verdict),
        slowest.collectives,
        microseconds(trace.alignment.residual_ns),
        microseconds(trace.alignment.skew_ns)
    );
    text.push_str(&legend(&[
        ("compute", "own work, host included"),
        ("communication", "exposed waiting for other ranks"),
    ]));
    let rows: Vec<Stack> = slowest
        .ranks
        .iter()
        .take(BARS)
        .map(|rank| Stack {
            label: format!("rank {}", rank.rank),
            after: format!(
                "{} ms",
                milliseconds(rank.work_ns.saturating_add(rank.exposed_wait_ns))
            ),
            parts: vec![
                ("compute", rank.work_ns, format!("own work: {} ms", milliseconds(rank.work_ns))),
                (
                    "communication",
                    rank.exposed_wait_ns,
                    format!("exposed waiting: {} ms", milliseconds(rank.exposed_wait_ns)),
                ),
            ],
        })
        .collect();
    let longest = slowest
        .ranks
        .iter()
        .map(|rank| rank.work_ns.saturating_add(rank.exposed_wait_ns))
        .max()
        .unwrap_or(0);
    text.push_str(&stacks(&rows, longest));
    let rows: Vec<Vec<String>> = slowest
        .ranks
        .iter()
        .take(4 * BARS)
        .map(|rank| {
            vec![
                rank.rank.to_string(),
                milliseconds(rank.work_ns),
                milliseconds(rank.exposed_wait_ns),
                rank.arrives_last.to_string(),
                milliseconds(rank.late_ns),
                milliseconds(rank.gain_ns),
            ]
        })
        .collect();
    text.push_str(&table(
        &[
            Column::Text("rank"),
            Column::Number("own work ms"),
            Column::Number("exposed wait ms"),
            Column::Number("arrives last"),
            Column::Number("late by ms"),
            Column::Number("gain without its excess ms"),
        ],
        &rows,
    ));
    text.push_str("</section>\n");
}

fn kernels(text: &mut String, trace: &TraceReport) {
    if trace.kernels.is_empty() {
        return;
    }
    let total: i64 = trace.kernels.iter().map(|k| k.total_ns).fold(0, i64::saturating_add);
    let most = trace.kernels.first().map_or(1, |k| k.total_ns).max(1);
    let _ = writeln!(
        text,
        "<h2>Kernels by time</h2>\n<p class=\"note\">The first {} of {}, over all ranks.</p>\n<section>",
        TOP.min(trace.kernels.len()),
        trace.kernels.len()
    );
    let rows: Vec<Vec<String>> = trace
        .kernels
        .iter()
        .take(TOP)
        .map(|kernel| {
            let class = match kernel.kernel_type {
                KernelType::Compute => "compute",
                KernelType::Communication => "communication",
                KernelType::Memcpy | KernelType::Memset => "memory",
            };
            vec![
                name_cell(&kernel.name),
                kernel_type(kernel.kernel_type).into(),
                milliseconds(kernel.total_ns),
                share(kernel.total_ns, total),
                format!("{:.4} {class}", kernel.total_ns as f64 / most as f64),
                kernel.count.to_string(),
                microseconds(kernel.median_ns),
                microseconds(kernel.max_ns),
            ]
        })
        .collect();
    text.push_str(&table(
        &[
            Column::Name("kernel"),
            Column::Text("type"),
            Column::Number("total ms"),
            Column::Number("share"),
            Column::Bar(""),
            Column::Number("count"),
            Column::Number("median us"),
            Column::Number("max us"),
        ],
        &rows,
    ));
    text.push_str("</section>\n");
}

fn collectives(text: &mut String, trace: &TraceReport) {
    if trace.collectives.is_empty() {
        return;
    }
    text.push_str("<h2>Collectives</h2>\n<p class=\"note\">Transfer is the median of the shortest duration over the ranks of a match, which holds no waiting. Where ranks are missing it is the recorded duration, and the bandwidth a lower bound (≥). Bus bandwidth as the NCCL tests define it.</p>\n<section>\n");
    let rows: Vec<Vec<String>> = trace
        .collectives
        .iter()
        .take(2 * TOP)
        .map(|stats| {
            vec![
                stats.op.into(),
                shortened(&stats.group, 32),
                group_size(stats),
                stats.message_bytes.map_or("?".into(), size),
                stats.count.to_string(),
                stats.matched.to_string(),
                milliseconds(stats.total_ns),
                if stats.matched == 0 {
                    "?".into()
                } else {
                    share(stats.waiting_ns, stats.total_ns)
                },
                microseconds(stats.transfer_ns),
                bandwidth(stats).replace(">=", "≥"),
            ]
        })
        .collect();
    text.push_str(&table(
        &[
            Column::Text("collective"),
            Column::Text("group"),
            Column::Number("ranks"),
            Column::Number("message"),
            Column::Number("count"),
            Column::Number("matched"),
            Column::Number("total ms"),
            Column::Number("waiting"),
            Column::Number("transfer us"),
            Column::Number("busbw GB/s"),
        ],
        &rows,
    ));
    text.push_str("</section>\n");
}

fn launches(text: &mut String, ranks: &[&RankReport]) {
    text.push_str("<h2>Launches and idle time</h2>\n<p class=\"note\">Delay is from the start of the call to the start on the device. Idle time is judged by the event that ended it: not launched yet (host), launch under way, queued already (device), or launch not recorded (unknown).</p>\n<section>\n");
    let rows: Vec<Vec<String>> = ranks
        .iter()
        .take(4 * BARS)
        .map(|rank| {
            let stats = &rank.launches;
            let idle = &rank.idle_causes;
            let total = idle.host_ns + idle.launch_ns + idle.device_ns + idle.unknown_ns;
            vec![
                rank.rank.to_string(),
                stats.launched.to_string(),
                stats.orphans.to_string(),
                stats.graph_events.to_string(),
                microseconds(stats.delay_ns.p50),
                microseconds(stats.delay_ns.p90),
                microseconds(stats.delay_ns.p99),
                microseconds(stats.call_ns.p50),
                milliseconds(total),
                share(idle.host_ns, total),
                share(idle.launch_ns, total),
                share(idle.device_ns, total),
                share(idle.unknown_ns, total),
            ]
        })
        .collect();
    text.push_str(&table(
        &[
            Column::Text("rank"),
            Column::Number("launched"),
            Column::Number("orphans"),
            Column::Number("by graphs"),
            Column::Number("delay p50 us"),
            Column::Number("p90"),
            Column::Number("p99"),
            Column::Number("call p50 us"),
            Column::Number("idle ms"),
            Column::Number("host"),
            Column::Number("launch"),
            Column::Number("device"),
            Column::Number("unknown"),
        ],
        &rows,
    ));
    text.push_str("</section>\n");
}

fn losses(text: &mut String, ranks: &[&RankReport]) {
    let mut rows = Vec::new();
    for rank in ranks {
        let losses = &rank.losses;
        if let Some(truncated) = &losses.truncated {
            rows.push(vec![
                rank.rank.to_string(),
                "truncated".into(),
                format!("{} bytes", truncated.bytes_lost),
                format!("ends at byte {} {}", truncated.at_byte, truncated.cause),
            ]);
        }
        for loss in &losses.unusable {
            rows.push(vec![
                rank.rank.to_string(),
                "unusable".into(),
                loss.events.to_string(),
                loss.what.clone(),
            ]);
        }
        for loss in &losses.left_out {
            rows.push(vec![
                rank.rank.to_string(),
                "left out".into(),
                loss.events.to_string(),
                loss.what.clone(),
            ]);
        }
    }
    if rows.is_empty() {
        return;
    }
    text.push_str("<h2>What is not here</h2>\n<section><details><summary>Events that were lost, could not be used, or are not needed</summary>\n");
    text.push_str(&table(
        &[
            Column::Text("rank"),
            Column::Text("why"),
            Column::Number("events"),
            Column::Text("what"),
        ],
        &rows,
    ));
    text.push_str("</details></section>\n");
}
