//! What matters most in a report, in sentences.

use super::critical::PathPart;
use super::report::{RankReport, Report, TraceReport};
use super::windows::WindowKind;
use crate::trace::header::RankSource;
use crate::trace::view::{milliseconds, percent};

/// A share of the span below which nobody needs to be told.
const WORTH_TELLING: f64 = 0.02;

pub(super) fn findings(report: &Report) -> Vec<String> {
    let mut findings = Vec::new();
    for trace in &report.traces {
        let ranks: Vec<&RankReport> =
            report.ranks.iter().filter(|rank| rank.trace == trace.trace).collect();
        let several = report.traces.len() > 1;
        let mut found = Vec::new();
        device_time(&ranks, &mut found);
        collectives(trace, &mut found);
        path(trace, &mut found);
        slowest(trace, &mut found);
        trust(trace, &ranks, &mut found);
        findings.extend(
            found.into_iter().map(
                |text| {
                    if several { format!("{}: {text}", trace.trace) } else { text }
                },
            ),
        );
    }
    findings
}

fn device_time(ranks: &[&RankReport], found: &mut Vec<String>) {
    let whole = || {
        ranks
            .iter()
            .flat_map(|rank| &rank.windows)
            .filter(|window| window.kind == WindowKind::GpuFirstToLast)
    };
    let span: i64 = whole().map(|w| w.span_ns).fold(0, i64::saturating_add);
    if span == 0 {
        found.push("No device work was recorded.".into());
        return;
    }
    let share = |value: fn(&super::Window) -> i64| {
        whole().map(value).fold(0, i64::saturating_add) as f64 / span as f64
    };
    found.push(format!(
        "The device computes {} of the time, communicates exposed {}, moves memory exposed {} and \
         is idle {}.",
        percent(share(|w| w.compute_ns)),
        percent(share(|w| w.comm_exposed_ns)),
        percent(share(|w| w.mem_exposed_ns)),
        percent(share(|w| w.idle_ns)),
    ));
    let idle = share(|w| w.idle_ns);
    let causes = |value: fn(&super::IdleCauses) -> i64| {
        let sum = ranks.iter().map(|rank| value(&rank.idle_causes)).fold(0, i64::saturating_add);
        sum as f64 / span as f64
    };
    let host = causes(|c| c.host_ns);
    if idle > WORTH_TELLING && host > idle / 2.0 {
        found.push(format!(
            "The device is held up by the host: during {} of the time it is idle and the next \
             kernel has not been launched yet.",
            percent(host)
        ));
    }
}

fn collectives(trace: &TraceReport, found: &mut Vec<String>) {
    let total: i64 = trace.collectives.iter().map(|c| c.total_ns).fold(0, i64::saturating_add);
    let waiting: i64 = trace.collectives.iter().map(|c| c.waiting_ns).fold(0, i64::saturating_add);
    if total > 0 && waiting > 0 {
        found.push(format!(
            "{} of the time in communication kernels is waiting for ranks that arrive later, not \
             transfer.",
            percent(waiting as f64 / total as f64)
        ));
    }
}

fn path(trace: &TraceReport, found: &mut Vec<String>) {
    let Some(path) = trace.critical_path.as_ref().filter(|path| path.span_ns > 0) else { return };
    let share =
        |part: PathPart| path.parts.get(&part).copied().unwrap_or(0) as f64 / path.span_ns as f64;
    let mut parts: Vec<(f64, PathPart)> =
        PathPart::ALL.into_iter().map(|part| (share(part), part)).collect();
    parts.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let named: Vec<String> = parts
        .iter()
        .filter(|(share, _)| *share >= WORTH_TELLING)
        .map(|(share, part)| format!("{} {}", part.name(), percent(*share)))
        .collect();
    found.push(format!(
        "The critical path of {} ms is {}.",
        milliseconds(path.span_ns),
        named.join(", ")
    ));
}

fn slowest(trace: &TraceReport, found: &mut Vec<String>) {
    let Some(slowest) = &trace.slowest_rank else { return };
    match slowest.rank {
        Some(rank) if slowest.span_ns > 0 => found.push(format!(
            "Rank {rank} is the slowest: without its excess work the {} ms would be {} ms shorter \
             ({}).",
            milliseconds(slowest.span_ns),
            milliseconds(slowest.gain_ns),
            percent(slowest.gain_ns as f64 / slowest.span_ns as f64)
        )),
        _ => found.push("No single rank holds the others up.".into()),
    }
}

/// What limits the trust in all of the above.
fn trust(trace: &TraceReport, ranks: &[&RankReport], found: &mut Vec<String>) {
    let missing: Vec<String> = ranks
        .iter()
        .filter_map(|rank| {
            let truncated = rank.losses.truncated.as_ref()?;
            Some(format!("rank {} at byte {}", rank.rank, truncated.at_byte))
        })
        .collect();
    if !missing.is_empty() {
        found.push(format!("The recording ends early: {}.", missing.join(", ")));
    }
    let unusable: u64 = ranks.iter().map(|rank| rank.losses.unusable_count()).sum();
    if unusable > 0 {
        found.push(format!("{unusable} events could not be used; see the losses of each rank."));
    }
    if let Some(world) = ranks.iter().find_map(|rank| rank.world_size)
        && ranks.len() < world as usize
    {
        found.push(format!(
            "{} of {world} ranks were recorded: waiting in collectives cannot be told from transfer \
                 where a member is missing.",
            ranks.len()
        ));
    }
    if ranks.len() > 1 && !trace.alignment.unaligned_ranks.is_empty() {
        found.push(format!(
            "The clocks of {} of {} ranks could not be tied to rank {}: statements across ranks \
             rest on the clocks of the machines.",
            trace.alignment.unaligned_ranks.len(),
            ranks.len(),
            trace.ranks.first().copied().unwrap_or(0)
        ));
    }
    if ranks.iter().any(|rank| rank.rank_source == RankSource::Assumed) {
        found.push("No rank number was recorded; 0 is assumed.".into());
    }
    for rank in ranks {
        for kernel in &rank.suspicious_kernels {
            found.push(format!(
                "Rank {}: `{}` ({} times, {} ms) counts as compute, though its name suggests \
                 communication.",
                rank.rank,
                crate::trace::view::shortened(&kernel.name, 60),
                kernel.count,
                milliseconds(kernel.total_ns)
            ));
        }
    }
}
