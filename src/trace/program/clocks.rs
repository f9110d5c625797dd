//! What is measured on the recording itself: when a rank begins, how far its two clocks are apart,
//! the shortest launch, the dispatch gap.

use std::collections::BTreeMap;

use crate::trace::launches::{Launches, is_blocking_call};
use crate::trace::model::RankTrace;
use crate::units::Nanos;

use super::Stream;

/// No launch takes longer than this on an idle device; where all do, host and device clocks differ.
const LONGEST_LAUNCH_NS: i64 = 100_000;

/// Where a rank's program begins, on its device clock: its first launch, blocking call or device
/// event, whichever is earliest.
pub(super) fn host_begin(rank: &RankTrace, launches: &Launches, ahead: i64) -> Option<i64> {
    let times = rank.events.iter().enumerate().filter_map(|(i, event)| {
        if event.kind.is_device() {
            let launch = launches.call(i).map(|call| rank.events[call].start_ns + ahead);
            return Some(launch.map_or(event.start_ns, |at| at.min(event.start_ns)));
        }
        let blocks = event.kind.is_call() && is_blocking_call(rank.name(event));
        blocks.then_some(event.start_ns + ahead)
    });
    times.min()
}

/// Shortest time from a launch call's start to its kernel's start.
pub(super) fn shortest_launch(ranks: &[RankTrace], launches: &[Launches]) -> Nanos {
    let shortest = ranks
        .iter()
        .zip(launches)
        .filter_map(|(r, l)| Some(shortest_launch_of(r, l)? - device_clock_ahead(r, l)))
        .min();
    Nanos(shortest.unwrap_or(0).clamp(0, LONGEST_LAUNCH_NS))
}

/// Shortest time from a launch call's start to its kernel's start on one rank, as recorded.
fn shortest_launch_of(rank: &RankTrace, launches: &Launches) -> Option<i64> {
    let device = rank.events.iter().enumerate().filter(|(_, e)| e.kind.is_device());
    device
        .filter_map(|(i, event)| Some(event.start_ns - rank.events[launches.call(i)?].start_ns))
        .min()
}

/// By how much a rank's device clock is ahead of its host clock: what the shortest launch takes
/// beyond any believable time, or, where kernels start before their launch, by how much at most.
pub(super) fn device_clock_ahead(rank: &RankTrace, launches: &Launches) -> i64 {
    match shortest_launch_of(rank, launches) {
        Some(shortest) if shortest > LONGEST_LAUNCH_NS => shortest - LONGEST_LAUNCH_NS,
        Some(shortest) if shortest < 0 => shortest,
        _ => 0,
    }
}

/// Pairs of kernels that a typical dispatch gap needs at least.
const ENOUGH_PAIRS: usize = 16;

/// Typical distance between kernels of a stream where the later had been launched, with time to
/// spare for the launch, before the earlier ended. Zero where there are too few such pairs.
pub(super) fn dispatch_gap(ranks: &[RankTrace], launches: &[Launches], latency: Nanos) -> Nanos {
    let mut gaps = Vec::new();
    for (rank, launches) in ranks.iter().zip(launches) {
        let mut before: BTreeMap<Stream, i64> = BTreeMap::new();
        for (i, event) in rank.events.iter().enumerate() {
            if !event.kind.is_device() {
                continue;
            }
            let stream = (event.device, event.lane);
            if let (Some(end), Some(call)) =
                (before.insert(stream, event.end_ns()), launches.call(i))
                && rank.events[call].start_ns + 2 * latency.0 < end
                && event.start_ns >= end
            {
                gaps.push(event.start_ns - end);
            }
        }
    }
    if gaps.len() < ENOUGH_PAIRS {
        return Nanos::ZERO;
    }
    // The mean of the lower nine tenths: a median of whole microseconds, as old profilers wrote
    // them, would be off by up to one.
    gaps.sort_unstable();
    gaps.truncate(gaps.len() * 9 / 10);
    Nanos(gaps.iter().sum::<i64>() / gaps.len() as i64)
}
