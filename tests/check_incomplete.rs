//! What a check does not swallow: ranks and ends of files that were lost, entries that are wrong,
//! baselines that are damaged or of another check, figures of another unit.
//!
//! The recordings are the two small ranks of the repository, as a profiler wrote them; both have the
//! same steps, so that nothing but what a test does to them can part the sides.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use serde_json::Value;
use support::{repository, trainyard};

const CHECK: &str = r#"
[[check]]
name = "nightly"
measured.trace = "today"
predicted.trace = "reference"
tolerance = { percent = 50, reason = "wide, so that only what is missing can fail it" }
"#;

/// A folder with checks and the two ranks twice: `reference` and `today`.
fn with_checks(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("CHECKS.toml"), text).unwrap();
    for name in ["reference", "today"] {
        let to = folder.path().join(name);
        std::fs::create_dir_all(&to).unwrap();
        for rank in ["rank-0.json", "rank-1.json"] {
            std::fs::copy(repository("tests/data/trace").join(rank), to.join(rank)).unwrap();
        }
    }
    folder
}

/// Exit code, standard output, standard error.
fn check(folder: &Path, more: &[&str]) -> (i32, String, String) {
    let path = folder.join("CHECKS.toml").display().to_string();
    let output = trainyard().args(["check", &path]).args(more).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn check_json(folder: &Path) -> (i32, Value) {
    let (code, text, _) = check(folder, &["--format", "json"]);
    (code, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")))
}

/// What a failing run says in each of its forms: table, JUnit, Markdown, annotations, JSON.
fn all_forms(folder: &Path, expected_code: i32) -> Vec<String> {
    let out = |name: &str| folder.join(name).display().to_string();
    let (code, table, _) = check(
        folder,
        &["--github", "--junit", &out("junit.xml"), "--markdown", &out("summary.md")],
    );
    assert_eq!(code, expected_code, "{table}");
    let (code, json) = check_json(folder);
    assert_eq!(code, expected_code);
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    // Text for people is broken into lines.
    let table = table.replace("\n  ", " ");
    vec![table, read("junit.xml"), read("summary.md"), json.to_string()]
}

#[test]
fn a_lost_rank_fails_the_check_and_is_named_everywhere() {
    let folder = with_checks(CHECK);
    let folder = folder.path();
    assert_eq!(check(folder, &[]).0, 0);
    std::fs::remove_file(folder.join("today/rank-1.json")).unwrap();
    for text in all_forms(folder, 4) {
        assert!(text.contains("rank 1 is missing of what is measured"), "{text}");
    }
    let (_, text, _) = check(folder, &[]);
    assert!(text.contains("measured, missing: 1 of the 2 ranks of the job (there: 0)"), "{text}");
    let (_, value) = check_json(folder);
    // Within the tolerance all the same: it is what is missing that fails it.
    assert!(value["checks"][0]["error_percent"].as_f64().unwrap().abs() < 50.0);
    // The other way round, and with a replay.
    for kind in ["trace", "replay"] {
        let other = with_checks(&CHECK.replace("predicted.trace", &format!("predicted.{kind}")));
        std::fs::remove_file(other.path().join("reference/rank-0.json")).unwrap();
        let (code, text, _) = check(other.path(), &[]);
        assert_eq!(code, 4, "{text}");
        assert!(text.contains("rank 0 is missing of what is predicted"), "{text}");
    }
}

#[test]
fn a_file_that_ended_early_fails_the_check() {
    let folder = with_checks(CHECK);
    let folder = folder.path();
    let path = folder.join("today/rank-1.json");
    let text = std::fs::read_to_string(&path).unwrap();
    // Within the second step: the first is whole.
    let end = text.find("ProfilerStep#4").unwrap() + 2000;
    std::fs::write(&path, &text[..end]).unwrap();
    for text in all_forms(folder, 4) {
        assert!(text.contains("measured: rank 1 (rank-1.json) ends early at byte"), "{text}");
    }
    // One that ended before it said what it belongs to cannot even be put to the other.
    std::fs::write(&path, "{\"traceEvents\": [").unwrap();
    for text in all_forms(folder, 3) {
        assert!(text.contains("today holds 2 traces"), "{text}");
        assert!(text.contains("rank-1.json ends early at byte"), "{text}");
    }
    // One that is no trace any more, beside a rank that says that there were two.
    std::fs::write(&path, "").unwrap();
    for text in all_forms(folder, 4) {
        assert!(text.contains("rank-1.json is empty"), "{text}");
        assert!(text.contains("rank 1 is missing of what is measured"), "{text}");
    }
}

#[test]
fn ranks_that_were_there_when_the_baseline_was_accepted_are_missed_without_another_trace() {
    let figure = "predicted.scenario = \"step.toml\"";
    let text = CHECK.replace("predicted.trace = \"reference\"", figure);
    let text = text.replace("percent = 50", "over_percent = 1e9");
    let folder = with_checks(&text);
    let folder = folder.path();
    let quickstart = std::fs::read_to_string(repository("scenarios/quickstart.toml")).unwrap();
    std::fs::write(folder.join("step.toml"), quickstart).unwrap();
    assert_eq!(check(folder, &["--update-baseline"]).0, 0);
    assert_eq!(check(folder, &[]).0, 0);
    std::fs::remove_file(folder.join("today/rank-1.json")).unwrap();
    let (code, text, _) = check(folder, &[]);
    assert_eq!(code, 4, "{text}");
    assert!(text.replace("\n  ", " ").contains("rank 1 of what was measured when the"), "{text}");
    // A job that has become smaller can be accepted.
    assert_eq!(check(folder, &["--update-baseline"]).0, 0);
    assert_eq!(check(folder, &[]).0, 0);
}

#[test]
fn a_bad_entry_hides_no_other() {
    let second = CHECK.replace("nightly", "second");
    let bad = CHECK.replace("nightly", "bad").replace("percent = 50", "percnt = 50");
    let negative = CHECK.replace("nightly", "negative").replace("= 50", "= -50");
    let lost = CHECK.replace("nightly", "lost").replace("\"today\"", "\"nowhere\"");
    let folder = with_checks(&[&bad, CHECK, &negative, &lost, &second].concat());
    let folder = folder.path();
    for text in all_forms(folder, 3) {
        assert!(text.contains("unknown key `percnt`"), "{text}");
        assert!(text.contains("is negative"), "{text}");
        assert!(text.contains("nowhere"), "{text}");
    }
    let junit = std::fs::read_to_string(folder.join("junit.xml")).unwrap();
    assert!(junit.contains("tests=\"5\"") && junit.contains("errors=\"3\""), "{junit}");
    assert_eq!(junit.matches("<error ").count(), 3, "{junit}");
    let (_, value) = check_json(folder);
    let names = |list: &str| -> Vec<String> {
        let list = value[list].as_array().unwrap();
        list.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("checks"), ["nightly", "second"]);
    assert_eq!(names("broken"), ["bad", "negative", "lost"]);
    assert_eq!((&value["passed"], &value["failed"]), (&2.into(), &0.into()));
    let (_, table, error) = check(folder, &["--github"]);
    assert!(error.contains("3 of 5 checks could not be run"), "{error}");
    assert_eq!(table.lines().filter(|line| line.starts_with("::error ")).count(), 3, "{table}");
    // Those that are right are judged and accepted as ever.
    let (code, table, _) = check(folder, &["--update-baseline"]);
    assert_eq!(code, 3);
    assert!(table.contains("2 checks accepted"), "{table}");
    assert_eq!(check(folder, &["--only", "second"]).0, 0);
}

#[test]
fn a_damaged_baseline_is_written_anew_when_asked() {
    let folder = with_checks(CHECK);
    let folder = folder.path();
    let baseline = folder.join("CHECKS.baseline.json");
    for damage in ["{\"schema\": \"trainyard.base", "{\"schema\": \"trainyard.baseline/1\"}", "[]"]
    {
        std::fs::write(&baseline, damage).unwrap();
        let (code, _, error) = check(folder, &[]);
        assert_eq!(code, 3, "{error}");
        assert!(error.contains("write it again with `trainyard check --update"), "{error}");
        let (code, text, error) = check(folder, &["--update-baseline"]);
        assert_eq!(code, 0, "{error}");
        assert!(text.contains("1 check accepted; the file before"), "{text}");
        let (code, value) = check_json(folder);
        assert_eq!((code, &value["checks"][0]["drift"]["cause"]), (0, &Value::from("neither")));
    }
    // Nothing else is written over a file that is read.
    let checks = folder.join("CHECKS.toml").display().to_string();
    for option in ["--junit", "--markdown"] {
        let (code, _, error) = check(folder, &[option, &checks]);
        assert_eq!(code, 3);
        assert!(error.contains("would be overwritten"), "{error}");
    }
    assert_eq!(std::fs::read_to_string(&checks).unwrap(), CHECK);
}

#[test]
fn a_check_that_changed_is_no_drift_of_the_machine() {
    let text = CHECK.replace("measured.trace = \"today\"", "measured.series = \"steps.csv\"");
    let folder = with_checks(&text);
    let folder = folder.path();
    // Steps of half a millisecond, as the recording has them, and one of twice that.
    let steps = "seconds\n0.0005\n0.0005\n0.001\n0.0005\n";
    std::fs::write(folder.join("steps.csv"), steps).unwrap();
    assert_eq!(check(folder, &["--update-baseline"]).0, 0);
    for (key, told) in [
        ("statistic = \"max\"", "statistic was median and is max"),
        ("warm_up = 1", "warm_up was the rule and is 1"),
        ("measured.column = \"seconds\"", "measured.column was the metric's and is seconds"),
    ] {
        let changed = text.replace("measured.series", &format!("{key}\nmeasured.series"));
        std::fs::write(folder.join("CHECKS.toml"), changed).unwrap();
        let (_, value) = check_json(folder);
        let drift = &value["checks"][0]["drift"];
        assert_eq!(drift["cause"], "check_changed", "{key}");
        assert_eq!(drift["changed"], serde_json::json!([told]));
        let (_, text, _) = check(folder, &[]);
        let text = text.replace("\n  ", " ");
        assert!(text.contains("The check changed since the baseline"), "{text}");
        assert!(!text.contains("The machine drifted"), "{text}");
    }
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let scenario = repository("scenarios/quickstart.toml").display().to_string();
    let series = |metric: &str, more: &str| {
        format!(
            r#"
[[check]]
name = "series"
metric = "{metric}"
measured.series = "steps.csv"
predicted.scenario = "{scenario}"
tolerance = {{ percent = 10, reason = "none is met here" }}
{more}"#
        )
    };
    let told = |text: &str, table: &str| {
        let folder = with_checks(text);
        std::fs::write(folder.path().join("steps.csv"), table).unwrap();
        let (code, text, _) = check(folder.path(), &[]);
        assert_eq!(code, 3, "{text}");
        text
    };
    let window = CHECK.replace("measured.trace", "measured.step = \"window\"\nmeasured.trace");
    let text = told(&window.replace("predicted.trace", "predicted.replay"), "");
    assert!(text.contains("check[0].measured.step: a replay has no windows"), "{text}");
    // A recording has windows, and so has an earlier one.
    assert_eq!(check(with_checks(&window).path(), &[]).0, 0);
    let text = told(&series("step_time", ""), "second\n1\n");
    assert!(text.contains("has no column seconds\n"), "{text}");
    let text = told(&series("mfu", ""), "mfu\n41.2\n");
    assert!(text.contains("`41.2` is an MFU above 1") && text.contains("0.412"), "{text}");
    let figure = "measured = { figure = 41.2, source = \"made up\" }";
    let text = told(&series("mfu", "").replace("measured.series = \"steps.csv\"", figure), "");
    assert!(text.contains("check[0].measured.figure: an MFU above 1"), "{text}");
    let warm = series("step_time", "").replace("measured.series", "warm_up = 3\nmeasured.series");
    let text = told(&warm, "seconds\n3\n2\n2\n");
    assert!(text.contains("warm_up = 3 leaves none of the 3 steps"), "{text}");
    let warm = CHECK.replace("measured.trace", "warm_up = 2\nmeasured.trace");
    let text = told(&warm, "");
    assert!(text.contains("warm_up = 2 leaves none of the 2 steps"), "{text}");
}

#[test]
fn annotations_beside_json_leave_the_json_whole() {
    let text = CHECK.replace("percent = 50", "over_percent = 0");
    let folder = with_checks(&text.replace("predicted.trace", "predicted.replay"));
    std::fs::remove_file(folder.path().join("today/rank-0.json")).unwrap();
    let (code, text, error) = check(folder.path(), &["--format", "json", "--github"]);
    assert_eq!(code, 4, "{error}");
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    assert_eq!(value["failed"], 1);
    assert!(error.lines().any(|line| line.starts_with("::error file=")), "{error}");
    // Beside the table they stand with it.
    let (_, text, error) = check(folder.path(), &["--github"]);
    assert!(text.lines().any(|line| line.starts_with("::error file=")), "{text}");
    assert!(!error.contains("::error"), "{error}");
}

#[test]
fn a_rank_that_lost_a_step_fails_the_check_and_is_told_by_replays() {
    let folder = with_checks(CHECK);
    let folder = folder.path();
    let path = folder.join("today/rank-1.json");
    let mut trace: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    // Everything of step 4 but its own mark.
    let events = trace["traceEvents"].as_array_mut().unwrap();
    events.retain(|event| {
        let late = event["ts"].as_f64().is_some_and(|ts| ts >= 146_116_004_000.0);
        !late || event["name"].as_str().is_some_and(|name| name.starts_with("ProfilerStep"))
    });
    std::fs::write(&path, trace.to_string()).unwrap();
    for text in all_forms(folder, 4) {
        assert!(text.contains("rank 1 has nothing of step 4"), "{text}");
    }
    for (format, field) in [("table", "incomplete: "), ("json", "\"incomplete\"")] {
        let today = folder.join("today").display().to_string();
        let mut command = trainyard();
        command.args(["trace", "replay", &today, "--format", format]);
        let output = command.assert().success().get_output().stdout.clone();
        let text = String::from_utf8(output).unwrap();
        assert!(text.contains(field) && text.contains("has nothing of step 4"), "{text}");
    }
}

#[test]
fn nothing_that_a_check_reads_is_written_over() {
    let folder = with_checks(CHECK);
    let folder = folder.path();
    let at = |name: &str| folder.join(name).display().to_string();
    let recording = at("today/rank-0.json");
    let before = std::fs::read(&recording).unwrap();
    for option in ["--junit", "--markdown"] {
        let (code, _, error) = check(folder, &[option, &recording]);
        assert_eq!(code, 3, "{error}");
        assert!(error.contains("would be overwritten"), "{error}");
        assert_eq!(std::fs::read(&recording).unwrap(), before);
    }
    let (code, _, error) = check(folder, &["--junit", &at("one"), "--markdown", &at("one")]);
    assert_eq!(code, 3, "{error}");
    assert!(error.contains("each needs its own"), "{error}");
    // An import does not hide recordings behind a trace, and no path counts twice.
    let today = at("today");
    let run = |args: &[&str]| {
        let output = trainyard().args(args).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = run(&["trace", "import", &today, "--out", &today]);
    assert!(code == 3 && error.contains("would hide it"), "{error}");
    let (code, error) = run(&["trace", "replay", &today, &today]);
    assert!(code == 3 && error.contains("is named twice"), "{error}");
}
