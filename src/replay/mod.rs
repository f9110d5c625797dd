//! Replay: from a program and durations to the time of a step.
//!
//! Engines know nothing of models, plans, traces or files: they take a [`Program`], the
//! [`Durations`] of its kernels and meetings in whole nanoseconds, and a [`Lumping`] that says
//! which ranks share a lane. All engines have one semantics (see [`crate::program`]) and give the
//! same bits, lumped or not.

mod breakdown;
mod coupling;
mod critical;
mod lumping;
mod sweep;

pub use breakdown::{Breakdown, Category};
pub use coupling::{Demand, Demands, Extra, Iterations, SharedLink, settle};
pub use critical::{CriticalPath, Meeting, Spent};
pub use lumping::{LaneGroup, Lumping};
pub use sweep::Sweep;

use crate::error::{Error, Result};
use crate::program::{FamilyId, KernelId, Program};
use crate::units::Nanos;

/// Durations of everything in a program, in whole nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// By kernel.
    pub kernels: Vec<Nanos>,
    /// By family, call and class of the group ([`Self::group_class`]); empty where a family makes
    /// no such call.
    pub meetings: Vec<Vec<Vec<Nanos>>>,
    /// By family and group: groups of one class are placed alike, so their calls take equally
    /// long.
    pub group_class: Vec<Vec<u16>>,
    /// Host time to issue each kernel; empty where it is [`HostTimes::per_operation`] for all.
    pub issue: Vec<Nanos>,
    /// What the host spends.
    pub host: HostTimes,
}

impl Durations {
    /// An upper bound of what any one operation adds to a path, recorded host work aside.
    #[must_use]
    pub fn longest(&self) -> Nanos {
        let host = &self.host;
        let issuing = self.issue.iter().copied().max().unwrap_or_default().max(host.per_operation);
        let of_host = issuing.max(host.per_micro_batch).max(host.per_step);
        let of_device = self.kernels.iter().chain(self.meetings.iter().flatten().flatten()).max();
        let device = of_device.copied().unwrap_or_default().0;
        let between = host.launch_latency.max(host.dispatch_gap).0;
        Nanos(of_host.0.saturating_add(device).saturating_add(between))
    }

    /// Host time to issue a kernel.
    #[must_use]
    pub fn issuing(&self, kernel: KernelId) -> Nanos {
        self.issue.get(kernel.index()).copied().unwrap_or(self.host.per_operation)
    }

    /// Class of a group.
    #[must_use]
    pub fn class_of(&self, family: FamilyId, group: usize) -> u16 {
        self.group_class[family.index()][group]
    }
}

/// What the host spends, in whole nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostTimes {
    /// Per operation it issues.
    pub per_operation: Nanos,
    /// Per micro-batch and direction.
    pub per_micro_batch: Nanos,
    /// Per step.
    pub per_step: Nanos,
    /// From the call to the start on an idle device.
    pub launch_latency: Nanos,
    /// Operations it may be ahead of the device; 0 for no limit.
    pub queue_depth: u32,
    /// From the end of an operation to the start of one that waited for it on the device. Models
    /// of kernel time include it; recorded kernels do not.
    pub dispatch_gap: Nanos,
}

/// What a replay found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Time of the step: the last operation of the last rank.
    pub step: Nanos,
    /// Where the time went, summed over all ranks; every rank's part adds up to `step`.
    pub total: Breakdown,
    /// Where the time went by template, summed over its ranks.
    pub by_template: Vec<(u64, Breakdown)>,
    /// Lanes that were evaluated (ranks, or classes of equal ranks).
    pub lanes: usize,
    /// Time during which the compute lane of a rank is busy, summed over ranks.
    pub busy: Nanos,
    /// Time during which a rank communicates or waits in a collective while its compute lane is
    /// idle, summed over ranks.
    pub waiting: Nanos,
    /// What the step's longest path consists of.
    pub critical: CriticalPath,
}

/// Replays one step with the sweep engine.
///
/// # Errors
/// The program cannot finish (a defect of whatever built it); the message names the operations
/// that wait for each other. Or its times do not fit into 64 bits of nanoseconds.
pub fn sweep(program: &Program, durations: &Durations, lumping: &Lumping) -> Result<Outcome> {
    countable(program, durations)?;
    let sweep = Sweep::run(program, durations, lumping)?;
    finished(&sweep, program)
}

/// Replays one step with operations that slow each other down where they overlap; see [`settle`].
///
/// # Errors
/// As for [`sweep`].
pub fn sweep_coupled(
    program: &Program,
    durations: &Durations,
    lumping: &Lumping,
    demands: &Demands,
) -> Result<(Outcome, Iterations)> {
    countable(program, durations)?;
    let (sweep, iterations) = settle(program, durations, lumping, demands)?;
    Ok((finished(&sweep, program)?, iterations))
}

/// Replays one step and keeps the times of every operation; with `demands`, operations that overlap
/// slow each other down.
///
/// # Errors
/// As for [`sweep`].
pub fn replay<'a>(
    program: &'a Program,
    durations: &'a Durations,
    lumping: &'a Lumping,
    demands: Option<&Demands>,
) -> Result<(Sweep<'a>, Option<Iterations>)> {
    countable(program, durations)?;
    let (sweep, iterations) = match demands {
        None => (Sweep::run(program, durations, lumping)?, None),
        Some(demands) => {
            let (sweep, iterations) = settle(program, durations, lumping, demands)?;
            (sweep, Some(iterations))
        }
    };
    sweep.step().0.checked_mul(program.world_size() as i64).ok_or_else(too_long)?;
    Ok((sweep, iterations))
}

fn too_long() -> Error {
    Error::Unsupported("the step takes longer than can be counted".into())
}

/// Whether no path can exceed 64 bits of nanoseconds.
fn countable(program: &Program, durations: &Durations) -> Result<()> {
    // No path is longer than all operations one after another, each as long as the longest.
    let operations: usize = program.templates.iter().map(|template| template.ops.len()).sum();
    let longest = i128::from(durations.longest().0);
    if longest * operations as i128 > i128::from(i64::MAX) / 2 {
        return Err(too_long());
    }
    Ok(())
}

fn finished(sweep: &Sweep<'_>, program: &Program) -> Result<Outcome> {
    sweep.step().0.checked_mul(program.world_size() as i64).ok_or_else(too_long)?;
    Ok(sweep.outcome())
}
