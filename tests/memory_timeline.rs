//! Device memory over the moments of a step: what comes and goes when, in closed form.
//!
//! Bytes are whole numbers far below 2^53 and are compared exactly, except where decimal fractions
//! enter (fragmentation allowance, figures in GiB and MB): there to 1e-9 relative.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use support::{SMALL, run, setup, trainyard};
use trainyard::outcome::{layer_context, memory_by_stage};
use trainyard::workload::{Doing, LayerKind, Memory, StageMemory};

fn stage(assignments: &[&str], stage: usize) -> StageMemory {
    memory_by_stage(&setup(SMALL, assignments)).swap_remove(stage)
}

fn at(memory: &StageMemory, doing: Doing) -> Memory {
    memory.moments().find(|moment| moment.doing == doing).unwrap().memory
}

#[test]
fn one_forward_one_backward_fills_drains_and_steps() {
    // Stage 1 of 4 with 6 layers and 8 micro-batches: three forwards, then they alternate, so that
    // three micro-batches are held from the third pass to the last but two.
    let assignments = ["plan.pipeline_parallel=4", "cluster.devices=4", "training.global_batch=8"];
    let setup = setup(SMALL, &assignments);
    let layer = layer_context(&setup);
    let kept = 6 * layer.saved_bytes(LayerKind::DENSE);
    let stream = layer.stream_bytes();
    let memory = memory_by_stage(&setup).swap_remove(1);
    let activations: Vec<u64> =
        memory.moments().map(|moment| moment.memory.activations as u64).collect();
    let mut expected = vec![0, kept, 2 * kept, 3 * kept];
    for _ in 0..5 {
        expected.extend([3 * kept + 2 * stream, 3 * kept]);
    }
    expected.extend([3, 2, 1].map(|held| held * kept + 2 * stream));
    expected.extend([0, 0]);
    assert_eq!(activations, expected);
    // Most is held in a backward pass, and the first of them is named.
    assert!(matches!(memory.peak().doing, Doing::Pass(action) if action.micro_batch == 0));
    assert_eq!(memory.peak().memory.activations as u64, 3 * kept + 2 * stream);
}

#[test]
fn the_optimizer_widens_its_share_of_16_bit_gradients() {
    for (sharding, share) in [("none", 1.0), ("zero1", 8.0)] {
        let assignments = [
            "software.stack=megatron-lm-sc21",
            "training.precision=fp16",
            "training.global_batch=8",
            "cluster.devices=8",
            &format!("plan.sharding={sharding}"),
        ];
        let memory = stage(&assignments, 0);
        let (rest, step) = (at(&memory, Doing::Resting), at(&memory, Doing::Updating));
        let parameters = rest.weights / 2.0;
        assert_eq!(rest.gradients, 2.0 * parameters, "{sharding}");
        assert_eq!(step.gradients, 2.0 * parameters + 4.0 * parameters / share, "{sharding}");
        // A driver tool sees the blocks of the passes and these copies beside each other.
        let capacity = 1e15;
        let tensors = memory.peak().memory;
        let widened = 4.0 * parameters / share;
        let fragmentation = tensors.fragmentation / tensors.tensors();
        let passes = memory
            .moments()
            .filter(|moment| matches!(moment.doing, Doing::Pass(_)))
            .map(|moment| moment.memory.total())
            .fold(0.0, f64::max);
        let reserved = passes + widened * (1.0 + fragmentation);
        assert!((memory.reserved(capacity) / reserved - 1.0).abs() < 1e-9, "{sharding}");
        // A full device gives cached blocks back: never more than there is, or than is needed.
        let needed = tensors.total();
        assert_eq!(memory.reserved(needed * 0.9), needed);
        assert_eq!(memory.reserved(needed), needed);
    }
}

#[test]
fn bf16_gradients_of_deepspeed_are_kept_twice() {
    let bytes = |stack: &str, precision: &str| {
        let stack = format!("software.stack={stack}");
        let precision = format!("training.precision={precision}");
        let memory = stage(&[&stack, &precision], 0);
        let rest = at(&memory, Doing::Resting);
        rest.gradients / (rest.weights / 2.0)
    };
    assert_eq!(bytes("megatron-deepspeed-2021", "fp16"), 2.0);
    // fp32 between micro-batches, and the bf16 ones of the pass.
    assert_eq!(bytes("megatron-deepspeed-2021", "bf16"), 6.0);
    assert_eq!(bytes("megatron-lm-sc21", "bf16"), 4.0);
}

#[test]
fn outputs_buckets_and_quantised_copies_follow_the_stack() {
    // Outputs of stages: one stream of activations more per micro-batch in flight.
    let pipeline = ["plan.pipeline_parallel=4", "cluster.devices=4", "training.global_batch=8"];
    let held = |stack: &str, of: usize| {
        let stack = format!("software.stack={stack}");
        let mut assignments = pipeline.to_vec();
        assignments.extend([&stack, "software.attention=unfused", "training.precision=fp16"]);
        let setup = setup(SMALL, &assignments);
        let stream = layer_context(&setup).stream_bytes();
        (memory_by_stage(&setup)[of].peak().memory.activations as u64, stream)
    };
    for (of, in_flight) in [(0, 4), (1, 3), (2, 2), (3, 0)] {
        let (with, stream) = held("megatron-lm-sc21", of);
        let (without, _) = held("megatron-lm-2022", of);
        assert_eq!(with - without, in_flight * stream, "stage {of}");
    }

    let data = ["cluster.devices=8", "training.global_batch=8", "training.precision=fp16"];
    let bucket = |stack: &str| {
        let stack = format!("software.stack={stack}");
        let mut assignments = data.to_vec();
        assignments.push(&stack);
        let memory = stage(&assignments, 0);
        at(&memory, Doing::Reducing).communication - at(&memory, Doing::Resting).communication
    };
    // The 1,000 MB bucket, and no more than there are gradients (2 bytes each).
    let parameters = setup(SMALL, &[]).model.parameters() as f64;
    let expected = 1e9_f64.min(2.0 * parameters);
    assert!((bucket("megatron-deepspeed-2021") / expected - 1.0).abs() < 1e-9);
    assert_eq!(bucket("megatron-lm-sc21"), 0.0);

    let copies = |stack: &str| {
        let stack = format!("software.stack={stack}");
        let memory = stage(&[&stack, "training.precision=fp8"], 0);
        at(&memory, Doing::Resting).quantised_weights
    };
    let setup = setup(SMALL, &[]);
    let of_layer = setup.model.layer_parameters(LayerKind::DENSE).total() as f64;
    assert_eq!(copies("megatron-core"), 2.0 * of_layer * f64::from(setup.model.layers));
    assert_eq!(copies("torchtitan"), 0.0);
}

#[test]
fn the_course_has_times_and_the_timeline_a_counter() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = folder.path().join("scenario.toml");
    fs::write(&scenario, SMALL).unwrap();
    let assignments = ["plan.pipeline_parallel=4", "cluster.devices=4", "training.global_batch=8"];
    let mut command = trainyard();
    command.arg("run").arg(&scenario).args(["--memory", "--format", "json", "--timeline"]);
    let timeline = folder.path().join("step.json");
    command.arg(&timeline);
    for assignment in assignments {
        command.args(["--set", assignment]);
    }
    let output = command.assert().success().get_output().stdout.clone();
    let result: serde_json::Value = serde_json::from_slice(&output).unwrap();
    let memory = &result["memory"];
    let course = memory["timeline"].as_array().unwrap();
    // Resting, 8 forwards and 8 backwards, the reduction, the step.
    assert_eq!(course.len(), 1 + 16 + 2);
    let seconds: Vec<f64> = course.iter().map(|m| m["seconds"].as_f64().unwrap()).collect();
    assert!(seconds.is_sorted());
    assert!(
        seconds[1] > 0.0 && *seconds.last().unwrap() < result["step"]["seconds"].as_f64().unwrap()
    );
    // The reduction begins when the passes are over, the optimizer step when it is done.
    let trace: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&timeline).unwrap()).unwrap();
    let peak_rank = memory["peak_stage"].as_u64().unwrap();
    let of_rank = |name: &str| -> Vec<(f64, f64)> {
        let events = trace["traceEvents"].as_array().unwrap().iter();
        let named = events.filter(|e| {
            e["ph"] == "X" && e["pid"] == peak_rank && e["name"].as_str().unwrap().contains(name)
        });
        named
            .map(|e| {
                let start = e["ts"].as_f64().unwrap();
                ((start * 1e-6), (start + e["dur"].as_f64().unwrap()) * 1e-6)
            })
            .collect()
    };
    let norm = of_rank("gradient norm");
    let first = norm.iter().map(|(start, _)| *start).fold(f64::INFINITY, f64::min);
    // Chrome's times are microseconds with three decimals.
    assert!((seconds[18] - first).abs() < 2e-9, "{} {first}", seconds[18]);
    assert!(seconds[17] < seconds[18], "{seconds:?}");
    let most = course.iter().map(|m| m["bytes"].as_f64().unwrap()).fold(0.0, f64::max);
    assert_eq!(Some(most), memory["peak_bytes_per_device"].as_f64());
    let stages = memory["by_stage"].as_array().unwrap();
    assert_eq!(stages.len(), 4);
    assert!(stages.iter().all(|s| s["peak_bytes"].as_f64().unwrap() <= most));

    // Of every rank shown, the counter goes up to its stage's peak and comes back to what rests.
    let text = fs::read_to_string(&timeline).unwrap();
    let trace: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (rank, stage) in stages.iter().enumerate() {
        let values: Vec<f64> = trace["traceEvents"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|e| e["ph"] == "C" && e["pid"] == rank && e["name"] == "memory allocated")
            .map(|e| e["args"].as_object().unwrap().values().next().unwrap().as_f64().unwrap())
            .collect();
        assert_eq!(values.len(), 1 + 16 + 2 + 1, "rank {rank}");
        assert_eq!(values.first(), values.last());
        let peak = values.iter().copied().fold(0.0, f64::max) * 1_073_741_824.0;
        assert!((peak / stage["peak_bytes"].as_f64().unwrap() - 1.0).abs() < 1e-9, "rank {rank}");
    }
    // Without the flag results stay short.
    assert!(run(SMALL, &[]).memory.timeline.is_none());
}
