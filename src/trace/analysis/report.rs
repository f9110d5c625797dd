//! The result of an inspection.

use serde::Serialize;

use super::Together;
use super::collectives::{CollectiveStats, collective_stats};
use super::critical::{CriticalPath, critical_path};
use super::findings::findings;
use super::kernels::{KernelStats, kernels};
use super::launch::{IdleCauses, LaunchStats, idle_causes, launch_stats};
use super::slowest::{SlowestRank, slowest};
use super::windows::{Window, devices, windows};
use crate::trace::collectives::suspicious;
use crate::trace::header::{Device, Losses, RankSource, SourceInfo};
use crate::trace::model::{Kind, RankTrace, TraceSet};

/// Name of the machine-readable report.
pub const INSPECT_SCHEMA: &str = "trainyard-inspect";
/// Version of the machine-readable report.
pub const INSPECT_VERSION: u32 = 1;

/// What recorded ranks tell. All times are nanoseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Always [`INSPECT_SCHEMA`].
    pub schema: &'static str,
    /// Always [`INSPECT_VERSION`].
    pub schema_version: u32,
    /// What matters most, in sentences.
    pub findings: Vec<String>,
    /// Every rank of every trace.
    pub ranks: Vec<RankReport>,
    /// What holds for ranks together, one entry per trace.
    pub traces: Vec<TraceReport>,
}

/// What holds for one rank.
#[derive(Clone, Debug, Serialize)]
pub struct RankReport {
    /// Trace that the rank belongs to.
    pub trace: String,
    /// Global rank.
    pub rank: u32,
    /// How the rank is known.
    pub rank_source: RankSource,
    /// Ranks of the job, where recorded.
    pub world_size: Option<u32>,
    /// What it was read from.
    pub source: SourceInfo,
    /// The accelerator it ran on, where recorded.
    pub accelerator: Option<Device>,
    /// Step of device times: 1000 where the source wrote whole microseconds.
    pub resolution_ns: i64,
    /// The whole recording and every step.
    pub windows: Vec<Window>,
    /// How device work was launched.
    pub launches: LaunchStats,
    /// What the device waited for while it was idle; of the first device where there are several.
    pub idle_causes: IdleCauses,
    /// Kernels that count as compute and whose name suggests communication.
    pub suspicious_kernels: Vec<SuspiciousKernel>,
    /// What was lost or left out.
    pub losses: Losses,
}

/// A kernel that counts as compute and whose name suggests communication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SuspiciousKernel {
    /// Name.
    pub name: String,
    /// How often it ran.
    pub count: u64,
    /// Sum of durations, ns.
    pub total_ns: i64,
}

/// What holds for the ranks of a trace together.
#[derive(Clone, Debug, Serialize)]
pub struct TraceReport {
    /// Trace.
    pub trace: String,
    /// Its ranks.
    pub ranks: Vec<u32>,
    /// How well their clocks agree.
    pub alignment: Alignment,
    /// Device work by name, longest total first.
    pub kernels: Vec<KernelStats>,
    /// Collectives by operation, group and size, longest total first.
    pub collectives: Vec<CollectiveStats>,
    /// The critical path; `None` without device work.
    pub critical_path: Option<CriticalPath>,
    /// The slowest rank; `None` where ranks or matched collectives are missing.
    pub slowest_rank: Option<SlowestRank>,
}

/// How well the clocks of ranks agree; ns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Alignment {
    /// Collectives that were found on every recorded member of their group.
    pub matched: u64,
    /// Communication kernels that take part in none.
    pub unmatched_kernels: u64,
    /// Ranks whose clock could not be tied to the first rank's.
    pub unaligned_ranks: Vec<u32>,
    /// Largest offset that was found between two clocks.
    pub skew_ns: i64,
    /// Largest median distance of matched ends after alignment.
    pub residual_ns: i64,
}

/// Inspects recorded ranks.
#[must_use]
pub fn inspect(set: &TraceSet) -> Report {
    let mut report = Report {
        schema: INSPECT_SCHEMA,
        schema_version: INSPECT_VERSION,
        findings: Vec::new(),
        ranks: Vec::new(),
        traces: Vec::new(),
    };
    for ranks in set.traces() {
        let together = Together::of(ranks);
        for (position, rank) in ranks.iter().enumerate() {
            report.ranks.push(rank_report(&together, position, rank));
        }
        report.traces.push(TraceReport {
            trace: ranks[0].header.trace.clone(),
            ranks: ranks.iter().map(|rank| rank.header.rank).collect(),
            alignment: alignment(&together),
            kernels: kernels(ranks),
            collectives: collective_stats(&together),
            critical_path: critical_path(&together),
            slowest_rank: slowest(&together),
        });
    }
    report.findings = findings(&report);
    report
}

fn rank_report(together: &Together<'_>, position: usize, rank: &RankTrace) -> RankReport {
    let launches = &together.launches[position];
    let header = &rank.header;
    let device = devices(rank).first().copied();
    let accelerator = header
        .identity
        .devices
        .iter()
        .find(|known| device.is_some_and(|id| i64::from(id) == known.id))
        .cloned();
    let suspects: Vec<bool> = rank.names.iter().map(suspicious).collect();
    let mut suspicious_kernels: Vec<SuspiciousKernel> = Vec::new();
    for event in &rank.events {
        if event.kind != Kind::Kernel || event.communicates || !suspects[event.name.index()] {
            continue;
        }
        let name = rank.name(event);
        let found = suspicious_kernels.iter().position(|known| known.name == name);
        let place = found.unwrap_or_else(|| {
            suspicious_kernels.push(SuspiciousKernel {
                name: name.to_owned(),
                count: 0,
                total_ns: 0,
            });
            suspicious_kernels.len() - 1
        });
        suspicious_kernels[place].count += 1;
        suspicious_kernels[place].total_ns += event.dur_ns;
    }
    suspicious_kernels.sort_by(|a, b| b.total_ns.cmp(&a.total_ns).then(a.name.cmp(&b.name)));
    RankReport {
        trace: header.trace.clone(),
        rank: header.rank,
        rank_source: header.rank_source,
        world_size: header.world_size,
        source: header.source.clone(),
        accelerator,
        resolution_ns: header.clock.resolution_ns,
        windows: windows(rank, launches),
        launches: launch_stats(rank, launches),
        idle_causes: device.map(|id| idle_causes(rank, launches, id)).unwrap_or_default(),
        suspicious_kernels,
        losses: header.losses.clone(),
    }
}

fn alignment(together: &Together<'_>) -> Alignment {
    let clocks = || together.ranks.iter().map(|rank| &rank.header.clock);
    let offsets = || clocks().map(|clock| clock.offset_ns);
    let (least, most) = (offsets().min().unwrap_or(0), offsets().max().unwrap_or(0));
    Alignment {
        matched: together.matching.matched.len() as u64,
        unmatched_kernels: together.matching.unmatched,
        unaligned_ranks: together
            .ranks
            .iter()
            .skip(1)
            .filter(|rank| rank.header.clock.aligned_on == 0)
            .map(|rank| rank.header.rank)
            .collect(),
        skew_ns: most.saturating_sub(least),
        residual_ns: clocks().map(|clock| clock.residual_ns).max().unwrap_or(0),
    }
}
