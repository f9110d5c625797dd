//! What-ifs on recordings, through the command line: each moves the prediction the stated way.

#![allow(clippy::unwrap_used)]

use assert_cmd::Command;

fn replay(options: &[&str]) -> serde_json::Value {
    let output = Command::cargo_bin("trainyard")
        .unwrap()
        .args(["trace", "replay", "tests/data/trace", "--format", "json"])
        .args(options)
        .assert()
        .success();
    serde_json::from_slice(&output.get_output().stdout).unwrap()
}

fn predicted(options: &[&str]) -> (i64, i64) {
    let value = replay(options);
    let rank = &value[0]["ranks"][0];
    (rank["replayed_ns"].as_i64().unwrap(), rank["predicted_ns"].as_i64().unwrap())
}

#[test]
fn steps_are_in_every_replay() {
    // tests/data/README.md says why these two ranks replay so much shorter than they were recorded.
    let value = replay(&[]);
    let steps = value[0]["steps"].as_array().unwrap();
    assert!(!steps.is_empty());
    for step in steps {
        let ns = |key: &str| step[key].as_i64().unwrap();
        assert_eq!(ns("unexplained_ns"), ns("measured_ns") - ns("replayed_ns"));
        assert!(step.get("predicted_ns").is_none());
    }
}

#[test]
fn slower_is_longer_and_faster_is_not() {
    for class in ["compute", "communication"] {
        let (unchanged, same) = predicted(&["--scale", &format!("{class}=1")]);
        assert_eq!(unchanged, same, "{class}");
        let (_, slower) = predicted(&["--scale", &format!("{class}=3")]);
        let (_, removed) = predicted(&["--scale", &format!("{class}=0")]);
        assert!(slower > unchanged, "{class}: {slower} > {unchanged}");
        assert!(removed < unchanged, "{class}: {removed} < {unchanged}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for bad in ["compute", "compute=-1", "=2", "compute=fast"] {
        let mut command = Command::cargo_bin("trainyard").unwrap();
        command.args(["trace", "replay", "tests/data/trace", "--scale", bad]).assert().code(2);
    }
}

fn refused(path: &str, options: &[&str], code: i32, says: &str) {
    let mut command = Command::cargo_bin("trainyard").unwrap();
    let assert = command.args(["trace", "replay", path]).args(options).assert().code(code);
    let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(text.contains(says), "{options:?}: {text}");
}

#[test]
fn unknown_names_offer_the_nearest() {
    let kernels = "tests/data/trace";
    refused(kernels, &["--remove", "sgemn"], 3, "sgemm");
    refused(kernels, &["--scale", "AllReduse=2"], 3, "AllReduce");
    refused(kernels, &["--slow", "7=2"], 3, "no rank named `7`");
    refused(kernels, &["--accelerator", "mi300"], 3, "mi300x");
    refused(kernels, &["--recorded-on", "h10", "--accelerator", "h200"], 3, "H100");
    // What stands for everything of a kind can be scaled only, and is no name of a kernel.
    refused(kernels, &["--remove", "compute"], 3, "--scale compute=0");
    refused(kernels, &["--scale", "computee=0"], 3, "did you mean compute");
    let mut command = Command::cargo_bin("trainyard").unwrap();
    let options = ["trace", "replay", kernels, "--remove", "computee"];
    let output = command.args(options).assert().code(3);
    let error = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(!error.contains("mean compute"), "{error}");
}

#[test]
fn changes_that_a_recording_cannot_have_are_refused() {
    let kernels = "tests/data/trace";
    refused(kernels, &["--schedule", "gpipe"], 3, "micro-batch");
    refused(kernels, &["--without-straggler", "stage=1"], 3, "rank=N");
    refused(kernels, &["--network-latency", "fast"], 2, "+5us");
    refused(kernels, &["--network-bandwidth", "0"], 2, "above 0");
    refused(kernels, &["--fuse", "one"], 2, "two names");
    refused(kernels, &["--without-straggler", "node=1"], 2, "rank=N");
    for time in ["+NaNus", "-nanms", "+infns"] {
        refused(kernels, &["--network-latency", time], 2, "+5us");
    }
    refused(kernels, &["--recorded-on", "h100"], 3, "--recorded-on alone changes nothing");
    let many = ["--data-parallel", "64", "--node", "dgx-h100"];
    refused(kernels, &many, 3, "--fabric NAME");
    let all = ["--without-straggler", "rank=0", "--without-straggler", "rank=1"];
    refused(kernels, &all, 3, "all recorded ranks are stragglers");
}

/// The two ranks, the second cut off, beside a file that is no trace.
fn damaged() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for rank in ["rank-0.json", "rank-1.json"] {
        let text = std::fs::read_to_string(format!("tests/data/trace/{rank}")).unwrap();
        let kept = if rank == "rank-1.json" { text.len() * 3 / 4 } else { text.len() };
        std::fs::write(folder.path().join(rank), &text[..kept]).unwrap();
    }
    std::fs::write(folder.path().join("notes.json"), "{\"traceEvents\": 1}").unwrap();
    folder
}

#[test]
fn a_replay_says_what_was_lost_before_it() {
    let folder = damaged();
    let path = folder.path().display().to_string();
    let run = |more: &[&str]| {
        let mut command = Command::cargo_bin("trainyard").unwrap();
        let output = command.args(["trace", "replay", &path]).args(more).assert().success();
        String::from_utf8(output.get_output().stdout.clone()).unwrap()
    };
    let text = run(&[]);
    assert!(text.contains("rank 1: ends early at byte"), "{text}");
    assert!(text.contains("not used: ") && text.contains("notes.json"), "{text}");
    // What an import says of the same files, line by line.
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("run").display().to_string();
    let mut command = Command::cargo_bin("trainyard").unwrap();
    let output = command.args(["trace", "import", &path, "--out", &out]).assert().success();
    let imported = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    let told = imported.lines().filter(|line| line.contains("rank 1: "));
    for line in told {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    let value: serde_json::Value = serde_json::from_str(&run(&["--format", "json"])).unwrap();
    let losses = value[0]["losses"].as_array().unwrap();
    let cut = losses.iter().find(|loss| loss["rank"] == 1).unwrap();
    assert_eq!(cut["file"], "rank-1.json");
    assert!(cut["truncated"]["at_byte"].as_u64().unwrap() > 1000, "{cut}");
    let unused = value[0]["unused"].as_array().unwrap();
    assert_eq!(unused.len(), 1, "{unused:?}");
    assert!(unused[0]["path"].as_str().unwrap().ends_with("notes.json"), "{unused:?}");
}

#[test]
fn a_table_says_before_and_after_and_what_was_assumed() {
    let mut command = Command::cargo_bin("trainyard").unwrap();
    let options = ["trace", "replay", "tests/data/trace", "--accelerator", "h100"];
    let output = command.args(options).assert().success();
    let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    for part in ["What if: on h100", "exposed communication", "by shape", "assumed: recorded on"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn edges_are_listed_with_what_was_inferred() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edges.csv");
    let mut command = Command::cargo_bin("trainyard").unwrap();
    command.args(["trace", "replay", "tests/data/trace", "--edges"]).arg(&file).assert().success();
    let mut table = csv::Reader::from_path(&file).unwrap();
    let header = table.headers().unwrap().clone();
    assert_eq!(&header[1], "cause");
    assert_eq!(&header[2], "inferred");
    let rows: Vec<csv::StringRecord> = table.records().map(Result::unwrap).collect();
    assert!(rows.iter().any(|row| &row[1] == "meeting"), "{rows:?}");
}
