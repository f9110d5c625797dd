//! A full-size network is small: the two-level fat tree of 12,288 cards, 32 below a leaf, is built in
//! less than 50 ms and 100 MB. `cargo bench --bench network` has its time in a release build.
//!
//! `cargo test --test network_memory -- --nocapture` prints both.

#![allow(clippy::print_stdout, unsafe_code, reason = "the allocator of this binary counts")]

#[path = "support/heap.rs"]
mod heap;

use std::sync::atomic::Ordering;
use std::time::Instant;

use heap::{MOST, NOW};
use trainyard::network::topology::generators::clos::{Parameters, build};

const MOST_BYTES: usize = 100_000_000;

#[test]
fn fat_tree_of_12288_cards() {
    let parameters = Parameters {
        cards_per_leaf: Some(32),
        tiers: Some(2),
        ..Parameters::fat_tree(12_288, 8, 512, 50e9)
    };
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let mut fastest = f64::INFINITY;
    let mut kept = 0;
    for _ in 0..5 {
        let clock = Instant::now();
        let topology = build(&parameters).unwrap_or_else(|e| panic!("{e}"));
        fastest = fastest.min(clock.elapsed().as_secs_f64());
        assert_eq!(topology.endpoints.len(), 12_288);
        kept = NOW.load(Ordering::Relaxed) - before;
    }
    let most = MOST.load(Ordering::Relaxed) - before;
    println!(
        "two-level fat tree of 12,288 cards: {:.2} ms (target 50), {:.2} MB at most (target 100), \
         {:.2} MB kept",
        fastest * 1e3,
        most as f64 / 1e6,
        kept as f64 / 1e6
    );
    assert!(kept > 12_288 * 16, "the allocator does not count: {kept}");
    assert!(most <= MOST_BYTES, "{most}");
    // Not asserted of a debug build on a busy machine but with room for both.
    assert!(fastest <= 0.5, "{fastest}");
}
