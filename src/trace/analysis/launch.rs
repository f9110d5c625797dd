//! From the call on the host to the start on the device, and what an idle device waited for.

use std::collections::BTreeMap;

use serde::Serialize;

use super::intervals::Intervals;
use crate::trace::launches::Launches;
use crate::trace::model::RankTrace;

/// Order statistics of a list; ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// Half are no longer.
    pub p50: i64,
    /// Nine of ten are no longer.
    pub p90: i64,
    /// 99 of 100 are no longer.
    pub p99: i64,
    /// Longest.
    pub max: i64,
}

impl Quantiles {
    /// The quantiles of a list; zeros where it is empty.
    #[must_use]
    pub fn of(mut values: Vec<i64>) -> Self {
        values.sort_unstable();
        let at = |share: usize| {
            let last = values.len().saturating_sub(1);
            values.get(last * share / 100).copied().unwrap_or(0)
        };
        Self { p50: at(50), p90: at(90), p99: at(99), max: at(100) }
    }
}

/// How device work was launched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LaunchStats {
    /// Device events whose launch call was recorded.
    pub launched: u64,
    /// Device events without one, mostly launched before recording began.
    pub orphans: u64,
    /// Calls that launched several device events (graphs).
    pub graph_launches: u64,
    /// Device events launched by those.
    pub graph_events: u64,
    /// Device events that started before their call did: the two clocks disagree.
    pub before_call: u64,
    /// From the start of the call to the start on the device.
    pub delay_ns: Quantiles,
    /// Time inside launch calls.
    pub call_ns: Quantiles,
}

/// What the device waited for while it was idle between its first and last event; ns. The parts
/// make up the idle time of the window `ALL`. Judged by the event that ended the wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IdleCauses {
    /// The host had not yet called for the next event.
    pub host_ns: i64,
    /// The call had begun, and the event not yet.
    pub launch_ns: i64,
    /// The next event was queued before the wait began: a dependency, or time between kernels.
    pub device_ns: i64,
    /// The next event has no recorded launch.
    pub unknown_ns: i64,
}

pub(super) fn launch_stats(trace: &RankTrace, launches: &Launches) -> LaunchStats {
    let mut stats = LaunchStats::default();
    let mut delays = Vec::new();
    let mut per_call: BTreeMap<usize, u64> = BTreeMap::new();
    for (index, event) in trace.events.iter().enumerate() {
        if !event.kind.is_device() {
            continue;
        }
        let Some(call) = launches.call(index) else {
            stats.orphans += 1;
            continue;
        };
        stats.launched += 1;
        *per_call.entry(call).or_default() += 1;
        let delay = event.start_ns - trace.events[call].start_ns;
        stats.before_call += u64::from(delay < 0);
        delays.push(delay);
    }
    for count in per_call.values().filter(|count| **count > 1) {
        stats.graph_launches += 1;
        stats.graph_events += count;
    }
    stats.delay_ns = Quantiles::of(delays);
    stats.call_ns = Quantiles::of(per_call.keys().map(|call| trace.events[*call].dur_ns).collect());
    stats
}

pub(super) fn idle_causes(trace: &RankTrace, launches: &Launches, device: i32) -> IdleCauses {
    let mine = || {
        trace
            .events
            .iter()
            .enumerate()
            .filter(|(_, event)| event.kind.is_device() && event.device == device)
    };
    let busy = Intervals::union_of(mine().map(|(_, e)| (e.start_ns, e.end_ns())).collect());
    let first = mine().map(|(_, e)| e.start_ns).min().unwrap_or(0);
    let last = mine().map(|(_, e)| e.end_ns()).max().unwrap_or(0);
    // Events are ordered by start: the first one at or after a time is found in one pass.
    let events: Vec<(i64, usize)> = mine().map(|(index, e)| (e.start_ns, index)).collect();
    let mut causes = IdleCauses::default();
    for (from, to) in busy.gaps(first, last) {
        let place = events.partition_point(|(start, _)| *start < to);
        let call = events.get(place).and_then(|(_, index)| launches.call(*index));
        match call.map(|call| trace.events[call].start_ns) {
            None => causes.unknown_ns += to - from,
            Some(called) if called <= from => causes.device_ns += to - from,
            Some(called) => {
                let called = called.min(to);
                causes.host_ns += called - from;
                causes.launch_ns += to - called;
            }
        }
    }
    causes
}
