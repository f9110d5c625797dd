//! Sends between the dies of a node with MI250X take the rate of their route, size and engine, in
//! steps.

mod support;

use support::{SMALL, catalogue, simulate_with};
use trainyard::network::{Routes, TransferEngine};
use trainyard::outcome::{CallInfo, Options};
use trainyard::program::Collective;
use trainyard::units::Bytes;

const STAGES: [&str; 6] = [
    "cluster.node=frontier",
    "cluster.fabric=slingshot-11",
    "cluster.nodes=1",
    "plan.pipeline_parallel=8",
    "model.shape.layers=8",
    "training.sequence_length=8192",
];

/// Sends of a step, and the step.
fn sends(assignments: &[&str]) -> (Vec<CallInfo>, f64) {
    let all: Vec<&str> = STAGES.iter().chain(assignments).copied().collect();
    let options = Options { network: true, frozen_rates: true, ..Options::default() };
    let result = simulate_with(catalogue(), SMALL, &all, options).unwrap_or_else(|e| panic!("{e}"));
    let mut calls = result.network.calls.expect("calls were asked for");
    calls.retain(|call| call.collective == Collective::SendRecv);
    assert!(!calls.is_empty());
    (calls, result.step.seconds)
}

/// The slowest neighbours in the pipeline decide what is listed: 1 and 2, or 5 and 6, which have no
/// link of their own. Between the routed time and 30 us more (start and hop of the library, whose
/// terms overlap with the transfer), both longer by what collectives lose in training.
#[test]
fn neighbours_without_a_link_send_through_others() {
    let routes = Routes::new(catalogue().node("frontier").expect("a node")).expect("routes");
    let stack = catalogue().stack("megatron-core").expect("a stack");
    let kept = stack.in_training.collectives.value.0;
    let (calls, _) = sends(&[]);
    let call = calls.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds)).expect("a call");
    let bytes = Bytes(call.bytes as f64);
    let time = |pair| {
        bytes.get() / routes.rate(pair, bytes, TransferEngine::Kernel).expect("a route").get()
    };
    let routed = time((1, 2)).max(time((5, 6)));
    let seconds = call.seconds * kept;
    assert!(seconds >= routed && seconds <= routed + 30e-6, "{seconds} {routed}");
    assert!(routed > 2.0 * time((0, 1)), "the route in a module is far faster");
}

/// Two dies of a module: 142 GB/s by kernels, 50 by a copy engine.
#[test]
fn a_copy_engine_caps_what_a_module_could_do() {
    let pair = ["plan.pipeline_parallel=2", "cluster.devices=2"];
    let slow = [pair[0], pair[1], "network.transfer_engine=copy"];
    let ((by_kernel, step), (by_engine, slow_step)) = (sends(&pair), sends(&slow));
    let (kernel, engine) = (by_kernel[0].seconds, by_engine[0].seconds);
    assert!(engine > 1.3 * kernel, "{engine} {kernel}");
    assert!(slow_step > step);
    // Also where collectives are timed by levels.
    let levels = |engine| {
        let engine = format!("network.transfer_engine={engine}");
        sends(&[pair[0], pair[1], "network.model=levels", &engine]).0[0].seconds
    };
    assert!(levels("copy") > 1.3 * levels("kernel"));
}

/// A small message reaches less of the rate than a large one: 4 MB in a module about half.
#[test]
fn the_rate_rises_with_the_size() {
    let pair = ["plan.pipeline_parallel=2", "cluster.devices=2"];
    let rate = |sequence: &str| {
        let (calls, _) = sends(&[pair[0], pair[1], sequence]);
        calls[0].bytes as f64 / calls[0].seconds
    };
    let (short, long) =
        (rate("training.sequence_length=512"), rate("training.sequence_length=65536"));
    assert!(long > 2.0 * short, "{short} {long}");
    // Never above what a kernel's copy reaches in the end.
    assert!(long < 185e9, "{long}");
}
