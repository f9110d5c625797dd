//! The network's energy is that of the switches and transceivers of the graph that it is simulated
//! on.

mod support;

use support::{SMALL, catalogue, simulate_with};
use trainyard::network::topology::generators::fabric_network;
use trainyard::network::topology::materials::{UnitCosts, count, power_in_use};
use trainyard::outcome::Options;

/// Energy of the network over a step, in joules, and the step.
fn energy(assignments: &[&str]) -> (f64, f64) {
    let result = simulate_with(catalogue(), SMALL, assignments, Options::default());
    let result = result.unwrap_or_else(|e| panic!("{e}"));
    assert!(result.warnings.iter().all(|w| !w.contains("closed form")), "{:?}", result.warnings);
    let steps = result.run.steps.expect("a run of some tokens");
    (result.energy.network_kwh * 3.6e6 / steps, result.step.seconds)
}

/// Watts times the step, whatever the arrangement. Relative 1e-9: the way to kWh and back.
#[test]
fn power_is_counted_from_the_graph_of_every_arrangement() {
    for (fabric, node) in [
        ("hdr200-clos", "dgx-a100"),
        ("ndr400-rail-only", "dgx-h100"),
        ("ndr400-two-sites", "dgx-h100"),
        ("slingshot-11", "frontier"),
        ("roce-200-clos", "dgx-a100"),
    ] {
        let nodes = 24;
        let (fabric_is, node_is) =
            (format!("cluster.fabric={fabric}"), format!("cluster.node={node}"));
        let set = [&*fabric_is, &*node_is, "cluster.nodes=24", "training.global_batch=192"];
        let (joules, seconds) = energy(&set);
        let fabric = catalogue().fabric(fabric).expect("a fabric");
        let graph = fabric_network(fabric, catalogue().node(node).expect("a node"), nodes, &[])
            .unwrap_or_else(|e| panic!("{e}"));
        let watts = power_in_use(&graph, &UnitCosts::of(fabric)).get();
        assert!((joules / (watts * seconds) - 1.0).abs() < 1e-9, "{fabric_is}: {joules}");
    }
}

/// Fewer spines draw less, and nodes that are not used are not counted.
#[test]
fn power_follows_oversubscription_and_use() {
    let base = ["cluster.fabric=hdr200-clos", "cluster.nodes=64", "training.global_batch=512"];
    let with = |more: &[&str]| {
        let all: Vec<&str> = base.iter().chain(more).copied().collect();
        let (joules, seconds) = energy(&all);
        joules / seconds
    };
    let full = with(&[]);
    assert!(with(&["network.oversubscription=4"]) < 0.8 * full);
    let half = with(&["cluster.devices=256"]);
    assert!((half / full - 0.5).abs() < 1e-9, "{half} {full}");
}

/// A few nodes of a large network draw about as much each as all of it does: within a factor of two,
/// since the ports of the upper tiers come in whole switches.
#[test]
fn a_small_job_pays_for_the_ports_that_it_uses() {
    for (fabric, node, full) in
        [("hdr200-clos", "dgx-a100", 160), ("slingshot-11", "frontier", 512)]
    {
        let fabric = catalogue().fabric(fabric).expect("a fabric");
        let node = catalogue().node(node).expect("a node");
        let unit = UnitCosts::of(fabric);
        let per_node = |nodes: u32| {
            let graph = fabric_network(fabric, node, nodes, &[]).unwrap_or_else(|e| panic!("{e}"));
            let used = power_in_use(&graph, &unit).get();
            // Never more than all that is there.
            assert!(used <= count(&graph).totals(&unit).power.get() * (1.0 + 1e-9));
            used / f64::from(nodes)
        };
        let (small, large) = (per_node(2), per_node(full));
        println!("{}: {small:.0} W per node of 2, {large:.0} W of {full}", fabric.name);
        assert!(small < 2.0 * large && small > 0.2 * large, "{small} {large}");
    }
}
