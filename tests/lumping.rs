//! Invariant 2: replaying one lane per class of equal ranks gives the same bits as replaying every
//! rank; and invariant 3: the same input gives the same bytes.

mod support;

use support::{SMALL, catalogue, simulate_with, trainyard};
use trainyard::outcome::Options;

/// 1,024 ranks: TP 8 x PP 8 x DP 16.
const RANKS_1024: [&str; 7] = [
    "model.shape.layers=32",
    "cluster.nodes=128",
    "training.global_batch=256",
    "plan.tensor_parallel=8",
    "plan.pipeline_parallel=8",
    "plan.sharding=zero1",
    "plan.recompute=selective",
];

fn same_bytes(assignments: &[&str], ranks: u32) {
    let with = |no_lump| {
        let options = Options { no_lump, ..Options::default() };
        let result = simulate_with(catalogue(), SMALL, assignments, options);
        serde_json::to_string_pretty(&result.unwrap_or_else(|e| panic!("{e}"))).expect("JSON")
    };
    let lumped = with(false);
    assert!(lumped.contains(&format!("\"ranks\": {ranks},")), "{lumped}");
    // No tolerance: the same bits.
    assert_eq!(lumped, with(true));
}

#[test]
fn a_plan_of_1024_ranks() {
    same_bytes(&RANKS_1024, 1024);
}

#[test]
fn an_interleaved_plan_of_1024_ranks() {
    let mut assignments = RANKS_1024.to_vec();
    assignments.extend(["plan.virtual_stages=4", "plan.sequence_parallel=true"]);
    same_bytes(&assignments, 1024);
}

#[test]
fn ranks_that_are_placed_differently_are_told_apart() {
    // Tensor groups of 3 straddle servers of 8, so their links differ from rank to rank.
    let assignments = [
        "model.shape.heads=24",
        "model.shape.hidden=3072",
        "cluster.nodes=12",
        "plan.tensor_parallel=3",
        "plan.pipeline_parallel=4",
    ];
    same_bytes(&assignments, 96);
}

/// Flows that are hashed one by one, over thin links, beside those of other families.
#[test]
fn ranks_that_share_links_by_chance() {
    let assignments = [
        "model.shape.layers=16",
        "cluster.nodes=64",
        "cluster.fabric=hdr200-clos",
        "training.global_batch=128",
        "plan.tensor_parallel=8",
        "plan.pipeline_parallel=4",
        "plan.virtual_stages=2",
        "plan.sharding=zero1",
        "network.routing=hashed",
        "network.placement=random",
        "network.oversubscription=4",
    ];
    same_bytes(&assignments, 512);
    // The eight ranks of a tensor group move in step, so they are one lane.
    let options = Options { stats: true, ..Options::default() };
    let result = simulate_with(catalogue(), SMALL, &assignments, options);
    let lanes = result.unwrap_or_else(|e| panic!("{e}")).simulation.lanes;
    assert!(lanes.is_some_and(|lanes| lanes <= 64), "{lanes:?}");
}

/// In order over an oversubscribed tree packets divide evenly, so ranks that lie alike stay alike: a
/// lane per pipeline stage and no more, where the groups of leaves come out even.
#[test]
fn ranks_in_order_over_thin_links() {
    let assignments = [
        "model.shape.layers=16",
        "cluster.nodes=104",
        "cluster.fabric=hdr200-clos",
        "training.global_batch=52",
        "plan.tensor_parallel=8",
        "plan.pipeline_parallel=4",
        "plan.sharding=zero1",
        "network.oversubscription=2",
    ];
    same_bytes(&assignments, 832);
    let options = Options { stats: true, ..Options::default() };
    let result = simulate_with(catalogue(), SMALL, &assignments, options);
    let result = result.unwrap_or_else(|e| panic!("{e}"));
    assert!(result.network.contention_seconds > 0.0);
    assert_eq!(result.simulation.lanes, Some(4));
}

#[test]
fn the_binary_prints_the_same_bytes_twice_and_unlumped() {
    let run = |extra: &[&str]| {
        let mut command = trainyard();
        command.args(["run", "scenarios/quickstart.toml", "--format", "json"]).args(extra);
        command.args(["--set", "cluster.nodes=128", "--set", "cluster.fabric=ndr400-clos"]);
        command.args(["--set", "training.global_batch=1024"]);
        let output = command.output().expect("the binary runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let first = run(&[]);
    assert_eq!(first, run(&[]), "two runs differ");
    assert_eq!(first, run(&["--no-lump"]), "--no-lump differs");
}
