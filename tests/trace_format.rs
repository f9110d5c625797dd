//! Our own trace format: what is written is read back exactly, and what is wrong is named.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::{Path, PathBuf};

use trainyard::trace::format::{Compression, read, write};
use trainyard::trace::import::import;
use trainyard::trace::model::{RankTrace, TraceSet};

fn fixtures() -> TraceSet {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/trace");
    import(&[folder], true).unwrap().traces
}

/// Everything that a rank says, with text instead of identifiers.
fn told(rank: &RankTrace) -> Vec<String> {
    rank.events
        .iter()
        .map(|e| {
            let text = |id| rank.names.get(id).to_owned();
            let op = rank
                .op(e)
                .map(|op| (op.sequence, op.forward_thread, text(op.dims), text(op.types)));
            let collective = rank.collective(e).map(|c| {
                (
                    text(c.op),
                    text(c.group),
                    text(c.dtype),
                    [c.in_elements, c.out_elements, c.sequence],
                    [c.group_size, c.peer],
                    c.splits.map(text),
                )
            });
            format!(
                "{:?} {} {} {} {} {} {:?} {:?} {:?} {:?} {op:?} {:?} {collective:?} {} {}",
                e.kind,
                rank.name(e),
                e.start_ns,
                e.dur_ns,
                e.device,
                e.lane,
                e.correlation(),
                e.external_id(),
                rank.bytes(e),
                rank.geometry(e),
                rank.sync(e),
                rank.flow_starts(e),
                e.communicates,
            )
        })
        .collect()
}

fn assert_same(a: &TraceSet, b: &TraceSet) {
    assert_eq!(a.ranks.len(), b.ranks.len());
    for (a, b) in a.ranks.iter().zip(&b.ranks) {
        assert_eq!(a.header, b.header);
        assert_eq!(told(a), told(b));
    }
}

#[test]
fn what_is_written_is_read_back_exactly() {
    let set = fixtures();
    for compression in [Compression::None, Compression::Zstd] {
        let folder = tempfile::tempdir().unwrap();
        let header = write(&set, folder.path(), compression).unwrap();
        assert_eq!(header.ranks.len(), 2);
        assert_same(&set, &read(folder.path(), true).unwrap());
        // The same input gives the same bytes.
        let again = tempfile::tempdir().unwrap();
        write(&set, again.path(), compression).unwrap();
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let other = again.path().join(path.file_name().unwrap());
            assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(other).unwrap());
            assert!(!path.to_string_lossy().contains("partial"));
        }
    }
}

#[test]
fn real_traces_are_read_back_exactly() {
    let Some(shared) = std::env::var_os("TRAINYARD_SHARED") else {
        eprintln!("skipped: TRAINYARD_SHARED is not set, so there is no corpus of traces");
        return;
    };
    let corpus = PathBuf::from(shared).join("corpus/traces");
    for file in [
        "param/dlrm_kineto.tar.gz",
        "hta/amd_trace",
        "hta/critical_path/alexnet",
        "hta/nccl_parser_config",
        "tracelens/mi300/resnet_act_checkpoint.json.gz",
        "tracelens/b200",
        "kineto_tb",
    ] {
        let set = import(&[corpus.join(file)], false).unwrap().traces;
        let folder = tempfile::tempdir().unwrap();
        write(&set, folder.path(), Compression::Zstd).unwrap();
        assert_same(&set, &read(folder.path(), true).unwrap());
    }
}

#[test]
fn a_trace_is_replaced_without_leftovers() {
    let folder = tempfile::tempdir().unwrap();
    let set = fixtures();
    write(&set, folder.path(), Compression::None).unwrap();
    let one = TraceSet { ranks: vec![set.ranks[0].clone()] };
    write(&one, folder.path(), Compression::None).unwrap();
    let mut files: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, ["rank-00000.csv", "trace.json"]);
    assert_same(&one, &read(folder.path(), true).unwrap());
}

/// Writes the fixtures, changes one file, and gives what reading says.
fn changed(
    file: &str,
    strict: bool,
    change: impl Fn(String) -> String,
) -> Result<TraceSet, String> {
    let folder = tempfile::tempdir().unwrap();
    write(&fixtures(), folder.path(), Compression::None).unwrap();
    let path = folder.path().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let new = change(text.clone());
    assert_ne!(new, text, "the change changes nothing");
    std::fs::write(&path, new).unwrap();
    read(folder.path(), strict).map_err(|e| e.to_string())
}

#[test]
fn a_changed_file_is_noticed() {
    let error =
        changed("rank-00001.csv", false, |text| text.replace("400000", "400001")).unwrap_err();
    assert!(error.contains("rank-00001.csv: its BLAKE3 checksum is"), "{error}");
    let error = changed("rank-00001.csv", false, |text| {
        let end = text.trim_end().rfind('\n').unwrap();
        text[..=end].to_owned()
    })
    .unwrap_err();
    assert!(error.contains("checksum"), "{error}");
}

#[test]
fn bad_rows_are_reported_with_their_place_and_fatal_only_when_strict() {
    let folder = tempfile::tempdir().unwrap();
    write(&fixtures(), folder.path(), Compression::None).unwrap();
    let header = folder.path().join("trace.json");
    let text = std::fs::read_to_string(&header).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    for rank in value["ranks"].as_array_mut().unwrap() {
        rank["events"].as_object_mut().unwrap().remove("blake3");
    }
    std::fs::write(&header, serde_json::to_string_pretty(&value).unwrap()).unwrap();
    let events = folder.path().join("rank-00000.csv");
    let text = std::fs::read_to_string(&events).unwrap();
    let rows = text.lines().count() - 1;
    std::fs::write(&events, text.replace("memcpy,", "memcopy,").replace("250000", "2.5e5"))
        .unwrap();
    let set = read(folder.path(), false).unwrap();
    let rank = &set.ranks[0];
    // Two copies, and two kernels of each kind.
    assert_eq!(rank.events.len(), rows - 6);
    let loss = rank.header.losses.unusable.last().unwrap();
    assert_eq!(loss.events, 6);
    let strict = read(folder.path(), true).unwrap_err().to_string();
    let line = text.lines().position(|line| line.contains("250000")).unwrap() + 1;
    assert!(loss.what.contains(&format!("line {line}")), "{}", loss.what);
    let column = text.lines().nth(line - 1).unwrap().find("250000").unwrap() + 1;
    assert!(
        strict.contains(&format!(
            "rank-00000.csv:{line}:{column}: dur_ns: `2.5e5` is not a whole number"
        )),
        "{strict}"
    );
}

#[test]
fn columns_may_come_in_any_order_and_unknown_ones_are_named() {
    let error =
        changed("rank-00000.csv", false, |text| text.replacen("dur_ns", "durr_ns", 1)).unwrap_err();
    assert!(error.contains("rank-00000.csv:1:20: unknown column `durr_ns`"), "{error}");
    assert!(error.contains("did you mean `dur_ns`?"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    write(&fixtures(), folder.path(), Compression::None).unwrap();
    let header = std::fs::read_to_string(folder.path().join("trace.json")).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&header).unwrap();
    let ranks = value["ranks"].as_array_mut().unwrap();
    ranks.truncate(1);
    ranks[0]["events"] = serde_json::json!({"file": "mine.csv", "rows": 1});
    std::fs::write(folder.path().join("trace.json"), value.to_string()).unwrap();
    std::fs::write(
        folder.path().join("mine.csv"),
        "dur_ns,start_ns,name,kind,device,lane\n5,7,gemm,kernel,0,3\n",
    )
    .unwrap();
    let set = read(folder.path(), true).unwrap();
    let event = set.ranks[0].events[0];
    assert_eq!((event.start_ns, event.dur_ns, event.device, event.lane), (7, 5, 0, 3));
}

#[test]
fn a_header_of_another_version_or_kind_is_refused() {
    let error = changed("trace.json", false, |text| {
        text.replace("\"schema_version\": 1", "\"schema_version\": 2")
    })
    .unwrap_err();
    assert!(error.contains("trace.json: has schema version 2"), "{error}");
    let error =
        changed("trace.json", false, |text| text.replace("trainyard-trace", "other")).unwrap_err();
    assert!(error.contains("is no trace header"), "{error}");
    let error =
        changed("trace.json", false, |text| text.replace("\"resolution_ns\"", "\"resolution\""))
            .unwrap_err();
    assert!(error.contains("unknown field `resolution`"), "{error}");
    assert!(error.contains("trace.json:"), "{error}");
    let error = changed("trace.json", false, |text| text[..text.len() / 2].to_owned()).unwrap_err();
    assert!(error.contains("EOF"), "{error}");
    let error =
        changed("trace.json", false, |text| text.replace("rank-00000.csv", "../../etc/passwd"))
            .unwrap_err();
    assert!(error.contains("not a plain file name"), "{error}");
}

#[test]
fn a_missing_event_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write(&fixtures(), folder.path(), Compression::Zstd).unwrap();
    std::fs::remove_file(folder.path().join("rank-00001.csv.zst")).unwrap();
    let error = read(folder.path(), false).unwrap_err().to_string();
    assert!(error.contains("failed to open") && error.contains("rank-00001.csv.zst"), "{error}");
    assert!(read(tempfile::tempdir().unwrap().path(), false).is_err());
}
