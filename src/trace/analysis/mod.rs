//! What recorded ranks tell: where the time went, which kernels and collectives took it, what held
//! the device up, what the critical path across ranks consists of, and which rank is slowest.
//!
//! Everything here is exact integer arithmetic on recorded nanoseconds and depends on no order of
//! a hash table or thread. Statements that rest on an inference say so in their documentation.

mod collectives;
mod components;
mod critical;
mod findings;
pub(crate) mod intervals;
mod kernels;
mod launch;
mod report;
mod slowest;
mod windows;

pub use collectives::{CollectiveStats, GroupSizeSource};
pub use components::{RankComponents, SHORTER, StepComponents, pacing_rank, step_components};
pub use critical::{CriticalPath, PathPart, PathStep};
pub use intervals::Intervals;
pub use kernels::{KernelStats, KernelType};
pub use launch::{IdleCauses, LaunchStats, Quantiles};
pub use report::{
    Alignment, INSPECT_SCHEMA, INSPECT_VERSION, RankReport, Report, SuspiciousKernel, TraceReport,
    inspect,
};
pub use slowest::{RankWork, SlowestRank};
pub use windows::{Window, WindowKind, devices, windows};

use crate::trace::align::{Matching, common_ns, match_collectives};
use crate::trace::launches::Launches;
use crate::trace::model::{Event, RankTrace};

/// Ranks of one trace on one clock, with what every analysis across ranks needs.
pub(crate) struct Together<'a> {
    pub ranks: &'a [RankTrace],
    pub launches: Vec<Launches>,
    pub matching: Matching,
    /// Add to a time of each rank to get ns since the earliest rank began.
    shift: Vec<i64>,
}

impl<'a> Together<'a> {
    pub fn of(ranks: &'a [RankTrace]) -> Self {
        let bases: Vec<i64> = ranks.iter().map(|rank| common_ns(rank, 0)).collect();
        let first = bases.iter().copied().min().unwrap_or(0);
        Self {
            ranks,
            launches: ranks.iter().map(Launches::of).collect(),
            matching: match_collectives(ranks),
            // Clocks that are a century apart come from a damaged header.
            shift: bases.into_iter().map(|b| b.saturating_sub(first).min(1 << 61)).collect(),
        }
    }

    /// A time of a rank, ns since the earliest rank began.
    pub fn at(&self, rank: usize, at_ns: i64) -> i64 {
        at_ns.saturating_add(self.shift[rank])
    }

    pub fn event(&self, rank: usize, index: usize) -> &'a Event {
        &self.ranks[rank].events[index]
    }

    pub fn start(&self, rank: usize, index: usize) -> i64 {
        self.at(rank, self.event(rank, index).start_ns)
    }

    pub fn end(&self, rank: usize, index: usize) -> i64 {
        self.at(rank, self.event(rank, index).end_ns())
    }

    /// First start and last end of device work over all ranks.
    pub fn span(&self) -> Option<(i64, i64)> {
        let mut span: Option<(i64, i64)> = None;
        for (rank, trace) in self.ranks.iter().enumerate() {
            for event in trace.events.iter().filter(|event| event.kind.is_device()) {
                let (start, end) = (self.at(rank, event.start_ns), self.at(rank, event.end_ns()));
                let (first, last) = span.unwrap_or((start, end));
                span = Some((first.min(start), last.max(end)));
            }
        }
        span
    }
}
