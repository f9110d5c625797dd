//! Recorded ranks, replayed unchanged, take as long as they took.
//!
//! Tolerance: 2 % of the recorded span, first device event to last. What durations, launch edges
//! and dependencies leave unexplained is not copied, so a replay may only be shorter by that much;
//! 2 % is the bar the replay of real traces is held to, and a few times the launch jitter seen in
//! these files. `cargo test --test trace_replay -- --nocapture` prints each.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod support;

use trainyard::outcome::{RecordedReplay, replay_recorded};
use trainyard::trace::import::import;

use support::traces::corpus;

const TOLERANCE: f64 = 0.02;

/// Replays every rank of a file or folder that has device work, each on its own.
fn replays(name: &str) -> Option<Vec<(String, RecordedReplay)>> {
    let imported = import(&[corpus(name)?], false).unwrap();
    let mut all = Vec::new();
    for rank in imported.traces.traces().flatten() {
        if rank.events.iter().any(|event| event.kind.is_device()) {
            let replay = replay_recorded(std::slice::from_ref(rank)).unwrap();
            let r = &replay.ranks[0];
            println!(
                "{:60} recorded {:>12} ns, replayed {:>12} ns, unexplained {:+.3} %  {:?}",
                format!("{name} {}", rank.header.source.file),
                r.recorded_ns,
                r.replayed_ns,
                100.0 * r.unexplained_share(),
                replay.notes
            );
            all.push((rank.header.source.file.clone(), replay));
        }
    }
    assert!(!all.is_empty(), "{name} has no device work");
    Some(all)
}

#[test]
fn consistent_single_ranks_replay_to_their_recorded_span() {
    const CONSISTENT: [&str; 13] = [
        "hta/amd_trace",
        "hta/critical_path/alexnet",
        "hta/critical_path/cuda_event_sync",
        "hta/critical_path/cuda_event_sync_multi_stream",
        "hta/critical_path/end_to_end/simple_add",
        "hta/critical_path/simple_add",
        "hta/nccl_parser_config",
        "hta/ns_resolution_trace",
        "hta/trace_diff/control",
        "hta/triton_example",
        "kineto_tb",
        "tracelens/b200",
        "tracelens/h100",
    ];
    for name in CONSISTENT.into_iter().chain([
        "tracelens/mi300/Falconsai_nsfw_image_detection__1016002.json.gz",
        "tracelens/mi300/gaunernst_bert-small-uncased__1016001.json.gz",
    ]) {
        let Some(replays) = replays(name) else { return };
        for (file, replay) in replays {
            let share = replay.ranks[0].unexplained_share();
            assert!(share.abs() <= TOLERANCE, "{file}: {:.3} %", 100.0 * share);
        }
    }
}

#[test]
fn what_a_recording_does_not_explain_is_reported_and_not_copied() {
    // A server that waited for work of another process, which is not recorded; and a profile
    // without any launch.
    for name in ["tracelens/inference", "ascend_msinsight/data/pytorch/text/level0"] {
        let Some(replays) = replays(name) else { return };
        for (file, replay) in replays {
            let share = replay.ranks[0].unexplained_share();
            assert!(share > TOLERANCE, "{file}: {:.3} %", 100.0 * share);
        }
    }
}

#[test]
fn a_third_of_the_kernels_without_a_launch_follow_what_ended_before_them() {
    // Rank 0 of 8, a third of its kernels launched out of sight: their waits are inferred.
    let name = "tracelens/mi300/resnet_act_checkpoint.json.gz";
    let Some(replays) = replays(name) else { return };
    for (file, replay) in replays {
        assert!(replay.notes.orphans > 900, "{:?}", replay.notes);
        let share = replay.ranks[0].unexplained_share();
        assert!(share.abs() <= TOLERANCE, "{file}: {:.3} %", 100.0 * share);
    }
}

#[test]
fn ascend_text_replays_like_the_database() {
    // Start times of the two files of a folder differ by a nanosecond here and there; collectives
    // that are not joined for it have no launch, and their ranks no common clock. The copies that a
    // collective is made of are not work of their own.
    let Some(path) = corpus("ascend_msinsight/data/pytorch/text/level2") else { return };
    let imported = import(&[path], false).unwrap();
    for ranks in imported.traces.traces() {
        let replay = replay_recorded(ranks).unwrap();
        println!("{:?}", replay.notes);
        assert_eq!((ranks.len(), replay.notes.meetings, replay.notes.orphans), (2, 4, 0));
        for rank in &replay.ranks {
            let share = rank.unexplained_share();
            println!("rank {} {:+.3} %", rank.rank, 100.0 * share);
            assert!(share.abs() <= TOLERANCE, "rank {}: {:.3} %", rank.rank, 100.0 * share);
        }
    }
}

#[test]
fn ranks_that_ran_together_meet_and_wait_again() {
    // Eight ranks whose collectives are almost all waiting: the replay gives every member the
    // shortest transfer and derives the waiting from when the others arrive.
    let Some(path) = corpus("param/dlrm_kineto.tar.gz") else { return };
    let imported = import(&[path], false).unwrap();
    for ranks in imported.traces.traces() {
        let replay = replay_recorded(ranks).unwrap();
        assert_eq!((ranks.len(), replay.notes.meetings), (8, 8));
        for rank in &replay.ranks {
            let share = rank.unexplained_share();
            println!("DLRM rank {}: {:+.3} % of its span (target 2)", rank.rank, 100.0 * share);
            assert!(share.abs() <= TOLERANCE, "rank {}: {:.3} %", rank.rank, 100.0 * share);
        }
    }
}
