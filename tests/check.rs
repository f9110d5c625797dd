//! `trainyard check`: unchanged runs pass, a slowed one fails with exit code 4 and its culprit is
//! named, and drift of the model is told from drift of the machine.

#![allow(clippy::unwrap_used)]

mod support;

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;
use support::{repository, trainyard};

/// Steps of the recorded run, its layers, and how long each of their kernels takes.
const STEPS: usize = 8;
const LAYERS: usize = 12;
const PRODUCT_US: f64 = 350.0;
const NORM_US: f64 = 25.0;

/// A run of two ranks as the PyTorch profiler records it, imported into our format: per step layers
/// of a matrix product and a normalisation, an all-reduce that both enter, an optimizer. `slow`
/// says how many times as long the products of a rank take in a step.
fn record(folder: &Path, name: &str, slow: &dyn Fn(u32, usize) -> f64) {
    let source = folder.join(format!("{name}-profiler"));
    std::fs::create_dir_all(&source).unwrap();
    let mut texts = [String::new(), String::new()];
    let mut begin = 1000.0;
    for step in 0..STEPS {
        let products = [0, 1].map(|rank| PRODUCT_US * slow(rank, step));
        let ready = products.map(|product| begin + 20.0 + LAYERS as f64 * (product + NORM_US));
        let met = ready[0].max(ready[1]) + 900.0;
        for rank in 0..2_usize {
            let text = &mut texts[rank];
            let window = met + 500.0 - begin;
            let _ = write!(
                text,
                r#",{{"ph":"X","cat":"user_annotation","name":"ProfilerStep#{step}","pid":9,"tid":9,"ts":{begin:.3},"dur":{window:.3},"args":{{}}}}"#
            );
            let mut device = Vec::new();
            let mut at = begin + 20.0;
            for _ in 0..LAYERS {
                device.push(("ampere_bf16_gemm_256x128", at, products[rank], 7));
                device.push(("rms_norm", at + products[rank], NORM_US, 7));
                at += products[rank] + NORM_US;
            }
            device.push(("ncclDevKernel_AllReduce", ready[rank], met - ready[rank], 20));
            device.push(("multi_tensor_adam", met, 500.0, 7));
            for (i, (kernel, start, dur, stream)) in device.into_iter().enumerate() {
                let id = 100 * step + i + 1;
                let called = begin + 0.5 * i as f64;
                let more = if stream == 20 {
                    r#","Collective name":"allreduce","In msg nelems":1000000,"Out msg nelems":1000000,"Group size":2,"dtype":"BFloat16","Process Group Name":"0""#
                } else {
                    ""
                };
                let _ = write!(
                    text,
                    r#",{{"ph":"X","cat":"cuda_runtime","name":"cudaLaunchKernel","pid":9,"tid":9,"ts":{called:.3},"dur":0.4,"args":{{"correlation":{id}}}}},{{"ph":"X","cat":"kernel","name":"{kernel}","pid":{rank},"tid":{stream},"ts":{start:.3},"dur":{dur:.3},"args":{{"device":{rank},"stream":{stream},"correlation":{id}{more}}}}}"#
                );
            }
        }
        begin = met + 520.0;
    }
    for (rank, text) in texts.iter().enumerate() {
        let text = format!(
            r#"{{"schemaVersion":1,"distributedInfo":{{"backend":"nccl","rank":{rank},"world_size":2,"pg_config":[{{"pg_name":"0","pg_desc":"default_pg","pg_size":2,"ranks":[0,1]}}]}},"traceEvents":[{}]}}"#,
            &text[1..]
        );
        std::fs::write(source.join(format!("rank-{rank}.json")), text).unwrap();
    }
    let (from, to) = (source.display().to_string(), folder.join(name).display().to_string());
    trainyard().args(["trace", "import", &from, "--out", &to]).assert().success();
}

const CHECKS: &str = r#"
[[check]]
name = "step of the nightly run"
measured.trace = "today"
predicted.replay = "reference"
[check.tolerance]
percent = 3
reason = "clocks of the nodes differ by 2 % from day to day"
"#;

/// Runs `trainyard check`; gives the exit code and what it printed.
fn check(folder: &Path, more: &[&str]) -> (i32, String) {
    let path = folder.join("CHECKS.toml").display().to_string();
    let output = trainyard().args(["check", &path]).args(more).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), if text.is_empty() { errors } else { text })
}

fn check_json(folder: &Path, more: &[&str]) -> (i32, Value) {
    let (code, text) = check(folder, &[&["--format", "json"], more].concat());
    (code, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")))
}

fn with_checks(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("CHECKS.toml"), text).unwrap();
    folder
}

#[test]
fn an_unchanged_run_passes_and_a_slowed_one_fails_and_names_rank_and_kernel() {
    let folder = with_checks(CHECKS);
    let folder = folder.path();
    record(folder, "reference", &|_, _| 1.0);
    record(folder, "today", &|_, _| 1.0);
    let (code, text) = check(folder, &["--update-baseline"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("1 check accepted"), "{text}");
    let (code, value) = check_json(folder, &[]);
    assert_eq!((code, &value["checks"][0]["drift"]["cause"]), (0, &Value::from("neither")));

    // The product of rank 1 takes half as long again; rank 0 waits for it in the all-reduce.
    record(folder, "today", &|rank, _| if rank == 1 { 1.5 } else { 1.0 });
    let out = |name: &str| folder.join(name).display().to_string();
    let (code, text) = check(
        folder,
        &["--github", "--junit", &out("junit.xml"), "--markdown", &out("summary.md")],
    );
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("FAILED"), "{text}");
    // Text for people is broken into lines.
    let annotation = text.lines().find(|line| line.starts_with("::error file=")).unwrap();
    assert!(annotation.contains("CHECKS.toml,line=2,title="), "{annotation}");
    assert!(annotation.contains("ampere_bf16_gemm_256x128"), "{annotation}");
    assert!(!annotation.contains(" % "), "percent signs are escaped: {annotation}");
    let text = text.replace("\n  ", " ");
    assert!(text.contains("The machine drifted, not the model"), "{text}");
    assert!(text.contains("compute of rank 1 alone"), "{text}");
    assert!(text.contains("`ampere_bf16_gemm_256x128`, 4.20 ms to 6.30 ms"), "{text}");
    let junit = std::fs::read_to_string(folder.join("junit.xml")).unwrap();
    assert!(junit.contains("tests=\"1\"") && junit.contains("failures=\"1\""), "{junit}");
    assert!(junit.contains("<failure") && junit.contains("ampere_bf16_gemm"), "{junit}");
    let summary = std::fs::read_to_string(folder.join("summary.md")).unwrap();
    assert!(summary.contains("| step of the nightly run | step_time |"), "{summary}");
    let (_, value) = check_json(folder, &[]);
    let found = &value["checks"][0];
    assert_eq!(found["drift"]["cause"], "machine");
    assert_eq!(found["drift"]["model"]["moved"], false);
    let part = &found["drift"]["machine"]["part"];
    assert_eq!((&part["part"], &part["rank"]), (&"compute".into(), &1.into()));
    // A failing check is not accepted.
    let (code, text) = check(folder, &["--update-baseline"]);
    assert_eq!(code, 4);
    assert!(text.contains("0 checks accepted"), "{text}");
    assert_eq!(check(folder, &[]).0, 4);
}

#[test]
fn a_single_slow_step_fails_the_maximum_and_not_the_median() {
    let text = format!("{CHECKS}\n{}", CHECKS.replace("nightly run", "slowest step"));
    let text = text.replacen(
        "name = \"step of the slowest step\"",
        "name = \"slowest\"\nstatistic = \"max\"",
        1,
    );
    let folder = with_checks(&text);
    let folder = folder.path();
    record(folder, "reference", &|_, _| 1.0);
    record(folder, "today", &|rank, step| if (rank, step) == (0, 5) { 2.0 } else { 1.0 });
    let (code, value) = check_json(folder, &[]);
    assert_eq!(code, 4);
    let passed = |i: usize| value["checks"][i]["passed"].as_bool().unwrap();
    assert_eq!((passed(0), passed(1)), (true, false));
    // From the first kernel: twelve layers of 700 and 25 us, 900 us together, 500 us. Recorded
    // times are exact.
    let longest = value["checks"][1]["measured"]["value"].as_f64().unwrap();
    assert!((longest - 10.1e-3).abs() < 1e-9, "{longest}");
}

#[test]
fn a_model_that_changed_is_told_from_a_machine_that_did() {
    let scenario = repository("scenarios/quickstart.toml").display().to_string();
    let folder = with_checks(&format!(
        r#"
[[check]]
name = "quickstart"
measured = {{ figure = 2.336, source = "made up for this test, next to the prediction" }}
predicted = {{ scenario = "{scenario}" }}
tolerance = {{ percent = 8, reason = "the prediction may move by a few percent between versions" }}
"#
    ));
    let folder = folder.path();
    let (code, text) = check(folder, &["--update-baseline"]);
    assert_eq!(code, 0, "{text}");
    let own = folder.join("hw/accelerators");
    std::fs::create_dir_all(&own).unwrap();
    let entry =
        std::fs::read_to_string(repository("hw-models/accelerators/h100-sxm.toml")).unwrap();
    let slower = entry.replace("bf16 = { value = 989,", "bf16 = { value = 700,");
    assert_ne!(slower, entry);
    std::fs::write(own.join("h100-sxm.toml"), slower).unwrap();
    let hardware = folder.join("hw").display().to_string();
    let (code, value) = check_json(folder, &["--hw-models", &hardware]);
    assert_eq!(code, 4);
    let drift = &value["checks"][0]["drift"];
    assert_eq!(drift["cause"], "model");
    assert_eq!(drift["machine"]["moved"], false);
    assert_eq!(drift["model"]["part"]["part"], "compute");
    assert_eq!(drift["model"]["inputs"], serde_json::json!(["accelerator h100-sxm"]));
    let (_, text) = check(folder, &["--hw-models", &hardware]);
    let text = text.replace("\n  ", " ");
    assert!(text.contains("The model drifted, not the machine"), "{text}");
    assert!(text.contains("changed inputs: accelerator h100-sxm"), "{text}");
}

#[test]
fn series_give_their_median_after_the_warm_up_in_the_metric_asked_for() {
    let scenario = repository("scenarios/quickstart.toml").display().to_string();
    let folder = with_checks(&format!(
        r#"
[[check]]
name = "tokens"
metric = "tokens_per_second"
measured.series = "steps.csv"
predicted.scenario = "{scenario}"
tolerance = {{ under_percent = 10, reason = "the machine may be faster" }}
"#
    ));
    let folder = folder.path();
    std::fs::write(
        folder.join("steps.csv"),
        "step,seconds\n1,9.0\n2,3.4\n3,2.4\n4,2.5\n5,2.3\n6,2.4\n",
    )
    .unwrap();
    let (code, value) = check_json(folder, &[]);
    assert_eq!(code, 0);
    let measured = &value["checks"][0]["measured"];
    // 16 sequences of 8192 tokens in the median of 2.4, 2.5, 2.3, 2.4 s.
    let expected = 16.0 * 8192.0 / 2.4;
    assert!((measured["value"].as_f64().unwrap() / expected - 1.0).abs() < 1e-9, "{measured}");
    assert_eq!(measured["steps"], 4);
    assert!(measured["rule"].as_str().unwrap().contains("2 of 6 steps skipped as warm-up"));
}

#[test]
fn an_earlier_run_is_a_prediction_too() {
    let folder = with_checks(&CHECKS.replace("predicted.replay", "predicted.trace"));
    let folder = folder.path();
    record(folder, "reference", &|_, _| 1.0);
    record(folder, "today", &|_, _| 1.0);
    let (code, value) = check_json(folder, &[]);
    assert_eq!((code, &value["checks"][0]["error_percent"]), (0, &Value::from(0.0)));
    record(folder, "today", &|rank, _| if rank == 0 { 0.5 } else { 1.2 });
    assert_eq!(check(folder, &[]).0, 4);
}

#[test]
fn a_replay_can_be_scaled() {
    let folder = with_checks(&CHECKS.replace(
        "predicted.replay = \"reference\"",
        "predicted = { replay = \"reference\", scale = { gemm = 1.5 } }",
    ));
    let folder = folder.path();
    record(folder, "reference", &|_, _| 1.0);
    record(folder, "today", &|_, _| 1.5);
    let (code, text) = check(folder, &[]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let wrong = |from: &str, to: &str| {
        let text = CHECKS.replacen(from, to, 1);
        assert_ne!(text, CHECKS, "{from}");
        let folder = with_checks(&text);
        let (code, message) = check(folder.path(), &[]);
        assert_eq!(code, 3, "{message}");
        message
    };
    for (from, to, expected) in [
        ("percent = 3", "percnt = 3", "CHECKS.toml:7:1: check[0].tolerance.percnt: unknown key"),
        ("percent = 3", "percnt = 3", "did you mean `percent`"),
        ("percent = 3", "", "no tolerance, or two"),
        ("reason =", "because =", "unknown key `because`"),
        ("reason = \"clocks of the nodes differ by 2 % from day to day\"", "", "`reason`"),
        ("clocks of the nodes differ by 2 % from day to day", " ", "check[0].tolerance.reason"),
        ("measured.trace", "measured.figure = 2\nmeasured.trace", "exactly one of trace"),
        ("measured.trace = \"today\"", "measured.figure = 2", "a figure without a source"),
        (
            "predicted.replay = \"reference\"",
            "predicted.set = [\"a=1\"]",
            "exactly one of scenario",
        ),
        ("measured.trace", "metric = \"mfu\"\nmeasured.trace", "cannot be predicted by a trace"),
        ("measured.trace", "metric = \"step_tme\"\nmeasured.trace", "did you mean `step_time`"),
        ("percent = 3", "percent = -3", "negative"),
    ] {
        let message = wrong(from, to);
        assert!(message.contains(expected), "{to}: {message}");
    }
    let twice = with_checks(&format!("{CHECKS}{CHECKS}"));
    let (code, message) = check(twice.path(), &[]);
    assert_eq!(code, 3);
    assert!(message.contains("CHECKS.toml:11:1: check[1].name"), "{message}");
    // What an entry names does not exist.
    let folder = with_checks(CHECKS);
    let (code, message) = check(folder.path(), &[]);
    assert_eq!(code, 3);
    assert!(message.contains("CHECKS.toml:5:11: check[0].predicted.replay"), "{message}");
    let (code, message) = check(folder.path(), &["--only", "step of the nightly"]);
    assert_eq!(code, 3);
    assert!(message.contains("did you mean step of the nightly run"), "{message}");
    assert_eq!(check(with_checks("").path(), &[]).0, 3);
}

/// Copies the two small ranks of the repository.
fn copy_ranks(to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(repository("tests/data/trace")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Lets the product of rank 1 take 120 us longer in every step, and all that waits for it come so
/// much later: rank 0 waits in the all-reduce.
fn slow_down(folder: &Path) {
    for rank in 0..2 {
        let path = folder.join(format!("rank-{rank}.json"));
        let mut value: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for event in value["traceEvents"].as_array_mut().unwrap() {
            let name = event["name"].as_str().unwrap_or_default();
            let later = match name {
                "ampere_sgemm_128x64_nn" if rank == 1 => "dur",
                "cudaDeviceSynchronize" => "dur",
                name if name.starts_with("nccl") => ["dur", "ts"][rank],
                name if name.starts_with("Memcpy") => "ts",
                _ => continue,
            };
            event[later] = (event[later].as_f64().unwrap() + 120.0).into();
        }
        std::fs::write(&path, value.to_string()).unwrap();
    }
}

#[test]
fn the_three_commands_of_the_readme_do_what_it_says() {
    let readme = std::fs::read_to_string(repository("README.md")).unwrap();
    let section = readme.split("## From a trace folder to a CI check").nth(1).unwrap();
    let blocks = |kind: &str| -> Vec<String> {
        let begin = format!("```{kind}\n");
        let after = section.split(&begin).skip(1);
        after.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
    };
    let folder = with_checks(&blocks("toml")[0]);
    let folder = folder.path();
    copy_ranks(&folder.join("profiler_output"));
    copy_ranks(&folder.join("tonight"));
    let run = |line: &str| {
        let command = line.split('#').next().unwrap();
        let words: Vec<&str> = command.split_whitespace().collect();
        assert_eq!(words[0], "trainyard");
        let output = trainyard().args(&words[1..]).current_dir(folder).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let text = blocks("text");
    let row = text[0].lines().nth(2).unwrap().trim_end().to_owned();
    let commands = blocks("sh")[0].clone();
    let printed: Vec<(i32, String)> = commands.lines().map(run).collect();
    assert_eq!(printed.iter().map(|(code, _)| *code).collect::<Vec<i32>>(), [0, 0, 0]);
    assert!(printed[1].1.lines().any(|line| line.trim_end() == row), "{}", printed[1].1);
    assert!(folder.join("check.xml").exists());
    // The other half: the night in which rank 1 is slow.
    slow_down(&folder.join("tonight"));
    let (code, printed) = run(commands.lines().nth(2).unwrap());
    assert_eq!(code, 4, "{printed}");
    assert!(printed.contains(text[1].trim_end()), "{printed}\nis not\n{}", text[1]);
}

#[test]
fn memory_and_mfu_are_held_to_a_scenario() {
    let scenario = repository("scenarios/quickstart.toml").display().to_string();
    let entry = |metric: &str, figure: &str| {
        format!(
            r#"
[[check]]
name = "{metric}"
metric = "{metric}"
measured = {{ figure = {figure}, source = "made up for this test, next to the prediction" }}
predicted = {{ scenario = "{scenario}" }}
tolerance = {{ percent = 5, reason = "the prediction may move between versions" }}
"#
        )
    };
    // The golden result of this scenario has 35.6 GiB and 41.1 %.
    let folder = with_checks(&[entry("memory_peak", "38.2e9"), entry("mfu", "0.5")].concat());
    let (code, value) = check_json(folder.path(), &["--only", "memory_peak"]);
    assert_eq!(code, 0, "{value}");
    let parts = value["checks"][0]["predicted"]["parts"]["total"].as_object().unwrap();
    let sum: f64 = parts.values().map(|bytes| bytes.as_f64().unwrap()).sum();
    let peak = value["checks"][0]["predicted"]["value"].as_f64().unwrap();
    assert!((sum / peak - 1.0).abs() < 1e-9, "{parts:?}");
    let (code, text) = check(folder.path(), &[]);
    assert_eq!(code, 4);
    assert!(text.contains("1 of 2 checks failed"), "{text}");
    assert!(text.contains("50.00 %") && text.contains("35.58 GiB"), "{text}");
}

#[test]
fn the_window_of_a_simulated_step_is_what_its_scenario_predicts() {
    let scenario = repository("scenarios/quickstart.toml").display().to_string();
    let folder = with_checks(&format!(
        r#"
[[check]]
name = "window"
measured = {{ trace = "step.json", step = "window" }}
predicted = {{ scenario = "{scenario}" }}
tolerance = {{ percent = 0.0001, reason = "the window is the step in whole nanoseconds" }}

[[check]]
name = "span"
measured = {{ trace = "step.json" }}
predicted = {{ scenario = "{scenario}" }}
tolerance = {{ under_percent = 0, over_percent = 1, reason = "the host's start is not in the span" }}
"#
    ));
    let timeline = folder.path().join("step.json").display().to_string();
    trainyard()
        .args(["run", &scenario, "--timeline", &timeline, "--timeline-ranks", "0-7"])
        .assert()
        .success();
    let (code, text) = check(folder.path(), &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("all 2 checks passed"), "{text}");
}
