//! Jobs that were recorded operation by operation: each step replayed with waiting and delays
//! derived again, later steps predicted from earlier ones, stragglers attributed.
//!
//! Tolerances, written down before the first comparison: a step's replay 2 % on average, the
//! second half predicted from the first 3 %, the slowdown by stragglers within 2 % of the
//! published analysis (1.1787) and the same worst stage (3).

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod support;

use trainyard::outcome::{StepReplay, predict_second_half, replay_steps, stragglers};

use support::traces::corpus_ranks;

fn mean_error(steps: &[StepReplay]) -> f64 {
    let errors = steps.iter().map(|s| s.unexplained_ns.abs() as f64 / s.measured_ns as f64);
    errors.sum::<f64>() / steps.len() as f64
}

#[test]
fn steps_of_the_straggler_job_replay() {
    let Some(ranks) = corpus_ranks("bytedance_straggler/trace-ST.parquet") else { return };
    let steps = replay_steps(&ranks, None).unwrap();
    for s in &steps {
        println!(
            "{} {} {} {:+.3} %",
            s.step,
            s.measured_ns,
            s.replayed_ns,
            100.0 * s.unexplained_ns as f64 / s.measured_ns as f64
        );
    }
    println!("mean {:.3} %", 100.0 * mean_error(&steps));
    assert_eq!(steps.len(), 32);
    assert!(mean_error(&steps) <= 0.02);
}

#[test]
fn later_steps_follow_from_earlier_ones() {
    let Some(ranks) = corpus_ranks("bytedance_straggler/trace-ST.parquet") else { return };
    let half = predict_second_half(&ranks).unwrap();
    println!(
        "{} ns, mean {:.3} %, largest {:.3} %",
        half.predicted_ns,
        100.0 * half.mean_error,
        100.0 * half.largest_error
    );
    assert_eq!(half.measured.len(), 16);
    assert!(half.mean_error <= 0.03);
}

#[test]
fn stragglers_are_attributed_as_the_published_analysis_does() {
    let Some(ranks) = corpus_ranks("bytedance_straggler/trace-ST.parquet") else { return };
    let found = stragglers(&ranks).unwrap();
    println!("{found:?}");
    assert!((found.slowdown / 1.1787 - 1.0).abs() <= 0.02, "{}", found.slowdown);
    assert_eq!(found.worst_stage, 3);
    for (stage, published) in [(0, 0.9980), (1, 0.9831), (2, 0.9825), (3, 1.2323)] {
        let ours = found.by_stage[&stage];
        assert!((ours / published - 1.0).abs() <= 0.02, "stage {stage}: {ours}");
    }
}

#[test]
fn iterations_of_the_pipeline_log_replay() {
    let Some(ranks) = corpus_ranks("primus_pp") else { return };
    let steps = replay_steps(&ranks, None).unwrap();
    for s in &steps {
        println!(
            "{} {} {} {:+.3} %",
            s.step,
            s.measured_ns,
            s.replayed_ns,
            100.0 * s.unexplained_ns as f64 / s.measured_ns as f64
        );
    }
    println!("mean {:.3} %", 100.0 * mean_error(&steps));
    assert_eq!(steps.len(), 20);
    assert!(mean_error(&steps) <= 0.02);
}
