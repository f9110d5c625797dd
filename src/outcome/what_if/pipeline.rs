//! Another pipeline schedule, other chunks or another number of micro-batches, from the recorded
//! forward and backward times of every stage and micro-batch.
//!
//! The action lists are those of [`crate::plan::Schedule`]. Passes take what the recorded
//! micro-batch of their number did; transfers the median of their direction (nothing where they
//! were not recorded); host delays and what comes before the first and after the last pass are as
//! recorded. A chunk takes its share of the stage's time, and what the first and the last stage
//! take beyond those between them (embedding; head and loss) stays with the first and the last
//! chunk of the model.
//!
//! The interval holds nine of ten steps: over the recorded steps, over micro-batches drawn again
//! from the step they are of, and over where the extra time of the end stages lies. Steps that took
//! more than one and a half times the median (the first, which compiles and warms up) are left out
//! of it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::disturbance::random::Stream;
use crate::error::{Error, Result};
use crate::plan::{Pass, Schedule};
use crate::program::{
    Action, CallId, Collective, CollectiveCall, Dimension, Family, FamilyId, Groups, HostWork,
    Kernel, KernelClass, KernelId, LaneId, Op, OpId, Phase, Program, TemplateBuilder, TemplateId,
    Work,
};
use crate::replay::{HostTimes, Lumping, Sweep};
use crate::trace::align::median;
use crate::trace::steps::{BACKWARD, FORWARD, Job, Operation, Step, lanes};
use crate::units::Nanos;

use super::{Components, Does};
use crate::outcome::recorded::durations_of;

/// Steps drawn again for the interval.
const DRAWS: u64 = 64;
/// Passes of all stages in a step that can be laid out.
const MOST_PASSES: u64 = 1 << 18;
/// Steps longer than the median by this factor say nothing about the usual step.
const UNUSUAL: f64 = 1.5;

/// What changes of the pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pipeline {
    /// Schedule; as recorded if absent.
    pub schedule: Option<Schedule>,
    /// Chunks per stage; one if absent, two for an interleaved schedule.
    pub chunks: Option<u32>,
    /// Micro-batches; as recorded if absent.
    pub micro_batches: Option<u32>,
}

impl Pipeline {
    pub(super) fn words(self) -> Vec<String> {
        let schedule = self.schedule.map(|schedule| format!("{} schedule", name(schedule)));
        let chunks = self.chunks.map(|chunks| format!("{chunks} chunks per stage"));
        let micro_batches = self.micro_batches.map(|count| format!("{count} micro-batches"));
        schedule.into_iter().chain(chunks).chain(micro_batches).collect()
    }
}

const fn name(schedule: Schedule) -> &'static str {
    match schedule {
        Schedule::Gpipe => "gpipe",
        Schedule::OneForwardOneBackward => "1f1b",
        Schedule::Interleaved => "interleaved",
    }
}

/// A schedule that was predicted from the recorded times of another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PipelinePrediction {
    /// Stages.
    pub stages: u32,
    /// Recorded schedule; absent where the order of passes is that of none that is known.
    pub recorded: Option<&'static str>,
    /// Recorded micro-batches.
    pub recorded_micro_batches: u32,
    /// Predicted schedule.
    pub schedule: &'static str,
    /// Predicted chunks per stage.
    pub chunks: u32,
    /// Predicted micro-batches.
    pub micro_batches: u32,
    /// Median measured step, ns.
    pub measured_ns: i64,
    /// Median step of the recorded schedule from the recorded times, without any change of the
    /// what-if, built in the same way as the prediction: how far the construction is off where the
    /// answer is known.
    pub rebuilt_ns: Option<i64>,
    /// Median predicted step, ns.
    pub predicted_ns: i64,
    /// Nine of ten steps take longer than the first and less than the second, ns.
    pub interval_ns: (i64, i64),
    /// Recorded steps that are left out of the interval because they took far too long.
    pub unusual_steps: u32,
    /// Activations that the first stage holds at once, in micro-batches of a whole stage, before
    /// and after.
    pub in_flight: (Option<f64>, f64),
}

/// A schedule with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    schedule: Schedule,
    chunks: u32,
    micro_batches: u32,
}

/// How a stage's time is spread over its chunks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// What the end stages take beyond the others belongs to the first and the last chunk.
    Apart,
    /// Every chunk takes the same.
    Even,
}

/// Median step of a recorded job, built as [`Replanned::predict`] builds its prediction; nothing
/// where the order of passes is that of no schedule that is known.
///
/// # Errors
/// A program cannot finish.
pub(super) fn rebuilt(job: &Job) -> Result<Option<i64>> {
    let Ok(same) = Replanned::new(job, Pipeline::default()) else { return Ok(None) };
    let alone = |step: &Step, rank: usize, index: usize| step.ranks[rank][index].alone_ns;
    let steps = job.steps.iter().map(|step| {
        let of = |rank: usize, index: usize| alone(step, rank, index);
        let times = pass_times(step, &alone);
        run(&same.program(step, &of, &times, same.plan, Ends::Apart)?, None)
    });
    let mut steps = steps.collect::<Result<Vec<i64>>>()?;
    Ok((!steps.is_empty()).then(|| median(&mut steps)))
}

/// Builds the steps of a job under another plan.
pub(super) struct Replanned<'a> {
    job: &'a Job,
    stages: u32,
    plan: Plan,
    recorded: Option<Schedule>,
    recorded_micro_batches: u32,
}

/// Times of the passes of a step: by position and direction (forward first), by micro-batch.
type Times = Vec<[Vec<i64>; 2]>;

impl<'a> Replanned<'a> {
    /// # Errors
    /// The recording has no passes that make a plain pipeline, or the plan is impossible.
    pub(super) fn new(job: &'a Job, wanted: Pipeline) -> Result<Self> {
        let unsupported = |why: String| Err(Error::Unsupported(why));
        let stages = job.stages() as u32;
        let mut counts: Vec<usize> = Vec::new();
        for operations in job.steps.iter().flat_map(|step| &step.ranks) {
            for pass in [FORWARD, BACKWARD] {
                counts.push(operations.iter().filter(|operation| operation.name == pass).count());
            }
        }
        counts.sort_unstable();
        counts.dedup();
        let &[recorded_micro_batches] = counts.as_slice() else {
            return unsupported(
                "ranks and steps of the recording have different numbers of passes".into(),
            );
        };
        if recorded_micro_batches == 0 {
            return unsupported("the recording has no forward and backward passes".into());
        }
        let recorded_micro_batches = recorded_micro_batches as u32;
        let recorded = recorded_schedule(job, stages, recorded_micro_batches);
        let Some(schedule) = wanted.schedule.or(recorded) else {
            return unsupported(
                "the recorded order of passes is that of no schedule that is known; name one with \
                 --schedule"
                    .into(),
            );
        };
        let interleaved = schedule == Schedule::Interleaved;
        let chunks = wanted.chunks.unwrap_or(if interleaved { 2 } else { 1 });
        let micro_batches = wanted.micro_batches.unwrap_or(recorded_micro_batches);
        if interleaved && chunks < 2 {
            return unsupported("an interleaved schedule has two chunks per stage or more".into());
        }
        if !interleaved && chunks > 1 {
            return unsupported(format!(
                "{} has one chunk per stage; chunks need --schedule interleaved",
                name(schedule)
            ));
        }
        if interleaved && stages < 2 {
            return unsupported("interleaving needs two stages or more".into());
        }
        if micro_batches == 0 {
            return unsupported("a step has one micro-batch or more".into());
        }
        if interleaved && !micro_batches.is_multiple_of(stages) {
            return unsupported(format!(
                "interleaving needs a multiple of {stages} micro-batches, and there are \
                 {micro_batches}"
            ));
        }
        let passes = u64::from(micro_batches) * u64::from(chunks) * 2 * job.places.len() as u64;
        if passes > MOST_PASSES {
            return unsupported(format!(
                "{micro_batches} micro-batches in {chunks} chunks are {passes} passes of a step; \
                 {MOST_PASSES} at most can be laid out"
            ));
        }
        let plan = Plan { schedule, chunks, micro_batches };
        Ok(Self { job, stages, plan, recorded, recorded_micro_batches })
    }

    /// Predicts every step; adds its components. `rebuilt` is that of the job as it was recorded.
    ///
    /// # Errors
    /// A program cannot finish.
    pub(super) fn predict(
        &self,
        duration: &dyn Fn(&Step, usize, usize) -> i64,
        components: &mut Components,
        rebuilt: Option<i64>,
    ) -> Result<(Vec<i64>, PipelinePrediction)> {
        let (mut predicted, mut all) = (Vec::new(), Vec::new());
        let as_recorded = self.recorded.map(|schedule| Plan {
            schedule,
            chunks: 1,
            micro_batches: self.recorded_micro_batches,
        });
        let times: Vec<Times> =
            self.job.steps.iter().map(|step| pass_times(step, duration)).collect();
        let mut measured: Vec<i64> = self.job.steps.iter().map(|step| step.measured_ns).collect();
        let longest = median(&mut measured) as f64 * UNUSUAL;
        let usual: Vec<usize> = (0..self.job.steps.len())
            .filter(|number| self.job.steps[*number].measured_ns as f64 <= longest)
            .collect();
        for (number, (step, times)) in self.job.steps.iter().zip(&times).enumerate() {
            let of = |rank: usize, index: usize| duration(step, rank, index);
            let program = self.program(step, &of, times, self.plan, Ends::Apart)?;
            predicted.push(run(&program, Some(components))?);
            if usual.contains(&number) {
                all.extend(predicted.last());
            }
            if self.plan.chunks > 1 && usual.contains(&number) {
                let even = self.program(step, &of, times, self.plan, Ends::Even)?;
                all.push(run(&even, None)?);
            }
        }
        for draw in 0..DRAWS {
            let mut random = Stream::new(0, draw, 0, "micro-batches");
            let chosen = usual[random.below(usual.len() as u64) as usize];
            let drawn: Times = times[chosen]
                .iter()
                .map(|passes| {
                    let [forward, backward] = passes;
                    // The two passes of a micro-batch stay together.
                    let picks: Vec<usize> = (0..forward.len())
                        .map(|_| random.below(forward.len() as u64) as usize)
                        .collect();
                    let pick = |of: &[i64]| picks.iter().map(|at| of[*at]).collect::<Vec<i64>>();
                    [pick(forward), pick(backward)]
                })
                .collect();
            let step = &self.job.steps[chosen];
            let of = |rank: usize, index: usize| duration(step, rank, index);
            let ends = if draw % 2 == 0 { Ends::Apart } else { Ends::Even };
            all.push(run(&self.program(step, &of, &drawn, self.plan, ends)?, None)?);
        }
        all.sort_unstable();
        let at = |share: f64| all[((all.len() - 1) as f64 * share).round() as usize];
        let held = |plan: Plan| {
            let Plan { schedule, chunks, micro_batches } = plan;
            let sets = schedule.in_flight(0, self.stages, micro_batches, chunks);
            f64::from(sets) / f64::from(chunks)
        };
        let prediction = PipelinePrediction {
            stages: self.stages,
            recorded: self.recorded.map(name),
            recorded_micro_batches: self.recorded_micro_batches,
            schedule: name(self.plan.schedule),
            chunks: self.plan.chunks,
            micro_batches: self.plan.micro_batches,
            measured_ns: median(&mut measured),
            rebuilt_ns: rebuilt,
            predicted_ns: median(&mut predicted.clone()),
            interval_ns: (at(0.05), at(0.95)),
            unusual_steps: (times.len() - usual.len()) as u32,
            in_flight: (as_recorded.map(held), held(self.plan)),
        };
        Ok((predicted, prediction))
    }

    /// The program of a step under a plan.
    fn program(
        &self,
        step: &Step,
        duration: &dyn Fn(usize, usize) -> i64,
        times: &Times,
        plan: Plan,
        ends: Ends,
    ) -> Result<Program> {
        let mut program = Program { families: step.families().to_vec(), ..Program::default() };
        program.calls = step.calls(duration);
        let transfers = Transfers::of(self.job, step, duration, plan.chunks, &mut program);
        let extra = extras(self.job, times);
        for (position, operations) in step.ranks.iter().enumerate() {
            let (rank, stage, replica) = self.job.places[position];
            let (before, after) = around(operations);
            let mut rank = RankBuilder {
                job: self.job,
                ops: TemplateBuilder::new(format!("rank {rank}"), lanes()),
                kernels: &mut program.kernels,
                last: None,
            };
            for index in before {
                rank.operation(step, &operations[index], duration(position, index));
            }
            let count = self.recorded_micro_batches as usize;
            for action in
                plan.schedule.actions(stage as u32, self.stages, plan.micro_batches, plan.chunks)
            {
                let forward = action.pass == Pass::Forward;
                let whole =
                    times[position][usize::from(!forward)][action.micro_batch as usize % count];
                let own = extra[position][usize::from(!forward)].min(whole);
                let ns = match ends {
                    _ if plan.chunks == 1 => whole,
                    Ends::Even => whole / i64::from(plan.chunks),
                    Ends::Apart => {
                        let end = (stage == 0 && action.chunk == 0)
                            || (stage as u32 + 1 == self.stages && action.chunk + 1 == plan.chunks);
                        (whole - own) / i64::from(plan.chunks) + if end { own } else { 0 }
                    }
                };
                let place = (forward, replica, stage as u32, action.chunk);
                rank.pass(&transfers, place, self.stages, plan.chunks, ns.max(0));
            }
            for index in after {
                rank.operation(step, &operations[index], duration(position, index));
            }
            let template = rank.ops.finish();
            program.template_of_rank.push(TemplateId(position as u32));
            program.templates.push(template);
        }
        program.check()?;
        Ok(program)
    }
}

/// Replays a program; its step.
fn run(program: &Program, components: Option<&mut Components>) -> Result<i64> {
    let durations = durations_of(program, HostTimes::default());
    let lumping = Lumping::none(program, &durations);
    let sweep = Sweep::run(program, &durations, &lumping)?;
    if let Some(components) = components {
        components.add(program, &sweep, true, &|_| Does::Compute);
    }
    Ok(sweep.step().0)
}

fn pass_times(step: &Step, duration: &dyn Fn(&Step, usize, usize) -> i64) -> Times {
    let of = |position: usize, operations: &[Operation], pass: &str| {
        let passes = operations.iter().enumerate().filter(|(_, op)| op.name == pass);
        passes.map(|(index, _)| duration(step, position, index)).collect::<Vec<i64>>()
    };
    step.ranks
        .iter()
        .enumerate()
        .map(|(position, operations)| {
            [of(position, operations, FORWARD), of(position, operations, BACKWARD)]
        })
        .collect()
}

/// What the first and the last stage take beyond those between them, at the median: by position
/// and direction. Nothing with fewer than three stages, where nothing lies between.
fn extras(job: &Job, times: &Times) -> Vec<[i64; 2]> {
    let stages = job.stages();
    let mut middle = [0_i64; 2];
    for (direction, middle) in middle.iter_mut().enumerate() {
        let between = job.places.iter().zip(times);
        let mut all: Vec<i64> = between
            .filter(|((_, stage, _), _)| *stage > 0 && stage + 1 < stages)
            .flat_map(|(_, passes)| passes[direction].iter().copied())
            .collect();
        *middle = median(&mut all);
    }
    job.places
        .iter()
        .zip(times)
        .map(|((_, stage, _), passes)| {
            let end = stages > 2 && (*stage == 0 || stage + 1 == stages);
            [0, 1].map(|direction| {
                let own = median(&mut passes[direction].clone());
                if end { (own - middle[direction]).max(0) } else { 0 }
            })
        })
        .collect()
}

/// The schedule whose order of passes every rank of every step has.
fn recorded_schedule(job: &Job, stages: u32, micro_batches: u32) -> Option<Schedule> {
    let order = |operations: &[Operation]| -> Vec<bool> {
        let passes = operations.iter().filter_map(|operation| match operation.name.as_str() {
            FORWARD => Some(true),
            BACKWARD => Some(false),
            _ => None,
        });
        passes.collect()
    };
    [Schedule::OneForwardOneBackward, Schedule::Gpipe].into_iter().find(|schedule| {
        job.steps.iter().all(|step| {
            step.ranks.iter().zip(&job.places).all(|(operations, (_, stage, _))| {
                let actions = schedule.actions(*stage as u32, stages, micro_batches, 1);
                let expected = actions.iter().map(|action| action.pass == Pass::Forward);
                order(operations).into_iter().eq(expected)
            })
        })
    })
}

/// Operations in front of the first pass, and those after it that are neither passes nor transfers.
fn around(operations: &[Operation]) -> (Vec<usize>, Vec<usize>) {
    let pass = |operation: &Operation| [FORWARD, BACKWARD].contains(&operation.name.as_str());
    let first = operations.iter().position(pass).unwrap_or(operations.len());
    let others = (0..operations.len())
        .filter(|index| !pass(&operations[*index]) && !operations[*index].is_transfer());
    others.partition(|index| *index < first)
}

/// Transfers between stages of a plan.
struct Transfers {
    /// By direction, replica and sending stage.
    families: BTreeMap<(bool, usize, u32), FamilyId>,
    /// Forward and backward.
    calls: [CallId; 2],
    recorded: bool,
}

impl Transfers {
    fn of(
        job: &Job,
        step: &Step,
        duration: &dyn Fn(usize, usize) -> i64,
        chunks: u32,
        program: &mut Program,
    ) -> Self {
        let mut recorded = false;
        let calls = ["forward-send", "backward-send"].map(|name| {
            let mut all: Vec<i64> = Vec::new();
            for (position, operations) in step.ranks.iter().enumerate() {
                for (index, operation) in operations.iter().enumerate() {
                    if operation.name == name {
                        all.push(duration(position, index));
                    }
                }
            }
            recorded |= !all.is_empty();
            program.calls.push(CollectiveCall {
                name: name.into(),
                collective: Collective::SendRecv,
                bytes: 0,
                messages: 1,
                fanout: None,
                recorded: Some(Nanos(median(&mut all))),
            });
            CallId(program.calls.len() as u32 - 1)
        });
        let stages = job.stages() as u32;
        let place: BTreeMap<(usize, u32), u32> = job
            .places
            .iter()
            .enumerate()
            .map(|(position, (_, stage, replica))| ((*replica, *stage as u32), position as u32))
            .collect();
        let mut families = BTreeMap::new();
        for ((replica, stage), from) in &place {
            for forward in [true, false] {
                let to = next(forward, *stage, stages, chunks);
                let Some(to) = to.and_then(|to| place.get(&(*replica, to))) else { continue };
                let id = FamilyId(program.families.len() as u32);
                program.families.push(Family {
                    name: format!("stage {stage} {}", if forward { "forward" } else { "backward" }),
                    dimension: Dimension::Pipeline,
                    groups: Groups::new([vec![*from, *to]]),
                });
                families.insert((forward, *replica, *stage), id);
            }
        }
        Self { families, calls, recorded }
    }
}

/// The stage that a stage sends to. Chunks close the chain to a ring.
fn next(forward: bool, stage: u32, stages: u32, chunks: u32) -> Option<u32> {
    let last = if forward { stages - 1 } else { 0 };
    if stages < 2 || (stage == last && chunks == 1) {
        None
    } else if forward {
        Some((stage + 1) % stages)
    } else {
        Some((stage + stages - 1) % stages)
    }
}

/// Builds the template of a rank under a plan.
struct RankBuilder<'a> {
    job: &'a Job,
    ops: TemplateBuilder,
    kernels: &'a mut Vec<Kernel>,
    /// The last operation and its name.
    last: Option<(OpId, String)>,
}

impl RankBuilder<'_> {
    /// Direction, replica, stage and chunk of a pass that takes `ns`.
    fn pass(
        &mut self,
        transfers: &Transfers,
        (forward, replica, stage, chunk): (bool, usize, u32, u32),
        stages: u32,
        chunks: u32,
        ns: i64,
    ) {
        // Where it lies among the virtual stages, in the direction of the pass.
        let place = chunk * stages + stage;
        let of_direction = if forward { place } else { stages * chunks - 1 - place };
        let call = transfers.calls[usize::from(!forward)];
        let mut deps: Vec<OpId> = self.last.iter().map(|(op, _)| *op).collect();
        let (own, received) =
            if forward { (FORWARD, "forward-recv") } else { (BACKWARD, "backward-recv") };
        let mut before = self.last.as_ref().map_or("", |(_, name)| name.as_str()).to_owned();
        if of_direction > 0 && stages > 1 {
            let from = if forward { (stage + stages - 1) % stages } else { (stage + 1) % stages };
            if let Some(family) = transfers.families.get(&(forward, replica, from)) {
                let action = Action::Meet { family: *family, call };
                let lane = LaneId(if forward { 3 } else { 5 });
                deps.push(self.push(action, lane, &[]));
                if transfers.recorded {
                    before = received.to_owned();
                }
            }
        }
        let action = self.kernel(own, ns);
        let op = self.delayed(&before, own, action, LaneId(1), &deps);
        self.last = Some((op, own.to_owned()));
        if of_direction + 1 < stages * chunks
            && let Some(family) = transfers.families.get(&(forward, replica, stage))
        {
            let action = Action::Meet { family: *family, call };
            self.push(action, LaneId(if forward { 2 } else { 4 }), &[op]);
        }
    }

    /// An operation that is neither pass nor transfer, after the one before it.
    fn operation(&mut self, step: &Step, operation: &Operation, ns: i64) {
        let action = match step.meeting(operation) {
            Some((family, call)) => Action::Meet { family, call },
            None => self.kernel(&operation.name, ns),
        };
        let before = self.last.as_ref().map_or("", |(_, name)| name.as_str()).to_owned();
        let deps: Vec<OpId> = self.last.iter().map(|(op, _)| *op).collect();
        let op = self.delayed(&before, &operation.name, action, operation.lane(), &deps);
        self.last = Some((op, operation.name.clone()));
    }

    fn kernel(&mut self, name: &str, ns: i64) -> Action {
        let id = KernelId(self.kernels.len() as u32);
        let work = Work::Recorded { ns: ns.max(0) };
        self.kernels.push(Kernel { name: name.to_owned(), class: KernelClass::Other, work });
        Action::Kernel(id)
    }

    /// Appends an operation that the host issues some time after its dependencies are done.
    fn delayed(
        &mut self,
        before: &str,
        name: &str,
        action: Action,
        lane: LaneId,
        deps: &[OpId],
    ) -> OpId {
        let delay = self.job.delay(before, name);
        if delay <= 0 {
            return self.push(action, lane, deps);
        }
        let host = LaneId(0);
        if !deps.is_empty() {
            self.push(Action::HostWait, host, deps);
        }
        self.push(Action::HostWork(HostWork::Recorded(Nanos(delay))), host, &[]);
        self.push(action, lane, &[])
    }

    fn push(&mut self, action: Action, lane: LaneId, deps: &[OpId]) -> OpId {
        let op = Op { action, lane, phase: Phase::Other, micro_batch: Op::NO_MICRO_BATCH };
        self.ops.push(op, deps)
    }
}
