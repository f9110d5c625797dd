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
//! * Transfers of several families share links between switches in the same way, whichever ranks
//!   they are of: a link carries as much of a family's load as there are members of it that transfer
//!   ([`Activity`]).
//!
//! An operation of nominal duration `d` that spends the share `f` of its time beside others at the
//! rate `r` takes `d / (1 - f (1 - r))`.

mod activity;

use self::activity::Activity;
use crate::error::Result;
use crate::program::{Action, LaneKind, OpId, Program};
use crate::units::Nanos;

use super::sweep::{Sweep, TemplateTimes};
use super::{Durations, Lumping};

/// What the operations of a program ask of their device, as fractions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demands {
    /// By kernel: whether memory bounds it, not arithmetic.
    pub memory_bound: Vec<bool>,
    /// By family, call and class of the group, as [`Durations::meetings`].
    pub meetings: Vec<Vec<Vec<Demand>>>,
    /// What transfers share between switches, by family and class of the group; empty where every
    /// family has its links to itself.
    pub shared: Vec<Vec<SharedLink>>,
    /// `c`: how much longer a transfer takes while a kernel runs beside it.
    pub transfer_slowdown: f64,
}

impl Demands {
    /// Takes a family's calls for nothing.
    pub fn silence(&mut self, family: usize) {
        self.meetings[family].iter_mut().flatten().for_each(|d| *d = Demand::default());
        for (f, classes) in self.shared.iter_mut().enumerate() {
            for link in classes {
                link.others.retain(|(other, _)| *other as usize != family);
                if f == family {
                    *link = SharedLink::default();
                }
            }
        }
    }

    fn shared(&self, family: usize, class: u16) -> Option<&SharedLink> {
        self.shared.get(family)?.get(usize::from(class)).filter(|link| !link.others.is_empty())
    }
}

/// The link of a group that is wanted most: what its own family asks of it while all of its groups
/// transfer, and what others do, as parts of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SharedLink {
    /// Its own family.
    pub own: f64,
    /// Other families.
    pub others: Vec<(u32, f64)>,
}

impl SharedLink {
    /// By how much a transfer takes longer beside others, of which those of a family are there for
    /// so much of the time: the larger of what is exact for families that come one by one, and of
    /// what is exact for families that are there all the time. In between both are too little.
    fn excess(&self, there: impl Fn(u32) -> f64) -> f64 {
        let (mut one_by_one, mut together) = (0.0, self.own - 1.0);
        for (family, load) in &self.others {
            let there = there(*family);
            one_by_one += there * (self.own + load - 1.0).max(0.0);
            together += there * load;
        }
        one_by_one.max(together).max(0.0)
    }
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
    /// The part of it that transfers take from each other, over all ranks.
    contended: i64,
}

/// How a fixed point was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Iterations {
    /// Times the step was replayed.
    pub replays: u32,
    /// Change of the step in the last of them.
    pub residual: Nanos,
    /// What transfers took longer because of others on cards and links, over all ranks.
    pub contended: Nanos,
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
    let mut extra = Extra::default();
    while replays < MOST_REPLAYS && !settled {
        extra = corrections(&sweep, demands, extra);
        if extra.by_template.iter().flatten().all(|e| *e == 0) {
            settled = true;
            break;
        }
        // The old times are let go before the new ones are there: they are most of the memory.
        let before = sweep.step();
        drop(sweep);
        sweep = Sweep::run_with(program, durations, lumping, Some(&extra))?;
        replays += 1;
        residual = Nanos((sweep.step().0 - before.0).abs());
        settled = replays > 2 && residual.0 as f64 <= SETTLED * before.0 as f64;
    }
    let contended = Nanos(extra.contended);
    Ok((sweep, Iterations { replays, residual, contended, settled }))
}

/// What every operation takes beyond its nominal duration, from the overlaps of a replay. After the
/// first replay half way to the new value: overlaps that flip back and forth settle in between.
fn corrections(sweep: &Sweep<'_>, demands: &Demands, previous: Extra) -> Extra {
    let activity = Activity::of(sweep, demands);
    let first = previous.by_template.is_empty();
    let mut before = previous.by_template.into_iter();
    let mut contended = 0;
    let mut by_template = Vec::with_capacity(sweep.templates.len());
    for t in 0..sweep.templates.len() {
        let times = &sweep.templates[t];
        let lanes = times.lanes;
        let mut extra = vec![0; sweep.program.templates[t].ops.len() * lanes];
        for first in (0..lanes).step_by(LaneTimes::SIDE_BY_SIDE) {
            let mut block = LaneTimes::read(times, first);
            for (lane, times) in (first..).zip(&mut block) {
                let number = sweep.lumping.first_lane[t] as usize + lane;
                let weight = sweep.lumping.weight[number] as i64;
                contended += weight * lane_corrections(sweep, demands, &activity, t, lane, times);
            }
            for (op, extra) in extra.chunks_exact_mut(lanes).enumerate() {
                for (extra, times) in extra[first..].iter_mut().zip(&block) {
                    *extra = times.extra[op];
                }
            }
        }
        if let Some(before) = before.next() {
            for (new, old) in extra.iter_mut().zip(before) {
                *new = (*new + old) / 2;
            }
        }
        by_template.push(extra);
    }
    let contended = if first { contended } else { (contended + previous.contended) / 2 };
    Extra { by_template, contended }
}

/// Times of one lane by operation, and what is found to come on top.
#[derive(Clone, Default)]
struct LaneTimes {
    issued: Vec<i64>,
    start: Vec<i64>,
    end: Vec<i64>,
    extra: Vec<i64>,
}

impl LaneTimes {
    /// Lanes read at a time: their times of an operation are one line of the cache.
    const SIDE_BY_SIDE: usize = 8;

    /// The lanes from `first` on.
    fn read(times: &TemplateTimes, first: usize) -> Vec<Self> {
        let width = Self::SIDE_BY_SIDE.min(times.lanes - first);
        let mut lanes = vec![Self::default(); width];
        let ops = times.start.len() / times.lanes;
        for lane in &mut lanes {
            lane.issued.reserve_exact(ops);
            lane.start.reserve_exact(ops);
            lane.end.reserve_exact(ops);
            lane.extra = vec![0; ops];
        }
        for from in (first..).step_by(times.lanes).take(ops) {
            for (at, lane) in (from..).zip(&mut lanes) {
                lane.issued.push(times.issued[at]);
                lane.start.push(times.start[at]);
                lane.end.push(times.end[at]);
            }
        }
        lanes
    }
}

/// Class of the group that a lane is in, by family.
fn class_of(sweep: &Sweep<'_>, t: usize, lane: usize, family: usize) -> Option<u16> {
    let number = sweep.lumping.first_lane[t] + lane as u32;
    sweep.lumping.class_of_lane(family, number)
}

/// Writes what a lane's operations take beyond their durations; returns the part of it that its
/// transfers take longer because of others.
fn lane_corrections(
    sweep: &Sweep<'_>,
    demands: &Demands,
    activity: &Activity,
    t: usize,
    lane: usize,
    times: &mut LaneTimes,
) -> i64 {
    let template = &sweep.program.templates[t];
    let LaneTimes { issued, start, end, extra } = times;
    let before_on_lane = &sweep.templates[t].before;
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
                let (from, to) = (start[i], end[i]);
                // When this rank was ready: from then on its kernel spins.
                let mut ready = issued[i] + launch;
                let before = before_on_lane[i];
                if before != u32::MAX {
                    ready = ready.max(end[before as usize]);
                }
                for dep in template.deps(OpId(i as u32)) {
                    ready = ready.max(end[dep.index()]);
                }
                if ready < from && demand.spins {
                    let spin = Demand { units: demand.units, ..Demand::default() };
                    uses.push(Use { from: ready, to: from, demand: spin, op: i });
                }
                if to > from {
                    uses.push(Use { from, to, demand, op: i });
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
        let (from, to) = (start[*i], end[*i]);
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
            extra[*i] = (nominal / rate - nominal).round() as i64;
        }
    }

    // Transfers beside kernels, and beside each other on cards and links.
    let mut contended = 0;
    let mut next_kernel = 0;
    for (n, u) in uses.iter().enumerate() {
        let Action::Meet { family, call } = template.ops[u.op].action else { continue };
        if u.from != start[u.op] || u.to != end[u.op] {
            continue; // Spinning.
        }
        while next_kernel < kernels.len() && end[kernels[next_kernel]] <= u.from {
            next_kernel += 1;
        }
        let mut beside = 0;
        for i in kernels[next_kernel..].iter().take_while(|i| start[**i] < u.to) {
            beside += (end[*i].min(u.to) - start[*i].max(u.from)).max(0);
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
        // Whoever waits for a card is not on the links behind it.
        let links = demands
            .shared(family.index(), class)
            .map_or(0.0, |link| link.excess(|other| activity.share(other, u.from, u.to)));
        let others = (crowded / length).max(links);
        contended += (nominal * others).round() as i64;
        let factor = 1.0 + demands.transfer_slowdown * beside as f64 / length + others;
        // As for kernels: `beside / length` is the share of its time that it is slow.
        extra[u.op] = (nominal * (factor - 1.0)).round() as i64;
    }
    contended
}

#[cfg(test)]
mod tests {
    use super::SharedLink;

    #[test]
    fn links_are_shared_in_proportion() {
        let link = |own, others: &[(u32, f64)]| SharedLink { own, others: others.to_vec() };
        // Two that fill a link by themselves get half each while both are there.
        let two = link(1.0, &[(1, 1.0)]);
        assert_eq!(
            (two.excess(|_| 1.0), two.excess(|_| 0.5), two.excess(|_| 0.0)),
            (1.0, 0.5, 0.0)
        );
        // Where there is room for both, nobody waits.
        assert_eq!(link(0.4, &[(1, 0.5)]).excess(|_| 1.0), 0.0);
        // Many that are there all the time and fill it only together.
        let many: Vec<(u32, f64)> = (1..=6).map(|f| (f, 0.25)).collect();
        assert_eq!(link(0.5, &many).excess(|_| 1.0), 1.0);
        // One that fills it for half of the time is not averaged away.
        assert_eq!(link(0.5, &[(1, 1.0)]).excess(|_| 0.5), 0.25);
    }
}
