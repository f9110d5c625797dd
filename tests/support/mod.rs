//! What several tests share. Tests go through the same doors as users: scenario text, the
//! catalogue, the binary.
#![allow(dead_code)]

pub mod mutation;
pub mod traces;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use trainyard::error::Result;
use trainyard::hardware::Catalogue;
use trainyard::input::Document;
use trainyard::outcome::{Options, RunResult, simulate};
use trainyard::scenario::{Setup, resolve};

/// The embedded catalogue.
pub fn catalogue() -> &'static Catalogue {
    static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();
    CATALOGUE.get_or_init(|| Catalogue::load(None).expect("the embedded catalogue loads"))
}

/// A path of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The folder with published measurements, where the environment names one.
pub fn shared() -> Option<PathBuf> {
    std::env::var_os("TRAINYARD_SHARED").map(PathBuf::from)
}

/// All scenario files of the repository, by path relative to it.
pub fn committed_scenarios() -> Vec<PathBuf> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder of scenarios") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                // Networks that scenarios name are none themselves.
                if path.file_name().is_some_and(|name| name != "networks") {
                    collect(&path, found);
                }
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    collect(&repository("scenarios"), &mut found);
    found.sort();
    found
}

/// A scenario document with `--set` assignments applied.
pub fn document(text: &str, assignments: &[&str]) -> Result<Document> {
    let mut document = Document::parse("scenario.toml", text.to_owned())?;
    for assignment in assignments {
        document.set(assignment)?;
    }
    Ok(document)
}

/// A resolved scenario.
pub fn setup(text: &str, assignments: &[&str]) -> Setup<'static> {
    document(text, assignments)
        .and_then(|document| resolve(&document, catalogue()))
        .unwrap_or_else(|error| panic!("{error}\nwith {assignments:?}"))
}

/// Simulates a scenario with a catalogue.
pub fn simulate_with(
    catalogue: &Catalogue,
    text: &str,
    assignments: &[&str],
    options: Options,
) -> Result<RunResult> {
    let document = document(text, assignments)?;
    simulate(&resolve(&document, catalogue)?, catalogue, options)
}

/// The result of a scenario that is right.
pub fn run(text: &str, assignments: &[&str]) -> RunResult {
    simulate_with(catalogue(), text, assignments, Options::default())
        .unwrap_or_else(|error| panic!("{error}\nwith {assignments:?}"))
}

/// The binary.
pub fn trainyard() -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_trainyard"));
    command.env_remove("TRAINYARD_HW_MODELS").current_dir(repository(""));
    command
}

/// A small GPT on two servers, every parallel dimension available by assignments.
pub const SMALL: &str = r#"
name = "small"

[model]
preset = "gpt-3-1.3b"

[training]
sequence_length = 2048
global_batch = 64
precision = "bf16"

[cluster]
node = "dgx-h100"
nodes = 2
fabric = "ndr400-clos"

[software]
stack = "megatron-core"

[plan]
micro_batch = 1

[run]
tokens = 1e12

[account]
grid = "us"
"#;
