//! Damaged, mutated and cut files of every other format: no panic, no hang, memory bounded by the
//! input. What an importer gives can be inspected, replayed and written.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod support;

use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use trainyard::outcome::{Network, Pipeline, Straggler, WhatIf};
use trainyard::plan::Schedule;
use trainyard::trace::analysis::inspect;
use trainyard::trace::format::{Compression, read, write};
use trainyard::trace::import::read_bytes;
use trainyard::trace::model::TraceSet;

use support::mutation::{Random, mutate};

/// Bytes in place only: in a format of offsets, anything else ends at the first of them.
fn mutate_in_place(good: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(2) {
            0 => bytes[at] = random.next() as u8,
            _ => bytes[at] ^= 1 << random.below(8),
        }
    }
    bytes
}

/// Changes that most recordings can have.
fn what_ifs() -> [WhatIf; 5] {
    let network = Network { bandwidth: 2.0, latency: 0.5, added_ns: 1000 };
    let pipeline =
        Pipeline { schedule: Some(Schedule::Gpipe), chunks: None, micro_batches: Some(7) };
    [
        WhatIf { network, ..WhatIf::default() },
        WhatIf { data_parallel: Some(3), ..WhatIf::default() },
        WhatIf { pipeline, ..WhatIf::default() },
        WhatIf { remove: vec!["a".into()], ..WhatIf::default() },
        WhatIf { without: vec![Straggler::Rank(0)], ..WhatIf::default() },
    ]
}

/// Reads, inspects, replays, and now and then writes and reads again.
fn survive(bytes: &[u8], file: &str, round_trip: bool) -> bool {
    let Ok(ranks) = read_bytes(bytes, file) else { return false };
    let retained: usize = ranks.iter().map(|rank| rank.heap_bytes()).sum();
    assert!(retained <= 40 * bytes.len() + (4 << 20), "{retained} for {}", bytes.len());
    let set = TraceSet { ranks };
    if set.ranks.iter().any(|rank| !rank.events.is_empty()) {
        let report = inspect(&set);
        for rank in &report.ranks {
            for w in &rank.windows {
                let parts = w.compute_ns + w.comm_exposed_ns + w.mem_exposed_ns + w.idle_ns;
                assert_eq!(w.span_ns, parts);
            }
        }
        let _ = trainyard::outcome::replay_recorded(&set.ranks);
        // A log of one pipeline rank does not say of how many; as if it were all of them.
        if let [alone] = set.ranks.as_slice()
            && alone.header.world_size.is_none()
        {
            let mut alone = alone.clone();
            alone.header.world_size = Some(1);
            let _ = trainyard::outcome::replay_recorded(&[alone]);
        }
        if round_trip {
            for what_if in what_ifs() {
                let _ = trainyard::outcome::replay_changed(&set.ranks, &what_if);
            }
        }
    }
    if round_trip {
        let folder = tempfile::tempdir().unwrap();
        write(&set, folder.path(), Compression::None).unwrap();
        let again = read(folder.path(), false).unwrap();
        assert_eq!(again.ranks.len(), set.ranks.len());
    }
    true
}

/// The unpacked bytes of a file, or of the first file of an archive.
fn unpacked(path: &PathBuf) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut inner = Vec::new();
        flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut inner).unwrap();
        bytes = inner;
    }
    if bytes.get(257..262) == Some(b"ustar") {
        let mut archive = tar::Archive::new(&bytes[..]);
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            if entry.header().entry_type().is_file() && !name.contains("._") {
                let mut inner = Vec::new();
                entry.read_to_end(&mut inner).unwrap();
                return inner;
            }
        }
    }
    bytes
}

/// The JSON of a file with the lists at these places cut to so many members: every round of a
/// mutation reads all of it, and a member more says nothing new.
fn shortened(whole: &[u8], places: &[&str], most: usize) -> Vec<u8> {
    let mut value: serde_json::Value = serde_json::from_slice(whole).unwrap();
    for place in places {
        let list = value.pointer_mut(place).unwrap().as_array_mut().unwrap();
        assert!(list.len() > most, "{place} has {} members", list.len());
        list.truncate(most);
    }
    serde_json::to_vec_pretty(&value).unwrap()
}

#[test]
fn mutated_files_of_every_format_are_survived() {
    let Some(shared) = std::env::var_os("TRAINYARD_SHARED") else {
        eprintln!("skipped: TRAINYARD_SHARED is not set, so there is no corpus of traces");
        return;
    };
    let corpus = PathBuf::from(shared).join("corpus/traces");
    let text = "ascend_msinsight/data/pytorch/text/level2/rank0_ascend_pt/ASCEND_PROFILER_OUTPUT";
    let database = "ascend_msinsight/data/pytorch/db/level2/rank0_ascend_pt/ASCEND_PROFILER_OUTPUT";
    let mut random = Random(11);
    for (file, rounds) in [
        ("nsys_sqlite/cs336_h100_result.sqlite.gz".to_owned(), 60),
        (format!("{database}/ascend_pytorch_profiler_0.db.gz"), 60),
        (format!("{text}/trace_view.json.gz"), 20),
        (format!("{text}/kernel_details.csv.gz"), 100),
        ("rocprof_v1/HIP_trace__results.json".to_owned(), 100),
        ("rocprofv3_csv/kernel_trace.csv".to_owned(), 300),
        ("rocprofv3_csv/hip_runtime_trace.csv".to_owned(), 300),
        ("tracelens/rocprof/908_results.json.gz".to_owned(), 200),
        ("param/1.0.3-chakra.0.0.4/resnet_1gpu_et.json.gz".to_owned(), 200),
        ("chakra/json_trace.tar.gz".to_owned(), 10),
        ("chakra/feeder_tests_trace.tar.gz".to_owned(), 20),
        ("chakra/1.0.2-chakra.0.0.4.tgz".to_owned(), 60),
        ("bytedance_straggler/trace-ST.parquet".to_owned(), 100),
        ("primus_pp/gpu8_layer64_gbs16/pp8/pp_rank_0.json".to_owned(), 100),
    ] {
        let begin = Instant::now();
        let mut whole = unpacked(&corpus.join(&file));
        if file.starts_with("tracelens/rocprof") {
            let tool = "/rocprofiler-sdk-tool/0";
            let lists = ["kernel_symbols", "buffer_records/kernel_dispatch"];
            let lists = lists.map(|list| format!("{tool}/{list}"));
            whole = shortened(&whole, &lists.each_ref().map(String::as_str), 60);
        } else if file.starts_with("param/1.0.3") {
            whole = shortened(&whole, &["/nodes"], 80);
        }
        assert!(survive(&whole, "rank-0", true), "{file}");
        let mut used = 0;
        for _ in 0..rounds {
            let binary = [".sqlite", ".db", ".parquet"].iter().any(|kind| file.contains(kind));
            let bad = if binary { mutate_in_place } else { mutate }(&whole, &mut random);
            used += usize::from(survive(&bad, "rank-0", false));
        }
        for part in 1..10 {
            survive(&whole[..whole.len() * part / 10], "rank-0", false);
        }
        eprintln!("{file}: {used} of {rounds} mutations read, {:?}", begin.elapsed());
        // A reader that gives up proves nothing; checksums and magic numbers are for others.
        assert!(used * 10 >= rounds, "{file}: {used} of {rounds}");
        assert!(begin.elapsed() < Duration::from_secs(120), "{file}: {:?}", begin.elapsed());
    }
}
