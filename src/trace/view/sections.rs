//! The sections of the page below the timeline: critical path, ranks, kernels, collectives,
//! launches, losses.

use std::fmt::Write;

use super::html::{BARS, TOP, share};
use super::page::{Column, Stack, escape, legend, stacks, table};
use super::table::{bandwidth, group_size, kernel_type};
use super::{count, microseconds, milliseconds, short_kernel_name, shortened, size};
use crate::trace::analysis::{KernelType, PathPart, RankReport, TraceReport};

/// Parts of the critical path, and what it consists of.
pub fn critical_path(text: &mut String, trace: &TraceReport) {
    let Some(path) = &trace.critical_path else { return };
    let _ = writeln!(
        text,
        "<h2>Critical path</h2>\n<p class=\"note\">What the end of the recording was waiting for, \
         all the way back: {} ms, {} between ranks. {} between streams inferred, because \
         recordings rarely say what a stream waited for.</p>\n<section>",
        milliseconds(path.span_ns),
        count(path.hops, "hop", "hops"),
        count(path.inferred_waits, "wait", "waits")
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

/// Work and waiting of each rank.
pub fn slowest(text: &mut String, trace: &TraceReport) {
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

/// Device work by name.
pub fn kernels(text: &mut String, trace: &TraceReport) {
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

/// Collectives with the bandwidth they reached.
pub fn collectives(text: &mut String, trace: &TraceReport) {
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

/// Launch delays, and what the idle device waited for.
pub fn launches(text: &mut String, ranks: &[&RankReport]) {
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

/// What was lost or left out.
pub fn losses(text: &mut String, ranks: &[&RankReport]) {
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
