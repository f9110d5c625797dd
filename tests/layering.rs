//! Invariant 1, the waist: what lies below the program knows nothing of what lies above it, and
//! files are touched in few places.

mod support;

use std::path::{Path, PathBuf};

use support::repository;

fn sources(folder: &Path) -> Vec<PathBuf> {
    if folder.is_file() {
        return vec![folder.to_owned()];
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("a folder")
        .flat_map(|entry| sources(&entry.expect("an entry").path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    found.sort();
    found
}

/// Code of a file: no comments, and nothing after its unit tests begin.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("text");
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let kept = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    kept.collect::<Vec<_>>().join("\n")
}

/// Fails if a module uses another: `use crate::x`, `crate::x::y`, or in a `use crate::{...}` list.
fn knows_nothing_of(module: &str, others: &[&str]) {
    for path in sources(&repository("src").join(module)) {
        let code = code(&path);
        for other in others {
            let direct = code.contains(&format!("crate::{other}"));
            let listed = code.split("use crate::{").skip(1).any(|list| {
                let list = list.split(';').next().unwrap_or_default();
                list.split([',', '{', '}', '\n'])
                    .any(|part| part.trim().split("::").next() == Some(*other))
            });
            assert!(!direct && !listed, "{} uses crate::{other}", path.display());
        }
    }
}

#[test]
fn the_program_knows_only_units_and_errors() {
    knows_nothing_of(
        "program",
        &[
            "account", "cli", "hardware", "input", "network", "outcome", "plan", "replay",
            "report", "scenario", "timing", "trace", "workload",
        ],
    );
}

#[test]
fn replay_knows_only_the_program() {
    knows_nothing_of(
        "replay",
        &[
            "account", "cli", "hardware", "input", "network", "outcome", "plan", "report",
            "scenario", "timing", "trace", "workload",
        ],
    );
    for path in sources(&repository("src/replay")) {
        assert!(!code(&path).contains("toml"), "{} knows TOML", path.display());
    }
}

#[test]
fn workloads_know_no_engine() {
    let above = ["cli", "network", "outcome", "replay", "report", "scenario", "timing"];
    knows_nothing_of("workload", &above);
    knows_nothing_of("plan", &above);
}

#[test]
fn timing_and_network_know_no_workload_and_no_engine() {
    let above = ["cli", "outcome", "plan", "replay", "report", "scenario", "workload"];
    knows_nothing_of("timing", &above);
    knows_nothing_of("network", &above);
}

#[test]
fn files_are_touched_in_few_places() {
    // Folders and files that own a format on disk, or the command line: the catalogue, traces,
    // measured collectives and logs, and the catalogue files that a fit writes.
    const ALLOWED: [&str; 7] = [
        "hardware/",
        "trace/",
        "cli/",
        "input.rs",
        "output.rs",
        "calibrate/",
        "validate/collectives/rows.rs",
    ];
    let root = repository("src");
    for path in sources(&root) {
        let relative = path.strip_prefix(&root).expect("below src").to_string_lossy().into_owned();
        if ALLOWED.iter().any(|allowed| relative.starts_with(allowed)) {
            continue;
        }
        let code = code(&path);
        for touch in
            ["std::fs", "fs::", "File::", "OpenOptions", "std::net", "std::process::Command"]
        {
            assert!(!code.contains(touch), "{relative} uses {touch}");
        }
    }
}
