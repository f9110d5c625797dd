//! Micro-batches whose activations a pipeline stage holds at once (Narayanan et al. 2021, section
//! 2.2; Korthikanti et al. 2022, section 4.2). Counts: no tolerance.

mod support;

use support::{SMALL, setup};
use trainyard::outcome::layer_context;
use trainyard::plan::Schedule;
use trainyard::scenario::Setup;
use trainyard::workload::stage_memory;

#[test]
fn gpipe_holds_all_and_1f1b_at_most_as_many_as_stages_follow() {
    for stages in [1, 2, 4, 8, 35] {
        for micro_batches in [1, 2, 4, 9, 64] {
            for stage in 0..stages {
                let held = |schedule: Schedule| schedule.in_flight(stage, stages, micro_batches, 1);
                assert_eq!(held(Schedule::Gpipe), micro_batches);
                assert_eq!(
                    held(Schedule::OneForwardOneBackward),
                    micro_batches.min(stages - stage)
                );
            }
        }
    }
}

#[test]
fn interleaving_holds_more_chunks() {
    // Warm-up forwards of stage i: 2 (p - i - 1) + (v - 1) p, and the one in progress; never more
    // than there are. With as many micro-batches as stages all forwards come first.
    for stages in [2, 4, 8] {
        for chunks in [2, 3, 6] {
            for groups in [1, 2, 4] {
                let micro_batches = stages * groups;
                for stage in 0..stages {
                    let total = micro_batches * chunks;
                    let warm_up = 2 * (stages - stage - 1) + (chunks - 1) * stages;
                    let expected = if groups == 1 { total } else { (warm_up + 1).min(total) };
                    let held =
                        Schedule::Interleaved.in_flight(stage, stages, micro_batches, chunks);
                    assert_eq!(held, expected, "p {stages} v {chunks} m {micro_batches} i {stage}");
                }
            }
        }
    }
}

#[test]
fn activations_grow_with_what_is_held() {
    // Nothing is recomputed, so that activations are kept bytes and two gradients of the stream.
    // 16 micro-batches on 4 stages of 6 layers. Bytes are whole numbers far below 2^53: exact.
    for (schedule, held) in [("gpipe", [16, 16, 16, 16]), ("1f1b", [4, 3, 2, 1])] {
        let schedule = format!("plan.schedule={schedule}");
        let setup = setup(
            SMALL,
            &[
                "plan.pipeline_parallel=4",
                "cluster.devices=4",
                "training.global_batch=16",
                &schedule,
            ],
        );
        let layer = layer_context(&setup);
        for (stage, held) in held.into_iter().enumerate() {
            let Setup { model, plan, recipe, stack, .. } = &setup;
            let memory = stage_memory(model, plan, &layer, recipe, stack, stage as u32);
            let kept = held * 6 * layer.saved_bytes(trainyard::workload::LayerKind::DENSE);
            let working = 2 * layer.stream_bytes();
            let memory = memory.peak().memory;
            assert_eq!(memory.activations, (kept + working) as f64, "{schedule} stage {stage}");
        }
    }
}
