//! `trainyard validate` on tables that are not as they should be: a message with row and column,
//! and the other rows still run.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

const HEADER: &str = "id,accelerator,nodes_x_gpus_per_node,n_devices,interconnect_inter,model,\
                      model_key,seq_len,precision,tp,pp,dp,zero_stage_or_fsdp,recompute,\
                      micro_batch,global_batch,framework,options,tokens_per_s_per_device,family,\
                      row_kind,source_group,scoreable,base";

/// A row that runs: Llama 3 8B with FSDP on one node.
fn good(id: &str) -> String {
    format!(
        "{id},NVIDIA H100 80GB,1x8,8,,,llama-3-8b,8192,bf16,1,1,8,FSDP2,full,2,16,torchtitan,,\
         5000,NVIDIA-H100,measured,test,yes,{id}"
    )
}

fn write(folder: &Path, name: &str, text: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).expect("writes");
    path
}

fn run(files: &[PathBuf]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_trainyard"))
        .args(["validate", "--format", "json"])
        .args(files)
        .output()
        .expect("starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn status(report: &Value, id: &str) -> String {
    let rows = report["predictions"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("no row {id}"));
    row["status"].as_str().expect("text").to_owned()
}

fn reason(report: &Value, id: &str) -> String {
    let rows = report["predictions"].as_array().expect("rows");
    let row = rows.iter().rfind(|row| row["id"] == id).unwrap_or_else(|| panic!("no row {id}"));
    row["reason"].as_str().expect("text").to_owned()
}

fn problems(report: &Value) -> String {
    let all = report["problems"].as_array().expect("problems");
    all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

/// A table of a good row, `middle`, and another good row.
fn between(middle: &str) -> Value {
    let folder = TempDir::new().expect("folder");
    let text = format!("{HEADER}\n{}\n{middle}\n{}\n", good("first"), good("last"));
    let report = run(&[write(folder.path(), "t.csv", text.as_bytes())]);
    assert_eq!(status(&report, "first"), "ok", "{report:#}");
    assert_eq!(status(&report, "last"), "ok", "{report:#}");
    report
}

#[test]
fn unknown_accelerator_offers_the_nearest() {
    let report = between(&good("x").replace("NVIDIA H100 80GB", "NVIDIA H101"));
    assert_eq!(status(&report, "x"), "invalid");
    let reason = reason(&report, "x");
    assert!(reason.contains("column `accelerator`") && reason.contains("nearest"), "{reason}");
    assert!(reason.to_lowercase().contains("h100"), "{reason}");
}

#[test]
fn unknown_framework_offers_the_nearest() {
    let report = between(&good("x").replace("torchtitan", "torchtitn"));
    assert_eq!(status(&report, "x"), "unsupported");
    assert!(reason(&report, "x").contains("nearest: torchtitan"), "{}", reason(&report, "x"));
}

#[test]
fn duplicate_ids_are_reported_and_count_once() {
    let report = between(&good("first"));
    let reason = reason(&report, "first");
    assert!(reason.contains("row 2, column `id`: `first` is also the id of"), "{reason}");
    assert!(problems(&report).contains("row 2"), "{}", problems(&report));
}

#[test]
fn thousand_separators_are_read_where_they_are_quoted() {
    let report = between(&good("x").replace(",8192,bf16", ",\"8,192\",bf16"));
    assert_eq!(status(&report, "x"), "ok");
    let rows = report["predictions"].as_array().expect("rows");
    assert_eq!(rows[0]["predicted_step_s"], rows[1]["predicted_step_s"]);
    assert!(rows[1]["assumed"].to_string().contains("read as 8192"), "{}", rows[1]);
}

#[test]
fn thousand_separators_outside_of_quotes_shift_the_row() {
    let report = between(&good("x").replace(",8192,bf16", ",8,192,bf16"));
    assert_eq!(status(&report, "x"), "invalid");
    let reason = reason(&report, "x");
    assert!(reason.contains("25 cells, and the header has 24"), "{reason}");
}

#[test]
fn cells_that_are_no_numbers() {
    for (bad, message) in [
        ("many", "is not a number"),
        ("-8", "is negative"),
        ("8.5", "is not a whole number"),
        ("nan", "is not a number"),
        ("1e999", "is not a finite number"),
        ("99999999999", "is not a whole number from 1 to"),
    ] {
        let report = between(&good("x").replace(",1x8,8,", &format!(",,{bad},")));
        assert_eq!(status(&report, "x"), "invalid", "{bad}");
        let reason = reason(&report, "x");
        assert!(
            reason.contains("row 2, column `n_devices`") && reason.contains(message),
            "{bad}: {reason}"
        );
    }
}

#[test]
fn a_bad_measurement_costs_the_score_only() {
    let report = between(&good("x").replace(",5000,", ",fast,"));
    assert_eq!(status(&report, "x"), "ok");
    assert!(problems(&report).contains("column `tokens_per_s_per_device`: `fast`"));
}

#[test]
fn empty_files_headers_alone_and_other_files() {
    let folder = TempDir::new().expect("folder");
    let files = [
        write(folder.path(), "empty.csv", b""),
        write(folder.path(), "header.csv", format!("{HEADER}\n").as_bytes()),
        write(folder.path(), "prose.csv", b"this is\nnot a table\n"),
        write(folder.path(), "tabs.csv", HEADER.replace(',', "\t").as_bytes()),
        write(folder.path(), "utf16.csv", b"\xff\xfei\0d\0"),
        write(folder.path(), "good.csv", format!("{HEADER}\n{}\n", good("a")).as_bytes()),
    ];
    let report = run(&files);
    assert_eq!(status(&report, "a"), "ok");
    let problems = problems(&report);
    for part in [
        "empty.csv: row 0: the file is empty",
        "header.csv: row 1: no rows",
        "prose.csv: row 0: no known column",
        "columns must be separated by commas",
        "utf16.csv: is UTF-16",
    ] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
}

#[test]
fn missing_columns_are_named_and_their_rows_explained() {
    let folder = TempDir::new().expect("folder");
    let text = "id,accelerator,model_key,seqlen\na,NVIDIA H100 80GB,llama-3-8b,4096\n";
    let report = run(&[write(folder.path(), "t.csv", text.as_bytes())]);
    let problems = problems(&report);
    assert!(problems.contains("missing columns: n_devices, seq_len, precision"), "{problems}");
    assert!(problems.contains("unknown column `seqlen`; did you mean `seq_len`"), "{problems}");
    assert_eq!(status(&report, "a"), "unsupported");
    assert!(reason(&report, "a").contains("seq_len is not stated"));
}

#[test]
fn byte_order_mark_and_line_ends_do_not_matter() {
    let folder = TempDir::new().expect("folder");
    let plain = format!("{HEADER}\n{}\n", good("a"));
    let marked = format!("\u{feff}{}", plain.replace('\n', "\r\n"));
    let quoted = plain.replace("NVIDIA H100 80GB", "\"NVIDIA H100 80GB\"");
    let step = |name: &str, text: &str| {
        let report = run(&[write(folder.path(), name, text.as_bytes())]);
        assert_eq!(problems(&report), "");
        report["predictions"][0]["predicted_step_s"].clone()
    };
    let wanted = step("plain.csv", &plain);
    assert!(wanted.is_f64());
    assert_eq!(step("marked.csv", &marked), wanted);
    assert_eq!(step("quoted.csv", &quoted), wanted);
}

#[test]
fn cells_of_ten_megabytes() {
    let huge = "9".repeat(10_000_000);
    let report = between(&good("x").replace(",1x8,8,", &format!(",,{huge},")));
    assert_eq!(status(&report, "x"), "invalid");
    let text = reason(&report, "x");
    assert!(text.contains("row 2, column `n_devices`: a cell of 10000000 bytes"), "{text:.200}");
    assert!(problems(&report).len() < 2000);
    // In a column that only labels the row.
    let report = between(&good("x").replace(",test,", &format!(",\"{huge}\",")));
    assert!(reason(&report, "x").contains("column `source_group`"));
}

#[test]
fn files_that_cannot_be_read_are_an_error() {
    let folder = TempDir::new().expect("folder");
    for path in [folder.path().join("none.csv"), folder.path().to_path_buf()] {
        let output = Command::new(env!("CARGO_BIN_EXE_trainyard"))
            .arg("validate")
            .arg(&path)
            .output()
            .expect("starts");
        assert_eq!(output.status.code(), Some(3));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("failed to read"), "{message}");
    }
}

#[test]
fn predictions_are_written_with_the_documented_columns() {
    let folder = TempDir::new().expect("folder");
    let text = format!("{HEADER}\n{}\n{}\n", good("a"), good("b").replace("8192", ""));
    let input = write(folder.path(), "t.csv", text.as_bytes());
    let out = folder.path().join("out.csv");
    Command::new(env!("CARGO_BIN_EXE_trainyard"))
        .arg("validate")
        .arg(&input)
        .arg("--predictions")
        .arg(&out)
        .assert()
        .success();
    let text = fs::read_to_string(&out).expect("reads");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "id,status,predicted_step_s,predicted_tokens_per_s_per_device,error_pct,\
         predicted_memory_gb,accelerator,stack,extrapolated,assumed,reason,\
         low_s,high_s"
    );
    assert!(
        lines[1].starts_with("a,ok,") && lines[1].contains(",h100-sxm,torchtitan,"),
        "{}",
        lines[1]
    );
    assert!(lines[2].starts_with("b,unsupported,,,,,"), "{}", lines[2]);
    assert!(!folder.path().join("out.csv.partial").exists());
}
