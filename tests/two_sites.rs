//! Two data centres over a wide-area line: what crosses it shares it, and takes as long as it is far.

mod support;

use support::{SMALL, catalogue, simulate_with};
use trainyard::hardware::Catalogue;
use trainyard::outcome::{CallInfo, Options, RunResult};
use trainyard::units::{BytesPerSecond, Seconds};

const FOUR_NODES: &[&str] = &["cluster.nodes=4", "software.overlap_gradient_reduce=false"];

fn run(catalogue: &Catalogue, fabric: &str) -> RunResult {
    let fabric = format!("cluster.fabric={fabric}");
    let assignments = [FOUR_NODES, &[&fabric]].concat();
    let options = Options { network: true, ..Options::default() };
    simulate_with(catalogue, SMALL, &assignments, options).unwrap_or_else(|e| panic!("{e}"))
}

/// The catalogue with another line between the sites.
fn line(bandwidth: f64, latency: f64) -> Catalogue {
    let mut catalogue = catalogue().clone();
    let fabric = catalogue.fabrics.get_mut("ndr400-two-sites").expect("a fabric");
    let wan = fabric.item.wan.as_mut().expect("a line");
    wan.bandwidth.value = BytesPerSecond(bandwidth);
    wan.latency.value = Seconds(latency);
    catalogue
}

/// The longest call between nodes.
fn longest(result: &RunResult) -> CallInfo {
    let calls = result.network.calls.as_ref().expect("calls were asked for");
    let between = calls.iter().filter(|call| call.domains > 1);
    between.max_by(|a, b| a.seconds.total_cmp(&b.seconds)).expect("calls between nodes").clone()
}

/// A ring over two nodes of each site crosses the line once each way on each of eight rails, of
/// 50 GB/s each: 100 GB/s are a quarter of that. Tolerance: shares are told apart in steps of 1.1 %.
#[test]
fn rails_share_the_line() {
    let share = |bandwidth| longest(&run(&line(bandwidth, 0.0), "ndr400-two-sites")).share_of_rate;
    for (bandwidth, expected) in [(100e9, 0.25), (200e9, 0.5), (20e9, 0.05)] {
        let share = share(bandwidth);
        assert!((share / expected - 1.0).abs() <= 0.006, "{bandwidth}: {share}");
    }
    assert_eq!(share(1e12), 1.0);
}

/// In an all-reduce over a ring of four nodes, two of whose edges are the line, a chunk crosses it three
/// times in six steps. Part of that runs beside the transfer of other chunks; what is left is between
/// one crossing and three.
#[test]
fn distance_is_on_the_way_of_every_chunk() {
    let seconds = |latency| longest(&run(&line(1e12, latency), "ndr400-two-sites")).seconds;
    let (near, far) = (seconds(0.0), seconds(5e-3));
    assert!((5e-3..=15e-3).contains(&(far - near)), "{near} {far}");
    let clos = longest(&run(catalogue(), "ndr400-clos")).seconds;
    assert!((near / clos - 1.0).abs() < 0.02, "{near} {clos}");
}
