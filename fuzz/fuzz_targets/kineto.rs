//! Any bytes as a PyTorch profiler trace: import, inspect, and draw the page.
//!
//! `cargo +nightly fuzz run kineto fuzz/corpus/kineto tests/data/trace`

#![no_main]

use libfuzzer_sys::fuzz_target;
use trainyard::trace::analysis::inspect;
use trainyard::trace::import::kineto;
use trainyard::trace::model::TraceSet;
use trainyard::trace::view;

fuzz_target!(|bytes: &[u8]| {
    let Ok(rank) = kineto::read(bytes, "rank-0.json") else { return };
    assert!(rank.heap_bytes() <= 20 * bytes.len() + (1 << 20));
    // Two ranks, so that matching and alignment have something to do.
    let mut other = rank.clone();
    other.header.rank += 1;
    let set = TraceSet { ranks: vec![rank, other] };
    let report = inspect(&set);
    for window in report.ranks.iter().flat_map(|rank| &rank.windows) {
        let parts = window.compute_ns + window.comm_exposed_ns + window.mem_exposed_ns;
        assert_eq!(window.span_ns, parts + window.idle_ns);
    }
    let page = view::html(&report, &set);
    assert!(!page.contains("<script"));
});
