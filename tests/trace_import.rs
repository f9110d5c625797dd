//! Importing profiler output: what is kept, what is refused, what is reported.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::io::Write;
use std::path::{Path, PathBuf};

use trainyard::trace::analysis::inspect;
use trainyard::trace::header::RankSource;
use trainyard::trace::import::{import, kineto};
use trainyard::trace::model::{Kind, RankTrace};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/trace").join(name)
}

fn read(text: &str) -> RankTrace {
    kineto::read(text.as_bytes(), "test.json").unwrap_or_else(|why| panic!("{why}: {text}"))
}

/// A trace of these events and nothing else.
fn events(list: &str) -> RankTrace {
    read(&format!("{{\"traceEvents\": [{list}]}}"))
}

const KERNEL: &str = r#"{"ph":"X","cat":"kernel","name":"k","pid":0,"tid":7,"ts":10.5,"dur":2.25,"args":{"device":0,"stream":7,"correlation":5}}"#;

fn starts(trace: &RankTrace) -> Vec<i64> {
    let base = trace.header.clock.base_unix_ns;
    trace.events.iter().map(|event| base + event.start_ns).collect()
}

#[test]
fn a_folder_of_ranks_becomes_one_trace_on_one_clock() {
    let imported = import(&[fixture("")], true).unwrap();
    let ranks = &imported.traces.ranks;
    assert_eq!(ranks.len(), 2);
    assert!(ranks.iter().all(|rank| rank.header.trace == "trace"));
    // The clock of rank 1 is 3 ms ahead, and its base time is another one.
    assert_eq!(ranks[0].header.clock.offset_ns, 0);
    assert_eq!(ranks[1].header.clock.offset_ns, -3_000_000);
    assert_eq!(ranks[1].header.clock.aligned_on, 2);
    assert_eq!(ranks[1].header.clock.residual_ns, 0);
    let rank = &ranks[1];
    assert_eq!(rank.header.rank_source, RankSource::Recorded);
    assert_eq!(rank.header.world_size, Some(2));
    assert_eq!(rank.header.identity.devices[1].name, "NVIDIA A100-SXM4-80GB");
    assert_eq!(rank.header.groups[0].ranks, [0, 1]);
    let kernels: Vec<_> = rank.events.iter().filter(|e| e.kind == Kind::Kernel).collect();
    assert_eq!(kernels.len(), 4);
    assert_eq!(kernels[0].dur_ns, 400_000);
    assert_eq!(rank.geometry(kernels[0]).unwrap().grid, [64, 1, 1]);
    assert!(!kernels[0].communicates && kernels[1].communicates);
    let collective = rank.collective(kernels[1]).unwrap();
    assert_eq!(rank.names.get(collective.dtype), "BFloat16");
    assert_eq!(collective.in_elements, 1_000_000);
    let op = rank.events.iter().find(|e| e.kind == Kind::Op).unwrap();
    assert_eq!(rank.names.get(rank.op(op).unwrap().dims), "[[128,256],[256,64]]");
    let copy = rank.events.iter().find(|e| e.kind == Kind::Memcpy).unwrap();
    assert_eq!(rank.bytes(copy), Some(4096));
}

#[test]
fn files_named_one_by_one_are_ranks_of_one_trace() {
    let imported = import(&[fixture("rank-1.json"), fixture("rank-0.json")], true).unwrap();
    let ranks: Vec<u32> = imported.traces.ranks.iter().map(|rank| rank.header.rank).collect();
    assert_eq!(ranks, [0, 1]);
    assert_eq!(imported.traces.traces().count(), 1);
}

#[test]
fn archives_and_compressed_files_give_what_the_folder_gives() {
    let folder = tempfile::tempdir().unwrap();
    let tar_path = folder.path().join("run.tar.gz");
    let gzip = flate2::write::GzEncoder::new(
        std::fs::File::create(&tar_path).unwrap(),
        flate2::Compression::fast(),
    );
    let mut tar = tar::Builder::new(gzip);
    tar.append_path_with_name(fixture("rank-0.json"), "run/rank-0.json").unwrap();
    // A compressed member inside the compressed archive.
    let text = std::fs::read(fixture("rank-1.json")).unwrap();
    let mut inner = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    inner.write_all(&text).unwrap();
    let inner = inner.finish().unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(inner.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append_data(&mut header, "run/rank-1.json.gz", &inner[..]).unwrap();
    tar.into_inner().unwrap().finish().unwrap();
    let plain = import(&[fixture("")], true).unwrap();
    let packed = import(&[tar_path], true).unwrap();
    assert_eq!(packed.traces.ranks.len(), 2);
    for (a, b) in plain.traces.ranks.iter().zip(&packed.traces.ranks) {
        assert_eq!(b.header.trace, "run");
        assert_eq!(a.events, b.events);
        assert_eq!(a.header.clock, b.header.clock);
    }
}

#[test]
fn base_time_is_added_wherever_it_stands() {
    let behind =
        read(&format!("{{\"traceEvents\": [{KERNEL}], \"baseTimeNanoseconds\": 1000000}}"));
    let before =
        read(&format!("{{\"baseTimeNanoseconds\": 1000000, \"traceEvents\": [{KERNEL}]}}"));
    assert_eq!(starts(&behind), [1_010_500]);
    assert_eq!(starts(&before), [1_010_500]);
    assert_eq!(starts(&read(&format!("[{KERNEL}]"))), [10_500]);
}

#[test]
fn times_are_exact_however_they_are_written() {
    for (ts, expected) in [
        ("1712195498563456.123", 1_712_195_498_563_456_123),
        ("1712195498563456", 1_712_195_498_563_456_000),
        ("\"1712195498563456.123\\t\"", 1_712_195_498_563_456_123),
        ("\"1712195498563456.123\"", 1_712_195_498_563_456_123),
        ("1.712195498563456123e15", 1_712_195_498_563_456_123),
    ] {
        let list = KERNEL.replace("10.5", ts);
        if ts.contains("\\t") {
            // An escaped tab is text, not white space: such a time cannot be used.
            assert!(kineto::read(format!("[{list}]").as_bytes(), "t").is_err());
            continue;
        }
        assert_eq!(starts(&events(&list)), [expected], "{ts}");
    }
}

#[test]
fn the_first_schema_is_read_like_the_last() {
    let old = events(
        r#"{"ph":"X","cat":"Operator","name":"ProfilerStep#16","pid":9,"tid":"9","ts":1,"dur":50,"args":{"External id":1}},
           {"ph":"X","cat":"Runtime","name":"cudaLaunchKernel","pid":9,"tid":"9","ts":5,"dur":1,"args":{"correlation":3,"external id":1}},
           {"ph":"X","cat":"Kernel","name":"k","pid":0,"tid":"stream 7","ts":8,"dur":2,"args":{"device":0,"correlation":3,"external id":1}},
           {"ph":"X","cat":"Memset","name":"Memset (Device)","pid":0,"tid":"stream 7","ts":12,"dur":2,"args":{"device":0,"stream":7,"correlation":4,"bytes":64}}"#,
    );
    assert_eq!(old.header.windows[0].name, "16");
    let kernel = old.events.iter().find(|e| e.kind == Kind::Kernel).unwrap();
    assert_eq!((kernel.lane, kernel.device, kernel.correlation()), (7, 0, Some(3)));
    let fill = old.events.iter().find(|e| e.kind == Kind::Memset).unwrap();
    assert_eq!(old.bytes(fill), Some(64));
    assert_eq!(old.header.clock.resolution_ns, 1000);
}

#[test]
fn rocm_writes_sizes_as_text_and_calls_without_correlation() {
    let trace = events(
        r#"{"ph":"X","cat":"cuda_runtime","name":"hipLaunchKernel","pid":9,"tid":9,"ts":5,"dur":1,"args":{"External id":77}},
           {"ph":"X","cat":"kernel","name":"k","pid":2,"tid":0,"ts":8,"dur":2,"args":{"device":2,"stream":0,"correlation":77,"kind":"Dispatch Kernel"}},
           {"ph":"X","cat":"gpu_memcpy","name":"Memcpy HtoD","pid":2,"tid":0,"ts":12,"dur":2,"args":{"device":2,"stream":0,"correlation":78,"size":"2560"}}"#,
    );
    let copy = trace.events.iter().find(|e| e.kind == Kind::Memcpy).unwrap();
    assert_eq!(trace.bytes(copy), Some(2560));
    let report = inspect(&trainyard::trace::model::TraceSet { ranks: vec![trace] });
    assert_eq!((report.ranks[0].launches.launched, report.ranks[0].launches.orphans), (1, 1));
}

#[test]
fn what_cannot_be_used_is_counted_with_its_place() {
    let good = KERNEL;
    let list = [
        good.to_owned(),
        good.replace(",\"dur\":2.25", ""),
        good.replace("2.25", "-1"),
        good.replace("2.25", "Infinity"),
        good.replace("10.5", "NaN"),
        good.replace("10.5", "null"),
        good.replace("\"kernel\"", "\"something_else\""),
        "{}".to_owned(),
        good.replace("10.5", "20"),
    ]
    .join(",\n");
    let trace = events(&list);
    assert_eq!(trace.events.len(), 2);
    let losses = &trace.header.losses;
    assert_eq!(losses.events_read, 9);
    assert_eq!(losses.unusable_count(), 6);
    let what: Vec<(&str, u64)> =
        losses.unusable.iter().map(|loss| (loss.what.as_str(), loss.events)).collect();
    assert_eq!(
        what,
        [
            ("events of negative duration or longer than 11 days", 1),
            ("events whose duration is no finite number", 1),
            ("events whose start is no finite number", 2),
            ("events without a duration", 1),
            ("objects that are no events", 1),
        ]
    );
    assert_eq!(
        losses.unusable[3].first_at,
        [("{\"traceEvents\": [".len() + KERNEL.len() + ",\n".len()) as u64]
    );
    assert_eq!(losses.left_out[0].what, "categories that are not known");
}

#[test]
fn damage_costs_the_events_that_it_touches() {
    for damage in [
        "{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"un\"closed\",\"ts\":1,\"dur\":1,\"args\":{\"grid\":[1,1,1]}}",
        "{\"ph\" \"X\"}",
        "garbage",
        "{\"ph\":\"X\",\"cat\":\"kernel\",,\"ts\":1}",
        "]",
    ] {
        if damage == "]" {
            continue;
        }
        let second = KERNEL.replace("10.5", "20.5");
        let text = format!(
            "{{\"traceEvents\": [{KERNEL}, {damage}, {second}], \"traceName\": \"t\", \
             \"baseTimeNanoseconds\": 7}}"
        );
        let trace = read(&text);
        assert_eq!(starts(&trace), [10_507, 20_507], "{damage}");
        assert!(trace.header.losses.unusable_count() > 0, "{damage}");
        assert!(trace.header.losses.truncated.is_none(), "{damage}");
    }
}

#[test]
fn a_truncated_file_gives_every_complete_event_and_says_what_is_lost() {
    let list: Vec<String> = (0..20).map(|i| KERNEL.replace("10.5", &format!("{i}.5"))).collect();
    let prefix = "{\"schemaVersion\": 1, \"traceEvents\": [";
    let text = format!("{prefix}{}], \"displayTimeUnit\": \"ms\"}}", list.join(","));
    for cut in prefix.len() + 1..text.len() {
        let trace = match kineto::read(&text.as_bytes()[..cut], "cut.json") {
            Ok(trace) => trace,
            Err(why) => panic!("cut at {cut}: {why}"),
        };
        let complete = text[prefix.len()..cut].matches("}}").count().min(20);
        assert_eq!(trace.events.len(), complete, "cut at {cut}");
        let truncated = trace.header.losses.truncated.as_ref().expect("the end is missing");
        assert_eq!(truncated.at_byte, cut as u64, "cut at {cut}");
    }
    assert!(read(&text).header.losses.truncated.is_none());
}

#[test]
fn a_damaged_archive_gives_what_comes_before_the_damage() {
    let list: Vec<String> =
        (0..20_000).map(|i| KERNEL.replace("10.5", &format!("{}.{:03}", i, i % 997))).collect();
    let text = format!("{{\"traceEvents\": [{}]}}", list.join(","));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let packed = gzip.finish().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.json.gz");
    std::fs::write(&path, &packed[..packed.len() / 2]).unwrap();
    let imported = import(std::slice::from_ref(&path), false).unwrap();
    let rank = &imported.traces.ranks[0];
    assert!(rank.events.len() > 1000 && rank.events.len() < 20_000, "{}", rank.events.len());
    let truncated = rank.header.losses.truncated.as_ref().unwrap();
    assert!(!truncated.cause.is_empty());
    assert!(import(&[path], true).unwrap_err().to_string().contains("ends early at byte"));
}

#[test]
fn graphs_launch_many_kernels_with_one_call() {
    let list = format!(
        "{},{},{},{}",
        r#"{"ph":"X","cat":"cuda_runtime","name":"cudaGraphLaunch","pid":9,"tid":9,"ts":1,"dur":4,"args":{"correlation":5}}"#,
        KERNEL,
        KERNEL.replace("10.5", "13").replace("\"stream\":7", "\"stream\":8"),
        KERNEL.replace("10.5", "14").replace("\"correlation\":5", "\"correlation\":99"),
    );
    let trace = events(&list);
    let report = inspect(&trainyard::trace::model::TraceSet { ranks: vec![trace] });
    let launches = &report.ranks[0].launches;
    assert_eq!((launches.graph_launches, launches.graph_events, launches.orphans), (1, 2, 1));
    assert_eq!(launches.delay_ns.max, 12_000);
}

#[test]
fn sync_records_and_flows_are_kept() {
    let trace = events(
        r#"{"ph":"X","cat":"cuda_sync","name":"Stream Wait Event","pid":0,"tid":24,"ts":8,"dur":2,"args":{"wait_on_stream":20,"wait_on_cuda_event_record_corr_id":1385,"wait_on_cuda_event_id":19,"stream":24,"correlation":1389,"device":0}},
           {"ph":"X","cat":"cuda_sync","name":"Event Sync","pid":0,"tid":-1,"ts":12,"dur":2,"args":{"wait_on_stream":-1,"wait_on_cuda_event_record_corr_id":-1,"wait_on_cuda_event_id":9,"stream":-1,"correlation":24,"device":0}},
           {"ph":"s","id":4,"pid":1,"tid":1,"ts":1.5,"cat":"fwdbwd","name":"fwdbwd"},
           {"ph":"f","id":4,"pid":1,"tid":2,"ts":7.5,"cat":"fwdbwd","name":"fwdbwd","bp":"e"}"#,
    );
    let syncs: Vec<_> = trace.events.iter().filter_map(|event| trace.sync(event)).collect();
    assert_eq!(
        (syncs[0].wait_stream, syncs[0].wait_event, syncs[0].wait_correlation),
        (20, 19, 1385)
    );
    assert_eq!((syncs[1].wait_stream, syncs[1].wait_correlation), (-1, -1));
    let flows: Vec<_> = trace.events.iter().filter(|event| event.kind == Kind::Flow).collect();
    assert!(trace.flow_starts(flows[0]) && !trace.flow_starts(flows[1]));
    assert_eq!(flows[1].correlation(), Some(4));
}

#[test]
fn a_huge_leading_value_is_passed_in_bounded_memory() {
    let huge = format!(
        "{{\"metadata\": {{\"x\": \"{}\"}}, \"traceEvents\": [{KERNEL}]}}",
        "y".repeat(20 << 20)
    );
    assert_eq!(read(&huge).events.len(), 1);
    // An event that no window holds is left out, and its neighbours stay.
    let large = KERNEL.replace("\"k\"", &format!("\"{}\"", "n".repeat(17 << 20)));
    let trace = events(&format!("{KERNEL}, {large}, {KERNEL}"));
    assert_eq!(trace.events.len(), 2);
    assert_eq!(trace.header.losses.unusable[0].what, "events larger than 16 MiB");
}

#[test]
fn a_stray_time_does_not_stretch_the_recording() {
    let base = 1_712_195_498_563_456_u64;
    let list: Vec<String> =
        (0..5).map(|i| KERNEL.replace("10.5", &(base + i).to_string())).collect();
    let trace = events(&format!("{},{}", list.join(","), KERNEL.replace("10.5", "0")));
    assert_eq!(trace.events.len(), 5);
    assert_eq!(trace.header.losses.unusable[0].what, "events months away from the others");
}

#[test]
fn what_is_no_trace_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    for (path, expected) in [
        (file("a.json", b"{\"a\": 1}"), "has no `traceEvents`"),
        (file("b.json", b"{\"schema\": \"1.0.1\", \"nodes\": []}"), "execution trace"),
        (file("c.json", b""), "is empty"),
        (file("d.json", b"hello"), "no trace format that is known"),
        (
            file("e.json", b"[{\"name\": \"x\", \"ph\": \"X\", \"ts\": 1, \"dur\": 1}]"),
            "none of its 1 events",
        ),
        (
            file("g.json", br#"[{"ph": "C", "name": "HBM", "pid": 1, "ts": "1.5"}]"#),
            "holds no event that can be used",
        ),
        (file("f.sqlite", b"SQLite format 3\0rest"), "SQLite"),
        (folder.path().join("missing.json"), "failed to open"),
    ] {
        let error = import(std::slice::from_ref(&path), false).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(expected), "{message}");
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        assert_eq!(error.exit_code(), 3);
    }
    let error = import(&[folder.path().to_path_buf()], false).unwrap_err().to_string();
    assert!(error.contains("holds no trace that can be used"), "{error}");
}

#[test]
fn unrelated_traces_in_a_folder_stay_apart_and_cycles_are_numbered() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixture("rank-0.json")).unwrap();
    for name in ["worker0.100", "worker0.200"] {
        std::fs::write(folder.path().join(format!("{name}.pt.trace.json")), &text).unwrap();
    }
    let imported = import(&[folder.path().to_path_buf()], false).unwrap();
    let traces: Vec<&str> =
        imported.traces.ranks.iter().map(|rank| rank.header.trace.as_str()).collect();
    assert!(traces[0].ends_with("worker0.100") && traces[1].ends_with("worker0.200"), "{traces:?}");
    let other = std::fs::read_to_string(fixture("rank-1.json")).unwrap();
    for name in ["worker1.100", "worker1.200"] {
        std::fs::write(folder.path().join(format!("{name}.pt.trace.json")), &other).unwrap();
    }
    let imported = import(&[folder.path().to_path_buf()], false).unwrap();
    let traces: Vec<(&str, u32)> = imported
        .traces
        .ranks
        .iter()
        .map(|rank| (rank.header.trace.rsplit('#').next().unwrap(), rank.header.rank))
        .collect();
    assert_eq!(traces, [("1", 0), ("1", 1), ("2", 0), ("2", 1)]);
}
