//! Another accelerator: recorded kernels re-timed by their shapes, against the same models recorded
//! on the other device.
//!
//! Tolerance, written down before the first comparison: compute time within 25 %, and closer than
//! the ratio of dense bf16 peaks. It is the bar for two small inference models whose kernels run
//! for microseconds, where libraries differ most; nothing of the kernel models was fitted to them.
//!
//! `cargo test --test trace_accelerator h100 -- --nocapture` prints both beside the target.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use trainyard::outcome::{RecordedReplay, WhatIf, recorded_accelerator, replay_changed};
use trainyard::timing::MemoryModel;
use trainyard::trace::model::RankTrace;

use support::catalogue;
use support::traces::{Made, corpus_ranks};

const TOLERANCE: f64 = 0.25;

const PAIRED: [&str; 2] =
    ["Falconsai_nsfw_image_detection__1016002", "gaunernst_bert-small-uncased__1016001"];

fn on(name: &str) -> WhatIf {
    let catalogue = Some(Arc::new(catalogue().clone()));
    WhatIf { accelerator: Some(name.into()), catalogue, ..WhatIf::default() }
}

/// Compute time of a replay and its prediction.
fn compute(replay: &RecordedReplay) -> (f64, f64) {
    let part = replay.what_if.as_ref().unwrap().components[0];
    assert_eq!(part.component, "compute");
    (part.replayed_ns as f64, part.predicted_ns as f64)
}

fn recorded_compute(ranks: &[RankTrace]) -> f64 {
    let same = WhatIf { scales: vec![("compute".into(), 1.0)], ..WhatIf::default() };
    compute(&replay_changed(ranks, &same).unwrap()).0
}

#[test]
fn h100_predicts_mi300x_within_a_quarter_and_better_than_peaks() {
    for model in PAIRED {
        let Some(h100) = corpus_ranks(&format!("tracelens/h100/{model}.json.gz")) else { return };
        let mi300x = corpus_ranks(&format!("tracelens/mi300/{model}.json.gz")).unwrap();
        let replay = replay_changed(&h100, &on("mi300x")).unwrap();
        let (before, predicted) = compute(&replay);
        let measured = recorded_compute(&mi300x);
        let peak =
            |name: &str| catalogue().accelerator(name).unwrap().peak.bf16.as_ref().unwrap().value.0;
        let by_peak = before * peak("h100-sxm") / peak("mi300x");
        let error = predicted / measured - 1.0;
        let error_by_peak = by_peak / measured - 1.0;
        let coverage = replay.what_if.unwrap().coverage.unwrap();
        println!(
            "{model}: {:.1} us on H100, {:.1} predicted and {:.1} measured on MI300X ({:+.1} %; \
             target 25 %, and better than by peaks, {:+.1} %); {:.1} % by shape",
            before / 1e3,
            predicted / 1e3,
            measured / 1e3,
            100.0 * error,
            100.0 * error_by_peak,
            100.0 * coverage.share("shape")
        );
        assert!(error.abs() <= TOLERANCE, "{error}");
        assert!(error.abs() < error_by_peak.abs());
        assert!(coverage.share("shape") > 0.85);
        let all = coverage.share("shape") + coverage.share("rule") + coverage.share("untouched");
        assert!((all - 1.0).abs() < 1e-9);
    }
}

#[test]
fn the_recorded_device_is_found_by_its_model_number_and_memory() {
    for (path, expected) in [
        ("tracelens/h100/gaunernst_bert-small-uncased__1016001.json.gz", "h100-sxm"),
        ("tracelens/mi300/gaunernst_bert-small-uncased__1016001.json.gz", "mi300x"),
        ("tracelens/b200", "b200"),
    ] {
        let Some(ranks) = corpus_ranks(path) else { return };
        assert_eq!(recorded_accelerator(&ranks, None, catalogue()).unwrap().name, expected);
    }
}

#[test]
fn memory_bound_kernels_follow_bytes_and_bandwidth_exactly() {
    // Ten additions of 64 MiB each: two read and one written, 100 us apiece.
    let mut made = Made::new("pytorch-kineto", 1);
    let shape =
        ("aten::add", "[[4096,8192],[4096,8192],[]]", "[c10::BFloat16,c10::BFloat16,Scalar]");
    for i in 0..10 {
        made.kernel(0, "add", (i * 1000, 20_000 + i * 100_000, 100_000), Some(shape));
    }
    let ranks = made.ranks();
    let replay = replay_changed(&ranks, &on("h200")).unwrap();
    let bytes = 3.0 * 4096.0 * 8192.0 * 2.0;
    let time =
        |name: &str| MemoryModel::new(catalogue().accelerator(name).unwrap()).seconds(bytes, 1).0;
    let expected = 10.0 * (100_000.0 * time("h200") / time("h100-sxm")).round();
    let (before, predicted) = compute(&replay);
    // Whole nanoseconds.
    assert!((before - 1e6).abs() <= 1.0 && (predicted - expected).abs() <= 1.0, "{predicted}");
    // The device is always busy, so the step follows.
    assert_eq!(replay.ranks[0].predicted_ns.unwrap(), expected as i64);
    assert!((replay.what_if.unwrap().coverage.unwrap().share("shape") - 1.0).abs() < 1e-9);
}

#[test]
fn the_same_accelerator_changes_nothing() {
    let Some(ranks) = corpus_ranks("tracelens/h100") else { return };
    let replay = replay_changed(&ranks[..1], &on("h100-sxm")).unwrap();
    let (before, predicted) = compute(&replay);
    assert!((before - predicted).abs() <= 1.0, "{before} {predicted}");
}
