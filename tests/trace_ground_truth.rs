//! Every PyTorch trace of the corpus against its exact ground truth, to the nanosecond.
//!
//! The corpus is not part of the repository: the tests find it under `TRAINYARD_SHARED` and say so
//! when they are skipped.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod support;

use std::collections::BTreeMap;

use trainyard::trace::analysis::{Window, windows};
use trainyard::trace::import::import;
use trainyard::trace::launches::Launches;

use support::traces::corpus;

type Row = BTreeMap<String, String>;

fn ground_truth(corpus: &std::path::Path, trace: &str) -> Vec<Row> {
    let mut reader = csv::Reader::from_path(corpus.join("ground_truth.csv")).unwrap();
    let rows: Vec<Row> = reader.deserialize().map(Result::unwrap).collect();
    rows.into_iter().filter(|row| row["trace"] == trace).collect()
}

/// Microseconds with three decimals, as nanoseconds.
fn nanos(text: &str) -> i64 {
    let (whole, decimals) = text.split_once('.').unwrap();
    assert_eq!(decimals.len(), 3, "{text}");
    format!("{whole}{decimals}").parse().unwrap()
}

fn check(trace: &str, file: &str, expected_rows: usize) {
    let Some(corpus) = corpus("") else { return };
    let imported = import(&[corpus.join(file)], true).unwrap();
    let found: BTreeMap<String, Vec<Window>> = imported
        .traces
        .ranks
        .iter()
        .map(|rank| (rank.header.rank.to_string(), windows(rank, &Launches::of(rank))))
        .collect();
    let rows = ground_truth(&corpus, trace);
    assert_eq!(rows.len(), expected_rows, "{trace}: rows of ground truth");
    let windows_found: usize = found.values().map(Vec::len).sum();
    assert_eq!(windows_found, expected_rows, "{trace}: windows");
    for row in rows {
        let name = &row["iteration"];
        let place = format!("{trace} rank {} window {name}", row["rank"]);
        let window = found[&row["rank"]]
            .iter()
            .find(|window| window.name == *name)
            .unwrap_or_else(|| panic!("{place}: not found"));
        let kind = serde_json::to_value(window.kind).unwrap();
        assert_eq!(kind, row["window"], "{place}: kind");
        for (column, value) in [
            ("iter_time_us", window.span_ns),
            ("compute_busy_us", window.compute_ns),
            ("comm_busy_us", window.comm_ns),
            ("comm_exposed_us", window.comm_exposed_ns),
            ("idle_us", window.idle_ns),
            ("mem_busy_us", window.mem_ns),
            ("mem_exposed_us", window.mem_exposed_ns),
            ("overlap_us", window.overlap_ns),
            ("kernel_time_sum_us", window.kernel_sum_ns),
        ] {
            assert_eq!(value, nanos(&row[column]), "{place}: {column}");
        }
        for (column, value) in [
            ("n_gpu_kernels", window.kernels),
            ("n_comm_kernels", window.comm_kernels),
            ("n_mem_ops", window.mem_ops),
            ("n_streams", window.streams),
        ] {
            assert_eq!(value.to_string(), row[column], "{place}: {column}");
        }
        if !row["launched_kernels"].is_empty() {
            let launched = window.launched_kernels.unwrap();
            assert_eq!(launched.to_string(), row["launched_kernels"], "{place}: launched_kernels");
        }
        if !row["launched_gpu_span_us"].is_empty() {
            let span = window.launched_span_ns.unwrap();
            assert_eq!(span, nanos(&row["launched_gpu_span_us"]), "{place}: launched_gpu_span_us");
        }
        assert_eq!(
            window.span_ns,
            window.compute_ns + window.comm_exposed_ns + window.mem_exposed_ns + window.idle_ns,
            "{place}: the parts make up the window"
        );
    }
}

macro_rules! ground_truth {
    ($($test:ident: $trace:literal, $file:literal, $rows:literal;)+) => {
        $(
            #[test]
            fn $test() {
                check($trace, $file, $rows);
            }
        )+

        #[test]
        fn no_row_of_ground_truth_is_left_out() {
            let Some(corpus) = corpus("") else { return };
            let mut reader = csv::Reader::from_path(corpus.join("ground_truth.csv")).unwrap();
            let total = reader.records().count();
            assert_eq!(total, [$($rows),+].into_iter().sum::<usize>());
        }
    };
}

ground_truth! {
    amd_mi250_minitoy: "hta/amd_trace/mi250_minitoy_train_ROCm6_2_kineto", "hta/amd_trace/mi250_minitoy_train_ROCm6_2_kineto.json.gz", 3;
    critical_path_alexnet: "hta/critical_path/alexnet/benchmark_result_2869224_1695835535_trace", "hta/critical_path/alexnet/benchmark_result_2869224_1695835535_trace.json.gz", 1;
    cuda_event_sync: "hta/critical_path/cuda_event_sync/event_sync_trace", "hta/critical_path/cuda_event_sync/event_sync_trace.json.gz", 2;
    cuda_event_sync_multi_stream: "hta/critical_path/cuda_event_sync_multi_stream/event_sync_trace", "hta/critical_path/cuda_event_sync_multi_stream/event_sync_trace.json.gz", 1;
    end_to_end_simple_add: "hta/critical_path/end_to_end/simple_add/input/trace", "hta/critical_path/end_to_end/simple_add/input/trace.json.gz", 1;
    simple_add: "hta/critical_path/simple_add/benchmark_result_493459_1694039959_trace", "hta/critical_path/simple_add/benchmark_result_493459_1694039959_trace.json.gz", 1;
    nccl_parser_config: "hta/nccl_parser_config/nccl_data", "hta/nccl_parser_config/nccl_data.json.gz", 4;
    ns_resolution: "hta/ns_resolution_trace/rank-0.Apr_03_18_51_38.1102.pt.trace", "hta/ns_resolution_trace/rank-0.Apr_03_18_51_38.1102.pt.trace.json.gz", 6;
    timeline_analysis_rank_0: "hta/timeline_analysis/sampled_rank-0", "hta/timeline_analysis/sampled_rank-0.json.gz", 3;
    trace_diff_control: "hta/trace_diff/control/control", "hta/trace_diff/control/control.json.gz", 7;
    trace_filter_rank_1: "hta/trace_filter/sampled_rank-1", "hta/trace_filter/sampled_rank-1.json.gz", 3;
    triton_example: "hta/triton_example/triton_example", "hta/triton_example/triton_example.json.gz", 2;
    dlrm_8_ranks: "param/dlrm_kineto", "param/dlrm_kineto.tar.gz", 16;
    resnet50_workers_0: "kineto_tb/resnet50_num_workers_0/worker0.1623143566756_383a06", "kineto_tb/resnet50_num_workers_0__worker0.1623143566756_383a06.pt.trace.json.gz", 7;
    resnet50_workers_4: "kineto_tb/resnet50_num_workers_4/worker0.1623213129365_3e633b", "kineto_tb/resnet50_num_workers_4__worker0.1623213129365_3e633b.pt.trace.json.gz", 7;
    b200_eager: "tracelens/b200/eager_trace", "tracelens/b200/eager_trace.json.gz", 1;
    h100_vit: "tracelens/h100/Falconsai_nsfw_image_detection__1016002", "tracelens/h100/Falconsai_nsfw_image_detection__1016002.json.gz", 2;
    h100_bert: "tracelens/h100/gaunernst_bert-small-uncased__1016001", "tracelens/h100/gaunernst_bert-small-uncased__1016001.json.gz", 2;
    sglang_decode: "tracelens/inference/sglang_decode/sglang_Qwen3-8B_decode", "tracelens/inference/sglang_decode/sglang_Qwen3-8B_decode.json.gz", 1;
    sglang_prefill_decode: "tracelens/inference/sglang_prefilldecode/sglang_Qwen3-8B_prefilldecode", "tracelens/inference/sglang_prefilldecode/sglang_Qwen3-8B_prefilldecode.json.gz", 1;
    mi300_vit: "tracelens/mi300/Falconsai_nsfw_image_detection__1016002", "tracelens/mi300/Falconsai_nsfw_image_detection__1016002.json.gz", 2;
    mi300_bert: "tracelens/mi300/gaunernst_bert-small-uncased__1016001", "tracelens/mi300/gaunernst_bert-small-uncased__1016001.json.gz", 2;
    mi300_resnet: "tracelens/mi300/resnet_act_checkpoint", "tracelens/mi300/resnet_act_checkpoint.json.gz", 4;
}
