//! Memory of all pipeline stages, and of the worst one over the step.

use crate::plan::{Axis, Pass};
use crate::program::{Action, HostWork, KernelClass, Op, OpId, Phase, Program};
use crate::replay::Sweep;
use crate::scenario::Setup;
use crate::units::Nanos;
use crate::workload::{Doing, Moment, StageMemory, stage_memory};

use super::layer_context;
use super::result::{MemoryInfo, MomentInfo, StageMemoryInfo};

/// The memory of every pipeline stage.
#[must_use]
pub fn memory_by_stage(setup: &Setup<'_>) -> Vec<StageMemory> {
    let layer = layer_context(setup);
    let Setup { model, plan, recipe, stack, .. } = setup;
    (0..plan.pipeline)
        .map(|stage| stage_memory(model, plan, &layer, recipe, stack, stage))
        .collect()
}

/// The stage with the highest peak, and the moment of it.
#[must_use]
pub fn peak_memory(setup: &Setup<'_>) -> (u32, Moment) {
    let peaks = memory_by_stage(setup).into_iter().map(|memory| (memory.stage, memory.peak()));
    peaks.max_by(|a, b| a.1.memory.total().total_cmp(&b.1.memory.total())).unwrap_or_default()
}

/// A moment in words.
#[must_use]
pub fn moment_name(doing: Doing, chunks: u32) -> String {
    match doing {
        Doing::Resting => "between steps".into(),
        Doing::Reducing => "gradient reduction".into(),
        Doing::Updating => "optimizer step".into(),
        Doing::Pass(action) => {
            let pass = match action.pass {
                Pass::Forward => "forward",
                Pass::Backward => "backward",
            };
            match chunks {
                1 => format!("{pass} {}", action.micro_batch),
                _ => format!("{pass} {} of chunk {}", action.micro_batch, action.chunk),
            }
        }
    }
}

/// What a result says about memory.
pub(super) fn memory_info(setup: &Setup<'_>) -> MemoryInfo {
    let capacity = setup.accelerator.memory.capacity.value.0;
    let chunks = setup.plan.chunks;
    let all = memory_by_stage(setup);
    let stages: Vec<(StageMemoryInfo, Moment)> = all
        .iter()
        .map(|memory| {
            let peak = memory.peak();
            let info = StageMemoryInfo {
                stage: memory.stage,
                peak_bytes: peak.memory.total(),
                reserved_bytes: memory.reserved(capacity),
                peak_moment: moment_name(peak.doing, chunks),
            };
            (info, peak)
        })
        .collect();
    let reserved = stages.iter().map(|(info, _)| info.reserved_bytes).fold(0.0, f64::max);
    let worst = stages
        .iter()
        .max_by(|a, b| a.0.peak_bytes.total_cmp(&b.0.peak_bytes))
        .cloned()
        .unwrap_or_default();
    MemoryInfo {
        peak_bytes_per_device: worst.0.peak_bytes,
        reserved_bytes_per_device: reserved,
        capacity_bytes: capacity,
        fits: worst.0.peak_bytes <= capacity,
        peak_stage: worst.0.stage,
        peak_moment: worst.0.peak_moment,
        by_class: worst.1.memory.into(),
        by_stage: stages.into_iter().map(|(info, _)| info).collect(),
        timeline: None,
    }
}

/// When each moment of a stage begins on a rank of it, in the order of [`StageMemory::moments`].
///
/// Every pass begins with the host's work for it, and holds the device from its first kernel on.
#[must_use]
pub fn moment_times(sweep: &Sweep<'_>, rank: u32) -> Vec<Nanos> {
    let program = sweep.program();
    let ops = &program.templates[program.template_of_rank[rank as usize].index()].ops;
    let begins = |op: usize| sweep.times(rank, OpId(op as u32)).0;
    let mut times = vec![Nanos::ZERO];
    for (i, op) in ops.iter().enumerate() {
        if op.action != Action::HostWork(HostWork::MicroBatch) {
            continue;
        }
        let backward = op.phase == Phase::Backward;
        let first = ops[i..].iter().position(|other| {
            matches!(other.action, Action::Kernel(_))
                && other.micro_batch == op.micro_batch
                && (other.phase != Phase::Forward) == backward
        });
        times.push(begins(first.map_or(i, |first| i + first)));
    }
    let ends = |op: usize| sweep.times(rank, OpId(op as u32)).1;
    let update = ops.iter().position(|op| match op.action {
        Action::Kernel(kernel) => program.kernels[kernel.index()].class == KernelClass::Optimizer,
        _ => false,
    });
    // The reduction follows the last kernel of the passes; some of it may have run beside them.
    let before = &ops[..update.unwrap_or(ops.len())];
    let passes = before.iter().rposition(|op| {
        matches!(op.action, Action::Kernel(_)) && op.micro_batch != Op::NO_MICRO_BATCH
    });
    let end = passes.map_or(Nanos::ZERO, ends);
    times.push(end);
    times.push(update.map_or(end, begins).max(end));
    // Passes that take turns may start in another order than they are issued in.
    for i in 1..times.len() {
        times[i] = times[i].max(times[i - 1]);
    }
    times
}

/// Bytes allocated on a rank from each time on, ns.
pub(super) fn rank_memory(setup: &Setup<'_>, sweep: &Sweep<'_>, rank: u32) -> Vec<(i64, f64)> {
    let stage = setup.plan.mesh.coordinate(rank, Axis::Pipeline);
    let layer = layer_context(setup);
    let Setup { model, plan, recipe, stack, .. } = setup;
    let memory = stage_memory(model, plan, &layer, recipe, stack, stage);
    let resting = memory.moments().next().map(|moment| moment.memory.total());
    let times = moment_times(sweep, rank);
    let mut course: Vec<(i64, f64)> =
        memory.moments().zip(times).map(|(moment, time)| (time.0, moment.memory.total())).collect();
    course.extend(resting.map(|bytes| (sweep.step().0, bytes)));
    course
}

/// The moments of the stage that peaks, with the seconds at which they begin.
pub(super) fn memory_timeline(setup: &Setup<'_>, sweep: &Sweep<'_>) -> Vec<MomentInfo> {
    let (stage, _) = peak_memory(setup);
    let program = sweep.program();
    let Some(rank) = rank_of_stage(setup, program, stage) else { return Vec::new() };
    let times = moment_times(sweep, rank);
    let memory = memory_by_stage(setup).swap_remove(stage as usize);
    let moments = memory.moments().zip(times);
    moments
        .map(|(moment, time)| MomentInfo {
            seconds: time.seconds().0,
            moment: moment_name(moment.doing, setup.plan.chunks),
            bytes: moment.memory.total(),
            by_class: moment.memory.into(),
        })
        .collect()
}

/// The first rank of a pipeline stage.
fn rank_of_stage(setup: &Setup<'_>, program: &Program, stage: u32) -> Option<u32> {
    let mesh = &setup.plan.mesh;
    (0..program.world_size() as u32).find(|rank| mesh.coordinate(*rank, Axis::Pipeline) == stage)
}
