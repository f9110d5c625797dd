//! The replay of a recording as a recording: the same events at the engine's times, so that
//! whatever reads recordings (timelines, breakdowns) reads replays.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::program::{Action, LaneId, OpId, Program};
use crate::replay::{HostTimes, Lumping, Sweep};
use crate::trace::align::common_ns;
use crate::trace::header::{Clock, StepWindow};
use crate::trace::launches::Launches;
use crate::trace::model::{Event, Kind, RankTrace};
use crate::trace::program::recorded_program;
use crate::trace::steps::{UNRECORDED_TRANSFER, is_operations, job};

use super::recorded::{durations_of, recorded_durations};
use super::what_if::{WhatIf, changed_kernels};

/// Names of what the engine's host does.
const HOST_WORK: &str = "host work";
const HOST_WAIT: &str = "wait for the device (Synchronize)";

/// Replays ranks that ran together, under a what-if or unchanged, and gives them back with the
/// engine's times. A collective begins when its rank is ready for it, as recorded ones do. Of the
/// host there are its launches, its work between them, and its waits.
///
/// # Errors
/// As [`super::replay_changed`].
pub fn replayed_ranks(ranks: &[RankTrace], what_if: &WhatIf) -> Result<Vec<RankTrace>> {
    if ranks.first().is_some_and(is_operations) {
        return replayed_operations(ranks, what_if);
    }
    let (recorded, durations) = if what_if.is_empty() {
        let recorded = recorded_program(ranks)?;
        let durations = recorded_durations(&recorded);
        (recorded, durations)
    } else {
        changed_kernels(ranks, what_if)?
    };
    let lumping = Lumping::none(&recorded.program, &durations);
    let sweep = Sweep::run(&recorded.program, &durations, &lumping)?;
    let origin = ranks.iter().map(|rank| common_ns(rank, 0)).min().unwrap_or(0);
    let replayed = ranks.iter().enumerate().map(|(r, rank)| {
        let mut replayed =
            replayed_rank(rank, r as u32, &recorded.events[r], &recorded.program, &sweep);
        replayed.header.clock = clock(origin);
        replayed.settle();
        replayed
    });
    Ok(replayed.collect())
}

fn clock(origin: i64) -> Clock {
    Clock { base_unix_ns: origin, resolution_ns: 1, ..Clock::default() }
}

/// When a rank's operation began, for a collective with its waiting, and when it ended.
pub(super) fn shown(program: &Program, sweep: &Sweep<'_>, rank: u32, op: OpId) -> (i64, i64) {
    let (start, end) = sweep.times(rank, op);
    let template = program.template_of_rank[rank as usize].index();
    match program.templates[template].ops[op.index()].action {
        Action::Meet { .. } => (sweep.ready(rank, op).0, end.0),
        _ => (start.0, end.0),
    }
}

/// When a rank's host began a host operation, and when it was done. A wait begins when the host
/// comes to it, right after it issued what is in front of it: in the engine it is over as soon as
/// the host goes on.
pub(super) fn host_shown(program: &Program, sweep: &Sweep<'_>, rank: u32, op: OpId) -> (i64, i64) {
    let (start, end) = sweep.times(rank, op);
    let template = program.template_of_rank[rank as usize].index();
    match (program.templates[template].ops[op.index()].action, op.0.checked_sub(1)) {
        (Action::HostWait, Some(before)) => (sweep.issued(rank, OpId(before)).0, end.0),
        (Action::HostWait, None) => (0, end.0),
        _ => (start.0, end.0),
    }
}

/// An empty rank of the same job.
fn like(rank: &RankTrace) -> RankTrace {
    let mut like = RankTrace::default();
    like.header.clone_from(&rank.header);
    like.names.clone_from(&rank.names);
    like.geometries.clone_from(&rank.geometries);
    like.ops.clone_from(&rank.ops);
    like.copies.clone_from(&rank.copies);
    like.syncs.clone_from(&rank.syncs);
    like.collectives.clone_from(&rank.collectives);
    like
}

fn replayed_rank(
    rank: &RankTrace,
    r: u32,
    events: &[(OpId, usize)],
    program: &Program,
    sweep: &Sweep<'_>,
) -> RankTrace {
    let mut replayed = like(rank);
    let launches = Launches::of(rank);
    // When each call was made: for a graph, when its first kernel was issued.
    let mut calls: BTreeMap<usize, i64> = BTreeMap::new();
    // Start of each step: when its first work was issued.
    let mut begins: BTreeMap<i64, i64> = BTreeMap::new();
    let mut last = 0;
    for (op, event) in events {
        let (start, end) = shown(program, sweep, r, *op);
        let mut moved = rank.events[*event];
        (moved.start_ns, moved.dur_ns) = (start, end - start);
        replayed.events.push(moved);
        last = last.max(end);
        let issued = sweep.issued(r, *op).0;
        let call = launches.call(*event);
        if let Some(call) = call {
            let at = calls.entry(call).or_insert(issued);
            *at = (*at).min(issued);
        }
        if let Some(step) = launches.step(rank, *event) {
            let at = if call.is_some() { issued } else { start };
            let begin = begins.entry(step.start_ns).or_insert(at);
            *begin = (*begin).min(at);
        }
    }
    let template = program.template_of_rank[r as usize].index();
    let ops = program.templates[template].ops.iter().enumerate();
    let waits = ops.clone().filter(|(_, op)| op.action == Action::HostWait);
    // A call reaches up to a wait, or, where the host waits within it, up to the end of that.
    let waits = waits.flat_map(|(i, _)| {
        let (begin, end) = host_shown(program, sweep, r, OpId(i as u32));
        [begin, end]
    });
    let mut issued: Vec<i64> = calls.values().copied().chain(waits).collect();
    issued.sort_unstable();
    for (call, at) in &calls {
        let next = issued.get(issued.partition_point(|other| other <= at));
        let mut moved = rank.events[*call];
        let room = next.map_or(moved.dur_ns, |next| next - at);
        (moved.start_ns, moved.dur_ns) = (*at, moved.dur_ns.min(room));
        replayed.events.push(moved);
    }
    let thread = calls.keys().next().map_or(0, |call| rank.events[*call].lane);
    for (i, op) in ops {
        let (kind, name) = match op.action {
            Action::HostWork(_) => (Kind::Op, HOST_WORK),
            Action::HostWait => (Kind::Runtime, HOST_WAIT),
            _ => continue,
        };
        let (start, end) = host_shown(program, sweep, r, OpId(i as u32));
        let name = replayed.names.intern(name);
        let mut event = Event::new(kind, name, start, end - start);
        event.lane = thread;
        replayed.events.push(event);
    }
    let old = std::mem::take(&mut replayed.header.windows);
    let mut windows: Vec<StepWindow> = old
        .into_iter()
        .filter_map(|window| {
            let begin = *begins.get(&window.start_ns)?;
            Some(StepWindow { start_ns: begin, ..window })
        })
        .collect();
    windows.sort_by_key(|window| window.start_ns);
    let starts: Vec<i64> = windows.iter().skip(1).map(|window| window.start_ns).collect();
    for (window, next) in windows.iter_mut().zip(starts.into_iter().chain([last])) {
        window.dur_ns = (next - window.start_ns).max(0);
    }
    replayed.header.windows = windows;
    replayed.header.reference_step_ns.clear();
    replayed
}

/// A job recorded operation by operation: each step where it was recorded, or after the one before.
fn replayed_operations(ranks: &[RankTrace], what_if: &WhatIf) -> Result<Vec<RankTrace>> {
    let job = job(ranks)?;
    let mut replayed: Vec<RankTrace> = ranks.iter().map(like).collect();
    for rank in &mut replayed {
        rank.header.clock = clock(common_ns(&ranks[0], 0));
    }
    let mut windows: Vec<Vec<StepWindow>> = vec![Vec::new(); ranks.len()];
    let mut at = i64::MIN;
    for step in &job.steps {
        let recorded = ranks.iter().flat_map(|rank| &rank.header.windows);
        let begin = recorded.filter(|w| w.name == step.name).map(|w| w.start_ns).min();
        let begin = begin.unwrap_or(0).max(at);
        let program = job.program(
            step,
            &|rank, index| {
                let operation = &step.ranks[rank][index];
                let number = Some(job.places[rank].0);
                let by = what_if.factor(number, &operation.name, operation.meets);
                (operation.alone_ns as f64 * by).round() as i64
            },
            true,
        )?;
        let durations = durations_of(&program, HostTimes::default());
        let lumping = Lumping::none(&program, &durations);
        let sweep = Sweep::run(&program, &durations, &lumping)?;
        let length = sweep.step().0;
        for (r, rank) in replayed.iter_mut().enumerate() {
            let name = step.name.clone();
            windows[r].push(StepWindow { name, start_ns: begin, dur_ns: length });
            let mut operations = step.ranks[r].iter();
            for (i, op) in program.templates[r].ops.iter().enumerate() {
                let implicit = match op.action {
                    Action::Meet { call, .. } => {
                        program.calls[call.index()].name == UNRECORDED_TRANSFER
                    }
                    _ => false,
                };
                if op.lane == LaneId(0) || implicit {
                    continue;
                }
                // The program has the operations of the rank in their order, and others in between.
                let Some(operation) = operations.next() else { break };
                let (start, end) = shown(&program, &sweep, r as u32, OpId(i as u32));
                let name = rank.names.intern(&operation.name);
                let mut event = Event::new(Kind::Kernel, name, begin + start, end - start);
                event.lane = i64::from(op.lane.0);
                event.device = 0;
                rank.events.push(event);
            }
        }
        at = begin + length + 1;
    }
    for (rank, windows) in replayed.iter_mut().zip(windows) {
        rank.header.windows = windows;
        rank.settle();
    }
    Ok(replayed)
}
