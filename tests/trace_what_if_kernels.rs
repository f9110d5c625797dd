//! What-ifs on recordings of kernels, on made traces whose answers are closed forms.
//!
//! Tolerance: none but rounding to whole nanoseconds, once per kernel.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use trainyard::outcome::{Network, RecordedReplay, Straggler, WhatIf, replay_changed};
use trainyard::trace::model::RankTrace;
use trainyard::trace::program::{Cause, recorded_program};

use support::catalogue;
use support::traces::Made;

fn predicted(ranks: &[RankTrace], what_if: &WhatIf) -> (RecordedReplay, i64) {
    let replay = replay_changed(ranks, what_if).unwrap();
    let longest = replay.ranks.iter().filter_map(|rank| rank.predicted_ns).max().unwrap();
    (replay, longest)
}

fn near(found: i64, expected: f64) {
    assert!((found as f64 - expected).abs() <= 10.0, "{found} and not {expected}");
}

/// Five products of 100 us, each followed by an activation of 50 us; the device is always busy.
fn products() -> Vec<RankTrace> {
    let mut made = Made::new("pytorch-kineto", 1);
    let half = "[c10::BFloat16,c10::BFloat16]";
    for i in 0..5 {
        let (call, start) = (i * 2000, 20_000 + i * 150_000);
        let mm = ("aten::mm", "[[4096,4096],[4096,4096]]", half);
        made.kernel(0, "sgemm", (call, start, 100_000), Some(mm));
        let relu = ("aten::relu", "[[4096,4096]]", "[c10::BFloat16]");
        made.kernel(0, "relu", (call + 1000, start + 100_000, 50_000), Some(relu));
    }
    made.ranks()
}

/// Two ranks: four times compute (100 us on rank 0, 150 us on rank 1) and an all-reduce that takes
/// 10 us and 1 ns per 100 bytes once both are there.
fn reductions() -> Vec<RankTrace> {
    let mut made = Made::new("pytorch-kineto", 2);
    made.group("g", "default_pg", &[0, 1]);
    let mut at = 20_000;
    for (i, bytes) in [1_000_000, 2_000_000, 4_000_000, 8_000_000].into_iter().enumerate() {
        let (call, transfer) = (i as i64 * 2000, 10_000 + bytes / 100);
        let met = at + 150_000;
        made.kernel(0, "sgemm", (call, at, 100_000), None);
        made.kernel(1, "sgemm", (call, at, 150_000), None);
        let waits = (call + 1000, at + 100_000, 50_000 + transfer);
        made.collective(0, "allreduce", waits, bytes, (2, None));
        made.collective(1, "allreduce", (call + 1000, met, transfer), bytes, (2, None));
        at = met + transfer;
    }
    made.ranks()
}

const COMPUTE: f64 = 4.0 * 150_000.0;
const LATENCY: f64 = 4.0 * 10_000.0;
const TRANSFER: f64 = 150_000.0;

#[test]
fn kernels_that_are_removed_take_their_time_and_nothing_else() {
    let what_if = WhatIf { remove: vec!["relu".into()], ..WhatIf::default() };
    let (replay, span) = predicted(&products(), &what_if);
    near(replay.ranks[0].replayed_ns, 750_000.0);
    near(span, 500_000.0);
    // Without the collectives nobody waits for rank 1.
    let what_if = WhatIf { remove: vec!["all_reduce".into()], ..WhatIf::default() };
    let replay = replay_changed(&reductions(), &what_if).unwrap();
    near(replay.ranks[0].predicted_ns.unwrap(), 400_000.0);
    near(replay.ranks[1].predicted_ns.unwrap(), 600_000.0);
}

#[test]
fn fused_kernels_save_the_traffic_between_them() {
    let fuse = vec![vec!["sgemm".to_owned(), "relu".to_owned()]];
    let all = Some(Arc::new(catalogue().clone()));
    let what_if = WhatIf { fuse: fuse.clone(), catalogue: all, ..WhatIf::default() };
    let (_, span) = predicted(&products(), &what_if);
    let h100 = catalogue().accelerator("h100-sxm").unwrap();
    let rate = h100.memory.bandwidth.value.0 * h100.kernels.memory.value.0;
    // The result is written and read once less.
    let saved = 2.0 * (4096.0 * 4096.0 * 2.0) / rate * 1e9;
    near(span, 5.0 * (150_000.0 - saved));
    // Without an accelerator only launches are saved, which the device hid here.
    let (_, span) = predicted(&products(), &WhatIf { fuse, ..WhatIf::default() });
    near(span, 750_000.0);
}

#[test]
fn latency_and_bandwidth_are_told_apart() {
    let network = |network: Network| WhatIf { network, ..WhatIf::default() };
    let same = Network::default();
    for (change, latency, transfer) in [
        (Network { bandwidth: 2.0, ..same }, LATENCY, TRANSFER / 2.0),
        (Network { latency: 0.5, ..same }, LATENCY / 2.0, TRANSFER),
        (Network { added_ns: 5_000, ..same }, LATENCY + 20_000.0, TRANSFER),
    ] {
        let (replay, span) = predicted(&reductions(), &network(change));
        near(replay.ranks[0].replayed_ns, COMPUTE + LATENCY + TRANSFER);
        near(span, COMPUTE + latency + transfer);
        let fits = replay.what_if.unwrap().network;
        assert_eq!((fits.len(), fits[0].by, fits[0].sizes), (1, "fit", 4));
        near(fits[0].latency_ns, 10_000.0);
    }
}

#[test]
fn waiting_that_no_other_rank_explains_is_no_transfer() {
    // Rank 0 alone: its calls hold 50 us of waiting each, which no bandwidth shortens. The shortest
    // call of each size is all there is, so the waiting is taken for latency.
    let ranks = reductions();
    let change = Network { bandwidth: 2.0, ..Network::default() };
    let (_, span) = predicted(&ranks[..1], &WhatIf { network: change, ..WhatIf::default() });
    near(span, 4.0 * 100_000.0 + 4.0 * 60_000.0 + TRANSFER / 2.0);
}

#[test]
fn more_replicas_follow_a_ring() {
    let what_if = WhatIf { data_parallel: Some(4), ..WhatIf::default() };
    let (replay, span) = predicted(&reductions(), &what_if);
    // Steps 2 (n - 1), volume 2 (n - 1) / n.
    near(span, COMPUTE + 3.0 * LATENCY + TRANSFER * (2.0 * 3.0 / 4.0) / (2.0 * 1.0 / 2.0));
    assert_eq!(replay.ranks.len(), 2);
    let what_if = WhatIf { data_parallel: Some(1), ..WhatIf::default() };
    near(predicted(&reductions(), &what_if).1, 400_000.0);
}

#[test]
fn more_replicas_on_named_nodes_follow_the_network_model() {
    let on = |replicas: u32, fabric: Option<&str>| WhatIf {
        data_parallel: Some(replicas),
        node: Some("dgx-h100".into()),
        fabric: fabric.map(Into::into),
        catalogue: Some(Arc::new(catalogue().clone())),
        ..WhatIf::default()
    };
    // The recorded size is the identity.
    let unchanged = COMPUTE + LATENCY + TRANSFER;
    near(predicted(&reductions(), &on(2, None)).1, unchanged);
    let inside = predicted(&reductions(), &on(8, None)).1;
    let across = predicted(&reductions(), &on(16, Some("ndr400-clos"))).1;
    assert!(unchanged < inside as f64 && inside < across, "{unchanged} {inside} {across}");
    // Sixteen ranks are two nodes, which need a fabric.
    assert!(replay_changed(&reductions(), &on(16, None)).is_err());
}

#[test]
fn a_straggler_is_relieved_and_blamed() {
    let without = vec![Straggler::Rank(1)];
    let (replay, span) = predicted(&reductions(), &WhatIf { without, ..WhatIf::default() });
    near(span, 400_000.0 + LATENCY + TRANSFER);
    let blamed = replay.what_if.unwrap().stragglers;
    assert_eq!((blamed[0].who.as_str(), blamed.len()), ("rank 1", 2));
    near(blamed[0].saved_ns, 200_000.0);
    assert!((blamed[0].share.unwrap() - 1.0).abs() < 1e-6);
}

#[test]
fn stragglers_that_hide_each_other_are_relieved_together() {
    // Five ranks with one all-reduce; ranks 1 and 3 take 150 us where the others take 100.
    let mut made = Made::new("pytorch-kineto", 5);
    made.group("g", "default_pg", &[0, 1, 2, 3, 4]);
    for rank in 0..5 {
        let own = if [1, 3].contains(&rank) { 150_000 } else { 100_000 };
        made.kernel(rank, "sgemm", (0, 20_000, own), None);
        let (start, end) = (20_000 + own, 180_000);
        made.collective(rank, "allreduce", (1000, start, end - start), 1_000_000, (5, None));
    }
    let without = vec![Straggler::Rank(1), Straggler::Rank(3)];
    let (replay, span) = predicted(&made.ranks(), &WhatIf { without, ..WhatIf::default() });
    near(span, 100_000.0 + 10_000.0);
    let report = replay.what_if.unwrap();
    let together = report.together.unwrap();
    // Either alone saves nothing, both save 50 us: all of it is interaction.
    assert!(report.stragglers.iter().all(|one| one.saved_ns == 0), "{:?}", report.stragglers);
    near(together.saved_ns, 50_000.0);
    near(together.interaction_ns, 50_000.0);
    assert_eq!(together.interaction_share, Some(1.0));
    // With one straggler there is no interaction, and the shares are the whole saving.
    let without = vec![Straggler::Rank(1)];
    let (replay, _) = predicted(&reductions(), &WhatIf { without, ..WhatIf::default() });
    let report = replay.what_if.unwrap();
    let together = report.together.unwrap();
    near(together.saved_ns, 200_000.0);
    assert_eq!(together.interaction_ns, 0);
    let shares: f64 = report.stragglers.iter().filter_map(|one| one.share).sum();
    assert!((shares + together.interaction_share.unwrap() - 1.0).abs() < 1e-9);
}

#[test]
fn a_slower_rank_holds_up_the_others() {
    let (_, span) =
        predicted(&reductions(), &WhatIf { ranks: vec![(0, 2.0)], ..WhatIf::default() });
    near(span, 4.0 * 200_000.0 + LATENCY + TRANSFER);
}

/// Rank 0 computes 100 us and sends for 20 us; rank 1, after 10 us of its own, waits for it and
/// computes 50 us.
fn transfer() -> Vec<RankTrace> {
    let mut made = Made::new("pytorch-kineto", 2);
    made.group("g", "pipeline", &[0, 1]);
    made.kernel(0, "first", (0, 20_000, 100_000), None);
    made.collective(0, "send", (1000, 120_000, 20_000), 4096, (2, Some(1)));
    made.kernel(1, "before", (0, 20_000, 10_000), None);
    made.collective(1, "recv", (1000, 30_000, 110_000), 4096, (2, Some(0)));
    made.kernel(1, "second", (2000, 140_000, 50_000), None);
    made.ranks()
}

#[test]
fn a_send_meets_its_receive() {
    let ranks = transfer();
    let recorded = recorded_program(&ranks).unwrap();
    assert_eq!((recorded.notes.transfers, recorded.notes.unmatched_collectives), (1, 0));
    let what_if = WhatIf { scales: vec![("first".into(), 2.0)], ..WhatIf::default() };
    let replay = replay_changed(&ranks, &what_if).unwrap();
    assert!(replay.ranks[1].unexplained_ns.abs() <= 10, "{:?}", replay.ranks);
    near(replay.ranks[1].replayed_ns, 170_000.0);
    near(replay.ranks[1].predicted_ns.unwrap(), 270_000.0);
    let received: Vec<_> =
        recorded.edges.iter().filter(|edge| edge.cause == Cause::Meeting).collect();
    assert_eq!(received.len(), 1);
    assert_eq!((received[0].from.0, received[0].to.0), (0, 1));
    near(replay.ranks[0].predicted_ns.unwrap(), 220_000.0);
}

#[test]
fn work_beside_others_of_its_stream_is_not_cut() {
    // Two copies on one recorded stream, 100 us each, 10 us apart.
    let mut made = Made::new("pytorch-kineto", 1);
    made.kernel(0, "left", (0, 20_000, 100_000), None);
    made.kernel(0, "right", (10_000, 30_000, 100_000), None);
    let recorded = recorded_program(&made.ranks()).unwrap();
    assert_eq!((recorded.notes.beside_stream, recorded.notes.clipped_ns), (1, 0));
    let (replay, _) =
        predicted(&made.ranks(), &WhatIf { remove: vec!["left".into()], ..WhatIf::default() });
    near(replay.ranks[0].replayed_ns, 110_000.0);
    near(replay.ranks[0].predicted_ns.unwrap(), 100_000.0);
}
