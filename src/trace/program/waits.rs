//! What the host and the streams of a rank waited for, as far as it was recorded.

use std::collections::BTreeMap;

use crate::trace::launches::Launches;
use crate::trace::model::{Event, RankTrace, SyncDetail};

use super::Stream;

/// What recorded waits between streams were for.
pub(super) struct RecordedWaits {
    /// Start of the call with a correlation.
    call_start: BTreeMap<i64, i64>,
    /// By stream: latest launch so far and device event, in device order.
    launched: BTreeMap<Stream, Vec<(i64, usize)>>,
}

impl RecordedWaits {
    pub(super) fn of(rank: &RankTrace, launches: &Launches) -> Self {
        let mut this = Self { call_start: BTreeMap::new(), launched: BTreeMap::new() };
        for (i, event) in rank.events.iter().enumerate() {
            if let (true, Some(id)) = (event.kind.is_call(), event.correlation()) {
                this.call_start.entry(id).or_insert(event.start_ns);
            }
            if event.kind.is_device()
                && let Some(call) = launches.call(i)
            {
                let list = this.launched.entry((event.device, event.lane)).or_default();
                let before = list.last().map_or(i64::MIN, |(at, _)| *at);
                list.push((before.max(rank.events[call].start_ns), i));
            }
        }
        this
    }

    /// The latest work of the stream that a wait names, launched before its event was recorded.
    pub(super) fn awaited(&self, device: i32, detail: &SyncDetail) -> Option<usize> {
        let recorded_at = self.call_start.get(&detail.wait_correlation)?;
        let list = self.launched.get(&(device, detail.wait_stream))?;
        let end = list.partition_point(|(at, _)| at < recorded_at);
        Some(list[end.checked_sub(1)?].1)
    }
}

/// Which host threads launch when.
pub(super) struct LaunchThreads {
    /// Start of a launch and its thread, ascending.
    launches: Vec<(i64, i64)>,
}

impl LaunchThreads {
    pub(super) fn of(rank: &RankTrace, launches: &Launches) -> Self {
        let mut list: Vec<(i64, i64)> = (0..rank.events.len())
            .filter(|i| rank.events[*i].kind.is_device())
            .filter_map(|i| launches.call(i))
            .map(|call| (rank.events[call].start_ns, rank.events[call].lane))
            .collect();
        list.sort_unstable();
        Self { launches: list }
    }

    /// Whether a thread other than a call's launches while the call lasts.
    pub(super) fn others_launch_during(&self, call: &Event) -> bool {
        let from = self.launches.partition_point(|(at, _)| *at <= call.start_ns);
        self.launches[from..]
            .iter()
            .take_while(|(at, _)| *at < call.end_ns())
            .any(|(_, thread)| *thread != call.lane)
    }
}
