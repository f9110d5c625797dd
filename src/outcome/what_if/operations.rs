//! Jobs recorded operation by operation, unchanged and under a what-if.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::outcome::recorded::{RecordedReplay, durations_of};
use crate::outcome::steps::{
    Relief, StepReplay, Stragglers, predict_second_half, replay_steps, stragglers,
};
use crate::program::Program;
use crate::replay::{HostTimes, Lumping, Sweep};
use crate::trace::collectives::CommOp;
use crate::trace::model::RankTrace;
use crate::trace::program::Notes;
use crate::trace::steps::{Job, Step, job};

use super::network::changed;
use super::pipeline::{Replanned, rebuilt};
use super::{
    Attribution, Components, Does, Network, Pipeline, Straggler, WhatIf, WhatIfReport, unknown,
};

/// Replays a job step by step.
///
/// # Errors
/// The ranks have no operations in steps, recorded them in different orders, or the what-if makes
/// no sense here.
pub fn replay(ranks: &[RankTrace], what_if: &WhatIf) -> Result<RecordedReplay> {
    let found = stragglers(ranks)?;
    let (steps, report) = if what_if.is_empty() {
        (replay_steps(ranks, None)?, None)
    } else {
        let (steps, report) = change(ranks, what_if, &found)?;
        (steps, Some(report))
    };
    let several = steps.len() > 1;
    Ok(RecordedReplay {
        ranks: Vec::new(),
        notes: Notes::default(),
        steps,
        stragglers: Some(found),
        second_half: several.then(|| predict_second_half(ranks)).transpose()?,
        what_if: report,
    })
}

/// Whether a what-if makes sense for operations.
fn check(job: &Job, what_if: &WhatIf) -> Result<()> {
    let refuse = |why: &str| Err(Error::Unsupported(why.into()));
    if what_if.accelerator.is_some() {
        return refuse(
            "another accelerator needs kernels with shapes, and these are whole passes; scale them \
             instead (--scale compute=0.8)",
        );
    }
    if !what_if.fuse.is_empty() {
        return refuse("operations of a job are no kernels that could be fused");
    }
    if what_if.node.is_some() {
        return refuse(
            "operations were recorded without message sizes, so the network model cannot time them",
        );
    }
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let (mut meets, mut replicas) = (false, false);
    for operation in job.steps.iter().flat_map(|step| step.ranks.iter().flatten()) {
        names.insert(&operation.name);
        meets |= operation.meets;
        replicas |= operation.of_replicas();
        if operation.is_transfer() && what_if.remove.iter().any(|n| operation.name.contains(n)) {
            return refuse(
                "transfers between stages carry what the next stage needs; let them take no time \
                 instead (--scale forward-send=0)",
            );
        }
    }
    let names: Vec<&str> = names.into_iter().collect();
    let numbers: Vec<u32> = job.places.iter().map(|(rank, ..)| *rank).collect();
    what_if.check(&names, &numbers)?;
    for who in &what_if.without {
        let numbers = |of: &dyn Fn(&(u32, usize, usize)) -> usize| {
            let known: BTreeSet<usize> = job.places.iter().map(of).collect();
            known.into_iter().map(|number| number.to_string()).collect::<Vec<_>>()
        };
        match who {
            Straggler::Stage(stage) if *stage >= job.stages() => {
                return Err(unknown("stage", stage, numbers(&|place| place.1).into_iter()));
            }
            Straggler::Replica(replica) if *replica >= job.replicas() => {
                return Err(unknown("replica", replica, numbers(&|place| place.2).into_iter()));
            }
            _ => {}
        }
    }
    if what_if.network != Network::default() && !meets {
        return refuse("the recording has passes only, and nothing that communicates");
    }
    if what_if.network.latency != 1.0 {
        return refuse(
            "operations were recorded without message sizes, which tell latency from bandwidth; add \
             to the latency instead (--network-latency +5us)",
        );
    }
    if what_if.data_parallel.is_some() && !(replicas && job.replicas() > 1) {
        return refuse("the recording has no data-parallel collectives of several replicas");
    }
    Ok(())
}

/// The steps under a what-if.
fn change(
    ranks: &[RankTrace],
    what_if: &WhatIf,
    found: &Stragglers,
) -> Result<(Vec<StepReplay>, WhatIfReport)> {
    let recorded = job(ranks)?;
    check(&recorded, what_if)?;
    let mut report = WhatIfReport { changes: what_if.words(), ..WhatIfReport::default() };
    let relief = Relief::of(&recorded);
    let mut now = recorded.clone();
    if !what_if.remove.is_empty() {
        now = now.without(&|name| what_if.remove.iter().any(|part| name.contains(part.as_str())));
    }
    let (from, to) = (recorded.replicas(), what_if.data_parallel.map_or(0, |n| n as usize));
    // Sharded states are the smaller the more replicas share them.
    let mut shard = 1.0;
    if to > 0 {
        let ring = |name: &str| {
            let op = CommOp::of(name);
            op.bus_factor(to as u32) / op.bus_factor(from as u32).max(f64::MIN_POSITIVE)
        };
        now = now.with_replicas(to, &ring)?;
        report.assumed.push(format!(
            "data-parallel collectives of {from} ranks become {to} by a ring's volume (no fabric \
             and no message sizes are recorded); replicas beyond the recorded {from} do what those \
             did in later steps; micro-batches per replica stay, so the batch grows with the \
             replicas"
        ));
        let gathers = |name: &str| CommOp::of(name) == CommOp::AllGather;
        if recorded.steps.iter().flat_map(|s| s.ranks.iter().flatten()).any(|o| gathers(&o.name)) {
            shard = from as f64 / to as f64;
            report.assumed.push(format!(
                "parameters are gathered, so the optimizer is sharded: it takes {shard:.3} times \
                 as long"
            ));
        }
    }
    if what_if.network != Network::default() {
        report.assumed.push(
            "no message sizes are recorded: the whole duration of a transfer counts as bandwidth, \
             which makes the prediction a bound"
                .into(),
        );
    }
    // Positions are laid out anew with another number of replicas.
    let places = now.places.clone();
    let relieved = |position: usize| {
        let (rank, stage, replica) = places[position];
        what_if.without.iter().any(|who| match who {
            Straggler::Rank(of) => *of == rank,
            Straggler::Stage(of) => *of == stage,
            Straggler::Replica(of) => *of == replica,
        })
    };
    let duration = |step: &Step, position: usize, index: usize| -> i64 {
        let operation = &step.ranks[position][index];
        let ns = relief.duration(operation, !relieved(position));
        let ns = if operation.meets { changed(0, ns, &what_if.network) } else { ns };
        let mut by = what_if.factor(Some(places[position].0), &operation.name, operation.meets);
        if operation.name == "optimizer" {
            by *= shard;
        }
        (ns as f64 * by).round() as i64
    };
    let mut before = Components::default();
    let mut after = Components::default();
    let alone = |step: &Step, position: usize, index: usize| step.ranks[position][index].alone_ns;
    let mut replayed = Vec::new();
    for step in &recorded.steps {
        let program = recorded.program(step, &|rank, index| alone(step, rank, index), true)?;
        replayed.push(run(&program, &mut before)?);
    }
    let predicted = if what_if.pipeline == Pipeline::default() {
        let mut predicted = Vec::new();
        for step in &now.steps {
            let program = now.program(step, &|rank, index| duration(step, rank, index), true)?;
            predicted.push(run(&program, &mut after)?);
        }
        predicted
    } else {
        let replanned = Replanned::new(&now, what_if.pipeline)?;
        let (predicted, prediction) =
            replanned.predict(&duration, &mut after, rebuilt(&recorded)?)?;
        report.assumed.push(format!(
            "passes take what the recorded micro-batches did, chunks an equal share of their stage \
             beside the extra time of the end stages; transfers {}; host delays and the rest of the \
             step as recorded; the first stage holds activations of {:.1} micro-batches at once{}",
            if now.steps.iter().any(Step::has_transfers) {
                "the median of their direction"
            } else {
                "nothing, because they were not recorded"
            },
            prediction.in_flight.1,
            prediction.in_flight.0.map_or(String::new(), |held| format!(" ({held:.1} recorded)")),
        ));
        report.pipeline = Some(prediction);
        predicted
    };
    if !what_if.without.is_empty() {
        report.assumed.push(
            "who no longer straggles takes the mean of each operation over all ranks and steps \
             (the median for transfers)"
                .into(),
        );
        report.stragglers = attribution(&recorded, &relief, found)?;
    }
    report.components = Components::table(before, after);
    let steps = recorded.steps.iter().zip(replayed).zip(predicted);
    let steps = steps.map(|((step, replayed_ns), predicted)| StepReplay {
        step: step.name.clone(),
        measured_ns: step.measured_ns,
        replayed_ns,
        unexplained_ns: step.measured_ns - replayed_ns,
        predicted_ns: Some(predicted),
    });
    Ok((steps.collect(), report))
}

fn run(program: &Program, components: &mut Components) -> Result<i64> {
    let durations = durations_of(program, HostTimes::default());
    let lumping = Lumping::none(program, &durations);
    let sweep = Sweep::run(program, &durations, &lumping)?;
    components.add(program, &sweep, true, &|_| Does::Compute);
    Ok(sweep.step().0)
}

/// What every rank, stage and replica costs: the mean step without its excess, and what that is of
/// what all of them cost together.
fn attribution(job: &Job, relief: &Relief<'_>, found: &Stragglers) -> Result<Vec<Attribution>> {
    let mut who: Vec<Straggler> = (0..job.stages()).map(Straggler::Stage).collect();
    who.extend((0..job.replicas()).filter(|_| job.replicas() > 1).map(Straggler::Replica));
    if job.places.len() > job.stages() {
        who.extend(job.places.iter().map(|(rank, ..)| Straggler::Rank(*rank)));
    }
    let all = found.replayed_ns - found.ideal_ns;
    let mut list = Vec::new();
    for who in who {
        let without_ns = relief.mean_step(&|position| {
            let (rank, stage, replica) = job.places[position];
            match who {
                Straggler::Rank(of) => of != rank,
                Straggler::Stage(of) => of != stage,
                Straggler::Replica(of) => of != replica,
            }
        })?;
        let saved_ns = found.replayed_ns - without_ns;
        list.push(Attribution {
            who: who.to_string(),
            without_ns,
            saved_ns,
            share: (all > 0).then(|| saved_ns as f64 / all as f64),
        });
    }
    list.sort_by_key(|one| std::cmp::Reverse(one.saved_ns));
    Ok(list)
}
