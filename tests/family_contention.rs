//! Calls of different families that cross the same links between switches at the same time slow each
//! other down there.

mod support;

use support::{catalogue, repository};
use trainyard::input::Document;
use trainyard::outcome::{Options, RunResult, simulate};
use trainyard::scenario::resolve;

/// Four servers in two halls: rings of data parallelism and pairs of pipeline stages both lead from
/// one hall to the other, and gradients are reduced while activations and their gradients travel.
const ASSIGNMENTS: &[&str] = &[
    "plan.tensor_parallel=8",
    "plan.pipeline_parallel=2",
    "plan.virtual_stages=4",
    "plan.sequence_parallel=true",
    "network.node_order=[0, 2, 3, 1]",
];

/// A result over cables of this bandwidth between the halls.
fn run(cables: &str, assignments: &[&str], options: Options) -> RunResult {
    let folder = tempfile::tempdir().expect("a folder");
    let read = |name: &str| {
        std::fs::read_to_string(repository("scenarios").join(name)).expect("a committed file")
    };
    let network = read("networks/two-halls.toml");
    assert!(network.contains("\"100 GB/s\""));
    std::fs::create_dir(folder.path().join("networks")).expect("a folder");
    std::fs::write(
        folder.path().join("networks/two-halls.toml"),
        network.replace("\"100 GB/s\"", cables),
    )
    .expect("a file");
    let path = folder.path().join("two-halls.toml");
    std::fs::write(&path, read("two-halls.toml")).expect("a file");
    let mut document = Document::read(&path).unwrap_or_else(|e| panic!("{e}"));
    for assignment in ASSIGNMENTS.iter().chain(assignments) {
        document.set(assignment).unwrap_or_else(|e| panic!("{e}"));
    }
    let setup = resolve(&document, catalogue()).unwrap_or_else(|e| panic!("{e}"));
    simulate(&setup, catalogue(), options).unwrap_or_else(|e| panic!("{e}"))
}

/// Seconds that calls take longer because of other families: what a replay adds to what is known
/// before it.
fn between_families(cables: &str, assignments: &[&str]) -> f64 {
    let coupled = run(cables, assignments, Options::default());
    let frozen = run(cables, assignments, Options { frozen_rates: true, ..Options::default() });
    coupled.network.contention_seconds - frozen.network.contention_seconds
}

/// Over thin cables both are slower than by themselves; over wide ones they have only the cards in
/// common. Half is far from the factor of hundreds that it is, and far from one.
#[test]
fn families_that_meet_on_a_link_slow_each_other() {
    let (thin, wide) =
        (between_families("\"50 GB/s\"", &[]), between_families("\"1600 GB/s\"", &[]));
    assert!(thin > 0.0 && wide < 0.5 * thin, "thin {thin}, wide {wide}");
    // Without pipeline stages one family is left, which meets nobody. Whole nanoseconds are left over.
    let alone = ["plan.pipeline_parallel=1", "plan.virtual_stages=1"];
    let alone = between_families("\"50 GB/s\"", &alone);
    assert!(alone < 1e-6, "{alone}");
}

/// What is lost to other families is part of the step.
#[test]
fn the_step_is_longer_for_it() {
    let step = |frozen_rates| {
        run("\"20 GB/s\"", &[], Options { frozen_rates, ..Options::default() }).step.seconds
    };
    assert!(step(false) > step(true));
}
