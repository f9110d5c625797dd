//! Tables for a terminal.

use std::collections::BTreeMap;
use std::fmt::Write;

use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};

use super::{count, microseconds, milliseconds, percent, short_kernel_name, shortened, size};
use crate::trace::analysis::{
    CollectiveStats, GroupSizeSource, KernelType, PathPart, RankReport, Report, TraceReport,
    Window, WindowKind,
};
use crate::trace::header::{RankHeader, TraceHeader};
use crate::trace::import::{NOT_A_TRACE_NAME, Unused};
use crate::trace::model::{Kind, TraceSet};

/// Above this many rows only the whole recording of each rank is shown.
const MOST_WINDOWS: usize = 48;
/// Above this many ranks, tables with a row per rank are cut.
const MOST_RANKS: usize = 32;

fn new_table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    let line = LineStyle::none().fill('─').junction('─');
    table.load_style(TableStyle::new().header_separator(line));
    table.set_header(columns.iter().map(Cell::new));
    table
}

/// Right-aligns all columns but the first `left`.
fn numbers(table: &mut Table, left: usize) {
    for column in table.column_iter_mut().skip(left) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

fn share(part: i64, whole: i64) -> String {
    if whole == 0 { "-".into() } else { percent(part as f64 / whole as f64) }
}

/// The report as tables; `top` limits lists of kernels and collectives.
#[must_use]
pub fn table(report: &Report, top: usize) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "Findings");
    for finding in &report.findings {
        let _ = writeln!(text, "  - {finding}");
    }
    for trace in &report.traces {
        let ranks: Vec<&RankReport> =
            report.ranks.iter().filter(|rank| rank.trace == trace.trace).collect();
        let _ = writeln!(text, "\nTrace {} ({})", trace.trace, about(&ranks));
        windows(&mut text, &ranks);
        launches(&mut text, &ranks);
        kernels(&mut text, trace, top);
        collectives(&mut text, &trace.collectives, top);
        critical_path(&mut text, trace, top);
        slowest(&mut text, trace);
    }
    text
}

/// Ranks and hardware in a few words.
pub(super) fn about(ranks: &[&RankReport]) -> String {
    let count = ranks.len();
    let world = ranks.iter().find_map(|rank| rank.world_size);
    let mut text = match world {
        Some(world) if world as usize != count => format!("{count} of {world} ranks"),
        _ if count == 1 => "1 rank".to_owned(),
        _ => format!("{count} ranks"),
    };
    let mut names: Vec<&str> = ranks
        .iter()
        .filter_map(|rank| rank.accelerator.as_ref())
        .map(|device| device.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    if !names.is_empty() {
        text = format!("{text}, {}", names.join(" and "));
    }
    if let Some(first) = ranks.first() {
        text = format!("{text}, {}", first.source.format);
        if ranks.iter().any(|rank| rank.resolution_ns >= 1000) {
            text.push_str(", whole microseconds");
        }
    }
    text
}

fn windows(text: &mut String, ranks: &[&RankReport]) {
    let total: usize = ranks.iter().map(|rank| rank.windows.len()).sum();
    let devices = ranks.iter().any(|rank| {
        rank.windows.iter().any(|w| Some(w.device) != rank.windows.first().map(|f| f.device))
    });
    let mut table = new_table(&[
        "rank", "window", "span ms", "compute", "comm", "exposed", "memory", "exposed", "idle",
        "overlap", "kernels", "comm k.", "streams",
    ]);
    let shown =
        |window: &&Window| total <= MOST_WINDOWS || window.kind == WindowKind::GpuFirstToLast;
    for rank in ranks.iter().take(MOST_RANKS) {
        for window in rank.windows.iter().filter(shown) {
            let part = |ns: i64| share(ns, window.span_ns);
            let name = match window.kind {
                WindowKind::GpuFirstToLast => window.name.clone(),
                WindowKind::CpuProfilerStep => format!("step {}", window.name),
            };
            table.add_row([
                rank.rank.to_string(),
                if devices { format!("{name} (device {})", window.device) } else { name },
                milliseconds(window.span_ns),
                part(window.compute_ns),
                part(window.comm_ns),
                part(window.comm_exposed_ns),
                part(window.mem_ns),
                part(window.mem_exposed_ns),
                part(window.idle_ns),
                if window.comm_ns == 0 {
                    "-".into()
                } else {
                    share(window.overlap_ns, window.comm_ns)
                },
                window.kernels.to_string(),
                window.comm_kernels.to_string(),
                window.streams.to_string(),
            ]);
        }
    }
    numbers(&mut table, 2);
    let _ =
        writeln!(text, "\nDevice time (shares of the span; overlap is a share of comm)\n{table}");
    if total > MOST_WINDOWS || ranks.len() > MOST_RANKS {
        let _ = writeln!(text, "  {} windows in all: see --format json", total);
    }
}

fn launches(text: &mut String, ranks: &[&RankReport]) {
    let mut table = new_table(&[
        "rank",
        "launched",
        "orphans",
        "by graphs",
        "delay p50 us",
        "p90",
        "p99",
        "call p50 us",
        "idle ms",
        "host",
        "launch",
        "device",
        "unknown",
    ]);
    for rank in ranks.iter().take(MOST_RANKS) {
        let stats = &rank.launches;
        let idle = &rank.idle_causes;
        let total = idle.host_ns + idle.launch_ns + idle.device_ns + idle.unknown_ns;
        let part = |ns: i64| share(ns, total);
        table.add_row([
            rank.rank.to_string(),
            stats.launched.to_string(),
            stats.orphans.to_string(),
            stats.graph_events.to_string(),
            microseconds(stats.delay_ns.p50),
            microseconds(stats.delay_ns.p90),
            microseconds(stats.delay_ns.p99),
            microseconds(stats.call_ns.p50),
            milliseconds(total),
            part(idle.host_ns),
            part(idle.launch_ns),
            part(idle.device_ns),
            part(idle.unknown_ns),
        ]);
    }
    numbers(&mut table, 1);
    let _ = writeln!(
        text,
        "\nLaunches, and what the idle device waited for (host: next kernel not launched yet; \
         launch: under way; device: queued)\n{table}"
    );
}

fn kernels(text: &mut String, trace: &TraceReport, top: usize) {
    if trace.kernels.is_empty() {
        return;
    }
    let total: i64 = trace.kernels.iter().map(|k| k.total_ns).fold(0, i64::saturating_add);
    let mut table =
        new_table(&["kernel", "type", "total ms", "share", "count", "median us", "max us"]);
    for kernel in trace.kernels.iter().take(top) {
        table.add_row([
            shortened(&short_kernel_name(&kernel.name), 64),
            kernel_type(kernel.kernel_type).to_owned(),
            milliseconds(kernel.total_ns),
            share(kernel.total_ns, total),
            kernel.count.to_string(),
            microseconds(kernel.median_ns),
            microseconds(kernel.max_ns),
        ]);
    }
    numbers(&mut table, 2);
    let _ = writeln!(
        text,
        "\nKernels by time ({} of {})\n{table}",
        top.min(trace.kernels.len()),
        trace.kernels.len()
    );
}

/// The name of a kernel type in reports.
pub(super) fn kernel_type(kernel_type: KernelType) -> &'static str {
    match kernel_type {
        KernelType::Compute => "compute",
        KernelType::Communication => "comm",
        KernelType::Memcpy => "memcpy",
        KernelType::Memset => "memset",
    }
}

/// A bandwidth in GB/s, with a mark where it is a lower bound.
pub(super) fn bandwidth(stats: &CollectiveStats) -> String {
    match stats.bus_bandwidth {
        Some(rate) => {
            let bound = if stats.includes_waiting { ">= " } else { "" };
            format!("{bound}{}", crate::units::significant(rate / 1e9, 3))
        }
        None => "-".into(),
    }
}

/// Ranks in a group, with a mark where assumed.
pub(super) fn group_size(stats: &CollectiveStats) -> String {
    match (stats.group_size, stats.group_size_source) {
        (Some(size), GroupSizeSource::AssumedWorld) => format!("{size} (world?)"),
        (Some(size), _) => size.to_string(),
        (None, _) => "?".into(),
    }
}

fn collectives(text: &mut String, stats: &[CollectiveStats], top: usize) {
    if stats.is_empty() {
        return;
    }
    let mut table = new_table(&[
        "collective",
        "group",
        "ranks",
        "message",
        "count",
        "matched",
        "total ms",
        "waiting",
        "transfer us",
        "busbw GB/s",
    ]);
    for stats in stats.iter().take(top) {
        table.add_row([
            stats.op.to_owned(),
            shortened(&stats.group, 24),
            group_size(stats),
            stats.message_bytes.map_or("?".into(), size),
            stats.count.to_string(),
            stats.matched.to_string(),
            milliseconds(stats.total_ns),
            if stats.matched == 0 { "?".into() } else { share(stats.waiting_ns, stats.total_ns) },
            microseconds(stats.transfer_ns),
            bandwidth(stats),
        ]);
    }
    numbers(&mut table, 2);
    let _ = writeln!(
        text,
        "\nCollectives (transfer is the median of the shortest duration over ranks; >= where \
         waiting cannot be told apart)\n{table}"
    );
}

fn critical_path(text: &mut String, trace: &TraceReport, top: usize) {
    let Some(path) = &trace.critical_path else { return };
    let parts: Vec<String> = PathPart::ALL
        .into_iter()
        .map(|part| {
            let ns = path.parts.get(&part).copied().unwrap_or(0);
            format!("{} {} ms ({})", part.name(), milliseconds(ns), share(ns, path.span_ns))
        })
        .collect();
    let _ = writeln!(
        text,
        "\nCritical path: {} ms, {} between ranks, {}\n  {}",
        milliseconds(path.span_ns),
        count(path.hops, "hop", "hops"),
        count(path.inferred_waits, "inferred wait", "inferred waits"),
        parts.join(", ")
    );
    if path.ranks.len() > 1 {
        let ranks: Vec<String> = path
            .ranks
            .iter()
            .take(MOST_RANKS)
            .map(|(rank, ns)| format!("rank {rank} {}", share(*ns, path.span_ns)))
            .collect();
        let _ = writeln!(text, "  {}", ranks.join(", "));
    }
    let mut table = new_table(&["on the path", "part", "total ms", "share", "count"]);
    for entry in path.top.iter().take(top) {
        table.add_row([
            shortened(&short_kernel_name(&entry.name), 64),
            entry.part.name().to_owned(),
            milliseconds(entry.total_ns),
            share(entry.total_ns, path.span_ns),
            entry.count.to_string(),
        ]);
    }
    numbers(&mut table, 2);
    let _ = writeln!(text, "{table}");
}

fn slowest(text: &mut String, trace: &TraceReport) {
    let Some(slowest) = &trace.slowest_rank else { return };
    let mut table = new_table(&[
        "rank",
        "own work ms",
        "exposed wait ms",
        "arrives last",
        "late by ms",
        "gain without excess ms",
    ]);
    for rank in slowest.ranks.iter().take(MOST_RANKS) {
        table.add_row([
            rank.rank.to_string(),
            milliseconds(rank.work_ns),
            milliseconds(rank.exposed_wait_ns),
            rank.arrives_last.to_string(),
            milliseconds(rank.late_ns),
            milliseconds(rank.gain_ns),
        ]);
    }
    numbers(&mut table, 1);
    let _ = writeln!(
        text,
        "\nRanks against each other ({} matched collectives, clocks agree to {} us)\n{table}",
        slowest.collectives,
        microseconds(trace.alignment.residual_ns)
    );
}

/// What an import kept, found and could not use.
#[must_use]
pub fn import_summary(set: &TraceSet, header: &TraceHeader, unused: &[Unused]) -> String {
    let mut text = String::new();
    let mut table = new_table(&[
        "trace",
        "rank",
        "file",
        "events",
        "kernels",
        "steps",
        "clock offset us",
        "residual us",
        "unusable",
    ]);
    for (rank, entry) in set.ranks.iter().zip(&header.ranks) {
        let about = &rank.header;
        let kernels = rank.events.iter().filter(|event| event.kind == Kind::Kernel).count();
        table.add_row([
            about.trace.clone(),
            about.rank.to_string(),
            entry.events.file.clone(),
            rank.events.len().to_string(),
            kernels.to_string(),
            about.windows.len().to_string(),
            if about.clock.aligned_on == 0 {
                "-".into()
            } else {
                microseconds(about.clock.offset_ns)
            },
            if about.clock.aligned_on == 0 {
                "-".into()
            } else {
                microseconds(about.clock.residual_ns)
            },
            about.losses.unusable_count().to_string(),
        ]);
    }
    numbers(&mut table, 3);
    let _ = writeln!(text, "{table}");
    text.push_str(&losses(set.ranks.iter().map(|rank| &rank.header)));
    text.push_str(&unused_files(unused));
    text
}

/// Files that could not be used, a line each; those that do not even look like a trace in one.
#[must_use]
pub fn unused_files(unused: &[Unused]) -> String {
    let mut text = String::new();
    let mut others: Vec<&str> = Vec::new();
    for unused in unused {
        if unused.why == NOT_A_TRACE_NAME {
            others.push(unused.path.as_str());
        } else {
            let _ = writeln!(text, "not used: {} {}", unused.path, unused.why);
        }
    }
    if !others.is_empty() {
        let few: Vec<&str> = others.iter().take(3).copied().collect();
        let more = if others.len() > 3 { ", ..." } else { "" };
        let _ = writeln!(
            text,
            "not opened: {} without the name of a trace ({}{more})",
            count(others.len() as u64, "file", "files"),
            few.join(", ")
        );
    }
    text
}

/// What was lost of every rank, a line each; what was left out on purpose, a line for each trace.
#[must_use]
pub fn losses<'a>(headers: impl Iterator<Item = &'a RankHeader>) -> String {
    let mut text = String::new();
    let mut left_out: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for header in headers {
        let losses = &header.losses;
        let mut lines: Vec<String> = losses.cut().into_iter().chain(losses.others()).collect();
        if losses.redacted_names > 0 {
            let names = losses.redacted_names;
            lines.push(format!("{names} names looked like secrets and were redacted"));
        }
        for line in lines {
            let _ = writeln!(text, "{} rank {}: {line}", header.trace, header.rank);
        }
        for loss in &losses.left_out {
            let events = left_out.entry(&header.trace).or_default().entry(&loss.what).or_default();
            *events = events.saturating_add(loss.events);
        }
    }
    for (trace, parts) in left_out {
        let parts: Vec<String> =
            parts.into_iter().map(|(what, events)| format!("{events} {what}")).collect();
        let _ = writeln!(text, "{trace}: left out: {}", parts.join("; "));
    }
    text
}
