//! Damaged, mutated and hostile input: no panic, no hang, memory bounded by the input.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod support;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use trainyard::trace::analysis::inspect;
use trainyard::trace::format::{Compression, read, write};
use trainyard::trace::import::{import, kineto};
use trainyard::trace::model::TraceSet;

use support::mutation::{Random, mutate};

/// Reads, inspects, and writes and reads again. Gives the number of events.
fn survive(bytes: &[u8], round_trip: bool) -> usize {
    let Ok(rank) = kineto::read(bytes, "rank-0.json") else { return 0 };
    let events = rank.events.len();
    let retained = rank.heap_bytes();
    // An event takes at least 20 bytes of text and at most 200 in memory, plus its strings.
    assert!(retained <= 20 * bytes.len() + (1 << 20), "{retained} for {}", bytes.len());
    let mut other = rank.clone();
    other.header.rank += 1;
    let set = TraceSet { ranks: vec![rank, other] };
    let report = inspect(&set);
    for rank in &report.ranks {
        for w in &rank.windows {
            assert_eq!(w.span_ns, w.compute_ns + w.comm_exposed_ns + w.mem_exposed_ns + w.idle_ns);
        }
    }
    if let Some(path) = &report.traces[0].critical_path {
        assert_eq!(path.parts.values().sum::<i64>(), path.span_ns);
    }
    serde_json::to_string(&report).unwrap();
    // A damaged recording may refuse to be a program; it must not panic or hang.
    let _ = trainyard::outcome::replay_recorded(&set.ranks);
    if round_trip {
        let _ = trainyard::trace::view::html(&report, &set);
        let _ = trainyard::trace::view::table(&report, 5);
        let folder = tempfile::tempdir().unwrap();
        write(&set, folder.path(), Compression::None).unwrap();
        let again = read(folder.path(), false).unwrap();
        let lost: u64 = again.ranks.iter().map(|r| r.header.losses.unusable_count()).sum();
        let before: u64 = set.ranks.iter().map(|r| r.header.losses.unusable_count()).sum();
        assert_eq!(lost, before, "what is written can be read");
        assert_eq!(again.ranks[0].events.len(), events);
    }
    events
}

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/trace").join(name);
    std::fs::read(path).unwrap()
}

#[test]
fn mutated_fixtures_are_survived() {
    let mut random = Random(4);
    let texts = [fixture("rank-0.json"), fixture("rank-1.json")];
    let mut used = 0;
    for round in 0..3000 {
        let text = mutate(&texts[round % 2], &mut random);
        used += usize::from(survive(&text, round % 10 == 0) > 0);
    }
    // Most mutations leave most events intact: a reader that gives up proves nothing.
    assert!(used > 2000, "{used}");
}

#[test]
fn mutated_real_files_are_survived() {
    let Some(shared) = std::env::var_os("TRAINYARD_SHARED") else {
        eprintln!("skipped: TRAINYARD_SHARED is not set, so there is no corpus of traces");
        return;
    };
    let corpus = PathBuf::from(shared).join("corpus/traces");
    let mut random = Random(5);
    for (file, rounds) in [
        ("hta/critical_path/cuda_event_sync_multi_stream/event_sync_trace.json.gz", 150),
        ("hta/critical_path/alexnet/benchmark_result_2869224_1695835535_trace.json.gz", 25),
        ("hta/amd_trace/mi250_minitoy_train_ROCm6_2_kineto.json.gz", 150),
        ("hta/triton_example/triton_example.json.gz", 150),
        ("hta/cpu_only/rank-34.Jul_15_10_52_41.1074.pt.trace.json.gz", 100),
        ("tracelens/inference/sglang_decode/sglang_Qwen3-8B_decode.json.gz", 15),
    ] {
        let path = corpus.join(file);
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap())
            .read_to_end(&mut text)
            .unwrap();
        let whole = survive(&text, true);
        for _ in 0..rounds {
            survive(&mutate(&text, &mut random), false);
        }
        // Cut anywhere, it gives what is complete in front of the cut.
        let mut last = 0;
        for cut in (1..=20).map(|part| text.len() * part / 20) {
            let events = survive(&text[..cut], false);
            assert!(events >= last && events <= whole, "{file} cut at {cut}");
            last = events;
        }
        assert_eq!(last, whole, "{file}");
    }
}

#[test]
fn mutated_archives_are_survived() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.tar.gz");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    {
        let mut tar = tar::Builder::new(&mut gzip);
        for name in ["rank-0.json", "rank-1.json"] {
            let text = fixture(name);
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append_data(&mut header, name, &text[..]).unwrap();
        }
        tar.finish().unwrap();
    }
    let packed = gzip.finish().unwrap();
    let mut random = Random(6);
    for _ in 0..300 {
        std::fs::write(&path, mutate(&packed, &mut random)).unwrap();
        let _ = import(std::slice::from_ref(&path), false);
    }
}

#[test]
fn mutated_trace_directories_are_survived() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/trace");
    let set = import(&[source], true).unwrap().traces;
    let mut random = Random(7);
    for compression in [Compression::None, Compression::Zstd] {
        write(&set, folder.path(), compression).unwrap();
        let ending = if compression == Compression::None { "csv" } else { "csv.zst" };
        let event_file = format!("rank-00000.{ending}");
        for file in ["trace.json", event_file.as_str()] {
            let path = folder.path().join(file);
            let good = std::fs::read(&path).unwrap();
            for _ in 0..300 {
                std::fs::write(&path, mutate(&good, &mut random)).unwrap();
                if let Ok(set) = read(folder.path(), false) {
                    let _ = inspect(&set);
                }
            }
            std::fs::write(&path, good).unwrap();
        }
    }
    // Without a checksum the rows themselves are all there is to trust.
    let header = folder.path().join("trace.json");
    let mut value: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&header).unwrap()).unwrap();
    value["ranks"].as_array_mut().unwrap().truncate(1);
    let events = &mut value["ranks"][0]["events"];
    events.as_object_mut().unwrap().remove("blake3");
    events["file"] = "rank-00000.csv".into();
    write(&set, folder.path(), Compression::None).unwrap();
    let good = std::fs::read(folder.path().join("rank-00000.csv")).unwrap();
    for _ in 0..600 {
        let bad = mutate(&good, &mut random);
        let rows = bad.iter().filter(|b| **b == b'\n').count().saturating_sub(1);
        value["ranks"][0]["events"]["rows"] = rows.into();
        std::fs::write(&header, value.to_string()).unwrap();
        std::fs::write(folder.path().join("rank-00000.csv"), bad).unwrap();
        if let Ok(set) = read(folder.path(), false) {
            let _ = inspect(&set);
        }
    }
}

#[test]
fn hostile_shapes_take_linear_time() {
    let begin = Instant::now();
    let deep = |open: &str, count: usize| format!("{{\"traceEvents\": [{}", open.repeat(count));
    for text in [
        deep("{\"a\":", 400_000),
        deep("[", 2_000_000),
        deep("{\"", 1_000_000),
        deep("{\"ph\":\"X\"", 300_000),
        deep("\"", 2_000_001),
        deep("{}", 1_000_000),
        deep("{\"ph\":\"X\",\"args\":{\"a\":", 100_000),
        format!("{{{}", "\"k\":1,".repeat(500_000)),
        format!("{{{}", "\"".repeat(2_000_001)),
        format!("{{\"traceEvents\": [{}", "]".repeat(2_000_000)),
        format!("{{\"traceEvents\": [x{}", "],\"".repeat(700_000)),
        "{\"a\":".repeat(500_000),
        "[".repeat(2_000_000),
        deep(
            "{\"ph\":\"X\",\"cat\":\"user_annotation\",\"name\":\"ProfilerStep#1\",\"ts\":1,\"dur\":1},",
            50_000,
        ),
    ] {
        survive(text.as_bytes(), false);
    }
    // Generous: quadratic behaviour would take minutes.
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}
