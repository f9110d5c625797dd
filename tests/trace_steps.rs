//! Jobs that were recorded operation by operation: each step replayed with waiting and delays
//! derived again, later steps predicted from earlier ones, stragglers attributed.
//!
//! Tolerances, written down before the first comparison: a step's replay 2 % on average, the
//! second half predicted from the first 3 %, the slowdown by stragglers within 2 % of the
//! published analysis (1.1787) and the same worst stage (3).
//!
//! `cargo test --test trace_steps -- --nocapture` prints each beside its target, and
//! `trainyard trace replay` the same figures for any such recording.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod support;

use trainyard::outcome::{StepReplay, predict_second_half, replay_steps, stragglers};

use trainyard::outcome::replay_recorded;
use trainyard::trace::analysis::step_components;
use trainyard::trace::import::import;
use trainyard::trace::model::RankTrace;

use support::traces::{Made, corpus_ranks};

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
    println!("ByteDance ST: mean step error {:.3} % (target 2)", 100.0 * mean_error(&steps));
    assert_eq!(steps.len(), 32);
    assert!(mean_error(&steps) <= 0.02);
}

#[test]
fn later_steps_follow_from_earlier_ones() {
    let Some(ranks) = corpus_ranks("bytedance_straggler/trace-ST.parquet") else { return };
    let half = predict_second_half(&ranks).unwrap();
    println!(
        "ByteDance ST, second half from the first: {} ns, mean error {:.3} % (target 3), largest \
         {:.3} %",
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
    println!(
        "ByteDance ST: slowdown {:.4} (published 1.1787, target within 2 %), worst stage {} \
         (published 3); {found:?}",
        found.slowdown, found.worst_stage
    );
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
    println!("Primus PP8: mean step error {:.3} % (target 2)", 100.0 * mean_error(&steps));
    assert_eq!(steps.len(), 20);
    assert!(mean_error(&steps) <= 0.02);
}

/// Logs of a Primus pipeline of four stages and four micro-batches, and its configuration.
fn primus_logs(folder: &std::path::Path) {
    for rank in 0..4_u32 {
        let warm = 4 - rank;
        let starts = |from: u32, step: u32| -> Vec<f64> {
            (0..4).map(|i| f64::from(from + i * step)).collect()
        };
        let ends = |starts: &[f64], long: f64| -> Vec<f64> {
            starts.iter().map(|start| start + long).collect()
        };
        let (forward, backward) = (starts(10 * rank, 30), starts(10 * rank + 10 * warm + 10, 30));
        let log = serde_json::json!({
            "1": {"total": 300.0, "fwd_start": forward, "fwd_end": ends(&forward, 10.0),
                  "bwd_start": backward, "bwd_end": ends(&backward, 15.0)},
        });
        std::fs::write(folder.join(format!("pp_rank_{rank}.json")), log.to_string()).unwrap();
    }
    std::fs::write(folder.join("config.json"), r#"{"world_size": 4, "pp_size": 4}"#).unwrap();
}

fn imported(folder: &std::path::Path) -> Vec<RankTrace> {
    let imported = import(&[folder.to_owned()], false).unwrap();
    assert!(imported.unused.is_empty(), "{:?}", imported.unused);
    imported.traces.ranks
}

/// What every way into the job says.
fn refused(ranks: &[RankTrace], parts: &[&str]) {
    let errors = [
        replay_recorded(ranks).unwrap_err(),
        step_components(ranks).unwrap_err(),
        stragglers(ranks).unwrap_err(),
    ];
    for error in errors {
        let error = error.to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
    }
}

#[test]
fn a_pipeline_without_one_of_its_ranks_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    primus_logs(folder);
    let whole = imported(folder);
    assert_eq!(whole.len(), 4);
    let steps = replay_recorded(&whole).unwrap().steps;
    assert_eq!(steps.len(), 1);
    // The last rank: only the configuration knows of it.
    let last = folder.join("pp_rank_3.json");
    let kept = std::fs::read(&last).unwrap();
    std::fs::remove_file(&last).unwrap();
    refused(&imported(folder), &["rank 3 of the job was not recorded", "all 4 ranks"]);
    std::fs::remove_file(folder.join("pp_rank_1.json")).unwrap();
    refused(&imported(folder), &["ranks 1, 3 of the job were not recorded"]);
    // A gap shows without the configuration, too.
    std::fs::write(&last, kept).unwrap();
    std::fs::remove_file(folder.join("config.json")).unwrap();
    refused(&imported(folder), &["rank 1 of the job was not recorded"]);
    // A rank alone may be the first of any pipeline, and is a whole one where that is said.
    for rank in [2, 3] {
        std::fs::remove_file(folder.join(format!("pp_rank_{rank}.json"))).unwrap();
    }
    refused(&imported(folder), &["rank 0 was recorded alone", "config.json"]);
    std::fs::write(folder.join("config.json"), r#"{"pp_size": 1}"#).unwrap();
    assert_eq!(replay_recorded(&imported(folder)).unwrap().steps.len(), 1);
}

#[test]
fn a_rank_with_fewer_passes_than_others_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    primus_logs(folder);
    let path = folder.join("pp_rank_2.json");
    let mut log: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (_, times) in log["1"].as_object_mut().unwrap() {
        if let Some(times) = times.as_array_mut() {
            times.pop();
        }
    }
    std::fs::write(&path, log.to_string()).unwrap();
    refused(&imported(folder), &["rank 2 has 3 forward-compute of step 1", "others 4"]);
}

#[test]
fn a_job_of_several_pipelines_needs_all_of_its_ranks() {
    let mut made = Made::new("megatron-operations", 4);
    for replica in 0..2 {
        made.group("pipeline", "", &[2 * replica, 2 * replica + 1]);
        made.group("data", "", &[replica, replica + 2]);
    }
    made.step("1", 0, 40_000_000);
    for rank in 0..4 {
        made.operation(rank, "forward-compute", 10_000_000 * (rank as i64 % 2), 10_000_000);
        made.operation(rank, "backward-compute", 20_000_000, 10_000_000);
    }
    let mut ranks = made.ranks();
    assert_eq!(replay_recorded(&ranks).unwrap().steps.len(), 1);
    let lost = ranks.remove(2);
    refused(&ranks, &["rank 2 of the job was not recorded"]);
    // A whole stage, which no group of the others knows of: the size of the job does.
    ranks.insert(2, lost);
    ranks.retain(|rank| rank.header.rank % 2 == 0);
    for rank in &mut ranks {
        rank.header.groups.clear();
    }
    refused(&ranks, &["ranks 1, 3 of the job were not recorded"]);
}
