//! Timelines for trace viewers: what is written is what was recorded, replayed or simulated.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use prost::Message;
use support::{repository, trainyard};
use trainyard::outcome::{WhatIf, replayed_ranks};
use trainyard::timeline::{
    Chrome, Lane, Perfetto, Process, Sink, Slice, Trace, TrackDescriptor, event_type,
};
use trainyard::trace::analysis::{PathPart, inspect};
use trainyard::trace::format;
use trainyard::trace::import::import;
use trainyard::trace::model::{Event, Kind, RankTrace, TraceSet};
use trainyard::trace::timeline::{Selection, write};

fn read(path: &Path) -> TraceSet {
    import(&[path.to_owned()], false).unwrap().traces
}

/// Everything that is known of an event, without the tables that it points into.
fn known(rank: &RankTrace, event: &Event) -> String {
    // A rank's arrows keep their numbers up to its place in the file.
    let arrow = 0xff_ffff_ffff_i64;
    let correlation = match event.kind {
        Kind::Flow => event.correlation().map(|id| id & arrow),
        _ => event.correlation(),
    };
    let names = |ids: &[trainyard::trace::names::NameId]| -> Vec<String> {
        ids.iter().map(|id| rank.names.get(*id).to_owned()).collect()
    };
    format!(
        "{:?} {} {} {} {} {} {correlation:?} {:?} {:?} {:?} {:?} {:?} {} {:?}",
        event.kind,
        rank.name(event),
        event.start_ns,
        event.dur_ns,
        event.device,
        event.lane,
        event.external_id(),
        rank.geometry(event),
        rank.op(event).map(|op| (op.sequence, op.forward_thread, names(&[op.dims, op.types]))),
        rank.bytes(event),
        rank.sync(event),
        rank.flow_starts(event),
        rank.collective(event).map(|c| {
            let texts = names(&[c.op, c.group, c.dtype, c.splits[0], c.splits[1]]);
            (texts, c.in_elements, c.out_elements, c.group_size, c.peer, c.sequence)
        }),
    )
}

fn all_known(rank: &RankTrace) -> Vec<String> {
    let mut all: Vec<String> = rank.events.iter().map(|event| known(rank, event)).collect();
    all.sort();
    all
}

/// Writes Chrome JSON and imports it again.
fn there_and_back(ranks: &[RankTrace], folder: &Path) -> Vec<RankTrace> {
    let path = folder.join("timeline.json");
    let file = std::fs::File::create(&path).unwrap();
    write(ranks, &Selection::default(), &mut Chrome::new(std::io::BufWriter::new(file))).unwrap();
    read(&path).ranks
}

fn same_after_the_round_trip(set: &TraceSet) {
    for ranks in set.traces() {
        let folder = tempfile::tempdir().unwrap();
        let back = there_and_back(ranks, folder.path());
        assert_eq!(back.len(), ranks.len());
        for (old, new) in ranks.iter().zip(&back) {
            assert_eq!(old.header.rank, new.header.rank);
            assert_eq!(old.header.windows, new.header.windows);
            assert_eq!(old.header.identity, new.header.identity);
            assert_eq!(new.header.losses.unusable_count(), 0, "{:?}", new.header.losses);
            let (old, new) = (all_known(old), all_known(new));
            if let Some((a, b)) = old.iter().zip(&new).find(|(a, b)| a != b) {
                panic!("recorded  {a}\ncame back {b}");
            }
            assert_eq!(old.len(), new.len());
        }
    }
}

#[test]
fn chrome_json_comes_back_to_the_nanosecond_with_everything_known_of_each_event() {
    same_after_the_round_trip(&read(&repository("tests/data/trace")));
}

#[test]
fn so_do_real_recordings() {
    let Some(shared) = support::shared() else {
        eprintln!("skipped: TRAINYARD_SHARED is not set");
        return;
    };
    let corpus = shared.join("corpus/traces");
    for name in [
        "hta/amd_trace",
        "hta/critical_path/cuda_event_sync_multi_stream",
        "hta/nccl_parser_config",
        "hta/ns_resolution_trace",
        "hta/triton_example",
        "param/dlrm_kineto.tar.gz",
        "tracelens/b200",
    ] {
        same_after_the_round_trip(&read(&corpus.join(name)));
    }
}

struct Decoded {
    /// By number: descriptor.
    tracks: BTreeMap<u64, TrackDescriptor>,
    /// By track: time covered by slices.
    covered: BTreeMap<u64, i64>,
    slices: usize,
    flows: BTreeMap<u64, usize>,
    annotations: BTreeSet<String>,
}

/// Decodes Perfetto protobuf, and checks what every reader relies on.
fn decode(bytes: &[u8]) -> Decoded {
    let trace = Trace::decode(bytes).unwrap();
    let mut decoded = Decoded {
        tracks: BTreeMap::new(),
        covered: BTreeMap::new(),
        slices: 0,
        flows: BTreeMap::new(),
        annotations: BTreeSet::new(),
    };
    let mut names: BTreeMap<u32, [BTreeMap<u64, String>; 3]> = BTreeMap::new();
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut open: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for packet in trace.packet {
        let sequence = packet.trusted_packet_sequence_id.unwrap();
        if packet.sequence_flags == Some(1) {
            assert!(!names.contains_key(&sequence), "a sequence begins once");
            assert_eq!(packet.first_packet_on_sequence, Some(true));
            names.insert(sequence, Default::default());
        }
        let interned = names.get_mut(&sequence).expect("a sequence that has begun");
        if let Some(data) = packet.interned_data {
            let lists = [data.event_names, data.event_categories, data.debug_annotation_names];
            for (known, list) in interned.iter_mut().zip(lists) {
                for text in list {
                    assert!(known.insert(text.iid.unwrap(), text.name.unwrap()).is_none());
                }
            }
        }
        if let Some(track) = packet.track_descriptor {
            let parent = track.parent_uuid;
            assert!(parent.is_none_or(|parent| decoded.tracks.contains_key(&parent)));
            assert!(decoded.tracks.insert(track.uuid.unwrap(), track).is_none(), "track twice");
        }
        let Some(event) = packet.track_event else { continue };
        let track = event.track_uuid.unwrap();
        assert!(decoded.tracks.contains_key(&track), "an event before its track");
        let at = packet.timestamp.unwrap();
        let before = last.insert(track, at).unwrap_or(0);
        assert!(at >= before, "time runs back on track {track}: {before} to {at}");
        match event.r#type.unwrap() {
            event_type::SLICE_BEGIN => {
                assert!(interned[0].contains_key(&event.name_iid.unwrap()));
                assert!(event.category_iids.iter().all(|id| interned[1].contains_key(id)));
                for arg in event.debug_annotations {
                    decoded.annotations.insert(interned[2][&arg.name_iid.unwrap()].clone());
                }
                for flow in event.flow_ids {
                    *decoded.flows.entry(flow).or_default() += 1;
                }
                open.entry(track).or_default().push(at);
                decoded.slices += 1;
            }
            event_type::SLICE_END => {
                let stack = open.get_mut(&track).expect("an end after a begin");
                let start = stack.pop().expect("an end after a begin");
                if stack.is_empty() {
                    *decoded.covered.entry(track).or_default() += (at - start) as i64;
                }
            }
            other => assert_eq!(other, event_type::COUNTER),
        }
    }
    assert!(open.values().all(Vec::is_empty), "every slice ends");
    decoded
}

impl Decoded {
    fn lanes(&self, name: &str) -> Vec<u64> {
        let named = |track: &TrackDescriptor| {
            track.thread.as_ref().is_some_and(|t| t.thread_name.as_deref() == Some(name))
        };
        self.tracks.iter().filter(|(_, track)| named(track)).map(|(uuid, _)| *uuid).collect()
    }
}

fn exported(folder: &Path, arguments: &[&str], file: &str) -> PathBuf {
    let path = folder.join(file);
    let out = path.display().to_string();
    trainyard().args(arguments).args(["--out", &out]).assert().success();
    path
}

#[test]
fn perfetto_of_a_recording_has_every_event_and_lane() {
    let folder = tempfile::tempdir().unwrap();
    let path =
        exported(folder.path(), &["trace", "export", "tests/data/trace"], "recorded.pftrace");
    let decoded = decode(&std::fs::read(path).unwrap());
    let set = read(&repository("tests/data/trace"));
    let events = set.ranks.iter().flat_map(|r| &r.events).filter(|e| e.kind != Kind::Flow).count();
    assert_eq!(decoded.slices, events);
    // Launches and collectives join two slices or more.
    assert!(!decoded.flows.is_empty());
    assert!(decoded.flows.values().all(|ends| *ends >= 2), "{:?}", decoded.flows);
    let report = inspect(&set);
    for window in report.ranks.iter().flat_map(|rank| &rank.windows).filter(|w| w.name == "ALL") {
        let lanes: i64 = decoded
            .tracks
            .iter()
            .filter(|(_, track)| {
                let name = track.thread.as_ref().and_then(|thread| thread.thread_name.clone());
                name.is_some_and(|n| n.starts_with(&format!("device {} stream", window.device)))
            })
            .map(|(uuid, _)| decoded.covered.get(uuid).copied().unwrap_or(0))
            .sum();
        // Streams overlap where communication is hidden, and nowhere else in this recording.
        let busy = window.compute_ns + window.comm_ns + window.mem_ns;
        assert_eq!(lanes, busy, "device {}", window.device);
    }
}

#[test]
fn the_compute_lane_of_a_simulated_step_adds_up_to_the_breakdown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("step.pftrace");
    let scenario = folder.path().join("small.toml");
    std::fs::write(&scenario, support::SMALL).unwrap();
    let output = trainyard()
        .args(["run", &scenario.display().to_string(), "--format", "json"])
        .args(["--set", "plan.tensor_parallel=2", "--set", "plan.pipeline_parallel=2"])
        .args(["--timeline", &path.display().to_string(), "--timeline-ranks", "0-15"])
        .assert()
        .success();
    let result: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let decoded = decode(&std::fs::read(&path).unwrap());
    let part = |key: &str| result["step"]["breakdown"][key].as_f64().unwrap();
    let busy = part("compute") + part("recompute") + part("optimizer");
    let lanes = decoded.lanes("compute");
    assert_eq!(lanes.len(), 16);
    let sum: i64 = lanes.iter().map(|lane| decoded.covered[lane]).sum();
    // The breakdown is the mean of whole nanoseconds as a float: exact but for its rounding.
    let mean = sum as f64 / 16.0 / 1e9;
    assert!((mean / busy - 1.0).abs() < 1e-12, "{mean} s on the lanes, {busy} s in the result");
    for key in ["m", "n", "k", "precision", "message_bytes", "Process Group Name", "micro_batch"] {
        assert!(decoded.annotations.contains(key), "{key}: {:?}", decoded.annotations);
    }
    // The step of every rank is as long as the result says.
    let step = (result["step"]["seconds"].as_f64().unwrap() * 1e9).round() as i64;
    for lane in decoded.lanes("step") {
        assert_eq!(decoded.covered[&lane], step);
    }
}

#[test]
fn a_simulated_step_is_a_recording_that_replays_to_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("step.json.gz");
    let scenario = folder.path().join("small.toml");
    std::fs::write(&scenario, support::SMALL).unwrap();
    let output = trainyard()
        .args(["run", &scenario.display().to_string(), "--format", "json"])
        .args(["--timeline", &path.display().to_string(), "--timeline-ranks", "0-15"])
        .assert()
        .success();
    let result: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let set = read(&path);
    assert_eq!(set.ranks.len(), 16);
    let part = |key: &str| result["step"]["breakdown"][key].as_f64().unwrap();
    let busy = part("compute") + part("recompute") + part("optimizer");
    for rank in &inspect(&set).ranks {
        let step = rank.windows.iter().find(|w| w.name == "0").unwrap();
        assert_eq!(rank.losses.unusable_count(), 0);
        let compute = step.compute_ns as f64 / 1e9;
        assert!((compute / busy - 1.0).abs() < 1e-9, "{compute} s, {busy} s in the result");
    }
    // 1 %: the simulator's host runs ahead by a queue's depth, which a recording does not tell.
    let replay = trainyard::outcome::replay_recorded(&set.ranks).unwrap();
    for rank in &replay.ranks {
        assert!(rank.unexplained_share().abs() < 0.01, "{rank:?}");
    }
}

#[test]
fn a_lumped_rank_is_the_rank_itself() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = folder.path().join("small.toml");
    std::fs::write(&scenario, support::SMALL).unwrap();
    let mut files = Vec::new();
    for (name, more) in [("lumped.json", None), ("alone.json", Some("--no-lump"))] {
        let path = folder.path().join(name);
        trainyard()
            .args(["run", &scenario.display().to_string()])
            .args(["--timeline", &path.display().to_string(), "--timeline-ranks", "3,9-10"])
            .args(more)
            .assert()
            .success();
        files.push(std::fs::read(path).unwrap());
    }
    assert!(files[0] == files[1]);
}

#[test]
fn a_replay_is_exported_with_the_times_of_the_engine() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["trace", "export", "tests/data/trace", "--replayed"];
    let path = exported(folder.path(), &arguments, "replayed.json");
    let set = read(&path);
    let original = read(&repository("tests/data/trace"));
    let replay = trainyard::outcome::replay_recorded(&original.ranks).unwrap();
    for (rank, expected) in set.ranks.iter().zip(&replay.ranks) {
        let device = || rank.events.iter().filter(|event| event.kind.is_device());
        let last = device().map(Event::end_ns).max().unwrap();
        // A collective is shown from when its rank was ready, its span begins where it transfers;
        // the first event of these ranks is a kernel.
        let span = last - device().map(|event| event.start_ns).min().unwrap();
        assert_eq!(span, expected.replayed_ns, "rank {}", expected.rank);
    }
    decode(&std::fs::read(exported(folder.path(), &arguments, "replayed.pftrace")).unwrap());
}

#[test]
fn so_is_a_simulated_host() {
    // Dropless experts: the host waits in every layer for how many tokens go where.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("step.json");
    let scenario = folder.path().join("small.toml");
    std::fs::write(&scenario, support::SMALL).unwrap();
    let output = trainyard()
        .args(["run", &scenario.display().to_string(), "--format", "json"])
        .args(["--set", "model.preset=mixtral-8x7b", "--set", "plan.tensor_parallel=2"])
        .args(["--set", "plan.expert_parallel=8"])
        .args(["--timeline", &path.display().to_string(), "--timeline-ranks", "0"])
        .assert()
        .success();
    let result: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let set = read(&path);
    let found = waits(&set.ranks[0]);
    // 32 layers of 8 micro-batches, at least.
    assert!(found.len() >= 256, "{}", found.len());
    assert!(found.iter().all(|wait| wait.dur_ns > 0));
    let report = inspect(&set);
    let path = report.traces[0].critical_path.as_ref().unwrap();
    // A path that takes a waiting host for a working one has hundreds of ms of it.
    let host = result["step"]["breakdown"]["host"].as_f64().unwrap();
    assert!(path.parts[&PathPart::Host] as f64 / 1e9 <= host, "{:?}, {host} s", path.parts);
}

#[test]
fn nothing_that_is_read_is_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    std::fs::create_dir_all(&input).unwrap();
    for rank in ["rank-0.json", "rank-1.json"] {
        std::fs::copy(repository("tests/data/trace").join(rank), input.join(rank)).unwrap();
    }
    let file = input.join("rank-0.json");
    let before = std::fs::read(&file).unwrap();
    let refused = |arguments: &[&str]| {
        let output = trainyard().args(arguments).assert().code(3);
        let error = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(error.contains("would be overwritten"), "{arguments:?}: {error}");
    };
    let (from, to) = (input.display().to_string(), file.display().to_string());
    // However the file is called.
    let detour = input.join("../in/rank-0.json").display().to_string();
    refused(&["trace", "export", &from, "--out", &to]);
    refused(&["trace", "export", &to, "--out", &detour]);
    refused(&["trace", "inspect", &from, "--html", &to]);
    refused(&["trace", "replay", &from, "--edges", &to]);
    assert_eq!(std::fs::read(&file).unwrap(), before);
    // Our own format, too; and a recording that has the name of its header.
    let run = folder.path().join("run");
    format::write(&read(&input), &run, format::Compression::None).unwrap();
    let (run, header) = (run.display().to_string(), run.join("trace.json").display().to_string());
    refused(&["trace", "export", &run, "--out", &header]);
    let other = folder.path().join("other");
    std::fs::create_dir_all(&other).unwrap();
    let named = other.join("trace.json");
    std::fs::copy(&file, &named).unwrap();
    let (named, other) = (named.display().to_string(), other.display().to_string());
    refused(&["trace", "import", &named, "--out", &other]);
    // A new file beside the others is nobody's loss, and a trace may be packed where it is.
    exported(folder.path(), &["trace", "export", &run], "run/new.json");
    trainyard().args(["trace", "import", &run, "--out", &run]).assert().success();
}

/// Where the host of a rank waits for the device.
fn waits(rank: &RankTrace) -> Vec<&Event> {
    let name = |event: &&Event| rank.name(event).starts_with("wait for the device");
    rank.events.iter().filter(name).collect()
}

#[test]
fn a_host_that_waits_is_shown_waiting_from_when_it_came() {
    let original = read(&repository("tests/data/trace"));
    let replayed = replayed_ranks(&original.ranks, &WhatIf::default()).unwrap();
    for rank in &replayed {
        let waits = waits(rank);
        assert_eq!(waits.len(), 2, "one synchronisation per step");
        for wait in waits {
            // The host came to it 10 us after it had asked for the copy, as recorded, and goes on
            // when the copy is done.
            let calls = rank.events.iter().filter(|e| rank.name(e) == "cudaMemcpyAsync");
            let call = calls.filter(|e| e.start_ns < wait.end_ns()).map(|e| e.start_ns).max();
            assert_eq!(wait.start_ns, call.unwrap() + 10_000);
            let device = rank.events.iter().filter(|e| e.kind.is_device());
            assert!(device.clone().any(|event| event.end_ns() == wait.end_ns()));
            assert!(wait.dur_ns > 200_000, "{wait:?}");
        }
    }
    // The path goes from the second step over the wait to the device work of the first: the host
    // is on it between the steps, and not from the beginning.
    let report = inspect(&TraceSet { ranks: replayed });
    let path = report.traces[0].critical_path.as_ref().unwrap();
    let part = |part: PathPart| path.parts[&part];
    // From the end of the copy that is waited for to the next step's first call, as recorded:
    // 452.5 us. From the beginning of the recording it would be 885.
    assert!((part(PathPart::Host) - 452_500).abs() < 2_000, "{:?}", path.parts);
    assert!(part(PathPart::Compute) >= 2 * 250_000, "{:?}", path.parts);
}

#[test]
fn ranks_times_and_steps_are_selected() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let set = read(&repository("tests/data/trace"));
    format::write(&set, &run, format::Compression::None).unwrap();
    let run = run.display().to_string();
    let export = |more: &[&str]| {
        let arguments = [&["trace", "export", &run], more].concat();
        read(&exported(folder.path(), &arguments, "part.json")).ranks
    };
    let all: usize = set.ranks.iter().map(|rank| rank.events.len()).sum();
    let count = |ranks: &[RankTrace]| ranks.iter().map(|rank| rank.events.len()).sum::<usize>();
    assert_eq!(count(&export(&[])), all);
    let one = export(&["--ranks", "1"]);
    assert_eq!((one.len(), one[0].header.rank), (1, 1));
    let early = export(&["--from", "0", "--to", "0.1"]);
    assert!(count(&early) < all);
    let step = set.ranks[0].header.windows[0].name.clone();
    let steps = export(&["--steps", &step]);
    assert!(count(&steps) <= all && count(&steps) > 0);
    // What does not exist is an error that says what does.
    for (bad, text) in [
        (["--ranks", "7"], "no rank in 7-7: there are 2 ranks"),
        (["--steps", "99"], "no step named `99`"),
    ] {
        let path = folder.path().join("x.json").display().to_string();
        let output =
            trainyard().args(["trace", "export", &run, "--out", &path]).args(bad).assert().code(3);
        let error = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(error.contains(text), "{error}");
        assert!(!Path::new(&path).exists(), "half a file is left");
    }
    // So is what exists, but where nothing lies.
    let (first, last) = ("3", "4");
    let window = |name: &str| set.ranks[0].header.windows.iter().position(|w| w.name == name);
    assert!(window(first) < window(last));
    for (bad, text) in [
        (vec!["--from", "900"], "nothing lies from 900 ms on\n  help: those ranks last from "),
        (vec!["--from", "7", "--to", "8"], "nothing lies from 7 to 8 ms"),
        (vec!["--ranks", "1", "--from", "900"], "nothing lies from 900 ms on"),
        (vec!["--steps", "4..3"], "step 4 comes after step 3: nothing is left\n  help: write 3..4"),
    ] {
        let path = folder.path().join("x.json").display().to_string();
        let command = ["trace", "export", &run, "--out", &path];
        let output = trainyard().args(command).args(bad).assert().code(3);
        let error = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(error.contains(text), "{error}");
        assert!(!Path::new(&path).exists(), "half a file is left");
    }
    let late = ["trace", "export", &run, "--out", "x.json", "--from", "2", "--to", "1"];
    trainyard().args(late).assert().code(3);
    trainyard().args(["trace", "export", &run, "--out", "x.txt"]).assert().code(3);
    trainyard().args(["trace", "export", &run, "--out", "x.json", "--ranks", "a"]).assert().code(2);
}

#[test]
fn a_job_of_operations_is_a_timeline_too() {
    let Some(shared) = support::shared() else {
        eprintln!("skipped: TRAINYARD_SHARED is not set");
        return;
    };
    let path = shared.join("corpus/traces/bytedance_straggler/trace-ST.parquet");
    let path = path.display().to_string();
    let folder = tempfile::tempdir().unwrap();
    for more in [&[][..], &["--replayed"]] {
        let arguments = [&["trace", "export", &path], more].concat();
        let decoded = decode(&std::fs::read(exported(folder.path(), &arguments, "a.pb")).unwrap());
        // 8 ranks of 32 steps, which no recorded range marks.
        let steps: Vec<u64> = decoded.lanes("steps");
        assert_eq!(steps.len(), 8);
        assert!(decoded.slices > 8 * 32);
    }
}

/// Slices as a Perfetto reader sees them: start and end of each, by lane.
fn slices_of(bytes: &[u8]) -> Vec<(i64, i64)> {
    let mut open: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut found = Vec::new();
    for packet in Trace::decode(bytes).unwrap().packet {
        let Some(event) = packet.track_event else { continue };
        let (track, at) = (event.track_uuid.unwrap(), packet.timestamp.unwrap());
        let stack = open.entry(track).or_default();
        if event.r#type == Some(event_type::SLICE_BEGIN) {
            stack.push(at);
        } else {
            found.push((stack.pop().unwrap() as i64, at as i64));
        }
    }
    found.sort_unstable();
    found
}

proptest::proptest! {
    #[test]
    fn slices_that_overlap_in_any_way_keep_their_times(
        spans in proptest::collection::vec((0_i64..200, 0_i64..60), 0..60),
    ) {
        let mut spans: Vec<(i64, i64)> =
            spans.into_iter().map(|(start, length)| (start, start + length)).collect();
        spans.sort_by_key(|(start, end)| (*start, std::cmp::Reverse(*end)));
        let mut bytes = Vec::new();
        let mut sink = Perfetto::new(&mut bytes);
        sink.process(&Process::default()).unwrap();
        sink.lane(&Lane { id: 7, name: "stream", order: 0 }).unwrap();
        for (start_ns, end_ns) in spans.iter().copied() {
            let (name, category) = ("kernel", "kernel");
            let (args, flows): (&[_], &[_]) = (&[], &[]);
            let slice = Slice { name, category, class: None, start_ns, end_ns, args, flows };
            sink.slice(&slice).unwrap();
        }
        sink.finish().unwrap();
        let decoded = decode(&bytes);
        proptest::prop_assert_eq!(decoded.slices, spans.len());
        spans.sort_unstable();
        proptest::prop_assert_eq!(slices_of(&bytes), spans);
    }
}

#[test]
fn a_list_of_ranks_that_makes_no_sense_is_no_panic() {
    let kernel = r#"{"ph":"X","cat":"kernel","name":"k","pid":3,"tid":7,"ts":1.5,"dur":2.0}"#;
    for list in ["1", "[]", "[1]", r#"[{"pid":"x"}]"#, r#"[{"pid":3},{"pid":3},{"pid":4}]"#] {
        let text = format!(r#"{{"trainyardRanks":{list},"traceEvents":[{kernel}]}}"#);
        let ranks = trainyard::trace::import::read_bytes(text.as_bytes(), "x.json").unwrap();
        assert_eq!(ranks.iter().map(|rank| rank.events.len()).sum::<usize>(), 1, "{list}");
    }
    // Events of no listed rank are counted, not lost.
    let other = kernel.replace("\"pid\":3", "\"pid\":5");
    let text = format!(r#"{{"trainyardRanks":[{{"pid":3}}],"traceEvents":[{kernel},{other}]}}"#);
    let ranks = trainyard::trace::import::read_bytes(text.as_bytes(), "x.json").unwrap();
    assert_eq!(ranks[0].header.losses.unusable_count(), 1);
}
