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
