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
    let mut command = Command::cargo_bin("trainyard").unwrap();
    command.args(["trace", "replay", "tests/data/trace", "--slow", "0=2"]).assert().code(3);
}
