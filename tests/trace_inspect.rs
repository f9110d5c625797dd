//! What an inspection says, on two synthetic ranks whose times are known by construction: two
//! steps; rank 1 computes 400 us where rank 0 computes 250; an all-reduce of 2 MB takes 100 us
//! once both have arrived.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/trace")
}

fn trainyard(arguments: &[&str]) -> std::process::Output {
    Command::cargo_bin("trainyard").unwrap().args(arguments).output().unwrap()
}

fn stdout(arguments: &[&str]) -> String {
    let output = trainyard(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn report() -> Value {
    let path = fixture();
    serde_json::from_str(&stdout(&["trace", "inspect", path.to_str().unwrap(), "--format", "json"]))
        .unwrap()
}

#[test]
fn windows_have_the_documented_fields() {
    let report = report();
    assert_eq!(report["schema"], "trainyard-inspect");
    assert_eq!(report["schema_version"], 1);
    let rank = &report["ranks"][0];
    assert_eq!((&rank["rank"], &rank["trace"]), (&Value::from(0), &Value::from("trace")));
    let names: Vec<&str> =
        rank["windows"].as_array().unwrap().iter().map(|w| w["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ALL", "3", "4"]);
    let step = &rank["windows"][1];
    for (field, value) in [
        ("span_ns", 1_000_000),
        ("compute_ns", 250_000),
        ("comm_ns", 250_000),
        ("comm_exposed_ns", 250_000),
        ("mem_ns", 2_500),
        ("mem_exposed_ns", 2_500),
        ("idle_ns", 497_500),
        ("overlap_ns", 0),
        ("kernels", 2),
        ("comm_kernels", 1),
        ("streams", 2),
        ("launched_kernels", 2),
        ("launched_span_ns", 517_500),
    ] {
        assert_eq!(step[field], value, "{field}");
    }
    assert_eq!(step["kind"], "cpu_ProfilerStep");
    assert_eq!(rank["windows"][0]["kind"], "gpu_first_to_last");
    assert_eq!(rank["windows"][0]["launched_kernels"], Value::Null);
    assert_eq!(rank["accelerator"]["name"], "NVIDIA A100-SXM4-80GB");
}

#[test]
fn collectives_are_matched_and_waiting_is_told_from_transfer() {
    let report = report();
    let stats = &report["traces"][0]["collectives"][0];
    for (field, value) in [
        ("op", Value::from("all_reduce")),
        ("group", "0 (default_pg)".into()),
        ("group_size", 2.into()),
        ("group_size_source", "recorded".into()),
        ("dtype", "BFloat16".into()),
        ("message_bytes", 2_000_000.into()),
        ("count", 2.into()),
        ("matched", 2.into()),
        ("kernels", 4.into()),
        ("total_ns", 700_000.into()),
        ("waiting_ns", 300_000.into()),
        ("transfer_ns", 100_000.into()),
        ("includes_waiting", false.into()),
        ("bus_bandwidth", 20e9.into()),
    ] {
        assert_eq!(stats[field], value, "{field}");
    }
    let alignment = &report["traces"][0]["alignment"];
    assert_eq!((&alignment["matched"], &alignment["skew_ns"]), (&2.into(), &3_000_000.into()));
    assert_eq!(alignment["residual_ns"], 0);
}

#[test]
fn the_critical_path_goes_through_the_late_rank_and_adds_up() {
    let report = report();
    let path = &report["traces"][0]["critical_path"];
    assert_eq!(path["span_ns"], 1_517_500);
    let parts = path["parts"].as_object().unwrap();
    let expected = [
        ("compute", 800_000),
        ("communication", 200_000),
        ("memory", 5_000),
        ("launch", 30_000),
        ("host", 452_500),
        ("gap", 30_000),
    ];
    for (part, ns) in expected {
        assert_eq!(parts[part], ns, "{part}: {parts:?}");
    }
    let sum: i64 = parts.values().map(|ns| ns.as_i64().unwrap()).sum();
    assert_eq!(sum, 1_517_500);
    assert_eq!(path["hops"], 1);
}

#[test]
fn the_slowest_rank_and_the_gain_without_its_excess() {
    let report = report();
    let slowest = &report["traces"][0]["slowest_rank"];
    assert_eq!(slowest["rank"], 1);
    // 150 us too long in each of two steps.
    assert_eq!(slowest["gain_ns"], 300_000);
    assert_eq!(slowest["span_without_ns"], 1_217_500);
    assert_eq!(slowest["excess_ns"], 300_000);
    assert_eq!(slowest["ranks"][0]["exposed_wait_ns"], 300_000);
    assert_eq!(slowest["ranks"][1]["arrives_last"], 2);
    assert_eq!(slowest["ranks"][0]["gain_ns"], 0);
}

#[test]
fn idle_time_is_explained_in_full() {
    let report = report();
    for rank in report["ranks"].as_array().unwrap() {
        let causes: i64 =
            rank["idle_causes"].as_object().unwrap().values().map(|ns| ns.as_i64().unwrap()).sum();
        assert_eq!(rank["windows"][0]["idle_ns"], causes);
        assert_eq!(rank["launches"]["launched"], 6);
        assert_eq!(rank["launches"]["orphans"], 0);
    }
}

#[test]
fn an_imported_trace_says_what_its_source_says() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let (source, out) = (fixture(), out.to_str().unwrap().to_owned());
    let summary = stdout(&["trace", "import", source.to_str().unwrap(), "--out", &out]);
    assert!(summary.contains("-3000.0"), "{summary}");
    assert!(summary.contains("python_function: Python call stacks"), "{summary}");
    let imported: Value =
        serde_json::from_str(&stdout(&["trace", "inspect", &out, "--format", "json"])).unwrap();
    assert_eq!(imported, report());
}

#[test]
fn tables_and_page_are_complete_and_self_contained() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let source = fixture();
    let text =
        stdout(&["trace", "inspect", source.to_str().unwrap(), "--html", page.to_str().unwrap()]);
    for part in [
        "Findings",
        "Rank 1 is the slowest: without its excess work the 1.518 ms would be 0.300 ms shorter",
        "Device time",
        "ampere_sgemm_128x64_nn",
        "all_reduce",
        "20.0",
        "Critical path: 1.518 ms, 1 hop between ranks",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.trim_end().ends_with("</html>"));
    assert!(html.contains("prefers-color-scheme: dark"));
    for outside in ["http://", "https://", "<script", "<link", "@import", "url(", "NaN", "inf"] {
        // `information` and the like are text.
        let found = if outside == "inf" { html.contains("\"inf") } else { html.contains(outside) };
        assert!(!found, "{outside}");
    }
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
    assert_eq!(html.matches("<section").count(), html.matches("</section>").count());
}

#[test]
fn a_page_escapes_what_a_trace_says() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("evil.json");
    std::fs::write(
        &source,
        r#"[{"ph":"X","cat":"kernel","name":"</td><script>alert(1)</script>\u0000","pid":0,"tid":7,"ts":1,"dur":2,"args":{"stream":7}}]"#,
    )
    .unwrap();
    let page = folder.path().join("page.html");
    stdout(&["trace", "inspect", source.to_str().unwrap(), "--html", page.to_str().unwrap()]);
    let html = std::fs::read_to_string(page).unwrap();
    assert!(!html.contains("<script") && !html.contains('\0'), "{html}");
}

#[test]
fn traces_without_device_work_or_with_one_rank_are_inspected_too() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("cpu.json");
    std::fs::write(
        &source,
        r#"{"traceEvents":[{"ph":"X","cat":"cpu_op","name":"aten::mm","pid":1,"tid":1,"ts":1,"dur":2,"args":{}}]}"#,
    )
    .unwrap();
    let page = folder.path().join("page.html");
    let text =
        stdout(&["trace", "inspect", source.to_str().unwrap(), "--html", page.to_str().unwrap()]);
    assert!(text.contains("No device work was recorded."), "{text}");
    let one = fixture().join("rank-0.json");
    let text = stdout(&["trace", "inspect", one.to_str().unwrap()]);
    assert!(text.contains("1 of 2 ranks were recorded"), "{text}");
}

#[test]
fn errors_have_their_exit_code_and_place() {
    let output = trainyard(&["trace", "inspect", "/does/not/exist"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/does/not/exist"));
    assert_eq!(trainyard(&["trace", "inspect"]).status.code(), Some(2));
    assert_eq!(trainyard(&["trace", "import", "x"]).status.code(), Some(2));
}
