//! What operations that run at the same time take from each other.
//!
//! Maximum and plus alone cannot say that a kernel is slower while a collective runs beside it.
//! So the step is replayed with durations of its own for every operation of every lane, and those
//! are corrected from the overlaps found until the step no longer changes:
//!
//! * A kernel that is bound by arithmetic runs at `1 - u` of its rate while collectives hold the
//!   share `u` of the compute units, whether they transfer or spin until their peers arrive; one
//!   that is bound by memory at `1 - m` while transfers take the share `m` of the memory's
//!   bandwidth.
//! * A transfer runs at `1 / (1 + c)` of its rate while a kernel runs beside it.
//! * Transfers that leave a node at the same time share its cards: where together they ask for
//!   more than the cards have, each gets the same fraction of what it asks for.
//!
//! An operation of nominal duration `d` that spends the share `f` of its time beside others at the
//! rate `r` takes `d / (1 - f (1 - r))`.

use crate::error::Result;
use crate::program::{Action, LaneKind, OpId, Program};
use crate::units::Nanos;

use super::sweep::Sweep;
use super::{Durations, Lumping};

/// What the operations of a program ask of their device, as fractions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demands {
    /// By kernel: whether memory bounds it, not arithmetic.
    pub memory_bound: Vec<bool>,
    /// By family, call and class of the group, as [`Durations::meetings`].
    pub meetings: Vec<Vec<Vec<Demand>>>,
    /// `c`: how much longer a transfer takes while a kernel runs beside it.
    pub transfer_slowdown: f64,
}

/// What a transfer takes of its device while it lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// Share of the compute units.
    pub units: f64,
    /// Share of the memory's bandwidth.
    pub memory: f64,
    /// Share of the network cards' rate.
    pub cards: f64,
    /// It holds its units from the moment at which this rank is ready, not only while it transfers.
    pub spins: bool,
}

/// Nanoseconds that operations take beyond their nominal duration: by template, by operation and
/// then by lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    pub(super) by_template: Vec<Vec<i64>>,
}

/// How a fixed point was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Iterations {
    /// Times the step was replayed.
    pub replays: u32,
    /// Change of the step in the last of them.
    pub residual: Nanos,
    /// The step no longer changes by more than a fixed point may.
    pub settled: bool,
}

/// Replays at most.
const MOST_REPLAYS: u32 = 12;
/// Relative change of the step below which the fixed point counts as found.
const SETTLED: f64 = 2e-4;
/// Kernels are never slowed below this rate: a collective library leaves most units to others.
const LEAST_RATE: f64 = 0.4;

/// An interval in which a lane's device is used beside its compute lane.
#[derive(Clone, Copy)]
struct Use {
    from: i64,
    to: i64,
    demand: Demand,
    /// Operation, to tell an interval from itself.
    op: usize,
}

/// Replays a program until the durations agree with the overlaps they lead to.
///
/// # Errors
/// As for [`Sweep::run`].
pub fn settle<'a>(
    program: &'a Program,
    durations: &'a Durations,
    lumping: &'a Lumping,
    demands: &Demands,
) -> Result<(Sweep<'a>, Iterations)> {
    let mut sweep = Sweep::run(program, durations, lumping)?;
    let mut replays = 1;
    let mut residual = Nanos::ZERO;
    let mut settled = false;
    let mut previous: Option<Extra> = None;
    while replays < MOST_REPLAYS && !settled {
        let mut extra = corrections(&sweep, demands);
        if extra.by_template.iter().flatten().all(|e| *e == 0) {
            settled = true;
            break;
        }
        if let Some(before) = &previous {
            // Half way to the new value: overlaps that flip back and forth settle in between.
            for (new, old) in extra.by_template.iter_mut().zip(&before.by_template) {
                for (new, old) in new.iter_mut().zip(old) {
                    *new = (*new + *old) / 2;
                }
            }
        }
        // The old times are let go before the new ones are there: they are most of the memory.
        let before = sweep.step();
        drop(sweep);
        sweep = Sweep::run_with(program, durations, lumping, Some(&extra))?;
        replays += 1;
        residual = Nanos((sweep.step().0 - before.0).abs());
        settled = replays > 2 && residual.0 as f64 <= SETTLED * before.0 as f64;
        previous = Some(extra);
    }
    Ok((sweep, Iterations { replays, residual, settled }))
}

/// What every operation takes beyond its nominal duration, from the overlaps of a replay.
fn corrections(sweep: &Sweep<'_>, demands: &Demands) -> Extra {
    let by_template = (0..sweep.templates.len())
        .map(|t| {
            let lanes = sweep.templates[t].lanes;
            let mut extra = vec![0; sweep.program.templates[t].ops.len() * lanes];
            for lane in 0..lanes {
                lane_corrections(sweep, demands, t, lane, &mut extra);
            }
            extra
        })
        .collect();
    Extra { by_template }
}

/// Class of the group that a lane is in, by family.
fn class_of(sweep: &Sweep<'_>, t: usize, lane: usize, family: usize) -> Option<u16> {
    let number = sweep.lumping.first_lane[t] + lane as u32;
    sweep.lumping.class_of_lane(family, number)
}

fn lane_corrections(
    sweep: &Sweep<'_>,
    demands: &Demands,
    t: usize,
    lane: usize,
    extra: &mut [i64],
) {
    let template = &sweep.program.templates[t];
    let times = &sweep.templates[t];
    let at = |op: usize| op * times.lanes + lane;
    let launch = sweep.durations.host.launch_latency.0;
    let mut uses: Vec<Use> = Vec::new();
    let mut kernels: Vec<usize> = Vec::new();
    for (i, op) in template.ops.iter().enumerate() {
        match op.action {
            Action::Kernel(_) if template.lanes[op.lane.index()].1 == LaneKind::Compute => {
                kernels.push(i);
            }
            Action::Meet { family, call } => {
                let demand = class_of(sweep, t, lane, family.index())
                    .and_then(|class| {
                        demands.meetings[family.index()][call.index()].get(usize::from(class))
                    })
                    .copied()
                    .unwrap_or_default();
                let (start, end) = (times.start[at(i)], times.end[at(i)]);
                // When this rank was ready: from then on its kernel spins.
                let mut ready = times.issued[at(i)] + launch;
                let before = times.before[i];
                if before != u32::MAX {
                    ready = ready.max(times.end[at(before as usize)]);
                }
                for dep in template.deps(OpId(i as u32)) {
                    ready = ready.max(times.end[at(dep.index())]);
                }
                if ready < start && demand.spins {
                    let spin = Demand { units: demand.units, ..Demand::default() };
                    uses.push(Use { from: ready, to: start, demand: spin, op: i });
                }
                if end > start {
                    uses.push(Use { from: start, to: end, demand, op: i });
                }
            }
            _ => {}
        }
    }
    uses.sort_by_key(|u| (u.from, u.op));

    // Kernels beside transfers.
    let mut first = 0;
    for i in &kernels {
        let Action::Kernel(kernel) = template.ops[*i].action else { continue };
        let (from, to) = (times.start[at(*i)], times.end[at(*i)]);
        while first < uses.len() && uses[first].to <= from {
            first += 1;
        }
        let memory_bound = demands.memory_bound.get(kernel.index()).copied().unwrap_or(false);
        // Shares of uses that overlap add up; the sum over uses of share times overlap is the time
        // lost at full sharing.
        let mut taken = 0.0;
        for u in uses[first..].iter().take_while(|u| u.from < to) {
            let overlap = (u.to.min(to) - u.from.max(from)).max(0) as f64;
            taken += overlap * if memory_bound { u.demand.memory } else { u.demand.units };
        }
        let length = (to - from) as f64;
        if taken > 0.0 && length > 0.0 {
            let nominal = sweep.durations.kernels[kernel.index()].0 as f64;
            let rate = (1.0 - taken / length).max(LEAST_RATE);
            extra[at(*i)] = (nominal / rate - nominal).round() as i64;
        }
    }

    // Transfers beside kernels, and beside each other on the cards.
    let mut next_kernel = 0;
    for (n, u) in uses.iter().enumerate() {
        let Action::Meet { family, call } = template.ops[u.op].action else { continue };
        if u.from != times.start[at(u.op)] || u.to != times.end[at(u.op)] {
            continue; // Spinning.
        }
        while next_kernel < kernels.len() && times.end[at(kernels[next_kernel])] <= u.from {
            next_kernel += 1;
        }
        let mut beside = 0;
        for i in kernels[next_kernel..].iter().take_while(|i| times.start[at(**i)] < u.to) {
            beside += (times.end[at(*i)].min(u.to) - times.start[at(*i)].max(u.from)).max(0);
        }
        let mut crowded = 0.0;
        if u.demand.cards > 0.0 {
            let near = uses[..n].iter().rev().take(16).chain(uses[n + 1..].iter().take(16));
            for other in near.filter(|o| o.demand.cards > 0.0) {
                let overlap = (other.to.min(u.to) - other.from.max(u.from)).max(0) as f64;
                // Asked for beyond what there is, while both are there.
                let asked = u.demand.cards + other.demand.cards;
                crowded += overlap * (asked - 1.0).max(0.0);
            }
        }
        let length = (u.to - u.from) as f64;
        let class = class_of(sweep, t, lane, family.index()).unwrap_or(0);
        let nominal = sweep.durations.meetings[family.index()][call.index()]
            .get(usize::from(class))
            .map_or(0, |d| d.0) as f64;
        let factor = 1.0 + (demands.transfer_slowdown * beside as f64 + crowded) / length;
        // As for kernels: `beside / length` is the share of its time that it is slow.
        extra[at(u.op)] = (nominal * (factor - 1.0)).round() as i64;
    }
}
