//! Pipeline bubbles in closed form (Narayanan et al. 2021, section 2.2): with free communication and
//! equal stages, idle over ideal time is (p - 1) / m for GPipe and 1F1B, and (p - 1) / (v m) for the
//! interleaved schedule with v chunks per device.
//!
//! Tolerance: 0.1 % of the step, as the formulas are about real schedules; what is found is exact to
//! the nanosecond, which is asserted too.

mod support;

use support::{SMALL, setup};
use trainyard::outcome::{program_of, time_program};
use trainyard::program::{KernelClass, Program};
use trainyard::replay::{Category, Durations, HostTimes, Lumping, Sweep};
use trainyard::units::Nanos;

/// Communication and host take no time; neither does what only the first or last stage does, nor
/// the optimizer, so that all stages are equal.
fn idealise(program: &Program, durations: &mut Durations) {
    for time in durations.meetings.iter_mut().flatten().flatten() {
        *time = Nanos::ZERO;
    }
    durations.host = HostTimes::default();
    durations.issue.clear();
    for (kernel, time) in program.kernels.iter().zip(&mut durations.kernels) {
        let everywhere = match kernel.class {
            KernelClass::Gemm => !kernel.name.starts_with("logits"),
            KernelClass::Attention | KernelClass::Elementwise => true,
            // The final norm has the same shape as a layer's.
            _ => false,
        };
        if !everywhere {
            *time = Nanos::ZERO;
        }
    }
}

struct Case {
    schedule: &'static str,
    stages: u32,
    micro_batches: u32,
    chunks: u32,
}

const fn case(schedule: &'static str, stages: u32, micro_batches: u32, chunks: u32) -> Case {
    Case { schedule, stages, micro_batches, chunks }
}

const CASES: &[Case] = &[
    case("gpipe", 2, 2, 1),
    case("gpipe", 4, 8, 1),
    case("gpipe", 4, 3, 1),
    case("gpipe", 8, 64, 1),
    case("1f1b", 2, 2, 1),
    case("1f1b", 4, 8, 1),
    case("1f1b", 4, 3, 1),
    case("1f1b", 4, 4, 1),
    case("1f1b", 8, 64, 1),
    case("1f1b", 16, 17, 1),
    case("interleaved", 2, 4, 2),
    case("interleaved", 4, 8, 2),
    case("interleaved", 4, 4, 3),
    case("interleaved", 8, 32, 4),
    case("interleaved", 4, 64, 6),
];

fn bubble(case: &Case, overlap: bool) {
    let Case { schedule, stages, micro_batches, chunks } = *case;
    let assignments = [
        format!("plan.schedule={schedule}"),
        format!("plan.pipeline_parallel={stages}"),
        format!("plan.virtual_stages={chunks}"),
        format!("training.global_batch={micro_batches}"),
        format!("model.shape.layers={}", stages * chunks * 2),
        format!("cluster.devices={stages}"),
        format!("software.overlap_pipeline={overlap}"),
        "model.shape.tied_embeddings=false".to_owned(),
    ];
    let assignments: Vec<&str> = assignments.iter().map(String::as_str).collect();
    let setup = setup(SMALL, &assignments);
    let program = program_of(&setup);
    let mut durations = time_program(&setup, &program).expect("times").durations;
    idealise(&program, &mut durations);
    let lumping = Lumping::coarsest(&program, &durations);
    let sweep = Sweep::run(&program, &durations, &lumping).expect("a replay");
    let outcome = sweep.outcome();

    let what = format!("{schedule} p {stages} m {micro_batches} v {chunks} overlap {overlap}");
    for (ranks, breakdown) in &outcome.by_template {
        assert_eq!(*ranks, 1, "{what}");
        let ideal = breakdown.get(Category::Compute).0;
        let bubble = breakdown.get(Category::Bubble).0;
        let expected = f64::from(stages - 1) / f64::from(chunks * micro_batches);
        let found = bubble as f64 / ideal as f64;
        assert!((found - expected).abs() <= 0.001 * expected, "{what}: {found}, not {expected}");
        // Exactly: m v (T - ideal) = (p - 1) ideal.
        let idle = (outcome.step.0 - ideal) * i64::from(chunks * micro_batches);
        assert_eq!(idle, i64::from(stages - 1) * ideal, "{what}");
        assert_eq!(bubble, outcome.step.0 - ideal, "{what}: booked elsewhere");
    }
}

#[test]
fn with_sends_beside_compute() {
    for case in CASES {
        bubble(case, true);
    }
}

#[test]
fn with_sends_between_kernels() {
    for case in CASES {
        bubble(case, false);
    }
}
