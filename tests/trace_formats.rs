//! Every file of the corpus that is not a PyTorch profiler trace, against its ground truth.
//!
//! Where the corpus has no table of ground truth (Nsight Systems, rocprof, Chakra, execution
//! traces), the figures here were computed from the files by a script that shares no code with the
//! importers: SQL and unions of intervals, on whole nanoseconds.
//!
//! `cargo test --test trace_formats ascend -- --nocapture` prints how far from the vendor's split of
//! the Ascend profiler ours is, beside the target.

#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;

use trainyard::trace::analysis::{Window, windows};
use trainyard::trace::import::{Imported, import};
use trainyard::trace::launches::Launches;
use trainyard::trace::model::{Kind, RankTrace};

use support::traces::corpus;

fn read(path: &str) -> Option<Imported> {
    Some(import(&[corpus(path)?], false).unwrap())
}

fn whole(rank: &RankTrace) -> Window {
    let all = windows(rank, &Launches::of(rank));
    all.into_iter().find(|window| window.name == "ALL").unwrap()
}

fn count(rank: &RankTrace, kind: Kind) -> usize {
    rank.events.iter().filter(|event| event.kind == kind).count()
}

/// Span, kernels, communication kernels, memory operations, compute, communication, exposed
/// communication, memory, idle.
type Row = [i64; 9];

fn row(rank: &RankTrace) -> Row {
    let w = whole(rank);
    let n = |count: u64| i64::try_from(count).unwrap();
    [
        w.span_ns,
        n(w.kernels),
        n(w.comm_kernels),
        n(w.mem_ops),
        w.compute_ns,
        w.comm_ns,
        w.comm_exposed_ns,
        w.mem_ns,
        w.idle_ns,
    ]
}

fn check_nsys(file: &str, expected: &[Row], schema: &str) {
    let Some(imported) = read(&format!("nsys_sqlite/{file}")) else { return };
    assert!(imported.unused.is_empty());
    let ranks = &imported.traces.ranks;
    assert_eq!(ranks.len(), expected.len(), "{file}");
    assert_eq!(imported.traces.traces().count(), 1, "{file}: its ranks ran together");
    for (rank, expected) in ranks.iter().zip(expected) {
        assert_eq!(row(rank), *expected, "{file} rank {}", rank.header.rank);
        let versions = &rank.header.identity.software;
        assert!(versions.iter().any(|v| v.version.starts_with(schema)), "{versions:?}");
        assert_eq!(rank.header.losses.unusable_count(), 0);
    }
}

#[test]
fn nsight_schema_3_25_two_gpus() {
    check_nsys(
        "h100_2gpu_1s.sqlite.gz",
        &[
            [969447605, 1721, 0, 463, 22385163, 0, 0, 940505084, 6557358],
            [969258578, 1721, 0, 463, 22444359, 0, 0, 940366346, 6447873],
        ],
        "3.25",
    );
}

#[test]
fn nsight_schema_3_25_two_gpus_with_communication() {
    check_nsys(
        "mfu_2gpu_after.sqlite.gz",
        &[
            [299251215, 1793, 31, 573, 227484352, 9989016, 9989016, 2635381, 59142466],
            [299269422, 1794, 31, 573, 227608953, 23753085, 23753085, 2638716, 45268668],
        ],
        "3.25",
    );
}

#[test]
fn nsight_schema_3_20_with_steps() {
    check_nsys(
        "cs336_h100_result.sqlite.gz",
        &[[641222377, 3000, 0, 264, 633311257, 0, 0, 253982, 7657138]],
        "3.20",
    );
    let Some(imported) = read("nsys_sqlite/cs336_h100_result.sqlite.gz") else { return };
    let rank = &imported.traces.ranks[0];
    let steps: Vec<(&str, i64)> =
        rank.header.windows.iter().map(|w| (w.name.as_str(), w.dur_ns)).collect();
    let expected = [("11", 134229411), ("12", 160184825), ("13", 160274391), ("14", 160396176)];
    assert_eq!(steps, expected);
    assert_eq!(count(rank, Kind::Runtime) + count(rank, Kind::Driver), 3532);
    assert_eq!(rank.header.identity.devices.len(), 8);
}

#[test]
fn rocprof_version_1() {
    let Some(imported) = read("rocprof_v1/HIP_trace__results.json") else { return };
    let rank = &imported.traces.ranks[0];
    assert_eq!(count(rank, Kind::Kernel), 1);
    assert_eq!(count(rank, Kind::Memcpy), 6);
    let kernel = rank.events.iter().find(|e| e.kind == Kind::Kernel).unwrap();
    assert_eq!((kernel.dur_ns, kernel.device, kernel.lane), (5280, 2, 1));
    // The vendor's own statistics of the same run: calls and total time.
    let calls = |name: &str| {
        let of = rank.events.iter().filter(|e| e.kind == Kind::Runtime && rank.name(e) == name);
        of.fold((0, 0), |(count, total), e| (count + 1, total + e.dur_ns))
    };
    assert_eq!(calls("hipMemcpyWithStream"), (6, 276_004_952));
    assert_eq!(calls("hipLaunchKernel"), (1, 9_406_206));
}

#[test]
fn rocprof_version_3_json() {
    let Some(imported) = read("tracelens/rocprof/908_results.json.gz") else { return };
    let rank = &imported.traces.ranks[0];
    assert_eq!(
        row(rank),
        [15122023494, 43915, 1310, 0, 281681933, 4158756678, 3951430401, 0, 10888911160]
    );
    assert_eq!(rank.header.identity.devices.len(), 8);
    assert_eq!(rank.header.identity.devices[0].name, "AMD Instinct MI350X");
    // Host name and command line are nowhere.
    let header = serde_json::to_string(&rank.header).unwrap();
    assert!(!header.contains("smci350") && !header.contains("python"), "{header}");
}

#[test]
fn rocprof_version_3_tables() {
    let Some(imported) = read("rocprofv3_csv") else { return };
    // Samples of five runs, so nothing is joined that did not run together.
    let mut kinds: BTreeMap<Kind, usize> = BTreeMap::new();
    for rank in &imported.traces.ranks {
        for event in &rank.events {
            *kinds.entry(event.kind).or_default() += 1;
        }
    }
    assert_eq!(kinds.get(&Kind::Memcpy), Some(&2));
    let kernels = imported.traces.ranks.iter().find(|r| count(r, Kind::Kernel) > 0).unwrap();
    let first = kernels.events.iter().find(|e| e.kind == Kind::Kernel).unwrap();
    assert_eq!(first.dur_ns, 48_744);
    let geometry = kernels.geometry(first).unwrap();
    assert_eq!((geometry.grid, geometry.block), ([16, 1024, 1], [64, 1, 1]));
}

/// Microseconds of the vendor and of ours: at most a quarter of one apart.
const VENDOR_US: f64 = 0.25;

fn ascend(set: &str, path: &str) {
    let Some(imported) = read(path) else { return };
    let corpus = corpus("").unwrap();
    let mut table = csv::Reader::from_path(corpus.join("ground_truth_ascend.csv")).unwrap();
    let rows: Vec<BTreeMap<String, String>> = table.deserialize().map(Result::unwrap).collect();
    let rows: Vec<_> = rows.into_iter().filter(|row| row["set"] == set).collect();
    assert_eq!((rows.len(), imported.traces.ranks.len()), (2, 2));
    assert_eq!(imported.traces.traces().count(), 1, "both ranks ran together");
    let mut largest = 0.0_f64;
    for row in rows {
        let number: u32 = row["rank"].parse().unwrap();
        let rank = imported.traces.ranks.iter().find(|r| r.header.rank == number).unwrap();
        let kernels: Vec<_> = rank.events.iter().filter(|e| e.kind == Kind::Kernel).collect();
        assert_eq!(kernels.len().to_string(), row["n_kernel_rows"]);
        let mut only = rank.clone();
        only.events = kernels.into_iter().copied().collect();
        let w = whole(&only);
        for (column, ns) in [
            ("our_computing", w.compute_ns),
            ("our_comm", w.comm_ns),
            ("our_exposed", w.comm_exposed_ns),
            ("our_span", w.span_ns),
            ("our_free_within_span", w.idle_ns),
        ] {
            let us: f64 = row[column].parse().unwrap();
            // The vendor writes durations with seven decimals; rounding each to a nanosecond moves
            // an edge by half of one, and there are ten edges between computing and communication.
            let distance = ((us * 1000.0).round() as i64 - ns).abs();
            assert!(distance <= 5, "{set} rank {number} {column}: {distance} ns");
        }
        for (column, ns) in [
            ("vendor_computing", w.compute_ns),
            ("vendor_comm_not_overlapped", w.comm_exposed_ns),
            ("vendor_overlapped", w.overlap_ns),
            ("vendor_comm", w.comm_ns),
            ("vendor_free", w.idle_ns),
        ] {
            let us: f64 = row[column].parse().unwrap();
            let distance = (us - ns as f64 / 1000.0).abs();
            largest = largest.max(distance);
            assert!(distance <= VENDOR_US, "{set} rank {number} {column}: {distance} us");
        }
        let step: f64 = row["step_us"].parse().unwrap();
        let window = &rank.header.windows[0];
        assert_eq!((window.name.as_str(), window.dur_ns), ("50", (step * 1000.0).round() as i64));
    }
    println!("{set}: at most {largest:.3} us from the vendor's split (target {VENDOR_US})");
}

#[test]
fn ascend_text_level_0() {
    ascend("msinsight/level0", "ascend_msinsight/data/pytorch/text/level0");
}

#[test]
fn ascend_text_level_2() {
    ascend("msinsight/level2", "ascend_msinsight/data/pytorch/text/level2");
}

#[test]
fn ascend_database() {
    let Some(imported) = read("ascend_msinsight/data/pytorch/db") else { return };
    assert_eq!(imported.traces.ranks.len(), 2);
    // The vendor's split of rank 0, from its analysis database, in nanoseconds.
    let rank = &imported.traces.ranks[0];
    let mut only = rank.clone();
    only.events.retain(|e| e.kind == Kind::Kernel);
    let w = whole(&only);
    assert_eq!((w.compute_ns, w.comm_ns), (8_900_456, 94_107_521));
    assert_eq!((w.comm_exposed_ns, w.overlap_ns), (90_080_699, 4_026_822));
    assert_eq!((w.idle_ns + 500) / 1000, (25_238_587 + 500) / 1000);
    assert_eq!(w.kernels, 191);
    assert_eq!(rank.header.windows[0].dur_ns, 143_741_870);
    assert_eq!(rank.header.identity.devices[0].name, "Ascend910B");
    let header = serde_json::to_string(&rank.header).unwrap();
    assert!(!header.contains("90.91") && !header.contains("ASCEND_"), "{header}");
}

#[test]
fn ascend_tables_and_views_that_stand_alone() {
    for (file, kernels) in [
        ("ascend/advisor_backend/compute_advice/kernel_details.csv", None),
        ("ascend/compute_advice/data/kernel_details.csv", None),
        ("ascend/timeline_advice/trace_view.json", Some(274)),
    ] {
        let Some(imported) = read(file) else { return };
        let rank = &imported.traces.ranks[0];
        let expected = kernels.unwrap_or_else(|| {
            let text = std::fs::read_to_string(corpus("").unwrap().join(file)).unwrap();
            text.lines().count() - 1
        });
        let device = rank.events.iter().filter(|e| e.kind.is_device()).count();
        assert_eq!(count(rank, Kind::Kernel), expected, "{file}: {device} on the device");
        assert_eq!(rank.header.losses.unusable_count(), 0, "{file}");
    }
}

#[test]
fn operations_of_the_straggler_job() {
    let Some(imported) = read("bytedance_straggler/trace-ST.parquet") else { return };
    let ranks = &imported.traces.ranks;
    assert_eq!(ranks.len(), 8);
    assert_eq!(ranks.iter().map(|r| r.events.len()).sum::<usize>(), 6784);
    let corpus = corpus("").unwrap();
    let mut table = csv::Reader::from_path(corpus.join("ground_truth_straggler.csv")).unwrap();
    let rows: Vec<BTreeMap<String, String>> = table.deserialize().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 32);
    for row in rows {
        let window = ranks[0].header.windows.iter().find(|w| w.name == row["step"]).unwrap();
        let us: f64 = row["iter_time_us_span"].parse().unwrap();
        // The table has a tenth of a microsecond.
        assert!((us - window.dur_ns as f64 / 1000.0).abs() <= 0.2, "step {}", row["step"]);
    }
}

#[test]
fn primus_logs() {
    let Some(imported) = read("primus_pp") else { return };
    let ranks = &imported.traces.ranks;
    assert_eq!((ranks.len(), imported.traces.traces().count()), (8, 1));
    let corpus = corpus("").unwrap();
    let mut table = csv::Reader::from_path(corpus.join("ground_truth_pp.csv")).unwrap();
    let rows: Vec<BTreeMap<String, String>> = table.deserialize().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 160);
    for row in rows {
        let number: usize = row["rank"].parse().unwrap();
        let rank = &ranks[number];
        let window = rank.header.windows.iter().find(|w| w.name == row["iteration"]).unwrap();
        let ns = |column: &str| (row[column].parse::<f64>().unwrap() * 1e6).round() as i64;
        let near = |a: i64, b: i64, slack: i64| (a - b).abs() <= slack;
        assert!(near(window.dur_ns, ns("total_ms"), 1000), "{row:?}");
        let end = window.start_ns + window.dur_ns;
        let sum = |name: &str| {
            let inside = rank
                .events
                .iter()
                .filter(|e| rank.name(e) == name && (window.start_ns..=end).contains(&e.start_ns));
            inside.map(|e| e.dur_ns).sum::<i64>()
        };
        assert!(near(sum("forward-compute"), ns("sum_fwd_ms"), 1000), "{row:?}");
        assert!(near(sum("backward-compute"), ns("sum_bwd_ms"), 1000), "{row:?}");
    }
}

#[test]
fn chakra_in_both_encodings() {
    // The JSON file and the binary one are conversions of the same run: 3,664 nodes, 1,216 of them
    // on the device (seven collectives), 329,543 us of device time.
    for file in ["chakra/json_trace.tar.gz", "chakra/feeder_tests_trace.tar.gz"] {
        let Some(imported) = read(file) else { return };
        let rank = imported.traces.ranks.iter().max_by_key(|r| r.events.len()).unwrap();
        assert_eq!(rank.events.len(), 3664, "{file}");
        let kernels: Vec<_> = rank.events.iter().filter(|e| e.kind == Kind::Kernel).collect();
        assert_eq!(kernels.len(), 1216, "{file}");
        assert_eq!(kernels.iter().map(|e| e.dur_ns).sum::<i64>(), 329_543_000, "{file}");
        assert_eq!(kernels.iter().filter(|e| e.communicates).count(), 7, "{file}");
        assert_eq!(rank.header.losses.unusable_count(), 0, "{file}");
    }
    let Some(imported) = read("chakra/json_trace.tar.gz") else { return };
    let small = imported.traces.ranks.iter().min_by_key(|r| r.events.len()).unwrap();
    assert_eq!(small.events.len(), 7);
}

#[test]
fn execution_traces_of_every_schema() {
    for (file, ranks, operators) in [
        ("chakra/1.0.2-chakra.0.0.4.tgz", 1, 263),
        ("param/1.0.3-chakra.0.0.4/resnet_1gpu_et.json.gz", 1, 14391),
        ("param/dlrm_pytorch_et.tar.gz", 8, 1675),
    ] {
        let Some(imported) = read(file) else { return };
        assert_eq!(imported.traces.ranks.len(), ranks, "{file}");
        for rank in &imported.traces.ranks {
            assert_eq!(count(rank, Kind::Op), operators, "{file} rank {}", rank.header.rank);
        }
    }
}

#[test]
fn an_execution_trace_completes_the_profiler_trace_of_its_rank() {
    let Some(corpus) = corpus("") else { return };
    let both = ["param/dlrm_kineto.tar.gz", "param/dlrm_pytorch_et.tar.gz"];
    let imported = import(&both.map(|file| corpus.join(file)), false).unwrap();
    assert_eq!(imported.traces.ranks.len(), 8);
    for rank in &imported.traces.ranks {
        assert!(count(rank, Kind::Kernel) > 100, "the kernels of the profiler are there");
        let known = rank.events.iter().filter(|e| e.communicates).filter_map(|e| {
            rank.collective(e)
                .map(|c| (rank.names.get(c.op), c.in_elements, rank.names.get(c.dtype)))
        });
        let known: Vec<_> = known.collect();
        // One all-reduce of 394,241 floats is the gradient of the dense layers.
        assert!(known.contains(&("allreduce", 394_241, "float")), "{known:?}");
    }
}
