//! Nothing that a trace carries beyond the allow-list reaches any output.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::io::Read;
use std::path::Path;

use assert_cmd::Command;

/// A token that matches no pattern of a known credential.
const TOKEN: &str = "zq7PLANTEDv93xTOKENk2";

/// A trace with the token in every place that is not a name of work.
fn planted() -> String {
    let t = TOKEN;
    format!(
        r#"{{
"{t}": "{t}",
"metadata": {{"env": {{"HF_TOKEN": "{t}", "nested": ["{t}", {{"{t}": 1}}]}}}},
"schemaVersion": "{t}",
"deviceProperties": [{{"id": 0, "name": "NVIDIA H100", "{t}": 1, "secret": "{t}"}}],
"distributedInfo": {{"backend": "nccl", "rank": 0, "world_size": 2, "{t}": "{t}", "master": "{t}",
  "pg_config": [{{"pg_name": "0", "pg_desc": "default_pg", "ranks": [0, 1], "store": "{t}"}}]}},
"INFO": ["{t}"], "username": "{t}", "host_name": "{t}", "environ": {{"A": "{t}"}},
"traceEvents": [
 {{"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "ts": 0, "args": {{"name": "{t}"}}}},
 {{"ph": "M", "name": "{t}", "pid": 1, "tid": 0, "args": {{"labels": "{t}"}}}},
 {{"ph": "i", "name": "{t}", "s": "g", "pid": "{t}", "tid": "{t}", "ts": 1}},
 {{"ph": "X", "cat": "python_function", "name": "{t}", "pid": 1, "tid": 1, "ts": 1, "dur": 1, "args": {{"a": "{t}"}}}},
 {{"ph": "X", "cat": "{t}", "name": "{t}", "pid": 1, "tid": 1, "ts": 1, "dur": 1, "args": {{"a": "{t}"}}}},
 {{"ph": "X", "cat": "Trace", "name": "{t}", "pid": "{t}", "tid": "{t}", "ts": 1, "dur": 1}},
 {{"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 1, "ts": 2, "dur": 9, "{t}": "{t}",
   "args": {{"External id": 4, "Call stack": "{t}", "Concrete Inputs": ["{t}"], "Input type": ["{t}", "float"],
   "Input Dims": [["{t}"]], "Module Hierarchy": "{t}", "{t}": 3, "kernel_file": "/{t}"}}}},
 {{"ph": "X", "cat": "user_annotation", "name": "login HF_TOKEN={t} and hf_abcdefghijklmnop0123456789", "pid": 1, "tid": 1, "ts": 2, "dur": 9, "args": {{}}}},
 {{"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 1, "tid": 1, "ts": 3, "dur": 1, "args": {{"correlation": 5, "x": "{t}"}}}},
 {{"ph": "X", "cat": "kernel", "name": "gemm", "pid": 0, "tid": 7, "ts": 5, "dur": 2, "id": "{t}",
   "args": {{"device": 0, "stream": 7, "correlation": 5, "grid": ["{t}", 1, 1], "context": "{t}", "note": "{t}",
   "Collective name": "allreduce", "dtype": "Float", "In split size": "{t}", "Process Group Name": "0", "Process Group Ranks": "{t}"}}}},
 {{"ph": "X", "cat": "kernel", "name": "late", "pid": 0, "tid": 7, "ts": "{t}", "dur": 2}},
 {{"ph": "C", "name": "{t}", "ts": 5, "args": {{"{t}": 1}}}},
 {{"ph": "s", "id": "{t}", "cat": "fwdbwd", "name": "{t}", "ts": 3}},
 "{t}",
 {{"ph": "X", "cat": "kernel", "name": "gemm2", "pid": 0, "tid": 7, "ts": 9, "dur": 2, "args": {{"device": 0, "stream": 7}}}}
],
"traceName": "/home/{t}/trace.json", "displayTimeUnit": "{t}", "baseTimeNanoseconds": 1000
}}"#
    )
}

fn holds_token(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.contains(TOKEN) || text.contains("hf_abcdefghijklmnop")
}

fn run(arguments: &[&std::ffi::OsStr]) -> Vec<u8> {
    let output = Command::cargo_bin("trainyard").unwrap().args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    [output.stdout, output.stderr].concat()
}

#[test]
fn planted_tokens_reach_no_output() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("trace.json");
    std::fs::write(&source, planted()).unwrap();
    let arguments = |list: &[&str]| -> Vec<std::ffi::OsString> {
        list.iter().map(std::ffi::OsString::from).collect()
    };
    let out = folder.path().join("out");
    let page = folder.path().join("page.html");
    let (source, out, page) =
        (source.to_str().unwrap(), out.to_str().unwrap(), page.to_str().unwrap());
    for (what, list) in [
        ("import", arguments(&["trace", "import", source, "--out", out])),
        ("inspect", arguments(&["trace", "inspect", out, "--html", page])),
        ("inspect json", arguments(&["trace", "inspect", out, "--format", "json"])),
        ("inspect source", arguments(&["trace", "inspect", source, "--format", "json"])),
    ] {
        let list: Vec<&std::ffi::OsStr> = list.iter().map(AsRef::as_ref).collect();
        let printed = run(&list);
        assert!(!holds_token(&printed), "{what}: {}", String::from_utf8_lossy(&printed));
    }
    assert!(!holds_token(&std::fs::read(page).unwrap()), "page");
    let mut files = 0;
    for entry in std::fs::read_dir(Path::new(out)).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if path.extension().is_some_and(|ending| ending == "zst") {
            let mut plain = Vec::new();
            zstd::stream::read::Decoder::new(&bytes[..]).unwrap().read_to_end(&mut plain).unwrap();
            bytes = plain;
            // What is kept is kept.
            let text = String::from_utf8_lossy(&bytes);
            assert!(text.contains("gemm2") && text.contains("[redacted]"), "{text}");
        }
        assert!(!holds_token(&bytes), "{}: {}", path.display(), String::from_utf8_lossy(&bytes));
        files += 1;
    }
    assert_eq!(files, 2);
}
