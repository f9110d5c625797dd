//! Recordings of kernels, unchanged and under a what-if.

use crate::error::{Error, Result};
use crate::hardware::Accelerator;
use crate::outcome::recorded::{RankReplay, RecordedReplay, recorded_durations};
use crate::outcome::steps::StepReplay;
use crate::program::{Action, OpId};
use crate::replay::{Durations, Lumping, Sweep};
use crate::trace::collectives::CommOp;
use crate::trace::launches::Launches;
use crate::trace::model::RankTrace;
use crate::trace::program::{Edits, Moved, RecordedProgram, edited_program, recorded_program};
use crate::units::Nanos;

use super::accelerator::{Retiming, recorded_accelerator};
use super::edits::{Model, attribution, fuse, relieve, relieve_hosts, removed, straggling};
use super::network::Split;
use super::replicas::widen;
use super::{Components, Does, Network, Pipeline, Straggler, WhatIf, WhatIfReport};

/// A changed recording: its program, and how long everything takes.
struct Changed {
    recorded: RecordedProgram,
    durations: Durations,
    assumed: Vec<String>,
    report: WhatIfReport,
}

/// Replays ranks that ran together.
///
/// # Errors
/// There is no device work, the program cannot finish, or the what-if makes no sense here.
pub fn replay(ranks: &[RankTrace], what_if: &WhatIf) -> Result<RecordedReplay> {
    check(ranks, what_if)?;
    let recorded = recorded_program(ranks)?;
    let durations = recorded_durations(&recorded);
    let lumping = Lumping::none(&recorded.program, &durations);
    let sweep = Sweep::run(&recorded.program, &durations, &lumping)?;
    let changed = if what_if.is_empty() { None } else { Some(change(ranks, &recorded, what_if)?) };
    let lumpings = changed.as_ref().map(|c| Lumping::none(&c.recorded.program, &c.durations));
    let other = match (&changed, &lumpings) {
        (Some(c), Some(lumping)) => Some(Sweep::run(&c.recorded.program, &c.durations, lumping)?),
        _ => None,
    };
    let mut replays = Vec::new();
    // By step: the longest span of a rank, recorded, replayed and changed.
    let mut steps: Vec<(String, [i64; 3])> = Vec::new();
    for (r, rank) in ranks.iter().enumerate() {
        let spans = |chosen: &dyn Fn(usize) -> bool| {
            let events = || recorded.events[r].iter().filter(|(_, event)| chosen(*event));
            let as_recorded = events()
                .map(|(_, event)| (rank.events[*event].start_ns, rank.events[*event].end_ns()));
            let of = |sweep: &Sweep<'_>, rank: usize, op: OpId| {
                let (start, end) = sweep.times(rank as u32, op);
                (start.0, end.0)
            };
            let predicted = match (&changed, &other) {
                (Some(changed), Some(sweep)) => {
                    // Ranks beyond the recorded ones are copies of these.
                    let world = changed.recorded.program.world_size();
                    let events = &changed.recorded.events[r];
                    (r..world)
                        .step_by(ranks.len())
                        .map(|copy| {
                            let events = events.iter().filter(|(_, event)| chosen(*event));
                            span(events.map(|(op, _)| of(sweep, copy, *op)))
                        })
                        .max()
                        .unwrap_or(0)
                }
                _ => 0,
            };
            [span(as_recorded), span(events().map(|(op, _)| of(&sweep, r, *op))), predicted]
        };
        let all = spans(&|_| true);
        replays.push(RankReplay {
            rank: rank.header.rank,
            recorded_ns: all[0],
            replayed_ns: all[1],
            unexplained_ns: all[0] - all[1],
            predicted_ns: changed.is_some().then_some(all[2]),
        });
        let launches = Launches::of(rank);
        for window in &rank.header.windows {
            let launched = |event: usize| {
                launches.step(rank, event).is_some_and(|step| step.start_ns == window.start_ns)
            };
            if !recorded.events[r].iter().any(|(_, event)| launched(*event)) {
                continue;
            }
            let found = spans(&launched);
            match steps.iter_mut().find(|(name, _)| *name == window.name) {
                Some((_, known)) => {
                    for (known, found) in known.iter_mut().zip(found) {
                        *known = (*known).max(found);
                    }
                }
                None => steps.push((window.name.clone(), found)),
            }
        }
    }
    let steps = steps.into_iter().map(|(step, [measured_ns, replayed_ns, predicted])| StepReplay {
        step,
        measured_ns,
        replayed_ns,
        unexplained_ns: measured_ns - replayed_ns,
        predicted_ns: changed.is_some().then_some(predicted),
    });
    let steps: Vec<StepReplay> = steps.collect();
    let mut before = Components::default();
    before.add(&recorded.program, &sweep, false, &|kernel| does(&recorded, kernel));
    let notes = recorded.notes;
    let what_if = match (&changed, &other) {
        (Some(changed), Some(sweep)) => {
            let mut after = Components::default();
            let now = &changed.recorded;
            after.add(&now.program, sweep, false, &|kernel| does(now, kernel));
            Some(WhatIfReport {
                changes: what_if.words(),
                components: Components::table(before, after),
                assumed: changed.assumed.clone(),
                ..changed.report.clone()
            })
        }
        _ => None,
    };
    Ok(RecordedReplay {
        ranks: replays,
        notes,
        steps,
        stragglers: None,
        second_half: None,
        what_if,
    })
}

/// What a kernel of a recorded program does.
fn does(recorded: &RecordedProgram, kernel: usize) -> Does {
    let origin = &recorded.origins[kernel];
    match origin {
        _ if origin.moved.is_some() => Does::Communicate,
        _ if origin.copies => Does::Copy,
        _ => Does::Compute,
    }
}

/// Whether a what-if makes sense for kernels.
fn check(ranks: &[RankTrace], what_if: &WhatIf) -> Result<()> {
    if what_if.pipeline != Pipeline::default() {
        return Err(Error::Unsupported(
            "another pipeline schedule needs forward and backward times per micro-batch, which \
             recordings of kernels do not have; import Megatron operations or Primus logs"
                .into(),
        ));
    }
    let other = |who: &&Straggler| !matches!(who, Straggler::Rank(_));
    if let Some(who) = what_if.without.iter().find(other) {
        return Err(Error::Unsupported(format!(
            "a recording of kernels says nothing of {who}; name ranks instead (rank=N)"
        )));
    }
    if what_if.node.is_some() && what_if.data_parallel.is_none() {
        return Err(Error::Unsupported(
            "nodes and a fabric are asked for by another data-parallel size only".into(),
        ));
    }
    if !what_if.without.is_empty() && ranks.len() < 2 {
        return Err(Error::Unsupported(
            "a single rank has no others that say what its work should take".into(),
        ));
    }
    let device = |rank: &'_ RankTrace| {
        let mut used = vec![false; rank.names.len()];
        for event in rank.events.iter().filter(|event| event.kind.is_device()) {
            used[event.name.index()] = true;
        }
        used
    };
    let used: Vec<Vec<bool>> = ranks.iter().map(device).collect();
    let mut names: Vec<&str> = Vec::new();
    for (rank, used) in ranks.iter().zip(&used) {
        let all = rank.names.iter().zip(used);
        names.extend(all.filter(|(_, used)| **used).map(|(name, _)| name));
    }
    // Collectives are also known by their operation.
    let operations = [
        CommOp::AllReduce,
        CommOp::AllGather,
        CommOp::ReduceScatter,
        CommOp::AllToAll,
        CommOp::Broadcast,
        CommOp::SendRecv,
    ];
    for operation in operations {
        names.push(operation.name());
    }
    let numbers: Vec<u32> = ranks.iter().map(|rank| rank.header.rank).collect();
    what_if.check(&names, &numbers)?;
    let relieved = |rank: &u32| what_if.without.contains(&Straggler::Rank(*rank));
    if !what_if.without.is_empty() && numbers.iter().all(relieved) {
        return Err(Error::Unsupported(
            "all recorded ranks are stragglers, and none is left that says what their work should \
             take; leave one out (what each of them costs is told for any of them)"
                .into(),
        ));
    }
    Ok(())
}

/// The changed program of a recording and its durations, checked.
pub fn changed(ranks: &[RankTrace], what_if: &WhatIf) -> Result<(RecordedProgram, Durations)> {
    check(ranks, what_if)?;
    let changed = change(ranks, &recorded_program(ranks)?, what_if)?;
    Ok((changed.recorded, changed.durations))
}

/// The changed program and its durations.
fn change(ranks: &[RankTrace], recorded: &RecordedProgram, what_if: &WhatIf) -> Result<Changed> {
    let mut assumed = Vec::new();
    let mut report = WhatIfReport::default();
    let mut edits = removed(ranks, &what_if.remove);
    fuse(ranks, what_if, &mut edits, &mut assumed)?;
    let relieved = straggling(ranks, &what_if.without)?;
    if !relieved.is_empty() {
        relieve(ranks, &relieved, Model::Others, &mut edits);
        assumed.push(
            "a straggler's kernels take the median of the same kernels of the ranks that are no \
             stragglers where that is shorter, its host as long between launches as theirs at the \
             median"
                .into(),
        );
        let (stragglers, together) = attribution(ranks, &what_if.without)?;
        (report.stragglers, report.together) = (stragglers, Some(together));
    }
    let plain = edits == Edits::default();
    let mut now = if plain { recorded.clone() } else { edited_program(ranks, &edits)? };
    relieve_hosts(&mut now.program, &relieved, Model::Others);
    let mut durations = recorded_durations(&now);
    let split = Split::of(communication(&now, &durations));
    for (kernel, time) in durations.kernels.iter_mut().enumerate() {
        let origin = &now.origins[kernel];
        let name = &now.program.kernels[kernel].name;
        if let Some(moved) = &origin.moved {
            time.0 = split.time(moved, time.0, false, &what_if.network);
        }
        let rank = Some(ranks[origin.rank].header.rank);
        let communicates = origin.moved.is_some();
        let own = name.as_str();
        let by_op = origin.moved.as_ref().map_or("", |moved| moved.op.name());
        scale(time, factor(what_if, rank, [own, by_op], communicates));
    }
    for table in &mut durations.meetings {
        for (call, times) in table.iter_mut().enumerate() {
            for time in times {
                time.0 = split.time(&now.moved[call], time.0, true, &what_if.network);
                let name = &now.program.calls[call].name;
                scale(time, factor(what_if, None, [name, name], true));
            }
        }
    }
    if let Some(to) = &what_if.accelerator {
        let catalogue = what_if
            .catalogue
            .as_deref()
            .ok_or_else(|| Error::Internal("a what-if names an accelerator only".into()))?;
        let to = catalogue.accelerator(to)?;
        let from = recorded_accelerator(ranks, what_if.recorded_on.as_deref(), catalogue)?;
        report.coverage = Some(retime(&now, &mut durations, from, to));
        assumed.push(format!(
            "recorded on {}; the same kernels on {}: recorded times the kernel model's ratio, host \
             and network as recorded",
            from.title, to.title
        ));
    }
    if what_if.network != Network::default() {
        if communication(&now, &durations).next().is_none() {
            return Err(Error::Unsupported("nothing in the recording communicates".into()));
        }
        if what_if.network.latency != 1.0
            && !communication(&now, &durations).any(|(moved, _)| moved.bytes.is_some())
        {
            return Err(Error::Unsupported(
                "the recording has no message sizes that tell latency from bandwidth; add to the \
                 latency instead (--network-latency +5us)"
                    .into(),
            ));
        }
    }
    if let Some(replicas) = what_if.data_parallel {
        widen(ranks, &mut now, &mut durations, &split, (what_if, replicas), &mut assumed)?;
    }
    if what_if.network != Network::default() || what_if.data_parallel.is_some() {
        if now.origins.iter().any(|origin| origin.moved.is_some()) {
            assumed.push(
                "collectives whose other members were not recorded hold waiting: what is called \
                 their latency is a bound"
                    .into(),
            );
        }
        report.network = split.into_fits();
    }
    Ok(Changed { recorded: now, durations, assumed, report })
}

/// The factor of what is known by several names: of the first that is scaled.
fn factor(what_if: &WhatIf, rank: Option<u32>, names: [&str; 2], communicates: bool) -> f64 {
    let [own, other] = names;
    let by = what_if.factor(rank, own, communicates);
    if by == 1.0 { what_if.factor(rank, other, communicates) } else { by }
}

fn scale(time: &mut Nanos, factor: f64) {
    if factor != 1.0 {
        time.0 = ((time.0 as f64 * factor).round() as i64).max(0);
    }
}

/// What communicates, and how long it takes.
pub(super) fn communication<'a>(
    recorded: &'a RecordedProgram,
    durations: &'a Durations,
) -> impl Iterator<Item = (&'a Moved, i64)> {
    let kernels = recorded.origins.iter().zip(&durations.kernels);
    let kernels = kernels.filter_map(|(origin, time)| Some((origin.moved.as_ref()?, time.0)));
    let calls = durations.meetings.iter().flat_map(|table| table.iter().enumerate());
    let calls = calls.flat_map(|(call, times)| times.iter().map(move |time| (call, time.0)));
    kernels.chain(calls.map(|(call, ns)| (&recorded.moved[call], ns)))
}

/// Times compute kernels for another accelerator.
fn retime(
    now: &RecordedProgram,
    durations: &mut Durations,
    from: &Accelerator,
    to: &Accelerator,
) -> super::Coverage {
    let mut runs = vec![0_u64; durations.kernels.len()];
    for op in now.program.templates.iter().flat_map(|template| &template.ops) {
        if let Action::Kernel(kernel) = op.action {
            runs[kernel.index()] += 1;
        }
    }
    let mut retiming = Retiming::new(from, to);
    for (kernel, time) in durations.kernels.iter_mut().enumerate() {
        let origin = &now.origins[kernel];
        if origin.moved.is_none() {
            let name = &now.program.kernels[kernel].name;
            time.0 = retiming.time(name, time.0, origin.work, origin.copies, runs[kernel]);
        }
    }
    retiming.finish()
}

/// From the first start to the last end.
fn span(times: impl Iterator<Item = (i64, i64)>) -> i64 {
    let ends = times.fold(None, |found: Option<(i64, i64)>, (start, end)| {
        Some(found.map_or((start, end), |(first, last)| (first.min(start), last.max(end))))
    });
    ends.map_or(0, |(first, last)| last - first)
}
