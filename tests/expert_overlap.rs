//! Exchanges of experts behind compute of another micro-batch, in closed form: where every stretch of
//! compute between two exchanges is longer than an exchange, only the first forward and the last
//! backward pass, which have no partner, wait for theirs: two for each layer and pass.
//!
//! Tolerance: none; times are whole nanoseconds.

mod support;

use support::{SMALL, setup};
use trainyard::outcome::{program_of, time_program};
use trainyard::program::Dimension;
use trainyard::replay::{Category, Durations, HostTimes, Lumping, Sweep};
use trainyard::units::Nanos;

const LAYERS: u32 = 3;
const KERNEL: i64 = 1_000;
const EXCHANGE: i64 = 900;

/// The step, and what of it is exposed exchange, in nanoseconds per rank.
fn replay(micro_batches: u32, overlapped: bool) -> (i64, i64) {
    let setup = setup(
        SMALL,
        &[
            "cluster.nodes=1",
            "cluster.devices=4",
            "model.shape.moe={ experts = 8, top_k = 2, expert_hidden = 512, every = 1 }",
            &format!("model.shape.layers={LAYERS}"),
            "plan.expert_parallel=4",
            &format!("training.global_batch={}", 4 * micro_batches),
            &format!("software.overlap_experts={overlapped}"),
        ],
    );
    let program = program_of(&setup);
    program.check().expect("well formed");
    let timed = time_program(&setup, &program).expect("timed");
    let mut durations: Durations = timed.durations;
    durations.host = HostTimes::default();
    durations.issue.clear();
    durations.kernels.fill(Nanos(KERNEL));
    for (family, times) in program.families.iter().zip(&mut durations.meetings) {
        let time = if family.dimension == Dimension::Expert { EXCHANGE } else { 0 };
        times.iter_mut().flatten().for_each(|t| *t = Nanos(time));
    }
    let lumping = Lumping::coarsest(&program, &durations);
    let outcome = Sweep::run(&program, &durations, &lumping).expect("a replay").outcome();
    let exposed = outcome.total.get(Category::Expert).0;
    (outcome.step.0, exposed / 4)
}

#[test]
fn only_passes_without_a_partner_wait() {
    for micro_batches in [1, 2, 5] {
        let (step, exposed) = replay(micro_batches, true);
        let (alone, all) = replay(micro_batches, false);
        let per_pass = i64::from(2 * LAYERS) * EXCHANGE;
        assert_eq!(all, 2 * i64::from(micro_batches) * per_pass, "{micro_batches} in turn");
        assert_eq!(exposed, 2 * per_pass, "{micro_batches} overlapped");
        assert_eq!(alone - step, all - exposed, "what is hidden is won");
    }
}

/// Under a pipeline both directions are stretched, but neighbours never wait for a whole pair of
/// passes: with many micro-batches what is hidden outweighs what the longer warm-up costs.
/// Tolerance: none, since the bubble of the overlapped schedule is at most twice the usual one here,
/// and a third of the step would be exchanges.
#[test]
fn a_pipeline_gains_too() {
    for (schedule, chunks) in [("1f1b", 1), ("interleaved", 2)] {
        let step = |overlapped: bool| {
            let setup = setup(
                SMALL,
                &[
                    "cluster.nodes=2",
                    "cluster.devices=16",
                    "cluster.fabric=ndr400-clos",
                    "model.shape.moe={ experts = 8, top_k = 2, expert_hidden = 512, every = 1 }",
                    "model.shape.layers=16",
                    "plan.pipeline_parallel=4",
                    &format!("plan.virtual_stages={chunks}"),
                    &format!("plan.schedule={schedule}"),
                    "plan.expert_parallel=4",
                    "training.global_batch=256",
                    &format!("software.overlap_experts={overlapped}"),
                ],
            );
            let program = program_of(&setup);
            program.check().expect("well formed");
            let mut durations = time_program(&setup, &program).expect("timed").durations;
            durations.host = HostTimes::default();
            durations.issue.clear();
            durations.kernels.fill(Nanos(KERNEL));
            for (family, times) in program.families.iter().zip(&mut durations.meetings) {
                let long = family.dimension == Dimension::Expert;
                let time = if long { 5 * EXCHANGE } else { 0 };
                times.iter_mut().flatten().for_each(|t| *t = Nanos(time));
            }
            let lumping = Lumping::coarsest(&program, &durations);
            Sweep::run(&program, &durations, &lumping).expect("a replay").step().0
        };
        let (with, without) = (step(true), step(false));
        assert!(with < without, "{schedule}: {with} ns against {without} ns");
    }
}
